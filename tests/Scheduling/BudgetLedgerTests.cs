using System.Diagnostics;
using Native.Scheduling;
using Native.Scheduling.Slo;

namespace Native.Tests.Scheduling;

public sealed class BudgetLedgerTests
{
    private static readonly BudgetWindow[] Windows = Enum.GetValues<BudgetWindow>();

    [Theory, InlineData(1), InlineData(2), InlineData(3)]
    public void Windows_SlideAsAPlainListSays(int seed)
    {
        Random random = new(seed);
        SloClock clock = new();
        SloObjective objective = Objectives.Availability() with { Window = TimeSpan.FromDays(seed == 1 ? 30 : 7) };
        BudgetLedger ledger = new(new SloSpec([objective]), clock);
        List<(long Pair, bool Good)> all = [];
        for (int i = 0; i < 3000; i++)
        {
            for (int j = random.Next(4); j > 0; j--)
            {
                bool good = random.Next(5) > 0;
                ledger.Record(good ? Objectives.Served() : Objectives.Broken());
                all.Add((clock.Seconds / 10, good));
            }
            // Up to an hour; now and then days, and once in a while more than any window.
            clock.Seconds += random.Next(50) == 0 ? random.Next(86400 * (i % 7 == 0 ? 40 : 2)) : random.Next(3600);
            ledger.Advance(clock.Seconds);
            if (i % 10 != 0) continue;
            long open = clock.Seconds / 10;
            foreach (BudgetWindow window in Windows)
            {
                long first = open - (BudgetWindows.Seconds(window, objective) / 10);
                BudgetCounts expected = new(
                    all.Count(e => e.Pair >= first && e.Good), all.Count(e => e.Pair >= first && !e.Good));
                Assert.Equal(expected, ledger.Read(0, window));
            }
            Assert.Equal(all.Count, ledger.ReadSinceStart(0).Total);
        }
    }

    [Fact]
    public void APairLeavesEachWindow_TenSecondsAfterItsLength()
    {
        SloClock clock = new();
        SloObjective objective = Objectives.Availability();
        BudgetLedger ledger = new(new SloSpec([objective]), clock);
        ledger.Record(Objectives.Broken());
        foreach (BudgetWindow window in Windows)
        {
            clock.Seconds = BudgetWindows.Seconds(window, objective) + 9;
            ledger.Advance(clock.Seconds);
            Assert.Equal(new BudgetCounts(0, 1), ledger.Read(0, window));
            ledger.Advance(++clock.Seconds);
            Assert.Equal(default, ledger.Read(0, window));
        }
        Assert.Equal(new BudgetCounts(0, 1), ledger.ReadSinceStart(0));
    }

    [Fact]
    public void AClockThatGoesBack_MovesNothing_AndLosesNothing()
    {
        SloClock clock = new() { Seconds = 1_000_000 };
        BudgetLedger ledger = new(new SloSpec([Objectives.Availability()]), clock);
        ledger.Record(Objectives.Served());
        foreach (long seconds in (long[])[999_000, 0, 1_000_005, 5])
        {
            clock.Seconds = seconds;
            ledger.Advance(clock.Seconds);
            ledger.Record(Objectives.Broken());
        }
        Assert.Equal(new BudgetCounts(1, 4), ledger.Read(0, BudgetWindow.FiveMinutes));
        ledger.Advance(1_000_309); // five minutes and what is left of the pair
        Assert.Equal(new BudgetCounts(1, 4), ledger.Read(0, BudgetWindow.FiveMinutes));
        ledger.Advance(1_000_310);
        Assert.Equal(default, ledger.Read(0, BudgetWindow.FiveMinutes));
    }

    [Fact]
    public void AMachineWithoutAClock_BeginsIn1970()
    {
        SloClock clock = new() { Offset = TimeSpan.FromDays(-20_000) };
        BudgetLedger ledger = new(new SloSpec([Objectives.Availability()]), clock);
        Assert.Equal(DateTimeOffset.UnixEpoch, clock.GetUtcNow());
        for (int i = 0; i < 40; i++) ledger.TenSeconds(clock, 1, 0);
        Assert.Equal(new BudgetCounts(30, 0), ledger.Read(0, BudgetWindow.FiveMinutes));
        Assert.Equal(new BudgetCounts(40, 0), ledger.Read(0, BudgetWindow.Period));
    }

    [Theory]
    [InlineData(SliKind.Ttft, 1, 2, 3, 4), InlineData(SliKind.Tpot, 2, 1, 3, 4)]
    [InlineData(SliKind.Itl, 3, 1, 2, 4), InlineData(SliKind.E2e, 4, 1, 2, 3)]
    public void AnObjective_JudgesItsOwnTime(SliKind sli, int own, int b, int c, int d)
    {
        SloObjective objective = Objectives.Of(sli, own);
        TimeSpan Second(int i, int late) => TimeSpan.FromSeconds(i) + TimeSpan.FromTicks(i == late ? 1 : 0);
        SloEvent With(int late) => Objectives.Served() with
        {
            Ttft = Second(1, late),
            Tpot = Second(2, late),
            Itl = Second(3, late),
            E2e = Second(4, late),
        };
        Assert.False(With(own).Judge(objective));
        foreach (int other in (int[])[0, b, c, d]) Assert.True(With(other).Judge(objective));
        Assert.False(Objectives.Broken().Judge(objective));
        Assert.Null(With(own) with { Outcome = SloOutcome.Withdrawn } is { } gone ? gone.Judge(objective) : false);
        Assert.Null(Objectives.Served().Judge(objective)); // it had no such time
    }

    [Fact]
    public void AnObjective_SpeaksOfItsClassAndTenantAlone()
    {
        SloObjective objective = Objectives.Availability() with { Class = "chat", Tenant = "acme" };
        SloEvent ended = Objectives.Broken();
        Assert.False((ended with { Class = "chat", Tenant = "acme" }).Judge(objective));
        Assert.Null((ended with { Class = "batch", Tenant = "acme" }).Judge(objective));
        Assert.Null((ended with { Class = "chat", Tenant = "other" }).Judge(objective));
        Assert.Null(ended.Judge(objective));
        Assert.False((ended with { Class = "chat", Tenant = "acme" }).Judge(Objectives.Availability()));
        // Batch work promises nothing unless it is named: it would close the door to itself.
        Assert.Null((ended with { Class = "batch" }).Judge(Objectives.Availability()));
        Assert.False((ended with { Class = "batch" }).Judge(Objectives.Availability() with { Class = "batch" }));
    }

    [Fact]
    public void ARefusalOfAnyThread_IsCountedAtTheNextTurn_ForThoseItConcerns()
    {
        SloClock clock = new();
        SloObjective ofAcme = Objectives.Availability(name: "acme") with { Tenant = "acme" };
        BudgetLedger ledger = new(new SloSpec([Objectives.Availability(), ofAcme]), clock);
        Parallel.For(0, 1000, i => ledger.Refuse("", i % 10 == 0 ? "acme" : ""));
        Assert.Equal(0, ledger.ReadSinceStart(0).Bad);
        ledger.Advance(clock.Seconds);
        Assert.Equal((1000, 100), (ledger.ReadSinceStart(0).Bad, ledger.ReadSinceStart(1).Bad));
    }

    [Fact]
    public void AdmissionIsTold_OfBudgetsThatAreForTheRequest_AndItsToActOn()
    {
        SloClock clock = new();
        SloObjective ofChat = Objectives.Availability(name: "chat") with { Class = "chat" };
        SloObjective watched = Objectives.Availability(name: "watched") with { Role = SloRole.Watch };
        BudgetLedger ledger = new(new SloSpec([ofChat, watched]), clock);
        Assert.False(ledger.IsBurning("chat", ""));
        for (int i = 0; i < 500; i++) ledger.Record(Objectives.Broken());
        clock.Seconds++;
        ledger.Advance(clock.Seconds);
        Assert.True(ledger.ReadState(1).Pages);
        Assert.False(ledger.IsBurning("chat", ""));
        for (int i = 0; i < 500; i++) ledger.Record(Objectives.Broken() with { Class = "chat" });
        clock.Seconds++;
        ledger.Advance(clock.Seconds);
        Assert.True(ledger.IsBurning("chat", ""));
        Assert.False(ledger.IsBurning("batch", ""));
    }

    [Fact]
    public void CountingAndAdvancingAndReading_AllocateNothing()
    {
        SloClock clock = new();
        SloObjective[] all = [Objectives.Availability(), Objectives.Of(SliKind.Ttft, 1), Objectives.Of(SliKind.Itl, 1)];
        BudgetLedger ledger = new(new SloSpec(all), clock);
        SloEvent good = Objectives.Served() with { Ttft = TimeSpan.FromSeconds(0.5) }, bad = Objectives.Broken();
        Assert.Equal(0, Allocations.Of(() =>
        {
            for (int i = 0; i < 10_000; i++)
            {
                ledger.Record(i % 5 == 0 ? bad : good);
                ledger.Refuse("", "");
                clock.Seconds++;
                ledger.Advance(clock.Seconds);
                _ = ledger.ReadState(i % 3);
                _ = ledger.IsBurning("", "");
            }
        }));
        Assert.True(ledger.ReadState(0).Pages);
    }

    [Fact]
    public void AReader_NeverSeesAPairTwiceOrNot_WhileOneWrites()
    {
        SloClock clock = new();
        BudgetLedger ledger = new(new SloSpec([Objectives.Availability()]), clock);
        const int Pairs = 60_000; // in less than 30 days: no request leaves the longest window
        long written = 0;
        using CancellationTokenSource over = new();
        Task<int>[] readers = [.. Enumerable.Range(0, 2).Select(_ => Task.Run(() =>
        {
            long before = 0;
            int reads = 0;
            for (; !over.IsCancellationRequested; reads++)
            {
                BudgetCounts counts = ledger.Read(0, BudgetWindow.Period), since = ledger.ReadSinceStart(0);
                Assert.InRange(counts.Good, before, Volatile.Read(ref written) + 1);
                Assert.InRange(since.Good, counts.Good, Volatile.Read(ref written) + 1);
                before = counts.Good;
            }
            return reads;
        }))];
        for (int i = 0; i < Pairs; i++)
        {
            for (int j = 0; j < 20; j++)
            {
                ledger.Record(Objectives.Served());
                Volatile.Write(ref written, written + 1);
            }
            clock.Seconds += 10;
            ledger.Advance(clock.Seconds);
        }
        over.Cancel();
        Assert.All(readers, reader => Assert.True(reader.GetAwaiter().GetResult() > 0));
        Assert.Equal(new BudgetCounts(Pairs * 20, 0), ledger.Read(0, BudgetWindow.Period));
    }

    [Fact]
    public void WrongObjectives_AreRefused_WithEveryMistake()
    {
        SloObjective wrong = new()
        {
            Name = "a b",
            Sli = SliKind.Ttft,
            Percent = 100,
            Window = TimeSpan.FromDays(31),
            Class = "",
        };
        ArgumentException e = Assert.Throws<ArgumentException>(() => new BudgetLedger(new SloSpec([wrong])));
        Assert.All(["name", "threshold", "objective", "window", "class"],
            key => Assert.Contains($"a b, {key}: ", e.Message));
        SloObjective one = Objectives.Availability();
        Assert.Throws<ArgumentException>(() => new BudgetLedger(new SloSpec([one, one])));
    }

    /// <summary>What became of requests, and whether an objective of availability finds it good.</summary>
    [Theory]
    [InlineData("served", 1, 0), InlineData("refused", 0, 1), InlineData("expired", 0, 1), InlineData("failed", 0, 1)]
    [InlineData("cancelled", 0, 0), InlineData("invalid", 0, 0), InlineData("drained", 0, 0)]
    [InlineData("cut off", 0, 1), InlineData("cancelled late", 0, 1), InlineData("cancelled early", 0, 0)]
    public void TheEngine_CountsWhatBecameOfARequest(string what, int good, int bad)
    {
        SloObjective[] all =
        [
            Objectives.Availability(), Objectives.Of(SliKind.Ttft, 60), Objectives.Of(SliKind.Tpot, 60),
            Objectives.Of(SliKind.Itl, 60), Objectives.Of(SliKind.E2e, 60),
        ];
        BudgetLedger ledger = new(new SloSpec(all));
        EngineOptions options = new() { Budgets = ledger, MaxQueued = 1 };
        using EngineHarness harness = new(options: options);
        int[] prompt = EngineHarness.Prompt(5);
        GenerationRequest request = new() { Ids = prompt, Sampling = EngineHarness.Greedy(8) };
        switch (what)
        {
            case "refused":
                Assert.Equal(SubmitOutcome.Accepted, harness.Engine.Submit(request, out TokenStream? withdrawn));
                Assert.Equal(SubmitOutcome.QueueFull, harness.Engine.Submit(request, out _));
                withdrawn!.Cancel();
                break;
            case "expired":
                harness.Submit(prompt, deadline: 1);
                break;
            case "failed":
                harness.Runner.OnExecute = (in Native.Kernels.Batch _) => throw new InvalidOperationException("broken");
                harness.Submit(prompt);
                break;
            case "cancelled":
                harness.Submit(prompt).Stream.Cancel();
                break;
            case "cancelled late" or "cancelled early":
                Reading reading = harness.Submit(prompt, deadline: harness.Clock.Now + (10 * Stopwatch.Frequency));
                harness.Turn();
                harness.Clock.Now += (what == "cancelled late" ? 9_990 : 9_000) * (Stopwatch.Frequency / 1000);
                reading.Stream.Cancel();
                break;
            case "invalid":
                Assert.Equal(SubmitOutcome.Invalid, harness.Engine.Submit(request with { Ids = default }, out _));
                Assert.Equal(SubmitOutcome.TooLong,
                    harness.Engine.Submit(request with { Ids = new int[10_000] }, out _));
                break;
            case "drained":
                harness.Engine.Drain(TimeSpan.FromMinutes(1));
                Assert.Equal(SubmitOutcome.Draining, harness.Engine.Submit(request, out _));
                break;
            case "cut off":
                harness.Submit(prompt);
                harness.Turn();
                harness.Engine.Dispose();
                break;
            default:
                harness.Submit(prompt);
                break;
        }
        if (what != "cut off") harness.RunToEnd();
        foreach (int objective in Enumerable.Range(0, all.Length))
            Assert.Equal(new BudgetCounts(good, bad), ledger.ReadSinceStart(objective));
    }

    [Fact]
    public void TheEngine_TellsTheClass_OfWhatEndsAndOfWhatIsRefused()
    {
        SloObjective[] all =
        [
            Objectives.Availability(name: "online") with { Class = "online" },
            Objectives.Availability(name: "batch") with { Class = "batch" },
        ];
        BudgetLedger ledger = new(new SloSpec(all));
        using EngineHarness harness = new(options: new() { Budgets = ledger, MaxQueued = 1 });
        GenerationRequest batch = new()
        {
            Ids = EngineHarness.Prompt(5),
            Sampling = EngineHarness.Greedy(2),
            Class = RequestClass.Batch,
        };
        Assert.Equal(SubmitOutcome.Accepted, harness.Engine.Submit(batch, out _));
        Assert.Equal(SubmitOutcome.QueueFull, harness.Engine.Submit(batch, out _));
        Assert.Equal(SubmitOutcome.QueueFull, harness.Engine.Submit(batch with { Class = RequestClass.Online }, out _));
        harness.RunToEnd();
        Assert.Equal((new BudgetCounts(0, 1), new BudgetCounts(1, 1)),
            (ledger.ReadSinceStart(0), ledger.ReadSinceStart(1)));
    }

    /// <summary>The file of objectives is a promise: the door acts on it, for those it speaks of.</summary>
    [Theory]
    [InlineData(SloRole.Control, null, "", 500, 500), InlineData(SloRole.Watch, null, "", 500, 9000)]
    [InlineData(SloRole.Control, "batch", "", 500, 9000), InlineData(SloRole.Control, "acme", "acme", 500, 500)]
    [InlineData(SloRole.Control, "acme", "other", 500, 9000)]
    public void AnObjectivesThreshold_IsWhatIsPromised(SloRole role, string? of, string tenant, int threshold, int due)
    {
        SloObjective objective = Objectives.Of(SliKind.Ttft, threshold / 1000.0) with
        {
            Role = role,
            Class = of == "batch" ? of : null,
            Tenant = of == "batch" ? null : of,
        };
        SloObjective looser = objective with { Name = "looser", Threshold = TimeSpan.FromSeconds(3) };
        EngineOptions options = new()
        {
            Budgets = new BudgetLedger(new SloSpec([looser, objective])),
            TtftObjective = TimeSpan.FromSeconds(9),
        };
        using EngineHarness harness = new(options: options);
        GenerationRequest request = new()
        {
            Ids = EngineHarness.Prompt(5),
            Sampling = EngineHarness.Greedy(2),
            Tenant = tenant,
        };
        Assert.Equal(due * Stopwatch.Frequency / 1000, harness.Submit(request).Stream.TtftTicks);
        TimeSpan own = TimeSpan.FromSeconds(7);
        Assert.Equal(7 * Stopwatch.Frequency, harness.Submit(request with { TtftObjective = own }).Stream.TtftTicks);
        Assert.Null(options.ObjectiveOf(SliKind.Tpot, RequestClass.Online, tenant));
        harness.RunToEnd();
    }

    [Theory, InlineData(-1, FinishReason.Deadline), InlineData(10, FinishReason.Deadline)]
    [InlineData(1000, FinishReason.Cancelled)]
    public void WhoCancelsAsTheDeadlinePasses_WasLate(int milliseconds, FinishReason ended)
    {
        long end = 100 * Stopwatch.Frequency;
        RequestTimings timings = new()
        {
            Arrival = Stopwatch.Frequency,
            Finished = end,
            Deadline = end + (milliseconds * Stopwatch.Frequency / 1000),
        };
        Assert.Equal(ended, new FinishedRequest(timings, FinishReason.Cancelled, 1, 5).Ended);
        Assert.Equal(FinishReason.Error, new FinishedRequest(timings, FinishReason.Error, 1, 5).Ended);
    }

    [Fact]
    public void ARefusalByPrediction_IsBad_AndBestEffortIsJudgedByItsEnd()
    {
        // Admission would take a chance on a healthy budget's account.
        BudgetLedger ledger = new(new SloSpec([Objectives.Availability() with { Role = SloRole.Watch }]));
        using EngineHarness harness = new(options: new() { Budgets = ledger });
        harness.Runner.OnExecute = (in Native.Kernels.Batch _) => harness.Clock.Now += Stopwatch.Frequency / 10;
        for (int i = 0; i < 20; i++) // it learns that a step takes a tenth of a second
        {
            harness.Submit(EngineHarness.Prompt(5, seed: i));
            harness.RunToEnd();
        }
        Assert.Equal(new BudgetCounts(20, 0), ledger.ReadSinceStart(0));
        harness.Submit(new GenerationRequest
        {
            Ids = EngineHarness.Prompt(5, seed: 20),
            Sampling = EngineHarness.Greedy(2),
            TtftObjective = TimeSpan.FromSeconds(50), // promised something, or the next would come before it
        });
        GenerationRequest hurried = new()
        {
            Ids = EngineHarness.Prompt(5, seed: 21),
            Sampling = EngineHarness.Greedy(2),
            TtftObjective = TimeSpan.FromMilliseconds(1),
        };
        Assert.Equal(SubmitOutcome.WouldBeLate, harness.Engine.Submit(hurried, out _));
        Assert.Equal(SubmitOutcome.Accepted, harness.Engine.Submit(hurried with { BestEffort = true }, out _));
        harness.RunToEnd();
        Assert.Equal(new BudgetCounts(22, 1), ledger.ReadSinceStart(0));
    }

    [Theory, InlineData(1), InlineData(3)]
    public void TheEngine_TellsEachTime_ToATick(int n)
    {
        static IEnumerable<SloObjective> Upto(SliKind sli, double seconds)
        {
            SloObjective objective = Objectives.Of(sli, seconds);
            yield return objective with
            {
                Name = $"{sli}-short",
                Threshold = objective.Threshold - TimeSpan.FromTicks(1),
            };
            yield return objective;
        }
        SloObjective[] all =
        [
            .. Upto(SliKind.Ttft, 1), .. Upto(SliKind.Tpot, 1), .. Upto(SliKind.Itl, 2), .. Upto(SliKind.E2e, 4),
        ];
        BudgetLedger ledger = new(new SloSpec(all));
        using EngineHarness harness = new(options: new() { Budgets = ledger });
        harness.Submit(EngineHarness.Prompt(1), EngineHarness.Greedy(4) with { N = n });
        // To the first token 1 s, to the others 0.5, 0.5 and 2: on average 1 s a token after the first. What the clock
        // goes on by itself are nanoseconds, less than a tick.
        foreach (double seconds in (double[])[1, 0.5, 0.5, 2])
        {
            harness.Clock.Now += (long)(seconds * Stopwatch.Frequency);
            harness.Turn();
        }
        harness.RunToEnd();
        bool[] good = [.. Enumerable.Range(0, all.Length).Select(i => ledger.ReadSinceStart(i).Good == 1)];
        Assert.Equal([false, true, false, true, false, true, false, true], good);
        Assert.All(Enumerable.Range(0, all.Length), i => Assert.Equal(1, ledger.ReadSinceStart(i).Total));
    }
}
