using System.Diagnostics;
using System.Numerics;

namespace Native.Scheduling;

/// <summary>Why a request was not taken, where a retry may help.</summary>
/// <param name="FirstToken">When its first token would probably have come, from its arrival; zero where that was not
/// asked.</param>
/// <param name="RetryAfter">When to try again. Spread at random, so that those refused together don't come back
/// together.</param>
public readonly record struct Refusal(TimeSpan FirstToken, TimeSpan RetryAfter);

/// <summary>Says at the door when a request's first token would come. The engine's thread publishes what it sees, any
/// thread asks; no lock, and no wait for a turn.</summary>
/// <remarks>
/// The first token comes when the prompts before this one are computed, then its own. Before it are those under way
/// and those queued that are due earlier; queued tokens are counted by the prompts' lengths, because a long prompt lets
/// short ones pass (<see cref="Ordering"/>). A token of prompt takes what the model of steps says beside as many
/// decodes as there will be: each prompt that is through decodes and leaves less of every step to those behind it.
/// That is multiplied by how wrong it was lately. Where every place is taken, as many requests must end as wait. The
/// numbers read are of slightly different times; a forecast needs no better.
/// </remarks>
internal sealed class Forecast
{
    private const int Buckets = 32; // by powers of two of a prompt's length
    private const double HalfLife = 2; // seconds of steps

    private readonly PaddedLong[] _queuedTokens = new PaddedLong[Buckets];
    private readonly SeqLock<Snapshot> _shown = new();
    private PaddedLong _queuedPrompts; // tokens of queued prompts, cached or not

    // The engine thread's: decayed sums of what steps with prompts took, and of what they were said to take.
    private double _seconds = 1, _foreseen = 1;
    private PromptPace _pace = PromptPace.Unknown;

    /// <summary>Whether nobody runs: who comes now is computed at once. Any thread.</summary>
    public bool IsIdle => _shown.Read().Running == 0;

    /// <summary>Tokens of the prompts that are queued. Any thread.</summary>
    public long QueuedTokens => Volatile.Read(ref _queuedPrompts.Value);

    /// <summary>A request is queued, unless the queued prompts are too long with it. One that comes to an empty queue
    /// is queued whatever its length: it would never be otherwise. Any thread.</summary>
    /// <param name="length">Its prompt's tokens.</param>
    /// <param name="tokens">Of these, those that are to be computed.</param>
    /// <param name="most">Tokens that may be queued.</param>
    public bool TryQueue(int length, int tokens, long most)
    {
        long queued = Interlocked.Add(ref _queuedPrompts.Value, length);
        if (queued > most && queued > length)
        {
            Interlocked.Add(ref _queuedPrompts.Value, -length);
            return false;
        }
        Interlocked.Add(ref _queuedTokens[BucketOf(length)].Value, tokens);
        return true;
    }

    /// <summary>A queued request has begun or ended.</summary>
    public void Dequeue(int length, int tokens)
    {
        Interlocked.Add(ref _queuedPrompts.Value, -length);
        Interlocked.Add(ref _queuedTokens[BucketOf(length)].Value, -tokens);
    }

    /// <summary>Seconds until the first token of a request that comes now. Any thread.</summary>
    /// <param name="length">Its prompt's tokens.</param>
    /// <param name="tokens">Of these, those that are to be computed.</param>
    /// <param name="ttft">Its objective in seconds.</param>
    /// <param name="queued">Requests queued.</param>
    public double FirstToken(int length, int tokens, double ttft, int queued)
    {
        Snapshot seen = _shown.Read();
        PromptPace pace = seen.Pace;
        double ahead = seen.UnderWay;
        // Those as long as may be due with it: up to its own length, or to where the objective alone decides.
        double perToken = pace.PerToken(pace.Decodes);
        int alike = (int)Math.Min(Math.Max(length, ttft / (Ordering.Stretch * perToken)), int.MaxValue);
        for (int bucket = BucketOf(alike); bucket >= 0; bucket--)
            ahead += Math.Max(0, Volatile.Read(ref _queuedTokens[bucket].Value));
        int decodes = Math.Min(seen.Running + queued, seen.Capacity); // when its turn has come
        double before = ahead * pace.PerToken((pace.Decodes + decodes) / 2.0);
        int missing = queued + 1 - Math.Max(0, seen.Capacity - seen.Running);
        double place = missing <= 0 ? 0 : missing * seen.MeanService / seen.Capacity;
        return Math.Max(before * seen.Error, place) + (tokens * pace.PerToken(decodes) * seen.Error);
    }

    /// <summary>A step is through. The engine thread's.</summary>
    /// <param name="seconds">What it took.</param>
    /// <param name="load">What it computed.</param>
    /// <param name="waits">Whether prompts are left to compute.</param>
    public void Observe(double seconds, in StepLoad load, bool waits)
    {
        if (load.PrefillTokens == 0 && !waits) return;
        double keep = double.Exp2(-seconds / HalfLife);
        _seconds = (_seconds * keep) + seconds;
        _foreseen = (_foreseen * keep) + (load.PrefillTokens * _pace.PerToken(load.Decodes));
    }

    /// <summary>Shows the door what there is. The engine thread's.</summary>
    /// <param name="underWay">Prompt tokens of those who have begun that are not computed.</param>
    /// <param name="running">Sequences that run.</param>
    /// <param name="capacity">Sequences that may.</param>
    /// <param name="meanServiceTicks">From the first step to the end, lately.</param>
    /// <param name="pace">How fast prompts are computed.</param>
    public void Publish(long underWay, int running, int capacity, double meanServiceTicks, in PromptPace pace)
    {
        _pace = pace;
        _shown.Write(new Snapshot
        {
            UnderWay = underWay,
            Running = running,
            Capacity = Math.Max(1, capacity),
            MeanService = meanServiceTicks / Stopwatch.Frequency,
            Error = Math.Clamp(_seconds / Math.Max(_foreseen, 1e-9), 0.25, 8),
            Pace = pace,
        });
    }

    private static int BucketOf(int length) => BitOperations.Log2((uint)Math.Max(length, 1));

    /// <summary>What the engine's thread last saw.</summary>
    private readonly record struct Snapshot
    {
        public long UnderWay { get; init; }

        public int Running { get; init; }

        public int Capacity { get; init; }

        public double MeanService { get; init; }

        public double Error { get; init; }

        public PromptPace Pace { get; init; }
    }
}
