using System.Text.Json;
using Native.Kernels.Formats;

namespace Native.Tests.Kernels;

public sealed class FormatsTests
{
    public static TheoryData<TensorType> BlockTypes => [.. BlockFormat.Supported.Where(f => f.BlockSize > 1).Select(f => f.Type)];

    public static TheoryData<TensorType> QuantizedTypes => [.. BlockFormat.Supported.Where(f => f.CanQuantize && f.BlockSize == 32).Select(f => f.Type)];

    public static TheoryData<TensorType> SearchedTypes => [.. BlockFormat.Supported.Where(f => f.CanQuantize && f.BlockSize == 256).Select(f => f.Type)];

    [Theory, MemberData(nameof(BlockTypes))]
    public void Decode_EqualsTheOracle_BitForBit(TensorType type)
    {
        using JsonDocument blocks = Blocks();
        JsonElement oracle = blocks.RootElement.GetProperty("decode").GetProperty(type.ToString());
        BlockFormat format = BlockFormat.Of(type);
        Assert.Equal(oracle.GetProperty("block").GetInt32(), format.BlockSize);
        Assert.Equal(oracle.GetProperty("bytes").GetInt32(), format.BlockBytes);

        byte[] data = Convert.FromHexString(oracle.GetProperty("data").GetString()!);
        float[] expected = [.. oracle.GetProperty("values").EnumerateArray().Select(v => v.GetSingle())];
        float[] actual = new float[expected.Length];
        format.Decode(data, actual);
        Assert.Equal(Bits(expected), Bits(actual));
    }

    [Theory, MemberData(nameof(QuantizedTypes))]
    public void Quantize_EqualsTheOracle_ByteForByte(TensorType type)
    {
        using JsonDocument blocks = Blocks();
        JsonElement oracle = blocks.RootElement.GetProperty("quantize");
        byte[] x = Convert.FromHexString(oracle.GetProperty("x").GetString()!);
        string expected = oracle.GetProperty("to").GetProperty(type.ToString()).GetString()!;

        BlockFormat format = BlockFormat.Of(type);
        float[] values = new float[x.Length / sizeof(float)];
        Buffer.BlockCopy(x, 0, values, 0, x.Length);
        byte[] actual = new byte[values.Length / format.BlockSize * format.BlockBytes];
        format.Quantize(values, actual);
        Assert.Equal(expected, Convert.ToHexStringLower(actual));
    }

    [Theory, MemberData(nameof(QuantizedTypes))]
    public void Quantize_ThenDecode_StaysWithinHalfAStep(TensorType type)
    {
        BlockFormat format = BlockFormat.Of(type);
        var random = new Random(1);
        float[] values = new float[format.BlockSize], back = new float[format.BlockSize];
        byte[] block = new byte[format.BlockBytes];
        // Symmetric formats have steps of max / (levels / 2), the others of range / (levels - 1); the scale's rounding
        // to 16 bits adds a little.
        float step = type switch { TensorType.Q8_0 => 1f / 127, TensorType.Q4_0 => 1f / 8, TensorType.Q4_1 => 2f / 15, TensorType.Q5_0 => 1f / 16, _ => 2f / 31 };
        for (int trial = 0; trial < 100; trial++)
        {
            for (int i = 0; i < values.Length; i++) values[i] = random.NextSingle() * 2 - 1;
            format.Quantize(values, block);
            format.Decode(block, back);
            // The end opposite to the largest magnitude of a symmetric format is clamped: up to one whole step.
            float allowed = type is TensorType.Q4_0 or TensorType.Q5_0 ? step : step / 2;
            for (int i = 0; i < values.Length; i++) Assert.InRange(MathF.Abs(values[i] - back[i]), 0, allowed + 0.002f);
        }
    }

    [Theory, MemberData(nameof(QuantizedTypes)), MemberData(nameof(SearchedTypes))]
    public void Quantize_OfZeros_DecodesToZeros(TensorType type)
    {
        BlockFormat format = BlockFormat.Of(type);
        byte[] block = new byte[format.BlockBytes];
        float[] back = new float[format.BlockSize];
        format.Quantize(new float[format.BlockSize], block);
        format.Decode(block, back);
        Assert.All(back, x => Assert.Equal(0f, x));
    }

    [Fact]
    public void Decode_WidensFloatsExactly()
    {
        float[] values = new float[4];
        BlockFormat.Of(TensorType.F16).Decode([0x00, 0x3c, 0x01, 0x00, 0xff, 0x7b, 0x00, 0xfc], values);
        Assert.Equal([1f, 5.9604645e-8f, 65504f, float.NegativeInfinity], values);
        BlockFormat.Of(TensorType.BF16).Decode([0x80, 0x3f, 0x01, 0x00, 0x7f, 0x7f, 0x80, 0xff], values);
        Assert.Equal([1f, BitConverter.UInt32BitsToSingle(0x10000), 3.3895314e38f, float.NegativeInfinity], values);
        BlockFormat.Of(TensorType.F32).Decode([0x00, 0x00, 0xc0, 0xbf], values.AsSpan(..1));
        Assert.Equal(-1.5f, values[0]);
    }

    [Fact]
    public void Decode_RefusesLengthsThatDisagree()
    {
        BlockFormat format = BlockFormat.Of(TensorType.Q4_K);
        Assert.Throws<ArgumentException>(() => format.Decode(new byte[143], new float[256]));
        Assert.Throws<ArgumentException>(() => format.Decode(new byte[144], new float[255]));
        Assert.Throws<ArgumentException>(() => format.Decode(new byte[288], new float[256]));
        format.Decode([], []);
    }

    [Fact]
    public void Of_NamesTheTypeAndTheSupportedOnes_WhenItIsNotSupported()
    {
        var error = Assert.Throws<NotSupportedException>(() => BlockFormat.Of(TensorType.IQ1_M));
        Assert.Contains("IQ1_M (29)", error.Message);
        Assert.Contains("F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS", error.Message);
        Assert.Contains("number 77", Assert.Throws<NotSupportedException>(() => BlockFormat.Of((TensorType)77)).Message);
        Assert.Contains("IQ4_XS", Assert.Throws<NotSupportedException>(() => BlockFormat.Of(TensorType.IQ4_XS).Quantize(new float[256], new byte[136])).Message);
    }

    /// <summary>The relative squared error of llama.cpp's reference quantizers (ggml 0.5's ggml_quantize_chunk, without
    /// an importance matrix) on the rows of <see cref="Draw"/>.</summary>
    [Theory]
    [InlineData(TensorType.Q2_K, "gaussian", 0.08742)]
    [InlineData(TensorType.Q2_K, "laplacian", 0.1198)]
    [InlineData(TensorType.Q2_K, "outliers", 0.101)]
    [InlineData(TensorType.Q3_K, "gaussian", 0.02275)]
    [InlineData(TensorType.Q3_K, "laplacian", 0.03155)]
    [InlineData(TensorType.Q3_K, "outliers", 0.0389)]
    [InlineData(TensorType.Q4_K, "gaussian", 0.004974)]
    [InlineData(TensorType.Q4_K, "laplacian", 0.007233)]
    [InlineData(TensorType.Q4_K, "outliers", 0.009803)]
    [InlineData(TensorType.Q5_K, "gaussian", 0.001281)]
    [InlineData(TensorType.Q5_K, "laplacian", 0.001818)]
    [InlineData(TensorType.Q5_K, "outliers", 0.002412)]
    [InlineData(TensorType.Q6_K, "gaussian", 0.0003163)]
    [InlineData(TensorType.Q6_K, "laplacian", 0.0004754)]
    [InlineData(TensorType.Q6_K, "outliers", 0.0008882)]
    public void Quantize_ComesNearerThanTheReference_AndMuchNearerThanTheRangeCutEvenly(TensorType type, string distribution, double reference)
    {
        float[] values = Draw(distribution, 64 * 256);
        double error = RelativeError(type, values);
        Assert.InRange(error, reference / 10, reference);

        // The naive way: each sub-block's range cut evenly, with scales in full precision at that.
        (int size, int steps) = type switch { TensorType.Q2_K => (16, 3), TensorType.Q3_K => (16, 7), TensorType.Q4_K => (32, 15), TensorType.Q5_K => (32, 31), _ => (16, 63) };
        double squares = 0, naive = 0;
        for (int i = 0; i < values.Length; i += size)
        {
            float[] part = values[i..(i + size)];
            float low = part.Min(), step = (part.Max() - low) / steps;
            if (type is TensorType.Q3_K or TensorType.Q6_K) (low, step) = (0, part.Max(MathF.Abs) / (steps / 2));
            foreach (float x in part)
            {
                float back = step == 0 ? low : low + step * MathF.Round((x - low) / step);
                naive += (x - back) * (double)(x - back);
                squares += x * (double)x;
            }
        }
        Assert.True(error < naive / squares * 1.02, $"{error} against {naive / squares} of even cuts");
    }

    [Theory, MemberData(nameof(SearchedTypes))]
    public void Quantize_OfWhatTheFormatCanSay_SaysIt(TensorType type)
    {
        // Values that came out of a block go back in with next to no loss, and extremes do no harm.
        BlockFormat format = BlockFormat.Of(type);
        float[] values = Draw("gaussian", 256), again = new float[256];
        byte[] block = new byte[format.BlockBytes];
        format.Quantize(values, block);
        format.Decode(block, values);
        format.Quantize(values, block);
        format.Decode(block, again);
        double squares = values.Sum(x => x * (double)x);
        Assert.InRange(values.Zip(again, (a, b) => (a - b) * (double)(a - b)).Sum() / squares, 0, 0.01);

        foreach (float extreme in (float[])[1e-30f, 1e-7f, 1e4f, -1e4f, 3e38f])
        {
            Array.Fill(values, extreme);
            values[7] = -extreme;
            format.Quantize(values, block);
            format.Decode(block, again);
            Assert.All(again, x => Assert.True(float.IsFinite(x)));
            if (MathF.Abs(extreme) == 1e4f) Assert.InRange(again[255] / extreme, 0.7f, 1.3f);
        }
    }

    [Fact]
    public void Quantize_RoundsFloatsToNearestEven()
    {
        byte[] two = new byte[2];
        foreach ((float value, ushort bits) in ((float, ushort)[])[(1f, 0x3f80), (1.00390625f, 0x3f80), (1.01171875f, 0x3f82), (3.4e38f, 0x7f80), (float.NegativeInfinity, 0xff80)])
        {
            BlockFormat.Of(TensorType.BF16).Quantize([value], two);
            Assert.Equal(bits, BitConverter.ToUInt16(two));
        }
        BlockFormat.Of(TensorType.BF16).Quantize([BitConverter.UInt32BitsToSingle(0x7f800001)], two);
        Assert.True((BitConverter.ToUInt16(two) & 0x7f) != 0, "not a number became infinity");
        BlockFormat.Of(TensorType.F16).Quantize([1f + 1f / 2048], two);
        Assert.Equal((Half)1, BitConverter.ToHalf(two));
    }

    private static double RelativeError(TensorType type, float[] values)
    {
        BlockFormat format = BlockFormat.Of(type);
        byte[] blocks = new byte[values.Length / format.BlockSize * format.BlockBytes];
        float[] back = new float[values.Length];
        format.Quantize(values, blocks);
        format.Decode(blocks, back);
        return values.Zip(back, (a, b) => (a - b) * (double)(a - b)).Sum() / values.Sum(x => x * (double)x);
    }

    /// <summary>The same numbers on every machine: a linear congruential generator (Knuth's MMIX constants) through
    /// inverse and Box-Muller transforms.</summary>
    private static float[] Draw(string distribution, int count)
    {
        ulong state = 42;
        double Next()
        {
            state = unchecked(state * 6364136223846793005 + 1442695040888963407);
            return ((state >> 11) + 0.5) / (1ul << 53);
        }
        float[] values = new float[count];
        for (int i = 0; i < count; i++)
        {
            double u = Next(), v = Next(), gaussian = Math.Sqrt(-2 * Math.Log(u)) * Math.Cos(2 * Math.PI * v);
            values[i] = 0.02f * (float)(distribution switch
            {
                "gaussian" => gaussian,
                "laplacian" => v < 0.5 ? Math.Log(u) : -Math.Log(u),
                _ => i % 61 == 7 ? 12 * gaussian : gaussian, // outliers
            });
        }
        return values;
    }

    private static JsonDocument Blocks() => JsonDocument.Parse(File.ReadAllBytes(TestData.Path("formats/blocks.json")));

    private static uint[] Bits(float[] values) => Array.ConvertAll(values, BitConverter.SingleToUInt32Bits);
}
