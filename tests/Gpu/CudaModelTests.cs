using System.Text.Json;
using Native.Kernels;
using Native.Kernels.Cuda;
using Native.Kernels.Models;
using Native.Tests.Gpu.Machine;
using Native.Tests.Kernels;
using Native.Tests.Scheduling;

namespace Native.Tests.Gpu;

/// <summary>The cuda backend on the PTX machine, held to what every backend is: real and tiny models against float64.
/// </summary>
[Collection(nameof(FakeCuda))] // there is one at a time
public sealed class GoldenModelCudaTests : GoldenModelTests, IDisposable
{
    private readonly FakeCuda _fake = new();

    private protected override IBackend CreateBackend() => new CudaBackend();

    private protected override IBackend CreateExactBackend() => CreateBackend();

    /// <summary>The tightest: of the others <see cref="CudaAttentionTests"/> and stories260K tell, in less time.
    /// </summary>
    private protected override DType[] CacheTypes => [DType.F32];

    /// <summary>A few steps of a model that people use: what it says is scored as its float32 reference does, as far as
    /// the cache's 16 bits allow.</summary>
    [Fact]
    public void SmolLM2_ScoresAsItsFloat32ReferenceDoes()
    {
        string path = TestData.Path("models/SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
        string told = TestData.Path("models/SmolLM2-135M-Instruct/golden.json");
        using JsonDocument golden = JsonDocument.Parse(File.ReadAllText(told));
        using ModelFile file = ModelFile.Open(path);
        ModelOptions options = new() { Path = path, MaxModelLength = 128, MaxSequences = 4, MaxBatchedTokens = 64 };
        using ModelRunner runner = new(file, CreateBackend(), options);
        JsonElement run = golden.RootElement.GetProperty("runs").EnumerateArray().MinBy(run =>
            run.GetProperty("prompt_ids").GetArrayLength());
        static int[] Ints(JsonElement list) => [.. list.EnumerateArray().Select(e => e.GetInt32())];
        int[] prompt = Ints(run.GetProperty("prompt_ids")), output = Ints(run.GetProperty("output_ids"))[..4];
        RunnerDriver.Result result = RunnerDriver.Run(runner, [[.. prompt, .. output]], 2, chunk: 16).Single();
        List<double> differences = [];
        for (int i = 0; i < output.Length; i++)
        {
            JsonElement best = run.GetProperty("top5")[i][0];
            if (best[0].GetInt32() == output[i])
                differences.Add(Math.Abs(best[1].GetDouble() - result.Logprobs[prompt.Length - 1 + i]));
        }
        Assert.True(differences.Count >= 3 && differences.Average() <= 0.01,
            $"mean difference {differences.Average()} of {differences.Count}");
        Assert.Equal(2, result.Output.Length);
    }

    public void Dispose() => _fake.End();
}

/// <summary>Its operations are those of every backend.</summary>
[Collection(nameof(FakeCuda))]
public sealed class BackendContractCudaTests : BackendContract, IDisposable
{
    private readonly FakeCuda _fake = new();

    private protected override IBackend CreateBackend() => new CudaBackend();

    public void Dispose() => _fake.End();
}

/// <summary>The engine over the cuda backend on the PTX machine: a request's bits are the same in any company, each
/// time with another order of warps and blocks, and with graphs recorded or not.</summary>
[Collection(nameof(FakeCuda))]
public sealed class RealModelCudaTests : RealModelBits, IDisposable
{
    private readonly FakeCuda _fake = new();
    private int _loads;

    protected override LoadedModel Load(ModelOptions options)
    {
        int load = _loads++;
        LaunchOptions[] orders = MachineRun.Orders;
        _fake.Options = _fake.Options with { Launch = orders[load % orders.Length] };
        using ModelFile file = ModelFile.Open(options.Path);
        CudaBackend backend = new(graphs: load % 3 != 1);
        return new LoadedModel(new ModelRunner(file, backend, options), file.OpenTokenizer(), file.Config,
            file.ReadSuggestedSampling());
    }

    private protected override long BlockBytes(ModelConfig config) =>
        config.LayerCount * CudaKvLayer.BlockBytes(config.KvShape(16, DType.F16));

    [Fact]
    public Task Bits_AreTheSame_AloneAndInCompany_InAnyChunk_AndAfterPreemption() =>
        SameBits(TestData.Path("models/stories260K/stories260K-Q4_0.gguf"), outputs: 12);

    [Fact]
    public Task Bits_AreTheSame_ColdAndFromThePrefixCache() =>
        SameBitsWarm(TestData.Path("models/stories260K/stories260K-Q4_0.gguf"));

    public void Dispose() => _fake.End();
}
