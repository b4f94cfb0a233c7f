using System.Diagnostics;
using System.Net;
using System.Text;
using System.Text.Json;
using Native.Server.Http;

namespace Native.Tests.Server;

/// <summary>Deadlines that HTTP clients and gateways send as headers.</summary>
public sealed class DeadlineTests
{
    private const string Completion = "/v1/completions";
    private const string Chat = "/v1/chat/completions";
    private const string Header = "x-request-timeout-ms";

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData("x-request-timeout: 2", 2.0, 2.0)]
    [InlineData("x-request-timeout: 0.25", 0.25, 0.25)]
    [InlineData("x-request-timeout-ms: 1500", 1.5, 1.5)]
    [InlineData("x-envoy-expected-rq-timeout-ms: 15000", 15.0, null)] // Envoy's: it may be until the head
    [InlineData("x-stainless-read-timeout: 0.5", 0.5, null)] // Python's clients: until the next byte
    [InlineData("x-stainless-timeout: 600", 601.0, null)] // JavaScript's: until the head, whole seconds
    [InlineData("x-request-timeout: 9; x-envoy-expected-rq-timeout-ms: 4000; x-stainless-timeout: 5", 4.0, 9.0)]
    [InlineData("x-request-timeout: soon; x-stainless-timeout: NOT_GIVEN", null, null)]
    [InlineData("x-request-timeout: 0; x-request-timeout-ms: -5; x-stainless-timeout: 0", null, null)]
    [InlineData("x-request-timeout: NaN; x-request-timeout-ms: 1e400", null, null)]
    [InlineData("", null, null)]
    public void Headers_TellHowLongAClientWaits(string headers, double? whole, double? streamed)
    {
        Dictionary<string, string> given = headers.Split("; ", StringSplitOptions.RemoveEmptyEntries)
            .Select(header => header.Split(": ")).ToDictionary(pair => pair[0], pair => pair[1]);
        const long Arrival = 1000;
        foreach ((bool streams, double? expected) in (ReadOnlySpan<(bool, double?)>)[(false, whole), (true, streamed)])
        {
            long? deadline = ClientDeadline.Of(given.GetValueOrDefault, Arrival, streams);
            Assert.Equal(expected, (deadline - Arrival) / (double?)Stopwatch.Frequency);
        }
    }

    [Theory]
    [InlineData(Completion, false, false), InlineData(Chat, false, false), InlineData(Completion, false, true)]
    [InlineData(Completion, true, true), InlineData(Chat, true, true)]
    public async Task InTheQueueOrBeforeTheFirstByte_Is504_AndFreesEverything(string path, bool streams, bool queued)
    {
        await using RunningServer server = await RunningServer.StartAsync(new() { MaxRunning = 1 });
        server.Runner.Gate.Reset();
        Task<HttpResponseMessage>? other = queued ? server.Post(Completion, """{"prompt":"w"}""") : null;
        if (queued) await RunningServer.Until(() => server.Runner.Steps > 0, "another is computed");
        Task<HttpResponseMessage> ask = Ask(server, path, streams, 200, max: 100);
        await RunningServer.Until(
            () => queued ? server.Engine.Queued > 1 : server.Runner.Steps > 0, "it waits, or is computed");
        await Task.Delay(400, Token);
        server.Runner.Gate.Set();
        using HttpResponseMessage late = await ask;
        string text = await late.Content.ReadAsStringAsync(Token);
        Assert.True(late.StatusCode == HttpStatusCode.GatewayTimeout, text);
        Assert.Contains("deadline_exceeded", text);
        string[] reason = [queued ? "rejected-ttl-expired" : "evicted"];
        Assert.Equal(reason, late.Headers.GetValues("x-llm-d-request-dropped-reason"));
        if (other is not null) Assert.Equal(HttpStatusCode.OK, (await other).StatusCode);
        await server.MetricsWith("native_requests_total{outcome=\"deadline\"} 1");
    }

    [Theory, InlineData(Completion), InlineData(Chat)]
    public async Task MidStream_IsAnErrorEvent_AndFreesEverything(string path)
    {
        ScriptedRunner runner = new() { StepTime = TimeSpan.FromMilliseconds(20) };
        await using RunningServer server = await RunningServer.StartAsync(runner: runner);
        using HttpResponseMessage response = await Ask(server, path, streams: true, milliseconds: 1000, max: 200);
        Assert.Equal(HttpStatusCode.OK, response.StatusCode);
        string[] events = (await response.Content.ReadAsStringAsync(Token)).Split("\n\n");
        Assert.Equal(["data: [DONE]", ""], events[^2..]);
        JsonElement error = JsonSerializer.Deserialize<JsonElement>(events[^3]["data: ".Length..]).GetProperty("error");
        Assert.Equal("timeout_error", error.GetProperty("type").GetString());
        Assert.Equal("deadline_exceeded", error.GetProperty("code").GetString());
        await server.MetricsWith("native_requests_total{outcome=\"deadline\"} 1");
    }

    [Theory, InlineData(Completion), InlineData(Chat)]
    public async Task WhoseFirstTokenWouldComeLater_IsRefusedAtTheDoor(string path)
    {
        ScriptedRunner runner = new() { StepTime = TimeSpan.FromMilliseconds(20) };
        await using RunningServer server = await RunningServer.StartAsync(new() { MaxRunning = 1 }, runner);
        Task<HttpResponseMessage>[] others =
            [.. Enumerable.Range(0, 2).Select(_ => Ask(server, Completion, streams: false, 60_000, max: 200))];
        await RunningServer.Until(() => server.Engine.Metrics.GeneratedTokens > 10, "one is computed, one waits");
        using HttpResponseMessage refused = await Ask(server, path, streams: true, milliseconds: 300, max: 1);
        Assert.Equal(HttpStatusCode.TooManyRequests, refused.StatusCode);
        Assert.NotNull(refused.Headers.RetryAfter);
        Assert.Contains("would_be_late", await refused.Content.ReadAsStringAsync(Token));
        foreach (HttpResponseMessage other in await Task.WhenAll(others))
            Assert.Equal(HttpStatusCode.OK, other.StatusCode);
    }

    private static Task<HttpResponseMessage> Ask(
        RunningServer server, string path, bool streams, int milliseconds, int max)
    {
        string prompt = path == Chat
            ? "\"messages\":[{\"role\":\"user\",\"content\":\"A\"}]" : "\"prompt\":\"A\"";
        string stream = streams ? "true" : "false";
        HttpRequestMessage request = new(HttpMethod.Post, path);
        string body = $$"""{ {{prompt}},"max_tokens":{{max}},"ignore_eos":true,"stream":{{stream}}}""";
        request.Content = new StringContent(body, Encoding.UTF8, "application/json");
        request.Headers.Add(Header, $"{milliseconds}");
        return server.Http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, Token);
    }
}
