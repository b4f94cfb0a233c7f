using System.Globalization;
using Native.Bench.Common;

namespace Native.Bench.Simulate;

/// <summary>The table and the picture of a simulation.</summary>
internal static class SimulationReport
{
    /// <summary>A line for every policy at every rate.</summary>
    public static string Table(IReadOnlyList<RateResult> rates) => MarkdownTable.Of(Columns,
        [.. rates.SelectMany(rate => rate.Results.Select(result => (rate.Rate, result)))]);

    /// <summary>The rates that <c>--find-capacity</c> found.</summary>
    public static string Capacities(IReadOnlyList<(string Policy, double Rate)> capacities) => MarkdownTable.Of(
    [
        new Column<(string Policy, double Rate)>("policy", 12, Right: false, row => row.Policy),
        new Column<(string Policy, double Rate)>("requests/s", 10, Right: true,
            row => row.Rate > 0 ? Rate(row.Rate) : "none"),
    ], capacities);

    /// <summary>Goodput, and the 99th percentiles of TTFT and TPOT, against the rate.</summary>
    /// <remarks>The percentiles are cut off at ten times the objective: above it one line would flatten the
    /// others.</remarks>
    public static string Svg(IReadOnlyList<RateResult> rates, Objective due) => LineChart.Svg(
    [
        Panel("Goodput (requests/s whose every token was in time)", rates, result => result.Goodput),
        Panel("99th percentile of the time to the first token (s), cut at ten times the objective", rates,
            result => Math.Min(Statistics.Percentile(result.Ttft, 99), 10 * due.Ttft)),
        Panel("99th percentile of the time per output token (ms), cut likewise", rates,
            result => 1000 * Math.Min(Statistics.Percentile(result.Tpot, 99), 10 * due.Tpot)),
    ]);

    private static ChartPanel Panel(
        string title, IReadOnlyList<RateResult> rates, Func<SimulationResult, double> value) =>
        new(title, "requests/s sent",
            [.. rates[0].Results.Select((result, i) => new ChartLine(result.Policy,
                [.. rates.Select(rate => (rate.Rate, value(rate.Results[i])))]))])
        {
            Tip = (line, rate, y) => $"{rate:0.###} requests/s, {line.Name}: {y:0.###}",
        };

    private static readonly Column<(double Rate, SimulationResult Result)>[] Columns =
    [
        new("policy", 12, Right: false, row => row.Result.Policy),
        new("sent/s", 6, Right: true, row => Rate(row.Rate)),
        new("goodput/s", 9, Right: true, row => Rate(row.Result.Goodput)),
        new("in time", 7, Right: true, row => Percent(row.Result.Attainment)),
        new("others", 7, Right: true, row => row.Result.AttainmentOfOthers is { } part ? Percent(part) : "-"),
        new("violations", 10, Right: true, row => Number(row.Result.Violations, 0)),
        new("cut", 3, Right: true, row => Number(row.Result.Cut, 0)),
        new("TTFT ms p50/p90/p99", 19, Right: true, row => Percentiles(row.Result.Ttft, 1000, 0)),
        new("TPOT ms p50/p90/p99", 19, Right: true, row => Percentiles(row.Result.Tpot, 1000, 1)),
        new("E2EL s p50/p90/p99", 18, Right: true, row => Percentiles(row.Result.E2el, 1, 2)),
        new("preempted", 9, Right: true, row => Number(row.Result.Preemptions, 0)),
        new("KV waste", 8, Right: true, row => Percent(row.Result.KvWaste)),
        new("busy", 6, Right: true, row => (row.Result.Busy / Math.Max(row.Result.End, 1e-9))
            .ToString("0 %", CultureInfo.InvariantCulture)),
        new("steps", 6, Right: true, row => Number(row.Result.Steps, 0)),
    ];

    private static string Percentiles(double[] seconds, double unit, int digits) => string.Join('/',
        new double[] { 50, 90, 99 }.Select(p => Number(Statistics.Percentile(seconds, p) * unit, digits)));

    private static string Percent(double part) => part.ToString("0.0 %", CultureInfo.InvariantCulture);

    /// <summary>Three digits that count.</summary>
    private static string Rate(double value) => Number(value, value < 0.1 ? 4 : value < 1 ? 3 : 2);

    private static string Number(double value, int digits) =>
        value.ToString($"F{digits}", CultureInfo.InvariantCulture);
}
