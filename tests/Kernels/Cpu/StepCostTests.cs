using Native.Kernels;
using Native.Kernels.Cpu;
using Native.Kernels.Models;

namespace Native.Tests.Kernels.Cpu;

/// <summary>What a decode step costs beside its arithmetic, counted.</summary>
public sealed class StepCostTests
{
    [Theory]
    [InlineData(1)]
    [InlineData(8)]
    public void ADecodeStep_HasAtMostFiveBarriersALayer(int sequences)
    {
        string path = Path.Combine(AppContext.BaseDirectory, "models", "demo.gguf");
        using ModelFile file = ModelFile.Open(path);
        var backend = new CpuBackend(new CpuOptions { Threads = 2 });
        using var runner = new ModelRunner(file, backend, new ModelOptions { Path = path, KvCacheBytes = TestModels.KvBytesPerToken(file.Config, DType.F16) * 16 * 64 });
        int[][] prompts = [.. Enumerable.Range(0, sequences).Select(s => new[] { 5 + s, 6, 7 })];
        const int Outputs = 20;

        long before = backend.Loops;
        RunnerDriver.Run(runner, prompts, 2, chunk: 8); // the prompt, and a step
        long withOne = backend.Loops - before;
        RunnerDriver.Run(runner, prompts, 2 + Outputs, chunk: 8);
        double perStep = (backend.Loops - before - (2 * withOne)) / (double)Outputs;

        // A layer: q, k and v; attention with rotation and store; output; gate and up; down. Then the head and the
        // choice; the embedding and the rotations of more rows.
        Assert.InRange(perStep, 1, (5 * file.Config.LayerCount) + 4);
    }
}
