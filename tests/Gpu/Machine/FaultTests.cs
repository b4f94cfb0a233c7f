using static Native.Tests.Gpu.Machine.MachineRun;

namespace Native.Tests.Gpu.Machine;

/// <summary>Planted faults: each is found in every order and named, and its neighbour without the fault passes.
/// </summary>
public sealed class FaultTests
{
    private const string Shared = ".shared .align 16 .b8 s[4096];";

    /// <summary>%rd10 is the thread's own word of x, %rd11 that of y, %r10 its address in shared memory.</summary>
    private const string Own = """
        mul.wide.u32 %rd20, %r0, 4;
        add.s64 %rd10, %rd0, %rd20;
        add.s64 %rd11, %rd1, %rd20;
        shl.b32 %r11, %r0, 2;
        mov.u32 %r12, s;
        add.u32 %r10, %r12, %r11;
        xor.b32 %r13, %r11, 4;
        add.u32 %r13, %r12, %r13;
        xor.b32 %r14, %r11, 128;
        add.u32 %r14, %r12, %r14;
        """;

    [Theory]
    [InlineData("ld.global.u32 %r20, [%rd0+8192];", "4 bytes 0 bytes past the end of x")]
    [InlineData("ld.global.u32 %r20, [%rd0+-4];", "")]
    [InlineData("st.global.u32 [%rd1+8190], %r0;", "4 bytes at byte 8190 of y")]
    [InlineData("ld.global.v4.u32 {%r20, %r21, %r22, %r23}, [%rd0+8184];", "16 bytes at byte 8184")]
    [InlineData("ld.global.u32 %r20, [%rd0+40000];", "31808 bytes past the end of x")]
    [InlineData("ld.shared.u32 %r20, [s+4096];", "past the end of shared memory")]
    [InlineData("st.shared.u32 [s+-4], %r0;", "shared memory")]
    [InlineData("atom.global.add.u32 %r20, [%rd1+8192], 1;", "past the end of y")]
    [InlineData("mov.u64 %rd30, 0; ld.global.u32 %r20, [%rd30];", "nothing is there")]
    [InlineData("cvta.shared.u64 %rd30, 5000; ld.u32 %r20, [%rd30];", "shared memory")]
    public void AnAccessOutOfBounds(string body, string words) =>
        Fails(FaultKind.OutOfBounds, words, $".loc 1 42 3\n{body}", shared: Shared, location: "planted.cu:42");

    /// <summary>Past the end of one variable in shared memory is not the beginning of the next.</summary>
    [Theory]
    [InlineData("ld.shared.u32 %r20, [first+64];")]
    [InlineData("st.shared.u32 [first+64], %r0;")]
    [InlineData("add.u32 %r10, %r10, 4; st.shared.u32 [%r10], %r0;")]
    [InlineData("atom.shared.add.u32 %r20, [first+64], 1;")]
    [InlineData("cp.async.ca.shared.global [first+64], [%rd0], 4; cp.async.wait_all;")]
    public void AnAccessBetweenVariables(string body) => Fails(FaultKind.OutOfBounds, "between two variables",
        $"mov.u32 %r10, first; mad.lo.u32 %r10, %r0, 4, %r10; st.shared.u32 [second], 1; {body}", threads: 16,
        shared: ".shared .align 4 .b8 first[64]; .shared .align 4 .b8 second[64];");

    [Theory]
    [InlineData("ld.global.u32 %r20, [%rd0+2];", "4 bytes at byte 2 of x")]
    [InlineData("ld.global.v2.u32 {%r20, %r21}, [%rd0+4];", "not a multiple of 8")]
    [InlineData("ld.global.v4.u32 {%r20, %r21, %r22, %r23}, [%rd0+8];", "not a multiple of 16")]
    [InlineData("st.shared.u64 [s+4], %rd0;", "not a multiple of 8")]
    public void AMisalignedAccess(string body, string words) =>
        Fails(FaultKind.Misaligned, words, body, shared: Shared);

    [Theory]
    [InlineData("ld.global.u32 %r20, [%rd1];", "byte 0 of y")]
    [InlineData("st.global.u8 [%rd1], 1; ld.global.u16 %h20, [%rd1];", "byte 1 of y")]
    [InlineData("ld.shared.u32 %r20, [s+8];", "byte 8 of shared memory")]
    [InlineData(".local .align 4 .b8 l[16]; ld.local.u32 %r20, [l+4];", "byte 4 of local memory")]
    [InlineData("st.global.u32 [%rd1], %r50;", "register %r50")]
    [InlineData("setp.eq.u32 %p1, %r0, 99; @%p1 mov.u32 %r51, 1; add.u32 %r52, %r51, 1; st.global.u32 [%rd1], %r52;",
        "register %r52")]
    [InlineData("@%p5 st.global.u32 [%rd1], 1;", "register %p5")]
    public void AReadOfWhatNobodyWrote(string body, string words) =>
        Fails(FaultKind.Uninitialised, words, body, threads: 1, shared: Shared);

    [Fact]
    public void ARegisterThatIsUndefined_ButNotUsed_IsNone() =>
        Passes("setp.eq.u32 %p1, %r0, 99; selp.b32 %r52, %r51, 7, %p1; st.global.u32 [%rd1], %r52;", threads: 1);

    [Theory]
    [InlineData("st.shared.u32 [%r10], %r0; ld.shared.u32 %r20, [%r14];")] // read after write
    [InlineData("st.shared.u32 [%r10], %r0; st.shared.u32 [%r14], %r0;")] // write after write
    [InlineData("st.shared.u32 [%r10], %r0; bar.sync 0; ld.shared.u32 %r20, [%r14]; st.shared.u32 [%r10], 7;")]
    [InlineData("st.shared.u32 [%r10], %r0; bar.warp.sync 0xffffffff; ld.shared.u32 %r20, [%r14];")]
    [InlineData("st.shared.u32 [%r10], %r0; membar.cta; ld.shared.u32 %r20, [%r14];")]
    [InlineData("st.shared.u8 [%r10], %r0; st.shared.u8 [%r14], %r0;")]
    [InlineData("ld.shared.u32 %r20, [%r14]; st.shared.u32 [%r10], 0;")] // of the value that is there
    [InlineData("red.shared.add.u32 [s], 1; bar.sync 0; ld.shared.u32 %r21, [s]; red.shared.add.u32 [s], 1;")]
    public void ARaceBetweenWarps(string body) =>
        Fails(FaultKind.Race, "shared memory", $"{Own} st.shared.u32 [%r10], 0; bar.sync 0; {body}", threads: 64,
            shared: Shared);

    [Theory]
    [InlineData("st.shared.u32 [%r10], %r0; bar.sync 0; ld.shared.u32 %r20, [%r14];")]
    [InlineData("st.shared.u32 [%r10], 3; bar.sync 0; ld.shared.u32 %r9, [%r14]; bar.sync 0; st.shared.u32 [%r10], 7;")]
    [InlineData("st.shared.u32 [%r10], %r0; bar.sync 3; ld.shared.u32 %r20, [%r14];")]
    [InlineData("st.shared.u32 [%r10], %r0; bar.sync 3, 64; ld.shared.u32 %r20, [%r14];")]
    [InlineData("st.shared.u32 [s], 5;")] // all write the same
    [InlineData("red.shared.add.u32 [s], 1;")]
    [InlineData("st.shared.u32 [%r10], %r0; bar.warp.sync 0xffffffff; ld.shared.u32 %r20, [%r13];")]
    [InlineData("st.shared.u32 [%r10], %r0; ld.shared.u32 %r20, [%r10];")]
    public void OrderBetweenWarps(string body) =>
        Passes($"{Own} st.shared.u32 [%r10], 0; bar.sync 0; {body}", threads: 64, shared: Shared);

    [Theory]
    [InlineData("st.shared.u32 [%r10], %r0; ld.shared.u32 %r20, [%r13];")]
    [InlineData("st.shared.u32 [s], %r0;")] // each another value
    [InlineData("st.shared.u32 [%r10], 1; bar.warp.sync -1; ld.shared.u32 %r20, [%r13]; st.shared.u32 [%r10], 2;")]
    [InlineData("st.shared.u32 [%r10], 1; shfl.sync.bfly.b32 %r21, %r0, 1, 31, -1; ld.shared.u32 %r20, [%r13];")]
    [InlineData("st.shared.u16 [%r10], %h1; ld.shared.u16 %h2, [%r13];")]
    [InlineData("st.volatile.shared.u32 [%r10], %r0; ld.volatile.shared.u32 %r20, [%r13];")]
    public void ARaceWithinAWarp(string body) => Fails(FaultKind.Race, "shared memory",
        $"mov.u16 %h1, 3; st.shared.u32 [%r10], 0; st.shared.u32 [s], 0; bar.sync 0; {body}".Insert(0, Own),
        shared: Shared);

    /// <summary>A warp that only comes to a barrier tells what it did before, not what it does behind.</summary>
    [Theory]
    [InlineData("st.shared.u32 [%r10], %r0; bar.arrive 1, 64;", true)]
    [InlineData("bar.arrive 1, 64; st.shared.u32 [%r10], %r0;", false)]
    public void AWriteAfterAnArrival_IsNotTold(string first, bool passes)
    {
        string body = $"""
            {Own} st.shared.u32 [%r10], 0; bar.sync 0; setp.lt.u32 %p1, %r0, 32; @%p1 bra FIRST;
            bar.sync 1, 64; ld.shared.u32 %r20, [%r14]; bra END;
            FIRST: {first}
            END:
            """;
        if (passes) Passes(body, threads: 64, shared: Shared);
        else Fails(FaultKind.Race, "shared memory", body, threads: 64, shared: Shared);
    }

    [Fact]
    public void HalvesOfAWord_ByTwoThreads_AreNoRace() => Passes($"""
        {Own}
        shl.b32 %r20, %r0, 1; add.u32 %r20, %r12, %r20; cvt.u16.u32 %h1, %r0;
        st.shared.u16 [%r20], %h1;
        """, threads: 64, shared: Shared);

    [Theory]
    [InlineData("st.global.u32 [%rd1], %r1;")]
    [InlineData("setp.eq.u32 %p1, %r1, 0; @%p1 st.global.u32 [%rd0], 1; @!%p1 ld.global.u32 %r20, [%rd0];")]
    [InlineData("ld.global.u32 %r20, [%rd0]; st.global.u32 [%rd0], %r1;")]
    public void ARaceBetweenBlocks(string body) => Fails(FaultKind.Race, "without order", body, blocks: 3, threads: 1);

    /// <summary>Block 0 writes x and raises a flag in y; block 1 waits for it, then reads x.</summary>
    [Theory]
    [InlineData("membar.gl;", "membar.gl;", true)]
    [InlineData("", "membar.gl;", false)]
    [InlineData("membar.gl;", "", false)]
    [InlineData("", "", false)]
    public void AFlagBetweenBlocks_NeedsFencesOnBothSides(string before, string after, bool passes)
    {
        string body = $$"""
            setp.ne.u32 %p1, %r1, 0; @%p1 bra WAIT;
            st.global.u32 [%rd0], 77; {{before}} st.volatile.global.u32 [%rd1], 1; bra END;
            WAIT: ld.volatile.global.u32 %r20, [%rd1]; setp.eq.u32 %p2, %r20, 0; @%p2 bra WAIT;
            {{after}} ld.global.u32 %r21, [%rd0]; st.global.u32 [%rd1+8], %r21;
            END:
            """;
        if (passes) Assert.Equal(77, Passes(body, blocks: 2, threads: 1)[1]);
        else Assert.Throws<GpuFault>(() => Passes(body, blocks: 2, threads: 1));
    }

    [Fact]
    public void AFlagByReleaseAndAcquire_IsOrder() => Assert.Equal(77, Passes("""
        setp.ne.u32 %p1, %r1, 0; @%p1 bra WAIT;
        st.global.u32 [%rd0], 77; st.release.gpu.global.u32 [%rd1], 1; bra END;
        WAIT: ld.acquire.gpu.global.u32 %r20, [%rd1]; setp.eq.u32 %p2, %r20, 0; @%p2 bra WAIT;
        ld.global.u32 %r21, [%rd0]; st.global.u32 [%rd1+8], %r21;
        END:
        """, blocks: 2, threads: 1)[1]);

    /// <summary>The last block to come adds up what all wrote, as reductions in one launch do.</summary>
    [Fact]
    public void TheLastBlockToCome_SeesWhatAllWrote() => Assert.Equal(1 + 2 + 3 + 4, Passes("""
        setp.ne.u32 %p1, %r0, 0;
        mul.wide.u32 %rd10, %r1, 8; add.s64 %rd11, %rd0, %rd10; add.u32 %r10, %r1, 1; cvt.u64.u32 %rd12, %r10;
        @!%p1 st.global.u64 [%rd11], %rd12;
        bar.sync 0; @%p1 bra END;
        membar.gl; atom.global.add.u32 %r20, [%rd1+64], 1; membar.gl;
        setp.ne.u32 %p2, %r20, 3; @%p2 bra END;
        ld.global.u64 %rd20, [%rd0]; ld.global.u64 %rd21, [%rd0+8]; ld.global.u64 %rd22, [%rd0+16];
        ld.global.u64 %rd23, [%rd0+24];
        add.s64 %rd20, %rd20, %rd21; add.s64 %rd22, %rd22, %rd23; add.s64 %rd20, %rd20, %rd22;
        st.global.u64 [%rd1], %rd20;
        END:
        """, blocks: 4, threads: 64)[0]);

    [Theory]
    [InlineData("setp.lt.u32 %p1, %r0, 16; @%p1 bar.sync 0;", 32)]
    [InlineData("setp.lt.u32 %p1, %r0, 16; @%p1 bra L; bar.sync 0; L: bar.sync 0;", 32)]
    [InlineData("setp.lt.u32 %p1, %r0, 32; @%p1 bar.sync 0;", 64)]
    [InlineData("setp.lt.u32 %p1, %r0, 32; @%p1 ret; bar.sync 0;", 64)]
    [InlineData("setp.eq.u32 %p1, %r0, 3; @%p1 ret; bar.sync 0;", 32)]
    [InlineData("setp.lt.u32 %p1, %r0, 32; @%p1 bar.sync 1, 64; @!%p1 bar.sync 2, 64;", 64)]
    [InlineData("bar.sync 17;", 32)]
    [InlineData("bar.sync 1, 48;", 64)]
    public void ABarrierThatSomeMiss(string body, int threads) =>
        Fails(FaultKind.Barrier, "", $".loc 1 9 1\n{body}", threads: threads, location: "planted.cu:9");

    [Theory]
    [InlineData("setp.lt.u32 %p1, %r0, 16; @%p1 shfl.sync.idx.b32 %r20, %r0, 0, 31, 0xffffffff;")]
    [InlineData("setp.lt.u32 %p1, %r0, 16; @!%p1 ret; shfl.sync.idx.b32 %r20, %r0, 0, 31, 0xffffffff;")]
    [InlineData("shfl.sync.idx.b32 %r20, %r0, 0, 31, 0x0000ffff;")]
    [InlineData("setp.lt.u32 %p1, %r0, 16; @%p1 shfl.sync.idx.b32 %r20, %r0, 31, 31, 0x0000ffff;")]
    [InlineData("setp.lt.u32 %p1, %r0, 16; @%p1 vote.sync.ballot.b32 %r20, %p1, 0xffffffff;")]
    [InlineData("setp.lt.u32 %p1, %r0, 16; @%p1 redux.sync.add.s32 %r20, %r0, 0xffffffff;")]
    public void AnOperationOfTheWarp_WithoutSomeLanes(string body) => Fails(FaultKind.Convergence, "", body);

    [Fact]
    public void LanesThatComeByOtherWays_MeetAtAShuffle() => Assert.Equal(31, Passes("""
        setp.lt.u32 %p1, %r0, 16; @%p1 bra L; add.u32 %r10, %r0, 100; sub.u32 %r10, %r10, 100; bra M;
        L: mov.u32 %r10, %r0; M: shfl.sync.idx.b32 %r20, %r10, 31, 31, 0xffffffff;
        mul.wide.u32 %rd10, %r0, 8; add.s64 %rd10, %rd1, %rd10; cvt.u64.u32 %rd11, %r20; st.global.u64 [%rd10], %rd11;
        """)[5]);

    [Theory]
    [InlineData("L: bra L;", FaultKind.Deadlock)]
    [InlineData("L: ld.volatile.global.u32 %r20, [%rd0]; setp.eq.u32 %p1, %r20, 0; @%p1 bra L;", FaultKind.Deadlock)]
    [InlineData("trap;", FaultKind.Trap)]
    public void WhatNeverEnds_OrTraps(string body, object kind) =>
        Fails((FaultKind)kind, "", body, threads: 1);

    [Theory]
    [InlineData("foo.bar %r10, %r11;", "foo.bar")]
    [InlineData("add.frob.u32 %r10, %r11, %r12;", "'.frob' is not known")]
    [InlineData("add.u32 %r10, %r11;", "2 operands")]
    [InlineData("mov.u32 %r10, %nosuch;", "%nosuch")]
    [InlineData("bra NOWHERE;", "NOWHERE")]
    [InlineData("add.u32 %r10, %r11, %f1, %f2;", "operands")]
    [InlineData("ld.global.u32 %r10, %rd0;", "an address was expected")]
    [InlineData("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f0,%f1}, {%r1,%r2}, {%r5}, {%f4,%f5,%f6,%f7};",
        "2 registers")]
    public void WhatTheMachineDoesNotKnow_IsRefusedAtLoad_WithItsLine(string body, string words)
    {
        using DeviceMemory memory = new();
        string ptx = Kernel($".loc 1 33 1\n{body}", 2);
        PtxException refused = Assert.Throws<PtxException>(() => new GpuModule(ptx, memory));
        Assert.Contains(words, refused.Message, StringComparison.Ordinal);
        if (!body.StartsWith("bra")) Assert.Contains("planted.cu:33", refused.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(2048, 0, "2048 threads")]
    [InlineData(32, 300_000, "bytes of shared memory")]
    public void ALaunchThatNoDeviceCouldDo(int threads, int shared, string words)
    {
        using DeviceMemory memory = new();
        MemoryRange x = memory.Allocate("x", 8);
        GpuFault fault = Assert.Throws<GpuFault>(() => Run(memory, Kernel("", 1), new(1), new(threads), [x],
            dynamicShared: shared));
        Assert.Contains(words, fault.Message, StringComparison.Ordinal);
    }

    /// <summary>What depends on order shows in the orders that the machine tries.</summary>
    [Fact]
    public void ASumInTheOrderOfBlocks_DependsOnTheOrder()
    {
        HashSet<float> sums = [];
        foreach (LaunchOptions options in Orders)
        {
            using DeviceMemory memory = new();
            MemoryRange sum = memory.Allocate<float>("sum", [0f]);
            Run(memory, Kernel("""
                cvt.rn.f32.u32 %f0, %r1; fma.rn.f32 %f0, %f0, 0f461C4000, 0f3DCCCCCD; ex2.approx.f32 %f1, %f0;
                rcp.rn.f32 %f0, %f0; red.global.add.f32 [%rd0], %f0;
                """, 1), new(64), new(1), [sum], options);
            sums.Add(BitConverter.Int32BitsToSingle(unchecked((int)ReadWord(sum))));
        }
        Assert.True(sums.Count > 1, "every order gave the same sum");
    }

    private static unsafe uint ReadWord(MemoryRange range) => *(uint*)range.Data;
}
