using System.Globalization;
using System.Text.Json;
using Native.Tests.Server;
using Native.Tools;

namespace Native.Tests.Tools;

/// <summary><c>pull</c> and <c>--model hf:...</c> as they are typed, against a hub on this machine.</summary>
public sealed class PullTests
{
    [Fact]
    public async Task Pull_PrintsWhereTheModelLies_AndNothingElse()
    {
        byte[] content = FakeHub.Bytes(5000);
        await using FakeHub hub = await FakeHub.StartAsync(("a.gguf", content), ("README.md", [1]));
        (int exit, string output, string error) = await Run(hub, "pull", "hf:org/model");
        Assert.Equal((Cli.Success, ""), (exit, error));
        Assert.Equal(hub.InCache("snapshots", FakeHub.Commit, "a.gguf") + Environment.NewLine, output);
        Assert.Equal(content, await File.ReadAllBytesAsync(output.Trim(), TestContext.Current.CancellationToken));
        (_, output, _) = await Run(hub, "pull", "hf:org/model/a.gguf", "--json");
        JsonElement json = JsonSerializer.Deserialize<JsonElement>(output);
        Assert.Equal((hub.InCache("snapshots", FakeHub.Commit, "a.gguf"), "a", FakeHub.Commit), (json.GetProperty("path").GetString(), json.GetProperty("name").GetString(), json.GetProperty("commit").GetString()));
    }

    [Fact]
    public async Task OfSeveralModels_ItListsThem_WithExitCode2()
    {
        await using FakeHub hub = await FakeHub.StartAsync(("a-Q4_0.gguf", [1]), ("a-Q8_0.gguf", [2]));
        (int exit, string output, string error) = await Run(hub, "pull", "hf:org/model");
        Assert.Equal((Cli.Misused, ""), (exit, output));
        Assert.Equal(["native: hf:org/model has 2 models; name one:", "  hf:org/model/a-Q4_0.gguf  0.0 MiB", "  hf:org/model/a-Q8_0.gguf  0.0 MiB"], error.ReplaceLineEndings("\n").TrimEnd().Split('\n'));
        (exit, _, error) = await Run(hub, "generate", "--model", "hf:org/model", "--prompt", "x");
        Assert.Equal(Cli.Misused, exit);
        Assert.Contains("hf:org/model/a-Q4_0.gguf", Assert.Single(error.TrimEnd().Split('\n')), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("'org/model' is no model on the hub", "pull", "org/model")]
    [InlineData("'hf:model' is no model on the hub; one is hf:ORG/REPO", "pull", "hf:model")]
    [InlineData("--model is 'hf:model'", "generate", "--model", "hf:model", "--prompt", "x")]
    public async Task WhatIsNoReference_IsExplained_WithExitCode2(string expected, params string[] command)
    {
        await using FakeHub hub = await FakeHub.StartAsync();
        (int exit, string output, string error) = await Run(hub, command);
        Assert.Equal((Cli.Misused, ""), (exit, output));
        Assert.Contains(expected, error, StringComparison.Ordinal);
        Assert.Empty(hub.Requests);
    }

    [Fact]
    public async Task WhatTheHubHasNot_IsOneLine_WithExitCode1()
    {
        await using FakeHub hub = await FakeHub.StartAsync(("a.gguf", [1]));
        (int exit, string output, string error) = await Run(hub, "pull", "hf:org/model/b.gguf");
        Assert.Equal((Cli.Failed, ""), (exit, output));
        Assert.Equal("native: org/model has no file 'b.gguf' at revision 'main'", error.TrimEnd());
    }

    [Fact]
    public async Task Models_AreNamedByTheHubsNames_WhereverAModelIsNamed()
    {
        byte[] stories = await File.ReadAllBytesAsync(TestData.Path("models/stories260K/stories260K-F32.gguf"), TestContext.Current.CancellationToken);
        await using FakeHub hub = await FakeHub.StartAsync(("stories.gguf", stories));
        string[] generate = ["generate", "--model", "hf:org/model", "--prompt", "Once upon a time", "-n", "8"];
        (int exit, string output, string error) = await Run(hub, generate);
        Assert.Equal((Cli.Success, ""), (exit, error));
        (_, string local, _) = await Run(hub, ["generate", "--model", hub.InCache("snapshots", FakeHub.Commit, "stories.gguf"), "--prompt", "Once upon a time", "-n", "8"]);
        Assert.Equal(local, output);

        int asked = hub.Requests.Count;
        (exit, _, _) = await Run(hub, "tokenize", "--model", "hf:org/model", "--prompt", "a");
        Assert.Equal(Cli.Success, exit);
        Assert.Equal(asked, hub.Requests.Count); // from the cache, without asking anybody
    }

    [Fact]
    public async Task CtrlC_LeavesWhatTheNextPullGoesOnFrom()
    {
        byte[] content = FakeHub.Bytes(5000);
        await using FakeHub hub = await FakeHub.StartAsync(("a.gguf", content));
        using Terminal terminal = new(TextReader.Null, TextWriter.Null, new StringWriter(CultureInfo.InvariantCulture));
        hub.OnStorage = async (context, bytes) =>
        {
            context.Response.ContentLength = bytes.Length;
            await context.Response.Body.WriteAsync(bytes.AsMemory(0, 2000), context.RequestAborted);
            await context.Response.Body.FlushAsync(context.RequestAborted);
            string half = hub.InCache("blobs", FakeHub.Sha256(bytes));
            await RunningServer.Until(() => Native.Server.Hub.PartialFile.DoneOf(half, bytes.Length, 64 << 20) == 2000, "the beginning arrives");
            Assert.True(terminal.Interrupt());
            await Task.Delay(Timeout.Infinite, context.RequestAborted).ContinueWith(_ => { }, TaskScheduler.Default);
            return true;
        };
        Assert.Equal(Cli.Interrupted, await Run(hub, terminal, ["pull", "hf:org/model"]));
        Assert.Contains("interrupted", terminal.Error.ToString(), StringComparison.Ordinal);
        hub.OnStorage = (_, _) => Task.FromResult(false);
        (int exit, string output, _) = await Run(hub, "pull", "hf:org/model");
        Assert.Equal(Cli.Success, exit);
        Assert.Equal(content, await File.ReadAllBytesAsync(output.Trim(), TestContext.Current.CancellationToken));
        Assert.Equal(3000, hub.Sent);
    }

    [Fact]
    public async Task Help_TellsTheVariables()
    {
        await using FakeHub hub = await FakeHub.StartAsync();
        (int exit, string output, _) = await Run(hub, "pull", "--help");
        Assert.Equal(Cli.Success, exit);
        Assert.All(["HF_HUB_CACHE", "HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "dotnet run -c Release --project tools -- pull hf:ORG/REPO"], expected => Assert.Contains(expected, output, StringComparison.Ordinal));
    }

    private static async Task<(int Exit, string Output, string Error)> Run(FakeHub hub, params string[] command)
    {
        StringWriter output = new(CultureInfo.InvariantCulture), error = new(CultureInfo.InvariantCulture);
        using Terminal terminal = new(TextReader.Null, output, error);
        return (await Run(hub, terminal, command), output.ToString(), error.ToString());
    }

    /// <summary>With the variables of the hub's client set; no other test reads them, and those of one class run one
    /// after the other.</summary>
    private static async Task<int> Run(FakeHub hub, Terminal terminal, string[] command)
    {
        (string Name, string Value)[] variables = [("HF_ENDPOINT", hub.Address.ToString()), ("HF_HUB_CACHE", hub.Cache), ("HF_TOKEN", "hf_secret"), ("HF_HUB_OFFLINE", "0")];
        foreach ((string name, string value) in variables) Environment.SetEnvironmentVariable(name, value);
        try
        {
            return await Cli.RunAsync(command, terminal);
        }
        finally
        {
            foreach ((string name, _) in variables) Environment.SetEnvironmentVariable(name, null);
        }
    }
}
