using System.Globalization;
using System.Text;
using Native.Server.Serving;
using Prometheus;
using EngineHistogram = Native.Scheduling.Histogram;

namespace Native.Server.Metrics;

/// <summary>Writes <c>/metrics</c> in Prometheus' text format 0.0.4: the registries, and the histograms that the engine
/// thread keeps itself.</summary>
/// <remarks>The engine's histograms are read here rather than copied into the library's, so that recording costs the
/// step thread two adds.</remarks>
internal sealed class Exposition(RequestMetrics metrics, RuntimeMetrics runtime, ModelHost host)
{
    public const string ContentType = "text/plain; version=0.0.4; charset=utf-8";

    public async Task WriteAsync(Stream output, CancellationToken ct)
    {
        metrics.Collect();
        runtime.Collect();
        await WriteRegistry(metrics.Native.Registry, output, metrics.Native.Prefix, ct);
        await WriteRegistry(runtime.Registry, output, "", ct);
        if (metrics.Vllm is { } vllm) await WriteRegistry(vllm.Registry, output, vllm.Prefix, ct);
        if (host.Model is not { } model) return;

        StringBuilder text = new();
        string[] values = MetricTable.VllmLabelsOf(model);
        string labels =
            string.Join(',', MetricTable.VllmLabels.Select((label, i) => $"{label}=\"{Escape(values[i])}\""));
        foreach (EngineRow row in MetricTable.Engine)
        {
            EngineHistogram histogram = row.Read(model.Engine.Metrics);
            Append(text, row.Native, "", histogram, histogram.Bounds);
            if (metrics.Vllm is not null && row.Vllm is { } other)
                Append(text, other, labels, histogram, row.VllmBuckets is { } bounds ? bounds : histogram.Bounds);
        }
        await output.WriteAsync(Encoding.UTF8.GetBytes(text.ToString()), ct);
    }

    private static async Task WriteRegistry(CollectorRegistry registry, Stream output, string prefix,
        CancellationToken ct)
    {
        using MemoryStream text = new();
        await registry.CollectAndExportAsTextAsync(text, ExpositionFormat.PrometheusText, ct);
        if (prefix.Length == 0)
        {
            await output.WriteAsync(text.GetBuffer().AsMemory(0, (int)text.Length), ct);
            return;
        }
        StringBuilder named = new();
        foreach (string line in Encoding.UTF8.GetString(text.GetBuffer(), 0, (int)text.Length).Split('\n',
            StringSplitOptions.RemoveEmptyEntries))
        {
            int name = line.StartsWith("# HELP ", StringComparison.Ordinal)
                || line.StartsWith("# TYPE ", StringComparison.Ordinal) ? 7 : 0;
            named.Append(line, 0, name).Append(prefix).Append(line, name, line.Length - name).Append('\n');
        }
        await output.WriteAsync(Encoding.UTF8.GetBytes(named.ToString()), ct);
    }

    /// <summary>Writes one histogram by <paramref name="bounds"/> that are all the histogram's own,
    /// ascending.</summary>
    private static void Append(
        StringBuilder text, Exposed exposed, string labels, EngineHistogram histogram, ReadOnlySpan<double> bounds)
    {
        Span<long> counts = stackalloc long[histogram.Bounds.Length + 1];
        long total = histogram.Read(counts, out double sum);
        string separator = labels.Length == 0 ? "" : ",";
        string set = labels.Length == 0 ? "" : $"{{{labels}}}";
        string name = exposed.Name;
        text.Append(CultureInfo.InvariantCulture, $"# HELP {name} {exposed.Help}\n# TYPE {name} histogram\n");
        long below = 0;
        int own = 0;
        foreach (double bound in bounds)
        {
            while (own < histogram.Bounds.Length && histogram.Bounds[own] <= bound) below += counts[own++];
            text.Append(CultureInfo.InvariantCulture, $"{name}_bucket{{{labels}{separator}le=\"{bound}\"}} {below}\n");
        }
        text.Append(CultureInfo.InvariantCulture,
            $"{name}_bucket{{{labels}{separator}le=\"+Inf\"}} {total}\n"
                + $"{name}_sum{set} {sum}\n{name}_count{set} {total}\n");
    }

    private static string Escape(string value) =>
        value.Replace("\\", "\\\\").Replace("\"", "\\\"").Replace("\n", "\\n");
}
