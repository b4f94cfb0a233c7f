using System.Runtime.CompilerServices;
using Native.Kernels.Cuda;
using Native.Kernels.Formats;
using Native.Kernels.Gpu;
using Native.Tests.Gpu.Machine;
using static System.Text.Encoding;

namespace Native.Tests.Gpu;

/// <summary>Each kernel against its definition in double precision, in every order of warps and blocks with the same
/// bits; a row's bits are the same alone and in a batch.</summary>
public sealed unsafe class CudaKernelTests
{
    private const float Epsilon = 1e-5f;

    [Theory]
    [InlineData(1, 1)]
    [InlineData(3, 33)]
    [InlineData(2, 256)]
    [InlineData(2, 1000)]
    public void RmsNorm(int rows, int columns)
    {
        float[] x = Values(1, rows * columns), weight = Values(2, columns);
        float[] y = Run("elementwise", "RmsNorm", new(rows), new(256), rows * columns,
            device => [device.In(x), 0L, device.In(weight), Epsilon, device.Out, columns]);
        float[] scales = Run("elementwise", "RmsScale", new(rows), new(256), rows,
            device => [device.In(x), Epsilon, device.Out, columns]);
        for (int r = 0; r < rows; r++)
        {
            double square = 0;
            for (int i = 0; i < columns; i++) square += (double)x[r * columns + i] * x[r * columns + i];
            double scale = 1 / Math.Sqrt(square / columns + Epsilon);
            Assert.Equal(scale, scales[r], scale * 1e-6);
            for (int i = 0; i < columns; i++)
                Assert.Equal(x[r * columns + i] * scale * weight[i], y[r * columns + i], 1e-5);
        }
    }

    [Fact]
    public void RmsNormOfRows_AndGather_TakeTheRowsThatAreNamed()
    {
        const int columns = 70;
        float[] x = Values(1, 5 * columns), ones = [.. Enumerable.Repeat(1f, columns)];
        int[] rows = [4, 0, 4];
        float[] gathered = Run("elementwise", "Gather", new(3), new(256), 3 * columns,
            device => [new TestStep(device.Memory) { SampledRows = [1, .. rows] }.Address, 1, device.In(x), device.Out,
                columns]);
        float[] named = Run("elementwise", "RmsNorm", new(3), new(256), 3 * columns,
            device => [device.In(x), device.In(rows), device.In(ones), Epsilon, device.Out, columns]);
        float[] all = Run("elementwise", "RmsNorm", new(5), new(256), 5 * columns,
            device => [device.In(x), 0L, device.In(ones), Epsilon, device.Out, columns]);
        for (int r = 0; r < 3; r++)
        {
            Range from = (rows[r] * columns)..((rows[r] + 1) * columns), to = (r * columns)..((r + 1) * columns);
            Assert.Equal(x[from], gathered[to]);
            Assert.Equal(all[from], named[to]);
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(255)]
    [InlineData(1000)]
    public void AddAndSoftCap(int count)
    {
        float[] x = Values(1, count), delta = Values(2, count);
        Dim3 blocks = new((count + 255) / 256);
        float[] sum = Run("elementwise", "Add", blocks, new(256), count,
            device => [device.Out, device.In(delta), (long)count], x);
        Assert.Equal(x.Zip(delta, (a, b) => a + b), sum);
        foreach (float cap in (float[])[0.01f, 1, 30])
        {
            float[] capped = Run("elementwise", "SoftCap", blocks, new(256), count,
                device => [device.Out, cap, (long)count], x);
            for (int i = 0; i < count; i++)
                Assert.Equal(cap * Math.Tanh(x[i] / (double)cap), capped[i], Math.Abs(capped[i]) * 2e-6 + 1e-9);
        }
    }

    public static TheoryData<TensorType> Formats() => [.. BlockFormat.Supported.Select(format => format.Type)];

    [Theory, MemberData(nameof(Formats))]
    public void AProductOfAnyFormat_IsThatOfItsValues_AndARowsBitsAreItsOwn(TensorType type)
    {
        const int rows = 19, tokens = 6;
        int columns = type is TensorType.F32 or TensorType.F16 or TensorType.BF16 ? 261 : 512;
        Packed w = new(type, rows, columns);
        float[] x = Values(3, tokens * columns), bias = Values(4, rows), norm = Values(5, columns);
        float[] scales = Values(6, tokens), before = Values(7, tokens * rows);
        float[] stored = Product(w, "MatMul", x, tokens, rows, 0, bias: bias);
        float[] added = Product(w, "MatMul", x, tokens, rows, 1, scales: scales, norm: norm, before: before);
        for (int t = 0; t < tokens; t++)
            for (int row = 0; row < rows; row++)
            {
                double plain = bias[row], normed = 0, size = 1;
                for (int i = 0; i < columns; i++)
                {
                    double product = (double)w.Values[row * columns + i] * x[t * columns + i];
                    plain += product;
                    normed += product * norm[i] * scales[t];
                    size += Math.Abs(product);
                }
                Assert.Equal(plain, stored[t * rows + row], size * 1e-6);
                Assert.Equal(before[t * rows + row] + normed, added[t * rows + row], size * 1e-6);
            }
        float[] alone = Product(w, "MatMul", x[(5 * columns)..], 1, rows, 0, bias: bias);
        Assert.Equal(stored[(5 * rows)..].Select(BitConverter.SingleToInt32Bits),
            alone.Select(BitConverter.SingleToInt32Bits));
    }

    [Theory]
    [InlineData(TensorType.Q4_0, 0)]
    [InlineData(TensorType.Q8_0, 1)]
    [InlineData(TensorType.Q6_K, 0)]
    [InlineData(TensorType.F16, 1)]
    public void AGate_IsItsActivationTimesUp(TensorType type, int gelu)
    {
        const int rows = 22, tokens = 5, columns = 256;
        Packed w = new(type, rows, columns);
        float[] x = Values(3, tokens * columns), bias = Values(4, rows);
        float[] gated = Product(w, "MatMulGate", x, tokens, rows / 2, gelu, bias: bias);
        for (int t = 0; t < tokens; t++)
            for (int row = 0; row < rows / 2; row++)
            {
                double gate = bias[row], up = bias[rows / 2 + row];
                for (int i = 0; i < columns; i++)
                {
                    gate += (double)w.Values[row * columns + i] * x[t * columns + i];
                    up += (double)w.Values[(rows / 2 + row) * columns + i] * x[t * columns + i];
                }
                double inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate);
                double activated = gelu == 1 ? 0.5 * gate * (1 + Math.Tanh(inner)) : gate / (1 + Math.Exp(-gate));
                Assert.Equal(activated * up, gated[t * (rows / 2) + row], 1e-4 * (1 + Math.Abs(gate * up)));
            }
    }

    [Theory, MemberData(nameof(Formats))]
    public void ARowThatIsLookedUp_HasExactlyTheFormatsValues(TensorType type)
    {
        const int rows = 7;
        int columns = type is TensorType.F32 or TensorType.F16 or TensorType.BF16 ? 261 : 512;
        Packed w = new(type, rows, columns);
        int[] ids = [6, 0, 3, 6, 0]; // the last two by what their places sampled last, one of them nothing
        float[] y = Run("matmul", $"Embed{w.Format.Layout}", new(ids.Length + 2), new(256), ids.Length * columns,
            device => [Parameters(device, w, null, null, null, null, ids.Length, columns, 0),
                new TestStep(device.Memory)
                {
                    Ids = [.. ids[..3], -1, -1], Places = [0, 0, 0, 2, 1], Last = [9, -1, 6],
                }.Address, 2f]);
        for (int t = 0; t < ids.Length; t++)
            Assert.Equal(w.Values[(ids[t] * columns)..((ids[t] + 1) * columns)].Select(value => value * 2),
                y[(t * columns)..((t + 1) * columns)]);
    }

    private static float[] Product(
        Packed w, string kernel, float[] x, int tokens, int stride, int ending, float[]? scales = null,
        float[]? norm = null, float[]? bias = null, float[]? before = null)
    {
        int outputs = kernel == "MatMulGate" ? w.Rows / 2 : w.Rows;
        return Run("matmul", $"{kernel}{w.Format.Layout}", new((outputs + 7) / 8, (tokens + 3) / 4), new(256),
            tokens * stride, device => [Parameters(device, w, x, scales, norm, bias, tokens, stride, ending)], before);
    }

    private static byte[] Parameters(
        OneLaunch device, Packed w, float[]? x, float[]? scales, float[]? norm, float[]? bias, int tokens, int stride,
        int ending)
    {
        ulong Address(float[]? values, [CallerArgumentExpression(nameof(values))] string name = "") =>
            values is null ? 0 : (ulong)device.In(values, name).Data;
        return TestStep.Bytes(new Product
        {
            X = Address(x),
            Scales = Address(scales),
            Norm = Address(norm),
            Weights = (ulong)device.In(w.Weights).Data,
            Groups = w.Groups.Length == 0 ? 0 : (ulong)device.In(w.Groups).Data,
            Bias = Address(bias),
            Y = (ulong)device.Out.Data,
            Tokens = (uint)tokens,
            Rows = (uint)w.Rows,
            Columns = (uint)w.Columns,
            Stride = (uint)stride,
            Ending = (uint)ending,
        });
    }

    /// <summary>Runs a kernel in several orders, each with poisoned memory; the bits must be the same.</summary>
    private static float[] Run(
        string file, string kernel, Dim3 grid, Dim3 block, int outputs, Func<OneLaunch, object[]> arguments,
        float[]? before = null)
    {
        float[]? first = null;
        foreach (LaunchOptions options in MachineRun.Orders[..3])
        {
            using OneLaunch device = new(outputs, before);
            using GpuModule module = new(ASCII.GetString(CudaKernels.Ptx(file, "sm_80")), device.Memory);
            module.Launch(kernel, grid, block, arguments(device), options: options);
            float[] values = new Span<float>(device.Out.Data, outputs).ToArray();
            first ??= values;
            Assert.Equal(first.Select(BitConverter.SingleToInt32Bits), values.Select(BitConverter.SingleToInt32Bits));
        }
        return first!;
    }

    private static float[] Values(int seed, int count)
    {
        Random random = new(seed);
        return [.. Enumerable.Range(0, count).Select(_ => (float)(random.NextDouble() * 2 - 1))];
    }

    /// <summary>A device's memory for one launch.</summary>
    private sealed class OneLaunch : IDisposable
    {
        public OneLaunch(int outputs, float[]? before) =>
            Out = before is null ? Memory.Allocate("out", outputs * 4L) : Memory.Allocate<float>("out", before);

        public DeviceMemory Memory { get; } = new();

        public MemoryRange Out { get; }

        public MemoryRange In<T>(T[] values, [CallerArgumentExpression(nameof(values))] string name = "")
            where T : unmanaged => Memory.Allocate<T>(name, values);

        public void Dispose() => Memory.Dispose();
    }

    /// <summary>Random weights of a format: their values by its definition, and as the device has them.</summary>
    private sealed class Packed
    {
        public Packed(TensorType type, int rows, int columns)
        {
            (Rows, Columns) = (rows, columns);
            BlockFormat format = BlockFormat.Of(type);
            byte[] file = new byte[rows * columns / format.BlockSize * format.BlockBytes];
            if (format.CanQuantize) format.Quantize(CudaKernelTests.Values(9, rows * columns), file);
            else
            {
                new Random(9).NextBytes(file);
                for (int at = 0; at < file.Length; at += format.BlockBytes) // scales of about 1/64, finite
                    BitConverter.TryWriteBytes(file.AsSpan(at), (Half)(0.01 + at % 7 * 0.001));
            }
            Values = new float[rows * columns];
            format.Decode(file, Values);
            Format = WeightLayouts.Of(type);
            long weights = WeightLayouts.WeightBytes(Format.Layout, columns);
            int groups = WeightLayouts.Groups(Format.Layout, columns), rowBytes = file.Length / rows;
            Weights = new byte[rows * weights];
            Groups = new float[rows * groups * 2];
            fixed (byte* from = file, to = Weights)
            fixed (float* scales = Groups)
                for (int row = 0; row < rows; row++)
                {
                    float* group = scales + row * groups * 2;
                    Assert.True(Format.Pack(from + row * rowBytes, columns, to + row * weights, group));
                }
        }

        public int Rows { get; }

        public int Columns { get; }

        public WeightLayouts.Format Format { get; }

        public float[] Values { get; }

        public byte[] Weights { get; }

        public float[] Groups { get; }
    }
}
