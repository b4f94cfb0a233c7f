using Native.Kernels.Cpu;
using static System.FormattableString;

namespace Native.Kernels.Models;

/// <summary>How a model is loaded.</summary>
public sealed record ModelOptions
{
    /// <summary>Default of <see cref="MaxBatchedTokens"/>.</summary>
    public const int DefaultMaxBatchedTokens = 512;

    /// <summary>Default of <see cref="MaxSequences"/>.</summary>
    public const int DefaultMaxSequences = 64;

    /// <summary>Default of <see cref="GpuMemoryUtilization"/>.</summary>
    public const double DefaultGpuMemoryUtilization = 0.9;

    /// <summary>A GGUF file, or a Hugging Face folder with config.json and safetensors.</summary>
    public required string Path { get; init; }

    /// <summary>Tokens a sequence may have. Null: what the model was made for, or what the KV cache holds if that is
    /// less.</summary>
    public int? MaxModelLength { get; init; }

    /// <summary>Tokens a KV block holds. Default 16, vLLM's: small enough to waste little, large enough to
    /// stream.</summary>
    public int BlockSize { get; init; } = 16;

    /// <summary>Element type of the KV cache. Default F16: half the bytes, and a hundredth of the error that 8-bit
    /// activations bring.</summary>
    public DType KvCacheType { get; init; } = DType.F16;

    /// <summary>Bytes for the KV cache. Null: enough for <see cref="MaxSequences"/> of <see cref="MaxModelLength"/>, on
    /// the CPU at most 4 GiB (vLLM's CPU default) and half of the free memory, on a GPU at most what weights and
    /// scratch leave of <see cref="GpuMemoryUtilization"/>.</summary>
    public long? KvCacheBytes { get; init; }

    /// <summary>The part of a GPU's memory that may be taken by weights, KV cache, scratch and whatever others hold of
    /// it, above 0 and at most 1. Default 0.9: the driver, compiled kernels and what grows with the longest
    /// context need some too.</summary>
    public double GpuMemoryUtilization { get; init; } = DefaultGpuMemoryUtilization;

    /// <summary>Tokens one step may compute. Default 512: on a CPU a longer step gains little throughput and stalls
    /// every stream.</summary>
    public int MaxBatchedTokens { get; init; } = DefaultMaxBatchedTokens;

    /// <summary>Sequences one step may have. Default 64.</summary>
    public int MaxSequences { get; init; } = DefaultMaxSequences;

    /// <summary>What computes, by name: one of <see cref="BackendFactory.Names"/>.</summary>
    public string Backend { get; init; } = BackendFactory.Auto;

    /// <summary>Which device of the backend: its number, or a part of its name that only one has, in any case. Null:
    /// the first that can run the kernels.</summary>
    public string? Device { get; init; }

    /// <summary>What computes where the backend can't be started: <see cref="BackendFactory.Cpu"/>, or null for
    /// nothing; loading fails then. <see cref="BackendFactory.Auto"/> needs none.</summary>
    public string? BackendFallback { get; init; }

    /// <summary>Threads that compute; 0 means one for each physical core.</summary>
    public int Threads { get; init; }

    /// <summary>Keeps activations in float32 for quantized weights too: slower, closest to the reference.</summary>
    public bool FloatActivations { get; init; }

    /// <summary>Forces the instructions the CPU computes with; null takes the fastest the processor has. For
    /// measurements.</summary>
    public CpuVariant? Variant { get; init; }

    /// <summary>Adds a sentence for each invalid value.</summary>
    public void Validate(ICollection<string> errors)
    {
        void Within(string name, long? value, long least, long most)
        {
            if (value is { } v && (v < least || v > most)) errors.Add($"{name} is {v}, expected {least} to {most}.");
        }
        if (string.IsNullOrWhiteSpace(Path))
            errors.Add("Path is empty: a GGUF file or a Hugging Face folder is expected.");
        Within(nameof(MaxModelLength), MaxModelLength, 1, 1 << 28);
        Within(nameof(BlockSize), BlockSize, 1, 1024);
        Within(nameof(KvCacheBytes), KvCacheBytes, 1, 1L << 46);
        Within(nameof(MaxBatchedTokens), MaxBatchedTokens, 1, 1 << 16);
        Within(nameof(MaxSequences), MaxSequences, 1, 1 << 14);
        Within(nameof(Threads), Threads, 0, 1024);
        if (!(GpuMemoryUtilization > 0 && GpuMemoryUtilization <= 1))
            errors.Add(Invariant($"GpuMemoryUtilization is {GpuMemoryUtilization}, expected above 0 and at most 1."));
        ValidateBackend(errors);
        if (!Enum.IsDefined(KvCacheType))
            errors.Add($"KvCacheType is {KvCacheType}, expected one of {string.Join(", ", Enum.GetNames<DType>())}.");
        if (MaxBatchedTokens < MaxSequences)
            errors.Add(
                $"MaxBatchedTokens is {MaxBatchedTokens}, below MaxSequences ({MaxSequences}): a full batch could not "
                + "decode one token each.");
    }

    private void ValidateBackend(ICollection<string> errors)
    {
        if (BackendFactory.Error(Backend) is { } error) errors.Add($"Backend is {error}");
        if (Device is not null && string.IsNullOrWhiteSpace(Device))
            errors.Add("Device is empty; it must be a device's number or a part of its name.");
        if (Device is not null && Backend == BackendFactory.Cpu)
            errors.Add($"Device is '{Device}', but the cpu backend has no devices.");
        if (KvCacheType == DType.FP8 && BackendFactory.Cpu == (BackendFallback ?? Backend))
            errors.Add("KvCacheType is FP8, which the cpu backend does not keep.");
        if (Variant is not null && Backend is BackendFactory.Cuda or BackendFactory.Ilgpu)
            errors.Add($"Variant is {Variant} (--variant), but only the cpu backend has such instructions.");
        if (BackendFallback is not (null or BackendFactory.Cpu))
            errors.Add($"BackendFallback is '{BackendFallback}'; it must be {BackendFactory.Cpu}.");
    }

    /// <summary>Throws if the KV cache would not fit beside the weights. Called before weights are loaded, which may
    /// take minutes.</summary>
    /// <exception cref="ModelOptionsException">There is not that much memory.</exception>
    internal void CheckKvCache(IBackend backend, long weightBytes)
    {
        long free = Math.Max(FreeBytes(backend) - weightBytes, 0);
        if (KvCacheBytes > free)
            throw new ModelOptionsException(
                $"a KV cache of {KvCacheBytes >> 20} MiB was asked for, but only {free >> 20} MiB of memory are free "
                + $"beside {weightBytes >> 20} MiB of weights{Explain(backend)}");
    }

    /// <summary>Length limit and number of blocks for a model, called when its weights are in memory.</summary>
    /// <param name="config">The model.</param>
    /// <param name="backend">Whose memory it is.</param>
    /// <param name="scratchBytes">What is to be left free for the graph.</param>
    /// <exception cref="ModelOptionsException">One sequence of the requested length does not fit.</exception>
    internal (int MaxModelLength, int BlockCount) FitKvCache(ModelConfig config, IBackend backend, long scratchBytes)
    {
        long blockBytes = config.LayerCount * backend.KvBlockBytes(config.KvShape(BlockSize, KvCacheType));
        int wanted = Math.Min(MaxModelLength ?? config.ContextLength, 1 << 28);
        long BlocksOf(long tokens) => (tokens + BlockSize - 1) / BlockSize;

        long budget = KvBudget(backend, scratchBytes);
        long blocks = Math.Min(budget / blockBytes,
            KvCacheBytes is null ? BlocksOf(wanted) * MaxSequences : long.MaxValue);
        blocks = Math.Min(blocks, int.MaxValue / BlockSize); // slots are 32-bit numbers
        if (blocks < 1)
            throw new ModelOptionsException(
                $"a KV cache of {budget} bytes holds no block: one of {BlockSize} tokens takes {blockBytes}"
                + Explain(backend, scratchBytes));
        if (blocks < BlocksOf(wanted))
        {
            if (MaxModelLength is not null)
                throw new ModelOptionsException(
                    $"a sequence of {wanted} tokens needs {BlocksOf(wanted) * blockBytes >> 20} MiB of KV cache, but "
                    + $"{blocks * blockBytes >> 20} MiB hold {blocks * BlockSize} tokens: lower the length or raise "
                    + $"the cache{Explain(backend, scratchBytes)}");
            wanted = (int)(blocks * BlockSize);
        }
        return (wanted, (int)blocks);
    }

    /// <summary>Bytes that the cache may take. A GPU's memory has no other use: all that is left.</summary>
    private long KvBudget(IBackend backend, long scratchBytes)
    {
        if (backend.Info.DeviceBytes is null)
        {
            CheckKvCache(backend, weightBytes: 0);
            return KvCacheBytes ?? Math.Min(4L << 30, FreeBytes(backend) / 2);
        }
        long free = Math.Max(FreeBytes(backend) - scratchBytes, 0);
        if (KvCacheBytes > free)
            throw new ModelOptionsException(
                $"a KV cache of {KvCacheBytes >> 20} MiB was asked for, but weights and scratch leave {free >> 20} MiB"
                + Explain(backend, scratchBytes));
        return KvCacheBytes ?? free;
    }

    /// <summary>Bytes that may still be taken of a backend's memory. What other processes hold of a GPU counts as
    /// taken.</summary>
    private long FreeBytes(IBackend backend)
    {
        long free = backend.FreeBytes;
        return backend.Info.DeviceBytes is { } all ? Math.Max(free - (all - (long)(all * GpuMemoryUtilization)), 0)
            : free;
    }

    /// <summary>Where the figures of a GPU come from, for messages.</summary>
    private string Explain(IBackend backend, long scratchBytes = 0)
    {
        if (backend.Info.DeviceBytes is not { } all) return "";
        long free = backend.FreeBytes, kept = all - (long)(all * GpuMemoryUtilization);
        string scratch = scratchBytes > 0 ? Invariant($"scratch needs {scratchBytes / (double)(1 << 20):0.0}, ") : "";
        return Invariant($" (of {all >> 20} MiB {free >> 20} are free, {scratch}--gpu-memory-utilization ")
            + Invariant($"{GpuMemoryUtilization} keeps {kept >> 20} free)");
    }
}

/// <summary>Options that can't be met. The message says which, and what is possible.</summary>
public sealed class ModelOptionsException(string message) : Exception(message);
