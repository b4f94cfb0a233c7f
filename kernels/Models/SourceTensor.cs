using System.Runtime.InteropServices;
using Native.Kernels.Formats;

namespace Native.Kernels.Models;

/// <summary>A tensor as it goes into a GGUF file, read row by row from wherever it is: as it lies in a mapped file, its rows in another order, or computed.</summary>
public sealed class SourceTensor
{
    private readonly TensorView _view;
    private readonly Func<long, long>? _rowOf;
    private readonly float[]? _values;

    /// <summary>A mapped tensor; a non-owning view, valid until its file is disposed.</summary>
    /// <param name="name">Its name in the GGUF file.</param>
    /// <param name="shape">Its dimensions in GGUF's order, the contiguous one first.</param>
    /// <param name="view">Where its rows are.</param>
    /// <param name="rowOf">Which row of the view a row is; null where it is the same.</param>
    public SourceTensor(string name, IReadOnlyList<long> shape, TensorView view, Func<long, long>? rowOf = null) => (Name, Shape, Type, _view, _rowOf) = (name, shape, view.Type, view, rowOf);

    /// <summary>A vector of floats.</summary>
    /// <param name="name">Its name in the GGUF file.</param>
    /// <param name="values">Its values.</param>
    public SourceTensor(string name, float[] values) => (Name, Shape, Type, _values) = (name, [values.Length], TensorType.F32, values);

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

    /// <summary>Bytes of the whole tensor in <see cref="Type"/>.</summary>
    public long ByteLength => Rows * Columns / BlockFormat.Of(Type).BlockSize * BlockFormat.Of(Type).BlockBytes;

    /// <summary>A row's bytes, in <see cref="Type"/>.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no such row.</exception>
    public ReadOnlySpan<byte> Row(long row)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((ulong)row, (ulong)Rows, nameof(row));
        return _values is null ? _view.Row(_rowOf is null ? row : _rowOf(row)) : MemoryMarshal.AsBytes(_values.AsSpan());
    }

    /// <summary>A row as floats.</summary>
    /// <param name="row">0 to Rows - 1.</param>
    /// <param name="values">Receives <see cref="Columns"/> values; exactly that long.</param>
    public void DecodeRow(long row, Span<float> values) => BlockFormat.Of(Type).Decode(Row(row), values);
}
