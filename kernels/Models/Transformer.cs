using Native.Kernels.Sampling;

namespace Native.Kernels.Models;

/// <summary>The decoder, written once over <see cref="IBackend"/>. Families differ in their weights and in
/// <see cref="ModelConfig"/>.</summary>
internal sealed class Transformer : IStepGraph
{
    private readonly ModelConfig _config;
    private readonly ModelWeights _weights;
    private readonly KvLayer[] _cache;  // by layer
    private readonly IBackend _backend;
    private readonly AttentionShape[] _attention;
    private readonly int _headRows;     // rows that meet the head at a time
    private readonly Tensor _x;         // [T, hidden] the residual stream
    private readonly Tensor _h;         // [T, hidden] what leaves a sublayer, where it is normalized
    private readonly Tensor _qkv;       // [T, (H + 2 Hkv) d]
    private readonly Tensor _attended;  // [T, H d]
    private readonly Tensor _gated;     // [T, f]
    private readonly Tensor _last;      // [head rows, hidden]
    private readonly Tensor _logits;    // [head rows, vocabulary]

    /// <summary>Takes scratch for the largest step.</summary>
    public Transformer(
        ModelConfig config, ModelWeights weights, KvLayer[] cache, IBackend backend, ModelOptions options,
            int maxModelLength)
    {
        (_config, _weights, _cache, _backend) = (config, weights, cache, backend);

        int rope = config.Rope.AddTo(backend, maxModelLength);
        int windowRope = config.WindowRope?.AddTo(backend, maxModelLength) ?? rope;
        _attention = new AttentionShape[config.LayerCount];
        for (int i = 0; i < _attention.Length; i++)
        {
            _attention[i] = new AttentionShape
            {
                Heads = config.Heads,
                KvHeads = config.KvHeads,
                HeadSize = config.HeadSize,
                Rope = config.Windows[i] > 0 ? windowRope : rope,
                Pairing = config.RopePairing,
                Scale = config.AttentionScale,
                Window = config.Windows[i],
                SoftCap = config.AttentionSoftCap,
                QueryNorm = weights.Layers[i].QueryNorm,
                KeyNorm = weights.Layers[i].KeyNorm,
                NormEpsilon = config.NormEpsilon,
            };
        }

        Tensor[] scratch = [.. Scratch(config, weights.VocabularySize, backend.Info, options)
            .Select(tensor => backend.Allocate(tensor.Rows, tensor.Columns, tensor.Type))];
        (_x, _h, _qkv, _attended) = (scratch[0], scratch[1], scratch[2], scratch[3]);
        (_gated, _last, _logits) = (scratch[4], scratch[5], scratch[6]);
        _headRows = _last.Rows;
    }

    /// <summary>Bytes of scratch that a model needs: known before anything is allocated, so that a KV cache that takes
    /// all of a device's memory leaves them.</summary>
    public static long ScratchBytes(ModelConfig config, int vocabulary, BackendInfo backend, ModelOptions options) =>
        Scratch(config, vocabulary, backend, options).Sum(tensor => tensor.ByteLength);

    /// <summary>Shapes of the scratch, in the order of the fields.</summary>
    private static Tensor[] Scratch(ModelConfig config, int vocabulary, BackendInfo backend, ModelOptions options)
    {
        Tensor Of(int rows, int columns) => new(0, rows, columns, backend.ScratchType);
        // All decodes meet the head at once, padded or not, so that its weights are read once. A scored prompt comes in
        // parts.
        int multiple = backend.RowMultiple, padded = (options.MaxSequences + multiple - 1) / multiple * multiple;
        int tokens = options.MaxBatchedTokens, headRows = Math.Max(backend.HeadRows, padded);
        return
        [
            Of(tokens, config.HiddenSize), Of(tokens, config.HiddenSize),
            Of(tokens, (config.Heads + 2 * config.KvHeads) * config.HeadSize),
            Of(tokens, config.Heads * config.HeadSize), Of(tokens, config.FeedForwardSize),
            Of(headRows, config.HiddenSize), new(0, headRows, vocabulary, DType.F32),
        ];
    }

    /// <inheritdoc/>
    public int MostTokens => _x.Rows;

    /// <summary>A step that samples: all layers, then the head for the rows that want a token or a score.</summary>
    public void Enqueue(in StepShape shape)
    {
        Tensor x = Layers(shape);
        for (int first = 0; first < shape.SampleRows; first += _headRows)
            _backend.Sample(Head(x, first, shape.SampleRows), first);
        if (shape.HiddenRows > 0) _backend.Hidden(x, new RowNorm(_weights.OutputNorm, _config.NormEpsilon));
    }

    /// <summary>Computes a step and gives the logits of its sample rows, shape [R, vocabulary]. For
    /// measurements.</summary>
    public void Logits(in Batch batch, Span<float> logits)
    {
        _backend.Launch(batch, new LayersAlone(this));
        Tensor x = _x.Take(batch.TokenIds.Length);
        for (int first = 0; first < batch.SampleRows.Length; first += _headRows)
            _backend.Read(Head(x, first, batch.SampleRows.Length), logits[(first * _weights.VocabularySize)..]);
        _backend.Collect(new SampledToken[batch.SampleRows.Length], new TokenLogprob[batch.AlternativeCount]);
    }

    private sealed class LayersAlone(Transformer transformer) : IStepGraph
    {
        public int MostTokens => 0;

        public void Enqueue(in StepShape shape) => transformer.Layers(shape);
    }

    /// <summary>All layers; returns the residual stream that leaves them.</summary>
    private Tensor Layers(in StepShape shape)
    {
        int tokens = shape.Tokens;
        Tensor x = _x.Take(tokens), qkv = _qkv.Take(tokens);
        Tensor attended = _attended.Take(tokens), gated = _gated.Take(tokens);
        float epsilon = _config.NormEpsilon;

        _backend.Embed(_weights.Embedding, _config.EmbeddingScale, x);
        for (int i = 0; i < _weights.Layers.Length; i++)
        {
            LayerWeights layer = _weights.Layers[i];
            AttentionShape attention = _attention[i];
            KvLayer cache = _cache[i];

            _backend.MatMul(x, layer.Qkv, layer.QkvBias, qkv, new RowNorm(layer.AttentionNorm, epsilon));
            _backend.Attend(qkv, attention, cache, attended);
            AddTo(x, attended, layer.Output, layer.OutputBias, layer.PostAttentionNorm);
            _backend.MatMulGate(x, layer.GateUp, layer.GateUpBias, _config.Activation, gated,
                new RowNorm(layer.FeedForwardNorm, epsilon));
            AddTo(x, gated, layer.Down, layer.DownBias, layer.PostFeedForwardNorm);
        }
        return x;
    }

    /// <summary>Logits of the sample rows from <paramref name="first"/> on, as many as fit.</summary>
    private Tensor Head(Tensor x, int first, int sampleRows)
    {
        int rows = Math.Min(_headRows, sampleRows - first);
        Tensor last = _last.Take(rows), logits = _logits.Take(rows);
        _backend.Gather(x, first, last);
        _backend.MatMul(last, _weights.Head, default, logits, new RowNorm(_weights.OutputNorm, _config.NormEpsilon));
        if (_config.FinalSoftCap > 0) _backend.SoftCap(logits, _config.FinalSoftCap);
        return logits;
    }

    /// <summary>x += norm(w y + bias): a sublayer's end, whose norm only some families have.</summary>
    private void AddTo(Tensor x, Tensor y, Matrix w, Tensor bias, Tensor norm)
    {
        if (norm.IsEmpty)
        {
            _backend.MatMulAdd(y, w, bias, x);
            return;
        }
        Tensor h = _h.Take(x.Rows);
        _backend.MatMul(y, w, bias, h);
        _backend.RmsNorm(h, norm, _config.NormEpsilon, h);
        _backend.Add(x, h);
    }
}
