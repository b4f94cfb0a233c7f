namespace Native.Bench.Common;

/// <summary>What is said of a list of measurements. Of none, everything is 0.</summary>
internal static class Statistics
{
    public static double Mean(IReadOnlyCollection<double> values) =>
        values.Count == 0 ? 0 : values.Sum() / values.Count;

    /// <summary>Standard deviation of a population that these values are a sample of (n - 1), as llama-bench has it; 0
    /// of a single one.</summary>
    public static double SampleDeviation(IReadOnlyCollection<double> values) =>
        values.Count < 2 ? 0 : Math.Sqrt(SquaredDeviations(values) / (values.Count - 1));

    /// <summary>Standard deviation of these values (n), as vLLM has it.</summary>
    public static double Deviation(IReadOnlyCollection<double> values) =>
        values.Count == 0 ? 0 : Math.Sqrt(SquaredDeviations(values) / values.Count);

    public static double Median(IReadOnlyCollection<double> values) => Percentile(values, 50);

    /// <summary>The value below which <paramref name="percent"/> of all lie, between neighbours by straight lines
    /// (numpy's default).</summary>
    public static double Percentile(IReadOnlyCollection<double> values, double percent)
    {
        double[] sorted = [.. values];
        Array.Sort(sorted);
        return PercentileOfSorted(sorted, percent);
    }

    /// <summary>The same of values in ascending order, which are left as they are.</summary>
    public static double PercentileOfSorted(double[] sorted, double percent)
    {
        if (sorted.Length == 0) return 0;
        double at = percent / 100 * (sorted.Length - 1);
        int below = (int)at, above = Math.Min(below + 1, sorted.Length - 1);
        return sorted[below] + (at - below) * (sorted[above] - sorted[below]);
    }

    private static double SquaredDeviations(IReadOnlyCollection<double> values)
    {
        double mean = Mean(values);
        return values.Sum(value => (value - mean) * (value - mean));
    }
}
