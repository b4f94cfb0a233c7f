using System.Buffers.Binary;
using System.Runtime.InteropServices;

namespace Native.Kernels.Formats;

/// <summary>5-bit, symmetric: x = Scale * (q - 16). 22 bytes, 5.5 bits per weight.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
public struct Q5_0 : IQuantizedBlock<Q5_0>
{
    /// <summary>d, the scale; its sign is opposite to that of the block's largest value.</summary>
    public Half Scale;

    /// <summary>Bit j (little-endian over the four bytes) is the fifth bit of q[j].</summary>
    public Bytes4 High;

    /// <summary>Byte j holds the low four bits of q[j] in its low nibble and those of q[j + 16] in its high
    /// one.</summary>
    public Bytes16 Quants;

    public static TensorType Type => TensorType.Q5_0;
    public static int BlockSize => 32;

    public static void Decode(in Q5_0 block, Span<float> values)
    {
        float d = (float)block.Scale;
        uint high = BinaryPrimitives.ReadUInt32LittleEndian(block.High);
        for (int j = 0; j < 16; j++)
        {
            values[j] = d * ((block.Quants[j] & 15 | (int)(high >> j & 1) << 4) - 16);
            values[j + 16] = d * ((block.Quants[j] >> 4 | (int)(high >> (j + 16) & 1) << 4) - 16);
        }
    }

    public static void Quantize(ReadOnlySpan<float> values, out Q5_0 block)
    {
        block = default;
        float d = Rounding.LargestMagnitude(values[..32]) / -16;
        float inverse = d == 0 ? 0 : 1 / d;
        block.Scale = (Half)d;
        uint bits = 0;
        for (int j = 0; j < 16; j++)
        {
            int low = Rounding.Fused(values[j], inverse, 16.5f, 31);
            int high = Rounding.Fused(values[j + 16], inverse, 16.5f, 31);
            block.Quants[j] = (byte)(low & 15 | (high & 15) << 4);
            bits |= (uint)(low >> 4) << j | (uint)(high >> 4) << (j + 16);
        }
        BinaryPrimitives.WriteUInt32LittleEndian(block.High, bits);
    }
}
