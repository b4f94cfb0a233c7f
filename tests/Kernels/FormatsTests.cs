using System.Text.Json;
using Native.Kernels.Formats;

namespace Native.Tests.Kernels;

public sealed class FormatsTests
{
    public static TheoryData<TensorType> BlockTypes => [.. BlockFormat.Supported.Where(f => f.BlockSize > 1).Select(f => f.Type)];

    public static TheoryData<TensorType> QuantizedTypes => [.. BlockFormat.Supported.Where(f => f.CanQuantize).Select(f => f.Type)];

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
        // Symmetric formats have steps of max / (levels / 2), the others of range / (levels - 1); the scale's rounding to 16 bits adds a little.
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

    [Theory, MemberData(nameof(QuantizedTypes))]
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
        Assert.Contains("Q6_K", Assert.Throws<NotSupportedException>(() => BlockFormat.Of(TensorType.Q6_K).Quantize(new float[256], new byte[210])).Message);
    }

    private static JsonDocument Blocks() => JsonDocument.Parse(File.ReadAllBytes(TestData.Path("formats/blocks.json")));

    private static uint[] Bits(float[] values) => Array.ConvertAll(values, BitConverter.SingleToUInt32Bits);
}
