using System.Numerics;
using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;

namespace Native.Server.Jinja;

/// <summary>
/// Jinja2's filters, as far as text is made with them. <c>tojson</c> is the one of transformers: no HTML escapes,
/// Python's separators. Nothing is escaped unless a template asks for it.
/// </summary>
internal static partial class Filters
{
    public static object? Apply(Interpreter i, string name, object? value, Arguments arguments) =>
        All.TryGetValue(name, out Builtin? filter)
            ? filter.Invoke(i, value, arguments)
            : throw new TemplateException($"no filter named '{name}'");

    public static bool Exists(string name) => All.ContainsKey(name);

    private static readonly BuiltinTable All = new()
    {
        { "abs", "",
            (_, v, _) => v is double number ? Math.Abs(number)
                : (object)checked(Math.Abs(Python.AsInteger(v) ?? throw Wrong("abs", v))) },
        { "attr", "name", (_, v, a) => Access.OwnAttribute(v, a.Text(0)) },
        { "batch", "linecount fill_with?",
            (i, v, a) => new Generator(Batch(i, Access.Iterate(v, i.Budget), a.Integer(0, 0), a)) },
        { "capitalize", "", (i, v, _) => Characters.Capitalize(Read(i, v)) },
        { "center", "width?", (i, v, a) => Formatting.Pad(Read(i, v), a.Integer(0, 80), ' ', '^', i.Budget) },
        { "default", "default_value? boolean?",
            (_, v, a) => v is Undefined || (a.Flag(1) && !Python.IsTrue(v)) ? (a.Has(0) ? a[0] : "") : v },
        { "d", "default" },
        { "dictsort", "case_sensitive? by? reverse?", DictSort },
        { "escape", "", (i, v, _) => v is Markup ? v : new Markup(Markup.Escape(Read(i, v), i.Budget)) },
        { "e", "escape" },
        { "forceescape", "", (i, v, _) => new Markup(Markup.Escape(Read(i, v), i.Budget)) },
        { "first", "",
            (i, v, _) => Access.Iterate(v, i.Budget) is [var first, ..] ? first
                : new Undefined("no first item, sequence was empty") },
        { "float", "default?",
            (_, v, a) =>
                (v is string text ? Numbers.ParsePythonFloat(text) : v is Undefined ? throw Wrong("float", v)
                    : Python.AsNumber(v)) ?? (a.Has(0) ? a[0] : 0.0) },
        { "format", "*",
            (i, v, a) => Formatting.Percent(Read(i, v), a.All.Keywords is { } named ? named : a.All.Positional, i) },
        { "from_json", "", (i, v, _) => FromJson(i, Read(i, v)) },
        { "groupby", "attribute default? case_sensitive?", GroupBy },
        { "indent", "width? first? blank?", Indent },
        { "int", "default? base?",
            (_, v, a) => ToInteger(v, (int)Math.Clamp(a.Integer(1, 10), 0, 36)) ?? (a.Has(0) ? a[0] : 0L) },
        { "items", "",
            (i, v, _) =>
                new Generator(
                    v switch { Dict dict => Methods.Items(dict, i.Budget), Undefined => [],
                        _ => throw Wrong("items", v) }) },
        { "join", "d? attribute?",
            (i, v, a) => Join(i, Attributes(i, Access.Iterate(v, i.Budget), a.Has(1) ? a[1] : null),
                a.Has(0) ? Read(i, a[0]) : "") },
        { "last", "",
            (i, v, _) =>
                v is Generator
                    ? throw new TemplateException("'generator' object is not reversible; put |list before |last")
                    : Access.Iterate(v, i.Budget) is [.., var last] ? last
                    : new Undefined("no last item, sequence was empty") },
        { "length", "", (i, v, _) => Length(v, i.Budget) },
        { "count", "length" },
        { "list", "", (i, v, _) => new List<object?>(Access.Iterate(v, i.Budget)) },
        { "lower", "", (i, v, _) => Read(i, v).ToLowerInvariant() },
        { "map", "*", Map },
        { "max", "case_sensitive? attribute?", (i, v, a) => Extreme(i, v, a, ">") },
        { "min", "case_sensitive? attribute?", (i, v, a) => Extreme(i, v, a, "<") },
        { "reject", "*", (i, v, a) => Select(i, v, a.All, byAttribute: false, keep: false) },
        { "rejectattr", "*", (i, v, a) => Select(i, v, a.All, byAttribute: true, keep: false) },
        { "replace", "old new count?",
            (i, v, a) =>
                Methods.Replace(i, Read(i, v), Read(i, a[0]), Read(i, a[1]), a[2] is null ? -1 : a.Integer(2, -1)) },
        { "reverse", "", Reverse },
        { "round", "precision? method?", Round },
        { "safe", "", (i, v, _) => new Markup(Read(i, v)) },
        { "select", "*", (i, v, a) => Select(i, v, a.All, byAttribute: false, keep: true) },
        { "selectattr", "*", (i, v, a) => Select(i, v, a.All, byAttribute: true, keep: true) },
        { "slice", "slices fill_with?", Slice },
        { "sort", "reverse? case_sensitive? attribute?", (i, v, a) => new List<object?>(
            Python.Sort(Access.Iterate(v, i.Budget), SortKeys(i, a[2], a.Flag(1)), a.Flag(0), i.Budget)) },
        { "string", "", (i, v, _) => Read(i, v) },
        { "sum", "attribute? start?", Sum },
        { "title", "", (i, v, _) => Title(Walked(i, v)) },
        { "tojson", "ensure_ascii? indent? separators? sort_keys?", (i, v, a) => Json.Write(v, a, i.Budget) },
        { "trim", "chars?", (i, v, a) => Methods.Strip(i, Read(i, v), a.TextOrNone(0), left: true, right: true) },
        { "truncate", "length? killwords? end? leeway?", Truncate },
        { "unique", "case_sensitive? attribute?", Unique },
        { "upper", "", (i, v, _) => Read(i, v).ToUpperInvariant() },
        { "urlencode", "", (i, v, _) => UrlEncode(i, v) },
        { "wordcount", "", (i, v, _) => (long)Word().Count(Walked(i, v)) },
    };

    [GeneratedRegex(@"\w+")]
    private static partial Regex Word();

    /// <summary>The text form of an operand, counted because nearly every filter copies it.</summary>
    private static string Read(Interpreter i, object? value)
    {
        string text = Python.Str(value, i.Budget);
        i.Budget.Characters(text.Length);
        return text;
    }

    private static string Walked(Interpreter i, object? value)
    {
        string text = Read(i, value);
        i.Budget.Walk(text.Length);
        return text;
    }

    private static string Made(Interpreter i, string text)
    {
        i.Budget.Characters(text.Length);
        return text;
    }

    private static TemplateException Wrong(string filter, object? value) =>
        value is Undefined undefined ? undefined.Error()
            : new TemplateException($"{filter} can't be applied to '{Python.TypeName(value)}'");

    /// <summary>A word begins after a hyphen, a space or an opening bracket.</summary>
    private static string Title(string text)
    {
        var result = new StringBuilder(text.Length);
        bool begins = true;
        foreach (Rune rune in text.EnumerateRunes())
        {
            Rune cased = begins ? Rune.ToUpperInvariant(rune) : Rune.ToLowerInvariant(rune);
            if (cased.IsBmp) result.Append((char)cased.Value);
            else result.Append(cased.ToString());
            begins = rune.IsBmp && ("-({[<".Contains((char)rune.Value) || Characters.IsSpace((char)rune.Value));
        }
        return result.ToString();
    }

    private static string UrlEncode(Interpreter i, object? value)
    {
        if (value is not (Dict or List<object?> or object?[] or Generator))
            return Made(i, Uri.EscapeDataString(Walked(i, value)).Replace("%2F", "/"));
        IEnumerable<string> pairs =
            (value is Dict dict ? Methods.Items(dict, i.Budget) : Access.Iterate(value, i.Budget)).Select(
            pair => Access.Iterate(pair, i.Budget) is [var key, var item] ? $"{Quote(key)}={Quote(item)}"
                : throw new TemplateException("urlencode needs a text, a dict or pairs"));
        return Made(i, string.Join('&', pairs));

        string Quote(object? part) => Made(i, Uri.EscapeDataString(Walked(i, part)).Replace("%20", "+"));
    }

    private static object Length(object? value, RenderBudget budget)
    {
        switch (value)
        {
            case string text:
                budget.Scan(text.Length);
                return (long)Characters.Length(text);
            case List<object?> list: return (long)list.Count;
            case object?[] tuple: return (long)tuple.Length;
            case Dict dict: return (long)dict.Count;
            case Group: return 2L;
            case Undefined: return 0L;
            default: throw new TemplateException($"object of type '{Python.TypeName(value)}' has no len()");
        }
    }

    private static object? ToInteger(object? value, int radix)
    {
        if (value is string text)
        {
            if (Numbers.ParsePythonInteger(text, radix) is long parsed) return parsed;
            value = Numbers.ParsePythonFloat(text);
        }
        if (value is Undefined undefined) throw undefined.Error();
        if (value is double number) return double.IsFinite(number) ? checked((long)number) : null;
        return Python.AsInteger(value) is long integer ? integer : value is BigInteger ? value : null;
    }

    private static object? FromJson(Interpreter i, string text)
    {
        try
        {
            using var document = JsonDocument.Parse(text);
            return Json.Read(document.RootElement, i.Budget, i.Mark);
        }
        catch (JsonException e)
        {
            throw new TemplateException($"from_json: {e.Message}");
        }
    }

    // ---- attributes of elements ----

    /// <summary>An element's attribute, given as a name, an index or a path "a.b.0".</summary>
    private static object? Attribute(Interpreter i, object? item, object? path)
    {
        if (path is not string text) return Access.Item(item, path, i.Budget);
        foreach (string part in text.Split('.'))
        {
            item = Access.Item(item, Numbers.ParseInteger(part, 10) is long index ? index : part, i.Budget);
        }
        return item;
    }

    private static object?[] Attributes(Interpreter i, object?[] items, object? path) =>
        path is null ? items : [.. items.Select(item => Attribute(i, item, path))];

    private static Func<object?, object?> SortKey(Interpreter i, object? path, bool caseSensitive) => item =>
    {
        object? key = path is null ? item : Attribute(i, item, path);
        return key is string text && !caseSensitive ? Made(i, text.ToLowerInvariant()) : key;
    };

    /// <summary>The key of <c>sort</c>, which takes several attributes separated by commas.</summary>
    private static Func<object?, object?> SortKeys(Interpreter i, object? paths, bool caseSensitive)
    {
        if (paths is null) return SortKey(i, null, caseSensitive);
        Func<object?, object?>[] keys =
            [.. (paths is string text ? (object?[])text.Split(',') : [paths]).Select(
                path => SortKey(i, path, caseSensitive))];
        return item => Array.ConvertAll(keys, key => key(item));
    }

    /// <summary>Jinja2's map and select take anything false, None too, for an empty sequence.</summary>
    private static object?[] IterateIfTrue(Interpreter i, object? value) =>
        Python.IsTrue(value) ? Access.Iterate(value, i.Budget) : [];

    private static object? Map(Interpreter i, object? value, Bound a)
    {
        object?[] items = IterateIfTrue(i, value);
        (object?[] positional, Dict? keywords) = a.All;
        if (positional.Length > 0)
        {
            if (positional[0] is not string filter) throw new TemplateException("map() needs the name of a filter");
            var rest = new Arguments(positional[1..], keywords);
            return new Generator([.. items.Select(item => Counted(i, Apply(i, filter, item, rest)))]);
        }
        if (keywords is null || !keywords.TryGetValue("attribute", out object? path))
            throw new TemplateException("map() needs a filter or an attribute");
        keywords.TryGetValue("default", out object? otherwise);
        return new Generator(
            [.. items.Select(
                item => Attribute(i, item, path) is var found && found is Undefined && otherwise is not null ? otherwise
                    : found)]);
    }

    private static object? Counted(Interpreter i, object? value)
    {
        i.Budget.Elements(1);
        return value is Markup markup ? markup.Text : value;
    }

    private static Generator Select(Interpreter i, object? value, Arguments arguments, bool byAttribute, bool keep)
    {
        object?[] given = arguments.Positional;
        if (byAttribute && given.Length == 0)
            throw new TemplateException("selectattr() needs the name of an attribute");
        object? path = byAttribute ? given[0] : null;
        object?[] rest = byAttribute ? given[1..] : given;
        string? test =
            rest.Length == 0 ? null
                : rest[0] as string ?? throw new TemplateException("select() needs the name of a test");
        var testArguments = new Arguments(rest.Length == 0 ? [] : rest[1..]);
        var kept = new List<object?>();
        foreach (object? item in IterateIfTrue(i, value))
        {
            object? operand = byAttribute ? Attribute(i, item, path) : item;
            bool passed = test is null ? Python.IsTrue(operand) : Tests.Apply(i, test, operand, testArguments);
            if (passed == keep) kept.Add(item);
        }
        return new Generator([.. kept]);
    }

    private static object? GroupBy(Interpreter i, object? value, Bound a)
    {
        Func<object?, object?> key = SortKey(i, null, a.Flag(2));
        object? Grouper(object? item) =>
            Attribute(i, item, a[0]) is var found && found is Undefined && a.Has(1) ? a[1] : found;
        var groups = new List<object?>();
        foreach (object? item in Python.Sort(Access.Iterate(value, i.Budget), item => key(Grouper(item)), false,
            i.Budget))
        {
            object? grouper = Grouper(item);
            if (groups.Count > 0 && groups[^1] is Group last
                && Python.Equals(key(last.Grouper), key(grouper), i.Budget)) last.List.Add(item);
            else groups.Add(new Group(grouper, [item]));
        }
        return groups;
    }

    private static object? DictSort(Interpreter i, object? value, Bound a)
    {
        if (value is not Dict dict) throw Wrong("dictsort", value);
        string by = a.TextOrNone(1) ?? "key";
        if (by is not ("key" or "value")) throw new TemplateException("dictsort() sorts by 'key' or 'value'");
        Func<object?, object?> key = SortKey(i, by == "key" ? 0L : 1L, a.Flag(0));
        return new List<object?>(Python.Sort(Methods.Items(dict, i.Budget), key, a.Flag(2), i.Budget));
    }

    private static object? Extreme(Interpreter i, object? value, Bound a, string symbol)
    {
        object?[] items = Access.Iterate(value, i.Budget);
        if (items.Length == 0) return new Undefined("no aggregated item, sequence was empty");
        Func<object?, object?> key = SortKey(i, a[1], a.Flag(0));
        object? best = items[0];
        foreach (object? item in items.AsSpan(1))
        {
            if (Python.Compare(symbol, key(item), key(best), i.Budget)) best = item;
        }
        return best;
    }

    private static object? Unique(Interpreter i, object? value, Bound a)
    {
        Func<object?, object?> key = SortKey(i, a[1], a.Flag(0));
        var seen = new Dict();
        bool none = false; // None is no key of a dict here, but a value like any other
        var kept = new List<object?>();
        foreach (object? item in Access.Iterate(value, i.Budget))
        {
            object? k = key(item);
            i.Budget.Parts(1);
            if (k is null ? none : seen.Find(k, out _, i.Budget)) continue;
            if (k is null) none = true;
            else seen.Set(k, null, i.Budget);
            kept.Add(item);
        }
        return new Generator([.. kept]);
    }

    private static object? Sum(Interpreter i, object? value, Bound a)
    {
        object? sum = a.Has(1) ? a[1] : 0L;
        foreach (object? item in Attributes(i, Access.Iterate(value, i.Budget), a[0]))
            sum = Python.Arithmetic("+", sum, item, i);
        return sum;
    }

    // ---- sequences and text ----

    public static string Join(Interpreter i, object?[] items, string separator)
    {
        string[] parts = new string[items.Length];
        long total = 0;
        for (int n = 0; n < items.Length; n++)
        {
            parts[n] = Python.Str(items[n], i.Budget);
            total += parts[n].Length + separator.Length;
        }
        i.Budget.Characters(total);
        return string.Join(separator, parts);
    }

    private static object? Reverse(Interpreter i, object? value, Bound a)
    {
        object?[] items = [.. Access.Iterate(value, i.Budget)];
        Array.Reverse(items);
        return value switch
        {
            string => string.Concat(items),
            Generator => new List<object?>(items),
            _ => new Generator(items),
        };
    }

    private static object?[] Batch(Interpreter i, object?[] items, long size, Bound a)
    {
        if (size < 1) throw new TemplateException("batch() needs a positive count");
        var batches = new List<object?>();
        foreach (object?[] chunk in items.Chunk((int)Math.Min(size, int.MaxValue)))
        {
            var batch = new List<object?>(chunk);
            if (a[1] is not null)
            {
                i.Budget.Elements(size - batch.Count);
                while (batch.Count < size) batch.Add(a[1]);
            }
            batches.Add(batch);
        }
        return [.. batches];
    }

    private static object? Slice(Interpreter i, object? value, Bound a)
    {
        object?[] items = Access.Iterate(value, i.Budget);
        long slices = a.Integer(0, 1);
        if (slices < 1) throw new TemplateException("slice() needs a positive count");
        i.Budget.Elements(slices);
        var result = new List<object?>();
        int offset = 0;
        for (long n = 0; n < slices; n++)
        {
            int count = (int)(items.Length / slices + (n < items.Length % slices ? 1 : 0));
            var slice = new List<object?>(items[offset..(offset + count)]);
            offset += count;
            if (a[1] is not null && n >= items.Length % slices) slice.Add(a[1]);
            result.Add(slice);
        }
        return new Generator([.. result]);
    }

    private static object? Indent(Interpreter i, object? value, Bound a)
    {
        string indention = a[0] is string given ? given : new string(' ', (int)Math.Clamp(a.Integer(0, 4), 0, 1000));
        bool blank = a.Flag(2);
        if (value is not string text) throw Wrong("indent", value);
        object?[] lines = Methods.SplitLines(i, Made(i, text) + "\n", keepEnds: false);
        i.Budget.Characters((long)lines.Length * (indention.Length + 1));
        IEnumerable<string> indented =
            lines.Cast<string>().Select(
                (line, n) => (n > 0 && (blank || line.Length > 0)) || (n == 0 && a.Flag(1)) ? indention + line : line);
        return Made(i, string.Join('\n', indented));
    }

    private static object? Truncate(Interpreter i, object? value, Bound a)
    {
        string end = a.TextOrNone(2) ?? "...";
        long length = a.Integer(0, 255);
        if (value is not string text)
            return Length(value, i.Budget) is long count && count <= length + a.Integer(3, 5) ? value
                : throw Wrong("truncate", value);
        i.Budget.Characters(text.Length);
        if (length < Characters.Length(end))
            throw new TemplateException("truncate() needs a length of at least its end's");
        if (Characters.Length(text) <= length + a.Integer(3, 5)) return text;
        string cut = text[..Characters.Offset(text, (int)length - Characters.Length(end))];
        int space = a.Flag(1) ? -1 : cut.LastIndexOf(' ');
        return (space < 0 ? cut : cut[..space]) + end;
    }

    /// <summary>An integer rounded to tens, hundreds and so on; ties to even.</summary>
    private static long RoundInteger(long value, long zeros)
    {
        if (zeros > 18) return 0;
        Int128 unit = (Int128)BigInteger.Pow(10, (int)zeros);
        Int128 rest = ((value % unit) + unit) % unit;
        Int128 down = value - rest;
        bool up = rest * 2 > unit || (rest * 2 == unit && down / unit % 2 != 0);
        return checked((long)(up ? down + unit : down));
    }

    private static object? Round(Interpreter i, object? value, Bound a)
    {
        if (Python.AsNumber(value) is not double number) throw Wrong("round", value);
        long precision = a.Integer(0, 0);
        if (Math.Abs(precision) > 300) throw new TemplateException("round() takes a precision of at most 300 digits");
        if (!double.IsFinite(number)) return number;
        double scale = Math.Pow(10, precision);
        return (a.TextOrNone(1) ?? "common") switch
        {
            "ceil" => (Math.Ceiling(number * scale) + 0.0) / scale, // no negative zero
            "floor" => (Math.Floor(number * scale) + 0.0) / scale,
            // it stays one
            "common" when Python.AsInteger(value) is long integer =>
                precision >= 0 ? integer : RoundInteger(integer, -precision),
            "common" when value is not double => value,
            "common" when precision < 0 => Math.Round(number * scale, MidpointRounding.ToEven) / scale,
            "common" => double.Parse(Numbers.Fixed(number, (int)precision),
                System.Globalization.CultureInfo.InvariantCulture),
            _ => throw new TemplateException("round() rounds by 'common', 'ceil' or 'floor'"),
        };
    }
}
