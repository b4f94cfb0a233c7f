using System.Diagnostics;

namespace Native.Scheduling.Slo;

/// <summary>Good and bad requests of one objective in pairs of 10 seconds, over its window. One writer, any
/// readers.</summary>
/// <remarks>
/// A pair is one 64-bit word, good below and bad above, so a reader sees both as they were together. Each window has a
/// running sum over its last closed pairs; its count is that sum and the open pair, so a window is up to 10 seconds
/// longer than its name. An event is one store, and what a window has is read without walking it. Sums change only
/// when a pair is closed, under a sequence number that is odd meanwhile: a reader that meets it looks again, the writer
/// never waits. 30 days take 2 MB.
/// <para>Progress. The writer is wait-free. A reader of a sum is not even lock-free: it looks again until no pair is
/// being closed, so a writer suspended while it closes one, once in ten seconds, holds readers up. They are monitors
/// and the door of a server with objectives, never the engine's thread, which is the writer. Reading one pair is
/// wait-free.</para>
/// </remarks>
internal sealed class ObjectiveBudget
{
    private const int Since = (int)BudgetWindow.Period + 1; // one sum more: since the start

    private readonly long[] _pairs; // a ring, one longer than the window
    private readonly int[] _lengths; // pairs of each window
    private readonly long[] _good = new long[Since + 1];
    private readonly long[] _bad = new long[Since + 1];
    private long _open; // the pair that counts now, in units of 10 seconds since 1970
    private int _version;

    /// <param name="objective">What is counted.</param>
    /// <param name="now">The open pair.</param>
    public ObjectiveBudget(SloObjective objective, long now)
    {
        Objective = objective;
        _lengths = [.. Enumerable.Range(0, Since)
            .Select(i => BudgetWindows.Seconds((BudgetWindow)i, objective) / BudgetWindows.PairSeconds)];
        _pairs = new long[_lengths[^1] + 1];
        _open = now;
    }

    public SloObjective Objective { get; }

    /// <summary>The pair that counts now.</summary>
    public long Open => Volatile.Read(ref _open);

    /// <summary>The oldest pair that is kept.</summary>
    public long Oldest => Open - _pairs.Length + 1;

    /// <summary>Adds to the open pair. The writer's.</summary>
    public void Add(uint good, uint bad)
    {
        ref long pair = ref _pairs[Place(_open)];
        Volatile.Write(ref pair, pair + good + ((long)bad << 32));
    }

    /// <summary>Closes every pair before <paramref name="now"/>; an earlier time changes nothing. The
    /// writer's.</summary>
    public void Advance(long now)
    {
        if (now <= _open) return;
        Volatile.Write(ref _version, _version + 1);
        // After a gap longer than the ring every pair is empty.
        if (now - _open > _pairs.Length) Forget(now);
        while (_open < now) Close();
        Volatile.Write(ref _version, _version + 1);
    }

    /// <summary>Puts back pairs of an earlier run. The writer's, before anything is counted.</summary>
    public void Restore(long number, long pair)
    {
        Debug.Assert(number <= _open, "a pair of the future is moved before");
        if (number > _open - _pairs.Length) _pairs[Place(number)] = pair;
    }

    /// <summary>Sums what was put back. The writer's.</summary>
    public void SumRestored()
    {
        Array.Clear(_good);
        Array.Clear(_bad);
        for (int window = 0; window < Since; window++)
        {
            for (long number = _open - _lengths[window]; number < _open; number++)
                Sum(window, _pairs[Place(number)], 1);
        }
        Sum(Since, _pairs[Place(_open)], -1); // it is open again, but was counted by another process
    }

    /// <summary>What a window has. Any thread.</summary>
    public BudgetCounts Read(BudgetWindow window) => ReadSum((int)window);

    /// <summary>What was counted since this process began. Any thread.</summary>
    public BudgetCounts ReadSinceStart() => ReadSum(Since);

    /// <summary>One pair by its number, 0 where it is not kept any more. Any thread.</summary>
    public long ReadPair(long number)
    {
        long pair = Volatile.Read(ref _pairs[Place(number)]);
        return number >= Oldest ? pair : 0; // the writer may have come round meanwhile
    }

    /// <summary>The good requests of a pair.</summary>
    public static long GoodOf(long pair) => (uint)pair;

    /// <summary>The bad requests of a pair.</summary>
    public static long BadOf(long pair) => (uint)(pair >> 32);

    private BudgetCounts ReadSum(int window)
    {
        SpinWait spin = default;
        while (true)
        {
            int version = Volatile.Read(ref _version);
            long good = Volatile.Read(ref _good[window]), bad = Volatile.Read(ref _bad[window]);
            long pair = Volatile.Read(ref _pairs[Place(Volatile.Read(ref _open))]);
            if ((version & 1) == 0 && Volatile.Read(ref _version) == version)
                return new BudgetCounts(good + GoodOf(pair), bad + BadOf(pair));
            spin.SpinOnce();
        }
    }

    private int Place(long number)
    {
        int place = (int)(number % _pairs.Length);
        return place < 0 ? place + _pairs.Length : place; // a machine without a clock begins in 1970
    }

    private void Close()
    {
        long closed = _pairs[Place(_open)];
        for (int window = 0; window < Since; window++)
        {
            Sum(window, closed, 1);
            Sum(window, _pairs[Place(_open - _lengths[window])], -1);
        }
        Sum(Since, closed, 1);
        Volatile.Write(ref _pairs[Place(_open + 1)], 0); // it left the longest window just now
        Volatile.Write(ref _open, _open + 1);
    }

    /// <summary>Empties the ring, and begins anew at a time.</summary>
    private void Forget(long now)
    {
        Sum(Since, _pairs[Place(_open)], 1);
        for (int window = 0; window < Since; window++)
        {
            Volatile.Write(ref _good[window], 0);
            Volatile.Write(ref _bad[window], 0);
        }
        Array.Clear(_pairs);
        Volatile.Write(ref _open, now);
    }

    private void Sum(int window, long pair, int sign)
    {
        if (pair == 0) return;
        Volatile.Write(ref _good[window], _good[window] + (sign * GoodOf(pair)));
        Volatile.Write(ref _bad[window], _bad[window] + (sign * BadOf(pair)));
    }
}
