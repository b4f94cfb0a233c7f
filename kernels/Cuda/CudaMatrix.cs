using Native.Kernels.Files;
using Native.Kernels.Formats;

namespace Native.Kernels.Cuda;

/// <summary>Weights on the device. Neighbouring parts of one layout are one segment, so that one product computes them.
/// </summary>
internal sealed unsafe class CudaMatrix : Matrix
{
    private CudaMatrix(int rows, int columns, long bytes, Segment[] segments)
        : base(rows, columns, bytes) => Segments = segments;

    /// <summary>Rows of one layout.</summary>
    public readonly record struct Segment(CudaLayout Layout, int FirstRow, int Rows, ulong Weights, ulong Groups);

    /// <summary>In the order of their rows.</summary>
    public Segment[] Segments { get; }

    /// <summary>Packs the parts' rows into pinned memory and queues their copies, a buffer while the other one goes up.
    /// </summary>
    /// <exception cref="ArgumentException">Shapes don't fit together, or a row is not a whole number of blocks.
    /// </exception>
    /// <exception cref="InvalidDataException">A scale or weight is not finite.</exception>
    /// <exception cref="NotSupportedException">A format that has no layout.</exception>
    public static CudaMatrix Load(ReadOnlySpan<TensorView> parts, CudaUpload upload, Func<long, ulong> allocate)
    {
        int rows = CheckedRows(parts), columns = (int)parts[0].Columns;
        List<Segment> segments = [];
        long bytes = 0;
        for (int first = 0, row = 0; first < parts.Length;)
        {
            CudaLayout layout = CudaLayouts.Of(parts[first].Type).Layout;
            int last = first, own = 0;
            for (; last < parts.Length && CudaLayouts.Of(parts[last].Type).Layout == layout; last++)
                own += (int)parts[last].Rows;
            long weights = CudaLayouts.WeightBytes(layout, columns), groups = CudaLayouts.Groups(layout, columns) * 8L;
            Segment segment = new(layout, row, own, allocate(own * weights), groups == 0 ? 0 : allocate(own * groups));
            bytes += own * (weights + groups);
            ulong toWeights = segment.Weights, toGroups = segment.Groups;
            for (; first < last; first++)
            {
                LoadPart(parts[first], layout, upload, toWeights, toGroups);
                toWeights += (ulong)(parts[first].Rows * weights);
                toGroups += (ulong)(parts[first].Rows * groups);
            }
            segments.Add(segment);
            row += own;
        }
        return new CudaMatrix(rows, columns, bytes, [.. segments]);
    }

    private static void LoadPart(TensorView part, CudaLayout layout, CudaUpload upload, ulong weights, ulong groups)
    {
        CudaLayouts.Format format = CudaLayouts.Of(part.Type);
        int columns = (int)part.Columns;
        long weightBytes = CudaLayouts.WeightBytes(layout, columns);
        long groupBytes = CudaLayouts.Groups(layout, columns) * 8L;
        // Room for a row's weights and groups, each from a multiple of 16 on.
        int atOnce = (int)Math.Max(1, (CudaUpload.BufferBytes - 16) / (weightBytes + groupBytes));
        byte[] rowBytes = new byte[part.RowBytes];
        for (long row = 0; row < part.Rows; row += atOnce)
        {
            int count = (int)Math.Min(atOnce, part.Rows - row);
            long groupsFrom = (count * weightBytes + 15) / 16 * 16;
            byte* buffer = (byte*)upload.Next(groupsFrom + count * groupBytes);
            for (int i = 0; i < count; i++)
            {
                part.ReadRows(row + i, rowBytes);
                bool finite;
                fixed (byte* source = rowBytes)
                    finite = format.Pack(source, columns, buffer + i * weightBytes,
                        (float*)(buffer + groupsFrom + i * groupBytes));
                if (!finite)
                    throw new InvalidDataException(
                        $"{part.Name}: row {row + i} has weights or scales that are not finite numbers");
            }
            upload.Copy(weights + (ulong)(row * weightBytes), 0, count * weightBytes);
            if (groupBytes > 0) upload.Copy(groups + (ulong)(row * groupBytes), groupsFrom, count * groupBytes);
            upload.End();
        }
    }

    /// <summary>All rows, after a check that the parts fit together.</summary>
    private static int CheckedRows(ReadOnlySpan<TensorView> parts)
    {
        if (parts.IsEmpty) throw new ArgumentException("a matrix has at least one part", nameof(parts));
        long rows = 0;
        foreach (TensorView part in parts)
        {
            CudaLayouts.Format format = CudaLayouts.Of(part.Type);
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
}

/// <summary>Two pinned buffers that go up in turn: one is filled while the other is copied.</summary>
internal sealed class CudaUpload(CudaDevice device) : IDisposable
{
    /// <summary>Bytes of a buffer, unless one row needs more.</summary>
    public const long BufferBytes = 8 << 20;

    private readonly nint[] _buffers = new nint[2];
    private readonly long[] _bytes = new long[2];
    private readonly CudaEvent?[] _copied = new CudaEvent?[2];
    private int _current;

    /// <summary>A buffer of at least so many bytes that nothing is being copied from.</summary>
    public nint Next(long bytes)
    {
        device.Enter();
        _copied[_current]?.Wait();
        if (_bytes[_current] >= bytes) return _buffers[_current];
        if (_buffers[_current] != 0) device.FreePinned(_buffers[_current]);
        _buffers[_current] = 0; // nothing is there should the next line throw
        _bytes[_current] = Math.Max(bytes, BufferBytes);
        _buffers[_current] = device.AllocatePinned(_bytes[_current]);
        return _buffers[_current];
    }

    /// <summary>Queues the copy of a part of the buffer.</summary>
    public void Copy(ulong target, long from, long bytes) =>
        device.CopyToDevice(target, _buffers[_current] + (nint)from, bytes);

    /// <summary>The buffer's copies are queued: the other is next.</summary>
    public void End()
    {
        (_copied[_current] ??= new CudaEvent(device)).Record();
        _current ^= 1;
    }

    public void Dispose()
    {
        device.Wait();
        for (int i = 0; i < 2; i++)
        {
            _copied[i]?.Dispose();
            if (_buffers[i] != 0) device.FreePinned(_buffers[i]);
        }
    }
}
