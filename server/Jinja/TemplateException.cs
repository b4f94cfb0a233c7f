
namespace Native.Server.Jinja;

/// <summary>
/// A chat template that does not parse, or does not render the conversation it was given. The message is meant for the
/// caller: it is the template's own text for <c>raise_exception('...')</c>, else what was wrong and where.
/// </summary>
/// <param name="message">What was wrong.</param>
/// <param name="line">Line in the template, from 1; 0 when no single line is to blame.</param>
/// <param name="column">Column in that line, from 1; 0 when unknown (errors while rendering).</param>
public sealed class TemplateException(string message, int line = 0, int column = 0) : Exception(message)
{
    public int Line { get; } = line;

    public int Column { get; } = column;

    /// <summary>The template itself refused the conversation, with <c>raise_exception</c>.</summary>
    public bool IsRefusal { get; init; }
}
