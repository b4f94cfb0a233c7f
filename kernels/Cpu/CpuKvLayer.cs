namespace Native.Kernels.Cpu;

/// <summary>One layer's keys and values: shape [blocks, Hkv * blockSize * columns] each. Inside a block: keys [Hkv, d,
/// blockSize], values [Hkv, blockSize, d], so that attention reads both with neighbouring positions or elements in one
/// vector.</summary>
/// <remarks>With <see cref="DType.Q8_0"/> the d * blockSize bytes of a head's keys are followed by their scales, and
/// those of its values likewise: [ceil(d / 32), blockSize] of bfloat16.</remarks>
/// <param name="shape">What is kept.</param>
/// <param name="keys">Rotated keys.</param>
/// <param name="values">Values.</param>
internal sealed class CpuKvLayer(KvShape shape, Tensor keys, Tensor values)
    : KvLayer(shape, keys.Rows, keys.ByteLength + values.ByteLength)
{
    /// <summary>Elements of a head that share a scale of <see cref="DType.Q8_0"/>.</summary>
    public const int ScaleGroup = 32;

    /// <summary>Rotated keys.</summary>
    public Tensor Keys { get; } = keys;

    /// <summary>Values.</summary>
    public Tensor Values { get; } = values;

    /// <summary>Scales of a head.</summary>
    public static int ScaleCount(int headSize) => (headSize + ScaleGroup - 1) / ScaleGroup;

    /// <summary>Elements of the cache's type that one key or value of a head takes: the head's size, and with
    /// <see cref="DType.Q8_0"/> two bytes more, a scale, for each 32.</summary>
    public static int HeadColumns(int headSize, DType type) =>
        type == DType.Q8_0 ? headSize + (2 * ScaleCount(headSize)) : headSize;

    /// <summary>Elements of a block's keys, or of its values.</summary>
    public static int BlockColumns(KvShape shape) =>
        checked(shape.KvHeads * shape.BlockSize * HeadColumns(shape.HeadSize, shape.Type));

    /// <summary>Bytes of a block's keys and values.</summary>
    public static long BlockBytes(KvShape shape) => 2L * BlockColumns(shape) * Tensor.SizeOf(shape.Type);
}
