using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Native.Kernels.Cpu;

/// <summary>y[t] = w x[t] + bias over a <see cref="CpuMatrix"/>'s panels, by all workers.</summary>
/// <remarks>
/// Activations are rounded once a row where the weights are quantized. Then panels are handed out in ranges of about equal bytes; the reduction over
/// columns is never split. A micro-kernel's sums don't depend on how many rows it has at once, so neither do the outputs on the batch or the threads.
/// </remarks>
internal sealed unsafe class MatMul(WorkerPool pool, NativeHeap heap)
{
    // Half of a second-level cache of 512 KiB: a chunk of rows stays there while the weights go by.
    private const int ChunkBytes = 256 << 10;

    private ActivationBlock* _quantized;
    private long _quantizedBlocks;
    private float* _decoded;
    private long _decodedFloats;

    /// <summary>Computes all rows of <paramref name="x"/>; shapes have been checked. An empty bias is none.</summary>
    public void Run(Tensor x, CpuMatrix w, Tensor bias, Tensor y)
    {
        Job job = new()
        {
            X = (byte*)x.Address,
            XStride = (long)x.Columns * sizeof(float),
            Rows = x.Rows,
            Columns = w.Columns,
            Segments = w.Segments,
            SegmentCount = w.SegmentCount,
            Bias = (float*)bias.Address,
            Y = (float*)y.Address,
            YStride = y.Columns,
        };
        bool quantizes = false;
        for (int i = 0; i < w.SegmentCount; i++)
        {
            quantizes |= w.Segments[i].Code.Quantized;
            if (w.Segments[i].Code.DecodePanel != null && !w.Segments[i].Code.Quantized) job.Decoded = Decoded(w.Columns);
        }
        if (quantizes)
        {
            job.Terms = w.FineActivations ? 2 : 1;
            job.Quantized = Quantized(x.Rows * job.Terms, w.Columns);
            pool.For(x.Rows, Math.Max(1, 8192 / w.Columns), &QuantizeRows, &job);
        }
        long panelBytes = w.ByteLength / w.Panels;
        // Large enough that handing out costs nothing, small enough that nobody waits long for the last.
        long grain = Math.Clamp(w.Panels / (pool.Threads * 8L), 1, Math.Max(1, (128 << 10) / panelBytes));
        pool.For(w.Panels, (int)grain, &Panels, &job);
    }

    /// <summary>Grows the scratch to what <paramref name="rows"/> rows of this matrix need.</summary>
    private ActivationBlock* Quantized(int rows, int columns)
    {
        long blocks = (long)rows * (columns / 32);
        if (blocks > _quantizedBlocks)
        {
            heap.Free((nint)_quantized);
            _quantized = (ActivationBlock*)heap.Allocate(blocks * sizeof(ActivationBlock), zeroed: false);
            _quantizedBlocks = blocks;
        }
        return _quantized;
    }

    private float* Decoded(int columns)
    {
        long floats = 16L * columns * pool.Threads;
        if (floats > _decodedFloats)
        {
            heap.Free((nint)_decoded);
            _decoded = (float*)heap.Allocate(floats * sizeof(float), zeroed: false);
            _decodedFloats = floats;
        }
        return _decoded;
    }

    private static void QuantizeRows(void* context, int from, int to, int worker)
    {
        Job* job = (Job*)context;
        long blocks = job->Columns / 32;
        for (int t = from; t < to; t++)
        {
            float* x = (float*)(job->X + t * job->XStride);
            ActivationBlock* row = job->Quantized + t * blocks * job->Terms;
            if (job->Terms == 1) ActivationBlock.Quantize(x, job->Columns, row);
            else ActivationBlock.QuantizeFine(x, job->Columns, row, row + blocks);
        }
    }

    private static void Panels(void* context, int from, int to, int worker)
    {
        Job* job = (Job*)context;
        for (int i = 0; i < job->SegmentCount; i++)
        {
            CpuMatrix.Segment* segment = job->Segments + i;
            int first = Math.Max(from - segment->FirstPanel, 0), end = Math.Min(to - segment->FirstPanel, segment->Panels);
            if (first < end) SegmentPanels(job, segment, first, end, worker);
        }
    }

    private static void SegmentPanels(Job* job, CpuMatrix.Segment* segment, int first, int end, int worker)
    {
        bool quantized = segment->Code.Quantized;
        byte* x = quantized ? (byte*)job->Quantized : job->X;
        int terms = quantized ? job->Terms : 1; // rows of the micro-kernel that make up one row of activations
        long termStride = quantized ? job->Columns / 32 * (long)sizeof(ActivationBlock) : job->XStride, stride = termStride * terms;
        int count = quantized ? job->Columns / 32 : job->Columns;
        float* decoded = segment->Code.DecodePanel != null && !quantized ? job->Decoded + 16L * job->Columns * worker : null;
        int chunk = decoded != null ? job->Rows : (int)Math.Clamp(ChunkBytes / stride, 16, 256) & ~3; // decoding costs more than the cache gives
        byte** rows = stackalloc byte*[4];
        float* sums = stackalloc float[64];
        for (int begin = 0; begin < job->Rows; begin += chunk)
        {
            int last = Math.Min(job->Rows, begin + chunk);
            for (int p = first; p < end; p++)
            {
                byte* panel = segment->Address + p * segment->PanelBytes, scales = panel + segment->ScalesOffset;
                if (decoded != null)
                {
                    segment->Code.DecodePanel(panel, scales, job->Columns, decoded);
                    panel = (byte*)decoded;
                }
                int row = segment->FirstRow + 16 * p, outputs = Math.Min(16, segment->Rows - 16 * p);
                float* bias = job->Bias == null ? null : job->Bias + row;
                int group = 4 / terms;
                for (int t = begin; t < last; t += group)
                {
                    int n = Math.Min(group, last - t);
                    // Missing rows repeat the last one: weights flow by once, and what they give is not stored.
                    for (int i = 0; i < 4; i++) rows[i] = x + Math.Min(t + i / terms, last - 1) * stride + i % terms * termStride;
                    if (n > 1) segment->Code.Four(panel, scales, rows, count, sums);
                    else for (int i = 0; i < terms; i++) segment->Code.One(panel, scales, rows + i, count, sums + 16 * i);
                    for (int i = 0; i < n; i++)
                    {
                        if (terms == 2) AddRest(sums + 32 * i);
                        Store(sums + 16 * terms * i, bias, outputs, job->Y + (t + i) * job->YStride + row);
                    }
                }
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void AddRest(float* sums)
    {
        (Vector256.Load(sums) + Vector256.Load(sums + 16)).Store(sums);
        (Vector256.Load(sums + 8) + Vector256.Load(sums + 24)).Store(sums + 8);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Store(float* sums, float* bias, int outputs, float* y)
    {
        if (outputs == 16)
        {
            Vector256<float> a = Vector256.Load(sums), b = Vector256.Load(sums + 8);
            if (bias != null) (a, b) = (a + Vector256.Load(bias), b + Vector256.Load(bias + 8));
            a.Store(y);
            b.Store(y + 8);
            return;
        }
        for (int i = 0; i < outputs; i++) y[i] = bias == null ? sums[i] : sums[i] + bias[i];
    }

    private struct Job
    {
        public byte* X;
        public long XStride;
        public int Rows;
        public int Columns;
        public ActivationBlock* Quantized;
        public int Terms;
        public float* Decoded;
        public CpuMatrix.Segment* Segments;
        public int SegmentCount;
        public float* Bias;
        public float* Y;
        public long YStride;
    }
}
