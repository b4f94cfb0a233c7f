using System.Numerics;
using System.Runtime.InteropServices;
using Native.Kernels.Cpu.Jit;
using Native.Kernels.Cpu.Machine;
using Native.Kernels.Cpu.Panels;
using Native.Kernels.Files;
using Native.Kernels.Models;
using Native.Kernels.Sampling;
using static Native.Kernels.OperandCheck;

namespace Native.Kernels.Cpu;

/// <summary>The operations on this machine's processors. Each runs in the caller and a pool of pinned workers, and has
/// ended when its call returns.</summary>
/// <remarks>No operation allocates once the largest step has been seen. One thread at a time may call.</remarks>
public sealed unsafe class CpuBackend : IBackend
{
    // A range of fewer elements, some microseconds of work, is not worth waking another worker.
    private const int GrainElements = 16 << 10;

    private readonly NativeHeap _heap = new();
    private readonly WorkerPool _pool;
    private readonly PanelFormat[] _formats;
    private readonly MatMul _matMul;
    private readonly PagedAttention _attention;
    private readonly CpuStep _step = new();
    private readonly List<StepRotations> _ropes = [];
    private readonly List<CpuKvLayer> _kvLayers = [];
    private readonly GCHandle _self;
    private readonly Sampler?[] _samplers;
    private int _samplersVocabulary;
    private int[] _sampleRows = [];
    private readonly CpuResults _results = new();
    private SamplingInputs* _inputs; // of the step being launched; null between launches
    private int[] _lastSampled = []; // by place
    private bool _inFlight;
    private bool _disposed;

    // Operands of the running operation. They are fields because a context pointer can't hold references.
    private Tensor _x, _w, _y;
    private CpuMatrix _table = null!;
    private float _number;
    private int _first;

    /// <summary>Starts the workers.</summary>
    /// <exception cref="ArgumentException">The options are wrong; the message lists every mistake.</exception>
    public CpuBackend(CpuOptions options)
    {
        IReadOnlyList<string> errors = options.Validate();
        if (errors.Count > 0) throw new ArgumentException(string.Join(" ", errors), nameof(options));
        CpuVariant variant = options.Chosen;
        _formats = MicroKernels.Formats(variant, options.FloatActivations);
        _pool = new WorkerPool(options.Threads == 0 ? Processors.PhysicalCores() : options.Threads);
        _matMul = new MatMul(_pool, _heap);
        _attention = new PagedAttention(_pool, _heap);
        _samplers = new Sampler?[_pool.Threads];
        _self = GCHandle.Alloc(this);
        string name = variant switch
        {
            CpuVariant.Scalar => "scalar",
            CpuVariant.AvxVnni => "AVX-VNNI",
            CpuVariant.Avx512 => "AVX-512",
            CpuVariant.Avx512Vnni => MachineCode.HasBFloat16 ? "AVX-512 VNNI BF16" : "AVX-512 VNNI",
            CpuVariant.Avx2 => "AVX2",
            _ => variant.ToString(),
        };
        string description =
            $"cpu ({name}{(options.FloatActivations ? ", float activations" : "")}, {_pool.Threads} "
            + $"thread{(_pool.Threads == 1 ? "" : "s")})";
        Info = new BackendInfo { Description = description };
    }

    /// <inheritdoc/>
    public BackendInfo Info { get; }

    /// <inheritdoc/>
    public long FreeBytes => HostMemory.Free();

    /// <summary>Parallel loops so far; each ends in a barrier.</summary>
    internal long Loops => _pool.Loops;

    /// <inheritdoc/>
    public Tensor Allocate(int rows, int columns, DType type)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        ArgumentOutOfRangeException.ThrowIfNegative(rows);
        ArgumentOutOfRangeException.ThrowIfNegative(columns);
        var tensor = new Tensor(0, rows, columns, type);
        return tensor with { Address = _heap.Allocate(tensor.ByteLength, zeroed: true) };
    }

    /// <inheritdoc/>
    public Tensor Upload(ReadOnlySpan<float> values)
    {
        Tensor tensor = Allocate(1, values.Length, DType.F32);
        values.CopyTo(new Span<float>((void*)tensor.Address, values.Length));
        return tensor;
    }

    /// <summary>Activations that meet quantized weights are rounded to eight bits; some keep sixteen.</summary>
    /// <remarks>Sixteen are kept where eight lose the most accuracy for the time they save: keys and values, the head,
    /// and the last layer's feed-forward, whose error no later layer dampens.</remarks>
    public Matrix Load(ReadOnlySpan<TensorView> parts, MatrixRole role)
    {
        ReadOnlySpan<bool> fine = role.Use switch
        {
            MatrixUse.Embedding or MatrixUse.Head or MatrixUse.EmbeddingAndHead => [true],
            MatrixUse.Qkv => [false, true, true],
            MatrixUse.GateUp => [role.LastLayer, role.LastLayer],
            MatrixUse.Down => [role.LastLayer],
            _ => [false],
        };
        return Load(parts, fine);
    }

    /// <summary>The same with the choice of precision spelled out, for tests and measurements.</summary>
    /// <param name="parts">As above.</param>
    /// <param name="fineActivations">For each part, whether activations keep sixteen bits. Empty means that none
    /// do.</param>
    internal CpuMatrix Load(ReadOnlySpan<TensorView> parts, ReadOnlySpan<bool> fineActivations = default)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        return CpuMatrix.Load(parts, fineActivations, _formats, _heap, _pool);
    }

    /// <inheritdoc/>
    public long KvBlockBytes(KvShape shape) => CpuKvLayer.BlockBytes(shape);

    /// <inheritdoc/>
    public KvLayer AllocateKv(KvShape shape, int blocks)
    {
        CheckCacheType(Info, shape.Type);
        int columns = CpuKvLayer.BlockColumns(shape);
        CpuKvLayer layer = new(shape, Allocate(blocks, columns, shape.Type), Allocate(blocks, columns, shape.Type));
        _kvLayers.Add(layer);
        return layer;
    }

    /// <inheritdoc/>
    public int AddRope(ReadOnlySpan<double> inverseFrequencies, float magnitude)
    {
        _ropes.Add(new StepRotations(inverseFrequencies, magnitude));
        return _ropes.Count - 1;
    }

    /// <summary>Computes the step before it returns.</summary>
    public void Launch(in Batch batch, IStepGraph graph)
    {
        if (_inFlight) throw new InvalidOperationException("a step is in flight; collect it first");
        Begin(batch);
        foreach (CpuKvLayer layer in _kvLayers)
            foreach (BlockCopy copy in batch.Copies)
                CopyBlock(layer, copy);
        _results.Begin(batch);
        int sequences = batch.ContextLengths.Length;
        fixed (RowSampling* rows = batch.Sampling)
        fixed (int* history = batch.History)
        fixed (TokenBias* biases = batch.Biases)
        fixed (uint* masks = batch.Masks)
        {
            SamplingInputs inputs = new()
            {
                Rows = rows,
                History = history,
                HistoryLength = batch.History.Length,
                Biases = biases,
                BiasesLength = batch.Biases.Length,
                Masks = masks,
                MasksLength = batch.Masks.Length,
            };
            _inputs = &inputs;
            try
            {
                bool decodesOnly = batch.DecodeCount == sequences;
                graph.Enqueue(new StepShape(_step.Tokens, sequences, batch.SampleRows.Length, batch.HiddenRows.Length,
                    decodesOnly));
            }
            finally
            {
                _inputs = null;
            }
        }
        NoteLastSampled(batch);
        _inFlight = true;
    }

    /// <inheritdoc/>
    public void Collect(Span<SampledToken> sampled, Span<TokenLogprob> alternatives, Span<float> hidden = default)
    {
        if (!_inFlight) throw new InvalidOperationException("no step is in flight");
        _inFlight = false; // also where the spans are too short: a step can't be collected twice
        _results.CopyTo(sampled, alternatives, hidden);
    }

    /// <summary>Copies a step's ids, positions and block tables for the operations that follow.</summary>
    internal void Begin(in Batch batch)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        _step.Load(batch);
        for (int s = 0; s < batch.DecodeCount; s++)
        {
            if (_step.TokenIds[s] != Batch.LastSampled) continue;
            // A place that sampled nothing, or NaN, computes token 0. Its owner discards the result.
            int place = batch.Places[s];
            _step.TokenIds[s] = place < _lastSampled.Length ? Math.Max(_lastSampled[place], 0) : 0;
        }
        if (_sampleRows.Length < batch.SampleRows.Length) _sampleRows = new int[batch.SampleRows.Length];
        batch.SampleRows.CopyTo(_sampleRows);
        foreach (StepRotations rope in _ropes) rope.Begin(_step.Tokens);
        For(_step.Tokens, 8, &ComputeRopes);

        static void ComputeRopes(void* self, int first, int last, int worker)
        {
            CpuBackend b = Self(self);
            foreach (StepRotations rope in b._ropes) rope.Compute(b._step, first, last);
        }
    }

    /// <summary>Remembers, by place, what each sequence's last row sampled.</summary>
    private void NoteLastSampled(in Batch batch)
    {
        int row = 0;
        for (int s = 0; s < batch.Places.Length; s++)
        {
            int last = batch.QueryStarts[s + 1] - 1;
            while (row < batch.SampleRows.Length && batch.SampleRows[row] < last) row++;
            if (row == batch.SampleRows.Length) break;
            if (batch.SampleRows[row] != last || batch.Sampling[row].Scores) continue;
            int place = batch.Places[s];
            if (place >= _lastSampled.Length)
                Array.Resize(ref _lastSampled, (int)BitOperations.RoundUpToPowerOf2((uint)place + 1));
            _lastSampled[place] = _results.Sampled(row).Token;
        }
    }

    /// <inheritdoc/>
    public void Embed(Matrix table, float scale, Tensor x)
    {
        CpuMatrix matrix = Own(table);
        CheckFloats(x, _step.Tokens, table.Columns, nameof(x));
        for (int t = 0; t < x.Rows; t++)
            if ((uint)_step.TokenIds[t] >= (uint)table.Rows)
                throw new ArgumentException($"token {_step.TokenIds[t]} is not in a table of {table.Rows}",
                    nameof(table));
        (_table, _number, _x) = (matrix, scale, x);
        For(x.Rows, RowGrain(x.Columns), &EmbedRows);

        static void EmbedRows(void* self, int first, int last, int worker)
        {
            CpuBackend b = Self(self);
            for (int t = first; t < last; t++)
            {
                float* row = (float*)b._x.Address + (long)t * b._x.Columns;
                b._table.DecodeRow(b._step.TokenIds[t], row);
                if (b._number == 1) continue;
                for (int i = 0; i < b._x.Columns; i++) row[i] *= b._number;
            }
        }
    }

    /// <inheritdoc/>
    public void RmsNorm(Tensor x, Tensor weight, float epsilon, Tensor y)
    {
        CheckFloats(x, y.Rows, y.Columns, nameof(x));
        CheckFloats(y, x.Rows, x.Columns, nameof(y));
        CheckFloats(weight, 1, x.Columns, nameof(weight));
        (_x, _w, _number, _y) = (x, weight, epsilon, y);
        For(x.Rows, RowGrain(x.Columns), &Rows);

        static void Rows(void* self, int first, int last, int worker)
        {
            CpuBackend b = Self(self);
            Elementwise.RmsNorm(b._x, b._w, b._number, b._y, first, last);
        }
    }

    /// <inheritdoc/>
    public void MatMul(Tensor x, Matrix w, Tensor bias, Tensor y, RowNorm norm = default)
    {
        CheckProduct(x, w, bias, y, w.Rows, norm);
        _matMul.Run(x, norm, Own(w), bias, y, Epilogue.Store, default);
    }

    /// <inheritdoc/>
    public void MatMulAdd(Tensor x, Matrix w, Tensor bias, Tensor y)
    {
        CheckProduct(x, w, bias, y, w.Rows, default);
        _matMul.Run(x, default, Own(w), bias, y, Epilogue.Add, default);
    }

    /// <inheritdoc/>
    public void MatMulGate(Tensor x, Matrix w, Tensor bias, Activation activation, Tensor y, RowNorm norm = default)
    {
        CpuMatrix matrix = Own(w);
        CheckProduct(x, w, bias, y, w.Rows / 2, norm);
        if (!(matrix.SegmentCount == 1 && matrix.Segments[0].Paired)
            && !(matrix.SegmentCount == 2 && matrix.Segments[0].Rows == matrix.Segments[1].Rows))
            throw new ArgumentException(
                $"the matrix of {w.Rows} rows is not two parts of equal height: gate, up", nameof(w));
        _matMul.Run(x, norm, matrix, bias, y, Epilogue.Gate, activation);
    }

    /// <inheritdoc/>
    public void Attend(Tensor qkv, AttentionShape shape, KvLayer cache, Tensor y)
    {
        CpuKvLayer layer = cache as CpuKvLayer
            ?? throw new ArgumentException("the cache is another backend's", nameof(cache));
        CheckAttention(qkv, _step.Tokens, shape, layer.Shape,
            (uint)shape.Rope < (uint)_ropes.Count ? _ropes[shape.Rope].Pairs : -1);
        CheckFloats(y, _step.Tokens, shape.Heads * shape.HeadSize, nameof(y));
        _attention.Run(_step, _ropes[shape.Rope], qkv, shape, layer, y);
    }

    /// <inheritdoc/>
    public void Add(Tensor x, Tensor delta)
    {
        CheckFloats(x, delta.Rows, delta.Columns, nameof(x));
        CheckFloats(delta, x.Rows, x.Columns, nameof(delta));
        (_x, _y) = (x, delta);
        For(x.Rows, RowGrain(x.Columns), &Rows);

        static void Rows(void* self, int first, int last, int worker)
        {
            CpuBackend b = Self(self);
            Elementwise.Add(b._x, b._y, first, last);
        }
    }

    /// <inheritdoc/>
    public void Gather(Tensor x, int first, Tensor y)
    {
        CheckFloats(x, _step.Tokens, y.Columns, nameof(x));
        CheckFloats(y, y.Rows, x.Columns, nameof(y));
        if (first < 0 || (long)first + y.Rows > _sampleRows.Length)
            throw new ArgumentOutOfRangeException(nameof(first), first,
                $"{y.Rows} rows from there, of {_sampleRows.Length}");
        long bytes = (long)x.Columns * sizeof(float);
        for (int i = 0; i < y.Rows; i++)
            Buffer.MemoryCopy((byte*)x.Address + _sampleRows[first + i] * bytes, (byte*)y.Address + i * bytes,
                bytes, bytes);
    }

    /// <inheritdoc/>
    public void SoftCap(Tensor x, float cap)
    {
        CheckFloats(x, x.Rows, x.Columns, nameof(x));
        (_x, _number) = (x, cap);
        For(x.Rows, RowGrain(4 * x.Columns), &Rows);

        static void Rows(void* self, int first, int last, int worker)
        {
            CpuBackend b = Self(self);
            Elementwise.SoftCap(b._x, b._number, first, last);
        }
    }

    /// <inheritdoc/>
    public void Sample(Tensor logits, int first)
    {
        CheckFloats(logits, logits.Rows, logits.Columns, nameof(logits));
        if (_inputs is null) throw new InvalidOperationException("rows are sampled within a launch");
        if (first < 0 || (long)first + logits.Rows > _results.Rows)
            throw new ArgumentOutOfRangeException(nameof(first), first,
                $"{logits.Rows} rows from there, of {_results.Rows}");
        if (logits.Columns != _samplersVocabulary)
        {
            for (int i = 0; i < _samplers.Length; i++) _samplers[i] = new Sampler(logits.Columns);
            _samplersVocabulary = logits.Columns;
        }
        (_x, _first) = (logits, first);
        For(logits.Rows, 1, &Rows);

        static void Rows(void* self, int first, int last, int worker)
        {
            CpuBackend b = Self(self);
            SamplingInputs* inputs = b._inputs;
            for (int i = first; i < last; i++)
            {
                int row = b._first + i;
                b._results.Sampled(row) = b._samplers[worker]!.Sample(
                    new ReadOnlySpan<float>((float*)b._x.Address + ((long)i * b._x.Columns), b._x.Columns),
                    inputs->Rows[row],
                    new ReadOnlySpan<int>(inputs->History, inputs->HistoryLength),
                    new ReadOnlySpan<TokenBias>(inputs->Biases, inputs->BiasesLength),
                    b._results.Alternatives,
                    new ReadOnlySpan<uint>(inputs->Masks, inputs->MasksLength));
            }
        }
    }

    /// <inheritdoc/>
    public void Hidden(Tensor x, RowNorm norm)
    {
        CheckFloats(x, _step.Tokens, x.Columns, nameof(x));
        CheckFloats(norm.Weight, 1, x.Columns, nameof(norm));
        Tensor rows = _results.Hidden(x.Columns);
        for (int i = 0; i < rows.Rows; i++)
        {
            Tensor row = new(x.Address + ((nint)_results.HiddenRow(i) * x.Columns * sizeof(float)), 1,
                x.Columns, DType.F32);
            Tensor y = new(rows.Address + ((nint)i * x.Columns * sizeof(float)), 1, x.Columns, DType.F32);
            Elementwise.RmsNorm(row, norm.Weight, norm.Epsilon, y, 0, 1);
        }
    }

    /// <inheritdoc/>
    public void Read(Tensor x, Span<float> values)
    {
        CheckFloats(x, x.Rows, x.Columns, nameof(x));
        new ReadOnlySpan<float>((float*)x.Address, checked(x.Rows * x.Columns)).CopyTo(values);
    }

    private static void CopyBlock(CpuKvLayer layer, BlockCopy copy)
    {
        Copy(layer.Keys, copy);
        Copy(layer.Values, copy);

        static void Copy(Tensor blocks, BlockCopy copy)
        {
            ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)copy.Source, (uint)blocks.Rows, nameof(copy));
            ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(
                (uint)copy.Destination, (uint)blocks.Rows, nameof(copy));
            long bytes = (long)blocks.Columns * blocks.ElementSize;
            Buffer.MemoryCopy((byte*)blocks.Address + (copy.Source * bytes),
                (byte*)blocks.Address + (copy.Destination * bytes), bytes, bytes);
        }
    }

    /// <summary>Ends the workers and frees all memory. Tensors and matrices of this backend are invalid
    /// afterwards.</summary>
    public void Dispose()
    {
        if (_disposed) return;
        _disposed = true;
        _pool.Dispose();
        foreach (StepRotations rope in _ropes) rope.Dispose();
        _step.Dispose();
        _results.Dispose();
        _heap.Dispose();
        _self.Free();
    }

    private void For(int count, int grain, delegate*<void*, int, int, int, void> body) =>
        _pool.For(count, grain, body, (void*)GCHandle.ToIntPtr(_self));

    private static CpuBackend Self(void* handle) => (CpuBackend)GCHandle.FromIntPtr((nint)handle).Target!;

    private static int RowGrain(int columns) => Math.Max(1, GrainElements / Math.Max(1, columns));

    private static CpuMatrix Own(Matrix matrix) =>
        matrix as CpuMatrix ?? throw new ArgumentException("the matrix is another backend's", nameof(matrix));

    /// <summary>Where the step's sampling parameters lie while it is launched.</summary>
    private struct SamplingInputs
    {
        public RowSampling* Rows;
        public int* History;
        public int HistoryLength;
        public TokenBias* Biases;
        public int BiasesLength;
        public uint* Masks;
        public int MasksLength;
    }
}
