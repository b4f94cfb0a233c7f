namespace Native.Tests.Gpu.Machine;

/// <summary>What a kernel did wrong.</summary>
internal enum FaultKind
{
    OutOfBounds,
    Misaligned,
    Uninitialised,
    Race,

    /// <summary>A barrier that part of a warp or of a block misses.</summary>
    Barrier,

    /// <summary>A shuffle, vote, matrix or other operation of a whole warp in which lanes are missing.</summary>
    Convergence,

    /// <summary>An asynchronous copy that is read too early, overwritten in flight, or never awaited.</summary>
    AsyncCopy,

    /// <summary>Nothing can go on.</summary>
    Deadlock,

    /// <summary>A trap, or a launch that the device can't do.</summary>
    Trap,

    /// <summary>What the ISA leaves undefined otherwise: a misused descriptor, say.</summary>
    Misuse,
}

/// <summary>A fault of a kernel: what, by which thread, in which line.</summary>
internal sealed class GpuFault(
    FaultKind kind, string what, string kernel, PtxLocation location, (int Block, int Thread)? where)
    : Exception($"{kind}: {what}, in {kernel}"
        + (where is { } at ? $", block {at.Block}, thread {at.Thread}" : "") + $", at {location}")
{
    public FaultKind Kind => kind;

    public string Kernel => kernel;

    public PtxLocation Location => location;
}
