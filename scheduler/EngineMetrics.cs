using System.Diagnostics;
using Native.Scheduling.Slo;

namespace Native.Scheduling;

/// <summary>What the engine counts. Written by the engine thread alone, with plain adds published by release stores;
/// read by anyone at any time.</summary>
/// <remarks>Every write and every read is wait-free. A number is whole by itself; two numbers read one after the other
/// may be of different times.</remarks>
public sealed class EngineMetrics
{
    /// <summary>Finished requests kept for a monitor that is late; more are dropped and counted.</summary>
    private const int FinishedCapacity = 4096;

    private readonly SpscRing<FinishedRequest> _finished = new(FinishedCapacity);
    private long _running, _waiting, _freeBlocks, _steps, _failedSteps, _decodeSteps, _decodeStepAllocatedBytes;
    private long _promptTokens, _generatedTokens, _preemptions, _copiedBlocks, _droppedRecords;
    private long _prefixQueryTokens, _prefixHitTokens, _recomputedTokens, _evictedBlocks, _cachedBlocks;

    internal EngineMetrics(int totalBlocks, BudgetLedger? budgets)
    {
        Budgets = budgets;
        TotalBlocks = totalBlocks;
        _freeBlocks = totalBlocks;
    }

    /// <summary>Sequences with blocks, computed in turn.</summary>
    public long Running
    {
        get => Volatile.Read(ref _running);
        internal set => Volatile.Write(ref _running, value);
    }

    /// <summary>Sequences without blocks: new ones and preempted ones.</summary>
    public long Waiting
    {
        get => Volatile.Read(ref _waiting);
        internal set => Volatile.Write(ref _waiting, value);
    }

    /// <summary>KV blocks that no sequence holds.</summary>
    public long FreeBlocks
    {
        get => Volatile.Read(ref _freeBlocks);
        internal set => Volatile.Write(ref _freeBlocks, value);
    }

    /// <summary>KV blocks there are.</summary>
    public long TotalBlocks { get; }

    /// <summary>Steps executed.</summary>
    public long Steps
    {
        get => Volatile.Read(ref _steps);
        internal set => Volatile.Write(ref _steps, value);
    }

    /// <summary>Steps that threw; each failed its own sequences.</summary>
    public long FailedSteps
    {
        get => Volatile.Read(ref _failedSteps);
        internal set => Volatile.Write(ref _failedSteps, value);
    }

    /// <summary>Steps that computed decodes alone: no prompt, nobody admitted.</summary>
    public long DecodeSteps
    {
        get => Volatile.Read(ref _decodeSteps);
        internal set => Volatile.Write(ref _decodeSteps, value);
    }

    /// <summary>Bytes the engine thread allocated in the turns of <see cref="DecodeSteps"/>: taking news, planning,
    /// executing, publishing, waking readers. Turns in which a collection fell are left out: the runtime counts what
    /// it takes of a thread's allocation buffer as allocated.</summary>
    public long DecodeStepAllocatedBytes
    {
        get => Volatile.Read(ref _decodeStepAllocatedBytes);
        internal set => Volatile.Write(ref _decodeStepAllocatedBytes, value);
    }

    /// <summary>Prompt tokens of requests whose prompt is computed; a recomputation does not count again.</summary>
    public long PromptTokens
    {
        get => Volatile.Read(ref _promptTokens);
        internal set => Volatile.Write(ref _promptTokens, value);
    }

    /// <summary>Tokens generated, stop ids among them.</summary>
    public long GeneratedTokens
    {
        get => Volatile.Read(ref _generatedTokens);
        internal set => Volatile.Write(ref _generatedTokens, value);
    }

    /// <summary>Times a sequence lost its blocks to an older one.</summary>
    public long Preemptions
    {
        get => Volatile.Read(ref _preemptions);
        internal set => Volatile.Write(ref _preemptions, value);
    }

    /// <summary>Blocks copied because a forked sequence wrote into a shared one.</summary>
    public long CopiedBlocks
    {
        get => Volatile.Read(ref _copiedBlocks);
        internal set => Volatile.Write(ref _copiedBlocks, value);
    }

    /// <summary>Prompt tokens that were looked up in the prefix cache; 0 where there is none.</summary>
    public long PrefixQueryTokens
    {
        get => Volatile.Read(ref _prefixQueryTokens);
        internal set => Volatile.Write(ref _prefixQueryTokens, value);
    }

    /// <summary>Prompt tokens that were found there and not computed.</summary>
    public long PrefixHitTokens
    {
        get => Volatile.Read(ref _prefixHitTokens);
        internal set => Volatile.Write(ref _prefixHitTokens, value);
    }

    /// <summary>Tokens computed again after a preemption.</summary>
    public long RecomputedTokens
    {
        get => Volatile.Read(ref _recomputedTokens);
        internal set => Volatile.Write(ref _recomputedTokens, value);
    }

    /// <summary>Blocks whose tokens the prefix cache forgot to make room.</summary>
    public long EvictedBlocks
    {
        get => Volatile.Read(ref _evictedBlocks);
        internal set => Volatile.Write(ref _evictedBlocks, value);
    }

    /// <summary>Blocks whose tokens the prefix cache knows, read by somebody or not.</summary>
    public long CachedBlocks
    {
        get => Volatile.Read(ref _cachedBlocks);
        internal set => Volatile.Write(ref _cachedBlocks, value);
    }

    /// <summary>Records lost because nobody read <see cref="TryReadFinished"/> in time.</summary>
    public long DroppedRecords
    {
        get => Volatile.Read(ref _droppedRecords);
        internal set => Volatile.Write(ref _droppedRecords, value);
    }

    /// <summary>The error budgets, or null where there are no objectives.</summary>
    public BudgetLedger? Budgets { get; }

    /// <summary>Seconds a step takes, planning to publishing.</summary>
    public Histogram StepTime { get; } = Histogram.OfTime(MetricBuckets.StepTime);

    /// <summary>Seconds between two tokens of one sequence.</summary>
    public Histogram InterTokenLatency { get; } = Histogram.OfTime(MetricBuckets.InterTokenLatency);

    /// <summary>Tokens computed per step.</summary>
    public Histogram StepTokens { get; } = Histogram.OfCount(MetricBuckets.StepTokens);

    /// <summary>Tokens a step brought, as vLLM counts them (<c>iteration_tokens_total</c>): prompts, each at its first
    /// step, and tokens generated, a prompt's first token among them. Steps that brought none are not
    /// counted.</summary>
    public Histogram IterationTokens { get; } = Histogram.OfCount(MetricBuckets.StepTokens);

    /// <summary>Sequences computed per step.</summary>
    public Histogram StepSequences { get; } = Histogram.OfCount(MetricBuckets.StepSequences);

    /// <summary>Takes the oldest record of a request that ended. One thread, the monitor's.</summary>
    public bool TryReadFinished(out FinishedRequest request) => _finished.TryRead(out request);

    internal void WriteFinished(in FinishedRequest request)
    {
        Budgets?.Record(request.ToSloEvent());
        if (!_finished.TryWrite(request)) DroppedRecords++;
    }
}

/// <summary>Upper bounds of the histograms' buckets: vLLM's, where it has them, so that its dashboards fit.</summary>
public static class MetricBuckets
{
    /// <summary>Seconds to the first token.</summary>
    public static readonly double[] TimeToFirstToken =
        [.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560];

    /// <summary>Seconds between tokens, and per output token: vLLM's from 0.01 on, finer ones below for models that are
    /// faster than that.</summary>
    public static readonly double[] InterTokenLatency =
        [.0005, .001, .0025, .005, .01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80];

    /// <summary>Seconds of a request, whole, queued, in prefill and in decode: vLLM's from 0.3 on, finer ones below,
    /// which would hide small models otherwise.</summary>
    public static readonly double[] RequestTime =
        [
            .005, .01, .025, .05, .1, .2, .3, .5, .8, 1, 1.5, 2, 2.5, 5,
            10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
        ];

    /// <summary>Seconds of a step.</summary>
    public static readonly double[] StepTime =
        [.00025, .0005, .001, .0025, .005, .01, .02, .03, .05, .075, .1, .15, .2, .3, .5, .75, 1, 2.5, 5, 10];

    /// <summary>Tokens of a step (those of vLLM's <c>iteration_tokens_total</c>).</summary>
    public static readonly double[] StepTokens = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];

    /// <summary>Sequences of a step.</summary>
    public static readonly double[] StepSequences = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
}

/// <summary>Fixed buckets, one writer, any readers; an observation costs a short search and two adds. Both sides are
/// wait-free.</summary>
public sealed class Histogram
{
    private readonly double[] _bounds;
    private readonly long[] _limits; // _bounds in the unit observed
    private readonly double _unit;
    private readonly long[] _counts;
    private long _sum;

    private Histogram(double[] bounds, double unit)
    {
        _bounds = bounds;
        _unit = unit;
        _limits = Array.ConvertAll(bounds, bound => (long)Math.Round(bound / unit));
        _counts = new long[bounds.Length + 1];
    }

    /// <summary>Upper bounds, inclusive, ascending, in seconds or in what is counted. One bucket more has no
    /// bound.</summary>
    public ReadOnlySpan<double> Bounds => _bounds;

    /// <summary>Copies the observations of each bucket, not cumulative, shape [bounds + 1].</summary>
    /// <param name="counts">Room for one more than <see cref="Bounds"/>.</param>
    /// <param name="sum">The sum of all, in the unit of <see cref="Bounds"/>; may be an observation ahead of or behind
    /// the counts.</param>
    /// <returns>How many observations were copied.</returns>
    public long Read(Span<long> counts, out double sum)
    {
        long total = 0;
        for (int i = 0; i < _counts.Length; i++) total += counts[i] = Volatile.Read(ref _counts[i]);
        sum = Volatile.Read(ref _sum) * _unit;
        return total;
    }

    internal static Histogram OfTime(double[] seconds) => new(seconds, 1.0 / Stopwatch.Frequency);

    internal static Histogram OfCount(double[] bounds) => new(bounds, 1);

    internal void Observe(long value)
    {
        int bucket = 0;
        while (bucket < _limits.Length && value > _limits[bucket]) bucket++;
        Volatile.Write(ref _counts[bucket], _counts[bucket] + 1);
        Volatile.Write(ref _sum, _sum + value);
    }
}
