using System.Diagnostics;
using System.Globalization;
using Google.Protobuf;
using Grpc.Core;
using Grpc.Core.Interceptors;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.Logging;
using Native.Kernels.Text;
using Native.Server.Serving;

namespace Native.Server.Grpc;

/// <summary>Around every gRPC call: lets the right ones in, and turns what went wrong into a status.</summary>
internal sealed class GrpcGuard(ServerOptions options, ILogger<GrpcGuard> log) : Interceptor
{
    /// <summary>Trailer that tells clients when to retry, in milliseconds (gRFC A6).</summary>
    private const string PushbackTrailer = "grpc-retry-pushback-ms";

    /// <summary>Longest message in a header, in characters.</summary>
    private const int MaxMessage = 500;

    private const string Unreadable = "The message could not be read: it is not this method's protobuf, or a string in it is not UTF-8.";

    public override async Task<TResponse> UnaryServerHandler<TRequest, TResponse>(TRequest request, ServerCallContext context, UnaryServerMethod<TRequest, TResponse> continuation)
    {
        TResponse? response = null;
        await Guard(context, async () => response = await continuation(request, context));
        return response!;
    }

    public override Task ServerStreamingServerHandler<TRequest, TResponse>(TRequest request, IServerStreamWriter<TResponse> responseStream, ServerCallContext context, ServerStreamingServerMethod<TRequest, TResponse> continuation) =>
        Guard(context, () => continuation(request, responseStream, context));

    public override Task DuplexStreamingServerHandler<TRequest, TResponse>(IAsyncStreamReader<TRequest> requestStream, IServerStreamWriter<TResponse> responseStream, ServerCallContext context, DuplexStreamingServerMethod<TRequest, TResponse> continuation) =>
        Guard(context, () => continuation(requestStream, responseStream, context));

    /// <summary>Around every HTTP request: tells gRPC clients in gRPC's own way what went wrong outside of a call, where no interceptor is asked.</summary>
    public static async Task TellOutside(HttpContext http, RequestDelegate next)
    {
        await next(http);
        HttpResponse response = http.Response;
        if (response.HasStarted || http.Request.ContentType?.StartsWith("application/grpc", StringComparison.Ordinal) != true) return;
        if (response.StatusCode == StatusCodes.Status404NotFound)
        {
            response.StatusCode = StatusCodes.Status200OK;
            response.ContentType = "application/grpc";
            Tell(StatusCode.Unimplemented, $"There is no method {http.Request.Path.ToUriComponent()} here; reflection lists those there are.");
        }
        // Calls that began have another status: what was thrown before they did was a message that could not be read.
        else if (response.Headers.GrpcStatus == ((int)StatusCode.Unknown).ToString(CultureInfo.InvariantCulture))
            Tell(StatusCode.InvalidArgument, Unreadable);

        void Tell(StatusCode status, string message)
        {
            response.Headers.GrpcStatus = ((int)status).ToString(CultureInfo.InvariantCulture);
            response.Headers.GrpcMessage = message.Length <= MaxMessage ? message : message[..MaxMessage];
        }
    }

    private async Task Guard(ServerCallContext context, Func<Task> call)
    {
        long start = Stopwatch.GetTimestamp();
        StatusCode status = StatusCode.OK;
        try
        {
            // Health is for probes, which have no keys.
            if (!context.Method.StartsWith("/grpc.health.", StringComparison.Ordinal) && !HttpServer.IsAuthorized(context.RequestHeaders.GetValue("authorization"), options.ApiKey))
                throw new RequestException(Failure.Unauthenticated, "The metadata 'authorization: Bearer KEY' is missing or has a wrong key.");
            await call();
        }
        catch (RequestException e)
        {
            status = FailureStatus.Of(e.Failure).Grpc;
            Metadata trailers = [];
            if (e.RetryAfter is { } wait) trailers.Add(PushbackTrailer, Math.Max(1, Math.Ceiling(wait.TotalMilliseconds)).ToString(CultureInfo.InvariantCulture));
            throw new RpcException(new Status(status, e.Message), trailers);
        }
        catch (TextEncodingException e)
        {
            status = FailureStatus.Of(Failure.InvalidArgument).Grpc;
            throw new RpcException(new Status(status, e.Message));
        }
        catch (Exception e) when (e is InvalidProtocolBufferException or InvalidDataException) // a message, or a frame around one, that a streaming call came to read
        {
            status = FailureStatus.Of(Failure.InvalidArgument).Grpc;
            throw new RpcException(new Status(status, Unreadable));
        }
        catch (Exception e) when (context.CancellationToken.IsCancellationRequested || e is OperationCanceledException or IOException) // IOException: reset while its messages were read
        {
            status = context.Deadline <= DateTime.UtcNow ? StatusCode.DeadlineExceeded : StatusCode.Cancelled;
            throw new RpcException(new Status(status, status == StatusCode.Cancelled ? "The call was cancelled." : "The call's deadline passed."));
        }
        catch (RpcException e)
        {
            status = e.StatusCode;
            throw;
        }
        catch (Exception e)
        {
            status = StatusCode.Internal;
            log.LogError(e, "{Method} failed", context.Method);
            throw new RpcException(new Status(status, "The server made a mistake; its log has the details."));
        }
        finally
        {
            if (log.IsEnabled(LogLevel.Debug)) log.LogDebug("{Method} {Status} {Milliseconds:F1} ms", context.Method, status, Stopwatch.GetElapsedTime(start).TotalMilliseconds);
        }
    }
}
