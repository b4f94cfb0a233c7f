using System.Runtime.InteropServices;

namespace Native.Kernels.Formats;

/// <summary>6-bit super-block of 256: sixteen sub-blocks of 16 values, each with a signed 8-bit scale s; x = Scale * s
/// * (q - 32). 210 bytes, 6.5625 bits per weight.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
public struct Q6_K : IQuantizedBlock<Q6_K>
{
    /// <summary>The low four bits, in two halves of 64 bytes for 128 values each: values 0 to 63 of a half are its
    /// bytes' low nibbles, values 64 to 127 the high ones.</summary>
    public Bytes128 Low;

    /// <summary>The upper two bits, in two halves of 32 bytes: those of value 32 * k + l of a half are bits 2k and 2k +
    /// 1 of the half's byte l.</summary>
    public Bytes64 High;

    /// <summary>The sub-blocks' scales.</summary>
    public SBytes16 Scales;

    /// <summary>d, the scale of the scales.</summary>
    public Half Scale;

    public static TensorType Type => TensorType.Q6_K;
    public static int BlockSize => 256;

    public static void Decode(in Q6_K block, Span<float> values)
    {
        float d = (float)block.Scale;
        for (int i = 0; i < 16; i++)
        {
            float scale = d * block.Scales[i];
            int half = i / 8, v = i % 8 * 16;
            int low = 64 * half + v % 64, lowShift = v / 64 * 4;
            int high = 32 * half + v % 32, highShift = v / 32 * 2;
            for (int l = 0; l < 16; l++)
                values[16 * i + l] = scale
                    * ((block.Low[low + l] >> lowShift & 15 | (block.High[high + l] >> highShift & 3) << 4) - 32);
        }
    }

    public static void Quantize(ReadOnlySpan<float> values, out Q6_K block)
    {
        block = default;
        Span<sbyte> s = stackalloc sbyte[16], q = stackalloc sbyte[256];
        block.Scale = ScaleSearch.Symmetric(values[..256], 32, 128, s, q);
        for (int i = 0; i < 16; i++)
        {
            block.Scales[i] = s[i];
            int half = i / 8, v = i % 8 * 16;
            int low = 64 * half + v % 64, lowShift = v / 64 * 4;
            int high = 32 * half + v % 32, highShift = v / 32 * 2;
            for (int l = 0; l < 16; l++)
            {
                int bits = q[16 * i + l] + 32;
                block.Low[low + l] |= (byte)((bits & 15) << lowShift);
                block.High[high + l] |= (byte)(bits >> 4 << highShift);
            }
        }
    }
}
