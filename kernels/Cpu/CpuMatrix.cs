using Native.Kernels.Formats;
using Native.Kernels.Models;

namespace Native.Kernels.Cpu;

/// <summary>Weights in panels of sixteen rows (<see cref="IPanel"/>, <see cref="IFloatPanel"/>), one segment for each stacked part.</summary>
internal sealed unsafe class CpuMatrix : Matrix
{
    private const int BufferBytes = 4 << 20; // of the file at once: enough for all workers, and little beside a processor's last cache

    private CpuMatrix(int rows, int columns, long bytes, Segment* segments, int count)
        : base(rows, columns, bytes)
    {
        Segments = segments;
        SegmentCount = count;
        for (int i = 0; i < count; i++)
        {
            Panels += segments[i].Panels;
            Terms = Math.Max(Terms, segments[i].Terms);
        }
    }

    /// <summary>The parts, in order of their rows; in the backend's memory.</summary>
    public Segment* Segments { get; }

    /// <summary>How many there are.</summary>
    public int SegmentCount { get; }

    /// <summary>The most terms of a part.</summary>
    public int Terms { get; }

    /// <summary>Panels of all segments.</summary>
    public int Panels { get; }

    /// <summary>One part's place, shape and code.</summary>
    public struct Segment
    {
        public PanelFormat.Entry Code;
        public TensorType Format;
        public byte* Address;
        public long PanelBytes;
        public long ScalesOffset;
        public int FirstRow;
        public int Rows;
        public int FirstPanel;
        public int Panels;
        public int Terms; // rows of int8 activations that make up one row: 2 keep sixteen bits
    }

    /// <summary>Repacks the parts, all workers together, reading each of the file's bytes once.</summary>
    /// <exception cref="ArgumentException">Shapes don't fit together, or a row is not a whole number of blocks.</exception>
    /// <exception cref="InvalidDataException">A scale or weight is not finite.</exception>
    public static CpuMatrix Load(ReadOnlySpan<TensorView> parts, ReadOnlySpan<bool> fineActivations, PanelFormat[] formats, NativeHeap heap, WorkerPool pool)
    {
        if (!fineActivations.IsEmpty && fineActivations.Length != parts.Length) throw new ArgumentException($"{parts.Length} parts have {fineActivations.Length} answers to whether activations are fine", nameof(fineActivations));
        if (parts.IsEmpty) throw new ArgumentException("a matrix needs at least one part", nameof(parts));
        long rows = 0, bytes = 0;
        foreach (TensorView part in parts)
        {
            BlockFormat format = BlockFormat.Of(part.Type);
            if (part.Columns != parts[0].Columns) throw new ArgumentException($"{part.Name} has {part.Columns} columns, {parts[0].Name} beside it has {parts[0].Columns}", nameof(parts));
            if (part.Rows is < 1 or > int.MaxValue || part.Columns is < 1 or > int.MaxValue / 64 || part.Columns % format.BlockSize != 0)
                throw new ArgumentException($"{part.Name} has shape [{part.Rows}, {part.Columns}]; rows of {part.Type} are whole blocks of {format.BlockSize}", nameof(parts));
            if (part.ByteLength != part.Rows * (part.Columns / format.BlockSize) * format.BlockBytes || part.Start == 0)
                throw new ArgumentException($"{part.Name} has {part.ByteLength} bytes; [{part.Rows}, {part.Columns}] of {part.Type} takes {part.Rows * (part.Columns / format.BlockSize) * format.BlockBytes}", nameof(parts));
            rows += part.Rows;
        }
        if (rows > int.MaxValue - 64) throw new ArgumentException($"{rows} rows are too many for one matrix", nameof(parts));

        int columns = (int)parts[0].Columns;
        Segment* segments = (Segment*)heap.Allocate((long)parts.Length * sizeof(Segment), zeroed: true);
        int firstRow = 0, firstPanel = 0;
        for (int i = 0; i < parts.Length; i++)
        {
            PanelFormat format = PanelFormat.Of(formats, parts[i].Type);
            Segment segment = new()
            {
                Code = format.Code,
                Format = format.Type,
                PanelBytes = format.PanelBytes(columns),
                ScalesOffset = format.ScalesOffset(columns),
                FirstRow = firstRow,
                Rows = (int)parts[i].Rows,
                FirstPanel = firstPanel,
                Panels = (int)((parts[i].Rows + 15) / 16),
                Terms = !fineActivations.IsEmpty && fineActivations[i] ? 2 : 1,
            };
            segment.Address = (byte*)heap.Allocate(segment.PanelBytes * segment.Panels, zeroed: false);
            segments[i] = segment;
            // Through a buffer that stays in the processors' caches, and not in place from a mapped file: see FileBytes.
            int panelsAtOnce = (int)Math.Clamp(BufferBytes / (16 * parts[i].RowBytes), 1, segment.Panels);
            nint buffer = heap.Allocate(panelsAtOnce * 16 * parts[i].RowBytes, zeroed: false);
            Repacking job = new() { Segment = segments + i, Source = (byte*)buffer, RowBytes = parts[i].RowBytes, Columns = columns };
            while (job.FirstPanel < segment.Panels)
            {
                int panels = Math.Min(panelsAtOnce, segment.Panels - job.FirstPanel), from = 16 * job.FirstPanel;
                parts[i].ReadRows(from, new Span<byte>((void*)buffer, (int)(Math.Min(16 * panels, segment.Rows - from) * parts[i].RowBytes)));
                pool.For(panels, Math.Clamp(panels / (pool.Threads * 4), 1, 64), &Repack, &job);
                job.FirstPanel += panels;
            }
            heap.Free(buffer);
            if (job.NotFinite != 0) throw new InvalidDataException($"tensor {parts[i].Name} holds a scale or a weight that is not finite");
            bytes += segment.PanelBytes * segment.Panels;
            firstRow += segment.Rows;
            firstPanel += segment.Panels;
        }
        return new CpuMatrix((int)rows, columns, bytes, segments, parts.Length);
    }

    /// <summary>One row's values, exactly as its file format decodes them.</summary>
    /// <param name="row">0 to Rows - 1.</param>
    /// <param name="values">Receives <see cref="Matrix.Columns"/> values.</param>
    public void DecodeRow(int row, float* values)
    {
        Segment* segment = Segments;
        while (row >= segment->FirstRow + segment->Rows) segment++;
        row -= segment->FirstRow;
        byte* panel = segment->Address + row / 16 * segment->PanelBytes;
        segment->Code.DecodeRow(panel, panel + segment->ScalesOffset, row % 16, Columns, values);
    }

    private static void Repack(void* context, int from, int to, int worker)
    {
        Repacking* job = (Repacking*)context;
        Segment* segment = job->Segment;
        for (int i = from; i < to; i++)
        {
            int p = job->FirstPanel + i;
            byte* panel = segment->Address + p * segment->PanelBytes;
            bool finite = segment->Code.Repack(job->Source + i * 16L * job->RowBytes, job->RowBytes, Math.Min(16, segment->Rows - 16 * p), job->Columns, panel, panel + segment->ScalesOffset);
            if (!finite) job->NotFinite = 1;
        }
    }

    private struct Repacking
    {
        public Segment* Segment;
        public byte* Source; // rows from FirstPanel on
        public int FirstPanel;
        public long RowBytes;
        public int Columns;
        public int NotFinite;
    }
}
