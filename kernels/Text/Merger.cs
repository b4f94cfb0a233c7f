namespace Native.Kernels.Text;

/// <summary>Joins the symbols of one word, lowest rank first and leftmost among equals, until no pair has a merge
/// (byte-pair encoding, Sennrich et al. 2016, arXiv:1508.07909; SentencePiece's differs only in where ranks come from).</summary>
/// <remarks>Short words scan for the best pair; long ones keep the pairs in a heap over a linked list, so that a megabyte of
/// one letter costs O(n log n). Not thread-safe: one per call of Encode.</remarks>
internal sealed class Merger(MergeTable table)
{
    /// <summary>Longest word that is scanned: below this the scan beats the heap.</summary>
    internal const int ScanLimit = 48;

    private const int Dead = int.MinValue;

    private int[] _next = [];
    private int[] _previous = [];
    private PriorityQueue<int, ulong>? _queue;

    /// <summary>Pairs looked up so far: at most three for every symbol given.</summary>
    public long Lookups { get; private set; }

    /// <summary>Joins in place; returns how many symbols are left, at the front of <paramref name="symbols"/>.</summary>
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
        PriorityQueue<int, ulong> queue = _queue ??= new PriorityQueue<int, ulong>();
        queue.Clear();
        for (int i = 0; i < count; i++)
        {
            _next[i] = i + 1 < count ? i + 1 : -1;
            _previous[i] = i - 1;
        }
        for (int i = 0; i < count - 1; i++) Push(queue, symbols, i, i + 1);

        while (queue.TryDequeue(out int left, out ulong priority))
        {
            int right = symbols[left] == Dead ? -1 : _next[left];
            if (right < 0) continue;
            // An entry is stale when its pair has changed. A changed pair of equal rank is as good: it stands in the queue too, with this same priority.
            if (!table.TryGet(symbols[left], symbols[right], out MergeTable.Merge merge) || (uint)merge.Rank != priority >> 32) continue;

            symbols[left] = merge.Result;
            symbols[right] = Dead;
            int after = _next[left] = _next[right];
            if (after >= 0)
            {
                _previous[after] = left;
                Push(queue, symbols, left, after);
            }
            if (_previous[left] >= 0) Push(queue, symbols, _previous[left], left);
        }

        int kept = 0;
        for (int i = 0; i >= 0; i = _next[i]) symbols[kept++] = symbols[i];
        return kept;
    }

    private void Push(PriorityQueue<int, ulong> queue, Span<int> symbols, int left, int right)
    {
        Lookups++;
        if (table.TryGet(symbols[left], symbols[right], out MergeTable.Merge merge))
            queue.Enqueue(left, (ulong)(uint)merge.Rank << 32 | (uint)left);
    }
}
