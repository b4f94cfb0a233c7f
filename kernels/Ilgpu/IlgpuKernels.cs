using ILGPU;
using ILGPU.Runtime;
using Native.Kernels.Gpu;

namespace Native.Kernels.Ilgpu;

/// <summary>A device's kernels. Each is compiled when it is first asked for: a model has one or two layouts of weights
/// and one type of cache.</summary>
internal sealed class IlgpuKernels(Accelerator accelerator)
{
    private readonly Action<AcceleratorStream, KernelConfig, Product>?[]
        _matMul = new Action<AcceleratorStream, KernelConfig, Product>?[Layouts],
        _matMulGate = new Action<AcceleratorStream, KernelConfig, Product>?[Layouts];
    private readonly Action<AcceleratorStream, KernelConfig, Product, StepInput, ArrayView<int>, float>?[]
        _embed = new Action<AcceleratorStream, KernelConfig, Product, StepInput, ArrayView<int>, float>?[Layouts];
    private readonly Action<AcceleratorStream, KernelConfig, Attention, StepInput>?[]
        _store = new Action<AcceleratorStream, KernelConfig, Attention, StepInput>?[CacheTypes],
        _attend = new Action<AcceleratorStream, KernelConfig, Attention, StepInput>?[CacheTypes];

    private static int Layouts => Enum.GetValues<WeightLayout>().Length;

    private static int CacheTypes => Enum.GetValues<DType>().Length;

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

    public Action<AcceleratorStream, KernelConfig, Product> MatMul(WeightLayout layout) =>
        _matMul[(int)layout] ??= accelerator.LoadKernel<Product>(layout switch
        {
            WeightLayout.Int4 => MatMulKernels.MatMul<Int4Weights>,
            WeightLayout.Int8By32 => MatMulKernels.MatMul<Int8By32Weights>,
            WeightLayout.Int8By16 => MatMulKernels.MatMul<Int8By16Weights>,
            WeightLayout.F32 => MatMulKernels.MatMul<F32Weights>,
            WeightLayout.F16 => MatMulKernels.MatMul<F16Weights>,
            _ => MatMulKernels.MatMul<BF16Weights>,
        });

    public Action<AcceleratorStream, KernelConfig, Product> MatMulGate(WeightLayout layout) =>
        _matMulGate[(int)layout] ??= accelerator.LoadKernel<Product>(layout switch
        {
            WeightLayout.Int4 => MatMulKernels.MatMulGate<Int4Weights>,
            WeightLayout.Int8By32 => MatMulKernels.MatMulGate<Int8By32Weights>,
            WeightLayout.Int8By16 => MatMulKernels.MatMulGate<Int8By16Weights>,
            WeightLayout.F32 => MatMulKernels.MatMulGate<F32Weights>,
            WeightLayout.F16 => MatMulKernels.MatMulGate<F16Weights>,
            _ => MatMulKernels.MatMulGate<BF16Weights>,
        });

    public Action<AcceleratorStream, KernelConfig, Product, StepInput, ArrayView<int>, float> Embed(
        WeightLayout layout) =>
        _embed[(int)layout] ??= accelerator.LoadKernel<Product, StepInput, ArrayView<int>, float>(layout switch
        {
            WeightLayout.Int4 => MatMulKernels.Embed<Int4Weights>,
            WeightLayout.Int8By32 => MatMulKernels.Embed<Int8By32Weights>,
            WeightLayout.Int8By16 => MatMulKernels.Embed<Int8By16Weights>,
            WeightLayout.F32 => MatMulKernels.Embed<F32Weights>,
            WeightLayout.F16 => MatMulKernels.Embed<F16Weights>,
            _ => MatMulKernels.Embed<BF16Weights>,
        });

    public Action<AcceleratorStream, KernelConfig, Attention, StepInput> Store(DType type) =>
        _store[(int)type] ??= accelerator.LoadKernel<Attention, StepInput>(type switch
        {
            DType.F32 => AttentionKernels.Store<F32Cache>,
            DType.F16 => AttentionKernels.Store<F16Cache>,
            DType.BF16 => AttentionKernels.Store<BF16Cache>,
            DType.Q8_0 => AttentionKernels.Store<Q8Cache>,
            _ => AttentionKernels.Store<Fp8Cache>,
        });

    public Action<AcceleratorStream, KernelConfig, Attention, StepInput> Attend(DType type) =>
        _attend[(int)type] ??= accelerator.LoadKernel<Attention, StepInput>(type switch
        {
            DType.F32 => AttentionKernels.Attend<F32Cache>,
            DType.F16 => AttentionKernels.Attend<F16Cache>,
            DType.BF16 => AttentionKernels.Attend<BF16Cache>,
            DType.Q8_0 => AttentionKernels.Attend<Q8Cache>,
            _ => AttentionKernels.Attend<Fp8Cache>,
        });
}
