using System.Runtime.Intrinsics;
using Native.Kernels.Cpu;

namespace Native.Tests.Kernels.Cpu;

public sealed unsafe class SimdTests
{
    public SimdTests() => Assert.SkipUnless(Vector128.IsHardwareAccelerated, "this machine, or this run, has no vectors; the definitions run here");

    private delegate void Map(float* source, float* destination);

    [Theory, InlineData(128), InlineData(256), InlineData(512)]
    public void LoadF16_IsExact_ForEveryHalf(int width)
    {
        ushort* source = stackalloc ushort[16];
        float* result = stackalloc float[16];
        for (int first = 0; first < 65536; first += 16)
        {
            for (int i = 0; i < 16; i++) source[i] = (ushort)(first + i);
            for (int i = 0; i < 16; i += width / 32)
            {
                if (width == 128) Simd128.Store(Simd128.LoadF16(source + i), result + i);
                else if (width == 256) Simd256.Store(Simd256.LoadF16(source + i), result + i);
                else Simd512.Store(Simd512.LoadF16(source + i), result + i);
            }
            for (int i = 0; i < 16; i++) AssertSame((float)BitConverter.UInt16BitsToHalf(source[i]), result[i]);
        }
    }

    /// <summary>Subnormal halves too; an infinity is the next number after the largest.</summary>
    [Theory, InlineData(128), InlineData(256), InlineData(512)]
    public void LoadScaledF16_IsTheHalfTimesAPowerOfTwo(int width)
    {
        ushort* source = stackalloc ushort[16];
        float* result = stackalloc float[16];
        for (int first = 0; first < 65536; first += 16)
        {
            for (int i = 0; i < 16; i++) source[i] = (ushort)(first + i);
            for (int i = 0; i < 16; i += width / 32)
            {
                if (width == 128) Simd128.Store(Simd128.LoadScaledF16(source + i), result + i);
                else if (width == 256) Simd256.Store(Simd256.LoadScaledF16(source + i), result + i);
                else Simd512.Store(Simd512.LoadScaledF16(source + i), result + i);
            }
            for (int i = 0; i < 16; i++)
            {
                float half = (float)BitConverter.UInt16BitsToHalf(source[i]);
                if (float.IsNaN(half)) Assert.InRange(MathF.Abs(result[i]), MathF.ScaleB(65536, -112), MathF.ScaleB(131072, -112));
                else AssertSame(MathF.ScaleB(float.IsInfinity(half) ? MathF.CopySign(65536, half) : half, -112), result[i]);
            }
        }
    }

    [Theory, InlineData(128), InlineData(256), InlineData(512)]
    public void LoadBF16_IsExact_ForEveryValue(int width)
    {
        ushort* source = stackalloc ushort[16];
        float* result = stackalloc float[16];
        for (int first = 0; first < 65536; first += 16)
        {
            for (int i = 0; i < 16; i++) source[i] = (ushort)(first + i);
            for (int i = 0; i < 16; i += width / 32)
            {
                if (width == 128) Simd128.Store(Simd128.LoadBF16(source + i), result + i);
                else if (width == 256) Simd256.Store(Simd256.LoadBF16(source + i), result + i);
                else Simd512.Store(Simd512.LoadBF16(source + i), result + i);
            }
            for (int i = 0; i < 16; i++) AssertSame(BitConverter.UInt32BitsToSingle((uint)source[i] << 16), result[i]);
        }
    }

    [Theory, InlineData(128), InlineData(256), InlineData(512)]
    public void LoadInt8_IsExact_ForEveryByte(int width)
    {
        sbyte* source = stackalloc sbyte[16];
        float* result = stackalloc float[16];
        for (int first = sbyte.MinValue; first <= sbyte.MaxValue; first += 16)
        {
            for (int i = 0; i < 16; i++) source[i] = (sbyte)(first + i);
            for (int i = 0; i < 16; i += width / 32)
            {
                if (width == 128) Simd128.Store(Simd128.LoadInt8(source + i), result + i);
                else if (width == 256) Simd256.Store(Simd256.LoadInt8(source + i), result + i);
                else Simd512.Store(Simd512.LoadInt8(source + i), result + i);
            }
            for (int i = 0; i < 16; i++) Assert.Equal(first + i, result[i]);
        }
    }

    /// <summary>Every half, the middle between each and the next, and the floats beside both.</summary>
    [Theory, InlineData(128), InlineData(256), InlineData(512)]
    public void StoreF16_RoundsToNearestEven(int width)
    {
        var values = new List<float>();
        for (int bits = 0; bits < 0x7c00; bits++)
        {
            float half = (float)BitConverter.UInt16BitsToHalf((ushort)bits);
            float next = bits == 0x7bff ? 65536 : (float)BitConverter.UInt16BitsToHalf((ushort)(bits + 1));
            float middle = half + ((next - half) / 2);
            values.AddRange([half, middle, MathF.BitIncrement(middle), MathF.BitDecrement(middle), -half, -middle, -MathF.BitIncrement(middle)]);
        }
        values.AddRange([1e30f, float.MaxValue, float.PositiveInfinity, float.NegativeInfinity, float.NaN, float.Epsilon, -float.Epsilon, 65520f, 65519.996f]);
        CheckStore(values, isHalf: true, width, x => BitConverter.HalfToUInt16Bits((Half)x));
    }

    [Theory, InlineData(128), InlineData(256), InlineData(512)]
    public void StoreBF16_RoundsToNearestEven(int width)
    {
        var values = new List<float>();
        for (uint bits = 0; bits < 0x7f80; bits++)
        {
            float value = BitConverter.UInt32BitsToSingle(bits << 16), middle = BitConverter.UInt32BitsToSingle((bits << 16) | 0x8000);
            values.AddRange([value, middle, MathF.BitIncrement(middle), MathF.BitDecrement(middle), -value, -middle]);
        }
        values.AddRange([float.PositiveInfinity, float.NegativeInfinity, float.NaN, float.MaxValue, BitConverter.UInt32BitsToSingle(0x7f800001)]);
        CheckStore(values, isHalf: false, width, Nearest);

        static ushort Nearest(float x)
        {
            if (!float.IsFinite(x)) return float.IsNaN(x) ? (ushort)0x7fc0 : (ushort)(x > 0 ? 0x7f80 : 0xff80);
            uint bits = BitConverter.SingleToUInt32Bits(x), low = bits & 0xffff, high = bits >> 16;
            return (ushort)(low > 0x8000 || (low == 0x8000 && (high & 1) == 1) ? high + 1 : high);
        }
    }

    [Theory, InlineData(128), InlineData(256), InlineData(512)]
    public void Exp_IsWithinTwoUnits(int width)
    {
        CheckUnits(width, ExpOf(width), Math.Exp, 2, Sweep(-87.3f, 88.72f));
        foreach ((float x, float expected) in new[] { (0f, 1f), (-0f, 1f), (float.NegativeInfinity, 0f), (float.PositiveInfinity, float.PositiveInfinity), (-1e30f, 0f), (1e30f, float.PositiveInfinity), (float.NaN, float.NaN), (89f, float.PositiveInfinity) })
            AssertSame(expected, Apply(ExpOf(width), x));
    }

    [Theory, InlineData(128), InlineData(256), InlineData(512)]
    public void Exp_IsRight_WhereTheResultIsSubnormal(int width)
    {
        foreach (float x in Sweep(-104.5f, -87.3f)) Assert.Equal(Math.Exp(x), Apply(ExpOf(width), x), 1.5 * float.Epsilon);
    }

    [Theory, InlineData(128), InlineData(256), InlineData(512)]
    public void Tanh_IsWithinThreeUnits(int width)
    {
        Map map = width == 128 ? (s, d) => Simd128.Store(SimdMath<Simd128, Vector128<float>>.Tanh(Simd128.Load(s)), d)
            : width == 256 ? (s, d) => Simd256.Store(SimdMath<Simd256, Vector256<float>>.Tanh(Simd256.Load(s)), d)
            : (s, d) => Simd512.Store(SimdMath<Simd512, Vector512<float>>.Tanh(Simd512.Load(s)), d);
        CheckUnits(width, map, Math.Tanh, 3, [.. Sweep(-12f, 12f), .. Sweep(-1e-3f, 1e-3f), 1e-30f, -1e-40f]);
        foreach ((float x, float expected) in new[] { (0f, 0f), (-0f, -0f), (float.NegativeInfinity, -1f), (float.PositiveInfinity, 1f), (1e30f, 1f), (-1e30f, -1f), (float.NaN, float.NaN) })
            AssertSame(expected, Apply(map, x));
    }

    [Fact]
    public void Sum_AddsInTheOrderItTells()
    {
        var random = new Random(7);
        float* v = stackalloc float[8];
        for (int round = 0; round < 100; round++)
        {
            for (int i = 0; i < 8; i++) v[i] = (float)((random.NextDouble() - 0.5) * Math.Pow(10, random.Next(-5, 5)));
            float expected = ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7]));
            AssertSame(expected, SimdMath<Simd256, Vector256<float>>.Sum(Simd256.Load(v)));
        }
    }

    [Theory, InlineData(128), InlineData(256), InlineData(512)]
    public void Largest_IsFoundInEveryLane(int width)
    {
        float* v = stackalloc float[16];
        for (int lane = 0; lane < width / 32; lane++)
        {
            for (int i = 0; i < 16; i++) v[i] = -3 - i;
            v[lane] = -2.5f;
            float largest = width == 128 ? SimdMath<Simd128, Vector128<float>>.Largest(Simd128.Load(v))
                : width == 256 ? SimdMath<Simd256, Vector256<float>>.Largest(Simd256.Load(v))
                : SimdMath<Simd512, Vector512<float>>.Largest(Simd512.Load(v));
            AssertSame(-2.5f, largest);
        }
    }

    private static Map ExpOf(int width) =>
        width == 128 ? (s, d) => Simd128.Store(SimdMath<Simd128, Vector128<float>>.Exp(Simd128.Load(s)), d)
        : width == 256 ? (s, d) => Simd256.Store(SimdMath<Simd256, Vector256<float>>.Exp(Simd256.Load(s)), d)
        : (s, d) => Simd512.Store(SimdMath<Simd512, Vector512<float>>.Exp(Simd512.Load(s)), d);

    private static float Apply(Map map, float x)
    {
        float* buffer = stackalloc float[32];
        for (int i = 0; i < 16; i++) buffer[i] = x;
        map(buffer, buffer + 16);
        return buffer[16];
    }

    private static float[] Sweep(float from, float to)
    {
        var values = new float[20_000];
        for (int i = 0; i < values.Length; i++) values[i] = from + ((to - from) * i / values.Length);
        return values;
    }

    private static void CheckUnits(int width, Map map, Func<double, double> reference, double units, float[] values)
    {
        float* buffer = stackalloc float[32];
        for (int first = 0; first < values.Length; first += width / 32)
        {
            int n = Math.Min(width / 32, values.Length - first);
            for (int i = 0; i < n; i++) buffer[i] = values[first + i];
            map(buffer, buffer + 16);
            for (int i = 0; i < n; i++)
            {
                double expected = reference(buffer[i]), unit = MathF.BitIncrement(MathF.Abs((float)expected)) - MathF.Abs((float)expected);
                Assert.True(Math.Abs(buffer[16 + i] - expected) <= units * unit, $"at {buffer[i]:R}: {buffer[16 + i]:R} instead of {expected:R}");
            }
        }
    }

    private static void CheckStore(List<float> values, bool isHalf, int width, Func<float, ushort> expected)
    {
        while (values.Count % 16 != 0) values.Add(1);
        float* source = stackalloc float[16];
        ushort* result = stackalloc ushort[16];
        for (int first = 0; first < values.Count; first += 16)
        {
            for (int i = 0; i < 16; i++) source[i] = values[first + i];
            for (int i = 0; i < 16; i += width / 32)
            {
                if (width == 128) Store128(source + i, result + i, isHalf);
                else if (width == 256) Store256(source + i, result + i, isHalf);
                else Store512(source + i, result + i, isHalf);
            }
            for (int i = 0; i < 16; i++)
            {
                if (float.IsNaN(source[i]))
                    Assert.True(isHalf ? Half.IsNaN(BitConverter.UInt16BitsToHalf(result[i])) : (result[i] & 0x7fff) > 0x7f80);
                else
                    Assert.True(expected(source[i]) == result[i], $"{source[i]:R} became {result[i]:x4}, not {expected(source[i]):x4}");
            }
        }
    }

    private static void Store128(float* source, ushort* result, bool half)
    {
        if (half) Simd128.StoreF16(Simd128.Load(source), result);
        else Simd128.StoreBF16(Simd128.Load(source), result);
    }

    private static void Store256(float* source, ushort* result, bool half)
    {
        if (half) Simd256.StoreF16(Simd256.Load(source), result);
        else Simd256.StoreBF16(Simd256.Load(source), result);
    }

    private static void Store512(float* source, ushort* result, bool half)
    {
        if (half) Simd512.StoreF16(Simd512.Load(source), result);
        else Simd512.StoreBF16(Simd512.Load(source), result);
    }

    /// <summary>The same bits, where any NaN is as good as another.</summary>
    private static void AssertSame(float expected, float actual)
    {
        if (float.IsNaN(expected)) Assert.True(float.IsNaN(actual), $"{actual} is a number");
        else Assert.Equal(BitConverter.SingleToUInt32Bits(expected), BitConverter.SingleToUInt32Bits(actual));
    }
}
