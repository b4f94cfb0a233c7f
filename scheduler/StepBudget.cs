using System.Diagnostics;
using Native.Scheduling.Slo;

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
    /// <summary>Of the streams that need most of their time for a token, the part that may need more.</summary>
    private const double LatePart = 0.02;
    private const double UnknownMargin = 0.9, LeastMargin = 0.5, MostMargin = 0.95;

    /// <summary>Part of the objective for the first token that one step may take: who arrives waits for it.</summary>
    private const double PartOfTtft = 0.25;

    /// <summary>Part of what the slowest of a hundred online requests has without batch work that others may have with
    /// it. At 0.95 it moved their 99th percentile by 4 % at most and got more than all idle time; at 1 it moved that by
    /// 9 % (simulated, 14 to 66 % busy).</summary>
    private const double PartOfSlowest = 0.95;

    /// <summary>Seconds of a step of batch work alone: who comes online meanwhile waits for its end. A tenth of the
    /// objective for the first token, where there is one.</summary>
    private const double BatchAlone = 0.05;

    /// <summary>Streams that must be able to keep a time for a token together.</summary>
    private const int Few = 4;

    /// <summary>Part of the usual objective for the first token that a step with a piece of a very long prompt may
    /// take: who arrives waits for its end (Medha, Agrawal et al. 2024). The piece takes this many times as long as a
    /// step without work at least, or steps would cost more than the prompt.</summary>
    private const double PartBesideLong = 0.05, LongSteps = 5;

    private readonly double _batchAlone =
        options.ObjectiveOf(SliKind.Ttft, RequestClass.Online) is { } ttft ? 0.1 * ttft.TotalSeconds : BatchAlone;

    /// <summary>What is usually promised for the first token, in seconds; infinite for nothing.</summary>
    private readonly double _ttft = options.Policy == SchedulingPolicy.Slo
        && options.ObjectiveOf(SliKind.Ttft, RequestClass.Online) is { } due
            ? due.TotalSeconds : double.PositiveInfinity;

    private double _left, _leftForBatch; // seconds
    private bool _hasOnline;
    private long _fell; // when the margin last did
    private long _least = long.MaxValue, _leastBefore = long.MaxValue; // TPOT of this step's decodes, the last one's

    /// <summary>Decodes, one token each.</summary>
    public int Decodes => maxTokens;

    /// <summary>Tokens of all kinds.</summary>
    public int MaxTokens => maxTokens;

    /// <summary>Prompt tokens of a step at least, where a prompt is there.</summary>
    public int LeastChunk => leastChunk;

    /// <summary>The shortest time for a token that those who decode were promised; null where none was.</summary>
    public long? LeastTpot => Math.Min(_least, _leastBefore) is var ticks and < long.MaxValue ? ticks : null;

    /// <summary>Part of the time that is planned for, because predictions are right on average alone: learned, so that
    /// 98 of 100 streams that need most of their time for a token keep it.</summary>
    public double Margin { get; private set; } = UnknownMargin;

    /// <summary>Seconds a token: 99 of 100 online requests are faster without batch work; 0 before one ended.</summary>
    public double SlowOnline { get; private set; }

    /// <summary>Whether the step's time is taken.</summary>
    public bool IsSpent { get; private set; }

    /// <summary>Starts a step.</summary>
    public void Begin()
    {
        _left = double.PositiveInfinity;
        _leftForBatch = options.Policy == SchedulingPolicy.Fcfs ? double.PositiveInfinity : _batchAlone;
        _hasOnline = false;
        IsSpent = false;
        (_leastBefore, _least) = (_least, long.MaxValue);
    }

    /// <summary>A step has a decode of this sequence.</summary>
    public void Add(Sequence s, long now)
    {
        if (options.Policy == SchedulingPolicy.Fcfs) return;
        TokenStream stream = s.Stream;
        if (stream.Class == RequestClass.Online) LeaveToBatch(s, now);
        long tpot = TpotOf(s);
        if (tpot == 0) return;
        if (TpotThatOthersKeep(s) > 0) _least = Math.Min(_least, tpot);
        // A first token that came early is no lead to lend: readers are promised an even stream.
        long first = stream.Clock.FirstToken > 0 ? stream.Clock.FirstToken : now;
        if (stream.TtftTicks > 0) first = Math.Min(first, stream.Clock.Arrival + stream.TtftTicks);
        long due = first + ((s.Output.Count + s.Promised) * tpot);
        long left = Math.Max(due - now, tpot);
        if (stream.TtftTicks > 0) left = Math.Min(left, Math.Max(tpot, (long)(PartOfTtft * stream.TtftTicks)));
        _left = Math.Min(_left, Margin * left / Stopwatch.Frequency);
    }

    /// <summary>The time for a token that a sequence was promised, in ticks; 0 for none. One that a few could not keep
    /// together counts for none: who asks for what can't be had is late, and holds nobody up.</summary>
    public long TpotOf(Sequence s) => TpotOf(s, Few);

    /// <summary>The same as far as others wait for a place for its sake: what a request asks for beyond what the server
    /// promises must leave a quarter of the places.</summary>
    public long TpotThatOthersKeep(Sequence s) =>
        TpotOf(s, s.Stream.AsksForMore ? Math.Max(Few, options.MaxRunning / 4) : Few);

    private long TpotOf(Sequence s, int few)
    {
        long ticks = s.Stream.Limit > 1 && !s.IsTpotWaived ? s.Stream.TpotTicks : 0;
        if (ticks == 0) return 0;
        few = Math.Min(few, maxTokens);
        double together = times.Predict(new StepLoad(0, 0, 0, few, (double)few * s.Length));
        return together <= Margin * ((double)ticks / Stopwatch.Frequency) ? ticks : 0;
    }

    /// <summary>A choice of an online request whose tokens had due times has ended.</summary>
    /// <param name="part">What a token after its first took, of the time it was promised.</param>
    /// <param name="began">When its first token came.</param>
    /// <param name="now">When it ended.</param>
    /// <remarks>As <see cref="Forecast.Observe(TokenStream, long)"/> learns the forecast's.</remarks>
    public void ObserveTpot(double part, long began, long now)
    {
        if (part < 0.8 || (part > 1 && began < _fell)) return; // it had time to spare
        if (part > 1) _fell = now;
        Margin = Math.Clamp(Margin * Math.Exp(0.1 * (part > 1 ? LatePart - 1 : LatePart)), LeastMargin, MostMargin);
    }

    /// <summary>An online request has ended.</summary>
    /// <param name="secondsPerToken">What a token after its first took, without the batch work in its steps.</param>
    /// <remarks>Robbins and Monro 1951: it rises 99 times as far as it falls, so it rests where 1 of 100 is
    /// above.</remarks>
    public void ObserveOnline(double secondsPerToken)
    {
        if (!(secondsPerToken > 0)) return;
        if (SlowOnline == 0) SlowOnline = secondsPerToken;
        else SlowOnline *= secondsPerToken > SlowOnline ? Math.Exp(0.1) : Math.Exp(-0.1 / 99);
    }

    /// <summary>Whether a step has time for a decode besides: online ones always, batch ones where online ones hardly
    /// notice.</summary>
    /// <param name="s">Who would decode.</param>
    /// <param name="load">What the step has so far.</param>
    public bool HasTime(Sequence s, in StepLoad load) =>
        s.Stream.Class == RequestClass.Online || !_hasOnline
        || times.Predict(load.PlusDecode(s.Length)) <= _leftForBatch;

    /// <summary>Prompt tokens in a step that has <paramref name="decodes"/> decodes, whatever time they take.</summary>
    public int Prefill(int decodes) => maxTokens - decodes;

    /// <summary>The part of a chunk that keeps the step within its time.</summary>
    /// <param name="s">Whose it is.</param>
    /// <param name="load">What the step has so far.</param>
    /// <param name="count">Tokens it could have.</param>
    public int Fit(Sequence s, in StepLoad load, int count)
    {
        bool batch = s.Stream.Class == RequestClass.Batch;
        double left = batch ? Math.Min(_left, _leftForBatch) : _left;
        if (IsVeryLong(s)) left = Math.Min(left, Math.Max(PartBesideLong * _ttft, LongSteps * times.Predict(default)));
        if (double.IsPositiveInfinity(left)) return count;
        int fits = times.LargestPrefill(load, s.NumComputedTokens, count, left);
        if (load.PrefillTokens == 0 && !(batch && _hasOnline)) fits = Math.Max(fits, Math.Min(count, leastChunk));
        IsSpent = fits < count;
        return fits;
    }

    /// <summary>Whether a prompt takes longer alone than first tokens usually may.</summary>
    private bool IsVeryLong(Sequence s)
    {
        int start = s.Stream.Clock.CachedTokens, count = s.Target - start;
        return count > maxTokens && times.Predict(default(StepLoad).PlusPrefill(start, count)) > _ttft;
    }

    /// <summary>What an online stream leaves of the step to batch work: as much as keeps it as fast as the slowest of a
    /// hundred without that; nothing before that is known.</summary>
    private void LeaveToBatch(Sequence s, long now)
    {
        if (!_hasOnline) _leftForBatch = double.PositiveInfinity;
        _hasOnline = true;
        long first = s.Stream.Clock.FirstToken > 0 ? s.Stream.Clock.FirstToken : now;
        double due = PartOfSlowest * SlowOnline * (s.Output.Count + s.Promised);
        _leftForBatch = Math.Min(_leftForBatch, due - ((double)(now - first) / Stopwatch.Frequency));
    }
}
