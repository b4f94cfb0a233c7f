using System.Numerics;

namespace Native.Tests.Gpu.Machine;

/// <summary>A float of 8 or 16 bits that is kept as its bits, exact as a double.</summary>
internal interface ISmallFloat<T> where T : ISmallFloat<T>
{
    static abstract double Of(ushort bits);

    /// <summary>To nearest, ties to even.</summary>
    static abstract ushort From(double value);
}

internal readonly struct F16 : ISmallFloat<F16>
{
    public static double Of(ushort bits) => (double)BitConverter.UInt16BitsToHalf(bits);

    public static ushort From(double value) => double.IsNaN(value) ? (ushort)0x7fff
        : BitConverter.HalfToUInt16Bits((Half)value);
}

internal readonly struct Bf16 : ISmallFloat<Bf16>
{
    public static double Of(ushort bits) => BitConverter.UInt32BitsToSingle((uint)bits << 16);

    public static ushort From(double value)
    {
        if (double.IsNaN(value)) return 0x7fff;
        uint bits = BitConverter.SingleToUInt32Bits(SmallFloats.ToOdd(value));
        return (ushort)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
}

/// <summary>Conversions that round once.</summary>
internal static class SmallFloats
{
    /// <summary>To float so that rounding it again, to fewer bits, is as if it were done once: an inexact result has an
    /// odd last bit (Boldo and Melquiond 2008).</summary>
    public static float ToOdd(double value)
    {
        float near = (float)value;
        if (near == value || !float.IsFinite(near)) return near;
        float below = Math.Abs((double)near) > Math.Abs(value)
            ? BitConverter.UInt32BitsToSingle(BitConverter.SingleToUInt32Bits(near) - 1) : near;
        return BitConverter.UInt32BitsToSingle(BitConverter.SingleToUInt32Bits(below) | 1);
    }

    /// <summary>a * b + c where the product is exact as a double: the sum's last bit is odd where it is not exact.
    /// </summary>
    public static double FusedToOdd(double a, double b, double c)
    {
        double product = a * b, sum = product + c;
        if (!double.IsFinite(sum)) return sum;
        double other = sum - product, error = (product - (sum - other)) + (c - other);
        if (error == 0) return sum;
        long bits = BitConverter.DoubleToInt64Bits(sum);
        bool away = error > 0 == sum > 0; // the true sum is of greater magnitude
        return BitConverter.Int64BitsToDouble(away ? bits | 1 : (bits & 1) != 0 ? bits : bits - 1);
    }

    /// <summary>A float of 8 bits without infinities (e4m3) or with them (e5m2).</summary>
    public static double OfByte(byte bits, bool e5m2)
    {
        if (e5m2) return (double)BitConverter.UInt16BitsToHalf((ushort)(bits << 8));
        int exponent = bits >> 3 & 15, mantissa = bits & 7;
        double value = exponent == 15 && mantissa == 7 ? double.NaN
            : exponent == 0 ? mantissa * Math.Pow(2, -9) : (8 + mantissa) * Math.Pow(2, exponent - 10);
        return (bits & 0x80) != 0 ? -value : value;
    }

    /// <summary>To nearest, ties to even, held to the largest finite value (.satfinite).</summary>
    public static byte ToByte(double value, bool e5m2)
    {
        if (double.IsNaN(value)) return 0x7f;
        int mantissaBits = e5m2 ? 2 : 3, least = e5m2 ? -14 : -6;
        double largest = e5m2 ? 57344 : 448, magnitude = Math.Min(Math.Abs(value), largest);
        byte sign = double.IsNegative(value) ? (byte)0x80 : (byte)0;
        if (magnitude == 0) return sign;
        int exponent = Math.Max(Math.ILogB(magnitude), least);
        double units = Math.Round(Math.ScaleB(magnitude, mantissaBits - exponent), MidpointRounding.ToEven);
        if (units >= 2 << mantissaBits)
        {
            units /= 2;
            exponent++;
        }
        int code = (int)units + ((exponent - least) << mantissaBits);
        return (byte)(sign | Math.Min(code, e5m2 ? 0x7b : 0x7e));
    }
}

internal interface IDoubleOp
{
    static abstract double Invoke(double a, double b, double c);
}

internal readonly struct DoubleAdd : IDoubleOp
{
    public static double Invoke(double a, double b, double c) => a + b;
}

internal readonly struct DoubleSub : IDoubleOp
{
    public static double Invoke(double a, double b, double c) => a - b;
}

internal readonly struct DoubleMul : IDoubleOp
{
    public static double Invoke(double a, double b, double c) => a * b;
}

internal readonly struct DoubleFma : IDoubleOp
{
    public static double Invoke(double a, double b, double c) => SmallFloats.FusedToOdd(a, b, c);
}

internal readonly struct DoubleFmaRelu : IDoubleOp
{
    public static double Invoke(double a, double b, double c) => DoubleMax.Invoke(DoubleFma.Invoke(a, b, c), 0, 0);
}

internal readonly struct DoubleNeg : IDoubleOp
{
    public static double Invoke(double a, double b, double c) => -a;
}

internal readonly struct DoubleAbs : IDoubleOp
{
    public static double Invoke(double a, double b, double c) => Math.Abs(a);
}

internal readonly struct DoubleMin : IDoubleOp
{
    public static double Invoke(double a, double b, double c) => double.MinNumber(a, b);
}

internal readonly struct DoubleMax : IDoubleOp
{
    public static double Invoke(double a, double b, double c) => double.MaxNumber(a, b);
}

internal readonly struct DoubleExp2 : IDoubleOp
{
    public static double Invoke(double a, double b, double c) => double.Exp2(a);
}

internal readonly struct DoubleTanh : IDoubleOp
{
    public static double Invoke(double a, double b, double c) => Math.Tanh(a);
}

internal readonly struct DoubleLog2 : IDoubleOp
{
    public static double Invoke(double a, double b, double c) => Math.Log2(a);
}

internal readonly struct DoubleSin : IDoubleOp
{
    public static double Invoke(double a, double b, double c) => Math.Sin(a);
}

internal readonly struct DoubleCos : IDoubleOp
{
    public static double Invoke(double a, double b, double c) => Math.Cos(a);
}

internal readonly struct DoubleRsqrt : IDoubleOp
{
    public static double Invoke(double a, double b, double c) => 1 / Math.Sqrt(a);
}

internal readonly struct DoubleRcp : IDoubleOp
{
    public static double Invoke(double a, double b, double c) => 1 / a;
}

internal readonly struct DoubleCopySign : IDoubleOp
{
    public static double Invoke(double a, double b, double c) => Math.CopySign(b, a);
}

/// <summary>An operation of floats of 16 bits.</summary>
internal readonly struct Small<TFloat, TOp> : IScalar<ushort, ushort>, IScalar2<ushort, ushort, ushort>,
    IScalar3<ushort, ushort, ushort, ushort>
    where TFloat : ISmallFloat<TFloat> where TOp : IDoubleOp
{
    public static ushort Invoke(ushort a) => TFloat.From(TOp.Invoke(TFloat.Of(a), 0, 0));

    public static ushort Invoke(ushort a, ushort b) => TFloat.From(TOp.Invoke(TFloat.Of(a), TFloat.Of(b), 0));

    public static ushort Invoke(ushort a, ushort b, ushort c) =>
        TFloat.From(TOp.Invoke(TFloat.Of(a), TFloat.Of(b), TFloat.Of(c)));
}

/// <summary>The same of two in a register.</summary>
internal readonly struct Pair<TFloat, TOp> : IScalar<uint, uint>, IScalar2<uint, uint, uint>,
    IScalar3<uint, uint, uint, uint>
    where TFloat : ISmallFloat<TFloat> where TOp : IDoubleOp
{
    public static uint Invoke(uint a) =>
        Small<TFloat, TOp>.Invoke((ushort)a) | (uint)Small<TFloat, TOp>.Invoke((ushort)(a >> 16)) << 16;

    public static uint Invoke(uint a, uint b) => Small<TFloat, TOp>.Invoke((ushort)a, (ushort)b)
        | (uint)Small<TFloat, TOp>.Invoke((ushort)(a >> 16), (ushort)(b >> 16)) << 16;

    public static uint Invoke(uint a, uint b, uint c) => Small<TFloat, TOp>.Invoke((ushort)a, (ushort)b, (ushort)c)
        | (uint)Small<TFloat, TOp>.Invoke((ushort)(a >> 16), (ushort)(b >> 16), (ushort)(c >> 16)) << 16;
}

/// <summary>An approximate function of floats; here to nearest, after denormals became zeros.</summary>
internal readonly struct Approx<TOp> : IScalar<float, float> where TOp : IDoubleOp
{
    public static float Invoke(float a) => (float)TOp.Invoke(a, 0, 0);
}

internal readonly struct ApproxFtz<TOp> : IScalar<float, float> where TOp : IDoubleOp
{
    public static float Invoke(float a) => Zero((float)TOp.Invoke(Zero(a), 0, 0));

    private static float Zero(float a) => float.IsSubnormal(a) ? MathF.CopySign(0, a) : a;
}

internal readonly struct Exact<TOp> : IScalar<double, double>, IScalar2<double, double, double> where TOp : IDoubleOp
{
    public static double Invoke(double a) => TOp.Invoke(a, 0, 0);

    public static double Invoke(double a, double b) => TOp.Invoke(a, b, 0);
}

internal readonly struct CopySign32 : IScalar2<float, float, float>
{
    public static float Invoke(float a, float b) => MathF.CopySign(b, a);
}

internal interface IRelation
{
    static abstract bool Invoke(double a, double b);
}

/// <summary>A comparison of floats of 16 bits.</summary>
internal readonly struct SmallCompare<TFloat, TRelation> : IScalar2<ushort, ushort, bool>
    where TFloat : ISmallFloat<TFloat> where TRelation : IRelation
{
    public static bool Invoke(ushort a, ushort b) => TRelation.Invoke(TFloat.Of(a), TFloat.Of(b));
}

internal readonly struct IsLess : IRelation
{
    public static bool Invoke(double a, double b) => a < b;
}

internal readonly struct IsLessOrEqual : IRelation
{
    public static bool Invoke(double a, double b) => a <= b;
}

internal readonly struct IsGreater : IRelation
{
    public static bool Invoke(double a, double b) => a > b;
}

internal readonly struct IsGreaterOrEqual : IRelation
{
    public static bool Invoke(double a, double b) => a >= b;
}

internal readonly struct IsEqual : IRelation
{
    public static bool Invoke(double a, double b) => a == b;
}

internal readonly struct IsNotEqual : IRelation
{
    public static bool Invoke(double a, double b) => a < b || a > b;
}

internal readonly struct IsUnequalOrNaN : IRelation
{
    public static bool Invoke(double a, double b) => a != b;
}

internal readonly struct IsNaN : IRelation
{
    public static bool Invoke(double a, double b) => double.IsNaN(a) || double.IsNaN(b);
}

/// <summary>Rounding of a double to an integral value: Count is 'n' to even, 'z' to zero, 'm' down, 'p' up.</summary>
internal static unsafe class Conversions
{
    private static double Round(double value, int mode) => (char)mode switch
    {
        'n' => Math.Round(value, MidpointRounding.ToEven),
        'z' => Math.Truncate(value),
        'm' => Math.Floor(value),
        _ => Math.Ceiling(value),
    };

    /// <summary>A float to an integer: out of range it is held to the nearest, NaN is 0.</summary>
    public static void ToInteger<TA, TD>(Warp warp, Op* op, uint active)
        where TA : unmanaged, INumberBase<TA> where TD : unmanaged, IBinaryInteger<TD>, IMinMaxValue<TD>
    {
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            double value = double.CreateChecked(warp.Value<TA>(op->A, lane));
            if (op->IsNegatedA && float.IsSubnormal((float)value)) value = 0;
            warp.Value<TD>(op->D, lane) = TD.CreateSaturating(Round(value, op->Count));
        }
    }

    /// <summary>A float to an integral float of the same type.</summary>
    public static void ToIntegral<T>(Warp warp, Op* op, uint active) where T : unmanaged, INumberBase<T>
    {
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            double value = double.CreateChecked(warp.Value<T>(op->A, lane));
            warp.Value<T>(op->D, lane) = T.CreateChecked(Round(value, op->Count));
        }
    }
}

/// <summary>An integer to a float, to nearest. 64 bits go to a float by way of one that is odd where it is not exact.
/// </summary>
internal readonly struct ToFloat<T> : IScalar<T, float> where T : IBinaryInteger<T>
{
    public static float Invoke(T a)
    {
        if (a.GetByteCount() < 8) return (float)double.CreateChecked(a);
        bool negative = T.IsNegative(a);
        ulong magnitude = ulong.CreateTruncating(negative ? T.Zero - a : a);
        int excess = 64 - 53 - BitOperations.LeadingZeroCount(magnitude);
        if (excess > 0)
        {
            ulong lost = magnitude & ((1ul << excess) - 1);
            magnitude = magnitude >> excess << excess | (lost != 0 ? 1ul << excess : 0);
        }
        float value = (float)(double)magnitude;
        return negative ? -value : value;
    }
}

internal readonly struct ToDouble<T> : IScalar<T, double> where T : IBinaryInteger<T>
{
    public static double Invoke(T a) => double.CreateChecked(a);
}

internal readonly struct ToSmall<TFloat, T> : IScalar<T, ushort>
    where TFloat : ISmallFloat<TFloat> where T : INumberBase<T>
{
    public static ushort Invoke(T a) => TFloat.From(double.CreateChecked(a));
}

internal readonly struct ToSmallRelu<TFloat> : IScalar<float, ushort> where TFloat : ISmallFloat<TFloat>
{
    public static ushort Invoke(float a) => float.IsNaN(a) ? TFloat.From(a) : TFloat.From(Math.Max(a, 0));
}

internal readonly struct FromSmall<TFloat> : IScalar<ushort, float>, IScalar<ushort, double>
    where TFloat : ISmallFloat<TFloat>
{
    static float IScalar<ushort, float>.Invoke(ushort a) => (float)TFloat.Of(a);

    static double IScalar<ushort, double>.Invoke(ushort a) => TFloat.Of(a);
}

internal readonly struct ToSingle : IScalar<double, float>
{
    public static float Invoke(double a) => (float)a;
}

internal readonly struct FromSingle : IScalar<float, double>
{
    public static double Invoke(float a) => a;
}

/// <summary>To tf32, ties away from zero: 10 bits of mantissa.</summary>
internal readonly struct ToTf32 : IScalar<float, uint>
{
    public static uint Invoke(float a) => float.IsFinite(a)
        ? (BitConverter.SingleToUInt32Bits(a) + 0x1000) & 0xffff_e000 : BitConverter.SingleToUInt32Bits(a);
}

/// <summary>Two floats into one register, the first above.</summary>
internal readonly struct Pack<TFloat> : IScalar2<float, float, uint> where TFloat : ISmallFloat<TFloat>
{
    public static uint Invoke(float a, float b) => (uint)TFloat.From(a) << 16 | TFloat.From(b);
}

internal readonly struct PackRelu<TFloat> : IScalar2<float, float, uint> where TFloat : ISmallFloat<TFloat>
{
    public static uint Invoke(float a, float b) =>
        (uint)ToSmallRelu<TFloat>.Invoke(a) << 16 | ToSmallRelu<TFloat>.Invoke(b);
}

internal readonly struct PackE4M3 : IScalar2<float, float, ushort>
{
    public static ushort Invoke(float a, float b) =>
        (ushort)(SmallFloats.ToByte(a, false) << 8 | SmallFloats.ToByte(b, false));
}

internal readonly struct PackE5M2 : IScalar2<float, float, ushort>
{
    public static ushort Invoke(float a, float b) =>
        (ushort)(SmallFloats.ToByte(a, true) << 8 | SmallFloats.ToByte(b, true));
}

internal readonly struct UnpackE4M3 : IScalar<ushort, uint>
{
    public static uint Invoke(ushort a) => (uint)F16.From(SmallFloats.OfByte((byte)(a >> 8), false)) << 16
        | F16.From(SmallFloats.OfByte((byte)a, false));
}

internal readonly struct UnpackE5M2 : IScalar<ushort, uint>
{
    public static uint Invoke(ushort a) => (uint)F16.From(SmallFloats.OfByte((byte)(a >> 8), true)) << 16
        | F16.From(SmallFloats.OfByte((byte)a, true));
}

/// <summary>cvt.pack.sat: two integers into bytes, before what is there already.</summary>
internal readonly struct PackBytes<T> : IScalar3<int, int, uint, uint> where T : IBinaryInteger<T>, IMinMaxValue<T>
{
    public static uint Invoke(int a, int b, uint c) => c << 16
        | (uint)byte.CreateTruncating(T.CreateSaturating(a)) << 8 | byte.CreateTruncating(T.CreateSaturating(b));
}

internal readonly struct PackHalves<T> : IScalar2<int, int, uint> where T : IBinaryInteger<T>, IMinMaxValue<T>
{
    public static uint Invoke(int a, int b) =>
        (uint)ushort.CreateTruncating(T.CreateSaturating(a)) << 16 | ushort.CreateTruncating(T.CreateSaturating(b));
}

/// <summary>An integer into the range of another type, then that type.</summary>
internal readonly struct CastSaturated<TA, TD> : IScalar<TA, TD> where TA : INumberBase<TA> where TD : INumberBase<TD>
{
    public static TD Invoke(TA a) => TD.CreateSaturating(a);
}
