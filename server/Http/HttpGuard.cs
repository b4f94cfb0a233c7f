using System.Diagnostics;
using System.Globalization;
using Microsoft.AspNetCore.Authorization;
using Microsoft.AspNetCore.Connections;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Logging;
using Native.Kernels.Text;
using Native.Server.Serving;
using Native.Server.Tenancy;

namespace Native.Server.Http;

/// <summary>
/// Around every HTTP request: lets the right ones in, and turns what went wrong into its protocol's answer.
/// </summary>
/// <param name="protocols">All protocols. The last one answers where none speaks.</param>
/// <param name="key">The API key.</param>
/// <param name="log">Where faults of the server are told.</param>
internal sealed class HttpGuard(IReadOnlyList<IProtocol> protocols, ApiKey key, ILogger log)
{
    /// <summary>
    /// The paths that need no API key. Probes and scrapers have none. Every other path needs it, known or not, but for
    /// gRPC's health: a service that allows anonymous callers says so in its routes' metadata.
    /// </summary>
    public static readonly string[] Open = ["/healthz", "/health", "/readyz", "/metrics"];

    public async Task HandleAsync(HttpContext http, RequestDelegate next)
    {
        long start = Stopwatch.GetTimestamp();
        try
        {
            if (!key.Accepts(http.Request.Headers.Authorization, out string tenant) && NeedsKey(http))
                throw new RequestException(Failure.Unauthenticated,
                    "The header or metadata 'authorization: Bearer KEY' is missing or has a wrong key.",
                    code: "invalid_api_key");
            Caller.Set(http, tenant, trusted: key.TrustsHeader);
            await next(http);
            if (Unmatched(http) is { } unmatched) throw unmatched;
        }
        catch (RequestException e)
        {
            await Refuse(http, e);
        }
        catch (TextEncodingException e)
        {
            await Refuse(http, RequestException.Invalid(e.Message, code: "text_not_encodable"));
        }
        catch (Exception e) when (http.RequestAborted.IsCancellationRequested
            || e is OperationCanceledException or ConnectionResetException)
        {
            // The client is gone: nobody to answer. The status is for the log.
            if (!http.Response.HasStarted) http.Response.StatusCode = FailureStatus.Of(Failure.Cancelled).Http;
        }
        catch (BadHttpRequestException e)
        {
            await Refuse(http, e.StatusCode == StatusCodes.Status413PayloadTooLarge
                ? new RequestException(Failure.TooLarge, "The body is too large.", code: "request_too_large")
                : RequestException.Invalid(e.Message, code: "invalid_body"));
        }
        catch (Exception e)
        {
            log.LogError(e, "{Method} {Path} failed", http.Request.Method, http.Request.Path);
            await Refuse(http, new RequestException(Failure.Internal,
                "The server made a mistake; its log has the details.", code: "internal_error"));
        }
        finally
        {
            if (log.IsEnabled(LogLevel.Debug))
                log.LogDebug("{Method} {Path} {Status} {Milliseconds:F1} ms {Id}",
                    http.Request.Method, http.Request.Path, http.Response.StatusCode,
                    Stopwatch.GetElapsedTime(start).TotalMilliseconds,
                    http.Response.Headers[RequestIdHeader.Name].ToString());
        }
    }

    /// <summary>
    /// Whether a request must show the key. Its path decides, before anything of it is read: nothing that a client says
    /// of its content is a way around the key, or a way to learn what is here.
    /// </summary>
    private static bool NeedsKey(HttpContext http)
    {
        if (http.GetEndpoint()?.Metadata.GetMetadata<IAllowAnonymous>() is not null) return false;
        string path = http.Request.Path.Value ?? "";
        if (path.EndsWith('/')) path = path[..^1]; // routing takes one slash more, and no second
        return !Open.Contains(path, StringComparer.OrdinalIgnoreCase);
    }

    /// <summary>What routing says without a word, in this server's words.</summary>
    private static RequestException? Unmatched(HttpContext http)
    {
        HttpResponse response = http.Response;
        if (response.HasStarted || response.ContentLength is not null || response.ContentType is not null) return null;
        return response.StatusCode switch
        {
            StatusCodes.Status404NotFound => new RequestException(Failure.NotFound,
                $"There is no {http.Request.Method} {http.Request.Path} here.", code: "unknown_url"),
            StatusCodes.Status405MethodNotAllowed => new RequestException(Failure.WrongMethod,
                $"{http.Request.Path} does not take {http.Request.Method}; see the header Allow.",
                code: "method_not_allowed"),
            _ => null,
        };
    }

    private Task Refuse(HttpContext http, RequestException error)
    {
        HttpResponse response = http.Response;
        if (response.HasStarted)
        {
            http.Abort(); // half an answer must not look whole
            return Task.CompletedTask;
        }
        if (error.RetryAfter is { } wait)
            response.Headers.RetryAfter = Math.Max(1, Math.Ceiling(wait.TotalSeconds))
                .ToString(CultureInfo.InvariantCulture);
        if (error.Dropped is { } reason) response.Headers[DroppedReason.Header] = reason;
        if (error.Failure == Failure.Unauthenticated) response.Headers.WWWAuthenticate = "Bearer";
        IProtocol protocol = protocols.FirstOrDefault(protocol => protocol.Speaks(http.Request)) ?? protocols[^1];
        return protocol.WriteErrorAsync(response, error);
    }
}
