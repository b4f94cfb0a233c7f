using System.Diagnostics;

namespace Native.Scheduling;

/// <summary>How much a step may compute: decodes and prompts have a number of tokens each, prompts also a
/// time.</summary>
/// <remarks>
/// Token i of a stream is due i x TPOT after the first token, or after arrival + TTFT where that is late. A step may
/// take until the first due time of those who decode in it: who is ahead of its schedule lends its lead to the prompts
/// of others (FairBatching, 2025). Who is late already doesn't shorten steps below its TPOT, or nobody behind it would
/// ever begin.
/// </remarks>
/// <param name="maxTokens">Tokens of all kinds; at least as many as sequences may run, so that a full batch can
/// decode.</param>
/// <param name="leastChunk">Prompt tokens that a step computes at least where a prompt is there: nobody stands
/// still.</param>
/// <param name="options">The policy.</param>
/// <param name="times">What steps take.</param>
internal sealed class StepBudget(int maxTokens, int leastChunk, EngineOptions options, StepTimeModel times)
{
    /// <summary>Part of the time that is planned for: predictions are right on average alone.</summary>
    public const double Margin = 0.9;

    /// <summary>Part of the objective for the first token that one step may take: who arrives waits for it.</summary>
    private const double PartOfTtft = 0.25;

    private double _left; // seconds
    private long _least = long.MaxValue, _leastBefore = long.MaxValue; // TPOT of this step's decodes, the last one's

    /// <summary>Decodes, one token each.</summary>
    public int Decodes => maxTokens;

    /// <summary>Tokens of all kinds.</summary>
    public int MaxTokens => maxTokens;

    /// <summary>Prompt tokens of a step at least, where a prompt is there.</summary>
    public int LeastChunk => leastChunk;

    /// <summary>The shortest time for a token that those who decode were promised; null where none was.</summary>
    public long? LeastTpot => Math.Min(_least, _leastBefore) is var ticks and < long.MaxValue ? ticks : null;

    /// <summary>Whether the step's time is taken.</summary>
    public bool IsSpent { get; private set; }

    /// <summary>Starts a step.</summary>
    public void Begin()
    {
        _left = double.PositiveInfinity;
        IsSpent = false;
        (_leastBefore, _least) = (_least, long.MaxValue);
    }

    /// <summary>A step has a decode of this sequence.</summary>
    public void Add(Sequence s, long now)
    {
        TokenStream stream = s.Stream;
        long tpot = stream.TpotTicks;
        if (tpot == 0 || options.Policy == SchedulingPolicy.Fcfs) return;
        _least = Math.Min(_least, tpot);
        // A first token that came early is no lead to lend: readers are promised an even stream.
        long first = stream.Clock.FirstToken > 0 ? stream.Clock.FirstToken : now;
        if (stream.TtftTicks > 0) first = Math.Min(first, stream.Clock.Arrival + stream.TtftTicks);
        long due = first + ((s.Output.Count + s.Promised) * tpot);
        long left = Math.Max(due - now, tpot);
        if (stream.TtftTicks > 0) left = Math.Min(left, Math.Max(tpot, (long)(PartOfTtft * stream.TtftTicks)));
        _left = Math.Min(_left, Margin * left / Stopwatch.Frequency);
    }

    /// <summary>Prompt tokens in a step that has <paramref name="decodes"/> decodes, whatever time they take.</summary>
    public int Prefill(int decodes) => maxTokens - decodes;

    /// <summary>The part of a chunk that keeps the step within its time.</summary>
    /// <param name="load">What the step has so far.</param>
    /// <param name="start">Tokens of the sequence that are computed.</param>
    /// <param name="count">Tokens it could have.</param>
    public int Fit(in StepLoad load, int start, int count)
    {
        if (double.IsPositiveInfinity(_left)) return count;
        int fits = times.LargestPrefill(load, start, count, _left);
        if (load.PrefillTokens == 0) fits = Math.Max(fits, Math.Min(count, leastChunk));
        IsSpent = fits < count;
        return fits;
    }
}
