using Native.Kernels;
using Native.Kernels.Cuda;
using Native.Tests.Kernels;

namespace Native.Tests.Gpu;

/// <summary>The GPU of this machine, if it has one that the kernels run on.</summary>
internal static class RealDevice
{
    private static readonly Lazy<string?> s_missing = new(() =>
    {
        try
        {
            using CudaBackend backend = new();
            return null;
        }
        catch (CudaException e)
        {
            return e.Message;
        }
    });

    /// <summary>A backend on it; skips the test where there is none.</summary>
    public static IBackend Open()
    {
        Assert.SkipWhen(s_missing.Value is not null, "no GPU that the kernels run on");
        return new CudaBackend();
    }
}

/// <summary>On a real GPU: what every backend's operations are.</summary>
public sealed class BackendContractDeviceTests : BackendContract
{
    private protected override IBackend CreateBackend() => RealDevice.Open();
}

/// <summary>On a real GPU: what a step is between its launch and its collection.</summary>
public sealed class StepSeamDeviceTests : StepSeam
{
    private protected override IBackend CreateBackend() => RealDevice.Open();
}

/// <summary>On a real GPU: every family, and stories260K token for token.</summary>
public sealed class GoldenModelDeviceTests : GoldenModelTests
{
    private protected override IBackend CreateBackend() => RealDevice.Open();

    private protected override IBackend CreateExactBackend() => RealDevice.Open();
}
