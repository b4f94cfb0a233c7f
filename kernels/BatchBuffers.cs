using System.Numerics;
using Native.Kernels.Sampling;

namespace Native.Kernels;

/// <summary>Builds one <see cref="Batch"/> after the other in arrays that are allocated once.</summary>
/// <remarks>
/// <code>
/// buffers.Begin();
/// int row = buffers.AddSequence(ids, start, blocks, place);
/// buffers.AddSample(row + ids.Length - 1, sampling);
/// runner.Launch(buffers.Batch);
/// runner.Collect(buffers.Sampled, buffers.Alternatives);
/// </code>
/// Arrays that depend on what rows ask for (alternatives, histories, biases, masks) double when they are too small;
/// <see cref="Reserve"/> makes them large enough before.
/// </remarks>
public sealed class BatchBuffers
{
    private readonly int _blockSize, _maskWords;
    private readonly int[] _tokenIds, _positions, _slotMapping; // [T]
    private readonly int[] _queryStarts;                        // [S + 1]
    private readonly int[] _contextLengths, _places;            // [S]
    private readonly int[] _blockTables;                        // one after the other
    private readonly int[] _blockTableStarts;                   // [S + 1]
    private readonly int[] _sampleRows, _hiddenRows;            // [T]: a scored prompt uses all of its rows
    private readonly RowSampling[] _sampling;                   // [T]
    private readonly SampledToken[] _sampled;                   // [T]
    private readonly BlockCopy[] _copies;                       // [S]
    private TokenLogprob[] _alternatives = new TokenLogprob[64];
    private TokenBias[] _biases = new TokenBias[64];
    private int[] _history = new int[1024];
    private uint[] _masks = [];
    private int _decodes, _copyCount, _rows, _hiddenCount, _alternativeCount, _biasCount, _historyLength, _maskLength;

    /// <summary>Takes arrays for the largest step.</summary>
    /// <param name="info">The model's limits.</param>
    /// <param name="maxTokens">Most tokens of a step. Null: as many as the model takes.</param>
    /// <param name="maxSequences">Most sequences of a step. Null: as many as the model takes.</param>
    public BatchBuffers(ModelInfo info, int? maxTokens = null, int? maxSequences = null)
    {
        int tokens = maxTokens ?? info.MaxBatchedTokens, sequences = maxSequences ?? info.MaxSequences;
        _blockSize = info.BlockSize;
        _maskWords = Batch.MaskWords(info.VocabularySize);
        _tokenIds = new int[tokens];
        _positions = new int[tokens];
        _slotMapping = new int[tokens];
        _queryStarts = new int[sequences + 1];
        _contextLengths = new int[sequences];
        _places = new int[sequences];
        // Zeroed pages that no step reaches are never touched, so the worst case costs address space, not memory.
        long longest = Math.Min(((long)info.MaxModelLength + _blockSize - 1) / _blockSize, info.BlockCount);
        _blockTables = new int[sequences * longest];
        _blockTableStarts = new int[sequences + 1];
        _sampleRows = new int[tokens];
        _hiddenRows = new int[tokens];
        _sampling = new RowSampling[tokens];
        _sampled = new SampledToken[tokens];
        _copies = new BlockCopy[sequences];
    }

    /// <summary>Tokens added since <see cref="Begin"/>.</summary>
    public int Tokens { get; private set; }

    /// <summary>Sequences added since <see cref="Begin"/>.</summary>
    public int Sequences { get; private set; }

    /// <summary>What was added since <see cref="Begin"/>.</summary>
    public Batch Batch => new()
    {
        Copies = _copies.AsSpan(0, _copyCount),
        TokenIds = _tokenIds.AsSpan(0, Tokens),
        Positions = _positions.AsSpan(0, Tokens),
        SlotMapping = _slotMapping.AsSpan(0, Tokens),
        QueryStarts = _queryStarts.AsSpan(0, Sequences + 1),
        ContextLengths = _contextLengths.AsSpan(0, Sequences),
        DecodeCount = _decodes,
        Places = _places.AsSpan(0, Sequences),
        BlockTables = _blockTables.AsSpan(0, _blockTableStarts[Sequences]),
        BlockTableStarts = _blockTableStarts.AsSpan(0, Sequences + 1),
        SampleRows = _sampleRows.AsSpan(0, _rows),
        Sampling = _sampling.AsSpan(0, _rows),
        History = _history.AsSpan(0, _historyLength),
        Biases = _biases.AsSpan(0, _biasCount),
        Masks = _masks.AsSpan(0, _maskLength),
        HiddenRows = _hiddenRows.AsSpan(0, _hiddenCount),
    };

    /// <summary>Where the runner puts this batch's tokens, shape [R].</summary>
    public Span<SampledToken> Sampled => _sampled.AsSpan(0, _rows);

    /// <summary>Where the runner puts this batch's best tokens, row after row.</summary>
    public Span<TokenLogprob> Alternatives => AlternativesOf(_alternativeCount);

    /// <summary>Room for the tokens of a step that was built earlier.</summary>
    public Span<SampledToken> SampledOf(int rows) => _sampled.AsSpan(0, rows);

    /// <summary>Room for the best tokens of a step that was built earlier.</summary>
    public Span<TokenLogprob> AlternativesOf(int count)
    {
        Ensure(ref _alternatives, count);
        return _alternatives.AsSpan(0, count);
    }

    /// <summary>Rows that are sampled or scored.</summary>
    public int Rows => _rows;

    /// <summary>Best tokens that all rows ask for.</summary>
    public int AlternativeCount => _alternativeCount;

    /// <summary>Makes room, so that steps within these numbers allocate nothing.</summary>
    public void Reserve(int alternatives, int biases, int history, int maskedRows)
    {
        Ensure(ref _alternatives, alternatives);
        Ensure(ref _biases, biases);
        Ensure(ref _history, history);
        Ensure(ref _masks, checked(maskedRows * _maskWords));
    }

    /// <summary>Starts an empty batch.</summary>
    public void Begin()
    {
        Tokens = Sequences = 0;
        _decodes = _copyCount = _rows = _hiddenCount = _alternativeCount = _biasCount = _historyLength =
            _maskLength = 0;
    }

    /// <summary>Copies a block before the step computes.</summary>
    public void AddCopy(BlockCopy copy) => _copies[_copyCount++] = copy;

    /// <summary>Adds a sequence's next tokens; sequences that decode come first.</summary>
    /// <param name="ids">Its tokens from position <paramref name="start"/> on.</param>
    /// <param name="start">Tokens it has computed.</param>
    /// <param name="blocks">Its blocks in order, at least as many as hold all of its tokens.</param>
    /// <param name="place">Its own place, see <see cref="Batch.Places"/>.</param>
    /// <param name="decodes">True if the one token was sampled by an earlier step.</param>
    /// <returns>The first of its rows.</returns>
    public int AddSequence(ReadOnlySpan<int> ids, int start, ReadOnlySpan<int> blocks, int place, bool decodes = false)
    {
        ids.CopyTo(AddSequence(ids.Length, start, blocks, place, decodes, out int row));
        return row;
    }

    /// <summary>The same, for a caller that writes the ids into the returned span.</summary>
    public Span<int> AddSequence(int count, int start, ReadOnlySpan<int> blocks, int place, bool decodes, out int row)
    {
        row = Tokens;
        _queryStarts[Sequences] = row;
        _contextLengths[Sequences] = start + count;
        _places[Sequences] = place;
        int table = _blockTableStarts[Sequences];
        blocks.CopyTo(_blockTables.AsSpan(table));
        for (int i = 0; i < count; i++)
        {
            (int block, int offset) = Math.DivRem(start + i, _blockSize);
            _positions[row + i] = start + i;
            _slotMapping[row + i] = (blocks[block] * _blockSize) + offset;
        }
        if (decodes) _decodes++;
        Tokens += count;
        Sequences++;
        (_queryStarts[Sequences], _blockTableStarts[Sequences]) = (Tokens, table + blocks.Length);
        return _tokenIds.AsSpan(row, count);
    }

    /// <summary>Samples or scores a row. Rows ascend. Sets where its alternatives begin.</summary>
    public void AddSample(int row, in RowSampling sampling)
    {
        _sampleRows[_rows] = row;
        _sampling[_rows] = sampling;
        _sampling[_rows].AlternativesStart = _alternativeCount;
        _alternativeCount += sampling.Alternatives;
        _rows++;
    }

    /// <summary>Asks for a row's hidden state; rows ascend.</summary>
    public void AddHidden(int row) => _hiddenRows[_hiddenCount++] = row;

    /// <summary>Room for a row's history, which the caller fills, prompt first.</summary>
    public Span<int> AddHistory(ref RowSampling row, int prompt, int length)
    {
        (row.HistoryStart, row.HistoryPrompt, row.HistoryLength) = (_historyLength, prompt, length);
        Ensure(ref _history, _historyLength + length);
        _historyLength += length;
        return _history.AsSpan(row.HistoryStart, length);
    }

    /// <summary>Adds a bias to a row. A row's biases are added one after the other.</summary>
    public void AddBias(ref RowSampling row, TokenBias bias)
    {
        if (row.BiasLength == 0) row.BiasStart = _biasCount;
        row.BiasLength++;
        Ensure(ref _biases, _biasCount + 1);
        _biases[_biasCount++] = bias;
    }

    /// <summary>Room for a row's mask, which the caller fills: a set bit allows its token.</summary>
    public Span<uint> AddMask(ref RowSampling row)
    {
        (row.Masked, row.MaskStart) = (true, _maskLength);
        Ensure(ref _masks, _maskLength + _maskWords);
        _maskLength += _maskWords;
        return _masks.AsSpan(row.MaskStart, _maskWords);
    }

    /// <summary>Grows to a power of two, keeping what is there.</summary>
    private static void Ensure<T>(ref T[] array, int length)
    {
        if (length > array.Length) Array.Resize(ref array, (int)BitOperations.RoundUpToPowerOf2((uint)length));
    }
}
