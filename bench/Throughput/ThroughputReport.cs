using System.Globalization;
using System.Text;
using System.Text.Json;
using Native.Bench.Common;
using Native.Bench.Serve;
using Native.Kernels;
using Native.Server.Http;
using Native.Server.OpenAi;
using Native.Tools;

namespace Native.Bench.Throughput;

/// <summary>Writes what was measured: as llama-bench does, or for batches as llama-batched-bench.</summary>
internal static class ThroughputReport
{
    /// <summary>llama-bench's table.</summary>
    public static string Markdown(IReadOnlyList<Phase> phases)
    {
        // Two files of one type are told apart by their names.
        bool named =
            phases.Select(phase => phase.Model).Distinct().GroupBy(model => model.Type).Any(group => group.Count() > 1);
        bool bandwidth = phases.Any(phase => phase.ReadBandwidths.Count > 0),
            cache = phases.Any(phase => phase.Model.Runner.Info.KvCacheType != DType.F16);
        List<Column<Phase>> columns =
        [
            new("model", 30, Right: false,
                phase => named ? $"{phase.Model.Type} ({Path.GetFileName(phase.Model.FileName)})" : phase.Model.Type),
            new("size", 10, Right: true, phase => Bytes(phase.Model.Bytes)),
            new("params", 10, Right: true, phase => Parameters(phase.Model.Runner.Info.ParameterCount)),
            new("backend", 10, Right: false, phase => phase.Model.Runner.Info.Backend),
            new("threads", 7, Right: true, phase => phase.Model.Threads.ToString(CultureInfo.InvariantCulture)),
            new("test", 15, Right: true, phase => phase.Name),
            new("t/s", 20, Right: true,
                phase =>
                    $"{Number(Statistics.Mean(phase.Speeds), 2)} ± {Number(Statistics.SampleDeviation(phase.Speeds), 2)}"),
        ];
        if (cache) columns.Insert(5, new("type_kv", 7, Right: true, phase => CacheType(phase.Model)));
        if (bandwidth) columns.AddRange(BandwidthColumns());
        return MarkdownTable.Of(columns, phases);
    }

    /// <summary>llama-batched-bench's table for each model and depth. Seconds are means over the repetitions.</summary>
    public static string Batched(IReadOnlyList<Phase> phases)
    {
        StringBuilder text = new();
        foreach (IGrouping<(BenchModel Model, int Depth), Phase> group in phases.GroupBy(
            phase => (phase.Model, phase.Test.Depth)))
        {
            if (text.Length > 0) text.AppendLine();
            text.AppendLine(CultureInfo.InvariantCulture,
                $"{group.Key.Model.Type} ({Path.GetFileName(group.Key.Model.FileName)}), {Bytes(group.Key.Model.Bytes)}, {group.Key.Model.Runner.Info.Backend}, {CacheType(group.Key.Model)} cache{(group.Key.Depth > 0 ? $" @ d{group.Key.Depth}" : "")}");
            text.AppendLine();
            // The decode stands for its test where there is one; its prompt is found beside it.
            List<Phase> rows = [.. group.GroupBy(phase => phase.Test).Select(test => test.Last())];
            Phase? Part(Phase row, bool decodes) =>
                group.FirstOrDefault(phase => phase.Test == row.Test && phase.Decodes == decodes);
            double Seconds(Phase row, bool decodes) =>
                Part(row, decodes) is { } phase ? Statistics.Mean(phase.Seconds) : 0;
            double Speed(Phase row, bool decodes) =>
                Part(row, decodes) is { } phase ? phase.Tokens / Seconds(row, decodes) : 0;
            double Total(Phase row) => Seconds(row, decodes: false) + Seconds(row, decodes: true);
            List<Column<Phase>> columns =
            [
                new("PP", 6, Right: true, row => row.Test.Prompt.ToString(CultureInfo.InvariantCulture)),
                new("TG", 6, Right: true, row => row.Test.Generate.ToString(CultureInfo.InvariantCulture)),
                new("B", 4, Right: true, row => row.Test.Batch.ToString(CultureInfo.InvariantCulture)),
                new("N_KV", 6, Right: true,
                    row => ((long)row.Test.Batch * row.Test.Length).ToString(CultureInfo.InvariantCulture)),
                new("T_PP s", 8, Right: true, row => Number(Seconds(row, decodes: false), 3)),
                new("S_PP t/s", 8, Right: true, row => Number(Speed(row, decodes: false), 2)),
                new("T_TG s", 8, Right: true, row => Number(Seconds(row, decodes: true), 3)),
                new("S_TG t/s", 8, Right: true, row => Number(Speed(row, decodes: true), 2)),
                new("T s", 8, Right: true, row => Number(Total(row), 3)),
                new("S t/s", 8, Right: true,
                    row => Number((double)row.Test.Batch * (row.Test.Prompt + row.Test.Generate) / Total(row), 2)),
            ];
            if (rows.Any(row => row.ReadBandwidths.Count > 0)) columns.AddRange(BandwidthColumns());
            text.Append(MarkdownTable.Of(columns, rows));
        }
        return text.ToString();
    }

    /// <summary>One line of names, then one of values for each phase.</summary>
    public static string Csv(IReadOnlyList<Phase> phases)
    {
        StringBuilder text = new();
        foreach (Phase phase in phases)
        {
            List<(string Name, object? Value)> fields = [.. Fields(phase).Where(field => field.Value is not double[])];
            if (text.Length == 0) text.AppendLine(string.Join(',', fields.Select(field => field.Name)));
            text.AppendLine(
                string.Join(',',
                    fields.Select(
                        field =>
                            $"\"{Convert.ToString(field.Value, CultureInfo.InvariantCulture)?.Replace("\"", "\"\"")}\"")));
        }
        return text.ToString();
    }

    /// <summary>An array of all phases.</summary>
    public static void Json(
        TextWriter output, IReadOnlyList<Phase> phases) => Native.Tools.Json.WriteLine(output, json =>
    {
        json.WriteStartArray();
        foreach (Phase phase in phases) Write(json, phase);
        json.WriteEndArray();
    });

    /// <summary>One object a line.</summary>
    public static void JsonLines(TextWriter output, IReadOnlyList<Phase> phases)
    {
        foreach (Phase phase in phases) Native.Tools.Json.WriteLine(output, json => Write(json, phase));
    }

    private static void Write(Utf8JsonWriter json, Phase phase)
    {
        json.WriteStartObject();
        foreach ((string name, object? value) in Fields(phase))
        {
            json.WritePropertyName(name);
            JsonSerializer.Serialize(json, value, value?.GetType() ?? typeof(object));
        }
        json.WriteEndObject();
    }

    /// <summary>llama-bench's names where it has the field.</summary>
    private static IEnumerable<(string Name, object? Value)> Fields(Phase phase)
    {
        double[] nanoseconds = [.. phase.Seconds.Select(seconds => Math.Round(seconds * 1e9))], speeds = phase.Speeds;
        yield return ("model_filename", phase.Model.FileName);
        yield return ("model_type", phase.Model.Type);
        yield return ("model_size", phase.Model.Bytes);
        yield return ("model_n_params", phase.Model.Runner.Info.ParameterCount);
        yield return ("backends", phase.Model.Runner.Info.Backend);
        yield return ("n_threads", phase.Model.Threads);
        yield return ("type_k", CacheType(phase.Model));
        yield return ("type_v", CacheType(phase.Model));
        yield return ("test", phase.Name);
        yield return ("n_prompt", phase.Decodes ? 0 : phase.Test.Prompt);
        yield return ("n_gen", phase.Decodes ? phase.Test.Generate : 0);
        yield return ("n_depth", phase.Test.Depth);
        yield return ("n_seqs", phase.Test.Batch);
        yield return ("avg_ns", Statistics.Mean(nanoseconds));
        yield return ("stddev_ns", Statistics.SampleDeviation(nanoseconds));
        yield return ("median_ns", Statistics.Median(nanoseconds));
        yield return ("avg_ts", Statistics.Mean(speeds));
        yield return ("stddev_ts", Statistics.SampleDeviation(speeds));
        yield return ("median_ts", Statistics.Median(speeds));
        yield return ("samples_ns", nanoseconds);
        yield return ("samples_ts", speeds);
        // Null for prompts, and where nobody asked.
        bool measured = phase.ShareOfBandwidth is not null;
        yield return ("weight_bytes_per_step", phase.Model.StepWeightBytes);
        yield return ("weight_bytes_per_second", measured ? Statistics.Mean(phase.WeightBandwidths) : null);
        yield return ("read_bytes_per_second", measured ? Statistics.Mean(phase.ReadBandwidths) : null);
        yield return ("share_of_bandwidth", phase.ShareOfBandwidth);
    }

    private static string CacheType(BenchModel model) => model.Runner.Info.KvCacheType.ToString().ToLowerInvariant();

    private static IEnumerable<Column<Phase>> BandwidthColumns()
    {
        yield return new("weights GB/s", 12, Right: true,
            phase => phase.Decodes ? Number(Statistics.Mean(phase.WeightBandwidths) / 1e9, 2) : "");
        yield return new("memory GB/s", 12, Right: true,
            phase => phase.Decodes ? Number(Statistics.Mean(phase.ReadBandwidths) / 1e9, 2) : "");
        yield return new("share", 6, Right: true,
            phase => phase.ShareOfBandwidth is { } share ? $"{Number(share * 100, 0)} %" : "");
    }

    /// <summary>137.91 MiB.</summary>
    internal static string Bytes(long bytes) =>
        bytes < 1 << 30 ? $"{Number(bytes / 1048576.0, 2)} MiB" : $"{Number(bytes / 1073741824.0, 2)} GiB";

    private static string Parameters(long count) =>
        count < 1e9 ? $"{Number(count / 1e6, 2)} M" : $"{Number(count / 1e9, 2)} B";

    private static string Number(double value, int digits) =>
        value.ToString($"F{digits}", CultureInfo.InvariantCulture);
}
