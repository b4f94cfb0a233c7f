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

    /// <summary>Seconds that a token of a short prompt adds.</summary>
    public required double Prompt { get; init; }

    /// <summary>Seconds that a key adds which a token of a prompt attends to.</summary>
    public double Key { get; init; }

    /// <summary>Prompt tokens of a step at least.</summary>
    public int LeastTokens { get; init; }

    /// <summary>And at most.</summary>
    public required int MostTokens { get; init; }

    /// <summary>Seconds of a prompt's tokens where nothing else is computed.</summary>
    /// <param name="start">Tokens that are there already.</param>
    /// <param name="count">Those to be computed.</param>
    public double Alone(int start, int count)
    {
        double step = Math.Max(0, DecodeStep - (Decodes * PerDecode)), steps = Math.Ceiling((double)count / MostTokens);
        return (steps * step) + (count * Prompt) + Attention(start, count);
    }

    /// <summary>Seconds of a prompt's attention beyond what the tokens of a short one have in
    /// <see cref="Prompt"/>.</summary>
    public double Attention(int start, int count) => Attention((double)count * (start + (count / 2.0)), count);

    /// <summary>The same for tokens that attend to so many keys together.</summary>
    public double Attention(double keys, int tokens) => Key * Math.Max(0, keys - (tokens * ShortPrompt / 2.0));

    /// <summary>Tokens of a short prompt.</summary>
    public const int ShortPrompt = 256;

    /// <summary>Seconds for each token of prompts beside so many decodes.</summary>
    public double PerToken(double decodes)
    {
        double alone = Math.Max(0, DecodeStep + ((decodes - Decodes) * PerDecode));
        double tokens = decodes < 1 ? MostTokens : Math.Clamp((Step - alone) / Prompt, LeastTokens, MostTokens);
        return (alone / tokens) + Prompt;
    }
}
