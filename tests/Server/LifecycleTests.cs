using System.Net;
using System.Net.Sockets;
using System.Text.Json;
using Grpc.Core;
using Native.Server;
using Native.V1;

namespace Native.Tests.Server;

public sealed class LifecycleTests
{
    private const string Completion = "/v1/completions";

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Loading_IsAliveButNotReady()
    {
        await using RunningServer server = await RunningServer.StartAsync(load: false);
        Assert.Equal("ok\n", await server.Http.GetStringAsync("/healthz", Token));
        using HttpResponseMessage ready = await server.Http.GetAsync("/readyz", Token);
        Assert.Equal(HttpStatusCode.ServiceUnavailable, ready.StatusCode);
        using HttpResponseMessage refused = await server.Post(Completion, """{"prompt":"y"}""");
        Assert.Equal(HttpStatusCode.ServiceUnavailable, refused.StatusCode);
        Assert.NotNull(refused.Headers.RetryAfter);
        Assert.Equal(["rejected-no-endpoints"], refused.Headers.GetValues("x-llm-d-request-dropped-reason"));
        Assert.Contains("native_server_state{state=\"loading\"} 1", await server.Metrics());
        server.Load();
        Assert.Equal("ready\n", await server.Http.GetStringAsync("/readyz", Token));
    }

    [Fact]
    public async Task Draining_RefusesWhatIsNew_AndFinishesWhatRuns()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        server.Runner.Gate.Reset();
        Task<HttpResponseMessage> running = server.Post(Completion, """{"prompt":"w"}""");
        await RunningServer.Until(() => server.Runner.Steps > 0, "the request is computed");
        Task<bool> drained = server.Server.DrainAsync();
        using HttpResponseMessage ready = await server.Http.GetAsync("/readyz", Token);
        Assert.Equal(HttpStatusCode.ServiceUnavailable, ready.StatusCode);
        using HttpResponseMessage refused = await server.Post(Completion, """{"prompt":"y"}""");
        Assert.Equal(HttpStatusCode.ServiceUnavailable, refused.StatusCode);
        Assert.Equal(["rejected-shutting-down"], refused.Headers.GetValues("x-llm-d-request-dropped-reason"));
        using AsyncServerStreamingCall<GenerateResponse> call =
            server.Inference.Generate(new GenerateRequest { Text = "y" }, cancellationToken: Token);
        RpcException late =
            await Assert.ThrowsAsync<RpcException>(async () => await call.ResponseStream.MoveNext(Token));
        Assert.Equal("rejected-shutting-down", late.Trailers.GetValue("x-llm-d-request-dropped-reason"));
        Assert.Contains("native_requests_total{outcome=\"draining\"} 2\n", await server.Metrics());
        server.Runner.Gate.Set();
        JsonElement answer = JsonSerializer.Deserialize<JsonElement>(await (await running).Content.ReadAsStringAsync(Token));
        Assert.Equal("xyz.", answer.GetProperty("choices")[0].GetProperty("text").GetString());
        Assert.True(await drained);
    }

    [Fact]
    public async Task Draining_CutsOffWhatDoesNotEndInTime()
    {
        await using RunningServer server = await RunningServer.StartAsync(new() { ShutdownTimeout = TimeSpan.FromMilliseconds(50) }, new ScriptedRunner(blocks: 40000, maxModelLength: 100000) { StepTime = TimeSpan.FromMilliseconds(1) });
        using HttpResponseMessage response = await server.Post(Completion, """{"prompt":"A","max_tokens":90000,"stream":true}""");
        Assert.Equal(HttpStatusCode.OK, response.StatusCode);
        Assert.False(await server.Server.DrainAsync());
        string text = await response.Content.ReadAsStringAsync(Token);
        Assert.Contains("data: {\"error\":{", text);
        Assert.EndsWith("data: [DONE]\n\n", text);
    }

    [Fact]
    public async Task ClientGone_StopsTheComputationAndFreesItsBlocks()
    {
        await using RunningServer server = await RunningServer.StartAsync(runner: new ScriptedRunner(blocks: 40000, maxModelLength: 100000) { StepTime = TimeSpan.FromMilliseconds(1) });
        using (HttpResponseMessage response = await server.Post(Completion, """{"prompt":"A","max_tokens":90000,"stream":true}"""))
        {
            using Stream stream = await response.Content.ReadAsStreamAsync(Token);
            await stream.ReadExactlyAsync(new byte[100], Token);
        }
        await server.AllBlocksFree();
        await server.MetricsWith("native_requests_total{outcome=\"cancelled\"} 1");
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public async Task ClientGone_QueuedOrInPrefill_IsForgotten_AndOthersGoOn(bool queued, bool stream)
    {
        ScriptedRunner runner = new(blocks: 40000, maxModelLength: 100000) { StepTime = TimeSpan.FromMilliseconds(1) };
        await using RunningServer server = await RunningServer.StartAsync(new() { MaxRunning = 1 }, runner);
        runner.Gate.Reset();
        Task<HttpResponseMessage>? other = queued ? server.Post(Completion, """{"prompt":"w"}""") : null;
        if (queued) await RunningServer.Until(() => runner.Steps > 0, "another is computed");
        int before = server.Engine.Queued; // the other may count until its step has ended

        string body = $$"""{"prompt":"A","max_tokens":90000,"stream":{{(stream ? "true" : "false")}}}""";
        using (TcpClient client = new())
        {
            await client.ConnectAsync(server.Server.HttpAddress.Host, server.Server.HttpAddress.Port, Token);
            await client.GetStream().WriteAsync(global::System.Text.Encoding.ASCII.GetBytes($"POST {Completion} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {body.Length}\r\n\r\n{body}"), Token);
            await RunningServer.Until(() => queued ? server.Engine.Queued > before : runner.Steps > 0, queued ? "it waits" : "its prefill has begun");
        }
        runner.Gate.Set();
        other ??= server.Post(Completion, """{"prompt":"w"}""");
        Assert.Contains("\"text\":\"xyz.\"", await (await other).Content.ReadAsStringAsync(Token));
        await server.AllBlocksFree();
        await server.MetricsWith("native_requests_total{outcome=\"cancelled\"} 1");
    }

    [Fact]
    public async Task ManyStreams_AThirdOfThemCancelled_LeaveEveryBlockFree()
    {
        await using RunningServer server = await RunningServer.StartAsync(runner: new ScriptedRunner(blocks: 300, maxModelLength: 400));
        await Task.WhenAll(Enumerable.Range(0, 64).Select(async i =>
        {
            using CancellationTokenSource gone = CancellationTokenSource.CreateLinkedTokenSource(Token);
            try
            {
                using AsyncServerStreamingCall<GenerateResponse> call = server.Inference.Generate(
                    new GenerateRequest { Text = "A", Sampling = new Native.V1.SamplingParams { MaxTokens = 100 } }, cancellationToken: gone.Token);
                int tokens = 0;
                await foreach (GenerateResponse e in call.ResponseStream.ReadAllAsync(gone.Token))
                {
                    if (e.Token is not null) tokens++;
                    if (i % 3 == 0 && tokens == 5 + i) gone.Cancel();
                }
                Assert.Equal(100, tokens);
            }
            catch (Exception e) when (gone.IsCancellationRequested && e is OperationCanceledException or RpcException)
            {
            }
        }));
        await server.AllBlocksFree();
    }

    [Fact]
    public async Task PortInUse_IsAnIOException()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        await Assert.ThrowsAsync<IOException>(() => NativeServer.StartAsync(new ServerOptions { Port = server.Server.HttpAddress.Port, GrpcPort = 0 }));
    }

    [Fact]
    public async Task HalfARequest_DoesNotDisturbOthers()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        using TcpClient half = new();
        await half.ConnectAsync(server.Server.HttpAddress.Host, server.Server.HttpAddress.Port, Token);
        await half.GetStream().WriteAsync("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"pro"u8.ToArray(), Token);
        await server.Ask(Completion, """{"prompt":"y"}""");
    }
}
