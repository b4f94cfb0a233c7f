using System.Text;
using System.Text.Json;
using System.Xml.Linq;
using Native.Bench;
using Native.Bench.Serve;

namespace Native.Tests.Bench;

/// <summary>What is computed from records, and how it is written, without a server.</summary>
public sealed class ServingResultTests
{
    // Three well, one not. In milliseconds: TTFT 500, 250, 1000; E2EL 1500, 250, 2000; TPOT 250 (4 gaps), none, 500 (2
    // gaps).
    private static readonly RequestRecord[] Records =
    [
        new() { Start = 0, Sent = 0, TokenTimes = [0.5, 0.75, 1, 1.25, 1.5], Done = 1.5, InputTokens = 10, OutputTokens = 5 },
        new() { Start = 1, Sent = 1.125, TokenTimes = [1.25], Done = 1.5, InputTokens = 20, OutputTokens = 1 },
        new() { Start = 1, Sent = 1.5, TokenTimes = [2, 2.25, 3], Done = 3, InputTokens = 30, OutputTokens = 3 },
        new() { Start = 2, Sent = 2, Done = 4, Error = "HTTP 503" },
    ];

    [Fact]
    public void CountsAndThroughputs_AreOfTheRequestsThatSucceeded()
    {
        ServingResult result = new(Records, duration: 4, goodput: null);
        Assert.Equal((3, 1), (result.Completed, result.Failed));
        Assert.Equal((60, 9), (result.InputTokens, result.OutputTokens));
        Assert.Equal((0.75, 2.25, 17.25), (result.RequestThroughput, result.OutputThroughput, result.TotalThroughput));
        Assert.Null(result.RequestGoodput);
    }

    [Fact]
    public void Latencies_BeginAtTheStart_NotAtTheSending()
    {
        ServingResult result = new(Records, 4, null);
        Assert.Equal([0.5, 0.25, 1], result.Ttft.Values); // the third waited half a second to be sent
        Assert.Equal([1.5, 0.25, 2], result.E2el.Values);
        Assert.Equal([0.25, 0.5], result.Tpot.Values); // one token has no time per other token
        Assert.Equal([0.25, 0.25, 0.25, 0.25, 0.25, 0.75], result.Itl.Values);
        Assert.Equal(0.5, result.Ttft.Median);
        Assert.Equal(1.25, result.E2el.Mean);
    }

    [Theory]
    [InlineData(500.0, null, null, 2)]   // exactly kept is kept
    [InlineData(499.0, null, null, 1)]
    [InlineData(null, 250.0, null, 2)]   // one token alone keeps every time per token
    [InlineData(null, null, 1500.0, 2)]
    [InlineData(500.0, 300.0, 1000.0, 1)]
    [InlineData(100.0, null, null, 0)]
    public void Goodput_CountsTheRequestsThatKeptEverything(double? ttft, double? tpot, double? e2el, int good)
    {
        ServingResult result = new(Records, 4, new Goodput(ttft / 1000, tpot / 1000, e2el / 1000));
        Assert.Equal(good, result.Good);
        Assert.Equal(good / 4.0, result.RequestGoodput);
    }

    [Fact]
    public void Peaks_AreOfTheBusiestSecond_AndOfWhatWasUnderWayAtOnce()
    {
        ServingResult result = new(Records, 4, null);
        Assert.Equal(4, result.PeakOutputTokensPerSecond); // in second 1: 1, 1.25, 1.5, and 1.25 of the second request
        Assert.Equal(2, result.PeakConcurrentRequests); // two end at 1.5, when the third begins
    }

    [Fact]
    public void WhereNothingSucceeded_EverythingIsZero()
    {
        ServingResult result = new([Records[3]], 4, new Goodput(1, null, null));
        Assert.Equal((0, 1, 0, 0), (result.Completed, result.Failed, result.PeakOutputTokensPerSecond, result.PeakConcurrentRequests));
        Assert.Equal((0, 0, 0), (result.Ttft.Mean, result.E2el.Percentile(99), result.RequestGoodput));
    }

    [Fact]
    public void TheTable_IsVllms()
    {
        string table = ServingReport.Table(Run(2, new Goodput(0.5, null, null)) with { MaxConcurrency = 8 }, ["ttft", "tpot", "itl", "e2el"], [99]);
        string[] expected =
        [
            "============ Serving Benchmark Result ============",
            "Successful requests:                     3         ",
            "Failed requests:                         1         ",
            "Maximum request concurrency:             8         ",
            "Request rate configured (RPS):           2.00      ",
            "Benchmark duration (s):                  4.00      ",
            "Total input tokens:                      60        ",
            "Total generated tokens:                  9         ",
            "Request throughput (req/s):              0.75      ",
            "Request goodput (req/s):                 0.50      ",
            "Output token throughput (tok/s):         2.25      ",
            "Peak output token throughput (tok/s):    4.00      ",
            "Peak concurrent requests:                2.00      ",
            "Total token throughput (tok/s):          17.25     ",
            "---------------Time to First Token----------------",
            "Mean TTFT (ms):                          583.33    ",
            "Median TTFT (ms):                        500.00    ",
            "P99 TTFT (ms):                           990.00    ",
            "-----Time per Output Token (excl. 1st token)------",
            "Mean TPOT (ms):                          375.00    ",
            "Median TPOT (ms):                        375.00    ",
            "P99 TPOT (ms):                           497.50    ",
            "---------------Inter-token Latency----------------",
            "Mean ITL (ms):                           333.33    ",
            "Median ITL (ms):                         250.00    ",
            "P99 ITL (ms):                            725.00    ",
            "----------------End-to-end Latency----------------",
            "Mean E2EL (ms):                          1250.00   ",
            "Median E2EL (ms):                        1500.00   ",
            "P99 E2EL (ms):                           1990.00   ",
            "==================================================",
        ];
        Assert.Equal(expected, BenchRun.Lines(table));
    }

    [Fact]
    public void TheTable_LeavesOutWhatNobodyAskedFor()
    {
        string table = ServingReport.Table(Run(double.PositiveInfinity, null), ["ttft"], [50, 99.9]);
        Assert.DoesNotContain("goodput", table, StringComparison.Ordinal);
        Assert.DoesNotContain("configured", table, StringComparison.Ordinal);
        Assert.DoesNotContain("E2EL", table, StringComparison.Ordinal);
        Assert.Contains("P99.9 TTFT (ms):", table, StringComparison.Ordinal);
    }

    [Fact]
    public void TheJson_HasVllmsNames_AndEveryRequest()
    {
        using MemoryStream buffer = new();
        using (Utf8JsonWriter json = new(buffer)) ServingReport.Write(json, Run(double.PositiveInfinity, null), ["ttft", "itl"], [99]);
        JsonElement result = JsonDocument.Parse(Encoding.UTF8.GetString(buffer.ToArray())).RootElement;
        Assert.Equal("inf", result.GetProperty("request_rate").GetString());
        Assert.Equal(4, result.GetProperty("num_prompts").GetInt32());
        Assert.Equal(500, result.GetProperty("median_ttft_ms").GetDouble());
        Assert.Equal(990, result.GetProperty("p99_ttft_ms").GetDouble(), 1e-9);
        Assert.Equal(JsonValueKind.Null, result.GetProperty("request_goodput").ValueKind);
        Assert.False(result.TryGetProperty("mean_e2el_ms", out _));
        Assert.Equal([5, 1, 3, 0], result.GetProperty("output_lens").EnumerateArray().Select(item => item.GetDouble()));
        Assert.Equal([4, 0, 2, 0], result.GetProperty("itls").EnumerateArray().Select(item => item.GetArrayLength()));
        Assert.Equal(["", "", "", "HTTP 503"], result.GetProperty("errors").EnumerateArray().Select(item => item.GetString()!));
    }

    [Fact]
    public void TheChart_IsAPicture_WithAPointForEachRateAndLine()
    {
        string svg = LatencyChart.Svg([Run(1, null), Run(2, null), Run(4, null)], [99]);
        XElement picture = XElement.Parse(svg);
        Assert.Equal("svg", picture.Name.LocalName);
        XElement[] points = [.. picture.Descendants().Where(element => element.Name.LocalName == "circle")];
        Assert.Equal(3 * 2 * 2, points.Length); // rates, median and P99, two panels
        Assert.Contains("4 requests/s, P99: 990 ms", points.Select(point => point.Value));
        Assert.All(points, point => Assert.InRange((double)point.Attribute("cy")!, 0, 520));
        Assert.Equal(4, picture.Descendants().Count(element => element.Name.LocalName == "polyline"));
    }

    [Theory]
    [InlineData(4, 4, 1)]
    [InlineData(37, 4, 10)]
    [InlineData(0.9, 6, 0.2)]
    [InlineData(1000, 4, 250)]
    public void TheChartsAxes_HaveRoundNumbers(double highest, int ticks, double step) => Assert.Equal(step, LineChart.Step(highest, ticks), 1e-12);

    private static ServingRun Run(double rate, Goodput? goodput) => new()
    {
        Api = "openai",
        Model = "m",
        RequestRate = rate,
        Burstiness = 1,
        MaxConcurrency = null,
        Seed = 0,
        Result = new ServingResult(Records, 4, goodput),
    };
}
