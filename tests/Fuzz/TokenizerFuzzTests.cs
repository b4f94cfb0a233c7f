using System.Text;
using System.Text.Json.Nodes;
using Native.Kernels.Text;
using Native.Server.Serving;
using Native.Tests.Kernels;

namespace Native.Tests.Fuzz;

/// <summary>Tokenizer files, and texts for sound ones.</summary>
public sealed class TokenizerFuzzTests
{
    /// <summary>The files of one input, in this order, with NUL bytes between them.</summary>
    private static readonly string[] Files = ["tokenizer.json", "tokenizer_config.json", "generation_config.json"];

    private static readonly string[] Words =
    [
        "\"BPE\"", "\"ByteLevel\"", "\"Sequence\"", "\"Split\"", "\"Digits\"", "\"Punctuation\"", "\"Whitespace\"", "\"WhitespaceSplit\"", "\"Metaspace\"", "\"Isolated\"", "\"Removed\"", "\"MergedWithNext\"", "\"Contiguous\"", "\"invert\":true,",
        "\"NFC\"", "\"NFD\"", "\"Lowercase\"", "\"Strip\"", "\"Prepend\"", "\"Replace\"", "\"TemplateProcessing\"", "\"RobertaProcessing\"", "\"cls\":[\"<s>\",0],\"sep\":[]", "\"ByteFallback\"", "\"Fuse\"", "{\"type\":\"NFD\"},",
        "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"aaaaaaaa\"},", "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a*\"},\"content\":\"aaaa\"},", "{\"id\":20,\"content\":\"aa\",\"normalized\":true},", "\"special\":true,", "\"lstrip\":true,",
        "\"rstrip\":true,", "\"single_word\":true,", "\"ignore_merges\":true,", "\"fuse_unk\":true,", "\"byte_fallback\":true,", "[^\\\\s]+", "\\\\p{L}+", "(?i:", "(a+)+", "(a|a)*$", "{1,1000}", "{999999999}", "(?=", "(?<!", "\\\\1", "\\\\G", "[\U0001F600-\U0001F64F]",
        "a++", "(?>", "\\\\x{10FFFF}", "\\\\K", "&&", "vocab_size", "added_tokens_decoder", "chat_template", "\"add_bos_token\":true,", "\"eos_token_id\":[1,2],", "262143", "\0",
    ];

    [Fact]
    public void TokenizerJson_IsReadOrRefused()
    {
        var inputs = new Mutator(InputKind.Text, [.. JsonSeeds(), .. Real(), .. FuzzTarget.Finds("tokenizer-json")], Words);
        using var folder = new TemporaryFolder();
        new FuzzTarget("tokenizer-json", inputs.Next, bytes =>
        {
            int at = 0;
            foreach (string name in Files)
            {
                int length = at > bytes.Length ? -1 : bytes.AsSpan(at).IndexOf((byte)0) is var nul and >= 0 ? nul : bytes.Length - at;
                if (length < 0) File.Delete(folder.File(name));
                else File.WriteAllBytes(folder.File(name), bytes[at..(at + length)]);
                at += length + 1;
            }
            Use(Tokenizer.FromFolder(folder.Path));
        })
        {
            Refuses = e => e is InvalidDataException or TextEncodingException,
            // An added token may have an id 2^18 beyond the vocabulary, and every id costs.
            AllocationBase = 32 << 20,
            AllocationPerByte = 512,
            Inputs = 2000,
        }.Run();

        static IEnumerable<byte[]> Real() => Seeds.Real("models", "tokenizer.json").Take(1);
    }

    [Fact]
    public void SentencePieceModel_IsReadOrRefused()
    {
        byte[] trainer = [0x12, .. TextFiles.Varint(13), 0x18, 2, 0xC8, 0x02, 0, 0xD0, 0x02, 1, 0xD8, 0x02, 2, 0xC0, 0x01, 0];
        byte[] normalizer = [0x1A, 11, 0x0A, 3, .. "nfc"u8, 0x18, 1, 0x20, 0, 0x28, 1];
        byte[] seed = [.. TextFiles.SentencePiece(Seeds.Pieces), .. trainer, .. normalizer];
        var inputs = new Mutator(InputKind.Protobuf, [seed, TextFiles.SentencePiece(Seeds.Pieces), .. Seeds.Real("models/stories260K", "tok512.model"), .. FuzzTarget.Finds("sentencepiece")], "<unk>", "<0x00>", "▁▁", "nmt_nfkc");
        using var folder = new TemporaryFolder();
        new FuzzTarget("sentencepiece", inputs.Next, bytes =>
        {
            File.WriteAllBytes(folder.File("tokenizer.model"), bytes);
            Use(Tokenizer.FromFolder(folder.Path));
        })
        {
            Refuses = e => e is InvalidDataException,
            AllocationBase = 256 << 10,
            AllocationPerByte = 128,
        }.Run();
    }

    [Fact]
    public void Text_IsEncodedWhateverItIs()
    {
        Tokenizer[] tokenizers = [.. Texts()];
        var inputs = new Mutator(InputKind.Text,
            [Seeds.Utf8("Hello, world! It's 1234567 o'clock.\r\n\r\n  She said: \"naïve café\" <s>▁▁a</s>"), Seeds.Utf8("aabababab   \t\n def f(x):\n    return x ** 2 # 北京 한국어 ไทย \U0001F468\u200D\U0001F469 e\u0301 ﬁ"), .. FuzzTarget.Finds("text")],
            "<s>", "</s>", "<unk>", "<0x0A>", "▁", "ab", "'ll", "\u0300", "\U0001F1E9\U0001F1EA", "\u200D", "ﷺ", "İ", "\u1112\u1161\u11AB", "\u00A0", "\u2028");
        new FuzzTarget("text", inputs.Next, bytes =>
        {
            string text = Encoding.UTF8.GetString(bytes);
            foreach (Tokenizer tokenizer in tokenizers)
            {
                foreach (bool special in (bool[])[false, true])
                {
                    int[] ids = tokenizer.Encode(text, addSpecial: special, parseSpecial: special);
                    RequireIds(tokenizer, ids);
                    tokenizer.Decode(ids, skipSpecial: special);
                }
            }
            if (text.Contains('\uFFFD')) throw new InvalidDataException("not UTF-8"); // read as U+FFFD; told apart for the count alone
        })
        {
            Refuses = e => e is InvalidDataException,
            AllocationBase = 512 << 10,
            AllocationPerByte = 512 * tokenizers.Length,
        }.Run();

        static IEnumerable<Tokenizer> Texts()
        {
            yield return TextFiles.Load(JsonNode.Parse(JsonSeeds()[0])!);
            yield return TextFiles.Load(JsonNode.Parse(JsonSeeds()[1])!);
            yield return TextFiles.Load(TextFiles.SentencePiece(Seeds.Pieces));
        }
    }

    /// <summary>A tokenizer at work: every text is encoded to ids that are there, and decoded.</summary>
    internal static void Use(Tokenizer tokenizer)
    {
        foreach (string text in (string[])["", "ab a  abc<s>\n1234 x", "é\U0001F600▁\0\uD800<|im_end|>'s  \r\n A\u0301"])
        {
            foreach (bool special in (bool[])[false, true])
            {
                int[] ids = tokenizer.Encode(text, special, special);
                RequireIds(tokenizer, ids);
                tokenizer.Decode(ids, special);
                var detokenizer = new Detokenizer(tokenizer);
                foreach (int id in ids) detokenizer.Append(id);
                detokenizer.Flush();
            }
        }
        foreach (int id in tokenizer.EndIds) _ = tokenizer.Piece(id);
        var controls = new ControlTexts(tokenizer);
        controls.Encode(controls.Mark("a<s>\uFDD0b<|im_") + "end|>");
        if (tokenizer.AddsBos && tokenizer.BosId is null) throw new InvalidOperationException("a tokenizer adds a begin token that has no id");
    }

    private static void RequireIds(Tokenizer tokenizer, int[] ids)
    {
        foreach (int id in ids)
            if ((uint)id >= (uint)tokenizer.VocabularySize) throw new InvalidOperationException($"ids of 0 to {tokenizer.VocabularySize - 1} were expected, found {id}");
    }

    private static byte[][] JsonSeeds()
    {
        JsonObject bytes = TextFiles.ByteLevel([("a", "b"), ("Ġ", "a"), ("ab", "c")], ("<s>", true), ("<x>", false));
        Trim(bytes);
        bytes["pre_tokenizer"] = JsonNode.Parse("""{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"'s|[^\\r\\n\\p{L}\\p{N}]?\\p{L}++|\\p{N}{1,3}| ?[^\\s\\p{L}]+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},{"type":"Digits","individual_digits":true},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]}""");
        bytes["normalizer"] = JsonNode.Parse("""{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Replace","pattern":{"Regex":" +"},"content":" "},{"type":"Strip","strip_left":true,"strip_right":false}]}""");
        JsonObject characters = TextFiles.Characters([("▁", "a"), ("a", "b")], "▁abc", """{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]}""", "null");
        Trim(characters);
        byte[] config = Seeds.Utf8("""{"bos_token":"<s>","eos_token":{"content":"</s>"},"add_bos_token":true,"added_tokens_decoder":{"1":{"content":"<s>","special":true,"lstrip":false,"rstrip":true,"normalized":false,"single_word":false}},"chat_template":[{"name":"default","template":"{{ messages }}"}]}""");
        byte[] generation = Seeds.Utf8("""{"eos_token_id":[1,2],"temperature":0.6}""");
        return [Text(bytes), Text(characters), [.. Text(bytes), 0, .. config, 0, .. generation], [.. Text(characters), 0, .. config]];

        static byte[] Text(JsonObject json) => Seeds.Utf8(json.ToJsonString(new System.Text.Json.JsonSerializerOptions { Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping }));

        // A dozen tokens instead of hundreds, so that a mutation hits what is read, not the list; ids stay dense.
        static void Trim(JsonObject json)
        {
            var vocabulary = (JsonObject)json["model"]!["vocab"]!;
            string[] kept = [.. vocabulary.Select(entry => entry.Key).Where(piece => piece is "<unk>" or "<s>" or "</s>" or "<0x0A>" or "<0xC3>" or "a" or "b" or "c" or "Ġ" or "Ċ" or "▁" or "1" or "2" || (piece.Length > 1 && piece.Length < 4))];
            json["model"]!["vocab"] = new JsonObject(kept.Select((piece, id) => KeyValuePair.Create(piece, (JsonNode?)id)));
            foreach (JsonNode? token in (JsonArray)json["added_tokens"]!)
                if (Array.IndexOf(kept, (string)token!["content"]!) < 0) token["id"] = kept.Length + ((JsonArray)json["added_tokens"]!).IndexOf(token);
        }
    }
}
