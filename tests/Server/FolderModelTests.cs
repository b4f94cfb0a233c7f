using System.Text;
using System.Text.Json;
using Native.Kernels.Files;
using Native.Kernels.Models;
using Native.Kernels.Text;
using Native.Scheduling;
using Native.Server;
using Native.Server.Serving;
using Native.Tests.Kernels;

namespace Native.Tests.Server;

/// <summary>A real model's Hugging Face folder with chat templates of our own.</summary>
public sealed class FolderModelTests
{
    private const string Plain = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}";

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    /// <summary>A copy of the folder; the caller's to dispose of.</summary>
    private static TemporaryFolder Folder(string? template = null, string more = "")
    {
        TemporaryFolder folder = new();
        foreach (string file in Directory.GetFiles(TestData.Path("models/stories260K/hf"))) File.Copy(file, folder.File(Path.GetFileName(file)));
        string chat = template is null ? "" : $",\"chat_template\":{JsonSerializer.Serialize(template)}";
        File.WriteAllText(folder.File("tokenizer_config.json"), $$"""{"add_bos_token":true,"bos_token":"<s>","eos_token":"</s>"{{chat}}{{more}}}""");
        return folder;
    }

    private static ServedModel Load(string path)
    {
        LoadedModel loaded = LoadedModel.Load(new ModelOptions { Path = path, MaxModelLength = 256, MaxSequences = 2, MaxBatchedTokens = 64, Threads = 1 });
        return new ServedModel("stories", loaded.Runner, loaded.Tokenizer, new SamplingParams(), new EngineOptions { MaxRunning = 2, MaxBatchedTokens = 64 }) { Root = path };
    }

    private static int[] Encode(ServedModel model, string messages) =>
        ChatPrompt.Encode(model, JsonElement.Parse(messages), tools: null, addGenerationPrompt: true, extra: null, Token);

    [Theory]
    [InlineData("{% for m in messages %}{% if m.role == 'system' or m.role == 'user' %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}",
        """[{"role":"developer","content":"Answer in French."},{"role":"user","content":"Hi"}]""", """[{"role":"system","content":"Answer in French."},{"role":"user","content":"Hi"}]""")]
    [InlineData("{% for m in messages %}{% if 'tool_calls' in m %}{{ m.tool_calls | length }} calls{% else %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}",
        """[{"role":"user","content":"Hi"},{"role":"assistant","content":"Yes","tool_calls":null}]""", """[{"role":"user","content":"Hi"},{"role":"assistant","content":"Yes"}]""")]
    public void Conversations_ThatMeanTheSame_AreTheSamePrompt(string template, string messages, string same)
    {
        using TemporaryFolder folder = Folder(template);
        using ServedModel model = Load(folder.Path);
        Assert.Equal(Encode(model, same), Encode(model, messages));
    }

    [Fact]
    public void AChat_BeginsWithWhatTheTemplateWrites_AndAPromptWithTheTokenizersOwn()
    {
        using TemporaryFolder folder = Folder(Plain);
        using ServedModel model = Load(folder.Path);
        Assert.NotEqual(1, Encode(model, """[{"role":"user","content":"Hi"}]""")[0]);
        Assert.Equal(1, model.EncodePrompt("Hi")[0]);

        using TemporaryFolder writes = Folder("{{ bos_token }}" + Plain);
        using ServedModel written = Load(writes.Path);
        Assert.Equal(1, Encode(written, """[{"role":"user","content":"Hi"}]""").Count(id => id == 1));
    }

    [Fact]
    public void AGgufFilesChat_BeginsWithTheBeginToken_UnlessTheTemplateWroteIt()
    {
        Tokenizer tokenizer = Tokenizer.FromGguf(GgufFile.Open(TestData.Path("models/stories260K/stories260K-F32.gguf")));
        Assert.Equal([1, 5, 6], tokenizer.BeginConversation([5, 6]));
        Assert.Equal([1, 5, 6], tokenizer.BeginConversation([1, 5, 6]));
    }

    [Fact]
    public void OldReasoning_LeavesThePrompt_WhereItsEndIsAControlToken()
    {
        using TemporaryFolder folder = Folder("{% for m in messages %}[{{ m.role }}]{{ m.content.split('<END>')[-1] }}{% endfor %}", ",\"added_tokens_decoder\":{\"511\":{\"content\":\"<END>\",\"special\":true}}");
        using ServedModel model = Load(folder.Path);
        int[] Answer(string content) => Encode(model, $$"""[{"role":"user","content":"Hi"},{"role":"assistant","content":"{{content}}"}]""");
        Assert.Equal(Answer("four"), Answer("secret secret secret<END>four"));
        Assert.DoesNotContain(511, Encode(model, """[{"role":"<END>","content":"a"}]"""));
    }

    [Theory]
    [InlineData(" Once upon", 10)]
    [InlineData("Once</s>upon", 12)]
    [InlineData("Once upon", 9)]
    [InlineData("<s>Once", 7)]
    [InlineData("  two é ", 8)]
    public async Task TextOffsets_GoOnAfterTheEcho(string prompt, int expected)
    {
        using TemporaryFolder folder = Folder();
        await using NativeServer server = await NativeServer.StartAsync(new ServerOptions { Port = 0, GrpcPort = 0 });
        server.Host.Serve(Load(folder.Path));
        using HttpClient http = new() { BaseAddress = server.HttpAddress };
        string body = $$"""{"prompt":{{JsonSerializer.Serialize(prompt)}},"echo":true,"logprobs":0,"max_tokens":3,"temperature":0}""";
        using HttpResponseMessage response = await http.PostAsync("/v1/completions", new StringContent(body, Encoding.UTF8, "application/json"), Token);
        JsonElement answer = JsonElement.Parse(await response.Content.ReadAsStringAsync(Token)), choice = answer.GetProperty("choices")[0];
        int[] offsets = [.. choice.GetProperty("logprobs").GetProperty("text_offset").EnumerateArray().Select(offset => offset.GetInt32())];
        Assert.Equal(expected, offsets[answer.GetProperty("usage").GetProperty("prompt_tokens").GetInt32()]);
        Assert.Equal(offsets.Order(), offsets);
        string listed = await http.GetStringAsync("/v1/models", Token);
        Assert.Equal(folder.Path, JsonElement.Parse(listed).GetProperty("data")[0].GetProperty("root").GetString());
    }

    [Theory]
    [InlineData("""{"model_type":"nemotron_h","x":Infinity}""", "nemotron_h")]
    [InlineData("""{"model_type":"nemotron_h","x":[NaN,-Infinity],"y":"NaN \" Infinity"}""", "nemotron_h")]
    public void PythonsNumbers_AreRead(string config, string expected)
    {
        using TemporaryFolder folder = Folder();
        File.WriteAllText(folder.File("config.json"), config);
        Assert.Contains(expected, Assert.Throws<NotSupportedException>(() => ModelFile.Open(folder.Path)).Message);
    }

    [Fact]
    public void ANumberThatNobodyNeeds_MayBeNone_AndOneThatIsNeededMayNot()
    {
        using TemporaryFolder folder = Folder(more: ",\"model_max_length\":Infinity");
        string path = folder.File("config.json"), config = File.ReadAllText(path);
        File.WriteAllText(folder.File("generation_config.json"), """{"top_p":0,"top_k":50.0,"temperature":0.5}""");
        File.WriteAllText(path, config.Insert(config.IndexOf('{') + 1, "\"unrelated\":NaN,"));
        using LoadedModel loaded = LoadedModel.Load(new ModelOptions { Path = folder.Path, MaxModelLength = 64, MaxSequences = 1, Threads = 1 });
        Assert.Equal((0.5f, null, null, 2), (loaded.Suggested.Temperature, loaded.Suggested.TopP, loaded.Suggested.TopK, loaded.Suggested.Warnings.Count));
        File.WriteAllText(path, config.Insert(config.IndexOf('{') + 1, "\"rms_norm_eps\":NaN,").Replace("\"rms_norm_eps\": ", "\"other\": "));
        Assert.Contains("rms_norm_eps", Assert.Throws<InvalidDataException>(() => ModelFile.Open(folder.Path)).Message);
    }

    [Fact]
    public void TheListOfEnds_IsTheWholeList()
    {
        using TemporaryFolder folder = Folder(more: ",\"added_tokens_decoder\":{\"510\":{\"content\":\"<|file_sep|>\",\"special\":true},\"511\":{\"content\":\"<|im_end|>\",\"special\":true}}");
        Assert.Equal([2, 510, 511], Tokenizer.FromFolder(folder.Path).EndIds);
        File.WriteAllText(folder.File("generation_config.json"), """{"eos_token_id":[511]}""");
        Assert.Equal([2, 511], Tokenizer.FromFolder(folder.Path).EndIds);
    }

    [Fact]
    public void AModelsName_IsItsFilesOrFoldersWithoutWhatTellsHowItIsKept()
    {
        Assert.Equal("Qwen3-8B-Q4_K_M", ModelFile.NameOf("/models/Qwen3-8B-Q4_K_M-00001-of-00003.gguf"));
        Assert.Equal("m.v1", ModelFile.NameOf("/models/m.v1.gguf"));
        using TemporaryFolder folder = Folder();
        Assert.Equal(Path.GetFileName(folder.Path), ModelFile.NameOf(folder.Path + "/"));
    }

    [Fact]
    public void WhatIsNoModel_IsToldWithWhatToNameInstead()
    {
        using TemporaryFolder folder = new();
        File.WriteAllText(folder.File("a.gguf"), "x");
        Assert.Contains("name the GGUF file itself: a.gguf", Assert.Throws<InvalidDataException>(() => ModelFile.Open(folder.Path)).Message);
        Assert.SkipUnless(OperatingSystem.IsLinux(), "device files are Linux's");
        Assert.Contains("a device or a pipe", Assert.Throws<InvalidDataException>(() => ModelFile.Open("/dev/zero")).Message);
    }
}
