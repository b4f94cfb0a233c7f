using Native.Kernels.Cuda;
using Native.Tests.Gpu.Machine;
using static System.Text.Encoding;

namespace Native.Tests.Gpu;

/// <summary>Paged attention on the machine against softmax(q K^T) V in double precision, for head sizes, groups,
/// windows, caps and types of the cache; a row's bits are the same in a chunk and as a decode.</summary>
public sealed unsafe class CudaAttentionTests
{
    private sealed record Case(
        string Type, int Heads, int KvHeads, int Size, int Pairs, int Tokens, int BlockSize = 16, int Window = 0,
        float SoftCap = 0, bool Interleaved = false, bool Norms = false);

    [Theory]
    [InlineData("F32", 1e-5)]
    [InlineData("F16", 2e-3)]
    [InlineData("BF16", 2e-2)]
    [InlineData("Q8_0", 4e-2)]
    [InlineData("FP8", 0.15)]
    public void EachTypeOfCache(string type, double tolerance) => Check(new(type, 4, 2, 64, 32, 40), tolerance);

    [Theory]
    [InlineData(40, 8)]
    [InlineData(80, 40)]
    [InlineData(128, 64)]
    [InlineData(256, 32)]
    public void HeadSizes(int size, int pairs) => Check(new("F32", 2, 1, size, pairs, 20), 1e-5);

    [Theory]
    [InlineData(1, 0, 0)]
    [InlineData(32, 40, 0)]
    [InlineData(7, 0, 3)]
    public void BlocksWindowsAndCaps(int blockSize, int window, float softCap) =>
        Check(new("F32", 2, 2, 64, 32, 100, blockSize, window, softCap), 1e-5);

    [Theory]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public void RotationsAndNorms(bool interleaved, bool norms) =>
        Check(new("F32", 2, 1, 64, 24, 20, Interleaved: interleaved, Norms: norms), 1e-5);

    /// <summary>More positions than one part has: the parts are added up. Only the last rows are computed.</summary>
    [Theory]
    [InlineData(0)]
    [InlineData(300)]
    public void LongContexts(int window) => Check(new("F32", 2, 1, 64, 32, 600, Window: window), 1e-5, last: 3);

    private static void Check(Case shape, double tolerance, int? last = null)
    {
        int rows = last ?? shape.Tokens, width = (shape.Heads + 2 * shape.KvHeads) * shape.Size;
        Random random = new(1);
        float[] Values(int count) => [.. Enumerable.Range(0, count).Select(_ => (float)(random.NextDouble() * 2 - 1))];
        float[] qkv = Values(shape.Tokens * width), queryNorm = Values(shape.Size), keyNorm = Values(shape.Size);
        float[] expected = Reference(shape, qkv, queryNorm, keyNorm);
        float[]? first = null;
        foreach (LaunchOptions options in MachineRun.Orders[..3])
        {
            float[] y = Attend(shape, qkv, queryNorm, keyNorm, shape.Tokens - rows, options);
            for (int i = 0; i < y.Length; i++)
                Assert.Equal(expected[(shape.Tokens - rows) * shape.Heads * shape.Size + i], y[i], tolerance);
            first ??= y;
            Assert.Equal(first.Select(BitConverter.SingleToInt32Bits), y.Select(BitConverter.SingleToInt32Bits));
        }
        float[] alone = Attend(shape, qkv, queryNorm, keyNorm, shape.Tokens - 1, new());
        Assert.Equal(first![^alone.Length..].Select(BitConverter.SingleToInt32Bits),
            alone.Select(BitConverter.SingleToInt32Bits));
    }

    /// <summary>Stores all tokens and attends with those from some on. Blocks are in no order.</summary>
    private static float[] Attend(
        Case shape, float[] qkv, float[] queryNorm, float[] keyNorm, int from, LaunchOptions options)
    {
        int width = (shape.Heads + 2 * shape.KvHeads) * shape.Size, tokens = shape.Tokens;
        int blocks = (tokens + shape.BlockSize - 1) / shape.BlockSize, parts = (tokens + 255) / 256;
        int rowBytes = shape.Type switch
        {
            "F32" => 4 * shape.Size,
            "Q8_0" => (shape.Size + 31) / 32 * 34,
            "FP8" => shape.Size,
            _ => 2 * shape.Size,
        };
        using DeviceMemory memory = new();
        string target = shape.Type == "FP8" ? "sm_89" : "sm_80";
        using GpuModule module = new(ASCII.GetString(CudaKernels.Ptx("attention", target)), memory);
        int[] table = [.. Enumerable.Range(0, blocks).Select(block => (block * 7 + 3) % blocks)];
        if (table.Distinct().Count() != blocks) table = [.. Enumerable.Range(0, blocks).Reverse()];
        float[] rotations = new float[tokens * 2 * shape.Pairs];
        for (int t = 0; t < tokens; t++)
            for (int i = 0; i < shape.Pairs; i++)
                (rotations[(2 * t + 1) * shape.Pairs + i], rotations[2 * t * shape.Pairs + i]) = Angle(shape, t, i);
        long cacheBytes = (long)blocks * shape.KvHeads * shape.BlockSize * rowBytes;
        MemoryRange keys = memory.Allocate("keys", cacheBytes), values = memory.Allocate("values", cacheBytes);
        byte[] Arguments(int first, int count, MemoryRange input, MemoryRange partials, MemoryRange y)
        {
            int[] positions = [.. Enumerable.Range(first, count)];
            int size = shape.BlockSize;
            int[] slots = [.. positions.Select(position => table[position / size] * size + position % size)];
            ulong Norm(float[] norm) =>
                shape.Norms ? (ulong)memory.Allocate<float>("norm", norm).Data : 0;
            return TestStep.Bytes(ArgumentsOf(shape) with
            {
                Step = new TestStep(memory)
                {
                    Positions = positions,
                    Slots = slots,
                    Sequences = new int[count],
                    Table = table,
                    Rotations = rotations[(first * 2 * shape.Pairs)..],
                }.Address,
                Qkv = (ulong)input.Data,
                QueryNorm = Norm(queryNorm),
                KeyNorm = Norm(keyNorm),
                Keys = (ulong)keys.Data,
                Values = (ulong)values.Data,
                Partials = (ulong)partials.Data,
                Y = (ulong)y.Data,
            });
        }
        Dim3 Heads(int count) => new(count + 1, (shape.Heads + 2 * shape.KvHeads + 3) / 4);
        MemoryRange none = memory.Allocate("none", 4);
        if (from > 0)
        {
            MemoryRange before = memory.Allocate<float>("earlier qkv", qkv[..(from * width)]);
            module.Launch($"Store{shape.Type}", Heads(from), new(128), [Arguments(0, from, before, none, none)],
                options: options);
        }
        int rows = tokens - from;
        MemoryRange input = memory.Allocate<float>("qkv", qkv[(from * width)..]);
        MemoryRange y = memory.Allocate("y", rows * shape.Heads * shape.Size * 4L);
        MemoryRange partials = memory.Allocate("partials", rows * shape.Heads * parts * (shape.Size + 2) * 4L);
        byte[] step = Arguments(from, rows, input, partials, y);
        module.Launch($"Store{shape.Type}", Heads(rows), new(128), [step], options: options);
        Dim3 grid = new(rows + 1, shape.Heads, (parts + 3) / 4); // a row more than the step has, as padding has
        module.Launch($"Attend{shape.Type}", grid, new(128), [step], options: options);
        module.Launch("Combine", new(rows + 1, shape.Heads), new(256), [step], options: options);
        return new Span<float>(y.Data, rows * shape.Heads * shape.Size).ToArray();
    }

    /// <summary>What of a kernel's arguments is no address.</summary>
    private static Attention ArgumentsOf(Case shape) => new()
    {
        Heads = (uint)shape.Heads,
        KvHeads = (uint)shape.KvHeads,
        Size = (uint)shape.Size,
        Pairs = (uint)shape.Pairs,
        Interleaved = shape.Interleaved ? 1u : 0,
        BlockSize = (uint)shape.BlockSize,
        Parts = (uint)(shape.Tokens + 255) / 256,
        Window = (uint)shape.Window,
        Scale = 1 / MathF.Sqrt(shape.Size),
        SoftCap = shape.SoftCap,
        NormEpsilon = 1e-5f,
    };

    private static (float Sine, float Cosine) Angle(Case shape, int position, int i)
    {
        (double sine, double cosine) = Math.SinCos(position * Math.Pow(10000, -(double)i / shape.Pairs));
        return ((float)sine, (float)cosine);
    }

    private static float[] Reference(Case shape, float[] qkv, float[] queryNorm, float[] keyNorm)
    {
        int all = shape.Heads + 2 * shape.KvHeads, size = shape.Size;
        double[][] heads = new double[shape.Tokens * all][];
        for (int t = 0; t < shape.Tokens; t++)
            for (int h = 0; h < all; h++)
                heads[t * all + h] = Rotated(shape, t, h, qkv.AsSpan((t * all + h) * size, size),
                    h < shape.Heads ? queryNorm : keyNorm);
        float[] y = new float[shape.Tokens * shape.Heads * size];
        for (int t = 0; t < shape.Tokens; t++)
            for (int h = 0; h < shape.Heads; h++)
            {
                int kv = h / (shape.Heads / shape.KvHeads);
                int begin = shape.Window > 0 ? Math.Max(0, t + 1 - shape.Window) : 0;
                double[] weights = new double[t + 1], sum = new double[size];
                for (int p = begin; p <= t; p++)
                {
                    double dot = 0;
                    for (int i = 0; i < size; i++)
                        dot += heads[t * all + h][i] * heads[p * all + shape.Heads + kv][i] / Math.Sqrt(size);
                    weights[p] = Math.Exp(shape.SoftCap > 0 ? shape.SoftCap * Math.Tanh(dot / shape.SoftCap) : dot);
                }
                double total = weights.Sum();
                for (int p = begin; p <= t; p++)
                    for (int i = 0; i < size; i++)
                        sum[i] += weights[p] / total * heads[p * all + shape.Heads + shape.KvHeads + kv][i];
                for (int i = 0; i < size; i++) y[(t * shape.Heads + h) * size + i] = (float)sum[i];
            }
        return y;
    }

    private static double[] Rotated(Case shape, int t, int h, Span<float> head, float[] norm)
    {
        double[] x = new double[head.Length];
        for (int i = 0; i < x.Length; i++) x[i] = head[i];
        if (h >= shape.Heads + shape.KvHeads) return x;
        if (shape.Norms)
        {
            double scale = 1 / Math.Sqrt(x.Sum(value => value * value) / x.Length + 1e-5);
            for (int i = 0; i < x.Length; i++) x[i] *= scale * norm[i];
        }
        for (int i = 0; i < shape.Pairs; i++)
        {
            (int a, int b) = shape.Interleaved ? (2 * i, 2 * i + 1) : (i, i + shape.Pairs);
            (float s, float c) = Angle(shape, t, i);
            (x[a], x[b]) = (x[a] * c - x[b] * s, x[b] * c + x[a] * s);
        }
        return x;
    }
}
