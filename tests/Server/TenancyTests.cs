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
    [InlineData("", "line 1, column 1: there are no tenants; a file begins with 'tenants:'.")]
    [InlineData("- a", "line 1, column 1: there are no tenants; a file begins with 'tenants:'.")]
    [InlineData("{}", "line 1, column 1: there are no tenants: 'tenants' is missing.")]
    [InlineData("tenants:", "line 1, column 9: 'tenants' must be a list of tenants.")]
    [InlineData("tenants: []\ntenants: []", "line 2, column 1: 'tenants' is there twice.")]
    [InlineData("tenants: [", "line 2, column 1: not valid YAML: a value is missing.")]
    [InlineData("tenants:\n  name: a", "line 2, column 3: 'tenants' must be a list of tenants.")]
    [InlineData("tenants:\n- nam: a", "line 2, column 3: 'nam' is no key here; there are name, api_keys, weight, ")]
    [InlineData("tenants:\n- a", "line 2, column 3: a tenant has the keys name, api_keys, weight, ")]
    [InlineData("tenants:\n- name: a\n  name: b", "line 3, column 3: 'name' is there twice.")]
    [InlineData("tenants:\n- weight: 1", "line 2, column 3: a tenant has no 'name'.")]
    [InlineData("tenants:\n- name:", "line 2, column 8: name has no value.")]
    [InlineData("tenants: [{name: ''}]", "name is ''; it must be a text of 1 to 200 characters.")]
    [InlineData("tenants:\n- name: &x a", "line 2, column 9: anchors, aliases and tags are not read here.")]
    [InlineData("tenants: [{name: a}, {name: a}]", "column 29: there is a tenant of the name 'a' already, in line 1.")]
    [InlineData("tenants: [{name: a, weight: 0}]", "weight is '0'; it must be a number from 0.01 to 100.")]
    [InlineData("tenants: [{name: a, weight: much}]", "weight is 'much'; it must be a number from 0.01 to 100.")]
    [InlineData("tenants: [{name: a, weight: NaN}]", "weight is 'NaN'; it must be a number")]
    [InlineData("tenants: [{name: a, weight: [1]}]", "weight must be a single value.")]
    [InlineData("tenants: [{name: a, requests_per_minute: 0}]",
        "column 42: requests_per_minute is '0'; it must be a whole number from 1 to 2147483647.")]
    [InlineData("tenants: [{name: a, tokens_per_minute: -1}]", "tokens_per_minute is '-1'; it must be a whole number")]
    [InlineData("tenants: [{name: a, tokens_per_minute: 3e9}]", "tokens_per_minute is '3e9'; it must be")]
    public void AFileThatIsNone_IsRefused_WithThePlace(string text, string expected)
    {
        ConfigFileException e = Assert.Throws<ConfigFileException>(() => TenantFile.Parse("t.yml", text));
        Assert.Contains(e.Mistakes, mistake => mistake.Contains(expected, StringComparison.Ordinal));
        Assert.All(e.Mistakes, mistake => Assert.StartsWith("t.yml, line ", mistake));
    }

    [Theory]
    [InlineData("api_key: sk-1", "line 3, column 3: 'api_key' is no key here")]
    [InlineData("api_keys: sk-1", "line 3, column 13: api_keys must be a list, such as [key-1, key-2].")]
    [InlineData("api_keys:", "line 3, column 12: api_keys must be a list")]
    [InlineData("api_keys: {sk-1: x}", "line 3, column 13: api_keys must be a list")]
    [InlineData("api_keys:\n  sk-1: x", "line 4, column 3: this is no key here; there are name, api_keys")]
    [InlineData("api_keys: [~]", "line 3, column 14: an API key has no value.")]
    [InlineData("api_keys: [[sk-1]]", "line 3, column 14: an API key must be a single value.")]
    [InlineData("api_keys: [sk-1, sk-1]", "line 3, column 20: this API key is there already, in line 3.")]
    [InlineData("api_keys: [sk-1]\n- name: b\n  api_keys: [sk-1]", "line 5, column 14: this API key is there already")]
    [InlineData("api_keys: ['']", "column 14: an API key must have 1 to 500 characters of ASCII and no spaces.")]
    [InlineData("api_keys: [sk-1 x]", "an API key must have 1 to 500 characters")]
    [InlineData("api_keys: [sk-1\u00E9]", "an API key must have 1 to 500 characters")]
    [InlineData("weight: 2\n  - sk-1", "not valid YAML")]
    [InlineData("weight: 2\n    - sk-1", "line 3, column 11: weight must be in one line.")]
    public void AWrongKey_IsToldByItsPlace_NeverByItsText(string keys, string expected)
    {
        string text = $"tenants:\n- name: a\n  {keys}";
        ConfigFileException e = Assert.Throws<ConfigFileException>(() => TenantFile.Parse("t.yml", text));
        Assert.Contains(e.Mistakes, mistake => mistake.Contains(expected, StringComparison.Ordinal));
        Assert.DoesNotContain("sk-", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void EveryMistakeOfAFile_IsToldAtOnce_InItsOrder()
    {
        string longest = new('k', 500);
        ConfigFileException e = Assert.Throws<ConfigFileException>(() => TenantFile.Parse("t.yml", $"""
            tenants:
            - weight: much
              api_keys: [{longest}, {longest}k]
              name: a
            - requests_per_minute: 1.5
              name: a
            - {"{}"}
            """));
        Assert.Equal(
            [
                "t.yml, line 2, column 11: weight is 'much'; it must be a number from 0.01 to 100.",
                "t.yml, line 3, column 516: an API key must have 1 to 500 characters of ASCII and no spaces.",
                "t.yml, line 5, column 24: requests_per_minute is '1.5'; it must be a whole number from 1 to "
                    + "2147483647.",
                "t.yml, line 6, column 9: there is a tenant of the name 'a' already, in line 4.",
                "t.yml, line 7, column 3: a tenant has no 'name'.",
            ], e.Mistakes);
        string many = "tenants:\n" + string.Concat(Enumerable.Repeat("- x: y\n", 100));
        Assert.Equal(20, Assert.Throws<ConfigFileException>(() => TenantFile.Parse("t", many)).Mistakes.Count);
    }

    [Fact]
    public void AFile_MayHaveAMebibyte()
    {
        string path = Path.GetTempFileName();
        try
        {
            string text = TenantFile.Example + "\n";
            File.WriteAllText(path, text + new string('#', (1 << 20) - text.Length));
            Assert.Equal(2, TenantFile.Read(path).Count);
            File.AppendAllText(path, "#");
            Assert.Contains("more than 1048576 bytes",
                Assert.Throws<ConfigFileException>(() => TenantFile.Read(path)).Mistakes[0]);
        }
        finally
        {
            File.Delete(path);
        }
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
        Assert.Contains("Tenant 'a' has too little left of its quota (1 requests a minute, 1 needed);", body);
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
