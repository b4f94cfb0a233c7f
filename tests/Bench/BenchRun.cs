using System.Globalization;
using Native.Bench;
using Native.Tools;

namespace Native.Tests.Bench;

/// <summary>A bench as it is typed, in a pipe.</summary>
internal static class BenchRun
{
    public static async Task<(int Exit, string Output, string Error)> Run(params string[] command)
    {
        StringWriter output = new(CultureInfo.InvariantCulture), error = new(CultureInfo.InvariantCulture);
        using Terminal terminal = new(TextReader.Null, output, error);
        int exit = await BenchCli.RunAsync(command, terminal);
        return (exit, output.ToString(), error.ToString());
    }

    public static string[] Lines(string text) => text.Split(Environment.NewLine, StringSplitOptions.RemoveEmptyEntries);

    /// <summary>The cells of each line of a Markdown table.</summary>
    public static string[][] Cells(string table) => [.. Lines(table).Where(line => line.StartsWith('|')).Select(line => line.Trim('|').Split('|', StringSplitOptions.TrimEntries))];
}
