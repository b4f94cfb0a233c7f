namespace Native.Kernels.Models;

/// <summary>How a family stretches rotary positions past the length it was trained on. Each scaling turns base
/// frequencies into those used.</summary>
public abstract record RopeScaling
{
    /// <summary>Radians a position for each pair, from the unscaled ones.</summary>
    /// <param name="inverseFrequencies">base^(-2i/n) for each pair i of n/2; overwritten.</param>
    /// <param name="maxModelLength">Tokens a sequence may have. longrope chooses its table by it once, so that cached
    /// keys stay valid.</param>
    internal abstract void Apply(Span<double> inverseFrequencies, int maxModelLength);

    /// <summary>Multiplies sine and cosine.</summary>
    internal virtual double Magnitude => 1;

    /// <summary>Positions divided by a factor (Chen et al. 2023, arXiv:2306.15595).</summary>
    /// <param name="Factor">At least 1.</param>
    public sealed record Linear(double Factor) : RopeScaling
    {
        internal override void Apply(Span<double> inverseFrequencies, int maxModelLength)
        {
            foreach (ref double f in inverseFrequencies) f /= Factor;
        }
    }

    /// <summary>Each frequency divided by its own factor: GGUF's <c>rope_freqs.weight</c>.</summary>
    /// <param name="Factors">One for each pair.</param>
    public sealed record PerPair(float[] Factors) : RopeScaling
    {
        internal override void Apply(Span<double> inverseFrequencies, int maxModelLength) =>
            Divide(inverseFrequencies, Factors);
    }

    /// <summary>Llama 3.1: long wavelengths divided by the factor, short ones kept, a ramp between (Hugging Face's
    /// <c>llama3</c> rope type).</summary>
    public sealed record Llama3(double Factor, double LowFrequencyFactor, double HighFrequencyFactor,
        int OriginalLength) : RopeScaling
    {
        internal override void Apply(Span<double> inverseFrequencies, int maxModelLength)
        {
            foreach (ref double f in inverseFrequencies) f /= DivisorOf(f);
        }

        /// <summary>The divisor of each frequency, which GGUF stores as <c>rope_freqs.weight</c>.</summary>
        internal float[] Factors(ReadOnlySpan<double> inverseFrequencies)
        {
            float[] factors = new float[inverseFrequencies.Length];
            for (int i = 0; i < factors.Length; i++) factors[i] = (float)DivisorOf(inverseFrequencies[i]);
            return factors;
        }

        private double DivisorOf(double f)
        {
            double turns = OriginalLength * f / (2 * Math.PI);
            double keep = Math.Clamp((turns - LowFrequencyFactor) / (HighFrequencyFactor - LowFrequencyFactor), 0, 1);
            return 1 / ((1 - keep) / Factor + keep);
        }
    }

    /// <summary>YaRN (Peng et al. 2023, arXiv:2309.00071).</summary>
    public sealed record Yarn(double Factor, double BetaFast, double BetaSlow, int OriginalLength, double Base,
        double? AttentionFactor) : RopeScaling
    {
        internal override double Magnitude => AttentionFactor ?? (Factor <= 1 ? 1 : 0.1 * Math.Log(Factor) + 1);

        internal override void Apply(Span<double> inverseFrequencies, int maxModelLength)
        {
            int n = 2 * inverseFrequencies.Length;
            double PairOf(double turns) => n * Math.Log(OriginalLength / (turns * 2 * Math.PI)) / (2 * Math.Log(Base));
            double low = Math.Max(Math.Floor(PairOf(BetaFast)), 0);
            double high = Math.Min(Math.Ceiling(PairOf(BetaSlow)), n - 1);
            if (low == high) high += 0.001;
            for (int i = 0; i < inverseFrequencies.Length; i++)
            {
                double interpolate = Math.Clamp((i - low) / (high - low), 0, 1);
                inverseFrequencies[i] *= 1 - interpolate + interpolate / Factor;
            }
        }
    }

    /// <summary>LongRoPE (Ding et al. 2024, arXiv:2402.13753): one table of divisors up to the original length, another
    /// past it.</summary>
    /// <param name="Short">Divisors used when the length limit is at most <paramref name="OriginalLength"/>.</param>
    /// <param name="Long">Divisors used otherwise.</param>
    /// <param name="OriginalLength">Length the model was first trained on.</param>
    /// <param name="AttentionFactor">Multiplies sine and cosine in either case.</param>
    public sealed record LongRope(float[] Short, float[] Long, int OriginalLength, double AttentionFactor) : RopeScaling
    {
        internal override double Magnitude => AttentionFactor;

        internal override void Apply(Span<double> inverseFrequencies, int maxModelLength) =>
            Divide(inverseFrequencies, maxModelLength > OriginalLength ? Long : Short);
    }

    private static void Divide(Span<double> inverseFrequencies, float[] factors)
    {
        if (factors.Length != inverseFrequencies.Length)
            throw new InvalidDataException(
                $"rope factors: expected {inverseFrequencies.Length}, one for each rotated pair, found "
                + $"{factors.Length}");
        for (int i = 0; i < factors.Length; i++) inverseFrequencies[i] /= factors[i];
    }
}

/// <summary>One rotary table of a model.</summary>
/// <param name="Dimensions">Rotated elements of a head, even.</param>
/// <param name="Base">Theta.</param>
/// <param name="Scaling">Null for none.</param>
public sealed record RopeTable(int Dimensions, double Base, RopeScaling? Scaling)
{
    /// <summary>Registers the table for sequences of at most <paramref name="maxModelLength"/> tokens.</summary>
    internal int AddTo(IBackend backend, int maxModelLength) =>
        backend.AddRope(Frequencies(maxModelLength), (float)(Scaling?.Magnitude ?? 1));

    /// <summary>Radians a position, pair by pair, for sequences of at most <paramref name="maxModelLength"/>
    /// tokens.</summary>
    internal double[] Frequencies(int maxModelLength)
    {
        double[] frequencies = InverseFrequencies();
        Scaling?.Apply(frequencies, maxModelLength);
        return frequencies;
    }

    /// <summary>The same without scaling.</summary>
    internal double[] InverseFrequencies()
    {
        double[] frequencies = new double[Dimensions / 2];
        for (int i = 0; i < frequencies.Length; i++) frequencies[i] = Math.Pow(Base, -2.0 * i / Dimensions);
        return frequencies;
    }
}
