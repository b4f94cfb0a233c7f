using System.Diagnostics;
using Native.Kernels;
using Native.Scheduling.Slo;

namespace Native.Scheduling;

/// <summary>Who comes in: at the door, when a request is submitted, and into a step, when its turn has come.</summary>
internal sealed class Admission(
    ModelInfo model, EngineOptions options, int maxRunning, Tenants tenants, StepBudget budget, StepTimeModel times)
{
    /// <summary>Seconds after which work that was not taken for a budget's sake may ask again: burn rates are looked at
    /// over 5 minutes at least.</summary>
    private const double WhileBurning = 40;

    /// <summary>Times at which the blocks that will be needed are counted, from now until all who run should have
    /// ended.</summary>
    private const int Horizons = 8;

    /// <summary>Who sends requests.</summary>
    public Tenants Tenants => tenants;

    /// <summary>When first tokens come.</summary>
    public Forecast Forecast { get; } = new(tenants);

    private double _output; // mean tokens of the outputs that ended, 0 for not known
    private int _context = 256; // tokens of those who decode
    private PaddedLong _queued; // submitted and neither scheduled nor ended
    private readonly List<Share> _prefilling = new(2 * maxRunning); // those with prompts under way, when last counted
    private long _retryTicks = Stopwatch.Frequency;
    private long _visits;

    /// <summary>Requests submitted that have not had their first step. Any thread.</summary>
    public int Queued => (int)Volatile.Read(ref _queued.Value);

    /// <summary>When a refused caller had better try again: about when a place in the queue is free. 0.1 to 60 seconds.
    /// Any thread.</summary>
    public TimeSpan RetryAfter =>
        TimeSpan.FromSeconds(Math.Clamp((double)Volatile.Read(ref _retryTicks) / Stopwatch.Frequency, 0.1, 60));

    /// <summary>Whether a request can ever be served, and how many tokens each of its choices may have. Any
    /// thread.</summary>
    public SubmitOutcome Check(GenerationRequest request, out int limit)
    {
        int prompt = request.Ids.Length;
        int? maxTokens = request.Sampling.MaxTokens;
        limit = 0;
        if (prompt + (maxTokens == 0 ? 0 : 1) > model.MaxModelLength) return SubmitOutcome.TooLong;

        // The last token of a choice is never computed, so it needs no slot.
        limit = Math.Min(maxTokens ?? int.MaxValue, model.MaxModelLength - prompt);
        long slots = (long)model.BlockCount * model.BlockSize;
        if (maxTokens is null) limit = (int)Math.Min(limit, slots - prompt + 1);
        return prompt + (long)Math.Max(limit - 1, 0) > slots ? SubmitOutcome.NeverFits : SubmitOutcome.Accepted;
    }

    /// <summary>Takes a place in the queue where there is one, the request would be in time, and no budget speaks
    /// against it. Any thread.</summary>
    /// <param name="request">The request.</param>
    /// <param name="now">When.</param>
    /// <param name="tenant">Whose it is.</param>
    /// <param name="prompt">Its prompt, see <see cref="QueuedOf"/>.</param>
    /// <param name="refusal">When to try again, where it is not taken; where it is, when its first token will probably
    /// come, if that was asked.</param>
    public SubmitOutcome Enter(
        GenerationRequest request, long now, Tenant tenant, QueuedPrompt prompt, out Refusal refusal)
    {
        refusal = default;
        Share share = tenant.ShareOf(request.Class);
        bool objectives = options.Policy == SchedulingPolicy.Slo;
        if (objectives && request.Class == RequestClass.Batch
            && options.Budgets?.IsAnyBurning(RequestClass.Online.Name()) == true)
        {
            refusal = new Refusal(TimeSpan.Zero, Spread(WhileBurning));
            return SubmitOutcome.Shed;
        }
        if (objectives && IsLate(request, now, share, prompt, out refusal)) return SubmitOutcome.WouldBeLate;
        if (Interlocked.Increment(ref _queued.Value) > options.MaxQueued
            || !tenants.TryQueue(share, prompt, options.MaxQueuedTokens))
        {
            Exit(1);
            refusal = new Refusal(TimeSpan.Zero, Spread(RetryAfter.TotalSeconds));
            return SubmitOutcome.QueueFull;
        }
        return SubmitOutcome.Accepted;
    }

    /// <summary>Gives back the place that <see cref="Enter"/> took, where the request is not queued after all. Any
    /// thread.</summary>
    public void Withdraw(TokenStream stream) => Withdraw(stream.Share, stream.Queued);

    /// <inheritdoc cref="Withdraw(TokenStream)"/>
    /// <param name="share">By whose account it was taken.</param>
    /// <param name="prompt">The prompt.</param>
    public void Withdraw(Share share, QueuedPrompt prompt)
    {
        tenants.Dequeue(share, prompt);
        Exit(1);
    }

    /// <summary>Takes of a tenant's quota what requests need. Any thread.</summary>
    /// <param name="tenant">Whose.</param>
    /// <param name="count">How many requests.</param>
    /// <param name="tokens">Their prompts' tokens.</param>
    /// <param name="now">When.</param>
    /// <param name="refusal">When to try again, where there is too little.</param>
    public bool TryTakeQuota(Tenant tenant, int count, int tokens, long now, out Refusal refusal)
    {
        refusal = default;
        double wait = 0;
        bool isTokens = false;
        if (tenant.Requests?.TryTake(count, now, out wait) != false)
        {
            if (tenant.Tokens?.TryTake(tokens, now, out wait) != false) return true;
            tenant.Requests?.Return(count);
            isTokens = true;
        }
        // When the quota is there again is known, however long that takes.
        double spread = Math.Min(0.5 * wait, 30) * Random.Shared.NextDouble();
        refusal = new Refusal(TimeSpan.Zero, TimeSpan.FromSeconds(Math.Max(0.1, wait + spread)))
        {
            Quota = isTokens ? $"{tenant.Tokens!.PerMinute} tokens a minute, {tokens} needed"
                : $"{tenant.Requests!.PerMinute} requests a minute, {count} needed",
        };
        return false;
    }

    /// <summary>Whether the first token would come after the objective or the deadline.</summary>
    /// <remarks>A budget is there to be spent: while it is healthy, who may come just in time is taken, and so is a
    /// prompt that takes too long alone, where it need not wait for long.</remarks>
    private bool IsLate(GenerationRequest request, long now, Share share, QueuedPrompt prompt, out Refusal refusal)
    {
        refusal = default;
        TimeSpan? objective = ObjectiveOf(request);
        double before = (double)(now - (request.ArrivalTimestamp ?? now)) / Stopwatch.Frequency; // parsing, encoding
        double due = objective is { } ttft && !request.BestEffort ? ttft.TotalSeconds - before
            : double.PositiveInfinity;
        double alone = Forecast.Alone(prompt.Length, prompt.Tokens);
        bool isHealthy = options.Budgets?.IsHealthy(request.Class.Name(), request.Tenant) == true;
        double margin = Forecast.Margin;
        double most = isHealthy ? Math.Max(due, (0.5 * due) + alone) : margin * due;
        // One that has passed is taken: it ends the request as any other does.
        if (request.Deadline is { } deadline && deadline > now)
        {
            double left = (double)(deadline - now) / Stopwatch.Frequency;
            due = Math.Min(due, left);
            most = Math.Min(most, margin * left);
        }
        if (double.IsPositiveInfinity(due)) return false;
        double first = Forecast.FirstToken(
            share, prompt, objective?.TotalSeconds ?? 0, out bool isNext);
        refusal = new Refusal(TimeSpan.FromSeconds(before + first), TimeSpan.Zero);
        if (first <= most || isNext) return false;
        // A time to wait until the forecast is short enough, or for one that is late even alone, until nobody is there.
        refusal = refusal with
        {
            RetryAfter = Spread(first - Math.Max(alone, most)),
            Due = TimeSpan.FromSeconds(before + due),
            Latest = TimeSpan.FromSeconds(before + Math.Min(most, due)),
            Alone = TimeSpan.FromSeconds(alone),
        };
        return true;
    }

    /// <summary>A request's prompt as it is queued.</summary>
    public QueuedPrompt QueuedOf(GenerationRequest request, int tokens, long now) =>
        new(QueuedPrompt.RankOf(request.Priority, IsPromised(request, now)), request.Ids.Length, tokens);

    /// <summary>Whether its first token is due before those of requests that were promised nothing, see
    /// <see cref="Ordering"/>.</summary>
    private bool IsPromised(GenerationRequest request, long now)
    {
        if (ObjectiveOf(request) is { } objective) return objective.TotalSeconds < Ordering.Unpromised;
        return request.Deadline - (request.ArrivalTimestamp ?? now) < Ordering.Unpromised * Stopwatch.Frequency;
    }

    private TimeSpan? ObjectiveOf(GenerationRequest request) =>
        request.TtftObjective ?? options.ObjectiveOf(SliKind.Ttft, request.Class, request.Tenant);

    private static TimeSpan Spread(double seconds) =>
        TimeSpan.FromSeconds(Math.Clamp(seconds, 0.1, 60) * (1 + (0.5 * Random.Shared.NextDouble())));

    /// <summary>Gives back places in the queue. Any thread.</summary>
    public void Exit(int requests)
    {
        if (requests > 0) Interlocked.Add(ref _queued.Value, -requests);
    }

    /// <summary>Sequences looked at to count blocks. The engine thread's.</summary>
    public long Visits => _visits;

    /// <summary>Tells the door how long requests take: in that time as many end as run together. The engine
    /// thread.</summary>
    /// <param name="ending">What is known of those who ended.</param>
    /// <param name="live">Those who run.</param>
    /// <param name="now">When.</param>
    public void Publish(Ending ending, LiveSequences live, long now)
    {
        Volatile.Write(ref _retryTicks, (long)(ending.MeanRequestTicks / maxRunning));
        _output = ending.MeanOutput;
        if (options.Policy == SchedulingPolicy.Fcfs) return; // refuses nobody for being late
        PromptPace pace = PaceOf(live);
        CountUnderWay(live, pace);
        int running = live.RunningOf(RequestClass.Online);
        PreemptedState again = live.PreemptedOf(RequestClass.Online), later = live.PreemptedOf(RequestClass.Batch);
        Forecast.Publish(new ForecastState
        {
            Online = new ClassState(running, again.Count, again.Tokens, live.FloorOf(RequestClass.Online),
                Startable(live, ending.MeanBlocks, RequestClass.Online)),
            All = new ClassState(live.Running, again.Count + later.Count, again.Tokens + later.Tokens,
                live.FloorOf(RequestClass.Batch), Startable(live, ending.MeanBlocks, RequestClass.Batch)),
            Capacity = Capacity(ending.MeanBlocks),
            MeanService = ServiceTicks(ending, live, now) / Stopwatch.Frequency,
            Pace = pace,
        });
    }

    /// <summary>Tells the door what is left of the prompts under way, by whose they are.</summary>
    private void CountUnderWay(LiveSequences live, in PromptPace pace)
    {
        int before = _prefilling.Count;
        for (Sequence? s = live.Prefilling.First; s is not null; s = s.Next)
        {
            int start = s.NumComputedTokens, count = s.Length - start;
            Share share = s.Stream.Share;
            (double tokens, int from) = share.UnderWaySoFar;
            if (tokens == 0) _prefilling.Add(share);
            int place = s.Stream.Queued.Place;
            share.UnderWaySoFar = (tokens + count + (pace.Attention(start, count) / pace.Prompt),
                tokens == 0 ? place : Math.Min(from, place));
        }
        for (int i = 0; i < before; i++)
            if (_prefilling[i].UnderWaySoFar.Tokens == 0) _prefilling[i].UnderWay = 0;
        _prefilling.RemoveRange(0, before);
        foreach (Share share in _prefilling)
        {
            (share.UnderWay, share.UnderWayFrom) = share.UnderWaySoFar;
            share.UnderWaySoFar = default;
        }
    }

    /// <summary>How fast prompts are computed now, and beside more decodes.</summary>
    private PromptPace PaceOf(LiveSequences live)
    {
        const int Prompt = PromptPace.ShortPrompt;
        int decodes = live.Decoding.Count;
        if (live.Decoding.First is { } first) _context = first.Length;
        StepLoad load = new(0, 0, 0, decodes, decodes * _context);
        double step = times.Predict(load), one = times.Predict(load.PlusPrefill(0, 1));
        return new PromptPace
        {
            Step = Tpot,
            Decodes = decodes,
            DecodeStep = step,
            PerDecode = times.Predict(load.PlusDecode(_context)) - step,
            Prompt = Math.Max((times.Predict(load.PlusPrefill(0, Prompt)) - step) / Prompt, 1e-9),
            Key = Math.Max(0, (times.Predict(load.PlusPrefill(Prompt, 1)) - one) / Prompt),
            LeastTokens = Math.Min(budget.LeastChunk, budget.MaxTokens),
            MostTokens = budget.MaxTokens,
        };
    }

    /// <summary>From the first step to the end, as far as is known: of those who ended, or as long as those who run
    /// have run where that is longer; before anybody has ended, twice as long.</summary>
    private static double ServiceTicks(Ending ending, LiveSequences live, long now)
    {
        double known = ending.MeanServiceTicks, ages = 0;
        if (live.Decoding.Count == 0) return known;
        for (Sequence? s = live.Decoding.First; s is not null; s = s.Next) ages += now - s.Stream.Clock.FirstScheduled;
        double mean = ages / live.Decoding.Count;
        return known > 0 ? Math.Max(known, mean) : 2 * mean;
    }

    /// <summary>Sequences that can decode together, each with its time for a token and its blocks; at least
    /// 1.</summary>
    /// <param name="meanBlocks">What one has of its own; 0 where that is not known.</param>
    private int Capacity(double meanBlocks)
    {
        int least = 1, most = maxRunning;
        if (meanBlocks > 0) most = (int)Math.Clamp(model.BlockCount / meanBlocks, 1, maxRunning);
        double tpot = Tpot;
        if (double.IsPositiveInfinity(tpot)) return most;
        while (least < most)
        {
            int count = most - ((most - least) / 2);
            if (HaveTime(count, _context, tpot)) least = count;
            else most = count - 1;
        }
        return least;
    }

    /// <summary>Sequences of a class that have blocks to start now, if they get as long as others lately: those of a
    /// lower class give theirs up. Infinite where there are enough for all who wait.</summary>
    private double Startable(LiveSequences live, double meanBlocks, RequestClass of)
    {
        double whole = meanBlocks + (0.5 * _output / model.BlockSize); // one that has ended
        int free = live.Pool.FreeCount;
        if (meanBlocks == 0 || free >= (live.Running + Queued + 1) * whole) return double.PositiveInfinity;
        long growth = PeakGrowth(live, of, null, out long given);
        return (free + given - growth) / whole;
    }

    /// <summary>How often a sequence may lose its blocks.</summary>
    public int MaxPreemptions => options.MaxPreemptions;

    /// <summary>Tokens that a sequence has at least before it gives way to another tenant's.</summary>
    public int LeastTurn => options.LeastTurn;

    /// <summary>Whether a waiting sequence can start now. The engine thread.</summary>
    /// <param name="s">The sequence.</param>
    /// <param name="live">Those who run.</param>
    /// <param name="load">What the step at hand computes already.</param>
    /// <param name="without">Who would give up its place and blocks; null for nobody.</param>
    public bool Admits(Sequence s, LiveSequences live, in StepLoad load, Sequence? without = null)
    {
        int gone = without is null ? 0 : 1;
        if (live.FreePlaces + gone == 0) return false;
        int running = live.Running - gone, free = live.Pool.FreeCount;
        for (int i = 0; i < without?.BlockCount; i++) free += live.Pool.References(without.BlockTable[i]) == 1 ? 1 : 0;
        if (running > 0 && !KeepsSchedules(s, running, load)) return false;
        // After its last preemption it waits until nothing can take its blocks again.
        if (s.IsProtected && running > 0 && free < s.WorstBlocks + GrowthOfRunning(live)) return false;
        // Blocks for all it has, and some left over for those who decode, or it would be the next to give them up
        // again.
        int blocks = Sequence.BlocksFor(s.Target, model.BlockSize);
        if (running == 0) return free >= blocks;
        int needed = blocks + 1 + (running / model.BlockSize);
        if (free < needed && free < LeastFree(s, needed, live)) return false;
        return _output == 0 || free >= PeakGrowth(live, RequestClass.Batch, s, out _);
    }

    /// <summary>Whether a waiting sequence would have a place, and time for its tokens, if those of lower classes gave
    /// way: where not, nobody gives way in vain. Blocks are not counted: those who run will ask for them soon. The
    /// engine thread.</summary>
    public bool CouldAdmit(Sequence s, LiveSequences live)
    {
        int stay = live.Running, places = live.FreePlaces;
        _visits += stay;
        long tpot = long.MaxValue;
        foreach (SequenceQueue queue in (ReadOnlySpan<SequenceQueue>)[live.Decoding, live.Prefilling])
        {
            for (Sequence? other = queue.First; other is not null; other = other.Next)
            {
                if (!IsGivenFor(s.Stream.Class, other))
                {
                    if (queue == live.Decoding && budget.TpotThatOthersKeep(other) is > 0 and var promised)
                        tpot = Math.Min(tpot, promised);
                    continue;
                }
                stay--;
                places++;
            }
        }
        if (places == 0) return false;
        if (stay == 0) return true;
        return tpot == long.MaxValue || HaveTime(stay + 1, s.Length, (double)tpot / Stopwatch.Frequency);
    }

    /// <summary>Whether a running sequence gives up what it has where one of a class needs it.</summary>
    private static bool IsGivenFor(RequestClass of, Sequence s) => s.Stream.Class > of && !s.IsProtected;

    /// <summary>Whether one more who decodes leaves those who run their time for each token. Where they leave it too
    /// little for its own, that is waived, or it would hold up all who wait behind it.</summary>
    private bool KeepsSchedules(Sequence s, int running, in StepLoad load)
    {
        if (options.Policy == SchedulingPolicy.Fcfs) return true;
        double context = load.Decodes == 0 ? s.Length : Math.Max(s.Length, load.DecodeContext / load.Decodes);
        s.IsTpotWaived = false;
        if (budget.LeastTpot is { } least && !HaveTime(running + 1, context, (double)least / Stopwatch.Frequency))
            return false;
        s.IsTpotWaived = budget.TpotOf(s) is > 0 and var own
            && !HaveTime(running + 1, context, (double)own / Stopwatch.Frequency);
        return true;
    }

    /// <summary>Whether a step of so many decodes takes no longer than a token may.</summary>
    private bool HaveTime(int count, double context, double tpot) =>
        times.Predict(new StepLoad(0, 0, 0, count, count * context)) <= budget.Margin * tpot;

    /// <summary>Seconds for a token that those who decode were promised, the shortest; where nobody decodes, that who
    /// asks for none is promised; infinite where nothing is.</summary>
    private double Tpot => options.Policy == SchedulingPolicy.Fcfs ? double.PositiveInfinity
        : budget.LeastTpot is { } ticks ? (double)ticks / Stopwatch.Frequency
        : options.ObjectiveOf(SliKind.Tpot, RequestClass.Online)?.TotalSeconds ?? double.PositiveInfinity;

    /// <summary>Free blocks that those who run, and one who starts, will need at most at a time, if outputs get as long
    /// as they did lately: what ends meanwhile gives its blocks to the others.</summary>
    /// <param name="live">Those who run.</param>
    /// <param name="of">The lowest class that counts.</param>
    /// <param name="starts">Who starts; null for nobody.</param>
    /// <param name="given">Blocks that those of lower classes give up.</param>
    private long PeakGrowth(LiveSequences live, RequestClass of, Sequence? starts, out long given)
    {
        Span<long> growth = stackalloc long[Horizons];
        growth.Clear();
        given = 0;
        if (starts is not null) AddGrowth(growth, starts);
        foreach (SequenceQueue queue in (ReadOnlySpan<SequenceQueue>)[live.Decoding, live.Prefilling])
        {
            for (Sequence? s = queue.First; s is not null; s = s.Next)
            {
                if (IsGivenFor(of, s)) given += s.BlockCount;
                else AddGrowth(growth, s);
            }
        }
        _visits += live.Running;
        long peak = 0;
        foreach (long then in growth) peak = Math.Max(peak, then);
        return peak;
    }

    /// <summary>Adds the blocks that a sequence will have more than now, at some times until all should have ended;
    /// less than now once it has.</summary>
    private void AddGrowth(Span<long> growth, Sequence s)
    {
        int n = s.Forks ? s.Stream.N : 1, output = s.Output.Count + s.Promised;
        int shared = s.Prompt.Length / model.BlockSize; // by the choices of a request, from the first on
        double left = Math.Min(s.Stream.Limit - output, Math.Max(_output - output, model.BlockSize));
        for (int i = 0; i < Horizons; i++)
        {
            double before = i * _output / Horizons, then = Math.Min(left, (i + 1) * _output / Horizons);
            if (left <= before) growth[i] -= s.Index == 0 ? s.BlockCount : Math.Max(0, s.BlockCount - shared);
            else
            {
                int blocks = Sequence.BlocksFor(s.Length + (int)then, model.BlockSize);
                growth[i] += shared + ((long)n * (blocks - shared)) - s.BlockCount;
            }
        }
    }

    /// <summary>Free blocks that a sequence needs to start, less those it shares with running ones. Counted again after
    /// some steps alone, so that waiting costs a step nothing.</summary>
    private static int LeastFree(Sequence s, int needed, LiveSequences live)
    {
        const int CountEvery = 32;
        if (live.Prefixes is null) return needed;
        if (s.LeastFree > 0 && --s.Recount > 0 && live.Pool.FreeCount < s.LeastFree) return s.LeastFree;
        s.Recount = CountEvery;
        return s.LeastFree = Math.Max(1, needed - live.Prefixes.CountShared(s));
    }

    /// <summary>Blocks that those who run can still ask for before they end.</summary>
    private long GrowthOfRunning(LiveSequences live)
    {
        long growth = 0;
        foreach (SequenceQueue queue in (ReadOnlySpan<SequenceQueue>)[live.Decoding, live.Prefilling])
        {
            for (Sequence? s = queue.First; s is not null; s = s.Next)
            {
                if (s.Forks)
                {
                    int full = s.Target / model.BlockSize;
                    growth += ((long)s.Stream.N * (s.WorstBlocks - full)) + full - s.BlockCount;
                    continue;
                }
                growth += s.WorstBlocks - s.BlockCount;
                int next = s.NumComputedTokens / model.BlockSize;
                if (next < s.BlockCount && live.Pool.References(s.BlockTable[next]) > 1) growth++; // to be copied
            }
        }
        return growth;
    }
}
