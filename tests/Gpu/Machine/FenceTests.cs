using static Native.Tests.Gpu.Machine.MachineRun;

namespace Native.Tests.Gpu.Machine;

/// <summary>What blocks tell each other: as far as fences and strong accesses reach, and no farther.</summary>
public sealed class FenceTests
{
    /// <summary>Block 0 writes x and raises a flag 512 bytes behind; block 1 waits for it, then reads x.</summary>
    private static string Flag(string raise, string look, string then = "") => $$"""
        setp.ne.u32 %p1, %r1, 0; @%p1 bra WAIT;
        st.global.u32 [%rd0], 77; {{raise}} bra END;
        WAIT: {{look}} setp.eq.u32 %p2, %r20, 0; @%p2 bra WAIT;
        {{then}} ld.global.u32 %r21, [%rd0]; st.global.u32 [%rd1+8], %r21;
        END:
        """;

    [Theory]
    [InlineData("st.release.gpu.global.u32 [%rd0+512], 1;", "ld.acquire.gpu.global.u32 %r20, [%rd0+512];", "")]
    [InlineData("st.release.sys.global.u32 [%rd0+512], 1;", "ld.acquire.gpu.global.u32 %r20, [%rd0+512];", "")]
    [InlineData("fence.acq_rel.gpu; st.relaxed.gpu.global.u32 [%rd0+512], 1;",
        "ld.relaxed.gpu.global.u32 %r20, [%rd0+512];", "fence.acq_rel.gpu;")]
    [InlineData("membar.gl; red.global.add.u32 [%rd0+512], 1;", "atom.acquire.gpu.global.or.b32 %r20, [%rd0+512], 0;",
        "")]
    public void AFlagThatReachesTheOtherBlock(string raise, string look, string then) =>
        Assert.Equal(77, Passes(Flag(raise, look, then), blocks: 2, threads: 1)[1]);

    [Theory]
    [InlineData("st.release.cta.global.u32 [%rd0+512], 1;", "ld.acquire.gpu.global.u32 %r20, [%rd0+512];", "")]
    [InlineData("st.release.gpu.global.u32 [%rd0+512], 1;", "ld.acquire.cta.global.u32 %r20, [%rd0+512];", "")]
    [InlineData("membar.cta; st.relaxed.gpu.global.u32 [%rd0+512], 1;", "ld.acquire.gpu.global.u32 %r20, [%rd0+512];",
        "")]
    [InlineData("membar.gl; st.volatile.global.u32 [%rd0+512], 1;", "ld.volatile.global.u32 %r20, [%rd0+512];",
        "membar.cta;")]
    public void AFlagForItsOwnBlock_TellsOthersNothing(string raise, string look, string then) =>
        Fails(FaultKind.Race, "without order", Flag(raise, look, then), blocks: 2, threads: 1);

    [Theory]
    [InlineData("st.release.cta.global.u32 [%rd0+512], 1;", "ld.acquire.cta.global.u32 %r20, [%rd0+512];", "")]
    [InlineData("membar.cta; st.relaxed.cta.global.u32 [%rd0+512], 1;", "ld.relaxed.cta.global.u32 %r20, [%rd0+512];",
        "membar.cta;")]
    public void AFlagForItsOwnBlock_IsOrderThere(string raise, string look, string then) => Assert.Equal(77,
        Passes("shr.u32 %r1, %r0, 5;" + Flag(raise, look, then), blocks: 1, threads: 64)[1]);

    [Fact]
    public void AnAtomicOperationForItsOwnBlock_IsNoneBetweenBlocks()
    {
        Fails(FaultKind.Race, "without order", "red.relaxed.cta.global.add.u32 [%rd0], 1;", blocks: 3);
        Passes("red.relaxed.cta.global.add.u32 [%rd0], 1;", threads: 64);
        Passes("red.relaxed.gpu.global.add.u32 [%rd0], 1;", blocks: 3);
    }

    /// <summary>Block 0 releases 1, block 1 makes it 2, block 2 acquires that. Only an atomic operation hands on what
    /// the value before told.</summary>
    [Theory]
    [InlineData("atom.relaxed.gpu.global.add.u32 %r21, [%rd0+512], 1;", true)]
    [InlineData("st.relaxed.gpu.global.u32 [%rd0+512], 2;", false)]
    public void AStoreOverARelease_EndsIt(string second, bool passes)
    {
        string body = $$"""
            setp.eq.u32 %p1, %r1, 1; @%p1 bra ONE; setp.eq.u32 %p1, %r1, 2; @%p1 bra TWO;
            st.global.u32 [%rd0], 77; st.release.gpu.global.u32 [%rd0+512], 1; bra END;
            ONE: ld.relaxed.gpu.global.u32 %r20, [%rd0+512]; setp.ne.u32 %p2, %r20, 1; @%p2 bra ONE;
            {{second}} bra END;
            TWO: ld.relaxed.gpu.global.u32 %r20, [%rd0+512]; setp.ne.u32 %p2, %r20, 2; @%p2 bra TWO;
            ld.acquire.gpu.global.u32 %r20, [%rd0+512];
            ld.global.u32 %r21, [%rd0]; st.global.u32 [%rd1+8], %r21;
            END:
            """;
        if (passes) Assert.Equal(77, Passes(body, blocks: 3, threads: 1)[1]);
        else Fails(FaultKind.Race, "without order", body, blocks: 3, threads: 1);
    }

    /// <summary>Each thread writes and fences, the block meets, one thread counts it as done. Sequentially consistent
    /// fences (__threadfence) are order then; others have to be of the thread that counts.</summary>
    [Theory]
    [InlineData("membar.gl;", "membar.gl;", true)]
    [InlineData("fence.sc.gpu;", "membar.sys;", true)]
    [InlineData("fence.acq_rel.gpu;", "fence.acq_rel.gpu;", false)]
    [InlineData("membar.gl;", "", false)]
    [InlineData("", "membar.gl;", false)]
    [InlineData("membar.cta;", "membar.cta;", false)]
    public void FencesBeforeABarrier_AndACountBehindIt(string before, string after, bool passes)
    {
        string body = $$"""
            mad.lo.u32 %r10, %r1, 64, %r0; mul.wide.u32 %rd10, %r10, 8; add.s64 %rd10, %rd0, %rd10;
            cvt.u64.u32 %rd11, %r10; st.global.u64 [%rd10], %rd11; {{before}} bar.sync 0;
            setp.ne.u32 %p1, %r0, 0; @!%p1 atom.global.add.u32 %r20, [%rd0+4096], 1; @%p1 bra MEET;
            st.shared.u32 [s], %r20;
            MEET: bar.sync 0; ld.shared.u32 %r20, [s]; setp.ne.u32 %p2, %r20, 2; @%p2 bra END;
            {{after}} mul.wide.u32 %rd12, %r0, 8; add.s64 %rd13, %rd0, %rd12; add.s64 %rd14, %rd1, %rd12;
            ld.global.u64 %rd20, [%rd13]; ld.global.u64 %rd21, [%rd13+512]; ld.global.u64 %rd22, [%rd13+1024];
            add.s64 %rd20, %rd20, %rd21; add.s64 %rd20, %rd20, %rd22; st.global.u64 [%rd14], %rd20;
            END:
            """;
        const string Shared = ".shared .align 4 .b8 s[4];";
        if (passes) Assert.Equal(3 * 5 + 64 + 128, Passes(body, blocks: 3, threads: 64, shared: Shared)[5]);
        else Fails(FaultKind.Race, "without order", body, blocks: 3, threads: 64, shared: Shared);
    }

    /// <summary>A turn is handed from block to block; the last resets it by a plain store, for it has seen all others'
    /// writes of it.</summary>
    [Fact]
    public void WhoHasAcquiredAWord_MayWriteItPlainly() => Assert.Equal(0, Passes("""
        WAIT: ld.acquire.gpu.global.u32 %r20, [%rd1]; setp.ne.u32 %p1, %r20, %r1; @%p1 bra WAIT;
        setp.eq.u32 %p2, %r1, 3; @%p2 st.global.u32 [%rd1], 0; @%p2 bra END;
        fence.acq_rel.gpu; red.relaxed.gpu.global.add.u32 [%rd1], 1;
        END:
        """, blocks: 4, threads: 1)[0]);
}
