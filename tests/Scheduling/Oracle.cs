using Native.Kernels;
using Native.Kernels.Sampling;
using Native.Scheduling;

namespace Native.Tests.Scheduling;

/// <summary>What the <see cref="FakeModelRunner"/> must answer, as a function of prompt and parameters alone.</summary>
internal static class Oracle
{
    public sealed record Choice(int[] Tokens, float[] Logprobs, FinishReason Finish);

    /// <summary>One choice from start to end, without blocks, batches or chunks.</summary>
    public static Choice Generate(ReadOnlySpan<int> prompt, SamplingParams p, int index, int limit, ITokenConstraint? constraint = null)
    {
        List<int> known = [.. prompt];
        List<float> logprobs = [];
        int output() => logprobs.Count;
        FinishReason finish = FinishReason.Length;
        ulong context = Hash.Seed;
        foreach (int token in known) context = Hash.Mix(context, (ulong)token);
        while (output() < limit)
        {
            List<TokenBias> biases = [.. p.LogitBias];
            if (output() < p.MinTokens)
            {
                biases.Add(new TokenBias(FakeModelRunner.EndId, float.NegativeInfinity));
                foreach (int id in p.StopTokenIds) biases.Add(new TokenBias(id, float.NegativeInfinity));
            }
            bool penalties = p.RepetitionPenalty != 1 || p.PresencePenalty != 0 || p.FrequencyPenalty != 0;
            RowSampling row = new()
            {
                Temperature = p.Temperature,
                TopK = p.TopK,
                TopP = p.TopP,
                MinP = p.MinP,
                RepetitionPenalty = p.RepetitionPenalty,
                PresencePenalty = p.PresencePenalty,
                FrequencyPenalty = p.FrequencyPenalty,
                Seed = Sequence.SeedOf(p.Seed!.Value, index),
                Position = known.Count,
                HistoryPrompt = prompt.Length,
            };
            uint[] mask = constraint is null ? [] : new uint[Batch.MaskWords(FakeModelRunner.Vocabulary)];
            constraint?.Fill(mask);
            SampledToken next = Next(context, row, penalties ? known.ToArray() : [], biases.ToArray(), mask);
            constraint?.Accept(next.Token);
            known.Add(next.Token);
            logprobs.Add(next.Logprob);
            context = Hash.Mix(context, (ulong)next.Token);
            if ((!p.IgnoreEos && next.Token == FakeModelRunner.EndId) || p.StopTokenIds.Contains(next.Token))
            {
                finish = FinishReason.Stop;
                break;
            }
        }
        return new Choice([.. known[prompt.Length..]], [.. logprobs], finish);
    }

    public static float[] PromptLogprobs(ReadOnlySpan<int> prompt)
    {
        float[] scores = new float[prompt.Length - 1];
        ulong context = Hash.Seed;
        for (int i = 0; i + 1 < prompt.Length; i++)
        {
            context = Hash.Mix(context, (ulong)prompt[i]);
            scores[i] = Score(context, prompt[i + 1]);
        }
        return scores;
    }

    public static SampledToken Next(
        ulong context, in RowSampling row, ReadOnlySpan<int> history, ReadOnlySpan<TokenBias> biases, ReadOnlySpan<uint> mask = default)
    {
        ulong key = context;
        if (row.Temperature > 0)
        {
            key = Hash.Mix(key, BitConverter.SingleToUInt32Bits(row.Temperature));
            key = Hash.Mix(key, (ulong)row.TopK);
            key = Hash.Mix(key, BitConverter.SingleToUInt32Bits(row.TopP));
            key = Hash.Mix(key, BitConverter.SingleToUInt32Bits(row.MinP));
            key = Hash.Mix(key, row.Seed);
            key = Hash.Mix(key, (ulong)row.Position);
        }
        if (history.Length > 0)
        {
            key = Hash.Mix(key, BitConverter.SingleToUInt32Bits(row.RepetitionPenalty));
            key = Hash.Mix(key, BitConverter.SingleToUInt32Bits(row.PresencePenalty));
            key = Hash.Mix(key, BitConverter.SingleToUInt32Bits(row.FrequencyPenalty));
            key = Hash.Mix(key, (ulong)row.HistoryPrompt);
            foreach (int token in history) key = Hash.Mix(key, (ulong)token);
        }
        foreach (TokenBias bias in biases)
            if (float.IsFinite(bias.Bias)) key = Hash.Mix(Hash.Mix(key, (ulong)bias.Token), BitConverter.SingleToUInt32Bits(bias.Bias));
        int chosen = (int)(key % FakeModelRunner.PoisonToken);
        while (Forbidden(chosen, biases) || Forbidden(chosen, mask)) chosen = (chosen + 1) % FakeModelRunner.PoisonToken;
        return new SampledToken(chosen, -(float)(key >> 20 & 1023) / 1024);
    }

    public static float Score(ulong context, int target) => -(float)(Hash.Mix(context, (ulong)target) & 1023) / 1024;

    public static TokenLogprob Alternative(SampledToken token, int rank) => new((token.Token + rank) % FakeModelRunner.Vocabulary, token.Logprob - rank);

    private static bool Forbidden(int token, ReadOnlySpan<uint> mask) => !mask.IsEmpty && (mask[token / 32] >> token % 32 & 1) == 0;

    private static bool Forbidden(int token, ReadOnlySpan<TokenBias> biases)
    {
        foreach (TokenBias bias in biases)
            if (bias.Token == token && float.IsNegativeInfinity(bias.Bias)) return true;
        return false;
    }
}
