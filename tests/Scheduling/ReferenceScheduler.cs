using System.Diagnostics;
using Native.Kernels;
using Native.Scheduling;

namespace Native.Tests.Scheduling;

/// <summary>A request as the reference knows it: its objectives, and when each of its choices ends by itself.</summary>
internal sealed class ReferenceRequest
{
    public required TokenStream Stream { get; init; }

    public required int Prompt { get; init; }

    public required int Limit { get; init; }

    /// <summary>What each choice says in the end, by the <see cref="Oracle"/>.</summary>
    public required Oracle.Choice[] Says { get; init; }

    public required GenerationRequest Asked { get; init; }

    public required ReferenceShare Share { get; init; }

    public bool IsAdded { get; set; }

    public bool IsCancelled { get; set; }

    public HashSet<int> Stopped { get; } = [];

    public List<ReferenceSequence> Choices { get; } = [];

    public bool IsOver => Choices.TrueForAll(s => s.Finish != FinishReason.None);
}

/// <summary>What a tenant got in a class.</summary>
internal sealed class ReferenceShare(RequestClass of, double weight)
{
    public RequestClass Class => of;

    public double Weight => weight;

    public double Served { get; set; }

    /// <summary>Which of all times a share came to the line it last was.</summary>
    public int Since { get; set; }
}

internal sealed class ReferenceSequence(ReferenceRequest request, int index)
{
    public ReferenceRequest Request => request;

    public int Index => index;

    public (int Class, int Priority, long Due, long Order) Key { get; set; }

    public SequenceStage Stage { get; set; }

    public FinishReason Finish { get; set; }

    public List<int> Blocks { get; } = [];

    public bool Forks { get; set; }

    public int Output { get; set; }

    public int Promised { get; set; }

    public int Computed { get; set; }

    public int Charged { get; set; }

    public int InFlight { get; set; }

    public int Places { get; set; }

    public int Preemptions { get; set; }

    /// <summary>Whether its time for a token could not be had when it started.</summary>
    public bool IsTpotWaived { get; set; }

    /// <summary>Its output when it last got a place.</summary>
    public int OutputWhenPlaced { get; set; }

    /// <summary>Whether it waits for the second time.</summary>
    public bool IsPreempted { get; set; }

    public int Length => request.Prompt + Output + Promised;

    public int Target => Forks || request.Limit == 0 ? request.Prompt - 1 : Length;

    public bool IsRunning => Stage is SequenceStage.Decoding or SequenceStage.Prefilling;
}

/// <summary>Tokens <paramref name="Start"/> on, <paramref name="Count"/> of them.</summary>
internal sealed record ReferenceChunk(ReferenceSequence Sequence, int Start, int Count, bool Samples);

/// <summary>The scheduler's rules once more, as plain lists that are sorted and searched anew for every
/// decision.</summary>
/// <remarks>It covers everything but the prefix cache, constraints and NaN. What is learned of times is taken as it is:
/// what a step takes, how slow online requests are, how much of a promised time is planned for, and when a first token
/// came.</remarks>
internal sealed class ReferenceScheduler(
    ModelInfo model, EngineOptions options, long start, StepTimeModel times, StepBudget budget)
{
    private readonly List<ReferenceSequence> _sequences = []; // all that wait, run or leave
    private readonly List<ReferenceRequest> _inbox = [], _signalled = [], _requests = [];
    private readonly Dictionary<int, int> _readers = []; // of each block that is not free
    private readonly Dictionary<(string, RequestClass), ReferenceShare> _shares = [];
    private readonly double[] _floors = new double[2];
    private readonly List<List<ReferenceChunk>> _inFlight = [];
    private List<ReferenceChunk> _plan = [];
    private StepLoad _load;
    private double _time, _batchTime; // seconds that the step may take, and may take with batch work in it
    private bool _hasOnline;          // decodes
    private long _tpot = long.MaxValue, _tpotBefore = long.MaxValue; // shortest of this step's decodes, the last one's
    private int _blocks, _arrivals;
    private readonly List<double> _means = [0]; // tokens of the outputs that ended, after each
    private int _known;                         // of these, those from before the turn

    public bool LaunchFails { get; set; }

    public bool CollectFails { get; set; }

    /// <summary>Chunks cut for the step's time.</summary>
    public int Shortened { get; private set; }

    /// <summary>Sequences that gave way to another tenant's.</summary>
    public int Yielded { get; private set; }

    public int Free => model.BlockCount - _readers.Count;

    public int Places => _sequences.Sum(s => s.Places);

    public IReadOnlyList<ReferenceRequest> Requests => _requests;

    private bool IsFcfs => options.Policy == SchedulingPolicy.Fcfs;

    public ReferenceShare ShareOf(GenerationRequest asked)
    {
        (string, RequestClass) name = IsFcfs ? ("", RequestClass.Online) : (asked.Tenant, asked.Class);
        double weight = options.Tenants.FirstOrDefault(spec => !IsFcfs && spec.Name == asked.Tenant)?.Weight ?? 1;
        return _shares.TryGetValue(name, out ReferenceShare? known) ? known
            : _shares[name] = new ReferenceShare(name.Item2, weight);
    }

    public void Submit(ReferenceRequest request) => _inbox.Add(request);

    /// <summary>The reader cancelled or stopped; the last to say so is heard first.</summary>
    public void Signal(ReferenceRequest request)
    {
        if (!_signalled.Contains(request)) _signalled.Insert(0, request);
    }

    /// <summary>News, then a step. The chunks that the step has.</summary>
    public List<ReferenceChunk> Turn(long now)
    {
        _known = _means.Count - 1;
        foreach (ReferenceRequest request in _inbox) Add(request, now);
        foreach (ReferenceRequest request in _signalled) Apply(request);
        foreach (ReferenceRequest late in _requests
            .Where(r => !r.IsOver && now >= (r.Asked.Deadline ?? long.MaxValue)).OrderBy(r => r.Asked.Deadline))
            FinishAll(late, FinishReason.Deadline);
        _inbox.Clear();
        _signalled.Clear();
        _plan = [];
        if (!_sequences.Exists(s => s.Stage != SequenceStage.Leaving) && _inFlight.Count == 0) return _plan;
        Plan(now);
        if (_plan.Count > 0 && LaunchFails)
        {
            LaunchFails = false;
            Fail(_plan);
            return _plan;
        }
        if (_plan.Count > 0) _inFlight.Add(_plan);
        if (_plan.Count > 0 && _inFlight.Count < model.StepsInFlight) return _plan;
        List<List<ReferenceChunk>> through = CollectFails ? [.. _inFlight] : [_inFlight[0]];
        _inFlight.RemoveRange(0, through.Count);
        foreach (List<ReferenceChunk> step in through)
        {
            if (CollectFails) Fail(step);
            else foreach (ReferenceChunk chunk in step) Commit(chunk);
        }
        CollectFails = false;
        return _plan;
    }

    private void Add(ReferenceRequest request, long now)
    {
        GenerationRequest asked = request.Asked;
        bool forks = asked.Sampling.N > 1 && request.Prompt > 1;
        StepLoad whole = new(request.Prompt, request.Prompt * (request.Prompt + 1) / 2.0, 1, 0, 0);
        double alone = times.Predict(whole);
        RequestTimings clock = request.Stream.Timings;
        double due = Seconds(clock.Arrival - start) + (request.Stream.TtftTicks > 0
            ? Math.Max(Seconds(request.Stream.TtftTicks), 2 * alone)
            : Math.Min(60, Seconds(request.Stream.Deadline - clock.Arrival)) + (2 * alone));
        for (int i = 0; i < asked.Sampling.N; i++)
        {
            long order = (_requests.Count * 64L) + i;
            ReferenceSequence s = new(request, i)
            {
                Key = IsFcfs ? (0, 0, 0, order) : ((int)asked.Class, asked.Priority, (long)(due * 1e6), order),
                Forks = forks && i == 0,
            };
            request.Choices.Add(s);
            if (!forks || i == 0) Wait(s);
        }
        _requests.Add(request);
        request.IsAdded = true;
        if (now >= asked.Deadline && !request.IsCancelled) FinishAll(request, FinishReason.Deadline);
        else if (request.Limit == 0 && (asked.Sampling.PromptLogprobs is null || request.Prompt == 1))
            FinishAll(request, request.IsCancelled ? FinishReason.Cancelled : FinishReason.Length);
        else Apply(request);
    }

    private void Apply(ReferenceRequest request)
    {
        if (!request.IsAdded || request.IsOver) return;
        if (request.IsCancelled) FinishAll(request, FinishReason.Cancelled);
        foreach (ReferenceSequence s in request.Choices.Where(s => request.Stopped.Contains(s.Index)))
        {
            if (s.Finish != FinishReason.None) continue;
            Finish(s, FinishReason.Stop);
            if (!s.Forks) Leave(s); // one that computes the prompt for all goes on
        }
        if (request.IsOver) Leave(request.Choices[0]);
    }

    private void FinishAll(ReferenceRequest request, FinishReason reason)
    {
        foreach (ReferenceSequence s in request.Choices)
        {
            Leave(s);
            Finish(s, reason);
        }
    }

    private void Finish(ReferenceSequence s, FinishReason reason)
    {
        if (s.Finish != FinishReason.None) return;
        s.Finish = reason;
        if (s.Output > 0) _means.Add(_means[^1] + ((s.Output - _means[^1]) / Math.Min(_means.Count, 16)));
    }

    /// <summary>Decodes by key, then prompts under way and whoever may start.</summary>
    private void Plan(long now)
    {
        _load = default;
        _time = double.PositiveInfinity;
        _batchTime = IsFcfs ? double.PositiveInfinity : (options.TtftObjective?.TotalSeconds ?? 0.5) / 10;
        _hasOnline = false;
        (_tpotBefore, _tpot) = (_tpot, long.MaxValue);
        int held = int.MaxValue; // nobody of this class or a lower one is computed: the last of it is about to give way
        while (held == int.MaxValue && FirstWaiting is { } first && Victim is { } last
            && last.Key.Class > first.Key.Class && !MayStart(first) && CouldStart(first))
        {
            if (last.InFlight == 0) Preempt(last);
            else held = last.Key.Class;
        }

        ReferenceSequence? yields = held == int.MaxValue ? WhoYields : null;
        if (yields?.InFlight == 0) Yield(yields);
        bool evicted = false;
        ReferenceSequence? blocked = null;
        foreach (ReferenceSequence s in InOrder(SequenceStage.Decoding))
        {
            if (s.Stage != SequenceStage.Decoding || s.Key.Class >= held) continue;
            if (s == yields || !CanSample(s) || _load.Tokens == MaxTokens) continue;
            if (IsBatch(s) && _hasOnline && times.Predict(WithDecode(s.Length)) > _batchTime) continue;
            while (s.Stage == SequenceStage.Decoding && Free < BlocksForNext(s))
            {
                bool mayTake = Victim is { InFlight: 0 } victim
                    && (victim != s || (_plan.Count == 0 && _sequences.Count(other => other.IsRunning) > 1));
                if (!mayTake) break;
                Preempt(Victim!);
                evicted = true;
            }
            if (s.Stage != SequenceStage.Decoding) continue;
            if (Free < BlocksForNext(s))
            {
                blocked = s; // nobody behind it is computed
                break;
            }
            TakeNext(s);
            Promise(s, now);
            Compute(s, 1);
        }

        bool admits = !evicted && blocked is null && held == int.MaxValue;
        List<ReferenceSequence> prompts = [.. InOrder(SequenceStage.Prefilling)
            .Where(s => s.Key.Class < held && (blocked is null || s.Key.CompareTo(blocked.Key) < 0))];
        int left = MaxTokens - _load.Tokens;
        for (bool isSpent = false; left > 0 && !isSpent;)
        {
            IEnumerable<ReferenceSequence> head = admits && FirstWaiting is { } waiting ? [waiting] : [];
            ReferenceSequence? next = FirstOf([.. prompts, .. head]);
            if (next is null) break;
            if (next.Stage == SequenceStage.Waiting)
            {
                admits = MayStart(next);
                if (!admits) continue;
                Start(next);
            }
            prompts.Remove(next);
            bool waits = next.Target == next.Length && next.Request.Limit > 0 && !CanSample(next);
            int end = waits ? next.Target - 1 : next.Target;
            int most = Math.Min(end - next.Computed, left);
            if (most <= 0) continue;
            int count = Chunk(next, most);
            isSpent = count < most;
            Shortened += isSpent ? 1 : 0;
            left -= count;
            if (count > 0) Compute(next, count);
        }
    }

    /// <summary>Whose place the first of those who wait gets: the last of the tenant that has most for its weight, and
    /// as much without it as the first's then has. It has had its turn, and its tenant more than the first's will
    /// have.</summary>
    private ReferenceSequence? WhoYields
    {
        get
        {
            if (IsFcfs || FirstWaiting is not { } head) return null;
            double then = (PlacesOf(head.Request.Share) + 1) / head.Request.Share.Weight;
            ReferenceSequence? last = _sequences.Where(s => s.Stage == SequenceStage.Decoding)
                .Where(s => s.Request.Share != head.Request.Share && s.Key.Class == head.Key.Class)
                .Where(s => s.Preemptions < options.MaxPreemptions)
                .Where(s => s.Output - s.OutputWhenPlaced >= options.LeastTurn)
                .Where(s => Left(s) >= then && FirstOf([head, s]) == head)
                .OrderBy(Left).ThenBy(s => s.Key).LastOrDefault();
            return last is null || MayStart(head) || !MayStart(head, last) ? null : last;

            double Left(ReferenceSequence s) => (PlacesOf(s.Request.Share) - 1) / s.Request.Share.Weight;
        }
    }

    private int PlacesOf(ReferenceShare share) => _sequences.Where(s => s.Request.Share == share).Sum(s => s.Places);

    /// <summary>By class, then of each tenant its first by key: the one whose tenant will have got least when that is
    /// through. All by key where nobody is told apart.</summary>
    private ReferenceSequence? FirstOf(List<ReferenceSequence> prompts) => IsFcfs ? prompts.MinBy(s => s.Key)
        : prompts.GroupBy(s => s.Request.Share).Select(own => own.MinBy(s => s.Key)!)
            .OrderBy(s => s.Key.Class).ThenBy(ServedBy).ThenBy(s => s.Key).FirstOrDefault();

    /// <summary>Prompt tokens to compute: all of a prompt that is new.</summary>
    private static double Left(ReferenceSequence s) => s.Stage == SequenceStage.Waiting && !s.IsPreempted
        ? s.Request.Prompt : s.Target - s.Computed;

    private int MaxTokens => Math.Min(options.MaxBatchedTokens, model.MaxBatchedTokens);

    /// <summary>The longest chunk with which the step stays within its time; a block's worth of the first prompt,
    /// unless it is batch work beside online streams.</summary>
    private int Chunk(ReferenceSequence s, int most)
    {
        double time = IsBatch(s) ? Math.Min(_time, _batchTime) : _time;
        if (double.IsPositiveInfinity(time)) return most;
        int count = most;
        while (count > 0 && times.Predict(With(s.Computed, count)) > time) count--;
        if (_load.PrefillTokens > 0 || (IsBatch(s) && _hasOnline)) return count;
        return Math.Max(count, Math.Min(most, Math.Min(model.BlockSize, MaxTokens)));
    }

    private static bool IsBatch(ReferenceSequence s) => s.Request.Asked.Class == RequestClass.Batch;

    private StepLoad WithDecode(int context) =>
        _load with { Decodes = _load.Decodes + 1, DecodeContext = _load.DecodeContext + context };

    private StepLoad With(int from, int count) => _load with
    {
        PrefillTokens = _load.PrefillTokens + count,
        PrefillAttention = _load.PrefillAttention + Enumerable.Range(from + 1, count).Sum(keys => (double)keys),
        Chunks = _load.Chunks + 1,
    };

    /// <summary>The step is over before the next token of each who decodes in it is due: the first token's time, or
    /// when that was due where it was late, and one TPOT for each token since.</summary>
    private void Promise(ReferenceSequence s, long now)
    {
        if (IsFcfs) return;
        long tpot = TpotOf(s), ttft = s.Request.Stream.TtftTicks;
        RequestTimings clock = s.Request.Stream.Timings;
        long first = clock.FirstToken > 0 ? clock.FirstToken : now;
        if (!IsBatch(s))
        {
            // Batch work may make it nearly as slow as the slowest of a hundred are without.
            double left = (0.95 * budget.SlowOnline * (s.Output + s.Promised)) - Seconds(now - first);
            _batchTime = _hasOnline ? Math.Min(_batchTime, left) : left;
            _hasOnline = true;
        }
        if (tpot == 0) return;
        if (TpotThatOthersKeep(s) > 0) _tpot = Math.Min(_tpot, tpot);
        if (ttft > 0) first = Math.Min(first, clock.Arrival + ttft);
        long due = Math.Max(first + ((s.Output + s.Promised) * tpot) - now, tpot); // who is late shortens no step
        if (ttft > 0) due = Math.Min(due, Math.Max(tpot, ttft / 4)); // who comes new waits for it
        _time = Math.Min(_time, budget.Margin * due / Stopwatch.Frequency);
    }

    /// <summary>What it was promised for a token after the first, where four could keep that together.</summary>
    private long TpotOf(ReferenceSequence s, int few = 4)
    {
        long ticks = s.Request.Limit > 1 && !s.IsTpotWaived ? s.Request.Stream.TpotTicks : 0;
        double together = times.Predict(new StepLoad(0, 0, 0, few, (double)few * s.Length));
        return together <= budget.Margin * ((double)ticks / Stopwatch.Frequency) ? ticks : 0;
    }

    /// <summary>The same as far as others wait for a place for its sake: of what it asks for beyond what all are
    /// promised, where a quarter of all could keep it.</summary>
    private long TpotThatOthersKeep(ReferenceSequence s) =>
        TpotOf(s, s.Request.Asked.TpotObjective is { } own && !(own >= options.TpotObjective)
            ? Math.Max(4, options.MaxRunning / 4) : 4);

    private ReferenceSequence? FirstWaiting => FirstWaitingOf(RequestClass.Online)
        ?? FirstWaitingOf(RequestClass.Batch);

    /// <summary>Of each tenant the first by key: the one whose tenant will have got least when it is through, the one
    /// that came first where two will have the same.</summary>
    private ReferenceSequence? FirstWaitingOf(RequestClass of) => _sequences
        .Where(s => s.Stage == SequenceStage.Waiting && s.Request.Share.Class == of)
        .GroupBy(s => s.Request.Share).Select(own => own.MinBy(s => s.Key)!)
        .OrderBy(ServedBy).ThenBy(s => s.Request.Share.Since).FirstOrDefault();

    private static double ServedBy(ReferenceSequence s) =>
        s.Request.Share.Served + (Left(s) / s.Request.Share.Weight);

    /// <summary>Of those who run and may lose their blocks, the last.</summary>
    private ReferenceSequence? Victim =>
        _sequences.Where(s => s.IsRunning && s.Preemptions < options.MaxPreemptions).MaxBy(s => s.Key);

    private List<ReferenceSequence> InOrder(SequenceStage stage) =>
        [.. _sequences.Where(s => s.Stage == stage).OrderBy(s => s.Key)];

    /// <summary>A token can't be chosen before one that is promised is known, where it depends on it.</summary>
    private static bool CanSample(ReferenceSequence s) => s.Output + s.Promised < s.Request.Limit
        && (s.Promised == 0 || !s.Request.Asked.Sampling.HasPenalties);

    private bool MayStart(ReferenceSequence s, ReferenceSequence? without = null)
    {
        int gone = without is null ? 0 : 1;
        if (Places - gone == options.MaxRunning) return false;
        int running = _sequences.Count(other => other.IsRunning) - gone, blocks = BlocksFor(s.Target);
        int free = Free + (without?.Blocks.Count(block => _readers[block] == 1) ?? 0);
        if (running == 0) return free >= blocks;
        if (!IsFcfs)
        {
            long promised = Math.Min(_tpot, _tpotBefore);
            s.IsTpotWaived = false;
            if (promised < long.MaxValue && !HaveTime(promised)) return false;
            s.IsTpotWaived = TpotOf(s) is > 0 and var own && !HaveTime(own);
        }
        bool isProtected = s.Preemptions >= options.MaxPreemptions;
        if (isProtected && free < Worst(s) + _sequences.Where(other => other.IsRunning).Sum(Growth)) return false;
        if (free < blocks + 1 + (running / model.BlockSize)) return false;
        return _known < 16 || Enumerable.Range(0, 8).All(eighth => free >= _sequences
            .Where(other => other.IsRunning || other == s).Sum(other => GrowthBy(other, eighth)));

        bool HaveTime(long tpot)
        {
            double context = _load.Decodes == 0 ? s.Length : Math.Max(s.Length, _load.DecodeContext / _load.Decodes);
            return times.Predict(new StepLoad(0, 0, 0, running + 1, (running + 1) * context))
                <= budget.Margin * ((double)tpot / Stopwatch.Frequency);
        }
    }

    /// <summary>Whether it could start with all of lower classes gone that may go.</summary>
    private bool CouldStart(ReferenceSequence s)
    {
        ILookup<bool, ReferenceSequence> go = _sequences.Where(other => other.IsRunning).ToLookup(
            other => other.Key.Class > s.Key.Class && other.Preemptions < options.MaxPreemptions);
        if (Places - go[true].Sum(other => other.Places) == options.MaxRunning) return false;
        if (!go[false].Any()) return true;
        long tpot = go[false].Where(other => other.Stage == SequenceStage.Decoding)
            .Select(TpotThatOthersKeep).Where(ticks => ticks > 0).DefaultIfEmpty().Min();
        int count = go[false].Count() + 1;
        return tpot == 0 || times.Predict(new StepLoad(0, 0, 0, count, (double)count * s.Length))
            <= budget.Margin * ((double)tpot / Stopwatch.Frequency);
    }

    /// <summary>Blocks that a sequence has more than now, or less, by the end of that eighth of a mean
    /// output.</summary>
    private int GrowthBy(ReferenceSequence s, int eighth)
    {
        int n = s.Forks ? s.Request.Asked.Sampling.N : 1, shared = s.Request.Prompt / model.BlockSize;
        int output = s.Output + s.Promised;
        double mean = _means[_known];
        double left = Math.Min(s.Request.Limit - output, Math.Max(mean - output, model.BlockSize));
        if (left <= eighth * mean / 8) return s.Index == 0 ? -s.Blocks.Count : -Math.Max(0, s.Blocks.Count - shared);
        int then = s.Length + (int)Math.Min(left, (eighth + 1) * mean / 8);
        return shared + (n * (BlocksFor(then) - shared)) - s.Blocks.Count;
    }

    private int Worst(ReferenceSequence s) => BlocksFor(s.Request.Prompt + Math.Max(s.Request.Limit - 1, 0));

    /// <summary>Blocks it can still ask for.</summary>
    private int Growth(ReferenceSequence s)
    {
        int full = s.Target / model.BlockSize;
        if (s.Forks) return (s.Request.Asked.Sampling.N * (Worst(s) - full)) + full - s.Blocks.Count;
        return Worst(s) - s.Blocks.Count + (IsNextShared(s) ? 1 : 0);
    }

    private bool IsNextShared(ReferenceSequence s) => s.Computed / model.BlockSize < s.Blocks.Count
        && _readers[s.Blocks[s.Computed / model.BlockSize]] > 1;

    private int BlocksFor(int tokens) => (tokens + model.BlockSize - 1) / model.BlockSize;

    private int BlocksForNext(ReferenceSequence s) =>
        s.Computed / model.BlockSize == s.Blocks.Count || IsNextShared(s) ? 1 : 0;

    /// <summary>A block of its own for its next token.</summary>
    private void TakeNext(ReferenceSequence s)
    {
        if (BlocksForNext(s) == 0) return;
        if (IsNextShared(s)) GiveBackLast(s); // the one that others read is the last
        Take(s, _blocks++);
    }

    private void Take(ReferenceSequence s, int block)
    {
        s.Blocks.Add(block);
        _readers[block] = _readers.GetValueOrDefault(block) + 1;
    }

    private void GiveBackLast(ReferenceSequence s)
    {
        int block = s.Blocks[^1];
        s.Blocks.RemoveAt(s.Blocks.Count - 1);
        if (--_readers[block] == 0) _readers.Remove(block);
    }

    private void Wait(ReferenceSequence s)
    {
        ReferenceShare share = s.Request.Share;
        if (!IsInLine(share))
        {
            share.Served = Math.Max(share.Served, FloorOf(share.Class));
            share.Since = _arrivals++;
        }
        s.Stage = SequenceStage.Waiting;
        if (!_sequences.Contains(s)) _sequences.Add(s);
    }

    private void EndWait(ReferenceSequence s)
    {
        s.Stage = SequenceStage.None;
    }

    /// <summary>Virtual time: where nobody waits, what the one has got that got most.</summary>
    private double FloorOf(RequestClass of)
    {
        double? most = _sequences.Where(s => s.IsRunning && s.Request.Share.Class == of)
            .Max(s => (double?)s.Request.Share.Served);
        if (FirstWaitingOf(of) is null) _floors[(int)of] = Math.Max(_floors[(int)of], most ?? 0);
        return _floors[(int)of];
    }

    /// <summary>While somebody waits, virtual time goes on by what is served, for the weights of all who are
    /// there.</summary>
    private void Advance(RequestClass of, double served)
    {
        if (FirstWaitingOf(of) is null) return;
        _floors[(int)of] += served / (_requests.Where(r => !r.IsOver && r.Share.Class == of)
            .Select(r => r.Share).Distinct().Sum(share => (long)Math.Round(1e6 * share.Weight)) / 1e6);
    }

    private void GiveUpPlace(ReferenceSequence s)
    {
        if (s.Places == 0) return;
        s.Places = 0;
        RequestClass of = s.Request.Share.Class;
        if (FirstWaitingOf(of) is null) _floors[(int)of] = Math.Max(_floors[(int)of], s.Request.Share.Served);
    }

    private bool IsInLine(ReferenceShare share) =>
        _sequences.Exists(s => s.Stage == SequenceStage.Waiting && s.Request.Share == share);

    private void Start(ReferenceSequence s)
    {
        EndWait(s);
        s.Stage = SequenceStage.Prefilling;
        s.Places = 1;
        s.OutputWhenPlaced = s.Output;
        while (s.Blocks.Count < BlocksFor(s.Target)) Take(s, _blocks++);
    }

    private void Compute(ReferenceSequence s, int count)
    {
        int end = s.Computed + count;
        bool samples = end == s.Length && s.Request.Limit > 0;
        _plan.Add(new ReferenceChunk(s, s.Computed, count, samples));
        _load = s.Stage == SequenceStage.Decoding
            ? WithDecode(end) : With(s.Computed, count);
        // A generated token counts as two of a prompt; what is computed again counts nothing.
        int prompt = Math.Max(0, Math.Min(end, s.Request.Prompt) - Math.Max(s.Computed, s.Charged));
        double cost = prompt + (samples ? 2 : 0);
        s.Request.Share.Served += cost / s.Request.Share.Weight;
        Advance(s.Request.Share.Class, cost);
        s.Charged = Math.Max(s.Charged, end);
        s.Computed = end;
        s.InFlight++;
        if (!samples) return;
        s.Promised++;
        s.Stage = SequenceStage.Decoding;
    }

    private void Commit(ReferenceChunk chunk)
    {
        ReferenceSequence s = chunk.Sequence;
        if (Land(chunk)) return;
        if (chunk.Samples)
        {
            Oracle.Choice says = s.Request.Says[s.Index];
            if (++s.Output < says.Tokens.Length) return;
            Finish(s, says.Finish);
            Leave(s);
        }
        else if (chunk.Start + chunk.Count < s.Target) return;
        else if (s.Request.Limit == 0) FinishAll(s.Request, FinishReason.Length);
        else if (s.Forks) Fork(s);
    }

    private void Fail(List<ReferenceChunk> step)
    {
        foreach (ReferenceChunk chunk in step)
        {
            ReferenceSequence s = chunk.Sequence;
            if (Land(chunk) || s.Stage == SequenceStage.None) continue;
            if (s.Forks) FinishAll(s.Request, FinishReason.Error);
            Finish(s, FinishReason.Error);
            Leave(s);
        }
    }

    /// <summary>A step no longer has it.</summary>
    /// <returns>Whether it was over already.</returns>
    private bool Land(ReferenceChunk chunk)
    {
        ReferenceSequence s = chunk.Sequence;
        if (chunk.Samples) s.Promised--;
        s.InFlight--;
        if (s.Stage != SequenceStage.Leaving) return false;
        if (s.InFlight == 0) Release(s);
        return true;
    }

    private void Fork(ReferenceSequence parent)
    {
        parent.Forks = false;
        GiveUpPlace(parent);
        foreach (ReferenceSequence s in parent.Request.Choices.Where(s => s.Finish == FinishReason.None))
        {
            if (Places == options.MaxRunning) // it waits for one, and computes the prompt again
            {
                s.Charged = parent.Computed;
                s.IsPreempted = true;
                Wait(s);
                continue;
            }
            if (s != parent)
            {
                foreach (int block in parent.Blocks) Take(s, block);
                s.Computed = parent.Computed;
                _sequences.Add(s);
            }
            s.Stage = SequenceStage.Decoding;
            s.Places = 1;
            s.OutputWhenPlaced = s.Output;
        }
        if (parent.Finish != FinishReason.None) Release(parent);
    }

    private void Preempt(ReferenceSequence s)
    {
        Suspend(s);
        s.Preemptions++;
    }

    private void Yield(ReferenceSequence s)
    {
        Suspend(s);
        Yielded++;
    }

    private void Suspend(ReferenceSequence s)
    {
        Release(s);
        s.IsPreempted = true;
        Wait(s);
    }

    private void Leave(ReferenceSequence s)
    {
        if (s.Stage == SequenceStage.Waiting) EndWait(s);
        if (s.Stage == SequenceStage.Leaving) return;
        if (s.InFlight > 0) s.Stage = SequenceStage.Leaving;
        else Release(s);
    }

    private void Release(ReferenceSequence s)
    {
        while (s.Blocks.Count > 0) GiveBackLast(s);
        s.Computed = 0;
        GiveUpPlace(s);
        s.Stage = SequenceStage.None;
        _sequences.Remove(s);
    }

    private static double Seconds(long ticks) => (double)ticks / Stopwatch.Frequency;
}
