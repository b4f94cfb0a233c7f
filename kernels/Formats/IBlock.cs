namespace Native.Kernels.Formats;

/// <summary>A block of a weight format: a struct laid out byte for byte as in the file (little-endian, no padding),
/// which stands for a fixed number of consecutive values of a row.</summary>
public interface IBlock<TSelf>
    where TSelf : unmanaged, IBlock<TSelf>
{
    /// <summary>The format's number in a GGUF file.</summary>
    static abstract TensorType Type { get; }

    /// <summary>Values in one block.</summary>
    static abstract int BlockSize { get; }

    /// <summary>The definition of the format: the values that a block stands for, in float32 arithmetic, each operation
    /// rounded once.</summary>
    /// <param name="block">One block; any bit pattern is valid.</param>
    /// <param name="values">Receives the values; exactly <see cref="BlockSize"/> of them.</param>
    static abstract void Decode(in TSelf block, Span<float> values);
}

/// <summary>A block format that floats can be quantized to: the float types rounded to nearest even, Q8_0 to Q5_1 bit
/// for bit as ggml's reference quantizer (and llama.cpp's gguf-py) does, the K formats by a search of our own
/// (<see cref="ScaleSearch"/>) that comes at least as near.</summary>
public interface IQuantizedBlock<TSelf> : IBlock<TSelf>
    where TSelf : unmanaged, IQuantizedBlock<TSelf>
{
    /// <summary>Quantizes one block.</summary>
    /// <param name="values">Finite values; exactly <see cref="IBlock{TSelf}.BlockSize"/> of them.</param>
    /// <param name="block">Receives the block.</param>
    static abstract void Quantize(ReadOnlySpan<float> values, out TSelf block);
}
