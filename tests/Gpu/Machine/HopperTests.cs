using static Native.Tests.Gpu.Machine.MachineRun;

namespace Native.Tests.Gpu.Machine;

/// <summary>mbarriers, copies by the copy engine and products by groups of warps.</summary>
public sealed class HopperTests
{
    private const string Shared = ".shared .align 128 .b8 s[8192]; .shared .align 8 .b8 b[16];";

    /// <summary>Thread 0 makes the mbarrier ready for a number of arrivals.</summary>
    private static string Init(int count) => $"""
        setp.eq.u32 %p0, %r0, 0; mov.u32 %r10, b; mov.u32 %r11, s; shl.b32 %r12, %r0, 2; add.u32 %r12, %r11, %r12;
        @%p0 mbarrier.init.shared::cta.b64 [%r10], {count};
        bar.sync 0;
        """;

    private const string WaitForPhase0 = """
        W: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r10], 0; @!%p1 bra W;
        """;

    private const string Arrive = "mbarrier.arrive.shared::cta.b64 %rd30, [%r10];";

    [Fact]
    public void WhoWaitsForAPhase_KnowsWhatThoseDidWhoArrived()
    {
        string body = Init(32) + $"""
            setp.lt.u32 %p2, %r0, 32; @!%p2 bra R;
            st.shared.u32 [%r12], %r0; {Arrive} bra E;
            R: {WaitForPhase0} ld.shared.u32 %r20, [%r12+-128]; cvt.u64.u32 %rd20, %r20;
            mul.wide.u32 %rd21, %r0, 8; add.s64 %rd21, %rd1, %rd21; st.global.u64 [%rd21], %rd20;
            E:
            """;
        Assert.Equal(Enumerable.Range(0, 32).Select(i => (long)i), Passes(body, threads: 64, shared: Shared)[32..64]);
        // One lane's arrival tells what it did itself, not what the others of its warp did.
        string one = body.Replace(Arrive, "@%p0 " + Arrive).Replace("b64 [%r10], 32", "b64 [%r10], 1");
        Fails(FaultKind.Race, "shared memory", one, threads: 64, shared: Shared + "");
        Passes(one.Replace("@%p0 mbarrier.arrive", "bar.warp.sync 0xffffffff; @%p0 mbarrier.arrive"), threads: 64,
            shared: Shared);
    }

    [Theory]
    [InlineData("@%p0 mbarrier.arrive.shared::cta.b64 %rd30, [%r10], 3;", FaultKind.Barrier, "3 arrivals")]
    [InlineData("mbarrier.arrive.shared::cta.b64 %rd30, [%r11];", FaultKind.Misuse, "no mbarrier")]
    [InlineData("@%p0 mbarrier.arrive.shared::cta.b64 %rd30, [%r10]; " + WaitForPhase0, FaultKind.Deadlock, "")]
    public void AMisusedBarrier(string body, object kind, string words) =>
        Fails((FaultKind)kind, words, Init(2) + body, shared: Shared);

    private const string Copy = """
        @%p0 mbarrier.arrive.expect_tx.shared::cta.b64 %rd30, [%r10], 512;
        @%p0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r11], [%rd0], 512, [%r10];
        """;

    [Fact]
    public void ABulkCopy_IsThereAfterItsBarrier()
    {
        string body = Init(1) + Copy + WaitForPhase0 + """
            ld.shared.u32 %r20, [%r12]; cvt.u64.u32 %rd20, %r20;
            mul.wide.u32 %rd21, %r0, 8; add.s64 %rd21, %rd1, %rd21; st.global.u64 [%rd21], %rd20;
            """;
        long[] y = Passes(body, threads: 64, shared: Shared, input: x =>
        {
            for (int i = 0; i < 32; i++) x[i] = (2L * i + 1) << 32 | (uint)(2 * i);
        });
        Assert.Equal(Enumerable.Range(0, 64).Select(i => (long)i), y[..64]);
    }

    [Theory]
    [InlineData("ld.shared.u32 %r20, [%r12];")]
    [InlineData("st.shared.u32 [%r12], 1;")]
    public void ABulkCopy_BeforeItsBarrier(string early) => Assert.Contains(
        Assert.Throws<GpuFault>(() => Passes(Init(1) + Copy + early + WaitForPhase0, threads: 64, shared: Shared)).Kind,
        (FaultKind[])[FaultKind.AsyncCopy, FaultKind.Race, FaultKind.Uninitialised]);

    [Fact]
    public void ABulkCopy_ThatNobodyWaitsFor_OrTellsLess()
    {
        using DeviceMemory memory = new();
        MemoryRange x = memory.Allocate<long>("x", new long[128]);
        GpuFault leak = Assert.Throws<GpuFault>(() =>
            Run(memory, Kernel(Init(1) + Copy, 1, Shared), new(1), new(32), [x]));
        Assert.Contains("on its way", leak.Message, StringComparison.Ordinal);
        string more = Copy.Replace("%rd30, [%r10], 512", "%rd30, [%r10], 528");
        Fails(FaultKind.Deadlock, "lacks 0 of 1 arrivals and 16 bytes", Init(1) + more + WaitForPhase0,
            shared: Shared);
    }

    [Fact]
    public void ABulkStore_NeedsAProxyFence_AndIsAwaited()
    {
        string body = Init(1) + """
            st.shared.u32 [%r12], %r0;
            fence.proxy.async.shared::cta;
            bar.sync 0;
            @%p0 cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r11], 128;
            @%p0 cp.async.bulk.commit_group;
            @%p0 cp.async.bulk.wait_group 0;
            """;
        Assert.Equal(1L << 32, Passes(body, shared: Shared)[0]);
        Fails(FaultKind.Race, "fence.proxy.async", body.Replace("fence.proxy.async.shared::cta;", ""), shared: Shared);
        Fails(FaultKind.AsyncCopy, "without having waited", body.Replace("@%p0 cp.async.bulk.wait_group 0;", ""),
            shared: Shared);
    }

    /// <summary>What a copy reads must stay until somebody has waited for it, whoever changes it.</summary>
    [Fact]
    public void ChangingTheSourceOfABulkCopy()
    {
        Fails(FaultKind.Race, "which an asynchronous copy of block 0 read",
            Init(1) + Copy + "bar.sync 0; @%p0 st.global.u32 [%rd0+16], 9;" + WaitForPhase0, threads: 64,
            shared: Shared);
        string body = Init(1) + """
            st.shared.u32 [%r12], %r0; fence.proxy.async.shared::cta; bar.sync 0;
            @%p0 cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r11], 128; @%p0 cp.async.bulk.commit_group;
            /*wait*/ bar.sync 0; st.shared.u32 [%r12], 7; @%p0 cp.async.bulk.wait_group 0;
            """;
        Fails(FaultKind.AsyncCopy, "was changed while it was in flight", body, shared: Shared);
        Passes(body.Replace("/*wait*/", "@%p0 cp.async.bulk.wait_group.read 0;"), shared: Shared);
        Fails(FaultKind.AsyncCopy, "before the asynchronous copy",
            body.Replace("/*wait*/", "@%p0 cp.async.bulk.wait_group.read 0; @%p0 ld.global.u32 %r20, [%rd1];"),
            shared: Shared);
    }

    /// <summary>A word that one lane of each of two warps reads may be overwritten once those two have arrived.
    /// </summary>
    [Fact]
    public void ReadersThatArriveForThemselves_FreeWhatTheyRead() => Passes(Init(2) + """
        @%p0 st.shared.u32 [%r11], 5; bar.sync 0;
        and.b32 %r20, %r0, 31; setp.ne.u32 %p2, %r20, 0; @%p2 bra END; setp.ge.u32 %p3, %r0, 64; @%p3 bra WRITE;
        ld.shared.u32 %r21, [%r11]; mbarrier.arrive.shared::cta.b64 %rd30, [%r10]; bra END;
        WRITE: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r10], 0; @!%p1 bra WRITE; st.shared.u32 [%r11], 6;
        END:
        """, threads: 96, shared: Shared);

    [Theory]
    [InlineData(0)]
    [InlineData(32)]
    [InlineData(64)]
    [InlineData(128)]
    public void ASwizzle_IsItsOwnInverse_AndStaysWithinItsBytes(int bytes)
    {
        HashSet<long> seen = [];
        for (long at = 0; at < 8192; at += 16)
        {
            long to = Swizzle.Of(at, bytes);
            Assert.Equal(at, Swizzle.Of(to, bytes));
            Assert.Equal(at / Math.Max(16, bytes), to / Math.Max(16, bytes));
            Assert.True(seen.Add(to));
        }
        // The ISA's figure of 128 bytes: row r has its piece c at c ^ r.
        if (bytes == 128) Assert.Equal(3 * 128 + (5 ^ 3) * 16, Swizzle.Of(3 * 128 + 5 * 16, 128));
    }

    // A whole product: tiles by the copy engine in two stages, waited for by mbarriers, multiplied by a group of warps.

    private const int K = 256, N = 64;

    private static string Product(int swizzle)
    {
        string outputs = string.Join(", ", Enumerable.Range(0, 32).Select(i => $"%{i}"));
        string constraints = string.Join(", ", Enumerable.Range(0, 32).Select(i => $"\"+f\"(d{i})"));
        string zeros = string.Join(", ", Enumerable.Range(0, 32).Select(i => $"d{i} = 0"));
        string stores = string.Join(' ', Enumerable.Range(0, 32).Select(i =>
            $"row[{(i >> 1 & 1) * 8 * N + (i >> 2) * 8 + (i & 1)}] = d{i};"));
        int mode = swizzle switch { 128 => 1, 64 => 2, _ => 3 }, columns = swizzle / 2;
        return $$"""
            #define G __attribute__((global))
            typedef unsigned long u64; typedef unsigned int u32;
            struct __attribute__((aligned(64))) Map { char bytes[128]; };
            __attribute__((device, always_inline)) inline u32 tid() { return __nvvm_read_ptx_sreg_tid_x(); }
            __attribute__((shared, aligned(1024))) char a[2][64 * {{swizzle}}];
            __attribute__((shared, aligned(1024))) char b[2][{{N}} * {{swizzle}}];
            __attribute__((shared, aligned(8))) u64 full[2];
            __attribute__((device, always_inline)) inline u32 address(void* p) {
              return (u32)(u64)(__attribute__((address_space(3))) void*)p; }
            __attribute__((device, always_inline)) inline u64 matrix(u32 at) {
              return (u64)((at & 0x3ffff) >> 4) | 1ul << 16 | (u64)({{8 * swizzle}} >> 4) << 32 | {{mode}}ul << 62; }
            __attribute__((device, always_inline)) inline
            void load(const Map& map, void* to, u64* bar, int k, int row) {
              asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                " [%0], [%1, {%2, %3}], [%4];"
                :: "r"(address(to)), "l"(&map), "r"(k), "r"(row), "r"(address(bar)) : "memory"); }
            __attribute__((device, always_inline)) inline void fetch(const Map& ma, const Map& mb, int step) {
              int s = step & 1;
              asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                :: "r"(address(&full[s])), "r"({{(64 + N) * swizzle}}) : "memory");
              load(ma, a[s], &full[s], step * {{columns}}, 0);
              load(mb, b[s], &full[s], step * {{columns}}, 0); }
            extern "C" G void product(const __attribute__((grid_constant)) Map ma,
                const __attribute__((grid_constant)) Map mb, float* c, int steps) {
              if (tid() == 0) {
                asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(address(&full[0])) : "memory");
                asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(address(&full[1])) : "memory");
                asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
              }
              /*ready*/__nvvm_bar_sync(0);
              float {{zeros}};
              if (tid() == 0) { fetch(ma, mb, 0); if (steps > 1) fetch(ma, mb, 1); }
              for (int step = 0; step < steps; step++) {
                int s = step & 1;
                asm volatile("{ .reg .pred p; W%=: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1; @!p bra W%=; }"
                  :: "r"(address(&full[s])), "r"(step >> 1 & 1) : "memory");
                asm volatile("" : {{constraints}} :: "memory"); // registers change before the fence, not behind it
                asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
                for (int k = 0; k < {{columns / 16}}; k++)
                  asm volatile("wgmma.mma_async.sync.aligned.m64n{{N}}k16.f32.bf16.bf16 "
                    "{ {{outputs}} }, %32, %33, 1, 1, 1, 0, 0;"
                    : {{constraints}} : "l"(matrix(address(a[s]) + 32 * k)), "l"(matrix(address(b[s]) + 32 * k)));
                asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
                /*wait*/asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
                /*barrier*/__nvvm_bar_sync(0);
                if (tid() == 0 && step + 2 < steps) fetch(ma, mb, step + 2);
              }
              u32 w = tid() / 32, l = tid() % 32;
              float* row = c + (w * 16 + l / 4) * {{N}} + l % 4 * 2;
              {{stores}}
            }
            """;
    }

    private static Counters RunProduct(string source, int swizzle, LaunchOptions options, bool check = true)
    {
        string path = Path.Combine(Path.GetTempPath(), $"native-{Guid.NewGuid():n}.cu");
        File.WriteAllText(path, source);
        string ptx;
        try
        {
            ptx = Clang.ToPtx(path, "sm_90a", "ptx80");
        }
        finally
        {
            File.Delete(path);
        }
        Random random = new(1);
        float[] left = [.. Enumerable.Range(0, 64 * K).Select(_ => random.Next(-8, 9) / 4f)];
        float[] right = [.. Enumerable.Range(0, N * K).Select(_ => random.Next(-8, 9) / 4f)];
        ushort[] Halves(float[] values) => [.. values.Select(value => Bf16.From(value))];
        using DeviceMemory memory = new();
        using GpuModule module = new(ptx, memory);
        MemoryRange a = memory.Allocate<ushort>("a", Halves(left)), b = memory.Allocate<ushort>("b", Halves(right));
        MemoryRange c = memory.Allocate("c", 64 * N * 4);
        unsafe TensorMap Map(MemoryRange range, int rows) => new()
        {
            Address = (long)range.Data,
            ElementBytes = 2,
            Sizes = [K, rows],
            Strides = [K * 2],
            Box = [swizzle / 2, rows],
            SwizzleBytes = swizzle,
        };
        Counters counters = module.Launch("product", new(1), new(128),
            [Map(a, 64).Encode(), Map(b, N).Encode(), c, K / (swizzle / 2)], 0, options);
        for (int row = 0; row < 64 && check; row++)
            for (int column = 0; column < N; column++)
            {
                float expected = 0;
                for (int k = 0; k < K; k++) expected += left[row * K + k] * right[column * K + k];
                unsafe
                {
                    Assert.Equal(expected, ((float*)c.Data)[row * N + column]);
                }
            }
        return counters;
    }

    [Theory]
    [InlineData(128)]
    [InlineData(64)]
    [InlineData(32)]
    public void AProductByTheCopyEngineAndAGroupOfWarps_IsExact_InEveryOrder(int swizzle)
    {
        Assert.SkipUnless(Clang.IsHere, $"{Clang.Name} is not installed");
        foreach (LaunchOptions options in Orders[..4])
        {
            Counters counters = RunProduct(Product(swizzle), swizzle, options);
            Assert.Equal((64 + N) * K * 2, counters.AsyncBytes);
            // Two stages, where copies land as late as they may.
            if (options.Order == Order.Ascending) Assert.Equal(2 * (64 + N) * swizzle, counters.MostBytesInFlight);
            Assert.Equal(4 * K / 16 * N / 8, counters.MatrixOperations);
        }
    }

    /// <summary>A tile is written, with all barriers and fences but before the product of it was awaited.</summary>
    [Fact]
    public void ATileThatIsChangedBeforeItsProductWasAwaited()
    {
        Assert.SkipUnless(Clang.IsHere, $"{Clang.Name} is not installed");
        string source = Product(128).Replace("/*wait*/", """
            __nvvm_bar_sync(0); a[s][64 * tid()] = 1;
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); __nvvm_bar_sync(0);
            """);
        foreach (LaunchOptions options in Orders[..4])
        {
            GpuFault fault = Assert.Throws<GpuFault>(() => RunProduct(source, 128, options, check: false));
            Assert.Contains("was changed while it was in flight", fault.Message, StringComparison.Ordinal);
        }
    }

    /// <summary>Without the barrier the next tile goes over what others still read; without the wait results and tiles
    /// are touched too early; without the fence registers change under the product; without the first barrier others
    /// meet an mbarrier that is not ready.</summary>
    [Theory]
    [InlineData("/*barrier*/__nvvm_bar_sync(0);", FaultKind.Race)]
    [InlineData("/*wait*/asm volatile(\"wgmma.wait_group.sync.aligned 0;\" ::: \"memory\");", FaultKind.AsyncCopy)]
    [InlineData("asm volatile(\"wgmma.fence.sync.aligned;\" ::: \"memory\");", FaultKind.Race)]
    [InlineData("/*ready*/__nvvm_bar_sync(0);", FaultKind.Misuse)]
    public void AProductWithAPlantedFault_IsFound(string part, object kind)
    {
        Assert.SkipUnless(Clang.IsHere, $"{Clang.Name} is not installed");
        string source = Product(128);
        Assert.Contains(part, source, StringComparison.Ordinal);
        source = source.Replace(part, "");
        List<FaultKind> kinds = [];
        foreach (LaunchOptions options in Orders)
            if (Record.Exception(() => RunProduct(source, 128, options, check: false)) is GpuFault fault)
                kinds.Add(fault.Kind);
        Assert.Contains((FaultKind)kind, kinds);
        Assert.True(kinds.Count >= Orders.Length / 2, $"found in {kinds.Count} of {Orders.Length} orders");
    }
}
