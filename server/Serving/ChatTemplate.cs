using System.Text.Json;
using Native.Server.Jinja;

namespace Native.Server.Serving;

/// <summary>
/// A model's chat template: turns messages into the text the model was trained on. Templates are Jinja programs that
/// come with the model and are written for Hugging Face transformers, so its dialect and its conventions are what
/// counts here.
/// </summary>
/// <remarks>
/// Rendering is a pure function of its arguments, bounded in time, memory and output, and safe to call from many
/// threads.
/// </remarks>
public sealed class ChatTemplate
{
    private readonly Statement _body;
    private readonly Lazy<MessageDialect> _dialect;

    private ChatTemplate(string source, Statement body)
    {
        _body = body;
        _dialect = new Lazy<MessageDialect>(() => new MessageDialect(source, Probe));
    }

    /// <exception cref="TemplateException">A syntax error, with its line and column.</exception>
    public static ChatTemplate Parse(string source)
    {
        ArgumentNullException.ThrowIfNull(source);
        return new ChatTemplate(source, Parser.Parse(source));
    }

    /// <summary>The prompt text for a conversation.</summary>
    /// <param name="messages">The messages array of an OpenAI chat request.</param>
    /// <param name="tools">The request's tools array, if it has one.</param>
    /// <param name="addGenerationPrompt">Whether the text ends where the assistant's next message begins.</param>
    /// <param name="bosToken">The text of the vocabulary's begin-of-text token; empty when it has none.</param>
    /// <param name="eosToken">The text of the vocabulary's end-of-text token; empty when it has none.</param>
    /// <param name="extra">An object of further variables (chat_template_kwargs), such as
    /// <c>enable_thinking</c>.</param>
    /// <param name="mark">What becomes of every string in messages and tools before the template sees it, those in JSON
    /// texts included, so that the caller can tell them from the template's own text; it is applied twice to
    /// some.</param>
    /// <param name="now">What <c>strftime_now</c> tells; the system's local time when left out.</param>
    /// <param name="ct">Looked at every few thousand steps.</param>
    /// <exception cref="TemplateException">
    /// The template refused the conversation (<see cref="TemplateException.IsRefusal"/>), could not handle it, or took
    /// too long.
    /// </exception>
    public string Render(
        JsonElement messages,
        JsonElement? tools,
        bool addGenerationPrompt,
        string bosToken,
        string eosToken,
        JsonElement? extra = null,
        Func<string, string>? mark = null,
        DateTimeOffset? now = null,
        CancellationToken ct = default)
    {
        if (messages.ValueKind != JsonValueKind.Array) throw new TemplateException("messages must be an array");
        if (extra is { ValueKind: not (JsonValueKind.Object or JsonValueKind.Null or JsonValueKind.Undefined) })
            throw new TemplateException("chat_template_kwargs must be an object");

        var interpreter = new Interpreter(Globals.NewScope(), now ?? DateTimeOffset.Now, ct) { Mark = mark };
        Scope variables = interpreter.Scope;
        variables.Set("bos_token", bosToken);
        variables.Set("eos_token", eosToken);
        variables.Set("documents", null);
        if (extra is { ValueKind: JsonValueKind.Object } more)
        {
            foreach ((object name, object? value)
                in (Dict)Json.Read(more, interpreter.Budget)!) variables.Set((string)name, value);
        }
        var conversation = (List<object?>)Json.Read(messages, interpreter.Budget, mark)!;
        SetRequest(variables, _dialect.Value.Adapt(conversation, interpreter.Budget, mark),
            tools is { } given ? Json.Read(given, interpreter.Budget, mark) : null, addGenerationPrompt);
        return Run(interpreter);
    }

    /// <summary>The variables that extra ones can't replace.</summary>
    /// <remarks>transformers passes None for what a call leaves out, and templates ask "is not none" as often as "is
    /// defined".</remarks>
    private static void SetRequest(Scope variables, List<object?> messages, object? tools, bool addGenerationPrompt)
    {
        variables.Set("messages", messages);
        variables.Set("tools", tools);
        variables.Set("add_generation_prompt", addGenerationPrompt);
    }

    private string Run(Interpreter interpreter)
    {
        try
        {
            return interpreter.Capture(_body, interpreter.Scope);
        }
        catch (OverflowException)
        {
            throw AtLine("a number needs more than 64 bits");
        }
        catch (TemplateException e) when (e is { IsRefusal: false, Line: 0 })
        {
            throw AtLine(e.Message);
        }

        TemplateException AtLine(string what) =>
            new($"chat template, line {interpreter.Line}: {what}", interpreter.Line);
    }

    /// <summary>The text for a few made-up messages; null when the template fails on them.</summary>
    private string? Probe(List<object?> messages)
    {
        var interpreter = new Interpreter(Globals.NewScope(), DateTimeOffset.UnixEpoch, CancellationToken.None);
        interpreter.Scope.Set("bos_token", "");
        interpreter.Scope.Set("eos_token", "");
        SetRequest(interpreter.Scope, messages, tools: null, addGenerationPrompt: false);
        try
        {
            return Run(interpreter);
        }
        catch (TemplateException)
        {
            return null;
        }
    }
}
