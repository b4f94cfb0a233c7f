using Native.Kernels.Files;
using Native.Kernels.Sampling;

namespace Native.Kernels;

/// <summary>The transformer's operations on one kind of hardware. The graph is written once over these.</summary>
/// <remarks>
/// Every operation works on the rows of the step launched last. Calls may only enqueue; only <see cref="Collect"/> and
/// <see cref="Read"/> wait. A row's result never depends on other rows of the batch: the order of its reduction is the
/// same for every batch, chunking and thread count. Tensors are float32 or <see cref="BackendInfo.ScratchType"/> unless
/// said otherwise.
/// </remarks>
public interface IBackend : IDisposable
{
    /// <summary>What the graph must know of the backend.</summary>
    BackendInfo Info { get; }

    /// <summary>Free bytes of its memory, now.</summary>
    long FreeBytes { get; }

    /// <summary>What broke it for good: it computes nothing any more, and every later step would fail alike. Null while
    /// it works. A step that failed alone is none.</summary>
    Exception? Fault => null;

    /// <summary>A zeroed tensor that lives as long as the backend.</summary>
    Tensor Allocate(int rows, int columns, DType type);

    /// <summary>A one-row float32 tensor with these values (norm weights, biases) that lives as long as the
    /// backend.</summary>
    Tensor Upload(ReadOnlySpan<float> values);

    /// <summary>Copies weights into this backend's compute layout. The source may be closed afterwards.</summary>
    /// <param name="parts">Matrices with the same number of columns, in any formats. Their rows are stacked in order
    /// (q, k, v or gate, up).</param>
    /// <param name="role">What the matrix is for. A backend chooses precision and layout by it.</param>
    /// <exception cref="NotSupportedException">A format this backend can't compute with, named with those it
    /// can.</exception>
    Matrix Load(ReadOnlySpan<TensorView> parts, MatrixRole role);

    /// <summary>Bytes that one block of one layer's keys and values takes.</summary>
    long KvBlockBytes(KvShape shape);

    /// <summary>Zeroed blocks for one layer's keys and values, in this backend's layout. They live as long as the
    /// backend.</summary>
    /// <exception cref="NotSupportedException">An element type this backend can't keep, named with those it
    /// can.</exception>
    KvLayer AllocateKv(KvShape shape, int blocks);

    /// <summary>Registers a table of rotary frequencies; the number returned is what <see cref="AttentionShape.Rope"/>
    /// refers to.</summary>
    /// <param name="inverseFrequencies">Radians a position, one for each pair of rotated dimensions.</param>
    /// <param name="magnitude">Multiplies sine and cosine (longrope's and yarn's attention factor; 1 without).</param>
    int AddRope(ReadOnlySpan<double> inverseFrequencies, float magnitude);

    /// <summary>Uploads a step, copies its blocks, and enqueues its graph. The batch's spans are not kept.</summary>
    /// <param name="batch">The step, checked by the caller.</param>
    /// <param name="graph">Enqueues the step's operations, or did so for an earlier step of the same shape.</param>
    /// <remarks>After an exception this step is not launched, and earlier ones are unaffected.</remarks>
    /// <exception cref="InvalidOperationException">The allowed number of steps is in flight already.</exception>
    void Launch(in Batch batch, IStepGraph graph);

    /// <summary>Waits for the oldest launched step; see <see cref="IModelRunner.Collect"/>.</summary>
    void Collect(Span<SampledToken> sampled, Span<TokenLogprob> alternatives, Span<float> hidden = default);

    /// <summary>x[t] = table[TokenIds[t]] * scale.</summary>
    void Embed(Matrix table, float scale, Tensor x);

    /// <summary>y[t] = x[t] / sqrt(mean(x[t]^2) + epsilon) * weight (Zhang and Sennrich 2019, arXiv:1910.07467). y may
    /// be x.</summary>
    void RmsNorm(Tensor x, Tensor weight, float epsilon, Tensor y);

    /// <summary>y[t] = w norm(x[t]) + bias; y has shape [T, w.Rows]. An empty bias or norm means none.</summary>
    void MatMul(Tensor x, Matrix w, Tensor bias, Tensor y, RowNorm norm = default);

    /// <summary>y[t] += w x[t] + bias: a sublayer's last product, added to the residual stream.</summary>
    void MatMulAdd(Tensor x, Matrix w, Tensor bias, Tensor y);

    /// <summary>y[t][i] = activation(g[i]) * g[n + i] with g = w norm(x[t]) + bias (Shazeer 2020,
    /// arXiv:2002.05202).</summary>
    /// <param name="x">Shape [T, w.Columns].</param>
    /// <param name="w">Two parts of n rows each: gate, up.</param>
    /// <param name="bias">Shape [1, 2 n], or empty.</param>
    /// <param name="activation">Of the gate.</param>
    /// <param name="y">Shape [T, n].</param>
    /// <param name="norm">As in <see cref="MatMul"/>.</param>
    void MatMulGate(Tensor x, Matrix w, Tensor bias, Activation activation, Tensor y, RowNorm norm = default);

    /// <summary>Normalizes (if the shape has norms) and rotates queries and keys, stores keys and values at the step's
    /// slots, and computes causal attention over the paged cache: y[t] = softmax(cap(q[t] K^T * scale)) V. A row sees
    /// positions of its own sequence up to its own; with a window W, only the last W of them.</summary>
    /// <param name="qkv">Projections, shape [T, (H + 2 * Hkv) * d]: all query heads, all key heads, all value heads.
    /// Undefined afterwards.</param>
    /// <param name="shape">The layer's attention.</param>
    /// <param name="cache">The layer's keys and values.</param>
    /// <param name="y">Shape [T, H * d].</param>
    void Attend(Tensor qkv, AttentionShape shape, KvLayer cache, Tensor y);

    /// <summary>x += delta.</summary>
    void Add(Tensor x, Tensor delta);

    /// <summary>y[i] = x[SampleRows[first + i]] for all rows i of y.</summary>
    void Gather(Tensor x, int first, Tensor y);

    /// <summary>x = cap * tanh(x / cap), in place.</summary>
    void SoftCap(Tensor x, float cap);

    /// <summary>Chooses or scores the tokens of the sample rows from <paramref name="first"/> on, one for each row of
    /// <paramref name="logits"/>.</summary>
    /// <remarks>Only enqueues: <see cref="Collect"/> gives the results.</remarks>
    /// <param name="logits">Shape [rows, vocabulary] of float32; overwritten.</param>
    /// <param name="first">Index into the step's <see cref="Batch.SampleRows"/> of the first row.</param>
    void Sample(Tensor logits, int first);

    /// <summary>Keeps the normalized rows <see cref="Batch.HiddenRows"/> of <paramref name="x"/> as float32 for
    /// <see cref="Collect"/>.</summary>
    void Hidden(Tensor x, RowNorm norm);

    /// <summary>Waits, and copies a tensor's values out as float32. For measurements: serving reads back only what
    /// <see cref="Collect"/> gives.</summary>
    void Read(Tensor x, Span<float> values);
}

/// <summary>What a backend is.</summary>
public sealed record BackendInfo
{
    /// <summary>In words, e.g. <c>cpu (AVX2, 2 threads)</c>.</summary>
    public required string Description { get; init; }

    /// <summary>Element type of the tensors between operations.</summary>
    public DType ScratchType { get; init; } = DType.F32;

    /// <summary>Element types that its KV caches may have.</summary>
    public IReadOnlyList<DType> CacheTypes { get; init; } = [DType.F32, DType.F16, DType.BF16, DType.Q8_0];

    /// <summary>Least number of rows that meet the head at once. Bounds the memory of logits when a prompt is
    /// scored.</summary>
    public int HeadRows { get; init; } = 64;

    /// <summary>A step that is recorded may be padded up to the next multiple of so many rows.</summary>
    public int RowMultiple { get; init; } = 1;

    /// <summary>Whether kernels are compiled when they first run, which takes seconds: a model's first step is made
    /// while it loads.</summary>
    public bool CompilesAtFirstStep { get; init; }

    /// <summary>All bytes of a memory of its own; null where it computes in the machine's.</summary>
    public long? DeviceBytes { get; init; }

    /// <summary>See <see cref="ModelInfo.StepsInFlight"/>.</summary>
    public int StepsInFlight { get; init; } = 1;
}

/// <summary>A step's sizes. A backend that records graphs may pad them up to a few values.</summary>
/// <param name="Tokens">Rows, T.</param>
/// <param name="Sequences">Sequences, S.</param>
/// <param name="SampleRows">Rows that meet the head, R.</param>
/// <param name="HiddenRows">Rows whose hidden state is wanted, E.</param>
/// <param name="DecodesOnly">True where every sequence has one row.</param>
public readonly record struct StepShape(int Tokens, int Sequences, int SampleRows, int HiddenRows, bool DecodesOnly);

/// <summary>What a step computes, as calls of a backend's operations.</summary>
public interface IStepGraph
{
    /// <summary>Tokens that a step may be padded up to, where it is recorded and comes again; 0 for one that is
    /// enqueued once.</summary>
    int MostTokens { get; }

    /// <summary>Enqueues the operations. They depend on the shape alone, so they can be recorded and
    /// replayed.</summary>
    void Enqueue(in StepShape shape);
}

/// <summary>What a matrix is for.</summary>
public enum MatrixUse : byte
{
    /// <summary>Rows are looked up by token.</summary>
    Embedding,

    /// <summary>Gives the logits.</summary>
    Head,

    /// <summary>Embedding and head are one matrix.</summary>
    EmbeddingAndHead,

    /// <summary>Three parts: queries, keys, values.</summary>
    Qkv,

    /// <summary>From attention back to the residual stream.</summary>
    AttentionOutput,

    /// <summary>Two parts: gate, up.</summary>
    GateUp,

    /// <summary>From the feed-forward back to the residual stream.</summary>
    Down,
}

/// <summary>A matrix's use and place.</summary>
/// <param name="Use">What it is for.</param>
/// <param name="LastLayer">True in the last layer, whose errors no later layer dampens.</param>
public readonly record struct MatrixRole(MatrixUse Use, bool LastLayer = false);

/// <summary>Weights in a backend's own compute layout.</summary>
public abstract class Matrix(int rows, int columns, long byteLength)
{
    /// <summary>Output features.</summary>
    public int Rows { get; } = rows;

    /// <summary>Input features, the reduction dimension.</summary>
    public int Columns { get; } = columns;

    /// <summary>Bytes the layout takes.</summary>
    public long ByteLength { get; } = byteLength;
}

/// <summary>Sizes and type of one layer's keys and values, independent of their layout.</summary>
/// <param name="KvHeads">Key and value heads, Hkv.</param>
/// <param name="HeadSize">Elements a head, d.</param>
/// <param name="BlockSize">Tokens a block.</param>
/// <param name="Type">Element type.</param>
public readonly record struct KvShape(int KvHeads, int HeadSize, int BlockSize, DType Type);

/// <summary>One layer's paged keys and values in a backend's own layout (Kwon et al. 2023, arXiv:2309.06180).</summary>
/// <remarks>The scheduler knows which sequence owns a block. Here a block is a row of memory.</remarks>
public abstract class KvLayer(KvShape shape, int blocks, long byteLength)
{
    /// <summary>What is kept.</summary>
    public KvShape Shape { get; } = shape;

    /// <summary>Blocks.</summary>
    public int Blocks { get; } = blocks;

    /// <summary>Bytes of all blocks.</summary>
    public long ByteLength { get; } = byteLength;
}

/// <summary>An RMS norm of a product's input rows. The default value means none.</summary>
/// <param name="Weight">Shape [1, n].</param>
/// <param name="Epsilon">Added to the mean square.</param>
public readonly record struct RowNorm(Tensor Weight, float Epsilon);

/// <summary>Activation of a gate.</summary>
public enum Activation : byte
{
    /// <summary>x * sigmoid(x).</summary>
    Silu,

    /// <summary>GELU in its tanh form (Hendrycks and Gimpel 2016, arXiv:1606.08415).</summary>
    GeluTanh,
}

/// <summary>Which elements of a head a rotation pairs.</summary>
public enum RopePairing : byte
{
    /// <summary>i with i + n/2: Hugging Face's layout, and GGUF's for all families but llama.</summary>
    HalfSplit,

    /// <summary>2i with 2i + 1: the paper's layout (Su et al. 2021, arXiv:2104.09864), and GGUF's for llama.</summary>
    Interleaved,
}

/// <summary>One layer's attention.</summary>
public sealed record AttentionShape
{
    /// <summary>Query heads, H.</summary>
    public required int Heads { get; init; }

    /// <summary>Key and value heads, Hkv; divides H.</summary>
    public required int KvHeads { get; init; }

    /// <summary>Elements a head, d.</summary>
    public required int HeadSize { get; init; }

    /// <summary>The number given by <see cref="IBackend.AddRope"/>. A table of n pairs rotates the first 2 n elements
    /// of a head.</summary>
    public required int Rope { get; init; }

    /// <summary>How elements pair up.</summary>
    public required RopePairing Pairing { get; init; }

    /// <summary>Multiplies q k^T.</summary>
    public required float Scale { get; init; }

    /// <summary>Positions that a row sees, its own included; 0 means all.</summary>
    public int Window { get; init; }

    /// <summary>Logits become cap * tanh(logit / cap); 0 means no cap.</summary>
    public float SoftCap { get; init; }

    /// <summary>Weight of the RMS norm over each query head before rotation, shape [1, d]; empty for none.</summary>
    public Tensor QueryNorm { get; init; }

    /// <summary>Likewise for key heads.</summary>
    public Tensor KeyNorm { get; init; }

    /// <summary>Epsilon of those norms.</summary>
    public float NormEpsilon { get; init; }
}
