using System.Diagnostics;

namespace Native.Scheduling;

/// <summary>Which KV blocks are free and how many sequences read each of the others. Knows ids, not memory. The engine
/// thread's alone.</summary>
internal sealed class BlockPool
{
    private readonly int[] _free; // a stack: the block freed last is the warmest
    private readonly int[] _references;

    public BlockPool(int blockCount)
    {
        _free = new int[blockCount];
        _references = new int[blockCount];
        Reset();
    }

    public int TotalCount => _free.Length;

    public int FreeCount { get; private set; }

    /// <summary>Blocks that some sequence holds. Counted on its own, so that a leak shows.</summary>
    public int OwnedCount { get; private set; }

    public bool TryAllocate(out int block)
    {
        if (FreeCount == 0)
        {
            block = -1;
            return false;
        }
        block = _free[--FreeCount];
        Debug.Assert(_references[block] == 0, "a free block has no reader");
        _references[block] = 1;
        OwnedCount++;
        return true;
    }

    public int References(int block) => _references[block];

    /// <summary>One more sequence reads this block.</summary>
    public void Share(int block)
    {
        Debug.Assert(_references[block] > 0, "only an owned block is shared");
        _references[block]++;
    }

    public void Release(int block)
    {
        Debug.Assert(_references[block] > 0, "a block is released once by each of its readers");
        if (--_references[block] > 0) return;
        _free[FreeCount++] = block;
        OwnedCount--;
    }

    /// <summary>Every block is free again, whatever was before.</summary>
    public void Reset()
    {
        Array.Clear(_references);
        for (int i = 0; i < _free.Length; i++) _free[i] = _free.Length - 1 - i;
        FreeCount = _free.Length;
        OwnedCount = 0;
    }

    /// <summary>Counts: the references of the given queues' block tables are the pool's, free and owned blocks are
    /// disjoint and make the total. Null where they are, else the first contradiction.</summary>
    public string? CheckIntegrity(params ReadOnlySpan<SequenceQueue> queues)
    {
        int[] counted = new int[_references.Length];
        foreach (SequenceQueue queue in queues)
            for (Sequence? s = queue.First; s is not null; s = s.Next)
                foreach (int block in s.BlockTable.AsSpan(0, s.BlockCount))
                    counted[block]++;
        int owned = 0;
        for (int block = 0; block < counted.Length; block++)
        {
            if (counted[block] != _references[block])
                return $"block {block} has {_references[block]} references, {counted[block]} readers";
            if (counted[block] > 0) owned++;
        }
        if (owned != OwnedCount || owned + FreeCount != TotalCount)
            return $"{FreeCount} free and {OwnedCount} owned blocks ({owned} counted) of {TotalCount}";
        foreach (int block in _free.AsSpan(0, FreeCount))
            if (counted[block]++ > 0) return $"block {block} is free twice, or free and owned";
        return null;
    }
}
