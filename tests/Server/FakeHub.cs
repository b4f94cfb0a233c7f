using System.Collections.Concurrent;
using System.Security.Cryptography;
using System.Text;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.Extensions.DependencyInjection;
using Native.Server.Hub;

namespace Native.Tests.Server;

/// <summary>One repository as the hub serves it: large files redirect to a storage on another port, small ones within
/// the hub. Tests change how it behaves.</summary>
internal sealed class FakeHub : IAsyncDisposable
{
    public const string Repository = "org/model";
    public const string Commit = "0123456789abcdef0123456789abcdef01234567";

    private readonly Kernels.TemporaryFolder _cache = new();
    private WebApplication _hub = null!, _storage = null!;
    private long _sent;

    /// <summary>The repository's files by name.</summary>
    public Dictionary<string, byte[]> Files { get; } = [];

    /// <summary>What was asked: "HUB GET /path token range".</summary>
    public ConcurrentQueue<string> Requests { get; } = [];

    /// <summary>Called for each request to the hub; true where it has answered.</summary>
    public Func<HttpContext, Task<bool>> OnHub { get; set; } = _ => Task.FromResult(false);

    /// <summary>The same of the storage; given the bytes of the file.</summary>
    public Func<HttpContext, byte[], Task<bool>> OnStorage { get; set; } = (_, _) => Task.FromResult(false);

    /// <summary>Bytes of files that were sent.</summary>
    public long Sent => Interlocked.Read(ref _sent);

    public string Cache => _cache.Path;

    public Uri Address => Of(_hub);

    /// <summary>Options that fail fast.</summary>
    public HubOptions Options => new()
    {
        Endpoint = Address,
        Cache = Cache,
        Token = "hf_secret",
        RangeBytes = 1000,
        StallTimeout = TimeSpan.FromSeconds(10),
        Retries = 3,
        Backoff = TimeSpan.FromMilliseconds(10),
    };

    public static async Task<FakeHub> StartAsync(params (string Name, byte[] Content)[] files)
    {
        FakeHub fake = new();
        foreach ((string name, byte[] content) in files) fake.Files[name] = content;
        fake._storage = await ListenAsync(fake.StorageAsync);
        fake._hub = await ListenAsync(fake.HubAsync);
        return fake;
    }

    /// <summary>Bytes that differ from place to place.</summary>
    public static byte[] Bytes(int length, int seed = 1)
    {
        byte[] bytes = new byte[length];
        new Random(seed).NextBytes(bytes);
        return bytes;
    }

    public static string Sha256(byte[] content) => Convert.ToHexStringLower(SHA256.HashData(content));

    public static string GitSha1(byte[] content) => Convert.ToHexStringLower(SHA1.HashData([.. Encoding.ASCII.GetBytes($"blob {content.Length}\0"), .. content]));

    /// <summary>The cache's path of a file, from its parts.</summary>
    public string InCache(params string[] parts) => Path.Combine([Cache, "models--org--model", .. parts]);

    /// <summary>Every file of the repository in the cache, temporary and half ones too.</summary>
    public string[] CachedFiles() => Directory.Exists(InCache()) ? [.. Directory.EnumerateFiles(InCache(), "*", SearchOption.AllDirectories).Select(file => Path.GetRelativePath(InCache(), file)).Order(StringComparer.Ordinal)] : [];

    public Task<HubModel> PullAsync(string reference = "hf:org/model/a.gguf", HubOptions? options = null, IProgress<HubProgress>? progress = null, CancellationToken? ct = null) => UseAsync(reference, options, (hub, parsed) => hub.PullAsync(parsed, progress, ct ?? TestContext.Current.CancellationToken));

    public async Task<HubModel> UseAsync(string reference, HubOptions? options, Func<ModelHub, HubReference, Task<HubModel>> use)
    {
        Assert.True(HubReference.TryParse(reference, out HubReference? parsed));
        using ModelHub hub = new(options ?? Options);
        return await use(hub, parsed);
    }

    /// <summary>Sends content, or the range of it that is asked for.</summary>
    public async Task SendAsync(HttpContext context, byte[] content, bool ranges = true)
    {
        (int from, int to) = (0, content.Length - 1);
        if (ranges && context.Request.GetTypedHeaders().Range is { } range)
        {
            (from, to) = ((int)range.Ranges.Single().From!, (int)range.Ranges.Single().To!);
            context.Response.StatusCode = StatusCodes.Status206PartialContent;
            context.Response.Headers.ContentRange = $"bytes {from}-{to}/{content.Length}";
        }
        context.Response.ContentLength = to + 1 - from;
        Interlocked.Add(ref _sent, to + 1 - from);
        await context.Response.Body.WriteAsync(content.AsMemory(from, to + 1 - from), context.RequestAborted);
    }

    /// <summary>Sends the beginning of what is asked for, then breaks the connection.</summary>
    public async Task DropAsync(HttpContext context, byte[] content, int after)
    {
        (int from, int to) = (0, content.Length - 1);
        if (context.Request.GetTypedHeaders().Range is { } range)
        {
            (from, to) = ((int)range.Ranges.Single().From!, (int)range.Ranges.Single().To!);
            context.Response.StatusCode = StatusCodes.Status206PartialContent;
            context.Response.Headers.ContentRange = $"bytes {from}-{to}/{content.Length}";
        }
        context.Response.ContentLength = to + 1 - from;
        await context.Response.Body.WriteAsync(content.AsMemory(from, Math.Min(after, to - from)), context.RequestAborted);
        await context.Response.Body.FlushAsync(context.RequestAborted);
        await Task.Delay(50, context.RequestAborted); // what was sent should arrive
        context.Abort();
    }

    public async ValueTask DisposeAsync()
    {
        await _hub.DisposeAsync();
        await _storage.DisposeAsync();
        _cache.Dispose();
    }

    private async Task HubAsync(HttpContext context)
    {
        Note("HUB", context);
        if (await OnHub(context)) return;
        string path = context.Request.Path.Value!;
        if (path.StartsWith($"/api/models/{Repository}/revision/", StringComparison.Ordinal))
        {
            await context.Response.WriteAsJsonAsync(new { sha = Commit, siblings = Files.Select(file => new { rfilename = file.Key, size = file.Value.Length }) });
            return;
        }
        string[] parts = path.TrimStart('/').Split('/', 5);
        bool isCache = parts[0] == "resolve-cache";
        string name = isCache ? path["/resolve-cache/".Length..] : parts.Length == 5 ? parts[4] : "";
        if (!Files.TryGetValue(name, out byte[]? content))
        {
            context.Response.StatusCode = 404;
            context.Response.Headers["X-Error-Code"] = "EntryNotFound";
            return;
        }
        bool isLarge = name.EndsWith(".gguf", StringComparison.Ordinal) || name.EndsWith(".safetensors", StringComparison.Ordinal);
        context.Response.Headers["X-Repo-Commit"] = Commit;
        if (!isCache)
        {
            context.Response.StatusCode = isLarge ? 302 : 307;
            context.Response.Headers["X-Linked-Size"] = content.Length.ToString();
            context.Response.Headers["X-Linked-Etag"] = $"\"{(isLarge ? Sha256(content) : GitSha1(content))}\"";
            context.Response.Headers.Location = isLarge ? new Uri(Of(_storage), $"/{name}?signature=1").ToString() : $"/resolve-cache/{name}";
            return;
        }
        context.Response.Headers.ETag = $"W/\"{GitSha1(content)}\"";
        if (context.Request.Method == "HEAD") context.Response.ContentLength = content.Length;
        else await SendAsync(context, content);
    }

    private async Task StorageAsync(HttpContext context)
    {
        Note("STORAGE", context);
        byte[] content = Files[context.Request.Path.Value![1..]];
        if (!await OnStorage(context, content)) await SendAsync(context, content);
    }

    private void Note(string who, HttpContext context) => Requests.Enqueue(string.Join(' ', new[] { who, context.Request.Method, context.Request.Path.Value, context.Request.Headers.Authorization.ToString(), context.Request.Headers.Range.ToString() }.Where(part => part!.Length > 0)));

    private static async Task<WebApplication> ListenAsync(RequestDelegate answer)
    {
        WebApplicationBuilder builder = WebApplication.CreateEmptyBuilder(new WebApplicationOptions());
        builder.WebHost.UseKestrelCore().ConfigureKestrel(kestrel =>
        {
            kestrel.Listen(System.Net.IPAddress.Loopback, 0, listen => listen.Protocols = HttpProtocols.Http1);
            kestrel.Limits.MinResponseDataRate = null;
        });
        WebApplication app = builder.Build();
        app.Run(answer);
        await app.StartAsync();
        return app;
    }

    private static Uri Of(WebApplication app) => new(app.Services.GetRequiredService<Microsoft.AspNetCore.Hosting.Server.IServer>().Features.Get<Microsoft.AspNetCore.Hosting.Server.Features.IServerAddressesFeature>()!.Addresses.Single());
}
