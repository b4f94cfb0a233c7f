using Native.Kernels;
using Native.Kernels.Sampling;

namespace Native.Scheduling;

/// <summary>Flattens a plan into one <see cref="Batch"/>, in arrays that are taken once and used for every
/// step.</summary>
internal sealed class BatchBuilder(ModelInfo model, int maxTokens, int maxSequences, IReadOnlyCollection<int> endIds)
{
    private readonly int[] _endIds = [.. endIds];
    private readonly BatchBuffers _buffers = new(model, maxTokens, maxSequences);

    /// <summary>The plan built last.</summary>
    public Batch Batch => _buffers.Batch;

    /// <summary>Where the runner puts what a plan samples, shape [R].</summary>
    public Span<SampledToken> Sampled(StepPlan plan) => _buffers.SampledOf(plan.Rows);

    /// <summary>Where the runner puts a plan's alternatives, the rows' one after the other.</summary>
    public Span<TokenLogprob> Alternatives(StepPlan plan) => _buffers.AlternativesOf(plan.Alternatives);

    /// <summary>Makes room for whatever these sequences' decode steps need, so that none of them allocates.</summary>
    /// <remarks>Called when the set of running sequences grew. As for <see cref="TokenLog"/>, the room is for the
    /// tokens reserved at submission.</remarks>
    public void Reserve(LiveSequences live)
    {
        int alternatives = 0, biases = 0, masked = 0;
        long history = 0;
        foreach (SequenceQueue queue in (ReadOnlySpan<SequenceQueue>)[live.Decoding, live.Prefilling])
        {
            for (Sequence? s = queue.First; s is not null; s = s.Next)
            {
                SamplingParams p = s.Stream.Sampling;
                int rows = s.Forks ? Math.Min(s.Stream.N, live.MaxRunning) : 1;
                alternatives += (p.Logprobs ?? 0) * rows;
                biases += (p.LogitBias.Count + (p.MinTokens > 0 ? _endIds.Length + p.StopTokenIds.Length : 0)) * rows;
                long length = s.Prompt.Length + Math.Max(s.Stream.ReservedTokens, s.Output.Count);
                if (p.HasPenalties) history += length * rows;
                if (s.Constraint is not null) masked += rows;
            }
        }
        _buffers.Reserve(alternatives, biases, checked((int)history), masked);
    }

    public void Build(StepPlan plan)
    {
        _buffers.Begin();
        foreach (BlockCopy copy in plan.Copies) _buffers.AddCopy(copy);
        for (int i = 0; i < plan.Chunks.Length; i++) Add(plan.Chunks[i], decodes: i < plan.Decodes);
        plan.Rows = _buffers.Rows;
        plan.Alternatives = _buffers.AlternativeCount;
    }

    private void Add(in ScheduledChunk chunk, bool decodes)
    {
        Sequence s = chunk.Sequence;
        ReadOnlySpan<int> blocks = s.BlockTable.AsSpan(0, s.BlockCount);
        Span<int> ids = _buffers.AddSequence(chunk.Count, chunk.Start, blocks, s.Place, decodes, out int row);
        if (chunk.Start < s.Known) s.CopyTokens(chunk.Start, ids);
        else ids.Fill(Batch.LastSampled); // the one token of a decode, sampled by a step in flight
        for (int i = 0; i < chunk.ScoreCount; i++)
        {
            int position = chunk.ScoreStart + i;
            int target = s.Prompt[position + 1], alternatives = s.Stream.Sampling.PromptLogprobs!.Value;
            RowSampling score = new() { TargetPlusOne = target + 1, Alternatives = alternatives };
            _buffers.AddSample(row + position - chunk.Start, score);
        }
        if (chunk.Samples) _buffers.AddSample(row + chunk.Count - 1, SamplingOf(s, chunk.End));
    }

    /// <summary>How the token at <paramref name="position"/> is chosen.</summary>
    private RowSampling SamplingOf(Sequence s, int position)
    {
        SamplingParams p = s.Stream.Sampling;
        RowSampling row = new()
        {
            Temperature = p.Temperature < SamplingParams.GreedyTemperature ? 0 : p.Temperature,
            TopK = Math.Max(p.TopK, 0),
            TopP = p.TopP,
            MinP = p.MinP,
            RepetitionPenalty = p.RepetitionPenalty,
            PresencePenalty = p.PresencePenalty,
            FrequencyPenalty = p.FrequencyPenalty,
            Seed = s.Seed,
            Position = position,
            Alternatives = p.Logprobs ?? 0,
        };
        if (p.HasPenalties) s.CopyTokens(0, _buffers.AddHistory(ref row, s.Prompt.Length, position));
        for (int i = 0; i < p.LogitBias.Count; i++) _buffers.AddBias(ref row, p.LogitBias[i]);
        if (position - s.Prompt.Length < p.MinTokens)
        {
            foreach (int id in _endIds) _buffers.AddBias(ref row, new TokenBias(id, float.NegativeInfinity));
            foreach (int id in p.StopTokenIds) _buffers.AddBias(ref row, new TokenBias(id, float.NegativeInfinity));
        }
        if (s.Constraint is not null) FillMask(s, _buffers.AddMask(ref row));
        return row;
    }

    /// <summary>A constraint that throws ends its own choice alone: the mask allows everything, and the token is not
    /// taken.</summary>
    private static void FillMask(Sequence s, Span<uint> mask)
    {
        try
        {
            if (!s.ConstraintFailed) s.Constraint!.Fill(mask);
        }
        catch (Exception)
        {
            s.ConstraintFailed = true;
        }
        if (s.ConstraintFailed) mask.Fill(uint.MaxValue);
    }
}
