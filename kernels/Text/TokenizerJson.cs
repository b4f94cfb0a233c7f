using System.Text.Json;

namespace Native.Kernels.Text;

/// <summary>Reads Hugging Face's tokenizer.json: byte-pair encoding over bytes (GPT-2's kind) or over characters (SentencePiece's kind).</summary>
internal static class TokenizerJson
{
    /// <summary>A pattern out of a file may take this long for one match; the known ones take microseconds.</summary>
    private static readonly TimeSpan PatternTimeout = TimeSpan.FromSeconds(2);

    private sealed class Pipeline
    {
        public bool Compose { get; set; }
        public bool ByteLevel { get; set; }
        public bool EscapeSpaces { get; set; }
        public SpacePrefix Prefix { get; set; }
        public bool PrefixUnlessSpace { get; set; }
        public List<PreTokenizerStep> Steps { get; } = [];
        public List<SupplementaryRange> Ranges { get; } = [];
        public bool StripsLeadingSpace { get; set; }
        public List<int> Before { get; } = [];
        public List<int> After { get; } = [];
        public bool HasTemplate { get; set; }
    }

    public static TokenizerDefinition Read(string path, ReadOnlyMemory<byte> bytes, HuggingFaceConfig config)
    {
        TokenizerDefinition? definition = null;
        JsonFile.Read(path, bytes, root => definition = Read(path, root, config));
        return definition!;
    }

    public static AddedToken ReadAddedToken(JsonField token, int id)
    {
        TokenEdges edges = (Flag("lstrip") ? TokenEdges.StripLeft : 0) | (Flag("rstrip") ? TokenEdges.StripRight : 0) | (Flag("single_word") ? TokenEdges.SingleWord : 0);
        return new AddedToken(id, token.Required("content").Text(), Flag("special"), edges);

        bool Flag(string name) => token.Optional(name)?.Boolean() ?? false;
    }

    private static TokenizerDefinition Read(string path, JsonField root, HuggingFaceConfig config)
    {
        JsonField model = root.Required("model");
        string type = model.Optional("type")?.Text() ?? (model.Optional("merges") is null ? "none" : "BPE");
        if (type != "BPE") throw model.Wrong("type BPE", $"'{type}', which is not supported");
        foreach (string affix in (string[])["continuing_subword_prefix", "end_of_word_suffix"])
            if (model.Optional(affix) is { } field && field.Text().Length > 0) throw field.Wrong("none", $"'{field.Text()}', which is not supported");

        List<string?> pieces = ReadVocabulary(model.Required("vocab"));
        var types = new List<TokenType>(pieces.Count);
        bool byteFallback = model.Optional("byte_fallback")?.Boolean() ?? false;
        foreach (string? piece in pieces) types.Add(piece is null ? TokenType.Unused : byteFallback && IsByteToken(piece) ? TokenType.Byte : TokenType.Normal);

        var tokens = new AddedTokens(path, pieces, types);
        string? unknown = model.Optional("unk_token")?.Text();
        if (tokens.Find(unknown) is { } unknownId) types[unknownId] = TokenType.Unknown;
        if (root.Optional("added_tokens") is { } added)
            foreach (JsonField token in added.Items()) tokens.Add(ReadAddedToken(token, token.Required("id").Int32()));
        tokens.PadTo(config.VocabularySize);

        var pipeline = new Pipeline();
        if (root.Optional("normalizer") is { } normalizer) ReadNormalizer(normalizer, pipeline);
        if (root.Optional("pre_tokenizer") is { } preTokenizer) ReadPreTokenizer(preTokenizer, pipeline);
        if (root.Optional("decoder") is { } decoder) ReadDecoder(decoder, pipeline);
        if (root.Optional("post_processor") is { } postProcessor) ReadPostProcessor(postProcessor, pipeline, pieces.Count);

        int? bos = tokens.Find(config.BosToken) ?? (config.BosId is { } b && b >= 0 && b < pieces.Count ? b : pipeline.Before.Count == 1 ? pipeline.Before[0] : null);
        int? eos = tokens.Find(config.EosToken);
        IReadOnlyCollection<int> ends = config.EndIdsWithin(pieces.Count);
        if (!pipeline.HasTemplate)
        {
            if (config.AddsBos == true && bos is { } before) pipeline.Before.Add(before);
            if (config.AddsEos == true && eos is { } after) pipeline.After.Add(after);
        }
        return new TokenizerDefinition
        {
            Source = path,
            Pieces = [.. pieces],
            Types = [.. types],
            Edges = tokens.Edges,
            Merges = ReadMerges(model.Required("merges")),
            ByteLevel = pipeline.ByteLevel,
            PreTokenizer = pipeline.Steps.Count == 0 ? PreTokenizer.None : Compile(root, pipeline),
            IgnoreMerges = model.Optional("ignore_merges")?.Boolean() ?? false,
            EscapeSpaces = pipeline.EscapeSpaces,
            SpacePrefix = pipeline.Prefix,
            PrefixUnlessSpace = pipeline.PrefixUnlessSpace,
            StripsLeadingSpace = pipeline.StripsLeadingSpace,
            Compose = pipeline.Compose,
            FuseUnknown = model.Optional("fuse_unk")?.Boolean() ?? false,
            BosId = bos,
            EosId = eos ?? (ends.Count > 0 ? ends.First() : null),
            UnknownId = tokens.Find(unknown ?? config.UnknownToken),
            PadId = tokens.Find(config.PadToken),
            Prefix = [.. pipeline.Before],
            Suffix = [.. pipeline.After],
            EndIds = ends,
            ChatTemplate = config.ChatTemplate,
        };
    }

    public static bool IsByteToken(string piece)
        => piece.Length == 6 && piece.StartsWith("<0x", StringComparison.Ordinal) && piece[5] == '>' && char.IsAsciiHexDigit(piece[3]) && char.IsAsciiHexDigit(piece[4]);

    private static List<string?> ReadVocabulary(JsonField vocabulary)
    {
        int count = 0, last = -1;
        foreach (JsonProperty entry in vocabulary.RawMembers())
        {
            if (entry.Value.ValueKind != JsonValueKind.Number || !entry.Value.TryGetInt32(out int id) || id < 0) throw vocabulary.Wrong($"an id for '{entry.Name}'", entry.Value.GetRawText());
            last = Math.Max(last, id);
            count++;
        }
        // Ids have gaps where a vocabulary was trimmed; a few among many, or the file is damaged.
        if (last >= 2 * (long)count + 1024) throw vocabulary.Wrong($"ids below {2 * (long)count + 1024} for {count} tokens", last.ToString());
        string?[] pieces = new string?[last + 1];
        foreach (JsonProperty entry in vocabulary.RawMembers())
        {
            int id = entry.Value.GetInt32();
            if (pieces[id] is { } other) throw vocabulary.Wrong($"one token with id {id}", $"'{other}' and '{entry.Name}'");
            pieces[id] = entry.Name;
        }
        return [.. pieces];
    }

    private static List<(string, string)> ReadMerges(JsonField merges)
    {
        var pairs = new List<(string, string)>();
        foreach (JsonElement merge in merges.RawItems())
        {
            if (merge.ValueKind == JsonValueKind.String)
            {
                string line = merge.GetString()!;
                int space = line.IndexOf(' ');
                if (space <= 0 || space == line.Length - 1 || line.IndexOf(' ', space + 1) >= 0) throw Wrong(merge);
                pairs.Add((line[..space], line[(space + 1)..]));
                continue;
            }
            if (merge.ValueKind != JsonValueKind.Array || merge.GetArrayLength() != 2 || merge[0].ValueKind != JsonValueKind.String || merge[1].ValueKind != JsonValueKind.String) throw Wrong(merge);
            pairs.Add((merge[0].GetString()!, merge[1].GetString()!));
        }
        return pairs;

        InvalidDataException Wrong(JsonElement merge) => merges.Wrong($"two texts as entry {pairs.Count}", merge.GetRawText());
    }

    private static void ReadNormalizer(JsonField normalizer, Pipeline pipeline)
    {
        string type = normalizer.Required("type").Text();
        switch (type)
        {
            case "Sequence":
                foreach (JsonField step in normalizer.Required("normalizers").Items()) ReadNormalizer(step, pipeline);
                break;
            case "NFC":
                pipeline.Compose = true;
                break;
            case "Prepend" when normalizer.Required("prepend").Text() == "\u2581":
                pipeline.Prefix = SpacePrefix.EveryFragment;
                pipeline.EscapeSpaces = true;
                break;
            case "Replace" when normalizer.Required("pattern").Optional("String")?.Text() == " " && normalizer.Required("content").Text() == "\u2581":
                pipeline.EscapeSpaces = true;
                break;
            default:
                throw normalizer.Wrong("NFC, Prepend of U+2581, Replace of a space by U+2581, or a Sequence of those", $"'{type}', which is not supported so");
        }
    }

    private static void ReadPreTokenizer(JsonField preTokenizer, Pipeline pipeline)
    {
        string type = preTokenizer.Required("type").Text();
        if (pipeline.ByteLevel) throw preTokenizer.Wrong("nothing after ByteLevel", $"'{type}', which is not supported there");
        switch (type)
        {
            case "Sequence":
                foreach (JsonField step in preTokenizer.Required("pretokenizers").Items()) ReadPreTokenizer(step, pipeline);
                break;
            case "ByteLevel":
                if (preTokenizer.Optional("add_prefix_space")?.Boolean() ?? true)
                {
                    if (pipeline.Steps.Count > 0) throw preTokenizer.Wrong("add_prefix_space false after other steps", "true, which is not supported there");
                    pipeline.Prefix = SpacePrefix.EveryFragment;
                    pipeline.PrefixUnlessSpace = true;
                }
                if (preTokenizer.Optional("use_regex")?.Boolean() ?? true) pipeline.Steps.Add(PreTokenizers.Gpt2);
                pipeline.ByteLevel = true;
                break;
            case "Split":
                JsonField pattern = preTokenizer.Required("pattern");
                string expression = pattern.Optional("Regex") is { } regex ? Pattern.Translate(regex, pipeline.Ranges)
                    : System.Text.RegularExpressions.Regex.Escape(pattern.Required("String").Text());
                pipeline.Steps.Add(new PreTokenizerStep(expression, Behavior(preTokenizer.Required("behavior")), preTokenizer.Optional("invert")?.Boolean() ?? false));
                break;
            case "Digits":
                pipeline.Steps.Add(preTokenizer.Optional("individual_digits")?.Boolean() ?? false ? @"\p{N}" : @"\p{N}+");
                break;
            case "Punctuation":
                pipeline.Steps.Add(new PreTokenizerStep(@"[\p{P}!-/:-@\[-`{-~]", preTokenizer.Optional("behavior") is { } behavior ? Behavior(behavior) : SplitBehavior.Isolated));
                break;
            case "WhitespaceSplit":
                pipeline.Steps.Add(new PreTokenizerStep(@"\s+", SplitBehavior.Removed));
                break;
            case "Metaspace":
                string replacement = preTokenizer.Optional("replacement")?.Text() ?? "\u2581";
                if (replacement != "\u2581") throw preTokenizer.Wrong("U+2581 as replacement", $"'{replacement}', which is not supported");
                string scheme = preTokenizer.Optional("prepend_scheme")?.Text() ?? (preTokenizer.Optional("add_prefix_space")?.Boolean() ?? true ? "always" : "never");
                pipeline.EscapeSpaces = true;
                pipeline.PrefixUnlessSpace = true;
                pipeline.Prefix = scheme switch
                {
                    "always" => SpacePrefix.EveryFragment,
                    "first" => SpacePrefix.FirstFragment,
                    "never" => SpacePrefix.None,
                    _ => throw preTokenizer.Wrong("prepend_scheme always, first or never", $"'{scheme}'"),
                };
                if (preTokenizer.Optional("split")?.Boolean() ?? true) pipeline.Steps.Add(new PreTokenizerStep("\u2581", SplitBehavior.MergedWithNext));
                break;
            default:
                throw preTokenizer.Wrong("ByteLevel, Digits, Metaspace, Punctuation, Sequence, Split or WhitespaceSplit", $"'{type}', which is not supported");
        }
    }

    private static SplitBehavior Behavior(JsonField field)
        => Enum.TryParse(field.Text(), out SplitBehavior behavior) && Enum.IsDefined(behavior) ? behavior
            : throw field.Wrong(string.Join(", ", Enum.GetNames<SplitBehavior>()), $"'{field.Text()}'");

    private static PreTokenizer Compile(JsonField root, Pipeline pipeline)
    {
        try
        {
            return new PreTokenizer([.. pipeline.Steps], [.. pipeline.Ranges], PatternTimeout);
        }
        catch (ArgumentException e)
        {
            throw root.Wrong("pre_tokenizer patterns that can be read", e.Message);
        }
    }

    private static void ReadDecoder(JsonField decoder, Pipeline pipeline)
    {
        string type = decoder.Required("type").Text();
        switch (type)
        {
            case "Sequence":
                foreach (JsonField step in decoder.Required("decoders").Items()) ReadDecoder(step, pipeline);
                break;
            case "Strip":
                pipeline.StripsLeadingSpace |= decoder.Required("content").Text() == " " && decoder.Required("start").Int32() > 0;
                break;
            case "Metaspace":
                string scheme = decoder.Optional("prepend_scheme")?.Text() ?? (decoder.Optional("add_prefix_space")?.Boolean() ?? true ? "always" : "never");
                pipeline.StripsLeadingSpace |= scheme != "never";
                break;
            case "ByteLevel" or "ByteFallback" or "Fuse" or "Replace":
                break; // what they undo, the vocabulary's bytes have undone
            default:
                throw decoder.Wrong("ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Sequence or Strip", $"'{type}', which is not supported");
        }
    }

    private static void ReadPostProcessor(JsonField processor, Pipeline pipeline, int count)
    {
        string type = processor.Required("type").Text();
        switch (type)
        {
            case "Sequence":
                foreach (JsonField step in processor.Required("processors").Items()) ReadPostProcessor(step, pipeline, count);
                break;
            case "ByteLevel":
                break; // offsets alone
            case "TemplateProcessing":
                pipeline.HasTemplate = true;
                List<int> side = pipeline.Before;
                foreach (JsonField item in processor.Required("single").Items())
                {
                    if (item.Optional("Sequence") is not null)
                    {
                        side = pipeline.After;
                        continue;
                    }
                    string name = item.Required("SpecialToken").Required("id").Text();
                    foreach (JsonField id in processor.Required("special_tokens").Required(name).Required("ids").Items()) side.Add(Within(id));
                }
                break;
            case "RobertaProcessing" or "BertProcessing":
                pipeline.HasTemplate = true;
                pipeline.Before.Add(Within(processor.Required("cls").Items().Last()));
                pipeline.After.Add(Within(processor.Required("sep").Items().Last()));
                break;
            default:
                throw processor.Wrong("BertProcessing, ByteLevel, RobertaProcessing, Sequence or TemplateProcessing", $"'{type}', which is not supported");
        }

        int Within(JsonField id) => id.Int32() is var value && value >= 0 && value < count ? value : throw id.Wrong($"an id below {count}", value.ToString());
    }
}
