using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.Arm;
using System.Runtime.Intrinsics.X86;

namespace Native.Kernels.Cpu;

/// <summary>A vector width as a type parameter. One source of a kernel serves AVX-512, AVX2, SSE and AdvSimd; the JIT
/// resolves every call.</summary>
/// <remarks>
/// A kernel is <c>Run&lt;S, V&gt;() where S : struct, ISimd&lt;V&gt;</c>, called once behind
/// <c>Vector512.IsHardwareAccelerated</c> and so on down to its scalar definition. Each width also gives right results
/// where the hardware lacks it, so tests run all of them on any machine.
/// </remarks>
internal unsafe interface ISimd<V>
    where V : struct
{
    /// <summary>Floats a vector holds.</summary>
    static abstract int Count { get; }

    static abstract V Create(float value);

    static abstract V Load(float* source);

    static abstract void Store(V value, float* destination);

    /// <summary>IEEE halves to singles, exact, subnormals, infinities and NaN included.</summary>
    static abstract V LoadF16(ushort* source);

    /// <summary>2^-112 times IEEE halves, exact where finite, in a third of the instructions of <see cref="LoadF16"/>.
    /// An infinity reads as 65536 would, NaN as a larger number.</summary>
    static abstract V LoadScaledF16(ushort* source);

    /// <summary>bfloat16 to singles, exact.</summary>
    static abstract V LoadBF16(ushort* source);

    /// <summary>Signed bytes to singles, exact.</summary>
    static abstract V LoadInt8(sbyte* source);

    /// <summary>Singles to IEEE halves, to nearest even; NaN stays NaN.</summary>
    static abstract void StoreF16(V value, ushort* destination);

    /// <summary>Singles to bfloat16, to nearest even; NaN stays NaN.</summary>
    static abstract void StoreBF16(V value, ushort* destination);

    static abstract V Add(V a, V b);

    static abstract V Subtract(V a, V b);

    static abstract V Multiply(V a, V b);

    static abstract V Divide(V a, V b);

    /// <summary>a * b + c, rounded once where the hardware has FMA.</summary>
    static abstract V MultiplyAdd(V a, V b, V c);

    /// <summary>The larger of a and b; b where either is NaN on x86, NaN on Arm.</summary>
    static abstract V Max(V a, V b);

    /// <summary>The smaller of a and b; b where either is NaN on x86, NaN on Arm.</summary>
    static abstract V Min(V a, V b);

    static abstract V Abs(V a);

    /// <summary>Magnitude of a with the sign of b.</summary>
    static abstract V CopySign(V a, V b);

    /// <summary>All bits of a lane where a is less than b.</summary>
    static abstract V LessThan(V a, V b);

    /// <summary>a where the mask's bits are set, b elsewhere.</summary>
    static abstract V Select(V mask, V a, V b);

    static abstract V And(V a, V b);

    static abstract V Or(V a, V b);

    /// <summary>Bit i is the top bit of lane i.</summary>
    static abstract uint Mask(V a);

    /// <summary>To the nearest integer, ties to even.</summary>
    static abstract V Round(V a);

    /// <summary>a * 2^n for integral n in [-252, 254], right also where the result is subnormal or infinite.</summary>
    static abstract V Scale(V a, V n);

    /// <summary>Upper half added to lower half until four lanes are left.</summary>
    static abstract Vector128<float> Fold(V a);

    /// <summary>The larger of upper half and lower half until four lanes are left.</summary>
    static abstract Vector128<float> FoldMax(V a);
}

/// <summary>128-bit vectors: SSE and AdvSimd.</summary>
internal readonly unsafe struct Simd128 : ISimd<Vector128<float>>
{
    public static int Count => 4;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Create(float value) => Vector128.Create(value);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Load(float* source) => Vector128.Load(source);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(Vector128<float> value, float* destination) => value.Store(destination);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> LoadF16(ushort* source)
    {
        // Shifted into place, a half is 2^-112 times its value, also if subnormal. Infinities and NaN need their
        // exponent filled.
        Vector128<uint> bits = LoadUInt16(source);
        Vector128<float> magnitude = ((Vector128.BitwiseAnd(bits, Vector128.Create(0x7fffu))) << 13)
            .AsSingle() * Vector128.Create(5.192296858534828e33f);
        Vector128<uint> special = Vector128.GreaterThanOrEqual(magnitude, Vector128.Create(65536f)).AsUInt32()
            & Vector128.Create(0x7f800000u);
        Vector128<uint> sign = (bits & Vector128.Create(0x8000u)) << 16;
        return (magnitude.AsUInt32() | special | sign).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> LoadScaledF16(ushort* source)
    {
        // The half's bits, shifted to where a float's exponent ends. Sign extension puts the sign in its place; the
        // mask clears its other copies.
        Vector128<int> wide = Vector128.WidenLower(
            Vector128.CreateScalarUnsafe(Unsafe.ReadUnaligned<ulong>(source)).AsInt16());
        return ((wide << 13) & Vector128.Create(unchecked((int)0x8fffe000))).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> LoadBF16(ushort* source) => (LoadUInt16(source) << 16).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> LoadInt8(sbyte* source) =>
        Vector128.ConvertToSingle(
            Vector128.WidenLower(Vector128.WidenLower(
            Vector128.CreateScalarUnsafe(Unsafe.ReadUnaligned<int>(source)).AsSByte())));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreF16(Vector128<float> value, ushort* destination)
    {
        Vector128<uint> bits = value.AsUInt32();
        Vector128<uint> magnitude = bits & Vector128.Create(0x7fffffffu);
        // Normal: rebias the exponent, then add half a unit less one and the lowest kept bit, so that ties go to even.
        // A carry gives infinity.
        Vector128<uint> normal =
            (magnitude + Vector128.Create(0xc8000fffu) + ((magnitude >>> 13) & Vector128.Create(1u))) >>> 13;
        // Subnormal: adding 0.5 makes the adder round at 2^-24.
        Vector128<uint> subnormal = (magnitude.AsSingle() + Vector128.Create(0.5f))
            .AsUInt32() - Vector128.Create(0x3f000000u);
        Vector128<uint> result =
            Vector128.ConditionalSelect(Vector128.LessThan(magnitude, Vector128.Create(0x38800000u)),
            subnormal, normal);
        result = Vector128.ConditionalSelect(Vector128.GreaterThanOrEqual(magnitude, Vector128.Create(0x47800000u)),
            Vector128.Create(0x7c00u), result);
        result = Vector128.ConditionalSelect(Vector128.GreaterThan(magnitude, Vector128.Create(0x7f800000u)),
            Vector128.Create(0x7e00u), result);
        StoreUInt16(result | ((bits >>> 16) & Vector128.Create(0x8000u)), destination);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreBF16(Vector128<float> value, ushort* destination)
    {
        Vector128<uint> bits = value.AsUInt32();
        Vector128<uint> rounded = (bits + Vector128.Create(0x7fffu) + ((bits >>> 16) & Vector128.Create(1u))) >>> 16;
        Vector128<uint> quiet = (bits >>> 16) | Vector128.Create(0x40u);
        StoreUInt16(Vector128.ConditionalSelect(Vector128.Equals(value, value).AsUInt32(), rounded, quiet),
            destination);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Add(Vector128<float> a, Vector128<float> b) => a + b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Subtract(Vector128<float> a, Vector128<float> b) => a - b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Multiply(Vector128<float> a, Vector128<float> b) => a * b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Divide(Vector128<float> a, Vector128<float> b) => a / b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> MultiplyAdd(Vector128<float> a, Vector128<float> b, Vector128<float> c) =>
        Fma.IsSupported ? Fma.MultiplyAdd(a, b, c) :
        AdvSimd.IsSupported ? AdvSimd.FusedMultiplyAdd(c, a, b) :
        (a * b) + c;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Max(Vector128<float> a, Vector128<float> b) => Vector128.MaxNative(a, b);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Min(Vector128<float> a, Vector128<float> b) => Vector128.MinNative(a, b);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Abs(Vector128<float> a) => Vector128.Abs(a);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> CopySign(Vector128<float> a, Vector128<float> b) =>
        Vector128.ConditionalSelect(Vector128.Create(0x80000000u).AsSingle(), b, a);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> LessThan(Vector128<float> a, Vector128<float> b) => Vector128.LessThan(a, b);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Select(Vector128<float> mask, Vector128<float> a, Vector128<float> b) =>
        Vector128.ConditionalSelect(mask, a, b);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> And(Vector128<float> a, Vector128<float> b) => a & b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Or(Vector128<float> a, Vector128<float> b) => a | b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static uint Mask(Vector128<float> a) => a.ExtractMostSignificantBits();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Round(Vector128<float> a) => Vector128.Round(a);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Scale(Vector128<float> a, Vector128<float> n)
    {
        // Two factors, because one alone does not reach every exponent.
        Vector128<int> exponent = Vector128.ConvertToInt32Native(n);
        Vector128<int> half = exponent >> 1;
        Vector128<float> first = ((half + Vector128.Create(127)) << 23).AsSingle();
        Vector128<float> second = ((exponent - half + Vector128.Create(127)) << 23).AsSingle();
        return a * first * second;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Fold(Vector128<float> a) => a;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> FoldMax(Vector128<float> a) => a;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<uint> LoadUInt16(ushort* source) =>
        Vector128.WidenLower(Vector128.CreateScalarUnsafe(Unsafe.ReadUnaligned<ulong>(source)).AsUInt16());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void StoreUInt16(Vector128<uint> value, ushort* destination) =>
        Unsafe.WriteUnaligned(destination, Vector128.Narrow(value, value).AsUInt64().ToScalar());
}

/// <summary>256-bit vectors: AVX2.</summary>
internal readonly unsafe struct Simd256 : ISimd<Vector256<float>>
{
    public static int Count => 8;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Create(float value) => Vector256.Create(value);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Load(float* source) => Vector256.Load(source);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(Vector256<float> value, float* destination) => value.Store(destination);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> LoadF16(ushort* source)
    {
        // Shifted into place, a half is 2^-112 times its value, also if subnormal. Infinities and NaN need their
        // exponent filled.
        Vector256<uint> bits = LoadUInt16(source);
        Vector256<float> magnitude = ((Vector256.BitwiseAnd(bits, Vector256.Create(0x7fffu))) << 13)
            .AsSingle() * Vector256.Create(5.192296858534828e33f);
        Vector256<uint> special = Vector256.GreaterThanOrEqual(magnitude, Vector256.Create(65536f)).AsUInt32()
            & Vector256.Create(0x7f800000u);
        Vector256<uint> sign = (bits & Vector256.Create(0x8000u)) << 16;
        return (magnitude.AsUInt32() | special | sign).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> LoadScaledF16(ushort* source)
    {
        Vector256<int> wide = Avx2.IsSupported
            ? Avx2.ConvertToVector256Int32(Vector128.Load((short*)source))
            : Vector256.Create(Vector128.WidenLower(Vector128.Load((short*)source)),
                Vector128.WidenUpper(Vector128.Load((short*)source)));
        return ((wide << 13) & Vector256.Create(unchecked((int)0x8fffe000))).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> LoadBF16(ushort* source) => (LoadUInt16(source) << 16).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> LoadInt8(sbyte* source) =>
        Avx2.IsSupported ? Vector256.ConvertToSingle(Avx2.ConvertToVector256Int32(source))
            : Vector256.Create(Simd128.LoadInt8(source), Simd128.LoadInt8(source + 4));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreF16(Vector256<float> value, ushort* destination)
    {
        Vector256<uint> bits = value.AsUInt32();
        Vector256<uint> magnitude = bits & Vector256.Create(0x7fffffffu);
        // Normal: rebias the exponent, then add half a unit less one and the lowest kept bit, so that ties go to even.
        // A carry gives infinity.
        Vector256<uint> normal =
            (magnitude + Vector256.Create(0xc8000fffu) + ((magnitude >>> 13) & Vector256.Create(1u))) >>> 13;
        // Subnormal: adding 0.5 makes the adder round at 2^-24.
        Vector256<uint> subnormal = (magnitude.AsSingle() + Vector256.Create(0.5f))
            .AsUInt32() - Vector256.Create(0x3f000000u);
        Vector256<uint> result =
            Vector256.ConditionalSelect(Vector256.LessThan(magnitude, Vector256.Create(0x38800000u)),
            subnormal, normal);
        result = Vector256.ConditionalSelect(Vector256.GreaterThanOrEqual(magnitude, Vector256.Create(0x47800000u)),
            Vector256.Create(0x7c00u), result);
        result = Vector256.ConditionalSelect(Vector256.GreaterThan(magnitude, Vector256.Create(0x7f800000u)),
            Vector256.Create(0x7e00u), result);
        StoreUInt16(result | ((bits >>> 16) & Vector256.Create(0x8000u)), destination);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreBF16(Vector256<float> value, ushort* destination)
    {
        Vector256<uint> bits = value.AsUInt32();
        Vector256<uint> rounded = (bits + Vector256.Create(0x7fffu) + ((bits >>> 16) & Vector256.Create(1u))) >>> 16;
        Vector256<uint> quiet = (bits >>> 16) | Vector256.Create(0x40u);
        StoreUInt16(Vector256.ConditionalSelect(Vector256.Equals(value, value).AsUInt32(), rounded, quiet),
            destination);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Add(Vector256<float> a, Vector256<float> b) => a + b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Subtract(Vector256<float> a, Vector256<float> b) => a - b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Multiply(Vector256<float> a, Vector256<float> b) => a * b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Divide(Vector256<float> a, Vector256<float> b) => a / b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> MultiplyAdd(Vector256<float> a, Vector256<float> b, Vector256<float> c) =>
        Fma.IsSupported ? Fma.MultiplyAdd(a, b, c) :
        Vector256.Create(Simd128.MultiplyAdd(a.GetLower(), b.GetLower(), c.GetLower()),
            Simd128.MultiplyAdd(a.GetUpper(), b.GetUpper(), c.GetUpper()));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Max(Vector256<float> a, Vector256<float> b) => Vector256.MaxNative(a, b);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Min(Vector256<float> a, Vector256<float> b) => Vector256.MinNative(a, b);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Abs(Vector256<float> a) => Vector256.Abs(a);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> CopySign(Vector256<float> a, Vector256<float> b) =>
        Vector256.ConditionalSelect(Vector256.Create(0x80000000u).AsSingle(), b, a);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> LessThan(Vector256<float> a, Vector256<float> b) => Vector256.LessThan(a, b);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Select(Vector256<float> mask, Vector256<float> a, Vector256<float> b) =>
        Vector256.ConditionalSelect(mask, a, b);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> And(Vector256<float> a, Vector256<float> b) => a & b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Or(Vector256<float> a, Vector256<float> b) => a | b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static uint Mask(Vector256<float> a) => a.ExtractMostSignificantBits();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Round(Vector256<float> a) => Vector256.Round(a);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Scale(Vector256<float> a, Vector256<float> n)
    {
        // Two factors, because one alone does not reach every exponent.
        Vector256<int> exponent = Vector256.ConvertToInt32Native(n);
        Vector256<int> half = exponent >> 1;
        Vector256<float> first = ((half + Vector256.Create(127)) << 23).AsSingle();
        Vector256<float> second = ((exponent - half + Vector256.Create(127)) << 23).AsSingle();
        return a * first * second;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Fold(Vector256<float> a) => a.GetLower() + a.GetUpper();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> FoldMax(Vector256<float> a) => Vector128.MaxNative(a.GetLower(), a.GetUpper());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<uint> LoadUInt16(ushort* source) =>
        Avx2.IsSupported ? Avx2.ConvertToVector256Int32(Vector128.Load(source)).AsUInt32() :
        Vector256.Create(Vector128.WidenLower(Vector128.Load(source)), Vector128.WidenUpper(Vector128.Load(source)));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void StoreUInt16(Vector256<uint> value, ushort* destination) =>
        Vector128.Narrow(value.GetLower(), value.GetUpper()).Store(destination);
}

/// <summary>512-bit vectors: AVX-512.</summary>
internal readonly unsafe struct Simd512 : ISimd<Vector512<float>>
{
    public static int Count => 16;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Create(float value) => Vector512.Create(value);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Load(float* source) => Vector512.Load(source);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(Vector512<float> value, float* destination) => value.Store(destination);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> LoadF16(ushort* source)
    {
        // Shifted into place, a half is 2^-112 times its value, also if subnormal. Infinities and NaN need their
        // exponent filled.
        Vector512<uint> bits = LoadUInt16(source);
        Vector512<float> magnitude = ((Vector512.BitwiseAnd(bits, Vector512.Create(0x7fffu))) << 13)
            .AsSingle() * Vector512.Create(5.192296858534828e33f);
        Vector512<uint> special = Vector512.GreaterThanOrEqual(magnitude, Vector512.Create(65536f)).AsUInt32()
            & Vector512.Create(0x7f800000u);
        Vector512<uint> sign = (bits & Vector512.Create(0x8000u)) << 16;
        return (magnitude.AsUInt32() | special | sign).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> LoadScaledF16(ushort* source)
    {
        Vector512<int> wide = Avx512F.IsSupported
            ? Avx512F.ConvertToVector512Int32(Vector256.Load((short*)source))
            : Vector512.Create(Vector256.WidenLower(Vector256.Load((short*)source)),
                Vector256.WidenUpper(Vector256.Load((short*)source)));
        return ((wide << 13) & Vector512.Create(unchecked((int)0x8fffe000))).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> LoadBF16(ushort* source) => (LoadUInt16(source) << 16).AsSingle();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> LoadInt8(sbyte* source) =>
        Avx512F.IsSupported ? Vector512.ConvertToSingle(Avx512F.ConvertToVector512Int32(Vector128.Load(source)))
            : Vector512.Create(Simd256.LoadInt8(source), Simd256.LoadInt8(source + 8));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreF16(Vector512<float> value, ushort* destination)
    {
        Vector512<uint> bits = value.AsUInt32();
        Vector512<uint> magnitude = bits & Vector512.Create(0x7fffffffu);
        // Normal: rebias the exponent, then add half a unit less one and the lowest kept bit, so that ties go to even.
        // A carry gives infinity.
        Vector512<uint> normal =
            (magnitude + Vector512.Create(0xc8000fffu) + ((magnitude >>> 13) & Vector512.Create(1u))) >>> 13;
        // Subnormal: adding 0.5 makes the adder round at 2^-24.
        Vector512<uint> subnormal = (magnitude.AsSingle() + Vector512.Create(0.5f))
            .AsUInt32() - Vector512.Create(0x3f000000u);
        Vector512<uint> result =
            Vector512.ConditionalSelect(Vector512.LessThan(magnitude, Vector512.Create(0x38800000u)),
            subnormal, normal);
        result = Vector512.ConditionalSelect(Vector512.GreaterThanOrEqual(magnitude, Vector512.Create(0x47800000u)),
            Vector512.Create(0x7c00u), result);
        result = Vector512.ConditionalSelect(Vector512.GreaterThan(magnitude, Vector512.Create(0x7f800000u)),
            Vector512.Create(0x7e00u), result);
        StoreUInt16(result | ((bits >>> 16) & Vector512.Create(0x8000u)), destination);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreBF16(Vector512<float> value, ushort* destination)
    {
        Vector512<uint> bits = value.AsUInt32();
        Vector512<uint> rounded = (bits + Vector512.Create(0x7fffu) + ((bits >>> 16) & Vector512.Create(1u))) >>> 16;
        Vector512<uint> quiet = (bits >>> 16) | Vector512.Create(0x40u);
        StoreUInt16(Vector512.ConditionalSelect(Vector512.Equals(value, value).AsUInt32(), rounded, quiet),
            destination);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Add(Vector512<float> a, Vector512<float> b) => a + b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Subtract(Vector512<float> a, Vector512<float> b) => a - b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Multiply(Vector512<float> a, Vector512<float> b) => a * b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Divide(Vector512<float> a, Vector512<float> b) => a / b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> MultiplyAdd(Vector512<float> a, Vector512<float> b, Vector512<float> c) =>
        Avx512F.IsSupported ? Avx512F.FusedMultiplyAdd(a, b, c) :
        Vector512.Create(Simd256.MultiplyAdd(a.GetLower(), b.GetLower(), c.GetLower()),
            Simd256.MultiplyAdd(a.GetUpper(), b.GetUpper(), c.GetUpper()));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Max(Vector512<float> a, Vector512<float> b) => Vector512.MaxNative(a, b);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Min(Vector512<float> a, Vector512<float> b) => Vector512.MinNative(a, b);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Abs(Vector512<float> a) => Vector512.Abs(a);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> CopySign(Vector512<float> a, Vector512<float> b) =>
        Vector512.ConditionalSelect(Vector512.Create(0x80000000u).AsSingle(), b, a);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> LessThan(Vector512<float> a, Vector512<float> b) => Vector512.LessThan(a, b);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Select(Vector512<float> mask, Vector512<float> a, Vector512<float> b) =>
        Vector512.ConditionalSelect(mask, a, b);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> And(Vector512<float> a, Vector512<float> b) => a & b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Or(Vector512<float> a, Vector512<float> b) => a | b;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static uint Mask(Vector512<float> a) => (uint)a.ExtractMostSignificantBits();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Round(Vector512<float> a) => Vector512.Round(a);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Scale(Vector512<float> a, Vector512<float> n)
    {
        // Two factors, because one alone does not reach every exponent.
        if (Avx512F.IsSupported) return Avx512F.Scale(a, n);
        Vector512<int> exponent = Vector512.ConvertToInt32Native(n);
        Vector512<int> half = exponent >> 1;
        Vector512<float> first = ((half + Vector512.Create(127)) << 23).AsSingle();
        Vector512<float> second = ((exponent - half + Vector512.Create(127)) << 23).AsSingle();
        return a * first * second;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Fold(Vector512<float> a) => Simd256.Fold(a.GetLower() + a.GetUpper());

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> FoldMax(Vector512<float> a) =>
        Simd256.FoldMax(Vector256.MaxNative(a.GetLower(), a.GetUpper()));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<uint> LoadUInt16(ushort* source) =>
        Avx512F.IsSupported ? Avx512F.ConvertToVector512UInt32(Vector256.Load(source)) :
        Vector512.Create(Vector256.WidenLower(Vector256.Load(source)), Vector256.WidenUpper(Vector256.Load(source)));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void StoreUInt16(Vector512<uint> value, ushort* destination) =>
        Vector256.Narrow(value.GetLower(), value.GetUpper()).Store(destination);
}

/// <summary>Elementary functions over any vector width, and sums in one fixed order.</summary>
internal static unsafe class SimdMath<S, V>
    where S : struct, ISimd<V>
    where V : struct
{
    /// <summary>e^x within 2 units in the last place; 0 below -104, infinity above 88.73, NaN for NaN.</summary>
    /// <remarks>Cephes' expf: x = n ln 2 + r with ln 2 in two parts, and a polynomial of degree 7 in r.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Exp(V x)
    {
        x = S.Max(S.Create(-104f), S.Min(S.Create(89f), x)); // in this order of operands NaN passes through
        V n = S.Round(S.Multiply(x, S.Create(1.44269504088896341f)));
        V r = S.MultiplyAdd(n, S.Create(-0.693359375f), x);
        r = S.MultiplyAdd(n, S.Create(2.12194440e-4f), r);
        V p = S.MultiplyAdd(S.Create(1.9875691500e-4f), r, S.Create(1.3981999507e-3f));
        p = S.MultiplyAdd(p, r, S.Create(8.3334519073e-3f));
        p = S.MultiplyAdd(p, r, S.Create(4.1665795894e-2f));
        p = S.MultiplyAdd(p, r, S.Create(1.6666665459e-1f));
        p = S.MultiplyAdd(p, r, S.Create(5.0000001201e-1f));
        p = S.Add(S.MultiplyAdd(p, S.Multiply(r, r), r), S.Create(1f));
        return S.Scale(p, n);
    }

    /// <summary>tanh x within 3 units in the last place, NaN for NaN.</summary>
    /// <remarks>Cephes' tanhf: an odd polynomial below 0.625, where 1 - 2 / (e^2x + 1) would cancel.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V Tanh(V x)
    {
        V magnitude = S.Abs(x);
        V s = S.Multiply(x, x);
        V p = S.MultiplyAdd(S.Create(-5.70498872745e-3f), s, S.Create(2.06390887954e-2f));
        p = S.MultiplyAdd(p, s, S.Create(-5.37397155531e-2f));
        p = S.MultiplyAdd(p, s, S.Create(1.33314422036e-1f));
        p = S.MultiplyAdd(p, s, S.Create(-3.33332819422e-1f));
        V small = S.MultiplyAdd(S.Multiply(p, s), x, x);
        V e = Exp(S.Add(magnitude, magnitude));
        V large = S.Subtract(S.Create(1f), S.Divide(S.Create(2f), S.Add(e, S.Create(1f))));
        return S.CopySign(S.Select(S.LessThan(magnitude, S.Create(0.625f)), small, large), x); // the sign of zero too
    }

    /// <summary>x / (1 + e^-y).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static V TimesSigmoid(V x, V y) =>
        S.Divide(x, S.Add(S.Create(1f), Exp(S.Subtract(S.Create(0f), y))));

    /// <summary>The sum of a's lanes: halves folded to four lanes, then (0 + 1) + (2 + 3).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Sum(V a)
    {
        Vector128<float> four = S.Fold(a);
        return (four[0] + four[1]) + (four[2] + four[3]);
    }

    /// <summary>The largest of a's lanes.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Largest(V a)
    {
        Vector128<float> four = S.FoldMax(a);
        four = Vector128.MaxNative(four, Vector128.Shuffle(four, Vector128.Create(2, 3, 0, 1)));
        return Vector128.MaxNative(four, Vector128.Shuffle(four, Vector128.Create(1, 0, 3, 2))).ToScalar();
    }
}
