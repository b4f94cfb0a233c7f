using System.Diagnostics;
using Native.Kernels;

namespace Native.Scheduling;

/// <summary>Gives sequences the blocks of others that began alike, and remembers theirs. The engine thread's
/// alone.</summary>
/// <remarks>A sequence always computes at least one token, because its row gives the next one; tokens whose scores were
/// asked for are computed too. Two sequences that compute the same block end up with one of the two: their bits are the
/// same.</remarks>
internal sealed class Prefixes(BlockPool pool, PrefixCache cache, int blockSize)
{
    private readonly int[] _scratch = new int[blockSize];

    /// <summary>Gives a sequence without blocks those that the cache has for its first tokens. A block that is not
    /// taken as a whole is copied.</summary>
    /// <returns>Tokens that need not be computed.</returns>
    public int Take(Sequence s, StepPlan plan)
    {
        int most = MostTaken(s), parent = -1;
        while (Next(s, most, parent, s.BlockCount) is >= 0 and var found)
        {
            pool.Share(found);
            s.AddBlock(found);
            parent = found;
        }
        int full = s.CachedBlocks = s.BlockCount, taken = full * blockSize, part = 0;
        int source = most <= taken ? -1
            : cache.FindPart(s.Stream.CacheRoot, parent, Tokens(s, taken, Math.Min(blockSize, most - taken)), out part);
        if (source >= 0)
        {
            pool.Touch(source); // taken itself only where nothing else is left
            bool allocated = pool.TryAllocate(out int own);
            Debug.Assert(allocated, "as many were counted");
            s.AddBlock(own);
            if (own != source) plan.Add(new BlockCopy(source, own));
        }
        return s.NumComputedTokens = s.Landed = taken + part;
    }

    /// <summary>Blocks of running sequences that <see cref="Take"/> would share: they need no free ones.</summary>
    public int CountShared(Sequence s)
    {
        int most = MostTaken(s), parent = -1, shared = 0, index = 0;
        for (; Next(s, most, parent, index) is >= 0 and var found; parent = found, index++)
            if (pool.References(found) > 0) shared++;
        return shared;
    }

    /// <summary>Remembers the blocks that a step has filled. One that another sequence has filled with the same tokens
    /// takes the place of this sequence's own.</summary>
    public void Keep(Sequence s)
    {
        for (; (s.CachedBlocks + 1) * blockSize <= s.Landed; s.CachedBlocks++)
        {
            int index = s.CachedBlocks, block = s.BlockTable[index], parent = index == 0 ? -1 : s.BlockTable[index - 1];
            ReadOnlySpan<int> tokens = Tokens(s, index * blockSize, blockSize);
            ulong chain = Chain(s, index, parent, tokens);
            int found = cache.Find(s.Stream.CacheRoot, parent, chain, tokens);
            if (found < 0) cache.Add(block, s.Stream.CacheRoot, parent, chain, tokens);
            else if (found != block)
            {
                pool.Share(found);
                s.BlockTable[index] = found;
                pool.Release(block);
            }
        }
    }

    /// <summary>Remembers the last block of a sequence that is about to give up its blocks, full or not; forgets what
    /// one whose computation went wrong has left.</summary>
    public void KeepLast(Sequence s)
    {
        if (s.IsDistrusted)
        {
            for (int i = s.CachedBlocks - 1; i >= 0; i--)
            {
                int block = s.BlockTable[i];
                if (pool.References(block) > 1 || !cache.IsLeaf(block)) break;
                cache.Remove(block);
            }
            return;
        }
        int start = s.CachedBlocks * blockSize, count = s.Landed - start;
        if (count <= 0 || pool.References(s.BlockTable[s.CachedBlocks]) > 1) return; // a forked one still writes there
        int parent = s.CachedBlocks == 0 ? -1 : s.BlockTable[s.CachedBlocks - 1];
        ReadOnlySpan<int> tokens = Tokens(s, start, count);
        cache.FindPart(s.Stream.CacheRoot, parent, tokens, out int known);
        if (known < count) cache.Add(s.BlockTable[s.CachedBlocks], s.Stream.CacheRoot, parent, 0, tokens);
    }

    /// <summary>The next full block of a sequence's tokens in the cache, or -1.</summary>
    private int Next(Sequence s, int most, int parent, int index)
    {
        if ((index + 1) * blockSize > most) return -1;
        ReadOnlySpan<int> tokens = Tokens(s, index * blockSize, blockSize);
        return cache.Find(s.Stream.CacheRoot, parent, Chain(s, index, parent, tokens), tokens);
    }

    /// <summary>Tokens that need not be computed at most.</summary>
    private static int MostTaken(Sequence s)
    {
        TokenStream stream = s.Stream;
        int most = s.Target - 1;
        bool scores = stream.Sampling.PromptLogprobs is not null && stream.Scored < s.Prompt.Length - 1;
        return scores ? Math.Min(most, stream.Scored) : most;
    }

    private ulong Chain(Sequence s, int index, int parent, ReadOnlySpan<int> tokens) =>
        index < s.Stream.PromptChains.Length ? s.Stream.PromptChains[index]
            : PrefixCache.ChainOf(
                parent < 0 ? PrefixCache.ChainOf(s.Stream.CacheRoot) : cache.Chain(parent), tokens);

    private ReadOnlySpan<int> Tokens(Sequence s, int start, int count)
    {
        if (start + count <= s.Prompt.Length) return s.Prompt.AsSpan(start, count);
        Span<int> tokens = _scratch.AsSpan(0, count);
        s.CopyTokens(start, tokens);
        return tokens;
    }
}
