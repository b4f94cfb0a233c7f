using Native.Scheduling;

namespace Native.Tests.Scheduling;

/// <summary>A pool that holds a tenth of what everybody together needs: nobody is lost, and little is computed
/// twice.</summary>
public sealed class ThrashTests(ITestOutputHelper output)
{
    private const int BlockSize = 16, MaxModelLength = 512;

    [Theory]
    [InlineData(SchedulingPolicy.Slo, 1, true), InlineData(SchedulingPolicy.Slo, 2, true)]
    [InlineData(SchedulingPolicy.Fcfs, 1, true), InlineData(SchedulingPolicy.Slo, 1, false)]
    [InlineData(SchedulingPolicy.Fcfs, 1, false)]
    public void ATenthOfTheDemand_ServesEverybody_InOrderOfClass_AndComputesLittleTwice(
        SchedulingPolicy policy, int stepsInFlight, bool warm)
    {
        (int Prompt, int Output)[] lengths = [.. Enumerable.Range(0, 240).Select(i => (32 + (i * 37 % 97), 64 + (i * 101 % 193)))];
        int demand = lengths.Sum(of => Sequence.BlocksFor(of.Prompt + of.Output - 1, BlockSize));
        FakeModelRunner runner = new(demand / 10, BlockSize, MaxModelLength, stepsInFlight: stepsInFlight);
        using EngineHarness harness = new(runner, new EngineOptions { Policy = policy, PrefixCaching = false });
        harness.Runner.OnExecute = (in Native.Kernels.Batch batch) => harness.Clock.Now += 1_000_000;
        Reading[] before = warm ? Submit(RequestClass.Online, lengths[..20]) : [];
        harness.RunToEnd();
        long twice = harness.Engine.Metrics.RecomputedTokens;
        Reading[] batch = Submit(RequestClass.Batch, lengths[..120]);
        harness.Turns(20);
        Reading[] online = Submit(RequestClass.Online, lengths[120..]);
        int turns = harness.RunToEnd();
        foreach (Reading reading in (Reading[])[.. batch, .. online]) reading.AssertOracle(MaxModelLength);
        harness.AssertClean();
        long needed = lengths.Sum(of => (long)of.Prompt + of.Output - 1);
        EngineMetrics metrics = harness.Engine.Metrics;
        long lastOnline = online.Max(reading => reading.Stream.Timings.Finished);
        output.WriteLine($"{policy} {stepsInFlight} {warm}: {turns} turns, {metrics.Preemptions} preemptions, {metrics.RecomputedTokens - twice} recomputed of {needed}, "
            + $"batch before last online {batch.Count(reading => reading.Stream.Timings.Finished < lastOnline)}");

        Reading[] Submit(RequestClass of, (int Prompt, int Output)[] lengths) => [.. lengths.Select((length, i) => harness.Submit(
            new GenerationRequest
            {
                Ids = EngineHarness.Prompt(length.Prompt, i + (1000 * (int)of)),
                Sampling = EngineHarness.Greedy(length.Output),
                Class = of,
            }))];
    }
}
