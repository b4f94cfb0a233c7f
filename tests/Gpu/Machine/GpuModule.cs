namespace Native.Tests.Gpu.Machine;

/// <summary>A PTX text, loaded: its kernels compiled for the machine, its variables in the device's memory.</summary>
internal sealed class GpuModule : IDisposable
{
    private readonly Dictionary<string, Kernel> _kernels = [];
    private readonly List<MemoryRange> _variables = [];
    private readonly DeviceMemory _memory;

    /// <exception cref="PtxException">It is no PTX, or has something that the machine does not know.</exception>
    public unsafe GpuModule(string ptx, DeviceMemory memory)
    {
        _memory = memory;
        PtxModule module = PtxParser.Parse(ptx);
        IEnumerable<PtxVariable> variables = module.Variables.Values
            .Concat(module.Functions.Values.SelectMany(function => function.Variables))
            .Where(variable => variable.Space is "global" or "const");
        foreach (PtxVariable variable in variables)
        {
            MemoryRange range = memory.Allocate(variable.Name, variable.Bytes);
            _variables.Add(range);
            Span<byte> data = new(range.Data, variable.Bytes);
            data.Clear(); // as the ISA has it
            variable.Initial?.CopyTo(data);
            range.Fill(0, range.Bytes);
            variable.Offset = (long)range.Data;
        }
        foreach (PtxFunction function in module.Functions.Values)
            if (function.IsKernel) _kernels[function.Name] = PtxCompiler.Compile(module, function);
        Version = module.Version;
        Target = module.Target;
    }

    public int Version { get; }

    public string Target { get; }

    public IReadOnlyDictionary<string, Kernel> Kernels => _kernels;

    /// <summary>Whether it has memory of its own on the device.</summary>
    public bool HasVariables => _variables.Count > 0;

    public MemoryRange Variable(string name) => _variables.Find(variable => variable.Name == name)
        ?? throw new KeyNotFoundException(name);

    /// <summary>Executes a kernel. Arguments are ranges of memory, or numbers of the parameters' widths.</summary>
    public Counters Launch(
        string kernel, Dim3 grid, Dim3 block, IReadOnlyList<object> arguments, int dynamicShared = 0,
        LaunchOptions? options = null)
    {
        Kernel compiled = _kernels[kernel];
        return Machine.Launch.Run(compiled, _memory, grid, block, dynamicShared,
            Pack(compiled.Function.Parameters, arguments), options);
    }

    private static unsafe byte[] Pack(List<PtxVariable> parameters, IReadOnlyList<object> arguments)
    {
        if (parameters.Count != arguments.Count)
            throw new ArgumentException($"{arguments.Count} arguments for {parameters.Count} parameters");
        byte[] bytes = new byte[parameters.Count == 0 ? 0 : parameters[^1].Offset + parameters[^1].Bytes];
        for (int i = 0; i < parameters.Count; i++)
        {
            byte[] value = arguments[i] switch
            {
                MemoryRange range => BitConverter.GetBytes((long)range.Data),
                int number => BitConverter.GetBytes(number),
                uint number => BitConverter.GetBytes(number),
                long number => BitConverter.GetBytes(number),
                ulong number => BitConverter.GetBytes(number),
                float number => BitConverter.GetBytes(number),
                byte[] structure => structure,
                object other => throw new ArgumentException($"an argument is a {other.GetType()}"),
            };
            if (value.Length != parameters[i].Bytes)
                throw new ArgumentException(
                    $"{value.Length} bytes for {parameters[i].Name}, which has {parameters[i].Bytes}");
            value.CopyTo(bytes, (int)parameters[i].Offset);
        }
        return bytes;
    }

    public void Dispose()
    {
        foreach (Kernel kernel in _kernels.Values) kernel.Dispose();
        foreach (MemoryRange variable in _variables) _memory.Free(variable);
    }
}
