using System.Runtime.InteropServices;
using System.Text;
using Native.Kernels.Cuda;
using Native.Tests.Gpu.Machine;

namespace Native.Tests.Gpu;

/// <summary>The driver's functions.</summary>
internal sealed unsafe partial class FakeCuda
{
    /// <summary>Blocks of a launch in y and in z (CUDA C++ Programming Guide, technical specifications).</summary>
    private const int MostBlocks = 65_535;

    private static CudaApi Table() => new()
    {
        cuInit = &cuInit,
        cuDriverGetVersion = &cuDriverGetVersion,
        cuDeviceGetCount = &cuDeviceGetCount,
        cuDeviceGet = &cuDeviceGet,
        cuDeviceGetName = &cuDeviceGetName,
        cuDeviceGetAttribute = &cuDeviceGetAttribute,
        cuDevicePrimaryCtxRetain = &cuDevicePrimaryCtxRetain,
        cuDevicePrimaryCtxRelease = &cuDevicePrimaryCtxRelease,
        cuCtxSetCurrent = &cuCtxSetCurrent,
        cuMemGetInfo = &cuMemGetInfo,
        cuMemAllocAsync = &cuMemAllocAsync,
        cuMemFreeAsync = &cuMemFreeAsync,
        cuMemHostAlloc = &cuMemHostAlloc,
        cuMemFreeHost = &cuMemFreeHost,
        cuMemcpyHtoDAsync = &cuMemcpyHtoDAsync,
        cuMemcpyDtoHAsync = &cuMemcpyDtoHAsync,
        cuMemsetD8Async = &cuMemsetD8Async,
        cuStreamCreate = &cuStreamCreate,
        cuStreamDestroy = &cuStreamDestroy,
        cuStreamSynchronize = &cuStreamSynchronize,
        cuStreamBeginCapture = &cuStreamBeginCapture,
        cuStreamEndCapture = &cuStreamEndCapture,
        cuEventCreate = &cuEventCreate,
        cuEventDestroy = &cuEventDestroy,
        cuEventRecord = &cuEventRecord,
        cuEventSynchronize = &cuEventSynchronize,
        cuEventElapsedTime = &cuEventElapsedTime,
        cuGraphInstantiateWithFlags = &cuGraphInstantiateWithFlags,
        cuGraphLaunch = &cuGraphLaunch,
        cuGraphExecDestroy = &cuGraphExecDestroy,
        cuGraphDestroy = &cuGraphDestroy,
        cuModuleLoadDataEx = &cuModuleLoadDataEx,
        cuModuleUnload = &cuModuleUnload,
        cuModuleGetFunction = &cuModuleGetFunction,
        cuFuncGetAttribute = &cuFuncGetAttribute,
        cuFuncSetAttribute = &cuFuncSetAttribute,
        cuLaunchKernelEx = &cuLaunchKernelEx,
    };

    [UnmanagedCallersOnly]
    private static int cuInit(uint flags) => Call(_ => 0, needsContext: false);

    [UnmanagedCallersOnly]
    private static int cuDriverGetVersion(int* version) => Call(fake =>
    {
        *version = fake.Options.DriverVersion;
        return 0;
    }, needsContext: false);

    [UnmanagedCallersOnly]
    private static int cuDeviceGetCount(int* count) => Call(fake =>
    {
        *count = fake.Options.Devices.Count;
        return 0;
    }, needsContext: false);

    [UnmanagedCallersOnly]
    private static int cuDeviceGet(int* device, int ordinal) => Call(fake =>
    {
        *device = ordinal;
        return ordinal >= 0 && ordinal < fake.Options.Devices.Count ? 0 : (int)CudaResult.InvalidDevice;
    }, needsContext: false);

    [UnmanagedCallersOnly]
    private static int cuDeviceGetName(byte* name, int length, int device) => Call(fake =>
    {
        Encoding.UTF8.GetBytes(fake.Options.Devices[device].Name + '\0', new Span<byte>(name, length));
        return 0;
    }, needsContext: false);

    [UnmanagedCallersOnly]
    private static int cuDeviceGetAttribute(int* value, int attribute, int device) => Call(fake =>
    {
        FakeDevice asked = fake.Options.Devices[device];
        *value = attribute switch
        {
            16 => asked.Multiprocessors,
            75 => asked.Capability / 10,
            76 => asked.Capability % 10,
            97 => asked.SharedBytes,
            115 => asked.HasPools ? 1 : 0,
            _ => -1,
        };
        return *value < 0 ? (int)CudaResult.InvalidValue : 0;
    }, needsContext: false);

    [UnmanagedCallersOnly]
    private static int cuDevicePrimaryCtxRetain(nint* context, int device) => Call(fake =>
    {
        fake._device = device;
        fake._retained++;
        *context = device + 1;
        return 0;
    }, needsContext: false);

    [UnmanagedCallersOnly]
    private static int cuDevicePrimaryCtxRelease(int device) => Call(fake =>
    {
        fake._retained--;
        return 0;
    }, needsContext: false);

    [UnmanagedCallersOnly]
    private static int cuCtxSetCurrent(nint context) => Call(context, static (_, context) =>
    {
        t_context = context;
        return 0;
    }, needsContext: false);

    [UnmanagedCallersOnly]
    private static int cuMemGetInfo(nuint* free, nuint* total) => Call(fake =>
    {
        *total = (nuint)fake.Options.Devices[fake._device].Bytes;
        *free = *total - (nuint)(fake._memory.Used + fake.Options.Devices[fake._device].TakenBytes);
        return 0;
    });

    [UnmanagedCallersOnly]
    private static int cuMemAllocAsync(ulong* address, nuint bytes, nint stream) => Call(fake =>
    {
        if (bytes == 0) return (int)CudaResult.InvalidValue;
        fake.CheckNotRecording();
        FakeDevice device = fake.Options.Devices[fake._device];
        long free = device.Bytes - device.TakenBytes - fake._memory.Used;
        if ((long)bytes > free) return (int)CudaResult.OutOfMemory;
        *address = (ulong)fake._memory.Allocate($"allocation {fake.Count(nameof(cuMemAllocAsync))}", (long)bytes).Data;
        return 0;
    });

    [UnmanagedCallersOnly]
    private static int cuMemFreeAsync(ulong address, nint stream) => Call(fake =>
    {
        fake.CheckNotRecording();
        MemoryRange range = fake.RangeOf(address, 1);
        if ((ulong)range.Data != address) return (int)CudaResult.InvalidValue;
        fake.Enqueue(stream, new Work(() => fake._memory.Free(range)));
        return 0;
    });

    [UnmanagedCallersOnly]
    private static int cuMemHostAlloc(void** memory, nuint bytes, uint flags) => Call(fake =>
    {
        fake.CheckNotRecording();
        *memory = NativeMemory.AlignedAlloc(Math.Max(bytes, 1), 4096);
        Fill(*memory, Poison, bytes);
        fake._pinned[(nint)(*memory)] = (long)bytes;
        return 0;
    });

    [UnmanagedCallersOnly]
    private static int cuMemFreeHost(void* memory) => Call(fake =>
    {
        fake.CheckNotRecording();
        if (!fake._pinned.Remove((nint)memory)) return (int)CudaResult.InvalidValue;
        NativeMemory.AlignedFree(memory);
        return 0;
    });

    [UnmanagedCallersOnly]
    private static int cuMemcpyHtoDAsync(ulong target, void* source, nuint bytes, nint stream) =>
        Call((target, (nint)source, bytes, stream), static (fake, call) =>
        {
            (ulong target, nint source, nuint bytes, nint stream) = call;
            MemoryRange range = fake.RangeOf(target, bytes);
            fake.CheckPinned((void*)source, bytes);
            fake.Enqueue(stream, new Work(() =>
            {
                fake.CheckPinned((void*)source, bytes); // it may have been freed since
                fake.RangeOf(target, bytes);
                NativeMemory.Copy((void*)source, (void*)target, bytes);
                range.Fill((long)target - (long)range.Data, (long)bytes);
                fake.BytesUploaded += (long)bytes;
            }));
            return 0;
        });

    [UnmanagedCallersOnly]
    private static int cuMemcpyDtoHAsync(void* target, ulong source, nuint bytes, nint stream) =>
        Call(((nint)target, source, bytes, stream), static (fake, call) =>
        {
            (nint target, ulong source, nuint bytes, nint stream) = call;
            fake.RangeOf(source, bytes);
            fake.CheckPinned((void*)target, bytes);
            fake.Enqueue(stream, new Work(() =>
            {
                fake.CheckPinned((void*)target, bytes);
                fake.RangeOf(source, bytes);
                NativeMemory.Copy((void*)source, (void*)target, bytes);
                fake.BytesDownloaded += (long)bytes;
            }, () => Fill((void*)target, Poison, bytes)));
            return 0;
        });

    [UnmanagedCallersOnly]
    private static int cuMemsetD8Async(ulong target, byte value, nuint bytes, nint stream) => Call(fake =>
    {
        MemoryRange range = fake.RangeOf(target, bytes);
        fake.Enqueue(stream, new Work(() =>
        {
            Fill((void*)target, value, bytes);
            range.Fill((long)target - (long)range.Data, (long)bytes);
        }));
        return 0;
    });

    [UnmanagedCallersOnly]
    private static int cuStreamCreate(nint* stream, uint flags) => Call(fake =>
    {
        *stream = fake.Add(new Stream());
        return 0;
    });

    [UnmanagedCallersOnly]
    private static int cuStreamDestroy(nint stream) => Call(fake =>
    {
        Run(fake.Get<Stream>(stream));
        fake._objects.Remove(stream);
        return 0;
    });

    [UnmanagedCallersOnly]
    private static int cuStreamSynchronize(nint stream) => Call(fake =>
    {
        Run(fake.Get<Stream>(stream));
        return 0;
    });

    [UnmanagedCallersOnly]
    private static int cuStreamBeginCapture(nint stream, int mode) => Call(fake =>
    {
        fake.Get<Stream>(stream).Recording = [];
        return 0;
    });

    [UnmanagedCallersOnly]
    private static int cuStreamEndCapture(nint stream, nint* graph) => Call(fake =>
    {
        Stream at = fake.Get<Stream>(stream);
        if (at.Recording is not { } work) return (int)CudaResult.StreamCaptureInvalidated;
        at.Recording = null;
        *graph = fake.Add(new Graph(work));
        return 0;
    });

    [UnmanagedCallersOnly]
    private static int cuEventCreate(nint* handle, uint flags) => Call(fake =>
    {
        *handle = fake.Add(new Event());
        return 0;
    });

    [UnmanagedCallersOnly]
    private static int cuEventDestroy(nint handle) => Call(fake =>
    {
        fake.Get<Event>(handle);
        fake._objects.Remove(handle);
        return 0;
    });

    [UnmanagedCallersOnly]
    private static int cuEventRecord(nint handle, nint stream) => Call((handle, stream), static (fake, call) =>
    {
        (nint handle, nint stream) = call;
        Event recorded = fake.Get<Event>(handle);
        recorded.Stream = fake.Get<Stream>(stream);
        recorded.Pending++;
        fake.Enqueue(stream, new Work(() =>
        {
            recorded.Pending--;
            recorded.Instructions = fake.Instructions;
        }));
        return 0;
    });

    [UnmanagedCallersOnly]
    private static int cuEventSynchronize(nint handle) => Call(handle, static (fake, handle) =>
    {
        Event recorded = fake.Get<Event>(handle);
        if (recorded.Stream is { } stream) Run(stream, () => recorded.Pending == 0);
        return 0;
    });

    [UnmanagedCallersOnly]
    private static int cuEventElapsedTime(float* milliseconds, nint from, nint to) => Call(fake =>
    {
        Event first = fake.Get<Event>(from), last = fake.Get<Event>(to);
        if (first.Pending + last.Pending > 0) return (int)CudaResult.NotReady;
        *milliseconds = (last.Instructions - first.Instructions) / 1e6f; // as if a thousand were a microsecond
        return 0;
    });

    [UnmanagedCallersOnly]
    private static int cuGraphInstantiateWithFlags(nint* executable, nint graph, ulong flags) => Call(fake =>
    {
        *executable = fake.Add(new Executable(fake.Get<Graph>(graph).Work));
        return 0;
    });

    [UnmanagedCallersOnly]
    private static int cuGraphLaunch(nint executable, nint stream) => Call((executable, stream), static (fake, call) =>
    {
        (nint executable, nint stream) = call;
        foreach (Work work in fake.Get<Executable>(executable).Work) fake.Enqueue(stream, work);
        return 0;
    });

    [UnmanagedCallersOnly]
    private static int cuGraphExecDestroy(nint executable) => Call(fake =>
    {
        fake.Get<Executable>(executable);
        fake._objects.Remove(executable);
        return 0;
    });

    [UnmanagedCallersOnly]
    private static int cuGraphDestroy(nint graph) => Call(fake =>
    {
        fake.Get<Graph>(graph);
        fake._objects.Remove(graph);
        return 0;
    });

    [UnmanagedCallersOnly]
    private static int cuModuleLoadDataEx(nint* module, void* image, uint count, int* options, void** values) =>
        Call(fake =>
        {
            GpuModule loaded;
            try
            {
                loaded = fake.Compile(Text((byte*)image));
            }
            catch (PtxException e)
            {
                WriteLog(count, options, values, e.Message);
                return (int)CudaResult.InvalidPtx;
            }
            *module = fake.Add(new Module(loaded));
            if (loaded.Version > NewestPtx(fake.Options.DriverVersion)) return (int)CudaResult.UnsupportedPtxVersion;
            int capability = fake.Options.Devices[fake._device].Capability;
            string target = loaded.Target.Replace("sm_", "");
            bool runs = target.EndsWith('a') ? target == $"{capability}a" : int.Parse(target) <= capability;
            return runs ? 0 : (int)CudaResult.NoBinaryForGpu;
        });

    /// <summary>The newest PTX of a CUDA version, times ten (PTX ISA, release history).</summary>
    private static int NewestPtx(int driver) => driver switch
    {
        >= 13_000 => 90,
        >= 12_080 => 87,
        >= 12_070 => 86,
        >= 12_050 => 85,
        >= 12_040 => 84,
        >= 12_030 => 83,
        >= 12_020 => 82,
        >= 12_010 => 81,
        >= 12_000 => 80,
        _ => 74,
    };

    [UnmanagedCallersOnly]
    private static int cuModuleUnload(nint module) => Call(fake =>
    {
        Discard(fake.Get<Module>(module).Loaded);
        fake._objects.Remove(module);
        foreach (nint function in fake._objects.Where(entry => entry.Value is Function f && f.Module.Kernels.Count >= 0
            && !fake._objects.Values.OfType<Module>().Any(left => left.Loaded == f.Module)).Select(entry => entry.Key)
            .ToArray()) fake._objects.Remove(function);
        return 0;
    });

    [UnmanagedCallersOnly]
    private static int cuModuleGetFunction(nint* function, nint module, byte* name) => Call(fake =>
    {
        GpuModule loaded = fake.Get<Module>(module).Loaded;
        if (!loaded.Kernels.TryGetValue(Text(name), out Kernel? kernel)) return (int)CudaResult.NotFound;
        *function = fake.Add(new Function(loaded, kernel));
        return 0;
    });

    [UnmanagedCallersOnly]
    private static int cuFuncGetAttribute(int* value, int attribute, nint function) => Call(fake =>
    {
        Kernel kernel = fake.Get<Function>(function).Kernel;
        *value = attribute switch
        {
            1 => kernel.SharedBytes,
            3 => kernel.LocalBytes,
            4 => kernel.LiveRegisters,
            _ => -1,
        };
        return *value < 0 ? (int)CudaResult.InvalidValue : 0;
    });

    [UnmanagedCallersOnly]
    private static int cuFuncSetAttribute(nint function, int attribute, int value) => Call(fake =>
    {
        Function changed = fake.Get<Function>(function);
        if (attribute != 8 || value + changed.Kernel.SharedBytes > fake.Options.Devices[fake._device].SharedBytes)
            return (int)CudaResult.InvalidValue;
        changed.AllowedShared = value;
        return 0;
    });

    [UnmanagedCallersOnly]
    private static int cuLaunchKernelEx(CudaLaunchConfig* config, nint function, void** arguments, void** extra) =>
        Call(fake =>
        {
            Function launched = fake.Get<Function>(function);
            Dim3 grid = new((int)config->GridX, (int)config->GridY, (int)config->GridZ);
            Dim3 block = new((int)config->BlockX, (int)config->BlockY, (int)config->BlockZ);
            if (grid.Count < 1 || block.Count < 1 || block.Count > 1024) return (int)CudaResult.InvalidValue;
            if (config->GridX > int.MaxValue || config->GridY > MostBlocks || config->GridZ > MostBlocks)
                return (int)CudaResult.InvalidValue;
            if (block.Count > launched.Kernel.Function.MaxThreads) return (int)CudaResult.LaunchOutOfResources;
            if (config->SharedBytes > launched.AllowedShared) return (int)CudaResult.InvalidValue;
            if (config->AttributeCount > 0 && fake.Options.Devices[fake._device].Capability < 90)
                return (int)CudaResult.NotSupported;
            List<PtxVariable> parameters = launched.Kernel.Function.Parameters;
            byte[] bytes = new byte[parameters.Count == 0 ? 0 : parameters[^1].Offset + parameters[^1].Bytes];
            for (int i = 0; i < parameters.Count; i++)
                new Span<byte>(arguments[i], parameters[i].Bytes).CopyTo(bytes.AsSpan((int)parameters[i].Offset));
            Launching launch = new(launched, grid, block, (int)config->SharedBytes, bytes);
            fake.Enqueue(config->Stream, new Work(() => fake.Execute(launch)));
            return 0;
        });
}
