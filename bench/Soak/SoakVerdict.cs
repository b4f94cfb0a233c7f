using System.Globalization;
using Native.Bench.Common;

namespace Native.Bench.Soak;

/// <summary>One thing that must be so, whether it was, and by which numbers.</summary>
internal sealed record SoakCheck(string Name, bool Passed, string Detail);

/// <summary>Judges a soak.</summary>
/// <remarks>Growth is the median of the last third of the samples less that of the middle third: what settles in the
/// first third is no leak, and a median cares nothing for a peak.</remarks>
internal static class SoakVerdict
{
    private const int MiB = 1 << 20;

    /// <summary>Below this a process still compiles what it runs often and sizes its heap: memory may grow more, and a
    /// first time may come late.</summary>
    private const double WarmSeconds = 300;

    private const double MemoryShare = 0.03, HandleShare = 0.1;
    private const double LeastHandles = 8, LeastThreads = 8;

    /// <summary>All checks, in the order of the report.</summary>
    public static IReadOnlyList<SoakCheck> Of(SoakResult result)
    {
        List<SoakCheck> checks =
        [
            Promise(result, SoakPromise.Answers, "every good request is answered"),
            Promise(result, SoakPromise.Refusals, "every bad one is refused with its status"),
            Promise(result, SoakPromise.Endings,
                "answers end as they may: stop or length, no stop text, no token too many"),
            Promise(result, SoakPromise.Counts, "usage counts the tokens that came"),
            Promise(result, SoakPromise.SameText,
                "the same case has the same text, whoever asks it how and beside whom"),
        ];
        SoakSample after = result.After;
        checks.Add(new SoakCheck("at the end nothing runs and every block is free",
            after is { Running: 0, Waiting: 0, BlocksUsed: 0 },
            $"{Whole(after.Running)} running, {Whole(after.Waiting)} waiting, {Whole(after.BlocksUsed)} of {Whole(after.BlocksUsed + after.BlocksFree)} blocks used"));
        double least = result.Duration >= WarmSeconds ? 8 * MiB : 32 * MiB;
        checks.Add(Flat(result, "resident memory is flat", sample => sample.ResidentBytes, MemoryShare, least,
            bytes => $"{Number(bytes / MiB)} MiB"));
        checks.Add(Flat(result, "the managed heap is flat", sample => sample.HeapBytes, MemoryShare, least,
            bytes => $"{Number(bytes / MiB)} MiB"));
        checks.Add(Flat(result, "open handles are flat", sample => sample.Handles, HandleShare, LeastHandles, Whole));
        checks.Add(Flat(result, "threads are flat", sample => sample.Threads, 0, LeastThreads, Whole));
        checks.Add(new SoakCheck("handles come back", after.Handles <= result.Before.Handles + LeastHandles,
            $"{Whole(after.Handles)} after, {Whole(result.Before.Handles)} before; {Whole(LeastHandles)} more are "
                + "allowed"));
        checks.Add(new SoakCheck("threads come back", after.Threads <= result.Before.Threads + LeastThreads,
            $"{Whole(after.Threads)} after, {Whole(result.Before.Threads)} before; {Whole(LeastThreads)} more are "
                + "allowed"));
        checks.Add(Still(result, "no step fails", sample => sample.FailedSteps, "steps failed"));
        checks.Add(Allocation(result));
        checks.Add(Still(result, "the step path waits for no lock", sample => sample.StepLockContentions,
            "contended locks on the engine's thread and its workers"));
        if (result.End is { } end)
        {
            checks.Add(new SoakCheck("the server ends with 0 when asked to", end.ExitCode == 0,
                end.ExitCode is { } code ? $"exit code {code}" : "it had to be killed"));
            checks.Add(new SoakCheck("its log is empty", end.Log.Length == 0,
                end.Log.Length == 0 ? "nothing was written" : end.Log.Length <= 300 ? end.Log
                    : end.Log[..300] + "..."));
        }
        return checks;
    }

    /// <summary>Medians of the middle third and the last; null where there are too few samples to have them, or they
    /// hold no number.</summary>
    internal static (double Middle, double Last)? Thirds(IReadOnlyList<SoakSample> samples, Func<SoakSample, double> of)
    {
        int third = samples.Count / 3;
        if (third < 2 || samples.Any(sample => double.IsNaN(of(sample)))) return null;
        return (Statistics.Median([.. samples.Skip(third).Take(third).Select(of)]),
            Statistics.Median([.. samples.Skip(2 * third).Select(of)]));
    }

    /// <summary>Growth an hour by the median of all pairs' slopes (Theil 1950, Sen 1968), after the first
    /// third.</summary>
    internal static double SlopePerHour(IReadOnlyList<SoakSample> samples, Func<SoakSample, double> of)
    {
        SoakSample[] settled = [.. samples.Skip(samples.Count / 3)];
        List<double> slopes = [];
        for (int i = 0; i < settled.Length; i++)
            for (int j = i + 1; j < settled.Length; j++)
                slopes.Add((of(settled[j]) - of(settled[i])) / (settled[j].Time - settled[i].Time));
        return Statistics.Median(slopes) * 3600;
    }

    private static SoakCheck Promise(SoakResult result, SoakPromise promise, string name)
    {
        IReadOnlyDictionary<string, int> breaches = result.Breaches[promise];
        string kept = promise switch
        {
            SoakPromise.Answers =>
                $"{result.Requests.Where(kind => kind.Key is not (SoakKind.BadRequest or SoakKind.TooLong)).Sum(kind => kind.Value)} requests",
            SoakPromise.Refusals =>
                $"{result.Requests.GetValueOrDefault(SoakKind.BadRequest) + result.Requests.GetValueOrDefault(SoakKind.TooLong)} requests",
            SoakPromise.SameText => $"{result.Compared} answers compared with an earlier one",
            _ => "no breach",
        };
        if (promise == SoakPromise.SameText && result.Compared == 0)
            return new SoakCheck(name, false, "no case was asked twice: nothing was compared");
        return new SoakCheck(name, breaches.Count == 0,
            breaches.Count == 0 ? kept
                : $"{breaches.Values.Sum()} times, e.g. {breaches.MaxBy(breach => breach.Value).Key}");
    }

    private static SoakCheck Flat(SoakResult result, string name, Func<SoakSample, double> of, double share,
        double least, Func<double, string> format)
    {
        if (Thirds(result.Samples, of) is not { } thirds)
            return new SoakCheck(name, false, "not told in every sample, or there are fewer than six");
        double allowed = Math.Max(least, share * thirds.Middle), grown = thirds.Last - thirds.Middle;
        string slope =
            result.Duration >= WarmSeconds ? $" (slope {format(SlopePerHour(result.Samples, of))} an hour)" : "";
        return new SoakCheck(name, grown <= allowed,
            $"median {format(thirds.Middle)} in the middle third, {format(thirds.Last)} in the "
                + $"last; {format(allowed)} more are allowed{slope}");
    }

    private static SoakCheck Still(SoakResult result, string name, Func<SoakSample, double> of, string what)
    {
        double grown = of(result.After) - of(result.Before);
        return new SoakCheck(name, grown == 0,
            double.IsNaN(grown) ? "the server does not tell" : $"{Whole(grown)} {what}");
    }

    /// <summary>After the first third, in which queues and pools take their size. In a short run some of what is made
    /// once comes later, such as the delegates of a path first taken then, or a longer queue of the thread pool,
    /// through which readers are woken (1.5 KB): 64 to 1,064 bytes in all were seen, where one object a step would be
    /// at least 24 bytes in each of thousands.</summary>
    private static SoakCheck Allocation(SoakResult result)
    {
        const string name = "a decode step allocates 0 bytes";
        if (result.Samples.Count < 6) return new SoakCheck(name, false, "there are fewer than six samples");
        SoakSample from = result.Samples[result.Samples.Count / 3], to = result.Samples[^1];
        double steps = to.DecodeSteps - from.DecodeSteps,
            bytes = to.DecodeStepAllocatedBytes - from.DecodeStepAllocatedBytes;
        double first = from.DecodeStepAllocatedBytes - result.Before.DecodeStepAllocatedBytes;
        if (double.IsNaN(bytes) || steps == 0)
            return new SoakCheck(name, false,
                double.IsNaN(bytes) ? "the server does not tell" : "there was no decode step");
        return new SoakCheck(name, bytes <= (result.Duration >= WarmSeconds ? 0 : 4096),
            $"{Whole(bytes)} bytes by the engine's thread in {Whole(steps)} steps after the first "
                + $"third, {Whole(first)} bytes in that");
    }

    private static string Whole(double value) =>
        double.IsNaN(value) ? "?" : value.ToString("0", CultureInfo.InvariantCulture);

    private static string Number(double value) => value.ToString("0.0", CultureInfo.InvariantCulture);
}
