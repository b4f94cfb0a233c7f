namespace Native.Kernels.Cpu.Machine;

/// <summary>This machine's memory.</summary>
internal static class HostMemory
{
    /// <summary>Bytes that this process may still take: at most what its container allows, and what other processes
    /// leave.</summary>
    public static long Free()
    {
        // Knows the limits of containers
        long free = GC.GetGCMemoryInfo().TotalAvailableMemoryBytes - Environment.WorkingSet;
        const string Line = "MemAvailable:";
        if (OperatingSystem.IsLinux()
            && File.ReadLines("/proc/meminfo")
                .FirstOrDefault(line => line.StartsWith(Line, StringComparison.Ordinal)) is { } line
            && long.TryParse(line.AsSpan(Line.Length).Trim().TrimEnd("kB").Trim(), out long kilobytes))
            free = Math.Min(free, kilobytes << 10);
        return Math.Max(free, 0);
    }
}
