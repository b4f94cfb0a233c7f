using Native.Kernels;
using Native.Kernels.Gpu;
using Native.Kernels.Ilgpu;
using Native.Kernels.Sampling;
using Native.Tests.Gpu.Machine;

namespace Native.Tests.Gpu.Ilgpu;

/// <summary>The ilgpu backend's kernels, as PTX on the machine.</summary>
public sealed unsafe class IlgpuKernelTests : KernelContract
{
    private const int Threads = RowKernels.Threads;

    private static readonly Dictionary<WeightLayout, Type> s_weights = new()
    {
        [WeightLayout.Int4] = typeof(Int4Weights),
        [WeightLayout.Int8By32] = typeof(Int8By32Weights),
        [WeightLayout.Int8By16] = typeof(Int8By16Weights),
        [WeightLayout.F32] = typeof(F32Weights),
        [WeightLayout.F16] = typeof(F16Weights),
        [WeightLayout.BF16] = typeof(BF16Weights),
    };

    private protected override float[] RmsNorm(float[] x, int[]? rows, float[] weight)
    {
        int columns = weight.Length, count = rows?.Length ?? x.Length / columns;
        return Run(count * columns, null, (memory, y, options) =>
        {
            MemoryRange input = memory.Allocate<float>("x", x), norm = memory.Allocate<float>("weight", weight);
            if (rows is null)
                Launch(memory, nameof(RowKernels.RmsNorm), count, options, input, norm, Epsilon, y, columns);
            else
                Launch(memory, nameof(RowKernels.Hidden), count, options,
                    new TestWords().Part("HiddenRows", rows).In(memory), input, norm, Epsilon, y, columns);
        });
    }

    private protected override float[] RmsScale(float[] x, int columns) =>
        Run(x.Length / columns, null, (memory, y, options) => Launch(memory, nameof(RowKernels.RmsScale),
            x.Length / columns, options, memory.Allocate<float>("x", x), Epsilon, y, columns));

    private protected override float[] Gather(float[] x, int[] sampledRows, int first, int columns) =>
        Run((sampledRows.Length - first) * columns, null, (memory, y, options) =>
            Launch(memory, nameof(RowKernels.Gather), sampledRows.Length - first, options,
                new TestWords().Part("SampledRows", sampledRows).In(memory), first, memory.Allocate<float>("x", x), y,
                columns));

    private protected override float[] Add(float[] x, float[] delta) =>
        Run(x.Length, x, (memory, y, options) => Launch(memory, nameof(RowKernels.Add),
            (x.Length + Threads - 1) / Threads, options, y, memory.Allocate<float>("delta", delta), (long)x.Length));

    private protected override float[] SoftCap(float[] x, float cap) =>
        Run(x.Length, x, (memory, y, options) => Launch(memory, nameof(RowKernels.SoftCap),
            (x.Length + Threads - 1) / Threads, options, y, cap, (long)x.Length));

    private protected override float[] Multiply(PackedWeights w, bool gates, float[] x, int tokens, int ending,
        float[]? scales = null, float[]? norm = null, float[]? bias = null, float[]? before = null)
    {
        int outputs = gates ? w.Rows / 2 : w.Rows;
        Dim3 grid = new((outputs + MatMulKernels.GroupRows - 1) / MatMulKernels.GroupRows,
            (tokens + MatMulKernels.RowTile - 1) / MatMulKernels.RowTile);
        string kernel = gates ? nameof(MatMulKernels.MatMulGate) : nameof(MatMulKernels.MatMul);
        return Run(tokens * outputs, before, (memory, y, options) => IlgpuPtx.Launch(memory, typeof(MatMulKernels),
            kernel, [s_weights[w.Format.Layout]], grid, Threads, options,
            Product(memory, w, x, scales, norm, bias, y, tokens, outputs, ending)));
    }

    private protected override float[] Embed(PackedWeights w, int[] ids, int[] places, int[] last, float scale) =>
        Run(ids.Length * w.Columns, null, (memory, y, options) => IlgpuPtx.Launch(memory, typeof(MatMulKernels),
            nameof(MatMulKernels.Embed), [s_weights[w.Format.Layout]], new(ids.Length), Threads, options,
            Product(memory, w, null, null, null, null, y, ids.Length, w.Columns, 0),
            new TestWords().Part("Ids", ids).Part("Places", places).In(memory), memory.Allocate<int>("last", last),
            scale));

    private static Dictionary<string, object> Product(DeviceMemory memory, PackedWeights w, float[]? x, float[]? scales,
        float[]? norm, float[]? bias, MemoryRange y, int tokens, int stride, int ending)
    {
        MemoryRange In(string name, float[]? values) => memory.Allocate<float>(name, values ?? [0]);
        return IlgpuPtx.Fields(("X", In("x", x)), ("Scales", In("scales", scales)), ("Norm", In("norm", norm)),
            ("Weights", memory.Allocate<byte>("weights", [.. w.Weights, .. new byte[-w.Weights.Length & 3]])),
            ("Groups", In("groups", w.Groups.Length == 0 ? null : w.Groups)), ("Bias", In("bias", bias)), ("Y", y),
            ("Tokens", tokens), ("Rows", w.Rows), ("Columns", w.Columns), ("Stride", stride),
            ("HasNorm", norm is null ? 0 : 1), ("HasBias", bias is null ? 0 : 1), ("Ending", ending));
    }

    private static void Launch(DeviceMemory memory, string kernel, int groups, LaunchOptions options,
        params object[] arguments) =>
        IlgpuPtx.Launch(memory, typeof(RowKernels), kernel, [], new(groups), Threads, options, arguments);

    /// <summary>Runs a kernel in several orders, each with poisoned memory; the bits must be the same.</summary>
    private static float[] Run(int outputs, float[]? before, Action<DeviceMemory, MemoryRange, LaunchOptions> launch)
    {
        float[]? first = null;
        foreach (LaunchOptions options in MachineRun.Orders[..3])
        {
            using DeviceMemory memory = new();
            MemoryRange y = before is null ? memory.Allocate("y", outputs * 4L)
                : memory.Allocate<float>("y", before);
            launch(memory, y, options);
            float[] values = new Span<float>(y.Data, outputs).ToArray();
            first ??= values;
            Assert.Equal(first.Select(BitConverter.SingleToInt32Bits), values.Select(BitConverter.SingleToInt32Bits));
        }
        return first!;
    }
}

/// <summary>The ilgpu backend's attention, as PTX on the machine.</summary>
public sealed unsafe class IlgpuAttentionTests : AttentionContract
{
    private static readonly Dictionary<string, (Type Type, DType Kept)> s_types = new()
    {
        ["F32"] = (typeof(F32Cache), DType.F32),
        ["F16"] = (typeof(F16Cache), DType.F16),
        ["BF16"] = (typeof(BF16Cache), DType.BF16),
        ["Q8_0"] = (typeof(Q8Cache), DType.Q8_0),
        ["FP8"] = (typeof(Fp8Cache), DType.FP8),
    };

    private protected override float[] Attend(
        Case shape, float[] qkv, float[] queryNorm, float[] keyNorm, int from, LaunchOptions options)
    {
        int width = (shape.Heads + 2 * shape.KvHeads) * shape.Size, tokens = shape.Tokens, rows = tokens - from;
        int[] table = Table(shape);
        (Type type, DType kept) = s_types[shape.Type];
        using DeviceMemory memory = new();
        long bytes = IlgpuKvLayer.BlockBytes(new(shape.KvHeads, shape.Size, shape.BlockSize, kept)) / 2 * table.Length;
        MemoryRange keys = memory.Allocate("keys", bytes), values = memory.Allocate("values", bytes);
        MemoryRange y = memory.Allocate("y", rows * shape.Heads * shape.Size * 4L);
        int parts = (tokens + AttentionKernels.Part - 1) / AttentionKernels.Part;
        MemoryRange partials = memory.Allocate("partials", (long)rows * shape.Heads * parts * (shape.Size + 2) * 4);
        void Run(string kernel, Type[] of, Dim3 grid, int first, int count)
        {
            MemoryRange input = memory.Allocate<float>("qkv", qkv[(first * width)..((first + count) * width)]);
            Launch(kernel, of, grid, first, count, input);
        }
        void Launch(string kernel, Type[] of, Dim3 grid, int first, int count, MemoryRange input)
        {
            TestWords words = Words(shape, table, first, count, out int rotations);
            IlgpuPtx.Launch(memory, typeof(AttentionKernels), kernel, of, grid, AttentionKernels.Threads, options,
                IlgpuPtx.Fields(("Qkv", input), ("QueryNorm", memory.Allocate<float>("query norm", queryNorm)),
                    ("KeyNorm", memory.Allocate<float>("key norm", keyNorm)), ("Keys", keys), ("Values", values),
                    ("Partials", partials), ("Y", y), ("HasQueryNorm", shape.Norms ? 1 : 0),
                    ("HasKeyNorm", shape.Norms ? 1 : 0), ("Heads", shape.Heads), ("KvHeads", shape.KvHeads),
                    ("Size", shape.Size), ("Rotations", rotations), ("Pairs", shape.Pairs),
                    ("Interleaved", shape.Interleaved ? 1 : 0), ("BlockSize", shape.BlockSize), ("Parts", parts),
                    ("Window", shape.Window), ("Scale", 1 / MathF.Sqrt(shape.Size)), ("SoftCap", shape.SoftCap),
                    ("NormEpsilon", 1e-5f)), words.In(memory));
        }
        int all = shape.Heads + 2 * shape.KvHeads;
        if (from > 0) Run(nameof(AttentionKernels.Store), [type], new(from, all), 0, from);
        MemoryRange own = memory.Allocate<float>("qkv", qkv[(from * width)..]);
        Launch(nameof(AttentionKernels.Store), [type], new(rows, all), from, rows, own);
        Launch(nameof(AttentionKernels.Attend), [type], new(rows, shape.Heads, parts), from, rows, own);
        Launch(nameof(AttentionKernels.Combine), [], new(rows, shape.Heads), from, rows, own);
        return new Span<float>(y.Data, rows * shape.Heads * shape.Size).ToArray();
    }

    private static TestWords Words(Case shape, int[] table, int first, int count, out int rotations)
    {
        int[] positions = [.. Enumerable.Range(first, count)];
        int size = shape.BlockSize;
        TestWords words = new TestWords().Part("Positions", positions)
            .Part("Slots", [.. positions.Select(position => table[position / size] * size + position % size)])
            .Part("Sequences", new int[count]).Part("Tables", table).Part("TableStarts", [0, table.Length]);
        rotations = words.Count;
        return words.Part("HiddenRows", [.. Rotations(shape)[(first * 2 * shape.Pairs)..]
            .Select(BitConverter.SingleToInt32Bits)]); // of no use here but to hold them
    }
}

/// <summary>The ilgpu backend's sampler, as PTX on the machine.</summary>
public sealed unsafe class IlgpuSamplerTests : SamplerContract
{
    private protected override IEnumerable<(SampledToken[] Tokens, TokenLogprob[] Alternatives)> Runs(
        int vocabulary, float[] logits, RowSampling[] sampling, int[] history, TokenBias[] biases, uint[] masks,
        int listed) => MachineRun.Orders[..3].Select(options =>
            Run(vocabulary, logits, sampling, history, biases, masks, listed, options));

    private static (SampledToken[] Tokens, TokenLogprob[] Alternatives) Run(
        int vocabulary, float[] logits, RowSampling[] sampling, int[] history, TokenBias[] biases, uint[] masks,
        int listed, LaunchOptions options)
    {
        using DeviceMemory memory = new();
        int rows = sampling.Length;
        MemoryRange results = memory.Allocate<TokenLogprob>("results", new TokenLogprob[rows + listed]);
        MemoryRange last = memory.Allocate<int>("last", [.. Enumerable.Repeat(-7, rows)]);
        int[] words = new int[rows * SamplingWord.Count];
        for (int i = 0; i < rows; i++)
            IlgpuStep.Write(sampling[i], words.AsSpan(i * SamplingWord.Count, SamplingWord.Count));
        Dictionary<string, object> step = new TestWords().Part("Sampling", words)
            .Part("SampledPlaces", [.. Enumerable.Range(0, rows).Select(i => i % 3 == 0 ? -1 : rows - i)])
            .Part("Counters", [.. sampling.Select((row, i) => row.HistoryLength > 0 ? -1 - (i ^ 1) : 0)])
            .Part("History", history)
            .Part("Biases", [.. biases.SelectMany(b => (int[])[b.Token, BitConverter.SingleToInt32Bits(b.Bias)])])
            .Part("Masks", [.. masks.Select(mask => (int)mask)]).Set("SampleRows", rows).In(memory);
        Dictionary<string, object> arguments = IlgpuPtx.Fields(("Logits", memory.Allocate<float>("logits", logits)),
            ("Scores", memory.Allocate("scores", logits.Length * 4L)), ("Sums", memory.Allocate("sums", rows * 4L)),
            ("Counts", memory.Allocate("counts", rows * vocabulary * 4L)), ("Results", results), ("Last", last),
            ("Vocabulary", vocabulary));
        foreach (string kernel in (string[])[nameof(SamplerKernel.Sample), nameof(SamplerKernel.Draw)])
            IlgpuPtx.Launch(memory, typeof(SamplerKernel), kernel, [], new(rows), RowKernels.Threads, options,
                arguments, step);
        SampledToken[] tokens = new Span<SampledToken>(results.Data, rows).ToArray();
        for (int i = 0; i < rows; i++)
            if (i % 3 != 0) Assert.Equal(tokens[i].Token, ((int*)last.Data)[rows - i]);
        return (tokens, new Span<TokenLogprob>((byte*)results.Data + 8 * rows, listed).ToArray());
    }
}
