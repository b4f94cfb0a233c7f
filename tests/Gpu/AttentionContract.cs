using Native.Tests.Gpu.Machine;

namespace Native.Tests.Gpu;

/// <summary>Paged attention on the machine against softmax(q K^T) V in double precision, for head sizes, groups,
/// windows, caps and types of the cache; a row's bits are the same in a chunk and as a decode.</summary>
public abstract class AttentionContract
{
    /// <summary>Stores all tokens and attends with those from some on. Blocks are in no order.</summary>
    private protected abstract float[] Attend(
        Case shape, float[] qkv, float[] queryNorm, float[] keyNorm, int from, LaunchOptions options);

    /// <summary>A shape of attention.</summary>
    private protected sealed record Case(
        string Type, int Heads, int KvHeads, int Size, int Pairs, int Tokens, int BlockSize = 16, int Window = 0,
        float SoftCap = 0, bool Interleaved = false, bool Norms = false);

    [Theory]
    [InlineData("F32", 1e-5)]
    [InlineData("F16", 2e-3)]
    [InlineData("BF16", 2e-2)]
    [InlineData("Q8_0", 4e-2)]
    [InlineData("FP8", 0.15)]
    public void EachTypeOfCache(string type, double tolerance) => Check(new(type, 4, 2, 64, 32, 40), tolerance);

    [Theory]
    [InlineData(40, 8)]
    [InlineData(80, 40)]
    [InlineData(128, 64)]
    [InlineData(256, 32)]
    public void HeadSizes(int size, int pairs) => Check(new("F32", 2, 1, size, pairs, 20), 1e-5);

    [Theory]
    [InlineData(1, 0, 0)]
    [InlineData(32, 40, 0)]
    [InlineData(7, 0, 3)]
    public void BlocksWindowsAndCaps(int blockSize, int window, float softCap) =>
        Check(new("F32", 2, 2, 64, 32, 100, blockSize, window, softCap), 1e-5);

    [Theory]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public void RotationsAndNorms(bool interleaved, bool norms) =>
        Check(new("F32", 2, 1, 64, 24, 20, Interleaved: interleaved, Norms: norms), 1e-5);

    /// <summary>More positions than one part has: the parts are added up. Only the last rows are computed.</summary>
    [Theory]
    [InlineData(0)]
    [InlineData(300)]
    public void LongContexts(int window) => Check(new("F32", 2, 1, 64, 32, 600, Window: window), 1e-5, last: 3);

    private void Check(Case shape, double tolerance, int? last = null)
    {
        int rows = last ?? shape.Tokens, width = (shape.Heads + 2 * shape.KvHeads) * shape.Size;
        Random random = new(1);
        float[] Values(int count) => [.. Enumerable.Range(0, count).Select(_ => (float)(random.NextDouble() * 2 - 1))];
        float[] qkv = Values(shape.Tokens * width), queryNorm = Values(shape.Size), keyNorm = Values(shape.Size);
        float[] expected = Reference(shape, qkv, queryNorm, keyNorm);
        float[]? first = null;
        foreach (LaunchOptions options in MachineRun.Orders[..3])
        {
            float[] y = Attend(shape, qkv, queryNorm, keyNorm, shape.Tokens - rows, options);
            for (int i = 0; i < y.Length; i++)
                Assert.Equal(expected[(shape.Tokens - rows) * shape.Heads * shape.Size + i], y[i], tolerance);
            first ??= y;
            Assert.Equal(first.Select(BitConverter.SingleToInt32Bits), y.Select(BitConverter.SingleToInt32Bits));
        }
        float[] alone = Attend(shape, qkv, queryNorm, keyNorm, shape.Tokens - 1, new());
        Assert.Equal(first![^alone.Length..].Select(BitConverter.SingleToInt32Bits),
            alone.Select(BitConverter.SingleToInt32Bits));
    }

    /// <summary>Cosines and sines of all tokens, as a step has them.</summary>
    private protected static float[] Rotations(Case shape)
    {
        float[] rotations = new float[shape.Tokens * 2 * shape.Pairs];
        for (int t = 0; t < shape.Tokens; t++)
            for (int i = 0; i < shape.Pairs; i++)
                (rotations[(2 * t + 1) * shape.Pairs + i], rotations[2 * t * shape.Pairs + i]) = Angle(shape, t, i);
        return rotations;
    }

    /// <summary>The blocks of the only sequence, in no order.</summary>
    private protected static int[] Table(Case shape)
    {
        int blocks = (shape.Tokens + shape.BlockSize - 1) / shape.BlockSize;
        int[] table = [.. Enumerable.Range(0, blocks).Select(block => (block * 7 + 3) % blocks)];
        return table.Distinct().Count() == blocks ? table : [.. Enumerable.Range(0, blocks).Reverse()];
    }

    /// <summary>Of a pair at a position.</summary>
    private protected static (float Sine, float Cosine) Angle(Case shape, int position, int i)
    {
        (double sine, double cosine) = Math.SinCos(position * Math.Pow(10000, -(double)i / shape.Pairs));
        return ((float)sine, (float)cosine);
    }

    private static float[] Reference(Case shape, float[] qkv, float[] queryNorm, float[] keyNorm)
    {
        int all = shape.Heads + 2 * shape.KvHeads, size = shape.Size;
        double[][] heads = new double[shape.Tokens * all][];
        for (int t = 0; t < shape.Tokens; t++)
            for (int h = 0; h < all; h++)
                heads[t * all + h] = Rotated(shape, t, h, qkv.AsSpan((t * all + h) * size, size),
                    h < shape.Heads ? queryNorm : keyNorm);
        float[] y = new float[shape.Tokens * shape.Heads * size];
        for (int t = 0; t < shape.Tokens; t++)
            for (int h = 0; h < shape.Heads; h++)
            {
                int kv = h / (shape.Heads / shape.KvHeads);
                int begin = shape.Window > 0 ? Math.Max(0, t + 1 - shape.Window) : 0;
                double[] weights = new double[t + 1], sum = new double[size];
                for (int p = begin; p <= t; p++)
                {
                    double dot = 0;
                    for (int i = 0; i < size; i++)
                        dot += heads[t * all + h][i] * heads[p * all + shape.Heads + kv][i] / Math.Sqrt(size);
                    weights[p] = Math.Exp(shape.SoftCap > 0 ? shape.SoftCap * Math.Tanh(dot / shape.SoftCap) : dot);
                }
                double total = weights.Sum();
                for (int p = begin; p <= t; p++)
                    for (int i = 0; i < size; i++)
                        sum[i] += weights[p] / total * heads[p * all + shape.Heads + shape.KvHeads + kv][i];
                for (int i = 0; i < size; i++) y[(t * shape.Heads + h) * size + i] = (float)sum[i];
            }
        return y;
    }

    private static double[] Rotated(Case shape, int t, int h, Span<float> head, float[] norm)
    {
        double[] x = new double[head.Length];
        for (int i = 0; i < x.Length; i++) x[i] = head[i];
        if (h >= shape.Heads + shape.KvHeads) return x;
        if (shape.Norms)
        {
            double scale = 1 / Math.Sqrt(x.Sum(value => value * value) / x.Length + 1e-5);
            for (int i = 0; i < x.Length; i++) x[i] *= scale * norm[i];
        }
        for (int i = 0; i < shape.Pairs; i++)
        {
            (int a, int b) = shape.Interleaved ? (2 * i, 2 * i + 1) : (i, i + shape.Pairs);
            (float s, float c) = Angle(shape, t, i);
            (x[a], x[b]) = (x[a] * c - x[b] * s, x[b] * c + x[a] * s);
        }
        return x;
    }
}
