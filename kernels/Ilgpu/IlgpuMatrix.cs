using System.Runtime.InteropServices;
using ILGPU;
using ILGPU.Runtime;
using ILGPU.Runtime.CPU;
using Native.Kernels.Files;
using Native.Kernels.Formats;
using Native.Kernels.Gpu;

namespace Native.Kernels.Ilgpu;

/// <summary>Weights on the device. Neighbouring parts of one layout are one segment, so that one product computes them.
/// </summary>
internal sealed unsafe class IlgpuMatrix : Matrix
{
    private const long StageBytes = 8 << 20;

    private IlgpuMatrix(int rows, int columns, long bytes, Segment[] segments)
        : base(rows, columns, bytes) => Segments = segments;

    /// <summary>Rows of one layout.</summary>
    public readonly record struct Segment(WeightLayout Layout, int FirstRow, int Rows,
        MemoryBuffer1D<byte, Stride1D.Dense> Weights, MemoryBuffer1D<byte, Stride1D.Dense> Groups);

    /// <summary>In the order of their rows.</summary>
    public Segment[] Segments { get; }

    /// <summary>Packs the parts' rows on the processors and copies them.</summary>
    /// <exception cref="ArgumentException">Shapes don't fit together, or a row is not a whole number of blocks.
    /// </exception>
    /// <exception cref="InvalidDataException">A scale or weight is not finite.</exception>
    /// <exception cref="NotSupportedException">A format that has no layout.</exception>
    public static IlgpuMatrix Load(
        ReadOnlySpan<TensorView> parts, IlgpuDevice device, Func<long, MemoryBuffer1D<byte, Stride1D.Dense>> allocate)
    {
        int rows = WeightLayouts.CheckedRows(parts), columns = (int)parts[0].Columns;
        List<Segment> segments = [];
        long bytes = 0;
        for (int first = 0, row = 0; first < parts.Length;)
        {
            WeightLayout layout = WeightLayouts.Of(parts[first].Type).Layout;
            int last = first, own = 0;
            for (; last < parts.Length && WeightLayouts.Of(parts[last].Type).Layout == layout; last++)
                own += (int)parts[last].Rows;
            long weights = WeightLayouts.WeightBytes(layout, columns);
            long groups = WeightLayouts.Groups(layout, columns) * 8L;
            Segment segment = new(layout, row, own, allocate(own * weights), allocate(own * groups));
            bytes += own * (weights + groups);
            segments.Add(segment);
            for (; first < last; row += (int)parts[first++].Rows)
                LoadPart(parts[first], row - segment.FirstRow, segment, device);
        }
        return new IlgpuMatrix(rows, columns, bytes, [.. segments]);
    }

    /// <summary>Loads one part, whose first row is the segment's row <paramref name="first"/>.</summary>
    private static void LoadPart(TensorView part, int first, Segment segment, IlgpuDevice device)
    {
        WeightLayouts.Format format = WeightLayouts.Of(part.Type);
        int columns = (int)part.Columns, atOnce = (int)Math.Clamp(StageBytes / part.RowBytes, 1, part.Rows);
        long weightBytes = WeightLayouts.WeightBytes(segment.Layout, columns);
        long groupBytes = WeightLayouts.Groups(segment.Layout, columns) * 8L;
        byte[] source = new byte[checked((int)(atOnce * part.RowBytes))];
        byte* staged = (byte*)NativeMemory.Alloc((nuint)(atOnce * (weightBytes + groupBytes)));
        try
        {
            for (long row = 0; row < part.Rows; row += atOnce)
            {
                int count = (int)Math.Min(atOnce, part.Rows - row);
                part.ReadRows(row, source.AsSpan(0, checked((int)(count * part.RowBytes))));
                byte* groups = staged + count * weightBytes;
                long refused = Pack(
                    format, source, (int)part.RowBytes, columns, count, staged, weightBytes, groups, groupBytes);
                if (refused < count)
                    throw new InvalidDataException(
                        $"{part.Name}: row {row + refused} has weights or scales that are not finite numbers");
                Copy(device, segment.Weights, (first + row) * weightBytes, staged, count * weightBytes);
                Copy(device, segment.Groups, (first + row) * groupBytes, groups, count * groupBytes);
            }
        }
        finally
        {
            NativeMemory.Free(staged);
        }
    }

    /// <summary>Packs rows, several at a time. The first that is not finite, or the number of rows.</summary>
    private static long Pack(WeightLayouts.Format format, byte[] source, int rowBytes, int columns, int count,
        byte* weights, long weightBytes, byte* groups, long groupBytes)
    {
        long refused = count;
        fixed (byte* from = source)
        {
            byte* rows = from; // the lambda may not have a fixed one
            Parallel.For(0, count, row =>
            {
                float* own = (float*)(groups + row * groupBytes);
                if (format.Pack(rows + (long)row * rowBytes, columns, weights + row * weightBytes, own)) return;
                long seen;
                do seen = Interlocked.Read(ref refused);
                while (row < seen && Interlocked.CompareExchange(ref refused, row, seen) != seen);
            });
        }
        return refused;
    }

    private static void Copy(
        IlgpuDevice device, MemoryBuffer1D<byte, Stride1D.Dense> to, long at, byte* from, long bytes)
    {
        if (bytes == 0) return;
        using CPUMemoryBuffer host = CPUMemoryBuffer.Create(device.Accelerator, (nint)from, bytes, 1);
        to.View.BaseView.SubView(at, bytes).CopyFrom(device.Stream, host.AsArrayView<byte>(0, bytes));
        device.Stream.Synchronize();
    }
}
