using Google.Protobuf;
using Grpc.Core;
using Grpc.Health.V1;
using Grpc.Net.Client;
using Native.Bench.Serve;
using Native.Server.Serving;
using Native.V1;
using static Grpc.Health.V1.HealthCheckResponse.Types;

namespace Native.Tests.Server;

public sealed class GrpcTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Generate_TellsEveryTokenAndHowItWent()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        using AsyncServerStreamingCall<GenerateResponse> call = server.Inference.Generate(
            new GenerateRequest { Text = "y", RequestId = "r1", Sampling = new SamplingParams { Logprobs = 1, PromptLogprobs = 0 } }, cancellationToken: Token);
        List<GenerateResponse> events = await call.ResponseStream.ReadAllAsync(Token).ToListAsync(Token);

        Assert.Equal("r1", events[0].Prompt.RequestId);
        Assert.Equal([ScriptedRunner.Bos, 'y'], events[0].Prompt.TokenIds);
        Assert.False(events[0].Prompt.Logprobs[0].HasLogprob);
        Assert.Equal(-0.25f, events[0].Prompt.Logprobs[1].Logprob);
        GenerateResponse[] tokens = [.. events.Where(e => e.Token is not null)];
        Assert.Equal(['z', '.', ScriptedRunner.End], tokens.Select(e => e.Token.Id));
        Assert.Equal(["z", ".", ""], tokens.Select(e => e.Token.Text));
        Assert.Equal(-0.5f, tokens[0].Token.Logprob);
        Assert.Equal((int)'z', tokens[0].Token.Alternatives.Single().Id);
        Finished finished = events.Single(e => e.Finished is not null).Finished;
        Assert.Equal(FinishReason.Stop, finished.Reason);
        Assert.Equal(3u, finished.CompletionTokens);
        Summary summary = events[^1].Summary;
        Assert.Equal((2u, 3u), (summary.Usage.PromptTokens, summary.Usage.CompletionTokens));
        Assert.True(summary.Timings.TimeToFirstTokenSeconds >= summary.Timings.PrefillSeconds && summary.Timings.PrefillSeconds > 0);
    }

    [Fact]
    public async Task Chat_AnswersAndStopsAtTexts()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        ChatRequest request = new() { Messages = { new ChatMessage { Role = "user", Content = "hi" } }, Sampling = new SamplingParams { Stop = { "yz" }, N = 2 } };
        using AsyncServerStreamingCall<GenerateResponse> call = server.Inference.Chat(request, cancellationToken: Token);
        List<GenerateResponse> events = await call.ResponseStream.ReadAllAsync(Token).ToListAsync(Token);
        for (uint i = 0; i < 2; i++)
        {
            Assert.Equal("vwx", string.Concat(events.Where(e => e.Index == i && e.Token is not null).Select(e => e.Token.Text)));
            Assert.Equal("yz", events.Single(e => e.Index == i && e.Finished is not null).Finished.MatchedStop);
        }
        await server.AllBlocksFree();
    }

    [Theory]
    [InlineData(null, "A")]
    [InlineData(true, "A")]
    [InlineData(false, "<|user|>A")]
    public async Task ControlTokens_AreText_WhereAsked(bool? skip, string expected)
    {
        await using RunningServer server = await RunningServer.StartAsync();
        SamplingParams sampling = new() { MaxTokens = 2 };
        if (skip is { } asked) sampling.SkipSpecialTokens = asked;
        using AsyncServerStreamingCall<GenerateResponse> call = server.Inference.Generate(new GenerateRequest { Text = "?", Sampling = sampling }, cancellationToken: Token);
        Assert.Equal(expected, string.Concat((await call.ResponseStream.ReadAllAsync(Token).ToListAsync(Token)).Select(e => e.Token?.Text)));
    }

    [Theory]
    [InlineData(5, "BCD")]
    [InlineData(6, "BCDEFGHIJKLMNOPQRSTUVWXYZABCD")]
    public async Task StopTexts_AreLookedForAfterMinTokens(uint minTokens, string expected)
    {
        await using RunningServer server = await RunningServer.StartAsync();
        SamplingParams sampling = new() { Stop = { "", "EFG" }, MinTokens = minTokens, MaxTokens = 100 };
        using AsyncServerStreamingCall<GenerateResponse> call = server.Inference.Generate(new GenerateRequest { Text = "A", Sampling = sampling }, cancellationToken: Token);
        Assert.Equal(expected, string.Concat((await call.ResponseStream.ReadAllAsync(Token).ToListAsync(Token)).Select(e => e.Token?.Text)));
    }

    [Fact]
    public async Task TokenizeAndDetokenize_AreInverse()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        TokenizeResponse ids = await server.Inference.TokenizeAsync(new TokenizeRequest { Text = "aé<|end|>", AddSpecial = false, ParseSpecial = true }, cancellationToken: Token);
        Assert.Equal(['a', 0xC3, 0xA9, ScriptedRunner.End], ids.Ids);
        DetokenizeResponse text = await server.Inference.DetokenizeAsync(new DetokenizeRequest { Ids = { ids.Ids } }, cancellationToken: Token);
        Assert.Equal("aé", text.Text);
        text = await server.Inference.DetokenizeAsync(new DetokenizeRequest { Ids = { ids.Ids }, SkipSpecialTokens = false }, cancellationToken: Token);
        Assert.Equal("aé<|end|>", text.Text);
        RpcException bad = await Assert.ThrowsAsync<RpcException>(async () => await server.Inference.DetokenizeAsync(new DetokenizeRequest { Ids = { 99999 } }, cancellationToken: Token));
        Assert.Equal(StatusCode.InvalidArgument, bad.StatusCode);
    }

    [Fact]
    public async Task ServerInfo_AndModels_TellWhatRuns()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        GetServerInfoResponse info = await server.Inference.GetServerInfoAsync(new GetServerInfoRequest(), cancellationToken: Token);
        Assert.Equal(("ready", 64u, 64u), (info.State, info.KvBlocksTotal, info.KvBlocksFree));
        ListModelsResponse models = await server.Inference.ListModelsAsync(new ListModelsRequest(), cancellationToken: Token);
        Assert.Equal("scripted", models.Models.Single().Id);
        Assert.True(models.Models.Single().HasChatTemplate);
    }

    [Fact]
    public async Task Refusals_HaveTheirStatus()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        async Task<RpcException> Refused(GenerateRequest request)
        {
            using AsyncServerStreamingCall<GenerateResponse> call = server.Inference.Generate(request, cancellationToken: Token);
            return await Assert.ThrowsAsync<RpcException>(async () => await call.ResponseStream.MoveNext(Token));
        }

        Assert.Equal(StatusCode.InvalidArgument, (await Refused(new GenerateRequest())).StatusCode);
        Assert.Equal(StatusCode.InvalidArgument, (await Refused(new GenerateRequest { Text = "a", Sampling = new SamplingParams { Temperature = float.NaN } })).StatusCode);
        Assert.Equal(StatusCode.InvalidArgument, (await Refused(new GenerateRequest { Text = new string('a', 10000) })).StatusCode);
        Assert.Equal(StatusCode.InvalidArgument, (await Refused(new GenerateRequest { TokenIds = new TokenIds { Ids = { -4 } } })).StatusCode);
        Assert.Equal(StatusCode.NotFound, (await Refused(new GenerateRequest { Text = "a", Model = "other" })).StatusCode);
        Assert.Equal(StatusCode.Internal, (await Refused(new GenerateRequest { Text = "!" })).StatusCode);
    }

    [Fact]
    public async Task WhatIsNoMessage_IsInvalid_AndAnUnknownMethodUnimplemented()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        async Task<RpcException> Refused(string service, string name, byte[] message)
        {
            Marshaller<byte[]> raw = Marshallers.Create(bytes => bytes, bytes => bytes);
            Method<byte[], byte[]> method = new(MethodType.Unary, service, name, raw, raw);
            return await Assert.ThrowsAsync<RpcException>(async () => await server.Channel.CreateCallInvoker().AsyncUnaryCall(method, null, new CallOptions(cancellationToken: Token), message));
        }

        RpcException garbage = await Refused("native.v1.Inference", "Tokenize", [0xFF, 0xFF]);
        Assert.Equal(StatusCode.InvalidArgument, garbage.StatusCode);
        Assert.Contains("protobuf", garbage.Status.Detail);
        RpcException text = await Refused("native.v1.Inference", "Tokenize", [0x12, 2, 0xFF, 0xFE]); // text = 2
        Assert.Equal(StatusCode.InvalidArgument, text.StatusCode);
        Assert.Contains("UTF-8", text.Status.Detail);
        RpcException method = await Refused("native.v1.Inference", "Nothing", []);
        Assert.Equal(StatusCode.Unimplemented, method.StatusCode);
        Assert.Contains("/native.v1.Inference/Nothing", method.Status.Detail);
        RpcException service = await Refused("no.such.Service", "Call", []);
        Assert.Equal(StatusCode.Unimplemented, service.StatusCode);
        await server.Inference.TokenizeAsync(new TokenizeRequest { Text = "a" }, cancellationToken: Token);
    }

    [Fact]
    public async Task FullQueue_SaysWhenToRetry()
    {
        await using RunningServer server = await RunningServer.StartAsync(new() { MaxQueued = 1, MaxRunning = 1 });
        server.Runner.Gate.Reset();
        List<AsyncServerStreamingCall<GenerateResponse>> calls = [.. Enumerable.Range(0, 4).Select(_ => server.Inference.Generate(new GenerateRequest { Text = "y" }, cancellationToken: Token))];
        Task<bool>[] reads = [.. calls.Select(call => call.ResponseStream.MoveNext(Token))];
        Task first = await Task.WhenAny(reads);
        RpcException refused = await Assert.ThrowsAsync<RpcException>(() => first);
        Assert.Equal(StatusCode.ResourceExhausted, refused.StatusCode);
        Assert.True(int.Parse(refused.Trailers.GetValue("grpc-retry-pushback-ms")!, global::System.Globalization.CultureInfo.InvariantCulture) > 0);
        server.Runner.Gate.Set();
        foreach (AsyncServerStreamingCall<GenerateResponse> call in calls) call.Dispose();
        await server.AllBlocksFree();
    }

    [Fact]
    public async Task Deadline_EndsTheCallAndFreesItsBlocks()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        server.Runner.Gate.Reset();
        using AsyncServerStreamingCall<GenerateResponse> call = server.Inference.Generate(
            new GenerateRequest { Text = "A", Sampling = new SamplingParams { MaxTokens = 200 } }, deadline: DateTime.UtcNow.AddMilliseconds(300), cancellationToken: Token);
        RpcException late = await Assert.ThrowsAsync<RpcException>(async () => await call.ResponseStream.MoveNext(Token));
        Assert.Equal(StatusCode.DeadlineExceeded, late.StatusCode);
        server.Runner.Gate.Set();
        await server.AllBlocksFree();
    }

    /// <summary>gRPC for .NET sends no such timeouts, so this is by hand.</summary>
    [Theory, InlineData("1n", "4"), InlineData("0m", "4"), InlineData("00S", "4"), InlineData("99999999H", "0")]
    public async Task ADeadlineOfNoTime_HasPassed(string timeout, string status)
    {
        await using RunningServer server = await RunningServer.StartAsync();
        GenerateRequest asked = new() { Text = "A", Sampling = new SamplingParams { MaxTokens = 3 } };
        byte[] message = asked.ToByteArray();
        using HttpClient http = new() { DefaultRequestVersion = new Version(2, 0) };
        using HttpRequestMessage request = new(
            HttpMethod.Post, $"http://{server.Channel.Target}/native.v1.Inference/Generate");
        request.Version = http.DefaultRequestVersion;
        request.VersionPolicy = HttpVersionPolicy.RequestVersionExact;
        request.Headers.Add("grpc-timeout", timeout);
        request.Headers.Add("TE", "trailers");
        request.Content = new ByteArrayContent([0, 0, 0, 0, (byte)message.Length, .. message]);
        request.Content.Headers.ContentType = new("application/grpc");
        using HttpResponseMessage answer = await http.SendAsync(request, Token);
        await answer.Content.ReadAsByteArrayAsync(Token);
        Assert.Equal(status, Assert.Single(
            answer.TrailingHeaders.Concat(answer.Headers).Single(header => header.Key == "grpc-status").Value));
        await server.AllBlocksFree();
    }

    [Fact]
    public async Task Key_IsAskedOfTheApi_NotOfHealth()
    {
        await using RunningServer server = await RunningServer.StartAsync(new() { ApiKey = "sesame" });
        RpcException refused = await Assert.ThrowsAsync<RpcException>(async () => await server.Inference.ListModelsAsync(new ListModelsRequest(), cancellationToken: Token));
        Assert.Equal(StatusCode.Unauthenticated, refused.StatusCode);
        await server.Inference.ListModelsAsync(new ListModelsRequest(), new Metadata { { "authorization", "Bearer sesame" } }, cancellationToken: Token);
        Marshaller<byte[]> raw = Marshallers.Create(bytes => bytes, bytes => bytes);
        Method<byte[], byte[]> reflection = new(MethodType.DuplexStreaming, "grpc.reflection.v1.ServerReflection", "ServerReflectionInfo", raw, raw);
        using AsyncDuplexStreamingCall<byte[], byte[]> stranger = server.Channel.CreateCallInvoker().AsyncDuplexStreamingCall(reflection, null, new CallOptions(cancellationToken: Token));
        RpcException unseen = await Assert.ThrowsAsync<RpcException>(() => stranger.ResponseStream.MoveNext(Token));
        Assert.Equal(StatusCode.Unauthenticated, unseen.StatusCode);
        HealthCheckResponse health = await new Health.HealthClient(server.Channel).CheckAsync(new HealthCheckRequest(), cancellationToken: Token);
        Assert.Equal(ServingStatus.Serving, health.Status);
    }

    [Fact]
    public async Task Health_FollowsTheServerFromLoadingToDraining()
    {
        await using RunningServer server = await RunningServer.StartAsync(load: false);
        Health.HealthClient health = new(server.Channel);
        using AsyncServerStreamingCall<HealthCheckResponse> watch = health.Watch(new HealthCheckRequest { Service = "native.v1.Inference" }, cancellationToken: Token);
        async Task<ServingStatus> Next() => await watch.ResponseStream.MoveNext(Token) ? watch.ResponseStream.Current.Status : throw new InvalidOperationException("the watch ended");

        Assert.Equal(ServingStatus.NotServing, await Next());
        RpcException loading = await Assert.ThrowsAsync<RpcException>(async () => await server.Inference.ListModelsAsync(new ListModelsRequest(), cancellationToken: Token));
        Assert.Equal(StatusCode.Unavailable, loading.StatusCode);
        server.Load();
        Assert.Equal(ServingStatus.Serving, await Next());
        HealthListResponse list = await health.ListAsync(new HealthListRequest(), cancellationToken: Token);
        Assert.Equal(ServingStatus.Serving, list.Statuses[""].Status);
        Assert.True(await server.Server.DrainAsync());
        Assert.Equal(ServingStatus.NotServing, await Next());

        RpcException unknown = await Assert.ThrowsAsync<RpcException>(async () => await health.CheckAsync(new HealthCheckRequest { Service = "nobody" }, cancellationToken: Token));
        Assert.Equal(StatusCode.NotFound, unknown.StatusCode);
        using AsyncServerStreamingCall<HealthCheckResponse> stranger = health.Watch(new HealthCheckRequest { Service = "nobody" }, cancellationToken: Token);
        Assert.True(await stranger.ResponseStream.MoveNext(Token));
        Assert.Equal(ServingStatus.ServiceUnknown, stranger.ResponseStream.Current.Status);
    }

    [Fact]
    public async Task Reflection_ListsTheServices_InBothVersions()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        // The two versions have the same messages, so a method with raw bytes reaches both:
        // ServerReflectionRequest{list_services = 7: "*"}.
        byte[] request = [0x3A, 0x01, (byte)'*'];
        foreach (string version in (string[])["v1", "v1alpha"])
        {
            Marshaller<byte[]> raw = Marshallers.Create(bytes => bytes, bytes => bytes);
            Method<byte[], byte[]> method = new(MethodType.DuplexStreaming, $"grpc.reflection.{version}.ServerReflection", "ServerReflectionInfo", raw, raw);
            using AsyncDuplexStreamingCall<byte[], byte[]> call = server.Channel.CreateCallInvoker().AsyncDuplexStreamingCall(method, null, new CallOptions(cancellationToken: Token));
            await call.RequestStream.WriteAsync(request, Token);
            Assert.True(await call.ResponseStream.MoveNext(Token));
            string answer = global::System.Text.Encoding.Latin1.GetString(call.ResponseStream.Current);
            Assert.Contains("native.v1.Inference", answer);
            Assert.Contains("grpc.health.v1.Health", answer);
            await call.RequestStream.CompleteAsync();
        }
    }
}
