using System.Runtime.InteropServices;

namespace Native.Kernels.Formats;

/// <summary>5-bit super-block of 256: eight sub-blocks of 32 values, each with a 6-bit scale s and a 6-bit minimum m; x
/// = Scale * s * q - Min * m. 176 bytes, 5.5 bits per weight.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
public struct Q5_K : IQuantizedBlock<Q5_K>
{
    /// <summary>d, the scale of the scales.</summary>
    public Half Scale;

    /// <summary>dmin, the scale of the minima.</summary>
    public Half Min;

    /// <summary>Eight 6-bit scales and eight 6-bit minima; <see cref="Q4_K.ScaleAndMin"/> tells the packing.</summary>
    public Bytes12 Scales;

    /// <summary>The fifth bits: that of value l of sub-block i is bit i of byte l.</summary>
    public Bytes32 High;

    /// <summary>Four groups of 32 bytes: byte l of group k holds the low four bits of value l of sub-block 2k in its
    /// low nibble and those of sub-block 2k + 1 in its high one.</summary>
    public Bytes128 Quants;

    public static TensorType Type => TensorType.Q5_K;
    public static int BlockSize => 256;

    public static void Decode(in Q5_K block, Span<float> values)
    {
        float d = (float)block.Scale, min = (float)block.Min;
        for (int i = 0; i < 8; i++)
        {
            (int s, int m) = Q4_K.ScaleAndMin(block.Scales, i);
            float scale = d * s, offset = min * m;
            int first = i / 2 * 32, shift = i % 2 * 4;
            for (int l = 0; l < 32; l++)
            {
                int fifth = block.High[l] >> i & 1;
                values[32 * i + l] = scale * (block.Quants[first + l] >> shift & 15 | fifth << 4) - offset;
            }
        }
    }

    public static void Quantize(ReadOnlySpan<float> values, out Q5_K block)
    {
        block = default;
        Span<byte> s = stackalloc byte[8], m = stackalloc byte[8], q = stackalloc byte[256];
        (block.Scale, block.Min) = ScaleSearch.WithMinima(values[..256], 31, 63, s, m, q);
        for (int i = 0; i < 8; i++)
        {
            Q4_K.PackScaleAndMin(block.Scales, i, s[i], m[i]);
            int first = i / 2 * 32, shift = i % 2 * 4;
            for (int l = 0; l < 32; l++)
            {
                block.Quants[first + l] |= (byte)((q[32 * i + l] & 15) << shift);
                block.High[l] |= (byte)(q[32 * i + l] >> 4 << i);
            }
        }
    }
}
