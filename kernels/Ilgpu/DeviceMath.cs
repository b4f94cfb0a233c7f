using ILGPU;

namespace Native.Kernels.Ilgpu;

/// <summary>What kernels compute with beside + and *. Devices differ in their exp, log and halves, and some have none:
/// these are integer and float32 operations alone, and the same on all of them.</summary>
internal static class DeviceMath
{
    private const float Log2E = 1.44269504f, Ln2High = 0.693359375f, Ln2Low = -2.12194440e-4f;

    /// <summary>e^x within 2 ulp; 0 below -87, where floats get subnormal (Cody and Waite 1980; coefficients of
    /// Cephes).</summary>
    public static float Exp(float x)
    {
        float bound = IntrinsicMath.Min(IntrinsicMath.Max(x, -88.0f), 89.0f);
        float turns = Floor(bound * Log2E + 0.5f), r = bound - turns * Ln2High - turns * Ln2Low;
        float p = 1.9875691500e-4f;
        p = p * r + 1.3981999507e-3f;
        p = p * r + 8.3334519073e-3f;
        p = p * r + 4.1665795894e-2f;
        p = p * r + 1.6666665459e-1f;
        p = p * r + 5.0000001201e-1f;
        float power = p * r * r + r + 1;
        // Two steps: 2^128 is no float, though e^88.7 is one.
        int whole = (int)turns, half = whole / 2;
        float value = power * PowerOfTwo(half) * PowerOfTwo(whole - half);
        return x < -87.3f ? 0 : x > 88.72f ? Infinity : IsNan(x) ? x : value;
    }

    /// <summary>By its series where it is small, else by e^2|x|.</summary>
    public static float Tanh(float x)
    {
        float size = IntrinsicMath.Abs(x), square = x * x, series = 62.0f / 2835;
        series = series * square - 17.0f / 315;
        series = series * square + 2.0f / 15;
        series = series * square - 1.0f / 3;
        float tanh = size > 20 ? 1 : 1 - 2 / (Exp(2 * size) + 1);
        return size < 0.25f ? x * square * series + x : x < 0 ? -tanh : tanh;
    }

    /// <summary>SiLU, or GELU in its tanh form: x (1 + tanh u) / 2 is x / (1 + e^-2u).</summary>
    public static float Activate(float x, bool gelu)
    {
        float u = gelu ? 2 * 0.7978845608f * (x + 0.044715f * x * x * x) : x;
        return x / (1 + Exp(-u));
    }

    /// <summary>A half by its bits. Subnormal ones are converted as integers: a device may take subnormal floats for
    /// 0.</summary>
    public static float FromHalf(uint bits)
    {
        uint magnitude = bits & 0x7fff, sign = (bits & 0x8000) << 16;
        uint normal = (magnitude << 13) + (magnitude >= 0x7c00 ? 0x7000_0000u : 0x3800_0000u);
        uint small = (uint)Bits((int)magnitude * FromBits(0x3380_0000)); // 2^-24
        return FromBits((int)(sign | (magnitude < 0x0400 ? small : normal)));
    }

    /// <summary>The bits of the nearest half, ties to even.</summary>
    public static ushort ToHalf(float x)
    {
        uint bits = (uint)Bits(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fff_ffff;
        uint normal = (magnitude + 0xfff + (magnitude >> 13 & 1) - 0x3800_0000) >> 13;
        uint small = (uint)Bits(FromBits((int)magnitude) + 0.5f) - 0x3f00_0000; // adding rounds to multiples of 2^-24
        uint half = magnitude < 0x3880_0000 ? small : magnitude < 0x4780_0000 ? normal : 0x7c00;
        return (ushort)(sign | (magnitude > 0x7f80_0000 ? 0x7e00 : half));
    }

    /// <summary>A bfloat16 by its bits.</summary>
    public static float FromBFloat(uint bits) => FromBits((int)(bits << 16));

    /// <summary>The bits of the nearest bfloat16, ties to even; a NaN stays one.</summary>
    public static ushort ToBFloat(float x)
    {
        uint bits = (uint)Bits(x);
        return (ushort)((bits & 0x7fff_ffff) > 0x7f80_0000 ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }

    /// <summary>An E4M3 by its bits.</summary>
    public static float FromFp8(uint bits)
    {
        uint magnitude = bits & 0x7f, sign = (bits & 0x80) << 24;
        uint normal = magnitude == 0x7f ? 0x7fff_ffff : (magnitude << 20) + 0x3c00_0000;
        uint small = (uint)Bits((int)magnitude * FromBits(0x3b00_0000)); // 2^-9
        return FromBits((int)(sign | (magnitude < 8 ? small : normal)));
    }

    /// <summary>The bits of the nearest E4M3, ties to even, and 448 beyond it; a NaN stays one.</summary>
    public static byte ToFp8(float x)
    {
        uint bits = (uint)Bits(x), sign = bits >> 24 & 0x80, magnitude = bits & 0x7fff_ffff;
        uint normal = (magnitude + 0x7_ffff + (magnitude >> 20 & 1) - 0x3c00_0000) >> 20;
        uint small = (uint)Bits(FromBits((int)magnitude) + 16384.0f) - 0x4680_0000; // to multiples of 2^-9
        uint byteOf = magnitude < 0x3c80_0000 ? small : magnitude < 0x43e0_0000 ? normal : 0x7e;
        return (byte)(sign | (magnitude > 0x7f80_0000 ? 0x7f : byteOf));
    }

    /// <summary>By the bits: compilers may take a number to be one.</summary>
    public static bool IsNan(float x) => (Bits(x) & 0x7fff_ffff) > 0x7f80_0000;

    public static float Infinity => FromBits(0x7f80_0000);

    public static float FromBits(int bits) => Interop.IntAsFloat((uint)bits);

    public static int Bits(float x) => (int)Interop.FloatAsInt(x);

    private static float PowerOfTwo(int exponent) => FromBits((exponent + 127) << 23);

    /// <summary>For sizes below 2^31.</summary>
    private static float Floor(float x)
    {
        float whole = (int)x;
        return whole > x ? whole - 1 : whole;
    }
}
