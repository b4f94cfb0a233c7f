using Microsoft.AspNetCore.Http;
using Native.Scheduling;

namespace Native.Server.Tenancy;

/// <summary>Which tenant a request is of: its key's, or the one a trusted gateway names.</summary>
internal static class Caller
{
    /// <summary>Headers by which gateways name the tenant; the newer name comes first.</summary>
    public static readonly string[] Headers = ["x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id"];

    private static readonly object Place = new();

    /// <summary>Notes who calls.</summary>
    /// <param name="http">The request.</param>
    /// <param name="ofKey">The tenant of its key; empty for none.</param>
    /// <param name="trusted">Whether the header counts: any caller may write it.</param>
    public static void Set(HttpContext http, string ofKey, bool trusted)
    {
        string tenant = ofKey;
        foreach (string name in trusted ? Headers : [])
        {
            if ((string?)http.Request.Headers[name] is not { Length: > 0 and <= TenantSpec.MaxName } header) continue;
            tenant = header;
            break;
        }
        http.Items[Place] = tenant;
    }

    /// <summary>Who calls; empty where nobody is told apart.</summary>
    public static string Of(HttpContext http) => (string?)http.Items[Place] ?? "";
}
