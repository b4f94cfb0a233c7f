using Prometheus;

namespace Native.Server.Metrics;

/// <summary>
/// The metrics under one set of names, as the library keeps them: a registry, and labels that every series has.
/// </summary>
/// <param name="prefix">Left out of the names that the library knows: it refuses the colon of <c>vllm:</c>.</param>
/// <param name="labels">Names of the labels that every series has.</param>
internal sealed class MetricSet(string prefix, params string[] labels)
{
    private readonly Dictionary<string, Collector> _metrics = new(StringComparer.Ordinal);
    private MetricFactory? _factory;

    public CollectorRegistry Registry { get; } = Prometheus.Metrics.NewCustomRegistry();

    /// <summary>What <see cref="Exposition"/> puts before the names again.</summary>
    public string Prefix => prefix;

    public void AddHistogram(Exposed exposed, double[] buckets) =>
        _metrics.Add(exposed.Name, Factory.CreateHistogram(
            NameOf(exposed), exposed.Help, LabelsOf(exposed), new HistogramConfiguration { Buckets = buckets }));

    public void AddCounter(Exposed exposed) =>
        _metrics.Add(exposed.Name, Factory.CreateCounter(NameOf(exposed), exposed.Help, LabelsOf(exposed)));

    public void AddGauge(Exposed exposed) =>
        _metrics.Add(exposed.Name, Factory.CreateGauge(NameOf(exposed), exposed.Help, LabelsOf(exposed)));

    /// <summary>The histogram of one series. With a label it is there from now on.</summary>
    public IHistogram Histogram(Exposed exposed, string[] values)
    {
        Histogram metric = (Histogram)_metrics[exposed.Name];
        return values.Length == 0 ? metric : metric.WithLabels(values);
    }

    /// <summary>Has a series of a histogram there before anything is observed.</summary>
    public void Publish(Exposed exposed, string[] values) =>
        ((Histogram)_metrics[exposed.Name]).WithLabels(values).Publish();

    /// <inheritdoc cref="Histogram"/>
    public ICounter Counter(Exposed exposed, string[] values)
    {
        Counter metric = (Counter)_metrics[exposed.Name];
        return values.Length == 0 ? metric : metric.WithLabels(values);
    }

    /// <inheritdoc cref="Histogram"/>
    public IGauge Gauge(Exposed exposed, string[] values)
    {
        Gauge metric = (Gauge)_metrics[exposed.Name];
        return values.Length == 0 ? metric : metric.WithLabels(values);
    }

    private MetricFactory Factory => _factory ??= Prometheus.Metrics.WithCustomRegistry(Registry);

    private string NameOf(Exposed exposed) => exposed.Name[prefix.Length..];

    private string[] LabelsOf(Exposed exposed) => [.. labels, .. exposed.Labels];
}
