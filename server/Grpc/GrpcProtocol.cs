using System.Globalization;
using Grpc.Core;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.DependencyInjection;
using Native.Server.Http;
using Native.Server.Serving;

namespace Native.Server.Grpc;

/// <summary>The gRPC services: <c>native.v1</c>, health and reflection.</summary>
internal sealed class GrpcProtocol : IProtocol
{
    private const string ContentType = "application/grpc";

    public bool Speaks(HttpRequest request) =>
        request.ContentType?.StartsWith(ContentType, StringComparison.Ordinal) == true;

    public void AddServices(IServiceCollection services)
    {
        services.AddGrpc(grpc =>
        {
            grpc.Interceptors.Add<GrpcGuard>();
            // Its catch-all would hide which methods an HTTP address takes.
            grpc.IgnoreUnknownServices = true;
            grpc.MaxReceiveMessageSize = RequestBody.MaxBytes;
        });
        services.AddGrpcReflection();
        services.AddSingleton<GrpcGuard>();
        services.AddSingleton<KvEventStream>();
        services.AddSingleton<InferenceService>();
        services.AddSingleton<HealthService>();
    }

    public void Map(WebApplication app)
    {
        app.Use(TellUnreadable);
        app.MapGrpcService<InferenceService>();
        app.MapGrpcService<HealthService>().AllowAnonymous(); // probes have no keys
        app.MapGrpcReflectionService(); // v1 and v1alpha
    }

    /// <summary>Tells a client what went wrong outside of a call, where no interceptor is asked.</summary>
    public Task WriteErrorAsync(HttpResponse response, RequestException error)
    {
        response.StatusCode = StatusCodes.Status200OK;
        response.ContentType = ContentType;
        if (error.Failure is Failure.NotFound or Failure.WrongMethod)
        {
            string path = response.HttpContext.Request.Path.ToUriComponent();
            Tell(response, StatusCode.Unimplemented,
                $"There is no method {path} here; reflection lists those there are.");
        }
        else Tell(response, FailureStatus.Of(error.Failure).Grpc, error.Message);
        return Task.CompletedTask;
    }

    /// <summary>
    /// Gives a message that could not be read its own status: the library's is UNKNOWN, which no call that began has.
    /// </summary>
    private async Task TellUnreadable(HttpContext http, RequestDelegate next)
    {
        await next(http);
        HttpResponse response = http.Response;
        if (response.HasStarted || !Speaks(http.Request)) return;
        if (response.Headers.GrpcStatus == ((int)StatusCode.Unknown).ToString(CultureInfo.InvariantCulture))
            Tell(response, StatusCode.InvalidArgument, GrpcGuard.Unreadable);
    }

    private static void Tell(HttpResponse response, StatusCode status, string message)
    {
        response.Headers.GrpcStatus = ((int)status).ToString(CultureInfo.InvariantCulture);
        response.Headers.GrpcMessage = message.Length <= GrpcGuard.MaxMessage ? message
            : message[..GrpcGuard.MaxMessage];
    }
}
