using Microsoft.AspNetCore.Http;

namespace Native.Server.Http;

/// <summary>What routes have in common.</summary>
internal static class Routes
{
    /// <summary>Who may GET may ask for the headers alone (RFC 9110, 9.1); load balancers do.</summary>
    public static readonly string[] Reading = [HttpMethods.Get, HttpMethods.Head];
}
