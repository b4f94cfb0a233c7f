using System.Globalization;
using Native.Bench.Common;
using Native.Tools;

namespace Native.Bench.Serve;

/// <summary>Latencies in seconds that a request must keep, to be counted as good; null for any.</summary>
internal sealed record Goodput(double? Ttft, double? Tpot, double? E2el)
{
    /// <summary>Whether a request that succeeded kept all of them.</summary>
    public bool IsGood(RequestRecord record) => !(record.Ttft > Ttft) && !(record.Tpot > Tpot) && !(record.E2el > E2el);

    /// <summary>What <c>--goodput</c> says: ttft:MS, tpot:MS, e2el:MS. Null where it says nothing.</summary>
    /// <exception cref="UsageException">It says something else.</exception>
    public static Goodput? Parse(string[] parts)
    {
        if (parts.Length == 0) return null;
        Goodput goodput = new(null, null, null);
        foreach (string part in parts)
        {
            string[] pair = part.Split(':');
            if (pair.Length != 2
                || !double.TryParse(pair[1], NumberStyles.Float, CultureInfo.InvariantCulture, out double milliseconds)
                || !(milliseconds > 0) || pair[0] is not ("ttft" or "tpot" or "e2el"))
                throw new UsageException(
                    $"--goodput has '{part}'; it must be ttft:MS, tpot:MS or e2el:MS with milliseconds above 0.");
            double seconds = milliseconds / 1000;
            goodput = pair[0] switch
            {
                "ttft" => goodput with { Ttft = seconds },
                "tpot" => goodput with { Tpot = seconds },
                _ => goodput with { E2el = seconds },
            };
        }
        return goodput;
    }
}

/// <summary>One kind of latency over all requests, in seconds.</summary>
/// <param name="Name">As vLLM names it in its results: ttft, tpot, itl, e2el.</param>
/// <param name="Values">Every one of them.</param>
internal sealed record Latency(string Name, IReadOnlyList<double> Values)
{
    public double Mean => Statistics.Mean(Values);

    public double Median => Statistics.Median(Values);

    public double Deviation => Statistics.Deviation(Values);

    public double Percentile(double percent) => Statistics.Percentile(Values, percent);
}

/// <summary>What a run's records say together: vLLM's definitions, but for where latencies begin
/// (<see cref="RequestRecord.Start"/>).</summary>
internal sealed record ServingResult
{
    /// <summary>Sums up.</summary>
    /// <param name="records">All requests.</param>
    /// <param name="duration">Seconds from the run's beginning until the last of them was over.</param>
    /// <param name="goodput">What good is; null where nobody asked.</param>
    public ServingResult(IReadOnlyList<RequestRecord> records, double duration, Goodput? goodput)
    {
        Records = records;
        Duration = duration;
        List<RequestRecord> succeeded = [.. records.Where(record => record.Succeeded)];
        Completed = succeeded.Count;
        Failed = records.Count - Completed;
        InputTokens = succeeded.Sum(record => (long)record.InputTokens);
        OutputTokens = succeeded.Sum(record => (long)record.OutputTokens);
        Good = goodput is null ? null : succeeded.Count(goodput.IsGood);
        Ttft = new Latency("ttft", [.. succeeded.Select(record => record.Ttft)]);
        Tpot = new Latency("tpot",
            [.. succeeded.Where(record => record.OutputTokens > 1).Select(record => record.Tpot)]);
        Itl = new Latency("itl", [.. succeeded.SelectMany(record => record.Itls)]);
        E2el = new Latency("e2el", [.. succeeded.Select(record => record.E2el)]);
        PeakOutputTokensPerSecond = Peak(succeeded);
        PeakConcurrentRequests = PeakConcurrency(succeeded);
    }

    public IReadOnlyList<RequestRecord> Records { get; }

    public double Duration { get; }

    public int Completed { get; }

    public int Failed { get; }

    public long InputTokens { get; }

    public long OutputTokens { get; }

    /// <summary>Requests that were good; null where nobody asked.</summary>
    public int? Good { get; }

    public double RequestThroughput => Completed / Duration;

    public double? RequestGoodput => Good / Duration;

    public double OutputThroughput => OutputTokens / Duration;

    public double TotalThroughput => (InputTokens + OutputTokens) / Duration;

    /// <summary>Pieces of output in the busiest second, counted in whole seconds from the first sending.</summary>
    public int PeakOutputTokensPerSecond { get; }

    /// <summary>The most requests that were under way at once.</summary>
    public int PeakConcurrentRequests { get; }

    public Latency Ttft { get; }

    public Latency Tpot { get; }

    public Latency Itl { get; }

    public Latency E2el { get; }

    /// <summary>By its name in <c>--percentile-metrics</c>.</summary>
    public Latency this[string metric] => metric switch { "ttft" => Ttft, "tpot" => Tpot, "itl" => Itl, _ => E2el };

    private static int Peak(IReadOnlyList<RequestRecord> records)
    {
        if (records.Count == 0) return 0;
        double begin = records.Min(record => record.Sent);
        return records.SelectMany(record => record.TokenTimes).CountBy(time => (long)(time - begin))
            .Max(second => second.Value);
    }

    private static int PeakConcurrency(IReadOnlyList<RequestRecord> records)
    {
        int now = 0, peak = 0;
        // Of a request that ends when another begins, the end comes first.
        foreach ((_, int change)
            in records.SelectMany(
                record => new[] { (At: record.Sent, Change: 1), (At: record.Done, Change: -1) }).OrderBy(e => e.At)
                .ThenBy(e => e.Change))
            peak = Math.Max(peak, now += change);
        return peak;
    }
}
