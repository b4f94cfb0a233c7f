using System.Globalization;
using System.Text.RegularExpressions;

namespace Native.Bench.Serve;

/// <summary>Tells what failed, by cause.</summary>
internal static partial class Failures
{
    private const int Most = 10;

    /// <summary>A line for each cause, the most frequent first. Messages that differ in their numbers alone are one
    /// cause; an HTTP status is no such number.</summary>
    public static IEnumerable<string> Tell(IEnumerable<RequestRecord> records)
    {
        List<IGrouping<string, string>> causes = [.. records.Where(record => !record.Succeeded)
            .Select(record => record.Error!.ReplaceLineEndings(" "))
            .GroupBy(CauseOf).OrderByDescending(cause => cause.Count())];
        foreach (IGrouping<string, string> cause in causes.Take(Most))
        {
            string such = cause.Distinct().Count() == 1 ? "" : "such as ";
            yield return string.Create(CultureInfo.InvariantCulture, $"{cause.Count()} failed: {such}{cause.First()}");
        }
        int others = causes.Skip(Most).Sum(cause => cause.Count());
        if (others > 0)
            yield return string.Create(
                CultureInfo.InvariantCulture, $"{others} failed for other causes; see --save-result");
    }

    private static string CauseOf(string error) => Number().Replace(error, "#");

    [GeneratedRegex(@"(?<!HTTP )\b[0-9]+(\.[0-9]+)?")]
    private static partial Regex Number();
}
