using Native.Kernels.Cpu;

namespace Native.Kernels.Models;

/// <summary>How a model is loaded.</summary>
public sealed record ModelOptions
{
    /// <summary>Default of <see cref="MaxBatchedTokens"/>.</summary>
    public const int DefaultMaxBatchedTokens = 512;

    /// <summary>Default of <see cref="MaxSequences"/>.</summary>
    public const int DefaultMaxSequences = 64;

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

    /// <summary>Bytes for the KV cache. Null: enough for <see cref="MaxSequences"/> of <see cref="MaxModelLength"/>, at
    /// most 4 GiB (vLLM's CPU default) and half of the free memory.</summary>
    public long? KvCacheBytes { get; init; }

    /// <summary>Tokens one step may compute. Default 512: on a CPU a longer step gains little throughput and stalls
    /// every stream.</summary>
    public int MaxBatchedTokens { get; init; } = DefaultMaxBatchedTokens;

    /// <summary>Sequences one step may have. Default 64.</summary>
    public int MaxSequences { get; init; } = DefaultMaxSequences;

    /// <summary>What computes, by name: one of <see cref="BackendFactory.Names"/>.</summary>
    public string Backend { get; init; } = BackendFactory.Auto;

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
        if (BackendFactory.Error(Backend) is { } error) errors.Add($"Backend is {error}");
        if (!Enum.IsDefined(KvCacheType))
            errors.Add($"KvCacheType is {KvCacheType}, expected one of {string.Join(", ", Enum.GetNames<DType>())}.");
        if (MaxBatchedTokens < MaxSequences)
            errors.Add(
                $"MaxBatchedTokens is {MaxBatchedTokens}, below MaxSequences ({MaxSequences}): a full batch could not "
                + "decode one token each.");
    }

    /// <summary>Throws if the KV cache would not fit beside the weights. Called before weights are loaded, which may
    /// take minutes.</summary>
    /// <exception cref="ModelOptionsException">There is not that much memory.</exception>
    internal void CheckKvCache(long freeBytes, long weightBytes)
    {
        long free = Math.Max(freeBytes - weightBytes, 0);
        if (KvCacheBytes > free)
            throw new ModelOptionsException(
                $"a KV cache of {KvCacheBytes >> 20} MiB was asked for, but only {free >> 20} MiB of memory are free "
                + $"beside {weightBytes >> 20} MiB of weights");
    }

    /// <summary>Length limit and number of blocks for a model, called when its weights are in memory.</summary>
    /// <exception cref="ModelOptionsException">One sequence of the requested length does not fit.</exception>
    internal (int MaxModelLength, int BlockCount) FitKvCache(ModelConfig config, IBackend backend)
    {
        long blockBytes = config.LayerCount * backend.KvBlockBytes(config.KvShape(BlockSize, KvCacheType)),
            free = backend.FreeBytes;
        int wanted = Math.Min(MaxModelLength ?? config.ContextLength, 1 << 28);
        long BlocksOf(long tokens) => (tokens + BlockSize - 1) / BlockSize;

        CheckKvCache(free, weightBytes: 0);
        long budget = KvCacheBytes ?? Math.Min(4L << 30, free / 2);
        long blocks = Math.Min(budget / blockBytes,
            KvCacheBytes is null ? BlocksOf(wanted) * MaxSequences : long.MaxValue);
        blocks = Math.Min(blocks, int.MaxValue / BlockSize); // slots are 32-bit numbers
        if (blocks < 1)
            throw new ModelOptionsException(
                $"a KV cache of {budget} bytes holds no block: one of {BlockSize} tokens takes {blockBytes}");
        if (blocks < BlocksOf(wanted))
        {
            if (MaxModelLength is not null)
                throw new ModelOptionsException(
                    $"a sequence of {wanted} tokens needs {BlocksOf(wanted) * blockBytes >> 20} MiB of KV cache, but "
                    + $"{blocks * blockBytes >> 20} MiB hold {blocks * BlockSize} tokens: lower the length or raise "
                    + "the cache");
            wanted = (int)(blocks * BlockSize);
        }
        return (wanted, (int)blocks);
    }
}

/// <summary>Options that can't be met. The message says which, and what is possible.</summary>
public sealed class ModelOptionsException(string message) : Exception(message);
