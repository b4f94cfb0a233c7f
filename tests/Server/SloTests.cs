using System.Globalization;
using System.Net;
using Grpc.Core;
using Microsoft.Extensions.Logging;
using Native.Scheduling.Slo;
using Native.Server;
using Native.Server.Slo;
using Native.Tests.Scheduling;
using Native.V1;

namespace Native.Tests.Server;

/// <summary>Error budgets as clients and operators see them.</summary>
public sealed class SloTests
{
    private static readonly ServerOptions Options = new()
    {
        Slo = new SloSpec([Objectives.Availability(), Objectives.Of(SliKind.E2e, 3600)]),
    };

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData("/v1/completions", """{"prompt":"x"}""", 1)]
    [InlineData("/v1/completions", """{"prompt":"x","stream":true}""", 1)]
    [InlineData("/v1/completions", """{"prompt":["x","y"],"n":2,"temperature":0}""", 2)]
    [InlineData("/v1/chat/completions", """{"messages":[{"role":"user","content":"x"}]}""", 1)]
    [InlineData("/v1/chat/completions", """{"messages":[{"role":"user","content":"x"}],"n":3,"stream":true}""", 1)]
    public async Task WhatEnds_IsGood_HoweverItIsAskedFor(string path, string body, int good)
    {
        await using RunningServer server = await RunningServer.StartAsync(Options);
        using HttpResponseMessage answer = await server.Post(path, body[..^1] + ",\"max_tokens\":3}");
        Assert.Equal(HttpStatusCode.OK, answer.StatusCode);
        await answer.Content.ReadAsStringAsync(Token);
        await Counts(server, good, 0);
    }

    [Fact]
    public async Task ACallThatExpires_IsBad_AndOneThatIsCancelledNeither_OverGrpcToo()
    {
        await using RunningServer server = await RunningServer.StartAsync(Options);
        GenerateRequest request = new() { Text = "A", Sampling = new SamplingParams { MaxTokens = 3 } };
        using (AsyncServerStreamingCall<GenerateResponse> served =
            server.Inference.Generate(request, cancellationToken: Token))
            while (await served.ResponseStream.MoveNext(Token)) { }
        await Counts(server, 1, 0);

        server.Runner.Gate.Reset();
        int steps = server.Runner.Steps;
        using (AsyncServerStreamingCall<GenerateResponse> late = server.Inference.Generate(
            request, deadline: DateTime.UtcNow.AddMilliseconds(300), cancellationToken: Token))
            await Assert.ThrowsAsync<RpcException>(() => late.ResponseStream.MoveNext(Token));
        await RunningServer.Until(() => server.Runner.Steps > steps, "it is computed");
        await Task.Delay(400, Token); // the server's own clock has the deadline behind it as well
        server.Runner.Gate.Set();
        await Counts(server, 1, 1);

        server.Runner.Gate.Reset();
        steps = server.Runner.Steps;
        using (AsyncServerStreamingCall<GenerateResponse> cancelled =
            server.Inference.Generate(request, cancellationToken: Token))
            await RunningServer.Until(() => server.Runner.Steps > steps, "it is computed");
        await Task.Delay(100, Token);
        server.Runner.Gate.Set();
        await server.AllBlocksFree();
        await Counts(server, 1, 1);
    }

    [Fact]
    public async Task AFullQueueAndAFailure_AreBad_AndBadInputIsNeither()
    {
        await using RunningServer server =
            await RunningServer.StartAsync(Options with { MaxQueued = 1, MaxRunning = 1 });
        foreach (string body in (string[])["""{"prompt":"A","temperature":-1}""", "{", """{"prompt":[]}"""])
        {
            using HttpResponseMessage invalid = await server.Post("/v1/completions", body);
            Assert.Equal(HttpStatusCode.BadRequest, invalid.StatusCode);
        }
        using (HttpResponseMessage failed = await server.Post("/v1/completions", """{"prompt":"!"}"""))
            Assert.Equal(HttpStatusCode.InternalServerError, failed.StatusCode);
        await Counts(server, 0, 1);

        server.Runner.Gate.Reset();
        Task<HttpResponseMessage>[] all =
            [.. Enumerable.Range(0, 5).Select(_ => server.Post("/v1/completions", """{"prompt":"y"}"""))];
        Assert.Equal(HttpStatusCode.TooManyRequests, (await await Task.WhenAny(all)).StatusCode);
        server.Runner.Gate.Set();
        HttpResponseMessage[] answers = await Task.WhenAll(all);
        int refused = answers.Count(answer => answer.StatusCode == HttpStatusCode.TooManyRequests);
        await Counts(server, 5 - refused, 1 + refused);
    }

    [Fact]
    public async Task Metrics_TellBudgetsAndBurnRates()
    {
        await using RunningServer server = await RunningServer.StartAsync(Options with { VllmMetrics = true });
        for (int i = 0; i < 3; i++) await server.Ask("/v1/completions", """{"prompt":"y"}""");
        using (HttpResponseMessage failed = await server.Post("/v1/completions", """{"prompt":"!"}"""))
            await failed.Content.ReadAsStringAsync(Token);
        string text = await server.MetricsWith("native_slo_bad_total{slo=\"answered\"} 1");
        Assert.Contains("native_slo_good_total{slo=\"answered\"} 3\n", text);
        Assert.Contains("native_slo_good_total{slo=\"e2e\"} 3\n", text);
        Assert.Contains("native_slo_objective_ratio{slo=\"answered\"} 0.999\n", text);
        Assert.Equal(1 - 250, Value(text, "native_slo_budget_remaining_ratio{slo=\"answered\"}"), 1e-9);
        foreach (string window in (string[])["5m", "30m", "1h", "2h", "6h", "1d", "3d"])
            Assert.Equal(25, Value(text, $"native_slo_burn_rate{{slo=\"e2e\",window=\"{window}\"}}"), 1e-9);
        Assert.Contains("native_slo_alert{slo=\"answered\",severity=\"page\"} 0\n", text); // one bad request
        await using RunningServer without = await RunningServer.StartAsync();
        Assert.DoesNotContain("native_slo_good_total{", await without.Metrics());
    }

    [Fact]
    public async Task Budgets_OutliveTheServer()
    {
        string path = Path.Combine(Path.GetTempPath(), $"native-slo-{Guid.NewGuid():N}");
        ServerOptions options = Options with { SloState = path };
        try
        {
            await using (RunningServer server = await RunningServer.StartAsync(options, load: false))
            {
                server.Server.KeepBudgets();
                server.Load();
                await server.Ask("/v1/completions", """{"prompt":"y"}""");
                await server.AllBlocksFree();
            }
            await using RunningServer again = await RunningServer.StartAsync(options, load: false);
            again.Server.KeepBudgets();
            again.Load();
            Assert.Equal(new BudgetCounts(1, 0), again.Engine.Metrics.Budgets!.Read(0, BudgetWindow.Period));
            Assert.Contains("native_slo_good_total{slo=\"answered\"} 0\n", await again.Metrics());
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Fact]
    public async Task AStateThatCantBeKept_EndsTheStart_AndNamesTheOptionAndThePath()
    {
        string folder = Directory.CreateTempSubdirectory("native-slo-").FullName;
        try
        {
            string missing = Path.Combine(folder, "nodir"), foreign = Path.Combine(folder, "foreign");
            File.WriteAllText(foreign, "slos:");
            (string, string)[] refused =
            [
                (Path.Combine(missing, "x.state"),
                    $"--slo-state: the error budgets can't be kept in '{missing}/x.state': the folder {missing} "
                        + "is missing."),
                (folder, $"--slo-state: the error budgets can't be kept in '{folder}': it is a folder, not a file."),
                (foreign, $"--slo-state: {foreign} is there and is no SLO state of this version; it is left as it is. "
                    + "Name another file."),
            ];
            foreach ((string path, string expected) in refused)
            {
                await using RunningServer server =
                    await RunningServer.StartAsync(Options with { SloState = path }, load: false);
                Assert.Equal(expected, ModelLoading.Load(server.Server));
            }
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Fact]
    public void ASaveThatFails_IsWarnedOf_WithTheOptionAndThePath()
    {
        string folder = Directory.CreateTempSubdirectory("native-slo-").FullName;
        string path = Path.Combine(folder, "x.state");
        Sentences log = new();
        using (new BudgetKeeper(path, new BudgetLedger(Options.Slo!), log)) Directory.Delete(folder, recursive: true);
        Assert.StartsWith($"--slo-state: the error budgets can't be saved in '{path}': ", Assert.Single(log.Said));
    }

    [Fact]
    public void TheCommandLine_ReadsObjectives_AndTellsTheirMistakesBesideOthers()
    {
        string path = Path.GetTempFileName();
        try
        {
            File.WriteAllText(path, SloFile.Example);
            Assert.Null(CommandLine.Parse(
                ["--slo", path, "--slo-state", "state"], TextWriter.Null, TextWriter.Null, out ServerOptions options));
            Assert.Equal(("state", 2), (options.SloState, options.Slo!.Objectives.Count));
            File.WriteAllText(path, SloFile.Example.Replace("sli:", "sly:"));
            using StringWriter error = new();
            Assert.Equal(CommandLine.Misused,
                CommandLine.Parse(["--slo", path, "--port", "99999"], TextWriter.Null, error, out _));
            Assert.Contains("--port is 99999", error.ToString());
            Assert.Contains($"--slo: {path}, line 3, column 5: 'sly' is no key here", error.ToString());
            using StringWriter alone = new();
            Assert.Equal(CommandLine.Misused, CommandLine.Parse(["--slo-state", "x"], TextWriter.Null, alone, out _));
            Assert.Contains("--slo-state is given without --slo", alone.ToString());
        }
        finally
        {
            File.Delete(path);
        }
    }

    /// <summary>Both objectives have these counts, now and a moment later.</summary>
    private static async Task Counts(RunningServer server, int good, int bad)
    {
        await server.AllBlocksFree();
        BudgetLedger budgets = server.Engine.Metrics.Budgets!;
        BudgetCounts expected = new(good, bad);
        await RunningServer.Until(() => budgets.ReadSinceStart(0) == expected,
            $"{expected} are counted, {budgets.ReadSinceStart(0)}");
        await Task.Delay(50, Token);
        Assert.Equal((expected, expected), (budgets.ReadSinceStart(0), budgets.ReadSinceStart(1)));
    }

    private static double Value(string text, string series) => double.Parse(
        text.Split('\n').Single(line => line.StartsWith(series + " ", StringComparison.Ordinal)).Split(' ')[^1],
        CultureInfo.InvariantCulture);

    /// <summary>A log that keeps what it is told.</summary>
    private sealed class Sentences : ILogger
    {
        public List<string> Said { get; } = [];

        public IDisposable? BeginScope<TState>(TState state) where TState : notnull => null;

        public bool IsEnabled(LogLevel logLevel) => true;

        public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception,
            Func<TState, Exception?, string> formatter) => Said.Add(formatter(state, exception));
    }
}
