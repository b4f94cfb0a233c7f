using System.Globalization;
using Native.Bench.Common;
using Native.Bench.Serve;
using Native.Bench.Throughput;
using Native.Kernels.Cpu.Machine;
using Native.Kernels.Formats;

namespace Native.Bench.Peers;

/// <summary>What one engine took for a test.</summary>
/// <param name="Peer">The engine.</param>
/// <param name="Test">The test.</param>
/// <param name="Seconds">Of each repetition; empty where it can't be asked this.</param>
internal sealed record PeerSamples(IPeer Peer, ThroughputTest Test, IReadOnlyList<double> Seconds)
{
    /// <summary>Each repetition's tokens a second, of all sequences.</summary>
    public double[] Speeds =>
        [.. Seconds.Select(seconds => (double)Test.Batch * (Test.Prompt + Test.Generate) / seconds)];

    /// <summary>The median of them; null where there is none.</summary>
    public double? Speed => Seconds.Count > 0 ? Statistics.Median(Speeds) : null;
}

/// <summary>A test, what all engines took for it, and what the machine gave in that run.</summary>
/// <param name="model">The model.</param>
/// <param name="test">The test.</param>
/// <param name="peers">The engines, Native first.</param>
/// <param name="limits">What the machine gave, in the unit of <see cref="WorkPerToken"/> a second, around all tests
/// that this bounds: a single probe can be disturbed as much as an engine can.</param>
internal sealed class PeersTest(BenchModel model, ThroughputTest test, IReadOnlyList<IPeer> peers,
    IReadOnlyList<double> limits)
{
    private readonly List<double>[] _seconds = [.. peers.Select(_ => new List<double>())];

    public ThroughputTest Test { get; } = test;

    /// <summary>pp512, tg32, tg32 B8, tg32 @ d4096.</summary>
    public string Name =>
        string.Create(CultureInfo.InvariantCulture,
            $"{(Decodes ? "tg" : "pp")}{Test.Prompt + Test.Generate}{(Test.Batch > 1 ? $" B{Test.Batch}" : "")}{(Test.Depth > 0 ? $" @ d{Test.Depth}" : "")}");

    /// <summary>Whether tokens are generated; else it is a prompt.</summary>
    public bool Decodes => Test.Generate > 0;

    /// <summary>Of each engine, in the order of the peers; Native is the first.</summary>
    public IReadOnlyList<PeerSamples> Samples =>
        [.. peers.Select((peer, i) => new PeerSamples(peer, Test, _seconds[i]))];

    /// <summary>The median of what the machine gave: bytes read a second for a decode, operations for a
    /// prompt.</summary>
    public double Limit => Statistics.Median(limits);

    /// <summary>What a token costs at least. Of a decode bytes: a step reads the weights, as the file has them, and
    /// every sequence's keys and values. Of a prompt operations: two for each weight of the layers.</summary>
    public double WorkPerToken => Decodes
        ? (double)model.FileStepBytes / Test.Batch + (Test.Depth + (Test.Generate + 1) / 2.0) * model.KvBytesPerToken
        : 2.0 * model.LayerParameters;

    /// <summary>The part of the machine's limit that a speed is.</summary>
    public double Share(double tokensPerSecond) => tokensPerSecond * WorkPerToken / Limit;

    /// <summary>How many times as fast as a peer Native is: the ratio of medians.</summary>
    public double? Ratio(PeerSamples peer) => Samples[0].Speed / peer.Speed;

    internal void Add(int peer, double? seconds)
    {
        if (seconds is { } value) _seconds[peer].Add(value);
    }
}

/// <summary>The probes that tell a machine's limits while engines are measured on it.</summary>
internal sealed class MachineLimits : IDisposable
{
    private const int Readings = 5;

    private readonly MemoryBandwidth _memory;
    private readonly WorkerPool _pool;
    private readonly ArithmeticLoop _loop;

    /// <summary>Chooses the loop that is the model's limit.</summary>
    /// <param name="threads">Threads, as the engines have.</param>
    /// <param name="weights">Of the model: quantized ones are multiplied in integers of 8 bits, bfloat16 ones in pairs
    /// where the processor can.</param>
    public MachineLimits(int threads, TensorType weights)
    {
        // A processor without instructions for either multiplies floats.
        IReadOnlyList<ArithmeticLoop> loops =
            BlockFormat.Of(weights).BlockSize > 1 ? ArithmeticPeak.Int8Loops : weights == TensorType.BF16
                ? ArithmeticPeak.BFloat16Loops : [];
        _loop = ArithmeticPeak.Fastest(loops) ?? ArithmeticPeak.Fastest(ArithmeticPeak.FloatLoops)!;
        _pool = new WorkerPool(threads);
        _memory = new MemoryBandwidth(threads);
        _memory.Measure();
    }

    /// <summary>Instructions of the arithmetic limit.</summary>
    public string Instructions => _loop.Instructions;

    /// <summary>Bytes a second, or operations a second: the best of a few readings, since the first after a wait is
    /// slow and whatever else runs only takes from a limit.</summary>
    public double Measure(bool memory)
    {
        double best = 0;
        for (int i = 0; i < Readings; i++)
            best = Math.Max(best, memory ? _memory.Measure() : ArithmeticPeak.OperationsPerSecond(_loop, _pool));
        return best;
    }

    public void Dispose()
    {
        _memory.Dispose();
        _pool.Dispose();
    }
}

/// <summary>Measures engines by turns.</summary>
internal static class PeersRun
{
    // tokens that every engine computes in one step at most: scratch is touched, code compiled
    private const int WarmUpSteps = 4, WarmUpPrompt = 512;

    /// <summary>Runs every test on every engine, once uncounted and then in repetitions that visit all tests and
    /// engines, so that what slows the machine for a while slows all alike.</summary>
    /// <param name="model">The model.</param>
    /// <param name="peers">The engines, Native first.</param>
    /// <param name="tests">The tests.</param>
    /// <param name="repetitions">How often.</param>
    /// <param name="limit">Tells what the machine gives: true for bytes a second, false for operations.</param>
    /// <param name="report">Told how much of 1 is done, and what is at hand.</param>
    /// <param name="ct">Ends it.</param>
    public static async Task<List<PeersTest>> RunAsync(
        BenchModel model, IReadOnlyList<IPeer> peers, IReadOnlyList<ThroughputTest> tests, int repetitions,
        Func<bool, double> limit, Action<double, string>? report, CancellationToken ct)
    {
        List<double> memory = [], arithmetic = [];
        List<PeersTest> results =
            [.. tests.Select(test => new PeersTest(model, test, peers, test.Generate > 0 ? memory : arithmetic))];
        foreach (PeersTest result in results)
        {
            report?.Invoke(0, $"warming up {result.Name}");
            foreach (IPeer peer in peers)
                await peer.MeasureAsync(
                    result.Test with
                    {
                        Prompt = Math.Min(result.Test.Prompt, WarmUpPrompt),
                        Generate = Math.Min(result.Test.Generate, WarmUpSteps)
                    }, ct);
        }
        int done = 0;
        for (int repetition = 0; repetition < repetitions; repetition++)
        {
            foreach (PeersTest result in results)
            {
                (result.Decodes ? memory : arithmetic).Add(limit(result.Decodes));
                for (int i = 0; i < peers.Count; i++)
                {
                    int turn = (i + repetition) % peers.Count; // nobody is always the first
                    report?.Invoke((double)done++ / (repetitions * results.Count * peers.Count),
                        $"{result.Name} {peers[turn].Name}");
                    result.Add(turn, await peers[turn].MeasureAsync(result.Test, ct));
                }
            }
        }
        return results;
    }
}
