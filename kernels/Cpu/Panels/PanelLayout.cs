using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Native.Kernels.Formats;

namespace Native.Kernels.Cpu.Panels;

/// <summary>Where the two halves of quantized panels lie.</summary>
internal static class PanelLayout
{
    /// <summary>Bytes from a vector of the first half's integers to the second's.</summary>
    public const int HalfStride = 64;

    /// <summary>Bytes from a half's vector of integers to its next.</summary>
    public const int VectorStride = 128;
}

/// <summary>How one quantized file format lies in panels: integers interleaved over sixteen rows, scales beside them.
/// Nothing is rounded: a panel stands for exactly the values that the format decodes to.</summary>
/// <remarks>
/// A panel is two halves of sixteen rows of the matrix over all columns. Missing rows are zeros. It is read strictly in
/// order, so that hardware prefetches. Each unit of columns has the first half's scales, the second half's scales, and
/// then the integers: vectors of the first and the second half alternate. A vector holds the integers of four
/// consecutive columns of row 0, of row 1, ... of row 15: 64 bytes (one AVX-512 register, two of AVX2, four of NEON: a
/// lane of 32 bits for each output). With whole bytes, eight vectors cover 32 columns. With
/// <see cref="IIntegerFormat.Nibbles"/> four do: low nibbles are columns 0 to 15, high nibbles columns 16 to 31.
/// Scales, for each 32 columns: sixteen halves, and sixteen more of minimums with <see cref="IIntegerFormat.HasMin"/>.
/// With <see cref="IIntegerFormat.SuperScales"/>, for each 256 columns: the same, and then for each group sixteen
/// signed bytes that multiply the scales, and sixteen more that multiply the minimums. The properties below are
/// inlined, so that the compiler folds them: a call in an inner loop would spill every accumulator.
/// </remarks>
internal static class Panel<T>
    where T : IIntegerFormat
{
    /// <summary>Columns of a unit: a block of the file.</summary>
    public static int UnitColumns
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => T.SuperScales
        ? 256 : 32;
    }

    /// <summary>Blocks of 32 columns that share a super-block's scale.</summary>
    public static int UnitBlocks { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => T.SuperScales ? 8 : 1; }

    /// <summary>Bytes of 32 columns' integers, of one half.</summary>
    public static int BlockBytes { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => T.Nibbles ? 256 : 512; }

    /// <summary>Bytes of the 16-bit scales at the beginning of a unit's scales.</summary>
    public static int HalvesBytes { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => T.HasMin ? 64 : 32; }

    /// <summary>Bytes of one group's factors.</summary>
    public static int GroupBytes { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => T.HasMin ? 32 : 16; }

    /// <summary>Bytes of a unit's scales, of one half.</summary>
    public static int UnitScaleBytes
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => HalvesBytes
        + (T.SuperScales ? 256 / T.GroupSize * GroupBytes : 0);
    }

    /// <summary>Bytes of both halves' scales, with which a unit begins.</summary>
    public static int HeaderBytes { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => 2 * UnitScaleBytes; }

    /// <summary>Bytes from a half's integers of 32 columns to those of the next 32 in its unit.</summary>
    public static int BlockStride { [MethodImpl(MethodImplOptions.AggressiveInlining)] get => 2 * BlockBytes; }

    /// <summary>Bytes of a unit, a multiple of 64 in every format.</summary>
    public static int UnitStride
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => HeaderBytes
        + UnitBlocks * BlockStride;
    }

    /// <summary>How many vectors of unsigned integers times int8 can be added up in pairs without overflowing 16 bits:
    /// 8, 4, 2 or 1.</summary>
    public static int Depth
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => T.Greatest <= 16
        ? 8 : T.Greatest <= 32 ? 4 : T.Greatest <= 64 ? 2 : 1;
    }

    /// <summary>The left shift that turns the activations' sums, kept times 4, into <see cref="IIntegerFormat.Offset"/>
    /// times the sum.</summary>
    public static int OffsetShift
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get =>
        T.Offset switch { 8 => 1, 16 => 2, 32 => 3, _ => 0 };
    }

    /// <summary>The same where signed weights have been made unsigned by adding 128.</summary>
    public const int SignedShift = 5;
}
