using System.Runtime.Intrinsics;
using Native.Kernels;
using Native.Kernels.Cpu;
using Native.Kernels.Cpu.Machine;
using Native.Kernels.Models;
using Native.Kernels.Sampling;

namespace Native.Tests.Kernels.Cpu;

public sealed unsafe class PagedAttentionTests
{
    public static TheoryData<int, DType, int, int, int, int, float, int> Shapes()
    {
        var data = new TheoryData<int, DType, int, int, int, int, float, int>();
        foreach (int width in Widths.All)
        {
            foreach (DType type in new BackendInfo { Description = "" }.CacheTypes)
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
                data.Add(width, type, 4, 1, 64, 0, 0, 16);
                data.Add(width, type, 9, 3, 64, 70, 0, 48);
                data.Add(width, type, 5, 1, 64, 65, 0, 5);
                data.Add(width, type, 9, 1, 96, 0, 30, 64);
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

    public static TheoryData<DType, int, int, int> Splits()
    {
        var data = new TheoryData<DType, int, int, int>();
        foreach (DType type in new BackendInfo { Description = "" }.CacheTypes)
        {
            data.Add(type, 4, 1, 0);
            data.Add(type, 3, 1, 300);
            data.Add(type, 2, 2, 0);
            data.Add(type, 10, 2, 20);
        }
        return data;
    }

    /// <summary>Decodes and a chunk over contexts of three segments, in parts for several workers where they are
    /// few.</summary>
    [Theory, MemberData(nameof(Splits))]
    public void ARowsBits_AreTheSame_ForEveryBlockSizeAndSplit(DType type, int heads, int kvHeads, int window)
    {
        const int D = 32;
        (int, int, int)[][] steps = [[(0, 699, 1)], [(0, 690, 3), (1, 255, 4)], [(0, 699, 1), (1, 400, 200), (2, 5, 9)]];
        var expected = new float[]?[steps.Length];
        var alone = new Dictionary<(int, int), float[]>();
        foreach (int blockSize in new[] { 16, 1, 5, 8, 32, 100, 256, 1024 })
        {
            using var model = new Layer(type, heads, kvHeads, D, window, 0, blockSize, length: 700);
            foreach (int workers in new[] { 1, 2, 3, 5 })
            {
                for (int s = 0; s < steps.Length; s++)
                {
                    using var batch = model.Step(workers, steps[s]);
                    float[] y = batch.Run();
                    expected[s] ??= y;
                    Assert.Equal(expected[s], y);
                    Assert.Equal(y, batch.RunBackwards());

                    int row = 0;
                    foreach ((int sequence, int first, int count) in steps[s])
                    {
                        for (int position = first; position < first + count; position++, row++)
                        {
                            float[] output = y[(row * heads * D)..((row + 1) * heads * D)];
                            if (!alone.TryAdd((sequence, position), output)) Assert.Equal(alone[(sequence, position)], output);
                        }
                    }
                }
            }
        }
    }

    [Theory, MemberData(nameof(Widths.Data), MemberType = typeof(Widths))]
    public void ALongPrompt_AgreesWithDouble_AndWithDecodesAndChunksToTheBit(int width)
    {
        foreach (DType type in new[] { DType.F16, DType.Q8_0 }) ALongPrompt(width, type);
    }

    private static void ALongPrompt(int width, DType type)
    {
        const int Length = 600, Heads = 6, D = 64;
        using var model = new Layer(type, Heads, 2, D, 0, 0, 16, length: Length);
        float[] whole;
        using (var batch = model.Step((1, 0, Length))) whole = batch.Attend(width);
        foreach (int position in new[] { 0, 63, 64, 255, 256, 257, 511, 512, 599 })
        {
            float[] expected = whole[(position * Heads * D)..((position + 1) * Heads * D)];
            double[] exact = model.Reference(1, position, 3);
            for (int j = 0; j < D; j++) Assert.Equal(exact[j], expected[(3 * D) + j], 2e-6);
            foreach (int workers in width == 0 ? [1] : new[] { 1, 3 })
            {
                using var batch = model.Step(workers, (1, position, 1), (2, 5, 2));
                Assert.Equal(expected, batch.Attend(width)[..(Heads * D)]);
            }
        }
        foreach (int chunk in new[] { 129, 300 })
        {
            for (int first = 0; first < Length; first += chunk)
            {
                int count = Math.Min(chunk, Length - first);
                using var batch = model.Step((1, first, count));
                Assert.Equal(whole.AsSpan(first * Heads * D, count * Heads * D), batch.Attend(width).AsSpan());
            }
        }
    }

    /// <summary>Keys and values are in the cache afterwards, where the next step finds them, and nothing else was
    /// written.</summary>
    [Theory, MemberData(nameof(Shapes))]
    public void Attend_StoresTheStepsKeysAndValues_AndNothingElse(int width, DType type, int heads, int kvHeads, int d, int window, float softCap, int blockSize)
    {
        using var model = new Layer(type, heads, kvHeads, d, window, softCap, blockSize);
        foreach ((int, int, int)[] chunks in new (int, int, int)[][] { [(0, 99, 1), (2, 33, 5)], [(0, 0, 100), (4, 31, 1)] })
        {
            using var batch = model.Step(chunks);
            batch.Attend(width);
            model.CheckStored(chunks);
        }
    }

    /// <summary>A large query makes logits of some hundreds: the exponentials of all but the best vanish, none
    /// overflows.</summary>
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

    [Theory, InlineData(DType.F16), InlineData(DType.Q8_0)]
    public void Nothing_IsAllocated(DType type)
    {
        using var model = new Layer(type, 4, 2, 64, 0, 0, 16);
        using var batch = model.Step((0, 99, 1), (1, 0, 41));
        Assert.Equal(0, Allocations.Of(() =>
        {
            batch.Reload();
            batch.RunOnce();
        }));
    }

    /// <summary>Five sequences in shuffled blocks. What no sequence has stored is NaN, and the cache ends at a guard
    /// page.</summary>
    private sealed class Layer : IDisposable
    {
        public const int Sequences = 5;
        private readonly GuardedMemory<byte> _keys, _values;
        private readonly float[] _exactKeys, _exactValues;
        private readonly float _queryScale;

        public Layer(DType type, int heads, int kvHeads, int d, int window, float softCap, int blockSize, float queryScale = 3, int length = 100)
        {
            (_queryScale, Length) = (queryScale, length);
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
            int blocks = (Sequences * Stride) + 1, columns = kvHeads * blockSize * CpuKvLayer.HeadColumns(d, type);
            int[] order = [.. Enumerable.Range(0, blocks)];
            new Random(1).Shuffle(order);
            BlockTables = order[..(Sequences * Stride)];

            _keys = new GuardedMemory<byte>(blocks * columns * Tensor.SizeOf(type));
            _values = new GuardedMemory<byte>(blocks * columns * Tensor.SizeOf(type));
            Cache = new CpuKvLayer(
                new KvShape(kvHeads, d, blockSize, type),
                new Tensor((nint)_keys.Pointer, blocks, columns, type),
                new Tensor((nint)_values.Pointer, blocks, columns, type));
            _exactKeys = Random(2);
            _exactValues = Random(3);
        }

        public int Length { get; }

        public AttentionShape Shape { get; }

        public CpuKvLayer Cache { get; }

        public int Stride { get; }

        public int[] BlockTables { get; }

        public StepUnderTest Step(params (int Sequence, int First, int Count)[] chunks) => Step(1, chunks);

        /// <summary>A step whose sequences have stored what comes before their chunks.</summary>
        public StepUnderTest Step(int workers, params (int Sequence, int First, int Count)[] chunks)
        {
            Store(chunks.Select(chunk => (chunk.Sequence, chunk.First)));
            return new StepUnderTest(this, chunks, workers);
        }

        public int Slot(int sequence, int position) => (BlockTables[(sequence * Stride) + (position / Cache.Shape.BlockSize)] * Cache.Shape.BlockSize) + (position % Cache.Shape.BlockSize);

        public float Query(int sequence, int position, int head, int j)
        {
            uint bits = Philox.Block(((uint)j, (uint)head, (uint)position, (uint)sequence), (4, 4)).X0;
            return ((bits * (1f / uint.MaxValue)) - 0.5f) * _queryScale;
        }

        public float Key(int sequence, int position, int kvHead, int j) => _exactKeys[Index(sequence, position, kvHead) + j];

        public float Value(int sequence, int position, int kvHead, int j) => _exactValues[Index(sequence, position, kvHead) + j];

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

        /// <summary>Chunks and what was before them are in the cache; all else is as it was. Tells the first byte that
        /// isn't. Afterwards the cache is what it should have been.</summary>
        public void CheckStored((int Sequence, int First, int Count)[] chunks)
        {
            byte[] keys = _keys.Span.ToArray(), values = _values.Span.ToArray();
            Store(chunks.Select(chunk => (chunk.Sequence, chunk.First + chunk.Count)));
            Assert.Equal(keys.Length, keys.AsSpan().CommonPrefixLength(_keys.Span));
            Assert.Equal(values.Length, values.AsSpan().CommonPrefixLength(_values.Span));
        }

        public void Dispose()
        {
            _keys.Dispose();
            _values.Dispose();
        }

        private int Index(int sequence, int position, int kvHead) => ((((sequence * Length) + position) * Shape.KvHeads) + kvHead) * Shape.HeadSize;

        /// <summary>A cache that has each sequence's first positions and is NaN elsewhere, in every type.</summary>
        private void Store(IEnumerable<(int Sequence, int Positions)> sequences)
        {
            _keys.Span.Fill(0xff);
            _values.Span.Fill(0xff);
            int blockSize = Cache.Shape.BlockSize, d = Shape.HeadSize;
            foreach ((int sequence, int positions) in sequences)
            {
                for (int p = 0; p < positions; p++)
                {
                    for (int h = 0; h < Shape.KvHeads; h++)
                    {
                        int slot = Slot(sequence, p), exact = Index(sequence, p, h);
                        long head = (((long)slot / blockSize * Shape.KvHeads) + h) * CpuKvLayer.HeadColumns(d, Cache.Keys.Type) * blockSize;
                        for (int j = 0; j < d; j++)
                        {
                            float scale = Scale(exact + (j / 32 * 32));
                            Write(Cache.Keys, head + ((long)j * blockSize) + (slot % blockSize), _exactKeys[exact + j], scale);
                            Write(Cache.Values, head + ((long)(slot % blockSize) * d) + j, _exactValues[exact + j], scale);
                            if (Cache.Keys.Type != DType.Q8_0) continue;
                            foreach (Tensor tensor in new[] { Cache.Keys, Cache.Values })
                                ((ushort*)(tensor.Address + (nint)head + ((nint)d * blockSize)))[(j / 32 * blockSize) + (slot % blockSize)] = (ushort)(BitConverter.SingleToUInt32Bits(scale) >> 16);
                        }
                    }
                }
            }
        }

        // Values that the cache's type holds exactly, by sequence, position, head and element.
        private float[] Random(uint key)
        {
            var values = new float[Sequences * Length * Shape.KvHeads * Shape.HeadSize];
            for (int i = 0; i < values.Length; i++)
            {
                float value = (Philox.Block(((uint)i, 0, 0, 0), (key, 0)).X0 * (2f / uint.MaxValue)) - 1;
                ulong stored = 0;
                var one = new Tensor((nint)(&stored), 1, 1, Cache.Keys.Type);
                // The first of each 32 bytes is the largest there can be, which makes their scale what it is.
                int within = i % Shape.HeadSize % 32;
                float scale = Scale(i - within);
                if (one.Type == DType.Q8_0) value = within == 0 ? MathF.CopySign(127 * scale, value) : MathF.Round(value * 127) * scale;
                Write(one, 0, value, scale);
                values[i] = one.Type switch
                {
                    DType.F32 => *(float*)&stored,
                    DType.F16 => (float)BitConverter.UInt16BitsToHalf((ushort)stored),
                    DType.Q8_0 => (sbyte)stored * scale,
                    _ => BitConverter.UInt32BitsToSingle((uint)stored << 16),
                };
            }
            return values;
        }

        // Of the 32 elements that begin there.
        private static float Scale(int index) => MathF.ScaleB(1, -7 - (index / 2 % 3));

        private static void Write(Tensor tensor, long element, float value, float scale)
        {
            if (tensor.Type == DType.F32) ((float*)tensor.Address)[element] = value;
            else if (tensor.Type == DType.Q8_0) ((sbyte*)tensor.Address)[element] = (sbyte)(value / scale);
            else Rope.ConvertScalar(&value, (ushort*)tensor.Address + element, tensor.Type, 1);
        }
    }

    private sealed class StepUnderTest : IDisposable
    {
        private readonly Layer _layer;
        private readonly CpuStep _step = new();
        private readonly NativeHeap _heap = new();
        private readonly WorkerPool _pool;
        private readonly PagedAttention _attention;
        private readonly StepRotations _rotations = new([], 1);
        private readonly GuardedMemory<float> _qkv, _y;
        private readonly int[] _ids, _positions, _slots, _starts, _lengths, _tables, _tableStarts;

        public StepUnderTest(Layer layer, (int Sequence, int First, int Count)[] chunks, int workers)
        {
            (_layer, Chunks) = (layer, chunks);
            _pool = new WorkerPool(workers);
            _attention = new PagedAttention(_pool, _heap);
            AttentionShape shape = layer.Shape;
            int rows = chunks.Sum(chunk => chunk.Count), columns = (shape.Heads + (2 * shape.KvHeads)) * shape.HeadSize, d = shape.HeadSize;
            (_ids, _positions, _slots) = (new int[rows], new int[rows], new int[rows]);
            _starts = new int[chunks.Length + 1];
            _lengths = [.. chunks.Select(chunk => chunk.First + chunk.Count)];
            _tables = new int[chunks.Length * layer.Stride];
            _tableStarts = [.. Enumerable.Range(0, chunks.Length + 1).Select(s => s * layer.Stride)];
            _qkv = new GuardedMemory<float>(rows * columns);
            _y = new GuardedMemory<float>(rows * shape.Heads * d);
            _rotations.Begin(rows);

            int row = 0;
            for (int s = 0; s < chunks.Length; s++)
            {
                (int sequence, int first, int count) = chunks[s];
                // Blocks that a sequence has no use for yet are none of its own.
                int blocks = (first + count + layer.Cache.Shape.BlockSize - 1) / layer.Cache.Shape.BlockSize;
                _tables.AsSpan(s * layer.Stride, layer.Stride).Fill(int.MinValue);
                layer.BlockTables.AsSpan(sequence * layer.Stride, blocks).CopyTo(_tables.AsSpan(s * layer.Stride));
                for (int i = 0; i < count; i++, row++)
                {
                    int position = _positions[row] = first + i;
                    _slots[row] = layer.Slot(sequence, position);
                    Span<float> projections = _qkv.Span.Slice(row * columns, columns);
                    for (int j = 0; j < d; j++)
                    {
                        for (int head = 0; head < shape.Heads; head++) projections[(head * d) + j] = layer.Query(sequence, position, head, j);
                        for (int head = 0; head < shape.KvHeads; head++)
                        {
                            projections[((shape.Heads + head) * d) + j] = layer.Key(sequence, position, head, j);
                            projections[((shape.Heads + shape.KvHeads + head) * d) + j] = layer.Value(sequence, position, head, j);
                        }
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
            BlockTableStarts = _tableStarts,
            SampleRows = [],
            Sampling = [],
        });

        public void RunOnce() => _attention.Run(_step, _rotations, Qkv, _layer.Shape, _layer.Cache, Y);

        public float[] Run()
        {
            _y.Span.Fill(float.NaN);
            RunOnce();
            return _y.Span.ToArray();
        }

        /// <summary>The same items one after the other, the last first.</summary>
        public float[] RunBackwards()
        {
            _y.Span.Fill(float.NaN);
            PagedAttention.Job job = Prepare();
            for (int item = job.Items - 1; item >= 0; item--) PagedAttention.Attend(&job, item, item + 1, item % _pool.Threads);
            return _y.Span.ToArray();
        }

        public float[] Attend(int width)
        {
            _y.Span.Fill(float.NaN);
            PagedAttention.Job job = Prepare();
            for (int item = 0; item < job.Items; item++)
            {
                if (width == 0) PagedAttention.AttendScalar(&job, item, 0);
                else if (width == 128) PagedAttention.Attend<Simd128, Vector128<float>>(&job, item, 0);
                else if (width == 256) PagedAttention.Attend<Simd256, Vector256<float>>(&job, item, 0);
                else PagedAttention.Attend<Simd512, Vector512<float>>(&job, item, 0);
            }
            return _y.Span.ToArray();
        }

        public void Dispose()
        {
            _pool.Dispose();
            _step.Dispose();
            _rotations.Dispose();
            _qkv.Dispose();
            _y.Dispose();
            _heap.Dispose();
        }

        private PagedAttention.Job Prepare()
        {
            PagedAttention.Job job = _attention.Prepare(_step, _rotations, Qkv, _layer.Shape, _layer.Cache, Y);
            if (!job.StoresInItems) PagedAttention.Store(&job, 0, job.Stores, 0);
            return job;
        }

        private Tensor Qkv => new((nint)_qkv.Pointer, _positions.Length, (_layer.Shape.Heads + (2 * _layer.Shape.KvHeads)) * _layer.Shape.HeadSize, DType.F32);

        private Tensor Y => new((nint)_y.Pointer, _positions.Length, _layer.Shape.Heads * _layer.Shape.HeadSize, DType.F32);
    }
}
