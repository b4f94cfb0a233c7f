using System.Runtime.CompilerServices;
using Native.Bench.Turns;
using Native.Scheduling;
using static Native.Tests.Scheduling.EngineHarness;

namespace Native.Tests.Scheduling;

/// <summary>What requests leave behind. Alone, because the process's heap is measured.</summary>
[CollectionDefinition(nameof(QueuedAndCancelledTests), DisableParallelization = true)]
[Collection(nameof(QueuedAndCancelledTests))]
public sealed class QueuedAndCancelledTests
{
    private const int Wave = 2000;

    [Fact]
    public void AMillionRequests_QueuedAndCancelled_LeaveMemoryWhereItWas()
    {
        const int warm = 50, waves = 500;
        FakeModelRunner fake = new(blockCount: 256, blockSize: 4);
        ManualClock clock = new();
        EngineOptions options = new() { Policy = SchedulingPolicy.Fcfs, MaxRunning = 8, MaxQueued = 2 * Wave };
        using Engine engine = new(new IdleRunner(fake.Info), [], options, startThread: false, clock: clock);
        TokenStream[] streams = new TokenStream[Wave];
        for (int i = 0; i < warm; i++) SubmitAndCancel(engine, clock, streams);
        long before = Heap(streams);
        for (int i = 0; i < waves; i++) SubmitAndCancel(engine, clock, streams);
        long grown = Heap(streams) - before;
        // A quarter of a byte for each request: one object kept of each would be a hundred times that.
        Assert.True(grown < 256 * 1024, $"the heap has grown by {grown} bytes over {waves * Wave} requests");

        Assert.Null(engine.Scheduler.CheckIntegrity());
        Assert.False(engine.Scheduler.HasWork);
        Assert.Equal((256, 0), (engine.Scheduler.Pool.FreeCount, engine.Scheduler.Pool.OwnedCount));
        Assert.Equal((0L, 0L, 0), (engine.Metrics.Running, engine.Metrics.Waiting, engine.Queued));
        Assert.True(Inbox(engine).IsEmpty && Signals(engine).IsEmpty, "both crossings are empty");
        Assert.Equal(0, Deadlines(Ending(engine.Scheduler)).Count);
        Assert.Equal(options.MaxQueued, Room(engine));
    }

    /// <summary>A wave: some run, a quarter is cancelled before the engine sees it, a quarter while it waits, a quarter
    /// passes its deadline, the rest is cancelled last.</summary>
    private static void SubmitAndCancel(Engine engine, ManualClock clock, TokenStream[] streams)
    {
        long deadline = clock.Now + 1_000_000;
        for (int i = 0; i < streams.Length; i++)
        {
            GenerationRequest request = new()
            {
                Ids = s_prompts[i % s_prompts.Length],
                Sampling = s_sampling,
                Deadline = i % 4 == 2 ? deadline : null,
            };
            Assert.Equal(SubmitOutcome.Accepted, engine.Submit(request, out TokenStream? stream));
            streams[i] = stream!;
            if (i % 4 == 0) stream!.Cancel();
        }
        engine.Turn();
        for (int i = 1; i < streams.Length; i += 4) streams[i].Cancel();
        engine.Turn();
        clock.Now = deadline;
        engine.Turn();
        for (int i = 3; i < streams.Length; i += 4) streams[i].Cancel();
        engine.Turn();
        while (engine.Turn()) { }
        foreach (TokenStream stream in streams)
        {
            FinishReason finish = FinishReason.None;
            while (stream.TryRead(out TokenEvent e)) finish = e.Finish;
            if (finish == FinishReason.None) Assert.Fail("a request has no end");
        }
    }

    private static long Heap(TokenStream[] streams)
    {
        Array.Clear(streams);
        for (int i = 0; i < 2; i++)
        {
            GC.Collect();
            GC.WaitForPendingFinalizers();
        }
        return GC.GetTotalMemory(forceFullCollection: true);
    }

    /// <summary>Requests that find room in the queue before the first is refused.</summary>
    private static int Room(Engine engine)
    {
        int taken = 0;
        while (engine.Submit(new GenerationRequest { Ids = s_prompts[0], Sampling = s_sampling }, out _)
            == SubmitOutcome.Accepted) taken++;
        return taken;
    }

    private static readonly int[][] s_prompts = [.. Enumerable.Range(1, 32).Select(length => Prompt(length, length))];

    private static readonly SamplingParams s_sampling = Greedy(16);

    [UnsafeAccessor(UnsafeAccessorKind.Field, Name = "_inbox")]
    private static extern ref Inbox<TokenStream> Inbox(Engine engine);

    [UnsafeAccessor(UnsafeAccessorKind.Field, Name = "_signals")]
    private static extern ref SignalStack Signals(Engine engine);

    [UnsafeAccessor(UnsafeAccessorKind.Field, Name = "_ending")]
    private static extern ref Ending Ending(Native.Scheduling.Scheduler scheduler);

    [UnsafeAccessor(UnsafeAccessorKind.Field, Name = "_deadlines")]
    private static extern ref IndexedHeap<TokenStream> Deadlines(Ending ending);
}
