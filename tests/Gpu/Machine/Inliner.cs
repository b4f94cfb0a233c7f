namespace Native.Tests.Gpu.Machine;

/// <summary>Puts the bodies of device functions where they are called, so that the machine knows no calls. Recursion
/// and calls by pointer are refused.</summary>
internal sealed class Inliner
{
    private readonly PtxModule _module;
    private readonly PtxFunction _result;
    private readonly Stack<string> _calls = new();
    private int _copies;

    private Inliner(PtxModule module, PtxFunction kernel)
    {
        _module = module;
        _result = new PtxFunction(kernel.Name, isKernel: true) { MaxThreads = kernel.MaxThreads };
        _result.Parameters.AddRange(kernel.Parameters);
    }

    /// <summary>The kernel itself where it calls nothing.</summary>
    public static PtxFunction Flatten(PtxModule module, PtxFunction kernel)
    {
        if (!kernel.Instructions.Exists(instruction => instruction.Opcode == "call")) return kernel;
        Inliner inliner = new(module, kernel);
        inliner.Copy(kernel, "", [], null);
        return inliner._result;
    }

    private void Copy(PtxFunction function, string suffix, Dictionary<PtxVariable, PtxVariable> given, string? end)
    {
        if (_calls.Contains(function.Name)) throw new PtxException($"{function.Name} calls itself");
        _calls.Push(function.Name);
        PtxRegister[] registers = new PtxRegister[function.Registers.Count];
        for (int i = 0; i < registers.Length; i++)
        {
            registers[i] = new PtxRegister(function.Registers[i].Name, function.Registers[i].Type,
                _result.Registers.Count);
            _result.Registers.Add(registers[i]);
        }
        Dictionary<PtxVariable, PtxVariable> variables = new(given);
        foreach (PtxVariable variable in function.Variables)
        {
            // A shared variable of a function is one for all calls of it; local ones are of each.
            PtxVariable copy = variable.Space is "shared" or "global" or "const" ? variable
                : new PtxVariable(variable.Name, variable.Space, variable.Bytes, variable.Alignment);
            variables[variable] = copy;
            if (!_result.Variables.Contains(copy)) _result.Variables.Add(copy);
        }
        foreach ((string name, IReadOnlyList<string> labels) in function.Targets)
            _result.Targets[name + suffix] = [.. labels.Select(label => label + suffix)];
        ILookup<int, string> labelsAt = function.Labels.ToLookup(label => label.Value, label => label.Key);
        for (int i = 0; i <= function.Instructions.Count; i++)
        {
            foreach (string label in labelsAt[i]) _result.Labels[label + suffix] = _result.Instructions.Count;
            if (i == function.Instructions.Count) break;
            PtxInstruction instruction = function.Instructions[i];
            if (instruction.Opcode == "call") Call(instruction, Map);
            else if (instruction.Opcode == "ret" && end is not null)
                _result.Instructions.Add(instruction with
                {
                    Opcode = "bra",
                    Operands = [new NameOperand(end, null)],
                    Guard = (RegisterOperand?)Map(instruction.Guard),
                });
            else _result.Instructions.Add(instruction with
            {
                Operands = [.. instruction.Operands.Select(operand => Map(operand)!)],
                Guard = (RegisterOperand?)Map(instruction.Guard),
            });
        }
        _calls.Pop();

        PtxOperand? Map(PtxOperand? operand) => operand switch
        {
            RegisterOperand register => register with { Register = registers[register.Register.Index] },
            NameOperand { Variable: { } variable } name => name with
            {
                Variable = variables.GetValueOrDefault(variable, variable),
            },
            NameOperand name => name with { Name = name.Name + suffix },
            AddressOperand address => address with
            {
                Base = Map(address.Base),
                Coordinates = Map(address.Coordinates),
            },
            VectorOperand vector => new VectorOperand([.. vector.Elements.Select(element => Map(element)!)]),
            PairOperand pair => new PairOperand(Map(pair.First)!, Map(pair.Second)!),
            _ => operand,
        };
    }

    private void Call(PtxInstruction call, Func<PtxOperand?, PtxOperand?> map)
    {
        IReadOnlyList<PtxOperand> operands = call.Operands;
        int at = operands[0] is VectorOperand ? 1 : 0;
        if (operands[at] is not NameOperand { Variable: null } callee)
            throw new PtxException($"{call.Location}: calls by pointer are not known");
        string name = callee.Name.Split('/')[0];
        if (!_module.Functions.TryGetValue(name, out PtxFunction? function))
            throw new PtxException($"{call.Location}: {name} has no body");
        Dictionary<PtxVariable, PtxVariable> given = [];
        Bind(function.Results, at == 1 ? operands[0] : null);
        Bind(function.Parameters, operands.Count > at + 1 ? operands[at + 1] : null);
        string suffix = $"#{_copies++}", end = $"end{suffix}";
        if (call.Guard is not null) throw new PtxException($"{call.Location}: a call under a guard is not known");
        Copy(function, suffix, given, end);
        _result.Labels[end] = _result.Instructions.Count;

        void Bind(List<PtxVariable> formal, PtxOperand? actual)
        {
            IReadOnlyList<PtxOperand> values = actual is VectorOperand vector ? vector.Elements : [];
            if (values.Count != formal.Count)
                throw new PtxException($"{call.Location}: {name} takes {formal.Count} operands, not {values.Count}");
            for (int i = 0; i < formal.Count; i++)
                given[formal[i]] = map(values[i]) is NameOperand { Variable: { } variable } ? variable
                    : throw new PtxException($"{call.Location}: only .param variables can be given to {name}");
        }
    }
}
