using Native.Kernels;
using Native.Kernels.Cpu;
using Native.Kernels.Files;
using Native.Kernels.Formats;
using Native.Kernels.Sampling;

namespace Native.Tests.Kernels.Cpu;

public sealed unsafe class BackendTests
{
    public static TheoryData<TensorType> Formats() => MatMulTests.Formats();

    private static Batch Step(int[] ids, int[] rows)
    {
        return new Batch
        {
            TokenIds = ids,
            Positions = Enumerable.Range(0, ids.Length).ToArray(),
            SlotMapping = Enumerable.Range(0, ids.Length).ToArray(),
            QueryStarts = new[] { 0, ids.Length },
            ContextLengths = new[] { ids.Length },
            BlockTables = new[] { 0 },
            BlockTableStride = 1,
            SampleRows = rows,
            Sampling = new RowSampling[rows.Length],
        };
    }

    [Theory, MemberData(nameof(Formats))]
    public void Embed_IsExactlyTheFormatsValues(TensorType type)
    {
        const int Rows = 37, Columns = 512;
        using GuardedMemory<byte> weights = MatMulTests.Weights(type, Rows, Columns, 1);
        TensorView view = MatMulTests.View(weights, type, Rows, Columns);
        using var backend = new CpuBackend(new CpuOptions { Threads = 2 });
        Matrix table = backend.Load([view]);
        int[] ids = [.. Enumerable.Range(0, Rows).Reverse()];
        backend.Begin(Step(ids, []));
        Tensor x = backend.Allocate(Rows, Columns, DType.F32);
        float[] expected = new float[Columns];
        foreach (float scale in (float[])[1, 22.627417f])
        {
            backend.Embed(table, scale, x);
            for (int t = 0; t < Rows; t++)
            {
                view.DecodeRow(ids[t], expected);
                for (int k = 0; k < Columns; k++)
                    Assert.Equal(BitConverter.SingleToInt32Bits(expected[k] * scale), BitConverter.SingleToInt32Bits(((float*)x.Address)[t * Columns + k]));
            }
        }
    }

    [Fact]
    public void ShapesThatDisagree_AreToldWithTheirNumbers()
    {
        using GuardedMemory<byte> weights = MatMulTests.Weights(TensorType.Q4_0, 32, 64, 1);
        TensorView view = MatMulTests.View(weights, TensorType.Q4_0, 32, 64);
        using var backend = new CpuBackend(new CpuOptions { Threads = 1 });
        Matrix w = backend.Load([view]);
        Tensor x = backend.Allocate(2, 64, DType.F32), y = backend.Allocate(2, 32, DType.F32);
        Assert.Contains("[3, 64]", Assert.Throws<ArgumentException>(() => backend.MatMul(backend.Allocate(3, 64, DType.F32), w, default, y)).Message);
        Assert.Throws<ArgumentException>(() => backend.MatMul(y, w, default, y));
        Assert.Throws<ArgumentException>(() => backend.MatMul(x, w, y, y));
        Assert.Throws<ArgumentException>(() => backend.MatMul(x with { Type = DType.F16 }, w, default, y));
        Assert.Throws<ArgumentException>(() => backend.Load([]));
        Assert.Throws<ArgumentException>(() => backend.Load([view with { ByteLength = view.ByteLength - 1 }]));
        Assert.Throws<ArgumentException>(() => backend.Load([view, view with { Columns = 32, Rows = 64 }]));
        Assert.Contains("Q4_0", Assert.Throws<NotSupportedException>(() => backend.Load([view with { Type = TensorType.IQ1_S }])).Message);
        backend.Begin(Step([32], []));
        Assert.Throws<ArgumentException>(() => backend.Embed(w, 1, backend.Allocate(1, 64, DType.F32)));
    }

    [Theory, InlineData(TensorType.Q8_0), InlineData(TensorType.Q4_K), InlineData(TensorType.F16), InlineData(TensorType.F32)]
    public void AScaleThatIsNotANumber_IsRefusedAtLoad(TensorType type)
    {
        using GuardedMemory<byte> weights = MatMulTests.Weights(type, 4, 256, 1);
        int at = (int)weights.Count / 2; // a block begins there
        if (type == TensorType.F32) System.Runtime.InteropServices.MemoryMarshal.Write(weights.Span[at..], float.NaN);
        else System.Runtime.InteropServices.MemoryMarshal.Write(weights.Span[at..], Half.PositiveInfinity);
        using var backend = new CpuBackend(new CpuOptions { Threads = 1 });
        Assert.Contains("weights", Assert.Throws<InvalidDataException>(() => backend.Load([MatMulTests.View(weights, type, 4, 256)])).Message);
    }

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
        int[] ids = [1, 2, 3, 4, 5, 6, 7, 8, 299], positions = [.. Enumerable.Range(0, Tokens)], starts = [0, Tokens], lengths = [Tokens], table = [0], rows = [3, 8];
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
                BlockTableStride = 1,
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
