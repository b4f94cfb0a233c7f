using System.Diagnostics;
using Native.Kernels;

namespace Native.Scheduling;

/// <summary>One model served: submissions in, token streams out, and one thread between them that owns all scheduling state.</summary>
/// <remarks>
/// Any thread may submit, cancel, drain or read metrics. Between submit and token there is no lock: a bounded ring in
/// (<see cref="Inbox{T}"/>), an append-only log out (<see cref="TokenLog"/>). The engine thread sleeps in the kernel only when it has nothing
/// to do, and only then does a submitter touch the event it sleeps on; while it is busy a submission costs a few atomic operations.
/// </remarks>
public sealed class Engine : IDisposable
{
    private readonly IModelRunner _runner;
    private readonly int[] _endIds;
    private readonly EngineOptions _options;
    private readonly int _maxRunning;
    private readonly TimeSpan _idleBeat; // how long the idle thread sleeps before it shows its heartbeat again
    private readonly TimeProvider _clock; // the system's counts in Stopwatch ticks
    private readonly Scheduler _scheduler;
    private readonly BatchBuilder _batch;
    private readonly Inbox<TokenStream> _inbox;
    private readonly Thread? _thread;

    private readonly AutoResetEvent _wake = new(false);
    private readonly TaskCompletionSource<bool> _drained = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private PaddedLong _queued;  // submitted and neither scheduled nor ended
    private PaddedLong _signals; // counts cancellations, stops and drains, so that a turn without news looks at one number
    private int _parked;
    private long _drainDeadline = long.MaxValue;
    private int _draining;
    private int _disposed;
    private int _stopped; // the thread takes no more from the inbox
    private long _heartbeat;
    private long _retryTicks = Stopwatch.Frequency;
    private Exception? _lastFailure;

    // The engine thread's.
    private long _seenSignals;
    private bool _abortedAll;
    private bool _decoded; // the turn's step was of decodes alone, and went well

    /// <summary>Starts the engine thread.</summary>
    /// <param name="runner">The model. The engine calls it from its own thread and does not dispose it; dispose the engine first.</param>
    /// <param name="endIds">Ids that end a choice: the model's end of text, end of turn and the like.</param>
    /// <param name="options">Limits. Where the runner was loaded with smaller ones, those hold.</param>
    /// <exception cref="ArgumentException">The options are wrong, with every mistake named.</exception>
    public Engine(IModelRunner runner, IReadOnlyCollection<int> endIds, EngineOptions options)
        : this(runner, endIds, options, startThread: true)
    {
    }

    internal Engine(IModelRunner runner, IReadOnlyCollection<int> endIds, EngineOptions options, bool startThread, TimeSpan? idleBeat = null, TimeProvider? clock = null)
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
        if (maxBatchedTokens < _maxRunning) throw new ArgumentException($"{maxBatchedTokens} tokens per step are fewer than {_maxRunning} sequences: a full batch could not decode one token each.", nameof(options));
        int maxBlocks = (int)Math.Min(Sequence.BlocksFor(info.MaxModelLength, info.BlockSize), info.BlockCount);
        Metrics = new EngineMetrics(info.BlockCount);
        _scheduler = new Scheduler(new BlockPool(info.BlockCount), Metrics, _endIds, info.BlockSize, _maxRunning, maxBatchedTokens, options.MaxPreemptions, options.Seed);
        _batch = new BatchBuilder(maxBatchedTokens, _maxRunning, maxBlocks, info.BlockSize, _endIds);
        _inbox = new Inbox<TokenStream>(options.MaxQueued);
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

    /// <summary>When the engine thread last began a turn, as a <see cref="Stopwatch"/> timestamp. Idle or busy with short steps it is at most about a second old.</summary>
    public long Heartbeat => Volatile.Read(ref _heartbeat);

    /// <summary>True once <see cref="Drain"/> or <see cref="Dispose"/> was called.</summary>
    public bool IsDraining => Volatile.Read(ref _draining) != 0;

    /// <summary>Requests submitted that have not had their first step.</summary>
    public int Queued => (int)Volatile.Read(ref _queued.Value);

    /// <summary>When a refused caller had better try again: about when a place in the queue is free, from the mean time of recent requests. 0.1 to 60 seconds.</summary>
    public TimeSpan RetryAfter => TimeSpan.FromSeconds(Math.Clamp((double)Volatile.Read(ref _retryTicks) / Stopwatch.Frequency, 0.1, 60));

    /// <summary>What the last failed step threw, for the log; <see cref="EngineMetrics.FailedSteps"/> counts them.</summary>
    public Exception? LastFailure => Volatile.Read(ref _lastFailure);

    internal Scheduler Scheduler => _scheduler;

    /// <summary>Adds a sentence for everything in <paramref name="request"/> that <see cref="Submit"/> would call <see cref="SubmitOutcome.Invalid"/>.</summary>
    public void Validate(GenerationRequest request, ICollection<string> errors)
    {
        int vocabulary = Info.VocabularySize;
        request.Sampling.Validate(vocabulary, errors);
        if (request.Ids.IsEmpty) errors.Add("The prompt is empty; it must have at least one token.");
        if (request.Sampling.N > _maxRunning) errors.Add($"n is {request.Sampling.N}, above the {_maxRunning} sequences this engine computes together.");
        foreach (int id in request.Ids.Span)
        {
            if ((uint)id < (uint)vocabulary) continue;
            errors.Add($"The prompt has token {id}; ids are 0 to {vocabulary - 1}.");
            break;
        }
    }

    /// <summary>Queues a request. Any thread; does not block.</summary>
    /// <param name="request">The prompt and how to continue it.</param>
    /// <param name="stream">Where its tokens come, if and only if the outcome is <see cref="SubmitOutcome.Accepted"/>.</param>
    /// <remarks>A choice ends with <see cref="FinishReason.Length"/> at the model's length whatever <see cref="SamplingParams.MaxTokens"/> says, and where that is null
    /// also when the whole pool could not hold more. A deadline that has passed is accepted and ends the request at once.</remarks>
    public SubmitOutcome Submit(GenerationRequest request, out TokenStream? stream)
    {
        stream = null;
        if (IsDraining) return SubmitOutcome.Draining;
        List<string> errors = [];
        Validate(request, errors);
        if (errors.Count > 0) return SubmitOutcome.Invalid;
        ModelInfo info = Info;
        int prompt = request.Ids.Length;
        int? maxTokens = request.Sampling.MaxTokens;
        if (prompt + (maxTokens == 0 ? 0 : 1) > info.MaxModelLength) return SubmitOutcome.TooLong;

        // The last token of a choice is never computed, so it needs no slot.
        int limit = Math.Min(maxTokens ?? int.MaxValue, info.MaxModelLength - prompt);
        long slots = (long)info.BlockCount * info.BlockSize;
        if (maxTokens is null) limit = (int)Math.Min(limit, slots - prompt + 1);
        if (prompt + (long)Math.Max(limit - 1, 0) > slots) return SubmitOutcome.NeverFits;

        if (Interlocked.Increment(ref _queued.Value) > _options.MaxQueued)
        {
            Interlocked.Decrement(ref _queued.Value);
            return SubmitOutcome.QueueFull;
        }
        TokenStream created = new(this, request, _clock.GetTimestamp(), limit, info.BlockSize);
        if (!_inbox.TryEnqueue(created)) // as many cells as may be queued, but one may not have been handed back yet
        {
            Interlocked.Decrement(ref _queued.Value);
            return SubmitOutcome.QueueFull;
        }
        Unpark();
        // The fence in Unpark orders our enqueue before this load, as the thread's last look into the inbox comes after its
        // store: either it finds the request, or we see that it won't.
        if (Volatile.Read(ref _stopped) != 0) return SubmitOutcome.Draining;
        stream = created;
        return SubmitOutcome.Accepted;
    }

    /// <summary>Takes nothing new, lets what is queued or running end, and aborts what has not ended after <paramref name="timeout"/>.</summary>
    /// <returns>True where everything ended by itself.</returns>
    /// <remarks>A second call may shorten the time of the first, not lengthen it.</remarks>
    public Task<bool> Drain(TimeSpan timeout)
    {
        long deadline = timeout < TimeSpan.Zero || timeout.TotalSeconds > int.MaxValue ? long.MaxValue - 1 : _clock.GetTimestamp() + (long)(timeout.TotalSeconds * Stopwatch.Frequency);
        long before = Volatile.Read(ref _drainDeadline);
        while (deadline < before)
        {
            long seen = Interlocked.CompareExchange(ref _drainDeadline, deadline, before);
            if (seen == before) break;
            before = seen;
        }
        Interlocked.Exchange(ref _draining, 1);
        NoteSignal();
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

    /// <summary>Tells the engine thread that a cancellation, a stop or a drain waits. Any thread.</summary>
    internal void NoteSignal()
    {
        Interlocked.Increment(ref _signals.Value);
        Unpark();
    }

    /// <summary>One turn of the loop: news, then a step. False where there was nothing to compute. The engine thread's.</summary>
    internal bool Turn()
    {
        long now = _clock.GetTimestamp();
        long allocated = GC.GetAllocatedBytesForCurrentThread();
        Volatile.Write(ref _heartbeat, now);
        _decoded = false;

        // The count is read before the inbox: whoever was cancelled before this is in the inbox or known by now, or looked at when it is added.
        long signals = Volatile.Read(ref _signals.Value);
        while (_inbox.TryDequeue(out TokenStream? stream)) _scheduler.Add(stream, now);
        if (signals != _seenSignals || now >= _scheduler.NextDeadline)
        {
            _seenSignals = signals;
            _scheduler.Sweep(now);
        }
        if (IsDraining) ContinueDrain(now);

        bool stepped = _scheduler.HasWork && Step(now);
        int dequeued = _scheduler.TakeDequeued();
        if (dequeued > 0) Interlocked.Add(ref _queued.Value, -dequeued);
        _scheduler.UpdateGauges();
        if (_decoded)
        {
            Metrics.DecodeSteps++;
            Metrics.DecodeStepAllocatedBytes += GC.GetAllocatedBytesForCurrentThread() - allocated;
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

    private bool Step(long now)
    {
        bool decodes;
        try
        {
            ReadOnlySpan<ScheduledChunk> plan = _scheduler.Step(now);
            if (plan.IsEmpty)
            {
                Debug.Assert(_scheduler.CheckIntegrity() is null, "work without a plan");
                throw new InvalidOperationException("There is work, but the oldest sequence could not be scheduled.");
            }
            decodes = _scheduler.Prefilling.First is null; // whoever was admitted prefills
            if (_scheduler.Admitted) _batch.Reserve(_scheduler.Decoding, _scheduler.Prefilling);
            _batch.Build(plan);
            foreach (BlockCopy copy in _scheduler.Copies) _runner.CopyBlock(copy.Source, copy.Destination);
            _runner.Execute(_batch.Batch, _batch.Sampled, _batch.Alternatives);
        }
        catch (Exception e)
        {
            Fail(e);
            return true;
        }

        long done = _clock.GetTimestamp();
        try
        {
            _scheduler.Commit(_batch.Sampled, _batch.Alternatives, done);
        }
        catch (Exception e)
        {
            FailEveryone(e);
            return true;
        }
        foreach (ref readonly ScheduledChunk chunk in _scheduler.Plan)
            if (chunk.Samples) chunk.Sequence.Stream.Signal();

        _decoded = decodes;
        Metrics.Steps++;
        Metrics.StepTokens.Observe(_batch.TokenCount);
        Metrics.StepSequences.Observe(_scheduler.Plan.Length);
        Metrics.StepTime.Observe(_clock.GetTimestamp() - now);
        Volatile.Write(ref _retryTicks, (long)(_scheduler.MeanRequestTicks / _maxRunning));
        return true;
    }

    /// <summary>Ends the failed step's sequences; everyone where there was no plan to blame, or the blocks don't add up any more.</summary>
    private void Fail(Exception e)
    {
        if (_scheduler.Plan.IsEmpty)
        {
            FailEveryone(e);
            return;
        }
        Note(e);
        try
        {
            _scheduler.FailPlan(_clock.GetTimestamp());
            if (_scheduler.CheckIntegrity() is { } contradiction) FailEveryone(new InvalidOperationException($"After a failed step: {contradiction}.", e));
        }
        catch (IndexOutOfRangeException broken) // block tables or counts that point nowhere
        {
            FailEveryone(broken);
        }
    }

    private void FailEveryone(Exception e)
    {
        Note(e);
        _scheduler.FailEveryone(_clock.GetTimestamp());
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
        if (!_scheduler.HasWork && _inbox.IsEmpty) _drained.TrySetResult(!_abortedAll);
    }

    /// <summary>Ends everyone, and whoever slipped in last.</summary>
    private void Close()
    {
        Interlocked.Exchange(ref _stopped, 1); // a full fence, see Submit
        long now = _clock.GetTimestamp();
        while (_inbox.TryDequeue(out TokenStream? stream)) _scheduler.Add(stream, now);
        _abortedAll |= _scheduler.HasWork;
        _scheduler.FinishEveryone(FinishReason.Aborted, now);
        _scheduler.UpdateGauges();
        _drained.TrySetResult(!_abortedAll);
    }

    /// <summary>Sleeps until there is news, half a second at most, so that the heartbeat goes on.</summary>
    private void Park()
    {
        Interlocked.Exchange(ref _parked, 1);
        // A full fence lies between announcing the sleep and this last look, as one lies in Unpark between the news and its look at
        // _parked: one of the two sees the other (Dekker).
        if (_inbox.IsEmpty && Volatile.Read(ref _signals.Value) == _seenSignals) _wake.WaitOne(_idleBeat);
        Interlocked.Exchange(ref _parked, 0);
    }

    private void Unpark()
    {
        Interlocked.MemoryBarrier();
        if (Volatile.Read(ref _parked) != 0 && Interlocked.Exchange(ref _parked, 0) != 0) _wake.Set();
    }
}
