using Native.Kernels.Files;
using Native.Kernels.Sampling;

namespace Native.Kernels;

/// <summary>The transformer's operations on one kind of hardware. The graph is written once over these.</summary>
/// <remarks>
/// Every operation works on the rows of the step given to <see cref="Begin"/>; calls may only enqueue, and
/// <see cref="Sample"/> and <see cref="Read"/> alone wait. One row's result never depends on what other rows are in the batch: one reduction
/// order per row, whatever the batch, the chunking and the thread count. Tensors are float32 unless said otherwise.
/// </remarks>
public interface IBackend : IDisposable
{
    /// <summary>In words, e.g. <c>cpu (AVX2, 2 threads)</c>.</summary>
    string Description { get; }

    /// <summary>A zeroed tensor that lives as long as the backend.</summary>
    Tensor Allocate(int rows, int columns, DType type);

    /// <summary>A one-row float32 tensor with these values (norm weights, biases) that lives as long as the backend.</summary>
    Tensor Upload(ReadOnlySpan<float> values);

    /// <summary>Takes weights into this backend's compute layout. The source may be closed afterwards.</summary>
    /// <param name="parts">Matrices of the same number of columns, of any formats; their rows are stacked in order (q, k, v or gate, up).</param>
    /// <param name="fineActivations">For each part, whether a backend that rounds activations to eight bits for quantized weights keeps sixteen for it wherever eight lose much; empty is no for all.</param>
    /// <exception cref="NotSupportedException">A format this backend can't compute with, named with those it can.</exception>
    Matrix Load(ReadOnlySpan<TensorView> parts, ReadOnlySpan<bool> fineActivations = default);

    /// <summary>Registers a table of rotary frequencies; the number returned is what <see cref="AttentionShape.Rope"/> refers to.</summary>
    /// <param name="inverseFrequencies">Radians a position, one for each pair of rotated dimensions.</param>
    /// <param name="magnitude">Multiplies sine and cosine (longrope's and yarn's attention factor; 1 without).</param>
    int AddRope(ReadOnlySpan<double> inverseFrequencies, float magnitude);

    /// <summary>Makes a step's ids, positions and block tables known to the operations that follow. The spans are not kept.</summary>
    void Begin(in Batch batch);

    /// <summary>x[t] = table[TokenIds[t]] * scale.</summary>
    void Embed(Matrix table, float scale, Tensor x);

    /// <summary>y[t] = x[t] / sqrt(mean(x[t]^2) + epsilon) * weight (Zhang and Sennrich 2019, arXiv:1910.07467). y may be x.</summary>
    void RmsNorm(Tensor x, Tensor weight, float epsilon, Tensor y);

    /// <summary>y[t] = w norm(x[t]) + bias; y has shape [T, w.Rows]. An empty bias is none, and so is a norm left out.</summary>
    void MatMul(Tensor x, Matrix w, Tensor bias, Tensor y, RowNorm norm = default);

    /// <summary>y[t] += w x[t] + bias: what a sublayer's last product does to the residual stream.</summary>
    void MatMulAdd(Tensor x, Matrix w, Tensor bias, Tensor y);

    /// <summary>y[t][i] = activation(g[i]) * g[n + i] with g = w norm(x[t]) + bias (Shazeer 2020, arXiv:2002.05202).</summary>
    /// <param name="x">Shape [T, w.Columns].</param>
    /// <param name="w">Two parts of n rows each: gate, up.</param>
    /// <param name="bias">Shape [1, 2 n], or empty.</param>
    /// <param name="activation">Of the gate.</param>
    /// <param name="y">Shape [T, n].</param>
    /// <param name="norm">As in <see cref="MatMul"/>.</param>
    void MatMulGate(Tensor x, Matrix w, Tensor bias, Activation activation, Tensor y, RowNorm norm = default);

    /// <summary>Normalizes (where the shape has norms) and rotates queries and keys, stores keys and values in the cache at the step's slots, and computes causal attention over the paged cache: y[t] = softmax(cap(q[t] K^T * scale)) V, over positions of the row's own sequence that are not after it and, with a window W, fewer than W before it.</summary>
    /// <param name="qkv">Projections, shape [T, (H + 2 * Hkv) * d]: all query heads, all key heads, all value heads. Undefined afterwards.</param>
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

    /// <summary>Chooses or scores the tokens of sample rows <paramref name="first"/> and on, one for each row of <paramref name="logits"/>, and waits for them.</summary>
    /// <param name="logits">Shape [rows, vocabulary]; overwritten.</param>
    /// <param name="first">Index into the step's <see cref="Batch.SampleRows"/> of the first row.</param>
    /// <param name="batch">The step given to <see cref="Begin"/>.</param>
    /// <param name="sampled">The whole step's results; entries first.. are written.</param>
    /// <param name="alternatives">The whole step's best tokens.</param>
    void Sample(Tensor logits, int first, in Batch batch, Span<SampledToken> sampled, Span<TokenLogprob> alternatives);

    /// <summary>Waits, and copies a float32 tensor's values out. For measurements: a step that serves reads nothing back but what <see cref="Sample"/> gives.</summary>
    void Read(Tensor x, Span<float> values);

    /// <summary>Copies one block of one layer.</summary>
    void CopyBlock(KvLayer cache, int source, int destination);
}

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

/// <summary>One layer's paged keys and values: shape [blocks, Hkv * blockSize * d] each. Inside a block: keys [Hkv, d, blockSize], values [Hkv, blockSize, d].</summary>
/// <remarks>With <see cref="DType.Q8_0"/> either's d * blockSize bytes of a head are followed by their scales, [ceil(d / 32), blockSize] of bfloat16.</remarks>
/// <param name="Keys">Rotated keys.</param>
/// <param name="Values">Values.</param>
/// <param name="BlockSize">Tokens a block.</param>
public readonly record struct KvLayer(Tensor Keys, Tensor Values, int BlockSize);

/// <summary>An RMS norm of rows on their way into a product; the default value is none.</summary>
/// <param name="Weight">Shape [1, n].</param>
/// <param name="Epsilon">Added to the mean square.</param>
public readonly record struct RowNorm(Tensor Weight, float Epsilon);

/// <summary>What a gate's activation is.</summary>
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
    /// <summary>i with i + n/2: Hugging Face's layout, GGUF's for all but llama.</summary>
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

    /// <summary>The table given by <see cref="IBackend.AddRope"/>; it rotates the first 2 * its length elements of a head.</summary>
    public required int Rope { get; init; }

    /// <summary>How elements pair up.</summary>
    public required RopePairing Pairing { get; init; }

    /// <summary>Multiplies q k^T.</summary>
    public required float Scale { get; init; }

    /// <summary>Positions a row sees, itself included; 0 sees all.</summary>
    public int Window { get; init; }

    /// <summary>Logits become cap * tanh(logit / cap); 0 leaves them.</summary>
    public float SoftCap { get; init; }

    /// <summary>Weight of the RMS norm over each query head before rotation, shape [1, d]; empty for none.</summary>
    public Tensor QueryNorm { get; init; }

    /// <summary>Likewise for key heads.</summary>
    public Tensor KeyNorm { get; init; }

    /// <summary>Epsilon of those norms.</summary>
    public float NormEpsilon { get; init; }
}
