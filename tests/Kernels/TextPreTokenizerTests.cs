using Native.Kernels.Text;

namespace Native.Tests.Kernels;

public sealed class TextPreTokenizerTests
{
    private static string[] Split(string name, string text)
    {
        var words = new List<(int Start, int End)>();
        PreTokenizers.Get(PreTokenizers.Find(name)!).Split(text, words);
        return [.. words.Select(w => text[w.Start..w.End])];
    }

    [Theory]
    [InlineData("gpt-2", "Hello  world's 123!", "Hello| | world|'s| 123|!")]
    [InlineData("gpt-2", "I'LL go", "I|'|LL| go")]
    [InlineData("llama-bpe", "I'LL go 12345\n\n x", "I|'LL| go| |123|45|\n\n| x")]
    [InlineData("qwen2", "a 12 (b)\n", "a| |1|2| (|b|)\n")]
    [InlineData("qwen2", "x\u212A'\u017F", "x\u212A|'\u017F")]
    [InlineData("smollm", "in 2024", "in| |2|0|2|4")]
    [InlineData("gpt-4o", "camelCase HTTPServer don't", "camel|Case| HTTPServer| don't")]
    [InlineData("tekken", "HELLOworld x12/", "HELLOworld| x|1|2|/")]
    [InlineData("deepseek-v3", "12345 漢字kana(a b", "123|45| |漢字|kana|(a| b")]
    [InlineData("falcon", "a`b 12345", "a|`|b| |123|45")]
    [InlineData("starcoder", " 12", " |1|2")]
    [InlineData("tiny_aya", "1234567 1234a  12", "1|234|567| |1|234|a| | |12")]
    [InlineData("tiny_aya", "camelCase e\u0301a 54 \u0663", "camelCase| e\u0301a| |54| |\u0663")]
    [InlineData("gpt-4o", "\u041F\u0440\u0438\u041C\u0438\u0440 e\u0301a", "\u041F\u0440\u0438\u041C\u0438\u0440| e|\u0301a")] // upper and lower case in ASCII alone; a mark is no letter
    [InlineData("granite-embed-multi-97m", "e\u0301a aB", "e\u0301a| a|B")]
    [InlineData("youtu", "qA'S 12", "qA'S| |1|2")]
    [InlineData("kimi-k2", "qA e\u0301a", "qA| e|\u0301a")]
    [InlineData("deepseek-coder", "a\u3000\u2003", "a|\u3000\u2003")] // no space is in a class of literal characters
    [InlineData("deepseek-llm", "\u043F\U00010400 \u3000", "\u043F\U00010400| \u3000")]
    [InlineData("superbpe", "86729\u0966", "86|729\u0966")]
    [InlineData("afmoe", "  12 \u0E33", " | |12| \u0E33")]
    [InlineData("superbpe", "x1234 y", "x|1|234| y")]
    [InlineData("afmoe", "a1234", "a|1|234")]
    [InlineData("kimi-k2", "漢字kana x", "漢字|kana| x")]
    [InlineData("kimi-k2", "𠀀漢a", "𠀀漢|a")]
    [InlineData("bloom", "a, b", "a|,| b")]
    [InlineData("qwen2", "𝐀𝐁 🚀🚀 𝟙", "𝐀𝐁| 🚀🚀| |𝟙")]
    [InlineData("gpt-2", "𠀀𠀀 🚀", "𠀀𠀀| 🚀")]
    [InlineData("deepseek-llm", "a 𐐀b 𝐀", "a| 𐐀|b| 𝐀")]
    [InlineData("jais-2", "a       b", "a|    |  | b")]
    public void Rows_CutAsTheirPatternsSay(string name, string text, string words) => Assert.Equal(words.Split('|'), Split(name, text));

    [Fact]
    public void Rows_KeepEveryCharacter()
    {
        var random = new Random(6);
        var words = new List<(int Start, int End)>();
        foreach (PreTokenizerRow row in PreTokenizers.Rows)
        {
            for (int i = 0; i < 50; i++)
            {
                string text = TextFiles.RandomText(random, random.Next(60), loneSurrogates: false);
                PreTokenizers.Get(row).Split(text, words);
                int done = 0;
                foreach ((int start, int end) in words)
                {
                    Assert.Equal(done, start);
                    Assert.True(end > start);
                    Assert.False(end < text.Length && char.IsLowSurrogate(text[end]));
                    done = end;
                }
                Assert.Equal(text.Length, done);
            }
        }
    }

    [Fact]
    public void Names_MeanOneRowEach() => Assert.Equal(PreTokenizers.Names.Count(), PreTokenizers.Names.Distinct().Count());
}
