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
        new(TensorType.F32, CudaLayout.F32, 1, &CudaRepack.F32),
        new(TensorType.F16, CudaLayout.F16, 1, &CudaRepack.F16),
        new(TensorType.BF16, CudaLayout.BF16, 1, &CudaRepack.BF16),
        Of<Q4_0Integers>(), Of<Q4_1Integers>(), Of<Q5_0Integers>(), Of<Q5_1Integers>(), Of<Q8_0Integers>(),
        Of<Q2_KIntegers>(), Of<Q3_KIntegers>(), Of<Q4_KIntegers>(), Of<Q5_KIntegers>(), Of<Q6_KIntegers>(),
        Of<IQ4_NLIntegers>(), Of<IQ4_XSIntegers>(),
    ];

    /// <summary>The formats of files that can be computed with.</summary>
    public static IReadOnlyList<Format> Formats => s_formats;

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

        /// <summary>In <c>repack.cu</c>: what packs rows of it, or, of floats, looks whether all are finite.</summary>
        public string Kernel =>
            (layout is CudaLayout.F32 or CudaLayout.F16 or CudaLayout.BF16 ? "Check" : "Repack") + type;

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
        BlockFormat.Of(T.Type).BlockSize, &CudaRepack.Integers<T>);
}
