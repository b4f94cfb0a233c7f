namespace Native.Kernels;

/// <summary>What every backend asks of the tensors that it is given.</summary>
internal static class OperandCheck
{
    /// <summary>A tensor of float32 has this shape.</summary>
    /// <exception cref="ArgumentException">It has another; both are named.</exception>
    public static void CheckFloats(Tensor tensor, int rows, int columns, string name)
    {
        if (tensor.Address == 0 || tensor.Type != DType.F32 || tensor.Rows != rows || tensor.Columns != columns)
            throw new ArgumentException(
                $"{name} has shape [{tensor.Rows}, {tensor.Columns}] of {tensor.Type}, expected [{rows}, {columns}] "
                + "of F32", name);
    }

    /// <summary>The operands of a product fit together.</summary>
    /// <exception cref="ArgumentException">One does not; it is named with both shapes.</exception>
    public static void CheckProduct(Tensor x, Matrix w, Tensor bias, Tensor y, int outputs, RowNorm norm)
    {
        CheckFloats(x, y.Rows, w.Columns, nameof(x));
        CheckFloats(y, x.Rows, outputs, nameof(y));
        if (!bias.IsEmpty) CheckFloats(bias, 1, w.Rows, nameof(bias));
        if (!norm.Weight.IsEmpty) CheckFloats(norm.Weight, 1, w.Columns, nameof(norm));
    }
}
