namespace Native.Server.Jinja;

/// <summary>How a statement ended: <c>break</c> and <c>continue</c> unwind to their loop.</summary>
internal enum Flow
{
    Next,
    Break,
    Continue,
}

internal abstract class Statement
{
    public Flow Execute(Interpreter i)
    {
        i.Budget.Enter();
        Flow flow = Run(i);
        i.Budget.Leave();
        return flow;
    }

    protected abstract Flow Run(Interpreter i);
}

internal sealed class Block(Statement[] statements) : Statement
{
    protected override Flow Run(Interpreter i)
    {
        foreach (Statement statement in statements)
        {
            Flow flow = statement.Execute(i);
            if (flow != Flow.Next) return flow;
        }
        return Flow.Next;
    }
}

internal sealed class Text(string text) : Statement
{
    protected override Flow Run(Interpreter i)
    {
        i.Write(text);
        return Flow.Next;
    }
}

internal sealed class Print(Expression value, int line) : Statement
{
    protected override Flow Run(Interpreter i)
    {
        i.Line = line;
        i.Write(Python.Str(value.Evaluate(i), i.Budget));
        return Flow.Next;
    }
}

internal sealed class FilterBlock(Expression filtered, int line) : Statement
{
    protected override Flow Run(Interpreter i)
    {
        i.Line = line;
        object? value = filtered.Evaluate(i);
        i.Write(value as string
            ?? throw new TemplateException($"a filter block must make a string, not {Python.TypeName(value)}"));
        return Flow.Next;
    }
}

internal sealed class If((Expression Condition, Statement Body, int Line)[] branches, Statement? otherwise) : Statement
{
    protected override Flow Run(Interpreter i)
    {
        foreach ((Expression condition, Statement body, int line) in branches)
        {
            i.Line = line;
            if (Python.IsTrue(condition.Evaluate(i))) return body.Execute(i);
        }
        return otherwise is null ? Flow.Next : otherwise.Execute(i);
    }
}

internal sealed class For(Target target, Expression items, Expression? condition, Statement body, Statement? otherwise,
    bool recursive, int line) : Statement
{
    protected override Flow Run(Interpreter i)
    {
        i.Line = line;
        Iterate(i, items.Evaluate(i), depth0: 0);
        return Flow.Next;
    }

    private void Iterate(Interpreter i, object? value, int depth0)
    {
        Scope outer = i.Scope;
        object?[] elements = Access.Iterate(value, i.Budget);
        if (condition is not null) elements = Select(i, outer, elements);

        var loop = new Loop(elements, depth0, recursive ? Recurse : null);
        for (int n = 0; n < elements.Length; n++)
        {
            i.Scope = new Scope(outer);
            loop.Index0 = n;
            target.Assign(i, elements[n]);
            i.Scope.Set("loop", loop);
            if (body.Execute(i) == Flow.Break) break;
        }
        if (elements.Length == 0 && otherwise is not null)
        {
            i.Scope = new Scope(outer);
            otherwise.Execute(i);
        }
        i.Scope = outer;

        string Recurse(Interpreter inner, object? children) =>
            inner.Capture(new Nested(this, children, depth0 + 1), new Scope(outer));
    }

    private object?[] Select(Interpreter i, Scope outer, object?[] elements)
    {
        var selected = new List<object?>();
        foreach (object? element in elements)
        {
            i.Scope = new Scope(outer);
            target.Assign(i, element);
            if (Python.IsTrue(condition!.Evaluate(i))) selected.Add(element);
        }
        i.Scope = outer;
        return [.. selected];
    }

    /// <summary>What <c>loop(children)</c> runs.</summary>
    private sealed class Nested(For loop, object? children, int depth0) : Statement
    {
        protected override Flow Run(Interpreter i)
        {
            loop.Iterate(i, children, depth0);
            return Flow.Next;
        }
    }
}

internal sealed class Jump(Flow flow) : Statement
{
    protected override Flow Run(Interpreter i) => flow;
}

internal sealed class Set(Target target, Expression value, int line) : Statement
{
    protected override Flow Run(Interpreter i)
    {
        i.Line = line;
        target.Assign(i, target is TupleTarget ? value.Evaluate(i) : value.EvaluateMarked(i));
        return Flow.Next;
    }
}

/// <summary>A block with names of its own: <c>with</c>, and <c>generation</c>, which marks the assistant's text for
/// training.</summary>
internal sealed class With((Target Target, Expression Value)[] assignments, Statement body) : Statement
{
    protected override Flow Run(Interpreter i)
    {
        Scope outer = i.Scope;
        var inner = new Scope(outer);
        foreach ((Target target, Expression value) in assignments)
        {
            object? computed = value.Evaluate(i);
            i.Scope = inner;
            target.Assign(i, computed);
            i.Scope = outer;
        }
        i.Scope = inner;
        Flow flow = body.Execute(i);
        i.Scope = outer;
        return flow;
    }
}

internal sealed record Parameter(string Name, Expression? Default);

/// <summary>Which of its arguments a macro names in its body: only those it names may a call give beyond the
/// parameters.</summary>
[Flags]
internal enum Extras
{
    None,
    Varargs = 1,
    Kwargs = 2,
    Caller = 4,
}

internal sealed record MacroBody(Parameter[] Parameters, Statement Statements, Extras Takes);

internal sealed class MacroDefinition(string name, MacroBody body) : Statement
{
    protected override Flow Run(Interpreter i)
    {
        i.Scope.Set(name, new Macro(name, body, i.Scope));
        return Flow.Next;
    }
}

/// <summary><c>{% call(args) macro(...) %}body{% endcall %}</c>: the macro gets the body as <c>caller</c>.</summary>
internal sealed class CallBlock(MacroBody body, Call call, int line) : Statement
{
    protected override Flow Run(Interpreter i)
    {
        i.Line = line;
        var caller = new Macro("caller", body, i.Scope);
        i.Write(Python.Str(call.Invoke(i, ("caller", caller)), i.Budget));
        return Flow.Next;
    }
}

/// <summary>A macro sees the names of the place where it stands, not of the place that calls it.</summary>
internal sealed class Macro(string name, MacroBody body, Scope enclosing) : Callable(name)
{
    public override object? Invoke(Interpreter i, Arguments arguments)
    {
        Parameter[] parameters = body.Parameters;
        var scope = new Scope(enclosing);
        var keywords = arguments.Keywords is null ? new Dict() : new Dict(arguments.Keywords);
        if (body.Takes.HasFlag(Extras.Caller))
            scope.Set("caller",
                keywords.Remove("caller", out object? caller) ? caller : new Undefined("no caller is defined"));

        Scope outer = i.Scope;
        i.Scope = scope; // defaults may name the parameters before them
        for (int n = 0; n < parameters.Length; n++)
        {
            Parameter parameter = parameters[n];
            if (n < arguments.Positional.Length) scope.Set(parameter.Name, arguments.Positional[n]);
            else if (keywords.Remove(parameter.Name, out object? value)) scope.Set(parameter.Name, value);
            else if (parameter.Default is not null) scope.Set(parameter.Name, parameter.Default.Evaluate(i));
            else scope.Set(parameter.Name,
                new Undefined($"parameter '{parameter.Name}' of macro '{Name}' was not provided"));
        }
        i.Scope = outer;
        object?[] more =
            arguments.Positional.Length > parameters.Length ? arguments.Positional[parameters.Length..] : [];
        if (body.Takes.HasFlag(Extras.Varargs)) scope.Set("varargs", more);
        else if (more.Length > 0)
            throw new TemplateException(
                $"macro '{Name}' takes at most {parameters.Length} arguments, not {arguments.Positional.Length}");
        if (body.Takes.HasFlag(Extras.Kwargs)) scope.Set("kwargs", keywords);
        else if (keywords.Count > 0)
            throw new TemplateException($"macro '{Name}' has no parameter '{keywords.GetAt(0).Key}'");
        return i.Capture(body.Statements, scope);
    }
}

/// <summary>What may stand left of '=' and between <c>for</c> and <c>in</c>.</summary>
internal abstract class Target
{
    public abstract void Assign(Interpreter i, object? value);
}

internal sealed class NameTarget(string name) : Target
{
    public override void Assign(Interpreter i, object? value) => i.Scope.Set(name, value);
}

internal sealed class TupleTarget(Target[] targets) : Target
{
    public override void Assign(Interpreter i, object? value)
    {
        object?[] items = Access.Iterate(value, i.Budget);
        if (items.Length != targets.Length)
            throw new TemplateException($"expected {targets.Length} values to unpack, got {items.Length}");
        for (int n = 0; n < items.Length; n++) targets[n].Assign(i, items[n]);
    }
}

internal sealed class NamespaceTarget(string name, string attribute) : Target
{
    public override void Assign(Interpreter i, object? value)
    {
        if (i.Scope.Get(name) is not Namespace target)
            throw new TemplateException($"can't assign to an attribute of '{name}': it is not a namespace");
        target.Attributes[attribute] = value;
    }
}
