using System.Runtime.CompilerServices;
using Native.Kernels.Formats;

namespace Native.Kernels.Gpu;

/// <summary>Rows as files have them, packed to a <see cref="WeightLayout"/>: plain loops, which define what
/// <c>repack.cu</c> does on a device, bit for bit.</summary>
internal static unsafe class WeightPacking
{
    /// <summary>One row of integers.</summary>
    public static bool Integers<T>(byte* source, int columns, byte* weights, float* groups) where T : IIntegerFormat
    {
        BlockFormat format = BlockFormat.Of(T.Type);
        bool packsNibbles = T.Nibbles && T.GroupSize == 32;
        byte* integers = stackalloc byte[256];
        ushort* halves = stackalloc ushort[2];
        sbyte* factors = stackalloc sbyte[16 * 32];
        int apart = T.HasMin ? 32 : 16; // of the groups' factors
        int worst = 0;
        for (int column = 0; column < columns; column += format.BlockSize, source += format.BlockBytes)
        {
            T.Unpack(source, integers, halves, factors);
            worst = Math.Max(worst, Math.Max(halves[0] & 0x7fff, T.HasMin ? halves[1] & 0x7fff : 0));
            for (int k = 0; k < format.BlockSize; k += T.GroupSize, groups += 2)
            {
                sbyte* factor = factors + k / T.GroupSize * apart;
                float scale = (float)BitConverter.UInt16BitsToHalf(halves[0]) * (T.SuperScales ? factor[0] : 1);
                float min = T.HasMin
                    ? (float)BitConverter.UInt16BitsToHalf(halves[1]) * (T.SuperScales ? factor[16] : 1) : 0;
                groups[0] = scale;
                groups[1] = packsNibbles ? min - scale * T.Offset : min;
            }
            if (packsNibbles)
            {
                for (int k = 0; k < format.BlockSize; k += 32)
                    for (int i = 0; i < 16; i++) *weights++ = (byte)(integers[k + i] | integers[k + i + 16] << 4);
            }
            else
            {
                for (int k = 0; k < format.BlockSize; k++) *weights++ = (byte)(integers[k] - T.Offset);
            }
        }
        return worst < 0x7c00;
    }

    /// <summary>One row of floats.</summary>
    public static bool F32(byte* source, int columns, byte* weights, float* groups)
    {
        Unsafe.CopyBlockUnaligned(weights, source, (uint)columns * 4);
        return Finite((uint*)weights, columns, 0x7f80_0000);
    }

    /// <summary>One row of halves.</summary>
    public static bool F16(byte* source, int columns, byte* weights, float* groups)
    {
        Unsafe.CopyBlockUnaligned(weights, source, (uint)columns * 2);
        return Finite((ushort*)weights, columns, 0x7c00);
    }

    /// <summary>One row of bfloat16.</summary>
    public static bool BF16(byte* source, int columns, byte* weights, float* groups)
    {
        Unsafe.CopyBlockUnaligned(weights, source, (uint)columns * 2);
        return Finite((ushort*)weights, columns, 0x7f80);
    }

    private static bool Finite(uint* bits, int count, uint exponent)
    {
        bool finite = true;
        for (int i = 0; i < count; i++) finite &= (bits[i] & exponent) != exponent;
        return finite;
    }

    private static bool Finite(ushort* bits, int count, int exponent)
    {
        bool finite = true;
        for (int i = 0; i < count; i++) finite &= (bits[i] & exponent) != exponent;
        return finite;
    }
}
