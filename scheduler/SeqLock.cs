namespace Native.Scheduling;

/// <summary>A value that one thread shows and any thread reads whole.</summary>
/// <remarks>A sequence lock (Lameter 2005; Boehm, "Can seqlocks get along with programming language memory models?",
/// 2012). Writing is wait-free. A reader that meets a write reads again: it is blocked only while the writer stands in
/// the middle of one, which is a few stores. Allocates nothing.</remarks>
/// <param name="first">What is read before anything was shown.</param>
internal sealed class SeqLock<T>(T first) where T : struct
{
    private T _value = first;
    private long _version; // odd while it is written

    /// <summary>Shows a value. One thread's.</summary>
    public void Write(in T value)
    {
        long version = _version;
        Volatile.Write(ref _version, version + 1);
        Interlocked.MemoryBarrier(); // the value is written after the odd version
        _value = value;
        Volatile.Write(ref _version, version + 2);
    }

    /// <summary>The value last shown. Any thread.</summary>
    public T Read()
    {
        SpinWait spin = default;
        while (true)
        {
            long version = Volatile.Read(ref _version);
            T value = _value;
            Interlocked.MemoryBarrier(); // the value is read before the version is looked at again
            if ((version & 1) == 0 && Volatile.Read(ref _version) == version) return value;
            spin.SpinOnce(sleep1Threshold: -1);
        }
    }
}
