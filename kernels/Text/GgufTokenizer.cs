using Native.Kernels.Files;

namespace Native.Kernels.Text;

/// <summary>Reads <c>tokenizer.ggml.*</c> (the GGUF specification's names), with llama.cpp's defaults for missing
/// keys.</summary>
internal static class GgufTokenizer
{
    private const string Prefix = "tokenizer.ggml.";

    public static TokenizerDefinition Read(GgufFile file)
    {
        string model = file.GetString(Prefix + "model");
        return model switch
        {
            "llama" => ReadSentencePiece(file),
            "gpt2" or "gemma4" => ReadBytePair(file, model),
            _ => throw new InvalidDataException(
                $"{file.Path}: {Prefix}model: expected one of gemma4, gpt2, llama, found '{model}'"),
        };
    }

    private static TokenizerDefinition ReadSentencePiece(GgufFile file)
    {
        string[] pieces = file.GetStrings(Prefix + "tokens");
        float[] scores = file.GetSingles(Prefix + "scores");
        ExpectAtLeast(file, "scores", pieces.Length, scores.Length);
        TokenType[] types = ReadTypes(file, pieces);
        bool prefix = file.GetBooleanOrDefault(Prefix + "add_space_prefix", true);
        return new TokenizerDefinition
        {
            Source = file.Path,
            Pieces = pieces,
            Types = types,
            Edges = ReadEdges(file, pieces, types),
            Scores = scores,
            EscapeSpaces = true,
            SpacePrefix = prefix ? SpacePrefix.EveryFragment : SpacePrefix.None,
            StripsLeadingSpace = prefix,
            FuseUnknown = true,
            FuseAcrossWords = true,
            BosId = ReadId(file, "bos", pieces.Length, 1),
            EosId = ReadId(file, "eos", pieces.Length, 2),
            UnknownId = ReadId(file, "unknown", pieces.Length, 0),
            PadId = ReadId(file, "padding", pieces.Length),
            Prefix = Added(file, "bos", ReadId(file, "bos", pieces.Length, 1), true),
            Suffix = Added(file, "eos", ReadId(file, "eos", pieces.Length, 2), false),
            EndIds = ReadEnds(file, pieces.Length),
            GgufTokens = true,
            ChatTemplate = file.GetStringOrDefault("tokenizer.chat_template"),
            ToolUseTemplate = file.GetStringOrDefault("tokenizer.chat_template.tool_use"),
        };
    }

    private static TokenizerDefinition ReadBytePair(GgufFile file, string model)
    {
        string pre = model == "gemma4" ? "gemma4" : file.GetStringOrDefault(Prefix + "pre", "default")!;
        if (pre.Length == 0) pre = "default";
        PreTokenizerRow row = PreTokenizers.Find(pre)
            ?? throw new InvalidDataException(
                $"{file.Path}: {Prefix}pre: expected one of {string.Join(", ", PreTokenizers.Names)}, found '{pre}'");
        string[] pieces = file.GetStrings(Prefix + "tokens");
        TokenType[] types = ReadTypes(file, pieces);
        if (row.Characters)
        {
            for (int id = 0; id < pieces.Length; id++)
                // Found by their text
                if (types[id] == TokenType.Normal && TokenizerJson.IsByteToken(pieces[id])) types[id] = TokenType.Byte;
        }
        int? bos = ReadId(file, "bos", pieces.Length);
        return new TokenizerDefinition
        {
            Source = file.Path,
            Pieces = pieces,
            Types = types,
            Edges = ReadEdges(file, pieces, types),
            Merges = ReadMerges(file),
            LenientMerges = true,
            ByteLevel = !row.Characters,
            EscapeSpaces = row.Characters,
            PreTokenizer = PreTokenizers.Get(row),
            IgnoreMerges = row.IgnoreMerges,
            NewlinesAreTokens = row.Gemma4,
            BosId = bos,
            EosId = ReadId(file, "eos", pieces.Length),
            UnknownId = ReadId(file, "unknown", pieces.Length),
            PadId = ReadId(file, "padding", pieces.Length),
            Prefix = row.Gemma4 && bos is { } always ? [always] : Added(file, "bos", bos, row.AddsBos),
            Suffix = Added(file, "eos", ReadId(file, "eos", pieces.Length), false),
            EndIds = ReadEnds(file, pieces.Length),
            GgufTokens = true,
            ChatTemplate = file.GetStringOrDefault("tokenizer.chat_template"),
            ToolUseTemplate = file.GetStringOrDefault("tokenizer.chat_template.tool_use"),
        };
    }

    private static TokenType[] ReadTypes(GgufFile file, string[] pieces)
    {
        var types = new TokenType[pieces.Length];
        Array.Fill(types, TokenType.Normal);
        if (file.GetInt32sOrDefault(Prefix + "token_type") is not { } numbers) return types;
        ExpectAtLeast(file, "token_type", pieces.Length, numbers.Length);
        for (int id = 0; id < pieces.Length; id++)
            types[id] = numbers[id] is >= (int)TokenType.Normal and <= (int)TokenType.Byte
                ? (TokenType)numbers[id] : TokenType.Unused;
        return types;
    }

    // Phi-3's tokens consume the whitespace after them. GGUF has no field for this; llama.cpp goes by the model's name.
    private static TokenEdges[]? ReadEdges(GgufFile file, string[] pieces, TokenType[] types)
    {
        string name = file.GetStringOrDefault("general.name", "")!;
        if (!name.Contains("phi-3", StringComparison.OrdinalIgnoreCase)
            && !name.Contains("phi3", StringComparison.OrdinalIgnoreCase)) return null;
        var edges = new TokenEdges[pieces.Length];
        for (int id = 0; id < pieces.Length; id++)
        {
            bool strips = pieces[id] == "</s>"
                || (types[id] is TokenType.Control or TokenType.UserDefined or TokenType.Unknown
                && pieces[id] is not ("<unk>" or "<s>" or "<|endoftext|>"));
            edges[id] = strips ? TokenEdges.StripRight : TokenEdges.None;
        }
        return edges;
    }

    private static (string, string)[] ReadMerges(GgufFile file)
    {
        string[] lines = file.GetStrings(Prefix + "merges");
        var merges = new (string, string)[lines.Length];
        for (int i = 0; i < lines.Length; i++)
        {
            int space = lines[i].Length > 1 ? lines[i].IndexOf(' ', 1) : -1;
            if (space < 0 || space == lines[i].Length - 1)
                throw new InvalidDataException(
                    $"{file.Path}: {Prefix}merges: entry {i}: expected two texts with a space between, found "
                    + $"'{lines[i]}'");
            merges[i] = (lines[i][..space], lines[i][(space + 1)..]);
        }
        return merges;
    }

    private static List<int> ReadEnds(GgufFile file, int count)
    {
        var ends = new List<int>();
        foreach (string name in (string[])["eot", "eom", "fim_pad", "fim_rep", "fim_sep"])
            if (ReadId(file, name, count) is { } id) ends.Add(id);
        return ends;
    }

    private static int? ReadId(GgufFile file, string name, int count, int? fallback = null)
    {
        string key = $"{Prefix}{name}_token_id";
        if (!file.Has(key)) return fallback < count ? fallback : null;
        int id = file.GetInt32(key);
        // llama.cpp ignores an id beyond the vocabulary, so it is ignored here too.
        return id >= 0 && id < count ? id : fallback < count ? fallback : null;
    }

    private static int[] Added(GgufFile file, string name, int? id, bool fallback)
        => id is { } value && file.GetBooleanOrDefault($"{Prefix}add_{name}_token", fallback) ? [value] : [];

    private static void ExpectAtLeast(GgufFile file, string name, int expected, int found)
    {
        if (found < expected)
            throw new InvalidDataException(
                $"{file.Path}: {Prefix}{name}: expected {expected} entries, one for every token, found {found}");
    }
}
