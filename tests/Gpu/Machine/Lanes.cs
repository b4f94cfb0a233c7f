using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Native.Tests.Gpu.Machine;

internal interface IUnary<T>
{
    static abstract Vector512<T> Invoke(Vector512<T> a);
}

internal interface IBinary<T>
{
    static abstract Vector512<T> Invoke(Vector512<T> a, Vector512<T> b);
}

internal interface ITernary<T>
{
    static abstract Vector512<T> Invoke(Vector512<T> a, Vector512<T> b, Vector512<T> c);
}

/// <summary>All bits of an element where the comparison holds, none where it does not.</summary>
internal interface IComparison<T>
{
    static abstract Vector512<T> Invoke(Vector512<T> a, Vector512<T> b);
}

internal interface IScalar<TA, TD>
{
    static abstract TD Invoke(TA a);
}

internal interface IScalar2<TA, TB, TD>
{
    static abstract TD Invoke(TA a, TB b);
}

internal interface IScalar3<TA, TB, TC, TD>
{
    static abstract TD Invoke(TA a, TB b, TC c);
}

/// <summary>Applies an operator to the active lanes of registers: many lanes an instruction, or one after another.
/// </summary>
/// <remarks>AggressiveOptimization: the runtime's first tier executes generic vectors a hundred times slower.</remarks>
internal static unsafe class Lanes
{
    private const MethodImplOptions Optimized = MethodImplOptions.AggressiveOptimization;

    [MethodImpl(Optimized)]
    public static void Map<T, TOp>(Warp warp, Op* op, uint active) where T : unmanaged where TOp : IUnary<T>
    {
        Vector512<T>* a = At<T>(warp, op->A), d = At<T>(warp, op->D);
        for (int i = 0; i < sizeof(T) / 2; i++) Put(d + i, TOp.Invoke(a[i]), active, i);
    }

    [MethodImpl(Optimized)]
    public static void Map2<T, TOp>(Warp warp, Op* op, uint active) where T : unmanaged where TOp : IBinary<T>
    {
        Vector512<T>* a = At<T>(warp, op->A), b = At<T>(warp, op->B), d = At<T>(warp, op->D);
        for (int i = 0; i < sizeof(T) / 2; i++) Put(d + i, TOp.Invoke(a[i], b[i]), active, i);
    }

    [MethodImpl(Optimized)]
    public static void Map3<T, TOp>(Warp warp, Op* op, uint active) where T : unmanaged where TOp : ITernary<T>
    {
        Vector512<T>* a = At<T>(warp, op->A), b = At<T>(warp, op->B), c = At<T>(warp, op->C), d = At<T>(warp, op->D);
        for (int i = 0; i < sizeof(T) / 2; i++) Put(d + i, TOp.Invoke(a[i], b[i], c[i]), active, i);
    }

    /// <summary>setp: D the predicate, E its complement or -1, C the one to combine with or -1 (Count says how).
    /// </summary>
    [MethodImpl(Optimized)]
    public static void Compare<T, TOp>(Warp warp, Op* op, uint active) where T : unmanaged where TOp : IComparison<T>
    {
        Vector512<T>* a = At<T>(warp, op->A), b = At<T>(warp, op->B);
        ulong bits = 0;
        for (int i = 0; i < sizeof(T) / 2; i++)
            bits |= TOp.Invoke(a[i], b[i]).ExtractMostSignificantBits() << (i * (64 / sizeof(T)));
        SetCompared(warp, op, active, (uint)bits);
    }

    /// <summary>The same, one lane after another.</summary>
    public static void CompareEach<T, TOp>(Warp warp, Op* op, uint active)
        where T : unmanaged where TOp : IScalar2<T, T, bool>
    {
        uint bits = 0;
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            if (TOp.Invoke(warp.Value<T>(op->A, lane), warp.Value<T>(op->B, lane))) bits |= 1u << lane;
        }
        SetCompared(warp, op, active, bits);
    }

    private static void SetCompared(Warp warp, Op* op, uint active, uint bits)
    {
        uint other = op->C < 0 ? 0 : *(uint*)(warp.Registers + op->C);
        if (op->IsNegatedA) other = ~other;
        uint Combine(uint value) => op->Count switch
        {
            1 => value & other,
            2 => value | other,
            3 => value ^ other,
            _ => value,
        };
        if (op->D >= 0) warp.SetPredicate(op->D, active, Combine(bits));
        if (op->E >= 0) warp.SetPredicate(op->E, active, Combine(~bits));
    }

    /// <summary>selp: A where the predicate C holds, else B.</summary>
    [MethodImpl(Optimized)]
    public static void Select<T>(Warp warp, Op* op, uint active) where T : unmanaged
    {
        Vector512<T>* a = At<T>(warp, op->A), b = At<T>(warp, op->B), d = At<T>(warp, op->D);
        uint holds = *(uint*)(warp.Registers + op->C);
        if (op->IsNegatedA) holds = ~holds;
        for (int i = 0; i < sizeof(T) / 2; i++)
            Put(d + i, Vector512.ConditionalSelect(Mask<T>(holds, i), a[i], b[i]), active, i);
    }

    [MethodImpl(Optimized)]
    public static void Each<TA, TD, TOp>(Warp warp, Op* op, uint active)
        where TA : unmanaged where TD : unmanaged where TOp : IScalar<TA, TD>
    {
        TA* a = (TA*)(warp.Registers + op->A);
        TD* d = (TD*)(warp.Registers + op->D);
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            d[lane] = TOp.Invoke(a[lane]);
        }
    }

    [MethodImpl(Optimized)]
    public static void Each2<TA, TB, TD, TOp>(Warp warp, Op* op, uint active)
        where TA : unmanaged where TB : unmanaged where TD : unmanaged where TOp : IScalar2<TA, TB, TD>
    {
        TA* a = (TA*)(warp.Registers + op->A);
        TB* b = (TB*)(warp.Registers + op->B);
        TD* d = (TD*)(warp.Registers + op->D);
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            d[lane] = TOp.Invoke(a[lane], b[lane]);
        }
    }

    [MethodImpl(Optimized)]
    public static void Each3<TA, TB, TC, TD, TOp>(Warp warp, Op* op, uint active)
        where TA : unmanaged where TB : unmanaged where TC : unmanaged where TD : unmanaged
        where TOp : IScalar3<TA, TB, TC, TD>
    {
        TA* a = (TA*)(warp.Registers + op->A);
        TB* b = (TB*)(warp.Registers + op->B);
        TC* c = (TC*)(warp.Registers + op->C);
        TD* d = (TD*)(warp.Registers + op->D);
        for (uint rest = active; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            d[lane] = TOp.Invoke(a[lane], b[lane], c[lane]);
        }
    }

    /// <summary>Operations on predicates: and, or, xor, not, mov. Count chooses, Immediate says which are negated.
    /// </summary>
    public static void Predicates(Warp warp, Op* op, uint active)
    {
        uint a = *(uint*)(warp.Registers + op->A), b = op->B < 0 ? 0 : *(uint*)(warp.Registers + op->B);
        if ((op->Immediate & 1) != 0) a = ~a;
        if ((op->Immediate & 2) != 0) b = ~b;
        warp.SetPredicate(op->D, active, op->Count switch { 1 => a & b, 2 => a | b, 3 => a ^ b, 4 => ~a, _ => a });
    }

    /// <summary>From a register that is wider or narrower, without or with its sign. Also where the type says less than
    /// the register has: <c>st.u32 [a], %rd1</c>.</summary>
    public static Execute Resize(int from, int to, bool signed) => (from, to, signed) switch
    {
        (1, 2, false) => &Each<byte, ushort, Cast<byte, ushort>>,
        (1, 2, true) => &Each<sbyte, short, Cast<sbyte, short>>,
        (1, 4, false) => &Each<byte, uint, Cast<byte, uint>>,
        (1, 4, true) => &Each<sbyte, int, Cast<sbyte, int>>,
        (1, 8, false) => &Each<byte, ulong, Cast<byte, ulong>>,
        (1, 8, true) => &Each<sbyte, long, Cast<sbyte, long>>,
        (2, 1, _) => &Each<ushort, byte, Cast<ushort, byte>>,
        (2, 4, false) => &Each<ushort, uint, Cast<ushort, uint>>,
        (2, 4, true) => &Each<short, int, Cast<short, int>>,
        (2, 8, false) => &Each<ushort, ulong, Cast<ushort, ulong>>,
        (2, 8, true) => &Each<short, long, Cast<short, long>>,
        (4, 1, _) => &Each<uint, byte, Cast<uint, byte>>,
        (4, 2, _) => &Each<uint, ushort, Cast<uint, ushort>>,
        (4, 8, false) => &Widen<uint, ulong>,
        (4, 8, true) => &Widen<int, long>,
        (8, 1, _) => &Each<ulong, byte, Cast<ulong, byte>>,
        (8, 2, _) => &Each<ulong, ushort, Cast<ulong, ushort>>,
        (8, 4, _) => &Narrow,
        (1, 1, _) => &Each<byte, byte, Cast<byte, byte>>,
        (2, 2, _) => &Map<ushort, Same<ushort>>,
        (4, 4, _) => &Map<uint, Same<uint>>,
        (8, 8, _) => &Map<ulong, Same<ulong>>,
        _ => throw new InvalidOperationException($"from {from} bytes to {to}"),
    };

    [MethodImpl(Optimized)]
    private static void Widen<TA, TD>(Warp warp, Op* op, uint active) where TA : unmanaged where TD : unmanaged
    {
        Vector512<TA>* a = At<TA>(warp, op->A);
        Vector512<TD>* d = At<TD>(warp, op->D);
        for (int i = 0; i < 2; i++)
        {
            if (typeof(TA) == typeof(int))
            {
                (Vector512<long> low, Vector512<long> high) = Vector512.Widen(a[i].AsInt32());
                Put(d + 2 * i, low.As<long, TD>(), active, 2 * i);
                Put(d + 2 * i + 1, high.As<long, TD>(), active, 2 * i + 1);
            }
            else
            {
                (Vector512<ulong> low, Vector512<ulong> high) = Vector512.Widen(a[i].AsUInt32());
                Put(d + 2 * i, low.As<ulong, TD>(), active, 2 * i);
                Put(d + 2 * i + 1, high.As<ulong, TD>(), active, 2 * i + 1);
            }
        }
    }

    [MethodImpl(Optimized)]
    private static void Narrow(Warp warp, Op* op, uint active)
    {
        Vector512<ulong>* a = At<ulong>(warp, op->A);
        Vector512<uint>* d = At<uint>(warp, op->D);
        Vector512<uint> low = Vector512.Narrow(a[0], a[1]), high = Vector512.Narrow(a[2], a[3]);
        Put(d, low, active, 0);
        Put(d + 1, high, active, 1);
    }

    private static Vector512<T>* At<T>(Warp warp, int slot) => (Vector512<T>*)(warp.Registers + slot);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Put<T>(Vector512<T>* d, Vector512<T> value, uint active, int i) where T : unmanaged =>
        *d = active == uint.MaxValue ? value : Vector512.ConditionalSelect(Mask<T>(active, i), value, *d);

    /// <summary>All bits of the elements whose lanes are set, for the i-th vector of a register.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<T> Mask<T>(uint lanes, int i) where T : unmanaged
    {
        if (sizeof(T) == 8)
        {
            Vector512<ulong> bits = Vector512.Create(1ul, 2, 4, 8, 16, 32, 64, 128);
            return Vector512.Equals(Vector512.Create((ulong)(lanes >> (8 * i))) & bits, bits).As<ulong, T>();
        }
        if (sizeof(T) == 4) return Mask16(lanes >> (16 * i)).As<uint, T>();
        return Vector512.Narrow(Mask16(lanes), Mask16(lanes >> 16)).As<ushort, T>();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<uint> Mask16(uint lanes)
    {
        Vector512<uint> bits = Vector512.Create(1u, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384,
            32768);
        return Vector512.Equals(Vector512.Create(lanes) & bits, bits);
    }
}

internal readonly struct Cast<TA, TD> : IScalar<TA, TD> where TA : INumberBase<TA> where TD : INumberBase<TD>
{
    public static TD Invoke(TA a) => TD.CreateTruncating(a);
}

internal readonly struct Same<T> : IUnary<T>
{
    public static Vector512<T> Invoke(Vector512<T> a) => a;
}
