using BenchmarkDotNet.Attributes;
using Native.Kernels.Cpu;
using Native.Kernels.Sampling;

namespace Native.Bench.Kernels;

/// <summary>Choosing one token.</summary>
/// <param name="Name">greedy, or what is cut away.</param>
/// <param name="Vocabulary">Logits.</param>
/// <param name="TopK">0 for none.</param>
/// <param name="TopP">1 for none.</param>
public sealed record SamplerWorkload(string Name, int Vocabulary, int TopK, float TopP) : Workload
{
    /// <summary>Whether the best token is taken.</summary>
    public bool Greedy => Name == "greedy";

    /// <summary>The logits.</summary>
    public override double Bytes => (double)Vocabulary * sizeof(float);

    /// <summary>A comparison, an exponential and a sum each, the exponential counted as one.</summary>
    public override double Operations => 3.0 * Vocabulary;

    /// <inheritdoc/>
    public override string ToString() => $"{Name}, {Vocabulary} logits";
}

/// <summary>The sampler on one thread.</summary>
public class SamplerBenchmarks
{
    private Sampler _sampler = null!;
    private float[] _logits = [];
    private RowSampling _row;

    /// <summary>What is chosen from.</summary>
    [ParamsSource(nameof(Cases))]
    public SamplerWorkload Case { get; set; } = null!;

    /// <summary>Common settings on a large vocabulary.</summary>
    public static IEnumerable<SamplerWorkload> Cases =>
        [new("greedy", 128_256, 0, 1), new("top-k 40", 128_256, 40, 1), new("top-p 0.95", 128_256, 0, 0.95f)];

    /// <summary>Sorts everything.</summary>
    [Benchmark]
    public SampledToken Definition()
    {
        float best = _logits.Max();
        double sum = 0;
        foreach (float logit in _logits) sum += Math.Exp(logit - best);
        double logSum = best + Math.Log(sum);
        int[] ids = [.. Enumerable.Range(0, _logits.Length)];
        if (Case.Greedy) return new SampledToken(Array.IndexOf(_logits, best), (float)(best - logSum));
        Array.Sort([.. _logits.Select(logit => -logit)], ids);
        int kept = Case.TopK > 0 ? Case.TopK : ids.Length;
        double mass = 0;
        for (int i = 0; i < kept; i++)
        {
            mass += Math.Exp(_logits[ids[i]] - best);
            if (Case.TopP < 1 && mass >= Case.TopP * sum) kept = i + 1;
        }
        Array.Sort(ids, 0, kept); // the draw goes by ids
        double left = Philox.Uniform(_row.Seed, _row.Position) * mass;
        int drawn = 0;
        while (drawn < kept - 1 && (left -= Math.Exp(_logits[ids[drawn]] - best)) > 0) drawn++;
        return new SampledToken(ids[drawn], (float)(_logits[ids[drawn]] - logSum));
    }

    /// <summary>What this processor runs.</summary>
    [Benchmark]
    public SampledToken Fastest() => _sampler.Sample(_logits, _row, [], [], []);

    /// <summary>Draws logits as a model gives them: a few large ones.</summary>
    [GlobalSetup]
    public void SetUp()
    {
        Random random = new(4);
        _logits = [.. Enumerable.Range(0, Case.Vocabulary)
            .Select(_ => (float)(-2 * Math.Log(1 - random.NextDouble())))];
        _sampler = new Sampler(Case.Vocabulary);
        _row = new RowSampling
        {
            Temperature = Case.Greedy ? 0 : 1,
            TopK = Case.TopK,
            TopP = Case.TopP,
            Seed = 5,
            Position = 6,
        };
    }
}
