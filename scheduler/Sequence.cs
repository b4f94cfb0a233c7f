using System.Diagnostics;

namespace Native.Scheduling;

/// <summary>One choice of one request while the engine computes it: known tokens, how many of them are computed, and its blocks. The engine thread's alone.</summary>
internal sealed class Sequence
{
    public Sequence(TokenStream stream, int index, int blockSize)
    {
        Stream = stream;
        Index = index;
        Output = stream.Log(index);
        WorstBlocks = BlocksFor(stream.Prompt.Length + Math.Max(stream.Limit - 1, 0), blockSize);
        int reserved = BlocksFor(stream.Prompt.Length + stream.ReservedTokens, blockSize);
        BlockTable = new int[Math.Min(WorstBlocks, reserved)];
    }

    public TokenStream Stream { get; }

    public int Index { get; }

    /// <summary>Place in the one line of first come, first served. Smaller is older.</summary>
    public long Order { get; set; }

    /// <summary>Key of this choice's random draws.</summary>
    public ulong Seed { get; set; }

    public TokenLog Output { get; }

    /// <summary>Blocks it has when it is as long as it can get.</summary>
    public int WorstBlocks { get; }

    /// <summary>Its blocks in order, the first <see cref="BlockCount"/> entries.</summary>
    public int[] BlockTable { get; private set; }

    public int BlockCount { get; private set; }

    /// <summary>Tokens whose keys and values are in its blocks.</summary>
    public int NumComputedTokens { get; set; }

    /// <summary>How often it lost its blocks.</summary>
    public int Preemptions { get; set; }

    /// <summary>True while this sequence computes the prompt for all choices of its request; they fork when one prompt token is left.</summary>
    public bool Forks { get; set; }

    /// <summary>When its last token came, or 0.</summary>
    public long LastTokenTimestamp { get; set; }

    public int[] Prompt => Stream.Prompt;

    /// <summary>Tokens that exist, prompt and output.</summary>
    public int Length => Prompt.Length + Output.Count;

    /// <summary>Tokens that are to be computed before something happens to it: a token is sampled, it forks, or its prompt is scored.</summary>
    /// <remarks>The last prompt token's row samples and scores nothing of the prompt. So forking before it gives every choice its own row
    /// to sample from, and a prompt that is only scored does not need it.</remarks>
    public int Target => Forks || Stream.Limit == 0 ? Prompt.Length - 1 : Length;

    /// <summary>Running sequences it counts as.</summary>
    public int Slots => Forks ? Stream.N : 1;

    public SequenceQueue? Queue { get; set; }

    public Sequence? Next { get; set; }

    public Sequence? Previous { get; set; }

    /// <summary>Blocks that hold <paramref name="tokens"/> tokens.</summary>
    public static int BlocksFor(int tokens, int blockSize) => (int)(((long)tokens + blockSize - 1) / blockSize);

    /// <summary>The key of choice <paramref name="index"/>: the request's own for the first, mixed by SplitMix64 (Steele et al. 2014) for the others.</summary>
    public static ulong SeedOf(ulong seed, int index)
    {
        if (index == 0) return seed;
        ulong z = unchecked(seed + (ulong)index * 0x9E3779B97F4A7C15);
        z = unchecked((z ^ z >> 30) * 0xBF58476D1CE4E5B9);
        z = unchecked((z ^ z >> 27) * 0x94D049BB133111EB);
        return z ^ z >> 31;
    }

    public int TokenAt(int position) => position < Prompt.Length ? Prompt[position] : Output.Tokens[position - Prompt.Length];

    /// <summary>Copies tokens <paramref name="start"/> and on, of prompt and output alike.</summary>
    public void CopyTokens(int start, Span<int> destination)
    {
        int prompt = Math.Clamp(Prompt.Length - start, 0, destination.Length);
        Prompt.AsSpan(Math.Min(start, Prompt.Length), prompt).CopyTo(destination);
        if (prompt < destination.Length)
            Output.Tokens.Slice(Math.Max(start - Prompt.Length, 0), destination.Length - prompt).CopyTo(destination[prompt..]);
    }

    public void AddBlock(int block)
    {
        Debug.Assert(BlockCount < WorstBlocks, "no sequence outgrows its limit");
        if (BlockCount == BlockTable.Length) // as TokenLog: only past what was reserved
        {
            int[] longer = new int[Math.Min((long)WorstBlocks, Math.Max(4, BlockTable.Length * 2L))];
            BlockTable.CopyTo(longer, 0);
            BlockTable = longer;
        }
        BlockTable[BlockCount++] = block;
    }

    /// <summary>Leaves its blocks to a pool that is about to be reset.</summary>
    public void AbandonBlocks() => BlockCount = NumComputedTokens = 0;

    public void ReleaseBlocks(BlockPool pool)
    {
        // Last first, so that the next to allocate gets them in order.
        while (BlockCount > 0) pool.Release(BlockTable[--BlockCount]);
        NumComputedTokens = 0;
    }
}

/// <summary>A line of sequences in their <see cref="Sequence.Order"/>; a sequence is in one such line at most, because the links are its own.</summary>
internal sealed class SequenceQueue(string name)
{
    public Sequence? First { get; private set; }

    public Sequence? Last { get; private set; }

    public int Count { get; private set; }

    public void AddLast(Sequence s)
    {
        Debug.Assert(s.Queue is null, "a sequence is in one queue");
        Debug.Assert(Last is null || Last.Order < s.Order, "nobody overtakes");
        s.Queue = this;
        s.Previous = Last;
        if (Last is null) First = s;
        else Last.Next = s;
        Last = s;
        Count++;
    }

    public void AddFirst(Sequence s)
    {
        Debug.Assert(s.Queue is null, "a sequence is in one queue");
        Debug.Assert(First is null || First.Order > s.Order, "nobody overtakes");
        s.Queue = this;
        s.Next = First;
        if (First is null) Last = s;
        else First.Previous = s;
        First = s;
        Count++;
    }

    public void Remove(Sequence s)
    {
        Debug.Assert(s.Queue == this, "a sequence leaves the queue it is in");
        if (s.Previous is null) First = s.Next;
        else s.Previous.Next = s.Next;
        if (s.Next is null) Last = s.Previous;
        else s.Next.Previous = s.Previous;
        s.Queue = null;
        s.Next = s.Previous = null;
        Count--;
    }

    public override string ToString() => $"{name}: {Count}";
}
