using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;
using F = TorchSharp.torch.nn.functional;

namespace Native.Tools.DemoModel;

/// <summary>Sizes of a Llama: RMSNorm, rotary positions, grouped-query attention, SwiGLU, tied embeddings.</summary>
internal sealed record Shape(int Vocabulary, int Context)
{
    public int Width { get; init; } = 192;
    public int Layers { get; init; } = 6;
    public int Heads { get; init; } = 6;
    public int KvHeads { get; init; } = 3;
    public int FeedForward { get; init; } = 512;
    public float RmsEpsilon { get; init; } = 1e-5f;
    public float RopeBase { get; init; } = 10000f;
    public int HeadWidth => Width / Heads;
}

/// <summary>The network in training form. Rotary pairs are (i, i + d/2); the export permutes them to llama.cpp's (2i,
/// 2i + 1).</summary>
internal sealed class Llama : nn.Module<Tensor, Tensor>
{
    public readonly Shape Shape;
    public readonly Parameter Embedding, OutputNorm;
    public readonly Layer[] Layers;
    private readonly Tensor _cos, _sin;

    public sealed record Layer(
        Parameter AttnNorm, Parameter Q, Parameter K, Parameter V, Parameter O,
        Parameter FfnNorm, Parameter Gate, Parameter Up, Parameter Down);

    public Llama(Shape shape) : base("llama")
    {
        Shape = shape;
        int width = shape.Width, kv = shape.KvHeads * shape.HeadWidth;
        Embedding = Matrix("token_embd", shape.Vocabulary, width);
        OutputNorm = Ones("output_norm", width);
        Layers = [.. Enumerable.Range(0, shape.Layers).Select(i => new Layer(
            Ones($"blk{i}_attn_norm", width),
            Matrix($"blk{i}_attn_q", width, width),
            Matrix($"blk{i}_attn_k", kv, width),
            Matrix($"blk{i}_attn_v", kv, width),
            Matrix($"blk{i}_attn_output", width, width, residual: true),
            Ones($"blk{i}_ffn_norm", width),
            Matrix($"blk{i}_ffn_gate", shape.FeedForward, width),
            Matrix($"blk{i}_ffn_up", shape.FeedForward, width),
            Matrix($"blk{i}_ffn_down", width, shape.FeedForward, residual: true)))];

        int half = shape.HeadWidth / 2;
        using Tensor frequency = pow(shape.RopeBase, arange(half, dtype: ScalarType.Float32) / -(float)half);
        using Tensor angle = outer(arange(shape.Context, dtype: ScalarType.Float32), frequency);
        _cos = cat([angle.cos(), angle.cos()], 1);
        _sin = cat([-angle.sin(), angle.sin()], 1);
    }

    /// <summary>The weights of the layers' linear maps.</summary>
    public IEnumerable<Parameter> Matrices => Layers.SelectMany(l => (Parameter[])[l.Q, l.K, l.V, l.O, l.Gate, l.Up, l.Down]);

    /// <summary>The weights of the norms.</summary>
    public IEnumerable<Parameter> Norms => Layers.SelectMany(l => (Parameter[])[l.AttnNorm, l.FfnNorm]).Append(OutputNorm);

    /// <summary>Logits [B, T, vocabulary] of ids [B, T].</summary>
    public override Tensor forward(Tensor ids)
    {
        using var scope = NewDisposeScope();
        long batch = ids.shape[0], length = ids.shape[1];
        int heads = Shape.Heads, kvHeads = Shape.KvHeads, d = Shape.HeadWidth;
        Tensor cos = _cos.slice(0, 0, length, 1), sin = _sin.slice(0, 0, length, 1);

        Tensor x = Embedding.index_select(0, ids.reshape(-1)).view(batch, length, Shape.Width);
        foreach (Layer layer in Layers)
        {
            Tensor h = Norm(x, layer.AttnNorm);
            Tensor q = Rotate(F.linear(h, layer.Q).view(batch, length, heads, d).transpose(1, 2), cos, sin);
            Tensor k = Rotate(F.linear(h, layer.K).view(batch, length, kvHeads, d).transpose(1, 2), cos, sin);
            Tensor v = F.linear(h, layer.V).view(batch, length, kvHeads, d).transpose(1, 2);
            Tensor mixed = F.scaled_dot_product_attention(q, Repeat(k), Repeat(v), is_casual: true);
            x = x + F.linear(mixed.transpose(1, 2).reshape(batch, length, Shape.Width), layer.O);

            h = Norm(x, layer.FfnNorm);
            x = x + F.linear(F.silu(F.linear(h, layer.Gate)) * F.linear(h, layer.Up), layer.Down);
        }
        return F.linear(Norm(x, OutputNorm), Embedding).MoveToOuterDisposeScope();
    }

    private Tensor Norm(Tensor x, Tensor weight) =>
        x * (x * x).mean([-1], keepdim: true).add(Shape.RmsEpsilon).rsqrt() * weight;

    private static Tensor Rotate(Tensor x, Tensor cos, Tensor sin) => x * cos + x.roll(x.shape[^1] / 2, 3) * sin;

    /// <summary>[B, Hkv, T, d] to [B, H, T, d]: neighbouring query heads share a key head.</summary>
    private Tensor Repeat(Tensor x) => x.repeat_interleave(Shape.Heads / Shape.KvHeads, 1);

    private Parameter Matrix(string name, int rows, int columns, bool residual = false)
    {
        double deviation = 0.02 * Math.Sqrt(192.0 / Shape.Width) * (residual ? 1 / Math.Sqrt(2 * Shape.Layers) : 1) * 2;
        var parameter = new Parameter(randn(rows, columns) * deviation);
        register_parameter(name, parameter);
        return parameter;
    }

    private Parameter Ones(string name, int width)
    {
        var parameter = new Parameter(ones(width));
        register_parameter(name, parameter);
        return parameter;
    }
}
