using Native.Kernels;
using Native.Scheduling;
using static Native.Tests.Scheduling.EngineHarness;

namespace Native.Tests.Scheduling;

/// <summary>What happens to a sequence while a step with it is in flight.</summary>
public sealed class StepsInFlightTests
{
    private static EngineHarness Engine(int blockCount = 64, int maxBatchedTokens = 64) =>
        new(new FakeModelRunner(blockCount, stepsInFlight: 2),
            new EngineOptions
            {
                Policy = SchedulingPolicy.Fcfs,
                MaxRunning = 4,
                MaxBatchedTokens = maxBatchedTokens,
            });

    [Fact]
    public void Decodes_AreLaunchedBeforeTheirLastTokenIsKnown()
    {
        using EngineHarness harness = Engine();
        Reading reading = harness.Submit(Prompt(5), Greedy(40));
        harness.RunToEnd();
        reading.AssertOracle(128);
        Assert.Equal(39, harness.Runner.Promised); // all but the first, which the prompt's last row gives
        Assert.Equal(40, harness.Runner.Steps);
        Assert.Equal(39, harness.Runner.Overlapped);
        harness.AssertClean();
    }

    [Fact]
    public void ARowThatNeedsEveryTokenBefore_WaitsForIt()
    {
        using EngineHarness harness = Engine();
        Reading penalized = harness.Submit(Prompt(5), Greedy(10) with { FrequencyPenalty = 0.5f });
        Reading other = harness.Submit(Prompt(6), Greedy(30));
        harness.RunToEnd();
        penalized.AssertOracle(128);
        other.AssertOracle(128);
        Assert.Equal(29, harness.Runner.Promised);
        harness.AssertClean();
    }

    [Fact]
    public void AnEndId_EndsTheChoice_AndWhatWasLaunchedAfterItIsNobodys()
    {
        using EngineHarness harness = Engine();
        int ended = 0;
        for (int seed = 0; seed < 40; seed++)
        {
            Reading reading = harness.Submit(Prompt(4, seed), Greedy(60, ignoreEos: false));
            harness.RunToEnd();
            reading.AssertOracle(128);
            if (reading.Finish() == FinishReason.Stop && reading.Tokens().Length > 1) ended++;
        }
        Assert.True(ended > 5, $"only {ended} ended at an end id");
        harness.AssertClean();
        Assert.True(harness.Runner.Steps > harness.Engine.Metrics.GeneratedTokens, "a step was computed for a choice that was over");
    }

    [Fact]
    public void ACancelledSequence_KeepsItsBlocksUntilTheStepIsThrough()
    {
        using EngineHarness harness = Engine();
        Reading reading = harness.Submit(Prompt(9), Greedy(40));
        harness.Turns(4);
        Sequence sequence = reading.Stream.Sequences[0];
        Assert.Equal(1, sequence.InFlight);
        reading.Stream.Cancel();
        harness.Engine.Submit(new GenerationRequest { Ids = Prompt(3), Sampling = Greedy(3) }, out TokenStream? next);
        int owned = harness.Engine.Scheduler.Pool.OwnedCount;
        harness.Turn();
        Assert.Equal(FinishReason.Cancelled, reading.Finish());
        Assert.Equal(SequenceStage.None, sequence.Stage); // the turn collected the step
        Assert.Equal(0, sequence.BlockCount);
        Assert.True(owned > 0);
        harness.RunToEnd();
        while (next!.TryRead(out _))
        {
        }
        harness.AssertClean();
    }

    [Fact]
    public void AFaultAtCollection_EndsThatStepAndTheOneAfter_AndNobodyElse()
    {
        using EngineHarness harness = Engine(maxBatchedTokens: 4);
        Reading first = harness.Submit(Prompt(3, 1), Greedy(30)), second = harness.Submit(Prompt(3, 2), Greedy(30));
        harness.Turns(6);
        Reading later = harness.Submit(Prompt(3, 3), Greedy(5));
        harness.Runner.OnExecute = (in Batch _) =>
        {
            harness.Runner.OnExecute = null;
            throw new InvalidOperationException("the device is gone");
        };
        harness.Turn();
        Assert.Equal(FinishReason.Error, first.Finish());
        Assert.Equal(FinishReason.Error, second.Finish());
        Assert.Equal(1, harness.Engine.Metrics.FailedSteps);
        Reading after = harness.Submit(Prompt(3, 4), Greedy(5));
        harness.RunToEnd();
        after.AssertOracle(128);
        Assert.True(later.IsComplete);
        harness.AssertClean();
    }

    [Fact]
    public void Disposal_CollectsWhatIsInFlight()
    {
        EngineHarness harness = Engine();
        Reading reading = harness.Submit(Prompt(9), Greedy(40));
        harness.Turns(3);
        harness.Dispose();
        reading.Read();
        Assert.Equal(FinishReason.Aborted, reading.Finish());
        Assert.Equal(64, harness.Engine.Scheduler.Pool.FreeCount);
        Assert.Empty(harness.Runner.Violations);
    }

    [Fact]
    public async Task Drain_WaitsForTheStepInFlight()
    {
        using EngineHarness harness = Engine();
        Reading reading = harness.Submit(Prompt(9), Greedy(7));
        harness.Turns(2);
        Task<bool> drained = harness.Engine.Drain(TimeSpan.FromMinutes(1));
        harness.RunToEnd();
        harness.Turn();
        Assert.True(await drained);
        reading.AssertOracle(128);
        harness.AssertClean();
    }

    [Fact]
    public async Task WithItsOwnThread_EveryStreamIsTheOracles()
    {
        FakeModelRunner runner = new(blockCount: 40, blockSize: 4, maxModelLength: 64, stepsInFlight: 2);
        using Engine engine = new(runner, [FakeModelRunner.EndId],
            new EngineOptions
            {
                Policy = SchedulingPolicy.Fcfs,
                MaxRunning = 8,
                MaxBatchedTokens = 32,
            });
        Random random = new(5);
        var readings = new List<Reading>();
        for (int i = 0; i < 60; i++)
        {
            SamplingParams p = Greedy(random.Next(1, 30)) with { N = random.Next(1, 4), RepetitionPenalty = random.Next(2) == 0 ? 1 : 1.1f };
            int[] prompt = Prompt(random.Next(1, 30), i);
            Assert.Equal(SubmitOutcome.Accepted, engine.Submit(new GenerationRequest { Ids = prompt, Sampling = p }, out TokenStream? stream));
            readings.Add(new Reading(prompt, p, stream!));
        }
        foreach (Reading reading in readings)
        {
            while (await reading.Stream.WaitAsync(TestContext.Current.CancellationToken)) reading.Read();
            reading.AssertOracle(64);
        }
        Assert.Empty(runner.Violations);
        Assert.True(await engine.Drain(TimeSpan.FromMinutes(1)));
        Assert.Equal(40, engine.Metrics.FreeBlocks);
    }
}
