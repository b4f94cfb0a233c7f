namespace Native.Scheduling.Slo;

/// <summary>How urgent a burn is.</summary>
public enum BurnSeverity
{
    /// <summary>Somebody is to be woken.</summary>
    Page,

    /// <summary>Somebody is to look in working hours.</summary>
    Ticket,
}

/// <summary>Two windows that must both burn faster than a rate.</summary>
/// <param name="Long">The window in which the budget is spent.</param>
/// <param name="Short">A twelfth of it, so that the alert ends soon after the burn does.</param>
/// <param name="Tenths">Ten times the burn rate of a 30-day budget: 144 is 14.4 times as fast as the budget
/// allows.</param>
/// <param name="Severity">How urgent it is.</param>
public readonly record struct BurnPair(BudgetWindow Long, BudgetWindow Short, int Tenths, BurnSeverity Severity)
{
    /// <summary>The burn rate for an objective's window: the same share of the budget spent in the same time (2, 5, 10
    /// and 10 % in 1 h, 6 h, 1 d and 3 d).</summary>
    public double Factor(SloObjective objective) => Tenths / 10.0 * (objective.Window / BudgetWindows.Longest);
}

/// <summary>When a budget burns too fast: several windows, several rates (Google's SRE workbook, table 5-8, with
/// Sloth's third pair).</summary>
/// <remarks>
/// A threshold scales with traffic. The share of the budget that a window may spend is a number of requests, so a
/// window with less than the mean traffic of the period is measured against the mean: a quiet night's errors weigh as
/// much as they cost. Where more than half of a window's requests fail, its own traffic counts: that is an outage. A
/// page needs more than three bad requests besides. A window of fewer than <see cref="SloSpec.MinEvents"/> requests
/// must exceed its threshold by an exact binomial bound.
/// </remarks>
public static class BurnRates
{
    /// <summary>Bad requests that page nobody, whatever their share.</summary>
    public const int Tolerated = 3;

    /// <summary>One-sided error of the binomial bound: windows are looked at each second.</summary>
    private const double Doubt = 0.001;

    private const long Month = 30 * 86400L;

    /// <summary>Pages first, fastest first.</summary>
    public static readonly BurnPair[] Pairs =
    [
        new(BudgetWindow.Hour, BudgetWindow.FiveMinutes, 144, BurnSeverity.Page),
        new(BudgetWindow.SixHours, BudgetWindow.HalfHour, 60, BurnSeverity.Page),
        new(BudgetWindow.Day, BudgetWindow.TwoHours, 30, BurnSeverity.Ticket),
        new(BudgetWindow.ThreeDays, BudgetWindow.SixHours, 10, BurnSeverity.Ticket),
    ];

    /// <summary>How many times as fast as the budget allows requests are bad; 1 spends it exactly.</summary>
    public static double Of(BudgetCounts counts, SloObjective objective) =>
        counts.BadRatio / ((double)objective.Budget / 1_000_000_000);

    /// <summary>The share of the budget that is left, negative where more was spent than there was.</summary>
    /// <param name="period">The counts of <see cref="BudgetWindow.Period"/>.</param>
    /// <param name="objective">Whose budget.</param>
    public static double Remaining(BudgetCounts period, SloObjective objective) => 1 - Of(period, objective);

    /// <summary>Whether a pair of windows burns too fast.</summary>
    /// <param name="pair">Which.</param>
    /// <param name="longer">Counts of its long window.</param>
    /// <param name="shorter">Counts of its short window.</param>
    /// <param name="period">Counts of the objective's window.</param>
    /// <param name="objective">Whose budget.</param>
    /// <param name="minEvents">See <see cref="SloSpec.MinEvents"/>.</param>
    public static bool Fires(
        in BurnPair pair, BudgetCounts longer, BudgetCounts shorter, BudgetCounts period, SloObjective objective,
        int minEvents)
    {
        if (pair.Severity == BurnSeverity.Page && longer.Bad <= Tolerated) return false;
        if (!Exceeds(pair, longer, objective, minEvents) || !Exceeds(pair, shorter, objective, minEvents)) return false;
        return 2 * longer.Bad > longer.Total || ExceedsAtMeanTraffic(pair, longer, period, objective);
    }

    /// <summary>P(X >= <paramref name="bad"/>) for X of a binomial distribution.</summary>
    internal static double Tail(long bad, long total, double p)
    {
        double term = Math.Pow(1 - p, total), below = 0;
        for (long k = 0; k < bad; k++)
        {
            below += term;
            term *= (double)(total - k) / (k + 1) * (p / (1 - p));
        }
        return 1 - below;
    }

    private static bool Exceeds(in BurnPair pair, BudgetCounts counts, SloObjective objective, int minEvents)
    {
        if (!IsAbove(pair, counts.Bad, counts.Total, 1, objective)) return false;
        if (counts.Total >= minEvents) return true;
        double threshold = pair.Factor(objective) * objective.Budget / 1_000_000_000;
        return Tail(counts.Bad, counts.Total, threshold) < Doubt;
    }

    /// <summary>Whether the long window's bad requests would be too many in a window of the period's mean
    /// traffic.</summary>
    private static bool ExceedsAtMeanTraffic(
        in BurnPair pair, BudgetCounts longer, BudgetCounts period, SloObjective objective)
    {
        int seconds = BudgetWindows.Seconds(pair.Long, objective);
        int periodSeconds = BudgetWindows.Seconds(BudgetWindow.Period, objective);
        return IsAbove(pair, longer.Bad, (Int128)period.Total * seconds, periodSeconds, objective);
    }

    /// <summary>Whether bad / (total / divisor) is above the pair's rate times the budget, exactly.</summary>
    private static bool IsAbove(in BurnPair pair, long bad, Int128 total, long divisor, SloObjective objective) =>
        (Int128)bad * divisor * (10 * Month * 1_000_000_000)
        > (Int128)pair.Tenths * (long)objective.Window.TotalSeconds * objective.Budget * total;
}
