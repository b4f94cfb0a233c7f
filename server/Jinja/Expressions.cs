namespace Native.Server.Jinja;

/// <summary>An expression knows how to evaluate itself; every node costs one step of the budget.</summary>
internal abstract class Expression
{
    public object? Evaluate(Interpreter i) =>
        EvaluateMarked(i) is var value && value is Markup markup ? markup.Text : value;

    /// <summary>The value, which may be <see cref="Markup"/>.</summary>
    public object? EvaluateMarked(Interpreter i)
    {
        i.Budget.Enter();
        object? value = Compute(i);
        i.Budget.Leave();
        return value;
    }

    protected abstract object? Compute(Interpreter i);
}

internal sealed class Literal(object? value) : Expression
{
    protected override object? Compute(Interpreter i) => value;
}

internal sealed class Name(string name) : Expression
{
    public string Value => name;

    protected override object? Compute(Interpreter i) => i.Scope.Get(name);
}

internal sealed class ListLiteral(Expression[] items) : Expression
{
    protected override object? Compute(Interpreter i)
    {
        var list = new List<object?>(items.Length);
        foreach (Expression item in items) list.Add(item.Evaluate(i));
        return list;
    }
}

internal sealed class TupleLiteral(Expression[] items) : Expression
{
    public Expression[] Items => items;

    protected override object? Compute(Interpreter i)
    {
        object?[] tuple = new object?[items.Length];
        for (int n = 0; n < items.Length; n++) tuple[n] = items[n].Evaluate(i);
        return tuple;
    }
}

internal sealed class DictLiteral((Expression Key, Expression Value)[] items) : Expression
{
    protected override object? Compute(Interpreter i)
    {
        var dict = new Dict();
        foreach ((Expression key, Expression value) in items) dict.Set(key.Evaluate(i), value.Evaluate(i), i.Budget);
        return dict;
    }
}

internal sealed class Attribute(Expression target, string name) : Expression
{
    protected override object? Compute(Interpreter i) => Access.Attribute(target.Evaluate(i), name, i.Budget);
}

internal sealed class Item(Expression target, Expression key) : Expression
{
    protected override object? Compute(Interpreter i) => Access.Item(target.Evaluate(i), key.Evaluate(i), i.Budget);
}

internal sealed class Slice(Expression target, Expression? start, Expression? stop, Expression? step) : Expression
{
    protected override object? Compute(Interpreter i) =>
        Access.Slice(target.Evaluate(i), start?.Evaluate(i), stop?.Evaluate(i), step?.Evaluate(i), i.Budget);
}

/// <summary>The arguments of a call as written, with their <c>*list</c> and <c>**dict</c>.</summary>
internal sealed class ArgumentList(Expression[] positional, (string Name, Expression Value)[] keywords,
    Expression? spread, Expression? keywordSpread)
{
    public static readonly ArgumentList None = new([], [], null, null);

    public Arguments Evaluate(Interpreter i, params ReadOnlySpan<(string Name, object? Value)> more)
    {
        var values = new object?[positional.Length];
        for (int n = 0; n < values.Length; n++) values[n] = positional[n].Evaluate(i);
        if (spread is not null) values = [.. values, .. Access.Iterate(spread.Evaluate(i), i.Budget)];
        if (keywords.Length == 0 && keywordSpread is null && more.Length == 0) return new Arguments(values);

        var named = new Dict();
        foreach ((string name, Expression value) in keywords) named[name] = value.Evaluate(i);
        if (keywordSpread is not null)
        {
            if (keywordSpread.Evaluate(i) is not Dict dict)
                throw new TemplateException("the argument after ** must be a dict");
            i.Budget.Elements(dict.Count);
            foreach ((object key, object? value) in dict)
            {
                if (key is not string) throw new TemplateException("the keys of the dict after ** must be strings");
                named[key] = value;
            }
        }
        foreach ((string name, object? value) in more) named[name] = value;
        return new Arguments(values, named);
    }
}

internal sealed class Call(Expression function, ArgumentList arguments) : Expression
{
    protected override object? Compute(Interpreter i) => Invoke(i);

    public object? Invoke(
        Interpreter i, params ReadOnlySpan<(string Name, object? Value)> more) => function.Evaluate(i) switch
        {
            Callable callable => callable.Invoke(i, arguments.Evaluate(i, more)),
            Undefined undefined => throw undefined.Error(),
            var value => throw new TemplateException($"'{Python.TypeName(value)}' object is not callable"),
        };
}

internal sealed class Filter(Expression operand, string name, ArgumentList arguments) : Expression
{
    protected override object? Compute(Interpreter i) =>
        Filters.Apply(i, name, name is "escape" or "e" ? operand.EvaluateMarked(i) : operand.Evaluate(i),
            arguments.Evaluate(i));
}

/// <summary>What a block prints, as a value: the operand of <c>filter</c> blocks and of <c>set</c> blocks.</summary>
internal sealed class Captured : Expression
{
    /// <summary>Set once, when the parser reaches the block behind its filters.</summary>
    public Statement? Body { get; set; }

    protected override object? Compute(Interpreter i) => i.Capture(Body!, new Scope(i.Scope));
}

internal sealed class Test(Expression operand, string name, ArgumentList arguments, bool negated) : Expression
{
    protected override object? Compute(Interpreter i) =>
        Tests.Apply(i, name, operand.Evaluate(i), arguments.Evaluate(i)) != negated;
}

internal sealed class Not(Expression operand) : Expression
{
    protected override object? Compute(Interpreter i) => !Python.IsTrue(operand.Evaluate(i));
}

internal sealed class Sign(bool negative, Expression operand) : Expression
{
    protected override object? Compute(Interpreter i) => Python.Sign(operand.Evaluate(i), negative);
}

internal sealed class And(Expression left, Expression right) : Expression
{
    protected override object? Compute(Interpreter i) =>
        left.EvaluateMarked(i) is var value && Python.IsTrue(value) ? right.EvaluateMarked(i) : value;
}

internal sealed class Or(Expression left, Expression right) : Expression
{
    protected override object? Compute(Interpreter i) =>
        left.EvaluateMarked(i) is var value && Python.IsTrue(value) ? value : right.EvaluateMarked(i);
}

internal sealed class Conditional(Expression condition, Expression then, Expression? otherwise) : Expression
{
    protected override object? Compute(Interpreter i)
    {
        if (Python.IsTrue(condition.Evaluate(i))) return then.EvaluateMarked(i);
        return otherwise is null ? new Undefined("the inline if is false and has no else")
            : otherwise.EvaluateMarked(i);
    }
}

internal sealed class Arithmetic(string symbol, Expression left, Expression right) : Expression
{
    protected override object? Compute(Interpreter i) =>
        Python.Arithmetic(symbol, left.EvaluateMarked(i), right.EvaluateMarked(i), i);
}

/// <summary>The '~' operator: everything as text.</summary>
internal sealed class Concatenation(Expression left, Expression right) : Expression
{
    protected override object? Compute(Interpreter i)
    {
        string a = Python.Str(left.Evaluate(i), i.Budget);
        string b = Python.Str(right.Evaluate(i), i.Budget);
        i.Budget.Characters((long)a.Length + b.Length);
        return a + b;
    }
}

/// <summary>A chain of comparisons: <c>a &lt; b &lt;= c</c> means both.</summary>
internal sealed class Comparison(Expression first, (string Symbol, Expression Operand)[] rest) : Expression
{
    protected override object? Compute(Interpreter i)
    {
        object? left = first.Evaluate(i);
        foreach ((string symbol, Expression operand) in rest)
        {
            object? right = operand.Evaluate(i);
            if (!Python.Compare(symbol, left, right, i.Budget)) return false;
            left = right;
        }
        return true;
    }
}
