using System.Net;
using System.Net.Http.Headers;
using System.Text;
using System.Text.Json;
using Grpc.Net.Client;
using Native.Scheduling;
using Native.Server;
using Native.Server.Serving;
using Native.V1;

namespace Native.Tests.Server;

/// <summary>A server on ports of the system's choice with a <see cref="ScriptedRunner"/>, and clients for it.</summary>
internal sealed class RunningServer : IAsyncDisposable
{
    private RunningServer(NativeServer server, ScriptedRunner runner)
    {
        Server = server;
        Runner = runner;
        Http = new HttpClient { BaseAddress = server.HttpAddress, Timeout = TimeSpan.FromMinutes(2) };
        Channel = GrpcChannel.ForAddress(server.GrpcAddress);
        Inference = new Inference.InferenceClient(Channel);
    }

    public NativeServer Server { get; }

    public ScriptedRunner Runner { get; }

    public HttpClient Http { get; }

    public GrpcChannel Channel { get; }

    public Inference.InferenceClient Inference { get; }

    public Engine Engine => Server.Host.Model!.Engine;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public static async Task<RunningServer> StartAsync(ServerOptions? options = null, ScriptedRunner? runner = null, bool template = true, bool load = true, Native.Scheduling.SamplingParams? defaults = null)
    {
        options = (options ?? new ServerOptions()) with { Port = 0, GrpcPort = 0 };
        runner ??= new ScriptedRunner();
        NativeServer server = await NativeServer.StartAsync(options);
        if (load) Load(server, runner, template, defaults);
        return new RunningServer(server, runner);
    }

    public void Load() => Load(Server, Runner, template: true);

    public Task<HttpResponseMessage> Post(string path, string json, string? id = null) => Post(path, Encoding.UTF8.GetBytes(json), id);

    public Task<HttpResponseMessage> Post(string path, byte[] json, string? id = null)
    {
        ByteArrayContent content = new(json);
        content.Headers.ContentType = new MediaTypeHeaderValue("application/json");
        HttpRequestMessage request = new(HttpMethod.Post, path) { Content = content };
        if (id is not null) request.Headers.Add("x-request-id", id);
        return Http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, Token);
    }

    /// <summary>Posts and reads an answer that must be well.</summary>
    public async Task<JsonElement> Ask(string path, string json)
    {
        using HttpResponseMessage response = await Post(path, json);
        string text = await response.Content.ReadAsStringAsync(Token);
        Assert.True(response.StatusCode == HttpStatusCode.OK, text);
        return JsonSerializer.Deserialize<JsonElement>(text);
    }

    /// <summary>Posts and returns the body as it came, with what changes from run to run named.</summary>
    public async Task<string> Stream(string path, string json)
    {
        using HttpResponseMessage response = await Post(path, json, "one");
        Assert.Equal("text/event-stream", response.Content.Headers.ContentType?.MediaType);
        string text = await response.Content.ReadAsStringAsync(Token);
        return global::System.Text.RegularExpressions.Regex.Replace(text, "\"created\":[0-9]+", "\"created\":0").Replace(ServerInfo.Fingerprint, "FP");
    }

    public Task<string> Metrics() => Http.GetStringAsync("/metrics", Token);

    /// <summary>The metrics once they have a line; the record of a request is written just after its last
    /// token.</summary>
    public async Task<string> MetricsWith(string line)
    {
        await AllBlocksFree();
        string text = await Metrics();
        for (int i = 0; i < 1000 && !text.Contains(line + "\n", StringComparison.Ordinal); i++)
        {
            await Task.Delay(20, Token);
            text = await Metrics();
        }
        Assert.Contains(line + "\n", text);
        return text;
    }

    /// <summary>Waits for what other threads bring about; a test that waits in vain fails by xunit's or this
    /// time.</summary>
    public static async Task Until(Func<bool> condition, string what)
    {
        for (int i = 0; i < 3000 && !condition(); i++) await Task.Delay(10, Token);
        Assert.True(condition(), what);
    }

    /// <inheritdoc cref="Until"/>
    public static async Task UntilAsync(Func<Task<bool>> condition, string what)
    {
        for (int i = 0; i < 1000; i++)
        {
            if (await condition()) return;
            await Task.Delay(20, Token);
        }
        Assert.Fail(what);
    }

    public Task AllBlocksFree() => Until(() => Engine.Metrics is { Running: 0, Waiting: 0 } metrics && metrics.FreeBlocks == metrics.TotalBlocks, "every block comes back");

    public async ValueTask DisposeAsync()
    {
        Runner.Gate.Set();
        Runner.CollectGate.Set();
        Http.Dispose();
        Channel.Dispose();
        await Server.DisposeAsync();
    }

    private static void Load(NativeServer server, ScriptedRunner runner, bool template, Native.Scheduling.SamplingParams? defaults = null) =>
        server.Host.Serve(new ServedModel("scripted", runner, ScriptedRunner.Tokenizer(template), defaults ?? new(), server.EngineOptions with { MaxRunning = Math.Min(server.Options.MaxRunning, runner.Info.MaxSequences) }));
}
