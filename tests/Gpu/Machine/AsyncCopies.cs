using System.Numerics;
using System.Runtime.CompilerServices;

namespace Native.Tests.Gpu.Machine;

/// <summary>cp.async: copies to shared memory that land when the order says, at the latest when they are awaited.
/// </summary>
internal sealed unsafe partial class Warp
{
    private readonly List<AsyncCopy> _copies = [];
    private readonly int[] _group = new int[32];

    private struct AsyncCopy
    {
        public int Lane, Group, Op, Bytes, Taken;
        public long Target;
        public MemoryRange Source;
        public long SourceOffset;
        public ulong Since;
        public UInt128 Value;
        public bool HasLanded;
    }

    /// <summary>cp.async: A the address in shared memory, B the one in global memory, C the bytes taken of it (the rest
    /// is zero) or -1, Count the bytes written.</summary>
    public static void ExecuteCopyAsync(Warp warp, Op* op, uint active)
    {
        int bytes = op->Count;
        ulong since = warp.Block.Launch.Advance();
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            op->Space = Space.Shared;
            MemoryRange shared = warp.Resolve(op, lane, warp.Value<long>(op->A, lane) + op->Immediate, bytes,
                out long target);
            int taken = op->C < 0 ? bytes : (int)Math.Min((uint)bytes, warp.Value<uint>(op->C, lane));
            if (op->IsNegatedA && (*(uint*)(warp.Registers + op->E) >> lane & 1) != 0) taken = 0; // ignore-src
            AsyncCopy copy = new() { Lane = lane, Group = warp._group[lane], Bytes = bytes, Taken = taken };
            copy.Since = since;
            copy.Op = (int)(op - warp.Kernel.Ops);
            copy.Target = target;
            if (taken > 0)
            {
                op->Space = Space.Global;
                long address = warp._addresses[lane] = warp.Value<long>(op->B, lane) + op->Immediate2;
                copy.Source = warp.Resolve(op, lane, address, bytes, out copy.SourceOffset);
                if (copy.Source.Read(warp, lane, copy.SourceOffset, taken, strong: false) is { } cause)
                    warp.Throw(op, lane, cause);
                copy.Value = Take(copy);
            }
            if (shared.WhyNotWritable("copies to", "another copy", target, bytes) is { } why) warp.Throw(op, lane, why);
            if (shared.Stamp(warp, lane, target, bytes, strong: false, null) is { } race) warp.Throw(op, lane, race);
            shared.Fly(target, bytes);
            if (warp.LandsAtOnce()) warp.Land(ref copy);
            warp._copies.Add(copy);
        }
        op->Space = Space.Global;
        warp.CountTraffic(op, active, bytes);
        warp.Block.Launch.Counters.AsyncBytes += (long)bytes * BitOperations.PopCount(active);
        warp.Block.BytesInFlight += (long)bytes * BitOperations.PopCount(active);
    }

    private bool LandsAtOnce() => Block.Launch.Options.Order switch
    {
        Machine.Order.Ascending => false,
        Machine.Order.Descending => true,
        _ => Block.Launch.Next(2) == 0,
    };

    private static UInt128 Take(in AsyncCopy copy)
    {
        UInt128 value = 0;
        Unsafe.CopyBlockUnaligned((byte*)&value, copy.Source.Data + copy.SourceOffset, (uint)copy.Taken);
        return value;
    }

    /// <summary>The bytes arrive.</summary>
    private void Land(ref AsyncCopy copy)
    {
        UInt128 value = copy.Value;
        Unsafe.CopyBlockUnaligned(Block.Shared.Data + copy.Target, (byte*)&value, (uint)copy.Bytes);
        copy.HasLanded = true;
    }

    public static void ExecuteCommitGroup(Warp warp, Op* op, uint active)
    {
        for (uint rest = active; rest != 0; rest &= rest - 1) warp._group[BitOperations.TrailingZeroCount(rest)]++;
    }

    /// <summary>cp.async.wait_group and wait_all (Count is -1): those but the last Count groups have landed.</summary>
    public static void ExecuteWaitGroup(Warp warp, Op* op, uint active)
    {
        int kept = 0;
        for (int i = 0; i < warp._copies.Count; i++)
        {
            AsyncCopy copy = warp._copies[i];
            bool done = (active >> copy.Lane & 1) != 0
                && (op->Count < 0 || copy.Group < warp._group[copy.Lane] - op->Count);
            if (done) warp.Complete(ref copy);
            else warp._copies[kept++] = copy;
        }
        warp._copies.RemoveRange(kept, warp._copies.Count - kept);
    }

    private void Complete(ref AsyncCopy copy)
    {
        if (!copy.HasLanded) Land(ref copy);
        if (copy.Taken > 0 && copy.Source.ChangedSince(copy.Since, copy.SourceOffset, copy.Taken) is { } cause)
            Throw(Kernel.Ops + copy.Op, copy.Lane, cause);
        Block.Shared.Land(copy.Target, copy.Bytes, StampOf(copy.Lane));
        Block.BytesInFlight -= copy.Bytes;
    }

    /// <summary>Lanes end: nothing of theirs may be on its way.</summary>
    private void Exit(Op* op, uint lanes)
    {
        foreach (AsyncCopy copy in _copies)
            if ((lanes >> copy.Lane & 1) != 0)
                throw Fault(Kernel.Ops + copy.Op, copy.Lane, FaultKind.AsyncCopy,
                    "the thread ends without having waited for this copy");
        if (_products.Count > 0)
            throw Fault(Kernel.Ops + _products[0].Op, BitOperations.TrailingZeroCount(lanes), FaultKind.AsyncCopy,
                "the warp ends without having waited for this wgmma");
        foreach (BulkCopy copy in _bulkCopies)
            if ((lanes >> copy.Lane & 1) != 0)
                throw Fault(Kernel.Ops + copy.Op, copy.Lane, FaultKind.AsyncCopy,
                    "the thread ends without having waited for this bulk copy");
    }
}
