namespace Native.Scheduling;

/// <summary>The step that the engine's thread waits for.</summary>
/// <param name="Number">Which it is, from 1.</param>
/// <param name="Began">When it was given to the runner, or the step before it was through, as a timestamp of the
/// engine's clock.</param>
/// <param name="Expected">What it was predicted to take.</param>
/// <param name="Sequences">Sequences in it.</param>
/// <param name="PrefillTokens">Prompt tokens it computes.</param>
/// <param name="Decodes">Sequences that decode, one token each.</param>
public readonly record struct RunningStep(
    long Number, long Began, TimeSpan Expected, int Sequences, int PrefillTokens, int Decodes);

/// <summary>Shows other threads the step that the engine's thread waits for. One writer, which never waits and
/// allocates nothing.</summary>
/// <remarks>A sequence lock: the version is odd while the fields change. Every store releases and every load acquires,
/// so none passes another of its kind.</remarks>
internal sealed class StepWatch
{
    private long _version, _number, _began, _expected;
    private int _sequences, _prefillTokens, _decodes;

    /// <summary>The thread is about to wait for a step. The engine thread's.</summary>
    public void Begin(in RunningStep step)
    {
        long version = _version;
        Volatile.Write(ref _version, version + 1);
        Volatile.Write(ref _began, step.Began);
        Volatile.Write(ref _expected, step.Expected.Ticks);
        Volatile.Write(ref _sequences, step.Sequences);
        Volatile.Write(ref _prefillTokens, step.PrefillTokens);
        Volatile.Write(ref _decodes, step.Decodes);
        Volatile.Write(ref _number, step.Number);
        Volatile.Write(ref _version, version + 2);
    }

    /// <summary>It waits for none. The engine thread's.</summary>
    public void End() => Volatile.Write(ref _number, 0);

    /// <summary>The step waited for, or null. Any thread.</summary>
    public RunningStep? Read()
    {
        SpinWait spin = default;
        while (true)
        {
            long version = Volatile.Read(ref _version);
            RunningStep step = new(
                Volatile.Read(ref _number), Volatile.Read(ref _began), new TimeSpan(Volatile.Read(ref _expected)),
                Volatile.Read(ref _sequences), Volatile.Read(ref _prefillTokens), Volatile.Read(ref _decodes));
            if ((version & 1) == 0 && Volatile.Read(ref _version) == version)
                return step.Number == 0 ? null : step;
            spin.SpinOnce();
        }
    }
}
