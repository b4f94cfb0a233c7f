using System.Runtime.InteropServices;

namespace Native.Kernels.Cpu;

/// <summary>Memory outside the garbage collector's, aligned to cache lines, that lives as long as its owner.</summary>
internal sealed unsafe class NativeHeap : IDisposable
{
    private const nuint LargePage = 2 << 20;
    private readonly List<nint> _blocks = [];

    /// <summary>At least 64-byte aligned. Large blocks ask the system for large pages: a model's weights need fewer entries of the TLB.</summary>
    /// <param name="bytes">Bytes; 0 gives a valid address too.</param>
    /// <param name="zeroed">False leaves the memory for its writer to touch first.</param>
    /// <exception cref="OutOfMemoryException">There is not that much.</exception>
    public nint Allocate(long bytes, bool zeroed)
    {
        bool large = (nuint)bytes >= 2 * LargePage;
        void* block = NativeMemory.AlignedAlloc((nuint)Math.Max(bytes, 64), large ? LargePage : 64);
        _blocks.Add((nint)block);
        if (large && OperatingSystem.IsLinux()) madvise(block, (nint)bytes, 14); // MADV_HUGEPAGE; refusal only costs speed
        if (zeroed) NativeMemory.Clear(block, (nuint)bytes);
        return (nint)block;
    }

    /// <summary>Frees one block before the others.</summary>
    public void Free(nint block)
    {
        if (block != 0 && _blocks.Remove(block)) NativeMemory.AlignedFree((void*)block);
    }

    public void Dispose()
    {
        foreach (nint block in _blocks) NativeMemory.AlignedFree((void*)block);
        _blocks.Clear();
    }

    [DllImport("libc")]
    private static extern int madvise(void* address, nint bytes, int advice);
}
