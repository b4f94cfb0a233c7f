using System.Runtime.InteropServices;

namespace Native.Kernels.Cpu;

/// <summary>The processors this process may run on, and pinning a thread to one of them.</summary>
internal static unsafe class Processors
{
    private const int MaskBytes = 1024; // 8192 processors, the kernel's largest configuration

    /// <summary>Numbers of the processors the process may use, ascending; empty where the system does not tell.</summary>
    public static int[] Allowed()
    {
        if (!OperatingSystem.IsLinux()) return [];
        byte* mask = stackalloc byte[MaskBytes];
        new Span<byte>(mask, MaskBytes).Clear();
        try
        {
            if (sched_getaffinity(0, MaskBytes, mask) < 0) return [];
        }
        catch (Exception e) when (e is DllNotFoundException or EntryPointNotFoundException)
        {
            return [];
        }
        return [.. Enumerable.Range(0, MaskBytes * 8).Where(i => (new Span<byte>(mask, MaskBytes)[i / 8] >> (i % 8) & 1) != 0)];
    }

    /// <summary>Physical cores among the processors the process may use, at least 1 and at most the runtime's processor count (which knows container limits): two hardware threads of one core share its arithmetic units.</summary>
    public static int PhysicalCores()
    {
        HashSet<string> cores = [];
        foreach (int processor in Allowed())
        {
            string file = $"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list";
            try
            {
                cores.Add(File.ReadAllText(file));
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                return Environment.ProcessorCount;
            }
        }
        return cores.Count == 0 ? Environment.ProcessorCount : Math.Clamp(cores.Count, 1, Environment.ProcessorCount);
    }

    /// <summary>Binds the calling thread to one processor, where the system allows it.</summary>
    public static void Pin(int processor)
    {
        byte* mask = stackalloc byte[MaskBytes];
        new Span<byte>(mask, MaskBytes).Clear();
        mask[processor / 8] = (byte)(1 << (processor % 8));
        sched_setaffinity(0, MaskBytes, mask); // refusal only costs speed
    }

    [DllImport("libc")]
    private static extern int sched_getaffinity(int thread, nint bytes, byte* mask);

    [DllImport("libc")]
    private static extern int sched_setaffinity(int thread, nint bytes, byte* mask);
}
