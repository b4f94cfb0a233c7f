namespace Native.Tests.Gpu.Machine;

/// <summary>What sm_90 adds: mbarriers, bulk and tensor copies, products by groups of warps.</summary>
internal sealed unsafe partial class PtxCompiler
{
    private readonly HashSet<PtxRegister> _groupRegisters = [];

    private bool Hopper(Form form, string opcode)
    {
        switch (opcode)
        {
            case "mbarrier": MBarrier(form); return true;
            case "wgmma": GroupProduct(form); return true;
            case "cp":
                if (form.Instruction.Modifiers is ["async", "mbarrier", ..]) ArriveAfterCopies(form);
                else if (form.Instruction.Modifiers is ["async", "bulk", ..]) BulkCopies(form);
                else return false;
                return true;
            default: return false;
        }
    }

    /// <summary>A cluster has one block here: its barrier is the block's.</summary>
    private void ClusterBarrier(Form form)
    {
        bool waits = form.TakeOne("wait", "arrive") == "wait";
        while (form.TakeOne("aligned", "release", "relaxed", "acquire") is not null) { }
        form.End(0);
        if (waits) Emit(&Warp.ExecuteBarrier, a: Constant(15, 4), count: 1);
        else Emit(&Warp.ExecuteNothing);
    }

    private (int Slot, long Offset) SharedAddress(PtxOperand operand)
    {
        Space space = Space.Shared;
        return Address(operand, ref space);
    }

    private void MBarrier(Form form)
    {
        _hasPartialBarriers = true;
        string? what = form.TakeOne("init", "inval", "arrive", "arrive_drop", "expect_tx", "test_wait", "try_wait");
        bool expects = form.Take("expect_tx") || what == "expect_tx", parity = form.Take("parity");
        bool relaxed = form.Take("relaxed");
        while (form.TakeOne("release", "acquire", "cta", "cluster", "shared", "shared::cta", "shared::cluster", "b64",
            "noComplete") is not null) { }
        form.End(1, 4);
        switch (what)
        {
            case "init" or "inval":
                (int at, long from) = SharedAddress(form.Operands[0]);
                int count = what == "init" ? Read(form.Operands[1], s_word) : -1;
                Emit(&Warp.ExecuteInitBarrier, a: at, b: count, immediate: from);
                return;
            case "test_wait" or "try_wait":
                (int barrier, long offset) = SharedAddress(form.Operands[1]);
                int phase = Read(form.Operands[2], parity ? s_word : s_long);
                Emit(&Warp.ExecuteTestWait, WritePredicate(form.Operands[0]), barrier, phase, count: parity ? 1 : 0,
                    immediate: offset);
                return;
            case null: throw form.Unknown("it is not known");
        }
        bool hasState = form.Operands[0] is not AddressOperand;
        int first = hasState ? 1 : 0;
        (int slot, long immediate) = SharedAddress(form.Operands[first]);
        int more = form.Operands.Count > first + 1 ? Read(form.Operands[first + 1], s_word) : -1;
        int d = hasState ? Write(form.Operands[0], 8, mayDrop: true) : -1;
        Emit(&Warp.ExecuteArrive, d, slot, expects ? -1 : more, expects ? more : -1,
            count: (what == "expect_tx" ? 0 : 1) | (what == "arrive_drop" ? 2 : 0) | (relaxed ? 4 : 0),
            immediate: immediate);
    }

    private void ArriveAfterCopies(Form form)
    {
        form.Take("async");
        form.Take("mbarrier");
        form.Take("arrive");
        bool plain = form.Take("noinc");
        while (form.TakeOne("shared", "shared::cta", "b64") is not null) { }
        form.End(1);
        _hasPartialBarriers = true;
        (int slot, long offset) = SharedAddress(form.Operands[0]);
        Emit(&Warp.ExecuteArriveAfterCopies, a: slot, count: plain ? 1 : 0, immediate: offset);
    }

    private void BulkCopies(Form form)
    {
        form.Take("async");
        form.Take("bulk");
        if (form.Take("commit_group"))
        {
            form.End(0);
            Emit(&Warp.ExecuteBulkCommit);
            return;
        }
        if (form.Take("wait_group"))
        {
            bool reads = form.Take("read");
            form.End(1);
            Emit(&Warp.ExecuteBulkWait, e: reads ? 1 : 0, count: (int)((ImmediateOperand)form.Operands[0]).Bits);
            return;
        }
        bool tensor = form.Take("tensor");
        string? rank = form.TakeOne("1d", "2d", "3d", "4d", "5d");
        if (form.Take("prefetch"))
        {
            while (form.TakeOne("L2", "global", "tile", "L2::cache_hint") is not null) { }
            form.End(1, 3);
            Emit(&Warp.ExecuteNothing);
            return;
        }
        _hasPartialBarriers = true;
        bool stores = form.Take("bulk_group");
        if (!stores) form.Take("mbarrier::complete_tx::bytes");
        while (form.TakeOne("shared::cluster", "shared::cta", "global", "tile", "L2::cache_hint") is not null) { }
        form.End(tensor ? 2 : 3, 6);
        if (tensor) TensorCopies(form, rank![0] - '0', stores);
        else
        {
            Space shared = Space.Shared, global = Space.Global;
            (int to, long toOffset) = Address(form.Operands[0], ref stores ? ref global : ref shared);
            (int from, long fromOffset) = Address(form.Operands[1], ref stores ? ref shared : ref global);
            int bytes = Read(form.Operands[2], s_word);
            (int barrier, long barrierOffset) = stores ? (-1, 0) : SharedAddress(form.Operands[3]);
            int zero = Constant(0, 8);
            ref Op op = ref At(Emit(&Warp.ExecuteBulkCopy, a: to < 0 ? zero : to, b: from < 0 ? zero : from, c: barrier,
                e: bytes, count: stores ? 1 : 0, immediate: toOffset, immediate2: fromOffset));
            op.Target = (int)barrierOffset;
        }
    }

    private void TensorCopies(Form form, int rank, bool stores)
    {
        AddressOperand map = (AddressOperand)form.Operands[stores ? 0 : 1];
        (int shared, long offset) = SharedAddress(form.Operands[stores ? 1 : 0]);
        (int barrier, long barrierOffset) = stores ? (-1, 0) : SharedAddress(form.Operands[2]);
        Space space = Space.Generic;
        (int mapSlot, long mapOffset) = Address(map with { Coordinates = null }, ref space);
        if (mapSlot < 0) mapSlot = Constant((ulong)(mapOffset + Warp.ParameterWindow), 8);
        else if (mapOffset != 0) throw form.Unknown("a tensor map with an offset is not known");
        if (map.Coordinates is not VectorOperand coordinates || coordinates.Elements.Count != rank)
            throw form.Unknown($"{rank} coordinates were expected");
        int[] places = [.. coordinates.Elements.Select(element => Read(element, new("s", 32)))];
        int slots = _slots.Count;
        _slots.AddRange(places);
        if (shared < 0) shared = Constant(0, 8);
        ref Op op = ref At(Emit(&Warp.ExecuteTensorCopy, a: shared, b: mapSlot, c: barrier, e: stores ? 1 : 0,
            count: rank, immediate: offset, immediate2: barrierOffset));
        op.Slots = slots;
    }

    private void GroupProduct(Form form)
    {
        bool waits = form.Take("wait_group"), commits = form.Take("commit_group"), fences = form.Take("fence");
        form.Take("sync");
        form.Take("aligned");
        if (waits || commits || fences)
        {
            form.End(waits ? 1 : 0);
            Emit(waits ? &Warp.ExecuteGroupWait : commits ? &Warp.ExecuteGroupCommit : &Warp.ExecuteGroupFence,
                count: waits ? (int)((ImmediateOperand)form.Operands[0]).Bits : 0);
            return;
        }
        if (!form.Take("mma_async")) throw form.Unknown("it is not known");
        string shape = form.Instruction.Modifiers.First(modifier => modifier.StartsWith("m64n"));
        form.Take(shape);
        form.Take("satfinite");
        int k = shape.IndexOf('k', 1), n = int.Parse(shape[4..k]), depth = int.Parse(shape[(k + 1)..]);
        PtxType typeD = form.TakeType();
        Element a = ElementOf(form, form.TakeType()), b = ElementOf(form, form.TakeType());
        form.End(4, 8);
        if (n % 8 != 0 || n is < 8 or > 256 || depth != 256 / Warp.BitsOf(a) || Warp.BitsOf(a) != Warp.BitsOf(b)
            || Warp.BitsOf(a) == 4) throw form.Unknown("the types don't go with the shape");
        bool Says(int operand, long value) => form.Operands.Count > operand
            && form.Operands[operand] is ImmediateOperand literal && literal.Bits == value;
        bool fromRegisters = form.Operands[1] is VectorOperand;
        int transposes = fromRegisters ? 6 : 7;
        GroupShape packed = new(a, b, !fromRegisters && Says(6, 1), Says(transposes, 1), Says(4, -1), Says(5, -1),
            typeD.Bits == 16);
        int slots = _slots.Count;
        AddSlots(form, 0, typeD.Bits == 16 ? n / 4 : n / 2, writes: true);
        if (fromRegisters) AddSlots(form, 1, 4, writes: false);
        int left = fromRegisters ? -1 : Read(form.Operands[1], s_long), right = Read(form.Operands[2], s_long);
        (int keeps, bool negated) = Predicate(form.Operands[3]);
        ref Op op = ref At(Emit(&Warp.ExecuteGroupMatrix, a: left, b: right, c: keeps, count: n,
            immediate: packed.Pack(), negated: negated));
        op.Slots = slots;
    }

    /// <summary>Before and after what touches registers of products: it must not come before their wait.</summary>
    private void FollowProducts(PtxInstruction instruction, List<PtxRegister> written, List<PtxRegister> read)
    {
        if (instruction.Opcode == "wgmma") return;
        int[] SlotsOf(List<PtxRegister> registers) =>
            [.. registers.Where(_groupRegisters.Contains).Select(register => _registers[register.Index])];
        int[] uses = SlotsOf(read);
        // A copy from one to another changes none: the assembler gives both one place.
        bool copies = instruction is { Opcode: "mov", Operands: [_, RegisterOperand] } && uses.Length > 0;
        int[] defines = copies ? [] : SlotsOf(written);
        if (uses.Length + defines.Length == 0) return;
        int slots = _slots.Count;
        _slots.AddRange(uses);
        _slots.AddRange(defines);
        ref Op op = ref At(Emit(&Warp.ExecuteTouch, count: uses.Length + defines.Length, immediate: uses.Length,
            counts: false));
        op.Slots = slots;
    }

    /// <summary>The registers that products write, or read as their A.</summary>
    private void FindGroupRegisters()
    {
        List<PtxRegister> written = [], read = [];
        foreach (PtxInstruction instruction in _function.Instructions)
        {
            if (instruction.Opcode != "wgmma" || instruction.Operands.Count < 4) continue;
            Liveness.Touched(instruction, written, read);
            _groupRegisters.UnionWith(written);
            if (instruction.Operands[1] is VectorOperand left)
                _groupRegisters.UnionWith(left.Elements.OfType<RegisterOperand>().Select(operand => operand.Register));
        }
    }
}
