using Native.Kernels.Sampling;

namespace Native.Kernels;

/// <summary>The seam between deciding and computing: a loaded model that turns one <see cref="Batch"/> into next tokens.</summary>
/// <remarks>Called by one thread at a time, the engine's. <see cref="Execute"/> allocates nothing once warm.</remarks>
public interface IModelRunner : IDisposable
{
    /// <summary>What was loaded, and the limits the scheduler must keep.</summary>
    ModelInfo Info { get; }

    /// <summary>Computes one step: keys and values of all T tokens enter the cache, and R rows are sampled or scored.</summary>
    /// <param name="batch">The step. At most <see cref="ModelInfo.MaxBatchedTokens"/> tokens and <see cref="ModelInfo.MaxSequences"/> sequences.</param>
    /// <param name="sampled">One entry for each of <see cref="Batch.SampleRows"/>.</param>
    /// <param name="alternatives">The best tokens of the rows that asked for some, each row's from its <see cref="RowSampling.AlternativesStart"/>, best first.</param>
    /// <exception cref="ArgumentException">The batch is inconsistent or past a limit; nothing was computed.</exception>
    void Execute(in Batch batch, Span<SampledToken> sampled, Span<TokenLogprob> alternatives);

    /// <summary>Copies one block's keys and values in every layer, for copy-on-write.</summary>
    void CopyBlock(int source, int destination);
}

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

    /// <summary>Ids are 0 to this, exclusive.</summary>
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
}
