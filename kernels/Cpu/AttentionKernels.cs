using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;
using Native.Kernels.Models;

namespace Native.Kernels.Cpu;

/// <summary>Addresses of one tile of keys and values of one head, by groups of sixteen positions: in the cache, or
/// converted in scratch.</summary>
internal unsafe struct KvTile
{
    /// <summary>Address of each group's first position in row 0 of the keys. Keys are transposed: [d,
    /// positions].</summary>
    public fixed long Keys[PagedAttention.TileSize / Group];

    /// <summary>Address of each group's first value. The others follow at <see cref="ValueStride"/>.</summary>
    public fixed long Values[PagedAttention.TileSize / Group];

    /// <summary>Bytes from a row of keys to the next.</summary>
    public nint KeyStride;

    /// <summary>Bytes from a value to the next.</summary>
    public nint ValueStride;

    /// <summary>Address of each group's first scales in a cache of <see cref="DType.Q8_0"/>. Those of the next elements
    /// follow at <see cref="ScaleStride"/>.</summary>
    public fixed long NarrowKeyScales[PagedAttention.TileSize / Group],
        NarrowValueScales[PagedAttention.TileSize / Group];

    /// <summary>Bytes from a row of scales to the next.</summary>
    public nint ScaleStride;

    /// <summary>All scales as floats, shape [scales of a head, TileSize].</summary>
    public float* KeyScales, ValueScales;

    /// <summary>Positions at one stride. Block sizes that are multiples of it need no copy.</summary>
    public const int Group = 16;
}

/// <summary>One to four queries that meet a tile together, and their sums so far.</summary>
internal unsafe struct TileRows
{
    /// <summary>Scaled queries, shape [Count, Padded].</summary>
    public float* Queries;

    /// <summary>Queries, 1 to 4.</summary>
    public int Count;

    /// <summary>Elements of a head.</summary>
    public int HeadSize;

    /// <summary>Floats from a query to the next: a multiple of 32, at least <see cref="HeadSize"/>.</summary>
    public int Padded;

    /// <summary>The logits' cap, 0 for none.</summary>
    public float SoftCap;

    /// <summary>First position in the tile that each query sees.</summary>
    public fixed int From[4];

    /// <summary>Position after the last that each query sees; not above <see cref="From"/> where it sees
    /// none.</summary>
    public fixed int To[4];

    /// <summary>Scratch, shape [Count, TileSize].</summary>
    public float* Logits;

    /// <summary>Each query's largest logit so far.</summary>
    public float* Maxima;

    /// <summary>Each query's sum of weights so far, by lane, shape [Count, SumLanes].</summary>
    public float* Sums;

    /// <summary>Each query's sum of weighted values so far, shape [Count, Padded].</summary>
    public float* Outputs;
}

/// <summary>How an element of a tile becomes a float. A type parameter, so that the JIT makes an inner loop for
/// each.</summary>
internal interface IKvElement<V>
    where V : struct
{
    /// <summary>Bytes an element.</summary>
    static abstract int Size { get; }

    /// <summary>Whether elements come from the cache itself, so that prefetching the next loop's lines pays.</summary>
    static abstract bool Cached { get; }

    /// <summary>The factor that <see cref="Load"/> leaves out: a power of two. Queries and weights are multiplied by it
    /// once instead, which changes no bit.</summary>
    static abstract float Scale { get; }

    /// <summary>Whether elements have scales of their own, one for <see cref="CpuKvLayer.ScaleGroup"/>
    /// elements.</summary>
    static abstract bool Scaled { get; }

    /// <param name="address">The first lane's.</param>
    /// <param name="scales">The lanes' scales, where they have them.</param>
    static abstract V Load(nint address, V scales);
}

/// <summary>A tile's floats in scratch.</summary>
internal readonly unsafe struct ScratchElement<S, V> : IKvElement<V>
    where S : struct, ISimd<V>
    where V : struct
{
    public static int Size { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => sizeof(float); }

    public static bool Cached { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => false; }

    public static float Scale { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => 1; }

    public static bool Scaled { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => false; }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Load(nint address, V scales) => S.Load((float*)address);
}

/// <summary>A cache of <see cref="DType.F32"/>.</summary>
internal readonly unsafe struct F32Element<S, V> : IKvElement<V>
    where S : struct, ISimd<V>
    where V : struct
{
    public static int Size { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => sizeof(float); }

    public static bool Cached { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => true; }

    public static float Scale { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => 1; }

    public static bool Scaled { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => false; }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Load(nint address, V scales) => S.Load((float*)address);
}

/// <summary>A cache of <see cref="DType.F16"/>.</summary>
internal readonly unsafe struct F16Element<S, V> : IKvElement<V>
    where S : struct, ISimd<V>
    where V : struct
{
    public static int Size { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => sizeof(ushort); }

    public static bool Cached { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => true; }

    // 2^112
    public static float Scale { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => 5.192296858534828e33f; }

    public static bool Scaled { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => false; }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Load(nint address, V scales) => S.LoadScaledF16((ushort*)address);
}

/// <summary>A cache of <see cref="DType.BF16"/>.</summary>
internal readonly unsafe struct BF16Element<S, V> : IKvElement<V>
    where S : struct, ISimd<V>
    where V : struct
{
    public static int Size { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => sizeof(ushort); }

    public static bool Cached { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => true; }

    public static float Scale { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => 1; }

    public static bool Scaled { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => false; }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Load(nint address, V scales) => S.LoadBF16((ushort*)address);
}

/// <summary>A cache of <see cref="DType.Q8_0"/>. A byte times its scale is exact, so it is the same float in a register
/// as in scratch.</summary>
internal readonly unsafe struct Q8Element<S, V> : IKvElement<V>
    where S : struct, ISimd<V>
    where V : struct
{
    public static int Size { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => sizeof(sbyte); }

    public static bool Cached { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => true; }

    public static float Scale { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => 1; }

    public static bool Scaled { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => true; }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Load(nint address, V scales) => S.Multiply(S.LoadInt8((sbyte*)address), scales);
}

/// <summary>Queries that use a vector of keys or values while it is in a register: a number as a type
/// parameter.</summary>
internal interface IQueryCount
{
    static abstract int Count { get; }
}

/// <summary>1.</summary>
internal readonly struct OneQuery : IQueryCount
{
    public static int Count { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => 1; }
}

/// <summary>2.</summary>
internal readonly struct TwoQueries : IQueryCount
{
    public static int Count { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => 2; }
}

/// <summary>3.</summary>
internal readonly struct ThreeQueries : IQueryCount
{
    public static int Count { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => 3; }
}

/// <summary>4: with four vectors each these are sixteen sums, which hide the latency of two multiply-adds a cycle and
/// leave registers for conversion.</summary>
internal readonly struct FourQueries : IQueryCount
{
    public static int Count { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => 4; }
}

/// <summary>The inner loops of <see cref="PagedAttention"/>: one to four queries against one tile.</summary>
/// <remarks>
/// A lane is a position in q k^T and a dimension in weights V, so nothing is summed across lanes. Every sum is one
/// chain in the order of dimensions or positions, for any vector width and any number of queries.
/// </remarks>
internal static unsafe class AttentionKernels<S, V>
    where S : struct, ISimd<V>
    where V : struct
{
    private const int TileSize = PagedAttention.TileSize, SumLanes = PagedAttention.SumLanes;

    // Logits are multiplied by this part of the elements' scale and queries by the rest, so that a query of 2^16 or
    // more does not overflow.
    private const float LogitScale = 65536;

    /// <summary>The factor for queries with elements of this type.</summary>
    public static float QueryScale<E>()
        where E : struct, IKvElement<V> => E.Scale == 1 ? 1 : E.Scale / LogitScale;

    /// <summary>One to four queries against the positions of a tile that they see: scores, then weights under each
    /// query's new maximum, then weighted values.</summary>
    /// <param name="rows">The queries, and their sums so far.</param>
    /// <param name="tile">Keys and values.</param>
    /// <param name="next">The tile after it. Its keys are prefetched.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Attend<E>(TileRows* rows, KvTile* tile, KvTile* next)
        where E : struct, IKvElement<V>
    {
        int count = rows->Count, padded = rows->Padded;
        int* from = rows->From, to = rows->To;
        float* logits = rows->Logits, outputs = rows->Outputs;
        int lowest = TileSize, highest = 0, commonFrom = 0, commonTo = TileSize;
        for (int i = 0; i < count; i++)
        {
            commonFrom = Math.Max(commonFrom, from[i]);
            commonTo = Math.Min(commonTo, to[i]);
            if (from[i] >= to[i]) continue;
            lowest = Math.Min(lowest, from[i]);
            highest = Math.Max(highest, to[i]);
        }
        if (lowest >= highest) return;

        Scores<E>(rows->Queries, count, padded, rows->HeadSize, tile, lowest, highest, logits);
        float* rescale = stackalloc float[16];
        Weigh<E>(count, logits, from, to, rows->SoftCap, rows->Maxima, rows->Sums, rescale);

        // Positions that only some queries see are added one query at a time, before and after those that all see. The
        // order of each query's own positions stays the same.
        for (int i = 0; i < count; i++)
        {
            int end = commonFrom < commonTo ? commonFrom : to[i];
            if (from[i] >= end) continue;
            Accumulate<E, OneQuery>(logits + (i * TileSize), tile, next, from[i], end, rescale + i,
                outputs + ((long)i * padded), padded);
            rescale[i] = 1;
        }
        if (commonFrom >= commonTo) return;
        Accumulate<E>(count, logits, tile, next, commonFrom, commonTo, rescale, outputs, padded);
        for (int i = 0; i < count; i++)
        {
            if (commonTo >= to[i]) continue;
            rescale[i] = 1;
            Accumulate<E, OneQuery>(logits + (i * TileSize), tile, next, commonTo, to[i], rescale + i,
                outputs + ((long)i * padded), padded);
        }
    }

    /// <summary>Logits of all queries, of the vectors that hold positions [lowest, highest).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Scores<E>(float* queries, int count, int padded, int d, KvTile* tile, int lowest, int highest,
        float* logits)
        where E : struct, IKvElement<V>
    {
        int narrow = 2 * S.Count, wide = 4 * S.Count;
        for (int lane = lowest / narrow * narrow; lane < highest;)
        {
            // Sixteen sums do not fit into sixteen registers.
            bool four = (S.Count == 16 || count <= 2) && highest - lane > narrow && lane % wide == 0;
            switch (count)
            {
                case 1 when four: Scores4<E, OneQuery>(queries, padded, d, tile, lane, logits); break;
                case 2 when four: Scores4<E, TwoQueries>(queries, padded, d, tile, lane, logits); break;
                case 3 when four: Scores4<E, ThreeQueries>(queries, padded, d, tile, lane, logits); break;
                case 4 when four: Scores4<E, FourQueries>(queries, padded, d, tile, lane, logits); break;
                case 1: Scores2<E, OneQuery>(queries, padded, d, tile, lane, logits); break;
                case 2: Scores2<E, TwoQueries>(queries, padded, d, tile, lane, logits); break;
                case 3: Scores2<E, ThreeQueries>(queries, padded, d, tile, lane, logits); break;
                default: Scores2<E, FourQueries>(queries, padded, d, tile, lane, logits); break;
            }
            lane += four ? wide : narrow;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Accumulate<E>(int count, float* weights, KvTile* tile, KvTile* next, int from, int to,
        float* rescale, float* outputs, int padded)
        where E : struct, IKvElement<V>
    {
        switch (count)
        {
            case 1: Accumulate<E, OneQuery>(weights, tile, next, from, to, rescale, outputs, padded); break;
            case 2: Accumulate<E, TwoQueries>(weights, tile, next, from, to, rescale, outputs, padded); break;
            case 3: Accumulate<E, ThreeQueries>(weights, tile, next, from, to, rescale, outputs, padded); break;
            default: Accumulate<E, FourQueries>(weights, tile, next, from, to, rescale, outputs, padded); break;
        }
    }

    /// <summary>Logits of four vectors of positions from <paramref name="lane"/> on. Where keys are in the cache, the
    /// tile's values are prefetched.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Scores4<E, Q>(float* queries, int padded, int d, KvTile* tile, int lane, float* logits)
        where E : struct, IKvElement<V>
        where Q : struct, IQueryCount
    {
        nint k0 = Key<E>(tile, lane), k1 = Key<E>(tile, lane + S.Count), k2 = Key<E>(tile, lane + (2 * S.Count)),
            k3 = Key<E>(tile, lane + (3 * S.Count));
        nint v0 = Ahead(tile->Values, lane), v1 = Ahead(tile->Values, lane + S.Count),
            v2 = Ahead(tile->Values, lane + (2 * S.Count)), v3 = Ahead(tile->Values, lane + (3 * S.Count));
        nint stride = tile->KeyStride, offset = 0, ahead = 0;
        V a0 = S.Create(0), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0, c0 = a0, c1 = a0, c2 = a0,
            c3 = a0, d0 = a0, d1 = a0, d2 = a0, d3 = a0;
        float* qB = queries + padded, qC = qB + padded, qD = qC + padded;
        float* keyScales = tile->KeyScales + lane;
        for (nint j = 0; j < d; j++)
        {
            float* scales = keyScales + (j / CpuKvLayer.ScaleGroup * TileSize);
            V x0 = E.Load(k0 + offset, Scales<E>(scales)), x1 = E.Load(k1 + offset, Scales<E>(scales + S.Count)),
                x2 = E.Load(k2 + offset, Scales<E>(scales + (2 * S.Count))),
                x3 = E.Load(k3 + offset, Scales<E>(scales + (3 * S.Count)));
            V q = S.Create(queries[j]);
            a0 = S.MultiplyAdd(q, x0, a0);
            a1 = S.MultiplyAdd(q, x1, a1);
            a2 = S.MultiplyAdd(q, x2, a2);
            a3 = S.MultiplyAdd(q, x3, a3);
            if (Q.Count > 1)
            {
                q = S.Create(qB[j]);
                b0 = S.MultiplyAdd(q, x0, b0);
                b1 = S.MultiplyAdd(q, x1, b1);
                b2 = S.MultiplyAdd(q, x2, b2);
                b3 = S.MultiplyAdd(q, x3, b3);
            }
            if (Q.Count > 2)
            {
                q = S.Create(qC[j]);
                c0 = S.MultiplyAdd(q, x0, c0);
                c1 = S.MultiplyAdd(q, x1, c1);
                c2 = S.MultiplyAdd(q, x2, c2);
                c3 = S.MultiplyAdd(q, x3, c3);
            }
            if (Q.Count > 3)
            {
                q = S.Create(qD[j]);
                d0 = S.MultiplyAdd(q, x0, d0);
                d1 = S.MultiplyAdd(q, x1, d1);
                d2 = S.MultiplyAdd(q, x2, d2);
                d3 = S.MultiplyAdd(q, x3, d3);
            }
            if (E.Cached)
            {
                Prefetch(v0 + ahead);
                Prefetch(v1 + ahead);
                Prefetch(v2 + ahead);
                Prefetch(v3 + ahead);
                ahead += KvTile.Group * E.Size;
            }
            offset += stride;
        }
        StoreLogits4<E>(logits + lane, a0, a1, a2, a3);
        if (Q.Count > 1) StoreLogits4<E>(logits + TileSize + lane, b0, b1, b2, b3);
        if (Q.Count > 2) StoreLogits4<E>(logits + (2 * TileSize) + lane, c0, c1, c2, c3);
        if (Q.Count > 3) StoreLogits4<E>(logits + (3 * TileSize) + lane, d0, d1, d2, d3);
    }

    /// <summary>The same for two vectors.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Scores2<E, Q>(float* queries, int padded, int d, KvTile* tile, int lane, float* logits)
        where E : struct, IKvElement<V>
        where Q : struct, IQueryCount
    {
        nint k0 = Key<E>(tile, lane), k1 = Key<E>(tile, lane + S.Count);
        nint v0 = Ahead(tile->Values, lane), v1 = Ahead(tile->Values, lane + S.Count);
        nint stride = tile->KeyStride, offset = 0, ahead = 0;
        V a0 = S.Create(0), a1 = a0, b0 = a0, b1 = a0, c0 = a0, c1 = a0, d0 = a0, d1 = a0;
        float* qB = queries + padded, qC = qB + padded, qD = qC + padded;
        float* keyScales = tile->KeyScales + lane;
        for (nint j = 0; j < d; j++)
        {
            float* scales = keyScales + (j / CpuKvLayer.ScaleGroup * TileSize);
            V x0 = E.Load(k0 + offset, Scales<E>(scales)), x1 = E.Load(k1 + offset, Scales<E>(scales + S.Count));
            V q = S.Create(queries[j]);
            a0 = S.MultiplyAdd(q, x0, a0);
            a1 = S.MultiplyAdd(q, x1, a1);
            if (Q.Count > 1)
            {
                q = S.Create(qB[j]);
                b0 = S.MultiplyAdd(q, x0, b0);
                b1 = S.MultiplyAdd(q, x1, b1);
            }
            if (Q.Count > 2)
            {
                q = S.Create(qC[j]);
                c0 = S.MultiplyAdd(q, x0, c0);
                c1 = S.MultiplyAdd(q, x1, c1);
            }
            if (Q.Count > 3)
            {
                q = S.Create(qD[j]);
                d0 = S.MultiplyAdd(q, x0, d0);
                d1 = S.MultiplyAdd(q, x1, d1);
            }
            if (E.Cached)
            {
                Prefetch(v0 + ahead);
                Prefetch(v1 + ahead);
                ahead += KvTile.Group * E.Size;
            }
            offset += stride;
        }
        StoreLogits2<E>(logits + lane, a0, a1);
        if (Q.Count > 1) StoreLogits2<E>(logits + TileSize + lane, b0, b1);
        if (Q.Count > 2) StoreLogits2<E>(logits + (2 * TileSize) + lane, c0, c1);
        if (Q.Count > 3) StoreLogits2<E>(logits + (3 * TileSize) + lane, d0, d1);
    }

    /// <summary>Turns each query's logits into weights (times the elements' scale) under its new maximum, adds them to
    /// its sums, and gives the factor for earlier sums.</summary>
    /// <remarks>A row's sums are kept by lane until its segment ends. Vectors of positions that it does not see are
    /// left out: they would add zeros.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Weigh<E>(int count, float* logits, int* from, int* to, float softCap, float* maxima,
        float* sums, float* rescale)
        where E : struct, IKvElement<V>
    {
        for (int i = 0; i < count; i++, logits += TileSize)
        {
            rescale[i] = 0;
            if (from[i] >= to[i]) continue;
            int first = from[i] / S.Count * S.Count, last = to[i];
            for (int j = first; j < from[i]; j++) logits[j] = float.NegativeInfinity;
            for (int j = last; j % S.Count != 0; j++) logits[j] = float.NegativeInfinity;
            if (softCap > 0) Cap(logits, first, last, softCap);

            V largest = S.Load(logits + first);
            for (int j = first + S.Count; j < last; j += S.Count) largest = S.Max(largest, S.Load(logits + j));
            // No branch: in a prompt's first tiles new maxima are unpredictable. A NaN is no maximum.
            float max = float.MaxNative(SimdMath<S, V>.Largest(largest), maxima[i]);
            rescale[i] = maxima[i] - max;
            maxima[i] = max;
        }
        S.Store(SimdMath<S, V>.Exp(S.Load(rescale)), rescale); // 1 where the maximum is the same

        logits -= count * TileSize;
        for (int i = 0; i < count; i++, logits += TileSize)
        {
            if (from[i] >= to[i]) continue;
            int first = from[i] / S.Count * S.Count, last = to[i];
            float* sum = sums + (i * SumLanes);
            V total = S.Multiply(S.Load(sum), S.Create(rescale[i])), shift = S.Create(maxima[i]);
            for (int j = first; j < last; j += S.Count)
            {
                V weight = SimdMath<S, V>.Exp(S.Subtract(S.Load(logits + j), shift));
                S.Store(E.Scale == 1 ? weight : S.Multiply(weight, S.Create(E.Scale)), logits + j);
                total = S.Add(total, weight);
            }
            S.Store(total, sum);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Cap(float* logits, int from, int to, float softCap)
    {
        V cap = S.Create(softCap);
        for (int j = from; j < to; j += S.Count)
        {
            // Positions that the row does not see stay minus infinity. Capped, they would become a number.
            V x = S.Load(logits + j), capped = S.Multiply(cap, SimdMath<S, V>.Tanh(S.Divide(x, cap)));
            S.Store(S.Select(S.LessThan(x, S.Create(float.MinValue)), x, capped), logits + j);
        }
    }

    /// <summary>outputs = outputs * rescale + sum of weights[p] * values[p], in the order of positions. Where values
    /// are in the cache, the next tile's keys are prefetched.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Accumulate<E, Q>(float* weights, KvTile* tile, KvTile* next, int from, int to, float* rescale,
        float* outputs, int padded)
        where E : struct, IKvElement<V>
        where Q : struct, IQueryCount
    {
        int i = 0;
        if (S.Count == 16 || Q.Count <= 2)
        {
            for (; i <= padded - (4 * S.Count); i += 4 * S.Count)
                Accumulate4<E, Q>(weights, tile, next, from, to, rescale, outputs + i, padded, i);
        }
        for (; i < padded; i += 2 * S.Count)
            Accumulate2<E, Q>(weights, tile, next, from, to, rescale, outputs + i, padded, i);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Accumulate4<E, Q>(float* weights, KvTile* tile, KvTile* next, int from, int to, float* rescale,
        float* output, int padded, int dimension)
        where E : struct, IKvElement<V>
        where Q : struct, IQueryCount
    {
        float* outB = output + padded, outC = outB + padded, outD = outC + padded;
        V a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3;
        Load4(output, rescale[0], out a0, out a1, out a2, out a3);
        (b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3) = (a0, a0, a0, a0, a0, a0, a0, a0, a0, a0, a0, a0);
        if (Q.Count > 1) Load4(outB, rescale[1], out b0, out b1, out b2, out b3);
        if (Q.Count > 2) Load4(outC, rescale[2], out c0, out c1, out c2, out c3);
        if (Q.Count > 3) Load4(outD, rescale[3], out d0, out d1, out d2, out d3);

        nint stride = tile->ValueStride, step = S.Count * E.Size, keyStride = next->KeyStride;
        nint rows = padded / KvTile.Group; // of the next tile's keys, prefetched for each position of this one
        float* scales = tile->ValueScales + (dimension / CpuKvLayer.ScaleGroup * TileSize),
            highScales = tile->ValueScales + ((dimension + (2 * S.Count)) / CpuKvLayer.ScaleGroup * TileSize);
        while (from < to)
        {
            int group = from / KvTile.Group, offset = from % KvTile.Group;
            int end = Math.Min(to, (group + 1) * KvTile.Group);
            nint v = (nint)tile->Values[group] + (offset * stride) + (dimension * E.Size);
            nint k = (nint)next->Keys[group] + (((offset * rows) + (dimension / KvTile.Group)) * keyStride);
            for (; from < end; from++, v += stride)
            {
                V low = E.Scaled ? S.Create(scales[from]) : default,
                    high = E.Scaled ? S.Create(highScales[from]) : default;
                V x0 = E.Load(v, low), x1 = E.Load(v + step, low), x2 = E.Load(v + (2 * step), high),
                    x3 = E.Load(v + (3 * step), high);
                V w = S.Create(weights[from]);
                a0 = S.MultiplyAdd(w, x0, a0);
                a1 = S.MultiplyAdd(w, x1, a1);
                a2 = S.MultiplyAdd(w, x2, a2);
                a3 = S.MultiplyAdd(w, x3, a3);
                if (Q.Count > 1)
                {
                    w = S.Create(weights[from + TileSize]);
                    b0 = S.MultiplyAdd(w, x0, b0);
                    b1 = S.MultiplyAdd(w, x1, b1);
                    b2 = S.MultiplyAdd(w, x2, b2);
                    b3 = S.MultiplyAdd(w, x3, b3);
                }
                if (Q.Count > 2)
                {
                    w = S.Create(weights[from + (2 * TileSize)]);
                    c0 = S.MultiplyAdd(w, x0, c0);
                    c1 = S.MultiplyAdd(w, x1, c1);
                    c2 = S.MultiplyAdd(w, x2, c2);
                    c3 = S.MultiplyAdd(w, x3, c3);
                }
                if (Q.Count > 3)
                {
                    w = S.Create(weights[from + (3 * TileSize)]);
                    d0 = S.MultiplyAdd(w, x0, d0);
                    d1 = S.MultiplyAdd(w, x1, d1);
                    d2 = S.MultiplyAdd(w, x2, d2);
                    d3 = S.MultiplyAdd(w, x3, d3);
                }
                if (E.Cached)
                {
                    Prefetch4(k, keyStride);
                    k += rows * keyStride;
                }
            }
        }
        Store4(output, a0, a1, a2, a3);
        if (Q.Count > 1) Store4(outB, b0, b1, b2, b3);
        if (Q.Count > 2) Store4(outC, c0, c1, c2, c3);
        if (Q.Count > 3) Store4(outD, d0, d1, d2, d3);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Accumulate2<E, Q>(float* weights, KvTile* tile, KvTile* next, int from, int to, float* rescale,
        float* output, int padded, int dimension)
        where E : struct, IKvElement<V>
        where Q : struct, IQueryCount
    {
        float* outB = output + padded, outC = outB + padded, outD = outC + padded;
        V a0, a1, b0, b1, c0, c1, d0, d1;
        Load2(output, rescale[0], out a0, out a1);
        (b0, b1, c0, c1, d0, d1) = (a0, a0, a0, a0, a0, a0);
        if (Q.Count > 1) Load2(outB, rescale[1], out b0, out b1);
        if (Q.Count > 2) Load2(outC, rescale[2], out c0, out c1);
        if (Q.Count > 3) Load2(outD, rescale[3], out d0, out d1);

        nint stride = tile->ValueStride, step = S.Count * E.Size, keyStride = next->KeyStride;
        nint rows = padded / KvTile.Group; // of the next tile's keys, prefetched for each position of this one
        float* scales = tile->ValueScales + (dimension / CpuKvLayer.ScaleGroup * TileSize);
        while (from < to)
        {
            int group = from / KvTile.Group, offset = from % KvTile.Group;
            int end = Math.Min(to, (group + 1) * KvTile.Group);
            nint v = (nint)tile->Values[group] + (offset * stride) + (dimension * E.Size);
            nint k = (nint)next->Keys[group] + (((offset * rows) + (dimension / KvTile.Group)) * keyStride);
            for (; from < end; from++, v += stride)
            {
                V scale = E.Scaled ? S.Create(scales[from]) : default;
                V x0 = E.Load(v, scale), x1 = E.Load(v + step, scale);
                V w = S.Create(weights[from]);
                a0 = S.MultiplyAdd(w, x0, a0);
                a1 = S.MultiplyAdd(w, x1, a1);
                if (Q.Count > 1)
                {
                    w = S.Create(weights[from + TileSize]);
                    b0 = S.MultiplyAdd(w, x0, b0);
                    b1 = S.MultiplyAdd(w, x1, b1);
                }
                if (Q.Count > 2)
                {
                    w = S.Create(weights[from + (2 * TileSize)]);
                    c0 = S.MultiplyAdd(w, x0, c0);
                    c1 = S.MultiplyAdd(w, x1, c1);
                }
                if (Q.Count > 3)
                {
                    w = S.Create(weights[from + (3 * TileSize)]);
                    d0 = S.MultiplyAdd(w, x0, d0);
                    d1 = S.MultiplyAdd(w, x1, d1);
                }
                if (E.Cached)
                {
                    Prefetch(k);
                    if (S.Count == 16) Prefetch(k + keyStride);
                    k += rows * keyStride;
                }
            }
        }
        Store2(output, a0, a1);
        if (Q.Count > 1) Store2(outB, b0, b1);
        if (Q.Count > 2) Store2(outC, c0, c1);
        if (Q.Count > 3) Store2(outD, d0, d1);
    }

    /// <summary>Adds a segment's sums to those of the earlier segments, under the larger of both maxima.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Fold(float segmentMaximum, float segmentSum, float* segment, ref float maximum, ref float sum,
        float* output, int padded)
    {
        float max = MathF.Max(maximum, segmentMaximum), before = Exp(maximum - max), now = Exp(segmentMaximum - max);
        V v = S.Create(before), w = S.Create(now);
        for (int j = 0; j < padded; j += S.Count)
            S.Store(S.MultiplyAdd(w, S.Load(segment + j), S.Multiply(v, S.Load(output + j))), output + j);
        sum = (sum * before) + (segmentSum * now);
        maximum = max;
    }

    /// <summary>target[j] = source[j] * factor.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Multiply(float* source, float factor, float* target, int n)
    {
        int j = 0;
        V f = S.Create(factor);
        for (; j <= n - S.Count; j += S.Count) S.Store(S.Multiply(S.Load(source + j), f), target + j);
        for (; j < n; j++) target[j] = source[j] * factor;
    }

    /// <summary>Converts a tile's four groups of sixteen keys and values to floats, [d, TileSize] and [TileSize, d],
    /// and prefetches the next tile's. d is a multiple of 32.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void ConvertTile<E>(KvTile* tile, KvTile* next, int d, float* keys, float* values)
        where E : struct, IKvElement<V>
    {
        V scale = S.Create(E.Scale);
        nint k0 = (nint)tile->Keys[0], k1 = (nint)tile->Keys[1], k2 = (nint)tile->Keys[2], k3 = (nint)tile->Keys[3];
        nint v0 = (nint)tile->Values[0], v1 = (nint)tile->Values[1], v2 = (nint)tile->Values[2],
            v3 = (nint)tile->Values[3];
        nint offset = 0, ahead = 0, step = S.Count * E.Size;
        for (int j = 0; j < d; j++, keys += TileSize, offset += tile->KeyStride, ahead += KvTile.Group * E.Size)
        {
            float* scales = tile->KeyScales + (j / CpuKvLayer.ScaleGroup * TileSize);
            for (int i = 0; i < KvTile.Group / S.Count; i++, scales += S.Count)
            {
                S.Store(S.Multiply(E.Load(k0 + offset + (i * step), Scales<E>(scales)), scale), keys + (i * S.Count));
                S.Store(S.Multiply(E.Load(k1 + offset + (i * step), Scales<E>(scales + KvTile.Group)), scale),
                    keys + (i * S.Count) + KvTile.Group);
                S.Store(S.Multiply(E.Load(k2 + offset + (i * step), Scales<E>(scales + (2 * KvTile.Group))), scale),
                    keys + (i * S.Count) + (2 * KvTile.Group));
                S.Store(S.Multiply(E.Load(k3 + offset + (i * step), Scales<E>(scales + (3 * KvTile.Group))), scale),
                    keys + (i * S.Count) + (3 * KvTile.Group));
            }
            Prefetch(v0 + ahead);
            Prefetch(v1 + ahead);
            Prefetch(v2 + ahead);
            Prefetch(v3 + ahead);
        }
        nint keyStride = next->KeyStride;
        for (int group = 0; group < TileSize / KvTile.Group; group++)
        {
            nint v = (nint)tile->Values[group], k = (nint)next->Keys[group];
            for (int p = 0; p < KvTile.Group; p++, v += tile->ValueStride)
            {
                for (int j = 0; j < d; j += 2 * S.Count, values += 2 * S.Count)
                {
                    nint from = v + (j * E.Size);
                    V own = E.Scaled ? S.Create(
                        tile->ValueScales[(j / CpuKvLayer.ScaleGroup * TileSize) + (group * KvTile.Group) + p]) : scale;
                    S.Store(S.Multiply(E.Load(from, own), scale), values);
                    S.Store(S.Multiply(E.Load(from + step, own), scale), values + S.Count);
                }
                for (int j = 0; j < d; j += KvTile.Group, k += keyStride) Prefetch(k);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static V Scales<E>(float* scales)
        where E : struct, IKvElement<V> => E.Scaled ? S.Load(scales) : default;

    private static float Exp(float x)
    {
        float* lanes = stackalloc float[16];
        S.Store(SimdMath<S, V>.Exp(S.Create(x)), lanes);
        return lanes[0];
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static nint Key<E>(KvTile* tile, int lane)
        where E : struct, IKvElement<V> => (nint)tile->Keys[lane / KvTile.Group] + (lane % KvTile.Group * E.Size);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static nint Ahead(long* groups, int lane) => (nint)groups[lane / KvTile.Group];

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Prefetch(nint address)
    {
        if (Sse.IsSupported) Sse.Prefetch0((void*)address);
    }

    /// <summary>Prefetches the rows of keys that go with four vectors of dimensions: four rows with sixteen lanes, else
    /// one.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Prefetch4(nint address, nint stride)
    {
        Prefetch(address);
        if (S.Count != 16) return;
        Prefetch(address + stride);
        Prefetch(address + (2 * stride));
        Prefetch(address + (3 * stride));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void StoreLogits4<E>(float* logits, V x0, V x1, V x2, V x3)
        where E : struct, IKvElement<V>
    {
        StoreLogits2<E>(logits, x0, x1);
        StoreLogits2<E>(logits + (2 * S.Count), x2, x3);
    }

    /// <summary>Stores logits, times the part of the elements' scale that queries were not multiplied by.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void StoreLogits2<E>(float* logits, V x0, V x1)
        where E : struct, IKvElement<V>
    {
        V scale = S.Create(LogitScale);
        if (E.Scale == 1) Store2(logits, x0, x1);
        else Store2(logits, S.Multiply(x0, scale), S.Multiply(x1, scale));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Load4(float* source, float factor, out V x0, out V x1, out V x2, out V x3)
    {
        Load2(source, factor, out x0, out x1);
        Load2(source + (2 * S.Count), factor, out x2, out x3);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Load2(float* source, float factor, out V x0, out V x1)
    {
        V f = S.Create(factor);
        x0 = S.Multiply(S.Load(source), f);
        x1 = S.Multiply(S.Load(source + S.Count), f);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Store4(float* target, V x0, V x1, V x2, V x3)
    {
        Store2(target, x0, x1);
        Store2(target + (2 * S.Count), x2, x3);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Store2(float* target, V x0, V x1)
    {
        S.Store(x0, target);
        S.Store(x1, target + S.Count);
    }
}
