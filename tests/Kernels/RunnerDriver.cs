using Native.Kernels;
using Native.Kernels.Sampling;

namespace Native.Tests.Kernels;

/// <summary>Drives an <see cref="IModelRunner"/> without a scheduler: sequences in fixed, deliberately scattered
/// blocks, in chunks of a chosen size.</summary>
internal static class RunnerDriver
{
    /// <summary>What a sequence gave.</summary>
    /// <param name="Logprobs">Of each id after the first, as scored.</param>
    /// <param name="LastTop">The best 20 after the last id given.</param>
    /// <param name="Output">Greedy continuation.</param>
    /// <param name="OutputLogprobs">Theirs.</param>
    public sealed record Result(float[] Logprobs, TokenLogprob[] LastTop, int[] Output, float[] OutputLogprobs);

    /// <summary>Runs sequences together, each step taking at most <paramref name="chunk"/> tokens of each.</summary>
    public static Result[] Run(IModelRunner runner, int[][] prompts, int outputs, int chunk)
    {
        int blockSize = runner.Info.BlockSize, count = prompts.Length;
        int[] need = [.. prompts.Select(p => (p.Length + outputs + blockSize - 1) / blockSize)];
        int stride = need.Max();
        Assert.True(need.Sum() <= runner.Info.BlockCount, "the test's sequences do not fit the cache");
        // Blocks are dealt round and from the far end, so that neighbours in a sequence aren't neighbours in memory.
        int next = runner.Info.BlockCount;
        int[][] blocks = [.. need.Select(n => new int[n])];
        for (int i = 0; i < stride; i++)
            for (int s = 0; s < count; s++)
                if (i < need[s]) blocks[s][i] = --next;

        List<int>[] ids = [.. prompts.Select(p => p.ToList())];
        int[] computed = new int[count];
        List<float>[] logprobs = [.. prompts.Select(_ => new List<float>())];
        List<float>[] outLogprobs = [.. prompts.Select(_ => new List<float>())];
        var top = new TokenLogprob[count][];
        BatchBuffers buffers = new(runner.Info);
        while (true)
        {
            buffers.Begin();
            List<int> owners = [];
            List<RowSampling> sampling = [];
            for (int s = 0; s < count; s++)
            {
                int wanted = prompts[s].Length + Math.Max(outputs - 1, 0);
                int take = Math.Min(Math.Min(chunk, ids[s].Count - computed[s]), runner.Info.MaxBatchedTokens - buffers.Tokens);
                if (computed[s] >= wanted || take <= 0) continue;
                int first = buffers.AddSequence([.. ids[s].Skip(computed[s]).Take(take)], computed[s], blocks[s], place: s);
                for (int i = 0; i < take; i++)
                {
                    int p = computed[s] + i;
                    bool known = p + 1 < prompts[s].Length;
                    bool last = p + 1 == prompts[s].Length;
                    sampling.Add(new RowSampling { TargetPlusOne = known ? prompts[s][p + 1] + 1 : 0, Alternatives = last ? 20 : 0, Position = p + 1 });
                    buffers.AddSample(first + i, sampling[^1]);
                    owners.Add(s);
                }
                computed[s] += take;
            }
            if (buffers.Tokens == 0) break;
            runner.Launch(buffers.Batch);
            SampledToken[] sampled = new SampledToken[buffers.Rows];
            TokenLogprob[] best = new TokenLogprob[buffers.AlternativeCount];
            runner.Collect(sampled, best);
            int alternative = 0;
            for (int r = 0; r < sampled.Length; alternative += sampling[r++].Alternatives)
            {
                int s = owners[r];
                if (sampling[r].Scores) logprobs[s].Add(sampled[r].Logprob);
                else
                {
                    if (sampling[r].Alternatives > 0) top[s] = best[alternative..(alternative + 20)];
                    ids[s].Add(sampled[r].Token);
                    outLogprobs[s].Add(sampled[r].Logprob);
                }
            }
        }
        return [.. Enumerable.Range(0, count).Select(s => new Result([.. logprobs[s]], top[s], [.. ids[s].Skip(prompts[s].Length).Take(outputs)], [.. outLogprobs[s].Take(outputs)]))];
    }
}
