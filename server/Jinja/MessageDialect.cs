using System.Collections.Concurrent;
using System.Text.Json;

namespace Native.Server.Jinja;

/// <summary>
/// Brings messages into the form a template can read. The API allows a content as a string or as parts, an absent one
/// beside tool calls, and gives a tool call's arguments as JSON text; a template was written for one form of each and
/// may print nonsense or fail on the other.
/// </summary>
/// <remarks>
/// Which form that is can't be told reliably from the source (macros, aliases), so it is tried: the template renders a
/// few messages in both forms, once, when the first request needs to know. The rules: text parts stay parts where they
/// render like the same text as a string does, else they are joined with newlines; a string becomes a part only where
/// the template prints parts and not strings; arguments become an object, as transformers documents, unless the
/// template fails on objects or prints them as Python would; an absent content becomes an empty string, beside tool
/// calls only where the template fails on None or prints it. A developer's message is the system's, unless the template
/// names that role. An instruction after the first is told with the first, and one after the first turn with the user's
/// next message, where the template would leave it out.
/// </remarks>
internal sealed class MessageDialect
{
    private const string First = "probe-one";
    private const string Second = "probe-two";
    private static readonly string[] Roles = ["system", "developer", "user", "assistant", "tool"];

    private readonly Func<List<object?>, string?> _render;
    private readonly ConcurrentDictionary<string, (bool Strings, bool Parts)> _contents = new();
    private readonly ConcurrentDictionary<string, bool> _dropped = new(); // by role
    private readonly Lazy<bool> _tellsSeveral, _tellsLate, _knowsDeveloper, _argumentsAsText, _takesArgumentsAsText,
        _needsContent, _readsThinking;

    /// <param name="source">The template's text.</param>
    /// <param name="render">The template on some messages; null when it fails.</param>
    public MessageDialect(string source, Func<List<object?>, string?> render)
    {
        _render = render;
        // Many templates print whatever role they are given; the model knows those that its template names.
        _knowsDeveloper = new(() => source.Contains("developer", StringComparison.Ordinal) && Tells("developer"));
        _tellsSeveral =
            new(() => TellsBoth([Message("system", First), Message("system", Second), Message("user", "x")]));
        _tellsLate =
            new(() => TellsBoth(
                [Message("system", First), Message("user", "x"), Message("assistant", "x"), Message("system", Second),
                    Message("user", "x")]));
        _argumentsAsText = new Lazy<bool>(ReadsArgumentsAsText);
        _takesArgumentsAsText = new(() => _render(ToolCall("", "probe")) is not null);
        _needsContent = new Lazy<bool>(NeedsContentBesideToolCalls);
        _readsThinking =
            new(() => _render(
                Conversation("assistant", new List<object?> { Thinking(First), Part(Second) })) is { } text
            && text.Contains(First) && !text.Contains("'type'")); // and not the list as Python would
    }

    /// <param name="messages">The messages; they are changed in place.</param>
    /// <param name="budget">What the work counts against.</param>
    /// <param name="mark">What <see cref="Json.Read"/> does to the strings in arguments.</param>
    public List<object?> Adapt(List<object?> messages, RenderBudget budget, Func<string, string>? mark)
    {
        foreach (object? item in messages)
        {
            if (item is not Dict message) throw new TemplateException("each message must be an object");
            DropNulls(message, but: "content");
            if (message.TryGetValue("tool_calls", out object? calls) && calls is List<object?> { Count: 0 })
                message.Remove("tool_calls");
            AdaptContent(message, budget, callsTools: calls is List<object?> { Count: > 0 });
            if (calls is List<object?> list) AdaptArguments(list, budget, mark);
            if (message.TryGetValue("role", out object? role) && role is "developer" && !_knowsDeveloper.Value)
                message["role"] = "system";
            if (role is string name && !Roles.Contains(name) && IsDropped(name))
                throw new TemplateException($"the chat template leaves out messages of the role '{name}'");
        }
        PlaceInstructions(messages, budget);
        return messages;
    }

    /// <summary>Brings instructions to where the template tells them: some tell the first message's alone, some none
    /// after the first turn.</summary>
    private void PlaceInstructions(List<object?> messages, RenderBudget budget)
    {
        int leading = messages.TakeWhile(IsInstruction).Count();
        for (; leading > 1 && !_tellsSeveral.Value; leading--) JoinNext(messages, 0, budget);
        for (int i = leading > 0 && IsDropped("system") ? 0 : leading; i < messages.Count; i++)
        {
            if (!IsInstruction(messages[i]) || (i >= leading && _tellsLate.Value)) continue;
            ((Dict)messages[i]!)["role"] = "user";
            bool turn = false;
            for (; !turn && i + 1 < messages.Count
                && ((turn = Is(messages[i + 1], "user")) || IsInstruction(messages[i + 1]));)
                JoinNext(messages, i, budget);
        }
    }

    private static bool Is(object? message, string role) =>
        ((Dict)message!).TryGetValue("role", out object? found) && found as string == role;

    private static bool IsInstruction(object? message) => Is(message, "system") || Is(message, "developer");

    /// <summary>Makes one message of two: the second's content follows the first's after an empty line.</summary>
    private static void JoinNext(List<object?> messages, int index, RenderBudget budget)
    {
        Dict message = (Dict)messages[index]!;
        object? first = message["content"], second = ((Dict)messages[index + 1]!)["content"];
        if (first is string a && second is string b)
        {
            budget.Characters(a.Length + b.Length + 2L);
            message["content"] = a + "\n\n" + b;
        }
        else message["content"] = new List<object?>([.. Parts(first), Part("\n\n"), .. Parts(second)]);
        messages.RemoveAt(index + 1);

        static List<object?> Parts(object? content) => content as List<object?> ?? [Part(content as string ?? "")];
    }

    /// <summary>Null means that a member is not given; templates ask whether it is there.</summary>
    private static void DropNulls(Dict dict, string but)
    {
        object[] names =
            [.. dict.Where(
                pair => pair.Value is null && pair.Key is not string name
                    || pair.Value is null && (string)pair.Key != but).Select(pair => pair.Key)];
        foreach (object name in names) dict.Remove(name);
    }

    private void AdaptContent(Dict message, RenderBudget budget, bool callsTools)
    {
        message.TryGetValue("content", out object? content);
        if (content is List<object?> parts) message["content"] = content = AdaptParts(message, parts, budget);
        else if (content is null && (!callsTools || _needsContent.Value)) message["content"] = content = "";
        if (content is string text && !Reads(Role(message)).Strings)
            message["content"] = new List<object?> { Part(text) };
    }

    private object AdaptParts(Dict message, List<object?> parts, RenderBudget budget)
    {
        string role = Role(message);
        var adapted = new List<object?>();
        var texts = new List<string>();
        foreach (object? part in parts)
        {
            if (part is Dict thinking && TextOf(thinking, "thinking", "thinking") is { } thought
                && !_readsThinking.Value)
            {
                // Where templates look for old reasoning; they decide what is left of it.
                if (!message.ContainsKey("reasoning_content")) message["reasoning_content"] = thought;
                continue;
            }
            string? text =
                part is not Dict dict ? null : TextOf(dict, "refusal", "refusal") ?? TextOf(dict, null, "text");
            if (text is not null) texts.Add(text);
            adapted.Add(text is null
                || part is Dict { } given && given.TryGetValue("type", out object? type) && type is "text" ? part
                : Part(text));
        }
        // Only the template can know what to do with an image.
        if (texts.Count < adapted.Count || Reads(role).Parts) return adapted;
        budget.Characters(texts.Sum(text => text.Length + 1L));
        return string.Join('\n', texts);
    }

    /// <summary>The text of a part of some type, or of any; null where it has none.</summary>
    private static string? TextOf(Dict part, string? type, string member) =>
        (type is null || (part.TryGetValue("type", out object? found) && found as string == type))
            && part.TryGetValue(member, out object? text) ? text as string : null;

    private void AdaptArguments(List<object?> calls, RenderBudget budget, Func<string, string>? mark)
    {
        foreach (object? call in calls)
        {
            if (call is not Dict outer) continue;
            DropNulls(outer, but: "");
            if (!outer.TryGetValue("function", out object? function) || function is not Dict inner) continue;
            DropNulls(inner, but: "");
            inner.TryGetValue("arguments", out object? arguments);
            inner["arguments"] = AdaptArguments(arguments, budget, mark);
        }
    }

    /// <summary>Arguments in the form that the template reads. What is empty or no object counts as no arguments; a
    /// text that is no JSON is told as the model wrote it where the template takes texts.</summary>
    private object AdaptArguments(object? arguments, RenderBudget budget, Func<string, string>? mark)
    {
        bool asText = _argumentsAsText.Value;
        if (arguments is Dict given) return asText ? Json.Write(given, budget) : given;
        if (arguments is not string text || string.IsNullOrWhiteSpace(text)) return asText ? "{}" : new Dict();
        try
        {
            using var document = JsonDocument.Parse(Marks.Without(text));
            if (document.RootElement.ValueKind == JsonValueKind.Object)
                return asText ? text : Json.Read(document.RootElement, budget, mark)!;
        }
        catch (JsonException)
        {
            // Below.
        }
        if (_takesArgumentsAsText.Value) return text;
        return asText ? "{}" : new Dict();
    }

    /// <summary>Whether a message of a role reaches the template's text.</summary>
    private bool Tells(string role) =>
        _render(Conversation(role, First))?.Contains(First) == true
            || _render(Conversation(role, new List<object?> { Part(First) }))?.Contains(First) == true;

    /// <summary>Whether the template neither tells nor refuses messages of a role. What callers invent beyond some
    /// names is not asked.</summary>
    private bool IsDropped(string role)
    {
        const int MostNames = 64;
        if (_dropped.TryGetValue(role, out bool dropped)) return dropped;
        if (_dropped.Count >= MostNames) return false;
        return _dropped.GetOrAdd(role, name => !Tells(name) && _render(Conversation(name, First)) is not null);
    }

    /// <summary>Whether both instructions are told, as strings or as parts.</summary>
    private bool TellsBoth(List<object?> messages)
    {
        if (!Reads("system").Strings)
            foreach (object? message in messages)
                ((Dict)message!)["content"] = new List<object?> { Part((string)((Dict)message)["content"]!) };
        return _render(messages) is { } text && text.Contains(First) && text.Contains(Second);
    }

    private static string Role(Dict message) =>
        message.TryGetValue("role", out object? role) && role is string name && Roles.Contains(name) ? name : "user";

    private (bool Strings, bool Parts) Reads(string role) => _contents.GetOrAdd(role, name =>
    {
        string? strings = _render(Conversation(name, $"{First}\n{Second}"));
        string? parts = _render(Conversation(name, new List<object?> { Part(First), Part(Second) }));
        bool printsStrings = Prints(strings, out string before, out string after);
        bool printsParts = Prints(parts, out string partsBefore, out string partsAfter);
        if (printsStrings)
            return (true, printsParts && partsBefore == before && partsAfter.EndsWith(after, StringComparison.Ordinal));
        // Neither: a template that refuses the probe for another reason. A string is what every template is made for,
        // but some read parts alone, and some of those the first of them alone.
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
        assistant["tool_calls"] =
            new List<object?> { new Dict { ["id"] = "probe0001", ["type"] = "function", ["function"] = function } };
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

    private static Dict Thinking(string text) => new() { ["type"] = "thinking", ["thinking"] = text };

    private static Dict Part(string text) => new() { ["type"] = "text", ["text"] = text };
}
