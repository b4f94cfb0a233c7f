using Native.Kernels.Formats;

namespace Native.Kernels.Models;

/// <summary>A matrix in a mapped model file, row-major. Non-owning: valid until the file is disposed.</summary>
/// <param name="Name">The tensor's name in the file.</param>
/// <param name="Type">Element type; <see cref="BlockFormat.Of"/> tells whether it can be computed with.</param>
/// <param name="Rows">Product of all dimensions but the contiguous one; 1 for a vector or a scalar.</param>
/// <param name="Columns">The contiguous (reduction) dimension: GGUF's ne[0], the last of a safetensors shape. A whole number of blocks.</param>
/// <param name="Address">The first byte, aligned as the file has it (GGUF: to general.alignment; safetensors: not at all).</param>
/// <param name="ByteLength">Bytes of the whole matrix.</param>
public readonly record struct TensorView(string Name, TensorType Type, long Rows, long Columns, nint Address, long ByteLength)
{
    /// <summary>Bytes from one row to the next.</summary>
    public long RowBytes => Rows == 0 ? 0 : ByteLength / Rows;

    /// <summary>The bytes of one row.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such row.</exception>
    public unsafe ReadOnlySpan<byte> Row(long row)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((ulong)row, (ulong)Rows, nameof(row));
        return new ReadOnlySpan<byte>((byte*)Address + row * RowBytes, checked((int)RowBytes));
    }

    /// <summary>Decodes one row to floats, by the definition of its format.</summary>
    /// <param name="row">0 to Rows - 1.</param>
    /// <param name="values">Receives <see cref="Columns"/> values; exactly that long.</param>
    /// <exception cref="NotSupportedException">The type is not a supported weight format.</exception>
    public void DecodeRow(long row, Span<float> values) => BlockFormat.Of(Type).Decode(Row(row), values);
}
