using System.Numerics;

namespace Native.Server.Jinja;

/// <summary>What may follow <c>is</c>.</summary>
internal static class Tests
{
    public static bool Apply(Interpreter i, string name, object? value, Arguments arguments) =>
        All.TryGetValue(name, out Builtin? test)
            ? (bool)test.Invoke(i, value, arguments)!
            : throw new TemplateException($"no test named '{name}'");

    private static readonly BuiltinTable All = new()
    {
        { "boolean", "", (_, v, _) => v is bool },
        { "callable", "", (_, v, _) => v is Callable or Undefined },
        { "defined", "", (_, v, _) => v is not Undefined },
        { "divisibleby", "num", (i, v, a) => Remains(i, v, a[0], 0) },
        { "even", "", (i, v, _) => Remains(i, v, 2L, 0) },
        { "odd", "", (i, v, _) => Remains(i, v, 2L, 1) },
        { "eq", "other", (i, v, a) => Python.Compare("==", v, a[0], i.Budget) },
        { "equalto", "eq" },
        { "==", "eq" },
        { "ne", "other", (i, v, a) => Python.Compare("!=", v, a[0], i.Budget) },
        { "!=", "ne" },
        { "lt", "other", (i, v, a) => Python.Compare("<", v, a[0], i.Budget) },
        { "lessthan", "lt" },
        { "<", "lt" },
        { "le", "other", (i, v, a) => Python.Compare("<=", v, a[0], i.Budget) },
        { "<=", "le" },
        { "gt", "other", (i, v, a) => Python.Compare(">", v, a[0], i.Budget) },
        { "greaterthan", "gt" },
        { ">", "gt" },
        { "ge", "other", (i, v, a) => Python.Compare(">=", v, a[0], i.Budget) },
        { ">=", "ge" },
        { "in", "seq", (i, v, a) => Python.Compare("in", v, a[0], i.Budget) },
        { "sameas", "other",
            (i, v, a) => ReferenceEquals(v, a[0])
                || (v is bool or long or double or string && v.GetType() == a[0]?.GetType() && v.Equals(a[0])) },
        { "false", "", (_, v, _) => v is false },
        { "true", "", (_, v, _) => v is true },
        { "none", "", (_, v, _) => v is null },
        { "undefined", "", (_, v, _) => v is Undefined },
        { "string", "", (_, v, _) => v is string },
        { "number", "", (_, v, _) => v is bool or long or double or BigInteger },
        { "integer", "", (_, v, _) => v is long or BigInteger },
        { "float", "", (_, v, _) => v is double },
        { "mapping", "", (_, v, _) => v is Dict },
        { "iterable", "",
            (_, v, _) => v is string or List<object?> or object?[] or Dict or Generator or Group or Undefined },
        { "sequence", "", (_, v, _) => v is string or List<object?> or object?[] or Dict or Group or Undefined },
        { "escaped", "", (_, _, _) => false },
        { "filter", "", (_, v, _) => v is string name && Filters.Exists(name) },
        { "test", "", (_, v, _) => v is string name && All!.ContainsKey(name) },
        { "lower", "", (i, v, _) => Methods.IsCased(i, Python.Str(v, i.Budget), upper: false) },
        { "upper", "", (i, v, _) => Methods.IsCased(i, Python.Str(v, i.Budget), upper: true) },
    };

    private static bool Remains(Interpreter i, object? value, object? divisor, long rest) =>
        Python.Equals(Python.Arithmetic("%", value, divisor, i), rest, i.Budget);
}
