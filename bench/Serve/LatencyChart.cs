using System.Globalization;
using System.Text;

namespace Native.Bench;

/// <summary>An SVG picture of latency against load: time to first token above, time per output token below.</summary>
internal static class LatencyChart
{
    private const int Width = 720, PanelHeight = 260, Left = 80, Right = 24, Top = 44, Bottom = 52;

    private static readonly string[] Colours = ["#1f6fb4", "#c8500a", "#2a8a4a", "#8a4fb0", "#7a6a55"];

    /// <summary>Draws it.</summary>
    /// <param name="runs">One for each rate, by rising rate.</param>
    /// <param name="percentiles">Drawn beside the median.</param>
    public static string Svg(IReadOnlyList<ServingRun> runs, IReadOnlyList<double> percentiles)
    {
        StringBuilder svg = new();
        Line(svg, $"""<svg xmlns="http://www.w3.org/2000/svg" width="{Width}" height="{2 * PanelHeight}" viewBox="0 0 {Width} {2 * PanelHeight}" font-family="sans-serif" font-size="12" fill="#222">""");
        Line(svg, $"""<rect width="{Width}" height="{2 * PanelHeight}" fill="#fff"/>""");
        Panel(svg, 0, "Time to first token (ms)", runs, run => run.Result.Ttft, percentiles);
        Panel(svg, PanelHeight, "Time per output token after the first (ms)", runs, run => run.Result.Tpot, percentiles);
        Line(svg, $"</svg>");
        return svg.ToString();
    }

    /// <summary>A round number from 1, 2, 2.5, 5 times a power of ten, so that about <paramref name="ticks"/> of them reach <paramref name="highest"/>.</summary>
    internal static double Step(double highest, int ticks)
    {
        double rough = highest / ticks, power = Math.Pow(10, Math.Floor(Math.Log10(rough)));
        return power * (rough / power) switch { <= 1 => 1, <= 2 => 2, <= 2.5 => 2.5, <= 5 => 5, _ => 10 };
    }

    private static void Panel(StringBuilder svg, int y, string title, IReadOnlyList<ServingRun> runs, Func<ServingRun, Latency> latency, IReadOnlyList<double> percentiles)
    {
        (string Name, Func<Latency, double> Of)[] series = [("median", values => values.Median), .. percentiles.Select(percent => ($"P{ServingReport.Word(percent)}", (Func<Latency, double>)(values => values.Percentile(percent))))];
        double highest = Math.Max(series.Max(line => runs.Max(run => line.Of(latency(run)))) * 1000, 1e-3), fastest = runs.Max(run => run.RequestRate);
        double stepY = Step(highest, 4), topY = Math.Ceiling(highest / stepY) * stepY, stepX = Step(fastest, 6), endX = Math.Ceiling(fastest / stepX) * stepX;
        int bottom = y + PanelHeight - Bottom, end = Width - Right;
        double X(double rate) => Left + rate / endX * (end - Left);
        double Y(double milliseconds) => bottom - milliseconds / topY * (bottom - y - Top);

        Line(svg, $"""<text x="{Left}" y="{y + 18}" font-weight="bold">{title}</text>""");
        for (int i = 0; i * stepY <= topY * 1.0001; i++)
        {
            Line(svg, $"""<line x1="{Left}" x2="{end}" y1="{Y(i * stepY):0.#}" y2="{Y(i * stepY):0.#}" stroke="#ddd"/>""");
            Line(svg, $"""<text x="{Left - 8}" y="{Y(i * stepY) + 4:0.#}" text-anchor="end">{i * stepY:0.####}</text>""");
        }
        for (int i = 0; i * stepX <= endX * 1.0001; i++)
            Line(svg, $"""<text x="{X(i * stepX):0.#}" y="{bottom + 18}" text-anchor="middle">{i * stepX:0.####}</text>""");
        Line(svg, $"""<text x="{(Left + end) / 2}" y="{bottom + 38}" text-anchor="middle">offered load (requests/s)</text>""");
        for (int s = 0; s < series.Length; s++)
        {
            string colour = Colours[s % Colours.Length];
            Line(svg, $"""<polyline fill="none" stroke="{colour}" stroke-width="2" points="{string.Join(' ', runs.Select(run => string.Create(CultureInfo.InvariantCulture, $"{X(run.RequestRate):0.#},{Y(series[s].Of(latency(run)) * 1000):0.#}")))}"/>""");
            foreach (ServingRun run in runs)
            {
                double value = series[s].Of(latency(run)) * 1000;
                Line(svg, $"""<circle cx="{X(run.RequestRate):0.#}" cy="{Y(value):0.#}" r="3" fill="{colour}"><title>{run.RequestRate:0.####} requests/s, {series[s].Name}: {value:0.##} ms</title></circle>""");
            }
            Line(svg, $"""<text x="{Left + 8 + 80 * s}" y="{y + 36}" fill="{colour}">{series[s].Name}</text>""");
        }
    }

    private static void Line(StringBuilder svg, FormattableString line) => svg.Append(line.ToString(CultureInfo.InvariantCulture)).Append('\n');
}
