namespace Native.Scheduling.Slo;

/// <summary>What an objective's budget looks like, as of the last second.</summary>
/// <param name="Burn5m">Burn rate over 5 minutes.</param>
/// <param name="Burn1h">Burn rate over an hour.</param>
/// <param name="Pages">Whether one of the pairs of windows that page burns too fast.</param>
/// <param name="Tickets">Whether one of the others does.</param>
public readonly record struct BudgetState(double Burn5m, double Burn1h, bool Pages, bool Tickets);

/// <summary>The error budgets of all objectives. Requests are counted by the engine's thread where they end; any thread
/// reads. No locks, no allocation.</summary>
/// <remarks>Time is the wall clock's at the start and goes on by the monotonic clock, so a clock that is set does not
/// move the windows; one that goes back moves nothing.</remarks>
public sealed class BudgetLedger
{
    private const int Stride = 16; // longs of a cache line pair: refusals of two objectives don't slow each other

    private readonly TimeProvider _clock;
    private readonly DateTimeOffset _startTime;
    private readonly long _startTimestamp;
    private readonly ObjectiveBudget[] _budgets;
    private readonly long[] _refused; // by other threads, not yet counted
    private readonly int[] _alerts; // a bit for each severity
    private long _judged = long.MinValue; // the second the alerts are of

    /// <summary>Starts with full budgets.</summary>
    /// <param name="spec">The objectives.</param>
    /// <param name="clock">The engine's clock; null for the system's.</param>
    /// <exception cref="ArgumentException">The objectives are wrong, with every mistake named.</exception>
    public BudgetLedger(SloSpec spec, TimeProvider? clock = null)
    {
        string[] mistakes =
            [.. spec.Objectives.SelectMany(o => o.Mistakes().Select(m => $"{o.Name}, {m.Key}: {m.Why}"))];
        if (mistakes.Length > 0) throw new ArgumentException(string.Join(" ", mistakes), nameof(spec));
        if (spec.Objectives.Select(objective => objective.Name).Distinct().Count() != spec.Objectives.Count)
            throw new ArgumentException("Two objectives have the same name.", nameof(spec));
        Spec = spec;
        _clock = clock ?? TimeProvider.System;
        _startTime = _clock.GetUtcNow();
        _startTimestamp = _clock.GetTimestamp();
        long now = PairAt(_startTimestamp);
        _budgets = [.. spec.Objectives.Select(objective => new ObjectiveBudget(objective, now))];
        _refused = new long[_budgets.Length * Stride];
        _alerts = new int[_budgets.Length];
    }

    /// <summary>The objectives; every index below is a place in their list.</summary>
    public SloSpec Spec { get; }

    internal ReadOnlySpan<ObjectiveBudget> Budgets => _budgets;

    /// <summary>Counts a request that ended. The engine's thread.</summary>
    public void Record(in SloEvent ended)
    {
        foreach (ObjectiveBudget budget in _budgets)
            if (ended.Judge(budget.Objective) is { } good) budget.Add(good ? 1u : 0, good ? 0 : 1u);
    }

    /// <summary>Counts requests that were judged already. The thread that calls <see cref="Advance"/>.</summary>
    public void Count(int objective, uint good, uint bad) => _budgets[objective].Add(good, bad);

    /// <summary>Counts a request that was refused at the door though it could have been served. Any thread; it is seen
    /// after the next <see cref="Advance"/>.</summary>
    public void Refuse(string requestClass, string tenant)
    {
        for (int i = 0; i < _budgets.Length; i++)
            if (SloEvent.Matches(_budgets[i].Objective, requestClass, tenant))
                Interlocked.Increment(ref _refused[i * Stride]);
    }

    /// <summary>Lets time go on, takes in what was refused, and looks once a second what burns. The engine's
    /// thread.</summary>
    /// <param name="timestamp">The clock's.</param>
    public void Advance(long timestamp)
    {
        long second = SecondAt(timestamp), pair = second / BudgetWindows.PairSeconds;
        for (int i = 0; i < _budgets.Length; i++)
        {
            _budgets[i].Advance(pair);
            ref long refused = ref _refused[i * Stride];
            if (Volatile.Read(ref refused) != 0) _budgets[i].Add(0, (uint)Interlocked.Exchange(ref refused, 0));
        }
        if (second <= _judged) return;
        _judged = second;
        for (int i = 0; i < _budgets.Length; i++) Volatile.Write(ref _alerts[i], Judge(_budgets[i]));
    }

    /// <summary>The counts of a window, of whose pairs the last is still open. Any thread.</summary>
    public BudgetCounts Read(int objective, BudgetWindow window) => _budgets[objective].Read(window);

    /// <summary>What was counted since this process began. Any thread.</summary>
    public BudgetCounts ReadSinceStart(int objective) => _budgets[objective].ReadSinceStart();

    /// <summary>How fast a budget burns, and whether anybody is to hear of it. Any thread.</summary>
    public BudgetState ReadState(int objective)
    {
        ObjectiveBudget budget = _budgets[objective];
        int alerts = Volatile.Read(ref _alerts[objective]);
        return new BudgetState(
            BurnRates.Of(budget.Read(BudgetWindow.FiveMinutes), budget.Objective),
            BurnRates.Of(budget.Read(BudgetWindow.Hour), budget.Objective),
            (alerts & Bit(BurnSeverity.Page)) != 0,
            (alerts & Bit(BurnSeverity.Ticket)) != 0);
    }

    /// <summary>Whether a budget that admission may act on, and that is for such requests, pages. Any thread.</summary>
    public bool IsBurning(string requestClass, string tenant)
    {
        for (int i = 0; i < _budgets.Length; i++)
            if (Controls(i, requestClass, tenant) && Pages(i)) return true;
        return false;
    }

    /// <summary>Whether there is such a budget, and none burns. Any thread.</summary>
    public bool IsHealthy(string requestClass, string tenant)
    {
        bool any = false;
        for (int i = 0; i < _budgets.Length; i++) any |= Controls(i, requestClass, tenant);
        return any && !IsBurning(requestClass, tenant);
    }

    /// <summary>Whether a budget that admission may act on, and that is for a class whoever sends it, pages. Any
    /// thread.</summary>
    public bool IsAnyBurning(string requestClass)
    {
        for (int i = 0; i < _budgets.Length; i++)
        {
            SloObjective objective = _budgets[i].Objective;
            if (SloEvent.IsOf(objective, requestClass) && objective.Role == SloRole.Control && Pages(i)) return true;
        }
        return false;
    }

    /// <summary>The shortest time that an objective promises such requests and that admission may act on; null where
    /// none does. Any thread.</summary>
    public TimeSpan? Promised(SliKind sli, string requestClass, string tenant)
    {
        TimeSpan? least = null;
        for (int i = 0; i < _budgets.Length; i++)
        {
            SloObjective objective = _budgets[i].Objective;
            if (objective.Sli == sli && Controls(i, requestClass, tenant) && !(objective.Threshold >= least))
                least = objective.Threshold;
        }
        return least;
    }

    private bool Controls(int i, string requestClass, string tenant) =>
        _budgets[i].Objective.Role == SloRole.Control && SloEvent.Matches(_budgets[i].Objective, requestClass, tenant);

    private bool Pages(int i) => (Volatile.Read(ref _alerts[i]) & Bit(BurnSeverity.Page)) != 0;

    private int Judge(ObjectiveBudget budget)
    {
        BudgetCounts period = budget.Read(BudgetWindow.Period);
        if (period.Bad == 0) return 0;
        int alerts = 0;
        foreach (ref readonly BurnPair pair in BurnRates.Pairs.AsSpan())
        {
            if (BurnRates.Fires(pair, budget.Read(pair.Long), budget.Read(pair.Short), period, budget.Objective,
                Spec.MinEvents))
                alerts |= Bit(pair.Severity);
        }
        return alerts;
    }

    private static int Bit(BurnSeverity severity) => 1 << (int)severity;

    private long SecondAt(long timestamp) =>
        (_startTime + _clock.GetElapsedTime(_startTimestamp, timestamp)).ToUnixTimeSeconds();

    private long PairAt(long timestamp) => SecondAt(timestamp) / BudgetWindows.PairSeconds;
}
