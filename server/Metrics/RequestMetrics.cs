using System.Diagnostics;
using Native.Scheduling;
using Native.Server.Serving;
using Prometheus;
using Histogram = Prometheus.Histogram;

namespace Native.Server.Metrics;

/// <summary>
/// What happened to requests, as Prometheus series. The engine writes a record for every request that ends; <see cref="Collect"/> turns
/// the new ones into observations, off the engine's thread. With <c>--metrics-compat vllm</c> each is also told under vLLM's name.
/// </summary>
internal sealed class RequestMetrics
{
    private readonly object _collecting = new();
    private readonly ModelHost _host;
    private readonly Histogram _timeToFirstToken, _timePerOutputToken, _endToEnd, _queue, _prefill, _decode;
    private readonly Histogram _promptTokens, _generationTokens;
    private readonly Counter _requests, _generated, _prompted, _cached, _preemptions, _steps, _failedSteps, _decodeSteps, _decodeStepAllocated, _copied, _lost;
    private readonly Gauge _running, _waiting, _blocks, _usage, _info, _uptime, _weights, _kvBytes, _state;
    private readonly VllmMetrics? _vllm;

    public RequestMetrics(ModelHost host, bool vllm)
    {
        _host = host;
        Registry = Prometheus.Metrics.NewCustomRegistry();
        MetricFactory metrics = Prometheus.Metrics.WithCustomRegistry(Registry);
        _vllm = vllm ? new VllmMetrics() : null;

        // Finer than the engine's own below 5 ms, where small models answer.
        double[] firstToken = [.0005, .001, .0025, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560];
        double[] time = [.0005, .001, .0025, .. MetricBuckets.RequestTime];
        double[] tokens = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1000000];
        _timeToFirstToken = metrics.CreateHistogram("native_time_to_first_token_seconds", "From a request's arrival to its first token, text handling and queue included.", new HistogramConfiguration { Buckets = firstToken });
        _timePerOutputToken = metrics.CreateHistogram("native_time_per_output_token_seconds", "Decode time of a finished request per token after the first.", ["outcome"], new HistogramConfiguration { Buckets = [.0001, .00025, .. MetricBuckets.InterTokenLatency] });
        _endToEnd = metrics.CreateHistogram("native_e2e_request_latency_seconds", "From a request's arrival to its end.", ["outcome"], new HistogramConfiguration { Buckets = time });
        _queue = metrics.CreateHistogram("native_request_queue_time_seconds", "From a request's arrival to its first step.", ["outcome"], new HistogramConfiguration { Buckets = time });
        _prefill = metrics.CreateHistogram("native_request_prefill_time_seconds", "From a request's first step to its first token.", ["outcome"], new HistogramConfiguration { Buckets = time });
        _decode = metrics.CreateHistogram("native_request_decode_time_seconds", "From a request's first token to its last.", ["outcome"], new HistogramConfiguration { Buckets = time });
        _promptTokens = metrics.CreateHistogram("native_request_prompt_tokens", "Prompt tokens of a request.", new HistogramConfiguration { Buckets = tokens });
        _generationTokens = metrics.CreateHistogram("native_request_generation_tokens", "Tokens a request generated, over all its choices.", new HistogramConfiguration { Buckets = tokens });

        _requests = metrics.CreateCounter("native_requests_total", "Requests by outcome: stop, length, cancelled, deadline, aborted, error; refused ones as queue_full, draining, invalid.", ["outcome"]);
        _prompted = metrics.CreateCounter("native_prompt_tokens_total", "Prompt tokens computed.");
        _generated = metrics.CreateCounter("native_generation_tokens_total", "Tokens generated.");
        _cached = metrics.CreateCounter("native_prompt_tokens_cached_total", "Prompt tokens of finished requests that were found computed.");
        _preemptions = metrics.CreateCounter("native_preemptions_total", "Times a sequence lost its KV blocks to an older one.");
        _steps = metrics.CreateCounter("native_steps_total", "Steps executed.");
        _failedSteps = metrics.CreateCounter("native_failed_steps_total", "Steps that failed, and with them their requests.");
        _decodeSteps = metrics.CreateCounter("native_decode_steps_total", "Steps that computed decodes alone: no prompt, nobody admitted.");
        _decodeStepAllocated = metrics.CreateCounter("native_decode_step_allocated_bytes_total", "Bytes the engine's thread allocated in those steps, from taking news to waking readers; its workers' loops are over native memory.");
        _copied = metrics.CreateCounter("native_kv_blocks_copied_total", "KV blocks copied because a forked sequence wrote into a shared one.");
        _lost = metrics.CreateCounter("native_request_records_dropped_total", "Finished requests missing in the histograms because too many ended at once.");

        _running = metrics.CreateGauge("native_requests_running", "Sequences being computed.");
        _waiting = metrics.CreateGauge("native_requests_waiting", "Requests waiting for their first step, and preempted sequences.");
        _blocks = metrics.CreateGauge("native_kv_blocks", "KV blocks by state.", ["state"]);
        _usage = metrics.CreateGauge("native_kv_cache_usage_ratio", "Used share of the KV blocks, 0 to 1.");
        _info = metrics.CreateGauge("native_model_info", "The model served; always 1.", ["model_name", "architecture", "backend", "kv_cache_dtype", "block_size", "max_model_len"]);
        _weights = metrics.CreateGauge("native_model_weight_bytes", "Memory of the weights.");
        _kvBytes = metrics.CreateGauge("native_kv_cache_bytes", "Memory of the KV cache.");
        _state = metrics.CreateGauge("native_server_state", "1 for the state the server is in.", ["state"]);
        _uptime = metrics.CreateGauge("native_uptime_seconds", "Since the process began to listen.");
        metrics.CreateGauge("native_build_info", "The build; always 1.", ["version", "dotnet"]).WithLabels(ServerInfo.Version, Environment.Version.ToString()).Set(1);

        foreach (FinishReason reason in Enum.GetValues<FinishReason>())
            if (reason != FinishReason.None) _requests.WithLabels(OutcomeOf(reason));
        foreach (SubmitOutcome refused in (SubmitOutcome[])[SubmitOutcome.QueueFull, SubmitOutcome.Draining, SubmitOutcome.Invalid]) _requests.WithLabels(OutcomeOf(refused));
    }

    public CollectorRegistry Registry { get; }

    /// <summary>vLLM's names, or null where nobody asked for them.</summary>
    public VllmMetrics? Vllm => _vllm;

    /// <summary>The engine did not take a request.</summary>
    public void Refused(SubmitOutcome outcome) => _requests.WithLabels(OutcomeOf(outcome)).Inc();

    /// <summary>A request's first token is on its way to the client.</summary>
    public void FirstToken(TimeSpan sinceArrival)
    {
        _timeToFirstToken.Observe(sinceArrival.TotalSeconds);
        _vllm?.FirstToken(_host.Model!.Name, sinceArrival.TotalSeconds);
    }

    /// <summary>Takes over what ended since the last call, and the engine's counters as they stand. Any thread.</summary>
    public void Collect()
    {
        lock (_collecting) // the engine's ring has one reader
        {
            _uptime.Set(Stopwatch.GetElapsedTime(_host.StartedAt).TotalSeconds);
            foreach (HostState state in Enum.GetValues<HostState>()) _state.WithLabels(state.ToString().ToLowerInvariant()).Set(state == _host.State ? 1 : 0);
            if (_host.Model is not { } model) return;

            EngineMetrics engine = model.Engine.Metrics;
            while (engine.TryReadFinished(out FinishedRequest request))
            {
                Observe(request);
                _vllm?.Observe(model.Name, request);
            }
            _prompted.IncTo(engine.PromptTokens);
            _generated.IncTo(engine.GeneratedTokens);
            _preemptions.IncTo(engine.Preemptions);
            _steps.IncTo(engine.Steps);
            _failedSteps.IncTo(engine.FailedSteps);
            _decodeSteps.IncTo(engine.DecodeSteps);
            _decodeStepAllocated.IncTo(engine.DecodeStepAllocatedBytes);
            _copied.IncTo(engine.CopiedBlocks);
            _lost.IncTo(engine.DroppedRecords);
            _running.Set(engine.Running);
            _waiting.Set(engine.Waiting);
            _blocks.WithLabels("free").Set(engine.FreeBlocks);
            _blocks.WithLabels("used").Set(engine.TotalBlocks - engine.FreeBlocks);
            _usage.Set(UsageOf(engine));
            _weights.Set(model.Info.WeightBytes);
            _kvBytes.Set(model.Info.KvCacheBytes);
            _info.WithLabels(model.Name, model.Info.Architecture, model.Info.Backend, model.Info.KvCacheType.ToString().ToLowerInvariant(), $"{model.Info.BlockSize}", $"{model.Info.MaxModelLength}").Set(1);
            _vllm?.Collect(model);
        }
    }

    internal static double UsageOf(EngineMetrics engine) => engine.TotalBlocks == 0 ? 0 : (double)(engine.TotalBlocks - engine.FreeBlocks) / engine.TotalBlocks;

    /// <summary>Seconds between two timestamps; negative where one of them never came.</summary>
    internal static double Seconds(long from, long to) => from == 0 || to == 0 ? -1 : Stopwatch.GetElapsedTime(from, to).TotalSeconds;

    private void Observe(in FinishedRequest request)
    {
        string outcome = OutcomeOf(request.Reason);
        RequestTimings t = request.Timings;
        _requests.WithLabels(outcome).Inc();
        _promptTokens.Observe(t.PromptTokens);
        _generationTokens.Observe(t.OutputTokens);
        _cached.Inc(t.CachedTokens);
        _endToEnd.WithLabels(outcome).Observe(Seconds(t.Arrival, t.Finished));
        // What was never scheduled only queued; what never had a token only prefilled.
        _queue.WithLabels(outcome).Observe(Seconds(t.Arrival, t.FirstScheduled != 0 ? t.FirstScheduled : t.Finished));
        if (t.FirstScheduled != 0) _prefill.WithLabels(outcome).Observe(Seconds(t.FirstScheduled, t.FirstToken != 0 ? t.FirstToken : t.Finished));
        if (t.FirstToken == 0) return;
        double decode = Seconds(t.FirstToken, t.LastToken);
        _decode.WithLabels(outcome).Observe(decode);
        int afterFirst = t.OutputTokens / request.N - 1; // choices decode side by side
        if (afterFirst > 0) _timePerOutputToken.WithLabels(outcome).Observe(decode / afterFirst);
    }

    private static string OutcomeOf(FinishReason reason) => reason switch
    {
        FinishReason.Stop => "stop",
        FinishReason.Length => "length",
        FinishReason.Cancelled => "cancelled",
        FinishReason.Deadline => "deadline",
        FinishReason.Aborted => "aborted",
        _ => "error",
    };

    private static string OutcomeOf(SubmitOutcome outcome) => outcome switch
    {
        SubmitOutcome.QueueFull => "queue_full",
        SubmitOutcome.Draining => "draining",
        _ => "invalid",
    };
}
