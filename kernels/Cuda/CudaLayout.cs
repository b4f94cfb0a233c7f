using System.Runtime.CompilerServices;
using Native.Kernels.Formats;

namespace Native.Kernels.Cuda;

/// <summary>How weights lie on the device: a plane of integers or floats, row by row, and for integers a plane of
/// scales, what to multiply with and what to add then for each group of columns. See <c>matmul.cu</c>.</summary>
internal enum CudaLayout
{
    /// <summary>Two integers a byte, of 32 columns the first 16 in the lower halves; groups of 32.</summary>
    Int4,

    /// <summary>Signed bytes; groups of 32.</summary>
    Int8By32,

    /// <summary>Signed bytes; groups of 16.</summary>
    Int8By16,

    /// <summary>As in the file.</summary>
    F32,

    /// <summary>As in the file.</summary>
    F16,

    /// <summary>As in the file.</summary>
    BF16,
}

/// <summary>From the formats of files to <see cref="CudaLayout"/>. Nothing is rounded but a weight itself: scale *
/// integer + minimum, once.</summary>
internal static unsafe class CudaLayouts
{
    private static readonly Format[] s_formats =
    [
        new(TensorType.F32, CudaLayout.F32, 1, &CopyF32), new(TensorType.F16, CudaLayout.F16, 1, &CopyF16),
        new(TensorType.BF16, CudaLayout.BF16, 1, &CopyBF16),
        Of<Q4_0Integers>(), Of<Q4_1Integers>(), Of<Q5_0Integers>(), Of<Q5_1Integers>(), Of<Q8_0Integers>(),
        Of<Q2_KIntegers>(), Of<Q3_KIntegers>(), Of<Q4_KIntegers>(), Of<Q5_KIntegers>(), Of<Q6_KIntegers>(),
        Of<IQ4_NLIntegers>(), Of<IQ4_XSIntegers>(),
    ];

    /// <summary>A format of files, and how a row of it is packed.</summary>
    public sealed class Format(
        TensorType type, CudaLayout layout, int block, delegate*<byte*, int, byte*, float*, bool> pack)
    {
        /// <summary>The format of the file.</summary>
        public TensorType Type => type;

        /// <summary>What it becomes.</summary>
        public CudaLayout Layout => layout;

        /// <summary>Columns of which a row is a multiple.</summary>
        public int Block => block;

        /// <summary>Packs one row. False where a scale or a weight is not finite.</summary>
        /// <param name="source">The row, as the file has it.</param>
        /// <param name="columns">A multiple of <see cref="Block"/>.</param>
        /// <param name="weights">Receives <see cref="WeightBytes"/>.</param>
        /// <param name="groups">Receives two floats for each of the <see cref="Groups"/>.</param>
        public bool Pack(byte* source, int columns, byte* weights, float* groups) =>
            pack(source, columns, weights, groups);
    }

    /// <summary>How a format of files is packed.</summary>
    /// <exception cref="NotSupportedException">It can't be computed with; the message names those that can.</exception>
    public static Format Of(TensorType type) => Array.Find(s_formats, format => format.Type == type)
        ?? throw new NotSupportedException($"the cuda backend can't compute with {BlockFormat.Name(type)}; it can with "
            + string.Join(", ", s_formats.Select(format => format.Type)));

    /// <summary>Bytes of a row's integers or floats.</summary>
    public static long WeightBytes(CudaLayout layout, int columns) => layout switch
    {
        CudaLayout.Int4 => columns / 2,
        CudaLayout.F32 => 4L * columns,
        CudaLayout.F16 or CudaLayout.BF16 => 2L * columns,
        _ => columns,
    };

    /// <summary>Groups of a row, each with two floats; 0 for floats.</summary>
    public static int Groups(CudaLayout layout, int columns) => layout switch
    {
        CudaLayout.Int4 or CudaLayout.Int8By32 => columns / 32,
        CudaLayout.Int8By16 => columns / 16,
        _ => 0,
    };

    private static Format Of<T>() where T : IIntegerFormat => new(T.Type,
        T.GroupSize == 16 ? CudaLayout.Int8By16 : T.Nibbles ? CudaLayout.Int4 : CudaLayout.Int8By32,
        BlockFormat.Of(T.Type).BlockSize, &Pack<T>);

    /// <summary>One row of integers.</summary>
    private static bool Pack<T>(byte* source, int columns, byte* weights, float* groups) where T : IIntegerFormat
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

    private static bool CopyF32(byte* source, int columns, byte* weights, float* groups)
    {
        Unsafe.CopyBlockUnaligned(weights, source, (uint)columns * 4);
        return Finite((uint*)weights, columns, 0x7f80_0000);
    }

    private static bool CopyF16(byte* source, int columns, byte* weights, float* groups)
    {
        Unsafe.CopyBlockUnaligned(weights, source, (uint)columns * 2);
        return Finite((ushort*)weights, columns, 0x7c00);
    }

    private static bool CopyBF16(byte* source, int columns, byte* weights, float* groups)
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
