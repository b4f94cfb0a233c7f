using System.Runtime.InteropServices;

namespace Native.Kernels.Cuda;

/// <summary>The part of the CUDA driver API that is used here, as a table of pointers under the driver's own names
/// (CUDA Driver API reference, 12.8). It is filled from the driver's library, or from what stands in for it.</summary>
/// <remarks>Every function returns a <see cref="CudaResult"/> as an int. Handles are <c>nint</c>, addresses of the
/// device <c>ulong</c>. Exports with a version in their name (<c>_v2</c>) are those that the header of today maps to.
/// </remarks>
internal unsafe struct CudaApi
{
    public delegate* unmanaged<uint, int> cuInit;
    public delegate* unmanaged<int*, int> cuDriverGetVersion;
    public delegate* unmanaged<int*, int> cuDeviceGetCount;
    public delegate* unmanaged<int*, int, int> cuDeviceGet;
    public delegate* unmanaged<byte*, int, int, int> cuDeviceGetName;
    public delegate* unmanaged<int*, int, int, int> cuDeviceGetAttribute;
    public delegate* unmanaged<nint*, int, int> cuDevicePrimaryCtxRetain;
    public delegate* unmanaged<int, int> cuDevicePrimaryCtxRelease;
    public delegate* unmanaged<nint, int> cuCtxSetCurrent;
    public delegate* unmanaged<nuint*, nuint*, int> cuMemGetInfo;
    public delegate* unmanaged<ulong*, nuint, nint, int> cuMemAllocAsync;
    public delegate* unmanaged<ulong, nint, int> cuMemFreeAsync;
    public delegate* unmanaged<void**, nuint, uint, int> cuMemHostAlloc;
    public delegate* unmanaged<void*, int> cuMemFreeHost;
    public delegate* unmanaged<ulong, void*, nuint, nint, int> cuMemcpyHtoDAsync;
    public delegate* unmanaged<void*, ulong, nuint, nint, int> cuMemcpyDtoHAsync;
    public delegate* unmanaged<ulong, byte, nuint, nint, int> cuMemsetD8Async;
    public delegate* unmanaged<nint*, uint, int> cuStreamCreate;
    public delegate* unmanaged<nint, int> cuStreamDestroy;
    public delegate* unmanaged<nint, int> cuStreamSynchronize;
    public delegate* unmanaged<nint, int, int> cuStreamBeginCapture;
    public delegate* unmanaged<nint, nint*, int> cuStreamEndCapture;
    public delegate* unmanaged<nint*, uint, int> cuEventCreate;
    public delegate* unmanaged<nint, int> cuEventDestroy;
    public delegate* unmanaged<nint, nint, int> cuEventRecord;
    public delegate* unmanaged<nint, int> cuEventSynchronize;
    public delegate* unmanaged<float*, nint, nint, int> cuEventElapsedTime;
    public delegate* unmanaged<nint*, nint, ulong, int> cuGraphInstantiateWithFlags;
    public delegate* unmanaged<nint, nint, int> cuGraphLaunch;
    public delegate* unmanaged<nint, int> cuGraphExecDestroy;
    public delegate* unmanaged<nint, int> cuGraphDestroy;
    public delegate* unmanaged<nint*, void*, uint, int*, void**, int> cuModuleLoadDataEx;
    public delegate* unmanaged<nint, int> cuModuleUnload;
    public delegate* unmanaged<nint*, nint, byte*, int> cuModuleGetFunction;
    public delegate* unmanaged<int*, int, nint, int> cuFuncGetAttribute;
    public delegate* unmanaged<nint, int, int, int> cuFuncSetAttribute;
    public delegate* unmanaged<CudaLaunchConfig*, nint, void**, void**, int> cuLaunchKernelEx;

    /// <summary>The library's names, the first that is there is taken.</summary>
    private static string[] Libraries => OperatingSystem.IsWindows() ? ["nvcuda.dll"] : ["libcuda.so.1", "libcuda.so"];

    /// <summary>What stands in for the driver's library, for whoever set it and what that runs: for tests, whose
    /// neighbours must not find a GPU.</summary>
    internal static CudaApi? Instead { get => s_instead.Value; set => s_instead.Value = value; }

    private static readonly AsyncLocal<CudaApi?> s_instead = new();

    /// <summary>The table of this machine's driver, or what stands in for it.</summary>
    /// <exception cref="CudaException">No driver is installed, or it lacks a function that is needed.</exception>
    public static CudaApi Load() => Instead ?? LoadDriver();

    /// <summary>The table of this machine's driver.</summary>
    /// <exception cref="CudaException">No driver is installed, or it lacks a function that is needed.</exception>
    public static CudaApi LoadDriver()
    {
        foreach (string name in Libraries)
            if (NativeLibrary.TryLoad(name, out nint library)) return Load(library, name);
        throw new CudaException($"{Libraries[0]} is not there: no NVIDIA driver is installed, or this process can't "
            + "see it (in a container: --gpus all). Install a driver of CUDA 12.0 (525.60) or later.",
            CudaResult.NoDevice);
    }

    /// <summary>The table of a library that is loaded already.</summary>
    /// <exception cref="CudaException">It lacks a function that is needed.</exception>
    public static CudaApi Load(nint library, string name)
    {
        CudaApi api = default;
        nint Find(string function)
        {
            if (NativeLibrary.TryGetExport(library, function, out nint address)) return address;
            throw new CudaException($"{name} has no {function}: the NVIDIA driver is too old. Install one of CUDA 12.0 "
                + "(525.60) or later.");
        }
        api.cuInit = (delegate* unmanaged<uint, int>)Find("cuInit");
        api.cuDriverGetVersion = (delegate* unmanaged<int*, int>)Find("cuDriverGetVersion");
        api.cuDeviceGetCount = (delegate* unmanaged<int*, int>)Find("cuDeviceGetCount");
        api.cuDeviceGet = (delegate* unmanaged<int*, int, int>)Find("cuDeviceGet");
        api.cuDeviceGetName = (delegate* unmanaged<byte*, int, int, int>)Find("cuDeviceGetName");
        api.cuDeviceGetAttribute = (delegate* unmanaged<int*, int, int, int>)Find("cuDeviceGetAttribute");
        api.cuDevicePrimaryCtxRetain = (delegate* unmanaged<nint*, int, int>)Find("cuDevicePrimaryCtxRetain");
        api.cuDevicePrimaryCtxRelease = (delegate* unmanaged<int, int>)Find("cuDevicePrimaryCtxRelease_v2");
        api.cuCtxSetCurrent = (delegate* unmanaged<nint, int>)Find("cuCtxSetCurrent");
        LoadMemory(ref api, Find);
        LoadStreams(ref api, Find);
        api.cuModuleLoadDataEx =
            (delegate* unmanaged<nint*, void*, uint, int*, void**, int>)Find("cuModuleLoadDataEx");
        api.cuModuleUnload = (delegate* unmanaged<nint, int>)Find("cuModuleUnload");
        api.cuModuleGetFunction = (delegate* unmanaged<nint*, nint, byte*, int>)Find("cuModuleGetFunction");
        api.cuFuncGetAttribute = (delegate* unmanaged<int*, int, nint, int>)Find("cuFuncGetAttribute");
        api.cuFuncSetAttribute = (delegate* unmanaged<nint, int, int, int>)Find("cuFuncSetAttribute");
        api.cuLaunchKernelEx =
            (delegate* unmanaged<CudaLaunchConfig*, nint, void**, void**, int>)Find("cuLaunchKernelEx");
        return api;
    }

    private static void LoadMemory(ref CudaApi api, Func<string, nint> find)
    {
        api.cuMemGetInfo = (delegate* unmanaged<nuint*, nuint*, int>)find("cuMemGetInfo_v2");
        api.cuMemAllocAsync = (delegate* unmanaged<ulong*, nuint, nint, int>)find("cuMemAllocAsync");
        api.cuMemFreeAsync = (delegate* unmanaged<ulong, nint, int>)find("cuMemFreeAsync");
        api.cuMemHostAlloc = (delegate* unmanaged<void**, nuint, uint, int>)find("cuMemHostAlloc");
        api.cuMemFreeHost = (delegate* unmanaged<void*, int>)find("cuMemFreeHost");
        api.cuMemcpyHtoDAsync = (delegate* unmanaged<ulong, void*, nuint, nint, int>)find("cuMemcpyHtoDAsync_v2");
        api.cuMemcpyDtoHAsync = (delegate* unmanaged<void*, ulong, nuint, nint, int>)find("cuMemcpyDtoHAsync_v2");
        api.cuMemsetD8Async = (delegate* unmanaged<ulong, byte, nuint, nint, int>)find("cuMemsetD8Async");
    }

    private static void LoadStreams(ref CudaApi api, Func<string, nint> find)
    {
        api.cuStreamCreate = (delegate* unmanaged<nint*, uint, int>)find("cuStreamCreate");
        api.cuStreamDestroy = (delegate* unmanaged<nint, int>)find("cuStreamDestroy_v2");
        api.cuStreamSynchronize = (delegate* unmanaged<nint, int>)find("cuStreamSynchronize");
        api.cuStreamBeginCapture = (delegate* unmanaged<nint, int, int>)find("cuStreamBeginCapture_v2");
        api.cuStreamEndCapture = (delegate* unmanaged<nint, nint*, int>)find("cuStreamEndCapture");
        api.cuEventCreate = (delegate* unmanaged<nint*, uint, int>)find("cuEventCreate");
        api.cuEventDestroy = (delegate* unmanaged<nint, int>)find("cuEventDestroy_v2");
        api.cuEventRecord = (delegate* unmanaged<nint, nint, int>)find("cuEventRecord");
        api.cuEventSynchronize = (delegate* unmanaged<nint, int>)find("cuEventSynchronize");
        api.cuEventElapsedTime = (delegate* unmanaged<float*, nint, nint, int>)find("cuEventElapsedTime");
        api.cuGraphInstantiateWithFlags =
            (delegate* unmanaged<nint*, nint, ulong, int>)find("cuGraphInstantiateWithFlags");
        api.cuGraphLaunch = (delegate* unmanaged<nint, nint, int>)find("cuGraphLaunch");
        api.cuGraphExecDestroy = (delegate* unmanaged<nint, int>)find("cuGraphExecDestroy");
        api.cuGraphDestroy = (delegate* unmanaged<nint, int>)find("cuGraphDestroy");
    }
}

/// <summary>A launch, as <c>CUlaunchConfig</c> has it.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct CudaLaunchConfig
{
    public uint GridX, GridY, GridZ, BlockX, BlockY, BlockZ, SharedBytes;
    public nint Stream;
    public CudaLaunchAttribute* Attributes;
    public uint AttributeCount;
}

/// <summary>One attribute of a launch, as <c>CUlaunchAttribute</c> has it: a number, padding, and a value of up to 64
/// bytes.</summary>
[StructLayout(LayoutKind.Sequential, Size = 72)]
internal struct CudaLaunchAttribute
{
    /// <summary><c>CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION</c>: the kernel may begin while the one before
    /// it ends (sm_90).</summary>
    public const int ProgrammaticSerialization = 6;

    public int Id;
    private readonly int _padding;
    public int Value;
}
