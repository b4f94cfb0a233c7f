using System.Buffers;
using System.Diagnostics;
using System.IO.Pipelines;
using System.Text.Encodings.Web;
using System.Text.Json;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.DependencyInjection;
using Native.Server.Serving;

namespace Native.Server.Http;

/// <summary>Server-sent events as OpenAI frames them: <c>data: {json}</c>, an empty line, and at the end <c>data:
/// [DONE]</c>.</summary>
internal sealed class EventStream : IDisposable
{
    private readonly HttpContext _http;
    private readonly PipeWriter _output;
    private readonly Utf8JsonWriter _json;

    private bool _begun;
    private long _flushed;

    public EventStream(HttpResponse response)
    {
        _http = response.HttpContext;
        PingEvery = _http.RequestServices.GetRequiredService<StreamPings>().Every;
        _output = response.BodyWriter;
        _json = new Utf8JsonWriter(_output, JsonText.Writing);
    }

    /// <summary>How long nothing may come before a comment does.</summary>
    public TimeSpan PingEvery { get; }

    /// <summary>Whether something was sent lately.</summary>
    public bool IsFresh => Stopwatch.GetElapsedTime(Volatile.Read(ref _flushed)) < PingEvery;

    public void Write<T>(T state, Action<Utf8JsonWriter, T> write)
    {
        Begin();
        _output.Write("data: "u8);
        write(_json, state);
        _json.Flush();
        _json.Reset();
        _output.Write("\n\n"u8);
    }

    public void WriteDone() => _output.Write("data: [DONE]\n\n"u8);

    /// <summary>Sends a comment, which clients skip.</summary>
    public ValueTask PingAsync(CancellationToken ct)
    {
        _output.Write(": ping\n\n"u8);
        return FlushAsync(ct);
    }

    // Not before the first byte: until then the answer may still become an error of another type.
    private void Begin()
    {
        if (_begun) return;
        _begun = true;
        HttpResponse response = _http.Response;
        response.ContentType = "text/event-stream; charset=utf-8";
        response.Headers.CacheControl = "no-cache";
        response.Headers["X-Accel-Buffering"] = "no"; // nginx would hold tokens back
    }

    /// <summary>Sends what was written. Waits while the client does not read, which slows this request alone, and hangs
    /// up where it never does.</summary>
    public async ValueTask FlushAsync(CancellationToken ct)
    {
        Begin();
        ValueTask<FlushResult> flush = _output.FlushAsync(ct);
        FlushResult result;
        if (flush.IsCompleted) result = await flush;
        else
        {
            Task<FlushResult> sending = flush.AsTask();
            await SlowReader.WaitAsync(_http, sending);
            result = await sending;
        }
        Volatile.Write(ref _flushed, Stopwatch.GetTimestamp());
        if (result.IsCanceled || result.IsCompleted) throw new OperationCanceledException("The client is gone.");
    }

    public void Dispose() => _json.Dispose();
}

/// <summary>How long a stream may be silent before a comment shows that it lives.</summary>
internal sealed record StreamPings(TimeSpan Every);

/// <summary>How this API writes JSON.</summary>
internal static class JsonText
{
    /// <summary>Text as UTF-8, not as escapes: it is never put into a page as it is.</summary>
    public static readonly JsonWriterOptions Writing = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>Bytes that a client must take at a time, in as long as it may be slow.</summary>
    private const int PieceBytes = 64 << 10;

    public static async Task WriteAsync(HttpResponse response, int status, Action<Utf8JsonWriter> write,
        CancellationToken ct = default)
    {
        ArrayBufferWriter<byte> body = new();
        using (Utf8JsonWriter json = new(body, Writing)) write(json);
        response.StatusCode = status;
        response.ContentType = "application/json; charset=utf-8";
        response.ContentLength = body.WrittenCount;
        for (ReadOnlyMemory<byte> rest = body.WrittenMemory; !rest.IsEmpty; rest =
            rest[Math.Min(PieceBytes, rest.Length)..])
            await SlowReader.WaitAsync(response.HttpContext,
                response.Body.WriteAsync(rest[..Math.Min(PieceBytes, rest.Length)], ct).AsTask());
    }
}
