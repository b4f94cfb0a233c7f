using System.Globalization;
using System.Runtime.InteropServices;

namespace Native.Kernels.Cpu.Machine;

/// <summary>The processors this process may run on, and pinning a thread to one of them.</summary>
internal static unsafe class Processors
{
    private const string Topology = "/sys/devices/system/cpu";

    private const int MaskBytes = 1024; // 8192 processors, the kernel's largest configuration

    /// <summary>Bytes of a core's L1 data cache; 32 KiB where the system does not say.</summary>
    public static int FirstLevelCacheBytes { get; } = FirstLevelCache();

    private static int FirstLevelCache()
    {
        const string Cache = Topology + "/cpu0/cache/index0/";
        try
        {
            if (File.Exists(Cache + "size") && File.ReadAllText(Cache + "type").Trim() == "Data"
                && File.ReadAllText(Cache + "size").Trim() is [.. var kilobytes, 'K']
                && int.TryParse(kilobytes, out int size)) return size << 10;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // The answer below.
        }
        return 32 << 10;
    }

    /// <summary>Numbers of the processors the process may use, ascending; empty where the system does not
    /// say.</summary>
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
        return [.. Enumerable.Range(0, MaskBytes * 8)
            .Where(i => (new Span<byte>(mask, MaskBytes)[i / 8] >> (i % 8) & 1) != 0)];
    }

    /// <summary>Physical cores among the processors the process may use, at least 1 and at most the whole processors of
    /// its quota. Two hardware threads of a core share its arithmetic units, and all workers wait for one without a
    /// processor.</summary>
    public static int PhysicalCores()
    {
        int cores = Allowed().Length == 0 ? Environment.ProcessorCount : Cores();
        // The runtime's count rounds up
        int whole = (int)Math.Min(Quota("/proc/self/cgroup", "/sys/fs/cgroup"), Environment.ProcessorCount);
        return Math.Clamp(cores, 1, Math.Max(1, whole));
    }

    /// <summary>Processor time that the process may use, in processors: the smallest limit of its control group
    /// (version 2 or 1) and of those around it. Infinite where there is none.</summary>
    /// <param name="membership">The process's <c>/proc/self/cgroup</c>.</param>
    /// <param name="root">Where the groups are mounted.</param>
    internal static double Quota(string membership, string root)
    {
        double least = double.PositiveInfinity;
        try
        {
            foreach (string line in File.ReadLines(membership))
            {
                // "0::/path" (2), "4:cpu,cpuacct:/path" (1). In a container the path may be the host's, and the mount
                // begins at the container's own.
                if (line.Split(':', 3) is not [_, var controllers, var path]) continue;
                bool second = controllers.Length == 0;
                if (!second && !controllers.Split(',').Contains("cpu")) continue;
                string mount = second ? root : $"{root}/cpu";
                for (string group = path.TrimEnd('/'); ; group = group[..Math.Max(group.LastIndexOf('/'), 0)])
                {
                    least = Math.Min(least, second ? LimitOf($"{mount}{group}/cpu.max")
                        : LimitOf($"{mount}{group}/cpu.cfs_quota_us", $"{mount}{group}/cpu.cfs_period_us"));
                    if (group.Length == 0) break;
                }
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // No groups, no limit.
        }
        return least;
    }

    /// <summary>Time divided by period, from the words of one file or of two; infinite where there are none.</summary>
    private static double LimitOf(params string[] files)
    {
        if (!files.All(File.Exists)) return double.PositiveInfinity;
        string[] words = [.. files.SelectMany(file => File.ReadAllText(file)
            .Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries))];
        return words is [var time, var period, ..] && double.TryParse(time, CultureInfo.InvariantCulture, out double us)
            && double.TryParse(period, CultureInfo.InvariantCulture, out double of) && us > 0 && of > 0
                ? us / of : double.PositiveInfinity;
    }

    /// <summary>The processors the process may use, in the order in which threads should take them: one of each core
    /// before any core's second. As many threads as cores then have a core each, however the system numbers
    /// processors.</summary>
    public static int[] Spread() => SpreadOverCores(Allowed(), Topology).Order;

    /// <summary>Physical cores among the processors the process may use, quota ignored; the number of processors where
    /// the system does not say.</summary>
    public static int Cores()
    {
        int[] allowed = Allowed();
        int cores = SpreadOverCores(allowed, Topology).Cores;
        return cores == 0 ? Math.Max(allowed.Length, 1) : cores;
    }

    /// <summary>The same for any processors, from a folder laid out like Linux's <c>/sys/devices/system/cpu</c>. Where
    /// it does not name their cores: the order given, and 0 cores.</summary>
    internal static (int[] Order, int Cores) SpreadOverCores(int[] processors, string folder)
    {
        Dictionary<string, int> threads = []; // of each core so far
        var ranks = new int[processors.Length];
        for (int i = 0; i < processors.Length; i++)
        {
            try
            {
                string core = File.ReadAllText($"{folder}/cpu{processors[i]}/topology/thread_siblings_list");
                threads[core] = (ranks[i] = threads.GetValueOrDefault(core)) + 1;
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                return (processors, 0);
            }
        }
        return ([.. Enumerable.Range(0, processors.Length).OrderBy(i => ranks[i]).Select(i => processors[i])],
            threads.Count);
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
