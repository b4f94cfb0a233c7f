using System.Diagnostics;
using Native.Bench.Common;
using Native.Kernels;
using Native.Scheduling;

namespace Native.Bench.Turns;

/// <summary>What happens before a turn.</summary>
internal enum News
{
    /// <summary>Nothing.</summary>
    None,

    /// <summary>A waiting request is cancelled.</summary>
    Cancel,

    /// <summary>A running choice comes to a stop text, and another request begins in its place.</summary>
    Stop,

    /// <summary>A waiting request's deadline passes.</summary>
    Deadline,
}

/// <summary>What a turn of the engine's loop costs.</summary>
/// <param name="Waiting">Requests that wait.</param>
/// <param name="News">What happens before each turn.</param>
/// <param name="Microseconds">Median over the turns.</param>
/// <param name="Slowest">The 99th percentile.</param>
/// <param name="Visits">Sequences and heap entries looked at, median.</param>
internal sealed record TurnCost(int Waiting, News News, double Microseconds, double Slowest, double Visits);

/// <summary>Takes turns with an engine that has no thread and no model.</summary>
internal static class TurnMeasurement
{
    /// <summary>Fills an engine and takes turns.</summary>
    /// <param name="running">Sequences that decode in every turn.</param>
    /// <param name="waiting">Requests that wait.</param>
    /// <param name="news">What happens before each turn.</param>
    /// <param name="turns">Turns that count; a tenth more come before.</param>
    /// <param name="ct">Looked at between turns.</param>
    public static TurnCost Run(int running, int waiting, News news, int turns, CancellationToken ct)
    {
        const int BlockSize = 16;
        int warm = Math.Max(turns / 10, 10), length = 4 * (turns + warm) + 64;
        int blocks = (length + BlockSize - 1) / BlockSize;
        ManualClock clock = new();
        using Engine engine =
            new(new IdleRunner(Model(running, length, blocks)), [], Options(running, waiting, news),
                startThread: false, clock: clock);
        long? Deadline(int i) => news == News.Deadline ? ManualClock.Start + 1 + i : null;
        Queue<TokenStream> decoding = new(Enumerable.Range(0, running).Select(_ => Submit(engine, length - 8, null)));
        engine.Turn();
        Queue<TokenStream> line =
            new(Enumerable.Range(0, waiting).Select(i => Submit(engine, length - 8, Deadline(i))));
        engine.Turn();

        double[] times = new double[turns], visits = new double[turns];
        for (int turn = -warm; turn < turns; turn++)
        {
            ct.ThrowIfCancellationRequested();
            // The line stays as long: another request comes for each that leaves it.
            if (news != News.None)
                line.Enqueue(Submit(engine, length - 8, Deadline(waiting + warm + turn)));
            if (news == News.Deadline) clock.Now++;
            else if (news == News.Cancel) line.Dequeue().Cancel();
            else if (news == News.Stop)
            {
                decoding.Dequeue().Stop(0);
                decoding.Enqueue(line.Dequeue());
            }
            long before = engine.Scheduler.Visits, start = Stopwatch.GetTimestamp();
            engine.Turn();
            long end = Stopwatch.GetTimestamp();
            if (turn < 0) continue;
            times[turn] = (end - start) * 1e6 / Stopwatch.Frequency;
            visits[turn] = engine.Scheduler.Visits - before;
        }
        Array.Sort(times);
        Array.Sort(visits);
        return new TurnCost(waiting, news, times[turns / 2], times[turns * 99 / 100], visits[turns / 2]);
    }

    private static EngineOptions Options(int running, int queued, News news) => new()
    {
        MaxRunning = running,
        MaxBatchedTokens = Math.Max(2048, running),
        MaxQueued = queued + running + 2,
        // By due times a request whose deadline comes before its turn is refused at the door.
        Policy = news == News.Deadline ? SchedulingPolicy.Fcfs : SchedulingPolicy.Slo,
    };

    private static TokenStream Submit(Engine engine, int tokens, long? deadline)
    {
        GenerationRequest request = new()
        {
            Ids = new[] { 1, 2 },
            Sampling = new SamplingParams { MaxTokens = tokens, IgnoreEos = true, Temperature = 0, Seed = 1 },
            Deadline = deadline,
        };
        SubmitOutcome outcome = engine.Submit(request, out TokenStream? stream);
        return outcome == SubmitOutcome.Accepted ? stream!
            : throw new InvalidOperationException($"the engine answered {outcome}");
    }

    private static ModelInfo Model(int running, int length, int blocks) => NoModel.Info(
        "idle", vocabulary: 32, length, blockSize: 16, blocks * running, Math.Max(2048, running), running);

    /// <summary>Time that passes when it is told to.</summary>
    private sealed class ManualClock : TimeProvider
    {
        public const long Start = 1_000_000;

        public long Now { get; set; } = Start;

        public override long GetTimestamp() => Now;
    }
}
