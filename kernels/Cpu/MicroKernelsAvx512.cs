using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Native.Kernels.Cpu.Panels;
using Native.Kernels.Formats;

namespace Native.Kernels.Cpu;

/// <summary>The micro-kernels with AVX-512. Each of the sixteen outputs has a lane.</summary>
/// <remarks>
/// .NET has no 512-bit VPDPBUSD. Nibbles use VPMADDUBSW at full width, since eight of their products fit 16 bits. Bytes
/// use two of AVX-VNNI's VPDPBUSD where the processor has them, else the instructions of <see cref="MicroKernelsAvx2"/>
/// at twice the width.
/// </remarks>
internal static unsafe class MicroKernelsAvx512
{
    /// <summary>One row of activations.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void One<T>(byte* integers, byte* scales, byte** rows, int blocks, float* sums)
        where T : IIntegerFormat
    {
        byte* x = rows[0];
        Vector512<float> y = default;
        for (int unit = 0; unit < blocks; unit += Panel<T>.UnitBlocks, scales += Panel<T>.UnitStride,
            integers += Panel<T>.HeaderBytes)
        {
            Vector512<float> unitScale = Halves.ToSingle(Vector256.Load((short*)scales)), unitMin = default;
            if (T.HasMin) unitMin = Halves.ToSingle(Vector256.Load((short*)scales + 16));
            sbyte* factors = (sbyte*)scales + Panel<T>.HalvesBytes;
            for (int b = 0; b < Panel<T>.UnitBlocks;
                b++, integers += Panel<T>.BlockStride, x += sizeof(ActivationBlock))
            {
                for (int group = 0; group < 32 / T.GroupSize; group++)
                {
                    Vector512<int> sum = default;
                    if (T.Nibbles && T.GroupSize == 32)
                    {
                        Vector512<short> a = default;
                        for (int j = 0; j < 4; j++)
                        {
                            Vector512<byte> w = Vector512.Load(integers + PanelLayout.VectorStride * j);
                            a += Products(Low(w), Broadcast(x + 4 * j));
                            a += Products(High(w), Broadcast(x + 16 + 4 * j));
                        }
                        sum = Pairs(a);
                    }
                    else if (AvxVnni.IsSupported)
                    {
                        Vector256<int> lower = default, upper = default;
                        for (int i = group * T.GroupSize / 4; i < (group + 1) * T.GroupSize / 4; i++)
                        {
                            Vector512<byte> w = Unsigned<T>(Load<T>(integers, i));
                            Vector256<sbyte> a = Vector256.Create(*(int*)(x + 4 * i)).AsSByte();
                            lower = AvxVnni.MultiplyWideningAndAdd(lower, w.GetLower(), a);
                            upper = AvxVnni.MultiplyWideningAndAdd(upper, w.GetUpper(), a);
                        }
                        sum = Vector512.Create(lower, upper);
                    }
                    else
                    {
                        for (int j = group * T.GroupSize / 4; j < (group + 1) * T.GroupSize / 4; j += Panel<T>.Depth)
                        {
                            Vector512<short> a = default;
                            for (int i = j; i < j + Math.Min(Panel<T>.Depth, T.GroupSize / 4); i++)
                            {
                                Vector512<byte> w = Load<T>(integers, i);
                                Vector512<sbyte> sign = Sign<T>(w);
                                a += Products<T>(Magnitude<T>(w), sign, Broadcast(x + 4 * i));
                            }
                            sum += Pairs(a);
                        }
                    }
                    Vector512<float> d = T.SuperScales ? unitScale * Factors(factors) : unitScale;
                    Vector512<float> m = T.HasMin && T.SuperScales ? unitMin * Factors(factors + 16) : unitMin;
                    y = Scale<T>(sum, d, m, x, group, y);
                    if (T.SuperScales) factors += Panel<T>.GroupBytes;
                }
            }
        }
        y.Store(sums);
    }

    /// <summary>Four rows of activations.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Four<T>(byte* integers, byte* scales, byte** rows, int blocks, float* sums)
        where T : IIntegerFormat
    {
        byte* x0 = rows[0], x1 = rows[1], x2 = rows[2], x3 = rows[3];
        Vector512<float> y0 = default, y1 = default, y2 = default, y3 = default;
        for (int unit = 0; unit < blocks; unit += Panel<T>.UnitBlocks, scales += Panel<T>.UnitStride,
            integers += Panel<T>.HeaderBytes)
        {
            Vector512<float> unitScale = Halves.ToSingle(Vector256.Load((short*)scales)), unitMin = default;
            if (T.HasMin) unitMin = Halves.ToSingle(Vector256.Load((short*)scales + 16));
            sbyte* factors = (sbyte*)scales + Panel<T>.HalvesBytes;
            for (int b = 0; b < Panel<T>.UnitBlocks; b++, integers += Panel<T>.BlockStride)
            {
                for (int group = 0; group < 32 / T.GroupSize; group++)
                {
                    Vector512<int> i0 = default, i1 = default, i2 = default, i3 = default;
                    if (T.Nibbles && T.GroupSize == 32)
                        FourNibbles(integers, x0, x1, x2, x3, ref i0, ref i1, ref i2, ref i3);
                    else if (AvxVnni.IsSupported)
                        FourQuadruples<T>(integers, x0, x1, x2, x3, group, ref i0, ref i1, ref i2, ref i3);
                    else
                        FourPairs<T>(integers, x0, x1, x2, x3, group, ref i0, ref i1, ref i2, ref i3);
                    Vector512<float> d = T.SuperScales ? unitScale * Factors(factors) : unitScale;
                    Vector512<float> m = T.HasMin && T.SuperScales ? unitMin * Factors(factors + 16) : unitMin;
                    y0 = Scale<T>(i0, d, m, x0, group, y0);
                    y1 = Scale<T>(i1, d, m, x1, group, y1);
                    y2 = Scale<T>(i2, d, m, x2, group, y2);
                    y3 = Scale<T>(i3, d, m, x3, group, y3);
                    if (T.SuperScales) factors += Panel<T>.GroupBytes;
                }
                x0 += sizeof(ActivationBlock);
                x1 += sizeof(ActivationBlock);
                x2 += sizeof(ActivationBlock);
                x3 += sizeof(ActivationBlock);
            }
        }
        y0.Store(sums);
        y1.Store(sums + 16);
        y2.Store(sums + 32);
        y3.Store(sums + 48);
    }

    /// <summary>A group's products with four rows, summed for each output. For nibbles: eight products fit 16
    /// bits.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void FourNibbles(byte* integers, byte* x0, byte* x1, byte* x2, byte* x3,
        ref Vector512<int> i0, ref Vector512<int> i1, ref Vector512<int> i2, ref Vector512<int> i3)
    {
        Vector512<short> a0 = default, a1 = default, a2 = default, a3 = default;
        for (int j = 0; j < 4; j++)
        {
            Vector512<byte> w = Vector512.Load(integers + PanelLayout.VectorStride * j), high = High(w);
            w = Low(w);
            a0 += Products(w, Broadcast(x0 + 4 * j));
            a1 += Products(w, Broadcast(x1 + 4 * j));
            a2 += Products(w, Broadcast(x2 + 4 * j));
            a3 += Products(w, Broadcast(x3 + 4 * j));
            a0 += Products(high, Broadcast(x0 + 16 + 4 * j));
            a1 += Products(high, Broadcast(x1 + 16 + 4 * j));
            a2 += Products(high, Broadcast(x2 + 16 + 4 * j));
            a3 += Products(high, Broadcast(x3 + 16 + 4 * j));
        }
        i0 = Pairs(a0);
        i1 = Pairs(a1);
        i2 = Pairs(a2);
        i3 = Pairs(a3);
    }

    /// <summary>The same with AVX-VNNI: four products at a time into 32 bits.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void FourQuadruples<T>(byte* integers, byte* x0, byte* x1, byte* x2, byte* x3, int group,
        ref Vector512<int> i0, ref Vector512<int> i1, ref Vector512<int> i2, ref Vector512<int> i3)
        where T : IIntegerFormat
    {
        Vector256<int> l0 = default, l1 = default, l2 = default, l3 = default;
        Vector256<int> u0 = default, u1 = default, u2 = default, u3 = default;
        for (int i = group * T.GroupSize / 4; i < (group + 1) * T.GroupSize / 4; i++)
        {
            Vector512<byte> w = Unsigned<T>(Load<T>(integers, i));
            Vector256<byte> lower = w.GetLower(), upper = w.GetUpper();
            Vector256<sbyte> a0 = Vector256.Create(*(int*)(x0 + 4 * i)).AsSByte(),
                a1 = Vector256.Create(*(int*)(x1 + 4 * i)).AsSByte();
            Vector256<sbyte> a2 = Vector256.Create(*(int*)(x2 + 4 * i)).AsSByte(),
                a3 = Vector256.Create(*(int*)(x3 + 4 * i)).AsSByte();
            l0 = AvxVnni.MultiplyWideningAndAdd(l0, lower, a0);
            u0 = AvxVnni.MultiplyWideningAndAdd(u0, upper, a0);
            l1 = AvxVnni.MultiplyWideningAndAdd(l1, lower, a1);
            u1 = AvxVnni.MultiplyWideningAndAdd(u1, upper, a1);
            l2 = AvxVnni.MultiplyWideningAndAdd(l2, lower, a2);
            u2 = AvxVnni.MultiplyWideningAndAdd(u2, upper, a2);
            l3 = AvxVnni.MultiplyWideningAndAdd(l3, lower, a3);
            u3 = AvxVnni.MultiplyWideningAndAdd(u3, upper, a3);
        }
        i0 = Vector512.Create(l0, u0);
        i1 = Vector512.Create(l1, u1);
        i2 = Vector512.Create(l2, u2);
        i3 = Vector512.Create(l3, u3);
    }

    /// <summary>The same without it: pairs are added up as long as they fit 16 bits, then widened.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void FourPairs<T>(byte* integers, byte* x0, byte* x1, byte* x2, byte* x3, int group,
        ref Vector512<int> i0, ref Vector512<int> i1, ref Vector512<int> i2, ref Vector512<int> i3)
        where T : IIntegerFormat
    {
        for (int j = group * T.GroupSize / 4; j < (group + 1) * T.GroupSize / 4; j += Panel<T>.Depth)
        {
            Vector512<short> a0 = default, a1 = default, a2 = default, a3 = default;
            for (int i = j; i < j + Math.Min(Panel<T>.Depth, T.GroupSize / 4); i++)
            {
                Vector512<byte> w = Load<T>(integers, i);
                Vector512<sbyte> sign = Sign<T>(w);
                w = Magnitude<T>(w);
                a0 += Products<T>(w, sign, Broadcast(x0 + 4 * i));
                a1 += Products<T>(w, sign, Broadcast(x1 + 4 * i));
                a2 += Products<T>(w, sign, Broadcast(x2 + 4 * i));
                a3 += Products<T>(w, sign, Broadcast(x3 + 4 * i));
            }
            i0 += Pairs(a0);
            i1 += Pairs(a1);
            i2 += Pairs(a2);
            i3 += Pairs(a3);
        }
    }

    /// <summary>Float activations, one row; four chains run at once.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void FloatOne<T>(byte* panel, byte* scales, byte** rows, int columns, float* sums)
        where T : IFloatPanel
    {
        const int Chain = MicroKernelsScalar.FloatChain;
        float* x = (float*)rows[0];
        Vector512<float> y = default;
        int k = 0, stride = Chain * 32 * T.Size;
        for (; k + 4 * Chain <= columns; k += 4 * Chain, panel += 4 * stride)
        {
            Vector512<float> a = default, b = default, c = default, d = default;
            for (int i = 0; i < Chain; i++)
            {
                byte* w = panel + i * 32 * T.Size;
                a = Vector512.FusedMultiplyAdd(T.Load16(w), Vector512.Create(x[k + i]), a);
                b = Vector512.FusedMultiplyAdd(T.Load16(w + stride), Vector512.Create(x[k + Chain + i]), b);
                c = Vector512.FusedMultiplyAdd(T.Load16(w + 2 * stride), Vector512.Create(x[k + 2 * Chain + i]), c);
                d = Vector512.FusedMultiplyAdd(T.Load16(w + 3 * stride), Vector512.Create(x[k + 3 * Chain + i]), d);
            }
            y = y + a + b + c + d;
        }
        while (k < columns)
        {
            Vector512<float> a = default;
            for (int end = Math.Min(columns, k + Chain); k < end; k++, panel += 32 * T.Size)
                a = Vector512.FusedMultiplyAdd(T.Load16(panel), Vector512.Create(x[k]), a);
            y += a;
        }
        y.Store(sums);
    }

    /// <summary>Float activations, four rows; two chains of each run at once.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void FloatFour<T>(byte* panel, byte* scales, byte** rows, int columns, float* sums)
        where T : IFloatPanel
    {
        const int Chain = MicroKernelsScalar.FloatChain;
        float* x0 = (float*)rows[0], x1 = (float*)rows[1], x2 = (float*)rows[2], x3 = (float*)rows[3];
        Vector512<float> y0 = default, y1 = default, y2 = default, y3 = default;
        int k = 0, stride = Chain * 32 * T.Size;
        for (; k + 2 * Chain <= columns; k += 2 * Chain, panel += 2 * stride)
        {
            Vector512<float> a0 = default, a1 = default, a2 = default, a3 = default, b0 = default, b1 = default,
                b2 = default, b3 = default;
            for (int i = k; i < k + Chain; i++)
            {
                byte* w = panel + (i - k) * 32 * T.Size;
                Vector512<float> a = T.Load16(w), b = T.Load16(w + stride);
                a0 = Vector512.FusedMultiplyAdd(a, Vector512.Create(x0[i]), a0);
                a1 = Vector512.FusedMultiplyAdd(a, Vector512.Create(x1[i]), a1);
                a2 = Vector512.FusedMultiplyAdd(a, Vector512.Create(x2[i]), a2);
                a3 = Vector512.FusedMultiplyAdd(a, Vector512.Create(x3[i]), a3);
                b0 = Vector512.FusedMultiplyAdd(b, Vector512.Create(x0[i + Chain]), b0);
                b1 = Vector512.FusedMultiplyAdd(b, Vector512.Create(x1[i + Chain]), b1);
                b2 = Vector512.FusedMultiplyAdd(b, Vector512.Create(x2[i + Chain]), b2);
                b3 = Vector512.FusedMultiplyAdd(b, Vector512.Create(x3[i + Chain]), b3);
            }
            (y0, y1, y2, y3) = (y0 + a0 + b0, y1 + a1 + b1, y2 + a2 + b2, y3 + a3 + b3);
        }
        while (k < columns)
        {
            Vector512<float> a0 = default, a1 = default, a2 = default, a3 = default;
            for (int end = Math.Min(columns, k + Chain); k < end; k++, panel += 32 * T.Size)
            {
                Vector512<float> a = T.Load16(panel);
                a0 = Vector512.FusedMultiplyAdd(a, Vector512.Create(x0[k]), a0);
                a1 = Vector512.FusedMultiplyAdd(a, Vector512.Create(x1[k]), a1);
                a2 = Vector512.FusedMultiplyAdd(a, Vector512.Create(x2[k]), a2);
                a3 = Vector512.FusedMultiplyAdd(a, Vector512.Create(x3[k]), a3);
            }
            (y0, y1, y2, y3) = (y0 + a0, y1 + a1, y2 + a2, y3 + a3);
        }
        y0.Store(sums);
        y1.Store(sums + 16);
        y2.Store(sums + 32);
        y3.Store(sums + 48);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<sbyte> Broadcast(byte* four) => Vector512.Create(*(int*)four).AsSByte();

    /// <summary>The integers of columns 4 <paramref name="i"/> to 4 <paramref name="i"/> + 3 of a block, sixteen
    /// rows.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<byte> Load<T>(byte* integers, int i)
        where T : IIntegerFormat
    {
        if (!T.Nibbles) return Vector512.Load(integers + PanelLayout.VectorStride * i);
        Vector512<byte> pairs = Vector512.Load(integers + PanelLayout.VectorStride * (i & 3));
        return i < 4 ? Low(pairs) : High(pairs);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<byte> Low(Vector512<byte> pairs) => pairs & Vector512.Create((byte)15);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<byte> High(Vector512<byte> pairs) =>
        Vector512.ShiftRightLogical(pairs.AsUInt16(), 4).AsByte() & Vector512.Create((byte)15);

    /// <summary>Weights as VPDPBUSD takes them: signed ones + 128.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<byte> Unsigned<T>(Vector512<byte> weights)
        where T : IIntegerFormat => T.Signed ? weights ^ Vector512.Create((byte)128) : weights;

    /// <summary>All ones where a signed weight is negative.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<sbyte> Sign<T>(Vector512<byte> weights)
        where T : IIntegerFormat => T.Signed ? Vector512.LessThan(weights.AsSByte(), Vector512<sbyte>.Zero) : default;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<byte> Magnitude<T>(Vector512<byte> weights)
        where T : IIntegerFormat => T.Signed ? Vector512.Abs(weights.AsSByte()).AsByte() : weights;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<short> Products<T>(Vector512<byte> weights, Vector512<sbyte> sign,
        Vector512<sbyte> activations)
        where T : IIntegerFormat
    {
        if (T.Signed) activations = (activations ^ sign) - sign;
        return Products(weights, activations);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<short> Products(Vector512<byte> weights, Vector512<sbyte> activations) =>
        Avx512BW.IsSupported
        ? Avx512BW.MultiplyAddAdjacent(weights, activations)
        : Vector512.Create(Avx2.MultiplyAddAdjacent(weights.GetLower(), activations.GetLower()),
            Avx2.MultiplyAddAdjacent(weights.GetUpper(), activations.GetUpper()));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<int> Pairs(Vector512<short> sums) => Avx512BW.IsSupported
        ? Avx512BW.MultiplyAddAdjacent(sums, Vector512<short>.One)
        : Vector512.Create(Avx2.MultiplyAddAdjacent(sums.GetLower(), Vector256<short>.One),
            Avx2.MultiplyAddAdjacent(sums.GetUpper(), Vector256<short>.One));

    /// <summary>Adds one group's scaled sum, and the share of its minimum.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Scale<T>(Vector512<int> sum, Vector512<float> scale, Vector512<float> min, byte* x,
        int group, Vector512<float> y)
        where T : IIntegerFormat
    {
        ActivationBlock* block = (ActivationBlock*)x;
        if (T.Offset != 0 || T.Signed && AvxVnni.IsSupported)
        {
            int negativeSum4 = T.GroupSize == 32 ? block->NegativeSum4 : group == 0
                ? block->FirstNegativeSum4 : block->LastNegativeSum4;
            sum += Vector512.Create(negativeSum4 << (T.Signed ? Panel<T>.SignedShift : Panel<T>.OffsetShift));
        }
        y = Vector512.FusedMultiplyAdd(Vector512.ConvertToSingle(sum), scale * Vector512.Create(block->Scale), y);
        if (!T.HasMin) return y;
        return Vector512.FusedMultiplyAdd(
            min, Vector512.Create(T.GroupSize == 32 ? block->ScaledSum : group == 0
            ? block->FirstScaledSum : block->LastScaledSum), y);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Factors(sbyte* factors)
    {
        Vector128<sbyte> bytes = Vector128.Load(factors);
        return Vector512.ConvertToSingle(Avx512F.IsSupported
            ? Avx512F.ConvertToVector512Int32(bytes)
            : Vector512.Create(Avx2.ConvertToVector256Int32(bytes),
                Avx2.ConvertToVector256Int32(Vector128.Create(bytes.GetUpper(), bytes.GetUpper()))));
    }
}
