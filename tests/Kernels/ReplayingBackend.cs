using Native.Kernels;
using Native.Kernels.Files;
using Native.Kernels.Sampling;

namespace Native.Tests.Kernels;

/// <summary>A backend that records a graph's operations the first time a shape comes, and replays them from then on, as
/// a GPU does.</summary>
internal sealed class ReplayingBackend(IBackend inner) : IBackend
{
    private readonly Dictionary<StepShape, List<Action>> _recorded = [];
    private List<Action>? _recording;

    /// <summary>Graphs recorded.</summary>
    public int Recorded => _recorded.Count;

    /// <summary>Steps that were replayed.</summary>
    public int Replayed { get; private set; }

    /// <summary>How often rows met <see cref="Sample"/>, replays included.</summary>
    public int Samples { get; private set; }

    public BackendInfo Info => inner.Info;

    public long FreeBytes => inner.FreeBytes;

    public Tensor Allocate(int rows, int columns, DType type) => inner.Allocate(rows, columns, type);

    public Tensor Upload(ReadOnlySpan<float> values) => inner.Upload(values);

    public Matrix Load(ReadOnlySpan<TensorView> parts, MatrixRole role) => inner.Load(parts, role);

    public long KvBlockBytes(KvShape shape) => inner.KvBlockBytes(shape);

    public KvLayer AllocateKv(KvShape shape, int blocks) => inner.AllocateKv(shape, blocks);

    public int AddRope(ReadOnlySpan<double> inverseFrequencies, float magnitude) => inner.AddRope(inverseFrequencies, magnitude);

    public void Launch(in Batch batch, IStepGraph graph) => inner.Launch(batch, new TestGraph(shape =>
    {
        if (!_recorded.TryGetValue(shape, out List<Action>? operations))
        {
            _recorded[shape] = _recording = operations = [];
            graph.Enqueue(shape);
            _recording = null;
        }
        else Replayed++;
        foreach (Action operation in operations) operation();
    }));

    public void Collect(Span<SampledToken> sampled, Span<TokenLogprob> alternatives, Span<float> hidden = default) =>
        inner.Collect(sampled, alternatives, hidden);

    public void Embed(Matrix table, float scale, Tensor x) => Do(() => inner.Embed(table, scale, x));

    public void RmsNorm(Tensor x, Tensor weight, float epsilon, Tensor y) => Do(() => inner.RmsNorm(x, weight, epsilon, y));

    public void MatMul(Tensor x, Matrix w, Tensor bias, Tensor y, RowNorm norm = default) => Do(() => inner.MatMul(x, w, bias, y, norm));

    public void MatMulAdd(Tensor x, Matrix w, Tensor bias, Tensor y) => Do(() => inner.MatMulAdd(x, w, bias, y));

    public void MatMulGate(Tensor x, Matrix w, Tensor bias, Activation activation, Tensor y, RowNorm norm = default) =>
        Do(() => inner.MatMulGate(x, w, bias, activation, y, norm));

    public void Attend(Tensor qkv, AttentionShape shape, KvLayer cache, Tensor y) => Do(() => inner.Attend(qkv, shape, cache, y));

    public void Add(Tensor x, Tensor delta) => Do(() => inner.Add(x, delta));

    public void Gather(Tensor x, int first, Tensor y) => Do(() => inner.Gather(x, first, y));

    public void SoftCap(Tensor x, float cap) => Do(() => inner.SoftCap(x, cap));

    public void Sample(Tensor logits, int first) => Do(() =>
    {
        Samples++;
        inner.Sample(logits, first);
    });

    public void Hidden(Tensor x, RowNorm norm) => Do(() => inner.Hidden(x, norm));

    public void Read(Tensor x, Span<float> values) => inner.Read(x, values);

    public void Dispose() => inner.Dispose();

    private void Do(Action operation) => (_recording ?? throw new InvalidOperationException("an operation outside of a graph")).Add(operation);
}
