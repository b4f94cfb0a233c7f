namespace Native.Tests.Gpu.Machine;

/// <summary>A fundamental type of PTX: its letters and its width, such as u32, bf16x2 or pred.</summary>
internal readonly record struct PtxType(string Kind, int Bits)
{
    public static readonly PtxType Predicate = new("pred", 1);

    public int Bytes => Math.Max(1, Bits / 8);

    public bool IsFloat => Kind is "f" or "bf" or "tf";

    public bool IsSigned => Kind == "s";

    public bool IsInteger => Kind is "s" or "u" or "b";

    /// <summary>The type that a word names, if it names one. <c>f16x2</c> and <c>bf16x2</c> have 32 bits.</summary>
    public static PtxType? Parse(string word) => word switch
    {
        "pred" => Predicate,
        "f16x2" or "bf16x2" => new(word, 32),
        "e4m3" or "e5m2" => new(word, 8),
        "e4m3x2" or "e5m2x2" => new(word, 16),
        "bf16" => new("bf", 16),
        "tf32" => new("tf", 32),
        "b1" or "s4" or "u4" or "u8" or "s8" or "b8" or "u16" or "s16" or "b16" or "u32" or "s32" or "b32" or "u64"
            or "s64" or "b64" or "b128" or "f16" or "f32" or "f64" => new(word[..1], int.Parse(word[1..])),
        _ => null,
    };

    public override string ToString() => Kind.EndsWith("x2") || Kind[0] == 'e' || Bits == 1 ? Kind : $"{Kind}{Bits}";
}

/// <summary>A virtual register, as declared.</summary>
internal sealed class PtxRegister(string name, PtxType type, int index)
{
    public string Name => name;

    public PtxType Type => type;

    /// <summary>Its number among those of the function.</summary>
    public int Index => index;

    public override string ToString() => name;
}

/// <summary>A variable in some state space, or a parameter. <see cref="Bytes"/> is 0 for <c>extern .shared x[]</c>.
/// </summary>
internal sealed class PtxVariable(string name, string space, int bytes, int alignment)
{
    public string Name => name;

    public string Space => space;

    public int Bytes => bytes;

    public int Alignment => alignment;

    /// <summary>Where it lies in its space; an address of its own for global ones, once the module is loaded.</summary>
    public long Offset { get; set; }

    public byte[]? Initial { get; set; }

    public override string ToString() => name;
}

internal abstract record PtxOperand;

/// <summary>A register, negated where it is a predicate after an exclamation mark.</summary>
internal sealed record RegisterOperand(PtxRegister Register, bool Negated = false) : PtxOperand;

/// <summary>A literal. <see cref="Bits"/> are those of a double where <see cref="Kind"/> is 'd' or of a float where it
/// is 'f'; otherwise a 64-bit integer.</summary>
internal sealed record ImmediateOperand(long Bits, char Kind) : PtxOperand;

/// <summary>What the machine keeps for each thread, such as <c>%tid.x</c>.</summary>
internal sealed record SpecialOperand(string Name) : PtxOperand;

/// <summary>The name of a variable, a function or a label.</summary>
internal sealed record NameOperand(string Name, PtxVariable? Variable) : PtxOperand;

/// <summary><c>[base + offset]</c>; tensor copies add coordinates.</summary>
internal sealed record AddressOperand(PtxOperand? Base, long Offset, PtxOperand? Coordinates) : PtxOperand;

internal sealed record VectorOperand(IReadOnlyList<PtxOperand> Elements) : PtxOperand;

/// <summary><c>p|q</c>.</summary>
internal sealed record PairOperand(PtxOperand First, PtxOperand Second) : PtxOperand;

/// <summary><c>_</c>: what is written there is dropped.</summary>
internal sealed record SinkOperand : PtxOperand;

/// <summary>Where an instruction comes from: its line in the PTX, and in the source if <c>.loc</c> tells.</summary>
internal readonly record struct PtxLocation(int Line, string? File, int SourceLine)
{
    public override string ToString() => File is null ? $"PTX line {Line}" : $"{File}:{SourceLine} (PTX line {Line})";
}

/// <summary>One instruction: <c>@p op.modifiers operands;</c></summary>
internal sealed record PtxInstruction(
    string Opcode, IReadOnlyList<string> Modifiers, IReadOnlyList<PtxOperand> Operands, RegisterOperand? Guard,
    PtxLocation Location)
{
    public override string ToString() => string.Join('.', Modifiers.Prepend(Opcode));
}

/// <summary>A kernel or a device function. Labels are numbers of instructions.</summary>
internal sealed class PtxFunction(string name, bool isKernel)
{
    public string Name => name;

    public bool IsKernel => isKernel;

    public List<PtxVariable> Parameters { get; } = [];

    public List<PtxVariable> Results { get; } = [];

    public List<PtxRegister> Registers { get; } = [];

    public List<PtxVariable> Variables { get; } = [];

    public List<PtxInstruction> Instructions { get; } = [];

    public Dictionary<string, int> Labels { get; } = [];

    /// <summary>Label lists of <c>.branchtargets</c>.</summary>
    public Dictionary<string, IReadOnlyList<string>> Targets { get; } = [];

    /// <summary>Threads a block may have, by <c>.maxntid</c>; 1024 where it is not said.</summary>
    public int MaxThreads { get; set; } = 1024;
}

/// <summary>A PTX text, parsed.</summary>
internal sealed class PtxModule
{
    /// <summary>Ten times the version: 74 for 7.4.</summary>
    public int Version { get; set; }

    public string Target { get; set; } = "";

    public Dictionary<string, PtxFunction> Functions { get; } = [];

    public Dictionary<string, PtxVariable> Variables { get; } = [];
}

/// <summary>A text that is no PTX, or PTX that the machine does not know. Names the line.</summary>
internal sealed class PtxException(string message) : Exception(message);
