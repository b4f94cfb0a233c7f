using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;

namespace Native.Kernels.Cpu;

/// <summary>One tile of keys and values of one head, where it lies: groups of sixteen positions, in the cache or converted in scratch.</summary>
internal unsafe struct KvTile
{
    /// <summary>Addresses of each group's first position in row 0 of the keys, which are transposed: [d, positions].</summary>
    public fixed long Keys[PagedAttention.TileSize / Group];

    /// <summary>Addresses of each group's first value; its others follow at <see cref="ValueStride"/>.</summary>
    public fixed long Values[PagedAttention.TileSize / Group];

    /// <summary>Bytes from a row of keys to the next.</summary>
    public nint KeyStride;

    /// <summary>Bytes from a value to the next.</summary>
    public nint ValueStride;

    /// <summary>Positions that lie at one stride wherever a block begins, so block sizes that are multiples of it need no copy.</summary>
    public const int Group = 16;
}

/// <summary>How an element of a tile becomes a float. A type parameter, so that the JIT makes an inner loop for each.</summary>
internal interface IKvElement<V>
    where V : struct
{
    /// <summary>Bytes an element.</summary>
    static abstract int Size { get; }

    /// <summary>Whether it comes from the cache itself, from which the next loop's lines are worth fetching ahead.</summary>
    static abstract bool Cached { get; }

    static abstract V Load(nint address);
}

/// <summary>A tile's floats in scratch.</summary>
internal readonly unsafe struct ScratchElement<S, V> : IKvElement<V>
    where S : struct, ISimd<V>
    where V : struct
{
    public static int Size { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => sizeof(float); }

    public static bool Cached { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => false; }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Load(nint address) => S.Load((float*)address);
}

/// <summary>A cache of <see cref="DType.F32"/>.</summary>
internal readonly unsafe struct F32Element<S, V> : IKvElement<V>
    where S : struct, ISimd<V>
    where V : struct
{
    public static int Size { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => sizeof(float); }

    public static bool Cached { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => true; }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Load(nint address) => S.Load((float*)address);
}

/// <summary>A cache of <see cref="DType.F16"/>.</summary>
internal readonly unsafe struct F16Element<S, V> : IKvElement<V>
    where S : struct, ISimd<V>
    where V : struct
{
    public static int Size { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => sizeof(ushort); }

    public static bool Cached { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => true; }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Load(nint address) => S.LoadFiniteF16((ushort*)address);
}

/// <summary>A cache of <see cref="DType.BF16"/>.</summary>
internal readonly unsafe struct BF16Element<S, V> : IKvElement<V>
    where S : struct, ISimd<V>
    where V : struct
{
    public static int Size { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => sizeof(ushort); }

    public static bool Cached { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => true; }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Load(nint address) => S.LoadBF16((ushort*)address);
}

/// <summary>Queries that meet a vector of keys or values while it is in a register: a number as a type parameter.</summary>
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

/// <summary>4: with four vectors each, sixteen sums, which hide the latency of two multiply-adds a cycle and leave registers to convert in.</summary>
internal readonly struct FourQueries : IQueryCount
{
    public static int Count { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => 4; }
}

/// <summary>The inner loops of <see cref="PagedAttention"/>: one to four queries against one tile.</summary>
/// <remarks>
/// A lane is a position in q k^T and a dimension in weights V, so nothing is summed across lanes, and every sum is one chain in the order of
/// dimensions or positions, whatever the vectors' width and whoever shares the registers.
/// </remarks>
internal static unsafe class AttentionKernels<S, V>
    where S : struct, ISimd<V>
    where V : struct
{
    private const int TileSize = PagedAttention.TileSize;

    /// <summary>Lets one to four queries meet positions of a tile: scores, weights under each one's new maximum, weighted values.</summary>
    /// <param name="queries">Scaled queries, shape [d, count].</param>
    /// <param name="count">Queries, 1 to 4.</param>
    /// <param name="d">Elements of a head.</param>
    /// <param name="tile">Keys and values.</param>
    /// <param name="next">The tile after it; its keys are fetched ahead.</param>
    /// <param name="from">First position in the tile that each query sees.</param>
    /// <param name="to">Position after the last that each query sees; no more than <paramref name="from"/> where it sees none.</param>
    /// <param name="softCap">The logits' cap, 0 for none.</param>
    /// <param name="logits">Scratch, shape [count, TileSize].</param>
    /// <param name="maxima">Each query's largest logit so far.</param>
    /// <param name="sums">Each query's sum of weights so far.</param>
    /// <param name="outputs">Each query's sum of weighted values so far, shape [count, padded].</param>
    /// <param name="padded">A multiple of 32, at least d.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Attend<E>(float* queries, int count, int d, KvTile* tile, KvTile* next, int* from, int* to, float softCap, float* logits, float* maxima, float* sums, float* outputs, int padded)
        where E : struct, IKvElement<V>
    {
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

        int narrow = 2 * S.Count, wide = 4 * S.Count;
        for (int lane = lowest / narrow * narrow; lane < highest;)
        {
            // With sixteen registers, sixteen sums would not stay in them.
            bool four = (S.Count == 16 || count <= 2) && highest - lane > narrow && lane % wide == 0;
            switch (count)
            {
                case 1 when four: Scores4<E, OneQuery>(queries, d, tile, lane, logits); break;
                case 2 when four: Scores4<E, TwoQueries>(queries, d, tile, lane, logits); break;
                case 3 when four: Scores4<E, ThreeQueries>(queries, d, tile, lane, logits); break;
                case 4 when four: Scores4<E, FourQueries>(queries, d, tile, lane, logits); break;
                case 1: Scores2<E, OneQuery>(queries, d, tile, lane, logits); break;
                case 2: Scores2<E, TwoQueries>(queries, d, tile, lane, logits); break;
                case 3: Scores2<E, ThreeQueries>(queries, d, tile, lane, logits); break;
                default: Scores2<E, FourQueries>(queries, d, tile, lane, logits); break;
            }
            lane += four ? wide : narrow;
        }

        float* rescale = stackalloc float[4];
        for (int i = 0; i < count; i++)
            rescale[i] = from[i] < to[i] ? Weigh(logits + (i * TileSize), from[i], to[i], softCap, ref maxima[i], ref sums[i]) : 1;

        // Positions that only some of the queries see come alone, before and after those that all see: in each query's own order nothing changes.
        for (int i = 0; i < count; i++)
        {
            int end = commonFrom < commonTo ? commonFrom : to[i];
            if (from[i] >= end) continue;
            Accumulate<E, OneQuery>(logits + (i * TileSize), tile, next, from[i], end, rescale + i, outputs + ((long)i * padded), padded);
            rescale[i] = 1;
        }
        if (commonFrom >= commonTo) return;
        switch (count)
        {
            case 1: Accumulate<E, OneQuery>(logits, tile, next, commonFrom, commonTo, rescale, outputs, padded); break;
            case 2: Accumulate<E, TwoQueries>(logits, tile, next, commonFrom, commonTo, rescale, outputs, padded); break;
            case 3: Accumulate<E, ThreeQueries>(logits, tile, next, commonFrom, commonTo, rescale, outputs, padded); break;
            default: Accumulate<E, FourQueries>(logits, tile, next, commonFrom, commonTo, rescale, outputs, padded); break;
        }
        for (int i = 0; i < count; i++)
        {
            if (commonTo >= to[i]) continue;
            rescale[i] = 1;
            Accumulate<E, OneQuery>(logits + (i * TileSize), tile, next, commonTo, to[i], rescale + i, outputs + ((long)i * padded), padded);
        }
    }

    /// <summary>Logits of positions <paramref name="lane"/> and on, four vectors of them. From the cache, the tile's values are fetched ahead.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Scores4<E, Q>(float* queries, int d, KvTile* tile, int lane, float* logits)
        where E : struct, IKvElement<V>
        where Q : struct, IQueryCount
    {
        nint k0 = Key<E>(tile, lane), k1 = Key<E>(tile, lane + S.Count), k2 = Key<E>(tile, lane + (2 * S.Count)), k3 = Key<E>(tile, lane + (3 * S.Count));
        nint v0 = Ahead(tile->Values, lane), v1 = Ahead(tile->Values, lane + S.Count), v2 = Ahead(tile->Values, lane + (2 * S.Count)), v3 = Ahead(tile->Values, lane + (3 * S.Count));
        nint stride = tile->KeyStride, offset = 0, ahead = 0;
        V a0 = S.Create(0), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0, c0 = a0, c1 = a0, c2 = a0, c3 = a0, d0 = a0, d1 = a0, d2 = a0, d3 = a0;
        for (int j = d; j > 0; j--)
        {
            V x0 = E.Load(k0 + offset), x1 = E.Load(k1 + offset), x2 = E.Load(k2 + offset), x3 = E.Load(k3 + offset);
            V q = S.Create(queries[0]);
            a0 = S.MultiplyAdd(q, x0, a0);
            a1 = S.MultiplyAdd(q, x1, a1);
            a2 = S.MultiplyAdd(q, x2, a2);
            a3 = S.MultiplyAdd(q, x3, a3);
            if (Q.Count > 1)
            {
                q = S.Create(queries[1]);
                b0 = S.MultiplyAdd(q, x0, b0);
                b1 = S.MultiplyAdd(q, x1, b1);
                b2 = S.MultiplyAdd(q, x2, b2);
                b3 = S.MultiplyAdd(q, x3, b3);
            }
            if (Q.Count > 2)
            {
                q = S.Create(queries[2]);
                c0 = S.MultiplyAdd(q, x0, c0);
                c1 = S.MultiplyAdd(q, x1, c1);
                c2 = S.MultiplyAdd(q, x2, c2);
                c3 = S.MultiplyAdd(q, x3, c3);
            }
            if (Q.Count > 3)
            {
                q = S.Create(queries[3]);
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
            queries += Q.Count;
            offset += stride;
        }
        Store4(logits + lane, a0, a1, a2, a3);
        if (Q.Count > 1) Store4(logits + TileSize + lane, b0, b1, b2, b3);
        if (Q.Count > 2) Store4(logits + (2 * TileSize) + lane, c0, c1, c2, c3);
        if (Q.Count > 3) Store4(logits + (3 * TileSize) + lane, d0, d1, d2, d3);
    }

    /// <summary>The same for two vectors.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Scores2<E, Q>(float* queries, int d, KvTile* tile, int lane, float* logits)
        where E : struct, IKvElement<V>
        where Q : struct, IQueryCount
    {
        nint k0 = Key<E>(tile, lane), k1 = Key<E>(tile, lane + S.Count);
        nint v0 = Ahead(tile->Values, lane), v1 = Ahead(tile->Values, lane + S.Count);
        nint stride = tile->KeyStride, offset = 0, ahead = 0;
        V a0 = S.Create(0), a1 = a0, b0 = a0, b1 = a0, c0 = a0, c1 = a0, d0 = a0, d1 = a0;
        for (int j = d; j > 0; j--)
        {
            V x0 = E.Load(k0 + offset), x1 = E.Load(k1 + offset);
            V q = S.Create(queries[0]);
            a0 = S.MultiplyAdd(q, x0, a0);
            a1 = S.MultiplyAdd(q, x1, a1);
            if (Q.Count > 1)
            {
                q = S.Create(queries[1]);
                b0 = S.MultiplyAdd(q, x0, b0);
                b1 = S.MultiplyAdd(q, x1, b1);
            }
            if (Q.Count > 2)
            {
                q = S.Create(queries[2]);
                c0 = S.MultiplyAdd(q, x0, c0);
                c1 = S.MultiplyAdd(q, x1, c1);
            }
            if (Q.Count > 3)
            {
                q = S.Create(queries[3]);
                d0 = S.MultiplyAdd(q, x0, d0);
                d1 = S.MultiplyAdd(q, x1, d1);
            }
            if (E.Cached)
            {
                Prefetch(v0 + ahead);
                Prefetch(v1 + ahead);
                ahead += KvTile.Group * E.Size;
            }
            queries += Q.Count;
            offset += stride;
        }
        Store2(logits + lane, a0, a1);
        if (Q.Count > 1) Store2(logits + TileSize + lane, b0, b1);
        if (Q.Count > 2) Store2(logits + (2 * TileSize) + lane, c0, c1);
        if (Q.Count > 3) Store2(logits + (3 * TileSize) + lane, d0, d1);
    }

    /// <summary>Turns a tile's logits into weights under the new maximum, adds them to the running sum and returns what earlier sums are to be multiplied by.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static float Weigh(float* logits, int from, int to, float softCap, ref float maximum, ref float sum)
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
        float max = MathF.Max(maximum, SimdMath<S, V>.Largest(largest));

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
        float rescale = Exp(maximum - max);
        sum = (sum * rescale) + tileSum;
        maximum = max;
        return rescale;
    }

    /// <summary>outputs = outputs * rescale + sum of weights[p] * values[p], in the order of positions. From the cache, the next tile's keys are fetched ahead.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Accumulate<E, Q>(float* weights, KvTile* tile, KvTile* next, int from, int to, float* rescale, float* outputs, int padded)
        where E : struct, IKvElement<V>
        where Q : struct, IQueryCount
    {
        int i = 0;
        if (S.Count == 16 || Q.Count <= 2)
        {
            for (; i <= padded - (4 * S.Count); i += 4 * S.Count) Accumulate4<E, Q>(weights, tile, next, from, to, rescale, outputs + i, padded, i);
        }
        for (; i < padded; i += 2 * S.Count) Accumulate2<E, Q>(weights, tile, from, to, rescale, outputs + i, padded, i);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Accumulate4<E, Q>(float* weights, KvTile* tile, KvTile* next, int from, int to, float* rescale, float* output, int padded, int dimension)
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
        nint rows = padded / KvTile.Group; // of the next tile's keys, fetched ahead for each position of this one
        while (from < to)
        {
            int group = from / KvTile.Group, offset = from % KvTile.Group;
            int end = Math.Min(to, (group + 1) * KvTile.Group);
            nint v = (nint)tile->Values[group] + (offset * stride) + (dimension * E.Size);
            nint k = (nint)next->Keys[group] + (((offset * rows) + (dimension / KvTile.Group)) * keyStride);
            for (; from < end; from++, v += stride)
            {
                V x0 = E.Load(v), x1 = E.Load(v + step), x2 = E.Load(v + (2 * step)), x3 = E.Load(v + (3 * step));
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
                    Prefetch(k);
                    if (S.Count == 16)
                    {
                        Prefetch(k + keyStride);
                        Prefetch(k + (2 * keyStride));
                        Prefetch(k + (3 * keyStride));
                    }
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
    private static void Accumulate2<E, Q>(float* weights, KvTile* tile, int from, int to, float* rescale, float* output, int padded, int dimension)
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

        nint stride = tile->ValueStride, step = S.Count * E.Size;
        while (from < to)
        {
            int group = from / KvTile.Group;
            int end = Math.Min(to, (group + 1) * KvTile.Group);
            nint v = (nint)tile->Values[group] + (from % KvTile.Group * stride) + (dimension * E.Size);
            for (; from < end; from++, v += stride)
            {
                V x0 = E.Load(v), x1 = E.Load(v + step);
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
            }
        }
        Store2(output, a0, a1);
        if (Q.Count > 1) Store2(outB, b0, b1);
        if (Q.Count > 2) Store2(outC, c0, c1);
        if (Q.Count > 3) Store2(outD, d0, d1);
    }

    /// <summary>Adds a segment's sums to those of the segments before it, under the larger maximum of the two.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Fold(float segmentMaximum, float segmentSum, float* segment, ref float maximum, ref float sum, float* output, int padded)
    {
        float max = MathF.Max(maximum, segmentMaximum), before = Exp(maximum - max), now = Exp(segmentMaximum - max);
        V v = S.Create(before), w = S.Create(now);
        for (int j = 0; j < padded; j += S.Count) S.Store(S.MultiplyAdd(w, S.Load(segment + j), S.Multiply(v, S.Load(output + j))), output + j);
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

    /// <summary>Converts rows of n elements; n is a multiple of the vectors' length.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Convert<E>(nint source, nint sourceStride, int rows, int n, float* target, int targetStride)
        where E : struct, IKvElement<V>
    {
        for (int r = 0; r < rows; r++, source += sourceStride, target += targetStride)
        {
            for (int j = 0; j < n; j += S.Count) S.Store(E.Load(source + (j * E.Size)), target + j);
        }
    }

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
