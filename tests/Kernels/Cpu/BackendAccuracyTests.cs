using System.Text.Json;
using Native.Kernels;
using Native.Kernels.Cpu;
using Native.Kernels.Models;

namespace Native.Tests.Kernels.Cpu;

public sealed class BackendAccuracyTests
{
    // llama.cpp, which rounds activations to 8 bits too, is 0.034 away on average; with float activations only the KV
    // cache's 16 bits and the order of sums are left.
    [Theory]
    [InlineData(false, 0.034)]
    [InlineData(true, 0.004)]
    public void SmolLM2_IsAsCloseToItsFloat32Reference_AsItsActivationsAllow(bool floatActivations, double allowed)
    {
        string path = TestData.Path("models/SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
        using JsonDocument golden = JsonDocument.Parse(File.ReadAllText(TestData.Path("models/SmolLM2-135M-Instruct/golden.json")));
        using ModelFile file = ModelFile.Open(path);
        var options = new ModelOptions { Path = path, KvCacheType = DType.F16, MaxModelLength = 1024, KvCacheBytes = TestModels.KvBytesPerToken(file.Config, DType.F16) * 1024 };
        using var runner = new ModelRunner(file, new CpuBackend(new CpuOptions { Threads = 2, FloatActivations = floatActivations }), options);
        var differences = new List<double>();
        foreach (JsonElement run in golden.RootElement.GetProperty("runs").EnumerateArray())
        {
            int[] prompt = Ints(run.GetProperty("prompt_ids")), output = Ints(run.GetProperty("output_ids"));
            float[] found = Assert.Single(RunnerDriver.Run(runner, [[.. prompt, .. output]], 1, chunk: 512)).Logprobs;
            JsonElement top = run.GetProperty("top5");
            for (int i = 0; i < output.Length; i++)
            {
                JsonElement best = top[i][0];
                if (best[0].GetInt32() == output[i]) differences.Add(Math.Abs(best[1].GetDouble() - found[prompt.Length - 1 + i]));
            }
        }
        TestContext.Current.TestOutputHelper?.WriteLine($"mean |difference| {differences.Average()} over {differences.Count}, greatest {differences.Max()}");
        Assert.True(differences.Average() <= allowed, $"mean |difference| {differences.Average()} over {differences.Count}, allowed {allowed}");

        static int[] Ints(JsonElement list) => [.. list.EnumerateArray().Select(e => e.GetInt32())];
    }
}
