using System.Text;

namespace Native.Server.Jinja;

/// <summary>The state of one rendering: where output goes, which names are visible, what may still be spent.</summary>
internal sealed class Interpreter(Scope scope, DateTimeOffset now, CancellationToken cancellation)
{
    private StringBuilder _output = new();

    public RenderBudget Budget { get; } = new(cancellation);

    public DateTimeOffset Now { get; } = now;

    /// <summary>What marks a user's strings; null where nothing is to be marked.</summary>
    public Func<string, string>? Mark { get; init; }

    public Scope Scope { get; set; } = scope;

    /// <summary>The source line of the statement being run, for error messages.</summary>
    public int Line { get; set; }

    public void Write(string text)
    {
        Budget.Characters(text.Length);
        if (_output.Length + text.Length > RenderBudget.MaxLength) Budget.Characters(RenderBudget.MaxLength + 1L);
        _output.Append(text);
    }

    /// <summary>Runs statements in a scope of their own and returns what they print.</summary>
    /// <remarks>Nothing is restored when they throw: an exception ends the rendering.</remarks>
    public string Capture(Statement body, Scope inner)
    {
        (StringBuilder output, Scope outer, int line) = (_output, Scope, Line);
        (_output, Scope) = (new StringBuilder(), inner);
        body.Execute(this);
        string text = _output.ToString();
        (_output, Scope, Line) = (output, outer, line);
        Budget.Characters(text.Length);
        return text;
    }
}
