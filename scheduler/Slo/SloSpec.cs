using System.Globalization;

namespace Native.Scheduling.Slo;

/// <summary>What a service-level objective measures of a request (its indicator).</summary>
public enum SliKind
{
    /// <summary>It was answered: neither refused because the queue was full, nor late, nor failed.</summary>
    Availability,

    /// <summary>Time to the first token, from arrival.</summary>
    Ttft,

    /// <summary>Time per output token: (last token - first token) / (tokens of a choice - 1).</summary>
    Tpot,

    /// <summary>Inter-token latency: the longest time between two tokens of one choice.</summary>
    Itl,

    /// <summary>From arrival to the last choice's end.</summary>
    E2e,
}

/// <summary>What an objective is for.</summary>
public enum SloRole
{
    /// <summary>Admission may act on its budget, and people are told.</summary>
    Control,

    /// <summary>People are told; admission does not look at it.</summary>
    Watch,
}

/// <summary>One service-level objective: this share of these requests is to be this good.</summary>
public sealed record SloObjective
{
    /// <summary>Its name in metrics, alerts and the state file: letters, digits, '-' and '_'.</summary>
    public required string Name { get; init; }

    /// <summary>What is measured.</summary>
    public required SliKind Sli { get; init; }

    /// <summary>The longest time that is good; null for <see cref="SliKind.Availability"/>.</summary>
    public TimeSpan? Threshold { get; init; }

    /// <summary>Percent of the requests that are to be good, from 50 to below 100, at most seven decimals.</summary>
    public required decimal Percent { get; init; }

    /// <summary>The time the budget is for, 7 to 30 days. Default 30 days, the SRE workbook's.</summary>
    public TimeSpan Window { get; init; } = TimeSpan.FromDays(30);

    /// <summary>Only requests of this class; null for all.</summary>
    public string? Class { get; init; }

    /// <summary>Only requests of this tenant; null for all.</summary>
    public string? Tenant { get; init; }

    /// <summary>Whether admission may act on it. Default yes.</summary>
    public SloRole Role { get; init; }

    /// <summary>The share of requests that may be bad, in parts of 1,000,000,000: whole numbers, so that a ratio that
    /// lies on a threshold is compared exactly.</summary>
    internal long Budget => (long)((100 - Percent) * 10_000_000);

    /// <summary>What its counts mean, as the state file keeps it: all but name and role.</summary>
    internal string Definition => string.Create(CultureInfo.InvariantCulture,
        $"{Sli} {Threshold?.Ticks ?? 0} {Budget} {Window.Ticks} class={Class} tenant={Tenant}");

    /// <summary>Everything that is wrong with it: a key of the spec, and a sentence to stand behind "KEY is VALUE;", or
    /// "KEY is missing;".</summary>
    public IEnumerable<(string Key, string Why)> Mistakes()
    {
        if (Name.Length is 0 or > 63 || !Name.All(c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_'))
            yield return ("name", "it must have 1 to 63 letters, digits, '-' and '_'.");
        if (Sli == SliKind.Availability && Threshold is not null) yield return ("threshold", "availability has none.");
        if (Sli != SliKind.Availability && Threshold is null)
            yield return ("threshold", $"{Sli.ToString().ToLowerInvariant()} is good up to a time.");
        if (Threshold is { } threshold && (threshold <= TimeSpan.Zero || threshold > TimeSpan.FromDays(1)))
            yield return ("threshold", "it must be above 0 and at most 1d.");
        if (Percent is < 50 or >= 100 || Percent * 10_000_000 % 1 != 0)
            yield return ("objective", "it must be a percentage from 50 to below 100, at most 7 decimals.");
        bool isLong = Window >= TimeSpan.FromDays(7) && Window <= BudgetWindows.Longest;
        if (!isLong || Window.Ticks % TimeSpan.TicksPerHour != 0)
            yield return ("window", "it must be from 7d to 30d, in whole hours.");
        foreach ((string key, string? value) in ((string, string?)[])[("class", Class), ("tenant", Tenant)])
        {
            if (value is not null && (value.Length is 0 or > 256 || value.Any(char.IsControl)))
                yield return (key, "it must have 1 to 256 characters, no control characters.");
        }
    }
}

/// <summary>The objectives a server holds itself to.</summary>
/// <param name="Objectives">At most <see cref="MaxObjectives"/>, each with a name of its own.</param>
public sealed record SloSpec(IReadOnlyList<SloObjective> Objectives)
{
    /// <summary>Most objectives: each is asked of every request, and 30 days of it take 2 MB.</summary>
    public const int MaxObjectives = 32;

    /// <summary>Requests a window must have for its ratio to be believed; fewer are judged by an exact binomial bound.
    /// Default 100.</summary>
    public int MinEvents { get; init; } = 100;
}
