namespace Native.Tests.Gpu.Machine;

/// <summary>A few lines of PTX as a kernel, for tests: its parameters are 64-bit words p0, p1.., which it finds as
/// addresses in %rd0, %rd1..; %r0 is the thread in its block, %r1 the block.</summary>
internal static class MachineRun
{
    /// <summary>Registers that the body has besides: %r10 to %r99, %rd10 to %rd99, %f0 to %f99, %h0 to %h99, %p0 to
    /// %p9.</summary>
    public static string Kernel(string body, int parameters, string shared = "", string target = "sm_90a") => $$"""
        .version 8.3
        .target {{target}}
        .address_size 64
        .file 1 "planted.cu"
        {{shared}}
        .visible .entry k({{string.Join(", ", Enumerable.Range(0, parameters).Select(i => $".param .u64 p{i}"))}})
        {
        .reg .b32 %r<100>; .reg .b64 %rd<100>; .reg .f32 %f<100>; .reg .b16 %h<100>; .reg .pred %p<10>;
        mov.u32 %r0, %tid.x;
        mov.u32 %r1, %ctaid.x;
        {{string.Join('\n', Enumerable.Range(0, parameters).Select(i => $"ld.param.u64 %rd{i}, [p{i}];"))}}
        {{body}}
        ret;
        }
        """;

    /// <summary>Loads and executes it.</summary>
    public static Counters Run(
        DeviceMemory memory, string ptx, Dim3 grid, Dim3 block, IReadOnlyList<object> arguments,
        LaunchOptions? options = null, int dynamicShared = 0)
    {
        using GpuModule module = new(ptx, memory);
        return module.Launch("k", grid, block, arguments, dynamicShared, options);
    }

    /// <summary>Runs it in each order; it must fail with a fault of a kind in each, whose message has some words.
    /// </summary>
    public static void Fails(
        FaultKind kind, string words, string body, int blocks = 1, int threads = 32, string shared = "",
        int words64 = 1024, string? location = null)
    {
        foreach (LaunchOptions options in Orders)
        {
            using DeviceMemory memory = new();
            MemoryRange range = memory.Allocate<long>("x", new long[words64]);
            string ptx = Kernel(body, 2, shared);
            MemoryRange result = memory.Allocate("y", words64 * 8);
            GpuFault fault = Assert.Throws<GpuFault>(() => Run(memory, ptx, new(blocks), new(threads), [range, result],
                options));
            Assert.True(fault.Kind == kind, $"{kind} was expected: {fault.Message}");
            Assert.Contains(words, fault.Message, StringComparison.Ordinal);
            if (location is not null) Assert.Contains(location, fault.Message, StringComparison.Ordinal);
        }
    }

    /// <summary>Runs it in each order; nothing may be wrong with it. Returns the words of y, equal in all.</summary>
    public static long[] Passes(
        string body, int blocks = 1, int threads = 32, string shared = "", int words64 = 1024,
        Action<long[]>? input = null)
    {
        long[]? first = null;
        foreach (LaunchOptions options in Orders)
        {
            using DeviceMemory memory = new();
            long[] x = new long[words64];
            input?.Invoke(x);
            MemoryRange range = memory.Allocate<long>("x", x), result = memory.Allocate<long>("y", new long[words64]);
            Run(memory, Kernel(body, 2, shared), new(blocks), new(threads), [range, result], options);
            long[] y = Words(result);
            first ??= y;
            Assert.Equal(first, y);
        }
        return first!;
    }

    public static LaunchOptions[] Orders =>
    [
        new() { MostTurns = 1000 },
        new() { MostTurns = 1000, Order = Order.Descending },
        .. Enumerable.Range(0, 6).Select(seed =>
            new LaunchOptions { MostTurns = 1000, Order = Order.Random, Seed = seed }),
    ];

    public static unsafe long[] Words(MemoryRange range) => new Span<long>(range.Data, (int)range.Bytes / 8).ToArray();
}
