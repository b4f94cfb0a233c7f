namespace Native.Tests.Gpu.Machine;

/// <summary>Bits, moves and conversions.</summary>
internal sealed unsafe partial class PtxCompiler
{
    private static readonly PtxType s_word = new("b", 32), s_long = new("b", 64), s_unsigned = new("u", 32);

    private bool Bits(Form form, string opcode)
    {
        switch (opcode)
        {
            case "and" or "or" or "xor" or "not" or "cnot": Logic(form, opcode); return true;
            case "shl" or "shr": Shift(form, opcode); return true;
            case "shf": Funnel(form); return true;
            case "popc" or "clz" or "brev" or "bfind": Count(form, opcode); return true;
            case "bfe": Extract(form); return true;
            case "bfi": Insert(form); return true;
            case "prmt":
                form.Take("b32");
                form.End(4);
                EmitWords(&Lanes.Each3<uint, uint, uint, uint, Permute>, form);
                return true;
            case "lop3":
                form.Take("b32");
                form.End(5);
                int[] words = [.. form.Operands.Skip(1).Take(3).Select(operand => Read(operand, s_word))];
                long table = ((ImmediateOperand)form.Operands[4]).Bits;
                Emit(&Warp.ExecuteLogic3, Write(form.Operands[0], 4), words[0], words[1], words[2], immediate: table);
                return true;
            default: return false;
        }
    }

    private void EmitWords(Execute execute, Form form)
    {
        int a = Read(form.Operands[1], s_word), b = Read(form.Operands[2], s_word), c = Read(form.Operands[3], s_word);
        Emit(execute, Write(form.Operands[0], 4), a, b, c);
    }

    private void Logic(Form form, string opcode)
    {
        PtxType type = form.TakeType();
        bool one = opcode is "not" or "cnot";
        form.End(one ? 2 : 3);
        if (type.Bits == 1)
        {
            (int a, bool negatedA) = Predicate(form.Operands[1]);
            (int b, bool negatedB) = one ? (-1, false) : Predicate(form.Operands[2]);
            int mode = opcode switch { "and" => 1, "or" => 2, "xor" => 3, _ => 4 };
            Emit(&Lanes.Predicates, WritePredicate(form.Operands[0]), a, b, count: mode,
                immediate: (negatedA ? 1 : 0) | (negatedB ? 2 : 0));
            return;
        }
        int first = Read(form.Operands[1], type), second = one ? -1 : Read(form.Operands[2], type);
        Execute execute = (opcode, type.Bits) switch
        {
            ("and", 16) => &Lanes.Map2<ushort, And<ushort>>,
            ("and", 32) => &Lanes.Map2<uint, And<uint>>,
            ("and", 64) => &Lanes.Map2<ulong, And<ulong>>,
            ("or", 16) => &Lanes.Map2<ushort, Or<ushort>>,
            ("or", 32) => &Lanes.Map2<uint, Or<uint>>,
            ("or", 64) => &Lanes.Map2<ulong, Or<ulong>>,
            ("xor", 16) => &Lanes.Map2<ushort, Xor<ushort>>,
            ("xor", 32) => &Lanes.Map2<uint, Xor<uint>>,
            ("xor", 64) => &Lanes.Map2<ulong, Xor<ulong>>,
            ("not", 16) => &Lanes.Map<ushort, Not<ushort>>,
            ("not", 32) => &Lanes.Map<uint, Not<uint>>,
            ("not", 64) => &Lanes.Map<ulong, Not<ulong>>,
            ("cnot", 16) => &Lanes.Each<ushort, ushort, CNot<ushort>>,
            ("cnot", 32) => &Lanes.Each<uint, uint, CNot<uint>>,
            ("cnot", 64) => &Lanes.Each<ulong, ulong, CNot<ulong>>,
            _ => throw form.Unknown($"it is not known for {type}"),
        };
        Emit(execute, Write(form.Operands[0], type.Bytes), first, second);
    }

    private void Shift(Form form, string opcode)
    {
        PtxType type = form.TakeType();
        form.End(3);
        int a = Read(form.Operands[1], type), b = Read(form.Operands[2], s_unsigned);
        Execute execute = (opcode, type.Bits, type.IsSigned) switch
        {
            ("shl", 16, _) => &Lanes.Each2<ushort, uint, ushort, ShiftLeft<ushort>>,
            ("shl", 32, _) => &Lanes.Map2<uint, ShiftLeft32>,
            ("shl", 64, _) => &Lanes.Each2<ulong, uint, ulong, ShiftLeft<ulong>>,
            ("shr", 16, true) => &Lanes.Each2<short, uint, short, ShiftRight<short>>,
            ("shr", 16, false) => &Lanes.Each2<ushort, uint, ushort, ShiftRight<ushort>>,
            ("shr", 32, true) => &Lanes.Map2<uint, ShiftRightSigned32>,
            ("shr", 32, false) => &Lanes.Map2<uint, ShiftRight32>,
            ("shr", 64, true) => &Lanes.Each2<long, uint, long, ShiftRight<long>>,
            ("shr", 64, false) => &Lanes.Each2<ulong, uint, ulong, ShiftRight<ulong>>,
            _ => throw form.Unknown($"it is not known for {type}"),
        };
        Emit(execute, Write(form.Operands[0], type.Bytes, type.IsSigned), a, b);
    }

    private void Funnel(Form form)
    {
        bool left = form.TakeOne("l", "r") == "l", wraps = form.TakeOne("wrap", "clamp") == "wrap";
        form.Take("b32");
        form.End(4);
        EmitWords((left, wraps) switch
        {
            (true, true) => &Lanes.Each3<uint, uint, uint, uint, FunnelLeft>,
            (true, false) => &Lanes.Each3<uint, uint, uint, uint, FunnelLeftClamped>,
            (false, true) => &Lanes.Each3<uint, uint, uint, uint, FunnelRight>,
            _ => &Lanes.Each3<uint, uint, uint, uint, FunnelRightClamped>,
        }, form);
    }

    private void Count(Form form, string opcode)
    {
        bool shiftAmount = form.Take("shiftamt");
        PtxType type = form.TakeType();
        form.End(2);
        int a = Read(form.Operands[1], type);
        Execute execute = (opcode, type.Bits, type.IsSigned, shiftAmount) switch
        {
            ("popc", 32, _, _) => &Lanes.Each<uint, uint, PopCount<uint>>,
            ("popc", 64, _, _) => &Lanes.Each<ulong, uint, PopCount<ulong>>,
            ("clz", 32, _, _) => &Lanes.Each<uint, uint, LeadingZeros<uint>>,
            ("clz", 64, _, _) => &Lanes.Each<ulong, uint, LeadingZeros<ulong>>,
            ("brev", 32, _, _) => &Lanes.Each<uint, uint, Reverse32>,
            ("brev", 64, _, _) => &Lanes.Each<ulong, ulong, Reverse64>,
            ("bfind", 32, true, false) => &Lanes.Each<int, uint, FindBit<int>>,
            ("bfind", 32, false, false) => &Lanes.Each<uint, uint, FindBit<uint>>,
            ("bfind", 64, true, false) => &Lanes.Each<long, uint, FindBit<long>>,
            ("bfind", 64, false, false) => &Lanes.Each<ulong, uint, FindBit<ulong>>,
            ("bfind", 32, true, true) => &Lanes.Each<int, uint, FindShift<int>>,
            ("bfind", 32, false, true) => &Lanes.Each<uint, uint, FindShift<uint>>,
            ("bfind", 64, true, true) => &Lanes.Each<long, uint, FindShift<long>>,
            ("bfind", 64, false, true) => &Lanes.Each<ulong, uint, FindShift<ulong>>,
            _ => throw form.Unknown($"it is not known for {type}"),
        };
        Emit(execute, Write(form.Operands[0], opcode == "brev" ? type.Bytes : 4), a);
    }

    private void Extract(Form form)
    {
        PtxType type = form.TakeType();
        form.End(4);
        int a = Read(form.Operands[1], type);
        int b = Read(form.Operands[2], s_unsigned), c = Read(form.Operands[3], s_unsigned);
        Execute execute = (type.Bits, type.IsSigned) switch
        {
            (32, true) => &Lanes.Each3<int, uint, uint, int, ExtractBits<int>>,
            (32, false) => &Lanes.Each3<uint, uint, uint, uint, ExtractBits<uint>>,
            (64, true) => &Lanes.Each3<long, uint, uint, long, ExtractBits<long>>,
            (64, false) => &Lanes.Each3<ulong, uint, uint, ulong, ExtractBits<ulong>>,
            _ => throw form.Unknown($"it is not known for {type}"),
        };
        Emit(execute, Write(form.Operands[0], type.Bytes, type.IsSigned), a, b, c);
    }

    private void Insert(Form form)
    {
        PtxType type = form.TakeType();
        form.End(5);
        int a = Read(form.Operands[1], type), b = Read(form.Operands[2], type);
        int c = Read(form.Operands[3], s_unsigned), e = Read(form.Operands[4], s_unsigned);
        Emit(type.Bits == 64 ? &Warp.ExecuteInsert<ulong> : &Warp.ExecuteInsert<uint>,
            Write(form.Operands[0], type.Bytes), a, b, c, e, count: type.Bits);
    }

    private bool Moves(Form form, string opcode)
    {
        switch (opcode)
        {
            case "mov": Move(form); return true;
            case "selp": SelectByPredicate(form); return true;
            case "slct": SelectBySign(form); return true;
            case "cvt": Convert(form); return true;
            case "cvta": ConvertAddress(form); return true;
            case "isspacep":
                string? space = form.TakeOne("global", "shared", "shared::cta", "shared::cluster", "local", "const",
                    "param", "param::entry");
                form.End(2);
                Emit(&Warp.ExecuteIsSpace, WritePredicate(form.Operands[0]), Read(form.Operands[1], s_long),
                    count: space![0] switch { 'g' => 0, 's' => 1, 'l' => 2, _ => 3 });
                return true;
            case "mapa": // a cluster of one block: an address is its own
                form.TakeOne("shared::cluster");
                PtxType type = form.TakeType();
                form.End(3);
                Emit(Lanes.Resize(type.Bytes, type.Bytes, false), Write(form.Operands[0], type.Bytes),
                    Read(form.Operands[1], type));
                return true;
            case "createpolicy": // a hint for caches
                while (form.TakeOne("fractional", "L2::evict_last", "L2::evict_normal", "L2::evict_first",
                    "L2::evict_unchanged") is not null) { }
                form.Take("b64");
                form.End(1, 3);
                Emit(&Lanes.Map<ulong, Same<ulong>>, Write(form.Operands[0], 8), Constant(0, 8));
                return true;
            default: return false;
        }
    }

    private void Move(Form form)
    {
        PtxType type = form.TakeType();
        form.End(2);
        if (type.Bits == 1)
        {
            (int from, bool negated) = Predicate(form.Operands[1]);
            Emit(&Lanes.Predicates, WritePredicate(form.Operands[0]), from, immediate: negated ? 1 : 0);
            return;
        }
        if (form.Operands[0] is VectorOperand targets) Unpack(targets.Elements, type, form.Operands[1]);
        else if (form.Operands[1] is VectorOperand sources) Pack(form, form.Operands[0], type, sources.Elements);
        else
        {
            int from = Read(form.Operands[1], type);
            Emit(Lanes.Resize(type.Bytes, type.Bytes, false), Write(form.Operands[0], type.Bytes), from);
        }
    }

    /// <summary>mov.b64 {a, b}, c: the lower part first.</summary>
    private void Unpack(IReadOnlyList<PtxOperand> targets, PtxType type, PtxOperand source)
    {
        int width = type.Bytes / targets.Count, from = Read(source, type);
        for (int i = 0; i < targets.Count; i++)
        {
            if (targets[i] is SinkOperand) continue;
            int part = Temporary(width);
            Emit(&Warp.ExecuteTakePart, part, from, count: width, immediate: i * width, immediate2: type.Bytes,
                counts: i == 0);
            int to = Write(targets[i], width);
            _after.Add((part, to, width | width << 8, false));
        }
    }

    private void Pack(Form form, PtxOperand target, PtxType type, IReadOnlyList<PtxOperand> sources)
    {
        int width = type.Bytes / sources.Count, whole = Temporary(type.Bytes);
        if (width * sources.Count != type.Bytes) throw form.Unknown($"{sources.Count} parts of {type}");
        for (int i = 0; i < sources.Count; i++)
            Emit(&Warp.ExecutePutPart, whole, Read(sources[i], new("b", 8 * width)), count: width, immediate: i * width,
                immediate2: type.Bytes, counts: i == 0);
        int to = Write(target, type.Bytes);
        _after.Add((whole, to, type.Bytes | type.Bytes << 8, false));
    }

    private void SelectByPredicate(Form form)
    {
        PtxType type = form.TakeType();
        form.End(4);
        int a = Read(form.Operands[1], type), b = Read(form.Operands[2], type);
        (int holds, bool negated) = Predicate(form.Operands[3]);
        Execute execute = type.Bytes switch
        {
            2 => &Lanes.Select<ushort>,
            4 => &Lanes.Select<uint>,
            _ => &Lanes.Select<ulong>,
        };
        Emit(execute, Write(form.Operands[0], type.Bytes, type.IsSigned), a, b, holds, negated: negated);
    }

    private void SelectBySign(Form form)
    {
        bool flush = form.Take("ftz");
        PtxType type = form.TakeType(), by = form.TakeType();
        form.End(4);
        int a = Read(form.Operands[1], type), b = Read(form.Operands[2], type), c = Read(form.Operands[3], by);
        if (flush) c = FlushedInput(c);
        int holds = Temporary(1);
        Execute compare = by.Kind == "f" ? &Lanes.Compare<float, GreaterOrEqual<float>>
            : &Lanes.Compare<int, GreaterOrEqual<int>>;
        Emit(compare, holds, c, Constant(0, 4), counts: false);
        Emit(type.Bytes switch { 2 => &Lanes.Select<ushort>, 4 => &Lanes.Select<uint>, _ => &Lanes.Select<ulong> },
            Write(form.Operands[0], type.Bytes), a, b, holds);
    }

    private void ConvertAddress(Form form)
    {
        bool to = form.Take("to");
        string? space = form.TakeOne("global", "shared", "shared::cta", "local", "const", "param", "param::entry");
        PtxType type = form.TakeType();
        form.End(2);
        int a = Read(form.Operands[1], type);
        int d = Write(form.Operands[0], type.Bytes);
        long window = space![0] switch
        {
            's' => Warp.SharedWindow,
            'l' => Warp.LocalWindow,
            'p' => Warp.ParameterWindow,
            _ => 0,
        };
        if (window == 0 || type.Bytes != 8) Emit(Lanes.Resize(type.Bytes, type.Bytes, false), d, a);
        else if (to) Emit(&Lanes.Map2<ulong, Sub<ulong>>, d, a, Constant((ulong)window, 8));
        else Emit(&Lanes.Map2<ulong, Add<ulong>>, d, a, Constant((ulong)window, 8));
    }

    private void Convert(Form form)
    {
        string? rounding = form.TakeOne("rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi");
        bool flush = form.Take("ftz"), relu = form.Take("relu");
        bool saturates = form.Take("sat") | form.Take("satfinite");
        if (form.Take("pack"))
        {
            ConvertPack(form);
            return;
        }
        PtxType to = form.TakeType(), from = form.TakeType();
        if (to.ToString() is "f16x2" or "bf16x2" or "e4m3x2" or "e5m2x2" || from.ToString() is "e4m3x2" or "e5m2x2")
        {
            ConvertPair(form, to, from, rounding, relu);
            return;
        }
        form.End(2);
        if (relu && !(to.Bits == 16 && from.Bits == 32)) throw form.Unknown("'.relu' is not known there");
        int a = Read(form.Operands[1], from, from.Bytes), width = to.Bytes;
        if (flush && from is { Kind: "f", Bits: 32 } && to.IsFloat) a = FlushedInput(a);
        int d = Write(form.Operands[0], width, to.IsSigned);
        if (from.IsInteger && to.IsInteger)
        {
            if (saturates) Emit(Saturated(form, from, to), d, a);
            else Emit(Lanes.Resize(from.Bytes, width, from.IsSigned), d, a);
        }
        else if (to.IsInteger)
            Emit(FloatToInteger(form, from, to), d, a, count: RoundingOf(form, rounding), negated: flush);
        else if (from.IsInteger) Emit(IntegerToFloat(form, from, to, rounding), d, a);
        else Emit(FloatToFloat(form, from, to, rounding, relu), d, a, count: rounding is null ? 0 : rounding[1]);
        if (to is { Kind: "f", Bits: 32 } && flush) Emit(&Lanes.Map<float, Flush>, d, d, counts: false);
        if (to is { Kind: "f", Bits: 32 } && saturates) Emit(&Lanes.Map<float, Saturate>, d, d, counts: false);
        else if (to.IsFloat && saturates && to.Bits != 32) throw form.Unknown("'.sat' is not known there");
    }

    private static int RoundingOf(Form form, string? rounding) => rounding switch
    {
        "rni" or "rzi" or "rmi" or "rpi" => rounding[1],
        _ => throw form.Unknown("a rounding to integers was expected"),
    };

    private static Execute Saturated(Form form, PtxType from, PtxType to) => (from.ToString(), to.ToString()) switch
    {
        ("s32", "s8") => &Lanes.Each<int, sbyte, CastSaturated<int, sbyte>>,
        ("s32", "u8") => &Lanes.Each<int, byte, CastSaturated<int, byte>>,
        ("s32", "s16") => &Lanes.Each<int, short, CastSaturated<int, short>>,
        ("s32", "u16") => &Lanes.Each<int, ushort, CastSaturated<int, ushort>>,
        ("s32", "u32") => &Lanes.Each<int, uint, CastSaturated<int, uint>>,
        ("u32", "s32") => &Lanes.Each<uint, int, CastSaturated<uint, int>>,
        ("u32", "u8") => &Lanes.Each<uint, byte, CastSaturated<uint, byte>>,
        ("u32", "u16") => &Lanes.Each<uint, ushort, CastSaturated<uint, ushort>>,
        ("s64", "s32") => &Lanes.Each<long, int, CastSaturated<long, int>>,
        ("u64", "u32") => &Lanes.Each<ulong, uint, CastSaturated<ulong, uint>>,
        ("s16", "s8") => &Lanes.Each<short, sbyte, CastSaturated<short, sbyte>>,
        ("s16", "u8") => &Lanes.Each<short, byte, CastSaturated<short, byte>>,
        _ => throw form.Unknown("this saturation is not known"),
    };

    private static Execute FloatToInteger(Form form, PtxType from, PtxType to) => ($"{from}", $"{to}") switch
    {
        ("f32", "s8") => &Conversions.ToInteger<float, sbyte>,
        ("f32", "u8") => &Conversions.ToInteger<float, byte>,
        ("f32", "s16") => &Conversions.ToInteger<float, short>,
        ("f32", "u16") => &Conversions.ToInteger<float, ushort>,
        ("f32", "s32") => &Conversions.ToInteger<float, int>,
        ("f32", "u32") => &Conversions.ToInteger<float, uint>,
        ("f32", "s64") => &Conversions.ToInteger<float, long>,
        ("f32", "u64") => &Conversions.ToInteger<float, ulong>,
        ("f64", "s32") => &Conversions.ToInteger<double, int>,
        ("f64", "u32") => &Conversions.ToInteger<double, uint>,
        ("f64", "s64") => &Conversions.ToInteger<double, long>,
        ("f64", "u64") => &Conversions.ToInteger<double, ulong>,
        ("f16", "s8") => &Conversions.ToInteger<Half, sbyte>,
        ("f16", "u8") => &Conversions.ToInteger<Half, byte>,
        ("f16", "s16") => &Conversions.ToInteger<Half, short>,
        ("f16", "u16") => &Conversions.ToInteger<Half, ushort>,
        ("f16", "s32") => &Conversions.ToInteger<Half, int>,
        ("f16", "u32") => &Conversions.ToInteger<Half, uint>,
        ("f16", "s64") => &Conversions.ToInteger<Half, long>,
        ("f16", "u64") => &Conversions.ToInteger<Half, ulong>,
        _ => throw form.Unknown("this conversion is not known"),
    };

    private static Execute IntegerToFloat(Form form, PtxType from, PtxType to, string? rounding)
    {
        if (rounding != "rn") throw form.Unknown("only .rn is known for integers to floats");
        return (from.ToString(), to.ToString()) switch
        {
            ("s8", "f32") => &Lanes.Each<sbyte, float, ToFloat<sbyte>>,
            ("u8", "f32") => &Lanes.Each<byte, float, ToFloat<byte>>,
            ("s16", "f32") => &Lanes.Each<short, float, ToFloat<short>>,
            ("u16", "f32") => &Lanes.Each<ushort, float, ToFloat<ushort>>,
            ("s32", "f32") => &Lanes.Each<int, float, ToFloat<int>>,
            ("u32", "f32") => &Lanes.Each<uint, float, ToFloat<uint>>,
            ("s64", "f32") => &Lanes.Each<long, float, ToFloat<long>>,
            ("u64", "f32") => &Lanes.Each<ulong, float, ToFloat<ulong>>,
            ("s8", "f64") => &Lanes.Each<sbyte, double, ToDouble<sbyte>>,
            ("u8", "f64") => &Lanes.Each<byte, double, ToDouble<byte>>,
            ("s16", "f64") => &Lanes.Each<short, double, ToDouble<short>>,
            ("u16", "f64") => &Lanes.Each<ushort, double, ToDouble<ushort>>,
            ("s32", "f64") => &Lanes.Each<int, double, ToDouble<int>>,
            ("u32", "f64") => &Lanes.Each<uint, double, ToDouble<uint>>,
            ("s64", "f64") => &Lanes.Each<long, double, ToDouble<long>>,
            ("u64", "f64") => &Lanes.Each<ulong, double, ToDouble<ulong>>,
            ("s8", "f16") => &Lanes.Each<sbyte, ushort, ToSmall<F16, sbyte>>,
            ("u8", "f16") => &Lanes.Each<byte, ushort, ToSmall<F16, byte>>,
            ("s16", "f16") => &Lanes.Each<short, ushort, ToSmall<F16, short>>,
            ("u16", "f16") => &Lanes.Each<ushort, ushort, ToSmall<F16, ushort>>,
            ("s32", "f16") => &Lanes.Each<int, ushort, ToSmall<F16, int>>,
            ("u32", "f16") => &Lanes.Each<uint, ushort, ToSmall<F16, uint>>,
            ("s32", "bf16") => &Lanes.Each<int, ushort, ToSmall<Bf16, int>>,
            ("u32", "bf16") => &Lanes.Each<uint, ushort, ToSmall<Bf16, uint>>,
            ("s16", "bf16") => &Lanes.Each<short, ushort, ToSmall<Bf16, short>>,
            ("u16", "bf16") => &Lanes.Each<ushort, ushort, ToSmall<Bf16, ushort>>,
            _ => throw form.Unknown("this conversion is not known"),
        };
    }

    private static Execute FloatToFloat(Form form, PtxType from, PtxType to, string? rounding, bool relu)
    {
        bool toIntegral = rounding is "rni" or "rzi" or "rmi" or "rpi";
        if (rounding is "rz" or "rm" or "rp") throw form.Unknown($"'.{rounding}' is not known there");
        return (from.ToString(), to.ToString()) switch
        {
            ("f32", "f32") when toIntegral => &Conversions.ToIntegral<float>,
            ("f64", "f64") when toIntegral => &Conversions.ToIntegral<double>,
            ("f16", "f16") when toIntegral => &Conversions.ToIntegral<Half>,
            ("f32", "f32") => &Lanes.Map<float, Same<float>>,
            ("f64", "f64") => &Lanes.Map<double, Same<double>>,
            ("f32", "f64") => &Lanes.Each<float, double, FromSingle>,
            ("f64", "f32") => &Lanes.Each<double, float, ToSingle>,
            ("f16", "f32") => &Lanes.Each<ushort, float, FromSmall<F16>>,
            ("bf16", "f32") => &Lanes.Each<ushort, float, FromSmall<Bf16>>,
            ("f16", "f64") => &Lanes.Each<ushort, double, FromSmall<F16>>,
            ("bf16", "f64") => &Lanes.Each<ushort, double, FromSmall<Bf16>>,
            ("f32", "f16") when relu => &Lanes.Each<float, ushort, ToSmallRelu<F16>>,
            ("f32", "bf16") when relu => &Lanes.Each<float, ushort, ToSmallRelu<Bf16>>,
            ("f32", "f16") => &Lanes.Each<float, ushort, ToSmall<F16, float>>,
            ("f32", "bf16") => &Lanes.Each<float, ushort, ToSmall<Bf16, float>>,
            ("f64", "f16") => &Lanes.Each<double, ushort, ToSmall<F16, double>>,
            ("f64", "bf16") => &Lanes.Each<double, ushort, ToSmall<Bf16, double>>,
            ("f32", "tf32") => &Lanes.Each<float, uint, ToTf32>,
            _ => throw form.Unknown("this conversion is not known"),
        };
    }

    private void ConvertPair(Form form, PtxType to, PtxType from, string? rounding, bool relu)
    {
        bool packs = from is { Kind: "f", Bits: 32 };
        form.End(packs ? 3 : 2);
        if (rounding is not (null or "rn")) throw form.Unknown($"'.{rounding}' is not known there");
        int a = Read(form.Operands[1], from), b = packs ? Read(form.Operands[2], from) : -1;
        Execute execute = (to.ToString(), from.ToString(), relu) switch
        {
            ("f16x2", "f32", false) => &Lanes.Each2<float, float, uint, Pack<F16>>,
            ("bf16x2", "f32", false) => &Lanes.Each2<float, float, uint, Pack<Bf16>>,
            ("f16x2", "f32", true) => &Lanes.Each2<float, float, uint, PackRelu<F16>>,
            ("bf16x2", "f32", true) => &Lanes.Each2<float, float, uint, PackRelu<Bf16>>,
            ("e4m3x2", "f32", false) => &Lanes.Each2<float, float, ushort, PackE4M3>,
            ("e5m2x2", "f32", false) => &Lanes.Each2<float, float, ushort, PackE5M2>,
            ("f16x2", "e4m3x2", false) => &Lanes.Each<ushort, uint, UnpackE4M3>,
            ("f16x2", "e5m2x2", false) => &Lanes.Each<ushort, uint, UnpackE5M2>,
            _ => throw form.Unknown("this conversion is not known"),
        };
        Emit(execute, Write(form.Operands[0], to.Bytes), a, b);
    }

    private void ConvertPack(Form form)
    {
        PtxType to = form.TakeType(), from = form.TakeType();
        PtxType third = form.HasType ? form.TakeType() : default;
        bool bytes = to.Bits == 8;
        form.End(bytes ? 4 : 3);
        if (from.ToString() != "s32" || (bytes && third.Bits != 32)) throw form.Unknown("it is not known");
        int a = Read(form.Operands[1], from), b = Read(form.Operands[2], from);
        int c = bytes ? Read(form.Operands[3], s_word) : -1;
        Emit(to.ToString() switch
        {
            "s8" => &Lanes.Each3<int, int, uint, uint, PackBytes<sbyte>>,
            "u8" => &Lanes.Each3<int, int, uint, uint, PackBytes<byte>>,
            "s16" => &Lanes.Each2<int, int, uint, PackHalves<short>>,
            "u16" => &Lanes.Each2<int, int, uint, PackHalves<ushort>>,
            _ => throw form.Unknown($"it is not known for {to}"),
        }, Write(form.Operands[0], 4), a, b, c);
    }
}
