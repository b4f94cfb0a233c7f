using System.Globalization;
using System.Text;

namespace Native.Kernels.Cuda;

/// <summary>One NVIDIA GPU, by the driver's primary context of it. Calls are checked; one thread at a time may call.
/// </summary>
internal sealed unsafe class CudaDevice : IDisposable
{
    /// <summary>The least driver: cuLaunchKernelEx, memory pools and PTX 8.0.</summary>
    public const int LeastDriver = 12_000;

    /// <summary>The least compute capability, times ten: bfloat16 and asynchronous copies.</summary>
    public const int LeastCapability = 80;

    private const int NameBytes = 256;

    private const int MultiprocessorCount = 16, CapabilityMajor = 75, CapabilityMinor = 76, MaxSharedOptIn = 97,
        MemoryPools = 115;

    private readonly int _device;
    private readonly nint _context;
    private bool _disposed;

    /// <summary>Whose context a thread has. By thread and not by its number, which another gets once it has ended.
    /// </summary>
    [ThreadStatic]
    private static CudaDevice? t_entered;

    private CudaDevice(CudaApi api, int index, int driver)
    {
        Api = api;
        Index = index;
        DriverVersion = driver;
        int device;
        Check(Api.cuDeviceGet(&device, index), "cuDeviceGet", $"device {index}");
        _device = device;
        byte* name = stackalloc byte[NameBytes];
        Check(Api.cuDeviceGetName(name, NameBytes, device), "cuDeviceGetName", $"device {index}");
        Name = Text(name);
        Capability = Attribute(CapabilityMajor) * 10 + Attribute(CapabilityMinor);
        if (Capability < LeastCapability)
            throw new CudaException($"{Name} (device {index}) has compute capability {Digits(Capability)}; the kernels "
                + $"need {Digits(LeastCapability)} (Ampere) or later. Choose another by --device.",
                CudaResult.NoBinaryForGpu);
        Multiprocessors = Attribute(MultiprocessorCount);
        SharedBytes = Attribute(MaxSharedOptIn);
        if (Attribute(MemoryPools) == 0)
            throw new CudaException($"{Name} (device {index}) has no memory pools here, which virtual GPUs may lack. "
                + "Choose another by --device.");
        nint context, stream;
        Check(Api.cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain", Name);
        _context = context;
        try
        {
            Enter();
            Check(Api.cuStreamCreate(&stream, 1), "cuStreamCreate"); // 1: apart from the default stream
        }
        catch
        {
            _ = Api.cuDevicePrimaryCtxRelease(device);
            throw;
        }
        Stream = stream;
    }

    /// <summary>The driver's functions.</summary>
    public CudaApi Api { get; }

    /// <summary>Its number, as in nvidia-smi unless CUDA_VISIBLE_DEVICES says otherwise.</summary>
    public int Index { get; }

    /// <summary>As the driver has it: <c>NVIDIA H200</c>.</summary>
    public string Name { get; }

    /// <summary>Compute capability times ten: 90 for 9.0.</summary>
    public int Capability { get; }

    /// <summary>Streaming multiprocessors.</summary>
    public int Multiprocessors { get; }

    /// <summary>Most shared memory of a block, in bytes.</summary>
    public int SharedBytes { get; }

    /// <summary>The CUDA version that the driver supports, times a thousand: 12080 for 12.8.</summary>
    public int DriverVersion { get; }

    /// <summary>The stream that steps are queued on.</summary>
    public nint Stream { get; }

    /// <summary>Free and all bytes of its memory, now.</summary>
    public (long Free, long Total) Memory
    {
        get
        {
            Enter();
            nuint free, total;
            Check(Api.cuMemGetInfo(&free, &total), "cuMemGetInfo");
            return ((long)free, (long)total);
        }
    }

    /// <summary>Opens a device by its number.</summary>
    /// <exception cref="CudaException">No driver, one too old, no such device, or one that can't run the kernels: the
    /// message says which, and what to do.</exception>
    public static CudaDevice Open(int index)
    {
        (CudaApi api, int driver, int count) = Start();
        if (index < 0 || index >= count)
            throw new CudaException($"there is no device {index}: {List(api, count)}.");
        return new CudaDevice(api, index, driver);
    }

    /// <summary>Opens the device that is asked for.</summary>
    /// <param name="choice">Its number, or a part of its name that no other has, in any case; null for the first that
    /// can run the kernels.</param>
    /// <exception cref="CudaException">No driver, one too old, or no device that can run the kernels.</exception>
    /// <exception cref="NotSupportedException">No device answers to the choice, or several do: the message lists all.
    /// </exception>
    public static CudaDevice Open(string? choice)
    {
        (CudaApi api, int driver, int count) = Start();
        if (choice is not null) return new CudaDevice(api, Find(api, count, choice), driver);
        List<CudaException> reasons = [];
        for (int i = 0; i < count; i++)
        {
            try
            {
                return new CudaDevice(api, i, driver);
            }
            catch (CudaException e) when (count > 1)
            {
                reasons.Add(e);
            }
        }
        CudaResult first = reasons[0].Result;
        throw new CudaException($"none of the {count} devices can be used. "
            + string.Join(' ', reasons.Select((e, i) => $"{i}: {e.Message}")),
            reasons.TrueForAll(e => e.Result == first) ? first : CudaResult.Unknown);
    }

    /// <summary>The driver, its version and how many devices it has, at least one.</summary>
    private static (CudaApi Api, int Driver, int Count) Start()
    {
        CudaApi api = CudaApi.Load();
        Succeed(api.cuInit(0), "cuInit");
        int driver, count;
        Succeed(api.cuDriverGetVersion(&driver), "cuDriverGetVersion");
        if (driver < LeastDriver)
            throw new CudaException($"the NVIDIA driver supports CUDA {Version(driver)}, and {Version(LeastDriver)} "
                + "(driver 525.60) or later is needed. Update it.");
        Succeed(api.cuDeviceGetCount(&count), "cuDeviceGetCount");
        return count > 0 ? (api, driver, count) : throw CudaException.Of("cuDeviceGetCount", (int)CudaResult.NoDevice);
    }

    private static int Find(CudaApi api, int count, string choice)
    {
        // A number that no device has may be a part of a name: 4090.
        if (int.TryParse(choice, NumberStyles.None, CultureInfo.InvariantCulture, out int index) && index < count)
            return index;
        int[] named = [.. Enumerable.Range(0, count).Where(i => choice.Length > 0
            && NameOf(api, i)?.Contains(choice, StringComparison.OrdinalIgnoreCase) == true)];
        if (named.Length == 1) return named[0];
        string wrong = named.Length == 0 ? "which is no device's number or part of its name"
            : "which is a part of several names: take a number, or more of the name";
        throw new NotSupportedException($"--device is '{choice}', {wrong}. There are: {List(api, count)}.");
    }

    /// <summary>What the process's devices are called: <c>0 is NVIDIA H200, 1 is NVIDIA L4</c>.</summary>
    private static string List(CudaApi api, int count) => string.Join(", ", Enumerable.Range(0, count).Select(i =>
        NameOf(api, i) is { } name ? $"{i} is {name}" : $"{i} can't be asked"));

    /// <summary>A device's name by its number; null where the driver does not say.</summary>
    private static string? NameOf(CudaApi api, int index)
    {
        int device;
        byte* name = stackalloc byte[NameBytes];
        return api.cuDeviceGet(&device, index) == 0 && api.cuDeviceGetName(name, NameBytes, device) == 0
            ? Text(name) : null;
    }

    private static string Text(byte* name)
    {
        ReadOnlySpan<byte> text = new(name, NameBytes);
        int end = text.IndexOf((byte)0);
        return Encoding.UTF8.GetString(end < 0 ? text : text[..end]);
    }

    private static string Version(int version) =>
        string.Create(CultureInfo.InvariantCulture, $"{version / 1000}.{version % 1000 / 10}");

    private static string Digits(int tenfold) =>
        string.Create(CultureInfo.InvariantCulture, $"{tenfold / 10}.{tenfold % 10}");

    private int Attribute(int attribute)
    {
        int value;
        Check(Api.cuDeviceGetAttribute(&value, attribute, _device), "cuDeviceGetAttribute", $"attribute {attribute}");
        return value;
    }

    /// <summary>Makes the device's context this thread's. The thread that loads a model is not the one that runs its
    /// steps.</summary>
    public void Enter()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (t_entered == this) return;
        Check(Api.cuCtxSetCurrent(_context), "cuCtxSetCurrent");
        t_entered = this;
    }

    /// <summary>Throws for a call that did not succeed.</summary>
    public void Check(int result, string call, string detail = "")
    {
        if (result == 0) return;
        Fault ??= CudaException.Of(call, result, detail) is { IsSticky: true } sticky ? sticky : null;
        throw CudaException.Of(call, result, detail);
    }

    /// <summary>What broke the device for this process, if something did: every later call fails likewise.</summary>
    public CudaException? Fault { get; private set; }

    private static void Succeed(int result, string call)
    {
        if (result != 0) throw CudaException.Of(call, result);
    }

    /// <summary>Memory of the device, from the driver's pool, in the order of <see cref="Stream"/>.</summary>
    /// <param name="bytes">At least 1.</param>
    /// <param name="what">What it is for, in messages: <c>the KV cache</c>.</param>
    /// <exception cref="CudaException">There is not that much, named with what is free.</exception>
    public ulong Allocate(long bytes, string what)
    {
        Enter();
        ulong address;
        int result = Api.cuMemAllocAsync(&address, (nuint)bytes, Stream);
        if (result == (int)CudaResult.OutOfMemory)
        {
            (long free, long total) = Memory;
            Check(result, "cuMemAllocAsync", string.Create(CultureInfo.InvariantCulture,
                $"{bytes >> 20} MiB for {what}, and {free >> 20} of {total >> 20} MiB are free on {Name}"));
        }
        Check(result, "cuMemAllocAsync", $"{bytes} bytes for {what}");
        return address;
    }

    /// <summary>Gives memory back, once what is queued before is done.</summary>
    public void Free(ulong address)
    {
        Enter();
        Check(Api.cuMemFreeAsync(address, Stream), "cuMemFreeAsync");
    }

    /// <summary>Host memory that the device copies from and to by itself.</summary>
    public nint AllocatePinned(long bytes)
    {
        Enter();
        void* memory;
        Check(Api.cuMemHostAlloc(&memory, (nuint)bytes, 0), "cuMemHostAlloc", $"{bytes >> 20} MiB of pinned memory");
        return (nint)memory;
    }

    /// <summary>Frees it. Nothing queued may use it any more.</summary>
    public void FreePinned(nint memory)
    {
        Enter();
        Check(Api.cuMemFreeHost((void*)memory), "cuMemFreeHost");
    }

    /// <summary>Queues a copy from pinned memory, which must stay as it is until it was waited for.</summary>
    public void CopyToDevice(ulong target, nint source, long bytes) =>
        Check(Api.cuMemcpyHtoDAsync(target, (void*)source, (nuint)bytes, Stream), "cuMemcpyHtoDAsync");

    /// <summary>Queues a copy to pinned memory, which may be read once it was waited for.</summary>
    public void CopyToHost(nint target, ulong source, long bytes) =>
        Check(Api.cuMemcpyDtoHAsync((void*)target, source, (nuint)bytes, Stream), "cuMemcpyDtoHAsync");

    /// <summary>Queues zeros.</summary>
    public void Clear(ulong target, long bytes) =>
        Check(Api.cuMemsetD8Async(target, 0, (nuint)bytes, Stream), "cuMemsetD8Async");

    /// <summary>Waits until all that is queued is done.</summary>
    public void Wait()
    {
        Enter();
        Check(Api.cuStreamSynchronize(Stream), "cuStreamSynchronize");
    }

    /// <summary>Gives the device back, in whatever state it is.</summary>
    public void Dispose()
    {
        if (_disposed) return;
        _ = Api.cuCtxSetCurrent(_context); // a broken device answers nothing: its context's end frees what it holds
        t_entered = null;
        _ = Api.cuStreamDestroy(Stream);
        _ = Api.cuDevicePrimaryCtxRelease(_device);
        _disposed = true;
    }
}
