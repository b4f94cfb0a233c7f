namespace Native.Kernels;

/// <summary>What a runner has loaded and how much it can hold.</summary>
public sealed record ModelInfo
{
    /// <summary>The model's own name, for people.</summary>
    public required string Name { get; init; }

    /// <summary>Architecture as GGUF names it, e.g. <c>llama</c>, <c>qwen3</c>.</summary>
    public required string Architecture { get; init; }

    /// <summary>Backend in words, e.g. <c>cpu (AVX2, 2 threads)</c>.</summary>
    public required string Backend { get; init; }

    /// <summary>Weights, counted as the file has them.</summary>
    public required long ParameterCount { get; init; }

    /// <summary>Bytes the weights take after repacking.</summary>
    public required long WeightBytes { get; init; }

    /// <summary>Bytes of the whole KV cache.</summary>
    public required long KvCacheBytes { get; init; }

    /// <summary>Element type of the KV cache.</summary>
    public required DType KvCacheType { get; init; }

    /// <summary>Token ids are below this.</summary>
    public required int VocabularySize { get; init; }

    /// <summary>Tokens a sequence may have, prompt and output.</summary>
    public required int MaxModelLength { get; init; }

    /// <summary>Tokens a KV block holds.</summary>
    public required int BlockSize { get; init; }

    /// <summary>Blocks the cache has.</summary>
    public required int BlockCount { get; init; }

    /// <summary>Tokens one step may compute.</summary>
    public required int MaxBatchedTokens { get; init; }

    /// <summary>Sequences one step may have.</summary>
    public required int MaxSequences { get; init; }

    /// <summary>Elements of a hidden state.</summary>
    public int HiddenSize { get; init; }

    /// <summary>Steps that may be launched before the oldest is collected: 1 where a launch computes, 2 where a device
    /// computes.</summary>
    public int StepsInFlight { get; init; } = 1;
}
