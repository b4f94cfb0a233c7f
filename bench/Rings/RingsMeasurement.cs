using System.Diagnostics;
using Native.Bench.Common;

namespace Native.Bench.Rings;

/// <summary>What one round of one queue gave.</summary>
/// <param name="ItemsPerSecond">With no clock read between.</param>
/// <param name="BytesPerItem">Allocated by the process meanwhile.</param>
/// <param name="PutNanoseconds">Time of a put that found room, at each of
/// <see cref="RingsMeasurement.Percents"/>.</param>
/// <param name="TakeNanoseconds">Time of a take that found an item, likewise.</param>
internal sealed record RingRound(
    double ItemsPerSecond, double BytesPerItem, double[] PutNanoseconds, double[] TakeNanoseconds);

/// <summary>Sends items from producers to one consumer, all threads at full speed.</summary>
internal static class RingsMeasurement
{
    /// <summary>Percentiles of latency; the last is the longest.</summary>
    public static readonly double[] Percents = [50, 99, 99.9, 100];

    private static readonly double Nanosecond = 1e9 / Stopwatch.Frequency;

    /// <summary>One round: once for the throughput and what it allocates, once with a clock around every
    /// call.</summary>
    /// <param name="producers">Threads that put.</param>
    /// <param name="items">Put by all together; rounded down to the same number for each.</param>
    /// <param name="capacity">Of the queue.</param>
    /// <param name="ct">Ends it after the round.</param>
    public static RingRound Run<T>(int producers, int items, int capacity, CancellationToken ct)
        where T : struct, IRing
    {
        int each = Math.Max(1, items / producers);
        double[] none = [];
        long before = GC.GetTotalAllocatedBytes(precise: true);
        double seconds = Pass((T)T.Create(capacity), producers, each, timed: false, none, none);
        double bytes = (double)(GC.GetTotalAllocatedBytes(precise: true) - before) / (each * producers);
        ct.ThrowIfCancellationRequested();
        double[] puts = new double[each * producers], takes = new double[each * producers];
        Pass((T)T.Create(capacity), producers, each, timed: true, puts, takes);
        ct.ThrowIfCancellationRequested();
        return new RingRound(each * producers / seconds, bytes, At(puts), At(takes));
    }

    /// <summary>Seconds from the start of all to the last item taken.</summary>
    private static double Pass<T>(T ring, int producers, int each, bool timed, double[] puts, double[] takes)
        where T : struct, IRing
    {
        object item = new();
        using ManualResetEventSlim start = new();
        Thread[] threads = [.. Enumerable.Range(0, producers).Select(p => new Thread(() =>
        {
            start.Wait();
            if (timed) PutTimed(ring, item, puts.AsSpan(p * each, each));
            else Put(ring, item, each);
        })
        { IsBackground = true })];
        foreach (Thread thread in threads) thread.Start();
        start.Set();
        long began = Stopwatch.GetTimestamp();
        if (timed) TakeTimed(ring, takes);
        else Take(ring, each * producers);
        double seconds = Stopwatch.GetElapsedTime(began).TotalSeconds;
        foreach (Thread thread in threads) thread.Join();
        return seconds;
    }

    private static void Put<T>(T ring, object item, int count)
        where T : struct, IRing
    {
        SpinWait spin = default;
        for (int i = 0; i < count;)
        {
            if (ring.TryPut(item)) i++;
            else spin.SpinOnce(sleep1Threshold: -1);
        }
    }

    private static void Take<T>(T ring, int count)
        where T : struct, IRing
    {
        SpinWait spin = default;
        for (int i = 0; i < count;)
        {
            if (ring.TryTake()) i++;
            else spin.SpinOnce(sleep1Threshold: -1);
        }
    }

    private static void PutTimed<T>(T ring, object item, Span<double> times)
        where T : struct, IRing
    {
        SpinWait spin = default;
        for (int i = 0; i < times.Length;)
        {
            long start = Stopwatch.GetTimestamp();
            bool put = ring.TryPut(item);
            long end = Stopwatch.GetTimestamp();
            if (put) times[i++] = (end - start) * Nanosecond;
            else spin.SpinOnce(sleep1Threshold: -1);
        }
    }

    private static void TakeTimed<T>(T ring, Span<double> times)
        where T : struct, IRing
    {
        SpinWait spin = default;
        for (int i = 0; i < times.Length;)
        {
            long start = Stopwatch.GetTimestamp();
            bool taken = ring.TryTake();
            long end = Stopwatch.GetTimestamp();
            if (taken) times[i++] = (end - start) * Nanosecond;
            else spin.SpinOnce(sleep1Threshold: -1);
        }
    }

    private static double[] At(double[] times)
    {
        Array.Sort(times);
        return [.. Percents.Select(percent => Statistics.PercentileOfSorted(times, percent))];
    }
}
