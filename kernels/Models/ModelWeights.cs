using Native.Kernels.Files;

namespace Native.Kernels.Models;

/// <summary>One layer's weights on a backend. Norms and biases a family lacks are empty.</summary>
internal sealed record LayerWeights(
    Tensor AttentionNorm, Matrix Qkv, Tensor QkvBias, Tensor QueryNorm, Tensor KeyNorm, Matrix Output, Tensor OutputBias, Tensor PostAttentionNorm,
    Tensor FeedForwardNorm, Matrix GateUp, Tensor GateUpBias, Matrix Down, Tensor DownBias, Tensor PostFeedForwardNorm);

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

        if (!file.TryFind("token_embd.weight", out TensorView embedding)) throw new InvalidDataException($"{file.Path}: tensor token_embd.weight is missing");
        if (embedding.Rows is < 1 or > 1 << 24) throw new InvalidDataException($"{file.Path}: tensor {embedding.Name} has {embedding.Rows} rows, expected a vocabulary of 1 to {1 << 24}");
        VocabularySize = (int)embedding.Rows;
        Embedding = Load([true], file.Find("token_embd.weight", VocabularySize, _config.HiddenSize));
        Head = file.TryFind("output.weight", out _) ? Load([true], file.Find("output.weight", VocabularySize, _config.HiddenSize)) : Embedding;
        OutputNorm = Norm("output_norm.weight", _config.HiddenSize, required: true);

        Layers = new LayerWeights[_config.LayerCount];
        for (int i = 0; i < Layers.Length; i++) Layers[i] = Layer($"blk.{i}.", last: i == Layers.Length - 1);
    }

    public Matrix Embedding { get; }

    /// <summary>The embedding again where the file ties them.</summary>
    public Matrix Head { get; }

    public Tensor OutputNorm { get; }

    public LayerWeights[] Layers { get; }

    public int VocabularySize { get; }

    public long ParameterCount { get; }

    public long ByteLength { get; private set; }

    /// <summary>One layer. Activations are kept in sixteen bits where eight lose most for the multiplications they save: keys and values, the head, and the last layer's feed-forward, whose error nothing after it dampens.</summary>
    private LayerWeights Layer(string at, bool last)
    {
        ReadOnlySpan<bool> fineKeysAndValues = [false, true, true];
        ModelConfig c = _config;
        int hidden = c.HiddenSize, feedForward = c.FeedForwardSize;
        int queries = c.Heads * c.HeadSize, keys = c.KvHeads * c.HeadSize;
        bool fusedQkv = _file.TryFind(at + "attn_qkv.weight", out _);
        bool fusedGate = !_file.TryFind(at + "ffn_gate.weight", out _);
        return new LayerWeights(
            Norm(at + "attn_norm.weight", hidden, required: true),
            fusedQkv
                ? Load(fineKeysAndValues, Rows("attn_qkv.weight", queries + 2 * keys, 0, queries), Rows("attn_qkv.weight", queries + 2 * keys, queries, keys), Rows("attn_qkv.weight", queries + 2 * keys, queries + keys, keys))
                : Load(fineKeysAndValues, _file.Find(at + "attn_q.weight", queries, hidden), _file.Find(at + "attn_k.weight", keys, hidden), _file.Find(at + "attn_v.weight", keys, hidden)),
            fusedQkv ? Bias((at + "attn_qkv.bias", queries + 2 * keys)) : Bias((at + "attn_q.bias", queries), (at + "attn_k.bias", keys), (at + "attn_v.bias", keys)),
            Norm(at + "attn_q_norm.weight", c.HeadSize, required: false),
            Norm(at + "attn_k_norm.weight", c.HeadSize, required: false),
            Load([false], _file.Find(at + "attn_output.weight", hidden, queries)),
            Bias((at + "attn_output.bias", hidden)),
            c.PostNorms ? Norm(at + "post_attention_norm.weight", hidden, required: true) : default,
            Norm(at + "ffn_norm.weight", hidden, required: true),
            fusedGate
                ? Load([last, last], Rows("ffn_up.weight", 2 * feedForward, 0, feedForward), Rows("ffn_up.weight", 2 * feedForward, feedForward, feedForward))
                : Load([last, last], _file.Find(at + "ffn_gate.weight", feedForward, hidden), _file.Find(at + "ffn_up.weight", feedForward, hidden)),
            fusedGate ? default : Bias((at + "ffn_gate.bias", feedForward), (at + "ffn_up.bias", feedForward)),
            Load([last], _file.Find(at + "ffn_down.weight", hidden, feedForward)),
            Bias((at + "ffn_down.bias", hidden)),
            c.PostNorms ? Norm(at + "post_ffw_norm.weight", hidden, required: true) : default);

        TensorView Rows(string fused, int all, int first, int rows) => _file.Find(at + fused, all, hidden).Slice(first, rows);
    }

    private Matrix Load(ReadOnlySpan<bool> fineActivations, params ReadOnlySpan<TensorView> parts)
    {
        Matrix matrix = _backend.Load(parts, fineActivations);
        ByteLength += matrix.ByteLength;
        foreach (TensorView part in parts) _done += part.ByteLength;
        _progress?.Report(new LoadProgress(_done, _total));
        return matrix;
    }

    private Tensor Norm(string name, int length, bool required)
    {
        float[]? weight = _file.TryDecode(name, length);
        if (weight is null) return required ? throw new InvalidDataException($"{_file.Path}: tensor {name} is missing") : default;
        foreach (ref float w in weight.AsSpan()) w += _config.NormOffset;
        return _backend.Upload(weight);
    }

    /// <summary>Stacked as the matrices are; empty where no part has a bias, zeros for a part that lacks one.</summary>
    private Tensor Bias(params ReadOnlySpan<(string Name, int Length)> parts)
    {
        int length = 0;
        bool any = false;
        foreach ((string name, int n) in parts)
        {
            length += n;
            any |= _file.TryFind(name, out _);
        }
        if (!any) return default;
        float[] stacked = new float[length];
        int start = 0;
        foreach ((string name, int n) in parts)
        {
            _file.TryDecode(name, n)?.CopyTo(stacked, start);
            start += n;
        }
        return _backend.Upload(stacked);
    }
}

/// <summary>How far loading has come.</summary>
/// <param name="Done">Bytes of weights taken in.</param>
/// <param name="Total">Bytes of weights in the file.</param>
public readonly record struct LoadProgress(long Done, long Total);
