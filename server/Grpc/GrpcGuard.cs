using System.Diagnostics;
using System.Globalization;
using Google.Protobuf;
using Grpc.Core;
using Grpc.Core.Interceptors;
using Microsoft.Extensions.Logging;
using Native.Kernels.Text;
using Native.Server.Http;
using Native.Server.Serving;

namespace Native.Server.Grpc;

/// <summary>Around every gRPC call that <see cref="HttpGuard"/> let in: turns what went wrong into a status.</summary>
internal sealed class GrpcGuard(ILogger<GrpcGuard> log) : Interceptor
{
    /// <summary>Trailer that tells clients when to retry, in milliseconds (gRFC A6).</summary>
    private const string PushbackTrailer = "grpc-retry-pushback-ms";

    /// <summary>Trailer with the code that HTTP's errors have.</summary>
    private const string CodeTrailer = "error-code";

    /// <summary>Longest message in a header, in characters.</summary>
    public const int MaxMessage = 500;

    public const string Unreadable =
        "The message could not be read: it is not this method's protobuf, or a string in it is not UTF-8.";

    public override async Task<TResponse> UnaryServerHandler<TRequest, TResponse>(
        TRequest request, ServerCallContext context, UnaryServerMethod<TRequest, TResponse> continuation)
    {
        TResponse? response = null;
        await Guard(context, async () => response = await continuation(request, context));
        return response!;
    }

    public override Task ServerStreamingServerHandler<TRequest, TResponse>(
        TRequest request, IServerStreamWriter<TResponse> responseStream, ServerCallContext context,
        ServerStreamingServerMethod<TRequest, TResponse> continuation) =>
        Guard(context, () => continuation(request, responseStream, context));

    public override Task DuplexStreamingServerHandler<TRequest, TResponse>(
        IAsyncStreamReader<TRequest> requestStream, IServerStreamWriter<TResponse> responseStream,
        ServerCallContext context, DuplexStreamingServerMethod<TRequest, TResponse> continuation) =>
        Guard(context, () => continuation(requestStream, responseStream, context));

    private async Task Guard(ServerCallContext context, Func<Task> call)
    {
        long start = Stopwatch.GetTimestamp();
        StatusCode status = StatusCode.OK;
        try
        {
            await call();
        }
        catch (RequestException e)
        {
            status = FailureStatus.Of(e.Failure).Grpc;
            Metadata trailers = [];
            if (e.RetryAfter is { } wait)
                trailers.Add(PushbackTrailer,
                    Math.Max(1, Math.Ceiling(wait.TotalMilliseconds)).ToString(CultureInfo.InvariantCulture));
            if (e.Dropped is { } reason) trailers.Add(DroppedReason.Header, reason);
            if (e.Code is { } code) trailers.Add(CodeTrailer, code);
            throw new RpcException(new Status(status, e.Message), trailers);
        }
        catch (TextEncodingException e)
        {
            status = FailureStatus.Of(Failure.InvalidArgument).Grpc;
            throw new RpcException(new Status(status, e.Message));
        }
        // a message, or a frame around one, that a streaming call came to read
        catch (Exception e) when (e is InvalidProtocolBufferException or InvalidDataException)
        {
            status = FailureStatus.Of(Failure.InvalidArgument).Grpc;
            throw new RpcException(new Status(status, Unreadable));
        }
        // IOException: reset while its messages were read
        catch (Exception e) when (context.CancellationToken.IsCancellationRequested
            || e is OperationCanceledException or IOException)
        {
            status = context.Deadline <= DateTime.UtcNow ? StatusCode.DeadlineExceeded : StatusCode.Cancelled;
            throw new RpcException(
                new Status(status,
                    status == StatusCode.Cancelled ? "The call was cancelled." : "The call's deadline passed."));
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
            if (log.IsEnabled(LogLevel.Debug))
                log.LogDebug("{Method} {Status} {Milliseconds:F1} ms", context.Method, status,
                    Stopwatch.GetElapsedTime(start).TotalMilliseconds);
        }
    }
}
