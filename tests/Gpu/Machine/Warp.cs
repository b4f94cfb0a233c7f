using System.Diagnostics.CodeAnalysis;
using System.Numerics;
using System.Runtime.InteropServices;

namespace Native.Tests.Gpu.Machine;

internal enum FragmentState
{
    Ready,

    /// <summary>At an operation of several lanes, for those of them that have not come yet.</summary>
    Converging,

    /// <summary>At bar.warp.sync.</summary>
    WarpBarrier,

    /// <summary>At a barrier of the block.</summary>
    BlockBarrier,
}

/// <summary>Lanes of a warp that are at the same instruction.</summary>
internal struct Fragment
{
    public int Pc;
    public uint Mask;
    public FragmentState State;

    /// <summary>The lanes it waits for, or the number of a barrier.</summary>
    public uint Awaited;

    /// <summary>For bar.red: the op that waits for the result.</summary>
    public int Op;
}

/// <summary>32 threads that execute together. Where they diverge, each part is a fragment; the one furthest behind in
/// the text goes first, and parts that meet go on as one.</summary>
internal sealed unsafe partial class Warp : IDisposable
{
    private readonly List<Fragment> _fragments = [];
    private int _current, _pc, _next, _stop;
    private uint _mask;
    private bool _yields;

    public Warp(Block block, int index, uint lanes)
    {
        Block = block;
        Index = index;
        Lanes = Live = lanes;
        Kernel = block.Launch.Kernel;
        Registers = block.Launch.RegistersOf(index, SetSpecials);
        FirstWho = Who.Of(block.Index, (uint)index * 32);
        _fragments.Add(new Fragment { Mask = lanes });
        _mask = lanes;
        if (Kernel.LocalBytes > 0)
            Local = [.. Enumerable.Range(0, 32).Select(_ => new MemoryRange("local memory", Kernel.LocalBytes, false))];
        SetBlock();
        Select(false);
    }

    public Block Block { get; }

    public int Index { get; }

    public Kernel Kernel { get; }

    /// <summary>The lanes that are threads, and those of them that have not exited.</summary>
    public uint Lanes { get; }

    public uint Live { get; private set; }

    public byte* Registers { get; }

    public MemoryRange[] Local { get; } = [];

    public IReadOnlyList<Fragment> Fragments => _fragments;

    public bool CanRun { get; private set; }

    public bool HasExited => Live == 0;

    /// <summary>Times that it was let run.</summary>
    public int Turns { get; set; }

    /// <summary>Set by what is repeated in order to wait for others.</summary>
    public bool HasPolled { get; set; }

    // Order.

    /// <summary>Stamps below these are of earlier launches, before the block's last barrier, before the warp's last.
    /// </summary>
    public ulong LaunchLimit => Block.Launch.Limit;

    public ulong SyncLimit { get; private set; }

    public uint FirstWho { get; }

    /// <summary>What lanes know beyond barriers of their block and warp.</summary>
    public Knowledge?[] Known { get; } = new Knowledge?[32];

    public uint WhoOf(int lane) => FirstWho + (uint)lane;

    public ulong StampOf(int lane) => (ulong)Block.Launch.Time << 32 | WhoOf(lane);

    /// <summary>Whether what a stamp tells of happened before what a lane does now.</summary>
    public bool IsOrdered(ulong stamp, int lane)
    {
        uint who = (uint)stamp & 0x7fff_ffff;
        if (who == FirstWho + lane || stamp < LaunchLimit) return true;
        if (Who.BlockOf(who) == Block.Index)
        {
            // A barrier says nothing of copies: those who wait for them do.
            if (stamp < Block.BarrierLimit && Who.CodeOf(who) < Who.FirstCopy) return true;
            if (stamp < SyncLimit && Who.WarpOf(who) == Who.Warp + Index) return true;
        }
        return Known[lane] is { } known && known.Covers(who, (uint)(stamp >> 32), Block.Threads, Block.Launch.Blocks);
    }

    /// <summary>All that is ordered before a lane now, itself included.</summary>
    public Knowledge Everything(int lane)
    {
        Knowledge all = Known[lane]?.Copy() ?? new Knowledge();
        if (Block.BarrierLimit > 0) all.Add(Who.Of(Block.Index, Who.Block), (uint)(Block.BarrierLimit >> 32) - 1);
        if (SyncLimit > 0) all.Add(Who.Of(Block.Index, Who.Warp + (uint)Index), (uint)(SyncLimit >> 32) - 1);
        all.Add(FirstWho + (uint)lane, Block.Launch.Time);
        return all;
    }

    public void Acquire(int lane, Knowledge? other)
    {
        if (other is null) return;
        Knowledge known = Known[lane]?.Copy() ?? new Knowledge();
        known.Add(other);
        Known[lane] = known;
    }

    // Execution.

    /// <summary>Executes until nothing can go on, or a number of instructions is spent.</summary>
    public void Run(int budget)
    {
        Op* ops = Kernel.Ops;
        _yields = false;
        if (_fragments.Count > 1) Select(preferOthers: true);
        while (CanRun && budget-- > 0 && !_yields)
        {
            Op* op = ops + _pc;
            uint active = _mask;
            if (op->Guard >= 0)
            {
                uint guard = *(uint*)(Registers + op->Guard);
                active &= op->GuardNegated ? ~guard : guard;
            }
            _next = _pc + 1;
            if (active != 0)
            {
                op->Executed++;
                op->Lanes += BitOperations.PopCount(active);
                op->Execute(this, op, active);
            }
            else op->Executed++;
            _pc = _next;
            if (_pc >= _stop) Select(false);
        }
    }

    public static void ExecuteBranch(Warp warp, Op* op, uint active)
    {
        if (active == warp._mask)
        {
            warp._next = op->Target;
            if (op->Target <= warp._pc && warp._fragments.Count > 1) warp._yields |= warp.IsLooping();
            return;
        }
        warp._mask &= ~active;
        warp._fragments.Add(new Fragment { Pc = op->Target, Mask = active });
        warp._stop = -1;
    }

    public static void ExecuteExit(Warp warp, Op* op, uint active)
    {
        warp.Exit(op, active);
        warp._mask &= ~active;
        warp.Live &= ~active;
        warp._stop = -1;
    }

    public static void ExecuteTrap(Warp warp, Op* op, uint active) =>
        throw warp.Fault(op, BitOperations.TrailingZeroCount(active), FaultKind.Trap, "trap");

    /// <summary>Jumps to the instruction that an index chooses.</summary>
    public static void ExecuteIndexedBranch(Warp warp, Op* op, uint active)
    {
        for (uint rest = active; rest != 0;)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            uint index = *(uint*)(warp.Registers + op->A + lane * 4);
            if (index >= op->Count)
                throw warp.Fault(op, lane, FaultKind.Misuse, $"brx.idx by {index} of {op->Count} targets");
            uint same = 0;
            for (uint other = rest; other != 0; other &= other - 1)
            {
                int at = BitOperations.TrailingZeroCount(other);
                if (*(uint*)(warp.Registers + op->A + at * 4) == index) same |= 1u << at;
            }
            warp._fragments.Add(new Fragment { Pc = warp.Kernel.Slots[op->Slots + index], Mask = same });
            rest &= ~same;
        }
        warp._mask &= ~active;
        warp._stop = -1;
    }

    private int _loops;

    /// <summary>A fragment that jumps back again and again while others wait may wait for them.</summary>
    private bool IsLooping()
    {
        if (++_loops < 64) return false;
        _loops = 0;
        return true;
    }

    /// <summary>True where all lanes of a mask are here; otherwise the fragment waits for the others.</summary>
    public bool Converge(Op* op, uint active, uint members, string what)
    {
        if ((active & ~members) != 0)
            throw Fault(op, BitOperations.TrailingZeroCount(active & ~members), FaultKind.Convergence,
                $"{what} by a lane that its mask 0x{members:x8} leaves out");
        if ((members & ~Lanes) != 0 && members != uint.MaxValue)
            throw Fault(op, 0, FaultKind.Convergence, $"{what} names lanes that the warp does not have");
        members &= Lanes;
        if ((members & ~active) == 0) return true;
        if ((members & ~Live) != 0)
            throw Fault(op, BitOperations.TrailingZeroCount(members & ~Live), FaultKind.Convergence,
                $"{what} waits for lanes 0x{members & ~Live:x8}, which have exited");
        Wait(active, FragmentState.Converging, members);
        _next = _pc;
        return false;
    }

    /// <summary>Has lanes wait. Those of the fragment whose guard is false go past.</summary>
    private void Wait(uint active, FragmentState state, uint awaited)
    {
        if (active != _mask) _fragments.Add(new Fragment { Pc = _pc + 1, Mask = _mask & ~active });
        _mask = active;
        ref Fragment current = ref CollectionsMarshal.AsSpan(_fragments)[_current];
        current.State = state;
        current.Awaited = awaited;
        current.Op = _pc;
        _stop = -1;
    }

    /// <summary>Writes the current fragment back, joins those that meet, and takes the one furthest behind.</summary>
    private void Select(bool preferOthers)
    {
        if (_current >= 0)
        {
            ref Fragment ran = ref CollectionsMarshal.AsSpan(_fragments)[_current];
            ran.Pc = _pc;
            ran.Mask = _mask;
        }
        _current = -1;
        Merge();
        ReleaseWarpBarriers();
        Span<Fragment> fragments = CollectionsMarshal.AsSpan(_fragments);
        int best = -1, previous = _pc;
        for (int i = 0; i < fragments.Length; i++)
        {
            if (fragments[i].State != FragmentState.Ready) continue;
            if (best < 0 || IsBefore(fragments[i].Pc, fragments[best].Pc, preferOthers ? previous : -1)) best = i;
        }
        CanRun = best >= 0;
        if (best < 0) return;
        _current = best;
        _pc = fragments[best].Pc;
        _mask = fragments[best].Mask;
        _stop = int.MaxValue;
        for (int i = 0; i < fragments.Length; i++)
            if (i != best && fragments[i].State <= FragmentState.Converging && fragments[i].Pc > _pc)
                _stop = Math.Min(_stop, fragments[i].Pc);
    }

    /// <summary>Whether a comes first: the lower, except that the one that ran last goes last.</summary>
    private static bool IsBefore(int a, int b, int last) => b == last ? a != last : a != last && a < b;

    private void Merge()
    {
        for (int i = 0; i < _fragments.Count; i++)
        {
            Fragment a = _fragments[i];
            for (int j = _fragments.Count - 1; j > i; j--)
            {
                Fragment b = _fragments[j];
                if (b.Mask != 0 && (a.Mask == 0 || b.Pc != a.Pc
                    || a.State > FragmentState.Converging || b.State > FragmentState.Converging)) continue;
                if (b.Mask != 0) a.State = FragmentState.Ready;
                a.Mask |= b.Mask;
                _fragments[i] = a;
                _fragments.RemoveAt(j);
            }
        }
        _fragments.RemoveAll(fragment => fragment.Mask == 0);
    }

    /// <summary>The fault where nothing of the warp can go on but for a barrier of the block, and why.</summary>
    public GpuFault? WhyStuck()
    {
        foreach (Fragment fragment in _fragments)
        {
            if (fragment.State is not (FragmentState.Converging or FragmentState.WarpBarrier)) continue;
            uint missing = fragment.Awaited & ~fragment.Mask;
            PtxInstruction instruction = Kernel.Function.Instructions[Kernel.Ops[fragment.Op].Source];
            return FaultAt(fragment,
                instruction.Opcode.StartsWith("bar") ? FaultKind.Barrier : FaultKind.Convergence,
                $"{instruction} waits for lanes 0x{missing:x8}, which don't come");
        }
        return null;
    }

    /// <summary>A fault by a lane.</summary>
    public GpuFault Fault(Op* op, int lane, FaultKind kind, string what) =>
        new(kind, what, Kernel.Name, Kernel.LocationOf(op), (Block.Index, Index * 32 + lane));

    [DoesNotReturn]
    private void Throw(Op* op, int lane, GpuFaultCause cause) => throw Fault(op, lane, cause.Kind, cause.What);

    public void Dispose()
    {
        Block.Launch.Return((nint)Registers);
        foreach (MemoryRange range in Local) range.Dispose();
    }

    /// <summary>The special registers that each block has for itself.</summary>
    private void SetBlock()
    {
        Dim3 grid = Block.Launch.GridSize;
        SetAll("%ctaid.x", (uint)(Block.Index % grid.X));
        SetAll("%ctaid.y", (uint)(Block.Index / grid.X % grid.Y));
        SetAll("%ctaid.z", (uint)(Block.Index / (grid.X * grid.Y)));
        SetAll("%smid", (uint)(Block.Index % Block.Launch.Options.Multiprocessors));
    }

    private void SetAll(string name, uint value)
    {
        if (!Kernel.Specials.TryGetValue(name, out (int Slot, int Bytes) at)) return;
        if (at.Bytes == 8) new Span<ulong>(Registers + at.Slot, 32).Fill(value);
        else new Span<uint>(Registers + at.Slot, 32).Fill(value);
    }

    /// <summary>The special registers that a warp has alike in every block, into registers.</summary>
    private static void SetSpecials(Launch launch, int index, byte* registers)
    {
        foreach ((string name, (int slot, int bytes)) in launch.Kernel.Specials)
        {
            for (int lane = 0; lane < 32; lane++)
            {
                int thread = index * 32 + lane;
                long value = name switch
                {
                    "%tid.x" => thread % launch.BlockSize.X,
                    "%tid.y" => thread / launch.BlockSize.X % launch.BlockSize.Y,
                    "%tid.z" => thread / (launch.BlockSize.X * launch.BlockSize.Y),
                    "%ntid.x" => launch.BlockSize.X,
                    "%ntid.y" => launch.BlockSize.Y,
                    "%ntid.z" => launch.BlockSize.Z,
                    "%ctaid.x" or "%ctaid.y" or "%ctaid.z" or "%smid" => 0, // by SetBlock
                    "%nctaid.x" => launch.GridSize.X,
                    "%nctaid.y" => launch.GridSize.Y,
                    "%nctaid.z" => launch.GridSize.Z,
                    "%laneid" => lane,
                    "%warpid" => index,
                    "%nwarpid" => 32,
                    "%nsmid" => launch.Options.Multiprocessors,
                    "%gridid" => 1,
                    "%lanemask_eq" => 1L << lane,
                    "%lanemask_lt" => (1L << lane) - 1,
                    "%lanemask_le" => (2L << lane) - 1,
                    "%lanemask_gt" => uint.MaxValue & ~((2L << lane) - 1),
                    "%lanemask_ge" => uint.MaxValue & ~((1L << lane) - 1),
                    "%dynamic_smem_size" => launch.DynamicShared,
                    "%total_smem_size" => launch.DynamicShared + launch.Kernel.SharedBytes,
                    "%cluster_ctaid.x" or "%cluster_ctaid.y" or "%cluster_ctaid.z" or "%cluster_ctarank" => 0,
                    "%cluster_nctaid.x" or "%cluster_nctaid.y" or "%cluster_nctaid.z" or "%cluster_nctarank" => 1,
                    "%is_explicit_cluster" => 0,
                    _ => throw new InvalidOperationException($"{name} is not filled"),
                };
                if (bytes == 8) *(long*)(registers + slot + lane * 8) = value;
                else *(uint*)(registers + slot + lane * 4) = (uint)value;
            }
        }
    }

    /// <summary>The special registers that <see cref="SetSpecials"/> fills; clocks are read by an instruction.
    /// </summary>
    public static bool IsSpecial(string name) => name is "%tid.x" or "%tid.y" or "%tid.z" or "%ntid.x" or "%ntid.y"
        or "%ntid.z" or "%ctaid.x" or "%ctaid.y" or "%ctaid.z" or "%nctaid.x" or "%nctaid.y" or "%nctaid.z"
        or "%laneid" or "%warpid" or "%nwarpid" or "%smid" or "%nsmid" or "%gridid" or "%lanemask_eq" or "%lanemask_lt"
        or "%lanemask_le" or "%lanemask_gt" or "%lanemask_ge" or "%dynamic_smem_size" or "%total_smem_size"
        or "%cluster_ctaid.x" or "%cluster_ctaid.y" or "%cluster_ctaid.z" or "%cluster_ctarank"
        or "%cluster_nctaid.x" or "%cluster_nctaid.y" or "%cluster_nctaid.z" or "%cluster_nctarank"
        or "%is_explicit_cluster";
}
