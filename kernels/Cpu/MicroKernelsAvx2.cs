using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Native.Kernels.Cpu.Panels;
using Native.Kernels.Formats;

namespace Native.Kernels.Cpu;

/// <summary>The micro-kernels with AVX2 and FMA. Each of eight outputs has a lane, so nothing is summed across
/// lanes.</summary>
/// <remarks>
/// VPMADDUBSW multiplies unsigned weights with signed activations and adds pairs into 16 bits. As many pairs are added
/// as can't overflow (<see cref="Panel{T}.Depth"/>) before VPMADDWD widens them. A weight's offset is subtracted from
/// the integer sum, as the offset times the sum of the activations. Signed weights first give their sign to the
/// activations (VPSIGNB), which are never -128: 2 * 128 * 127 fits. VPDPBUSD adds four products into 32 bits at once.
/// It takes signed weights as weight + 128, and 128 times the sum is subtracted. Integer sums are exact, so both ways
/// give the same bits.
/// </remarks>
internal static unsafe class MicroKernelsAvx2
{
    /// <summary>Which multiplication a kernel uses.</summary>
    public interface IMultiplication
    {
        /// <summary>VPDPBUSD; otherwise VPMADDUBSW and VPMADDWD.</summary>
        static abstract bool Vnni { get; }
    }

    /// <summary>AVX2 alone.</summary>
    public struct Pairs : IMultiplication
    {
        public static bool Vnni => false;
    }

    /// <summary>AVX-VNNI.</summary>
    public struct Quadruples : IMultiplication
    {
        public static bool Vnni => true;
    }

    /// <summary>One row of activations, all sixteen outputs.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void One<T, M>(byte* integers, byte* scales, byte** rows, int blocks, float* sums)
        where T : IIntegerFormat
        where M : IMultiplication
    {
        byte* x = rows[0];
        Vector256<short> ones = Vector256<short>.One;
        Vector256<float> ya = default, yb = default;
        for (int unit = 0; unit < blocks; unit += Panel<T>.UnitBlocks, scales += Panel<T>.UnitStride,
            integers += Panel<T>.HeaderBytes)
        {
            Vector256<float> scaleA = Halves.ToSingle(Vector128.Load((short*)scales)),
                scaleB = Halves.ToSingle(Vector128.Load((short*)scales + 8));
            Vector256<float> minA = default, minB = default;
            if (T.HasMin)
                (minA, minB) = (Halves.ToSingle(Vector128.Load((short*)scales + 16)),
                    Halves.ToSingle(Vector128.Load((short*)scales + 24)));
            sbyte* factors = (sbyte*)scales + Panel<T>.HalvesBytes;
            for (int b = 0; b < Panel<T>.UnitBlocks;
                b++, integers += Panel<T>.BlockStride, x += sizeof(ActivationBlock))
            {
                for (int group = 0; group < 32 / T.GroupSize; group++)
                {
                    Sums<T, M>(integers, x, group, ones, out Vector256<int> ia, out Vector256<int> ib);
                    if (T.Offset != 0 || M.Vnni && T.Signed)
                    {
                        Vector256<int> offset = Offset<T, M>(x, group);
                        (ia, ib) = (ia + offset, ib + offset);
                    }
                    Vector256<float> da = scaleA, db = scaleB;
                    if (T.SuperScales) (da, db) = (da * Factors(factors), db * Factors(factors + 8));
                    Vector256<float> dx = Vector256.Create(((ActivationBlock*)x)->Scale);
                    ya = Fma.MultiplyAdd(Avx.ConvertToVector256Single(ia), da * dx, ya);
                    yb = Fma.MultiplyAdd(Avx.ConvertToVector256Single(ib), db * dx, yb);
                    if (T.HasMin)
                    {
                        Vector256<float> sum = ScaledSum<T>(x, group);
                        Vector256<float> ma = minA, mb = minB;
                        if (T.SuperScales) (ma, mb) = (ma * Factors(factors + 16), mb * Factors(factors + 24));
                        ya = Fma.MultiplyAdd(ma, sum, ya);
                        yb = Fma.MultiplyAdd(mb, sum, yb);
                    }
                    if (T.SuperScales) factors += Panel<T>.GroupBytes;
                }
            }
        }
        ya.Store(sums);
        yb.Store(sums + 8);
    }

    /// <summary>A group's products with one row, summed for each of sixteen outputs.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Sums<T, M>(byte* integers, byte* x, int group, Vector256<short> ones,
        out Vector256<int> sumA, out Vector256<int> sumB)
        where T : IIntegerFormat
        where M : IMultiplication
    {
        Vector256<int> ia = default, ib = default;
        if (M.Vnni)
        {
            for (int i = group * T.GroupSize / 4; i < (group + 1) * T.GroupSize / 4; i++)
            {
                Vector256<sbyte> activations = Broadcast(x + 4 * i);
                ia = AvxVnni.MultiplyWideningAndAdd(ia, Unsigned<T>(Load<T>(integers, i)), activations);
                ib = AvxVnni.MultiplyWideningAndAdd(ib, Unsigned<T>(Load<T>(integers + 32, i)),
                    activations);
            }
        }
        else if (T.Nibbles && T.GroupSize == 32)
        {
            Vector256<byte> low = Vector256.Create((byte)15);
            Vector256<short> a = default, c = default;
            for (int j = 0; j < 4; j++)
            {
                Vector256<byte> wa = Vector256.Load(integers + PanelLayout.VectorStride * j),
                    wb = Vector256.Load(integers + PanelLayout.VectorStride * j + 32);
                Vector256<sbyte> first = Broadcast(x + 4 * j), last = Broadcast(x + 16 + 4 * j);
                a += Avx2.MultiplyAddAdjacent(wa & low, first) + Avx2.MultiplyAddAdjacent(High(wa), last);
                c += Avx2.MultiplyAddAdjacent(wb & low, first) + Avx2.MultiplyAddAdjacent(High(wb), last);
            }
            (ia, ib) = (Avx2.MultiplyAddAdjacent(a, ones), Avx2.MultiplyAddAdjacent(c, ones));
        }
        else
        {
            for (int j = group * T.GroupSize / 4; j < (group + 1) * T.GroupSize / 4; j += Panel<T>.Depth)
            {
                Vector256<short> a = default, c = default;
                for (int i = j; i < j + Math.Min(Panel<T>.Depth, T.GroupSize / 4); i++)
                {
                    Vector256<sbyte> activations = Broadcast(x + 4 * i);
                    Vector256<byte> wa = Load<T>(integers, i), wb = Load<T>(integers + 32, i);
                    a += Products<T>(wa, activations);
                    c += Products<T>(wb, activations);
                }
                ia += Avx2.MultiplyAddAdjacent(a, ones);
                ib += Avx2.MultiplyAddAdjacent(c, ones);
            }
        }
        (sumA, sumB) = (ia, ib);
    }

    /// <summary>Four rows of activations, all sixteen outputs, eight outputs at a time: sixteen registers hold no
    /// more.</summary>
    public static void Four<T, M>(byte* integers, byte* scales, byte** rows, int blocks, float* sums)
        where T : IIntegerFormat
        where M : IMultiplication
    {
        FourByEight<T, M>(integers, scales, 0, rows, blocks, sums);
        FourByEight<T, M>(integers, scales, 8, rows, blocks, sums);
    }

    // Not inlined into Four: the compiler would then leave calls in the inner loops.
    [MethodImpl(MethodImplOptions.AggressiveOptimization | MethodImplOptions.NoInlining)]
    private static void FourByEight<T, M>(byte* integers, byte* scales, int output, byte** rows, int blocks,
        float* sums)
        where T : IIntegerFormat
        where M : IMultiplication
    {
        byte* x0 = rows[0], x1 = rows[1], x2 = rows[2], x3 = rows[3];
        integers += 4 * output;
        Vector256<short> ones = Vector256<short>.One;
        Vector256<float> y0 = default, y1 = default, y2 = default, y3 = default;
        for (int unit = 0; unit < blocks; unit += Panel<T>.UnitBlocks, scales += Panel<T>.UnitStride,
            integers += Panel<T>.HeaderBytes)
        {
            Vector256<float> unitScale = Halves.ToSingle(Vector128.Load((short*)scales + output)), unitMin = default;
            if (T.HasMin) unitMin = Halves.ToSingle(Vector128.Load((short*)scales + 16 + output));
            sbyte* factors = (sbyte*)scales + Panel<T>.HalvesBytes + output;
            for (int b = 0; b < Panel<T>.UnitBlocks; b++, integers += Panel<T>.BlockStride)
            {
                for (int group = 0; group < 32 / T.GroupSize; group++)
                {
                    Vector256<int> i0 = default, i1 = default, i2 = default, i3 = default;
                    if (M.Vnni)
                        FourQuadruples<T>(integers, x0, x1, x2, x3, group, ref i0, ref i1, ref i2, ref i3);
                    else if (T.Nibbles && T.GroupSize == 32)
                        FourNibbles(integers, x0, x1, x2, x3, ones, ref i0, ref i1, ref i2, ref i3);
                    else
                        FourPairs<T>(integers, x0, x1, x2, x3, group, ones, ref i0, ref i1, ref i2, ref i3);
                    if (T.Offset != 0 || M.Vnni && T.Signed)
                    {
                        i0 += Offset<T, M>(x0, group);
                        i1 += Offset<T, M>(x1, group);
                        i2 += Offset<T, M>(x2, group);
                        i3 += Offset<T, M>(x3, group);
                    }
                    Vector256<float> d = unitScale;
                    if (T.SuperScales) d *= Factors(factors);
                    y0 = Fma.MultiplyAdd(Avx.ConvertToVector256Single(i0),
                        d * Vector256.Create(((ActivationBlock*)x0)->Scale), y0);
                    y1 = Fma.MultiplyAdd(Avx.ConvertToVector256Single(i1),
                        d * Vector256.Create(((ActivationBlock*)x1)->Scale), y1);
                    y2 = Fma.MultiplyAdd(Avx.ConvertToVector256Single(i2),
                        d * Vector256.Create(((ActivationBlock*)x2)->Scale), y2);
                    y3 = Fma.MultiplyAdd(Avx.ConvertToVector256Single(i3),
                        d * Vector256.Create(((ActivationBlock*)x3)->Scale), y3);
                    if (T.HasMin)
                    {
                        Vector256<float> m = unitMin;
                        if (T.SuperScales) m *= Factors(factors + 16);
                        y0 = Fma.MultiplyAdd(m, ScaledSum<T>(x0, group), y0);
                        y1 = Fma.MultiplyAdd(m, ScaledSum<T>(x1, group), y1);
                        y2 = Fma.MultiplyAdd(m, ScaledSum<T>(x2, group), y2);
                        y3 = Fma.MultiplyAdd(m, ScaledSum<T>(x3, group), y3);
                    }
                    if (T.SuperScales) factors += Panel<T>.GroupBytes;
                }
                x0 += sizeof(ActivationBlock);
                x1 += sizeof(ActivationBlock);
                x2 += sizeof(ActivationBlock);
                x3 += sizeof(ActivationBlock);
            }
        }
        y0.Store(sums + output);
        y1.Store(sums + 16 + output);
        y2.Store(sums + 32 + output);
        y3.Store(sums + 48 + output);
    }

    /// <summary>A group's products with four rows, summed for each output. With AVX-VNNI: four products at a time into
    /// 32 bits.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void FourQuadruples<T>(byte* integers, byte* x0, byte* x1, byte* x2, byte* x3, int group,
        ref Vector256<int> i0, ref Vector256<int> i1, ref Vector256<int> i2, ref Vector256<int> i3)
        where T : IIntegerFormat
    {
        for (int i = group * T.GroupSize / 4; i < (group + 1) * T.GroupSize / 4; i++)
        {
            Vector256<byte> w = Unsigned<T>(Load<T>(integers, i));
            i0 = AvxVnni.MultiplyWideningAndAdd(i0, w, Broadcast(x0 + 4 * i));
            i1 = AvxVnni.MultiplyWideningAndAdd(i1, w, Broadcast(x1 + 4 * i));
            i2 = AvxVnni.MultiplyWideningAndAdd(i2, w, Broadcast(x2 + 4 * i));
            i3 = AvxVnni.MultiplyWideningAndAdd(i3, w, Broadcast(x3 + 4 * i));
        }
    }

    /// <summary>The same for nibbles without it: eight products fit 16 bits.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void FourNibbles(byte* integers, byte* x0, byte* x1, byte* x2, byte* x3, Vector256<short> ones,
        ref Vector256<int> i0, ref Vector256<int> i1, ref Vector256<int> i2, ref Vector256<int> i3)
    {
        Vector256<byte> low = Vector256.Create((byte)15);
        Vector256<short> a0 = default, a1 = default, a2 = default, a3 = default;
        for (int j = 0; j < 4; j++)
        {
            Vector256<byte> w = Vector256.Load(integers + PanelLayout.VectorStride * j), high = High(w);
            w &= low;
            a0 += Avx2.MultiplyAddAdjacent(w, Broadcast(x0 + 4 * j));
            a1 += Avx2.MultiplyAddAdjacent(w, Broadcast(x1 + 4 * j));
            a2 += Avx2.MultiplyAddAdjacent(w, Broadcast(x2 + 4 * j));
            a3 += Avx2.MultiplyAddAdjacent(w, Broadcast(x3 + 4 * j));
            a0 += Avx2.MultiplyAddAdjacent(high, Broadcast(x0 + 16 + 4 * j));
            a1 += Avx2.MultiplyAddAdjacent(high, Broadcast(x1 + 16 + 4 * j));
            a2 += Avx2.MultiplyAddAdjacent(high, Broadcast(x2 + 16 + 4 * j));
            a3 += Avx2.MultiplyAddAdjacent(high, Broadcast(x3 + 16 + 4 * j));
        }
        i0 = Avx2.MultiplyAddAdjacent(a0, ones);
        i1 = Avx2.MultiplyAddAdjacent(a1, ones);
        i2 = Avx2.MultiplyAddAdjacent(a2, ones);
        i3 = Avx2.MultiplyAddAdjacent(a3, ones);
    }

    /// <summary>The same for other integers: pairs are added up as long as they fit 16 bits, then widened.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void FourPairs<T>(byte* integers, byte* x0, byte* x1, byte* x2, byte* x3, int group,
        Vector256<short> ones,
        ref Vector256<int> i0, ref Vector256<int> i1, ref Vector256<int> i2, ref Vector256<int> i3)
        where T : IIntegerFormat
    {
        for (int j = group * T.GroupSize / 4; j < (group + 1) * T.GroupSize / 4; j += Panel<T>.Depth)
        {
            Vector256<short> a0 = default, a1 = default, a2 = default, a3 = default;
            for (int i = j; i < j + Math.Min(Panel<T>.Depth, T.GroupSize / 4); i++)
            {
                Vector256<byte> w = Load<T>(integers, i);
                a0 += Products<T>(w, Broadcast(x0 + 4 * i));
                a1 += Products<T>(w, Broadcast(x1 + 4 * i));
                a2 += Products<T>(w, Broadcast(x2 + 4 * i));
                a3 += Products<T>(w, Broadcast(x3 + 4 * i));
            }
            i0 += Avx2.MultiplyAddAdjacent(a0, ones);
            i1 += Avx2.MultiplyAddAdjacent(a1, ones);
            i2 += Avx2.MultiplyAddAdjacent(a2, ones);
            i3 += Avx2.MultiplyAddAdjacent(a3, ones);
        }
    }

    /// <summary>Float activations, one row. Two chains run at once, for each of two vectors of outputs.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void FloatOne<T>(byte* panel, byte* scales, byte** rows, int columns, float* sums)
        where T : IFloatPanel
    {
        const int Chain = MicroKernelsScalar.FloatChain;
        float* x = (float*)rows[0];
        Vector256<float> ya = default, yb = default;
        int k = 0;
        for (; k + 2 * Chain <= columns; k += 2 * Chain)
        {
            Vector256<float> a0 = default, b0 = default, a1 = default, b1 = default;
            byte* second = panel + Chain * 32 * T.Size;
            for (int i = 0; i < Chain; i++)
            {
                Vector256<float> x0 = Vector256.Create(x[k + i]), x1 = Vector256.Create(x[k + Chain + i]);
                a0 = Fma.MultiplyAdd(T.Load8(panel), x0, a0);
                b0 = Fma.MultiplyAdd(T.Load8(panel + 8 * T.Size), x0, b0);
                a1 = Fma.MultiplyAdd(T.Load8(second), x1, a1);
                b1 = Fma.MultiplyAdd(T.Load8(second + 8 * T.Size), x1, b1);
                panel += 32 * T.Size;
                second += 32 * T.Size;
            }
            panel = second;
            (ya, yb) = (ya + a0 + a1, yb + b0 + b1);
        }
        while (k < columns)
        {
            Vector256<float> a = default, b = default;
            for (int end = Math.Min(columns, k + Chain); k < end; k++, panel += 32 * T.Size)
            {
                Vector256<float> x0 = Vector256.Create(x[k]);
                a = Fma.MultiplyAdd(T.Load8(panel), x0, a);
                b = Fma.MultiplyAdd(T.Load8(panel + 8 * T.Size), x0, b);
            }
            (ya, yb) = (ya + a, yb + b);
        }
        ya.Store(sums);
        yb.Store(sums + 8);
    }

    /// <summary>Float activations, four rows.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void FloatFour<T>(byte* panel, byte* scales, byte** rows, int columns, float* sums)
        where T : IFloatPanel
    {
        float* x0 = (float*)rows[0], x1 = (float*)rows[1], x2 = (float*)rows[2], x3 = (float*)rows[3];
        for (int i = 0; i < 64; i += 8) Vector256<float>.Zero.Store(sums + i);
        for (int k = 0; k < columns;)
        {
            Vector256<float> a0 = default, a1 = default, a2 = default, a3 = default, b0 = default, b1 = default,
                b2 = default, b3 = default;
            for (int end = Math.Min(columns, k + MicroKernelsScalar.FloatChain); k < end; k++, panel += 32 * T.Size)
            {
                Vector256<float> a = T.Load8(panel), b = T.Load8(panel + 8 * T.Size);
                Vector256<float> x = Vector256.Create(x0[k]);
                a0 = Fma.MultiplyAdd(a, x, a0);
                b0 = Fma.MultiplyAdd(b, x, b0);
                x = Vector256.Create(x1[k]);
                a1 = Fma.MultiplyAdd(a, x, a1);
                b1 = Fma.MultiplyAdd(b, x, b1);
                x = Vector256.Create(x2[k]);
                a2 = Fma.MultiplyAdd(a, x, a2);
                b2 = Fma.MultiplyAdd(b, x, b2);
                x = Vector256.Create(x3[k]);
                a3 = Fma.MultiplyAdd(a, x, a3);
                b3 = Fma.MultiplyAdd(b, x, b3);
            }
            Accumulate(sums, a0, b0);
            Accumulate(sums + 16, a1, b1);
            Accumulate(sums + 32, a2, b2);
            Accumulate(sums + 48, a3, b3);
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        static void Accumulate(float* sums, Vector256<float> a, Vector256<float> b)
        {
            (Vector256.Load(sums) + a).Store(sums);
            (Vector256.Load(sums + 8) + b).Store(sums + 8);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<sbyte> Broadcast(byte* four) => Vector256.Create(*(int*)four).AsSByte();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<byte> High(Vector256<byte> nibbles) =>
        Vector256.ShiftRightLogical(nibbles.AsUInt16(), 4).AsByte() & Vector256.Create((byte)15);

    /// <summary>The integers of columns 4 <paramref name="i"/> to 4 <paramref name="i"/> + 3 of a block, eight
    /// rows.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<byte> Load<T>(byte* integers, int i)
        where T : IIntegerFormat
    {
        if (!T.Nibbles) return Vector256.Load(integers + PanelLayout.VectorStride * i);
        Vector256<byte> pairs = Vector256.Load(integers + PanelLayout.VectorStride * (i & 3));
        return i < 4 ? pairs & Vector256.Create((byte)15) : High(pairs);
    }

    /// <summary>Signed bytes plus 128.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<byte> Unsigned<T>(Vector256<byte> weights)
        where T : IIntegerFormat => T.Signed ? weights ^ Vector256.Create((byte)128) : weights;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<short> Products<T>(Vector256<byte> weights, Vector256<sbyte> activations)
        where T : IIntegerFormat => T.Signed
            ? Avx2.MultiplyAddAdjacent(Avx2.Abs(weights.AsSByte()), Avx2.Sign(activations, weights.AsSByte()))
            : Avx2.MultiplyAddAdjacent(weights, activations);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<int> Offset<T, M>(byte* x, int group)
        where T : IIntegerFormat
        where M : IMultiplication
    {
        ActivationBlock* block = (ActivationBlock*)x;
        int negativeSum4 = T.GroupSize == 32 ? block->NegativeSum4 : group == 0
            ? block->FirstNegativeSum4 : block->LastNegativeSum4;
        return Vector256.Create(negativeSum4 << (M.Vnni && T.Signed ? Panel<T>.SignedShift : Panel<T>.OffsetShift));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> ScaledSum<T>(byte* x, int group)
        where T : IIntegerFormat
    {
        ActivationBlock* block = (ActivationBlock*)x;
        return Vector256.Create(T.GroupSize == 32 ? block->ScaledSum : group == 0
            ? block->FirstScaledSum : block->LastScaledSum);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Factors(sbyte* factors) =>
        Avx.ConvertToVector256Single(
        Avx2.ConvertToVector256Int32(Vector128.CreateScalarUnsafe(*(long*)factors).AsSByte()));
}
