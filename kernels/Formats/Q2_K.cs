using System.Runtime.InteropServices;

namespace Native.Kernels.Formats;

/// <summary>2-bit super-block of 256: sixteen sub-blocks of 16 values, each with a 4-bit scale s and a 4-bit minimum m;
/// x = Scale * s * q - Min * m. 84 bytes, 2.625 bits per weight.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
public struct Q2_K : IQuantizedBlock<Q2_K>
{
    /// <summary>Byte i belongs to sub-block i: s in its low nibble, m in its high one.</summary>
    public Bytes16 Scales;

    /// <summary>Two halves of 32 bytes for 128 values each: value 32 * k + l of a half is bits 2k and 2k + 1 of the
    /// half's byte l.</summary>
    public Bytes64 Quants;

    /// <summary>d, the scale of the scales.</summary>
    public Half Scale;

    /// <summary>dmin, the scale of the minima.</summary>
    public Half Min;

    public static TensorType Type => TensorType.Q2_K;
    public static int BlockSize => 256;

    public static void Decode(in Q2_K block, Span<float> values)
    {
        float d = (float)block.Scale, min = (float)block.Min;
        for (int i = 0; i < 16; i++)
        {
            float scale = d * (block.Scales[i] & 15);
            float offset = min * (block.Scales[i] >> 4);
            int first = i / 8 * 32 + i % 2 * 16, shift = i % 8 / 2 * 2;
            for (int l = 0; l < 16; l++) values[16 * i + l] = scale * (block.Quants[first + l] >> shift & 3) - offset;
        }
    }

    public static void Quantize(ReadOnlySpan<float> values, out Q2_K block)
    {
        block = default;
        Span<byte> s = stackalloc byte[16], m = stackalloc byte[16], q = stackalloc byte[256];
        (block.Scale, block.Min) = ScaleSearch.WithMinima(values[..256], 3, 15, s, m, q);
        for (int i = 0; i < 16; i++)
        {
            block.Scales[i] = (byte)(s[i] | m[i] << 4);
            int first = i / 8 * 32 + i % 2 * 16, shift = i % 8 / 2 * 2;
            for (int l = 0; l < 16; l++) block.Quants[first + l] |= (byte)(q[16 * i + l] << shift);
        }
    }
}
