using System.Buffers.Binary;

namespace Native.Tests.Gpu.Machine;

/// <summary>Reads PTX (the text of the PTX ISA 9.0, as compilers write it) into its functions and variables.</summary>
internal sealed class PtxParser
{
    private readonly List<PtxToken> _tokens;
    private readonly PtxModule _module = new();
    private readonly Dictionary<int, string> _files = [];
    private readonly Stack<Dictionary<string, PtxRegister>> _registers = new();
    private readonly Stack<Dictionary<string, PtxVariable>> _variables = new();
    private PtxFunction? _function;
    private (string? File, int Line) _location;
    private int _at, _scopes;
    private string _labelScope = "";

    private PtxParser(string text)
    {
        _tokens = PtxLexer.Read(text);
        // Compilers tell the names of files at the end.
        for (int i = 0; i + 2 < _tokens.Count; i++)
            if (_tokens[i].Text == ".file") _files[(int)_tokens[i + 1].Bits] = Path.GetFileName(_tokens[i + 2].Text);
    }

    /// <summary>Parses a whole text.</summary>
    /// <exception cref="PtxException">It is no PTX; the message names the line.</exception>
    public static PtxModule Parse(string text)
    {
        PtxParser parser = new(text);
        while (parser.Peek.Kind != PtxTokenKind.End) parser.TopLevel();
        if (parser._module.Version == 0) throw new PtxException("PTX line 1: .version is missing");
        return parser._module;
    }

    private PtxToken Peek => _tokens[_at];

    private PtxToken Take() => _tokens[_at].Kind == PtxTokenKind.End ? throw Error("the text ends") : _tokens[_at++];

    private bool Is(string text) => Peek.Text == text && Peek.Kind is PtxTokenKind.Word or PtxTokenKind.Punctuation
        && Peek.Text == text;

    private bool TryTake(string text)
    {
        if (!Is(text)) return false;
        _at++;
        return true;
    }

    private void Expect(string text)
    {
        if (!TryTake(text)) throw Error($"'{text}' was expected, not '{Peek.Text}'");
    }

    private PtxException Error(string what) => new($"PTX line {Peek.Line}: {what}");

    private void TopLevel()
    {
        switch (Peek.Text)
        {
            case ".version":
                Take();
                double version = BitConverter.Int64BitsToDouble(Take().Bits);
                _module.Version = (int)Math.Round(version * 10);
                break;
            case ".target":
                Take();
                _module.Target = Take().Text;
                while (TryTake(",")) Take();
                break;
            case ".address_size":
                Take();
                if (Take().Bits != 64) throw Error("only .address_size 64 is known");
                break;
            case ".file":
                for (int i = 0; i < 3; i++) Take();
                while (TryTake(",")) Take();
                break;
            case ".section":
                Take();
                Take();
                SkipBraces();
                break;
            case ".pragma":
                while (!TryTake(";")) Take();
                break;
            default:
                Declaration();
                break;
        }
    }

    private void SkipBraces()
    {
        Expect("{");
        for (int depth = 1; depth > 0;)
        {
            string text = Take().Text;
            if (text == "{") depth++;
            if (text == "}") depth--;
        }
    }

    private void Declaration()
    {
        while (TryTake(".visible") || TryTake(".extern") || TryTake(".weak") || TryTake(".common")) { }
        if (TryTake(".entry")) Function(isKernel: true);
        else if (TryTake(".func")) Function(isKernel: false);
        else if (Peek.Text is ".global" or ".const" or ".shared")
        {
            foreach (PtxVariable variable in Variables()) _module.Variables[variable.Name] = variable;
        }
        else throw Error($"'{Peek.Text}' begins no declaration");
    }

    private void Function(bool isKernel)
    {
        List<PtxVariable> results = Is("(") ? Parameters() : [];
        TryTake(".noreturn");
        _function = new PtxFunction(Take().Text, isKernel);
        _function.Results.AddRange(results);
        if (Is("(")) _function.Parameters.AddRange(Parameters());
        while (!Is("{") && !Is(";")) Directive();
        if (TryTake(";")) return; // a prototype
        _registers.Clear();
        _variables.Clear();
        _variables.Push(_function.Parameters.Concat(results).ToDictionary(variable => variable.Name));
        _location = default;
        _labelScope = "";
        Block();
        _module.Functions[_function.Name] = _function;
    }

    private void Directive()
    {
        string name = Take().Text;
        if (name is not (".maxntid" or ".reqntid" or ".minnctapersm" or ".maxnreg" or ".noreturn" or ".attribute"
            or ".maxclusterrank" or ".reqnctapercluster" or ".explicitcluster" or ".blocksareclusters"
            or ".abi_preserve" or ".unified")) throw Error($"'{name}' is no directive of a function");
        List<long> values = [];
        while (Peek.Kind == PtxTokenKind.Integer)
        {
            values.Add(Take().Bits);
            TryTake(",");
        }
        if (name is ".maxntid" or ".reqntid")
            _function!.MaxThreads = (int)values.Aggregate(1L, (product, value) => product * value);
    }

    private List<PtxVariable> Parameters()
    {
        List<PtxVariable> parameters = [];
        Expect("(");
        long offset = 0;
        while (!TryTake(")"))
        {
            PtxVariable parameter = Variable(Take().Text.TrimStart('.'));
            offset = (offset + parameter.Alignment - 1) / parameter.Alignment * parameter.Alignment;
            parameter.Offset = offset;
            offset += parameter.Bytes;
            parameters.Add(parameter);
            TryTake(",");
        }
        return parameters;
    }

    private List<PtxVariable> Variables()
    {
        List<PtxVariable> variables = [Variable(Take().Text.TrimStart('.'))];
        if (Is(",")) throw Error("one variable a declaration is known");
        Expect(";");
        return variables;
    }

    private PtxVariable Variable(string space)
    {
        int alignment = 0, vector = 1;
        PtxType? type = null;
        while (Peek.Text.StartsWith('.'))
        {
            string word = Take().Text[1..];
            if (word is "ptr" or "global" or "shared" or "const" or "local" or "volatile" or "managed") continue;
            if (word == "align") alignment = (int)Take().Bits;
            else if (word is "v2" or "v4") vector = word[1] - '0';
            else if (word == "attribute") while (!TryTake(")")) Take();
            else type = PtxType.Parse(word) ?? throw Error($"'.{word}' is no type");
        }
        if (type is null) throw Error("a type was expected");
        string name = Take().Text;
        int element = type.Value.Bytes * vector;
        long count = 1;
        bool open = false;
        while (TryTake("["))
        {
            open = Is("]");
            count *= open ? 0 : Take().Bits;
            Expect("]");
        }
        PtxVariable Make(long elements) =>
            new(name, space, checked((int)(elements * element)), alignment == 0 ? element : alignment);
        if (!TryTake("=")) return Make(count);
        byte[] initial = Initial(type.Value);
        PtxVariable variable = Make(open ? initial.Length / element : count);
        variable.Initial = initial;
        return variable;
    }

    private byte[] Initial(PtxType type)
    {
        List<byte> bytes = [];
        Span<byte> value = stackalloc byte[8];
        int depth = 0;
        do
        {
            if (TryTake("{")) depth++;
            else if (TryTake("}")) depth--;
            else if (!TryTake(","))
            {
                ImmediateOperand literal = Literal();
                BinaryPrimitives.WriteInt64LittleEndian(value, AsType(literal, type));
                bytes.AddRange(value[..type.Bytes]);
            }
        }
        while (depth > 0);
        return [.. bytes];
    }

    /// <summary>The bits of a literal as a type has them.</summary>
    internal static long AsType(ImmediateOperand literal, PtxType type) => (literal.Kind, type) switch
    {
        ('d', { Kind: "f", Bits: 32 }) =>
            BitConverter.SingleToUInt32Bits((float)BitConverter.Int64BitsToDouble(literal.Bits)),
        ('f', { Kind: "f", Bits: 64 }) =>
            BitConverter.DoubleToInt64Bits(BitConverter.Int32BitsToSingle((int)literal.Bits)),
        _ => literal.Bits,
    };

    private void Block()
    {
        Expect("{");
        string outer = _labelScope;
        _labelScope = _registers.Count == 0 ? "" : $"{outer}/{_scopes++}";
        _registers.Push([]);
        _variables.Push([]);
        while (!TryTake("}")) Statement();
        _registers.Pop();
        _variables.Pop();
        _labelScope = outer;
    }

    private void Statement()
    {
        if (Is("{"))
        {
            Block();
            return;
        }
        if (TryTake(";")) return;
        if (Peek.Kind == PtxTokenKind.Word && _tokens[_at + 1].Text == ":")
        {
            string label = Take().Text;
            Take();
            if (Peek.Text is ".branchtargets") BranchTargets(label);
            else if (Peek.Text is ".callprototype") throw Error("indirect calls are not known");
            else _function!.Labels[Scoped(label)] = _function.Instructions.Count;
            return;
        }
        switch (Peek.Text)
        {
            case ".reg": Registers(); break;
            case ".shared" or ".local" or ".param" or ".global" or ".const":
                foreach (PtxVariable variable in Variables())
                {
                    _variables.Peek()[variable.Name] = variable;
                    _function!.Variables.Add(variable);
                }
                break;
            case ".loc": Location(); break;
            case ".pragma": while (!TryTake(";")) Take(); break;
            default: Instruction(); break;
        }
    }

    private string Scoped(string label) => label + _labelScope;

    private void BranchTargets(string name)
    {
        Take();
        List<string> labels = [];
        while (!TryTake(";"))
        {
            labels.Add(Scoped(Take().Text));
            TryTake(",");
        }
        _function!.Targets[name] = labels;
    }

    private void Location()
    {
        int line = Take().Line;
        int file = (int)Take().Bits;
        int at = (int)Take().Bits;
        if (at > 0) _location = (_files.GetValueOrDefault(file), at); // 0: the compiler's own
        // A column follows, and what it is inlined in.
        while (Peek.Line == line && Peek.Kind != PtxTokenKind.End && !Is("}")) Take();
    }

    private void Registers()
    {
        Take();
        string word = Take().Text;
        if (word is ".v2" or ".v4") throw Error("vector registers are not known");
        PtxType type = PtxType.Parse(word[1..]) ?? throw Error($"'{word}' is no type");
        do
        {
            string name = Take().Text;
            if (TryTake("<"))
            {
                long count = Take().Bits;
                Expect(">");
                for (long i = 0; i < count; i++) Declare($"{name}{i}", type);
            }
            else Declare(name, type);
        }
        while (TryTake(","));
        Expect(";");
    }

    private void Declare(string name, PtxType type)
    {
        PtxRegister register = new(name, type, _function!.Registers.Count);
        _function.Registers.Add(register);
        _registers.Peek()[name] = register;
    }

    private void Instruction()
    {
        RegisterOperand? guard = null;
        if (TryTake("@"))
        {
            bool negated = TryTake("!");
            guard = new RegisterOperand(Register(Take().Text), negated);
        }
        PtxToken opcode = Take();
        if (opcode.Kind != PtxTokenKind.Word || opcode.Text[0] == '.')
            throw new PtxException($"PTX line {opcode.Line}: an instruction was expected, not '{opcode.Text}'");
        List<PtxOperand> operands = [];
        while (!TryTake(";"))
        {
            operands.Add(Operand());
            if (!Is(";")) Expect(",");
        }
        string[] parts = opcode.Text.Split('.');
        _function!.Instructions.Add(new PtxInstruction(parts[0], parts[1..], operands, guard,
            new PtxLocation(opcode.Line, _location.File, _location.Line)));
    }

    private PtxOperand Operand()
    {
        PtxOperand operand = Simple();
        return TryTake("|") ? new PairOperand(operand, Simple()) : operand;
    }

    private PtxOperand Simple()
    {
        if (TryTake("{")) return List("}");
        if (TryTake("(")) return List(")");
        if (TryTake("[")) return Address();
        if (TryTake("!")) return new RegisterOperand(Register(Take().Text), Negated: true);
        if (Is("-") || Peek.Kind is PtxTokenKind.Integer or PtxTokenKind.Float or PtxTokenKind.Double) return Literal();
        return Named(Take().Text);
    }

    private VectorOperand List(string end)
    {
        List<PtxOperand> elements = [];
        while (!TryTake(end))
        {
            elements.Add(Operand());
            TryTake(",");
        }
        return new VectorOperand(elements);
    }

    private AddressOperand Address()
    {
        PtxOperand? from = Peek.Kind == PtxTokenKind.Integer || Is("-") ? null : Named(Take().Text);
        long offset = from is null ? Literal().Bits : 0;
        if (TryTake("+")) offset += Literal().Bits;
        else if (Is("-")) offset += Literal().Bits;
        PtxOperand? coordinates = TryTake(",") ? Operand() : null;
        Expect("]");
        return new AddressOperand(from, offset, coordinates);
    }

    private ImmediateOperand Literal()
    {
        bool negative = TryTake("-");
        PtxToken token = Take();
        return token.Kind switch
        {
            PtxTokenKind.Integer => new(negative ? -token.Bits : token.Bits, 'i'),
            PtxTokenKind.Float => new(negative ? token.Bits ^ 0x8000_0000 : token.Bits, 'f'),
            PtxTokenKind.Double => new(negative ? token.Bits ^ long.MinValue : token.Bits, 'd'),
            _ => throw new PtxException($"PTX line {token.Line}: a number was expected, not '{token.Text}'"),
        };
    }

    private PtxOperand Named(string name)
    {
        if (name == "_") return new SinkOperand();
        if (name == "WARP_SZ") return new ImmediateOperand(32, 'i');
        foreach (Dictionary<string, PtxRegister> scope in _registers)
            if (scope.TryGetValue(name, out PtxRegister? register)) return new RegisterOperand(register);
        if (name[0] == '%') return new SpecialOperand(name);
        foreach (Dictionary<string, PtxVariable> scope in _variables)
            if (scope.TryGetValue(name, out PtxVariable? variable)) return new NameOperand(name, variable);
        if (_module.Variables.TryGetValue(name, out PtxVariable? global)) return new NameOperand(name, global);
        return new NameOperand(Scoped(name), null);
    }

    private PtxRegister Register(string name) =>
        Named(name) is RegisterOperand { Register: var register } ? register : throw Error($"{name} is no register");
}
