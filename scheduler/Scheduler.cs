using System.Diagnostics;
using Native.Kernels;
using Native.Kernels.Sampling;

namespace Native.Scheduling;

/// <summary>Decides what each step computes (iteration-level scheduling, Yu et al. 2022, Orca). The engine thread's
/// alone.</summary>
/// <remarks>
/// Who decodes stands in the order of the sequences' keys, the prompts of a tenant likewise, tenants share the steps
/// (<see cref="Ordering"/>), and who waits stands by class and tenant before its key (<see cref="WaitingLine"/>). The
/// last with blocks gives them up first. Where the key is the arrival, nobody overtakes: the first of those with blocks
/// is computed in every step, and whoever waits becomes the first after at most the sum, over those before it, of
/// ceil(length / budget) + tokens generated steps. A waiting sequence takes blocks and places from running ones of a
/// lower class alone. A preempted sequence goes back to its place in the line, and is computed again from its first
/// token on: prompt and output so far, then the next token drawn with the same (seed, position), so its bits are the
/// same. After <see cref="EngineOptions.MaxPreemptions"/> of them it comes back only once what it and all who run can
/// ever need is free; the others give way before it, so it is never preempted again. That is the bound. Steps may be
/// planned while earlier ones are in flight: a sequence then goes on from a token that is promised, not known, unless
/// the next row needs to know it; and a sequence that ends keeps its blocks until the last step that has it is through.
/// </remarks>
internal sealed class Scheduler
{
    private readonly LiveSequences _live;
    private readonly Admission _admission;
    private readonly Ending _ending;
    private readonly EngineMetrics _metrics;
    private readonly StepBudget _budget;
    private readonly Ordering _order;
    private readonly int[] _endIds;
    private readonly int _blockSize;
    private readonly ulong _seed;
    private int _dequeued;
    private long _requests;
    private long _visits;
    private long _turn, _searches; // steps whose prompts were planned, and times the next was looked for

    /// <summary>Starts without sequences.</summary>
    /// <param name="live">The sequences' stages, blocks and places.</param>
    /// <param name="admission">Who comes in.</param>
    /// <param name="metrics">What is counted.</param>
    /// <param name="budget">How much a step may compute.</param>
    /// <param name="order">Whose turn it is.</param>
    /// <param name="endIds">Ids that end a choice.</param>
    /// <param name="blockSize">Tokens a block.</param>
    /// <param name="seed">Where the seeds of requests that bring none come from.</param>
    public Scheduler(
        LiveSequences live, Admission admission, EngineMetrics metrics, StepBudget budget, Ordering order,
        IReadOnlyCollection<int> endIds, int blockSize, ulong seed)
    {
        _live = live;
        _admission = admission;
        _metrics = metrics;
        _ending = new Ending(live, metrics, admission, blockSize);
        _budget = budget;
        _order = order;
        _endIds = [.. endIds];
        _blockSize = blockSize;
        _seed = seed;
        Plan = new StepPlan(0);
    }

    /// <summary>What was planned last.</summary>
    public StepPlan Plan { get; private set; }

    public LiveSequences Live => _live;

    public BlockPool Pool => _live.Pool;

    /// <summary>How much a step may compute.</summary>
    public StepBudget Budget => _budget;

    public bool HasWork => _live.Any;

    /// <summary>Whether prompts that have begun are left to compute.</summary>
    public bool ComputesPrompts => _live.Prefilling.Count > 0;

    /// <summary>What is known of those who ended.</summary>
    public Ending Ending => _ending;

    /// <summary>Sequences, deadlines and heap entries looked at so far: what the turns cost beside the model.</summary>
    public long Visits => _visits + _ending.Visits + _live.Visits + _admission.Visits;

    /// <summary>Requests that had their first step, or ended without one, since last asked.</summary>
    public int TakeDequeued()
    {
        int count = _dequeued + _ending.NeverScheduled;
        _dequeued = _ending.NeverScheduled = 0;
        return count;
    }

    public string? CheckIntegrity() => _live.CheckIntegrity();

    /// <summary>Puts a request into the line.</summary>
    public void Add(TokenStream stream, long now)
    {
        ulong number = (ulong)_requests++;
        ulong seed = stream.Sampling.Seed ?? Sequence.SeedOf(unchecked(_seed + number * 0xD1342543DE82EF95), 1);
        bool forks = stream.N > 1 && stream.Prompt.Length > 1; // a prompt of one token leaves nothing to share
        stream.IsAdded = true;
        _admission.Tenants.Begin(stream.Share);
        foreach (Sequence s in stream.Sequences)
        {
            s.Key = _order.KeyOf(stream, (long)number, s.Index);
            s.Seed = Sequence.SeedOf(seed, s.Index);
            s.Forks = forks && s.Index == 0;
            if (!forks || s.Index == 0) _live.Wait(s);
        }
        _ending.Add(stream, now);
    }

    /// <summary>Ends what a reader cancelled or stopped.</summary>
    public void Apply(TokenStream stream, long now) => _ending.Apply(stream, now);

    /// <summary>Ends everyone whose deadline has passed.</summary>
    public void Expire(long now) => _ending.Expire(now);

    /// <summary>Plans one step: decodes first, then prefill chunks under what is left of the budget, then
    /// admissions.</summary>
    public void Step(StepPlan plan, long now)
    {
        plan.Begin(now);
        _budget.Begin();
        Plan = plan;
        bool preempted = false;
        UInt128 blocked = Displace(); // the key of the one that waits for blocks; nobody behind it is planned
        Sequence? yields = blocked == UInt128.MaxValue ? Yield() : null;

        Sequence? next = _live.Decoding.First;
        while (next is { } s && s.Key < blocked && plan.Tokens < _budget.Decodes)
        {
            _visits++;
            if (s == yields || !CanSample(plan, s) || !_budget.HasTime(s, plan.Load))
            {
                next = s.Next;
                continue;
            }
            if (TryMakeRoom(plan, s, ref preempted))
            {
                _budget.Add(s, now);
                Schedule(plan, s, 1, decodes: true);
                next = s.Next;
            }
            else if (s.Stage == SequenceStage.Decoding)
            {
                blocked = s.Key;
                break;
            }
            else next = _live.Decoding.First; // it gave way itself, and nobody is planned yet
        }

        // A step that evicts admits nobody, or the victim would come straight back and evict again.
        PlanPrompts(plan, blocked, admits: !preempted && blocked == UInt128.MaxValue, now);
    }

    /// <summary>Gives what is left of a step to prompts: those under way, and those that may start.</summary>
    /// <param name="plan">The step.</param>
    /// <param name="blocked">Nobody from this key on is planned.</param>
    /// <param name="admits">Whether anybody may start.</param>
    /// <param name="now">When.</param>
    private void PlanPrompts(StepPlan plan, UInt128 blocked, bool admits, long now)
    {
        int budget = _budget.Prefill(plan.Tokens);
        _turn++;
        while (budget > 0 && NextPrompt(blocked, admits ? _live.FirstWaiting : null) is { } s)
        {
            if (s.Stage == SequenceStage.Waiting)
            {
                admits = _admission.Admits(s, _live, plan.Load); // no other starts before one that can't
                if (!admits) continue;
                Admit(plan, s, now);
                plan.Admitted = true;
            }
            s.Turn = _turn;
            budget -= SchedulePrompt(plan, s, budget);
            if (_budget.IsSpent) return;
        }
    }

    /// <summary>Of each tenant the first whose turn in this step is still to come, and of these the first.</summary>
    /// <param name="blocked">Nobody under way from this key on is planned.</param>
    /// <param name="head">The first of those that wait; null where nobody may start.</param>
    private Sequence? NextPrompt(UInt128 blocked, Sequence? head)
    {
        Sequence? best = null;
        _searches++;
        for (Sequence? s = _live.Prefilling.First; s is not null && s.Key < blocked; s = s.Next)
        {
            _visits++;
            Share share = s.Stream.Share;
            if (s.Turn == _turn || share.Search == _searches) continue;
            share.Search = _searches;
            Sequence first = head?.Stream.Share == share && head.Key < s.Key ? head : s;
            if (best is null || _order.IsBefore(first, best)) best = first;
        }
        if (head is null || head.Stream.Share.Search == _searches) return best;
        return best is null || _order.IsBefore(head, best) ? head : best;
    }

    /// <summary>Takes blocks and places from running sequences of a lower class, the last first, until the first of
    /// those who wait can start. Where a step in flight has the last one, no step has that class until it is
    /// through.</summary>
    /// <returns>Nobody from this key on is planned.</returns>
    private UInt128 Displace()
    {
        bool helps = false;
        while (_live.FirstWaiting is { } head && _live.Victim is { } victim
            && Ordering.IsLowerClass(victim.Key, head.Key) && !_admission.Admits(head, _live, default))
        {
            helps = helps || _admission.CouldAdmit(head, _live);
            if (!helps) break;
            if (victim.InFlight > 0) return Ordering.FirstOfClass(victim.Key);
            Preempt(victim);
        }
        return UInt128.MaxValue;
    }

    /// <summary>Lets the first of those who wait have the place of one who decodes, where that one's tenant has more
    /// than its part of them and the first can't start otherwise: long answers hold up nobody else's.</summary>
    /// <returns>Who gives way once the step in flight that has it is through; null for nobody.</returns>
    private Sequence? Yield()
    {
        if (!_order.TellsTenantsApart || _live.FirstWaiting is not { } head || head.Stream.Share is not { } share
            || share.Running == _live.RunningOf(share.Class)) return null;
        Sequence? last = null;
        double most = (share.Running + 1) / share.Weight; // with one less, whoever gives way still has as much
        for (Sequence? s = _live.Decoding.First; s is not null; s = s.Next)
        {
            _visits++;
            Share other = s.Stream.Share;
            double left = (other.Running - 1) / other.Weight;
            if (other == share || other.Class != share.Class || left < most || s.IsProtected
                || s.Output.Count - s.OutputWhenPlaced < _admission.LeastTurn || !_order.IsBefore(head, s)) continue;
            (last, most) = (s, left);
        }
        if (last is null || _admission.Admits(head, _live, default) || !_admission.Admits(head, _live, default, last))
            return null;
        if (last.InFlight > 0) return last;
        Suspend(last);
        return null;
    }

    /// <summary>A slot for a decode's token, from those behind it where the pool has none.</summary>
    /// <returns>False where it waits with its blocks: for one before it to end, or for the step in flight that has the
    /// last one's blocks. False, too, where it gave up its own, because all others are protected and nobody before it
    /// is computed.</returns>
    private bool TryMakeRoom(StepPlan plan, Sequence s, ref bool preempted)
    {
        while (!TryReserveNext(plan, s))
        {
            if (_live.Victim is not { InFlight: 0 } victim) return false;
            if (victim == s && (!plan.IsEmpty || _live.Running == 1)) return false;
            Preempt(victim);
            preempted = true;
            if (victim == s) return false;
        }
        return true;
    }

    /// <summary>Takes in what a step gave: appends tokens, ends and forks sequences. Publishes, but wakes
    /// nobody.</summary>
    public void Commit(
        StepPlan plan, ReadOnlySpan<SampledToken> sampled, ReadOnlySpan<TokenLogprob> alternatives, long now)
    {
        int row = 0, alternative = 0;
        foreach (ref readonly ScheduledChunk chunk in plan.Chunks)
        {
            _visits++;
            Sequence s = chunk.Sequence;
            TokenStream stream = s.Stream;
            int scoreWidth = stream.Sampling.PromptLogprobs ?? 0, width = stream.Sampling.Logprobs ?? 0;
            ReadOnlySpan<SampledToken> scores = sampled.Slice(row, chunk.ScoreCount);
            ReadOnlySpan<TokenLogprob> scoreBest = alternatives.Slice(alternative, chunk.ScoreCount * scoreWidth);
            row += chunk.ScoreCount;
            alternative += scoreBest.Length;
            SampledToken next = default;
            ReadOnlySpan<TokenLogprob> best = default;
            if (chunk.Samples)
            {
                next = sampled[row++];
                best = alternatives.Slice(alternative, width);
                alternative += width;
            }

            bool over = s.Stage == SequenceStage.Leaving;
            Land(chunk);
            if (over) continue; // it ended while the step was in flight
            if (chunk.Samples && next.Token < 0) s.IsDistrusted = true;
            else Keep(s, chunk.End);
            if (!TakeScores(stream, scores, scoreBest, scoreWidth)) _ending.FinishAll(stream, FinishReason.Error, now);
            else if (chunk.Samples) CommitToken(s, next, best, plan.OnlineSeconds, now);
            else if (chunk.End < s.Target) continue;
            else if (stream.Limit == 0) _ending.FinishAll(stream, FinishReason.Length, now);
            else if (s.Forks) Fork(s);
        }
        Debug.Assert(row == sampled.Length, "every sampled row has been taken in");
    }

    /// <summary>Ends the sequences of a step that failed.</summary>
    public void Fail(StepPlan plan, long now)
    {
        foreach (ref readonly ScheduledChunk chunk in plan.Chunks)
        {
            Sequence s = chunk.Sequence;
            bool over = s.Stage == SequenceStage.Leaving;
            Land(chunk);
            if (over || s.Stage == SequenceStage.None) continue;
            if (s.Forks) _ending.FinishAll(s.Stream, FinishReason.Error, now);
            else _ending.Finish(s, FinishReason.Error, now);
        }
        foreach (BlockCopy copy in plan.Copies) TakeBack(copy.Destination);
    }

    /// <summary>Lets a sequence start anew that has a block which was not copied. It was let in and had no time for a
    /// token yet, or the step would have ended it.</summary>
    private void TakeBack(int block)
    {
        for (Sequence? s = _live.Prefilling.First; s is not null; s = s.Next)
        {
            if (s.InFlight > 0 || !s.BlockTable.AsSpan(0, s.BlockCount).Contains(block)) continue;
            s.Landed = s.CachedBlocks * _blockSize; // what is in the others is kept
            _live.Preempt(s);
            return;
        }
    }

    /// <summary>Ends everyone.</summary>
    public void FinishEveryone(FinishReason reason, long now) => _ending.FinishEveryone(reason, now);

    /// <summary>Ends everyone and frees every block without trusting who has which: after a contradiction nothing else
    /// is known to be safe.</summary>
    /// <param name="launched">The steps that were in flight and are forgotten.</param>
    /// <param name="now">When.</param>
    public void FailEveryone(ReadOnlySpan<StepPlan> launched, long now)
    {
        foreach (StepPlan plan in launched)
            foreach (ref readonly ScheduledChunk chunk in plan.Chunks)
                chunk.Sequence.InFlight = chunk.Sequence.Promised = 0;
        _live.Abandon();
        _ending.FinishEveryone(FinishReason.Error, now);
    }

    /// <summary>Shows the gauges what there is.</summary>
    public void UpdateGauges()
    {
        _metrics.Running = _live.Running;
        _metrics.Waiting = _live.WaitingCount;
        _metrics.FreeBlocks = _live.Pool.FreeCount;
        _metrics.EvictedBlocks = _live.Pool.Evictions;
        _metrics.CachedBlocks = _live.Pool.Cache?.Count ?? 0;
    }

    /// <summary>Plans as much of a prompt as fits; all but its last token where that can't be sampled from
    /// yet.</summary>
    /// <returns>Tokens planned.</returns>
    private int SchedulePrompt(StepPlan plan, Sequence s, int budget)
    {
        _visits++;
        int target = s.Target;
        if (target == s.Length && s.Stream.Limit > 0 && !CanSample(plan, s)) target--;
        int count = Math.Min(target - s.NumComputedTokens, budget);
        if (count > 0) count = _budget.Fit(s, plan.Load, count);
        if (count <= 0) return 0;
        Schedule(plan, s, count, decodes: false);
        return count;
    }

    /// <summary>Whether a sequence's next token can be computed and chosen in this step.</summary>
    /// <remarks>A row with penalties or a constraint needs every token before it; a promised one is not known
    /// yet.</remarks>
    private static bool CanSample(StepPlan plan, Sequence s)
    {
        if (s.Output.Count + s.Promised >= s.Stream.Limit) return false;
        if (s.Promised > 0) return s.Constraint is null && !s.Stream.Sampling.HasPenalties;
        if (s.Constraint is null || s.ConstraintFailed || IsReady(s)) return true;
        plan.AwaitsMask = true;
        return false;
    }

    /// <summary>Asks the constraint. One that throws ends its own choice alone, with the next token, which is not
    /// taken.</summary>
    private static bool IsReady(Sequence s)
    {
        try
        {
            return s.Constraint!.IsReady;
        }
        catch (Exception)
        {
            return s.ConstraintFailed = true;
        }
    }

    private void Schedule(StepPlan plan, Sequence s, int count, bool decodes)
    {
        int start = s.NumComputedTokens, end = start + count;
        bool samples = end == s.Length && s.Stream.Limit > 0;
        int scoreStart = 0, scoreCount = 0;
        if (s.Stream.Sampling.PromptLogprobs is not null && s.Stream.Scored < s.Prompt.Length - 1)
        {
            // Row p scores prompt token p + 1. Rows scored before a preemption are not scored again.
            scoreStart = Math.Max(start, s.Stream.Scored);
            scoreCount = Math.Max(0, Math.Min(end, s.Prompt.Length - 1) - scoreStart);
        }
        plan.Add(new ScheduledChunk(s, start, count, scoreStart, scoreCount, samples), decodes);
        // What is computed again after a preemption is on nobody's account.
        int prompt = Math.Max(0, Math.Min(end, s.Prompt.Length) - Math.Max(start, s.Charged));
        s.Charged = Math.Max(s.Charged, end);
        Share share = s.Stream.Share;
        double cost = share.Charge(prompt, samples ? 1 : 0), weights = _admission.Tenants.WeightOf(share.Class);
        if (weights > 0) _live.Advance(share.Class, cost / weights);
        s.NumComputedTokens = end;
        s.InFlight++;
        if (!samples) return;
        s.Promised++;
        if (s.Stage == SequenceStage.Prefilling) _live.BeginDecoding(s);
    }

    /// <summary>Notes what a step has computed.</summary>
    private void Keep(Sequence s, int end)
    {
        s.Landed = end;
        _live.Prefixes?.Keep(s);
    }

    /// <summary>A step no longer has this chunk.</summary>
    private void Land(in ScheduledChunk chunk)
    {
        if (chunk.Samples) chunk.Sequence.Promised--;
        _live.Landed(chunk.Sequence);
    }

    /// <summary>A slot for the one token this sequence computes next: in its last block, in a copy of it where others
    /// read it too, or in a new one.</summary>
    private bool TryReserveNext(StepPlan plan, Sequence s)
    {
        int index = s.NumComputedTokens / _blockSize;
        int block;
        if (index == s.BlockCount)
        {
            if (!Pool.TryAllocate(out block)) return false;
            s.AddBlock(block);
            return true;
        }
        int shared = s.BlockTable[index];
        if (Pool.References(shared) == 1) return true;
        if (!Pool.TryAllocate(out block)) return false;
        // The source stays as it is until all copies are made: whoever else reads it writes only in the step, or, if it
        // is freed and taken again while this step is planned, is filled by a later copy.
        plan.Add(new BlockCopy(shared, block));
        _metrics.CopiedBlocks++;
        s.BlockTable[index] = block;
        Pool.Release(shared);
        return true;
    }

    private void Admit(StepPlan plan, Sequence s, long now)
    {
        _live.Admit(s);
        int taken = _live.Prefixes?.Take(s, plan) ?? 0;
        _metrics.RecomputedTokens += Math.Max(0, s.Lost - taken);
        s.Lost = 0;
        for (int blocks = Sequence.BlocksFor(s.Target, _blockSize); s.BlockCount < blocks;)
        {
            bool allocated = Pool.TryAllocate(out int block);
            Debug.Assert(allocated, "as many were counted");
            s.AddBlock(block);
        }
        if (s.Stream.Clock.FirstScheduled != 0) return;
        s.Stream.Clock.FirstScheduled = now;
        _admission.Tenants.Dequeue(s.Stream.Share, s.Stream.Queued);
        s.Stream.Clock.CachedTokens = taken;
        _metrics.PromptTokens += s.Prompt.Length;
        if (_live.Prefixes is not null) _metrics.PrefixQueryTokens += s.Prompt.Length;
        _metrics.PrefixHitTokens += taken;
        _dequeued++;
    }

    /// <summary>Takes a sequence's blocks for want of blocks, which is done so often and no more.</summary>
    private void Preempt(Sequence s)
    {
        Suspend(s);
        s.Preemptions++;
        s.IsProtected = s.Preemptions >= _admission.MaxPreemptions;
    }

    private void Suspend(Sequence s)
    {
        s.Lost = s.NumComputedTokens;
        _live.Preempt(s);
        s.Stream.Clock.Preemptions++;
        _metrics.Preemptions++;
    }

    /// <summary>Stores the scores of prompt tokens. False where one is no number.</summary>
    private static bool TakeScores(
        TokenStream stream, ReadOnlySpan<SampledToken> scores, ReadOnlySpan<TokenLogprob> best, int width)
    {
        bool sound = true;
        for (int i = 0; i < scores.Length; i++)
        {
            sound &= scores[i].Token >= 0;
            stream.AppendScore(scores[i].Logprob, best.Slice(i * width, width));
        }
        return sound;
    }

    private void CommitToken(
        Sequence s, SampledToken next, ReadOnlySpan<TokenLogprob> best, double onlineSeconds, long now)
    {
        TokenStream stream = s.Stream;
        if (next.Token < 0 || s.ConstraintFailed)
        {
            _ending.Finish(s, FinishReason.Error, now);
            return;
        }
        s.Output.Append(next.Token, next.Logprob, best);
        _metrics.GeneratedTokens++;
        stream.Share.Tenant.Tokens?.Spend(1, now);
        ref RequestTimings clock = ref stream.Clock;
        if (s.LastTokenTimestamp != 0)
        {
            _metrics.InterTokenLatency.Observe(now - s.LastTokenTimestamp);
            s.OnlineSeconds += onlineSeconds;
            clock.LongestGap = Math.Max(clock.LongestGap, now - s.LastTokenTimestamp);
        }
        s.LastTokenTimestamp = now;
        if (clock.FirstToken == 0)
        {
            clock.FirstToken = now;
            _admission.Forecast.Observe(stream, now);
        }
        clock.LastToken = now;
        clock.OutputTokens++;

        bool stops = (!stream.Sampling.IgnoreEos && _endIds.AsSpan().Contains(next.Token))
            || stream.Sampling.StopTokenIds.AsSpan().Contains(next.Token);
        bool isLast = stops || s.Output.Count == stream.Limit;
        if (isLast && s.Output.Count > 1 && stream.Class == RequestClass.Online)
        {
            int tokens = s.Output.Count - 1; // after the first
            _budget.ObserveOnline(s.OnlineSeconds / tokens);
            double tpot = (double)(now - clock.FirstToken) / tokens;
            if (_budget.TpotOf(s) > 0 && s.Preemptions == 0)
                _budget.ObserveTpot(tpot / stream.TpotTicks, clock.FirstToken, now);
        }
        if (stops) _ending.Finish(s, FinishReason.Stop, now, lastIsStopToken: true);
        else if (!TryAccept(s, next.Token)) _ending.Finish(s, FinishReason.Error, now);
        else if (s.Output.Count == stream.Limit) _ending.Finish(s, FinishReason.Length, now);
        else s.Output.Publish();
    }

    /// <summary>Tells the choice's constraint its token. A constraint that throws ends its own choice alone.</summary>
    private static bool TryAccept(Sequence s, int token)
    {
        if (s.Constraint is null) return true;
        try
        {
            s.Constraint.Accept(token);
            return true;
        }
        catch (Exception)
        {
            return false;
        }
    }

    /// <summary>Makes n decoding sequences of one whose prompt is computed but for its last token. They share its
    /// blocks, a partly filled one until they write into it. Those that find no place wait for one, and take the prompt
    /// from the cache or compute it again: that one request needs many keeps nobody out meanwhile.</summary>
    private void Fork(Sequence parent)
    {
        parent.Forks = false;
        _live.Unplace(parent);
        foreach (Sequence s in parent.Stream.Sequences)
        {
            if (s.Output.IsFinished) continue; // its reader stopped it already
            if (_live.FreePlaces == 0)
            {
                s.Charged = parent.NumComputedTokens; // the prompt is paid
                _live.WaitForked(s);
                continue;
            }
            if (s != parent)
            {
                foreach (int block in parent.BlockTable.AsSpan(0, parent.BlockCount))
                {
                    Pool.Share(block);
                    s.AddBlock(block);
                }
                s.NumComputedTokens = parent.NumComputedTokens;
                s.Landed = parent.Landed;
                s.CachedBlocks = parent.CachedBlocks;
            }
            _live.PlaceForked(s);
        }
        if (parent.Output.IsFinished) parent.ReleaseBlocks(Pool);
    }
}
