using Native.Kernels.Formats;

namespace Native.Kernels.Files;

/// <summary>A GGUF header's entry for a tensor.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Type">Its type, supported or not.</param>
/// <param name="Shape">Its dimensions in GGUF's order, the contiguous one first.</param>
/// <param name="Offset">Where its bytes begin in the file.</param>
/// <param name="ByteLength">Its bytes; null for an unknown type.</param>
public sealed record GgufTensorInfo(string Name, TensorType Type, IReadOnlyList<long> Shape, long Offset,
    long? ByteLength)
{
    /// <summary>Values it has.</summary>
    public long Elements => Shape.Aggregate(1L, static (product, size) => product * size);
}
