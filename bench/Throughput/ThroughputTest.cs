using System.Diagnostics;
using System.Globalization;
using Native.Bench.Common;
using Native.Bench.Serve;

namespace Native.Bench.Throughput;

/// <summary>What is measured: B sequences with d tokens in the cache compute PP tokens of prompt each, then TG tokens
/// one by one.</summary>
/// <param name="Prompt">PP; 0 for none.</param>
/// <param name="Generate">TG; 0 for none.</param>
/// <param name="Batch">B.</param>
/// <param name="Depth">d: tokens in the cache before the clock runs.</param>
internal sealed record ThroughputTest(int Prompt, int Generate, int Batch, int Depth)
{
    /// <summary>Tokens each sequence has at the end.</summary>
    public int Length => Depth + Prompt + Generate;
}

/// <summary>One part of a test with what each repetition took: the prompt (pp) or the generated tokens (tg).</summary>
internal sealed class Phase(BenchModel model, ThroughputTest test, bool decodes)
{
    public BenchModel Model { get; } = model;

    public ThroughputTest Test { get; } = test;

    /// <summary>Whether these are the generated tokens.</summary>
    public bool Decodes { get; } = decodes;

    /// <summary>As llama-bench writes it: pp512, tg128, tg128 @ d512.</summary>
    public string Name =>
        string.Create(CultureInfo.InvariantCulture,
            $"{(Decodes ? "tg" : "pp")}{(Decodes ? Test.Generate : Test.Prompt)}{(Test.Depth > 0 ? $" @ d{Test.Depth}" : "")}");

    /// <summary>Tokens of all sequences.</summary>
    public long Tokens => (long)Test.Batch * (Decodes ? Test.Generate : Test.Prompt);

    /// <summary>Each repetition's seconds.</summary>
    public List<double> Seconds { get; } = [];

    /// <summary>Bytes a second that memory gave around each repetition; empty where nobody asked.</summary>
    public List<double> ReadBandwidths { get; } = [];

    /// <summary>Each repetition's tokens a second.</summary>
    public double[] Speeds => [.. Seconds.Select(seconds => Tokens / seconds)];

    /// <summary>Bytes of weights read a second, in each repetition: all of them once a step.</summary>
    public double[] WeightBandwidths =>
        Decodes ? [.. Seconds.Select(seconds => Model.StepWeightBytes * Test.Generate / seconds)] : [];

    /// <summary>The part of the memory's bandwidth that went into reading weights: the median of the repetitions, each
    /// against what memory gave just then. Null where nobody asked.</summary>
    public double? ShareOfBandwidth =>
        Decodes && ReadBandwidths.Count > 0
            ? Statistics.Median([.. WeightBandwidths.Zip(ReadBandwidths, (weights, read) => weights / read)]) : null;
}

/// <summary>Runs tests on models, interleaved: each repetition visits every test of every model, so that what slows the
/// machine for a while slows all alike.</summary>
internal static class ThroughputRun
{
    private const int WarmUpSteps = 16;

    /// <summary>Runs them.</summary>
    /// <param name="models">The models.</param>
    /// <param name="tests">What each of them does.</param>
    /// <param name="repetitions">How often, after one run that is not counted.</param>
    /// <param name="bandwidth">Measured before and after each decode; null for not at all.</param>
    /// <param name="report">Told how much of 1 is done, and what is at hand.</param>
    /// <param name="ct">Ends it at the next step.</param>
    /// <returns>The phases of each model's tests, in their order.</returns>
    public static List<Phase> Run(IReadOnlyList<BenchModel> models, IReadOnlyList<ThroughputTest> tests,
        int repetitions, MemoryBandwidth? bandwidth, Action<double, string>? report, CancellationToken ct)
    {
        int sequences = tests.Max(test => test.Batch), deepest = tests.Max(test => test.Depth);
        List<(StepDriver Driver, ThroughputTest Test, Phase? Prompt, Phase? Generate)> work = [];
        foreach (BenchModel model in models)
        {
            StepDriver driver = new(model.Runner, sequences, tests.Max(test => test.Length));
            report?.Invoke(0, $"{model.Type} warming up");
            // Every place up to the deepest is computed once; what later runs write over it is as good.
            driver.Prefill(sequences, 0, deepest, ct);
            foreach (ThroughputTest test in tests)
            {
                driver.Prefill(test.Batch, test.Depth, test.Prompt, ct);
                driver.Decode(test.Batch, test.Depth + test.Prompt, Math.Min(test.Generate, WarmUpSteps), ct);
                work.Add((driver, test, test.Prompt > 0 ? new Phase(model, test, decodes: false) : null,
                    test.Generate > 0 ? new Phase(model, test, decodes: true) : null));
            }
        }
        bandwidth?.Measure();

        int done = 0;
        for (int repetition = 0; repetition < repetitions; repetition++)
        {
            foreach ((StepDriver driver, ThroughputTest test, Phase? prompt, Phase? generate) in work)
            {
                Phase named = prompt ?? generate!;
                report?.Invoke((double)done++ / (repetitions * work.Count), $"{named.Model.Type} {named.Name}");
                prompt?.Seconds.Add(Time(() => driver.Prefill(test.Batch, test.Depth, test.Prompt, ct)));
                if (generate is null) continue;
                double before = bandwidth?.Measure() ?? 0;
                generate.Seconds.Add(
                    Time(() => driver.Decode(test.Batch, test.Depth + test.Prompt, test.Generate, ct)));
                if (bandwidth is not null) generate.ReadBandwidths.Add((before + bandwidth.Measure()) / 2);
            }
        }
        return [.. work.SelectMany(item => new[] { item.Prompt, item.Generate }).OfType<Phase>()];
    }

    private static double Time(Action work)
    {
        long started = Stopwatch.GetTimestamp();
        work();
        return Stopwatch.GetElapsedTime(started).TotalSeconds;
    }
}
