using System.Runtime.InteropServices;

namespace Native.Tests.Kernels.Cpu;

/// <summary>Memory whose last byte is followed by a page nobody may touch, so that reading past the end crashes the
/// test.</summary>
internal sealed unsafe class GuardedMemory<T> : IDisposable
    where T : unmanaged
{
    private readonly nint _mapping;
    private readonly nuint _length;

    public GuardedMemory(int count)
    {
        nuint page = (nuint)Environment.SystemPageSize, bytes = (nuint)count * (nuint)sizeof(T);
        nuint body = (bytes + page - 1) / page * page;
        _length = body + page;
        if (OperatingSystem.IsWindows())
        {
            _mapping = (nint)NativeMemory.Alloc(_length); // no guard there; the other systems have it
        }
        else
        {
            _mapping = LibC.mmap(0, _length, 3, OperatingSystem.IsLinux() ? 0x22 : 0x1002, -1, 0); // read and write; private and anonymous
            Assert.NotEqual(-1, _mapping);
            Assert.Equal(0, LibC.mprotect(_mapping + (nint)body, page, 0));
        }
        Pointer = (T*)(_mapping + (nint)(body - bytes));
        Count = count;
        Span.Clear();
    }

    public GuardedMemory(ReadOnlySpan<T> values)
        : this(values.Length) => values.CopyTo(Span);

    public T* Pointer { get; }

    public int Count { get; }

    public Span<T> Span => new(Pointer, Count);

    public void Dispose()
    {
        if (OperatingSystem.IsWindows()) NativeMemory.Free((void*)_mapping);
        else _ = LibC.munmap(_mapping, _length);
    }
}

internal static class LibC
{
    [DllImport("libc", SetLastError = true)]
    public static extern nint mmap(nint address, nuint length, int protection, int flags, int file, nint offset);

    [DllImport("libc", SetLastError = true)]
    public static extern int mprotect(nint address, nuint length, int protection);

    [DllImport("libc", SetLastError = true)]
    public static extern int munmap(nint address, nuint length);
}
