using System.Globalization;
using System.Text;

namespace Native.Server.Jinja;

/// <summary>The methods of Python's str, list, tuple and dict that templates call.</summary>
/// <remarks>
/// transformers renders with an immutable sandbox, where <c>append</c>, <c>pop</c> and <c>update</c> are refused;
/// templates of the Kimi K2 family need them all the same, and here every value is this rendering's own copy, so they
/// are allowed.
/// </remarks>
internal static class Methods
{
    public static Builtin? Find(object? value, string name) => (value switch
    {
        string => Text,
        List<object?> => List,
        object?[] => Tuple,
        Dict => Mapping,
        _ => null,
    })?.GetValueOrDefault(name);

    private static readonly BuiltinTable Text = new()
    {
        { "capitalize", "", (i, v, _) => Characters.Capitalize(Read(i, v)) },
        { "casefold", "", (i, v, _) => Read(i, v).ToLowerInvariant() },
        { "center", "width fillchar?", (i, v, a) => Pad(i, v, a, '^') },
        { "count", "sub start? end?",
            (i, v, a) => Window(i, v, a, out _) is string text ? Count(text, a.Text(0)) : 0L },
        { "endswith", "suffix start? end?",
            (i, v, a) => Window(i, v, a, out _) is string text
                && Affixes(a).Any(x => Marks.Without(text).EndsWith(x, StringComparison.Ordinal)) },
        { "startswith", "prefix start? end?",
            (i, v, a) => Window(i, v, a, out _) is string text
                && Affixes(a).Any(x => Marks.Without(text).StartsWith(x, StringComparison.Ordinal)) },
        { "find", "sub start? end?", (i, v, a) => Find(i, v, a, last: false) },
        { "rfind", "sub start? end?", (i, v, a) => Find(i, v, a, last: true) },
        { "index", "sub start? end?",
            (i, v, a) => Find(i, v, a, last: false) is >= 0 and var index ? index
                : throw new TemplateException("substring not found") },
        { "rindex", "sub start? end?",
            (i, v, a) => Find(i, v, a, last: true) is >= 0 and var index ? index
                : throw new TemplateException("substring not found") },
        { "format", "*", (i, v, a) => Formatting.Braces(Read(i, v), a.All, i) },
        { "isalnum", "", (i, v, _) => All(i, v, rune => Rune.IsLetterOrDigit(rune)) },
        { "isalpha", "", (i, v, _) => All(i, v, Rune.IsLetter) },
        { "isascii", "", (i, v, _) => Ascii.IsValid(Read(i, v)) },
        { "isdecimal", "", (i, v, _) => All(i, v, Rune.IsDigit) },
        { "isdigit", "", (i, v, _) => All(i, v, Rune.IsDigit) },
        { "isnumeric", "", (i, v, _) => All(i, v, Rune.IsNumber) },
        { "isprintable", "", (i, v, _) => Walked(i, v).EnumerateRunes().All(Characters.IsPrintable) },
        { "isspace", "", (i, v, _) => All(i, v, rune => rune.IsBmp && Characters.IsSpace((char)rune.Value)) },
        { "islower", "", (i, v, _) => IsCased(i, (string)v!, upper: false) },
        { "isupper", "", (i, v, _) => IsCased(i, (string)v!, upper: true) },
        { "join", "iterable", (i, v, a) => Join(i, (string)v!, Access.Iterate(a[0], i.Budget)) },
        { "ljust", "width fillchar?", (i, v, a) => Pad(i, v, a, '<') },
        { "rjust", "width fillchar?", (i, v, a) => Pad(i, v, a, '>') },
        { "lower", "", (i, v, _) => Read(i, v).ToLowerInvariant() },
        { "upper", "", (i, v, _) => Read(i, v).ToUpperInvariant() },
        { "swapcase", "",
            (i, v, _) =>
                string.Concat(
                    Walked(i, v).Select(c => char.IsUpper(c) ? char.ToLowerInvariant(c) : char.ToUpperInvariant(c))) },
        { "strip", "chars?", (i, v, a) => Strip(i, Read(i, v), a.TextOrNone(0), left: true, right: true) },
        { "lstrip", "chars?", (i, v, a) => Strip(i, Read(i, v), a.TextOrNone(0), left: true, right: false) },
        { "rstrip", "chars?", (i, v, a) => Strip(i, Read(i, v), a.TextOrNone(0), left: false, right: true) },
        { "partition", "sep", (i, v, a) => Partition(i, (string)v!, a.Text(0), last: false) },
        { "rpartition", "sep", (i, v, a) => Partition(i, (string)v!, a.Text(0), last: true) },
        { "removeprefix", "prefix", (i, v, a) => RemoveAffix(Read(i, v), Marks.Without(a.Text(0)), atEnd: false) },
        { "removesuffix", "suffix", (i, v, a) => RemoveAffix(Read(i, v), Marks.Without(a.Text(0)), atEnd: true) },
        { "replace", "old new count?", (i, v, a) => Replace(i, Read(i, v), a.Text(0), a.Text(1), a.Integer(2, -1)) },
        { "split", "sep? maxsplit?", (i, v, a) => Split(i, Read(i, v), a, fromRight: false) },
        { "rsplit", "sep? maxsplit?", (i, v, a) => Split(i, Read(i, v), a, fromRight: true) },
        { "splitlines", "keepends?", (i, v, a) => new List<object?>(SplitLines(i, Read(i, v), a.Flag(0))) },
        { "title", "", (i, v, _) => Title(Walked(i, v)) },
        { "zfill", "width", (i, v, a) => Read(i, v) is var text && text is ['+' or '-', ..]
            ? text[0] + Formatting.Pad(text[1..], a.Integer(0, 0) - 1, '0', '>', i.Budget)
            : Formatting.Pad(text, a.Integer(0, 0), '0', '>', i.Budget) },
    };

    private static readonly BuiltinTable List = new()
    {
        { "append", "object", (i, v, a) => Grow(i, v, [a[0]]) },
        { "copy", "", (i, v, _) => new List<object?>(Access.Iterate(v, i.Budget)) },
        { "count", "value",
            (i, v, a) => (long)Access.Iterate(v, i.Budget).Count(item => Python.Equals(item, a[0], i.Budget)) },
        { "extend", "iterable", (i, v, a) => Grow(i, v, Access.Iterate(a[0], i.Budget)) },
        { "index", "value", IndexOf },
        { "insert", "index object", (i, v, a) => Insert(i, (List<object?>)v!, a.Integer(0, 0), a[1]) },
        { "pop", "index?", (i, v, a) => Pop(i, (List<object?>)v!, a.Integer(0, -1)) },
    };

    private static readonly BuiltinTable Tuple = new()
    {
        { "count", "value",
            (i, v, a) => (long)Access.Iterate(v, i.Budget).Count(item => Python.Equals(item, a[0], i.Budget)) },
        { "index", "value", IndexOf },
    };

    private static readonly BuiltinTable Mapping = new()
    {
        { "copy", "", (i, v, _) => Update(i, new Dict(), v, null) },
        { "get", "key default?", (i, v, a) => ((Dict)v!).Find(a[0], out object? found, i.Budget) ? found : a[1] },
        { "items", "", (i, v, _) => new List<object?>(Items((Dict)v!, i.Budget)) },
        { "keys", "", (i, v, _) => new List<object?>(Access.Iterate(v, i.Budget)) },
        { "pop", "key default?", (i, v, a) => Pop(i, (Dict)v!, a) },
        { "setdefault", "key default?", (i, v, a) => SetDefault(i, (Dict)v!, a[0], a[1]) },
        { "update", "*", (i, v, a) =>
            {
                Update(i, (Dict)v!, a.All.Positional.FirstOrDefault(), a.All.Keywords);
                return null;
            }
        },
        { "values", "", (i, v, _) => new List<object?>(Values((Dict)v!, i.Budget)) },
    };

    private static string Read(Interpreter i, object? value)
    {
        string text = (string)value!;
        i.Budget.Characters(text.Length);
        return text;
    }

    private static string Walked(Interpreter i, object? value)
    {
        i.Budget.Walk(((string)value!).Length);
        return Read(i, value);
    }

    // ---- str ----

    private static bool All(Interpreter i, object? value, Func<Rune, bool> holds)
    {
        string text = Read(i, value);
        i.Budget.Walk(text.Length);
        foreach (Rune rune in text.EnumerateRunes())
        {
            if (!holds(rune)) return false;
        }
        return text.Length > 0;
    }

    /// <summary>Python's <c>isupper</c> and <c>islower</c>: some letter has a case, and none the other one.</summary>
    public static bool IsCased(Interpreter i, string text, bool upper)
    {
        i.Budget.Walk(text.Length);
        bool some = false;
        foreach (Rune rune in text.EnumerateRunes())
        {
            if (upper ? Rune.IsLower(rune) : Rune.IsUpper(rune)) return false;
            some |= upper ? Rune.IsUpper(rune) : Rune.IsLower(rune);
        }
        return some;
    }

    public static string Strip(Interpreter i, string text, string? chars, bool left, bool right)
    {
        Func<Rune, bool> strips = rune => rune.IsBmp && Characters.IsSpace((char)rune.Value);
        if (chars is not null)
        {
            i.Budget.Characters(chars.Length);
            HashSet<Rune> set = [.. chars.EnumerateRunes()];
            strips = set.Contains;
        }
        Searched searched = new(text);
        ReadOnlySpan<char> rest = searched.Plain;
        while (left && !rest.IsEmpty
            && Rune.DecodeFromUtf16(rest, out Rune rune, out int used) == System.Buffers.OperationStatus.Done
            && strips(rune)) rest = rest[used..];
        int start = searched.Length - rest.Length;
        while (right && !rest.IsEmpty
            && Rune.DecodeLastFromUtf16(rest, out Rune rune, out int used) == System.Buffers.OperationStatus.Done
            && strips(rune)) rest = rest[..^used];
        i.Budget.Walk(searched.Length - rest.Length);
        return rest.Length == searched.Length ? text : searched[start..(start + rest.Length)];
    }

    private static string Pad(Interpreter i, object? value, Bound a, char side)
    {
        string fill = a.TextOrNone(1) ?? " ";
        if (fill.Length != 1) throw new TemplateException("the fill character must be exactly one character");
        return Formatting.Pad(Read(i, value), a.Integer(0, 0), fill[0], side, i.Budget);
    }

    /// <summary>The part of the text that a search's start and end select; null when they cross.</summary>
    private static string? Window(Interpreter i, object? value, Bound a, out int offset)
    {
        offset = 0;
        string text = Read(i, value);
        if (!a.Has(1) && !a.Has(2)) return text;
        int length = Characters.Length(text);
        long start = a[1] is null ? 0 : a.Integer(1, 0), end = a[2] is null ? length : a.Integer(2, 0);
        if (start < 0) start = Math.Max(0, start + length);
        if (end < 0) end += length;
        end = Math.Min(end, length);
        if (start > end) return null;
        offset = Characters.Offset(text, (int)start);
        return text[offset..Characters.Offset(text, (int)end)];
    }

    private static long Find(Interpreter i, object? value, Bound a, bool last)
    {
        string part = Marks.Without(a.Text(0));
        if (Window(i, value, a, out int offset) is not { } window) return -1;
        string text = Marks.Without(window), before = Marks.Without(((string)value!)[..offset]);
        i.Budget.Search(text, part);
        int found = last ? text.LastIndexOf(part, StringComparison.Ordinal)
            : text.IndexOf(part, StringComparison.Ordinal);
        return found < 0 ? -1 : Characters.Length(before) + Characters.Index(text, found);
    }

    private static string[] Affixes(Bound a) => a[0] is object?[] several
        ? [.. several.Select(
            item => Marks.Without(
                item as string ?? throw new TemplateException("a tuple of prefixes or suffixes must hold strings")))]
        : [Marks.Without(a.Text(0))];

    private static string RemoveAffix(string text, string affix, bool atEnd)
    {
        Searched searched = new(text);
        if (atEnd) return searched.Plain.EndsWith(affix, StringComparison.Ordinal) ? searched[..^affix.Length] : text;
        return searched.Plain.StartsWith(affix, StringComparison.Ordinal) ? searched[affix.Length..] : text;
    }

    private static object Count(string text, string part)
    {
        (text, part) = (Marks.Without(text), Marks.Without(part));
        if (part.Length == 0) return (long)Characters.Length(text) + 1;
        long count = 0;
        for (int at = text.IndexOf(part, StringComparison.Ordinal); at >= 0; at =
            text.IndexOf(part, at + part.Length, StringComparison.Ordinal)) count++;
        return count;
    }

    public static string Replace(Interpreter i, string text, string old, string with, long count)
    {
        i.Budget.Search(text, old);
        if (count == 0) return text;
        if (old.Length == 0) return Interleave(i, text, with, count);
        Searched searched = new(text);
        old = Marks.Without(old);
        var result = new StringBuilder();
        int from = 0;
        for (int at; count != 0 && (at = searched.Plain.IndexOf(old, from, StringComparison.Ordinal)) >= 0; count--)
        {
            i.Budget.Characters(with.Length);
            if (result.Length + with.Length > RenderBudget.MaxLength) i.Budget.Characters(RenderBudget.MaxLength + 1L);
            result.Append(searched[from..at]).Append(with);
            from = at + old.Length;
        }
        return result.Append(searched[from..]).ToString();
    }

    /// <summary>An empty pattern is found before every character and at the end.</summary>
    private static string Interleave(Interpreter i, string text, string with, long count)
    {
        i.Budget.Characters(text.Length + (text.Length + 1L) * with.Length);
        var result = new StringBuilder();
        if (count < 0) count = long.MaxValue;
        foreach (object? character in Characters.Split(text)) result.Append(count-- > 0 ? with : "").Append(character);
        return result.Append(count > 0 ? with : "").ToString();
    }

    private static object? Join(Interpreter i, string separator, object?[] items)
    {
        int wrong = Array.FindIndex(items, item => item is not string);
        if (wrong >= 0)
            throw new TemplateException($"join(): item {wrong} is {Python.TypeName(items[wrong])}, not a string");
        return Filters.Join(i, items, separator);
    }

    private static object? Partition(Interpreter i, string text, string separator, bool last)
    {
        if (separator.Length == 0) throw new TemplateException("empty separator");
        i.Budget.Characters(text.Length);
        i.Budget.Search(text, separator);
        Searched searched = new(text);
        string sought = Marks.Without(separator);
        int at = last ? searched.Plain.LastIndexOf(sought, StringComparison.Ordinal)
            : searched.Plain.IndexOf(sought, StringComparison.Ordinal);
        if (at < 0) return (object?[])(last ? ["", "", text] : [text, "", ""]);
        return (object?[])[searched[..at], separator, searched[(at + sought.Length)..]];
    }

    private static object? Split(Interpreter i, string text, Bound a, bool fromRight)
    {
        long limit = a.Integer(1, -1);
        if (limit < 0) limit = long.MaxValue;
        string? separator = a.TextOrNone(0);
        if (separator is "") throw new TemplateException("empty separator");
        if (separator is not null) i.Budget.Search(text, separator);
        List<object?> parts = separator is null
            ? (fromRight ? WordsFromRight(i, text, limit) : Words(i, text, limit))
            : (fromRight ? PartsFromRight(i, new Searched(text), Marks.Without(separator), limit)
                : Parts(i, new Searched(text), Marks.Without(separator), limit));
        return parts;
    }

    private static List<object?> Parts(Interpreter i, Searched text, string separator, long limit)
    {
        var parts = new List<object?>();
        int from = 0;
        for (int at; parts.Count < limit
            && (at = text.Plain.IndexOf(separator, from, StringComparison.Ordinal)) >= 0; from = at + separator.Length)
        {
            i.Budget.Parts(1);
            parts.Add(text[from..at]);
        }
        parts.Add(text[from..]);
        return parts;
    }

    private static List<object?> PartsFromRight(Interpreter i, Searched text, string separator, long limit)
    {
        var parts = new List<object?>();
        int to = text.Length;
        for (int at; parts.Count < limit && (at = text.Plain.AsSpan(0, to).LastIndexOf(separator)) >= 0; to = at)
        {
            i.Budget.Parts(1);
            parts.Add(text[(at + separator.Length)..to]);
        }
        parts.Add(text[..to]);
        parts.Reverse();
        return parts;
    }

    /// <summary>Splits at runs of whitespace; what is left after the limit keeps its trailing whitespace.</summary>
    private static List<object?> Words(Interpreter i, string text, long limit)
    {
        var words = new List<object?>();
        for (int at = 0; ;)
        {
            while (at < text.Length && Characters.IsSpace(text[at])) at++;
            if (at == text.Length) return words;
            int start = at;
            while (at < text.Length && !Characters.IsSpace(text[at])) at++;
            if (words.Count == limit) at = text.Length;
            i.Budget.Parts(1);
            words.Add(text[start..at]);
        }
    }

    private static List<object?> WordsFromRight(Interpreter i, string text, long limit)
    {
        var words = new List<object?>();
        for (int at = text.Length; ;)
        {
            while (at > 0 && Characters.IsSpace(text[at - 1])) at--;
            if (at == 0) break;
            int end = at;
            while (at > 0 && !Characters.IsSpace(text[at - 1])) at--;
            if (words.Count == limit) at = 0;
            i.Budget.Parts(1);
            words.Add(text[at..end]);
        }
        words.Reverse();
        return words;
    }

    public static object?[] SplitLines(Interpreter i, string text, bool keepEnds)
    {
        var lines = new List<object?>();
        for (int start = 0; start < text.Length;)
        {
            int end = text.AsSpan(start).IndexOfAny("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029");
            if (end < 0)
            {
                lines.Add(text[start..]);
                break;
            }
            end += start;
            int next = text[end] == '\r' && end + 1 < text.Length && text[end + 1] == '\n' ? end + 2 : end + 1;
            i.Budget.Parts(1);
            lines.Add(text[start..(keepEnds ? next : end)]);
            start = next;
        }
        return [.. lines];
    }

    /// <summary>Python's <c>str.title</c>: a letter is a capital unless a letter stands before it.</summary>
    private static string Title(string text)
    {
        var result = new StringBuilder(text.Length);
        bool inWord = false;
        foreach (Rune rune in text.EnumerateRunes())
        {
            result.Append((inWord ? Rune.ToLowerInvariant(rune) : Rune.ToUpperInvariant(rune)).ToString());
            inWord = Rune.GetUnicodeCategory(rune) is UnicodeCategory.UppercaseLetter or UnicodeCategory.LowercaseLetter
                or UnicodeCategory.TitlecaseLetter;
        }
        return result.ToString();
    }

    // ---- list and tuple ----

    private static object? Grow(Interpreter i, object? value, object?[] items)
    {
        var list = (List<object?>)value!;
        i.Budget.Elements(items.Length);
        list.AddRange(items);
        return null;
    }

    private static object? IndexOf(Interpreter i, object? value, Bound a)
    {
        object?[] items = Access.Iterate(value, i.Budget);
        int index = Array.FindIndex(items, item => Python.Equals(item, a[0], i.Budget));
        return index >= 0 ? (long)index
            : throw new TemplateException($"{Python.Repr(a[0], i.Budget)} is not in {Python.TypeName(value)}");
    }

    private static object? Insert(Interpreter i, List<object?> list, long index, object? item)
    {
        i.Budget.Elements(1 + list.Count / 64);
        list.Insert((int)Math.Clamp(index < 0 ? index + list.Count : index, 0, list.Count), item);
        return null;
    }

    private static object? Pop(Interpreter i, List<object?> list, long index)
    {
        i.Budget.Elements(1 + list.Count / 64);
        if (index < 0) index += list.Count;
        if (index < 0 || index >= list.Count)
            throw new TemplateException(list.Count == 0 ? "pop from empty list" : "pop index out of range");
        object? item = list[(int)index];
        list.RemoveAt((int)index);
        return item;
    }

    // ---- dict ----

    /// <summary>The pairs of a dict as tuples.</summary>
    public static object?[] Items(Dict dict, RenderBudget budget)
    {
        budget.Elements(2L * dict.Count);
        return [.. dict.Select(pair => new object?[] { pair.Key, pair.Value })];
    }

    private static object?[] Values(Dict dict, RenderBudget budget)
    {
        budget.Elements(dict.Count);
        return [.. dict.Values];
    }

    private static object? Pop(Interpreter i, Dict dict, Bound a)
    {
        i.Budget.Elements(1 + dict.Count / 64);
        if (dict.Find(a[0], out object? value, i.Budget))
        {
            dict.Remove(a[0]!);
            return value;
        }
        return a.Has(1) ? a[1] : throw new TemplateException($"dict has no key {Python.Repr(a[0], i.Budget)}");
    }

    private static object? SetDefault(Interpreter i, Dict dict, object? key, object? value)
    {
        if (dict.Find(key, out object? found, i.Budget)) return found;
        dict.Set(key, value, i.Budget);
        return value;
    }

    /// <summary>Adds a dict's or a list of pairs' items, then the keyword arguments; returns the dict.</summary>
    public static Dict Update(Interpreter i, Dict dict, object? items, Dict? keywords)
    {
        if (items is Dict other) items = Items(other, i.Budget);
        foreach (object? pair in items is null ? [] : Access.Iterate(items, i.Budget))
        {
            if (Access.Iterate(pair, i.Budget) is not [var key, var value])
                throw new TemplateException("a dict is made from pairs");
            dict.Set(key, value, i.Budget);
        }
        foreach ((object key, object? value) in keywords ?? []) dict.Set(key, value, i.Budget);
        return dict;
    }
}
