using Native.Kernels;
using Native.Kernels.Sampling;
using Native.Tools;

namespace Native.Bench.Throughput;

/// <summary>Drives a model step by step with nothing around it: no scheduler, no text. Sequences own their blocks from
/// the beginning, prompts are random ids, decodes are greedy.</summary>
internal sealed class StepDriver
{
    private readonly IModelRunner _runner;
    private readonly int _length;
    private readonly int _stride; // blocks a sequence
    private readonly int[] _prompts; // [sequences, length]
    private readonly int[] _next; // the token each sequence goes on with
    private readonly int[] _tables;  // [sequences, stride]: sequence s owns blocks s * stride and on
    private readonly BatchBuffers _buffers;

    /// <summary>Sequences of at most <paramref name="length"/> tokens.</summary>
    /// <exception cref="CommandException">They don't fit the model's memory or limits.</exception>
    public StepDriver(IModelRunner runner, int sequences, int length)
    {
        ModelInfo info = runner.Info;
        _stride = (length + info.BlockSize - 1) / info.BlockSize;
        if (sequences > info.MaxSequences || length > info.MaxModelLength
            || (long)sequences * _stride > info.BlockCount)
            throw new CommandException(
                $"{sequences} sequences of {length} tokens don't fit: the model "
                    + $"takes {info.MaxSequences} of {info.MaxModelLength}, and its KV cache "
                    + $"holds {(long)info.BlockCount * info.BlockSize} tokens");
        (_runner, _length) = (runner, length);
        Random random = new(42);
        _prompts = new int[sequences * length];
        for (int i = 0; i < _prompts.Length; i++) _prompts[i] = random.Next(info.VocabularySize);
        _next = new int[sequences];
        for (int s = 0; s < sequences; s++) _next[s] = _prompts[s * length];
        _tables = [.. Enumerable.Range(0, sequences * _stride)];
        _buffers = new BatchBuffers(info, maxSequences: sequences);
    }

    /// <summary>Computes <paramref name="count"/> tokens of prompt of each of the first <paramref name="sequences"/>
    /// sequences, in as few steps as the model allows; each one's last token is sampled.</summary>
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
            _buffers.Begin();
            int first = s;
            while (s < sequences && _buffers.Tokens < _runner.Info.MaxBatchedTokens)
            {
                int take = Math.Min(count - done, _runner.Info.MaxBatchedTokens - _buffers.Tokens);
                Add(s, from + done, _prompts.AsSpan((s * _length) + from + done, take), samples: done + take == count);
                done += take;
                if (done < count) break;
                s++;
                done = 0;
            }
            Compute(first); // whatever ended in this step began with its first sequence
        }
        return steps;
    }

    /// <summary>Generates <paramref name="count"/> tokens in each of the first <paramref name="sequences"/> sequences,
    /// all of them together one a step.</summary>
    /// <param name="sequences">How many, from the first.</param>
    /// <param name="from">Tokens they have already.</param>
    /// <param name="count">Steps.</param>
    /// <param name="ct">Looked at between steps.</param>
    public void Decode(int sequences, int from, int count, CancellationToken ct)
    {
        for (int step = 0; step < count; step++)
        {
            ct.ThrowIfCancellationRequested();
            _buffers.Begin();
            for (int s = 0; s < sequences; s++) Add(s, from + step, _next.AsSpan(s, 1), samples: true, decodes: true);
            Compute(0);
        }
    }

    /// <summary>Computes one step: the first <paramref name="decodes"/> sequences decode, the last sequence computes a
    /// chunk of its prompt and samples from it.</summary>
    /// <param name="decodes">Sequences that decode; 0 for none.</param>
    /// <param name="decodeStart">Tokens they have already.</param>
    /// <param name="prefill">Tokens of the chunk; 0 for none.</param>
    /// <param name="prefillStart">Tokens that the last sequence has already.</param>
    public void Step(int decodes, int decodeStart, int prefill, int prefillStart)
    {
        int last = _next.Length - 1;
        _buffers.Begin();
        for (int s = 0; s < decodes; s++) Add(s, decodeStart, _next.AsSpan(s, 1), samples: true, decodes: true);
        if (prefill > 0)
            Add(last, prefillStart, _prompts.AsSpan((last * _length) + prefillStart, prefill), samples: true);
        Compute(0);
    }

    /// <summary>Gives every sequence the keys and values of the first one's first <paramref name="count"/> tokens, so
    /// that each has them in memory of its own.</summary>
    /// <param name="count">Tokens that the first sequence has computed.</param>
    /// <param name="ct">Looked at between steps.</param>
    public void CopyFirst(int count, CancellationToken ct)
    {
        int blocks = (count + _runner.Info.BlockSize - 1) / _runner.Info.BlockSize;
        for (int block = 0; block < blocks; block++)
        {
            ct.ThrowIfCancellationRequested();
            _buffers.Begin();
            for (int s = 1; s < _next.Length; s++) _buffers.AddCopy(new BlockCopy(block, (s * _stride) + block));
            // A step computes at least one token; the last one of the first sequence is computed again.
            Add(0, count - 1, _prompts.AsSpan(count - 1, 1), samples: true);
            Compute(0);
        }
    }

    /// <summary>Adds a sequence's tokens from <paramref name="start"/> on; greedy where the last one is
    /// sampled.</summary>
    private void Add(int sequence, int start, ReadOnlySpan<int> ids, bool samples, bool decodes = false)
    {
        int row = _buffers.AddSequence(ids, start, _tables.AsSpan(sequence * _stride, _stride), sequence, decodes);
        if (samples) _buffers.AddSample(row + ids.Length - 1, new RowSampling { Position = start + ids.Length });
    }

    /// <summary>Computes the step; its samples are the next tokens of sequence <paramref name="first"/> and those after
    /// it.</summary>
    private void Compute(int first)
    {
        _runner.Launch(_buffers.Batch);
        Span<SampledToken> sampled = _buffers.Sampled;
        _runner.Collect(sampled, []);
        for (int r = 0; r < sampled.Length; r++)
        {
            if (sampled[r].Token < 0)
                throw new CommandException($"{_runner.Info.Name} gave logits that are no numbers");
            _next[first + r] = sampled[r].Token;
        }
    }
}
