using System.Runtime.InteropServices;

namespace Native.Kernels.Formats;

/// <summary>3-bit super-block of 256: sixteen sub-blocks of 16 values, each with a 6-bit scale s; x = Scale * (s - 32)
/// * (q - 4). 110 bytes, 3.4375 bits per weight.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
public struct Q3_K : IQuantizedBlock<Q3_K>
{
    /// <summary>The third bits: that of value 32 * k + l is bit k of byte l.</summary>
    public Bytes32 High;

    /// <summary>The low two bits, in two halves of 32 bytes for 128 values each: value 32 * k + l of a half is bits 2k
    /// and 2k + 1 of the half's byte l.</summary>
    public Bytes64 Quants;

    /// <summary>Sixteen 6-bit scales: the low nibbles of s[0..7] and s[8..15] share bytes 0 to 7; byte 8 + i % 4 holds
    /// the upper two bits of s[i] at bit 2 * (i / 4).</summary>
    public Bytes12 Scales;

    /// <summary>d, the scale of the scales.</summary>
    public Half Scale;

    public static TensorType Type => TensorType.Q3_K;
    public static int BlockSize => 256;

    public static void Decode(in Q3_K block, Span<float> values)
    {
        float d = (float)block.Scale;
        for (int i = 0; i < 16; i++)
        {
            int low = block.Scales[i % 8] >> (i / 8 * 4) & 15;
            int high = block.Scales[8 + i % 4] >> (i / 4 * 2) & 3;
            float scale = d * ((low | high << 4) - 32);
            int column = i % 2 * 16, first = i / 8 * 32 + column, shift = i % 8 / 2 * 2;
            for (int l = 0; l < 16; l++)
            {
                int third = block.High[column + l] >> (i / 2) & 1;
                values[16 * i + l] = scale * ((block.Quants[first + l] >> shift & 3 | third << 2) - 4);
            }
        }
    }

    public static void Quantize(ReadOnlySpan<float> values, out Q3_K block)
    {
        block = default;
        Span<sbyte> s = stackalloc sbyte[16], q = stackalloc sbyte[256];
        block.Scale = ScaleSearch.Symmetric(values[..256], 4, 32, s, q);
        for (int i = 0; i < 16; i++)
        {
            int scale = s[i] + 32;
            block.Scales[i % 8] |= (byte)((scale & 15) << (i / 8 * 4));
            block.Scales[8 + i % 4] |= (byte)(scale >> 4 << (i / 4 * 2));
            int column = i % 2 * 16, first = i / 8 * 32 + column, shift = i % 8 / 2 * 2;
            for (int l = 0; l < 16; l++)
            {
                int bits = q[16 * i + l] + 4;
                block.Quants[first + l] |= (byte)((bits & 3) << shift);
                block.High[column + l] |= (byte)(bits >> 2 << (i / 2));
            }
        }
    }
}
