using System.Buffers.Binary;
using System.Runtime.InteropServices;

namespace Native.Kernels.Formats;

/// <summary>5-bit with a minimum: x = Scale * q + Min. 24 bytes, 6 bits per weight.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
public struct Q5_1 : IQuantizedBlock<Q5_1>
{
    /// <summary>d, the scale.</summary>
    public Half Scale;

    /// <summary>m, the block's smallest value.</summary>
    public Half Min;

    /// <summary>Bit j (little-endian over the four bytes) is the fifth bit of q[j].</summary>
    public Bytes4 High;

    /// <summary>Byte j holds the low four bits of q[j] in its low nibble and those of q[j + 16] in its high
    /// one.</summary>
    public Bytes16 Quants;

    public static TensorType Type => TensorType.Q5_1;
    public static int BlockSize => 32;

    public static void Decode(in Q5_1 block, Span<float> values)
    {
        float d = (float)block.Scale, m = (float)block.Min;
        uint high = BinaryPrimitives.ReadUInt32LittleEndian(block.High);
        for (int j = 0; j < 16; j++)
        {
            values[j] = d * (block.Quants[j] & 15 | (int)(high >> j & 1) << 4) + m;
            values[j + 16] = d * (block.Quants[j] >> 4 | (int)(high >> (j + 16) & 1) << 4) + m;
        }
    }

    public static void Quantize(ReadOnlySpan<float> values, out Q5_1 block)
    {
        block = default;
        (float min, float max) = Rounding.Range(values[..32]);
        float d = (max - min) / 31;
        float inverse = d == 0 ? 0 : 1 / d;
        (block.Scale, block.Min) = ((Half)d, (Half)min);
        uint bits = 0;
        for (int j = 0; j < 16; j++)
        {
            int low = Rounding.Nearest(values[j], min, inverse, 31);
            int high = Rounding.Nearest(values[j + 16], min, inverse, 31);
            block.Quants[j] = (byte)(low & 15 | (high & 15) << 4);
            bits |= (uint)(low >> 4) << j | (uint)(high >> 4) << (j + 16);
        }
        BinaryPrimitives.WriteUInt32LittleEndian(block.High, bits);
    }
}
