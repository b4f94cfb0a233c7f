namespace Native.Kernels.Gpu;

/// <summary>A table of rotary frequencies: radians a position for each pair, and what sine and cosine are multiplied
/// with.</summary>
internal sealed class RotaryTable(ReadOnlySpan<double> inverseFrequencies, float magnitude)
{
    private readonly double[] _inverseFrequencies = inverseFrequencies.ToArray();

    /// <summary>Pairs of elements that it rotates.</summary>
    public int Pairs => _inverseFrequencies.Length;

    /// <summary>Cosines and sines of a position, shape [2, pairs]. Angles are double, as the CPU's.</summary>
    public void Compute(int position, Span<float> values)
    {
        for (int i = 0; i < Pairs; i++)
        {
            (double sine, double cosine) = Math.SinCos(position * _inverseFrequencies[i]);
            values[i] = (float)(cosine * magnitude);
            values[Pairs + i] = (float)(sine * magnitude);
        }
    }
}
