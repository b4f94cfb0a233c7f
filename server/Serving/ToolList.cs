using System.Text.Json;

namespace Native.Server.Serving;

/// <summary>A list of tools as OpenAI's chats have it.</summary>
internal static class ToolList
{
    /// <exception cref="RequestException">An entry is no tool, or of a type that this server does not have.</exception>
    public static void Check(JsonElement tools)
    {
        bool custom = false;
        int i = 0;
        foreach (JsonElement tool in tools.EnumerateArray())
        {
            string path = $"tools[{i++}]";
            if (tool.ValueKind != JsonValueKind.Object) throw Wrong($"'{path}' must be an object.");
            string type = tool.TryGetProperty("type", out JsonElement given) && given.ValueKind != JsonValueKind.Null
                ? given.ValueKind == JsonValueKind.String ? given.GetString()!
                    : throw Wrong($"'{path}.type' must be a string.")
                : "function";
            if (type is not ("function" or "custom"))
                throw RequestException.Invalid(
                    $"'{path}.type' is '{RequestException.Quoted(type)}'; it must be function or custom.", "tools");
            if (string.IsNullOrEmpty(NameOf(tool))) throw Wrong($"'{path}.{type}' must be an object with a name.");
            custom |= type == "custom";
            if (type == "function" && tool.GetProperty(type).TryGetProperty("parameters", out JsonElement parameters)
                && parameters.ValueKind is not (JsonValueKind.Object or JsonValueKind.Null))
                throw Wrong($"'{path}.function.parameters' must be an object.");
        }
        if (custom) throw RequestException.Unsupported("'tools' of type 'custom' are not supported.", "tools");
    }

    /// <summary>The name of a tool; null where it has none.</summary>
    public static string? NameOf(JsonElement tool) => ((string[])["function", "custom"])
        .Select(type => tool.TryGetProperty(type, out JsonElement of) && of.ValueKind == JsonValueKind.Object
            && of.TryGetProperty("name", out JsonElement name) && name.ValueKind == JsonValueKind.String
            ? name.GetString() : null)
        .FirstOrDefault(name => name is not null);

    private static RequestException Wrong(string message) => RequestException.Invalid(message, "tools", "invalid_type");
}
