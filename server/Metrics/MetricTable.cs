using System.Diagnostics;
using System.Globalization;
using Native.Kernels;
using Native.Scheduling;
using Native.Scheduling.Slo;
using Native.Server.Serving;
using EngineHistogram = Native.Scheduling.Histogram;

namespace Native.Server.Metrics;

/// <summary>
/// What a metric is called under one of the two sets of names, with its help and its own labels there.
/// </summary>
/// <param name="Name">The whole name, as exposed.</param>
/// <param name="Help">Its help.</param>
/// <param name="Labels">Labels beside those that every series of the set has.</param>
internal sealed record Exposed(string Name, string Help, params string[] Labels);

/// <summary>One series' value, with the values of the metric's labels.</summary>
internal readonly record struct Sample(double Value, params string[] Labels);

/// <summary>A row of numbers that the server or the engine holds. They are read when somebody asks.</summary>
/// <param name="Native">Native's name, or null where it has none.</param>
/// <param name="Vllm">vLLM's name, or null where it has none.</param>
/// <param name="Read">The series there are now.</param>
/// <param name="IsCounter">Whether the numbers only grow.</param>
internal sealed record NumberRow(
    Exposed? Native, Exposed? Vllm, Func<ModelHost, IEnumerable<Sample>> Read, bool IsCounter = false);

/// <summary>A row of requests that ended, counted by a word for how.</summary>
/// <param name="Native">Native's name.</param>
/// <param name="NativeWord">Native's word for an end.</param>
/// <param name="Vllm">vLLM's name.</param>
/// <param name="VllmWord">vLLM's word for an end.</param>
internal sealed record OutcomeRow(
    Exposed Native, Func<FinishReason, string> NativeWord, Exposed Vllm, Func<FinishReason, string> VllmWord);

/// <summary>A row of a number that each request has: a histogram over requests.</summary>
/// <param name="Native">Native's name, or null where it has none. The label <c>outcome</c> tells how a request
/// ended.</param>
/// <param name="NativeBuckets">Upper bounds under that name.</param>
/// <param name="Vllm">vLLM's name, or null where it has none.</param>
/// <param name="VllmBuckets">Upper bounds under that name.</param>
/// <param name="Read">An ended request's number, or null where it has none. Null for what is observed before the
/// end.</param>
internal sealed record RequestRow(
    Exposed? Native, double[] NativeBuckets, Exposed? Vllm, double[] VllmBuckets, Func<FinishedRequest, double?>? Read);

/// <summary>A row of a sum over ended requests that the engine does not keep.</summary>
/// <param name="Native">Native's name.</param>
/// <param name="Vllm">vLLM's name.</param>
/// <param name="Read">An ended request's number.</param>
internal sealed record SumRow(Exposed Native, Exposed Vllm, Func<FinishedRequest, double> Read);

/// <summary>A row of a histogram that the engine's thread keeps itself.</summary>
/// <param name="Native">Native's name.</param>
/// <param name="Vllm">vLLM's name, or null where it has none.</param>
/// <param name="VllmBuckets">vLLM's upper bounds, or null for the engine's own.</param>
/// <param name="Read">The histogram.</param>
internal sealed record EngineRow(
    Exposed Native, Exposed? Vllm, double[]? VllmBuckets, Func<EngineMetrics, EngineHistogram> Read);

/// <summary>
/// Every metric of requests, engine and model, a row each: its name, vLLM's name for it (vllm/v1/metrics/loggers.py),
/// which dashboards read, and how it is read. The .NET runtime's are in <see cref="RuntimeMetrics"/>.
/// </summary>
internal static class MetricTable
{
    /// <summary>The prefix of vLLM's names.</summary>
    public const string VllmPrefix = "vllm:";

    /// <summary>The labels that every series under vLLM's names has.</summary>
    public static readonly string[] VllmLabels = ["model_name", "engine"];

    /// <summary>Outcomes that depend on whose the request is and when it comes.</summary>
    private static readonly SubmitOutcome[] Refusals =
        [SubmitOutcome.QueueFull, SubmitOutcome.WouldBeLate, SubmitOutcome.OverQuota, SubmitOutcome.Shed];

    private static readonly double[] VllmRequestTime =
        [.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680];

    /// <summary>
    /// vLLM's buckets of seconds per token. The engine's own hold every one of them and finer ones below.
    /// </summary>
    private static readonly double[] VllmTokenTime =
        [.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80];

    private static readonly double[] TokenCounts =
        [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1000000];

    // Native's are finer than the engine's own below 5 ms, where small models answer.
    private static readonly double[] RequestTime = [.0005, .001, .0025, .. MetricBuckets.RequestTime];
    private static readonly double[] FirstTokenTime =
        [.0005, .001, .0025, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640,
        2560];
    private static readonly double[] TokenTime = [.0001, .00025, .. MetricBuckets.InterTokenLatency];

    /// <summary>The values of <see cref="VllmLabels"/>. There is one engine a process; vLLM numbers them.</summary>
    public static string[] VllmLabelsOf(ServedModel model) => [model.Name, "0"];

    /// <summary>Observed when a request's first token is on its way to the client.</summary>
    public static readonly RequestRow FirstToken = new(
        new("native_time_to_first_token_seconds",
            "From a request's arrival to its first token, text handling and queue included."), FirstTokenTime,
        new("vllm:time_to_first_token_seconds", "Time to the first token."), MetricBuckets.TimeToFirstToken,
        Read: null);

    private static readonly RequestRow TokenAfterFirst = new(
        new("native_time_per_output_token_seconds",
            "Decode time of a finished request per token after the first.", "outcome"), TokenTime,
        new("vllm:request_time_per_output_token_seconds", "Decode time per token after the first."), VllmTokenTime,
        request => request.TimePerOutputToken?.TotalSeconds);

    private static readonly RequestRow Whole = new(
        new("native_e2e_request_latency_seconds", "From a request's arrival to its end.", "outcome"), RequestTime,
        new("vllm:e2e_request_latency_seconds", "From arrival to end."), VllmRequestTime,
        request => Seconds(request.Timings.Arrival, request.Timings.Finished));

    private static readonly EngineRow BetweenTokens = new(
        new("native_inter_token_latency_seconds", "Time between two tokens of one sequence."),
        new("vllm:inter_token_latency_seconds", "Time between two tokens of one sequence."), VllmTokenTime,
        engine => engine.InterTokenLatency);

    public static readonly RequestRow[] Requests =
    [
        FirstToken,
        TokenAfterFirst,
        Whole,
        new(
            new("native_request_queue_time_seconds",
                "From a request's arrival to its first step.", "outcome"), RequestTime,
            new("vllm:request_queue_time_seconds", "From arrival to the first step."), VllmRequestTime,
            QueueTime),
        new(
            new("native_request_prefill_time_seconds",
                "From a request's first step to its first token.", "outcome"), RequestTime,
            null, [],
            PrefillTime),
        new(
            null, [],
            new("vllm:request_prefill_time_seconds", "From the first step to the first token."), VllmRequestTime,
            request => Seconds(request.Timings.FirstScheduled, request.Timings.FirstToken)),
        new(
            new("native_request_decode_time_seconds",
                "From a request's first token to its last.", "outcome"), RequestTime,
            new("vllm:request_decode_time_seconds", "From the first token to the last."), VllmRequestTime,
            DecodeTime),
        new(
            null, [],
            new("vllm:request_inference_time_seconds", "From the first step to the last token."), VllmRequestTime,
            InferenceTime),
        new(
            new("native_request_prompt_tokens", "Prompt tokens of a request."), TokenCounts,
            new("vllm:request_prompt_tokens", "Prompt tokens of a request."), TokenCounts,
            request => request.Timings.PromptTokens),
        new(
            new("native_request_generation_tokens", "Tokens a request generated, over all its choices."), TokenCounts,
            new("vllm:request_generation_tokens", "Generated tokens of a request."), TokenCounts,
            request => request.Timings.OutputTokens),
        new(
            null, [],
            new("vllm:request_max_num_generation_tokens", "Tokens the longest choice could have."), TokenCounts,
            request => (request.Timings.OutputTokens + request.N - 1) / request.N),
        new(
            null, [],
            new("vllm:request_params_max_tokens", "max_tokens of a request."), TokenCounts,
            request => request.MaxTokens),
        new(
            null, [],
            new("vllm:request_prefill_kv_computed_tokens",
                "Prompt tokens computed, cached ones not counted."), TokenCounts,
            request => request.Timings.PromptTokens - request.Timings.CachedTokens),
        new(
            null, [],
            new("vllm:request_params_n", "n of a request."), [1, 2, 5, 10, 20],
            request => request.N),
    ];

    /// <summary>The engine's refusals are counted here too, under Native's name.</summary>
    public static readonly OutcomeRow Outcomes = new(
        new("native_requests_total",
            "Requests by outcome: stop, length, cancelled, deadline, aborted, error; "
            + "refused ones as queue_full, would_be_late, over_quota, shed, draining, invalid.", "outcome"),
        OutcomeOf,
        new("vllm:request_success_total", "Finished requests by reason.", "finished_reason"), VllmReasonOf);

    public static readonly SumRow CachedTokens = new(
        new("native_prompt_tokens_cached_total", "Prompt tokens of finished requests that were found computed."),
        new("vllm:prompt_tokens_cached_total", "Prompt tokens found computed."),
        request => request.Timings.CachedTokens);

    public static readonly NumberRow[] Numbers =
    [
        Counter(
            new("native_prompt_tokens_total",
                "Prompt tokens of requests that were started, computed or found computed."),
            new("vllm:prompt_tokens_total", "Prompt tokens, computed or found computed."),
            engine => engine.PromptTokens),
        Counter(
            new("native_generation_tokens_total", "Tokens generated."),
            new("vllm:generation_tokens_total", "Tokens generated."),
            engine => engine.GeneratedTokens),
        Counter(
            new("native_preemptions_total", "Times a sequence lost its KV blocks to another, to be computed again."),
            new("vllm:num_preemptions_total", "Preemptions."),
            engine => engine.Preemptions),
        Counter(new("native_steps_total", "Steps executed."), null, engine => engine.Steps),
        Counter(
            new("native_failed_steps_total", "Steps that failed, and with them their requests."), null,
            engine => engine.FailedSteps),
        Counter(
            new("native_decode_steps_total", "Steps that computed decodes alone: no prompt, nobody admitted."), null,
            engine => engine.DecodeSteps),
        Counter(
            new("native_decode_step_allocated_bytes_total",
                "Bytes the engine's thread allocated in those steps, from taking news to waking readers; "
                + "its workers' loops are over native memory."), null,
            engine => engine.DecodeStepAllocatedBytes),
        Counter(
            new("native_kv_blocks_copied_total",
                "KV blocks copied because a forked sequence wrote into a shared one."), null,
            engine => engine.CopiedBlocks),
        Counter(
            new("native_request_records_dropped_total",
                "Finished requests missing in the histograms because too many ended at once."), null,
            engine => engine.DroppedRecords),
        Counter(
            new("native_prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache."),
            new("vllm:prefix_cache_queries_total", "Tokens looked up in the prefix cache."),
            engine => engine.PrefixQueryTokens),
        Counter(
            new("native_prefix_cache_hits_total", "Prompt tokens found in the prefix cache and not computed."),
            new("vllm:prefix_cache_hits_total", "Tokens found in the prefix cache."),
            engine => engine.PrefixHitTokens),
        Counter(
            new("native_prefix_cache_evicted_blocks_total", "KV blocks whose tokens were forgotten to make room."),
            null,
            engine => engine.EvictedBlocks),
        Counter(
            new("native_recomputed_tokens_total", "Tokens computed again after a preemption."), null,
            engine => engine.RecomputedTokens),

        new(
            new("native_requests_running", "Sequences being computed."),
            new("vllm:num_requests_running", "Sequences being computed."),
            OfEngine(engine => [new(engine.Running)])),
        new(
            new("native_requests_waiting", "Requests waiting for their first step, and preempted sequences."),
            new("vllm:num_requests_waiting", "Requests waiting."),
            OfEngine(engine => [new(engine.Waiting)])),
        new(
            new("native_queued_prompt_tokens", "Prompt tokens of requests waiting for their first step."),
            null,
            OfModel(model => [new(model.Engine.QueuedTokens)])),
        new(
            new("native_tenant_tokens_total",
                "Prompt tokens computed and tokens generated for the tenants that --tenants names.", "tenant"),
            null,
            OfModel(model => [.. model.Engine.ReadTenants().Select(t => new Sample(t.Tokens, t.Name))]),
            IsCounter: true),
        new(
            new("native_tenant_refused_total",
                "Their prompts refused, by the reason that native_requests_total tells too.", "tenant", "reason"),
            null,
            OfModel(model => [.. model.Engine.ReadTenants().SelectMany(t => Refusals.Select(
                reason => new Sample(t.RefusedBy(reason), t.Name, OutcomeOf(reason))))]),
            IsCounter: true),
        new(
            new("native_tenant_requests_waiting", "Their requests waiting for their first step.", "tenant"),
            null,
            OfModel(model => [.. model.Engine.ReadTenants().Select(t => new Sample(t.Queued, t.Name))])),
        new(
            null,
            new("vllm:num_requests_waiting_by_reason", "Requests waiting, by reason.", "reason"),
            OfEngine(engine => [new(engine.Waiting, "capacity"), new(0, "deferred")])),
        new(
            new("native_prefix_cache_blocks", "KV blocks whose tokens are known, so that a prompt may take them."),
            null,
            OfEngine(engine => [new(engine.CachedBlocks)])),
        new(
            new("native_kv_blocks", "KV blocks by state; those that nobody reads are free, cached or not.", "state"),
            null,
            OfEngine(engine => [new(engine.FreeBlocks, "free"), new(engine.TotalBlocks - engine.FreeBlocks, "used")])),
        new(
            new("native_kv_cache_usage_ratio", "Used share of the KV blocks, 0 to 1."),
            new("vllm:kv_cache_usage_perc", "Used share of the KV blocks, 0 to 1."),
            OfEngine(engine => [new(UsageOf(engine))])),
        new(
            new("native_model_info", "The model served; always 1.",
                "model_name", "architecture", "backend", "kv_cache_dtype", "block_size", "max_model_len"),
            null,
            OfModel(model => [InfoOf(model.Name, model.Info)])),
        new(
            null,
            new("vllm:cache_config_info", "The KV cache; always 1.", "block_size", "num_gpu_blocks", "cache_dtype"),
            OfModel(model => [new(1, $"{model.Info.BlockSize}", $"{model.Info.BlockCount}", TypeOf(model.Info))])),
        new(
            new("native_model_weight_bytes", "Memory of the weights."),
            null,
            OfModel(model => [new(model.Info.WeightBytes)])),
        new(
            new("native_kv_cache_bytes", "Memory of the KV cache."),
            null,
            OfModel(model => [new(model.Info.KvCacheBytes)])),
        new(
            new("native_slo_good_total", "Requests that were as an objective wants them.", "slo"),
            null,
            OfBudgets((budgets, i, name) => [new(budgets.ReadSinceStart(i).Good, name)]), IsCounter: true),
        new(
            new("native_slo_bad_total", "Requests that were not, refused, expired and failed ones among them.", "slo"),
            null,
            OfBudgets((budgets, i, name) => [new(budgets.ReadSinceStart(i).Bad, name)]), IsCounter: true),
        new(
            new("native_slo_objective_ratio", "The share of requests that is to be good.", "slo"),
            null,
            OfBudgets((budgets, i, name) => [new((double)(budgets.Spec.Objectives[i].Percent / 100), name)])),
        new(
            new("native_slo_budget_remaining_ratio",
                "The share of the error budget that is left in the objective's window; negative where it is overspent.",
                "slo"),
            null,
            OfBudgets((budgets, i, name) =>
                [new(BurnRates.Remaining(budgets.Read(i, BudgetWindow.Period), budgets.Spec.Objectives[i]), name)])),
        new(
            new("native_slo_burn_rate", "How many times as fast as the budget allows it is spent.", "slo", "window"),
            null,
            OfBudgets(BurnRatesOf)),
        new(
            new("native_slo_alert", "1 while pairs of windows of this severity burn too fast.", "slo", "severity"),
            null,
            OfBudgets(AlertsOf)),
        new(
            new("native_step_running_seconds", "How long the step that is being computed has run; 0 between steps."),
            null,
            OfModel(model => [new(AgeOf(model.Engine.RunningStep))])),
        new(new("native_server_state", "1 for the state the server is in.", "state"), null, StatesOf),
        new(
            new("native_uptime_seconds", "Since the process began to listen."),
            null,
            host => [new(Stopwatch.GetElapsedTime(host.StartedAt).TotalSeconds)]),
        new(
            new("native_build_info", "The build; always 1.", "version", "dotnet"),
            null,
            _ => [new(1, ServerInfo.Version, Environment.Version.ToString())]),
    ];

    public static readonly EngineRow[] Engine =
    [
        new(
            new("native_step_seconds", "Time of a step, planning to publishing."),
            null, null,
            engine => engine.StepTime),
        new(
            new("native_step_tokens", "Tokens computed per step."),
            null, null,
            engine => engine.StepTokens),
        new(
            new("native_iteration_tokens", "Prompt tokens and generated tokens per step."),
            new("vllm:iteration_tokens_total", "Prompt tokens and generated tokens per step."), null,
            engine => engine.IterationTokens),
        new(
            new("native_step_sequences", "Sequences computed per step: the batch size."),
            null, null,
            engine => engine.StepSequences),
        BetweenTokens,
    ];

    /// <summary>The histogram that shows what an objective measures, with its buckets' upper bounds; null for what is
    /// no time.</summary>
    public static (string Name, double[] Buckets)? HistogramOf(SliKind sli) => sli switch
    {
        SliKind.Ttft => (FirstToken.Native!.Name, FirstToken.NativeBuckets),
        SliKind.Tpot => (TokenAfterFirst.Native!.Name, TokenAfterFirst.NativeBuckets),
        SliKind.Itl => (BetweenTokens.Native.Name, MetricBuckets.InterTokenLatency),
        SliKind.E2e => (Whole.Native!.Name, Whole.NativeBuckets),
        _ => null,
    };

    /// <summary>That an objective's threshold is no bucket of its histogram, so that a dashboard can't show what the
    /// histogram has within it; null where it is one.</summary>
    public static string? NoBucketOf(SloObjective objective)
    {
        if (HistogramOf(objective.Sli) is not { } histogram) return null;
        double seconds = objective.Threshold!.Value.TotalSeconds;
        return histogram.Buckets.Contains(seconds) ? null : string.Create(CultureInfo.InvariantCulture,
            $"{objective.Name}'s threshold of {seconds} s is no bucket of {histogram.Name}");
    }

    /// <summary>Outcomes of a request that the engine did not take.</summary>
    public static string OutcomeOf(SubmitOutcome outcome) => outcome switch
    {
        SubmitOutcome.QueueFull => "queue_full",
        SubmitOutcome.WouldBeLate => "would_be_late",
        SubmitOutcome.OverQuota => "over_quota",
        SubmitOutcome.Shed => "shed",
        SubmitOutcome.Draining => "draining",
        SubmitOutcome.Broken => "device_lost",
        _ => "invalid",
    };

    private static string OutcomeOf(FinishReason reason) => reason switch
    {
        FinishReason.Stop => "stop",
        FinishReason.Length => "length",
        FinishReason.Cancelled => "cancelled",
        FinishReason.Deadline => "deadline",
        FinishReason.Aborted => "aborted",
        _ => "error",
    };

    private static string VllmReasonOf(FinishReason reason) => reason switch
    {
        FinishReason.Stop => "stop",
        FinishReason.Length => "length",
        FinishReason.Error => "error",
        _ => "abort",
    };

    private static NumberRow Counter(Exposed? native, Exposed? vllm, Func<EngineMetrics, long> read) =>
        new(native, vllm, OfEngine(engine => [new(read(engine))]), IsCounter: true);

    /// <summary>Reads the model; nothing while it is not loaded.</summary>
    private static Func<ModelHost, IEnumerable<Sample>> OfModel(Func<ServedModel, Sample[]> read) =>
        host => host.Model is { } model ? read(model) : [];

    private static Func<ModelHost, IEnumerable<Sample>> OfEngine(Func<EngineMetrics, Sample[]> read) =>
        OfModel(model => read(model.Engine.Metrics));

    /// <summary>Reads every objective; nothing where there are none.</summary>
    private static Func<ModelHost, IEnumerable<Sample>> OfBudgets(
        Func<BudgetLedger, int, string, IEnumerable<Sample>> read) => OfEngine(engine => engine.Budgets is { } budgets
            ? [.. budgets.Spec.Objectives.SelectMany((objective, i) => read(budgets, i, objective.Name))] : []);

    private static IEnumerable<Sample> BurnRatesOf(BudgetLedger budgets, int i, string name) =>
        BudgetWindows.Fixed.Select(window => new Sample(
            BurnRates.Of(budgets.Read(i, window), budgets.Spec.Objectives[i]), name, BudgetWindows.Name(window)));

    private static IEnumerable<Sample> AlertsOf(BudgetLedger budgets, int i, string name)
    {
        BudgetState state = budgets.ReadState(i);
        return [new(state.Pages ? 1 : 0, name, "page"), new(state.Tickets ? 1 : 0, name, "ticket")];
    }

    private static IEnumerable<Sample> StatesOf(ModelHost host)
    {
        HostState now = host.State;
        return Enum.GetValues<HostState>()
            .Select(state => new Sample(state == now ? 1 : 0, state.ToString().ToLowerInvariant()));
    }

    private static double AgeOf(RunningStep? step) =>
        step is { } running ? Stopwatch.GetElapsedTime(running.Began).TotalSeconds : 0;

    private static double UsageOf(EngineMetrics engine) =>
        engine.TotalBlocks == 0 ? 0 : (double)(engine.TotalBlocks - engine.FreeBlocks) / engine.TotalBlocks;

    private static string TypeOf(ModelInfo model) => model.KvCacheType.ToString().ToLowerInvariant();

    private static Sample InfoOf(string name, ModelInfo model) => new(
        1, name, model.Architecture, model.Backend, TypeOf(model), $"{model.BlockSize}", $"{model.MaxModelLength}");

    /// <summary>What was never scheduled only queued.</summary>
    private static double? QueueTime(FinishedRequest request) =>
        Seconds(request.Timings.Arrival, First(request.Timings.FirstScheduled, request.Timings.Finished));

    /// <summary>What never had a token only prefilled.</summary>
    private static double? PrefillTime(FinishedRequest request) =>
        Seconds(request.Timings.FirstScheduled, First(request.Timings.FirstToken, request.Timings.Finished));

    private static double? DecodeTime(FinishedRequest request) =>
        Seconds(request.Timings.FirstToken, request.Timings.LastToken);

    private static double? InferenceTime(FinishedRequest request) => request.Timings.FirstToken == 0 ? null
        : Seconds(request.Timings.FirstScheduled, request.Timings.LastToken);

    private static long First(long timestamp, long otherwise) => timestamp != 0 ? timestamp : otherwise;

    /// <summary>Seconds between two timestamps; null where one of them never came.</summary>
    private static double? Seconds(long from, long to) =>
        from == 0 || to == 0 ? null : Stopwatch.GetElapsedTime(from, to).TotalSeconds;
}
