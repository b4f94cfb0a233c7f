using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Native.Kernels.Cpu;

/// <summary>One table of rotary frequencies, and the cosines and sines for the rows of the current step.</summary>
/// <remarks>Once a step call <see cref="Begin"/>, then <see cref="Compute"/> for all rows, in ranges on any
/// threads.</remarks>
internal sealed unsafe class StepRotations(ReadOnlySpan<double> inverseFrequencies, float magnitude) : IDisposable
{
    private readonly double[] _inverseFrequencies = inverseFrequencies.ToArray();
    private readonly float _magnitude = magnitude;
    private float* _rows;
    private int _capacity;

    /// <summary>Pairs of elements the table rotates.</summary>
    public int Pairs => _inverseFrequencies.Length;

    /// <summary>Cosines of a row, shape [pairs].</summary>
    public float* Cosines(int row) => _rows + (2L * row * Pairs);

    /// <summary>Sines of a row, shape [pairs].</summary>
    public float* Sines(int row) => Cosines(row) + Pairs;

    /// <summary>Makes room for a step's rows. Allocates only if the step is larger than every earlier one.</summary>
    public void Begin(int tokens)
    {
        if (tokens <= _capacity) return;
        NativeMemory.AlignedFree(_rows);
        _rows = null;
        _capacity = 0;
        _rows = (float*)NativeMemory.AlignedAlloc((nuint)(2L * tokens * Math.Max(Pairs, 1) * sizeof(float)), 64);
        _capacity = tokens;
    }

    /// <summary>Cosines and sines of rows [first, last). Angles are double: at position 100,000 a float angle is off by
    /// 0.004 radians.</summary>
    public void Compute(CpuStep step, int first, int last)
    {
        for (int t = first; t < last; t++)
        {
            float* cosines = Cosines(t), sines = Sines(t);
            double position = step.Positions[t];
            for (int i = 0; i < _inverseFrequencies.Length; i++)
            {
                (double sine, double cosine) = Math.SinCos(position * _inverseFrequencies[i]);
                cosines[i] = (float)(cosine * _magnitude);
                sines[i] = (float)(sine * _magnitude);
            }
        }
    }

    /// <summary>Frees the native memory.</summary>
    public void Dispose()
    {
        NativeMemory.AlignedFree(_rows);
        _rows = null;
        _capacity = 0;
    }
}

/// <summary>Rotary position embedding (Su et al. 2021, arXiv:2104.09864), and conversion of floats to a cache's
/// type.</summary>
internal static unsafe class Rope
{
    /// <summary>Rotates pairs of elements of one head by the angles given.</summary>
    public static void Rotate(float* x, float* cosines, float* sines, int pairs, RopePairing pairing)
    {
        if (pairing == RopePairing.Interleaved) RotateInterleaved(x, cosines, sines, pairs);
        else if (Vector512.IsHardwareAccelerated) RotateHalfSplit<Simd512, Vector512<float>>(x, cosines, sines, pairs);
        else if (Vector256.IsHardwareAccelerated) RotateHalfSplit<Simd256, Vector256<float>>(x, cosines, sines, pairs);
        else if (Vector128.IsHardwareAccelerated) RotateHalfSplit<Simd128, Vector128<float>>(x, cosines, sines, pairs);
        else RotateScalar(x, cosines, sines, pairs, pairing);
    }

    /// <summary>The definition.</summary>
    internal static void RotateScalar(float* x, float* cosines, float* sines, int pairs, RopePairing pairing)
    {
        for (int i = 0; i < pairs; i++)
        {
            float* a = pairing == RopePairing.Interleaved ? x + (2 * i) : x + i;
            float* b = pairing == RopePairing.Interleaved ? a + 1 : a + pairs;
            (*a, *b) = ((*a * cosines[i]) - (*b * sines[i]), (*b * cosines[i]) + (*a * sines[i]));
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void RotateHalfSplit<S, V>(float* x, float* cosines, float* sines, int pairs)
        where S : struct, ISimd<V>
        where V : struct
    {
        int i = 0;
        for (; i <= pairs - S.Count; i += S.Count)
        {
            V a = S.Load(x + i), b = S.Load(x + pairs + i), c = S.Load(cosines + i), s = S.Load(sines + i);
            S.Store(S.Subtract(S.Multiply(a, c), S.Multiply(b, s)), x + i);
            S.Store(S.Add(S.Multiply(b, c), S.Multiply(a, s)), x + pairs + i);
        }
        for (; i < pairs; i++)
        {
            float a = x[i], b = x[pairs + i];
            x[i] = (a * cosines[i]) - (b * sines[i]);
            x[pairs + i] = (b * cosines[i]) + (a * sines[i]);
        }
    }

    // Four pairs at a time by shuffles; the multiplications and additions are the definition's.
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void RotateInterleaved(float* x, float* cosines, float* sines, int pairs)
    {
        int i = 0;
        if (Vector128.IsHardwareAccelerated)
        {
            Vector128<float> minusPlus = Vector128.Create(-0f, 0f, -0f, 0f);
            for (; i <= pairs - 4; i += 4)
            {
                Vector128<float> c = Vector128.Load(cosines + i), s = Vector128.Load(sines + i);
                Vector128<float> low = Vector128.Load(x + (2 * i)), high = Vector128.Load(x + (2 * i) + 4);
                Vector128<float> lowSine = Vector128.Shuffle(s, Vector128.Create(0, 0, 1, 1)) ^ minusPlus;
                Vector128<float> highSine = Vector128.Shuffle(s, Vector128.Create(2, 2, 3, 3)) ^ minusPlus;
                Vector128<float> lowSwapped = Vector128.Shuffle(low, Vector128.Create(1, 0, 3, 2));
                Vector128<float> highSwapped = Vector128.Shuffle(high, Vector128.Create(1, 0, 3, 2));
                ((low * Vector128.Shuffle(c, Vector128.Create(0, 0, 1, 1))) + (lowSwapped * lowSine))
                    .Store(x + (2 * i));
                ((high * Vector128.Shuffle(c, Vector128.Create(2, 2, 3, 3))) + (highSwapped * highSine))
                    .Store(x + (2 * i) + 4);
            }
        }
        RotateScalar(x + (2 * i), cosines + i, sines + i, pairs - i, RopePairing.Interleaved);
    }

    /// <summary>Converts n floats to the type of <paramref name="destination"/>, to nearest even, and writes them from
    /// element <paramref name="offset"/> on.</summary>
    public static void Convert(float* source, Tensor destination, long offset, int n)
    {
        if (destination.Type == DType.F32)
        {
            new ReadOnlySpan<float>(source, n).CopyTo(new Span<float>((float*)destination.Address + offset, n));
            return;
        }
        ushort* target = (ushort*)destination.Address + offset;
        if (Vector512.IsHardwareAccelerated) Convert<Simd512, Vector512<float>>(source, target, destination.Type, n);
        else if (Vector256.IsHardwareAccelerated)
            Convert<Simd256, Vector256<float>>(source, target, destination.Type, n);
        else if (Vector128.IsHardwareAccelerated)
            Convert<Simd128, Vector128<float>>(source, target, destination.Type, n);
        else ConvertScalar(source, target, destination.Type, n);
    }

    /// <summary>The definition.</summary>
    internal static void ConvertScalar(float* source, ushort* target, DType type, int n)
    {
        for (int i = 0; i < n; i++)
        {
            uint bits = BitConverter.SingleToUInt32Bits(source[i]);
            target[i] = type == DType.F16 ? BitConverter.HalfToUInt16Bits((Half)source[i])
                : float.IsNaN(source[i]) ? (ushort)((bits >> 16) | 0x40)
                : (ushort)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    internal static void Convert<S, V>(float* source, ushort* target, DType type, int n)
        where S : struct, ISimd<V>
        where V : struct
    {
        int i = 0;
        if (type == DType.F16)
        {
            for (; i <= n - S.Count; i += S.Count) S.StoreF16(S.Load(source + i), target + i);
        }
        else
        {
            for (; i <= n - S.Count; i += S.Count) S.StoreBF16(S.Load(source + i), target + i);
        }
        ConvertScalar(source + i, target + i, type, n - i);
    }
}
