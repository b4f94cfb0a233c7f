using Native.Scheduling.Slo;

namespace Native.Scheduling;

/// <summary>By what the next to be served is chosen.</summary>
public enum SchedulingPolicy
{
    /// <summary>First come, first served; no objective changes what is computed, or who is let in.</summary>
    Fcfs,

    /// <summary>By class, priority and due time; steps are as long as the objectives of those who run allow, and who
    /// would be late is refused.</summary>
    Slo,
}

/// <summary>What the scheduler may use. Limits the runner was loaded with hold besides: the smaller of the two
/// counts.</summary>
public sealed record EngineOptions
{
    /// <summary>Sequences computed together (vLLM's <c>--max-num-seqs</c>). Default 256, vLLM's.</summary>
    public int MaxRunning { get; init; } = 256;

    /// <summary>Tokens computed per step over all sequences (<c>--max-num-batched-tokens</c>). Bounds inter-token
    /// latency. Default 2048, vLLM's base value.</summary>
    public int MaxBatchedTokens { get; init; } = 2048;

    /// <summary>Requests that may wait for their first step (<c>--max-num-queued-reqs</c>); more are refused. Default
    /// 1024: a queue longer than that is older than its callers' patience.</summary>
    public int MaxQueued { get; init; } = 1024;

    /// <summary>Prompt tokens that may wait for their first step (<c>--max-num-queued-tokens</c>); a request that would
    /// make them more is refused, unless nobody waits. Default null: only <see cref="MaxQueued"/> and due times bound
    /// the queue.</summary>
    public int? MaxQueuedTokens { get; init; }

    /// <summary>How often one sequence may lose its blocks to older ones. After that it is admitted only with all it
    /// can ever need. At least 1: choices that fork from one prompt are not admitted one by one. Default 3.</summary>
    public int MaxPreemptions { get; init; } = 3;

    /// <summary>Whether prompts that begin alike share the keys and values of their beginning
    /// (<c>--enable-prefix-caching</c>). Changes no output. Default true.</summary>
    public bool PrefixCaching { get; init; } = true;

    /// <summary>Whether other threads can follow what the prefix cache holds (<see cref="Engine.CacheEvents"/>,
    /// <c>--enable-kv-cache-events</c>). Default false: it tells the tokens of prompts.</summary>
    public bool CacheEvents { get; init; }

    /// <summary>Whose turn it is (<c>--scheduling-policy</c>). Default by due times.</summary>
    public SchedulingPolicy Policy { get; init; } = SchedulingPolicy.Slo;

    /// <summary>The time to the first token that requests are promised which ask for none, and of which no objective of
    /// <see cref="Budgets"/> speaks; null promises nothing.</summary>
    public TimeSpan? TtftObjective { get; init; }

    /// <summary>The time for each later token, likewise. Token i is due i times this after the first token,
    /// or after that was due where it is late.</summary>
    public TimeSpan? TpotObjective { get; init; }

    /// <summary>Tenants with a weight of their own, or a quota. Others share with a weight of 1. Default
    /// none.</summary>
    public IReadOnlyList<TenantSpec> Tenants { get; init; } = [];

    /// <summary>The error budgets that requests are counted in; null for none. One engine's.</summary>
    public BudgetLedger? Budgets { get; init; }

    /// <summary>From this and the request's number come the seeds of requests that bring none.</summary>
    public ulong Seed { get; init; }

    /// <summary>What is promised to a request that asks for nothing.</summary>
    /// <param name="sli">A first token's time, or that of each later one.</param>
    /// <param name="of">Its class.</param>
    /// <param name="tenant">Who sends it.</param>
    internal TimeSpan? ObjectiveOf(SliKind sli, RequestClass of, string tenant = "") =>
        Budgets?.Promised(sli, of.Name(), tenant) ?? (sli == SliKind.Ttft ? TtftObjective : TpotObjective);

    /// <summary>Tokens that a sequence has at least before it gives way to another tenant's: what it has is computed
    /// again for it, where the cache has not kept that.</summary>
    internal int LeastTurn { get; init; } = 32;

    /// <summary>Adds one sentence to <paramref name="errors"/> for every wrong value.</summary>
    public void Validate(ICollection<string> errors)
    {
        if (MaxRunning is < 1 or > 1 << 16) errors.Add($"MaxRunning is {MaxRunning}; it must be from 1 to {1 << 16}.");
        if (MaxBatchedTokens is < 1 or > 1 << 24)
            errors.Add($"MaxBatchedTokens is {MaxBatchedTokens}; it must be from 1 to {1 << 24}.");
        if (MaxBatchedTokens < MaxRunning)
        {
            errors.Add($"MaxBatchedTokens is {MaxBatchedTokens}, below MaxRunning ({MaxRunning}): "
                + "a full batch could not decode one token each.");
        }
        if (MaxQueued is < 1 or > 1 << 20) errors.Add($"MaxQueued is {MaxQueued}; it must be from 1 to {1 << 20}.");
        if (MaxQueuedTokens < 1) errors.Add($"MaxQueuedTokens is {MaxQueuedTokens}; it must be at least 1.");
        if (MaxPreemptions is < 1 or > 1000)
            errors.Add($"MaxPreemptions is {MaxPreemptions}; it must be from 1 to 1000.");
        if (CacheEvents && !PrefixCaching) errors.Add("CacheEvents needs PrefixCaching: nothing is cached without it.");
        if (TtftObjective <= TimeSpan.Zero) errors.Add($"TtftObjective is {TtftObjective}; it must be positive.");
        foreach (TenantSpec tenant in Tenants) tenant.Validate(errors);
        foreach (IGrouping<string, TenantSpec> same in Tenants.GroupBy(tenant => tenant.Name))
            if (same.Count() > 1) errors.Add($"There are {same.Count()} tenants of the name '{same.Key}'.");
        if (TpotObjective <= TimeSpan.Zero) errors.Add($"TpotObjective is {TpotObjective}; it must be positive.");
    }
}
