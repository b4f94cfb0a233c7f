using System.Text;

namespace Native.Kernels.Cuda;

/// <summary>PTX that the driver has compiled for a device.</summary>
internal sealed unsafe class CudaModule : IDisposable
{
    private const int InfoLog = 3, InfoLogBytes = 4, ErrorLog = 5, ErrorLogBytes = 6; // CU_JIT_*
    private const int LogBytes = 16 << 10;

    private readonly CudaDevice _device;
    private readonly nint _module;

    /// <summary>Loads PTX; the driver compiles it, or has it in its cache.</summary>
    /// <param name="device">The device.</param>
    /// <param name="ptx">ASCII text.</param>
    /// <param name="name">In messages.</param>
    /// <exception cref="CudaException">The driver refuses it; the message has its log.</exception>
    public CudaModule(CudaDevice device, ReadOnlySpan<byte> ptx, string name)
    {
        _device = device;
        device.Enter();
        byte[] text = [.. ptx, 0], info = new byte[LogBytes], errors = new byte[LogBytes];
        nint module;
        fixed (byte* image = text, infoLog = info, errorLog = errors)
        {
            int* options = stackalloc int[] { InfoLog, InfoLogBytes, ErrorLog, ErrorLogBytes };
            void** values = stackalloc void*[] { infoLog, (void*)LogBytes, errorLog, (void*)LogBytes };
            int result = device.Api.cuModuleLoadDataEx(&module, image, 4, options, values);
            device.Check(result, "cuModuleLoadDataEx", $"{name} for {device.Name}{After(errors)}");
        }
        _module = module;
        Log = Text(info);
    }

    /// <summary>What the driver's compiler said: registers and spills, with some drivers.</summary>
    public string Log { get; }

    /// <summary>A kernel by its name.</summary>
    public CudaFunction Function(string name)
    {
        _device.Enter();
        nint function;
        fixed (byte* ascii = Encoding.ASCII.GetBytes(name + '\0'))
            _device.Check(_device.Api.cuModuleGetFunction(&function, _module, ascii), "cuModuleGetFunction", name);
        return new CudaFunction(_device, function, name);
    }

    public void Dispose()
    {
        _device.Enter();
        _device.Check(_device.Api.cuModuleUnload(_module), "cuModuleUnload");
    }

    private static string After(byte[] log) => Text(log) is { Length: > 0 } text ? $": {text}" : "";

    private static string Text(byte[] log) => Encoding.UTF8.GetString(log.AsSpan(0, Math.Max(0, log.IndexOf((byte)0))))
        .Trim();
}

/// <summary>A kernel of a module.</summary>
internal sealed unsafe class CudaFunction(CudaDevice device, nint function, string name)
{
    private const int SharedSizeBytes = 1, LocalSizeBytes = 3, RegisterCount = 4, MaxDynamicShared = 8; // CU_FUNC_*

    /// <summary>Its name.</summary>
    public string Name => name;

    /// <summary>Registers a thread has, after the driver compiled it.</summary>
    public int Registers => Attribute(RegisterCount);

    /// <summary>Bytes a thread spills to local memory.</summary>
    public int SpilledBytes => Attribute(LocalSizeBytes);

    /// <summary>Bytes of shared memory that its text declares.</summary>
    public int SharedBytes => Attribute(SharedSizeBytes);

    /// <summary>Lets it be launched with more than 48 KB of shared memory.</summary>
    public void AllowShared(int bytes)
    {
        device.Enter();
        device.Check(device.Api.cuFuncSetAttribute(function, MaxDynamicShared, bytes), "cuFuncSetAttribute",
            $"{bytes} bytes of shared memory for {name}");
    }

    /// <summary>Queues a launch of <paramref name="grid"/> blocks.</summary>
    /// <param name="grid">Blocks in each dimension.</param>
    /// <param name="block">Threads of a block in each dimension.</param>
    /// <param name="sharedBytes">Dynamic shared memory.</param>
    /// <param name="arguments">A pointer to each argument, in order. They are copied.</param>
    /// <param name="overlaps">Whether it may begin while the kernel before it ends; it then waits by itself
    /// (griddepcontrol). From compute capability 9.0 on.</param>
    public void Launch(
        (uint X, uint Y, uint Z) grid, (uint X, uint Y, uint Z) block, int sharedBytes, void** arguments,
        bool overlaps = false)
    {
        CudaLaunchAttribute attribute = new() { Id = CudaLaunchAttribute.ProgrammaticSerialization, Value = 1 };
        CudaLaunchConfig config = new()
        {
            GridX = grid.X,
            GridY = grid.Y,
            GridZ = grid.Z,
            BlockX = block.X,
            BlockY = block.Y,
            BlockZ = block.Z,
            SharedBytes = (uint)sharedBytes,
            Stream = device.Stream,
            Attributes = &attribute,
            AttributeCount = overlaps ? 1u : 0,
        };
        int result = device.Api.cuLaunchKernelEx(&config, function, arguments, null);
        if (result != 0)
            device.Check(result, "cuLaunchKernelEx", $"{name}, {grid.X} x {grid.Y} x {grid.Z} blocks of "
                + $"{block.X} x {block.Y} x {block.Z} threads, {sharedBytes} bytes of shared memory");
    }

    private int Attribute(int attribute)
    {
        device.Enter();
        int value;
        device.Check(device.Api.cuFuncGetAttribute(&value, attribute, function), "cuFuncGetAttribute", name);
        return value;
    }
}
