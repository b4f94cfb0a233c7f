namespace Native.Server.Jinja;

/// <summary>A template's text with newlines normalized to '\n' and one trailing newline dropped, as Jinja2 reads its
/// sources.</summary>
internal sealed class SourceText
{
    private readonly List<int> _lineStarts = [0];

    public SourceText(string source)
    {
        Text = source.Replace("\r\n", "\n").Replace('\r', '\n');
        if (Text.EndsWith('\n')) Text = Text[..^1];
        for (int i = 0; i < Text.Length; i++)
        {
            if (Text[i] == '\n') _lineStarts.Add(i + 1);
        }
    }

    public string Text { get; }

    /// <summary>The line of an offset, from 1.</summary>
    public int Line(int position)
    {
        int index = _lineStarts.BinarySearch(position);
        return index >= 0 ? index + 1 : ~index;
    }

    public TemplateException Error(int position, string what)
    {
        int line = Line(position);
        int column = position - _lineStarts[line - 1] + 1;
        return new TemplateException($"chat template, line {line}, column {column}: {what}", line, column);
    }
}
