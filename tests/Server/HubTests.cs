using System.Diagnostics;
using Microsoft.AspNetCore.Http;
using Native.Server.Hub;

namespace Native.Tests.Server;

/// <summary>Downloads from a hub on this machine that behaves, and from one that does not.</summary>
public sealed class HubTests
{
    private static readonly byte[] Model = FakeHub.Bytes(10_007);

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Pull_LaysFilesOut_AsTheOfficialClientDoes()
    {
        await using FakeHub hub = await FakeHub.StartAsync(("sub/a.gguf", Model), ("config.json", "{}"u8.ToArray()));
        HubModel model = await hub.PullAsync("hf:org/model/sub/a.gguf");
        HubModel config = await hub.PullAsync("hf:org/model/config.json@v1/x");

        string blob = Path.Combine("blobs", FakeHub.Sha256(Model)), small = Path.Combine("blobs", FakeHub.GitSha1("{}"u8.ToArray()));
        string snapshot = Path.Combine("snapshots", FakeHub.Commit);
        string[] expected = [blob, small, Path.Combine("refs", "main"), Path.Combine("refs", "v1", "x"), Path.Combine(snapshot, "config.json"), Path.Combine(snapshot, "sub", "a.gguf")];
        Assert.Equal(expected.Order(StringComparer.Ordinal), hub.CachedFiles()); // nothing half done, nothing temporary
        Assert.Equal(FakeHub.Commit, File.ReadAllText(hub.InCache("refs", "main")));
        Assert.Equal(hub.InCache(snapshot, "sub", "a.gguf"), model.Path);
        Assert.Equal(("a", FakeHub.Commit), (model.Name, model.Commit));
        Assert.Equal(Path.Combine("..", "..", "..", blob), new FileInfo(model.Path).LinkTarget);
        Assert.Equal(Path.Combine("..", "..", small), new FileInfo(config.Path).LinkTarget);
        Assert.Equal(Model, File.ReadAllBytes(model.Path));
        Assert.True(File.Exists(Path.Combine(hub.Cache, ".locks", "models--org--model", FakeHub.Sha256(Model) + ".lock")));
        Assert.StartsWith("Signature: 8a477f597d28d172789f06886806bc55", File.ReadAllText(Path.Combine(hub.Cache, "CACHEDIR.TAG")), StringComparison.Ordinal);
    }

    [Fact]
    public async Task WithoutSymlinks_SnapshotsHaveTheFilesThemselves()
    {
        await using FakeHub hub = await FakeHub.StartAsync(("a.gguf", Model));
        HubModel model = await hub.PullAsync(options: hub.Options with { Symlinks = false });
        Assert.Null(new FileInfo(model.Path).LinkTarget);
        Assert.Equal(Model, File.ReadAllBytes(model.Path));
        Assert.False(File.Exists(hub.InCache("blobs", FakeHub.Sha256(Model))));
        await hub.PullAsync(options: hub.Options with { Symlinks = false });
        Assert.Equal(Model.Length, hub.Sent);
    }

    [Fact]
    public async Task TheToken_IsForTheHub_AndNotForItsStorage()
    {
        await using FakeHub hub = await FakeHub.StartAsync(("a.gguf", Model));
        await hub.PullAsync();
        Assert.Contains(hub.Requests, request => request.StartsWith("STORAGE", StringComparison.Ordinal));
        Assert.All(hub.Requests, request => Assert.Equal(request.StartsWith("HUB", StringComparison.Ordinal), request.Contains("Bearer hf_secret", StringComparison.Ordinal)));
    }

    [Theory]
    [InlineData(1)]
    [InlineData(999)]
    [InlineData(1000)]
    [InlineData(1001)]
    [InlineData(10_007)]
    [InlineData(0)]
    public async Task ParallelRanges_AssembleExactly_AndBringEachByteOnce(int length)
    {
        byte[] content = FakeHub.Bytes(length);
        await using FakeHub hub = await FakeHub.StartAsync(("a.gguf", content));
        HubModel model = await hub.PullAsync();
        Assert.Equal(content, File.ReadAllBytes(model.Path));
        Assert.Equal(length, hub.Sent);
        Assert.Equal((length + 999) / 1000, hub.Requests.Count(request => request.StartsWith("STORAGE GET", StringComparison.Ordinal)));

        await hub.PullAsync();
        Assert.Equal(length, hub.Sent); // what is there is not fetched again
    }

    [Fact]
    public async Task AServerThatIgnoresRanges_IsReadInOnePiece()
    {
        await using FakeHub hub = await FakeHub.StartAsync(("a.gguf", Model));
        hub.OnStorage = async (context, content) =>
        {
            await hub.SendAsync(context, content, ranges: false);
            return true;
        };
        Assert.Equal(Model, File.ReadAllBytes((await hub.PullAsync()).Path));
    }

    [Fact]
    public async Task DroppedConnections_AreTakenUpWhereTheyBroke()
    {
        await using FakeHub hub = await FakeHub.StartAsync(("a.gguf", Model));
        int drops = 0;
        hub.OnStorage = async (context, content) =>
        {
            if (Interlocked.Increment(ref drops) > 6) return false;
            await hub.DropAsync(context, content, 300);
            return true;
        };
        Assert.Equal(Model, File.ReadAllBytes((await hub.PullAsync()).Path));
        Assert.Contains(hub.Requests, request => request.StartsWith("STORAGE", StringComparison.Ordinal) && request.Contains("300-", StringComparison.Ordinal));
        Assert.True(hub.Sent < Model.Length, "what had arrived before was not sent again");
    }

    [Fact]
    public async Task AnInterruptedPull_GoesOnFromWhatWasThere()
    {
        await using FakeHub hub = await FakeHub.StartAsync(("a.gguf", Model));
        hub.OnStorage = async (context, content) =>
        {
            await hub.DropAsync(context, content, 400);
            return true;
        };
        HubException lost = await Assert.ThrowsAsync<HubException>(() => hub.PullAsync(options: hub.Options with { Retries = 0 }));
        Assert.Contains("what has arrived is kept", lost.Message, StringComparison.Ordinal);
        string blob = hub.InCache("blobs", FakeHub.Sha256(Model));
        Assert.Equal([blob + ".native.incomplete", blob + ".native.ranges.incomplete"], Directory.GetFiles(hub.InCache("blobs")).Order(StringComparer.Ordinal));
        long kept = PartialFile.DoneOf(blob, Model.Length, 1000);
        Assert.InRange(kept, 400, 1600); // four connections

        hub.OnStorage = (_, _) => Task.FromResult(false);
        HubModel model = await hub.PullAsync();
        Assert.Equal(Model, File.ReadAllBytes(model.Path));
        Assert.Equal(Model.Length - kept, hub.Sent);
        Assert.Equal([blob], Directory.GetFiles(hub.InCache("blobs")));
    }

    [Fact]
    public async Task ACancelledPull_GoesOnFromWhatWasThere()
    {
        await using FakeHub hub = await FakeHub.StartAsync(("a.gguf", Model));
        using CancellationTokenSource cancel = new();
        int answers = 0;
        hub.OnStorage = async (context, _) =>
        {
            if (Interlocked.Increment(ref answers) <= 3) return false;
            await cancel.CancelAsync();
            return true; // sends nothing, so that what was sent is known
        };
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => hub.PullAsync(options: hub.Options with { Connections = 1 }, ct: cancel.Token));
        long sent = hub.Sent, kept = PartialFile.DoneOf(hub.InCache("blobs", FakeHub.Sha256(Model)), Model.Length, 1000);
        Assert.Equal(3000, kept);
        hub.OnStorage = (_, _) => Task.FromResult(false);
        Assert.Equal(Model, File.ReadAllBytes((await hub.PullAsync()).Path));
        Assert.Equal(Model.Length - kept, hub.Sent - sent);
    }

    [Theory]
    [InlineData("ranges")]
    [InlineData("bytes")]
    public async Task HalfAFileWithoutItsOtherHalf_IsBegunAnew(string damaged)
    {
        await using FakeHub hub = await FakeHub.StartAsync(("a.gguf", Model));
        string blob = hub.InCache("blobs", FakeHub.Sha256(Model));
        Directory.CreateDirectory(hub.InCache("blobs"));
        using (PartialFile part = PartialFile.Open(blob, Model.Length, 1000)) part.Append(0, Model.AsSpan(0, 1000));
        Assert.Equal(1000, PartialFile.DoneOf(blob, Model.Length, 1000));
        if (damaged == "bytes") File.Delete(blob + ".native.incomplete");
        else File.WriteAllBytes(blob + ".native.ranges.incomplete", new byte[24 + 11 * 8]);
        Assert.Equal(Model, File.ReadAllBytes((await hub.PullAsync()).Path));
        Assert.Equal(Model.Length, hub.Sent);
    }

    [Fact]
    public async Task AStalledServer_IsAskedAgain_AndThenGivenUp()
    {
        await using FakeHub hub = await FakeHub.StartAsync(("a.gguf", Model));
        HubOptions impatient = hub.Options with { StallTimeout = TimeSpan.FromMilliseconds(300), Retries = 1 };
        bool heals = false;
        int stalls = 0;
        hub.OnStorage = async (context, content) =>
        {
            if (heals && Interlocked.Increment(ref stalls) > 1) return false;
            context.Response.ContentLength = 1000;
            if (context.Request.GetTypedHeaders().Range is { } range)
            {
                context.Response.StatusCode = 206;
                context.Response.Headers.ContentRange = $"bytes {range.Ranges.Single().From}-{range.Ranges.Single().To}/{content.Length}";
                context.Response.ContentLength = range.Ranges.Single().To + 1 - range.Ranges.Single().From;
            }
            await context.Response.Body.FlushAsync(context.RequestAborted);
            await Task.Delay(Timeout.Infinite, context.RequestAborted).ContinueWith(_ => { }, TaskScheduler.Default);
            return true;
        };
        HubException e = await Assert.ThrowsAsync<HubException>(() => hub.PullAsync(options: impatient));
        Assert.Contains("nothing came from a.gguf for 0.3 seconds", e.Message, StringComparison.Ordinal);
        NothingLooksWhole(hub);
        heals = true;
        Assert.Equal(Model, File.ReadAllBytes((await hub.PullAsync(options: impatient with { StallTimeout = TimeSpan.FromSeconds(2) })).Path));
    }

    [Theory]
    [InlineData(-7, false, "early")]
    [InlineData(7, false, "more than the 10007 bytes announced")]
    [InlineData(-7, true, "10007 bytes were announced, 10000 are sent")]
    [InlineData(7, true, "10007 bytes were announced, 10014 are sent")]
    public async Task AServerThatLiesAboutTheLength_IsRefused(int difference, bool says, string expected)
    {
        await using FakeHub hub = await FakeHub.StartAsync(("a.gguf", Model));
        hub.OnStorage = async (context, content) =>
        {
            byte[] other = [.. content, .. new byte[7]];
            if (says) context.Response.ContentLength = content.Length + difference;
            await context.Response.Body.WriteAsync(other.AsMemory(0, content.Length + difference), context.RequestAborted);
            return true;
        };
        HubException e = await Assert.ThrowsAsync<HubException>(() => hub.PullAsync(options: hub.Options with { RangeBytes = 1 << 20, Retries = 0 }));
        Assert.Contains(expected, e.Message, StringComparison.Ordinal);
        NothingLooksWhole(hub);
    }

    [Fact]
    public async Task WrongBytes_AreNoticedByTheirHash_AndDeleted()
    {
        await using FakeHub hub = await FakeHub.StartAsync(("a.gguf", Model), ("config.json", "{}"u8.ToArray()));
        hub.OnStorage = async (context, content) =>
        {
            byte[] wrong = [.. content];
            wrong[5000] ^= 1;
            await hub.SendAsync(context, wrong);
            return true;
        };
        HubException e = await Assert.ThrowsAsync<HubException>(() => hub.PullAsync());
        Assert.Contains(FakeHub.Sha256(Model), e.Message, StringComparison.Ordinal);
        Assert.Empty(hub.CachedFiles());

        hub.OnHub = async context =>
        {
            if (!context.Request.Path.StartsWithSegments("/resolve-cache") || context.Request.Method == "HEAD") return false;
            await hub.SendAsync(context, "[]"u8.ToArray());
            return true;
        };
        await Assert.ThrowsAsync<HubException>(() => hub.PullAsync("hf:org/model/config.json"));
        Assert.Empty(hub.CachedFiles());
        hub.OnStorage = (_, _) => Task.FromResult(false);
        Assert.Equal(Model, File.ReadAllBytes((await hub.PullAsync()).Path));
    }

    [Theory]
    [InlineData("bytes 0-999/20000")]
    [InlineData("bytes 1-999/10007")]
    [InlineData("bytes 0-9999/10007")]
    [InlineData(null)]
    public async Task AnotherRangeThanTheOneAskedFor_IsRefused(string? sent)
    {
        await using FakeHub hub = await FakeHub.StartAsync(("a.gguf", Model));
        hub.OnStorage = async (context, content) =>
        {
            context.Response.StatusCode = 206;
            if (sent is not null) context.Response.Headers.ContentRange = sent;
            await context.Response.Body.WriteAsync(content.AsMemory(0, 1000), context.RequestAborted);
            return true;
        };
        HubException e = await Assert.ThrowsAsync<HubException>(() => hub.PullAsync(options: hub.Options with { Connections = 1 }));
        Assert.Contains($"bytes 0-999/10007 were asked for, {sent ?? "no range"} came", e.Message, StringComparison.Ordinal);
        NothingLooksWhole(hub);
    }

    [Fact]
    public async Task ABusyServer_IsAskedAgainWhenItSays()
    {
        await using FakeHub hub = await FakeHub.StartAsync(("a.gguf", Model));
        int refusals = 0;
        hub.OnHub = context =>
        {
            if (Interlocked.Increment(ref refusals) > 2) return Task.FromResult(false);
            context.Response.StatusCode = refusals == 1 ? 429 : 503;
            if (refusals == 1) context.Response.Headers.RetryAfter = "1";
            return Task.FromResult(true);
        };
        List<HubProgress> told = [];
        Assert.Equal(Model, File.ReadAllBytes((await hub.PullAsync(progress: new Now(told))).Path));
        Assert.Contains(told, progress => progress.Note.EndsWith("answered 429, again in 1 s", StringComparison.Ordinal));
        Assert.Contains(told, progress => progress.Note.Contains("answered 503", StringComparison.Ordinal));

        hub.OnHub = context =>
        {
            context.Response.StatusCode = 429;
            context.Response.Headers.RetryAfter = "3600";
            return Task.FromResult(true);
        };
        HubException e = await Assert.ThrowsAsync<HubException>(() => hub.PullAsync());
        Assert.Contains("answered 429 and asks to come back in 3600 seconds", e.Message, StringComparison.Ordinal);

        hub.OnHub = context =>
        {
            context.Response.StatusCode = 500;
            return Task.FromResult(true);
        };
        int before = hub.Requests.Count;
        e = await Assert.ThrowsAsync<HubException>(() => hub.PullAsync());
        Assert.Contains("answered 500; gave up after 4 attempts", e.Message, StringComparison.Ordinal);
        Assert.Equal(4, hub.Requests.Count - before);
    }

    [Theory]
    [InlineData(401, "GatedRepo", true, "org/model is gated: accept its terms at http://", "HF_TOKEN")]
    [InlineData(403, "GatedRepo", false, "org/model is gated: accept its terms at http://", "set HF_TOKEN to a token of the account that did")]
    [InlineData(401, null, false, "the hub has no repository org/model, or it is private", "set HF_TOKEN")]
    [InlineData(401, null, true, "the hub refuses the token", "401")]
    [InlineData(403, null, true, "the token may not read it", "403")]
    [InlineData(404, "RepoNotFound", false, "the hub has no repository org/model", "private")]
    [InlineData(404, "RevisionNotFound", false, "org/model has no revision 'main'", "")]
    [InlineData(404, "EntryNotFound", false, "org/model has no file 'a.gguf' at revision 'main'", "")]
    [InlineData(418, null, false, "answered 418 for org/model", "")]
    public async Task Refusals_AreToldApart(int status, string? code, bool token, string expected, string also)
    {
        await using FakeHub hub = await FakeHub.StartAsync(("a.gguf", Model));
        hub.OnHub = context =>
        {
            context.Response.StatusCode = status;
            if (code is not null) context.Response.Headers["X-Error-Code"] = code;
            return Task.FromResult(true);
        };
        HubException e = await Assert.ThrowsAsync<HubException>(() => hub.PullAsync(options: hub.Options with { Token = token ? "hf_secret" : null }));
        Assert.Contains(expected, e.Message, StringComparison.Ordinal);
        Assert.Contains(also, e.Message, StringComparison.Ordinal);
        Assert.DoesNotContain("hf_secret", e.Message, StringComparison.Ordinal);
        Assert.Single(hub.Requests); // no use in asking again
        Assert.Empty(hub.CachedFiles());
    }

    [Theory]
    [InlineData("etag", "../../x")]
    [InlineData("etag", "abc")]
    [InlineData("commit", "../x")]
    [InlineData("size", "-1")]
    [InlineData("size", "99999999999999999")]
    public async Task WhatNoHubTells_IsRefused(string header, string value)
    {
        await using FakeHub hub = await FakeHub.StartAsync(("a.gguf", Model));
        hub.OnHub = context =>
        {
            context.Response.Headers["X-Repo-Commit"] = header == "commit" ? value : FakeHub.Commit;
            context.Response.Headers["X-Linked-Etag"] = header == "etag" ? value : FakeHub.Sha256(Model);
            context.Response.Headers["X-Linked-Size"] = header == "size" ? value : "10007";
            return Task.FromResult(true);
        };
        HubException e = await Assert.ThrowsAsync<HubException>(() => hub.PullAsync());
        Assert.Contains("did not tell commit, hash and size of a.gguf", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task AFileLargerThanTheDisk_IsRefusedBeforeAByteIsAskedFor()
    {
        await using FakeHub hub = await FakeHub.StartAsync(("a.gguf", Model));
        hub.OnHub = context =>
        {
            context.Response.Headers["X-Repo-Commit"] = FakeHub.Commit;
            context.Response.Headers["X-Linked-Etag"] = FakeHub.Sha256(Model);
            context.Response.Headers["X-Linked-Size"] = (1L << 44).ToString();
            return Task.FromResult(true);
        };
        HubException e = await Assert.ThrowsAsync<HubException>(() => hub.PullAsync());
        Assert.Contains("16384.0 GiB are to come, but", e.Message, StringComparison.Ordinal);
        Assert.DoesNotContain(hub.Requests, request => request.Contains("GET", StringComparison.Ordinal));
    }

    [Fact]
    public async Task TwoPullsAtOnce_BringTheFileOnce()
    {
        await using FakeHub hub = await FakeHub.StartAsync(("a.gguf", Model));
        TaskCompletionSource second = new();
        hub.OnStorage = async (_, _) =>
        {
            await second.Task;
            return false;
        };
        Task<HubModel> first = hub.PullAsync();
        await RunningServer.Until(() => hub.Requests.Any(request => request.StartsWith("STORAGE", StringComparison.Ordinal)), "the first downloads");
        List<HubProgress> told = [];
        Task<HubModel> other = hub.PullAsync(progress: new Now(told, note => { if (note.StartsWith("waiting", StringComparison.Ordinal)) second.TrySetResult(); }));
        HubModel[] models = await Task.WhenAll(first, other);
        Assert.Contains(told, progress => progress.Note == "waiting for another download of it");
        Assert.Equal(models[0].Path, models[1].Path);
        Assert.Equal(Model, File.ReadAllBytes(models[0].Path));
        Assert.Equal(Model.Length, hub.Sent);
    }

    [Fact]
    public async Task WhatTheOfficialClientCached_IsFound_WithoutAskingAnybody()
    {
        await using FakeHub hub = await FakeHub.StartAsync();
        Directory.CreateDirectory(hub.InCache("refs"));
        Directory.CreateDirectory(hub.InCache("blobs"));
        Directory.CreateDirectory(hub.InCache("snapshots", FakeHub.Commit));
        File.WriteAllText(hub.InCache("refs", "main"), FakeHub.Commit);
        void Add(string name, string hash, string content)
        {
            File.WriteAllText(hub.InCache("blobs", hash), content);
            File.CreateSymbolicLink(hub.InCache("snapshots", FakeHub.Commit, name), Path.Combine("..", "..", "blobs", hash));
        }
        Add("config.json", "c0", "{}");
        Add("tokenizer.json", "c1", "{}");
        Add("model.safetensors.index.json", "c2", """{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}""");
        Add("model-00001-of-00002.safetensors", "c3", "1");

        HubOptions offline = hub.Options with { Offline = true };
        HubException e = await Assert.ThrowsAsync<HubException>(() => hub.PullAsync("hf:org/model", offline)); // the second shard is not there
        Assert.Contains("HF_HUB_OFFLINE is set", e.Message, StringComparison.Ordinal);
        Add("model-00002-of-00002.safetensors", "c4", "2");
        HubModel model = await hub.PullAsync("hf:org/model", offline);
        Assert.Equal(hub.InCache("snapshots", FakeHub.Commit), model.Path);
        Assert.Equal("org/model", model.Name);
        Assert.Equal(model, await hub.UseAsync("hf:org/model", null, (models, reference) => models.ResolveAsync(reference, null, Token)));
        Assert.Equal(model, await hub.UseAsync($"hf:org/model@{FakeHub.Commit}", null, (models, reference) => models.ResolveAsync(reference, null, Token)));
        Assert.EndsWith("tokenizer.json", (await hub.PullAsync("hf:org/model/tokenizer.json", offline)).Path, StringComparison.Ordinal);
        Assert.Empty(hub.Requests);
    }

    [Fact]
    public async Task ABlobOfTheOfficialClient_IsLinked_AndAHalfOneIsReplaced()
    {
        await using FakeHub hub = await FakeHub.StartAsync(("a.gguf", Model));
        string blob = hub.InCache("blobs", FakeHub.Sha256(Model));
        Directory.CreateDirectory(hub.InCache("blobs"));
        File.WriteAllBytes(blob, Model);
        Assert.Equal(Model, File.ReadAllBytes((await hub.PullAsync()).Path));
        Assert.Equal(0, hub.Sent);

        File.WriteAllBytes(blob, Model[..500]);
        Assert.Equal(Model, File.ReadAllBytes((await hub.PullAsync()).Path));
        Assert.Equal(Model.Length, hub.Sent);
    }

    [Fact]
    public async Task AFolder_IsItsConfigTokenizerAndWeights_ConfigLast()
    {
        string[] wanted =
        [
            "additional_chat_templates/tool_use.jinja", "chat_template.jinja", "generation_config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json",
            "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "config.json",
        ];
        string[] others = ["README.md", "consolidated.safetensors", "original/model.safetensors", "pytorch_model.bin", "onnx/model.onnx", "a.gguf", "../evil.safetensors", "preprocessor_config.json"];
        await using FakeHub hub = await FakeHub.StartAsync([.. wanted.Concat(others).Order(StringComparer.Ordinal).Select((name, i) => (name, FakeHub.Bytes(100 + i, i)))]);
        HubModel model = await hub.PullAsync("hf:org/model");
        Assert.Equal(hub.InCache("snapshots", FakeHub.Commit), model.Path);
        Assert.Equal(wanted.Order(StringComparer.Ordinal), Directory.EnumerateFiles(model.Path, "*", SearchOption.AllDirectories).Select(file => Path.GetRelativePath(model.Path, file).Replace('\\', '/')).Order(StringComparer.Ordinal));
        Assert.EndsWith("config.json", hub.Requests.Last(request => request.Contains("GET", StringComparison.Ordinal)).Split(' ')[2], StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("")]
    [InlineData("[]")]
    [InlineData("<html>")]
    [InlineData("""{"sha":"../x","siblings":[]}""")]
    [InlineData("""{"sha":null,"siblings":[]}""")]
    [InlineData("""{"sha":"0123456789abcdef0123456789abcdef01234567","siblings":{}}""")]
    [InlineData("""{"sha":"0123456789abcdef0123456789abcdef01234567","siblings":[{"rfilename":1}]}""")]
    public async Task AListThatIsNone_IsRefused(string answer)
    {
        await using FakeHub hub = await FakeHub.StartAsync();
        hub.OnHub = async context =>
        {
            await context.Response.WriteAsync(answer);
            return true;
        };
        HubException e = await Assert.ThrowsAsync<HubException>(() => hub.PullAsync("hf:org/model"));
        Assert.Contains("with no list of files", e.Message, StringComparison.Ordinal);
        hub.OnHub = async context =>
        {
            await context.Response.WriteAsync("""{"sha":"0123456789abcdef0123456789abcdef01234567","siblings":[{"rfilename":null},{"rfilename":"/etc/a.gguf"},{"rfilename":"../a.gguf","size":-1}]}""");
            return true;
        };
        e = await Assert.ThrowsAsync<HubException>(() => hub.PullAsync("hf:org/model"));
        Assert.Contains("neither a GGUF file nor", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task OfSeveralGgufFiles_OneMustBeNamed_AndASplitOneComesWhole()
    {
        await using FakeHub hub = await FakeHub.StartAsync(("mmproj-F16.gguf", [1]), ("imatrix.gguf", [2]), ("m-Q8_0.gguf", FakeHub.Bytes(3 << 20)));
        Assert.Equal("m-Q8_0", (await hub.PullAsync("hf:org/model", hub.Options with { RangeBytes = 1 << 20 })).Name);

        hub.Files["big/m-F16-00001-of-00002.gguf"] = FakeHub.Bytes(10, 3);
        hub.Files["big/m-F16-00002-of-00002.gguf"] = FakeHub.Bytes(20, 4);
        HubChoiceException e = await Assert.ThrowsAsync<HubChoiceException>(() => hub.PullAsync("hf:org/model@dev"));
        Assert.Equal("hf:org/model@dev has 2 models; name one:\n  hf:org/model/big/m-F16-00001-of-00002.gguf@dev  0.0 MiB\n  hf:org/model/m-Q8_0.gguf@dev  3.0 MiB", e.Message);

        HubModel split = await hub.PullAsync("hf:org/model/big/m-F16-00002-of-00002.gguf");
        Assert.EndsWith("m-F16-00001-of-00002.gguf", split.Path, StringComparison.Ordinal);
        Assert.True(File.Exists(split.Path.Replace("-00001-", "-00002-", StringComparison.Ordinal)));

        hub.Files.Clear();
        hub.Files["README.md"] = [1];
        HubException none = await Assert.ThrowsAsync<HubException>(() => hub.PullAsync("hf:org/model"));
        Assert.Contains("neither a GGUF file nor config.json with safetensors", none.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("hf:org/model", "org/model", null, "main")]
    [InlineData("hf:org/model@v1.0", "org/model", null, "v1.0")]
    [InlineData("hf:org/m.o-d_el/a/b.gguf", "org/m.o-d_el", "a/b.gguf", "main")]
    [InlineData("hf:org/model/a.gguf@refs/pr/1", "org/model", "a.gguf", "refs/pr/1")]
    public void References_AreRead(string text, string repository, string? file, string revision)
    {
        Assert.True(HubReference.TryParse(text, out HubReference? reference));
        Assert.Equal(new HubReference(repository, file, revision), reference);
        Assert.Equal(text, reference.ToString());
    }

    [Theory]
    [InlineData("org/model")]
    [InlineData("hf:")]
    [InlineData("hf:model")]
    [InlineData("hf:org/")]
    [InlineData("hf:/model")]
    [InlineData("hf:org/model/")]
    [InlineData("hf:org/model@")]
    [InlineData("hf:org/..")]
    [InlineData("hf:org/a--b")]
    [InlineData("hf:org/model/../x")]
    [InlineData("hf:org/model/a\\b")]
    [InlineData("hf:org/model@../../x")]
    [InlineData("hf:org/model?x=1")]
    [InlineData("hf://org/model")]
    public void WhatIsNoReference_IsRefused(string text) => Assert.False(HubReference.TryParse(text, out _));

    [Fact]
    public void Options_AreTheOfficialVariables()
    {
        string home = Directory.CreateTempSubdirectory("native-hub-").FullName;
        try
        {
            File.WriteAllText(Path.Combine(home, "token"), "hf_file\n");
            File.WriteAllText(Path.Combine(home, "other"), "hf_other");
            Dictionary<string, string> set = new() { ["HF_HOME"] = home };
            HubOptions Read() => HubOptions.From(set.GetValueOrDefault);
            Assert.Equal((Path.Combine(home, "hub"), "hf_file", false, true, "https://huggingface.co"), (Read().Cache, Read().Token, Read().Offline, Read().Symlinks, Read().Endpoint.OriginalString));
            set["HF_TOKEN_PATH"] = Path.Combine(home, "other");
            Assert.Equal("hf_other", Read().Token);
            set["HF_TOKEN"] = " hf_variable ";
            set["HF_HUB_CACHE"] = "~/models";
            set["HF_HUB_OFFLINE"] = "yes";
            set["HF_HUB_DISABLE_SYMLINKS"] = "1";
            set["HF_ENDPOINT"] = "http://127.0.0.1:1/hub/";
            set["HF_HUB_DOWNLOAD_TIMEOUT"] = "7";
            string user = Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);
            Assert.Equal((Path.Combine(user, "models"), "hf_variable", true, false, "http://127.0.0.1:1/hub"), (Read().Cache, Read().Token, Read().Offline, Read().Symlinks, Read().Endpoint.OriginalString));
            Assert.Equal(TimeSpan.FromSeconds(7), Read().StallTimeout);
            set["HF_TOKEN"] = "hf\nx";
            HubException e = Assert.Throws<HubException>(Read);
            Assert.DoesNotContain("hf\nx", e.Message, StringComparison.Ordinal);
            set.Remove("HF_TOKEN");
            set["HF_ENDPOINT"] = "ftp://x";
            Assert.Contains("HF_ENDPOINT is 'ftp://x'", Assert.Throws<HubException>(Read).Message, StringComparison.Ordinal);
            Assert.Equal(Path.Combine(user, ".cache", "huggingface", "hub"), HubOptions.From(_ => null).Cache);
        }
        finally
        {
            Directory.Delete(home, recursive: true);
        }
    }

    [Fact]
    public async Task TheServer_DownloadsItsModel_SaysLoadingMeanwhile_AndServesIt()
    {
        byte[] stories = await File.ReadAllBytesAsync(TestData.Path("models/stories260K/stories260K-F32.gguf"), Token);
        await using FakeHub hub = await FakeHub.StartAsync(("stories.gguf", stories));
        TaskCompletionSource gate = new();
        hub.OnStorage = async (_, _) =>
        {
            await gate.Task;
            return false;
        };
        int port = FreePort(); // the server tells the one it chose only when it is ready
        ProcessStartInfo start = new("dotnet", [Path.Combine(AppContext.BaseDirectory, "Native.Server.dll"), "--model", "hf:org/model/stories.gguf", "--port", $"{port}", "--grpc-port", "0", "--threads", "1"]) { RedirectStandardOutput = true, RedirectStandardError = true };
        start.Environment["HF_ENDPOINT"] = hub.Address.ToString();
        start.Environment["HF_HUB_CACHE"] = hub.Cache;
        start.Environment["HF_TOKEN"] = "hf_secret";
        start.Environment["HF_HUB_OFFLINE"] = "0";
        using Process server = Process.Start(start)!;
        try
        {
            await RunningServer.Until(() => hub.Requests.Any(request => request.StartsWith("STORAGE", StringComparison.Ordinal)), "the server asks for the model");
            using HttpClient http = new() { BaseAddress = new Uri($"http://127.0.0.1:{port}") };
            using HttpResponseMessage loading = await http.GetAsync("/v1/models", Token);
            Assert.Contains("being loaded", await loading.Content.ReadAsStringAsync(Token), StringComparison.Ordinal);
            gate.SetResult();
            Assert.Contains("stories", await server.StandardOutput.ReadLineAsync(Token), StringComparison.Ordinal);
            Assert.Contains("\"stories\"", await http.GetStringAsync("/v1/models", Token), StringComparison.Ordinal);
        }
        finally
        {
            gate.TrySetResult();
            server.Kill();
            await server.WaitForExitAsync(CancellationToken.None);
        }
        Assert.Equal("", await server.StandardError.ReadToEndAsync(Token)); // silence in a pipe
    }

    private static int FreePort()
    {
        using System.Net.Sockets.TcpListener listener = new(System.Net.IPAddress.Loopback, 0);
        listener.Start();
        return ((System.Net.IPEndPoint)listener.LocalEndpoint).Port;
    }

    private static void NothingLooksWhole(FakeHub hub) => Assert.All(hub.CachedFiles(), file => Assert.EndsWith(".incomplete", file, StringComparison.Ordinal));

    /// <summary>Keeps progress at once, on the thread that tells it.</summary>
    private sealed class Now(List<HubProgress> told, Action<string>? note = null) : IProgress<HubProgress>
    {
        public void Report(HubProgress value)
        {
            lock (told) told.Add(value);
            note?.Invoke(value.Note);
        }
    }
}
