using Native.Bench.Common;
using Native.Kernels.Cpu.Panels;

namespace Native.Bench.Serve;

/// <summary>An SVG picture of latency against load: time to first token above, time per output token below.</summary>
internal static class LatencyChart
{
    /// <summary>Draws it.</summary>
    /// <param name="runs">One for each rate, by rising rate.</param>
    /// <param name="percentiles">Drawn beside the median.</param>
    public static string Svg(IReadOnlyList<ServingRun> runs, IReadOnlyList<double> percentiles) => LineChart.Svg(
    [
        Panel("Time to first token (ms)", runs, run => run.Result.Ttft, percentiles),
        Panel("Time per output token after the first (ms)", runs, run => run.Result.Tpot, percentiles),
    ]);

    private static ChartPanel Panel(string title, IReadOnlyList<ServingRun> runs, Func<ServingRun, Latency> latency,
        IReadOnlyList<double> percentiles)
    {
        (string Name, Func<Latency, double> Of)[] series =
            [("median", values => values.Median),
                .. percentiles.Select(
                    percent => ($"P{ServingReport.Word(percent)}",
                        (Func<Latency, double>)(values => values.Percentile(percent))))];
        return new ChartPanel(title, "offered load (requests/s)",
            [.. series.Select(
                line => new ChartLine(line.Name,
                    [.. runs.Select(run => (run.RequestRate, line.Of(latency(run)) * 1000))]))])
        {
            Tip = (line, rate, milliseconds) => $"{rate:0.####} requests/s, {line.Name}: {milliseconds:0.##} ms",
        };
    }
}
