namespace Native.Kernels.Cuda;

/// <summary>What a recorded step depends on besides the memory that its kernels read: its padded shape, and the parts
/// that its longest context is cut into.</summary>
internal readonly record struct GraphKey(int Tokens, int SampleRows, int Parts);

/// <summary>Decode steps by their shape: enqueued the first time, when scratch grows to what they need; recorded the
/// second time; then queued by one call.</summary>
internal sealed class CudaGraphs(CudaDevice device) : IDisposable
{
    private readonly Dictionary<GraphKey, CudaGraph?> _graphs = []; // null: met once
    private IStepGraph? _owner;

    /// <summary>Whether decode steps are recorded at all.</summary>
    public bool IsOn { get; init; } = true;

    /// <summary>No step is padded beyond the next multiple of this.</summary>
    public const int RowMultiple = 32;

    /// <summary>Rows that a decode step is padded up to: few shapes, and at most an eighth of the rows for
    /// nothing.</summary>
    public static int Padded(int rows) => rows switch
    {
        <= 4 => rows,
        <= 32 => (rows + 3) / 4 * 4,
        <= 128 => (rows + 7) / 8 * 8,
        _ => (rows + RowMultiple - 1) / RowMultiple * RowMultiple,
    };

    /// <summary>Parts of a context, padded to a power of two.</summary>
    public static int PaddedParts(int parts) => (int)System.Numerics.BitOperations.RoundUpToPowerOf2((uint)parts);

    /// <summary>Queues a step of a shape.</summary>
    /// <param name="graph">What enqueues it.</param>
    /// <param name="key">Its shape.</param>
    /// <param name="shape">The same for the graph.</param>
    public void Launch(IStepGraph graph, GraphKey key, in StepShape shape)
    {
        if (_owner != graph) Clear();
        _owner = graph;
        if (!_graphs.TryGetValue(key, out CudaGraph? recorded))
        {
            graph.Enqueue(shape);
            _graphs[key] = null; // after it: what throws is not met
            return;
        }
        if (recorded is null) _graphs[key] = recorded = Record(graph, shape);
        recorded.Launch();
    }

    // Apart, so that what it captures is allocated in here alone.
    private CudaGraph Record(IStepGraph graph, StepShape shape) =>
        CudaGraph.Record(device, () => graph.Enqueue(shape));

    /// <summary>Forgets all: memory that they name is no more.</summary>
    public void Clear()
    {
        foreach (CudaGraph? graph in _graphs.Values) graph?.Dispose();
        _graphs.Clear();
    }

    public void Dispose() => Clear();
}
