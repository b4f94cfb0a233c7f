using System.Runtime.InteropServices;
using Native.Kernels.Files;
using Native.Kernels.Formats;
using Native.Kernels.Gpu;

namespace Native.Kernels.Cuda;

/// <summary>Weights on the device. Neighbouring parts of one layout are one segment, so that one product computes them.
/// </summary>
internal sealed unsafe class CudaMatrix : Matrix
{
    private CudaMatrix(int rows, int columns, long bytes, Segment[] segments)
        : base(rows, columns, bytes) => Segments = segments;

    /// <summary>Rows of one layout.</summary>
    public readonly record struct Segment(WeightLayout Layout, int FirstRow, int Rows, ulong Weights, ulong Groups);

    /// <summary>In the order of their rows.</summary>
    public Segment[] Segments { get; }

    /// <summary>Queues the copies of the parts' rows as the file has them, and the kernels that repack them. Waits
    /// once, for whether all is finite.</summary>
    /// <exception cref="ArgumentException">Shapes don't fit together, or a row is not a whole number of blocks.
    /// </exception>
    /// <exception cref="InvalidDataException">A scale or weight is not finite.</exception>
    /// <exception cref="NotSupportedException">A format that has no layout.</exception>
    public static CudaMatrix Load(
        ReadOnlySpan<TensorView> parts, CudaUpload upload, CudaFunctions functions, Func<long, ulong> allocate)
    {
        int rows = WeightLayouts.CheckedRows(parts), columns = (int)parts[0].Columns;
        List<Segment> segments = [];
        long bytes = 0;
        upload.ClearRefused();
        for (int first = 0, row = 0; first < parts.Length;)
        {
            WeightLayout layout = WeightLayouts.Of(parts[first].Type).Layout;
            int last = first, own = 0;
            for (; last < parts.Length && WeightLayouts.Of(parts[last].Type).Layout == layout; last++)
                own += (int)parts[last].Rows;
            long weights = WeightLayouts.WeightBytes(layout, columns);
            long groups = WeightLayouts.Groups(layout, columns) * 8L;
            Segment segment = new(layout, row, own, allocate(own * weights), groups == 0 ? 0 : allocate(own * groups));
            bytes += own * (weights + groups);
            segments.Add(segment);
            for (; first < last; row += (int)parts[first++].Rows)
                LoadPart(parts[first], row, segment, upload, functions.Repack[parts[first].Type]);
        }
        CheckFinite(parts, upload.ReadRefused());
        return new CudaMatrix(rows, columns, bytes, [.. segments]);
    }

    /// <summary>Queues one part, of which the matrix's row <paramref name="first"/> is the first.</summary>
    private static void LoadPart(TensorView part, int first, Segment segment, CudaUpload upload, CudaFunction kernel)
    {
        int columns = (int)part.Columns;
        ulong weightBytes = (ulong)WeightLayouts.WeightBytes(segment.Layout, columns);
        ulong groupBytes = (ulong)WeightLayouts.Groups(segment.Layout, columns) * 8;
        long atOnce = Math.Max(1, upload.BufferBytes / part.RowBytes);
        for (long row = 0; row < part.Rows; row += atOnce)
        {
            long count = Math.Min(atOnce, part.Rows - row);
            int bytes = checked((int)(count * part.RowBytes));
            part.ReadRows(row, new Span<byte>((void*)upload.Next(bytes), bytes));
            ulong at = (ulong)(first + row - segment.FirstRow);
            Repacking repacking = new()
            {
                Weights = segment.Weights + at * weightBytes,
                Groups = segment.Groups + at * groupBytes,
                Refused = upload.Refused,
                Columns = (uint)columns,
                First = (uint)(first + row),
            };
            // Floats go where they belong; what is left to do is to look at them.
            repacking.Rows = groupBytes == 0 ? repacking.Weights : upload.Stage(bytes);
            upload.Copy(repacking.Rows, bytes);
            upload.End();
            Launch(kernel, repacking, (uint)count);
        }
    }

    private static void Launch(CudaFunction kernel, Repacking repacking, uint rows)
    {
        void** arguments = stackalloc void*[] { &repacking };
        kernel.Launch((rows, 1, 1), (128, 1, 1), 0, arguments);
    }

    /// <summary>Throws for the row that was refused, if one was.</summary>
    private static void CheckFinite(ReadOnlySpan<TensorView> parts, long refused)
    {
        if (refused < 0) return;
        int part = 0;
        for (; refused >= parts[part].Rows; part++) refused -= parts[part].Rows;
        throw new InvalidDataException(
            $"{parts[part].Name}: row {refused} has weights or scales that are not finite numbers");
    }
}

/// <summary>As <c>Repacking</c> lies in <c>repack.cu</c>. Addresses are of the device.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct Repacking
{
    public ulong Rows, Weights, Groups, Refused;
    public uint Columns, First;
}

/// <summary>What goes up: two pinned buffers in turn, one being filled while the other is copied, and a place on the
/// device for what a kernel repacks. The memory is taken when it is needed, and given back when loading ends.</summary>
internal sealed unsafe class CudaUpload(CudaDevice device, long bufferBytes = 8 << 20) : IDisposable
{
    private readonly CudaPinned[] _buffers = [new(device), new(device)];
    private readonly CudaEvent?[] _copied = new CudaEvent?[2];
    private readonly CudaBuffer _staging = new(device, "rows to repack");
    private readonly CudaBuffer _refused = new(device, "a refused row");
    private readonly CudaPinned _answer = new(device);
    private int _current;

    /// <summary>Bytes of a buffer, unless one row needs more. Default 8 MiB: at 12 to 50 GB/s (PCIe 3 to 5) a copy
    /// takes 0.7 to 0.17 ms, long beside the calls that queue it.</summary>
    public long BufferBytes => bufferBytes;

    /// <summary>A word of the device: the complement of the least row that a kernel refused, 0 for none.</summary>
    public ulong Refused => _refused.Address;

    /// <summary>Before the rows of a matrix: none is refused.</summary>
    public void ClearRefused()
    {
        device.Enter();
        _refused.Reserve(sizeof(uint));
        device.Clear(Refused, sizeof(uint));
    }

    /// <summary>Waits for all rows. The least that was refused, or -1.</summary>
    public long ReadRefused()
    {
        _answer.Reserve(sizeof(uint));
        device.CopyToHost(_answer.Address, Refused, sizeof(uint));
        device.Wait();
        uint complement = *(uint*)_answer.Address;
        return complement == 0 ? -1 : ~complement;
    }

    /// <summary>A buffer of at least so many bytes that nothing is being copied from.</summary>
    public nint Next(long bytes)
    {
        device.Enter();
        _copied[_current]?.Wait();
        _buffers[_current].Reserve(Math.Max(bytes, bufferBytes));
        return _buffers[_current].Address;
    }

    /// <summary>A place of so many bytes on the device, for a kernel to read the buffer's copy. There is one: on one
    /// stream a copy begins when the kernel before it has ended, so a second would lie idle.</summary>
    public ulong Stage(long bytes)
    {
        _staging.Reserve(Math.Max(bytes, bufferBytes));
        return _staging.Address;
    }

    /// <summary>Queues the copy of the buffer's first bytes.</summary>
    public void Copy(ulong target, long bytes) =>
        device.CopyToDevice(target, _buffers[_current].Address, bytes);

    /// <summary>The buffer's copy is queued: the other is next.</summary>
    public void End()
    {
        (_copied[_current] ??= new CudaEvent(device)).Record();
        _current ^= 1;
    }

    /// <summary>Loading ended: gives all memory back. More can be loaded, which takes it anew.</summary>
    public void Release()
    {
        device.Wait();
        foreach (CudaPinned buffer in _buffers) buffer.Dispose();
        _staging.Dispose();
        _refused.Dispose();
        _answer.Dispose();
    }

    public void Dispose()
    {
        Release();
        foreach (CudaEvent? copied in _copied) copied?.Dispose();
    }
}
