using System.Globalization;

namespace Native.Tests.Gpu.Machine;

internal enum PtxTokenKind
{
    Word,
    Integer,
    Float,
    Double,
    String,
    Punctuation,
    End,
}

/// <summary>A token. <see cref="Bits"/> hold a literal's value.</summary>
internal readonly record struct PtxToken(PtxTokenKind Kind, string Text, long Bits, int Line);

/// <summary>Splits PTX into tokens. A word has its dots and double colons with it, so that an instruction with its
/// modifiers is one: <c>ld.global.L2::128B.v4.f32</c>.</summary>
internal ref struct PtxLexer(ReadOnlySpan<char> text)
{
    private readonly ReadOnlySpan<char> _text = text;
    private int _at, _line = 1;

    /// <summary>All tokens of a text, with one of kind <see cref="PtxTokenKind.End"/> at the end.</summary>
    public static List<PtxToken> Read(string text)
    {
        PtxLexer lexer = new(text);
        List<PtxToken> tokens = [];
        do tokens.Add(lexer.Next());
        while (tokens[^1].Kind != PtxTokenKind.End);
        return tokens;
    }

    private PtxToken Next()
    {
        SkipBlanks();
        if (_at >= _text.Length) return new(PtxTokenKind.End, "", 0, _line);
        char c = _text[_at];
        if (c == '"') return Quoted();
        if (char.IsAsciiDigit(c)) return Number();
        if (IsWord(c) || c == '.') return Word();
        _at++;
        return new(PtxTokenKind.Punctuation, c.ToString(), 0, _line);
    }

    private static bool IsWord(char c) => char.IsAsciiLetterOrDigit(c) || c is '_' or '$' or '%';

    private void SkipBlanks()
    {
        while (_at < _text.Length)
        {
            if (_text[_at] == '\n') _line++;
            if (char.IsWhiteSpace(_text[_at])) _at++;
            else if (_text[_at..].StartsWith("//")) SkipTo("\n", 0);
            else if (_text[_at..].StartsWith("/*")) SkipTo("*/", 2);
            else return;
        }
    }

    private void SkipTo(string end, int beyond)
    {
        int length = _text[_at..].IndexOf(end);
        int stop = length < 0 ? _text.Length : _at + length + beyond;
        for (; _at < stop; _at++)
            if (_text[_at] == '\n') _line++;
    }

    private PtxToken Quoted()
    {
        int length = _text[(_at + 1)..].IndexOf('"');
        if (length < 0) throw new PtxException($"PTX line {_line}: a string has no end");
        string value = _text.Slice(_at + 1, length).ToString();
        _at += length + 2;
        return new(PtxTokenKind.String, value, 0, _line);
    }

    private PtxToken Word()
    {
        int from = _at++;
        while (_at < _text.Length)
        {
            char c = _text[_at];
            if (IsWord(c) || c == '.') _at++;
            else if (c == ':' && _at + 2 < _text.Length && _text[_at + 1] == ':' && IsWord(_text[_at + 2])) _at += 2;
            else break;
        }
        return new(PtxTokenKind.Word, _text[from.._at].ToString(), 0, _line);
    }

    private PtxToken Number()
    {
        int from = _at;
        ReadOnlySpan<char> rest = _text[_at..];
        if (rest.Length > 2 && rest[0] == '0' && rest[1] is 'f' or 'F' or 'd' or 'D' && char.IsAsciiHexDigit(rest[2]))
        {
            bool single = rest[1] is 'f' or 'F';
            _at += single ? 10 : 18;
            ReadOnlySpan<char> digits = _text[(from + 2).._at];
            long bits = (long)ulong.Parse(digits, NumberStyles.HexNumber, CultureInfo.InvariantCulture);
            return new(single ? PtxTokenKind.Float : PtxTokenKind.Double, _text[from.._at].ToString(), bits, _line);
        }
        while (_at < _text.Length && (char.IsAsciiLetterOrDigit(_text[_at]) || _text[_at] == '.'
            || (_text[_at] is '+' or '-' && _text[_at - 1] is 'e' or 'E' && rest[..2] is not "0x"))) _at++;
        string text = _text[from.._at].ToString();
        if (!text.StartsWith("0x") && text.AsSpan().ContainsAny('.', 'e'))
            return new(PtxTokenKind.Double, text,
                BitConverter.DoubleToInt64Bits(double.Parse(text, CultureInfo.InvariantCulture)), _line);
        return new(PtxTokenKind.Integer, text, Integer(text.TrimEnd('U')), _line);
    }

    private readonly long Integer(string text)
    {
        try
        {
            if (text.StartsWith("0x") || text.StartsWith("0X")) return (long)Convert.ToUInt64(text[2..], 16);
            if (text.StartsWith("0b") || text.StartsWith("0B")) return (long)Convert.ToUInt64(text[2..], 2);
            return (long)(text.Length > 1 && text[0] == '0' ? Convert.ToUInt64(text, 8) : Convert.ToUInt64(text, 10));
        }
        catch (Exception e) when (e is FormatException or OverflowException)
        {
            throw new PtxException($"PTX line {_line}: '{text}' is no number");
        }
    }
}
