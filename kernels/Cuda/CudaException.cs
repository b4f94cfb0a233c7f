using System.Globalization;
using Native.Kernels.Gpu;

namespace Native.Kernels.Cuda;

/// <summary>Results of the driver that something can be done about, by the numbers of <c>CUresult</c>.</summary>
internal enum CudaResult
{
    Success = 0,
    InvalidValue = 1,
    OutOfMemory = 2,
    NotInitialized = 3,
    Deinitialized = 4,
    StubLibrary = 34,
    DeviceUnavailable = 46,
    NoDevice = 100,
    InvalidDevice = 101,
    InvalidImage = 200,
    InvalidContext = 201,
    NoBinaryForGpu = 209,
    EccUncorrectable = 214,
    InvalidPtx = 218,
    NvlinkUncorrectable = 220,
    JitCompilerNotFound = 221,
    UnsupportedPtxVersion = 222,
    JitCompilationDisabled = 223,
    OperatingSystem = 304,
    InvalidHandle = 400,
    NotFound = 500,
    NotReady = 600,
    IllegalAddress = 700,
    LaunchOutOfResources = 701,
    LaunchTimeout = 702,
    ContextIsDestroyed = 709,
    Assert = 710,
    HardwareStackError = 714,
    IllegalInstruction = 715,
    MisalignedAddress = 716,
    InvalidAddressSpace = 717,
    InvalidPc = 718,
    LaunchFailed = 719,
    NotPermitted = 800,
    NotSupported = 801,
    SystemNotReady = 802,
    SystemDriverMismatch = 803,
    CompatNotSupportedOnDevice = 804,
    StreamCaptureUnsupported = 900,
    StreamCaptureInvalidated = 901,
    Unknown = 999,
}

/// <summary>The device can't do what was asked: which call, with which result, and what to do about it.</summary>
public sealed class CudaException : GpuException
{
    internal CudaException(string message, CudaResult result = CudaResult.Success) : base(message) => Result = result;

    internal CudaResult Result { get; }

    internal override bool MeansNoGpu => Result == CudaResult.NoDevice;

    /// <summary>Whether the process can use the device no more until it is started anew: every later call gives the
    /// same result.</summary>
    public bool IsSticky => Result is CudaResult.EccUncorrectable or CudaResult.NvlinkUncorrectable
        or CudaResult.IllegalAddress or CudaResult.LaunchTimeout or CudaResult.ContextIsDestroyed or CudaResult.Assert
        or (>= CudaResult.HardwareStackError and <= CudaResult.LaunchFailed) or CudaResult.Unknown;

    /// <summary>A call's fault.</summary>
    /// <param name="call">The driver's function, such as <c>cuMemAllocAsync</c>.</param>
    /// <param name="result">What it returned.</param>
    /// <param name="detail">What it was asked for, and what is there; empty if the call says it all.</param>
    internal static CudaException Of(string call, int result, string detail = "")
    {
        var known = (CudaResult)result;
        string name = Enum.IsDefined(known) ? Name(known) : "an error that is not known here";
        string said = detail.Length > 0 ? $": {detail}" : "";
        string text = string.Create(CultureInfo.InvariantCulture,
            $"{call} failed with {name} ({result}){said}. {Remedy(known)}");
        return new CudaException(text, known);
    }

    /// <summary>The header's name: <c>CUDA_ERROR_OUT_OF_MEMORY</c>.</summary>
    private static string Name(CudaResult result) => "CUDA_ERROR_" + string.Concat(result.ToString()
        .Select((c, i) => i > 0 && char.IsUpper(c) ? $"_{c}" : char.ToUpperInvariant(c).ToString()));

    private static string Remedy(CudaResult result) => result switch
    {
        CudaResult.NoDevice =>
            "No NVIDIA GPU is visible: look at nvidia-smi and CUDA_VISIBLE_DEVICES.",
        CudaResult.OutOfMemory =>
            "Lower --gpu-memory-utilization, --kv-cache-memory, --max-model-len or --max-num-seqs, or load a smaller "
            + "quantization.",
        CudaResult.UnsupportedPtxVersion or CudaResult.SystemDriverMismatch or CudaResult.CompatNotSupportedOnDevice =>
            "Update the NVIDIA driver.",
        CudaResult.NoBinaryForGpu => "The GPU is older than the kernels (compute capability 8.0).",
        CudaResult.JitCompilerNotFound or CudaResult.JitCompilationDisabled =>
            "The driver's PTX compiler (libnvidia-ptxjitcompiler) is needed: install it, and unset "
            + "CUDA_DISABLE_PTX_JIT.",
        CudaResult.StubLibrary =>
            "The library found is the toolkit's stub: put the driver's folder before it in LD_LIBRARY_PATH.",
        CudaResult.DeviceUnavailable or CudaResult.SystemNotReady =>
            "Another process holds the GPU alone, or it is starting: look at nvidia-smi, or choose another GPU by "
            + "--device.",
        CudaResult.OperatingSystem => "The operating system refused: look at the rights to /dev/nvidia*, and at dmesg.",
        CudaResult.IllegalAddress or CudaResult.MisalignedAddress or CudaResult.IllegalInstruction
            or CudaResult.InvalidPc or CudaResult.InvalidAddressSpace or CudaResult.LaunchFailed =>
            "A kernel went wrong, which is a mistake of this program: please report it with the model and options. The "
            + "process must be started again to use the GPU.",
        CudaResult.EccUncorrectable or CudaResult.NvlinkUncorrectable or CudaResult.HardwareStackError =>
            "The hardware reports an error: look at nvidia-smi -q and dmesg; reset or replace the GPU.",
        CudaResult.LaunchTimeout =>
            "A display's watchdog ended the kernel: use a GPU without display, or a smaller --max-num-batched-tokens.",
        _ => "Look at dmesg and nvidia-smi.",
    };
}
