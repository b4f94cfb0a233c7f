using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using Native.Kernels.Cuda;
using Native.Tests.Gpu.Machine;

namespace Native.Tests.Gpu;

/// <summary>A device that the fake driver has.</summary>
internal sealed record FakeDevice(string Name = "Fake H200", int Capability = 90, long Bytes = 8L << 30)
{
    public int Multiprocessors { get; init; } = 132;

    public int SharedBytes { get; init; } = 227 * 1024;

    public bool HasPools { get; init; } = true;

    /// <summary>Bytes that other processes hold.</summary>
    public long TakenBytes { get; init; }
}

/// <summary>What the fake driver is like.</summary>
internal sealed record FakeCudaOptions
{
    /// <summary>CUDA 12.8.</summary>
    public int DriverVersion { get; init; } = 12_080;

    public IReadOnlyList<FakeDevice> Devices { get; init; } = [new FakeDevice()];

    /// <summary>How kernels are executed.</summary>
    public LaunchOptions Launch { get; init; } = new();

    /// <summary>What a call returns instead of being done: its name to a result, 0 for none.</summary>
    public Func<string, int>? Fails { get; init; }
}

/// <summary>A libcuda that executes kernels on the PTX machine. What is queued runs at a wait and not before: a buffer
/// that is used again too early, or read too early, shows.</summary>
/// <remarks>There is one at a time in a process, since the driver's functions have no place for another.</remarks>
internal sealed unsafe partial class FakeCuda : IDisposable
{
    private const byte Poison = 0xcd;

    private static readonly SemaphoreSlim s_one = new(1, 1);
    private static FakeCuda? s_current;

    [ThreadStatic]
    private static nint t_context;

    private readonly Dictionary<nint, object> _objects = [];
    private readonly Dictionary<nint, long> _pinned = [];
    private readonly DeviceMemory _memory;
    private readonly Lock _lock = new();
    private nint _next = 0x1000;
    private int _device = -1, _retained, _sticky;

    public FakeCuda(FakeCudaOptions? options = null)
    {
        s_one.Wait();
        Options = options ?? new();
        _memory = new DeviceMemory { Capacity = Options.Devices.Select(d => d.Bytes).DefaultIfEmpty().Max() };
        s_current = this;
        CudaApi.Instead = Table();
    }

    public FakeCudaOptions Options { get; set; }

    /// <summary>What a kernel did wrong, or what went wrong in here.</summary>
    public Exception? Caught { get; private set; }

    /// <summary>Calls by name.</summary>
    public Dictionary<string, int> Calls { get; } = [];

    /// <summary>Kernels executed, by name, with what their launches counted in all.</summary>
    public Dictionary<string, (int Launches, Counters Counters)> Kernels { get; } = [];

    /// <summary>Managed bytes that the fake itself allocated, on whatever thread it was called.</summary>
    public long Allocated { get; private set; }

    public long BytesUploaded { get; private set; }

    public long BytesDownloaded { get; private set; }

    public int Count(string call) => Calls.GetValueOrDefault(call);

    /// <summary>What was not given back.</summary>
    public IReadOnlyList<string> Leaks =>
    [
        .. _objects.Values.Select(left => left.GetType().Name), .. _memory.Ranges.Select(range => range.Name),
        .. _pinned.Values.Select(bytes => $"{bytes} pinned bytes"), .. Enumerable.Repeat("a context", _retained),
    ];

    /// <summary>The end of a test in which nothing may go wrong: no kernel and no call did, and all was given back.
    /// </summary>
    public void End()
    {
        Exception? caught = Caught;
        IReadOnlyList<string> leaks = Leaks;
        Dispose();
        Assert.Null(caught);
        Assert.Empty(leaks);
    }

    public void Dispose()
    {
        CudaApi.Instead = null;
        s_current = null;
        foreach (Module module in _objects.Values.OfType<Module>()) Discard(module.Loaded);
        foreach (nint pinned in _pinned.Keys) NativeMemory.AlignedFree((void*)pinned);
        _memory.Dispose();
        s_one.Release();
    }

    // What the driver keeps.

    private sealed class Stream
    {
        public Queue<Work> Queue { get; } = [];

        public List<Work>? Recording { get; set; }
    }

    private sealed class Event
    {
        public Stream? Stream { get; set; }

        public int Pending { get; set; }

        public long Instructions { get; set; }
    }

    private sealed record Module(GpuModule Loaded);

    private sealed class Function(GpuModule module, Kernel kernel)
    {
        public GpuModule Module => module;

        public Kernel Kernel => kernel;

        public int AllowedShared { get; set; } = 48 << 10;
    }

    private sealed record Graph(IReadOnlyList<Work> Work);

    private sealed record Executable(IReadOnlyList<Work> Work);

    /// <summary>Something that a stream does when its turn comes. <see cref="Poison"/> is done when it is queued.
    /// </summary>
    private sealed record Work(Action Run, Action? WhenQueued = null);

    private nint Add(object value)
    {
        _objects[++_next] = value;
        return _next;
    }

    private T Get<T>(nint handle) where T : class => _objects.TryGetValue(handle, out object? value) && value is T right
        ? right : throw new DriverException(CudaResult.InvalidHandle, $"{handle} is no {typeof(T).Name}");

    private void Enqueue(nint stream, Work work)
    {
        Stream at = Get<Stream>(stream);
        if (at.Recording is { } recording) recording.Add(work);
        else
        {
            work.WhenQueued?.Invoke();
            at.Queue.Enqueue(work);
        }
    }

    /// <summary>Runs what a stream has, or as much as has been queued before an event.</summary>
    private static void Run(Stream stream, Func<bool>? until = null)
    {
        if (stream.Recording is not null)
            throw new DriverException(CudaResult.StreamCaptureUnsupported, "a wait while a graph is recorded");
        while ((until is null || !until()) && stream.Queue.TryDequeue(out Work? work)) work.Run();
    }

    private sealed class DriverException(CudaResult result, string why) : Exception(why)
    {
        public CudaResult Result => result;
    }

    /// <summary>One call of the driver: counted, failed where a test wants it, and never throwing.</summary>
    private static int Call(Func<FakeCuda, int> body, bool needsContext = true, [CallerMemberName] string name = "") =>
        Call(body, static (fake, body) => body(fake), needsContext, name);

    /// <summary>A call of a step, which captures nothing, so that what it allocates is counted.</summary>
    private static int Call<T>(
        T arguments, Func<FakeCuda, T, int> body, bool needsContext = true, [CallerMemberName] string name = "")
    {
        if (s_current is not { } fake) return (int)CudaResult.Deinitialized;
        long allocated = GC.GetAllocatedBytesForCurrentThread();
        lock (fake._lock)
        {
            fake.Calls[name] = fake.Count(name) + 1;
            if (fake._sticky != 0) return fake._sticky;
            try
            {
                if (fake.Options.Fails?.Invoke(name) is int wanted and not 0)
                {
                    if (CudaException.Of(name, wanted).IsSticky) fake._sticky = wanted;
                    if (name == nameof(cuStreamEndCapture)) // a recording that fails is over, too
                        foreach (Stream stream in fake._objects.Values.OfType<Stream>()) stream.Recording = null;
                    return wanted;
                }
                if (needsContext && t_context != fake._device + 1) return (int)CudaResult.InvalidContext;
                return body(fake, arguments);
            }
            catch (DriverException e)
            {
                fake.Caught ??= e;
                return (int)e.Result;
            }
            catch (Exception e)
            {
                fake.Caught ??= e;
                fake._sticky = (int)(e is GpuFault fault ? ResultOf(fault.Kind) : CudaResult.Unknown);
                return fake._sticky;
            }
            finally
            {
                fake.Allocated += GC.GetAllocatedBytesForCurrentThread() - allocated;
            }
        }
    }

    private static CudaResult ResultOf(FaultKind kind) => kind switch
    {
        FaultKind.OutOfBounds => CudaResult.IllegalAddress,
        FaultKind.Misaligned => CudaResult.MisalignedAddress,
        FaultKind.Deadlock => CudaResult.LaunchTimeout,
        _ => CudaResult.LaunchFailed,
    };

    private MemoryRange RangeOf(ulong address, nuint bytes)
    {
        if (_memory.Find((long)address) is not { } range
            || (long)address - (long)range.Data + (long)bytes > range.Bytes)
            throw new DriverException(CudaResult.InvalidValue,
                $"{bytes} bytes at 0x{address:x} are not in one allocation of the device");
        return range;
    }

    /// <summary>Memory that is taken while a graph is recorded would become the graph's, and be there while it runs
    /// alone; pinned memory ends the recording. The driver says neither at once, which is why this does.</summary>
    private void CheckNotRecording()
    {
        if (_objects.Values.OfType<Stream>().Any(stream => stream.Recording is not null))
            throw new DriverException(CudaResult.StreamCaptureUnsupported, "memory changes while a graph is recorded");
    }

    private void CheckPinned(void* memory, nuint bytes)
    {
        foreach ((nint start, long length) in _pinned)
            if ((nint)memory >= start && (long)memory + (long)bytes <= start + length) return;
        throw new DriverException(CudaResult.InvalidValue, "an asynchronous copy of memory that is not pinned");
    }

    private static void Fill(void* memory, byte value, nuint bytes) => NativeMemory.Fill(memory, bytes, value);

    private static string Text(byte* ascii) => Marshal.PtrToStringUTF8((nint)ascii)!;

    private static void WriteLog(uint count, int* options, void** values, string text)
    {
        const int errorLog = 5;
        for (int i = 0; i < count; i++)
        {
            if (options[i] != errorLog) continue;
            byte[] bytes = Encoding.UTF8.GetBytes(text);
            bytes.CopyTo(new Span<byte>(values[i], bytes.Length + 1));
        }
    }

    /// <summary>Texts that were compiled already, as a driver's cache has them. Those with variables are made anew.
    /// </summary>
    private static readonly Dictionary<string, GpuModule> s_compiled = [];

    private GpuModule Compile(string ptx)
    {
        if (s_compiled.TryGetValue(ptx, out GpuModule? compiled)) return compiled;
        compiled = new GpuModule(ptx, _memory);
        if (!compiled.HasVariables) s_compiled[ptx] = compiled;
        return compiled;
    }

    private static void Discard(GpuModule module)
    {
        if (module.HasVariables) module.Dispose();
    }

    private sealed record Launching(Function Function, Dim3 Grid, Dim3 Block, int Shared, byte[] Parameters);

    private void Execute(Launching launch)
    {
        if (!_objects.Values.OfType<Module>().Any(module => module.Loaded == launch.Function.Module))
            throw new InvalidOperationException($"{launch.Function.Kernel.Name} runs after its module was unloaded");
        Counters counters = Machine.Launch.Run(launch.Function.Kernel, _memory, launch.Grid, launch.Block,
            launch.Shared, launch.Parameters, Options.Launch with
            {
                Multiprocessors = Options.Devices[_device].Multiprocessors,
                MaxShared = Options.Devices[_device].SharedBytes,
            });
        string name = launch.Function.Kernel.Name;
        (int launches, Counters sum) = Kernels.GetValueOrDefault(name, (0, new Counters()));
        Kernels[name] = (launches + 1, sum.Plus(counters));
        Instructions += counters.WarpInstructions;
    }

    /// <summary>Warp instructions so far: the fake's clock.</summary>
    public long Instructions { get; private set; }
}
