using System.Runtime.InteropServices;
using BenchmarkDotNet.Attributes;
using Native.Kernels;
using Native.Kernels.Cpu;
using Native.Kernels.Files;
using Native.Kernels.Formats;

namespace Native.Bench.Kernels;

/// <summary>A matrix product: so many rows of activations by weights of one format.</summary>
/// <param name="Format">Of the weights.</param>
/// <param name="Size">Rows and columns of the weights.</param>
/// <param name="Rows">Rows of activations: 1 and 4 are decodes, 512 is a prompt.</param>
public sealed record MatMulWorkload(TensorType Format, int Size, int Rows) : Workload
{
    /// <summary>The weights', as the file has them.</summary>
    public override double Bytes =>
        (double)Size * Size / BlockFormat.Of(Format).BlockSize * BlockFormat.Of(Format).BlockBytes;

    /// <inheritdoc/>
    public override double Operations => 2.0 * Size * Size * Rows;

    /// <inheritdoc/>
    public override bool IsInteger => BlockFormat.Of(Format).BlockSize > 1;

    /// <inheritdoc/>
    public override string ToString() => $"{Format} {Size}x{Size}, {Rows} row{(Rows == 1 ? "" : "s")}";
}

/// <summary>A matrix product on one thread, rounding the activations included.</summary>
public abstract unsafe class MatMulProduct
{
    private const int DistinctBlocks = 256;

    private CpuBackend? _backend;
    private Matrix _weights = null!;
    private Tensor _x, _y;

    /// <summary>The product.</summary>
    [ParamsSource(nameof(Cases))]
    public MatMulWorkload Case { get; set; } = null!;

    /// <summary>The formats that are met most. Decodes are larger than a core's own caches; prompts are smaller, as the
    /// definition takes its time.</summary>
    public static IEnumerable<MatMulWorkload> Cases =>
        from format in new[] { TensorType.F32, TensorType.F16, TensorType.BF16, TensorType.Q8_0, TensorType.Q4_0,
            TensorType.Q4_K, TensorType.Q6_K }
        from shape in new[] { (Size: 4096, Rows: 1), (Size: 4096, Rows: 4), (Size: 512, Rows: 512) }
        select new MatMulWorkload(format, shape.Size, shape.Rows);

    /// <summary>What the last call computed.</summary>
    internal ReadOnlySpan<float> Output => new((float*)_y.Address, Case.Rows * Case.Size);

    /// <summary>Frees them.</summary>
    [GlobalCleanup]
    public void CleanUp() => _backend?.Dispose();

    /// <summary>Computes it.</summary>
    protected void Multiply() => _backend!.MatMul(_x, _weights, default, _y);

    /// <summary>Loads the weights as a variant wants them.</summary>
    protected void SetUp(CpuVariant variant)
    {
        _backend = new CpuBackend(new CpuOptions { Threads = 1, Variant = variant });
        byte* weights = (byte*)NativeMemory.Alloc((nuint)Case.Bytes);
        try
        {
            Fill(new Span<byte>(weights, (int)Case.Bytes), BlockFormat.Of(Case.Format));
            _weights = _backend.Load(
                [new TensorView("weights", Case.Format, Case.Size, Case.Size, (nint)weights, (long)Case.Bytes)]);
        }
        finally
        {
            NativeMemory.Free(weights);
        }
        _x = _backend.Allocate(Case.Rows, Case.Size, DType.F32);
        _y = _backend.Allocate(Case.Rows, Case.Size, DType.F32);
        RandomFloats.Fill(_x);
    }

    /// <summary>Random blocks whose values are neither infinite nor so small that arithmetic slows down.</summary>
    private static void Fill(Span<byte> weights, BlockFormat format)
    {
        Random random = new(1);
        byte[] blocks = new byte[DistinctBlocks * format.BlockBytes];
        float[] values = new float[format.BlockSize];
        for (int i = 0; i < DistinctBlocks; i++)
        {
            Span<byte> block = blocks.AsSpan(i * format.BlockBytes, format.BlockBytes);
            do
            {
                random.NextBytes(block);
                format.Decode(block, values);
            }
            while (!values.All(float.IsFinite) || values.Max(MathF.Abs) is not (> 1e-3f and < 1e4f));
        }
        for (int at = 0; at < weights.Length; at += blocks.Length)
            blocks.AsSpan(0, Math.Min(blocks.Length, weights.Length - at)).CopyTo(weights[at..]);
    }
}

/// <summary>The plain definition and the fastest variant.</summary>
public class MatMulBenchmarks : MatMulProduct
{
    /// <summary>Plain C#.</summary>
    [Benchmark]
    public void Definition() => Multiply();

    /// <summary>What this processor runs.</summary>
    [Benchmark]
    public void Fastest() => Multiply();

    /// <summary>Loads the weights as plain C# wants them.</summary>
    [GlobalSetup(Target = nameof(Definition))]
    public void SetUpDefinition() => SetUp(CpuVariant.Scalar);

    /// <summary>Loads the weights as the fastest variant wants them.</summary>
    [GlobalSetup(Target = nameof(Fastest))]
    public void SetUpFastest() => SetUp(MicroKernels.Best);
}

/// <summary>Each variant that this processor can run, by name.</summary>
public class MatMulVariantBenchmarks : MatMulProduct
{
    /// <summary>The instructions.</summary>
    [ParamsSource(nameof(Variants))]
    public CpuVariant Variant { get; set; }

    /// <summary>All that can be measured here, slowest first.</summary>
    public static IEnumerable<CpuVariant> Variants => MicroKernels.Supported;

    /// <summary>The product.</summary>
    [Benchmark]
    public void Product() => Multiply();

    /// <summary>Loads the weights as the variant wants them.</summary>
    [GlobalSetup]
    public void SetUp() => SetUp(Variant);
}

/// <summary>Operands that stand for activations.</summary>
internal static unsafe class RandomFloats
{
    /// <summary>Numbers from -1 to 1.</summary>
    public static void Fill(Tensor tensor)
    {
        Random random = new(2);
        for (long i = 0; i < (long)tensor.Rows * tensor.Columns; i++)
            ((float*)tensor.Address)[i] = random.NextSingle() * 2 - 1;
    }
}
