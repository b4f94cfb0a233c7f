using System.Diagnostics;
using System.Threading.Tasks.Sources;
using Native.Kernels;

namespace Native.Scheduling;

/// <summary>One model served: submissions in, token streams out, and one thread between them that owns all scheduling
/// state.</summary>
/// <remarks>
/// Any thread may submit, cancel, drain or read metrics. Between submit and token there is no lock: a bounded ring in
/// (<see cref="Inbox{T}"/>), an append-only log out (<see cref="TokenLog"/>). The engine thread sleeps in the kernel
/// only when it has nothing to do, and only then does a submitter touch the event it sleeps on; while it is busy a
/// submission costs a few atomic operations.
/// <para>Progress. A submission is lock-free (<see cref="Inbox{T}"/> says what that leaves out), reading a stream or a
/// metric wait-free. Blocking, on purpose: the idle engine thread, <see cref="Dispose"/>, which waits for it, and
/// setting the event of a sleeping engine, which is the kernel's.</para>
/// </remarks>
public sealed class Engine : IDisposable
{
    private readonly IModelRunner _runner;
    private readonly int[] _endIds;
    private readonly EngineOptions _options;
    private readonly int _maxRunning;
    private readonly Admission _admission;
    private readonly StepPlan[] _plans; // a ring of as many as may be in flight
    private readonly TimeSpan _idleBeat; // how long the idle thread sleeps before it shows its heartbeat again
    private readonly TimeProvider _clock; // the system's counts in Stopwatch ticks
    private readonly Scheduler _scheduler;
    private readonly StepTimeModel _times;
    private readonly PrefixCache? _cache;
    private readonly SeqLock<RunningStep> _running = new(default); // number 0 for none
    private long _lastDone; // when the step before was through
    private long _launches; // steps launched so far
    private readonly BatchBuilder _batch;
    private readonly Inbox<TokenStream> _inbox;
    private readonly Thread? _thread;

    private readonly AutoResetEvent _wake = new(false);
    private readonly TaskCompletionSource<bool> _drained = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly SignalStack _signals = new(); // streams cancelled or stopped
    private int _parked;
    private long _drainDeadline = long.MaxValue;
    private int _draining;
    private int _disposed;
    private int _stopped; // the thread takes no more from the inbox
    private long _heartbeat;
    private Exception? _lastFailure, _fault;

    // The engine thread's.
    private bool _abortedAll;
    private bool _decoded; // the turn's step was of decodes alone, and went well
    private long _iterated; // tokens of prompts and generated, told in IterationTokens
    private int _oldest;   // index in the ring of plans
    private int _inFlight; // plans launched and not collected

    /// <summary>Starts the engine thread.</summary>
    /// <param name="runner">The model. The engine calls it from its own thread and does not dispose it; dispose the
    /// engine first.</param>
    /// <param name="endIds">Ids that end a choice: the model's end of text, end of turn and the like.</param>
    /// <param name="options">Limits. Where the runner was loaded with smaller ones, those hold.</param>
    /// <exception cref="ArgumentException">The options are wrong, with every mistake named.</exception>
    public Engine(IModelRunner runner, IReadOnlyCollection<int> endIds, EngineOptions options)
        : this(runner, endIds, options, startThread: true)
    {
    }

    internal Engine(
        IModelRunner runner, IReadOnlyCollection<int> endIds, EngineOptions options, bool startThread,
        TimeSpan? idleBeat = null, TimeProvider? clock = null)
    {
        _clock = clock ?? TimeProvider.System;
        _heartbeat = _clock.GetTimestamp();
        _idleBeat = idleBeat ?? TimeSpan.FromSeconds(0.5);
        List<string> errors = [];
        options.Validate(errors);
        if (errors.Count > 0) throw new ArgumentException(string.Join(" ", errors), nameof(options));
        ModelInfo info = runner.Info;
        _runner = runner;
        _endIds = [.. endIds];
        _options = options;
        _maxRunning = Math.Min(options.MaxRunning, info.MaxSequences);
        int maxBatchedTokens = Math.Min(options.MaxBatchedTokens, info.MaxBatchedTokens);
        if (maxBatchedTokens < _maxRunning)
        {
            throw new ArgumentException($"{maxBatchedTokens} tokens per step are fewer than {_maxRunning} sequences: "
                + "a full batch could not decode one token each.", nameof(options));
        }
        Metrics = new EngineMetrics(info.BlockCount, options.Budgets);
        StepTimeModel times = _times = new StepTimeModel();
        Tenants = new Tenants(options);
        StepBudget budget = new(maxBatchedTokens, leastChunk: info.BlockSize, options, times);
        _admission = new Admission(info, options, _maxRunning, Tenants, budget, times);
        // Numbers higher than those of an engine before this one, so that nobody takes up where that ended.
        CacheEvents = options.CacheEvents
            ? new(info.BlockCount, info.BlockSize, _clock.GetUtcNow().ToUnixTimeMilliseconds() * 1000) : null;
        PrefixCache? cache = _cache =
            options.PrefixCaching ? new PrefixCache(info.BlockCount, info.BlockSize, CacheEvents) : null;
        LiveSequences live = new(
            new BlockPool(info.BlockCount, cache), new WaitingLine(apart: options.Policy == SchedulingPolicy.Slo),
            _maxRunning, info.BlockSize);
        Ordering order = new(options, tokens => times.Predict(default(StepLoad).PlusPrefill(0, tokens)), _heartbeat);
        _scheduler = new Scheduler(live, _admission, Metrics, budget, order, _endIds, info.BlockSize, options.Seed);
        _batch = new BatchBuilder(info, maxBatchedTokens, _maxRunning, _endIds);
        _plans = [.. Enumerable.Range(0, Math.Max(1, info.StepsInFlight)).Select(_ => new StepPlan(_maxRunning))];
        _inbox = new Inbox<TokenStream>(options.MaxQueued);
        // The first result that comes before its reader waits makes a delegate for all later ones: here, not in a step.
        ManualResetValueTaskSourceCore<bool> early = default;
        early.SetResult(true);
        if (!startThread) return;
        _thread = new Thread(Run) { Name = "native-engine", IsBackground = true };
        _thread.Start();
    }

    /// <summary>The model and its limits.</summary>
    public ModelInfo Info => _runner.Info;

    /// <summary>The limits it works with.</summary>
    public EngineOptions Options => _options;

    /// <summary>Counters, gauges and histograms.</summary>
    public EngineMetrics Metrics { get; }

    /// <summary>When the engine thread last began a turn, as a <see cref="Stopwatch"/> timestamp. Idle or busy with
    /// short steps it is at most about a second old.</summary>
    public long Heartbeat => Volatile.Read(ref _heartbeat);

    /// <summary>The step that the engine thread waits for; null where it waits for none. Any thread.</summary>
    public RunningStep? RunningStep => _running.Read() is { Number: > 0 } step ? step : null;

    /// <summary>What the prefix cache holds and how that changes; null unless
    /// <see cref="EngineOptions.CacheEvents"/>.</summary>
    public CacheEvents? CacheEvents { get; }

    /// <summary>True once <see cref="Drain"/> or <see cref="Dispose"/> was called.</summary>
    public bool IsDraining => Volatile.Read(ref _draining) != 0;

    /// <summary>Requests submitted that have not had their first step.</summary>
    public int Queued => _admission.Queued;

    /// <summary>Tokens of their prompts.</summary>
    public long QueuedTokens => Tenants.QueuedTokens;

    /// <summary>When a refused caller had better try again: about when a place in the queue is free, from the mean time
    /// of recent requests. 0.1 to 60 seconds.</summary>
    public TimeSpan RetryAfter => _admission.RetryAfter;

    /// <summary>What the last failed step threw, for the log; <see cref="EngineMetrics.FailedSteps"/> counts
    /// them.</summary>
    public Exception? LastFailure => Volatile.Read(ref _lastFailure);

    /// <summary>What broke the runner for good; null while it computes. From then on everyone ends with
    /// <see cref="FinishReason.Error"/> and nobody is let in: another engine must take its place, with other blocks and
    /// another prefix cache, since what these held is lost. Any thread.</summary>
    public Exception? Fault => Volatile.Read(ref _fault);

    /// <summary>What the tenants have that <see cref="EngineOptions.Tenants"/> names. Any thread.</summary>
    public IReadOnlyList<TenantState> ReadTenants() => Tenants.Read();

    /// <summary>Who sends requests.</summary>
    internal Tenants Tenants { get; }

    internal Scheduler Scheduler => _scheduler;

    /// <summary>What steps take, as far as is known. The engine thread's.</summary>
    internal StepTimeModel Times => _times;

    /// <summary>Adds a sentence for everything in <paramref name="request"/> that
    /// <see cref="Submit(GenerationRequest, out TokenStream?)"/> would call
    /// <see cref="SubmitOutcome.Invalid"/>.</summary>
    public void Validate(GenerationRequest request, ICollection<string> errors)
    {
        int vocabulary = Info.VocabularySize;
        request.Sampling.Validate(vocabulary, errors);
        if (request.Ids.IsEmpty) errors.Add("The prompt is empty; it must have at least one token.");
        if (request.Sampling.N > _maxRunning && request.Sampling.N <= SamplingParams.MaxN)
            errors.Add($"n is {request.Sampling.N}, above the {_maxRunning} sequences this engine computes together.");
        if (request.Tenant.Length > TenantSpec.MaxName)
        {
            errors.Add($"The tenant's name has {request.Tenant.Length} characters, more than {TenantSpec.MaxName}.");
        }
        foreach (int id in request.Ids.Span)
        {
            if ((uint)id < (uint)vocabulary) continue;
            errors.Add($"The prompt has token {id}; ids are 0 to {vocabulary - 1}.");
            break;
        }
    }

    /// <summary>Queues a request. Any thread; does not block.</summary>
    /// <param name="request">The prompt and how to continue it.</param>
    /// <param name="stream">Where its tokens come, if and only if the outcome is
    /// <see cref="SubmitOutcome.Accepted"/>.</param>
    /// <remarks>A choice ends with <see cref="FinishReason.Length"/> at the model's length whatever
    /// <see cref="SamplingParams.MaxTokens"/> says, and where that is null also when the whole pool could not hold
    /// more. A deadline that has passed is accepted and ends the request at once.</remarks>
    public SubmitOutcome Submit(GenerationRequest request, out TokenStream? stream) =>
        Submit(request, out stream, out _);

    /// <inheritdoc cref="Submit(GenerationRequest, out TokenStream?)"/>
    /// <param name="request">The prompt and how to continue it.</param>
    /// <param name="stream">Where its tokens come.</param>
    /// <param name="refusal">When to try again, where the outcome is <see cref="SubmitOutcome.QueueFull"/>,
    /// <see cref="SubmitOutcome.WouldBeLate"/>, <see cref="SubmitOutcome.OverQuota"/> or
    /// <see cref="SubmitOutcome.Shed"/>.</param>
    public SubmitOutcome Submit(GenerationRequest request, out TokenStream? stream, out Refusal refusal)
    {
        SubmitOutcome outcome = Submit([request], out TokenStream[] streams, out _, out refusal);
        stream = streams.FirstOrDefault();
        return outcome;
    }

    /// <summary>Queues requests of one tenant: all of them or none. Any thread; does not block.</summary>
    /// <param name="requests">At least one. Together they take of the tenant's quota what a single one that long
    /// would.</param>
    /// <param name="streams">A stream for each, where the outcome is <see cref="SubmitOutcome.Accepted"/>; else
    /// none.</param>
    /// <param name="refused">Which of them the outcome is of, where it is another.</param>
    /// <param name="refusal">When to try again, likewise.</param>
    public SubmitOutcome Submit(
        IReadOnlyList<GenerationRequest> requests, out TokenStream[] streams, out int refused, out Refusal refusal)
    {
        SubmitOutcome outcome = Enter(requests, out streams, out refused, out refusal);
        if (outcome == SubmitOutcome.Accepted) return outcome;
        streams = [];
        Tenants.CountRefused(requests[0].Tenant, outcome, requests.Count);
        // Refused though they could have been served: bad for every objective that speaks of them.
        if (outcome is SubmitOutcome.QueueFull or SubmitOutcome.WouldBeLate)
            foreach (GenerationRequest request in requests)
                _options.Budgets?.Refuse(request.Class.Name(), request.Tenant);
        return outcome;
    }

    private SubmitOutcome Enter(
        IReadOnlyList<GenerationRequest> requests, out TokenStream[] streams, out int refused, out Refusal refusal)
    {
        refusal = default;
        SubmitOutcome outcome = Check(requests, out refused);
        streams = outcome == SubmitOutcome.Accepted ? new TokenStream[requests.Count] : [];
        if (outcome != SubmitOutcome.Accepted) return outcome;
        long now = _clock.GetTimestamp();
        Tenant tenant = Tenants.Of(requests[0].Tenant);
        int tokens = requests.Sum(request => request.Ids.Length), entered = 0;
        if (!_admission.TryTakeQuota(tenant, requests.Count, tokens, now, out refusal)) return SubmitOutcome.OverQuota;
        try
        {
            for (; entered < streams.Length; entered++)
            {
                refused = entered;
                outcome = Enter(requests[entered], tenant, now, out streams[entered], out refusal);
                if (outcome != SubmitOutcome.Accepted) return outcome;
            }
        }
        finally
        {
            if (entered < streams.Length)
            {
                foreach (TokenStream stream in streams.AsSpan(0, entered)) _admission.Withdraw(stream);
                tenant.GiveBack(requests.Count, tokens);
            }
        }
        return Enqueue(streams, tenant, ref refusal);
    }

    /// <summary>Whether requests can ever be served.</summary>
    private SubmitOutcome Check(IReadOnlyList<GenerationRequest> requests, out int refused)
    {
        refused = 0;
        if (Fault is not null) return SubmitOutcome.Broken;
        if (IsDraining) return SubmitOutcome.Draining;
        List<string> errors = [];
        for (; refused < requests.Count; refused++)
        {
            Validate(requests[refused], errors);
            if (errors.Count > 0) return SubmitOutcome.Invalid;
            SubmitOutcome outcome = _admission.Check(requests[refused], out _);
            if (outcome != SubmitOutcome.Accepted) return outcome;
        }
        refused = 0;
        return SubmitOutcome.Accepted;
    }

    /// <summary>A place in the queue, and a stream that is not in it yet.</summary>
    private SubmitOutcome Enter(
        GenerationRequest request, Tenant tenant, long now, out TokenStream stream, out Refusal refusal)
    {
        stream = null!;
        _admission.Check(request, out int limit);
        PromptPrefix prefix = PromptPrefix.Of(request, tenant, _cache, Info.BlockSize);
        QueuedPrompt prompt = _admission.QueuedOf(request, prefix.TokensAhead, now);
        SubmitOutcome outcome = _admission.Enter(request, now, tenant, prompt, out refusal);
        if (outcome != SubmitOutcome.Accepted) return outcome;
        try
        {
            stream = new TokenStream(this, request, now, limit, Info.BlockSize, prefix, prompt)
            {
                Foreseen = refusal.FirstToken,
            };
            refusal = default;
            return outcome;
        }
        catch // no memory for its logs, or a constraint that can't be copied
        {
            _admission.Withdraw(tenant.ShareOf(request.Class), prompt);
            throw;
        }
    }

    private SubmitOutcome Enqueue(TokenStream[] streams, Tenant tenant, ref Refusal refusal)
    {
        for (int i = 0; i < streams.Length; i++)
        {
            // as many cells as may be queued, but one may not have been handed back yet
            if (_inbox.TryEnqueue(streams[i])) continue;
            foreach (TokenStream stream in streams.AsSpan(i))
            {
                _admission.Withdraw(stream);
                tenant.GiveBack(1, stream.Prompt.Length);
            }
            foreach (TokenStream stream in streams.AsSpan(0, i)) stream.Dispose();
            refusal = new Refusal(TimeSpan.Zero, RetryAfter);
            return SubmitOutcome.QueueFull;
        }
        Tenants.Keep(tenant);
        Unpark();
        // The fence in Unpark orders our enqueue before this load, as the thread's last look into the inbox comes after
        // its store: either it finds the requests, or we see that it won't.
        if (Volatile.Read(ref _stopped) == 0) return SubmitOutcome.Accepted;
        return Fault is null ? SubmitOutcome.Draining : SubmitOutcome.Broken;
    }

    /// <summary>Takes nothing new, lets what is queued or running end, and aborts what has not ended after
    /// <paramref name="timeout"/>.</summary>
    /// <returns>True where everything ended by itself.</returns>
    /// <remarks>A second call may shorten the time of the first, not lengthen it.</remarks>
    public Task<bool> Drain(TimeSpan timeout)
    {
        bool endless = timeout < TimeSpan.Zero || timeout.TotalSeconds > int.MaxValue;
        long ticks = endless ? 0 : (long)(timeout.TotalSeconds * Stopwatch.Frequency);
        long deadline = endless ? long.MaxValue - 1 : _clock.GetTimestamp() + ticks;
        long before = Volatile.Read(ref _drainDeadline);
        while (deadline < before)
        {
            long seen = Interlocked.CompareExchange(ref _drainDeadline, deadline, before);
            if (seen == before) break;
            before = seen;
        }
        Interlocked.Exchange(ref _draining, 1);
        Unpark();
        return _drained.Task;
    }

    /// <summary>Aborts whatever runs and ends the engine thread. Streams still being read get their end.</summary>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0) return;
        Drain(TimeSpan.Zero);
        if (_thread is null) Close();
        else if (_thread != Thread.CurrentThread) _thread.Join();
        _wake.Dispose();
    }

    /// <summary>Tells the engine thread that a stream was cancelled, or a choice of it stopped. Any thread.</summary>
    internal void Signal(TokenStream stream)
    {
        _signals.Push(stream);
        Unpark();
    }

    /// <summary>One turn of the loop: news, then a step. False where there was nothing to compute. The engine
    /// thread's.</summary>
    internal bool Turn()
    {
        long now = _clock.GetTimestamp();
        int collections = GC.CollectionCount(0);
        long allocated = GC.GetAllocatedBytesForCurrentThread();
        Volatile.Write(ref _heartbeat, now);
        _decoded = false;

        _options.Budgets?.Advance(now);
        TakeNews(now);
        if (_fault is not null && _scheduler.HasWork) _scheduler.FinishEveryone(FinishReason.Error, now); // came late
        if (IsDraining) ContinueDrain(now);
        bool stepped = (_scheduler.HasWork || _inFlight > 0) && Step(now);
        _running.Write(default);
        _admission.Exit(_scheduler.TakeDequeued());
        _scheduler.UpdateGauges();
        _admission.Publish(_scheduler.Ending, _scheduler.Live, now);
        if (_decoded)
        {
            Metrics.DecodeSteps++;
            allocated = GC.GetAllocatedBytesForCurrentThread() - allocated;
            // A collection takes what is left of this thread's allocation buffer, up to 8 KB, and the runtime counts
            // that as allocated here, so a step in which another thread's collection fell tells nothing.
            if (GC.CollectionCount(0) == collections) Metrics.DecodeStepAllocatedBytes += allocated;
        }
        return stepped;
    }

    private void Run()
    {
        while (Volatile.Read(ref _disposed) == 0)
        {
            if (!Turn() && !_scheduler.HasWork) Park();
        }
        Close();
    }

    /// <summary>New requests, then who was cancelled or stopped, then who is late.</summary>
    private void TakeNews(long now)
    {
        while (_inbox.TryDequeue(out TokenStream? stream)) _scheduler.Add(stream, now);
        TokenStream? next;
        for (TokenStream? stream = _signals.TakeAll(); stream is not null; stream = next)
        {
            next = SignalStack.Unlink(stream);
            _scheduler.Apply(stream, now);
        }
        _scheduler.Expire(now);
    }

    /// <summary>Launches a step; collects the oldest where no other may be launched before, or there is nothing to
    /// launch.</summary>
    private bool Step(long now)
    {
        bool launched = false;
        StepPlan plan = _plans[(_oldest + _inFlight) % _plans.Length];
        try
        {
            launched = TryLaunch(plan, now);
        }
        catch (Exception e)
        {
            if (_runner.Fault is { } fault) Break(fault);
            else Fail(plan, e);
            return true;
        }
        if (_inFlight > 0 && (!launched || _inFlight == _plans.Length)) Collect();
        return true;
    }

    /// <summary>False where nobody can be computed before a step in flight is through.</summary>
    private bool TryLaunch(StepPlan plan, long now)
    {
        _scheduler.Step(plan, now);
        if (plan.IsEmpty)
        {
            if (_inFlight > 0) return false;
            if (plan.AwaitsMask)
            {
                Thread.Yield(); // the mask is being computed on another thread
                return false;
            }
            Debug.Assert(_scheduler.CheckIntegrity() is null, "work without a plan");
            throw new InvalidOperationException("There is work, but the oldest sequence could not be scheduled.");
        }
        if (plan.Admitted) _batch.Reserve(_scheduler.Live);
        _scheduler.UpdateGauges(); // a step may take seconds
        _batch.Build(plan);
        plan.Launched = _clock.GetTimestamp();
        plan.Number = ++_launches;
        Watch(plan);
        _runner.Launch(_batch.Batch);
        _inFlight++;
        return true;
    }

    /// <summary>Says for which step this thread is about to wait.</summary>
    private void Watch(StepPlan plan) => _running.Write(new RunningStep(
        plan.Number, Math.Max(plan.Launched, _lastDone), TimeSpan.FromSeconds(_times.PredictHigh(plan.Load)),
        plan.Chunks.Length, plan.Load.PrefillTokens, plan.Decodes));

    /// <summary>Waits for the oldest step and takes in what it gave.</summary>
    private void Collect()
    {
        StepPlan plan = _plans[_oldest];
        try
        {
            Watch(plan);
            _runner.Collect(_batch.Sampled(plan), _batch.Alternatives(plan));
        }
        catch (Exception e)
        {
            if (_runner.Fault is { } fault) Break(fault);
            else FailInFlight(e);
            return;
        }
        _oldest = (_oldest + 1) % _plans.Length;
        _inFlight--;

        long done = _clock.GetTimestamp();
        // A step that was launched before the last one ended began when that ended.
        double seconds = (double)(done - Math.Max(plan.Launched, _lastDone)) / Stopwatch.Frequency;
        _lastDone = done;
        plan.OnlineSeconds = plan.Load == plan.OnlineLoad ? seconds
            : seconds * _times.Predict(plan.OnlineLoad) / _times.Predict(plan.Load);
        _times.Observe(plan.Load, seconds);
        _admission.Forecast.Observe(seconds, plan.Load, _scheduler.ComputesPrompts);
        try
        {
            _scheduler.Commit(plan, _batch.Sampled(plan), _batch.Alternatives(plan), done);
        }
        catch (Exception e)
        {
            FailEveryone(e);
            return;
        }
        foreach (ref readonly ScheduledChunk chunk in plan.Chunks)
            if (chunk.Samples) chunk.Sequence.Stream.Signal();

        _decoded = plan.DecodesOnly;
        Metrics.Steps++;
        Metrics.StepTokens.Observe(plan.Tokens);
        ObserveIteration();
        Metrics.StepSequences.Observe(plan.Chunks.Length);
        Metrics.StepTime.Observe(_clock.GetTimestamp() - plan.Decided);
    }

    /// <summary>Counts the tokens that came since the step before: of prompts and generated.</summary>
    private void ObserveIteration()
    {
        long total = Metrics.PromptTokens + Metrics.GeneratedTokens, brought = total - _iterated;
        _iterated = total;
        if (brought > 0) Metrics.IterationTokens.Observe(brought);
    }

    /// <summary>Ends the sequences of a step that could not be launched; everyone where there was no plan to blame, or
    /// the blocks don't add up any more.</summary>
    private void Fail(StepPlan plan, Exception e)
    {
        if (plan.IsEmpty)
        {
            FailEveryone(e);
            return;
        }
        Note(e);
        FailSequences([plan], e);
    }

    /// <summary>Ends the sequences of the step whose collection failed, and of those launched after it: the runner has
    /// dropped them all.</summary>
    private void FailInFlight(Exception e)
    {
        Note(e);
        StepPlan[] launched = [.. Enumerable.Range(0, _inFlight).Select(i => _plans[(_oldest + i) % _plans.Length])];
        _inFlight = 0;
        FailSequences(launched, e);
    }

    /// <summary>Ends everyone, the waiting too, and calls the runner no more: it can't be collected from either.
    /// </summary>
    private void Break(Exception fault)
    {
        Note(fault);
        Volatile.Write(ref _fault, fault); // before anybody's end is seen, who may ask why
        _inFlight = 0;
        _scheduler.FailEveryone(_plans, _clock.GetTimestamp());
        CacheEvents?.End();
    }

    private void FailSequences(ReadOnlySpan<StepPlan> plans, Exception e)
    {
        try
        {
            foreach (StepPlan plan in plans) _scheduler.Fail(plan, _clock.GetTimestamp());
            if (_scheduler.CheckIntegrity() is { } contradiction)
                FailEveryone(new InvalidOperationException($"After a failed step: {contradiction}.", e));
        }
        catch (IndexOutOfRangeException broken) // block tables or counts that point nowhere
        {
            FailEveryone(broken);
        }
    }

    private void FailEveryone(Exception e)
    {
        Note(e);
        DropInFlight();
        _scheduler.FailEveryone(_plans, _clock.GetTimestamp());
    }

    /// <summary>Collects what was launched, without looking at it.</summary>
    private void DropInFlight()
    {
        for (; _inFlight > 0; _inFlight--, _oldest = (_oldest + 1) % _plans.Length)
        {
            try
            {
                Watch(_plans[_oldest]);
                _runner.Collect(_batch.Sampled(_plans[_oldest]), _batch.Alternatives(_plans[_oldest]));
            }
            catch (Exception e) // the runner has dropped the others with it
            {
                Note(e);
                _inFlight = 1;
            }
        }
    }

    private void Note(Exception e)
    {
        Volatile.Write(ref _lastFailure, e);
        Metrics.FailedSteps++;
    }

    private void ContinueDrain(long now)
    {
        if (_scheduler.HasWork && now >= Volatile.Read(ref _drainDeadline))
        {
            _abortedAll = true;
            _scheduler.FinishEveryone(FinishReason.Aborted, now);
        }
        if (!_scheduler.HasWork && _inFlight == 0 && _inbox.IsEmpty) _drained.TrySetResult(!_abortedAll);
    }

    /// <summary>Ends everyone, and whoever slipped in last.</summary>
    private void Close()
    {
        Interlocked.Exchange(ref _stopped, 1); // a full fence, see Submit
        long now = _clock.GetTimestamp();
        while (_inbox.TryDequeue(out TokenStream? stream)) _scheduler.Add(stream, now);
        _abortedAll |= _scheduler.HasWork;
        _scheduler.FinishEveryone(FinishReason.Aborted, now);
        while (_inFlight > 0) Collect();
        _admission.Exit(_scheduler.TakeDequeued());
        _options.Budgets?.Advance(now);
        _scheduler.UpdateGauges();
        _drained.TrySetResult(!_abortedAll);
    }

    /// <summary>Sleeps until there is news, half a second at most, so that the heartbeat goes on.</summary>
    private void Park()
    {
        Interlocked.Exchange(ref _parked, 1);
        // A full fence lies between announcing the sleep and this last look, as one lies in Unpark between the news and
        // its look at
        // _parked: one of the two sees the other (Dekker).
        if (_inbox.IsEmpty && _signals.IsEmpty && (!IsDraining || _drained.Task.IsCompleted)
            && Volatile.Read(ref _disposed) == 0)
#pragma warning disable RS0030 // an idle engine sleeps here, and nowhere else
            _wake.WaitOne(_idleBeat);
#pragma warning restore RS0030
        Interlocked.Exchange(ref _parked, 0);
    }

    private void Unpark()
    {
        Interlocked.MemoryBarrier();
        if (Volatile.Read(ref _parked) != 0 && Interlocked.Exchange(ref _parked, 0) != 0) _wake.Set();
    }
}
