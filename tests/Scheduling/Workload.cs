using CsCheck;
using Native.Kernels.Sampling;
using Native.Scheduling;

namespace Native.Tests.Scheduling;

/// <summary>What is done to an engine between its turns.</summary>
public enum Deed
{
    /// <summary>A request comes.</summary>
    Submit,

    /// <summary>One of those submitted is cancelled.</summary>
    Cancel,

    /// <summary>One choice of one is stopped.</summary>
    Stop,

    /// <summary>Some turns.</summary>
    Turn,

    /// <summary>Time goes by.</summary>
    Wait,

    /// <summary>The next launch throws.</summary>
    FailLaunch,

    /// <summary>The next collection throws.</summary>
    FailCollect,
}

/// <summary>One deed; <paramref name="Number"/> is which request, how many turns or how many milliseconds.</summary>
public sealed record WorkloadStep(Deed Deed, int Number, WorkloadRequest? Request)
{
    public override string ToString() => Request is null ? $"{Deed} {Number}" : $"{Deed} {Request}";
}

/// <summary>A request, in small numbers; times in milliseconds, 0 for none.</summary>
public sealed record WorkloadRequest(
    int Prompt, int MaxTokens, int N, int Flags, int Class, int Tenant, int Priority, int Ttft, int Tpot, int Deadline)
{
    /// <summary>The request that this is, as the <paramref name="number"/>th of a workload.</summary>
    internal GenerationRequest Build(int number, long now) => new()
    {
        Ids = EngineHarness.Prompt(Prompt, number),
        Sampling = new SamplingParams
        {
            Temperature = 0.7f,
            Seed = (ulong)number,
            N = N,
            MaxTokens = MaxTokens,
            IgnoreEos = (Flags & 1) == 0,
            StopTokenIds = (Flags & 2) == 0 ? [] : [3, 5, 8, 13, 21],
            FrequencyPenalty = (Flags & 12) == 12 ? 0.5f : 0,
            PromptLogprobs = (Flags & 48) == 48 ? 0 : null,
        },
        Class = (RequestClass)Class,
        Tenant = Tenant == 0 ? "" : ((char)('a' + Tenant - 1)).ToString(),
        Priority = Priority,
        TtftObjective = Milliseconds(Ttft),
        TpotObjective = Milliseconds(Tpot),
        Deadline = Deadline == 0 ? null : now + (Deadline * 1_000_000L),
        BestEffort = true,
    };

    private static TimeSpan? Milliseconds(int count) => count == 0 ? null : TimeSpan.FromMilliseconds(count);
}

/// <summary>An engine's limits, and what is done to it.</summary>
public sealed record Workload(
    int StepsInFlight, bool IsFcfs, bool Caches, int BlockSize, int MoreBlocks, int MaxRunning, int MoreTokens,
    int MaxPreemptions, WorkloadStep[] Steps)
{
    public const int MaxModelLength = 40;

    private static readonly Gen<WorkloadRequest> AnyRequest =
        from prompt in Gen.Int[1, MaxModelLength - 2]
        from tokens in Gen.Int[0, 36]
        from n in Gen.Frequency((3, Gen.Const(1)), (1, Gen.Int[2, 5]))
        from flags in Gen.Int[0, 63]
        from of in Gen.Frequency((2, Gen.Const(0)), (1, Gen.Const(1)))
        from tenant in Gen.Int[0, 3]
        from priority in Gen.Frequency((3, Gen.Const(0)), (1, Gen.Int[-2, 2]))
        from ttft in Gen.Frequency((1, Gen.Const(0)), (1, Gen.Int[1, 200]))
        from tpot in Gen.Frequency((1, Gen.Const(0)), (1, Gen.Int[1, 20]))
        from deadline in Gen.Frequency((6, Gen.Const(0)), (1, Gen.Int[1, 400]))
        select new WorkloadRequest(prompt, tokens, n, flags, of, tenant, priority, ttft, tpot, deadline);

    private static readonly Gen<WorkloadStep> AnyStep = Gen.Frequency(
        (8, AnyRequest.Select(request => new WorkloadStep(Deed.Submit, 0, request))),
        (6, Gen.Int[1, 6].Select(turns => new WorkloadStep(Deed.Turn, turns, null))),
        (1, Gen.Int[0, 99].Select(which => new WorkloadStep(Deed.Cancel, which, null))),
        (1, Gen.Int[0, 99].Select(which => new WorkloadStep(Deed.Stop, which, null))),
        (1, Gen.Int[1, 50].Select(time => new WorkloadStep(Deed.Wait, time, null))),
        (1, Gen.Int[0, 1].Select(where => new WorkloadStep(where == 0 ? Deed.FailLaunch : Deed.FailCollect, 0, null))));

    internal static readonly Gen<Workload> Any =
        from inFlight in Gen.Int[1, 2]
        from isFcfs in Gen.Bool
        from caches in Gen.Frequency((5, Gen.Const(false)), (1, Gen.Const(true)))
        from blockSize in Gen.Int[0, 5].Select(i => new[] { 1, 2, 3, 4, 8, 16 }[i])
        from blocks in Gen.Int[0, 60]
        from running in Gen.Int[5, 16]
        from tokens in Gen.Int[0, 60]
        from preemptions in Gen.Int[1, 4]
        from steps in AnyStep.Array[1, 60]
        select new Workload(inFlight, isFcfs, caches, blockSize, blocks, running, tokens, preemptions, steps);

    /// <summary>As many blocks as the longest sequence needs, and some tokens' more.</summary>
    public int Blocks => ((MaxModelLength + BlockSize - 1) / BlockSize) + (MoreBlocks / BlockSize);

    public override string ToString() =>
        $"{StepsInFlight} in flight, {(IsFcfs ? "fcfs" : "slo")}{(Caches ? ", caches" : "")}, {Blocks} blocks of "
        + $"{BlockSize}, {MaxRunning} run, {MaxRunning + MoreTokens} tokens, {MaxPreemptions} preemptions:\n"
        + string.Join('\n', Steps.Select(step => step.ToString()));

    internal EngineOptions Options => new()
    {
        Policy = IsFcfs ? SchedulingPolicy.Fcfs : SchedulingPolicy.Slo,
        LeastTurn = 2,
        PrefixCaching = Caches,
        MaxRunning = MaxRunning,
        MaxBatchedTokens = MaxRunning + MoreTokens,
        MaxPreemptions = MaxPreemptions,
        Tenants = [new TenantSpec { Name = "a", Weight = 3 }, new TenantSpec { Name = "b", Weight = 0.5 }],
    };
}
