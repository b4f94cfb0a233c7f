using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Native.Kernels.Cpu;

/// <summary>32 activations of one row, rounded to int8 with one float scale: x[k] is about Scale * Quants[k]. One cache line.</summary>
/// <remarks>
/// Minimums are multiplied by the sums of the rounded values, not of the exact ones: with one and the same rounded x in both terms its
/// error meets the weight itself, which is smaller than the weight without its minimum.
/// </remarks>
[StructLayout(LayoutKind.Explicit, Size = 64)]
internal unsafe struct ActivationBlock
{
    /// <summary>Where the fields lie, for machine code.</summary>
    public const int ScaleField = 32, SumField = 36, ScaledSumField = 40, FirstSumField = 44, LastSumField = 48, FirstScaledSumField = 52, LastScaledSumField = 56;

    /// <summary>-127 to 127, rounded to nearest, ties to even.</summary>
    [FieldOffset(0)] public fixed sbyte Quants[32];

    /// <summary>The greatest magnitude / 127; NaN where a value is not finite.</summary>
    [FieldOffset(ScaleField)] public float Scale;

    /// <summary>Minus 4 times the sum of the integers: what unsigned weights have too much, for the smallest offset; shifted left for the others.</summary>
    [FieldOffset(SumField)] public int NegativeSum4;

    /// <summary>Scale times the sum of the integers.</summary>
    [FieldOffset(ScaledSumField)] public float ScaledSum;

    /// <summary>Minus 4 times the sum of the first 16 integers.</summary>
    [FieldOffset(FirstSumField)] public int FirstNegativeSum4;

    /// <summary>Minus 4 times the sum of the last 16 integers.</summary>
    [FieldOffset(LastSumField)] public int LastNegativeSum4;

    /// <summary>Scale times the sum of the first 16 integers.</summary>
    [FieldOffset(FirstScaledSumField)] public float FirstScaledSum;

    /// <summary>Scale times the sum of the last 16 integers.</summary>
    [FieldOffset(LastScaledSumField)] public float LastScaledSum;

    /// <summary>Below this magnitude, where 127 / x may overflow, values count as zero.</summary>
    public const float Smallest = 1e-36f;

    /// <summary>From this sum of its squared integers on a block is even enough for eight bits; below, its greatest value is more than four times the root of its mean square.</summary>
    private const int EvenSquares = 127 * 127 * 32 / 16;

    /// <summary>Rounds a row of columns / 32 blocks.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Quantize(float* x, int columns, ActivationBlock* blocks)
    {
        for (; columns > 0; columns -= 32, x += 32, blocks++)
        {
            if (Avx512BW.IsSupported) QuantizeAvx512(Vector512.Load(x), Vector512.Load(x + 16), blocks);
            else if (Vector128.IsHardwareAccelerated) QuantizeVector(x, blocks);
            else QuantizeScalar(x, blocks);
        }
    }

    /// <summary>The same, and what rounding left over of uneven blocks is rounded once more into <paramref name="rest"/>: together those hold sixteen bits. All others have no rest, only zeros.</summary>
    /// <remarks>One value far larger than the other 31 makes their steps coarse: such blocks, a quarter of SmolLM2's, have nearly all of the error (README.md). The integers tell which they are, so that every variant agrees.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void QuantizeFine(float* x, int columns, ActivationBlock* blocks, ActivationBlock* rest)
    {
        float* left = stackalloc float[32];
        for (; columns > 0; columns -= 32, x += 32, blocks++, rest++)
        {
            bool even;
            if (Avx512BW.IsSupported)
            {
                Vector512<float> a = Vector512.Load(x), b = Vector512.Load(x + 16);
                (Vector512<int> first, Vector512<int> last) = QuantizeAvx512(a, b, blocks);
                Vector512<float> low = Vector512.ConvertToSingle(first), high = Vector512.ConvertToSingle(last);
                even = Vector512.Sum(low * low + high * high) >= EvenSquares; // exact: integers below 2^24
                if (!even)
                {
                    // Fused: the difference is rounded once.
                    Vector512<float> scale = Vector512.Create(-blocks->Scale);
                    Vector512.FusedMultiplyAdd(scale, low, a).Store(left);
                    Vector512.FusedMultiplyAdd(scale, high, b).Store(left + 16);
                }
            }
            else
            {
                Quantize(x, 32, blocks);
                int squares = 0;
                for (int k = 0; k < 32; k++) squares += blocks->Quants[k] * blocks->Quants[k];
                even = squares >= EvenSquares;
                for (int k = 0; k < 32 && !even; k++) left[k] = MathF.FusedMultiplyAdd(-blocks->Scale, blocks->Quants[k], x[k]);
            }
            if (even) *rest = default;
            else Quantize(left, 32, rest);
        }
    }

    /// <summary>The definition.</summary>
    internal static void QuantizeScalar(float* x, ActivationBlock* block)
    {
        // Magnitudes compare as their bits do, and a NaN's or infinity's bits are above every number's.
        int greatest = 0;
        for (int k = 0; k < 32; k++) greatest = Math.Max(greatest, BitConverter.SingleToInt32Bits(x[k]) & int.MaxValue);
        float inverse = Begin(greatest, block);
        int first = 0, last = 0;
        for (int k = 0; k < 32; k++)
        {
            int q = inverse == 0 ? 0 : (int)MathF.Round(x[k] * inverse, MidpointRounding.ToEven);
            block->Quants[k] = (sbyte)q;
            if (k < 16) first += q;
            else last += q;
        }
        End(first, last, block);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static (Vector512<int> First, Vector512<int> Last) QuantizeAvx512(Vector512<float> a, Vector512<float> b, ActivationBlock* block)
    {
        Vector512<int> magnitude = Vector512.Create(int.MaxValue), greatest = Vector512.Max(a.AsInt32() & magnitude, b.AsInt32() & magnitude);
        float inverse = Begin(Largest(Vector256.Max(greatest.GetLower(), greatest.GetUpper())), block);
        if (inverse == 0)
        {
            Vector256<byte>.Zero.Store((byte*)block->Quants);
            End(0, 0, block);
            return default;
        }
        Vector512<float> times = Vector512.Create(inverse);
        // The conversion rounds to nearest even itself.
        Vector512<int> integersA = Avx512F.ConvertToVector512Int32(a * times), integersB = Avx512F.ConvertToVector512Int32(b * times);
        Vector128<sbyte> low = Avx512F.ConvertToVector128SByte(integersA), high = Avx512F.ConvertToVector128SByte(integersB);
        low.Store(block->Quants);
        high.Store(block->Quants + 16);
        // Sums of bytes, which that instruction takes for unsigned: each was made 128 larger.
        Vector128<byte> offset = Vector128.Create((byte)128);
        Vector128<ulong> first = Sse2.SumAbsoluteDifferences(low.AsByte() ^ offset, Vector128<byte>.Zero).AsUInt64(), last = Sse2.SumAbsoluteDifferences(high.AsByte() ^ offset, Vector128<byte>.Zero).AsUInt64();
        End((int)(first.ToScalar() + first.GetElement(1)) - 16 * 128, (int)(last.ToScalar() + last.GetElement(1)) - 16 * 128, block);
        return (integersA, integersB);
    }

    private static void QuantizeVector(float* x, ActivationBlock* block)
    {
        Vector256<float> a = Vector256.Load(x), b = Vector256.Load(x + 8), c = Vector256.Load(x + 16), d = Vector256.Load(x + 24);
        Vector256<int> magnitude = Vector256.Create(int.MaxValue);
        Vector256<int> greatest = Vector256.Max(
            Vector256.Max(a.AsInt32() & magnitude, b.AsInt32() & magnitude),
            Vector256.Max(c.AsInt32() & magnitude, d.AsInt32() & magnitude));
        float inverse = Begin(Largest(greatest), block);
        if (inverse == 0)
        {
            Vector256<byte>.Zero.Store((byte*)block->Quants);
            End(0, 0, block);
            return;
        }
        Vector256<float> times = Vector256.Create(inverse);
        Vector256<int> qa = Vector256.ConvertToInt32Native(Vector256.Round(a * times)), qb = Vector256.ConvertToInt32Native(Vector256.Round(b * times));
        Vector256<int> qc = Vector256.ConvertToInt32Native(Vector256.Round(c * times)), qd = Vector256.ConvertToInt32Native(Vector256.Round(d * times));
        Vector256.Narrow(Vector256.Narrow(qa, qb), Vector256.Narrow(qc, qd)).Store(block->Quants);
        End(Vector256.Sum(qa + qb), Vector256.Sum(qc + qd), block);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static int Largest(Vector256<int> eight)
    {
        Vector128<int> four = Vector128.Max(eight.GetLower(), eight.GetUpper());
        four = Vector128.Max(four, Vector128.Shuffle(four, Vector128.Create(2, 3, 0, 1)));
        four = Vector128.Max(four, Vector128.Shuffle(four, Vector128.Create(1, 0, 3, 2)));
        return four.ToScalar();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float Begin(int greatest, ActivationBlock* block)
    {
        float max = BitConverter.Int32BitsToSingle(greatest);
        bool finite = greatest < 0x7f800000;
        block->Scale = !finite ? float.NaN : max < Smallest ? 0 : max / 127;
        return !finite || max < Smallest ? 0 : 127 / max;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void End(int first, int last, ActivationBlock* block)
    {
        (block->FirstNegativeSum4, block->LastNegativeSum4, block->NegativeSum4) = (-4 * first, -4 * last, -4 * (first + last));
        (block->FirstScaledSum, block->LastScaledSum, block->ScaledSum) = (block->Scale * first, block->Scale * last, block->Scale * (first + last));
    }
}
