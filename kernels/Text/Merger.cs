namespace Native.Kernels.Text;

/// <summary>Joins the symbols of one word, lowest rank first and leftmost among equals, until no pair has a merge
/// (byte-pair encoding, Sennrich et al. 2016, arXiv:1508.07909; SentencePiece's differs only in where ranks come
/// from).</summary>
/// <remarks>Short words scan for the best pair; long ones keep the pairs in a heap over a linked list, so that a
/// megabyte of one letter costs O(n log n). Not thread-safe: one per call of Encode.</remarks>
internal sealed class Merger(MergeTable table)
{
    /// <summary>Longest word that is scanned. Up to this length the scan is faster than the heap.</summary>
    internal const int ScanLimit = 48;

    private const int Dead = int.MinValue;

    private int[] _next = [];
    private int[] _previous = [];
    // Binary min-heap of rank << 32 | position: half the size of PriorityQueue's entries, and faster on a megabyte of
    // one letter
    private ulong[] _heap = [];
    private int _heapCount;

    /// <summary>Pairs looked up so far: at most three for each symbol.</summary>
    public long Lookups { get; private set; }

    /// <summary>Joins in place; returns how many symbols are left, at the front of
    /// <paramref name="symbols"/>.</summary>
    public int Run(Span<int> symbols, int scanLimit = ScanLimit)
        => symbols.Length < 2 ? symbols.Length : symbols.Length <= scanLimit ? Scan(symbols) : Heap(symbols);

    private int Scan(Span<int> symbols)
    {
        int count = symbols.Length;
        Span<MergeTable.Merge> merges = stackalloc MergeTable.Merge[count];
        for (int i = 0; i < count - 1; i++) merges[i] = Find(symbols[i], symbols[i + 1]);
        while (count > 1)
        {
            int best = 0;
            for (int i = 1; i < count - 1; i++)
                if (merges[i].Rank < merges[best].Rank) best = i;
            if (merges[best].Rank == int.MaxValue) break;

            symbols[best] = merges[best].Result;
            count--;
            symbols[(best + 2)..(count + 1)].CopyTo(symbols[(best + 1)..]);
            merges[(best + 1)..count].CopyTo(merges[best..]);
            if (best > 0) merges[best - 1] = Find(symbols[best - 1], symbols[best]);
            if (best < count - 1) merges[best] = Find(symbols[best], symbols[best + 1]);
        }
        return count;
    }

    private MergeTable.Merge Find(int left, int right)
    {
        Lookups++;
        return table.TryGet(left, right, out MergeTable.Merge merge) ? merge : new MergeTable.Merge(int.MaxValue, 0);
    }

    private int Heap(Span<int> symbols)
    {
        int count = symbols.Length;
        if (_next.Length < count)
        {
            _next = new int[count];
            _previous = new int[count];
        }
        if (_heap.Length < count) _heap = new ulong[count];
        _heapCount = 0;
        for (int i = 0; i < count; i++)
        {
            _next[i] = i + 1 < count ? i + 1 : -1;
            _previous[i] = i - 1;
        }
        for (int i = 0; i < count - 1; i++) Push(symbols, i, i + 1);

        while (_heapCount > 0)
        {
            ulong entry = Pop();
            int left = (int)(uint)entry;
            int right = symbols[left] == Dead ? -1 : _next[left];
            if (right < 0) continue;
            // An entry is stale when its pair has changed. A changed pair of equal rank is as good: its own entry is
            // the same number.
            if (!table.TryGet(symbols[left], symbols[right], out MergeTable.Merge merge)
                || (uint)merge.Rank != entry >> 32) continue;

            symbols[left] = merge.Result;
            symbols[right] = Dead;
            int after = _next[left] = _next[right];
            if (after >= 0)
            {
                _previous[after] = left;
                Push(symbols, left, after);
            }
            if (_previous[left] >= 0) Push(symbols, _previous[left], left);
        }

        int kept = 0;
        for (int i = 0; i >= 0; i = _next[i]) symbols[kept++] = symbols[i];
        return kept;
    }

    private void Push(Span<int> symbols, int left, int right)
    {
        Lookups++;
        if (!table.TryGet(symbols[left], symbols[right], out MergeTable.Merge merge)) return;
        ulong entry = (ulong)(uint)merge.Rank << 32 | (uint)left;
        if (_heapCount == _heap.Length) Array.Resize(ref _heap, _heap.Length * 2);
        int i = _heapCount++;
        for (; i > 0 && _heap[(i - 1) / 2] > entry; i = (i - 1) / 2) _heap[i] = _heap[(i - 1) / 2];
        _heap[i] = entry;
    }

    private ulong Pop()
    {
        ulong top = _heap[0], last = _heap[--_heapCount];
        int i = 0;
        for (int child = 1; child < _heapCount; i = child, child = 2 * child + 1)
        {
            if (child + 1 < _heapCount && _heap[child + 1] < _heap[child]) child++;
            if (_heap[child] >= last) break;
            _heap[i] = _heap[child];
        }
        _heap[i] = last;
        return top;
    }
}
