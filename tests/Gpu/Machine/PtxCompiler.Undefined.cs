using System.Collections;

namespace Native.Tests.Gpu.Machine;

/// <summary>Registers that are read on ways on which nothing wrote them. Compilers do that and drop the result, so what
/// is computed of them is followed, and it is a fault where it decides something: an address, a branch, a stored value.
/// </summary>
internal sealed unsafe partial class PtxCompiler
{
    private bool _hasUndefined;

    /// <summary>Gives every register that may be undefined a mask of the lanes in which it is defined.</summary>
    private void FindUndefined(BitArray atEntry)
    {
        BitArray undefined = new(atEntry);
        List<PtxRegister> written = [], read = [];
        for (bool changed = undefined.HasAnySet(); changed;)
        {
            changed = false;
            foreach (PtxInstruction instruction in _function.Instructions)
            {
                if (Decides(instruction)) continue;
                Liveness.Touched(instruction, written, read);
                if (!read.Exists(register => undefined[register.Index])) continue;
                foreach (PtxRegister register in written)
                {
                    changed |= !undefined[register.Index];
                    undefined[register.Index] = true;
                }
            }
        }
        _hasUndefined = undefined.HasAnySet();
        for (int i = 0; i < undefined.Length; i++)
            if (undefined[i]) _defined[i] = Reserve(SlotBytes(1));
    }

    /// <summary>Whether undefined operands are a fault, rather than make an undefined result.</summary>
    private static bool Decides(PtxInstruction instruction) => instruction.Opcode is "ld" or "st" or "atom" or "red"
        or "bra" or "brx" or "bar" or "barrier" or "shfl" or "vote" or "match" or "redux" or "elect" or "mma" or "wgmma"
        or "ldmatrix" or "stmatrix" or "cp" or "mbarrier" or "nanosleep";

    private void FollowDefinedness(PtxInstruction instruction, List<PtxRegister> written, List<PtxRegister> read)
    {
        bool decides = Decides(instruction);
        foreach (PtxRegister register in read)
        {
            int mask = _defined[register.Index];
            if (mask >= 0 && (decides || instruction.Guard?.Register == register))
                Emit(&Warp.ExecuteCheckDefined, a: mask, immediate: register.Index, counts: false,
                    guarded: instruction.Guard?.Register != register);
        }
        foreach (PtxRegister register in written)
        {
            if (_defined[register.Index] < 0) continue;
            int slots = _slots.Count, predicate = -1;
            bool negated = false;
            if (!decides && instruction.Opcode == "selp")
            {
                _slots.AddRange(instruction.Operands.Skip(1).Select(MaskOf));
                (predicate, negated) = Predicate(instruction.Operands[3]);
            }
            // What is packed of two may be meant to be one, since compilers fill up with what is at hand: it counts as
            // defined.
            else if (!decides && instruction is not ({ Opcode: "mov", Operands: [_, VectorOperand] }
                or { Opcode: "prmt" or "bfi" })) _slots.AddRange(read.Select(other => _defined[other.Index]));
            // What is written is read before, if it is among the operands: its mask changes in the same instant.
            ref Op op = ref At(Emit(&Warp.ExecuteDefine, _defined[register.Index], predicate,
                count: _slots.Count - slots, counts: false, negated: negated));
            op.Slots = slots;
        }

        int MaskOf(PtxOperand operand) =>
            operand is RegisterOperand { Register: var register } ? _defined[register.Index] : -1;
    }
}
