namespace Native.Scheduling;

/// <summary>How many tokens a step may compute. Decodes and prompts have a number each.</summary>
/// <param name="maxTokens">Tokens of all kinds; at least as many as sequences may run, so that a full batch can
/// decode.</param>
internal sealed class StepBudget(int maxTokens)
{
    /// <summary>Decodes, one token each.</summary>
    public int Decodes => maxTokens;

    /// <summary>Prompt tokens in a step that has <paramref name="decodes"/> decodes.</summary>
    public int Prefill(int decodes) => maxTokens - decodes;
}
