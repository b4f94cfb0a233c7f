using System.Diagnostics;
using static Native.Tests.Gpu.Machine.MachineRun;

namespace Native.Tests.Gpu.Machine;

/// <summary>What kernels may do, the machine does: divergence, locks, barriers of parts, calls; and it counts exactly.
/// </summary>
public sealed class MachineTests
{
    private const string Shared = ".shared .align 16 .b8 s[4096];";

    private const string StoreR20 = """
        cvt.u64.u32 %rd40, %r20; mul.wide.u32 %rd41, %r0, 8; add.s64 %rd41, %rd1, %rd41; st.global.u64 [%rd41], %rd40;
        """;

    [Fact]
    public void EachLaneLoopsAsOftenAsItMust() => Assert.Equal(
        Enumerable.Range(0, 32).Select(i => (long)i * (i + 1) / 2),
        Passes($"""
            mov.u32 %r20, 0; mov.u32 %r21, 0;
            L: setp.gt.u32 %p1, %r21, %r0; @%p1 bra E; add.u32 %r20, %r20, %r21; add.u32 %r21, %r21, 1; bra L;
            E: {StoreR20}
            """)[..32]);

    [Fact]
    public void ABranchByAnIndex_TakesEachLaneToItsTarget() => Assert.Equal(
        Enumerable.Range(0, 32).Select(i => (long)(100 + i % 3)),
        Passes($"""
            rem.u32 %r10, %r0, 3; T: .branchtargets A, B, C; brx.idx %r10, T;
            A: mov.u32 %r20, 100; bra E; B: mov.u32 %r20, 101; bra E; C: mov.u32 %r20, 102;
            E: {StoreR20}
            """)[..32]);

    /// <summary>Without .aligned each thread comes to a barrier for itself, wherever it is.</summary>
    [Fact]
    public void ABarrierThatIsNotAligned_TakesLanesByDifferentWays() => Assert.Equal(
        Enumerable.Range(0, 64).Select(i => (long)(63 - i)),
        Passes($"""
            and.b32 %r10, %r0, 1; setp.eq.u32 %p1, %r10, 0; mov.u32 %r11, s; mad.lo.u32 %r12, %r0, 4, %r11;
            st.shared.u32 [%r12], %r0; @%p1 bra EVEN; barrier.sync 0; bra READ; EVEN: barrier.sync 0;
            READ: sub.u32 %r13, 63, %r0; mad.lo.u32 %r13, %r13, 4, %r11; ld.shared.u32 %r20, [%r13]; {StoreR20}
            """, threads: 64, shared: Shared)[..64]);

    /// <summary>Shared memory whose size the launch says lies behind all other, wherever the text declares it.
    /// </summary>
    [Fact]
    public void SharedMemoryOfTheLaunch_LiesBehindTheKernels()
    {
        using DeviceMemory memory = new();
        MemoryRange y = memory.Allocate("y", 8);
        using GpuModule module = new(Kernel("""
            st.shared.u32 [dynamic], 1; st.shared.u32 [own], 2; ld.shared.u32 %r20, [dynamic]; cvt.u64.u32 %rd10, %r20;
            st.global.u64 [%rd0], %rd10;
            """, 1, ".extern .shared .align 16 .b8 dynamic[]; .shared .align 4 .b8 own[4];"), memory);
        module.Launch("k", new(1), new(1), [y], dynamicShared: 4);
        Assert.Equal([1], Words(y));
        Assert.Equal(16, module.Kernels["k"].SharedBytes);
    }

    /// <summary>A lock that lanes and warps and blocks take in turn; the machine lets others on while some wait.
    /// </summary>
    [Fact]
    public void ALock_IsHandedOn_BetweenBlocks() => Assert.Equal(8 * 5, Passes("""
        setp.ne.u32 %p1, %r0, 0; @%p1 bra E; mov.u32 %r20, 0;
        T: atom.global.cas.b32 %r10, [%rd0], 0, 1; setp.ne.u32 %p2, %r10, 0; @%p2 bra T;
        membar.gl; ld.global.u32 %r11, [%rd1]; add.u32 %r11, %r11, 5; st.global.u32 [%rd1], %r11; membar.gl;
        atom.global.exch.b32 %r10, [%rd0], 0;
        E:
        """, blocks: 8, threads: 32)[0]);

    [Fact]
    public void ALockWithoutFences_IsARace() => Assert.Throws<GpuFault>(() => Passes("""
        T: atom.global.cas.b32 %r10, [%rd0], 0, 1; setp.ne.u32 %p2, %r10, 0; @%p2 bra T;
        ld.global.u32 %r11, [%rd1]; add.u32 %r11, %r11, 5; st.global.u32 [%rd1], %r11;
        atom.global.exch.b32 %r10, [%rd0], 0;
        """, blocks: 8, threads: 1));

    /// <summary>One warp fills what another empties, by two barriers that each of them only waits at or only comes to.
    /// </summary>
    [Theory]
    [InlineData("bar.arrive 1, 64;", "bar.sync 1, 64;", true)]
    [InlineData("bar.arrive 1, 64;", "bar.sync 1, 64; bar.sync 2, 64;", true)]
    [InlineData("", "", false)]
    public void ABarrierOfTwoWarps_IsOrderBetweenThem(string come, string wait, bool passes)
    {
        string second = wait.Contains("2, 64") ? "bar.sync 2, 64;" : "";
        string body = $"""
            shl.b32 %r10, %r0, 2; mov.u32 %r11, s; add.u32 %r10, %r11, %r10; setp.lt.u32 %p1, %r0, 32; @!%p1 bra R;
            st.shared.u32 [%r10], %r0; {come} {second} bra E;
            R: {wait} ld.shared.u32 %r20, [%r10+-128]; {StoreR20}
            E:
            """;
        if (passes) Assert.Equal(Enumerable.Range(0, 32).Select(i => (long)i), Passes(body, 1, 64, Shared)[32..64]);
        else Assert.Throws<GpuFault>(() => Passes(body, 1, 64, Shared));
    }

    [Theory]
    [InlineData("popc.u32 %r20", 40)]
    [InlineData("or.pred %p2", 1)]
    [InlineData("and.pred %p2", 0)]
    public void ABarrierAddsUp_WhatItsThreadsSay(string result, long expected)
    {
        string body = $"""
            setp.lt.u32 %p1, %r0, 40; bar.red.{result}, 0, %p1;
            {(result.StartsWith("popc") ? "" : "selp.u32 %r20, 1, 0, %p2;")} {StoreR20}
            """;
        Assert.Equal(Enumerable.Repeat(expected, 64), Passes(body, threads: 64)[..64]);
    }

    [Theory]
    [InlineData("up", 3, 0, 2, 0)] // lanes below 3 keep their own
    [InlineData("down", 4, 0x1f, 30, 30)]
    [InlineData("bfly", 16, 0x1f, 5, 21)]
    [InlineData("idx", 7, 0x1f, 20, 7)]
    [InlineData("idx", 1, 0x181f, 20, 17)] // segments of 8
    public void AShuffle_ReadsItsLane(string mode, int b, int c, int lane, int expected)
    {
        long[] y = Passes($"shfl.sync.{mode}.b32 %r20|%p1, %r0, {b}, {c}, 0xffffffff; {StoreR20}");
        Assert.Equal(mode == "up" ? lane : expected, y[lane]);
    }

    [Fact]
    public void LanesVoteAndMatch()
    {
        long[] y = Passes($"""
            setp.lt.u32 %p1, %r0, 5; vote.sync.ballot.b32 %r20, %p1, 0xffffffff;
            and.b32 %r10, %r0, 1; match.any.sync.b32 %r11, %r10, 0xffffffff; add.u32 %r20, %r20, %r11;
            redux.sync.max.u32 %r12, %r0, 0xffffffff; add.u32 %r20, %r20, %r12;
            {StoreR20}
            """);
        Assert.Equal(0x1f + 0x5555_5555L + 31, y[4]);
        Assert.Equal(0x1f + 0xaaaa_aaaaL + 31, y[5]);
    }

    [Fact]
    public void AFunction_IsPutWhereItIsCalled()
    {
        string ptx = Kernel($$"""
            { .param .b32 a; .param .b32 r; st.param.b32 [a], %r0; call.uni (r), twice, (a); ld.param.b32 %r10, [r]; }
            { .param .b32 a; .param .b32 r; st.param.b32 [a], %r10; call.uni (r), twice, (a); ld.param.b32 %r20, [r]; }
            {{StoreR20}}
            """, 2, """
            .func (.param .b32 out) twice(.param .b32 in)
            { .reg .b32 %r<9>; .reg .pred %p<2>; ld.param.b32 %r1, [in]; setp.gt.u32 %p1, %r1, 20; @%p1 bra L;
            add.u32 %r1, %r1, %r1; st.param.b32 [out], %r1; ret; L: st.param.b32 [out], 999; ret; }
            """);
        using DeviceMemory memory = new();
        MemoryRange x = memory.Allocate<long>("x", new long[64]), y = memory.Allocate<long>("y", new long[64]);
        Run(memory, ptx, new(1), new(32), [x, y]);
        Assert.Equal(Enumerable.Range(0, 32).Select(i => i > 20 || 2 * i > 20 ? 999L : 4 * i), Words(y)[..32]);
    }

    [Fact]
    public void AVariableOfTheModule_HasItsValue_AndStays()
    {
        string ptx = Kernel($"mov.u64 %rd10, table; ld.global.u32 %r20, [%rd10+8]; {StoreR20}", 2,
            ".visible .global .align 4 .u32 table[4] = {7, 8, 9};");
        using DeviceMemory memory = new();
        MemoryRange x = memory.Allocate<long>("x", new long[64]), y = memory.Allocate<long>("y", new long[64]);
        Run(memory, ptx, new(1), new(32), [x, y]);
        Assert.Equal(9, Words(y)[3]);
    }

    /// <summary>Sectors and passes over banks by hand: what a GPU's profiler would say.</summary>
    [Theory]
    [InlineData("ld.global.u32 %r20, [%rd12];", 4, 4, 4, 0, 0)] // neighbours
    [InlineData("ld.global.u32 %r20, [%rd12];", 8, 8, 4, 0, 0)] // every second word
    [InlineData("ld.global.u32 %r20, [%rd12];", 128, 32, 4, 0, 0)] // each in a sector of its own
    [InlineData("ld.global.u32 %r20, [%rd12];", 0, 1, 1, 0, 0)] // all the same
    [InlineData("ld.global.v4.u32 {%r20, %r21, %r22, %r23}, [%rd12];", 16, 16, 16, 0, 0)]
    [InlineData("st.shared.u32 [%r12], %r0;", 4, 0, 0, 1, 1)]
    [InlineData("st.shared.u32 [%r12], %r0;", 8, 0, 0, 2, 1)]
    [InlineData("st.shared.u32 [%r12], %r0;", 128, 0, 0, 32, 1)]
    [InlineData("st.shared.v4.u32 [%r12], {%r0, %r0, %r0, %r0};", 16, 0, 0, 4, 4)]
    public void TrafficIsCounted(string access, int stride, long sectors, long least, long passes, long leastPasses)
    {
        using DeviceMemory memory = new();
        MemoryRange x = memory.Allocate<long>("x", new long[1024]);
        Counters counters = Run(memory, Kernel($"""
            mul.lo.u32 %r10, %r0, {stride}; cvt.u64.u32 %rd10, %r10; add.s64 %rd12, %rd0, %rd10;
            mov.u32 %r11, s; add.u32 %r12, %r11, %r10; {access}
            """, 1, ".shared .align 16 .b8 s[4096];"), new(1), new(32), [x]);
        Assert.Equal((sectors, least, passes, leastPasses),
            (counters.Sectors, counters.LeastSectors, counters.Wavefronts, counters.LeastWavefronts));
        // The two movs and the ld.param of the frame, five to the address, the access, ret.
        Assert.Equal(3 + 5 + 1 + 1, counters.WarpInstructions);
        Assert.Equal(32 * counters.WarpInstructions, counters.LaneInstructions);
    }

    [Fact]
    public void CountersAreTheSame_InEveryOrder()
    {
        HashSet<Counters> all = [];
        foreach (LaunchOptions options in Orders)
        {
            using DeviceMemory memory = new();
            MemoryRange x = memory.Allocate<long>("x", new long[1024]), y = memory.Allocate<long>("y", new long[1024]);
            all.Add(Run(memory, Kernel($"""
                shl.b32 %r10, %r0, 2; mov.u32 %r11, s; add.u32 %r10, %r11, %r10; xor.b32 %r12, %r10, 128;
                st.shared.u32 [%r10], %r0; bar.sync 0; ld.shared.u32 %r20, [%r12]; setp.lt.u32 %p1, %r0, 9;
                @%p1 add.u32 %r20, %r20, 1;
                red.global.add.u32 [%rd1], %r20;
                """, 2, Shared), new(5), new(64), [x, y], options));
        }
        Assert.Single(all);
    }

    /// <summary>No time is asserted; this is printed for who wants to know what the machine costs.</summary>
    [Fact]
    public void Speed()
    {
        using DeviceMemory memory = new();
        MemoryRange x = memory.Allocate<float>("x", new float[4096]), y = memory.Allocate<float>("y", new float[4096]);
        using GpuModule module = new(Kernel("""
            mov.u32 %r20, 0; mov.f32 %f1, 0f00000000; mul.wide.u32 %rd10, %r0, 16; add.s64 %rd10, %rd0, %rd10;
            L: ld.global.v4.f32 {%f2, %f3, %f4, %f5}, [%rd10];
            fma.rn.f32 %f1, %f2, %f3, %f1; fma.rn.f32 %f1, %f4, %f5, %f1; fma.rn.f32 %f1, %f2, %f5, %f1;
            fma.rn.f32 %f1, %f4, %f3, %f1; add.u32 %r20, %r20, 1; setp.lt.u32 %p1, %r20, 4000; @%p1 bra L;
            mul.wide.u32 %rd11, %r0, 4; add.s64 %rd11, %rd1, %rd11; st.global.f32 [%rd11], %f1;
            """, 2), memory);
        module.Launch("k", new(1), new(1024), [x, y]);
        Stopwatch watch = Stopwatch.StartNew();
        Counters counters = module.Launch("k", new(1), new(1024), [x, y]);
        TestContext.Current.TestOutputHelper?.WriteLine(
            $"{counters.WarpInstructions / watch.Elapsed.TotalMicroseconds:0.0} M warp instructions a second");
        Assert.Equal(32 * (12 + 4000 * 8), counters.WarpInstructions);
    }
}
