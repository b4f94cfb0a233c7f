using System.Runtime.InteropServices;

namespace Native.Kernels.Cpu.Machine;

/// <summary>Memory outside the garbage collector, aligned to cache lines. It lives as long as its owner.</summary>
internal sealed unsafe class NativeHeap : IDisposable
{
    private const nuint LargePage = 2 << 20;
    private const long PieceBytes = 32 << 20;
    private readonly Dictionary<nint, nint> _blocks = []; // aligned address, as the allocator gave it
    private nint _pieces;
    private long _piecesLeft;

    /// <summary>Memory aligned to at least 64 bytes. Large blocks ask the system for large pages, so that a model's
    /// weights need fewer TLB entries.</summary>
    /// <param name="bytes">Bytes; 0 gives a valid address too.</param>
    /// <param name="zeroed">False leaves the memory's content undefined. A large zeroed block takes no memory until it
    /// is touched: of a KV cache of gigabytes, only the used part costs.</param>
    /// <exception cref="OutOfMemoryException">There is not that much.</exception>
    public nint Allocate(long bytes, bool zeroed)
    {
        bool large = (nuint)bytes >= 2 * LargePage;
        nuint alignment = large ? LargePage : 64, size = (nuint)bytes + alignment;
        nint allocated;
        try
        {
            allocated = (nint)(zeroed ? NativeMemory.AllocZeroed(size) : NativeMemory.Alloc(size));
        }
        catch (OutOfMemoryException e)
        {
            throw new OutOfMemoryException(
                $"the system has no {bytes} bytes ({bytes >> 20} MiB) of memory for weights or KV cache", e);
        }
        nint block = (allocated + (nint)alignment - 1) & -(nint)alignment;
        _blocks.Add(block, allocated);
        // MADV_HUGEPAGE; refusal only costs speed
        if (large && OperatingSystem.IsLinux()) madvise((void*)block, (nint)bytes, 14);
        return block;
    }

    /// <summary>Memory that lives as long as the heap: a piece of a larger block, so that small matrices lie in large
    /// pages too. Hardware prefetches within a page only.</summary>
    /// <param name="bytes">Bytes. The memory's content is undefined.</param>
    /// <exception cref="OutOfMemoryException">There is not that much.</exception>
    public nint AllocateLasting(long bytes)
    {
        bytes = (bytes + 63) & ~63L;
        if (bytes > PieceBytes / 4) return Allocate(bytes, zeroed: false);
        if (bytes > _piecesLeft) (_pieces, _piecesLeft) = (Allocate(PieceBytes, zeroed: false), PieceBytes);
        nint piece = _pieces;
        (_pieces, _piecesLeft) = (_pieces + (nint)bytes, _piecesLeft - bytes);
        return piece;
    }

    /// <summary>Scratch that only grows. Its content is lost when it grows.</summary>
    /// <param name="memory">Null at first.</param>
    /// <param name="length">Elements it has.</param>
    /// <param name="needed">Elements it must have.</param>
    /// <param name="spare">Extra elements to get when it must grow, for needs that grow slowly.</param>
    public T* Reserve<T>(ref T* memory, ref long length, long needed, long spare = 0)
        where T : unmanaged
    {
        if (needed > length)
        {
            Free((nint)memory);
            memory = null; // in case the next line throws
            length = 0;
            memory = (T*)Allocate((needed + spare) * sizeof(T), zeroed: false);
            length = needed + spare;
        }
        return memory;
    }

    /// <summary>Frees one block before the others.</summary>
    public void Free(nint block)
    {
        if (_blocks.Remove(block, out nint allocated)) NativeMemory.Free((void*)allocated);
    }

    public void Dispose()
    {
        foreach (nint allocated in _blocks.Values) NativeMemory.Free((void*)allocated);
        _blocks.Clear();
    }

    [DllImport("libc")]
    private static extern int madvise(void* address, nint bytes, int advice);
}
