using System.Globalization;
using System.Net;
using System.Net.Http.Headers;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using Native.Tools;

namespace Native.Bench.Serve;

/// <summary>Asks any server that speaks OpenAI's HTTP API, by completions or chats, with streamed answers.</summary>
/// <param name="url">The server.</param>
/// <param name="chat">Chats, or else completions.</param>
/// <param name="model">The model to ask for; null for the server's first.</param>
/// <param name="ignoreEos">Whether outputs go on past end tokens.</param>
/// <param name="headers">Headers of every request; null for none.</param>
/// <param name="extra">Members of every body, besides the usual; null for none.</param>
internal sealed class OpenAiClient(
    Uri url, bool chat, string? model, bool ignoreEos, IReadOnlyDictionary<string, string>? headers = null,
    JsonElement? extra = null) : IServingClient
{
    private const int MaxErrorLength = 300;

    // A connection for each request: a server may close one that is idle just when the next request is sent on it, and
    // that would count as its failure.
    private readonly HttpClient _http =
        new(new SocketsHttpHandler
        {
            UseProxy = false,
            UseCookies = false,
            AllowAutoRedirect = false,
            PooledConnectionIdleTimeout = TimeSpan.Zero
        })
        {
            BaseAddress = Root(url),
            Timeout = Timeout.InfiniteTimeSpan,
        };
    private string? _model = model;

    /// <summary>The name that is asked for.</summary>
    public string Model => _model ?? throw new InvalidOperationException("the model is not known yet");

    /// <summary>Takes the first model of the server's list, where none was named.</summary>
    /// <exception cref="CommandException">The server doesn't answer, or has none.</exception>
    public async Task ChooseModelAsync(CancellationToken ct)
    {
        if (_model is not null) return;
        try
        {
            using HttpRequestMessage request = WithHeaders(new HttpRequestMessage(HttpMethod.Get, "v1/models"));
            using HttpResponseMessage response = await _http.SendAsync(request, ct);
            response.EnsureSuccessStatusCode();
            using JsonDocument list = JsonDocument.Parse(await response.Content.ReadAsByteArrayAsync(ct));
            _model = list.RootElement.GetProperty("data")[0].GetProperty("id").GetString();
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException or KeyNotFoundException
            or IndexOutOfRangeException or HttpRequestException)
        {
            throw new CommandException((e as HttpRequestException)?.StatusCode switch
            {
                HttpStatusCode.Unauthorized => $"{_http.BaseAddress} asks for a key: set OPENAI_API_KEY",
                HttpStatusCode.BadRequest => $"{_http.BaseAddress}v1/models is no OpenAI API ({e.Message}); "
                    + "--api grpc speaks to Native's gRPC port",
                _ => $"{_http.BaseAddress}v1/models does not tell a model ({e.Message}); name one with --model",
            });
        }
    }

    public async Task<TokenCounts> SendAsync(Prompt prompt, Action onPiece, CancellationToken ct)
    {
        using HttpRequestMessage request = WithHeaders(
            new HttpRequestMessage(HttpMethod.Post, chat ? "v1/chat/completions" : "v1/completions")
            {
                Content = Body(prompt),
            });
        using HttpResponseMessage response =
            await _http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, ct);
        if (!response.IsSuccessStatusCode)
            throw new RequestFailedException(
                $"HTTP {(int)response.StatusCode}{Retry(response)}: "
                    + Shortened(await response.Content.ReadAsStringAsync(ct)));

        using StreamReader lines = new(await response.Content.ReadAsStreamAsync(ct), Encoding.UTF8);
        TokenCounts counts = default;
        while (await lines.ReadLineAsync(ct) is { } line)
        {
            // a comment, or the empty line between events
            if (!line.StartsWith("data:", StringComparison.Ordinal)) continue;
            string data = line[5..].Trim();
            if (data == "[DONE]") return counts;
            JsonDocument chunk;
            try
            {
                chunk = JsonDocument.Parse(data);
            }
            catch (JsonException)
            {
                throw new RequestFailedException($"the stream has what is no JSON: {Shortened(data)}");
            }
            using (chunk)
            {
                if (chunk.RootElement.TryGetProperty("error", out JsonElement error))
                    throw new RequestFailedException($"the stream has an error: {Shortened(error.GetRawText())}");
                if (HasText(chunk.RootElement)) onPiece();
                if (chunk.RootElement.TryGetProperty("usage", out JsonElement usage)
                    && usage.ValueKind == JsonValueKind.Object)
                    counts = new TokenCounts(Count(usage, "prompt_tokens"), Count(usage, "completion_tokens"));
            }
        }
        throw new RequestFailedException("the stream ended without [DONE]");
    }

    public void Dispose() => _http.Dispose();

    private static string Retry(HttpResponseMessage response) => response.Headers.RetryAfter?.Delta is { } delay
        ? string.Create(CultureInfo.InvariantCulture, $", to be tried again in {delay.TotalSeconds} s") : "";

    /// <summary>Whether there is output in a chunk. A chat's opening, which only names a role, and the chunk that only
    /// tells how it finished have none.</summary>
    private bool HasText(JsonElement chunk)
    {
        if (!chunk.TryGetProperty("choices", out JsonElement choices) || choices.ValueKind != JsonValueKind.Array)
            return false;
        foreach (JsonElement choice in choices.EnumerateArray())
        {
            if (!chat && IsText(choice, "text")) return true;
            if (chat && choice.TryGetProperty("delta", out JsonElement delta)
                && (IsText(delta, "content") || IsText(delta, "reasoning_content") || IsText(delta, "reasoning")))
                return true;
        }
        return false;

        static bool IsText(JsonElement owner, string name) =>
            owner.TryGetProperty(name, out JsonElement text) && text.ValueKind == JsonValueKind.String
                && !text.ValueEquals("");
    }

    private ByteArrayContent Body(Prompt prompt)
    {
        using MemoryStream buffer = new();
        using (Utf8JsonWriter json =
            new(buffer, new JsonWriterOptions { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping }))
        {
            json.WriteStartObject();
            json.WriteString("model", Model);
            if (chat)
            {
                json.WriteStartArray("messages");
                json.WriteStartObject();
                json.WriteString("role", "user");
                json.WriteString("content", prompt.Text);
                json.WriteEndObject();
                json.WriteEndArray();
            }
            else if (prompt.Ids is { } ids)
            {
                json.Numbers("prompt", ids);
            }
            else
            {
                json.WriteString("prompt", prompt.Text);
            }
            json.WriteNumber(chat ? "max_completion_tokens" : "max_tokens", prompt.OutputTokens);
            json.WriteNumber("temperature", 0);
            json.WriteBoolean("stream", true);
            json.WriteStartObject("stream_options");
            json.WriteBoolean("include_usage", true);
            json.WriteEndObject();
            if (ignoreEos) json.WriteBoolean("ignore_eos", true); // not OpenAI's: a strict server refuses it
            if (extra is { } more)
                foreach (JsonProperty member in more.EnumerateObject()) member.WriteTo(json);
            json.WriteEndObject();
        }
        ByteArrayContent content = new(buffer.ToArray());
        content.Headers.ContentType = new MediaTypeHeaderValue("application/json");
        return content;
    }

    private HttpRequestMessage WithHeaders(HttpRequestMessage request)
    {
        foreach ((string name, string value) in headers ?? new Dictionary<string, string>())
            request.Headers.TryAddWithoutValidation(name, value);
        return request;
    }

    private static int? Count(JsonElement usage, string name) =>
        usage.TryGetProperty(name, out JsonElement value) && value.TryGetInt32(out int count) ? count : null;

    private static string Shortened(string text) =>
        text.Length <= MaxErrorLength ? text : text[..MaxErrorLength] + "...";

    /// <summary>With or without /v1 at its end, as people write it.</summary>
    private static Uri Root(Uri url)
    {
        string path = url.GetLeftPart(UriPartial.Path).TrimEnd('/');
        return new Uri((path.EndsWith("/v1", StringComparison.Ordinal) ? path[..^3] : path) + "/");
    }
}
