using System.Globalization;
using System.Text;
using Native.Scheduling.Slo;

namespace Native.Tools;

/// <summary>Prometheus rules for objectives, with the names and labels of Sloth's, so that dashboards made for those
/// find them.</summary>
/// <remarks>
/// The ratios are of what the server counted, so that refusals, classes and tenants are in them, and of all servers
/// together. Two things differ from the engine's own alerts: the ratio over the objective's window is Sloth's mean of
/// 5-minute ratios, not weighted by requests, and thresholds don't scale with the traffic of the window. That three bad
/// requests page nobody holds here too.
/// </remarks>
internal static class SloRules
{
    /// <summary>What an alert of a severity is called.</summary>
    public static string AlertName(BurnSeverity severity) => $"NativeSlo{severity}";

    /// <summary>All rules, as YAML. Those of an objective are in one group: they are evaluated in order.</summary>
    public static string Write(SloSpec spec)
    {
        StringBuilder text =
            new("# Written by native's tools slo compile. Change the objectives, not this file.\ngroups:\n");
        foreach (SloObjective objective in spec.Objectives)
        {
            text.Append(CultureInfo.InvariantCulture, $"- name: native-slo-{objective.Name}\n  rules:\n");
            foreach (BudgetWindow window in BudgetWindows.Fixed)
            {
                string name = BudgetWindows.Name(window);
                Record(text, objective, $"slo:sli_error:ratio_rate{name}", RatioOver(objective, name), name);
            }
            string period = PeriodOf(objective);
            string id = $"sloth_id=\"{IdOf(objective)}\"";
            string short5 = $"slo:sli_error:ratio_rate5m{{{id}}}";
            Record(text, objective, $"slo:sli_error:ratio_rate{period}",
                $"sum_over_time({short5}[{period}]) / ignoring (sloth_window) count_over_time({short5}[{period}])",
                period);
            decimal ratio = objective.Percent / 100;
            Record(text, objective, "slo:objective:ratio", Vector(ratio));
            Record(text, objective, "slo:error_budget:ratio", Vector(1 - ratio));
            Record(text, objective, "slo:time_period:days", Vector((decimal)objective.Window.TotalDays));
            string budget = $"ignoring (sloth_window) group_left slo:error_budget:ratio{{{id}}}";
            Record(text, objective, "slo:current_burn_rate:ratio", $"{short5} / {budget}");
            Record(text, objective, "slo:period_burn_rate:ratio",
                $"slo:sli_error:ratio_rate{period}{{{id}}} / {budget}");
            Record(text, objective, "slo:period_error_budget_remaining:ratio",
                $"1 - slo:period_burn_rate:ratio{{{id}}}");
            Record(text, objective, "sloth_slo_info", Vector(1));
            Entry(text, "sloth_objective", objective.Percent.ToString(CultureInfo.InvariantCulture));
            foreach (BurnSeverity severity in Enum.GetValues<BurnSeverity>()) Alert(text, objective, severity);
        }
        return text.ToString();
    }

    /// <summary>The labels an alert comes with, in the order of their names.</summary>
    public static (string Name, string Value)[] LabelsOf(SloObjective objective, BurnSeverity severity) =>
    [
        ("role", objective.Role.ToString().ToLowerInvariant()),
        ("severity", severity.ToString().ToLowerInvariant()),
        .. SlothLabels(objective),
    ];

    /// <summary>What an alert says.</summary>
    public static (string Name, string Value)[] AnnotationsOf(SloObjective objective, BurnSeverity severity) =>
    [
        ("summary", $"{objective.Name}: the error budget burns too fast ({severity.ToString().ToLowerInvariant()})"),
    ];

    /// <summary>As Prometheus writes the objective's window.</summary>
    public static string PeriodOf(SloObjective objective)
    {
        double hours = objective.Window.TotalHours;
        return hours % 24 == 0 ? $"{hours / 24}d" : $"{hours}h";
    }

    private static string IdOf(SloObjective objective) => $"native-{objective.Name}";

    private static (string Name, string Value)[] SlothLabels(SloObjective objective) =>
        [("sloth_id", IdOf(objective)), ("sloth_service", "native"), ("sloth_slo", objective.Name)];

    /// <summary>The share of bad requests; nothing where there were no requests, rather than 0 / 0.</summary>
    private static string RatioOver(SloObjective objective, string window)
    {
        string bad = $"sum(rate(native_slo_bad_total{{slo=\"{objective.Name}\"}}[{window}]))";
        string good = $"sum(rate(native_slo_good_total{{slo=\"{objective.Name}\"}}[{window}]))";
        return $"{bad} / ({bad} + {good} > 0)";
    }

    private static string Vector(decimal value) => string.Create(CultureInfo.InvariantCulture, $"vector({value})");

    private static void Record(
        StringBuilder text, SloObjective objective, string name, string expression, string? window = null)
    {
        text.Append(CultureInfo.InvariantCulture, $"  - record: {name}\n    expr: {Quote(expression)}\n    labels:\n");
        foreach ((string label, string value) in SlothLabels(objective)) Entry(text, label, value);
        if (window is not null) Entry(text, "sloth_window", window);
    }

    private static void Alert(StringBuilder text, SloObjective objective, BurnSeverity severity)
    {
        string expression = string.Join(" or ",
            BurnRates.Pairs.Where(pair => pair.Severity == severity).Select(pair => Condition(pair, objective)));
        text.Append(CultureInfo.InvariantCulture,
            $"  - alert: {AlertName(severity)}\n    expr: {Quote(expression)}\n    labels:\n");
        foreach ((string label, string value) in LabelsOf(objective, severity)) Entry(text, label, value);
        text.Append("    annotations:\n");
        foreach ((string name, string value) in AnnotationsOf(objective, severity)) Entry(text, name, value);
    }

    private static string Condition(BurnPair pair, SloObjective objective)
    {
        string longer = BudgetWindows.Name(pair.Long);
        string both = $"{Above(pair.Short)} and {Above(pair.Long)}";
        if (pair.Severity != BurnSeverity.Page) return $"({both})";
        // Half a request more: increase() makes more of a count that changed near the window's edge.
        return string.Create(CultureInfo.InvariantCulture,
            $"({both} and on () (sum(increase(native_slo_bad_total{{slo=\"{objective.Name}\"}}[{longer}])) > "
            + $"{BurnRates.Tolerated + 0.5}))");

        string Above(BudgetWindow window) => string.Create(CultureInfo.InvariantCulture,
            $"max(slo:sli_error:ratio_rate{BudgetWindows.Name(window)}{{sloth_id=\"{IdOf(objective)}\"}} > "
            + $"({pair.Factor(objective)} * {1 - (objective.Percent / 100)})) without (sloth_window)");
    }

    private static void Entry(StringBuilder text, string name, string value) =>
        text.Append(CultureInfo.InvariantCulture, $"      {name}: {Quote(value)}\n");

    private static string Quote(string value) => "'" + value.Replace("'", "''") + "'";
}
