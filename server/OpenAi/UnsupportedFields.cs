using System.Text.Json;
using Native.Scheduling;
using Native.Server.Http;
using Native.Server.Serving;

namespace Native.Server.OpenAi;

/// <summary>Fields that would change what is generated or told and that nobody here honours: better refused than
/// ignored, unless they ask for nothing (<c>false</c>, <c>[]</c>). One that no server could honour is wrong.</summary>
internal static class UnsupportedFields
{
    private static readonly Field[] All =
    [
        new("structured_outputs", "an object", IsObject),
        new("guided_json", "an object or a string", value => IsObject(value) || IsString(value)),
        new("guided_regex", "a string", IsString),
        new("guided_choice", "a list of strings", value => IsListOf(value, IsString)),
        new("guided_grammar", "a string", IsString),
        new("functions", "a list of objects with a name", value => IsListOf(value, HasName)),
        new("function_call", "none, auto or an object with a name",
            value => IsWord(value, "none", "auto") || HasName(value)),
        new("audio", "an object", IsObject),
        new("prediction", "an object with a type and a content",
            value => Has(value, "type", IsString) && Has(value, "content", _ => true)),
        new("web_search_options", "an object", IsObject),
        new("use_beam_search", "a boolean", IsTrue),
        new("allowed_token_ids", "a list of token ids",
            value => IsListOf(value, item => IsWhole(item, 0, int.MaxValue))),
        new("bad_words", "a list of strings", value => IsListOf(value, IsString)),
        new("logits_processors", "a list", value => IsListOf(value, _ => true)),
        new("prompt_logprobs", $"a whole number from 0 to {SamplingParams.MaxLogprobs}",
            value => IsWhole(value, 0, SamplingParams.MaxLogprobs)),
        new("prompt_embeds", "a string or a list of strings", value => IsString(value) || IsListOf(value, IsString)),
        new("truncate_prompt_tokens", "a whole number above 0, or -1",
            value => IsWhole(value, -1, int.MaxValue) && !IsWhole(value, 0, 0)),
        new("include_stop_str_in_output", "a boolean", IsTrue),
        new("chat_template", "a string", IsString),
        new("continue_final_message", "a boolean", IsTrue),
        new("documents", "a list of objects", value => IsListOf(value, IsObject)),
    ];

    /// <summary>The refusal of the first such field; null where none asks for anything.</summary>
    /// <exception cref="RequestException">A field is not what the API allows.</exception>
    public static RequestException? Read(Fields body, int n)
    {
        RequestException? refused = null;
        foreach (Field field in All)
        {
            if (body.Any(field.Name) is not { } value || AsksForNothing(value)) continue;
            if (!field.CanBe(value))
                throw RequestException.Invalid($"'{field.Name}' must be {field.Expected}.", field.Name);
            refused ??= RequestException.Unsupported($"'{field.Name}' is not supported.", field.Name);
        }
        refused = ReadModalities(body) ?? refused;
        refused = ReadResponseFormat(body) ?? refused;
        if (body.Int("best_of") is not { } bestOf || bestOf == n) return refused;
        if (bestOf < n)
            throw RequestException.Invalid($"'best_of' is {bestOf}; it must be at least n ({n}).", "best_of");
        return RequestException.Unsupported("'best_of' other than n is not supported.", "best_of");
    }

    private static RequestException? ReadModalities(Fields body)
    {
        IReadOnlyList<string> kinds = body.Strings("modalities", most: 16);
        if (kinds.FirstOrDefault(kind => kind is not ("text" or "audio")) is { } wrong)
            throw RequestException.Invalid(
                $"'modalities' has '{RequestException.Quoted(wrong)}'; it may have text and audio.", "modalities");
        return kinds.Contains("audio")
            ? RequestException.Unsupported("'modalities' other than 'text' are not supported.", "modalities") : null;
    }

    private static RequestException? ReadResponseFormat(Fields body)
    {
        const string Name = "response_format";
        if (body.Object(Name) is not { } format) return null;
        string type =
            format.String("type")
                ?? throw RequestException.Invalid($"'{Name}.type' is missing.", Name, "missing_field");
        switch (type)
        {
            case "text": return null;
            case "json_object" or "structural_tag": break;
            case "json_schema":
                Fields schema =
                    format.Object(type)
                        ?? throw RequestException.Invalid($"'{Name}.{type}' is missing.", Name, "missing_field");
                if (string.IsNullOrEmpty(schema.String("name")))
                    throw RequestException.Invalid($"'{Name}.{type}.name' is missing.", Name, "missing_field");
                schema.Object("schema");
                schema.Bool("strict");
                break;
            default:
                throw RequestException.Invalid(
                    $"'{Name}.type' is '{RequestException.Quoted(type)}'; it must be text, json_object, json_schema "
                        + "or structural_tag.", Name);
        }
        return RequestException.Unsupported($"'{Name}' of type '{type}' is not supported; 'text' is.", Name);
    }

    private static bool AsksForNothing(JsonElement value) => value.ValueKind == JsonValueKind.False
        || (value.ValueKind == JsonValueKind.Array && value.GetArrayLength() == 0)
        || IsWord(value, "none"); // function_call

    private static bool IsObject(JsonElement value) => value.ValueKind == JsonValueKind.Object;

    private static bool IsString(JsonElement value) => value.ValueKind == JsonValueKind.String;

    private static bool IsTrue(JsonElement value) => value.ValueKind == JsonValueKind.True;

    private static bool IsWord(JsonElement value, params ReadOnlySpan<string> words)
    {
        foreach (string word in words)
            if (IsString(value) && value.ValueEquals(word)) return true;
        return false;
    }

    private static bool IsWhole(JsonElement value, int least, int most) =>
        value.ValueKind == JsonValueKind.Number && value.GetDouble() is var number && number >= least && number <= most
            && number == Math.Floor(number);

    private static bool IsListOf(JsonElement value, Func<JsonElement, bool> item) =>
        value.ValueKind == JsonValueKind.Array && value.EnumerateArray().All(item);

    private static bool Has(JsonElement value, string member, Func<JsonElement, bool> canBe) =>
        IsObject(value) && value.TryGetProperty(member, out JsonElement found) && canBe(found);

    private static bool HasName(JsonElement value) => Has(value, "name", IsString);

    private sealed record Field(string Name, string Expected, Func<JsonElement, bool> CanBe);
}
