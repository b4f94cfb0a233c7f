namespace Native.Tests.Gpu.Machine;

/// <summary>Tensor cores.</summary>
internal sealed unsafe partial class PtxCompiler
{
    private bool Matrix(Form form, string opcode)
    {
        switch (opcode)
        {
            case "mma": MultiplyMatrices(form); return true;
            case "ldmatrix" or "stmatrix": MoveMatrices(form, opcode == "ldmatrix"); return true;
            default: return false;
        }
    }

    private static Element ElementOf(Form form, PtxType type) => type.ToString() switch
    {
        "f16" => Element.F16,
        "bf16" => Element.BF16,
        "tf32" => Element.TF32,
        "e4m3" => Element.E4M3,
        "e5m2" => Element.E5M2,
        "s8" => Element.S8,
        "u8" => Element.U8,
        "s4" => Element.S4,
        "u4" => Element.U4,
        _ => throw form.Unknown($"matrices of {type} are not known"),
    };

    private void MultiplyMatrices(Form form)
    {
        form.Take("sync");
        form.Take("aligned");
        string shape = form.TakeOne("m16n8k4", "m16n8k8", "m16n8k16", "m16n8k32", "m16n8k64", "m8n8k16", "m8n8k32")
            ?? throw form.Unknown("its shape is not known");
        bool saturates = form.Take("satfinite");
        if (!form.Take("row") || !form.Take("col")) throw form.Unknown("only .row.col is known");
        PtxType typeD = form.TakeType(), typeA = form.TakeType(), typeB = form.TakeType(), typeC = form.TakeType();
        form.End(4);
        int rows = shape.StartsWith("m16") ? 16 : 8, k = int.Parse(shape[(shape.IndexOf('k') + 1)..]);
        Element a = ElementOf(form, typeA), b = ElementOf(form, typeB);
        int bits = Warp.BitsOf(a);
        bool fits = bits == Warp.BitsOf(b) && (rows, bits, k) is (16, 16, 8 or 16) or (16, 32, 4 or 8)
            or (16, 8, 16 or 32) or (16, 4, 32 or 64) or (8, 8, 16) or (8, 4, 32) && a >= Element.S8 == b >= Element.S8
            && (a >= Element.S8) == (typeD.Kind == "s");
        if (!fits || (typeD.Bits < typeC.Bits && typeD.Kind != "f"))
            throw form.Unknown("the types don't go with the shape");
        int registersA = rows * k * bits / 32 / 32, registersB = 8 * k * bits / 32 / 32, values = rows / 4;
        int slots = _slots.Count;
        AddSlots(form, 0, typeD.Bits == 16 ? values / 2 : values, writes: true);
        AddSlots(form, 1, registersA, writes: false);
        AddSlots(form, 2, registersB, writes: false);
        AddSlots(form, 3, typeC.Bits == 16 ? values / 2 : values, writes: false);
        ref Op op = ref At(Emit(&Warp.ExecuteMatrix, a: rows, b: (int)a, c: (int)b,
            e: (typeD.Bits == 16 ? 1 : 0) | (typeC.Bits == 16 ? 2 : 0) | (saturates ? 4 : 0), count: k));
        op.Slots = slots;
    }

    private void AddSlots(Form form, int operand, int count, bool writes)
    {
        IReadOnlyList<PtxOperand> elements = form.Operands[operand] is VectorOperand vector ? vector.Elements
            : [form.Operands[operand]];
        if (elements.Count != count)
            throw form.Unknown($"operand {operand} has {elements.Count} registers, where the shape has {count}");
        int[] slots = [.. elements.Select(element => writes ? Write(element, 4) : Read(element, s_word))];
        _slots.AddRange(slots);
    }

    private void MoveMatrices(Form form, bool isLoad)
    {
        form.Take("sync");
        form.Take("aligned");
        if (!form.Take("m8n8")) throw form.Unknown("only .m8n8 is known");
        string count = form.TakeOne("x1", "x2", "x4") ?? throw form.Unknown("it has no count");
        bool transposes = form.Take("trans");
        form.TakeOne("shared", "shared::cta");
        if (!form.Take("b16")) throw form.Unknown("only .b16 is known");
        form.End(2);
        Space space = Space.Shared;
        (int slot, long offset) = Address(form.Operands[isLoad ? 1 : 0], ref space);
        int slots = _slots.Count;
        AddSlots(form, isLoad ? 0 : 1, count[1] - '0', writes: isLoad);
        ref Op op = ref At(Emit(isLoad ? &Warp.ExecuteLoadMatrix : &Warp.ExecuteStoreMatrix, a: slot,
            count: count[1] - '0', immediate: offset, negated: transposes));
        op.Slots = slots;
        op.Space = space;
    }
}
