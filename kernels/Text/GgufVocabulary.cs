
namespace Native.Kernels.Text;

/// <summary>A tokenizer as GGUF metadata (<c>tokenizer.ggml.*</c>). <see cref="GgufTokenizer"/> reads it.</summary>
/// <remarks>GGUF does not hold a tokenizer's patterns. It names a pre-tokenizer that the reader must know. The name is
/// found as in llama.cpp's converter: by the ids of texts that pre-tokenizers cut differently. The file's ids for these
/// texts are then compared with the folder's.</remarks>
internal static class GgufVocabulary
{
    /// <summary>Texts that pre-tokenizers cut differently: scripts, digits, contractions, runs of spaces and
    /// signs.</summary>
    private static readonly string[] Probes =
    [
        "Hello world, it's THEIR'S I'll we've don't DON'T you'd I'M",
        "3 33 333 3333 33333 333333 3333333 1,234.56 x2y 2nd v1.2.3 0x1F",
        " leading and trailing \n\n newlines \r\n\r\n tabs\t\t\tend   three    four     five\n \n  \n   indented",
        "for (int i = 0; i < n; ++i) { a[i] += b->c(\"x/y\\z\"); } // !!! ??? ... --- === ___ '''' \"\"\"\" ~~~ ^^^ "
        + "||| $$$ ###",
        "/usr/local/bin\nhttps://example.org/a?b=c&d=%20 #tag @user email@example.org <b>bold</b> {{x}} [1] (2)",
        "camelCase PascalCase ALLCAPS snake_case kebab-case SHOUTing iPhone XMLHttpRequest",
        "Größe Ärger naïve café élève œuvre Ångström señor İstanbul Đà Nẵng",
        "Привет, мир! Как дела? ЁЖИК", "Γειά σου Κόσμε", "שלום עולם", "مرحبا بالعالم ١٢٣", "नमस्ते दुनिया १२३",
        "สวัสดีชาวโลก", "こんにちは世界、元気ですか。カタカナ", "你好，世界！今天天气很好。2024年", "안녕하세요 세계",
        "🙂👍🏽 🚀 (╯°□°)╯ ½ ² Ⅳ ① ™ € £ – — … “quotes” ‘single’ «guillemets»",
        "a", " ", "  ", "\n", "\t", "1", "'s", "ied 4 ½ months",
    ];

    /// <summary>Pre-tokenizers whose names say most are tried first; then all others.</summary>
    private static readonly string[] Preferred =
        ["llama-bpe", "qwen2", "smollm", "gpt-2", "gpt-4o", "tekken", "qwen35"];

    /// <param name="tokenizer">The tokenizer of a Hugging Face folder.</param>
    /// <param name="rows">Rows of the model's embedding: the file has as many tokens.</param>
    /// <param name="readBack">Gives the tokenizer that a reader builds from such metadata.</param>
    /// <param name="remarks">Receives remarks for the person who converts.</param>
    /// <exception cref="NotSupportedException">GGUF has no place for this tokenizer.</exception>
    public static List<KeyValuePair<string, object>> Of(TokenizerDefinition tokenizer, int rows,
        Func<IReadOnlyList<KeyValuePair<string, object>>, Tokenizer> readBack, List<string> remarks)
    {
        List<KeyValuePair<string, object>> common = Common(tokenizer, rows);
        Tokenizer own = new(tokenizer);
        (string What, int[] Ids, int[] Own)? apart = null;
        foreach (KeyValuePair<string, object>[] candidate in tokenizer.ByteLevel
            ? BytePair(tokenizer) : SentencePiece(tokenizer, rows))
        {
            List<KeyValuePair<string, object>> pairs = [.. candidate, .. common];
            Tokenizer read = readBack(pairs);
            (string What, int[] Ids, int[] Own)? differs = Apart(own, read, Probes);
            if (differs is not null)
            {
                apart ??= differs;
                continue;
            }
            if (Apart(own, read, [.. ControlTexts(tokenizer)]) is { } control)
                remarks.Add(
                    "the file's reader tokenizes around control tokens otherwise than the folder: "
                    + $"{Quoted(control.What)} becomes [{string.Join(", ", control.Ids)}] instead of "
                    + $"[{string.Join(", ", control.Own)}]");
            int[] lost = [.. own.EndIds.Except(read.EndIds)];
            if (lost.Length > 0)
                remarks.Add(
                    $"{lost.Length} of the model's end tokens have no place in the file: "
                    + $"{string.Join(", ", lost.Select(own.Piece))}");
            return pairs;
        }
        throw new NotSupportedException(apart is { } a
            ? $"{tokenizer.Source}: GGUF has no place for this tokenizer: {Quoted(a.What)} would become "
                + $"[{string.Join(", ", a.Ids)}], expected [{string.Join(", ", a.Own)}]"
            : $"{tokenizer.Source}: none of GGUF's pre-tokenizers cuts text as this tokenizer does");
    }

    private static (string What, int[] Ids, int[] Own)? Apart(
        Tokenizer own, Tokenizer read, IReadOnlyList<string> texts)
    {
        foreach (string text in texts)
        {
            int[] expected = own.Encode(text, addSpecial: true, parseSpecial: true),
                ids = read.Encode(text, addSpecial: true, parseSpecial: true);
            if (!ids.AsSpan().SequenceEqual(expected)) return (text, ids, expected);
        }
        return null;
    }

    /// <summary>Small conversations, made of the first tokens that chat templates use.</summary>
    private static IEnumerable<string> ControlTexts(TokenizerDefinition tokenizer) =>
        Enumerable.Range(0, tokenizer.Pieces.Length)
            .Where(id => tokenizer.Types[id] is TokenType.Control or TokenType.UserDefined
                && tokenizer.Pieces[id]?.Length > 1)
            .Take(64).Select(id => $"Hello{tokenizer.Pieces[id]}user\nworld {tokenizer.Pieces[id]} again");

    private static string Quoted(string text) => System.Text.Json.JsonSerializer.Serialize(text);

    /// <summary>Metadata of both kinds: special tokens and chat templates.</summary>
    private static List<KeyValuePair<string, object>> Common(TokenizerDefinition tokenizer, int rows)
    {
        string?[] pieces = tokenizer.Pieces;
        int last = Array.FindLastIndex(pieces, piece => piece is not null);
        if (last >= rows)
            throw new NotSupportedException(
                $"{tokenizer.Source}: token {last} ({pieces[last]}) is beyond the model's embedding, which has {rows} "
                + "rows");

        string[] tokens = new string[rows];
        int[] types = new int[rows];
        for (int id = 0; id < rows; id++)
        {
            string? piece = id < pieces.Length ? pieces[id] : null;
            tokens[id] = piece ?? $"[PAD{id}]"; // llama.cpp's name for a row without a token
            types[id] = (int)(piece is null ? TokenType.Unused : tokenizer.Types[id]);
        }
        List<KeyValuePair<string, object>> pairs =
            [new("tokenizer.ggml.tokens", tokens), new("tokenizer.ggml.token_type", types)];
        void Id(string name, int? id)
        {
            if (id is { } value) pairs.Add(new($"tokenizer.ggml.{name}_token_id", (uint)value));
        }
        // GGUF names one end token. Readers find the others by their texts.
        int? eos = tokenizer.EosId ?? (tokenizer.EndIds.Count > 0 ? tokenizer.EndIds.First() : null);
        int[] ends = [.. tokenizer.EndIds.Where(id => id != eos).Distinct()];
        Id("bos", tokenizer.BosId);
        Id("eos", eos);
        Id("eot", ends.Length > 0 ? ends[0] : null);
        Id("eom", ends.Length > 1 ? ends[1] : null);
        Id("unknown", tokenizer.UnknownId);
        Id("padding", tokenizer.PadId);
        pairs.Add(new("tokenizer.ggml.add_bos_token", tokenizer.Prefix.Length > 0));
        pairs.Add(new("tokenizer.ggml.add_eos_token", tokenizer.Suffix.Length > 0));
        if (tokenizer.ChatTemplate is { } template) pairs.Add(new("tokenizer.chat_template", template));
        if (tokenizer.ToolUseTemplate is { } tools && tools != tokenizer.ChatTemplate)
        {
            pairs.Add(new("tokenizer.chat_templates", (string[])["tool_use"]));
            pairs.Add(new("tokenizer.chat_template.tool_use", tools));
        }
        return pairs;
    }

    private static IEnumerable<KeyValuePair<string, object>[]> BytePair(TokenizerDefinition tokenizer)
    {
        string[] merges = [.. tokenizer.Merges.Select(merge => $"{merge.Left} {merge.Right}")];
        IEnumerable<PreTokenizerRow> rows = Preferred.Select(name => PreTokenizers.Find(name)!)
            .Concat(PreTokenizers.Rows).Distinct()
            .Where(row => !row.Characters && row.IgnoreMerges == tokenizer.IgnoreMerges);
        List<(int, int)> expected = [], found = [];
        foreach (PreTokenizerRow row in rows)
        {
            PreTokenizer cutter = PreTokenizers.Get(row);
            bool same = Probes.All(text =>
            {
                tokenizer.PreTokenizer.Split(text, expected);
                cutter.Split(text, found);
                return expected.SequenceEqual(found);
            });
            if (same)
                yield return [new("tokenizer.ggml.model", "gpt2"), new("tokenizer.ggml.pre", row.Names[0]),
                    new("tokenizer.ggml.merges", merges)];
        }
    }

    private static IEnumerable<KeyValuePair<string, object>[]> SentencePiece(TokenizerDefinition tokenizer, int rows)
    {
        float[] scores = new float[rows];
        if (tokenizer.Scores is { } own)
        {
            own.AsSpan(0, Math.Min(own.Length, rows)).CopyTo(scores);
        }
        else
        {
            // The order of merges as scores: the result of a better pair has a higher score.
            Dictionary<string, int> ids = new(StringComparer.Ordinal);
            for (int id = 0; id < Math.Min(tokenizer.Pieces.Length, rows); id++)
                if (tokenizer.Pieces[id] is { } piece) ids.TryAdd(piece, id);
            HashSet<int> seen = [];
            for (int rank = 0; rank < tokenizer.Merges.Count; rank++)
            {
                string merged = tokenizer.Merges[rank].Left + tokenizer.Merges[rank].Right;
                if (ids.TryGetValue(merged, out int id) && seen.Add(id)) scores[id] = -(rank + 1);
            }
        }
        foreach (bool prefix in (bool[])[tokenizer.SpacePrefix != SpacePrefix.None,
            tokenizer.SpacePrefix == SpacePrefix.None])
            yield return [new("tokenizer.ggml.model", "llama"), new("tokenizer.ggml.pre", "default"),
                new("tokenizer.ggml.scores", scores), new("tokenizer.ggml.add_space_prefix", prefix)];
    }
}
