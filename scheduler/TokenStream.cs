using System.Diagnostics;
using System.Threading.Tasks.Sources;
using Native.Kernels.Sampling;
using Native.Scheduling.Slo;

namespace Native.Scheduling;

/// <summary>One request's way back: from the engine thread to one reader, without locks.</summary>
/// <remarks>
/// <code>
/// while (await stream.WaitAsync(token))
///     while (stream.TryRead(out TokenEvent e)) { ... }
/// </code>
/// One thread reads at a time. A reader that stops early calls <see cref="Cancel"/> (or disposes the stream), and its
/// blocks are free at the next step boundary. A slow reader slows nobody: see <see cref="TokenLog"/>.
/// <para>Progress. <see cref="TryRead"/> and the engine's Signal are wait-free, <see cref="Cancel"/> and
/// <see cref="Stop"/> lock-free (<see cref="SignalStack"/>) but for a sleeping engine, which they wake through the
/// kernel. Who awaits <see cref="WaitAsync"/> with a token that can be cancelled waits, on ending, for a cancellation
/// callback that is just running: the one wait of a reader, and none of the engine's.</para>
/// </remarks>
public sealed class TokenStream : IValueTaskSource<bool>, IHeapEntry, IDisposable
{
    private const int Idle = 0;
    private const int Waiting = 1;

    private readonly Engine _engine;
    private readonly TokenLog[] _logs;
    private readonly float[] _promptLogprobs;
    private readonly TokenLogprob[] _promptAlternatives;

    // The reader's.
    private readonly int[] _read;
    private readonly bool[] _finishRead;
    private int _unread;
    private int _turn;
    private CancellationTokenRegistration _registration;

    // Shared.
    private ManualResetValueTaskSourceCore<bool> _wake = new() { RunContinuationsAsynchronously = true };
    private int _waiter;   // Waiting while the reader awaits a task; whoever moves it to Idle completes the task
    private long _stopped; // bit i: the reader wants no more of choice i
    private int _cancelled;

    /// <param name="engine">Whose it is.</param>
    /// <param name="request">What is wanted.</param>
    /// <param name="now">When.</param>
    /// <param name="limit">Tokens each choice may have.</param>
    /// <param name="blockSize">Tokens of a block.</param>
    /// <param name="prefix">Whose it is, and what of its prompt may be cached.</param>
    /// <param name="queued">Its prompt as it was queued.</param>
    internal TokenStream(Engine engine, GenerationRequest request, long now, int limit, int blockSize,
        in PromptPrefix prefix, QueuedPrompt queued)
    {
        _engine = engine;
        Share = prefix.Tenant.ShareOf(request.Class);
        Class = request.Class;
        Priority = request.Priority;
        TtftTicks = Ticks(
            request.TtftObjective ?? engine.Options.ObjectiveOf(SliKind.Ttft, request.Class, request.Tenant));
        TimeSpan? tpot = engine.Options.ObjectiveOf(SliKind.Tpot, request.Class, request.Tenant);
        TpotTicks = Ticks(request.TpotObjective ?? tpot);
        AsksForMore = request.TpotObjective is { } own && !(own >= tpot);
        Prompt = request.Ids.ToArray();
        CacheRoot = prefix.Root;
        PromptChains = prefix.Chains;
        Sampling = request.Sampling;
        Deadline = request.Deadline ?? long.MaxValue;
        Queued = queued;
        Limit = limit;
        Clock = new RequestTimings
        {
            Arrival = request.ArrivalTimestamp ?? now,
            Deadline = request.Deadline ?? 0,
            PromptTokens = Prompt.Length,
        };
        int n = Sampling.N;
        _unread = n;
        Unfinished = n;
        _read = new int[n];
        _finishRead = new bool[n];
        _logs = new TokenLog[n];
        ReservedTokens = TokenLog.ReservedTokens(limit, n, Sampling.Logprobs ?? 0);
        Sequences = new Sequence[n];
        for (int i = 0; i < n; i++)
        {
            _logs[i] = new TokenLog(ReservedTokens, Sampling.Logprobs ?? 0);
            ITokenConstraint? constraint = i == 0 ? request.Constraint : request.Constraint?.Copy();
            Sequences[i] = new Sequence(this, i, blockSize, constraint);
        }
        _promptLogprobs = Sampling.PromptLogprobs is null ? [] : new float[Prompt.Length - 1];
        _promptAlternatives = new TokenLogprob[(long)_promptLogprobs.Length * (Sampling.PromptLogprobs ?? 0)];
    }

    /// <summary>Choices this stream has.</summary>
    public int N => _logs.Length;

    /// <summary>When things happened. Complete once <see cref="WaitAsync"/> has returned false.</summary>
    public RequestTimings Timings => Clock;

    /// <summary>Natural log-probability of every prompt token after the first, given those before it; empty where
    /// <see cref="SamplingParams.PromptLogprobs"/> is null. Complete once an event with a token, or with the end
    /// <see cref="FinishReason.Length"/>, was read.</summary>
    public ReadOnlySpan<float> PromptLogprobs => _promptLogprobs;

    /// <summary>The best tokens in place of prompt token <paramref name="position"/>, best first, as many as were asked
    /// for. Complete with <see cref="PromptLogprobs"/>.</summary>
    /// <param name="position">1 to the prompt's length, exclusive.</param>
    public ReadOnlySpan<TokenLogprob> PromptAlternatives(int position)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(position);
        int width = Sampling.PromptLogprobs ?? 0;
        return _promptAlternatives.AsSpan((position - 1) * width, width);
    }

    /// <summary>What <see cref="Timings"/> copies. The engine thread's.</summary>
    internal RequestTimings Clock;

    /// <summary>1 while the stream is in the engine's <see cref="SignalStack"/>, which sets it.</summary>
    internal int Signalled;

    /// <summary>The stream below in that stack.</summary>
    internal TokenStream? NextSignalled;

    /// <summary>True once the scheduler has it. The engine thread's.</summary>
    internal bool IsAdded { get; set; }

    internal int[] Prompt { get; }

    /// <summary>Who may share its blocks, see <see cref="PrefixCache.RootOf"/>.</summary>
    internal UInt128 CacheRoot { get; }

    /// <summary>Hashes of the prompt's full blocks; none where nothing is cached.</summary>
    internal ulong[] PromptChains { get; }

    /// <summary>Its prompt as it was queued.</summary>
    internal QueuedPrompt Queued { get; }

    /// <summary>When its first token was to come, from the arrival; zero where nobody asked.</summary>
    internal TimeSpan Foreseen { get; init; }

    internal SamplingParams Sampling { get; }

    internal long Deadline { get; }

    /// <inheritdoc cref="GenerationRequest.Class"/>
    internal RequestClass Class { get; }

    /// <summary>Whose it is, and of which class.</summary>
    internal Share Share { get; }

    /// <inheritdoc cref="GenerationRequest.Priority"/>
    internal int Priority { get; }

    /// <summary>When the first token is due, from the arrival; 0 where nothing was promised.</summary>
    internal long TtftTicks { get; }

    /// <summary>How much later each further token is due; 0 likewise.</summary>
    internal long TpotTicks { get; }

    /// <summary>Whether the request asks for a shorter time for a token than the server promises by itself.</summary>
    internal bool AsksForMore { get; }

    /// <summary>Tokens each choice may have.</summary>
    internal int Limit { get; }

    /// <summary>Output tokens of each choice for which room was taken at submission.</summary>
    internal int ReservedTokens { get; }

    /// <summary>The choices while they are computed. The engine thread's.</summary>
    internal Sequence[] Sequences { get; }

    /// <summary>Choices that have not ended. The engine thread's.</summary>
    internal int Unfinished { get; set; }

    /// <summary>Prompt tokens scored so far. The engine thread's.</summary>
    internal int Scored { get; set; }

    /// <summary>The gravest reason a choice ended with. The engine thread's.</summary>
    internal FinishReason Gravest { get; set; }

    internal bool IsCancelled => Volatile.Read(ref _cancelled) != 0;

    internal TokenLog Log(int index) => _logs[index];

    internal bool IsStopped(int index) => (Volatile.Read(ref _stopped) >> index & 1) != 0;

    /// <summary>Waits until <see cref="TryRead"/> has something. False once every choice's end has been read.</summary>
    /// <remarks>It may return true with nothing to read: the wake of an event that was read meanwhile, once for each
    /// event at most.</remarks>
    /// <exception cref="OperationCanceledException"><paramref name="cancellationToken"/> was cancelled. The request
    /// itself goes on: see <see cref="Cancel"/>.</exception>
    public ValueTask<bool> WaitAsync(CancellationToken cancellationToken = default)
    {
        if (_unread == 0) return new ValueTask<bool>(false);
        if (HasEvent()) return new ValueTask<bool>(true);
        if (cancellationToken.IsCancellationRequested) return ValueTask.FromCanceled<bool>(cancellationToken);

        _wake.Reset();
        short version = _wake.Version;
        // A full fence between announcing the wait and looking again, as Signal has one between publishing and looking
        // for a waiter:
        // one of the two sees the other (Dekker), so no wake is lost.
        Interlocked.Exchange(ref _waiter, Waiting);
        if (HasEvent() && TakeWaiter()) return new ValueTask<bool>(true);
        if (cancellationToken.CanBeCanceled)
        {
            _registration = cancellationToken.UnsafeRegister(
                static (state, token) => ((TokenStream)state!).CancelWait(token), this);
        }
        return new ValueTask<bool>(this, version);
    }

    /// <summary>Takes the next event, of whichever choice has one; false where there is none yet.</summary>
    public bool TryRead(out TokenEvent e)
    {
        for (int i = 0; i < _logs.Length; i++)
        {
            int index = _turn;
            // Choices take turns, so that none waits for another's text.
            _turn = index + 1 == _logs.Length ? 0 : index + 1;
            if (!_logs[index].TryRead(index, ref _read[index], ref _finishRead[index], out e)) continue;
            if (_finishRead[index]) _unread--;
            return true;
        }
        e = default;
        return false;
    }

    /// <summary>Ends every choice with <see cref="FinishReason.Cancelled"/> at the next step boundary. Any thread, any
    /// number of times.</summary>
    public void Cancel()
    {
        if (Interlocked.Exchange(ref _cancelled, 1) == 0) _engine.Signal(this);
    }

    /// <summary>Ends choice <paramref name="index"/> with <see cref="FinishReason.Stop"/> at the next step boundary,
    /// because its text has come to a stop string. Any thread.</summary>
    public void Stop(int index)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)index, (uint)_logs.Length, nameof(index));
        Interlocked.Or(ref _stopped, 1L << index);
        _engine.Signal(this);
    }

    /// <summary>The reader's last call: cancels what has not ended. Nothing else needs to be freed.</summary>
    public void Dispose()
    {
        if (_unread > 0) Cancel();
    }

    /// <summary>Wakes the reader where it waits. The engine thread's, after publishing; allocates nothing.</summary>
    internal void Signal()
    {
        Interlocked.MemoryBarrier(); // orders the publishing stores before the look for a waiter; see WaitAsync
        if (Volatile.Read(ref _waiter) == Waiting && TakeWaiter()) _wake.SetResult(true);
    }

    /// <summary>Stores the score of the next prompt token. The engine thread's.</summary>
    internal void AppendScore(float logprob, ReadOnlySpan<TokenLogprob> alternatives)
    {
        Debug.Assert(Scored < _promptLogprobs.Length, "every prompt token after the first is scored once");
        alternatives.CopyTo(_promptAlternatives.AsSpan(Scored * alternatives.Length));
        _promptLogprobs[Scored++] = logprob;
    }

    UInt128 IHeapEntry.HeapKey => (ulong)Math.Max(Deadline, 0);

    int IHeapEntry.HeapIndex { get; set; } = -1;

    bool IValueTaskSource<bool>.GetResult(short token)
    {
        // Waits for a cancellation callback that is just running, so that it can't meet the next wait.
        _registration.Dispose();
        _registration = default;
        return _wake.GetResult(token);
    }

    ValueTaskSourceStatus IValueTaskSource<bool>.GetStatus(short token) => _wake.GetStatus(token);

    void IValueTaskSource<bool>.OnCompleted(
        Action<object?> continuation, object? state, short token, ValueTaskSourceOnCompletedFlags flags) =>
        _wake.OnCompleted(continuation, state, token, flags);

    private static long Ticks(TimeSpan? time) =>
        time is { } span ? (long)Math.Min(span.TotalSeconds * Stopwatch.Frequency, long.MaxValue / 4) : 0;

    private bool HasEvent()
    {
        for (int i = 0; i < _logs.Length; i++)
            if (_logs[i].HasEvent(_read[i], _finishRead[i])) return true;
        return false;
    }

    private void CancelWait(CancellationToken token)
    {
        if (TakeWaiter()) _wake.SetException(new OperationCanceledException(token));
    }

    /// <summary>Whether this caller is the one who completes the reader's task.</summary>
    private bool TakeWaiter() => Interlocked.CompareExchange(ref _waiter, Idle, Waiting) == Waiting;
}
