using Native.Kernels;
using Native.Kernels.Cuda;
using Native.Tests.Kernels;

namespace Native.Tests.Gpu;

/// <summary>The GPU of this machine, if it has one.</summary>
internal static class RealDevice
{
    private static readonly Lazy<string?> s_missing = new(WhyNone);

    /// <summary>A backend on it; skips the test where there is none. One that is there and can't be used fails
    /// it.</summary>
    public static IBackend Open()
    {
        Assert.SkipWhen(s_missing.Value is not null, $"no GPU: {s_missing.Value}");
        return new CudaBackend();
    }

    /// <summary>Why this machine has no GPU: no driver, no device, or only those that are too old for the kernels. Null
    /// where it has one, even one that refuses the kernels.</summary>
    internal static string? WhyNone()
    {
        try
        {
            CudaDevice.Open(null).Dispose();
            return null;
        }
        catch (CudaException e) when (e.MeansNoGpu || e.Result == CudaResult.NoBinaryForGpu)
        {
            return e.Message;
        }
        catch (CudaException)
        {
            return null; // what Open says fails the test
        }
    }
}

/// <summary>What counts as no GPU.</summary>
[Collection(nameof(FakeCuda))] // there is one at a time
public sealed class RealDeviceTests
{
    [Fact]
    public void ADeviceThatRefusesTheKernels_IsThere_SoThatItsTestsFail()
    {
        using FakeCuda fake = new(new FakeCudaOptions
        {
            Fails = call => call == "cuModuleLoadDataEx" ? (int)CudaResult.InvalidPtx : 0,
        });
        Assert.Null(RealDevice.WhyNone());
    }

    [Fact]
    public void NoDevice_AndOneThatIsTooOld_AreNone()
    {
        using (FakeCuda fake = new(new FakeCudaOptions { Devices = [] })) Assert.NotNull(RealDevice.WhyNone());
        using (FakeCuda fake = new(new FakeCudaOptions { Devices = [new("Old", 75), new("Older", 61)] }))
            Assert.Contains("none of the 2 devices", RealDevice.WhyNone());
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
