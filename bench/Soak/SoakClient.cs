using System.Net.Http.Headers;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using Grpc.Core;
using Grpc.Net.Client;
using Native.Bench.Serve;
using Native.V1;

namespace Native.Bench.Soak;

/// <summary>What came of an answer so far, as it is read.</summary>
internal sealed class SoakAnswer(int n)
{
    public StringBuilder[] Texts { get; } = [.. Enumerable.Range(0, n).Select(_ => new StringBuilder())];

    /// <summary>How each choice ended: stop or length; null where it has not.</summary>
    public string?[] Finishes { get; } = new string?[n];

    /// <summary>Tokens that came, over all choices.</summary>
    public int Tokens { get; set; }

    /// <summary>Log-probabilities that came, those of end tokens not among them in OpenAI's protocol.</summary>
    public int Logprobs { get; set; }

    /// <summary>A log-probability that is none: above 0, or no number.</summary>
    public double? WrongLogprob { get; set; }

    /// <summary>Tokens by the server's own count; null where it did not come.</summary>
    public int? CompletionTokens { get; set; }

    public void AddLogprob(double value)
    {
        Logprobs++;
        if (!(value <= 0)) WrongLogprob = value;
    }
}

/// <summary>Asks a Native server by each of its protocols and takes in all that it tells.</summary>
internal sealed class SoakClient : IDisposable
{
    /// <summary>Past the server's 16 MiB.</summary>
    private static readonly byte[] TooMuch = new byte[17 << 20];

    private readonly HttpClient _http;
    private readonly GrpcChannel? _channel;
    private readonly Inference.InferenceClient? _inference;
    private readonly string _model;
    private readonly SoakRefusal[] _refusals;

    /// <param name="http">Of the OpenAI API.</param>
    /// <param name="grpc">Of gRPC; null where it isn't to be asked.</param>
    /// <param name="model">The name to ask for.</param>
    public SoakClient(Uri http, Uri? grpc, string model)
    {
        _model = model;
        // Whoever is to send too much asks first and is refused then; whoever waits for longer than this is not
        // answered at all.
        _http = new HttpClient(
            new SocketsHttpHandler
            {
                UseProxy = false,
                UseCookies = false,
                AllowAutoRedirect = false,
                Expect100ContinueTimeout = TimeSpan.FromSeconds(30)
            })
        {
            BaseAddress = http,
            Timeout = Timeout.InfiniteTimeSpan,
        };
        if (grpc is not null)
        {
            _channel = GrpcChannel.ForAddress(grpc, new GrpcChannelOptions
            {
                HttpHandler = new SocketsHttpHandler
                {
                    UseProxy = false,
                    EnableMultipleHttp2Connections = true,
                },
                DisposeHttpClient = true
            });
            _inference = new Inference.InferenceClient(_channel);
        }
        _refusals = [.. HttpRefusals(), .. grpc is null ? [] : GrpcRefusals()];
        Transports = grpc is null ? [SoakTransport.OpenAi, SoakTransport.OpenAiStreamed]
            : [SoakTransport.OpenAi, SoakTransport.OpenAiStreamed, SoakTransport.Grpc];
    }

    public IReadOnlyList<SoakTransport> Transports { get; }

    /// <summary>Mistakes that each have a status of their own.</summary>
    public IReadOnlyList<SoakRefusal> Refusals => _refusals;

    public void Dispose()
    {
        _http.Dispose();
        _channel?.Dispose();
    }

    /// <summary>Asks one case and reads the answer to its end.</summary>
    /// <param name="asked">The case.</param>
    /// <param name="transport">How.</param>
    /// <param name="answer">Filled as it comes; holds what came where this throws.</param>
    /// <param name="onPiece">Called after each piece of output, before the next is waited for.</param>
    /// <param name="ct">Gives the request up.</param>
    /// <exception cref="RequestFailedException">The server refused, or ended the answer before its end; begins with the
    /// status.</exception>
    public Task AskAsync(SoakCase asked, SoakTransport transport, SoakAnswer answer, Func<ValueTask> onPiece,
        CancellationToken ct) =>
        transport == SoakTransport.Grpc ? AskGrpcAsync(asked, answer, onPiece, ct)
            : AskHttpAsync(asked, transport == SoakTransport.OpenAiStreamed, answer, onPiece, ct);

    private async Task AskHttpAsync(SoakCase asked, bool stream, SoakAnswer answer, Func<ValueTask> onPiece,
        CancellationToken ct)
    {
        using HttpRequestMessage request = new(HttpMethod.Post, asked.Chat ? "v1/chat/completions" : "v1/completions")
        {
            Content = Json(Body(asked, stream)),
        };
        using HttpResponseMessage response =
            await _http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, ct);
        if (!response.IsSuccessStatusCode)
            throw new RequestFailedException(
                $"{(int)response.StatusCode}: {await response.Content.ReadAsStringAsync(ct)}");
        if (!stream)
        {
            using JsonDocument whole =
                await JsonDocument.ParseAsync(await response.Content.ReadAsStreamAsync(ct), default, ct);
            Take(whole.RootElement, answer);
            await onPiece();
            return;
        }
        using StreamReader lines = new(await response.Content.ReadAsStreamAsync(ct), Encoding.UTF8);
        while (await lines.ReadLineAsync(ct) is { } line)
        {
            if (!line.StartsWith("data:", StringComparison.Ordinal)) continue;
            if (line == "data: [DONE]") return;
            using JsonDocument chunk = JsonDocument.Parse(line.AsMemory(5));
            if (chunk.RootElement.TryGetProperty("error", out JsonElement error))
                throw new RequestFailedException($"the stream has an error: {error.GetRawText()}");
            int before = answer.Tokens;
            Take(chunk.RootElement, answer);
            if (answer.Tokens > before) await onPiece();
        }
        throw new RequestFailedException("the stream ended without [DONE]");
    }

    private async Task AskGrpcAsync(SoakCase asked, SoakAnswer answer, Func<ValueTask> onPiece, CancellationToken ct)
    {
        SamplingParams sampling = new()
        {
            Temperature = (float)asked.Temperature,
            Seed = (ulong)asked.Seed,
            MaxTokens = (uint)asked.MaxTokens,
            N = (uint)asked.N,
            IgnoreEos = asked.IgnoreEos,
        };
        if (asked.Stop is { } stop) sampling.Stop.Add(stop);
        if (asked.Logprobs is { } logprobs) sampling.Logprobs = (uint)logprobs;
        try
        {
            using AsyncServerStreamingCall<GenerateResponse> call = asked.Chat
                ? _inference!.Chat(
                    new ChatRequest
                    {
                        Model = _model,
                        Messages = { new ChatMessage { Role = "user", Content = asked.Prompt } },
                        Sampling = sampling
                    },
                    cancellationToken: ct)
                : _inference!.Generate(new GenerateRequest { Model = _model, Text = asked.Prompt, Sampling = sampling },
                    cancellationToken: ct);
            while (await call.ResponseStream.MoveNext(ct))
            {
                GenerateResponse message = call.ResponseStream.Current;
                switch (message.EventCase)
                {
                    case GenerateResponse.EventOneofCase.Token:
                        answer.Texts[message.Index].Append(message.Token.Text);
                        answer.Tokens++;
                        if (message.Token.HasLogprob) answer.AddLogprob(message.Token.Logprob);
                        await onPiece();
                        break;
                    case GenerateResponse.EventOneofCase.Finished:
                        answer.Texts[message.Index].Append(message.Finished.Text);
                        answer.Finishes[message.Index] =
                            message.Finished.Reason == FinishReason.Length ? "length" : "stop";
                        break;
                    case GenerateResponse.EventOneofCase.Summary:
                        answer.CompletionTokens = (int)message.Summary.Usage.CompletionTokens;
                        break;
                }
            }
            if (answer.CompletionTokens is null) throw new RequestFailedException("the stream ended without a summary");
        }
        catch (RpcException e) when (!ct.IsCancellationRequested)
        {
            throw new RequestFailedException($"{e.StatusCode}: {e.Status.Detail}");
        }
        catch (RpcException)
        {
            throw new OperationCanceledException(ct);
        }
    }

    private string Body(SoakCase asked, bool stream) => Text(json =>
    {
        json.WriteString("model", _model);
        if (asked.Chat)
        {
            json.WriteStartArray("messages");
            json.WriteStartObject();
            json.WriteString("role", "user");
            json.WriteString("content", asked.Prompt);
            json.WriteEndObject();
            json.WriteEndArray();
        }
        else
        {
            json.WriteString("prompt", asked.Prompt);
        }
        json.WriteNumber("max_tokens", asked.MaxTokens);
        json.WriteNumber("temperature", (float)asked.Temperature);
        json.WriteNumber("seed", asked.Seed);
        json.WriteNumber("n", asked.N);
        json.WriteBoolean("ignore_eos", asked.IgnoreEos);
        if (asked.Stop is { } stop) json.WriteString("stop", stop);
        if (asked.Logprobs is { } logprobs) json.WriteNumber("logprobs", logprobs);
        json.WriteBoolean("return_token_ids", true);
        json.WriteBoolean("stream", stream);
        if (!stream) return;
        json.WriteStartObject("stream_options");
        json.WriteBoolean("include_usage", true);
        json.WriteEndObject();
    });

    /// <summary>A whole answer, or a stream's chunk.</summary>
    private static void Take(JsonElement chunk, SoakAnswer answer)
    {
        foreach (JsonElement choice in chunk.GetProperty("choices").EnumerateArray())
        {
            int index = choice.GetProperty("index").GetInt32();
            if (choice.TryGetProperty("text", out JsonElement text)
                || (choice.TryGetProperty("delta", out JsonElement inner)
                    || choice.TryGetProperty("message", out inner)) && inner.TryGetProperty("content", out text))
                answer.Texts[index].Append(text.GetString());
            if (choice.GetProperty("finish_reason").GetString() is { } finish) answer.Finishes[index] = finish;
            if (choice.TryGetProperty("token_ids", out JsonElement ids)) answer.Tokens += ids.GetArrayLength();
            if (choice.TryGetProperty("logprobs", out JsonElement logprobs)
                && logprobs.ValueKind == JsonValueKind.Object
                && logprobs.TryGetProperty("token_logprobs", out JsonElement values))
                foreach (JsonElement value in values.EnumerateArray())
                    answer.AddLogprob(value.ValueKind == JsonValueKind.Number ? value.GetDouble() : double.NaN);
        }
        if (chunk.TryGetProperty("usage", out JsonElement usage) && usage.ValueKind == JsonValueKind.Object)
            answer.CompletionTokens = usage.GetProperty("completion_tokens").GetInt32();
    }

    private IEnumerable<SoakRefusal> HttpRefusals()
    {
        SoakRefusal Posted(string name, int status, string body, string path = "v1/completions",
            string type = "application/json") =>
            new(name, $"{status}",
                ct => StatusAsync(new HttpRequestMessage(HttpMethod.Post, path) { Content = Json(body, type) }, ct));
        string Prompted(Action<Utf8JsonWriter> more) => Text(json =>
        {
            json.WriteString("model", _model);
            json.WriteString("prompt", "Once");
            more(json);
        });
        yield return Posted("HTTP, temperature -1", 400, Prompted(json => json.WriteNumber("temperature", -1)));
        yield return Posted("HTTP, n of 100000", 400, Prompted(json => json.WriteNumber("n", 100_000)));
        yield return Posted("HTTP, half of a JSON", 400, """{"prompt":""");
        yield return Posted("HTTP, an unknown model", 404, """{"model":"nobody's","prompt":"Once"}""");
        yield return Posted("HTTP, an unknown address", 404, "{}", "v1/nothing");
        yield return Posted("HTTP, a type that is no JSON", 415, "prompt=Once",
            type: "application/x-www-form-urlencoded");
        yield return Posted("HTTP, a suffix", 501, Prompted(json => json.WriteString("suffix", "the end")));
        yield return new SoakRefusal("HTTP, GET where POST is due", "405",
            ct => StatusAsync(new HttpRequestMessage(HttpMethod.Get, "v1/completions"), ct));
        yield return new SoakRefusal("HTTP, 17 MiB", "413", ct =>
        {
            HttpRequestMessage request = new(HttpMethod.Post, "v1/completions")
            {
                Content = new ByteArrayContent(TooMuch),
            };
            request.Content.Headers.ContentType = new MediaTypeHeaderValue("application/json");
            request.Headers.ExpectContinue = true;
            return StatusAsync(request, ct);
        });
    }

    private IEnumerable<SoakRefusal> GrpcRefusals()
    {
        SoakRefusal Called(
            string name, StatusCode status, GenerateRequest request) => new(name, $"{status}", async ct =>
        {
            try
            {
                using AsyncServerStreamingCall<GenerateResponse> call =
                    _inference!.Generate(request, cancellationToken: ct);
                while (await call.ResponseStream.MoveNext(ct))
                {
                }
                return $"{StatusCode.OK}";
            }
            catch (RpcException e) when (!ct.IsCancellationRequested)
            {
                return $"{e.StatusCode}";
            }
        });
        yield return Called("gRPC, temperature -1", StatusCode.InvalidArgument,
            new GenerateRequest
            {
                Text = "Once",
                Sampling = new SamplingParams
                {
                    Temperature = -1,
                }
            });
        yield return Called("gRPC, no prompt", StatusCode.InvalidArgument, new GenerateRequest());
        yield return Called("gRPC, a token that is none", StatusCode.InvalidArgument,
            new GenerateRequest
            {
                TokenIds = new TokenIds
                {
                    Ids = { int.MaxValue },
                }
            });
        yield return Called("gRPC, an unknown model", StatusCode.NotFound,
            new GenerateRequest { Model = "nobody's", Text = "Once" });
    }

    private async Task<string> StatusAsync(HttpRequestMessage request, CancellationToken ct)
    {
        using (request)
        {
            using HttpResponseMessage response = await _http.SendAsync(request, ct);
            return $"{(int)response.StatusCode}";
        }
    }

    private static ByteArrayContent Json(string body, string type = "application/json")
    {
        ByteArrayContent content = new(Encoding.UTF8.GetBytes(body));
        content.Headers.ContentType = new MediaTypeHeaderValue(type);
        return content;
    }

    private static string Text(Action<Utf8JsonWriter> members)
    {
        using MemoryStream buffer = new();
        using (Utf8JsonWriter json =
            new(buffer, new JsonWriterOptions { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping }))
        {
            json.WriteStartObject();
            members(json);
            json.WriteEndObject();
        }
        return Encoding.UTF8.GetString(buffer.GetBuffer(), 0, (int)buffer.Length);
    }
}

/// <summary>A mistake that has a status of its own.</summary>
/// <param name="Name">In words.</param>
/// <param name="Expected">An HTTP status, or gRPC's name of one.</param>
/// <param name="SendAsync">Makes it, and returns the status that came.</param>
internal sealed record SoakRefusal(string Name, string Expected, Func<CancellationToken, Task<string>> SendAsync);
