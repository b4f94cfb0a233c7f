using System.Diagnostics;
using Native.Bench.Common;
using Native.Scheduling;

namespace Native.Tests.Scheduling;

/// <summary>Whose turn it is, how long steps are and who is let in, where objectives decide.</summary>
public sealed class PolicyTests(ITestOutputHelper output)
{
    private static readonly EngineOptions Slo = new() { Policy = SchedulingPolicy.Slo };

    [Fact]
    public void AShortPrompt_OvertakesALongOne_ThatCanBearIt()
    {
        using EngineHarness harness = Busy(Slo with { MaxRunning = 3, MaxBatchedTokens = 8 });
        Reading longOne = harness.Submit(EngineHarness.Prompt(80, seed: 1), EngineHarness.Greedy(1));
        harness.Turn();
        Reading shortOne = harness.Submit(EngineHarness.Prompt(3, seed: 2), EngineHarness.Greedy(1));
        while (!shortOne.IsComplete) harness.Turn();
        Assert.False(longOne.IsComplete);
        harness.RunToEnd();
        longOne.AssertOracle(128);
        shortOne.AssertOracle(128);
    }

    [Fact]
    public void ClassComesBeforePriority_AndThatBeforeTheDueTime()
    {
        using EngineHarness harness = Busy(Slo with { MaxRunning = 1 });
        Reading batch = harness.Submit(Request(2, RequestClass.Batch, priority: -5));
        Reading late = harness.Submit(Request(20));
        Reading early = harness.Submit(Request(2));
        Reading urgent = harness.Submit(Request(20, priority: -1));
        List<Reading> ended = [];
        harness.AfterTurn = () =>
        {
            foreach (Reading r in (Reading[])[batch, late, early, urgent])
                if (r.IsComplete && !ended.Contains(r)) ended.Add(r);
        };
        harness.RunToEnd();
        Assert.Equal([urgent, early, late, batch], ended);
    }

    /// <summary>A first token that was promised in 20 s is due before one that was promised nothing, and after one that
    /// was promised nothing a minute ago.</summary>
    [Fact]
    public void WhoWasPromisedNothing_IsBehindThoseWhoWere_AndOvertakenForAMinuteAtMost()
    {
        using EngineHarness harness = Busy(Slo with { MaxRunning = 1 });
        Reading plain = harness.Submit(Request(3));
        Reading promised = harness.Submit(Request(4) with { TtftObjective = TimeSpan.FromSeconds(20) });
        GenerationRequest hurried = Request(5);
        Reading deadline = harness.Submit(
            hurried with { Deadline = harness.Clock.Now + (10 * Stopwatch.Frequency), BestEffort = true });
        harness.Clock.Now += 41 * Stopwatch.Frequency; // the deadline has passed
        Reading later = harness.Submit(Request(4) with { TtftObjective = TimeSpan.FromSeconds(20), BestEffort = true });
        List<Reading> ended = [];
        harness.AfterTurn = () =>
        {
            foreach (Reading r in (Reading[])[plain, promised, deadline, later])
                if (r.IsComplete && !ended.Contains(r)) ended.Add(r);
        };
        harness.RunToEnd();
        Assert.Equal([deadline, promised, plain, later], ended);
    }

    /// <summary>Who asks for more than the machine can do is late itself, and holds nobody up.</summary>
    [Theory, InlineData(false), InlineData(true)]
    public void ATpotThatNobodyCanKeep_HoldsNobodyUp(bool waits)
    {
        using EngineHarness harness = Machine(maxModelLength: 1000);
        for (int i = 0; i < 20; i++)
        {
            harness.Submit(Request(50, outputs: 5, seed: i)); // it learns what steps take
            harness.RunToEnd();
        }
        TimeSpan none = TimeSpan.FromHours(1);
        GenerationRequest greedy = Request(10, outputs: 400) with { TpotObjective = TimeSpan.FromMilliseconds(1) };
        Reading running = harness.Submit(waits ? greedy with { TpotObjective = none } : greedy);
        harness.Turns(3);
        if (waits) harness.Submit(Request(20, outputs: 1) with { TpotObjective = TimeSpan.FromMilliseconds(1) });
        Reading[] others = [.. Enumerable.Range(0, 4).Select(i =>
            harness.Submit(Request(30 + i, outputs: 4) with { TpotObjective = none }))];
        for (int turns = 0; others.Any(other => !other.IsComplete); turns++)
        {
            Assert.InRange(turns, 0, 30);
            harness.Turn();
        }
        Assert.False(running.IsComplete);
        harness.RunToEnd();
        harness.AssertClean();
    }

    [Fact]
    public void FirstComeFirstServed_TellsNoClassesApart()
    {
        using EngineHarness harness = new(options: Slo with { Policy = SchedulingPolicy.Fcfs });
        Reading online = harness.Submit(Request(7, outputs: 30));
        Reading batch = harness.Submit(Request(6, RequestClass.Batch, outputs: 29));
        while (!batch.IsComplete) harness.Turn();
        Assert.False(online.IsComplete);
        harness.RunToEnd();
        harness.AssertClean();
    }

    [Theory, InlineData(1), InlineData(2)]
    public void AnOnlineRequest_TakesThePlaceOfABatchOne_WhichEndsAllTheSame(int stepsInFlight)
    {
        FakeModelRunner runner = new(stepsInFlight: stepsInFlight);
        using EngineHarness harness = new(runner, Slo with { MaxRunning = 2 });
        Reading a = harness.Submit(Request(6, RequestClass.Batch, outputs: 30));
        Reading b = harness.Submit(Request(7, RequestClass.Batch, outputs: 30));
        harness.Turns(4);
        Reading online = harness.Submit(Request(5, outputs: 4));
        for (int i = 0; !online.IsComplete; i++)
        {
            Assert.True(i < 8, "it waits for the batch");
            harness.Turn();
        }
        Assert.Equal(1, harness.Engine.Metrics.Preemptions);
        harness.RunToEnd();
        foreach (Reading reading in (Reading[])[a, b, online]) reading.AssertOracle(128);
        harness.AssertClean();
    }

    /// <summary>Six online streams leave no time for the tokens of one that is in a hurry, which starts and is late:
    /// batch work beside them keeps what it has.</summary>
    [Fact]
    public void BatchWork_GivesNothingUp_WhereThatDoesNotHelp()
    {
        using EngineHarness harness = Machine(maxModelLength: 1000);
        for (int i = 0; i < 20; i++)
        {
            harness.Submit(Request(50, outputs: 5, seed: i) with { BestEffort = true }); // it learns what steps take
            harness.RunToEnd();
        }
        Reading batch = harness.Submit(Request(6, RequestClass.Batch, outputs: 300));
        harness.Turns(3);
        GenerationRequest online = Request(7, outputs: 60) with { BestEffort = true };
        TimeSpan loose = TimeSpan.FromSeconds(1), tight = TimeSpan.FromMilliseconds(12.05); // 4 decodes take 10.8 ms
        Reading[] six = [.. Enumerable.Range(0, 6).Select(_ => harness.Submit(online with { TpotObjective = loose }))];
        harness.Turns(3);
        Reading hurried = harness.Submit(online with { TpotObjective = tight });
        while (!six.Any(one => one.IsComplete))
        {
            Assert.Equal(0, harness.Engine.Metrics.Preemptions);
            harness.Turn();
            Assert.NotEmpty(hurried.Tokens());
        }
        harness.RunToEnd();
        foreach (Reading reading in (Reading[])[batch, .. six, hurried]) reading.AssertOracle(1000);
        harness.AssertClean();
    }

    [Fact]
    public void ABatchRequest_TakesNoPlace_FromAnOnlineOne()
    {
        using EngineHarness harness = new(options: Slo with { MaxRunning = 1 });
        Reading online = harness.Submit(Request(6, outputs: 10));
        harness.Turns(2);
        harness.Submit(Request(1, RequestClass.Batch, priority: -9));
        harness.RunToEnd();
        Assert.Equal(0, harness.Engine.Metrics.Preemptions);
        online.AssertOracle(128);
    }

    /// <summary>A stream with so many ms for a token runs; prompts come in as large pieces as fit between its
    /// tokens.</summary>
    [Theory]
    [InlineData(20, 0.3, 10, 20)]
    [InlineData(200, 0.3, 60, 200)]
    public void AStep_IsAsLongAsTheScheduleOfThoseWhoRunAllows(int tpot, double tokenMs, int least, int most)
    {
        TimedHarness timed = new(tokenMs, Slo with { MaxBatchedTokens = 1024 });
        using EngineHarness harness = timed.Harness;
        GenerationRequest smooth = Request(10, outputs: 400) with { TpotObjective = TimeSpan.FromMilliseconds(tpot) };
        Reading stream = harness.Submit(smooth);
        for (int i = 0; i < 60; i++)
        {
            harness.Submit(Request(300 + i)); // teaches the engine what prompts take
            harness.Turns(3);
        }
        List<double> steps = timed.Steps;
        Assert.False(stream.IsComplete);
        double[] prompts = [.. steps.Where(ms => ms > 5).TakeLast(40).Order()];
        double longest = prompts[^1], typical = prompts[prompts.Length / 2];
        Assert.InRange(longest, least, most * 1.2);
        Assert.InRange(typical, least, most);
        harness.RunToEnd();
    }

    [Fact]
    public void WhoWouldBeLate_IsRefusedAtOnce_WithATimeToTryAgain_UnlessItTakesWhatItGets()
    {
        TimedHarness timed = new(tokenMs: 1, Slo with { MaxBatchedTokens = 256, MaxRunning = 64 });
        using EngineHarness harness = timed.Harness;
        for (int i = 0; i < 8; i++) harness.Submit(Request(300, seed: i));
        harness.Turns(3);
        GenerationRequest hurried = Request(300, seed: 99) with { TtftObjective = TimeSpan.FromMilliseconds(200) };
        SubmitOutcome outcome = harness.Engine.Submit(hurried, out TokenStream? none, out Refusal refusal);
        Assert.Equal(SubmitOutcome.WouldBeLate, outcome);
        Assert.Null(none);
        Assert.InRange(refusal.FirstToken.TotalSeconds, 0.3, 4); // about 2400 tokens of 1 ms are before it
        Assert.InRange(refusal.RetryAfter.TotalSeconds, 0.1, 6);
        harness.Submit(hurried with { BestEffort = true });
        harness.Submit(hurried with { TtftObjective = TimeSpan.FromSeconds(30) });
        long deadline = harness.Clock.Now + (long)(0.2 * Stopwatch.Frequency);
        Assert.Equal(SubmitOutcome.WouldBeLate, harness.Engine.Submit(
            hurried with { TtftObjective = null, Deadline = deadline, BestEffort = true }, out _, out _));
        harness.RunToEnd();
        Assert.Equal(SubmitOutcome.Accepted, harness.Engine.Submit(hurried, out _, out _)); // nobody is before it
        harness.RunToEnd();
        harness.AssertClean();
    }

    /// <summary>Priority decides who is before whom in the line, so it does at the door.</summary>
    [Fact]
    public void TheDoor_KnowsWhoComesFirst()
    {
        TimedHarness timed = new(tokenMs: 1, Slo with { MaxBatchedTokens = 256, MaxRunning = 64 });
        using EngineHarness harness = timed.Harness;
        for (int i = 0; i < 8; i++) harness.Submit(Request(300, seed: i, priority: -1));
        harness.Turns(3);
        GenerationRequest hurried = Request(100, seed: 99) with { TtftObjective = TimeSpan.FromSeconds(1) };
        Assert.Equal(SubmitOutcome.WouldBeLate, harness.Engine.Submit(hurried, out _));
        Reading urgent = harness.Submit(hurried with { Priority = -2, TtftObjective = TimeSpan.FromSeconds(3) });
        harness.RunToEnd();
        for (int i = 0; i < 8; i++) harness.Submit(Request(300, seed: i)); // they were promised nothing
        harness.Turns(1);
        Reading promised = harness.Submit(hurried);
        long start = harness.Clock.Now;
        while (promised.Tokens().Length == 0) harness.Turn();
        Assert.InRange((double)(harness.Clock.Now - start) / Stopwatch.Frequency, 0, 1);
        harness.RunToEnd();
        Assert.True(urgent.IsComplete);
    }

    /// <summary>A request of as many choices as there are places starts with one, and keeps nobody out.</summary>
    [Theory, InlineData(1), InlineData(2)]
    public void ManyChoices_KeepNoPlaceEmpty(int stepsInFlight)
    {
        FakeModelRunner runner = new(stepsInFlight: stepsInFlight);
        using EngineHarness harness = new(runner, Slo with { MaxRunning = 4 });
        Reading story = harness.Submit(Request(6, outputs: 90));
        harness.Turns(4);
        GenerationRequest four = Request(9, outputs: 12);
        Reading wide = harness.Submit(four with { Sampling = four.Sampling with { N = 4 } });
        harness.Turns(8);
        Assert.Equal((4, 1), (harness.Engine.Metrics.Running, harness.Engine.Metrics.Waiting));
        Reading other = harness.Submit(Request(5, outputs: 3));
        for (int turns = 0; !other.IsComplete || !wide.IsComplete; turns++)
        {
            Assert.InRange(turns, 0, 60);
            harness.Turn();
        }
        Assert.False(story.IsComplete);
        harness.RunToEnd();
        foreach (Reading reading in (Reading[])[story, wide, other]) reading.AssertOracle(128);
        harness.AssertClean();
    }

    /// <summary>A token at the end of a long prompt attends to more keys than one of a short prompt.</summary>
    [Theory, InlineData(2000), InlineData(4000), InlineData(8000)]
    public void ALongPrompt_IsForecastWithItsAttention(int length)
    {
        const double key = 4e-7; // seconds
        using EngineHarness harness = Machine(maxModelLength: 10_000, secondsOfKey: key);
        Random random = new(3);
        for (int i = 0; i < 60; i++)
        {
            harness.Submit(Request(random.Next(60, 3000), seed: i) with { BestEffort = true });
            harness.RunToEnd();
        }
        harness.Submit(Request(500, outputs: 20)); // it must not be the next
        harness.Turns(2);
        GenerationRequest lengthy = Request(length) with { TtftObjective = TimeSpan.FromMilliseconds(100) };
        Assert.Equal(SubmitOutcome.WouldBeLate, harness.Engine.Submit(lengthy, out _, out Refusal refusal));
        double truth = (length * 0.4e-3) + (key * length * length / 2.0) + (8e-3 * Math.Ceiling(length / 512.0));
        Assert.InRange(refusal.Alone.TotalSeconds / truth, 0.9, 1.1);
        Assert.InRange(refusal.FirstToken.TotalSeconds / truth, 0.9, 1.4);
        harness.RunToEnd();
    }

    [Fact]
    public void FirstComeFirstServed_RefusesNobodyForBeingLate()
    {
        TimedHarness timed = new(tokenMs: 1, new EngineOptions { Policy = SchedulingPolicy.Fcfs });
        using EngineHarness harness = timed.Harness;
        for (int i = 0; i < 8; i++) harness.Submit(Request(300, seed: i));
        harness.Turns(3);
        harness.Submit(Request(50) with { TtftObjective = TimeSpan.FromMilliseconds(1) });
        harness.RunToEnd();
    }

    [Fact]
    public void Hints_AreSpread()
    {
        TimedHarness timed = new(tokenMs: 1, Slo with { MaxBatchedTokens = 256 });
        using EngineHarness harness = timed.Harness;
        for (int i = 0; i < 8; i++) harness.Submit(Request(300, seed: i));
        harness.Turns(2);
        GenerationRequest hurried = Request(300, seed: 99) with { TtftObjective = TimeSpan.FromMilliseconds(100) };
        HashSet<TimeSpan> hints = [];
        for (int i = 0; i < 20; i++)
        {
            Assert.Equal(SubmitOutcome.WouldBeLate, harness.Engine.Submit(hurried, out _, out Refusal refusal));
            hints.Add(refusal.RetryAfter);
        }
        Assert.True(hints.Count > 10);
        harness.RunToEnd();
    }

    /// <summary>Online requests come at random, and batch ones are always there: these get most of what is left over,
    /// and those hardly notice.</summary>
    [Theory, InlineData(0.3), InlineData(1), InlineData(2)]
    public void BatchWork_FillsWhatIsIdle_AndHardlyMovesOnlineRequests(double load)
    {
        (double p99, _, double busy) = Serve(load, backlog: 0);
        (double beside, double batch, _) = Serve(load, backlog: 8);
        (_, double alone, _) = Serve(0, backlog: 8);
        output.WriteLine($"load {load}: busy {busy:P0}, p99 TPOT {p99 * 1e3:F2} and {beside * 1e3:F2} ms, "
            + $"batch {batch:F0} of {alone:F0} tokens/s");
        Assert.InRange(beside / p99, 0.9, 1.05);
        Assert.InRange(batch / (alone * (1 - busy)), 0.8, 2);
    }

    /// <summary>Prompts of 8,000 tokens, which take longer than a first token may, come every minute among short
    /// ones.</summary>
    [Theory, InlineData(0.5, 1.2), InlineData(1, 1.1), InlineData(2, 1.1), InlineData(3, 1.1), InlineData(5, 1.1)]
    public void AVeryLongPrompt_HardlyDelaysShortOnes(double load, double most)
    {
        double[] Seconds(bool beside) => [.. Enumerable.Range(0, 4).SelectMany(seed => ServeShort(load, beside, seed))];
        double alone = Statistics.Percentile(Seconds(beside: false), 99);
        double beside = Statistics.Percentile(Seconds(beside: true), 99);
        output.WriteLine($"load {load}: p99 TTFT {alone * 1e3:F0} and {beside * 1e3:F0} ms");
        Assert.InRange(beside / alone, 0.9, most);
    }

    /// <summary>Ten minutes of <see cref="Machine"/> with short prompts at random, and with very long ones or
    /// without.</summary>
    /// <returns>Seconds until the first token of the short ones.</returns>
    private static List<double> ServeShort(double load, bool beside, int seed)
    {
        using EngineHarness harness = Machine(maxModelLength: 10_000);
        Random random = new(seed);
        double next = 0, nextLong = beside ? 20 : Duration;
        List<TokenStream> live = [];
        List<double> seconds = [];
        while (Now() < Duration)
        {
            for (; next <= Now(); next += Gap(random, load)) Submit(Short(random));
            for (; nextLong <= Now(); nextLong += 60) Submit(Request(8000, outputs: 10, seed: (int)nextLong));
            if (!harness.Engine.Turn())
                harness.Clock.Now = (long)(Math.Min(Math.Min(next, nextLong), Duration) * Stopwatch.Frequency) + 1;
            live.RemoveAll(stream => stream.Unfinished == 0 && Count(stream.Timings));
        }
        return seconds;

        void Submit(GenerationRequest request)
        {
            harness.Engine.Submit(request with { BestEffort = true }, out TokenStream? stream);
            live.Add(stream!);
        }

        bool Count(RequestTimings t)
        {
            if (t.PromptTokens < 1000) seconds.Add(Stopwatch.GetElapsedTime(t.Arrival, t.FirstToken).TotalSeconds);
            return true;
        }

        double Now() => (double)harness.Clock.Now / Stopwatch.Frequency;
    }

    private const double Duration = 600; // seconds

    /// <summary>A machine whose steps take 8 ms, 0.4 for a prompt's token, 0.7 for a decode. A first token is promised
    /// in 1 s, others in 60 ms.</summary>
    private static EngineHarness Machine(
        int maxModelLength, Action<StepPlan, double>? onStep = null, double secondsOfKey = 0)
    {
        FakeModelRunner runner = new(blockCount: 4000, maxModelLength: maxModelLength);
        EngineHarness harness = new(runner, Slo with
        {
            MaxRunning = 64,
            MaxBatchedTokens = 512,
            TtftObjective = TimeSpan.FromSeconds(1),
            TpotObjective = TimeSpan.FromMilliseconds(60),
        });
        runner.OnExecute = (in Native.Kernels.Batch batch) =>
        {
            StepPlan plan = harness.Engine.Scheduler.Plan;
            double seconds = 8e-3 + (plan.Load.PrefillTokens * 0.4e-3) + (plan.Load.Decodes * 0.7e-3)
                + (plan.Load.PrefillAttention * secondsOfKey);
            harness.Clock.Now += (long)(seconds * Stopwatch.Frequency);
            onStep?.Invoke(plan, seconds);
        };
        return harness;
    }

    /// <summary>Seconds between two requests that take 1.3 s alone.</summary>
    private static double Gap(Random random, double load) => -Math.Log(1 - random.NextDouble()) * 1.3 / load;

    private static GenerationRequest Short(Random random) =>
        Request(random.Next(60, 200), outputs: random.Next(40, 100), seed: random.Next());

    /// <summary>Ten minutes of <see cref="Machine"/>.</summary>
    /// <returns>The 99th percentile of TPOT of online requests, tokens of batch ones a second, and the part of the
    /// time in which steps had online requests.</returns>
    private static (double Tpot, double Batch, double Busy) Serve(double load, int backlog)
    {
        double busy = 0;
        using EngineHarness harness = Machine(maxModelLength: 1000, (plan, seconds) =>
        {
            if (plan.OnlineLoad.Tokens > 0) busy += seconds;
        });
        Random random = new(5);
        double next = load > 0 ? 0 : Duration;
        List<TokenStream> live = [];
        List<double> tpots = [];
        long batchTokens = 0;
        while (Now() < Duration)
        {
            for (; next <= Now(); next += Gap(random, load)) Submit(Short(random));
            while (live.Count(stream => stream.Class == RequestClass.Batch) < backlog)
                Submit(Request(150, RequestClass.Batch, outputs: 60, seed: random.Next()));
            if (!harness.Engine.Turn()) harness.Clock.Now = (long)(Math.Min(next, Duration) * Stopwatch.Frequency) + 1;
            live.RemoveAll(stream => stream.Unfinished == 0 && Count(stream.Class, stream.Timings));
        }
        tpots.Sort();
        return (tpots.Count == 0 ? 0 : tpots[(int)(0.99 * tpots.Count)], batchTokens / Now(), busy / Now());

        void Submit(GenerationRequest request)
        {
            harness.Engine.Submit(request with { BestEffort = true }, out TokenStream? stream);
            live.Add(stream!);
        }

        bool Count(RequestClass of, RequestTimings t)
        {
            if (of == RequestClass.Batch) batchTokens += t.PromptTokens + t.OutputTokens;
            else tpots.Add(Stopwatch.GetElapsedTime(t.FirstToken, t.LastToken).TotalSeconds / (t.OutputTokens - 1));
            return true;
        }

        double Now() => (double)harness.Clock.Now / Stopwatch.Frequency;
    }

    private static GenerationRequest Request(
        int length, RequestClass of = RequestClass.Online, int priority = 0, int outputs = 1, int seed = 0) => new()
        {
            Ids = EngineHarness.Prompt(length, seed + length),
            Sampling = EngineHarness.Greedy(outputs),
            Class = of,
            Priority = priority,
        };

    /// <summary>An engine whose only place is taken for some turns.</summary>
    private static EngineHarness Busy(EngineOptions options)
    {
        EngineHarness harness = new TimedHarness(tokenMs: 1, options).Harness;
        harness.Submit(Request(9, outputs: 12));
        harness.Turn();
        return harness;
    }

    /// <summary>A machine on which a token takes a known time.</summary>
    private sealed class TimedHarness
    {
        public TimedHarness(double tokenMs, EngineOptions options)
        {
            FakeModelRunner runner = new(blockCount: 4000, maxModelLength: 1000);
            Harness = new EngineHarness(runner, options);
            runner.OnExecute = (in Native.Kernels.Batch batch) =>
            {
                double milliseconds = 1 + (tokenMs * batch.TokenIds.Length);
                Steps.Add(milliseconds);
                Harness.Clock.Now += (long)(milliseconds * 1e-3 * Stopwatch.Frequency);
            };
        }

        public EngineHarness Harness { get; }

        public List<double> Steps { get; } = [];
    }
}
