using BenchmarkDotNet.Attributes;
using Native.Kernels;
using Native.Kernels.Cpu;
using Native.Kernels.Sampling;

namespace Native.Bench;

/// <summary>One token's attention over a cache of F16.</summary>
/// <param name="Heads">H.</param>
/// <param name="KvHeads">Hkv.</param>
/// <param name="HeadSize">d.</param>
/// <param name="Depth">Positions it sees.</param>
public sealed record AttentionWorkload(int Heads, int KvHeads, int HeadSize, int Depth) : Workload
{
    /// <summary>Keys and values.</summary>
    public override double Bytes => 2.0 * KvHeads * HeadSize * Depth * sizeof(ushort);

    /// <summary>Products with keys and with values.</summary>
    public override double Operations => 4.0 * Heads * HeadSize * Depth;

    /// <inheritdoc/>
    public override string ToString() => $"H {Heads}, Hkv {KvHeads}, d {HeadSize} @ d{Depth}";
}

/// <summary>Paged attention of a decode on one thread.</summary>
public unsafe class AttentionBenchmarks
{
    private const int BlockSize = 16;

    private NativeHeap? _heap;
    private CpuStep? _step;
    private AttentionShape _shape = null!;
    private KvLayer _cache;
    private Tensor _qkv, _y;
    private float* _scratch;

    /// <summary>The shape.</summary>
    [ParamsSource(nameof(Cases))]
    public AttentionWorkload Case { get; set; } = null!;

    /// <summary>As in models of one and of eight billion weights.</summary>
    public static IEnumerable<AttentionWorkload> Cases => [new(32, 8, 64, 512), new(32, 8, 64, 4096), new(32, 8, 128, 512), new(32, 8, 128, 4096)];

    /// <summary>Plain C#.</summary>
    [Benchmark]
    public void Definition()
    {
        for (int head = 0; head < Case.KvHeads; head++) PagedAttention.AttendScalar(_step!, _step!.QueryTiles[0], head, _qkv, _shape, _cache, _y);
    }

    /// <summary>What this processor runs.</summary>
    [Benchmark]
    public void Fastest() => PagedAttention.Attend(_step!, _qkv, _shape, _cache, _y, _scratch, 0, PagedAttention.ItemCount(_step!, _shape));

    /// <summary>What the last call computed.</summary>
    internal ReadOnlySpan<float> Output => new((float*)_y.Address, _y.Columns);

    /// <summary>Fills a cache.</summary>
    [GlobalSetup]
    public void SetUp()
    {
        _heap = new NativeHeap();
        _step = new CpuStep();
        int blocks = (Case.Depth + BlockSize - 1) / BlockSize;
        _step.Load(new Batch
        {
            TokenIds = [0],
            Positions = [Case.Depth - 1],
            SlotMapping = [Case.Depth - 1],
            QueryStarts = [0, 1],
            ContextLengths = [Case.Depth],
            BlockTables = Enumerable.Range(0, blocks).Reverse().ToArray(),
            BlockTableStride = blocks,
            SampleRows = [0],
            Sampling = new RowSampling[1],
        });
        _shape = new AttentionShape { Heads = Case.Heads, KvHeads = Case.KvHeads, HeadSize = Case.HeadSize, Rope = 0, Pairing = RopePairing.HalfSplit, Scale = 1 / MathF.Sqrt(Case.HeadSize) };
        _cache = new KvLayer(Halves(blocks), Halves(blocks), BlockSize);
        _qkv = Floats((Case.Heads + 2 * Case.KvHeads) * Case.HeadSize);
        _y = Floats(Case.Heads * Case.HeadSize);
        _scratch = (float*)_heap.Allocate((long)PagedAttention.ScratchLength(_shape) * sizeof(float), zeroed: true);
    }

    /// <summary>Frees it.</summary>
    [GlobalCleanup]
    public void CleanUp()
    {
        _step?.Dispose();
        _heap?.Dispose();
    }

    private Tensor Floats(int columns)
    {
        Tensor tensor = new(_heap!.Allocate((long)columns * sizeof(float), zeroed: true), 1, columns, DType.F32);
        RandomFloats.Fill(tensor);
        return tensor;
    }

    private Tensor Halves(int blocks)
    {
        int columns = Case.KvHeads * BlockSize * Case.HeadSize;
        Tensor tensor = new(_heap!.Allocate((long)blocks * columns * sizeof(ushort), zeroed: false), blocks, columns, DType.F16);
        Random random = new(3);
        for (long i = 0; i < (long)blocks * columns; i++) ((Half*)tensor.Address)[i] = (Half)(random.NextSingle() * 2 - 1);
        return tensor;
    }
}
