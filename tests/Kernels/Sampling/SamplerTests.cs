using System.Runtime.Intrinsics;
using Native.Kernels;
using Native.Kernels.Cpu;
using Native.Kernels.Sampling;
using Native.Tests.Kernels.Cpu;

namespace Native.Tests.Kernels.Sampling;

public sealed unsafe class SamplerTests
{
    public static TheoryData<int> Vocabularies() => [1, 2, 7, 8, 63, 64, 65, 127, 128, 129, 1000, 4096, 5003, 32003];

    [Theory, MemberData(nameof(Vocabularies))]
    public void Greedy_TakesTheHighestLogit_AndReportsItsRawLogprob(int vocabulary)
    {
        using GuardedMemory<float> logits = Logits(vocabulary, 1, 5);
        int expected = logits.Span.IndexOf(logits.Span.ToArray().Max());
        foreach (int width in Widths.All)
        {
            SampledToken token = Sample(width, new Sampler(vocabulary), logits, default);
            Assert.Equal(expected, token.Token);
            Assert.Equal(LogSoftmax(logits.Span)[expected], token.Logprob, 2e-6);
        }
    }

    [Theory, MemberData(nameof(Vocabularies))]
    public void Greedy_TakesTheLowestId_AmongEquals(int vocabulary)
    {
        using var logits = new GuardedMemory<float>(vocabulary);
        logits.Span.Fill(-0f);
        int first = vocabulary / 3;
        logits.Span[..first].Fill(-1);
        for (int i = first + 1; i < vocabulary; i += 2) logits.Span[i] = 0; // equal to -0
        Assert.Equal(first, new Sampler(vocabulary).Sample(logits.Span, default, default, default, default).Token);
    }

    [Theory, MemberData(nameof(Vocabularies))]
    public void Alternatives_AreTheBest_BestFirst_AndLowestIdFirstAmongEquals(int vocabulary)
    {
        using GuardedMemory<float> logits = Logits(vocabulary, 2, 3);
        for (int i = 0; i < vocabulary; i++) logits.Span[i] = MathF.Round(logits.Span[i]); // many equals
        double[] logprobs = LogSoftmax(logits.Span);
        int[] ranking = Ranking(logits.Span.ToArray());
        foreach (int k in new[] { 1, 5, 20 })
        {
            var alternatives = new TokenLogprob[k + 3];
            var row = new RowSampling { Alternatives = k, AlternativesStart = 2 };
            new Sampler(vocabulary).Sample(logits.Span, row, default, default, alternatives);
            Assert.Equal(default, alternatives[1]);
            Assert.Equal(default, alternatives[k + 2]);
            for (int i = 0; i < k; i++)
            {
                if (i >= vocabulary)
                {
                    Assert.Equal(new TokenLogprob(-1, float.NegativeInfinity), alternatives[2 + i]);
                    continue;
                }
                Assert.Equal(ranking[i], alternatives[2 + i].Token);
                Assert.Equal(logprobs[ranking[i]], alternatives[2 + i].Logprob, 2e-6);
            }
        }
    }

    [Fact]
    public void Scoring_ReportsTheTarget_WithAlternatives()
    {
        using GuardedMemory<float> logits = Logits(1000, 3, 4);
        var alternatives = new TokenLogprob[2];
        var row = new RowSampling { TargetPlusOne = 78, Temperature = 1, Alternatives = 2 };
        SampledToken token = new Sampler(1000).Sample(logits.Span, row, default, default, alternatives);
        Assert.Equal(77, token.Token);
        Assert.Equal(LogSoftmax(logits.Span)[77], token.Logprob, 2e-6);
        Assert.Equal(Ranking(logits.Span.ToArray())[..2], alternatives.Select(best => best.Token));
    }

    [Fact]
    public void Logprobs_HoldForHugeLogits()
    {
        float[] logits = [1e30f, -1e30f, 3, float.NegativeInfinity];
        SampledToken token = new Sampler(4).Sample(logits, default, default, default, default);
        Assert.Equal(new SampledToken(0, 0), token);
        var scored = new RowSampling { TargetPlusOne = 4 };
        Assert.Equal(new SampledToken(3, float.NegativeInfinity), new Sampler(4).Sample(logits, scored, default, default, default));
        scored.TargetPlusOne = 2;
        Assert.Equal(-2e30f, new Sampler(4).Sample(logits, scored, default, default, default).Logprob);
    }

    [Fact]
    public void BadLogits_FailTheRow_AndNoOther()
    {
        var sampler = new Sampler(100);
        var alternatives = new TokenLogprob[3];
        foreach (float bad in new[] { float.NaN, float.PositiveInfinity })
        {
            for (int at = 0; at < 100; at += 33)
            {
                float[] logits = new float[100];
                logits[at] = bad;
                foreach (float temperature in new[] { 0f, 1f })
                {
                    var row = new RowSampling { Temperature = temperature, Alternatives = 3, TopP = 0.5f };
                    SampledToken token = sampler.Sample(logits, row, default, default, alternatives);
                    Assert.Equal(-1, token.Token);
                    Assert.True(float.IsNaN(token.Logprob));
                    Assert.All(alternatives, best => Assert.Equal(-1, best.Token));
                }
            }
        }
        float[] forbidden = new float[100];
        Array.Fill(forbidden, float.NegativeInfinity);
        Assert.Equal(-1, sampler.Sample(forbidden, default, default, default, default).Token);
        forbidden[41] = -5;
        Assert.Equal(new SampledToken(41, 0), sampler.Sample(forbidden, new RowSampling { Temperature = 2 }, default, default, default));
    }

    [Fact]
    public void Biases_Forbid_AndForce()
    {
        float[] logits = [1, 2, 3, 0];
        TokenBias[] biases = [new(9, 1), new(2, float.NegativeInfinity), new(3, 100), new(0, float.NegativeInfinity), new(1, float.NegativeInfinity), new(3, float.NegativeInfinity)];
        var sampler = new Sampler(4);
        double[] raw = LogSoftmax(logits);
        foreach (float temperature in new[] { 0f, 1f })
        {
            var row = new RowSampling { Temperature = temperature, BiasStart = 1, BiasLength = 2 };
            SampledToken token = sampler.Sample(logits, row, default, biases, default);
            Assert.Equal(3, token.Token);
            Assert.Equal(raw[3], token.Logprob, 1e-6); // of the raw logits
            row.BiasLength = 5;
            Assert.Equal(-1, sampler.Sample(logits, row, default, biases, default).Token); // nothing is left
        }
        Assert.Throws<IndexOutOfRangeException>(() => sampler.Sample(logits, new RowSampling { BiasLength = 1 }, default, biases, default));
    }

    [Fact]
    public void Penalties_AreThoseOfTheirDefinitions()
    {
        const int Vocabulary = 200;
        var random = new Random(5);
        var sampler = new Sampler(Vocabulary);
        for (int round = 0; round < 300; round++)
        {
            using GuardedMemory<float> logits = Logits(Vocabulary, round, 2);
            int[] history = [.. Enumerable.Range(0, 60).Select(_ => random.Next(Vocabulary))];
            TokenBias[] biases = [new(random.Next(Vocabulary), 2), new(random.Next(Vocabulary), -2)];
            var row = new RowSampling
            {
                RepetitionPenalty = round % 3 == 0 ? 0 : 1.5f,
                PresencePenalty = round % 2 * 0.7f,
                FrequencyPenalty = round % 5 * 0.4f,
                HistoryStart = 10,
                HistoryPrompt = 20,
                HistoryLength = 45,
                BiasLength = 2,
            };
            float[] expected = logits.Span.ToArray();
            int[] seen = history[10..55], output = history[30..55];
            foreach (int token in seen.Distinct())
            {
                float penalty = row.RepetitionPenalty == 0 ? 1 : row.RepetitionPenalty;
                expected[token] = expected[token] > 0 ? expected[token] / penalty : expected[token] * penalty;
                int count = output.Count(other => other == token);
                if (count > 0) expected[token] = expected[token] - (count * row.FrequencyPenalty) - row.PresencePenalty;
            }
            foreach (TokenBias bias in biases) expected[bias.Token] += bias.Bias;

            SampledToken chosen = sampler.Sample(logits.Span, row, history, biases, default);
            Assert.Equal(Ranking(expected)[0], chosen.Token);
            Assert.Equal(LogSoftmax(logits.Span)[chosen.Token], chosen.Logprob, 2e-6);

            // The same choice as from logits that have them already.
            row.Temperature = 0.8f;
            row.Position = round;
            row.TopK = 50;
            var plain = new RowSampling { Temperature = 0.8f, Position = round, TopK = 50 };
            Assert.Equal(sampler.Sample(expected, plain, default, default, default).Token, sampler.Sample(logits.Span, row, history, biases, default).Token);
        }
    }

    [Fact]
    public void ABadHistory_IsRefused_AndLeavesNothingBehind()
    {
        var sampler = new Sampler(4);
        float[] logits = [4, 3, 2, 1];
        var row = new RowSampling { FrequencyPenalty = 2, HistoryLength = 3 };
        Assert.Throws<IndexOutOfRangeException>(() => sampler.Sample(logits, row, [0, 0, 4], default, default));
        row.HistoryLength = 1;
        Assert.Equal(1, sampler.Sample(logits, row, [0], default, default).Token); // 4 - 2 against 3
        row.FrequencyPenalty = 0.6f;
        Assert.Equal(0, sampler.Sample(logits, row, [0], default, default).Token);
    }

    public static TheoryData<int, int, float, float, float> Filters()
    {
        var data = new TheoryData<int, int, float, float, float>();
        foreach (int vocabulary in new[] { 3, 64, 100, 5003 })
        {
            foreach (float temperature in new[] { 0.3f, 1, 5 })
            {
                foreach ((int topK, float topP, float minP) in new[]
                {
                    (0, 0f, 0f), (0, 1f, 0f), (1, 1f, 0f), (2, 1f, 0f), (40, 1f, 0f), (78, 1f, 0f), (90, 0.9f, 0f), (4000, 0.5f, 0f), (100_000, 1f, 0f),
                    (0, 0.9f, 0f), (0, 0.3f, 0f), (0, 0.001f, 0f), (0, 0.9999f, 0f), (0, 1f, 0.1f), (0, 1f, 1f), (50, 0.9f, 0.05f), (0, 0.9f, 0.02f),
                })
                    data.Add(vocabulary, topK, topP, minP, temperature);
            }
        }
        return data;
    }

    /// <summary>Over many positions, a draw is where the uniform number falls among the kept tokens in the order of
    /// their ids.</summary>
    [Theory, MemberData(nameof(Filters))]
    public void Draws_AreThoseOfTheDefinition(int vocabulary, int topK, float topP, float minP, float temperature)
    {
        foreach (bool equals in new[] { false, true })
        {
            using GuardedMemory<float> logits = Logits(vocabulary, 11, 3);
            if (equals)
            {
                for (int i = 0; i < vocabulary; i++) logits.Span[i] = MathF.Round(logits.Span[i]);
            }
            double[] weights = Kept(logits.Span.ToArray(), topK, topP, minP, temperature);
            double total = weights.Sum();
            var sampler = new Sampler(vocabulary);
            for (int position = 0; position < 40; position++)
            {
                var row = new RowSampling { Temperature = temperature, TopK = topK, TopP = topP, MinP = minP, Seed = 99, Position = position };
                double target = Philox.Uniform(99, position) * total;
                foreach (int width in Widths.All)
                {
                    int token = Sample(width, sampler, logits, row).Token;
                    Assert.True(weights[token] > 0, $"token {token} was to be left out");
                    // The sum before the token and the sum with it enclose the target, but for the rounding of floats.
                    double before = weights.AsSpan(0, token).ToArray().Sum();
                    Assert.InRange(target, before - (1e-5 * total), before + weights[token] + (1e-5 * total));
                }
            }
        }
    }

    [Fact]
    public void Draws_FollowTheSoftmax()
    {
        const int Draws = 200_000;
        float[] logits = [2, 1, 0, -1, float.NegativeInfinity, 1.5f, 0.5f, -0.5f];
        double[] expected = [.. LogSoftmax([.. logits.Select(x => x / 1.3f)]).Select(Math.Exp)];
        int[] counts = new int[logits.Length];
        var sampler = new Sampler(logits.Length);
        for (int i = 0; i < Draws; i++)
            counts[sampler.Sample(logits, new RowSampling { Temperature = 1.3f, Seed = 12345, Position = i }, default, default, default).Token]++;
        Assert.Equal(0, counts[4]);
        double chiSquare = 0;
        for (int i = 0; i < logits.Length; i++)
        {
            if (expected[i] > 0) chiSquare += Math.Pow(counts[i] - (expected[i] * Draws), 2) / (expected[i] * Draws);
        }
        Assert.InRange(chiSquare, 0, 22.5); // 6 degrees of freedom: above this with probability 0.001
    }

    [Theory, InlineData(1e-45f), InlineData(1e-6f), InlineData(1e6f), InlineData(3e38f)]
    public void ExtremeTemperatures_AreLegal(float temperature)
    {
        using GuardedMemory<float> logits = Logits(1000, 8, 10);
        logits.Span[3] = float.NegativeInfinity;
        int best = Ranking(logits.Span.ToArray())[0];
        var sampler = new Sampler(1000);
        var chosen = new HashSet<int>();
        foreach ((int topK, float topP, float minP) in new[] { (0, 1f, 0f), (10, 1f, 0f), (0, 0.9f, 0f), (10, 0.5f, 0.1f), (0, 0.5f, 0.2f) })
        {
            for (int position = 0; position < 100; position++)
            {
                var row = new RowSampling { Temperature = temperature, TopK = topK, TopP = topP, MinP = minP, Position = position };
                SampledToken token = sampler.Sample(logits.Span, row, default, default, default);
                Assert.InRange(token.Token, 0, 999);
                Assert.NotEqual(3, token.Token);
                Assert.True(float.IsFinite(token.Logprob));
                if (topK == 0 && topP == 1) chosen.Add(token.Token);
            }
        }
        if (temperature < 1) Assert.Equal([best], chosen);
        else Assert.InRange(chosen.Count, 80, 100); // nearly uniform
    }

    [Fact]
    public void ADraw_DependsOnSeedAndPositionAlone()
    {
        using GuardedMemory<float> logits = Logits(3000, 21, 2), others = Logits(3000, 22, 2);
        var sampler = new Sampler(3000);
        var row = new RowSampling { Temperature = 1, TopP = 0.95f, Seed = 5, Position = 9 };
        SampledToken first = sampler.Sample(logits.Span, row, default, default, default);
        sampler.Sample(others.Span, new RowSampling { FrequencyPenalty = 1, HistoryLength = 2, Temperature = 1, TopK = 7 }, [1, 2], default, default);
        Assert.Equal(first, sampler.Sample(logits.Span, row, default, default, default));
        Assert.Equal(first, new Sampler(3000).Sample(logits.Span, row, default, default, default));
        Assert.True(Enumerable.Range(0, 50).Select(position => sampler.Sample(logits.Span, row with { Position = position }, default, default, default).Token).Distinct().Count() > 25);
        Assert.True(Enumerable.Range(0, 50).Select(seed => sampler.Sample(logits.Span, row with { Seed = (ulong)seed }, default, default, default).Token).Distinct().Count() > 25);
    }

    [Fact]
    public void Nothing_IsAllocated()
    {
        float[] logits = new float[5000];
        for (int i = 0; i < logits.Length; i++) logits[i] = MathF.Sin(i) * 9;
        int[] history = [1, 2, 3];
        TokenBias[] biases = [new(4, 1)];
        var alternatives = new TokenLogprob[20];
        var sampler = new Sampler(5000);
        Assert.Equal(0, Allocations.Of(Run));

        void Run()
        {
            sampler.Sample(logits, default, history, biases, alternatives);
            sampler.Sample(logits, new RowSampling { Temperature = 1, TopK = 50, TopP = 0.9f, MinP = 0.01f, Alternatives = 20 }, history, biases, alternatives);
            sampler.Sample(logits, new RowSampling { Temperature = 1, TopP = 0.9f, RepetitionPenalty = 1.2f, HistoryLength = 3, BiasLength = 1 }, history, biases, alternatives);
        }
    }

    [Fact]
    public void ARowOfAnotherVocabulary_IsRefused() =>
        Assert.Throws<ArgumentException>(() => new Sampler(10).Sample(new float[9], default, default, default, default));

    private static SampledToken Sample(int width, Sampler sampler, GuardedMemory<float> logits, RowSampling row) => width switch
    {
        0 => sampler.Sample(logits.Span, row, default, default, default),
        128 => sampler.Sample<Simd128, Vector128<float>>(logits.Pointer, row, default, default, default),
        256 => sampler.Sample<Simd256, Vector256<float>>(logits.Pointer, row, default, default, default),
        _ => sampler.Sample<Simd512, Vector512<float>>(logits.Pointer, row, default, default, default),
    };

    private static GuardedMemory<float> Logits(int vocabulary, int seed, double scale)
    {
        var memory = new GuardedMemory<float>(vocabulary);
        var random = new Random(seed);
        for (int i = 0; i < vocabulary; i++)
            memory.Span[i] = (float)(scale * Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble()));
        return memory;
    }

    private static int[] Ranking(float[] logits) => [.. Enumerable.Range(0, logits.Length).OrderByDescending(i => logits[i]).ThenBy(i => i)];

    private static double[] LogSoftmax(ReadOnlySpan<float> logits)
    {
        double max = double.NegativeInfinity, sum = 0;
        foreach (float x in logits) max = Math.Max(max, x);
        foreach (float x in logits) sum += Math.Exp(x - max);
        var result = new double[logits.Length];
        for (int i = 0; i < result.Length; i++) result[i] = logits[i] - max - Math.Log(sum);
        return result;
    }

    // By sorting everything: what min-p, top-k and top-p leave, with weights relative to the best.
    private static double[] Kept(float[] logits, int topK, float topP, float minP, float temperature)
    {
        int[] ranking = Ranking(logits);
        double[] weights = [.. logits.Select(x => Math.Exp((x - logits[ranking[0]]) / temperature))];
        List<int> kept = [.. ranking.Where(i => weights[i] >= minP)];
        if (topK > 0) kept = [.. kept.Take(topK)];
        if (topP is > 0 and < 1)
        {
            double total = kept.Sum(i => weights[i]), sum = 0;
            kept = [.. kept.TakeWhile(i =>
            {
                bool before = sum < topP * total;
                sum += weights[i];
                return before;
            })];
        }
        var set = kept.ToHashSet();
        for (int i = 0; i < weights.Length; i++)
        {
            if (!set.Contains(i)) weights[i] = 0;
        }
        return weights;
    }

    [Theory, InlineData(0f), InlineData(0.8f)]
    public void AMask_LeavesItsTokensAlone_AndForbidsAllOthers(float temperature)
    {
        const int Vocabulary = 301;
        Sampler sampler = new(Vocabulary);
        Random random = new(7);
        float[] logits = [.. Enumerable.Range(0, Vocabulary).Select(_ => random.NextSingle() * 8)];
        uint[] masks = new uint[3 + Batch.MaskWords(Vocabulary)];
        HashSet<int> seen = [];
        for (int position = 0; position < 200; position++)
        {
            Array.Clear(masks);
            int[] allowed = [random.Next(Vocabulary), random.Next(Vocabulary), Vocabulary - 1];
            foreach (int token in allowed) masks[3 + (token / 32)] |= 1u << (token % 32);
            RowSampling row = new() { Temperature = temperature, Seed = 5, Position = position, Masked = true, MaskStart = 3 };
            SampledToken masked = sampler.Sample(logits, row, [], [], [], masks);
            Assert.Contains(masked.Token, allowed);
            seen.Add(masked.Token);
            if (temperature == 0) Assert.Equal(allowed.Max(token => logits[token]), logits[masked.Token]);
            // The log-probability is the raw logits', as without a mask.
            SampledToken scored = sampler.Sample(logits, new RowSampling { TargetPlusOne = masked.Token + 1 }, [], [], []);
            Assert.Equal(scored.Logprob, masked.Logprob);
            Array.Fill(masks, uint.MaxValue);
            Assert.Equal(sampler.Sample(logits, row with { Masked = false }, [], [], []), sampler.Sample(logits, row, [], [], [], masks));
        }
        Assert.True(seen.Count > 20, "many tokens were allowed");
        Array.Clear(masks);
        Assert.Equal(-1, sampler.Sample(logits, new RowSampling { Masked = true }, [], [], [], masks).Token);
    }
}
