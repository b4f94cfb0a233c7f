using System.Globalization;
using System.Text.Json;
using Native.Bench.Common;

namespace Native.Bench.Rings;

/// <summary>What a queue gave at a number of producers: the median of every figure over the rounds.</summary>
/// <param name="Queue">Its name.</param>
/// <param name="Producers">Threads that put.</param>
/// <param name="Median">The medians.</param>
internal sealed record RingResult(string Queue, int Producers, RingRound Median)
{
    /// <summary>Of all rounds.</summary>
    public static RingResult Of(string queue, int producers, IReadOnlyCollection<RingRound> rounds)
    {
        double Median(Func<RingRound, double> figure) => Statistics.Median([.. rounds.Select(figure)]);
        double[] Medians(Func<RingRound, double[]> figures) =>
            [.. RingsMeasurement.Percents.Select((_, i) => Median(round => figures(round)[i]))];
        return new RingResult(queue, producers, new RingRound(Median(r => r.ItemsPerSecond),
            Median(r => r.BytesPerItem), Medians(r => r.PutNanoseconds), Medians(r => r.TakeNanoseconds)));
    }
}

/// <summary>All results: a table, and a file.</summary>
/// <param name="Machine">Where it was measured.</param>
/// <param name="Items">Sent in each pass.</param>
/// <param name="Capacity">Of the bounded queues.</param>
/// <param name="Rounds">Of each queue.</param>
/// <param name="Results">A line each.</param>
internal sealed record RingsReport(string Machine, int Items, int Capacity, int Rounds, List<RingResult> Results)
{
    private static readonly JsonSerializerOptions Json = new(JsonSerializerDefaults.Web);

    private static readonly Column<RingResult>[] Columns =
    [
        new("producers", 9, Right: true, result => Number(result.Producers, 0)),
        new("queue", 15, Right: false, result => result.Queue),
        new("M items/s", 9, Right: true, result => Number(result.Median.ItemsPerSecond / 1e6, 2)),
        new("B/item", 6, Right: true, result => Number(result.Median.BytesPerItem, 1)),
        new("put p50 ns", 10, Right: true, result => Number(result.Median.PutNanoseconds[0], 0)),
        new("p99 ns", 8, Right: true, result => Number(result.Median.PutNanoseconds[1], 0)),
        new("p99.9 ns", 8, Right: true, result => Number(result.Median.PutNanoseconds[2], 0)),
        new("max us", 8, Right: true, result => Number(result.Median.PutNanoseconds[3] / 1000, 0)),
        new("take p50 ns", 11, Right: true, result => Number(result.Median.TakeNanoseconds[0], 0)),
        new("p99 ns", 8, Right: true, result => Number(result.Median.TakeNanoseconds[1], 0)),
        new("p99.9 ns", 8, Right: true, result => Number(result.Median.TakeNanoseconds[2], 0)),
        new("max us", 8, Right: true, result => Number(result.Median.TakeNanoseconds[3] / 1000, 0)),
    ];

    /// <summary>The table.</summary>
    public string Table() => MarkdownTable.Of(Columns, Results);

    /// <summary>Writes it.</summary>
    public void Write(string path) => File.WriteAllText(path, JsonSerializer.Serialize(this, Json) + "\n");

    private static string Number(double value, int digits) =>
        value.ToString($"N{digits}", CultureInfo.InvariantCulture);
}
