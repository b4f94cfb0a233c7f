using ILGPU;
using ILGPU.Backends;
using ILGPU.Runtime;
using ILGPU.Runtime.OpenCL;
using Native.Kernels.Gpu;

namespace Native.Kernels.Ilgpu;

/// <summary>A device of ILGPU can't do what was asked.</summary>
public sealed class IlgpuException : GpuException
{
    internal IlgpuException(string message, bool meansNoGpu = false) : base(message) => MeansNoGpu = meansNoGpu;

    private IlgpuException(string message, Exception inner) : base(message, inner)
    {
    }

    internal override bool MeansNoGpu { get; }

    /// <summary>Whether an exception is the library's, or its driver's.</summary>
    internal static bool IsOf(Exception e) =>
        e is AcceleratorException or InternalCompilerException or CapabilityNotSupportedException;

    /// <summary>The library's exception in this program's words.</summary>
    internal static IlgpuException Of(string what, Exception e) => new($"{what}: " + (e.GetBaseException() switch
    {
        CLException { Error: not 0 } error => error.Error.ToString(),
        Exception other => other.Message,
    }), e);
}
