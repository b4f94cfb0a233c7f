using Native.Kernels.Sampling;

namespace Native.Kernels.Models;

/// <summary>Weights, KV cache and scratch on one backend: the <see cref="IModelRunner"/> of a real model.</summary>
public sealed class ModelRunner : IModelRunner
{
    private readonly IBackend _backend;
    private readonly Transformer _transformer;
    private readonly KvCache _cache;

    /// <summary>Loads a model. The file may be closed afterwards; the backend belongs to the runner.</summary>
    /// <exception cref="InvalidDataException">A tensor is missing or has a wrong shape, or the file changed while it was read.</exception>
    /// <exception cref="ModelOptionsException">The options can't be met by this model on this machine.</exception>
    public ModelRunner(ModelFile file, IBackend backend, ModelOptions options, IProgress<LoadProgress>? progress = null)
    {
        _backend = backend;
        ModelConfig config = file.Config;
        options.CheckKvCache(file.Tensors.Values.Sum(t => t.ByteLength));
        var weights = new ModelWeights(file, backend, progress);
        file.CheckUnchanged();
        StepWeightBytes = weights.ByteLength - (weights.Head == weights.Embedding ? 0 : weights.Embedding.ByteLength);
        (int maxModelLength, int blockCount) = options.FitKvCache(config);
        _cache = new KvCache(config, backend, blockCount, options.BlockSize, options.KvCacheType);
        _transformer = new Transformer(config, weights, _cache, backend, options.MaxBatchedTokens, maxModelLength);
        Info = new ModelInfo
        {
            Name = config.Name,
            Architecture = config.Architecture,
            Backend = backend.Description,
            ParameterCount = weights.ParameterCount,
            WeightBytes = weights.ByteLength,
            KvCacheBytes = _cache.ByteLength,
            KvCacheType = options.KvCacheType,
            VocabularySize = weights.VocabularySize,
            MaxModelLength = maxModelLength,
            BlockSize = options.BlockSize,
            BlockCount = blockCount,
            MaxBatchedTokens = options.MaxBatchedTokens,
            MaxSequences = options.MaxSequences,
        };
    }

    /// <inheritdoc/>
    public ModelInfo Info { get; }

    /// <summary>Bytes of weights that a decode step reads: all, but of an embedding that is not the head too only some rows.</summary>
    internal long StepWeightBytes { get; }

    /// <inheritdoc/>
    public void Execute(in Batch batch, Span<SampledToken> sampled, Span<TokenLogprob> alternatives)
    {
        Check(batch, sampled.Length, alternatives.Length);
        _transformer.Execute(batch, sampled, alternatives);
    }

    /// <summary>Computes one step as <see cref="Execute"/> does, and gives the raw logits of its sample rows instead of tokens: for measurements.</summary>
    /// <param name="batch">The step; how its rows would be sampled plays no part.</param>
    /// <param name="logits">Receives shape [R, <see cref="ModelInfo.VocabularySize"/>].</param>
    /// <exception cref="ArgumentException">The batch is inconsistent or past a limit, or the logits don't fit; nothing was computed.</exception>
    public void Logits(in Batch batch, Span<float> logits)
    {
        Check(batch, batch.SampleRows.Length, 0);
        if (logits.Length < (long)batch.SampleRows.Length * Info.VocabularySize) throw new ArgumentException($"{batch.SampleRows.Length} rows of {Info.VocabularySize} logits don't fit {logits.Length} places", nameof(logits));
        _transformer.Logits(batch, logits);
    }

    /// <inheritdoc/>
    public void CopyBlock(int source, int destination)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)source, (uint)_cache.BlockCount, nameof(source));
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)destination, (uint)_cache.BlockCount, nameof(destination));
        foreach (KvLayer layer in _cache.Layers) _backend.CopyBlock(layer, source, destination);
    }

    /// <summary>Frees weights and cache.</summary>
    public void Dispose() => _backend.Dispose();

    /// <summary>Native code follows these numbers as pointers, so each is checked here, once, for every backend.</summary>
    private void Check(in Batch batch, int sampled, int alternatives)
    {
        int tokens = batch.TokenIds.Length, sequences = batch.ContextLengths.Length, rows = batch.SampleRows.Length;
        if (tokens < 1 || tokens > Info.MaxBatchedTokens) throw new ArgumentException($"the batch has {tokens} tokens, expected 1 to {Info.MaxBatchedTokens}");
        if (sequences < 1 || sequences > Info.MaxSequences) throw new ArgumentException($"the batch has {sequences} sequences, expected 1 to {Info.MaxSequences}");
        if (batch.Positions.Length != tokens || batch.SlotMapping.Length != tokens || batch.QueryStarts.Length != sequences + 1
            || batch.QueryStarts[0] != 0 || batch.QueryStarts[sequences] != tokens || batch.BlockTables.Length < (long)sequences * batch.BlockTableStride)
            throw new ArgumentException("the batch's arrays disagree in length");
        if (batch.Sampling.Length != rows || sampled < rows) throw new ArgumentException($"{rows} rows are sampled, but {batch.Sampling.Length} have parameters and {sampled} a place");
        foreach (int id in batch.TokenIds)
            if ((uint)id >= (uint)Info.VocabularySize) throw new ArgumentException($"token {id} is not in the vocabulary of {Info.VocabularySize}");
        foreach (int slot in batch.SlotMapping)
            if ((uint)slot >= (uint)Info.BlockCount * (uint)Info.BlockSize) throw new ArgumentException($"slot {slot} is not in the cache of {Info.BlockCount} blocks");
        for (int s = 0; s < sequences; s++)
        {
            int start = batch.QueryStarts[s], end = batch.QueryStarts[s + 1], context = batch.ContextLengths[s];
            int blocks = (context + Info.BlockSize - 1) / Info.BlockSize;
            if (start >= end || end > tokens || context < end - start || context > Info.MaxModelLength || blocks > batch.BlockTableStride)
                throw new ArgumentException($"sequence {s} has rows {start} to {end} and a context of {context}");
            for (int t = start; t < end; t++)
                if (batch.Positions[t] != context - (end - t)) throw new ArgumentException($"row {t} is at position {batch.Positions[t]}, expected {context - (end - t)}");
            foreach (int block in batch.BlockTables.Slice(s * batch.BlockTableStride, blocks))
                if ((uint)block >= (uint)Info.BlockCount) throw new ArgumentException($"sequence {s} names block {block} of {Info.BlockCount}");
        }
        for (int i = 0; i < rows; i++)
        {
            if ((uint)batch.SampleRows[i] >= (uint)tokens) throw new ArgumentException($"sample row {batch.SampleRows[i]} is not in the batch of {tokens}");
            ref readonly RowSampling s = ref batch.Sampling[i];
            if (s.TargetPlusOne < 0 || s.Target >= Info.VocabularySize || s.Alternatives < 0 || s.AlternativesStart < 0 || s.AlternativesStart + s.Alternatives > alternatives && s.Alternatives > 0
                || s.HistoryStart < 0 || s.HistoryPrompt < 0 || s.HistoryLength < s.HistoryPrompt || s.HistoryStart + s.HistoryLength > batch.History.Length && s.HistoryLength > 0
                || s.BiasStart < 0 || s.BiasLength < 0 || s.BiasStart + s.BiasLength > batch.Biases.Length && s.BiasLength > 0)
                throw new ArgumentException($"the sampling parameters of row {i} point outside the batch");
        }
        foreach (TokenBias bias in batch.Biases)
            if ((uint)bias.Token >= (uint)Info.VocabularySize) throw new ArgumentException($"bias of token {bias.Token}, which is not in the vocabulary of {Info.VocabularySize}");
        foreach (int id in batch.History)
            if ((uint)id >= (uint)Info.VocabularySize) throw new ArgumentException($"token {id} in a history is not in the vocabulary of {Info.VocabularySize}");
    }
}
