using System.Diagnostics;

namespace Native.Scheduling;

/// <summary>Where in its life a sequence is.</summary>
internal enum SequenceStage : byte
{
    /// <summary>Not known to the scheduler, or ended.</summary>
    None,

    /// <summary>Without blocks: new or preempted.</summary>
    Waiting,

    /// <summary>Has blocks for all of its tokens and computes them.</summary>
    Prefilling,

    /// <summary>One token a step.</summary>
    Decoding,

    /// <summary>Ended, but a step in flight still writes into its blocks.</summary>
    Leaving,
}

/// <summary>Sequences that wait to be computed again.</summary>
/// <param name="Count">How many.</param>
/// <param name="Tokens">All they have.</param>
internal readonly record struct PreemptedState(int Count, long Tokens);

/// <summary>All sequences that are not over, each in exactly one stage, with the blocks and places they hold. The
/// engine thread's alone.</summary>
/// <remarks>Blocks and places of a sequence that ends are free once no launched step has it any more.</remarks>
internal sealed class LiveSequences
{
    private readonly SequenceQueue _leaving = new(SequenceStage.Leaving);
    private readonly WaitingLine _waiting;
    private readonly int[] _freePlaces; // a stack
    private readonly int[] _runningOf = new int[Enum.GetValues<RequestClass>().Length];
    private readonly PreemptedState[] _preemptedOf = new PreemptedState[Enum.GetValues<RequestClass>().Length];
    private int _freePlaceCount;

    /// <param name="pool">The blocks.</param>
    /// <param name="waiting">Where those wait that have no blocks; empty.</param>
    /// <param name="maxRunning">Places.</param>
    /// <param name="blockSize">Tokens of a block.</param>
    public LiveSequences(BlockPool pool, WaitingLine waiting, int maxRunning, int blockSize)
    {
        Pool = pool;
        _waiting = waiting;
        if (pool.Cache is { } cache) Prefixes = new Prefixes(pool, cache, blockSize);
        _freePlaces = new int[maxRunning];
        FreeAllPlaces();
    }

    public BlockPool Pool { get; }

    /// <summary>What sequences share with others that began alike; null where they share nothing.</summary>
    public Prefixes? Prefixes { get; }

    /// <summary>Those that decode, by key.</summary>
    public SequenceQueue Decoding { get; } = new(SequenceStage.Decoding);

    /// <summary>Those whose prompt is computed, by key.</summary>
    public SequenceQueue Prefilling { get; } = new(SequenceStage.Prefilling);

    /// <summary>The first of those that wait, see <see cref="WaitingLine"/>.</summary>
    public Sequence? FirstWaiting => _waiting.First;

    /// <summary>What a tenant is taken to have got at least that comes to the line now.</summary>
    public double FloorOf(RequestClass of) => !_waiting.IsEmpty(of) ? _waiting.FloorOf(of)
        : Math.Max(_waiting.FloorOf(of), Math.Max(MostServed(Decoding, of), MostServed(Prefilling, of)));

    /// <inheritdoc cref="WaitingLine.Advance"/>
    public void Advance(RequestClass of, double served) => _waiting.Advance(of, served);

    /// <summary>Those that wait, in no order. For checks.</summary>
    public IEnumerable<Sequence> Waiting => _waiting.All;

    /// <summary>How many wait.</summary>
    public int WaitingCount => _waiting.Count;

    /// <summary>Sequences with blocks that are computed in turn.</summary>
    public int Running => Decoding.Count + Prefilling.Count;

    /// <summary>Of <see cref="Running"/>, those of a class.</summary>
    public int RunningOf(RequestClass of) => _runningOf[(int)of];

    /// <summary>Sequences of a class that lost their blocks and wait to be computed again.</summary>
    public PreemptedState PreemptedOf(RequestClass of) => _preemptedOf[(int)of];

    /// <summary>Places that nobody has.</summary>
    public int FreePlaces => _freePlaceCount;

    /// <summary>Places there are.</summary>
    public int MaxRunning => _freePlaces.Length;

    public bool Any => Running + WaitingCount > 0;

    /// <summary>Steps of the waiting line's heaps so far.</summary>
    public long Visits => _waiting.Visits;

    /// <summary>Of the running sequences that may lose their blocks, the one with the largest key: it gives them up
    /// first.</summary>
    public Sequence? Victim
    {
        get
        {
            Sequence? a = LastUnprotected(Prefilling), b = LastUnprotected(Decoding);
            return a is null || (b is not null && b.Key > a.Key) ? b : a;
        }
    }

    /// <summary>Puts a sequence into the waiting line, at the place its key gives it.</summary>
    public void Wait(Sequence s)
    {
        Debug.Assert(s.Stage == SequenceStage.None, "a sequence is in one stage");
        if (_waiting.IsEmpty(s.Stream.Class)) _waiting.RaiseFloor(s.Stream.Class, FloorOf(s.Stream.Class));
        s.Stage = SequenceStage.Waiting;
        _waiting.Add(s);
    }

    /// <summary>From waiting to prefilling, with places.</summary>
    public void Admit(Sequence s)
    {
        Unwait(s);
        Place(s);
        Prefilling.Insert(s);
    }

    /// <summary>From prefilling to decoding.</summary>
    public void BeginDecoding(Sequence s)
    {
        Prefilling.Remove(s);
        Decoding.Insert(s);
    }

    /// <summary>Back to the line, without blocks.</summary>
    public void Preempt(Sequence s)
    {
        Debug.Assert(s.InFlight == 0, "blocks that a launched step writes into are not given away");
        QueueOf(s).Remove(s);
        Release(s);
        Count(s, 1);
        Wait(s);
    }

    /// <summary>Takes a forking sequence out of prefilling; its choices, itself among them, are placed one by
    /// one.</summary>
    public void Unplace(Sequence s)
    {
        Prefilling.Remove(s);
        FreePlace(s);
    }

    /// <summary>Lets a forked choice decode.</summary>
    public void PlaceForked(Sequence s)
    {
        Place(s);
        Decoding.Insert(s);
    }

    /// <summary>A choice that finds no place waits for one, as if it had been preempted.</summary>
    public void WaitForked(Sequence s)
    {
        Count(s, 1);
        Wait(s);
    }

    /// <summary>The sequence is over: it gives up its blocks and place, now or with the last step in flight.</summary>
    public void Leave(Sequence s)
    {
        if (s.Stage == SequenceStage.Waiting)
        {
            Unwait(s);
            return;
        }
        QueueOf(s).Remove(s);
        if (s.InFlight > 0) _leaving.Insert(s);
        else Release(s);
    }

    /// <summary>One launched step fewer has this sequence.</summary>
    public void Landed(Sequence s)
    {
        if (--s.InFlight > 0 || s.Stage != SequenceStage.Leaving) return;
        _leaving.Remove(s);
        Release(s);
    }

    /// <summary>Frees every block and place without trusting who has which.</summary>
    public void Abandon()
    {
        while (_leaving.First is { } s)
        {
            _leaving.Remove(s);
            Abandon(s);
        }
        for (Sequence? s = Decoding.First; s is not null; s = s.Next) Abandon(s);
        for (Sequence? s = Prefilling.First; s is not null; s = s.Next) Abandon(s);
        Pool.Reset();
        FreeAllPlaces();
    }

    /// <summary>Gives up blocks and place of a sequence that is in no queue.</summary>
    public void Release(Sequence s)
    {
        if (s.BlockCount > 0) Prefixes?.KeepLast(s);
        s.ReleaseBlocks(Pool);
        FreePlace(s);
    }

    /// <summary>The first contradiction between block tables and pool, or null.</summary>
    public string? CheckIntegrity()
    {
        foreach (Sequence s in Waiting)
            if (s.BlockCount > 0) return $"a waiting sequence holds {s.BlockCount} blocks";
        return Pool.CheckIntegrity(Decoding, Prefilling, _leaving);
    }

    private void Unwait(Sequence s)
    {
        _waiting.Remove(s);
        s.Stage = SequenceStage.None;
        if (s.IsPreempted) Count(s, -1);
    }

    private void Count(Sequence s, int sign)
    {
        s.IsPreempted = sign > 0;
        ref PreemptedState of = ref _preemptedOf[(int)s.Stream.Class];
        of = new PreemptedState(of.Count + sign, of.Tokens + (sign * s.Length));
    }

    private static void Abandon(Sequence s)
    {
        if (s.Place >= 0) s.Stream.Share.Running--;
        s.Abandon();
    }

    private static Sequence? LastUnprotected(SequenceQueue queue)
    {
        Sequence? s = queue.Last;
        while (s is not null && s.IsProtected) s = s.Previous;
        return s;
    }

    private SequenceQueue QueueOf(Sequence s) => s.Stage == SequenceStage.Decoding ? Decoding : Prefilling;

    private void Place(Sequence s)
    {
        Debug.Assert(s.Place < 0 && _freePlaceCount > 0, "as many places were counted");
        s.Place = _freePlaces[--_freePlaceCount];
        s.OutputWhenPlaced = s.Output.Count;
        s.Stream.Share.Running++;
        _runningOf[(int)s.Stream.Class]++;
    }

    private void FreePlace(Sequence s)
    {
        if (s.Place < 0) return;
        _freePlaces[_freePlaceCount++] = s.Place;
        Share share = s.Stream.Share;
        share.Running--;
        _runningOf[(int)share.Class]--;
        if (_waiting.IsEmpty(share.Class)) _waiting.RaiseFloor(share.Class, share.Served);
        s.Place = -1;
    }

    private static double MostServed(SequenceQueue queue, RequestClass of)
    {
        double most = 0;
        for (Sequence? s = queue.First; s is not null; s = s.Next)
            if (s.Stream.Class == of) most = Math.Max(most, s.Stream.Share.Served);
        return most;
    }

    private void FreeAllPlaces()
    {
        _freePlaceCount = _freePlaces.Length;
        for (int i = 0; i < _freePlaceCount; i++) _freePlaces[i] = _freePlaceCount - 1 - i;
        Array.Clear(_runningOf);
    }
}
