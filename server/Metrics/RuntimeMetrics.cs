using System.Diagnostics.Tracing;
using Prometheus;

namespace Native.Server.Metrics;

/// <summary>What the .NET runtime does to the process: pauses of its collector, memory, threads.</summary>
/// <remarks>One for the process, and never disposed of: the runtime takes its two locks of event listeners in one order where a listener
/// goes and in the other where one comes, so that two servers in a process that end at once would wait for each other for ever.</remarks>
internal sealed class RuntimeMetrics
{
    private static readonly Lazy<RuntimeMetrics> Instance = new(() => new RuntimeMetrics());

    private readonly Counter _collections, _allocated, _contentions, _pauseTotal, _cpu;
    private readonly Gauge _heap, _resident, _threads, _queue;
    private readonly PauseListener _listener; // keeps it alive

    private RuntimeMetrics()
    {
        Registry = Prometheus.Metrics.NewCustomRegistry();
        MetricFactory metrics = Prometheus.Metrics.WithCustomRegistry(Registry);
        Histogram pauses = metrics.CreateHistogram("native_gc_pause_seconds", "Time all threads stood still for the garbage collector.",
            new HistogramConfiguration { Buckets = [.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1] });
        _pauseTotal = metrics.CreateCounter("native_gc_pause_seconds_total", "All those pauses together, as the runtime counts them.");
        _collections = metrics.CreateCounter("native_gc_collections_total", "Garbage collections by generation.", ["generation"]);
        _allocated = metrics.CreateCounter("native_gc_allocated_bytes_total", "Bytes allocated on the managed heap.");
        _heap = metrics.CreateGauge("native_gc_heap_bytes", "Managed heap after the last collection.");
        _contentions = metrics.CreateCounter("native_lock_contentions_total", "Times a thread had to wait for a monitor.");
        _threads = metrics.CreateGauge("native_threadpool_threads", "Threads of the pool that serves connections.");
        _queue = metrics.CreateGauge("native_threadpool_queue_length", "Work that waits for one of them.");
        _resident = metrics.CreateGauge("process_resident_memory_bytes", "Resident memory of the process.");
        _cpu = metrics.CreateCounter("process_cpu_seconds_total", "CPU time of the process.");
        _listener = new PauseListener(pauses);
    }

    public static RuntimeMetrics OfThisProcess => Instance.Value;

    public CollectorRegistry Registry { get; }

    public void Collect()
    {
        for (int generation = 0; generation <= GC.MaxGeneration; generation++) _collections.WithLabels($"{generation}").IncTo(GC.CollectionCount(generation));
        _pauseTotal.IncTo(GC.GetTotalPauseDuration().TotalSeconds);
        _allocated.IncTo(GC.GetTotalAllocatedBytes());
        _heap.Set(GC.GetGCMemoryInfo().HeapSizeBytes);
        _contentions.IncTo(Monitor.LockContentionCount);
        _threads.Set(ThreadPool.ThreadCount);
        _queue.Set(ThreadPool.PendingWorkItemCount);
        _resident.Set(Environment.WorkingSet);
        _cpu.IncTo(Environment.CpuUsage.TotalTime.TotalSeconds);
    }

    /// <summary>Hears the runtime suspend and restart its threads for a collection.</summary>
    private sealed class PauseListener : EventListener
    {
        private const int GcKeyword = 1;
        private const int RestartEnd = 3;
        private const int SuspendBegin = 9;
        private const int SuspendedForGc = 1;
        private const int SuspendedForGcPreparation = 6;

        private readonly Histogram? _pauses;
        private long _suspended;

        public PauseListener(Histogram pauses)
        {
            _pauses = pauses;
            foreach (EventSource source in EventSource.GetSources())
                if (source.Name == "Microsoft-Windows-DotNETRuntime") EnableEvents(source, EventLevel.Informational, (EventKeywords)GcKeyword);
        }

        protected override void OnEventWritten(EventWrittenEventArgs e)
        {
            switch (e.EventId)
            {
                case SuspendBegin when e.Payload is [uint reason, ..] && reason is SuspendedForGc or SuspendedForGcPreparation:
                    _suspended = e.TimeStamp.Ticks;
                    break;
                case RestartEnd when _suspended != 0:
                    _pauses?.Observe(new TimeSpan(e.TimeStamp.Ticks - _suspended).TotalSeconds);
                    _suspended = 0;
                    break;
            }
        }
    }
}
