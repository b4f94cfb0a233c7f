using Native.Kernels.Text;
using Native.Server.Serving;

namespace Native.Tests.Kernels;

public sealed class TextDetokenizerTests
{
    private static readonly Tokenizer Bytes = TextFiles.Load(TextFiles.ByteLevel([("a", "a"), ("aa", "a"), ("a", "b"), ("Ġ", "a")], ("<|im_end|>", true)));

    private static string Stream(Detokenizer detokenizer, IEnumerable<int> ids)
    {
        string text = string.Concat(ids.Select(detokenizer.Append));
        return text + detokenizer.Flush();
    }

    [Fact]
    public void AppendsAndFlush_AreDecode_WhateverTheIds()
    {
        var random = new Random(1);
        for (int i = 0; i < 500; i++)
        {
            int[] ids = [.. Enumerable.Range(0, random.Next(40)).Select(_ => random.Next(3) == 0 ? random.Next(Bytes.VocabularySize) : random.Next(0x80, 0x100))];
            foreach (bool skip in (bool[])[true, false])
                Assert.Equal(Bytes.Decode(ids, skip), Stream(new Detokenizer(Bytes, skipSpecial: skip, startOfText: true), ids));
        }
    }

    [Fact]
    public void Append_NeverEmitsHalfACharacter()
    {
        int[] ids = Bytes.Encode("é🚀", addSpecial: false, parseSpecial: false);
        Assert.Equal(6, ids.Length);
        var detokenizer = new Detokenizer(Bytes);
        Assert.Equal(["", "é", "", "", "", "🚀"], ids.Select(detokenizer.Append));
        Assert.Equal("", detokenizer.Flush());
    }

    [Fact]
    public void Flush_TurnsAnIncompleteCharacterIntoAReplacement()
    {
        var detokenizer = new Detokenizer(Bytes);
        Assert.Equal("", detokenizer.Append(Bytes.Encode("🚀", false, false)[0]));
        Assert.Equal("\uFFFD", detokenizer.Flush());
    }

    [Theory]
    [InlineData("aaab", "aab", "a")]
    [InlineData("ababac", "abac", "ab")]
    [InlineData("xxENDyy", "END", "xx")]
    [InlineData("🚀🚁", "🚁", "🚀")]
    [InlineData("END", "END", "")]
    public void StopString_EndsTheTextBeforeIt(string text, string stop, string expected)
    {
        foreach (int[] ids in (int[][])[Bytes.Encode(text, false, false), [.. System.Text.Encoding.UTF8.GetBytes(text).Select(b => Bytes.Encode(((char)b).ToString(), false, false)[^1])]])
        {
            var detokenizer = new Detokenizer(Bytes, [stop]);
            if (Bytes.Decode(ids) != text) continue; // bytes above 127 written as characters
            Assert.Equal(expected, Stream(detokenizer, ids));
            Assert.True(detokenizer.Stopped);
            Assert.Equal(stop, detokenizer.MatchedStop);
            Assert.Equal("", detokenizer.Append(ids[0]));

            Assert.Equal(expected + stop, Stream(new Detokenizer(Bytes, [stop], includeStop: true), ids));
        }
    }

    [Fact]
    public void StopStrings_NeverLeak_HoweverTheTextIsCut()
    {
        var random = new Random(2);
        for (int i = 0; i < 2000; i++)
        {
            string Letters(int most) => string.Concat(Enumerable.Range(0, random.Next(1, most)).Select(_ => "abé"[random.Next(3)]));
            string text = Letters(30);
            string[] stops = [.. Enumerable.Range(0, random.Next(1, 4)).Select(_ => Letters(6))];
            int[] ids = Bytes.Encode(text, addSpecial: false, parseSpecial: false);
            // The specification: the stop string that ends first, the longest of those.
            (int end, string? matched) = Enumerable.Range(1, text.Length)
                .Select(e => (e, stops.Where(s => text[..e].EndsWith(s, StringComparison.Ordinal)).MaxBy(s => s.Length)))
                .FirstOrDefault(x => x.Item2 is not null, (text.Length, null));
            string expected = text[..(end - (matched?.Length ?? 0))];

            var detokenizer = new Detokenizer(Bytes, stops);
            string seen = "";
            foreach (int id in ids)
            {
                seen += detokenizer.Append(id);
                Assert.StartsWith(seen, expected); // nothing ever to take back
                if (detokenizer.Stopped) break;
            }
            seen += detokenizer.Flush();
            Assert.Equal(expected, seen);
            Assert.Equal(matched, detokenizer.MatchedStop);
        }
    }

    [Fact]
    public void Append_HoldsBackNoMoreThanAPossibleStop()
    {
        var detokenizer = new Detokenizer(Bytes, ["END"]);
        Assert.Equal(["x", "", "", "ENx"], "xENx".Select(c => detokenizer.Append(Bytes.Encode(c.ToString(), false, false)[0])));
    }

    [Fact]
    public void LeadingSpace_CountsInAContinuation_AndNotAtATextsStart()
    {
        Tokenizer tokenizer = TextFiles.Load(TextFiles.SentencePiece([("<unk>", 0, 2), ("<s>", 0, 3), ("</s>", 0, 3), ("▁", -1, 1), ("a", -2, 1), ("▁a", -3, 1)]));
        Assert.Equal("a a", tokenizer.Decode([1, 5, 5]));
        Assert.Equal("a a", Stream(new Detokenizer(tokenizer, startOfText: true), [1, 5, 5]));
        Assert.Equal(" a a", Stream(new Detokenizer(tokenizer), [5, 5]));
    }

    [Fact]
    public void EmptyStopString_IsRefused() => Assert.Throws<ArgumentException>(() => new Detokenizer(Bytes, [""]));

    [Fact]
    public void UnknownId_IsRefused()
    {
        var detokenizer = new Detokenizer(Bytes);
        Assert.Throws<ArgumentOutOfRangeException>(() => detokenizer.Append(Bytes.VocabularySize));
        Assert.Throws<ArgumentOutOfRangeException>(() => detokenizer.Append(-1));
        Assert.Throws<ArgumentOutOfRangeException>(() => Bytes.Decode([0, int.MaxValue]));
    }
}
