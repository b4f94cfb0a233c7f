using System.Security.Cryptography;
using System.Text;
using Native.Server.Tenancy;

namespace Native.Server.Http;

/// <summary>The keys that clients must send as <c>Authorization: Bearer KEY</c>.</summary>
/// <param name="key">The key of no tenant, or null.</param>
/// <param name="tenants">Tenants with keys of their own.</param>
/// <param name="trustsHeader">Whether a gateway's header may name the tenant though a key is asked for.</param>
internal sealed class ApiKey(string? key, IReadOnlyList<TenantEntry> tenants, bool trustsHeader)
{
    private const string Scheme = "Bearer ";

    private readonly (byte[] Digest, string Tenant)[] _keys =
    [
        .. key is null ? [] : new[] { (Digest(key), "") },
        .. tenants.SelectMany(tenant => tenant.Keys.Select(own => (Digest(own), tenant.Spec.Name))),
    ];

    /// <summary>Whether a gateway's header names the tenant.</summary>
    public bool TrustsHeader => trustsHeader || _keys.Length == 0;

    /// <summary>Whether an Authorization header has a key. A wrong key takes as long to compare as a right
    /// one.</summary>
    /// <param name="header">The header.</param>
    /// <param name="tenant">Whose key it is; empty for nobody's.</param>
    public bool Accepts(string? header, out string tenant)
    {
        tenant = "";
        if (_keys.Length == 0) return true;
        if (header is null || !header.StartsWith(Scheme, StringComparison.OrdinalIgnoreCase)) return false;
        byte[] digest = Digest(header[Scheme.Length..].Trim());
        int found = -1;
        for (int i = 0; i < _keys.Length; i++)
            if (CryptographicOperations.FixedTimeEquals(digest, _keys[i].Digest)) found = i;
        if (found < 0) return false;
        tenant = _keys[found].Tenant;
        return true;
    }

    private static byte[] Digest(string key) => SHA256.HashData(Encoding.UTF8.GetBytes(key));
}
