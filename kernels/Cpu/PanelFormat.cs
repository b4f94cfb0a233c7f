using System.Runtime.CompilerServices;
using Native.Kernels.Formats;

namespace Native.Kernels.Cpu;

/// <summary>One file format's panels and the code that a variant has for them.</summary>
internal abstract unsafe class PanelFormat(Func<PanelFormat.Entry> code)
{
    private readonly Lazy<Entry> _code = new(code);

    /// <summary>Addresses of a format's functions, to lie beside the weights in unmanaged memory.</summary>
    /// <remarks>A micro-kernel takes a panel's integers (or floats), its scales, the addresses of its rows of activations, the number of
    /// blocks of 32 columns (of columns, for float activations), and where to write [rows, 16] sums.</remarks>
    public struct Entry
    {
        /// <summary>Micro-kernel over one row of activations.</summary>
        public delegate*<byte*, byte*, byte**, int, float*, void> One;

        /// <summary>The same over four rows, in the same order of operations for each.</summary>
        public delegate*<byte*, byte*, byte**, int, float*, void> Four;

        /// <summary>Source, bytes of its rows, their number, columns, integers, scales: fills one panel. False where a scale or weight is not finite.</summary>
        public delegate*<byte*, long, int, int, byte*, byte*, bool> Repack;

        /// <summary>Integers, scales, row 0 to 15, columns, values.</summary>
        public delegate*<byte*, byte*, int, int, float*, void> DecodeRow;

        /// <summary>Integers, scales, columns, values [columns, 16]: a panel of floats. Null where the panel is one of floats.</summary>
        public delegate*<byte*, byte*, int, float*, void> DecodePanel;

        /// <summary>What the micro-kernels multiply.</summary>
        public ActivationType Activations;

        /// <summary>Machine code made for this format, instead of <see cref="One"/> and <see cref="Four"/>: a function for each number of panels and rows, shape [2, <see cref="TileRows"/>]; for int8 then as many that take listed blocks only. Null where there is none.</summary>
        public nint* Tiles;

        /// <summary>Rows of activations that <see cref="Tile.Compute"/> takes at most.</summary>
        public int TileRows;
    }

    /// <summary>The file format.</summary>
    public abstract TensorType Type { get; }

    /// <summary>Its code, made when it is first asked for: a model has few of the formats.</summary>
    public Entry Code => _code.Value;

    /// <summary>Bytes of a panel's integers, rounded up to cache lines.</summary>
    public abstract long ScalesOffset(int columns);

    /// <summary>Bytes of a panel, a multiple of 64.</summary>
    public abstract long PanelBytes(int columns);

    /// <summary>The format of a type.</summary>
    /// <exception cref="NotSupportedException">There is none for it.</exception>
    public static PanelFormat Of(PanelFormat[] formats, TensorType type) => Array.Find(formats, f => f.Type == type)
        ?? throw new NotSupportedException($"the CPU backend can't compute with {type}; it can with {string.Join(", ", formats.Select(f => f.Type))}");
}

/// <summary>A quantized format.</summary>
internal sealed unsafe class QuantizedPanelFormat<T>(Func<PanelFormat.Entry> code) : PanelFormat(code)
    where T : IPanel
{
    public override TensorType Type => T.Type;

    public override long ScalesOffset(int columns) => (long)columns / 32 * Panel<T>.BlockBytes;

    public override long PanelBytes(int columns) => (ScalesOffset(columns) + (long)columns / Panel<T>.UnitColumns * Panel<T>.UnitScaleBytes + 63) & ~63;

    /// <summary>Fills one panel.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static bool Repack(byte* source, long rowBytes, int rows, int columns, byte* integers, byte* scales)
    {
        int unit = Panel<T>.UnitColumns, blockBytes = BlockFormat.Of(T.Type).BlockBytes;
        byte* unpacked = stackalloc byte[256];
        ushort* halves = stackalloc ushort[2];
        if (rows < 16)
        {
            Unsafe.InitBlockUnaligned(integers, 0, (uint)(columns / 32 * Panel<T>.BlockBytes));
            Unsafe.InitBlockUnaligned(scales, 0, (uint)(columns / unit * Panel<T>.UnitScaleBytes));
        }
        int worst = 0;
        for (int b = 0; b < columns / unit; b++)
        {
            byte* s = scales + b * Panel<T>.UnitScaleBytes;
            for (int r = 0; r < rows; r++)
            {
                T.Unpack(source + r * rowBytes + (long)b * blockBytes, unpacked, halves, (sbyte*)s + Panel<T>.HalvesBytes + r);
                ((ushort*)s)[r] = halves[0];
                worst = Math.Max(worst, halves[0] & 0x7fff);
                if (T.HasMin)
                {
                    ((ushort*)s)[16 + r] = halves[1];
                    worst = Math.Max(worst, halves[1] & 0x7fff);
                }
                byte* to = integers + (long)b * Panel<T>.UnitBlocks * Panel<T>.BlockBytes + 4 * r;
                for (int k = 0; k < unit; k += 32, to += Panel<T>.BlockBytes)
                {
                    uint* from = (uint*)(unpacked + k);
                    if (T.Nibbles)
                    {
                        for (int j = 0; j < 4; j++) *(uint*)(to + 64 * j) = from[j] | from[j + 4] << 4;
                    }
                    else
                    {
                        for (int j = 0; j < 8; j++) *(uint*)(to + 64 * j) = from[j];
                    }
                }
            }
        }
        return worst < 0x7c00;
    }

    /// <summary>The definition of a panel: one row's values.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void DecodeRow(byte* integers, byte* scales, int row, int columns, float* values)
    {
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

    /// <summary>All sixteen rows' values, column by column.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void DecodePanel(byte* integers, byte* scales, int columns, float* values)
    {
        for (int k = 0; k < columns; k += T.GroupSize)
        {
            for (int row = 0; row < 16; row++)
            {
                (float scale, float min) = Scale(scales, k / T.GroupSize, row);
                for (int i = 0; i < T.GroupSize; i++)
                {
                    float value = scale * Integer(integers, k + i, row);
                    values[(k + i) * 16 + row] = T.HasMin ? value + min : value;
                }
            }
        }
    }

    /// <summary>The signed integer of one weight.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static int Integer(byte* integers, int column, int row)
    {
        integers += (long)(column / 32) * Panel<T>.BlockBytes;
        int k = column % 32;
        if (T.Nibbles) return (integers[k % 16 / 4 * 64 + row * 4 + k % 4] >> (k / 16 * 4) & 15) - T.Offset;
        byte value = integers[k / 4 * 64 + row * 4 + k % 4];
        return T.Signed ? (sbyte)value : value - T.Offset;
    }

    /// <summary>The scale and minimum of one group of a row.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (float Scale, float Min) Scale(byte* scales, int group, int row)
    {
        int groups = Panel<T>.UnitColumns / T.GroupSize;
        scales += (long)(group / groups) * Panel<T>.UnitScaleBytes;
        float scale = (float)((Half*)scales)[row], min = T.HasMin ? (float)((Half*)scales)[16 + row] : 0;
        if (!T.SuperScales) return (scale, min);
        sbyte* factors = (sbyte*)scales + Panel<T>.HalvesBytes + group % groups * Panel<T>.GroupBytes + row;
        return (scale * factors[0], T.HasMin ? min * factors[16] : 0);
    }
}

/// <summary>How a plain float format lies in panels: for each column the sixteen rows' elements.</summary>
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

    public override long ScalesOffset(int columns) => PanelBytes(columns);

    public override long PanelBytes(int columns) => PanelBytesOf(columns);

    /// <summary>Fills one panel.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static bool Repack(byte* source, long rowBytes, int rows, int columns, byte* panel, byte* scales)
    {
        if (rows < 16) Unsafe.InitBlockUnaligned(panel, 0, (uint)(columns * 16 * T.Size));
        if (columns % 2 != 0) Unsafe.InitBlockUnaligned(panel + columns * 16L * T.Size, 0, (uint)(PanelBytesOf(columns) - columns * 16L * T.Size)); // kernels of pairs read one column more
        bool finite = true;
        // A few columns of all rows at a time, so that what is written stays in the first-level cache between rows.
        for (int first = 0; first < columns; first += 64)
        {
            int end = Math.Min(columns, first + 64);
            for (int r = 0; r < rows; r++)
            {
                byte* from = source + r * rowBytes;
                for (int k = first; k < end; k++)
                {
                    finite &= float.IsFinite(T.Load(from + (long)k * T.Size));
                    if (T.Size == 4) ((uint*)panel)[k * 16 + r] = Unsafe.ReadUnaligned<uint>(from + 4L * k);
                    else ((ushort*)panel)[k * 16 + r] = Unsafe.ReadUnaligned<ushort>(from + 2L * k);
                }
            }
        }
        return finite;
    }

    private static long PanelBytesOf(int columns) => ((long)columns * 16 * T.Size + 63) & ~63;

    /// <summary>One row's values.</summary>
    public static void DecodeRow(byte* panel, byte* scales, int row, int columns, float* values)
    {
        for (int k = 0; k < columns; k++) values[k] = T.Load(panel + (k * 16L + row) * T.Size);
    }
}
