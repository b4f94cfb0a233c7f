namespace Native.Kernels.Cuda;

/// <summary>One layer's keys and values on the device: [blocks, Hkv, blockSize, bytes of a row] each. With
/// <see cref="DType.Q8_0"/> a row has its bytes, padded to a multiple of 32, and then a bfloat16 for each 32.</summary>
internal sealed class CudaKvLayer(KvShape shape, int blocks, ulong keys, ulong values)
    : KvLayer(shape, blocks, blocks * BlockBytes(shape))
{
    /// <summary>Where the keys are.</summary>
    public ulong Keys => keys;

    /// <summary>Where the values are.</summary>
    public ulong Values => values;

    /// <summary>Bytes of one key or value of a head.</summary>
    public static int RowBytes(int headSize, DType type) =>
        type == DType.Q8_0 ? (headSize + 31) / 32 * 34 : headSize * Tensor.SizeOf(type);

    /// <summary>Bytes of a block's keys and values.</summary>
    public static long BlockBytes(KvShape shape) =>
        2L * shape.KvHeads * shape.BlockSize * RowBytes(shape.HeadSize, shape.Type);
}
