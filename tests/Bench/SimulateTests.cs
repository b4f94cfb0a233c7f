using Native.Bench.Common;
using Native.Bench.Serve;
using Native.Bench.Simulate;
using Native.Scheduling;
using Native.Tests.Kernels;
using Native.Tools;
using static Native.Tests.Bench.BenchRun;

namespace Native.Tests.Bench;

/// <summary><c>simulate</c>: every baseline against cases computed by hand, the real engine to its end, and that the
/// same seed gives the same table.</summary>
public sealed class SimulateTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    /// <summary>A step takes 1 s, a prompt token 0.1 s, a decode 0.5 s.</summary>
    private static readonly SimulatedMachine Machine = new(new StepTimeModel([1, 0.1, 0, 0.5, 0, 0]))
    {
        BlockSize = 4,
        KvTokens = 400,
        MaxModelLength = 400,
        MaxBatchedTokens = 12,
        MaxRunning = 8,
    };

    private static readonly Objective Due = new(Ttft: 4, Tpot: 2);

    /// <summary>A at 0 s: 10 tokens in, 3 out. B at 0.5 s: 20 in, 2 out.</summary>
    private static readonly TrafficRequest[] Pair =
        [new(0, 10, 3, "", 0), new(0.5, 20, 2, "", 100)];

    private static void AssertTimes(SimulationResult result, params (double First, double Last)[] expected)
    {
        Assert.All(result.Outcomes, outcome => Assert.True(outcome.IsComplete));
        for (int i = 0; i < expected.Length; i++)
        {
            Assert.Equal(expected[i].First, result.Outcomes[i].First, 1e-9);
            Assert.Equal(expected[i].Last, result.Outcomes[i].Last, 1e-9);
        }
    }

    [Fact]
    public void RequestLevel_LetsNobodyJoinBeforeAllAreDone()
    {
        SimulationResult result = new RequestLevelBatching(Machine, Due).Run(Pair, 1);
        AssertTimes(result, (2, 5), (8, 9.5)); // A: 1 + 1, + 1.5, + 1.5; B: 5 + 1 + 2, + 1.5
        Assert.Equal(5, result.Steps);
    }

    [Fact]
    public void RequestLevel_GoesOnComputingWhoIsDone()
    {
        TrafficRequest[] together = [new(0, 10, 3, "", 0), new(0, 20, 2, "", 100)];
        // 1 + 3 for both prompts, then two steps of two rows, though B has its two tokens after the first.
        AssertTimes(new RequestLevelBatching(Machine, Due).Run(together, 1), (4, 8), (4, 6));
    }

    [Fact]
    public void Static_WaitsForItsBatch_PadsIt_AndAnswersAtItsEnd()
    {
        // B comes at 0.5: 1 + 2 x 20 x 0.1, then two steps of two rows.
        AssertTimes(new StaticBatching(Machine, Due, 2).Run(Pair, 1), (9.5, 9.5), (9.5, 9.5));
        // A batch of three is never full: it starts when A has waited for half of the 4 s.
        AssertTimes(new StaticBatching(Machine, Due, 3).Run(Pair, 1), (11, 11), (11, 11));
    }

    [Fact]
    public void Orca_LetsAWholePromptJoinEveryStep()
    {
        SimulationResult result = new IterationLevelBatching(Machine, Due).Run(Pair, 1);
        AssertTimes(result, (2, 7.5), (5.5, 7.5)); // 2, then 1 + 0.5 + 2, then 1 + 2 x 0.5
        Assert.Equal(3, result.Steps);
    }

    [Fact]
    public void Chunked_KeepsTheBudget_AndDecodesInEveryStep()
    {
        SimulationResult result = new ChunkedBatching(Machine, Due, "fcfs", 12).Run(Pair, 1);
        AssertTimes(result, (2, 7), (7, 8.5)); // 2; 1 + 0.5 + 1.1; 1 + 0.5 + 0.9; 1.5
        Assert.Equal(4, result.Steps);
        Assert.Equal(1, result.Good); // A is due at 4, 6 and 8
        Assert.Equal(2, result.Outcomes[1].Late); // B is due at 4.5 and 6.5
    }

    [Fact]
    public void Chunked_PreemptsTheYoungest_WhoComputesAllAgain()
    {
        SimulatedMachine small = Machine with { KvTokens = 16, MaxBatchedTokens = 16 };
        TrafficRequest[] requests = [new(0, 4, 9, "", 0), new(0, 4, 8, "", 100)];
        SimulationResult result = new ChunkedBatching(small, Due, "fcfs", 16).Run(requests, 1);
        // Five steps together (1.8, then 2 each) fill four blocks; A goes on alone to 9.8 + 4 x 1.5; B then computes
        // its 4 + 5 tokens again in 1.9, and two more.
        AssertTimes(result, (1.8, 15.8), (1.8, 20.7));
        Assert.Equal(1, result.Preemptions);
    }

    [Fact]
    public void WhatNeverFits_IsAViolation_AndHoldsNobodyUp()
    {
        TrafficRequest[] requests = [new(0, 500, 3, "", 0), new(0, 10, 3, "", 100)];
        foreach (string policy in Simulation.Policies)
        {
            SimulationResult result = new Simulation(Machine, Due).Run(policy, requests, 1);
            Assert.Equal((0, true), (result.Outcomes[0].Tokens, result.Outcomes[1].IsComplete));
            Assert.True(result.Violations >= 1 && result.Cut == 1, policy);
        }
    }

    [Fact]
    public void ATokenIsDue_AtArrivalPlusTtftPlusItsNumberTimesTpot()
    {
        Outcome outcome = new(new TrafficRequest(10, 1, 4, "", 0), Due);
        outcome.Token(13); // due at 14
        outcome.Token(16); // due at 16
        outcome.Token(16.5);
        Assert.False(outcome.IsGood); // one is missing
        outcome.Token(19.5);
        Assert.True(outcome.IsGood);
        Outcome late = new(new TrafficRequest(10, 1, 2, "", 0), Due);
        late.Token(14.5);
        late.Token(15);
        Assert.Equal((1, false), (late.Late, late.IsGood)); // the second came early, the first did not
    }

    [Fact]
    public void TheOthers_AreAllButTheTenantThatSendsMost()
    {
        TrafficRequest[] requests =
            [new(0, 10, 1, "giant", 0), new(0, 10, 1, "giant", 100), new(0, 300, 1, "small", 200)];
        SimulationResult result = new IterationLevelBatching(Machine, Due).Run(requests[..2], 1);
        Assert.Null(result.AttainmentOfOthers);
        result = new ChunkedBatching(Machine, Due, "fcfs", 20).Run(requests, 1);
        // 1 + 2 for the giant's two; then 300 tokens in steps of 20 take 15 x 3 s.
        Assert.Equal((2.0 / 3, 0), (result.Attainment, result.AttainmentOfOthers));
    }

    [Fact]
    public void WithAPrefixCache_TheEngineComputesLess()
    {
        List<TrafficRequest> requests =
            TrafficDraw.Of(new TrafficPlan("long", 600, 0.05, 3) { LengthScale = 0.25 });
        Assert.True(requests.Count > 20);
        SimulationResult with = new NativeEngine(Usual, Unhurried).Run(requests, 600),
            without = new NativeEngine(Usual with { PrefixCaching = false }, Unhurried).Run(requests, 600);
        Assert.All(with.Outcomes.Concat(without.Outcomes), outcome => Assert.True(outcome.IsComplete));
        Assert.True(with.Busy < 0.95 * without.Busy, $"{with.Busy} s and {without.Busy} s");
    }

    [Fact]
    public void TheEngine_RefusesOrServesWhole()
    {
        List<TrafficRequest> requests = TrafficDraw.Of(new TrafficPlan("gamma", 300, 12, 3));
        SimulationResult result = new NativeEngine(Usual, new Objective(1, 0.06)).Run(requests, 300);
        Assert.All(result.Outcomes, outcome => Assert.True(outcome.IsComplete || outcome.Tokens == 0));
        Assert.InRange(result.Cut, 1, requests.Count - 1); // almost twice what the machine can do
    }

    /// <summary>How far first tokens and steps scatter is learned: promises hold where a step's time is known to
    /// 20 %, and almost where it is known to 40 %, under bursts of 1.5 and 3 times what the machine can do.</summary>
    [Theory]
    [InlineData(0.01, 10), InlineData(0.01, 20), InlineData(0.2, 10), InlineData(0.2, 20), InlineData(0.4, 10)]
    [InlineData(0.4, 20)]
    public void WhoIsAdmitted_IsInTime_HoweverStepsScatter(double noise, double rate)
    {
        Objective due = new(1, 0.06);
        List<TrafficRequest> requests = TrafficDraw.Of(new TrafficPlan("gamma", 600, rate, 3));
        SimulationResult result = new NativeEngine(Usual with { Noise = noise }, due).Run(requests, 600);
        Assert.InRange(Statistics.Percentile(result.Ttft, 99), 0, (noise < 0.3 ? 1.03 : 1.12) * due.Ttft);
        Assert.InRange(Statistics.Percentile(result.Tpot, 99), 0, (noise < 0.3 ? 1.03 : 1.12) * due.Tpot);
        Assert.InRange(result.Goodput, noise < 0.1 ? 6.3 : 5, 10); // requests a second, and not by serving nobody
    }

    /// <summary>Blocks of 16 tokens, prompts of 256: of the slots taken, those that no token is in.</summary>
    [Theory, InlineData(3), InlineData(7)]
    public void OfTheCache_LessThanFourPercentIsWasted(double rate)
    {
        List<TrafficRequest> requests = TrafficDraw.Of(new TrafficPlan("gamma", 300, rate, 3));
        Assert.InRange(new NativeEngine(Usual, new Objective(1, 0.06)).Run(requests, 300).KvWaste, 0.001, 0.04);
    }

    /// <summary>Nobody is refused for being late.</summary>
    private static readonly Objective Unhurried = new(1e6, 1e3);

    private static SimulatedMachine Usual => new(new StepTimeModel()) { KvTokens = 1 << 16, MaxModelLength = 1 << 16 };

    [Theory]
    [InlineData("chat"), InlineData("flood"), InlineData("long"), InlineData("tenants")]
    [InlineData("poisson"), InlineData("gamma")]
    public void TheEngine_FinishesEveryRequest_AndItsClockIsItsSteps(string load)
    {
        List<TrafficRequest> requests = TrafficDraw.Of(new TrafficPlan(load, 120, 1, 3) { LengthScale = 0.25 });
        Assert.NotEmpty(requests);
        SimulationResult result = new NativeEngine(Usual, Unhurried).Run(
            [.. requests.Select(request => request with { Arrival = 0 })], 120);
        Assert.All(result.Outcomes, outcome => Assert.True(outcome.IsComplete));
        Assert.Equal(result.Busy, result.End, 1e-6); // nobody came later, so it was never idle
        Assert.InRange(result.KvWaste, 0, 1);
    }

    [Fact]
    public void ModelTime_IsWhatPasses()
    {
        // Alone, with a budget that holds the prompt: no policy can be faster than 1 + 1, + 1.5, + 1.5.
        SimulationResult result = new NativeEngine(Machine, Due).Run(Pair[..1], 1);
        Assert.True(result.Outcomes[0].First >= 2 - 1e-9 && result.Outcomes[0].Last >= 5 - 1e-9);
        Assert.Equal(result.End, result.Outcomes[0].Last, 1e-9);
    }

    [Fact]
    public void AnHourOfChat_IsSimulatedStepByStep()
    {
        List<TrafficRequest> requests = TrafficDraw.Of(new TrafficPlan("chat", 3600, 1, 0));
        SimulationResult result = new NativeEngine(Usual, new Objective(1, 0.06)).Run(requests, 3600);
        long tokens = requests.Sum(request => (long)request.Output), longest = requests.Max(request => request.Output);
        Assert.InRange(requests.Count, 3400, 3800);
        Assert.InRange(result.Steps, 20_000, tokens + requests.Count * 100L);
        Assert.True(result.Steps >= longest);
        Assert.True(result.End >= 3590);
        Assert.Equal(requests.Count, result.Outcomes.Count);
    }

    [Fact]
    public async Task TheSameSeed_GivesTheSameTable()
    {
        string[] command = ["simulate", "--load", "flood", "--duration", "120", "--times-capacity", "0.7,1.3",
            "--noise", "0.1", "--seed"];
        (int exit, string table, string error) = await Run([.. command, "5"]);
        Assert.True(exit == 0, error);
        Assert.Equal(table, (await Run([.. command, "5"])).Output);
        Assert.NotEqual(table, (await Run([.. command, "6"])).Output);
        string[][] rows = Cells(table)[2..];
        Assert.Equal([.. Simulation.Policies, .. Simulation.Policies], rows.Select(row => row[0]));
    }

    [Fact]
    public async Task FindCapacity_FindsARateThatKeepsIt()
    {
        (int exit, string output, string error) = await Run("simulate", "--load", "poisson", "--duration", "100",
            "--find-capacity", "0.9", "--policy", "orca,fcfs");
        Assert.True(exit == 0, error);
        string[][] rows = Cells(output)[2..];
        Assert.Equal(["orca", "fcfs"], rows.Select(row => row[0]));
        Simulation simulation = new(Usual, new Objective(1, 0.06));
        TrafficPlan plan = new("poisson", 100, null, 0);
        double rate = simulation.FindCapacity("fcfs", plan, 0.9, simulation.Capacity(plan));
        Assert.InRange(simulation.Run("fcfs", TrafficDraw.Of(plan with { Rate = rate }), 100).Attainment, 0.9, 1);
        Assert.InRange(rate, 0.1, 100);
    }

    [Fact]
    public async Task TheTrace_IsWrittenAndReadAgain_AndThePictureHasEveryPolicy()
    {
        using TemporaryFolder folder = new();
        string trace = Path.Combine(folder.Path, "long.jsonl"), picture = Path.Combine(folder.Path, "gamma.svg");
        (int exit, _, string error) = await Run("simulate", "--load", "long", "--duration", "60", "--rate", "2",
            "--length-scale", "0.1", "--write-trace", trace);
        Assert.True(exit == 0, error);
        List<TrafficRequest> drawn =
            TrafficDraw.Of(new TrafficPlan("long", 60, 2, 0) { LengthScale = 0.1 });
        List<TimedRequest> read = TimedTrace.Read(trace, int.MaxValue, 16);
        Assert.Equal(drawn.Select(r => (r.Arrival, r.Input, r.Output)),
            read.Select(r => (r.Timestamp, r.InputLength, r.OutputLength)));
        Assert.Equal(drawn.Select(r => r.BlockId(r.Blocks - 1)), read.Select(r => r.HashIds[^1]));

        (exit, _, error) = await Run("simulate", "--duration", "30", "--times-capacity", "0.5,1", "--svg", picture);
        Assert.True(exit == 0, error);
        string svg = await File.ReadAllTextAsync(picture, Token);
        Assert.All(Simulation.Policies, policy => Assert.Contains($">{policy}</text>", svg, StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("exclude each other", "--rate", "1", "--times-capacity", "1")]
    [InlineData("a token is due by ttft and tpot", "--goodput", "e2el:5")]
    [InlineData("'lunch'", "--load", "lunch")]
    [InlineData("'best'", "--policy", "best")]
    [InlineData("--kv-tokens is 1", "--kv-tokens", "1")]
    public async Task AWrongCommandLine_IsExplained(string expected, params string[] command)
    {
        (int exit, string output, string error) = await Run(["simulate", .. command]);
        Assert.Equal((Cli.Misused, ""), (exit, output));
        Assert.Contains(expected, error, StringComparison.Ordinal);
    }
}
