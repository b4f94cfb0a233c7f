using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.Arm;
using System.Runtime.Intrinsics.X86;
using Native.Kernels.Cpu.Jit;
using Native.Kernels.Cpu.Machine;

namespace Native.Bench.Throughput;

/// <summary>A loop that does nothing but multiply and add in registers.</summary>
/// <param name="instructions">By which instructions, in words.</param>
/// <param name="code">Runs so many rounds. Unmanaged, so that code assembled at run time is measured like code of
/// ours.</param>
/// <param name="operationsPerRound">Multiplications and additions of one round.</param>
internal sealed unsafe class ArithmeticLoop(string instructions, delegate* unmanaged<long, void> code,
    double operationsPerRound)
{
    public string Instructions { get; } = instructions;

    public delegate* unmanaged<long, void> Code { get; } = code;

    public double OperationsPerRound { get; } = operationsPerRound;
}

/// <summary>How many operations a second this processor does at most, by threads that each run a loop without
/// memory.</summary>
/// <remarks>
/// Loops in C# intrinsics, and in machine code (<see cref="PeakProbe"/>) for the 512-bit VPDPBUSD and VDPBF16PS, for
/// which .NET has none.
/// </remarks>
internal static unsafe class ArithmeticPeak
{
    private const double Seconds = 0.01; // a probe is to end before the machine has changed

    private static Vector512<int> s_integers; // what was computed is kept, so that it can't be left out
    private static Vector512<float> s_floats;

    /// <summary>Loops over products of bytes with sums of 32 bits that this processor runs; none where it has no
    /// instruction for them.</summary>
    public static IReadOnlyList<ArithmeticLoop> Int8Loops { get; } =
    [
        .. PeakProbe.Int8 != 0
            ? [new ArithmeticLoop("VPDPBUSD, 512 bits", (delegate* unmanaged<long, void>)PeakProbe.Int8,
                PeakProbe.Int8Operations)] : (ArithmeticLoop[])[],
        .. AvxVnni.IsSupported ? [new ArithmeticLoop("VPDPBUSD, 256 bits", &Vnni256, 12 * 64)] : (ArithmeticLoop[])[],
        .. Avx512BW.IsSupported ? [new ArithmeticLoop("VPMADDUBSW, 512 bits", &Pairs512, 6 * 128)]
            : (ArithmeticLoop[])[],
        .. Avx2.IsSupported ? [new ArithmeticLoop("VPMADDUBSW, 256 bits", &Pairs256, 6 * 64)] : (ArithmeticLoop[])[],
        .. Dp.IsSupported ? [new ArithmeticLoop("SDOT, 128 bits", &Dot128, 12 * 32)] : (ArithmeticLoop[])[],
    ];

    /// <summary>Loops over products of bfloat16 with sums of float32.</summary>
    public static IReadOnlyList<ArithmeticLoop> BFloat16Loops { get; } =
    [
        .. PeakProbe.BFloat16 != 0
            ? [new ArithmeticLoop("VDPBF16PS, 512 bits", (delegate* unmanaged<long, void>)PeakProbe.BFloat16,
                PeakProbe.BFloat16Operations)] : (ArithmeticLoop[])[],
    ];

    /// <summary>Loops over products and sums of float32.</summary>
    public static IReadOnlyList<ArithmeticLoop> FloatLoops { get; } =
    [
        .. Avx512F.IsSupported ? [new ArithmeticLoop("FMA, 512 bits", &Fma512, 12 * 32)] : (ArithmeticLoop[])[],
        .. Vector256.IsHardwareAccelerated ? [new ArithmeticLoop("FMA, 256 bits", &Fma256, 12 * 16)]
            : (ArithmeticLoop[])[],
        new ArithmeticLoop("FMA, 128 bits", &Fma128, 12 * 8),
    ];

    /// <summary>The loop that does most operations on one thread; null of none.</summary>
    public static ArithmeticLoop? Fastest(IReadOnlyList<ArithmeticLoop> loops) =>
        loops.MaxBy(loop => Enumerable.Range(0, 3).Max(_ => OperationsPerSecond(loop, 1)));

    /// <summary>How many operations a second a loop does on so many threads at once.</summary>
    public static double OperationsPerSecond(ArithmeticLoop loop, int threads)
    {
        using WorkerPool pool = new(threads);
        return OperationsPerSecond(loop, pool);
    }

    /// <summary>The same on threads there are already.</summary>
    public static double OperationsPerSecond(ArithmeticLoop loop, WorkerPool pool)
    {
        // As many rounds as take the time, found by doubling; the first are also what the processor needs to raise its
        // clock.
        Work work = new() { Code = loop.Code, Rounds = 1 << 12 };
        while (true)
        {
            long started = Stopwatch.GetTimestamp();
            pool.For(pool.Threads, 1, &Run, &work); // a thread that is awake early may take two shares: the time tells
            double seconds = Stopwatch.GetElapsedTime(started).TotalSeconds;
            if (seconds >= Seconds) return pool.Threads * work.Rounds * loop.OperationsPerRound / seconds;
            work.Rounds *= 2;
        }
    }

    private static void Run(void* context, int from, int to, int worker)
    {
        Work* work = (Work*)context;
        for (int share = from; share < to; share++) work->Code(work->Rounds);
    }

    // An instruction's result is there after about four cycles and two begin in each: 8 sums or more that don't wait
    // for each other. Optimized at once: none of these is called often enough to be compiled twice.

    [UnmanagedCallersOnly, MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Vnni256(long rounds)
    {
        Vector256<byte> x = Vector256.Create((byte)3);
        Vector256<sbyte> y = Vector256.Create((sbyte)-5);
        Vector256<int> a = default, b = default, c = default, d = default, e = default, f = default, g = default,
            h = default, i = default, j = default, k = default, l = default;
        for (long round = 0; round < rounds; round++)
        {
            a = AvxVnni.MultiplyWideningAndAdd(a, x, y);
            b = AvxVnni.MultiplyWideningAndAdd(b, x, y);
            c = AvxVnni.MultiplyWideningAndAdd(c, x, y);
            d = AvxVnni.MultiplyWideningAndAdd(d, x, y);
            e = AvxVnni.MultiplyWideningAndAdd(e, x, y);
            f = AvxVnni.MultiplyWideningAndAdd(f, x, y);
            g = AvxVnni.MultiplyWideningAndAdd(g, x, y);
            h = AvxVnni.MultiplyWideningAndAdd(h, x, y);
            i = AvxVnni.MultiplyWideningAndAdd(i, x, y);
            j = AvxVnni.MultiplyWideningAndAdd(j, x, y);
            k = AvxVnni.MultiplyWideningAndAdd(k, x, y);
            l = AvxVnni.MultiplyWideningAndAdd(l, x, y);
        }
        s_integers = (a + b + c + d + e + f + g + h + i + j + k + l).ToVector512();
    }

    [UnmanagedCallersOnly, MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Pairs512(long rounds)
    {
        Vector512<byte> x = Vector512.Create((byte)3);
        Vector512<short> ones = Vector512.Create((short)1);
        Vector512<sbyte> u = Vector512.Create((sbyte)-5), v = Vector512.Create((sbyte)7),
            w = Vector512.Create((sbyte)-9), p = Vector512.Create((sbyte)11), q = Vector512.Create((sbyte)-13),
            r = Vector512.Create((sbyte)15);
        Vector512<int> a = default, b = default, c = default, d = default, e = default, f = default;
        for (long round = 0; round < rounds; round++)
        {
            a += Avx512BW.MultiplyAddAdjacent(Avx512BW.MultiplyAddAdjacent(x, u), ones);
            b += Avx512BW.MultiplyAddAdjacent(Avx512BW.MultiplyAddAdjacent(x, v), ones);
            c += Avx512BW.MultiplyAddAdjacent(Avx512BW.MultiplyAddAdjacent(x, w), ones);
            d += Avx512BW.MultiplyAddAdjacent(Avx512BW.MultiplyAddAdjacent(x, p), ones);
            e += Avx512BW.MultiplyAddAdjacent(Avx512BW.MultiplyAddAdjacent(x, q), ones);
            f += Avx512BW.MultiplyAddAdjacent(Avx512BW.MultiplyAddAdjacent(x, r), ones);
            x += ones.AsByte(); // or each product would be the one of the round before, and be left out
        }
        s_integers = a + b + c + d + e + f;
    }

    [UnmanagedCallersOnly, MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Pairs256(long rounds)
    {
        Vector256<byte> x = Vector256.Create((byte)3);
        Vector256<short> ones = Vector256.Create((short)1);
        Vector256<sbyte> u = Vector256.Create((sbyte)-5), v = Vector256.Create((sbyte)7),
            w = Vector256.Create((sbyte)-9), p = Vector256.Create((sbyte)11), q = Vector256.Create((sbyte)-13),
            r = Vector256.Create((sbyte)15);
        Vector256<int> a = default, b = default, c = default, d = default, e = default, f = default;
        for (long round = 0; round < rounds; round++)
        {
            a += Avx2.MultiplyAddAdjacent(Avx2.MultiplyAddAdjacent(x, u), ones);
            b += Avx2.MultiplyAddAdjacent(Avx2.MultiplyAddAdjacent(x, v), ones);
            c += Avx2.MultiplyAddAdjacent(Avx2.MultiplyAddAdjacent(x, w), ones);
            d += Avx2.MultiplyAddAdjacent(Avx2.MultiplyAddAdjacent(x, p), ones);
            e += Avx2.MultiplyAddAdjacent(Avx2.MultiplyAddAdjacent(x, q), ones);
            f += Avx2.MultiplyAddAdjacent(Avx2.MultiplyAddAdjacent(x, r), ones);
            x += ones.AsByte(); // or each product would be the one of the round before, and be left out
        }
        s_integers = (a + b + c + d + e + f).ToVector512();
    }

    [UnmanagedCallersOnly, MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Dot128(long rounds)
    {
        Vector128<sbyte> x = Vector128.Create((sbyte)3), y = Vector128.Create((sbyte)-5);
        Vector128<int> a = default, b = default, c = default, d = default, e = default, f = default, g = default,
            h = default, i = default, j = default, k = default, l = default;
        for (long round = 0; round < rounds; round++)
        {
            a = Dp.DotProduct(a, x, y);
            b = Dp.DotProduct(b, x, y);
            c = Dp.DotProduct(c, x, y);
            d = Dp.DotProduct(d, x, y);
            e = Dp.DotProduct(e, x, y);
            f = Dp.DotProduct(f, x, y);
            g = Dp.DotProduct(g, x, y);
            h = Dp.DotProduct(h, x, y);
            i = Dp.DotProduct(i, x, y);
            j = Dp.DotProduct(j, x, y);
            k = Dp.DotProduct(k, x, y);
            l = Dp.DotProduct(l, x, y);
        }
        s_integers = (a + b + c + d + e + f + g + h + i + j + k + l).ToVector256().ToVector512();
    }

    [UnmanagedCallersOnly, MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Fma512(long rounds)
    {
        Vector512<float> x = Vector512.Create(0.5f), y = Vector512.Create(0.25f);
        Vector512<float> a = default, b = default, c = default, d = default, e = default, f = default, g = default,
            h = default, i = default, j = default, k = default, l = default;
        for (long round = 0; round < rounds; round++)
        {
            a = Vector512.FusedMultiplyAdd(a, x, y);
            b = Vector512.FusedMultiplyAdd(b, x, y);
            c = Vector512.FusedMultiplyAdd(c, x, y);
            d = Vector512.FusedMultiplyAdd(d, x, y);
            e = Vector512.FusedMultiplyAdd(e, x, y);
            f = Vector512.FusedMultiplyAdd(f, x, y);
            g = Vector512.FusedMultiplyAdd(g, x, y);
            h = Vector512.FusedMultiplyAdd(h, x, y);
            i = Vector512.FusedMultiplyAdd(i, x, y);
            j = Vector512.FusedMultiplyAdd(j, x, y);
            k = Vector512.FusedMultiplyAdd(k, x, y);
            l = Vector512.FusedMultiplyAdd(l, x, y);
        }
        s_floats = a + b + c + d + e + f + g + h + i + j + k + l;
    }

    [UnmanagedCallersOnly, MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Fma256(long rounds)
    {
        Vector256<float> x = Vector256.Create(0.5f), y = Vector256.Create(0.25f);
        Vector256<float> a = default, b = default, c = default, d = default, e = default, f = default, g = default,
            h = default, i = default, j = default, k = default, l = default;
        for (long round = 0; round < rounds; round++)
        {
            a = Vector256.FusedMultiplyAdd(a, x, y);
            b = Vector256.FusedMultiplyAdd(b, x, y);
            c = Vector256.FusedMultiplyAdd(c, x, y);
            d = Vector256.FusedMultiplyAdd(d, x, y);
            e = Vector256.FusedMultiplyAdd(e, x, y);
            f = Vector256.FusedMultiplyAdd(f, x, y);
            g = Vector256.FusedMultiplyAdd(g, x, y);
            h = Vector256.FusedMultiplyAdd(h, x, y);
            i = Vector256.FusedMultiplyAdd(i, x, y);
            j = Vector256.FusedMultiplyAdd(j, x, y);
            k = Vector256.FusedMultiplyAdd(k, x, y);
            l = Vector256.FusedMultiplyAdd(l, x, y);
        }
        s_floats = (a + b + c + d + e + f + g + h + i + j + k + l).ToVector512();
    }

    [UnmanagedCallersOnly, MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Fma128(long rounds)
    {
        Vector128<float> x = Vector128.Create(0.5f), y = Vector128.Create(0.25f);
        Vector128<float> a = default, b = default, c = default, d = default, e = default, f = default, g = default,
            h = default, i = default, j = default, k = default, l = default;
        for (long round = 0; round < rounds; round++)
        {
            a = Vector128.FusedMultiplyAdd(a, x, y);
            b = Vector128.FusedMultiplyAdd(b, x, y);
            c = Vector128.FusedMultiplyAdd(c, x, y);
            d = Vector128.FusedMultiplyAdd(d, x, y);
            e = Vector128.FusedMultiplyAdd(e, x, y);
            f = Vector128.FusedMultiplyAdd(f, x, y);
            g = Vector128.FusedMultiplyAdd(g, x, y);
            h = Vector128.FusedMultiplyAdd(h, x, y);
            i = Vector128.FusedMultiplyAdd(i, x, y);
            j = Vector128.FusedMultiplyAdd(j, x, y);
            k = Vector128.FusedMultiplyAdd(k, x, y);
            l = Vector128.FusedMultiplyAdd(l, x, y);
        }
        s_floats = (a + b + c + d + e + f + g + h + i + j + k + l).ToVector256().ToVector512();
    }

    private struct Work
    {
        public delegate* unmanaged<long, void> Code;
        public long Rounds;
    }
}
