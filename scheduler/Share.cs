namespace Native.Scheduling;

/// <summary>What one tenant has waiting in one class, and what it got.</summary>
internal sealed class Share(Tenant tenant, RequestClass of, double weight) : IHeapEntry
{
    private readonly long[] _queued = new long[QueuedPrompt.Places]; // prompt tokens
    private readonly long[] _requests = new long[QueuedPrompt.Ranks];
    private long _queuedTokens, _queuedRequests;
    private double _served, _underWay;
    private int _underWayFrom;
    private long _tokens;

    public Tenant Tenant => tenant;

    public RequestClass Class => of;

    public double Weight => weight;

    /// <summary>Its sequences that wait, by key. The engine thread's.</summary>
    public IndexedHeap<Sequence> Waiting { get; } = new(capacity: 4);

    /// <summary>Requests the engine has of it. The engine thread's.</summary>
    public int Live { get; set; }

    /// <summary>Places its sequences have. The engine thread's.</summary>
    public int Running { get; set; }

    /// <summary>Where it stands in the list of those that have requests, -1 for nowhere. The list's.</summary>
    public int Place { get; set; } = -1;

    /// <summary>Virtual time: tokens it got, divided by its weight. The engine's thread writes, any reads.</summary>
    public double Served
    {
        get => Volatile.Read(ref _served);
        set => Volatile.Write(ref _served, value);
    }

    /// <summary>The last search for the next prompt that met it, counted. The engine thread's.</summary>
    public long Search { get; set; }

    /// <summary>Prompt tokens under way that are not computed, as many of a short prompt as take that long. The
    /// engine's thread writes, any reads.</summary>
    public double UnderWay
    {
        get => Volatile.Read(ref _underWay);
        set => Volatile.Write(ref _underWay, value);
    }

    /// <summary>The first of the places, see <see cref="QueuedPrompt.Place"/>, that those under way came from: who
    /// comes before it passes them. The engine's thread writes, any reads.</summary>
    public int UnderWayFrom
    {
        get => Volatile.Read(ref _underWayFrom);
        set => Volatile.Write(ref _underWayFrom, value);
    }

    /// <summary>The same while it is counted. The engine thread's.</summary>
    public (double Tokens, int From) UnderWaySoFar { get; set; }

    /// <summary>Prompt tokens queued. Any thread.</summary>
    public long QueuedTokens => Math.Max(0, Volatile.Read(ref _queuedTokens));

    /// <summary>Requests queued. Any thread.</summary>
    public long QueuedRequests => Math.Max(0, Volatile.Read(ref _queuedRequests));

    /// <summary>When it last came to the line, counted: of those that got the same, the first to come is served
    /// first.</summary>
    public ulong Since { get; set; }

    /// <summary>What it will have got when a prompt of it is through.</summary>
    public double ServedBy(Sequence s) => _served + (s.Left / weight);

    /// <summary>Whether it got tokens since it was put into its heap.</summary>
    public bool IsStale => HeapKey != Key;

    UInt128 IHeapEntry.HeapKey => HeapKey;

    int IHeapEntry.HeapIndex { get; set; } = -1;

    private UInt128 HeapKey { get; set; }

    // Doubles of one sign stand in the order of their bits.
    private UInt128 Key => ((UInt128)BitConverter.DoubleToUInt64Bits(ServedBy(Waiting.First!)) << 64) | Since;

    /// <summary>Takes its place in the heap, which it is not in, from what it got and the first of those that
    /// wait.</summary>
    public void Refresh() => HeapKey = Key;

    /// <summary>Tokens it got since the start: of prompts computed, and generated. Any thread.</summary>
    public long Tokens => Volatile.Read(ref _tokens);

    /// <summary>It gets tokens. The engine thread's.</summary>
    /// <returns>What they count.</returns>
    public double Charge(int prompt, int generated)
    {
        double cost = prompt + (WaitingLine.GeneratedCost * generated);
        Served = _served + (cost / weight);
        Volatile.Write(ref _tokens, _tokens + prompt + generated);
        return cost;
    }

    /// <summary>A request is queued. Any thread.</summary>
    public void Queue(QueuedPrompt prompt) => Count(prompt, prompt.Tokens, 1);

    /// <summary>A queued request has begun or ended. Any thread.</summary>
    public void Dequeue(QueuedPrompt prompt) => Count(prompt, -prompt.Tokens, -1);

    /// <summary>Tokens queued of prompts before one: of lower ranks, and of its own those about as long or shorter. Any
    /// thread.</summary>
    public long QueuedBefore(QueuedPrompt prompt)
    {
        long sum = 0;
        for (int place = prompt.Place; place >= 0; place--) sum += Volatile.Read(ref _queued[place]);
        return Math.Max(0, sum);
    }

    /// <summary>Requests queued of a rank and lower ones. Any thread.</summary>
    public long RequestsUpTo(int rank)
    {
        long sum = 0;
        for (; rank >= 0; rank--) sum += Volatile.Read(ref _requests[rank]);
        return Math.Max(0, sum);
    }

    private void Count(QueuedPrompt prompt, int tokens, int requests)
    {
        Interlocked.Add(ref _queued[prompt.Place], tokens);
        Interlocked.Add(ref _requests[prompt.Rank], requests);
        Interlocked.Add(ref _queuedTokens, tokens);
        Interlocked.Add(ref _queuedRequests, requests);
    }
}
