namespace Native.Scheduling;

/// <summary>What an <see cref="IndexedHeap{T}"/> orders: it knows its key and where in the heap it stands.</summary>
internal interface IHeapEntry
{
    /// <summary>The smallest comes first. Does not change while the entry is in a heap.</summary>
    UInt128 HeapKey { get; }

    /// <summary>Where in the heap it is, -1 for nowhere. The heap's to set.</summary>
    int HeapIndex { get; set; }
}

/// <summary>A binary heap whose entries know their index, so that any of them leaves in O(log n). The engine thread's
/// alone.</summary>
/// <param name="capacity">Entries it has room for before it grows; at least 1.</param>
internal sealed class IndexedHeap<T>(int capacity = 64) where T : class, IHeapEntry
{
    private T?[] _entries = new T?[capacity];

    /// <summary>Entries in the heap.</summary>
    public int Count { get; private set; }

    /// <summary>The entry with the smallest key; null where there is none.</summary>
    public T? First => _entries[0];

    /// <summary>All entries, in no order.</summary>
    public ReadOnlySpan<T> Entries => _entries.AsSpan(0, Count)!;

    /// <summary>Entries moved or compared since the start: what the heap costs.</summary>
    public long Visits { get; private set; }

    public void Add(T entry)
    {
        if (Count == _entries.Length) Array.Resize(ref _entries, 2 * Count);
        Rise(entry, Count++);
    }

    public void Remove(T entry)
    {
        int hole = entry.HeapIndex;
        T last = _entries[--Count]!;
        _entries[Count] = null;
        entry.HeapIndex = -1;
        if (last == entry) return;
        if (hole > 0 && last.HeapKey < _entries[(hole - 1) / 2]!.HeapKey) Rise(last, hole);
        else Sink(last, hole);
    }

    private void Rise(T entry, int hole)
    {
        for (; hole > 0; hole = (hole - 1) / 2)
        {
            Visits++;
            T parent = _entries[(hole - 1) / 2]!;
            if (parent.HeapKey <= entry.HeapKey) break;
            Put(parent, hole);
        }
        Put(entry, hole);
    }

    private void Sink(T entry, int hole)
    {
        while (true)
        {
            Visits++;
            int child = (2 * hole) + 1;
            if (child >= Count) break;
            if (child + 1 < Count && _entries[child + 1]!.HeapKey < _entries[child]!.HeapKey) child++;
            if (_entries[child]!.HeapKey >= entry.HeapKey) break;
            Put(_entries[child]!, hole);
            hole = child;
        }
        Put(entry, hole);
    }

    private void Put(T entry, int index)
    {
        _entries[index] = entry;
        entry.HeapIndex = index;
    }
}
