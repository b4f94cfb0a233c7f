using System.Globalization;
using System.Text.Json;
using System.Text.RegularExpressions;
using Native.Scheduling.Slo;
using Native.Server.Metrics;
using Native.Server.Slo;
using Native.Tools;

namespace Native.Tests.Tools;

public sealed partial class SloCommandTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("native-slo-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public async Task Check_TellsBudgets_OrEveryMistake()
    {
        string spec = Write(SloFile.Example);
        (int exit, string output, string error) = await Run("slo", "check", spec);
        Assert.Equal((Cli.Success, ""), (exit, error));
        Assert.Contains("first-token: 1 % of the online requests of 30 days may be bad", output);
        Assert.Contains("may be bad; good is ttft within 0.5 s", output);
        Assert.Contains("answered: 0.1 % of the online requests of 30 days may be bad", output);
        Assert.Contains("good is an answer; only watched", output);
        Write(SloFile.Example.Replace("sli:", "sly:"));
        (exit, output, error) = await Run("slo", "check", spec);
        Assert.Equal((Cli.Failed, ""), (exit, output));
        Assert.Equal(4, error.Split('\n', StringSplitOptions.RemoveEmptyEntries).Length); // two wrong, two missing
        Assert.Contains($"native: {spec}, line 3, column 5: 'sly' is no key here", error);
        (exit, _, error) = await Run("slo", "check", spec + ".none");
        Assert.Equal(Cli.Failed, exit);
        Assert.Contains("can't be read", error);
    }

    [Theory]
    [InlineData("ttft", "300ms", "native_time_to_first_token_seconds", "0.25s, 0.5s")]
    [InlineData("tpot", "60ms", "native_time_per_output_token_seconds", "0.05s, 0.075s")]
    [InlineData("itl", "60ms", "native_inter_token_latency_seconds", "0.05s, 0.075s")]
    [InlineData("e2e", "7s", "native_e2e_request_latency_seconds", "5s, 10s")]
    public async Task AThresholdThatIsNoBucket_IsWarnedOf_AndNotDrawn(
        string sli, string threshold, string histogram, string buckets)
    {
        string spec = Write($"slos: [{{name: a, sli: {sli}, threshold: {threshold}, objective: 99}}]");
        string folder = Path.Combine(_folder, "out");
        foreach (string[] command in (string[][])[["check", spec], ["compile", spec, "--out", folder]])
        {
            (int exit, _, string error) = await Run(["slo", .. command]);
            Assert.Equal(Cli.Success, exit);
            Assert.Equal(1, Regex.Count(error, $"no bucket of {histogram}"));
            Assert.Contains(buckets, error);
        }
        Assert.Equal(4, Directory.GetFiles(folder).Length);
        string dashboard = File.ReadAllText(Path.Combine(folder, SloCompileCommand.Dashboard));
        Assert.DoesNotContain($"{histogram}_bucket", dashboard);
    }

    [Fact]
    public async Task Compile_WritesItsFiles_AndReplacesNoneUnasked()
    {
        string spec = Write(SloFile.Example), folder = Path.Combine(_folder, "rules");
        (int exit, string output, string error) = await Run("slo", "compile", spec, "--out", folder);
        Assert.Equal((Cli.Success, ""), (exit, error));
        string[] files = [.. Directory.GetFiles(folder).Order()];
        Assert.Equal(files, output.Split('\n', StringSplitOptions.RemoveEmptyEntries).Order());
        Assert.Equal(
            [
                "native-slo-dashboard.json", "native-slo-page-tests.yml", "native-slo-rules.yml",
                "native-slo-ticket-tests.yml",
            ],
            files.Select(Path.GetFileName));
        (exit, _, error) = await Run("slo", "compile", spec, "--out", folder);
        Assert.Equal(Cli.Misused, exit);
        Assert.Contains("--force replaces it", error);
        Assert.Equal(Cli.Success, (await Run("slo", "compile", spec, "--out", folder, "--force")).Exit);
    }

    [Fact]
    public void Rules_AskOfTheServerWhatItExports_AndBurnAsTheLedgerDoes()
    {
        SloSpec spec = SloFile.Parse("f", SloFile.Example);
        string rules = SloRules.Write(spec), dashboard = SloDashboard.Write(spec);
        string[] exported =
        [
            .. MetricTable.Numbers.Select(row => row.Native?.Name).OfType<string>(),
            .. MetricTable.Requests.Select(row => row.Native?.Name).OfType<string>()
                .SelectMany(name => (string[])[$"{name}_bucket", $"{name}_count"]),
        ];
        string[] asked = [.. Metric().Matches(rules + dashboard).Select(match => match.Value).Distinct().Order()];
        Assert.Equal(
            [
                "native_slo_bad_total", "native_slo_budget_remaining_ratio", "native_slo_burn_rate",
                "native_slo_good_total", "native_time_to_first_token_seconds_bucket",
                "native_time_to_first_token_seconds_count",
            ], asked);
        Assert.Empty(asked.Except(exported));
        Assert.Contains("le=\"0.5\"", JsonDocument.Parse(dashboard).RootElement.GetRawText().Replace("\\\"", "\""));
        foreach (string window in (string[])["5m", "30m", "1h", "2h", "6h", "1d", "3d", "30d"])
            Assert.Equal(2, Regex.Count(rules, $"record: slo:sli_error:ratio_rate{window}\n"));
        foreach (string factor in (string[])["14.4 * 0.01", "6 * 0.01", "3 * 0.01", "1 * 0.01", "14.4 * 0.001"])
            Assert.Equal(2, Regex.Count(rules, Regex.Escape($"> ({factor}))")));
        Assert.Contains("role: 'watch'", rules);
    }

    [Fact]
    public void EveryAlertOfAnObjective_IsTested_WhereItCanFireAtAll()
    {
        SloSpec spec = SloFile.Parse("f", """
            slos:
            - {name: strict, sli: availability, objective: 99.99999}
            - {name: loose, sli: availability, objective: 90}
            - {name: short, sli: availability, objective: 99, window: 7d}
            """);
        string pages = SloRuleTests.Write(spec, BurnSeverity.Page, "r.yml");
        string tickets = SloRuleTests.Write(spec, BurnSeverity.Ticket, "r.yml");
        Assert.All(
            ["strict, 1h and 5m", "strict, 6h and 30m", "loose, 6h and 30m", "short, 1h and 5m", "loose, three bad"],
            name => Assert.Contains($"- name: {name}", pages));
        Assert.DoesNotContain("loose, 1h and 5m", pages); // 14.4 times 10 % is more than all
        Assert.All(["strict, 1d and 2h", "strict, 3d and 6h", "loose, 1d and 2h", "short, 3d and 6h"],
            name => Assert.Contains($"- name: {name}", tickets));
    }

    private string Write(string text)
    {
        string path = Path.Combine(_folder, "slo.yml");
        File.WriteAllText(path, text);
        return path;
    }

    private static async Task<(int Exit, string Output, string Error)> Run(params string[] command)
    {
        StringWriter output = new(CultureInfo.InvariantCulture), error = new(CultureInfo.InvariantCulture);
        using Terminal terminal = new(TextReader.Null, output, error);
        int exit = await Cli.RunAsync(command, terminal);
        return (exit, output.ToString(), error.ToString());
    }

    [GeneratedRegex("native_[a-z0-9_]+")]
    private static partial Regex Metric();
}
