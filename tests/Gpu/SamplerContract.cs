using System.Runtime.InteropServices;
using Native.Kernels;
using Native.Kernels.Cpu;
using Native.Kernels.Sampling;

namespace Native.Tests.Gpu;

/// <summary>A GPU's sampler against the CPU's: the same tokens for every setting, log-probabilities to 1e-5, and the
/// same bits in every run.</summary>
public abstract class SamplerContract
{
    /// <summary>Samples rows of logits, each time in another order where there are several.</summary>
    /// <param name="vocabulary">Columns.</param>
    /// <param name="logits">A row for each of the next.</param>
    /// <param name="sampling">How.</param>
    /// <param name="history">Of all rows.</param>
    /// <param name="biases">Of all rows.</param>
    /// <param name="masks">Of all rows.</param>
    /// <param name="listed">Alternatives of all rows.</param>
    private protected abstract IEnumerable<(SampledToken[] Tokens, TokenLogprob[] Alternatives)> Runs(
        int vocabulary, float[] logits, RowSampling[] sampling, int[] history, TokenBias[] biases, uint[] masks,
        int listed);

    public static TheoryData<string> Settings => new(
        "greedy", "draw", "top-k 1", "top-k 5", "top-k 400", "top-p 0.9", "top-p 0.1", "min-p", "top-k and top-p",
        "everything", "penalties", "biases", "mask", "one token allowed", "equal logits", "cold", "alternatives",
        "score");

    [Theory, MemberData(nameof(Settings))]
    public void ATokenIsTheCpusToken(string setting)
    {
        foreach (int vocabulary in (int[])[37, 1000, 3001])
        {
            const int rows = 6;
            Random random = new(vocabulary);
            float[] logits = [.. Enumerable.Range(0, rows * vocabulary).Select(_ => Logit(random, setting))];
            int[] history = [.. Enumerable.Range(0, rows * 40).Select(_ => random.Next(vocabulary))];
            TokenBias[] biases = [.. Enumerable.Range(0, rows * 8).Select(i =>
                new TokenBias(random.Next(vocabulary), i % 5 == 0 ? float.NegativeInfinity : random.Next(-8, 8)))];
            int words = Batch.MaskWords(vocabulary);
            uint[] masks = [.. Enumerable.Range(0, rows * words).Select(_ => (uint)random.Next())];
            if (setting == "one token allowed") Array.Clear(masks);
            for (int i = 0; i < rows && setting == "one token allowed"; i++) masks[i * words + i % words] = 1;
            RowSampling[] sampling = [.. Enumerable.Range(0, rows).Select(i => Row(setting, i, vocabulary))];
            for (int i = 1; i < rows; i++)
                sampling[i].AlternativesStart = sampling[i - 1].AlternativesStart + sampling[i - 1].Alternatives;
            Check(setting, vocabulary, logits, sampling, history, biases, masks);
        }
    }

    [Fact]
    public void LogitsThatAreNone_GiveNoToken_AndOnlyThere()
    {
        const int vocabulary = 300, rows = 5;
        Random random = new(1);
        float[] logits = [.. Enumerable.Range(0, rows * vocabulary).Select(_ => (float)random.NextDouble())];
        logits[17] = float.NaN;
        logits[vocabulary + 5] = float.PositiveInfinity;
        logits.AsSpan(2 * vocabulary, vocabulary).Fill(float.NegativeInfinity);
        RowSampling[] sampling = [.. Enumerable.Range(0, rows).Select(i => new RowSampling
        {
            Temperature = i % 2,
            Seed = 3,
            Alternatives = 2,
            AlternativesStart = 2 * i,
        })];
        SampledToken[] tokens = Check("none", vocabulary, logits, sampling, [0], [new(0, 0)], [0]);
        Assert.Equal([-1, -1, -1], tokens[..3].Select(token => token.Token));
        Assert.All(tokens[3..], token => Assert.InRange(token.Token, 0, vocabulary - 1));
    }

    private static float Logit(Random random, string setting) => setting switch
    {
        "equal logits" => random.Next(3),
        _ => random.Next(50) == 0 ? float.NegativeInfinity : (float)(random.NextDouble() * 12 - 6),
    };

    private static RowSampling Row(string setting, int i, int vocabulary)
    {
        RowSampling row = new()
        {
            Temperature = 0.8f,
            Seed = (ulong)(i * 7919 + 5) << 20,
            Position = 100 + i,
            HistoryStart = 40 * i,
            HistoryPrompt = 15,
            BiasStart = 8 * i,
            MaskStart = i * Batch.MaskWords(vocabulary),
            Alternatives = 1,
        };
        switch (setting)
        {
            case "greedy": row.Temperature = 0; break;
            case "top-k 1": row.TopK = 1; break;
            case "top-k 5": row.TopK = 5; break;
            case "top-k 400": row.TopK = 400; break;
            case "top-p 0.9": row.TopP = 0.9f; break;
            case "top-p 0.1": row.TopP = 0.1f; break;
            case "min-p": row.MinP = 0.1f; break;
            case "top-k and top-p": (row.TopK, row.TopP) = (20, 0.7f); break;
            case "cold": row.Temperature = 1e-3f; break;
            case "equal logits": (row.TopK, row.TopP) = (i % 2 * 10, 0.5f); break;
            case "alternatives": row.Alternatives = 20; break;
            case "score": row.TargetPlusOne = 1 + i * 5; break;
            case "biases": row.BiasLength = 8; break;
            case "mask" or "one token allowed": row.Masked = true; break;
            case "penalties" or "everything":
                (row.HistoryLength, row.RepetitionPenalty) = (40, 1.3f);
                (row.PresencePenalty, row.FrequencyPenalty) = (0.5f, 0.25f);
                if (setting == "penalties") row.Temperature = i % 2;
                else (row.TopK, row.TopP, row.MinP, row.BiasLength, row.Masked) = (50, 0.95f, 0.01f, 8, true);
                break;
        }
        return row;
    }

    private SampledToken[] Check(
        string setting, int vocabulary, float[] logits, RowSampling[] sampling, int[] history, TokenBias[] biases,
        uint[] masks)
    {
        Sampler sampler = new(vocabulary);
        int listed = sampling.Max(row => row.AlternativesStart + row.Alternatives);
        TokenLogprob[] best = new TokenLogprob[listed];
        SampledToken[] expected = [.. sampling.Select((row, i) => sampler.Sample(
            logits.AsSpan(i * vocabulary, vocabulary), row, history, biases, best, masks))];
        SampledToken[]? first = null;
        foreach ((SampledToken[] tokens, TokenLogprob[] alternatives) in Runs(vocabulary, logits, sampling, history,
            biases, masks, listed))
        {
            for (int i = 0; i < tokens.Length; i++)
            {
                string where = $"{setting}, {vocabulary} tokens, row {i}";
                Assert.True(expected[i].Token == tokens[i].Token, $"{where}: {tokens[i]}, not {expected[i]}");
                Assert.Equal(expected[i].Logprob, tokens[i].Logprob, 1e-5f);
                int start = sampling[i].AlternativesStart;
                for (int j = start; j < start + sampling[i].Alternatives; j++)
                {
                    Assert.Equal(best[j].Token, alternatives[j].Token);
                    Assert.Equal(best[j].Logprob, alternatives[j].Logprob, 1e-5f);
                }
            }
            first ??= tokens;
            Assert.Equal(MemoryMarshal.AsBytes<SampledToken>(first).ToArray(),
                MemoryMarshal.AsBytes<SampledToken>(tokens).ToArray());
        }
        return first!;
    }
}
