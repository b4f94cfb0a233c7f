namespace Native.Tests;

/// <summary>What code allocates on its thread.</summary>
internal static class Allocations
{
    /// <summary>Bytes that the least of a few runs allocated: the first pays for the code, and a collection meanwhile
    /// counts what is left of the thread's own room.</summary>
    public static long Of(Action run)
    {
        long least = long.MaxValue;
        for (int round = 0; round < 6 && least > 0; round++)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            run();
            least = Math.Min(least, GC.GetAllocatedBytesForCurrentThread() - before);
        }
        return least;
    }
}
