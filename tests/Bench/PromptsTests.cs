using Native.Bench.Serve;
using Native.Kernels.Models;
using Native.Kernels.Text;
using Native.Tools;

namespace Native.Tests.Bench;

public sealed class PromptsTests
{
    [Fact]
    public void RandomPrompts_HaveTheirLengths_ShareNoBeginning_AndFollowFromTheSeed()
    {
        List<Prompt> prompts = Prompts.Random(50, 32, 8, 0, null, new Random(3));
        Assert.All(prompts, prompt => Assert.Equal((32, 8), (prompt.Text.Split(' ').Length, prompt.OutputTokens)));
        Assert.Equal(50, prompts.Select(prompt => string.Join(' ', prompt.Text.Split(' ')[..8])).Distinct().Count());
        Assert.Equal(prompts, Prompts.Random(50, 32, 8, 0, null, new Random(3)));
        Assert.NotEqual(prompts, Prompts.Random(50, 32, 8, 0, null, new Random(4)));
    }

    [Fact]
    public void TheRangeRatio_SpreadsLengthsToBothSides()
    {
        List<Prompt> prompts = Prompts.Random(500, 10, 100, 0.5, null, new Random(3));
        int[] lengths = [.. prompts.Select(prompt => prompt.Text.Split(' ').Length)];
        Assert.Equal((5, 15), (lengths.Min(), lengths.Max()));
        Assert.All(prompts, prompt => Assert.InRange(prompt.OutputTokens, 50, 150));
    }

    [Fact]
    public void WithATokenizer_PromptsHaveExactlyTheirTokens_NoneOfThemSpecial()
    {
        using ModelFile file = ModelFile.Open(Path.Combine(AppContext.BaseDirectory, "models", "demo.gguf"));
        Tokenizer tokenizer = file.OpenTokenizer();
        List<Prompt> prompts = Prompts.Random(20, 24, 8, 0, tokenizer, new Random(3));
        Assert.All(prompts, prompt =>
        {
            Assert.Equal(24, prompt.Ids!.Length);
            Assert.DoesNotContain(prompt.Ids, id => tokenizer.IsSpecial(id) || tokenizer.IsEnd(id));
            Assert.Equal(tokenizer.Decode(prompt.Ids), prompt.Text);
        });
    }

    [Fact]
    public void AFile_HasTextsOrJson_AndBeginsAgain()
    {
        string file = Written("""
            first

            {"prompt": "second", "output_tokens": 9}
            {"prompt": "third"}
            """);
        Assert.Equal(
            [new Prompt("first", null, 5), new Prompt("second", null, 9), new Prompt("third", null, 5), new Prompt("first", null, 5), new Prompt("second", null, 9)],
            Prompts.OfFile(file, 5, 5));
        Assert.Equal([new Prompt("first", null, 5)], Prompts.OfFile(file, 1, 5));
        File.Delete(file);
    }

    [Theory]
    [InlineData("", "has no prompt")]
    [InlineData("one\n{\"text\": \"two\"}", "line 2")]
    [InlineData("{\"prompt\": 2}", "line 1")]
    [InlineData("{\"prompt\": \"a\", \"output_tokens\": 0}", "output_tokens")]
    [InlineData("{\"prompt\": \"a\", \"output_tokens\": \"b\"}", "line 1")]
    [InlineData("{\"prompt\"", "line 1")]
    public void AFileThatIsNone_IsToldWithItsLine(string text, string expected)
    {
        string file = Written(text);
        CommandException refused = Assert.Throws<CommandException>(() => Prompts.OfFile(file, 5, 5));
        Assert.Contains(expected, refused.Message, StringComparison.Ordinal);
        Assert.Contains(file, refused.Message, StringComparison.Ordinal);
        File.Delete(file);
    }

    private static string Written(string text)
    {
        string file = Path.Combine(Path.GetTempPath(), $"native-{Guid.NewGuid():N}.jsonl");
        File.WriteAllText(file, text);
        return file;
    }
}
