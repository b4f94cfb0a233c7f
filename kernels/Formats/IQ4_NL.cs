using System.Runtime.InteropServices;

namespace Native.Kernels.Formats;

/// <summary>4-bit, non-linear: nibbles index sixteen fixed levels, denser around zero; x = Scale * Levels[q]. 18 bytes,
/// 4.5 bits per weight.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
public struct IQ4_NL : IBlock<IQ4_NL>
{
    /// <summary>d, the scale.</summary>
    public Half Scale;

    /// <summary>Byte j holds q[j] in its low nibble and q[j + 16] in its high one.</summary>
    public Bytes16 Quants;

    public static TensorType Type => TensorType.IQ4_NL;
    public static int BlockSize => 32;

    /// <summary>The sixteen levels (ggml's kvalues_iq4nl), shared with <see cref="IQ4_XS"/>.</summary>
    public static ReadOnlySpan<sbyte> Levels =>
        [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

    public static void Decode(in IQ4_NL block, Span<float> values)
    {
        float d = (float)block.Scale;
        for (int j = 0; j < 16; j++)
        {
            values[j] = d * Levels[block.Quants[j] & 15];
            values[j + 16] = d * Levels[block.Quants[j] >> 4];
        }
    }
}
