using Coyote = Microsoft.Coyote.Runtime;

namespace Native.Tests.Concurrency;

/// <summary>Takes the place of <see cref="Volatile"/>; the last parameter is the place in the source.</summary>
public static class ModelVolatile
{
    public static T Read<T>(ref Shared<T> variable, int site) =>
        (T)Memory.Read(variable.History, acquire: Execution.FaultAt(site) is null)!;

    public static void Write<T>(ref Shared<T> variable, T value, int site) =>
        Memory.Write(variable.History, value, release: Execution.FaultAt(site) is null);

    public static void ReadBarrier(int site)
    {
        Execution.Current.Point();
        if (Execution.FaultAt(site) is null) Memory.ReadFence();
    }

    public static void WriteBarrier(int site)
    {
        Execution.Current.Point();
        if (Execution.FaultAt(site) is null) Memory.WriteFence();
    }
}

/// <summary>Takes the place of <see cref="Interlocked"/>.</summary>
public static class ModelInterlocked
{
    public static void MemoryBarrier(int site)
    {
        Execution.Current.Point();
        if (Execution.FaultAt(site) is null) Memory.Fence();
    }

    public static T Exchange<T>(ref Shared<T> variable, T value, int site) =>
        (T)Memory.Update(variable.History, _ => (value, true), Execution.FaultAt(site))!;

    public static T CompareExchange<T>(ref Shared<T> variable, T value, T comparand, int site) =>
        (T)Memory.Update(variable.History,
            old => (value, EqualityComparer<T>.Default.Equals((T)old!, comparand)), Execution.FaultAt(site))!;

    public static long Add(ref Shared<long> variable, long added, int site) =>
        (long)Memory.Update(variable.History, old => ((long)old! + added, true), Execution.FaultAt(site))! + added;

    public static long Increment(ref Shared<long> variable, int site) => Add(ref variable, 1, site);

    public static long Or(ref Shared<long> variable, long bits, int site) =>
        (long)Memory.Update(variable.History, old => ((long)old! | bits, true), Execution.FaultAt(site))!;
}

/// <summary>Takes the place of <see cref="AutoResetEvent"/>. It wakes by <see cref="Set"/> alone: a wake that is lost
/// is a deadlock.</summary>
public sealed class ModelEvent(bool set) : IDisposable
{
    private bool _set = set;

    public void Set()
    {
        Execution.Current.Point();
        Memory.Fence();
        _set = true;
    }

    public bool WaitOne(TimeSpan timeout)
    {
        Execution.Current.Point();
        _ = timeout;
        if (!_set) Coyote.Operation.PauseUntil(() => _set);
        _set = false;
        Memory.Fence();
        return true;
    }

    public void Dispose()
    {
    }
}

/// <summary>Takes the place of <see cref="Thread"/>.</summary>
public sealed class ModelThread(Action body)
{
    private Task? _task;

    public static ModelThread? CurrentThread => null;

    public string Name { get; set; } = "";

    public bool IsBackground { get; set; }

    public static bool Yield()
    {
        Execution.Current.Point();
        return true;
    }

    public void Start() => _task = Execution.Current.Start(body);

    public void Join() => Execution.Current.Join([_task!]);
}

/// <summary>Takes the place of <see cref="SpinWait"/>.</summary>
public struct ModelSpin
{
    public readonly void SpinOnce(int sleep1Threshold = -1) => Execution.Current.Yield();
}

/// <summary>Takes the place of <see cref="Array"/>'s methods.</summary>
public static class ModelArray
{
    public static void Fill<T>(Shared<T>[] array, T value)
    {
        for (int i = 0; i < array.Length; i++) array[i] = new Shared<T>(value);
    }

    public static T[] Resized<T>(T[] array, int length)
    {
        Array.Resize(ref array, length);
        return array;
    }
}

/// <summary>Takes the place of a <see cref="Span{T}"/> of variables that are read or written plainly, one after the
/// other.</summary>
public readonly struct SharedSpan<T>(Shared<T>[] array, int start, int length)
{
    public T[] ToArray()
    {
        T[] copy = new T[length];
        for (int i = 0; i < length; i++) copy[i] = array[start + i].Get();
        return copy;
    }

    internal void Set(ReadOnlySpan<T> values)
    {
        for (int i = 0; i < values.Length; i++) array[start + i].Set(values[i]);
    }
}

/// <summary>Takes the place of <see cref="MemoryExtensions"/> for shared variables.</summary>
public static class SharedSpans
{
    public static SharedSpan<T> AsSpan<T>(this Shared<T>[] array, int start, int length) => new(array, start, length);

    public static void CopyTo<T>(this ReadOnlySpan<T> values, SharedSpan<T> to) => to.Set(values);
}
