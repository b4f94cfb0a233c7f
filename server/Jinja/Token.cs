namespace Native.Server.Jinja;

internal enum TokenKind
{
    Text,
    VariableBegin,
    VariableEnd,
    BlockBegin,
    BlockEnd,
    Name,
    Integer,
    Float,
    String,
    Operator,
    End,
}

/// <summary>One token.</summary>
/// <param name="Kind">What it is.</param>
/// <param name="Text">The decoded value of a string, the cleaned digits of a number, else the source text.</param>
/// <param name="Position">Offset in the source, for error messages.</param>
internal readonly record struct Token(TokenKind Kind, string Text, int Position)
{
    public bool Is(TokenKind kind, string text) => Kind == kind && Text == text;

    public string Describe() => Kind switch
    {
        TokenKind.End => "end of template",
        TokenKind.VariableEnd => "'}}'",
        TokenKind.BlockEnd => "'%}'",
        TokenKind.Text or TokenKind.VariableBegin or TokenKind.BlockBegin => "template text",
        _ => $"'{(Text.Length <= 40 ? Text : string.Concat(Text.AsSpan(0, 40), "..."))}'",
    };
}
