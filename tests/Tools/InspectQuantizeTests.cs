using System.Globalization;
using System.Text.Json;
using Native.Kernels.Files;
using Native.Kernels.Formats;
using Native.Kernels.Models;
using Native.Tests.Kernels;
using Native.Tools;

namespace Native.Tests.Tools;

public sealed class InspectQuantizeTests
{
    [Fact]
    public async Task Inspect_TellsWhatTheFileHas()
    {
        string path = TestData.Path("models/stories260K/stories260K-Q4_0.gguf");
        (int exit, string output, string error) = await Run("inspect", path, "--json", "--context", "512", "--concurrency", "8", "--kv-cache-dtype", "f32");
        Assert.Equal((Cli.Success, ""), (exit, error));
        JsonElement told = JsonDocument.Parse(output).RootElement;
        using ModelFile file = ModelFile.Open(path);
        Assert.Equal("llama", told.GetProperty("architecture").GetString());
        Assert.Equal(file.Tensors.Values.Sum(t => t.Rows * t.Columns), told.GetProperty("parameters").GetInt64());
        Assert.Equal(file.Tensors.Values.Sum(t => t.ByteLength), told.GetProperty("weight_bytes").GetInt64());
        Assert.Equal(TestModels.KvBytesPerToken(file.Config, Native.Kernels.DType.F32), told.GetProperty("kv_bytes_per_token").GetInt64());
        Assert.Equal(TestModels.KvBytesPerToken(file.Config, Native.Kernels.DType.F32) * 512d * 8, told.GetProperty("kv_memory").EnumerateArray().Last().GetProperty("bytes").GetDouble());
        Assert.Equal(512, told.GetProperty("tokenizer").GetProperty("tokens").GetInt32());
        Assert.Equal(512, told.GetProperty("metadata").GetProperty("tokenizer.ggml.tokens").GetArrayLength());
        Assert.Equal(JsonValueKind.Null, told.GetProperty("unsupported").ValueKind);
        byte[] bytes = await File.ReadAllBytesAsync(path, TestContext.Current.CancellationToken);
        foreach (JsonElement tensor in told.GetProperty("tensors").EnumerateArray())
        {
            // The offset is where the file has the tensor's bytes.
            byte[] first = RowOf(file.Tensors[tensor.GetProperty("name").GetString()!], 0);
            Assert.Equal(first, bytes.AsSpan((int)tensor.GetProperty("offset").GetInt64(), first.Length).ToArray());
        }

        // Head sizes of 8: a scale for those, where there would be one for 32.
        (_, output, _) = await Run("inspect", path, "--json", "--kv-cache-dtype", "q8_0");
        ModelConfig config = file.Config;
        Assert.Equal(2L * config.LayerCount * config.KvHeads * (config.HeadSize + 2), JsonDocument.Parse(output).RootElement.GetProperty("kv_bytes_per_token").GetInt64());
        Assert.Equal(8, config.HeadSize);

        (exit, output, _) = await Run("inspect", path);
        Assert.Equal(Cli.Success, exit);
        foreach (string part in (string[])["llama", "blk.0.ffn_down.weight", "Q4_0", "KV cache", "512 in all", "can be run", "yes"]) Assert.Contains(part, output, StringComparison.Ordinal);
        Assert.DoesNotContain("\u001b", output, StringComparison.Ordinal); // no colours in a pipe
    }

    [Fact]
    public async Task Inspect_ReadsFolders()
    {
        (int exit, string output, string error) = await Run("inspect", TestData.Path("models/architectures/gemma3/hf"), "--json");
        Assert.Equal((Cli.Success, ""), (exit, error));
        JsonElement told = JsonDocument.Parse(output).RootElement;
        Assert.Equal("gemma3", told.GetProperty("architecture").GetString());
        Assert.True(told.GetProperty("kv_bytes_per_token").GetInt64() > 0);
        Assert.True(told.GetProperty("tokenizer").GetProperty("tokens").GetInt32() > 0);
        Assert.Equal(Cli.Success, (await Run("inspect", TestData.Path("models/architectures/gemma3/hf"))).Exit);
    }

    [Fact]
    public async Task Inspect_ShowsWhatCannotBeRun_AndRefusesWhatIsBroken()
    {
        using TemporaryFile strange = new Kernels.GgufBytes { { "general.architecture", "mamba9" }, { "general.name", "a\u001b[2Jb" }, { "mamba9.block_count", 3u } }
            .Tensor("known", [1f, 2f]).Tensor("odd", TensorType.IQ2_XXS, [256, 2], new byte[132]).Tensor("odder", (TensorType)77, [5], new byte[9]).ToFile();
        (int exit, string output, _) = await Run("inspect", strange.Path);
        Assert.Equal(Cli.Success, exit);
        foreach (string part in (string[])["mamba9", "IQ2_XXS", "256 x 2", "132", "77", "no: architecture 'mamba9' not supported", "\\u001b[2J"]) Assert.Contains(part, output, StringComparison.Ordinal);
        Assert.DoesNotContain("\u001b", output, StringComparison.Ordinal);

        byte[] whole = await File.ReadAllBytesAsync(strange.Path, TestContext.Current.CancellationToken);
        using TemporaryFile broken = new(whole.AsSpan(..100));
        (exit, output, string error) = await Run("inspect", broken.Path);
        Assert.Equal((Cli.Failed, ""), (exit, output));
        Assert.Contains("truncated", error, StringComparison.Ordinal);
        Assert.Equal(Cli.Failed, (await Run("inspect", "/no/such/model")).Exit);
    }

    [Fact]
    public async Task Quantize_KeepsTheMetadata_AndIsAsNearAsItSays()
    {
        string source = TestData.Path("models/stories260K/stories260K-F32.gguf");
        using TemporaryFolder folder = new();
        string target = folder.File("q8.gguf");
        (int exit, string output, string error) = await Run("quantize", source, target, "--type", "q8_0", "--json");
        Assert.Equal((Cli.Success, ""), (exit, error));
        using GgufFile before = GgufFile.Open(source), after = GgufFile.Open(target);
        Assert.Equal((7, 2), (after.GetInt32("general.file_type"), after.GetInt32("general.quantization_version")));
        foreach ((string key, object value) in before.Metadata)
            if (key is not ("general.file_type" or "general.quantization_version")) Assert.Equal(value, after.Metadata[key]);
        foreach (JsonElement tensor in JsonDocument.Parse(output).RootElement.GetProperty("tensors").EnumerateArray())
        {
            string name = tensor.GetProperty("name").GetString()!;
            (float[] x, float[] y) = (ModelFile.Decode(before.Tensors[name]), ModelFile.Decode(after.Tensors[name]));
            double apart = Math.Sqrt(x.Zip(y, (a, b) => (a - b) * (double)(a - b)).Sum() / x.Sum(a => a * (double)a));
            Assert.Equal(apart, tensor.GetProperty("error").GetDouble(), 1e-9);
            Assert.InRange(apart, 0, 0.01);
            TensorType expected = name.Contains("norm", StringComparison.Ordinal) ? TensorType.F32 : name.Contains("ffn_down", StringComparison.Ordinal) ? TensorType.F16 : TensorType.Q8_0;
            Assert.Equal(expected, after.Tensors[name].Type); // 172 columns of ffn_down are no whole blocks
        }

        // What one thread writes, many write; and the model still tells its story.
        Assert.Equal(Cli.Success, (await Run("quantize", source, folder.File("again.gguf"), "--type", "Q8_0", "--threads", "5")).Exit);
        Assert.Equal(await File.ReadAllBytesAsync(target, TestContext.Current.CancellationToken), await File.ReadAllBytesAsync(folder.File("again.gguf"), TestContext.Current.CancellationToken));
        (_, string first, _) = await Run("generate", "-m", source, "-p", "Once upon a time", "-n", "12");
        (_, string second, _) = await Run("generate", "-m", target, "-p", "Once upon a time", "-n", "12");
        Assert.Equal(first, second);

        (exit, _, error) = await Run("quantize", source, target, "--type", "Q4_K");
        Assert.Equal(Cli.Misused, exit);
        Assert.Contains("--force", error, StringComparison.Ordinal);
        (exit, output, _) = await Run("quantize", source, target, "--type", "Q4_K", "--force");
        Assert.Equal(Cli.Success, exit);
        Assert.Contains("Q5_0 (not Q4_K: rows of 64)", output, StringComparison.Ordinal);
        (exit, _, error) = await Run("quantize", target, target, "--type", "Q4_K", "--force");
        Assert.Equal(Cli.Misused, exit);
        Assert.Contains("is the file that is read", error, StringComparison.Ordinal);
        Assert.Equal(2, Directory.GetFiles(folder.Path).Length); // nothing half-written beside them
    }

    [Fact]
    public async Task Quantize_RefusesWhatIsNoNumber_AndLeavesNothing()
    {
        using TemporaryFolder folder = new();
        string source = folder.File("m.gguf");
        float[] values = new float[64];
        values[40] = float.NaN;
        File.WriteAllBytes(source, new Kernels.GgufBytes { { "general.architecture", "llama" } }.Tensor("blk.0.attn_q.weight", values, columns: 32).ToArray());
        (int exit, string output, string error) = await Run("quantize", source, folder.File("out.gguf"), "--type", "Q8_0");
        Assert.Equal((Cli.Failed, ""), (exit, output));
        Assert.Contains("blk.0.attn_q.weight, row 1, column 8: expected a finite value, found NaN", error, StringComparison.Ordinal);
        Assert.Single(Directory.GetFiles(folder.Path));
        (exit, _, error) = await Run("quantize", folder.Path, folder.File("out.gguf"), "--type", "Q8_0");
        Assert.Equal(Cli.Failed, exit);
        Assert.Contains("there is no config.json in it", error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("Q4_K_M", "output.weight", 2048, TensorType.Q6_K, null)]
    [InlineData("Q4_K_M", "token_embd.weight", 2048, TensorType.Q4_K, null)]
    [InlineData("Q4_K_M", "blk.0.attn_v.weight", 2048, TensorType.Q6_K, null)]
    [InlineData("Q4_K_M", "blk.4.ffn_down.weight", 2048, TensorType.Q4_K, null)]
    [InlineData("Q4_K_M", "blk.6.ffn_down.weight", 2048, TensorType.Q6_K, null)]
    [InlineData("Q5_K_M", "blk.31.attn_v.weight", 2048, TensorType.Q6_K, null)]
    [InlineData("Q4_K", "blk.31.attn_v.weight", 2048, TensorType.Q4_K, null)]
    [InlineData("Q4_K_M", "blk.9.attn_qkv.weight", 2048, TensorType.Q6_K, null)]
    [InlineData("Q4_K_M", "blk.8.attn_qkv.weight", 2048, TensorType.Q4_K, null)]
    [InlineData("Q4_K_S", "blk.3.attn_v.weight", 2048, TensorType.Q5_K, null)]
    [InlineData("Q4_K_S", "blk.4.attn_v.weight", 2048, TensorType.Q4_K, null)]
    [InlineData("Q4_K_S", "blk.3.ffn_down.weight", 2048, TensorType.Q5_K, null)]
    [InlineData("Q3_K_M", "blk.1.attn_v.weight", 2048, TensorType.Q5_K, null)]
    [InlineData("Q3_K_M", "blk.2.attn_v.weight", 2048, TensorType.Q4_K, null)]
    [InlineData("Q3_K_M", "blk.1.ffn_down.weight", 2048, TensorType.Q5_K, null)]
    [InlineData("Q3_K_M", "blk.2.attn_output.weight", 2048, TensorType.Q4_K, null)]
    [InlineData("Q3_K_L", "blk.2.ffn_down.weight", 2048, TensorType.Q5_K, null)]
    [InlineData("Q3_K_S", "blk.2.ffn_down.weight", 2048, TensorType.Q3_K, null)]
    [InlineData("Q2_K", "blk.9.attn_v.weight", 2048, TensorType.Q4_K, null)]
    [InlineData("Q2_K", "blk.9.ffn_down.weight", 2048, TensorType.Q3_K, null)]
    [InlineData("Q2_K_S", "blk.3.ffn_down.weight", 2048, TensorType.Q4_K, null)]
    [InlineData("Q2_K_S", "blk.9.ffn_down.weight", 2048, TensorType.Q2_K, null)]
    [InlineData("Q4_K", "blk.9.attn_q.weight", 576, TensorType.Q5_0, TensorType.Q4_K)]
    [InlineData("Q5_K", "blk.9.attn_q.weight", 576, TensorType.Q5_1, TensorType.Q5_K)]
    [InlineData("Q6_K", "blk.9.attn_q.weight", 576, TensorType.Q8_0, TensorType.Q6_K)]
    [InlineData("Q2_K", "blk.9.attn_q.weight", 576, TensorType.Q4_0, TensorType.Q2_K)]
    [InlineData("Q4_0", "blk.9.ffn_down.weight", 172, TensorType.F16, TensorType.Q4_0)]
    [InlineData("Q8_0", "output.weight", 2048, TensorType.Q8_0, null)]
    [InlineData("Q4_0", "output.weight", 2048, TensorType.Q6_K, null)]
    [InlineData("Q4_0", "blk.0.attn_norm.weight", 2048, TensorType.F32, null)]
    public void Mixes_FollowLlamaCpp(string mix, string name, long columns, TensorType expected, TensorType? meant)
        => Assert.Equal((expected, meant), QuantizationMix.All.Single(m => m.Name == mix).Of(name, columns, isMatrix: true, new MixModel("llama", Layers: 32, HeadsPerKvHead: 4, Tied: false)));

    [Fact]
    public void TheValuesOf70B_ShareSoManyHeads_ThatTheyGetMoreBits()
        => Assert.Equal((TensorType.Q5_K, null), QuantizationMix.All.Single(m => m.Name == "Q4_K_M").Of("blk.11.attn_v.weight", 8192, isMatrix: true, new MixModel("llama", Layers: 80, HeadsPerKvHead: 8, Tied: false)));

    [Fact]
    public void AWriterThatIsInterrupted_LeavesWhatWasThere()
    {
        using TemporaryFolder folder = new();
        string path = folder.File("m.gguf");
        File.WriteAllText(path, "before");
        GgufTensorPlan[] plan = [new("a", TensorType.F32, [3]), new("b", TensorType.Q8_0, [32, 2])];
        using (Native.Kernels.Files.GgufWriter writer = new(path, [], plan))
        {
            writer.Write(new byte[20]);
            Assert.Contains("tensor b has 8 of its 68 bytes", Assert.Throws<InvalidOperationException>(writer.Complete).Message, StringComparison.Ordinal);
            Assert.Throws<InvalidOperationException>(() => writer.Write(new byte[61]));
        }
        Assert.Equal("before", File.ReadAllText(path));
        Assert.Single(Directory.GetFiles(folder.Path));

        byte[] bytes = [.. Enumerable.Range(0, 80).Select(i => (byte)i)];
        using (Native.Kernels.Files.GgufWriter writer = new(path, [new("s", new[] { "x", "é" }), new("u", 5ul), new("none", Array.Empty<string>()), new("f", new[] { 1.5f }), new("b", true)], plan))
        {
            foreach (byte[] piece in bytes.Chunk(7)) writer.Write(piece);
            writer.Complete();
        }
        using GgufFile file = GgufFile.Open(path);
        Assert.Equal(bytes[..12], RowOf(file.Tensors["a"], 0));
        Assert.Equal(bytes[46..], RowOf(file.Tensors["b"], 1));
        Assert.Equal(["x", "é"], file.GetStrings("s"));
        Assert.Equal((5ul, true), ((ulong)file.Metadata["u"], (bool)file.Metadata["b"]));
        Assert.Empty(file.GetStrings("none"));
        Assert.Single(Directory.GetFiles(folder.Path));
        Assert.Throws<ArgumentException>(() => new Native.Kernels.Files.GgufWriter(path, [], [plan[0], plan[0]]));
        Assert.Throws<ArgumentException>(() => new Native.Kernels.Files.GgufWriter(path, [], [new("c", TensorType.Q4_K, [255])]));
    }

    [Theory]
    [InlineData("inspect")]
    [InlineData("synth")]
    [InlineData("quantize")]
    [InlineData("convert")]
    public async Task Help_TeachesByExamples(string command)
    {
        (int exit, string output, _) = await Run(command, "--help");
        Assert.Equal(Cli.Success, exit);
        Assert.Contains($"Examples:{Environment.NewLine}  dotnet run -c Release --project tools -- {command}", output, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("135m", "llama", "Q4_0", 134515008)]
    [InlineData("gemma3-270m", "gemma3", "Q4_K_M", 268098176)]
    public async Task Synth_MakesTheShapeItNames_TheSameFromTheSameSeed(string shape, string architecture, string type, long parameters)
    {
        using TemporaryFolder folder = new();
        string path = folder.File("a.gguf");
        (int exit, _, string error) = await Run("synth", "--shape", shape, "--type", type, "-o", path, "--seed", "3");
        Assert.Equal((Cli.Success, ""), (exit, error));
        using (ModelFile file = ModelFile.Open(path))
        {
            Assert.Equal(architecture, file.Config.Architecture);
            Assert.Equal(parameters, file.Tensors.Values.Sum(t => t.Rows * t.Columns));
            Native.Kernels.Text.Tokenizer tokenizer = file.OpenTokenizer();
            Assert.Equal(file.Tensors["token_embd.weight"].Rows, tokenizer.VocabularySize);
            const string text = "Every byte is there: \u00e4\u4e16\U0001f600\0";
            Assert.Equal(text, tokenizer.Decode(tokenizer.Encode(text, addSpecial: false, parseSpecial: false)));
            Assert.True(tokenizer.Encode("the theory of everything", addSpecial: false, parseSpecial: false).Length < 24, "no merge ever applies");
        }
        if (shape != "135m") return;
        Assert.Equal(Cli.Misused, (await Run("synth", "--shape", shape, "--type", type, "-o", path)).Exit);
        byte[] first = System.Security.Cryptography.SHA256.HashData(await File.ReadAllBytesAsync(path, TestContext.Current.CancellationToken));
        Assert.Equal(Cli.Success, (await Run("synth", "--shape", shape, "--type", type, "-o", path, "--seed", "3", "--force")).Exit);
        Assert.Equal(first, System.Security.Cryptography.SHA256.HashData(await File.ReadAllBytesAsync(path, TestContext.Current.CancellationToken)));
        (exit, string output, error) = await Run("generate", "-m", path, "--ids", "5,6,7", "-n", "3", "--max-model-len", "64", "--json", "--ignore-eos");
        Assert.Equal((Cli.Success, ""), (exit, error));
        Assert.Equal(3, JsonDocument.Parse(output).RootElement.GetProperty("ids").GetArrayLength());
    }

    private static byte[] RowOf(TensorView tensor, long row)
    {
        byte[] bytes = new byte[tensor.RowBytes];
        tensor.ReadRows(row, bytes);
        return bytes;
    }

    private static async Task<(int Exit, string Output, string Error)> Run(params string[] command)
    {
        StringWriter output = new(CultureInfo.InvariantCulture), error = new(CultureInfo.InvariantCulture);
        using Terminal terminal = new(TextReader.Null, output, error);
        return (await Cli.RunAsync(command, terminal), output.ToString(), error.ToString());
    }
}
