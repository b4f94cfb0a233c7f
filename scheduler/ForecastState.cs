namespace Native.Scheduling;

/// <summary>What stands before requests of a class: those of it and of the classes before it.</summary>
/// <param name="Running">Sequences that run.</param>
/// <param name="Preempted">Sequences that have begun and wait for blocks.</param>
/// <param name="Again">All tokens of these.</param>
/// <param name="Floor">What a tenant that has nothing queued is taken to have got at least, see
/// <see cref="WaitingLine.FloorOf"/>.</param>
/// <param name="Startable">Sequences that have blocks to start now; below zero where those who run will need more than
/// there are, infinite where blocks are no matter.</param>
internal readonly record struct ClassState(int Running, int Preempted, long Again, double Floor, double Startable);

/// <summary>What the engine's thread sees and the door goes by.</summary>
internal readonly record struct ForecastState
{
    /// <summary>Before online requests.</summary>
    public ClassState Online { get; init; }

    /// <summary>Before batch ones.</summary>
    public ClassState All { get; init; }

    /// <summary>Sequences that may run; at least 1.</summary>
    public required int Capacity { get; init; }

    /// <summary>Seconds from the first step to the end, lately.</summary>
    public double MeanService { get; init; }

    /// <summary>What prompts took, divided by what they were said to take. The forecast's own.</summary>
    public double Error { get; init; }

    /// <summary>Part of the time until a first token is due that a forecast may take. The forecast's own.</summary>
    public double Margin { get; init; }

    /// <summary>How fast prompts are computed.</summary>
    public required PromptPace Pace { get; init; }
}
