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

        app.MapMethods("/healthz", Routes.Reading, (RequestDelegate)(http => http.Response.WriteAsync("ok\n")));
        app.MapMethods("/health", Routes.Reading, (RequestDelegate)Ready);
        app.MapMethods("/readyz", Routes.Reading, (RequestDelegate)Ready);
        app.MapMethods("/metrics", Routes.Reading, (RequestDelegate)(http =>
        {
            http.Response.ContentType = Exposition.ContentType;
            return exposition.WriteAsync(http.Response.Body, http.RequestAborted);
        }));

        Task Ready(HttpContext http)
        {
            http.Response.StatusCode =
                host.IsServing ? StatusCodes.Status200OK : StatusCodes.Status503ServiceUnavailable;
            bool stalled = host.State == HostState.Ready && !host.IsServing;
            return http.Response.WriteAsync((stalled ? "stalled" : host.State.ToString().ToLowerInvariant()) + "\n");
        }
    }
}
