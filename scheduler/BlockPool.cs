using System.Diagnostics;

namespace Native.Scheduling;

/// <summary>Which KV blocks are free and how many sequences read each of the others. Knows ids, not memory. The engine
/// thread's alone.</summary>
/// <remarks>A block that nobody reads and whose tokens <see cref="Cache"/> knows is as free as any other; those without
/// such tokens are taken first, then the one that was read longest ago.</remarks>
internal sealed class BlockPool
{
    private readonly int[] _empty; // a stack: the block freed last is the warmest
    private readonly int[] _references;
    private readonly int[] _newer, _older; // links of the cached blocks that nobody reads; the ends have index Total
    private int _emptyCount, _idleCount;

    /// <param name="blockCount">Blocks there are.</param>
    /// <param name="cache">Which tokens they hold; null to forget that with the last reader.</param>
    public BlockPool(int blockCount, PrefixCache? cache = null)
    {
        Cache = cache;
        _empty = new int[blockCount];
        _references = new int[blockCount];
        _newer = new int[blockCount + 1];
        _older = new int[blockCount + 1];
        Reset();
    }

    public PrefixCache? Cache { get; }

    public int TotalCount => _empty.Length;

    /// <summary>Blocks that nobody reads, cached or not.</summary>
    public int FreeCount => _emptyCount + _idleCount;

    /// <summary>Blocks that some sequence holds. Counted on its own, so that a leak shows.</summary>
    public int OwnedCount { get; private set; }

    /// <summary>Cached blocks whose tokens were forgotten to make room, so far.</summary>
    public long Evictions { get; private set; }

    public bool TryAllocate(out int block)
    {
        if (_emptyCount > 0) block = _empty[--_emptyCount];
        else if (_idleCount > 0)
        {
            block = _newer[TotalCount]; // the oldest: a leaf, because its parent was released after it
            Unlink(block);
            Cache!.Remove(block);
            Evictions++;
        }
        else
        {
            block = -1;
            return false;
        }
        Debug.Assert(_references[block] == 0, "a free block has no reader");
        _references[block] = 1;
        OwnedCount++;
        return true;
    }

    public int References(int block) => _references[block];

    /// <summary>One more sequence reads this block, which is owned or cached.</summary>
    public void Share(int block)
    {
        if (_references[block]++ > 0) return;
        Debug.Assert(Cache!.Contains(block), "only an owned or cached block is shared");
        Unlink(block);
        OwnedCount++;
    }

    public void Release(int block)
    {
        Debug.Assert(_references[block] > 0, "a block is released once by each of its readers");
        if (--_references[block] > 0) return;
        OwnedCount--;
        if (Cache is not null && Cache.Contains(block)) Link(block);
        else _empty[_emptyCount++] = block;
    }

    /// <summary>Counts a cached block as read just now, whether somebody reads it or not.</summary>
    public void Touch(int block)
    {
        if (_references[block] > 0) return;
        Unlink(block);
        Link(block);
    }

    /// <summary>Every block is free again and none is cached, whatever was before.</summary>
    public void Reset()
    {
        Array.Clear(_references);
        for (int i = 0; i < _empty.Length; i++) _empty[i] = _empty.Length - 1 - i;
        _emptyCount = _empty.Length;
        _idleCount = OwnedCount = 0;
        _newer[TotalCount] = _older[TotalCount] = TotalCount;
        Cache?.Clear();
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
        foreach (int block in _empty.AsSpan(0, _emptyCount))
        {
            if (counted[block]++ > 0) return $"block {block} is free twice, or free and owned";
            if (Cache is not null && Cache.Contains(block)) return $"block {block} is cached and counted as empty";
        }
        int idle = 0;
        for (int block = _newer[TotalCount]; block != TotalCount && idle < TotalCount; block = _newer[block], idle++)
        {
            if (counted[block]++ > 0) return $"block {block} is idle twice, or idle and owned";
            if (!Cache!.Contains(block)) return $"block {block} is idle and not cached";
        }
        return idle != _idleCount ? $"{idle} blocks are idle, {_idleCount} were counted" : Cache?.CheckIntegrity();
    }

    /// <summary>Makes a block the newest of those that nobody reads.</summary>
    private void Link(int block)
    {
        int newest = _older[TotalCount];
        _newer[newest] = _older[TotalCount] = block;
        _older[block] = newest;
        _newer[block] = TotalCount;
        _idleCount++;
    }

    private void Unlink(int block)
    {
        _newer[_older[block]] = _newer[block];
        _older[_newer[block]] = _older[block];
        _idleCount--;
    }
}
