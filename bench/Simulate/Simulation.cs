namespace Native.Bench.Simulate;

/// <summary>A load at one rate, and what every policy made of it.</summary>
/// <param name="Rate">Requests a second that were sent.</param>
/// <param name="Results">One for each policy.</param>
internal sealed record RateResult(double Rate, IReadOnlyList<SimulationResult> Results);

/// <summary>Runs policies over loads.</summary>
/// <param name="machine">What computes.</param>
/// <param name="objective">When tokens are due.</param>
internal sealed class Simulation(SimulatedMachine machine, Objective objective)
{
    /// <summary>When tokens are due.</summary>
    public Objective Objective => objective;

    /// <summary>The policies there are, in the order of the table.</summary>
    public static readonly string[] Policies = ["static", "request", "orca", "decode-first", "fcfs", NativeEngine.Name];

    /// <summary>Serves a load by a policy.</summary>
    public SimulationResult Run(string policy, IReadOnlyList<TrafficRequest> requests, double seconds) => policy switch
    {
        "static" => new StaticBatching(machine, objective, StaticSize).Run(requests, seconds),
        "request" => new RequestLevelBatching(machine, objective).Run(requests, seconds),
        "orca" => new IterationLevelBatching(machine, objective).Run(requests, seconds),
        "decode-first" => new ChunkedBatching(machine, objective, policy,
            ChunkedBatching.BudgetFor(machine, objective)).Run(requests, seconds),
        "fcfs" => new ChunkedBatching(machine, objective, policy, machine.MaxBatchedTokens).Run(requests, seconds),
        NativeEngine.Name => new NativeEngine(machine, objective).Run(requests, seconds),
        _ => throw new ArgumentException($"there is no policy {policy}", nameof(policy)),
    };

    /// <summary>Requests a second that the machine serves when it is never idle: the load comes all at once, and
    /// everybody joins as soon as memory allows.</summary>
    public double Capacity(TrafficPlan plan)
    {
        const int Most = 400;
        TrafficPlan enough = plan with { Rate = 4 * Most / plan.Seconds };
        TrafficRequest[] requests = [.. TrafficDraw.Of(enough).Where(machine.Fits).Take(Most)
            .Select(request => request with { Arrival = 0, Parent = null, SharedBlocks = 0 })];
        return requests.Length == 0 ? 0
            : requests.Length / new IterationLevelBatching(machine, objective).Run(requests, 1).End;
    }

    /// <summary>The highest rate at which a policy keeps a part of all requests good.</summary>
    /// <param name="policy">The policy.</param>
    /// <param name="plan">The load; its rate is what is looked for.</param>
    /// <param name="attainment">The part.</param>
    /// <param name="highest">Where to begin.</param>
    /// <returns>Requests a second, within 2 %, at most 16 times <paramref name="highest"/>; 0 where not even a
    /// hundredth of it is kept.</returns>
    public double FindCapacity(string policy, TrafficPlan plan, double attainment, double highest)
    {
        bool Keeps(double rate)
        {
            TrafficPlan at = plan with { Rate = rate };
            return Run(policy, TrafficDraw.Of(at), at.Seconds).Attainment >= attainment;
        }
        double low = highest / 100, high = highest;
        if (!Keeps(low)) return 0;
        while (high < 16 * highest && Keeps(high)) (low, high) = (high, high * 2);
        while (high / low > 1.02)
        {
            double middle = Math.Sqrt(low * high);
            if (Keeps(middle)) low = middle;
            else high = middle;
        }
        return low;
    }

    private const int StaticSize = 16;
}
