using System.Globalization;
using System.Net;
using System.Text;
using System.Text.RegularExpressions;
using Grpc.Core;
using Native.Scheduling;
using Native.V1;
using ServiceLevel = Native.Server.Serving.ServiceLevel;

namespace Native.Tests.Server;

/// <summary>When callers say when tokens are due, by headers, metadata and fields, over both protocols.</summary>
public sealed class ServiceLevelTests
{
    private const string Completion = "/v1/completions";

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData("x-llm-d-slo-ttft-ms"), InlineData("x-slo-ttft-ms"), InlineData(null)]
    public async Task WhoWouldBeLate_Gets429_WithATimeToTryAgain(string? header)
    {
        await using Busy busy = await Busy.StartAsync();
        RunningServer server = busy.Server;
        string slo = header is null ? ",\"slo\":{\"ttft_ms\":50}" : "";
        string body = "{\"prompt\":\"y\",\"max_tokens\":1" + slo + "}";
        using HttpResponseMessage late = await Ask(server, body, header, "50");
        string text = await late.Content.ReadAsStringAsync(Token);
        Assert.True(late.StatusCode == HttpStatusCode.TooManyRequests, text);
        Assert.Contains("would_be_late", text);
        Assert.Matches(@"The first token is expected in about \d+\.\d\d s and due in 0\.05 s \(forecasts scatter: "
            + @"0\.\d\d s would do\); the prompt alone takes about 0\.\d\d s", text);
        Assert.True(late.Headers.RetryAfter?.Delta >= TimeSpan.FromSeconds(1));
        Assert.Equal(["rejected-saturated"], late.Headers.GetValues("x-llm-d-request-dropped-reason"));
        Assert.Contains("native_requests_total{outcome=\"would_be_late\"} 1\n", await server.Metrics());
    }

    [Fact]
    public async Task OverGrpc_ItIsResourceExhausted_ByMetadataAndByField_AndBestEffortIsTaken()
    {
        await using Busy busy = await Busy.StartAsync();
        RunningServer server = busy.Server;
        GenerateRequest plain = new() { Text = "y", Sampling = new() { MaxTokens = 1 } };
        GenerateRequest byField = plain.Clone();
        byField.ServiceLevel = new() { TtftMs = 50 };
        await AssertLate(byField, []);
        await AssertLate(plain, new Metadata { { "x-llm-d-slo-ttft-ms", "50" } });
        byField.ServiceLevel.BestEffort = true;
        using AsyncServerStreamingCall<GenerateResponse> taken =
            server.Inference.Generate(byField, cancellationToken: Token);
        busy.Free();
        Assert.True(await taken.ResponseStream.MoveNext(Token));

        async Task AssertLate(GenerateRequest request, Metadata metadata)
        {
            using AsyncServerStreamingCall<GenerateResponse> call =
                server.Inference.Generate(request, metadata, cancellationToken: Token);
            RpcException late =
                await Assert.ThrowsAsync<RpcException>(async () => await call.ResponseStream.MoveNext(Token));
            Assert.Equal(StatusCode.ResourceExhausted, late.StatusCode);
            string pushback = late.Trailers.GetValue("grpc-retry-pushback-ms")!;
            Assert.True(int.Parse(pushback, CultureInfo.InvariantCulture) >= 100);
            Assert.Equal("rejected-saturated", late.Trailers.GetValue("x-llm-d-request-dropped-reason"));
        }
    }

    [Theory]
    [InlineData("soon"), InlineData("-1"), InlineData("NaN"), InlineData("0"), InlineData("1e12"), InlineData("")]
    public async Task AHeaderThatIsNoTime_IsIgnored(string value)
    {
        await using Busy busy = await Busy.StartAsync();
        RunningServer server = busy.Server;
        Metadata metadata = new() { { "x-llm-d-slo-ttft-ms", value }, { "x-llm-d-slo-tpot-ms", value } };
        using AsyncServerStreamingCall<GenerateResponse> call = server.Inference.Generate(
            new() { Text = "y", Sampling = new() { MaxTokens = 1 } }, metadata, cancellationToken: Token);
        const string Body = "{\"prompt\":\"y\",\"max_tokens\":1}";
        Task<HttpResponseMessage> answer = Ask(server, Body, "x-llm-d-slo-ttft-ms", value);
        busy.Free();
        using HttpResponseMessage response = await answer;
        Assert.Equal(HttpStatusCode.OK, response.StatusCode);
        Assert.True(await call.ResponseStream.MoveNext(Token));
    }

    [Theory, InlineData("50", "60000", false), InlineData("60000", "50", true), InlineData("soon", "50", false)]
    public void TheNewName_OutranksTheOld_WhereItCanBeRead(string newName, string oldName, bool isNew)
    {
        ServiceLevel level = ServiceLevel.OfHeaders(name =>
            name.StartsWith("x-llm-d-slo-", StringComparison.Ordinal) ? newName : oldName);
        Assert.Equal(isNew ? 60000 : 50, level.Ttft!.Value.TotalMilliseconds);
        Assert.Equal(level.Ttft, level.Tpot);
    }

    [Theory]
    [InlineData("\"slo\":{\"ttft_ms\":0}", "slo.ttft_ms")]
    [InlineData("\"slo\":{\"tpot_ms\":1e12}", "slo.tpot_ms")]
    [InlineData("\"slo\":{\"tpot_ms\":1e308}", "slo.tpot_ms", "1E+308")]
    [InlineData("\"slo\":{\"ttft_ms\":-1e-300}", "slo.ttft_ms", "-1E-300")]
    [InlineData("\"temperature\":1e308", "temperature", "1e308")]
    [InlineData("\"slo\":{\"class\":\"first\"}", "slo.class")]
    [InlineData("\"slo\":7", "slo")]
    [InlineData("\"slo\":{\"ttft\":5}", "slo.ttft", "'slo' has ttft_ms, tpot_ms, best_effort, class")]
    [InlineData("\"priority\":1.5", "priority")]
    [InlineData("\"priority\":\"high\"", "priority")]
    public async Task WhatIsNoServiceLevel_IsRefusedByName(string value, string param, string quoted = "")
    {
        await using RunningServer server = await RunningServer.StartAsync();
        using HttpResponseMessage response = await Ask(server, "{\"prompt\":\"y\"," + value + "}", null, value);
        Assert.Equal(HttpStatusCode.BadRequest, response.StatusCode);
        string body = await response.Content.ReadAsStringAsync(Token);
        Assert.Contains($"\"param\":\"{param}\"", body);
        Assert.Contains(quoted, Regex.Unescape(body));
    }

    [Theory, InlineData(1e-300), InlineData(double.Epsilon)]
    public void TheShortestTime_IsATick(double milliseconds) =>
        Assert.Equal(1, ServiceLevel.Milliseconds(milliseconds, "slo.ttft_ms").Ticks);

    [Fact]
    public async Task AllOfIt_IsTaken()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        const string Body = "{\"prompt\":\"y\",\"max_tokens\":1,\"priority\":-3,\"slo\":"
            + "{\"ttft_ms\":5000,\"tpot_ms\":99.5,\"best_effort\":true,\"class\":\"batch\"}}";
        using HttpResponseMessage response = await Ask(server, Body, "x-slo-tpot-ms", "70");
        Assert.Equal(HttpStatusCode.OK, response.StatusCode);
    }

    private static async Task<HttpResponseMessage> Ask(RunningServer server, string body, string? header, string value)
    {
        using HttpRequestMessage request = new(HttpMethod.Post, Completion);
        request.Content = new StringContent(body, Encoding.UTF8, "application/json");
        if (header is not null) request.Headers.TryAddWithoutValidation(header, value);
        return await server.Http.SendAsync(request, Token);
    }

    /// <summary>A server whose only place is taken, with one more who waits for it.</summary>
    private sealed record Busy(RunningServer Server, TokenStream[] Streams) : IAsyncDisposable
    {
        public static async Task<Busy> StartAsync()
        {
            ScriptedRunner runner = new() { StepTime = TimeSpan.FromMilliseconds(20) };
            RunningServer server = await RunningServer.StartAsync(new() { MaxRunning = 1 }, runner);
            TokenStream[] streams = [.. Enumerable.Range(0, 2).Select(_ =>
            {
                GenerationRequest request = new()
                {
                    Ids = new int[] { 'A' },
                    Sampling = new Native.Scheduling.SamplingParams { MaxTokens = 200 },
                };
                Assert.Equal(SubmitOutcome.Accepted, server.Engine.Submit(request, out TokenStream? stream));
                return stream!;
            })];
            while (server.Engine.Metrics.GeneratedTokens < 10) await Task.Delay(20, Token);
            return new Busy(server, streams);
        }

        public void Free() => Array.ForEach(Streams, stream => stream.Dispose());

        public ValueTask DisposeAsync()
        {
            Free();
            return Server.DisposeAsync();
        }
    }
}
