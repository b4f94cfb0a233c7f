namespace Native.Scheduling;

/// <summary>How sequences end: by their reader, their deadline, their last token or a fault. The engine thread's
/// alone.</summary>
internal sealed class Ending(LiveSequences live, EngineMetrics metrics, Admission admission, int blockSize)
{
    private const int Enough = 16; // outputs that a mean is taken of

    private readonly IndexedHeap<TokenStream> _deadlines = new();
    private long _visits;
    private int _outputs; // that ended, as far as that matters
    private double _meanOutput, _meanBlocks;

    /// <summary>Mean time from arrival to end of the requests that ended lately, in Stopwatch ticks.</summary>
    public double MeanRequestTicks { get; private set; }

    /// <summary>Mean time from the first step to the end, likewise.</summary>
    public double MeanServiceTicks { get; private set; }

    /// <summary>Mean length of the outputs that ended lately, in tokens; 0 before enough have.</summary>
    public double MeanOutput => _outputs < Enough ? 0 : _meanOutput;

    /// <summary>Mean blocks that a sequence had halfway through its output, less those it shared; 0 before enough have
    /// ended.</summary>
    public double MeanBlocks => _outputs < Enough ? 0 : _meanBlocks;

    /// <summary>Requests that ended without a first step, since somebody set it to 0.</summary>
    public int NeverScheduled { get; set; }

    /// <summary>Sequences and deadlines looked at so far.</summary>
    public long Visits => _visits + _deadlines.Visits;

    /// <summary>Ends a new request at once where there is nothing to do, else remembers its deadline.</summary>
    /// <remarks>Its reader may have gone, or its deadline passed, while it lay in the inbox.</remarks>
    public void Add(TokenStream stream, long now)
    {
        if (now >= stream.Deadline && !stream.IsCancelled) FinishAll(stream, FinishReason.Deadline, now);
        else if (stream.Limit == 0 && (stream.Sampling.PromptLogprobs is null || stream.Prompt.Length == 1))
            FinishAll(stream, stream.IsCancelled ? FinishReason.Cancelled : FinishReason.Length, now);
        else
        {
            if (stream.Deadline != long.MaxValue) _deadlines.Add(stream);
            Apply(stream, now);
        }
    }

    /// <summary>Ends what a reader cancelled or stopped.</summary>
    public void Apply(TokenStream stream, long now)
    {
        if (!stream.IsAdded || stream.Unfinished == 0) return; // not out of the inbox yet, or over
        _visits += stream.N;
        if (stream.IsCancelled)
        {
            FinishAll(stream, FinishReason.Cancelled, now);
            return;
        }
        foreach (Sequence s in stream.Sequences)
        {
            if (s.Output.IsFinished || !stream.IsStopped(s.Index)) continue;
            // The one that computes the prompt for all goes on; those not yet forked are in no stage.
            if (s.Forks || s.Stage == SequenceStage.None) FinishOutput(s, FinishReason.Stop, now);
            else Finish(s, FinishReason.Stop, now);
        }
        Sequence first = stream.Sequences[0];
        if (stream.Unfinished == 0 && first.IsLive) live.Leave(first);
    }

    /// <summary>Ends everyone whose deadline has passed.</summary>
    public void Expire(long now)
    {
        while (_deadlines.First is { } stream && now >= stream.Deadline)
        {
            _visits += stream.N;
            FinishAll(stream, FinishReason.Deadline, now);
        }
    }

    /// <summary>Ends all choices of a request that have not ended.</summary>
    public void FinishAll(TokenStream stream, FinishReason reason, long now)
    {
        foreach (Sequence s in stream.Sequences)
        {
            s.IsDistrusted |= reason == FinishReason.Error;
            if (s.IsLive) live.Leave(s);
            if (!s.Output.IsFinished) FinishOutput(s, reason, now);
        }
    }

    /// <summary>Ends one choice that is in a stage.</summary>
    public void Finish(Sequence s, FinishReason reason, long now, bool lastIsStopToken = false)
    {
        s.IsDistrusted |= reason == FinishReason.Error;
        int blocks = s.BlockCount - (s.Stream.Clock.CachedTokens / blockSize);
        live.Leave(s);
        FinishOutput(s, reason, now, lastIsStopToken);
        _meanBlocks += (blocks - (0.5 * s.Output.Count / blockSize) - _meanBlocks) / Math.Max(1, _outputs);
    }

    /// <summary>Ends everyone.</summary>
    public void FinishEveryone(FinishReason reason, long now)
    {
        while ((live.Decoding.First ?? live.Prefilling.First ?? live.FirstWaiting) is { } s)
            FinishAll(s.Stream, reason, now);
    }

    /// <summary>Tells the reader the end, and the monitor where it was the last choice's.</summary>
    private void FinishOutput(Sequence s, FinishReason reason, long now, bool lastIsStopToken = false)
    {
        TokenStream stream = s.Stream;
        if (s.Output.Count > 0)
        {
            _outputs = Math.Min(_outputs + 1, Enough);
            _meanOutput += (s.Output.Count - _meanOutput) / _outputs;
        }
        stream.Gravest = reason > stream.Gravest ? reason : stream.Gravest;
        if (--stream.Unfinished == 0)
        {
            if (((IHeapEntry)stream).HeapIndex >= 0) _deadlines.Remove(stream);
            if (stream.Clock.FirstScheduled == 0)
            {
                NeverScheduled++;
                admission.Tenants.Dequeue(stream.Share, stream.Queued);
                bool served = stream.Gravest is FinishReason.Stop or FinishReason.Length;
                if (!served) stream.Share.Tenant.GiveBack(1, stream.Prompt.Length);
            }
            else MeanServiceTicks += (now - stream.Clock.FirstScheduled - MeanServiceTicks) * 0.1;
            admission.Tenants.End(stream.Share, now);
            if (stream.Clock.FirstToken == 0 && reason == FinishReason.Deadline)
                admission.Forecast.Observe(stream, now);
            stream.Clock.Finished = now; // before the end is published: the reader may look right after
            MeanRequestTicks += (now - stream.Clock.Arrival - MeanRequestTicks) * 0.1;
            metrics.WriteFinished(new FinishedRequest(stream.Timings, stream.Gravest, stream.N, stream.Limit)
            {
                Class = stream.Class,
                Tenant = stream.Share.Tenant.Name,
            });
        }
        s.Output.Publish(reason, lastIsStopToken);
        stream.Signal();
    }
}
