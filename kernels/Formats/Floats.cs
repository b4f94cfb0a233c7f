using System.Runtime.InteropServices;

namespace Native.Kernels.Formats;

/// <summary>One IEEE 754 binary32 value.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
public struct F32 : IQuantizedBlock<F32>
{
    public float Value;

    public static TensorType Type => TensorType.F32;
    public static int BlockSize => 1;
    public static void Decode(in F32 block, Span<float> values) => values[0] = block.Value;
    public static void Quantize(ReadOnlySpan<float> values, out F32 block) => block = new F32 { Value = values[0] };
}

/// <summary>One IEEE 754 binary16 value; widening to float32 is exact.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
public struct F16 : IQuantizedBlock<F16>
{
    public Half Value;

    public static TensorType Type => TensorType.F16;
    public static int BlockSize => 1;
    public static void Decode(in F16 block, Span<float> values) => values[0] = (float)block.Value;
    public static void Quantize(ReadOnlySpan<float> values, out F16 block) =>
        block = new F16 { Value = (Half)values[0] };
}

/// <summary>One bfloat16 value: the upper half of a float32; widening is exact.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
public struct BF16 : IQuantizedBlock<BF16>
{
    public ushort Bits;

    public static TensorType Type => TensorType.BF16;
    public static int BlockSize => 1;
    public static void Decode(in BF16 block, Span<float> values) =>
        values[0] = BitConverter.UInt32BitsToSingle((uint)block.Bits << 16);

    public static void Quantize(ReadOnlySpan<float> values, out BF16 block)
    {
        uint bits = BitConverter.SingleToUInt32Bits(values[0]);
        // To nearest even. NaN stays NaN, even if only its lower bits made it one.
        block = new BF16
        {
            Bits =
            (ushort)(float.IsNaN(values[0]) ? bits >> 16 | 64 : bits + 0x7fff + (bits >> 16 & 1) >> 16)
        };
    }
}
