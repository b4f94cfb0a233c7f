using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Native.Kernels.Formats;

internal unsafe struct Q4_0Integers : IIntegerFormat
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

internal unsafe struct Q4_1Integers : IIntegerFormat
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

internal unsafe struct Q5_0Integers : IIntegerFormat
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

internal unsafe struct Q5_1Integers : IIntegerFormat
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

internal unsafe struct Q8_0Integers : IIntegerFormat
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

internal unsafe struct IQ4_NLIntegers : IIntegerFormat
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

internal unsafe struct IQ4_XSIntegers : IIntegerFormat
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

internal unsafe struct Q4_KIntegers : IIntegerFormat
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

internal unsafe struct Q5_KIntegers : IIntegerFormat
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
            Vector256<byte> odd = Vector256.ShiftRightLogical(high.AsUInt16(), 2 * k + 1).AsByte()
                & Vector256<byte>.One;
            (Vector256.Load(q) | Vector256.ShiftLeft(even.AsUInt16(), 4).AsByte()).Store(q);
            (Vector256.Load(q + 32) | Vector256.ShiftLeft(odd.AsUInt16(), 4).AsByte()).Store(q + 32);
        }
    }
}

internal unsafe struct Q6_KIntegers : IIntegerFormat
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
                Vector256<byte> nibbles =
                    Vector256.ShiftRightLogical(Vector256.Load(low + 32 * (k % 2)).AsUInt16(), k / 2 * 4)
                    .AsByte() & four;
                Vector256<byte> upper = Vector256.ShiftRightLogical(high.AsUInt16(), 2 * k).AsByte() & two;
                (nibbles | Vector256.ShiftLeft(upper.AsUInt16(), 4).AsByte()).Store(integers + 128 * half + 32 * k);
            }
        }
    }
}

internal unsafe struct Q3_KIntegers : IIntegerFormat
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
            Vector256<byte> low = Vector256.ShiftRightLogical(
                Vector256.Load((byte*)&b->Quants + 32 * (k / 4)).AsUInt16(), k % 4 * 2).AsByte() & two;
            Vector256<byte> bit = Vector256.ShiftRightLogical(third.AsUInt16(), k).AsByte() & Vector256<byte>.One;
            (low | Vector256.ShiftLeft(bit.AsUInt16(), 2).AsByte()).Store(integers + 32 * k);
        }
    }
}

internal unsafe struct Q2_KIntegers : IIntegerFormat
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
            (Vector256.ShiftRightLogical(Vector256.Load((byte*)&b->Quants + 32 * (k / 4)).AsUInt16(), k % 4 * 2)
                .AsByte() & two).Store(integers + 32 * k);
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
            for (int i = 0; i < count; i += 16)
                Vector128.Shuffle(table, Vector128.Load(integers + i)).Store(integers + i);
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
