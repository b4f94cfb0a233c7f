using System.Diagnostics;
using System.Text;
using System.Text.Json;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Logging;

namespace Native.Tests.Bench;

/// <summary>How a <see cref="FakeServer"/> answers one request.</summary>
internal sealed record FakeAnswer
{
    public int Tokens { get; init; } = 3;

    /// <summary>From the request to the first token.</summary>
    public TimeSpan BeforeFirst { get; init; }

    /// <summary>From each token to the next.</summary>
    public TimeSpan Between { get; init; }

    /// <summary>Waited for before the first token, besides.</summary>
    public Task Until { get; init; } = Task.CompletedTask;

    /// <summary>Not 200: the request is refused.</summary>
    public int Status { get; init; } = 200;

    /// <summary>Sent after the tokens, instead of how it finished and the usage.</summary>
    public string? Ending { get; init; }

    public bool TellsUsage { get; init; } = true;
}

/// <summary>A server of OpenAI's API whose delays are known, and which notes when it wrote what.</summary>
internal sealed class FakeServer : IAsyncDisposable
{
    private readonly WebApplication _app;
    private readonly Func<int, FakeAnswer> _answers;
    private int _requests, _running;

    private FakeServer(WebApplication app, Func<int, FakeAnswer> answers) => (_app, _answers) = (app, answers);

    /// <summary>What came and went, in the order the requests came. Stopwatch timestamps.</summary>
    public List<(long Received, List<long> Written)> Log { get; } = [];

    /// <summary>The bodies that came.</summary>
    public List<JsonElement> Bodies { get; } = [];

    /// <summary>The headers that came with them.</summary>
    public List<IHeaderDictionary> Headers { get; } = [];

    /// <summary>Requests that were under way at once, at most.</summary>
    public int PeakRunning { get; private set; }

    public Uri Url { get; private set; } = null!;

    /// <param name="answers">Given the number of the request, from 0.</param>
    public static async Task<FakeServer> StartAsync(Func<int, FakeAnswer>? answers = null)
    {
        WebApplicationBuilder builder = WebApplication.CreateSlimBuilder();
        builder.Logging.ClearProviders();
        builder.WebHost.UseUrls("http://127.0.0.1:0");
        WebApplication app = builder.Build();
        FakeServer server = new(app, answers ?? (_ => new FakeAnswer()));
        app.MapGet("/v1/models", () => Results.Text("""{"object":"list","data":[{"id":"fake-model"}]}""", "application/json"));
        app.MapPost("/v1/completions", http => server.AnswerAsync(http, chat: false));
        app.MapPost("/v1/chat/completions", http => server.AnswerAsync(http, chat: true));
        await app.StartAsync(TestContext.Current.CancellationToken);
        server.Url = new Uri(app.Urls.Single());
        return server;
    }

    public async ValueTask DisposeAsync()
    {
        using CancellationTokenSource now = new(TimeSpan.Zero);
        await _app.StopAsync(now.Token);
        await _app.DisposeAsync();
    }

    private async Task AnswerAsync(HttpContext http, bool chat)
    {
        JsonElement body = await JsonSerializer.DeserializeAsync<JsonElement>(http.Request.Body, cancellationToken: http.RequestAborted);
        List<long> written = [];
        FakeAnswer answer;
        lock (Log)
        {
            PeakRunning = Math.Max(PeakRunning, ++_running);
            Log.Add((Stopwatch.GetTimestamp(), written));
            Bodies.Add(body);
            Headers.Add(new HeaderDictionary(http.Request.Headers.ToDictionary()));
            answer = _answers(_requests++);
        }
        try
        {
            if (answer.Status != 200)
            {
                http.Response.StatusCode = answer.Status;
                await http.Response.WriteAsync("""{"error":{"message":"no place left"}}""", http.RequestAborted);
                return;
            }
            http.Response.ContentType = "text/event-stream";
            if (chat) await Send("""{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}""");
            await Wait(answer.BeforeFirst);
            await answer.Until.WaitAsync(http.RequestAborted);
            for (int i = 0; i < answer.Tokens; i++)
            {
                if (i > 0) await Wait(answer.Between);
                lock (Log) written.Add(Stopwatch.GetTimestamp());
                await Send(chat ? """{"choices":[{"index":0,"delta":{"content":"x"}}]}""" : """{"choices":[{"index":0,"text":"x"}]}""");
            }
            if (answer.Ending is { } ending)
            {
                await http.Response.WriteAsync(ending, http.RequestAborted);
                return;
            }
            await Send(chat ? """{"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}""" : """{"choices":[{"index":0,"text":"","finish_reason":"length"}]}""");
            if (answer.TellsUsage) await Send($$$"""{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":{{{answer.Tokens + 1}}}}}""");
            await http.Response.WriteAsync("data: [DONE]\n\n", http.RequestAborted);
        }
        catch (OperationCanceledException)
        {
            // The client has gone, or the server goes.
        }
        finally
        {
            lock (Log) _running--;
        }

        async Task Send(string json)
        {
            await http.Response.Body.WriteAsync(Encoding.UTF8.GetBytes($"data: {json}\n\n"), http.RequestAborted);
            await http.Response.Body.FlushAsync(http.RequestAborted);
        }

        Task Wait(TimeSpan time) => time > TimeSpan.Zero ? Task.Delay(time, http.RequestAborted) : Task.CompletedTask;
    }
}
