namespace Native.Kernels.Cpu;

/// <summary>Which instructions the CPU backend computes with.</summary>
public enum CpuVariant
{
    /// <summary>Plain C#, the definition that the others are held to.</summary>
    Scalar,

    /// <summary>x86 with AVX2 and FMA.</summary>
    Avx2,

    /// <summary>x86 with AVX2, FMA and the 256-bit VPDPBUSD of AVX-VNNI.</summary>
    AvxVnni,

    /// <summary>x86 with AVX-512 F and BW.</summary>
    Avx512,

    /// <summary>x86 with AVX-512 and its VNNI, on Linux: machine code made at start, for quantized weights and, where the processor has VDPBF16PS, for bfloat16 ones (with activations rounded to bfloat16).</summary>
    Avx512Vnni,

    /// <summary>ARM64 with AdvSimd and its dot product instructions.</summary>
    AdvSimd,
}

/// <summary>How the CPU backend runs.</summary>
public sealed record CpuOptions
{
    /// <summary>Threads that compute, the caller's included; 0 is one for each physical core the process may use.</summary>
    public int Threads { get; init; }

    /// <summary>Keeps activations in float32 where weights are quantized, instead of rounding them to int8 per 32 values: as exact as float32 is, at several times the cost.</summary>
    public bool FloatActivations { get; init; }

    /// <summary>Forces a variant; null takes the fastest the processor has. For tests and measurements.</summary>
    public CpuVariant? Variant { get; init; }

    /// <summary>Everything that is wrong with these options; empty where nothing is.</summary>
    public IReadOnlyList<string> Validate()
    {
        List<string> errors = [];
        if (Threads is < 0 or > 1024) errors.Add($"Threads is {Threads}; it is 0 (one for each physical core) to 1024.");
        if (Variant is { } variant && !MicroKernels.IsSupported(variant)) errors.Add($"Variant is {variant}, which this processor can't run; it can run {string.Join(", ", MicroKernels.Supported)}.");
        return errors;
    }
}
