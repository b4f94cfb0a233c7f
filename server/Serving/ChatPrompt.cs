using System.Text.Json;
using Native.Server.Jinja;

namespace Native.Server.Serving;

/// <summary>A conversation becomes a prompt: checked, rendered by the model's chat template, encoded.</summary>
internal static class ChatPrompt
{
    /// <summary>The code of a conversation that the model's template refused.</summary>
    public const string TemplateError = "chat_template_error";

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
