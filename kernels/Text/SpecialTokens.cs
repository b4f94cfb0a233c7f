using System.Buffers;
using System.Globalization;
using System.Text;

namespace Native.Kernels.Text;

/// <summary>Finds tokens that are matched in the text itself, before any splitting: the leftmost, and there the
/// longest.</summary>
internal sealed class SpecialTokens
{
    private readonly bool _skipsFailed;
    private readonly Dictionary<(int Node, char Next), int> _edges = [];
    private readonly List<int> _ids = [-1]; // by node
    private readonly HashSet<char> _firsts = [];
    private SearchValues<char>? _starts;

    /// <param name="skipsFailed">Whether a token that must stand alone, but does not, hides shorter ones within it, as
    /// in Hugging Face's tokenizers.</param>
    public SpecialTokens(bool skipsFailed) => _skipsFailed = skipsFailed;

    public void Add(string text, int id)
    {
        int node = 0;
        foreach (char c in text)
        {
            if (!_edges.TryGetValue((node, c), out int next))
            {
                next = _ids.Count;
                _ids.Add(-1);
                _edges.Add((node, c), next);
            }
            node = next;
        }
        if (node == 0) return;
        if (_ids[node] < 0) _ids[node] = id;
        _firsts.Add(text[0]);
        _starts = null;
    }

    /// <summary>Call once after the last <see cref="Add"/>.</summary>
    public void Freeze() => _starts = SearchValues.Create([.. _firsts]);

    /// <summary>The next token in <paramref name="text"/> at or after <paramref name="from"/>.</summary>
    public bool TryFind(ReadOnlySpan<char> text, int from, ReadOnlySpan<TokenEdges> edges, out int start,
        out int length, out int id)
    {
        for (start = from; ; start++)
        {
            int skip = _starts is null ? -1 : text[start..].IndexOfAny(_starts);
            if (skip < 0) break;
            start += skip;
            length = 0;
            id = -1;
            int failed = 0; // length of the longest token that must stand alone, but does not
            for (int i = start, node = 0; i < text.Length && _edges.TryGetValue((node, text[i]), out node); i++)
            {
                int here = _ids[node];
                if (here < 0) continue;
                if (!edges.IsEmpty && (edges[here] & TokenEdges.SingleWord) != 0 && !StandsAlone(text, start, i + 1))
                {
                    failed = i + 1 - start;
                    continue;
                }
                id = here;
                length = i + 1 - start;
            }
            if (_skipsFailed && failed > length)
            {
                start += failed - 1;
                continue;
            }
            if (id >= 0) return true;
        }
        length = 0;
        id = -1;
        return false;
    }

    private static bool StandsAlone(ReadOnlySpan<char> text, int start, int end)
    {
        bool before = Rune.DecodeLastFromUtf16(text[..start], out Rune left, out _) == OperationStatus.Done
            && IsWord(left);
        bool after = Rune.DecodeFromUtf16(text[end..], out Rune right, out _) == OperationStatus.Done && IsWord(right);
        return !before && !after;
    }

    private static bool IsWord(Rune rune)
        => Rune.IsLetterOrDigit(rune) || Rune.GetUnicodeCategory(rune)
            is UnicodeCategory.NonSpacingMark or UnicodeCategory.SpacingCombiningMark
            or UnicodeCategory.EnclosingMark or UnicodeCategory.ConnectorPunctuation or UnicodeCategory.LetterNumber;
}
