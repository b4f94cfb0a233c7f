using System.Text;
using System.Text.Json.Nodes;
using Native.Kernels.Text;

namespace Native.Tests.Kernels;

/// <summary>What tokenizer.json asks for, as Hugging Face's tokenizers 0.23 do it.</summary>
public sealed class TextHuggingFaceTests
{
    private static JsonObject With(JsonObject json, string name, string value)
    {
        json[name] = JsonNode.Parse(value);
        return json;
    }

    private static JsonObject Added(string text, string qualities)
        => With(TextFiles.ByteLevel([]), "added_tokens", $$"""[{"id":256,"content":{{JsonValue.Create(text).ToJsonString()}}{{qualities}}}]""");

    private static string Normalized(string normalizer, string text)
    {
        Tokenizer tokenizer = TextFiles.Load(With(TextFiles.ByteLevel([]), "normalizer", normalizer));
        return tokenizer.Decode(tokenizer.Encode(text, false, false));
    }

    [Theory]
    [InlineData("""{"type":"NFD"}""", "\u00E9\u1E69", "e\u0301s\u0323\u0307")]
    [InlineData("""{"type":"Lowercase"}""", "\u0130\u00C9\u03A3A", "i\u0307\u00E9\u03C3a")]
    [InlineData("""{"type":"Strip","strip_left":true,"strip_right":false}""", "\u00A0 a ", "a ")]
    [InlineData("""{"type":"Prepend","prepend":"x"}""", "a", "xa")]
    [InlineData("""{"type":"Replace","pattern":{"String":"aa"},"content":"b"}""", "aaa", "ba")]
    [InlineData("""{"type":"Replace","pattern":{"Regex":"\\s+"},"content":"$0"}""", "a \n b", "a$0b")]
    [InlineData("""{"type":"Sequence","normalizers":[{"type":"Strip","strip_left":true,"strip_right":true},{"type":"Prepend","prepend":"x"}]}""", "  ", "")]
    public void Normalizers_RewriteTheText_InOrder(string normalizer, string text, string expected) => Assert.Equal(expected, Normalized(normalizer, text));

    [Theory, InlineData("NFKC"), InlineData("Precompiled"), InlineData("BertNormalizer")]
    public void OtherNormalizers_AreRefusedByName(string type)
        => Assert.Contains($"'{type}'", Assert.Throws<InvalidDataException>(() => Normalized($$"""{"type":"{{type}}"}""", "a")).Message);

    [Theory, InlineData("Unigram"), InlineData("WordPiece"), InlineData("WordLevel")]
    public void OtherModels_AreRefusedByName(string type)
    {
        JsonObject json = TextFiles.ByteLevel([]);
        json["model"]!["type"] = type;
        Assert.Contains($"'{type}'", Assert.Throws<InvalidDataException>(() => TextFiles.Load(json)).Message);
    }

    [Fact]
    public void StepsBehindByteLevel_SeeItsAlphabet()
    {
        // "1" and "2" are apart; so are the bytes of "é" where one of them is written as a number, as 0xB2 is.
        JsonObject json = TextFiles.ByteLevel([("1", "2"), ("Ã", "²")]);
        json["pre_tokenizer"] = JsonNode.Parse("""{"type":"Sequence","pretokenizers":[{"type":"ByteLevel","add_prefix_space":false,"use_regex":true},{"type":"Digits","individual_digits":true}]}""");
        Assert.Equal(['1', '2', 0xC3, 0xB2], TextFiles.Load(json).Encode("12\u00F2", false, false));
    }

    [Fact]
    public void NormalizedTokens_AreFoundInTheNormalizedText_OthersAsTheyAre()
    {
        Tokenizer lower = TextFiles.Load(With(Added("<A>", ",\"normalized\":true"), "normalizer", """{"type":"Lowercase"}"""));
        Assert.Equal([256, 'x', 256], lower.Encode("<a>X<A>", false, true));
        Tokenizer exact = TextFiles.Load(With(Added("<A>", ",\"normalized\":false"), "normalizer", """{"type":"Lowercase"}"""));
        Assert.Equal(['<', 'a', '>', 256], exact.Encode("<a><A>", false, true));
    }

    [Fact]
    public void TokenizerConfig_HasTheLastWordOnAToken()
    {
        JsonObject json = Added("<A>", ",\"normalized\":false,\"rstrip\":false");
        Assert.Equal([256, 'x'], TextFiles.Load(json, """{"added_tokens_decoder":{"256":{"content":"<A>","rstrip":true,"special":true}}}""").Encode("<A>  x", false, true));
    }

    [Fact]
    public void AddedTokens_AreReachedByTheirTextAlone()
    {
        JsonObject json = TextFiles.Characters([], "▁a", "null", "null");
        json["added_tokens"]!.AsArray().Add(JsonNode.Parse("""{"id":261,"content":"é","special":false,"single_word":true}"""));
        Assert.Equal([261], TextFiles.Load(json).Encode("é", false, true));
        Assert.Equal([3 + 0xC3, 3 + 0xA9, 260], TextFiles.Load(json).Encode("éa", false, true)); // no word of its own: bytes, and not the token
    }

    [Fact]
    public void CharactersWithoutATokenNorAnUnknown_AreLeftOut_BeforeMerging()
    {
        JsonObject json = TextFiles.ByteLevel([("a", "b")]);
        json["model"]!["vocab"]!.AsObject().Remove("ċ"); // byte 0x0B
        Assert.Equal([256], TextFiles.Load(With(json, "pre_tokenizer", """{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}""")).Encode("a\vb", false, false));
    }

    [Fact]
    public void Unknowns_FuseWithinAWord_NotAcross()
    {
        JsonObject json = TextFiles.Characters([], "▁a", "null", """{"type":"WhitespaceSplit"}""");
        json["model"]!["byte_fallback"] = false;
        Assert.Equal([0, 260, 0], TextFiles.Load(json).Encode("xya zw", false, false));
        Assert.Equal([0, 0], TextFiles.Load(json).Encode("xy zw", false, false));
    }

    [Theory]
    [InlineData("^.", "ab\ncd", "a|b\n|c|d")]
    [InlineData("[a-z]$", "ab\ncd", "a|b|\nc|d")]
    [InlineData("(?m:x.)", "x\na", "x\n|a")]
    [InlineData("(?<=a)(?=B)", "xaBy", "xa|By")]
    public void Patterns_MeanWhatTheyMeanInOniguruma(string pattern, string text, string words)
    {
        JsonObject json = TextFiles.ByteLevel([.. Enumerable.Range(0, 128).SelectMany(a => Enumerable.Range(0, 128).Select(b => (ByteAlphabet.Character((byte)a).ToString(), ByteAlphabet.Character((byte)b).ToString())))]);
        json["pre_tokenizer"] = JsonNode.Parse($$"""{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":{{JsonValue.Create(pattern).ToJsonString()}}},"behavior":"Isolated"},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]}""");
        Tokenizer tokenizer = TextFiles.Load(json);
        Assert.Equal(words.Split('|'), tokenizer.Encode(text, false, false).Select(id => tokenizer.Decode([id])));
    }

    [Fact]
    public void PatternThatNeverEnds_FailsThatTextAlone()
    {
        JsonObject json = TextFiles.ByteLevel([]);
        json["pre_tokenizer"] = JsonNode.Parse("""{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(a|b|ab)*c"},"behavior":"Isolated"},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]}""");
        Tokenizer tokenizer = TextFiles.Load(json);
        TextEncodingException e = Assert.Throws<TextEncodingException>(() => tokenizer.Encode(string.Concat(Enumerable.Repeat("ab", 64)), false, false));
        Assert.Contains("(a|b|ab)*c", e.Message);
        Assert.Equal(['x'], tokenizer.Encode("x", false, false));
    }
}
