using System.Text;
using System.Text.Json;
using Native.Kernels.Files;
using Native.Kernels.Text;
using Native.Server.Serving;

namespace Native.Tests.Kernels;

public sealed class TextTokenizerTests
{
    private static Tokenizer Gguf(string relative)
    {
        using GgufFile file = GgufFile.Open(TestData.Path(relative));
        return Tokenizer.FromGguf(file);
    }

    private static (string Text, int[] Ids)[] Cases(string name)
    {
        string[] texts = File.ReadAllText(TestData.Path($"tokenizers/ggml-vocab/ggml-vocab-{name}.gguf.inp")).Split("\n__ggml_vocab_test__\n");
        string[] lines = File.ReadAllLines(TestData.Path($"tokenizers/ggml-vocab/ggml-vocab-{name}.gguf.out"));
        return [.. texts.Zip(lines, (text, line) => (text, line.Split(' ', StringSplitOptions.RemoveEmptyEntries).Select(int.Parse).ToArray()))];
    }

    private static void AssertCases(Tokenizer tokenizer, string name)
    {
        (string Text, int[] Ids)[] cases = Cases(name);
        Assert.Equal(46, cases.Length);
        Assert.Multiple([.. cases.Select(c => (Action)(() => Assert.Equal(c.Ids, tokenizer.Encode(c.Text, addSpecial: false, parseSpecial: false))))]);
    }

    [Theory, InlineData("gpt-2"), InlineData("llama-spm"), InlineData("deepseek-coder"), InlineData("mpt")]
    public void Encode_MatchesLlamaCppsCases(string name) => AssertCases(Gguf($"tokenizers/ggml-vocab/ggml-vocab-{name}.gguf"), name);

    [Fact]
    public void Encode_OfSmolLM2_MatchesItsGolden()
    {
        Tokenizer tokenizer = Gguf("models/SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
        using JsonDocument golden = JsonDocument.Parse(File.ReadAllText(TestData.Path("models/SmolLM2-135M-Instruct/golden.json")));
        foreach (JsonElement run in golden.RootElement.GetProperty("runs").EnumerateArray())
        {
            int[] prompt = [.. run.GetProperty("prompt_ids").EnumerateArray().Select(e => e.GetInt32())];
            int[] output = [.. run.GetProperty("output_ids").EnumerateArray().Select(e => e.GetInt32())];
            if (run.GetProperty("kind").GetString() == "raw")
                Assert.Equal(prompt, tokenizer.Encode(run.GetProperty("prompt").GetString()!, addSpecial: true, parseSpecial: true));
            else // the rendered template, written back from its ids
                Assert.Equal(prompt, tokenizer.Encode(tokenizer.Decode(prompt, skipSpecial: false), addSpecial: true, parseSpecial: true));
            Assert.Equal(run.GetProperty("text").GetString(), tokenizer.Decode(output));
        }
        JsonElement perplexity = golden.RootElement.GetProperty("perplexity");
        int[] first = [.. perplexity.GetProperty("first_ids").EnumerateArray().Select(e => e.GetInt32())];
        int[] ids = tokenizer.Encode(File.ReadAllText(TestData.Path("text/tinyshakespeare.txt"))[..120000], addSpecial: false, parseSpecial: false);
        Assert.Equal(first, ids[..first.Length]);
        Assert.Equal(perplexity.GetProperty("tokens").GetInt32(), ids.Length);
        Assert.NotNull(tokenizer.ChatTemplate);
        Assert.Contains(2, tokenizer.EndIds);
    }

    private static void AssertStories(Tokenizer tokenizer)
    {
        using JsonDocument golden = JsonDocument.Parse(File.ReadAllText(TestData.Path("models/stories260K/golden.json")));
        foreach (JsonElement run in golden.RootElement.GetProperty("runs").EnumerateArray())
        {
            int[] ids = [.. run.GetProperty("input_ids").EnumerateArray().Select(e => e.GetInt32())];
            int[] prompt = tokenizer.Encode(run.GetProperty("prompt").GetString()!, addSpecial: true, parseSpecial: false);
            Assert.Equal(ids[..prompt.Length], prompt);
            // llama2.c prints a token after it was fed, and a line end at the last.
            Assert.StartsWith(tokenizer.Decode(ids), run.GetProperty("text").GetString());
        }
    }

    [Theory, InlineData("F32"), InlineData("F16"), InlineData("Q8_0"), InlineData("Q4_0")]
    public void Encode_OfStories_MatchesItsGolden(string type) => AssertStories(Gguf($"models/stories260K/stories260K-{type}.gguf"));

    [Fact]
    public void SupplementaryCharacters_AreSeenAsTheirOwnCategory()
    {
        for (int value = 0x10000; value <= 0x10FFFF; value++)
        {
            var rune = new Rune(value);
            Assert.Equal(Rune.GetUnicodeCategory(rune), char.GetUnicodeCategory(PreTokenizer.None.SeenAs(rune)));
        }
    }

    [Fact]
    public void Encode_OfQwen3sTokenizerJson_MatchesLlamaCppsCases()
    {
        Tokenizer tokenizer = Tokenizer.FromFolder(TestData.Path("tokenizers/qwen3-tokenizer"));
        AssertCases(tokenizer, "qwen2");
        Assert.False(tokenizer.AddsBos);
        Assert.Equal("<|im_end|>", tokenizer.Piece(tokenizer.EosId!.Value));
        Assert.NotNull(tokenizer.ChatTemplate);
    }

    [Fact]
    public void Encode_OfLlama2sTokenizerModel_MatchesLlamaCppsCases()
        => AssertCases(Tokenizer.FromFolder(TestData.Path("tokenizers/llama2-tokenizer")), "llama-spm");

    [Fact]
    public void Encode_OfStoriesTokenizerModel_MatchesItsGolden() => AssertStories(Tokenizer.FromFolder(TestData.Path("models/stories260K/hf")));

    [Theory]
    [InlineData("gemma2"), InlineData("gemma3"), InlineData("llama-linear"), InlineData("llama3-rope"), InlineData("phi3"), InlineData("qwen2"), InlineData("qwen3")]
    public void FolderAndGguf_EncodeAlike(string family)
    {
        Tokenizer gguf = Gguf($"models/architectures/{family}/{family}-F32.gguf");
        Tokenizer folder = Tokenizer.FromFolder(TestData.Path($"models/architectures/{family}/hf"));
        Assert.Equal(gguf.VocabularySize, folder.VocabularySize);
        Assert.Equal(gguf.EndIds, folder.EndIds);
        Assert.Equal((gguf.BosId, gguf.EosId, gguf.AddsBos, gguf.AddsEos, gguf.StripsLeadingSpace), (folder.BosId, folder.EosId, folder.AddsBos, folder.AddsEos, folder.StripsLeadingSpace));
        foreach ((string text, _) in Cases("gpt-2"))
        {
            int[] ids = gguf.Encode(text, addSpecial: true, parseSpecial: true);
            Assert.Equal(ids, folder.Encode(text, addSpecial: true, parseSpecial: true));
            Assert.Equal(gguf.Decode(ids), folder.Decode(ids));
        }
    }
}
