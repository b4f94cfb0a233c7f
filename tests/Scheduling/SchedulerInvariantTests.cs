using Native.Bench.Serve;
using Native.Kernels.Sampling;
using Native.Scheduling;

namespace Native.Tests.Scheduling;

/// <summary>What must hold where a step is collected before the next is launched.</summary>
public sealed class SchedulerInvariantTests() : AnyWorkloadTests(stepsInFlight: 1, SchedulingPolicy.Fcfs);

/// <summary>What must hold where a step is planned and launched while the one before is in flight.</summary>
public sealed class OverlappedSchedulerInvariantTests() : AnyWorkloadTests(stepsInFlight: 2, SchedulingPolicy.Fcfs);

/// <summary>The same where turns go by class, priority and due time.</summary>
public sealed class SloSchedulerInvariantTests() : AnyWorkloadTests(stepsInFlight: 1, SchedulingPolicy.Slo);

/// <summary>The same with a step in flight.</summary>
public sealed class OverlappedSloSchedulerInvariantTests() : AnyWorkloadTests(stepsInFlight: 2, SchedulingPolicy.Slo);

/// <summary>What must hold for any workload: 200 random ones each.</summary>
/// <param name="stepsInFlight">Steps that the runner lets be launched before the first is collected.</param>
/// <param name="policy">Whose turn it is. By due time, requests have classes, priorities and objectives.</param>
public abstract class AnyWorkloadTests(int stepsInFlight, SchedulingPolicy policy)
{
    private const int Workloads = 200;

    [Fact]
    public void EveryOutput_IsTheOracles_WhateverTheBudgetPoolAndCompany()
    {
        long preemptions = 0, copies = 0, hits = 0, evictions = 0;
        for (int seed = 0; seed < Workloads; seed++)
        {
            Random random = new(seed);
            using EngineHarness harness = RandomEngine(random);
            harness.AfterTurn = () => AssertStepInvariants(harness);
            List<Reading> readings = SubmitAtRandom(random, harness, count: random.Next(1, 24));
            harness.RunToEnd();
            foreach (Reading reading in readings) reading.AssertOracle(harness.Runner.Info.MaxModelLength);
            harness.AssertClean();
            preemptions += harness.Engine.Metrics.Preemptions;
            copies += harness.Engine.Metrics.CopiedBlocks;
            hits += harness.Engine.Metrics.PrefixHitTokens;
            evictions += harness.Engine.Metrics.EvictedBlocks;
        }
        // A random test that never meets what it is for is no test.
        Assert.True(preemptions > 200, $"only {preemptions} preemptions");
        Assert.True(copies > 200, $"only {copies} copied blocks");
        Assert.True(hits > 2000, $"only {hits} tokens from the cache");
        Assert.True(evictions > 1000, $"only {evictions} blocks taken from the cache");
    }

    [Fact]
    public void CancelsDeadlinesAndStops_LeaveTheOthersOutputsAlone_AndFreeEveryBlock()
    {
        for (int seed = 0; seed < Workloads; seed++)
        {
            Random random = new(seed);
            using EngineHarness harness = RandomEngine(random);
            harness.AfterTurn = () => AssertStepInvariants(harness);
            List<Reading> readings = SubmitAtRandom(random, harness, count: random.Next(4, 24));
            HashSet<Reading> disturbed = [];
            while (harness.Turn())
            {
                if (random.Next(3) > 0) continue;
                Reading victim = readings[random.Next(readings.Count)];
                disturbed.Add(victim);
                if (random.Next(2) == 0) victim.Stream.Cancel();
                else victim.Stream.Stop(random.Next(victim.Stream.N));
            }
            foreach (Reading reading in readings)
            {
                Assert.True(reading.IsComplete);
                if (!disturbed.Contains(reading)) reading.AssertOracle(harness.Runner.Info.MaxModelLength);
            }
            harness.AssertClean();
        }
    }

    [Fact]
    public void NobodyIsPreemptedMoreOftenThanTheBound()
    {
        int most = 0;
        for (int seed = 0; seed < Workloads; seed++)
        {
            Random random = new(seed);
            int bound = random.Next(1, 4);
            FakeModelRunner runner = new(blockCount: 12, blockSize: 2, maxModelLength: 24, stepsInFlight: stepsInFlight);
            using EngineHarness harness = new(runner,
                new EngineOptions
                {
                    MaxRunning = 8,
                    MaxBatchedTokens = 16,
                    MaxPreemptions = bound,
                    Policy = policy,
                });
            HashSet<Sequence> seen = [];
            harness.AfterTurn = () =>
            {
                foreach (Sequence s in Live(harness.Engine.Scheduler)) seen.Add(s);
            };
            List<Reading> readings = SubmitAtRandom(random, harness, count: 16);
            harness.RunToEnd();
            foreach (Sequence s in seen)
            {
                Assert.InRange(s.Preemptions, 0, bound);
                most = Math.Max(most, s.Preemptions);
            }
            foreach (Reading reading in readings) reading.AssertOracle(24);
            harness.AssertClean();
        }
        Assert.Equal(3, most); // the bound is reached, so it is what holds them back
    }

    [Fact]
    public void TheFirstByKey_IsComputedInEveryStep()
    {
        for (int seed = 0; seed < Workloads; seed++)
        {
            Random random = new(seed);
            using EngineHarness harness = RandomEngine(random);
            Sequence? oldest = null;
            int computed = 0, output = 0, still = 0;
            harness.AfterTurn = () =>
            {
                // By due time, the first by key may wait for one after it that has the blocks.
                Sequence? now = Live(harness.Engine.Scheduler)
                    .FirstOrDefault(s => policy == SchedulingPolicy.Fcfs || s.Stage != SequenceStage.Waiting);
                bool moved = now is null || now != oldest || now.NumComputedTokens > computed
                    || now.Output.Count > output || IsPassed(now, harness.Engine.Scheduler.Plan);
                // It may have to wait for a step in flight twice: to fork or to know its token, then for the blocks of
                // one behind it.
                still = moved ? 0 : still + 1;
                Assert.True(still <= 2 * (stepsInFlight - 1), "the oldest stood still");
                oldest = now;
                computed = now?.NumComputedTokens ?? 0;
                output = now?.Output.Count ?? 0;
            };
            SubmitAtRandom(random, harness, count: 20);
            harness.RunToEnd();
        }
    }

    /// <summary>Whether a prompt lets another tenant's go first in a step, as only prompts do.</summary>
    private bool IsPassed(Sequence s, StepPlan plan)
    {
        if (policy == SchedulingPolicy.Fcfs || s.Stage != SequenceStage.Prefilling) return false;
        foreach (ref readonly ScheduledChunk chunk in plan.Chunks[plan.Decodes..])
            if (chunk.Sequence.Stream.Share != s.Stream.Share) return true;
        return false;
    }

    [Fact]
    public void Waiting_IsBoundedByTheWorkOfThoseBefore()
    {
        for (int seed = 0; seed < Workloads; seed++)
        {
            Random random = new(seed);
            using EngineHarness harness = RandomEngine(random);
            List<Reading> readings = SubmitAtRandom(random, harness, count: 12);
            int budget = Math.Min(harness.Engine.Options.MaxBatchedTokens, harness.Runner.Info.MaxBatchedTokens);
            int turn = 0;
            Dictionary<Reading, int> ended = [];
            harness.AfterTurn = () =>
            {
                turn++;
                foreach (Reading reading in readings)
                    if (reading.IsComplete) ended.TryAdd(reading, turn);
            };
            harness.RunToEnd();
            // By due time, whoever is due later may come before: then all are bounded by the work of all.
            int bound = policy == SchedulingPolicy.Fcfs ? 0 : readings.Sum(Work);
            foreach (Reading reading in readings)
            {
                if (policy == SchedulingPolicy.Fcfs) bound += Work(reading);
                // a turn launches a step, collects one, or both
                Assert.InRange(ended[reading], 1, bound * stepsInFlight);
            }

            int Work(Reading reading)
            {
                int limit = Math.Min(reading.Sampling.MaxTokens!.Value, harness.Runner.Info.MaxModelLength - reading.Prompt.Length);
                int longest = reading.Prompt.Length + limit;
                return reading.Sampling.N * ((longest + budget - 1) / budget + limit) + 2;
            }
        }
    }

    internal static IEnumerable<Sequence> Live(Scheduler scheduler)
    {
        LiveSequences live = scheduler.Live;
        Sequence[] waiting = [.. live.Waiting];
        return Members(live.Decoding).Concat(Members(live.Prefilling)).OrderBy(s => s.Key).Concat(waiting.OrderBy(s => s.Key));
    }

    private static IEnumerable<Sequence> Members(SequenceQueue queue)
    {
        for (Sequence? s = queue.First; s is not null; s = s.Next) yield return s;
    }

    private EngineHarness RandomEngine(Random random)
    {
        int blockSize = new[] { 1, 2, 3, 4, 8, 16 }[random.Next(6)];
        const int maxModelLength = 40;
        int least = (maxModelLength + blockSize - 1) / blockSize;
        FakeModelRunner runner = new(least + random.Next(0, 3 * least), blockSize, maxModelLength, stepsInFlight: stepsInFlight);
        int maxRunning = random.Next(5, 17);
        return new EngineHarness(runner,
            new EngineOptions
            {
                MaxRunning = maxRunning,
                MaxBatchedTokens = maxRunning + random.Next(0, 60),
                MaxPreemptions = random.Next(1, 5),
                Policy = policy,
            });
    }

    private static GenerationRequest WithObjectives(Random random, GenerationRequest request) => request with
    {
        Class = random.Next(3) == 0 ? RequestClass.Batch : RequestClass.Online,
        Tenant = random.Next(4) switch { 0 => "a", 1 => "b", _ => "" },
        CacheSalt = "everybody",
        Priority = random.Next(4) == 0 ? random.Next(-2, 3) : 0,
        TtftObjective = random.Next(2) == 0 ? TimeSpan.FromMicroseconds(random.Next(1, 1000)) : null,
        TpotObjective = random.Next(2) == 0 ? TimeSpan.FromMicroseconds(random.Next(1, 100)) : null,
        BestEffort = true,
    };

    /// <summary>A prompt of its own, or one that begins as an earlier one and its answer so far.</summary>
    private static int[] RandomPrompt(Random random, EngineHarness harness, List<Reading> earlier)
    {
        int most = harness.Runner.Info.MaxModelLength - 2;
        int[] own = EngineHarness.Prompt(random.Next(1, most), random.Next());
        if (earlier.Count == 0 || random.Next(2) == 0) return own;
        Reading like = earlier[random.Next(earlier.Count)];
        int[] both = [.. like.Prompt, .. like.Tokens(random.Next(like.Sampling.N))];
        return [.. both.Take(random.Next(1, both.Length + 1)).Concat(own).Take(own.Length)];
    }

    private List<Reading> SubmitAtRandom(Random random, EngineHarness harness, int count)
    {
        List<Reading> readings = [];
        for (int i = 0; i < count; i++)
        {
            SamplingParams p = new()
            {
                Temperature = random.Next(2) * 0.7f,
                TopK = random.Next(3),
                TopP = random.Next(2) == 0 ? 1 : 0.9f,
                RepetitionPenalty = random.Next(3) == 0 ? 1.1f : 1,
                FrequencyPenalty = random.Next(4) == 0 ? 0.5f : 0,
                Seed = (ulong)random.NextInt64(),
                N = random.Next(3) == 0 ? random.Next(1, 6) : 1,
                MaxTokens = random.Next(8) == 0 ? 0 : random.Next(1, 36),
                MinTokens = 0,
                IgnoreEos = random.Next(2) == 0,
                StopTokenIds = random.Next(3) == 0 ? [random.Next(1, 49), random.Next(1, 49)] : [],
                LogitBias = random.Next(4) == 0 ? [new TokenBias(random.Next(49), 5), new TokenBias(random.Next(49), -100)] : [],
                Logprobs = random.Next(4) == 0 ? random.Next(4) : null,
                PromptLogprobs = random.Next(4) == 0 ? random.Next(4) : null,
            };
            if (random.Next(3) == 0) p = p with { MinTokens = random.Next(0, p.MaxTokens!.Value + 1) };
            GenerationRequest request = new() { Ids = RandomPrompt(random, harness, readings), Sampling = p };
            if (policy == SchedulingPolicy.Slo) request = WithObjectives(random, request);
            readings.Add(harness.Submit(request));
            if (random.Next(3) == 0) harness.Turns(random.Next(4));
        }
        return readings;
    }

    private void AssertStepInvariants(EngineHarness harness)
    {
        Scheduler scheduler = harness.Engine.Scheduler;
        EngineOptions options = harness.Engine.Options;
        Assert.Null(scheduler.CheckIntegrity());
        Assert.Equal(scheduler.Pool.TotalCount, scheduler.Pool.FreeCount + scheduler.Pool.OwnedCount);

        // One line, in three stretches, and everyone in it once.
        HashSet<Sequence> once = [];
        UInt128 last = 0;
        bool isFirst = true;
        foreach (Sequence s in Live(scheduler))
        {
            Assert.True(once.Add(s));
            if (s.Index == 0) // a further choice may wait for a place that somebody took before the fork
            {
                Assert.True(policy == SchedulingPolicy.Slo || isFirst || s.Key > last, "nobody overtakes");
                (last, isFirst) = (s.Key, false);
            }
            if (s.Stage == SequenceStage.Waiting) Assert.Equal(0, s.BlockCount);
            else Assert.True(s.BlockCount * harness.Runner.Info.BlockSize >= s.NumComputedTokens);
        }
        foreach (SequenceQueue queue in new[] { scheduler.Live.Decoding, scheduler.Live.Prefilling })
            Assert.Equal(Members(queue).Select(s => s.Key).Order(), Members(queue).Select(s => s.Key));
        // Where no other step is in flight, whoever decodes came before whoever prefills.
        if (policy == SchedulingPolicy.Fcfs && harness.Runner.Info.StepsInFlight == 1
            && scheduler.Live.Decoding.Last is { } decoding
            && Members(scheduler.Live.Prefilling).FirstOrDefault(s => s.Index == 0) is { } prefilling)
            Assert.True(decoding.Key < prefilling.Key, "nobody overtakes");
        Assert.InRange(scheduler.Live.Running, 0, options.MaxRunning);
        Assert.InRange(scheduler.Live.FreePlaces, 0, options.MaxRunning - scheduler.Live.Running);

        int planned = 0;
        HashSet<Sequence> scheduled = [];
        foreach (ScheduledChunk chunk in scheduler.Plan.Chunks)
        {
            Assert.True(scheduled.Add(chunk.Sequence));
            Assert.True(chunk.Count > 0);
            planned += chunk.Count;
        }
        Assert.InRange(planned, 0, options.MaxBatchedTokens);
        Assert.Empty(harness.Runner.Violations);
    }
}
