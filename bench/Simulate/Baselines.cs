using Native.Scheduling;

namespace Native.Bench.Simulate;

/// <summary>A batch that nobody joins or leaves: as many as fit start together, and the next ones start when all are
/// done (FasterTransformer's way, as Yu et al. 2022 describe it).</summary>
/// <remarks>Memory is reserved for the whole length, which is known here. Rows that are done go on computing.</remarks>
internal class RequestLevelBatching(SimulatedMachine machine, Objective objective) : Batching(machine, objective)
{
    public override string Name => "request";

    /// <summary>Tokens that are reserved for a job.</summary>
    protected virtual int Reserved(Job job) => job.Request.Input + job.Request.Output;

    protected override void PlanStep()
    {
        if (Running.Count == 0)
            while (Running.Count < Machine.MaxRunning && Waiting.First is { } head
                && TryReserve(head.Value, Reserved(head.Value))) Admit();
        Plan.AddRange(Running.Select(job => new Work(job, Math.Max(job.Missing, 1))));
    }

    protected override StepLoad Load()
    {
        StepLoad load = default;
        foreach ((Job job, int count) in Plan)
        {
            load = job.Generated > 0 ? load.PlusDecode(Math.Min(job.Computed + 1, job.Length))
                : load.PlusPrefill(job.Computed, count);
        }
        return load;
    }

    protected override void Commit()
    {
        Plan.RemoveAll(work => work.Job.IsDone);
        base.Commit();
    }

    protected override void Leave()
    {
        if (Running.All(job => job.IsDone)) base.Leave();
    }
}

/// <summary>The same with a batch of a fixed size that is waited for, prompts padded to the longest, and answers given
/// when the whole batch is done.</summary>
internal sealed class StaticBatching(SimulatedMachine machine, Objective objective, int size)
    : RequestLevelBatching(machine, objective)
{
    private int _longestInput, _longestOutput;

    public override string Name => "static";

    /// <summary>A batch that is not full starts when its oldest has waited for half of the time to the first
    /// token.</summary>
    protected override double? WakeAt => Running.Count == 0 && Waiting.First is { } head ? StartOf(head.Value) : null;

    protected override int Reserved(Job job) => _longestInput + _longestOutput;

    protected override void PlanStep()
    {
        if (Running.Count == 0)
        {
            if (Waiting.First is not { } head) return;
            if (Waiting.Count < size && Clock.Now < StartOf(head.Value)) return;
            Gather();
        }
        Plan.AddRange(Running.Select(job => new Work(job, Math.Max(job.Missing, 1))));
    }

    protected override StepLoad Load()
    {
        StepLoad load = default;
        int step = Running.Max(job => job.Generated);
        for (int i = 0; i < Running.Count; i++)
            load = step > 0 ? load.PlusDecode(_longestInput + step) : load.PlusPrefill(0, _longestInput);
        return load;
    }

    protected override void Commit()
    {
        foreach ((Job job, int count) in Plan.Where(work => !work.Job.IsDone))
        {
            job.Computed += count;
            job.Generated++;
        }
        if (!Running.All(job => job.IsDone)) return;
        foreach (Job job in Running)
            for (int i = 0; i < job.Generated; i++) job.Outcome.Token(Clock.Now);
    }

    private double StartOf(Job oldest) => oldest.Request.Arrival + (Objective.Ttft / 2);

    /// <summary>Takes the first that wait, as many as fit when all are as long as the longest.</summary>
    private void Gather()
    {
        (_longestInput, _longestOutput) = (0, 0);
        int count = 0;
        foreach (Job job in Waiting.Take(Math.Min(size, Machine.MaxRunning)))
        {
            int input = Math.Max(_longestInput, job.Request.Input),
                output = Math.Max(_longestOutput, job.Request.Output);
            if ((long)(count + 1) * Machine.BlocksFor(input + output) > Machine.Blocks) break;
            (_longestInput, _longestOutput, count) = (input, output, count + 1);
        }
        for (int i = 0; i < count; i++)
        {
            bool fits = TryReserve(Waiting.First!.Value, _longestInput + _longestOutput);
            if (fits) Admit();
        }
    }
}

/// <summary>Every step is a batch of its own: whoever is done leaves, whoever waits joins with the whole prompt (Yu et
/// al. 2022, Orca). Memory is reserved for the whole length.</summary>
internal sealed class IterationLevelBatching(SimulatedMachine machine, Objective objective)
    : Batching(machine, objective)
{
    public override string Name => "orca";

    protected override void PlanStep()
    {
        while (Running.Count < Machine.MaxRunning && Waiting.First is { } head
            && TryReserve(head.Value, head.Value.Request.Input + head.Value.Request.Output)) Admit();
        Plan.AddRange(Running.Select(job => new Work(job, job.Missing)));
    }
}

/// <summary>Prompts in chunks under a budget of tokens a step: those who run have it first, by arrival, so that whoever
/// decodes does so in every step; then those who wait. Blocks are taken as they are needed, and the youngest is
/// preempted where there are none (vLLM, Kwon et al. 2023).</summary>
/// <remarks>Who runs longer is computed before: an older prompt is done before a younger request is let in. So first
/// come, first served and decodes first are one order, and differ by their budgets alone.</remarks>
/// <param name="machine">What computes.</param>
/// <param name="objective">When tokens are due.</param>
/// <param name="name">In the table.</param>
/// <param name="budget">Tokens a step.</param>
internal sealed class ChunkedBatching(SimulatedMachine machine, Objective objective, string name, int budget)
    : Batching(machine, objective)
{
    public override string Name => name;

    /// <summary>The budget that Sarathi-Serve takes by profiling (Agrawal et al. 2024): the largest whose step, full of
    /// decodes and a chunk, is within the time of an output token.</summary>
    public static int BudgetFor(SimulatedMachine machine, Objective objective)
    {
        const int Decodes = 32, Context = 512;
        StepLoad decodes = new(0, 0, 0, Decodes, Decodes * Context);
        int chunk = machine.Steps.LargestPrefill(decodes, Context, machine.MaxBatchedTokens, objective.Tpot);
        return Math.Min(Math.Max(chunk + Decodes, machine.MaxRunning), machine.MaxBatchedTokens);
    }

    protected override void PlanStep()
    {
        int left = budget;
        bool preempted = false;
        for (int i = 0; i < Running.Count && left > 0; i++) left -= Schedule(Running[i], left, ref preempted);
        // A step that preempts admits nobody, or the victim would come straight back.
        while (!preempted && left > 0 && Running.Count < Machine.MaxRunning && Waiting.First is { } head)
        {
            int count = Math.Min(head.Value.Missing, left);
            if (!TryReserve(head.Value, count)) break;
            Plan.Add(new Work(Admit(), count));
            left -= count;
        }
    }

    /// <summary>Gives a running job what it can have of the budget; takes blocks from the youngest where none are
    /// free.</summary>
    /// <returns>Tokens it got.</returns>
    private int Schedule(Job job, int left, ref bool preempted)
    {
        int count = Math.Min(job.Missing, left);
        while (!TryReserve(job, job.Computed + count))
        {
            preempted = true;
            if (Preempt() == job) return 0; // younger ones have no work in this step yet
        }
        Plan.Add(new Work(job, count));
        return count;
    }
}
