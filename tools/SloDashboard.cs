using System.Globalization;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using Native.Scheduling.Slo;
using Native.Server.Metrics;

namespace Native.Tools;

/// <summary>A Grafana dashboard of objectives: what is left of each budget, how fast it burns, and what the histogram
/// says of the threshold.</summary>
internal static class SloDashboard
{
    private const int Width = 8, Height = 7; // of a panel; a row is 24 wide

    public static string Write(SloSpec spec)
    {
        using MemoryStream buffer = new();
        using (Utf8JsonWriter json = new(buffer, new JsonWriterOptions
        {
            Indented = true,
            Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
        }))
        {
            json.WriteStartObject();
            json.WriteString("title", "Native: service-level objectives");
            json.WriteString("uid", "native-slo");
            json.WriteNumber("schemaVersion", 39);
            json.WriteString("refresh", "30s");
            json.WriteStartObject("time");
            json.WriteString("from", "now-6h");
            json.WriteString("to", "now");
            json.WriteEndObject();
            json.WriteStartArray("panels");
            for (int row = 0; row < spec.Objectives.Count; row++) WriteRow(json, spec.Objectives[row], row);
            json.WriteEndArray();
            json.WriteEndObject();
        }
        return Encoding.UTF8.GetString(buffer.ToArray()) + "\n";
    }

    private static void WriteRow(Utf8JsonWriter json, SloObjective objective, int row)
    {
        string name = objective.Name, slo = $"{{slo=\"{name}\"}}";
        WritePanel(json, row, 0, $"{name}: budget left", "percentunit",
            ("by requests, lowest of the servers", $"min(native_slo_budget_remaining_ratio{slo})"),
            ("by time", $"slo:period_error_budget_remaining:ratio{{sloth_slo=\"{name}\"}}"));
        WritePanel(json, row, 1, $"{name}: burn rate", "none",
            ("{{window}}", $"max by (window) (native_slo_burn_rate{slo})"));
        (string, string) counted = ("as counted", $"1 - slo:sli_error:ratio_rate5m{{sloth_slo=\"{name}\"}}");
        // A histogram is of all requests.
        if (MetricTable.HistogramOf(objective.Sli) is not { } histogram || objective.Class is not null
            || objective.Tenant is not null || MetricTable.NoBucketOf(objective) is not null)
        {
            WritePanel(json, row, 2, $"{name}: good requests", "percentunit", counted);
            return;
        }
        double seconds = objective.Threshold!.Value.TotalSeconds;
        string within = string.Create(CultureInfo.InvariantCulture,
            $"sum(rate({histogram.Name}_bucket{{le=\"{seconds}\"}}[5m])) / sum(rate({histogram.Name}_count[5m]))");
        WritePanel(json, row, 2, $"{name}: good requests", "percentunit", counted,
            (string.Create(CultureInfo.InvariantCulture, $"answers within {seconds} s, batch work too"), within));
    }

    private static void WritePanel(
        Utf8JsonWriter json, int row, int column, string title, string unit,
        params (string Legend, string Query)[] lines)
    {
        json.WriteStartObject();
        json.WriteNumber("id", (row * 3) + column + 1);
        json.WriteString("type", "timeseries");
        json.WriteString("title", title);
        json.WriteStartObject("gridPos");
        json.WriteNumber("x", column * Width);
        json.WriteNumber("y", row * Height);
        json.WriteNumber("w", Width);
        json.WriteNumber("h", Height);
        json.WriteEndObject();
        json.WriteStartObject("fieldConfig");
        json.WriteStartObject("defaults");
        json.WriteString("unit", unit);
        json.WriteEndObject();
        json.WriteStartArray("overrides");
        json.WriteEndArray();
        json.WriteEndObject();
        json.WriteStartArray("targets");
        for (int i = 0; i < lines.Length; i++)
        {
            json.WriteStartObject();
            json.WriteString("refId", ((char)('A' + i)).ToString());
            json.WriteString("expr", lines[i].Query);
            json.WriteString("legendFormat", lines[i].Legend);
            json.WriteEndObject();
        }
        json.WriteEndArray();
        json.WriteEndObject();
    }
}
