using System.Diagnostics;
using ILGPU;
using ILGPU.Runtime;
using Native.Kernels.Ilgpu;

namespace Native.Tests.Gpu.Ilgpu;

/// <summary>Kernels on Oclgrind, an OpenCL device that looks for their mistakes (Price and McIntosh-Smith 2015):
/// planted ones are found, and ours have none. A process of its own runs them, since what drivers there are is settled
/// once.</summary>
public sealed class OclgrindTests
{
    private const string Driver = "/usr/lib/oclgrind/liboclgrind-rt-icd.so";

    /// <summary>Runs tests of this assembly on Oclgrind. Returns what they and it said.</summary>
    private static async Task<string> RunAsync(string method, bool uninitialized)
    {
        Assert.SkipUnless(File.Exists(Driver), "oclgrind is not installed");
        Assert.SkipUnless(File.Exists(Environment.ProcessPath) && Environment.ProcessPath.EndsWith("Native.Tests"),
            "the tests run in another program");
        ProcessStartInfo start = new(Environment.ProcessPath, ["-noLogo", "-noColor", "-method", method])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            Environment =
            {
                ["OCL_ICD_VENDORS"] = Driver,
                [Pocl.Variable] = "Oclgrind",
                // ILGPU's barriers are fences of global memory alone, which drivers take for both.
                ["OCLGRIND_BUILD_OPTIONS"] = "-cl-std=CL2.0 -DCLK_GLOBAL_MEM_FENCE=3",
                ["OCLGRIND_DATA_RACES"] = "1",
                ["OCLGRIND_UNINITIALIZED"] = uninitialized ? "1" : "0",
                ["OCLGRIND_MAX_ERRORS"] = "10",
            },
        };
        using Process process = Process.Start(start)!;
        CancellationToken ct = TestContext.Current.CancellationToken;
        Task<string> error = process.StandardError.ReadToEndAsync(ct);
        string output = await process.StandardOutput.ReadToEndAsync(ct) + await error;
        await process.WaitForExitAsync(ct);
        Assert.Contains("Total: ", output);
        Assert.DoesNotContain("Total: 0", output);
        Assert.DoesNotContain("[SKIP]", output);
        return output;
    }

    private static readonly string[] s_complaints =
        ["Invalid read", "Invalid write", "data race", "Work-group divergence", "ninitialized value", "FATAL"];

    [Theory]
    [InlineData("MissingBarrier", "data race")]
    [InlineData("ReadOutOfBounds", "Invalid read")]
    [InlineData("SharedWriteOutOfBounds", "Invalid write")]
    [InlineData("UninitialisedShared", "ninitialized value")]
    [InlineData("DivergentBarrier", "Work-group divergence")]
    [InlineData("Good", null)]
    public async Task APlantedMistake_IsFound(string kernel, string? complaint)
    {
        // Who misses a barrier also reads what nobody has written yet, which would be told first.
        string said = await RunAsync($"*.PlantedMistakes.{kernel}", uninitialized: kernel != "MissingBarrier");
        if (complaint is not null) Assert.Contains(complaint, said);
        else Assert.All(s_complaints, word => Assert.DoesNotContain(word, said));
    }

    [Theory]
    [InlineData("*.SamplerIlgpuTests.LogitsThatAreNone*")]
    [InlineData("*.BackendContractIlgpuTests.AProductOfStackedFormats*")]
    public async Task OurKernels_HaveNone(string method)
    {
        string said = await RunAsync(method, uninitialized: false);
        Assert.All(s_complaints, word => Assert.DoesNotContain(word, said));
        Assert.Contains("Failed: 0", said);
    }
}

/// <summary>Kernels of which all but one have a mistake. They run on Oclgrind alone.</summary>
public sealed class PlantedMistakes
{
    private const int Threads = 64;

    private static void Run(Action<ArrayView<float>, ArrayView<float>> kernel)
    {
        Assert.SkipUnless(Environment.GetEnvironmentVariable(Pocl.Variable) == "Oclgrind",
            "these kernels are for Oclgrind alone, where OclgrindTests runs them");
        using IlgpuDevice device = IlgpuDevice.Open(Pocl.Device);
        using MemoryBuffer1D<float, Stride1D.Dense> x = device.Accelerator.Allocate1D(new float[Threads]);
        using MemoryBuffer1D<float, Stride1D.Dense> y = device.Accelerator.Allocate1D(new float[Threads]);
        device.Accelerator.LoadKernel(kernel)(device.Stream, new KernelConfig(1, Threads), x.View.BaseView,
            y.View.BaseView);
        device.Stream.Synchronize();
    }

    [Fact]
    public void Good() => Run((x, y) =>
    {
        ArrayView<float> shared = SharedMemory.Allocate<float>(Threads);
        shared[Group.IdxX] = x[Group.IdxX];
        Group.Barrier();
        y[Group.IdxX] = shared[Threads - 1 - Group.IdxX];
    });

    [Fact]
    public void MissingBarrier() => Run((x, y) =>
    {
        ArrayView<float> shared = SharedMemory.Allocate<float>(Threads);
        shared[Group.IdxX] = x[Group.IdxX];
        y[Group.IdxX] = shared[Threads - 1 - Group.IdxX];
    });

    [Fact]
    public void ReadOutOfBounds() => Run((x, y) => y[Group.IdxX] = x[Group.IdxX + 1]);

    [Fact]
    public void SharedWriteOutOfBounds() => Run((x, y) =>
    {
        ArrayView<float> shared = SharedMemory.Allocate<float>(Threads);
        shared[Group.IdxX + 1] = x[Group.IdxX];
        Group.Barrier();
        y[Group.IdxX] = shared[Group.IdxX];
    });

    [Fact]
    public void UninitialisedShared() => Run((x, y) =>
    {
        ArrayView<float> shared = SharedMemory.Allocate<float>(Threads);
        if (Group.IdxX > 0) shared[Group.IdxX] = x[Group.IdxX];
        Group.Barrier();
        y[Group.IdxX] = shared[Threads - 1 - Group.IdxX];
    });

    [Fact]
    public void DivergentBarrier() => Run((x, y) =>
    {
        ArrayView<float> shared = SharedMemory.Allocate<float>(Threads);
        shared[Group.IdxX] = x[Group.IdxX];
        if (Group.IdxX < Threads / 2) Group.Barrier();
        y[Group.IdxX] = shared[Threads - 1 - Group.IdxX];
    });
}
