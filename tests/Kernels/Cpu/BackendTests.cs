using Native.Kernels;
using Native.Kernels.Cpu;
using Native.Kernels.Files;
using Native.Kernels.Formats;
using Native.Kernels.Sampling;

namespace Native.Tests.Kernels.Cpu;

public sealed class BackendTests : BackendContract
{
    private protected override IBackend CreateBackend() => new CpuBackend(new CpuOptions { Threads = 2 });

    /// <summary>Activations have eight bits.</summary>
    private protected override double ProductTolerance => 0.01;

    [Fact]
    public void WrongOptions_AreToldTogether()
    {
        var options = new CpuOptions { Threads = -1, Variant = (CpuVariant)99 };
        Assert.Equal(2, options.Validate().Count);
        Assert.Contains("-1", Assert.Throws<ArgumentException>(() => new CpuBackend(options)).Message);
    }

    [Theory]
    [InlineData("Scalar", true)]
    [InlineData("scalar", true)]
    [InlineData("Sse2", false)]
    [InlineData("0", false)]
    public void AVariantInTheEnvironment_IsAName(string name, bool right)
    {
        string? error = CpuOptions.Error(name);
        if (right) Assert.Null(error);
        else Assert.Equal($"NATIVE_CPU_VARIANT is '{name}'; this processor can run {string.Join(", ", MicroKernels.Supported)}.", error);
    }

    [Fact]
    public void AStep_AllocatesNothing_OnceWarm()
    {
        const int Hidden = 256, Heads = 4, D = 32, Vocabulary = 300, Tokens = 9;
        using GuardedMemory<byte> qkvWeights = MatMulTests.Weights(TensorType.Q4_K, (Heads + 4) * D, Hidden, 1), headWeights = MatMulTests.Weights(TensorType.Q8_0, Vocabulary, Hidden, 2);
        using var backend = new CpuBackend(new CpuOptions { Threads = 2 });
        Matrix qkvMatrix = backend.Load([MatMulTests.View(qkvWeights, TensorType.Q4_K, (Heads + 4) * D, Hidden)]);
        Matrix head = backend.Load([MatMulTests.View(headWeights, TensorType.Q8_0, Vocabulary, Hidden)]);
        TensorView half = MatMulTests.View(qkvWeights, TensorType.Q4_K, (Heads + 4) * D, Hidden).Slice(0, Hidden / 2);
        Matrix gateUp = backend.Load([half, half]), down = backend.Load([MatMulTests.View(headWeights, TensorType.Q8_0, Hidden, Hidden / 2) with { ByteLength = Hidden * Hidden / 64 * 34 }]);
        Tensor norm = backend.Upload(Enumerable.Repeat(1f, Hidden).ToArray());
        var shape = new AttentionShape { Heads = Heads, KvHeads = 2, HeadSize = D, Rope = backend.AddRope([1, 0.1, 0.01], 1), Pairing = RopePairing.HalfSplit, Scale = 0.17f };
        KvLayer cache = backend.AllocateKv(new KvShape(2, D, 16, DType.F16), 1);
        Tensor x = backend.Allocate(Tokens, Hidden, DType.F32), qkv = backend.Allocate(Tokens, (Heads + 4) * D, DType.F32), attended = backend.Allocate(Tokens, Heads * D, DType.F32);
        Tensor gated = backend.Allocate(Tokens, Hidden / 2, DType.F32), last = backend.Allocate(2, Hidden, DType.F32), logits = backend.Allocate(2, Vocabulary, DType.F32);
        int[] ids = [1, 2, 3, 4, 5, 6, 7, 8, 299], positions = [.. Enumerable.Range(0, Tokens)], starts = [0, Tokens];
        int[] lengths = [Tokens], table = [0], tableStarts = [0, 1], rows = [3, 8];
        var sampling = new RowSampling[] { default, new() { Temperature = 1, TopP = 0.9f, Alternatives = 3 } };
        var sampled = new SampledToken[2];
        var best = new TokenLogprob[3];
        var graph = new TestGraph(Enqueue);

        void Step()
        {
            var batch = new Batch
            {
                TokenIds = ids,
                Positions = positions,
                SlotMapping = positions,
                QueryStarts = starts,
                ContextLengths = lengths,
                BlockTables = table,
                BlockTableStarts = tableStarts,
                SampleRows = rows,
                Sampling = sampling,
            };
            backend.Launch(batch, graph);
            backend.Collect(sampled, best);
        }

        void Enqueue(StepShape step)
        {
            backend.Embed(head, 1, x);
            backend.RmsNorm(x, norm, 1e-5f, x);
            backend.MatMul(x, qkvMatrix, default, qkv, new RowNorm(norm, 1e-5f));
            backend.Attend(qkv, shape, cache, attended);
            backend.MatMulGate(x, gateUp, default, Activation.Silu, gated);
            backend.MatMulAdd(gated, down, default, x);
            backend.Add(x, x);
            backend.Gather(x, 0, last);
            backend.MatMul(last, head, default, logits);
            backend.SoftCap(logits, 30);
            backend.Sample(logits, 0);
        }

        Assert.Equal(0, Allocations.Of(() =>
        {
            for (int i = 0; i < 20; i++) Step();
        }));
        Assert.All(sampled, s => Assert.InRange(s.Token, 0, Vocabulary - 1));
    }
}
