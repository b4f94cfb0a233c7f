using Native.Bench.Common;

namespace Native.Bench.Simulate;

/// <summary>What a policy made of a load.</summary>
internal sealed record SimulationResult
{
    /// <summary>The policy's name.</summary>
    public required string Policy { get; init; }

    /// <summary>Every request, those refused or cut off among them.</summary>
    public required IReadOnlyList<Outcome> Outcomes { get; init; }

    /// <summary>Seconds in which requests came.</summary>
    public required double Seconds { get; init; }

    /// <summary>When the last step was over.</summary>
    public required double End { get; init; }

    /// <summary>Steps.</summary>
    public required long Steps { get; init; }

    /// <summary>Seconds of all steps.</summary>
    public required double Busy { get; init; }

    /// <summary>Times that a sequence lost its blocks.</summary>
    public long Preemptions { get; init; }

    /// <summary>Part of the taken slots of the cache that held no token, the mean over the steps.</summary>
    public double KvWaste { get; init; }

    /// <summary>Requests whose every token came in time.</summary>
    public int Good => Outcomes.Count(outcome => outcome.IsGood);

    /// <summary>Good requests a second.</summary>
    public double Goodput => Good / Seconds;

    /// <summary>Part of all requests that were good.</summary>
    public double Attainment => Outcomes.Count == 0 ? 1 : (double)Good / Outcomes.Count;

    /// <summary>The same of all tenants but the one that sends most; null where nobody is told apart.</summary>
    public double? AttainmentOfOthers
    {
        get
        {
            string most = Outcomes.CountBy(outcome => outcome.Request.Tenant).MaxBy(tenant => tenant.Value).Key ?? "";
            Outcome[] others = [.. Outcomes.Where(outcome => outcome.Request.Tenant != most)];
            return others.Length == 0 ? null : (double)others.Count(outcome => outcome.IsGood) / others.Length;
        }
    }

    /// <summary>Requests that were late, refused or cut off.</summary>
    public int Violations => Outcomes.Count - Good;

    /// <summary>Requests that got not all of their tokens.</summary>
    public int Cut => Outcomes.Count(outcome => !outcome.IsComplete);

    /// <summary>Time to the first token of complete requests, in seconds.</summary>
    public double[] Ttft => [.. Complete.Select(outcome => outcome.First - outcome.Request.Arrival)];

    /// <summary>Time per later token.</summary>
    public double[] Tpot => [.. Complete.Where(outcome => outcome.Tokens > 1)
        .Select(outcome => (outcome.Last - outcome.First) / (outcome.Tokens - 1))];

    /// <summary>Time to the last token.</summary>
    public double[] E2el => [.. Complete.Select(outcome => outcome.Last - outcome.Request.Arrival)];

    private IEnumerable<Outcome> Complete => Outcomes.Where(outcome => outcome.IsComplete);
}

/// <summary>How much of the cache's taken slots is empty.</summary>
internal sealed class WasteMeter
{
    private double _sum;
    private long _steps;

    /// <summary>The mean over the steps.</summary>
    public double Mean => _steps == 0 ? 0 : _sum / _steps;

    /// <summary>One step.</summary>
    /// <param name="tokens">Tokens in the cache.</param>
    /// <param name="slots">Slots of the blocks that are taken.</param>
    public void Observe(long tokens, long slots)
    {
        if (slots == 0) return;
        _sum += 1 - ((double)tokens / slots);
        _steps++;
    }
}
