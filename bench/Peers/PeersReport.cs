using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;
using Native.Bench.Common;
using Native.Bench.Serve;
using Native.Bench.Throughput;
using Native.Server.Http;

namespace Native.Bench.Peers;

/// <summary>All that was measured on one model.</summary>
internal sealed record PeersResult
{
    public required BenchModel Model { get; init; }

    public required int Repetitions { get; init; }

    /// <summary>The engines, Native first.</summary>
    public required IReadOnlyList<IPeer> Peers { get; init; }

    public required IReadOnlyList<PeersTest> Tests { get; init; }

    /// <summary>Instructions whose peak is the limit of prompts.</summary>
    public required string Instructions { get; init; }

    /// <summary>How servers were asked; null where they were not.</summary>
    public ServingLoad? Load { get; init; }

    public IReadOnlyList<ServerResult> Servers { get; init; } = [];

    /// <summary>The median speed of Native at a batch's decode at depth 0, or at a prompt nearest to a length; null
    /// where none was measured.</summary>
    public double? Speed(bool decodes, int size) =>
        Tests.Where(test => test.Decodes == decodes && test.Test.Depth == 0 && (!decodes || test.Test.Batch == size))
        .MinBy(test => Math.Abs(test.Test.Prompt - size))?.Samples[0].Speed;
}

/// <summary>Writes engines side by side.</summary>
internal static class PeersReport
{
    /// <summary>The comparison and, where servers were asked, theirs.</summary>
    public static string Tables(PeersResult result)
    {
        StringBuilder text = new();
        List<Column<PeersTest>> columns = [new("test", 12, Right: false, test => test.Name)];
        for (int peer = 0; peer < result.Peers.Count; peer++)
        {
            int index = peer;
            columns.Add(new($"{result.Peers[index].Name} t/s", 22, Right: true, test => Spread(test.Samples[index])));
            columns.Add(new("of limit", 8, Right: true,
                test => test.Samples[index].Speed is { } speed ? $"{Number(test.Share(speed) * 100, "0")} %" : "-"));
            if (index > 0)
                columns.Add(new("ratio", 6, Right: true,
                    test => test.Ratio(test.Samples[index]) is { } ratio ? Number(ratio, "0.00") : "-"));
        }
        columns.Add(new("limit", 12, Right: true,
            test => test.Decodes ? $"{Number(test.Limit / 1e9, "0.0")} GB/s"
                : $"{Number(test.Limit / 1e9, "0")} GOP/s"));
        text.Append(MarkdownTable.Of(columns, result.Tests));
        if (result.Load is not { } load) return text.ToString();

        text.AppendLine();
        List<Column<ServerResult>> serving =
        [
            new("server", 12, Right: false, server => server.Name),
            new("output t/s", 10, Right: true, server => Number(server.Result.OutputThroughput, "0.0")),
            new("TTFT p50 ms", 11, Right: true, server => Milliseconds(server.Result.Ttft, 50)),
            new("TTFT p95 ms", 11, Right: true, server => Milliseconds(server.Result.Ttft, 95)),
            new("TPOT p50 ms", 11, Right: true, server => Milliseconds(server.Result.Tpot, 50)),
            new("ITL p99 ms", 10, Right: true, server => Milliseconds(server.Result.Itl, 99)),
            new("failed", 6, Right: true, server => Number(server.Result.Failed, "0")),
        ];
        text.Append(MarkdownTable.Of(serving, result.Servers));
        foreach (ServerResult server in result.Servers.Where(server => server.Result.Failed > 0))
        {
            string first = server.Result.Records.First(record => !record.Succeeded).Error!.ReplaceLineEndings(" ");
            text.AppendLine();
            text.AppendLine(
                string.Create(CultureInfo.InvariantCulture,
                    $"{server.Name} failed {server.Result.Failed} of {server.Result.Records.Count} requests, the "
                        + $"first of them thus: {first}"));
        }
        if (Bare(result) is { } bare)
        {
            double ours = result.Servers[0].Result.OutputThroughput;
            text.AppendLine();
            text.AppendLine(
                string.Create(CultureInfo.InvariantCulture,
                    $"Native's server gives {ours / bare.Decode * 100:0} % of the {bare.Decode:0.0} t/s that its bare "
                        + $"engine decodes at batch {load.Clients}, and {ours / bare.Whole * 100:0} % of "
                        + $"the {bare.Whole:0.0} t/s that are left of those where the prompts are computed too."));
        }
        return text.ToString();
    }

    /// <summary>A page in Markdown.</summary>
    /// <param name="result">What was measured.</param>
    /// <param name="pictures">File names of the pictures, each with its title.</param>
    public static string Page(PeersResult result, IReadOnlyList<(string Title, string File)> pictures)
    {
        BenchModel model = result.Model;
        StringBuilder text = new();
        void Line(string line) => text.AppendLine(line);
        Line($"# {string.Join(", ", result.Peers.Select(peer => peer.Name))} on {Path.GetFileName(model.FileName)}");
        Line("");
        Line(string.Create(CultureInfo.InvariantCulture,
            $"{model.Type}, {ThroughputReport.Bytes(model.Bytes)}, {model.Threads} threads "
                + $"on {Machine.Processor} ({Machine.Slug}), {RuntimeInformation.OSDescription.Trim()}, {RuntimeInformation.FrameworkDescription}."));
        Line(string.Create(CultureInfo.InvariantCulture,
            $"The median of {result.Repetitions} repetition{(result.Repetitions == 1 ? "" : "s")} that visit all "
                + $"tests and engines by turns, with the least and the most. `ratio` is Native's median by that "
                + $"engine's: above 1 Native is faster."));
        Line("");
        foreach (IPeer peer in result.Peers) Line($"- **{peer.Name}**: {peer.Description}");
        Line("");
        text.Append(Tables(result));
        Line("");
        Line($"`limit` is what this machine gave as many threads, the median of probes between the tests of the same "
            + $"run: for tg bytes read from memory a second, for pp operations a second of {result.Instructions}. `of "
            + $"limit` counts what the model needs whatever an engine does: for a step the weights as the file has "
            + $"them and all keys and values once, for a token of a prompt two operations for each weight of the "
            + $"layers.");
        if (result.Load is { } load)
            Line(string.Create(CultureInfo.InvariantCulture,
                $"{Environment.NewLine}Servers: {load.Requests} requests of {load.InputTokens} tokens in "
                    + $"and {load.OutputTokens} out by {load.Clients} clients in a closed loop, one server after the "
                    + $"other; the clients run on the same machine."));
        foreach ((string title, string file) in pictures) Line($"{Environment.NewLine}![{title}]({file})");
        return text.ToString();
    }

    /// <summary>Tokens a second against the size of the batch; null where there is nothing to draw.</summary>
    public static string? Batches(PeersResult result) =>
        Picture(result, test => test.Decodes && test.Test.Depth == 0,
            "Decode (tokens/s of all sequences)", "sequences in the batch", test => test.Test.Batch,
            (_, speed) => speed,
        (line, x, y) => $"{line.Name}, batch {x:0}: {y:0.0} tokens/s");

    /// <summary>Time to first token of a bare engine, which is what a prompt takes, against its length; null where
    /// there is nothing to draw.</summary>
    public static string? Prompts(PeersResult result) =>
        Picture(result, test => !test.Decodes && test.Test.Depth == 0,
            "Time to first token (ms)", "tokens of prompt", test => test.Test.Prompt,
            (test, speed) => test.Test.Prompt / speed * 1000,
        (line, x, y) => $"{line.Name}, {x:0} tokens: {y:0.0} ms");

    /// <summary>An array with an object for each model: every sample, and what is said of them.</summary>
    public static void Json(Utf8JsonWriter json, IReadOnlyList<PeersResult> results)
    {
        json.WriteStartArray();
        foreach (PeersResult result in results) JsonSerializer.Serialize(json, Fields(result));
        json.WriteEndArray();
    }

    private static object Fields(PeersResult result) => new
    {
        machine = Machine.Slug,
        cpu_info = Machine.Processor,
        model_filename = Path.GetFileName(result.Model.FileName),
        model_type = result.Model.Type,
        model_size = result.Model.Bytes,
        model_n_params = result.Model.Runner.Info.ParameterCount,
        n_threads = result.Model.Threads,
        repetitions = result.Repetitions,
        peak_instructions = result.Instructions,
        engines = result.Peers.Select(peer => new { name = peer.Name, description = peer.Description }),
        tests = result.Tests.Select(test => new
        {
            test = test.Name,
            n_prompt = test.Test.Prompt,
            n_gen = test.Test.Generate,
            n_depth = test.Test.Depth,
            n_seqs = test.Test.Batch,
            limit = test.Decodes ? "read_bytes_per_second" : "operations_per_second",
            limit_median = test.Limit,
            work_per_token = test.WorkPerToken,
            engines = test.Samples.Select((samples, i) => new
            {
                name = samples.Peer.Name,
                samples_ns = samples.Seconds.Select(seconds => Math.Round(seconds * 1e9)),
                samples_ts = samples.Speeds,
                median_ts = samples.Speed,
                share_of_limit = samples.Speed is { } speed ? test.Share(speed) : (double?)null,
                ratio = i > 0 ? test.Ratio(samples) : null,
            }),
        }),
        serving = result.Load is not { } load ? null : new
        {
            max_concurrency = load.Clients,
            num_prompts = load.Requests,
            input_len = load.InputTokens,
            output_len = load.OutputTokens,
            bare_decode_ts = Bare(result)?.Decode,
            bare_output_ts = Bare(result)?.Whole,
            servers = result.Servers.Select(server => new
            {
                name = server.Name,
                completed = server.Result.Completed,
                failed = server.Result.Failed,
                duration = server.Result.Duration,
                output_throughput = server.Result.OutputThroughput,
                p50_ttft_ms = server.Result.Ttft.Median * 1000,
                p95_ttft_ms = server.Result.Ttft.Percentile(95) * 1000,
                p50_tpot_ms = server.Result.Tpot.Median * 1000,
                p99_itl_ms = server.Result.Itl.Percentile(99) * 1000,
            }),
        },
    };

    private static (double Decode, double Whole)? Bare(PeersResult result)
    {
        if (result.Load is not { } load || result.Speed(decodes: true, load.Clients) is not { } decode
            || result.Speed(decodes: false, load.InputTokens) is not { } prefill) return null;
        return (decode, load.Bare(prefill, decode));
    }

    private static string? Picture(PeersResult result, Func<PeersTest, bool> of, string title, string axis,
        Func<PeersTest, double> x, Func<PeersTest, double, double> y,
        Func<ChartLine, double, double, FormattableString> tip)
    {
        List<PeersTest> tests = [.. result.Tests.Where(of).OrderBy(x)];
        if (tests.Count < 2) return null;
        return LineChart.Svg(
        [
            new ChartPanel($"{title}, {Path.GetFileName(result.Model.FileName)}", axis,
                [.. result.Peers.Select(
                    (peer, i) =>
                        new ChartLine(peer.Name,
                            [.. tests.Where(test => test.Samples[i].Speed is not null)
                                .Select(test => (x(test), y(test, test.Samples[i].Speed!.Value)))]))]) { Tip = tip },
        ]);
    }

    /// <summary>41.2 (40.1-41.9).</summary>
    private static string Spread(PeerSamples samples)
    {
        if (samples.Speed is not { } speed) return "-";
        double[] speeds = samples.Speeds;
        string format = speed < 100 ? "0.0" : "0";
        return $"{Number(speed, format)} ({Number(speeds.Min(), format)}-{Number(speeds.Max(), format)})";
    }

    private static string Milliseconds(Latency latency, double percent) =>
        Number(latency.Percentile(percent) * 1000, "0.0");

    private static string Number(double value, string format) => value.ToString(format, CultureInfo.InvariantCulture);
}
