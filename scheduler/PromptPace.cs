namespace Native.Scheduling;

/// <summary>How fast prompts are computed beside decodes: what is left of each step is theirs.</summary>
internal readonly record struct PromptPace
{
    /// <summary>Before anything was measured.</summary>
    public static readonly PromptPace Unknown = new() { Step = double.PositiveInfinity, Prompt = 1e-3, MostTokens = 1 };

    /// <summary>Seconds that a step may take beside decodes; infinite where they promise nothing.</summary>
    public required double Step { get; init; }

    /// <summary>Sequences that decode now.</summary>
    public int Decodes { get; init; }

    /// <summary>Seconds of a step of these alone.</summary>
    public double DecodeStep { get; init; }

    /// <summary>Seconds that one more makes of it.</summary>
    public double PerDecode { get; init; }

    /// <summary>Seconds that a token of a prompt adds.</summary>
    public required double Prompt { get; init; }

    /// <summary>Prompt tokens of a step at least.</summary>
    public int LeastTokens { get; init; }

    /// <summary>And at most.</summary>
    public required int MostTokens { get; init; }

    /// <summary>Seconds of a prompt's tokens where nothing else is computed, as far as a straight line tells.</summary>
    public double Alone(int tokens) => Math.Max(0, DecodeStep - (Decodes * PerDecode)) + (tokens * Prompt);

    /// <summary>Seconds for each token of prompts beside so many decodes.</summary>
    public double PerToken(double decodes)
    {
        double alone = Math.Max(0, DecodeStep + ((decodes - Decodes) * PerDecode));
        double tokens = decodes < 1 ? MostTokens : Math.Clamp((Step - alone) / Prompt, LeastTokens, MostTokens);
        return (alone / tokens) + Prompt;
    }
}
