using System.Runtime.InteropServices;
using Iced.Intel;

namespace Native.Kernels.Cpu.Jit;

/// <summary>Machine code made at run time. Its pages are first writable, then executable, never both. It lives as long
/// as the process: functions are few and shared.</summary>
internal static unsafe class ExecutableMemory
{
    /// <summary>Whether code can be made here. Only the calling convention and system calls of Linux on x86-64 are
    /// implemented.</summary>
    public static bool IsSupported => OperatingSystem.IsLinux()
        && RuntimeInformation.ProcessArchitecture == Architecture.X64;

    /// <summary>Assembles functions one after the other into pages of their own.</summary>
    /// <param name="functions">Each one's instructions.</param>
    /// <returns>Their addresses, aligned to cache lines; empty where the system forbids executable memory.</returns>
    public static nint[] Assemble(IReadOnlyList<Assembler> functions)
    {
        using var code = new MemoryStream();
        int[] starts = new int[functions.Count];
        for (int i = 0; i < starts.Length; i++)
        {
            while (code.Length % 64 != 0) code.WriteByte(0xcc); // int3: never reached
            starts[i] = (int)code.Length;
            // Every jump is relative and inside its function
            functions[i].Assemble(new StreamCodeWriter(code), (ulong)starts[i]);
        }
        nint bytes = ((nint)code.Length + 4095) & ~(nint)4095;
        nint pages = mmap(0, bytes, ReadWrite, PrivateAnonymous, -1, 0);
        if (pages == -1) return [];
        code.ToArray().CopyTo(new Span<byte>((void*)pages, (int)bytes));
        if (mprotect(pages, bytes, ReadExecute) != 0)
        {
            munmap(pages, bytes);
            return [];
        }
        return [.. starts.Select(start => pages + start)];
    }

    private const int ReadWrite = 3, ReadExecute = 5, PrivateAnonymous = 0x22;

    [DllImport("libc")]
    private static extern nint mmap(nint address, nint bytes, int protection, int flags, int file, nint offset);

    [DllImport("libc")]
    private static extern int mprotect(nint address, nint bytes, int protection);

    [DllImport("libc")]
    private static extern int munmap(nint address, nint bytes);
}
