using System.Numerics;

namespace Native.Tests.Gpu.Machine;

/// <summary>A block of threads: its warps, its shared memory and its barriers.</summary>
internal sealed class Block : IDisposable
{
    public const int BarrierCount = 16;

    private readonly Warp[] _warps;
    private readonly NamedBarrier[] _barriers = new NamedBarrier[BarrierCount];

    public Block(Launch launch, int index)
    {
        Launch = launch;
        Index = index;
        Threads = launch.BlockSize.Count;
        ProxyFences = new uint[(Threads + 31) / 32 * 32];
        int warps = (Threads + 31) / 32;
        Shared = launch.TakeShared(warps);
        _warps = new Warp[warps];
        for (int i = 0; i < warps; i++)
            _warps[i] = new Warp(this, i, Threads - i * 32 >= 32 ? uint.MaxValue : (1u << (Threads - i * 32)) - 1);
    }

    public Launch Launch { get; }

    public int Index { get; }

    public int Threads { get; }

    public MemoryRange Shared { get; }

    /// <summary>Stamps of this block's threads below are before its last whole barrier.</summary>
    public ulong BarrierLimit { get; private set; }

    public bool HasExited => Array.TrueForAll(_warps, warp => warp.HasExited);

    public IReadOnlyList<Warp> Warps => _warps;

    public PtxLocation LocationOfLast => _warps.Select(warp => warp.Here).FirstOrDefault();

    /// <summary>Bytes of asynchronous copies on their way.</summary>
    public long BytesInFlight
    {
        get;
        set
        {
            field = value;
            Launch.Counters.MostBytesInFlight = Math.Max(Launch.Counters.MostBytesInFlight, value);
        }
    }

    /// <summary>mbarriers by where they lie in shared memory.</summary>
    public Dictionary<long, MemoryBarrier> MemoryBarriers { get; } = [];

    /// <summary>When each thread last made known to the asynchronous proxy what it wrote.</summary>
    public uint[] ProxyFences { get; }

    private uint _copies;

    /// <summary>Who the next copy is in stamps.</summary>
    public uint NextCopy() => Who.Of(Index, Who.FirstCopy + _copies++ % Who.Copies);

    /// <summary>Completes an mbarrier's phase where nothing is missing any more.</summary>
    public void TryComplete(MemoryBarrier barrier)
    {
        if (barrier.Pending > 0 || barrier.Bytes != 0) return;
        barrier.Phase++;
        barrier.Pending = barrier.Count;
        barrier.Arrived = barrier.Arriving;
        barrier.Arriving = new Knowledge();
        barrier.Polls = 0;
        Launch.Counters.Barriers++;
        Launch.Progress++;
    }

    /// <summary>All copies that complete bytes at an mbarrier arrive.</summary>
    public void LandCopies(MemoryBarrier barrier)
    {
        foreach (BulkCopy copy in barrier.Copies.ToArray())
        {
            barrier.Copies.Remove(copy);
            Land(copy);
            uint time = Launch.Time;
            foreach (var piece in copy.Pieces) piece.Target.Land(piece.To, piece.Bytes, (ulong)time << 32 | copy.Who);
            barrier.Arriving.Add(copy.Who, time);
            barrier.Bytes -= copy.Bytes;
            Launch.Advance();
        }
        TryComplete(barrier);
    }

    /// <summary>All threads have ended: nothing may be on its way to their shared memory.</summary>
    public void CheckCopies()
    {
        foreach (MemoryBarrier barrier in MemoryBarriers.Values)
            if (barrier.Copies is [{ } copy, ..])
                throw copy.Warp.FaultOf(copy, "the block ends while this copy to its shared memory is on its way");
    }

    /// <summary>Moves the bytes of a copy, whose source must be as it was.</summary>
    public unsafe void Land(BulkCopy copy)
    {
        foreach ((MemoryRange? source, long from, _, _, int bytes) in copy.Pieces)
            if (source?.ChangedSince(copy.Since, from, bytes) is { } cause)
                throw copy.Warp.FaultOf(copy, cause.What);
        foreach ((MemoryRange? source, long from, MemoryRange target, long to, int bytes) in copy.Pieces)
        {
            Span<byte> into = new(target.Data + to, bytes);
            if (source is null) into.Clear();
            else new Span<byte>(source.Data + from, bytes).CopyTo(into);
        }
        BytesInFlight -= copy.Bytes;
        Launch.Progress++;
    }

    /// <summary>What mbarriers lack that somebody asked for in vain.</summary>
    public string WhatIsAwaited() => string.Concat(MemoryBarriers.Where(at => at.Value.Polls > 0).OrderBy(at => at.Key)
        .Select(at => $"; the mbarrier at byte {at.Key} of shared memory lacks {at.Value.Pending} of {at.Value.Count} "
            + $"arrivals and {at.Value.Bytes} bytes in phase {at.Value.Phase}"));

    /// <summary>Lets each warp run for a while. False where none could.</summary>
    public bool Turn()
    {
        Span<int> order = stackalloc int[_warps.Length];
        for (int i = 0; i < order.Length; i++) order[i] = i;
        if (Launch.Options.Order == Order.Descending) order.Reverse();
        if (Launch.Options.Order == Order.Random) for (int i = order.Length - 1; i > 0; i--)
        {
            int j = Launch.Next(i + 1);
            (order[i], order[j]) = (order[j], order[i]);
        }
        bool ran = false;
        foreach (int i in order)
        {
            Warp warp = _warps[i];
            if (!warp.CanRun) continue;
            ran = true;
            int quantum = Launch.Options.Quantum;
            if (++warp.Turns > Launch.Options.MostTurns)
                throw new GpuFault(FaultKind.Deadlock,
                    $"a warp runs on after {(long)quantum * warp.Turns} instructions{WhatIsAwaited()}",
                    Launch.Kernel.Name, warp.Here, (Index, warp.Index * 32));
            warp.HasPolled = false;
            warp.Run(Launch.Options.Order == Order.Random && Launch.Next(4) == 0 ? 1 + Launch.Next(200) : quantum);
            if (!warp.HasPolled) Launch.Progress++;
        }
        return ran;
    }

    /// <summary>Why nothing goes on: a barrier that some threads miss.</summary>
    public GpuFault WhyStuck()
    {
        foreach (Warp warp in _warps)
            if (warp.WhyStuck() is { } fault) return fault;
        foreach (Warp warp in _warps)
            if (warp.AtBarrier is { } fragment)
            {
                int exited = _warps.Sum(other => BitOperations.PopCount(other.Lanes & ~other.Live));
                NamedBarrier barrier = _barriers[fragment.Awaited];
                return warp.FaultAt(fragment, FaultKind.Barrier,
                    $"barrier {fragment.Awaited} has {barrier.Arrived} of {barrier.Expected} threads, "
                    + $"the others don't come: {exited} of the block have exited");
            }
        return new GpuFault(FaultKind.Deadlock, "no warp gets on", Launch.Kernel.Name, LocationOfLast, (Index, 0));
    }

    /// <summary>Lanes of a warp arrive at a barrier, and wait there or not. True where that completes it: all who wait
    /// go on.</summary>
    public bool Arrive(
        Warp warp, uint lanes, int barrier, int threads, int expected, bool waits, uint predicate)
    {
        ref NamedBarrier at = ref _barriers[barrier];
        if (at.Arrived > 0 && at.Expected != expected) return Mismatch(at.Expected, expected);
        at.Expected = expected;
        at.Arrived += threads;
        at.IsWhole = (at.Arrived == threads || at.IsWhole) && waits;
        at.Sum += BitOperations.PopCount(predicate);
        if (Launch.Kernel.HasPartialBarriers)
        {
            at.Known ??= new Knowledge();
            for (uint rest = lanes; rest != 0; rest &= rest - 1)
                at.Known.Add(warp.Everything(BitOperations.TrailingZeroCount(rest)));
            Launch.Advance(); // who does not wait goes on, and nobody is told of what it does then
        }
        if (at.Arrived < at.Expected) return false;
        if (at.Arrived > at.Expected) return Mismatch(at.Expected, at.Arrived);
        Complete(barrier);
        return true;
    }

    private static bool Mismatch(int expected, int given) =>
        throw new InvalidOperationException($"a barrier of {expected} threads is met by one of {given}");

    private void Complete(int number)
    {
        NamedBarrier barrier = _barriers[number];
        _barriers[number] = default;
        Launch.Counters.Barriers++;
        Launch.Progress++;
        bool whole = barrier.IsWhole && barrier.Expected == Threads;
        ulong now = Launch.Advance();
        Knowledge? known = whole ? null : barrier.Known;
        if (whole)
        {
            BarrierLimit = now;
            foreach (Warp warp in _warps)
                foreach (Knowledge? lane in warp.Known)
                    if (lane is not null) (known ??= new Knowledge()).Add(lane);
        }
        if (whole) Launch.Fences.Meet(Who.Of(Index, 0), Array.ConvertAll(_warps, warp => warp.Lanes));
        foreach (Warp warp in _warps) warp.Release(number, known, whole, barrier.Sum, barrier.Expected);
    }

    public void Dispose()
    {
        foreach (Warp warp in _warps) warp.Dispose();
        Launch.Return(Shared);
    }

    private struct NamedBarrier
    {
        public int Arrived, Expected, Sum;
        public bool IsWhole;
        public Knowledge? Known;
    }
}
