using System.Text.Json;
using Native.Scheduling;
using Native.Server.Http;
using Native.Server.Serving;

namespace Native.Server.OpenAi;

/// <summary><c>POST /v1/completions</c>: continues a text, or ids, or several of either.</summary>
internal static class CompletionCall
{
    /// <summary>OpenAI's default.</summary>
    private const int DefaultMaxTokens = 16;

    /// <summary>Prompts one request may bring; evaluation harnesses send a few dozen.</summary>
    private const int MaxPrompts = 512;

    /// <summary>Reads a request. Depends on its arguments alone.</summary>
    /// <exception cref="RequestException">A field is wrong or not supported.</exception>
    public static Call Read(Fields body, ServedModel model, CancellationToken ct = default)
    {
        Parameters parameters = Parameters.Read(body, model);
        if (!string.IsNullOrEmpty(body.String("suffix"))) parameters.Refuse("'suffix' is not supported.", "suffix");
        bool echo = body.Bool("echo") ?? false;
        int? logprobs = body.Int("logprobs");
        SamplingParams sampling = parameters.Sampling with
        {
            MaxTokens = Parameters.ReadLimit(body, "max_tokens", DefaultMaxTokens),
            Logprobs = logprobs,
            PromptLogprobs = echo ? logprobs : null,
        };
        List<(int[] Ids, string? Text)> prompts = ReadPrompts(model, body, ct);
        parameters.ThrowIfRefused(model, sampling);
        TextRequest[] requests = [.. prompts.Select(prompt => parameters.RequestFor(prompt.Ids, sampling))];
        Echo[]? texts = echo ? [.. prompts.Select(EchoOf)] : null;
        return new Call(parameters, requests, new Format(logprobs is not null, parameters.ReturnTokenIds), texts);

        Echo EchoOf((int[] Ids, string? Text) prompt) => prompt.Text is { } text
            ? new Echo(text, model.Tokenizer.PrefixLength)
            : new Echo(model.Tokenizer.Decode(
                [.. prompt.Ids.Where(id => (uint)id < (uint)model.Tokenizer.VocabularySize)],
                parameters.SkipSpecialTokens), 0);
    }

    private static List<(int[] Ids, string? Text)> ReadPrompts(ServedModel model, Fields body, CancellationToken ct)
    {
        JsonElement prompt =
            body.Any("prompt") ?? throw RequestException.Invalid("'prompt' is missing.", "prompt", "missing_field");
        if (prompt.ValueKind == JsonValueKind.String) return [Encoded(model, prompt)];
        if (prompt.ValueKind != JsonValueKind.Array) throw Wrong(prompt);
        int count = prompt.GetArrayLength();
        if (count == 0) throw RequestException.Invalid("'prompt' is empty.", "prompt");
        if (prompt[0].ValueKind == JsonValueKind.Number) return [(Ids(model, prompt), null)];
        if (count > MaxPrompts)
            throw RequestException.Invalid($"'prompt' has {count} prompts; at most {MaxPrompts} are allowed.",
                "prompt");
        if (count > model.Engine.Options.MaxQueued)
            throw RequestException.Invalid(
                $"'prompt' has {count} prompts, but {model.Engine.Options.MaxQueued} requests may wait here "
                    + "(--max-num-queued-reqs).", "prompt");
        List<(int[] Ids, string?)> prompts = [];
        foreach (JsonElement item in prompt.EnumerateArray())
        {
            ct.ThrowIfCancellationRequested();
            prompts.Add(item.ValueKind switch
            {
                JsonValueKind.String => Encoded(model, item),
                JsonValueKind.Array => (Ids(model, item), null),
                _ => throw Wrong(item),
            });
        }
        if (count > 1 && prompts.Sum(item => (long)item.Ids.Length) > model.Engine.Options.MaxQueuedTokens)
            throw RequestException.Invalid(
                $"'prompt' has more tokens together than the {model.Engine.Options.MaxQueuedTokens} that may wait here "
                    + "(--max-num-queued-tokens).", "prompt");
        return prompts;
    }

    private static (int[], string?) Encoded(ServedModel model, JsonElement text) =>
        (model.EncodePrompt(text.GetString()!), text.GetString());

    private static int[] Ids(ServedModel model, JsonElement list)
    {
        int count = list.GetArrayLength();
        return count <= model.Info.MaxModelLength ? Fields.Ints(list, "prompt")
            : throw Generation.TooLong(model, count, "prompt");
    }

    private static RequestException Wrong(JsonElement found) =>
        Fields.Wrong("prompt", "a string, a list of strings, a list of token ids or a list of such lists", found);

    private sealed class Format(bool logprobs, bool tokenIds) : IAnswerFormat
    {
        public string IdPrefix => "cmpl-";

        public string Object => "text_completion";

        public string ChunkObject => "text_completion";

        public bool HasOpening => false;

        public bool HasClosing => false;

        public void WriteMembers(Utf8JsonWriter json, IReadOnlyList<Choice> choices)
        {
        }

        public void WriteChoice(Utf8JsonWriter json, Choice choice, ChunkKind kind)
        {
            json.WriteStartObject();
            json.WriteNumber("index", choice.Index);
            json.WriteString("text", choice.Text);
            if (logprobs) choice.WriteCompletionLogprobs(json);
            else json.WriteNull("logprobs");
            json.WriteString("finish_reason", choice.FinishWord);
            if (tokenIds)
            {
                if (kind == ChunkKind.Whole) choice.WritePromptIds(json);
                choice.WriteTokenIds(json);
            }
            json.WriteEndObject();
        }
    }
}
