using System.Diagnostics;
using Native.Scheduling;
using Native.Scheduling.Slo;

namespace Native.Tests.Scheduling;

/// <summary>Tenants share the machine by their weights, and nobody pays for another's flood.</summary>
public sealed class TenantTests
{
    private static readonly EngineOptions Slo = new() { Policy = SchedulingPolicy.Slo, MaxRunning = 1 };

    [Fact]
    public void AFlood_DoesNotDelayAnothersRequest()
    {
        using EngineHarness harness = new(options: Slo);
        Reading[] flood = [.. Enumerable.Range(0, 30).Select(i => harness.Submit(Of("flood", seed: i)))];
        harness.Turns(3);
        Reading other = harness.Submit(Of("other", seed: 99));
        while (!other.IsComplete) harness.Turn();
        Assert.InRange(flood.Count(reading => reading.IsComplete), 1, 3); // who ran, and no more than one beside
        harness.RunToEnd();
        foreach (Reading reading in (Reading[])[.. flood, other]) reading.AssertOracle(128);
        harness.AssertClean();
    }

    [Fact]
    public void NamesOfRefusedRequests_AreNotKept()
    {
        using EngineHarness harness = new(options: Slo with { MaxQueued = 2 });
        for (int i = 0; i < 2; i++) harness.Submit(Of("a", seed: i));
        int known = harness.Engine.Tenants.Count;
        for (int i = 0; i < 100; i++)
            Assert.Equal(SubmitOutcome.QueueFull, harness.Engine.Submit(Of($"refused {i}", seed: i), out _));
        Assert.Equal(known, harness.Engine.Tenants.Count);
        harness.RunToEnd();
        harness.Submit(Of("b", seed: 9));
        Assert.Equal(known + 1, harness.Engine.Tenants.Count);
        harness.RunToEnd();
        harness.AssertClean();
    }

    [Fact]
    public void FirstComeFirstServed_TellsNoTenantsApart()
    {
        using EngineHarness harness = new(options: Slo with { Policy = SchedulingPolicy.Fcfs });
        Reading[] flood = [.. Enumerable.Range(0, 10).Select(i => harness.Submit(Of("flood", seed: i)))];
        Reading other = harness.Submit(Of("other", seed: 99));
        while (!other.IsComplete) harness.Turn();
        Assert.All(flood, reading => Assert.True(reading.IsComplete));
    }

    [Theory]
    [InlineData(SchedulingPolicy.Slo), InlineData(SchedulingPolicy.Fcfs)]
    public void WhoseARequestWas_IsKnown_WhateverThePolicy(SchedulingPolicy policy)
    {
        TenantSpec[] named = [new() { Name = "a", TokensPerMinute = 14 }, new() { Name = "b" }];
        using EngineHarness harness = new(options: Slo with { Policy = policy, Tenants = named });
        harness.Submit(Of("a", seed: 1)); // 10 of the prompt and 4 generated
        harness.Submit(Of("unlisted", seed: 2));
        Assert.Equal([1, 0], harness.Engine.ReadTenants().Select(tenant => tenant.Queued));
        harness.RunToEnd();
        List<string> finished = [];
        while (harness.Engine.Metrics.TryReadFinished(out FinishedRequest request)) finished.Add(request.Tenant);
        Assert.Equal(["a", "unlisted"], finished);
        Assert.Equal([14, 0], harness.Engine.ReadTenants().Select(tenant => tenant.Tokens));
        Assert.Equal(SubmitOutcome.OverQuota, harness.Engine.Submit(Of("a", seed: 3), out _));
        harness.AssertClean();
    }

    [Fact]
    public void AList_IsQueuedWhole_OrNotAtAll()
    {
        TenantSpec spec = new() { Name = "a", TokensPerMinute = 24 };
        using EngineHarness harness = new(options: Slo with { Tenants = [spec], MaxQueued = 3 });
        GenerationRequest[] five = [.. Enumerable.Range(0, 5).Select(i => Of("a", seed: i, outputs: 1))];
        Engine engine = harness.Engine;
        Assert.Equal(SubmitOutcome.QueueFull, engine.Submit(five, out TokenStream[] streams, out int refused, out _));
        Assert.Equal((3, 0, 0L), (refused, engine.Queued, engine.QueuedTokens));
        Assert.Empty(streams);
        GenerationRequest tooLong = Of("a", seed: 9, length: 500);
        Assert.Equal(SubmitOutcome.TooLong, engine.Submit([five[0], tooLong], out _, out refused, out _));
        Assert.Equal((1, 0), (refused, engine.Queued));

        // 30 tokens are more than a minute's 24, and taken once all of those are there.
        Assert.Equal(SubmitOutcome.Accepted, engine.Submit(five[..3], out streams, out _, out _));
        Assert.Equal(3, streams.Length);
        harness.RunToEnd();
        foreach (TokenStream stream in streams) Assert.NotEqual(0, stream.Timings.Finished);
        Assert.Equal(SubmitOutcome.OverQuota, engine.Submit(five[..1], out _, out _, out _));
        harness.AssertClean();
    }

    [Fact]
    public void APromptThatGeneratesNothing_Counts()
    {
        TenantSpec spec = new() { Name = "a", RequestsPerMinute = 2 };
        using EngineHarness harness = new(options: Slo with { Tenants = [spec] });
        for (int i = 0; i < 2; i++)
        {
            harness.Submit(Of("a", seed: i, outputs: 0));
            harness.RunToEnd();
        }
        Assert.Equal(SubmitOutcome.OverQuota, harness.Engine.Submit(Of("a", seed: 3, outputs: 0), out _));
    }

    /// <summary>When the quota is there again is known, so it is told, however long that takes.</summary>
    [Fact]
    public void AQuotaThatIsGoneForHours_SaysSo()
    {
        TenantSpec spec = new() { Name = "a", TokensPerMinute = 1 };
        using EngineHarness harness = new(options: Slo with { Tenants = [spec] });
        harness.Submit(Of("a", seed: 1, outputs: 100));
        harness.RunToEnd();
        Assert.Equal(SubmitOutcome.OverQuota, harness.Engine.Submit(Of("a", seed: 3), out _, out Refusal refusal));
        Assert.InRange(refusal.RetryAfter.TotalMinutes, 90, 120);
        harness.Clock.Now += (long)(refusal.RetryAfter.TotalSeconds * Stopwatch.Frequency);
        harness.Submit(Of("a", seed: 3));
        harness.RunToEnd();
    }

    [Fact]
    public void WhatNoStepTook_DoesNotCount()
    {
        TenantSpec spec = new() { Name = "a", RequestsPerMinute = 2, TokensPerMinute = 24 };
        using EngineHarness harness = new(options: Slo with { Tenants = [spec] });
        for (int i = 0; i < 5; i++)
        {
            harness.Submit(Of("a", seed: 1)).Stream.Dispose(); // the reader has left
            harness.Submit(Of("a", seed: 2) with { Deadline = harness.Clock.Now }); // nobody waits any more
            Assert.Equal(SubmitOutcome.OverQuota, harness.Engine.Submit(Of("a", seed: 3), out _));
            harness.RunToEnd();
        }
        harness.Submit(Of("a", seed: 4));
        harness.Submit(Of("a", seed: 5));
        Assert.Equal(SubmitOutcome.OverQuota, harness.Engine.Submit(Of("a", seed: 6), out _));
        harness.RunToEnd();
        harness.AssertClean();
    }

    [Fact]
    public void OfTenantsThatGotTheSame_TheFirstToCome_IsServedFirst()
    {
        using EngineHarness harness = new(options: Slo);
        Reading[] readings = [.. Enumerable.Range(0, 6).Select(i => harness.Submit(Of($"tenant {i}", seed: i)))];
        harness.RunToEnd();
        Assert.Equal(readings, readings.OrderBy(reading => reading.Stream.Timings.Finished));
    }

    [Theory]
    [InlineData(1), InlineData(3), InlineData(0.5)]
    public void TokensGo_ByWeight(double weight)
    {
        TenantSpec heavy = new() { Name = "a", Weight = weight };
        using EngineHarness harness = new(options: Slo with { Tenants = [heavy] });
        Reading[] a = [.. Enumerable.Range(0, 300).Select(i => harness.Submit(Of("a", seed: i, length: 3 + (i % 9))))];
        Reading[] b = [.. Enumerable.Range(0, 300).Select(i => harness.Submit(Of("b", seed: i, length: 11 - (i % 9))))];
        while (Served(a) + Served(b) < 2000) harness.Turn();
        Assert.InRange(Served(a) / Served(b), weight * 0.9, weight * 1.1);
        harness.RunToEnd();
        harness.AssertClean();

        static double Served(Reading[] readings) =>
            readings.Where(reading => reading.IsComplete)
                .Sum(reading => reading.Prompt.Length + (2.0 * reading.Tokens().Length));
    }

    [Fact]
    public void WhoWasAway_HasNothingSavedUp()
    {
        using EngineHarness harness = new(options: Slo);
        foreach (int i in Enumerable.Range(0, 40)) harness.Submit(Of("a", seed: i));
        while (harness.Engine.Metrics.Waiting > 20 || harness.Engine.Metrics.Waiting == 0) harness.Turn();
        Reading[] b = [.. Enumerable.Range(0, 20).Select(i => harness.Submit(Of("b", seed: 100 + i)))];
        long before = harness.Engine.Metrics.GeneratedTokens;
        while (b.Count(reading => reading.IsComplete) < 10) harness.Turn();
        // While ten of b's were served, about as many of a's were.
        Assert.InRange(harness.Engine.Metrics.GeneratedTokens - before, 9 * 2 * 4, 12 * 2 * 4);
        harness.RunToEnd();
    }

    [Fact]
    public void AFlood_ShutsTheDoorToItselfAlone()
    {
        TimedEngine timed = new(Slo with { MaxRunning = 8, MaxBatchedTokens = 256 });
        using EngineHarness harness = timed.Harness;
        TimeSpan objective = TimeSpan.FromSeconds(1);
        int refused = 0;
        for (int i = 0; i < 60; i++)
        {
            GenerationRequest request = Of("flood", seed: i, length: 100) with { TtftObjective = objective };
            if (harness.Engine.Submit(request, out _) == SubmitOutcome.WouldBeLate) refused++;
            if (i % 10 == 0) harness.Turn();
        }
        Assert.InRange(refused, 20, 58);
        harness.Submit(Of("other", seed: 99, length: 100) with { TtftObjective = objective });
        harness.RunToEnd();
    }

    [Fact]
    public void BatchWork_ShutsTheDoorToNobodyOnline()
    {
        TimedEngine timed = new(Slo with { MaxRunning = 8, MaxBatchedTokens = 256 });
        using EngineHarness harness = timed.Harness;
        for (int i = 0; i < 60; i++) harness.Submit(Of("a", seed: i, length: 100) with { Class = RequestClass.Batch });
        harness.Turns(3);
        GenerationRequest urgent = Of("a", seed: 99, length: 100) with { TtftObjective = TimeSpan.FromSeconds(1) };
        Reading online = harness.Submit(urgent);
        long start = harness.Clock.Now;
        while (online.Tokens().Length == 0) harness.Turn();
        Assert.InRange((double)(harness.Clock.Now - start) / Stopwatch.Frequency, 0, 1);
        harness.Submit(urgent with { Class = RequestClass.Batch, TtftObjective = TimeSpan.FromSeconds(60) });
        // Of batch work those come first that were promised something.
        Reading promised = harness.Submit(urgent with { Class = RequestClass.Batch });
        start = harness.Clock.Now;
        while (promised.Tokens().Length == 0) harness.Turn();
        Assert.InRange((double)(harness.Clock.Now - start) / Stopwatch.Frequency, 0, 1);
        for (int i = 0; i < 20; i++)
        {
            GenerationRequest patient = Of("a", seed: 100 + i, length: 100);
            harness.Submit(
                patient with { Class = RequestClass.Batch, TtftObjective = TimeSpan.FromMinutes(1) });
        }
        Assert.Equal(SubmitOutcome.WouldBeLate, harness.Engine.Submit(urgent with
        {
            Class = RequestClass.Batch,
            Ids = EngineHarness.Prompt(900, seed: 1),
        }, out _));
        harness.RunToEnd();
    }

    /// <summary>One tenant sends a hundred times as much as the machine can take: the other's slowest first token is
    /// later by what was under way at most.</summary>
    [Fact]
    public void AHundredTimesAsMuch_MovesAnothersSlowestFirstTokenByABound()
    {
        double alone = Slowest(floods: false), beside = Slowest(floods: true);
        Assert.InRange(beside, alone, alone + 0.6); // seconds: a step of 256 tokens is 0.26 s

        static double Slowest(bool floods)
        {
            TimedEngine timed = new(Slo with { MaxRunning = 16, MaxBatchedTokens = 256 });
            using EngineHarness harness = timed.Harness;
            Random random = new(3);
            List<Reading> others = [];
            for (int i = 0; i < 40; i++)
            {
                for (int j = 0; floods && j < 100; j++)
                {
                    harness.Engine.Submit(
                        Of("flood", seed: random.Next(), length: 100) with { TtftObjective = TimeSpan.FromSeconds(5) },
                        out _);
                }
                others.Add(harness.Submit(Of("other", seed: random.Next(), length: 40)));
                double until = harness.Clock.Now + (2.0 * Stopwatch.Frequency);
                while (harness.Clock.Now < until)
                {
                    if (!harness.Turn()) harness.Clock.Now = (long)until;
                }
            }
            harness.RunToEnd();
            harness.AssertClean();
            return others.Select(reading => reading.Stream.Timings)
                .Max(times => Stopwatch.GetElapsedTime(times.Arrival, times.FirstToken).TotalSeconds);
        }
    }

    /// <summary>A prompt under way takes 0.9 s, and its sender asks for more than can be had; others' short ones come
    /// first, as the door foresaw.</summary>
    [Theory]
    [InlineData(0, null), InlineData(0, 1), InlineData(-100, null), InlineData(-100, 1)]
    public void AnothersShortPrompt_PassesALongOneUnderWay_WhateverThatAsksFor(int priority, int? milliseconds)
    {
        TimedEngine timed = new(Slo with { MaxRunning = 8, MaxBatchedTokens = 128 });
        using EngineHarness harness = timed.Harness;
        harness.Submit(Of("warm", seed: 1, length: 500));
        harness.RunToEnd();
        Reading tall = harness.Submit(Of("long", seed: 2, length: 900) with
        {
            Priority = priority,
            TtftObjective = milliseconds is { } ms ? TimeSpan.FromMilliseconds(ms) : null,
        });
        harness.Turns(2);
        Reading own = harness.Submit(Of("long", seed: 5) with { TtftObjective = TimeSpan.FromSeconds(20) });
        bool passes = priority == 0 && milliseconds is null; // for it has an objective; else 644 tokens are left
        Assert.InRange(own.Stream.Foreseen.TotalSeconds, passes ? 0 : 0.6, passes ? 0.1 : 0.9);
        own.Stream.Cancel();
        harness.Turn();
        Reading plain = harness.Submit(Of("plain", seed: 3));
        Reading promised = harness.Submit(Of("promised", seed: 4) with { TtftObjective = TimeSpan.FromSeconds(0.3) });
        Assert.InRange(promised.Stream.Foreseen.TotalSeconds, 0.01, 0.2); // the long one alone would make it 0.6
        harness.Turn();
        Assert.NotEmpty(plain.Tokens());
        Assert.NotEmpty(promised.Tokens());
        Assert.Empty(tall.Tokens());
        harness.RunToEnd();
        harness.AssertClean();
    }

    /// <summary>Two long prompts of two tenants don't share the steps, which would make both late; but others' short
    /// ones pass one until they got as much.</summary>
    [Fact]
    public void WhoIsUnderWay_IsPassed_UntilTheOthersGotAsMuch()
    {
        TimedEngine timed = new(Slo with { MaxRunning = 8, MaxBatchedTokens = 128 });
        using EngineHarness harness = timed.Harness;
        Reading first = harness.Submit(Of("a", seed: 1, length: 900, outputs: 1));
        harness.Turn();
        Reading second = harness.Submit(Of("b", seed: 2, length: 900, outputs: 1));
        Reading[] flood = [.. Enumerable.Range(0, 100).Select(i =>
            harness.Submit(Of("c", seed: 3 + i, length: 90, outputs: 1)))];
        while (!first.IsComplete) harness.Turn();
        Assert.InRange(flood.Count(reading => reading.IsComplete), 7, 11); // 900 tokens
        Assert.Empty(second.Tokens());
        while (!second.IsComplete) harness.Turn();
        Assert.InRange(flood.Count(reading => reading.IsComplete), 7, 13); // as much for each of the three
        harness.RunToEnd();
        harness.AssertClean();
    }

    /// <summary>One tenant's long answers have all places; each of the others gets one after a turn, and the long ones
    /// end as they would alone.</summary>
    [Theory]
    [InlineData(8, 1), InlineData(1, 8)]
    public void LongAnswers_GivePlacesUp_AfterATurn(int n, int requests)
    {
        TimedEngine timed = new(Slo with { MaxRunning = 8, MaxBatchedTokens = 128 });
        using EngineHarness harness = timed.Harness;
        Reading[] tall = [.. Enumerable.Range(0, requests).Select(i =>
        {
            GenerationRequest request = Of("long", seed: i, outputs: 300);
            return harness.Submit(request with { Sampling = request.Sampling with { N = n } });
        })];
        harness.Turns(40);
        Reading[] others = [.. Enumerable.Range(0, 3).Select(i =>
            harness.Submit(Of($"other {i}", seed: 10 + i) with { Priority = i - 1 }))];
        harness.Turns(5);
        Assert.All(others, reading => Assert.NotEmpty(reading.Tokens()));
        Assert.Equal(3, harness.Engine.Metrics.Preemptions);
        Assert.DoesNotContain(tall, reading => reading.IsComplete);
        harness.RunToEnd();
        foreach (Reading reading in (Reading[])[.. tall, .. others]) reading.AssertOracle(1000);
        harness.AssertClean();
    }

    /// <summary>While one tenant decoded, another sent a word; that earns it nothing for its later flood.</summary>
    [Theory]
    [InlineData(true), InlineData(false)]
    public void AWordInBetween_SavesNothingUp(bool sends)
    {
        TimedEngine timed = new(Slo with { MaxRunning = 16, MaxBatchedTokens = 128 });
        using EngineHarness harness = timed.Harness;
        foreach (int i in Enumerable.Range(0, 4)) harness.Submit(Of("a", seed: i, outputs: 300));
        harness.Turns(20);
        if (sends) harness.Submit(Of("b", seed: 5, outputs: 1));
        harness.RunToEnd();
        Reading[] flood = [.. Enumerable.Range(0, 20).Select(i => harness.Submit(Of("b", seed: 10 + i, length: 500)))];
        harness.Turns(4);
        Reading a = harness.Submit(Of("a", seed: 50, length: 100));
        while (a.Tokens().Length == 0) harness.Turn();
        Assert.InRange(flood.Count(reading => reading.Tokens().Length > 0), 1, 2); // who was under way
        harness.RunToEnd();
        harness.AssertClean();
    }

    /// <summary>Eight clients that call themselves otherwise with every request pass a longer prompt until each got as
    /// much, and no longer.</summary>
    [Theory]
    [InlineData(130), InlineData(400)]
    public void NewNames_PassALongerPrompt_ForATimeAlone(int length)
    {
        TimedEngine timed = new(Slo with { MaxRunning = 8, MaxBatchedTokens = 128 });
        using EngineHarness harness = timed.Harness;
        List<Reading> others = [];
        void Fill()
        {
            for (int i = others.Count(reading => !reading.IsComplete); i < 8; i++)
                others.Add(harness.Submit(Of($"name {others.Count}", seed: others.Count, length: 100, outputs: 1)));
        }
        for (int i = 0; i < 5; i++, harness.Turn()) Fill();
        Reading tall = harness.Submit(Of("long", seed: 1000, length: length, outputs: 1));
        int before = others.Count;
        for (int i = 0; i < 200 && !tall.IsComplete; i++, harness.Turn()) Fill();
        Assert.True(tall.IsComplete);
        Assert.InRange(others.Count - before, 1, (9 * length / 100) + 8); // nine have a ninth each
        harness.RunToEnd();
        harness.AssertClean();
    }

    /// <summary>While nobody waits everybody gets what it asks for: one stream that was kept going saves nothing up for
    /// a later burst.</summary>
    [Fact]
    public void OneStreamKeptGoing_SavesNothingUp()
    {
        TimedEngine timed = new(Slo with { MaxRunning = 8, MaxBatchedTokens = 128 });
        using EngineHarness harness = timed.Harness;
        harness.Submit(Of("a", seed: 1, outputs: 900));
        List<Reading> b = [];
        void Fill()
        {
            for (int i = b.Count(reading => !reading.IsComplete); i < 7; i++)
                b.Add(harness.Submit(Of("b", seed: 100 + b.Count, length: 20, outputs: 48)));
        }
        for (int i = 0; i < 400; i++, harness.Turn()) Fill();
        Reading[] burst = [.. Enumerable.Range(0, 60).Select(i =>
            harness.Submit(Of("a", seed: 1000 + i, length: 20, outputs: 48)))];
        int before = b.Count(reading => reading.IsComplete);
        for (int i = 0; i < 300; i++, harness.Turn()) Fill();
        int ofB = b.Count(reading => reading.IsComplete) - before, ofA = burst.Count(reading => reading.IsComplete);
        Assert.InRange((double)ofB / ofA, 0.7, 1.5);
        harness.RunToEnd();
        harness.AssertClean();
    }

    /// <summary>A time for a token that those who run leave no room for is missed, and nobody waits for it.</summary>
    [Fact]
    public void ATimeForATokenThatCannotBeHadNow_HoldsUpNobody()
    {
        TimedEngine timed = new(Slo with { MaxRunning = 64, MaxBatchedTokens = 256 });
        using EngineHarness harness = timed.Harness;
        foreach (int i in Enumerable.Range(0, 40)) harness.Submit(Of("a", seed: i, outputs: 200));
        harness.Turns(20); // a step of 40 decodes takes 41 ms
        Reading strict = harness.Submit(Of("b", seed: 50) with { TpotObjective = TimeSpan.FromMilliseconds(25) });
        Reading other = harness.Submit(Of("c", seed: 51));
        harness.Turns(3);
        Assert.NotEmpty(strict.Tokens());
        Assert.NotEmpty(other.Tokens());
        harness.RunToEnd();
        harness.AssertClean();
    }

    /// <summary>Whoever comes later than a request does not count at the door, whatever it was promised.</summary>
    [Theory]
    [InlineData(60, 0), InlineData(86_400, 0), InlineData(0, 600)]
    public void WhatIsDueLater_ShutsTheDoorToNobody(int objective, int deadline)
    {
        TimedEngine timed = new(Slo with { MaxRunning = 4, MaxBatchedTokens = 128 });
        using EngineHarness harness = timed.Harness;
        for (int i = 0; i < 20; i++)
        {
            harness.Submit(Of("a", seed: i, length: 600, outputs: 2) with
            {
                TtftObjective = objective == 0 ? null : TimeSpan.FromSeconds(objective),
                Deadline = deadline == 0 ? null : harness.Clock.Now + (deadline * Stopwatch.Frequency),
            });
        }
        harness.Turns(3);
        Reading soon = harness.Submit(Of("a", seed: 50) with { TtftObjective = TimeSpan.FromSeconds(1) });
        Assert.InRange(soon.Stream.Foreseen.TotalSeconds, 0, 0.3);
        harness.Turns(3);
        Assert.NotEmpty(soon.Tokens());
        harness.RunToEnd();
        harness.AssertClean();
    }

    /// <summary>Steps in which prompts waited for a place say nothing of how fast prompts are.</summary>
    [Fact]
    public void WaitingForAPlace_MakesNoForecastLonger()
    {
        TimedEngine timed = new(Slo with { MaxRunning = 4, MaxBatchedTokens = 128 });
        using EngineHarness harness = timed.Harness;
        foreach (int i in Enumerable.Range(0, 4)) harness.Submit(Of("warm", seed: 30 + i, length: 500));
        harness.RunToEnd();
        foreach (int i in Enumerable.Range(0, 16)) harness.Submit(Of("a", seed: i, length: 16, outputs: 50));
        harness.RunToEnd();
        harness.Submit(Of("a", seed: 20, outputs: 100));
        harness.Turns(3);
        Reading probe = harness.Submit(
            Of("b", seed: 21, length: 400) with { TtftObjective = TimeSpan.FromSeconds(2) });
        Assert.InRange(probe.Stream.Foreseen.TotalSeconds, 0.3, 0.7); // 400 tokens of 1 ms
        harness.RunToEnd();
        harness.AssertClean();
    }

    [Fact]
    public void Requests_BeyondTheQuota_AreToldWhenToComeBack()
    {
        TenantSpec spec = new() { Name = "a", RequestsPerMinute = 2 };
        using EngineHarness harness = new(options: Slo with { Tenants = [spec] });
        harness.Submit(Of("a", seed: 1));
        harness.Submit(Of("a", seed: 2));
        Assert.Equal(SubmitOutcome.OverQuota, harness.Engine.Submit(Of("a", seed: 3), out _, out Refusal refusal));
        Assert.InRange(refusal.RetryAfter.TotalSeconds, 29, 46); // a request comes every 30 s; spread by a half
        harness.Submit(Of("b", seed: 3));
        harness.RunToEnd();
        harness.Clock.Now += (long)(30.1 * Stopwatch.Frequency);
        harness.Submit(Of("a", seed: 3));
        Assert.Equal(SubmitOutcome.OverQuota, harness.Engine.Submit(Of("a", seed: 3), out _));
        harness.RunToEnd();
        harness.AssertClean();
    }

    [Fact]
    public void Tokens_OfPromptsAndAnswers_AreCounted()
    {
        TenantSpec spec = new() { Name = "a", TokensPerMinute = 100 };
        using EngineHarness harness = new(options: Slo with { Tenants = [spec] });
        harness.Submit(Of("a", seed: 1, length: 60, outputs: 50)); // 110
        harness.RunToEnd();
        Assert.Equal(SubmitOutcome.OverQuota, harness.Engine.Submit(Of("a", seed: 2), out _, out Refusal refusal));
        Assert.InRange(refusal.RetryAfter.TotalSeconds, 8, 20); // 10 too many, and 6 for its prompt of 10
        harness.Clock.Now += 60 * Stopwatch.Frequency;
        harness.Submit(Of("a", seed: 2, length: 90, outputs: 1)); // as many are there again, less what is owed
        harness.RunToEnd();
    }

    [Fact]
    public void AMinutesQuota_AndMore_IsTakenOnceAllOfItIsThere()
    {
        RateLimit limit = new(perMinute: 60);
        Assert.True(limit.TryTake(100, now: 0, out _));
        Assert.False(limit.TryTake(100, now: 50 * Stopwatch.Frequency, out double wait));
        Assert.Equal(50, wait, 3);
        Assert.True(limit.TryTake(100, now: 100 * Stopwatch.Frequency, out _));
        limit.Return(100);
        Assert.True(limit.TryTake(60, now: 100 * Stopwatch.Frequency, out _));
        Assert.False(limit.TryTake(1, now: 100 * Stopwatch.Frequency, out _));
    }

    [Fact]
    public void ManyThreads_GetNoMoreThanThereIs()
    {
        RateLimit limit = new(perMinute: 1000);
        int taken = 0;
        Parallel.For(0, 4000, _ =>
        {
            if (limit.TryTake(1, now: 1, out double _)) Interlocked.Increment(ref taken);
        });
        Assert.Equal(1000, taken);
    }

    [Fact]
    public void TenantsThatNobodyNamed_AreForgotten_AndBeyondABoundShareOneShare()
    {
        using EngineHarness harness = new(options: Slo with { MaxRunning = 64, MaxQueued = 100 });
        for (int i = 0; i < 3000; i++)
        {
            harness.Submit(Of($"tenant {i}", seed: i, outputs: 1));
            if (i % 50 > 0) continue;
            harness.RunToEnd();
            harness.Clock.Now += 5 * Stopwatch.Frequency;
        }
        harness.RunToEnd();
        harness.AssertClean();
        Assert.InRange(harness.Engine.Tenants.Count, 600, 800);

        Tenants tenants = new(Slo with { Tenants = [new TenantSpec { Name = "named" }] });
        for (int i = 0; i < Tenants.MostUnnamed; i++) tenants.Keep(tenants.Of($"{i}"));
        Assert.Same(tenants.Of("one more"), tenants.Of("another"));
        Assert.NotSame(tenants.Of("one more"), tenants.Of("named"));
    }

    [Fact]
    public void Tenants_ShareNoBlocks_UnlessTheyShareASalt()
    {
        using EngineHarness harness = new(options: Slo);
        Assert.Equal(0, Cached("a", null));
        Assert.Equal(39, Cached("a", null));
        Assert.Equal(0, Cached("b", null));
        Assert.Equal(0, Cached("", null));
        Assert.Equal(0, Cached("a", "common"));
        Assert.Equal(39, Cached("b", "common"));
        Assert.Equal(0, Cached("b", "tenant a")); // no salt gives a tenant's own
        harness.AssertClean();

        int Cached(string tenant, string? salt)
        {
            Reading reading = harness.Submit(Of(tenant, seed: 1, length: 40) with { CacheSalt = salt });
            harness.RunToEnd();
            reading.AssertOracle(128);
            return reading.Stream.Timings.CachedTokens;
        }
    }

    [Fact]
    public void WrongTenants_AreNamed()
    {
        List<string> errors = [];
        (Slo with
        {
            Tenants =
            [
                new TenantSpec { Name = "a", Weight = 0 }, new TenantSpec { Name = "a", RequestsPerMinute = 0 },
                new TenantSpec { Name = "b", TokensPerMinute = -1, Weight = double.NaN },
            ],
        }).Validate(errors);
        Assert.Equal(5, errors.Count);
        using EngineHarness harness = new(options: Slo);
        GenerationRequest request = Of(new string('x', TenantSpec.MaxName + 1), seed: 1);
        Assert.Equal(SubmitOutcome.Invalid, harness.Engine.Submit(request, out _));
    }

    /// <summary>While an online objective burns, batch work is not taken, and the door trusts forecasts less.</summary>
    [Fact]
    public void ABurningBudget_ClosesTheDoorToBatchWork_AndAHealthyOneOpensItFurther()
    {
        BudgetLedger ledger = new(
            new SloSpec([Objectives.Availability(99m)]), new ManualClock());
        TimedEngine timed = new(Slo with { MaxBatchedTokens = 64, Budgets = ledger });
        using EngineHarness harness = timed.Harness;
        TimeSpan patient = TimeSpan.FromSeconds(50);
        for (int i = 0; i < 8; i++)
            harness.Submit(Of("a", seed: i, length: 100, outputs: 1) with { TtftObjective = patient });
        harness.Turns(12);
        GenerationRequest batch = Of("a", seed: 20) with { Class = RequestClass.Batch };
        harness.Submit(batch);
        // What is forecast at 0.9 of the objective is taken while the budget is healthy, and not while it burns.
        Reading taken = harness.Submit(Close());
        taken.Stream.Cancel();
        for (int i = 0; i < 400; i++)
        {
            ledger.Count(0, good: 10, bad: 10);
            harness.Clock.Now += 10 * Stopwatch.Frequency;
            ledger.Advance(harness.Clock.Now);
        }
        Assert.True(ledger.IsAnyBurning("online"));
        BudgetCounts before = ledger.ReadSinceStart(0);
        Assert.Equal(SubmitOutcome.Shed, harness.Engine.Submit(batch, out _, out Refusal shed));
        ledger.Advance(harness.Clock.Now + Stopwatch.Frequency);
        Assert.Equal(before, ledger.ReadSinceStart(0)); // or batch work would keep the budget burning that sheds it
        Assert.InRange(shed.RetryAfter.TotalSeconds, 10, 60);
        Assert.Equal(SubmitOutcome.WouldBeLate, harness.Engine.Submit(Close(), out _));
        harness.RunToEnd();

        GenerationRequest Close()
        {
            GenerationRequest request = Of("a", seed: 21, length: 100, outputs: 1);
            harness.Engine.Submit(
                request with { TtftObjective = TimeSpan.FromMilliseconds(1) }, out _, out Refusal refusal);
            return request with { TtftObjective = refusal.FirstToken / 0.9 };
        }
    }

    [Fact]
    public void FirstComeFirstServed_TakesBatchWork_WhateverBurns()
    {
        BudgetLedger ledger = new(new SloSpec([Objectives.Availability(99m)]), new ManualClock());
        using EngineHarness harness = new(options: Slo with { Policy = SchedulingPolicy.Fcfs, Budgets = ledger });
        for (int i = 0; i < 400; i++)
        {
            ledger.Count(0, good: 10, bad: 10);
            harness.Clock.Now += 10 * Stopwatch.Frequency;
            ledger.Advance(harness.Clock.Now);
        }
        Assert.True(ledger.IsAnyBurning("online"));
        harness.Submit(Of("a", seed: 1) with { Class = RequestClass.Batch });
        harness.RunToEnd();
    }

    private static GenerationRequest Of(string tenant, int seed, int length = 10, int outputs = 4) => new()
    {
        Ids = EngineHarness.Prompt(length, seed),
        Sampling = EngineHarness.Greedy(outputs),
        Tenant = tenant,
    };

    /// <summary>A machine on which a step takes 1 ms, and each token one more.</summary>
    private sealed class TimedEngine
    {
        public TimedEngine(EngineOptions options)
        {
            FakeModelRunner runner = new(blockCount: 4000, maxModelLength: 1000);
            Harness = new EngineHarness(runner, options);
            runner.OnExecute = (in Native.Kernels.Batch batch) =>
                Harness.Clock.Now += (long)((1 + batch.TokenIds.Length) * 1e-3 * Stopwatch.Frequency);
        }

        public EngineHarness Harness { get; }
    }
}
