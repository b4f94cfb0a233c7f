namespace Native.Kernels.Cpu.Panels;

/// <summary>What the micro-kernels of a format multiply.</summary>
internal enum ActivationType : byte
{
    /// <summary>float32.</summary>
    Float,

    /// <summary><see cref="ActivationBlock"/>s.</summary>
    Int8,

    /// <summary>bfloat16, in pairs of columns.</summary>
    BFloat16,
}
