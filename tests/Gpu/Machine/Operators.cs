using System.Numerics;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Native.Tests.Gpu.Machine;

// Operators of integers and floats, by the names that the PTX ISA gives their instructions.

internal readonly struct Add<T> : IBinary<T>
{
    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => a + b;
}

internal readonly struct Sub<T> : IBinary<T>
{
    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => a - b;
}

internal readonly struct Mul<T> : IBinary<T>
{
    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => a * b;
}

internal readonly struct Div<T> : IBinary<T>
{
    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => a / b;
}

internal readonly struct Mad<T> : ITernary<T>
{
    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b, Vector512<T> c) => a * b + c;
}

internal readonly struct Fma32 : ITernary<float>
{
    public static Vector512<float> Invoke(Vector512<float> a, Vector512<float> b, Vector512<float> c) =>
        Vector512.FusedMultiplyAdd(a, b, c);
}

internal readonly struct Fma64 : ITernary<double>
{
    public static Vector512<double> Invoke(Vector512<double> a, Vector512<double> b, Vector512<double> c) =>
        Vector512.FusedMultiplyAdd(a, b, c);
}

internal readonly struct And<T> : IBinary<T>
{
    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => a & b;
}

internal readonly struct Or<T> : IBinary<T>
{
    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => a | b;
}

internal readonly struct Xor<T> : IBinary<T>
{
    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => a ^ b;
}

internal readonly struct Not<T> : IUnary<T>
{
    public static Vector512<T> Invoke(Vector512<T> a) => ~a;
}

internal readonly struct Neg<T> : IUnary<T>
{
    public static Vector512<T> Invoke(Vector512<T> a) => -a;
}

internal readonly struct Abs<T> : IUnary<T>
{
    public static Vector512<T> Invoke(Vector512<T> a) => Vector512.Abs(a);
}

internal readonly struct Sqrt<T> : IUnary<T>
{
    public static Vector512<T> Invoke(Vector512<T> a) => Vector512.Sqrt(a);
}

internal readonly struct Min<T> : IBinary<T>
{
    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => Vector512.Min(a, b);
}

internal readonly struct Max<T> : IBinary<T>
{
    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => Vector512.Max(a, b);
}

/// <summary>Of floats: a number rather than a NaN.</summary>
internal readonly struct MinNumber<T> : IBinary<T>
{
    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => Vector512.MinNumber(a, b);
}

internal readonly struct MaxNumber<T> : IBinary<T>
{
    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => Vector512.MaxNumber(a, b);
}

/// <summary>Denormals of operands and result are zeros, of their sign.</summary>
internal readonly struct Ftz2<TOp> : IBinary<float> where TOp : IBinary<float>
{
    public static Vector512<float> Invoke(Vector512<float> a, Vector512<float> b) =>
        Flush.It(TOp.Invoke(Flush.It(a), Flush.It(b)));
}

internal readonly struct Ftz3<TOp> : ITernary<float> where TOp : ITernary<float>
{
    public static Vector512<float> Invoke(Vector512<float> a, Vector512<float> b, Vector512<float> c) =>
        Flush.It(TOp.Invoke(Flush.It(a), Flush.It(b), Flush.It(c)));
}

internal readonly struct Flush : IUnary<float>
{
    public static Vector512<float> Invoke(Vector512<float> a) => It(a);

    public static Vector512<float> It(Vector512<float> a)
    {
        Vector512<int> bits = a.AsInt32(), exponent = bits & Vector512.Create(0x7f80_0000);
        Vector512<int> zero = Vector512.Equals(exponent, Vector512<int>.Zero);
        return Vector512.ConditionalSelect(zero, bits & Vector512.Create(int.MinValue), bits).AsSingle();
    }
}

/// <summary>Into 0 to 1; a NaN becomes 0.</summary>
internal readonly struct Saturate : IUnary<float>
{
    public static Vector512<float> Invoke(Vector512<float> a) =>
        Vector512.Min(Vector512.MaxNumber(a, Vector512<float>.Zero), Vector512<float>.One);
}

internal readonly struct ShiftLeft<T> : IScalar2<T, uint, T> where T : IBinaryInteger<T>
{
    public static T Invoke(T a, uint b) => b >= (uint)a.GetByteCount() * 8 ? T.Zero : a << (int)b;
}

internal readonly struct ShiftLeft32 : IBinary<uint>
{
    public static Vector512<uint> Invoke(Vector512<uint> a, Vector512<uint> b) => Avx512F.IsSupported
        ? Avx512F.ShiftLeftLogicalVariable(a, b)
        : Vector512.Create(Avx2.ShiftLeftLogicalVariable(a.GetLower(), b.GetLower()),
            Avx2.ShiftLeftLogicalVariable(a.GetUpper(), b.GetUpper()));
}

internal readonly struct ShiftRight32 : IBinary<uint>
{
    public static Vector512<uint> Invoke(Vector512<uint> a, Vector512<uint> b) => Avx512F.IsSupported
        ? Avx512F.ShiftRightLogicalVariable(a, b)
        : Vector512.Create(Avx2.ShiftRightLogicalVariable(a.GetLower(), b.GetLower()),
            Avx2.ShiftRightLogicalVariable(a.GetUpper(), b.GetUpper()));
}

internal readonly struct ShiftRightSigned32 : IBinary<uint>
{
    public static Vector512<uint> Invoke(Vector512<uint> a, Vector512<uint> b) => Avx512F.IsSupported
        ? Avx512F.ShiftRightArithmeticVariable(a.AsInt32(), b).AsUInt32()
        : Vector512.Create(Avx2.ShiftRightArithmeticVariable(a.GetLower().AsInt32(), b.GetLower()),
            Avx2.ShiftRightArithmeticVariable(a.GetUpper().AsInt32(), b.GetUpper())).AsUInt32();
}

internal readonly struct ShiftRight<T> : IScalar2<T, uint, T> where T : IBinaryInteger<T>
{
    public static T Invoke(T a, uint b)
    {
        uint bits = (uint)a.GetByteCount() * 8;
        return b < bits ? a >> (int)b : T.IsNegative(a) ? T.AllBitsSet : T.Zero;
    }
}

internal readonly struct MulHigh<T, TWide> : IScalar2<T, T, T>
    where T : IBinaryInteger<T> where TWide : IBinaryInteger<TWide>
{
    public static T Invoke(T a, T b) => T.CreateTruncating(
        (TWide.CreateTruncating(a) * TWide.CreateTruncating(b)) >> (a.GetByteCount() * 8));
}

internal readonly struct MulWide<T, TWide> : IScalar2<T, T, TWide>
    where T : IBinaryInteger<T> where TWide : IBinaryInteger<TWide>
{
    public static TWide Invoke(T a, T b) => TWide.CreateTruncating(a) * TWide.CreateTruncating(b);
}

internal readonly struct MadHigh<T, TWide> : IScalar3<T, T, T, T>
    where T : IBinaryInteger<T> where TWide : IBinaryInteger<TWide>
{
    public static T Invoke(T a, T b, T c) => MulHigh<T, TWide>.Invoke(a, b) + c;
}

internal readonly struct MadWide<T, TWide> : IScalar3<T, T, TWide, TWide>
    where T : IBinaryInteger<T> where TWide : IBinaryInteger<TWide>
{
    public static TWide Invoke(T a, T b, TWide c) => MulWide<T, TWide>.Invoke(a, b) + c;
}

/// <summary>By zero all bits are set, as an NVIDIA GPU has it; the ISA leaves it open.</summary>
internal readonly struct Quotient<T> : IScalar2<T, T, T> where T : IBinaryInteger<T>
{
    public static T Invoke(T a, T b)
    {
        if (b == T.Zero) return T.AllBitsSet;
        return b == T.AllBitsSet && T.IsNegative(b) ? T.Zero - a : a / b;
    }
}

internal readonly struct Remainder<T> : IScalar2<T, T, T> where T : IBinaryInteger<T>
{
    public static T Invoke(T a, T b)
    {
        if (b == T.Zero) return a;
        return b == T.AllBitsSet && T.IsNegative(b) ? T.Zero : a % b;
    }
}

internal readonly struct AddSaturated : IScalar2<int, int, int>
{
    public static int Invoke(int a, int b) => (int)Math.Clamp((long)a + b, int.MinValue, int.MaxValue);
}

internal readonly struct SubSaturated : IScalar2<int, int, int>
{
    public static int Invoke(int a, int b) => (int)Math.Clamp((long)a - b, int.MinValue, int.MaxValue);
}

internal readonly struct Mul24<T> : IScalar2<T, T, T> where T : IBinaryInteger<T>
{
    public static T Low(T a) => (a << 8) >> 8;

    public static T Invoke(T a, T b) => Low(a) * Low(b);
}

internal readonly struct Mad24<T> : IScalar3<T, T, T, T> where T : IBinaryInteger<T>
{
    public static T Invoke(T a, T b, T c) => Mul24<T>.Invoke(a, b) + c;
}

internal readonly struct Sad<T> : IScalar3<T, T, T, T> where T : IBinaryInteger<T>
{
    public static T Invoke(T a, T b, T c) => c + (a < b ? b - a : a - b);
}

internal readonly struct PopCount<T> : IScalar<T, uint> where T : IBinaryInteger<T>
{
    public static uint Invoke(T a) => uint.CreateTruncating(T.PopCount(a));
}

internal readonly struct LeadingZeros<T> : IScalar<T, uint> where T : IBinaryInteger<T>
{
    public static uint Invoke(T a) => uint.CreateTruncating(T.LeadingZeroCount(a));
}

internal readonly struct Reverse32 : IScalar<uint, uint>
{
    public static uint Invoke(uint a)
    {
        uint reversed = 0;
        for (int i = 0; i < 32; i++) reversed |= (a >> i & 1) << (31 - i);
        return reversed;
    }
}

internal readonly struct Reverse64 : IScalar<ulong, ulong>
{
    public static ulong Invoke(ulong a) =>
        (ulong)Reverse32.Invoke((uint)a) << 32 | Reverse32.Invoke((uint)(a >> 32));
}

/// <summary>The number of the highest bit that differs from the sign; -1 where none does.</summary>
internal readonly struct FindBit<T> : IScalar<T, uint> where T : IBinaryInteger<T>
{
    public static uint Invoke(T a)
    {
        if (T.IsNegative(a)) a = ~a;
        return (uint)(a.GetByteCount() * 8 - 1) - uint.CreateTruncating(T.LeadingZeroCount(a));
    }
}

/// <summary>The same as a distance from the top.</summary>
internal readonly struct FindShift<T> : IScalar<T, uint> where T : IBinaryInteger<T>
{
    public static uint Invoke(T a)
    {
        uint at = FindBit<T>.Invoke(a);
        return at == uint.MaxValue ? at : (uint)(a.GetByteCount() * 8 - 1) - at;
    }
}

internal readonly struct CNot<T> : IScalar<T, T> where T : IBinaryInteger<T>
{
    public static T Invoke(T a) => a == T.Zero ? T.One : T.Zero;
}

internal readonly struct ExtractBits<T> : IScalar3<T, uint, uint, T> where T : IBinaryInteger<T>
{
    public static T Invoke(T a, uint b, uint c)
    {
        int bits = a.GetByteCount() * 8, at = (int)(b & 0xff), length = (int)(c & 0xff);
        if (length == 0) return T.Zero;
        bool signed = T.IsNegative(T.AllBitsSet);
        T sign = signed && T.IsNegative(a << (bits - 1 - Math.Min(at + length - 1, bits - 1))) ? T.AllBitsSet : T.Zero;
        T value = at >= bits ? sign : a >> at;
        if (length >= bits) return value;
        T mask = (T.One << length) - T.One;
        return (value & mask) | (sign & ~mask);
    }
}

/// <summary>bfi with its four operands: a into b at c, of length d.</summary>
internal static class InsertBits
{
    public static ulong Invoke(ulong a, ulong b, uint at, uint length, int bits)
    {
        at &= 0xff;
        length &= 0xff;
        if (length == 0 || at >= bits) return b;
        ulong mask = length >= 64 ? ulong.MaxValue : (1ul << (int)length) - 1;
        return (b & ~(mask << (int)at)) | ((a & mask) << (int)at);
    }
}

/// <summary>shf: 64 bits of a and b shifted by c; half of them.</summary>
internal readonly struct FunnelLeft : IScalar3<uint, uint, uint, uint>
{
    public static uint Invoke(uint a, uint b, uint c) => (uint)(((ulong)b << 32 | a) << (int)(c & 31) >> 32);
}

internal readonly struct FunnelLeftClamped : IScalar3<uint, uint, uint, uint>
{
    public static uint Invoke(uint a, uint b, uint c) => c >= 32 ? a : FunnelLeft.Invoke(a, b, c);
}

internal readonly struct FunnelRight : IScalar3<uint, uint, uint, uint>
{
    public static uint Invoke(uint a, uint b, uint c) => (uint)(((ulong)b << 32 | a) >> (int)(c & 31));
}

internal readonly struct FunnelRightClamped : IScalar3<uint, uint, uint, uint>
{
    public static uint Invoke(uint a, uint b, uint c) => c >= 32 ? b : FunnelRight.Invoke(a, b, c);
}

internal readonly struct Permute : IScalar3<uint, uint, uint, uint>
{
    public static uint Invoke(uint a, uint b, uint c)
    {
        ulong bytes = (ulong)b << 32 | a;
        uint result = 0;
        for (int i = 0; i < 4; i++)
        {
            uint selector = c >> (4 * i) & 15;
            uint value = (byte)(bytes >> (int)(8 * (selector & 7)));
            if ((selector & 8) != 0) value = (value & 0x80) != 0 ? 0xffu : 0;
            result |= value << (8 * i);
        }
        return result;
    }
}

/// <summary>dp4a and dp2a: products of bytes, or of halves with bytes, added up.</summary>
internal readonly struct Dot4<TA, TB> : IScalar3<uint, uint, uint, uint>
    where TA : unmanaged, IBinaryInteger<TA> where TB : unmanaged, IBinaryInteger<TB>
{
    public static uint Invoke(uint a, uint b, uint c)
    {
        for (int i = 0; i < 32; i += 8)
            c += (uint)(int.CreateTruncating(TA.CreateTruncating(a >> i))
                * int.CreateTruncating(TB.CreateTruncating(b >> i)));
        return c;
    }
}

internal readonly struct AtomicAdd<T> : IAtomic<T> where T : INumber<T>
{
    public static T Invoke(T old, T b, T c) => old + b;
}

internal readonly struct AtomicMin<T> : IAtomic<T> where T : INumber<T>
{
    public static T Invoke(T old, T b, T c) => T.Min(old, b);
}

internal readonly struct AtomicMax<T> : IAtomic<T> where T : INumber<T>
{
    public static T Invoke(T old, T b, T c) => T.Max(old, b);
}

internal readonly struct AtomicAnd<T> : IAtomic<T> where T : IBinaryInteger<T>
{
    public static T Invoke(T old, T b, T c) => old & b;
}

internal readonly struct AtomicOr<T> : IAtomic<T> where T : IBinaryInteger<T>
{
    public static T Invoke(T old, T b, T c) => old | b;
}

internal readonly struct AtomicXor<T> : IAtomic<T> where T : IBinaryInteger<T>
{
    public static T Invoke(T old, T b, T c) => old ^ b;
}

internal readonly struct AtomicExchange<T> : IAtomic<T>
{
    public static T Invoke(T old, T b, T c) => b;
}

internal readonly struct AtomicCas<T> : IAtomic<T> where T : IEquatable<T>
{
    public static T Invoke(T old, T b, T c) => old.Equals(b) ? c : old;
}

internal readonly struct AtomicInc : IAtomic<uint>
{
    public static uint Invoke(uint old, uint b, uint c) => old >= b ? 0 : old + 1;
}

internal readonly struct AtomicDec : IAtomic<uint>
{
    public static uint Invoke(uint old, uint b, uint c) => old == 0 || old > b ? b : old - 1;
}

internal readonly struct Equal<T> : IComparison<T>
{
    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => Vector512.Equals(a, b);
}

internal readonly struct NotEqual<T> : IComparison<T>
{
    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => ~Vector512.Equals(a, b);
}

internal readonly struct Less<T> : IComparison<T>
{
    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => Vector512.LessThan(a, b);
}

internal readonly struct LessOrEqual<T> : IComparison<T>
{
    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => Vector512.LessThanOrEqual(a, b);
}

internal readonly struct Greater<T> : IComparison<T>
{
    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => Vector512.GreaterThan(a, b);
}

internal readonly struct GreaterOrEqual<T> : IComparison<T>
{
    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => Vector512.GreaterThanOrEqual(a, b);
}

/// <summary>Of floats: equal to itself, both.</summary>
internal readonly struct Numbers<T> : IComparison<T>
{
    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) =>
        Vector512.Equals(a, a) & Vector512.Equals(b, b);
}

/// <summary>A comparison, or a NaN.</summary>
internal readonly struct Unordered<T, TOp> : IComparison<T> where TOp : IComparison<T>
{
    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) =>
        TOp.Invoke(a, b) | ~Numbers<T>.Invoke(a, b);
}

/// <summary>A comparison of what are numbers, both.</summary>
internal readonly struct Ordered<T, TOp> : IComparison<T> where TOp : IComparison<T>
{
    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) =>
        TOp.Invoke(a, b) & Numbers<T>.Invoke(a, b);
}

internal readonly struct Never<T> : IComparison<T>
{
    public static Vector512<T> Invoke(Vector512<T> a, Vector512<T> b) => Vector512<T>.Zero;
}
