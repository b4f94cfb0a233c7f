using System.Runtime.Intrinsics;
using Native.Kernels;
using Native.Kernels.Cpu;

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
    public void RotateAndStore_NormalizesRotatesAndStores(DType type, RopePairing pairing, bool norms, int d, int pairs)
    {
        const int Heads = 3, KvHeads = 2, BlockSize = 4, Blocks = 5, Rows = 6;
        int columns = (Heads + (2 * KvHeads)) * d, cacheColumns = KvHeads * BlockSize * d;
        using GuardedMemory<float> qkv = Random(Rows * columns, 2), original = new(qkv.Span), queryNorm = Random(d, 1), keyNorm = Random(d, 1);
        using GuardedMemory<byte> keys = new(Blocks * cacheColumns * (type == DType.F32 ? 4 : 2)), values = new(keys.Count);
        keys.Span.Fill(0xff); // NaN in every type
        values.Span.Fill(0xff);
        var cache = new KvLayer(new Tensor((nint)keys.Pointer, Blocks, cacheColumns, type), new Tensor((nint)values.Pointer, Blocks, cacheColumns, type), BlockSize);
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
        int items = Rope.ItemCount(step, shape);
        Rope.RotateAndStore(step, table, tensor, shape, cache, 0, 11);
        Rope.RotateAndStore(step, table, tensor, shape, cache, 11, items);

        double relative = type == DType.F32 ? 1e-6 : type == DType.F16 ? 1.0 / 2048 : 1.0 / 256;
        var stored = new HashSet<long>();
        for (int row = 0; row < Rows; row++)
        {
            for (int head = 0; head < Heads + (2 * KvHeads); head++)
            {
                int start = (row * columns) + (head * d), kind = head < Heads ? 0 : head < Heads + KvHeads ? 1 : 2;
                double[] expected = [.. original.Span.Slice(start, d).ToArray().Select(x => (double)x)];
                if (kind < 2)
                {
                    if (norms)
                    {
                        double root = Math.Sqrt(expected.Average(x => x * x) + 1e-5);
                        for (int j = 0; j < d; j++) expected[j] = expected[j] / root * (kind == 0 ? queryNorm : keyNorm).Span[j];
                    }
                    Rotate(expected, frequencies, positions[row], pairing);
                }
                for (int j = 0; j < d; j++) Assert.Equal(expected[j], qkv.Span[start + j], 5e-6);
                if (kind == 0) continue;

                int kvHead = (head - Heads) % KvHeads;
                for (int j = 0; j < d; j++)
                {
                    long element = ((((slots[row] / BlockSize * (long)KvHeads) + kvHead) * BlockSize) + (slots[row] % BlockSize)) * d + j;
                    stored.Add(element);
                    Assert.Equal(expected[j], Element(kind == 1 ? cache.Keys : cache.Values, element), (relative * Math.Abs(expected[j])) + 5e-6);
                }
            }
        }
        for (long i = 0; i < (long)Blocks * cacheColumns; i++)
            Assert.True(stored.Contains(i) || (double.IsNaN(Element(cache.Keys, i)) && double.IsNaN(Element(cache.Values, i))), $"element {i} was overwritten");
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
    public void Load_CutsRowsIntoTilesOfOneSequence()
    {
        using var step = new CpuStep();
        step.Load(new Batch
        {
            TokenIds = new int[24],
            Positions = new int[24],
            SlotMapping = new int[24],
            QueryStarts = [0, 1, 18, 18, 24],
            ContextLengths = [1, 17, 3, 6],
            BlockTables = new int[8],
            BlockTableStride = 2,
            SampleRows = [],
            Sampling = [],
        });
        Assert.Equal(
            [new QueryTile(0, 0, 1), new QueryTile(1, 1, 8), new QueryTile(1, 9, 8), new QueryTile(1, 17, 1), new QueryTile(3, 18, 6)],
            new ReadOnlySpan<QueryTile>(step.QueryTiles, step.QueryTileCount).ToArray());
        Assert.Equal((24, 4, 2), (step.Tokens, step.Sequences, step.BlockTableStride));
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
            BlockTableStride = 0,
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
