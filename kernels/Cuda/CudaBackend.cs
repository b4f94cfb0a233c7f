using System.Globalization;
using Native.Kernels.Files;
using Native.Kernels.Gpu;
using Native.Kernels.Sampling;
using static Native.Kernels.OperandCheck;

namespace Native.Kernels.Cuda;

/// <summary>The operations on an NVIDIA GPU. Each queues kernels on one stream; a step goes up by one copy and comes
/// back by one wait.</summary>
/// <remarks>One thread at a time may call.</remarks>
internal sealed unsafe class CudaBackend : IBackend
{
    private const int Part = 256, AttendWarps = 4, MatMulWarps = 8, RowTile = 4, MostHeadSize = 256;
    private const int MostPlaces = 1 << 14, StepsInFlight = 2;

    private readonly CudaDevice _device;
    private readonly CudaUpload _upload;
    private readonly CudaFunctions _functions;
    private readonly CudaGraphs _graphs;
    private readonly CudaBuffer _input, _scales, _gates, _partials, _results, _hidden, _scores, _countsOfTokens;
    private readonly TokenCounts _counts;
    private readonly ulong _last; // by place, what it sampled last
    private readonly CudaStep[] _steps; // as many as may be in flight
    private readonly List<ulong> _allocations = [];
    private readonly List<RotaryTable> _ropes = [];
    private readonly List<CudaKvLayer> _kvLayers = [];
    private CudaStep _step; // the one that operations are of
    private StepShape _shape; // and its rows, padded where it is recorded
    private long _launched, _collected;
    private int _parts, _hiddenColumns;
    private bool _launching, _disposed;

    /// <summary>Takes a device.</summary>
    /// <param name="device">Its number, or a part of its name; null for the first that can run the kernels.</param>
    /// <param name="graphs">Whether decode steps are recorded and replayed.</param>
    /// <exception cref="CudaException">It can't be used; the message says why, and what to do.</exception>
    /// <exception cref="NotSupportedException">There is no such device, or several are meant.</exception>
    public CudaBackend(string? device = null, bool graphs = true)
    {
        _device = CudaDevice.Open(device);
        try
        {
            _upload = new CudaUpload(_device);
            _functions = new CudaFunctions(_device);
            CudaBuffer Buffer(string what) => new(_device, what);
            _input = Buffer("a step's input");
            _scales = Buffer("rows' scales");
            _gates = Buffer("gates");
            _partials = Buffer("parts of attention");
            _results = Buffer("sampled tokens");
            _hidden = Buffer("hidden states");
            _scores = Buffer("scores");
            _countsOfTokens = Buffer("counts of tokens");
            _counts = new TokenCounts(_countsOfTokens.Reserve);
            _last = Allocate(4L * MostPlaces, "last tokens");
            _device.Clear(_last, 4L * MostPlaces);
            _steps = [.. Enumerable.Range(0, StepsInFlight).Select(_ => new CudaStep(_device, _input))];
            _step = _steps[0];
            _graphs = new CudaGraphs(_device) { IsOn = graphs };
            Info = new BackendInfo
            {
                Description = string.Create(CultureInfo.InvariantCulture,
                    $"cuda ({_device.Name}, device {_device.Index}, compute capability {_device.Capability / 10}."
                    + $"{_device.Capability % 10})"),
                DeviceBytes = _device.Memory.Total,
                StepsInFlight = StepsInFlight,
                RowMultiple = CudaGraphs.RowMultiple,
                CacheTypes = _functions.CacheTypes,
            };
        }
        catch
        {
            _device.Dispose(); // with the context goes what was made in it
            throw;
        }
    }

    /// <inheritdoc/>
    public BackendInfo Info { get; }

    /// <summary>Bytes that parts of attention may take: rows that need more are computed in turn. A row of 32 heads of
    /// 128 elements in a context of 32k needs 2 MiB.</summary>
    public long PartialBytes { get; init; } = 64 << 20;

    /// <inheritdoc/>
    public long FreeBytes => _device.Memory.Free;

    /// <inheritdoc/>
    public Exception? Fault => _device.Fault;

    /// <inheritdoc/>
    public Tensor Allocate(int rows, int columns, DType type)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        ArgumentOutOfRangeException.ThrowIfNegative(rows);
        ArgumentOutOfRangeException.ThrowIfNegative(columns);
        Tensor tensor = new(0, rows, columns, type);
        ulong address = Allocate(Math.Max(16, tensor.ByteLength), "scratch");
        _device.Clear(address, Math.Max(16, tensor.ByteLength));
        return tensor with { Address = (nint)address };
    }

    private ulong Allocate(long bytes, string what)
    {
        ulong address = _device.Allocate(bytes, what);
        _allocations.Add(address);
        return address;
    }

    /// <inheritdoc/>
    public Tensor Upload(ReadOnlySpan<float> values)
    {
        Tensor tensor = Allocate(1, values.Length, DType.F32);
        values.CopyTo(new Span<float>((void*)_upload.Next(tensor.ByteLength), values.Length));
        if (values.Length > 0) _upload.Copy((ulong)tensor.Address, tensor.ByteLength);
        _upload.End();
        return tensor;
    }

    /// <inheritdoc/>
    public Matrix Load(ReadOnlySpan<TensorView> parts, MatrixRole role)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        return CudaMatrix.Load(parts, _upload, _functions, bytes => Allocate(bytes, "weights"));
    }

    /// <inheritdoc/>
    public long KvBlockBytes(KvShape shape) => CudaKvLayer.BlockBytes(shape);

    /// <inheritdoc/>
    public KvLayer AllocateKv(KvShape shape, int blocks)
    {
        CheckCacheType(Info, shape.Type);
        _upload.Release(); // the weights are up
        long bytes = CudaKvLayer.BlockBytes(shape) / 2 * blocks;
        ulong keys = Allocate(bytes, "the KV cache"), values = Allocate(bytes, "the KV cache");
        _device.Clear(keys, bytes);
        _device.Clear(values, bytes);
        CudaKvLayer layer = new(shape, blocks, keys, values);
        _kvLayers.Add(layer);
        return layer;
    }

    /// <inheritdoc/>
    public int AddRope(ReadOnlySpan<double> inverseFrequencies, float magnitude)
    {
        if (_ropes.Count == StepHeader.MostRopes)
            throw new NotSupportedException($"a model has at most {StepHeader.MostRopes} tables of rotations");
        _ropes.Add(new RotaryTable(inverseFrequencies, magnitude));
        return _ropes.Count - 1;
    }

    /// <inheritdoc/>
    public void Launch(in Batch batch, IStepGraph graph)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (_launched - _collected == _steps.Length)
            throw new InvalidOperationException($"{_steps.Length} steps are in flight; collect one first");
        CudaStep step = _steps[_launched % _steps.Length];
        _device.Enter();
        try
        {
            Load(step, batch);
            Enqueue(step, graph, batch.ContextLengths.Length, batch.DecodeCount == batch.ContextLengths.Length);
            long sampled = 8L * (step.SampleRows + step.Alternatives), hidden = 4L * step.HiddenRows * _hiddenColumns;
            if (sampled > 0) _device.CopyToHost(step.Results.Address, _results.Address, sampled);
            if (hidden > 0)
            {
                step.Hidden.Reserve(hidden);
                _device.CopyToHost(step.Hidden.Address, _hidden.Address, hidden);
            }
            step.Done.Record();
            _launched++;
        }
        catch
        {
            _counts.Reset();
            if (_device.Fault is null) _device.Wait(); // the next step is laid out where this one is copied from
            throw;
        }
    }

    /// <summary>Queues a step's input, and the copies of its blocks.</summary>
    private void Load(CudaStep step, in Batch batch)
    {
        _counts.Add(batch);
        long sampled = 8L * (batch.SampleRows.Length + batch.AlternativeCount);
        step.Results.Reserve(sampled);
        _results.Reserve(sampled);
        if (_counts.Reserve()) _graphs.Clear();
        if (step.Reserve(batch, _ropes)) _graphs.Clear();
        step.Load(batch, _ropes, _counts, _last, _results.Address);
        _step = step;
        CopyBlocks();
    }

    /// <summary>Queues a step's operations. A decode step is padded to one of few shapes, which are recorded.</summary>
    private void Enqueue(CudaStep step, IStepGraph graph, int sequences, bool decodesOnly)
    {
        _parts = Math.Max(1, (step.MostPositions + Part - 1) / Part);
        _shape = new StepShape(step.Tokens, sequences, step.SampleRows, step.HiddenRows, decodesOnly);
        _launching = true;
        try
        {
            if (!_graphs.IsOn || !decodesOnly || step.HiddenRows > 0 || graph.MostTokens == 0)
            {
                graph.Enqueue(_shape);
                return;
            }
            int tokens = Math.Min(CudaGraphs.Padded(step.Tokens), graph.MostTokens);
            int rows = step.SampleRows == step.Tokens ? tokens : CudaGraphs.Padded(step.SampleRows);
            _parts = CudaGraphs.PaddedParts(_parts);
            _shape = new StepShape(tokens, tokens, rows, 0, true);
            _graphs.Launch(graph, new GraphKey(tokens, rows, _parts), _shape);
        }
        finally
        {
            _launching = false;
        }
    }

    /// <inheritdoc/>
    public void Collect(Span<SampledToken> sampled, Span<TokenLogprob> alternatives, Span<float> hidden = default)
    {
        if (_launched == _collected) throw new InvalidOperationException("no step is in flight");
        CudaStep step = _steps[_collected % _steps.Length];
        try
        {
            _device.Enter();
            step.Done.Wait();
            new Span<SampledToken>((void*)step.Results.Address, step.SampleRows).CopyTo(sampled);
            new Span<TokenLogprob>((byte*)step.Results.Address + 8 * step.SampleRows, step.Alternatives)
                .CopyTo(alternatives);
            new Span<float>((void*)step.Hidden.Address, step.HiddenRows * _hiddenColumns).CopyTo(hidden);
            _collected++;
        }
        catch
        {
            _collected = _launched; // none is in flight afterwards
            _counts.Reset();
            if (_device.Fault is null) _device.Wait();
            throw;
        }
    }

    /// <summary>Makes room in scratch that recorded steps name.</summary>
    private void Reserve(CudaBuffer buffer, long bytes)
    {
        if (buffer.Reserve(bytes)) _graphs.Clear();
    }

    private void CopyBlocks()
    {
        if (_step.CopyCount == 0) return;
        foreach (CudaKvLayer layer in _kvLayers) CopyBlocks(layer);
    }

    private void CopyBlocks(CudaKvLayer layer)
    {
        ulong keys = layer.Keys, values = layer.Values, copies = _step.Copies;
        ulong blockBytes = (ulong)CudaKvLayer.BlockBytes(layer.Shape) / 2;
        uint count = (uint)_step.CopyCount;
        void** arguments = stackalloc void*[] { &keys, &values, &blockBytes, &copies, &count };
        _functions.CopyBlocks.Launch(((uint)((blockBytes / 2 + 255) / 256), 2, 1), (256, 1, 1), 0, arguments);
    }

    /// <inheritdoc/>
    public void Embed(Matrix table, float scale, Tensor x)
    {
        CudaMatrix matrix = Own(table);
        CheckFloats(x, _shape.Tokens, table.Columns, nameof(x));
        if (matrix.Segments.Length != 1)
            throw new ArgumentException("a table of embeddings has one format", nameof(table));
        if (_step.Ids.Least < 0 || _step.Ids.Greatest >= table.Rows)
        {
            int wrong = _step.Ids.Least < 0 ? _step.Ids.Least : _step.Ids.Greatest;
            throw new ArgumentException($"token {wrong} is not in a table of {table.Rows}", nameof(table));
        }
        Product product = ProductOf(matrix.Segments[0], matrix.Columns, x.Rows);
        (product.Y, product.Stride) = ((ulong)x.Address, (uint)x.Columns);
        ulong step = _step.Header;
        void** arguments = stackalloc void*[] { &product, &step, &scale };
        _functions.Embed[(int)matrix.Segments[0].Layout].Launch(((uint)x.Rows, 1, 1), (256, 1, 1), 0, arguments);
    }

    /// <inheritdoc/>
    public void RmsNorm(Tensor x, Tensor weight, float epsilon, Tensor y)
    {
        CheckFloats(x, y.Rows, y.Columns, nameof(x));
        CheckFloats(y, x.Rows, x.Columns, nameof(y));
        CheckFloats(weight, 1, x.Columns, nameof(weight));
        Norm(x, 0, weight, epsilon, (ulong)y.Address, x.Rows);
    }

    private void Norm(Tensor x, ulong rows, Tensor weight, float epsilon, ulong y, int count)
    {
        nint from = x.Address, norm = weight.Address;
        uint columns = (uint)x.Columns;
        void** arguments = stackalloc void*[] { &from, &rows, &norm, &epsilon, &y, &columns };
        _functions.RmsNorm.Launch(((uint)count, 1, 1), (256, 1, 1), 0, arguments);
    }

    /// <inheritdoc/>
    public void MatMul(Tensor x, Matrix w, Tensor bias, Tensor y, RowNorm norm = default)
    {
        CheckProduct(x, w, bias, y, w.Rows, norm);
        Multiply(x, Own(w), bias, (ulong)y.Address, w.Rows, norm, ending: 0);
    }

    /// <inheritdoc/>
    public void MatMulAdd(Tensor x, Matrix w, Tensor bias, Tensor y)
    {
        CheckProduct(x, w, bias, y, w.Rows, default);
        Multiply(x, Own(w), bias, (ulong)y.Address, w.Rows, default, ending: 1);
    }

    /// <inheritdoc/>
    public void MatMulGate(Tensor x, Matrix w, Tensor bias, Activation activation, Tensor y, RowNorm norm = default)
    {
        CudaMatrix matrix = Own(w);
        CheckProduct(x, w, bias, y, w.Rows / 2, norm);
        uint gelu = activation == Activation.GeluTanh ? 1u : 0;
        if (matrix.Segments.Length == 1 && w.Rows % 2 == 0)
        {
            Product product = ProductOf(matrix.Segments[0], w.Columns, x.Rows);
            SetInput(ref product, x, norm);
            (product.Bias, product.Y, product.Stride) = ((ulong)bias.Address, (ulong)y.Address, (uint)y.Columns);
            product.Ending = gelu;
            LaunchProduct(_functions.MatMulGate[(int)matrix.Segments[0].Layout], product, w.Rows / 2);
            return;
        }
        if (matrix.Segments.Length != 2 || matrix.Segments[0].Rows != matrix.Segments[1].Rows)
            throw new ArgumentException(
                $"the matrix of {w.Rows} rows is not two parts of equal height: gate, up", nameof(w));
        Reserve(_gates, 4L * x.Rows * w.Rows);
        Multiply(x, matrix, bias, _gates.Address, w.Rows, norm, ending: 0);
        ulong gates = _gates.Address, to = (ulong)y.Address;
        uint columns = (uint)y.Columns;
        void** arguments = stackalloc void*[] { &gates, &to, &columns, &gelu };
        _functions.Gate.Launch(((uint)x.Rows, 1, 1), (256, 1, 1), 0, arguments);
    }

    private void Multiply(Tensor x, CudaMatrix w, Tensor bias, ulong y, int stride, RowNorm norm, uint ending)
    {
        Product input = default;
        SetInput(ref input, x, norm);
        foreach (CudaMatrix.Segment segment in w.Segments)
        {
            Product product = ProductOf(segment, w.Columns, x.Rows);
            (product.X, product.Scales, product.Norm) = (input.X, input.Scales, input.Norm);
            product.Bias = bias.IsEmpty ? 0 : (ulong)bias.Address + 4ul * (ulong)segment.FirstRow;
            product.Y = y + 4ul * (ulong)segment.FirstRow;
            (product.Stride, product.Ending) = ((uint)stride, ending);
            LaunchProduct(_functions.MatMul[(int)segment.Layout], product, segment.Rows);
        }
    }

    private static Product ProductOf(CudaMatrix.Segment segment, int columns, int tokens) => new()
    {
        Weights = segment.Weights,
        Groups = segment.Groups,
        Rows = (uint)segment.Rows,
        Columns = (uint)columns,
        Tokens = (uint)tokens,
    };

    /// <summary>Rows of x, and their scales where they are normalized.</summary>
    private void SetInput(ref Product product, Tensor x, RowNorm norm)
    {
        product.X = (ulong)x.Address;
        if (norm.Weight.IsEmpty) return;
        Reserve(_scales, 4L * x.Rows);
        (product.Scales, product.Norm) = (_scales.Address, (ulong)norm.Weight.Address);
        nint from = x.Address;
        ulong scales = _scales.Address;
        float epsilon = norm.Epsilon;
        uint columns = (uint)x.Columns;
        void** arguments = stackalloc void*[] { &from, &epsilon, &scales, &columns };
        _functions.RmsScale.Launch(((uint)x.Rows, 1, 1), (256, 1, 1), 0, arguments);
    }

    private static void LaunchProduct(CudaFunction function, Product product, int outputs)
    {
        if (product.Tokens == 0) return;
        void** arguments = stackalloc void*[] { &product };
        function.Launch(((uint)(outputs + MatMulWarps - 1) / MatMulWarps, (product.Tokens + RowTile - 1) / RowTile, 1),
            (256, 1, 1), 0, arguments);
    }

    /// <inheritdoc/>
    public void Attend(Tensor qkv, AttentionShape shape, KvLayer cache, Tensor y)
    {
        CudaKvLayer layer = cache as CudaKvLayer
            ?? throw new ArgumentException("the cache is another backend's", nameof(cache));
        CheckAttention(qkv, _shape.Tokens, shape, layer.Shape,
            (uint)shape.Rope < (uint)_ropes.Count ? _ropes[shape.Rope].Pairs : -1);
        if (shape.HeadSize > MostHeadSize)
            throw new ArgumentException($"heads of {shape.HeadSize} elements, at most {MostHeadSize}", nameof(shape));
        CheckFloats(y, _shape.Tokens, shape.Heads * shape.HeadSize, nameof(y));
        long rowBytes = 4L * shape.Heads * _parts * (shape.HeadSize + 2);
        int atOnce = (int)Math.Clamp(PartialBytes / rowBytes, 1, _shape.Tokens);
        Reserve(_partials, atOnce * rowBytes);
        Attention attention = new()
        {
            Step = _step.Header,
            Qkv = (ulong)qkv.Address,
            QueryNorm = (ulong)shape.QueryNorm.Address,
            KeyNorm = (ulong)shape.KeyNorm.Address,
            Keys = layer.Keys,
            Values = layer.Values,
            Partials = _partials.Address,
            Y = (ulong)y.Address,
            Heads = (uint)shape.Heads,
            KvHeads = (uint)shape.KvHeads,
            Size = (uint)shape.HeadSize,
            Rope = (uint)shape.Rope,
            Pairs = (uint)_ropes[shape.Rope].Pairs,
            Interleaved = shape.Pairing == RopePairing.Interleaved ? 1u : 0,
            BlockSize = (uint)layer.Shape.BlockSize,
            Parts = (uint)_parts,
            Window = (uint)shape.Window,
            Scale = shape.Scale,
            SoftCap = shape.SoftCap,
            NormEpsilon = shape.NormEpsilon,
        };
        void** arguments = stackalloc void*[] { &attention };
        uint tokens = (uint)_shape.Tokens, all = attention.Heads + 2 * attention.KvHeads;
        int type = (int)layer.Shape.Type;
        _functions.Store[type].Launch((tokens, (all + AttendWarps - 1) / AttendWarps, 1), (128, 1, 1), 0, arguments);
        uint shares = (attention.Parts + AttendWarps - 1) / AttendWarps;
        for (int first = 0; first < _shape.Tokens; first += atOnce)
        {
            attention.First = (uint)first;
            uint rows = (uint)Math.Min(atOnce, _shape.Tokens - first);
            _functions.Attend[type].Launch((rows, attention.Heads, shares), (128, 1, 1), 0, arguments);
            _functions.Combine.Launch((rows, attention.Heads, 1), (256, 1, 1), 0, arguments);
        }
    }

    /// <inheritdoc/>
    public void Add(Tensor x, Tensor delta)
    {
        CheckFloats(x, delta.Rows, delta.Columns, nameof(x));
        CheckFloats(delta, x.Rows, x.Columns, nameof(delta));
        nint to = x.Address, from = delta.Address;
        ulong count = (ulong)x.Rows * (ulong)x.Columns;
        void** arguments = stackalloc void*[] { &to, &from, &count };
        _functions.Add.Launch(((uint)((count + 255) / 256), 1, 1), (256, 1, 1), 0, arguments);
    }

    /// <inheritdoc/>
    public void Gather(Tensor x, int first, Tensor y)
    {
        CheckFloats(x, _shape.Tokens, y.Columns, nameof(x));
        CheckFloats(y, y.Rows, x.Columns, nameof(y));
        CheckSampled(first, y.Rows);
        nint from = x.Address, to = y.Address;
        ulong step = _step.Header;
        uint columns = (uint)x.Columns;
        void** arguments = stackalloc void*[] { &step, &first, &from, &to, &columns };
        _functions.Gather.Launch(((uint)y.Rows, 1, 1), (256, 1, 1), 0, arguments);
    }

    /// <inheritdoc/>
    public void SoftCap(Tensor x, float cap)
    {
        CheckFloats(x, x.Rows, x.Columns, nameof(x));
        nint at = x.Address;
        ulong count = (ulong)x.Rows * (ulong)x.Columns;
        void** arguments = stackalloc void*[] { &at, &cap, &count };
        _functions.SoftCap.Launch(((uint)((count + 255) / 256), 1, 1), (256, 1, 1), 0, arguments);
    }

    /// <inheritdoc/>
    public void Sample(Tensor logits, int first)
    {
        CheckFloats(logits, logits.Rows, logits.Columns, nameof(logits));
        if (!_launching) throw new InvalidOperationException("rows are sampled within a launch");
        CheckSampled(first, logits.Rows);
        Reserve(_scores, 4L * logits.Rows * logits.Columns);
        if (_counts.Reserve(logits.Columns)) _graphs.Clear();
        SamplingArguments sampling = new()
        {
            Step = _step.Header,
            Logits = (ulong)logits.Address,
            Scores = _scores.Address,
            Counts = _countsOfTokens.Address,
            First = (uint)first,
            Vocabulary = (uint)logits.Columns,
        };
        void** arguments = stackalloc void*[] { &sampling };
        _functions.Sample.Launch(((uint)logits.Rows, 1, 1), (256, 1, 1), 0, arguments);
    }

    /// <inheritdoc/>
    public void Hidden(Tensor x, RowNorm norm)
    {
        CheckFloats(x, _shape.Tokens, x.Columns, nameof(x));
        CheckFloats(norm.Weight, 1, x.Columns, nameof(norm));
        _hiddenColumns = x.Columns;
        _hidden.Reserve(4L * _step.HiddenRows * x.Columns);
        Norm(x, _step.HiddenRowsAt, norm.Weight, norm.Epsilon, _hidden.Address, _step.HiddenRows);
    }

    /// <inheritdoc/>
    public void Read(Tensor x, Span<float> values)
    {
        CheckFloats(x, x.Rows, x.Columns, nameof(x));
        nint pinned = _device.AllocatePinned(Math.Max(1, x.ByteLength));
        try
        {
            _device.CopyToHost(pinned, (ulong)x.Address, x.ByteLength);
            _device.Wait();
            new ReadOnlySpan<float>((void*)pinned, checked(x.Rows * x.Columns)).CopyTo(values);
        }
        finally
        {
            _device.FreePinned(pinned);
        }
    }

    /// <summary>Frees all memory. Tensors and matrices of this backend are invalid afterwards.</summary>
    public void Dispose()
    {
        if (_disposed) return;
        _disposed = true;
        try
        {
            if (_device.Fault is null) Free();
        }
        catch (CudaException)
        {
            // It broke just now: its context's end frees what is left.
        }
        _device.Dispose();
    }

    private void Free()
    {
        _device.Wait();
        _upload.Dispose();
        _graphs.Dispose();
        foreach (CudaStep step in _steps) step.Dispose();
        CudaBuffer[] buffers = [_input, _scales, _gates, _partials, _results, _hidden, _scores, _countsOfTokens];
        foreach (CudaBuffer buffer in buffers) buffer.Dispose();
        foreach (ulong address in _allocations) _device.Free(address);
        _device.Wait();
        _functions.Dispose();
    }

    private static CudaMatrix Own(Matrix matrix) =>
        matrix as CudaMatrix ?? throw new ArgumentException("the matrix is another backend's", nameof(matrix));

    private void CheckSampled(int first, int rows)
    {
        if (first < 0 || (long)first + rows > _shape.SampleRows)
            throw new ArgumentOutOfRangeException(nameof(first), first,
                $"{rows} rows from there, of {_shape.SampleRows}");
    }
}
