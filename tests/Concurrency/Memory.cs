namespace Native.Tests.Concurrency;

/// <summary>Memory in which a thread may see old values, as weakly ordered processors and the language allow.</summary>
/// <remarks>
/// Each variable keeps everything that was written to it. A thread has a view: how far it has surely seen each
/// variable. A read takes any value from there on. An ordered write carries the writer's view, an ordered read takes it
/// over; a full fence exchanges views with all who have passed one. Writes to one variable have one order, in which a
/// write may come before those that its thread has not seen. A load is never delayed past a later store. This is the
/// release-acquire model with fences of Kang et al. 2017 (POPL, promising semantics) without promises: what .NET's
/// memory model says of Volatile and Interlocked.
/// </remarks>
internal static class Memory
{
    [ThreadStatic]
    private static ThreadView? s_thread;

    /// <summary>What the calling thread has seen; null outside an execution.</summary>
    public static ThreadView? Thread
    {
        get => s_thread;
        set => s_thread = value;
    }

    /// <summary>Reads a value that this thread may see.</summary>
    public static object? Read(History history, bool acquire)
    {
        if (s_thread is not { } me) return history.Newest.Value;
        Execution.Current.Point();
        int newer = history.NewerThan(me.Seen[history.Id]);
        Written written = history.FromEnd(newer == 0 ? 0 : Execution.Current.Choose(Math.Min(newer, 2) + 1));
        me.Seen.Raise(history.Id, written.At);
        if (written.View is { } view) (acquire ? me.Seen : me.Pending).Join(view);
        return written.Value;
    }

    /// <summary>Writes a value.</summary>
    public static void Write(History history, object? value, bool release)
    {
        if (s_thread is not { } me)
        {
            history.Append(value, null, attached: false);
            return;
        }
        Execution.Current.Point();
        int newer = history.NewerThan(me.Seen[history.Id]);
        // What others wrote meanwhile, and this thread has not seen, may come to lie after its own.
        int before = newer == 0 || Execution.Current.Choose(3) > 0 ? 0 : 1 + Execution.Current.Choose(newer);
        View carried = (release ? me.Seen : me.Fenced).Copy();
        Written written = before > 0 && !history.FromEnd(before - 1).IsAttached
            ? history.InsertBefore(before, value, carried) : history.Append(value, carried, attached: false);
        me.Seen.Raise(history.Id, written.At);
        carried.Raise(history.Id, written.At);
    }

    /// <summary>Reads the newest value and writes another right after it, or none.</summary>
    /// <param name="history">The variable.</param>
    /// <param name="next">What to write after a value; the second is false for nothing.</param>
    /// <param name="fault">What is wrong with it.</param>
    /// <returns>The value before.</returns>
    public static object? Update(History history, Func<object?, (object?, bool)> next, FaultKind? fault)
    {
        Written before = history.Newest;
        if (s_thread is not { } me)
        {
            if (next(before.Value) is (var value, true)) history.Append(value, null, attached: true);
            return before.Value;
        }
        Execution.Current.Point();
        if (fault != FaultKind.Unordered) Fence(me);
        before = history.Newest;
        me.Seen.Raise(history.Id, before.At);
        if (before.View is { } view) (fault == FaultKind.Unordered ? me.Pending : me.Seen).Join(view);
        (object? after, bool writes) = next(before.Value);
        if (fault == FaultKind.Torn) Execution.Current.Point();
        if (writes)
        {
            // What follows a write by updates alone carries the write's view on (a release sequence).
            View carried = before.View?.Copy() ?? new View();
            carried.Join(fault == FaultKind.Unordered ? me.Fenced : me.Seen);
            Written written = history.Append(after, carried, attached: true);
            me.Seen.Raise(history.Id, written.At);
            carried.Raise(history.Id, written.At);
        }
        if (fault != FaultKind.Unordered) Fence(me);
        return before.Value;
    }

    /// <summary>A full fence of the calling thread.</summary>
    public static void Fence()
    {
        if (s_thread is { } me) Fence(me);
    }

    /// <summary>What the thread read before has happened before what it does from here on.</summary>
    public static void ReadFence()
    {
        if (s_thread is { } me) me.Seen.Join(me.Pending);
    }

    /// <summary>What the thread has seen goes with what it writes from here on.</summary>
    public static void WriteFence()
    {
        if (s_thread is { } me) me.Fenced = me.Seen.Copy();
    }

    private static void Fence(ThreadView me)
    {
        me.Seen.Join(me.Pending);
        me.Seen.Join(Execution.Current.Fences);
        Execution.Current.Fences.Join(me.Seen);
        me.Fenced = me.Seen.Copy();
    }
}

/// <summary>How far each variable was seen, by its number.</summary>
internal sealed class View
{
    private long[] _at = [];

    public long this[int variable] => variable < _at.Length ? _at[variable] : 0;

    public void Raise(int variable, long at)
    {
        if (variable >= _at.Length) Array.Resize(ref _at, Math.Max(16, variable * 2));
        _at[variable] = Math.Max(_at[variable], at);
    }

    public void Join(View other)
    {
        for (int i = 0; i < other._at.Length; i++) if (other._at[i] > this[i]) Raise(i, other._at[i]);
    }

    public View Copy() => new() { _at = [.. _at] };
}

/// <summary>What a thread has seen.</summary>
internal sealed class ThreadView
{
    /// <summary>Surely.</summary>
    public View Seen { get; init; } = new();

    /// <summary>From its next fence on.</summary>
    public View Pending { get; } = new();

    /// <summary>Seen at its last fence: what its plain writes carry.</summary>
    public View Fenced { get; set; } = new();
}

/// <summary>A value that was written.</summary>
/// <param name="Value">The value.</param>
/// <param name="View">What who reads it with order has seen.</param>
/// <param name="At">Its place in the variable's order.</param>
/// <param name="IsAttached">Whether it comes right after the one before, because an update read that.</param>
internal sealed record Written(object? Value, View? View, long At, bool IsAttached);

/// <summary>Everything written to a variable, in its order.</summary>
internal sealed class History(object? first)
{
    private const long Gap = 1L << 32; // room to write between

    private readonly List<Written> _written = [new Written(first, null, 0, false)];

    public int Id { get; } = Execution.Current.NextVariable();

    public Written Newest => _written[^1];

    public Written FromEnd(int index) => _written[^(index + 1)];

    public int NewerThan(long at)
    {
        int count = 0;
        while (count < _written.Count && FromEnd(count).At > at) count++;
        return count;
    }

    public Written Append(object? value, View? view, bool attached)
    {
        _written.Add(new Written(value, view, Newest.At + Gap, attached));
        return Newest;
    }

    /// <summary>Puts it before the last ones.</summary>
    public Written InsertBefore(int last, object? value, View view)
    {
        int index = _written.Count - last;
        long at = (_written[index - 1].At + _written[index].At) / 2;
        _written.Insert(index, new Written(value, view, at, false));
        return _written[index];
    }
}

/// <summary>A value that is written and read in two halves.</summary>
public interface IHalved<T>
{
    /// <summary>The first half of this one and the second of another.</summary>
    T With(T second);
}

/// <summary>A variable that threads share. It takes the place of a field's or an array element's own type.</summary>
public struct Shared<T>
{
    private History? _history;
    private History? _second; // of what is halved

    /// <summary>One with a value.</summary>
    public Shared(T value)
    {
        _history = new History(value);
        _second = value is IHalved<T> ? new History(value) : null;
    }

    internal History History => _history ??= new History(default(T));

    /// <summary>A plain read.</summary>
    public T Get()
    {
        T value = (T)Memory.Read(History, acquire: false)!;
        return value is IHalved<T> first ? first.With((T)Memory.Read(Second, acquire: false)!) : value;
    }

    /// <summary>A plain write.</summary>
    public void Set(T value)
    {
        Memory.Write(History, value, release: false);
        if (value is IHalved<T>) Memory.Write(Second, value, release: false);
    }

    private History Second => _second ??= new History(default(T));
}

/// <summary>Takes the place of <see cref="Native.Scheduling.PaddedLong"/>.</summary>
public struct SharedLong
{
    /// <summary>The number.</summary>
    public Shared<long> Value;
}
