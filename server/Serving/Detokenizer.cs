using System.Text;
using Native.Kernels.Text;

namespace Native.Server.Serving;

/// <summary>Turns one sequence's tokens into text as they come: never half a character, and never any part of a stop
/// string.</summary>
/// <remarks>What <see cref="Append"/> and <see cref="Flush"/> return, concatenated, is <see cref="Tokenizer.Decode"/>
/// of all ids up to the stop string, however the text is cut into tokens. The stop string that ends first wins, the
/// longest where several end together. Matching is Knuth, Morris and Pratt's, so a character costs constant time a stop
/// string. Not thread-safe.</remarks>
public sealed class Detokenizer
{
    private readonly Tokenizer _tokenizer;
    private readonly bool _skipSpecial, _includeStop;
    private readonly StopString[] _stops;
    private readonly Decoder _utf8 = Encoding.UTF8.GetDecoder();
    private readonly StringBuilder _held = new();
    private char[] _chars = new char[64];
    private bool _atStart;

    /// <param name="tokenizer">The model's tokenizer.</param>
    /// <param name="stop">Texts that end the sequence; none may be empty.</param>
    /// <param name="skipSpecial">Leaves control tokens out; otherwise they are written out.</param>
    /// <param name="includeStop">Whether the stop string itself is part of the text.</param>
    /// <param name="startOfText">Whether the first token begins a text, so that the space a SentencePiece tokenizer
    /// puts there is dropped. False, the default, for what a model generates: that goes on after a prompt, and its
    /// space counts.</param>
    /// <exception cref="ArgumentException">A stop string is empty.</exception>
    public Detokenizer(Tokenizer tokenizer, IReadOnlyList<string>? stop = null, bool skipSpecial = true,
        bool includeStop = false, bool startOfText = false)
    {
        _tokenizer = tokenizer;
        _skipSpecial = skipSpecial;
        _includeStop = includeStop;
        _atStart = startOfText;
        _stops = stop is null ? [] : [.. stop.Select(static s => new StopString(s))];
    }

    /// <summary>Whether a stop string counts that ends with what comes next; while it is too early, it is
    /// text.</summary>
    public bool MayStop { get; set; } = true;

    /// <summary>Whether a stop string has come; later tokens add nothing.</summary>
    public bool Stopped => MatchedStop is not null;

    /// <summary>The stop string that came, as given.</summary>
    public string? MatchedStop { get; private set; }

    /// <summary>Adds a token; returns the text that is certain now, often empty.</summary>
    /// <exception cref="ArgumentOutOfRangeException">No such id.</exception>
    public string Append(int id)
    {
        ReadOnlySpan<byte> bytes = _tokenizer.Visible(id, _skipSpecial, ref _atStart);
        return Stopped ? "" : Take(bytes, flush: false);
    }

    /// <summary>Ends the sequence; returns what was held back. A character left incomplete becomes U+FFFD.</summary>
    public string Flush()
    {
        if (Stopped) return "";
        string text = Take([], flush: true);
        if (_held.Length > 0)
        {
            text += _held.ToString();
            _held.Clear();
        }
        foreach (StopString stop in _stops) stop.Reset();
        return text;
    }

    private string Take(ReadOnlySpan<byte> bytes, bool flush)
    {
        int room = Encoding.UTF8.GetMaxCharCount(bytes.Length);
        if (_chars.Length < room) _chars = new char[room];
        ReadOnlySpan<char> chars = _chars.AsSpan(0, _utf8.GetChars(bytes, _chars, flush));
        if (_stops.Length == 0) return chars.ToString();

        foreach (char c in chars)
        {
            _held.Append(c);
            StopString? matched = null;
            foreach (StopString stop in _stops)
            {
                if (!stop.Advance(c)) continue;
                if (!MayStop) stop.Pass();
                else if (stop.Length > (matched?.Length ?? 0)) matched = stop;
            }
            if (matched is null) continue;

            MatchedStop = matched.Given;
            if (!_includeStop) _held.Length -= matched.Length;
            return Release(_held.Length);
        }
        int possible = 0; // the longest end of the text that may become a stop string
        foreach (StopString stop in _stops) possible = Math.Max(possible, stop.Matched);
        return Release(_held.Length - possible);
    }

    private string Release(int count)
    {
        string text = _held.ToString(0, count);
        _held.Remove(0, count);
        return text;
    }

    private sealed class StopString
    {
        private readonly string _text;
        private readonly int[] _fallback; // by characters matched: the longest proper prefix that is a suffix of those

        public StopString(string given)
        {
            ArgumentException.ThrowIfNullOrEmpty(given);
            Given = given;
            _text = Tokenizer.WellFormed(given);
            _fallback = new int[_text.Length + 1];
            for (int i = 1, matched = 0; i < _text.Length; i++)
            {
                while (matched > 0 && _text[i] != _text[matched]) matched = _fallback[matched];
                if (_text[i] == _text[matched]) matched++;
                _fallback[i + 1] = matched;
            }
        }

        public string Given { get; }
        public int Length => _text.Length;

        /// <summary>Characters of the stop string that the text ends with now.</summary>
        public int Matched { get; private set; }

        /// <summary>Takes the next character of the text; true when it completes the stop string.</summary>
        public bool Advance(char c)
        {
            while (Matched > 0 && _text[Matched] != c) Matched = _fallback[Matched];
            if (_text[Matched] == c) Matched++;
            return Matched == _text.Length;
        }

        /// <summary>Goes on after a match that does not count.</summary>
        public void Pass() => Matched = _fallback[Matched];

        public void Reset() => Matched = 0;
    }
}
