using System.Text;

namespace Native.Kernels.Text;

/// <summary>The symbols that words consist of: tokens by id, and beyond the vocabulary texts that occur only between
/// merges.</summary>
internal sealed class SymbolTable
{
    /// <summary>Longest SentencePiece piece that takes part in merging. Real ones have 16 to 64 characters.</summary>
    private const int MaxPieceLength = 512;

    private readonly TokenizerDefinition _definition;
    private readonly Dictionary<string, int> _symbols;
    private readonly Dictionary<string, int>.AlternateLookup<ReadOnlySpan<char>> _bySpan;
    private readonly List<string> _beyond = []; // texts of the symbols from the vocabulary's size on
    private readonly Dictionary<int, int> _characters = [];
    private readonly int[] _byteSymbols = new int[256];
    private readonly int[] _byteIds = new int[256];
    private readonly int _vocabularySize;

    public SymbolTable(TokenizerDefinition definition, string[] pieces, TokenType[] types)
    {
        _definition = definition;
        _vocabularySize = pieces.Length;
        _symbols = new Dictionary<string, int>(pieces.Length);
        _bySpan = _symbols.GetAlternateLookup<ReadOnlySpan<char>>();
        Array.Fill(_byteIds, -1);

        var others = new HashSet<string>();
        for (int id = 0; id < pieces.Length; id++)
        {
            if (pieces[id].Length == 0) continue;
            bool duplicate;
            if (types[id] is TokenType.Control or TokenType.Unknown or TokenType.Byte
                || definition.BeyondModel.Contains(id))
            {
                if (types[id] == TokenType.Byte) _byteIds[Tokenizer.ByteToken(definition, id)] = id;
                duplicate = !others.Add(pieces[id]);
            }
            else
            {
                duplicate = !_symbols.TryAdd(pieces[id], id);
                LongestText = Math.Max(LongestText, pieces[id].Length);
            }
            if (duplicate)
                throw new InvalidDataException(
                    $"{definition.Source}: token {id}: expected every token once, found '{pieces[id]}' again");
        }

        Merges = definition.Scores is { } scores ? FromScores(scores, pieces, types) : FromList(definition.Merges);
        for (int b = 0; b < 256; b++)
            _byteSymbols[b] = definition.ByteLevel ? Intern(ByteAlphabet.Character((byte)b).ToString()) : _byteIds[b];
        SpacesLead = !definition.ByteLevel
            && _symbols.Keys.All(static text => !text.AsSpan().TrimStart('\u2581').Contains('\u2581'));
        foreach ((string text, int symbol) in _symbols)
            if (Rune.TryGetRuneAt(text, 0, out Rune rune) && rune.Utf16SequenceLength == text.Length)
                _characters[rune.Value] = symbol;
    }

    public MergeTable Merges { get; }

    /// <summary>Characters of the longest token that text can become.</summary>
    public int LongestText { get; }

    /// <summary>Whether U+2581 only ever leads a token, so that words can be cut in front of it.</summary>
    public bool SpacesLead { get; }

    public bool TryGetToken(ReadOnlySpan<char> text, out int id) =>
        _bySpan.TryGetValue(text, out id) && id < _vocabularySize;

    public int OfByte(byte value) => _byteSymbols[value];

    /// <summary>Whether a symbol is dropped before merging, so that its neighbours can merge. llama.cpp drops it
    /// afterwards.</summary>
    public bool IsDropped(int symbol)
    {
        if (_definition.GgufTokens || _definition.UnknownId is not null || (uint)symbol < (uint)_vocabularySize)
            return false;
        if (_definition.ByteLevel) return true;
        Span<byte> utf8 = stackalloc byte[4];
        int length = symbol < 0 ? new Rune(~symbol).EncodeToUtf8(utf8)
            : Encoding.UTF8.GetBytes(_beyond[symbol - _vocabularySize], utf8);
        foreach (byte b in utf8[..length])
            if (_byteIds[b] < 0) return true;
        return false;
    }

    /// <summary>The symbol of a character. A character that no token has gets a negative symbol, which never
    /// merges.</summary>
    public int OfCharacter(int codePoint) => _characters.TryGetValue(codePoint, out int symbol) ? symbol : ~codePoint;

    /// <summary>Writes a symbol that is no token as byte tokens, or as the unknown token.</summary>
    /// <param name="symbol">A symbol that is not a token.</param>
    /// <param name="ids">Gets the ids.</param>
    /// <param name="fuseFrom">The first of <paramref name="ids"/> that an unknown token may be fused with.</param>
    public void Expand(int symbol, List<int> ids, int fuseFrom)
    {
        Span<byte> utf8 = stackalloc byte[4];
        if (symbol < 0)
        {
            Expand(utf8[..new Rune(~symbol).EncodeToUtf8(utf8)], ids, fuseFrom);
            return;
        }
        string text = _beyond[symbol - _vocabularySize];
        foreach (Rune rune in text.EnumerateRunes())
        {
            if (!_definition.ByteLevel)
            {
                if (text.Length > rune.Utf16SequenceLength && _characters.TryGetValue(rune.Value, out int id)
                    && id < _vocabularySize) ids.Add(id);
                else Expand(utf8[..rune.EncodeToUtf8(utf8)], ids, fuseFrom);
            }
            else if (_symbols.TryGetValue(rune.ToString(), out int id) && id < _vocabularySize) ids.Add(id);
            else Unknown(ids, fuseFrom);
        }
    }

    private void Expand(ReadOnlySpan<byte> utf8, List<int> ids, int fuseFrom)
    {
        foreach (byte b in utf8)
        {
            if (_byteIds[b] < 0)
            {
                Unknown(ids, fuseFrom);
                return;
            }
        }
        foreach (byte b in utf8) ids.Add(_byteIds[b]);
    }

    private void Unknown(List<int> ids, int fuseFrom)
    {
        if (_definition.UnknownId is not { } unknown
            || (_definition.FuseUnknown && ids.Count > fuseFrom && ids[^1] == unknown)) return;
        ids.Add(unknown);
    }

    private int Intern(string text)
    {
        if (_symbols.TryGetValue(text, out int symbol)) return symbol;
        symbol = _vocabularySize + _beyond.Count;
        _symbols.Add(text, symbol);
        _beyond.Add(text);
        return symbol;
    }

    private MergeTable FromList(IReadOnlyList<(string Left, string Right)> merges)
    {
        var table = new MergeTable(merges.Count);
        char[] joint = new char[64];
        for (int rank = 0; rank < merges.Count; rank++)
        {
            (string left, string right) = merges[rank];
            int length = left.Length + right.Length;
            if (joint.Length < length) joint = new char[length];
            left.CopyTo(joint);
            right.CopyTo(joint.AsSpan(left.Length));
            table.TryAdd(Of(left, rank), Of(right, rank), rank, Of(joint.AsSpan(0, length), rank));
        }
        return table;

        int Of(ReadOnlySpan<char> text, int rank)
        {
            if (_bySpan.TryGetValue(text, out int symbol)) return symbol;
            if (_definition.LenientMerges) return Intern(text.ToString());
            throw new InvalidDataException(
                $"{_definition.Source}: merge {rank}: expected tokens of the vocabulary, found '{merges[rank].Left}' "
                + $"+ '{merges[rank].Right}', of which '{text}' is none");
        }
    }

    /// <summary>SentencePiece joins any two neighbours whose joint text is a piece, best score first. So each way to
    /// cut a piece in two is a merge, ranked by the piece's score.</summary>
    private MergeTable FromScores(float[] scores, string[] pieces, TokenType[] types)
    {
        float[] distinct = [.. scores.Distinct().OrderDescending()];
        var ranks = new Dictionary<float, int>(distinct.Length);
        for (int rank = 0; rank < distinct.Length; rank++) ranks[distinct[rank]] = rank;

        var table = new MergeTable(pieces.Length * 2);
        for (int id = 0; id < pieces.Length; id++)
        {
            string piece = pieces[id];
            if (types[id] is TokenType.Control or TokenType.Unknown or TokenType.Byte) continue;
            if (piece.Length > MaxPieceLength)
            {
                if (types[id] == TokenType.UserDefined) continue;
                throw new InvalidDataException(
                    $"{_definition.Source}: token {id}: expected at most {MaxPieceLength} characters, found "
                    + $"{piece.Length}");
            }
            if (float.IsNaN(scores[id]))
                throw new InvalidDataException($"{_definition.Source}: token {id}: expected a score, found NaN");
            for (int cut = 1; cut < piece.Length; cut++)
            {
                if (char.IsLowSurrogate(piece[cut])) continue;
                int left = Part(piece.AsSpan(0, cut)), right = Part(piece.AsSpan(cut));
                if (left >= 0 && right >= 0) table.TryAdd(left, right, ranks[scores[id]], id);
            }
        }
        return table;

        // A piece, or a single character, with which joining starts even if it is not a piece.
        int Part(ReadOnlySpan<char> text)
        {
            if (_bySpan.TryGetValue(text, out int symbol)) return symbol;
            return text.Length == 1 || (text.Length == 2 && char.IsHighSurrogate(text[0]))
                ? Intern(text.ToString()) : -1;
        }
    }
}
