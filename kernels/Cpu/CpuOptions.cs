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

    /// <summary>x86 with AVX-512 and its VNNI, on Linux: machine code made at start, for quantized weights and, where
    /// the processor has VDPBF16PS, for bfloat16 ones (with activations rounded to bfloat16).</summary>
    Avx512Vnni,

    /// <summary>ARM64 with AdvSimd and its dot product instructions.</summary>
    AdvSimd,
}

/// <summary>How the CPU backend runs.</summary>
public sealed record CpuOptions
{
    /// <summary>Threads that compute, the caller's included. 0 means one for each physical core that the process may
    /// use.</summary>
    public int Threads { get; init; }

    /// <summary>Keeps activations in float32 where weights are quantized, instead of rounding them to int8 per 32
    /// values: as exact as float32 is, at several times the cost.</summary>
    public bool FloatActivations { get; init; }

    /// <summary>Forces a variant; null takes what <see cref="VariantVariable"/> names, else the fastest the processor
    /// has. For tests and measurements.</summary>
    public CpuVariant? Variant { get; init; }

    /// <summary>The environment variable that forces a variant on a whole process, e.g. on all tests or a
    /// server.</summary>
    public const string VariantVariable = "NATIVE_CPU_VARIANT";

    /// <summary>What is computed with. Valid options only.</summary>
    internal CpuVariant Chosen => Variant ?? Named(Forced) ?? MicroKernels.Best;

    private static string? Forced => Environment.GetEnvironmentVariable(VariantVariable) is { Length: > 0 } name
        ? name : null;

    /// <summary>Every mistake in these options; empty where there is none.</summary>
    public IReadOnlyList<string> Validate()
    {
        List<string> errors = [];
        if (Threads is < 0 or > 1024)
            errors.Add($"Threads is {Threads}; it is 0 (one for each physical core) to 1024.");
        if (Variant is { } variant && !MicroKernels.IsSupported(variant))
            errors.Add(
                $"Variant is {variant}, which this processor can't run; it can run "
                + $"{string.Join(", ", MicroKernels.Supported)}.");
        if (Variant is null && Forced is { } forced && Error(forced) is { } error) errors.Add(error);
        return errors;
    }

    /// <summary>The mistake in a name in <see cref="VariantVariable"/>; null where there is none.</summary>
    internal static string? Error(string name) => Named(name) is { } variant && MicroKernels.IsSupported(variant) ? null
        : $"{VariantVariable} is '{name}'; this processor can run {string.Join(", ", MicroKernels.Supported)}.";

    // Enum.Parse takes numbers too, which are not names.
    private static CpuVariant? Named(string? name) =>
        Enum.GetNames<CpuVariant>().Contains(name, StringComparer.OrdinalIgnoreCase)
        ? Enum.Parse<CpuVariant>(name!, ignoreCase: true) : null;
}
