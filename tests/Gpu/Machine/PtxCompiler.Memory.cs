namespace Native.Tests.Gpu.Machine;

/// <summary>Memory, control and what a warp does together.</summary>
internal sealed unsafe partial class PtxCompiler
{
    private bool Memory(Form form, string opcode)
    {
        switch (opcode)
        {
            case "ld" or "ldu": LoadStore(form, isLoad: true); return true;
            case "st": LoadStore(form, isLoad: false); return true;
            case "atom": AtomicOperation(form, returns: true); return true;
            case "red": AtomicOperation(form, returns: false); return true;
            case "membar" or "fence": Fence(form, opcode); return true;
            case "prefetch" or "prefetchu" or "applypriority" or "discard":
                while (form.TakeOne("global", "local", "L1", "L2", "L2::evict_last", "L2::evict_normal", "tensormap",
                    "param", "const") is not null) { }
                form.End(1, 2);
                Emit(&Warp.ExecuteNothing);
                return true;
            default: return false;
        }
    }

    private Space TakeSpace(Form form) => form.TakeOne("global", "shared", "shared::cta", "shared::cluster", "local",
        "param", "param::entry", "param::func", "const") switch
    {
        null => Space.Generic,
        "global" => Space.Global,
        "local" => Space.Local,
        "const" => Space.Const,
        "param" or "param::entry" or "param::func" => Space.Param,
        _ => Space.Shared,
    };

    /// <summary>An address: where its base lies (-1 for none), and what is added.</summary>
    private (int Slot, long Offset) Address(PtxOperand operand, ref Space space)
    {
        if (operand is not AddressOperand address) throw Wrong("an address was expected");
        switch (address.Base)
        {
            case null: return (-1, address.Offset);
            case RegisterOperand register: return (Read(register, s_long), address.Offset);
            case NameOperand { Variable: { } variable }:
                // What a function's body declares as .param is memory of the thread.
                if (variable.Space == "param" && !_function.Parameters.Contains(variable)) space = Space.Local;
                return (-1, variable.Offset + address.Offset);
            default: throw Wrong("an address has no base that is known");
        }
    }

    private void LoadStore(Form form, bool isLoad)
    {
        bool isVolatile = form.Take("volatile"), strong = isVolatile | form.Take("relaxed") | form.Take("mmio");
        bool acquires = form.Take("acquire"), releases = form.Take("release");
        string? scope = form.TakeOne("cta", "cluster", "gpu", "sys");
        form.Take("weak");
        Space space = TakeSpace(form);
        string? cache = form.TakeOne("ca", "cg", "cs", "lu", "cv", "wb", "wt");
        form.Take("nc");
        while (form.TakeOne("L1::evict_normal", "L1::evict_unchanged", "L1::evict_first", "L1::evict_last",
            "L1::no_allocate", "L2::evict_last", "L2::evict_normal", "L2::evict_first", "L2::cache_hint", "L2::64B",
            "L2::128B", "L2::256B") is not null) { }
        int count = form.TakeOne("v2", "v4", "v8") is { } vector ? vector[1] - '0' : 1;
        PtxType type = form.TakeType();
        form.End(2, 3);
        PtxOperand target = form.Operands[isLoad ? 1 : 0], data = form.Operands[isLoad ? 0 : 1];
        IReadOnlyList<PtxOperand> elements = data is VectorOperand list ? list.Elements : [data];
        if (elements.Count != count) throw form.Unknown($"{elements.Count} operands for {count} elements");
        int width = type.Bytes;
        if (type.Bits == 128 || type.Bits == 1) throw form.Unknown($"{type} is not known there");
        (int slot, long offset) = Address(target, ref space);
        int slots = _slots.Count;
        int[] places = [.. elements.Select(element =>
            isLoad ? Write(element, width, type.IsSigned, mayDrop: true) : Read(element, type, width))];
        _slots.AddRange(places);
        Execute execute = width switch
        {
            1 => isLoad ? &Warp.Load<byte> : &Warp.Store<byte>,
            2 => isLoad ? &Warp.Load<ushort> : &Warp.Store<ushort>,
            4 => isLoad ? &Warp.Load<uint> : &Warp.Store<uint>,
            _ => isLoad ? &Warp.Load<ulong> : &Warp.Store<ulong>,
        };
        ref Op op = ref At(Emit(execute, a: slot, count: count, immediate: offset));
        op.Slots = slots;
        op.Space = space;
        op.IsVolatile = isVolatile;
        op.IsStrong = strong || acquires || releases || cache == "cv";
        op.IsOfBlock = scope == "cta";
        op.IsAcquire = acquires;
        op.IsRelease = releases;
    }

    private void AtomicOperation(Form form, bool returns)
    {
        bool acquires = form.Take("acquire"), releases = form.Take("release"), both = form.Take("acq_rel");
        form.TakeOne("relaxed");
        string? scope = form.TakeOne("cta", "cluster", "gpu", "sys");
        Space space = TakeSpace(form);
        string? name = form.TakeOne("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec");
        form.TakeOne("noftz");
        form.TakeOne("L2::cache_hint");
        PtxType type = form.TakeType();
        int first = returns ? 1 : 0;
        form.End(first + (name == "cas" ? 3 : 2), first + 3);
        (int slot, long offset) = Address(form.Operands[first], ref space);
        int b = Read(form.Operands[first + 1], type);
        int c = name == "cas" ? Read(form.Operands[first + 2], type) : -1;
        int d = returns ? Write(form.Operands[0], type.Bytes, type.IsSigned, mayDrop: true) : -1;
        ref Op op = ref At(Emit(AtomicOf(form, name, type), d, slot, b, c, immediate: offset));
        op.Space = space;
        op.IsStrong = true;
        op.IsOfBlock = scope == "cta";
        op.IsAcquire = acquires || both;
        op.IsRelease = releases || both;
    }

    private static Execute AtomicOf(Form form, string? name, PtxType type) => (name, type.ToString()) switch
    {
        ("add", "u32" or "s32") => &Warp.Atomic<uint, AtomicAdd<uint>>,
        ("add", "u64" or "s64") => &Warp.Atomic<ulong, AtomicAdd<ulong>>,
        ("add", "f32") => &Warp.Atomic<float, AtomicAdd<float>>,
        ("add", "f64") => &Warp.Atomic<double, AtomicAdd<double>>,
        ("add", "f16x2") => &Warp.Atomic<uint, AtomicPair<F16>>,
        ("add", "bf16x2") => &Warp.Atomic<uint, AtomicPair<Bf16>>,
        ("min", "u32") => &Warp.Atomic<uint, AtomicMin<uint>>,
        ("min", "s32") => &Warp.Atomic<int, AtomicMin<int>>,
        ("min", "u64") => &Warp.Atomic<ulong, AtomicMin<ulong>>,
        ("min", "s64") => &Warp.Atomic<long, AtomicMin<long>>,
        ("max", "u32") => &Warp.Atomic<uint, AtomicMax<uint>>,
        ("max", "s32") => &Warp.Atomic<int, AtomicMax<int>>,
        ("max", "u64") => &Warp.Atomic<ulong, AtomicMax<ulong>>,
        ("max", "s64") => &Warp.Atomic<long, AtomicMax<long>>,
        ("and", "b32") => &Warp.Atomic<uint, AtomicAnd<uint>>,
        ("or", "b32") => &Warp.Atomic<uint, AtomicOr<uint>>,
        ("xor", "b32") => &Warp.Atomic<uint, AtomicXor<uint>>,
        ("and", "b64") => &Warp.Atomic<ulong, AtomicAnd<ulong>>,
        ("or", "b64") => &Warp.Atomic<ulong, AtomicOr<ulong>>,
        ("xor", "b64") => &Warp.Atomic<ulong, AtomicXor<ulong>>,
        ("exch", "b32" or "u32" or "s32" or "f32") => &Warp.Atomic<uint, AtomicExchange<uint>>,
        ("exch", "b64" or "u64" or "s64") => &Warp.Atomic<ulong, AtomicExchange<ulong>>,
        ("cas", "b16") => &Warp.Atomic<ushort, AtomicCas<ushort>>,
        ("cas", "b32" or "u32" or "s32") => &Warp.Atomic<uint, AtomicCas<uint>>,
        ("cas", "b64" or "u64" or "s64") => &Warp.Atomic<ulong, AtomicCas<ulong>>,
        ("inc", "u32") => &Warp.Atomic<uint, AtomicInc>,
        ("dec", "u32") => &Warp.Atomic<uint, AtomicDec>,
        _ => throw form.Unknown("this atomic operation is not known"),
    };

    private void Fence(Form form, string opcode)
    {
        if (opcode == "fence" && form.Take("proxy"))
        {
            while (form.TakeOne("async", "alias", "async::generic", "tensormap::generic", "acquire", "release", "cta",
                "cluster", "gpu", "sys", "global", "shared::cta", "shared::cluster", "async.global",
                "async.shared::cta", "sync_restrict::shared::cta", "sync_restrict::shared::cluster") is not null) { }
            form.End(0, 2);
            Emit(&Warp.ExecuteProxyFence);
            return;
        }
        // membar is fence.sc; so is a fence that does not say.
        string? order = form.TakeOne("sc", "acq_rel", "acquire", "release");
        string? scope = form.TakeOne("cta", "cluster", "gpu", "gl", "sys");
        while (form.TakeOne("mbarrier_init", "release", "cluster", "sync_restrict::shared::cta",
            "sync_restrict::shared::cluster") is not null) { }
        form.End(0);
        At(Emit(&Warp.ExecuteFence, count: order is null or "sc" ? 1 : 0)).IsOfBlock = scope == "cta";
    }

    private bool Control(Form form, string opcode)
    {
        switch (opcode)
        {
            case "bra":
                form.Take("uni");
                form.End(1);
                if (form.Operands[0] is not NameOperand label) throw form.Unknown("a label was expected");
                _branches.Add(Emit(&Warp.ExecuteBranch));
                At(_branches[^1]).Target = LabelOf(label.Name, _function.Instructions.Count);
                return true;
            case "brx": IndexedBranch(form); return true;
            case "ret" or "exit":
                form.Take("uni");
                form.End(0);
                Emit(&Warp.ExecuteExit);
                return true;
            case "trap" or "brkpt":
                form.End(0);
                Emit(&Warp.ExecuteTrap);
                return true;
            case "bar" or "barrier": Barrier(form, opcode); return true;
            case "nanosleep":
                form.Take("u32");
                form.End(1);
                Emit(&Warp.ExecuteYield);
                return true;
            case "griddepcontrol": // launches follow one another here
                form.TakeOne("launch_dependents", "wait");
                form.End(0);
                Emit(&Warp.ExecuteNothing);
                return true;
            case "setmaxnreg":
                while (form.TakeOne("inc", "dec", "sync", "aligned", "u32") is not null) { }
                form.End(1);
                Emit(&Warp.ExecuteNothing);
                return true;
            default: return false;
        }
    }

    private void IndexedBranch(Form form)
    {
        form.Take("idx");
        form.Take("uni");
        form.End(2);
        string name = ((NameOperand)form.Operands[1]).Name;
        if (!_function.Targets.TryGetValue(name, out IReadOnlyList<string>? labels)
            && !_function.Targets.TryGetValue(name.Split('/')[0], out labels))
            throw form.Unknown($"{name} is no list of targets");
        int index = Read(form.Operands[0], s_unsigned), slots = _slots.Count;
        foreach (string label in labels)
        {
            _labelSlots.Add(_slots.Count);
            _slots.Add(LabelOf(label, _function.Instructions.Count));
        }
        At(Emit(&Warp.ExecuteIndexedBranch, a: index, count: labels.Count)).Slots = slots;
    }

    private void Barrier(Form form, string opcode)
    {
        if (form.Take("warp"))
        {
            form.Take("sync");
            form.End(1);
            Emit(&Warp.ExecuteWarpBarrier, a: Read(form.Operands[0], s_word));
            return;
        }
        if (form.Take("cluster"))
        {
            ClusterBarrier(form);
            return;
        }
        form.Take("cta");
        bool aligned = form.Take("aligned") || opcode == "bar";
        string? mode = form.TakeOne("sync", "arrive", "red");
        string? reduction = form.TakeOne("popc", "and", "or");
        form.TakeOne("u32", "pred");
        if (mode is null || (mode == "red") != (reduction is not null)) throw form.Unknown("it is not known");
        int first = mode == "red" ? 1 : 0, last = form.Operands.Count - (mode == "red" ? 1 : 0);
        form.End(first + 1, first + 3);
        int a = Read(form.Operands[first], s_word);
        int b = last > first + 1 ? Read(form.Operands[first + 1], s_word) : -1;
        _hasPartialBarriers |= b >= 0 || mode == "arrive";
        int c = -1, d = -1;
        if (mode == "red")
        {
            (c, bool negated) = Predicate(form.Operands[last]);
            if (negated)
            {
                int turned = Temporary(1);
                Emit(&Lanes.Predicates, turned, c, count: 4, counts: false);
                c = turned;
            }
            d = reduction == "popc" ? Write(form.Operands[0], 4) : WritePredicate(form.Operands[0]);
        }
        Emit(&Warp.ExecuteBarrier, d, a, b, c, count: mode == "arrive" ? 0 : 1, immediate: aligned ? 0 : 1,
            immediate2: reduction switch { "and" => 1, "or" => 2, _ => 0 });
    }

    private bool Across(Form form, string opcode)
    {
        switch (opcode)
        {
            case "shfl": Shuffle(form); return true;
            case "vote": Vote(form); return true;
            case "activemask":
                form.Take("b32");
                form.End(1);
                Emit(&Warp.ExecuteVote, Write(form.Operands[0], 4), count: 'b');
                return true;
            case "match": Match(form); return true;
            case "redux": Reduce(form); return true;
            case "elect":
                form.Take("sync");
                form.End(2);
                PairOperand pair = (PairOperand)form.Operands[0];
                int leader = Write(pair.First, 4, mayDrop: true), members = Read(form.Operands[1], s_word);
                At(Emit(&Warp.ExecuteElect, leader, e: members)).Target = WritePredicate(pair.Second);
                return true;
            default: return false;
        }
    }

    private void Shuffle(Form form)
    {
        form.Take("sync");
        string mode = form.TakeOne("up", "down", "bfly", "idx") ?? throw form.Unknown("it has no mode");
        form.Take("b32");
        form.End(5);
        (PtxOperand result, PtxOperand? predicate) = form.Operands[0] is PairOperand pair
            ? (pair.First, pair.Second) : (form.Operands[0], null);
        int a = Read(form.Operands[1], s_word), b = Read(form.Operands[2], s_word);
        int c = Read(form.Operands[3], s_word), e = Read(form.Operands[4], s_word);
        int d = Write(result, 4, mayDrop: true), p = predicate is null ? -1 : WritePredicate(predicate, mayDrop: true);
        At(Emit(&Warp.ExecuteShuffle, d, a, b, c, e, count: mode[0])).Target = p;
    }

    private void Vote(Form form)
    {
        form.Take("sync");
        string mode = form.TakeOne("all", "any", "uni", "ballot") ?? throw form.Unknown("it has no mode");
        form.TakeOne("pred", "b32");
        form.End(3);
        (int a, bool negated) = Predicate(form.Operands[1]);
        int e = Read(form.Operands[2], s_word);
        int d = mode == "ballot" ? Write(form.Operands[0], 4) : WritePredicate(form.Operands[0]);
        int count = mode switch { "ballot" => 'b', "all" => 'l', "any" => 'y', _ => 'u' };
        Emit(&Warp.ExecuteVote, d, a, e: e, count: count, negated: negated);
    }

    private void Match(Form form)
    {
        string mode = form.TakeOne("any", "all") ?? throw form.Unknown("it has no mode");
        form.Take("sync");
        PtxType type = form.TakeType();
        form.End(3);
        (PtxOperand result, PtxOperand? predicate) = form.Operands[0] is PairOperand pair
            ? (pair.First, pair.Second) : (form.Operands[0], null);
        int a = Read(form.Operands[1], type), e = Read(form.Operands[2], s_word);
        int d = Write(result, 4), p = predicate is null ? -1 : WritePredicate(predicate);
        At(Emit(&Warp.ExecuteMatch, d, a, e: e, count: mode == "any" ? 'y' : 'l', immediate: type.Bytes)).Target = p;
    }

    private void Reduce(Form form)
    {
        form.Take("sync");
        string? name = form.TakeOne("add", "min", "max", "and", "or", "xor");
        PtxType type = form.TakeType();
        form.End(3);
        Execute execute = (name, type.IsSigned) switch
        {
            ("add", _) => &Warp.ExecuteReduction<AtomicAdd<uint>>,
            ("min", false) => &Warp.ExecuteReduction<AtomicMin<uint>>,
            ("max", false) => &Warp.ExecuteReduction<AtomicMax<uint>>,
            ("min", true) => &Warp.ExecuteReduction<SignedMin>,
            ("max", true) => &Warp.ExecuteReduction<SignedMax>,
            ("and", _) => &Warp.ExecuteReduction<AtomicAnd<uint>>,
            ("or", _) => &Warp.ExecuteReduction<AtomicOr<uint>>,
            ("xor", _) => &Warp.ExecuteReduction<AtomicXor<uint>>,
            _ => throw form.Unknown("it is not known"),
        };
        Emit(execute, Write(form.Operands[0], 4), Read(form.Operands[1], s_word), e: Read(form.Operands[2], s_word));
    }

    private bool Asynchronous(Form form, string opcode)
    {
        if (opcode != "cp" || form.Instruction.Modifiers is not ["async", ..]
            || form.Instruction.Modifiers is ["async", "bulk" or "mbarrier" or "reduce", ..]) return false;
        form.Take("async");
        if (form.Take("commit_group"))
        {
            form.End(0);
            Emit(&Warp.ExecuteCommitGroup);
        }
        else if (form.Take("wait_all"))
        {
            form.End(0);
            Emit(&Warp.ExecuteWaitGroup, count: -1);
        }
        else if (form.Take("wait_group"))
        {
            form.End(1);
            Emit(&Warp.ExecuteWaitGroup, count: (int)((ImmediateOperand)form.Operands[0]).Bits);
        }
        else CopyAsync(form);
        return true;
    }

    private void CopyAsync(Form form)
    {
        string? cache = form.TakeOne("ca", "cg");
        while (form.TakeOne("shared", "shared::cta", "global", "L2::cache_hint", "L2::64B", "L2::128B", "L2::256B")
            is not null) { }
        form.End(3, 5);
        Space shared = Space.Shared, global = Space.Global;
        (int to, long toOffset) = Address(form.Operands[0], ref shared);
        (int from, long fromOffset) = Address(form.Operands[1], ref global);
        if (to < 0) to = Constant(0, 8);
        if (from < 0) from = Constant(0, 8);
        int bytes = (int)((ImmediateOperand)form.Operands[2]).Bits;
        if (bytes is not (4 or 8 or 16) || (cache == "cg" && bytes != 16) || cache is null)
            throw form.Unknown($"{bytes} bytes are not possible there");
        int taken = -1, ignore = -1;
        if (form.Operands.Count > 3)
        {
            if (form.Operands[3] is RegisterOperand { Register.Type.Bits: 1 })
                ignore = Predicate(form.Operands[3]).Slot;
            else if (form.Operands[3] is not RegisterOperand { Register.Type.Bits: 64 })
                taken = Read(form.Operands[3], s_word);
        }
        Emit(&Warp.ExecuteCopyAsync, a: to, b: from, c: taken, e: ignore, count: bytes, immediate: toOffset,
            immediate2: fromOffset, negated: ignore >= 0);
    }
}

internal readonly struct SignedMin : IAtomic<uint>
{
    public static uint Invoke(uint old, uint b, uint c) => (uint)Math.Min((int)old, (int)b);
}

internal readonly struct SignedMax : IAtomic<uint>
{
    public static uint Invoke(uint old, uint b, uint c) => (uint)Math.Max((int)old, (int)b);
}

internal readonly struct AtomicPair<TFloat> : IAtomic<uint> where TFloat : ISmallFloat<TFloat>
{
    public static uint Invoke(uint old, uint b, uint c) => Pair<TFloat, DoubleAdd>.Invoke(old, b);
}
