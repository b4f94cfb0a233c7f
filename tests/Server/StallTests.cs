using System.Diagnostics;
using System.Net;
using Grpc.Core;
using Grpc.Health.V1;
using Native.Server;
using Native.V1;
using static Grpc.Health.V1.HealthCheckResponse.Types;

namespace Native.Tests.Server;

/// <summary>A step that does not come back: every way to ask for the server's health says so, and which step.</summary>
public sealed class StallTests
{
    private static readonly ServerOptions Quick = new() { StallAfter = TimeSpan.FromSeconds(0.5) };

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Theory, InlineData(true), InlineData(false)]
    public async Task AStalledStep_FlipsEveryHealth_AndIsNamed_UntilItComesBack(bool collects)
    {
        await using RunningServer server = await RunningServer.StartAsync(Quick);
        await server.Ask("/v1/completions", """{"prompt":"A","max_tokens":24}"""); // now it is known what steps take
        Health.HealthClient health = new(server.Channel);
        using AsyncServerStreamingCall<HealthCheckResponse> watch =
            health.Watch(new HealthCheckRequest(), cancellationToken: Token);
        Assert.Equal(ServingStatus.Serving, await Next(watch));
        long before = server.Engine.Metrics.Steps;

        ManualResetEventSlim gate = collects ? server.Runner.CollectGate : server.Runner.Gate;
        gate.Reset();
        Task<HttpResponseMessage> stuck = server.Post("/v1/completions", """{"prompt":"abcdefg","max_tokens":1}""");
        Assert.Equal(ServingStatus.NotServing, await Next(watch));
        HealthCheckResponse check = await health.CheckAsync(new HealthCheckRequest(), cancellationToken: Token);
        Assert.Equal(ServingStatus.NotServing, check.Status);
        foreach (string path in (string[])["/healthz", "/readyz", "/health"])
        {
            using HttpResponseMessage response = await server.Http.GetAsync(path, Token);
            Assert.Equal(HttpStatusCode.ServiceUnavailable, response.StatusCode);
            string text = await response.Content.ReadAsStringAsync(Token);
            Assert.Matches(
                $"^stalled: step {before + 1} has run for [0-9.]+ s, where [0-9.]+ ms were expected; "
                    + "1 sequences, 7 prefill tokens, 0 decodes\\.\n$", text);
        }
        string metrics = await server.Metrics();
        Assert.Contains("native_step_running_seconds ", metrics);
        Assert.DoesNotContain("native_step_running_seconds 0\n", metrics);

        gate.Set();
        Assert.Equal(HttpStatusCode.OK, (await stuck).StatusCode);
        Assert.Equal(ServingStatus.Serving, await Next(watch));
        Assert.Equal("ok\n", await server.Http.GetStringAsync("/healthz", Token));
        Assert.Equal("ready\n", await server.Http.GetStringAsync("/readyz", Token));
    }

    [Fact]
    public async Task TheFirstSteps_MayTakeLonger_BecauseNobodyKnowsWhatTheyTake()
    {
        await using RunningServer server = await RunningServer.StartAsync(Quick);
        server.Runner.Gate.Reset();
        Task<HttpResponseMessage> slow = server.Post("/v1/completions", """{"prompt":"y","max_tokens":1}""");
        await RunningServer.Until(() => server.Runner.Steps > 0, "it is computed");
        await Task.Delay(3 * Quick.StallAfter, Token);
        Assert.Equal("ok\n", await server.Http.GetStringAsync("/healthz", Token));
        server.Runner.Gate.Set();
        Assert.Equal(HttpStatusCode.OK, (await slow).StatusCode);
    }

    [Fact]
    public async Task AStepExpectedToTakeLong_IsNoStall()
    {
        ScriptedRunner runner = new() { StepTime = TimeSpan.FromSeconds(0.2) };
        await using RunningServer server = await RunningServer.StartAsync(Quick, runner);
        await server.Ask("/v1/completions", """{"prompt":"A","max_tokens":18}""");
        runner.Gate.Reset();
        Task<HttpResponseMessage> slow = server.Post("/v1/completions", """{"prompt":"y","max_tokens":1}""");
        await RunningServer.Until(() => server.Engine.RunningStep is not null, "it is computed");
        await Task.Delay(2 * Quick.StallAfter, Token); // less than ten times 0.2 s
        Assert.Equal("ok\n", await server.Http.GetStringAsync("/healthz", Token));
        runner.Gate.Set();
        Assert.Equal(HttpStatusCode.OK, (await slow).StatusCode);
    }

    [Fact]
    public async Task Metrics_AreAnswered_WhileAStepHangsAndRequestsWait()
    {
        await using RunningServer server = await RunningServer.StartAsync(Quick);
        await server.Metrics(); // compiled now
        server.Runner.Gate.Reset();
        Task<HttpResponseMessage>[] waiting = [.. Enumerable.Range(0, 200).Select(_ =>
            server.Post("/v1/completions", """{"prompt":"y","max_tokens":1}"""))];
        await RunningServer.Until(() => server.Engine.Queued > 150, "they wait");
        long start = Stopwatch.GetTimestamp();
        for (int i = 0; i < 20; i++) Assert.Contains("native_requests_waiting", await server.Metrics());
        TimeSpan each = Stopwatch.GetElapsedTime(start) / 20;
        Assert.True(each < TimeSpan.FromSeconds(1), $"/metrics took {each} while a step hung");
        server.Runner.Gate.Set();
        foreach (HttpResponseMessage response in await Task.WhenAll(waiting))
            Assert.Equal(HttpStatusCode.OK, response.StatusCode);
    }

    private static async Task<ServingStatus> Next(AsyncServerStreamingCall<HealthCheckResponse> watch)
    {
        Assert.True(await watch.ResponseStream.MoveNext(Token));
        return watch.ResponseStream.Current.Status;
    }
}
