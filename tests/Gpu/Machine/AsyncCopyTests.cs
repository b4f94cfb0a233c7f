using static Native.Tests.Gpu.Machine.MachineRun;

namespace Native.Tests.Gpu.Machine;

/// <summary>cp.async: what must be awaited is, in every order in which copies may land.</summary>
public sealed class AsyncCopyTests
{
    private const string Shared = ".shared .align 16 .b8 s[4096];";

    /// <summary>Each thread's 16 bytes of x at %rd10, its place in shared memory at %r10, its neighbour's at %r13, its
    /// word of y at %rd11.</summary>
    private const string Own = """
        mul.wide.u32 %rd20, %r0, 16; add.s64 %rd10, %rd0, %rd20; mul.wide.u32 %rd20, %r0, 8;
        add.s64 %rd11, %rd1, %rd20; shl.b32 %r11, %r0, 4; mov.u32 %r12, s; add.u32 %r10, %r12, %r11;
        xor.b32 %r13, %r11, 16; add.u32 %r13, %r12, %r13; xor.b32 %r14, %r11, 512; add.u32 %r14, %r12, %r14;
        """;

    private const string Copy = "cp.async.cg.shared.global [%r10], [%rd10], 16;";

    [Theory]
    [InlineData("cp.async.commit_group; cp.async.wait_group 0;")]
    [InlineData("cp.async.wait_all;")]
    [InlineData("cp.async.commit_group; cp.async.commit_group; cp.async.wait_group 1;")]
    public void WhatWasAwaited_IsThere(string wait)
    {
        long[] y = Passes($"{Own} {Copy} {wait} ld.shared.u64 %rd12, [%r10+8]; st.global.u64 [%rd11], %rd12;",
            shared: Shared, input: x => FillWith(x, i => i * 7));
        Assert.Equal(Enumerable.Range(0, 32).Select(i => (2 * i + 1) * 7L), y[..32]);
    }

    [Theory]
    [InlineData("")]
    [InlineData("cp.async.commit_group;")]
    [InlineData("cp.async.commit_group; cp.async.wait_group 1;")]
    [InlineData("bar.sync 0;")]
    public void AReadBeforeTheWait(string wait) => Fails(FaultKind.AsyncCopy, "before the asynchronous copy",
        $"{Own} {Copy} {wait} ld.shared.u64 %rd12, [%r10]; cp.async.wait_all;", shared: Shared);

    [Fact]
    public void TwoStages_KeepOneOnItsWay() => Passes($"""
        {Own}
        {Copy} cp.async.commit_group;
        cp.async.cg.shared.global [%r10+1024], [%rd10+512], 16; cp.async.commit_group;
        cp.async.wait_group 1; ld.shared.u64 %rd12, [%r10];
        cp.async.wait_group 0; ld.shared.u64 %rd13, [%r10+1024];
        """, shared: Shared);

    [Fact]
    public void ANeighboursCopy_NeedsABarrierAfterTheWait()
    {
        string body = $"{Own} {Copy} cp.async.wait_all; {{0}} ld.shared.u64 %rd12, [%r14];";
        Passes(string.Format(body, "bar.sync 0;"), threads: 64, shared: Shared);
        foreach (LaunchOptions options in Orders)
        {
            using DeviceMemory memory = new();
            MemoryRange x = memory.Allocate<long>("x", new long[1024]), y = memory.Allocate<long>("y", new long[1024]);
            string ptx = Kernel(string.Format(body, ""), 2, Shared);
            GpuFault fault = Assert.Throws<GpuFault>(() => Run(memory, ptx, new(1), new(64), [x, y], options));
            Assert.Contains(fault.Kind, (FaultKind[])[FaultKind.Race, FaultKind.AsyncCopy, FaultKind.Uninitialised]);
        }
    }

    [Theory]
    [InlineData("")]
    [InlineData("cp.async.commit_group;")]
    [InlineData("cp.async.commit_group; cp.async.wait_group 1;")]
    public void ACopyThatIsNeverAwaited(string wait) =>
        Fails(FaultKind.AsyncCopy, "without having waited", $"{Own} {Copy} {wait}", shared: Shared);

    [Fact]
    public void WritingWhereACopyGoes_WhileItIsOnItsWay() => Fails(FaultKind.AsyncCopy, "in flight",
        $"{Own} {Copy} st.shared.u32 [%r10], 1; cp.async.wait_all;", shared: Shared);

    [Fact]
    public void TwoCopiesToOnePlace() => Fails(FaultKind.AsyncCopy, "another copy to it is in flight",
        $"{Own} {Copy} {Copy} cp.async.wait_all;", shared: Shared);

    [Fact]
    public void ChangingWhatIsBeingCopied() => Fails(FaultKind.AsyncCopy, "was changed while it was in flight",
        $"{Own} {Copy} st.global.u32 [%rd10], 9; cp.async.wait_all;", shared: Shared);

    /// <summary>What a published kernel got wrong: a copy of the next tile goes to where another warp still reads this
    /// one.</summary>
    [Fact]
    public void ACopyOverWhatAnotherWarpReads_NeedsABarrier()
    {
        string body = $"{Own} {Copy} cp.async.wait_all; bar.sync 0; ld.shared.u64 %rd12, [%r14]; {{0}} "
            + "cp.async.cg.shared.global [%r10], [%rd10], 16; cp.async.wait_all;";
        Passes(string.Format(body, "bar.sync 0;"), threads: 64, shared: Shared);
        Fails(FaultKind.Race, "", string.Format(body, ""), threads: 64, shared: Shared);
    }

    [Theory]
    [InlineData("cp.async.cg.shared.global [%r10], [%rd10], 8;")]
    [InlineData("cp.async.cg.shared.global [%r10], [%rd10], 4;")]
    [InlineData("cp.async.ca.shared.global [%r10], [%rd10], 12;")]
    public void SizesThatAreNone_AreRefusedAtLoad(string copy)
    {
        using DeviceMemory memory = new();
        Assert.Throws<PtxException>(() => new GpuModule(Kernel($"{Own} {copy}", 2, Shared), memory));
    }

    [Fact]
    public void BytesBeyondTheSource_AreZero()
    {
        long[] y = Passes($"""
            {Own} mov.u32 %r20, 8;
            cp.async.cg.shared.global [%r10], [%rd10], 16, %r20; cp.async.wait_all;
            ld.shared.v2.u64 {"{%rd12, %rd13}"}, [%r10]; add.s64 %rd12, %rd12, %rd13; st.global.u64 [%rd11], %rd12;
            """, shared: Shared, input: x => FillWith(x, _ => 5));
        Assert.All(y[..32], word => Assert.Equal(5, word));
    }

    [Fact]
    public void BytesInFlight_AreCounted()
    {
        using DeviceMemory memory = new();
        MemoryRange x = memory.Allocate<long>("x", new long[1024]), y = memory.Allocate<long>("y", new long[1024]);
        Counters counters = Run(memory, Kernel($"""
            {Own} {Copy} cp.async.commit_group;
            cp.async.cg.shared.global [%r10+1024], [%rd10+512], 16; cp.async.commit_group;
            cp.async.wait_group 1; cp.async.cg.shared.global [%r10+2048], [%rd10+1024], 16; cp.async.wait_all;
            """, 2, Shared), new(1), new(32), [x, y]);
        Assert.Equal((3 * 512, 2 * 512), (counters.AsyncBytes, counters.MostBytesInFlight));
        Assert.Equal((48, 48), (counters.Sectors, counters.LeastSectors));
    }

    private static void FillWith(long[] x, Func<int, long> value)
    {
        for (int i = 0; i < x.Length; i++) x[i] = value(i);
    }
}
