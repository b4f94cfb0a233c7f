using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Native.Kernels.Models;

namespace Native.Kernels.Cpu;

/// <summary>Up to 32 elements of a head as a cache of <see cref="DType.Q8_0"/> stores them: signed bytes and one shared
/// scale.</summary>
/// <remarks>
/// The scale is a bfloat16, not GGUF's half: it has the elements' range, and a byte times it has fifteen bits, so a
/// stored element is exactly a float. The scale is rounded up, so the largest byte is at most 127.
/// </remarks>
internal static unsafe class Q8Block
{
    private const int Size = CpuKvLayer.ScaleGroup;

    /// <summary>The scale of a block with an infinity or NaN. All of the block reads as NaN; no other block
    /// does.</summary>
    private const ushort NotANumber = 0x7fc0;

    /// <summary>A scale's value.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Widen(ushort scale) => BitConverter.UInt32BitsToSingle((uint)scale << 16);

    /// <summary>Rounds <paramref name="n"/> elements, 1 to 32, to multiples of the scale that it returns.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static ushort Quantize(float* source, int n, sbyte* bytes)
    {
        if (n != Size || !Vector128.IsHardwareAccelerated) return QuantizeScalar(source, n, bytes);
        Vector128<float> largest = Vector128<float>.Zero;
        for (int i = 0; i < Size; i += 4) largest = Vector128.Max(largest, Vector128.Abs(Vector128.Load(source + i)));
        ushort scale = ScaleOf(MathF.Max(MathF.Max(largest[0], largest[1]), MathF.Max(largest[2], largest[3])));
        float step = Widen(scale);
        if (!(step > 0))
        {
            new Span<sbyte>(bytes, Size).Clear();
            return scale;
        }
        Vector128<float> steps = Vector128.Create(step);
        for (int i = 0; i < Size; i += 16)
        {
            Vector128<short> low = Vector128.Narrow(Steps(source + i, steps), Steps(source + i + 4, steps));
            Vector128<short> high = Vector128.Narrow(Steps(source + i + 8, steps), Steps(source + i + 12, steps));
            Vector128.Narrow(low, high).Store(bytes + i);
        }
        return scale;

        static Vector128<int> Steps(float* x, Vector128<float> steps) =>
            Vector128.ConvertToInt32(Vector128.Round(Vector128.Load(x) / steps));
    }

    /// <summary>The definition.</summary>
    internal static ushort QuantizeScalar(float* source, int n, sbyte* bytes)
    {
        float largest = 0;
        for (int i = 0; i < n; i++) largest = MathF.Max(largest, MathF.Abs(source[i])); // NaN stays
        ushort scale = ScaleOf(largest);
        float step = Widen(scale);
        for (int i = 0; i < n; i++) bytes[i] = step > 0 ? (sbyte)MathF.Round(source[i] / step) : (sbyte)0;
        return scale;
    }

    private static ushort ScaleOf(float largest) =>
        float.IsFinite(largest) ? (ushort)((BitConverter.SingleToUInt32Bits(largest / 127) + 0xffff) >> 16)
            : NotANumber;
}
