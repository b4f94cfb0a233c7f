using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.Arm;
using Native.Kernels.Cpu.Panels;
using Native.Kernels.Formats;

namespace Native.Kernels.Cpu;

/// <summary>The micro-kernels with AdvSimd and SDOT by element: four vectors hold a lane for each of the sixteen
/// outputs. All integers fit signed bytes, so none needs an offset.</summary>
internal static unsafe class MicroKernelsArm
{
    /// <summary>One row of activations.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void One<T>(byte* integers, byte* scales, byte** rows, int blocks, float* sums)
        where T : IIntegerFormat
    {
        ActivationBlock* x = (ActivationBlock*)rows[0];
        Vector128<float> y0 = default, y1 = default, y2 = default, y3 = default;
        for (int unit = 0; unit < blocks; unit += Panel<T>.UnitBlocks, scales += Panel<T>.UnitStride,
            integers += Panel<T>.HeaderBytes)
        {
            sbyte* factors = (sbyte*)scales + Panel<T>.HalvesBytes;
            for (int b = 0; b < Panel<T>.UnitBlocks; b++, integers += Panel<T>.BlockStride, x++)
            {
                for (int group = 0; group < 32 / T.GroupSize; group++)
                {
                    Vector128<int> i0 = default, i1 = default, i2 = default, i3 = default;
                    for (int half = group * T.GroupSize / 16; half < (group + 1) * T.GroupSize / 16; half++)
                    {
                        Vector128<sbyte> activations = Vector128.Load(x->Quants + 16 * half);
                        byte* w = integers + (T.Nibbles ? 0 : 4 * PanelLayout.VectorStride * half);
                        i0 = Dot<T>(w, half, activations, i0);
                        i1 = Dot<T>(w + 16, half, activations, i1);
                        i2 = Dot<T>(w + 32, half, activations, i2);
                        i3 = Dot<T>(w + 48, half, activations, i3);
                    }
                    y0 = Scale<T>(i0, scales, factors, 0, x, group, y0);
                    y1 = Scale<T>(i1, scales, factors, 4, x, group, y1);
                    y2 = Scale<T>(i2, scales, factors, 8, x, group, y2);
                    y3 = Scale<T>(i3, scales, factors, 12, x, group, y3);
                    if (T.SuperScales) factors += Panel<T>.GroupBytes;
                }
            }
        }
        y0.Store(sums);
        y1.Store(sums + 4);
        y2.Store(sums + 8);
        y3.Store(sums + 12);
    }

    /// <summary>Four times <see cref="One"/>: after the first the panel is in the cache.</summary>
    public static void Four<T>(byte* integers, byte* scales, byte** rows, int blocks, float* sums)
        where T : IIntegerFormat
    {
        for (int t = 0; t < 4; t++) One<T>(integers, scales, rows + t, blocks, sums + 16 * t);
    }

    /// <summary>Float activations, one row.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void FloatOne<T>(byte* panel, byte* scales, byte** rows, int columns, float* sums)
        where T : IFloatPanel
    {
        float* x = (float*)rows[0];
        Vector128<float> y0 = default, y1 = default, y2 = default, y3 = default;
        for (int k = 0; k < columns;)
        {
            Vector128<float> a0 = default, a1 = default, a2 = default, a3 = default;
            for (int end = Math.Min(columns, k + MicroKernelsScalar.FloatChain); k < end; k++, panel += 32 * T.Size)
            {
                Vector256<float> low = T.Load8(panel), high = T.Load8(panel + 8 * T.Size);
                Vector128<float> activation = Vector128.Create(x[k]);
                a0 = Vector128.FusedMultiplyAdd(low.GetLower(), activation, a0);
                a1 = Vector128.FusedMultiplyAdd(low.GetUpper(), activation, a1);
                a2 = Vector128.FusedMultiplyAdd(high.GetLower(), activation, a2);
                a3 = Vector128.FusedMultiplyAdd(high.GetUpper(), activation, a3);
            }
            (y0, y1, y2, y3) = (y0 + a0, y1 + a1, y2 + a2, y3 + a3);
        }
        y0.Store(sums);
        y1.Store(sums + 4);
        y2.Store(sums + 8);
        y3.Store(sums + 12);
    }

    /// <summary>Four times <see cref="FloatOne"/>.</summary>
    public static void FloatFour<T>(byte* panel, byte* scales, byte** rows, int columns, float* sums)
        where T : IFloatPanel
    {
        for (int t = 0; t < 4; t++) FloatOne<T>(panel, scales, rows + t, columns, sums + 16 * t);
    }

    /// <summary>Sixteen columns of four rows.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<int> Dot<T>(byte* weights, int half, Vector128<sbyte> activations, Vector128<int> sum)
        where T : IIntegerFormat
    {
        Vector128<sbyte> w0 = Load<T>(weights, half), w1 = Load<T>(weights + PanelLayout.VectorStride, half),
            w2 = Load<T>(weights + 2 * PanelLayout.VectorStride, half),
            w3 = Load<T>(weights + 3 * PanelLayout.VectorStride, half);
        if (!Dp.IsSupported)
            return Substitute(w3, activations, 3,
                Substitute(w2, activations, 2, Substitute(w1, activations, 1, Substitute(w0, activations, 0, sum))));
        sum = Dp.DotProductBySelectedQuadruplet(sum, w0, activations, 0);
        sum = Dp.DotProductBySelectedQuadruplet(sum, w1, activations, 1);
        sum = Dp.DotProductBySelectedQuadruplet(sum, w2, activations, 2);
        return Dp.DotProductBySelectedQuadruplet(sum, w3, activations, 3);
    }

    private static Vector128<int> Substitute(
        Vector128<sbyte> weights, Vector128<sbyte> activations, int quadruplet, Vector128<int> sum)
    {
        for (int i = 0; i < 16; i++)
            sum = sum.WithElement(i / 4, sum[i / 4] + weights[i] * activations[4 * quadruplet + i % 4]);
        return sum;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<sbyte> Load<T>(byte* weights, int half)
        where T : IIntegerFormat
    {
        Vector128<byte> w = Vector128.Load(weights);
        if (T.Nibbles) w = half == 0 ? w & Vector128.Create((byte)15) : Vector128.ShiftRightLogical(w, 4);
        if (T.Offset != 0) w -= Vector128.Create((byte)T.Offset);
        return w.AsSByte();
    }

    /// <summary>Adds one group's scaled sums of four rows, and the share of their minimums.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> Scale<T>(Vector128<int> sum, byte* scales, sbyte* factors, int row,
        ActivationBlock* x, int group, Vector128<float> y)
        where T : IIntegerFormat
    {
        Vector128<float> scale = ToSingle((Half*)scales + row);
        if (T.SuperScales) scale *= ToSingle(factors + row);
        y = Vector128.FusedMultiplyAdd(Vector128.ConvertToSingle(sum), scale * Vector128.Create(x->Scale), y);
        if (!T.HasMin) return y;
        Vector128<float> min = ToSingle((Half*)scales + 16 + row);
        if (T.SuperScales) min *= ToSingle(factors + 16 + row);
        return Vector128.FusedMultiplyAdd(min,
            Vector128.Create(T.GroupSize == 32 ? x->ScaledSum : group == 0 ? x->FirstScaledSum : x->LastScaledSum), y);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> ToSingle(Half* halves) =>
        Vector128.Create((float)halves[0], (float)halves[1], (float)halves[2], (float)halves[3]);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> ToSingle(sbyte* factors) =>
        Vector128.Create((float)factors[0], factors[1], factors[2], factors[3]);
}
