using Native.Bench.Turns;
using Native.Scheduling;
using static Native.Tests.Scheduling.EngineHarness;

namespace Native.Tests.Scheduling;

/// <summary>A turn costs what runs and what is new, not who waits. Counted, not timed.</summary>
public sealed class TurnCostTests
{
    private const int Running = 8;

    /// <summary>News that comes before a turn.</summary>
    public enum News
    {
        None,
        Cancel,
        Stop,
        Deadline,
        Submission,
    }

    public static TheoryData<News> AllNews => [.. Enum.GetValues<News>()];

    [Theory, MemberData(nameof(AllNews))]
    public void ATurn_LooksAtAsManySequences_WhetherTenOrAHundredThousandWait(News news)
    {
        long few = Visits(news, waiting: 10), many = Visits(news, waiting: 100_000);
        // A heap of 100,000 is 17 deep; one of 10, 4. Up to two heaps change, each up and down.
        Assert.InRange(many, few, few + (4 * 17));
        Assert.InRange(few, Running, 4 * Running);
    }

    [Fact]
    public void AQuietTurn_LooksAtThoseWhoRunTwice_HoweverManyWaitAndHoweverLongThePrompts()
    {
        // Once to plan, once to commit: exact, with 1 to 100,000 waiting and prompts of 2 to 4,000 tokens.
        foreach (int waiting in (int[])[1, 10, 1000, 100_000]) Assert.Equal(2 * Running, QuietVisits(waiting, 2));
        foreach (int prompt in (int[])[2, 16, 256, 4000]) Assert.Equal(2 * Running, QuietVisits(20, prompt));
    }

    private static long QuietVisits(int waiting, int prompt)
    {
        FakeModelRunner info = new(blockCount: 20_000, blockSize: 16, maxModelLength: 4096);
        EngineOptions options = new()
        {
            Policy = SchedulingPolicy.Fcfs,
            MaxRunning = Running,
            MaxQueued = 200_000,
            MaxBatchedTokens = 32_768,
        };
        using Engine engine = new(new IdleRunner(info.Info), [], options, startThread: false, clock: new ManualClock());
        for (int i = 0; i < Running + waiting; i++)
        {
            GenerationRequest request = new() { Ids = Prompt(prompt, i), Sampling = Greedy(64) };
            Assert.Equal(SubmitOutcome.Accepted, engine.Submit(request, out _));
        }
        while (engine.Metrics.PromptTokens < (long)Running * prompt || engine.Metrics.DecodeSteps == 0) engine.Turn();
        Assert.Equal(waiting, engine.Metrics.Waiting);
        long before = engine.Scheduler.Visits;
        for (int turn = 0; turn < 8; turn++) engine.Turn();
        Assert.Equal(waiting, engine.Metrics.Waiting);
        return (engine.Scheduler.Visits - before) / 8;
    }

    /// <summary>The most visits of a turn with such news before it, of 20 turns.</summary>
    private static long Visits(News news, int waiting)
    {
        FakeModelRunner runner = new(blockCount: 4096, blockSize: 4, maxModelLength: 1024);
        using EngineHarness harness = new(runner,
            new EngineOptions { Policy = SchedulingPolicy.Fcfs, MaxRunning = Running, MaxQueued = 200_000 });
        for (int i = 0; i < Running; i++) harness.Submit(Prompt(3, i), Greedy(200));
        harness.Turn();
        harness.Turn();
        // Each has a deadline of its own, most of them far away.
        List<TokenStream> streams = [];
        for (int i = 0; i < waiting; i++)
        {
            GenerationRequest request = new() { Ids = new[] { 1, 2 }, Sampling = Greedy(4), Deadline = 1_000_000_000L + (i * 1000L) };
            Assert.Equal(SubmitOutcome.Accepted, harness.Engine.Submit(request, out TokenStream? stream));
            streams.Add(stream!);
        }
        harness.Engine.Turn();
        Assert.Equal(waiting, harness.Engine.Metrics.Waiting);

        Random random = new(1);
        long most = 0;
        for (int turn = 0; turn < 8; turn++)
        {
            int victim = random.Next(streams.Count);
            switch (news)
            {
                case News.Cancel: streams[victim].Cancel(); break;
                case News.Stop: streams[victim].Stop(0); break;
                case News.Deadline: harness.Clock.Now = 1_000_000_000L + (turn * 1000L); break;
                case News.Submission: harness.Submit(Prompt(2), Greedy(4)); break;
            }
            long before = harness.Engine.Scheduler.Visits;
            harness.Engine.Turn();
            most = Math.Max(most, harness.Engine.Scheduler.Visits - before);
            if (news is News.Cancel or News.Stop) streams.RemoveAt(victim);
        }
        int ended = news switch { News.Cancel or News.Stop or News.Deadline => 8, News.Submission => -8, _ => 0 };
        Assert.Equal(waiting - ended, harness.Engine.Metrics.Waiting);
        return most;
    }

    [Fact]
    public void Deadlines_EndInTheirOrder_AndLeaveNothingBehind()
    {
        using EngineHarness harness = new(options:
            new EngineOptions { Policy = SchedulingPolicy.Fcfs, MaxRunning = 1 });
        Random random = new(3);
        long[] deadlines = [.. Enumerable.Range(1, 200).Select(i => i * 10_000L)];
        random.Shuffle(deadlines);
        Reading[] readings = [.. deadlines.Select((deadline, i) => harness.Submit(Prompt(2, i), Greedy(100), deadline))];
        harness.Turn();
        for (int i = 1; i < readings.Length; i += 3) readings[i].Stream.Cancel(); // leaves the heap before its time
        harness.Turn();
        for (long now = 10_000; now <= 200 * 10_000L; now += 10_000)
        {
            harness.Clock.Now = now;
            harness.Turn();
            for (int i = 0; i < readings.Length; i++)
            {
                if (i % 3 == 1) Assert.Equal(FinishReason.Cancelled, readings[i].Finish());
                else if (deadlines[i] <= now) Assert.True(readings[i].IsComplete, $"deadline {deadlines[i]} at {now}");
                else Assert.NotEqual(FinishReason.Deadline, readings[i].Finish());
            }
        }
        harness.RunToEnd();
        harness.AssertClean();
    }
}
