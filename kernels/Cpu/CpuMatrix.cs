using Native.Kernels.Cpu.Machine;
using Native.Kernels.Cpu.Panels;
using Native.Kernels.Files;
using Native.Kernels.Formats;

namespace Native.Kernels.Cpu;

/// <summary>Weights as panels of 32 rows (<see cref="IIntegerFormat"/>, <see cref="IFloatPanel"/>). Each stacked part
/// is a segment. Gate and up of one format share a segment: sixteen rows of each per panel, so one tile yields
/// both.</summary>
internal sealed unsafe class CpuMatrix : Matrix
{
    // Bytes of the file in memory at once: enough for all workers, little beside the last-level cache.
    private const int BufferBytes = 4 << 20;

    private CpuMatrix(int rows, int columns, long bytes, Segment* segments, int count)
        : base(rows, columns, bytes)
    {
        Segments = segments;
        SegmentCount = count;
        for (int i = 0; i < count; i++)
        {
            Panels += segments[i].Panels;
            Roundings = Math.Max(Roundings, segments[i].Roundings);
        }
    }

    /// <summary>The segments, in the order of their rows, in the backend's memory.</summary>
    public Segment* Segments { get; }

    /// <summary>How many there are.</summary>
    public int SegmentCount { get; }

    /// <summary>The most <see cref="Segment.Roundings"/> of a segment.</summary>
    public int Roundings { get; }

    /// <summary>Panels of all segments.</summary>
    public int Panels { get; }

    /// <summary>Place, shape and code of one part, or of two that are paired.</summary>
    public struct Segment
    {
        public PanelFormat.Entry Code;
        public TensorType Format;
        public byte* Address;
        public long PanelBytes;
        public int FirstRow;
        public int Rows;
        public int SecondHalf; // rows from a panel's first half to its second: 16, or a whole part where Paired
        public bool Paired;    // a panel has sixteen rows of each of two parts
        public int FirstPanel;
        public int Panels;
        public int Roundings;  // of int8 activations: 1, or 2 where the rest is rounded again, to sixteen bits in all

        /// <summary>The matrix's row that a panel begins with, and the rows in each half.</summary>
        public readonly int Row(int panel, out int first, out int second)
        {
            int row = panel * (Paired ? 16 : 32), end = Paired ? SecondHalf : Rows;
            first = Math.Clamp(end - row, 0, 16);
            second = Paired ? first : Math.Clamp(end - row - 16, 0, 16);
            return FirstRow + row;
        }
    }

    /// <summary>Repacks the parts with all workers. Each byte of the file is read once.</summary>
    /// <exception cref="ArgumentException">Shapes don't fit together, or a row is not a whole number of
    /// blocks.</exception>
    /// <exception cref="InvalidDataException">A scale or weight is not finite.</exception>
    public static CpuMatrix Load(ReadOnlySpan<TensorView> parts, ReadOnlySpan<bool> fineActivations,
        PanelFormat[] formats, NativeHeap heap, WorkerPool pool)
    {
        if (!fineActivations.IsEmpty && fineActivations.Length != parts.Length)
            throw new ArgumentException(
                $"{parts.Length} parts have {fineActivations.Length} answers to whether activations are fine",
                nameof(fineActivations));
        int rows = CheckedRows(parts), columns = (int)parts[0].Columns;
        Span<bool> fine = stackalloc bool[parts.Length];
        fineActivations.CopyTo(fine);
        bool paired = parts.Length == 2 && parts[0].Type == parts[1].Type && parts[0].Rows == parts[1].Rows
            && fine[0] == fine[1];
        int count = paired ? 1 : parts.Length, firstRow = 0, firstPanel = 0;
        long bytes = 0;
        Segment* segments = (Segment*)heap.Allocate((long)count * sizeof(Segment), zeroed: true);
        for (int i = 0; i < count; i++)
        {
            PanelFormat format = PanelFormat.Of(formats, parts[i].Type);
            int partRows = (int)parts[i].Rows;
            Segment segment = new()
            {
                Code = format.Code,
                Format = format.Type,
                PanelBytes = format.PanelBytes(columns),
                FirstRow = firstRow,
                Rows = paired ? 2 * partRows : partRows,
                SecondHalf = paired ? partRows : 16,
                Paired = paired,
                FirstPanel = firstPanel,
                Panels = paired ? (partRows + 15) / 16 : (partRows + 31) / 32,
                Roundings = fine[i] ? 2 : 1,
            };
            segment.Address = (byte*)heap.AllocateLasting(segment.PanelBytes * segment.Panels);
            segments[i] = segment;
            Fill(segments + i, columns, parts[i], paired ? parts[1] : default, heap, pool);
            bytes += segment.PanelBytes * segment.Panels;
            firstRow += segment.Rows;
            firstPanel += segment.Panels;
        }
        return new CpuMatrix(rows, columns, bytes, segments, count);
    }

    /// <summary>The rows of all parts, once their shapes and lengths are checked.</summary>
    private static int CheckedRows(ReadOnlySpan<TensorView> parts)
    {
        if (parts.IsEmpty) throw new ArgumentException("a matrix needs at least one part", nameof(parts));
        long rows = 0;
        foreach (TensorView part in parts)
        {
            BlockFormat format = BlockFormat.Of(part.Type);
            if (part.Columns != parts[0].Columns)
                throw new ArgumentException(
                    $"{part.Name} has {part.Columns} columns, {parts[0].Name} beside it has {parts[0].Columns}",
                    nameof(parts));
            if (part.Rows is < 1 or > int.MaxValue || part.Columns is < 1 or > int.MaxValue / 64
                || part.Columns % format.BlockSize != 0)
                throw new ArgumentException(
                    $"{part.Name} has shape [{part.Rows}, {part.Columns}]; rows of {part.Type} are whole blocks of "
                    + $"{format.BlockSize}", nameof(parts));
            long expected = part.Rows * (part.Columns / format.BlockSize) * format.BlockBytes;
            if (part.ByteLength != expected || part.Start == 0)
                throw new ArgumentException(
                    $"{part.Name} has {part.ByteLength} bytes; [{part.Rows}, {part.Columns}] of {part.Type} takes "
                    + $"{expected}", nameof(parts));
            rows += part.Rows;
        }
        if (rows > int.MaxValue - 64)
            throw new ArgumentException($"{rows} rows are too many for one matrix", nameof(parts));
        return (int)rows;
    }

    /// <summary>Repacks one part into a segment, or two parts into a paired one. Rows pass through a buffer that stays
    /// in the processor's caches, rather than in place from a mapped file: see <see cref="FileBytes"/>.</summary>
    private static void Fill(Segment* segment, int columns, TensorView part, TensorView pair, NativeHeap heap,
        WorkerPool pool)
    {
        long rowBytes = part.RowBytes;
        int panelsAtOnce = (int)Math.Clamp(BufferBytes / (32 * rowBytes), 1, segment->Panels);
        int panelRows = segment->Paired ? 16 : 32;
        nint buffer = heap.Allocate(panelsAtOnce * 32 * rowBytes, zeroed: false);
        Repacking job = new() { Segment = segment, RowBytes = rowBytes, Columns = columns };
        while (job.FirstPanel < segment->Panels)
        {
            int panels = Math.Min(panelsAtOnce, segment->Panels - job.FirstPanel);
            int from = panelRows * job.FirstPanel, read = Math.Min(panelRows * panels, (int)part.Rows - from);
            int bytes = (int)(read * rowBytes);
            job.Halves[0] = buffer;
            job.Halves[1] = buffer + ((segment->Paired ? read : 16) * (nint)rowBytes);
            part.ReadRows(from, new Span<byte>((void*)buffer, bytes));
            if (segment->Paired) pair.ReadRows(from, new Span<byte>((void*)(nint)job.Halves[1], bytes));
            pool.For(panels, Math.Clamp(panels / (pool.Threads * 4), 1, 64), &Repack, &job);
            if (job.NotFinite != 0)
            {
                string name = segment->Paired && (job.NotFinite & 1) == 0 ? pair.Name : part.Name;
                throw new InvalidDataException($"tensor {name} holds a scale or a weight that is not finite");
            }
            job.FirstPanel += panels;
        }
        heap.Free(buffer);
    }

    /// <summary>One row's values, exactly as the file's format decodes them.</summary>
    /// <param name="row">0 to Rows - 1.</param>
    /// <param name="values">Receives <see cref="Matrix.Columns"/> values.</param>
    public void DecodeRow(int row, float* values)
    {
        Segment* segment = Segments;
        while (row >= segment->FirstRow + segment->Rows) segment++;
        row -= segment->FirstRow;
        int panel = row / 32, of = row % 32;
        if (segment->Paired)
            (panel, of) = (row % segment->SecondHalf / 16,
                row / segment->SecondHalf * 16 + row % segment->SecondHalf % 16);
        segment->Code.DecodeRow(segment->Address + panel * segment->PanelBytes, of, Columns, values);
    }

    private static void Repack(void* context, int from, int to, int worker)
    {
        Repacking* job = (Repacking*)context;
        Segment* segment = job->Segment;
        for (int i = from; i < to; i++)
        {
            int p = job->FirstPanel + i;
            segment->Row(p, out int first, out int second);
            byte* panel = segment->Address + p * segment->PanelBytes;
            long offset = i * (segment->Paired ? 16L : 32L) * job->RowBytes;
            if (!segment->Code.Repack((byte*)job->Halves[0] + offset, job->RowBytes, first, job->Columns, panel, 0))
                Interlocked.Or(ref job->NotFinite, 1);
            if (!segment->Code.Repack((byte*)job->Halves[1] + offset, job->RowBytes, second, job->Columns, panel, 1))
                Interlocked.Or(ref job->NotFinite, 2);
        }
    }

    private struct Repacking
    {
        public Segment* Segment;
        public fixed long Halves[2]; // the rows of the first panel at hand
        public int FirstPanel;
        public long RowBytes;
        public int Columns;
        public int NotFinite; // bit h: in half h
    }
}
