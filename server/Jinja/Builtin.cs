namespace Native.Server.Jinja;

/// <summary>
/// A filter, method or function: its parameters' names in order, and what it computes from a value and its arguments.
/// </summary>
/// <param name="name">What error messages call it.</param>
/// <param name="parameters">Names separated by spaces; one that ends in '?' may be left out. "*" takes whatever
/// comes.</param>
/// <param name="compute">From the interpreter, the value it is applied to, and the arguments.</param>
internal sealed class Builtin(string name, string parameters, Func<Interpreter, object?, Bound, object?> compute)
{
    private readonly string[] _names =
        [.. parameters.Split(' ', StringSplitOptions.RemoveEmptyEntries).Select(p => p.TrimEnd('?'))];
    private readonly int _required =
        parameters.Split(' ', StringSplitOptions.RemoveEmptyEntries).Count(p => !p.EndsWith('?'));

    public string Name { get; } = name;

    public object? Invoke(Interpreter interpreter, object? self, Arguments arguments) =>
        compute(interpreter, self, parameters == "*" ? new Bound(Name, [], [], arguments) : Bind(arguments));

    private Bound Bind(Arguments arguments)
    {
        if (arguments.Positional.Length > _names.Length)
            throw new TemplateException(
                $"{Name}() takes at most {_names.Length} arguments, not {arguments.Positional.Length}");
        var values = new object?[_names.Length];
        for (int i = 0; i < values.Length; i++)
            values[i] = i < arguments.Positional.Length ? arguments.Positional[i] : Bound.Missing;
        if (arguments.Keywords is { } keywords)
        {
            foreach ((object key, object? value) in keywords)
            {
                int index = Array.IndexOf(_names, (string)key);
                if (index < 0) throw new TemplateException($"{Name}() has no argument '{key}'");
                if (values[index] != Bound.Missing) throw new TemplateException($"{Name}() got argument '{key}' twice");
                values[index] = value;
            }
        }
        for (int i = 0; i < _required; i++)
        {
            if (values[i] == Bound.Missing) throw new TemplateException($"{Name}() needs argument '{_names[i]}'");
        }
        return new Bound(Name, _names, values, arguments);
    }
}

/// <summary>A builtin's arguments by position of its parameters, checked for type as they are read.</summary>
internal readonly struct Bound(string function, string[] names, object?[] values, Arguments all)
{
    public static readonly object Missing = new();

    public Arguments All { get; } = all;

    public bool Has(int index) => values[index] != Missing;

    public object? this[int index] => Has(index) ? values[index] : null;

    public string Text(int index) => this[index] as string ?? throw Wrong(index, "a string");

    /// <summary>A string, or null when left out or None.</summary>
    public string? TextOrNone(int index) => this[index] is null ? null : Text(index);

    public long Integer(int index, long otherwise) => !Has(index) ? otherwise : values[index] switch
    {
        long value => value,
        bool flag => flag ? 1 : 0,
        _ => throw Wrong(index, "an integer"),
    };

    public bool Flag(int index, bool otherwise = false) => Has(index) ? Python.IsTrue(values[index]) : otherwise;

    private TemplateException Wrong(int index, string expected) =>
        new($"{function}() needs {expected} as '{names[index]}', not {Python.TypeName(this[index])}");
}

/// <summary>A builtin with the value it was taken from, as <c>text.strip</c> is.</summary>
internal sealed class BoundMethod(Builtin method, object? self) : Callable(method.Name)
{
    public override object? Invoke(Interpreter interpreter, Arguments arguments) =>
        method.Invoke(interpreter, self, arguments);
}

/// <summary>Builtins by name, written as a collection initializer.</summary>
internal sealed class BuiltinTable : Dictionary<string, Builtin>
{
    public void Add(string name, string parameters, Func<Interpreter, object?, Bound, object?> compute) =>
        Add(name, new Builtin(name, parameters, compute));

    /// <summary>A second name for a builtin that is already there.</summary>
    public void Add(string alias, string name) => Add(alias, this[name]);
}
