namespace Native.Server.Jinja;

/// <summary>Attributes, items, slices and iteration: what a template may reach inside a value.</summary>
internal static class Access
{
    /// <summary><c>value.name</c>: a method first, then the item of that name. So <c>d.items</c> is the method,
    /// <c>d['items']</c> may be a key.</summary>
    public static object? Attribute(object? value, string name, RenderBudget budget)
    {
        if (OwnAttribute(value, name, out object? own)) return own;
        if (value is Dict dict && dict.Find(name, out object? item, budget)) return item;
        return Missing(value, name);
    }

    /// <summary>An attribute alone, never an item: the filter <c>attr</c>.</summary>
    public static object? OwnAttribute(object? value, string name) =>
        OwnAttribute(value, name, out object? own) ? own : Missing(value, name);

    /// <summary><c>value[key]</c>: the item first, then the attribute of that name.</summary>
    public static object? Item(object? value, object? key, RenderBudget budget)
    {
        if (value is string scanned) budget.Scan(scanned.Length);
        switch (value)
        {
            case Undefined undefined: throw undefined.Error();
            case Dict dict when dict.Find(key, out object? item, budget): return item;
            case List<object?> list when Index(key, list.Count) is int index: return list[index];
            case object?[] tuple when Index(key, tuple.Length) is int index: return tuple[index];
            case Group group when Index(key, 2) is int index: return index == 0 ? group.Grouper : group.List;
            case string text when Index(key, Characters.Length(text)) is int index:
                int offset = Characters.Offset(text, index);
                return text[offset..Characters.End(text, offset)];
        }
        if (key is string name && OwnAttribute(value, name, out object? own)) return own;
        return Missing(value, key);
    }

    /// <summary>The offset an integer key selects, counting from the end when negative; null for another key or
    /// outside.</summary>
    private static int? Index(object? key, int count)
    {
        long? index = key switch { long integer => integer, bool flag => flag ? 1 : 0, _ => null };
        if (index < 0) index += count;
        return index >= 0 && index < count ? (int)index : null;
    }

    private static bool OwnAttribute(object? value, string name, out object? own)
    {
        own = null;
        switch (value)
        {
            case Undefined undefined: throw undefined.Error();
            case Namespace space: return space.Attributes.TryGetValue(name, out own);
            case Loop loop: own = loop.Attribute(name); return true;
            case Macro macro when name == "name": own = macro.Name; return true;
            case Group group when name == "grouper": own = group.Grouper; return true;
            case Group group when name == "list": own = group.List; return true;
        }
        if (Methods.Find(value, name) is not { } method) return false;
        own = new BoundMethod(method, value);
        return true;
    }

    private static Undefined Missing(object? value, object? key)
    {
        string type = value is null ? "'None'" : $"'{Python.TypeName(value)} object'";
        return key switch
        {
            string name =>
                new Undefined(
                    $"{type} has no attribute "
                        + $"'{(name.Length <= 80 ? name : string.Concat(name.AsSpan(0, 80), "..."))}'"),
            null or bool or long or double => new Undefined($"{type} has no element {Python.Repr(key, null)}"),
            // as text it could be of any size
            _ => new Undefined($"{type} has no element of type {Python.TypeName(key)}"),
        };
    }

    /// <summary>The elements of anything that can be iterated. The array may be the value itself: not to be written
    /// to.</summary>
    public static object?[] Iterate(object? value, RenderBudget budget)
    {
        object?[] items = value switch
        {
            object?[] tuple => tuple,
            List<object?> list => Counted(list.Count, budget) ? [.. list] : [],
            Dict dict => Counted(dict.Count, budget) ? [.. dict.Keys] : [],
            string text => Counted(text.Length, budget) ? Characters.Split(text) : [],
            Generator generator => generator.Take(),
            Namespace space => [.. space.Attributes.Keys],
            Group group => [group.Grouper, group.List],
            Undefined => [],
            _ => throw new TemplateException($"'{Python.TypeName(value)}' object is not iterable"),
        };
        return items;
    }

    private static bool Counted(int count, RenderBudget budget)
    {
        budget.Elements(count);
        return true;
    }

    public static object? Slice(object? value, object? start, object? stop, object? step, RenderBudget budget)
    {
        switch (value)
        {
            case string text:
                budget.Characters(text.Length);
                int length = Characters.Length(text);
                (int from, int count, long stride) = Range(start, stop, step, length);
                if (stride == 1)
                {
                    int begin = Characters.Offset(text, from);
                    return length == text.Length ? text.Substring(from, count)
                        : text[begin..(begin + Characters.Offset(text[begin..], count))];
                }
                if (length == text.Length) return string.Create(count, (text, from, stride), static (span, s) =>
                {
                    for (int n = 0; n < span.Length; n++) span[n] = s.text[(int)(s.from + n * s.stride)];
                });
                budget.Parts(length);
                return string.Concat(Pick(Characters.Split(text), from, count, stride));
            case List<object?> list:
                budget.Elements(list.Count);
                (from, count, stride) = Range(start, stop, step, list.Count);
                return new List<object?>(Pick([.. list], from, count, stride));
            case object?[] tuple:
                budget.Elements(tuple.Length);
                (from, count, stride) = Range(start, stop, step, tuple.Length);
                return Pick(tuple, from, count, stride);
            case Undefined undefined: throw undefined.Error();
            default: throw new TemplateException($"'{Python.TypeName(value)}' object can't be sliced");
        }
    }

    private static object?[] Pick(object?[] items, int from, int count, long stride)
    {
        var picked = new object?[count];
        for (int n = 0; n < count; n++) picked[n] = items[from + n * stride];
        return picked;
    }

    /// <summary>Python's slice rules: bounds are clipped, a negative step walks backwards.</summary>
    private static (int From, int Count, long Stride) Range(object? start, object? stop, object? step, int length)
    {
        long stride = Bound(step, 1);
        if (stride == 0) throw new TemplateException("slice step cannot be zero");
        stride = Math.Clamp(stride, -int.MaxValue, int.MaxValue);
        long low = stride > 0 ? 0 : -1;
        long high = stride > 0 ? length : length - 1;
        long from = start is null ? (stride > 0 ? low : high) : Clip(Bound(start, 0));
        long to = stop is null ? (stride > 0 ? high : low) : Clip(Bound(stop, 0));
        long distance = stride > 0 ? to - from : from - to;
        long count = distance <= 0 ? 0 : (distance - 1) / Math.Abs(stride) + 1;
        return (count == 0 ? 0 : (int)from, (int)count, stride);

        long Clip(long index) => Math.Clamp(index < 0 ? index + length : index, low, high);

        static long Bound(object? value, long otherwise) => value switch
        {
            null => otherwise,
            long integer => Math.Clamp(integer, -long.MaxValue / 2, long.MaxValue / 2),
            bool flag => flag ? 1 : 0,
            Undefined undefined => throw undefined.Error(),
            _ => throw new TemplateException("slice indices must be integers or None"),
        };
    }
}
