using Native.Kernels.Cpu;

namespace Native.Kernels.Models;

/// <summary>Backends by name.</summary>
public static class BackendFactory
{
    /// <summary>The name that chooses the fastest backend.</summary>
    public const string Auto = "auto";

    /// <summary>Names that <see cref="Create"/> takes.</summary>
    public static IReadOnlyList<string> Names { get; } = [Auto, "cpu"];

    /// <summary>The mistake in a name, as a sentence that begins with the name; null where there is none.</summary>
    public static string? Error(string name) =>
        Names.Contains(name) ? null : $"'{name}'; it must be one of {string.Join(", ", Names)}.";

    /// <summary>Bytes that a token's keys and values take in one layer of the CPU's cache. For describing a file
    /// without loading it.</summary>
    public static long CpuKvBytes(int kvHeads, int headSize, DType type) =>
        CpuKvLayer.BlockBytes(new KvShape(kvHeads, headSize, BlockSize: 1, type));

    /// <summary>Starts the backend that the options name.</summary>
    /// <exception cref="NotSupportedException">There is no such backend, or it can't run here with these
    /// options.</exception>
    public static IBackend Create(ModelOptions options)
    {
        if (Error(options.Backend) is { } error) throw new NotSupportedException($"the backend is {error}");
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
