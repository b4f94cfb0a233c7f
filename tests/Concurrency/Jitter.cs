namespace Native.Tests.Concurrency;

/// <summary>Lets a thread lose time at random, so that rare orders become common.</summary>
public static class Jitter
{
    [ThreadStatic]
    private static uint s_random;

    /// <summary>Mostly nothing, now and then a spin, seldom a yield.</summary>
    public static void LoseTime()
    {
        if (s_random == 0) s_random = (uint)(Environment.CurrentManagedThreadId * 2654435761) | 1;
        s_random ^= s_random << 13;
        s_random ^= s_random >> 17;
        s_random ^= s_random << 5;
        uint draw = s_random % 64;
        if (draw < 12) Thread.SpinWait((int)draw * 8);
        else if (draw == 12) Thread.Yield();
    }
}

/// <summary><see cref="Volatile"/> with lost time before each access.</summary>
public static class JitterVolatile
{
    public static int Read(ref int variable)
    {
        Jitter.LoseTime();
        return Volatile.Read(ref variable);
    }

    public static long Read(ref long variable)
    {
        Jitter.LoseTime();
        return Volatile.Read(ref variable);
    }

    public static double Read(ref double variable)
    {
        Jitter.LoseTime();
        return Volatile.Read(ref variable);
    }

    public static T Read<T>(ref T variable)
        where T : class?
    {
        Jitter.LoseTime();
        return Volatile.Read(ref variable!);
    }

    public static void Write(ref int variable, int value)
    {
        Jitter.LoseTime();
        Volatile.Write(ref variable, value);
    }

    public static void Write(ref long variable, long value)
    {
        Jitter.LoseTime();
        Volatile.Write(ref variable, value);
    }

    public static void Write(ref double variable, double value)
    {
        Jitter.LoseTime();
        Volatile.Write(ref variable, value);
    }

    public static void Write<T>(ref T variable, T value)
        where T : class?
    {
        Jitter.LoseTime();
        Volatile.Write(ref variable, value);
    }

    public static void ReadBarrier()
    {
        Jitter.LoseTime();
        Volatile.ReadBarrier();
    }

    public static void WriteBarrier()
    {
        Jitter.LoseTime();
        Volatile.WriteBarrier();
    }
}

/// <summary><see cref="Interlocked"/> with lost time before each access.</summary>
public static class JitterInterlocked
{
    public static void MemoryBarrier()
    {
        Jitter.LoseTime();
        Interlocked.MemoryBarrier();
    }

    public static T Exchange<T>(ref T variable, T value)
    {
        Jitter.LoseTime();
        return Interlocked.Exchange(ref variable, value);
    }

    public static T CompareExchange<T>(ref T variable, T value, T comparand)
    {
        Jitter.LoseTime();
        return Interlocked.CompareExchange(ref variable, value, comparand);
    }

    public static long Add(ref long variable, long added)
    {
        Jitter.LoseTime();
        return Interlocked.Add(ref variable, added);
    }

    public static long Increment(ref long variable)
    {
        Jitter.LoseTime();
        return Interlocked.Increment(ref variable);
    }

    public static long Or(ref long variable, long bits)
    {
        Jitter.LoseTime();
        return Interlocked.Or(ref variable, bits);
    }
}
