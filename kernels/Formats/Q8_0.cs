using System.Runtime.InteropServices;

namespace Native.Kernels.Formats;

/// <summary>8-bit, symmetric: 32 signed bytes and one scale; x[j] = Scale * Quants[j]. 34 bytes, 8.5 bits per
/// weight.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
public struct Q8_0 : IQuantizedBlock<Q8_0>
{
    /// <summary>d, the scale.</summary>
    public Half Scale;

    /// <summary>x[j] / d, rounded; -127 to 127 from the quantizer, -128 may be met in files.</summary>
    public SBytes32 Quants;

    public static TensorType Type => TensorType.Q8_0;
    public static int BlockSize => 32;

    public static void Decode(in Q8_0 block, Span<float> values)
    {
        float d = (float)block.Scale;
        for (int j = 0; j < 32; j++) values[j] = d * block.Quants[j];
    }

    public static void Quantize(ReadOnlySpan<float> values, out Q8_0 block)
    {
        block = default;
        float max = 0;
        foreach (float x in values[..32]) max = MathF.Max(max, MathF.Abs(x));
        float d = max / 127;
        float inverse = d == 0 ? 0 : 1 / d;
        block.Scale = (Half)d;
        for (int j = 0; j < 32; j++)
            block.Quants[j] = (sbyte)MathF.Round(values[j] * inverse, MidpointRounding.AwayFromZero);
    }
}
