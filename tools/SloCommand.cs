using System.CommandLine;
using System.Globalization;
using Native.Scheduling.Slo;
using Native.Server.Metrics;
using Native.Server.Serving;
using Native.Server.Slo;

namespace Native.Tools;

/// <summary><c>slo</c>: service-level objectives, as <c>--slo</c> of the server reads them.</summary>
internal sealed class SloCommand : Command
{
    public SloCommand(Terminal terminal)
        : base("slo", "Checks service-level objectives, and writes Prometheus rules for them.")
    {
        Add(new SloCheckCommand(terminal));
        Add(new SloCompileCommand(terminal));
    }

    /// <summary>The argument of both.</summary>
    public static Argument<string> SpecArgument() => new("SPEC")
    {
        Description = "The objectives, in YAML. An example:\n\n" + SloFile.Example,
    };

    /// <summary>Reads objectives, and warns of thresholds that their histograms can't show.</summary>
    /// <exception cref="ConfigFileException">The file says what can't be.</exception>
    public static SloSpec Read(Terminal terminal, string path)
    {
        SloSpec spec = SloFile.Read(path);
        foreach (SloObjective objective in spec.Objectives)
        {
            if (MetricTable.NoBucketOf(objective) is not { } wrong) continue;
            double[] buckets = MetricTable.HistogramOf(objective.Sli)!.Value.Buckets;
            terminal.Error.WriteLine(
                $"native: warning: {path}: {wrong}, so the dashboard can't show the histogram beside it; its buckets "
                    + $"are {string.Join(", ", buckets.Select(Seconds))}.");
        }
        return spec;
    }

    private static string Seconds(double bound) => string.Create(CultureInfo.InvariantCulture, $"{bound}s");
}

/// <summary><c>slo check</c>: what a file of objectives says.</summary>
internal sealed class SloCheckCommand : ToolCommand
{
    private readonly Argument<string> _spec = SloCommand.SpecArgument();

    public SloCheckCommand(Terminal terminal)
        : base(terminal, "check", "Says what is wrong with objectives, or what their budgets are.", "slo check slo.yml")
    {
        Add(_spec);
    }

    protected override Task<int> RunAsync(ParseResult arguments)
    {
        foreach (SloObjective objective in SloCommand.Read(Terminal, arguments.GetRequiredValue(_spec)).Objectives)
        {
            decimal bad = 100 - objective.Percent;
            Terminal.Out.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"{objective.Name}: {bad} % of {Whose(objective)} of {objective.Window.TotalDays} days may be bad"
                    + $"; {Good(objective)}{(objective.Role == SloRole.Watch ? "; only watched" : "")}"));
        }
        return Task.FromResult(Cli.Success);
    }

    private static string Whose(SloObjective objective) =>
        $"the {objective.Class ?? "online"} requests"
            + (objective.Tenant is { } tenant ? $" of tenant '{tenant}'" : "");

    private static string Good(SloObjective objective) => objective.Threshold is { } most
        ? string.Create(CultureInfo.InvariantCulture,
            $"good is {objective.Sli.ToString().ToLowerInvariant()} within {most.TotalSeconds} s")
        : "good is an answer";
}

/// <summary><c>slo compile</c>: rules, their tests and a dashboard.</summary>
internal sealed class SloCompileCommand : ToolCommand
{
    public const string Rules = "native-slo-rules.yml";
    public const string PageTests = "native-slo-page-tests.yml";
    public const string TicketTests = "native-slo-ticket-tests.yml";
    public const string Dashboard = "native-slo-dashboard.json";

    private readonly Argument<string> _spec = SloCommand.SpecArgument();
    private readonly Option<string> _out = new("--out", "-o")
    {
        HelpName = "DIR",
        Description =
            $"The folder for {Rules}, {PageTests}, {TicketTests} and {Dashboard}; it is made where it is not there.",
        Required = true,
    };
    private readonly Option<bool> _force = new("--force") { Description = "Replace files that are there." };

    public SloCompileCommand(Terminal terminal)
        : base(terminal, "compile",
            "Writes Prometheus recording and alert rules named as Sloth's, from the native_slo_ counters of servers "
                + "that have the same file as --slo; tests of the rules for promtool, whose times are those at which "
                + "the engine's own ledger would page; and a dashboard for Grafana.",
            "slo compile slo.yml --out rules")
    {
        Add(_spec);
        Add(_out);
        Add(_force);
    }

    protected override Task<int> RunAsync(ParseResult arguments)
    {
        SloSpec spec = SloCommand.Read(Terminal, arguments.GetRequiredValue(_spec));
        string folder = arguments.GetRequiredValue(_out);
        bool force = arguments.GetValue(_force);
        (string Name, string Text)[] files =
        [
            (Rules, SloRules.Write(spec)),
            (PageTests, SloRuleTests.Write(spec, BurnSeverity.Page, Rules)),
            (TicketTests, SloRuleTests.Write(spec, BurnSeverity.Ticket, Rules)),
            (Dashboard, SloDashboard.Write(spec)),
        ];
        foreach ((string name, _) in files) OutputFile.Check(Path.Combine(folder, name), force);
        Directory.CreateDirectory(folder);
        foreach ((string name, string text) in files)
        {
            string path = Path.Combine(folder, name);
            File.WriteAllText(path + ".new", text);
            File.Move(path + ".new", path, overwrite: true);
            Terminal.Out.WriteLine(path);
        }
        return Task.FromResult(Cli.Success);
    }
}
