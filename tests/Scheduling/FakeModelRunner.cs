using Native.Kernels;
using Native.Kernels.Sampling;

namespace Native.Tests.Scheduling;

/// <summary>
/// A model whose next token is a hash of the tokens it finds in its cache by slot mapping and block table, and of
/// everything the row asks for. A wrong block, slot, position, copy or context changes its output; <see cref="Oracle"/>
/// says what the output must be.
/// </summary>
internal sealed class FakeModelRunner : IModelRunner
{
    public const int EndId = 0;

    /// <summary>Never generated; a context that ends with it gives NaN logits while <see cref="Poisoned"/>.</summary>
    public const int PoisonToken = 49;

    public const int Vocabulary = 50;

    private readonly (int Token, int Position, ulong Chain)[] _slots;

    private readonly Queue<LaunchedStep> _launched = [];
    private readonly int[] _lastSampled;
    private SampledToken[] _sampled = [];
    private TokenLogprob[] _alternatives = [];
    private int _rows, _alternativeCount;

    public FakeModelRunner(
        int blockCount = 64, int blockSize = 4, int maxModelLength = 128, int maxBatchedTokens = 2048, int maxSequences = 256, int stepsInFlight = 1)
    {
        Info = new ModelInfo
        {
            Name = "fake",
            Architecture = "fake",
            Backend = "none",
            ParameterCount = 0,
            WeightBytes = 0,
            KvCacheBytes = 0,
            KvCacheType = DType.F32,
            VocabularySize = Vocabulary,
            MaxModelLength = maxModelLength,
            BlockSize = blockSize,
            BlockCount = blockCount,
            MaxBatchedTokens = maxBatchedTokens,
            MaxSequences = maxSequences,
            StepsInFlight = stepsInFlight,
        };
        _lastSampled = new int[maxSequences];
        _slots = new (int, int, ulong)[blockCount * blockSize];
        Array.Fill(_slots, (-1, -1, 0UL));
    }

    public delegate void ExecuteHook(in Batch batch);

    public ModelInfo Info { get; }

    public bool Poisoned { get; set; }

    public int Steps { get; private set; }

    public int Copies { get; private set; }

    /// <summary>Steps launched before the one before was collected.</summary>
    public int Overlapped { get; private set; }

    /// <summary>Rows whose token was not known when they were launched.</summary>
    public int Promised { get; private set; }

    /// <summary>Called on the engine's thread before a step is computed; what it throws fails the step.</summary>
    /// <remarks>A step is computed when it is launched where only one may be in flight, else when it is
    /// collected.</remarks>
    public ExecuteHook? OnExecute { get; set; }

    /// <summary>Called before a step is launched; where it throws, nothing is launched.</summary>
    public Action? OnLaunch { get; set; }

    /// <summary>Called before a step is collected; where it throws, all that are in flight are dropped.</summary>
    public Action? OnCollect { get; set; }

    /// <summary>What broke it for good.</summary>
    public Exception? Fault { get; set; }

    /// <summary>What a batch contradicted; the engine catches exceptions, so they are kept here.</summary>
    public List<string> Violations { get; } = [];

    public void Launch(in Batch batch)
    {
        OnLaunch?.Invoke();
        if (_launched.Count == Info.StepsInFlight) throw new InvalidOperationException("too many steps in flight");
        if (_launched.Count > 0) Overlapped++;
        if (Info.StepsInFlight > 1)
        {
            _launched.Enqueue(new LaunchedStep(batch));
            return;
        }
        // Computed at once in arrays that stay: what a decode step allocates is then the engine's.
        if (_sampled.Length < batch.SampleRows.Length) _sampled = new SampledToken[batch.SampleRows.Length];
        if (_alternatives.Length < batch.AlternativeCount) _alternatives = new TokenLogprob[batch.AlternativeCount];
        (_rows, _alternativeCount) = (batch.SampleRows.Length, batch.AlternativeCount);
        foreach (BlockCopy copy in batch.Copies) CopyBlock(copy.Source, copy.Destination);
        Execute(batch, _sampled.AsSpan(0, _rows), _alternatives.AsSpan(0, _alternativeCount));
    }

    public void Collect(Span<SampledToken> sampled, Span<TokenLogprob> alternatives, Span<float> hidden = default)
    {
        try
        {
            OnCollect?.Invoke();
        }
        catch
        {
            _launched.Clear();
            throw;
        }
        if (Info.StepsInFlight == 1)
        {
            Expect(sampled.Length == _rows && alternatives.Length == _alternativeCount, "room for exactly what was asked for");
            _sampled.AsSpan(0, _rows).CopyTo(sampled);
            _alternatives.AsSpan(0, _alternativeCount).CopyTo(alternatives);
            return;
        }
        LaunchedStep step = _launched.Dequeue();
        try
        {
            Compute(step);
        }
        catch
        {
            _launched.Clear();
            throw;
        }
        Expect(sampled.Length == step.Sampled.Length, "one place per sampled row");
        Expect(alternatives.Length == step.Alternatives.Length, "room for exactly the alternatives asked for");
        step.Sampled.CopyTo(sampled);
        step.Alternatives.CopyTo(alternatives);
    }

    private void Compute(LaunchedStep step)
    {
        foreach (BlockCopy copy in step.Copies) CopyBlock(copy.Source, copy.Destination);
        for (int s = 0; s < step.DecodeCount; s++)
        {
            if (step.TokenIds[s] != Batch.LastSampled) continue;
            Promised++;
            step.TokenIds[s] = _lastSampled[step.Places[s]];
        }
        Expect(!step.TokenIds.Contains(Batch.LastSampled), "only decodes go on from a promised token");
        Expect(step.Places.Distinct().Count() == step.Places.Length, "every sequence has a place of its own");
        Execute(step.Batch, step.Sampled, step.Alternatives);
        for (int r = 0; r < step.SampleRows.Length; r++)
        {
            int s = Array.IndexOf(step.QueryStarts, step.SampleRows[r] + 1) - 1;
            if (s >= 0 && !step.Sampling[r].Scores) _lastSampled[step.Places[s]] = step.Sampled[r].Token;
        }
    }

    private void Execute(in Batch batch, Span<SampledToken> sampled, Span<TokenLogprob> alternatives)
    {
        Steps++;
        OnExecute?.Invoke(batch);
        int sequences = batch.ContextLengths.Length;
        Expect(batch.TokenIds.Length is > 0 && batch.TokenIds.Length <= Info.MaxBatchedTokens, "tokens within the limit");
        Expect(sequences <= Info.MaxSequences && batch.QueryStarts.Length == sequences + 1, "sequences within the limit");
        Expect(batch.QueryStarts[0] == 0 && batch.QueryStarts[^1] == batch.TokenIds.Length, "query starts span the batch");
        Expect(batch.SampleRows.Length == sampled.Length && batch.Sampling.Length == sampled.Length, "one entry per sampled row");
        Expect(batch.BlockTableStarts.Length == sequences + 1, "a block table per sequence");

        for (int s = 0; s < sequences; s++)
        {
            ReadOnlySpan<int> table = batch.BlockTables[batch.BlockTableStarts[s]..batch.BlockTableStarts[s + 1]];
            Expect(batch.Positions[batch.QueryStarts[s + 1] - 1] == batch.ContextLengths[s] - 1, "the last row is at the context's end");
            for (int row = batch.QueryStarts[s]; row < batch.QueryStarts[s + 1]; row++)
            {
                int position = batch.Positions[row];
                int slot = Slot(table, position);
                Expect(slot == batch.SlotMapping[row], "the slot is where the block table says");
                ulong before = position == 0 ? Hash.Seed : _slots[Slot(table, position - 1)].Chain;
                _slots[slot] = (batch.TokenIds[row], position, Hash.Mix(before, (ulong)batch.TokenIds[row]));
            }
        }

        int alternative = 0;
        int previous = -1;
        for (int r = 0; r < sampled.Length; r++)
        {
            int row = batch.SampleRows[r];
            Expect(row > previous, "sampled rows ascend");
            previous = row;
            int s = 0;
            while (batch.QueryStarts[s + 1] <= row) s++;
            ReadOnlySpan<int> table = batch.BlockTables[batch.BlockTableStarts[s]..batch.BlockTableStarts[s + 1]];
            ulong context = Hash.Seed;
            for (int position = 0; position <= batch.Positions[row]; position++)
            {
                (int token, int at, ulong chain) = _slots[Slot(table, position)];
                context = Hash.Mix(context, (ulong)token);
                Expect(at == position && chain == context, "the cache holds this sequence's own tokens");
            }
            ref readonly RowSampling sampling = ref batch.Sampling[r];
            Expect(sampling.AlternativesStart == alternative, "alternatives lie one after the other");
            if (Poisoned && batch.TokenIds[row] == PoisonToken) sampled[r] = new SampledToken(-1, 0);
            else if (sampling.Scores) sampled[r] = new SampledToken(sampling.Target, Oracle.Score(context, sampling.Target));
            else
            {
                ReadOnlySpan<int> history = batch.History.Slice(sampling.HistoryStart, sampling.HistoryLength);
                ReadOnlySpan<TokenBias> biases = batch.Biases.Slice(sampling.BiasStart, sampling.BiasLength);
                ReadOnlySpan<uint> mask = sampling.Masked ? batch.Masks.Slice(sampling.MaskStart, Batch.MaskWords(Vocabulary)) : [];
                sampled[r] = Oracle.Next(context, sampling, history, biases, mask);
                Expect(sampling.Position == batch.Positions[row] + 1, "the draw is keyed by the new token's position");
            }
            for (int a = 0; a < sampling.Alternatives; a++) alternatives[alternative++] = Oracle.Alternative(sampled[r], a);
        }
        Expect(alternative == alternatives.Length, "room for exactly the alternatives asked for");
    }

    private void CopyBlock(int source, int destination)
    {
        Copies++;
        Expect(source != destination, "a block is not copied onto itself");
        int size = Info.BlockSize;
        Array.Copy(_slots, source * size, _slots, destination * size, size);
    }

    public void Dispose()
    {
    }

    /// <summary>A batch as it was launched, whatever its spans became.</summary>
    private sealed class LaunchedStep(in Batch batch)
    {
        public readonly BlockCopy[] Copies = batch.Copies.ToArray();
        public readonly int[] TokenIds = batch.TokenIds.ToArray();
        public readonly int[] QueryStarts = batch.QueryStarts.ToArray();
        public readonly int[] SampleRows = batch.SampleRows.ToArray();
        public readonly int[] Places = batch.Places.ToArray();
        public readonly int DecodeCount = batch.DecodeCount;
        public readonly RowSampling[] Sampling = batch.Sampling.ToArray();
        public readonly SampledToken[] Sampled = new SampledToken[batch.SampleRows.Length];
        public readonly TokenLogprob[] Alternatives = new TokenLogprob[batch.AlternativeCount];
        private readonly int[] _positions = batch.Positions.ToArray();
        private readonly int[] _slotMapping = batch.SlotMapping.ToArray();
        private readonly int[] _contextLengths = batch.ContextLengths.ToArray();
        private readonly int[] _blockTables = batch.BlockTables.ToArray();
        private readonly int[] _blockTableStarts = batch.BlockTableStarts.ToArray();
        private readonly int[] _history = batch.History.ToArray();
        private readonly TokenBias[] _biases = batch.Biases.ToArray();
        private readonly uint[] _masks = batch.Masks.ToArray();

        public Batch Batch => new()
        {
            TokenIds = TokenIds,
            Positions = _positions,
            SlotMapping = _slotMapping,
            QueryStarts = QueryStarts,
            ContextLengths = _contextLengths,
            DecodeCount = DecodeCount,
            Places = Places,
            BlockTables = _blockTables,
            BlockTableStarts = _blockTableStarts,
            SampleRows = SampleRows,
            Sampling = Sampling,
            History = _history,
            Biases = _biases,
            Masks = _masks,
        };
    }

    private int Slot(ReadOnlySpan<int> table, int position) => table[position / Info.BlockSize] * Info.BlockSize + position % Info.BlockSize;

    private void Expect(bool holds, string belief)
    {
        if (!holds) Violations.Add($"step {Steps}: not so: {belief}");
    }
}

internal static class Hash
{
    public const ulong Seed = 0x243F6A8885A308D3;

    public static ulong Mix(ulong a, ulong b)
    {
        ulong z = unchecked((a ^ b * 0x9E3779B97F4A7C15) + 0xD1B54A32D192ED03);
        z = unchecked((z ^ z >> 30) * 0xBF58476D1CE4E5B9);
        z = unchecked((z ^ z >> 27) * 0x94D049BB133111EB);
        return z ^ z >> 31;
    }
}
