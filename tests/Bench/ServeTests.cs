using System.Diagnostics;
using System.Text.Json;
using System.Xml.Linq;
using Native.Bench.Serve;
using Native.Tests.Server;
using Native.Tools;
using static Native.Tests.Bench.BenchRun;

namespace Native.Tests.Bench;

/// <summary><c>serve</c> against servers in this process. What is asserted of times follows from what must come before
/// what, or has no upper end.</summary>
public sealed class ServeTests
{
    private const double TimerSlack = 0.02; // timers ring early by their resolution

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Counts_AreExact()
    {
        await using FakeServer server = await FakeServer.StartAsync(_ => new FakeAnswer { Tokens = 5 });
        (int exit, JsonElement result, string output, string error) = await Serve(server.Url, "--num-prompts", "12", "--num-warmups", "2", "--max-concurrency", "3");
        Assert.Equal((Cli.Success, ""), (exit, error));
        Assert.Equal((12, 0), (Int(result, "completed"), Int(result, "failed")));
        Assert.Equal((12 * 7, 12 * 6), (Int(result, "total_input_tokens"), Int(result, "total_output_tokens"))); // as the server told
        Assert.All(result.GetProperty("itls").EnumerateArray(), itls => Assert.Equal(4, itls.GetArrayLength()));
        Assert.Equal("fake-model", result.GetProperty("model_id").GetString());
        Assert.Equal(14, server.Bodies.Count); // the warm-ups are sent but not counted
        Assert.Contains("Successful requests:                     12        ", Lines(output));
        Assert.Contains("Maximum request concurrency:             3         ", Lines(output));
    }

    [Fact]
    public async Task HeadersAndMembers_GoWithEveryRequest()
    {
        await using FakeServer server = await FakeServer.StartAsync();
        await Serve(server.Url, "--num-prompts", "2", "--header", "X-Team=a=b", "authorization=Bearer k",
            "--extra-body", "{\"slo\":{\"class\":\"batch\"}}");
        Assert.All(server.Headers, headers => Assert.Equal(("a=b", "Bearer k"),
            (headers["x-team"].ToString(), headers.Authorization.ToString())));
        Assert.All(server.Bodies, body =>
            Assert.Equal("batch", body.GetProperty("slo").GetProperty("class").GetString()));
        string[][] wrong = [["--header", "no value"], ["--extra-body", "[1]"], ["--extra-body", "{"],
            ["--extra-body", "{}", "--api", "grpc"], ["--header", "a=\n"]];
        foreach (string[] options in wrong)
        {
            (int exit, _, string error) = await Run(["serve", "--url", server.Url.ToString(), .. options]);
            Assert.Equal(2, exit);
            Assert.Contains(options[0], error);
        }
        Assert.Equal("Bearer sk", ServeCommand.Headers([], "sk")["authorization"]);
        Assert.Equal("Bearer own", ServeCommand.Headers(["Authorization=Bearer own"], "sk")["authorization"]);
        Assert.Empty(ServeCommand.Headers([], ""));
    }

    [Fact]
    public async Task WhereTheServerTellsNoUsage_PiecesAreCounted()
    {
        await using FakeServer server = await FakeServer.StartAsync(_ => new FakeAnswer { Tokens = 5, TellsUsage = false });
        (_, JsonElement result, _, _) = await Serve(server.Url, "--num-prompts", "4");
        Assert.Equal(20, Int(result, "total_output_tokens"));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Latencies_HoldWhatTheServerTook(bool chat)
    {
        await using FakeServer server = await FakeServer.StartAsync(_ => new FakeAnswer { Tokens = 4, BeforeFirst = TimeSpan.FromMilliseconds(200), Between = TimeSpan.FromMilliseconds(50) });
        using OpenAiClient client = new(server.Url, chat, "m", ignoreEos: false);
        long before = Stopwatch.GetTimestamp();
        (RequestRecord[] records, double duration) = await new LoadGenerator(client, TimeProvider.System) { MaxConcurrency = 1 }.ClosedLoopAsync(Some(3), null, Token);
        double outside = Stopwatch.GetElapsedTime(before).TotalSeconds;
        for (int i = 0; i < records.Length; i++)
        {
            // Sent before it was received, read after it was written: what was measured can't be less than what the
            // server saw.
            (long received, List<long> written) = server.Log[i];
            double first = Stopwatch.GetElapsedTime(received, written[0]).TotalSeconds, last = Stopwatch.GetElapsedTime(received, written[^1]).TotalSeconds;
            RequestRecord record = records[i];
            Assert.True(first >= 0.2 - TimerSlack, "a chat's opening is no token"); // of the fake server itself
            Assert.InRange(record.Ttft, first, duration);
            Assert.InRange(record.E2el, last, duration);
            Assert.Equal(4, record.TokenTimes.Count);
            Assert.Equal(record.E2el - record.Ttft, record.Itls.Sum(), 1e-9);
            Assert.Equal(record.E2el - record.Ttft, record.Tpot * (record.OutputTokens - 1), 1e-9);
        }
        Assert.InRange(duration, 3 * (0.35 - TimerSlack), outside);
    }

    [Fact]
    public async Task AServerThatStalls_ShowsItInOpenLoop()
    {
        const double stall = 0.8;
        await using FakeServer server = await FakeServer.StartAsync(i => new FakeAnswer { BeforeFirst = i == 0 ? TimeSpan.FromSeconds(stall) : TimeSpan.Zero });
        using OpenAiClient client = new(server.Url, chat: false, "m", ignoreEos: false);
        double[] intended = Arrivals.Steady(8, 20, double.PositiveInfinity, new Random(0)); // all of them within 0.4 s
        (RequestRecord[] records, double duration) = await new LoadGenerator(client, TimeProvider.System) { MaxConcurrency = 1 }.OpenLoopAsync(Some(8), intended, null, Token);
        Assert.Equal(intended, records.Select(record => record.Start));
        // Nothing behind the first can be answered before it, whose answer takes the stall; each has waited since it
        // was to be sent.
        double answered = intended[0] + stall - TimerSlack;
        Assert.All(records, record => Assert.True(record.Ttft >= answered - record.Start, $"{record.Ttft} s from {record.Start} s"));
        ServingResult result = new(records, duration, null);
        Assert.True(result.Ttft.Median >= stall / 2, $"half of the requests waited for half of the stall, the median is {result.Ttft.Median} s");
    }

    [Fact]
    public async Task OpenLoop_DoesNotWaitForAnswers()
    {
        TaskCompletionSource gate = new(TaskCreationOptions.RunContinuationsAsynchronously);
        await using FakeServer server = await FakeServer.StartAsync(i =>
        {
            if (i == 5) gate.SetResult();
            return new FakeAnswer { Until = gate.Task };
        });
        using OpenAiClient client = new(server.Url, chat: false, "m", ignoreEos: false);
        // Nobody is answered until all six have come.
        (RequestRecord[] records, _) = await new LoadGenerator(client, TimeProvider.System).OpenLoopAsync(Some(6), Arrivals.Steady(6, 100, 1, new Random(0)), null, Token);
        Assert.All(records, record => Assert.True(record.Succeeded, record.Error));
        Assert.All(records, record => Assert.True(record.Sent >= record.Start));
        Assert.Equal(6, server.PeakRunning);
    }

    [Fact]
    public async Task ClosedLoop_KeepsItsConcurrency()
    {
        TaskCompletionSource gate = new(TaskCreationOptions.RunContinuationsAsynchronously);
        await using FakeServer server = await FakeServer.StartAsync(i =>
        {
            if (i == 3) gate.SetResult(); // the fourth comes while three wait
            return new FakeAnswer { Until = gate.Task };
        });
        using OpenAiClient client = new(server.Url, chat: false, "m", ignoreEos: false);
        (RequestRecord[] records, double duration) = await new LoadGenerator(client, TimeProvider.System) { MaxConcurrency = 4 }.ClosedLoopAsync(Some(20), null, Token);
        Assert.Equal(4, server.PeakRunning);
        Assert.Equal(4, new ServingResult(records, duration, null).PeakConcurrentRequests);
        Assert.All(records, record => Assert.Equal(record.Sent, record.Start));
    }

    [Fact]
    public async Task FailedRequests_AreCounted_AndTold()
    {
        await using FakeServer server = await FakeServer.StartAsync(i => i switch
        {
            2 => new FakeAnswer { Status = 503 },
            3 => new FakeAnswer { Ending = "data: {\"error\":{\"message\":\"out of memory\"}}\n\n" },
            4 => new FakeAnswer { Ending = "data: {\"choi" },
            5 => new FakeAnswer { Ending = "" },
            _ => new FakeAnswer(),
        });
        (int exit, JsonElement result, _, string error) = await Serve(server.Url, "--num-prompts", "8", "--num-warmups", "0", "--goodput", "ttft:100000", "tpot:100000");
        Assert.Equal(Cli.Success, exit);
        Assert.Equal((4, 4), (Int(result, "completed"), Int(result, "failed")));
        Assert.Equal(4 * 4, Int(result, "total_output_tokens"));
        Assert.Equal(4 / result.GetProperty("duration").GetDouble(), result.GetProperty("request_goodput").GetDouble(), 1e-9);
        string[] told = Lines(error);
        Assert.Equal(4, told.Length);
        Assert.Contains(told, line => line.Contains("HTTP 503", StringComparison.Ordinal) && line.Contains("no place left", StringComparison.Ordinal));
        Assert.Contains(told, line => line.Contains("out of memory", StringComparison.Ordinal));
        Assert.Contains(told, line => line.Contains("no JSON", StringComparison.Ordinal));
        Assert.Contains(told, line => line.Contains("without [DONE]", StringComparison.Ordinal));
    }

    [Fact]
    public void Failures_AreTold_ByCause()
    {
        string[] errors =
        [
            "HTTP 429, to be tried again in 3 s: expected in about 0.24 s", "HTTP 500: expected in about 0.24 s",
            "HTTP 429, to be tried again in 12 s: expected in about 1.5 s",
            .. Enumerable.Range(0, 12).Select(i => $"cause {(char)('a' + i)}"),
        ];
        Assert.Equal(
            [
                "2 failed: such as HTTP 429, to be tried again in 3 s: expected in about 0.24 s",
                "1 failed: HTTP 500: expected in about 0.24 s",
                .. Enumerable.Range(0, 8).Select(i => $"1 failed: cause {(char)('a' + i)}"),
                "4 failed for other causes; see --save-result",
            ],
            Failures.Tell(errors.Select(error => new RequestRecord
            {
                Start = 0,
                Sent = 0,
                Done = 1,
                TokenTimes = [],
                InputTokens = 1,
                OutputTokens = 0,
                Error = error,
            })));
    }

    [Fact]
    public async Task ARequestWithoutEnd_HasFailedAfterItsTime()
    {
        await using FakeServer server = await FakeServer.StartAsync(i => new FakeAnswer { Until = i == 2 ? Task.Delay(Timeout.Infinite, Token) : Task.CompletedTask });
        (int exit, JsonElement result, _, string error) = await Serve(server.Url, "--num-prompts", "3", "--num-warmups", "1", "--request-timeout", "3");
        Assert.Equal(Cli.Success, exit);
        Assert.Equal((2, 1), (Int(result, "completed"), Int(result, "failed")));
        Assert.Contains("no end after 3 s", error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task ARun_EndsAfterItsTime_WhateverTheServerDoes()
    {
        await using FakeServer server = await FakeServer.StartAsync(_ => new FakeAnswer { Until = Task.Delay(Timeout.Infinite, Token) });
        (int exit, JsonElement result, _, string error) = await Serve(server.Url, "--num-prompts", "50", "--num-warmups", "0", "--request-rate", "100", "--max-concurrency", "2", "--max-duration", "2");
        Assert.Equal(Cli.Failed, exit); // nothing was measured
        Assert.Equal((0, 50), (Int(result, "completed"), Int(result, "failed")));
        Assert.Contains("2 failed: not over when the run's 2 s were", error, StringComparison.Ordinal);
        Assert.Contains("48 failed: not sent", error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task AServerThatIsNotThere_IsOneLine_WithExitCode1()
    {
        Uri gone;
        await using (FakeServer server = await FakeServer.StartAsync()) gone = server.Url;
        (int exit, string output, string error) = await Run("serve", "--url", gone.ToString(), "--num-prompts", "2");
        Assert.Equal((Cli.Failed, ""), (exit, output));
        Assert.Contains(gone.ToString(), Assert.Single(Lines(error)), StringComparison.Ordinal);

        (exit, output, error) = await Run("serve", "--url", gone.ToString(), "--num-prompts", "2", "--api", "grpc");
        Assert.Equal((Cli.Failed, ""), (exit, output));
        Assert.Contains("did not answer the first request", Assert.Single(Lines(error)), StringComparison.Ordinal);
    }

    [Fact]
    public async Task ARequest_SaysWhatWasAskedFor()
    {
        await using FakeServer server = await FakeServer.StartAsync();
        await Serve(server.Url, "--num-prompts", "1", "--num-warmups", "0", "--random-output-len", "9", "--random-input-len", "5");
        JsonElement body = server.Bodies[0];
        Assert.Equal(("fake-model", 9, true), (body.GetProperty("model").GetString(), Int(body, "max_tokens"), body.GetProperty("stream").GetBoolean()));
        Assert.Equal(5, body.GetProperty("prompt").GetString()!.Split(' ').Length);
        Assert.True(body.GetProperty("stream_options").GetProperty("include_usage").GetBoolean());
        Assert.False(body.TryGetProperty("ignore_eos", out _)); // a strict server would refuse it

        await Serve(new Uri(server.Url, "v1/"), "--api", "openai-chat", "--model", "other", "--num-prompts", "1", "--num-warmups", "0", "--ignore-eos");
        body = server.Bodies[1];
        Assert.Equal(("other", 64, true), (body.GetProperty("model").GetString(), Int(body, "max_completion_tokens"), body.GetProperty("ignore_eos").GetBoolean()));
        Assert.Equal("user", body.GetProperty("messages")[0].GetProperty("role").GetString());

        string demo = Path.Combine(AppContext.BaseDirectory, "models", "demo.gguf");
        await Serve(server.Url, "--tokenizer", demo, "--num-prompts", "1", "--num-warmups", "0", "--random-input-len", "11");
        Assert.Equal(11, server.Bodies[2].GetProperty("prompt").GetArrayLength()); // ids
    }

    [Fact]
    public async Task Sweeps_MeasureEachRate_AndAreDrawn()
    {
        await using FakeServer server = await FakeServer.StartAsync();
        string svg = Path.Combine(Path.GetTempPath(), $"native-{Guid.NewGuid():N}.svg");
        (int exit, JsonElement results, string output, string error) = await Serve(server.Url, "--sweep", "200,50,100", "--num-prompts", "5", "--svg", svg);
        Assert.Equal((Cli.Success, ""), (exit, error));
        Assert.Equal([50, 100, 200], results.EnumerateArray().Select(result => result.GetProperty("request_rate").GetDouble()));
        Assert.Equal(3, Lines(output).Count(line => line.Contains("Serving Benchmark Result", StringComparison.Ordinal)));
        Assert.Equal("svg", XElement.Parse(await File.ReadAllTextAsync(svg, Token)).Name.LocalName);
        File.Delete(svg);
        Assert.Equal(16, server.Bodies.Select(body => body.GetProperty("prompt").GetString()).Distinct().Count()); // no prompt twice
    }

    [Fact]
    public async Task RisingRates_AreOpenLoop()
    {
        await using FakeServer server = await FakeServer.StartAsync();
        (int exit, JsonElement result, _, _) = await Serve(server.Url, "--num-prompts", "4", "--ramp-up-strategy", "linear", "--ramp-up-start-rps", "50", "--ramp-up-end-rps", "200", "--burstiness", "inf");
        Assert.Equal(Cli.Success, exit);
        double[] intended = [.. result.GetProperty("intended_times").EnumerateArray().Select(item => item.GetDouble())];
        Assert.Equal([1 / 50.0, 1 / 50.0 + 1 / 100.0], intended[..2].Select(time => Math.Round(time, 9)));
        Assert.Equal("linear", result.GetProperty("ramp_up_strategy").GetString());
    }

    [Theory]
    [InlineData("openai")]
    [InlineData("openai-chat")]
    [InlineData("grpc")]
    public async Task OurServer_IsMeasured(string api)
    {
        await using RunningServer server = await RunningServer.StartAsync();
        Uri url = api == "grpc" ? server.Server.GrpcAddress : server.Server.HttpAddress;
        (int exit, JsonElement result, _, string error) = await Serve(url, "--api", api, "--num-prompts", "6", "--max-concurrency", "2", "--random-input-len", "4", "--random-output-len", "8", "--ignore-eos");
        Assert.Equal(Cli.Success, exit);
        Assert.Matches(
            @"^native: prompts had \d+ tokens on average, not 4: a word is not a token of this model", error);
        Assert.Equal((6, 0), (Int(result, "completed"), Int(result, "failed")));
        Assert.Equal(6 * 8, Int(result, "total_output_tokens"));
        Assert.True(Int(result, "total_input_tokens") > 6 * 4);
        if (api == "grpc") Assert.All(result.GetProperty("itls").EnumerateArray(), itls => Assert.Equal(7, itls.GetArrayLength())); // a message a token
    }

    [Fact]
    public async Task OurServersRefusals_AreToldOnce()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        (int exit, _, string error) = await Run("serve", "--url", server.Server.GrpcAddress.ToString(), "--api", "grpc", "--random-input-len", "1000");
        Assert.Equal(Cli.Failed, exit);
        Assert.Contains("InvalidArgument", Assert.Single(Lines(error)), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("--url is 'nowhere'", "--url", "nowhere")]
    [InlineData("--url is 'ftp://127.0.0.1'", "--url", "ftp://127.0.0.1")]
    [InlineData("--request-rate is '0'", "--request-rate", "0")]
    [InlineData("--burstiness is 'x'", "--burstiness", "x")]
    [InlineData("exclude each other", "--request-rate", "2", "--sweep", "1,2")]
    [InlineData("go together", "--ramp-up-strategy", "linear")]
    [InlineData("--svg draws a --sweep", "--svg", "x.svg")]
    [InlineData("--goodput has 'itl:5'", "--goodput", "itl:5")]
    [InlineData("--goodput has 'ttft:-1'", "--goodput", "ttft:-1")]
    [InlineData("--percentile-metrics has 'x'", "--percentile-metrics", "ttft,x")]
    [InlineData("--metric-percentiles is 101", "--metric-percentiles", "101")]
    [InlineData("--file goes with", "--dataset-name", "file")]
    [InlineData("--file goes with", "--file", "x.txt")]
    [InlineData("--num-prompts is 0", "--num-prompts", "0")]
    [InlineData("--max-concurrency is 0", "--max-concurrency", "0")]
    [InlineData("'rest'", "--api", "rest")]
    public async Task AWrongCommandLine_IsExplained_WithExitCode2(string expected, params string[] command)
    {
        string[] url = command[0] == "--url" ? [] : ["--url", "http://127.0.0.1:1"];
        (int exit, string output, string error) = await Run(["serve", .. url, .. command]);
        Assert.Equal((Cli.Misused, ""), (exit, output));
        Assert.Contains(expected, error, StringComparison.Ordinal);
        Assert.DoesNotContain("   at ", error, StringComparison.Ordinal);
    }

    /// <summary>Runs <c>serve</c> and reads what it saved.</summary>
    private static async Task<(int Exit, JsonElement Result, string Output, string Error)> Serve(Uri url, params string[] options)
    {
        string file = Path.Combine(Path.GetTempPath(), $"native-{Guid.NewGuid():N}.json");
        (int exit, string output, string error) = await Run(["serve", "--url", url.ToString(), "--save-result", file, .. options]);
        Assert.True(File.Exists(file), error);
        JsonElement result = JsonDocument.Parse(await File.ReadAllTextAsync(file, Token)).RootElement;
        File.Delete(file);
        return (exit, result, output, error);
    }

    private static List<Prompt> Some(int count) => Prompts.Random(count, 4, 8, 0, null, new Random(0));

    private static int Int(JsonElement owner, string name) => owner.GetProperty(name).GetInt32();
}
