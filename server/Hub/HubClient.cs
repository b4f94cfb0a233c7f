using System.Globalization;
using System.Net;
using System.Net.Http.Headers;
using System.Text.Json;

namespace Native.Server.Hub;

/// <summary>A file on the hub.</summary>
/// <param name="Repository"><c>ORG/REPO</c>.</param>
/// <param name="Commit">The commit it is of.</param>
/// <param name="Path">Its name in the repository.</param>
/// <param name="Etag">SHA-256 of a file in large-file storage, git's SHA-1 of any other; in hexadecimal.</param>
/// <param name="Size">Bytes.</param>
internal sealed record HubFile(string Repository, string Commit, string Path, string Etag, long Size);

/// <summary>What a repository has at a revision.</summary>
/// <param name="Commit">The commit that the revision is.</param>
/// <param name="Files">Sizes by names; null where the hub tells none.</param>
internal sealed record HubListing(string Commit, IReadOnlyDictionary<string, long?> Files);

/// <summary>The hub's HTTP protocol. Every call may end in <see cref="TransientException"/>, for which
/// <see cref="RetryAsync"/> is.</summary>
internal sealed class HubClient : IDisposable
{
    private const int MaxRedirects = 8;

    /// <summary>Longest list of files. The largest repositories stay below a tenth of it.</summary>
    private const int MaxListingBytes = 64 << 20;

    /// <summary>Longest file that is believed in: a hundred times the largest there is.</summary>
    private const long MaxFileBytes = 1L << 44;

    private readonly HubOptions _options;
    private readonly HttpClient _http;

    public HubClient(HubOptions options)
    {
        _options = options;
        // Redirects are followed here, so that the token stays with the hub. Bodies come as they are: ranges and
        // lengths count bytes of the file.
        _http = new HttpClient(
            new SocketsHttpHandler
            {
                AllowAutoRedirect = false,
                AutomaticDecompression = DecompressionMethods.None,
                UseCookies = false,
                ConnectTimeout = options.ConnectTimeout
            })
        {
            Timeout = Timeout.InfiniteTimeSpan,
        };
        _http.DefaultRequestHeaders.UserAgent.Add(
            new ProductInfoHeaderValue("native", typeof(HubClient).Assembly.GetName().Version?.ToString(3)));
        _http.DefaultRequestHeaders.AcceptEncoding.Add(new StringWithQualityHeaderValue("identity"));
    }

    /// <summary>The files of a repository.</summary>
    public async Task<HubListing> ListAsync(string repository, string revision, CancellationToken ct)
    {
        using Stall stall = new(_options.StallTimeout, ct);
        string what = $"{repository} at {revision}";
        using HttpResponseMessage response =
            await FollowAsync(Address($"api/models/{repository}/revision/{Uri.EscapeDataString(revision)}?blobs=true"),
                null, stall);
        Check(response, repository, revision, file: null);
        byte[] body = await ReadAsync(response, what, stall);
        try
        {
            using JsonDocument json = JsonDocument.Parse(body);
            string commit = json.RootElement.GetProperty("sha").GetString()!;
            if (!HubCache.IsCommit(commit)) throw new FormatException();
            Dictionary<string, long?> files = new(StringComparer.Ordinal);
            foreach (JsonElement file in json.RootElement.GetProperty("siblings").EnumerateArray())
            {
                string path = file.GetProperty("rfilename").GetString() ?? "";
                // What could lie outside its folder is no file of a model.
                if (HubReference.IsRelativePath(path))
                    files[path] =
                        file.TryGetProperty("size", out JsonElement size) && size.ValueKind == JsonValueKind.Number
                            && size.TryGetInt64(out long bytes) ? bytes : null;
            }
            return new HubListing(commit, files);
        }
        catch (Exception e) when (e is JsonException or KeyNotFoundException or InvalidOperationException
            or FormatException or ArgumentNullException)
        {
            throw new HubException(
                $"{_options.Endpoint.OriginalString} answered for {what} with no list of files (HF_ENDPOINT must be a "
                    + "Hugging Face hub)", e);
        }
    }

    /// <summary>What the hub tells of a file: its commit, hash and size.</summary>
    public async Task<HubFile> LookUpAsync(string repository, string revision, string path, CancellationToken ct)
    {
        using Stall stall = new(_options.StallTimeout, ct);
        Uri uri = FileAddress(repository, revision, path);
        string? commit = null, etag = null, size = null;
        for (int hop = 0; hop <= MaxRedirects; hop++)
        {
            using HttpResponseMessage response = await SendAsync(HttpMethod.Head, uri, null, stall);
            commit ??= Header(response, "X-Repo-Commit");
            etag ??= Header(response, "X-Linked-Etag");
            size ??= Header(response, "X-Linked-Size");
            // The storage a large file lies in knows nothing of the hub's hashes; what moves within the hub, such as a
            // renamed repository, is followed.
            if (Target(response, uri) is { } target && IsHub(target))
            {
                uri = target;
                continue;
            }
            if (!IsRedirect(response))
            {
                Check(response, repository, revision, path);
                size ??= response.Content.Headers.ContentLength?.ToString(CultureInfo.InvariantCulture);
            }
            etag ??= response.Headers.ETag?.Tag;
            break;
        }
        string hash = (etag ?? "").Replace("W/", "", StringComparison.Ordinal).Trim('"').ToLowerInvariant();
        if (commit is null || !HubCache.IsCommit(commit) || hash.Length is not (40 or 64)
            || !hash.All(char.IsAsciiHexDigitLower)
            || !long.TryParse(size, NumberStyles.None, CultureInfo.InvariantCulture, out long bytes)
            || bytes > MaxFileBytes)
        {
            throw new HubException(
                $"{_options.Endpoint.OriginalString} did not tell commit, hash and size "
                    + $"of {path} in {repository} (HF_ENDPOINT must be a Hugging Face hub)");
        }
        return new HubFile(repository, commit, path, hash, bytes);
    }

    /// <summary>Asks for a file's bytes. Whether the answer is the range asked for, the whole file or another range is
    /// for the caller to see.</summary>
    /// <param name="file">The file.</param>
    /// <param name="range">The bytes; null for all.</param>
    /// <param name="stall">Ends what does not go on.</param>
    public async Task<HttpResponseMessage> GetAsync(HubFile file, RangeHeaderValue? range, Stall stall)
    {
        HttpResponseMessage response =
            await FollowAsync(FileAddress(file.Repository, file.Commit, file.Path), range, stall);
        try
        {
            Check(response, file.Repository, file.Commit, file.Path);
            return response;
        }
        catch
        {
            response.Dispose();
            throw;
        }
    }

    /// <summary>Calls again after what a later attempt may do better.</summary>
    /// <param name="attempt">Returns the result.</param>
    /// <param name="waiting">Told why and how long, in words.</param>
    /// <param name="ct">Gives up.</param>
    /// <exception cref="HubException">It failed too often.</exception>
    public async Task<T> RetryAsync<T>(Func<Task<T>> attempt, Action<string> waiting, CancellationToken ct)
    {
        for (int failures = 0; ;)
        {
            try
            {
                return await attempt();
            }
            catch (TransientException e)
            {
                await WaitAsync(++failures, e, waiting, ct);
            }
        }
    }

    /// <summary>Waits before a retry.</summary>
    /// <param name="failures">Attempts that failed without getting further, from 1.</param>
    /// <param name="failure">The last.</param>
    /// <param name="waiting">Told why and how long, in words.</param>
    /// <param name="ct">Gives up.</param>
    /// <exception cref="HubException">They were too many, or the server wants a longer wait than anybody
    /// has.</exception>
    public async Task WaitAsync(int failures, TransientException failure, Action<string> waiting, CancellationToken ct)
    {
        if (failures > _options.Retries)
            throw new HubException(
                $"{failure.Message}; gave up after {failures} attempts, and what has arrived is kept for the next",
                failure);
        // Doubled each time, and between half and all of it, so that many that failed at once do not come back at once.
        TimeSpan wait = _options.Backoff * Math.Pow(2, failures - 1) * (0.5 + Random.Shared.NextDouble() / 2);
        if (wait > _options.LongestWait) wait = _options.LongestWait;
        if (failure.RetryAfter is { } asked)
        {
            if (asked > _options.LongestWait)
                throw new HubException(
                    string.Create(CultureInfo.InvariantCulture,
                        $"{failure.Message} and asks to come back in {asked.TotalSeconds:0} seconds; what has arrived "
                            + $"is kept"), failure);
            if (asked > wait) wait = asked;
        }
        waiting(string.Create(CultureInfo.InvariantCulture,
            $"{failure.Message}, again in {Math.Ceiling(wait.TotalSeconds):0} s"));
        await Task.Delay(wait, ct);
    }

    public void Dispose() => _http.Dispose();

    private Uri FileAddress(string repository, string revision, string path) =>
        Address($"{repository}/resolve/{Uri.EscapeDataString(revision)}/"
            + string.Join('/', path.Split('/').Select(Uri.EscapeDataString)));

    private Uri Address(string rest) => new($"{_options.Endpoint.OriginalString.TrimEnd('/')}/{rest}");

    private bool IsHub(Uri uri) =>
        Uri.Compare(uri, _options.Endpoint, UriComponents.SchemeAndServer, UriFormat.Unescaped,
            StringComparison.OrdinalIgnoreCase) == 0;

    private async Task<HttpResponseMessage> FollowAsync(Uri uri, RangeHeaderValue? range, Stall stall)
    {
        for (int hop = 0; hop <= MaxRedirects; hop++)
        {
            HttpResponseMessage response = await SendAsync(HttpMethod.Get, uri, range, stall);
            if (Target(response, uri) is not { } target) return response;
            response.Dispose();
            uri = target;
        }
        throw new HubException($"{_options.Endpoint.OriginalString} redirects more than {MaxRedirects} times");
    }

    private async Task<HttpResponseMessage> SendAsync(HttpMethod method, Uri uri, RangeHeaderValue? range, Stall stall)
    {
        using HttpRequestMessage request = new(method, uri);
        request.Headers.Range = range;
        // Storage has its own signature in the address; the token is no business of its.
        if (_options.Token is { } token && IsHub(uri))
            request.Headers.Authorization = new AuthenticationHeaderValue("Bearer", token);
        return await stall.WatchAsync(
            ct => new ValueTask<HttpResponseMessage>(
                _http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, ct)), Server(uri));
    }

    private static bool IsRedirect(HttpResponseMessage response) =>
        response.StatusCode is HttpStatusCode.MovedPermanently or HttpStatusCode.Found or HttpStatusCode.SeeOther
            or HttpStatusCode.TemporaryRedirect or HttpStatusCode.PermanentRedirect;

    /// <summary>Where a redirect leads; null where the answer is none.</summary>
    private static Uri? Target(HttpResponseMessage response, Uri from)
    {
        if (!IsRedirect(response)) return null;
        Uri? target = response.Headers.Location is { } location ? new Uri(from, location) : null;
        if (target is null || target.Scheme is not ("http" or "https")
            || (from.Scheme == "https" && target.Scheme != "https"))
            throw new HubException(
                $"{Server(from)} redirects "
                    + $"to {(target is null ? "nowhere" : $"{target.Scheme}://{target.Authority}")}, which is not "
                    + "followed");
        return target;
    }

    private void Check(HttpResponseMessage response, string repository, string revision, string? file)
    {
        if (response.StatusCode is HttpStatusCode.OK or HttpStatusCode.PartialContent) return;
        int status = (int)response.StatusCode;
        Uri uri = response.RequestMessage!.RequestUri!;
        string answered = $"{Server(uri)} answered {status}";
        if (status is 408 or 429 or >= 500) throw new TransientException(answered, RetryAfter(response));
        if (!IsHub(uri)) throw new HubException($"{answered} for {file} of {repository}");

        bool hasToken = _options.Token is not null;
        throw new HubException((Header(response, "X-Error-Code"), status) switch
        {
            ("GatedRepo", _) =>
                $"{repository} is gated: accept its terms at {Address(repository)} and set HF_TOKEN to a token of the "
                    + $"account that did{(hasToken ? " (the token that is set may not read it)" : "")}",
            ("RevisionNotFound", _) => $"{repository} has no revision '{revision}'",
            ("EntryNotFound", _) => $"{repository} has no file '{file}' at revision '{revision}'",
            (_, 401) when hasToken => $"the hub refuses the token (HF_TOKEN, or the token file) for {repository} (401)",
            ("RepoNotFound", _) or (_, 401) =>
                $"the hub has no repository {repository}, or it is private: look at its "
                    + $"name{(hasToken ? "" : ", or set HF_TOKEN")}",
            (_, 403) =>
                $"the hub refuses {repository} (403): {(hasToken ? "the token may not read it" : "it may need a token "
                    + "in HF_TOKEN")}",
            (_, 404) => file is null
                ? $"the hub has no repository {repository}, or it has no revision '{revision}' (404)"
                : $"{repository} has no file '{file}' at revision '{revision}' (404)",
            (_, 416) => $"{answered} for a range of {file} of {repository}: the file is shorter than was announced",
            _ => $"{answered} for {repository}",
        });
    }

    private static async Task<byte[]> ReadAsync(HttpResponseMessage response, string what, Stall stall)
    {
        using MemoryStream body = new();
        byte[] buffer = new byte[1 << 16];
        using Stream stream = await response.Content.ReadAsStreamAsync(stall.Token);
        for (int read; (read = await stall.WatchAsync(ct => stream.ReadAsync(buffer, ct), what)) > 0;)
        {
            body.Write(buffer, 0, read);
            if (body.Length > MaxListingBytes)
                throw new HubException($"the list of files of {what} has more than {MaxListingBytes >> 20} MiB");
        }
        return body.ToArray();
    }

    private static string? Header(HttpResponseMessage response, string name) =>
        response.Headers.TryGetValues(name, out IEnumerable<string>? values) ? values.First() : null;

    private static TimeSpan? RetryAfter(HttpResponseMessage response) => response.Headers.RetryAfter switch
    {
        { Delta: { } delta } => delta,
        { Date: { } date } when date > DateTimeOffset.UtcNow => date - DateTimeOffset.UtcNow,
        _ => null,
    };

    private static string Server(Uri uri) => $"{uri.Scheme}://{uri.Authority}";
}

/// <summary>Ends what does not go on for a while, and makes of lost connections what can be retried.</summary>
internal sealed class Stall(TimeSpan timeout, CancellationToken ct) : IDisposable
{
    private readonly CancellationTokenSource _source = CancellationTokenSource.CreateLinkedTokenSource(ct);

    public CancellationToken Token => _source.Token;

    /// <summary>Waits for one step of <paramref name="what"/>, no longer than the timeout.</summary>
    /// <exception cref="TransientException">It took longer, or the connection was lost.</exception>
    public async ValueTask<T> WatchAsync<T>(Func<CancellationToken, ValueTask<T>> step, string what)
    {
        _source.CancelAfter(timeout);
        try
        {
            T result = await step(_source.Token);
            _source.CancelAfter(Timeout.InfiniteTimeSpan);
            return result;
        }
        catch (OperationCanceledException e) when (!ct.IsCancellationRequested)
        {
            throw new TransientException(
                string.Create(CultureInfo.InvariantCulture,
                    $"nothing came from {what} for {timeout.TotalSeconds:0.#} seconds"), inner: e);
        }
        catch (HttpRequestException e) when (e.HttpRequestError == HttpRequestError.SecureConnectionError)
        {
            throw new HubException($"no secure connection to {what}: {(e.InnerException ?? e).Message}", e);
        }
        catch (Exception e) when (e is HttpRequestException or IOException)
        {
            ct.ThrowIfCancellationRequested(); // a connection that we closed is lost too
            throw new TransientException($"no connection to {what}: {(e.InnerException ?? e).Message}", inner: e);
        }
    }

    public void Dispose() => _source.Dispose();
}
