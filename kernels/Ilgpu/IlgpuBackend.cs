using ILGPU;
using ILGPU.Runtime;
using ILGPU.Runtime.CPU;
using ILGPU.Runtime.Cuda;
using Native.Kernels.Cpu.Machine;
using Native.Kernels.Files;
using Native.Kernels.Gpu;
using Native.Kernels.Sampling;
using static Native.Kernels.OperandCheck;

namespace Native.Kernels.Ilgpu;

/// <summary>The operations as kernels in C#, on whatever ILGPU has a driver for: NVIDIA GPUs, and OpenCL devices.
/// </summary>
/// <remarks>One thread at a time may call. A tensor's address is the number of its buffer.</remarks>
internal sealed unsafe class IlgpuBackend : IBackend
{
    private const int MostPlaces = 1 << 14;

    private readonly IlgpuDevice _device;
    private readonly List<MemoryBuffer1D<byte, Stride1D.Dense>> _buffers = [];
    private readonly List<RotaryTable> _ropes = [];
    private readonly List<IlgpuKvLayer> _kvLayers = [];
    private readonly IlgpuBuffer _scales, _gates, _partials, _scores, _sums, _countsOfTokens;
    private readonly TokenCounts _counts;
    private readonly IlgpuStep _step;
    private readonly ArrayView<int> _last; // by place, what it sampled last
    private long _allocated;
    private int _hiddenColumns;
    private bool _inFlight, _launching, _disposed;

    /// <summary>Takes a device.</summary>
    /// <param name="device">Its number, or a part of its name; null for the first GPU.</param>
    /// <exception cref="IlgpuException">It can't be used; the message says why, and what to do.</exception>
    /// <exception cref="NotSupportedException">There is no such device, or several are meant.</exception>
    public IlgpuBackend(string? device = null)
    {
        _device = IlgpuDevice.Open(device);
        IlgpuBuffer Buffer(string what) => new(_device, what);
        (_scales, _gates, _partials) = (Buffer("rows' scales"), Buffer("gates"), Buffer("parts of attention"));
        (_scores, _sums, _countsOfTokens) = (Buffer("scores"), Buffer("rows' sums"), Buffer("counts of tokens"));
        _counts = new TokenCounts(_countsOfTokens.Reserve);
        _step = new IlgpuStep(_device);
        Info = new BackendInfo
        {
            Description = $"ilgpu ({_device.Found})",
            DeviceBytes = _device.Found.IsGpu ? _device.Accelerator.MemorySize : null,
            CacheTypes = Enum.GetValues<DType>(),
            CompilesAtFirstStep = true,
        };
        try
        {
            _last = _buffers[Allocate(4L * MostPlaces, "last tokens") - 1].View.BaseView.Cast<int>();
        }
        catch
        {
            _device.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public BackendInfo Info { get; }

    /// <summary>Bytes that parts of attention may take: rows that need more are computed in turn. A row of 32 heads of
    /// 128 elements in a context of 32k needs 2 MiB.</summary>
    public long PartialBytes { get; init; } = 64 << 20;

    /// <summary>OpenCL does not tell what is free of a GPU's memory: all that was not taken here.</summary>
    public long FreeBytes => _device.Accelerator is CudaAccelerator cuda ? cuda.GetFreeMemory()
        : Info.DeviceBytes is { } all ? Math.Max(all - _allocated, 0) : HostMemory.Free();

    /// <inheritdoc/>
    public Exception? Fault { get; private set; }

    /// <inheritdoc/>
    public Tensor Allocate(int rows, int columns, DType type)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        ArgumentOutOfRangeException.ThrowIfNegative(rows);
        ArgumentOutOfRangeException.ThrowIfNegative(columns);
        Tensor tensor = new(0, rows, columns, type);
        return tensor with { Address = Allocate(tensor.ByteLength, "scratch") };
    }

    /// <summary>Zeroed memory. Returns its buffer's number.</summary>
    private int Allocate(long bytes, string what, bool clears = true)
    {
        MemoryBuffer1D<byte, Stride1D.Dense> buffer = _device.Allocate(bytes, what);
        if (clears) buffer.MemSetToZero(_device.Stream);
        _allocated += buffer.LengthInBytes;
        _buffers.Add(buffer);
        return _buffers.Count;
    }

    private ArrayView<float> Floats(Tensor tensor) => tensor.IsEmpty ? _last.Cast<float>()
        : _buffers[(int)tensor.Address - 1].View.BaseView.Cast<float>();

    /// <inheritdoc/>
    public Tensor Upload(ReadOnlySpan<float> values)
    {
        Tensor tensor = Allocate(1, values.Length, DType.F32);
        if (values.Length > 0) Floats(tensor).SubView(0, values.Length).CopyFromCPU(_device.Stream, values.ToArray());
        _device.Stream.Synchronize();
        return tensor;
    }

    /// <inheritdoc/>
    public Matrix Load(ReadOnlySpan<TensorView> parts, MatrixRole role)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        return IlgpuMatrix.Load(parts, _device, bytes => _buffers[Allocate(bytes, "weights", clears: false) - 1]);
    }

    /// <inheritdoc/>
    public long KvBlockBytes(KvShape shape) => IlgpuKvLayer.BlockBytes(shape);

    /// <inheritdoc/>
    public KvLayer AllocateKv(KvShape shape, int blocks)
    {
        CheckCacheType(Info, shape.Type);
        long bytes = IlgpuKvLayer.BlockBytes(shape) / 2 * blocks;
        int keys = Allocate(bytes, "the KV cache"), values = Allocate(bytes, "the KV cache");
        IlgpuKvLayer layer = new(shape, blocks, _buffers[keys - 1], _buffers[values - 1]);
        _kvLayers.Add(layer);
        return layer;
    }

    /// <inheritdoc/>
    public int AddRope(ReadOnlySpan<double> inverseFrequencies, float magnitude)
    {
        _ropes.Add(new RotaryTable(inverseFrequencies, magnitude));
        return _ropes.Count - 1;
    }

    /// <inheritdoc/>
    public void Launch(in Batch batch, IStepGraph graph)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (_inFlight) throw new InvalidOperationException("a step is in flight; collect it first");
        try
        {
            _counts.Add(batch);
            _counts.Reserve();
            _step.Load(batch, _ropes, _counts);
            CopyBlocks();
            int sequences = batch.ContextLengths.Length;
            _launching = true;
            graph.Enqueue(new StepShape(_step.Input.Tokens, sequences, _step.SampleRows, _step.HiddenRows,
                batch.DecodeCount == sequences));
            if (_step.SampleRows > 0) _step.Results.Down(2L * (_step.SampleRows + _step.Alternatives));
            if (_step.HiddenRows > 0) _step.Hidden.Down((long)_step.HiddenRows * _hiddenColumns);
            _inFlight = true;
        }
        catch (Exception e)
        {
            _counts.Reset();
            Wait(); // the next step is laid out where this one is copied from
            if (IlgpuException.IsOf(e)) throw IlgpuException.Of($"a step failed on {_device.Found}", e);
            throw;
        }
        finally
        {
            _launching = false;
        }
    }

    /// <summary>Waits for all that was queued. A device that fails here computes nothing any more.</summary>
    private void Wait()
    {
        try
        {
            _device.Stream.Synchronize();
        }
        catch (Exception e) when (IlgpuException.IsOf(e))
        {
            Fault = IlgpuException.Of($"{_device.Found} failed", e);
            _device.IsBroken = true;
        }
    }

    /// <inheritdoc/>
    public void Collect(Span<SampledToken> sampled, Span<TokenLogprob> alternatives, Span<float> hidden = default)
    {
        if (!_inFlight) throw new InvalidOperationException("no step is in flight");
        _inFlight = false;
        Wait();
        if (Fault is not null) throw Fault;
        new Span<SampledToken>(_step.Results.Host, _step.SampleRows).CopyTo(sampled);
        new Span<TokenLogprob>(_step.Results.Host + 2 * _step.SampleRows, _step.Alternatives).CopyTo(alternatives);
        new Span<float>(_step.Hidden.Host, _step.HiddenRows * _hiddenColumns).CopyTo(hidden);
    }

    private void CopyBlocks()
    {
        if (_step.CopyCount == 0) return;
        foreach (IlgpuKvLayer layer in _kvLayers)
        {
            long bytes = IlgpuKvLayer.BlockBytes(layer.Shape) / 2;
            KernelConfig config = new(GroupsOf(bytes), RowKernels.Threads);
            _device.Kernels.CopyBlocks(_device.Stream, config, _step.Input, layer.Keys, bytes, _step.CopyCount);
            _device.Kernels.CopyBlocks(_device.Stream, config, _step.Input, layer.Values, bytes, _step.CopyCount);
        }
    }

    private static int GroupsOf(long elements) =>
        checked((int)((elements + RowKernels.Threads - 1) / RowKernels.Threads));

    private static KernelConfig Rows(int rows) => new(rows, RowKernels.Threads);

    /// <inheritdoc/>
    public void Embed(Matrix table, float scale, Tensor x)
    {
        IlgpuMatrix matrix = Own(table);
        CheckFloats(x, _step.Input.Tokens, table.Columns, nameof(x));
        if (matrix.Segments.Length != 1)
            throw new ArgumentException("a table of embeddings has one format", nameof(table));
        if (_step.Ids.Least < 0 || _step.Ids.Greatest >= table.Rows)
        {
            int wrong = _step.Ids.Least < 0 ? _step.Ids.Least : _step.Ids.Greatest;
            throw new ArgumentException($"token {wrong} is not in a table of {table.Rows}", nameof(table));
        }
        Product product = ProductOf(matrix.Segments[0], matrix.Columns, default, default, default);
        (product.Y, product.Stride) = (Floats(x), x.Columns);
        _device.Kernels.Of(matrix.Segments[0].Layout).Embed(
            _device.Stream, Rows(x.Rows), product, _step.Input, _last, scale);
    }

    /// <inheritdoc/>
    public void RmsNorm(Tensor x, Tensor weight, float epsilon, Tensor y)
    {
        CheckFloats(x, y.Rows, y.Columns, nameof(x));
        CheckFloats(y, x.Rows, x.Columns, nameof(y));
        CheckFloats(weight, 1, x.Columns, nameof(weight));
        _device.Kernels.RmsNorm(
            _device.Stream, Rows(x.Rows), Floats(x), Floats(weight), epsilon, Floats(y), x.Columns);
    }

    /// <inheritdoc/>
    public void MatMul(Tensor x, Matrix w, Tensor bias, Tensor y, RowNorm norm = default)
    {
        CheckProduct(x, w, bias, y, w.Rows, norm);
        Multiply(x, Own(w), bias, Floats(y), w.Rows, norm, ending: 0);
    }

    /// <inheritdoc/>
    public void MatMulAdd(Tensor x, Matrix w, Tensor bias, Tensor y)
    {
        CheckProduct(x, w, bias, y, w.Rows, default);
        Multiply(x, Own(w), bias, Floats(y), w.Rows, default, ending: 1);
    }

    /// <inheritdoc/>
    public void MatMulGate(Tensor x, Matrix w, Tensor bias, Activation activation, Tensor y, RowNorm norm = default)
    {
        IlgpuMatrix matrix = Own(w);
        CheckProduct(x, w, bias, y, w.Rows / 2, norm);
        int gelu = activation == Activation.GeluTanh ? 1 : 0;
        if (matrix.Segments.Length == 1 && w.Rows % 2 == 0)
        {
            Product product = ProductOf(matrix.Segments[0], w.Columns, x, bias, norm);
            (product.Y, product.Stride, product.Ending) = (Floats(y), y.Columns, gelu);
            Launch(_device.Kernels.Of(matrix.Segments[0].Layout).MatMulGate, product, w.Rows / 2);
            return;
        }
        if (matrix.Segments.Length != 2 || matrix.Segments[0].Rows != matrix.Segments[1].Rows)
            throw new ArgumentException(
                $"the matrix of {w.Rows} rows is not two parts of equal height: gate, up", nameof(w));
        _gates.Reserve(4L * x.Rows * w.Rows);
        Multiply(x, matrix, bias, _gates.Floats, w.Rows, norm, ending: 0);
        _device.Kernels.Gate(_device.Stream, Rows(x.Rows), _gates.Floats, Floats(y), y.Columns, gelu);
    }

    private void Multiply(
        Tensor x, IlgpuMatrix w, Tensor bias, ArrayView<float> y, int stride, RowNorm norm, int ending)
    {
        foreach (IlgpuMatrix.Segment segment in w.Segments)
        {
            Product product = ProductOf(segment, w.Columns, x, bias, norm);
            (product.Y, product.Stride, product.Ending) = (y.SubView(segment.FirstRow), stride, ending);
            Launch(_device.Kernels.Of(segment.Layout).MatMul, product, segment.Rows);
            norm = norm with { Epsilon = float.NaN }; // the rows' scales are there
        }
    }

    /// <summary>What a product reads; the rows' scales are computed unless epsilon is NaN.</summary>
    private Product ProductOf(IlgpuMatrix.Segment segment, int columns, Tensor x, Tensor bias, RowNorm norm)
    {
        Product product = new()
        {
            X = Floats(x),
            Tokens = x.Rows,
            Weights = segment.Weights.View.BaseView.Cast<uint>(),
            Groups = segment.Groups.View.BaseView.Cast<float>(),
            Rows = segment.Rows,
            Columns = columns,
            Bias = bias.IsEmpty ? Floats(default) : Floats(bias).SubView(segment.FirstRow),
            HasBias = bias.IsEmpty ? 0 : 1,
            Norm = Floats(norm.Weight),
            HasNorm = norm.Weight.IsEmpty ? 0 : 1,
            Scales = Floats(default),
        };
        if (product.HasNorm == 0) return product;
        _scales.Reserve(4L * x.Rows);
        product.Scales = _scales.Floats;
        if (!float.IsNaN(norm.Epsilon))
            _device.Kernels.RmsScale(_device.Stream, Rows(x.Rows), product.X, norm.Epsilon, product.Scales, columns);
        return product;
    }

    private void Launch(Action<AcceleratorStream, KernelConfig, Product> kernel, Product product, int outputs)
    {
        if (product.Tokens == 0) return;
        Index3D grid = new((outputs + MatMulKernels.GroupRows - 1) / MatMulKernels.GroupRows,
            (product.Tokens + MatMulKernels.RowTile - 1) / MatMulKernels.RowTile, 1);
        kernel(_device.Stream, new KernelConfig(grid, new Index3D(RowKernels.Threads, 1, 1)), product);
    }

    /// <inheritdoc/>
    public void Attend(Tensor qkv, AttentionShape shape, KvLayer cache, Tensor y)
    {
        IlgpuKvLayer layer = cache as IlgpuKvLayer
            ?? throw new ArgumentException("the cache is another backend's", nameof(cache));
        int tokens = _step.Input.Tokens;
        CheckAttention(qkv, tokens, shape, layer.Shape,
            (uint)shape.Rope < (uint)_ropes.Count ? _ropes[shape.Rope].Pairs : -1);
        if (shape.HeadSize > AttentionKernels.MostSize)
            throw new ArgumentException(
                $"heads of {shape.HeadSize} elements, at most {AttentionKernels.MostSize}", nameof(shape));
        CheckFloats(y, tokens, shape.Heads * shape.HeadSize, nameof(y));
        int parts = Math.Max(1, (_step.MostPositions + AttentionKernels.Part - 1) / AttentionKernels.Part);
        long rowBytes = 4L * shape.Heads * parts * (shape.HeadSize + 2);
        int atOnce = (int)Math.Clamp(PartialBytes / rowBytes, 1, tokens);
        _partials.Reserve(atOnce * rowBytes);
        Attention attention = AttentionOf(qkv, shape, layer, y, parts);
        Index3D threads = new(AttentionKernels.Threads, 1, 1);
        _device.Kernels.Of(layer.Shape.Type).Store(_device.Stream,
            new KernelConfig(new Index3D(tokens, shape.Heads + 2 * shape.KvHeads, 1), threads), attention, _step.Input);
        for (int first = 0; first < tokens; first += atOnce)
        {
            attention.First = first;
            int rows = Math.Min(atOnce, tokens - first);
            _device.Kernels.Of(layer.Shape.Type).Attend(_device.Stream,
                new KernelConfig(new Index3D(rows, shape.Heads, parts), threads), attention, _step.Input);
            _device.Kernels.Combine(_device.Stream,
                new KernelConfig(new Index3D(rows, shape.Heads, 1), threads), attention, _step.Input);
        }
    }

    private Attention AttentionOf(Tensor qkv, AttentionShape shape, IlgpuKvLayer layer, Tensor y, int parts) => new()
    {
        Qkv = Floats(qkv),
        QueryNorm = Floats(shape.QueryNorm),
        HasQueryNorm = shape.QueryNorm.IsEmpty ? 0 : 1,
        KeyNorm = Floats(shape.KeyNorm),
        HasKeyNorm = shape.KeyNorm.IsEmpty ? 0 : 1,
        Keys = layer.Keys,
        Values = layer.Values,
        Partials = _partials.Floats,
        Y = Floats(y),
        Heads = shape.Heads,
        KvHeads = shape.KvHeads,
        Size = shape.HeadSize,
        Rotations = _step.Rotations[shape.Rope],
        Pairs = _ropes[shape.Rope].Pairs,
        Interleaved = shape.Pairing == RopePairing.Interleaved ? 1 : 0,
        BlockSize = layer.Shape.BlockSize,
        Parts = parts,
        Window = shape.Window,
        Scale = shape.Scale,
        SoftCap = shape.SoftCap,
        NormEpsilon = shape.NormEpsilon,
    };

    /// <inheritdoc/>
    public void Add(Tensor x, Tensor delta)
    {
        CheckFloats(x, delta.Rows, delta.Columns, nameof(x));
        CheckFloats(delta, x.Rows, x.Columns, nameof(delta));
        long count = (long)x.Rows * x.Columns;
        _device.Kernels.Add(_device.Stream, Rows(GroupsOf(count)), Floats(x), Floats(delta), count);
    }

    /// <inheritdoc/>
    public void Gather(Tensor x, int first, Tensor y)
    {
        CheckFloats(x, _step.Input.Tokens, y.Columns, nameof(x));
        CheckFloats(y, y.Rows, x.Columns, nameof(y));
        CheckSampled(first, y.Rows);
        _device.Kernels.Gather(_device.Stream, Rows(y.Rows), _step.Input, first, Floats(x), Floats(y), x.Columns);
    }

    /// <inheritdoc/>
    public void SoftCap(Tensor x, float cap)
    {
        CheckFloats(x, x.Rows, x.Columns, nameof(x));
        long count = (long)x.Rows * x.Columns;
        _device.Kernels.SoftCap(_device.Stream, Rows(GroupsOf(count)), Floats(x), cap, count);
    }

    /// <inheritdoc/>
    public void Sample(Tensor logits, int first)
    {
        CheckFloats(logits, logits.Rows, logits.Columns, nameof(logits));
        if (!_launching) throw new InvalidOperationException("rows are sampled within a launch");
        CheckSampled(first, logits.Rows);
        _scores.Reserve(4L * logits.Rows * logits.Columns);
        _sums.Reserve(4L * logits.Rows);
        _counts.Reserve(logits.Columns);
        Sampling sampling = new()
        {
            Logits = Floats(logits),
            Scores = _scores.Floats,
            Sums = _sums.Floats,
            Counts = _countsOfTokens.Words,
            Results = _step.Results.Device,
            Last = _last,
            First = first,
            Vocabulary = logits.Columns,
        };
        _device.Kernels.Sample(_device.Stream, Rows(logits.Rows), sampling, _step.Input);
        if (_step.Draws) _device.Kernels.Draw(_device.Stream, Rows(logits.Rows), sampling, _step.Input);
    }

    /// <inheritdoc/>
    public void Hidden(Tensor x, RowNorm norm)
    {
        CheckFloats(x, _step.Input.Tokens, x.Columns, nameof(x));
        CheckFloats(norm.Weight, 1, x.Columns, nameof(norm));
        _hiddenColumns = x.Columns;
        _step.Hidden.Reserve((long)_step.HiddenRows * x.Columns);
        _device.Kernels.Hidden(_device.Stream, Rows(_step.HiddenRows), _step.Input, Floats(x), Floats(norm.Weight),
            norm.Epsilon, _step.Hidden.Device.Cast<float>(), x.Columns);
    }

    /// <inheritdoc/>
    public void Read(Tensor x, Span<float> values)
    {
        CheckFloats(x, x.Rows, x.Columns, nameof(x));
        int count = checked(x.Rows * x.Columns);
        if (count == 0) return;
        fixed (float* to = values[..count])
        {
            using CPUMemoryBuffer host = CPUMemoryBuffer.Create(_device.Accelerator, to, count);
            Floats(x).SubView(0, count).CopyTo(_device.Stream, host.AsArrayView<float>(0, count));
            _device.Stream.Synchronize();
        }
    }

    /// <summary>Frees all memory. Tensors and matrices of this backend are invalid afterwards.</summary>
    public void Dispose()
    {
        if (_disposed) return;
        _disposed = true;
        if (Fault is null) Wait();
        _step.Dispose();
        IlgpuBuffer[] buffers = [_scales, _gates, _partials, _scores, _sums, _countsOfTokens];
        foreach (IlgpuBuffer buffer in buffers) buffer.Dispose();
        foreach (MemoryBuffer1D<byte, Stride1D.Dense> buffer in _buffers) buffer.Dispose();
        _device.Dispose();
    }

    private static IlgpuMatrix Own(Matrix matrix) =>
        matrix as IlgpuMatrix ?? throw new ArgumentException("the matrix is another backend's", nameof(matrix));

    private void CheckSampled(int first, int rows)
    {
        if (first < 0 || (long)first + rows > _step.SampleRows)
            throw new ArgumentOutOfRangeException(nameof(first), first,
                $"{rows} rows from there, of {_step.SampleRows}");
    }
}
