using Native.Kernels.Formats;
using Native.Kernels.Gpu;

namespace Native.Tests.Gpu;

/// <summary>A GPU's kernels against their definitions in double precision; a row's bits are the same alone and in a
/// batch. Whoever runs them does so in several orders of warps and blocks, which give the same bits.</summary>
public abstract class KernelContract
{
    /// <summary>Of norms.</summary>
    private protected const float Epsilon = 1e-5f;

    /// <summary>Rows of x, or those that are named, normalized and times the weight.</summary>
    private protected abstract float[] RmsNorm(float[] x, int[]? rows, float[] weight);

    /// <summary>1 / sqrt(mean(x^2) + epsilon) of each row.</summary>
    private protected abstract float[] RmsScale(float[] x, int columns);

    /// <summary>The rows that sample, from one on.</summary>
    private protected abstract float[] Gather(float[] x, int[] sampledRows, int first, int columns);

    /// <summary>x + delta.</summary>
    private protected abstract float[] Add(float[] x, float[] delta);

    /// <summary>cap * tanh(x / cap).</summary>
    private protected abstract float[] SoftCap(float[] x, float cap);

    /// <summary>Products, or gates times products.</summary>
    /// <param name="w">The weights.</param>
    /// <param name="gates">Whether the first half of the rows gates the second.</param>
    /// <param name="x">Shape [tokens, columns].</param>
    /// <param name="tokens">Rows of x.</param>
    /// <param name="ending">1 adds to <paramref name="before"/>; of gates, 1 is GELU.</param>
    /// <param name="scales">Of each row, with a norm.</param>
    /// <param name="norm">Of each column.</param>
    /// <param name="bias">Of each row of w.</param>
    /// <param name="before">What is there before.</param>
    private protected abstract float[] Multiply(PackedWeights w, bool gates, float[] x, int tokens, int ending,
        float[]? scales = null, float[]? norm = null, float[]? bias = null, float[]? before = null);

    /// <summary>Rows of w times a scale, by ids, or where one is -1 by what its place sampled last.</summary>
    private protected abstract float[] Embed(PackedWeights w, int[] ids, int[] places, int[] last, float scale);

    [Theory]
    [InlineData(1, 1)]
    [InlineData(3, 33)]
    [InlineData(2, 256)]
    [InlineData(2, 1000)]
    public void ANorm_IsItsDefinition(int rows, int columns)
    {
        float[] x = Values(1, rows * columns), weight = Values(2, columns);
        float[] y = RmsNorm(x, null, weight), scales = RmsScale(x, columns);
        for (int r = 0; r < rows; r++)
        {
            double square = 0;
            for (int i = 0; i < columns; i++) square += (double)x[r * columns + i] * x[r * columns + i];
            double scale = 1 / Math.Sqrt(square / columns + Epsilon);
            Assert.Equal(scale, scales[r], scale * 1e-6);
            for (int i = 0; i < columns; i++)
                Assert.Equal(x[r * columns + i] * scale * weight[i], y[r * columns + i], 1e-5);
        }
    }

    [Fact]
    public void RmsNormOfRows_AndGather_TakeTheRowsThatAreNamed()
    {
        const int columns = 70;
        float[] x = Values(1, 5 * columns), ones = [.. Enumerable.Repeat(1f, columns)];
        int[] rows = [4, 0, 4];
        float[] gathered = Gather(x, [1, .. rows], 1, columns), named = RmsNorm(x, rows, ones);
        float[] all = RmsNorm(x, null, ones);
        for (int r = 0; r < 3; r++)
        {
            Range from = (rows[r] * columns)..((rows[r] + 1) * columns), to = (r * columns)..((r + 1) * columns);
            Assert.Equal(x[from], gathered[to]);
            Assert.Equal(all[from], named[to]);
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(255)]
    [InlineData(1000)]
    public void AddAndSoftCap(int count)
    {
        float[] x = Values(1, count), delta = Values(2, count);
        Assert.Equal(x.Zip(delta, (a, b) => a + b), Add(x, delta));
        foreach (float cap in (float[])[0.01f, 1, 30])
        {
            float[] capped = SoftCap(x, cap);
            for (int i = 0; i < count; i++)
                Assert.Equal(cap * Math.Tanh(x[i] / (double)cap), capped[i], Math.Abs(capped[i]) * 2e-6 + 1e-9);
        }
    }

    public static TheoryData<TensorType> Formats() => [.. BlockFormat.Supported.Select(format => format.Type)];

    [Theory, MemberData(nameof(Formats))]
    public void AProductOfAnyFormat_IsThatOfItsValues_AndARowsBitsAreItsOwn(TensorType type)
    {
        const int rows = 19, tokens = 6;
        int columns = type is TensorType.F32 or TensorType.F16 or TensorType.BF16 ? 261 : 512;
        PackedWeights w = new(type, rows, columns);
        float[] x = Values(3, tokens * columns), bias = Values(4, rows), norm = Values(5, columns);
        float[] scales = Values(6, tokens), before = Values(7, tokens * rows);
        float[] stored = Multiply(w, false, x, tokens, 0, bias: bias);
        float[] added = Multiply(w, false, x, tokens, 1, scales: scales, norm: norm, before: before);
        for (int t = 0; t < tokens; t++)
            for (int row = 0; row < rows; row++)
            {
                double plain = bias[row], normed = 0, size = 1;
                for (int i = 0; i < columns; i++)
                {
                    double product = (double)w.Values[row * columns + i] * x[t * columns + i];
                    plain += product;
                    normed += product * norm[i] * scales[t];
                    size += Math.Abs(product);
                }
                Assert.Equal(plain, stored[t * rows + row], size * 1e-6);
                Assert.Equal(before[t * rows + row] + normed, added[t * rows + row], size * 1e-6);
            }
        float[] alone = Multiply(w, false, x[(5 * columns)..], 1, 0, bias: bias);
        Assert.Equal(stored[(5 * rows)..].Select(BitConverter.SingleToInt32Bits),
            alone.Select(BitConverter.SingleToInt32Bits));
    }

    [Theory]
    [InlineData(TensorType.Q4_0, 0)]
    [InlineData(TensorType.Q8_0, 1)]
    [InlineData(TensorType.Q6_K, 0)]
    [InlineData(TensorType.F16, 1)]
    public void AGate_IsItsActivationTimesUp(TensorType type, int gelu)
    {
        const int rows = 22, tokens = 5, columns = 256;
        PackedWeights w = new(type, rows, columns);
        float[] x = Values(3, tokens * columns), bias = Values(4, rows);
        float[] gated = Multiply(w, true, x, tokens, gelu, bias: bias);
        for (int t = 0; t < tokens; t++)
            for (int row = 0; row < rows / 2; row++)
            {
                double gate = bias[row], up = bias[rows / 2 + row];
                for (int i = 0; i < columns; i++)
                {
                    gate += (double)w.Values[row * columns + i] * x[t * columns + i];
                    up += (double)w.Values[(rows / 2 + row) * columns + i] * x[t * columns + i];
                }
                double inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate);
                double activated = gelu == 1 ? 0.5 * gate * (1 + Math.Tanh(inner)) : gate / (1 + Math.Exp(-gate));
                Assert.Equal(activated * up, gated[t * (rows / 2) + row], 1e-4 * (1 + Math.Abs(gate * up)));
            }
    }

    [Theory, MemberData(nameof(Formats))]
    public void ARowThatIsLookedUp_HasExactlyTheFormatsValues(TensorType type)
    {
        const int rows = 7;
        int columns = type is TensorType.F32 or TensorType.F16 or TensorType.BF16 ? 261 : 512;
        PackedWeights w = new(type, rows, columns);
        int[] ids = [6, 0, 3, 6, 0]; // the last two by what their places sampled last, one of them nothing
        float[] y = Embed(w, [.. ids[..3], -1, -1], [0, 0, 0, 2, 1], [9, -1, 6], 2);
        for (int t = 0; t < ids.Length; t++)
            Assert.Equal(w.Values[(ids[t] * columns)..((ids[t] + 1) * columns)].Select(value => value * 2),
                y[(t * columns)..((t + 1) * columns)]);
    }

    /// <summary>Random numbers between -1 and 1.</summary>
    internal static float[] Values(int seed, int count)
    {
        Random random = new(seed);
        return [.. Enumerable.Range(0, count).Select(_ => (float)(random.NextDouble() * 2 - 1))];
    }
}

/// <summary>Random weights of a format: their values by its definition, and as the device has them.</summary>
internal sealed unsafe class PackedWeights
{
    public PackedWeights(TensorType type, int rows, int columns)
    {
        (Rows, Columns) = (rows, columns);
        BlockFormat format = BlockFormat.Of(type);
        byte[] file = new byte[rows * columns / format.BlockSize * format.BlockBytes];
        if (format.CanQuantize) format.Quantize(KernelContract.Values(9, rows * columns), file);
        else
        {
            new Random(9).NextBytes(file);
            for (int at = 0; at < file.Length; at += format.BlockBytes) // scales of about 1/64, finite
                BitConverter.TryWriteBytes(file.AsSpan(at), (Half)(0.01 + at % 7 * 0.001));
        }
        Values = new float[rows * columns];
        format.Decode(file, Values);
        Format = WeightLayouts.Of(type);
        long weights = WeightLayouts.WeightBytes(Format.Layout, columns);
        int groups = WeightLayouts.Groups(Format.Layout, columns), rowBytes = file.Length / rows;
        Weights = new byte[rows * weights];
        Groups = new float[rows * groups * 2];
        fixed (byte* from = file, to = Weights)
        fixed (float* scales = Groups)
            for (int row = 0; row < rows; row++)
            {
                float* group = scales + row * groups * 2;
                Assert.True(Format.Pack(from + row * rowBytes, columns, to + row * weights, group));
            }
    }

    public int Rows { get; }

    public int Columns { get; }

    public WeightLayouts.Format Format { get; }

    public float[] Values { get; }

    public byte[] Weights { get; }

    public float[] Groups { get; }
}
