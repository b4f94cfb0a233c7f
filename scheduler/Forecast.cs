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
/// The first token comes when the prompts before this one are computed, then its own: tokens times what a token of
/// prompt took lately, decodes and waiting included. Before it are those under way and those queued that are due
/// earlier; queued tokens are counted by the prompts' lengths, because a long prompt lets short ones pass
/// (<see cref="Ordering"/>). Where every place is taken, as many requests must end as wait. The numbers read are of
/// slightly different times; a forecast needs no better.
/// </remarks>
internal sealed class Forecast
{
    private const int Buckets = 32; // by powers of two of a prompt's length
    private const double HalfLife = 2; // seconds of steps

    private readonly PaddedLong[] _queuedTokens = new PaddedLong[Buckets];
    private long _underWay; // prompt tokens
    private double _secondsPerToken = 1e-3, _meanService;
    private int _running, _capacity = 1;

    // The engine thread's.
    private double _seconds = 1e-3, _tokens = 1; // decayed sums

    /// <summary>Whether nobody runs: who comes now is computed at once. Any thread.</summary>
    public bool IsIdle => Volatile.Read(ref _running) == 0;

    /// <summary>A request is queued. Any thread.</summary>
    public void Queue(int length, int tokens) => Interlocked.Add(ref _queuedTokens[BucketOf(length)].Value, tokens);

    /// <summary>A queued request has begun or ended.</summary>
    public void Dequeue(int length, int tokens) => Interlocked.Add(ref _queuedTokens[BucketOf(length)].Value, -tokens);

    /// <summary>Seconds until the first token of a request that comes now. Any thread.</summary>
    /// <param name="length">Its prompt's tokens.</param>
    /// <param name="tokens">Of these, those that are to be computed.</param>
    /// <param name="ttft">Its objective in seconds.</param>
    /// <param name="queued">Requests queued.</param>
    public double FirstToken(int length, int tokens, double ttft, int queued)
    {
        double perToken = Volatile.Read(ref _secondsPerToken);
        double ahead = Volatile.Read(ref _underWay);
        // Those as long as may be due with it: up to its own length, or to where the objective alone decides.
        int alike = (int)Math.Min(Math.Max(length, ttft / (Ordering.Stretch * perToken)), int.MaxValue);
        for (int bucket = BucketOf(alike); bucket >= 0; bucket--)
            ahead += Math.Max(0, Volatile.Read(ref _queuedTokens[bucket].Value));
        int capacity = Volatile.Read(ref _capacity);
        int missing = queued + 1 - Math.Max(0, capacity - Volatile.Read(ref _running));
        double place = missing <= 0 ? 0 : missing * Volatile.Read(ref _meanService) / capacity;
        return Math.Max(ahead * perToken, place) + (tokens * perToken);
    }

    /// <summary>A step is through. The engine thread's.</summary>
    /// <param name="seconds">What it took.</param>
    /// <param name="prefillTokens">Prompt tokens it computed.</param>
    /// <param name="waits">Whether prompts are left to compute.</param>
    public void Observe(double seconds, int prefillTokens, bool waits)
    {
        if (prefillTokens == 0 && !waits) return;
        double keep = double.Exp2(-seconds / HalfLife);
        _seconds = (_seconds * keep) + seconds;
        _tokens = (_tokens * keep) + prefillTokens;
        Volatile.Write(ref _secondsPerToken, Math.Clamp(_seconds / Math.Max(_tokens, 1), 1e-9, 10));
    }

    /// <summary>Shows the door what there is. The engine thread's.</summary>
    /// <param name="underWay">Prompt tokens of those who have begun that are not computed.</param>
    /// <param name="running">Sequences that run.</param>
    /// <param name="capacity">Sequences that may.</param>
    /// <param name="meanServiceTicks">From the first step to the end, lately.</param>
    /// <param name="alone">Seconds that a token of a prompt takes where nothing else is computed.</param>
    public void Publish(long underWay, int running, int capacity, double meanServiceTicks, double alone)
    {
        if (running == 0 && underWay == 0) // what was learned under load is past
        {
            (_seconds, _tokens) = (alone, 1);
            Volatile.Write(ref _secondsPerToken, alone);
        }
        Volatile.Write(ref _underWay, underWay);
        Volatile.Write(ref _running, running);
        Volatile.Write(ref _capacity, Math.Max(1, capacity));
        Volatile.Write(ref _meanService, meanServiceTicks / Stopwatch.Frequency);
    }

    private static int BucketOf(int length) => BitOperations.Log2((uint)Math.Max(length, 1));
}
