using System.Buffers;
using System.Numerics;
using System.Text;
using System.Text.Json;

namespace Native.Server.Jinja;

/// <summary>JSON in (the request) and out (<c>tojson</c>, written as Python's <c>json.dumps</c> writes).</summary>
internal static class Json
{
    /// <summary>A JSON value as template values. Numbers without fraction or exponent are integers; of equal keys the
    /// last counts.</summary>
    /// <param name="element">The value.</param>
    /// <param name="budget">What reading it counts against.</param>
    /// <param name="mark">What becomes of every string and name in it; null where they stay as they are.</param>
    /// <param name="depth">How deep <paramref name="element"/> is nested.</param>
    public static object? Read(JsonElement element, RenderBudget budget, Func<string, string>? mark = null,
        int depth = 0)
    {
        Python.CheckNesting(depth);
        budget.Elements(1);
        switch (element.ValueKind)
        {
            case JsonValueKind.Object:
                var dict = new Dict();
                foreach (JsonProperty property in element.EnumerateObject())
                    dict.Set(Text(() => property.Name, mark), Read(property.Value, budget, mark, depth + 1), budget);
                return dict;
            case JsonValueKind.Array:
                var list = new List<object?>(element.GetArrayLength());
                foreach (JsonElement item in element.EnumerateArray()) list.Add(Read(item, budget, mark, depth + 1));
                return list;
            case JsonValueKind.String: return Text(element.GetString, mark);
            case JsonValueKind.Number: return Numbers.FromJson(element.GetRawText());
            case JsonValueKind.True: return true;
            case JsonValueKind.False: return false;
            default: return null;
        }
    }

    private static string Text(Func<string?> read, Func<string, string>? mark)
    {
        try
        {
            string text = read()!;
            return mark is null ? text : mark(text);
        }
        catch (InvalidOperationException)
        {
            throw new TemplateException("a JSON string holds half of a surrogate pair or invalid UTF-8");
        }
    }

    /// <summary>A value as <c>json.dumps</c> writes it by default, but in Unicode.</summary>
    public static string Write(object? value, RenderBudget budget)
    {
        var writer = new Writer(new StringBuilder(), Ascii: false, Indent: null, ", ", ": ", SortKeys: false, budget);
        writer.Append(value, 0);
        return writer.Output.ToString();
    }

    public static string Write(object? value, Bound options, RenderBudget budget)
    {
        string? indent = options[1] switch
        {
            null => null,
            string given => given,
            _ => new string(' ', (int)Math.Clamp(options.Integer(1, 0), 0, 100)),
        };
        (string item, string key) = (indent is null ? ", " : ",", ": ");
        if (options[2] is not null)
        {
            (item, key) = Access.Iterate(options[2], budget) is [string first, string second]
                ? (first, second)
                : throw new TemplateException("tojson() takes two strings as separators");
        }
        var writer = new Writer(new StringBuilder(), options.Flag(0), indent, item, key, options.Flag(3), budget);
        writer.Append(value, 0);
        return writer.Output.ToString();
    }

    private static readonly SearchValues<char> Escaped =
        SearchValues.Create([.. Enumerable.Range(0, 32).Select(code => (char)code), '"', '\\']);
    private static readonly SearchValues<char> OutsideAscii = SearchValues.Create(
        [.. Enumerable.Range(0, 32).Concat(Enumerable.Range(0x7F, 0xFF81)).Select(code => (char)code)
            .Where(c => c != Marks.Character), '"', '\\']);

    private sealed record Writer(StringBuilder Output, bool Ascii, string? Indent, string ItemSeparator,
        string KeySeparator, bool SortKeys, RenderBudget Budget)
    {
        public void Append(object? value, int depth)
        {
            Python.CheckNesting(depth);
            Budget.Elements(1);
            switch (value)
            {
                case string text: AppendString(text); break;
                case null: Output.Append("null"); break;
                case bool flag: Output.Append(flag ? "true" : "false"); break;
                case double number: Output.Append(Number(number)); break;
                case long or BigInteger: Output.Append(Python.Repr(value, Budget)); break;
                case List<object?> list: AppendArray(list, depth); break;
                case object?[] tuple: AppendArray(tuple, depth); break;
                case Group group: AppendArray([group.Grouper, group.List], depth); break;
                case Dict dict: AppendObject(dict, depth); break;
                case Undefined undefined: throw new TemplateException($"tojson: {undefined.Reason}");
                default: throw new TemplateException($"tojson can't write '{Python.TypeName(value)}'");
            }
            if (Output.Length > RenderBudget.MaxLength) Budget.Characters(Output.Length);
        }

        private static string Number(double number) =>
            double.IsFinite(number) ? Numbers.Repr(number) : double.IsNaN(number) ? "NaN" : number > 0 ? "Infinity"
                : "-Infinity";

        private void AppendArray(IReadOnlyList<object?> items, int depth)
        {
            Output.Append('[');
            for (int n = 0; n < items.Count; n++)
            {
                if (n > 0) Separate();
                NewLine(depth + 1);
                Append(items[n], depth + 1);
            }
            if (items.Count > 0) NewLine(depth);
            Output.Append(']');
        }

        private void AppendObject(Dict dict, int depth)
        {
            object?[] pairs = Methods.Items(dict, Budget);
            if (SortKeys) pairs = Python.Sort(pairs, pair => ((object?[])pair!)[0], false, Budget);
            Output.Append('{');
            for (int n = 0; n < pairs.Length; n++)
            {
                (object? key, object? item) = pairs[n] is object?[] pair ? (pair[0], pair[1]) : default;
                if (n > 0) Separate();
                NewLine(depth + 1);
                AppendString(key switch
                {
                    string text => text,
                    bool flag => flag ? "true" : "false",
                    double number => Number(number),
                    long or BigInteger => Python.Repr(key, Budget),
                    _ => throw new TemplateException(
                        $"tojson: a key must be a string or number, not {Python.TypeName(key)}"),
                });
                Output.Append(KeySeparator);
                Append(item, depth + 1);
            }
            if (pairs.Length > 0) NewLine(depth);
            Output.Append('}');
        }

        private void Separate()
        {
            Budget.Characters(ItemSeparator.Length + KeySeparator.Length);
            Output.Append(ItemSeparator);
        }

        private void NewLine(int depth)
        {
            if (Indent is null) return;
            Budget.Characters((long)Indent.Length * depth + 1);
            Output.Append('\n');
            for (int n = 0; n < depth; n++) Output.Append(Indent);
        }

        private void AppendString(string text)
        {
            Budget.Characters(text.Length);
            Output.Append('"');
            ReadOnlySpan<char> rest = text;
            for (int at; (at = rest.IndexOfAny(Ascii ? OutsideAscii : Escaped)) >= 0; rest = rest[(at + 1)..])
            {
                Budget.Characters(6); // at most what an escape takes
                Budget.Elements(1);
                char c = rest[at];
                Output.Append(rest[..at]);
                switch (c)
                {
                    case '"': Output.Append("\\\""); break;
                    case '\\': Output.Append("\\\\"); break;
                    case '\n': Output.Append("\\n"); break;
                    case '\r': Output.Append("\\r"); break;
                    case '\t': Output.Append("\\t"); break;
                    case '\b': Output.Append("\\b"); break;
                    case '\f': Output.Append("\\f"); break;
                    default: Output.Append("\\u").Append(((int)c).ToString("x4")); break;
                }
            }
            Output.Append(rest).Append('"');
        }
    }
}
