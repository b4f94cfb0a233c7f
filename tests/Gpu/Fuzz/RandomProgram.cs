using System.Text;

namespace Native.Tests.Gpu.Fuzz;

/// <summary>Random functions in what C++ and CUDA share, without undefined behaviour: integers of all widths and signs,
/// floats, conversions, divisions, branches, loops and arrays. Equal text gives equal results wherever it is compiled.
/// </summary>
internal sealed class RandomProgram(int seed)
{
    /// <summary>Words of 64 bits that each function takes.</summary>
    public const int Inputs = 4;

    private static readonly string[] s_types = ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64", "f32", "f64"];

    private readonly Random _random = new(seed);
    private readonly StringBuilder _text = new();
    private readonly List<(string Name, string Type)> _variables = [];
    private int _names, _depth;

    /// <summary>The source of some functions: as kernels <c>g0</c>.. if compiled as CUDA, else as <c>h0</c>.. over
    /// arrays.</summary>
    public static string Of(int seed, int functions)
    {
        RandomProgram program = new(seed);
        program._text.AppendLine("""
            #ifdef __CUDA__
            #define FN __attribute__((device, always_inline))
            #define TID (__nvvm_read_ptx_sreg_ctaid_x() * __nvvm_read_ptx_sreg_ntid_x() + __nvvm_read_ptx_sreg_tid_x())
            #else
            #define FN
            #endif
            typedef unsigned char u8; typedef signed char s8; typedef unsigned short u16; typedef short s16;
            typedef unsigned int u32; typedef int s32; typedef unsigned long u64; typedef long s64;
            typedef float f32; typedef double f64;
            FN static u64 bits(f32 x) { u32 b; __builtin_memcpy(&b, &x, 4); return x != x ? 0x7fffffffu : b; }
            FN static u64 bits(f64 x) { u64 b; __builtin_memcpy(&b, &x, 8); return x != x ? 0x7ffffffffffffffful : b; }
            FN static u64 bits(u64 x) { return x; }
            FN static f32 real(u64 x) { u32 w = (u32)x; f32 f; __builtin_memcpy(&f, &w, 4); return f; }
            FN static s64 whole(f64 x) { return x != x ? 7 : x > 1e9 ? 8 : x < -1e9 ? 9 : (s64)x; }
            """);
        for (int i = 0; i < functions; i++) program.Function(i);
        return program._text.ToString();
    }

    private int Next(int below) => _random.Next(below);

    private void Function(int number)
    {
        _variables.Clear();
        _names = 0;
        Line($"FN static u64 f{number}(u64 i0, u64 i1, u64 i2, u64 i3) {{");
        for (int i = 0; i < Inputs; i++) _variables.Add(($"i{i}", "u64"));
        Line("f32 r0 = real(i0), r1 = (f32)(s32)i1 * 0.5f; s32 n0 = (s32)i2; u16 n1 = (u16)i3;");
        _variables.AddRange([("r0", "f32"), ("r1", "f32"), ("n0", "s32"), ("n1", "u16")]);
        Block(6 + Next(10));
        Line("u64 sum = 0;");
        foreach ((string name, string type) in _variables)
            Line(type[0] == 'f' ? $"sum = sum * 31 + bits({name});" : $"sum = sum * 31 + (u64){name};");
        Line("return sum; }");
        Line("#ifdef __CUDA__");
        Line($"extern \"C\" __attribute__((global)) void g{number}(const u64* in, u64* out) {{ u32 i = TID; "
            + $"out[i] = f{number}(in[4 * i], in[4 * i + 1], in[4 * i + 2], in[4 * i + 3]); }}");
        Line("#else");
        Line($"extern \"C\" void h{number}(const u64* in, u64* out, int n) {{ for (int i = 0; i < n; i++) "
            + $"out[i] = f{number}(in[4 * i], in[4 * i + 1], in[4 * i + 2], in[4 * i + 3]); }}");
        Line("#endif");
    }

    private void Line(string line) => _text.AppendLine(line);

    private void Block(int statements)
    {
        for (int i = 0; i < statements; i++) Statement();
    }

    private void Statement()
    {
        int kind = Next(12);
        if (_depth < 3 && kind == 0)
        {
            Line($"if ({Condition()}) {{");
            Inner();
            Line("} else {");
            Inner();
            Line("}");
        }
        else if (_depth < 2 && kind == 1)
        {
            string counter = $"c{_names++}";
            string most = $"({Integer("u32", 1)} & {(Next(2) == 0 ? 7 : 3)}u)";
            Line($"for (u32 {counter} = 0; {counter} < {most}; {counter}++) {{");
            Inner();
            Line("}");
        }
        else if (kind == 2 && _depth == 0)
        {
            string array = $"a{_names++}";
            Line($"u32 {array}[8] = {{ {string.Join(", ", Enumerable.Range(0, 8).Select(_ => Integer("u32", 1)))} }};");
            Line($"{array}[{Integer("u32", 1)} & 7] += {Integer("u32", 2)};");
            Declare("u32", $"{array}[{Integer("u32", 1)} & 7]");
        }
        else if (kind < 5)
        {
            (string name, string type) = _variables[4 + Next(_variables.Count - 4)];
            Line($"{name} = ({type})({Expression(type, 3)});");
        }
        else
        {
            string type = s_types[Next(s_types.Length)];
            if (_depth == 0) Declare(type, $"({type})({Expression(type, 3)})");
        }
    }

    private void Inner()
    {
        _depth++;
        Block(1 + Next(3));
        _depth--;
    }

    private void Declare(string type, string value)
    {
        string name = $"v{_names++}";
        Line($"{type} {name} = {value};");
        _variables.Add((name, type));
    }

    private string Condition() => Next(3) switch
    {
        0 => $"{Expression("f32", 1)} {Relation()} {Expression("f32", 1)}",
        1 => $"{Integer("s32", 1)} {Relation()} {Integer("s32", 1)}",
        _ => $"{Integer("u64", 1)} {Relation()} {Integer("u64", 1)}",
    };

    private string Relation() => (string[])["<", "<=", ">", ">=", "==", "!="] is var all ? all[Next(6)] : "";

    private string Expression(string type, int depth) => type[0] == 'f' ? Real(type, depth) : Integer(type, depth);

    private string Leaf(string type)
    {
        (string Name, string Type)[] own = [.. _variables.Where(variable => variable.Type == type)];
        if (own.Length > 0 && Next(4) != 0) return own[Next(own.Length)].Name;
        (string name, string other) = _variables[Next(_variables.Count)];
        if (Next(4) != 0)
            return other[0] == 'f' && type[0] != 'f' ? $"({type})whole({name})" : $"({type}){name}";
        if (type[0] == 'f')
            return FormattableString.Invariant($"({type}){(_random.NextDouble() - 0.5) * 100:R}");
        return $"({type}){(Next(2) == 0 ? Next(40) : _random.NextInt64() >> Next(60))}ul";
    }

    private string Integer(string type, int depth)
    {
        if (depth == 0 || Next(6) == 0) return Leaf(type);
        int bits = int.Parse(type[1..]);
        // Signed overflow is undefined: sums and products are of unsigned ones, of at least 32 bits.
        string wide = bits == 64 ? "u64" : "u32", signed = bits == 64 ? "s64" : "s32";
        string a = Integer(type, depth - 1), b = Integer(type, depth - 1);
        string shift = $"({Integer("u32", depth - 1)} & {Math.Max(bits, 32) - 1})";
        return Next(19) switch
        {
            0 => $"({type})(({wide})({a}) + ({wide})({b}))",
            1 => $"({type})(({wide})({a}) - ({wide})({b}))",
            2 => $"({type})(({wide})({a}) * ({wide})({b}))",
            3 => $"({type})(({a}) & ({b}))",
            4 => $"({type})(({a}) | ({b}))",
            5 => $"({type})(({a}) ^ ({b}))",
            6 => $"({type})~({a})",
            7 => $"({type})(({wide})({a}) << {shift})",
            8 => $"({type})(({a}) >> ({shift} & {bits - 1}))",
            9 => $"({type})(({wide})({a}) / (({wide})({b}) | 1))",
            10 => $"({type})(({wide})({a}) % (({wide})({b}) | 1))",
            11 => $"({type})((({signed})({a})) / ((({signed})({b}) & 0x7fff) | 1))",
            12 => $"({type})((({signed})({a})) % ((({signed})({b}) & 0x7fff) | 1))",
            13 => $"(({Condition()}) ? ({a}) : ({b}))",
            14 => $"({type})whole({Real("f32", depth - 1)})",
            15 => $"({type})whole({Real("f64", depth - 1)})",
            16 => bits == 64 ? $"({type})(((unsigned __int128)({a}) * (unsigned __int128)({b})) >> 64)"
                : $"({type})(((u64)({a}) * (u64)({b})) >> 13)",
            17 => $"({type})__builtin_popcountll((u64)({a}))",
            _ => $"({type})(({a}) < ({b}) ? ({b}) : ({a}))",
        };
    }

    private string Real(string type, int depth)
    {
        if (depth == 0 || Next(6) == 0) return Leaf(type);
        string a = Real(type, depth - 1), b = Real(type, depth - 1), f = type == "f32" ? "f" : "";
        return Next(10) switch
        {
            0 => $"(({a}) + ({b}))",
            1 => $"(({a}) - ({b}))",
            2 => $"(({a}) * ({b}))",
            3 => $"(({a}) / ({b}))",
            4 => $"__builtin_fma{f}({a}, {b}, {Real(type, depth - 1)})",
            5 => $"__builtin_sqrt{f}({a})",
            6 => $"__builtin_fabs{f}({a})",
            7 => $"(({Condition()}) ? ({a}) : ({b}))",
            8 => $"({type})({Integer(Next(2) == 0 ? "s64" : "u32", depth - 1)})",
            _ => $"({type})({Real(type == "f32" ? "f64" : "f32", depth - 1)})",
        };
    }
}
