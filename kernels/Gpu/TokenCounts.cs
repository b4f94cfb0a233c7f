using System.Numerics;
using Native.Kernels.Sampling;

namespace Native.Kernels.Gpu;

/// <summary>How often each token is in the history of the sequences that have penalties. The counts stay on the device
/// by place; a step sends what is new of a history, which is one token for a decode.</summary>
/// <remarks>What a place has counted is kept here as tokens, so that a place with another sequence begins anew.
/// </remarks>
/// <param name="reserve">Makes room for so many bytes on the device, shape [counters, vocabulary] of 32-bit words. True
/// where the memory is another than before.</param>
internal sealed class TokenCounts(Func<long, bool> reserve)
{
    private int[] _counterOf = []; // by place, -1 for none
    private Counted[] _counted = [];
    private int _counters, _vocabulary;

    /// <summary>A history that was counted.</summary>
    private struct Counted
    {
        public int[] Tokens;
        public int Length, Prompt;
    }

    /// <summary>Whether a row's scores are changed by what its history has.</summary>
    public static bool Penalizes(in RowSampling row) => row.HistoryLength > 0 && !row.Scores
        && (row.RepetitionPenalty is not (0 or 1) || row.PresencePenalty != 0 || row.FrequencyPenalty != 0);

    /// <summary>Which counts a row that samples has: its place's, if places are told.</summary>
    public static int PlaceOf(in Batch batch, int index, int sequence) =>
        batch.Places.IsEmpty ? index : batch.Places[sequence];

    /// <summary>Makes room for a step's places before they are counted. True where the memory is another than before:
    /// all begin anew.</summary>
    public bool Reserve()
    {
        if (!reserve(4L * _counters * _vocabulary)) return false; // of no tokens until the first step samples
        Forget();
        return true;
    }

    /// <summary>Tells how many tokens there are, when a step samples. True where there was no memory before.</summary>
    /// <exception cref="ArgumentException">Another number than before.</exception>
    public bool Reserve(int vocabulary)
    {
        if (_vocabulary != 0 && _vocabulary != vocabulary)
            throw new ArgumentException($"{vocabulary} logits a row, and {_vocabulary} before", nameof(vocabulary));
        _vocabulary = vocabulary;
        return reserve(4L * Math.Max(1, _counters) * vocabulary);
    }

    /// <summary>Gives counts to the places of all rows that have penalties.</summary>
    public void Add(in Batch batch)
    {
        for (int i = 0, s = 0; i < batch.SampleRows.Length; i++)
        {
            while (batch.SampleRows[i] >= batch.QueryStarts[s + 1]) s++;
            if (Penalizes(batch.Sampling[i])) Add(PlaceOf(batch, i, s));
        }
    }

    private void Add(int place)
    {
        int length = _counterOf.Length;
        if (place >= length)
        {
            Array.Resize(ref _counterOf, (int)BitOperations.RoundUpToPowerOf2((uint)place + 1));
            _counterOf.AsSpan(length).Fill(-1);
        }
        if (_counterOf[place] >= 0) return;
        if (_counters == _counted.Length) Array.Resize(ref _counted, Math.Max(4, 2 * _counters));
        _counted[_counters].Tokens ??= [];
        _counterOf[place] = _counters++;
    }

    /// <summary>Remembers that a place's history is counted after this step.</summary>
    /// <param name="place">One that was added.</param>
    /// <param name="history">All of it.</param>
    /// <param name="prompt">How much of it is the prompt's.</param>
    /// <param name="from">What of it is counted already.</param>
    /// <returns>As the kernel takes it: the number of the counts plus one, negative if they begin anew.</returns>
    public int Extend(int place, ReadOnlySpan<int> history, int prompt, out int from)
    {
        int counter = _counterOf[place];
        ref Counted counted = ref _counted[counter];
        bool extends = counted.Length > 0 && counted.Length <= history.Length && counted.Prompt == prompt
            && history[..counted.Length].SequenceEqual(counted.Tokens.AsSpan(0, counted.Length));
        from = extends ? counted.Length : 0;
        if (counted.Tokens.Length < history.Length)
            Array.Resize(ref counted.Tokens, (int)BitOperations.RoundUpToPowerOf2((uint)history.Length));
        history[from..].CopyTo(counted.Tokens.AsSpan(from));
        (counted.Length, counted.Prompt) = (history.Length, prompt);
        return extends ? counter + 1 : -counter - 1;
    }

    /// <summary>Forgets what was counted, and whose counts there are: a step that should have counted may not have run,
    /// or there was no memory for its places, which others don't need.</summary>
    public void Reset()
    {
        Forget();
        _counterOf.AsSpan().Fill(-1);
        _counters = 0;
    }

    private void Forget()
    {
        foreach (ref Counted counted in _counted.AsSpan(0, _counters)) counted.Length = 0;
    }
}
