using System.Buffers;
using System.Text.Json;
using System.Text.Unicode;
using Microsoft.AspNetCore.Http;
using Microsoft.Net.Http.Headers;
using Native.Kernels.Text;
using Native.Server.Serving;

namespace Native.Server.Http;

/// <summary>Reads a request's body as JSON that the rest may take as it is: bounded in size and depth, and every string
/// of it well-formed.</summary>
internal static class RequestBody
{
    /// <summary>Largest body read. A megabyte of text as a list of ids is about seven; twice that is nobody's honest
    /// prompt.</summary>
    public const int MaxBytes = 16 << 20;

    /// <summary>Deepest nesting read; tool definitions, the deepest honest part, stay below a dozen.</summary>
    private const int MaxDepth = 64;

    /// <exception cref="RequestException">It is too large, not JSON, or not UTF-8, or it does not arrive.</exception>
    public static async Task<JsonElement> ReadAsync(HttpRequest request, CancellationToken ct)
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

        // a promised length is no reason for memory
        using MemoryStream body = new((int)Math.Min(request.ContentLength ?? 4096, 1 << 16));
        try
        {
            await request.Body.CopyToAsync(body, ct);
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
        return Parse(body.GetBuffer().AsSpan(0, (int)body.Length));
    }

    /// <inheritdoc cref="ReadAsync"/>
    public static JsonElement Parse(ReadOnlySpan<byte> utf8)
    {
        if (!Utf8.IsValid(utf8)) throw RequestException.Invalid("The body is not valid UTF-8.", code: "invalid_utf8");
        // some editors begin their files with this mark, and RFC 8259 lets readers pass over it
        if (utf8.StartsWith("\uFEFF"u8)) utf8 = utf8[3..];
        try
        {
            Utf8JsonReader strings = new(utf8, new JsonReaderOptions { MaxDepth = MaxDepth });
            while (strings.Read())
            {
                if (!strings.ValueIsEscaped
                    || strings.TokenType is not (JsonTokenType.String or JsonTokenType.PropertyName)) continue;
                try
                {
                    strings.GetString();
                }
                catch (InvalidOperationException)
                {
                    throw RequestException.Invalid(
                        $"The string at byte {strings.TokenStartIndex} of the body has half a surrogate pair; it must "
                            + $"be Unicode text.", code: "invalid_utf8");
                }
            }
            Utf8JsonReader reader = new(utf8, new JsonReaderOptions { MaxDepth = MaxDepth });
            return JsonElement.ParseValue(ref reader);
        }
        catch (JsonException e)
        {
            throw RequestException.Invalid($"The body is not valid JSON: {e.Message}", code: "invalid_json");
        }
    }

    private static RequestException TooLarge() =>
        new(Failure.TooLarge, $"The body is larger than {MaxBytes >> 20} MiB.", code: "request_too_large");
}
