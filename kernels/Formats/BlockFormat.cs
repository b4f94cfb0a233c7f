using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Native.Kernels.Formats;

/// <summary>A weight format, found by its <see cref="TensorType"/>: values and bytes of a block, and how bytes become
/// floats and back. Each format's layout and arithmetic are in the struct of its name (<see cref="Q8_0"/>,
/// <see cref="Q4_K"/> ...).</summary>
public abstract class BlockFormat
{
    private static readonly BlockFormat[] All =
    [
        new QuantizedFormat<F32>(), new QuantizedFormat<F16>(), new QuantizedFormat<BF16>(),
        new QuantizedFormat<Q8_0>(), new QuantizedFormat<Q4_0>(), new QuantizedFormat<Q4_1>(),
            new QuantizedFormat<Q5_0>(), new QuantizedFormat<Q5_1>(),
        new QuantizedFormat<Q2_K>(), new QuantizedFormat<Q3_K>(), new QuantizedFormat<Q4_K>(),
            new QuantizedFormat<Q5_K>(), new QuantizedFormat<Q6_K>(),
        new Format<IQ4_NL>(), new Format<IQ4_XS>(),
    ];

    private static readonly Dictionary<TensorType, BlockFormat> ByType = All.ToDictionary(f => f.Type);

    private BlockFormat(TensorType type, int blockSize, int blockBytes) =>
        (Type, BlockSize, BlockBytes) = (type, blockSize, blockBytes);

    /// <summary>The formats that can be computed with.</summary>
    public static IReadOnlyList<BlockFormat> Supported => All;

    /// <summary>The supported formats' names, for messages: "F32, F16, ...".</summary>
    public static string SupportedNames { get; } = string.Join(", ", All.Select(f => f.Type));

    /// <summary>The format's number in a GGUF file.</summary>
    public TensorType Type { get; }

    /// <summary>Values in one block; 1 for the plain float types. A row is a whole number of blocks.</summary>
    public int BlockSize { get; }

    /// <summary>Bytes of one block.</summary>
    public int BlockBytes { get; }

    /// <summary>True where <see cref="Quantize"/> is defined.</summary>
    public virtual bool CanQuantize => false;

    /// <summary>Finds the format of a type; false where it is not supported.</summary>
    public static bool TryGet(TensorType type, [NotNullWhen(true)] out BlockFormat? format) =>
        ByType.TryGetValue(type, out format);

    /// <summary>The format of a type.</summary>
    /// <exception cref="NotSupportedException">The type is not supported; the message names it and the supported
    /// ones.</exception>
    public static BlockFormat Of(TensorType type) =>
        TryGet(type, out BlockFormat? format) ? format
            : throw new NotSupportedException(
            $"tensor type {Name(type)} is not supported; supported are {SupportedNames}");

    /// <summary>A type's name for messages: ggml's name and number, or only the number if ggml has no such
    /// type.</summary>
    public static string Name(TensorType type) =>
        Enum.IsDefined(type) ? $"{type} ({(int)type})" : $"number {(int)type}";

    /// <summary>Decodes whole blocks to floats: the definition, not the fast path.</summary>
    /// <param name="blocks">A whole number of blocks; need not be aligned.</param>
    /// <param name="values">Receives <see cref="BlockSize"/> values per block; exactly that long.</param>
    /// <exception cref="ArgumentException">The lengths disagree.</exception>
    public abstract void Decode(ReadOnlySpan<byte> blocks, Span<float> values);

    /// <summary>Quantizes floats to whole blocks (<see cref="IQuantizedBlock{TSelf}"/> says how).</summary>
    /// <param name="values">Finite values; a whole number of blocks.</param>
    /// <param name="blocks">Receives <see cref="BlockBytes"/> bytes per block; exactly that long.</param>
    /// <exception cref="ArgumentException">The lengths disagree.</exception>
    /// <exception cref="NotSupportedException"><see cref="CanQuantize"/> is false.</exception>
    public virtual void Quantize(ReadOnlySpan<float> values, Span<byte> blocks) =>
        throw new NotSupportedException(
            $"there is no quantizer to {Type}; there is one to "
            + $"{string.Join(", ", All.Where(f => f.CanQuantize).Select(f => f.Type))}");

    private void CheckLengths(int values, int bytes)
    {
        if (values % BlockSize != 0 || bytes % BlockBytes != 0 || values / BlockSize != bytes / BlockBytes)
            throw new ArgumentException(
                $"{values} values and {bytes} bytes are not the same number of {Type} blocks ({BlockSize} values, "
                + $"{BlockBytes} bytes each)");
    }

    private class Format<T>() : BlockFormat(T.Type, T.BlockSize, Unsafe.SizeOf<T>())
        where T : unmanaged, IBlock<T>
    {
        public override void Decode(ReadOnlySpan<byte> blocks, Span<float> values)
        {
            CheckLengths(values.Length, blocks.Length);
            ReadOnlySpan<T> typed = MemoryMarshal.Cast<byte, T>(blocks);
            for (int i = 0; i < typed.Length; i++) T.Decode(in typed[i], values.Slice(i * T.BlockSize, T.BlockSize));
        }
    }

    private sealed class QuantizedFormat<T> : Format<T>
        where T : unmanaged, IQuantizedBlock<T>
    {
        public override bool CanQuantize => true;

        public override void Quantize(ReadOnlySpan<float> values, Span<byte> blocks)
        {
            CheckLengths(values.Length, blocks.Length);
            Span<T> typed = MemoryMarshal.Cast<byte, T>(blocks);
            for (int i = 0; i < typed.Length; i++) T.Quantize(values.Slice(i * T.BlockSize, T.BlockSize), out typed[i]);
        }
    }
}
