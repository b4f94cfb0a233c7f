using Native.Kernels.Cpu;
using Native.Kernels.Sampling;

namespace Native.Tests.Kernels.Cpu;

public sealed unsafe class Q8BlockTests
{
    /// <summary>Magnitudes from subnormals to the largest floats.</summary>
    [Fact]
    public void Quantize_IsTheDefinition_WithinHalfAStepOfTheElement()
    {
        float* x = stackalloc float[32];
        sbyte* bytes = stackalloc sbyte[32], defined = stackalloc sbyte[32];
        for (int exponent = -149; exponent <= 127; exponent++)
        {
            for (uint sample = 0; sample < 20; sample++)
            {
                for (uint i = 0; i < 32; i++) x[i] = MathF.ScaleB((Philox.Block((i, sample, (uint)exponent, 0), (7, 0)).X0 * (2f / uint.MaxValue)) - 1, exponent);
                ushort scale = Q8Block.Quantize(x, 32, bytes);
                Assert.Equal(Q8Block.QuantizeScalar(x, 32, defined), scale);
                Assert.Equal(new Span<sbyte>(defined, 32), new Span<sbyte>(bytes, 32));
                float largest = 0;
                for (int i = 0; i < 32; i++) largest = MathF.Max(largest, MathF.Abs(x[i]));
                // A bfloat16 is less than 1/127 above what it stands for, a subnormal one less than 2^-133; what is
                // below 2^-150 is nothing.
                double step = Q8Block.Widen(scale), smallest = Math.ScaleB(1, -133), nothing = 127 * Math.ScaleB(1, -150);
                Assert.InRange(step * 127, (largest * (1 - 1e-6)) - nothing, Math.Max(largest * 1.008, largest + (127 * smallest)));
                for (int i = 0; i < 32; i++)
                {
                    Assert.InRange(bytes[i], (sbyte)-127, (sbyte)127);
                    Assert.InRange(Math.Abs((bytes[i] * step) - x[i]), 0, (step * 0.50001) + nothing);
                }
            }
        }
    }

    [Theory, InlineData(1), InlineData(16), InlineData(31), InlineData(32)]
    public void WhatIsNotFinite_MakesItsBlockNaN_AndZerosStayZeros(int n)
    {
        float* x = stackalloc float[32];
        sbyte* bytes = stackalloc sbyte[32];
        foreach (float value in new[] { float.NaN, float.PositiveInfinity, float.NegativeInfinity })
        {
            for (int at = 0; at < n; at++)
            {
                new Span<float>(x, 32).Fill(1);
                x[at] = value;
                Assert.True(float.IsNaN(Q8Block.Widen(Q8Block.Quantize(x, n, bytes))));
            }
        }
        new Span<float>(x, 32).Fill(-0f);
        new Span<sbyte>(bytes, 32).Fill(9);
        Assert.Equal(0, Q8Block.Quantize(x, n, bytes));
        Assert.Equal(n, new Span<sbyte>(bytes, 32).IndexOf((sbyte)9) is var end and >= 0 ? end : 32);
        Assert.True(new Span<sbyte>(bytes, n).IndexOfAnyExcept((sbyte)0) < 0);
    }
}
