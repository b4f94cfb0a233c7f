using ILGPU;
using ILGPU.Runtime;
using Native.Kernels.Gpu;

namespace Native.Kernels.Ilgpu;

/// <summary>A device's kernels. Each is compiled when it is first asked for: a model has one or two layouts of weights
/// and one type of cache.</summary>
internal sealed class IlgpuKernels(Accelerator accelerator)
{
    private readonly ProductKernels?[] _products = new ProductKernels?[Enum.GetValues<WeightLayout>().Length];
    private readonly CacheKernels?[] _caches = new CacheKernels?[Enum.GetValues<DType>().Length];

    public Action<AcceleratorStream, KernelConfig, ArrayView<float>, ArrayView<float>, float, ArrayView<float>, int>
        RmsNorm => field ??= accelerator.LoadKernel<ArrayView<float>, ArrayView<float>, float, ArrayView<float>, int>(
            RowKernels.RmsNorm);

    public Action<AcceleratorStream, KernelConfig, StepInput, ArrayView<float>, ArrayView<float>, float,
        ArrayView<float>, int> Hidden => field ??= accelerator.LoadKernel<StepInput, ArrayView<float>,
            ArrayView<float>, float, ArrayView<float>, int>(RowKernels.Hidden);

    public Action<AcceleratorStream, KernelConfig, ArrayView<float>, float, ArrayView<float>, int> RmsScale =>
        field ??= accelerator.LoadKernel<ArrayView<float>, float, ArrayView<float>, int>(RowKernels.RmsScale);

    public Action<AcceleratorStream, KernelConfig, ArrayView<float>, ArrayView<float>, long> Add =>
        field ??= accelerator.LoadKernel<ArrayView<float>, ArrayView<float>, long>(RowKernels.Add);

    public Action<AcceleratorStream, KernelConfig, ArrayView<float>, float, long> SoftCap =>
        field ??= accelerator.LoadKernel<ArrayView<float>, float, long>(RowKernels.SoftCap);

    public Action<AcceleratorStream, KernelConfig, StepInput, int, ArrayView<float>, ArrayView<float>, int> Gather =>
        field ??= accelerator.LoadKernel<StepInput, int, ArrayView<float>, ArrayView<float>, int>(RowKernels.Gather);

    public Action<AcceleratorStream, KernelConfig, ArrayView<float>, ArrayView<float>, int, int> Gate =>
        field ??= accelerator.LoadKernel<ArrayView<float>, ArrayView<float>, int, int>(RowKernels.Gate);

    public Action<AcceleratorStream, KernelConfig, StepInput, ArrayView<byte>, long, int> CopyBlocks =>
        field ??= accelerator.LoadKernel<StepInput, ArrayView<byte>, long, int>(RowKernels.CopyBlocks);

    public Action<AcceleratorStream, KernelConfig, Attention, StepInput> Combine =>
        field ??= accelerator.LoadKernel<Attention, StepInput>(AttentionKernels.Combine);

    public Action<AcceleratorStream, KernelConfig, Sampling, StepInput> Sample =>
        field ??= accelerator.LoadKernel<Sampling, StepInput>(SamplerKernel.Sample);

    public Action<AcceleratorStream, KernelConfig, Sampling, StepInput> Draw =>
        field ??= accelerator.LoadKernel<Sampling, StepInput>(SamplerKernel.Draw);

    /// <summary>Those that read weights of a layout.</summary>
    public ProductKernels Of(WeightLayout layout) => _products[(int)layout] ??= layout switch
    {
        WeightLayout.Int4 => new ProductKernels<Int4Weights>(accelerator),
        WeightLayout.Int8By32 => new ProductKernels<Int8By32Weights>(accelerator),
        WeightLayout.Int8By16 => new ProductKernels<Int8By16Weights>(accelerator),
        WeightLayout.F32 => new ProductKernels<F32Weights>(accelerator),
        WeightLayout.F16 => new ProductKernels<F16Weights>(accelerator),
        _ => new ProductKernels<BF16Weights>(accelerator),
    };

    /// <summary>Those that read a type of cache.</summary>
    public CacheKernels Of(DType type) => _caches[(int)type] ??= type switch
    {
        DType.F32 => new CacheKernels<F32Cache>(accelerator),
        DType.F16 => new CacheKernels<F16Cache>(accelerator),
        DType.BF16 => new CacheKernels<BF16Cache>(accelerator),
        DType.Q8_0 => new CacheKernels<Q8Cache>(accelerator),
        _ => new CacheKernels<Fp8Cache>(accelerator),
    };
}

/// <summary>The kernels that read weights of one layout.</summary>
internal abstract class ProductKernels
{
    public abstract Action<AcceleratorStream, KernelConfig, Product> MatMul { get; }

    public abstract Action<AcceleratorStream, KernelConfig, Product> MatMulGate { get; }

    public abstract Action<AcceleratorStream, KernelConfig, Product, StepInput, ArrayView<int>, float> Embed { get; }
}

/// <inheritdoc/>
internal sealed class ProductKernels<W>(Accelerator accelerator) : ProductKernels where W : struct, IWeights
{
    public override Action<AcceleratorStream, KernelConfig, Product> MatMul =>
        field ??= accelerator.LoadKernel<Product>(MatMulKernels.MatMul<W>);

    public override Action<AcceleratorStream, KernelConfig, Product> MatMulGate =>
        field ??= accelerator.LoadKernel<Product>(MatMulKernels.MatMulGate<W>);

    public override Action<AcceleratorStream, KernelConfig, Product, StepInput, ArrayView<int>, float> Embed =>
        field ??= accelerator.LoadKernel<Product, StepInput, ArrayView<int>, float>(MatMulKernels.Embed<W>);
}

/// <summary>The kernels that read one type of cache.</summary>
internal abstract class CacheKernels
{
    public abstract Action<AcceleratorStream, KernelConfig, Attention, StepInput> Store { get; }

    public abstract Action<AcceleratorStream, KernelConfig, Attention, StepInput> Attend { get; }
}

/// <inheritdoc/>
internal sealed class CacheKernels<T>(Accelerator accelerator) : CacheKernels where T : struct, ICacheType
{
    public override Action<AcceleratorStream, KernelConfig, Attention, StepInput> Store =>
        field ??= accelerator.LoadKernel<Attention, StepInput>(AttentionKernels.Store<T>);

    public override Action<AcceleratorStream, KernelConfig, Attention, StepInput> Attend =>
        field ??= accelerator.LoadKernel<Attention, StepInput>(AttentionKernels.Attend<T>);
}
