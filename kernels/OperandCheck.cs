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

    /// <summary>The operands of attention fit together.</summary>
    /// <param name="qkv">Projections of <paramref name="tokens"/> rows.</param>
    /// <param name="tokens">Rows of the step.</param>
    /// <param name="shape">The layer's attention.</param>
    /// <param name="kept">What the layer's cache has.</param>
    /// <param name="pairs">Pairs that the shape's table rotates; -1 if it is not registered.</param>
    /// <exception cref="ArgumentException">One does not; it is named with what was expected.</exception>
    public static void CheckAttention(Tensor qkv, int tokens, AttentionShape shape, KvShape kept, int pairs)
    {
        if (shape.KvHeads < 1 || shape.Heads < shape.KvHeads || shape.Heads % shape.KvHeads != 0 || shape.HeadSize < 1)
            throw new ArgumentException(
                $"{shape.Heads} query heads can't share {shape.KvHeads} key heads of {shape.HeadSize}", nameof(shape));
        CheckFloats(qkv, tokens, (shape.Heads + 2 * shape.KvHeads) * shape.HeadSize, nameof(qkv));
        if (pairs < 0 || 2 * pairs > shape.HeadSize)
            throw new ArgumentException(
                $"rope {shape.Rope} is not registered, or rotates more than {shape.HeadSize} elements", nameof(shape));
        if (!shape.QueryNorm.IsEmpty) CheckFloats(shape.QueryNorm, 1, shape.HeadSize, nameof(shape));
        if (!shape.KeyNorm.IsEmpty) CheckFloats(shape.KeyNorm, 1, shape.HeadSize, nameof(shape));
        if (kept.KvHeads != shape.KvHeads || kept.HeadSize != shape.HeadSize || kept.BlockSize < 1)
            throw new ArgumentException(
                $"the cache has {kept.KvHeads} heads of {kept.HeadSize} elements, the layer {shape.KvHeads} of "
                + $"{shape.HeadSize}", nameof(kept));
    }

    /// <summary>A backend keeps caches of a type.</summary>
    /// <exception cref="NotSupportedException">It does not; those that it keeps are named.</exception>
    public static void CheckCacheType(BackendInfo backend, DType type)
    {
        if (!backend.CacheTypes.Contains(type))
            throw new NotSupportedException($"a KV cache of {NameOf(type)} can't be kept on {backend.Description}, but "
                + $"one of {string.Join(", ", backend.CacheTypes.Select(NameOf))} (--kv-cache-dtype)"
                + (type == DType.FP8 ? "; fp8 needs an NVIDIA GPU of compute capability 8.9 or later" : ""));

        static string NameOf(DType type) => type.ToString().ToLowerInvariant();
    }
}
