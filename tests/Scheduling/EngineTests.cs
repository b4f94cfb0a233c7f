using System.Diagnostics;
using Native.Bench.Serve;
using Native.Kernels;
using Native.Scheduling;
using static Native.Tests.Scheduling.EngineHarness;

namespace Native.Tests.Scheduling;

/// <summary>What the engine does, turn by turn.</summary>
public sealed class EngineTests
{
    /// <summary>Where in its life a request is when something happens to it.</summary>
    public enum Stage
    {
        Submitted,
        Waiting,
        Prefilling,
        Decoding,
        Preempted,
        BeforeFork,
        Forked,
    }

    public static TheoryData<Stage> Stages => [.. Enum.GetValues<Stage>()];

    [Fact]
    public void Gauges_TellOfTheStepUnderWay()
    {
        using EngineHarness harness = new(options: new EngineOptions { MaxRunning = 1, MaxBatchedTokens = 64 });
        List<(long Running, long Waiting)> seen = [];
        harness.Runner.OnExecute = (in Native.Kernels.Batch _) =>
            seen.Add((harness.Engine.Metrics.Running, harness.Engine.Metrics.Waiting));
        harness.Submit(EngineHarness.Prompt(5, seed: 1));
        harness.Submit(EngineHarness.Prompt(5, seed: 2));
        harness.Turn();
        Assert.Equal((1, 1), seen[0]);
        harness.RunToEnd();
    }

    [Fact]
    public void Step_PreemptsTheYoungest_WhenBlocksRunOut()
    {
        using EngineHarness harness = new(new FakeModelRunner(blockCount: 10, blockSize: 2, maxModelLength: 20));
        Reading older = harness.Submit(Prompt(6, 1), Greedy(10));
        Reading younger = harness.Submit(Prompt(4, 2), Greedy(10));
        harness.RunToEnd();
        Assert.Equal(0, older.Stream.Timings.Preemptions);
        Assert.True(younger.Stream.Timings.Preemptions > 0);
        Assert.Equal(younger.Stream.Timings.Preemptions, harness.Engine.Metrics.Preemptions);
        older.AssertOracle(20);
        younger.AssertOracle(20);
        harness.AssertClean();
    }

    [Fact]
    public void Step_DecodesFirst_WhileAHugePromptIsComputedInChunks()
    {
        using EngineHarness harness = new(new FakeModelRunner(blockCount: 100, maxModelLength: 300),
            new EngineOptions
            {
                Policy = SchedulingPolicy.Fcfs,
                MaxRunning = 4,
                MaxBatchedTokens = 10,
            });
        Reading decoding = harness.Submit(Prompt(3), Greedy(40));
        harness.Turn();
        Reading huge = harness.Submit(Prompt(190), Greedy(2));
        for (int turn = 0; huge.Tokens().Length == 0; turn++)
        {
            Assert.Equal(1 + turn, decoding.Tokens().Length); // not a step without its token
            harness.Turn();
        }
        Assert.Equal(1 + (190 + 8) / 9, decoding.Tokens().Length); // nine of ten tokens a step were the prompt's
        harness.RunToEnd();
        decoding.AssertOracle(300);
        huge.AssertOracle(300);
    }

    [Fact]
    public void Requests_AreServedFirstByKey_NoSmallOneOvertakesALargeOne()
    {
        using EngineHarness harness = new(new FakeModelRunner(blockCount: 12, blockSize: 4, maxModelLength: 48));
        Reading running = harness.Submit(Prompt(20), Greedy(12));
        harness.Turn();
        // ten blocks, not free before the first has ended
        Reading large = harness.Submit(Prompt(40, seed: 1), Greedy(4));
        Reading small = harness.Submit(Prompt(2), Greedy(1));
        while (!small.IsComplete)
        {
            harness.Turn();
            Assert.True(small.Tokens().Length == 0 || running.IsComplete);
        }
        harness.RunToEnd();
        Assert.True(large.Stream.Timings.FirstScheduled <= small.Stream.Timings.FirstScheduled);
        Assert.True(running.Stream.Timings.Finished <= large.Stream.Timings.FirstScheduled);
    }

    [Fact]
    public void Choices_ShareThePromptsBlocks_UntilTheyWriteIntoThem()
    {
        using EngineHarness harness = new(new FakeModelRunner(blockCount: 64, blockSize: 4));
        SamplingParams p = new() { N = 5, Seed = 7, MaxTokens = 6, IgnoreEos = true };
        Reading reading = harness.Submit(Prompt(19), p); // 18 computed before the fork: four full blocks and one with two tokens
        harness.Turns(2);
        Assert.Equal(4, harness.Runner.Copies); // the last to write has the block for itself
        Assert.Equal(4 + 5, harness.Engine.Scheduler.Pool.OwnedCount);
        harness.RunToEnd();
        reading.AssertOracle(128);
        Assert.True(reading.Tokens(0).Length > 0 && Enumerable.Range(1, 4).All(i => !reading.Tokens(i).SequenceEqual(reading.Tokens(0))), "every choice has its own seed");
        Assert.Equal(19, harness.Engine.Metrics.PromptTokens);
        harness.AssertClean();
    }

    [Theory, MemberData(nameof(Stages))]
    public void Cancel_EndsTheRequest_AtTheNextStepBoundary_AndFreesItsBlocks(Stage stage)
    {
        using EngineHarness harness = BringTo(stage, null, out Reading victim, out Reading[] others);
        victim.Stream.Cancel();
        harness.Turn();
        AssertEnded(harness, victim, others, FinishReason.Cancelled);
    }

    [Theory, MemberData(nameof(Stages))]
    public void Deadline_EndsTheRequest_AtTheNextStepBoundary_AndFreesItsBlocks(Stage stage)
    {
        const long deadline = 1_000_000;
        using EngineHarness harness = BringTo(stage, deadline, out Reading victim, out Reading[] others);
        harness.Clock.Now = deadline;
        harness.Turn();
        AssertEnded(harness, victim, others, FinishReason.Deadline);
    }

    [Theory, InlineData(0), InlineData(1), InlineData(2)]
    public void Stop_EndsOneChoice_AndLeavesTheOthers(int index)
    {
        foreach (int turns in new[] { 0, 1, 3 }) // in the inbox, while the prompt is computed, forked
        {
            using EngineHarness harness = new(options:
                new EngineOptions { Policy = SchedulingPolicy.Fcfs, MaxRunning = 8, MaxBatchedTokens = 8 });
            SamplingParams p = new() { N = 3, Seed = 7, MaxTokens = 9, IgnoreEos = true };
            Reading reading = harness.Submit(Prompt(13), p);
            harness.Turns(turns);
            reading.Stream.Stop(index);
            harness.Turn();
            Assert.Equal(FinishReason.Stop, reading.Finish(index));
            harness.RunToEnd();
            for (int i = 0; i < 3; i++)
            {
                if (i == index) continue;
                Assert.Equal(FinishReason.Length, reading.Finish(i));
                Assert.Equal(Oracle.Generate(reading.Prompt, p, i, 9).Tokens, reading.Tokens(i));
            }
            harness.AssertClean();
        }
    }

    [Fact]
    public void Stop_OfEveryChoiceBeforeTheFork_EndsTheRequest()
    {
        using EngineHarness harness = new(options:
            new EngineOptions { Policy = SchedulingPolicy.Fcfs, MaxRunning = 8, MaxBatchedTokens = 8 });
        Reading reading = harness.Submit(Prompt(30), new SamplingParams { N = 3, MaxTokens = 9 });
        harness.Turn();
        for (int i = 0; i < 3; i++) reading.Stream.Stop(i);
        Assert.False(harness.Turn());
        harness.AssertClean();
    }

    [Fact]
    public void AFailedStep_FailsItsOwnSequences_AndTheLoopLives()
    {
        using EngineHarness harness = new(options:
            new EngineOptions { Policy = SchedulingPolicy.Fcfs, MaxRunning = 2, MaxBatchedTokens = 64 });
        Reading first = harness.Submit(Prompt(5, 1)), second = harness.Submit(Prompt(5, 4));
        Reading forked = harness.Submit(Prompt(5, 2), new SamplingParams { N = 2, Seed = 3, MaxTokens = 4, IgnoreEos = true });
        Reading last = harness.Submit(Prompt(5, 3));
        harness.Turn();
        harness.Runner.OnExecute = (in _) => throw new InvalidOperationException("the device is lost");
        harness.Turn();
        harness.Runner.OnExecute = null;
        Assert.Equal((FinishReason.Error, FinishReason.Error), (first.Finish(), second.Finish()));
        Assert.Equal(FinishReason.None, forked.Finish());
        Assert.Equal("the device is lost", harness.Engine.LastFailure!.Message);
        harness.RunToEnd();
        forked.AssertOracle(128);
        last.AssertOracle(128);
        Assert.Equal(1, harness.Engine.Metrics.FailedSteps);
        harness.AssertClean();
    }

    [Theory, InlineData(true), InlineData(false)]
    public void ABrokenRunner_EndsEveryone_AndIsCalledNoMore(bool collects)
    {
        using EngineHarness harness = new(new FakeModelRunner(stepsInFlight: collects ? 2 : 1), options:
            new EngineOptions { Policy = SchedulingPolicy.Fcfs, MaxRunning = 1, MaxBatchedTokens = 64 });
        Reading running = harness.Submit(Prompt(9, 1)), waiting = harness.Submit(Prompt(5, 4));
        harness.Turn();
        void Fault()
        {
            harness.Runner.Fault = new InvalidOperationException("the device is lost");
            throw new IOException("a call failed");
        }
        if (collects) harness.Runner.OnCollect = Fault;
        else harness.Runner.OnLaunch = Fault;
        harness.Turn();
        Assert.Equal((FinishReason.Error, FinishReason.Error), (running.Finish(), waiting.Finish()));
        Assert.Equal("the device is lost", harness.Engine.Fault!.Message);
        Assert.Equal(1, harness.Engine.Metrics.FailedSteps);
        Assert.Equal(0, harness.Engine.Metrics.CachedBlocks);

        int steps = harness.Runner.Steps;
        harness.Runner.OnCollect = harness.Runner.OnLaunch = null;
        Assert.Equal(SubmitOutcome.Broken, harness.Engine.Submit(new GenerationRequest { Ids = Prompt(4) }, out _));
        Assert.False(harness.Turn());
        Assert.Equal(steps, harness.Runner.Steps);
        harness.AssertClean();
        Assert.True(harness.Engine.Drain(TimeSpan.FromHours(1)) is { } drained && !harness.Turn()
            && drained.IsCompletedSuccessfully);
    }

    [Fact]
    public void AFailedStep_FailsEveryChoiceOfARequest_ThatHasNotForked()
    {
        using EngineHarness harness = new();
        harness.Runner.OnExecute = (in _) => throw new OutOfMemoryException();
        Reading reading = harness.Submit(Prompt(5), new SamplingParams { N = 3, MaxTokens = 4 });
        harness.Turn();
        Assert.All(Enumerable.Range(0, 3), i => Assert.Equal(FinishReason.Error, reading.Finish(i)));
        harness.AssertClean();
    }

    [Fact]
    public void AfterAFailedStep_ThatLeavesBlocksLost_EveryoneFails_AndEveryBlockIsFree()
    {
        using EngineHarness harness = new(options:
            new EngineOptions { Policy = SchedulingPolicy.Fcfs, MaxRunning = 1, MaxBatchedTokens = 64 });
        Reading running = harness.Submit(Prompt(5, 1));
        Reading waiting = harness.Submit(Prompt(5, 2));
        harness.Runner.OnExecute = (in _) =>
        {
            Assert.True(harness.Engine.Scheduler.Pool.TryAllocate(out int _)); // nobody will ever release it
            throw new InvalidOperationException("the device is lost");
        };
        harness.Turn();
        harness.Runner.OnExecute = null;
        Assert.Equal((FinishReason.Error, FinishReason.Error), (running.Finish(), waiting.Finish()));
        Assert.Contains("After a failed step", harness.Engine.LastFailure!.Message);
        Reading next = harness.Submit(Prompt(5, 3));
        harness.RunToEnd();
        next.AssertOracle(128);
        harness.AssertClean();
    }

    [Fact]
    public void NaNLogits_FailTheirSequenceAlone()
    {
        using EngineHarness harness = new(new FakeModelRunner { Poisoned = true });
        Reading before = harness.Submit(Prompt(5, 1));
        Reading poisoned = harness.Submit([1, 2, FakeModelRunner.PoisonToken]);
        Reading scored = harness.Submit([1, FakeModelRunner.PoisonToken, 2, 3], Greedy(0) with { PromptLogprobs = 0 });
        Reading after = harness.Submit(Prompt(5, 2));
        harness.RunToEnd();
        Assert.Equal(FinishReason.Error, poisoned.Finish());
        Assert.Empty(poisoned.Tokens());
        Assert.Equal(FinishReason.Error, scored.Finish());
        before.AssertOracle(128);
        after.AssertOracle(128);
        harness.AssertClean();
    }

    [Fact]
    public void AFullQueue_Refuses_AndTakesAgainWhenSomebodyWasScheduled()
    {
        using EngineHarness harness = new(options:
            new EngineOptions
            {
                Policy = SchedulingPolicy.Fcfs,
                MaxRunning = 1,
                MaxBatchedTokens = 64,
                MaxQueued = 3,
            });
        GenerationRequest request = new() { Ids = Prompt(4), Sampling = Greedy(3) };
        for (int i = 0; i < 3; i++) harness.Submit(Prompt(4));
        Assert.Equal(SubmitOutcome.QueueFull, harness.Engine.Submit(request, out TokenStream? none));
        Assert.Null(none);
        Assert.InRange(harness.Engine.RetryAfter, TimeSpan.FromSeconds(0.1), TimeSpan.FromSeconds(60));
        harness.Turn(); // one is scheduled
        Assert.Equal(2, harness.Engine.Queued);
        harness.Submit(Prompt(4));
        Assert.Equal(SubmitOutcome.QueueFull, harness.Engine.Submit(request, out _));
        harness.RunToEnd();
        harness.AssertClean();
    }

    [Theory, InlineData(1), InlineData(2)]
    public void TheStepWaitedFor_IsShown_WhereverItIsWaitedFor(int stepsInFlight)
    {
        FakeModelRunner runner = new(stepsInFlight: stepsInFlight);
        using EngineHarness harness = new(runner);
        List<(long, int, int, int)> shown = [], computed = [];
        runner.OnExecute = (in Batch batch) =>
        {
            RunningStep step = harness.Engine.RunningStep ?? default;
            shown.Add((step.Number, step.Sequences, step.PrefillTokens, step.Decodes));
            int decodes = batch.DecodeCount;
            computed.Add((runner.Steps, batch.ContextLengths.Length, batch.TokenIds.Length - decodes, decodes));
            if (step.Began <= 0 || step.Began > harness.Clock.Now) shown.Add(default);
        };
        harness.AfterTurn = () => Assert.Null(harness.Engine.RunningStep);
        harness.Submit(Prompt(30), Greedy(5));
        harness.Turns(2);
        harness.Submit(Prompt(9), Greedy(6) with { N = 3 });
        harness.RunToEnd();
        Assert.True(computed.Count > 6);
        Assert.Equal(computed, shown);
        harness.AssertClean();
    }

    [Fact]
    public void AQueueFullOfTokens_Refuses_AndTakesAgainWhatFits()
    {
        EngineOptions options = new() { Policy = SchedulingPolicy.Fcfs, MaxRunning = 1, MaxQueuedTokens = 20 };
        using EngineHarness harness = new(options: options);
        harness.Submit(Prompt(30)); // nobody waits: taken whatever its length
        Assert.Equal(30, harness.Engine.QueuedTokens);
        AssertFull(1);
        harness.Turn();
        Assert.Equal(0, harness.Engine.QueuedTokens);
        harness.Submit(Prompt(12));
        Reading leaves = harness.Submit(Prompt(8));
        AssertFull(1);
        leaves.Stream.Cancel();
        harness.Turn();
        Assert.Equal(12, harness.Engine.QueuedTokens);
        AssertFull(9);
        harness.Submit(Prompt(8));
        harness.RunToEnd();
        harness.AssertClean();

        void AssertFull(int length)
        {
            GenerationRequest more = new() { Ids = Prompt(length), Sampling = Greedy(3) };
            int queued = harness.Engine.Queued;
            long tokens = harness.Engine.QueuedTokens;
            Assert.Equal(SubmitOutcome.QueueFull, harness.Engine.Submit(more, out _, out Refusal refusal));
            Assert.InRange(refusal.RetryAfter, TimeSpan.FromSeconds(0.1), TimeSpan.FromSeconds(90));
            Assert.Equal((queued, tokens), (harness.Engine.Queued, harness.Engine.QueuedTokens));
        }
    }

    [Fact]
    public void Submit_RefusesWhatCanNeverBeServed()
    {
        using EngineHarness harness = new(new FakeModelRunner(blockCount: 8, blockSize: 4, maxModelLength: 64),
            new EngineOptions
            {
                Policy = SchedulingPolicy.Fcfs,
                MaxRunning = 4,
            });
        SubmitOutcome submit(int[] prompt, SamplingParams p) => harness.Engine.Submit(new GenerationRequest { Ids = prompt, Sampling = p }, out _);
        Assert.Equal(SubmitOutcome.TooLong, submit(Prompt(64), Greedy(1)));
        Assert.Equal(SubmitOutcome.NeverFits, submit(Prompt(33), Greedy(1)));
        Assert.Equal(SubmitOutcome.NeverFits, submit(Prompt(10), Greedy(24)));
        Assert.Equal(SubmitOutcome.Invalid, submit([], Greedy(1)));
        Assert.Equal(SubmitOutcome.Invalid, submit([1, FakeModelRunner.Vocabulary], Greedy(1)));
        Assert.Equal(SubmitOutcome.Invalid, submit([-1], Greedy(1)));
        Assert.Equal(SubmitOutcome.Invalid, submit([1], Greedy(1) with { N = 5 }));
        Assert.Equal(SubmitOutcome.Invalid, submit([1], Greedy(1) with { Temperature = float.NaN }));
        List<string> errors = [];
        harness.Engine.Validate(new GenerationRequest { Ids = new[] { 50 }, Sampling = Greedy(1) with { N = 5, TopP = 0 } }, errors);
        Assert.Equal(3, errors.Count);
        Assert.Equal(0, harness.Engine.Queued);

        Reading longest = harness.Submit(Prompt(10), Greedy(23)); // 32 tokens are computed, the pool's all
        Reading open = harness.Submit(Prompt(10), Greedy(1) with { MaxTokens = null }); // as much as the pool can hold
        harness.RunToEnd();
        Assert.Equal(23, longest.Tokens().Length);
        Assert.Equal(23, open.Tokens().Length);
        Assert.Equal(FinishReason.Length, open.Finish());
        harness.AssertClean();
    }

    [Fact]
    public void AChoice_EndsAtTheModelsLength_WhateverMaxTokensSays()
    {
        using EngineHarness harness = new(new FakeModelRunner(blockCount: 64, maxModelLength: 30));
        Reading reading = harness.Submit(Prompt(25), Greedy(1000));
        Reading open = harness.Submit(Prompt(29), Greedy(1) with { MaxTokens = null });
        harness.RunToEnd();
        Assert.Equal(5, reading.Tokens().Length);
        Assert.Equal(FinishReason.Length, reading.Finish());
        Assert.Single(open.Tokens());
        harness.AssertClean();
    }

    [Theory, InlineData(1, 1), InlineData(1, 3), InlineData(9, 1), InlineData(9, 3)]
    public void MaxTokensZero_ScoresThePrompt_AndGeneratesNothing(int length, int n)
    {
        foreach (int? scored in new int?[] { null, 0, 2 })
        {
            using EngineHarness harness = new();
            Reading reading = harness.Submit(Prompt(length), Greedy(0) with { N = n, PromptLogprobs = scored });
            harness.RunToEnd();
            reading.AssertOracle(128);
            Assert.All(Enumerable.Range(0, n), i => Assert.Equal(FinishReason.Length, reading.Finish(i)));
            Assert.Equal(scored is null || length == 1 ? 0 : 1, harness.Runner.Steps);
            harness.AssertClean();
        }
    }

    [Fact]
    public void EndIds_StopIds_AndMinTokens_DecideTheEnd()
    {
        int[] prompt = Prompt(4, 5);
        SamplingParams p = Greedy(60, ignoreEos: false);
        Oracle.Choice unbound = Oracle.Generate(prompt, p with { IgnoreEos = true }, 0, 60);
        int stop = unbound.Tokens[3];
        int first = Array.IndexOf(unbound.Tokens, stop);

        using EngineHarness harness = new();
        Reading stopped = harness.Submit(prompt, p with { StopTokenIds = [stop], IgnoreEos = true });
        Reading later = harness.Submit(prompt, p with { StopTokenIds = [stop], IgnoreEos = true, MinTokens = first + 2 });
        harness.RunToEnd();
        Assert.Equal(unbound.Tokens[..(first + 1)], stopped.Tokens());
        Assert.True(stopped.Events[0][^1].IsStopToken);
        Assert.Equal(FinishReason.Stop, stopped.Finish());
        Assert.True(later.Tokens().Length > first + 2 && !later.Tokens()[..(first + 2)].Contains(stop));
    }

    [Fact]
    public void ASlowReader_SlowsNobody_AndFindsEveryToken()
    {
        // Longer than the room taken at submission, so that the log grows under its reader, too.
        int length = 2 * TokenLog.ReservedTokens(int.MaxValue, 1, 20) + 100;
        FakeModelRunner runner = new(blockCount: 40, blockSize: 512, maxModelLength: length + 10);
        using Engine engine = new(runner, [FakeModelRunner.EndId], new EngineOptions(), startThread: false);
        SamplingParams p = Greedy(length) with { Logprobs = 20 };
        int[] prompt = Prompt(3);
        Assert.Equal(SubmitOutcome.Accepted, engine.Submit(new GenerationRequest { Ids = prompt, Sampling = p }, out TokenStream? slow));
        Reading reading = new(prompt, p, slow!);
        while (engine.Turn())
        {
        }
        Assert.Equal(FinishReason.None, reading.Finish());
        reading.Read();
        Assert.True(reading.IsComplete);
        reading.AssertOracle(length + 10);
        Assert.Empty(runner.Violations);
    }

    [Fact]
    public void Seeds_AreTheRequestsOwn_OrFollowFromTheEngines()
    {
        int[] run(ulong seed, int requests)
        {
            using EngineHarness harness = new(options:
                new EngineOptions { Policy = SchedulingPolicy.Fcfs, Seed = seed });
            Reading[] readings = [.. Enumerable.Range(0, requests).Select(_ => harness.Submit(Prompt(4), new SamplingParams { MaxTokens = 8, IgnoreEos = true }))];
            harness.RunToEnd();
            return [.. readings.SelectMany(r => r.Tokens())];
        }
        Assert.Equal(run(1, 2), run(1, 2));
        Assert.NotEqual(run(1, 1), run(2, 1));
        int[] two = run(1, 2);
        Assert.NotEqual(two[..8], two[8..]);
    }

    [Fact]
    public async Task Drain_LetsTheQueuedEnd_AndTakesNothingNew()
    {
        using EngineHarness harness = new(options:
            new EngineOptions { Policy = SchedulingPolicy.Fcfs, MaxRunning = 1, MaxBatchedTokens = 64 });
        Reading running = harness.Submit(Prompt(4));
        harness.Turn();
        Reading queued = harness.Submit(Prompt(5));
        Task<bool> drained = harness.Engine.Drain(TimeSpan.FromHours(1));
        Assert.Equal(SubmitOutcome.Draining, harness.Engine.Submit(new GenerationRequest { Ids = Prompt(4) }, out _));
        harness.RunToEnd();
        Assert.True(await drained);
        running.AssertOracle(128);
        queued.AssertOracle(128);
    }

    [Fact]
    public async Task Drain_AbortsWhatHasNotEnded_AfterItsTime()
    {
        using EngineHarness harness = new(options:
            new EngineOptions { Policy = SchedulingPolicy.Fcfs, MaxRunning = 1, MaxBatchedTokens = 64 });
        Reading running = harness.Submit(Prompt(4));
        harness.Turn();
        Reading queued = harness.Submit(Prompt(5));
        Task<bool> patient = harness.Engine.Drain(TimeSpan.FromHours(1));
        Task<bool> drained = harness.Engine.Drain(TimeSpan.Zero);
        harness.Turn();
        Assert.False(await drained);
        Assert.False(await patient);
        Assert.Equal(FinishReason.Aborted, running.Finish());
        Assert.Equal(FinishReason.Aborted, queued.Finish());
        harness.AssertClean();
    }

    [Fact]
    public void Timings_AndRecords_TellTheRequestsStory()
    {
        using EngineHarness harness = new(options:
            new EngineOptions { Policy = SchedulingPolicy.Fcfs, MaxRunning = 4, MaxBatchedTokens = 8 });
        long arrival = harness.Clock.GetTimestamp();
        Assert.Equal(SubmitOutcome.Accepted, harness.Engine.Submit(
            new GenerationRequest { Ids = Prompt(20), Sampling = Greedy(5) with { N = 2 }, ArrivalTimestamp = arrival }, out TokenStream? stream));
        harness.RunToEnd();
        RequestTimings t = stream!.Timings;
        Assert.Equal(arrival, t.Arrival);
        Assert.True(t.Arrival <= t.FirstScheduled && t.FirstScheduled < t.FirstToken && t.FirstToken < t.LastToken && t.LastToken <= t.Finished);
        Assert.Equal((20, 10, 0, 0), (t.PromptTokens, t.OutputTokens, t.CachedTokens, t.Preemptions));
        Assert.True(harness.Engine.Metrics.TryReadFinished(out FinishedRequest record));
        Assert.Equal(new FinishedRequest(t, FinishReason.Length, 2, 5), record);
        Assert.False(harness.Engine.Metrics.TryReadFinished(out _));

        EngineMetrics m = harness.Engine.Metrics;
        Assert.Equal((20, 10, 8), (m.PromptTokens, m.GeneratedTokens, m.Steps)); // 19 in three chunks of eight, then five tokens of two choices
        long[] counts = new long[m.InterTokenLatency.Bounds.Length + 1];
        Assert.Equal(8, m.InterTokenLatency.Read(counts, out double between)); // four gaps of two choices
        Assert.Equal(2.0 * (t.LastToken - t.FirstToken) / Stopwatch.Frequency, between, 9);
        counts = new long[m.StepTokens.Bounds.Length + 1];
        Assert.Equal(8, m.StepTokens.Read(counts, out double tokens));
        Assert.Equal(19 + 10, tokens);
        Assert.Equal((0, 0), (m.Running, m.Waiting));
        Assert.Equal(m.TotalBlocks, m.FreeBlocks);
    }

    [Fact]
    public void RecordsThatNobodyReads_AreDroppedAndCounted()
    {
        using EngineHarness harness = new();
        for (int i = 0; i < 5; i++)
        {
            for (int j = 0; j < 1000; j++)
            {
                harness.Engine.Submit(new GenerationRequest { Ids = new[] { 1 }, Sampling = Greedy(0) }, out _);
            }
            harness.Engine.Turn();
        }
        Assert.Equal(5000 - 4096, harness.Engine.Metrics.DroppedRecords);
        int read = 0;
        while (harness.Engine.Metrics.TryReadFinished(out _)) read++;
        Assert.Equal(4096, read);
    }

    /// <summary>An engine in which the victim is at the given stage, with others beside it.</summary>
    private static EngineHarness BringTo(Stage stage, long? deadline, out Reading victim, out Reading[] others)
    {
        // 24 blocks of 2: the older one grows to 20 tokens, so a younger one that holds most of the rest is preempted.
        EngineHarness harness = new(new FakeModelRunner(blockCount: 12, blockSize: 2, maxModelLength: 24),
            new EngineOptions
            {
                Policy = SchedulingPolicy.Fcfs,
                MaxRunning = 4,
                MaxBatchedTokens = 6,
            });
        Reading older = harness.Submit(Prompt(4, 1), Greedy(18));
        harness.Turn();
        int n = stage is Stage.BeforeFork or Stage.Forked ? 3 : 1;
        int[] prompt = Prompt(stage switch { Stage.Waiting => 22, Stage.Preempted => 9, _ => 8 }, 2);
        Reading reading = harness.Submit(prompt, new SamplingParams { N = n, Seed = 5, MaxTokens = stage == Stage.Waiting ? 1 : 12, IgnoreEos = true }, deadline);
        Sequence sequence = reading.Stream.Sequences[0];
        Func<bool> there = stage switch
        {
            Stage.Submitted => () => true,
            Stage.Waiting => () => sequence.Stage == SequenceStage.Waiting,
            Stage.Prefilling or Stage.BeforeFork => () => sequence.Stage == SequenceStage.Prefilling && sequence.NumComputedTokens > 0,
            Stage.Decoding => () => reading.Tokens().Length > 1,
            Stage.Preempted => () => sequence.Stage == SequenceStage.Waiting && sequence.Preemptions > 0,
            Stage.Forked => () => reading.Tokens(2).Length > 0 || reading.Stream.Sequences[2].Stage != SequenceStage.None,
            _ => throw new ArgumentOutOfRangeException(nameof(stage)),
        };
        while (!there())
        {
            Assert.True(harness.Turn(), $"never came to be {stage}");
            Assert.False(reading.IsComplete, $"ended before it was {stage}");
        }
        victim = reading;
        others = [older, harness.Submit(Prompt(3, 3), Greedy(4))];
        return harness;
    }

    private static void AssertEnded(EngineHarness harness, Reading victim, Reading[] others, FinishReason reason)
    {
        for (int i = 0; i < victim.Stream.N; i++) Assert.Equal(reason, victim.Finish(i));
        Assert.All(victim.Stream.Sequences, s => Assert.Equal(0, s.BlockCount));
        Assert.Null(harness.Engine.Scheduler.CheckIntegrity());
        harness.RunToEnd();
        foreach (Reading other in others) other.AssertOracle(24);
        harness.AssertClean();
    }
}
