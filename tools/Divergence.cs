using System.Numerics;
using Native.Server.Serving;

namespace Native.Tools;

/// <summary>One position's two distributions over the next token, side by side.</summary>
/// <param name="Reference">Natural log-probability that the reference gives the text's next token.</param>
/// <param name="Measured">What the measured model gives it.</param>
/// <param name="Kl">sum p ln(p / q) over the vocabulary, p the reference's probabilities and q the measured model's
/// (Kullback and Leibler 1951).</param>
/// <param name="SameTop">Whether both hold the same token for the most probable one.</param>
internal readonly record struct PositionDivergence(double Reference, double Measured, double Kl, bool SameTop)
{
    private const int Piece = 1 << 10; // floats summed as floats, before their sum is added as a double

    /// <summary>Compares two rows of raw logits; minus infinity is legal.</summary>
    public static PositionDivergence Of(ReadOnlySpan<float> reference, ReadOnlySpan<float> measured, int next)
    {
        if (reference.Length != measured.Length)
            throw new ArgumentException($"{reference.Length} logits beside {measured.Length}", nameof(measured));
        (int topP, int topQ) = (Top(reference), Top(measured));
        (float bestP, float bestQ) = (reference[topP], measured[topQ]);
        double sumP = 0, sumQ = 0, apart = 0;
        for (int from = 0; from < reference.Length; from += Piece)
        {
            ReadOnlySpan<float> a = reference.Slice(from, Math.Min(Piece, reference.Length - from)),
                b = measured.Slice(from, a.Length);
            Vector<float> p = Vector<float>.Zero, q = Vector<float>.Zero, d = Vector<float>.Zero;
            int i = 0;
            for (; i <= a.Length - Vector<float>.Count; i += Vector<float>.Count)
            {
                Vector<float> x = new(a[i..]), y = new(b[i..]);
                Vector<float> e = Vector.Exp(x - new Vector<float>(bestP));
                p += e;
                q += Vector.Exp(y - new Vector<float>(bestQ));
                // What the reference holds for impossible adds nothing, whatever the other says.
                d += Vector.ConditionalSelect(Vector.Equals(e, Vector<float>.Zero), Vector<float>.Zero, e * (x - y));
            }
            sumP += Vector.Sum(p);
            sumQ += Vector.Sum(q);
            apart += Vector.Sum(d);
            for (; i < a.Length; i++)
            {
                double e = Math.Exp(a[i] - bestP);
                sumP += e;
                sumQ += Math.Exp(b[i] - bestQ);
                if (e > 0) apart += e * (a[i] - b[i]);
            }
        }
        double logSumP = bestP + Math.Log(sumP), logSumQ = bestQ + Math.Log(sumQ);
        // ln(p / q) = (a - b) - (ln sum e^a - ln sum e^b): logits that are near each other are subtracted before
        // anything large is added.
        return new PositionDivergence(reference[next] - logSumP, measured[next] - logSumQ,
            Math.Max(apart / sumP - (logSumP - logSumQ), 0), topP == topQ);
    }

    private static int Top(ReadOnlySpan<float> logits)
    {
        int top = 0;
        for (int i = 1; i < logits.Length; i++)
            if (logits[i] > logits[top]) top = i;
        return top;
    }
}

/// <summary>How far a model's predictions of a text are from a reference's.</summary>
internal sealed class Divergence
{
    private readonly List<double> _kl = [];
    private double _logRatio, _logRatioSquares, _kls, _klSquares, _probabilitySquares;
    private int _sameTop;

    /// <summary>The reference's perplexity.</summary>
    public Perplexity Reference { get; } = new();

    /// <summary>The measured model's.</summary>
    public Perplexity Measured { get; } = new();

    /// <summary>Positions compared.</summary>
    public int Count => _kl.Count;

    /// <summary>ln(measured perplexity / reference perplexity).</summary>
    public double LogRatio => _logRatio / Count;

    /// <summary>Its standard error, from the tokens' differences: far smaller than that of either perplexity, for what
    /// is hard for one model is hard for the other.</summary>
    public double LogRatioError => Error(_logRatio, _logRatioSquares);

    /// <summary>Mean divergence in nats.</summary>
    public double Kl => _kls / Count;

    public double KlError => Error(_kls, _klSquares);

    /// <summary>Share of positions where both find the same token most probable.</summary>
    public double SameTop => (double)_sameTop / Count;

    public double SameTopError => Count < 2 ? 0 : Math.Sqrt(SameTop * (1 - SameTop) / (Count - 1));

    /// <summary>Root of the mean squared difference of the probabilities given to the text's tokens.</summary>
    public double RmsProbability => Math.Sqrt(_probabilitySquares / Count);

    /// <summary>Takes in a window.</summary>
    public void Add(ReadOnlySpan<PositionDivergence> positions)
    {
        float[] reference = new float[positions.Length], measured = new float[positions.Length];
        for (int i = 0; i < positions.Length; i++)
        {
            PositionDivergence position = positions[i];
            (reference[i], measured[i]) = ((float)position.Reference, (float)position.Measured);
            double ratio = position.Reference - position.Measured,
                probability = Math.Exp(position.Measured) - Math.Exp(position.Reference);
            _logRatio += ratio;
            _logRatioSquares += ratio * ratio;
            _kls += position.Kl;
            _klSquares += position.Kl * position.Kl;
            _probabilitySquares += probability * probability;
            if (position.SameTop) _sameTop++;
            _kl.Add(position.Kl);
        }
        Reference.Add(reference);
        Measured.Add(measured);
    }

    /// <summary>The divergence that a share of the positions stay below: 0.5 is the median, 1 the greatest. Between two
    /// it is interpolated.</summary>
    public double KlQuantile(double share)
    {
        double[] sorted = [.. _kl.Order()];
        double at = share * (sorted.Length - 1);
        int below = (int)at;
        return below + 1 < sorted.Length ? sorted[below] + (at - below) * (sorted[below + 1] - sorted[below])
            : sorted[below];
    }

    private double Error(double sum, double squares) =>
        Count < 2 ? 0 : Math.Sqrt(Math.Max(squares / Count - sum / Count * (sum / Count), 0) / (Count - 1));
}
