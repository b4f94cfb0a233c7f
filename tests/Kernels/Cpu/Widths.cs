using System.Runtime.Intrinsics;

namespace Native.Tests.Kernels.Cpu;

/// <summary>The variants of a kernel, by bits of their vectors; 0 is the definition, or what the machine chooses where
/// there is none.</summary>
public static class Widths
{
    /// <summary>All of them wherever there are vectors at all, wider ones than the machine's by way of its own; without
    /// any only what runs there.</summary>
    public static int[] All { get; } = Vector128.IsHardwareAccelerated ? [0, 128, 256, 512] : [0];

    public static TheoryData<int> Data => [.. All];
}
