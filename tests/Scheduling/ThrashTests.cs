using Native.Kernels;
using Native.Scheduling;

namespace Native.Tests.Scheduling;

/// <summary>A pool that holds a tenth of what everybody together needs: nobody is lost, and little is computed
/// twice.</summary>
public sealed class ThrashTests(ITestOutputHelper output)
{
    private const int BlockSize = 16, MaxModelLength = 512;

    /// <summary>The tokens computed twice are within a share of all. Once some have ended, that is next to nothing; by
    /// class, what the batch requests had that gave way.</summary>
    [Theory]
    [InlineData(SchedulingPolicy.Fcfs, 1, true, 0), InlineData(SchedulingPolicy.Fcfs, 2, true, 0.01)]
    [InlineData(SchedulingPolicy.Fcfs, 1, false, 0.08), InlineData(SchedulingPolicy.Slo, 1, true, 0.15)]
    [InlineData(SchedulingPolicy.Slo, 2, true, 0.15), InlineData(SchedulingPolicy.Slo, 1, false, 0.2)]
    public void ATenthOfTheDemand_ServesEverybody_InOrderOfClass_AndComputesLittleTwice(
        SchedulingPolicy policy, int stepsInFlight, bool isWarm, double most)
    {
        (int Prompt, int Output)[] lengths =
            [.. Enumerable.Range(0, 240).Select(i => (32 + (i * 37 % 97), 64 + (i * 101 % 193)))];
        int demand = lengths.Sum(of => Sequence.BlocksFor(of.Prompt + of.Output - 1, BlockSize));
        FakeModelRunner runner = new(demand / 10, BlockSize, MaxModelLength, stepsInFlight: stepsInFlight);
        using EngineHarness harness = new(runner, new EngineOptions { Policy = policy, PrefixCaching = false });
        harness.Runner.OnExecute = (in Batch _) => harness.Clock.Now += 1_000_000;
        if (isWarm) Submit(RequestClass.Online, lengths[..20]);
        harness.RunToEnd();
        EngineMetrics metrics = harness.Engine.Metrics;
        long before = metrics.RecomputedTokens;

        Reading[] batch = Submit(RequestClass.Batch, lengths[..120]);
        harness.Turns(20);
        Reading[] online = Submit(RequestClass.Online, lengths[120..]);
        harness.RunToEnd();
        foreach (Reading reading in (Reading[])[.. batch, .. online]) reading.AssertOracle(MaxModelLength);
        harness.AssertClean();

        double twice = (double)(metrics.RecomputedTokens - before) / lengths.Sum(of => of.Prompt + of.Output - 1);
        long lastOnline = online.Max(reading => reading.Stream.Timings.Finished);
        int early = batch.Count(reading => reading.Stream.Timings.Finished < lastOnline);
        output.WriteLine($"{twice:P1} computed twice, {metrics.Preemptions} preemptions, {early} batch requests early");
        Assert.InRange(twice, 0, most);
        if (policy == SchedulingPolicy.Fcfs) Assert.Equal(batch.Length, early);
        else Assert.InRange(early, 0, batch.Length / 4);

        Reading[] Submit(RequestClass of, (int Prompt, int Output)[] lengths) => [.. lengths.Select((length, i) =>
            harness.Submit(new GenerationRequest
            {
                Ids = EngineHarness.Prompt(length.Prompt, i + (1000 * (int)of)),
                Sampling = EngineHarness.Greedy(length.Output),
                Class = of,
            }))];
    }
}
