using Native.Kernels.Formats;

namespace Native.Kernels.Files;

/// <summary>What a GGUF header says of a tensor.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Type">Its type, whether it can be computed with or not.</param>
/// <param name="Shape">Its dimensions in GGUF's order, the contiguous one first.</param>
/// <param name="Offset">Where its bytes begin in the file.</param>
/// <param name="ByteLength">How many there are; null for a type that is not known.</param>
public sealed record GgufTensorInfo(string Name, TensorType Type, IReadOnlyList<long> Shape, long Offset,
    long? ByteLength)
{
    /// <summary>Values it has.</summary>
    public long Elements => Shape.Aggregate(1L, static (product, size) => product * size);
}
