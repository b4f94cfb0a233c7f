using System.Text.Json;
using System.Text.RegularExpressions;
using System.Xml.Linq;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Logging;
using Native.Bench.Soak;
using Native.Tests.Server;
using Native.Tools;
using static Native.Tests.Bench.BenchRun;

namespace Native.Tests.Bench;

/// <summary>A soak passes with the server as it is, and fails at the right check where one thing about it is
/// spoilt.</summary>
public sealed partial class SoakTests
{
    private const string Seconds = "0.08"; // of a minute: five, in which each kind of request comes some times

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task TheDemoModel_InAProcessOfItsOwn_PassesEveryCheck()
    {
        using Folder folder = new();
        (int exit, string output, string error) = await Run("soak", "--minutes", "0.08", "--clients", "8", "--server-options", "--threads 1 --max-num-seqs 16", "--output", folder.Path);
        Assert.Equal("", error);
        Assert.True(exit == Cli.Success, output);
        Assert.All(Lines(output)[..^1], line => Assert.StartsWith("PASS", line));

        JsonElement data = JsonDocument.Parse(await File.ReadAllTextAsync(Path.Combine(folder.Path, "soak.json"), Token)).RootElement;
        Assert.True(data.GetProperty("passed").GetBoolean());
        Assert.Equal(Lines(output).Length - 1, data.GetProperty("checks").GetArrayLength());
        Assert.True(data.GetProperty("samples").GetArrayLength() >= 6);
        string page = await File.ReadAllTextAsync(Path.Combine(folder.Path, "soak.md"), Token);
        Assert.Contains("all checks pass", page, StringComparison.Ordinal);
        Assert.Contains("(soak.svg)", page, StringComparison.Ordinal);
        XElement picture = XElement.Parse(await File.ReadAllTextAsync(Path.Combine(folder.Path, "soak.svg"), Token));
        Assert.Equal(15, picture.Descendants().Count(element => element.Name.LocalName == "polyline"));
    }

    /// <summary>Each check by itself, from samples that are made up: thirty minutes of them.</summary>
    [Theory]
    [InlineData("process_resident_memory_bytes", 1e6, "resident memory is flat")]
    [InlineData("native_gc_heap_bytes", 1e6, "the managed heap is flat")]
    [InlineData("process_open_fds", 4, "open handles are flat", "handles come back")]
    [InlineData("process_threads", 1, "threads are flat", "threads come back")]
    [InlineData("native_kv_blocks{state=\"used\"}", 1, "at the end nothing runs and every block is free")]
    [InlineData("native_requests_waiting", 1, "at the end nothing runs and every block is free")]
    [InlineData("native_decode_step_allocated_bytes_total", 24, "a decode step allocates 0 bytes")]
    [InlineData("native_step_lock_contentions_total", 1, "the step path waits for no lock")]
    [InlineData("native_failed_steps_total", 1, "no step fails")]
    public void WhatGrows_FailsItsOwnCheck_AndNoOther(string series, double eachMinute, params string[] expected)
    {
        Dictionary<string, double> metrics = new()
        {
            ["process_resident_memory_bytes"] = 150e6,
            ["native_gc_heap_bytes"] = 5e6,
            ["process_open_fds"] = 200,
            ["process_threads"] = 20,
            ["native_kv_blocks{state=\"used\"}"] = 0,
            ["native_kv_blocks{state=\"free\"}"] = 100,
            ["native_requests_running"] = 0,
            ["native_requests_waiting"] = 0,
            ["native_failed_steps_total"] = 0,
            ["native_decode_step_allocated_bytes_total"] = 500,
            ["native_step_lock_contentions_total"] = 0,
        };
        SoakResult Result(double growth)
        {
            SoakSample At(int minute) => SoakSample.Of(minute * 60, new Dictionary<string, double>(metrics) { ["native_decode_steps_total"] = minute * 1000, [series] = metrics[series] + minute * growth });
            return new SoakResult
            {
                Options = new SoakOptions { Duration = TimeSpan.FromMinutes(30), Clients = 1, Seed = 0 },
                Model = "m",
                Duration = 1800,
                Before = At(0),
                Samples = [.. Enumerable.Range(1, 30).Select(At)],
                After = At(31),
                Requests = new Dictionary<SoakKind, int> { [SoakKind.Short] = 100, [SoakKind.BadRequest] = 10 },
                Compared = 90,
                Breaches = Enum.GetValues<SoakPromise>().ToDictionary(promise => promise, _ => (IReadOnlyDictionary<string, int>)new Dictionary<string, int>()),
                End = (0, ""),
            };
        }
        Assert.All(SoakVerdict.Of(Result(0)), check => Assert.True(check.Passed, $"{check.Name}: {check.Detail}"));
        Assert.Equal(expected, SoakVerdict.Of(Result(eachMinute)).Where(check => !check.Passed).Select(check => check.Name));
        metrics.Remove(series == "process_resident_memory_bytes" ? "native_gc_heap_bytes" : "process_resident_memory_bytes");
        Assert.Contains(SoakVerdict.Of(Result(0)), check => !check.Passed); // what is not told is not passed
    }

    [Fact]
    public Task MemoryThatGrowsWithEveryScrape_FailsItsCheck()
    {
        int scrapes = 0;
        return AssertFails(["resident memory is flat"], metrics: text => Regex.Replace(text, "(?m)^process_resident_memory_bytes .*$", $"process_resident_memory_bytes {scrapes++ * 40_000_000L}"));
    }

    [Fact]
    public Task AnotherTextForTheSameCase_FailsItsCheck()
    {
        int answers = 0;
        return AssertFails(["the same case has the same text, whoever asks it how and beside whom"], answer: body => Interlocked.Increment(ref answers) % 2 == 0 ? FirstText().Replace(body, "$1Q", 1) : body);
    }

    [Fact]
    public Task AWrongCount_FailsItsCheck() =>
        AssertFails(["usage counts the tokens that came"], answer: body => CompletionTokens().Replace(body, "\"completion_tokens\":77777"));

    [Fact]
    public Task AnEndThatIsNone_FailsItsCheck() =>
        AssertFails(["answers end as they may: stop or length, no stop text, no token too many"], answer: body => body.Replace("\"finish_reason\":\"length\"", "\"finish_reason\":\"repetition\"", StringComparison.Ordinal));

    [Fact]
    public Task AnAnswerThatBreaksOff_FailsItsCheck()
    {
        int answers = 0;
        return AssertFails(["every good request is answered"], answer: body => Interlocked.Increment(ref answers) > 5 ? body.Replace("data: [DONE]", "", StringComparison.Ordinal) : body); // the first are the warm-up's
    }

    [Fact]
    public Task AnotherStatus_FailsItsCheck() =>
        AssertFails(["every bad one is refused with its status"], status: status => status >= 400 ? 418 : status);

    [Fact]
    public void Growth_IsThatOfTheLastThirdOverTheMiddleThird()
    {
        SoakSample[] samples = [.. Enumerable.Range(0, 30).Select(i => SoakSample.Of(i * 60, new Dictionary<string, double> { ["process_open_fds"] = i < 10 ? i * 100 : 1000 + i }))];
        samples[25] = samples[25] with { Handles = 1e9 }; // a peak
        (double middle, double last) = SoakVerdict.Thirds(samples, sample => sample.Handles)!.Value;
        Assert.Equal((1014.5, 1025), (middle, last));
        Assert.Equal(60, SoakVerdict.SlopePerHour(samples, sample => sample.Handles), 1e-6);
        Assert.Null(SoakVerdict.Thirds(samples, sample => sample.ResidentBytes)); // not told
        Assert.Null(SoakVerdict.Thirds(samples[..5], sample => sample.Handles));
    }

    [Theory]
    [InlineData("--minutes is 0", "--minutes", "0")]
    [InlineData("--clients is 0", "--clients", "0")]
    [InlineData("--url is 'nowhere'", "--url", "nowhere")]
    [InlineData("--grpc-url goes with --url", "--grpc-url", "http://127.0.0.1:1")]
    [InlineData("--model and --server-options are for", "--url", "http://127.0.0.1:1", "--model", "x.gguf")]
    public async Task AWrongCommandLine_IsExplained_WithExitCode2(string expected, params string[] command)
    {
        (int exit, string output, string error) = await Run(["soak", .. command]);
        Assert.Equal((Cli.Misused, ""), (exit, output));
        Assert.Contains(expected, error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task AModelThatIsNotThere_IsOneLine_WithExitCode1()
    {
        using Folder folder = new();
        (int exit, string output, string error) = await Run("soak", "--minutes", Seconds, "--model", Path.Combine(folder.Path, "none.gguf"), "--output", folder.Path);
        Assert.Equal((Cli.Failed, ""), (exit, output));
        Assert.Contains("none.gguf", Assert.Single(Lines(error)), StringComparison.Ordinal);
    }

    /// <summary>Soaks a server through a proxy that spoils something.</summary>
    private static async Task AssertFails(string[] expected, Func<string, string>? metrics = null, Func<string, string>? answer = null, Func<int, int>? status = null)
    {
        using Folder folder = new();
        await using RunningServer server = await RunningServer.StartAsync(runner: new ScriptedRunner(blocks: 512));
        await using SpoilingProxy proxy = await SpoilingProxy.StartAsync(server.Server.HttpAddress, metrics ?? (text => text), answer ?? (text => text), status ?? (code => code));
        (int exit, string output, string error) = await Run("soak", "--minutes", Seconds, "--clients", "4", "--url", proxy.Url.ToString(), "--output", folder.Path);
        Assert.Equal((Cli.Failed, ""), (exit, error));
        string[] failed = [.. Lines(output).Where(line => line.StartsWith("FAIL", StringComparison.Ordinal))];
        // The server shares its process with other tests, whose memory, threads and locks are in its metrics.
        string[] own = [.. failed.Where(line => expected.Any(name => line.StartsWith($"FAIL  {name}: ", StringComparison.Ordinal)))];
        Assert.True(own.Length == expected.Length, output);
        string[] ofTheProcess = ["resident memory is flat", "the managed heap is flat", "open handles are flat", "handles come back", "threads are flat", "threads come back", "a decode step allocates 0 bytes", "the step path waits for no lock"];
        Assert.All(failed.Except(own), line => Assert.Contains(ofTheProcess, name => line.StartsWith($"FAIL  {name}: ", StringComparison.Ordinal)));
        Assert.Contains("FAIL", await File.ReadAllTextAsync(Path.Combine(folder.Path, "soak.md"), Token));
    }

    [GeneratedRegex("(\"(?:text|content)\":\")(?=[^\"])")]
    private static partial Regex FirstText();

    [GeneratedRegex("\"completion_tokens\":[0-9]+")]
    private static partial Regex CompletionTokens();

    private sealed class Folder : IDisposable
    {
        public string Path { get; } = Directory.CreateTempSubdirectory("native-soak-").FullName;

        public void Dispose() => Directory.Delete(Path, recursive: true);
    }

    /// <summary>Passes HTTP on to a server, and its answers back with something changed.</summary>
    private sealed class SpoilingProxy : IAsyncDisposable
    {
        private readonly WebApplication _app;
        private readonly HttpClient _http;

        private SpoilingProxy(WebApplication app, HttpClient http) => (_app, _http) = (app, http);

        public Uri Url { get; private set; } = null!;

        public static async Task<SpoilingProxy> StartAsync(Uri server, Func<string, string> metrics, Func<string, string> answer, Func<int, int> status)
        {
            WebApplicationBuilder builder = WebApplication.CreateSlimBuilder();
            builder.Logging.ClearProviders();
            builder.WebHost.UseUrls("http://127.0.0.1:0").ConfigureKestrel(kestrel => kestrel.Limits.MaxRequestBodySize = 16 << 20);
            WebApplication app = builder.Build();
            SpoilingProxy proxy = new(app, new HttpClient(new SocketsHttpHandler { UseProxy = false }) { BaseAddress = server });
            app.Run(async http =>
            {
                try
                {
                    if (http.Request.ContentLength > 16 << 20)
                    {
                        http.Response.StatusCode = 413; // as the server would
                        return;
                    }
                    using HttpRequestMessage request = new(new HttpMethod(http.Request.Method), $"{http.Request.Path}");
                    if (http.Request.ContentLength > 0)
                    {
                        request.Content = new StreamContent(http.Request.Body);
                        request.Content.Headers.TryAddWithoutValidation("Content-Type", http.Request.ContentType);
                    }
                    using HttpResponseMessage response = await proxy._http.SendAsync(request, http.RequestAborted);
                    string body = await response.Content.ReadAsStringAsync(http.RequestAborted);
                    if (http.Request.Path == "/metrics") body = metrics(body);
                    else if (response.IsSuccessStatusCode && http.Request.Path.Value!.EndsWith("completions", StringComparison.Ordinal)) body = answer(body);
                    http.Response.StatusCode = status((int)response.StatusCode);
                    http.Response.ContentType = response.Content.Headers.ContentType?.ToString();
                    await http.Response.WriteAsync(body, http.RequestAborted);
                }
                catch (Exception e) when (http.RequestAborted.IsCancellationRequested && e is OperationCanceledException or IOException or HttpRequestException or BadHttpRequestException)
                {
                    // The client has left, as it is meant to.
                }
            });
            await app.StartAsync(Token);
            proxy.Url = new Uri(app.Urls.Single());
            return proxy;
        }

        public async ValueTask DisposeAsync()
        {
            using CancellationTokenSource now = new(TimeSpan.Zero);
            await _app.StopAsync(now.Token);
            await _app.DisposeAsync();
            _http.Dispose();
        }
    }
}
