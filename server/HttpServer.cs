using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.DependencyInjection;
using Native.Server.Http;
using Native.Server.Metrics;
using Native.Server.Serving;

namespace Native.Server;

/// <summary>The HTTP side: the guard around every request, the protocols' routes, health and metrics.</summary>
internal static class HttpServer
{
    public static void Map(WebApplication app)
    {
        ModelHost host = app.Services.GetRequiredService<ModelHost>();
        Exposition exposition = app.Services.GetRequiredService<Exposition>();
        HttpGuard guard = new(Protocols.All, app.Services.GetRequiredService<ApiKey>(), app.Logger);
        app.UseRouting(); // first, because the guard asks which route a request has
        app.Use(guard.HandleAsync);
        foreach (IProtocol protocol in Protocols.All) protocol.Map(app);

        app.MapMethods("/healthz", Routes.Reading, (RequestDelegate)Alive);
        app.MapMethods("/health", Routes.Reading, (RequestDelegate)Ready);
        app.MapMethods("/readyz", Routes.Reading, (RequestDelegate)Ready);
        app.MapMethods("/metrics", Routes.Reading, (RequestDelegate)(http =>
        {
            http.Response.ContentType = Exposition.ContentType;
            return exposition.WriteAsync(http.Response.Body, http.RequestAborted);
        }));

        Task Alive(HttpContext http) =>
            Tell(http, host.Stall is null && host.State != HostState.Broken, "ok");

        Task Ready(HttpContext http) => Tell(http, host.IsServing, host.State.ToString().ToLowerInvariant());

        Task Tell(HttpContext http, bool good, string state)
        {
            http.Response.StatusCode = good ? StatusCodes.Status200OK : StatusCodes.Status503ServiceUnavailable;
            if (host.Stall is { } stall) state = $"stalled: {stall}";
            else if (!good && host.Fault is { } fault) state = $"broken: {fault}";
            return http.Response.WriteAsync($"{state}\n");
        }
    }
}
