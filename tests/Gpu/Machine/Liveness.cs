using System.Collections;

namespace Native.Tests.Gpu.Machine;

/// <summary>Which registers are live where, and from that where each lies: those that are never live at once share a
/// place, with their like in width alone, so that lanes that diverge don't disturb each other.</summary>
internal sealed class Liveness
{
    private readonly PtxFunction _function;
    private readonly List<(int From, int To)> _blocks = [];
    private readonly List<int>[] _next;
    private readonly BitArray[] _in;

    private Liveness(PtxFunction function, Func<string, int> labelOf)
    {
        _function = function;
        SplitIntoBlocks(labelOf, out _next);
        _in = [.. _blocks.Select(_ => new BitArray(function.Registers.Count))];
        Solve();
    }

    /// <summary>Places of registers in bytes of a lane: an index among those of the same width. Registers nobody uses
    /// have -1.</summary>
    public static (int[] Places, int[] Counts, BitArray Undefined, int MostLive) Of(
        PtxFunction function, Func<string, int> labelOf)
    {
        Liveness liveness = new(function, labelOf);
        (int First, int Last)[] intervals = liveness.Intervals();
        int[] order = [.. Enumerable.Range(0, intervals.Length).Where(i => intervals[i].Last >= 0)
            .OrderBy(i => intervals[i].First)];
        int[] places = new int[intervals.Length], counts = new int[9];
        Array.Fill(places, -1);
        Stack<int>[] free = [.. Enumerable.Range(0, 9).Select(_ => new Stack<int>())];
        PriorityQueue<int, int> ends = new();
        int live = 0, mostLive = 0;
        foreach (int register in order)
        {
            while (ends.TryPeek(out int ended, out int end) && end < intervals[register].First)
            {
                ends.Dequeue();
                free[WidthOf(function.Registers[ended].Type)].Push(places[ended]);
                live -= Words(ended);
            }
            int width = WidthOf(function.Registers[register].Type);
            places[register] = free[width].TryPop(out int place) ? place : counts[width]++;
            ends.Enqueue(register, intervals[register].Last);
            live += Words(register);
            mostLive = Math.Max(mostLive, live);
        }
        BitArray undefined = liveness._in.Length > 0 ? liveness._in[0] : new BitArray(intervals.Length);
        return (places, counts, undefined, mostLive);

        int Words(int register) => function.Registers[register].Type.Bits switch { 1 => 0, 64 => 2, 128 => 4, _ => 1 };
    }

    /// <summary>Bytes of a lane: 1 for predicates (of the whole warp: 4 bytes), else 2, 4 or 8.</summary>
    public static int WidthOf(PtxType type) => type.Bits switch { 1 => 1, <= 16 => 2, 32 => 4, 64 => 8, _ => 0 };

    /// <summary>The registers that an instruction writes and those that it reads; one under a guard also keeps what was
    /// there.</summary>
    public static void Touched(PtxInstruction instruction, List<PtxRegister> written, List<PtxRegister> read)
    {
        written.Clear();
        read.Clear();
        if (instruction.Guard is { } guard) read.Add(guard.Register);
        for (int i = 0; i < instruction.Operands.Count; i++)
        {
            bool writes = i == 0 && WritesFirst(instruction);
            Add(instruction.Operands[i], writes ? written : read, read);
        }
        if (instruction.Opcode == "wgmma" && instruction.Operands.Count > 0)
            Add(instruction.Operands[0], read, read); // adds to what is there
    }

    private static bool WritesFirst(PtxInstruction instruction) => instruction.Opcode switch
    {
        "bra" or "brx" or "nanosleep" or "call" or "setmaxnreg" or "prefetch" or "discard" => false,
        "bar" or "barrier" => instruction.Modifiers.Contains("red"),
        _ => true,
    };

    private static void Add(PtxOperand? operand, List<PtxRegister> to, List<PtxRegister> read)
    {
        switch (operand)
        {
            case RegisterOperand register: to.Add(register.Register); break;
            case VectorOperand vector: foreach (PtxOperand element in vector.Elements) Add(element, to, read); break;
            case PairOperand pair:
                Add(pair.First, to, read);
                Add(pair.Second, to, read);
                break;
            case AddressOperand address:
                Add(address.Base, read, read);
                Add(address.Coordinates, read, read);
                break;
        }
    }

    private void SplitIntoBlocks(Func<string, int> labelOf, out List<int>[] next)
    {
        List<PtxInstruction> instructions = _function.Instructions;
        SortedSet<int> starts = [0];
        Dictionary<int, List<int>> jumps = [];
        for (int i = 0; i < instructions.Count; i++)
        {
            if (!EndsBlock(instructions[i].Opcode)) continue;
            starts.Add(i + 1);
            jumps[i] = [.. TargetsOf(instructions[i]).Select(labelOf)];
            starts.UnionWith(jumps[i]);
        }
        starts.RemoveWhere(start => start >= instructions.Count);
        int[] from = [.. starts];
        for (int i = 0; i < from.Length; i++)
            _blocks.Add((from[i], i + 1 < from.Length ? from[i + 1] : instructions.Count));
        next = new List<int>[from.Length];
        for (int i = 0; i < from.Length; i++)
        {
            int last = _blocks[i].To - 1;
            next[i] = [.. jumps.GetValueOrDefault(last, []).Where(target => target < instructions.Count)
                .Select(target => Array.BinarySearch(from, target))];
            bool falls = instructions[last].Guard is not null
                || instructions[last].Opcode is not ("bra" or "brx" or "ret" or "exit" or "trap");
            if (falls && i + 1 < from.Length) next[i].Add(i + 1);
        }
    }

    private static bool EndsBlock(string opcode) => opcode is "bra" or "brx" or "ret" or "exit" or "trap";

    private IEnumerable<string> TargetsOf(PtxInstruction instruction) => instruction.Opcode switch
    {
        "bra" => [((NameOperand)instruction.Operands[0]).Name],
        "brx" => _function.Targets[((NameOperand)instruction.Operands[1]).Name.Split('/')[0]],
        _ => [],
    };

    private void Solve()
    {
        int registers = _function.Registers.Count;
        BitArray[] uses = new BitArray[_blocks.Count], defines = new BitArray[_blocks.Count];
        List<PtxRegister> written = [], read = [];
        for (int block = 0; block < _blocks.Count; block++)
        {
            uses[block] = new BitArray(registers);
            defines[block] = new BitArray(registers);
            for (int i = _blocks[block].From; i < _blocks[block].To; i++)
            {
                Touched(_function.Instructions[i], written, read);
                foreach (PtxRegister register in read)
                    if (!defines[block][register.Index]) uses[block][register.Index] = true;
                if (_function.Instructions[i].Guard is not null) continue;
                foreach (PtxRegister register in written) defines[block][register.Index] = true;
            }
        }
        for (bool changed = true; changed;)
        {
            changed = false;
            for (int block = _blocks.Count - 1; block >= 0; block--)
            {
                BitArray live = new(registers);
                foreach (int next in _next[block]) live.Or(_in[next]);
                live.And(new BitArray(defines[block]).Not()).Or(uses[block]);
                if (new BitArray(live).Xor(_in[block]).HasAnySet())
                {
                    _in[block] = live;
                    changed = true;
                }
            }
        }
    }

    private (int First, int Last)[] Intervals()
    {
        (int First, int Last)[] intervals = new (int, int)[_function.Registers.Count];
        Array.Fill(intervals, (int.MaxValue, -1));
        List<PtxRegister> written = [], read = [];
        void Extend(int register, int at) =>
            intervals[register] = (Math.Min(intervals[register].First, at), Math.Max(intervals[register].Last, at));
        for (int block = 0; block < _blocks.Count; block++)
        {
            for (int register = 0; register < intervals.Length; register++)
            {
                if (_in[block][register]) Extend(register, _blocks[block].From);
                foreach (int next in _next[block])
                    if (_in[next][register]) Extend(register, _blocks[block].To);
            }
            for (int i = _blocks[block].From; i < _blocks[block].To; i++)
            {
                Touched(_function.Instructions[i], written, read);
                foreach (PtxRegister register in written) Extend(register.Index, i);
                foreach (PtxRegister register in read) Extend(register.Index, i);
            }
        }
        return intervals;
    }
}
