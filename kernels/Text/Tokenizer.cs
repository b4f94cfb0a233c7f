using System.Buffers;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.RegularExpressions;
using Native.Kernels.Files;

namespace Native.Kernels.Text;

/// <summary>Text to token ids and back: byte-pair encoding over bytes (GPT-2's) or over characters with byte fallback
/// (SentencePiece's), read from GGUF metadata, tokenizer.json or tokenizer.model. Safe for any number of
/// threads.</summary>
/// <remarks>
/// One algorithm serves both: when a file is read, SentencePiece's scores become ranks of pairs, as in a merge list.
/// Encoding takes O(n log n) time for any text.
/// </remarks>
public sealed class Tokenizer
{
    /// <summary>Longest control token, in characters. Escaping of users' texts searches the end of every text for the
    /// beginning of one. Real ones have some forty.</summary>
    private const int MaxControlLength = 512;

    private readonly string[] _pieces;
    private readonly TokenType[] _types;
    private readonly TokenEdges[] _edges;
    private readonly byte[] _bytes;
    private readonly int[] _byteOffsets;
    private readonly HashSet<int> _endIds;

    private readonly SpecialTokens _userTokens, _allTokens;
    private readonly SpecialTokens _normalizedUserTokens, _normalizedTokens; // searched in the normalized text
    private readonly SymbolTable _symbols;
    private readonly Normalizer _normalizer;
    private readonly PreTokenizer _preTokenizer, _bytePreTokenizer;
    private readonly bool _byteLevel, _ggufTokens, _ignoreMerges, _newlinesAreTokens, _escapeSpaces, _fuseAcrossWords;
    private readonly SpacePrefix _spacePrefix;
    private readonly bool _prefixUnlessSpace;
    private readonly int[] _prefix, _suffix;

    internal Tokenizer(TokenizerDefinition definition)
    {
        int count = definition.Pieces.Length;
        if (count == 0)
            throw new InvalidDataException($"{definition.Source}: expected a vocabulary, found one without tokens");
        _types = [.. definition.Types]; // changed below; the table of symbols keeps the file's types
        _edges = definition.Edges ?? [];
        _pieces = new string[count];
        for (int id = 0; id < count; id++) _pieces[id] = definition.Pieces[id] ?? "";
        _byteLevel = definition.ByteLevel;
        _ggufTokens = definition.GgufTokens;
        _ignoreMerges = definition.IgnoreMerges;
        _newlinesAreTokens = definition.NewlinesAreTokens;
        _escapeSpaces = definition.EscapeSpaces;
        _fuseAcrossWords = definition.FuseAcrossWords;
        _normalizer = definition.Normalizer;
        _spacePrefix = definition.SpacePrefix;
        _prefixUnlessSpace = definition.PrefixUnlessSpace;
        _preTokenizer = definition.PreTokenizer;
        _bytePreTokenizer = definition.BytePreTokenizer;
        StripsLeadingSpace = definition.StripsLeadingSpace;
        BosId = definition.BosId;
        EosId = definition.EosId;
        UnknownId = definition.UnknownId;
        PadId = definition.PadId;
        _prefix = definition.Prefix;
        _suffix = definition.Suffix;
        ChatTemplate = definition.ChatTemplate;
        ToolUseTemplate = definition.ToolUseTemplate;

        _endIds = EndTokens.Collect(definition, _pieces, _types);
        EndIds = [.. _endIds.Order()];
        (_bytes, _byteOffsets) = TextOfPieces(definition);
        bool skipsFailed = !_ggufTokens;
        (_userTokens, _allTokens, _normalizedUserTokens, _normalizedTokens) =
            (new(skipsFailed), new(skipsFailed), new(skipsFailed), new(skipsFailed));
        for (int id = 0; id < count; id++)
        {
            if (_pieces[id].Length == 0) continue;
            bool special = _types[id] is TokenType.Control or TokenType.Unknown;
            if (!special && _types[id] != TokenType.UserDefined) continue;
            if (special && _pieces[id].Length > MaxControlLength)
                throw new InvalidDataException(
                    $"{definition.Source}: token {id}: expected a control token of at most {MaxControlLength} "
                    + $"characters, found {_pieces[id].Length}");
            // tokenizer.model has them escaped
            string text = definition.Scores is null || special || definition.GgufTokens ? _pieces[id]
                : _pieces[id].Replace('\u2581', ' ');
            bool normalized = definition.NormalizedTokens.Contains(id);
            if (normalized) text = Normalized(definition.Source, id);
            (normalized ? _normalizedTokens : _allTokens).Add(text, id);
            if (!special) (normalized ? _normalizedUserTokens : _userTokens).Add(text, id);
        }
        foreach (SpecialTokens tokens in (SpecialTokens[])[_userTokens, _allTokens, _normalizedUserTokens,
            _normalizedTokens]) tokens.Freeze();
        _symbols = new SymbolTable(definition, _pieces, definition.Types);
    }

    private string Normalized(string source, int id)
    {
        try
        {
            return _normalizer.Apply(WellFormed(_pieces[id]));
        }
        catch (Exception e) when (e is TextEncodingException or RegexMatchTimeoutException)
        {
            throw new InvalidDataException(
                $"{source}: added token {id}: expected a text that the normalizer can rewrite, found one it cannot: "
                + $"{e.Message}", e);
        }
    }

    /// <summary>The tokenizer in a GGUF file's <c>tokenizer.ggml.*</c> metadata.</summary>
    /// <exception cref="InvalidDataException">A field is missing or wrong, or the model or <c>pre</c> is not supported;
    /// the message lists what is.</exception>
    public static Tokenizer FromGguf(GgufFile file) => new(GgufTokenizer.Read(file));

    /// <summary>The tokenizer of a Hugging Face folder: tokenizer.json, or else tokenizer.model. tokenizer_config.json,
    /// generation_config.json, config.json and chat_template.jinja are read if present.</summary>
    /// <exception cref="InvalidDataException">A file is malformed, or needs something that is not
    /// supported.</exception>
    /// <exception cref="FileNotFoundException">The folder has neither tokenizer.json nor tokenizer.model.</exception>
    public static Tokenizer FromFolder(string folder) => new(HuggingFaceTokenizer.Read(folder));

    public int VocabularySize => _pieces.Length;

    /// <summary>Beginning of text.</summary>
    public int? BosId { get; }

    /// <summary>End of text, or of a turn, as the file names it.</summary>
    public int? EosId { get; }

    public int? UnknownId { get; }
    public int? PadId { get; }

    /// <summary>Every id that ends a generation: EOS, end of turn, end of message, and well-known end texts,
    /// ascending.</summary>
    public IReadOnlyList<int> EndIds { get; }

    /// <summary>Whether <see cref="Encode(string, bool, bool)"/> with special tokens adds tokens in front, usually
    /// <see cref="BosId"/>.</summary>
    public bool AddsBos => _prefix.Length > 0;

    /// <summary>Tokens that <see cref="EncodePrompt"/> adds in front of a text.</summary>
    public int PrefixLength => _prefix.Length;

    /// <summary>Whether <see cref="Encode(string, bool, bool)"/> with special tokens adds tokens at the end, usually
    /// <see cref="EosId"/>.</summary>
    public bool AddsEos => _suffix.Length > 0;

    /// <summary>The chat template, in Jinja, or null.</summary>
    public string? ChatTemplate { get; }

    /// <summary>The model's own chat template for conversations with tools ("tool_use"), or null.</summary>
    public string? ToolUseTemplate { get; }

    /// <summary>Whether a whole text's ids begin with a space that the tokenizer adds and <see cref="Decode"/>
    /// drops.</summary>
    public bool StripsLeadingSpace { get; }

    /// <summary>The ids of a text. Lone surrogates are read as U+FFFD.</summary>
    /// <param name="text">Any text, NUL included.</param>
    /// <param name="addSpecial">Adds BOS and EOS as the model needs them. A chat template usually writes its own BOS:
    /// pass false then.</param>
    /// <param name="parseSpecial">Control tokens written out in the text ("&lt;|im_start|&gt;") become their ids. False
    /// for what a user typed: then they are plain text. User-defined tokens are matched either way.</param>
    /// <exception cref="TextEncodingException">A pattern of the tokenizer's file takes too long on this text, or the
    /// normalizer makes it too long.</exception>
    public int[] Encode(string text, bool addSpecial, bool parseSpecial) =>
        Encode(text, addSpecial, parseSpecial, null);

    private int[] Encode(string text, bool addSpecial, bool parseSpecial, IReadOnlySet<int>? plainAt)
    {
        try
        {
            return EncodeCounted(text, addSpecial, parseSpecial, out _, plainAt);
        }
        catch (RegexMatchTimeoutException e)
        {
            throw new TextEncodingException(
                $"The model's tokenizer takes too long on this text of {text.Length} characters: its pattern "
                + $"'{e.Pattern}' did not come to an end in {e.MatchTimeout.TotalSeconds:0.#} s.", e);
        }
    }

    /// <summary>The ids of a text with control tokens written out, of which a user typed some parts.</summary>
    /// <param name="text">Any text.</param>
    /// <param name="plainAt">Offsets at which no control token may begin.</param>
    /// <exception cref="TextEncodingException">A pattern of the tokenizer's file takes too long on this text, or the
    /// normalizer makes it too long.</exception>
    public int[] Encode(string text, IReadOnlySet<int> plainAt) =>
        Encode(text, addSpecial: false, parseSpecial: true, plainAt);

    /// <summary>The ids of a text for a model to continue. Control tokens written in it are read, and tokens that the
    /// model needs in front are added. Those at the end are not, because nothing continues an end token.</summary>
    /// <exception cref="TextEncodingException">As <see cref="Encode(string, bool, bool)"/>.</exception>
    public int[] EncodePrompt(string text) => [.. _prefix, .. Encode(text, addSpecial: false, parseSpecial: true)];

    /// <summary>The ids of a conversation that a chat template wrote, as in its makers' library: transformers adds
    /// nothing, llama.cpp (for GGUF files) adds the begin token unless the template wrote it.</summary>
    public int[] BeginConversation(int[] ids) =>
        _ggufTokens && _prefix.Length > 0 && (ids.Length == 0 || ids[0] != _prefix[0]) ? [.. _prefix, .. ids] : ids;

    internal int[] EncodeCounted(string text, bool addSpecial, bool parseSpecial, out long lookups,
        IReadOnlySet<int>? plainAt = null)
    {
        ArgumentNullException.ThrowIfNull(text);
        text = WellFormed(text);
        var encoding = new Encoding(this, text.Length, parseSpecial ? _normalizedTokens : _normalizedUserTokens);
        if (addSpecial) encoding.Ids.AddRange(_prefix);

        SpecialTokens tokens = parseSpecial ? _allTokens : _userTokens;
        int done = 0, from = 0;
        while (TryFind(tokens, text, done, ref from, out int start, out int end, out int id, plainAt))
        {
            if (start > done) encoding.Add(text.AsSpan(done, start - done), first: done == 0);
            encoding.Ids.Add(id);
            done = end;
        }
        if (done < text.Length) encoding.Add(text.AsSpan(done), first: done == 0);

        if (addSpecial) encoding.Ids.AddRange(_suffix);
        lookups = encoding.Lookups;
        return [.. encoding.Ids];
    }

    /// <summary>The next token in the text at or after <paramref name="from"/>, with the whitespace that it consumes.
    /// Control tokens at an offset of <paramref name="plainAt"/> are skipped.</summary>
    private bool TryFind(SpecialTokens tokens, ReadOnlySpan<char> text, int done, ref int from, out int start,
        out int end, out int id, IReadOnlySet<int>? plainAt = null)
    {
        bool found = tokens.TryFind(text, from, _edges, out start, out int length, out id);
        while (found && plainAt is not null && plainAt.Contains(start) && IsSpecial(id))
            found = tokens.TryFind(text, start + 1, _edges, out start, out length, out id);
        from = end = start + length;
        if (found && _edges.Length > 0)
        {
            TokenEdges edges = _edges[id];
            while ((edges & TokenEdges.StripLeft) != 0 && start > done && IsSpace(text[start - 1])) start--;
            while ((edges & TokenEdges.StripRight) != 0 && end < text.Length && IsSpace(text[end])) end++;
            if (_ggufTokens) from = end; // Hugging Face's tokenizers still find tokens in consumed whitespace
        }
        return found;
    }

    /// <summary>A token's bytes in running text. A character may span several tokens.</summary>
    /// <param name="id">The token.</param>
    /// <param name="skipSpecial">True: control and unknown tokens have no bytes. False: their bytes are those of their
    /// written form.</param>
    /// <exception cref="ArgumentOutOfRangeException">No such id.</exception>
    public ReadOnlySpan<byte> Bytes(int id, bool skipSpecial = true) =>
        IsSpecial(id) && skipSpecial ? [] : WrittenOut(id);

    /// <summary>A token as the vocabulary writes it, for display and log-probabilities.</summary>
    /// <exception cref="ArgumentOutOfRangeException">No such id.</exception>
    public string Piece(int id) => _pieces[Checked(id)];

    /// <summary>Whether a token is control or unknown, so not part of running text.</summary>
    /// <exception cref="ArgumentOutOfRangeException">No such id.</exception>
    public bool IsSpecial(int id) => _types[Checked(id)] is TokenType.Control or TokenType.Unknown;

    /// <summary>Whether a generation ends with this id.</summary>
    public bool IsEnd(int id) => _endIds.Contains(id);

    /// <summary>The text of a whole sequence of ids. Bytes that are not UTF-8 become U+FFFD.</summary>
    /// <param name="ids">Any ids of the vocabulary.</param>
    /// <param name="skipSpecial">Leaves control tokens out; otherwise they are written out.</param>
    /// <exception cref="ArgumentOutOfRangeException">No such id.</exception>
    public string Decode(ReadOnlySpan<int> ids, bool skipSpecial = true)
    {
        var bytes = new ArrayBufferWriter<byte>(ids.Length * 4 + 1);
        bool atStart = true;
        foreach (int id in ids) bytes.Write(Visible(id, skipSpecial, ref atStart));
        return System.Text.Encoding.UTF8.GetString(bytes.WrittenSpan);
    }

    /// <summary>The text that a token adds; <paramref name="atStart"/> says whether the text so far is empty.</summary>
    public ReadOnlySpan<byte> Visible(int id, bool skipSpecial, ref bool atStart)
    {
        bool special = IsSpecial(id);
        if (special && skipSpecial) return [];
        ReadOnlySpan<byte> bytes = WrittenOut(id);
        if (bytes.IsEmpty) return bytes;
        if (atStart && StripsLeadingSpace && !special && bytes[0] == (byte)' ') bytes = bytes[1..];
        atStart = false;
        return bytes;
    }

    private ReadOnlySpan<byte> WrittenOut(int id) => _bytes.AsSpan(_byteOffsets[id].._byteOffsets[id + 1]);

    private int Checked(int id)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(id);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(id, _pieces.Length);
        return id;
    }

    // Whitespace that a token consumes: llama.cpp knows no space beyond ASCII.
    private bool IsSpace(char c) => char.IsWhiteSpace(c) && (char.IsAscii(c) || !_ggufTokens);

    /// <summary>Replaces lone surrogates by U+FFFD.</summary>
    public static string WellFormed(string text)
    {
        int first = text.AsSpan().IndexOfAnyInRange('\uD800', '\uDFFF');
        if (first < 0) return text;
        return string.Create(text.Length, text, static (target, source) =>
        {
            source.CopyTo(target);
            for (int i = 0; i < target.Length; i++)
            {
                if (!char.IsSurrogate(target[i])) continue;
                if (i + 1 < target.Length && char.IsSurrogatePair(target[i], target[i + 1])) i++;
                else target[i] = '\uFFFD';
            }
        });
    }

    private (byte[] Bytes, int[] Offsets) TextOfPieces(TokenizerDefinition definition)
    {
        var bytes = new ArrayBufferWriter<byte>(_pieces.Length * 8 + 1);
        int[] offsets = new int[_pieces.Length + 1];
        for (int id = 0; id < _pieces.Length; id++)
        {
            string piece = _pieces[id];
            switch (_types[id])
            {
                case TokenType.Byte:
                    bytes.Write([ByteToken(definition, id)]);
                    break;
                case TokenType.Unused when definition.GgufTokens:
                    break;
                case TokenType.Normal or TokenType.Unused when _byteLevel:
                    foreach (Rune rune in piece.EnumerateRunes())
                    {
                        int value = rune.IsBmp ? ByteAlphabet.Byte((char)rune.Value) : -1;
                        Span<byte> utf8 = bytes.GetSpan(4);
                        if (value >= 0) utf8[0] = (byte)value;
                        bytes.Advance(value >= 0 ? 1 : rune.EncodeToUtf8(utf8));
                    }
                    break;
                case TokenType.UserDefined when definition.GgufTokens:
                    System.Text.Encoding.UTF8.GetBytes(piece, bytes);
                    break;
                case TokenType.Normal or TokenType.Unused or TokenType.UserDefined when _escapeSpaces:
                    System.Text.Encoding.UTF8.GetBytes(piece.Replace('\u2581', ' '), bytes);
                    break;
                default:
                    System.Text.Encoding.UTF8.GetBytes(piece, bytes);
                    break;
            }
            offsets[id + 1] = bytes.WrittenCount;
        }
        return (bytes.WrittenSpan.ToArray(), offsets);
    }

    internal static byte ByteToken(TokenizerDefinition definition, int id)
    {
        ReadOnlySpan<char> piece = definition.Pieces[id];
        if (piece.Length == 6 && piece.StartsWith("<0x") && piece[5] == '>'
            && byte.TryParse(piece[3..5], System.Globalization.NumberStyles.AllowHexSpecifier,
                System.Globalization.CultureInfo.InvariantCulture, out byte value)) return value;
        throw new InvalidDataException(
            $"{definition.Source}: token {id} is a byte: expected its text as <0x00> to <0xFF>, found '{piece}'");
    }

    /// <summary>The scratch of one call of Encode.</summary>
    private sealed class Encoding(Tokenizer owner, int length, SpecialTokens normalizedTokens)
    {
        private readonly Merger _merger = new(owner._symbols.Merges);
        private readonly List<(int Start, int End)> _words = [];
        private int[] _buffer = new int[64];
        private byte[] _utf8 = new byte[256];
        private char[] _mapped = [];
        private int _fuseFrom;

        public List<int> Ids { get; } = new(length / 4 + 2);
        public long Lookups => _merger.Lookups;

        /// <summary>Encodes the text between two tokens.</summary>
        public void Add(ReadOnlySpan<char> text, bool first)
        {
            if (!owner._normalizer.IsNone) text = owner._normalizer.Apply(text.ToString());
            int done = 0, from = 0;
            while (owner.TryFind(normalizedTokens, text, done, ref from, out int start, out int end, out int id))
            {
                if (start > done) AddText(text[done..start], first && done == 0);
                Ids.Add(id);
                done = end;
            }
            if (done < text.Length) AddText(text[done..], first && done == 0);
        }

        private void AddText(ReadOnlySpan<char> text, bool first)
        {
            bool prefix = (owner._spacePrefix == SpacePrefix.EveryFragment
                || (owner._spacePrefix == SpacePrefix.FirstFragment && first))
                && !(owner._prefixUnlessSpace && (text[0] == ' ' || (text[0] == '\u2581' && !owner._byteLevel)));
            if (owner._byteLevel)
            {
                if (prefix) text = " " + text.ToString();
                owner._preTokenizer.Split(text, _words);
                if (!owner._bytePreTokenizer.IsNone)
                {
                    AddBytesCutFurther(text);
                    return;
                }
                foreach ((int start, int end) in CollectionsMarshal.AsSpan(_words)) AddBytes(text[start..end]);
                return;
            }
            if (prefix || owner._escapeSpaces)
            {
                char[] escaped = new char[text.Length + (prefix ? 1 : 0)];
                if (prefix) escaped[0] = ' ';
                text.CopyTo(escaped.AsSpan(prefix ? 1 : 0));
                if (owner._escapeSpaces) escaped.AsSpan().Replace(' ', '\u2581');
                text = escaped;
            }
            owner._preTokenizer.Split(text, _words);
            foreach ((int start, int end) in CollectionsMarshal.AsSpan(_words)) AddCharacters(text[start..end]);
        }

        /// <summary>Writes the text in GPT-2's alphabet and cuts that with further patterns.</summary>
        private void AddBytesCutFurther(ReadOnlySpan<char> text)
        {
            byte[] bytes = new byte[System.Text.Encoding.UTF8.GetByteCount(text)];
            int done = 0;
            foreach (ref (int Start, int End) word in CollectionsMarshal.AsSpan(_words))
            {
                int length = System.Text.Encoding.UTF8.GetBytes(text[word.Start..word.End], bytes.AsSpan(done));
                word = (done, done += length);
            }
            char[] mapped = new char[done];
            for (int i = 0; i < done; i++) mapped[i] = ByteAlphabet.Character(bytes[i]);
            owner._bytePreTokenizer.Refine(mapped, _words);
            foreach ((int start, int end) in CollectionsMarshal.AsSpan(_words)) AddBytes(bytes.AsSpan(start..end));
        }

        private void AddBytes(ReadOnlySpan<char> word)
        {
            int room = System.Text.Encoding.UTF8.GetMaxByteCount(word.Length);
            if (_utf8.Length < room) _utf8 = new byte[room];
            AddBytes(_utf8.AsSpan(0, System.Text.Encoding.UTF8.GetBytes(word, _utf8)));
        }

        private void AddBytes(ReadOnlySpan<byte> bytes)
        {
            _fuseFrom = owner._fuseAcrossWords ? 0 : Ids.Count;
            if (owner._ignoreMerges && bytes.Length <= owner._symbols.LongestText)
            {
                if (_mapped.Length < bytes.Length) _mapped = new char[owner._symbols.LongestText];
                for (int i = 0; i < bytes.Length; i++) _mapped[i] = ByteAlphabet.Character(bytes[i]);
                if (owner._symbols.TryGetToken(_mapped.AsSpan(0, bytes.Length), out int id))
                {
                    Ids.Add(id);
                    return;
                }
            }
            Span<int> symbols = Room(bytes.Length);
            int count = 0;
            foreach (byte b in bytes)
                if (owner._symbols.OfByte(b) is var symbol && !owner._symbols.IsDropped(symbol))
                    symbols[count++] = symbol;
            Finish(symbols[..count]);
        }

        /// <summary>Cuts the word further where no token can span the cut: in front of a space that follows another
        /// character.</summary>
        private void AddCharacters(ReadOnlySpan<char> word)
        {
            _fuseFrom = owner._fuseAcrossWords ? 0 : Ids.Count;
            bool whole = owner._ignoreMerges || (owner._newlinesAreTokens && word[0] == '\n');
            if (whole && owner._symbols.TryGetToken(word, out int id))
            {
                Ids.Add(id);
                return;
            }
            while (owner._symbols.SpacesLead && word.Length > 1)
            {
                int spaces = word.IndexOfAnyExcept('\u2581');
                int next = spaces < 0 ? -1 : word[spaces..].IndexOf('\u2581');
                if (next < 0) break;
                MergeCharacters(word[..(spaces + next)]);
                word = word[(spaces + next)..];
            }
            MergeCharacters(word);
        }

        private void MergeCharacters(ReadOnlySpan<char> word)
        {
            Span<int> symbols = Room(word.Length);
            int count = 0;
            foreach (Rune rune in word.EnumerateRunes())
                if (owner._symbols.OfCharacter(rune.Value) is var symbol && !owner._symbols.IsDropped(symbol))
                    symbols[count++] = symbol;
            Finish(symbols[..count]);
        }

        private Span<int> Room(int count)
        {
            if (_buffer.Length < count) _buffer = new int[Math.Max(count, _buffer.Length * 2)];
            return _buffer.AsSpan(0, count);
        }

        private void Finish(Span<int> symbols)
        {
            int count = _merger.Run(symbols);
            foreach (int symbol in symbols[..count])
            {
                if ((uint)symbol < (uint)owner._pieces.Length) Ids.Add(symbol);
                else owner._symbols.Expand(symbol, Ids, _fuseFrom);
            }
        }
    }
}
