using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Native.Kernels.Cpu;

/// <summary>Causal attention over the paged cache: y[t] = softmax(cap(q[t] K^T * scale)) V.</summary>
/// <remarks>
/// <para>How to call it: after every item of <see cref="Rope.RotateAndStore"/>, split the items [0, <see cref="ItemCount"/>) over workers in
/// any way (they differ in cost, so hand them out one by one), each worker with its own scratch of <see cref="ScratchLength"/> floats.
/// Nothing is allocated.</para>
/// <para>Online softmax (Milakov and Gimelshein 2018, arXiv:1805.02867) over a paged cache (Kwon et al. 2023, arXiv:2309.06180), in tiles
/// of <see cref="TileSize"/> positions that begin at multiples of it. A tile of keys, then of values, is converted to float32 once
/// and meets every query head of its group and every row of the query tile. What a row adds up, and in which order, follows from its own
/// position alone: neither its companions in the tile nor the block size nor the split over workers change a bit of it.
/// Memory-bound in decode: judge it in GB/s.</para>
/// </remarks>
internal static unsafe class PagedAttention
{
    /// <summary>Positions that share one rescaling of the running sums.</summary>
    public const int TileSize = 32;

    // Head sizes are padded to the widest vector with zeros, which add nothing to any sum.
    private const int Padding = 16;

    /// <summary>Items of a step: each query tile with each key and value head.</summary>
    public static int ItemCount(CpuStep step, AttentionShape shape) => step.QueryTileCount * shape.KvHeads;

    /// <summary>Floats of scratch one worker needs.</summary>
    public static int ScratchLength(AttentionShape shape)
    {
        int padded = PaddedSize(shape), queries = CpuStep.QueryTileRows * (shape.Heads / shape.KvHeads);
        return (2 * queries * padded) + (TileSize * padded) + (queries * TileSize) + (2 * queries);
    }

    /// <summary>Computes items [first, last).</summary>
    /// <param name="step">The step.</param>
    /// <param name="qkv">Shape [T, (H + 2 Hkv) * d], as <see cref="Rope.RotateAndStore"/> left it; only queries are read.</param>
    /// <param name="shape">The layer's attention.</param>
    /// <param name="cache">The layer's keys and values.</param>
    /// <param name="y">Shape [T, H * d].</param>
    /// <param name="scratch">This worker's own, <see cref="ScratchLength"/> floats, best aligned to 64 bytes.</param>
    /// <param name="first">First item.</param>
    /// <param name="last">Item after the last.</param>
    public static void Attend(CpuStep step, Tensor qkv, AttentionShape shape, KvLayer cache, Tensor y, float* scratch, int first, int last)
    {
        for (int item = first; item < last; item++)
        {
            QueryTile tile = step.QueryTiles[item / shape.KvHeads];
            int kvHead = item % shape.KvHeads;
            if (Vector512.IsHardwareAccelerated) Attend<Simd512, Vector512<float>>(step, tile, kvHead, qkv, shape, cache, y, scratch);
            else if (Vector256.IsHardwareAccelerated) Attend<Simd256, Vector256<float>>(step, tile, kvHead, qkv, shape, cache, y, scratch);
            else if (Vector128.IsHardwareAccelerated) Attend<Simd128, Vector128<float>>(step, tile, kvHead, qkv, shape, cache, y, scratch);
            else AttendScalar(step, tile, kvHead, qkv, shape, cache, y);
        }
    }

    /// <summary>The definition: the largest logit first, then weights and their sum.</summary>
    internal static void AttendScalar(CpuStep step, QueryTile tile, int kvHead, Tensor qkv, AttentionShape shape, KvLayer cache, Tensor y)
    {
        int d = shape.HeadSize, group = shape.Heads / shape.KvHeads;
        for (int i = 0; i < tile.Rows * group; i++)
        {
            int row = tile.FirstRow + (i / group), head = (kvHead * group) + (i % group);
            float* query = Query(qkv, shape, row, head);
            float* output = (float*)y.Address + ((long)row * y.Columns) + ((long)head * d);
            int end = step.Positions[row] + 1, start = WindowStart(shape, end - 1);

            double max = double.NegativeInfinity, sum = 0;
            for (int p = start; p < end; p++) max = Math.Max(max, Logit(p));
            for (int j = 0; j < d; j++) output[j] = 0;
            for (int p = start; p < end; p++)
            {
                double weight = Math.Exp(Logit(p) - max);
                sum += weight;
                long value = ElementOf(step, tile.Sequence, cache, shape, kvHead, p);
                for (int j = 0; j < d; j++) output[j] += (float)(weight * Element(cache.Values, value + j));
            }
            for (int j = 0; j < d; j++) output[j] = (float)(output[j] / sum);

            double Logit(int position)
            {
                double dot = 0;
                long key = ElementOf(step, tile.Sequence, cache, shape, kvHead, position);
                for (int j = 0; j < d; j++) dot += (double)query[j] * Element(cache.Keys, key + j);
                double logit = dot * shape.Scale;
                return shape.SoftCap > 0 ? shape.SoftCap * Math.Tanh(logit / shape.SoftCap) : logit;
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Attend<S, V>(CpuStep step, QueryTile tile, int kvHead, Tensor qkv, AttentionShape shape, KvLayer cache, Tensor y, float* scratch)
        where S : struct, ISimd<V>
        where V : struct
    {
        int d = shape.HeadSize, padded = PaddedSize(shape), group = shape.Heads / shape.KvHeads, count = tile.Rows * group;
        float* queries = scratch;                              // [count, padded]
        float* outputs = queries + ((long)count * padded);     // [count, padded], sums of weight * value so far
        float* kv = outputs + ((long)count * padded);          // [TileSize, padded]
        float* logits = kv + ((long)TileSize * padded);        // [count, TileSize], then weights
        float* maxima = logits + ((long)count * TileSize);     // [count], largest logit so far
        float* sums = maxima + count;                          // [count], sum of weights so far

        int begin = int.MaxValue, end = 0; // positions that any row sees
        for (int i = 0; i < count; i++)
        {
            int row = tile.FirstRow + (i / group), head = (kvHead * group) + (i % group), position = step.Positions[row];
            begin = Math.Min(begin, WindowStart(shape, position));
            end = Math.Max(end, position + 1);

            float* source = Query(qkv, shape, row, head), query = queries + ((long)i * padded), output = outputs + ((long)i * padded);
            for (int j = 0; j < d; j++) query[j] = source[j] * shape.Scale;
            for (int j = d; j < padded; j++) query[j] = 0;
            for (int j = 0; j < padded; j++) output[j] = 0;
            maxima[i] = float.NegativeInfinity;
            sums[i] = 0;
        }

        int* blockTable = step.BlockTables + ((long)tile.Sequence * step.BlockTableStride);
        for (int origin = begin / TileSize * TileSize; origin < end; origin += TileSize)
        {
            int from = Math.Max(begin, origin), to = Math.Min(end, origin + TileSize);

            LoadTile<S, V>(cache.Keys, cache.BlockSize, blockTable, shape.KvHeads, kvHead, d, padded, from, to, kv + ((long)(from - origin) * padded));
            int lowest = (from - origin) / 8 * 8, highest = to - origin;
            for (int i = 0; i < count; i++)
            {
                float* query = queries + ((long)i * padded), row = logits + (i * TileSize);
                for (int j = lowest; j < highest; j += 8) Dot8<S, V>(query, kv + ((long)j * padded), padded, row + j);
            }

            LoadTile<S, V>(cache.Values, cache.BlockSize, blockTable, shape.KvHeads, kvHead, d, padded, from, to, kv + ((long)(from - origin) * padded));
            for (int i = 0; i < count; i++)
            {
                int position = step.Positions[tile.FirstRow + (i / group)];
                int visibleFrom = Math.Max(WindowStart(shape, position) - origin, 0), visibleTo = Math.Min(position + 1 - origin, TileSize);
                if (visibleFrom >= visibleTo) continue;
                float rescale = Weigh<S, V>(logits + (i * TileSize), visibleFrom, visibleTo, shape.SoftCap, ref maxima[i], ref sums[i]);
                Accumulate<S, V>(logits + (i * TileSize), visibleFrom, visibleTo, kv, padded, rescale, outputs + ((long)i * padded));
            }
        }

        for (int i = 0; i < count; i++)
        {
            int row = tile.FirstRow + (i / group), head = (kvHead * group) + (i % group);
            float* target = (float*)y.Address + ((long)row * y.Columns) + ((long)head * d), output = outputs + ((long)i * padded);
            float inverse = 1 / sums[i];
            for (int j = 0; j < d; j++) target[j] = output[j] * inverse;
        }
    }

    /// <summary>Converts positions [from, to) of one head to rows of <paramref name="padded"/> floats.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void LoadTile<S, V>(Tensor source, int blockSize, int* blockTable, int kvHeads, int kvHead, int d, int padded, int from, int to, float* target)
        where S : struct, ISimd<V>
        where V : struct
    {
        while (from < to)
        {
            long block = from / blockSize, offset = from % blockSize;
            int run = (int)Math.Min(to - from, blockSize - offset);
            long element = ((((long)blockTable[block] * kvHeads) + kvHead) * blockSize + offset) * d;
            if (d == padded)
            {
                Widen<S, V>(source, element, run * d, run * d, target);
            }
            else
            {
                for (int j = 0; j < run; j++) Widen<S, V>(source, element + ((long)j * d), d, padded, target + ((long)j * padded));
            }
            from += run;
            target += (long)run * padded;
        }
    }

    /// <summary>Converts n elements to floats and fills up with zeros to <paramref name="padded"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Widen<S, V>(Tensor source, long element, int n, int padded, float* target)
        where S : struct, ISimd<V>
        where V : struct
    {
        int i = 0;
        if (source.Type == DType.F32)
        {
            float* from = (float*)source.Address + element;
            for (; i <= n - S.Count; i += S.Count) S.Store(S.Load(from + i), target + i);
        }
        else if (source.Type == DType.F16)
        {
            ushort* from = (ushort*)source.Address + element;
            for (; i <= n - S.Count; i += S.Count) S.Store(S.LoadF16(from + i), target + i);
        }
        else
        {
            ushort* from = (ushort*)source.Address + element;
            for (; i <= n - S.Count; i += S.Count) S.Store(S.LoadBF16(from + i), target + i);
        }
        for (; i < n; i++) target[i] = Element(source, element + i);
        for (; i < padded; i++) target[i] = 0;
    }

    /// <summary>Dot products of one query with eight keys, each a single chain over the vectors of a head.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Dot8<S, V>(float* query, float* keys, int padded, float* logits)
        where S : struct, ISimd<V>
        where V : struct
    {
        V s0 = S.Create(0), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;
        for (int j = 0; j < padded; j += S.Count)
        {
            V q = S.Load(query + j);
            float* k = keys + j;
            s0 = S.MultiplyAdd(q, S.Load(k), s0);
            s1 = S.MultiplyAdd(q, S.Load(k + padded), s1);
            s2 = S.MultiplyAdd(q, S.Load(k + (2 * (nint)padded)), s2);
            s3 = S.MultiplyAdd(q, S.Load(k + (3 * (nint)padded)), s3);
            s4 = S.MultiplyAdd(q, S.Load(k + (4 * (nint)padded)), s4);
            s5 = S.MultiplyAdd(q, S.Load(k + (5 * (nint)padded)), s5);
            s6 = S.MultiplyAdd(q, S.Load(k + (6 * (nint)padded)), s6);
            s7 = S.MultiplyAdd(q, S.Load(k + (7 * (nint)padded)), s7);
        }
        SimdMath<S, V>.Sum(s0, s1, s2, s3).Store(logits);
        SimdMath<S, V>.Sum(s4, s5, s6, s7).Store(logits + 4);
    }

    /// <summary>Turns a tile's logits into weights under the new maximum, adds them to the running sum and returns what earlier sums are to be multiplied by.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static float Weigh<S, V>(float* logits, int from, int to, float softCap, ref float maximum, ref float sum)
        where S : struct, ISimd<V>
        where V : struct
    {
        for (int j = 0; j < from; j++) logits[j] = float.NegativeInfinity;
        for (int j = to; j < TileSize; j++) logits[j] = float.NegativeInfinity;

        V largest = S.Create(float.NegativeInfinity);
        for (int j = 0; j < TileSize; j += S.Count)
        {
            V x = S.Load(logits + j);
            if (softCap > 0)
            {
                // A capped infinity would be a number again: what the row doesn't see stays minus infinity.
                V capped = S.Multiply(S.Create(softCap), SimdMath<S, V>.Tanh(S.Divide(x, S.Create(softCap))));
                x = S.Select(S.LessThan(x, S.Create(float.MinValue)), x, capped);
                S.Store(x, logits + j);
            }
            largest = S.Max(largest, x);
        }
        float* lanes = stackalloc float[Padding];
        S.Store(largest, lanes);
        float max = maximum;
        for (int j = 0; j < S.Count; j++) max = MathF.Max(max, lanes[j]);

        V total = S.Create(0), shift = S.Create(max);
        for (int j = 0; j < TileSize; j += S.Count)
        {
            V weight = SimdMath<S, V>.Exp(S.Subtract(S.Load(logits + j), shift));
            S.Store(weight, logits + j);
            total = S.Add(total, weight);
        }
        float tileSum = SimdMath<S, V>.Sum(total);
        if (max == maximum)
        {
            sum += tileSum;
            return 1;
        }
        S.Store(SimdMath<S, V>.Exp(S.Create(maximum - max)), lanes);
        sum = (sum * lanes[0]) + tileSum;
        maximum = max;
        return lanes[0];
    }

    /// <summary>output = output * rescale + sum of weights[j] * values[j], in the order of positions.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Accumulate<S, V>(float* weights, int from, int to, float* values, int padded, float rescale, float* output)
        where S : struct, ISimd<V>
        where V : struct
    {
        V factor = S.Create(rescale);
        int i = 0;
        for (; i <= padded - (8 * S.Count); i += 8 * S.Count)
        {
            float* o = output + i;
            V o0 = S.Multiply(S.Load(o), factor), o1 = S.Multiply(S.Load(o + S.Count), factor);
            V o2 = S.Multiply(S.Load(o + (2 * S.Count)), factor), o3 = S.Multiply(S.Load(o + (3 * S.Count)), factor);
            V o4 = S.Multiply(S.Load(o + (4 * S.Count)), factor), o5 = S.Multiply(S.Load(o + (5 * S.Count)), factor);
            V o6 = S.Multiply(S.Load(o + (6 * S.Count)), factor), o7 = S.Multiply(S.Load(o + (7 * S.Count)), factor);
            float* v = values + ((long)from * padded) + i;
            for (int j = from; j < to; j++, v += padded)
            {
                V weight = S.Create(weights[j]);
                o0 = S.MultiplyAdd(weight, S.Load(v), o0);
                o1 = S.MultiplyAdd(weight, S.Load(v + S.Count), o1);
                o2 = S.MultiplyAdd(weight, S.Load(v + (2 * S.Count)), o2);
                o3 = S.MultiplyAdd(weight, S.Load(v + (3 * S.Count)), o3);
                o4 = S.MultiplyAdd(weight, S.Load(v + (4 * S.Count)), o4);
                o5 = S.MultiplyAdd(weight, S.Load(v + (5 * S.Count)), o5);
                o6 = S.MultiplyAdd(weight, S.Load(v + (6 * S.Count)), o6);
                o7 = S.MultiplyAdd(weight, S.Load(v + (7 * S.Count)), o7);
            }
            S.Store(o0, o);
            S.Store(o1, o + S.Count);
            S.Store(o2, o + (2 * S.Count));
            S.Store(o3, o + (3 * S.Count));
            S.Store(o4, o + (4 * S.Count));
            S.Store(o5, o + (5 * S.Count));
            S.Store(o6, o + (6 * S.Count));
            S.Store(o7, o + (7 * S.Count));
        }
        for (; i < padded; i += S.Count)
        {
            V o0 = S.Multiply(S.Load(output + i), factor);
            float* v = values + ((long)from * padded) + i;
            for (int j = from; j < to; j++, v += padded) o0 = S.MultiplyAdd(S.Create(weights[j]), S.Load(v), o0);
            S.Store(o0, output + i);
        }
    }

    /// <summary>First position a row sees.</summary>
    private static int WindowStart(AttentionShape shape, int position) => shape.Window > 0 ? Math.Max(0, position - shape.Window + 1) : 0;

    private static int PaddedSize(AttentionShape shape) => (shape.HeadSize + Padding - 1) / Padding * Padding;

    private static float* Query(Tensor qkv, AttentionShape shape, int row, int head) =>
        (float*)qkv.Address + ((long)row * qkv.Columns) + ((long)head * shape.HeadSize);

    /// <summary>Index of the first element of a position's key or value.</summary>
    private static long ElementOf(CpuStep step, int sequence, KvLayer cache, AttentionShape shape, int kvHead, int position)
    {
        Debug.Assert(position < step.ContextLengths[sequence], "attention reads only what is stored");
        long block = step.BlockTables[((long)sequence * step.BlockTableStride) + (position / cache.BlockSize)];
        return ((((block * shape.KvHeads) + kvHead) * cache.BlockSize) + (position % cache.BlockSize)) * shape.HeadSize;
    }

    private static float Element(Tensor tensor, long index) => tensor.Type switch
    {
        DType.F32 => ((float*)tensor.Address)[index],
        DType.F16 => (float)BitConverter.UInt16BitsToHalf(((ushort*)tensor.Address)[index]),
        _ => BitConverter.UInt32BitsToSingle((uint)((ushort*)tensor.Address)[index] << 16),
    };
}
