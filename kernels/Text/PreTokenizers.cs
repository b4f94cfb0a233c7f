namespace Native.Kernels.Text;

/// <summary>One kind of pre-tokenizer as <c>tokenizer.ggml.pre</c> names it.</summary>
/// <param name="Names">The names that mean it.</param>
/// <param name="Steps">Its patterns, each splitting what the one before left.</param>
internal sealed record PreTokenizerRow(string[] Names, PreTokenizerStep[] Steps)
{
    /// <summary>See <see cref="TokenizerDefinition.IgnoreMerges"/>.</summary>
    public bool IgnoreMerges { get; init; }

    /// <summary>Whether the text gets a BOS where the file does not say.</summary>
    public bool AddsBos { get; init; }

    /// <summary>Whether the text gets a BOS even if the file says no, and a run of newlines may be one token (see
    /// <see cref="TokenizerDefinition.NewlinesAreTokens"/>).</summary>
    public bool Gemma4 { get; init; }

    /// <summary>Symbols are characters, with spaces as U+2581 and byte tokens as fallback, instead of bytes.</summary>
    public bool Characters { get; init; }

    public SupplementaryRange[] Ranges { get; init; } = [];
}

/// <summary>The pre-tokenizers that GGUF files name, as llama.cpp has them (src/llama-vocab.cpp, src/unicode.cpp): the
/// same names, and patterns that cut as its own do, also where those are simpler than the models'
/// tokenizer.json.</summary>
/// <remarks>Case-insensitive groups are spelled out ([sS]), so that the Kelvin sign and the long s do not match.
/// llama.cpp knows upper and lower case only in ASCII, and in a class of literal characters no space beyond ASCII:
/// hence the subtracted classes.</remarks>
internal static class PreTokenizers
{
    private const string Contractions = "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]";
    private const string Spaces = @"|\s*[\r\n]+|\s+(?!\S)|\s+";
    private const string Words = @"[^\r\n\p{L}\p{N}]?\p{L}+";
    private const string Symbols = @"| ?[^\s\p{L}\p{N}]+[\r\n]*";

    internal const string Gpt2 = @"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    private const string Llama3 = Contractions + "|" + Words + @"|\p{N}{1,3}" + Symbols + Spaces;
    private const string Qwen2 = Contractions + "|" + Words + @"|\p{N}" + Symbols + Spaces;

    // Words in which an upper-case run is followed by a lower-case one; letters beyond ASCII are both.
    private const string Upper = @"[\p{L}-[a-z]]";
    private const string Lower = @"[\p{L}-[A-Z]]";
    private const string UpperOrMark = @"[\p{L}\p{M}-[a-z]]";
    private const string LowerOrMark = @"[\p{L}\p{M}-[A-Z]]";
    private const string Lead = @"[^\r\n\p{L}\p{N}]?";
    private const string Contraction = "(?:" + Contractions + ")?";
    private const string PathSymbols = @"| ?[^\s\p{L}\p{N}]+[\r\n/]*";
    private const string Gpt4o = Lead + Upper + "*" + Lower + "+" + Contraction + "|" + Lead + Upper + "+" + Lower + "*"
        + Contraction + @"|\p{N}{1,3}" + PathSymbols + Spaces;
    private const string MarkedWords = Lead + @"[\p{L}\p{M}]+" + Contraction;

    private const string DeepSeek3Words =
        @"[!""#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
        + Spaces;
    private const string Kana = @"[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+";
    private const string Bloom = @" ?[^(\s|.,!?\u2026\u3002\uFF0C\u3001\u0964\u06D4\u060C)]+";

    // Ideographs; the supplementary ones are seen as U+9FFF.
    private const string Han = @"\u3400-\u4DBF\u4E00-\u9FFF\uF900-\uFAFF";

    // U+0800 to the ideographs, and Hangul.
    private const string DeepSeekCjk = @"[\u4E00-\u9FA5\u0800-\u4E00\uAC00-\uD7FF-[\s]]+";

    // Cased letters as DeepSeek's first tokenizer lists them.
    private const string DeepSeekLetters =
        @"A-Za-z\u00B5\u00C0-\u00D6\u00D8-\u00F6\u00F8-\u01BA\u01BC-\u01BF\u01C4-\u0293\u0295-\u02AF"
        + @"\u0370-\u0373\u0376\u0377\u037B-\u037D\u037F\u0386\u0388-\u038A\u038C"
        + @"\u038E-\u03A1\u03A3-\u03F5\u03F7-\u0481\u048A-\u052F\u0531-\u0556\u10A0-\u10C5\u13A0-\u13F5"
        + @"\u13F8-\u13FD\u1C90-\u1CBA\u1CBD-\u1CBF\u1D00-\u1D2B\u1D6B-\u1D77\u1D79-\u1D9A"
        + @"\u1E00-\u1F15\u1F18-\u1F1D\u1F20-\u1F45\u1F48-\u1F4D\u1F50-\u1F57\u1F59\u1F5B\u1F5D\u1F5F-\u1F7D"
        + @"\u1F80-\u1FB4\u1FB6-\u1FBC\u1FBE\u1FC2-\u1FC4\u1FC6-\u1FCC\u1FD0-\u1FD3"
        + @"\u1FD6-\u1FDB\u1FE0-\u1FEC\u1FF2-\u1FF4\u1FF6-\u1FFC\u2102\u2107\u210A-\u2113\u2115\u2119-\u211D"
        + @"\u2124\u2126\u2128\u212A-\u212D\u212F-\u2134\u2139\u213C-\u213F\u2145-\u2149"
        + @"\u214E\u2183\u2184\u2C00-\u2C7B\u2C7E-\u2CE4\u2CEB-\u2CEE\u2CF2\u2CF3\uA640-\uA66D\uA680-\uA69B"
        + @"\uA722-\uA76F\uA771-\uA787\uA78B-\uA78E\uAB70-\uABBF\uFB00-\uFB06\uFB13-\uFB17\uFF21-\uFF3A\uFF41-\uFF5A";

    // Not seen as an ASCII letter: the row's next pattern cuts those out again.
    private static readonly SupplementaryRange[] DeepSeekRanges =
    [
        new(0x10400, 0x1044F, '\u00C0'), new(0x104B0, 0x104D3, '\u00C0'), new(0x104D8, 0x104FB, '\u00C0'),
        new(0x10C80, 0x10CB2, '\u00C0'),
        new(0x10CC0, 0x10CF2, '\u00C0'), new(0x118A0, 0x118DF, '\u00C0'), new(0x1E900, 0x1E943, '\u00C0'),
    ];

    private static readonly SupplementaryRange[] HanRanges =
    [
        new(0x20000, 0x2A6DF, '\u9FFF'), new(0x2A700, 0x2B73F, '\u9FFF'), new(0x2B740, 0x2B81F, '\u9FFF'),
        new(0x2B820, 0x2CEAF, '\u9FFF'), new(0x2CEB0, 0x2EBEF, '\u9FFF'), new(0x2F800, 0x2FA1F, '\u9FFF'),
    ];

    public static readonly PreTokenizerRow[] Rows =
    [
        new(["default"], [@"[\p{P}\$\+<=>\^~\|]+", Gpt2, @"\p{N}+", "[0-9][0-9][0-9]"]),
        new(["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
            [Llama3]) { IgnoreMerges = true, AddsBos = true },
        new(["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"], [Llama3]),
        new(["qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "solar-open", "megrez", "kormo", "f2llmv2", "grok-2"],
            [Qwen2]),
        new(["qwen35"], [Contractions
            + @"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + Spaces]),
        new(["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
            [@"\p{N}", Gpt2]),
        new(["gpt-2", "phi-2", "jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code",
            "roberta-bpe", "gigachat", "a.x-4.0", "mellum", "modern-bert",
            "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4"], [Gpt2]),
        new(["falcon"], [@"[\p{P}\$\+<=>\^~\|`]+", Gpt2, "[0-9][0-9][0-9]"]),
        new(["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], [Gpt4o]),
        new(["granite-embed-multi-97m"],
            [Lead + UpperOrMark + "*" + LowerOrMark + "+" + Contraction + "|" + Lead + UpperOrMark + "+" + LowerOrMark
            + "*" + Contraction + @"|\p{N}{1,3}" + PathSymbols + Spaces]) { IgnoreMerges = true },
        new(["tekken"], [Lead + Upper + "*" + Lower + "+|" + Lead + Upper + "+" + Lower + @"*|\p{N}" + PathSymbols
            + Spaces]) { IgnoreMerges = true, AddsBos = true },
        new(["tiny_aya", "cohere2moe"], [DigitGrouping.Numbers, MarkedWords + @"|\p{N}{1,3}" + PathSymbols + Spaces]),
        new(["deepseek-llm"], [@"[\r\n]", @"\s?[" + DeepSeekLetters + "]+",
            @"\s?[!-/:-~\uFF01-\uFF0F\uFF1A-\uFF5E\u2018-\u201F\u3001\u3002]+", @"\s+\z", DeepSeekCjk, @"\p{N}+"])
            { Ranges = DeepSeekRanges },
        new(["deepseek-coder"], [@"[\r\n]", @"\s?\p{L}+", @"\s?\p{P}+", DeepSeekCjk, @"\p{N}"]),
        new(["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"], [@"\p{N}{1,3}", Kana, DeepSeek3Words]),
        new(["spark2_5"], [@"\p{N}{1,3}", Kana,
            @"[!""#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"
            + @"|[\r\n]|\s+(?!\S)|\s+", @"\p{N}"]),
        new(
            ["youtu"],
            [@"[\uAC00-\uD7A3\u3131-\u318E]+|[\uFF01\u2026\u201C\u201D\u2018\u2019\u2014\uFF1A\uFF1B\uFF0C"
                + @"\u3001-\u303F\uFE30-\uFE4F]+|[\u3105-\u312F]+|" + Kana,
            MarkedWords + @"|\p{N}" + PathSymbols + Spaces]) { IgnoreMerges = true },
        new(["poro-chat", "bloom", "gpt3-finnish"], [Bloom]),
        new(["viking"], [Bloom, @"\p{N}"]),
        new(["chameleon"], ["<sentinel:[0-9]+>", "IMGIMG[A-I]{1,4}Z", @"[\t\n]|    |  ", @"\p{N}",
            @"[\p{P}!-/:-@\[-`{-~]", Gpt2]) { AddsBos = true },
        new(["kimi-k2"], ["[" + Han + "]+|" + Lead + @"[\p{L}-[" + Han + "]]+" + Contraction + @"|\p{N}{1,3}" + Symbols
            + Spaces]) { Ranges = HanRanges },
        new(["superbpe"], [@"\p{N}+", DigitGrouping.Digits]),
        new(["bailingmoe", "bailingmoe2", "llada-moe"],
            ["'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|" + Words + @"|\p{N}" + Symbols
            + @"|\s*[\r\n]|\s+(?!\S)|\s+"]),
        new(["seed-coder"], [Contractions + "|" + Words + @"|\p{N}| ?[^\s\p{L}\p{N}\r\n]+" + Spaces]),
        new(["ufakzeka"], [Words + @"|\p{N}" + Symbols + Spaces]),
        new(["afmoe"], [DigitGrouping.Numbers,
            // U+8C48 is here instead of the intended F900, which composes to it. The subtracted characters are those
            // that SeenAs gives for supplementary ones.
            @"[\u3400-\u4DBF\u8C48-\uFAFF\u3040-\u309F\u30A0-\u30FF\uFF65-\uFF9F\u2F00-\u2FDF\u4E00-\u9FFF"
                + @"\u0E40-\u0E7F\u0E80-\u0EFF\u1780-\u17FF\u1000-\u109F\u1100-\u11FF-[\uA6E6\uA790\uA791\uA823"
                + @"\uEFFE]]+", DeepSeek3Words]),
        new(["laguna"], [@"[^\n]+|[\n]+", Qwen2]),
        new(["exaone-moe"], [Contractions
            + @"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]"
            + @"|\s+(?!\S)|\s+"]),
        new(["minicpm5"], [@"\p{N}{1,3}", Contractions + "|" + Words + @"|\p{N}+" + Symbols + Spaces])
            { IgnoreMerges = true },
        new(["jais-2"], [Contractions + "|" + Words + @"|\p{N}{1,3}" + Symbols
            // The lookbehind only saves time: a run that is cut into pieces is searched for a line end once, not once
            // per piece.
            + @"|(?<![^\S\r\n])\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)"
            + @"|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s"]),
        new(["gemma4", "granite-embed-multi-311m"], [@"[^\n]+|[\n]+"]) { Characters = true, Gemma4 = true },
        new(["sarvam-moe"], [@"[^\n]+|[\n]+"]) { Characters = true },
    ];

    private static readonly Dictionary<string, Lazy<PreTokenizer>> ByName = Rows
        .Select(row => (row.Names, PreTokenizer: new Lazy<PreTokenizer>(() => new PreTokenizer(row.Steps, row.Ranges))))
        .SelectMany(r => r.Names.Select(name => (name, r.PreTokenizer)))
        .ToDictionary(r => r.name, r => r.PreTokenizer, StringComparer.Ordinal);

    public static IEnumerable<string> Names => Rows.SelectMany(r => r.Names).Order(StringComparer.Ordinal);

    public static PreTokenizerRow? Find(string name) =>
        Array.Find(Rows, r => r.Names.Contains(name, StringComparer.Ordinal));

    /// <summary>The row's splitter, compiled once per process.</summary>
    public static PreTokenizer Get(PreTokenizerRow row) => ByName[row.Names[0]].Value;
}
