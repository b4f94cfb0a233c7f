using System.Runtime.CompilerServices;
using Native.Kernels.Cuda;
using Native.Tests.Gpu.Machine;
using static System.Text.Encoding;

namespace Native.Tests.Gpu;

/// <summary>The cuda backend's kernels on the machine.</summary>
public sealed unsafe class CudaKernelTests : KernelContract
{
    private protected override float[] RmsNorm(float[] x, int[]? rows, float[] weight)
    {
        int columns = weight.Length, count = rows?.Length ?? x.Length / columns;
        return Run("elementwise", "RmsNorm", new(count), new(256), count * columns, device =>
            [device.In(x), rows is null ? 0L : device.In(rows), device.In(weight), Epsilon, device.Out, columns]);
    }

    private protected override float[] RmsScale(float[] x, int columns) =>
        Run("elementwise", "RmsScale", new(x.Length / columns), new(256), x.Length / columns,
            device => [device.In(x), Epsilon, device.Out, columns]);

    private protected override float[] Gather(float[] x, int[] sampledRows, int first, int columns) =>
        Run("elementwise", "Gather", new(sampledRows.Length - first), new(256),
            (sampledRows.Length - first) * columns, device =>
                [new TestStep(device.Memory) { SampledRows = sampledRows }.Address, first, device.In(x), device.Out,
                    columns]);

    private protected override float[] Add(float[] x, float[] delta) =>
        Run("elementwise", "Add", new((x.Length + 255) / 256), new(256), x.Length,
            device => [device.Out, device.In(delta), (long)x.Length], x);

    private protected override float[] SoftCap(float[] x, float cap) =>
        Run("elementwise", "SoftCap", new((x.Length + 255) / 256), new(256), x.Length,
            device => [device.Out, cap, (long)x.Length], x);

    private protected override float[] Multiply(PackedWeights w, bool gates, float[] x, int tokens, int ending,
        float[]? scales = null, float[]? norm = null, float[]? bias = null, float[]? before = null)
    {
        int outputs = gates ? w.Rows / 2 : w.Rows;
        return Run("matmul", $"MatMul{(gates ? "Gate" : "")}{w.Format.Layout}",
            new((outputs + 7) / 8, (tokens + 3) / 4), new(256), tokens * outputs, device =>
                [Parameters(device, w, x, scales, norm, bias, tokens, outputs, ending)], before);
    }

    private protected override float[] Embed(PackedWeights w, int[] ids, int[] places, int[] last, float scale) =>
        Run("matmul", $"Embed{w.Format.Layout}", new(ids.Length + 2), new(256), ids.Length * w.Columns, device =>
            [Parameters(device, w, null, null, null, null, ids.Length, w.Columns, 0),
                new TestStep(device.Memory) { Ids = ids, Places = places, Last = last }.Address, scale]);

    private static byte[] Parameters(
        OneLaunch device, PackedWeights w, float[]? x, float[]? scales, float[]? norm, float[]? bias, int tokens,
        int stride, int ending)
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
}
