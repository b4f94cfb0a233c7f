using System.Runtime.InteropServices;

namespace Native.Kernels.Formats;

/// <summary>4-bit, symmetric: 32 nibbles and one scale; x = Scale * (q - 8). 18 bytes, 4.5 bits per weight.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
public struct Q4_0 : IQuantizedBlock<Q4_0>
{
    /// <summary>d, the scale. Its sign is opposite to that of the block's largest value, so q = 0 gives that value
    /// exactly.</summary>
    public Half Scale;

    /// <summary>Byte j holds q[j] in its low nibble and q[j + 16] in its high one.</summary>
    public Bytes16 Quants;

    public static TensorType Type => TensorType.Q4_0;
    public static int BlockSize => 32;

    public static void Decode(in Q4_0 block, Span<float> values)
    {
        float d = (float)block.Scale;
        for (int j = 0; j < 16; j++)
        {
            values[j] = d * ((block.Quants[j] & 15) - 8);
            values[j + 16] = d * ((block.Quants[j] >> 4) - 8);
        }
    }

    public static void Quantize(ReadOnlySpan<float> values, out Q4_0 block)
    {
        block = default;
        float d = Rounding.LargestMagnitude(values[..32]) / -8;
        float inverse = d == 0 ? 0 : 1 / d;
        block.Scale = (Half)d;
        for (int j = 0; j < 16; j++)
        {
            int low = Rounding.Fused(values[j], inverse, 8.5f, 15);
            int high = Rounding.Fused(values[j + 16], inverse, 8.5f, 15);
            block.Quants[j] = (byte)(low | high << 4);
        }
    }
}
