using System.Globalization;
using System.Security;
using System.Text;

namespace Native.Bench.Common;

/// <summary>One line of a panel.</summary>
/// <param name="Name">In the legend.</param>
/// <param name="Points">From left to right.</param>
internal sealed record ChartLine(string Name, IReadOnlyList<(double X, double Y)> Points);

/// <summary>One picture of several lines over the same axes, which begin at 0.</summary>
/// <param name="Title">What the vertical axis shows, with its unit.</param>
/// <param name="AxisTitle">What the horizontal axis shows, with its unit.</param>
/// <param name="Lines">Drawn in this order.</param>
internal sealed record ChartPanel(string Title, string AxisTitle, IReadOnlyList<ChartLine> Lines)
{
    /// <summary>Where given, each point is a dot that tells this when it is pointed at.</summary>
    public Func<ChartLine, double, double, FormattableString>? Tip { get; init; }

    /// <summary>The vertical axis reaches at least this, so that a line of zeros is drawn as one.</summary>
    public double LeastTop { get; init; } = 1e-3;
}

/// <summary>SVG pictures of lines, one panel below the other.</summary>
internal static class LineChart
{
    private const int Width = 720, PanelHeight = 260, Left = 80, Right = 24, Top = 44, Bottom = 52;

    private static readonly string[] Colours = ["#1f6fb4", "#c8500a", "#2a8a4a", "#8a4fb0", "#7a6a55", "#b02a5a"];

    /// <summary>Draws them.</summary>
    public static string Svg(IReadOnlyList<ChartPanel> panels)
    {
        StringBuilder svg = new();
        int height = panels.Count * PanelHeight;
        Line(svg,
            $"""<svg xmlns="http://www.w3.org/2000/svg" width="{Width}" height="{height}" viewBox="0 0 {Width} {height}" font-family="sans-serif" font-size="12" fill="#222">""");
        Line(svg, $"""<rect width="{Width}" height="{height}" fill="#fff"/>""");
        for (int i = 0; i < panels.Count; i++) Draw(svg, i * PanelHeight, panels[i]);
        Line(svg, $"</svg>");
        return svg.ToString();
    }

    /// <summary>A round number from 1, 2, 2.5, 5 times a power of ten, so that about <paramref name="ticks"/> of them
    /// reach <paramref name="highest"/>.</summary>
    internal static double Step(double highest, int ticks)
    {
        double rough = highest / ticks, power = Math.Pow(10, Math.Floor(Math.Log10(rough)));
        return power * (rough / power) switch { <= 1 => 1, <= 2 => 2, <= 2.5 => 2.5, <= 5 => 5, _ => 10 };
    }

    private static void Draw(StringBuilder svg, int y, ChartPanel panel)
    {
        double highest = Math.Max(Most(panel, point => point.Y), panel.LeastTop),
            farthest = Math.Max(Most(panel, point => point.X), 1e-3);
        double stepY = Step(highest, 4), topY = Math.Ceiling(highest / stepY) * stepY, stepX = Step(farthest, 6),
            endX = Math.Ceiling(farthest / stepX) * stepX;
        int bottom = y + PanelHeight - Bottom, end = Width - Right;
        double X(double value) => Left + value / endX * (end - Left);
        double Y(double value) => bottom - value / topY * (bottom - y - Top);

        Line(svg, $"""<text x="{Left}" y="{y + 18}" font-weight="bold">{Text(panel.Title)}</text>""");
        for (int i = 0; i * stepY <= topY * 1.0001; i++)
        {
            Line(svg,
                $"""<line x1="{Left}" x2="{end}" y1="{Y(i * stepY):0.#}" y2="{Y(i * stepY):0.#}" stroke="#ddd"/>""");
            Line(svg,
                $"""<text x="{Left - 8}" y="{Y(i * stepY) + 4:0.#}" text-anchor="end">{i * stepY:0.####}</text>""");
        }
        for (int i = 0; i * stepX <= endX * 1.0001; i++)
            Line(svg,
                $"""<text x="{X(i * stepX):0.#}" y="{bottom + 18}" text-anchor="middle">{i * stepX:0.####}</text>""");
        Line(svg,
            $"""<text x="{(Left + end) / 2}" y="{bottom + 38}" text-anchor="middle">{Text(panel.AxisTitle)}</text>""");
        int room = (end - Left) / Math.Max(panel.Lines.Count, 1);
        int longest = panel.Lines.Select(line => line.Name.Length).DefaultIfEmpty(0).Max();
        int legend = Math.Max(Math.Min(120, room), 8 * longest);
        for (int s = 0; s < panel.Lines.Count; s++)
        {
            ChartLine line = panel.Lines[s];
            string colour = Colours[s % Colours.Length];
            Line(svg,
                $"""<polyline fill="none" stroke="{colour}" stroke-width="2" points="{string.Join(' ', line.Points.Select(point => string.Create(CultureInfo.InvariantCulture, $"{X(point.X):0.#},{Y(point.Y):0.#}")))}"/>""");
            if (panel.Tip is { } tip)
                foreach ((double x, double value) in line.Points)
                    Line(svg,
                        $"""<circle cx="{X(x):0.#}" cy="{Y(value):0.#}" r="3" fill="{colour}"><title>{Text(tip(line, x, value).ToString(CultureInfo.InvariantCulture))}</title></circle>""");
            Line(svg, $"""<text x="{Left + 8 + legend * s}" y="{y + 36}" fill="{colour}">{Text(line.Name)}</text>""");
        }
    }

    private static string? Text(string text) => SecurityElement.Escape(text);

    private static double Most(ChartPanel panel, Func<(double X, double Y), double> of) =>
        panel.Lines.SelectMany(line => line.Points).Select(of).DefaultIfEmpty(0).Max();

    private static void Line(StringBuilder svg, FormattableString line) =>
        svg.Append(line.ToString(CultureInfo.InvariantCulture)).Append('\n');
}
