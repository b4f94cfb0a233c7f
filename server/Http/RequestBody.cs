using System.IO.Pipelines;
using System.Text.Json;
using System.Text.Unicode;
using Microsoft.AspNetCore.Http;
using Microsoft.Net.Http.Headers;
using Native.Kernels.Text;
using Native.Server.Serving;

namespace Native.Server.Http;

/// <summary>
/// Reads a request's body as JSON that the rest may take as it is: bounded in size, depth and values, and every string
/// of it well-formed. Large bodies are bounded together too: parsed, one is twenty times what was sent.
/// </summary>
internal static class RequestBody
{
    /// <summary>Largest body read. A megabyte of text as a list of ids is about seven; twice that is nobody's honest
    /// prompt.</summary>
    public const int MaxBytes = 16 << 20;

    /// <summary>Deepest nesting read; tool definitions, the deepest honest part, stay below a dozen.</summary>
    private const int MaxDepth = 64;

    /// <summary>Most values read, each end of a list or an object counted: the ids of the longest contexts are a
    /// million.</summary>
    public const int MaxValues = 2 << 20;

    /// <summary>Bodies up to this size are nobody's concern: each costs the server less than its connection.</summary>
    private const int Small = 256 << 10;

    /// <summary>Bytes of larger bodies that are held at once, over all requests.</summary>
    private const long MaxHeld = 512 << 20;

    /// <summary>Larger bodies that are parsed at once. It is work of the processor, so more would take longer
    /// together.</summary>
    private static readonly SemaphoreSlim Parsing = new(2);

    private static long _held;

    /// <summary>Receives a body and hands it to <paramref name="read"/>, whose result must hold nothing of
    /// it.</summary>
    /// <exception cref="RequestException">It is too large, not JSON, or not UTF-8, or it does not arrive, or too many
    /// large ones are here; or <paramref name="read"/> threw.</exception>
    public static async Task<T> ReadAsync<T>(HttpRequest request, Func<JsonElement, T> read, CancellationToken ct)
    {
        CheckHeaders(request);
        // a promised length is no reason for memory
        using MemoryStream body = new((int)Math.Min(request.ContentLength ?? 4096, 1 << 16));
        long held = 0;
        bool parsing = false;
        try
        {
            while (await ReceiveAsync(request, body, ct))
            {
                if (body.Capacity <= Small || body.Capacity == held) continue;
                long more = body.Capacity - held;
                held += more;
                if (Interlocked.Add(ref _held, more) > MaxHeld) throw TooMany();
            }
            if (body.Length > Small)
            {
                await Parsing.WaitAsync(ct);
                parsing = true;
            }
            return read(Parse(body.GetBuffer().AsMemory(0, (int)body.Length)));
        }
        finally
        {
            if (parsing) Parsing.Release();
            Interlocked.Add(ref _held, -held);
        }
    }

    private static void CheckHeaders(HttpRequest request)
    {
        // Browsers send other types to other sites without asking; JSON alone makes them ask first, and nobody answers.
        if (!MediaTypeHeaderValue.TryParse(request.ContentType, out MediaTypeHeaderValue? type)
            || !type.MediaType.Equals("application/json", StringComparison.OrdinalIgnoreCase))
            throw new RequestException(Failure.NotJson, "The header Content-Type must be application/json.",
                code: "unsupported_media_type");
        if (request.Headers.ContentEncoding is [{ } encoding, ..]
            && !encoding.Equals("identity", StringComparison.OrdinalIgnoreCase))
            throw new RequestException(Failure.NotJson,
                $"The body is encoded as '{RequestException.Quoted(encoding)}'; it must be plain JSON.",
                code: "unsupported_encoding");
        if (request.ContentLength > MaxBytes) throw TooLarge();
    }

    /// <summary>Adds what arrived to <paramref name="body"/>; false at its end.</summary>
    private static async ValueTask<bool> ReceiveAsync(HttpRequest request, MemoryStream body, CancellationToken ct)
    {
        try
        {
            ReadResult result = await request.BodyReader.ReadAsync(ct);
            foreach (ReadOnlyMemory<byte> part in result.Buffer) body.Write(part.Span);
            request.BodyReader.AdvanceTo(result.Buffer.End);
            return !result.IsCompleted;
        }
        catch (BadHttpRequestException e) when (e.StatusCode == StatusCodes.Status413PayloadTooLarge)
        {
            throw TooLarge();
        }
        catch (BadHttpRequestException e) when (e.StatusCode == StatusCodes.Status408RequestTimeout)
        {
            throw new RequestException(Failure.BodyTimeout, "The body did not arrive in time.",
                code: "request_timeout");
        }
        catch (BadHttpRequestException e)
        {
            throw RequestException.Invalid($"The body could not be read: {e.Message}", code: "invalid_body");
        }
    }

    /// <summary>The JSON that some text is.</summary>
    /// <exception cref="RequestException">It is not JSON, or not UTF-8, or too deep, or has too many
    /// values.</exception>
    public static JsonElement Parse(ReadOnlyMemory<byte> utf8)
    {
        if (!Utf8.IsValid(utf8.Span))
            throw RequestException.Invalid("The body is not valid UTF-8.", code: "invalid_utf8");
        // some editors begin their files with this mark, and RFC 8259 lets readers pass over it
        if (utf8.Span.StartsWith("\uFEFF"u8)) utf8 = utf8[3..];
        try
        {
            CheckValues(utf8.Span);
            return JsonDocument.Parse(utf8, new JsonDocumentOptions { MaxDepth = MaxDepth }).RootElement;
        }
        catch (JsonException e)
        {
            throw RequestException.Invalid($"The body is not valid JSON: {e.Message}", code: "invalid_json");
        }
    }

    private static void CheckValues(ReadOnlySpan<byte> utf8)
    {
        Utf8JsonReader reader = new(utf8, new JsonReaderOptions { MaxDepth = MaxDepth });
        for (int values = 0; reader.Read(); values++)
        {
            if (values == MaxValues)
                throw RequestException.Invalid($"The body has more than {MaxValues} values.", code: "too_many_values");
            if (!reader.ValueIsEscaped
                || reader.TokenType is not (JsonTokenType.String or JsonTokenType.PropertyName)) continue;
            try
            {
                reader.GetString();
            }
            catch (InvalidOperationException)
            {
                throw RequestException.Invalid(
                    $"The string at byte {reader.TokenStartIndex} of the body has half a surrogate pair; it must "
                        + "be Unicode text.", code: "invalid_utf8");
            }
        }
    }

    private static RequestException TooMany() =>
        new(Failure.Unavailable, $"Bodies of {MaxHeld >> 20} MiB are being read; try again in a moment.",
            code: "too_many_large_bodies")
        { RetryAfter = TimeSpan.FromSeconds(1), Dropped = DroppedReason.Saturated };

    private static RequestException TooLarge() =>
        new(Failure.TooLarge, $"The body is larger than {MaxBytes >> 20} MiB.", code: "request_too_large");
}
