using System.Globalization;
using System.Text;
using System.Text.Json;

namespace Native.Bench.Serve;

/// <summary>How a run was asked for, and what came of it.</summary>
internal sealed record ServingRun
{
    public required string Api { get; init; }

    /// <summary>The model's name; empty where the server chose.</summary>
    public required string Model { get; init; }

    /// <summary>Requests a second; infinity for a closed loop, and where the rate rises.</summary>
    public required double RequestRate { get; init; }

    public required double Burstiness { get; init; }

    public required int? MaxConcurrency { get; init; }

    /// <summary>Where the rate rises: how, from what and to what.</summary>
    public (RampUp Strategy, double From, double To)? Ramp { get; init; }

    public required int Seed { get; init; }

    public required ServingResult Result { get; init; }
}

/// <summary>Writes what a run measured, as <c>vllm bench serve</c> does.</summary>
internal static class ServingReport
{
    private const int Width = 50;

    private static readonly Dictionary<string, (string Short, string Long)> Titles = new()
    {
        ["ttft"] = ("TTFT", "Time to First Token"),
        ["tpot"] = ("TPOT", "Time per Output Token (excl. 1st token)"),
        ["itl"] = ("ITL", "Inter-token Latency"),
        ["e2el"] = ("E2EL", "End-to-end Latency"),
    };

    /// <summary>The kinds of latency there are.</summary>
    public static IReadOnlyCollection<string> Metrics => Titles.Keys;

    /// <summary>The table.</summary>
    public static string Table(ServingRun run, IReadOnlyList<string> metrics, IReadOnlyList<double> percentiles)
    {
        ServingResult result = run.Result;
        StringBuilder text = new();
        void Count(string name, long value) =>
            text.AppendLine($"{name + ":",-40} {value.ToString(CultureInfo.InvariantCulture),-10}");
        void Number(string name, double value) =>
            text.AppendLine($"{name + ":",-40} {value.ToString("F2", CultureInfo.InvariantCulture),-10}");

        text.AppendLine(Centered(" Serving Benchmark Result ", '='));
        Count("Successful requests", result.Completed);
        Count("Failed requests", result.Failed);
        if (run.MaxConcurrency is { } concurrency) Count("Maximum request concurrency", concurrency);
        if (double.IsFinite(run.RequestRate)) Number("Request rate configured (RPS)", run.RequestRate);
        Number("Benchmark duration (s)", result.Duration);
        Count("Total input tokens", result.InputTokens);
        Count("Total generated tokens", result.OutputTokens);
        Number("Request throughput (req/s)", result.RequestThroughput);
        if (result.RequestGoodput is { } goodput) Number("Request goodput (req/s)", goodput);
        Number("Output token throughput (tok/s)", result.OutputThroughput);
        Number("Peak output token throughput (tok/s)", result.PeakOutputTokensPerSecond);
        Number("Peak concurrent requests", result.PeakConcurrentRequests);
        Number("Total token throughput (tok/s)", result.TotalThroughput);
        foreach (string metric in metrics)
        {
            Latency latency = result[metric];
            text.AppendLine(Centered(Titles[metric].Long, '-'));
            Number($"Mean {Titles[metric].Short} (ms)", latency.Mean * 1000);
            Number($"Median {Titles[metric].Short} (ms)", latency.Median * 1000);
            foreach (double percent in percentiles)
                Number($"P{Word(percent)} {Titles[metric].Short} (ms)", latency.Percentile(percent) * 1000);
        }
        text.AppendLine(new string('=', Width));
        return text.ToString();
    }

    /// <summary>Everything, under vLLM's names, with each request's own times (seconds).</summary>
    public static void Write(Utf8JsonWriter json, ServingRun run, IReadOnlyList<string> metrics,
        IReadOnlyList<double> percentiles)
    {
        ServingResult result = run.Result;
        json.WriteStartObject();
        json.WriteString("backend", run.Api);
        json.WriteString("model_id", run.Model);
        json.WriteNumber("num_prompts", result.Records.Count);
        if (double.IsFinite(run.RequestRate)) json.WriteNumber("request_rate", run.RequestRate);
        else json.WriteString("request_rate", "inf");
        if (double.IsFinite(run.Burstiness)) json.WriteNumber("burstiness", run.Burstiness);
        else json.WriteString("burstiness", "inf");
        if (run.Ramp is { } ramp)
        {
            json.WriteString("ramp_up_strategy", ramp.Strategy == RampUp.Linear ? "linear" : "exponential");
            json.WriteNumber("ramp_up_start_rps", ramp.From);
            json.WriteNumber("ramp_up_end_rps", ramp.To);
        }
        if (run.MaxConcurrency is { } concurrency) json.WriteNumber("max_concurrency", concurrency);
        else json.WriteNull("max_concurrency");
        json.WriteNumber("seed", run.Seed);
        json.WriteNumber("duration", result.Duration);
        json.WriteNumber("completed", result.Completed);
        json.WriteNumber("failed", result.Failed);
        json.WriteNumber("total_input_tokens", result.InputTokens);
        json.WriteNumber("total_output_tokens", result.OutputTokens);
        json.WriteNumber("request_throughput", result.RequestThroughput);
        if (result.RequestGoodput is { } goodput) json.WriteNumber("request_goodput", goodput);
        else json.WriteNull("request_goodput");
        json.WriteNumber("output_throughput", result.OutputThroughput);
        json.WriteNumber("total_token_throughput", result.TotalThroughput);
        json.WriteNumber("max_output_tokens_per_s", result.PeakOutputTokensPerSecond);
        json.WriteNumber("max_concurrent_requests", result.PeakConcurrentRequests);
        foreach (string metric in metrics)
        {
            Latency latency = result[metric];
            json.WriteNumber($"mean_{metric}_ms", latency.Mean * 1000);
            json.WriteNumber($"median_{metric}_ms", latency.Median * 1000);
            json.WriteNumber($"std_{metric}_ms", latency.Deviation * 1000);
            foreach (double percent in percentiles)
                json.WriteNumber($"p{Word(percent)}_{metric}_ms", latency.Percentile(percent) * 1000);
        }
        Numbers("input_lens", result.Records.Select(record => (double)record.InputTokens));
        Numbers("output_lens", result.Records.Select(record => record.Succeeded ? record.OutputTokens : 0.0));
        Numbers("intended_times", result.Records.Select(record => record.Start));
        Numbers("start_times", result.Records.Select(record => record.Sent));
        Numbers("ttfts", result.Records.Select(record => record.Succeeded ? record.Ttft : 0));
        Numbers("e2els", result.Records.Select(record => record.Succeeded ? record.E2el : 0));
        json.WriteStartArray("itls");
        foreach (RequestRecord record in result.Records)
        {
            json.WriteStartArray();
            foreach (double itl in record.Itls) json.WriteNumberValue(itl);
            json.WriteEndArray();
        }
        json.WriteEndArray();
        json.WriteStartArray("errors");
        foreach (RequestRecord record in result.Records) json.WriteStringValue(record.Error ?? "");
        json.WriteEndArray();
        json.WriteEndObject();

        void Numbers(string name, IEnumerable<double> values)
        {
            json.WriteStartArray(name);
            foreach (double value in values) json.WriteNumberValue(value);
            json.WriteEndArray();
        }
    }

    /// <summary>99, 99.9.</summary>
    public static string Word(double percent) => percent.ToString(CultureInfo.InvariantCulture);

    private static string Centered(string title, char fill) =>
        title.PadLeft(title.Length + (Width - title.Length) / 2, fill).PadRight(Width, fill);
}
