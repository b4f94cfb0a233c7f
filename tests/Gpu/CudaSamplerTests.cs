using System.Runtime.CompilerServices;
using Native.Kernels;
using Native.Kernels.Cuda;
using Native.Kernels.Sampling;
using Native.Tests.Gpu.Machine;
using static System.Text.Encoding;

namespace Native.Tests.Gpu;

/// <summary>The sampling kernel on the machine, in several orders of warps and blocks.</summary>
public sealed unsafe class CudaSamplerTests : SamplerContract
{
    /// <summary>The kernel reads <see cref="RowSampling"/> as it lies in memory.</summary>
    [Fact]
    public void ARowsFields_LieWhereTheKernelReadsThem()
    {
        RowSampling row = default;
        long At<T>(ref T field) =>
            Unsafe.ByteOffset(ref Unsafe.As<RowSampling, byte>(ref row), ref Unsafe.As<T, byte>(ref field));
        Assert.Equal((32, 40, 44, 76, 80, 88), (At(ref row.Seed), At(ref row.Position), At(ref row.TargetPlusOne),
            At(ref row.Masked), At(ref row.MaskStart), sizeof(RowSampling)));
    }

    private protected override IEnumerable<(SampledToken[] Tokens, TokenLogprob[] Alternatives)> Runs(
        int vocabulary, float[] logits, RowSampling[] sampling, int[] history, TokenBias[] biases, uint[] masks,
        int listed) => MachineRun.Orders[..3].Select(options =>
            Run(vocabulary, logits, sampling, history, biases, masks, listed, options));

    private static (SampledToken[] Tokens, TokenLogprob[] Alternatives) Run(
        int vocabulary, float[] logits, RowSampling[] sampling, int[] history, TokenBias[] biases, uint[] masks,
        int listed, LaunchOptions options)
    {
        using DeviceMemory memory = new();
        using GpuModule module = new(ASCII.GetString(CudaKernels.Ptx("sampler", "sm_80")), memory);
        int rows = sampling.Length;
        MemoryRange results = memory.Allocate<TokenLogprob>("results", new TokenLogprob[rows + listed]);
        MemoryRange counts = memory.Allocate("counts", rows * vocabulary * 4L); // of anything: they begin anew
        TestStep step = new(memory)
        {
            Sampling = sampling,
            SampledPlaces = [.. Enumerable.Range(0, rows).Select(i => i % 3 == 0 ? -1 : rows - i)],
            Last = [.. Enumerable.Repeat(-7, rows)],
            Counters = [.. sampling.Select((row, i) => row.HistoryLength > 0 ? -1 - (i ^ 1) : 0)],
            History = history,
            Biases = biases,
            Masks = masks,
            Results = results,
        };
        SamplingArguments arguments = new()
        {
            Step = step.Address,
            Logits = (ulong)memory.Allocate<float>("logits", logits).Data,
            Scores = (ulong)memory.Allocate("scores", logits.Length * 4L).Data,
            Counts = (ulong)counts.Data,
            Vocabulary = (uint)vocabulary,
        };
        module.Launch("Sample", new(rows + 1), new(256), [TestStep.Bytes(arguments)], options: options);
        SampledToken[] tokens = new Span<SampledToken>(results.Data, rows).ToArray();
        int[] last = step.LastNow(rows);
        for (int i = 0; i < rows; i++)
            if (i % 3 != 0) Assert.Equal(tokens[i].Token, last[rows - i]);
        Assert.Equal((rows + 2) / 3, last.Count(token => token == -7));
        return (tokens, new Span<TokenLogprob>((byte*)results.Data + 8 * rows, listed).ToArray());
    }
}
