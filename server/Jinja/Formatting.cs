using System.Globalization;
using System.Text;

namespace Native.Server.Jinja;

/// <summary>Python's two ways to fill in a string: <c>'%s' % x</c> and <c>'{}'.format(x)</c>.</summary>
internal static class Formatting
{
    private const int MaxPrecision = 300;

    /// <summary>Pads to a width in code points; '&lt;' puts the text left, '&gt;' right, '^' in the middle.</summary>
    public static string Pad(string text, long width, char fill, char side, RenderBudget budget)
    {
        long missing = width - Characters.Length(text);
        if (missing <= 0) return text;
        budget.Characters(text.Length + missing);
        // str.center puts the odd one left when the width is odd.
        int left = (int)(side switch { '<' => 0, '>' => missing, _ => missing / 2 + (missing & width & 1) });
        return new string(fill, left) + text + new string(fill, (int)missing - left);
    }

    // ---- 'text %s' % values ----

    public static string Percent(string format, object? values, Interpreter i)
    {
        i.Budget.Characters(format.Length);
        object?[] positional = values is object?[] tuple ? tuple : [values];
        int used = 0;
        var result = new StringBuilder();
        for (int at = 0; at < format.Length; at++)
        {
            if (format[at] != '%')
            {
                result.Append(format[at]);
                continue;
            }
            at++;
            object? named = Bound.Missing;
            if (at < format.Length && format[at] == '(')
            {
                int close = format.IndexOf(')', at);
                if (close < 0 || values is not Dict dict)
                    throw new TemplateException("a format with %(name) needs a dict");
                if (!dict.Find(format[(at + 1)..close], out named, i.Budget))
                    throw new TemplateException($"format: no key '{format[(at + 1)..close]}'");
                at = close + 1;
            }
            var spec = new Spec { Align = '>' };
            for (; at < format.Length && "-+ #0".Contains(format[at]); at++)
            {
                if (format[at] == '-') spec.Align = '<';
                else if (format[at] == '0') spec.Zero = true;
                else if (format[at] == '#') spec.Alternate = true;
                else spec.Sign = format[at];
            }
            spec.Width = ReadNumber(format, ref at);
            if (at < format.Length && format[at] == '.')
            {
                at++;
                spec.Precision = (int)Math.Min(ReadNumber(format, ref at), MaxPrecision);
            }
            if (at == format.Length) throw new TemplateException("incomplete format");
            spec.Type = format[at];
            if (spec.Type == '%')
            {
                result.Append('%');
                continue;
            }
            if (named == Bound.Missing)
                named = used < positional.Length ? positional[used++]
                    : throw new TemplateException("not enough arguments for format string");
            string text = PercentValue(spec, named, i);
            i.Budget.Characters(text.Length);
            if (result.Length + text.Length > RenderBudget.MaxLength) i.Budget.Characters(RenderBudget.MaxLength + 1L);
            result.Append(text);
        }
        if (used < positional.Length && values is not (Dict or List<object?>))
            throw new TemplateException("not all arguments converted during string formatting");
        return result.ToString();
    }

    private static string PercentValue(Spec spec, object? value, Interpreter i)
    {
        switch (spec.Type)
        {
            case 's' or 'r' or 'a':
                string text = spec.Type == 's' ? Python.Str(value, i.Budget) : Python.Repr(value, i.Budget);
                return Pad(Cut(text, spec.Precision), spec.Width, ' ', spec.Align, i.Budget);
            case 'c':
                return Pad(value as string ?? Rune32(value), spec.Width, ' ', spec.Align, i.Budget);
            case 'd' or 'i' or 'u':
                if (value is double real) value = checked((long)real);
                return FormatNumber(spec with { Type = 'd', Precision = -1 }, value, i);
            case 'x' or 'X' or 'o':
                return FormatNumber(spec with { Precision = -1 }, value, i);
            case 'e' or 'E' or 'f' or 'F' or 'g' or 'G':
                return FormatNumber(spec, value, i);
            default:
                throw new TemplateException($"unsupported format character '{spec.Type}'");
        }
    }

    private static string Cut(string text, int precision) =>
        precision < 0 || precision >= Characters.Length(text) ? text : text[..Characters.Offset(text, precision)];

    private static string Rune32(object? value) =>
        Python.AsInteger(value) is long code && Rune.IsValid((int)Math.Clamp(code, -1, int.MaxValue))
        ? new Rune((int)code).ToString()
        : throw new TemplateException("%c needs a character");

    private static long ReadNumber(string text, ref int at)
    {
        long number = 0;
        for (; at < text.Length && char.IsAsciiDigit(text[at]); at++)
            number = Math.Min(number * 10 + (text[at] - '0'), int.MaxValue);
        return number;
    }

    // ---- 'text {}'.format(values) ----

    public static string Braces(string format, Arguments arguments, Interpreter i)
    {
        int automatic = 0;
        var result = new StringBuilder();
        for (int at = 0; at < format.Length; at++)
        {
            char c = format[at];
            if (c is '{' or '}' && at + 1 < format.Length && format[at + 1] == c)
            {
                result.Append(c);
                at++;
            }
            else if (c == '}')
            {
                throw new TemplateException("format: single '}' encountered");
            }
            else if (c == '{')
            {
                int close = format.AsSpan(at + 1).IndexOfAny("{}") + at + 1;
                if (close == at || format[close] == '{')
                    throw new TemplateException("format: expected '}', nested fields are not supported");
                string text = Field(format[(at + 1)..close], arguments, ref automatic, i);
                i.Budget.Characters(text.Length);
                if (result.Length + text.Length > RenderBudget.MaxLength)
                    i.Budget.Characters(RenderBudget.MaxLength + 1L);
                result.Append(text);
                at = close;
            }
            else
            {
                result.Append(c);
            }
        }
        return result.ToString();
    }

    private static string Field(string field, Arguments arguments, ref int automatic, Interpreter i)
    {
        int colon = field.IndexOf(':');
        string spec = colon < 0 ? "" : field[(colon + 1)..];
        string path = colon < 0 ? field : field[..colon];
        int bang = path.IndexOf('!');
        string conversion = bang < 0 ? "" : path[(bang + 1)..];
        if (bang >= 0) path = path[..bang];

        int end = path.AsSpan().IndexOfAny('.', '[');
        string name = end < 0 ? path : path[..end];
        object? value;
        if (name.Length == 0 || char.IsAsciiDigit(name[0]))
        {
            long index = name.Length == 0 ? automatic++ : Numbers.ParseInteger(name, 10) ?? long.MaxValue;
            if (index >= arguments.Positional.Length) throw new TemplateException("format: not enough arguments");
            value = arguments.Positional[index];
        }
        else if (arguments.Keywords is null || !arguments.Keywords.TryGetValue(name, out value))
        {
            throw new TemplateException($"format: no argument '{name}'");
        }
        while (end >= 0 && end < path.Length)
        {
            bool bracket = path[end] == '[';
            int next = bracket ? path.IndexOf(']', end) : path.AsSpan(end + 1).IndexOfAny('.', '[') + end + 1;
            if (bracket && next < 0) throw new TemplateException("format: expected ']'");
            if (!bracket && next == end) next = path.Length;
            string key = path[(end + 1)..next];
            value = bracket ? Access.Item(value, Numbers.ParseInteger(key, 10) is long n ? n : key, i.Budget)
                : Access.Attribute(value, key, i.Budget);
            end = bracket ? next + 1 : next;
        }
        value = conversion switch
        {
            "" => value,
            "s" => Python.Str(value, i.Budget),
            "r" or "a" => Python.Repr(value, i.Budget),
            _ => throw new TemplateException($"format: unknown conversion '{conversion}'"),
        };
        return Format(value, spec, i);
    }

    private static string Format(object? value, string text, Interpreter i)
    {
        if (text.Length == 0) return Python.Str(value, i.Budget);
        var spec = new Spec();
        int at = 0;
        if (text.Length > 1 && "<>^=".Contains(text[1])) (spec.Fill, spec.Align, at) = (text[0], text[1], 2);
        else if ("<>^=".Contains(text[0])) (spec.Align, at) = (text[0], 1);
        if (at < text.Length && "+- ".Contains(text[at])) spec.Sign = text[at++];
        if (at < text.Length && text[at] == '#') (spec.Alternate, at) = (true, at + 1);
        if (at < text.Length && text[at] == '0') (spec.Zero, at) = (true, at + 1);
        spec.Width = ReadNumber(text, ref at);
        if (at < text.Length && text[at] is ',' or '_') spec.Grouping = text[at++];
        if (at < text.Length && text[at] == '.')
        {
            at++;
            spec.Precision = (int)Math.Min(ReadNumber(text, ref at), MaxPrecision);
        }
        if (at < text.Length) spec.Type = text[at++];
        if (at < text.Length) throw new TemplateException($"format: invalid specifier '{text}'");
        if (value is long or double or bool && spec.Type != 's') return FormatNumber(spec, value, i);
        if (spec.Type is not ('\0' or 's') || value is not string)
            throw new TemplateException($"format: '{text}' does not fit {Python.TypeName(value)}");
        return Pad(Cut((string)value, spec.Precision), spec.Width, spec.Fill,
            spec.Align is '\0' or '=' ? '<' : spec.Align, i.Budget);
    }

    private record struct Spec()
    {
        public char Fill = ' ';
        public char Align = '\0';
        public char Sign = '-';
        public char Grouping = '\0';
        public char Type = '\0';
        public bool Alternate = false;
        public bool Zero = false;
        public long Width = 0;
        public int Precision = -1;
    }

    private static string FormatNumber(Spec spec, object? value, Interpreter i)
    {
        string digits = "";
        bool negative;
        if (value is double || spec.Type is 'e' or 'E' or 'f' or 'F' or 'g' or 'G' or '%')
        {
            if (Python.AsNumber(value) is not double number) throw Wrong(spec, value);
            negative = double.IsNegative(number);
            digits = FormatFloat(spec, Math.Abs(number));
        }
        else
        {
            if (Python.AsInteger(value) is not long number) throw Wrong(spec, value);
            negative = number < 0;
            ulong magnitude = negative ? (ulong)-(number + 1) + 1 : (ulong)number;
            digits = spec.Type switch
            {
                '\0' or 'd' or 'n' => magnitude.ToString(CultureInfo.InvariantCulture),
                'x' => (spec.Alternate ? "0x" : "") + magnitude.ToString("x"),
                'X' => (spec.Alternate ? "0X" : "") + magnitude.ToString("X"),
                'o' => (spec.Alternate ? "0o" : "") + (magnitude == 0 ? "0" : Convert.ToString((long)magnitude, 8)),
                'b' => (spec.Alternate ? "0b" : "") + magnitude.ToString("b"),
                'c' => Rune32(number),
                _ => throw Wrong(spec, value),
            };
        }
        if (spec.Grouping != '\0') digits = Group(digits, spec.Grouping);
        string sign = negative ? "-" : spec.Sign is '+' or ' ' ? spec.Sign.ToString() : "";
        if (spec.Zero && spec.Align is '\0' or '>' && spec.Fill == ' ')
            return sign + Pad(digits, spec.Width - sign.Length, '0', '>', i.Budget);
        if (spec.Align == '=')
            return sign + Pad(digits, spec.Width - sign.Length, spec.Zero ? '0' : spec.Fill, '>', i.Budget);
        return Pad(sign + digits, spec.Width, spec.Fill, spec.Align == '\0' ? '>' : spec.Align, i.Budget);
    }

    private static string FormatFloat(Spec spec, double number)
    {
        string text;
        if (!double.IsFinite(number)) text = double.IsNaN(number) ? "nan" : "inf";
        else if (spec.Type == '\0' && spec.Precision < 0) text = Numbers.Repr(number);
        else
        {
            int precision = spec.Precision < 0 ? 6 : spec.Precision;
            text = spec.Type switch
            {
                'f' or 'F' => Numbers.Fixed(number, precision),
                '%' => Numbers.Fixed(number * 100, precision) + "%",
                'e' or 'E' => Exponential(number, precision),
                _ => General(number, Math.Max(precision, 1), keepPoint: spec.Type == '\0'),
            };
        }
        return spec.Type is 'F' or 'E' or 'G' ? text.ToUpperInvariant() : text;
    }

    private static string Exponential(double number, int precision) =>
        number.ToString((precision == 0 ? "0" : "0." + new string('0', precision)) + "e+00",
            CultureInfo.InvariantCulture);

    /// <summary>C's %g: significant digits without trailing zeros, in whichever form is shorter.</summary>
    private static string General(double number, int precision, bool keepPoint)
    {
        string scientific = Exponential(number, precision - 1);
        int e = scientific.IndexOf('e');
        int exponent = int.Parse(scientific.AsSpan(e + 1), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture);
        bool plain = exponent >= -4 && exponent < precision;
        string digits = plain ? Numbers.Fixed(number, precision - 1 - exponent) : scientific[..e];
        if (digits.Contains('.')) digits = digits.TrimEnd('0').TrimEnd('.');
        if (keepPoint && plain && !digits.Contains('.')) digits += ".0";
        return plain ? digits : digits + scientific[e..];
    }

    private static string Group(string digits, char separator)
    {
        int point = digits.AsSpan().IndexOfAny('.', 'e');
        var grouped = new StringBuilder(digits);
        for (int at = (point < 0 ? digits.Length : point) - 3; at > 0; at -= 3) grouped.Insert(at, separator);
        return grouped.ToString();
    }

    private static TemplateException Wrong(Spec spec, object? value) =>
        new($"format '{spec.Type}' does not fit {Python.TypeName(value)}");
}
