using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Native.Kernels.Cpu;

/// <summary>Operations on one row, or one element, at a time: RMS norm, gated activations, addition, soft
/// cap.</summary>
/// <remarks>
/// Each operation takes whole tensors and a range of rows [first, last), so a parallel loop splits rows over workers. A
/// row's result depends on that row alone. No operation allocates or needs scratch. Inputs are as
/// <see cref="IBackend"/> says.
/// </remarks>
internal static unsafe class Elementwise
{
    /// <summary>y[t] = x[t] / sqrt(mean(x[t]^2) + epsilon) * weight (Zhang and Sennrich 2019, arXiv:1910.07467). y may
    /// be x.</summary>
    /// <param name="x">Shape [T, n].</param>
    /// <param name="weight">Shape [1, n].</param>
    /// <param name="epsilon">Added to the mean square.</param>
    /// <param name="y">Shape [T, n].</param>
    /// <param name="first">First row.</param>
    /// <param name="last">Row after the last.</param>
    public static void RmsNorm(Tensor x, Tensor weight, float epsilon, Tensor y, int first, int last)
    {
        for (int t = first; t < last; t++) RmsNorm(Row(x, t), (float*)weight.Address, epsilon, Row(y, t), x.Columns);
    }

    /// <summary>The same for one row of n elements.</summary>
    public static void RmsNorm(float* x, float* weight, float epsilon, float* y, int n)
    {
        if (Vector512.IsHardwareAccelerated) RmsNorm<Simd512, Vector512<float>>(x, weight, epsilon, y, n);
        else if (Vector256.IsHardwareAccelerated) RmsNorm<Simd256, Vector256<float>>(x, weight, epsilon, y, n);
        else if (Vector128.IsHardwareAccelerated) RmsNorm<Simd128, Vector128<float>>(x, weight, epsilon, y, n);
        else RmsNormScalar(x, weight, epsilon, y, n);
    }

    /// <summary>The definition.</summary>
    internal static void RmsNormScalar(float* x, float* weight, float epsilon, float* y, int n)
    {
        double sum = 0;
        for (int i = 0; i < n; i++) sum += (double)x[i] * x[i];
        float scale = InverseRoot(sum, n, epsilon);
        for (int i = 0; i < n; i++) y[i] = x[i] * scale * weight[i];
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void RmsNorm<S, V>(float* x, float* weight, float epsilon, float* y, int n)
        where S : struct, ISimd<V>
        where V : struct
    {
        // Four chains hide the latency of the multiply-add. An element's chain depends on n alone.
        V sum0 = S.Create(0), sum1 = sum0, sum2 = sum0, sum3 = sum0;
        int i = 0;
        for (; i <= n - (4 * S.Count); i += 4 * S.Count)
        {
            V x0 = S.Load(x + i), x1 = S.Load(x + i + S.Count), x2 = S.Load(x + i + (2 * S.Count)),
                x3 = S.Load(x + i + (3 * S.Count));
            sum0 = S.MultiplyAdd(x0, x0, sum0);
            sum1 = S.MultiplyAdd(x1, x1, sum1);
            sum2 = S.MultiplyAdd(x2, x2, sum2);
            sum3 = S.MultiplyAdd(x3, x3, sum3);
        }
        for (; i <= n - S.Count; i += S.Count)
        {
            V x0 = S.Load(x + i);
            sum0 = S.MultiplyAdd(x0, x0, sum0);
        }
        double sum = SimdMath<S, V>.Sum(S.Add(S.Add(sum0, sum1), S.Add(sum2, sum3)));
        for (; i < n; i++) sum += (double)x[i] * x[i];

        float scale = InverseRoot(sum, n, epsilon);
        V factor = S.Create(scale);
        for (i = 0; i <= n - S.Count; i += S.Count)
            S.Store(S.Multiply(S.Multiply(S.Load(x + i), factor), S.Load(weight + i)), y + i);
        for (; i < n; i++) y[i] = x[i] * scale * weight[i];
    }

    /// <summary>y[t, i] = activation(gate[t, i]) * up[t, i] for n elements of each row (Shazeer 2020,
    /// arXiv:2002.05202). An element's bits do not depend on where a row is cut.</summary>
    /// <param name="gate">Shape [rows, n].</param>
    /// <param name="up">Shape [rows, n].</param>
    /// <param name="activation">What is done to the gate.</param>
    /// <param name="y">Shape [rows, n].</param>
    /// <param name="n">Elements of a row.</param>
    /// <param name="rows">At least one.</param>
    /// <param name="stride">Elements from one row of the operands to the next.</param>
    /// <param name="yStride">The same of y.</param>
    public static void Gate(float* gate, float* up, Activation activation, float* y, int n, int rows = 1,
        long stride = 0, long yStride = 0)
    {
        if (Vector512.IsHardwareAccelerated)
            Gate<Simd512, Vector512<float>>(gate, up, activation, y, n, rows, stride, yStride);
        else if (Vector256.IsHardwareAccelerated)
            Gate<Simd256, Vector256<float>>(gate, up, activation, y, n, rows, stride, yStride);
        else if (Vector128.IsHardwareAccelerated)
            Gate<Simd128, Vector128<float>>(gate, up, activation, y, n, rows, stride, yStride);
        else GateScalar(gate, up, activation, y, n, rows, stride, yStride);
    }

    /// <summary>The definition: silu is x sigmoid(x), and gelu's tanh form x sigmoid(2 u) with u = sqrt(2 / pi) (x +
    /// 0.044715 x^3).</summary>
    internal static void GateScalar(float* gate, float* up, Activation activation, float* y, int n, int rows = 1,
        long stride = 0, long yStride = 0)
    {
        for (int t = 0; t < rows; t++, gate += stride, up += stride, y += yStride)
        {
            for (int i = 0; i < n; i++)
            {
                float x = gate[i];
                float exponent = activation == Activation.Silu ? x : x * (GeluLinear + (GeluCubic * x * x));
                y[i] = x / (1 + MathF.Exp(-exponent)) * up[i];
            }
        }
    }

    // 2 sqrt(2 / pi), and that times 0.044715.
    private const float GeluLinear = 1.5957691216057308f;
    private const float GeluCubic = 0.07135481627260025f;

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Gate<S, V>(float* gate, float* up, Activation activation, float* y, int n, int rows = 1,
        long stride = 0, long yStride = 0)
        where S : struct, ISimd<V>
        where V : struct
    {
        // Down the rows first: the rows of a tile have only one or two vectors each.
        int i = 0;
        if (activation == Activation.Silu)
        {
            for (; i <= n - S.Count; i += S.Count)
                for (long t = 0; t < rows; t++)
                    S.Store(S.Multiply(Silu<S, V>(S.Load(gate + (t * stride) + i)), S.Load(up + (t * stride) + i)),
                        y + (t * yStride) + i);
        }
        else
        {
            for (; i <= n - S.Count; i += S.Count)
                for (long t = 0; t < rows; t++)
                    S.Store(S.Multiply(GeluTanh<S, V>(S.Load(gate + (t * stride) + i)), S.Load(up + (t * stride) + i)),
                        y + (t * yStride) + i);
        }
        for (long t = 0; i < n && t < rows; t++)
            GateRest<S, V>(gate + (t * stride) + i, up + (t * stride) + i, activation, y + (t * yStride) + i, n - i);
    }

    /// <summary>Less than a vector, copied into a padded one so that the instructions are the same.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void GateRest<S, V>(float* gate, float* up, Activation activation, float* y, int n)
        where S : struct, ISimd<V>
        where V : struct
    {
        float* padded = stackalloc float[3 * 16];
        for (int i = 0; i < 3 * 16; i++) padded[i] = 0;
        for (int i = 0; i < n; i++) (padded[i], padded[16 + i]) = (gate[i], up[i]);
        V x = S.Load(padded);
        S.Store(S.Multiply(activation == Activation.Silu ? Silu<S, V>(x) : GeluTanh<S, V>(x), S.Load(padded + 16)),
            padded + 32);
        for (int i = 0; i < n; i++) y[i] = padded[32 + i];
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static V Silu<S, V>(V x)
        where S : struct, ISimd<V>
        where V : struct => SimdMath<S, V>.TimesSigmoid(x, x);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static V GeluTanh<S, V>(V x)
        where S : struct, ISimd<V>
        where V : struct =>
        SimdMath<S, V>.TimesSigmoid(
            x, S.Multiply(x, S.MultiplyAdd(S.Multiply(S.Create(GeluCubic), x), x, S.Create(GeluLinear))));

    /// <summary>x += delta.</summary>
    /// <param name="x">Shape [T, n].</param>
    /// <param name="delta">Shape [T, n].</param>
    /// <param name="first">First row.</param>
    /// <param name="last">Row after the last.</param>
    public static void Add(Tensor x, Tensor delta, int first, int last)
    {
        float* a = Row(x, first), b = Row(delta, first);
        long n = (long)(last - first) * x.Columns, i = 0;
        if (Vector256.IsHardwareAccelerated)
        {
            for (; i <= n - Vector256<float>.Count; i += Vector256<float>.Count)
                (Vector256.Load(a + i) + Vector256.Load(b + i)).Store(a + i);
        }
        else if (Vector128.IsHardwareAccelerated)
        {
            for (; i <= n - Vector128<float>.Count; i += Vector128<float>.Count)
                (Vector128.Load(a + i) + Vector128.Load(b + i)).Store(a + i);
        }
        for (; i < n; i++) a[i] += b[i];
    }

    /// <summary>x = cap * tanh(x / cap), in place; infinities become plus and minus cap.</summary>
    /// <param name="x">Shape [T, n].</param>
    /// <param name="cap">Positive.</param>
    /// <param name="first">First row.</param>
    /// <param name="last">Row after the last.</param>
    public static void SoftCap(Tensor x, float cap, int first, int last)
    {
        for (int t = first; t < last; t++) SoftCap(Row(x, t), cap, x.Columns);
    }

    /// <summary>The same for n elements. An element's bits do not depend on where a row is cut.</summary>
    public static void SoftCap(float* x, float cap, int n)
    {
        if (Vector512.IsHardwareAccelerated) SoftCap<Simd512, Vector512<float>>(x, cap, n);
        else if (Vector256.IsHardwareAccelerated) SoftCap<Simd256, Vector256<float>>(x, cap, n);
        else if (Vector128.IsHardwareAccelerated) SoftCap<Simd128, Vector128<float>>(x, cap, n);
        else SoftCapScalar(x, cap, n);
    }

    /// <summary>The definition.</summary>
    internal static void SoftCapScalar(float* x, float cap, int n)
    {
        for (int i = 0; i < n; i++) x[i] = cap * MathF.Tanh(x[i] / cap);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void SoftCap<S, V>(float* x, float cap, int n)
        where S : struct, ISimd<V>
        where V : struct
    {
        V c = S.Create(cap);
        int i = 0;
        for (; i <= n - S.Count; i += S.Count)
            S.Store(S.Multiply(c, SimdMath<S, V>.Tanh(S.Divide(S.Load(x + i), c))), x + i);
        if (i == n) return;

        float* padded = stackalloc float[16];
        for (int j = 0; j < 16; j++) padded[j] = 0;
        for (int j = i; j < n; j++) padded[j - i] = x[j];
        S.Store(S.Multiply(c, SimdMath<S, V>.Tanh(S.Divide(S.Load(padded), c))), padded);
        for (int j = i; j < n; j++) x[j] = padded[j - i];
    }

    private static float InverseRoot(double sum, int n, float epsilon) => (float)(1 / Math.Sqrt((sum / n) + epsilon));

    private static float* Row(Tensor x, int t) => (float*)x.Address + ((long)t * x.Columns);
}
