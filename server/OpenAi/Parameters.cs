using System.Text.Json;
using Native.Kernels.Sampling;
using Native.Scheduling;
using Native.Server.Http;
using Native.Server.Serving;

namespace Native.Server.OpenAi;

/// <summary>What completions and chats ask for alike, under the names of OpenAI and vLLM.</summary>
internal sealed record Parameters
{
    /// <summary>Fields that would change what is generated or told and that nobody here honours: better refused than ignored, unless they ask for nothing.</summary>
    private static readonly string[] NotSupported =
    [
        "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "functions", "function_call", "audio", "prediction", "web_search_options",
        "use_beam_search", "allowed_token_ids", "bad_words", "logits_processors", "prompt_logprobs", "prompt_embeds", "truncate_prompt_tokens", "include_stop_str_in_output",
        "chat_template", "continue_final_message", "documents",
    ];

    public required bool Stream { get; init; }

    public required bool IncludeUsage { get; init; }

    public required bool ReturnTokenIds { get; init; }

    public required IReadOnlyList<string> Stop { get; init; }

    /// <summary>Without logprobs and max_tokens, which the two endpoints name differently.</summary>
    public required SamplingParams Sampling { get; init; }

    /// <param name="body">The request.</param>
    /// <param name="defaults">What holds where it says nothing.</param>
    /// <exception cref="RequestException">A field has a wrong type, or is not supported.</exception>
    public static Parameters Read(Fields body, SamplingParams defaults)
    {
        foreach (string name in NotSupported)
            if (body.Any(name) is { } value && !AsksForNothing(value)) throw RequestException.Unsupported($"'{name}' is not supported.", name);
        if (body.Bool("skip_special_tokens") == false) throw RequestException.Unsupported("'skip_special_tokens' is always true here.", "skip_special_tokens");
        if (body.Strings("modalities").Any(kind => kind != "text")) throw RequestException.Unsupported("'modalities' other than 'text' are not supported.", "modalities");
        if (body.Object("response_format") is { } format && format.String("type") is { } type and not "text")
            throw RequestException.Unsupported($"'response_format' of type '{RequestException.Quoted(type)}' is not supported; 'text' is.", "response_format");
        int n = body.Int("n") ?? 1;
        if (body.Int("best_of") is { } bestOf && bestOf != n) throw RequestException.Unsupported("'best_of' other than n is not supported.", "best_of");

        bool stream = body.Bool("stream") ?? false;
        Fields? streamOptions = body.Object("stream_options");
        if (streamOptions is not null && !stream) throw RequestException.Invalid("'stream_options' is only for streams.", "stream_options");

        return new Parameters
        {
            Stream = stream,
            IncludeUsage = streamOptions?.Bool("include_usage") ?? false,
            ReturnTokenIds = body.Bool("return_token_ids") ?? false,
            Stop = body.Strings("stop"),
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
                StopTokenIds = body.Ints("stop_token_ids"),
                LogitBias = ReadBiases(body),
            },
        };
    }

    private static bool AsksForNothing(JsonElement value) => value.ValueKind == JsonValueKind.False
        || value.ValueKind == JsonValueKind.Array && value.GetArrayLength() == 0
        || value.ValueKind == JsonValueKind.String && value.ValueEquals("none"); // function_call

    private static List<TokenBias> ReadBiases(Fields body)
    {
        List<TokenBias> biases = [];
        if (body.Object("logit_bias") is not { } map) return biases;
        foreach ((string name, float bias) in map.Floats())
        {
            if (!int.TryParse(name, System.Globalization.NumberStyles.None, System.Globalization.CultureInfo.InvariantCulture, out int id))
                throw RequestException.Invalid($"'logit_bias' has the key '{RequestException.Quoted(name)}'; keys must be token ids.", "logit_bias");
            biases.Add(new TokenBias(id, bias));
        }
        return biases;
    }
}
