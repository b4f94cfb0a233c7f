using Native.Kernels.Files;
using Native.Kernels.Text;
using Native.Server.Serving;

namespace Native.Tests.Kernels;

public sealed class TextGgufTests
{
    private static readonly string[] Bytes = [.. Enumerable.Range(0, 256).Select(b => ByteAlphabet.Character((byte)b).ToString())];

    private static GgufBytes BytePair(string pre, string[] more, params string[] merges) => new()
    {
        { "general.architecture", "llama" }, { "tokenizer.ggml.model", "gpt2" }, { "tokenizer.ggml.pre", pre },
        { "tokenizer.ggml.tokens", Bytes.Concat(more).ToArray() }, { "tokenizer.ggml.merges", (string[])["y z", .. merges] }, // one at least: an empty array has no type to tell
    };

    private static GgufBytes SentencePiece(string[] tokens, float[] scores, int[] types) => new()
    {
        { "general.architecture", "llama" }, { "tokenizer.ggml.model", "llama" },
        { "tokenizer.ggml.tokens", tokens }, { "tokenizer.ggml.scores", scores }, { "tokenizer.ggml.token_type", types },
    };

    private static Tokenizer Load(GgufBytes writer)
    {
        using TemporaryFile content = writer.ToFile();
        using GgufFile file = GgufFile.Open(content.Path);
        return Tokenizer.FromGguf(file);
    }

    private static string Refusal(GgufBytes writer) => Assert.Throws<InvalidDataException>(() => Load(writer)).Message;

    [Fact]
    public void UnknownPre_IsRefusedByName_WithTheKnownOnes()
    {
        string message = Refusal(BytePair("made-up", []));
        Assert.Contains("'made-up'", message);
        foreach (string name in (string[])["llama-bpe", "qwen2", "smollm", "gpt-2", "gpt-4o", "tekken", "deepseek-v3", "falcon", "starcoder", "command-r", "olmo", "exaone"]) Assert.Contains(name, message);
    }

    [Fact]
    public void UnknownModel_IsRefusedByName()
        => Assert.Contains("'bert'", Refusal(new GgufBytes { { "general.architecture", "bert" }, { "tokenizer.ggml.model", "bert" }, { "tokenizer.ggml.tokens", new[] { "a" } } }));

    [Fact]
    public void MissingModel_IsRefused() => Assert.Contains("tokenizer.ggml.model", Refusal(new GgufBytes { { "general.architecture", "llama" } }));

    [Theory, InlineData("ab"), InlineData(""), InlineData(" "), InlineData("a "), InlineData("  ")]
    public void MergeWithoutTwoTexts_IsRefused(string merge) => Assert.Contains("merges", Refusal(BytePair("gpt-2", [], merge)));

    [Fact]
    public void ListsThatAreTooShort_AreRefused()
    {
        Assert.Contains("scores", Refusal(SentencePiece(["<unk>", "a"], [0], [2, 1])));
        Assert.Contains("token_type", Refusal(SentencePiece(["<unk>", "a"], [0, 0], [2])));
    }

    [Fact]
    public void ATokenTwice_IsRefused() => Assert.Contains("again", Refusal(BytePair("gpt-2", ["ab", "ab"])));

    [Fact]
    public void MergeIntoAnUnknownText_StillEncodesEveryByte()
    {
        Tokenizer tokenizer = Load(BytePair("gpt-2", ["abc"], "a b", "ab c", "b x"));
        Assert.Equal([256], tokenizer.Encode("abc", false, false));
        Assert.Equal(['a', 'b'], tokenizer.Encode("ab", false, false)); // "ab" is on the way to a token, and none
        Assert.Equal(['b', 'x', 'y'], tokenizer.Encode("bxy", false, false));
    }

    [Fact]
    public void IdsAndFlags_AreReadWithTheirDefaults()
    {
        Tokenizer plain = Load(BytePair("gpt-2", []));
        Assert.Equal((null, null, false, false), (plain.BosId, plain.EosId, plain.AddsBos, plain.AddsEos));

        Tokenizer named = Load(BytePair("llama-bpe", ["<s>", "<|eot_id|>", "<|stop|>"]).With("tokenizer.ggml.bos_token_id", 256u).With("tokenizer.ggml.eos_token_id", 258u));
        Assert.Equal([256, 'a'], named.Encode("a", addSpecial: true, parseSpecial: true));
        Assert.Equal([257, 258], named.EndIds);
        Assert.True(named.IsSpecial(257)); // though the file has no types

        Tokenizer told = Load(BytePair("llama-bpe", ["<s>"]).With("tokenizer.ggml.bos_token_id", 256u).With("tokenizer.ggml.eos_token_id", 9999u)
            .With("tokenizer.ggml.add_bos_token", false).With("tokenizer.chat_template", "{{ x }}").With("tokenizer.chat_template.tool_use", "{{ t }}"));
        Assert.False(told.AddsBos);
        Assert.Null(told.EosId);
        Assert.Equal(("{{ x }}", "{{ t }}"), (told.ChatTemplate, told.ToolUseTemplate));
    }

    [Fact]
    public void SentencePiece_PutsASpaceInFront_UnlessToldOtherwise()
    {
        string[] tokens = ["<unk>", "<s>", "</s>", "▁", "a", "▁a", "<0x62>"];
        GgufBytes Writer() => SentencePiece(tokens, [0, 0, 0, -1, -2, -3, 0], [2, 3, 3, 1, 1, 1, 6]);
        Assert.Equal([1, 5, 4, 2, 5, 6], Load(Writer()).Encode("aa</s>ab", addSpecial: true, parseSpecial: true));
        Assert.Equal([4, 5], Load(Writer().With("tokenizer.ggml.add_space_prefix", false)).Encode("a a", addSpecial: false, parseSpecial: true));
    }

    [Fact]
    public void Phi3s_TokensSwallowWhatFollows()
    {
        GgufBytes writer = SentencePiece(["<unk>", "<s>", "</s>", "▁", "a", "▁a", "<|user|>"], [0, 0, 0, -1, -2, -3, 0], [2, 3, 3, 1, 1, 1, 3]).With("general.name", "Phi-3 mini");
        Assert.Equal([6, 5], Load(writer).Encode("<|user|>\n a", addSpecial: false, parseSpecial: true));
    }

    [Fact]
    public void Gemma4_MergesCharacters_WithSpacesWrittenOut()
    {
        string[] tokens = ["<pad>", "<bos>", "a", "b", "▁", "▁a", "\n", .. Enumerable.Range(0, 256).Select(b => $"<0x{b:X2}>")];
        int[] types = [3, 3, 1, 1, 1, 1, 1, .. Enumerable.Repeat(6, 256)];
        var writer = new GgufBytes
        {
            { "general.architecture", "gemma" }, { "tokenizer.ggml.model", "gemma4" }, { "tokenizer.ggml.tokens", tokens }, { "tokenizer.ggml.token_type", types },
            { "tokenizer.ggml.merges", new[] { "▁ a" } }, { "tokenizer.ggml.bos_token_id", 1u },
        };
        Tokenizer tokenizer = Load(writer);
        int[] ids = tokenizer.Encode("b a\né", addSpecial: true, parseSpecial: true);
        Assert.Equal([1, 3, 5, 6, 7 + 0xC3, 7 + 0xA9], ids);
        Assert.Equal("b a\né", tokenizer.Decode(ids));
    }

    [Fact]
    public void Gemma4_BeginsWithBos_AndTakesNewlinesWhole_WhateverTheFileSays()
    {
        var writer = new GgufBytes
        {
            { "general.architecture", "gemma" }, { "tokenizer.ggml.model", "gemma4" }, { "tokenizer.ggml.tokens", new[] { "<bos>", "a", "\n", "\n\n", "</s>", "<|tool_response>" } },
            { "tokenizer.ggml.token_type", new[] { 3, 1, 1, 1, 1, 3 } }, { "tokenizer.ggml.merges", new[] { "a a" } }, { "tokenizer.ggml.bos_token_id", 0u }, { "tokenizer.ggml.add_bos_token", false },
        };
        Tokenizer tokenizer = Load(writer);
        Assert.Equal([0, 1, 3, 1], tokenizer.Encode("a\n\na", addSpecial: true, parseSpecial: true));
        Assert.Equal([5], tokenizer.EndIds); // and not </s>
        Assert.False(tokenizer.IsSpecial(4));
    }

    [Fact]
    public void EndAndFillInTokens_AreControl_ThoughTheFileCallsThemOrdinary()
    {
        Tokenizer tokenizer = Load(BytePair("bloom", ["</s>", "<EOT>", "<|fim_prefix|>", "</", "s>", "<rep>"], "< /", "s >", "</ s>").With("tokenizer.ggml.fim_rep_token_id", 261u));
        Assert.Equal([256, 257, 261], tokenizer.EndIds);
        Assert.True(tokenizer.IsSpecial(258));
        Assert.Equal([256, 258], tokenizer.Encode("</s><|fim_prefix|>", addSpecial: false, parseSpecial: true));
        Assert.Equal([256], tokenizer.Encode("</s>", addSpecial: false, parseSpecial: false)); // an ordinary token that merges make, as in training
    }

    [Fact]
    public void UserDefinedTokens_AreTakenAsTheyAreWritten_AndUnusedOnesAreSilent()
    {
        Tokenizer tokenizer = Load(SentencePiece(["<unk>", "<s>", "</s>", "▁", "a", "▁▁", "[PAD6]"], [0, 0, 0, -1, -2, -3, 0], [2, 3, 3, 1, 1, 4, 5]).With("tokenizer.ggml.add_space_prefix", false));
        Assert.Equal([4, 5, 4], tokenizer.Encode("a▁▁a", addSpecial: false, parseSpecial: false));
        Assert.Equal("a▁▁a", tokenizer.Decode([4, 5, 6, 4]));
    }

    [Fact]
    public void AnEmptyPre_IsTheDefault() => Assert.Equal(['a', '1'], Load(BytePair("", [])).Encode("a1", false, false));

    [Fact]
    public void RandomVocabularies_EncodeWithoutFault()
    {
        var random = new Random(8);
        for (int i = 0; i < 200; i++)
        {
            string Piece() => TextFiles.RandomText(random, random.Next(1, 4), loneSurrogates: false);
            string[] tokens = [.. Enumerable.Range(0, random.Next(1, 40)).Select(_ => Piece()).Distinct()];
            float[] scores = [.. tokens.Select(_ => (float)random.Next(-5, 5))];
            int[] types = [.. tokens.Select(_ => new[] { 1, 1, 1, 3, 4, 5, 2, 99 }[random.Next(8)])];
            Tokenizer tokenizer = Load(SentencePiece(tokens, scores, types));
            string text = TextFiles.RandomText(random, 50) + string.Concat(tokens);
            foreach (int id in tokenizer.Encode(text, addSpecial: true, parseSpecial: true)) Assert.InRange(id, 0, tokens.Length - 1);
        }
    }
}
