namespace Native.Scheduling.Slo;

/// <summary>The windows over which good and bad requests are summed.</summary>
public enum BudgetWindow
{
    /// <summary>5 minutes.</summary>
    FiveMinutes,

    /// <summary>30 minutes.</summary>
    HalfHour,

    /// <summary>1 hour.</summary>
    Hour,

    /// <summary>2 hours.</summary>
    TwoHours,

    /// <summary>6 hours.</summary>
    SixHours,

    /// <summary>1 day.</summary>
    Day,

    /// <summary>3 days.</summary>
    ThreeDays,

    /// <summary>The objective's own window, up to 30 days.</summary>
    Period,
}

/// <summary>How long the windows are, and what they are called.</summary>
public static class BudgetWindows
{
    /// <summary>Seconds a pair of counts is for.</summary>
    public const int PairSeconds = 10;

    private static readonly int[] Lengths = [300, 1800, 3600, 7200, 21600, 86400, 259200];
    private static readonly string[] Names = ["5m", "30m", "1h", "2h", "6h", "1d", "3d"];

    /// <summary>The longest window of an objective.</summary>
    public static readonly TimeSpan Longest = TimeSpan.FromDays(30);

    /// <summary>All windows but the objective's own, shortest first.</summary>
    public static IEnumerable<BudgetWindow> Fixed => Enumerable.Range(0, Lengths.Length).Select(i => (BudgetWindow)i);

    /// <summary>A window's length in seconds.</summary>
    public static int Seconds(BudgetWindow window, SloObjective objective) =>
        window == BudgetWindow.Period ? (int)objective.Window.TotalSeconds : Lengths[(int)window];

    /// <summary>As Prometheus writes the time, e.g. <c>5m</c>.</summary>
    /// <param name="window">Any but <see cref="BudgetWindow.Period"/>.</param>
    public static string Name(BudgetWindow window) => Names[(int)window];
}

/// <summary>Good and bad requests of a window.</summary>
public readonly record struct BudgetCounts(long Good, long Bad)
{
    /// <summary>Both.</summary>
    public long Total => Good + Bad;

    /// <summary>The share that is bad; 0 where there are none.</summary>
    public double BadRatio => Bad == 0 ? 0 : (double)Bad / Total;
}
