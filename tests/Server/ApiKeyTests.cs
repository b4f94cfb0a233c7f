using System.Net;
using System.Net.Http.Headers;
using Grpc.AspNetCore.Server;
using Grpc.Core;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Microsoft.AspNetCore.Routing.Patterns;
using Native.Server.Http;

namespace Native.Tests.Server;

public sealed class ApiKeyTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task EveryRoute_AsksForTheKey_ButTheOpenOnes()
    {
        await using RunningServer server = await RunningServer.StartAsync(new() { ApiKey = "sesame" });
        RouteEndpoint[] routes = [.. server.Server.Endpoints.OfType<RouteEndpoint>()];
        List<string> open = [], grpc = [];
        foreach (RouteEndpoint route in routes)
        {
            string path = PathOf(route);
            if (route.Metadata.GetMetadata<GrpcMethodMetadata>() is not null)
            {
                grpc.Add(path);
                StatusCode expected = path.StartsWith("/grpc.health.", StringComparison.Ordinal) ? StatusCode.OK
                    : StatusCode.Unauthenticated;
                // A stream that was let in would only begin.
                if (!path.EndsWith("/Watch", StringComparison.Ordinal))
                    Assert.Equal((path, expected), (path, await CallWithoutKey(server, path)));
                continue;
            }
            IReadOnlyList<string> methods = route.Metadata.GetRequiredMetadata<HttpMethodMetadata>().HttpMethods;
            bool isOpen = HttpGuard.Open.Contains(path);
            if (isOpen) open.Add(path);
            foreach (string method in methods)
            {
                Assert.Equal(
                    (path, method, isOpen ? HttpStatusCode.OK : HttpStatusCode.Unauthorized),
                    (path, method, await Ask(server, method, path)));
                // The kind of content that a client claims is no way around the key.
                if (!isOpen) Assert.NotEqual(StatusCode.OK, await CallWithoutKey(server, path, method));
            }
        }
        Assert.Equal(HttpGuard.Open.Order(), open.Order());
        Assert.Contains("/v1/chat/completions", routes.Select(PathOf));
        Assert.Contains("/native.v1.Inference/Generate", grpc);
        Assert.Contains(grpc, path => path.StartsWith("/grpc.reflection.v1.", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("/"), InlineData("/v1"), InlineData("/v1/nothing"), InlineData("/v2/models/m/infer")]
    [InlineData("/metrics/x"), InlineData("/metrics//"), InlineData("/healthzz")]
    [InlineData("//metrics"), InlineData("/v1/../v1/models"), InlineData("/V1/models")]
    [InlineData("/native.v1.Inference/Nothing"), InlineData("/x.Y/Z")]
    public async Task UnknownPaths_AskForTheKey(string path)
    {
        await using RunningServer server = await RunningServer.StartAsync(new() { ApiKey = "sesame" });
        Assert.Equal(HttpStatusCode.Unauthorized, await Ask(server, "GET", path));
        Assert.Equal(HttpStatusCode.Unauthorized, await Ask(server, "POST", path));
        Assert.Equal(StatusCode.Unauthenticated, await CallWithoutKey(server, path));
    }

    [Fact]
    public async Task PathsOfGrpc_AskForTheKey_HoweverTheyAreAsked()
    {
        await using RunningServer server = await RunningServer.StartAsync(new() { ApiKey = "sesame" });
        const string Path = "/native.v1.Inference/Generate";
        Assert.Equal(HttpStatusCode.Unauthorized, await Ask(server, "POST", Path)); // JSON, by HTTP/1.1
        byte[] truncated = [0, 0, 0, 0, 9, 1];
        Assert.Equal(StatusCode.Unauthenticated, await CallWithoutKey(server, Path, message: truncated));
        using HttpClient client = new();
        using HttpRequestMessage json = new(HttpMethod.Post, At(server.Server.GrpcAddress, Path))
        {
            Version = HttpVersion.Version20,
            VersionPolicy = HttpVersionPolicy.RequestVersionExact,
            Content = new StringContent("{}", new MediaTypeHeaderValue("application/json")),
        };
        using HttpResponseMessage response = await client.SendAsync(json, Token);
        Assert.Equal(HttpStatusCode.Unauthorized, response.StatusCode);
    }

    [Fact]
    public async Task OpenPaths_AreOpenHoweverTheyAreWritten()
    {
        await using RunningServer server = await RunningServer.StartAsync(new() { ApiKey = "sesame" });
        foreach (string path in (string[])["/healthz/", "/Healthz", "/metrics?x=1"])
            Assert.Equal(HttpStatusCode.OK, await Ask(server, "GET", path));
        Assert.Equal(HttpStatusCode.MethodNotAllowed, await Ask(server, "POST", "/healthz"));
    }

    private static string PathOf(RouteEndpoint route) =>
        "/" + string.Join('/', route.RoutePattern.PathSegments.Select(parts => string.Concat(parts.Parts.Select(TextOf))));

    private static string TextOf(RoutePatternPart part) =>
        part is RoutePatternLiteralPart literal ? literal.Content : "x";

    /// <summary>The path as it is given: no client tidies it.</summary>
    private static Uri At(Uri server, string path) => new(
        server.GetLeftPart(UriPartial.Authority) + path,
        new UriCreationOptions { DangerousDisablePathAndQueryCanonicalization = true });

    private static async Task<HttpStatusCode> Ask(RunningServer server, string method, string path)
    {
        using HttpRequestMessage request = new(new HttpMethod(method), At(server.Server.HttpAddress, path));
        if (method == "POST") request.Content = new StringContent("{}", new MediaTypeHeaderValue("application/json"));
        using HttpResponseMessage response = await server.Http.SendAsync(request, Token);
        return response.StatusCode;
    }

    /// <summary>Sends a message, an empty one by default, as a gRPC client does, without a key.</summary>
    private static async Task<StatusCode> CallWithoutKey(
        RunningServer server, string path, string method = "POST", byte[]? message = null)
    {
        using HttpClient client = new();
        using HttpRequestMessage request = new(new HttpMethod(method), At(server.Server.GrpcAddress, path))
        {
            Version = HttpVersion.Version20,
            VersionPolicy = HttpVersionPolicy.RequestVersionExact,
            Content = new ByteArrayContent(message ?? [0, 0, 0, 0, 0]),
        };
        request.Content.Headers.ContentType = new MediaTypeHeaderValue("application/grpc");
        request.Headers.TE.Add(new TransferCodingWithQualityHeaderValue("trailers"));
        using HttpResponseMessage response = await client.SendAsync(request, Token);
        await response.Content.ReadAsByteArrayAsync(Token);
        HttpHeaders told = response.Headers.Contains("grpc-status") ? response.Headers : response.TrailingHeaders;
        return (StatusCode)int.Parse(
            told.GetValues("grpc-status").Single(), System.Globalization.CultureInfo.InvariantCulture);
    }
}
