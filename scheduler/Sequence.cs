using System.Diagnostics;

namespace Native.Scheduling;

/// <summary>One choice of one request while the engine computes it: its tokens, how many of them are computed, and its
/// blocks. The engine thread's alone.</summary>
internal sealed class Sequence : IHeapEntry
{
    public Sequence(TokenStream stream, int index, int blockSize, ITokenConstraint? constraint)
    {
        Stream = stream;
        Constraint = constraint;
        Index = index;
        Output = stream.Log(index);
        WorstBlocks = BlocksFor(stream.Prompt.Length + Math.Max(stream.Limit - 1, 0), blockSize);
        int reserved = BlocksFor(stream.Prompt.Length + stream.ReservedTokens, blockSize);
        BlockTable = new int[Math.Min(WorstBlocks, reserved)];
    }

    public TokenStream Stream { get; }

    public int Index { get; }

    /// <summary>Its place in every line, computed once by <see cref="Ordering"/>. The smallest is served first, the
    /// largest loses its blocks first.</summary>
    public UInt128 Key { get; set; }

    /// <summary>Key of this choice's random draws.</summary>
    public ulong Seed { get; set; }

    public TokenLog Output { get; }

    /// <summary>Blocks it has when it is as long as it can get.</summary>
    public int WorstBlocks { get; }

    /// <summary>Its blocks in order, the first <see cref="BlockCount"/> entries.</summary>
    public int[] BlockTable { get; private set; }

    public int BlockCount { get; private set; }

    /// <summary>Tokens whose keys and values are in its blocks once the launched steps are through.</summary>
    public int NumComputedTokens { get; set; }

    /// <summary>Tokens whose keys and values are in its blocks now: the steps that computed them were collected and
    /// went well.</summary>
    public int Landed { get; set; }

    /// <summary>Tokens computed at least once, which its tenant was charged for.</summary>
    public int Charged { get; set; }

    /// <summary>True once its computation went wrong: what its blocks hold is not to be relied on.</summary>
    public bool IsDistrusted { get; set; }

    /// <summary>Its first blocks that the prefix cache has.</summary>
    public int CachedBlocks { get; set; }

    /// <summary>Free blocks it needs to start, as last counted; 0 where that was never counted.</summary>
    public int LeastFree { get; set; }

    /// <summary>Times it is asked before that is counted again.</summary>
    public int Recount { get; set; }

    /// <summary>Tokens it had computed when it lost its blocks.</summary>
    public int Lost { get; set; }

    /// <summary>Tokens that launched steps sample and nobody has seen yet.</summary>
    public int Promised { get; set; }

    /// <summary>Launched steps that have this sequence.</summary>
    public int InFlight { get; set; }

    /// <summary>Its own place among the running, see <see cref="Native.Kernels.Batch.Places"/>; -1 for none.</summary>
    public int Place { get; set; } = -1;

    /// <summary>What it may say; null for everything.</summary>
    public ITokenConstraint? Constraint { get; }

    /// <summary>True where its constraint threw: the choice fails with its next token.</summary>
    public bool ConstraintFailed { get; set; }

    /// <summary>How often it lost its blocks.</summary>
    public int Preemptions { get; set; }

    /// <summary>True once it lost its blocks as often as it may: it starts only with all it can ever need, and nobody
    /// takes them.</summary>
    public bool IsProtected { get; set; }

    /// <summary>Whether those who ran when it started left its own time for a token no room: it is late.</summary>
    public bool IsTpotWaived { get; set; }

    /// <summary>Tokens of its output when it last got a place.</summary>
    public int OutputWhenPlaced { get; set; }

    /// <summary>Whether it waits to be computed again.</summary>
    public bool IsPreempted { get; set; }

    /// <summary>True while this sequence computes the prompt for all choices of its request; they fork when one prompt
    /// token is left.</summary>
    public bool Forks { get; set; }

    /// <summary>What its tokens after the first would have taken without batch work in their steps.</summary>
    public double OnlineSeconds { get; set; }

    /// <summary>When its last token came, or 0.</summary>
    public long LastTokenTimestamp { get; set; }

    public int[] Prompt => Stream.Prompt;

    /// <summary>Tokens whose ids are known, prompt and output.</summary>
    public int Known => Prompt.Length + Output.Count;

    /// <summary>Tokens that exist, known or promised.</summary>
    public int Length => Known + Promised;

    /// <summary>Where computing pauses: at <see cref="Length"/> to sample; one before the prompt's end to fork (each
    /// choice then samples from its own row), or when the prompt is only scored.</summary>
    public int Target => Forks || Stream.Limit == 0 ? Prompt.Length - 1 : Length;

    /// <summary>Tokens to compute until its prompt is through, those that the cache probably has left out.</summary>
    public int Left =>
        Stage == SequenceStage.Waiting && !IsPreempted ? Stream.Queued.Tokens : Target - NumComputedTokens;

    /// <summary>The last step whose prompts it was considered for, counted by the scheduler.</summary>
    public long Turn { get; set; }

    /// <summary>Where it is in its life. <see cref="LiveSequences"/> sets it.</summary>
    public SequenceStage Stage { get; set; }

    /// <summary>True while it waits or runs.</summary>
    public bool IsLive => Stage is not (SequenceStage.None or SequenceStage.Leaving);

    UInt128 IHeapEntry.HeapKey => Key;

    int IHeapEntry.HeapIndex { get; set; } = -1;

    public Sequence? Next { get; set; }

    public Sequence? Previous { get; set; }

    /// <summary>Blocks that hold <paramref name="tokens"/> tokens.</summary>
    public static int BlocksFor(int tokens, int blockSize) => (int)(((long)tokens + blockSize - 1) / blockSize);

    /// <summary>The key of choice <paramref name="index"/>: the request's own for the first, mixed by SplitMix64
    /// (Steele et al. 2014) for the others.</summary>
    public static ulong SeedOf(ulong seed, int index)
    {
        if (index == 0) return seed;
        ulong z = unchecked(seed + (ulong)index * 0x9E3779B97F4A7C15);
        z = unchecked((z ^ z >> 30) * 0xBF58476D1CE4E5B9);
        z = unchecked((z ^ z >> 27) * 0x94D049BB133111EB);
        return z ^ z >> 31;
    }

    /// <summary>Copies tokens <paramref name="start"/> and on, of prompt and output alike.</summary>
    public void CopyTokens(int start, Span<int> destination)
    {
        int prompt = Math.Clamp(Prompt.Length - start, 0, destination.Length);
        Prompt.AsSpan(Math.Min(start, Prompt.Length), prompt).CopyTo(destination);
        if (prompt == destination.Length) return;
        ReadOnlySpan<int> output = Output.Tokens.Slice(Math.Max(start - Prompt.Length, 0), destination.Length - prompt);
        output.CopyTo(destination[prompt..]);
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

    /// <summary>Leaves its blocks and place to a pool that is about to be reset.</summary>
    public void Abandon()
    {
        BlockCount = CachedBlocks = NumComputedTokens = Landed = 0;
        Place = -1;
    }

    public void ReleaseBlocks(BlockPool pool)
    {
        // Last first: the next to allocate gets them in order, and a cached block goes before the one it follows.
        while (BlockCount > 0) pool.Release(BlockTable[--BlockCount]);
        NumComputedTokens = Landed = CachedBlocks = 0;
    }
}

/// <summary>Sequences of one stage in the order of their keys; a sequence is in one such queue at most, because the
/// links are its own.</summary>
internal sealed class SequenceQueue(SequenceStage stage)
{
    public Sequence? First { get; private set; }

    public Sequence? Last { get; private set; }

    public int Count { get; private set; }

    /// <summary>Puts a sequence where its key belongs. Searched from the end: most come last.</summary>
    public void Insert(Sequence s)
    {
        Debug.Assert(s.Stage == SequenceStage.None, "a sequence is in one stage");
        Sequence? before = Last;
        while (before is not null && before.Key > s.Key) before = before.Previous;
        s.Stage = stage;
        s.Previous = before;
        s.Next = before is null ? First : before.Next;
        if (s.Next is null) Last = s;
        else s.Next.Previous = s;
        if (before is null) First = s;
        else before.Next = s;
        Count++;
    }

    public void Remove(Sequence s)
    {
        Debug.Assert(s.Stage == stage, "a sequence leaves the queue it is in");
        if (s.Previous is null) First = s.Next;
        else s.Previous.Next = s.Next;
        if (s.Next is null) Last = s.Previous;
        else s.Next.Previous = s.Previous;
        s.Stage = SequenceStage.None;
        s.Next = s.Previous = null;
        Count--;
    }

    public override string ToString() => $"{stage}: {Count}";
}
