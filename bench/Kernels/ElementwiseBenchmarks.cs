using BenchmarkDotNet.Attributes;
using Native.Kernels;
using Native.Kernels.Cpu;
using Native.Kernels.Cpu.Machine;

namespace Native.Bench.Kernels;

/// <summary>An operation on each element of a row.</summary>
/// <param name="Operation">RmsNorm, Silu, Gelu or SoftCap.</param>
/// <param name="Length">Elements.</param>
public sealed record ElementwiseWorkload(string Operation, int Length) : Workload
{
    /// <summary>Operands and result.</summary>
    public override double Bytes => (double)Length * sizeof(float) * (Operation == "SoftCap" ? 2 : 3);

    /// <summary>Without the exponential's own: a gate is a sigmoid and two products, a norm two products and a
    /// sum.</summary>
    public override double Operations => 4.0 * Length;

    /// <inheritdoc/>
    public override string ToString() => $"{Operation} {Length}";
}

/// <summary>Operations on the elements of one row, on one thread.</summary>
public unsafe class ElementwiseBenchmarks
{
    private NativeHeap? _heap;
    private float* _a, _b, _y;

    /// <summary>The operation.</summary>
    [ParamsSource(nameof(Cases))]
    public ElementwiseWorkload Case { get; set; } = null!;

    /// <summary>A row of hidden size, and of a feed-forward layer.</summary>
    public static IEnumerable<ElementwiseWorkload> Cases =>
        [new("RmsNorm", 4096), new("Silu", 14336), new("Gelu", 14336), new("SoftCap", 4096)];

    /// <summary>Plain C#.</summary>
    [Benchmark]
    public void Definition()
    {
        switch (Case.Operation)
        {
            case "RmsNorm": Elementwise.RmsNormScalar(_a, _b, 1e-5f, _y, Case.Length); break;
            case "SoftCap": Elementwise.SoftCapScalar(_y, 30, Case.Length); break;
            default: Elementwise.GateScalar(_a, _b, Activation, _y, Case.Length); break;
        }
    }

    /// <summary>What this processor runs.</summary>
    [Benchmark]
    public void Fastest()
    {
        switch (Case.Operation)
        {
            case "RmsNorm": Elementwise.RmsNorm(_a, _b, 1e-5f, _y, Case.Length); break;
            case "SoftCap": Elementwise.SoftCap(_y, 30, Case.Length); break;
            default: Elementwise.Gate(_a, _b, Activation, _y, Case.Length); break;
        }
    }

    private Activation Activation => Case.Operation == "Gelu" ? Activation.GeluTanh : Activation.Silu;

    /// <summary>What the last call computed.</summary>
    internal ReadOnlySpan<float> Output => new(_y, Case.Length);

    /// <summary>Draws the operands.</summary>
    [GlobalSetup]
    public void SetUp()
    {
        _heap = new NativeHeap();
        _a = Floats();
        _b = Floats();
        _y = Floats();
    }

    /// <summary>Frees them.</summary>
    [GlobalCleanup]
    public void CleanUp() => _heap?.Dispose();

    private float* Floats()
    {
        Tensor tensor =
            new(_heap!.Allocate((long)Case.Length * sizeof(float), zeroed: false), 1, Case.Length, DType.F32);
        RandomFloats.Fill(tensor);
        return (float*)tensor.Address;
    }
}
