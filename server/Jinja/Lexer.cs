using System.Text;

namespace Native.Server.Jinja;

/// <summary>
/// Splits a template into tokens, with Jinja2's whitespace rules under <c>trim_blocks</c> and <c>lstrip_blocks</c>,
/// which is how chat templates are written: the newline after a block tag goes, and so does the indentation before one.
/// </summary>
internal sealed class Lexer(SourceText source)
{
    // Longest first, so that "**" is not read as two "*".
    private static readonly string[] Operators =
        ["**", "//", "==", "!=", ">=", "<=", "+", "-", "*", "/", "%", "~", "[", "]", "(", ")", "{", "}", "<", ">", "=",
            ".", ":", "|", ",", ";"];

    private readonly string _text = source.Text;
    private readonly List<Token> _tokens = [];
    private int _position;

    public List<Token> Run()
    {
        while (_position < _text.Length)
        {
            int tag = NextTag(_position);
            if (tag < 0)
            {
                AddText(_position, _text.Length);
                break;
            }
            char kind = _text[tag + 1];
            char sign = tag + 2 < _text.Length && _text[tag + 2] is '-' or '+' ? _text[tag + 2] : '\0';
            AddText(_position, TextEnd(_position, tag, sign, isVariable: kind == '{'));
            _position = tag + (sign == '\0' ? 2 : 3);

            if (kind == '#') SkipComment(tag);
            else if (kind == '%' && IsWordTag(_position, "raw", out int after)) ReadRaw(tag, after);
            else ReadTag(tag, isBlock: kind == '%');
        }
        _tokens.Add(new Token(TokenKind.End, "", _text.Length));
        return _tokens;
    }

    private int NextTag(int from)
    {
        for (int i = _text.IndexOf('{', from); i >= 0 && i + 1 < _text.Length; i = _text.IndexOf('{', i + 1))
        {
            if (_text[i + 1] is '{' or '%' or '#') return i;
        }
        return -1;
    }

    /// <summary>Where the text before a tag ends: '-' strips all whitespace, a block or comment alone on its line loses
    /// its indentation.</summary>
    private int TextEnd(int start, int tag, char sign, bool isVariable)
    {
        int end = tag;
        if (sign == '-')
        {
            while (end > start && Characters.IsSpace(_text[end - 1])) end--;
            return end;
        }
        if (sign == '+' || isVariable) return tag;
        while (end > start && _text[end - 1] != '\n' && Characters.IsSpace(_text[end - 1])) end--;
        bool atLineStart = end == 0 || _text[end - 1] == '\n';
        return atLineStart ? end : tag;
    }

    private void AddText(int start, int end)
    {
        if (end > start) _tokens.Add(new Token(TokenKind.Text, _text[start..end], start));
    }

    private void SkipComment(int tag)
    {
        int end = _text.IndexOf("#}", _position, StringComparison.Ordinal);
        if (end < 0) throw source.Error(tag, "a comment is not closed: expected '#}'");
        char sign = end > _position ? _text[end - 1] : '\0';
        _position = end + 2;
        AfterTag(sign, trimNewline: true);
    }

    /// <summary>Skips what the end of a tag takes with it.</summary>
    private void AfterTag(char sign, bool trimNewline)
    {
        if (sign == '-')
        {
            while (_position < _text.Length && Characters.IsSpace(_text[_position])) _position++;
        }
        else if (trimNewline && sign != '+' && _position < _text.Length && _text[_position] == '\n')
        {
            _position++;
        }
    }

    /// <summary>Whether a block tag whose inside starts at <paramref name="from"/> is this one word; the offset of its
    /// end sign or '%}'.</summary>
    private bool IsWordTag(int from, string word, out int after)
    {
        after = from;
        while (after < _text.Length && Characters.IsSpace(_text[after])) after++;
        if (string.CompareOrdinal(_text, after, word, 0, word.Length) != 0) return false;
        after += word.Length;
        while (after < _text.Length && Characters.IsSpace(_text[after])) after++;
        int end = after < _text.Length && _text[after] is '-' or '+' ? after + 1 : after;
        return string.CompareOrdinal(_text, end, "%}", 0, 2) == 0;
    }

    private void ReadRaw(int tag, int after)
    {
        char sign = _text[after];
        _position = after + (sign == '%' ? 2 : 3);
        AfterTag(sign, trimNewline: false);
        for (int end = _text.IndexOf("{%", _position, StringComparison.Ordinal); end >= 0; end =
            _text.IndexOf("{%", end + 2, StringComparison.Ordinal))
        {
            char open = end + 2 < _text.Length && _text[end + 2] is '-' or '+' ? _text[end + 2] : '\0';
            if (!IsWordTag(end + (open == '\0' ? 2 : 3), "endraw", out int close)) continue;
            AddText(_position, TextEnd(_position, end, open, isVariable: false));
            _position = close + (_text[close] == '%' ? 2 : 3);
            AfterTag(_text[close], trimNewline: true);
            return;
        }
        throw source.Error(tag, "a raw block is not closed: expected '{% endraw %}'");
    }

    private void ReadTag(int tag, bool isBlock)
    {
        string end = isBlock ? "%}" : "}}";
        _tokens.Add(new Token(isBlock ? TokenKind.BlockBegin : TokenKind.VariableBegin, "", tag));
        var brackets = new Stack<char>();
        while (true)
        {
            while (_position < _text.Length && Characters.IsSpace(_text[_position])) _position++;
            if (_position == _text.Length) throw source.Error(tag, $"a tag is not closed: expected '{end}'");
            int start = _position;
            char c = _text[start];
            if (brackets.Count == 0)
            {
                char sign = c == '-' || (c == '+' && isBlock) ? c : '\0';
                int at = sign == '\0' ? start : start + 1;
                if (string.CompareOrdinal(_text, at, end, 0, 2) == 0)
                {
                    _tokens.Add(new Token(isBlock ? TokenKind.BlockEnd : TokenKind.VariableEnd, "", start));
                    _position = at + 2;
                    AfterTag(sign, trimNewline: isBlock);
                    return;
                }
            }
            if (c is '\'' or '"') ReadString(start);
            else if (char.IsAsciiDigit(c)) ReadNumber(start);
            else if (c == '_' || char.IsLetter(c)) ReadName(start);
            else ReadOperator(start, brackets);
        }
    }

    private void ReadName(int start)
    {
        while (_position < _text.Length && (_text[_position] == '_' || char.IsLetterOrDigit(_text[_position])))
            _position++;
        _tokens.Add(new Token(TokenKind.Name, _text[start.._position], start));
    }

    private void ReadOperator(int start, Stack<char> brackets)
    {
        foreach (string symbol in Operators)
        {
            if (string.CompareOrdinal(_text, start, symbol, 0, symbol.Length) != 0) continue;
            if (symbol is "(" or "[" or "{") brackets.Push(symbol[0] switch { '(' => ')', '[' => ']', _ => '}' });
            if (symbol is ")" or "]" or "}" && (!brackets.TryPop(out char expected) || expected != symbol[0]))
                throw source.Error(start,
                    $"unexpected '{symbol}'{(expected == '\0' ? "" : $", expected '{expected}'")}");
            _position += symbol.Length;
            _tokens.Add(new Token(TokenKind.Operator, symbol, start));
            return;
        }
        throw source.Error(start, $"unexpected character '{_text[start]}'");
    }

    private void ReadNumber(int start)
    {
        if (_text[start] == '0' && start + 1 < _text.Length
            && _text[start + 1] is 'x' or 'X' or 'o' or 'O' or 'b' or 'B')
        {
            _position += 2;
            SkipDigits(char.IsAsciiHexDigit);
            int radix = char.ToLowerInvariant(_text[start + 1]) switch { 'x' => 16, 'o' => 8, _ => 2 };
            string digits = _text[(start + 2).._position].Replace("_", "");
            if (Numbers.ParseInteger(digits, radix) is not long value)
                throw source.Error(start, "an integer is malformed or too large");
            _tokens.Add(new Token(TokenKind.Integer, value.ToString(), start));
            return;
        }
        SkipDigits(char.IsAsciiDigit);
        bool isFloat = false;
        // "x.0.1" subscripts twice; only a number that does not follow a dot may have a fraction.
        bool afterDot = start > 0 && _text[start - 1] == '.';
        if (!afterDot && _position + 1 < _text.Length && _text[_position] == '.'
            && char.IsAsciiDigit(_text[_position + 1]))
        {
            isFloat = true;
            _position++;
            SkipDigits(char.IsAsciiDigit);
        }
        if (!afterDot && _position + 1 < _text.Length && _text[_position] is 'e' or 'E')
        {
            int exponent = _position + (_text[_position + 1] is '+' or '-' ? 2 : 1);
            if (exponent < _text.Length && char.IsAsciiDigit(_text[exponent]))
            {
                isFloat = true;
                _position = exponent;
                SkipDigits(char.IsAsciiDigit);
            }
        }
        _tokens.Add(new Token(isFloat ? TokenKind.Float : TokenKind.Integer, _text[start.._position].Replace("_", ""),
            start));
    }

    private void SkipDigits(Func<char, bool> isDigit)
    {
        while (_position < _text.Length && (isDigit(_text[_position]) || _text[_position] == '_')) _position++;
    }

    /// <summary>A string literal with Python's escapes.</summary>
    private void ReadString(int start)
    {
        char quote = _text[start];
        var value = new StringBuilder();
        for (_position++; _position < _text.Length; _position++)
        {
            char c = _text[_position];
            if (c == quote)
            {
                _position++;
                string literal = value.ToString();
                if (!Characters.IsWellFormed(literal))
                    throw source.Error(start, "a string holds half of a surrogate pair");
                _tokens.Add(new Token(TokenKind.String, literal, start));
                return;
            }
            if (c == '\\' && _position + 1 < _text.Length) ReadEscape(value);
            else value.Append(c);
        }
        throw source.Error(start, $"a string is not closed: expected {quote}");
    }

    private void ReadEscape(StringBuilder value)
    {
        char c = _text[++_position];
        switch (c)
        {
            case '\n': break;
            case '\\' or '\'' or '"': value.Append(c); break;
            case 'a': value.Append('\a'); break;
            case 'b': value.Append('\b'); break;
            case 'f': value.Append('\f'); break;
            case 'n': value.Append('\n'); break;
            case 'r': value.Append('\r'); break;
            case 't': value.Append('\t'); break;
            case 'v': value.Append('\v'); break;
            case 'x': AppendHex(value, 2); break;
            case 'u': AppendHex(value, 4); break;
            case 'U': AppendHex(value, 8); break;
            case >= '0' and <= '7':
                int code = 0;
                int end = Math.Min(_position + 3, _text.Length);
                while (_position < end && _text[_position] is >= '0' and <= '7')
                    code = code * 8 + (_text[_position++] - '0');
                _position--;
                value.Append((char)code);
                break;
            default: value.Append('\\').Append(c); break; // Python keeps what it does not know
        }
    }

    private void AppendHex(StringBuilder value, int digits)
    {
        int start = _position + 1;
        if (start + digits > _text.Length
            || Numbers.ParseInteger(_text.Substring(start, digits), 16) is not (>= 0 and <= 0x10FFFF and long code))
            throw source.Error(_position - 1,
                $"expected {digits} hexadecimal digits of a Unicode character after '\\{_text[_position]}'");
        if (code <= 0xFFFF) value.Append((char)code);
        else value.Append(new Rune((int)code).ToString());
        _position += digits;
    }
}
