using System.Diagnostics;

namespace Native.Scheduling;

/// <summary>So many a minute, of which a minute's worth may come at once. Any thread; no lock.</summary>
/// <remarks>The generic cell rate algorithm (ITU-T I.371): one number, the time by which all that was taken would have
/// come evenly.</remarks>
internal sealed class RateLimit(int perMinute)
{
    private const long Burst = 60; // seconds

    private readonly double _ticksEach = 60.0 * Stopwatch.Frequency / perMinute;
    private PaddedLong _even;

    /// <summary>How many a minute.</summary>
    public int PerMinute => perMinute;

    /// <summary>Takes some, where they are there. More than a minute's worth is there once all of a minute's
    /// is.</summary>
    /// <param name="amount">How many.</param>
    /// <param name="now">When, as a timestamp of <see cref="Stopwatch"/>.</param>
    /// <param name="wait">Seconds until they would be there.</param>
    public bool TryTake(long amount, long now, out double wait)
    {
        while (true)
        {
            long seen = Volatile.Read(ref _even.Value), start = Math.Max(seen, now), next = start + Ticks(amount);
            long early = Math.Min(next - now - (Burst * Stopwatch.Frequency), start - now);
            wait = Math.Max(0, (double)early / Stopwatch.Frequency);
            if (early > 0) return false;
            if (Interlocked.CompareExchange(ref _even.Value, next, seen) == seen) return true;
        }
    }

    /// <summary>Takes some that were had already, whether they are there or not.</summary>
    public void Spend(long amount, long now)
    {
        while (true)
        {
            long seen = Volatile.Read(ref _even.Value);
            if (Interlocked.CompareExchange(ref _even.Value, Math.Max(seen, now) + Ticks(amount), seen) == seen) return;
        }
    }

    /// <summary>Gives back what was taken and not had.</summary>
    public void Return(long amount) => Interlocked.Add(ref _even.Value, -Ticks(amount));

    private long Ticks(long amount) => (long)Math.Min(amount * _ticksEach, long.MaxValue / 4);
}
