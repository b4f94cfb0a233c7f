using System.Runtime.InteropServices;
using Native.Kernels;
using Native.Kernels.Files;
using Native.Kernels.Formats;
using Native.Kernels.Sampling;
using Native.Tests.Kernels.Cpu;

namespace Native.Tests.Kernels;

/// <summary>What every backend's operations are, seen through <see cref="IBackend"/> alone.</summary>
public abstract class BackendContract
{
    private static readonly MatrixRole Head = new(MatrixUse.Head);

    private protected abstract IBackend CreateBackend();

    /// <summary>Relative error of a product in proportion to what is added up: of float32, or of activations in eight
    /// bits.</summary>
    private protected virtual double ProductTolerance => 1e-6;

    public static TheoryData<TensorType> Formats() => MatMulTests.Formats();

    /// <summary>A prompt's rows as one step, whose operations a test queues.</summary>
    private static void Run(IBackend backend, int[] ids, Action enqueue)
    {
        int[] positions = [.. Enumerable.Range(0, ids.Length)];
        backend.Launch(new Batch
        {
            TokenIds = ids,
            Positions = positions,
            SlotMapping = positions,
            QueryStarts = new[] { 0, ids.Length },
            ContextLengths = new[] { ids.Length },
            BlockTables = new int[(ids.Length + 15) / 16],
            BlockTableStarts = new[] { 0, (ids.Length + 15) / 16 },
            SampleRows = [],
            Sampling = [],
        }, new TestGraph(_ => enqueue()));
        backend.Collect([], []);
    }

    private static float[] Read(IBackend backend, Tensor x)
    {
        float[] values = new float[x.Rows * x.Columns];
        backend.Read(x, values);
        return values;
    }

    private static Tensor Upload(IBackend backend, float[] values, int rows) =>
        backend.Upload(values) with { Rows = rows, Columns = values.Length / rows };

    private static float[] Values(int count, int seed)
    {
        Random random = new(seed);
        return [.. Enumerable.Range(0, count).Select(_ => (float)(random.NextDouble() * 2 - 1))];
    }

    [Theory, MemberData(nameof(Formats))]
    public void ARowThatIsLookedUp_HasExactlyTheFormatsValues(TensorType type)
    {
        const int rows = 37, columns = 512;
        using GuardedMemory<byte> weights = MatMulTests.Weights(type, rows, columns, 1);
        TensorView view = MatMulTests.View(weights, type, rows, columns);
        using IBackend backend = CreateBackend();
        Matrix table = backend.Load([view], new MatrixRole(MatrixUse.Embedding));
        Tensor x = backend.Allocate(rows, columns, DType.F32);
        int[] ids = [.. Enumerable.Range(0, rows).Reverse()];
        float[] expected = new float[columns];
        foreach (float scale in (float[])[1, 22.627417f])
        {
            Run(backend, ids, () => backend.Embed(table, scale, x));
            float[] found = Read(backend, x);
            for (int t = 0; t < rows; t++)
            {
                view.DecodeRow(ids[t], expected);
                Assert.Equal(expected.Select(value => value * scale), found[(t * columns)..((t + 1) * columns)]);
            }
        }
    }

    /// <summary>Matrices of any format, stacked with one of another: products with a norm and a bias.</summary>
    [Theory, MemberData(nameof(Formats))]
    public void AProductOfStackedFormats_IsThatOfTheirValues(TensorType type)
    {
        const int rows = 21, columns = 512, tokens = 5;
        using GuardedMemory<byte> first = MatMulTests.Weights(type, rows, columns, 1);
        using GuardedMemory<byte> second = MatMulTests.Weights(TensorType.F16, rows, columns, 2);
        TensorView[] views =
            [MatMulTests.View(first, type, rows, columns), MatMulTests.View(second, TensorType.F16, rows, columns)];
        using IBackend backend = CreateBackend();
        Matrix w = backend.Load(views, new MatrixRole(MatrixUse.GateUp));
        float[] x = Values(tokens * columns, 3), norm = Values(columns, 4), bias = Values(2 * rows, 5);
        Tensor y = backend.Allocate(tokens, 2 * rows, DType.F32), input = Upload(backend, x, tokens);
        Tensor weight = backend.Upload(norm), biases = backend.Upload(bias);
        Run(backend, new int[tokens], () => backend.MatMul(input, w, biases, y, new RowNorm(weight, 1e-5f)));
        float[] found = Read(backend, y), row = new float[columns];
        for (int r = 0; r < 2 * rows; r++)
        {
            views[r / rows].DecodeRow(r % rows, row);
            for (int t = 0; t < tokens; t++)
            {
                Span<float> own = x.AsSpan(t * columns, columns);
                double square = 0, sum = 0, size = Math.Abs(bias[r]);
                foreach (float value in own) square += (double)value * value;
                double scale = 1 / Math.Sqrt(square / columns + 1e-5);
                for (int i = 0; i < columns; i++)
                {
                    sum += (double)row[i] * own[i] * norm[i] * scale;
                    size += Math.Abs((double)row[i] * own[i] * norm[i] * scale);
                }
                Assert.Equal(sum + bias[r], found[t * 2 * rows + r], size * ProductTolerance + 1e-6);
            }
        }
    }

    [Fact]
    public void ShapesThatDisagree_AreToldWithTheirNumbers()
    {
        using GuardedMemory<byte> weights = MatMulTests.Weights(TensorType.Q4_0, 32, 64, 1);
        TensorView view = MatMulTests.View(weights, TensorType.Q4_0, 32, 64);
        using IBackend backend = CreateBackend();
        Matrix w = backend.Load([view], Head);
        Tensor x = backend.Allocate(2, 64, DType.F32), y = backend.Allocate(2, 32, DType.F32);
        Tensor three = backend.Allocate(3, 64, DType.F32), one = backend.Allocate(1, 64, DType.F32);
        Run(backend, [0, 0], () =>
        {
            Assert.Contains("[3, 64]",
                Assert.Throws<ArgumentException>(() => backend.MatMul(three, w, default, y)).Message);
            Assert.Throws<ArgumentException>(() => backend.MatMul(y, w, default, y));
            Assert.Throws<ArgumentException>(() => backend.MatMul(x, w, y, y));
            Assert.Throws<ArgumentException>(() => backend.MatMul(x with { Type = DType.F16 }, w, default, y));
        });
        Assert.Throws<ArgumentException>(() => backend.Load([], Head));
        Assert.Throws<ArgumentException>(() => backend.Load([view with { ByteLength = view.ByteLength - 1 }], Head));
        Assert.Throws<ArgumentException>(
            () => backend.Load([view, view with { Columns = 32, Rows = 64 }], new MatrixRole(MatrixUse.GateUp)));
        Assert.Contains("Q4_0", Assert.Throws<NotSupportedException>(
            () => backend.Load([view with { Type = TensorType.IQ1_S }], Head)).Message);
        Assert.Throws<ArgumentException>(() => Run(backend, [32], () => backend.Embed(w, 1, one)));
        Run(backend, [31], () => backend.Embed(w, 1, one)); // what was refused is not in flight
    }

    [Theory]
    [InlineData(TensorType.Q8_0)]
    [InlineData(TensorType.Q4_K)]
    [InlineData(TensorType.F16)]
    [InlineData(TensorType.F32)]
    public void AScaleThatIsNotANumber_IsRefusedAtLoad(TensorType type)
    {
        using GuardedMemory<byte> weights = MatMulTests.Weights(type, 4, 256, 1);
        int at = (int)weights.Count / 2; // a block begins there
        if (type == TensorType.F32) MemoryMarshal.Write(weights.Span[at..], float.NaN);
        else MemoryMarshal.Write(weights.Span[at..], Half.PositiveInfinity);
        using IBackend backend = CreateBackend();
        Assert.Contains("weights", Assert.Throws<InvalidDataException>(
            () => backend.Load([MatMulTests.View(weights, type, 4, 256)], Head)).Message);
    }

    [Fact]
    public void ACacheTypeThatIsNone_IsRefusedWithThoseThatAre()
    {
        using IBackend backend = CreateBackend();
        foreach (DType type in Enum.GetValues<DType>())
        {
            KvShape shape = new(1, 64, 16, type);
            if (backend.Info.CacheTypes.Contains(type)) Assert.Equal(2, backend.AllocateKv(shape, 2).Blocks);
            else Assert.Contains("f32, f16", Assert.Throws<NotSupportedException>(
                () => backend.AllocateKv(shape, 2)).Message);
        }
    }

    /// <summary>A chunk, a decode and several tokens at once, against the reference.</summary>
    [Theory]
    [InlineData(RopePairing.HalfSplit, true, DType.F16)]
    [InlineData(RopePairing.Interleaved, true, DType.F16)]
    [InlineData(RopePairing.HalfSplit, false, DType.F16)]
    [InlineData(RopePairing.HalfSplit, true, DType.Q8_0)]
    public void Attend_NormalizesAndRotatesQueriesAndKeys_AsTheReferenceDoes(
        RopePairing pairing, bool norms, DType type)
    {
        using IBackend backend = CreateBackend(), reference = new ReferenceBackend();
        float[] expected = Attended(reference, pairing, norms, type), found = Attended(backend, pairing, norms, type);
        // A key's last bit, of 7 or 11.
        float tolerance = type == DType.Q8_0 ? 0.04f : 4e-3f;
        for (int i = 0; i < expected.Length; i++) Assert.Equal(expected[i], found[i], tolerance);
    }

    private static float[] Attended(IBackend backend, RopePairing pairing, bool norms, DType type)
    {
        const int heads = 6, kvHeads = 2, size = 64, pairs = 20, blocks = 6, blockSize = 16, rows = 70;
        Tensor Norm(int seed) => norms ? backend.Upload(Values(size, seed)) : default;
        AttentionShape shape = new()
        {
            Heads = heads,
            KvHeads = kvHeads,
            HeadSize = size,
            Rope = backend.AddRope([.. Enumerable.Range(0, pairs).Select(i => Math.Pow(10000, -(double)i / pairs))], 1),
            Pairing = pairing,
            Scale = 0.125f,
            QueryNorm = Norm(7),
            KeyNorm = Norm(8),
            NormEpsilon = 1e-5f,
        };
        KvLayer cache = backend.AllocateKv(new KvShape(kvHeads, size, blockSize, type), blocks);
        List<float> output = [];
        foreach ((int first, int count) in new[] { (0, rows), (rows, 1), (rows + 1, 3) })
        {
            int[] positions = [.. Enumerable.Range(first, count)], table = [4, 2, 5, 0, 1];
            Tensor y = backend.Allocate(count, heads * size, DType.F32);
            float[] values = [.. Values(count * (heads + 2 * kvHeads) * size, first).Select(value => 3 * value)];
            Tensor qkv = Upload(backend, values, count);
            backend.Launch(new Batch
            {
                TokenIds = new int[count],
                Positions = positions,
                SlotMapping = positions.Select(p => table[p / blockSize] * blockSize + p % blockSize).ToArray(),
                QueryStarts = new[] { 0, count },
                ContextLengths = new[] { first + count },
                BlockTables = table,
                BlockTableStarts = new[] { 0, table.Length },
                SampleRows = [],
                Sampling = [],
            }, new TestGraph(_ => backend.Attend(qkv, shape, cache, y)));
            backend.Collect([], []);
            output.AddRange(Read(backend, y));
        }
        return [.. output];
    }
}
