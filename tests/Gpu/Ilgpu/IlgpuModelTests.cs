using Native.Kernels;
using Native.Kernels.Ilgpu;
using Native.Kernels.Models;
using Native.Kernels.Sampling;
using Native.Tests.Kernels;
using Native.Tests.Scheduling;

namespace Native.Tests.Gpu.Ilgpu;

/// <summary>Its operations are those of every backend.</summary>
[Collection(nameof(Pocl))] // it has the processors
public sealed class BackendContractIlgpuTests : BackendContract
{
    private protected override IBackend CreateBackend() => Pocl.Open();
}

/// <summary>A step is what it is on every backend, between its launch and its collection.</summary>
[Collection(nameof(Pocl))]
public sealed class StepSeamIlgpuTests : StepSeam
{
    private protected override IBackend CreateBackend() => Pocl.Open();
}

/// <summary>What a step costs beside its kernels.</summary>
[Collection(nameof(Pocl))]
public sealed class IlgpuStepTests
{
    [Fact]
    public void ADecodeStep_AllocatesNothing()
    {
        using ModelRunner runner = StepSeamTests.Open(Pocl.Open());
        BatchBuffers buffers = new(runner.Info);
        int length = 0;
        void Step(int count)
        {
            buffers.Begin();
            for (int s = 0; s < 3; s++)
            {
                Span<int> ids = buffers.AddSequence(count, length, [s], s, decodes: count == 1, out int row);
                ids.Fill(5 + s);
                buffers.AddSample(row + count - 1, new RowSampling { Position = length + count, Temperature = s });
            }
            length += count;
            runner.Launch(buffers.Batch);
            runner.Collect(buffers.Sampled, buffers.Alternatives);
        }
        Step(3);
        for (int i = 0; i < 3; i++) Step(1);
        long least = long.MaxValue;
        for (int i = 0; i < 8 && least > 0; i++)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            Step(1);
            least = Math.Min(least, GC.GetAllocatedBytesForCurrentThread() - before);
        }
        Assert.Equal(0, least);
    }

    /// <summary>An output that needs more parts of attention than their memory has is computed in turn.</summary>
    [Fact]
    public void PartsOfAttentionInTurn_AreThoseAtOnce()
    {
        List<SampledToken> Output(long partialBytes)
        {
            using ModelRunner runner = StepSeamTests.Open(
                new IlgpuBackend(Pocl.Device) { PartialBytes = partialBytes });
            BatchBuffers buffers = new(runner.Info);
            buffers.Begin();
            int row = buffers.AddSequence([5, 9, 30, 7, 7, 2, 11], 0, [1], 0);
            buffers.AddSample(row + 6, new RowSampling { Position = 7 });
            runner.Launch(buffers.Batch);
            runner.Collect(buffers.Sampled, buffers.Alternatives);
            return [buffers.Sampled[0]];
        }
        Assert.Equal(Output(64 << 20), Output(1700));
    }
}

/// <summary>Real and tiny models against float64.</summary>
[Collection(nameof(Pocl))]
public sealed class GoldenModelIlgpuTests : GoldenModelTests
{
    private protected override IBackend CreateBackend() => Pocl.Open();

    private protected override IBackend CreateExactBackend() => Pocl.Open();
}

/// <summary>The sampler draws the CPU's tokens.</summary>
[Collection(nameof(Pocl))]
public sealed class SamplerIlgpuTests : SamplerContract
{
    private protected override IEnumerable<(SampledToken[] Tokens, TokenLogprob[] Alternatives)> Runs(
        int vocabulary, float[] logits, RowSampling[] sampling, int[] history, TokenBias[] biases, uint[] masks,
        int listed)
    {
        using IBackend backend = Pocl.Open();
        int rows = sampling.Length;
        int[] zeros = new int[rows], starts = [.. Enumerable.Range(0, rows + 1)];
        for (int run = 0; run < 2; run++)
        {
            Tensor uploaded = backend.Upload(logits) with { Rows = rows, Columns = vocabulary };
            backend.Launch(new Batch
            {
                TokenIds = zeros,
                Positions = zeros,
                SlotMapping = zeros,
                QueryStarts = starts,
                ContextLengths = [.. Enumerable.Repeat(1, rows)],
                BlockTables = zeros,
                BlockTableStarts = starts,
                SampleRows = starts.AsSpan(0, rows),
                Sampling = sampling,
                History = history,
                Biases = biases,
                Masks = masks,
            }, new TestGraph(_ => backend.Sample(uploaded, 0)));
            SampledToken[] tokens = new SampledToken[rows];
            TokenLogprob[] alternatives = new TokenLogprob[listed];
            backend.Collect(tokens, alternatives);
            yield return (tokens, alternatives);
        }
    }
}

/// <summary>The engine over PoCL: a request's bits are the same in any company.</summary>
[Collection(nameof(Pocl))]
public sealed class RealModelIlgpuTests : RealModelBits
{
    protected override LoadedModel Load(ModelOptions options) =>
        LoadedModel.Load(options with { Backend = BackendFactory.Ilgpu, Device = Pocl.Device });

    private protected override long BlockBytes(ModelConfig config) =>
        config.LayerCount * IlgpuKvLayer.BlockBytes(config.KvShape(16, DType.F16));

    [Fact]
    public Task Bits_AreTheSame_AloneAndInCompany_InAnyChunk_AndAfterPreemption() =>
        SameBits(TestData.Path("models/stories260K/stories260K-Q4_0.gguf"), outputs: 12);

    [Fact]
    public Task Bits_AreTheSame_ColdAndFromThePrefixCache() =>
        SameBitsWarm(TestData.Path("models/stories260K/stories260K-Q4_0.gguf"));
}
