using System.Runtime.InteropServices;

namespace Native.Kernels.Formats;

/// <summary>4-bit with a minimum: 32 nibbles, scale and offset; x = Scale * q + Min. 20 bytes, 5 bits per
/// weight.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
public struct Q4_1 : IQuantizedBlock<Q4_1>
{
    /// <summary>d, the scale.</summary>
    public Half Scale;

    /// <summary>m, the block's smallest value.</summary>
    public Half Min;

    /// <summary>Byte j holds q[j] in its low nibble and q[j + 16] in its high one.</summary>
    public Bytes16 Quants;

    public static TensorType Type => TensorType.Q4_1;
    public static int BlockSize => 32;

    public static void Decode(in Q4_1 block, Span<float> values)
    {
        float d = (float)block.Scale, m = (float)block.Min;
        for (int j = 0; j < 16; j++)
        {
            values[j] = d * (block.Quants[j] & 15) + m;
            values[j + 16] = d * (block.Quants[j] >> 4) + m;
        }
    }

    public static void Quantize(ReadOnlySpan<float> values, out Q4_1 block)
    {
        block = default;
        (float min, float max) = Rounding.Range(values[..32]);
        float d = (max - min) / 15;
        float inverse = d == 0 ? 0 : 1 / d;
        (block.Scale, block.Min) = ((Half)d, (Half)min);
        for (int j = 0; j < 16; j++)
        {
            int low = Rounding.Nearest(values[j], min, inverse, 15);
            int high = Rounding.Nearest(values[j + 16], min, inverse, 15);
            block.Quants[j] = (byte)(low | high << 4);
        }
    }
}
