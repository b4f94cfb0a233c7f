using System.Diagnostics;
using Native.Kernels.Sampling;

namespace Native.Scheduling;

/// <summary>What one sequence does in a step: tokens <see cref="Start"/> to <see cref="Start"/> + <see cref="Count"/> are computed, rows from <see cref="ScoreStart"/> score the prompt's next token, the last may sample.</summary>
internal readonly record struct ScheduledChunk(Sequence Sequence, int Start, int Count, int ScoreStart, int ScoreCount, bool Samples)
{
    /// <summary>Rows of this chunk that reach the head.</summary>
    public int Rows => ScoreCount + (Samples ? 1 : 0);
}

/// <summary>A block's contents to be copied before the step, because a forked sequence is about to write into it.</summary>
internal readonly record struct BlockCopy(int Source, int Destination);

/// <summary>Decides what each step computes (iteration-level scheduling, Yu et al. 2022, Orca). The engine thread's alone.</summary>
/// <remarks>
/// There is one line, in the order of arrival, in three stretches: who decodes, who prefills, who waits. The oldest is served first, the
/// youngest with blocks gives them up first, and nobody overtakes. Hence the oldest live sequence is computed in every step, and whoever
/// waits becomes the oldest after at most the sum, over those before it, of ceil(length / budget) + tokens generated steps.
/// A preempted sequence goes to the front of those who wait, which is its place in the line, and is computed again from its
/// first token on: prompt and output so far, then the next token drawn with the same (seed, position), so its bits are the same.
/// After <see cref="EngineOptions.MaxPreemptions"/> of them it comes back only once what it and all older ones can ever need is free;
/// the younger ones give way before it, so it is never preempted again. That is the bound.
/// </remarks>
internal sealed class Scheduler
{
    private readonly BlockPool _pool;
    private readonly EngineMetrics _metrics;
    private readonly int[] _endIds;
    private readonly int _blockSize;
    private readonly int _maxRunning;
    private readonly int _maxBatchedTokens;
    private readonly int _maxPreemptions;
    private readonly ulong _seed;

    private readonly SequenceQueue _decoding = new("decoding");
    private readonly SequenceQueue _prefilling = new("prefilling");
    private readonly SequenceQueue _waiting = new("waiting");

    private readonly ScheduledChunk[] _plan;
    private readonly List<BlockCopy> _copies;
    private int _planned;
    private int _slots; // running sequences, a prompt that will fork counted as all its choices
    private int _dequeued;
    private long _requests;
    private double _meanRequestTicks;

    public Scheduler(BlockPool pool, EngineMetrics metrics, IReadOnlyCollection<int> endIds, int blockSize, int maxRunning, int maxBatchedTokens, int maxPreemptions, ulong seed)
    {
        _pool = pool;
        _metrics = metrics;
        _endIds = [.. endIds];
        _blockSize = blockSize;
        _maxRunning = maxRunning;
        _maxBatchedTokens = maxBatchedTokens;
        _maxPreemptions = maxPreemptions;
        _seed = seed;
        _plan = new ScheduledChunk[maxRunning];
        _copies = new List<BlockCopy>(maxRunning);
    }

    /// <summary>What the last <see cref="Step"/> decided.</summary>
    public ReadOnlySpan<ScheduledChunk> Plan => _plan.AsSpan(0, _planned);

    /// <summary>To be copied, in this order, before the plan is executed.</summary>
    public ReadOnlySpan<BlockCopy> Copies => System.Runtime.InteropServices.CollectionsMarshal.AsSpan(_copies);

    /// <summary>True where the last <see cref="Step"/> let somebody in.</summary>
    public bool Admitted { get; private set; }

    public SequenceQueue Decoding => _decoding;

    public SequenceQueue Prefilling => _prefilling;

    public SequenceQueue Waiting => _waiting;

    public BlockPool Pool => _pool;

    public bool HasWork => _decoding.Count + _prefilling.Count + _waiting.Count > 0;

    /// <summary>The earliest deadline of anyone live, or <see cref="long.MaxValue"/>; may be of one that has ended since.</summary>
    public long NextDeadline { get; private set; } = long.MaxValue;

    /// <summary>Mean time from arrival to end of the requests that ended lately, in Stopwatch ticks.</summary>
    public double MeanRequestTicks => _meanRequestTicks;

    /// <summary>Requests that had their first step, or ended without one, since last asked.</summary>
    public int TakeDequeued()
    {
        int count = _dequeued;
        _dequeued = 0;
        return count;
    }

    public string? CheckIntegrity() => _pool.CheckIntegrity(_decoding, _prefilling, _waiting);

    /// <summary>Puts a request at the end of the line.</summary>
    public void Add(TokenStream stream, long now)
    {
        ulong number = (ulong)_requests++;
        ulong seed = stream.Sampling.Seed ?? Sequence.SeedOf(unchecked(_seed + number * 0xD1342543DE82EF95), 1);
        bool forks = stream.N > 1 && stream.Prompt.Length > 1; // a prompt of one token leaves nothing to share
        foreach (Sequence s in stream.Sequences)
        {
            s.Order = (long)number * SamplingParams.MaxN + s.Index;
            s.Seed = Sequence.SeedOf(seed, s.Index);
            s.Forks = forks && s.Index == 0;
            if (!forks || s.Index == 0) _waiting.AddLast(s);
        }
        NextDeadline = Math.Min(NextDeadline, stream.Deadline);
        // The reader may have gone, or the deadline passed, while this lay in the inbox. Nothing to compute ends at once, too.
        if (stream.IsCancelled) FinishAll(stream, FinishReason.Cancelled, now);
        else if (now >= stream.Deadline) FinishAll(stream, FinishReason.Deadline, now);
        else if (stream.Limit == 0 && (stream.Sampling.PromptLogprobs is null || stream.Prompt.Length == 1)) FinishAll(stream, FinishReason.Length, now);
    }

    /// <summary>Ends whoever was cancelled or stopped by its reader, or is past its deadline.</summary>
    public void Sweep(long now)
    {
        NextDeadline = long.MaxValue;
        SweepQueue(_decoding, now);
        SweepQueue(_prefilling, now);
        SweepQueue(_waiting, now);
    }

    /// <summary>Plans one step: decodes first, then prefill chunks under what is left of the budget, then admissions.</summary>
    public ReadOnlySpan<ScheduledChunk> Step(long now)
    {
        _planned = 0;
        _copies.Clear();
        Admitted = false;
        int budget = _maxBatchedTokens;
        bool preempted = false;

        for (Sequence? s = _decoding.First; s is not null; s = s.Next)
        {
            while (!TryReserveNext(s))
            {
                Sequence youngest = (_prefilling.Last ?? _decoding.Last)!;
                if (youngest == s) return Plan; // waits with its blocks for an older one to end; there is nobody behind it
                Preempt(youngest);
                preempted = true;
            }
            Schedule(s, 1, ref budget);
        }

        // Those who prefill have had their blocks since they were admitted.
        for (Sequence? s = _prefilling.First; s is not null && budget > 0; s = s.Next)
            Schedule(s, Math.Min(s.Target - s.NumComputedTokens, budget), ref budget);

        // A step that evicts admits nobody, or the victim would come straight back and evict again.
        while (!preempted && budget > 0 && _waiting.First is { } head && TryAdmit(head, now))
            Schedule(head, Math.Min(head.Target - head.NumComputedTokens, budget), ref budget);
        return Plan;
    }

    /// <summary>Takes in what the plan's execution gave: advances counters, appends tokens, ends and forks sequences. Publishes, but wakes nobody.</summary>
    public void Commit(ReadOnlySpan<SampledToken> sampled, ReadOnlySpan<TokenLogprob> alternatives, long now)
    {
        int row = 0;
        int alternative = 0;
        foreach (ref readonly ScheduledChunk chunk in Plan)
        {
            Sequence s = chunk.Sequence;
            TokenStream stream = s.Stream;
            s.NumComputedTokens += chunk.Count;

            int width = stream.Sampling.PromptLogprobs ?? 0;
            bool poisoned = false;
            for (int i = 0; i < chunk.ScoreCount; i++, alternative += width)
            {
                SampledToken score = sampled[row++];
                poisoned |= score.Token < 0;
                stream.AppendScore(score.Logprob, alternatives.Slice(alternative, width));
            }
            SampledToken next = default;
            ReadOnlySpan<TokenLogprob> best = default;
            if (chunk.Samples)
            {
                next = sampled[row++];
                width = stream.Sampling.Logprobs ?? 0;
                best = alternatives.Slice(alternative, width);
                alternative += width;
            }

            if (poisoned) FinishAll(stream, FinishReason.Error, now);
            else if (chunk.Samples) CommitToken(s, next, best, now);
            else if (s.NumComputedTokens < s.Target) continue;
            else if (stream.Limit == 0) FinishAll(stream, FinishReason.Length, now);
            else if (s.Forks) Fork(s);
        }
        Debug.Assert(row == sampled.Length, "every sampled row has been taken in");
    }

    /// <summary>Ends the sequences of the plan, whose execution failed.</summary>
    public void FailPlan(long now)
    {
        foreach (ref readonly ScheduledChunk chunk in Plan)
        {
            if (chunk.Sequence.Forks) FinishAll(chunk.Sequence.Stream, FinishReason.Error, now);
            else Finish(chunk.Sequence, FinishReason.Error, now);
        }
        _planned = 0;
    }

    /// <summary>Ends everyone.</summary>
    public void FinishEveryone(FinishReason reason, long now)
    {
        _planned = 0;
        foreach (SequenceQueue queue in (ReadOnlySpan<SequenceQueue>)[_decoding, _prefilling, _waiting])
            while (queue.First is { } s)
                FinishAll(s.Stream, reason, now);
    }

    /// <summary>Ends everyone and frees every block without trusting who has which: after a contradiction nothing else is known to be safe.</summary>
    public void FailEveryone(long now)
    {
        foreach (SequenceQueue queue in (ReadOnlySpan<SequenceQueue>)[_decoding, _prefilling, _waiting])
            for (Sequence? s = queue.First; s is not null; s = s.Next)
                s.AbandonBlocks();
        _pool.Reset();
        FinishEveryone(FinishReason.Error, now);
        _slots = 0;
    }

    /// <summary>Shows the gauges what there is.</summary>
    public void UpdateGauges()
    {
        _metrics.Running = _decoding.Count + _prefilling.Count;
        _metrics.Waiting = _waiting.Count;
        _metrics.FreeBlocks = _pool.FreeCount;
    }

    private void Schedule(Sequence s, int count, ref int budget)
    {
        int start = s.NumComputedTokens;
        int end = start + count;
        bool samples = end == s.Length && s.Stream.Limit > 0;
        int scoreStart = 0, scoreCount = 0;
        if (s.Stream.Sampling.PromptLogprobs is not null && s.Stream.Scored < s.Prompt.Length - 1)
        {
            // Row p scores prompt token p + 1. Rows scored before a preemption are not scored again.
            scoreStart = Math.Max(start, s.Stream.Scored);
            scoreCount = Math.Max(0, Math.Min(end, s.Prompt.Length - 1) - scoreStart);
        }
        _plan[_planned++] = new ScheduledChunk(s, start, count, scoreStart, scoreCount, samples);
        budget -= count;
    }

    /// <summary>A slot for the one token this sequence computes next: in its last block, in a copy of it where others read it too, or in a new one.</summary>
    private bool TryReserveNext(Sequence s)
    {
        int index = s.NumComputedTokens / _blockSize;
        int block;
        if (index == s.BlockCount)
        {
            if (!_pool.TryAllocate(out block)) return false;
            s.AddBlock(block);
            return true;
        }
        int shared = s.BlockTable[index];
        if (_pool.References(shared) == 1) return true;
        if (!_pool.TryAllocate(out block)) return false;
        // The source stays as it is until all copies are made: whoever else reads it writes only in the step, or, if it is freed and
        // taken again while this step is planned, is filled by a later copy.
        _copies.Add(new BlockCopy(shared, block));
        _metrics.CopiedBlocks++;
        s.BlockTable[index] = block;
        _pool.Release(shared);
        return true;
    }

    private bool TryAdmit(Sequence s, long now)
    {
        if (_slots + s.Slots > _maxRunning) return false;
        int running = _decoding.Count + _prefilling.Count;
        int blocks = Sequence.BlocksFor(s.Target, _blockSize);
        // Blocks for all it has, and some left over for those who decode, or it would be the next to give them up again.
        int needed = running == 0 ? blocks : blocks + 1 + running / _blockSize;
        if (s.Preemptions >= _maxPreemptions && running > 0 && _pool.FreeCount < s.WorstBlocks + GrowthOfRunning()) return false;
        if (_pool.FreeCount < needed) return false;

        Admitted = true;
        _waiting.Remove(s);
        _prefilling.AddLast(s);
        _slots += s.Slots;
        while (s.BlockCount < blocks)
        {
            bool allocated = _pool.TryAllocate(out int block);
            Debug.Assert(allocated, "as many were counted");
            s.AddBlock(block);
        }
        if (s.Stream.Timings.FirstScheduled == 0)
        {
            s.Stream.Timings = s.Stream.Timings with { FirstScheduled = now };
            _metrics.PromptTokens += s.Prompt.Length;
            _dequeued++;
        }
        return true;
    }

    /// <summary>Blocks that those who run can still ask for before they end.</summary>
    private long GrowthOfRunning()
    {
        long growth = 0;
        foreach (SequenceQueue queue in (ReadOnlySpan<SequenceQueue>)[_decoding, _prefilling])
        {
            for (Sequence? s = queue.First; s is not null; s = s.Next)
            {
                if (s.Forks)
                {
                    int full = s.Target / _blockSize;
                    growth += (long)s.Stream.N * (s.WorstBlocks - full) + full - s.BlockCount;
                    continue;
                }
                growth += s.WorstBlocks - s.BlockCount;
                int next = s.NumComputedTokens / _blockSize;
                if (next < s.BlockCount && _pool.References(s.BlockTable[next]) > 1) growth++; // to be copied
            }
        }
        return growth;
    }

    private void Preempt(Sequence s)
    {
        s.Queue!.Remove(s);
        _slots -= s.Slots;
        s.ReleaseBlocks(_pool);
        s.Preemptions++;
        s.Stream.Timings = s.Stream.Timings with { Preemptions = s.Stream.Timings.Preemptions + 1 };
        _metrics.Preemptions++;
        _waiting.AddFirst(s);
    }

    private void CommitToken(Sequence s, SampledToken next, ReadOnlySpan<TokenLogprob> best, long now)
    {
        TokenStream stream = s.Stream;
        if (next.Token < 0)
        {
            Finish(s, FinishReason.Error, now);
            return;
        }
        s.Output.Append(next.Token, next.Logprob, best);
        _metrics.GeneratedTokens++;
        if (s.LastTokenTimestamp != 0) _metrics.InterTokenLatency.Observe(now - s.LastTokenTimestamp);
        s.LastTokenTimestamp = now;
        stream.Timings = stream.Timings with
        {
            FirstToken = stream.Timings.FirstToken == 0 ? now : stream.Timings.FirstToken,
            LastToken = now,
            OutputTokens = stream.Timings.OutputTokens + 1,
        };

        bool stops = (!stream.Sampling.IgnoreEos && _endIds.AsSpan().Contains(next.Token)) || stream.Sampling.StopTokenIds.AsSpan().Contains(next.Token);
        if (stops) Finish(s, FinishReason.Stop, now, lastIsStopToken: true);
        else if (s.Output.Count == stream.Limit) Finish(s, FinishReason.Length, now);
        else
        {
            s.Output.Publish();
            if (s.Queue != _prefilling) return;
            _prefilling.Remove(s);
            _decoding.AddLast(s);
        }
    }

    /// <summary>Makes n decoding sequences of one whose prompt is computed but for its last token. They share its blocks, a partly filled one until they write into it.</summary>
    private void Fork(Sequence parent)
    {
        TokenStream stream = parent.Stream;
        _slots -= parent.Slots;
        parent.Forks = false;
        _prefilling.Remove(parent);
        foreach (Sequence s in stream.Sequences)
        {
            if (s.Output.IsFinished) continue; // its reader stopped it already
            if (s != parent)
            {
                foreach (int block in parent.BlockTable.AsSpan(0, parent.BlockCount))
                {
                    _pool.Share(block);
                    s.AddBlock(block);
                }
                s.NumComputedTokens = parent.NumComputedTokens;
            }
            _slots++;
            _decoding.AddLast(s);
        }
        if (parent.Output.IsFinished) parent.ReleaseBlocks(_pool);
    }

    private void SweepQueue(SequenceQueue queue, long now)
    {
        Sequence? next;
        for (Sequence? s = queue.First; s is not null; s = next)
        {
            next = s.Next;
            TokenStream stream = s.Stream;
            FinishReason reason = stream.IsCancelled ? FinishReason.Cancelled : now >= stream.Deadline ? FinishReason.Deadline : FinishReason.None;
            if (reason != FinishReason.None)
            {
                // Its siblings, in whichever queue, meet the same fate when the sweep comes to them; those not yet forked are in none.
                if (s.Forks) FinishAll(stream, reason, now);
                else Finish(s, reason, now);
                continue;
            }
            if (s.Forks)
            {
                foreach (Sequence choice in stream.Sequences)
                    if (!choice.Output.IsFinished && stream.IsStopped(choice.Index)) FinishOutput(choice, FinishReason.Stop, now);
                if (stream.Unfinished == 0) Leave(s);
            }
            else if (stream.IsStopped(s.Index)) Finish(s, FinishReason.Stop, now);
            if (s.Queue is not null) NextDeadline = Math.Min(NextDeadline, stream.Deadline);
        }
    }

    /// <summary>Ends all choices of a request that have not ended.</summary>
    private void FinishAll(TokenStream stream, FinishReason reason, long now)
    {
        foreach (Sequence s in stream.Sequences)
        {
            if (s.Queue is not null) Leave(s);
            if (!s.Output.IsFinished) FinishOutput(s, reason, now);
        }
    }

    private void Finish(Sequence s, FinishReason reason, long now, bool lastIsStopToken = false)
    {
        Leave(s);
        FinishOutput(s, reason, now, lastIsStopToken);
    }

    /// <summary>Gives back the sequence's place and blocks.</summary>
    private void Leave(Sequence s)
    {
        if (s.Queue != _waiting) _slots -= s.Slots;
        s.Queue!.Remove(s);
        s.ReleaseBlocks(_pool);
    }

    /// <summary>Tells the reader the end, and the monitor where it was the last choice's.</summary>
    private void FinishOutput(Sequence s, FinishReason reason, long now, bool lastIsStopToken = false)
    {
        TokenStream stream = s.Stream;
        stream.Gravest = reason > stream.Gravest ? reason : stream.Gravest;
        if (--stream.Unfinished == 0)
        {
            if (stream.Timings.FirstScheduled == 0) _dequeued++;
            stream.Timings = stream.Timings with { Finished = now }; // before the end is published: the reader may look right after
            _meanRequestTicks += ((now - stream.Timings.Arrival) - _meanRequestTicks) * 0.1;
            _metrics.WriteFinished(new FinishedRequest(stream.Timings, stream.Gravest, stream.N, stream.Limit));
        }
        s.Output.Publish(reason, lastIsStopToken);
        stream.Signal();
    }
}
