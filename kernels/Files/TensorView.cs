using System.Buffers;
using Native.Kernels.Formats;

namespace Native.Kernels.Files;

/// <summary>A matrix in a model file, or in memory; row-major. Non-owning: valid until the file is disposed.</summary>
/// <param name="Name">The tensor's name in the file.</param>
/// <param name="Type">Element type; <see cref="BlockFormat.Of"/> tells whether it can be computed with.</param>
/// <param name="Rows">Product of all dimensions but the contiguous one; 1 for a vector or a scalar.</param>
/// <param name="Columns">The contiguous (reduction) dimension: GGUF's ne[0], the last of a safetensors shape. A whole
/// number of blocks.</param>
/// <param name="Start">Where its first byte is: an offset in the file it is in, an address where it is in
/// memory.</param>
/// <param name="ByteLength">Bytes of the whole matrix.</param>
public readonly record struct TensorView(
    string Name, TensorType Type, long Rows, long Columns, nint Start, long ByteLength)
{
    /// <summary>The file it is in; null where it is in memory.</summary>
    internal FileBytes? File { get; init; }

    /// <summary>Bytes from one row to the next.</summary>
    public long RowBytes => Rows == 0 ? 0 : ByteLength / Rows;

    /// <summary>Some of its rows as a matrix of their own.</summary>
    public TensorView Slice(long first, long rows) =>
        this with { Start = Start + (nint)(first * RowBytes), Rows = rows, ByteLength = rows * RowBytes };

    /// <summary>Copies rows.</summary>
    /// <param name="first">0 to Rows - 1.</param>
    /// <param name="rows">Receives as many whole rows as fit; a multiple of <see cref="RowBytes"/> long.</param>
    /// <exception cref="ArgumentOutOfRangeException">There are no such rows.</exception>
    /// <exception cref="InvalidDataException">The file was shortened since it was opened.</exception>
    public unsafe void ReadRows(long first, Span<byte> rows)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((ulong)first, (ulong)Rows, nameof(first));
        ArgumentOutOfRangeException.ThrowIfGreaterThan(rows.Length, ByteLength - first * RowBytes, nameof(rows));
        long start = Start + first * RowBytes;
        if (File is not null) File.Read(start, rows);
        else new ReadOnlySpan<byte>((void*)start, rows.Length).CopyTo(rows);
    }

    /// <summary>Decodes one row to floats, by the definition of its format.</summary>
    /// <param name="row">0 to Rows - 1.</param>
    /// <param name="values">Receives <see cref="Columns"/> values; exactly that long.</param>
    /// <exception cref="NotSupportedException">The type is not a supported weight format.</exception>
    /// <exception cref="InvalidDataException">The file was shortened since it was opened.</exception>
    public void DecodeRow(long row, Span<float> values)
    {
        BlockFormat format = BlockFormat.Of(Type);
        int length = checked((int)RowBytes);
        byte[] rented = ArrayPool<byte>.Shared.Rent(length);
        Span<byte> bytes = rented.AsSpan(0, length);
        ReadRows(row, bytes);
        format.Decode(bytes, values);
        ArrayPool<byte>.Shared.Return(rented);
    }
}
