using System.Text;
using System.Text.Json.Nodes;
using Native.Kernels.Files;
using Native.Kernels.Text;

namespace Native.Tests.Kernels;

public sealed class TextBadFileTests
{
    private static readonly (string, float, int)[] Pieces = [("<unk>", 0, 2), ("<s>", 0, 3), ("</s>", 0, 3), ("▁", -1, 1), ("a", -2, 1), ("▁a", -3, 1)];

    [Fact]
    public void TokenizerModel_CutAnywhere_IsRefusedOrWhole()
    {
        byte[] file = TextFiles.SentencePiece(Pieces);
        Assert.Equal(6, TextFiles.Load(file).VocabularySize);
        for (int length = 0; length < file.Length; length++)
            Assert.Throws<InvalidDataException>(() => TextFiles.Load(file[..length])); // without its end the model type is missing, which means unigram
    }

    [Theory, InlineData(1, "UNIGRAM"), InlineData(3, "WORD"), InlineData(4, "CHAR")]
    public void TokenizerModel_OfAnotherKind_IsRefusedByName(int type, string name)
        => Assert.Contains(name, Assert.Throws<InvalidDataException>(() => TextFiles.Load(TextFiles.SentencePiece(Pieces, type))).Message);

    [Fact]
    public void TokenizerModel_WithAnAbsurdLength_IsRefused()
        => Assert.Contains("length", Assert.Throws<InvalidDataException>(() => TextFiles.Load([0x0A, .. TextFiles.Varint(long.MaxValue)])).Message);

    [Fact]
    public void TokenizerModel_WithAPieceTwice_IsRefused()
        => Assert.Contains("again", Assert.Throws<InvalidDataException>(() => TextFiles.Load(TextFiles.SentencePiece([.. Pieces, ("a", -4, 1)]))).Message);

    [Fact]
    public void TokenizerModel_WithNaN_IsRefused()
        => Assert.Throws<InvalidDataException>(() => TextFiles.Load(TextFiles.SentencePiece([.. Pieces, ("aa", float.NaN, 1)])));

    public static TheoryData<string, string> Mistakes => new()
    {
        { "model.type", "\"Unigram\"" },
        { "model.type", "\"WordPiece\"" },
        { "model.type", "7" },
        { "model.vocab", "[]" },
        { "model.vocab", """{"a":"x"}""" },
        { "model.vocab", """{"a":-1}""" },
        { "model.vocab", """{"a":2000000000}""" },
        { "model.vocab", """{"a":1e99}""" },
        { "model.vocab", """{"a":0,"b":0}""" },
        { "model.merges", "{}" },
        { "model.merges", """["ab"]""" },
        { "model.merges", """["a b c"]""" },
        { "model.merges", """[["a"]]""" },
        { "model.merges", """[["a","b","c"]]""" },
        { "model.merges", """[["a",1]]""" },
        { "model.merges", """["a zzz"]""" },
        { "model.merges", """["a b","b a"]""" },
        { "model.end_of_word_suffix", "\"</w>\"" },
        { "model.byte_fallback", "\"yes\"" },
        { "added_tokens", "{}" },
        { "added_tokens", """[{"id":-5,"content":"x"}]""" },
        { "added_tokens", """[{"id":2000000000,"content":"x"}]""" },
        { "added_tokens", """[{"id":260}]""" },
        { "added_tokens", """[{"id":260,"content":"x"},{"id":261,"content":"x"}]""" },
        { "normalizer", """{"type":"NFKC"}""" },
        { "normalizer", "3" },
        { "pre_tokenizer", """{"type":"BertPreTokenizer"}""" },
        { "pre_tokenizer", """{"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated"}""" },
        { "pre_tokenizer", """{"type":"Split","pattern":{"Regex":"[a"},"behavior":"Isolated"}""" },
        { "pre_tokenizer", """{"type":"Split","pattern":{"Regex":"\\p{Nonsense}"},"behavior":"Isolated"}""" },
        { "pre_tokenizer", """{"type":"Split","pattern":{"Regex":"[a-z&&[^b]]"},"behavior":"Isolated"}""" },
        { "pre_tokenizer", """{"type":"Split","pattern":{"Regex":"a"},"behavior":"Sideways"}""" },
        { "post_processor", """{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}}],"special_tokens":{}}""" },
        { "post_processor", """{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x"}}],"special_tokens":{"x":{"ids":[99999]}}}""" },
        { "decoder", """{"type":"CTC"}""" },
    };

    [Theory, MemberData(nameof(Mistakes))]
    public void TokenizerJson_WithAMistake_IsRefused(string where, string value)
    {
        JsonObject json = TextFiles.ByteLevel([("a", "b")]);
        string[] path = where.Split('.');
        JsonNode parent = path.Length == 1 ? json : json[path[0]]!;
        parent[path[^1]] = JsonNode.Parse(value);
        InvalidDataException e = Assert.Throws<InvalidDataException>(() => TextFiles.Load(json));
        Assert.Contains("tokenizer.json", e.Message);
        Assert.Contains("expected", e.Message);
    }

    [Fact]
    public void TokenizerJson_WhoseNormalizerDoublesATextAtEveryStep_IsBounded()
    {
        JsonObject json = TextFiles.ByteLevel([("a", "b")]);
        string[] replacements = ["""{"type":"Replace","pattern":{"String":"a"},"content":"aa"}""", """{"type":"Replace","pattern":{"Regex":"a"},"content":"aa"}"""];
        foreach (string replacement in replacements)
        {
            json["normalizer"] = JsonNode.Parse($$"""{"type":"Sequence","normalizers":[{{string.Join(',', Enumerable.Repeat(replacement, 64))}}]}""");
            json["added_tokens"] = new JsonArray();
            Tokenizer tokenizer = TextFiles.Load(json);
            Assert.Contains("characters", Assert.Throws<TextEncodingException>(() => tokenizer.Encode("b a", false, false)).Message);
            Assert.Single(tokenizer.Encode("b", false, false)); // others go on being encoded

            json["added_tokens"] = JsonNode.Parse("""[{"id":257,"content":"<a>","normalized":true}]""");
            Assert.Contains("added token 257", Assert.Throws<InvalidDataException>(() => TextFiles.Load(json)).Message);
        }
    }

    [Theory]
    [InlineData("", "b😀", "-b-😀-")] // an empty match between a character's halves is none
    [InlineData("(?<=b)\\\\p{Cs}", "b😀", "b-\uFFFD")]
    public void TokenizerJson_WhoseNormalizerFindsHalvesOfCharacters_EncodesWholeOnes(string pattern, string text, string normalized)
    {
        JsonObject json = TextFiles.ByteLevel([]);
        json["normalizer"] = JsonNode.Parse($$"""{"type":"Replace","pattern":{"Regex":"{{pattern}}"},"content":"-"}""");
        Tokenizer tokenizer = TextFiles.Load(json);
        Assert.Equal(normalized, tokenizer.Decode(tokenizer.Encode(text, false, false)));
    }

    [Theory]
    [InlineData("normalizer", "normalizers", """{"type":"NFC"}"""), InlineData("pre_tokenizer", "pretokenizers", """{"type":"Digits"}""")]
    public void TokenizerJson_WithMoreStepsThanAnyTextDeserves_IsRefused(string chain, string steps, string step)
    {
        JsonObject json = TextFiles.ByteLevel([("a", "b")]);
        json[chain] = JsonNode.Parse($$"""{"type":"Sequence","{{steps}}":[{{string.Join(',', Enumerable.Repeat(step, 64))}}]}""");
        TextFiles.Load(json);
        ((JsonArray)json[chain]![steps]!).Add(JsonNode.Parse(step));
        Assert.Contains($"{chain}: expected at most 64 steps, found 65", Assert.Throws<InvalidDataException>(() => TextFiles.Load(json)).Message);
    }

    [Theory, InlineData("Regex"), InlineData("String")]
    public void TokenizerJson_WithAPatternThatTakesLongToCompile_IsRefused(string kind)
    {
        JsonObject json = TextFiles.ByteLevel([("a", "b")]);
        json["pre_tokenizer"] = new JsonObject { ["type"] = "Split", ["behavior"] = "Isolated", ["pattern"] = new JsonObject { [kind] = string.Concat(Enumerable.Repeat("ab?|c+d|", 1024)) } };
        TextFiles.Load(json);
        json["pre_tokenizer"]!["pattern"]![kind] = json["pre_tokenizer"]!["pattern"]![kind] + "x";
        Assert.Contains($"pattern.{kind}: expected at most 8192 characters, found 8193", Assert.Throws<InvalidDataException>(() => TextFiles.Load(json)).Message);
    }

    [Fact]
    public void TokenizerJson_WithoutTokens_IsRefused()
    {
        JsonObject json = TextFiles.ByteLevel([]);
        json["model"]!["vocab"] = new JsonObject();
        Assert.Contains("found one without tokens", Assert.Throws<InvalidDataException>(() => TextFiles.Load(json)).Message);
    }

    [Fact]
    public void AControlToken_LongerThanAnybodyLooksForOne_IsRefused()
    {
        Assert.Contains("token 256: expected a control token of at most 512 characters, found 513", Assert.Throws<InvalidDataException>(() => TextFiles.Load(TextFiles.ByteLevel([], (new string('<', 513), true)))).Message);
        Assert.Equal(257, TextFiles.Load(TextFiles.ByteLevel([], (new string('<', 512), true))).VocabularySize);
        Assert.Equal(257, TextFiles.Load(TextFiles.ByteLevel([], (new string('<', 513), false))).VocabularySize); // any text may be one of those
    }

    [Fact]
    public void TokenizerJson_WithAnEmptyPairOfTextAndId_IsRefusedByItsPlace()
    {
        JsonObject json = TextFiles.ByteLevel([("a", "b")]);
        json["post_processor"] = JsonNode.Parse("""{"type":"RobertaProcessing","cls":["a",64],"sep":[]}""");
        Assert.Contains("post_processor.sep: expected a text and an id", Assert.Throws<InvalidDataException>(() => TextFiles.Load(json)).Message);
    }

    [Fact]
    public void TokenizerJson_ThatBeginsTextsWithTwoTokens_BeginsThemWithTheFirst()
    {
        JsonObject json = TextFiles.ByteLevel([("a", "b")], ("<s>", true), ("<en>", true));
        json["post_processor"] = JsonNode.Parse("""{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}},{"SpecialToken":{"id":"<en>"}},{"Sequence":{"id":"A"}}],"special_tokens":{"<s>":{"ids":[257]},"<en>":{"ids":[258]}}}""");
        Tokenizer tokenizer = TextFiles.Load(json);
        Assert.True(tokenizer.AddsBos);
        Assert.Equal(257, tokenizer.BosId); // a server asks for it where texts begin with tokens
    }

    [Theory]
    [InlineData(""), InlineData("{"), InlineData("[]"), InlineData("null"), InlineData("{}"), InlineData("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"\\ud83d\":0},\"merges\":[]}}"), InlineData("{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[\"\\udc00 a\"]}}")]
    public void TokenizerJson_ThatIsNone_IsRefused(string json)
        => Assert.Throws<InvalidDataException>(() => TextFiles.WithFolder(Tokenizer.FromFolder, ("tokenizer.json", Encoding.UTF8.GetBytes(json))));

    [Fact]
    public void Folder_WithoutATokenizer_IsToldSo()
        => Assert.Throws<FileNotFoundException>(() => TextFiles.WithFolder(Tokenizer.FromFolder, ("config.json", "{}"u8.ToArray())));

    [Theory]
    [InlineData("a?+b", "(?>a?)b"), InlineData("[^x]++", "(?>[^x]+)"), InlineData(@"\p{N}{1,3}+", @"(?:\p{N}{1,3})+"), InlineData("(ab|c)*+d", "(?>(ab|c)*)d"), InlineData("a+?", "a+?"), InlineData("(?i:'s|'t)", "(?i:'s|'t)")]
    public void Pattern_IsBroughtToDotNetsSpelling(string oniguruma, string expected)
    {
        string got = "";
        JsonFile.Read("test", Encoding.UTF8.GetBytes(JsonValue.Create(oniguruma).ToJsonString()), field => got = Pattern.Translate(field, []));
        Assert.Equal(expected, got);
    }
}
