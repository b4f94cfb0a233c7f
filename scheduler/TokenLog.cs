using System.Diagnostics;
using Native.Kernels.Sampling;

namespace Native.Scheduling;

/// <summary>The output of one choice: append-only, written by the engine thread, read by one reader, without
/// locks.</summary>
/// <remarks>
/// It takes the place of a ring. The engine needs all tokens of a sequence anyway (penalties, recomputation after a
/// preemption), so the reader is shown that array and how far it is filled. It can't be full, so a slow reader needs no
/// rule: it slows nobody. Room for <see cref="ReservedTokens"/> is taken at submission, on the submitter's thread; the
/// arrays of a longer choice double, the one allocation a decode step may make: for a single choice without
/// alternatives after 16,384 tokens, and then ever more rarely. Memory order: entries are plain writes, then one
/// release store of <c>_state</c> publishes count and end together; the reader's acquire load of it comes before its
/// loads of the arrays, so it sees an array at least as new as the count, and entries never change.
/// <para>Progress. Every operation is wait-free for either side: no loop waits for the other. Only
/// <see cref="Append"/> may allocate, where the arrays double.</para>
/// </remarks>
internal sealed class TokenLog
{
    /// <summary>Bytes a queued request's logs may take together, so that a full queue of the greediest requests stays
    /// within MaxQueued times this.</summary>
    private const int ReservedBytes = 128 * 1024;

    private const int ReasonShift = 32;
    private const int StopTokenBit = 40;

    private readonly int _width;
    private int[] _tokens;
    private float[] _logprobs;
    private TokenLogprob[] _alternatives;
    private long _state; // count | reason << 32 | last is a stop token << 40

    /// <param name="capacity">Tokens to take room for, from <see cref="ReservedTokens"/>.</param>
    /// <param name="alternatives">Alternatives each token comes with.</param>
    public TokenLog(int capacity, int alternatives)
    {
        _width = alternatives;
        _tokens = capacity == 0 ? [] : GC.AllocateUninitializedArray<int>(capacity);
        _logprobs = capacity == 0 ? [] : GC.AllocateUninitializedArray<float>(capacity);
        _alternatives = new TokenLogprob[(long)capacity * alternatives];
    }

    /// <summary>Tokens appended. The engine thread's.</summary>
    public int Count { get; private set; }

    /// <summary>True once ended. The engine thread's.</summary>
    public bool IsFinished { get; private set; }

    /// <summary>All tokens appended. The engine thread's.</summary>
    public ReadOnlySpan<int> Tokens => _tokens.AsSpan(0, Count);

    /// <summary>Output tokens for which each of a request's <paramref name="choices"/> gets room before it
    /// starts.</summary>
    public static int ReservedTokens(int maxTokens, int choices, int alternatives) =>
        Math.Min(maxTokens, Math.Max(16, ReservedBytes / (choices * 8 * (1 + alternatives))));

    /// <summary>Adds a token that <see cref="Publish"/> will show.</summary>
    public void Append(int token, float logprob, ReadOnlySpan<TokenLogprob> alternatives)
    {
        Debug.Assert(!IsFinished, "a finished choice gets no tokens");
        Debug.Assert(alternatives.Length == _width, "every token has as many alternatives as were asked for");
        if (Count == _tokens.Length) Grow();
        _tokens[Count] = token;
        _logprobs[Count] = logprob;
        alternatives.CopyTo(_alternatives.AsSpan(Count * _width));
        Count++;
    }

    /// <summary>Shows the reader what was appended, and the end where there is one.</summary>
    public void Publish(FinishReason finish = FinishReason.None, bool lastIsStopToken = false)
    {
        IsFinished = finish != FinishReason.None;
        long stopToken = lastIsStopToken ? 1L << StopTokenBit : 0;
        Volatile.Write(ref _state, (uint)Count | (long)finish << ReasonShift | stopToken);
    }

    /// <summary>True where event number <paramref name="read"/> is there to be read. The reader's.</summary>
    public bool HasEvent(int read, bool finishRead)
    {
        long state = Volatile.Read(ref _state);
        return !finishRead && (read < (int)(uint)state || state >> ReasonShift != 0);
    }

    /// <summary>Reads event number <paramref name="read"/>. The reader's.</summary>
    public bool TryRead(int index, ref int read, ref bool finishRead, out TokenEvent e)
    {
        long state = Volatile.Read(ref _state);
        int count = (int)(uint)state;
        FinishReason finish = (FinishReason)(byte)(state >> ReasonShift);
        if (finishRead || (read == count && finish == FinishReason.None))
        {
            e = default;
            return false;
        }
        if (read == count) // ended without a token of its own
        {
            finishRead = true;
            e = new TokenEvent { Index = index, Token = -1, Finish = finish };
            return true;
        }
        int i = read++;
        bool last = read == count && finish != FinishReason.None;
        finishRead = last;
        e = new TokenEvent
        {
            Index = index,
            Token = _tokens[i],
            Logprob = _logprobs[i],
            Alternatives = _width == 0 ? default : _alternatives.AsMemory(i * _width, _width),
            Finish = last ? finish : FinishReason.None,
            IsStopToken = last && (state >> StopTokenBit) != 0,
        };
        return true;
    }

    private void Grow()
    {
        int capacity = Math.Max(16, _tokens.Length * 2);
        Array.Resize(ref _tokens, capacity);
        Array.Resize(ref _logprobs, capacity);
        if (_width > 0) Array.Resize(ref _alternatives, capacity * _width);
    }
}
