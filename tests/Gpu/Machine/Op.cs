global using unsafe Execute = delegate*<Native.Tests.Gpu.Machine.Warp, Native.Tests.Gpu.Machine.Op*, uint, void>;

namespace Native.Tests.Gpu.Machine;

internal enum Space : byte
{
    Generic,
    Global,
    Shared,
    Local,
    Param,
    Const,
}

/// <summary>One instruction, compiled: what to call, and where in a warp's registers its operands lie (bytes from their
/// beginning; -1 for none). What it counts is of one launch.</summary>
internal unsafe struct Op
{
    public Execute Execute;

    /// <summary>Results and operands.</summary>
    public int D, A, B, C, E;

    /// <summary>A predicate that must hold, or must not; -1 for none.</summary>
    public int Guard;

    /// <summary>Whether operand A is a predicate after an exclamation mark.</summary>
    public bool IsNegatedA;

    public bool GuardNegated, IsStrong, IsVolatile, IsAcquire, IsRelease;

    /// <summary>Whether a strong access or a fence is for threads of its own block alone.</summary>
    public bool IsOfBlock;

    public Space Space;

    /// <summary>Elements of a vector.</summary>
    public int Count;

    /// <summary>The first of its slots in <see cref="Kernel.Slots"/>, where it has more than four operands.</summary>
    public int Slots;

    /// <summary>The instruction to jump to.</summary>
    public int Target;

    /// <summary>An address's offset, or whatever else is constant.</summary>
    public long Immediate, Immediate2;

    /// <summary>The instruction of the PTX that it belongs to.</summary>
    public int Source;

    /// <summary>False for what the compiler adds: it does not count as an instruction.</summary>
    public bool IsCounted;

    public long Executed, Lanes, Sectors, LeastSectors, Wavefronts, LeastWavefronts;
}
