namespace Native.Bench.Simulate;

/// <summary>When tokens are due: token i of a request at its arrival + <paramref name="Ttft"/> + i x
/// <paramref name="Tpot"/>.</summary>
/// <param name="Ttft">Seconds to the first token.</param>
/// <param name="Tpot">Seconds a later token.</param>
internal sealed record Objective(double Ttft, double Tpot)
{
    /// <summary>When a token is due.</summary>
    /// <param name="request">Whose.</param>
    /// <param name="token">Which, from 0.</param>
    public double Due(TrafficRequest request, int token) => request.Arrival + Ttft + (token * Tpot);
}

/// <summary>What became of a request.</summary>
/// <param name="request">The request.</param>
/// <param name="objective">When its tokens are due.</param>
internal sealed class Outcome(TrafficRequest request, Objective objective)
{
    /// <summary>The request.</summary>
    public TrafficRequest Request => request;

    /// <summary>Tokens it got.</summary>
    public int Tokens { get; private set; }

    /// <summary>Tokens that came later than they were due.</summary>
    public int Late { get; private set; }

    /// <summary>When its first token came.</summary>
    public double First { get; private set; }

    /// <summary>When its last token came.</summary>
    public double Last { get; private set; }

    /// <summary>True where it got all its tokens.</summary>
    public bool IsComplete => Tokens == request.Output;

    /// <summary>True where it got all of them in time.</summary>
    public bool IsGood => IsComplete && Late == 0;

    /// <summary>Its next token came.</summary>
    public void Token(double at)
    {
        if (Tokens == 0) First = at;
        if (at > objective.Due(request, Tokens)) Late++;
        Last = at;
        Tokens++;
    }
}
