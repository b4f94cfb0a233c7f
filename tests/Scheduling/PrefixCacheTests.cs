using Native.Kernels;
using Native.Scheduling;

namespace Native.Tests.Scheduling;

public sealed class PrefixCacheTests
{
    private const int BlockSize = 4;

    [Theory]
    [InlineData(1), InlineData(3), InlineData(4), InlineData(5), InlineData(8), InlineData(21), InlineData(64)]
    public void ThePromptAgain_CostsOneToken(int length)
    {
        using EngineHarness harness = new();
        int[] prompt = EngineHarness.Prompt(length);
        Run(harness, prompt, outputs: 1);
        Reading again = Run(harness, prompt, outputs: 6);
        Assert.Equal(length - 1, again.Stream.Timings.CachedTokens);
        harness.AssertClean();
    }

    [Theory]
    [InlineData(5, 3), InlineData(8, 8), InlineData(30, 11)]
    public void TheNextTurn_CostsItsNewTokens(int length, int outputs)
    {
        using EngineHarness harness = new();
        Reading first = Run(harness, EngineHarness.Prompt(length), outputs);
        int[] next = [.. first.Prompt, .. first.Tokens(), 7, 8, 9];
        Reading second = Run(harness, next, outputs: 2);
        // The last token of an answer is never computed.
        Assert.Equal(length + outputs - 1, second.Stream.Timings.CachedTokens);
        harness.AssertClean();
    }

    [Fact]
    public void ACommonBeginning_IsSharedByThoseWhoRun_AndTakesItsBlocksOnce()
    {
        using EngineHarness harness = new(new FakeModelRunner(blockCount: 40, blockSize: BlockSize));
        int[] system = EngineHarness.Prompt(64, seed: 3); // 16 blocks
        Reading first = harness.Submit([.. system, 1], EngineHarness.Greedy(20));
        harness.Turns(2);
        Reading[] others =
            [.. Enumerable.Range(2, 3).Select(i => harness.Submit([.. system, i], EngineHarness.Greedy(8)))];
        harness.Turns(2);
        // Four prompts of 17 blocks would be 68 of the 40.
        Assert.Equal(4, harness.Engine.Scheduler.Live.Running);
        Assert.Equal(16 + 4, harness.Engine.Scheduler.Pool.OwnedCount);
        harness.RunToEnd();
        foreach (Reading reading in (Reading[])[first, .. others]) reading.AssertOracle(128);
        Assert.All(others, other => Assert.Equal(64, other.Stream.Timings.CachedTokens));
        harness.AssertClean();
    }

    [Fact]
    public void TwoWhoComputeTheSameAtOnce_EndUpWithTheSameBlocks()
    {
        using EngineHarness harness = new();
        int[] prompt = EngineHarness.Prompt(17);
        Reading a = harness.Submit(prompt, EngineHarness.Greedy(9));
        Reading b = harness.Submit(prompt, EngineHarness.Greedy(9));
        harness.Turns(2);
        Assert.Equal(4 + 2, harness.Engine.Scheduler.Pool.OwnedCount); // each has a last block of its own
        harness.RunToEnd();
        a.AssertOracle(128);
        b.AssertOracle(128);
        harness.AssertClean();
    }

    [Fact]
    public void NobodyShares_WithAnotherSalt()
    {
        using EngineHarness harness = new();
        int[] prompt = EngineHarness.Prompt(20);
        string?[] salts = [null, "a", "b", "a", null, ""];
        int[] cached = [.. salts.Select(salt =>
        {
            Assert.Equal(SubmitOutcome.Accepted, harness.Engine.Submit(new GenerationRequest
            {
                Ids = prompt,
                Sampling = EngineHarness.Greedy(1),
                CacheSalt = salt,
            }, out TokenStream? stream));
            harness.RunToEnd();
            return stream!.Timings.CachedTokens;
        })];
        Assert.Equal([0, 0, 0, 19, 19, 19], cached);
    }

    [Fact]
    public void ScoredPrompts_AreComputed()
    {
        using EngineHarness harness = new();
        int[] prompt = EngineHarness.Prompt(20);
        Run(harness, prompt, outputs: 1);
        Reading scored = harness.Submit(prompt, EngineHarness.Greedy(3) with { PromptLogprobs = 1 });
        harness.RunToEnd();
        scored.AssertOracle(128);
        Assert.Equal(0, scored.Stream.Timings.CachedTokens);
    }

    [Fact]
    public void Choices_TakeTheirPromptFromTheCacheOnce()
    {
        using EngineHarness harness = new();
        int[] prompt = EngineHarness.Prompt(21);
        Run(harness, prompt, outputs: 1);
        Reading choices = harness.Submit(prompt, EngineHarness.Greedy(5) with { N = 4, Temperature = 1 });
        harness.RunToEnd();
        choices.AssertOracle(128);
        Assert.Equal(19, choices.Stream.Timings.CachedTokens); // the last but one is computed to fork
        harness.AssertClean();
    }

    [Fact]
    public void WithoutTheCache_NothingIsShared()
    {
        using EngineHarness harness = new(options:
            new EngineOptions { Policy = SchedulingPolicy.Fcfs, PrefixCaching = false });
        Run(harness, EngineHarness.Prompt(20), outputs: 1);
        Assert.Equal(0, Run(harness, EngineHarness.Prompt(20), outputs: 1).Stream.Timings.CachedTokens);
        Assert.Equal((0, 0), (harness.Engine.Metrics.PrefixQueryTokens, harness.Engine.Metrics.PrefixHitTokens));
    }

    [Fact]
    public void WhatWasReadLongestAgo_MakesRoom_TheEndOfAChainBeforeItsBeginning()
    {
        FakeModelRunner runner = new(blockCount: 16, blockSize: BlockSize, maxModelLength: 64);
        using EngineHarness harness = new(runner);
        int[] a = EngineHarness.Prompt(21, seed: 1), b = EngineHarness.Prompt(21, seed: 2);
        int[] c = EngineHarness.Prompt(25, seed: 3);
        Run(harness, a, outputs: 1);
        Run(harness, b, outputs: 1);
        Run(harness, a, outputs: 1); // now b was read longest ago
        Run(harness, c, outputs: 1); // 7 blocks: 4 are empty, 3 are b's last
        Assert.Equal(20, Run(harness, a, outputs: 1).Stream.Timings.CachedTokens);
        Assert.InRange(Run(harness, b, outputs: 1).Stream.Timings.CachedTokens, 8, 12);
        Assert.True(harness.Engine.Metrics.EvictedBlocks > 0);
        harness.AssertClean();
    }

    [Theory, InlineData(1), InlineData(2)]
    public void WhoseBlockWasToBeCopied_InAStepThatFailed_StartsAnew(int stepsInFlight)
    {
        FakeModelRunner runner = new(blockSize: 4, stepsInFlight: stepsInFlight);
        using EngineHarness harness = new(runner, new EngineOptions());
        GenerationRequest batch = new()
        {
            Ids = EngineHarness.Prompt(10, 1),
            Sampling = EngineHarness.Greedy(3),
            Class = RequestClass.Batch,
        };
        harness.Submit(batch);
        harness.RunToEnd();
        Reading online = harness.Submit(EngineHarness.Prompt(6, 2), EngineHarness.Greedy(20));
        harness.Turns(3);
        Reading again = harness.Submit(batch);
        runner.OnLaunch = () =>
        {
            runner.OnLaunch = null;
            throw new InvalidOperationException("one launch");
        };
        harness.Turn();
        // It is let in, and no token of it is computed beside the online stream.
        Assert.Equal(1, harness.Engine.Scheduler.Plan.Copies.Length);
        Assert.Equal(1, harness.Engine.Scheduler.Plan.Chunks.Length);
        harness.RunToEnd();
        Assert.Equal(FinishReason.Error, online.Finish());
        again.AssertOracle(128);
        harness.AssertClean();
    }

    [Fact]
    public void WhoLostItsBlocks_FindsThemAgain()
    {
        long with = Recomputed(caching: true), without = Recomputed(caching: false);
        Assert.True(without > 100, $"only {without} tokens were computed again");
        Assert.True(with < without, $"{with} of {without} tokens"); // the rest was needed for others meanwhile

        static long Recomputed(bool caching)
        {
            FakeModelRunner runner = new(blockCount: 24, blockSize: BlockSize, maxModelLength: 64);
            using EngineHarness harness = new(runner,
                new EngineOptions { Policy = SchedulingPolicy.Fcfs, PrefixCaching = caching });
            SamplingParams sampling = EngineHarness.Greedy(30);
            Reading[] readings =
                [.. Enumerable.Range(0, 6).Select(i => harness.Submit(EngineHarness.Prompt(12, i), sampling))];
            harness.RunToEnd();
            foreach (Reading reading in readings) reading.AssertOracle(64);
            harness.AssertClean();
            return harness.Engine.Metrics.RecomputedTokens;
        }
    }

    [Theory]
    [InlineData(1), InlineData(2)]
    public void WhatAFailedStepLeft_IsNotTaken(int failing)
    {
        FakeModelRunner runner = new(blockSize: BlockSize);
        using EngineHarness harness = new(runner,
            new EngineOptions { Policy = SchedulingPolicy.Fcfs, MaxRunning = 4, MaxBatchedTokens = 16 });
        int step = 0;
        runner.OnExecute = (in Batch _) =>
        {
            if (++step == failing) throw new InvalidOperationException("a fault");
        };
        Reading failed = harness.Submit(EngineHarness.Prompt(40));
        harness.RunToEnd();
        Assert.Equal(FinishReason.Error, failed.Finish());
        Reading again = Run(harness, EngineHarness.Prompt(40), outputs: 5);
        Assert.Equal(0, again.Stream.Timings.CachedTokens);
        harness.AssertClean();
    }

    [Fact]
    public void APrefix_IsComparedTokenByToken_WhateverItsHash()
    {
        PrefixCache cache = new(8, BlockSize);
        cache.Add(3, UInt128.Zero, parent: -1, chain: 77, [1, 2, 3, 4]);
        cache.Add(4, UInt128.Zero, parent: 3, chain: 77, [5, 6, 7, 8]); // the same hash throughout
        cache.Add(5, UInt128.One, parent: -1, chain: 77, [1, 2, 3, 4]);
        Assert.Equal(3, cache.Find(UInt128.Zero, -1, 77, [1, 2, 3, 4]));
        Assert.Equal(5, cache.Find(UInt128.One, -1, 77, [1, 2, 3, 4]));
        Assert.Equal(-1, cache.Find(UInt128.Zero, -1, 77, [1, 2, 3, 5]));
        Assert.Equal(-1, cache.Find(UInt128.Zero, -1, 77, [5, 6, 7, 8]));
        Assert.Equal(4, cache.Find(UInt128.Zero, 3, 77, [5, 6, 7, 8]));
        Assert.Equal(-1, cache.Find(UInt128.Zero, 5, 77, [5, 6, 7, 8]));
        Assert.Equal(4, cache.FindPart(UInt128.Zero, 3, [5, 6, 9], out int common));
        Assert.Equal(2, common);
        Assert.Null(cache.CheckIntegrity());
    }

    /// <summary>The whole cache against a dictionary of all chains that are in it.</summary>
    [Fact]
    public void RandomChains_AreFoundAsLongAsTheirBlocksAreThere()
    {
        Random random = new(5);
        const int Blocks = 24;
        PrefixCache cache = new(Blocks, 2);
        BlockPool pool = new(Blocks, cache);
        List<int[]> held = [];
        long found = 0;
        for (int round = 0; round < 20_000; round++)
        {
            if (held.Count > 0 && (held.Count > 5 || random.Next(2) == 0))
            {
                int[] table = held[random.Next(held.Count)];
                held.Remove(table);
                foreach (int block in table.Reverse()) pool.Release(block);
                continue;
            }
            List<int> chain = [];
            ulong hash = PrefixCache.ChainOf(UInt128.Zero);
            int parent = -1;
            for (int i = random.Next(1, 4); i > 0; i--)
            {
                int[] tokens = [random.Next(3), random.Next(3)];
                hash = PrefixCache.ChainOf(hash, tokens);
                int block = cache.Find(UInt128.Zero, parent, hash, tokens);
                if (block >= 0)
                {
                    found++;
                    pool.Share(block);
                }
                else
                {
                    if (!pool.TryAllocate(out block)) break;
                    cache.Add(block, UInt128.Zero, parent, hash, tokens);
                }
                chain.Add(block);
                parent = block;
            }
            held.Add([.. chain]);
            Assert.Null(cache.CheckIntegrity());
            Assert.Equal(Blocks, pool.FreeCount + pool.OwnedCount);
            Assert.Equal(held.SelectMany(table => table).Distinct().Count(), pool.OwnedCount);
        }
        Assert.True(found > 5000 && pool.Evictions > 1000, $"{found} found, {pool.Evictions} evicted");
    }

    private static Reading Run(EngineHarness harness, int[] prompt, int outputs)
    {
        Reading reading = harness.Submit(prompt, EngineHarness.Greedy(outputs));
        harness.RunToEnd();
        reading.AssertOracle(harness.Runner.Info.MaxModelLength);
        return reading;
    }
}
