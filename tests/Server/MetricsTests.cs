using System.Globalization;
using System.Text.RegularExpressions;
using Grpc.Core;
using Native.V1;

namespace Native.Tests.Server;

public sealed partial class MetricsTests
{
    /// <summary>Everything that vLLM's shipped dashboard and the Gateway API's endpoint picker ask for.</summary>
    private static readonly string[] VllmNames =
    [
        "vllm:e2e_request_latency_seconds_bucket", "vllm:e2e_request_latency_seconds_sum", "vllm:e2e_request_latency_seconds_count",
        "vllm:time_to_first_token_seconds_bucket", "vllm:time_to_first_token_seconds_sum", "vllm:time_to_first_token_seconds_count",
        "vllm:inter_token_latency_seconds_bucket", "vllm:inter_token_latency_seconds_sum", "vllm:inter_token_latency_seconds_count",
        "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:prompt_tokens_total", "vllm:generation_tokens_total",
        "vllm:request_success_total", "vllm:request_prompt_tokens_bucket", "vllm:request_generation_tokens_bucket", "vllm:request_queue_time_seconds_sum",
        "vllm:request_prefill_time_seconds_sum", "vllm:request_decode_time_seconds_sum", "vllm:request_max_num_generation_tokens_sum",
        "vllm:request_time_per_output_token_seconds_bucket", "vllm:request_inference_time_seconds_bucket", "vllm:iteration_tokens_total_bucket",
        "vllm:num_preemptions_total", "vllm:request_params_n_bucket", "vllm:request_params_max_tokens_bucket", "vllm:cache_config_info",
    ];

    [Fact]
    public async Task Metrics_AgreeWithTheRequestsMade()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        await server.Ask("/v1/completions", """{"prompt":"y"}""");
        await server.Ask("/v1/completions", """{"prompt":"A","max_tokens":10}""");
        using HttpResponseMessage invalid = await server.Post("/v1/completions", """{"prompt":"A","temperature":-1}""");
        Dictionary<string, double> values = Parse(await server.MetricsWith("native_requests_total{outcome=\"length\"} 1"));

        Assert.Equal(1, values["native_requests_total{outcome=\"stop\"}"]);
        Assert.Equal(1, values["native_requests_total{outcome=\"length\"}"]);
        Assert.Equal(1, values["native_requests_total{outcome=\"invalid\"}"]);
        Assert.Equal(0, values["native_requests_total{outcome=\"error\"}"]);
        Assert.Equal(4, values["native_prompt_tokens_total"]);
        Assert.Equal(13, values["native_generation_tokens_total"]);
        Assert.Equal(2, values["native_time_to_first_token_seconds_count"]);
        Assert.Equal(1, values["native_e2e_request_latency_seconds_count{outcome=\"stop\"}"]);
        Assert.Equal(1, values["native_request_queue_time_seconds_count{outcome=\"length\"}"]);
        Assert.Equal(1, values["native_request_prefill_time_seconds_count{outcome=\"length\"}"]);
        Assert.Equal(1, values["native_request_decode_time_seconds_count{outcome=\"length\"}"]);
        Assert.Equal(1, values["native_time_per_output_token_seconds_count{outcome=\"length\"}"]);
        Assert.Equal(11, values["native_inter_token_latency_seconds_count"]);
        Assert.Equal(64, values["native_kv_blocks{state=\"free\"}"] + values["native_kv_blocks{state=\"used\"}"]);
        Assert.Equal(0, values["native_kv_cache_usage_ratio"]);
        Assert.Equal(values["native_steps_total"], values["native_step_seconds_count"]);
        Assert.Equal(values["native_steps_total"], values["native_step_tokens_bucket{le=\"+Inf\"}"]);
        Assert.Contains("native_gc_pause_seconds_count", values.Keys);
        Assert.Contains("native_preemptions_total", values.Keys);
        Assert.DoesNotContain(values.Keys, name => name.StartsWith("vllm:", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("{\"prompt\":"), InlineData("{\"prompt\":\"A\",\"model\":\"other\"}"), InlineData("{\"prompt\":{}}")]
    [InlineData("{\"prompt\":\"A\",\"stop\":[\"\",\"a\",\"b\"]}", false), InlineData("{\"prompt\":\"A\",\"top_p\":7}")]
    [InlineData("{\"prompt\":\"A\",\"max_tokens\":1}", false)]
    public async Task WhatIsWrong_IsCountedAsInvalid_WhoeverFindsIt(string body, bool wrong = true)
    {
        await using RunningServer server = await RunningServer.StartAsync();
        using (HttpResponseMessage answer = await server.Post("/v1/completions", body))
            Assert.Equal(wrong, !answer.IsSuccessStatusCode);
        await server.MetricsWith($"native_requests_total{{outcome=\"invalid\"}} {(wrong ? 1 : 0)}");
    }

    [Fact]
    public async Task WhatIsWrongInGrpc_IsCountedAsInvalid()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        GenerateRequest[] wrong =
        [
            new() { Text = "A", Model = "other" }, new(), new() { Text = "A", Sampling = new() { TopP = 7 } },
            new() { Text = "A", Sampling = new() { Stop = { new string('x', 5000) } } },
        ];
        foreach (GenerateRequest request in wrong)
        {
            using AsyncServerStreamingCall<GenerateResponse> call =
                server.Inference.Generate(request, cancellationToken: TestContext.Current.CancellationToken);
            await Assert.ThrowsAsync<RpcException>(
                () => call.ResponseStream.MoveNext(TestContext.Current.CancellationToken));
        }
        await server.MetricsWith($"native_requests_total{{outcome=\"invalid\"}} {wrong.Length}");
    }

    [Fact]
    public async Task VllmsTokensOfAStep_CountEveryPromptsFirstTokenToo()
    {
        await using RunningServer server = await RunningServer.StartAsync(new() { VllmMetrics = true });
        for (int i = 0; i < 10; i++) await server.Ask("/v1/completions", """{"prompt":"AAAAAAAA","max_tokens":10}""");
        Dictionary<string, double> values = Parse(await server.MetricsWith("native_requests_total{outcome=\"length\"} 10"));
        Assert.Equal(190, values["vllm:iteration_tokens_total_sum{model_name=\"scripted\",engine=\"0\"}"]); // 10 of 9 + 10
    }

    [Fact]
    public async Task DecodeSteps_AreCounted_AndAllocateNothing()
    {
        await using RunningServer server = await RunningServer.StartAsync();
        // The first answer pays for what is made once: code, queues, pool threads.
        await server.Ask("/v1/completions", """{"prompt":"A","max_tokens":100}""");
        Dictionary<string, double> before = Parse(await server.MetricsWith("native_requests_total{outcome=\"length\"} 1"));
        await server.Ask("/v1/completions", """{"prompt":"A","max_tokens":100}""");
        Dictionary<string, double> after = Parse(await server.MetricsWith("native_requests_total{outcome=\"length\"} 2"));
        Assert.Equal(99, before["native_decode_steps_total"]); // the first of a hundred tokens comes with the prompt
        Assert.Equal(99, after["native_decode_steps_total"] - before["native_decode_steps_total"]);
        Assert.Equal(200, after["native_steps_total"]);
        Assert.True(after["native_decode_step_allocated_bytes_total"] >= before["native_decode_step_allocated_bytes_total"]);
    }

    [Fact]
    public async Task AStepsThreadThatWaitsForALock_IsCountedApartFromOthers()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "the name of a waiting thread is known in Linux alone");
        await using RunningServer server = await RunningServer.StartAsync();
        async Task<(double All, double OfSteps)> Count()
        {
            Dictionary<string, double> values = Parse(await server.Metrics());
            return (values["native_lock_contentions_total"], values["native_step_lock_contentions_total"]);
        }
        const int times = 50;
        (double all, double ofSteps) = await Count();
        for (int i = 0; i < times; i++)
        {
            using Contention other = new("somebody");
        }
        (double allThen, double ofStepsThen) = await Count();
        Assert.True(allThen - all >= times);
        // A thread's name is looked up when its wait is heard of, so it waits until then. Whatever was heard before is
        // counted by now.
        using (Contention engine = new("native-engine"))
            for (int i = 0; i < 3000 && (await Count()).OfSteps <= ofStepsThen; i++) await Task.Delay(10, TestContext.Current.CancellationToken);
        Assert.InRange((await Count()).OfSteps - ofSteps, 1, times - 1);
    }

    [Fact]
    public async Task VllmNames_AreThereWithTheirLabels_FromTheFirstScrape()
    {
        await using RunningServer server = await RunningServer.StartAsync(new() { VllmMetrics = true });
        foreach (bool asked in (bool[])[false, true])
        {
            if (asked) await server.Ask("/v1/completions", """{"prompt":"y"}""");
            string text = await server.Metrics();
            foreach (string name in VllmNames)
                Assert.True(text.Split('\n').Any(line => line.StartsWith(name + "{", StringComparison.Ordinal) && line.Contains("model_name=\"scripted\"") && line.Contains("engine=\"0\"")), $"{name} is missing");
        }
        Dictionary<string, double> values = Parse(await server.MetricsWith("native_requests_total{outcome=\"stop\"} 1"));
        Assert.Equal(1, values["vllm:request_success_total{model_name=\"scripted\",engine=\"0\",finished_reason=\"stop\"}"]);
        Assert.Equal(values["native_inter_token_latency_seconds_count"], values["vllm:inter_token_latency_seconds_count{model_name=\"scripted\",engine=\"0\"}"]);
        // vLLM's buckets, to the last.
        Assert.Equal([".01", ".025", ".05", ".075", ".1", ".15", ".2", ".3", ".4", ".5", ".75", "1", "2.5", "5", "7.5", "10", "20", "40", "80", "+Inf"], Buckets(values, "vllm:inter_token_latency_seconds"));
        Assert.Equal([".3", ".5", ".8", "1", "1.5", "2", "2.5", "5", "10", "15", "20", "30", "40", "50", "60", "120", "240", "480", "960", "1920", "7680", "+Inf"], Buckets(values, "vllm:e2e_request_latency_seconds"));
    }

    private static IEnumerable<string> Buckets(Dictionary<string, double> values, string name) =>
        values.Keys.Where(key => key.StartsWith(name + "_bucket", StringComparison.Ordinal)).Select(key => Le().Match(key).Groups[1].Value).Select(le => le.StartsWith("0.", StringComparison.Ordinal) ? le[1..] : le);

    /// <summary>Samples by series. Fails where a line is none, a series comes twice, or it has no TYPE.</summary>
    private static Dictionary<string, double> Parse(string text)
    {
        Dictionary<string, double> values = new(StringComparer.Ordinal);
        HashSet<string> typed = new(StringComparer.Ordinal);
        foreach (string line in text.Split('\n', StringSplitOptions.RemoveEmptyEntries))
        {
            if (line.StartsWith('#'))
            {
                if (line.StartsWith("# TYPE ", StringComparison.Ordinal)) Assert.True(typed.Add(line.Split(' ')[2]), $"two TYPE lines: {line}");
                continue;
            }
            Match sample = Sample().Match(line);
            Assert.True(sample.Success, $"no sample: {line}");
            string name = sample.Groups[1].Value;
            Assert.True(typed.Contains(name) || typed.Contains(Suffix().Replace(name, "")), $"no TYPE: {line}");
            values.Add(name + sample.Groups[2].Value, double.Parse(sample.Groups[3].Value, CultureInfo.InvariantCulture));
        }
        return values;
    }

    /// <summary>A thread that waits for a monitor until this is disposed of.</summary>
    private sealed class Contention : IDisposable
    {
        private readonly object _gate = new();
        private readonly ManualResetEventSlim _held = new(), _release = new();
        private readonly Thread _holder, _waiter;

        public Contention(string name)
        {
            _holder = new Thread(() =>
            {
                lock (_gate)
                {
                    _held.Set();
                    _release.Wait();
                }
            });
            _waiter = new Thread(() =>
            {
                lock (_gate)
                {
                }
            })
            { Name = name };
            _holder.Start();
            _held.Wait();
            _waiter.Start();
            while ((_waiter.ThreadState & ThreadState.WaitSleepJoin) == 0) Thread.Sleep(1);
        }

        public void Dispose()
        {
            _release.Set();
            _holder.Join();
            _waiter.Join();
            _held.Dispose();
            _release.Dispose();
        }
    }

    [GeneratedRegex("^([a-zA-Z_:][a-zA-Z0-9_:]*)(\\{.*\\})? (\\S+)$")]
    private static partial Regex Sample();

    [GeneratedRegex("_(bucket|sum|count)$")]
    private static partial Regex Suffix();

    [GeneratedRegex("le=\"([^\"]+)\"")]
    private static partial Regex Le();
}
