using System.Runtime.InteropServices;

namespace Native.Kernels.Formats;

/// <summary>One IEEE 754 binary32 value.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
public struct F32 : IBlock<F32>
{
    public float Value;

    public static TensorType Type => TensorType.F32;
    public static int BlockSize => 1;
    public static void Decode(in F32 block, Span<float> values) => values[0] = block.Value;
}

/// <summary>One IEEE 754 binary16 value; widening to float32 is exact.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
public struct F16 : IBlock<F16>
{
    public Half Value;

    public static TensorType Type => TensorType.F16;
    public static int BlockSize => 1;
    public static void Decode(in F16 block, Span<float> values) => values[0] = (float)block.Value;
}

/// <summary>One bfloat16 value: the upper half of a float32; widening is exact.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
public struct BF16 : IBlock<BF16>
{
    public ushort Bits;

    public static TensorType Type => TensorType.BF16;
    public static int BlockSize => 1;
    public static void Decode(in BF16 block, Span<float> values) => values[0] = BitConverter.UInt32BitsToSingle((uint)block.Bits << 16);
}
