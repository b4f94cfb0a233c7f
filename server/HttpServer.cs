using System.Diagnostics;
using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Microsoft.Extensions.Logging;
using Native.Kernels.Text;
using Native.Server.Http;
using Native.Server.Metrics;
using Native.Server.OpenAi;
using Native.Server.Serving;

namespace Native.Server;

/// <summary>The HTTP side: addresses, errors, keys, request ids.</summary>
internal static class HttpServer
{
    public const string RequestIdHeader = "x-request-id";

    /// <summary>Who may GET may ask for the headers alone (RFC 9110, 9.1); load balancers do.</summary>
    private static readonly string[] Reading = [HttpMethods.Get, HttpMethods.Head];

    public static void Map(WebApplication app, ModelHost host, RequestMetrics metrics, Exposition exposition, ServerOptions options)
    {
        ILogger log = app.Logger;
        app.Use((http, next) => Guard(http, next, options.ApiKey, log));
        app.UseRouting();

        app.MapPost("/v1/completions", (RequestDelegate)(http => Completions.HandleAsync(http, host, metrics)));
        app.MapPost("/v1/chat/completions", (RequestDelegate)(http => Chats.HandleAsync(http, host, metrics)));
        app.MapMethods("/v1/models", Reading, (RequestDelegate)(http => JsonText.WriteAsync(http.Response, StatusCodes.Status200OK, json =>
        {
            json.WriteStartObject();
            json.WriteString("object", "list");
            json.WriteStartArray("data");
            WriteModel(json, host.Require(null));
            json.WriteEndArray();
            json.WriteEndObject();
        })));
        app.MapMethods("/v1/models/{**id}", Reading, (RequestDelegate)(http =>
        {
            // A slash in a name comes as it is or escaped, and stays as it came.
            string? id = ((string?)http.Request.RouteValues["id"])?.Replace("%2F", "/", StringComparison.OrdinalIgnoreCase);
            return JsonText.WriteAsync(http.Response, StatusCodes.Status200OK, json => WriteModel(json, host.Require(id)));
        }));

        app.MapMethods("/healthz", Reading, (RequestDelegate)(http => http.Response.WriteAsync("ok\n")));
        app.MapMethods("/health", Reading, (RequestDelegate)Ready);
        app.MapMethods("/readyz", Reading, (RequestDelegate)Ready);
        app.MapMethods("/metrics", Reading, (RequestDelegate)(http =>
        {
            http.Response.ContentType = Exposition.ContentType;
            return exposition.WriteAsync(http.Response.Body, http.RequestAborted);
        }));

        Task Ready(HttpContext http)
        {
            http.Response.StatusCode = host.IsServing ? StatusCodes.Status200OK : StatusCodes.Status503ServiceUnavailable;
            string state = host.State == HostState.Ready && !host.IsServing ? "stalled" : host.State.ToString().ToLowerInvariant();
            return http.Response.WriteAsync(state + "\n");
        }
    }

    /// <summary>Takes the request's id, the client's own where it sent one, and tells it in the response.</summary>
    public static RequestId Enter(HttpContext http, ModelHost host)
    {
        RequestId id = host.Enter(http.Request.Headers[RequestIdHeader]);
        http.Response.Headers[RequestIdHeader] = id.ToString();
        return id;
    }

    /// <summary>Whether an Authorization header has the key; the comparison takes as long however much of it is right.</summary>
    public static bool IsAuthorized(string? header, string? key)
    {
        const string Scheme = "Bearer ";
        if (key is null) return true;
        return header is not null && header.StartsWith(Scheme, StringComparison.OrdinalIgnoreCase)
            && CryptographicOperations.FixedTimeEquals(Encoding.UTF8.GetBytes(header[Scheme.Length..].Trim()), Encoding.UTF8.GetBytes(key));
    }

    /// <summary>Around every HTTP request: lets the right ones in, and turns what went wrong into an answer.</summary>
    private static async Task Guard(HttpContext http, RequestDelegate next, string? key, ILogger log)
    {
        long start = Stopwatch.GetTimestamp();
        try
        {
            if (http.Request.Path.StartsWithSegments("/v1") && !IsAuthorized(http.Request.Headers.Authorization, key))
                throw new RequestException(Failure.Unauthenticated, "The header 'Authorization: Bearer KEY' is missing or has a wrong key.", code: "invalid_api_key");
            await next(http);
            if (!http.Response.HasStarted && http.Response.ContentLength is null && http.Response.ContentType is null && Unmatched(http) is { } unmatched) throw unmatched;
        }
        catch (RequestException e)
        {
            await Refuse(http, e);
        }
        catch (TextEncodingException e)
        {
            await Refuse(http, RequestException.Invalid(e.Message, code: "text_not_encodable"));
        }
        catch (Exception e) when (http.RequestAborted.IsCancellationRequested || e is OperationCanceledException)
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
            await Refuse(http, new RequestException(Failure.Internal, "The server made a mistake; its log has the details.", code: "internal_error"));
        }
        finally
        {
            if (log.IsEnabled(LogLevel.Debug))
                log.LogDebug("{Method} {Path} {Status} {Milliseconds:F1} ms {Id}", http.Request.Method, http.Request.Path, http.Response.StatusCode, Stopwatch.GetElapsedTime(start).TotalMilliseconds, http.Response.Headers[RequestIdHeader].ToString());
        }
    }

    /// <summary>What routing says without a word, in this API's words. gRPC speaks for itself.</summary>
    private static RequestException? Unmatched(HttpContext http) => http.Response.StatusCode switch
    {
        StatusCodes.Status404NotFound => new RequestException(Failure.NotFound, $"There is no {http.Request.Method} {http.Request.Path} here.", code: "unknown_url"),
        StatusCodes.Status405MethodNotAllowed => new RequestException(Failure.WrongMethod, $"{http.Request.Path} does not take {http.Request.Method}; see the header Allow.", code: "method_not_allowed"),
        _ => null,
    };

    private static Task Refuse(HttpContext http, RequestException error)
    {
        if (http.Response.HasStarted)
        {
            http.Abort(); // half an answer must not look whole
            return Task.CompletedTask;
        }
        if (error.RetryAfter is { } wait) http.Response.Headers.RetryAfter = Math.Max(1, Math.Ceiling(wait.TotalSeconds)).ToString(CultureInfo.InvariantCulture);
        if (error.Failure == Failure.Unauthenticated) http.Response.Headers.WWWAuthenticate = "Bearer";
        return JsonText.WriteAsync(http.Response, FailureStatus.Of(error.Failure).Http, json => JsonText.WriteError(json, error));
    }

    private static void WriteModel(Utf8JsonWriter json, ServedModel model)
    {
        json.WriteStartObject();
        json.WriteString("id", model.Name);
        json.WriteString("object", "model");
        json.WriteNumber("created", model.Created.ToUnixTimeSeconds());
        json.WriteString("owned_by", "native");
        json.WriteString("root", model.Info.Name);
        json.WriteNull("parent");
        json.WriteNumber("max_model_len", model.Info.MaxModelLength);
        json.WriteEndObject();
    }
}
