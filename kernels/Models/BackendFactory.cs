using Native.Kernels.Cpu;
using Native.Kernels.Cuda;
using Native.Kernels.Gpu;
using Native.Kernels.Ilgpu;

namespace Native.Kernels.Models;

/// <summary>Backends by name.</summary>
public static class BackendFactory
{
    /// <summary>The name that chooses the fastest backend: a GPU's where there is one that can be used.</summary>
    public const string Auto = "auto";

    /// <summary>The machine's processors.</summary>
    public const string Cpu = "cpu";

    /// <summary>An NVIDIA GPU.</summary>
    public const string Cuda = "cuda";

    /// <summary>A GPU, by kernels in C# for CUDA and OpenCL.</summary>
    public const string Ilgpu = "ilgpu";

    /// <summary>Names that <see cref="ModelOptions.Backend"/> takes.</summary>
    public static IReadOnlyList<string> Names { get; } = [Auto, Cpu, Cuda, Ilgpu];

    /// <summary>The mistake in a name, as a sentence that begins with the name; null where there is none.</summary>
    public static string? Error(string name) =>
        Names.Contains(name) ? null : $"'{name}'; it must be one of {string.Join(", ", Names)}.";

    /// <summary>Bytes that a token's keys and values take in one layer of the CPU's cache. For describing a file
    /// without loading it.</summary>
    public static long CpuKvBytes(int kvHeads, int headSize, DType type) =>
        CpuKvLayer.BlockBytes(new KvShape(kvHeads, headSize, BlockSize: 1, type));

    /// <summary>The backends that are tried one after the other: a later one computes where those before it can't be
    /// started.</summary>
    /// <remarks>Auto asks for no GPU, so it goes on with the CPU where none can be used; what only the CPU has
    /// (<see cref="ModelOptions.Variant"/>) means it. Naming a device asks for a GPU.</remarks>
    internal static IReadOnlyList<string> Order(ModelOptions options)
    {
        bool isCpus = options.Variant is not null || options.FloatActivations;
        if (options.Backend == Cpu || (options.Backend == Auto && options.Device is null && isCpus)) return [Cpu];
        bool mayFallBack = options.BackendFallback is not null || (options.Backend == Auto && options.Device is null);
        // A number means a GPU; processors have to be named.
        bool isName = options.Device is not null && !int.TryParse(options.Device, out _);
        bool asksOpenCl = IlgpuLibraries.MayFindGpu || isName;
        string[] gpus = options.Backend != Auto ? [options.Backend] : asksOpenCl ? [Cuda, Ilgpu] : [Cuda];
        return mayFallBack ? [.. gpus, Cpu] : gpus;
    }

    /// <summary>Starts a backend: any name but <see cref="Auto"/>.</summary>
    /// <exception cref="GpuException">No GPU can be used; the message says why, and what to do.</exception>
    /// <exception cref="NotSupportedException">The options name no device that is here, or instructions that the
    /// processor lacks.</exception>
    internal static IBackend Create(string name, ModelOptions options)
    {
        if (name == Cuda) return new CudaBackend(options.Device);
        if (name == Ilgpu) return new IlgpuBackend(options.Device);
        CpuOptions cpu = new()
        {
            Threads = options.Threads,
            FloatActivations = options.FloatActivations,
            Variant = options.Variant
        };
        if (cpu.Validate() is { Count: > 0 } errors) throw new NotSupportedException(string.Join(" ", errors));
        return new CpuBackend(cpu);
    }
}
