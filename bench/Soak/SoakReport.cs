using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;
using Native.Bench.Common;
using Native.Kernels.Cpu.Panels;

namespace Native.Bench.Soak;

/// <summary>Writes what a soak measured and how it is judged.</summary>
internal static class SoakReport
{
    private const double MiB = 1 << 20;

    /// <summary>The checks, one a line, as they are printed.</summary>
    public static string Verdict(IReadOnlyList<SoakCheck> checks)
    {
        StringBuilder text = new();
        foreach (SoakCheck check in checks)
            text.AppendLine(
                $"{(check.Passed ? "PASS" : "FAIL")}  {check.Name}: {check.Detail.ReplaceLineEndings(" ")}");
        return text.ToString();
    }

    /// <summary>A page in Markdown.</summary>
    /// <param name="result">What came of it.</param>
    /// <param name="checks">How it is judged.</param>
    /// <param name="picture">The file name of <see cref="Picture"/>.</param>
    public static string Page(SoakResult result, IReadOnlyList<SoakCheck> checks, string picture)
    {
        StringBuilder text = new();
        void Line(FormattableString line) => text.Append(line.ToString(CultureInfo.InvariantCulture)).Append('\n');
        int failed = checks.Count(check => !check.Passed);
        double[] ttft = [.. result.Samples.SelectMany(sample => sample.Ttft)],
            itl = [.. result.Samples.SelectMany(sample => sample.Itl)];
        double tokens = result.After.GeneratedTokens - result.Before.GeneratedTokens;

        Line($"# Soak of {result.Model}: {(failed == 0 ? "all checks pass" : $"{failed} of {checks.Count} checks fail")}");
        Line($"");
        Line($"{Time(result.Duration)} with {result.Options.Clients} clients, seed {result.Options.Seed}, on {Machine.Processor}, {Environment.ProcessorCount} cores, {RuntimeInformation.OSDescription.Trim()}, {RuntimeInformation.FrameworkDescription}. The clients run on the same machine.");
        Line($"");
        Line($"| check | verdict | numbers |");
        Line($"|---|---|---|");
        foreach (SoakCheck check in checks)
            Line($"| {check.Name} | {(check.Passed ? "pass" : "**FAIL**")} | {check.Detail.ReplaceLineEndings(" ").Replace("|", "\\|", StringComparison.Ordinal)} |");
        Line($"");
        foreach ((SoakPromise promise, IReadOnlyDictionary<string, int> breaches) in result.Breaches)
        {
            if (breaches.Count == 0) continue;
            Line($"## Breaches: {promise}");
            Line($"");
            foreach ((string message, int count) in breaches.OrderByDescending(
                breach => breach.Value)) Line($"- {count} x {message.ReplaceLineEndings(" ")}");
            Line($"");
        }
        Line($"| | |");
        Line($"|---|---|");
        Line($"| requests | {result.Requests.Values.Sum()}, {result.Requests.Values.Sum() / result.Duration:0.0} a second |");
        Line($"| tokens generated | {tokens:0}, {tokens / result.Duration:0} a second |");
        Line($"| decode steps without prompts | {result.After.DecodeSteps - result.Before.DecodeSteps:0} |");
        Line($"| preemptions | {result.After.Preemptions - result.Before.Preemptions:0} |");
        Line($"| contended locks in the whole process | {result.After.LockContentions - result.Before.LockContentions:0} |");
        Line($"| time to first token, streamed | median {Statistics.Median(ttft) * 1000:0.0} ms, P99 {Statistics.Percentile(ttft, 99) * 1000:0.0} ms |");
        Line($"| between tokens, streamed | median {Statistics.Median(itl) * 1000:0.00} ms, P99 {Statistics.Percentile(itl, 99) * 1000:0.0} ms |");
        foreach ((SoakKind kind, int count)
            in result.Requests.OrderBy(kind => kind.Key)) Line($"| of kind {kind} | {count} |");
        Line($"");
        Line($"![memory, handles, load, latencies and what the step path must not do, over time]({picture})");
        return text.ToString();
    }

    /// <summary>Everything over time, in SVG.</summary>
    public static string Picture(SoakResult result)
    {
        IReadOnlyList<SoakSample> samples = result.Samples;
        ChartLine Over(string name, Func<SoakSample, double> of) =>
            new(name, [.. samples.Where(sample => !double.IsNaN(of(sample)))
                .Select(sample => (sample.Time, of(sample)))]);
        ChartLine Percent(string name, Func<SoakSample, IReadOnlyList<double>> of, double percent) =>
            new(name, [.. samples.Where(sample => of(sample).Count > 0)
                .Select(sample => (sample.Time, Statistics.Percentile([.. of(sample)], percent) * 1000))]);
        ChartPanel Panel(string title, params ChartLine[] lines) => new(title, "seconds", lines) { LeastTop = 1 };
        List<(double, double)> rate = [];
        for (int i = 1; i < samples.Count; i++)
            rate.Add((samples[i].Time,
                (samples[i].GeneratedTokens - samples[i - 1].GeneratedTokens)
                    / (samples[i].Time - samples[i - 1].Time)));
        return LineChart.Svg(
        [
            Panel("Memory (MiB)", Over("resident", sample => sample.ResidentBytes / MiB),
                Over("managed heap", sample => sample.HeapBytes / MiB)),
            Panel("Handles and threads", Over("open handles", sample => sample.Handles),
                Over("threads", sample => sample.Threads)),
            Panel("Sequences, and KV blocks in use", Over("running", sample => sample.Running),
                Over("waiting", sample => sample.Waiting), Over("blocks used", sample => sample.BlocksUsed)),
            Panel("Tokens a second", new ChartLine("generated", rate)),
            Panel("Time to first token (ms)", Percent("median", sample => sample.Ttft, 50),
                Percent("P99", sample => sample.Ttft, 99)),
            Panel("Between tokens (ms)", Percent("median", sample => sample.Itl, 50),
                Percent("P99", sample => sample.Itl, 99)),
            Panel("Bytes allocated in decode steps, and locks waited for, since the start",
                Over("bytes", sample => sample.DecodeStepAllocatedBytes - result.Before.DecodeStepAllocatedBytes),
                Over("step path's locks", sample => sample.StepLockContentions - result.Before.StepLockContentions),
                Over("process's locks", sample => sample.LockContentions - result.Before.LockContentions)),
        ]);
    }

    /// <summary>Everything, for programs.</summary>
    public static byte[] Json(SoakResult result, IReadOnlyList<SoakCheck> checks)
    {
        using MemoryStream buffer = new();
        using (Utf8JsonWriter json = new(buffer))
        {
            json.WriteStartObject();
            json.WriteString("model", result.Model);
            json.WriteNumber("duration", result.Duration);
            json.WriteNumber("clients", result.Options.Clients);
            json.WriteNumber("seed", result.Options.Seed);
            json.WriteBoolean("passed", checks.All(check => check.Passed));
            json.WriteStartArray("checks");
            foreach (SoakCheck check in checks)
            {
                json.WriteStartObject();
                json.WriteString("name", check.Name);
                json.WriteBoolean("passed", check.Passed);
                json.WriteString("detail", check.Detail);
                json.WriteEndObject();
            }
            json.WriteEndArray();
            json.WriteStartObject("requests");
            foreach ((SoakKind kind, int count)
                in result.Requests.OrderBy(kind => kind.Key)) json.WriteNumber($"{kind}", count);
            json.WriteEndObject();
            json.WriteStartObject("breaches");
            foreach ((SoakPromise promise, IReadOnlyDictionary<string, int> breaches) in result.Breaches)
            {
                json.WriteStartObject($"{promise}");
                foreach ((string message, int count) in breaches) json.WriteNumber(message, count);
                json.WriteEndObject();
            }
            json.WriteEndObject();
            json.WriteNumber("compared", result.Compared);
            json.WritePropertyName("before");
            Write(json, result.Before);
            json.WriteStartArray("samples");
            foreach (SoakSample sample in result.Samples) Write(json, sample);
            json.WriteEndArray();
            json.WritePropertyName("after");
            Write(json, result.After);
            json.WriteEndObject();
        }
        buffer.WriteByte((byte)'\n');
        return buffer.ToArray();
    }

    private static void Write(Utf8JsonWriter json, SoakSample sample)
    {
        json.WriteStartObject();
        void Number(string name, double value)
        {
            if (double.IsFinite(value)) json.WriteNumber(name, value);
            else json.WriteNull(name);
        }
        Number("time", sample.Time);
        Number("resident_bytes", sample.ResidentBytes);
        Number("heap_bytes", sample.HeapBytes);
        Number("handles", sample.Handles);
        Number("threads", sample.Threads);
        Number("blocks_used", sample.BlocksUsed);
        Number("blocks_free", sample.BlocksFree);
        Number("running", sample.Running);
        Number("waiting", sample.Waiting);
        Number("generated_tokens", sample.GeneratedTokens);
        Number("failed_steps", sample.FailedSteps);
        Number("preemptions", sample.Preemptions);
        Number("decode_steps", sample.DecodeSteps);
        Number("decode_step_allocated_bytes", sample.DecodeStepAllocatedBytes);
        Number("step_lock_contentions", sample.StepLockContentions);
        Number("lock_contentions", sample.LockContentions);
        foreach ((string name, IReadOnlyList<double> values)
            in ((string, IReadOnlyList<double>)[])[("ttft", sample.Ttft),
                ("itl", sample.Itl)])
        {
            json.WriteNumber($"{name}_count", values.Count);
            json.WriteNumber($"median_{name}_ms", Statistics.Median([.. values]) * 1000);
            json.WriteNumber($"p99_{name}_ms", Statistics.Percentile([.. values], 99) * 1000);
        }
        json.WriteEndObject();
    }

    private static string Time(double seconds) =>
        seconds >= 120 ? string.Create(CultureInfo.InvariantCulture, $"{seconds / 60:0.#} minutes")
            : string.Create(CultureInfo.InvariantCulture, $"{seconds:0.#} seconds");
}
