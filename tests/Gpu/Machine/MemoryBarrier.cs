using System.Numerics;
using System.Runtime.CompilerServices;

namespace Native.Tests.Gpu.Machine;

/// <summary>An mbarrier: arrivals and bytes that the current phase still waits for.</summary>
internal sealed class MemoryBarrier(int count)
{
    public int Count { get; set; } = count;

    public int Pending { get; set; } = count;

    /// <summary>Bytes expected less those that came; negative where they came first.</summary>
    public long Bytes { get; set; }

    /// <summary>Phases completed.</summary>
    public int Phase { get; set; }

    /// <summary>What those who arrive in this phase know, and what who waits for the last one learns.</summary>
    public Knowledge Arriving { get; set; } = new();

    public Knowledge? Arrived { get; set; }

    /// <summary>Copies on their way that will complete bytes here.</summary>
    public List<BulkCopy> Copies { get; } = [];

    /// <summary>Times that somebody asked in vain.</summary>
    public int Polls { get; set; }
}

/// <summary>Rows of bytes that the copy engine moves.</summary>
internal sealed class BulkCopy
{
    public required Warp Warp { get; init; }

    public required int Lane { get; init; }

    public required int Op { get; init; }

    /// <summary>Where each piece comes from and goes to; a piece without a source is zeros.</summary>
    public required List<(MemoryRange? Source, long From, MemoryRange Target, long To, int Bytes)> Pieces { get; init; }

    public required long Bytes { get; init; }

    public int Group { get; set; }

    /// <summary>Who it is in stamps, and what time they have that come after it.</summary>
    public uint Who { get; set; }

    public ulong Since { get; set; }

    /// <summary>Whether its sources may be overwritten again, though what it wrote is not there yet.</summary>
    public bool HasRead { get; set; }
}

/// <summary>mbarriers (PTX ISA 9.7.13.15): threads and bytes arrive, and who waits for a phase knows what they did.
/// </summary>
internal sealed unsafe partial class Warp
{
    private MemoryBarrier BarrierAt(Op* op, int slot, long offset, int lane, out long at)
    {
        op->Space = Space.Shared;
        Resolve(op, lane, (slot < 0 ? 0 : Value<long>(slot, lane)) + offset, 8, out at);
        return Block.MemoryBarriers.TryGetValue(at, out MemoryBarrier? barrier) ? barrier
            : throw Fault(op, lane, FaultKind.Misuse, $"there is no mbarrier at byte {at} of shared memory");
    }

    /// <summary>mbarrier.init and .inval: A the address, B the count.</summary>
    public static void ExecuteInitBarrier(Warp warp, Op* op, uint active)
    {
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            op->Space = Space.Shared;
            MemoryRange shared = warp.Resolve(op, lane, warp.AddressOf(op, lane), 8, out long at);
            if (op->B < 0)
            {
                warp.BarrierAt(op, op->A, op->Immediate, lane, out _);
                warp.Block.MemoryBarriers.Remove(at);
                continue;
            }
            int count = (int)warp.Value<uint>(op->B, lane);
            if (count < 1 || count >= 1 << 20)
                throw warp.Fault(op, lane, FaultKind.Misuse, $"an mbarrier for {count} arrivals");
            if (shared.Write(warp, lane, at, 8, strong: true, null) is { } cause) warp.Throw(op, lane, cause);
            *(long*)(shared.Data + at) = -1; // opaque to kernels
            warp.Block.MemoryBarriers[at] = new MemoryBarrier(count);
        }
    }

    /// <summary>mbarrier.arrive, .expect_tx and .arrive_drop: A the address, B arrivals (-1: one), C bytes expected.
    /// Count has bits for arriving, for dropping out and for being relaxed; D gets the phase.</summary>
    public static void ExecuteArrive(Warp warp, Op* op, uint active)
    {
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            MemoryBarrier barrier = warp.BarrierAt(op, op->A, op->Immediate, lane, out long at);
            warp.IsReady(op, lane, at);
            if (op->D >= 0) warp.Value<long>(op->D, lane) = barrier.Phase;
            if (op->C >= 0) barrier.Bytes += warp.Value<uint>(op->C, lane);
            if ((op->Count & 1) == 0) continue;
            int arrivals = op->B < 0 ? 1 : (int)warp.Value<uint>(op->B, lane);
            if (arrivals < 1 || arrivals > barrier.Pending)
                throw warp.Fault(op, lane, FaultKind.Barrier,
                    $"{arrivals} arrivals at an mbarrier whose phase waits for {barrier.Pending} of {barrier.Count}");
            if ((op->Count & 2) != 0) barrier.Count -= arrivals;
            if ((op->Count & 4) == 0) barrier.Arriving.Add(warp.Everything(lane));
            barrier.Pending -= arrivals;
            warp.Block.Launch.Advance();
            warp.Block.TryComplete(barrier);
        }
    }

    /// <summary>That the barrier was initialised must be known: by a barrier of the block, say.</summary>
    private void IsReady(Op* op, int lane, long at)
    {
        if (Block.Shared.Read(this, lane, at, 8, strong: true, records: false) is { } cause) Throw(op, lane, cause);
    }

    /// <summary>mbarrier.test_wait and .try_wait: D the predicate, A the address, B a phase or its parity (Count is 1).
    /// What was waited for is known then.</summary>
    public static void ExecuteTestWait(Warp warp, Op* op, uint active)
    {
        uint complete = 0;
        warp.HasPolled = true;
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            MemoryBarrier barrier = warp.BarrierAt(op, op->A, op->Immediate, lane, out long at);
            warp.IsReady(op, lane, at);
            bool done = op->Count == 1 ? (barrier.Phase & 1) != (warp.Value<uint>(op->B, lane) & 1)
                : barrier.Phase > warp.Value<long>(op->B, lane);
            if (!done && ++barrier.Polls > 2 && barrier.Pending == 0) warp.Block.LandCopies(barrier);
            if (!done) continue;
            complete |= 1u << lane;
        }
        warp.SetPredicate(op->D, active, complete);
        if (complete != active) warp._yields = true;
        for (uint rest = complete; rest != 0;)
        {
            int first = BitOperations.TrailingZeroCount(rest);
            MemoryBarrier barrier = warp.BarrierAt(op, op->A, op->Immediate, first, out _);
            Knowledge? before = warp.Known[first];
            warp.Acquire(first, barrier.Arrived);
            Knowledge? after = warp.Known[first];
            for (uint same = rest; same != 0; same &= same - 1)
            {
                int lane = BitOperations.TrailingZeroCount(same);
                if (lane != first && (!ReferenceEquals(warp.Known[lane], before)
                    || warp.BarrierAt(op, op->A, op->Immediate, lane, out _) != barrier)) continue;
                warp.Known[lane] = after;
                rest &= ~(1u << lane);
            }
        }
    }

    /// <summary>cp.async.mbarrier.arrive: once this thread's copies so far have landed, it arrives. Count is 1 for
    /// .noinc; otherwise the arrival is one that is added to those expected.</summary>
    public static void ExecuteArriveAfterCopies(Warp warp, Op* op, uint active)
    {
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            MemoryBarrier barrier = warp.BarrierAt(op, op->A, op->Immediate, lane, out long at);
            warp.IsReady(op, lane, at);
            for (int i = warp._copies.Count - 1; i >= 0; i--)
            {
                if (warp._copies[i].Lane != lane) continue;
                AsyncCopy copy = warp._copies[i];
                warp.Complete(ref copy);
                warp._copies.RemoveAt(i);
            }
            if (op->Count == 0) continue; // it adds one to those expected and arrives
            if (barrier.Pending < 1)
                throw warp.Fault(op, lane, FaultKind.Barrier, "an arrival more than the mbarrier's phase waits for");
            barrier.Arriving.Add(warp.Everything(lane));
            barrier.Pending--;
            warp.Block.Launch.Advance();
            warp.Block.TryComplete(barrier);
        }
    }

    /// <summary>What generic instructions of these lanes wrote is there for the copy engine and the tensor cores.
    /// </summary>
    public static void ExecuteProxyFence(Warp warp, Op* op, uint active)
    {
        for (uint rest = active; rest != 0; rest &= rest - 1)
            warp.Block.ProxyFences[warp.Index * 32 + BitOperations.TrailingZeroCount(rest)] = warp.Block.Launch.Time;
        warp.Block.Launch.Advance();
    }

    /// <summary>A read by the copy engine or the tensor cores on behalf of a lane: what threads wrote by themselves
    /// must have come past a proxy fence, theirs or the lane's.</summary>
    private void ReadAsync(Op* op, int lane, MemoryRange range, long offset, int bytes, bool records = true)
    {
        if (range.Read(this, lane, offset, bytes, strong: false, records) is { } cause) Throw(op, lane, cause);
        if (range != Block.Shared) return;
        for (long at = offset; at < offset + bytes; at += 4)
        {
            ulong stamp = range.LastWrite(at);
            uint code = Who.CodeOf((uint)stamp & 0x7fff_ffff), time = (uint)(stamp >> 32);
            if (stamp == 0 || code >= Who.Warp || Who.BlockOf((uint)stamp & 0x7fff_ffff) != Block.Index) continue;
            if (Block.ProxyFences[code] >= time || Block.ProxyFences[Index * 32 + lane] >= time) continue;
            throw Fault(op, lane, FaultKind.Race, $"the asynchronous proxy reads byte {at} of shared memory, which "
                + $"thread {code} wrote without a fence.proxy.async since");
        }
    }

    /// <summary>Copies whole pieces: of global to shared memory, that complete bytes at an mbarrier (C), or the other
    /// way in a group.</summary>
    private void Issue(Op* op, int lane, BulkCopy copy, MemoryBarrier? barrier)
    {
        copy.Who = Block.NextCopy();
        copy.Since = Block.Launch.Advance();
        foreach ((MemoryRange? source, long from, MemoryRange target, long to, int bytes) in copy.Pieces)
        {
            if (source is not null) ReadAsync(op, lane, source, from, bytes, records: barrier is null);
            if (source is not null && barrier is not null) source.ReadByCopy(this, lane, from, bytes, copy.Who);
            if (target.WhyNotWritable("copies to", "another copy", to, bytes) is { } why) Throw(op, lane, why);
            if (target.Stamp(this, lane, to, bytes, strong: false, null) is { } race) Throw(op, lane, race);
            target.Fly(to, bytes);
        }
        Block.Launch.Counters.AsyncBytes += copy.Bytes;
        Block.BytesInFlight += copy.Bytes;
        if (barrier is null)
        {
            copy.Group = _bulkGroup[lane];
            _bulkCopies.Add(copy);
            return;
        }
        barrier.Copies.Add(copy);
        if (LandsAtOnce()) Block.LandCopies(barrier);
    }

    public GpuFault FaultOf(BulkCopy copy, string what) =>
        Fault(Kernel.Ops + copy.Op, copy.Lane, FaultKind.AsyncCopy, what);

    private readonly List<BulkCopy> _bulkCopies = [];
    private readonly int[] _bulkGroup = new int[32];

    public static void ExecuteBulkCommit(Warp warp, Op* op, uint active)
    {
        for (uint rest = active; rest != 0; rest &= rest - 1) warp._bulkGroup[BitOperations.TrailingZeroCount(rest)]++;
    }

    public static void ExecuteBulkWait(Warp warp, Op* op, uint active)
    {
        for (int i = 0; i < warp._bulkCopies.Count; i++)
        {
            BulkCopy copy = warp._bulkCopies[i];
            if ((active >> copy.Lane & 1) == 0 || copy.Group >= warp._bulkGroup[copy.Lane] - op->Count) continue;
            if (!copy.HasRead) warp.Block.Land(copy);
            copy.HasRead = true;
            if (op->E == 1) continue; // what it wrote is not known yet
            foreach (var piece in copy.Pieces)
                piece.Target.Land(piece.To, piece.Bytes, warp.StampOf(copy.Lane));
            warp._bulkCopies.RemoveAt(i--);
        }
    }

    /// <summary>cp.async.bulk: D 0 for global to shared and 1 for the other way; A the target, B the source, C the
    /// mbarrier, E the bytes.</summary>
    public static void ExecuteBulkCopy(Warp warp, Op* op, uint active)
    {
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            bool load = op->Count == 0;
            int bytes = (int)warp.Value<uint>(op->E, lane);
            if (bytes % 16 != 0 || bytes == 0)
                throw warp.Fault(op, lane, FaultKind.Misaligned, $"a bulk copy of {bytes} bytes, no multiple of 16");
            op->Space = load ? Space.Shared : Space.Global;
            MemoryRange target = warp.Resolve(op, lane, warp.Value<long>(op->A, lane) + op->Immediate, bytes,
                out long to);
            op->Space = load ? Space.Global : Space.Shared;
            MemoryRange source = warp.Resolve(op, lane, warp.Value<long>(op->B, lane) + op->Immediate2, bytes,
                out long from);
            if (((to | from) & 15) != 0) throw warp.Fault(op, lane, FaultKind.Misaligned, "a bulk copy off 16 bytes");
            BulkCopy copy = new()
            {
                Warp = warp,
                Lane = lane,
                Op = (int)(op - warp.Kernel.Ops),
                Pieces = [(source, from, target, to, bytes)],
                Bytes = bytes,
            };
            MemoryBarrier? barrier = load ? warp.BarrierAt(op, op->C, op->Target, lane, out _) : null;
            warp.Issue(op, lane, copy, barrier);
        }
    }

    /// <summary>cp.async.bulk.tensor: A the address in shared memory, B the tensor map, C the mbarrier, coordinates at
    /// Slots. Count is the rank, E 0 for loads and 1 for stores.</summary>
    public static void ExecuteTensorCopy(Warp warp, Op* op, uint active)
    {
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            op->Space = Space.Generic;
            MemoryRange range = warp.Resolve(op, lane, warp.Value<long>(op->B, lane), 64, out long offset);
            TensorMap map;
            try
            {
                map = TensorMap.Decode(new ReadOnlySpan<byte>(range.Data + offset, TensorMap.Bytes));
            }
            catch (ArgumentException e)
            {
                throw warp.Fault(op, lane, FaultKind.Misuse, e.Message);
            }
            if (map.Rank != op->Count)
                throw warp.Fault(op, lane, FaultKind.Misuse, $"a copy of rank {op->Count} by a map of rank {map.Rank}");
            int[] coordinates = new int[op->Count];
            for (int i = 0; i < coordinates.Length; i++)
                coordinates[i] = warp.Value<int>(warp.Kernel.Slots[op->Slots + i], lane);
            long shared = warp.Value<long>(op->A, lane) + op->Immediate;
            BulkCopy copy = warp.TensorCopy(op, lane, map, coordinates, shared, load: op->E == 0);
            warp.Issue(op, lane, copy, op->E == 0 ? warp.BarrierAt(op, op->C, op->Immediate2, lane, out _) : null);
        }
    }

    private BulkCopy TensorCopy(Op* op, int lane, TensorMap map, int[] coordinates, long shared, bool load)
    {
        int row = map.Box[0] * map.ElementBytes, pieces = Math.Max(1, row / 16), piece = row / pieces;
        long rows = 1;
        for (int i = 1; i < map.Rank; i++) rows *= map.Box[i];
        op->Space = Space.Shared;
        MemoryRange memory = Resolve(op, lane, shared, 16, out long start);
        if (start % 128 != 0)
            throw Fault(op, lane, FaultKind.Misaligned, $"a tensor copy at byte {start} of shared memory, off 128");
        if (start + rows * row > memory.Bytes)
            throw Fault(op, lane, FaultKind.OutOfBounds,
                $"a tensor copy of {rows * row} bytes at byte {start} of shared memory, which has {memory.Bytes}");
        List<(MemoryRange?, long, MemoryRange, long, int)> moves = [];
        for (long r = 0; r < rows; r++)
        {
            long address = map.Address, left = r;
            bool inside = true;
            for (int i = 1; i < map.Rank; i++)
            {
                long at = coordinates[i] + left % map.Box[i];
                left /= map.Box[i];
                inside &= at >= 0 && at < map.Sizes[i];
                address += at * map.Strides[i - 1];
            }
            for (int p = 0; p < pieces; p++)
            {
                long logical = start + r * row + p * piece, physical = Swizzle.Of(logical, map.SwizzleBytes);
                int column = coordinates[0] * map.ElementBytes + p * piece, end = map.Sizes[0] * map.ElementBytes;
                int valid = inside && column >= 0 ? Math.Clamp(end - column, 0, piece) : 0;
                if (column < 0 && inside && column + piece > 0)
                    throw Fault(op, lane, FaultKind.Misuse,
                        "a piece of 16 bytes that begins before its row is not known");
                if (valid > 0)
                {
                    op->Space = Space.Global;
                    MemoryRange global = Resolve(op, lane, address + column, 1, out long from);
                    if (from + valid > global.Bytes)
                        throw Fault(op, lane, FaultKind.OutOfBounds, $"a tensor copy past the end of {global.Name}");
                    moves.Add(load ? (global, from, memory, physical, valid) : (memory, physical, global, from, valid));
                }
                if (load && valid < piece) moves.Add((null, 0, memory, physical + valid, piece - valid));
            }
        }
        return new BulkCopy
        {
            Warp = this,
            Lane = lane,
            Op = (int)(op - Kernel.Ops),
            Pieces = moves,
            Bytes = rows * row,
        };
    }
}

/// <summary>Where 16-byte pieces lie in shared memory: their number within 128 bytes is crossed with that of the 128
/// bytes, so that a column of a tile meets all banks.</summary>
internal static class Swizzle
{
    /// <param name="address">A byte of shared memory, as if nothing were swizzled.</param>
    /// <param name="bytes">0 for none, 32, 64 or 128.</param>
    public static long Of(long address, int bytes) =>
        bytes == 0 ? address : address ^ ((address >> 7 & (bytes / 16 - 1)) << 4);
}
