using Microsoft.AspNetCore.Http;
using Native.Server.Serving;

namespace Native.Server.Http;

/// <summary>The header that names a request, in both directions. gRPC's metadata has it under the same name.</summary>
internal static class RequestIdHeader
{
    public const string Name = "x-request-id";

    /// <summary>Takes the request's id, the client's own where it sent one, and tells it in the response.</summary>
    /// <exception cref="RequestException">The id is in use, or no fit name.</exception>
    public static RequestId Enter(HttpContext http, ModelHost host)
    {
        RequestId id = host.Enter(http.Request.Headers[Name]);
        http.Response.Headers[Name] = id.ToString();
        return id;
    }
}
