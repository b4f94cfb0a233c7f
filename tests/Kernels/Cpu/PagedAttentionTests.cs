using System.Runtime.Intrinsics;
using Native.Kernels;
using Native.Kernels.Cpu;
using Native.Kernels.Sampling;

namespace Native.Tests.Kernels.Cpu;

public sealed unsafe class PagedAttentionTests
{
    public static TheoryData<int, DType, int, int, int, int, float, int> Shapes()
    {
        var data = new TheoryData<int, DType, int, int, int, int, float, int>();
        foreach (int width in Widths.All)
        {
            foreach (DType type in new[] { DType.F32, DType.F16, DType.BF16 })
            {
                data.Add(width, type, 4, 2, 64, 0, 0, 16);
                data.Add(width, type, 3, 3, 80, 0, 0, 8);
                data.Add(width, type, 8, 1, 32, 20, 0, 16);
                data.Add(width, type, 2, 1, 128, 33, 25, 32);
                data.Add(width, type, 2, 2, 256, 1, 50, 5);
                data.Add(width, type, 6, 2, 2, 0, 3, 1);
                data.Add(width, type, 2, 1, 6, 64, 0, 7);
                data.Add(width, type, 2, 1, 96, 0, 0, 24);
                data.Add(width, type, 2, 1, 16, 31, 0, 128);
                data.Add(width, type, 2, 2, 18, 32, 0, 16);
            }
        }
        return data;
    }

    [Theory, MemberData(nameof(Shapes))]
    public void Attend_AgreesWithDouble(int width, DType type, int heads, int kvHeads, int d, int window, float softCap, int blockSize)
    {
        using var model = new Layer(type, heads, kvHeads, d, window, softCap, blockSize);
        // A decode, a prompt from its start, a chunk in the middle, a first token, a tile's edge.
        using var batch = model.Step((0, 99, 1), (1, 0, 41), (2, 33, 37), (3, 0, 1), (4, 31, 2));
        float[] y = batch.Attend(width);

        int row = 0;
        foreach ((int sequence, int first, int count) in batch.Chunks)
        {
            for (int position = first; position < first + count; position++, row++)
            {
                for (int head = 0; head < heads; head++)
                {
                    double[] expected = model.Reference(sequence, position, head);
                    for (int j = 0; j < d; j++) Assert.Equal(expected[j], y[(((row * heads) + head) * d) + j], 2e-6);
                }
            }
        }
    }

    [Theory, MemberData(nameof(Shapes))]
    public void ARowsBits_AreTheSame_AloneAndInAnyChunk(int width, DType type, int heads, int kvHeads, int d, int window, float softCap, int blockSize)
    {
        const int Length = 70;
        using var model = new Layer(type, heads, kvHeads, d, window, softCap, blockSize);
        float[] whole;
        using (var batch = model.Step((0, 40, 3), (1, 0, Length))) whole = batch.Attend(width)[(3 * heads * d)..];
        foreach (int chunk in new[] { 1, 7, 64 })
        {
            for (int first = 0; first < Length; first += chunk)
            {
                int count = Math.Min(chunk, Length - first);
                using var batch = model.Step((1, first, count), (2, 5, 2));
                Assert.Equal(whole.AsSpan(first * heads * d, count * heads * d), batch.Attend(width).AsSpan(0, count * heads * d));
            }
        }
    }

    [Theory, InlineData(DType.F32), InlineData(DType.F16), InlineData(DType.BF16)]
    public void ARowsBits_AreTheSame_ForEveryBlockSizeAndSplit(DType type)
    {
        float[]? expected = null;
        foreach (int blockSize in new[] { 1, 3, 16, 32, 100, 256 })
        {
            using var model = new Layer(type, 4, 2, 64, 50, 0, blockSize);
            using var batch = model.Step((0, 99, 1), (1, 20, 50));
            float[] y = batch.AttendSplit(1);
            expected ??= y;
            Assert.Equal(expected, y);
            foreach (int parts in new[] { 2, 3, 14 }) Assert.Equal(expected, batch.AttendSplit(parts));
        }
    }

    /// <summary>A large query makes logits of some hundreds: the exponentials of all but the best vanish, none overflows.</summary>
    [Theory, MemberData(nameof(Widths.Data), MemberType = typeof(Widths))]
    public void Attend_SurvivesHugeLogits(int width)
    {
        using var model = new Layer(DType.F32, 2, 1, 32, 0, 0, 16, queryScale: 3000);
        using var batch = model.Step((0, 99, 1), (1, 0, 10));
        float[] y = batch.Attend(width);
        for (int head = 0; head < 2; head++)
        {
            double[] expected = model.Reference(0, 99, head);
            for (int j = 0; j < 32; j++) Assert.Equal(expected[j], y[(head * 32) + j], 2e-3); // a logit of 3000 is off by 1e-4
        }
    }

    [Fact]
    public void Nothing_IsAllocated()
    {
        using var model = new Layer(DType.F16, 4, 2, 64, 0, 0, 16);
        using var batch = model.Step((0, 99, 1), (1, 0, 41));
        batch.Run();
        long before = GC.GetAllocatedBytesForCurrentThread();
        batch.Run();
        batch.Reload();
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }

    /// <summary>Five sequences of 100 positions in shuffled blocks. What no sequence has stored is NaN, and the cache ends at a guard page.</summary>
    private sealed class Layer : IDisposable
    {
        public const int Sequences = 5, Length = 100;
        private readonly GuardedMemory<byte> _keys, _values;
        private readonly float[] _exactKeys, _exactValues;
        private readonly float _queryScale;

        public Layer(DType type, int heads, int kvHeads, int d, int window, float softCap, int blockSize, float queryScale = 3)
        {
            _queryScale = queryScale;
            Shape = new AttentionShape
            {
                Heads = heads,
                KvHeads = kvHeads,
                HeadSize = d,
                Rope = 0,
                Pairing = RopePairing.HalfSplit,
                Scale = 1 / MathF.Sqrt(d),
                Window = window,
                SoftCap = softCap,
            };
            Stride = (Length + blockSize - 1) / blockSize;
            int blocks = (Sequences * Stride) + 1, columns = kvHeads * blockSize * d;
            int[] order = [.. Enumerable.Range(0, blocks)];
            new Random(1).Shuffle(order);
            BlockTables = order[..(Sequences * Stride)];

            int size = type == DType.F32 ? 4 : 2;
            _keys = new GuardedMemory<byte>(blocks * columns * size);
            _values = new GuardedMemory<byte>(blocks * columns * size);
            Cache = new KvLayer(
                new Tensor((nint)_keys.Pointer, blocks, columns, type), new Tensor((nint)_values.Pointer, blocks, columns, type), blockSize);
            float[] notANumber = [.. Enumerable.Repeat(float.NaN, blocks * columns)];
            fixed (float* source = notANumber)
            {
                Rope.Convert(source, Cache.Keys, 0, notANumber.Length);
                Rope.Convert(source, Cache.Values, 0, notANumber.Length);
            }

            _exactKeys = Fill(Cache.Keys, 2);
            _exactValues = Fill(Cache.Values, 3);
        }

        public AttentionShape Shape { get; }

        public KvLayer Cache { get; }

        public int Stride { get; }

        public int[] BlockTables { get; }

        public StepUnderTest Step(params (int Sequence, int First, int Count)[] chunks) => new(this, chunks);

        public float Query(int sequence, int position, int head, int j)
        {
            uint bits = Philox.Block(((uint)j, (uint)head, (uint)position, (uint)sequence), (4, 4)).X0;
            return ((bits * (1f / uint.MaxValue)) - 0.5f) * _queryScale;
        }

        public double[] Reference(int sequence, int position, int head)
        {
            int d = Shape.HeadSize, kvHead = head / (Shape.Heads / Shape.KvHeads), first = Shape.Window > 0 ? Math.Max(0, position - Shape.Window + 1) : 0;
            double[] logits = new double[position + 1 - first], y = new double[d], query = new double[d];
            for (int j = 0; j < d; j++) query[j] = Query(sequence, position, head, j);
            for (int p = first; p <= position; p++)
            {
                double dot = 0;
                for (int j = 0; j < d; j++) dot += query[j] * _exactKeys[Index(sequence, p, kvHead) + j];
                logits[p - first] = Shape.SoftCap > 0 ? Shape.SoftCap * Math.Tanh(dot * Shape.Scale / Shape.SoftCap) : dot * Shape.Scale;
            }
            double max = logits.Max(), sum = logits.Sum(x => Math.Exp(x - max));
            for (int p = first; p <= position; p++)
            {
                double weight = Math.Exp(logits[p - first] - max) / sum;
                for (int j = 0; j < d; j++) y[j] += weight * _exactValues[Index(sequence, p, kvHead) + j];
            }
            return y;
        }

        public void Dispose()
        {
            _keys.Dispose();
            _values.Dispose();
        }

        private int Index(int sequence, int position, int kvHead) => ((((sequence * Length) + position) * Shape.KvHeads) + kvHead) * Shape.HeadSize;

        // Returns what the cache's type made of the values, in plain order.
        private float[] Fill(Tensor tensor, uint key)
        {
            int d = Shape.HeadSize;
            var exact = new float[Sequences * Length * Shape.KvHeads * d];
            for (int s = 0; s < Sequences; s++)
            {
                for (int p = 0; p < Length; p++)
                {
                    for (int h = 0; h < Shape.KvHeads; h++)
                    {
                        int block = BlockTables[(s * Stride) + (p / Cache.BlockSize)];
                        long element = ((((long)block * Shape.KvHeads) + h) * Cache.BlockSize + (p % Cache.BlockSize)) * d;
                        for (int j = 0; j < d; j++)
                        {
                            int i = Index(s, p, h) + j;
                            float value = (Philox.Block(((uint)i, 0, 0, 0), (key, 0)).X0 * (2f / uint.MaxValue)) - 1;
                            Rope.Convert(&value, tensor, element + j, 1);
                            ushort* narrow = (ushort*)tensor.Address + element + j;
                            exact[i] = tensor.Type switch
                            {
                                DType.F32 => value,
                                DType.F16 => (float)BitConverter.UInt16BitsToHalf(*narrow),
                                _ => BitConverter.UInt32BitsToSingle((uint)*narrow << 16),
                            };
                        }
                    }
                }
            }
            return exact;
        }
    }

    private sealed class StepUnderTest : IDisposable
    {
        private readonly Layer _layer;
        private readonly CpuStep _step = new();
        private readonly GuardedMemory<float> _qkv, _y, _scratch;
        private readonly int[] _ids, _positions, _slots, _starts, _lengths, _tables;

        public StepUnderTest(Layer layer, (int Sequence, int First, int Count)[] chunks)
        {
            (_layer, Chunks) = (layer, chunks);
            AttentionShape shape = layer.Shape;
            int rows = chunks.Sum(chunk => chunk.Count), columns = (shape.Heads + (2 * shape.KvHeads)) * shape.HeadSize;
            (_ids, _positions, _slots) = (new int[rows], new int[rows], new int[rows]);
            _starts = new int[chunks.Length + 1];
            _lengths = [.. chunks.Select(chunk => chunk.First + chunk.Count)];
            _tables = [.. chunks.SelectMany(chunk => layer.BlockTables.AsSpan(chunk.Sequence * layer.Stride, layer.Stride).ToArray())];
            _qkv = new GuardedMemory<float>(rows * columns);
            _qkv.Span.Fill(float.NaN); // keys and values are not read from here
            _y = new GuardedMemory<float>(rows * shape.Heads * shape.HeadSize);
            _scratch = new GuardedMemory<float>(PagedAttention.ScratchLength(shape));
            _scratch.Span.Fill(float.NaN);

            int row = 0;
            for (int s = 0; s < chunks.Length; s++)
            {
                for (int i = 0; i < chunks[s].Count; i++, row++)
                {
                    _positions[row] = chunks[s].First + i;
                    for (int head = 0; head < shape.Heads; head++)
                    {
                        for (int j = 0; j < shape.HeadSize; j++)
                            _qkv.Span[(row * columns) + (head * shape.HeadSize) + j] = layer.Query(chunks[s].Sequence, _positions[row], head, j);
                    }
                }
                _starts[s + 1] = row;
            }
            Reload();
        }

        public (int Sequence, int First, int Count)[] Chunks { get; }

        public void Reload() => _step.Load(new Batch
        {
            TokenIds = _ids,
            Positions = _positions,
            SlotMapping = _slots,
            QueryStarts = _starts,
            ContextLengths = _lengths,
            BlockTables = _tables,
            BlockTableStride = _layer.Stride,
            SampleRows = [],
            Sampling = [],
        });

        public void Run() => PagedAttention.Attend(
            _step, Qkv, _layer.Shape, _layer.Cache, Y, _scratch.Pointer, 0, PagedAttention.ItemCount(_step, _layer.Shape));

        public float[] AttendSplit(int parts)
        {
            _y.Span.Fill(float.NaN);
            int items = PagedAttention.ItemCount(_step, _layer.Shape);
            for (int part = parts - 1; part >= 0; part--)
                PagedAttention.Attend(_step, Qkv, _layer.Shape, _layer.Cache, Y, _scratch.Pointer, items * part / parts, items * (part + 1) / parts);
            return _y.Span.ToArray();
        }

        public float[] Attend(int width)
        {
            _y.Span.Fill(float.NaN);
            for (int item = 0; item < PagedAttention.ItemCount(_step, _layer.Shape); item++)
            {
                QueryTile tile = _step.QueryTiles[item / _layer.Shape.KvHeads];
                int kvHead = item % _layer.Shape.KvHeads;
                if (width == 0) PagedAttention.AttendScalar(_step, tile, kvHead, Qkv, _layer.Shape, _layer.Cache, Y);
                else if (width == 128) PagedAttention.Attend<Simd128, Vector128<float>>(_step, tile, kvHead, Qkv, _layer.Shape, _layer.Cache, Y, _scratch.Pointer);
                else if (width == 256) PagedAttention.Attend<Simd256, Vector256<float>>(_step, tile, kvHead, Qkv, _layer.Shape, _layer.Cache, Y, _scratch.Pointer);
                else PagedAttention.Attend<Simd512, Vector512<float>>(_step, tile, kvHead, Qkv, _layer.Shape, _layer.Cache, Y, _scratch.Pointer);
            }
            return _y.Span.ToArray();
        }

        public void Dispose()
        {
            _step.Dispose();
            _qkv.Dispose();
            _y.Dispose();
            _scratch.Dispose();
        }

        private Tensor Qkv => new((nint)_qkv.Pointer, _positions.Length, (_layer.Shape.Heads + (2 * _layer.Shape.KvHeads)) * _layer.Shape.HeadSize, DType.F32);

        private Tensor Y => new((nint)_y.Pointer, _positions.Length, _layer.Shape.Heads * _layer.Shape.HeadSize, DType.F32);
    }
}
