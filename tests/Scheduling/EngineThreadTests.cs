using System.Diagnostics;
using Native.Bench.Serve;
using Native.Scheduling;
using static Native.Tests.Scheduling.EngineHarness;

namespace Native.Tests.Scheduling;

/// <summary>The engine with its own thread, and readers and submitters with theirs. Alone, because it counts the
/// process's lock contentions.</summary>
[CollectionDefinition(nameof(EngineThreadTests), DisableParallelization = true)]
[Collection(nameof(EngineThreadTests))]
public sealed class EngineThreadTests
{
    private static CancellationToken Timeout => TestContext.Current.CancellationToken;

    [Fact]
    public async Task SixtyFourStreams_AThirdCancelledAtRandom_LeaveEveryBlockFree()
    {
        FakeModelRunner runner = new(blockCount: 200, blockSize: 4, maxModelLength: 200);
        using Engine engine = new(runner, [FakeModelRunner.EndId], new EngineOptions { MaxRunning = 32, MaxBatchedTokens = 64 });
        async Task request(int i)
        {
            Random random = new(i);
            SamplingParams p = new() { N = 1 + i % 3, Seed = (ulong)i, MaxTokens = 60, IgnoreEos = i % 2 == 0, Temperature = 0.5f };
            int[] prompt = Prompt(random.Next(1, 100), i);
            Assert.Equal(SubmitOutcome.Accepted, engine.Submit(new GenerationRequest { Ids = prompt, Sampling = p }, out TokenStream? stream));
            Reading reading = new(prompt, p, stream!);
            int cancelAfter = i % 3 == 0 ? random.Next(1, 30) : int.MaxValue;
            int waits = 0;
            while (await stream!.WaitAsync(Timeout))
            {
                reading.Read();
                if (++waits == cancelAfter) stream.Cancel();
            }
            Assert.True(reading.IsComplete);
            if (cancelAfter == int.MaxValue) reading.AssertOracle(200);
        }
        await Task.WhenAll(Enumerable.Range(0, 64).Select(i => Task.Run(() => request(i), Timeout)));
        Assert.True(await engine.Drain(TimeSpan.FromMinutes(1)));
        Assert.Empty(runner.Violations);
        Assert.Null(engine.Scheduler.CheckIntegrity());
        Assert.Equal(200, engine.Scheduler.Pool.FreeCount);
        Assert.Equal(200, engine.Metrics.FreeBlocks);
        Assert.Equal((0, 0), (engine.Metrics.Running, engine.Metrics.Waiting));
    }

    [Fact]
    public async Task ADecodeStep_AllocatesNothing_AndContendsForNoLock()
    {
        const int tokens = 1500, warm = 200;
        for (int attempt = 0; ; attempt++)
        {
            FakeModelRunner runner = new(blockCount: 1024, blockSize: 16, maxModelLength: 2000);
            long before = 0, after = 0;
            using ManualResetEventSlim submitted = new();
            runner.OnExecute = (in _) =>
            {
                if (runner.Steps == 1) submitted.Wait(Timeout); // or the steps measured might be ones that admit
                // From one call to the next lies a whole turn of the engine thread: commit, publish, wake, plan, build.
                if (runner.Steps == warm) before = GC.GetAllocatedBytesForCurrentThread();
                if (runner.Steps == tokens - warm) after = GC.GetAllocatedBytesForCurrentThread();
            };
            using Engine engine = new(runner, [FakeModelRunner.EndId], new EngineOptions { MaxRunning = 16 });
            // Everything a row can ask for: penalties, biases, minimum, alternatives, draws.
            SamplingParams p = new()
            {
                MaxTokens = tokens,
                IgnoreEos = true,
                MinTokens = tokens / 2,
                RepetitionPenalty = 1.1f,
                Logprobs = 3,
                Seed = 1,
                LogitBias = [new(3, 1), new(4, -1)],
                StopTokenIds = [],
            };
            long contentions = Monitor.LockContentionCount;
            Task<int>[] readers = [.. Enumerable.Range(0, 8).Select(i => Read(engine, Prompt(10, i), p with { N = i == 0 ? 2 : 1 }))];
            submitted.Set();
            int[] counts = await Task.WhenAll(readers);
            contentions = Monitor.LockContentionCount - contentions;
            Assert.Equal(9 * tokens, counts.Sum());
            Assert.Empty(runner.Violations);
            // The count is the process's: a lock of ours would be contended every time, the runtime's own rarely is.
            // Likewise an allocation of ours would come every time; beside a whole suite the pool's queue, which the
            // steps wake readers through, grows now and then.
            if (contentions == 0 && after == before) break;
            Assert.True(attempt < 4, $"{contentions} contended locks and {after - before} bytes in the last of five runs");
        }
    }

    [Fact]
    public void ADecodeStepBesideCollections_IsNotToldAsAllocating()
    {
        // What is left of a thread's allocation buffer counts as allocated by it once another thread collects.
        int collected = 0;
        FakeModelRunner runner = new(blockCount: 1024, blockSize: 16, maxModelLength: 2000);
        runner.OnExecute = (in batch) =>
        {
            if (runner.Steps <= 200 || runner.Steps % 10 != 0) return;
            GC.KeepAlive(new byte[64]); // opens a buffer
            Task.Run(() => GC.Collect(0, GCCollectionMode.Forced, blocking: true)).Wait(Timeout);
            collected++;
        };
        using EngineHarness harness = new(runner);
        harness.Submit(Prompt(10, 1), Greedy(1500));
        harness.Turns(200);
        long warm = harness.Engine.Metrics.DecodeStepAllocatedBytes;
        harness.RunToEnd();
        Assert.Equal(130, collected);
        Assert.InRange(harness.Engine.Metrics.DecodeStepAllocatedBytes - warm, 0, 4096);
    }

    [Fact]
    public async Task AnIdleEngine_IsWokenByEverySubmission()
    {
        // Without the idle beat a lost wake would stand still for good.
        using Engine engine = new(new FakeModelRunner(), [FakeModelRunner.EndId], new EngineOptions(), startThread: true, idleBeat: System.Threading.Timeout.InfiniteTimeSpan);
        for (int i = 0; i < 3000; i++)
        {
            Assert.Equal(2, await Read(engine, Prompt(3, i), Greedy(2)));
            if (i % 100 == 0) await Task.Delay(1, Timeout);
        }
    }

    [Fact]
    public async Task AnIdleEngine_ShowsItsHeartbeat()
    {
        using Engine engine = new(new FakeModelRunner(), [FakeModelRunner.EndId], new EngineOptions());
        for (int i = 0; i < 2; i++)
        {
            long seen = engine.Heartbeat;
            while (engine.Heartbeat == seen) await Task.Delay(10, Timeout);
        }
    }

    [Fact]
    public async Task AWaitThatIsCancelled_Throws_AndTheStreamCanBeReadOn()
    {
        FakeModelRunner runner = new();
        using ManualResetEventSlim gate = new();
        runner.OnExecute = (in _) => gate.Wait(Timeout);
        using Engine engine = new(runner, [FakeModelRunner.EndId], new EngineOptions());
        engine.Submit(new GenerationRequest { Ids = Prompt(3), Sampling = Greedy(5) }, out TokenStream? stream);
        for (int i = 0; i < 100; i++)
        {
            using CancellationTokenSource source = new();
            ValueTask<bool> wait = stream!.WaitAsync(source.Token);
            Assert.False(wait.IsCompleted);
            source.Cancel();
            await Assert.ThrowsAnyAsync<OperationCanceledException>(async () => await wait);
        }
        gate.Set();
        int tokens = 0;
        while (await stream!.WaitAsync(Timeout))
            while (stream.TryRead(out _)) tokens++;
        Assert.Equal(5, tokens);
    }

    [Fact]
    public async Task SubmittersAgainstDispose_EachGetARefusalOrAnEnd()
    {
        for (int round = 0; round < 50; round++)
        {
            FakeModelRunner runner = new();
            Engine engine = new(runner, [FakeModelRunner.EndId], new EngineOptions());
            async Task<int> submit(int seed)
            {
                int refused = 0;
                for (int i = 0; i < 50; i++)
                {
                    SubmitOutcome outcome = engine.Submit(new GenerationRequest { Ids = Prompt(4, seed), Sampling = Greedy(3) }, out TokenStream? stream);
                    if (outcome != SubmitOutcome.Accepted)
                    {
                        Assert.Equal(SubmitOutcome.Draining, outcome);
                        refused++;
                        continue;
                    }
                    FinishReason finish = FinishReason.None;
                    while (await stream!.WaitAsync(Timeout))
                        while (stream.TryRead(out TokenEvent e)) finish = e.Finish;
                    Assert.True(finish is FinishReason.Length or FinishReason.Aborted);
                }
                return refused;
            }
            Task<int>[] submitters = [.. Enumerable.Range(0, 4).Select(i => Task.Run(() => submit(i), Timeout))];
            await Task.Delay(round % 5, Timeout);
            engine.Dispose();
            await Task.WhenAll(submitters);
            Assert.Equal(runner.Info.BlockCount, engine.Scheduler.Pool.FreeCount);
        }
    }

    [Fact]
    public void Dispose_GivesEveryStreamItsEnd()
    {
        FakeModelRunner runner = new();
        using ManualResetEventSlim running = new();
        runner.OnExecute = (in _) => running.Set();
        Engine engine = new(runner, [FakeModelRunner.EndId], new EngineOptions());
        SamplingParams p = Greedy(100) with { N = 2 };
        engine.Submit(new GenerationRequest { Ids = Prompt(20), Sampling = p }, out TokenStream? stream);
        running.Wait(Timeout);
        engine.Dispose();
        engine.Dispose();
        Reading reading = new(Prompt(20), p, stream!);
        reading.Read();
        Assert.True(reading.IsComplete);
        Assert.Equal(SubmitOutcome.Draining, engine.Submit(new GenerationRequest { Ids = Prompt(2) }, out _));
    }

    private static async Task<int> Read(Engine engine, int[] prompt, SamplingParams p)
    {
        Assert.Equal(SubmitOutcome.Accepted, engine.Submit(new GenerationRequest { Ids = prompt, Sampling = p }, out TokenStream? stream));
        int tokens = 0;
        while (await stream!.WaitAsync())
            while (stream.TryRead(out TokenEvent e))
                if (e.Token >= 0) tokens++;
        return tokens;
    }
}
