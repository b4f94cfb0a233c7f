namespace Native.Scheduling;

/// <summary>The step that the engine's thread waits for.</summary>
/// <param name="Number">Which it is, from 1.</param>
/// <param name="Began">When it was given to the runner, or the step before it was through, as a timestamp of the
/// engine's clock.</param>
/// <param name="Expected">What it was predicted to take.</param>
/// <param name="Sequences">Sequences in it.</param>
/// <param name="PrefillTokens">Prompt tokens it computes.</param>
/// <param name="Decodes">Sequences that decode, one token each.</param>
public readonly record struct RunningStep(
    long Number, long Began, TimeSpan Expected, int Sequences, int PrefillTokens, int Decodes);
