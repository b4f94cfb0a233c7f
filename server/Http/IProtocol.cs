using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.Extensions.DependencyInjection;
using Native.Server.Serving;

namespace Native.Server.Http;

/// <summary>
/// One way to talk to the server: which requests are its own, its routes, and how it tells what went wrong.
/// </summary>
internal interface IProtocol
{
    /// <summary>
    /// Whether a request is this protocol's, on one of its routes or not: its errors are told in this protocol's way.
    /// </summary>
    bool Speaks(HttpRequest request);

    /// <summary>Registers what its routes need, before <see cref="Map"/>.</summary>
    void AddServices(IServiceCollection services)
    {
    }

    /// <summary>
    /// Adds its routes. <see cref="HttpGuard"/> asks for the API key before they are asked.
    /// </summary>
    void Map(WebApplication app);

    /// <summary>Answers a request that failed before anything was sent.</summary>
    Task WriteErrorAsync(HttpResponse response, RequestException error);
}
