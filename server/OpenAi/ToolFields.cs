using System.Text.Json;
using Native.Server.Http;
using Native.Server.Serving;

namespace Native.Server.OpenAi;

/// <summary>The fields <c>tools</c> and <c>tool_choice</c> of a chat.</summary>
internal static class ToolFields
{
    /// <summary>The tools for the template to tell the model about; null where there are none, or none may be called.
    /// What the model answers is text: calls in it are the client's to find.</summary>
    /// <exception cref="RequestException">A field is not what the API allows.</exception>
    public static JsonElement? Read(Fields body, Parameters parameters)
    {
        JsonElement? tools = body.Any("tools");
        if (tools is { ValueKind: not JsonValueKind.Array } wrong) throw Fields.Wrong("tools", "a list", wrong);
        if (tools is { } list)
        {
            ToolList.Check(list);
            if (list.GetArrayLength() == 0) tools = null;
        }
        if (body.Any("tool_choice") is not { } choice) return tools;
        if (choice.ValueKind == JsonValueKind.String && choice.GetString() is "none") return null;
        if (choice.ValueKind == JsonValueKind.String && choice.GetString() is "auto") return tools;
        CheckForced(choice, tools);
        parameters.Refuse("'tool_choice' other than 'auto' and 'none' is not supported.", "tool_choice");
        return tools;
    }

    private static void CheckForced(JsonElement choice, JsonElement? tools)
    {
        const string Name = "tool_choice";
        if (choice.ValueKind == JsonValueKind.String)
        {
            if (choice.GetString() is "required") return;
            throw RequestException.Invalid(
                $"'{Name}' is '{RequestException.Quoted(choice.GetString()!)}'; it must be none, auto, required or an "
                    + "object.", Name);
        }
        if (choice.ValueKind != JsonValueKind.Object) throw Fields.Wrong(Name, "a string or an object", choice);
        Fields fields = new(choice, Name);
        string? type = fields.String("type");
        if (type is not ("function" or "custom" or "allowed_tools"))
            throw RequestException.Invalid(
                $"'{Name}.type' is '{RequestException.Quoted(type ?? "")}'; it must be function, custom or "
                    + "allowed_tools.", Name);
        Fields named =
            fields.Object(type)
                ?? throw RequestException.Invalid($"'{Name}.{type}' is missing.", Name, "missing_field");
        if (type == "allowed_tools") return;
        string name =
            named.String("name")
                ?? throw RequestException.Invalid($"'{Name}.{type}.name' is missing.", Name, "missing_field");
        if (tools is null || !tools.Value.EnumerateArray().Any(tool => ToolList.NameOf(tool) == name))
            throw RequestException.Invalid(
                $"'{Name}' names '{RequestException.Quoted(name)}', which is none of 'tools'.", Name);
    }
}
