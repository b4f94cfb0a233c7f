using System.Globalization;
using System.Numerics;
using Native.Kernels.Files;
using Native.Kernels.Sampling;
using static Native.Kernels.OperandCheck;

namespace Native.Kernels.Cuda;

/// <summary>The operations on an NVIDIA GPU. Each queues kernels on one stream; a step goes up by one copy and comes
/// back by one wait.</summary>
/// <remarks>One thread at a time may call.</remarks>
internal sealed unsafe class CudaBackend : IBackend
{
    private const int Part = 256, AttendWarps = 4, MatMulWarps = 8, RowTile = 4, MostHeadSize = 256;

    private readonly CudaDevice _device;
    private readonly CudaUpload _upload;
    private readonly CudaStep _step;
    private readonly CudaFunctions _functions;
    private readonly CudaBuffer _scales, _gates, _partials, _sampled, _hidden, _scores, _counts;
    private readonly List<ulong> _allocations = [];
    private readonly List<CudaRope> _ropes = [];
    private readonly List<CudaKvLayer> _kvLayers = [];
    private readonly CudaEvent _done;
    private int[] _lastSampled = [], _noted = []; // by place; places of the rows that sample, -1 for none
    private int _alternatives, _hiddenColumns;
    private bool _inFlight, _launching, _disposed;

    /// <summary>Takes a device.</summary>
    /// <param name="device">Its number.</param>
    /// <exception cref="CudaException">It can't be used; the message says why, and what to do.</exception>
    public CudaBackend(int device = 0)
    {
        _device = CudaDevice.Open(device);
        _upload = new CudaUpload(_device);
        _step = new CudaStep(_device);
        _functions = new CudaFunctions(_device);
        CudaBuffer Buffer(string what, bool isPinned = false) => new(_device, what, isPinned);
        _scales = Buffer("rows' scales");
        _gates = Buffer("gates");
        _partials = Buffer("parts of attention");
        _sampled = Buffer("sampled tokens", isPinned: true);
        _hidden = Buffer("hidden states", isPinned: true);
        _scores = Buffer("scores");
        _counts = Buffer("counts of tokens");
        _done = new CudaEvent(_device);
        Info = new BackendInfo
        {
            Description = string.Create(CultureInfo.InvariantCulture,
                $"cuda ({_device.Name}, device {_device.Index}, compute capability {_device.Capability / 10}."
                + $"{_device.Capability % 10})"),
        };
    }

    /// <inheritdoc/>
    public BackendInfo Info { get; }

    /// <inheritdoc/>
    public long FreeBytes => _device.Memory.Free;

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
        if (values.Length > 0) _upload.Copy((ulong)tensor.Address, 0, tensor.ByteLength);
        _upload.End();
        return tensor;
    }

    /// <inheritdoc/>
    public Matrix Load(ReadOnlySpan<TensorView> parts, MatrixRole role)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        return CudaMatrix.Load(parts, _upload, bytes => Allocate(bytes, "weights"));
    }

    /// <inheritdoc/>
    public long KvBlockBytes(KvShape shape) => CudaKvLayer.BlockBytes(shape);

    /// <inheritdoc/>
    public KvLayer AllocateKv(KvShape shape, int blocks)
    {
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
        _ropes.Add(new CudaRope(inverseFrequencies, magnitude));
        return _ropes.Count - 1;
    }

    /// <inheritdoc/>
    public void Launch(in Batch batch, IStepGraph graph)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (_inFlight) throw new InvalidOperationException("a step is in flight; collect it first");
        _device.Enter();
        _step.Load(batch, _ropes, _lastSampled);
        CopyBlocks();
        _alternatives = batch.AlternativeCount;
        _sampled.Reserve(8L * (batch.SampleRows.Length + _alternatives));
        NotePlaces(batch);
        _launching = true;
        try
        {
            int sequences = batch.ContextLengths.Length;
            graph.Enqueue(new StepShape(_step.Tokens, sequences, _step.SampleRows, _step.HiddenRows,
                batch.DecodeCount == sequences));
        }
        catch
        {
            _device.Wait(); // the next step is laid out where this one is copied from
            throw;
        }
        finally
        {
            _launching = false;
        }
        if (_sampled.Used > 0) _device.CopyToHost(_sampled.Pinned, _sampled.Address, _sampled.Used);
        if (_step.HiddenRows > 0) _device.CopyToHost(_hidden.Pinned, _hidden.Address, _hidden.Used);
        _done.Record();
        _inFlight = true;
    }

    /// <inheritdoc/>
    public void Collect(Span<SampledToken> sampled, Span<TokenLogprob> alternatives, Span<float> hidden = default)
    {
        if (!_inFlight) throw new InvalidOperationException("no step is in flight");
        _inFlight = false; // also where the spans are too short: a step can't be collected twice
        _device.Enter();
        _done.Wait();
        Span<SampledToken> tokens = new((void*)_sampled.Pinned, _step.SampleRows);
        for (int row = 0; row < tokens.Length; row++)
            if (_noted[row] >= 0) _lastSampled[_noted[row]] = tokens[row].Token;
        tokens.CopyTo(sampled);
        new Span<TokenLogprob>((byte*)_sampled.Pinned + 8 * tokens.Length, _alternatives).CopyTo(alternatives);
        new Span<float>((void*)_hidden.Pinned, _step.HiddenRows * _hiddenColumns).CopyTo(hidden);
    }

    /// <summary>Remembers which places the rows that sample belong to.</summary>
    private void NotePlaces(in Batch batch)
    {
        if (_noted.Length < batch.SampleRows.Length) _noted = new int[batch.SampleRows.Length];
        _noted.AsSpan().Fill(-1);
        int row = 0;
        for (int s = 0; s < batch.Places.Length; s++)
        {
            int last = batch.QueryStarts[s + 1] - 1, place = batch.Places[s];
            while (row < batch.SampleRows.Length && batch.SampleRows[row] < last) row++;
            if (row == batch.SampleRows.Length) break;
            if (batch.SampleRows[row] != last || batch.Sampling[row].Scores) continue;
            _noted[row] = place;
            if (place >= _lastSampled.Length)
                Array.Resize(ref _lastSampled, (int)BitOperations.RoundUpToPowerOf2((uint)place + 1));
        }
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
        CheckFloats(x, _step.Tokens, table.Columns, nameof(x));
        if (matrix.Segments.Length != 1)
            throw new ArgumentException("a table of embeddings has one format", nameof(table));
        if (_step.Ids.Least < 0 || _step.Ids.Greatest >= table.Rows)
        {
            int wrong = _step.Ids.Least < 0 ? _step.Ids.Least : _step.Ids.Greatest;
            throw new ArgumentException($"token {wrong} is not in a table of {table.Rows}", nameof(table));
        }
        Product product = ProductOf(matrix.Segments[0], matrix.Columns, x.Rows);
        (product.Y, product.Stride) = ((ulong)x.Address, (uint)x.Columns);
        ulong ids = _step.TokenIds;
        void** arguments = stackalloc void*[] { &product, &ids, &scale };
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
        _gates.Reserve(4L * x.Rows * w.Rows);
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
        _scales.Reserve(4L * x.Rows);
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
        CheckAttention(qkv, shape, layer);
        CheckFloats(y, _step.Tokens, shape.Heads * shape.HeadSize, nameof(y));
        uint parts = (uint)(_step.MostPositions + Part - 1) / Part;
        _partials.Reserve(4L * _step.Tokens * shape.Heads * parts * (shape.HeadSize + 2));
        Attention attention = new()
        {
            Qkv = (ulong)qkv.Address,
            Rotations = _step.Rotations[shape.Rope],
            QueryNorm = (ulong)shape.QueryNorm.Address,
            KeyNorm = (ulong)shape.KeyNorm.Address,
            Positions = _step.Positions,
            Slots = _step.Slots,
            Sequences = _step.Sequences,
            Tables = _step.Tables,
            Keys = layer.Keys,
            Values = layer.Values,
            Partials = _partials.Address,
            Y = (ulong)y.Address,
            Heads = (uint)shape.Heads,
            KvHeads = (uint)shape.KvHeads,
            Size = (uint)shape.HeadSize,
            Pairs = (uint)_ropes[shape.Rope].Pairs,
            Interleaved = shape.Pairing == RopePairing.Interleaved ? 1u : 0,
            BlockSize = (uint)layer.Shape.BlockSize,
            Stride = (uint)_step.Stride,
            Parts = parts,
            Window = (uint)shape.Window,
            Scale = shape.Scale,
            SoftCap = shape.SoftCap,
            NormEpsilon = shape.NormEpsilon,
        };
        void** arguments = stackalloc void*[] { &attention };
        uint tokens = (uint)_step.Tokens, all = attention.Heads + 2 * attention.KvHeads;
        int type = (int)layer.Shape.Type;
        _functions.Store[type].Launch((tokens, (all + AttendWarps - 1) / AttendWarps, 1), (128, 1, 1), 0, arguments);
        uint shares = (parts + AttendWarps - 1) / AttendWarps;
        _functions.Attend[type].Launch((tokens, attention.Heads, shares), (128, 1, 1), 0, arguments);
        _functions.Combine.Launch((tokens, attention.Heads, 1), (256, 1, 1), 0, arguments);
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
        CheckFloats(x, _step.Tokens, y.Columns, nameof(x));
        CheckFloats(y, y.Rows, x.Columns, nameof(y));
        if (first < 0 || (long)first + y.Rows > _step.SampleRows)
            throw new ArgumentOutOfRangeException(nameof(first), first,
                $"{y.Rows} rows from there, of {_step.SampleRows}");
        nint from = x.Address, to = y.Address;
        ulong rows = _step.SampledRows + 4ul * (ulong)first;
        uint columns = (uint)x.Columns;
        void** arguments = stackalloc void*[] { &from, &rows, &to, &columns };
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
        if (first < 0 || (long)first + logits.Rows > _step.SampleRows)
            throw new ArgumentOutOfRangeException(nameof(first), first,
                $"{logits.Rows} rows from there, of {_step.SampleRows}");
        long values = 4L * logits.Rows * logits.Columns;
        _scores.Reserve(values);
        if (_counts.Reserve(values)) _device.Clear(_counts.Address, _counts.Capacity);
        SamplingArguments sampling = new()
        {
            Logits = (ulong)logits.Address,
            Scores = _scores.Address,
            Counts = _counts.Address,
            Rows = _step.Sampling + (ulong)(first * sizeof(RowSampling)),
            History = _step.History,
            Biases = _step.Biases,
            Masks = _step.Masks,
            Sampled = _sampled.Address + 8ul * (ulong)first,
            Alternatives = _sampled.Address + 8ul * (ulong)_step.SampleRows,
            Vocabulary = (uint)logits.Columns,
        };
        void** arguments = stackalloc void*[] { &sampling };
        _functions.Sample.Launch(((uint)logits.Rows, 1, 1), (256, 1, 1), 0, arguments);
    }

    /// <inheritdoc/>
    public void Hidden(Tensor x, RowNorm norm)
    {
        CheckFloats(x, _step.Tokens, x.Columns, nameof(x));
        CheckFloats(norm.Weight, 1, x.Columns, nameof(norm));
        _hiddenColumns = x.Columns;
        _hidden.Reserve(4L * _step.HiddenRows * x.Columns);
        Norm(x, _step.Hidden, norm.Weight, norm.Epsilon, _hidden.Address, _step.HiddenRows);
    }

    /// <inheritdoc/>
    public void Read(Tensor x, Span<float> values)
    {
        CheckFloats(x, x.Rows, x.Columns, nameof(x));
        nint pinned = _device.AllocatePinned(Math.Max(1, x.ByteLength));
        _device.CopyToHost(pinned, (ulong)x.Address, x.ByteLength);
        _device.Wait();
        new ReadOnlySpan<float>((void*)pinned, checked(x.Rows * x.Columns)).CopyTo(values);
        _device.FreePinned(pinned);
    }

    /// <summary>Frees all memory. Tensors and matrices of this backend are invalid afterwards.</summary>
    public void Dispose()
    {
        if (_disposed) return;
        _disposed = true;
        if (_device.Fault is null)
        {
            _device.Wait();
            _upload.Dispose();
            _step.Dispose();
            CudaBuffer[] buffers = [_scales, _gates, _partials, _sampled, _hidden, _scores, _counts];
            foreach (CudaBuffer buffer in buffers) buffer.Dispose();
            foreach (ulong address in _allocations) _device.Free(address);
            _device.Wait();
            _done.Dispose();
            _functions.Dispose();
        }
        _device.Dispose();
    }

    private static CudaMatrix Own(Matrix matrix) =>
        matrix as CudaMatrix ?? throw new ArgumentException("the matrix is another backend's", nameof(matrix));

    private void CheckAttention(Tensor qkv, AttentionShape shape, CudaKvLayer cache)
    {
        if (shape.KvHeads < 1 || shape.Heads < shape.KvHeads || shape.Heads % shape.KvHeads != 0
            || shape.HeadSize is < 1 or > MostHeadSize)
            throw new ArgumentException($"{shape.Heads} query heads can't share {shape.KvHeads} key heads of "
                + $"{shape.HeadSize} (at most {MostHeadSize})", nameof(shape));
        CheckFloats(qkv, _step.Tokens, (shape.Heads + 2 * shape.KvHeads) * shape.HeadSize, nameof(qkv));
        if ((uint)shape.Rope >= (uint)_ropes.Count || 2 * _ropes[shape.Rope].Pairs > shape.HeadSize)
            throw new ArgumentException(
                $"rope {shape.Rope} is not registered, or rotates more than {shape.HeadSize} elements", nameof(shape));
        if (!shape.QueryNorm.IsEmpty) CheckFloats(shape.QueryNorm, 1, shape.HeadSize, nameof(shape));
        if (!shape.KeyNorm.IsEmpty) CheckFloats(shape.KeyNorm, 1, shape.HeadSize, nameof(shape));
        KvShape kept = cache.Shape;
        if (kept.KvHeads != shape.KvHeads || kept.HeadSize != shape.HeadSize || kept.BlockSize < 1)
            throw new ArgumentException(
                $"the cache has {kept.KvHeads} heads of {kept.HeadSize} elements, the layer {shape.KvHeads} of "
                + $"{shape.HeadSize}", nameof(cache));
    }
}
