namespace Native.Scheduling;

/// <summary>Those that wait: by class, then the tenant that got least (of two that got the same, the one that came to
/// the line first), then by key; or by key alone. The engine thread's alone.</summary>
/// <remarks>
/// Virtual token counters (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024): a tenant's counter
/// goes on by the tokens it gets, generated ones at <see cref="GeneratedCost"/> times those of prompts, and the tenant
/// with the least is served next. One that comes to the line begins no lower than the least of those in it, so that
/// nobody saves up. A counter only grows, so its place in the heap is mended when it comes first.
/// </remarks>
/// <param name="apart">Whether classes and tenants are told apart.</param>
internal sealed class WaitingLine(bool apart)
{
    /// <summary>What a generated token counts beside one of a prompt: the paper's weight, and about what it takes on a
    /// CPU.</summary>
    public const double GeneratedCost = 2;

    private readonly IndexedHeap<Share>[] _shares =
        [.. Enum.GetValues<RequestClass>().Select(_ => new IndexedHeap<Share>())];

    // By class, what the least served of those that wait has got, or the last that waited: who comes new begins there.
    private readonly double[] _floors = new double[Enum.GetValues<RequestClass>().Length];

    private readonly Share? _together =
        apart ? null : new Tenant(new TenantSpec { Name = "" }, isNamed: true).ShareOf(RequestClass.Online);

    private long _visits;
    private ulong _arrivals; // of shares

    /// <summary>Sequences that wait.</summary>
    public int Count { get; private set; }

    /// <summary>Heap entries looked at so far.</summary>
    public long Visits
    {
        get
        {
            long visits = _visits;
            foreach (IndexedHeap<Share> shares in _shares) visits += shares.Visits;
            return visits;
        }
    }

    /// <summary>Who is served next; null where nobody waits.</summary>
    public Sequence? First
    {
        get
        {
            foreach (IndexedHeap<Share> shares in _shares)
                if (Least(shares) is { } share) return share.Waiting.First;
            return null;
        }
    }

    /// <summary>All that wait, in no order. For checks.</summary>
    public IEnumerable<Sequence> All =>
        _shares.SelectMany(shares => shares.Entries.ToArray()).SelectMany(share => share.Waiting.Entries.ToArray());

    public void Add(Sequence s)
    {
        Share share = _together ?? s.Stream.Share;
        long before = share.Waiting.Visits;
        share.Waiting.Add(s);
        _visits += share.Waiting.Visits - before;
        Count++;
        if (share.Waiting.Count > 1) return;
        IndexedHeap<Share> shares = _shares[(int)share.Class];
        ref double floor = ref _floors[(int)share.Class];
        floor = Least(shares)?.Served ?? floor;
        share.Served = Math.Max(share.Served, floor);
        share.Since = _arrivals++;
        share.Refresh();
        shares.Add(share);
    }

    public void Remove(Sequence s)
    {
        Share share = _together ?? s.Stream.Share;
        long before = share.Waiting.Visits;
        share.Waiting.Remove(s);
        _visits += share.Waiting.Visits - before;
        Count--;
        if (share.Waiting.Count > 0) return;
        IndexedHeap<Share> shares = _shares[(int)share.Class];
        shares.Remove(share);
        _floors[(int)share.Class] = (Least(shares) ?? share).Served;
    }

    private static Share? Least(IndexedHeap<Share> shares)
    {
        while (shares.First is { IsStale: true } share)
        {
            shares.Remove(share);
            share.Refresh();
            shares.Add(share);
        }
        return shares.First;
    }
}
