using System.Runtime.CompilerServices;
using Native.Kernels.Formats;

namespace Native.Kernels.Cpu.Panels;

/// <summary>One file format's panels, and a variant's code for them.</summary>
internal abstract unsafe class PanelFormat(Func<PanelFormat.Entry> code)
{
    private readonly Lazy<Entry> _code = new(code);

    /// <summary>Addresses of a format's functions, kept beside the weights in unmanaged memory.</summary>
    /// <remarks>The parameters of a micro-kernel: a panel half's first integers (or floats), its first scales, the
    /// addresses of the rows of activations, the number of blocks of 32 columns (of columns, for float activations),
    /// and the destination of [rows, 16] sums.</remarks>
    public struct Entry
    {
        /// <summary>Micro-kernel over one row of activations.</summary>
        public delegate*<byte*, byte*, byte**, int, float*, void> One;

        /// <summary>Micro-kernel over four rows. Each row has the same order of operations.</summary>
        public delegate*<byte*, byte*, byte**, int, float*, void> Four;

        /// <summary>Fills one half of a panel. Parameters: source, bytes of a row, rows (at most 16), columns, panel,
        /// half 0 or 1. False where a scale or weight is not finite.</summary>
        public delegate*<byte*, long, int, int, byte*, int, bool> Repack;

        /// <summary>Decodes one row. Parameters: panel, row 0 to 31, columns, values.</summary>
        public delegate*<byte*, int, int, float*, void> DecodeRow;

        /// <summary>Decodes a panel to floats. Parameters: panel, columns, values [columns, 32]. Null where the panel
        /// holds floats already.</summary>
        public delegate*<byte*, int, float*, void> DecodePanel;

        /// <summary>Bytes before the first integers (or floats) that <see cref="One"/> and <see cref="Four"/>
        /// take.</summary>
        public int HeaderBytes;

        /// <summary>Bytes from the first half's first integers to the second's.</summary>
        public int HalfBytes;

        /// <summary>Bytes from the first half's first scales to the second's.</summary>
        public int HalfScaleBytes;

        /// <summary>What the micro-kernels multiply.</summary>
        public ActivationType Activations;

        /// <summary>Machine code made for this format, instead of <see cref="One"/> and <see cref="Four"/>:
        /// <see cref="TileRows"/> functions, one for each number of rows. For int8, as many follow that take listed
        /// blocks only. Null where there is none.</summary>
        public nint* Tiles;

        /// <summary>Most rows of activations that <see cref="Tile.Compute"/> takes.</summary>
        public int TileRows;
    }

    /// <summary>The file format.</summary>
    public abstract TensorType Type { get; }

    /// <summary>The code, made on first use, since a model has few of the formats.</summary>
    public Entry Code => _code.Value;

    /// <summary>Bytes of a panel, a multiple of 64.</summary>
    public abstract long PanelBytes(int columns);

    /// <summary>The format of a type.</summary>
    /// <exception cref="NotSupportedException">There is none for it.</exception>
    public static PanelFormat Of(PanelFormat[] formats, TensorType type) => Array.Find(formats, f => f.Type == type)
        ?? throw new NotSupportedException(
            $"the CPU backend can't compute with {type}; it can with {string.Join(", ", formats.Select(f => f.Type))}");
}

/// <summary>A quantized format.</summary>
internal sealed unsafe class QuantizedPanelFormat<T>(Func<PanelFormat.Entry> code) : PanelFormat(code)
    where T : IIntegerFormat
{
    public override TensorType Type => T.Type;

    public override long PanelBytes(int columns) => (long)columns / Panel<T>.UnitColumns * Panel<T>.UnitStride;

    /// <summary>Fills one half of a panel.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static bool Repack(byte* source, long rowBytes, int rows, int columns, byte* panel, int half)
    {
        int unit = Panel<T>.UnitColumns, blockBytes = BlockFormat.Of(T.Type).BlockBytes;
        byte* unpacked = stackalloc byte[256];
        ushort* halves = stackalloc ushort[2];
        int worst = 0;
        for (int b = 0; b < columns / unit; b++)
        {
            byte* u = panel + (long)b * Panel<T>.UnitStride, s = u + half * Panel<T>.UnitScaleBytes;
            if (rows < 16)
            {
                Unsafe.InitBlockUnaligned(s, 0, (uint)Panel<T>.UnitScaleBytes);
                for (int i = Panel<T>.HeaderBytes + half * PanelLayout.HalfStride; i < Panel<T>.UnitStride;
                    i += PanelLayout.VectorStride) Unsafe.InitBlockUnaligned(u + i, 0, 64);
            }
            for (int r = 0; r < rows; r++)
            {
                T.Unpack(source + r * rowBytes + (long)b * blockBytes, unpacked, halves,
                    (sbyte*)s + Panel<T>.HalvesBytes + r);
                ((ushort*)s)[r] = halves[0];
                worst = Math.Max(worst, halves[0] & 0x7fff);
                if (T.HasMin)
                {
                    ((ushort*)s)[16 + r] = halves[1];
                    worst = Math.Max(worst, halves[1] & 0x7fff);
                }
                byte* to = u + Panel<T>.HeaderBytes + half * PanelLayout.HalfStride + 4 * r;
                for (int k = 0; k < unit; k += 32, to += Panel<T>.BlockStride)
                {
                    uint* from = (uint*)(unpacked + k);
                    if (T.Nibbles)
                    {
                        for (int j = 0; j < 4; j++)
                            *(uint*)(to + PanelLayout.VectorStride * j) = from[j] | from[j + 4] << 4;
                    }
                    else
                    {
                        for (int j = 0; j < 8; j++) *(uint*)(to + PanelLayout.VectorStride * j) = from[j];
                    }
                }
            }
        }
        return worst < 0x7c00;
    }

    /// <summary>The definition of a panel: one row's values.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void DecodeRow(byte* panel, int row, int columns, float* values)
    {
        byte* integers = panel + Panel<T>.HeaderBytes + row / 16 * PanelLayout.HalfStride,
            scales = panel + row / 16 * Panel<T>.UnitScaleBytes;
        row %= 16;
        for (int k = 0; k < columns; k += T.GroupSize)
        {
            (float scale, float min) = Scale(scales, k / T.GroupSize, row);
            for (int i = 0; i < T.GroupSize; i++)
            {
                float value = scale * Integer(integers, k + i, row);
                values[k + i] = T.HasMin ? value + min : value;
            }
        }
    }

    /// <summary>All rows' values, column by column.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void DecodePanel(byte* panel, int columns, float* values)
    {
        for (int k = 0; k < columns; k += T.GroupSize)
        {
            for (int row = 0; row < 32; row++)
            {
                byte* integers = panel + Panel<T>.HeaderBytes + row / 16 * PanelLayout.HalfStride;
                (float scale, float min) = Scale(panel + row / 16 * Panel<T>.UnitScaleBytes, k / T.GroupSize, row % 16);
                for (int i = 0; i < T.GroupSize; i++)
                {
                    float value = scale * Integer(integers, k + i, row % 16);
                    values[(k + i) * 32 + row] = T.HasMin ? value + min : value;
                }
            }
        }
    }

    /// <summary>The signed integer of one weight of a half.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static int Integer(byte* integers, int column, int row)
    {
        integers += (long)(column / Panel<T>.UnitColumns) * Panel<T>.UnitStride
            + column % Panel<T>.UnitColumns / 32 * Panel<T>.BlockStride;
        int k = column % 32;
        if (T.Nibbles)
            return (integers[k % 16 / 4 * PanelLayout.VectorStride + row * 4 + k % 4] >> (k / 16 * 4) & 15) - T.Offset;
        byte value = integers[k / 4 * PanelLayout.VectorStride + row * 4 + k % 4];
        return T.Signed ? (sbyte)value : value - T.Offset;
    }

    /// <summary>The scale and minimum of one group of a half's row.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (float Scale, float Min) Scale(byte* scales, int group, int row)
    {
        int groups = Panel<T>.UnitColumns / T.GroupSize;
        scales += (long)(group / groups) * Panel<T>.UnitStride;
        float scale = (float)((Half*)scales)[row], min = T.HasMin ? (float)((Half*)scales)[16 + row] : 0;
        if (!T.SuperScales) return (scale, min);
        sbyte* factors = (sbyte*)scales + Panel<T>.HalvesBytes + group % groups * Panel<T>.GroupBytes + row;
        return (scale * factors[0], T.HasMin ? min * factors[16] : 0);
    }
}

/// <summary>How a plain float format lies in panels: for each column 32 rows' elements.</summary>
internal unsafe interface IFloatPanel
{
    static abstract TensorType Type { get; }

    /// <summary>Bytes of an element.</summary>
    static abstract int Size { get; }

    /// <summary>One element.</summary>
    static abstract float Load(byte* address);

    /// <summary>Eight consecutive elements.</summary>
    static abstract System.Runtime.Intrinsics.Vector256<float> Load8(byte* address);

    /// <summary>Sixteen consecutive elements.</summary>
    static abstract System.Runtime.Intrinsics.Vector512<float> Load16(byte* address);
}

/// <summary>A plain float format.</summary>
internal sealed unsafe class FloatPanelFormat<T>(Func<PanelFormat.Entry> code) : PanelFormat(code)
    where T : IFloatPanel
{
    public override TensorType Type => T.Type;

    /// <remarks>An even number of columns: kernels of pairs read one column more.</remarks>
    public override long PanelBytes(int columns) => (columns + 1L) / 2 * 64 * T.Size;

    /// <summary>Fills one half of a panel.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static bool Repack(byte* source, long rowBytes, int rows, int columns, byte* panel, int half)
    {
        panel += half * 16 * T.Size;
        for (int k = rows < 16 ? 0 : columns; k < (columns + 1) / 2 * 2; k++)
            Unsafe.InitBlockUnaligned(panel + k * 32L * T.Size, 0, (uint)(16 * T.Size));
        bool finite = true;
        // A few columns of all rows at a time, so that the written lines stay in the L1 cache between rows.
        for (int first = 0; first < columns; first += 64)
        {
            int end = Math.Min(columns, first + 64);
            for (int r = 0; r < rows; r++)
            {
                byte* from = source + r * rowBytes;
                for (int k = first; k < end; k++)
                {
                    finite &= float.IsFinite(T.Load(from + (long)k * T.Size));
                    if (T.Size == 4) ((uint*)panel)[k * 32 + r] = Unsafe.ReadUnaligned<uint>(from + 4L * k);
                    else ((ushort*)panel)[k * 32 + r] = Unsafe.ReadUnaligned<ushort>(from + 2L * k);
                }
            }
        }
        return finite;
    }

    /// <summary>One row's values.</summary>
    public static void DecodeRow(byte* panel, int row, int columns, float* values)
    {
        for (int k = 0; k < columns; k++) values[k] = T.Load(panel + (k * 32L + row) * T.Size);
    }
}
