using System.Runtime.Intrinsics;
using Native.Kernels;
using Native.Kernels.Cpu;

namespace Native.Tests.Kernels.Cpu;

public sealed unsafe class ElementwiseTests
{
    public static TheoryData<int, int> WidthsAndLengths()
    {
        var data = new TheoryData<int, int>();
        foreach (int width in Widths.All)
        {
            foreach (int n in new[] { 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 80, 127, 576, 1000 }) data.Add(width, n);
        }
        return data;
    }

    [Theory, MemberData(nameof(WidthsAndLengths))]
    public void RmsNorm_AgreesWithDouble(int width, int n)
    {
        using GuardedMemory<float> x = Random(n, 3), weight = Random(n, 1), y = new(n);
        RmsNorm(width, x.Pointer, weight.Pointer, 1e-5f, y.Pointer, n);

        double sum = 0;
        for (int i = 0; i < n; i++) sum += (double)x.Span[i] * x.Span[i];
        for (int i = 0; i < n; i++)
        {
            double expected = x.Span[i] / Math.Sqrt((sum / n) + 1e-5) * weight.Span[i];
            Assert.Equal(expected, y.Span[i], (1e-6 * Math.Abs(expected)) + 1e-12);
        }
        RmsNorm(width, x.Pointer, weight.Pointer, 1e-5f, x.Pointer, n);
        Assert.Equal(y.Span, x.Span); // in place
    }

    [Theory, MemberData(nameof(WidthsAndLengths))]
    public void Gate_AgreesWithDouble(int width, int n)
    {
        using GuardedMemory<float> gate = Random(n, 8), up = Random(n, 2), y = new(n);
        gate.Span[0] = -0f;
        gate.Span[n - 1] = -60;
        foreach (Activation activation in new[] { Activation.Silu, Activation.GeluTanh })
        {
            Gate(width, gate.Pointer, up.Pointer, activation, y.Pointer, n);
            for (int i = 0; i < n; i++)
            {
                double x = gate.Span[i], inner = Math.Sqrt(2 / Math.PI) * (x + (0.044715 * x * x * x));
                double expected = (activation == Activation.Silu ? x / (1 + Math.Exp(-x)) : x / (1 + Math.Exp(-2 * inner))) * up.Span[i];
                // Where the exponent is large its own rounding dominates.
                double tolerance = 1e-6 * (1 + (activation == Activation.Silu ? Math.Abs(x) : Math.Abs(inner))) * Math.Abs(expected);
                Assert.Equal(expected, y.Span[i], tolerance + 1e-37);
            }
        }
    }

    [Theory, MemberData(nameof(Widths.Data), MemberType = typeof(Widths))]
    public void Gate_SaturatesAtExtremes(int width)
    {
        using GuardedMemory<float> gate = new([1e30f, -1e30f, float.Epsilon, 0, -0f, 300, -300, 1e-20f, float.PositiveInfinity, float.NaN]);
        using GuardedMemory<float> up = new(10), y = new(10);
        up.Span.Fill(1);
        foreach (Activation activation in new[] { Activation.Silu, Activation.GeluTanh })
        {
            Gate(width, gate.Pointer, up.Pointer, activation, y.Pointer, 10);
            Assert.Equal(1e30f, y.Span[0]);
            Assert.Equal(0, y.Span[1]);
            Assert.InRange(y.Span[2], 0, float.Epsilon);
            Assert.Equal(0, y.Span[3]);
            Assert.Equal(0, y.Span[4]);
            Assert.Equal(300, y.Span[5]);
            Assert.Equal(0, y.Span[6], 1e-35);
            Assert.Equal(5e-21f, y.Span[7], 1e-26f);
            Assert.Equal(float.PositiveInfinity, y.Span[8]);
            Assert.True(float.IsNaN(y.Span[9]));
        }
    }

    [Theory, MemberData(nameof(WidthsAndLengths))]
    public void SoftCap_AgreesWithDouble(int width, int n)
    {
        using GuardedMemory<float> x = Random(n, 60), y = new(x.Span);
        y.Span[0] = x.Span[0] = float.PositiveInfinity;
        SoftCap(width, y.Pointer, 30, n);
        for (int i = 0; i < n; i++) Assert.Equal(30 * Math.Tanh(x.Span[i] / 30.0), y.Span[i], 1e-5);
    }

    [Theory, MemberData(nameof(WidthsAndLengths))]
    public void AnElementsBits_DoNotDependOnWhereARowIsCut(int width, int n)
    {
        using GuardedMemory<float> gate = Random(n, 4), up = Random(n, 4), whole = new(n), parts = new(n), capped = new(gate.Span), cappedParts = new(gate.Span);
        foreach (Activation activation in new[] { Activation.Silu, Activation.GeluTanh })
        {
            Gate(width, gate.Pointer, up.Pointer, activation, whole.Pointer, n);
            for (int i = 0; i < n; i += 5)
                Gate(width, gate.Pointer + i, up.Pointer + i, activation, parts.Pointer + i, Math.Min(5, n - i));
            Assert.Equal(whole.Span, parts.Span);
        }
        SoftCap(width, capped.Pointer, 2, n);
        for (int i = 0; i < n; i += 3) SoftCap(width, cappedParts.Pointer + i, 2, Math.Min(3, n - i));
        Assert.Equal(capped.Span, cappedParts.Span);
    }

    [Theory, MemberData(nameof(WidthsAndLengths))]
    public void GatedRows_AreWhatTheyAreAlone_AndWhatIsBetweenThemStays(int width, int n)
    {
        const int Rows = 3;
        int stride = n + 2, yStride = n + 5;
        using GuardedMemory<float> gate = Random((2 * stride) + n, 4), up = Random((2 * stride) + n, 4), y = new((2 * yStride) + n), expected = new(y.Span.Length);
        foreach (Activation activation in new[] { Activation.Silu, Activation.GeluTanh })
        {
            y.Span.Fill(7);
            expected.Span.Fill(7);
            Gate(width, gate.Pointer, up.Pointer, activation, y.Pointer, n, Rows, stride, yStride);
            for (int t = 0; t < Rows; t++) Gate(width, gate.Pointer + (t * stride), up.Pointer + (t * stride), activation, expected.Pointer + (t * yStride), n);
            Assert.Equal(expected.Span, y.Span);
        }
    }

    [Theory, InlineData(1), InlineData(7), InlineData(64), InlineData(67)]
    public void Rows_AreWhatTheyAreAlone(int n)
    {
        const int T = 5;
        using GuardedMemory<float> x = Random(T * n, 2), weight = Random(n, 1), y = new(T * n), alone = new(n), sum = new(T * n);
        Tensor xs = Of(x, T, n), ys = Of(y, T, n), w = Of(weight, 1, n);
        Elementwise.RmsNorm(xs, w, 1e-6f, ys, 0, 3);
        Elementwise.RmsNorm(xs, w, 1e-6f, ys, 3, T);
        for (int t = 0; t < T; t++)
        {
            Elementwise.RmsNorm(x.Pointer + (t * n), weight.Pointer, 1e-6f, alone.Pointer, n);
            Assert.Equal(alone.Span, y.Span.Slice(t * n, n));
        }
        x.Span.CopyTo(sum.Span);
        Elementwise.Add(Of(sum, T, n), ys, 0, 2);
        Elementwise.Add(Of(sum, T, n), ys, 2, T);
        for (int i = 0; i < T * n; i++) Assert.Equal(x.Span[i] + y.Span[i], sum.Span[i]);
        Elementwise.SoftCap(ys, 3, 1, 2);
        Assert.All(y.Span.Slice(n, n).ToArray(), value => Assert.InRange(value, -3, 3));
    }

    [Fact]
    public void Nothing_IsAllocated()
    {
        using GuardedMemory<float> x = Random(4 * 100, 2), weight = Random(100, 1), y = new(4 * 100), half = new(50);
        Assert.Equal(0, Allocations.Of(Run));

        void Run()
        {
            Elementwise.RmsNorm(Of(x, 4, 100), Of(weight, 1, 100), 1e-6f, Of(y, 4, 100), 0, 4);
            Elementwise.Gate(x.Pointer, x.Pointer + 50, Activation.GeluTanh, half.Pointer, 50);
            Elementwise.Add(Of(x, 4, 100), Of(y, 4, 100), 0, 4);
            Elementwise.SoftCap(Of(x, 4, 100), 30, 0, 4);
        }
    }

    private static Tensor Of(GuardedMemory<float> memory, int rows, int columns) => new((nint)memory.Pointer, rows, columns, DType.F32);

    private static GuardedMemory<float> Random(int n, double scale)
    {
        var random = new Random(n);
        var memory = new GuardedMemory<float>(n);
        for (int i = 0; i < n; i++) memory.Span[i] = (float)((random.NextDouble() - 0.5) * 2 * scale);
        return memory;
    }

    private static void RmsNorm(int width, float* x, float* weight, float epsilon, float* y, int n)
    {
        if (width == 0) Elementwise.RmsNormScalar(x, weight, epsilon, y, n);
        else if (width == 128) Elementwise.RmsNorm<Simd128, Vector128<float>>(x, weight, epsilon, y, n);
        else if (width == 256) Elementwise.RmsNorm<Simd256, Vector256<float>>(x, weight, epsilon, y, n);
        else Elementwise.RmsNorm<Simd512, Vector512<float>>(x, weight, epsilon, y, n);
    }

    private static void Gate(int width, float* gate, float* up, Activation activation, float* y, int n, int rows = 1, long stride = 0, long yStride = 0)
    {
        if (width == 0) Elementwise.GateScalar(gate, up, activation, y, n, rows, stride, yStride);
        else if (width == 128) Elementwise.Gate<Simd128, Vector128<float>>(gate, up, activation, y, n, rows, stride, yStride);
        else if (width == 256) Elementwise.Gate<Simd256, Vector256<float>>(gate, up, activation, y, n, rows, stride, yStride);
        else Elementwise.Gate<Simd512, Vector512<float>>(gate, up, activation, y, n, rows, stride, yStride);
    }

    private static void SoftCap(int width, float* x, float cap, int n)
    {
        if (width == 0) Elementwise.SoftCapScalar(x, cap, n);
        else if (width == 128) Elementwise.SoftCap<Simd128, Vector128<float>>(x, cap, n);
        else if (width == 256) Elementwise.SoftCap<Simd256, Vector256<float>>(x, cap, n);
        else Elementwise.SoftCap<Simd512, Vector512<float>>(x, cap, n);
    }
}
