using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Native.Kernels.Cpu.Jit;
using Native.Kernels.Cpu.Machine;
using Native.Kernels.Cpu.Panels;

namespace Native.Kernels.Cpu;

/// <summary>What becomes of a product w x[t] + bias.</summary>
internal enum Epilogue : byte
{
    /// <summary>It is the output.</summary>
    Store,

    /// <summary>It is added to the output.</summary>
    Add,

    /// <summary>Its first half, activated, times its second half is the output.</summary>
    Gate,
}

/// <summary>Matrix products over a <see cref="CpuMatrix"/>'s panels, by all workers. Before them the rows are
/// normalized and rounded, after them come bias, addition or gate.</summary>
/// <remarks>
/// Rows are normalized and rounded once. Then panels are computed tile by tile: one panel and a few rows at a time. The
/// reduction over columns is never split. A row's sums do not depend on its tile's other rows, so outputs depend
/// neither on the batch nor on the number of threads.
/// </remarks>
internal sealed unsafe class MatMul(WorkerPool pool, NativeHeap heap)
{
    // A chunk of rows is read again for every panel. It stays in the L2 cache beside the panels at hand.
    private const int ChunkBytes = 384 << 10;

    // From 128 rows per worker, split rows instead of panels: the next operation then finds its input in the same
    // core's cache.
    private const int RangeRows = 128;

    // Prefetch distance when a panel meets one tile (L1). With several tiles each prefetches its part of the next
    // panel.
    private const int AheadBytes = 8192;

    private byte* _rounded;
    private long _roundedBytes;
    private float* _decoded;
    private long _decodedFloats;
    private ulong* _outliers;
    private long _outlierWords;
    private int* _lists;
    private long _listInts;

    /// <summary>Computes all rows of <paramref name="x"/>. Shapes have been checked. An empty bias or norm means
    /// none.</summary>
    public void Run(Tensor x, RowNorm norm, CpuMatrix w, Tensor bias, Tensor y, Epilogue epilogue,
        Activation activation)
    {
        Job job = Plan(x, norm, w, bias, y, epilogue, activation);
        RoundRows(&job, w);
        Multiply(&job, w);
    }

    private Job Plan(Tensor x, RowNorm norm, CpuMatrix w, Tensor bias, Tensor y, Epilogue epilogue,
        Activation activation)
    {
        Job job = new()
        {
            X = (float*)x.Address,
            Norm = (float*)norm.Weight.Address,
            Epsilon = norm.Epsilon,
            Rows = x.Rows,
            Columns = w.Columns,
            Roundings = w.Roundings,
            Segments = w.Segments,
            SegmentCount = w.SegmentCount,
            Bias = (float*)bias.Address,
            Y = (float*)y.Address,
            YStride = y.Columns,
            Epilogue = epilogue,
            Activation = activation,
            HalfRows = w.Rows / 2,
            SplitsRows = pool.Threads > 1 && x.Rows >= RangeRows * pool.Threads,
            // Gate and up of different formats have panels of their own, which meet in pairs.
            MixedGate = epilogue == Epilogue.Gate && w.SegmentCount == 2,
        };
        job.RangeRows = job.SplitsRows ? RoundUp(CeilDiv(x.Rows, pool.Threads), Tile.MaxRows) : x.Rows;
        job.Panels = job.MixedGate ? w.Segments[0].Panels : w.Panels;
        // A multiple of the grain, so that no worker's share crosses from one range of rows into the next.
        job.PanelStride = job.SplitsRows ? RoundUp(job.Panels, Grain(w)) : job.Panels;
        return job;
    }

    /// <summary>Normalizes and rounds all rows, for each kind of activations that a segment takes.</summary>
    private void RoundRows(Job* job, CpuMatrix w)
    {
        bool integers = false, halves = false, floats = false, normed = job->Norm != null;
        for (int i = 0; i < w.SegmentCount; i++)
        {
            ActivationType activations = w.Segments[i].Code.Activations;
            integers |= activations == ActivationType.Int8;
            halves |= activations == ActivationType.BFloat16;
            floats |= activations == ActivationType.Float;
        }
        // Scratch: int8 rows | bf16 rows | normalized rows (all rows if a segment takes floats, else one per worker).
        long blocks = integers ? (long)job->Rows * job->Roundings * (w.Columns / 32) * sizeof(ActivationBlock) : 0;
        long pairs = halves ? job->Rows * BFloat16Stride(w.Columns) : 0;
        job->NormalizedStride = ((long)w.Columns * sizeof(float) + 63) & ~63L;
        job->KeepsNormalized = floats;
        long normalized = normed ? job->NormalizedStride * (floats ? job->Rows : pool.Threads) : 0;
        if (blocks + pairs + normalized == 0) return;

        byte* scratch = heap.Reserve(ref _rounded, ref _roundedBytes, blocks + pairs + normalized);
        if (integers) job->Int8 = scratch;
        if (halves) job->BFloat16 = scratch + blocks;
        if (normed) job->Normalized = scratch + blocks + pairs;
        if (job->Roundings > 1)
        {
            long words = (long)job->Rows * ActivationBlock.OutlierWords(w.Columns);
            job->Outliers = heap.Reserve(ref _outliers, ref _outlierWords, words);
        }
        // Shares of equal length: with a shorter one at the end, one worker would wait for another.
        int shares = Math.Max(1, (int)Math.Min(2L * pool.Threads, (long)job->Rows * w.Columns / 4096));
        pool.ForShares(job->Rows, CeilDiv(job->Rows, shares), &RoundShare, job);
    }

    /// <summary>All panels by all rows.</summary>
    private void Multiply(Job* job, CpuMatrix w)
    {
        bool lists = false;
        for (int i = 0; i < w.SegmentCount; i++)
        {
            lists |= ListsOutliers(w.Segments + i);
            if (w.Segments[i].Code.DecodePanel == null) continue;
            job->Decoded = heap.Reserve(ref _decoded, ref _decodedFloats, 64L * w.Columns * pool.Threads);
        }
        if (lists) job->OutlierLists = ListOutliers(*job);
        int ranges = job->SplitsRows ? CeilDiv(job->Rows, job->RangeRows) : 1;
        pool.ForShares(ranges * job->PanelStride, Grain(w), job->MixedGate ? &MixedGatePanels : &Panels, job);
    }

    /// <summary>Panels that a worker takes at once. Enough that handing them out costs nothing; few enough that no
    /// worker waits long for the last; and no more than stay in an L2 cache (128 KiB) while chunks of rows
    /// pass.</summary>
    private int Grain(CpuMatrix w)
    {
        long cached = Math.Max(1, (128 << 10) / (w.ByteLength / w.Panels));
        return (int)Math.Clamp(w.Panels / (pool.Threads * 8L), 1, cached);
    }

    private static int CeilDiv(int n, int divisor) => (n + divisor - 1) / divisor;

    private static int RoundUp(int n, int multiple) => CeilDiv(n, multiple) * multiple;

    private static long BFloat16Stride(int columns) => (2L * columns + 63) & ~63L;

    /// <summary>Whether a segment's second roundings meet machine code, which takes only the blocks that have an
    /// outlier.</summary>
    private static bool ListsOutliers(CpuMatrix.Segment* segment) =>
        segment->Roundings == 2 && segment->Code.Activations == ActivationType.Int8 && segment->Code.Tiles != null;

    /// <summary>For each tile of rows, the blocks in which any of its rows has an outlier: their count, then their
    /// numbers, in blocks + 1 integers.</summary>
    /// <remarks>A row without an outlier in such a block has a rest of zeros there, which add nothing: a row's bits do
    /// not depend on its neighbours.</remarks>
    private int* ListOutliers(in Job job)
    {
        int blocks = job.Columns / 32, words = ActivationBlock.OutlierWords(job.Columns), most = TileAssembler.MaxRows,
            chunk = ChunkRows((long)blocks * job.Roundings * sizeof(ActivationBlock));
        long ints = (job.Rows + most - 1L) / most * (blocks + 1);
        int* lists = heap.Reserve(ref _lists, ref _listInts, ints), list = lists;
        for (int begin = 0, last; begin < job.Rows; begin = last)
        {
            last = Math.Min(Math.Min(job.Rows, begin + chunk), (begin / job.RangeRows + 1) * job.RangeRows);
            for (int t = begin, n; t < last; t += n, list += blocks + 1)
            {
                n = TileHeight(last - t, most);
                int count = 0;
                for (int word = 0; word < words; word++)
                {
                    ulong any = 0;
                    for (int i = 0; i < n; i++) any |= job.Outliers[(t + i) * (long)words + word];
                    for (; any != 0; any &= any - 1) list[++count] = 64 * word + BitOperations.TrailingZeroCount(any);
                }
                list[0] = count;
            }
        }
        return lists;
    }

    /// <summary>Rows of the next tile. Tiles get about equal heights: 32 rows become 6, 6, 5, 5, 5, 5, not five of 6
    /// and one of 2.</summary>
    private static int TileHeight(int left, int most)
    {
        return CeilDiv(left, CeilDiv(left, most));
    }

    /// <summary>Rows of a chunk: a multiple of every tile's greatest height.</summary>
    private static int ChunkRows(long rowBytes) =>
        (int)Math.Clamp(ChunkBytes / rowBytes / Tile.MaxRows * Tile.MaxRows, Tile.MaxRows, 1 << 20);

    private static void RoundShare(void* context, int from, int to, int worker)
    {
        Job* job = (Job*)context;
        int columns = job->Columns;
        long blocks = columns / 32;
        for (int t = from; t < to; t++)
        {
            float* x = job->X + (long)t * columns;
            if (job->Normalized != null)
            {
                float* normalized = (float*)(job->Normalized
                    + job->NormalizedStride * (job->KeepsNormalized ? t : worker));
                Elementwise.RmsNorm(x, job->Norm, job->Epsilon, normalized, columns);
                x = normalized;
            }
            if (job->Int8 != null)
            {
                ActivationBlock* row = (ActivationBlock*)job->Int8 + t * blocks * job->Roundings;
                if (job->Roundings == 1) ActivationBlock.Quantize(x, columns, row);
                else
                    ActivationBlock.QuantizeFine(x, columns, row, row + blocks,
                        job->Outliers + t * (long)ActivationBlock.OutlierWords(columns));
            }
            if (job->BFloat16 != null)
            {
                ushort* row = (ushort*)(job->BFloat16 + t * BFloat16Stride(columns));
                Rope.Convert(x, new Tensor((nint)row, 1, columns, DType.BF16), 0, columns);
                if (columns % 2 != 0) row[columns] = 0;
            }
        }
    }

    private static void Panels(void* context, int from, int to, int worker)
    {
        Job* job = (Job*)context;
        job->Range(ref from, ref to, out int firstRow, out int lastRow);
        for (int i = 0; i < job->SegmentCount; i++)
        {
            CpuMatrix.Segment* segment = job->Segments + i;
            int first = Math.Max(from - segment->FirstPanel, 0),
                end = Math.Min(to - segment->FirstPanel, segment->Panels);
            if (first >= end) continue;
            Operand operand = Operand.Of(job, segment, worker);
            for (int begin = firstRow; begin < lastRow; begin += operand.ChunkRows)
            {
                int last = Math.Min(lastRow, begin + operand.ChunkRows);
                for (int p = first; p < end; p++) PanelTiles(job, operand, p, begin, last);
            }
        }
    }

    /// <summary>A panel by rows [begin, last).</summary>
    [SkipLocalsInit] // sums are written before they are read; clearing them would cost a single row time
    private static void PanelTiles(Job* job, in Operand operand, int p, int begin, int last)
    {
        CpuMatrix.Segment* segment = operand.Segment;
        byte* panel = segment->Address + p * segment->PanelBytes;
        panel = operand.Decode(panel, job->Columns);
        int output = segment->Row(p, out int outputs, out int secondOutputs), second = output + segment->SecondHalf;
        float* sums = stackalloc float[Tile.MaxRows * 32];
        bool listed = operand.OutlierLists != null;
        int most = listed ? segment->Code.TileRows : segment->Code.TileRows / operand.Roundings,
            tiles = (last - begin + most - 1) / most;
        int* list = operand.OutlierLists + (long)(begin / most) * (operand.Count + 1);
        // Several tiles: each prefetches its part of the next panel. One tile: it prefetches a little ahead of itself.
        byte* ahead = segment->Address + p * segment->PanelBytes
            + (tiles == 1 && MachineCode.FetchesToFirstLevel ? AheadBytes : segment->PanelBytes);
        long aheadStep = segment->PanelBytes / ((long)tiles * operand.Count);
        for (int t = begin, n; t < last; t += n, list += operand.Count + 1)
        {
            n = TileHeight(last - t, most);
            if (listed) operand.ComputeOutliers(panel, t, n, list, sums, ahead, aheadStep);
            else operand.Compute(panel, t, n, sums, ahead, aheadStep);
            ahead += aheadStep * operand.Count;
            if (job->Epilogue == Epilogue.Gate) Gate(job, sums, sums + 16, t, n, output, outputs);
            else
            {
                for (int i = 0; i < n; i++)
                    Store(job, sums + 32 * i, output, outputs, second, secondOutputs, job->Y + (t + i) * job->YStride);
            }
        }
    }

    /// <summary>Panels of gate and up where the file has them in different formats.</summary>
    private static void MixedGatePanels(void* context, int from, int to, int worker)
    {
        Job* job = (Job*)context;
        job->Range(ref from, ref to, out int firstRow, out int lastRow);
        Operand gate = Operand.Of(job, job->Segments, worker), up = Operand.Of(job, job->Segments + 1, worker);
        if (up.Decoded != null) up.Decoded += 32L * job->Columns;
        float* gates = stackalloc float[Tile.MaxRows * 32], ups = stackalloc float[Tile.MaxRows * 32];
        int most = Math.Min(gate.Segment->Code.TileRows / gate.Roundings, up.Segment->Code.TileRows / up.Roundings),
            chunk = Math.Min(gate.ChunkRows, up.ChunkRows);
        for (int begin = firstRow; begin < lastRow; begin += chunk)
        {
            int last = Math.Min(lastRow, begin + chunk);
            for (int p = from; p < to; p++)
            {
                byte* gatePanel = gate.Decode(gate.Segment->Address + p * gate.Segment->PanelBytes, job->Columns),
                    upPanel = up.Decode(up.Segment->Address + p * up.Segment->PanelBytes, job->Columns);
                int output = gate.Segment->Row(p, out int first, out int second);
                for (int t = begin; t < last; t += most)
                {
                    int n = Math.Min(most, last - t);
                    gate.Compute(gatePanel, t, n, gates, gatePanel + AheadBytes, gate.Segment->PanelBytes / gate.Count);
                    up.Compute(upPanel, t, n, ups, upPanel + AheadBytes, up.Segment->PanelBytes / up.Count);
                    Gate(job, gates, ups, t, n, output, first);
                    Gate(job, gates + 16, ups + 16, t, n, output + 16, second);
                }
            }
        }
    }

    private static void Store(Job* job, float* sums, int output, int outputs, int second, int secondOutputs, float* y)
    {
        bool add = job->Epilogue == Epilogue.Add;
        Store(sums, job->Bias == null ? null : job->Bias + output, outputs, add, y + output);
        if (secondOutputs > 0)
            Store(sums + 16, job->Bias == null ? null : job->Bias + second, secondOutputs, add, y + second);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Store(float* sums, float* bias, int outputs, bool add, float* y)
    {
        int i = 0;
        for (; i <= outputs - 16; i += 16)
        {
            Vector256<float> a = Vector256.Load(sums + i), b = Vector256.Load(sums + i + 8);
            if (bias != null) (a, b) = (a + Vector256.Load(bias + i), b + Vector256.Load(bias + i + 8));
            if (add) (a, b) = (Vector256.Load(y + i) + a, Vector256.Load(y + i + 8) + b);
            a.Store(y + i);
            b.Store(y + i + 8);
        }
        for (; i < outputs; i++)
        {
            float sum = bias == null ? sums[i] : sums[i] + bias[i];
            y[i] = add ? y[i] + sum : sum;
        }
    }

    /// <summary>At most 16 outputs of rows [t, t + n). A row's gates, and its ups, begin 32 sums after those of the row
    /// before.</summary>
    private static void Gate(Job* job, float* gates, float* ups, int t, int n, int output, int outputs)
    {
        for (int row = 0; row < n && job->Bias != null; row++)
        {
            for (int i = 0; i < outputs; i++)
                (gates[32 * row + i], ups[32 * row + i]) =
                    (gates[32 * row + i] + job->Bias[output + i],
                    ups[32 * row + i] + job->Bias[job->HalfRows + output + i]);
        }
        Elementwise.Gate(gates, ups, job->Activation, job->Y + t * job->YStride + output, outputs, n, 32, job->YStride);
    }

    /// <summary>A segment's kernels and the rows of activations that they take.</summary>
    private struct Operand
    {
        public CpuMatrix.Segment* Segment;
        public byte* X;
        public long Stride;      // bytes from row to row
        public long RestStride;  // bytes from a row to its rest, the second rounding
        public int Roundings;
        public int Count;        // of blocks, columns or pairs of columns
        public int ChunkRows;
        public float* Decoded;
        public int* OutlierLists; // null where rests are absent, or computed like rows of their own

        public static Operand Of(Job* job, CpuMatrix.Segment* segment, int worker)
        {
            Operand operand = new() { Segment = segment, Roundings = 1 };
            switch (segment->Code.Activations)
            {
                case ActivationType.Int8:
                    operand.X = job->Int8;
                    (operand.Roundings, operand.Count) = (segment->Roundings, job->Columns / 32);
                    operand.RestStride = operand.Count * (long)sizeof(ActivationBlock);
                    if (ListsOutliers(segment)) operand.OutlierLists = job->OutlierLists;
                    // Rests of other segments may lie between the rows of one that takes no rests.
                    operand.Stride = operand.RestStride * job->Roundings;
                    break;
                case ActivationType.BFloat16:
                    operand.X = job->BFloat16;
                    (operand.Count, operand.RestStride) = ((job->Columns + 1) / 2, BFloat16Stride(job->Columns));
                    break;
                default:
                    operand.X = job->Normalized != null ? job->Normalized : (byte*)job->X;
                    (operand.Count, operand.RestStride) =
                        (job->Columns, job->Normalized != null ? job->NormalizedStride
                        : job->Columns * (long)sizeof(float));
                    // Decoding a panel again for every chunk costs more than the cache saves.
                    if (segment->Code.DecodePanel != null) operand.Decoded = job->Decoded + 64L * job->Columns * worker;
                    break;
            }
            if (operand.Stride == 0) operand.Stride = operand.RestStride;
            operand.ChunkRows = operand.Decoded != null ? job->Rows : MatMul.ChunkRows(operand.Stride);
            return operand;
        }

        /// <summary>A panel as the kernels take it: decoded to floats where they want that.</summary>
        public readonly byte* Decode(byte* panel, int columns)
        {
            if (Decoded == null) return panel;
            Segment->Code.DecodePanel(panel, columns, Decoded);
            return (byte*)Decoded;
        }

        /// <summary>Sums of rows [t, t + n), shape [n, 32], rests included.</summary>
        public readonly void Compute(byte* panel, int t, int n, float* sums, byte* ahead, long aheadStep)
        {
            Tile.Compute(Segment->Code, panel, X + t * Stride, Roundings == 1 ? Stride : RestStride, n * Roundings,
                Count, sums,
                ahead, aheadStep);
            if (Roundings == 1) return;
            for (int i = 0; i < n; i++)
                for (int k = 0; k < 32; k += 8)
                    (Vector256.Load(sums + 64 * i + k) + Vector256.Load(sums + 64 * i + 32 + k))
                        .Store(sums + 32 * i + k);
        }

        /// <summary>The same in machine code, which takes only the listed blocks of the rests.</summary>
        public readonly void ComputeOutliers(byte* panel, int t, int n, int* list, float* sums, byte* ahead,
            long aheadStep)
        {
            Tile.Compute(Segment->Code, panel, X + t * Stride, Stride, n, Count, sums, ahead, aheadStep);
            if (list[0] == 0) return;
            float* rest = stackalloc float[TileAssembler.MaxRows * 32];
            Tile.ComputeListed(Segment->Code, panel, X + t * Stride + RestStride, Stride, n, list, rest);
            for (int i = 0; i < n * 32; i += 16) (Vector512.Load(sums + i) + Vector512.Load(rest + i)).Store(sums + i);
        }
    }

    [StructLayout(LayoutKind.Auto)]
    private struct Job
    {
        public float* X;
        public float* Norm;
        public float Epsilon;
        public int Rows;
        public int Columns;
        public int Roundings;          // most of any segment: 2 where rows of rests lie between the rows
        public byte* Int8;
        public byte* BFloat16;
        public byte* Normalized;       // rows of NormalizedStride bytes; null where there is no norm
        public long NormalizedStride;
        public bool KeepsNormalized;   // all rows, if a segment takes floats; else one row for each worker
        public float* Decoded;
        public ulong* Outliers;        // a bit for each row's blocks
        public int* OutlierLists;
        public bool SplitsRows;        // workers divide ranges of rows too, not panels alone
        public bool MixedGate;
        public int RangeRows;          // rows of a range; all rows where workers divide panels alone
        public int Panels;             // of the matrix; of the gate segment alone where MixedGate
        public int PanelStride;        // items of a range of rows: Panels, rounded up to the grain
        public CpuMatrix.Segment* Segments;
        public int SegmentCount;
        public float* Bias;
        public float* Y;
        public long YStride;
        public Epilogue Epilogue;
        public Activation Activation;
        public int HalfRows;

        /// <summary>Turns items [from, to) into panels, and gives the rows that meet them.</summary>
        public readonly void Range(ref int from, ref int to, out int firstRow, out int lastRow)
        {
            int range = from / PanelStride;
            (from, to) = (from - range * PanelStride, Math.Min(to - range * PanelStride, Panels));
            (firstRow, lastRow) = (range * RangeRows, Math.Min(Rows, (range + 1) * RangeRows));
        }
    }
}
