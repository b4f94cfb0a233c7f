using Native.Scheduling;

namespace Native.Bench.Simulate;

/// <summary>What computes in a simulation: nothing but time passes.</summary>
/// <param name="Steps">What a step takes.</param>
internal sealed record SimulatedMachine(StepTimeModel Steps)
{
    /// <summary>Tokens of keys and values that the cache holds.</summary>
    public int KvTokens { get; init; } = 1 << 18;

    /// <summary>Tokens a block of it holds.</summary>
    public int BlockSize { get; init; } = 16;

    /// <summary>Tokens a request may have, prompt and output.</summary>
    public int MaxModelLength { get; init; } = 1 << 17;

    /// <summary>Tokens a step may compute, for policies that bound them.</summary>
    public int MaxBatchedTokens { get; init; } = 512;

    /// <summary>Sequences that run together.</summary>
    public int MaxRunning { get; init; } = 64;

    /// <summary>Whether the engine shares the beginnings of prompts; the baselines never do.</summary>
    public bool PrefixCaching { get; init; } = true;

    /// <summary>Standard deviation of the logarithm of a step's time; 0 for none.</summary>
    public double Noise { get; init; }

    /// <summary>Of the noise.</summary>
    public int Seed { get; init; }

    /// <summary>Blocks of the cache.</summary>
    public int Blocks => KvTokens / BlockSize;

    /// <summary>Whether a request fits at all.</summary>
    public bool Fits(TrafficRequest request) => request.Input + request.Output <= MaxModelLength
        && BlocksFor(request.Input + request.Output) <= Blocks;

    /// <summary>Blocks that hold this many tokens.</summary>
    public int BlocksFor(int tokens) => (tokens + BlockSize - 1) / BlockSize;
}

/// <summary>Time that passes by steps alone.</summary>
/// <param name="machine">What takes it.</param>
internal sealed class StepClock(SimulatedMachine machine)
{
    private readonly Random _random = new(machine.Seed);

    /// <summary>Seconds since the beginning.</summary>
    public double Now { get; private set; }

    /// <summary>Seconds of all steps.</summary>
    public double Busy { get; private set; }

    /// <summary>Steps so far.</summary>
    public long Steps { get; private set; }

    /// <summary>A step is computed.</summary>
    /// <returns>The seconds it took.</returns>
    public double Step(in StepLoad load)
    {
        double seconds = machine.Steps.Predict(load);
        if (machine.Noise > 0) seconds *= Math.Exp(machine.Noise * Serve.Arrivals.Normal(_random));
        Now += seconds;
        Busy += seconds;
        Steps++;
        return seconds;
    }

    /// <summary>Nothing is computed until then.</summary>
    public void Wait(double until) => Now = Math.Max(Now, until);
}
