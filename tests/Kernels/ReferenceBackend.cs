using System.Runtime.InteropServices;
using Native.Kernels;
using Native.Kernels.Files;
using Native.Kernels.Sampling;

namespace Native.Tests.Kernels;

/// <summary>Every operation as its textbook loop in double precision: what the graph means, slow and plain. Greedy and
/// scoring only.</summary>
internal sealed unsafe class ReferenceBackend : IBackend
{
    private readonly List<nint> _owned = [];
    private readonly List<(double[] Frequencies, double Magnitude)> _ropes = [];
    private int[] _ids = [], _positions = [], _slots = [], _starts = [], _contexts = [], _tables = [];
    private int[] _tableStarts = [], _rows = [];
    private readonly List<Paged> _layers = [];
    private RowSampling[] _sampling = [];
    private SampledToken[] _sampled = [];
    private TokenLogprob[] _alternatives = [];
    private int[] _hiddenRows = [];
    private float[] _hidden = [];
    private int[] _lastSampled = [];
    private bool _inFlight;

    private sealed class Decoded(int rows, int columns, float[] values) : Matrix(rows, columns, 4L * rows * columns)
    {
        public float[] Values { get; } = values;
    }

    /// <summary>Keys and values as the CPU's textbook layout: shape [blocks, Hkv * blockSize * columns] each.</summary>
    private sealed class Paged(KvShape shape, Tensor keys, Tensor values) : KvLayer(shape, keys.Rows, keys.ByteLength + values.ByteLength)
    {
        public Tensor Keys { get; } = keys;

        public Tensor Values { get; } = values;

        public int BlockSize => Shape.BlockSize;
    }

    public BackendInfo Info { get; init; } = new() { Description = "reference" };

    public long FreeBytes => 4L << 30;

    public Tensor Allocate(int rows, int columns, DType type)
    {
        var tensor = new Tensor(0, rows, columns, type);
        nint address = (nint)NativeMemory.AllocZeroed((nuint)Math.Max(tensor.ByteLength, 1));
        _owned.Add(address);
        return tensor with { Address = address };
    }

    public Tensor Upload(ReadOnlySpan<float> values)
    {
        Tensor tensor = Allocate(1, values.Length, DType.F32);
        values.CopyTo(new Span<float>((void*)tensor.Address, values.Length));
        return tensor;
    }

    public Matrix Load(ReadOnlySpan<TensorView> parts, MatrixRole role)
    {
        int columns = (int)parts[0].Columns, rows = 0;
        foreach (TensorView part in parts) rows += (int)part.Rows;
        float[] values = new float[rows * columns];
        int at = 0;
        foreach (TensorView part in parts)
            for (int r = 0; r < part.Rows; r++, at += columns) part.DecodeRow(r, values.AsSpan(at, columns));
        return new Decoded(rows, columns, values);
    }

    public int AddRope(ReadOnlySpan<double> inverseFrequencies, float magnitude)
    {
        _ropes.Add((inverseFrequencies.ToArray(), magnitude));
        return _ropes.Count - 1;
    }

    public long KvBlockBytes(KvShape shape) => 2L * Columns(shape) * Tensor.SizeOf(shape.Type);

    public KvLayer AllocateKv(KvShape shape, int blocks)
    {
        OperandCheck.CheckCacheType(Info, shape.Type);
        Paged layer = new(shape, Allocate(blocks, Columns(shape), shape.Type), Allocate(blocks, Columns(shape), shape.Type));
        _layers.Add(layer);
        return layer;
    }

    public void Launch(in Batch batch, IStepGraph graph)
    {
        if (_inFlight) throw new InvalidOperationException("a step is in flight");
        Begin(batch);
        foreach (Paged layer in _layers)
            foreach (BlockCopy copy in batch.Copies)
                CopyBlock(layer, copy);
        graph.Enqueue(new StepShape(
            batch.TokenIds.Length, batch.ContextLengths.Length, _rows.Length, _hiddenRows.Length, batch.DecodeCount == batch.ContextLengths.Length));
        for (int r = 0; r < _rows.Length; r++)
        {
            int s = Array.IndexOf(_starts, _rows[r] + 1) - 1;
            if (s < 0 || batch.Places.IsEmpty || _sampling[r].Scores) continue;
            if (batch.Places[s] >= _lastSampled.Length) Array.Resize(ref _lastSampled, batch.Places[s] + 1);
            _lastSampled[batch.Places[s]] = _sampled[r].Token;
        }
        _inFlight = true;
    }

    public void Collect(Span<SampledToken> sampled, Span<TokenLogprob> alternatives, Span<float> hidden = default)
    {
        if (!_inFlight) throw new InvalidOperationException("no step is in flight");
        _inFlight = false;
        _sampled.CopyTo(sampled);
        _alternatives.CopyTo(alternatives);
        _hidden.CopyTo(hidden);
    }

    private void Begin(in Batch batch)
    {
        _sampling = batch.Sampling.ToArray();
        _sampled = new SampledToken[batch.SampleRows.Length];
        _alternatives = new TokenLogprob[batch.AlternativeCount];
        _hiddenRows = batch.HiddenRows.ToArray();
        _hidden = [];
        _ids = batch.TokenIds.ToArray();
        for (int s = 0; s < batch.DecodeCount; s++)
            if (_ids[s] == Batch.LastSampled) _ids[s] = _lastSampled[batch.Places[s]];
        _positions = batch.Positions.ToArray();
        _slots = batch.SlotMapping.ToArray();
        _starts = batch.QueryStarts.ToArray();
        _contexts = batch.ContextLengths.ToArray();
        _tables = batch.BlockTables.ToArray();
        _rows = batch.SampleRows.ToArray();
        _tableStarts = batch.BlockTableStarts.ToArray();
    }

    public void Embed(Matrix table, float scale, Tensor x)
    {
        float[] values = ((Decoded)table).Values;
        for (int t = 0; t < x.Rows; t++)
            for (int i = 0; i < x.Columns; i++) Row(x, t)[i] = values[_ids[t] * x.Columns + i] * scale;
    }

    public void RmsNorm(Tensor x, Tensor weight, float epsilon, Tensor y)
    {
        for (int t = 0; t < x.Rows; t++) Normalize(Row(x, t), Row(weight, 0), x.Columns, epsilon, Row(y, t));
    }

    public void MatMul(Tensor x, Matrix w, Tensor bias, Tensor y, RowNorm norm = default)
    {
        float[] values = ((Decoded)w).Values;
        if (!norm.Weight.IsEmpty)
        {
            Tensor normalized = Allocate(x.Rows, x.Columns, DType.F32);
            RmsNorm(x, norm.Weight, norm.Epsilon, normalized);
            x = normalized;
        }
        for (int t = 0; t < x.Rows; t++)
        {
            for (int r = 0; r < w.Rows; r++)
            {
                double sum = bias.IsEmpty ? 0 : Row(bias, 0)[r];
                for (int i = 0; i < w.Columns; i++) sum += (double)values[(long)r * w.Columns + i] * Row(x, t)[i];
                Row(y, t)[r] = (float)sum;
            }
        }
    }

    private void RotateAndStore(Tensor qkv, AttentionShape shape, Paged cache)
    {
        (double[] frequencies, double magnitude) = _ropes[shape.Rope];
        int d = shape.HeadSize, n = frequencies.Length;
        for (int t = 0; t < qkv.Rows; t++)
        {
            for (int head = 0; head < shape.Heads + shape.KvHeads; head++)
            {
                float* x = Row(qkv, t) + head * d;
                Tensor norm = head < shape.Heads ? shape.QueryNorm : shape.KeyNorm;
                if (!norm.IsEmpty) Normalize(x, Row(norm, 0), d, shape.NormEpsilon, x);
                for (int i = 0; i < n; i++)
                {
                    (int a, int b) = shape.Pairing == RopePairing.HalfSplit ? (i, i + n) : (2 * i, 2 * i + 1);
                    double angle = _positions[t] * frequencies[i], cos = Math.Cos(angle) * magnitude, sin = Math.Sin(angle) * magnitude;
                    (x[a], x[b]) = ((float)(x[a] * cos - x[b] * sin), (float)(x[b] * cos + x[a] * sin));
                }
            }
            for (int head = 0; head < shape.KvHeads; head++)
            {
                float* key = Row(qkv, t) + (shape.Heads + head) * d;
                float* value = key + shape.KvHeads * d;
                StoreHead(cache, cache.Keys, shape, _slots[t], head, key, KeyIndex);
                StoreHead(cache, cache.Values, shape, _slots[t], head, value, ValueIndex);
            }
        }
    }

    public void Attend(Tensor qkv, AttentionShape shape, KvLayer layer, Tensor y)
    {
        var cache = (Paged)layer;
        RotateAndStore(qkv, shape, cache);
        int d = shape.HeadSize;
        for (int s = 0; s < _contexts.Length; s++)
        {
            for (int t = _starts[s]; t < _starts[s + 1]; t++)
            {
                int position = _positions[t], from = shape.Window > 0 ? Math.Max(0, position - shape.Window + 1) : 0;
                for (int head = 0; head < shape.Heads; head++)
                {
                    float* q = Row(qkv, t) + head * d;
                    int kv = head / (shape.Heads / shape.KvHeads);
                    int Slot(int p) =>
                        _tables[_tableStarts[s] + p / cache.BlockSize] * cache.BlockSize + p % cache.BlockSize;
                    double[] weights = new double[position + 1 - from];
                    for (int p = from; p <= position; p++)
                    {
                        double dot = 0;
                        for (int i = 0; i < d; i++) dot += (double)q[i] * Load(cache.Keys, KeyIndex(cache, shape, Slot(p), kv, i)) * Scale(cache, cache.Keys, shape, Slot(p), kv, i);
                        dot *= shape.Scale;
                        weights[p - from] = shape.SoftCap > 0 ? shape.SoftCap * Math.Tanh(dot / shape.SoftCap) : dot;
                    }
                    double max = weights.Max(), sum = 0;
                    for (int i = 0; i < weights.Length; i++) sum += weights[i] = Math.Exp(weights[i] - max);
                    for (int i = 0; i < d; i++)
                    {
                        double value = 0;
                        for (int p = from; p <= position; p++) value += weights[p - from] / sum * Load(cache.Values, ValueIndex(cache, shape, Slot(p), kv, i)) * Scale(cache, cache.Values, shape, Slot(p), kv, i);
                        Row(y, t)[head * d + i] = (float)value;
                    }
                }
            }
        }
    }

    public void MatMulAdd(Tensor x, Matrix w, Tensor bias, Tensor y)
    {
        Tensor delta = Allocate(y.Rows, y.Columns, DType.F32);
        MatMul(x, w, bias, delta);
        Add(y, delta);
    }

    public void MatMulGate(Tensor x, Matrix w, Tensor bias, Activation activation, Tensor y, RowNorm norm = default)
    {
        Tensor gateUp = Allocate(x.Rows, w.Rows, DType.F32);
        MatMul(x, w, bias, gateUp, norm);
        for (int t = 0; t < y.Rows; t++)
        {
            for (int i = 0; i < y.Columns; i++)
            {
                double g = Row(gateUp, t)[i];
                double a = activation == Activation.Silu ? g / (1 + Math.Exp(-g)) : 0.5 * g * (1 + Math.Tanh(Math.Sqrt(2 / Math.PI) * (g + 0.044715 * g * g * g)));
                Row(y, t)[i] = (float)(a * Row(gateUp, t)[y.Columns + i]);
            }
        }
    }

    public void Add(Tensor x, Tensor delta)
    {
        for (long i = 0; i < (long)x.Rows * x.Columns; i++) ((float*)x.Address)[i] += ((float*)delta.Address)[i];
    }

    public void Gather(Tensor x, int first, Tensor y)
    {
        for (int i = 0; i < y.Rows; i++) new Span<float>(Row(x, _rows[first + i]), x.Columns).CopyTo(new Span<float>(Row(y, i), y.Columns));
    }

    public void SoftCap(Tensor x, float cap)
    {
        for (long i = 0; i < (long)x.Rows * x.Columns; i++) ((float*)x.Address)[i] = (float)(cap * Math.Tanh(((float*)x.Address)[i] / cap));
    }

    public void Hidden(Tensor x, RowNorm norm)
    {
        _hidden = new float[_hiddenRows.Length * x.Columns];
        for (int i = 0; i < _hiddenRows.Length; i++)
            fixed (float* y = &_hidden[i * x.Columns]) Normalize(Row(x, _hiddenRows[i]), Row(norm.Weight, 0), x.Columns, norm.Epsilon, y);
    }

    public void Sample(Tensor logits, int first)
    {
        for (int row = 0; row < logits.Rows; row++)
        {
            RowSampling sampling = _sampling[first + row];
            float[] x = new Span<float>(Row(logits, row), logits.Columns).ToArray();
            double max = x.Max(), sum = 0;
            foreach (float l in x) sum += Math.Exp(l - max);
            float Logprob(int id) => (float)(x[id] - max - Math.Log(sum));
            int[] best = [.. Enumerable.Range(0, x.Length).OrderByDescending(id => x[id]).ThenBy(id => id).Take(Math.Max(1, sampling.Alternatives))];
            int token = sampling.Scores ? sampling.Target : best[0];
            _sampled[first + row] = new SampledToken(token, Logprob(token));
            for (int i = 0; i < sampling.Alternatives; i++) _alternatives[sampling.AlternativesStart + i] = new TokenLogprob(best[i], Logprob(best[i]));
        }
    }

    public void Read(Tensor x, Span<float> values) => new Span<float>(Row(x, 0), x.Rows * x.Columns).CopyTo(values);

    private static int Columns(KvShape shape) =>
        shape.KvHeads * shape.BlockSize * (shape.Type == DType.Q8_0 ? shape.HeadSize + ((shape.HeadSize + 31) / 32 * 2) : shape.HeadSize);

    private static void CopyBlock(Paged cache, BlockCopy copy)
    {
        foreach (Tensor t in (Tensor[])[cache.Keys, cache.Values])
        {
            long bytes = (long)t.Columns * t.ElementSize;
            Buffer.MemoryCopy((byte*)t.Address + copy.Source * bytes, (byte*)t.Address + copy.Destination * bytes, bytes, bytes);
        }
    }

    public void Dispose()
    {
        foreach (nint address in _owned) NativeMemory.Free((void*)address);
        _owned.Clear();
    }

    private static float* Row(Tensor x, int row) => (float*)x.Address + (long)row * x.Columns;

    private static void Normalize(float* x, float* weight, int n, float epsilon, float* y)
    {
        double squares = 0;
        for (int i = 0; i < n; i++) squares += (double)x[i] * x[i];
        double scale = 1 / Math.Sqrt(squares / n + epsilon);
        for (int i = 0; i < n; i++) y[i] = (float)(x[i] * scale * weight[i]);
    }

    /// <summary>Where element i of a slot's key of one head is: blocks are [Hkv, d, blockSize].</summary>
    private static long KeyIndex(Paged cache, AttentionShape shape, int slot, int head, int i) =>
        HeadIndex(cache, shape, slot, head) + (long)i * cache.BlockSize + slot % cache.BlockSize;

    /// <summary>Likewise of its value: blocks are [Hkv, blockSize, d].</summary>
    private static long ValueIndex(Paged cache, AttentionShape shape, int slot, int head, int i) =>
        HeadIndex(cache, shape, slot, head) + (long)(slot % cache.BlockSize) * shape.HeadSize + i;

    private static long HeadIndex(Paged cache, AttentionShape shape, int slot, int head)
    {
        int columns = cache.Keys.Type == DType.Q8_0 ? shape.HeadSize + (shape.HeadSize + 31) / 32 * 2 : shape.HeadSize;
        return ((long)(slot / cache.BlockSize) * shape.KvHeads + head) * columns * cache.BlockSize;
    }

    private static ushort* ScaleAddress(Paged cache, Tensor t, AttentionShape shape, int slot, int head, int i) =>
        (ushort*)((byte*)t.Address + HeadIndex(cache, shape, slot, head) + (long)shape.HeadSize * cache.BlockSize) + i / 32 * cache.BlockSize + slot % cache.BlockSize;

    private static double Scale(Paged cache, Tensor t, AttentionShape shape, int slot, int head, int i) =>
        t.Type == DType.Q8_0 ? BitConverter.UInt32BitsToSingle((uint)*ScaleAddress(cache, t, shape, slot, head, i) << 16) : 1;

    private delegate long ElementIndex(Paged cache, AttentionShape shape, int slot, int head, int i);

    private static void StoreHead(Paged cache, Tensor t, AttentionShape shape, int slot, int head, float* x, ElementIndex index)
    {
        for (int i = 0; i < shape.HeadSize; i++)
        {
            if (t.Type == DType.Q8_0 && i % 32 == 0)
            {
                float largest = 0;
                for (int j = i; j < Math.Min(i + 32, shape.HeadSize); j++) largest = Math.Max(largest, Math.Abs(x[j]));
                // The next bfloat16 that is no smaller.
                *ScaleAddress(cache, t, shape, slot, head, i) = (ushort)(BitConverter.SingleToUInt32Bits(largest / 127) + 0xFFFF >> 16);
            }
            double scale = Scale(cache, t, shape, slot, head, i);
            Store(t, index(cache, shape, slot, head, i), scale == 0 ? 0 : (float)(x[i] / scale));
        }
    }

    private static double Load(Tensor t, long i) => t.Type switch
    {
        DType.F32 => ((float*)t.Address)[i],
        DType.F16 => (double)((Half*)t.Address)[i],
        DType.Q8_0 => ((sbyte*)t.Address)[i],
        _ => BitConverter.UInt32BitsToSingle((uint)((ushort*)t.Address)[i] << 16),
    };

    private static void Store(Tensor t, long i, float value)
    {
        if (t.Type == DType.F32) ((float*)t.Address)[i] = value;
        else if (t.Type == DType.Q8_0) ((sbyte*)t.Address)[i] = (sbyte)Math.Round(value);
        else if (t.Type == DType.F16) ((Half*)t.Address)[i] = (Half)value;
        else
        {
            uint bits = BitConverter.SingleToUInt32Bits(value);
            ((ushort*)t.Address)[i] = (ushort)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
        }
    }
}
