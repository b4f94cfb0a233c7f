using System.Text;
using System.Text.Json.Nodes;
using Native.Kernels.Text;
using Native.Server.Serving;

namespace Native.Tests.Kernels;

public sealed class TextEncodingTests
{
    private static readonly (string, string)[] Merges = [("a", "b"), ("ab", "c"), ("Ġ", "a"), ("a", "a"), ("aa", "aa"), ("Ġ", "Ġ"), ("ð", "Ł"), ("c", "c")];

    [Fact]
    public void DecodeOfEncode_IsTheText_OverBytes()
    {
        Tokenizer tokenizer = TextFiles.Load(TextFiles.ByteLevel(Merges, ("<|im_end|>", true)));
        var random = new Random(3);
        for (int i = 0; i < 300; i++)
        {
            string text = TextFiles.RandomText(random, random.Next(200));
            Assert.Equal(Tokenizer.WellFormed(text), tokenizer.Decode(tokenizer.Encode(text, addSpecial: true, parseSpecial: false)));
        }
    }

    [Fact]
    public void DecodeOfEncode_IsTheText_OverCharacters()
    {
        Tokenizer tokenizer = TextFiles.Load(TextFiles.Characters([("▁", "a"), ("a", "b"), ("▁", "▁")], "▁abc", """{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]}""", "null"));
        var random = new Random(4);
        for (int i = 0; i < 300; i++)
        {
            string text = TextFiles.RandomText(random, random.Next(200)).Replace("\u2581", "");
            Assert.Equal(Tokenizer.WellFormed(text), tokenizer.Decode(tokenizer.Encode(text, addSpecial: true, parseSpecial: false)));
        }
    }

    [Fact]
    public void LoneSurrogates_AreReadAsReplacements()
    {
        Assert.Equal("a\uFFFDb\uFFFD", Tokenizer.WellFormed("a\uD83Db\uDE00"));
        Assert.Equal("\uFFFD\U0001F600", Tokenizer.WellFormed("\uD83D\uD83D\uDE00"));
        Assert.Equal("plain", Tokenizer.WellFormed("plain"));
    }

    [Fact]
    public void ControlTokens_AreParsedOnlyWhenAsked_AndUserTokensAlways()
    {
        Tokenizer tokenizer = TextFiles.Load(TextFiles.ByteLevel(Merges, ("<|im_start|>", true), ("<think>", false), ("<thi", false)));
        int start = tokenizer.VocabularySize - 3, think = start + 1;
        Assert.Equal([start, think, 'x'], tokenizer.Encode("<|im_start|><think>x", addSpecial: false, parseSpecial: true));
        int[] plain = tokenizer.Encode("<|im_start|><think>x", addSpecial: false, parseSpecial: false);
        Assert.DoesNotContain(start, plain);
        Assert.Contains(think, plain);
        Assert.Equal("<|im_start|><think>x", tokenizer.Decode(plain));
        Assert.Equal("<think>x", tokenizer.Decode([start, think, 'x']));
        Assert.Equal("<|im_start|><think>x", tokenizer.Decode([start, think, 'x'], skipSpecial: false));
        Assert.True(tokenizer.IsSpecial(start));
        Assert.Equal(0, tokenizer.Bytes(start).Length);
        Assert.False(tokenizer.IsSpecial(think));
        Assert.Equal("<|im_start|>", tokenizer.Piece(start));
    }

    [Fact]
    public void AddedTokens_SwallowWhitespaceAndMindWords_AsTheyAsk()
    {
        JsonObject json = TextFiles.ByteLevel(Merges, ("<r>", false), ("<l>", false), ("word", false));
        json["added_tokens"]![0]!["rstrip"] = true;
        json["added_tokens"]![1]!["lstrip"] = true;
        json["added_tokens"]![2]!["single_word"] = true;
        Tokenizer tokenizer = TextFiles.Load(json);
        int r = tokenizer.VocabularySize - 3, l = r + 1, word = r + 2, x = 'x';
        Assert.Equal([r, x], tokenizer.Encode("<r>  \nx", false, false));
        Assert.Equal([x, l], tokenizer.Encode("x \t<l>", false, false));
        Assert.Contains(word, tokenizer.Encode("a word!", false, false));
        Assert.DoesNotContain(word, tokenizer.Encode("swords", false, false));
    }

    [Theory]
    [InlineData("a"), InlineData(" "), InlineData("🚀"), InlineData("abc"), InlineData("ab cc \n"), InlineData("0"), InlineData("'"), InlineData("aab")]
    public void Encode_LooksUpAtMostThreePairsASymbol_HoweverLongTheWord(string unit)
    {
        const int Bytes = 1 << 18;
        string text = string.Concat(Enumerable.Repeat(unit, Bytes / Encoding.UTF8.GetByteCount(unit)));
        foreach (Tokenizer tokenizer in (Tokenizer[])[TextFiles.Load(TextFiles.ByteLevel(Merges)),
            TextFiles.Load(TextFiles.Characters([("▁", "a"), ("a", "b"), ("▁", "▁"), ("a", "a"), ("aa", "aa")], "▁abc", """{"type":"Replace","pattern":{"String":" "},"content":"▁"}""", "null"))])
        {
            int[] ids = tokenizer.EncodeCounted(text, addSpecial: false, parseSpecial: true, out long lookups);
            Assert.InRange(lookups, 0, 3L * Bytes);
            Assert.Equal(text, tokenizer.StripsLeadingSpace && unit[0] == ' ' ? " " + tokenizer.Decode(ids) : tokenizer.Decode(ids));
        }
    }

    [Fact]
    public void Scan_AndHeap_MergeAlike()
    {
        var random = new Random(5);
        for (int i = 0; i < 2000; i++)
        {
            var table = new MergeTable(64);
            for (int m = 0; m < 60; m++) table.TryAdd(random.Next(12), random.Next(12), random.Next(20), random.Next(12)); // equal ranks too
            int[] word = [.. Enumerable.Range(0, random.Next(2, 40)).Select(_ => random.Next(4))];
            int[] scanned = [.. word], heaped = [.. word];
            int s = new Merger(table).Run(scanned), h = new Merger(table).Run(heaped, scanLimit: 0);
            Assert.Equal(scanned[..s], heaped[..h]);
        }
    }

    [Fact]
    public void IgnoreMerges_TakesAWholeWordsToken()
    {
        JsonObject json = TextFiles.ByteLevel(Merges);
        json["model"]!["vocab"]!["xyz"] = 300;
        int[] Encode() => TextFiles.Load(json.DeepClone()).Encode("xyz", false, false);
        Assert.Equal(3, Encode().Length);
        json["model"]!["ignore_merges"] = true;
        Assert.Equal([300], Encode());
    }

    [Fact]
    public void Template_AddsItsTokens_WhenAsked()
    {
        Tokenizer tokenizer = TextFiles.Load(TextFiles.Characters([], "▁a", "null", """{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":false}"""));
        Assert.True(tokenizer.AddsBos);
        int space = 259, a = 260;
        Assert.Equal([1, space, a], tokenizer.Encode("a", addSpecial: true, parseSpecial: true));
        Assert.Equal([space, a], tokenizer.Encode(" a", addSpecial: false, parseSpecial: true));
        Assert.Equal([space, a, 2, a], tokenizer.Encode("a</s>a", addSpecial: false, parseSpecial: true));
        Assert.Equal([1], tokenizer.Encode("", addSpecial: true, parseSpecial: true));
    }

    [Fact]
    public void CharactersWithoutAToken_BecomeTheirBytes()
    {
        Tokenizer tokenizer = TextFiles.Load(TextFiles.Characters([], "▁a", "null", "null"));
        Assert.Equal([260, 3 + 0xC3, 3 + 0xA9, 3 + 0x00], tokenizer.Encode("aé\0", addSpecial: false, parseSpecial: true));
    }

    [Fact]
    public void CharactersWithoutATokenOrBytes_BecomeOneUnknown()
    {
        Tokenizer tokenizer = TextFiles.Load(TextFiles.SentencePiece([("<unk>", 0, 2), ("<s>", 0, 3), ("</s>", 0, 3), ("▁", -1, 1), ("a", -2, 1)]));
        Assert.Equal([3, 4, 0, 4], tokenizer.Encode("axyza", addSpecial: false, parseSpecial: false));
    }

    [Fact]
    public void Nfc_ComposesBeforeEncoding()
    {
        JsonObject json = TextFiles.ByteLevel(Merges);
        json["normalizer"] = new JsonObject { ["type"] = "NFC" };
        Tokenizer tokenizer = TextFiles.Load(json);
        foreach ((string text, string composed) in ((string, string)[])[("e\u0301", "\u00E9"), ("\u1100\u1161\u11A8", "\uAC01"), ("\u212B", "\u00C5"), ("q\u0307\u0323", "q\u0323\u0307"), ("\u0958", "\u0915\u093C"),
            ("\U0001D15E", "\U0001D157\U0001D165"), ("a\u0315\u0300\u05AE\u0300b", "\u00E0\u05AE\u0300\u0315b"), ("plain", "plain")])
            Assert.Equal(composed, tokenizer.Decode(tokenizer.Encode(text, false, false)));
    }

    [Fact]
    public void EndIds_CollectTheFilesOwnAndTheWellKnown()
    {
        Tokenizer tokenizer = TextFiles.Load(TextFiles.ByteLevel([], ("<|endoftext|>", true), ("<|im_end|>", true), ("<stop>", true), ("</s>", false)), """{"eos_token":{"content":"<stop>"}}""");
        Assert.Equal([256, 257, 258, 259], tokenizer.EndIds);
        Assert.Equal(258, tokenizer.EosId);
        Assert.True(tokenizer.IsEnd(257));
        Assert.False(tokenizer.IsEnd(0));
    }

    [Fact]
    public void ChatTemplate_ComesFromTheConfig_NamedOrAlone()
    {
        Assert.Equal("T", TextFiles.Load(TextFiles.ByteLevel([]), """{"chat_template":"T"}""").ChatTemplate);
        Assert.Equal("D", TextFiles.Load(TextFiles.ByteLevel([]), """{"chat_template":[{"name":"tool_use","template":"U"},{"name":"default","template":"D"}]}""").ChatTemplate);
        Assert.Equal("U", TextFiles.Load(TextFiles.ByteLevel([]), """{"chat_template":[{"name":"tool_use","template":"U"},{"name":"default","template":"D"}]}""").ToolUseTemplate);
        Assert.Equal("D", TextFiles.Load(TextFiles.ByteLevel([]), """{"chat_template":{"tool_use":"U","default":"D"}}""").ChatTemplate);
        Assert.Equal("R", TextFiles.Load(TextFiles.ByteLevel([]), """{"chat_template":[{"name":"tool_use","template":"U"},{"name":"rag","template":"R"}]}""").ChatTemplate);
        Assert.Null(TextFiles.Load(TextFiles.ByteLevel([]), """{"chat_template":"T"}""").ToolUseTemplate);
        Assert.Null(TextFiles.Load(TextFiles.ByteLevel([])).ChatTemplate);
    }
}
