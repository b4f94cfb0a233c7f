using Native.Kernels.Cuda;
using Native.Tests.Gpu.Machine;
using static System.Text.Encoding;

namespace Native.Tests.Gpu;

/// <summary>The cuda backend's attention.</summary>
public sealed unsafe class CudaAttentionTests : AttentionContract
{
    /// <summary>Stores all tokens and attends with those from some on. Blocks are in no order.</summary>
    private protected override float[] Attend(
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
        int[] table = Table(shape);
        float[] rotations = Rotations(shape);
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
}
