using System.Text.Json;
using Microsoft.AspNetCore.Http;
using Native.Server.Http;
using Native.Server.Serving;

namespace Native.Server.OpenAi;

/// <summary>How completions and chats differ in what they send.</summary>
internal interface IAnswerFormat
{
    /// <summary>What an answer's id begins with.</summary>
    string IdPrefix { get; }

    /// <summary>Value of <c>object</c> in an answer of one piece.</summary>
    string Object { get; }

    /// <summary>Value of <c>object</c> in a stream's chunks.</summary>
    string ChunkObject { get; }

    /// <summary>Whether a stream begins with a chunk of its own for every choice.</summary>
    bool HasOpening { get; }

    /// <summary>Whether a choice's end has a chunk of its own.</summary>
    bool HasClosing { get; }

    /// <summary>Members of the whole answer, besides the usual.</summary>
    void WriteMembers(Utf8JsonWriter json, IReadOnlyList<Choice> choices);

    /// <summary>One entry of <c>choices</c>.</summary>
    void WriteChoice(Utf8JsonWriter json, Choice choice, ChunkKind kind);
}

/// <summary>What an entry of <c>choices</c> is.</summary>
internal enum ChunkKind
{
    /// <summary>A whole choice, not streamed.</summary>
    Whole,

    /// <summary>A stream's first for a choice.</summary>
    Opening,

    /// <summary>New text of a stream.</summary>
    Delta,

    /// <summary>A choice's end, where it is not told with the last text.</summary>
    Closing,
}

/// <summary>Sends what a request's generations produce, in one piece or as it comes.</summary>
internal sealed class Answer(
    HttpContext http, ServedModel model, Call call, RequestId id, IReadOnlyList<Generation> generations)
{
    private readonly IAnswerFormat _format = call.Format;
    private readonly string _id = $"{call.Format.IdPrefix}{id}";
    private readonly long _created = DateTimeOffset.UtcNow.ToUnixTimeSeconds();
    private readonly List<Choice> _choices = [.. generations.SelectMany((generation, g) =>
        Enumerable.Range(0, call.N).Select(i =>
            new Choice(model, generation, g * call.N + i,
                call.Parameters.SkipSpecialTokens) { Echo = call.Echo?[g] }))];

    private RequestException? _failure;

    /// <exception cref="RequestException">A generation failed before anything was sent; later failures are told in the
    /// stream.</exception>
    /// <exception cref="OperationCanceledException">The client is gone.</exception>
    public Task SendAsync(CancellationToken ct) => call.Parameters.Stream ? StreamAsync(ct) : WholeAsync(ct);

    private async Task WholeAsync(CancellationToken ct)
    {
        for (int g = 0; g < generations.Count; g++)
        {
            while (await generations[g].WaitAsync(ct))
                while (generations[g].TryRead(out Piece piece)) ChoiceOf(g, piece).Add(piece);
        }
        await JsonText.WriteAsync(http.Response, StatusCodes.Status200OK, json =>
        {
            json.WriteStartObject();
            WriteHead(json, _format.Object);
            json.WriteStartArray("choices");
            foreach (Choice choice in _choices) _format.WriteChoice(json, choice, ChunkKind.Whole);
            json.WriteEndArray();
            WriteUsage(json);
            _format.WriteMembers(json, _choices);
            json.WriteEndObject();
        }, ct);
    }

    private async Task StreamAsync(CancellationToken ct)
    {
        // Nothing is sent before there is something to tell, or the client has waited long: what fails until then has
        // its own status.
        using EventStream events = new(http.Response);
        Task<bool> first = generations[0].WaitAsync(ct).AsTask();
        while (await Task.WhenAny(first, Task.Delay(events.PingEvery, ct)) != first) await events.PingAsync(ct);
        await first;
        using SemaphoreSlim turn = new(1);
        using CancellationTokenSource failed = CancellationTokenSource.CreateLinkedTokenSource(ct);
        using CancellationTokenSource ended = CancellationTokenSource.CreateLinkedTokenSource(ct);
        try
        {
            if (!generations[0].TryRead(out Piece piece))
                throw new RequestException(Failure.Internal, "The stream ended before it began.");
            if (_format.HasOpening)
                foreach (Choice choice in _choices) Send(events, choice, ChunkKind.Opening);
            Add(events, 0, piece);
            await events.FlushAsync(ct);
            Task pings = PingAsync(events, turn, ended.Token);
            try
            {
                await Task.WhenAll(Enumerable.Range(0, generations.Count).Select(g => Pump(events, g, turn, failed)));
            }
            finally
            {
                ended.Cancel();
                await pings;
            }
        }
        catch (RequestException e) when (http.Response.HasStarted)
        {
            _failure ??= e;
        }
        WriteEnd(events);
        await events.FlushAsync(ct);
    }

    private void WriteEnd(EventStream events)
    {
        if (_failure is { } failure) events.Write(failure, OpenAiProtocol.WriteError);
        else if (call.Parameters.IncludeUsage)
        {
            events.Write(this, static (json, answer) =>
            {
                json.WriteStartObject();
                answer.WriteHead(json, answer._format.ChunkObject);
                json.WriteStartArray("choices");
                json.WriteEndArray();
                answer.WriteUsage(json);
                json.WriteEndObject();
            });
        }
        events.WriteDone();
    }

    /// <summary>Shows proxies that the answer is not forgotten, while nothing comes.</summary>
    private static async Task PingAsync(EventStream events, SemaphoreSlim turn, CancellationToken ended)
    {
        using PeriodicTimer timer = new(events.PingEvery);
        try
        {
            while (await timer.WaitForNextTickAsync(ended))
            {
                if (events.IsFresh) continue;
                await turn.WaitAsync(ended);
                try
                {
                    await events.PingAsync(ended);
                }
                finally
                {
                    turn.Release();
                }
            }
        }
        catch (OperationCanceledException)
        {
            // The stream ended; or the client is gone, which its next piece finds too.
        }
    }

    /// <summary>Passes one generation's pieces on; several take turns at the stream.</summary>
    private async Task Pump(EventStream events, int g, SemaphoreSlim turn, CancellationTokenSource failed)
    {
        try
        {
            while (await generations[g].WaitAsync(failed.Token))
            {
                await turn.WaitAsync(failed.Token);
                try
                {
                    while (generations[g].TryRead(out Piece piece)) Add(events, g, piece);
                    await events.FlushAsync(failed.Token);
                }
                finally
                {
                    turn.Release();
                }
            }
        }
        catch (RequestException e)
        {
            Interlocked.CompareExchange(ref _failure, e, null);
            failed.Cancel(); // the others of this request end with it
        }
        catch (OperationCanceledException) when (Volatile.Read(ref _failure) is not null)
        {
            // The request failed, elsewhere; the client is still there to be told.
        }
    }

    private void Add(EventStream events, int g, in Piece piece)
    {
        Choice choice = ChoiceOf(g, piece);
        choice.Add(piece);
        if (!choice.HasNews) return;
        bool closing = _format.HasClosing && choice.Finish != Scheduling.FinishReason.None;
        if (!closing || choice.Text.Length > 0 || choice.HasTokens)
        {
            Send(events, choice, ChunkKind.Delta);
            choice.Clear();
        }
        if (!closing) return;
        Send(events, choice, ChunkKind.Closing);
        choice.Clear();
    }

    private void Send(EventStream events, Choice choice, ChunkKind kind) =>
        events.Write((Answer: this, choice, kind), static (json, chunk) =>
    {
        Answer answer = chunk.Answer;
        json.WriteStartObject();
        answer.WriteHead(json, answer._format.ChunkObject);
        json.WriteStartArray("choices");
        answer._format.WriteChoice(json, chunk.choice, chunk.kind);
        json.WriteEndArray();
        if (answer.IncludeUsage) json.WriteNull("usage");
        if (chunk.kind == ChunkKind.Opening) answer._format.WriteMembers(json, [chunk.choice]);
        json.WriteEndObject();
    });

    private bool IncludeUsage => call.Parameters.IncludeUsage;

    private Choice ChoiceOf(int generation, in Piece piece) => _choices[generation * call.N + piece.Index];

    private void WriteHead(Utf8JsonWriter json, string type)
    {
        json.WriteString("id", _id);
        json.WriteString("object", type);
        json.WriteNumber("created", _created);
        json.WriteString("model", model.Name);
        if (call.Parameters.Tier is { } tier) json.WriteString("service_tier", tier);
        json.WriteString("system_fingerprint", ServerInfo.Fingerprint);
    }

    private void WriteUsage(Utf8JsonWriter json)
    {
        int prompt = generations.Sum(generation => generation.Ids.Length);
        int completion = generations.Sum(generation => generation.CompletionTokens);
        json.WriteStartObject("usage");
        json.WriteNumber("prompt_tokens", prompt);
        json.WriteNumber("completion_tokens", completion);
        json.WriteNumber("total_tokens", prompt + completion);
        json.WriteStartObject("prompt_tokens_details");
        json.WriteNumber("cached_tokens", generations.Sum(generation => generation.Timings.CachedTokens));
        json.WriteEndObject();
        json.WriteEndObject();
    }
}
