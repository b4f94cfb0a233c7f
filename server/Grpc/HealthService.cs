using Grpc.Core;
using Grpc.Health.V1;
using Microsoft.Extensions.Hosting;
using Native.Server.Serving;
using static Grpc.Health.V1.HealthCheckResponse.Types;

namespace Native.Server.Grpc;

/// <summary>gRPC's health protocol: serving while the model is loaded, nobody drains, and the engine's heart
/// beats.</summary>
/// <remarks>
/// Grpc.HealthCheck's own service has no List, names no service in its refusals, and keeps those who watch past the
/// server's end.
/// </remarks>
internal sealed class HealthService(ModelHost host, IHostApplicationLifetime lifetime) : Health.HealthBase
{
    /// <summary>The server as a whole, and its services that depend on the model.</summary>
    private static readonly string[] Services = ["", "native.v1.Inference"];

    public override Task<HealthCheckResponse> Check(HealthCheckRequest request, ServerCallContext context)
    {
        if (!Services.Contains(request.Service))
            throw new RequestException(Failure.NotFound,
                $"There is no service '{RequestException.Quoted(request.Service)}' here.");
        return Task.FromResult(new HealthCheckResponse { Status = Status });
    }

    public override Task<HealthListResponse> List(HealthListRequest request, ServerCallContext context)
    {
        HealthListResponse response = new();
        foreach (string service in Services)
            response.Statuses.Add(service, new HealthCheckResponse { Status = Status });
        return Task.FromResult(response);
    }

    public override async Task Watch(HealthCheckRequest request, IServerStreamWriter<HealthCheckResponse> responses,
        ServerCallContext context)
    {
        bool known = Services.Contains(request.Service);
        using CancellationTokenSource end =
            CancellationTokenSource.CreateLinkedTokenSource(context.CancellationToken, lifetime.ApplicationStopping);
        ServingStatus told = ServingStatus.Unknown;
        try
        {
            while (true)
            {
                Task changed = host.Changed;
                ServingStatus status = known ? Status : ServingStatus.ServiceUnknown;
                if (status != told) await responses.WriteAsync(new HealthCheckResponse { Status = status }, end.Token);
                told = status;
                await changed.WaitAsync(end.Token);
            }
        }
        catch (OperationCanceledException) when (!context.CancellationToken.IsCancellationRequested)
        {
            // The server ends, and with it the watch.
        }
    }

    private ServingStatus Status => host.IsServing ? ServingStatus.Serving : ServingStatus.NotServing;
}
