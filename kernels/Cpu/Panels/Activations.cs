using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Native.Kernels.Cpu.Panels;

/// <summary>32 activations of one row, rounded to int8 with one float scale: x[k] is about Scale * Quants[k]. It fills
/// one cache line.</summary>
/// <remarks>
/// Minimums are multiplied by sums of the rounded values, not of the exact ones. With the same rounded x in both terms,
/// its error is multiplied by the weight itself, which is smaller than the weight without its minimum.
/// </remarks>
[StructLayout(LayoutKind.Explicit, Size = 64)]
internal unsafe struct ActivationBlock
{
    /// <summary>Where the fields lie, for machine code.</summary>
    public const int ScaleField = 32, SumField = 36, ScaledSumField = 40, FirstSumField = 44, LastSumField = 48,
        FirstScaledSumField = 52, LastScaledSumField = 56;

    /// <summary>-127 to 127, rounded to nearest, ties to even.</summary>
    [FieldOffset(0)] public fixed sbyte Quants[32];

    /// <summary>The greatest magnitude / 127; NaN where a value is not finite.</summary>
    [FieldOffset(ScaleField)] public float Scale;

    /// <summary>Minus 4 times the sum of the integers: the correction for unsigned weights with the smallest offset.
    /// Larger offsets shift it left.</summary>
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

    /// <summary>A block whose squared integers sum to less has an outlier: its greatest value is more than four times
    /// the root of its mean square. Eight bits are enough for the others.</summary>
    private const int EvenSquares = 127 * 127 * 32 / 16;

    /// <summary>Rounds a row of columns / 32 blocks.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Quantize(float* x, int columns, ActivationBlock* blocks)
    {
        if (Avx512BW.IsSupported)
        {
            QuantizeAvx512(x, columns / 32, blocks, null, null);
            return;
        }
        for (; columns > 0; columns -= 32, x += 32, blocks++)
        {
            if (Vector128.IsHardwareAccelerated) QuantizeVector(x, blocks);
            else QuantizeScalar(x, blocks);
        }
    }

    /// <summary>The same. In blocks with an outlier, what rounding left over is rounded again into
    /// <paramref name="rest"/>: both together hold sixteen bits. The rest of other blocks is zeros.</summary>
    /// <remarks>An outlier makes the steps of the other 31 values coarse. Such blocks are a quarter of SmolLM2's and
    /// have nearly all of the error (bench/results/quality.md). The integers tell which they are, so every variant
    /// agrees.</remarks>
    /// <param name="x">The row.</param>
    /// <param name="columns">Its length, a multiple of 32.</param>
    /// <param name="blocks">Receives columns / 32 blocks.</param>
    /// <param name="rest">Receives as many.</param>
    /// <param name="outliers">Receives a bit for each block, set where it has an outlier, in whole words.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void QuantizeFine(float* x, int columns, ActivationBlock* blocks, ActivationBlock* rest,
        ulong* outliers)
    {
        new Span<ulong>(outliers, OutlierWords(columns)).Clear();
        if (Avx512BW.IsSupported)
        {
            QuantizeAvx512(x, columns / 32, blocks, rest, outliers);
            return;
        }
        float* left = stackalloc float[32];
        for (int b = 0; b < columns / 32; b++, x += 32, blocks++, rest++)
        {
            Quantize(x, 32, blocks);
            int squares = 0;
            for (int k = 0; k < 32; k++) squares += blocks->Quants[k] * blocks->Quants[k];
            if (squares >= EvenSquares)
            {
                *rest = default;
                continue;
            }
            // Fused: the difference is rounded once.
            for (int k = 0; k < 32; k++) left[k] = MathF.FusedMultiplyAdd(-blocks->Scale, blocks->Quants[k], x[k]);
            Quantize(left, 32, rest);
            outliers[b / 64] |= 1UL << (b % 64);
        }
    }

    /// <summary>Words that have a bit for each block of a row.</summary>
    public static int OutlierWords(int columns) => (columns / 32 + 63) / 64;

    /// <summary>The definition.</summary>
    internal static void QuantizeScalar(float* x, ActivationBlock* block)
    {
        // Magnitudes are compared as integers: the bits of NaN and infinity are above those of every number.
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

    // Sixteen blocks at a time: their greatest magnitudes, then all scales in one vector, then the integers. A single
    // block would wait for its own scale.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void QuantizeAvx512(float* x, int count, ActivationBlock* blocks, ActivationBlock* rest,
        ulong* outliers)
    {
        int* greatest = stackalloc int[16];
        float* scales = stackalloc float[16], inverses = stackalloc float[16], left = stackalloc float[32];
        Vector512<int> magnitude = Vector512.Create(int.MaxValue);
        Vector256<byte> offset = Vector256.Create((byte)128);
        Vector256<int> firsts = Vector256.Create(0, 0, 0, 0, 4, 0, 4, 0),
            lasts = Vector256.Create(1, 4, 4, 1, 1, 1, 1, 1);
        Vector256<int> isInteger = Vector256.Create(0, -1, 0, -1, -1, 0, 0, 0),
            isScale = Vector256.Create(-1, 0, 0, 0, 0, 0, 0, 0), used = Vector256.Create(-1, -1, -1, -1, -1, -1, -1, 0);
        for (int done = 0, n; done < count; done += n)
        {
            n = Math.Min(count - done, 16);
            for (int i = 0; i < n; i++)
            {
                Vector512<int> sixteen =
                    Vector512.Max(Vector512.Load(x + (32 * i)).AsInt32() & magnitude,
                    Vector512.Load(x + (32 * i) + 16).AsInt32() & magnitude);
                greatest[i] = Largest(Vector256.Max(sixteen.GetLower(), sixteen.GetUpper()));
            }
            Scales(Vector512.Load(greatest), scales, inverses);

            for (int i = 0; i < n; i++, x += 32, blocks++)
            {
                Vector512<float> inverse = Vector512.Create(inverses[i]), a = Vector512.Load(x),
                    b = Vector512.Load(x + 16);
                // The conversion rounds to nearest even. A value that is not finite becomes -2^31, whose last byte is
                // 0.
                Vector512<int> integersA = Avx512F.ConvertToVector512Int32(a * inverse),
                    integersB = Avx512F.ConvertToVector512Int32(b * inverse);
                Vector256<sbyte> integers =
                    Vector256.Create(Avx512F.ConvertToVector128SByte(integersA),
                    Avx512F.ConvertToVector128SByte(integersB));
                integers.Store(blocks->Quants);
                // Sums of eight bytes. The instruction takes unsigned bytes, so each is made 128 larger.
                Vector256<long> sums = Avx2.SumAbsoluteDifferences(integers.AsByte() ^ offset, Vector256<byte>.Zero)
                    .AsInt64();
                Vector256<int> halves = (sums + Avx2.Shuffle(sums.AsInt32(), 0b01_00_11_10)
                    .AsInt64() - Vector256.Create(16L * 128)).AsInt32();
                // The fields in their order: scale; sums of all, all, first and last, first and last; nothing.
                Vector256<int> ofFields = Avx2.PermuteVar8x32(halves, firsts)
                    + (Avx2.PermuteVar8x32(halves, lasts) & Vector256.Create(0, -1, -1, 0, 0, 0, 0, 0));
                Vector256<float> scale = Vector256.Create(scales[i]),
                    scaled = Vector256.ConvertToSingle(ofFields) * scale;
                Vector256<int> fields = Vector256.ConditionalSelect(isInteger, Vector256<int>.Zero - (ofFields << 2),
                    Vector256.ConditionalSelect(isScale.AsSingle(), scale, scaled).AsInt32());
                (fields & used).Store((int*)((byte*)blocks + ScaleField));
                if (rest == null) continue;

                Vector512<short> wide = Avx512BW.ConvertToVector512Int16(integers);
                if (Vector512.Sum(Avx512BW.MultiplyAddAdjacent(wide, wide)) >= EvenSquares)
                {
                    *rest = default;
                }
                else
                {
                    // Fused: the difference is rounded once.
                    Vector512<float> minus = Vector512.Create(-scales[i]);
                    Vector512.FusedMultiplyAdd(minus, Vector512.ConvertToSingle(integersA), a).Store(left);
                    Vector512.FusedMultiplyAdd(minus, Vector512.ConvertToSingle(integersB), b).Store(left + 16);
                    QuantizeAvx512(left, 1, rest, null, null);
                    outliers[(done + i) / 64] |= 1UL << ((done + i) % 64);
                }
                rest++;
            }
        }
    }

    /// <summary>The same as <see cref="Begin"/>, for sixteen blocks.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Scales(Vector512<int> greatest, float* scales, float* inverses)
    {
        Vector512<float> max = greatest.AsSingle(), steps = Vector512.Create(127f);
        Vector512<int> finite = Vector512.LessThan(greatest, Vector512.Create(0x7f800000)),
            zero = Vector512.LessThan(max, Vector512.Create(Smallest)).AsInt32();
        Vector512<float> scale = Vector512.AndNot(max / steps, zero.AsSingle());
        Vector512.ConditionalSelect(finite.AsSingle(), scale, Vector512.Create(float.NaN)).Store(scales);
        (Vector512.AndNot(steps / max, zero.AsSingle()).AsInt32() & finite).AsSingle().Store(inverses);
    }

    private static void QuantizeVector(float* x, ActivationBlock* block)
    {
        Vector256<float> a = Vector256.Load(x), b = Vector256.Load(x + 8), c = Vector256.Load(x + 16),
            d = Vector256.Load(x + 24);
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
        Vector256<int> qa = Vector256.ConvertToInt32Native(Vector256.Round(a * times)),
            qb = Vector256.ConvertToInt32Native(Vector256.Round(b * times));
        Vector256<int> qc = Vector256.ConvertToInt32Native(Vector256.Round(c * times)),
            qd = Vector256.ConvertToInt32Native(Vector256.Round(d * times));
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
        (block->FirstNegativeSum4, block->LastNegativeSum4, block->NegativeSum4) =
            (-4 * first, -4 * last, -4 * (first + last));
        (block->FirstScaledSum, block->LastScaledSum, block->ScaledSum) =
            (block->Scale * first, block->Scale * last, block->Scale * (first + last));
    }
}
