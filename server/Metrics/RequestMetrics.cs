using Native.Scheduling;
using Native.Server.Serving;
using Prometheus;

namespace Native.Server.Metrics;

/// <summary>
/// Keeps the rows of <see cref="MetricTable"/> under Native's names and, where they are wanted, vLLM's. The engine
/// writes a record for every request that ends; <see cref="Collect"/> turns the new ones into observations, off the
/// engine's thread.
/// </summary>
internal sealed class RequestMetrics
{
    private readonly object _collecting = new();
    private readonly Dictionary<ICounter, (double Before, double Last)> _counted = []; // of engines before, of this one
    private readonly ModelHost _host;
    private ServedModel? _collected; // the model of the last collection
    private bool _isOther; // whether the one being collected is another

    /// <param name="host">Whose model is measured.</param>
    /// <param name="vllm">Whether vLLM's names are told too.</param>
    public RequestMetrics(ModelHost host, bool vllm)
    {
        _host = host;
        Vllm = vllm ? new MetricSet(MetricTable.VllmPrefix, MetricTable.VllmLabels) : null;
        foreach (RequestRow row in MetricTable.Requests)
        {
            if (row.Native is { } native) Native.AddHistogram(native, row.NativeBuckets);
            if (row.Vllm is { } other) Vllm?.AddHistogram(other, row.VllmBuckets);
        }
        foreach (NumberRow row in MetricTable.Numbers)
        {
            Add(Native, row.Native, row.IsCounter);
            Add(Vllm, row.Vllm, row.IsCounter);
        }
        Native.AddCounter(MetricTable.Outcomes.Native);
        Vllm?.AddCounter(MetricTable.Outcomes.Vllm);
        Native.AddCounter(MetricTable.CachedTokens.Native);
        Vllm?.AddCounter(MetricTable.CachedTokens.Vllm);
        // There from the first scrape, so that rates begin at zero rather than nowhere.
        foreach (FinishReason reason in Enum.GetValues<FinishReason>())
            if (reason != FinishReason.None) CountOf(MetricTable.Outcomes.NativeWord(reason));
        CountOf(MetricTable.OutcomeOf(SubmitOutcome.QueueFull));
        CountOf(MetricTable.OutcomeOf(SubmitOutcome.WouldBeLate));
        CountOf(MetricTable.OutcomeOf(SubmitOutcome.OverQuota));
        CountOf(MetricTable.OutcomeOf(SubmitOutcome.Shed));
        CountOf(MetricTable.OutcomeOf(SubmitOutcome.Draining));
        CountOf(MetricTable.OutcomeOf(SubmitOutcome.Broken));
        CountOf(MetricTable.OutcomeOf(SubmitOutcome.Invalid));
    }

    /// <summary>The metrics under Native's names.</summary>
    public MetricSet Native { get; } = new("");

    /// <summary>The metrics under vLLM's names, or null where nobody asked for them.</summary>
    public MetricSet? Vllm { get; }

    /// <summary>The engine did not take a request.</summary>
    public void Refused(SubmitOutcome outcome) => CountOf(MetricTable.OutcomeOf(outcome)).Inc();

    /// <summary>A request's first token is on its way to the client.</summary>
    public void FirstToken(TimeSpan sinceArrival)
    {
        Native.Histogram(MetricTable.FirstToken.Native!, []).Observe(sinceArrival.TotalSeconds);
        Vllm?.Histogram(MetricTable.FirstToken.Vllm!, MetricTable.VllmLabelsOf(_host.Model!))
            .Observe(sinceArrival.TotalSeconds);
    }

    /// <summary>Takes over what ended since the last call, and the numbers as they stand. Any thread.</summary>
    public void Collect()
    {
        lock (_collecting) // the engine's ring has one reader
        {
            _isOther = _host.Model != _collected;
            _collected = _host.Model;
            string[] vllm = _host.Model is { } model ? MetricTable.VllmLabelsOf(model) : [];
            if (_host.Model is not null)
            {
                PublishVllm(vllm);
                while (_host.Model.Engine.Metrics.TryReadFinished(out FinishedRequest request)) Observe(request, vllm);
            }
            foreach (NumberRow row in MetricTable.Numbers)
            {
                foreach (Sample sample in row.Read(_host))
                {
                    Set(Native, row.Native, sample.Labels, sample.Value, row.IsCounter);
                    if (Vllm is not null) Set(Vllm, row.Vllm, [.. vllm, .. sample.Labels], sample.Value, row.IsCounter);
                }
            }
        }
    }

    /// <summary>Has every series of vLLM's there from the first scrape, as vLLM has.</summary>
    private void PublishVllm(string[] labels)
    {
        if (Vllm is null) return;
        foreach (RequestRow row in MetricTable.Requests)
            if (row.Vllm is { } name) Vllm.Publish(name, labels);
        Vllm.Counter(MetricTable.CachedTokens.Vllm, labels);
        foreach (string reason in (string[])["stop", "length", "abort", "error", "repetition"])
            Vllm.Counter(MetricTable.Outcomes.Vllm, [.. labels, reason]);
    }

    private void Observe(in FinishedRequest request, string[] vllm)
    {
        string outcome = MetricTable.Outcomes.NativeWord(request.Ended);
        CountOf(outcome).Inc();
        Vllm?.Counter(MetricTable.Outcomes.Vllm, [.. vllm, MetricTable.Outcomes.VllmWord(request.Ended)]).Inc();
        Native.Counter(MetricTable.CachedTokens.Native, []).Inc(MetricTable.CachedTokens.Read(request));
        Vllm?.Counter(MetricTable.CachedTokens.Vllm, vllm).Inc(MetricTable.CachedTokens.Read(request));
        foreach (RequestRow row in MetricTable.Requests)
        {
            if (row.Read?.Invoke(request) is not { } value) continue;
            if (row.Native is { Labels: var labels } native)
                Native.Histogram(native, labels.Length == 0 ? [] : [outcome]).Observe(value);
            if (row.Vllm is { } other) Vllm?.Histogram(other, vllm).Observe(value);
        }
    }

    private ICounter CountOf(string outcome) => Native.Counter(MetricTable.Outcomes.Native, [outcome]);

    private static void Add(MetricSet? set, Exposed? exposed, bool isCounter)
    {
        if (set is null || exposed is null) return;
        if (isCounter) set.AddCounter(exposed);
        else set.AddGauge(exposed);
    }

    private void Set(MetricSet set, Exposed? exposed, string[] labels, double value, bool isCounter)
    {
        if (exposed is null) return;
        if (!isCounter)
        {
            set.Gauge(exposed, labels).Set(value);
            return;
        }
        ICounter counter = set.Counter(exposed, labels);
        (double before, double last) = _counted.GetValueOrDefault(counter);
        if (_isOther && value < last) before += last; // an engine that took another's place counts from 0
        _counted[counter] = (before, value);
        counter.IncTo(before + value);
    }
}
