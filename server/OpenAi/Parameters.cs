using System.Text.Json;
using Native.Kernels.Sampling;
using Native.Scheduling;
using Native.Server.Http;
using Native.Server.Serving;

namespace Native.Server.OpenAi;

/// <summary>What completions and chats ask for alike, under the names of OpenAI and vLLM.</summary>
internal sealed record Parameters
{
    public required bool Stream { get; init; }

    public required bool IncludeUsage { get; init; }

    public required bool ReturnTokenIds { get; init; }

    /// <summary>What it asks of the service.</summary>
    public required ServiceLevel Level { get; init; }

    /// <summary>The service tier to tell in the answer; null where none was asked for.</summary>
    public required string? Tier { get; init; }

    /// <summary>Whose prompts may share what is computed of them; vLLM's field.</summary>
    public required string? CacheSalt { get; init; }

    /// <summary>Whether control tokens are left out of the text.</summary>
    public required bool SkipSpecialTokens { get; init; }

    public required IReadOnlyList<string> Stop { get; init; }

    /// <summary>Without logprobs and max_tokens, which the two endpoints name differently.</summary>
    public required SamplingParams Sampling { get; init; }

    /// <summary>What is told of the first feature asked for that is not here. What is wrong is told before.</summary>
    private RequestException? Refused { get; set; }

    /// <param name="body">The request.</param>
    /// <param name="model">Whose defaults hold where it says nothing.</param>
    /// <exception cref="RequestException">A field is not what the API allows.</exception>
    public static Parameters Read(Fields body, ServedModel model)
    {
        SamplingParams defaults = model.Defaults;
        int n = body.Int("n") ?? 1;
        RequestException? refused = UnsupportedFields.Read(body, n);

        bool stream = body.Bool("stream") ?? false;
        Fields? streamOptions = body.Object("stream_options");
        if (streamOptions is not null && !stream)
            throw RequestException.Invalid("'stream_options' is only for streams.", "stream_options");

        ServiceLevel level =
            ServiceTier.Read(body, ReadLevel(body), model.Engine.Options.Policy, out string? tier);
        return new Parameters
        {
            Stream = stream,
            IncludeUsage = streamOptions?.Bool("include_usage") ?? false,
            ReturnTokenIds = body.Bool("return_token_ids") ?? false,
            Level = level,
            Tier = tier,
            CacheSalt = body.String("cache_salt"),
            SkipSpecialTokens = body.Bool("skip_special_tokens") ?? true,
            // clients send [""] for none
            Stop = [.. body.Strings("stop", Generation.MaxStops).Where(stop => stop.Length > 0)],
            Refused = refused,
            Sampling = defaults with
            {
                Temperature = body.Float("temperature") ?? defaults.Temperature,
                TopP = body.Float("top_p") ?? defaults.TopP,
                TopK = body.Int("top_k") ?? defaults.TopK,
                MinP = body.Float("min_p") ?? defaults.MinP,
                RepetitionPenalty = body.Float("repetition_penalty") ?? defaults.RepetitionPenalty,
                PresencePenalty = body.Float("presence_penalty") ?? defaults.PresencePenalty,
                FrequencyPenalty = body.Float("frequency_penalty") ?? defaults.FrequencyPenalty,
                Seed = body.Seed("seed"),
                N = n,
                MinTokens = body.Int("min_tokens") ?? defaults.MinTokens,
                IgnoreEos = body.Bool("ignore_eos") ?? defaults.IgnoreEos,
                StopTokenIds = body.Ints("stop_token_ids", SamplingParams.MaxStopTokenIds),
                LogitBias = ReadBiases(body, model.Info.VocabularySize),
            },
        };
    }

    /// <summary>A field that limits the tokens of a choice; -1 is no limit, as in llama.cpp.</summary>
    /// <param name="body">The request.</param>
    /// <param name="name">The field.</param>
    /// <param name="otherwise">What holds where it is not given.</param>
    public static int? ReadLimit(Fields body, string name, int? otherwise) =>
        body.Tokens(name) switch { null => otherwise, -1 => null, int limit => limit };

    /// <summary>Notes that a feature asked for is not here.</summary>
    public void Refuse(string message, string field) => Refused ??= RequestException.Unsupported(message, field);

    /// <summary>Refuses what is not here, once the request is known to be right otherwise.</summary>
    /// <exception cref="RequestException">A sampling parameter is out of its range, or a feature is not
    /// here.</exception>
    public void ThrowIfRefused(ServedModel model, SamplingParams sampling)
    {
        if (Refused is null) return;
        List<string> errors = [];
        sampling.Validate(model.Info.VocabularySize, errors);
        throw errors.Count == 0 ? Refused : Generation.Wrong(errors, promptField: "prompt");
    }

    /// <summary>What the engine is asked for, for a prompt.</summary>
    public TextRequest RequestFor(int[] ids, SamplingParams sampling) => new()
    {
        Tokens = new GenerationRequest { Ids = ids, Sampling = sampling, CacheSalt = CacheSalt },
        Level = Level,
        Stop = Stop,
        SkipSpecialTokens = SkipSpecialTokens,
    };

    /// <summary><c>priority</c> is vLLM's; <c>slo</c> is ours.</summary>
    private static ServiceLevel ReadLevel(Fields body)
    {
        Fields? slo = body.Object("slo");
        slo?.AllowOnly("ttft_ms", "tpot_ms", "best_effort", "class");
        return new ServiceLevel
        {
            Priority = body.Int("priority"),
            Ttft = Time("ttft_ms"),
            Tpot = Time("tpot_ms"),
            BestEffort = slo?.Bool("best_effort"),
            Class = slo?.String("class") switch
            {
                null => null,
                "online" => RequestClass.Online,
                "batch" => RequestClass.Batch,
                { } other => throw RequestException.Invalid(
                    $"'slo.class' is '{RequestException.Quoted(other)}'; it must be online or batch.", "slo.class"),
            },
        };

        TimeSpan? Time(string name) =>
            slo?.Double(name) is { } value ? ServiceLevel.Milliseconds(value, $"slo.{name}") : null;
    }

    private static List<TokenBias> ReadBiases(Fields body, int most)
    {
        List<TokenBias> biases = [];
        if (body.Object("logit_bias") is not { } map) return biases;
        foreach ((string name, float bias) in map.Floats(most))
        {
            if (!int.TryParse(name, System.Globalization.NumberStyles.None,
                System.Globalization.CultureInfo.InvariantCulture, out int id))
                throw RequestException.Invalid(
                    $"'logit_bias' has the key '{RequestException.Quoted(name)}'; keys must be token ids.",
                    "logit_bias");
            biases.Add(new TokenBias(id, bias));
        }
        return biases;
    }
}
