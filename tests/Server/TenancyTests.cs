using System.Globalization;
using System.Net;
using System.Runtime.CompilerServices;
using System.Text;
using Grpc.Core;
using Native.Scheduling;
using Native.Server;
using Native.Server.Serving;
using Native.Server.Tenancy;
using Native.V1;

namespace Native.Tests.Server;

/// <summary>Tenants from a file: their keys, the gateway's header, their quotas, over HTTP and gRPC.</summary>
public sealed class TenancyTests
{
    private const string Completion = "/v1/completions";
    private const string Prompt = """{"prompt":"y","max_tokens":2}""";

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public void TheExample_IsRead()
    {
        IReadOnlyList<TenantEntry> entries = TenantFile.Parse("t.yml", TenantFile.Example);
        Assert.Equal(
            [
                new TenantSpec { Name = "acme", Weight = 2, RequestsPerMinute = 600, TokensPerMinute = 200_000 },
                new TenantSpec { Name = "nightly", Weight = 0.5 },
            ],
            entries.Select(entry => entry.Spec));
        Assert.Equal([["sk-acme-1"], []], entries.Select(entry => entry.Keys));
    }

    [Fact]
    public void TheReadme_ShowsTheExample() =>
        Assert.Contains(TenantFile.Example.ReplaceLineEndings("\n"),
            File.ReadAllText(Path.Combine(Path.GetDirectoryName(ThisFile())!, "../../server/Tenancy/README.md")));

    [Theory]
    [InlineData("", "t.yml has no tenants; a file begins with 'tenants:'.")]
    [InlineData("tenants:", "has no tenants")]
    [InlineData("tenants: [", "t.yml, line 2, column 1")]
    [InlineData("tenants:\n- nam: a", "t.yml, line 2, column 3: 'nam' is no key here; a file has tenants")]
    [InlineData("tenants:\n- name: a\n  api_key: secret", "t.yml, line 3, column 3: 'api_key' is no key here")]
    [InlineData("tenants:\n- name: a\n  api_keys: secret", "t.yml, line 3, column 13: the value does not fit its key")]
    [InlineData("tenants:\n- name: a\n  weight: much", "t.yml, line 3, column 11: the value does not fit its key")]
    [InlineData("tenants:\n- name: a\n  name: b", "t.yml, line 3, column 3")]
    [InlineData("tenants:\n- weight: 1", "tenant 1 has no name")]
    [InlineData("tenants:\n-", "tenant 1 has no name")]
    [InlineData("tenants: [{name: a}, {name: a}]", "2 tenants of the name 'a'")]
    [InlineData("tenants: [{name: a, weight: 0}]", "'a' has the weight 0; it must be from 0.01 to 100")]
    [InlineData("tenants: [{name: a, weight: .nan}]", "'a' has the weight NaN")]
    [InlineData("tenants: [{name: a, requests_per_minute: 0}]", "may send 0 requests a minute")]
    [InlineData("tenants: [{name: a, tokens_per_minute: -1}]", "may have -1 tokens a minute")]
    [InlineData("tenants: [{name: a, api_keys: [secret, secret]}]", "A key of 'a' is there twice")]
    [InlineData("tenants: [{name: a, api_keys: [secret]}, {name: b, api_keys: [secret]}]", "A key of 'b' is there")]
    [InlineData("tenants: [{name: a, api_keys: ['sec ret']}]", "A key of 'a' is empty, too long, or not printable")]
    [InlineData("tenants: [{name: a, api_keys: ['']}]", "A key of 'a' is empty")]
    public void AFileThatIsNone_IsRefused_AndNoKeyIsTold(string text, string expected)
    {
        ConfigFileException e = Assert.Throws<ConfigFileException>(() => TenantFile.Parse("t.yml", text));
        Assert.Contains(e.Mistakes, mistake => mistake.Contains(expected, StringComparison.Ordinal));
        Assert.DoesNotContain("sec", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task EachKey_IsItsTenants_OverHttpAndGrpc()
    {
        await using RunningServer server = await RunningServer.StartAsync(
            new ServerOptions { ApiKey = "master", Tenants = [Entry("a", "key-a", "key-a2"), Entry("b", "key-b")] });
        Assert.Equal(HttpStatusCode.Unauthorized, (await Post(server, null)).StatusCode);
        Assert.Equal(HttpStatusCode.Unauthorized, (await Post(server, "key-c")).StatusCode);
        foreach (string key in (string[])["key-a", "key-a2", "master"])
            Assert.Equal(HttpStatusCode.OK, (await Post(server, key)).StatusCode);
        Metadata grpc = new() { { "authorization", "Bearer key-b" } };
        using AsyncServerStreamingCall<GenerateResponse> call = server.Inference.Generate(
            new GenerateRequest { Text = "y", Sampling = new() { MaxTokens = 2 } }, grpc, cancellationToken: Token);
        while (await call.ResponseStream.MoveNext(Token)) { }
        // A prompt of 2 tokens, the beginning's among them, and 2 generated; the second was cached but for one.
        Assert.Equal([("a", 7L), ("b", 4L)], server.Engine.ReadTenants().Select(t => (t.Name, t.Tokens)));
        await server.MetricsWith("native_tenant_tokens_total{tenant=\"b\"} 4");
        await server.MetricsWith("native_tenant_requests_waiting{tenant=\"a\"} 0");
    }

    [Theory]
    [InlineData(false, false, "named")] // nobody is asked for a key: the header is all there is
    [InlineData(true, false, "a")]
    [InlineData(true, true, "named")]
    public async Task TheGatewaysHeader_NamesTheTenant_WhereItIsTrusted(bool keys, bool trusted, string counted)
    {
        TenantEntry a = keys ? Entry("a", "key-a") : Entry("a");
        await using RunningServer server = await RunningServer.StartAsync(
            new ServerOptions { Tenants = [a, Entry("named")], TrustsFairnessHeader = trusted });
        foreach (string header in Caller.Headers)
        {
            using HttpRequestMessage request = new(HttpMethod.Post, Completion) { Content = Json() };
            request.Headers.Add(header, "named");
            request.Headers.Authorization = new("Bearer", "key-a");
            Assert.Equal(HttpStatusCode.OK, (await server.Http.SendAsync(request, Token)).StatusCode);
        }
        Assert.Equal(counted, Assert.Single(server.Engine.ReadTenants(), tenant => tenant.Tokens > 0).Name);
    }

    [Fact]
    public async Task BeyondItsQuota_ATenantIsToldToComeBack_AndOthersGoOn()
    {
        TenantEntry a = Entry("a", "key-a") with { Spec = new TenantSpec { Name = "a", RequestsPerMinute = 1 } };
        await using RunningServer server = await RunningServer.StartAsync(
            new ServerOptions { Tenants = [a, Entry("b", "key-b")] });
        Assert.Equal(HttpStatusCode.OK, (await Post(server, "key-a")).StatusCode);
        using HttpResponseMessage refused = await Post(server, "key-a");
        Assert.Equal(HttpStatusCode.TooManyRequests, refused.StatusCode);
        Assert.InRange(refused.Headers.RetryAfter!.Delta!.Value.TotalSeconds, 50, 91);
        string body = await refused.Content.ReadAsStringAsync(Token);
        Assert.Contains("\"code\":\"rate_limit_exceeded\"", body);
        Assert.Contains("Tenant 'a' has too little left of its 1 requests a minute for 1;", body);
        Metadata grpc = new() { { "authorization", "Bearer key-a" } };
        using AsyncServerStreamingCall<GenerateResponse> call = server.Inference.Generate(
            new GenerateRequest { Text = "y" }, grpc, cancellationToken: Token);
        RpcException e = await Assert.ThrowsAsync<RpcException>(() => call.ResponseStream.MoveNext(Token));
        Assert.Equal(StatusCode.ResourceExhausted, e.StatusCode);
        string pushback = e.Trailers.Single(trailer => trailer.Key == "grpc-retry-pushback-ms").Value;
        Assert.InRange(double.Parse(pushback, CultureInfo.InvariantCulture), 50_000, 91_000);
        Assert.Equal("rate_limit_exceeded", e.Trailers.GetValue("error-code"));
        Assert.Equal(HttpStatusCode.OK, (await Post(server, "key-b")).StatusCode);
        await server.MetricsWith("native_requests_total{outcome=\"over_quota\"} 2");
        await server.MetricsWith("native_tenant_refused_total{tenant=\"a\",reason=\"over_quota\"} 2");
        await server.MetricsWith("native_tenant_refused_total{tenant=\"b\",reason=\"over_quota\"} 0");
    }

    [Fact]
    public async Task AListOfPrompts_TakesItsQuotaAtOnce_OrNone()
    {
        TenantEntry a = Entry("a", "key-a") with { Spec = new TenantSpec { Name = "a", RequestsPerMinute = 4 } };
        await using RunningServer server = await RunningServer.StartAsync(new ServerOptions { Tenants = [a] });
        Assert.Equal(HttpStatusCode.OK, await PostList("\"a\""));
        for (int i = 0; i < 4; i++)
        {
            Assert.Equal(HttpStatusCode.TooManyRequests, await PostList("\"a\",\"b\",\"c\",\"d\",\"e\""));
            string tooLong = new('x', 5000);
            Assert.Equal(HttpStatusCode.BadRequest, await PostList($"\"a\",\"{tooLong}\""));
        }
        Assert.Equal(HttpStatusCode.OK, await PostList("\"a\",\"b\",\"c\"")); // the three that were left
        Assert.Equal(HttpStatusCode.TooManyRequests, await PostList("\"a\""));
        string metrics = await server.MetricsWith("native_requests_total{outcome=\"over_quota\"} 21");
        Assert.Contains("native_requests_total{outcome=\"cancelled\"} 0", metrics);

        async Task<HttpStatusCode> PostList(string prompts)
        {
            using HttpRequestMessage request = new(HttpMethod.Post, "/v1/completions");
            request.Content = new StringContent(
                $"{{\"prompt\":[{prompts}],\"max_tokens\":1}}", Encoding.UTF8, "application/json");
            request.Headers.Authorization = new("Bearer", "key-a");
            using HttpResponseMessage answer = await server.Http.SendAsync(request, Token);
            return answer.StatusCode;
        }
    }

    [Fact]
    public void WhatContradictsItself_IsNamed()
    {
        List<string> errors = [];
        new ServerOptions { ApiKey = "k", Tenants = [Entry("a", "k")] }.Validate(errors);
        Assert.Contains(errors, error => error.Contains("also a key of a tenant", StringComparison.Ordinal));
        errors.Clear();
        new ServerOptions { TrustsFairnessHeader = true, Policy = SchedulingPolicy.Fcfs }.Validate(errors);
        Assert.Contains(errors, error => error.Contains("--trust-fairness-header", StringComparison.Ordinal));
    }

    private static string ThisFile([CallerFilePath] string path = "") => path;

    private static TenantEntry Entry(string name, params string[] keys) => new(new TenantSpec { Name = name }, keys);

    private static Task<HttpResponseMessage> Post(RunningServer server, string? key)
    {
        HttpRequestMessage request = new(HttpMethod.Post, Completion) { Content = Json() };
        if (key is not null) request.Headers.Authorization = new("Bearer", key);
        return server.Http.SendAsync(request, Token);
    }

    private static StringContent Json() => new(Prompt, Encoding.UTF8, "application/json");
}
