using Native.Kernels.Sampling;

namespace Native.Kernels.Models;

/// <summary>Weights, KV cache and scratch on one backend: the <see cref="IModelRunner"/> of a real model.</summary>
public sealed class ModelRunner : IModelRunner
{
    private readonly IBackend _backend;
    private readonly Transformer _transformer;

    /// <summary>Loads a model. The file may be closed afterwards; the backend belongs to the runner.</summary>
    /// <exception cref="InvalidDataException">A tensor is missing or has a wrong shape, or the file changed while it
    /// was read.</exception>
    /// <exception cref="ModelOptionsException">This model on this machine can't meet the options.</exception>
    public ModelRunner(ModelFile file, IBackend backend, ModelOptions options, IProgress<LoadProgress>? progress = null)
    {
        _backend = backend;
        ModelConfig config = file.Config;
        // Before weights are loaded, which takes minutes.
        OperandCheck.CheckCacheType(backend.Info, options.KvCacheType);
        options.CheckKvCache(backend, file.Tensors.Values.Sum(t => t.ByteLength));
        var weights = new ModelWeights(file, backend, progress);
        file.CheckUnchanged();
        StepWeightBytes = weights.ByteLength - (weights.Head == weights.Embedding ? 0 : weights.Embedding.ByteLength);
        long scratchBytes = Transformer.ScratchBytes(config, weights.VocabularySize, backend.Info, options);
        (int maxModelLength, int blockCount) = options.FitKvCache(config, backend, scratchBytes);
        KvShape shape = config.KvShape(options.BlockSize, options.KvCacheType);
        KvLayer[] cache = [.. Enumerable.Range(0, config.LayerCount)
            .Select(_ => backend.AllocateKv(shape, blockCount))];
        _transformer = new Transformer(config, weights, cache, backend, options, maxModelLength);
        Info = new ModelInfo
        {
            Name = config.Name,
            Architecture = config.Architecture,
            Backend = backend.Info.Description,
            ParameterCount = weights.ParameterCount,
            WeightBytes = weights.ByteLength,
            KvCacheBytes = cache.Sum(layer => layer.ByteLength),
            KvCacheType = options.KvCacheType,
            VocabularySize = weights.VocabularySize,
            MaxModelLength = maxModelLength,
            BlockSize = options.BlockSize,
            BlockCount = blockCount,
            MaxBatchedTokens = options.MaxBatchedTokens,
            MaxSequences = options.MaxSequences,
            HiddenSize = config.HiddenSize,
            StepsInFlight = backend.Info.StepsInFlight,
        };
        if (backend.Info.CompilesAtFirstStep) WarmUp();
    }

    /// <summary>Draws a token after one that nobody asked for.</summary>
    private void WarmUp()
    {
        BatchBuffers buffers = new(Info, maxTokens: 1, maxSequences: 1);
        buffers.Begin();
        int row = buffers.AddSequence([0], 0, [0], place: 0);
        buffers.AddSample(row, new RowSampling { Position = 1, Temperature = 1 });
        Launch(buffers.Batch);
        Collect(buffers.Sampled, buffers.Alternatives);
    }

    /// <inheritdoc/>
    public ModelInfo Info { get; }

    /// <summary>Whether a device with a memory of its own computes.</summary>
    internal bool IsOnGpu => _backend.Info.DeviceBytes is not null;

    /// <inheritdoc/>
    public Exception? Fault => _backend.Fault;

    /// <summary>Bytes of weights that a decode step reads: all, without an embedding that is not the head
    /// too.</summary>
    internal long StepWeightBytes { get; }

    /// <inheritdoc/>
    public void Launch(in Batch batch)
    {
        BatchCheck.Check(batch, Info);
        _backend.Launch(batch, _transformer);
    }

    /// <inheritdoc/>
    public void Collect(Span<SampledToken> sampled, Span<TokenLogprob> alternatives, Span<float> hidden = default) =>
        _backend.Collect(sampled, alternatives, hidden);

    /// <summary>Computes one step and gives the raw logits of its sample rows instead of tokens: for
    /// measurements.</summary>
    /// <param name="batch">The step. How its rows are sampled is ignored. No other step may be in flight.</param>
    /// <param name="logits">Receives shape [R, <see cref="ModelInfo.VocabularySize"/>].</param>
    /// <exception cref="ArgumentException">The batch is inconsistent or past a limit, or the logits don't fit; nothing
    /// was computed.</exception>
    public void Logits(in Batch batch, Span<float> logits)
    {
        BatchCheck.Check(batch, Info);
        if (logits.Length < (long)batch.SampleRows.Length * Info.VocabularySize)
            throw new ArgumentException(
                $"{batch.SampleRows.Length} rows of {Info.VocabularySize} logits don't fit {logits.Length} places",
                nameof(logits));
        _transformer.Logits(batch, logits);
    }

    /// <summary>Frees weights and cache.</summary>
    public void Dispose() => _backend.Dispose();
}
