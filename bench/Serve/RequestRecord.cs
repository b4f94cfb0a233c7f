namespace Native.Bench.Serve;

/// <summary>What became of one request. Times are seconds after the run began.</summary>
internal sealed record RequestRecord
{
    /// <summary>When its latencies begin: in open loop when it was to be sent, whether or not it could be then; in
    /// closed loop when it was sent.</summary>
    /// <remarks>A server that stalls delays the requests behind it too. Counting from the sending would leave that
    /// waiting out (Tene's coordinated omission).</remarks>
    public required double Start { get; init; }

    /// <summary>When it was sent.</summary>
    public required double Sent { get; init; }

    /// <summary>When each piece of output came; where there was none, when the answer ended. Empty for a failed
    /// request.</summary>
    public IReadOnlyList<double> TokenTimes { get; init; } = [];

    /// <summary>When it was over, well or not.</summary>
    public required double Done { get; init; }

    /// <summary>Tokens of prompt, as the server counted.</summary>
    public int InputTokens { get; init; }

    /// <summary>Tokens of output, as the server counted, or the pieces that came.</summary>
    public int OutputTokens { get; init; }

    /// <summary>Why it failed; null where it did not.</summary>
    public string? Error { get; init; }

    public bool Succeeded => Error is null;

    /// <summary>Time to first token.</summary>
    public double Ttft => TokenTimes[0] - Start;

    /// <summary>End-to-end latency: to the last piece of output.</summary>
    public double E2el => TokenTimes[^1] - Start;

    /// <summary>Time per output token after the first; 0 where there is no other.</summary>
    public double Tpot => OutputTokens > 1 ? (E2el - Ttft) / (OutputTokens - 1) : 0;

    /// <summary>Inter-token latencies: the gaps between the pieces.</summary>
    public IEnumerable<double> Itls => TokenTimes.Skip(1).Zip(TokenTimes, (later, earlier) => later - earlier);
}
