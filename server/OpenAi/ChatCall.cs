using System.Text.Json;
using Native.Scheduling;
using Native.Server.Http;
using Native.Server.Serving;

namespace Native.Server.OpenAi;

/// <summary><c>POST /v1/chat/completions</c>: answers a conversation.</summary>
internal static class ChatCall
{
    /// <summary>Reads a request. Depends on its arguments alone.</summary>
    /// <exception cref="RequestException">A field is wrong or not supported, or the template refuses the
    /// conversation.</exception>
    public static Call Read(Fields body, ServedModel model, CancellationToken ct = default)
    {
        Parameters parameters = Parameters.Read(body, model);
        bool logprobs = body.Bool("logprobs") ?? false;
        SamplingParams sampling = parameters.Sampling with
        {
            MaxTokens = ReadMaxTokens(body),
            Logprobs = ReadTopLogprobs(body, logprobs),
        };
        if (body.Bool("echo") == true) parameters.Refuse("'echo' is not supported in chats.", "echo");

        JsonElement messages =
            body.Any("messages")
                ?? throw RequestException.Invalid("'messages' is missing.", "messages", "missing_field");
        JsonElement? extra = body.Object("chat_template_kwargs") is null ? null : body.Any("chat_template_kwargs");
        JsonElement? tools = ToolFields.Read(body, parameters);
        int[] ids = ChatPrompt.Encode(model, messages, tools, body.Bool("add_generation_prompt") ?? true, extra, ct);
        parameters.ThrowIfRefused(model, sampling);
        TextRequest request = parameters.RequestFor(ids, sampling) with { PromptField = "messages" };
        return new Call(parameters, [request], new Format(logprobs, parameters.ReturnTokenIds));
    }

    private static int? ReadTopLogprobs(Fields body, bool logprobs)
    {
        int top = body.Int("top_logprobs") ?? 0;
        if (top is < 0 or > SamplingParams.MaxLogprobs)
            throw RequestException.Invalid(
                $"'top_logprobs' is {top}; it must be from 0 to {SamplingParams.MaxLogprobs}.", "top_logprobs");
        if (top != 0 && !logprobs)
            throw RequestException.Invalid("'top_logprobs' needs 'logprobs' to be true.", "top_logprobs");
        return logprobs ? top : null;
    }

    private static int? ReadMaxTokens(Fields body)
    {
        // The second is the first's new name.
        string limit = body.Any("max_completion_tokens") is null ? "max_tokens" : "max_completion_tokens";
        int? most = Parameters.ReadLimit(body, limit, otherwise: null);
        return most < 1 ? throw RequestException.Invalid($"'{limit}' is {most}; it must be at least 1.", limit) : most;
    }

    private sealed class Format(bool logprobs, bool tokenIds) : IAnswerFormat
    {
        public string IdPrefix => "chatcmpl-";

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
