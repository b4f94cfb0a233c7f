using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Native.Kernels.Formats;

namespace Native.Kernels.Cpu.Panels;

internal unsafe struct PanelF32 : IFloatPanel
{
    public static TensorType Type => TensorType.F32;
    public static int Size => 4;
    public static float Load(byte* address) => Unsafe.ReadUnaligned<float>(address);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Load8(byte* address) => Vector256.Load((float*)address);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Load16(byte* address) => Vector512.Load((float*)address);
}

internal unsafe struct PanelF16 : IFloatPanel
{
    public static TensorType Type => TensorType.F16;
    public static int Size => 2;
    public static float Load(byte* address) => (float)Unsafe.ReadUnaligned<Half>(address);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Load8(byte* address) => Halves.ToSingle(Vector128.Load((short*)address));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Load16(byte* address) => Halves.ToSingle(Vector256.Load((short*)address));
}

internal unsafe struct PanelBF16 : IFloatPanel
{
    public static TensorType Type => TensorType.BF16;
    public static int Size => 2;
    public static float Load(byte* address) =>
        BitConverter.UInt32BitsToSingle((uint)Unsafe.ReadUnaligned<ushort>(address) << 16);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> Load8(byte* address)
    {
        Vector128<ushort> bits = Vector128.Load((ushort*)address);
        if (System.Runtime.Intrinsics.X86.Avx2.IsSupported)
            return Vector256.ShiftLeft(System.Runtime.Intrinsics.X86.Avx2.ConvertToVector256Int32(bits), 16).AsSingle();
        return Vector256.Create(Vector128.ShiftLeft(Vector128.WidenLower(bits), 16),
            Vector128.ShiftLeft(Vector128.WidenUpper(bits), 16)).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Load16(byte* address) => System.Runtime.Intrinsics.X86.Avx512F.IsSupported
        ? Vector512.ShiftLeft(System.Runtime.Intrinsics.X86.Avx512F.ConvertToVector512UInt32(
            Vector256.Load((ushort*)address)), 16).AsSingle()
        : Vector512.Create(Load8(address), Load8(address + 16));
}

/// <summary>Finite IEEE halves to floats, exactly. .NET has no intrinsic for F16C; four instructions do the same except
/// for infinities and NaN.</summary>
internal static class Halves
{
    // Shifted so that its exponent's lowest bit is at a float's, a half is its value times 2^-112. Sign extension puts
    // the sign in its place; the mask clears its other copies.
    private const float Exponent = 5.192296858534828e33f; // 2^112

    /// <summary>Eight halves.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<float> ToSingle(Vector128<short> halves)
    {
        Vector256<int> wide = System.Runtime.Intrinsics.X86.Avx2.IsSupported
            ? System.Runtime.Intrinsics.X86.Avx2.ConvertToVector256Int32(halves)
            : Vector256.Create(Vector128.WidenLower(halves), Vector128.WidenUpper(halves));
        return (Vector256.ShiftLeft(wide, 13) & Vector256.Create(unchecked((int)0x8fffe000)))
            .AsSingle() * Vector256.Create(Exponent);
    }

    /// <summary>Sixteen halves.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> ToSingle(Vector256<short> halves)
    {
        Vector512<int> wide = System.Runtime.Intrinsics.X86.Avx512F.IsSupported
            ? System.Runtime.Intrinsics.X86.Avx512F.ConvertToVector512Int32(halves)
            : Vector512.Create(Vector256.WidenLower(halves), Vector256.WidenUpper(halves));
        return (Vector512.ShiftLeft(wide, 13) & Vector512.Create(unchecked((int)0x8fffe000)))
            .AsSingle() * Vector512.Create(Exponent);
    }
}
