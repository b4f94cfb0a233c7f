using System.Net;
using System.Text;
using System.Text.Json;
using Grpc.Net.Client;
using Native.Server;
using Native.Server.Serving;
using Native.Tests.Server;
using Native.V1;

namespace Native.Tests.Gpu;

/// <summary>A server that loads a real, small model as its options say, and clients for it.</summary>
internal sealed class ModelServer : IAsyncDisposable
{
    private ModelServer(NativeServer server, string? mistake)
    {
        (Server, Mistake) = (server, mistake);
        Http = new HttpClient { BaseAddress = server.HttpAddress, Timeout = TimeSpan.FromMinutes(2) };
        Channel = GrpcChannel.ForAddress(server.GrpcAddress);
        Inference = new Inference.InferenceClient(Channel);
    }

    public NativeServer Server { get; }

    /// <summary>What the program would end with; null where the model is served.</summary>
    public string? Mistake { get; }

    public HttpClient Http { get; }

    public GrpcChannel Channel { get; }

    public Inference.InferenceClient Inference { get; }

    public ServedModel Model => Server.Host.Model!;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    /// <summary>Few and short sequences, so that little is loaded and computed.</summary>
    public static ServerOptions Options => new()
    {
        Model = TestData.Path("models/stories260K/stories260K-F32.gguf"),
        Port = 0,
        GrpcPort = 0,
        Backend = "cuda",
        Threads = 1,
        MaxModelLength = 128,
        MaxRunning = 4,
        MaxBatchedTokens = 32,
        Seed = 1,
    };

    public static async Task<ModelServer> StartAsync(ServerOptions options)
    {
        NativeServer server = await NativeServer.StartAsync(options);
        return new ModelServer(server, await Task.Run(() => ModelLoading.Load(server), Token));
    }

    public Task<HttpResponseMessage> Post(string json) => Http.SendAsync(
        new HttpRequestMessage(HttpMethod.Post, "/v1/completions")
        {
            Content = new StringContent(json, Encoding.UTF8, "application/json"),
        }, HttpCompletionOption.ResponseHeadersRead, Token);

    /// <summary>The status and the body of a completion.</summary>
    public async Task<(HttpStatusCode Status, string Text)> Complete(string prompt = "Once upon a time", int tokens = 4)
    {
        using HttpResponseMessage response = await Post(
            $$"""{"prompt":{{JsonSerializer.Serialize(prompt)}},"max_tokens":{{tokens}},"temperature":0}""");
        string text = await response.Content.ReadAsStringAsync(Token);
        return (response.StatusCode, response.StatusCode != HttpStatusCode.OK ? text
            : JsonSerializer.Deserialize<JsonElement>(text).GetProperty("choices")[0].GetProperty("text").GetString()!);
    }

    public async Task<(HttpStatusCode Status, string Text)> Get(string path)
    {
        using HttpResponseMessage response = await Http.GetAsync(path, Token);
        return (response.StatusCode, await response.Content.ReadAsStringAsync(Token));
    }

    /// <summary>What a person sees at the start.</summary>
    public string StartupText()
    {
        using StringWriter text = new();
        Native.Server.StartupText.Write(Server, text);
        return text.ToString();
    }

    public Task AllBlocksFree() => RunningServer.Until(() => Model.Engine.Metrics is { Running: 0, Waiting: 0 } metrics
        && metrics.FreeBlocks == metrics.TotalBlocks, "every block comes back");

    public async ValueTask DisposeAsync()
    {
        Http.Dispose();
        Channel.Dispose();
        await Server.DisposeAsync();
    }
}
