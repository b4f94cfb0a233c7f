using System.Text.Json;
using Native.Kernels;
using Native.Kernels.Cpu;
using Native.Kernels.Models;
using Native.Kernels.Sampling;

namespace Native.Tests.Kernels;

/// <summary>Real and tiny models against what llama2.c and transformers (float64) say of them, on every
/// backend.</summary>
public abstract class GoldenModelTests
{
    /// <summary>As models are served: activations rounded where weights are quantized or bfloat16.</summary>
    private protected abstract IBackend CreateBackend();

    /// <summary>With float activations.</summary>
    private protected abstract IBackend CreateExactBackend();

    /// <summary>The types of the cache that families are tried with.</summary>
    private protected virtual DType[] CacheTypes => [DType.F32, DType.F16, DType.BF16, DType.Q8_0];

    private static readonly string[] Families = ["llama3-rope", "llama-linear", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"];

    public static TheoryData<string, bool> FamilyFiles()
    {
        var data = new TheoryData<string, bool>();
        foreach (string family in Families)
        {
            data.Add(family, false);
            // GGUF can't express mistral's window together with its family, so there is no such file.
            if (family != "mistral") data.Add(family, true);
        }
        return data;
    }

    private ModelRunner Open(string path, DType kv, int? maxModelLength = null, int blocks = 80, bool exact = false)
    {
        using ModelFile file = ModelFile.Open(path);
        var options = new ModelOptions { Path = path, KvCacheType = kv, MaxModelLength = maxModelLength, KvCacheBytes = TestModels.KvBytesPerToken(file.Config, kv) * 16 * blocks };
        return new ModelRunner(file, exact ? CreateExactBackend() : CreateBackend(), options);
    }

    [Theory, MemberData(nameof(FamilyFiles))]
    public void EveryFamily_AgreesWithItsFloat64Reference_AtEveryPosition(string family, bool gguf)
    {
        string folder = TestData.Path($"models/architectures/{family}");
        string path = Path.Combine(folder, gguf ? $"{family}-F32.gguf" : "hf");
        using JsonDocument golden = JsonDocument.Parse(File.ReadAllText(Path.Combine(folder, "golden.json")));
        foreach (JsonElement run in golden.RootElement.GetProperty("runs").EnumerateArray())
        {
            int[] prompt = Ints(run.GetProperty("prompt_ids"));
            // bfloat16's eight bits of mantissa alone cost up to 0.026 here, in double arithmetic throughout, and bytes
            // a little over 0.08.
            foreach ((DType kv, double tolerance) in ((DType, double)[])[(DType.F32, 1e-3), (DType.F16, 0.02), (DType.BF16, 0.04), (DType.Q8_0, 0.1)])
            {
                if (!CacheTypes.Contains(kv)) continue;
                // phi3 chooses its rope factors by the length limit: the reference's short runs hold with the original
                // length.
                int? limit = family == "phi3" ? (prompt.Length + 24 <= 64 + 1 ? 64 : 512) : null;
                using ModelRunner runner = Open(path, kv, limit, exact: true);
                int outputs = kv == DType.F32 ? Math.Min(24, runner.Info.MaxModelLength - prompt.Length) : 1;
                RunnerDriver.Result result = Assert.Single(RunnerDriver.Run(runner, [prompt], outputs, chunk: 64));
                double[] expected = [.. run.GetProperty("logprob_of_next").EnumerateArray().Select(e => e.GetDouble())];
                Assert.Equal(expected.Length, result.Logprobs.Length);
                for (int i = 0; i < expected.Length; i++)
                    Assert.True(Math.Abs(expected[i] - result.Logprobs[i]) <= tolerance, $"{kv}, {prompt.Length} ids, position {i}: expected {expected[i]}, found {result.Logprobs[i]}");
                foreach (JsonElement top in run.GetProperty("last_top8").EnumerateArray())
                {
                    TokenLogprob found = result.LastTop.Single(t => t.Token == top[0].GetInt32());
                    Assert.Equal(top[1].GetDouble(), found.Logprob, tolerance);
                }
                if (kv == DType.F32) Assert.Equal(Ints(run.GetProperty("greedy_ids")).Take(outputs), result.Output);
            }
        }
    }

    [Theory, MemberData(nameof(FamilyFiles))]
    public void EveryFamily_AsServed_StaysWithinWhatSixteenBitActivationsCost(string family, bool gguf)
    {
        // The folders' weights are bfloat16, and so may be the activations that meet them; the files' are float32, and
        // nothing is rounded.
        string folder = TestData.Path($"models/architectures/{family}");
        string path = Path.Combine(folder, gguf ? $"{family}-F32.gguf" : "hf");
        using JsonDocument golden = JsonDocument.Parse(File.ReadAllText(Path.Combine(folder, "golden.json")));
        JsonElement run = golden.RootElement.GetProperty("runs")[0];
        int[] prompt = Ints(run.GetProperty("prompt_ids"));
        using ModelRunner runner = Open(path, DType.F32, family == "phi3" ? 64 : null);
        RunnerDriver.Result result = Assert.Single(RunnerDriver.Run(runner, [prompt], 1, chunk: 64));
        double[] expected = [.. run.GetProperty("logprob_of_next").EnumerateArray().Select(e => e.GetDouble())];
        for (int i = 0; i < expected.Length; i++)
            Assert.True(Math.Abs(expected[i] - result.Logprobs[i]) <= (gguf ? 1e-3 : 0.05), $"position {i}: expected {expected[i]}, found {result.Logprobs[i]}");
    }

    [Theory]
    [InlineData("stories260K-F32.gguf")]
    [InlineData("stories260K-F16.gguf")]
    [InlineData("hf")]
    public void Stories260K_SpeaksTokenForToken(string file)
    {
        string path = TestData.Path($"models/stories260K/{file}");
        using ModelRunner runner = Open(path, DType.F32, blocks: 40);
        foreach (JsonElement run in Golden("models/stories260K/golden.json"))
        {
            int[] ids = Ints(run.GetProperty("input_ids"));
            JsonElement top = run.GetProperty("top5_logits_per_position");
            // The prompt's length isn't given: the greedy part is where each id is the best of the position before.
            int prompt = ids.Length;
            while (prompt > 1 && top[prompt - 2][0][0].GetInt32() == ids[prompt - 1]) prompt--;
            RunnerDriver.Result result = RunnerDriver.Run(runner, [ids[..prompt]], ids.Length - prompt, chunk: 32)[0];
            Assert.Equal(ids[prompt..], result.Output);
        }
    }

    [Theory]
    [InlineData("stories260K-Q8_0.gguf", 0.03)]
    [InlineData("stories260K-Q4_0.gguf", 0.35)]
    public void Stories260K_StaysClose_WhenQuantized(string file, double meanDifference)
    {
        string quantized = TestData.Path($"models/stories260K/{file}"), exact = TestData.Path("models/stories260K/stories260K-F32.gguf");
        int[] ids = Ints(Golden("models/stories260K/golden.json")[0].GetProperty("input_ids"));
        float[] Score(string path)
        {
            using ModelRunner runner = Open(path, DType.F16);
            return RunnerDriver.Run(runner, [ids], 1, chunk: 64)[0].Logprobs;
        }
        double difference = Score(quantized).Zip(Score(exact), (a, b) => Math.Abs(a - b)).Average();
        Assert.True(difference <= meanDifference, $"mean |difference| {difference}, allowed {meanDifference}");
    }

    private protected static JsonElement[] Golden(string relative) =>
        [.. JsonDocument.Parse(File.ReadAllText(TestData.Path(relative))).RootElement.GetProperty("runs").EnumerateArray()];

    private protected static int[] Ints(JsonElement list) => [.. list.EnumerateArray().Select(e => e.GetInt32())];
}

public sealed class GoldenModelReferenceTests : GoldenModelTests
{
    private protected override IBackend CreateBackend() => new ReferenceBackend();

    private protected override IBackend CreateExactBackend() => CreateBackend();
}

public sealed class GoldenModelCpuTests : GoldenModelTests
{
    private protected override IBackend CreateBackend() => new CpuBackend(new CpuOptions { Threads = 2 });

    private protected override IBackend CreateExactBackend() => new CpuBackend(new CpuOptions { Threads = 2, FloatActivations = true });
}
