namespace Native.Scheduling.Slo;

/// <summary>How a request ended, as far as promises go.</summary>
public enum SloOutcome
{
    /// <summary>It was answered as far as its reader wanted.</summary>
    Served,

    /// <summary>It was refused, came too late or failed: bad for every objective.</summary>
    Broken,

    /// <summary>Its client ended it: neither good nor bad.</summary>
    Withdrawn,
}

/// <summary>A request that ended, as objectives judge it.</summary>
public readonly record struct SloEvent
{
    /// <summary>How it ended.</summary>
    public required SloOutcome Outcome { get; init; }

    /// <summary>Its class, or empty.</summary>
    public required string Class { get; init; }

    /// <summary>Whose it is, or empty.</summary>
    public required string Tenant { get; init; }

    /// <summary>Time to the first token; null where there was none.</summary>
    public TimeSpan? Ttft { get; init; }

    /// <summary>Time per token after the first; null where there was no second.</summary>
    public TimeSpan? Tpot { get; init; }

    /// <summary>Longest time between two tokens of a choice; null where none had a second.</summary>
    public TimeSpan? Itl { get; init; }

    /// <summary>From arrival to end.</summary>
    public TimeSpan? E2e { get; init; }

    /// <summary>Whether this objective is for such requests.</summary>
    internal static bool Matches(SloObjective objective, string requestClass, string tenant) =>
        IsOf(objective, requestClass)
        && (objective.Tenant is null || objective.Tenant == tenant);

    private const string Batch = "batch"; // as the scheduler names the class

    /// <summary>Whether an objective is of a class. One without a class is of all but batch work, which promises
    /// nothing unless it is named.</summary>
    internal static bool IsOf(SloObjective objective, string requestClass) =>
        objective.Class is { } of ? of == requestClass : requestClass != Batch;

    /// <summary>True for good, false for bad, null where the objective does not speak of it.</summary>
    internal bool? Judge(SloObjective objective)
    {
        if (Outcome == SloOutcome.Withdrawn || !Matches(objective, Class, Tenant)) return null;
        if (Outcome == SloOutcome.Broken) return false;
        TimeSpan? measured = objective.Sli switch
        {
            SliKind.Ttft => Ttft,
            SliKind.Tpot => Tpot,
            SliKind.Itl => Itl,
            SliKind.E2e => E2e,
            _ => TimeSpan.Zero,
        };
        return measured is { } time ? time <= (objective.Threshold ?? TimeSpan.Zero) : null;
    }
}
