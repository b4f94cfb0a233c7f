using Microsoft.AspNetCore.Http;
using Native.Server.Serving;

namespace Native.Server.Http;

/// <summary>The header that names a request, in both directions. gRPC's metadata has it under the same name.</summary>
internal static class RequestIdHeader
{
    public const string Name = "x-request-id";

    /// <summary>Takes an id for the request, and tells the client's own, or else that, in the response.</summary>
    /// <exception cref="RequestException">The client's is no fit name.</exception>
    public static RequestId Enter(HttpContext http, ModelHost host)
    {
        string? given = http.Request.Headers[Name];
        RequestId id = host.Enter(given, shared: true);
        http.Response.Headers[Name] = string.IsNullOrEmpty(given) ? id.ToString() : given;
        return id;
    }
}
