using Native.Kernels;
using Native.Kernels.Cuda;
using Native.Kernels.Models;

namespace Native.Tests.Gpu;

/// <summary>What a model takes of a GPU's memory, and what is told where it is too little.</summary>
[Collection(nameof(FakeCuda))] // there is one at a time
public sealed class CudaMemoryTests
{
    private static ModelOptions Options => new()
    {
        Path = TestData.Path("models/stories260K/stories260K-F32.gguf"),
        Backend = "cuda",
        MaxSequences = 4,
        MaxBatchedTokens = 32,
    };

    private static FakeCuda Device(long mebibytes, long taken = 0) => new(new FakeCudaOptions
    {
        Devices = [new FakeDevice(Bytes: mebibytes << 20) { TakenBytes = taken << 20 }],
    });

    /// <summary>Bytes free on the device once the model is there, and bytes of a block over all layers.</summary>
    private static (long Free, long Block, ModelInfo Info) Load(ModelOptions options)
    {
        using LoadedModel model = LoadedModel.Load(options);
        ModelInfo info = model.Runner.Info;
        using CudaDevice device = CudaDevice.Open(0);
        return (device.Memory.Free, info.KvCacheBytes / info.BlockCount, info);
    }

    [Theory]
    [InlineData(16, 0, 0.9)]
    [InlineData(16, 6, 0.9)] // others hold some
    [InlineData(16, 0, 0.5)]
    [InlineData(16, 0, 1.0)]
    public void TheCacheTakesWhatWeightsAndScratchLeave_AndNoBlockMore(long all, long taken, double part)
    {
        using FakeCuda fake = Device(all, taken);
        // So many sequences that the memory ends first.
        ModelOptions options = Options with
        {
            GpuMemoryUtilization = part,
            MaxSequences = 64,
            MaxBatchedTokens = 64,
        };
        (long free, long block, ModelInfo info) = Load(options);
        long kept = (all << 20) - (long)((all << 20) * part);
        Assert.InRange(free - kept, 0, block - 1);
        Assert.True(info.BlockCount > info.MaxModelLength / info.BlockSize, "there is more than one sequence's");
    }

    [Fact]
    public void TheCacheIsNoLargerThanItsSequencesCanFill()
    {
        using FakeCuda fake = Device(1024);
        (_, _, ModelInfo info) = Load(Options with { MaxModelLength = 64 });
        Assert.Equal(4 * 64 / 16, info.BlockCount);
    }

    [Fact]
    public void TheContextIsAsLongAsTheCacheHolds()
    {
        using FakeCuda fake = Device(4, taken: 2);
        (_, _, ModelInfo info) = Load(Options);
        Assert.InRange(info.MaxModelLength, 16, 511);
        Assert.Equal(info.MaxModelLength, info.BlockCount * info.BlockSize);
    }

    public static TheoryData<string, ModelOptions, string[]> TooMuch => new()
    {
        {
            "cache", new ModelOptions { Path = "", KvCacheBytes = 7 << 20 },
            ["a KV cache of 7 MiB was asked for", "(of 8 MiB ", "--gpu-memory-utilization 0.9 keeps 0 free)"]
        },
        {
            "cache beside scratch", new ModelOptions { Path = "", KvCacheBytes = 6 << 20, MaxBatchedTokens = 500 },
            ["a KV cache of 6 MiB was asked for, but weights and scratch leave ", "scratch needs 1."]
        },
        {
            "length", new ModelOptions { Path = "", MaxModelLength = 100_000 },
            ["a sequence of 100000 tokens needs 61 MiB of KV cache", "--gpu-memory-utilization 0.9"]
        },
        {
            "part", new ModelOptions { Path = "", GpuMemoryUtilization = 0.1 },
            ["holds no block", "--gpu-memory-utilization 0.1 keeps 7 free"]
        },
    };

    [Theory, MemberData(nameof(TooMuch), DisableDiscoveryEnumeration = true)]
    public void WhatDoesNotFit_IsToldWithTheFigures_BeforeItIsTaken(string what, ModelOptions wrong, string[] words)
    {
        using FakeCuda fake = Device(8);
        string told = Assert.Throws<ModelOptionsException>(() => LoadedModel.Load(wrong with
        {
            Path = Options.Path,
            Backend = "cuda",
            MaxSequences = 4,
            MaxBatchedTokens = wrong.MaxBatchedTokens == ModelOptions.DefaultMaxBatchedTokens ? 32
                : wrong.MaxBatchedTokens,
        })).Message;
        foreach (string word in words) Assert.True(told.Contains(word), $"{what}: {told}");
        Assert.Empty(fake.Leaks);
    }

    public static TheoryData<string, ModelOptions> Mistakes => new()
    {
        { "GpuMemoryUtilization is 0,", new ModelOptions { Path = "m", GpuMemoryUtilization = 0 } },
        { "GpuMemoryUtilization is 1.5,", new ModelOptions { Path = "m", GpuMemoryUtilization = 1.5 } },
        { "GpuMemoryUtilization is NaN,", new ModelOptions { Path = "m", GpuMemoryUtilization = double.NaN } },
        { "Device is empty", new ModelOptions { Path = "m", Device = "" } },
        { "Device is '0', but the cpu", new ModelOptions { Path = "m", Device = "0", Backend = "cpu" } },
        { "BackendFallback is 'cuda'", new ModelOptions { Path = "m", BackendFallback = "cuda" } },
        { "Variant is Avx2 (--variant), but", new ModelOptions
            { Path = "m", Backend = "cuda", Variant = Native.Kernels.Cpu.CpuVariant.Avx2 } },
    };

    [Theory, MemberData(nameof(Mistakes), DisableDiscoveryEnumeration = true)]
    public void OptionsThatCannotBe_AreRefused(string words, ModelOptions options)
    {
        List<string> errors = [];
        options.Validate(errors);
        Assert.Contains(words, Assert.Single(errors));
    }
}
