using System.Text;

namespace Native.Bench.Common;

/// <summary>One column of a table.</summary>
/// <param name="Name">Its heading.</param>
/// <param name="Width">Characters it has at least.</param>
/// <param name="Right">Whether it stands to the right, as numbers do.</param>
/// <param name="Value">What it says of a row.</param>
internal sealed record Column<T>(string Name, int Width, bool Right, Func<T, string> Value);

/// <summary>Tables in Markdown whose columns stand in line, to be read as they are too.</summary>
internal static class MarkdownTable
{
    /// <summary>The heading, a line, and a line for each row.</summary>
    public static string Of<T>(IReadOnlyList<Column<T>> columns, IReadOnlyList<T> rows)
    {
        StringBuilder text = new();
        int[] widths =
            [.. columns.Select(
                column => Math.Max(Math.Max(column.Width, column.Name.Length),
                    rows.Max(row => column.Value(row).Length)))];
        void Line(Func<int, string> cell) =>
            text.AppendLine(
                $"| {string.Join(" | ", columns.Select((column, i) => column.Right ? cell(i).PadLeft(widths[i]) : cell(i).PadRight(widths[i])))} |");
        Line(i => columns[i].Name);
        text.AppendLine(
            $"| {string.Join(" | ", columns.Select((column, i) => column.Right ? new string('-', widths[i] - 1) + ":" : new string('-', widths[i])))} |");
        foreach (T row in rows) Line(i => columns[i].Value(row));
        return text.ToString();
    }
}
