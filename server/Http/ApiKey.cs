using System.Security.Cryptography;
using System.Text;

namespace Native.Server.Http;

/// <summary>The key that clients must send as <c>Authorization: Bearer KEY</c>.</summary>
/// <param name="key">The key, or null where none is asked for.</param>
internal sealed class ApiKey(string? key)
{
    private const string Scheme = "Bearer ";

    private readonly byte[]? _key = key is null ? null : Encoding.UTF8.GetBytes(key);

    /// <summary>
    /// Whether an Authorization header has the key. A wrong key takes as long to compare as the right one.
    /// </summary>
    public bool Accepts(string? header)
    {
        if (_key is null) return true;
        return header is not null && header.StartsWith(Scheme, StringComparison.OrdinalIgnoreCase)
            && CryptographicOperations.FixedTimeEquals(Encoding.UTF8.GetBytes(header[Scheme.Length..].Trim()), _key);
    }
}
