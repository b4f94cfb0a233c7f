using Native.Scheduling.Slo;

namespace Native.Tests.Scheduling;

/// <summary>A clock of whole seconds that goes on when told, and may go back.</summary>
internal sealed class SloClock : TimeProvider
{
    /// <summary>1970 and 100,000 days: a whole pair begins.</summary>
    private static readonly DateTimeOffset Beginning = DateTimeOffset.UnixEpoch.AddDays(20_000);

    public long Seconds { get; set; }

    /// <summary>What the wall clock is ahead of <see cref="Seconds"/>, besides its beginning.</summary>
    public TimeSpan Offset { get; init; }

    public override long TimestampFrequency => 1;

    public override long GetTimestamp() => Seconds;

    public override DateTimeOffset GetUtcNow() => Beginning + Offset + TimeSpan.FromSeconds(Seconds);
}

/// <summary>Objectives for tests.</summary>
internal static class Objectives
{
    public static SloObjective Availability(decimal percent = 99.9m, string name = "answered") =>
        new() { Name = name, Sli = SliKind.Availability, Percent = percent };

    public static SloObjective Of(SliKind sli, double seconds) => new()
    {
        Name = sli.ToString().ToLowerInvariant(),
        Sli = sli,
        Threshold = TimeSpan.FromSeconds(seconds),
        Percent = 99,
    };

    public static SloEvent Served() => new() { Outcome = SloOutcome.Served, Class = "", Tenant = "" };

    public static SloEvent Broken() => new() { Outcome = SloOutcome.Broken, Class = "", Tenant = "" };

    /// <summary>Lets time go on by ten seconds in which these requests end.</summary>
    public static void TenSeconds(this BudgetLedger ledger, SloClock clock, uint good, uint bad)
    {
        ledger.Count(0, good, bad);
        clock.Seconds += 10;
        ledger.Advance(clock.Seconds);
    }
}
