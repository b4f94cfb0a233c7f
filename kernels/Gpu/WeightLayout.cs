using Native.Kernels.Files;
using Native.Kernels.Formats;

namespace Native.Kernels.Gpu;

/// <summary>How weights lie on the device: a plane of integers or floats, row by row, and for integers a plane of
/// scales, what to multiply with and what to add then for each group of columns. See <c>matmul.cu</c>.</summary>
internal enum WeightLayout
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

/// <summary>From the formats of files to <see cref="WeightLayout"/>. Nothing is rounded but a weight itself: scale *
/// integer + minimum, once.</summary>
internal static unsafe class WeightLayouts
{
    private static readonly Format[] s_formats =
    [
        new(TensorType.F32, WeightLayout.F32, 1, &WeightPacking.F32),
        new(TensorType.F16, WeightLayout.F16, 1, &WeightPacking.F16),
        new(TensorType.BF16, WeightLayout.BF16, 1, &WeightPacking.BF16),
        Of<Q4_0Integers>(), Of<Q4_1Integers>(), Of<Q5_0Integers>(), Of<Q5_1Integers>(), Of<Q8_0Integers>(),
        Of<Q2_KIntegers>(), Of<Q3_KIntegers>(), Of<Q4_KIntegers>(), Of<Q5_KIntegers>(), Of<Q6_KIntegers>(),
        Of<IQ4_NLIntegers>(), Of<IQ4_XSIntegers>(),
    ];

    /// <summary>The formats of files that can be computed with.</summary>
    public static IReadOnlyList<Format> Formats => s_formats;

    /// <summary>A format of files, and how a row of it is packed.</summary>
    public sealed class Format(
        TensorType type, WeightLayout layout, int block, delegate*<byte*, int, byte*, float*, bool> pack)
    {
        /// <summary>The format of the file.</summary>
        public TensorType Type => type;

        /// <summary>What it becomes.</summary>
        public WeightLayout Layout => layout;

        /// <summary>Columns of which a row is a multiple.</summary>
        public int Block => block;

        /// <summary>In <c>repack.cu</c>: what packs rows of it, or, of floats, looks whether all are finite.</summary>
        public string Kernel =>
            (layout is WeightLayout.F32 or WeightLayout.F16 or WeightLayout.BF16 ? "Check" : "Repack") + type;

        /// <summary>Packs one row: the definition of <see cref="Kernel"/>. False where a scale or a weight is not
        /// finite.</summary>
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
        ?? throw new NotSupportedException($"a GPU's backend can't compute with {BlockFormat.Name(type)}; it can with "
            + string.Join(", ", s_formats.Select(format => format.Type)));

    /// <summary>Bytes of a row's integers or floats.</summary>
    public static long WeightBytes(WeightLayout layout, int columns) => layout switch
    {
        WeightLayout.Int4 => columns / 2,
        WeightLayout.F32 => 4L * columns,
        WeightLayout.F16 or WeightLayout.BF16 => 2L * columns,
        _ => columns,
    };

    /// <summary>Groups of a row, each with two floats; 0 for floats.</summary>
    public static int Groups(WeightLayout layout, int columns) => layout switch
    {
        WeightLayout.Int4 or WeightLayout.Int8By32 => columns / 32,
        WeightLayout.Int8By16 => columns / 16,
        _ => 0,
    };

    /// <summary>All rows, after a check that the parts fit together.</summary>
    /// <exception cref="ArgumentException">They don't, or a row is not a whole number of blocks.</exception>
    /// <exception cref="NotSupportedException">A format that has no layout.</exception>
    public static int CheckedRows(ReadOnlySpan<TensorView> parts)
    {
        if (parts.IsEmpty) throw new ArgumentException("a matrix has at least one part", nameof(parts));
        long rows = 0;
        foreach (TensorView part in parts)
        {
            Format format = Of(part.Type);
            BlockFormat file = BlockFormat.Of(part.Type);
            if (part.Columns != parts[0].Columns || part.Columns % format.Block != 0 || part.Rows < 1
                || part.ByteLength != part.Rows * part.Columns / file.BlockSize * file.BlockBytes)
                throw new ArgumentException($"{part.Name} is [{part.Rows}, {part.Columns}] of {part.Type} in "
                    + $"{part.ByteLength} bytes; [, {parts[0].Columns}] in whole blocks of {format.Block} was expected",
                    nameof(parts));
            rows += part.Rows;
        }
        return checked((int)rows);
    }

    private static Format Of<T>() where T : IIntegerFormat => new(T.Type,
        T.GroupSize == 16 ? WeightLayout.Int8By16 : T.Nibbles ? WeightLayout.Int4 : WeightLayout.Int8By32,
        BlockFormat.Of(T.Type).BlockSize, &WeightPacking.Integers<T>);
}
