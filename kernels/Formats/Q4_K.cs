using System.Runtime.InteropServices;

namespace Native.Kernels.Formats;

/// <summary>4-bit super-block of 256: eight sub-blocks of 32 values, each with a 6-bit scale s and a 6-bit minimum m; x
/// = Scale * s * q - Min * m. 144 bytes, 4.5 bits per weight.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
public struct Q4_K : IQuantizedBlock<Q4_K>
{
    /// <summary>d, the scale of the scales.</summary>
    public Half Scale;

    /// <summary>dmin, the scale of the minima.</summary>
    public Half Min;

    /// <summary>Eight 6-bit scales and eight 6-bit minima; <see cref="ScaleAndMin"/> tells the packing.</summary>
    public Bytes12 Scales;

    /// <summary>Four groups of 32 bytes: byte l of group k holds value l of sub-block 2k in its low nibble and value l
    /// of sub-block 2k + 1 in its high one.</summary>
    public Bytes128 Quants;

    public static TensorType Type => TensorType.Q4_K;
    public static int BlockSize => 256;

    public static void Decode(in Q4_K block, Span<float> values)
    {
        float d = (float)block.Scale, min = (float)block.Min;
        for (int i = 0; i < 8; i++)
        {
            (int s, int m) = ScaleAndMin(block.Scales, i);
            float scale = d * s, offset = min * m;
            int first = i / 2 * 32, shift = i % 2 * 4;
            for (int l = 0; l < 32; l++) values[32 * i + l] = scale * (block.Quants[first + l] >> shift & 15) - offset;
        }
    }

    /// <summary>Unpacks the scale and the minimum (0 to 63 each) of sub-block <paramref name="i"/> (0 to 7) from the
    /// twelve bytes that Q4_K and Q5_K have: sub-blocks 0 to 3 have their own bytes' low six bits (scales in bytes 0 to
    /// 3, minima in 4 to 7); sub-blocks 4 to 7 have a nibble each in bytes 8 to 11 and their upper two bits in what
    /// bytes 0 to 7 have left.</summary>
    public static (int Scale, int Min) ScaleAndMin(ReadOnlySpan<byte> scales, int i) => i < 4
        ? (scales[i] & 63, scales[i + 4] & 63)
        : (scales[i + 4] & 15 | scales[i - 4] >> 6 << 4, scales[i + 4] >> 4 | scales[i] >> 6 << 4);

    /// <summary>The inverse of <see cref="ScaleAndMin"/>, on bytes that were zero before the first sub-block.</summary>
    internal static void PackScaleAndMin(Span<byte> scales, int i, int scale, int min)
    {
        if (i < 4)
        {
            scales[i] |= (byte)scale;
            scales[i + 4] |= (byte)min;
            return;
        }
        scales[i + 4] |= (byte)(scale & 15 | (min & 15) << 4);
        scales[i - 4] |= (byte)(scale >> 4 << 6);
        scales[i] |= (byte)(min >> 4 << 6);
    }

    public static void Quantize(ReadOnlySpan<float> values, out Q4_K block)
    {
        block = default;
        Span<byte> s = stackalloc byte[8], m = stackalloc byte[8], q = stackalloc byte[256];
        (block.Scale, block.Min) = ScaleSearch.WithMinima(values[..256], 15, 63, s, m, q);
        for (int i = 0; i < 8; i++)
        {
            PackScaleAndMin(block.Scales, i, s[i], m[i]);
            int first = i / 2 * 32, shift = i % 2 * 4;
            for (int l = 0; l < 32; l++) block.Quants[first + l] |= (byte)(q[32 * i + l] << shift);
        }
    }
}
