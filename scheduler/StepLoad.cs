namespace Native.Scheduling;

/// <summary>What a step computes, as far as its time depends on it.</summary>
/// <param name="PrefillTokens">Prompt tokens of all chunks.</param>
/// <param name="PrefillAttention">Keys that the prompt tokens attend to, summed over all of them.</param>
/// <param name="Chunks">Sequences that prefill.</param>
/// <param name="Decodes">Sequences that decode, one token each.</param>
/// <param name="DecodeContext">Keys that the decoded tokens attend to, summed over all of them.</param>
internal readonly record struct StepLoad(
    int PrefillTokens, double PrefillAttention, int Chunks, int Decodes, double DecodeContext)
{
    /// <summary>Tokens of all kinds.</summary>
    public int Tokens => PrefillTokens + Decodes;

    /// <summary>Sequences of all kinds.</summary>
    public int Sequences => Chunks + Decodes;

    /// <summary>The same step with one more decode.</summary>
    /// <param name="context">Tokens the sequence has, the new one among them.</param>
    public StepLoad PlusDecode(int context) =>
        this with { Decodes = Decodes + 1, DecodeContext = DecodeContext + context };

    /// <summary>The same step with one more chunk of a prompt.</summary>
    /// <param name="start">Tokens the sequence has computed before.</param>
    /// <param name="count">Tokens of the chunk; token i attends to start + i + 1 keys.</param>
    public StepLoad PlusPrefill(int start, int count) => this with
    {
        PrefillTokens = PrefillTokens + count,
        PrefillAttention = PrefillAttention + (count * (start + ((count + 1) / 2.0))),
        Chunks = Chunks + 1,
    };
}
