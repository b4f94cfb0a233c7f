using System.Runtime.InteropServices;
using Native.Kernels.Formats;

namespace Native.Kernels.Files;

/// <summary>A tensor to write into a GGUF file, read row by row: from a file, in the file's or another order of rows,
/// or computed.</summary>
public sealed class SourceTensor
{
    private readonly TensorView _view;
    private readonly Func<long, long>? _rowOf;
    private readonly float[]? _values;

    /// <summary>A tensor of another file; a non-owning view, valid until that is disposed.</summary>
    /// <param name="name">Its name in the GGUF file.</param>
    /// <param name="shape">Its dimensions in GGUF's order, the contiguous one first.</param>
    /// <param name="view">Where its rows are.</param>
    /// <param name="rowOf">Gives the view's row for each row; null where they are the same.</param>
    public SourceTensor(string name, IReadOnlyList<long> shape, TensorView view, Func<long, long>? rowOf = null) =>
        (Name, Shape, Type, _view, _rowOf) = (name, shape, view.Type, view, rowOf);

    /// <summary>A vector of floats.</summary>
    /// <param name="name">Its name in the GGUF file.</param>
    /// <param name="values">Its values.</param>
    public SourceTensor(string name, float[] values) =>
        (Name, Shape, Type, _values) = (name, [values.Length], TensorType.F32, values);

    /// <summary>Its name in the GGUF file.</summary>
    public string Name { get; }

    /// <summary>The type its rows are in.</summary>
    public TensorType Type { get; }

    /// <summary>Its dimensions in GGUF's order, the contiguous one first.</summary>
    public IReadOnlyList<long> Shape { get; }

    /// <summary>Values in a row.</summary>
    public long Columns => Shape[0];

    /// <summary>Rows: the product of all dimensions but the first.</summary>
    public long Rows => Shape.Skip(1).Aggregate(1L, static (product, size) => product * size);

    /// <summary>Bytes of a row in <see cref="Type"/>.</summary>
    public long RowBytes => Columns / BlockFormat.Of(Type).BlockSize * BlockFormat.Of(Type).BlockBytes;

    /// <summary>Bytes of the whole tensor in <see cref="Type"/>.</summary>
    public long ByteLength => Rows * RowBytes;

    /// <summary>Copies rows' bytes, in <see cref="Type"/>.</summary>
    /// <param name="first">0 to Rows - 1.</param>
    /// <param name="rows">Receives as many whole rows as fit.</param>
    /// <exception cref="ArgumentOutOfRangeException">There are no such rows.</exception>
    /// <exception cref="InvalidDataException">The file was shortened since it was opened.</exception>
    public void ReadRows(long first, Span<byte> rows)
    {
        if (_values is not null)
        {
            MemoryMarshal.AsBytes(_values.AsSpan()).CopyTo(rows);
            return;
        }
        if (_rowOf is null)
        {
            _view.ReadRows(first, rows);
            return;
        }
        int length = checked((int)_view.RowBytes);
        for (int i = 0; i * (long)length < rows.Length; i++)
            _view.ReadRows(_rowOf(first + i), rows.Slice(i * length, length));
    }
}
