using Native.Kernels.Sampling;

namespace Native.Kernels.Models;

/// <summary>The decoder, written once over <see cref="IBackend"/>. Families differ in the weights they have and in <see cref="ModelConfig"/>.</summary>
internal sealed class Transformer
{
    /// <summary>Rows that meet the head at a time. Bounds the logits' memory (a scored prompt wants every row) and is wide enough that the head's weights are read seldom.</summary>
    private const int HeadRows = 64;

    private readonly ModelConfig _config;
    private readonly ModelWeights _weights;
    private readonly KvCache _cache;
    private readonly IBackend _backend;
    private readonly AttentionShape[] _attention;
    private readonly Tensor _x;         // [T, hidden] the residual stream
    private readonly Tensor _h;         // [T, hidden] what enters and leaves a sublayer
    private readonly Tensor _qkv;       // [T, (H + 2 Hkv) d]
    private readonly Tensor _attended;  // [T, H d]
    private readonly Tensor _gateUp;    // [T, 2 f]
    private readonly Tensor _gated;     // [T, f]
    private readonly Tensor _last;      // [HeadRows, hidden]
    private readonly Tensor _logits;    // [HeadRows, vocabulary]

    public Transformer(ModelConfig config, ModelWeights weights, KvCache cache, IBackend backend, int maxBatchedTokens, int maxModelLength)
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

        Tensor Scratch(int columns) => backend.Allocate(maxBatchedTokens, columns, DType.F32);
        _x = Scratch(config.HiddenSize);
        _h = Scratch(config.HiddenSize);
        _qkv = Scratch((config.Heads + 2 * config.KvHeads) * config.HeadSize);
        _attended = Scratch(config.Heads * config.HeadSize);
        _gateUp = Scratch(2 * config.FeedForwardSize);
        _gated = Scratch(config.FeedForwardSize);
        _last = backend.Allocate(HeadRows, config.HiddenSize, DType.F32);
        _logits = backend.Allocate(HeadRows, weights.VocabularySize, DType.F32);
    }

    public void Execute(in Batch batch, Span<SampledToken> sampled, Span<TokenLogprob> alternatives)
    {
        int tokens = batch.TokenIds.Length;
        Tensor x = _x.Take(tokens), h = _h.Take(tokens), qkv = _qkv.Take(tokens);
        Tensor attended = _attended.Take(tokens), gateUp = _gateUp.Take(tokens), gated = _gated.Take(tokens);
        float epsilon = _config.NormEpsilon;

        _backend.Begin(batch);
        _backend.Embed(_weights.Embedding, _config.EmbeddingScale, x);
        for (int i = 0; i < _weights.Layers.Length; i++)
        {
            LayerWeights layer = _weights.Layers[i];
            AttentionShape attention = _attention[i];
            KvLayer cache = _cache.Layers[i];

            _backend.RmsNorm(x, layer.AttentionNorm, epsilon, h);
            _backend.MatMul(h, layer.Qkv, layer.QkvBias, qkv);
            _backend.RotateAndStore(qkv, attention, cache);
            _backend.Attend(qkv, attention, cache, attended);
            _backend.MatMul(attended, layer.Output, layer.OutputBias, h);
            if (!layer.PostAttentionNorm.IsEmpty) _backend.RmsNorm(h, layer.PostAttentionNorm, epsilon, h);
            _backend.Add(x, h);

            _backend.RmsNorm(x, layer.FeedForwardNorm, epsilon, h);
            _backend.MatMul(h, layer.GateUp, layer.GateUpBias, gateUp);
            _backend.Gate(gateUp, _config.Activation, gated);
            _backend.MatMul(gated, layer.Down, layer.DownBias, h);
            if (!layer.PostFeedForwardNorm.IsEmpty) _backend.RmsNorm(h, layer.PostFeedForwardNorm, epsilon, h);
            _backend.Add(x, h);
        }

        // Only rows whose next token is wanted meet the head.
        for (int first = 0; first < batch.SampleRows.Length; first += HeadRows)
        {
            int rows = Math.Min(HeadRows, batch.SampleRows.Length - first);
            Tensor last = _last.Take(rows), logits = _logits.Take(rows);
            _backend.Gather(x, first, last);
            _backend.RmsNorm(last, _weights.OutputNorm, epsilon, last);
            _backend.MatMul(last, _weights.Head, default, logits);
            if (_config.FinalSoftCap > 0) _backend.SoftCap(logits, _config.FinalSoftCap);
            _backend.Sample(logits, first, batch, sampled, alternatives);
        }
    }
}
