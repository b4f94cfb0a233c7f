namespace Native.Tests.Gpu.Machine;

/// <summary>Arithmetic of integers and floats, and comparisons.</summary>
internal sealed unsafe partial class PtxCompiler
{
    private bool Arithmetic(Form form, string opcode)
    {
        switch (opcode)
        {
            case "add" or "sub" or "mul" or "mul24" or "div" or "rem" or "min" or "max" or "copysign" or "addc"
                or "subc":
                Two(form, opcode);
                return true;
            case "mad" or "mad24" or "madc" or "fma" or "sad":
                Three(form, opcode);
                return true;
            case "neg" or "abs" or "sqrt" or "rsqrt" or "rcp" or "ex2" or "lg2" or "sin" or "cos" or "tanh":
                One(form, opcode);
                return true;
            case "setp":
                SetPredicate(form);
                return true;
            case "set":
                Set(form);
                return true;
            case "dp4a":
                Dot(form);
                return true;
            case "testp":
                TestProperty(form);
                return true;
            default: return false;
        }
    }

    private void Two(Form form, string opcode)
    {
        string? part = form.TakeOne("lo", "hi", "wide");
        bool carries = form.Take("cc") || opcode is "addc" or "subc";
        form.TakeOne("rn", "approx", "full");
        bool flush = form.Take("ftz"), saturates = form.Take("sat"), propagates = form.Take("NaN");
        PtxType type = form.TakeType();
        form.End(3);
        if (carries)
        {
            Carry(form, opcode, type);
            return;
        }
        bool wide = part == "wide";
        int width = type.Bits / 8, resultWidth = wide ? 2 * width : width;
        int a = Read(form.Operands[1], type), b = Read(form.Operands[2], type);
        int d = Write(form.Operands[0], resultWidth, type.IsSigned);
        Execute execute = type.IsInteger ? OfIntegers(form, opcode, part, type, saturates)
            : type is { Kind: "f", Bits: 32 } ? OfSingles(form, opcode, propagates)
            : type is { Kind: "f", Bits: 64 } ? OfDoubles(form, opcode)
            : OfSmall2(form, opcode, type);
        if (flush && type is { Kind: "f", Bits: 32 }) execute = Flushed(form, opcode, propagates);
        Emit(execute, d, a, b);
        if (saturates && type.IsFloat) Emit(&Lanes.Map<float, Saturate>, d, d, counts: false);
    }

    private static Execute OfIntegers(Form form, string opcode, string? part, PtxType type, bool saturates) =>
        (opcode, part, type.Bits, type.IsSigned) switch
        {
            ("add", null, 32, true) when saturates => &Lanes.Each2<int, int, int, AddSaturated>,
            ("sub", null, 32, true) when saturates => &Lanes.Each2<int, int, int, SubSaturated>,
            ("add", null, 16, _) => &Lanes.Map2<ushort, Add<ushort>>,
            ("add", null, 32, _) => &Lanes.Map2<uint, Add<uint>>,
            ("add", null, 64, _) => &Lanes.Map2<ulong, Add<ulong>>,
            ("sub", null, 16, _) => &Lanes.Map2<ushort, Sub<ushort>>,
            ("sub", null, 32, _) => &Lanes.Map2<uint, Sub<uint>>,
            ("sub", null, 64, _) => &Lanes.Map2<ulong, Sub<ulong>>,
            ("mul", "lo", 16, _) => &Lanes.Map2<ushort, Mul<ushort>>,
            ("mul", "lo", 32, _) => &Lanes.Map2<uint, Mul<uint>>,
            ("mul", "lo", 64, _) => &Lanes.Map2<ulong, Mul<ulong>>,
            ("mul", "hi", 16, true) => &Lanes.Each2<short, short, short, MulHigh<short, int>>,
            ("mul", "hi", 16, false) => &Lanes.Each2<ushort, ushort, ushort, MulHigh<ushort, uint>>,
            ("mul", "hi", 32, true) => &Lanes.Each2<int, int, int, MulHigh<int, long>>,
            ("mul", "hi", 32, false) => &Lanes.Each2<uint, uint, uint, MulHigh<uint, ulong>>,
            ("mul", "hi", 64, true) => &Lanes.Each2<long, long, long, MulHigh<long, Int128>>,
            ("mul", "hi", 64, false) => &Lanes.Each2<ulong, ulong, ulong, MulHigh<ulong, UInt128>>,
            ("mul", "wide", 16, true) => &Lanes.Each2<short, short, int, MulWide<short, int>>,
            ("mul", "wide", 16, false) => &Lanes.Each2<ushort, ushort, uint, MulWide<ushort, uint>>,
            ("mul", "wide", 32, true) => &Lanes.Each2<int, int, long, MulWide<int, long>>,
            ("mul", "wide", 32, false) => &Lanes.Each2<uint, uint, ulong, MulWide<uint, ulong>>,
            ("mul24", "lo", 32, true) => &Lanes.Each2<int, int, int, Mul24<int>>,
            ("mul24", "lo", 32, false) => &Lanes.Each2<uint, uint, uint, Mul24<uint>>,
            ("div", null, 16, true) => &Lanes.Each2<short, short, short, Quotient<short>>,
            ("div", null, 16, false) => &Lanes.Each2<ushort, ushort, ushort, Quotient<ushort>>,
            ("div", null, 32, true) => &Lanes.Each2<int, int, int, Quotient<int>>,
            ("div", null, 32, false) => &Lanes.Each2<uint, uint, uint, Quotient<uint>>,
            ("div", null, 64, true) => &Lanes.Each2<long, long, long, Quotient<long>>,
            ("div", null, 64, false) => &Lanes.Each2<ulong, ulong, ulong, Quotient<ulong>>,
            ("rem", null, 16, true) => &Lanes.Each2<short, short, short, Remainder<short>>,
            ("rem", null, 16, false) => &Lanes.Each2<ushort, ushort, ushort, Remainder<ushort>>,
            ("rem", null, 32, true) => &Lanes.Each2<int, int, int, Remainder<int>>,
            ("rem", null, 32, false) => &Lanes.Each2<uint, uint, uint, Remainder<uint>>,
            ("rem", null, 64, true) => &Lanes.Each2<long, long, long, Remainder<long>>,
            ("rem", null, 64, false) => &Lanes.Each2<ulong, ulong, ulong, Remainder<ulong>>,
            ("min", null, 16, true) => &Lanes.Map2<short, Min<short>>,
            ("min", null, 16, false) => &Lanes.Map2<ushort, Min<ushort>>,
            ("min", null, 32, true) => &Lanes.Map2<int, Min<int>>,
            ("min", null, 32, false) => &Lanes.Map2<uint, Min<uint>>,
            ("min", null, 64, true) => &Lanes.Map2<long, Min<long>>,
            ("min", null, 64, false) => &Lanes.Map2<ulong, Min<ulong>>,
            ("max", null, 16, true) => &Lanes.Map2<short, Max<short>>,
            ("max", null, 16, false) => &Lanes.Map2<ushort, Max<ushort>>,
            ("max", null, 32, true) => &Lanes.Map2<int, Max<int>>,
            ("max", null, 32, false) => &Lanes.Map2<uint, Max<uint>>,
            ("max", null, 64, true) => &Lanes.Map2<long, Max<long>>,
            ("max", null, 64, false) => &Lanes.Map2<ulong, Max<ulong>>,
            _ => throw form.Unknown($"it is not known for {type}"),
        };

    private static Execute OfSingles(Form form, string opcode, bool propagates) => opcode switch
    {
        "add" => &Lanes.Map2<float, Add<float>>,
        "sub" => &Lanes.Map2<float, Sub<float>>,
        "mul" => &Lanes.Map2<float, Mul<float>>,
        "div" => &Lanes.Map2<float, Div<float>>,
        "min" when propagates => &Lanes.Map2<float, Min<float>>,
        "max" when propagates => &Lanes.Map2<float, Max<float>>,
        "min" => &Lanes.Map2<float, MinNumber<float>>,
        "max" => &Lanes.Map2<float, MaxNumber<float>>,
        "copysign" => &Lanes.Each2<float, float, float, CopySign32>,
        _ => throw form.Unknown("it is not known for f32"),
    };

    private static Execute Flushed(Form form, string opcode, bool propagates) => opcode switch
    {
        "add" => &Lanes.Map2<float, Ftz2<Add<float>>>,
        "sub" => &Lanes.Map2<float, Ftz2<Sub<float>>>,
        "mul" => &Lanes.Map2<float, Ftz2<Mul<float>>>,
        "div" => &Lanes.Map2<float, Ftz2<Div<float>>>,
        "min" when propagates => &Lanes.Map2<float, Ftz2<Min<float>>>,
        "max" when propagates => &Lanes.Map2<float, Ftz2<Max<float>>>,
        "min" => &Lanes.Map2<float, Ftz2<MinNumber<float>>>,
        "max" => &Lanes.Map2<float, Ftz2<MaxNumber<float>>>,
        _ => throw form.Unknown(".ftz is not known there"),
    };

    private static Execute OfDoubles(Form form, string opcode) => opcode switch
    {
        "add" => &Lanes.Map2<double, Add<double>>,
        "sub" => &Lanes.Map2<double, Sub<double>>,
        "mul" => &Lanes.Map2<double, Mul<double>>,
        "div" => &Lanes.Map2<double, Div<double>>,
        "min" => &Lanes.Map2<double, MinNumber<double>>,
        "max" => &Lanes.Map2<double, MaxNumber<double>>,
        "copysign" => &Lanes.Each2<double, double, double, Exact<DoubleCopySign>>,
        _ => throw form.Unknown("it is not known for f64"),
    };

    private static Execute OfSmall2(Form form, string opcode, PtxType type) => (type.ToString(), opcode) switch
    {
        ("f16", "add") => &Lanes.Each2<ushort, ushort, ushort, Small<F16, DoubleAdd>>,
        ("f16", "sub") => &Lanes.Each2<ushort, ushort, ushort, Small<F16, DoubleSub>>,
        ("f16", "mul") => &Lanes.Each2<ushort, ushort, ushort, Small<F16, DoubleMul>>,
        ("f16", "min") => &Lanes.Each2<ushort, ushort, ushort, Small<F16, DoubleMin>>,
        ("f16", "max") => &Lanes.Each2<ushort, ushort, ushort, Small<F16, DoubleMax>>,
        ("bf16", "add") => &Lanes.Each2<ushort, ushort, ushort, Small<Bf16, DoubleAdd>>,
        ("bf16", "sub") => &Lanes.Each2<ushort, ushort, ushort, Small<Bf16, DoubleSub>>,
        ("bf16", "mul") => &Lanes.Each2<ushort, ushort, ushort, Small<Bf16, DoubleMul>>,
        ("bf16", "min") => &Lanes.Each2<ushort, ushort, ushort, Small<Bf16, DoubleMin>>,
        ("bf16", "max") => &Lanes.Each2<ushort, ushort, ushort, Small<Bf16, DoubleMax>>,
        ("f16x2", "add") => &Lanes.Each2<uint, uint, uint, Pair<F16, DoubleAdd>>,
        ("f16x2", "sub") => &Lanes.Each2<uint, uint, uint, Pair<F16, DoubleSub>>,
        ("f16x2", "mul") => &Lanes.Each2<uint, uint, uint, Pair<F16, DoubleMul>>,
        ("f16x2", "min") => &Lanes.Each2<uint, uint, uint, Pair<F16, DoubleMin>>,
        ("f16x2", "max") => &Lanes.Each2<uint, uint, uint, Pair<F16, DoubleMax>>,
        ("bf16x2", "add") => &Lanes.Each2<uint, uint, uint, Pair<Bf16, DoubleAdd>>,
        ("bf16x2", "sub") => &Lanes.Each2<uint, uint, uint, Pair<Bf16, DoubleSub>>,
        ("bf16x2", "mul") => &Lanes.Each2<uint, uint, uint, Pair<Bf16, DoubleMul>>,
        ("bf16x2", "min") => &Lanes.Each2<uint, uint, uint, Pair<Bf16, DoubleMin>>,
        ("bf16x2", "max") => &Lanes.Each2<uint, uint, uint, Pair<Bf16, DoubleMax>>,
        _ => throw form.Unknown($"it is not known for {type}"),
    };

    private int _carry = -1;

    /// <summary>add.cc, addc and their like: the carry of each lane is a predicate that is kept.</summary>
    private void Carry(Form form, string opcode, PtxType type)
    {
        if (_carry < 0) _carry = Reserve(SlotBytes(1));
        int a = Read(form.Operands[1], type), b = Read(form.Operands[2], type);
        int d = Write(form.Operands[0], type.Bytes);
        bool subtracts = opcode.StartsWith("sub"), takes = opcode.EndsWith('c');
        bool gives = form.Instruction.Modifiers.Contains("cc");
        Emit(type.Bits == 64 ? &Warp.ExecuteCarry<ulong> : &Warp.ExecuteCarry<uint>, d, a, b, _carry,
            count: (subtracts ? 1 : 0) | (takes ? 2 : 0) | (gives ? 4 : 0));
    }

    private void Three(Form form, string opcode)
    {
        string? part = form.TakeOne("lo", "hi", "wide");
        if (form.Take("cc") || opcode == "madc") throw form.Unknown("carries of products are not known");
        form.Take("rn");
        bool flush = form.Take("ftz"), saturates = form.Take("sat"), relu = form.Take("relu");
        PtxType type = form.TakeType();
        form.End(4);
        PtxType sum = part == "wide" ? new(type.Kind, type.Bits * 2) : type;
        int a = Read(form.Operands[1], type), b = Read(form.Operands[2], type), c = Read(form.Operands[3], sum);
        int d = Write(form.Operands[0], sum.Bytes, type.IsSigned);
        Execute execute = (opcode, part, type.ToString(), relu) switch
        {
            ("mad", "lo", "s16" or "u16", _) => &Lanes.Map3<ushort, Mad<ushort>>,
            ("mad", "lo", "s32" or "u32", _) => &Lanes.Map3<uint, Mad<uint>>,
            ("mad", "lo", "s64" or "u64", _) => &Lanes.Map3<ulong, Mad<ulong>>,
            ("mad", "hi", "s32", _) => &Lanes.Each3<int, int, int, int, MadHigh<int, long>>,
            ("mad", "hi", "u32", _) => &Lanes.Each3<uint, uint, uint, uint, MadHigh<uint, ulong>>,
            ("mad", "hi", "s64", _) => &Lanes.Each3<long, long, long, long, MadHigh<long, Int128>>,
            ("mad", "hi", "u64", _) => &Lanes.Each3<ulong, ulong, ulong, ulong, MadHigh<ulong, UInt128>>,
            ("mad", "wide", "s16", _) => &Lanes.Each3<short, short, int, int, MadWide<short, int>>,
            ("mad", "wide", "u16", _) => &Lanes.Each3<ushort, ushort, uint, uint, MadWide<ushort, uint>>,
            ("mad", "wide", "s32", _) => &Lanes.Each3<int, int, long, long, MadWide<int, long>>,
            ("mad", "wide", "u32", _) => &Lanes.Each3<uint, uint, ulong, ulong, MadWide<uint, ulong>>,
            ("mad24", "lo", "s32", _) => &Lanes.Each3<int, int, int, int, Mad24<int>>,
            ("mad24", "lo", "u32", _) => &Lanes.Each3<uint, uint, uint, uint, Mad24<uint>>,
            ("sad", null, "s32", _) => &Lanes.Each3<int, int, int, int, Sad<int>>,
            ("sad", null, "u32", _) => &Lanes.Each3<uint, uint, uint, uint, Sad<uint>>,
            ("fma" or "mad", null, "f32", _) when flush => &Lanes.Map3<float, Ftz3<Fma32>>,
            ("fma" or "mad", null, "f32", _) => &Lanes.Map3<float, Fma32>,
            ("fma" or "mad", null, "f64", _) => &Lanes.Map3<double, Fma64>,
            ("fma", null, "f16", false) => &Lanes.Each3<ushort, ushort, ushort, ushort, Small<F16, DoubleFma>>,
            ("fma", null, "bf16", false) => &Lanes.Each3<ushort, ushort, ushort, ushort, Small<Bf16, DoubleFma>>,
            ("fma", null, "f16x2", false) => &Lanes.Each3<uint, uint, uint, uint, Pair<F16, DoubleFma>>,
            ("fma", null, "bf16x2", false) => &Lanes.Each3<uint, uint, uint, uint, Pair<Bf16, DoubleFma>>,
            ("fma", null, "f16", true) => &Lanes.Each3<ushort, ushort, ushort, ushort, Small<F16, DoubleFmaRelu>>,
            ("fma", null, "bf16", true) => &Lanes.Each3<ushort, ushort, ushort, ushort, Small<Bf16, DoubleFmaRelu>>,
            ("fma", null, "f16x2", true) => &Lanes.Each3<uint, uint, uint, uint, Pair<F16, DoubleFmaRelu>>,
            ("fma", null, "bf16x2", true) => &Lanes.Each3<uint, uint, uint, uint, Pair<Bf16, DoubleFmaRelu>>,
            _ => throw form.Unknown($"it is not known for {type}"),
        };
        Emit(execute, d, a, b, c);
        if (saturates) Emit(&Lanes.Map<float, Saturate>, d, d, counts: false);
    }

    private void One(Form form, string opcode)
    {
        form.TakeOne("rn", "approx");
        bool flush = form.Take("ftz");
        PtxType type = form.TakeType();
        form.End(2);
        int a = Read(form.Operands[1], type), d = Write(form.Operands[0], type.Bytes, type.IsSigned);
        if (type is { Kind: "f", Bits: 32 } && flush && opcode is "neg" or "abs" or "sqrt")
            Emit(&Lanes.Map<float, Flush>, d, a, counts: false);
        if (type is { Kind: "f", Bits: 32 } && flush && opcode is "neg" or "abs" or "sqrt") a = d;
        Execute execute = (opcode, type.ToString()) switch
        {
            ("neg", "s16") => &Lanes.Map<short, Neg<short>>,
            ("neg", "s32") => &Lanes.Map<int, Neg<int>>,
            ("neg", "s64") => &Lanes.Map<long, Neg<long>>,
            ("neg", "f32") => &Lanes.Map<float, Neg<float>>,
            ("neg", "f64") => &Lanes.Map<double, Neg<double>>,
            ("neg", "f16") => &Lanes.Each<ushort, ushort, Small<F16, DoubleNeg>>,
            ("neg", "bf16") => &Lanes.Each<ushort, ushort, Small<Bf16, DoubleNeg>>,
            ("neg", "f16x2") => &Lanes.Each<uint, uint, Pair<F16, DoubleNeg>>,
            ("neg", "bf16x2") => &Lanes.Each<uint, uint, Pair<Bf16, DoubleNeg>>,
            ("abs", "s16") => &Lanes.Map<short, Abs<short>>,
            ("abs", "s32") => &Lanes.Map<int, Abs<int>>,
            ("abs", "s64") => &Lanes.Map<long, Abs<long>>,
            ("abs", "f32") => &Lanes.Map<float, Abs<float>>,
            ("abs", "f64") => &Lanes.Map<double, Abs<double>>,
            ("abs", "f16") => &Lanes.Each<ushort, ushort, Small<F16, DoubleAbs>>,
            ("abs", "bf16") => &Lanes.Each<ushort, ushort, Small<Bf16, DoubleAbs>>,
            ("abs", "f16x2") => &Lanes.Each<uint, uint, Pair<F16, DoubleAbs>>,
            ("abs", "bf16x2") => &Lanes.Each<uint, uint, Pair<Bf16, DoubleAbs>>,
            ("sqrt", "f32") => &Lanes.Map<float, Sqrt<float>>,
            ("sqrt", "f64") => &Lanes.Map<double, Sqrt<double>>,
            ("rcp", "f64") => &Lanes.Each<double, double, Exact<DoubleRcp>>,
            ("rsqrt", "f64") => &Lanes.Each<double, double, Exact<DoubleRsqrt>>,
            ("rsqrt", "f32") => Approximate<DoubleRsqrt>(flush),
            ("rcp", "f32") => Approximate<DoubleRcp>(flush),
            ("ex2", "f32") => Approximate<DoubleExp2>(flush),
            ("lg2", "f32") => Approximate<DoubleLog2>(flush),
            ("sin", "f32") => Approximate<DoubleSin>(flush),
            ("cos", "f32") => Approximate<DoubleCos>(flush),
            ("tanh", "f32") => Approximate<DoubleTanh>(flush),
            ("ex2", "f16") => &Lanes.Each<ushort, ushort, Small<F16, DoubleExp2>>,
            ("ex2", "f16x2") => &Lanes.Each<uint, uint, Pair<F16, DoubleExp2>>,
            ("ex2", "bf16") => &Lanes.Each<ushort, ushort, Small<Bf16, DoubleExp2>>,
            ("ex2", "bf16x2") => &Lanes.Each<uint, uint, Pair<Bf16, DoubleExp2>>,
            ("tanh", "f16") => &Lanes.Each<ushort, ushort, Small<F16, DoubleTanh>>,
            ("tanh", "f16x2") => &Lanes.Each<uint, uint, Pair<F16, DoubleTanh>>,
            ("tanh", "bf16") => &Lanes.Each<ushort, ushort, Small<Bf16, DoubleTanh>>,
            ("tanh", "bf16x2") => &Lanes.Each<uint, uint, Pair<Bf16, DoubleTanh>>,
            _ => throw form.Unknown($"it is not known for {type}"),
        };
        Emit(execute, d, a);
    }

    private static Execute Approximate<TOp>(bool flush) where TOp : IDoubleOp =>
        flush ? &Lanes.Each<float, float, ApproxFtz<TOp>> : &Lanes.Each<float, float, Approx<TOp>>;

    private void Dot(Form form)
    {
        PtxType a = form.TakeType(), b = form.TakeType();
        form.End(4);
        PtxType word = new("b", 32);
        Execute execute = (a.IsSigned, b.IsSigned) switch
        {
            (true, true) => &Lanes.Each3<uint, uint, uint, uint, Dot4<sbyte, sbyte>>,
            (true, false) => &Lanes.Each3<uint, uint, uint, uint, Dot4<sbyte, byte>>,
            (false, true) => &Lanes.Each3<uint, uint, uint, uint, Dot4<byte, sbyte>>,
            _ => &Lanes.Each3<uint, uint, uint, uint, Dot4<byte, byte>>,
        };
        int first = Read(form.Operands[1], word), second = Read(form.Operands[2], word);
        int third = Read(form.Operands[3], word);
        Emit(execute, Write(form.Operands[0], 4), first, second, third);
    }

    private void SetPredicate(Form form)
    {
        string relation = form.Instruction.Modifiers[0];
        form.Take(relation);
        string? combine = form.TakeOne("and", "or", "xor");
        bool flush = form.Take("ftz");
        PtxType type = form.TakeType();
        form.End(combine is null ? 3 : 4);
        int a = Read(form.Operands[1], type), b = Read(form.Operands[2], type);
        if (flush) (a, b) = (FlushedInput(a), FlushedInput(b));
        (int other, bool negated) = combine is null ? (-1, false) : Predicate(form.Operands[3]);
        (PtxOperand first, PtxOperand? second) = form.Operands[0] is PairOperand pair
            ? (pair.First, pair.Second) : (form.Operands[0], null);
        int d = WritePredicate(first, mayDrop: true);
        int e = second is null ? -1 : WritePredicate(second, mayDrop: true);
        int mode = combine switch { "and" => 1, "or" => 2, "xor" => 3, _ => 0 };
        Emit(Comparison(form, relation, type), d, a, b, other, e, mode, negated: negated);
    }

    private int FlushedInput(int slot)
    {
        int flushed = Temporary(4);
        Emit(&Lanes.Map<float, Flush>, flushed, slot, counts: false);
        return flushed;
    }

    /// <summary>set: a comparison's outcome as all bits or as 1.0.</summary>
    private void Set(Form form)
    {
        string relation = form.Instruction.Modifiers[0];
        form.Take(relation);
        form.Take("ftz");
        PtxType result = form.TakeType(), type = form.TakeType();
        form.End(3);
        int a = Read(form.Operands[1], type), b = Read(form.Operands[2], type), holds = Temporary(1);
        Emit(Comparison(form, relation, type), holds, a, b, counts: false);
        ulong one = result.ToString() switch
        {
            "f32" => 0x3f80_0000,
            "f16" => 0x3c00,
            "bf16" => 0x3f80,
            "u32" or "s32" => uint.MaxValue,
            _ => throw form.Unknown($"a result of {result} is not known"),
        };
        int yes = Constant(one, result.Bytes), no = Constant(0, result.Bytes);
        Emit(result.Bytes == 4 ? &Lanes.Select<uint> : &Lanes.Select<ushort>, Write(form.Operands[0], result.Bytes),
            yes, no, holds);
    }

    private static Execute Comparison(Form form, string relation, PtxType type) => type.ToString() switch
    {
        "s16" => OfIntegers<short>(form, relation),
        "u16" or "b16" => OfIntegers<ushort>(form, relation),
        "s32" => OfIntegers<int>(form, relation),
        "u32" or "b32" => OfIntegers<uint>(form, relation),
        "s64" => OfIntegers<long>(form, relation),
        "u64" or "b64" => OfIntegers<ulong>(form, relation),
        "f32" => OfFloats<float>(form, relation),
        "f64" => OfFloats<double>(form, relation),
        "f16" => OfSmallFloats<F16>(form, relation),
        "bf16" => OfSmallFloats<Bf16>(form, relation),
        _ => throw form.Unknown($"comparisons of {type} are not known"),
    };

    private static Execute OfIntegers<T>(Form form, string relation) where T : unmanaged => relation switch
    {
        "eq" => &Lanes.Compare<T, Equal<T>>,
        "ne" => &Lanes.Compare<T, NotEqual<T>>,
        "lt" or "lo" => &Lanes.Compare<T, Less<T>>,
        "le" or "ls" => &Lanes.Compare<T, LessOrEqual<T>>,
        "gt" or "hi" => &Lanes.Compare<T, Greater<T>>,
        "ge" or "hs" => &Lanes.Compare<T, GreaterOrEqual<T>>,
        _ => throw form.Unknown($"'.{relation}' is not known there"),
    };

    private static Execute OfFloats<T>(Form form, string relation) where T : unmanaged => relation switch
    {
        "eq" => &Lanes.Compare<T, Equal<T>>,
        "ne" => &Lanes.Compare<T, Ordered<T, NotEqual<T>>>,
        "lt" => &Lanes.Compare<T, Less<T>>,
        "le" => &Lanes.Compare<T, LessOrEqual<T>>,
        "gt" => &Lanes.Compare<T, Greater<T>>,
        "ge" => &Lanes.Compare<T, GreaterOrEqual<T>>,
        "equ" => &Lanes.Compare<T, Unordered<T, Equal<T>>>,
        "neu" => &Lanes.Compare<T, NotEqual<T>>,
        "ltu" => &Lanes.Compare<T, Unordered<T, Less<T>>>,
        "leu" => &Lanes.Compare<T, Unordered<T, LessOrEqual<T>>>,
        "gtu" => &Lanes.Compare<T, Unordered<T, Greater<T>>>,
        "geu" => &Lanes.Compare<T, Unordered<T, GreaterOrEqual<T>>>,
        "num" => &Lanes.Compare<T, Numbers<T>>,
        "nan" => &Lanes.Compare<T, Unordered<T, Never<T>>>,
        _ => throw form.Unknown($"'.{relation}' is not known there"),
    };

    private static Execute OfSmallFloats<TFloat>(Form form, string relation) where TFloat : ISmallFloat<TFloat> =>
        relation switch
        {
            "eq" => &Lanes.CompareEach<ushort, SmallCompare<TFloat, IsEqual>>,
            "ne" => &Lanes.CompareEach<ushort, SmallCompare<TFloat, IsNotEqual>>,
            "neu" => &Lanes.CompareEach<ushort, SmallCompare<TFloat, IsUnequalOrNaN>>,
            "lt" => &Lanes.CompareEach<ushort, SmallCompare<TFloat, IsLess>>,
            "le" => &Lanes.CompareEach<ushort, SmallCompare<TFloat, IsLessOrEqual>>,
            "gt" => &Lanes.CompareEach<ushort, SmallCompare<TFloat, IsGreater>>,
            "ge" => &Lanes.CompareEach<ushort, SmallCompare<TFloat, IsGreaterOrEqual>>,
            "nan" => &Lanes.CompareEach<ushort, SmallCompare<TFloat, IsNaN>>,
            _ => throw form.Unknown($"'.{relation}' is not known there"),
        };

    private void TestProperty(Form form)
    {
        string? property = form.TakeOne("finite", "infinite", "number", "notanumber", "normal", "subnormal");
        PtxType type = form.TakeType();
        form.End(2);
        if (property is null || type is not { Kind: "f", Bits: 32 or 64 }) throw form.Unknown("it is not known");
        int count = Array.IndexOf(["finite", "infinite", "number", "notanumber", "normal", "subnormal"], property);
        Emit(type.Bits == 32 ? &Warp.ExecuteTestProperty<float> : &Warp.ExecuteTestProperty<double>,
            WritePredicate(form.Operands[0]), Read(form.Operands[1], type), count: count);
    }
}
