using System.Diagnostics;

namespace Native.Scheduling;

/// <summary>Why a request was not taken, where a retry may help.</summary>
/// <param name="FirstToken">When its first token would probably have come, from its arrival; zero where that was not
/// asked.</param>
/// <param name="RetryAfter">When to try again. Spread at random, so that those refused together don't come back
/// together.</param>
public readonly record struct Refusal(TimeSpan FirstToken, TimeSpan RetryAfter)
{
    /// <summary>What the prompt takes where nobody else is there; zero where that was not asked.</summary>
    public TimeSpan Alone { get; init; }

    /// <summary>When the first token was to come, from the arrival; zero where that was not asked.</summary>
    public TimeSpan Due { get; init; }

    /// <summary>Until when a forecast is taken for in time: before <see cref="Due"/>, because they scatter.</summary>
    public TimeSpan Latest { get; init; }

    /// <summary>A tenant's quota that has too little left, and what was needed of it: <c>600 requests a minute, 1
    /// needed</c>; null where it was not that.</summary>
    public string? Quota { get; init; }
}

/// <summary>Says at the door when a request's first token would come. The engine's thread publishes what it sees, any
/// thread asks; no lock, and no wait for a turn.</summary>
/// <remarks>
/// The first token comes when the prompts before this one are computed, then its own. Before it are its tenant's own
/// that are under way or due earlier, by the prompts' lengths, because a long prompt lets short ones pass
/// (<see cref="Ordering"/>), and of other tenants what their shares give them meanwhile. A token of prompt
/// takes what the model of steps says beside as many decodes as there will be: each prompt that is through decodes and
/// leaves less of every step to those behind it. That is multiplied by how wrong it was lately. Where no
/// place or block is left, as many requests must end as wait.
/// <para>Forecasts are right on average; how far first tokens scatter around them is learned as well, and leaves them a
/// margin (<see cref="Margin"/>).</para>
/// </remarks>
internal sealed class Forecast(Tenants tenants)
{
    private const double HalfLife = 2; // seconds of steps
    private const double Doubts = 10;  // seconds of steps, after which half of an error is forgotten

    /// <summary>Of the forecasts that decide, the part that may come true too late: with those that come well before
    /// their time, 99 of 100 first tokens are in time then.</summary>
    private const double LatePart = 0.02;
    private const double UnknownMargin = 0.85, LeastMargin = 0.1;
    private const double Forgets = 60; // seconds of steps, after which half of what made the margin small is forgotten

    private readonly SeqLock<ForecastState> _shown =
        new(new ForecastState { Capacity = 1, Error = 1, Margin = UnknownMargin, Pace = PromptPace.Unknown });

    // The engine thread's: decayed sums of what steps with prompts took, and of what they were said to take.
    private double _seconds = 1, _foreseen = 1;
    private PromptPace _pace = PromptPace.Unknown;
    private double _late = -Math.Log(UnknownMargin); // times over the forecast that 2 of 100 exceed, as a logarithm
    private long _fell; // when the margin last did

    /// <summary>Seconds until the first token of a request that comes now. Any thread.</summary>
    /// <param name="share">Whose it is.</param>
    /// <param name="prompt">Its prompt.</param>
    /// <param name="ttft">Its objective in seconds.</param>
    /// <param name="isNext">Whether nobody is before it.</param>
    public double FirstToken(Share share, QueuedPrompt prompt, double ttft, out bool isNext)
    {
        ForecastState seen = _shown.Read();
        PromptPace pace = seen.Pace;
        ClassState before = share.Class == RequestClass.Online ? seen.Online : seen.All;
        // Those as long as may be due with it: up to its own length, or to where the objective alone decides.
        double alike = Math.Max(prompt.Length, ttft / (Ordering.Stretch * pace.PerToken(pace.Decodes)));
        QueuedPrompt last = prompt with { Length = (int)Math.Min(alike, int.MaxValue) };
        double prompts = PromptsBefore(share, last, before.Floor, out double requests);
        double decodes = Math.Min(before.Running + requests, seen.Capacity); // when its turn has come
        double computed = (prompts + before.Again) * pace.PerToken((pace.Decodes + decodes) / 2) * seen.Error;
        double room = Math.Min(Math.Max(0, seen.Capacity - before.Running), before.Startable);
        double missing = before.Preempted + requests + 1 - room;
        double ending = Math.Clamp(before.Running + requests, 1, seen.Capacity); // in a mean service
        double place = missing <= 0 ? 0 : missing * seen.MeanService / ending;
        isNext = requests == 0 && before.Running == 0;
        // The step that has the last of it takes what any step does.
        int tokens = prompt.Tokens;
        double own = pace.DecodeStep + (tokens * pace.PerToken(decodes))
            + pace.Attention(prompt.Length - tokens, tokens);
        return Math.Max(computed, place) + (own * seen.Error);
    }

    /// <summary>Part of the time until a first token is due that a forecast may take, so that 98 of 100 such first
    /// tokens are in time; 0.1 to 1. Any thread.</summary>
    public double Margin => _shown.Read().Margin;

    /// <summary>Seconds that a prompt takes where nobody else is there. Any thread.</summary>
    /// <param name="length">Its tokens.</param>
    /// <param name="tokens">Of these, those that are to be computed.</param>
    public double Alone(int length, int tokens) => _shown.Read().Pace.Alone(length - tokens, tokens);

    /// <summary>A step is through. The engine thread's.</summary>
    /// <param name="seconds">What it took.</param>
    /// <param name="load">What it computed.</param>
    /// <param name="waits">Whether prompts that have begun are left to compute. Those that wait for a place or for
    /// blocks are another matter: <see cref="FirstToken"/> counts that wait by itself.</param>
    public void Observe(double seconds, in StepLoad load, bool waits)
    {
        double unknown = -Math.Log(UnknownMargin);
        if (_late > unknown) _late = unknown + ((_late - unknown) * double.Exp2(-seconds / Forgets));
        // An error that lets nobody in would never be seen to be over.
        _seconds = _foreseen + ((_seconds - _foreseen) * double.Exp2(-seconds / Doubts));
        if (load.PrefillTokens == 0 && !waits) return;
        double keep = double.Exp2(-seconds / HalfLife);
        _seconds = (_seconds * keep) + seconds;
        _foreseen = (_foreseen * keep) + (load.PrefillTokens * _pace.PerToken(load.Decodes))
            + _pace.Attention(load.PrefillAttention, load.PrefillTokens);
    }

    /// <summary>A request's first token has come, or its deadline without one. The engine thread's.</summary>
    /// <remarks>Forecasts far below what is let in decide nothing and are not counted. Robbins and Monro 1951: the
    /// margin falls 49 times as far as it rises, so it rests where 2 of 100 come later than it allows. Those let in
    /// before it fell say nothing of what it is now: one pause of the machine makes many late, and counts once (as a
    /// round trip's losses do for TCP).</remarks>
    public void Observe(TokenStream stream, long now)
    {
        double foreseen = stream.Foreseen.TotalSeconds * Stopwatch.Frequency, since = now - stream.Clock.Arrival;
        double due = Math.Min(
            stream.TtftTicks > 0 ? stream.TtftTicks : long.MaxValue, stream.Deadline - stream.Clock.Arrival);
        if (foreseen <= 0.5 * Math.Exp(-_late) * due) return;
        bool isLate = Math.Log(since / foreseen) > _late;
        if (isLate && stream.Clock.Arrival < _fell) return;
        if (isLate) _fell = now;
        _late = Math.Clamp(_late + (0.1 * (isLate ? 1 - LatePart : -LatePart)), 0, -Math.Log(LeastMargin));
    }

    /// <summary>Shows the door what there is. The engine thread's.</summary>
    public void Publish(in ForecastState state)
    {
        _pace = state.Pace;
        _shown.Write(state with
        {
            Error = Math.Clamp(_seconds / Math.Max(_foreseen, 1e-9), 0.25, 8),
            Margin = Math.Exp(-_late),
        });
    }

    /// <summary>Prompt tokens that are computed before a request, of prompts queued and under way.</summary>
    /// <param name="share">Whose it is.</param>
    /// <param name="last">Its tenant's prompts of its rank that are longer come after it.</param>
    /// <param name="floor">What a tenant that has nothing queued got at least.</param>
    /// <param name="requests">How many of these are queued.</param>
    private double PromptsBefore(Share share, QueuedPrompt last, double floor, out double requests)
    {
        double own = share.QueuedBefore(last) + (last.Place < share.UnderWayFrom ? 0 : share.UnderWay), before = own;
        requests = share.RequestsUpTo(last.Rank);
        for (RequestClass of = 0; of < share.Class; of++)
        {
            foreach (Share? other in tenants.Active(of))
            {
                before += other is null ? 0 : other.QueuedTokens + other.UnderWay;
                requests += other?.QueuedRequests ?? 0;
            }
        }
        double served = share.QueuedRequests > 0 ? share.Served : Math.Max(share.Served, floor);
        double until = served + ((own + last.Tokens) / share.Weight); // others are served first until they have as much
        foreach (Share? other in tenants.Active(share.Class))
        {
            if (other is null || other == share) continue;
            double queued = other.QueuedTokens, all = queued + other.UnderWay;
            double first = Math.Clamp(other.Weight * (until - other.Served), 0, all);
            before += first;
            double part = queued > 0 ? Math.Min(first / queued, 1) : other.Served < until ? 1 : 0;
            requests += part * other.QueuedRequests;
        }
        return before;
    }
}
