using ILGPU;
using ILGPU.Runtime;

namespace Native.Kernels.Ilgpu;

/// <summary>One layer's keys and values on the device: [blocks, Hkv] of heads as <see cref="ICacheType"/> has them.
/// </summary>
internal sealed class IlgpuKvLayer(
    KvShape shape, int blocks, MemoryBuffer1D<byte, Stride1D.Dense> keys, MemoryBuffer1D<byte, Stride1D.Dense> values)
    : KvLayer(shape, blocks, blocks * BlockBytes(shape))
{
    /// <summary>Where the keys are.</summary>
    public ArrayView<byte> Keys => keys.View.BaseView;

    /// <summary>Where the values are.</summary>
    public ArrayView<byte> Values => values.View.BaseView;

    /// <summary>Bytes of a block's keys and values.</summary>
    public static long BlockBytes(KvShape shape) => 2L * shape.KvHeads * shape.Type switch
    {
        DType.F32 => default(F32Cache).Bytes(shape.HeadSize, shape.BlockSize),
        DType.Q8_0 => default(Q8Cache).Bytes(shape.HeadSize, shape.BlockSize),
        DType.FP8 => default(Fp8Cache).Bytes(shape.HeadSize, shape.BlockSize),
        _ => default(F16Cache).Bytes(shape.HeadSize, shape.BlockSize),
    };
}
