using BenchmarkDotNet.Attributes;
using Native.Bench.Common;
using Native.Kernels;
using Native.Kernels.Cpu;
using Native.Kernels.Cpu.Machine;
using Native.Kernels.Models;
using Native.Kernels.Sampling;

namespace Native.Bench.Kernels;

/// <summary>The attention of a sequence's last tokens over a cache.</summary>
/// <param name="Heads">H.</param>
/// <param name="KvHeads">Hkv.</param>
/// <param name="HeadSize">d.</param>
/// <param name="Rows">Tokens of the step.</param>
/// <param name="Depth">Positions that the last of them sees.</param>
/// <param name="Cache">The cache's type: F16 or Q8_0.</param>
public sealed record AttentionWorkload(int Heads, int KvHeads, int HeadSize, int Rows, int Depth,
    DType Cache = DType.F16) : Workload
{
    /// <summary>Keys and values.</summary>
    public override double Bytes =>
        2.0 * KvHeads * CpuKvLayer.HeadColumns(HeadSize, Cache) * Tensor.SizeOf(Cache) * Depth;

    /// <summary>Products with keys and with values.</summary>
    public override double Operations => 4.0 * Heads * HeadSize * Rows * (Depth - ((Rows - 1) / 2.0));

    /// <inheritdoc/>
    public override string ToString() =>
        $"{Rows} row{(Rows == 1 ? "" : "s")}, H {Heads}, Hkv {KvHeads}, d {HeadSize} @ "
            + $"d{Depth}{(Cache == DType.F16 ? "" : $", {Cache}")}";
}

/// <summary>Paged attention on one thread: a decode's, whose limit is memory, and a prompt's, whose limit is
/// arithmetic.</summary>
public unsafe class AttentionBenchmarks
{
    private const int BlockSize = 16;

    private NativeHeap? _heap;
    private WorkerPool? _pool;
    private CpuStep? _step;
    private StepRotations? _rotations;
    private PagedAttention? _attention;
    private AttentionShape _shape = null!;
    private CpuKvLayer? _cache;
    private Tensor _qkv, _y;

    /// <summary>The shape.</summary>
    [ParamsSource(nameof(Cases))]
    public AttentionWorkload Case { get; set; } = null!;

    /// <summary>As in models of one and of eight billion weights, and of a tenth of one.</summary>
    public static IEnumerable<AttentionWorkload> Cases =>
    [
        new(32, 8, 64, 1, 512), new(32, 8, 64, 1, 4096), new(32, 8, 64, 1, 8192), new(32, 8, 128, 1, 4096),
        new(9, 3, 64, 1, 512), new(9, 3, 64, 1, 4096), new(9, 3, 64, 1, 8192),
        new(32, 8, 64, 512, 512), new(9, 3, 64, 512, 512),
        new(32, 8, 64, 1, 4096, DType.Q8_0), new(9, 3, 64, 1, 4096, DType.Q8_0), new(9, 3, 64, 512, 512, DType.Q8_0),
    ];

    /// <summary>Plain C#.</summary>
    [Benchmark]
    public void Definition()
    {
        PagedAttention.Job job = _attention!.Prepare(_step!, _rotations!, _qkv, _shape, _cache!, _y);
        if (!job.StoresInItems) PagedAttention.Store(&job, 0, job.Stores, 0);
        for (int item = 0; item < job.Items; item++) PagedAttention.AttendScalar(&job, item, 0);
    }

    /// <summary>What this processor runs.</summary>
    [Benchmark]
    public void Fastest() => _attention!.Run(_step!, _rotations!, _qkv, _shape, _cache!, _y);

    /// <summary>What the last call computed.</summary>
    internal ReadOnlySpan<float> Output => new((float*)_y.Address, _y.Rows * _y.Columns);

    /// <summary>Fills a cache.</summary>
    [GlobalSetup]
    public void SetUp()
    {
        _heap = new NativeHeap();
        _pool = new WorkerPool(1);
        _step = new CpuStep();
        int blocks = (Case.Depth + BlockSize - 1) / BlockSize;
        int[] order = [.. Enumerable.Range(0, blocks).Reverse()];
        BatchBuffers buffers = new(NoModel.Info(
            "attention", vocabulary: 1, Case.Depth, BlockSize, blocks, Case.Rows, sequences: 1, Case.Cache));
        buffers.Begin();
        buffers.AddSequence(new int[Case.Rows], Case.Depth - Case.Rows, order, place: 0);
        _step.Load(buffers.Batch);
        _rotations =
            new StepRotations(
                [.. Enumerable.Range(0, Case.HeadSize / 2).Select(i => Math.Pow(10000, -2.0 * i / Case.HeadSize))], 1);
        _rotations.Begin(Case.Rows);
        _rotations.Compute(_step, 0, Case.Rows);
        _shape = new AttentionShape
        {
            Heads = Case.Heads,
            KvHeads = Case.KvHeads,
            HeadSize = Case.HeadSize,
            Rope = 0,
            Pairing = RopePairing.HalfSplit,
            Scale = 1 / MathF.Sqrt(Case.HeadSize),
        };
        _cache = new CpuKvLayer(new KvShape(Case.KvHeads, Case.HeadSize, BlockSize, Case.Cache), Filled(blocks),
            Filled(blocks));
        _qkv = Floats((Case.Heads + 2 * Case.KvHeads) * Case.HeadSize);
        _y = Floats(Case.Heads * Case.HeadSize);
        _attention = new PagedAttention(_pool, _heap);
    }

    /// <summary>Frees it.</summary>
    [GlobalCleanup]
    public void CleanUp()
    {
        _step?.Dispose();
        _rotations?.Dispose();
        _pool?.Dispose();
        _heap?.Dispose();
    }

    private Tensor Floats(int columns)
    {
        Tensor tensor =
            new(_heap!.Allocate((long)Case.Rows * columns * sizeof(float), zeroed: true), Case.Rows, columns,
                DType.F32);
        RandomFloats.Fill(tensor);
        return tensor;
    }

    private Tensor Filled(int blocks)
    {
        int headColumns = CpuKvLayer.HeadColumns(Case.HeadSize, Case.Cache),
            columns = Case.KvHeads * BlockSize * headColumns;
        Tensor tensor =
            new(_heap!.Allocate((long)blocks * columns * Tensor.SizeOf(Case.Cache), zeroed: false), blocks, columns,
                Case.Cache);
        Random random = new(3);
        if (Case.Cache == DType.F16)
        {
            for (long i = 0; i < (long)blocks * columns; i++)
                ((Half*)tensor.Address)[i] = (Half)(random.NextSingle() * 2 - 1);
            return tensor;
        }
        for (long head = 0; head < (long)blocks * Case.KvHeads; head++)
        {
            // Bytes, then scales of 2^-7 as bfloat16.
            byte* bytes = (byte*)tensor.Address + (head * headColumns * BlockSize);
            int elements = Case.HeadSize * BlockSize;
            random.NextBytes(new Span<byte>(bytes, elements));
            new Span<ushort>(bytes + elements, (headColumns * BlockSize - elements) / sizeof(ushort)).Fill(0x3c00);
        }
        return tensor;
    }
}
