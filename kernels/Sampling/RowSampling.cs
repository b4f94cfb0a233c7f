namespace Native.Kernels.Sampling;

/// <summary>How the next token of one row is chosen. The default value is greedy, without alternatives.</summary>
/// <remarks>
/// The steps have vLLM's order: penalties, biases and mask on the raw logits, temperature, min-p, top-k, top-p, then
/// one draw from the Philox generator keyed by (<see cref="Seed"/>, <see cref="Position"/>). Reported log-probabilities
/// are those of the raw logits, so they compare across engines and settings.
/// </remarks>
public struct RowSampling
{
    /// <summary>0 is greedy: the highest logit, and the lowest id among equals. Otherwise finite and positive: logits
    /// are divided by it.</summary>
    public float Temperature;

    /// <summary>Keeps this many best tokens; 0 keeps all.</summary>
    public int TopK;

    /// <summary>Keeps the smallest set of best tokens whose probability reaches this, in (0, 1]; 0 counts as
    /// 1.</summary>
    public float TopP;

    /// <summary>Keeps tokens whose probability is at least this times the best one's, in [0, 1].</summary>
    public float MinP;

    /// <summary>Divides positive and multiplies negative logits of tokens seen in prompt or output (Keskar et al. 2019,
    /// arXiv:1909.05858); 0 counts as 1.</summary>
    public float RepetitionPenalty;

    /// <summary>Subtracted once from every token seen in the output (OpenAI's definition), in [-2, 2].</summary>
    public float PresencePenalty;

    /// <summary>Subtracted for every occurrence in the output (OpenAI's definition), in [-2, 2].</summary>
    public float FrequencyPenalty;

    /// <summary>Key of the random draw.</summary>
    public ulong Seed;

    /// <summary>Counter of the random draw: the absolute position the drawn token will have.</summary>
    public int Position;

    /// <summary>0 samples; otherwise the row is only scored: it reports the raw log-probability of token
    /// <c>TargetPlusOne - 1</c>. Offset by one so that the default value samples.</summary>
    public int TargetPlusOne;

    /// <summary>True where the row only reports the log-probability of <see cref="Target"/>.</summary>
    public readonly bool Scores => TargetPlusOne > 0;

    /// <summary>The token to score.</summary>
    public readonly int Target => TargetPlusOne - 1;

    /// <summary>How many best tokens with their raw log-probabilities to report, 0 to 20.</summary>
    public int Alternatives;

    /// <summary>Where in the step's list of alternatives this row's begin.</summary>
    public int AlternativesStart;

    /// <summary>Where in <see cref="Batch.History"/> this row's tokens begin: the prompt, then the output so far. Only
    /// rows with penalties need one.</summary>
    public int HistoryStart;

    /// <summary>Prompt tokens in the history.</summary>
    public int HistoryPrompt;

    /// <summary>All tokens in the history, prompt and output.</summary>
    public int HistoryLength;

    /// <summary>Where in <see cref="Batch.Biases"/> this row's begin.</summary>
    public int BiasStart;

    /// <summary>How many biases this row has.</summary>
    public int BiasLength;

    /// <summary>True where only tokens of a mask may be chosen.</summary>
    public bool Masked;

    /// <summary>Where in <see cref="Batch.Masks"/> this row's <see cref="Batch.MaskWords"/> words begin.</summary>
    public int MaskStart;
}

/// <summary>What is added to one token's raw logit; negative infinity forbids it.</summary>
/// <param name="Token">Vocabulary id.</param>
/// <param name="Bias">Added to the logit.</param>
public readonly record struct TokenBias(int Token, float Bias);

/// <summary>A row's result, eight bytes.</summary>
/// <param name="Token">The id chosen or scored; -1 where the logits held a NaN, which fails only that sequence.</param>
/// <param name="Logprob">Its natural log-probability under the raw logits.</param>
public readonly record struct SampledToken(int Token, float Logprob);

/// <summary>One of the best tokens of a row.</summary>
/// <param name="Token">Vocabulary id.</param>
/// <param name="Logprob">Natural log-probability under the raw logits.</param>
public readonly record struct TokenLogprob(int Token, float Logprob);
