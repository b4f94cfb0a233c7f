using System.Globalization;
using System.Numerics;
using System.Text;

namespace Native.Server.Jinja;

/// <summary>Python's operators, truth and text forms on template values.</summary>
internal static class Python
{
    /// <summary>How deep equality, order and printing follow nested values; a document's nesting stops at 64.</summary>
    public const int MaxNesting = 256;

    public static string TypeName(object? value) => value switch
    {
        null => "NoneType",
        bool => "bool",
        long or BigInteger => "int",
        double => "float",
        string => "str",
        List<object?> => "list",
        object?[] or Group => "tuple",
        Dict => "dict",
        Jinja.Undefined => "Undefined",
        Generator => "generator",
        Jinja.Namespace => "Namespace",
        Loop => "LoopContext",
        Macro => "Macro",
        _ => "function",
    };

    public static bool IsTrue(object? value) => value switch
    {
        null or Jinja.Undefined => false,
        bool flag => flag,
        long number => number != 0,
        double number => number != 0,
        string text => text.Length > 0,
        Markup markup => markup.Text.Length > 0,
        List<object?> list => list.Count > 0,
        object?[] tuple => tuple.Length > 0,
        Dict dict => dict.Count > 0,
        _ => true,
    };

    // ---- text ----

    public static string Str(object? value, RenderBudget? budget) => value switch
    {
        string text => text,
        Markup markup => markup.Text,
        Jinja.Undefined => "",
        _ => Repr(value, budget),
    };

    public static string Repr(object? value, RenderBudget? budget)
    {
        switch (value)
        {
            case null: return "None";
            case bool flag: return flag ? "True" : "False";
            case long number: return number.ToString(CultureInfo.InvariantCulture);
            case double number: return Numbers.Repr(number);
        }
        var builder = new StringBuilder();
        AppendRepr(builder, value, budget, 0);
        return builder.ToString();
    }

    private static void AppendRepr(StringBuilder builder, object? value, RenderBudget? budget, int depth)
    {
        CheckNesting(depth);
        budget?.Elements(1);
        switch (value)
        {
            case string text:
                budget?.Characters(text.Length);
                budget?.Walk(text.Length);
                int start = builder.Length;
                AppendQuoted(builder, text);
                budget?.Characters(builder.Length - start - text.Length); // what escapes added
                break;
            case List<object?> list:
                AppendItems(builder, '[', list, ']', budget, depth);
                break;
            case object?[] tuple:
                AppendItems(builder, '(', tuple, ')', budget, depth);
                if (tuple.Length == 1) builder.Insert(builder.Length - 1, ',');
                break;
            case Group group:
                AppendItems(builder, '(', [group.Grouper, group.List], ')', budget, depth);
                break;
            case Dict dict:
                builder.Append('{');
                for (int n = 0; n < dict.Count; n++)
                {
                    if (n > 0) builder.Append(", ");
                    AppendRepr(builder, dict.GetAt(n).Key, budget, depth + 1);
                    builder.Append(": ");
                    AppendRepr(builder, dict.GetAt(n).Value, budget, depth + 1);
                }
                builder.Append('}');
                break;
            case BigInteger number: builder.Append(number.ToString(CultureInfo.InvariantCulture)); break;
            case Jinja.Undefined: builder.Append("Undefined"); break;
            case Callable callable: builder.Append($"<{TypeName(callable)} '{callable.Name}'>"); break;
            case Generator or Jinja.Namespace: builder.Append($"<{TypeName(value)}>"); break;
            default: builder.Append(Repr(value, budget)); break;
        }
    }

    private static void AppendItems(StringBuilder builder, char open, IReadOnlyList<object?> items, char close,
        RenderBudget? budget, int depth)
    {
        builder.Append(open);
        for (int n = 0; n < items.Count; n++)
        {
            if (n > 0) builder.Append(", ");
            AppendRepr(builder, items[n], budget, depth + 1);
        }
        builder.Append(close);
    }

    private static void AppendQuoted(StringBuilder builder, string text)
    {
        char quote = text.Contains('\'') && !text.Contains('"') ? '"' : '\'';
        builder.Append(quote);
        foreach (Rune rune in text.EnumerateRunes())
        {
            int code = rune.Value;
            if (code == quote || code == '\\') builder.Append('\\').Append((char)code);
            else if (code == '\n') builder.Append("\\n");
            else if (code == '\r') builder.Append("\\r");
            else if (code == '\t') builder.Append("\\t");
            else if (Characters.IsPrintable(rune) || code == Marks.Character) builder.Append(rune.ToString());
            else if (code <= 0xFF) builder.Append("\\x").Append(code.ToString("x2"));
            else if (code <= 0xFFFF) builder.Append("\\u").Append(code.ToString("x4"));
            else builder.Append("\\U").Append(code.ToString("x8"));
        }
        builder.Append(quote);
    }

    public static void CheckNesting(int depth)
    {
        if (depth > MaxNesting) throw new TemplateException($"a value nests deeper than {MaxNesting} levels");
    }

    // ---- equality and order ----

    /// <summary>bool and int as a long; null for anything else.</summary>
    public static long? AsInteger(object? value) => value switch
    {
        long number => number,
        bool flag => flag ? 1 : 0,
        _ => null,
    };

    public static double? AsNumber(object? value) => value switch
    {
        double number => number,
        BigInteger number => (double)number,
        _ => AsInteger(value),
    };

    public static bool Equals(object? a, object? b, RenderBudget? budget, int depth = 0)
    {
        CheckNesting(depth);
        budget?.Elements(1);
        if (AsInteger(a) is long x && AsInteger(b) is long y) return x == y;
        if (a is BigInteger big && b is BigInteger other) return big == other;
        if (AsNumber(a) is double p && AsNumber(b) is double q) return p == q;
        switch (a, b)
        {
            case (string left, string right):
                budget?.Scan(Math.Min(left.Length, right.Length));
                return left == right || (left.Length != right.Length && Marks.Without(left) == Marks.Without(right));
            case (Jinja.Undefined, Jinja.Undefined): return true;
            case (List<object?> left, List<object?> right): return SequenceEquals(left, right, budget, depth);
            case (object?[] left, object?[] right): return SequenceEquals(left, right, budget, depth);
            case (Dict left, Dict right):
                if (left.Count != right.Count) return false;
                foreach ((object key, object? value) in left)
                {
                    if (!right.TryGetValue(key, out object? match) || !Equals(value, match, budget, depth + 1))
                        return false;
                }
                return true;
            default: return ReferenceEquals(a, b);
        }
    }

    private static bool SequenceEquals(IReadOnlyList<object?> left, IReadOnlyList<object?> right, RenderBudget? budget,
        int depth)
    {
        if (left.Count != right.Count) return false;
        for (int n = 0; n < left.Count; n++)
        {
            if (!Equals(left[n], right[n], budget, depth + 1)) return false;
        }
        return true;
    }

    /// <summary>Equality of dict keys.</summary>
    public static bool KeyEquals(object? a, object? b) => Equals(a, b, null);

    /// <summary>Whether a value can be a dict's key: a string, a number or a short tuple of them, so that a lookup
    /// costs no more than it looks.</summary>
    public static bool IsKey(object? value) => value is string or bool or long or double or BigInteger ||
        (value is object?[] { Length: <= 16 } tuple
            && tuple.All(item => item is null or string or bool or long or double or BigInteger));

    public static int KeyHash(object? key) => key switch
    {
        null => 0,
        string text => string.GetHashCode(text),
        object?[] tuple => tuple.Aggregate(tuple.Length, (hash, item) => HashCode.Combine(hash, KeyHash(item))),
        _ => AsNumber(key)!.Value.GetHashCode(),
    };

    public static bool Compare(string symbol, object? a, object? b, RenderBudget budget) => symbol switch
    {
        "==" => Equals(a, b, budget),
        "!=" => !Equals(a, b, budget),
        "in" => Contains(b, a, budget),
        "not in" => !Contains(b, a, budget),
        "<" => Order(a, b, symbol, budget) < 0,
        "<=" => Order(a, b, symbol, budget) <= 0,
        ">" => Order(a, b, symbol, budget) > 0,
        _ => Order(a, b, symbol, budget) >= 0,
    };

    /// <summary>Order of numbers, strings, lists and tuples; NaN is below and above nothing, so it comes back as
    /// null.</summary>
    public static int? Order(object? a, object? b, string symbol, RenderBudget budget, int depth = 0)
    {
        CheckNesting(depth);
        budget.Elements(1);
        if (AsInteger(a) is long x && AsInteger(b) is long y) return x.CompareTo(y);
        if (AsNumber(a) is double p && AsNumber(b) is double q)
            return double.IsNaN(p) || double.IsNaN(q) ? null : p.CompareTo(q);
        switch (a, b)
        {
            case (string left, string right):
                budget.Scan(Math.Min(left.Length, right.Length));
                return Characters.Compare(left, right);
            case (List<object?> left, List<object?> right): return SequenceOrder(left, right, symbol, budget, depth);
            case (object?[] left, object?[] right): return SequenceOrder(left, right, symbol, budget, depth);
            case (Jinja.Undefined left, _): throw left.Error();
            case (_, Jinja.Undefined right): throw right.Error();
            default: throw Unsupported(symbol, a, b, "not supported between instances of");
        }
    }

    private static int? SequenceOrder(IReadOnlyList<object?> left, IReadOnlyList<object?> right, string symbol,
        RenderBudget budget, int depth)
    {
        for (int n = 0; n < left.Count && n < right.Count; n++)
        {
            if (!Equals(left[n], right[n], budget, depth + 1))
                return Order(left[n], right[n], symbol, budget, depth + 1);
        }
        return left.Count.CompareTo(right.Count);
    }

    /// <summary>A stable sort by keys.</summary>
    public static object?[] Sort(object?[] items, Func<object?, object?> key, bool descending, RenderBudget budget)
    {
        var comparer = Comparer<object?>.Create((a, b) => Order(a, b, "<", budget) ?? 0);
        try
        {
            return descending ? [.. items.OrderByDescending(key, comparer)] : [.. items.OrderBy(key, comparer)];
        }
        catch (InvalidOperationException e) when (e.InnerException is TemplateException inner)
        {
            throw new TemplateException(inner.Message); // the sort wraps what a comparison throws
        }
    }

    public static bool Contains(object? container, object? value, RenderBudget budget)
    {
        switch (container)
        {
            case string text:
                if (value is not string part)
                    throw new TemplateException(
                        $"'in <string>' requires string as left operand, not {TypeName(value)}");
                budget.Search(text, part);
                return Marks.Without(text).Contains(Marks.Without(part), StringComparison.Ordinal);
            case Dict dict:
                if (value is List<object?> or Dict)
                    throw new TemplateException($"unhashable type: '{TypeName(value)}'");
                return dict.Find(value, out _, budget);
            case null or bool or long or double or BigInteger or Callable:
                throw new TemplateException($"argument of type '{TypeName(container)}' is not iterable");
            default:
                foreach (object? item in Access.Iterate(container, budget))
                {
                    if (Equals(item, value, budget)) return true;
                }
                return false;
        }
    }

    // ---- arithmetic ----

    public static object? Sign(object? value, bool negative) => value switch
    {
        double number => negative ? -number : number,
        _ when AsInteger(value) is long number => (object)(negative ? checked(-number) : number),
        Jinja.Undefined undefined => throw undefined.Error(),
        _ => throw new TemplateException($"bad operand type for unary {(negative ? '-' : '+')}: '{TypeName(value)}'"),
    };

    public static object? Arithmetic(string symbol, object? a, object? b, Interpreter i)
    {
        if (AsInteger(a) is long x && AsInteger(b) is long y) return Integers(symbol, x, y);
        if (AsNumber(a) is double p && AsNumber(b) is double q) return Floats(symbol, p, q);
        if (a is Markup || b is Markup)
        {
            if (symbol == "+" && a is Markup or string && b is Markup or string)
                return new Markup(
                    (string)Arithmetic("+", Markup.Joinable(a, i.Budget), Markup.Joinable(b, i.Budget), i)!);
            return Arithmetic(symbol, a is Markup left ? left.Text : a, b is Markup right ? right.Text : b, i);
        }
        switch (symbol, a, b)
        {
            case ("+", string left, string right):
                i.Budget.Characters((long)left.Length + right.Length);
                return left + right;
            case ("+", List<object?> left, List<object?> right):
                i.Budget.Elements((long)left.Count + right.Count);
                return new List<object?>([.. left, .. right]);
            case ("+", object?[] left, object?[] right):
                i.Budget.Elements((long)left.Length + right.Length);
                return (object?[])[.. left, .. right];
            case ("%", string format, _):
                return Formatting.Percent(format, b, i);
            case ("*", _, _) when AsInteger(b) is long times && a is string or List<object?> or object[]:
                return Repeat(a, times, i.Budget);
            case ("*", _, string or List<object?> or object[]) when AsInteger(a) is long times:
                return Repeat(b, times, i.Budget);
            case (_, Jinja.Undefined left, _): throw left.Error();
            case (_, _, Jinja.Undefined right): throw right.Error();
            case ("+", string, _):
                throw new TemplateException($"can only concatenate str (not \"{TypeName(b)}\") to str");
            default: throw Unsupported(symbol, a, b, "unsupported operand types:");
        }
    }

    private static TemplateException Unsupported(string symbol, object? a, object? b, string what) =>
        new($"'{symbol}' {what} '{TypeName(a)}' and '{TypeName(b)}'");

    private static object Integers(string symbol, long x, long y)
    {
        if (y == 0 && symbol is "/" or "//" or "%") throw new TemplateException("division by zero");
        checked
        {
            switch (symbol)
            {
                case "+": return x + y;
                case "-": return x - y;
                case "*": return x * y;
                case "/": return (double)x / y;
                case "//": return x / y - (x % y != 0 && (x < 0) != (y < 0) ? 1 : 0);
                case "%":
                    return y == -1 ? 0L : x % y is var rest && rest != 0 && (rest < 0) != (y < 0) ? rest + y
                    : rest;
            }
        }
        if (y < 0) return Floats(symbol, x, y);
        BigInteger power =
            Math.Abs((double)x) <= 1 ? BigInteger.Pow(x, (int)(y % 2 + (y > 1 ? 2 : 0)))
                : y < 64 ? BigInteger.Pow(x, (int)y) : long.MaxValue + BigInteger.One;
        return (long)power; // OverflowException when it needs more than 64 bits
    }

    private static object Floats(string symbol, double p, double q)
    {
        if (q == 0 && symbol is "/" or "//" or "%") throw new TemplateException("division by zero");
        switch (symbol)
        {
            case "+": return p + q;
            case "-": return p - q;
            case "*": return p * q;
            case "/": return p / q;
            case "//": return Math.Floor(p / q);
            case "%":
                return p % q is var rest && rest == 0 ? Math.CopySign(0, q) : (rest < 0) != (q < 0) ? rest + q
                : rest;
        }
        double power = Math.Pow(p, q);
        bool overflows = double.IsInfinity(power) && double.IsFinite(p) && double.IsFinite(q);
        if (overflows || (double.IsNaN(power) && !double.IsNaN(p) && !double.IsNaN(q)))
            throw new TemplateException($"{Numbers.Repr(p)} can't be raised to {Numbers.Repr(q)}");
        return power;
    }

    private static object Repeat(object? value, long times, RenderBudget budget)
    {
        times = Math.Clamp(times, 0, int.MaxValue);
        switch (value)
        {
            case string text:
                budget.Characters(text.Length * times);
                return new StringBuilder().Insert(0, text, (int)(text.Length == 0 ? 0 : times)).ToString();
            case List<object?> list:
                return new List<object?>(Repeated(list, times, budget));
            default:
                return Repeated((object?[])value!, times, budget);
        }
    }

    private static object?[] Repeated(IReadOnlyList<object?> items, long times, RenderBudget budget)
    {
        budget.Elements(items.Count * times);
        var repeated = new object?[items.Count * times];
        for (int n = 0; n < repeated.Length; n++) repeated[n] = items[n % items.Count];
        return repeated;
    }
}
