using System.Text.Json;
using System.Text.RegularExpressions;
using Native.Kernels.Files;

namespace Native.Kernels.Text;

/// <summary>Reads Hugging Face's tokenizer.json: byte-pair encoding over bytes (GPT-2's kind) or over characters
/// (SentencePiece's kind).</summary>
internal static class TokenizerJson
{
    /// <summary>Time limit for one match of a pattern from a file. Known patterns take microseconds.</summary>
    private static readonly TimeSpan PatternTimeout = TimeSpan.FromSeconds(2);

    /// <summary>Most steps of a normalizer or a pre-tokenizer. Each step costs time for every text, and its pattern is
    /// compiled. Real files have up to six.</summary>
    private const int MaxSteps = 64;

    /// <summary>Rust's \w: letters, marks, decimal digits, connectors, and other characters that Unicode calls
    /// alphabetic or joining.</summary>
    private const string WordCharacters = @"\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\u24B6-\u24E9\u200C\u200D";

    private sealed class Pipeline
    {
        public Normalizer Normalizer { get; } = new();
        public bool ByteLevel { get; set; }
        public bool EscapeSpaces { get; set; }
        public SpacePrefix Prefix { get; set; }
        public bool PrefixUnlessSpace { get; set; }
        public List<PreTokenizerStep> Steps { get; } = [];
        public List<PreTokenizerStep> ByteSteps { get; } = []; // after ByteLevel, which rewrites the text
        public List<SupplementaryRange> Ranges { get; } = [];
        public bool StripsLeadingSpace { get; set; }
        public List<int> Before { get; } = [];
        public List<int> After { get; } = [];
        public bool HasTemplate { get; set; }
    }

    public static TokenizerDefinition Read(string path, ReadOnlyMemory<byte> bytes, TokenizerConfig config)
    {
        TokenizerDefinition? definition = null;
        JsonFile.Read(path, bytes, root => definition = Read(path, root, config));
        return definition!;
    }

    public static AddedToken ReadAddedToken(JsonField token, int id)
    {
        TokenEdges edges = (Flag("lstrip") ? TokenEdges.StripLeft : 0) | (Flag("rstrip") ? TokenEdges.StripRight : 0)
            | (Flag("single_word") ? TokenEdges.SingleWord : 0);
        return new AddedToken(id, token.Required("content").Text(), Flag("special"), edges, Flag("normalized"));

        bool Flag(string name) => token.Optional(name)?.Boolean() ?? false;
    }

    private static TokenizerDefinition Read(string path, JsonField root, TokenizerConfig config)
    {
        JsonField model = ReadModel(root);
        List<string?> pieces = ReadVocabulary(model.Required("vocab"));
        var types = new List<TokenType>(pieces.Count);
        bool byteFallback = model.Optional("byte_fallback")?.Boolean() ?? false;
        foreach (string? piece in pieces)
            types.Add(piece is null ? TokenType.Unused
                : byteFallback && IsByteToken(piece) ? TokenType.Byte : TokenType.Normal);

        var tokens = new AddedTokens(path, pieces, types);
        string? unknown = model.Optional("unk_token")?.Text();
        int? unknownId = tokens.Find(unknown);
        if (root.Optional("added_tokens") is { } added)
        {
            foreach (JsonField token in added.Items())
            {
                int id = token.Required("id").Int32();
                if (id == unknownId) types[id] = TokenType.Unknown; // otherwise it is an ordinary token
                tokens.Add(ReadAddedToken(token, id));
            }
        }
        // tokenizer_config.json overrides it, as in transformers.
        foreach (AddedToken token in config.AddedTokens) tokens.Amend(token);
        tokens.PadTo(config.VocabularySize);

        Pipeline pipeline = ReadPipeline(root, pieces.Count);
        int? bos = tokens.Find(config.BosToken)
            ?? (config.BosId is { } b && b >= 0 && b < pieces.Count ? b
                : pipeline.Before.Count > 0 ? pipeline.Before[0] : null);
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
            PreTokenizer = Compile(root, pipeline.Steps, pipeline),
            BytePreTokenizer = Compile(root, pipeline.ByteSteps, pipeline),
            IgnoreMerges = model.Optional("ignore_merges")?.Boolean() ?? false,
            EscapeSpaces = pipeline.EscapeSpaces,
            SpacePrefix = pipeline.Prefix,
            PrefixUnlessSpace = pipeline.PrefixUnlessSpace,
            StripsLeadingSpace = pipeline.StripsLeadingSpace,
            Normalizer = pipeline.Normalizer,
            NormalizedTokens = tokens.Normalized,
            BeyondModel = tokens.BeyondModel,
            FuseUnknown = model.Optional("fuse_unk")?.Boolean() ?? false,
            BosId = bos,
            EosId = eos ?? (ends.Count > 0 ? ends.First() : null),
            UnknownId = tokens.Find(unknown), // only the model's own counts
            PadId = tokens.Find(config.PadToken),
            Prefix = [.. pipeline.Before],
            Suffix = [.. pipeline.After],
            EndIds = ends,
            ListsEnds = config.ListsEnds,
            ChatTemplate = config.ChatTemplate,
            ToolUseTemplate = config.ToolUseTemplate,
        };
    }

    private static JsonField ReadModel(JsonField root)
    {
        JsonField model = root.Required("model");
        string type = model.Optional("type")?.Text() ?? (model.Optional("merges") is null ? "none" : "BPE");
        if (type != "BPE") throw model.Wrong("type BPE", $"'{type}', which is not supported");
        foreach (string affix in (string[])["continuing_subword_prefix", "end_of_word_suffix"])
            if (model.Optional(affix) is { } field && field.Text().Length > 0)
                throw field.Wrong("none", $"'{field.Text()}', which is not supported");
        return model;
    }

    private static Pipeline ReadPipeline(JsonField root, int vocabularySize)
    {
        var pipeline = new Pipeline();
        if (root.Optional("normalizer") is { } normalizer)
        {
            ReadNormalizer(normalizer, pipeline);
            ExpectFew(normalizer, pipeline.Normalizer.StepCount);
        }
        if (root.Optional("pre_tokenizer") is { } preTokenizer) ReadPreTokenizer(preTokenizer, pipeline);
        if (root.Optional("decoder") is { } decoder) ReadDecoder(decoder, pipeline);
        if (root.Optional("post_processor") is { } postProcessor)
            ReadPostProcessor(postProcessor, pipeline, vocabularySize);
        return pipeline;
    }

    public static bool IsByteToken(string piece)
        => piece.Length == 6 && piece.StartsWith("<0x", StringComparison.Ordinal) && piece[5] == '>'
            && char.IsAsciiHexDigit(piece[3]) && char.IsAsciiHexDigit(piece[4]);

    private static List<string?> ReadVocabulary(JsonField vocabulary)
    {
        int count = 0, last = -1;
        foreach (JsonProperty entry in vocabulary.RawMembers())
        {
            if (entry.Value.ValueKind != JsonValueKind.Number || !entry.Value.TryGetInt32(out int id) || id < 0)
                throw vocabulary.Wrong($"an id for '{entry.Name}'", entry.Value.GetRawText());
            last = Math.Max(last, id);
            count++;
        }
        // A trimmed vocabulary has gaps between ids. Many gaps mean a damaged file.
        if (last >= 2 * (long)count + 1024)
            throw vocabulary.Wrong($"ids below {2 * (long)count + 1024} for {count} tokens", last.ToString());
        string?[] pieces = new string?[last + 1];
        foreach (JsonProperty entry in vocabulary.RawMembers())
        {
            int id = entry.Value.GetInt32();
            if (pieces[id] is { } other)
                throw vocabulary.Wrong($"one token with id {id}", $"'{other}' and '{entry.Name}'");
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
                if (line.StartsWith("#version", StringComparison.Ordinal)) continue;
                int space = line.IndexOf(' ');
                if (space <= 0 || space == line.Length - 1 || line.IndexOf(' ', space + 1) >= 0) throw Wrong(merge);
                pairs.Add((line[..space], line[(space + 1)..]));
                continue;
            }
            if (merge.ValueKind != JsonValueKind.Array || merge.GetArrayLength() != 2
                || merge[0].ValueKind != JsonValueKind.String || merge[1].ValueKind != JsonValueKind.String)
                throw Wrong(merge);
            pairs.Add((merge[0].GetString()!, merge[1].GetString()!));
        }
        return pairs;

        InvalidDataException Wrong(JsonElement merge) =>
            merges.Wrong($"two texts as entry {pairs.Count}", merge.GetRawText());
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
                pipeline.Normalizer.Compose();
                break;
            case "NFD":
                pipeline.Normalizer.Decompose();
                break;
            case "Lowercase":
                pipeline.Normalizer.Lowercase();
                break;
            case "Strip":
                pipeline.Normalizer.Strip(normalizer.Optional("strip_left")?.Boolean() ?? false,
                    normalizer.Optional("strip_right")?.Boolean() ?? false);
                break;
            case "Prepend":
                pipeline.Normalizer.Prepend(normalizer.Required("prepend").Text());
                break;
            case "Replace":
                ReadReplace(normalizer, pipeline);
                break;
            default:
                throw normalizer.Wrong("Lowercase, NFC, NFD, Prepend, Replace, Sequence or Strip",
                    $"'{type}', which is not supported");
        }
    }

    private static void ReadReplace(JsonField replace, Pipeline pipeline)
    {
        JsonField pattern = replace.Required("pattern");
        string content = replace.Required("content").Text();
        if (pattern.Optional("String") is { } found)
        {
            if (found.Text().Length == 0) throw found.Wrong("a text", "an empty one");
            pipeline.Normalizer.Replace(found.Text(), content);
            pipeline.EscapeSpaces |= found.Text() == " " && content == "\u2581";
            return;
        }
        // Runs over the text itself, not over a shadow of it, so classes see the halves of supplementary characters.
        JsonField expression = pattern.Required("Regex");
        try
        {
            pipeline.Normalizer.Replace(
                new Regex(Pattern.Translate(expression, []), RegexOptions.CultureInvariant, PatternTimeout), content);
        }
        catch (ArgumentException e)
        {
            throw expression.Wrong("a pattern that can be read", e.Message);
        }
    }

    private static void ReadPreTokenizer(JsonField preTokenizer, Pipeline pipeline)
    {
        string type = preTokenizer.Required("type").Text();
        if ((pipeline.ByteLevel && type == "ByteLevel")
            || (type == "Metaspace" && (pipeline.ByteLevel || pipeline.Steps.Count > 0)))
            throw preTokenizer.Wrong("one ByteLevel, or Metaspace in front of everything else",
                $"'{type}' behind other steps, which is not supported");
        List<PreTokenizerStep> steps = pipeline.ByteLevel ? pipeline.ByteSteps : pipeline.Steps;
        switch (type)
        {
            case "Sequence":
                foreach (JsonField step in preTokenizer.Required("pretokenizers").Items())
                    ReadPreTokenizer(step, pipeline);
                break;
            case "ByteLevel":
                if (preTokenizer.Optional("add_prefix_space")?.Boolean() ?? true)
                {
                    if (pipeline.Steps.Count > 0)
                        throw preTokenizer.Wrong("add_prefix_space false after other steps",
                            "true, which is not supported there");
                    pipeline.Prefix = SpacePrefix.EveryFragment;
                    pipeline.PrefixUnlessSpace = true;
                }
                if (preTokenizer.Optional("use_regex")?.Boolean() ?? true) pipeline.Steps.Add(PreTokenizers.Gpt2);
                pipeline.ByteLevel = true;
                break;
            case "Split":
                JsonField pattern = preTokenizer.Required("pattern");
                string expression = pattern.Optional("Regex") is { } regex ? Pattern.Translate(regex, pipeline.Ranges)
                    : Regex.Escape(Pattern.Bounded(pattern.Required("String")));
                if (pattern.Optional("Regex") is null && expression.Any(char.IsSurrogate))
                    throw pattern.Wrong("characters up to U+FFFF", $"'{expression}', which is not supported");
                steps.Add(new PreTokenizerStep(expression, Behavior(preTokenizer.Required("behavior")),
                    preTokenizer.Optional("invert")?.Boolean() ?? false));
                break;
            case "Digits":
                steps.Add(preTokenizer.Optional("individual_digits")?.Boolean() ?? false ? @"\p{N}" : @"\p{N}+");
                break;
            case "Punctuation":
                steps.Add(new PreTokenizerStep(@"[\p{P}!-/:-@\[-`{-~]",
                    preTokenizer.Optional("behavior") is { } behavior ? Behavior(behavior) : SplitBehavior.Isolated));
                break;
            case "Whitespace":
                steps.Add(new PreTokenizerStep(@"[" + WordCharacters + @"]+|[^" + WordCharacters + @"\s]+",
                    SplitBehavior.Removed, Invert: true));
                break;
            case "WhitespaceSplit":
                steps.Add(new PreTokenizerStep(@"\s+", SplitBehavior.Removed));
                break;
            case "Metaspace":
                ReadMetaspace(preTokenizer, pipeline);
                break;
            default:
                throw preTokenizer.Wrong(
                    "ByteLevel, Digits, Metaspace, Punctuation, Sequence, Split, Whitespace or WhitespaceSplit",
                    $"'{type}', which is not supported");
        }
    }

    private static void ReadMetaspace(JsonField preTokenizer, Pipeline pipeline)
    {
        string replacement = preTokenizer.Optional("replacement")?.Text() ?? "\u2581";
        if (replacement != "\u2581")
            throw preTokenizer.Wrong("U+2581 as replacement", $"'{replacement}', which is not supported");
        string scheme = preTokenizer.Optional("prepend_scheme")?.Text()
            ?? (preTokenizer.Optional("add_prefix_space")?.Boolean() ?? true ? "always" : "never");
        pipeline.EscapeSpaces = true;
        pipeline.PrefixUnlessSpace = true;
        pipeline.Prefix = scheme switch
        {
            "always" => SpacePrefix.EveryFragment,
            "first" => SpacePrefix.FirstFragment,
            "never" => SpacePrefix.None,
            _ => throw preTokenizer.Wrong("prepend_scheme always, first or never", $"'{scheme}'"),
        };
        if (preTokenizer.Optional("split")?.Boolean() ?? true)
            pipeline.Steps.Add(new PreTokenizerStep("\u2581", SplitBehavior.MergedWithNext));
    }

    private static void ExpectFew(JsonField chain, int steps)
    {
        if (steps > MaxSteps)
            throw chain.Wrong($"at most {MaxSteps} steps",
                steps.ToString(System.Globalization.CultureInfo.InvariantCulture));
    }

    private static SplitBehavior Behavior(JsonField field)
        => Enum.TryParse(field.Text(), out SplitBehavior behavior) && Enum.IsDefined(behavior) ? behavior
            : throw field.Wrong(string.Join(", ", Enum.GetNames<SplitBehavior>()), $"'{field.Text()}'");

    private static PreTokenizer Compile(JsonField root, List<PreTokenizerStep> steps, Pipeline pipeline)
    {
        if (steps.Count == 0) return PreTokenizer.None;
        ExpectFew(root.Required("pre_tokenizer"), steps.Count);
        try
        {
            return new PreTokenizer([.. steps], [.. pipeline.Ranges], PatternTimeout);
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
                if (decoder.Required("stop").Int32() != 0)
                    throw decoder.Wrong("a stop of 0", "another, which is not supported");
                pipeline.StripsLeadingSpace |= decoder.Required("content").Text() == " "
                    && decoder.Required("start").Int32() > 0;
                break;
            case "Replace":
                if (decoder.Required("pattern").Optional("String")?.Text() != "\u2581"
                    || decoder.Required("content").Text() != " ")
                    throw decoder.Wrong("U+2581 to be replaced by a space", "something else, which is not supported");
                break;
            case "Metaspace":
                string scheme = decoder.Optional("prepend_scheme")?.Text()
                    ?? (decoder.Optional("add_prefix_space")?.Boolean() ?? true ? "always" : "never");
                pipeline.StripsLeadingSpace |= scheme != "never";
                break;
            case "ByteLevel" or "ByteFallback" or "Fuse":
                break; // the vocabulary's bytes need no decoding
            default:
                throw decoder.Wrong("ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Sequence or Strip",
                    $"'{type}', which is not supported");
        }
    }

    private static void ReadPostProcessor(JsonField processor, Pipeline pipeline, int count)
    {
        string type = processor.Required("type").Text();
        switch (type)
        {
            case "Sequence":
                foreach (JsonField step in processor.Required("processors").Items())
                    ReadPostProcessor(step, pipeline, count);
                break;
            case "ByteLevel":
                break; // it changes only offsets
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
                    foreach (JsonField id in processor.Required("special_tokens").Required(name).Required("ids")
                        .Items()) side.Add(Within(id));
                }
                break;
            case "RobertaProcessing" or "BertProcessing":
                pipeline.HasTemplate = true;
                pipeline.Before.Add(Named("cls"));
                pipeline.After.Add(Named("sep"));
                break;
            default:
                throw processor.Wrong("BertProcessing, ByteLevel, RobertaProcessing, Sequence or TemplateProcessing",
                    $"'{type}', which is not supported");
        }

        // A text and its id.
        int Named(string name) => processor.Required(name) is var pair
            && pair.Items().LastOrDefault() is { Kind: not JsonValueKind.Undefined } id
            ? Within(id) : throw pair.Wrong("a text and an id", "an empty list");

        int Within(JsonField id) => id.Int32() is var value && value >= 0 && value < count
            ? value : throw id.Wrong($"an id below {count}", value.ToString());
    }
}
