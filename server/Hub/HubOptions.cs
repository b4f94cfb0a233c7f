using System.Globalization;

namespace Native.Server.Hub;

/// <summary>Where models come from and where they are kept. The variables and defaults are those of the official
/// client, huggingface_hub.</summary>
public sealed record HubOptions
{
    /// <summary>The hub's address (<c>HF_ENDPOINT</c>).</summary>
    public Uri Endpoint { get; init; } = new("https://huggingface.co");

    /// <summary>Sent to <see cref="Endpoint"/> and nowhere else (<c>HF_TOKEN</c>, or the file that <c>HF_TOKEN_PATH</c>
    /// names, or <c>token</c> in <c>HF_HOME</c>). Null: none.</summary>
    public string? Token { get; init; }

    /// <summary>The folder of all repositories (<c>HF_HUB_CACHE</c>, or <c>hub</c> in <c>HF_HOME</c>).</summary>
    public required string Cache { get; init; }

    /// <summary>Take what is in the cache and ask nobody (<c>HF_HUB_OFFLINE</c>).</summary>
    public bool Offline { get; init; }

    /// <summary>Let snapshots be links to the blobs where the system can (<c>HF_HUB_DISABLE_SYMLINKS</c>).</summary>
    public bool Symlinks { get; init; } = true;

    /// <summary>How long a connection may take to come about.</summary>
    public TimeSpan ConnectTimeout { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>How long nothing may arrive before an attempt counts as lost (<c>HF_HUB_DOWNLOAD_TIMEOUT</c>, seconds).
    /// Default 30, not the official 10: a store that fetches a cold file first is slower than that.</summary>
    public TimeSpan StallTimeout { get; init; } = TimeSpan.FromSeconds(30);

    /// <summary>Attempts after the first that may fail one after the other without getting further.</summary>
    public int Retries { get; init; } = 5;

    /// <summary>Wait before the first retry; it doubles with each up to <see cref="LongestWait"/>.</summary>
    public TimeSpan Backoff { get; init; } = TimeSpan.FromSeconds(1);

    /// <summary>A server that asks for a longer wait is not waited for. Default 5 minutes, the window of the hub's rate
    /// limits.</summary>
    public TimeSpan LongestWait { get; init; } = TimeSpan.FromMinutes(5);

    /// <summary>Ranges that are fetched at once. Default 4: one connection seldom fills a line, more than a few only
    /// share it.</summary>
    public int Connections { get; init; } = 4;

    /// <summary>Bytes of one range. Default 64 MiB: a second of a fast line, so that asking for it is no part of the
    /// time.</summary>
    public long RangeBytes { get; init; } = 64L << 20;

    /// <summary>As this process's environment says.</summary>
    /// <exception cref="HubException">A variable has a value that can't be.</exception>
    public static HubOptions FromEnvironment() => From(Environment.GetEnvironmentVariable);

    /// <summary>As <paramref name="variable"/> says.</summary>
    /// <exception cref="HubException">A variable has a value that can't be.</exception>
    internal static HubOptions From(Func<string, string?> variable)
    {
        string? Get(params ReadOnlySpan<string> names)
        {
            foreach (string name in names)
                if (variable(name) is { Length: > 0 } value) return value;
            return null;
        }
        string user = Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);
        string Expand(string path) =>
            path == "~" ? user : path.StartsWith("~/", StringComparison.Ordinal) ? Path.Combine(user, path[2..]) : path;

        string home =
            Expand(Get("HF_HOME")
                ?? Path.Combine(Get("XDG_CACHE_HOME") ?? Path.Combine(user, ".cache"), "huggingface"));
        HubOptions options = new()
        {
            Cache = Path.GetFullPath(Expand(Get("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE") ?? Path.Combine(home, "hub"))),
            Token = Clean(
                Get("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
                    ?? ReadToken(Expand(Get("HF_TOKEN_PATH") ?? Path.Combine(home, "token")))),
            Offline = IsTrue(Get("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")),
            Symlinks = !IsTrue(Get("HF_HUB_DISABLE_SYMLINKS")),
        };
        if (Get("HF_ENDPOINT") is { } endpoint)
        {
            if (!Uri.TryCreate(endpoint.TrimEnd('/'), UriKind.Absolute, out Uri? uri)
                || uri.Scheme is not ("http" or "https")
                || uri.UserInfo.Length + uri.Query.Length + uri.Fragment.Length > 0)
                throw new HubException(
                    $"HF_ENDPOINT is '{endpoint}'; it must be an address such as {options.Endpoint.OriginalString}");
            options = options with { Endpoint = uri };
        }
        if (Get("HF_HUB_DOWNLOAD_TIMEOUT") is { } timeout)
        {
            if (!int.TryParse(timeout, NumberStyles.None, CultureInfo.InvariantCulture, out int seconds)
                || seconds is < 1 or > 86400)
                throw new HubException($"HF_HUB_DOWNLOAD_TIMEOUT is '{timeout}'; it must be from 1 to 86400 seconds");
            options = options with { StallTimeout = TimeSpan.FromSeconds(seconds) };
        }
        return options;
    }

    private static bool IsTrue(string? value) => value?.ToUpperInvariant() is "1" or "ON" or "YES" or "TRUE";

    private static string? ReadToken(string path)
    {
        try
        {
            return File.ReadAllText(path);
        }
        catch (Exception e) when (e is FileNotFoundException or DirectoryNotFoundException)
        {
            return null;
        }
    }

    private static string? Clean(string? token)
    {
        token = token?.Trim();
        if (string.IsNullOrEmpty(token)) return null;
        // It becomes part of a header; what it is stays out of the message.
        return token.AsSpan().ContainsAnyExceptInRange('!', '~')
            ? throw new HubException(
                "the hub's token (HF_TOKEN, or the token file) must be one line of printable ASCII characters without "
                    + "spaces") : token;
    }
}
