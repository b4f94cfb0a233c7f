namespace Native.Kernels.Formats;

/// <summary>The roundings of ggml's reference quantizers. Their bits depend on them.</summary>
internal static class Rounding
{
    /// <summary>The value of largest magnitude, with its sign; the first of equals.</summary>
    public static float LargestMagnitude(ReadOnlySpan<float> values)
    {
        float largest = 0;
        foreach (float x in values)
        {
            if (MathF.Abs(x) > MathF.Abs(largest)) largest = x;
        }
        return largest;
    }

    /// <summary>The smallest and the largest value.</summary>
    public static (float Min, float Max) Range(ReadOnlySpan<float> values)
    {
        (float min, float max) = (values[0], values[0]);
        foreach (float x in values)
        {
            if (x < min) min = x;
            if (x > max) max = x;
        }
        return (min, max);
    }

    /// <summary>trunc(x * scale + offset), the product not rounded (the reference's bits are those of a fused
    /// multiply-add), clamped to 0 .. max.</summary>
    public static int Fused(float x, float scale, float offset, int max) =>
        Math.Clamp((int)(float)((double)x * scale + offset), 0, max);

    /// <summary>trunc((x - min) * scale + 0.5) with every operation rounded, clamped to 0 .. max.</summary>
    public static int Nearest(float x, float min, float scale, int max) =>
        Math.Clamp((int)((x - min) * scale + 0.5f), 0, max);
}
