using System.Numerics;
using Native.Kernels;
using Native.Kernels.Sampling;

namespace Native.Scheduling;

/// <summary>Flattens a plan into one <see cref="Batch"/>, in arrays that are taken once and used for every step.</summary>
/// <remarks>Three of them depend on what requests ask for and double when they are too small: alternatives, biases, and the histories that
/// penalties need, which <see cref="Reserve"/> makes large enough before a request's first step.</remarks>
internal sealed class BatchBuilder
{
    private readonly int _blockSize;
    private readonly int[] _endIds;
    private readonly int _stride;
    private readonly int[] _tokenIds, _positions, _slotMapping; // [T]
    private readonly int[] _queryStarts;                        // [S + 1]
    private readonly int[] _contextLengths;                     // [S]
    private readonly int[] _blockTables;                        // [S, stride]
    private readonly int[] _sampleRows;                         // [T]: a scored prompt uses all of its rows
    private readonly RowSampling[] _sampling;                   // [T]
    private readonly SampledToken[] _sampled;                   // [T]
    private TokenLogprob[] _alternatives = new TokenLogprob[64];
    private TokenBias[] _biases = new TokenBias[64];
    private int[] _history = new int[1024];
    private int _tokens, _sequences, _rows, _alternativeCount, _biasCount, _historyLength;

    public BatchBuilder(int maxTokens, int maxSequences, int maxBlocksPerSequence, int blockSize, IReadOnlyCollection<int> endIds)
    {
        _blockSize = blockSize;
        _endIds = [.. endIds];
        _stride = maxBlocksPerSequence;
        _tokenIds = new int[maxTokens];
        _positions = new int[maxTokens];
        _slotMapping = new int[maxTokens];
        _queryStarts = new int[maxSequences + 1];
        _contextLengths = new int[maxSequences];
        // Zeroed pages that no sequence reaches are never touched, so the worst case costs address space, not memory.
        _blockTables = new int[(long)maxSequences * maxBlocksPerSequence];
        _sampleRows = new int[maxTokens];
        _sampling = new RowSampling[maxTokens];
        _sampled = new SampledToken[maxTokens];
    }

    /// <summary>Tokens of the batch built last.</summary>
    public int TokenCount => _tokens;

    public Batch Batch => new()
    {
        TokenIds = _tokenIds.AsSpan(0, _tokens),
        Positions = _positions.AsSpan(0, _tokens),
        SlotMapping = _slotMapping.AsSpan(0, _tokens),
        QueryStarts = _queryStarts.AsSpan(0, _sequences + 1),
        ContextLengths = _contextLengths.AsSpan(0, _sequences),
        BlockTables = _blockTables.AsSpan(0, _sequences * _stride),
        BlockTableStride = _stride,
        SampleRows = _sampleRows.AsSpan(0, _rows),
        Sampling = _sampling.AsSpan(0, _rows),
        History = _history.AsSpan(0, _historyLength),
        Biases = _biases.AsSpan(0, _biasCount),
    };

    /// <summary>Where the runner puts what it samples, shape [R].</summary>
    public Span<SampledToken> Sampled => _sampled.AsSpan(0, _rows);

    /// <summary>Where the runner puts alternatives, the rows' one after the other.</summary>
    public Span<TokenLogprob> Alternatives => _alternatives.AsSpan(0, _alternativeCount);

    /// <summary>Makes room for whatever these sequences' decode steps need, so that none of them allocates.</summary>
    /// <remarks>Called when the set of running sequences grew. As for <see cref="TokenLog"/>, the room is for the tokens reserved at submission.</remarks>
    public void Reserve(params ReadOnlySpan<SequenceQueue> running)
    {
        int alternatives = 0, biases = 0;
        long history = 0;
        foreach (SequenceQueue queue in running)
        {
            for (Sequence? s = queue.First; s is not null; s = s.Next)
            {
                SamplingParams p = s.Stream.Sampling;
                alternatives += (p.Logprobs ?? 0) * s.Slots;
                biases += (p.LogitBias.Count + (p.MinTokens > 0 ? _endIds.Length + p.StopTokenIds.Length : 0)) * s.Slots;
                if (p.HasPenalties) history += (long)(s.Prompt.Length + Math.Max(s.Stream.ReservedTokens, s.Output.Count)) * s.Slots;
            }
        }
        Ensure(ref _alternatives, alternatives);
        Ensure(ref _biases, biases);
        Ensure(ref _history, checked((int)history));
    }

    public void Build(ReadOnlySpan<ScheduledChunk> plan)
    {
        _tokens = _sequences = _rows = _alternativeCount = _biasCount = _historyLength = 0;
        foreach (ref readonly ScheduledChunk chunk in plan)
        {
            Sequence s = chunk.Sequence;
            int row = _tokens;
            _queryStarts[_sequences] = row;
            _contextLengths[_sequences] = chunk.Start + chunk.Count;
            s.BlockTable.AsSpan(0, s.BlockCount).CopyTo(_blockTables.AsSpan(_sequences * _stride, _stride));
            s.CopyTokens(chunk.Start, _tokenIds.AsSpan(row, chunk.Count));
            for (int i = 0; i < chunk.Count; i++)
            {
                int position = chunk.Start + i;
                (int block, int offset) = Math.DivRem(position, _blockSize);
                _positions[row + i] = position;
                _slotMapping[row + i] = s.BlockTable[block] * _blockSize + offset;
            }
            for (int i = 0; i < chunk.ScoreCount; i++)
            {
                int position = chunk.ScoreStart + i;
                int alternatives = s.Stream.Sampling.PromptLogprobs!.Value;
                AddRow(row + position - chunk.Start, new RowSampling { TargetPlusOne = s.Prompt[position + 1] + 1, Alternatives = alternatives });
            }
            if (chunk.Samples) AddRow(row + chunk.Count - 1, SamplingOf(s));
            _tokens += chunk.Count;
            _sequences++;
        }
        _queryStarts[_sequences] = _tokens;
        Ensure(ref _alternatives, _alternativeCount);
    }

    private void AddRow(int row, in RowSampling sampling)
    {
        _sampleRows[_rows] = row;
        _sampling[_rows] = sampling;
        _sampling[_rows].AlternativesStart = _alternativeCount;
        _alternativeCount += sampling.Alternatives;
        _rows++;
    }

    private RowSampling SamplingOf(Sequence s)
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
            Position = s.Length,
            Alternatives = p.Logprobs ?? 0,
        };
        if (p.HasPenalties)
        {
            row.HistoryStart = _historyLength;
            row.HistoryPrompt = s.Prompt.Length;
            row.HistoryLength = s.Length;
            Ensure(ref _history, _historyLength + s.Length);
            s.CopyTokens(0, _history.AsSpan(_historyLength, s.Length));
            _historyLength += s.Length;
        }
        row.BiasStart = _biasCount;
        for (int i = 0; i < p.LogitBias.Count; i++) AddBias(p.LogitBias[i]);
        if (s.Output.Count < p.MinTokens)
        {
            foreach (int id in _endIds) AddBias(new TokenBias(id, float.NegativeInfinity));
            foreach (int id in p.StopTokenIds) AddBias(new TokenBias(id, float.NegativeInfinity));
        }
        row.BiasLength = _biasCount - row.BiasStart;
        return row;
    }

    private void AddBias(TokenBias bias)
    {
        Ensure(ref _biases, _biasCount + 1);
        _biases[_biasCount++] = bias;
    }

    /// <summary>Grows to a power of two, keeping what is there.</summary>
    private static void Ensure<T>(ref T[] array, int length)
    {
        if (length > array.Length) Array.Resize(ref array, (int)BitOperations.RoundUpToPowerOf2((uint)length));
    }
}
