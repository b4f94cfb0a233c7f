using Native.Scheduling;
using Native.Server.Serving;
using Prometheus;
using Histogram = Prometheus.Histogram;

namespace Native.Server.Metrics;

/// <summary>The series that dashboards and gateways made for vLLM read: its names, labels and buckets (vllm/v1/metrics/loggers.py).</summary>
/// <remarks>prometheus-net refuses the colon of <c>vllm:</c>, so these live in a registry of their own under names without the prefix;
/// <see cref="Exposition"/> writes it.</remarks>
internal sealed class VllmMetrics
{
    /// <summary>Prefix of the names as exposed.</summary>
    public const string Prefix = "vllm:";

    /// <summary>There is one engine a process; vLLM numbers them.</summary>
    public const string EngineLabel = "0";

    private static readonly string[] Labels = ["model_name", "engine"];

    private static readonly double[] RequestTime = [.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680];

    /// <summary>vLLM's buckets of seconds per token. The engine's own hold every one of them and finer ones below.</summary>
    public static readonly double[] TokenTime = [.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80];

    private static readonly double[] Tokens = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1000000];

    private readonly Histogram _firstToken, _perToken, _endToEnd, _queue, _inference, _prefill, _decode, _prompt, _generation, _maxGeneration, _n, _maxTokens, _computed;
    private readonly Counter _promptTokens, _cachedTokens, _generationTokens, _success, _preemptions, _prefixQueries, _prefixHits;
    private readonly Gauge _running, _waiting, _waitingBy, _usage, _cacheConfig;

    public VllmMetrics()
    {
        Registry = Prometheus.Metrics.NewCustomRegistry();
        MetricFactory metrics = Prometheus.Metrics.WithCustomRegistry(Registry);
        Histogram OfTime(string name, string help, double[] buckets) => metrics.CreateHistogram(name, help, Labels, new HistogramConfiguration { Buckets = buckets });

        _firstToken = OfTime("time_to_first_token_seconds", "Time to the first token.", MetricBuckets.TimeToFirstToken);
        _perToken = OfTime("request_time_per_output_token_seconds", "Decode time per token after the first.", TokenTime);
        _endToEnd = OfTime("e2e_request_latency_seconds", "From arrival to end.", RequestTime);
        _queue = OfTime("request_queue_time_seconds", "From arrival to the first step.", RequestTime);
        _inference = OfTime("request_inference_time_seconds", "From the first step to the last token.", RequestTime);
        _prefill = OfTime("request_prefill_time_seconds", "From the first step to the first token.", RequestTime);
        _decode = OfTime("request_decode_time_seconds", "From the first token to the last.", RequestTime);
        _prompt = OfTime("request_prompt_tokens", "Prompt tokens of a request.", Tokens);
        _generation = OfTime("request_generation_tokens", "Generated tokens of a request.", Tokens);
        _maxGeneration = OfTime("request_max_num_generation_tokens", "Tokens the longest choice could have.", Tokens);
        _maxTokens = OfTime("request_params_max_tokens", "max_tokens of a request.", Tokens);
        _computed = OfTime("request_prefill_kv_computed_tokens", "Prompt tokens computed, cached ones not counted.", Tokens);
        _n = OfTime("request_params_n", "n of a request.", [1, 2, 5, 10, 20]);

        _promptTokens = metrics.CreateCounter("prompt_tokens_total", "Prompt tokens computed.", Labels);
        _cachedTokens = metrics.CreateCounter("prompt_tokens_cached_total", "Prompt tokens found computed.", Labels);
        _generationTokens = metrics.CreateCounter("generation_tokens_total", "Tokens generated.", Labels);
        _success = metrics.CreateCounter("request_success_total", "Finished requests by reason.", [.. Labels, "finished_reason"]);
        _preemptions = metrics.CreateCounter("num_preemptions_total", "Preemptions.", Labels);
        _prefixQueries = metrics.CreateCounter("prefix_cache_queries_total", "Tokens looked up in the prefix cache.", Labels);
        _prefixHits = metrics.CreateCounter("prefix_cache_hits_total", "Tokens found in the prefix cache.", Labels);

        _running = metrics.CreateGauge("num_requests_running", "Sequences being computed.", Labels);
        _waiting = metrics.CreateGauge("num_requests_waiting", "Requests waiting.", Labels);
        _waitingBy = metrics.CreateGauge("num_requests_waiting_by_reason", "Requests waiting, by reason.", [.. Labels, "reason"]);
        _usage = metrics.CreateGauge("kv_cache_usage_perc", "Used share of the KV blocks, 0 to 1.", Labels);
        _cacheConfig = metrics.CreateGauge("cache_config_info", "The KV cache; always 1.", [.. Labels, "block_size", "num_gpu_blocks", "cache_dtype"]);
    }

    public CollectorRegistry Registry { get; }

    public void FirstToken(string model, double seconds) => _firstToken.WithLabels(model, EngineLabel).Observe(seconds);

    public void Observe(string model, in FinishedRequest request)
    {
        RequestTimings t = request.Timings;
        string[] labels = [model, EngineLabel];
        _success.WithLabels(model, EngineLabel, ReasonOf(request.Reason)).Inc();
        _prompt.WithLabels(labels).Observe(t.PromptTokens);
        _generation.WithLabels(labels).Observe(t.OutputTokens);
        _maxGeneration.WithLabels(labels).Observe((t.OutputTokens + request.N - 1) / request.N);
        _maxTokens.WithLabels(labels).Observe(request.MaxTokens);
        _computed.WithLabels(labels).Observe(t.PromptTokens - t.CachedTokens);
        _n.WithLabels(labels).Observe(request.N);
        _cachedTokens.WithLabels(labels).Inc(t.CachedTokens);
        _endToEnd.WithLabels(labels).Observe(RequestMetrics.Seconds(t.Arrival, t.Finished));
        _queue.WithLabels(labels).Observe(RequestMetrics.Seconds(t.Arrival, t.FirstScheduled != 0 ? t.FirstScheduled : t.Finished));
        if (t.FirstToken == 0) return;
        double decode = RequestMetrics.Seconds(t.FirstToken, t.LastToken);
        _inference.WithLabels(labels).Observe(RequestMetrics.Seconds(t.FirstScheduled, t.LastToken));
        _prefill.WithLabels(labels).Observe(RequestMetrics.Seconds(t.FirstScheduled, t.FirstToken));
        _decode.WithLabels(labels).Observe(decode);
        int afterFirst = t.OutputTokens / request.N - 1;
        if (afterFirst > 0) _perToken.WithLabels(labels).Observe(decode / afterFirst);
    }

    public void Collect(ServedModel model)
    {
        EngineMetrics engine = model.Engine.Metrics;
        string[] labels = [model.Name, EngineLabel];
        _promptTokens.WithLabels(labels).IncTo(engine.PromptTokens);
        _generationTokens.WithLabels(labels).IncTo(engine.GeneratedTokens);
        _cachedTokens.WithLabels(labels).Inc(0);
        _preemptions.WithLabels(labels).IncTo(engine.Preemptions);
        _prefixQueries.WithLabels(labels).IncTo(0); // every prompt is computed: nothing is looked up
        _prefixHits.WithLabels(labels).IncTo(0);
        _running.WithLabels(labels).Set(engine.Running);
        _waiting.WithLabels(labels).Set(engine.Waiting);
        _waitingBy.WithLabels(model.Name, EngineLabel, "capacity").Set(engine.Waiting);
        _waitingBy.WithLabels(model.Name, EngineLabel, "deferred").Set(0);
        _usage.WithLabels(labels).Set(RequestMetrics.UsageOf(engine));
        _cacheConfig.WithLabels(model.Name, EngineLabel, $"{model.Info.BlockSize}", $"{model.Info.BlockCount}", model.Info.KvCacheType.ToString().ToLowerInvariant()).Set(1);
        foreach (string reason in (string[])["stop", "length", "abort", "error", "repetition"]) _success.WithLabels(model.Name, EngineLabel, reason);
        // Present from the first scrape, so that rates and quantiles begin at zero rather than nowhere.
        foreach (Histogram histogram in (Histogram[])[_firstToken, _perToken, _endToEnd, _queue, _inference, _prefill, _decode, _prompt, _generation, _maxGeneration, _maxTokens, _computed, _n])
            histogram.WithLabels(labels).Publish();
    }

    private static string ReasonOf(FinishReason reason) => reason switch
    {
        FinishReason.Stop => "stop",
        FinishReason.Length => "length",
        FinishReason.Error => "error",
        _ => "abort",
    };
}
