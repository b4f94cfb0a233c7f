using System.Diagnostics;
using System.Text.Json;
using Microsoft.AspNetCore.Http;
using Native.Scheduling;
using Native.Server.Http;
using Native.Server.Serving;

namespace Native.Server.OpenAi;

/// <summary><c>POST /v1/chat/completions</c>: answers a conversation.</summary>
internal static class Chats
{
    public static async Task HandleAsync(HttpContext http, ModelHost host, RequestEvents events)
    {
        long arrival = Stopwatch.GetTimestamp();
        CancellationToken ct = http.RequestAborted;
        Fields body = Fields.Of(await RequestBody.ReadAsync(http.Request, ct), "");
        ServedModel model = host.Require(body.String("model"));
        Parameters parameters = Parameters.Read(body, model.Defaults);
        using RequestId id = RequestIdHeader.Enter(http, host);

        bool logprobs = body.Bool("logprobs") ?? false;
        int topLogprobs = body.Int("top_logprobs") ?? 0;
        if (topLogprobs is < 0 or > SamplingParams.MaxLogprobs) throw RequestException.Invalid($"'top_logprobs' is {topLogprobs}; it must be from 0 to {SamplingParams.MaxLogprobs}.", "top_logprobs");
        if (topLogprobs != 0 && !logprobs) throw RequestException.Invalid("'top_logprobs' needs 'logprobs' to be true.", "top_logprobs");
        if (body.Bool("echo") == true) throw RequestException.Unsupported("'echo' is not supported in chats.", "echo");
        string limit = body.Any("max_completion_tokens") is null ? "max_tokens" : "max_completion_tokens"; // the second is the first's new name
        int? maxTokens = body.Int(limit);
        if (maxTokens < 1) throw RequestException.Invalid($"'{limit}' is {maxTokens}; it must be at least 1.", limit);
        SamplingParams sampling = parameters.Sampling with { MaxTokens = maxTokens, Logprobs = logprobs ? topLogprobs : null };

        JsonElement messages = body.Any("messages") ?? throw RequestException.Invalid("'messages' is missing.", "messages", "missing_field");
        JsonElement? extra = body.Object("chat_template_kwargs") is null ? null : body.Any("chat_template_kwargs");
        int[] ids = ChatPrompt.Encode(model, messages, ReadTools(body), body.Bool("add_generation_prompt") ?? true, extra, ct);

        using Generation generation = Generation.Start(model, new GenerationCall { Ids = ids, PromptField = "messages", Sampling = sampling, Stop = parameters.Stop, Arrival = arrival }, events);
        await new Answer(http, model, parameters, $"chatcmpl-{id}", new Format(logprobs, parameters.ReturnTokenIds), [generation]).SendAsync(ct);
    }

    /// <summary>The tools for the template to tell the model about. What it answers is text: calls in it are the client's to find.</summary>
    private static JsonElement? ReadTools(Fields body)
    {
        if (body.Any("tool_choice") is { } choice)
        {
            string? word = choice.ValueKind == JsonValueKind.String ? choice.GetString() : null;
            if (word == "none") return null;
            if (word != "auto") throw RequestException.Unsupported("'tool_choice' other than 'auto' and 'none' is not supported.", "tool_choice");
        }
        if (body.Any("tools") is not { } tools) return null;
        if (tools.ValueKind != JsonValueKind.Array) throw Fields.Wrong("tools", "a list", tools);
        return tools.GetArrayLength() == 0 ? null : tools;
    }

    private sealed class Format(bool logprobs, bool tokenIds) : IAnswerFormat
    {
        public string Object => "chat.completion";

        public string ChunkObject => "chat.completion.chunk";

        public bool HasOpening => true;

        public bool HasClosing => true;

        public void WriteMembers(Utf8JsonWriter json, IReadOnlyList<Choice> choices)
        {
            if (tokenIds) choices[0].WritePromptIds(json);
        }

        public void WriteChoice(Utf8JsonWriter json, Choice choice, ChunkKind kind)
        {
            json.WriteStartObject();
            json.WriteNumber("index", choice.Index);
            json.WriteStartObject(kind == ChunkKind.Whole ? "message" : "delta");
            if (kind is ChunkKind.Whole or ChunkKind.Opening) json.WriteString("role", "assistant");
            if (kind != ChunkKind.Closing) json.WriteString("content", kind == ChunkKind.Opening ? "" : choice.Text);
            if (kind == ChunkKind.Whole) json.WriteNull("refusal");
            json.WriteEndObject();
            if (logprobs && kind is ChunkKind.Whole or ChunkKind.Delta) choice.WriteChatLogprobs(json);
            else json.WriteNull("logprobs");
            json.WriteString("finish_reason", kind is ChunkKind.Whole or ChunkKind.Closing ? choice.FinishWord : null);
            if (tokenIds && kind != ChunkKind.Opening) choice.WriteTokenIds(json);
            json.WriteEndObject();
        }
    }
}
