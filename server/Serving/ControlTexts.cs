using System.Buffers;
using System.Text;
using Native.Kernels.Text;
using Native.Server.Jinja;

namespace Native.Server.Serving;

/// <summary>
/// Keeps what a user typed from being read as control tokens. A chat template writes texts such as
/// <c>&lt;|im_end|&gt;</c> that must become control tokens; the same text inside a message must not, or a message could
/// end its own turn and open the system's.
/// </summary>
/// <remarks>
/// Every string of a conversation is marked before the template sees it: a Unicode noncharacter stands after the first
/// character of each control text, and of what begins one at the string's end or before another, because templates cut
/// strings at control texts and print the parts one after another. After the template has run, no control token may
/// begin where a mark stands. Templates look through marks (<see cref="Marks"/>), so that one which cuts a message at a
/// control text, such as the end of old reasoning, still finds it.
/// </remarks>
internal sealed class ControlTexts
{
    private readonly Tokenizer _tokenizer;
    private readonly string[] _texts; // in ordinal order
    private readonly int _longest;
    private readonly SearchValues<string> _any;
    private readonly SearchValues<char> _first; // what control texts begin with

    public ControlTexts(Tokenizer tokenizer)
    {
        _tokenizer = tokenizer;
        _texts = [.. Enumerable.Range(0, tokenizer.VocabularySize).Where(tokenizer.IsSpecial).Select(tokenizer.Piece)
            .Where(text => text.Length > 1).Distinct().Order(StringComparer.Ordinal)];
        _longest = _texts.Max(text => (int?)text.Length) ?? 0;
        _any = SearchValues.Create(_texts, StringComparison.Ordinal);
        _first = SearchValues.Create([.. _texts.Select(text => text[0]).Distinct()]);
    }

    /// <summary>The text with its control texts marked; marks that were there before are dropped.</summary>
    /// <returns>The same string where there is nothing to mark.</returns>
    public string Mark(string text)
    {
        if (text.Contains(Marks.Character)) text = text.Replace(Marks.Character.ToString(), "");
        SortedSet<int> starts = [];
        int from = 0;
        // Control texts may overlap: every start counts. A template may cut the string there, so what begins one before
        // a cut counts too.
        for (int at; (at = text.AsSpan(from).IndexOfAny(_any)) >= 0; from += at + 1)
        {
            AddBeginnings(text, from, from + at, starts);
            starts.Add(from + at);
        }
        AddBeginnings(text, from, text.Length, starts);
        if (starts.Count == 0) return text;

        StringBuilder marked = new(text.Length + starts.Count);
        int done = 0;
        foreach (int start in starts)
        {
            marked.Append(text, done, start + 1 - done).Append(Marks.Character);
            done = start + 1;
        }
        return marked.Append(text, done, text.Length - done).ToString();
    }

    /// <summary>Adds the places from <paramref name="from"/> where a control text begins that <paramref name="end"/>
    /// cuts off.</summary>
    private void AddBeginnings(string text, int from, int end, SortedSet<int> starts)
    {
        for (int start = Math.Max(from, end - _longest + 1); start < end; start++)
        {
            int next = text.AsSpan(start, end - start).IndexOfAny(_first);
            if (next < 0) return;
            start += next;
            if (BeginsOne(text.AsSpan(start, end - start))) starts.Add(start);
        }
    }

    /// <summary>Whether a control text begins with this; in order, those that do follow right behind it.</summary>
    private bool BeginsOne(ReadOnlySpan<char> beginning)
    {
        int low = 0, high = _texts.Length;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (_texts[middle].AsSpan().SequenceCompareTo(beginning) < 0) low = middle + 1;
            else high = middle;
        }
        return low < _texts.Length && _texts[low].AsSpan().StartsWith(beginning);
    }

    /// <summary>The ids of a rendered conversation: marked texts are plain, unmarked ones are tokens.</summary>
    public int[] Encode(string text)
    {
        if (!text.Contains(Marks.Character)) return _tokenizer.Encode(text, addSpecial: false, parseSpecial: true);
        StringBuilder plain = new(text.Length);
        HashSet<int> plainAt = [];
        foreach (char c in text)
        {
            if (c == Marks.Character) plainAt.Add(plain.Length - 1);
            else plain.Append(c);
        }
        return _tokenizer.Encode(plain.ToString(), plainAt);
    }
}
