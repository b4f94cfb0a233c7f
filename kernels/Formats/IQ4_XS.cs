using System.Runtime.InteropServices;

namespace Native.Kernels.Formats;

/// <summary>4-bit, non-linear super-block of 256: eight sub-blocks of 32 values, each with a 6-bit scale s; x = Scale *
/// (s - 32) * Levels[q]. 136 bytes, 4.25 bits per weight.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
public struct IQ4_XS : IBlock<IQ4_XS>
{
    /// <summary>d, the scale of the scales.</summary>
    public Half Scale;

    /// <summary>Bits 2i and 2i + 1 are the upper two bits of s[i].</summary>
    public ushort ScalesHigh;

    /// <summary>Byte i / 2 holds the low four bits of s[i]: the low nibble for even i, the high one for odd.</summary>
    public Bytes4 ScalesLow;

    /// <summary>Sixteen bytes per sub-block: byte j holds q[j] in its low nibble and q[j + 16] in its high
    /// one.</summary>
    public Bytes128 Quants;

    public static TensorType Type => TensorType.IQ4_XS;
    public static int BlockSize => 256;

    public static void Decode(in IQ4_XS block, Span<float> values)
    {
        float d = (float)block.Scale;
        for (int i = 0; i < 8; i++)
        {
            int s = block.ScalesLow[i / 2] >> (i % 2 * 4) & 15 | (block.ScalesHigh >> (2 * i) & 3) << 4;
            float scale = d * (s - 32);
            for (int j = 0; j < 16; j++)
            {
                byte pair = block.Quants[16 * i + j];
                values[32 * i + j] = scale * IQ4_NL.Levels[pair & 15];
                values[32 * i + j + 16] = scale * IQ4_NL.Levels[pair >> 4];
            }
        }
    }
}
