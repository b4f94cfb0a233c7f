using System.Text.Json;
using Native.Server.Jinja;

namespace Native.Server.Serving;

/// <summary>A conversation becomes a prompt: checked, rendered by the model's chat template, encoded.</summary>
internal static class ChatPrompt
{
    /// <summary>The code of a conversation that the model's template refused.</summary>
    public const string TemplateError = "chat_template_error";

    /// <summary>Members of a message that are text.</summary>
    private static readonly string[] Texts =
        ["name", "tool_call_id", "reasoning_content", "reasoning", "thinking", "refusal"];

    /// <summary>The ids of OpenAI's <paramref name="messages"/>, with <paramref name="tools"/> and further variables
    /// (chat_template_kwargs) told to the template.</summary>
    /// <exception cref="RequestException">A message is malformed or holds what is no text, the model has no template,
    /// or the template refused.</exception>
    public static int[] Encode(ServedModel model, JsonElement messages, JsonElement? tools, bool addGenerationPrompt,
        JsonElement? extra, CancellationToken ct)
    {
        Check(messages);
        if (tools is { } list) ToolList.Check(list);
        if (model.Template is null)
            throw RequestException.Invalid($"The model '{model.Name}' has no chat template; use completions.",
                "messages", "no_chat_template");
        ChatTemplate template = tools is not null && model.ToolTemplate is { } forTools ? forTools : model.Template;
        string text;
        try
        {
            text = template.Render(messages, tools, addGenerationPrompt, model.BosText, model.EosText, extra,
                model.ControlTexts.Mark, ct: ct);
        }
        catch (TemplateException e)
        {
            throw RequestException.Invalid(
                $"The chat template refused the conversation: {e.Message}", "messages", TemplateError);
        }

        model.CheckLength(text, "messages");
        return model.Tokenizer.BeginConversation(model.ControlTexts.Encode(text));
    }

    private static void Check(JsonElement messages)
    {
        if (messages.ValueKind != JsonValueKind.Array || messages.GetArrayLength() == 0)
            throw RequestException.Invalid("'messages' must be a list with at least one message.", "messages");
        RequestException? refused = null; // for what is not supported; what is wrong comes first
        int i = 0;
        foreach (JsonElement message in messages.EnumerateArray())
        {
            string path = $"messages[{i++}]";
            if (message.ValueKind != JsonValueKind.Object)
                throw RequestException.Invalid($"'{path}' must be an object.", path, "invalid_type");
            if (!message.TryGetProperty("role", out JsonElement role) || role.ValueKind != JsonValueKind.String)
                throw RequestException.Invalid($"'{path}.role' must be a string.", $"{path}.role", "invalid_type");
            foreach (string name in Texts)
                if (Given(message, name) is { ValueKind: not JsonValueKind.String })
                    throw Wrong(path, name, "a string");
            if (Given(message, "tool_calls") is { } calls && CheckCalls(calls, path) is { } whyNot) refused ??= whyNot;
            if (!message.TryGetProperty("content", out JsonElement content)) continue;
            switch (content.ValueKind)
            {
                case JsonValueKind.String or JsonValueKind.Null: break;
                case JsonValueKind.Array:
                    foreach (JsonElement part in content.EnumerateArray())
                        if (CheckPart(part, $"{path}.content") is { } why) refused ??= why;
                    break;
                default:
                    throw RequestException.Invalid($"'{path}.content' must be a string or a list of parts.",
                    $"{path}.content", "invalid_type");
            }
        }
        if (refused is not null) throw refused;
    }

    private static JsonElement? Given(JsonElement of, string name) =>
        of.TryGetProperty(name, out JsonElement value) && value.ValueKind != JsonValueKind.Null ? value : null;

    private static RequestException Wrong(string path, string name, string expected) =>
        RequestException.Invalid($"'{path}.{name}' must be {expected}.", $"{path}.{name}", "invalid_type");

    /// <summary>The calls that an assistant's message made: a template tells what it can read of them, and leaves out
    /// the rest without a word.</summary>
    /// <returns>What to say where a call is of a type that is not supported.</returns>
    private static RequestException? CheckCalls(JsonElement calls, string message)
    {
        if (calls.ValueKind != JsonValueKind.Array) throw Wrong(message, "tool_calls", "a list of objects");
        RequestException? refused = null;
        int i = 0;
        foreach (JsonElement call in calls.EnumerateArray())
        {
            string name = $"tool_calls[{i++}]", path = $"{message}.{name}";
            if (call.ValueKind != JsonValueKind.Object) throw Wrong(message, name, "an object");
            if (Given(call, "id") is { ValueKind: not JsonValueKind.String }) throw Wrong(path, "id", "a string");
            JsonElement? type = Given(call, "type");
            if (type is { ValueKind: not JsonValueKind.String }) throw Wrong(path, "type", "a string");
            string kind = type?.GetString() ?? "function";
            if (kind == "custom")
            {
                refused ??= RequestException.Unsupported(
                    $"'{path}' is a call of type 'custom', which is not supported.", $"{path}.type");
                continue;
            }
            if (kind != "function")
                throw RequestException.Invalid(
                    $"'{path}.type' is '{RequestException.Quoted(kind)}'; it must be function or custom.",
                    $"{path}.type");
            if (Given(call, "function") is not { ValueKind: JsonValueKind.Object } function
                || Given(function, "name") is not { ValueKind: JsonValueKind.String } called
                || called.GetString() is not { Length: > 0 })
                throw Wrong(path, "function", "an object with a name");
        }
        return refused;
    }

    /// <returns>What to say where the part is of a type that is not supported.</returns>
    private static RequestException? CheckPart(JsonElement part, string path)
    {
        if (part.ValueKind != JsonValueKind.Object || !part.TryGetProperty("type", out JsonElement type)
            || type.ValueKind != JsonValueKind.String)
            throw RequestException.Invalid($"'{path}' has a part without a type.", path, "invalid_type");
        string kind = type.GetString()!;
        string? member = kind switch
        {
            "text" or "input_text" or "output_text" => "text",
            "refusal" or "thinking" => kind,
            _ => null,
        };
        if (member is null)
            return RequestException.Unsupported(
                $"'{path}' has a part of type '{RequestException.Quoted(kind)}'; this server reads text alone.", path);
        if (!part.TryGetProperty(member, out JsonElement text) || text.ValueKind != JsonValueKind.String)
            throw RequestException.Invalid($"'{path}' has a part of type '{kind}' whose '{member}' is no string.", path,
                "invalid_type");
        return null;
    }
}
