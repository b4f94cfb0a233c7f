namespace Native.Server.Jinja;

// A value is one of: null (None), bool, long, double, BigInteger (from JSON only), string, List<object?> (list),
// object?[] (tuple), Dict, Markup (see there), or a type of this file. No other object of .NET can be reached from a
// template.

/// <summary>A name or attribute that is not there: prints as nothing, is false, and fails on any other use.</summary>
internal sealed class Undefined(string reason)
{
    public string Reason { get; } = reason;

    public TemplateException Error() => new(Reason);
}

/// <summary>
/// Text that <c>safe</c> or <c>escape</c> gave: a string that '+' joins to it is escaped, though chat templates escape
/// nothing else. It lives in variables and between operators; everything else reads it as the string it is.
/// </summary>
internal sealed record Markup(string Text)
{
    public static string Escape(string text, RenderBudget budget)
    {
        budget.Walk(text.Length);
        string escaped =
            text.Replace("&", "&amp;").Replace("<", "&lt;").Replace(">", "&gt;").Replace("'", "&#39;").Replace("\"",
                "&#34;");
        budget.Characters(escaped.Length);
        return escaped;
    }

    /// <summary>Markup or a string, as text to stand beside markup.</summary>
    public static string Joinable(object? value, RenderBudget budget) =>
        value is Markup markup ? markup.Text : Escape((string)value!, budget);
}

/// <summary>A mapping that keeps insertion order; keys are compared as Python compares them (1, 1.0 and True are one
/// key).</summary>
internal sealed class Dict : OrderedDictionary<object, object?>
{
    public Dict() : base(KeyComparer.Instance)
    {
    }

    public Dict(Dict other) : base(other, KeyComparer.Instance)
    {
    }

    /// <summary>A lookup with what can't be a key finds nothing.</summary>
    public bool Find(object? key, out object? value, RenderBudget budget)
    {
        value = null;
        if (key is string text) budget.Scan(text.Length);
        return Python.IsKey(key) && TryGetValue(key!, out value);
    }

    public void Set(object? key, object? value, RenderBudget budget)
    {
        if (key is Undefined undefined) throw undefined.Error();
        if (!Python.IsKey(key))
            throw new TemplateException($"'{Python.TypeName(key)}' can't be the key of a dict here");
        if (key is string text) budget.Scan(text.Length);
        budget.Elements(1);
        this[key!] = value;
    }

    private sealed class KeyComparer : IEqualityComparer<object>
    {
        public static readonly KeyComparer Instance = new();

        public new bool Equals(object? a, object? b) =>
            a is string left ? b is string right && left == right : Python.KeyEquals(a, b);

        public int GetHashCode(object key) => Python.KeyHash(key);
    }
}

/// <summary>What <c>map</c>, <c>select</c> and their like give: true, without a length, and empty after it was walked
/// once.</summary>
internal sealed class Generator(object?[] items)
{
    private object?[] _items = items;

    public object?[] Take()
    {
        object?[] items = _items;
        _items = [];
        return items;
    }
}

/// <summary><c>namespace(...)</c>: the one value whose attributes <c>set</c> may change.</summary>
internal sealed class Namespace
{
    public Dict Attributes { get; } = new();
}

/// <summary>One group of <c>groupby</c>: unpacks like a pair, has <c>grouper</c> and <c>list</c>.</summary>
internal sealed record Group(object? Grouper, List<object?> List);

/// <summary>The arguments of a call.</summary>
internal readonly record struct Arguments(object?[] Positional, Dict? Keywords = null)
{
    public static readonly Arguments None = new([]);
}

/// <summary>Anything a template may call: a macro, a method bound to its value, a global function, a recursive
/// loop.</summary>
internal abstract class Callable(string name)
{
    public string Name { get; } = name;

    public abstract object? Invoke(Interpreter interpreter, Arguments arguments);
}

/// <summary>The variables of one block. Reads fall through to the enclosing scopes, writes stay.</summary>
internal sealed class Scope(Scope? parent)
{
    private Dictionary<string, object?>? _variables;

    public Scope? Parent { get; } = parent;

    public void Set(string name, object? value) => (_variables ??= [])[name] = value;

    public object? Get(string name)
    {
        for (Scope? scope = this; scope is not null; scope = scope.Parent)
        {
            if (scope._variables is { } variables && variables.TryGetValue(name, out object? value)) return value;
        }
        return new Undefined($"'{name}' is undefined");
    }
}

/// <summary>The <c>loop</c> variable of a <c>for</c>.</summary>
internal sealed class Loop(object?[] items, int depth0, Func<Interpreter, object?, string>? recurse) : Callable("loop")
{
    private object?[]? _lastChanged;

    public int Index0 { get; set; }

    public object? Attribute(string name) => name switch
    {
        "index" => (long)Index0 + 1,
        "index0" => (long)Index0,
        "first" => Index0 == 0,
        "last" => Index0 == items.Length - 1,
        "length" => (long)items.Length,
        "revindex" => (long)items.Length - Index0,
        "revindex0" => (long)items.Length - Index0 - 1,
        "depth" => (long)depth0 + 1,
        "depth0" => (long)depth0,
        "previtem" => Index0 > 0 ? items[Index0 - 1] : new Undefined("there is no previous item"),
        "nextitem" => Index0 + 1 < items.Length ? items[Index0 + 1] : new Undefined("there is no next item"),
        "cycle" => new BoundMethod(Cycle, this),
        "changed" => new BoundMethod(Changed, this),
        _ => new Undefined($"'loop' has no attribute '{name}'"),
    };

    public override object? Invoke(Interpreter interpreter, Arguments arguments)
    {
        if (recurse is null) throw new TemplateException("loop() needs a loop marked 'recursive'");
        if (arguments.Positional.Length != 1 || arguments.Keywords is not null)
            throw new TemplateException("loop() takes one argument");
        return recurse(interpreter, arguments.Positional[0]);
    }

    private static readonly Builtin Cycle = new("loop.cycle", "*", (_, self, a) =>
    {
        object?[] values = a.All.Positional;
        if (values.Length == 0) throw new TemplateException("loop.cycle() needs values");
        return values[((Loop)self!).Index0 % values.Length];
    });

    private static readonly Builtin Changed = new("loop.changed", "*", (i, self, a) =>
    {
        var loop = (Loop)self!;
        object?[]? last = loop._lastChanged;
        loop._lastChanged = a.All.Positional;
        return last is null || !Python.Equals(last, a.All.Positional, i.Budget);
    });
}
