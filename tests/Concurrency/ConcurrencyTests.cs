namespace Native.Tests.Concurrency;

/// <summary>The crossings between threads, in schedules that Coyote chooses and in memory that is weak, and on the
/// machine with threads that lose time. One test runs at a time: the model's state is the process's.</summary>
[CollectionDefinition(nameof(ConcurrencyTests))]
[Collection(nameof(ConcurrencyTests))]
public sealed class ConcurrencyTests
{
    /// <summary>Scenarios that go through a file's code, those that find most first.</summary>
    private static readonly Dictionary<string, string[]> ScenariosOf = new()
    {
        ["Inbox.cs"] =
            [
                nameof(Scenarios.InboxRefusesWhenFull), nameof(Scenarios.InboxHandsOverEachItemOnce),
                nameof(Scenarios.EngineIsWokenBySubmit),
            ],
        ["SignalStack.cs"] =
            [
                nameof(Scenarios.SignalStackLosesNoNews), nameof(Scenarios.EngineIsWokenByCancel),
                nameof(Scenarios.CancelMeetsCompletion),
            ],
        ["TokenLog.cs"] = [nameof(Scenarios.TokenLogIsReadInOrder), nameof(Scenarios.ReaderIsWoken)],
        ["SpscRing.cs"] = [nameof(Scenarios.SpscRingHandsOverEachItemOnce)],
        ["SeqLock.cs"] = [nameof(Scenarios.SeqLockIsReadWhole)],
        ["ObjectiveBudget.cs"] =
            [nameof(Scenarios.BudgetSumsAreOfOneTime), nameof(Scenarios.BudgetForgetsAtOnce)],
        ["CacheEvents.cs"] =
            [
                nameof(Scenarios.CacheEventsAreReadWhole), nameof(Scenarios.CacheContentIsCaughtUp),
                nameof(Scenarios.CacheContentIsForgottenAtOnce),
            ],
        ["Share.cs"] = [nameof(Scenarios.SharesAddUp)],
        ["RateLimit.cs"] = [nameof(Scenarios.RatesAddUp)],
        ["TokenStream.cs"] =
            [
                nameof(Scenarios.ReaderIsWoken), nameof(Scenarios.NewsIsHeardInTheNextTurn),
                nameof(Scenarios.CancelMeetsCompletion),
            ],
        ["Engine.cs"] =
            [
                nameof(Scenarios.EngineIsWokenBySubmit), nameof(Scenarios.EngineIsWokenByCancel),
                nameof(Scenarios.DrainMeetsSubmit), nameof(Scenarios.DisposeMeetsSubmit),
                nameof(Scenarios.TheShorterDrainHolds), nameof(Scenarios.CancelMeetsCompletion),
            ],
    };

    /// <summary>Every scenario.</summary>
    public static TheoryData<string> All => [.. ScenariosOf.Values.SelectMany(names => names).Distinct()];

    [Theory, MemberData(nameof(All))]
    public void AScenario_Holds_InEverySchedule(string scenario)
    {
        const int schedules = 300;
        Exploration found = Explorer.Run(scenario, schedules);
        Assert.True(found.Failure is null, $"schedule {found.Schedules}: {found.Failure}");
        Assert.Equal((schedules, schedules), (found.Schedules, found.Ended));
    }

    [Theory, MemberData(nameof(All))]
    public void AScenario_Holds_OnTheMachine_WhereThreadsLoseTime(string scenario)
    {
        Action<World> body = ModelledSources.Machine.Scenario(scenario);
        for (int i = 0; i < 200; i++)
        {
            TestContext.Current.CancellationToken.ThrowIfCancellationRequested();
            body(new StressWorld());
        }
    }

    /// <summary>Takes away each fence, order, atomicity and check of the crossings, one after the other: a scenario
    /// must fail then, or <see cref="Faults.Spared"/> says why none can.</summary>
    [Theory]
    [InlineData("Inbox.cs"), InlineData("SignalStack.cs"), InlineData("TokenLog.cs"), InlineData("SpscRing.cs")]
    [InlineData("SeqLock.cs"), InlineData("TokenStream.cs"), InlineData("Engine.cs"), InlineData("ObjectiveBudget.cs")]
    [InlineData("CacheEvents.cs"), InlineData("Share.cs"), InlineData("RateLimit.cs")]
    public void AFault_IsFound_WhereverItIsPlanted(string file)
    {
        string begin = Path.GetFileNameWithoutExtension(file) + ".";
        List<SparedFault> spared =
            [.. Faults.Spared.Where(fault => fault.Place.StartsWith(begin, StringComparison.Ordinal))];
        HashSet<SparedFault> met = [];
        List<string> missed = [];
        foreach (Site site in ModelledSources.Model.Sites.Where(site => site.File == file))
        {
            foreach (FaultKind kind in site.Kinds)
            {
                TestContext.Current.CancellationToken.ThrowIfCancellationRequested();
                if (spared.Find(f => (f.Place, f.Kind, f.Text) == (site.Place, kind, site.Text)) is { } known)
                    met.Add(known);
                else if (!IsFound(file, site.Number, kind))
                    missed.Add($"{site.Place}, line {site.Line}, {kind}: {site.Text}");
            }
        }
        Assert.True(missed.Count == 0, $"no scenario fails with\n{string.Join('\n', missed)}");
        Assert.Empty(spared.Except(met)); // a place that is no more leaves the list
    }

    /// <summary>Most faults show in a few schedules, so every scenario runs a few before one runs many.</summary>
    private static bool IsFound(string file, int site, FaultKind kind) =>
        ((int[])[20, 200, 2000]).Any(schedules =>
            ScenariosOf[file].Any(name => Explorer.Run(name, schedules, (site, kind)).Failure is not null));
}
