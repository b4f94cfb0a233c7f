namespace Native.Scheduling;

/// <summary>Those that wait: by class, then of each tenant its first by key, and of these the one whose tenant will
/// have got least when its prompt is through (of equals, whose tenant came to the line first); or by key alone. The
/// engine thread's alone.</summary>
/// <remarks>
/// Virtual token counters (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024): a tenant's counter
/// goes on by the tokens it gets, generated ones at <see cref="GeneratedCost"/> times those of prompts. Its prompt is
/// added, as the finish times of fair queueing are made (Demers et al. 1989), or a long one would hold up others' short
/// ones. One that comes to the line begins no lower than virtual time, so that nobody saves up: while somebody waits,
/// that goes on by what all get together for their weights, so that whoever waits is passed by newcomers for a time
/// alone; while nobody does, all get what they ask for, and it is what the one has that got most. A counter only grows,
/// so its place in the heap is mended when it comes first.
/// </remarks>
/// <param name="apart">Whether classes and tenants are told apart.</param>
internal sealed class WaitingLine(bool apart)
{
    /// <summary>What a generated token counts beside one of a prompt: the paper's weight, and about what it takes on a
    /// CPU.</summary>
    public const double GeneratedCost = 2;

    private readonly IndexedHeap<Share>[] _shares =
        [.. Enum.GetValues<RequestClass>().Select(_ => new IndexedHeap<Share>())];

    // By class, what a tenant would have got that had its part all the time: virtual time.
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

    /// <summary>Virtual time: who comes new to the line of a class begins there, or at what those who run have got
    /// where the line is empty.</summary>
    public double FloorOf(RequestClass of) => _floors[(int)of];

    /// <summary>Nobody of a class waits, and somebody got so much.</summary>
    public void RaiseFloor(RequestClass of, double served) =>
        _floors[(int)of] = Math.Max(_floors[(int)of], served);

    /// <summary>Those of a class got tokens.</summary>
    /// <param name="of">The class.</param>
    /// <param name="served">How many for their weights together.</param>
    public void Advance(RequestClass of, double served)
    {
        if (!IsEmpty(of)) _floors[(int)of] += served;
    }

    /// <summary>Whether nobody of a class waits.</summary>
    public bool IsEmpty(RequestClass of) => _shares[(int)of].Count == 0;

    public void Add(Sequence s)
    {
        Share share = _together ?? s.Stream.Share;
        IndexedHeap<Share> shares = _shares[(int)share.Class];
        if (share.Waiting.Count > 0) shares.Remove(share);
        else
        {
            share.Served = Math.Max(share.Served, FloorOf(share.Class));
            share.Since = _arrivals++;
        }
        long before = share.Waiting.Visits;
        share.Waiting.Add(s);
        _visits += share.Waiting.Visits - before;
        Count++;
        share.Refresh();
        shares.Add(share);
    }

    public void Remove(Sequence s)
    {
        Share share = _together ?? s.Stream.Share;
        IndexedHeap<Share> shares = _shares[(int)share.Class];
        shares.Remove(share);
        long before = share.Waiting.Visits;
        share.Waiting.Remove(s);
        _visits += share.Waiting.Visits - before;
        Count--;
        if (share.Waiting.Count == 0) return;
        share.Refresh();
        shares.Add(share);
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
