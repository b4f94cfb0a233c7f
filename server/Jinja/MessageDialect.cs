using System.Collections.Concurrent;
using System.Text.Json;

namespace Native.Server.Jinja;

/// <summary>
/// Brings messages into the form a template can read. The API allows a content as a string or as parts, an absent one beside tool
/// calls, and gives a tool call's arguments as JSON text; a template was written for one form of each and may print nonsense or
/// fail on the other.
/// </summary>
/// <remarks>
/// Which form that is can't be told reliably from the source (macros, aliases), so it is tried: the template renders a few
/// messages in both forms, once, when the first request needs to know. The rules:
/// text parts stay parts where they render like the same text as a string does, else they are joined with newlines;
/// a string becomes a part only where the template prints parts and not strings; arguments become an object, as transformers
/// documents, unless the template fails on objects or prints them as Python would; an absent content becomes an empty string
/// where the template fails on None or prints it.
/// </remarks>
internal sealed class MessageDialect
{
    private const string First = "probe-one";
    private const string Second = "probe-two";
    private static readonly string[] Roles = ["system", "developer", "user", "assistant", "tool"];

    private readonly Func<List<object?>, string?> _render;
    private readonly ConcurrentDictionary<string, (bool Strings, bool Parts)> _contents = new();
    private readonly Lazy<bool> _argumentsAsText;
    private readonly Lazy<bool> _needsContent;

    /// <param name="render">The template on some messages; null when it fails.</param>
    public MessageDialect(Func<List<object?>, string?> render)
    {
        _render = render;
        _argumentsAsText = new Lazy<bool>(ReadsArgumentsAsText);
        _needsContent = new Lazy<bool>(NeedsContentBesideToolCalls);
    }

    /// <param name="messages">The messages; they are changed in place.</param>
    /// <param name="budget">What the work counts against.</param>
    /// <param name="mark">What <see cref="Json.Read"/> does to the strings in arguments.</param>
    public List<object?> Adapt(List<object?> messages, RenderBudget budget, Func<string, string>? mark)
    {
        foreach (object? item in messages)
        {
            if (item is not Dict message) throw new TemplateException("each message must be an object");
            message.TryGetValue("content", out object? content);
            message.TryGetValue("tool_calls", out object? calls);
            if (content is List<object?> parts) message["content"] = AdaptParts(Role(message), parts, budget);
            else if (content is string text && !Reads(Role(message)).Strings) message["content"] = new List<object?> { Part(text) };
            else if (content is null && calls is List<object?> { Count: > 0 } && _needsContent.Value) message["content"] = "";
            if (calls is List<object?> list) AdaptArguments(list, budget, mark);
        }
        return messages;
    }

    private object AdaptParts(string role, List<object?> parts, RenderBudget budget)
    {
        var texts = new List<object?>();
        foreach (object? part in parts)
        {
            // Only the template can know what to do with an image.
            if (part is not Dict dict || !dict.TryGetValue("text", out object? text) || text is not string) return parts;
            texts.Add(text);
        }
        if (Reads(role).Parts) return parts;
        budget.Characters(texts.Sum(text => ((string)text!).Length + 1L));
        return string.Join('\n', texts);
    }

    private void AdaptArguments(List<object?> calls, RenderBudget budget, Func<string, string>? mark)
    {
        foreach (object? call in calls)
        {
            if (call is not Dict outer || !outer.TryGetValue("function", out object? function) || function is not Dict inner) continue;
            if (!inner.TryGetValue("arguments", out object? arguments) || arguments is not string text || _argumentsAsText.Value) continue;
            try
            {
                using var document = JsonDocument.Parse(text);
                if (document.RootElement.ValueKind == JsonValueKind.Object) inner["arguments"] = Json.Read(document.RootElement, budget, mark);
            }
            catch (JsonException)
            {
                // A model may have written broken JSON once; the conversation must still be told as it was.
            }
        }
    }

    private static string Role(Dict message) =>
        message.TryGetValue("role", out object? role) && role is string name && Roles.Contains(name) ? name : "user";

    private (bool Strings, bool Parts) Reads(string role) => _contents.GetOrAdd(role, name =>
    {
        string? strings = _render(Conversation(name, $"{First}\n{Second}"));
        string? parts = _render(Conversation(name, new List<object?> { Part(First), Part(Second) }));
        bool printsStrings = Prints(strings, out string before, out string after);
        bool printsParts = Prints(parts, out string partsBefore, out string partsAfter);
        if (printsStrings) return (true, printsParts && partsBefore == before && partsAfter.EndsWith(after, StringComparison.Ordinal));
        // Neither: a template that refuses the probe for another reason. A string is what every template is made for, but some read
        // parts alone, and some of those the first of them alone.
        bool readsFirst = strings?.Contains(First) != true && parts?.Contains(First) == true;
        bool onlyParts = (printsParts || readsFirst) && !parts!.Contains("'type'");
        return (!onlyParts, onlyParts);
    });

    private static bool Prints(string? text, out string before, out string after)
    {
        int first = text?.IndexOf(First, StringComparison.Ordinal) ?? -1;
        int second = text?.IndexOf(Second, StringComparison.Ordinal) ?? -1;
        before = first < 0 ? "" : text![..first];
        after = second < 0 ? "" : text![(second + Second.Length)..];
        return first >= 0 && second > first;
    }

    private bool ReadsArgumentsAsText()
    {
        string? asObject = _render(ToolCall("", new Dict { ["probe_key"] = "probe_value" }));
        string? asText = _render(ToolCall("", """{"probe_key": "probe_value"}"""));
        const string Python = "{'probe_key'";
        return asText is not null && !asText.Contains(Python) && (asObject is null || asObject.Contains(Python));
    }

    private bool NeedsContentBesideToolCalls()
    {
        object arguments = _argumentsAsText.Value ? "{}" : new Dict();
        string? none = _render(ToolCall(null, arguments));
        string? empty = _render(ToolCall("", arguments));
        return empty is not null && !empty.Contains("None") && (none is null || none.Contains("None"));
    }

    // ---- the messages that are tried ----

    private static List<object?> Conversation(string role, object content) => role switch
    {
        "user" => [Message("user", content)],
        "assistant" => [Message("user", "x"), Message("assistant", content), Message("user", "x")],
        "tool" => [.. ToolCall("", new Dict()).Take(2), ToolResult(content)],
        _ => [Message(role, content), Message("user", "x")],
    };

    private static List<object?> ToolCall(object? content, object arguments)
    {
        var function = new Dict { ["name"] = "probe", ["arguments"] = arguments };
        Dict assistant = Message("assistant", content);
        // Some templates insist on ids of nine letters and digits.
        assistant["tool_calls"] = new List<object?> { new Dict { ["id"] = "probe0001", ["type"] = "function", ["function"] = function } };
        return [Message("user", "x"), assistant, ToolResult("x")];
    }

    private static Dict ToolResult(object content)
    {
        Dict result = Message("tool", content);
        result["tool_call_id"] = "probe0001";
        result["name"] = "probe";
        return result;
    }

    private static Dict Message(string role, object? content) => new() { ["role"] = role, ["content"] = content };

    private static Dict Part(string text) => new() { ["type"] = "text", ["text"] = text };
}
