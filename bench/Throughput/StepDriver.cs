using Native.Kernels;
using Native.Kernels.Sampling;
using Native.Tools;

namespace Native.Bench.Throughput;

/// <summary>Drives a model step by step with nothing around it: no scheduler, no text. Sequences own their blocks from the beginning, prompts are random ids, decodes are greedy.</summary>
internal sealed class StepDriver
{
    private readonly IModelRunner _runner;
    private readonly int _length;
    private readonly int _stride; // blocks a sequence
    private readonly int[] _prompts; // [sequences, length]
    private readonly int[] _next; // the token each sequence goes on with
    private readonly int[] _ids, _positions, _slots, _starts, _contexts, _tables, _rows, _tableOf;
    private readonly RowSampling[] _sampling;
    private readonly SampledToken[] _sampled;

    /// <summary>Sequences of at most <paramref name="length"/> tokens.</summary>
    /// <exception cref="CommandException">They don't fit the model's memory or limits.</exception>
    public StepDriver(IModelRunner runner, int sequences, int length)
    {
        ModelInfo info = runner.Info;
        _stride = (length + info.BlockSize - 1) / info.BlockSize;
        if (sequences > info.MaxSequences || length > info.MaxModelLength || (long)sequences * _stride > info.BlockCount)
            throw new CommandException($"{sequences} sequences of {length} tokens don't fit: the model takes {info.MaxSequences} of {info.MaxModelLength}, and its KV cache holds {(long)info.BlockCount * info.BlockSize} tokens");
        (_runner, _length) = (runner, length);
        Random random = new(42);
        _prompts = new int[sequences * length];
        for (int i = 0; i < _prompts.Length; i++) _prompts[i] = random.Next(info.VocabularySize);
        _next = new int[sequences];
        for (int s = 0; s < sequences; s++) _next[s] = _prompts[s * length];
        _tables = [.. Enumerable.Range(0, sequences * _stride)]; // sequence s owns blocks s * stride and on
        int tokens = info.MaxBatchedTokens;
        (_ids, _positions, _slots) = (new int[tokens], new int[tokens], new int[tokens]);
        (_starts, _contexts, _rows, _tableOf) = (new int[sequences + 1], new int[sequences], new int[sequences], new int[sequences * _stride]);
        (_sampling, _sampled) = (new RowSampling[sequences], new SampledToken[sequences]);
    }

    /// <summary>Computes <paramref name="count"/> tokens of prompt of each of the first <paramref name="sequences"/> sequences, in as few steps as the model allows; each one's last token is sampled.</summary>
    /// <param name="sequences">How many, from the first.</param>
    /// <param name="from">Tokens they have already.</param>
    /// <param name="count">Tokens to compute of each.</param>
    /// <param name="ct">Looked at between steps.</param>
    /// <returns>The steps it took.</returns>
    public int Prefill(int sequences, int from, int count, CancellationToken ct)
    {
        int steps = 0;
        for (int s = 0, done = 0; s < sequences && count > 0; steps++)
        {
            ct.ThrowIfCancellationRequested();
            int tokens = 0, inStep = 0, rows = 0, first = s;
            while (s < sequences && tokens < _ids.Length)
            {
                int take = Math.Min(count - done, _ids.Length - tokens);
                _starts[inStep] = tokens;
                for (int i = 0; i < take; i++) Place(tokens++, s, from + done + i, _prompts[s * _length + from + done + i]);
                done += take;
                _contexts[inStep++] = from + done;
                if (done < count) break;
                _rows[rows++] = tokens - 1;
                s++;
                done = 0;
            }
            _starts[inStep] = tokens;
            Execute(tokens, first, inStep, rows);
            for (int r = 0; r < rows; r++) _next[first + r] = _sampled[r].Token; // whatever ended in this step began with its first sequence
        }
        return steps;
    }

    /// <summary>Generates <paramref name="count"/> tokens in each of the first <paramref name="sequences"/> sequences, all of them together one a step.</summary>
    /// <param name="sequences">How many, from the first.</param>
    /// <param name="from">Tokens they have already.</param>
    /// <param name="count">Steps.</param>
    /// <param name="ct">Looked at between steps.</param>
    public void Decode(int sequences, int from, int count, CancellationToken ct)
    {
        for (int step = 0; step < count; step++)
        {
            ct.ThrowIfCancellationRequested();
            for (int s = 0; s < sequences; s++)
            {
                Place(s, s, from + step, _next[s]);
                _starts[s] = s;
                _contexts[s] = from + step + 1;
                _rows[s] = s;
            }
            _starts[sequences] = sequences;
            Execute(sequences, 0, sequences, sequences);
            for (int s = 0; s < sequences; s++) _next[s] = _sampled[s].Token;
        }
    }

    private void Place(int row, int sequence, int position, int id)
    {
        int blockSize = _runner.Info.BlockSize;
        _ids[row] = id;
        _positions[row] = position;
        _slots[row] = _tables[sequence * _stride + position / blockSize] * blockSize + position % blockSize;
    }

    private void Execute(int tokens, int first, int sequences, int rows)
    {
        for (int r = 0; r < rows; r++) _sampling[r] = new RowSampling { Position = _positions[_rows[r]] + 1 }; // all else as it is by default: greedy
        Array.Copy(_tables, first * _stride, _tableOf, 0, sequences * _stride);
        _runner.Execute(new Batch
        {
            TokenIds = _ids.AsSpan(0, tokens),
            Positions = _positions.AsSpan(0, tokens),
            SlotMapping = _slots.AsSpan(0, tokens),
            QueryStarts = _starts.AsSpan(0, sequences + 1),
            ContextLengths = _contexts.AsSpan(0, sequences),
            BlockTables = _tableOf.AsSpan(0, sequences * _stride),
            BlockTableStride = _stride,
            SampleRows = _rows.AsSpan(0, rows),
            Sampling = _sampling.AsSpan(0, rows),
        }, _sampled.AsSpan(0, rows), []);
        for (int r = 0; r < rows; r++)
            if (_sampled[r].Token < 0) throw new CommandException($"{_runner.Info.Name} gave logits that are no numbers");
    }
}
