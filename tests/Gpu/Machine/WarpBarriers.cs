using System.Numerics;
using System.Runtime.InteropServices;

namespace Native.Tests.Gpu.Machine;

/// <summary>Barriers of the block and of the warp.</summary>
internal sealed unsafe partial class Warp
{
    /// <summary>Where the warp is, or was.</summary>
    public PtxLocation Here => Kernel.LocationOf(Kernel.Ops + Math.Min(_pc, Kernel.OpCount - 1));

    /// <summary>A part of it that waits at a barrier of the block.</summary>
    public Fragment? AtBarrier => _fragments.Where(f => f.State == FragmentState.BlockBarrier)
        .Select(f => (Fragment?)f).FirstOrDefault();

    public GpuFault FaultAt(Fragment fragment, FaultKind kind, string what) =>
        Fault(Kernel.Ops + fragment.Op, BitOperations.TrailingZeroCount(fragment.Mask), kind, what);

    /// <summary>bar.sync, bar.arrive and bar.red: A is the barrier's number, B the threads it is for, C a predicate, D
    /// where its sum goes. Count says whether it waits, Immediate2 what is made of the predicates.</summary>
    public static void ExecuteBarrier(Warp warp, Op* op, uint active)
    {
        bool isAligned = op->Immediate == 0; // the whole warp executes it at once, not each thread for itself
        if (isAligned && active != warp.Live)
        {
            uint others = warp.Live & ~active;
            int lane = BitOperations.TrailingZeroCount(active);
            if (warp._fragments.Count == 1 || active != warp._mask)
                throw warp.Fault(op, lane, FaultKind.Barrier,
                    $"lanes 0x{others:x8} of the warp don't come to the barrier");
            if (!warp.Converge(op, active, warp.Live, "a barrier")) return;
        }
        int first = BitOperations.TrailingZeroCount(active);
        uint number = op->A < 0 ? 0 : warp.Value<uint>(op->A, first);
        int expected = op->B < 0 ? warp.Block.Threads : (int)warp.Value<uint>(op->B, first);
        if (number >= Block.BarrierCount)
            throw warp.Fault(op, first, FaultKind.Barrier, $"barrier {number} of {Block.BarrierCount}");
        if (op->B >= 0 && (expected % 32 != 0 || expected == 0))
            throw warp.Fault(op, first, FaultKind.Barrier, $"a barrier for {expected} threads, no multiple of 32");
        // The warp counts as a whole, as the hardware has it, but lanes that have exited never come.
        int threads = op->B < 0 || !isAligned ? BitOperations.PopCount(active) : 32;
        uint predicate = op->C < 0 ? 0 : *(uint*)(warp.Registers + op->C) & active;
        bool waits = op->Count != 0;
        if (waits) warp.Wait(active, FragmentState.BlockBarrier, number);
        try
        {
            warp.Block.Arrive(warp, active, (int)number, threads, expected, waits, predicate);
        }
        catch (InvalidOperationException e)
        {
            throw warp.Fault(op, first, FaultKind.Barrier, e.Message);
        }
    }

    /// <summary>A barrier has come about: those who wait at it go on.</summary>
    public void Release(int barrier, Knowledge? known, bool whole, int sum, int expected)
    {
        if (whole)
        {
            SyncLimit = 0;
            for (int lane = 0; lane < 32; lane++) Known[lane] = known;
        }
        bool any = false;
        foreach (ref Fragment fragment in CollectionsMarshal.AsSpan(_fragments))
        {
            if (fragment.State != FragmentState.BlockBarrier || fragment.Awaited != barrier) continue;
            fragment.State = FragmentState.Ready;
            any = true;
            Op* op = Kernel.Ops + fragment.Op;
            if (op->D >= 0) Reduce(op, fragment.Mask, sum, expected);
            for (uint rest = whole ? 0 : fragment.Mask; rest != 0; rest &= rest - 1)
                Acquire(BitOperations.TrailingZeroCount(rest), known);
        }
        if (!any) return;
        if (_current >= 0) _stop = -1; // it is this warp that came last: it selects when its instruction is done
        else Select(false);
    }

    private void Reduce(Op* op, uint lanes, int sum, int expected)
    {
        if (op->Immediate2 == 0)
        {
            for (uint rest = lanes; rest != 0; rest &= rest - 1)
                Value<uint>(op->D, BitOperations.TrailingZeroCount(rest)) = (uint)sum;
            return;
        }
        bool holds = op->Immediate2 == 1 ? sum == expected : sum > 0;
        uint* result = (uint*)(Registers + op->D);
        *result = holds ? *result | lanes : *result & ~lanes;
    }

    public static void ExecuteWarpBarrier(Warp warp, Op* op, uint active)
    {
        uint members = warp.Value<uint>(op->A, BitOperations.TrailingZeroCount(active)) & warp.Lanes;
        if ((active & ~members) != 0)
            throw warp.Fault(op, BitOperations.TrailingZeroCount(active & ~members), FaultKind.Barrier,
                $"a lane at a warp barrier that its mask 0x{members:x8} leaves out");
        if ((members & ~warp.Live) != 0)
            throw warp.Fault(op, BitOperations.TrailingZeroCount(active), FaultKind.Barrier,
                $"lanes 0x{members & ~warp.Live:x8} have exited and don't come to the warp barrier");
        if (members == active) warp.Order(members);
        else warp.Wait(active, FragmentState.WarpBarrier, members);
    }

    /// <summary>What the lanes of a mask did is ordered before what they do from now on.</summary>
    private void Order(uint members)
    {
        ulong now = Block.Launch.Advance();
        Knowledge? joined = null;
        bool differ = false;
        for (uint rest = members; rest != 0; rest &= rest - 1)
            differ |= !ReferenceEquals(Known[BitOperations.TrailingZeroCount(rest)],
                Known[BitOperations.TrailingZeroCount(members)]);
        bool whole = members == Lanes;
        if (differ || !whole)
        {
            joined = new Knowledge();
            for (uint rest = members; rest != 0; rest &= rest - 1)
            {
                int lane = BitOperations.TrailingZeroCount(rest);
                joined.Add(Known[lane]);
                if (!whole) joined.Add(FirstWho + (uint)lane, (uint)(now >> 32) - 1);
            }
            for (uint rest = members; rest != 0; rest &= rest - 1)
                Known[BitOperations.TrailingZeroCount(rest)] = joined;
        }
        if (whole) SyncLimit = now;
        Block.Launch.Fences.Meet(FirstWho, [members]);
    }

    private void ReleaseWarpBarriers()
    {
        Span<Fragment> fragments = CollectionsMarshal.AsSpan(_fragments);
        for (int i = 0; i < fragments.Length; i++)
        {
            if (fragments[i].State != FragmentState.WarpBarrier) continue;
            uint members = fragments[i].Awaited, come = 0;
            foreach (Fragment other in fragments)
                if (other.State == FragmentState.WarpBarrier && other.Awaited == members) come |= other.Mask;
            if (come != members) continue;
            foreach (ref Fragment other in fragments)
                if (other.State == FragmentState.WarpBarrier && other.Awaited == members)
                    other.State = FragmentState.Ready;
            Order(members);
        }
        if (fragments.Length > 1) Merge();
    }
}
