using System.Globalization;
using System.Text;
using Native.Scheduling.Slo;

namespace Native.Tools;

/// <summary>Tests of the rules for <c>promtool test rules</c>: steady traffic, then a share of it fails. When an alert
/// must fire is found by giving the engine's ledger the same requests.</summary>
internal static class SloRuleTests
{
    private const int BadAPair = 600;

    /// <summary>The tests of one severity, as YAML. Pages are looked for each minute, tickets each ten: promtool
    /// evaluates every rule at every step, and their windows are long.</summary>
    /// <param name="spec">The objectives.</param>
    /// <param name="severity">Which.</param>
    /// <param name="rules">The rules' file, beside the tests.</param>
    public static string Write(SloSpec spec, BurnSeverity severity, string rules)
    {
        int step = severity == BurnSeverity.Page ? 1 : 10;
        StringBuilder text = new(string.Create(CultureInfo.InvariantCulture,
            $"# Written by native's tools slo compile. Run: promtool test rules FILE\n"
            + $"rule_files:\n- {rules}\nevaluation_interval: {step}m\ntests:\n"));
        foreach (SloObjective objective in spec.Objectives)
        {
            foreach (BurnPair pair in BurnRates.Pairs)
            {
                if (pair.Severity == severity && Incident.Of(pair, objective, step) is { } incident)
                    Append(text, spec, objective, incident);
            }
            if (severity == BurnSeverity.Page) AppendQuietNight(text, objective);
        }
        return text.ToString();
    }

    private static void Append(StringBuilder text, SloSpec spec, SloObjective objective, Incident incident)
    {
        int fires = incident.FirstStep(spec, objective), end = incident.History + fires, step = incident.Step;
        string pair = $"{BudgetWindows.Name(incident.Pair.Long)} and {BudgetWindows.Name(incident.Pair.Short)}";
        text.Append(CultureInfo.InvariantCulture, $"- name: {objective.Name}, {pair}, after {fires * step} min\n");
        AppendSeries(text, objective, step, incident.Clean(fires), incident.Bad(fires));
        AppendAlert(text, objective, incident.Pair.Severity, (end - 1) * step, fires: false);
        AppendAlert(text, objective, incident.Pair.Severity, end * step, fires: true);
    }

    /// <summary>A request every ten minutes, of which three in a row fail.</summary>
    private static void AppendQuietNight(StringBuilder text, SloObjective objective)
    {
        text.Append(CultureInfo.InvariantCulture, $"- name: {objective.Name}, three bad requests of a quiet night\n");
        AppendSeries(text, objective, 1,
            $"{Stairs(0, 36)} 36+0x35 {Stairs(37, 12)}", "0+0x360 1+0x9 2+0x9 3+0x139");
        foreach (int minute in (int[])[361, 371, 381, 385, 420])
            AppendAlert(text, objective, BurnSeverity.Page, minute, fires: false);
    }

    /// <summary>One more every ten minutes.</summary>
    private static string Stairs(int from, int steps) =>
        string.Join(' ', Enumerable.Range(from, steps).Select(step => $"{step}+0x9"));

    private static void AppendSeries(StringBuilder text, SloObjective objective, int step, string good, string bad)
    {
        text.Append(CultureInfo.InvariantCulture, $"  interval: {step}m\n  input_series:\n");
        foreach ((string name, string values) in (ReadOnlySpan<(string, string)>)[("good", good), ("bad", bad)])
        {
            text.Append(CultureInfo.InvariantCulture,
                $"  - series: 'native_slo_{name}_total{{slo=\"{objective.Name}\"}}'\n    values: '{values}'\n");
        }
        text.Append("  alert_rule_test:\n");
    }

    private static void AppendAlert(
        StringBuilder text, SloObjective objective, BurnSeverity severity, int minute, bool fires)
    {
        text.Append(CultureInfo.InvariantCulture,
            $"  - eval_time: {minute}m\n    alertname: {SloRules.AlertName(severity)}\n");
        if (!fires)
        {
            text.Append("    exp_alerts: []\n");
            return;
        }
        text.Append("    exp_alerts:\n    - exp_labels:\n");
        foreach ((string name, string value) in SloRules.LabelsOf(objective, severity))
            text.Append(CultureInfo.InvariantCulture, $"        {name}: '{value}'\n");
        text.Append("      exp_annotations:\n");
        foreach ((string name, string value) in SloRules.AnnotationsOf(objective, severity))
            text.Append(CultureInfo.InvariantCulture, $"        {name}: '{value}'\n");
    }

    /// <summary>Steady traffic of which a share begins to fail.</summary>
    /// <param name="Pair">The windows that must fire first of their severity.</param>
    /// <param name="Step">Minutes from one look to the next.</param>
    /// <param name="History">Steps without a failure before: as long as the severity's longest window.</param>
    /// <param name="Requests">In 10 seconds.</param>
    private sealed record Incident(BurnPair Pair, int Step, int History, long Requests)
    {
        private int PairsAStep => Step * 60 / BudgetWindows.PairSeconds;

        /// <summary>One in which this pair fires first; null where the budget is too large for it to fire at
        /// all.</summary>
        /// <remarks>
        /// A window of n steps holds n samples for Prometheus, hence n - 1 steps between them, and n steps for the
        /// ledger. The share of bad requests is one with which both pass the threshold in the same step.
        /// </remarks>
        public static Incident? Of(BurnPair pair, SloObjective objective, int step)
        {
            double budget = (double)(1 - (objective.Percent / 100));
            int steps = BudgetWindows.Seconds(pair.Long, objective) / 60 / step;
            BurnPair[] same = [.. BurnRates.Pairs.Where(other => other.Severity == pair.Severity)];
            // The slow pair comes first only where the fast one does not fire.
            double most = pair == same[0] ? 1 : Math.Min(1, same[0].Factor(objective) * budget);
            double threshold = pair.Factor(objective) * budget;
            int history = (BudgetWindows.Seconds(same[^1].Long, objective) / 60 / step) + 2;
            for (int fires = 10; fires < steps; fires++)
            {
                long requests = (long)(BadAPair * (fires + 0.9) / (steps * threshold));
                double share = (double)BadAPair / requests, passed = steps * threshold / share;
                if (share < most && (int)passed == (int)(passed * (steps - 1) / steps))
                    return new Incident(pair, step, history, requests);
            }
            return null;
        }

        public string Clean(int steps)
        {
            long all = Requests * PairsAStep, clean = (Requests - BadAPair) * PairsAStep;
            return string.Create(CultureInfo.InvariantCulture,
                $"0+{all}x{History} {(all * History) + clean}+{clean}x{steps}");
        }

        public string Bad(int steps)
        {
            int bad = BadAPair * PairsAStep;
            return string.Create(CultureInfo.InvariantCulture, $"0+0x{History} {bad}+{bad}x{steps}");
        }

        /// <summary>The first step of the failures at whose end the ledger's alert is on.</summary>
        public int FirstStep(SloSpec spec, SloObjective objective)
        {
            CountingClock clock = new();
            BudgetLedger ledger = new(spec with { Objectives = [objective] }, clock);
            Count(ledger, clock, History, 0);
            for (int step = 1; step <= History; step++)
            {
                Count(ledger, clock, 1, BadAPair);
                BudgetState state = ledger.ReadState(0);
                if (Pair.Severity == BurnSeverity.Page ? state.Pages : state.Tickets) return step;
            }
            throw new InvalidOperationException($"{objective.Name}: the ledger does not see the incident.");
        }

        private void Count(BudgetLedger ledger, CountingClock clock, int steps, int bad)
        {
            for (int i = 0; i < steps * PairsAStep; i++)
            {
                ledger.Count(0, (uint)(Requests - bad), (uint)bad);
                clock.Seconds += BudgetWindows.PairSeconds;
                ledger.Advance(clock.GetTimestamp());
            }
        }
    }

    /// <summary>A clock that goes on when told.</summary>
    private sealed class CountingClock : TimeProvider
    {
        public long Seconds { get; set; }

        public override long TimestampFrequency => 1;

        public override long GetTimestamp() => Seconds;

        public override DateTimeOffset GetUtcNow() => DateTimeOffset.UnixEpoch.AddDays(365);
    }
}
