using System.Runtime.Intrinsics;
using Native.Kernels;
using Native.Kernels.Cpu;
using Native.Kernels.Cpu.Machine;

namespace Native.Tests.Kernels.Cpu;

public sealed unsafe class RopeTests
{
    [Theory, MemberData(nameof(Widths.Data), MemberType = typeof(Widths))]
    public void RotateHalfSplit_AgreesWithTheDefinitionInDouble(int width)
    {
        foreach (int pairs in new[] { 1, 2, 3, 4, 7, 8, 9, 16, 17, 32, 40, 63, 64, 128 }) CheckRotation(width, pairs, RopePairing.HalfSplit);
    }

    [Theory, InlineData(0), InlineData(128)]
    public void RotateInterleaved_AgreesWithTheDefinitionInDouble(int width)
    {
        foreach (int pairs in new[] { 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 32, 40, 63, 64, 128 }) CheckRotation(width, pairs, RopePairing.Interleaved);
    }

    /// <summary>At a million, an angle in float would be off by a thirtieth of a turn and more.</summary>
    [Fact]
    public void Compute_IsExact_AtHighPositions()
    {
        double[] frequencies = [1, 0.5, 1e-4];
        using var table = new StepRotations(frequencies, 1.5f);
        using CpuStep step = Step([0, 1, 131_071, 1_000_003], [0, 1, 2, 3]);
        table.Begin(4);
        table.Compute(step, 2, 4);
        table.Compute(step, 0, 2);
        for (int row = 0; row < 4; row++)
        {
            for (int i = 0; i < 3; i++)
            {
                Assert.Equal((float)(1.5 * Math.Cos(step.Positions[row] * frequencies[i])), table.Cosines(row)[i], 1e-7f);
                Assert.Equal((float)(1.5 * Math.Sin(step.Positions[row] * frequencies[i])), table.Sines(row)[i], 1e-7f);
            }
        }
    }

    public static TheoryData<DType, RopePairing, bool, int, int> Layers()
    {
        var data = new TheoryData<DType, RopePairing, bool, int, int>();
        foreach (DType type in new[] { DType.F32, DType.F16, DType.BF16 })
        {
            foreach (RopePairing pairing in new[] { RopePairing.HalfSplit, RopePairing.Interleaved })
            {
                data.Add(type, pairing, false, 64, 32);
                data.Add(type, pairing, true, 80, 20); // the first half of a head
                data.Add(type, pairing, true, 18, 9);
                data.Add(type, pairing, false, 2, 1);
                data.Add(type, pairing, true, 96, 0);
            }
        }
        return data;
    }

    [Theory, MemberData(nameof(Layers))]
    public void Store_NormalizesRotatesAndStores(DType type, RopePairing pairing, bool norms, int d, int pairs)
    {
        const int Heads = 3, KvHeads = 2, BlockSize = 4, Blocks = 5, Rows = 6;
        int columns = (Heads + (2 * KvHeads)) * d, cacheColumns = KvHeads * BlockSize * d;
        using GuardedMemory<float> qkv = Random(Rows * columns, 2), original = new(qkv.Span), queryNorm = Random(d, 1), keyNorm = Random(d, 1);
        using GuardedMemory<byte> keys = new(Blocks * cacheColumns * (type == DType.F32 ? 4 : 2)), values = new(keys.Count);
        keys.Span.Fill(0xff); // NaN in every type
        values.Span.Fill(0xff);
        var cache = new CpuKvLayer(
            new KvShape(KvHeads, d, BlockSize, type),
            new Tensor((nint)keys.Pointer, Blocks, cacheColumns, type),
            new Tensor((nint)values.Pointer, Blocks, cacheColumns, type));
        var shape = new AttentionShape
        {
            Heads = Heads,
            KvHeads = KvHeads,
            HeadSize = d,
            Rope = 0,
            Pairing = pairing,
            Scale = 1,
            NormEpsilon = 1e-5f,
            QueryNorm = norms ? new Tensor((nint)queryNorm.Pointer, 1, d, DType.F32) : default,
            KeyNorm = norms ? new Tensor((nint)keyNorm.Pointer, 1, d, DType.F32) : default,
        };
        double[] frequencies = [.. Enumerable.Range(0, pairs).Select(i => Math.Pow(10000, -(double)i / pairs))];
        int[] positions = [0, 1, 2, 77, 1000, 5], slots = [0, 19, 7, 8, 3, 12];
        using var table = new StepRotations(frequencies, 1);
        using CpuStep step = Step(positions, slots);
        table.Begin(Rows);
        table.Compute(step, 0, Rows);
        var tensor = new Tensor((nint)qkv.Pointer, Rows, columns, DType.F32);
        using GuardedMemory<float> y = new(Rows * Heads * d);
        using var pool = new WorkerPool(1);
        using var heap = new NativeHeap();
        var attention = new PagedAttention(pool, heap);
        PagedAttention.Job job = attention.Prepare(step, table, tensor, shape, cache, new Tensor((nint)y.Pointer, Rows, Heads * d, DType.F32));
        PagedAttention.Store(&job, 0, 5, 0);
        PagedAttention.Store(&job, 5, job.Stores, 0);

        double relative = type == DType.F32 ? 1e-6 : type == DType.F16 ? 1.0 / 2048 : 1.0 / 256;
        HashSet<long> storedKeys = [], storedValues = [];
        for (int row = 0; row < Rows; row++)
        {
            for (int head = Heads; head < Heads + (2 * KvHeads); head++)
            {
                int start = (row * columns) + (head * d);
                bool isKey = head < Heads + KvHeads;
                double[] expected = [.. original.Span.Slice(start, d).ToArray().Select(x => (double)x)];
                if (isKey)
                {
                    if (norms)
                    {
                        double root = Math.Sqrt(expected.Average(x => x * x) + 1e-5);
                        for (int j = 0; j < d; j++) expected[j] = expected[j] / root * keyNorm.Span[j];
                    }
                    Rotate(expected, frequencies, positions[row], pairing);
                }
                int kvHead = (head - Heads) % KvHeads;
                for (int j = 0; j < d; j++)
                {
                    long block = (slots[row] / BlockSize * (long)KvHeads) + kvHead, position = slots[row] % BlockSize;
                    long element = isKey ? (((block * d) + j) * BlockSize) + position : (((block * BlockSize) + position) * d) + j;
                    (isKey ? storedKeys : storedValues).Add(element);
                    Assert.Equal(expected[j], Element(isKey ? cache.Keys : cache.Values, element), (relative * Math.Abs(expected[j])) + 5e-6);
                }
            }
        }
        for (long i = 0; i < (long)Blocks * cacheColumns; i++)
        {
            Assert.True(storedKeys.Contains(i) || double.IsNaN(Element(cache.Keys, i)), $"key element {i} was overwritten");
            Assert.True(storedValues.Contains(i) || double.IsNaN(Element(cache.Values, i)), $"value element {i} was overwritten");
        }
    }

    [Fact]
    public void Convert_AgreesWithItsDefinition_AtEveryLength()
    {
        float[] special = [0, -0f, 65519.996f, 65520f, 1e-7f, 5.9604645e-8f, 2.9802322e-8f, 6.1e-5f, float.PositiveInfinity, 3.4e38f, 1.00048828125f];
        for (int n = 1; n < 70; n++)
        {
            using GuardedMemory<float> source = Random(n, 10);
            for (int i = 0; i < n; i += 3) source.Span[i] = special[i % special.Length];
            using GuardedMemory<ushort> expected = new(n), actual = new(n);
            foreach (DType type in new[] { DType.F16, DType.BF16 })
            {
                Rope.ConvertScalar(source.Pointer, expected.Pointer, type, n);
                Rope.Convert(source.Pointer, new Tensor((nint)actual.Pointer, 1, n, type), 0, n);
                Assert.Equal(expected.Span, actual.Span);
                Rope.Convert<Simd128, Vector128<float>>(source.Pointer, actual.Pointer, type, n);
                Assert.Equal(expected.Span, actual.Span);
                Rope.Convert<Simd512, Vector512<float>>(source.Pointer, actual.Pointer, type, n);
                Assert.Equal(expected.Span, actual.Span);
            }
        }
    }

    [Fact]
    public void Load_CutsRowsIntoTilesOfOneSequence_TheMostExpensiveFirst()
    {
        using CpuStep step = Load([0, 1, 18, 18, 24], [1, 17, 3, 6]);
        Assert.Equal(
            [new QueryTile(1, 9, 8, 100), new QueryTile(1, 1, 8, 36), new QueryTile(3, 18, 6, 21), new QueryTile(1, 17, 1, 17), new QueryTile(0, 0, 1, 1)],
            new ReadOnlySpan<QueryTile>(step.QueryTiles, step.QueryTileCount).ToArray());
        Assert.Equal((24, 4, 175L, false),
            (step.Tokens, step.Sequences, step.VisiblePositions, step.TilesAreSequences));
        Assert.Equal([0, 2, 4, 6, 8], new ReadOnlySpan<int>(step.BlockTableStarts, 5).ToArray());
    }

    [Fact]
    public void Load_CutsALongChunkIntoLargerTiles()
    {
        using CpuStep step = Load([0, 130], [1130]);
        Assert.Equal([2, 32, 32, 32, 32], new ReadOnlySpan<QueryTile>(step.QueryTiles, step.QueryTileCount).ToArray().Select(tile => tile.Rows).Order());
        Assert.Equal([0, 32, 64, 96, 128], new ReadOnlySpan<QueryTile>(step.QueryTiles, step.QueryTileCount).ToArray().Select(tile => tile.FirstRow).Order());
    }

    [Fact]
    public void Load_KnowsWhetherEachSequencesRowsAreOneTile()
    {
        using CpuStep decodes = Load([0, 1, 1, 9], [100, 7, 70]), chunk = Load([0, 1, 10], [100, 70]);
        Assert.Equal((true, false), (decodes.TilesAreSequences, chunk.TilesAreSequences));
    }

    private static CpuStep Load(int[] starts, int[] lengths)
    {
        var step = new CpuStep();
        step.Load(new Batch
        {
            TokenIds = new int[starts[^1]],
            Positions = lengths.SelectMany((length, s) => Enumerable.Range(length - (starts[s + 1] - starts[s]), starts[s + 1] - starts[s])).ToArray(),
            SlotMapping = new int[starts[^1]],
            QueryStarts = starts,
            ContextLengths = lengths,
            BlockTables = new int[2 * lengths.Length],
            BlockTableStarts = Enumerable.Range(0, lengths.Length + 1).Select(s => 2 * s).ToArray(),
            SampleRows = [],
            Sampling = [],
        });
        return step;
    }

    private static CpuStep Step(int[] positions, int[] slots)
    {
        var step = new CpuStep();
        step.Load(new Batch
        {
            TokenIds = new int[positions.Length],
            Positions = positions,
            SlotMapping = slots,
            QueryStarts = [0, positions.Length],
            ContextLengths = [positions.Max() + 1],
            BlockTables = [],
            BlockTableStarts = [0, 0],
            SampleRows = [],
            Sampling = [],
        });
        return step;
    }

    private static void CheckRotation(int width, int pairs, RopePairing pairing)
    {
        using GuardedMemory<float> x = Random(2 * pairs, 3), cosines = new(pairs), sines = new(pairs);
        double[] expected = [.. x.Span.ToArray().Select(value => (double)value)];
        double[] frequencies = [.. Enumerable.Range(0, pairs).Select(i => Math.Pow(500, -(double)i / pairs))];
        for (int i = 0; i < pairs; i++)
        {
            cosines.Span[i] = (float)Math.Cos(11 * frequencies[i]);
            sines.Span[i] = (float)Math.Sin(11 * frequencies[i]);
        }
        Rotate(expected, frequencies, 11, pairing);
        if (width == 0) Rope.RotateScalar(x.Pointer, cosines.Pointer, sines.Pointer, pairs, pairing);
        else if (pairing == RopePairing.Interleaved) Rope.RotateInterleaved(x.Pointer, cosines.Pointer, sines.Pointer, pairs);
        else if (width == 128) Rope.RotateHalfSplit<Simd128, Vector128<float>>(x.Pointer, cosines.Pointer, sines.Pointer, pairs);
        else if (width == 256) Rope.RotateHalfSplit<Simd256, Vector256<float>>(x.Pointer, cosines.Pointer, sines.Pointer, pairs);
        else Rope.RotateHalfSplit<Simd512, Vector512<float>>(x.Pointer, cosines.Pointer, sines.Pointer, pairs);
        for (int i = 0; i < 2 * pairs; i++) Assert.Equal(expected[i], x.Span[i], 1e-6);
    }

    private static void Rotate(double[] x, double[] frequencies, int position, RopePairing pairing)
    {
        int pairs = frequencies.Length;
        for (int i = 0; i < pairs; i++)
        {
            (int a, int b) = pairing == RopePairing.HalfSplit ? (i, i + pairs) : (2 * i, (2 * i) + 1);
            (double sine, double cosine) = Math.SinCos(position * frequencies[i]);
            (x[a], x[b]) = ((x[a] * cosine) - (x[b] * sine), (x[a] * sine) + (x[b] * cosine));
        }
    }

    private static double Element(Tensor tensor, long index) => tensor.Type switch
    {
        DType.F32 => ((float*)tensor.Address)[index],
        DType.F16 => (double)BitConverter.UInt16BitsToHalf(((ushort*)tensor.Address)[index]),
        _ => BitConverter.UInt32BitsToSingle((uint)((ushort*)tensor.Address)[index] << 16),
    };

    private static GuardedMemory<float> Random(int n, double scale)
    {
        var random = new Random(n);
        var memory = new GuardedMemory<float>(n);
        for (int i = 0; i < n; i++) memory.Span[i] = (float)((random.NextDouble() - 0.5) * 2 * scale);
        return memory;
    }
}
