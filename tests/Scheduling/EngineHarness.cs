using Native.Bench.Serve;
using Native.Kernels.Sampling;
using Native.Scheduling;

namespace Native.Tests.Scheduling;

/// <summary>An engine without its thread: the test takes each turn, so everything is in a known order.</summary>
internal sealed class EngineHarness : IDisposable
{
    private readonly List<Reading> _readings = [];

    public EngineHarness(FakeModelRunner? runner = null, EngineOptions? options = null)
    {
        Runner = runner ?? new FakeModelRunner();
        options ??= new EngineOptions { Policy = SchedulingPolicy.Fcfs };
        Engine = new Engine(Runner, [FakeModelRunner.EndId], options, startThread: false, clock: Clock);
    }

    public FakeModelRunner Runner { get; }

    public ManualClock Clock { get; } = new();

    public Engine Engine { get; }

    /// <summary>Called after each turn, for what must hold then.</summary>
    public Action? AfterTurn { get; set; }

    public Reading Submit(
        int[] prompt, SamplingParams? sampling = null, long? deadline = null, ITokenConstraint? constraint = null) =>
        Submit(new GenerationRequest
        {
            Ids = prompt,
            Sampling = sampling ?? Greedy(8),
            Deadline = deadline,
            Constraint = constraint,
        });

    public Reading Submit(GenerationRequest request)
    {
        Assert.Equal(SubmitOutcome.Accepted, TrySubmit(request, out Reading? reading));
        return reading!;
    }

    public SubmitOutcome TrySubmit(GenerationRequest request, out Reading? reading)
    {
        SubmitOutcome outcome = Engine.Submit(request, out TokenStream? stream);
        reading = stream is null ? null : new(request.Ids.ToArray(), request.Sampling, stream);
        if (reading is not null) _readings.Add(reading);
        return outcome;
    }

    public bool Turn()
    {
        bool stepped = Engine.Turn();
        foreach (Reading reading in _readings) reading.Read();
        AfterTurn?.Invoke();
        return stepped;
    }

    public void Turns(int count)
    {
        for (int i = 0; i < count; i++) Turn();
    }

    /// <summary>Until nothing is left to compute. Bounded, so that a scheduler that stands still is seen.</summary>
    public int RunToEnd(int mostTurns = 100_000)
    {
        int turns = 0;
        while (Turn()) Assert.True(++turns < mostTurns, "the engine does not come to an end");
        return turns;
    }

    /// <summary>After everything ended: no belief was contradicted, and every block is free.</summary>
    public void AssertClean()
    {
        Assert.Empty(Runner.Violations);
        Assert.False(Engine.Scheduler.HasWork);
        Assert.Null(Engine.Scheduler.CheckIntegrity());
        Assert.Equal(Runner.Info.BlockCount, Engine.Scheduler.Pool.FreeCount);
        Assert.Equal(0, Engine.Scheduler.Pool.OwnedCount);
        Assert.Equal(0, Engine.Queued);
        Assert.Equal(0, Engine.QueuedTokens);
        foreach (Reading reading in _readings) Assert.True(reading.IsComplete);
    }

    public void Dispose() => Engine.Dispose();

    public static SamplingParams Greedy(int maxTokens, bool ignoreEos = true) => new() { Temperature = 0, MaxTokens = maxTokens, IgnoreEos = ignoreEos, Seed = 1 };

    public static int[] Prompt(int length, int seed = 0) => [.. Enumerable.Range(0, length).Select(i => (int)(Hash.Mix((ulong)seed, (ulong)i) % FakeModelRunner.PoisonToken))];
}

/// <summary>A clock that goes on by one tick whenever it is looked at, and otherwise when told.</summary>
internal sealed class ManualClock : TimeProvider
{
    public long Now { get; set; } = 1;

    public override long GetTimestamp() => Now++;
}

/// <summary>What came out of a stream so far.</summary>
internal sealed class Reading(int[] prompt, SamplingParams sampling, TokenStream stream)
{
    public int[] Prompt => prompt;

    public SamplingParams Sampling => sampling;

    public TokenStream Stream => stream;

    public List<TokenEvent>[] Events { get; } = [.. Enumerable.Range(0, sampling.N).Select(_ => new List<TokenEvent>())];

    public bool IsComplete => Events.All(events => events.Count > 0 && events[^1].Finish != FinishReason.None);

    public int[] Tokens(int index = 0) => [.. Events[index].Where(e => e.Token >= 0).Select(e => e.Token)];

    public FinishReason Finish(int index = 0) => Events[index].Count == 0 ? FinishReason.None : Events[index][^1].Finish;

    public void Read()
    {
        while (stream.TryRead(out TokenEvent e))
        {
            Assert.True(Finish(e.Index) == FinishReason.None, "nothing comes after the end");
            Events[e.Index].Add(e);
        }
    }

    /// <summary>Every choice is the oracle's, token for token and score for score.</summary>
    public void AssertOracle(int maxModelLength)
    {
        int limit = Math.Min(sampling.MaxTokens ?? int.MaxValue, maxModelLength - prompt.Length);
        for (int i = 0; i < sampling.N; i++)
        {
            Oracle.Choice expected = Oracle.Generate(prompt, sampling, i, limit);
            Assert.Equal(expected.Tokens, Tokens(i));
            Assert.Equal(expected.Finish, Finish(i));
            TokenEvent[] tokens = [.. Events[i].Where(e => e.Token >= 0)];
            Assert.Equal(expected.Logprobs, tokens.Select(e => e.Logprob));
            foreach (TokenEvent e in tokens)
                Assert.Equal(Enumerable.Range(0, sampling.Logprobs ?? 0).Select(rank => Oracle.Alternative(new SampledToken(e.Token, e.Logprob), rank)), e.Alternatives.ToArray());
            if (tokens.Length > 0) Assert.Equal(expected.Finish == FinishReason.Stop, tokens[^1].IsStopToken);
        }
        if (sampling.PromptLogprobs is not { } width) return;
        Assert.Equal(Oracle.PromptLogprobs(prompt), stream.PromptLogprobs.ToArray());
        for (int position = 1; position < prompt.Length; position++)
        {
            SampledToken scored = new(prompt[position], stream.PromptLogprobs[position - 1]);
            Assert.Equal(Enumerable.Range(0, width).Select(rank => Oracle.Alternative(scored, rank)), stream.PromptAlternatives(position).ToArray());
        }
    }
}
