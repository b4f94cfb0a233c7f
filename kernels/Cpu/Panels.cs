using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Native.Kernels.Formats;

namespace Native.Kernels.Cpu;

/// <summary>How one quantized file format lies in panels: integers interleaved over sixteen rows, scales beside them. Nothing is rounded: a panel stands for exactly the values that the format decodes to.</summary>
/// <remarks>
/// A panel is two halves of sixteen rows of the matrix over all columns, missing rows being zeros. It is read from its beginning to its end
/// and nowhere else, which is what processors fetch ahead for: for each unit of columns come the first half's scales, the second's, and then
/// the integers, a vector of the first half's and one of the second's by turns. A vector is the integers of four consecutive columns of row 0, of row 1, ... of row 15,
/// 64 bytes (one AVX-512 register, two of AVX2, four of NEON: a lane of 32 bits for each output). With whole bytes, eight vectors
/// cover 32 columns. With <see cref="Nibbles"/> four do: low nibbles are columns 0 to 15, high nibbles columns 16 to 31.
/// A weight is scale * (integer - <see cref="Offset"/>) + minimum, the scale and minimum being those of its group of <see cref="GroupSize"/> columns.
/// Scales, for each 32 columns: sixteen halves, and sixteen more of minimums with <see cref="HasMin"/>. With <see cref="SuperScales"/>, for each 256 columns:
/// the same, and then for each group sixteen signed bytes that multiply the scales, and sixteen more that multiply the minimums.
/// </remarks>
internal unsafe interface IPanel
{
    /// <summary>The file format.</summary>
    static abstract TensorType Type { get; }

    /// <summary>Two integers to a byte.</summary>
    static abstract bool Nibbles { get; }

    /// <summary>Integers are signed bytes; otherwise they are unsigned.</summary>
    static abstract bool Signed { get; }

    /// <summary>Subtracted from the unsigned integers; 0 or a power of two from 4.</summary>
    static abstract int Offset { get; }

    /// <summary>The greatest integer. It tells how many products fit 16 bits.</summary>
    static abstract int Greatest { get; }

    /// <summary>Columns that share a scale: 32 or 16.</summary>
    static abstract int GroupSize { get; }

    /// <summary>Groups have a minimum besides a scale.</summary>
    static abstract bool HasMin { get; }

    /// <summary>Scales are small integers times a super-block's scale.</summary>
    static abstract bool SuperScales { get; }

    /// <summary>Takes one block of the file apart.</summary>
    /// <param name="block">The block, unaligned.</param>
    /// <param name="integers">Receives the integers of its columns, a byte each.</param>
    /// <param name="scales">Receives the scale's bits and, with minimums, those of the minimum, such that it is added.</param>
    /// <param name="groups">With super scales: receives for each group the scale's factor and, with minimums, the minimum's, 16 entries apart.</param>
    static abstract void Unpack(byte* block, byte* integers, ushort* scales, sbyte* groups);
}

/// <summary>Where the two halves of quantized panels lie.</summary>
internal static class PanelLayout
{
    /// <summary>Bytes from a vector of the first half's integers to the second's.</summary>
    public const int HalfStride = 64;

    /// <summary>Bytes from a half's vector of integers to its next.</summary>
    public const int VectorStride = 128;
}

/// <summary>What follows from a panel format's constants. The compiler folds it, if it is told to: a call left in an inner loop spills every accumulator.</summary>
internal static class Panel<T>
    where T : IPanel
{
    /// <summary>Columns of a unit: a block of the file.</summary>
    public static int UnitColumns { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => T.SuperScales ? 256 : 32; }

    /// <summary>Blocks of 32 columns that share a super-block's scale.</summary>
    public static int UnitBlocks { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => T.SuperScales ? 8 : 1; }

    /// <summary>Bytes of 32 columns' integers, of one half.</summary>
    public static int BlockBytes { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => T.Nibbles ? 256 : 512; }

    /// <summary>Bytes of the 16-bit scales at the beginning of a unit's scales.</summary>
    public static int HalvesBytes { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => T.HasMin ? 64 : 32; }

    /// <summary>Bytes of one group's factors.</summary>
    public static int GroupBytes { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => T.HasMin ? 32 : 16; }

    /// <summary>Bytes of a unit's scales, of one half.</summary>
    public static int UnitScaleBytes { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => HalvesBytes + (T.SuperScales ? 256 / T.GroupSize * GroupBytes : 0); }

    /// <summary>Bytes of both halves' scales, with which a unit begins.</summary>
    public static int HeaderBytes { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => 2 * UnitScaleBytes; }

    /// <summary>Bytes from a half's integers of 32 columns to those of the next 32 in its unit.</summary>
    public static int BlockStride { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => 2 * BlockBytes; }

    /// <summary>Bytes of a unit, a multiple of 64 in every format.</summary>
    public static int UnitStride { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => HeaderBytes + UnitBlocks * BlockStride; }

    /// <summary>Vectors of unsigned integers times int8 whose pairs' sums fit 16 bits when added up: 8, 4, 2 or 1.</summary>
    public static int Depth { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => T.Greatest <= 16 ? 8 : T.Greatest <= 32 ? 4 : T.Greatest <= 64 ? 2 : 1; }

    /// <summary>By how much the activations' sums, kept times 4, are shifted left to be <see cref="IPanel.Offset"/> times the sum.</summary>
    public static int OffsetShift { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => T.Offset switch { 8 => 1, 16 => 2, 32 => 3, _ => 0 }; }

    /// <summary>The same where signed weights have been made unsigned by adding 128.</summary>
    public const int SignedShift = 5;
}

internal unsafe struct PanelQ4_0 : IPanel
{
    public static TensorType Type => TensorType.Q4_0;
    public static bool Nibbles => true;
    public static bool Signed => false;
    public static int Offset => 8;
    public static int Greatest => 15;
    public static int GroupSize => 32;
    public static bool HasMin => false;
    public static bool SuperScales => false;

    public static void Unpack(byte* block, byte* integers, ushort* scales, sbyte* groups)
    {
        Q4_0* b = (Q4_0*)block;
        scales[0] = *(ushort*)&b->Scale;
        Unpacking.Nibbles16((byte*)&b->Quants, integers);
    }
}

internal unsafe struct PanelQ4_1 : IPanel
{
    public static TensorType Type => TensorType.Q4_1;
    public static bool Nibbles => true;
    public static bool Signed => false;
    public static int Offset => 0;
    public static int Greatest => 15;
    public static int GroupSize => 32;
    public static bool HasMin => true;
    public static bool SuperScales => false;

    public static void Unpack(byte* block, byte* integers, ushort* scales, sbyte* groups)
    {
        Q4_1* b = (Q4_1*)block;
        scales[0] = *(ushort*)&b->Scale;
        scales[1] = *(ushort*)&b->Min;
        Unpacking.Nibbles16((byte*)&b->Quants, integers);
    }
}

internal unsafe struct PanelQ5_0 : IPanel
{
    public static TensorType Type => TensorType.Q5_0;
    public static bool Nibbles => false;
    public static bool Signed => false;
    public static int Offset => 16;
    public static int Greatest => 31;
    public static int GroupSize => 32;
    public static bool HasMin => false;
    public static bool SuperScales => false;

    public static void Unpack(byte* block, byte* integers, ushort* scales, sbyte* groups)
    {
        Q5_0* b = (Q5_0*)block;
        scales[0] = *(ushort*)&b->Scale;
        Unpacking.Nibbles16((byte*)&b->Quants, integers);
        Unpacking.FifthBits((byte*)&b->High, integers);
    }
}

internal unsafe struct PanelQ5_1 : IPanel
{
    public static TensorType Type => TensorType.Q5_1;
    public static bool Nibbles => false;
    public static bool Signed => false;
    public static int Offset => 0;
    public static int Greatest => 31;
    public static int GroupSize => 32;
    public static bool HasMin => true;
    public static bool SuperScales => false;

    public static void Unpack(byte* block, byte* integers, ushort* scales, sbyte* groups)
    {
        Q5_1* b = (Q5_1*)block;
        scales[0] = *(ushort*)&b->Scale;
        scales[1] = *(ushort*)&b->Min;
        Unpacking.Nibbles16((byte*)&b->Quants, integers);
        Unpacking.FifthBits((byte*)&b->High, integers);
    }
}

internal unsafe struct PanelQ8_0 : IPanel
{
    public static TensorType Type => TensorType.Q8_0;
    public static bool Nibbles => false;
    public static bool Signed => true;
    public static int Offset => 0;
    public static int Greatest => 128;
    public static int GroupSize => 32;
    public static bool HasMin => false;
    public static bool SuperScales => false;

    public static void Unpack(byte* block, byte* integers, ushort* scales, sbyte* groups)
    {
        Q8_0* b = (Q8_0*)block;
        scales[0] = *(ushort*)&b->Scale;
        Vector256.Load((byte*)&b->Quants).Store(integers);
    }
}

internal unsafe struct PanelIQ4_NL : IPanel
{
    public static TensorType Type => TensorType.IQ4_NL;
    public static bool Nibbles => false;
    public static bool Signed => true;
    public static int Offset => 0;
    public static int Greatest => 127;
    public static int GroupSize => 32;
    public static bool HasMin => false;
    public static bool SuperScales => false;

    public static void Unpack(byte* block, byte* integers, ushort* scales, sbyte* groups)
    {
        IQ4_NL* b = (IQ4_NL*)block;
        scales[0] = *(ushort*)&b->Scale;
        Unpacking.Nibbles16((byte*)&b->Quants, integers);
        Unpacking.Levels(integers, 32);
    }
}

internal unsafe struct PanelIQ4_XS : IPanel
{
    public static TensorType Type => TensorType.IQ4_XS;
    public static bool Nibbles => false;
    public static bool Signed => true;
    public static int Offset => 0;
    public static int Greatest => 127;
    public static int GroupSize => 32;
    public static bool HasMin => false;
    public static bool SuperScales => true;

    public static void Unpack(byte* block, byte* integers, ushort* scales, sbyte* groups)
    {
        IQ4_XS* b = (IQ4_XS*)block;
        scales[0] = *(ushort*)&b->Scale;
        for (int i = 0; i < 8; i++)
        {
            int s = b->ScalesLow[i / 2] >> (i % 2 * 4) & 15 | (b->ScalesHigh >> (2 * i) & 3) << 4;
            groups[16 * i] = (sbyte)(s - 32);
            Unpacking.Nibbles16((byte*)&b->Quants + 16 * i, integers + 32 * i);
        }
        Unpacking.Levels(integers, 256);
    }
}

internal unsafe struct PanelQ4_K : IPanel
{
    public static TensorType Type => TensorType.Q4_K;
    public static bool Nibbles => true;
    public static bool Signed => false;
    public static int Offset => 0;
    public static int Greatest => 15;
    public static int GroupSize => 32;
    public static bool HasMin => true;
    public static bool SuperScales => true;

    public static void Unpack(byte* block, byte* integers, ushort* scales, sbyte* groups)
    {
        Q4_K* b = (Q4_K*)block;
        scales[0] = *(ushort*)&b->Scale;
        scales[1] = (ushort)(*(ushort*)&b->Min ^ 0x8000);
        Unpacking.ScalesAndMins(b->Scales, groups);
        for (int k = 0; k < 4; k++) Unpacking.Nibbles32((byte*)&b->Quants + 32 * k, integers + 64 * k);
    }
}

internal unsafe struct PanelQ5_K : IPanel
{
    public static TensorType Type => TensorType.Q5_K;
    public static bool Nibbles => false;
    public static bool Signed => false;
    public static int Offset => 0;
    public static int Greatest => 31;
    public static int GroupSize => 32;
    public static bool HasMin => true;
    public static bool SuperScales => true;

    public static void Unpack(byte* block, byte* integers, ushort* scales, sbyte* groups)
    {
        Q5_K* b = (Q5_K*)block;
        scales[0] = *(ushort*)&b->Scale;
        scales[1] = (ushort)(*(ushort*)&b->Min ^ 0x8000);
        Unpacking.ScalesAndMins(b->Scales, groups);
        Vector256<byte> high = Vector256.Load((byte*)&b->High);
        for (int k = 0; k < 4; k++)
        {
            byte* q = integers + 64 * k;
            Unpacking.Nibbles32((byte*)&b->Quants + 32 * k, q);
            Vector256<byte> even = Vector256.ShiftRightLogical(high.AsUInt16(), 2 * k).AsByte() & Vector256<byte>.One;
            Vector256<byte> odd = Vector256.ShiftRightLogical(high.AsUInt16(), 2 * k + 1).AsByte() & Vector256<byte>.One;
            (Vector256.Load(q) | Vector256.ShiftLeft(even.AsUInt16(), 4).AsByte()).Store(q);
            (Vector256.Load(q + 32) | Vector256.ShiftLeft(odd.AsUInt16(), 4).AsByte()).Store(q + 32);
        }
    }
}

internal unsafe struct PanelQ6_K : IPanel
{
    public static TensorType Type => TensorType.Q6_K;
    public static bool Nibbles => false;
    public static bool Signed => false;
    public static int Offset => 32;
    public static int Greatest => 63;
    public static int GroupSize => 16;
    public static bool HasMin => false;
    public static bool SuperScales => true;

    public static void Unpack(byte* block, byte* integers, ushort* scales, sbyte* groups)
    {
        Q6_K* b = (Q6_K*)block;
        scales[0] = *(ushort*)&b->Scale;
        for (int i = 0; i < 16; i++) groups[16 * i] = b->Scales[i];
        Vector256<byte> four = Vector256.Create((byte)15), two = Vector256.Create((byte)3);
        for (int half = 0; half < 2; half++)
        {
            byte* low = (byte*)&b->Low + 64 * half;
            Vector256<byte> high = Vector256.Load((byte*)&b->High + 32 * half);
            for (int k = 0; k < 4; k++)
            {
                Vector256<byte> nibbles = Vector256.ShiftRightLogical(Vector256.Load(low + 32 * (k % 2)).AsUInt16(), k / 2 * 4).AsByte() & four;
                Vector256<byte> upper = Vector256.ShiftRightLogical(high.AsUInt16(), 2 * k).AsByte() & two;
                (nibbles | Vector256.ShiftLeft(upper.AsUInt16(), 4).AsByte()).Store(integers + 128 * half + 32 * k);
            }
        }
    }
}

internal unsafe struct PanelQ3_K : IPanel
{
    public static TensorType Type => TensorType.Q3_K;
    public static bool Nibbles => true;
    public static bool Signed => false;
    public static int Offset => 4;
    public static int Greatest => 7;
    public static int GroupSize => 16;
    public static bool HasMin => false;
    public static bool SuperScales => true;

    public static void Unpack(byte* block, byte* integers, ushort* scales, sbyte* groups)
    {
        Q3_K* b = (Q3_K*)block;
        scales[0] = *(ushort*)&b->Scale;
        for (int i = 0; i < 16; i++)
        {
            int low = b->Scales[i % 8] >> (i / 8 * 4) & 15;
            int high = b->Scales[8 + i % 4] >> (i / 4 * 2) & 3;
            groups[16 * i] = (sbyte)((low | high << 4) - 32);
        }
        Vector256<byte> third = Vector256.Load((byte*)&b->High), two = Vector256.Create((byte)3);
        for (int k = 0; k < 8; k++)
        {
            Vector256<byte> low = Vector256.ShiftRightLogical(Vector256.Load((byte*)&b->Quants + 32 * (k / 4)).AsUInt16(), k % 4 * 2).AsByte() & two;
            Vector256<byte> bit = Vector256.ShiftRightLogical(third.AsUInt16(), k).AsByte() & Vector256<byte>.One;
            (low | Vector256.ShiftLeft(bit.AsUInt16(), 2).AsByte()).Store(integers + 32 * k);
        }
    }
}

internal unsafe struct PanelQ2_K : IPanel
{
    public static TensorType Type => TensorType.Q2_K;
    public static bool Nibbles => true;
    public static bool Signed => false;
    public static int Offset => 0;
    public static int Greatest => 3;
    public static int GroupSize => 16;
    public static bool HasMin => true;
    public static bool SuperScales => true;

    public static void Unpack(byte* block, byte* integers, ushort* scales, sbyte* groups)
    {
        Q2_K* b = (Q2_K*)block;
        scales[0] = *(ushort*)&b->Scale;
        scales[1] = (ushort)(*(ushort*)&b->Min ^ 0x8000);
        for (int i = 0; i < 16; i++)
        {
            groups[32 * i] = (sbyte)(b->Scales[i] & 15);
            groups[32 * i + 16] = (sbyte)(b->Scales[i] >> 4);
        }
        Vector256<byte> two = Vector256.Create((byte)3);
        for (int k = 0; k < 8; k++)
            (Vector256.ShiftRightLogical(Vector256.Load((byte*)&b->Quants + 32 * (k / 4)).AsUInt16(), k % 4 * 2).AsByte() & two).Store(integers + 32 * k);
    }
}

/// <summary>Bit fields to bytes.</summary>
internal static unsafe class Unpacking
{
    /// <summary>16 bytes to 32 integers: low nibbles, then high ones.</summary>
    public static void Nibbles16(byte* packed, byte* integers)
    {
        Vector128<byte> v = Vector128.Load(packed), low = Vector128.Create((byte)15);
        (v & low).Store(integers);
        (Vector128.ShiftRightLogical(v.AsUInt16(), 4).AsByte() & low).Store(integers + 16);
    }

    /// <summary>32 bytes to 64 integers: low nibbles, then high ones.</summary>
    public static void Nibbles32(byte* packed, byte* integers)
    {
        Vector256<byte> v = Vector256.Load(packed), low = Vector256.Create((byte)15);
        (v & low).Store(integers);
        (Vector256.ShiftRightLogical(v.AsUInt16(), 4).AsByte() & low).Store(integers + 32);
    }

    /// <summary>Adds bit j of four bytes to integer j as its fifth.</summary>
    public static void FifthBits(byte* high, byte* integers)
    {
        uint bits = Unsafe.ReadUnaligned<uint>(high);
        for (int j = 0; j < 32; j++) integers[j] |= (byte)((bits >> j & 1) << 4);
    }

    /// <summary>Replaces 4-bit integers by the levels of IQ4_NL.</summary>
    public static void Levels(byte* integers, int count)
    {
        fixed (sbyte* levels = IQ4_NL.Levels)
        {
            Vector128<byte> table = Vector128.Load((byte*)levels);
            for (int i = 0; i < count; i += 16) Vector128.Shuffle(table, Vector128.Load(integers + i)).Store(integers + i);
        }
    }

    /// <summary>The eight scales and minimums of Q4_K and Q5_K.</summary>
    public static void ScalesAndMins(Bytes12 packed, sbyte* groups)
    {
        for (int i = 0; i < 8; i++)
        {
            (int scale, int min) = Q4_K.ScaleAndMin(packed, i);
            groups[32 * i] = (sbyte)scale;
            groups[32 * i + 16] = (sbyte)min;
        }
    }
}
