using Native.Scheduling;

namespace Native.Bench.Simulate;

/// <summary>A request while a policy serves it.</summary>
/// <param name="outcome">What becomes of it.</param>
internal sealed class Job(Outcome outcome)
{
    /// <summary>What becomes of it.</summary>
    public Outcome Outcome => outcome;

    /// <summary>The request.</summary>
    public TrafficRequest Request => outcome.Request;

    /// <summary>Tokens generated.</summary>
    public int Generated { get; set; }

    /// <summary>Tokens whose keys and values are in the cache.</summary>
    public int Computed { get; set; }

    /// <summary>Blocks it has.</summary>
    public int Blocks { get; set; }

    /// <summary>Tokens there are, prompt and output.</summary>
    public int Length => Request.Input + Generated;

    /// <summary>Tokens to compute before it has its next one.</summary>
    public int Missing => Length - Computed;

    /// <summary>True where its next step is one token.</summary>
    public bool Decodes => Generated > 0 && Missing == 1;

    /// <summary>True once it has all its tokens.</summary>
    public bool IsDone => Generated == Request.Output;
}

/// <summary>What a job does in a step.</summary>
/// <param name="Job">Whose.</param>
/// <param name="Count">Tokens it computes.</param>
internal readonly record struct Work(Job Job, int Count);

/// <summary>A policy of the literature over abstract requests: which of them compute how many tokens in each step.
/// </summary>
/// <remarks>All share this loop: take what has arrived, plan, let the step's time pass, take in its tokens.</remarks>
internal abstract class Batching(SimulatedMachine machine, Objective objective)
{
    /// <summary>Its name in the table.</summary>
    public abstract string Name { get; }

    protected SimulatedMachine Machine => machine;

    protected Objective Objective => objective;

    protected StepClock Clock { get; } = new(machine);

    /// <summary>Those without blocks, by arrival.</summary>
    protected LinkedList<Job> Waiting { get; } = [];

    /// <summary>Those with blocks, by arrival.</summary>
    protected List<Job> Running { get; } = [];

    /// <summary>What the step does.</summary>
    protected List<Work> Plan { get; } = [];

    protected int FreeBlocks { get; private set; } = machine.Blocks;

    protected long Preemptions { get; private set; }

    /// <summary>When a plan that is empty now may not be any more; null where only an arrival helps.</summary>
    protected virtual double? WakeAt => null;

    /// <summary>Fills <see cref="Plan"/>.</summary>
    protected abstract void PlanStep();

    /// <summary>Serves a load to its end.</summary>
    /// <param name="requests">By arrival.</param>
    /// <param name="seconds">In which they came.</param>
    public SimulationResult Run(IReadOnlyList<TrafficRequest> requests, double seconds)
    {
        Outcome[] outcomes = [.. requests.Select(request => new Outcome(request, objective))];
        WasteMeter waste = new();
        int next = 0;
        while (true)
        {
            for (; next < outcomes.Length && requests[next].Arrival <= Clock.Now; next++)
                if (machine.Fits(requests[next])) Waiting.AddLast(new Job(outcomes[next]));
            Plan.Clear();
            PlanStep();
            if (Plan.Count == 0)
            {
                double arrival = next < outcomes.Length ? requests[next].Arrival : double.PositiveInfinity;
                double wake = Math.Min(arrival, WakeAt ?? double.PositiveInfinity);
                if (double.IsInfinity(wake)) break;
                Clock.Wait(wake);
                continue;
            }
            Clock.Step(Load());
            Commit();
            waste.Observe(Running.Sum(job => (long)job.Computed),
                (long)(machine.Blocks - FreeBlocks) * machine.BlockSize);
            Leave();
        }
        return new SimulationResult
        {
            Policy = Name,
            Outcomes = outcomes,
            Seconds = seconds,
            End = Clock.Now,
            Steps = Clock.Steps,
            Busy = Clock.Busy,
            Preemptions = Preemptions,
            KvWaste = waste.Mean,
        };
    }

    /// <summary>What the step costs.</summary>
    protected virtual StepLoad Load()
    {
        StepLoad load = default;
        foreach ((Job job, int count) in Plan)
            load = job.Decodes ? load.PlusDecode(job.Computed + 1) : load.PlusPrefill(job.Computed, count);
        return load;
    }

    /// <summary>Takes in the step's tokens.</summary>
    protected virtual void Commit()
    {
        foreach ((Job job, int count) in Plan)
        {
            job.Computed += count;
            if (job.Missing > 0) continue;
            job.Generated++;
            job.Outcome.Token(Clock.Now);
        }
    }

    /// <summary>Lets those go that are done.</summary>
    protected virtual void Leave()
    {
        foreach (Job job in Running.Where(job => job.IsDone)) Release(job);
        Running.RemoveAll(job => job.IsDone);
    }

    /// <summary>Moves the first that waits to the running ones.</summary>
    protected Job Admit()
    {
        Job job = Waiting.First!.Value;
        Waiting.RemoveFirst();
        Running.Add(job);
        return job;
    }

    /// <summary>Takes blocks until a job has those of so many tokens; none where there are too few.</summary>
    protected bool TryReserve(Job job, int tokens)
    {
        int more = Math.Max(0, machine.BlocksFor(tokens) - job.Blocks);
        if (more > FreeBlocks) return false;
        FreeBlocks -= more;
        job.Blocks += more;
        return true;
    }

    /// <summary>Gives back a job's blocks.</summary>
    protected void Release(Job job)
    {
        FreeBlocks += job.Blocks;
        job.Blocks = 0;
    }

    /// <summary>The youngest loses its blocks, and is the first to come back.</summary>
    protected Job Preempt()
    {
        Job youngest = Running[^1];
        Running.RemoveAt(Running.Count - 1);
        Release(youngest);
        youngest.Computed = 0;
        Waiting.AddFirst(youngest);
        Preemptions++;
        return youngest;
    }
}
