using System.Collections;
using System.Runtime.InteropServices;

namespace Native.Tests.Gpu.Machine;

/// <summary>The modifiers of an instruction, taken one by one: what is left at the end is not known.</summary>
internal sealed class Form(PtxInstruction instruction)
{
    private readonly List<string> _left = [.. instruction.Modifiers];

    public PtxInstruction Instruction => instruction;

    public IReadOnlyList<PtxOperand> Operands => instruction.Operands;

    public bool Take(string modifier) => _left.Remove(modifier);

    public string? TakeOne(params ReadOnlySpan<string> modifiers)
    {
        foreach (string modifier in modifiers)
            if (_left.Remove(modifier)) return modifier;
        return null;
    }

    /// <summary>The next modifier that is a type.</summary>
    public PtxType TakeType()
    {
        for (int i = 0; i < _left.Count; i++)
        {
            if (PtxType.Parse(_left[i]) is not { } type) continue;
            _left.RemoveAt(i);
            return type;
        }
        throw Unknown("it has no type");
    }

    public bool HasType => _left.Exists(modifier => PtxType.Parse(modifier) is not null);

    /// <exception cref="PtxException">Something is left that nobody took, or there are other operands.</exception>
    public void End(int least, int most = -1)
    {
        if (_left.Count > 0) throw Unknown($"'.{string.Join('.', _left)}' is not known there");
        if (Operands.Count < least || Operands.Count > Math.Max(least, most))
            throw Unknown($"it has {Operands.Count} operands");
    }

    public PtxException Unknown(string why) => new($"{instruction.Location}: {instruction}: {why}");
}

/// <summary>Makes of a kernel's PTX what the machine executes: for each instruction a pointer to what it does, and
/// where its operands lie.</summary>
internal sealed unsafe partial class PtxCompiler
{
    private const int Temporaries = 16;

    private readonly PtxFunction _function;
    private readonly string _target;
    private readonly List<Op> _ops = [];
    private readonly List<int> _slots = [], _branches = [], _labelSlots = [];
    private readonly int[] _registers;
    private readonly int[] _defined;
    private readonly int[] _temporaries = new int[9], _usedTemporaries = new int[9];
    private readonly Dictionary<(ulong Bits, int Width), int> _constants = [];
    private readonly Dictionary<string, (int Slot, int Bytes)> _specials = [];
    private readonly List<(int From, int Slot, int Width, bool Signed)> _after = [];
    private readonly List<(int Slot, ulong Bits, int Width)> _initial = [];
    private int _bytes, _sharedBytes, _sharedExtent, _localBytes, _source;
    private readonly List<int> _gaps = [];
    private readonly List<PtxVariable> _shared = [];
    private bool _hasPartialBarriers;

    private PtxCompiler(PtxFunction function, string target)
    {
        _function = function;
        _target = target;
        (int[] places, int[] counts, BitArray undefined, int live) =
            Liveness.Of(function, label => LabelOf(label, function.Instructions.Count));
        LiveRegisters = live;
        int[] starts = new int[9];
        foreach (int width in (int[])[1, 2, 4, 8])
        {
            starts[width] = Reserve(counts[width] * SlotBytes(width));
            _temporaries[width] = Reserve(Temporaries * SlotBytes(width));
        }
        _registers = new int[places.Length];
        _defined = new int[places.Length];
        for (int i = 0; i < places.Length; i++)
        {
            int width = Liveness.WidthOf(function.Registers[i].Type);
            _registers[i] = places[i] < 0 ? -1 : starts[width] + places[i] * SlotBytes(width);
            _defined[i] = -1;
        }
        Place(function);
        FindUndefined(undefined);
        FindGroupRegisters();
    }

    private int LiveRegisters { get; }

    /// <summary>Compiles a kernel.</summary>
    /// <exception cref="PtxException">It has something that the machine does not know; the line is named.</exception>
    public static Kernel Compile(PtxModule module, PtxFunction kernel)
    {
        PtxFunction function = Inliner.Flatten(module, kernel);
        PtxCompiler compiler = new(function, module.Target);
        compiler.PlaceShared(module.Variables.Values.Concat(function.Variables));
        return compiler.Compile();
    }

    private Kernel Compile()
    {
        int[] starts = new int[_function.Instructions.Count + 1];
        List<PtxRegister> written = [], read = [];
        for (_source = 0; _source < _function.Instructions.Count; _source++)
        {
            starts[_source] = _ops.Count;
            PtxInstruction instruction = _function.Instructions[_source];
            Array.Clear(_usedTemporaries);
            Liveness.Touched(instruction, written, read);
            if (_groupRegisters.Count > 0) FollowProducts(instruction, written, read);
            if (_hasUndefined) FollowDefinedness(instruction, written, read);
            Form form = new(instruction);
            Instruction(form);
            foreach ((int from, int slot, int width, bool signed) in _after)
            {
                int own = width & 0xff, own2 = width >> 8;
                Emit(Lanes.Resize(own, own2, signed), d: slot, a: from, counts: false);
            }
            _after.Clear();
        }
        starts[_source] = _ops.Count;
        _source = Math.Max(0, _source - 1);
        Emit(&Warp.ExecuteExit, counts: false, guarded: false); // the end of the text ends a kernel too
        foreach (int branch in _branches) At(branch).Target = starts[At(branch).Target];
        foreach (int slot in _labelSlots) _slots[slot] = starts[_slots[slot]];
        return new Kernel(_function, _ops, _slots, Template(), _target)
        {
            Specials = _specials,
            SharedBytes = _sharedBytes,
            SharedExtent = _sharedExtent,
            SharedGaps = _gaps,
            SharedVariables = _shared,
            LocalBytes = _localBytes,
            HasPartialBarriers = _hasPartialBarriers,
            LiveRegisters = LiveRegisters,
        };
    }

    private byte[] Template()
    {
        byte[] template = new byte[(_bytes + 63) / 64 * 64];
        fixed (byte* at = template)
        {
            foreach ((int slot, ulong bits, int width) in _initial)
            {
                for (int lane = 0; lane < 32 && width > 1; lane++)
                {
                    if (width == 8) *(ulong*)(at + slot + lane * 8) = bits;
                    else if (width == 4) *(uint*)(at + slot + lane * 4) = (uint)bits;
                    else *(ushort*)(at + slot + lane * 2) = (ushort)bits;
                }
                if (width == 1) *(uint*)(at + slot) = bits == 0 ? 0 : uint.MaxValue;
            }
        }
        return template;
    }

    private int LabelOf(string name, int count)
    {
        for (string label = name; ;)
        {
            if (_function.Labels.TryGetValue(label, out int at)) return at;
            int slash = label.LastIndexOf('/');
            if (slash < 0) break;
            int end = label.IndexOf('#', slash); // a copy's labels keep their mark
            label = label[..slash] + (end < 0 ? "" : label[end..]);
        }
        throw new PtxException($"the label {name} of {_function.Name} is nowhere, in {count} instructions");
    }

    // Where things lie.

    private static int SlotBytes(int width) => width == 1 ? 64 : Math.Max(64, 32 * width);

    private int Reserve(int bytes)
    {
        int at = _bytes;
        _bytes += bytes;
        return at;
    }

    private void Place(PtxFunction function)
    {
        foreach (PtxVariable variable in function.Variables)
        {
            if (variable.Space is "local" or "param")
            {
                variable.Offset = _localBytes = Align(_localBytes, variable.Alignment);
                _localBytes += variable.Bytes;
            }
        }
    }

    /// <summary>Those of unknown size lie behind all others: what the launch adds. Between two there is a gap that
    /// belongs to none, so that who goes past the end of one is not taken to mean the next.</summary>
    private void PlaceShared(IEnumerable<PtxVariable> variables)
    {
        foreach (PtxVariable variable in variables.Where(v => v.Space == "shared").OrderBy(v => v.Bytes == 0))
        {
            int alignment = variable.Bytes == 0 ? Math.Max(16, variable.Alignment) : variable.Alignment;
            if (_sharedExtent > 0 && (_gaps.Count == 0 || _gaps[^1] + Kernel.GapBytes < _sharedExtent))
            {
                _gaps.Add(_sharedExtent);
                _sharedExtent += Kernel.GapBytes;
            }
            variable.Offset = _sharedExtent = Align(_sharedExtent, alignment);
            _sharedExtent += variable.Bytes;
            _shared.Add(variable);
            _sharedBytes = Align(_sharedBytes, alignment) + variable.Bytes;
        }
    }

    private static int Align(int at, int alignment) => (at + alignment - 1) / alignment * alignment;

    private int Temporary(int width)
    {
        if (_usedTemporaries[width] == Temporaries)
            throw new PtxException($"{_function.Instructions[_source].Location}: too many operands");
        return _temporaries[width] + _usedTemporaries[width]++ * SlotBytes(width);
    }

    private int Constant(ulong bits, int width)
    {
        if (width < 8 && width > 1) bits &= (1ul << (8 * width)) - 1;
        if (_constants.TryGetValue((bits, width), out int slot)) return slot;
        slot = Reserve(SlotBytes(width));
        _initial.Add((slot, bits, width));
        return _constants[(bits, width)] = slot;
    }

    // Operands.

    /// <summary>Where an operand of a type can be read, after what has to be done to it.</summary>
    private int Read(PtxOperand operand, PtxType type, int width = 0)
    {
        if (width == 0) width = type.Bits == 1 ? 1 : type.Bytes;
        switch (operand)
        {
            case RegisterOperand { Negated: false, Register: var register }:
                int own = Liveness.WidthOf(register.Type);
                if (own == width && (own == 1) == (register.Type.Bits == 1)) return _registers[register.Index];
                if (register.Type.Bits == 1 || type.Bits == 1)
                    throw Wrong($"{register} is {register.Type}, not {type}");
                if (own == 0) throw Wrong($"{register}: registers of {register.Type} are not known");
                int resized = Temporary(width);
                Emit(Lanes.Resize(own, width, type.IsSigned), d: resized, a: _registers[register.Index], counts: false);
                return resized;
            case RegisterOperand { Register.Type.Bits: 1, Register: var predicate }:
                int negated = Temporary(1);
                Emit(&Lanes.Predicates, d: negated, a: _registers[predicate.Index], count: 4, counts: false);
                return negated;
            case ImmediateOperand literal:
                return Constant((ulong)PtxParser.AsType(literal, type), width);
            case SpecialOperand special: return Special(special.Name, width);
            case NameOperand { Variable: { } variable }: return Constant((ulong)variable.Offset, width);
            default: throw Wrong("an operand is not one that can be read");
        }
    }

    private int Special(string name, int width)
    {
        if (name is "%clock" or "%clock_hi" or "%clock64" or "%globaltimer" or "%globaltimer_lo" or "%globaltimer_hi")
        {
            int clock = Temporary(width);
            Emit(&Warp.ExecuteClock, d: clock, count: width, counts: false);
            return clock;
        }
        if (!Warp.IsSpecial(name)) throw Wrong($"{name} is not known");
        int bytes = width == 8 ? 8 : 4;
        string key = name;
        if (!_specials.TryGetValue(key, out (int Slot, int Bytes) special))
            _specials[key] = special = (Reserve(SlotBytes(bytes)), bytes);
        if (special.Bytes == width) return special.Slot;
        int resized = Temporary(width);
        Emit(Lanes.Resize(special.Bytes, width, false), d: resized, a: special.Slot, counts: false);
        return resized;
    }

    /// <summary>Where a result of a width is to be written; -1 for one that is dropped, if the instruction may.
    /// </summary>
    private int Write(PtxOperand operand, int width, bool signed = false, bool mayDrop = false)
    {
        if (operand is SinkOperand) return mayDrop ? -1 : Temporary(width);
        if (operand is not RegisterOperand { Register: var register, Negated: false })
            throw Wrong("a result goes to what is no register");
        int own = Liveness.WidthOf(register.Type);
        if ((register.Type.Bits == 1) != (width == 1 && register.Type.Bits == 1))
            throw Wrong($"{register} is {register.Type}");
        if (own == width) return _registers[register.Index];
        if (own == 0 || register.Type.Bits == 1) throw Wrong($"{register} is {register.Type}");
        int result = Temporary(width);
        _after.Add((result, _registers[register.Index], width | own << 8, signed));
        return result;
    }

    private int WritePredicate(PtxOperand operand, bool mayDrop = false)
    {
        if (operand is SinkOperand) return mayDrop ? -1 : Temporary(1);
        return operand is RegisterOperand { Register: { Type.Bits: 1 } register } ? _registers[register.Index]
            : throw Wrong("a predicate was expected");
    }

    private PtxException Wrong(string what) =>
        new($"{_function.Instructions[_source].Location}: {_function.Instructions[_source]}: {what}");

    /// <summary>A predicate operand's slot, and whether it is negated.</summary>
    private (int Slot, bool Negated) Predicate(PtxOperand operand) => operand switch
    {
        RegisterOperand { Register: { Type.Bits: 1 } register } r => (_registers[register.Index], r.Negated),
        ImmediateOperand literal => (Constant((ulong)(literal.Bits != 0 ? 1 : 0), 1), false),
        _ => throw Wrong("a predicate was expected"),
    };

    private int Emit(
        Execute execute, int d = -1, int a = -1, int b = -1, int c = -1, int e = -1, int count = 0,
        long immediate = 0, long immediate2 = 0, bool counts = true, bool negated = false, bool guarded = true)
    {
        RegisterOperand? guard = guarded ? _function.Instructions[_source].Guard : null;
        _ops.Add(new Op
        {
            Execute = execute,
            D = d,
            A = a,
            B = b,
            C = c,
            E = e,
            Count = count,
            Immediate = immediate,
            Immediate2 = immediate2,
            Target = -1,
            Guard = guard is null ? -1 : _registers[guard.Register.Index],
            GuardNegated = guard?.Negated ?? false,
            IsNegatedA = negated,
            Source = _source,
            IsCounted = counts,
        });
        return _ops.Count - 1;
    }

    private ref Op At(int op) => ref CollectionsMarshal.AsSpan(_ops)[op];

    private void Instruction(Form form)
    {
        string opcode = form.Instruction.Opcode;
        bool known = Arithmetic(form, opcode) || Bits(form, opcode) || Moves(form, opcode) || Memory(form, opcode)
            || Control(form, opcode) || Across(form, opcode) || Asynchronous(form, opcode) || Matrix(form, opcode)
            || Hopper(form, opcode);
        if (!known) throw form.Unknown("the machine does not know this instruction");
    }
}
