
namespace Native.Kernels.Text;

/// <summary>What a vocabulary entry is, with GGUF's numbers (<c>tokenizer.ggml.token_type</c>).</summary>
internal enum TokenType : byte
{
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// <summary>Where a SentencePiece vocabulary expects a space that is not in the text.</summary>
internal enum SpacePrefix
{
    None,

    /// <summary>Before the text, and before text that follows a special token.</summary>
    EveryFragment,

    /// <summary>Only before the text.</summary>
    FirstFragment,
}

/// <summary>The sides on which a special token consumes whitespace, and whether it must be a word of its own.</summary>
[Flags]
internal enum TokenEdges : byte
{
    None = 0,
    StripLeft = 1,
    StripRight = 2,
    SingleWord = 4,
}

/// <summary>A tokenizer as its file defines it, before the tables for encoding are built. Every loader returns
/// one.</summary>
internal sealed class TokenizerDefinition
{
    /// <summary>The file, for messages.</summary>
    public required string Source { get; init; }

    /// <summary>The vocabulary's own texts by id. A null is an id without a token.</summary>
    public required string?[] Pieces { get; init; }

    public required TokenType[] Types { get; init; }

    /// <summary>Edges by id, or null where no token has any.</summary>
    public TokenEdges[]? Edges { get; init; }

    /// <summary>SentencePiece scores by id; null where <see cref="Merges"/> order the pairs.</summary>
    public float[]? Scores { get; init; }

    /// <summary>Merges in order of rank.</summary>
    public IReadOnlyList<(string Left, string Right)> Merges { get; init; } = [];

    /// <summary>Whether a merge may name a text that is not a token. GGUF files have such merges where an added token
    /// replaced one.</summary>
    public bool LenientMerges { get; init; }

    /// <summary>Symbols are bytes written in GPT-2's alphabet; otherwise they are characters, with byte tokens as the
    /// fallback.</summary>
    public bool ByteLevel { get; init; }

    public PreTokenizer PreTokenizer { get; init; } = PreTokenizer.None;

    /// <summary>A word that is a token becomes that token without merges.</summary>
    public bool IgnoreMerges { get; init; }

    /// <summary>Spaces are written as U+2581.</summary>
    public bool EscapeSpaces { get; init; }

    public SpacePrefix SpacePrefix { get; init; }

    /// <summary>No space is added in front of a space.</summary>
    public bool PrefixUnlessSpace { get; init; }

    /// <summary>Whether decoding a whole text drops one leading space, the one that <see cref="SpacePrefix"/>
    /// added.</summary>
    public bool StripsLeadingSpace { get; init; }

    /// <summary>The first step for text between tokens.</summary>
    public Normalizer Normalizer { get; init; } = new();

    /// <summary>Added tokens that are searched in the normalized text.</summary>
    public IReadOnlySet<int> NormalizedTokens { get; init; } = new HashSet<int>();

    /// <summary>Added tokens that no text becomes by merging.</summary>
    public IReadOnlySet<int> BeyondModel { get; init; } = new HashSet<int>();

    /// <summary>Cuts the words further once they are written in GPT-2's alphabet.</summary>
    public PreTokenizer BytePreTokenizer { get; init; } = PreTokenizer.None;

    /// <summary>Neighbouring characters without a token become one unknown token instead of one each.</summary>
    public bool FuseUnknown { get; init; }

    /// <summary>Whether they do so across words.</summary>
    public bool FuseAcrossWords { get; init; }

    public int? BosId { get; init; }
    public int? EosId { get; init; }
    public int? UnknownId { get; init; }
    public int? PadId { get; init; }

    /// <summary>Ids in front of a text.</summary>
    public int[] Prefix { get; init; } = [];

    /// <summary>Ids at the end of a text.</summary>
    public int[] Suffix { get; init; } = [];

    /// <summary>End ids that the file names.</summary>
    public IReadOnlyCollection<int> EndIds { get; init; } = [];

    /// <summary>Whether <see cref="EndIds"/> and <see cref="EosId"/> are all the ends; else tokens with well-known
    /// texts are ends too.</summary>
    public bool ListsEnds { get; init; }

    /// <summary>Whether tokens are treated as llama.cpp treats a GGUF file's. Tokens with well-known texts are control
    /// tokens even if the file calls them ordinary. Unused tokens have no text. User-defined tokens are searched and
    /// written literally, U+2581 included.</summary>
    public bool GgufTokens { get; init; }

    /// <summary>Whether a word of newlines that is a token becomes that token without merges.</summary>
    public bool NewlinesAreTokens { get; init; }

    public string? ChatTemplate { get; init; }
    public string? ToolUseTemplate { get; init; }
}
