using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Native.Kernels.Files;
using Native.Kernels.Formats;
using Native.Kernels.Models;
using Native.Kernels.Text;
using Native.Server.Serving;
using Native.Tests.Kernels;
using Native.Tools;

namespace Native.Tests.Tools;

/// <summary>Hugging Face folders as GGUF files, beside those that llama.cpp's converter made of the same
/// folders.</summary>
public sealed class ConvertTests
{
    [Theory]
    [InlineData("llama3-rope"), InlineData("llama-linear"), InlineData("qwen2"), InlineData("qwen3"), InlineData("gemma2"), InlineData("gemma3"), InlineData("phi3")]
    public async Task EveryFamily_HasTheTensorsAndMetadataOfLlamaCppsConverter(string family)
    {
        using TemporaryFolder folder = new();
        string target = folder.File("m.gguf");
        (int exit, string output, string error) = await Run("convert", TestData.Path($"models/architectures/{family}/hf"), target, "--type", "F32", "--json");
        Assert.Equal((Cli.Success, ""), (exit, error));
        Assert.Empty(JsonDocument.Parse(output).RootElement.GetProperty("remarks").EnumerateArray());
        using GgufFile theirs = GgufFile.Open(TestData.Path($"models/architectures/{family}/{family}-F32.gguf")), ours = GgufFile.Open(target);
        Assert.Equal(theirs.Tensors.Keys.Order(StringComparer.Ordinal), ours.Tensors.Keys.Order(StringComparer.Ordinal));
        foreach ((string name, TensorView tensor) in theirs.Tensors)
        {
            TensorView found = ours.Tensors[name];
            Assert.Equal((TensorType.F32, tensor.Rows, tensor.Columns), (found.Type, found.Rows, found.Columns));
            for (int row = 0; row < tensor.Rows; row++)
            {
                // Rotary factors are computed, theirs in single precision.
                if (name != "rope_freqs.weight") Assert.True(Row(tensor, row).SequenceEqual(Row(found, row)), $"{name}, row {row}");
                else Assert.All(ModelFile.Decode(tensor).Zip(ModelFile.Decode(found)), pair => Assert.Equal(pair.First, pair.Second, 1e-5 * pair.First));
            }
        }
        foreach ((string key, object value) in theirs.Metadata)
        {
            // Its name is the folder's; the count of tokens is that of the list; the padding token is in none of the
            // tokenizer's files.
            if (key is not ("general.name" or "llama.vocab_size" or "tokenizer.ggml.padding_token_id")) Assert.Equal(value, ours.Metadata.GetValueOrDefault(key));
        }
    }

    [Theory]
    [InlineData("llama3-rope"), InlineData("llama-linear"), InlineData("mistral"), InlineData("qwen2"), InlineData("qwen3"), InlineData("gemma2"), InlineData("gemma3"), InlineData("phi3")]
    public async Task AConvertedModel_ComputesWhatTheFolderDoes_InTheFoldersTypes(string family)
    {
        string source = TestData.Path($"models/architectures/{family}/hf");
        using TemporaryFolder folder = new();
        string target = folder.File("m.gguf");
        (int exit, _, string error) = await Run("convert", source, target);
        Assert.Equal(Cli.Success, exit);
        Assert.Equal(family == "mistral", error.Contains("sliding window of 48 tokens", StringComparison.Ordinal)); // the one thing llama.cpp will not do
        using (ModelFile from = ModelFile.Open(source))
        using (GgufFile to = GgufFile.Open(target))
            Assert.All(to.Tensors.Values.Where(t => t.Rows > 1), t => Assert.Equal(from.Tensors.Values.First(f => f.Rows > 1).Type, t.Type));

        JsonElement golden = JsonDocument.Parse(await File.ReadAllTextAsync(TestData.Path($"models/architectures/{family}/golden.json"), TestContext.Current.CancellationToken)).RootElement;
        string ids = golden.GetProperty("runs").EnumerateArray().Select(run => string.Join(',', run.GetProperty("prompt_ids").EnumerateArray())).MaxBy(text => text.Length)!;
        double[] expected = await Logprobs(source, ids), found = await Logprobs(target, ids);
        Assert.True(expected.Length > 100);
        for (int i = 0; i < expected.Length; i++) Assert.Equal(expected[i], found[i], 1e-4);
    }

    [Fact]
    public async Task Quantize_OfAFolder_IsThatOfTheConvertedFile()
    {
        string source = TestData.Path("models/architectures/gemma3/hf");
        using TemporaryFolder folder = new();
        Assert.Equal(Cli.Success, (await Run("convert", source, folder.File("m.gguf"))).Exit);
        foreach (string type in (string[])["Q8_0", "Q4_K_M"])
        {
            Assert.Equal(Cli.Success, (await Run("quantize", source, folder.File("a.gguf"), "--type", type, "--force")).Exit);
            Assert.Equal(Cli.Success, (await Run("quantize", folder.File("m.gguf"), folder.File("b.gguf"), "--type", type, "--force")).Exit);
            using GgufFile a = GgufFile.Open(folder.File("a.gguf")), b = GgufFile.Open(folder.File("b.gguf"));
            Assert.Equal(b.Metadata.OrderBy(pair => pair.Key, StringComparer.Ordinal), a.Metadata.OrderBy(pair => pair.Key, StringComparer.Ordinal));
            foreach ((string name, TensorView tensor) in b.Tensors)
            {
                Assert.Equal(tensor.Type, a.Tensors[name].Type);
                for (int row = 0; row < tensor.Rows; row++) Assert.True(Row(tensor, row).SequenceEqual(Row(a.Tensors[name], row)), $"{name}, row {row}");
            }
        }
    }

    [Fact]
    public async Task Quantize_TellsPerplexityBeforeAndAfter_AsTheCommandOfThatNameMeasuresIt()
    {
        string source = TestData.Path("models/stories260K/hf");
        using TemporaryFolder folder = new();
        string text = folder.File("text.txt"), target = folder.File("m.gguf");
        await File.WriteAllTextAsync(text, string.Concat(Enumerable.Repeat("Once upon a time, there was a little girl named Lily. She loved to play outside in the park. ", 40)), TestContext.Current.CancellationToken);
        (int exit, string output, string error) = await Run("quantize", source, target, "--type", "Q4_0", "--text", text, "--chunks", "2", "--json");
        Assert.Equal((Cli.Success, ""), (exit, error));
        JsonElement told = JsonDocument.Parse(output).RootElement.GetProperty("perplexity");
        Assert.Equal(await Perplexity(source), told.GetProperty("before").GetDouble());
        Assert.Equal(await Perplexity(target), told.GetProperty("after").GetDouble());
        Assert.Equal(told.GetProperty("after").GetDouble() / told.GetProperty("before").GetDouble(), told.GetProperty("ratio").GetDouble(), 1e-12);
        Assert.Equal(510, told.GetProperty("scored").GetInt32());
        (_, output, _) = await Run("quantize", source, target, "--type", "Q4_0", "--text", text, "--chunks", "2", "--force");
        Assert.Contains(" %, over 510 tokens", output, StringComparison.Ordinal);

        // A text too short is known before anything is written.
        await File.WriteAllTextAsync(text, "Once upon a time", TestContext.Current.CancellationToken);
        File.Delete(target);
        (exit, _, error) = await Run("quantize", source, target, "--type", "Q4_0", "--text", text);
        Assert.Equal(Cli.Failed, exit);
        Assert.Contains("fewer than one window of 512", error, StringComparison.Ordinal);
        Assert.False(File.Exists(target));

        async Task<double> Perplexity(string model)
        {
            (_, string json, _) = await Run("perplexity", "-m", model, "-f", text, "--chunks", "2", "--json");
            return JsonDocument.Parse(json).RootElement.GetProperty("perplexity").GetDouble();
        }
    }

    [Theory]
    [InlineData("gemma2", "\"query_pre_attn_scalar\": 32", "\"query_pre_attn_scalar\": 48", "GGUF has no place for this model's attention scale")]
    [InlineData("gemma2", "\"hidden_activation\": \"gelu_pytorch_tanh\"", "\"hidden_activation\": \"silu\"", "GGUF has no place for this model's activation (Silu)")]
    [InlineData("qwen2", "\"use_sliding_window\": false", "\"use_sliding_window\": true, \"sliding_window\": 64, \"max_window_layers\": 1", "GGUF has no place for this model's sliding windows (0,64,64)")]
    [InlineData("mistral", "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4", "model.layers.3.input_layernorm.weight is missing")]
    public async Task WhatGgufCannotSay_IsRefused_AndNothingIsLeft(string family, string found, string instead, string complaint)
    {
        using TemporaryFolder folder = new();
        foreach (string file in Directory.GetFiles(TestData.Path($"models/architectures/{family}/hf"))) File.Copy(file, folder.File(Path.GetFileName(file)));
        string config = folder.File("config.json"), json = await File.ReadAllTextAsync(config, TestContext.Current.CancellationToken);
        Assert.Contains(found, json, StringComparison.Ordinal);
        File.Delete(config);
        await File.WriteAllTextAsync(config, json.Replace(found, instead, StringComparison.Ordinal), TestContext.Current.CancellationToken);
        string target = folder.File("out.gguf");
        (int exit, string output, string error) = await Run("convert", folder.Path, target);
        Assert.Equal((Cli.Failed, ""), (exit, output));
        Assert.Contains(complaint, error, StringComparison.Ordinal);
        Assert.Empty(Directory.GetFiles(folder.Path, "*.gguf*"));
    }

    [Fact]
    public async Task AValueTooLargeForItsNewType_IsNamed()
    {
        using TemporaryFolder folder = new();
        float[] values = new float[64];
        values[35] = 1e6f;
        File.WriteAllBytes(folder.File("m.gguf"), new Kernels.GgufBytes { { "general.architecture", "llama" } }.Tensor("blk.0.attn_q.weight", values, columns: 32).ToArray());
        (int exit, _, string error) = await Run("quantize", folder.File("m.gguf"), folder.File("out.gguf"), "--type", "F16");
        Assert.Equal(Cli.Failed, exit);
        Assert.Contains("blk.0.attn_q.weight, row 1, column 3: expected a value that F16 can hold, found 1000000", error, StringComparison.Ordinal);
        Assert.Single(Directory.GetFiles(folder.Path));
        (exit, _, error) = await Run("convert", folder.File("m.gguf"), folder.File("out.gguf"));
        Assert.Equal(Cli.Failed, exit);
        Assert.Contains("convert reads Hugging Face folders", error, StringComparison.Ordinal);
    }

    [Fact]
    public void ATokenizerJsonOfBytes_FindsItsPreTokenizersName()
    {
        (Tokenizer own, Tokenizer read, Dictionary<string, object> pairs) = ThroughGguf(TestData.Path("tokenizers/qwen3-tokenizer"), 151936);
        Assert.Equal(("gpt2", "qwen2"), ((string)pairs["tokenizer.ggml.model"], (string)pairs["tokenizer.ggml.pre"]));
        Assert.Equal("[PAD151935]", ((string[])pairs["tokenizer.ggml.tokens"])[^1]);
        Assert.Equal((own.BosId, own.EosId, own.ChatTemplate), (read.BosId, read.EosId, read.ChatTemplate));
        foreach (string text in File.ReadAllText(TestData.Path("tokenizers/ggml-vocab/ggml-vocab-qwen2.gguf.inp")).Split("__ggml_vocab_test__\n"))
            Assert.Equal(own.Encode(text, addSpecial: true, parseSpecial: true), read.Encode(text, addSpecial: true, parseSpecial: true));
    }

    [Fact]
    public void ATokenizerJsonOfCharacters_BecomesSentencePieceWithScoresThatOrderTheSameMerges()
    {
        // Llama 2's tokenizer.model, written as the tokenizer.json that transformers makes of it: every split of every
        // piece, best pieces first.
        TokenizerDefinition model = HuggingFaceTokenizer.Read(TestData.Path("tokenizers/llama2-tokenizer"));
        Dictionary<string, int> ids = Enumerable.Range(0, model.Pieces.Length).ToDictionary(id => model.Pieces[id]!, id => id, StringComparer.Ordinal);
        JsonObject vocabulary = [];
        foreach ((string piece, int id) in ids) vocabulary.Add(piece, id);
        JsonArray merges = [];
        foreach (int id in ids.Values.Where(id => model.Types[id] == TokenType.Normal).OrderByDescending(id => model.Scores![id]).ThenBy(id => id))
        {
            string piece = model.Pieces[id]!;
            foreach (int cut in Enumerable.Range(1, piece.Length - 1).Where(cut => ids.ContainsKey(piece[..cut]) && ids.ContainsKey(piece[cut..])).OrderBy(cut => ids[piece[..cut]]))
                merges.Add((JsonNode)new JsonArray(piece[..cut], piece[cut..]));
        }
        JsonObject json = new()
        {
            ["added_tokens"] = JsonNode.Parse("""[{"id":0,"content":"<unk>","special":true},{"id":1,"content":"<s>","special":true},{"id":2,"content":"</s>","special":true}]"""),
            ["normalizer"] = JsonNode.Parse("""{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]}"""),
            ["pre_tokenizer"] = null,
            ["post_processor"] = JsonNode.Parse("""{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}},{"Sequence":{"id":"A"}}],"special_tokens":{"<s>":{"id":"<s>","ids":[1],"tokens":["<s>"]}}}"""),
            ["decoder"] = JsonNode.Parse("""{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]}"""),
            ["model"] = new JsonObject { ["type"] = "BPE", ["byte_fallback"] = true, ["fuse_unk"] = true, ["unk_token"] = "<unk>", ["vocab"] = vocabulary, ["merges"] = merges },
        };
        using TemporaryFolder folder = new();
        File.WriteAllText(folder.File("tokenizer.json"), json.ToJsonString());
        (Tokenizer own, Tokenizer read, Dictionary<string, object> pairs) = ThroughGguf(folder.Path, 32000);
        Assert.Equal(("llama", true), ((string)pairs["tokenizer.ggml.model"], (bool)pairs["tokenizer.ggml.add_space_prefix"]));
        Tokenizer original = Tokenizer.FromFolder(TestData.Path("tokenizers/llama2-tokenizer"));
        foreach (string text in File.ReadAllText(TestData.Path("text/tinyshakespeare.txt")).Split("\n\n").Take(400).Append("naïve 你好 🙂\t\0  x"))
        {
            int[] expected = original.Encode(text, addSpecial: true, parseSpecial: true);
            Assert.Equal(expected, own.Encode(text, addSpecial: true, parseSpecial: true));
            Assert.Equal(expected, read.Encode(text, addSpecial: true, parseSpecial: true));
        }
    }

    [Fact]
    public void ATokenizerThatGgufHasNoNameFor_IsRefused_TellingWhy()
    {
        JsonObject json = TextFiles.ByteLevel([("t", "h")]);
        json["pre_tokenizer"] = JsonNode.Parse("""{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"[aeiou]+"},"behavior":"Isolated"},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]}""");
        string error = Assert.Throws<NotSupportedException>(() => TextFiles.WithFolder(folder => ThroughGguf(folder, 257), ("tokenizer.json", Encoding.UTF8.GetBytes(json.ToJsonString())))).Message;
        Assert.Contains("none of GGUF's pre-tokenizers cuts text as this tokenizer does", error, StringComparison.Ordinal);

        json = TextFiles.ByteLevel([("t", "h")]);
        json["normalizer"] = JsonNode.Parse("""{"type":"Lowercase"}""");
        error = Assert.Throws<NotSupportedException>(() => TextFiles.WithFolder(folder => ThroughGguf(folder, 257), ("tokenizer.json", Encoding.UTF8.GetBytes(json.ToJsonString())))).Message;
        Assert.Contains("GGUF has no place for this tokenizer: \"Hello world", error, StringComparison.Ordinal);

        error = Assert.Throws<NotSupportedException>(() => TextFiles.WithFolder(folder => ThroughGguf(folder, 256), ("tokenizer.json", Encoding.UTF8.GetBytes(TextFiles.ByteLevel([("t", "h")]).ToJsonString())))).Message;
        Assert.Contains("token 256 (th) is beyond the model's embedding, which has 256 rows", error, StringComparison.Ordinal);
    }

    private static (Tokenizer Own, Tokenizer Read, Dictionary<string, object> Pairs) ThroughGguf(string folder, int rows)
    {
        TokenizerDefinition definition = HuggingFaceTokenizer.Read(folder);
        List<string> remarks = [];
        Tokenizer ReadBack(IReadOnlyList<KeyValuePair<string, object>> pairs)
        {
            using TemporaryFolder temporary = new();
            using (Native.Kernels.Files.GgufWriter writer = new(temporary.File("v.gguf"), pairs, [])) writer.Complete();
            using GgufFile file = GgufFile.Open(temporary.File("v.gguf"));
            return Tokenizer.FromGguf(file);
        }
        List<KeyValuePair<string, object>> found = GgufVocabulary.Of(definition, rows, ReadBack, remarks);
        Assert.Empty(remarks);
        return (new Tokenizer(definition), ReadBack(found), found.ToDictionary());
    }

    private static ReadOnlySpan<byte> Row(TensorView tensor, long row)
    {
        byte[] bytes = new byte[tensor.RowBytes];
        tensor.ReadRows(row, bytes);
        return bytes;
    }

    private static async Task<double[]> Logprobs(string model, string ids)
    {
        (int exit, string output, string error) = await Run("logits", "-m", model, "--ids", ids, "--json", "--kv-cache-dtype", "f32");
        Assert.Equal((Cli.Success, ""), (exit, error));
        return [.. JsonDocument.Parse(output).RootElement.GetProperty("logprob_of_next").EnumerateArray().Select(e => e.GetDouble())];
    }

    private static async Task<(int Exit, string Output, string Error)> Run(params string[] command)
    {
        StringWriter output = new(CultureInfo.InvariantCulture), error = new(CultureInfo.InvariantCulture);
        using Terminal terminal = new(TextReader.Null, output, error);
        return (await Cli.RunAsync(command, terminal), output.ToString(), error.ToString());
    }
}
