namespace Native.Bench.Serve;

/// <summary>How a request rate rises over a run.</summary>
internal enum RampUp
{
    /// <summary>By equal steps.</summary>
    Linear,

    /// <summary>By equal factors.</summary>
    Exponential,
}

/// <summary>When the requests of an open loop are to be sent, whatever becomes of those before.</summary>
internal static class Arrivals
{
    /// <summary>Requests at a steady mean rate, the last of them at exactly count / rate, as vLLM has it: so seeds
    /// don't change the load.</summary>
    /// <param name="count">Requests.</param>
    /// <param name="rate">Requests a second.</param>
    /// <param name="burstiness">Shape of the gamma distribution of the gaps: 1 is a Poisson process, less comes in
    /// bursts, infinity in even steps.</param>
    /// <param name="random">Draws the gaps.</param>
    /// <returns>Seconds after the beginning, ascending.</returns>
    public static double[] Steady(int count, double rate, double burstiness, Random random)
    {
        double[] times = Sum(count, _ => rate, burstiness, random);
        double scale = count / rate / times[^1];
        for (int i = 0; i < count; i++) times[i] *= scale;
        return times;
    }

    /// <summary>Requests at a rate that rises (or falls) from one value to another.</summary>
    public static double[] Rising(int count, RampUp strategy, double from, double to, double burstiness,
        Random random) => Sum(count, i =>
    {
        double progress = count > 1 ? (double)i / (count - 1) : 0;
        return strategy == RampUp.Linear ? from + (to - from) * progress : from * Math.Pow(to / from, progress);
    }, burstiness, random);

    private static double[] Sum(int count, Func<int, double> rate, double burstiness, Random random)
    {
        double[] times = new double[count];
        double at = 0;
        for (int i = 0; i < count; i++)
        {
            double gap = double.IsInfinity(burstiness) ? 1 : Gamma(burstiness, random) / burstiness; // mean 1
            times[i] = at += gap / rate(i);
        }
        return times;
    }

    /// <summary>A draw from the gamma distribution with scale 1 (Marsaglia and Tsang 2000,
    /// doi:10.1145/358407.358414).</summary>
    internal static double Gamma(double shape, Random random)
    {
        // their section 6
        if (shape < 1) return Gamma(shape + 1, random) * Math.Pow(1 - random.NextDouble(), 1 / shape);
        double d = shape - 1.0 / 3, c = 1 / Math.Sqrt(9 * d);
        while (true)
        {
            double x = Normal(random), v = 1 + c * x;
            if (v <= 0) continue;
            v = v * v * v;
            if (Math.Log(1 - random.NextDouble()) < x * x / 2 + d - d * v + d * Math.Log(v)) return d * v;
        }
    }

    /// <summary>A standard normal draw (Box and Muller 1958).</summary>
    internal static double Normal(Random random) =>
        Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble());
}
