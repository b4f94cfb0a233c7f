using System.Diagnostics;
using Native.Bench.Common;
using Native.Kernels;
using Native.Kernels.Sampling;
using Native.Scheduling;

namespace Native.Bench.Simulate;

/// <summary>Serves a load by the real engine: its clock is the simulation's, its model computes nothing.</summary>
internal sealed class NativeEngine(SimulatedMachine machine, Objective objective)
{
    /// <summary>Its name in the table.</summary>
    public const string Name = "native";

    private readonly StepClock _clock = new(machine);
    private readonly Dictionary<TokenStream, Outcome> _live = [];
    private readonly WasteMeter _waste = new();

    /// <summary>Serves a load to its end.</summary>
    /// <param name="requests">By arrival.</param>
    /// <param name="seconds">In which they came.</param>
    public SimulationResult Run(IReadOnlyList<TrafficRequest> requests, double seconds)
    {
        Outcome[] outcomes = [.. requests.Select(request => new Outcome(request, objective))];
        using TimedRunner runner = new(Model(machine), _clock);
        EngineOptions options = new()
        {
            MaxRunning = machine.MaxRunning,
            MaxBatchedTokens = Math.Max(machine.MaxBatchedTokens, machine.MaxRunning),
            PrefixCaching = machine.PrefixCaching,
            TtftObjective = TimeSpan.FromSeconds(objective.Ttft),
            TpotObjective = TimeSpan.FromSeconds(objective.Tpot),
        };
        using Engine engine = new(runner, [], options, startThread: false, clock: new EngineClock(_clock));
        for (int next = 0; next < outcomes.Length || engine.Scheduler.HasWork;)
        {
            for (; next < outcomes.Length && requests[next].Arrival <= _clock.Now; next++)
                Submit(engine, outcomes[next]);
            double before = _clock.Now;
            if (engine.Turn()) Read(engine);
            else if (next < outcomes.Length) _clock.Wait(requests[next].Arrival);
            if (engine.Metrics.FailedSteps > 0)
                throw new InvalidOperationException("a step failed in the simulation", engine.LastFailure);
            if (next == outcomes.Length && _clock.Now == before && engine.Scheduler.HasWork)
                throw new InvalidOperationException("the engine has work and does not compute it");
        }
        return new SimulationResult
        {
            Policy = Name,
            Outcomes = outcomes,
            Seconds = seconds,
            End = _clock.Now,
            Steps = _clock.Steps,
            Busy = _clock.Busy,
            Preemptions = engine.Metrics.Preemptions,
            KvWaste = _waste.Mean,
        };
    }

    private void Submit(Engine engine, Outcome outcome)
    {
        GenerationRequest request = new()
        {
            Ids = outcome.Request.Ids(engine.Info.VocabularySize),
            Sampling = new SamplingParams
            {
                MaxTokens = outcome.Request.Output,
                IgnoreEos = true,
                Temperature = 0,
                Seed = 1,
            },
            ArrivalTimestamp = EngineClock.Ticks(outcome.Request.Arrival),
            Tenant = outcome.Request.Tenant,
        };
        // Whoever is refused stays in the denominator: a violation without a token.
        if (engine.Submit(request, out TokenStream? stream) == SubmitOutcome.Accepted) _live.Add(stream!, outcome);
    }

    /// <summary>Takes the tokens of the step that is just over, and looks at the cache.</summary>
    private void Read(Engine engine)
    {
        foreach (ref readonly ScheduledChunk chunk in engine.Scheduler.Plan.Chunks)
        {
            TokenStream stream = chunk.Sequence.Stream;
            if (!chunk.Samples || !_live.TryGetValue(stream, out Outcome? outcome)) continue;
            while (stream.TryRead(out TokenEvent e))
            {
                if (e.Token >= 0) outcome.Token(_clock.Now);
                if (e.Finish != FinishReason.None) _live.Remove(stream);
            }
        }
        long tokens = 0, blocks = 0;
        LiveSequences live = engine.Scheduler.Live;
        foreach (SequenceQueue queue in (ReadOnlySpan<SequenceQueue>)[live.Decoding, live.Prefilling])
        {
            for (Sequence? s = queue.First; s is not null; s = s.Next)
            {
                tokens += s.NumComputedTokens;
                blocks += s.BlockCount;
            }
        }
        _waste.Observe(tokens, blocks * machine.BlockSize);
    }

    private static ModelInfo Model(SimulatedMachine machine) => NoModel.Info(
        "simulated", vocabulary: 32_000, machine.MaxModelLength, machine.BlockSize, machine.Blocks,
        Math.Max(machine.MaxBatchedTokens, machine.MaxRunning), machine.MaxRunning);

    /// <summary>The simulation's time as the engine reads it.</summary>
    private sealed class EngineClock(StepClock clock) : TimeProvider
    {
        // Timestamps of 0 mean "not yet" to the engine.
        private const double Beginning = 1;

        public static long Ticks(double seconds) => (long)((Beginning + seconds) * Stopwatch.Frequency);

        public override long GetTimestamp() => Ticks(clock.Now);
    }

    /// <summary>Lets the time of a step pass, and says token 1.</summary>
    private sealed class TimedRunner(ModelInfo info, StepClock clock) : IModelRunner
    {
        public ModelInfo Info => info;

        public void Launch(in Batch batch)
        {
            StepLoad load = default;
            for (int i = 0; i < batch.ContextLengths.Length; i++)
            {
                int count = batch.QueryStarts[i + 1] - batch.QueryStarts[i], context = batch.ContextLengths[i];
                load = i < batch.DecodeCount ? load.PlusDecode(context) : load.PlusPrefill(context - count, count);
            }
            clock.Step(load);
        }

        public void Collect(
            Span<SampledToken> sampled, Span<TokenLogprob> alternatives, Span<float> hidden = default) =>
            sampled.Fill(new SampledToken(1, 0));

        public void Dispose()
        {
        }
    }
}
