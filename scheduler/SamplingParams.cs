using Native.Kernels.Models;
using Native.Kernels.Sampling;

namespace Native.Scheduling;

/// <summary>How one request's tokens are chosen and when it ends. The names and meanings are vLLM's.</summary>
public sealed record SamplingParams
{
    /// <summary>Most choices a request may ask for: one bit each in a stream's stop mask.</summary>
    public const int MaxN = 64;

    /// <summary>Most alternatives a token is reported with, OpenAI's limit.</summary>
    public const int MaxLogprobs = 20;

    /// <summary>Most stop token ids of one request: every sampled token is compared with each.</summary>
    public const int MaxStopTokenIds = 256;

    /// <summary>Below this a temperature counts as 0, greedy (vLLM's epsilon): dividing logits by less
    /// overflows.</summary>
    public const float GreedyTemperature = 1e-5f;

    /// <summary>0 is greedy; otherwise logits are divided by it, at most 100. Default 1, the model's own
    /// distribution.</summary>
    public float Temperature { get; init; } = 1;

    /// <summary>Keep this many best tokens; 0 or -1 keeps all.</summary>
    public int TopK { get; init; }

    /// <summary>Keep the smallest set of best tokens whose probability reaches this, in (0, 1].</summary>
    public float TopP { get; init; } = 1;

    /// <summary>Keep tokens at least this times as probable as the best, in [0, 1].</summary>
    public float MinP { get; init; }

    /// <summary>Above 1 makes tokens of prompt and output less likely, below 1 more; in (0, 100].</summary>
    public float RepetitionPenalty { get; init; } = 1;

    /// <summary>Subtracted once from the logit of every token in the output, in [-2, 2].</summary>
    public float PresencePenalty { get; init; }

    /// <summary>Subtracted for every occurrence in the output, in [-2, 2].</summary>
    public float FrequencyPenalty { get; init; }

    /// <summary>Key of the random draws: the same seed, prompt and parameters give the same tokens. Null lets the
    /// engine choose.</summary>
    public ulong? Seed { get; init; }

    /// <summary>Choices to generate from one prompt, 1 to <see cref="MaxN"/>; the prompt is computed once.</summary>
    public int N { get; init; } = 1;

    /// <summary>Tokens each choice may have; null means as many as fit. 0 generates nothing, to score a
    /// prompt.</summary>
    public int? MaxTokens { get; init; }

    /// <summary>Tokens each choice must have before an end id or stop id may be chosen.</summary>
    public int MinTokens { get; init; }

    /// <summary>True to go on after the model's end ids.</summary>
    public bool IgnoreEos { get; init; }

    /// <summary>Ids that end a choice besides the model's own end ids.</summary>
    public int[] StopTokenIds { get; init; } = [];

    /// <summary>What is added to single logits, each in [-100, 100] (OpenAI's range).</summary>
    public IReadOnlyList<TokenBias> LogitBias { get; init; } = [];

    /// <summary>Alternatives reported with every token, 0 to <see cref="MaxLogprobs"/>. The token's own log-probability
    /// always is.</summary>
    public int? Logprobs { get; init; }

    /// <summary>Scores every prompt token after the first, each with this many alternatives, 0 to
    /// <see cref="MaxLogprobs"/>; null does not.</summary>
    public int? PromptLogprobs { get; init; }

    internal bool HasPenalties => RepetitionPenalty != 1 || PresencePenalty != 0 || FrequencyPenalty != 0;

    /// <summary>These, with what a model's makers recommend in their places.</summary>
    public SamplingParams With(SuggestedSampling suggested) => this with
    {
        Temperature = suggested.Temperature ?? Temperature,
        TopK = suggested.TopK ?? TopK,
        TopP = suggested.TopP ?? TopP,
        MinP = suggested.MinP ?? MinP,
        RepetitionPenalty = suggested.RepetitionPenalty ?? RepetitionPenalty,
    };

    /// <summary>Adds one sentence to <paramref name="errors"/> for every value out of its range. Nothing is added where
    /// all is well.</summary>
    public void Validate(int vocabularySize, ICollection<string> errors)
    {
        void Add(FormattableString error) => errors.Add(FormattableString.Invariant(error));

        // Written so that NaN fails: every comparison with it is false.
        if (!(Temperature >= 0 && Temperature <= 100)) Add($"temperature is {Temperature}; it must be from 0 to 100.");
        if (TopK < -1) Add($"top_k is {TopK}; it must be at least 1, or 0 or -1 to keep all.");
        if (!(TopP > 0 && TopP <= 1)) Add($"top_p is {TopP}; it must be above 0 and at most 1.");
        if (!(MinP >= 0 && MinP <= 1)) Add($"min_p is {MinP}; it must be from 0 to 1.");
        if (!(RepetitionPenalty >= 0.01f && RepetitionPenalty <= 100))
            Add($"repetition_penalty is {RepetitionPenalty}; it must be from 0.01 to 100.");
        if (!(PresencePenalty >= -2 && PresencePenalty <= 2))
            Add($"presence_penalty is {PresencePenalty}; it must be from -2 to 2.");
        if (!(FrequencyPenalty >= -2 && FrequencyPenalty <= 2))
            Add($"frequency_penalty is {FrequencyPenalty}; it must be from -2 to 2.");
        if (N is < 1 or > MaxN) Add($"n is {N}; it must be from 1 to {MaxN}.");
        if (MaxTokens < 0) Add($"max_tokens is {MaxTokens}; it must not be negative.");
        if (MinTokens < 0) Add($"min_tokens is {MinTokens}; it must not be negative.");
        else if (MinTokens > MaxTokens && MaxTokens >= 0)
            Add($"min_tokens is {MinTokens}, above max_tokens ({MaxTokens}).");
        int most = Math.Min(MaxLogprobs, vocabularySize);
        if (Logprobs is { } logprobs && (logprobs < 0 || logprobs > most))
            Add($"logprobs is {logprobs}; it must be from 0 to {most}.");
        if (PromptLogprobs is { } scored && (scored < 0 || scored > most))
            Add($"prompt_logprobs is {scored}; it must be from 0 to {most}.");
        if (StopTokenIds is null) errors.Add("stop_token_ids is null.");
        else
        {
            if (StopTokenIds.Length > MaxStopTokenIds)
                Add($"stop_token_ids has {StopTokenIds.Length} ids; at most {MaxStopTokenIds} are allowed.");
            foreach (int id in StopTokenIds.AsSpan(0, Math.Min(StopTokenIds.Length, MaxStopTokenIds)))
                if ((uint)id >= (uint)vocabularySize)
                    Add($"stop_token_ids has {id}; ids are 0 to {vocabularySize - 1}.");
        }
        if (LogitBias is null) errors.Add("logit_bias is null.");
        else if (LogitBias.Count > vocabularySize)
            Add($"logit_bias has {LogitBias.Count} entries, more than there are tokens ({vocabularySize}).");
        else
        {
            foreach ((int token, float bias) in LogitBias)
            {
                if ((uint)token >= (uint)vocabularySize)
                    Add($"logit_bias names token {token}; ids are 0 to {vocabularySize - 1}.");
                else if (!(bias >= -100 && bias <= 100))
                    Add($"logit_bias of token {token} is {bias}; it must be from -100 to 100.");
            }
        }
    }
}
