using System.Text.Json;
using System.Text.RegularExpressions;
using Microsoft.ML.Tokenizers;
using Tokenizer = Native.Kernels.Text.Tokenizer;

namespace Native.Tests.Kernels;

/// <summary>Holds the tokenizers to an independent implementation, Microsoft.ML.Tokenizers, where that one is
/// exact.</summary>
public sealed class TextOracleTests
{
    private const string Words = "the The THE don't I'LL x1 1234567 naïve École Привет 漢字 かな 한국어 हिन्दी \U0001F600 👍🏽 $1.50 foo_bar(); // -> «a» … \r\n  \t\n";

    /// <summary>Texts of words, spaces and line ends in any order, without control tokens written out.</summary>
    private static IEnumerable<string> Texts(int seed)
    {
        var random = new Random(seed);
        string[] words = Words.Split(' ');
        for (int i = 0; i < 1000; i++) yield return string.Concat(Enumerable.Range(0, random.Next(1, 20)).Select(_ => words[random.Next(words.Length)] + new string(' ', random.Next(3))));
    }

    [Fact]
    public void SentencePiece_EncodesAsMicrosofts()
    {
        string folder = TestData.Path("tokenizers/llama2-tokenizer");
        Tokenizer ours = Tokenizer.FromFolder(folder);
        using FileStream file = File.OpenRead(Path.Combine(folder, "tokenizer.model"));
        LlamaTokenizer theirs = LlamaTokenizer.Create(file, addBeginOfSentence: false, addEndOfSentence: false);
        foreach (string text in Texts(1)) Assert.Equal(theirs.EncodeToIds(text), ours.Encode(text, addSpecial: false, parseSpecial: false));
    }

    [Fact]
    public void ByteLevelBpe_EncodesAsMicrosofts_WithinTheBasicPlane()
    {
        string folder = TestData.Path("tokenizers/qwen3-tokenizer");
        Tokenizer ours = Tokenizer.FromFolder(folder);
        using JsonDocument json = JsonDocument.Parse(File.ReadAllBytes(Path.Combine(folder, "tokenizer.json")));
        JsonElement model = json.RootElement.GetProperty("model");
        string pattern = json.RootElement.GetProperty("pre_tokenizer").GetProperty("pretokenizers")[0].GetProperty("pattern").GetProperty("Regex").GetString()!;
        var options = new BpeOptions(model.GetProperty("vocab").EnumerateObject().Select(p => KeyValuePair.Create(p.Name, p.Value.GetInt32())))
        {
            Merges = [.. model.GetProperty("merges").EnumerateArray().Select(m => m.ValueKind == JsonValueKind.String ? m.GetString()! : $"{m[0].GetString()} {m[1].GetString()}")],
            ByteLevel = true,
            PreTokenizer = new RegexPreTokenizer(new Regex(pattern), null),
        };
        BpeTokenizer theirs = BpeTokenizer.Create(options);
        // Their patterns see the halves of supplementary characters; ours see characters.
        foreach (string text in Texts(2).Where(t => !t.Any(char.IsSurrogate))) Assert.Equal(theirs.EncodeToIds(text), ours.Encode(text, addSpecial: false, parseSpecial: false));
    }
}
