using System.Runtime.InteropServices;
using Native.Kernels.Files;
using Native.Kernels.Models;
using Native.Kernels.Sampling;

namespace Native.Kernels.Cpu;

/// <summary>The operations on this machine's processors: every one runs in the caller and a pool of pinned workers, and has ended when its call returns.</summary>
/// <remarks>Once warm (the largest step has been seen) no operation allocates. One thread at a time may call.</remarks>
public sealed unsafe class CpuBackend : IBackend
{
    // Elements below which a range is not worth another worker's wake: some microseconds of work.
    private const int GrainElements = 16 << 10;

    private readonly NativeHeap _heap = new();
    private readonly WorkerPool _pool;
    private readonly PanelFormat[] _formats;
    private readonly MatMul _matMul;
    private readonly PagedAttention _attention;
    private readonly CpuStep _step = new();
    private readonly List<StepRotations> _ropes = [];
    private readonly GCHandle _self;
    private readonly Sampler?[] _samplers;
    private int _samplersVocabulary;
    private int[] _sampleRows = [];
    private bool _disposed;

    // Operands of the operation at hand, for the workers: a context pointer can't hold references.
    private Tensor _x, _w, _y;
    private CpuMatrix _table = null!;
    private float _number;

    /// <summary>Starts the workers.</summary>
    /// <exception cref="ArgumentException">The options are wrong; the message tells everything that is.</exception>
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
        Description = $"cpu ({name}{(options.FloatActivations ? ", float activations" : "")}, {_pool.Threads} thread{(_pool.Threads == 1 ? "" : "s")})";
    }

    /// <inheritdoc/>
    public string Description { get; }

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

    /// <inheritdoc/>
    public Matrix Load(ReadOnlySpan<TensorView> parts, ReadOnlySpan<bool> fineActivations = default)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        return CpuMatrix.Load(parts, fineActivations, _formats, _heap, _pool);
    }

    /// <inheritdoc/>
    public int AddRope(ReadOnlySpan<double> inverseFrequencies, float magnitude)
    {
        _ropes.Add(new StepRotations(inverseFrequencies, magnitude));
        return _ropes.Count - 1;
    }

    /// <inheritdoc/>
    public void Begin(in Batch batch)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        _step.Load(batch);
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

    /// <inheritdoc/>
    public void Embed(Matrix table, float scale, Tensor x)
    {
        CpuMatrix matrix = Own(table);
        CheckFloats(x, _step.Tokens, table.Columns, nameof(x));
        for (int t = 0; t < x.Rows; t++)
            if ((uint)_step.TokenIds[t] >= (uint)table.Rows) throw new ArgumentException($"token {_step.TokenIds[t]} is not in a table of {table.Rows}", nameof(table));
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
        if (!(matrix.SegmentCount == 1 && matrix.Segments[0].Paired) && !(matrix.SegmentCount == 2 && matrix.Segments[0].Rows == matrix.Segments[1].Rows))
            throw new ArgumentException($"the matrix of {w.Rows} rows is not two parts of equal height: gate, up", nameof(w));
        _matMul.Run(x, norm, matrix, bias, y, Epilogue.Gate, activation);
    }

    /// <inheritdoc/>
    public void Attend(Tensor qkv, AttentionShape shape, KvLayer cache, Tensor y)
    {
        CheckAttention(qkv, shape, cache);
        CheckFloats(y, _step.Tokens, shape.Heads * shape.HeadSize, nameof(y));
        _attention.Run(_step, _ropes[shape.Rope], qkv, shape, cache, y);
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
        if (first < 0 || (long)first + y.Rows > _sampleRows.Length) throw new ArgumentOutOfRangeException(nameof(first), first, $"{y.Rows} rows from there, of {_sampleRows.Length}");
        long bytes = (long)x.Columns * sizeof(float);
        for (int i = 0; i < y.Rows; i++)
            Buffer.MemoryCopy((byte*)x.Address + _sampleRows[first + i] * bytes, (byte*)y.Address + i * bytes, bytes, bytes);
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
    public void Sample(Tensor logits, int first, in Batch batch, Span<SampledToken> sampled, Span<TokenLogprob> alternatives)
    {
        CheckFloats(logits, logits.Rows, logits.Columns, nameof(logits));
        if (first < 0 || (long)first + logits.Rows > Math.Min(batch.Sampling.Length, sampled.Length))
            throw new ArgumentOutOfRangeException(nameof(first), first, $"{logits.Rows} rows from there, of {batch.Sampling.Length} with places for {sampled.Length}");
        if (logits.Columns != _samplersVocabulary)
        {
            for (int i = 0; i < _samplers.Length; i++) _samplers[i] = new Sampler(logits.Columns);
            _samplersVocabulary = logits.Columns;
        }
        fixed (RowSampling* sampling = batch.Sampling)
        fixed (int* history = batch.History)
        fixed (TokenBias* biases = batch.Biases)
        fixed (SampledToken* tokens = sampled)
        fixed (TokenLogprob* best = alternatives)
        {
            Sampling job = new()
            {
                Self = (void*)GCHandle.ToIntPtr(_self),
                Logits = logits,
                Rows = sampling + first,
                History = history,
                HistoryLength = batch.History.Length,
                Biases = biases,
                BiasesLength = batch.Biases.Length,
                Sampled = tokens + first,
                Alternatives = best,
                AlternativesLength = alternatives.Length,
            };
            _pool.For(logits.Rows, 1, &Rows, &job);
        }

        static void Rows(void* context, int first, int last, int worker)
        {
            Sampling* job = (Sampling*)context;
            Sampler sampler = Self(job->Self)._samplers[worker]!;
            for (int i = first; i < last; i++)
            {
                job->Sampled[i] = sampler.Sample(
                    new ReadOnlySpan<float>((float*)job->Logits.Address + (long)i * job->Logits.Columns, job->Logits.Columns),
                    job->Rows[i],
                    new ReadOnlySpan<int>(job->History, job->HistoryLength),
                    new ReadOnlySpan<TokenBias>(job->Biases, job->BiasesLength),
                    new Span<TokenLogprob>(job->Alternatives, job->AlternativesLength));
            }
        }
    }

    /// <inheritdoc/>
    public void Read(Tensor x, Span<float> values)
    {
        CheckFloats(x, x.Rows, x.Columns, nameof(x));
        new ReadOnlySpan<float>((float*)x.Address, checked(x.Rows * x.Columns)).CopyTo(values);
    }

    /// <inheritdoc/>
    public void CopyBlock(KvLayer cache, int source, int destination)
    {
        Copy(cache.Keys, source, destination);
        Copy(cache.Values, source, destination);

        static void Copy(Tensor blocks, int source, int destination)
        {
            ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)source, (uint)blocks.Rows, nameof(source));
            ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)destination, (uint)blocks.Rows, nameof(destination));
            long bytes = (long)blocks.Columns * blocks.ElementSize;
            Buffer.MemoryCopy((byte*)blocks.Address + source * bytes, (byte*)blocks.Address + destination * bytes, bytes, bytes);
        }
    }

    /// <summary>Ends the workers and frees all memory; tensors and matrices of this backend are invalid then.</summary>
    public void Dispose()
    {
        if (_disposed) return;
        _disposed = true;
        _pool.Dispose();
        foreach (StepRotations rope in _ropes) rope.Dispose();
        _step.Dispose();
        _heap.Dispose();
        _self.Free();
    }

    private void For(int count, int grain, delegate*<void*, int, int, int, void> body) => _pool.For(count, grain, body, (void*)GCHandle.ToIntPtr(_self));

    private static CpuBackend Self(void* handle) => (CpuBackend)GCHandle.FromIntPtr((nint)handle).Target!;

    private static int RowGrain(int columns) => Math.Max(1, GrainElements / Math.Max(1, columns));

    private static CpuMatrix Own(Matrix matrix) => matrix as CpuMatrix ?? throw new ArgumentException("the matrix is another backend's", nameof(matrix));

    private static void CheckFloats(Tensor tensor, int rows, int columns, string name)
    {
        if (tensor.Address == 0 || tensor.Type != DType.F32 || tensor.Rows != rows || tensor.Columns != columns)
            throw new ArgumentException($"{name} has shape [{tensor.Rows}, {tensor.Columns}] of {tensor.Type}, expected [{rows}, {columns}] of F32", name);
    }

    private static void CheckProduct(Tensor x, Matrix w, Tensor bias, Tensor y, int outputs, RowNorm norm)
    {
        CheckFloats(x, y.Rows, w.Columns, nameof(x));
        CheckFloats(y, x.Rows, outputs, nameof(y));
        if (!bias.IsEmpty) CheckFloats(bias, 1, w.Rows, nameof(bias));
        if (!norm.Weight.IsEmpty) CheckFloats(norm.Weight, 1, w.Columns, nameof(norm));
    }

    private void CheckAttention(Tensor qkv, AttentionShape shape, KvLayer cache)
    {
        if (shape.KvHeads < 1 || shape.Heads < shape.KvHeads || shape.Heads % shape.KvHeads != 0 || shape.HeadSize < 1)
            throw new ArgumentException($"{shape.Heads} query heads can't share {shape.KvHeads} key heads of {shape.HeadSize}", nameof(shape));
        CheckFloats(qkv, _step.Tokens, (shape.Heads + 2 * shape.KvHeads) * shape.HeadSize, nameof(qkv));
        if ((uint)shape.Rope >= (uint)_ropes.Count || 2 * _ropes[shape.Rope].Pairs > shape.HeadSize)
            throw new ArgumentException($"rope {shape.Rope} is not registered, or rotates more than {shape.HeadSize} elements", nameof(shape));
        if (!shape.QueryNorm.IsEmpty) CheckFloats(shape.QueryNorm, 1, shape.HeadSize, nameof(shape));
        if (!shape.KeyNorm.IsEmpty) CheckFloats(shape.KeyNorm, 1, shape.HeadSize, nameof(shape));
        long columns = (long)shape.KvHeads * cache.BlockSize * KvCache.HeadColumns(shape.HeadSize, cache.Keys.Type);
        if (cache.BlockSize < 1 || cache.Keys.Address == 0 || cache.Keys.Columns != columns || cache.Values != cache.Keys with { Address = cache.Values.Address } || cache.Values.Address == 0)
            throw new ArgumentException($"the cache has blocks of {cache.Keys.Columns} and {cache.Values.Columns} elements, expected {columns}", nameof(cache));
    }

    private struct Sampling
    {
        public void* Self;
        public Tensor Logits;
        public RowSampling* Rows;
        public int* History;
        public int HistoryLength;
        public TokenBias* Biases;
        public int BiasesLength;
        public SampledToken* Sampled;
        public TokenLogprob* Alternatives;
        public int AlternativesLength;
    }
}
