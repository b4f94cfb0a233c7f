using Native.Kernels.Files;

namespace Native.Kernels.Models;

/// <summary>One layer's weights on a backend. Norms and biases a family lacks are empty.</summary>
internal sealed record LayerWeights
{
    public required Tensor AttentionNorm { get; init; }

    public required Matrix Qkv { get; init; }

    public Tensor QkvBias { get; init; }

    public Tensor QueryNorm { get; init; }

    public Tensor KeyNorm { get; init; }

    public required Matrix Output { get; init; }

    public Tensor OutputBias { get; init; }

    public Tensor PostAttentionNorm { get; init; }

    public required Tensor FeedForwardNorm { get; init; }

    public required Matrix GateUp { get; init; }

    public Tensor GateUpBias { get; init; }

    public required Matrix Down { get; init; }

    public Tensor DownBias { get; init; }

    public Tensor PostFeedForwardNorm { get; init; }
}

/// <summary>A model's weights in a backend's memory and layout.</summary>
internal sealed class ModelWeights
{
    private readonly ModelFile _file;
    private readonly ModelConfig _config;
    private readonly IBackend _backend;
    private readonly IProgress<LoadProgress>? _progress;
    private readonly long _total;
    private long _done;

    /// <summary>Loads everything; vocabulary = the embedding's rows.</summary>
    public ModelWeights(ModelFile file, IBackend backend, IProgress<LoadProgress>? progress)
    {
        (_file, _config, _backend, _progress) = (file, file.Config, backend, progress);
        _total = file.Tensors.Values.Sum(t => t.ByteLength);
        ParameterCount = file.Tensors.Values.Sum(t => t.Rows * t.Columns);

        if (!file.TryFind("token_embd.weight", out TensorView embedding))
            throw new InvalidDataException($"{file.Path}: tensor token_embd.weight is missing");
        if (embedding.Rows is < 1 or > 1 << 24)
            throw new InvalidDataException(
                $"{file.Path}: tensor {embedding.Name} has {embedding.Rows} rows, expected a vocabulary of 1 to "
                + $"{1 << 24}");
        VocabularySize = (int)embedding.Rows;
        bool tied = !file.TryFind("output.weight", out _);
        Embedding = Load(
            new MatrixRole(tied ? MatrixUse.EmbeddingAndHead : MatrixUse.Embedding),
                file.Find("token_embd.weight", VocabularySize, _config.HiddenSize));
        Head = tied ? Embedding : Load(new MatrixRole(MatrixUse.Head),
            file.Find("output.weight", VocabularySize, _config.HiddenSize));
        OutputNorm = Norm("output_norm.weight", _config.HiddenSize, required: true);

        Layers = new LayerWeights[_config.LayerCount];
        for (int i = 0; i < Layers.Length; i++) Layers[i] = Layer($"blk.{i}.", last: i == Layers.Length - 1);
    }

    public Matrix Embedding { get; }

    /// <summary>The head; the embedding itself where the file ties them.</summary>
    public Matrix Head { get; }

    public Tensor OutputNorm { get; }

    public LayerWeights[] Layers { get; }

    public int VocabularySize { get; }

    public long ParameterCount { get; }

    public long ByteLength { get; private set; }

    private LayerWeights Layer(string at, bool last)
    {
        ModelConfig c = _config;
        int hidden = c.HiddenSize, feedForward = c.FeedForwardSize, queries = c.Heads * c.HeadSize,
            keys = c.KvHeads * c.HeadSize;
        (string, int)[] qkv = [("attn_q", queries), ("attn_k", keys), ("attn_v", keys)];
        (string, int)[] gateUp = [("ffn_gate", feedForward), ("ffn_up", feedForward)];
        bool fusedQkv = _file.TryFind(at + "attn_qkv.weight", out _),
            fusedGate = !_file.TryFind(at + "ffn_gate.weight", out _);
        return new LayerWeights
        {
            AttentionNorm = Norm(at + "attn_norm.weight", hidden, required: true),
            Qkv = Projections(MatrixUse.Qkv, at, fusedQkv ? "attn_qkv" : null, qkv, last),
            QkvBias = fusedQkv ? Bias(at, ("attn_qkv", queries + (2 * keys))) : Bias(at, qkv),
            QueryNorm = Norm(at + "attn_q_norm.weight", c.HeadSize, required: false),
            KeyNorm = Norm(at + "attn_k_norm.weight", c.HeadSize, required: false),
            Output = Load(new MatrixRole(MatrixUse.AttentionOutput, last),
                _file.Find(at + "attn_output.weight", hidden, queries)),
            OutputBias = Bias(at, ("attn_output", hidden)),
            PostAttentionNorm = c.PostNorms ? Norm(at + "post_attention_norm.weight", hidden, required: true) : default,
            FeedForwardNorm = Norm(at + "ffn_norm.weight", hidden, required: true),
            GateUp = Projections(MatrixUse.GateUp, at, fusedGate ? "ffn_up" : null, gateUp, last),
            GateUpBias = fusedGate ? default : Bias(at, gateUp),
            Down = Load(new MatrixRole(MatrixUse.Down, last), _file.Find(at + "ffn_down.weight", hidden, feedForward)),
            DownBias = Bias(at, ("ffn_down", hidden)),
            PostFeedForwardNorm = c.PostNorms ? Norm(at + "post_ffw_norm.weight", hidden, required: true) : default,
        };
    }

    /// <summary>Several projections of the residual stream as one matrix, read from a tensor each or from one fused
    /// tensor.</summary>
    /// <param name="use">What they are for.</param>
    /// <param name="at">The layer's prefix.</param>
    /// <param name="fused">The tensor that holds all of them in order; null where each has its own.</param>
    /// <param name="parts">Names and rows.</param>
    /// <param name="last">True in the last layer.</param>
    private Matrix Projections(MatrixUse use, string at, string? fused, (string Name, int Rows)[] parts, bool last)
    {
        int all = parts.Sum(part => part.Rows), first = 0;
        var views = new TensorView[parts.Length];
        for (int i = 0; i < parts.Length; first += parts[i++].Rows)
        {
            views[i] = fused is null
                ? _file.Find($"{at}{parts[i].Name}.weight", parts[i].Rows, _config.HiddenSize)
                : _file.Find($"{at}{fused}.weight", all, _config.HiddenSize).Slice(first, parts[i].Rows);
        }
        return Load(new MatrixRole(use, last), views);
    }

    private Matrix Load(MatrixRole role, params ReadOnlySpan<TensorView> parts)
    {
        Matrix matrix = _backend.Load(parts, role);
        ByteLength += matrix.ByteLength;
        foreach (TensorView part in parts) _done += part.ByteLength;
        _progress?.Report(new LoadProgress(_done, _total));
        return matrix;
    }

    private Tensor Norm(string name, int length, bool required)
    {
        float[]? weight = _file.TryDecode(name, length);
        if (weight is null)
            return required ? throw new InvalidDataException($"{_file.Path}: tensor {name} is missing") : default;
        foreach (ref float w in weight.AsSpan()) w += _config.NormOffset;
        return _backend.Upload(weight);
    }

    /// <summary>Biases, stacked like the matrices. Empty where no part has a bias; zeros for a part without
    /// one.</summary>
    private Tensor Bias(string at, params ReadOnlySpan<(string Name, int Length)> parts)
    {
        int length = 0;
        bool any = false;
        foreach ((string name, int n) in parts)
        {
            length += n;
            any |= _file.TryFind($"{at}{name}.bias", out _);
        }
        if (!any) return default;
        float[] stacked = new float[length];
        int start = 0;
        foreach ((string name, int n) in parts)
        {
            _file.TryDecode($"{at}{name}.bias", n)?.CopyTo(stacked, start);
            start += n;
        }
        return _backend.Upload(stacked);
    }
}

/// <summary>How far loading has come.</summary>
/// <param name="Done">Bytes of weights taken in.</param>
/// <param name="Total">Bytes of weights in the file.</param>
public readonly record struct LoadProgress(long Done, long Total);
