using System.Runtime.InteropServices;

namespace Native.Tests.Gpu.Machine;

/// <summary>A kernel, compiled for the machine: its instructions, and how a warp's registers are laid out.</summary>
internal sealed unsafe class Kernel : IDisposable
{
    public Kernel(PtxFunction function, List<Op> ops, List<int> slots, byte[] template, string target)
    {
        Function = function;
        Target = target;
        Ops = (Op*)NativeMemory.Alloc((nuint)ops.Count, (nuint)sizeof(Op));
        OpCount = ops.Count;
        CollectionsMarshal.AsSpan(ops).CopyTo(new Span<Op>(Ops, ops.Count));
        Slots = (int*)NativeMemory.Alloc((nuint)slots.Count + 1, sizeof(int));
        CollectionsMarshal.AsSpan(slots).CopyTo(new Span<int>(Slots, slots.Count));
        Template = template;
    }

    public PtxFunction Function { get; }

    public string Name => Function.Name;

    public string Target { get; }

    public Op* Ops { get; }

    public int OpCount { get; }

    public int* Slots { get; }

    /// <summary>A warp's registers before the first instruction: constants.</summary>
    public byte[] Template { get; }

    /// <summary>Where each special register that it reads lies, and its width in bytes.</summary>
    public Dictionary<string, (int Slot, int Bytes)> Specials { get; init; } = [];

    /// <summary>What a device needs for its variables.</summary>
    public int SharedBytes { get; init; }

    /// <summary>Bytes between two variables in shared memory, which a device does not have.</summary>
    public const int GapBytes = 128;

    /// <summary>Where those gaps are.</summary>
    public IReadOnlyList<int> SharedGaps { get; init; } = [];

    /// <summary>Its variables in shared memory, by where they lie.</summary>
    public IReadOnlyList<PtxVariable> SharedVariables { get; init; } = [];

    /// <summary>What shared memory takes here: with the gaps.</summary>
    public int SharedExtent { get; init; }

    public int LocalBytes { get; init; }

    /// <summary>Whether barriers of a part of a block, or copies by mbarriers, order what its warps do.</summary>
    public bool HasPartialBarriers { get; init; }

    /// <summary>Most registers of 32 bits that are live at once in a thread: a trend, not what ptxas would need.
    /// </summary>
    public int LiveRegisters { get; init; }

    public PtxLocation LocationOf(Op* op) => Function.Instructions[op->Source].Location;

    public void Dispose()
    {
        NativeMemory.Free(Ops);
        NativeMemory.Free(Slots);
    }
}
