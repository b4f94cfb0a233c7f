using System.Diagnostics;
using System.Diagnostics.Tracing;
using Prometheus;

namespace Native.Server.Metrics;

/// <summary>What the .NET runtime does to the process: pauses of its collector, memory, threads, locks.</summary>
/// <remarks>One for the process, and never disposed of: the runtime takes its two locks of event listeners in one order
/// where a listener goes and in the other where one comes, so that two servers in a process that end at once would wait
/// for each other for ever.</remarks>
internal sealed class RuntimeMetrics
{
    private static readonly Lazy<RuntimeMetrics> Instance = new(() => new RuntimeMetrics());

    private readonly Counter _collections, _allocated, _contentions, _pauseTotal, _cpu;
    private readonly Gauge _heap, _resident, _threads, _queue, _processThreads, _handles;
    private readonly RuntimeListener _listener; // keeps it alive

    private RuntimeMetrics()
    {
        Registry = Prometheus.Metrics.NewCustomRegistry();
        MetricFactory metrics = Prometheus.Metrics.WithCustomRegistry(Registry);
        Histogram pauses = metrics.CreateHistogram("native_gc_pause_seconds",
            "Time all threads stood still for the garbage collector.",
            new HistogramConfiguration
            {
                Buckets =
                [.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1]
            });
        _pauseTotal = metrics.CreateCounter("native_gc_pause_seconds_total",
            "All those pauses together, as the runtime counts them.");
        _collections =
            metrics.CreateCounter("native_gc_collections_total", "Garbage collections by generation.", ["generation"]);
        _allocated = metrics.CreateCounter("native_gc_allocated_bytes_total", "Bytes allocated on the managed heap.");
        _heap = metrics.CreateGauge("native_gc_heap_bytes", "Managed heap after the last collection.");
        _contentions =
            metrics.CreateCounter("native_lock_contentions_total", "Times a thread had to wait for a monitor.");
        // Which thread waited is known by its name in /proc alone.
        Counter? stepContentions = OperatingSystem.IsLinux()
            ? metrics.CreateCounter("native_step_lock_contentions_total",
                "Those of them where a thread that computes steps had to wait: the engine's, or one of its workers.")
            : null;
        _threads = metrics.CreateGauge("native_threadpool_threads", "Threads of the pool that serves connections.");
        _queue = metrics.CreateGauge("native_threadpool_queue_length", "Work that waits for one of them.");
        _resident = metrics.CreateGauge("process_resident_memory_bytes", "Resident memory of the process.");
        _cpu = metrics.CreateCounter("process_cpu_seconds_total", "CPU time of the process.");
        _processThreads = metrics.CreateGauge("process_threads", "Threads of the process.");
        _handles = metrics.CreateGauge("process_open_fds",
            "Open file descriptors of the process; on Windows its handles.");
        _listener = new RuntimeListener(pauses, stepContentions);
    }

    public static RuntimeMetrics OfThisProcess => Instance.Value;

    public CollectorRegistry Registry { get; }

    public void Collect()
    {
        for (int generation = 0; generation <= GC.MaxGeneration; generation++)
            _collections.WithLabels($"{generation}").IncTo(GC.CollectionCount(generation));
        _pauseTotal.IncTo(GC.GetTotalPauseDuration().TotalSeconds);
        _allocated.IncTo(GC.GetTotalAllocatedBytes());
        _heap.Set(GC.GetGCMemoryInfo().HeapSizeBytes);
        _contentions.IncTo(Monitor.LockContentionCount);
        _threads.Set(ThreadPool.ThreadCount);
        _queue.Set(ThreadPool.PendingWorkItemCount);
        _resident.Set(Environment.WorkingSet);
        _cpu.IncTo(Environment.CpuUsage.TotalTime.TotalSeconds);
        using Process process = Process.GetCurrentProcess();
        _processThreads.Set(process.Threads.Count);
        _handles.Set(process.HandleCount);
    }

    /// <summary>Hears the runtime suspend and restart its threads for a collection, and threads begin to wait for a
    /// monitor.</summary>
    private sealed class RuntimeListener : EventListener
    {
        private const int GcKeyword = 1;
        private const int ContentionKeyword = 0x4000;
        private const int RestartEnd = 3;
        private const int SuspendBegin = 9;
        private const int ContentionStart = 81;
        private const int SuspendedForGc = 1;
        private const int SuspendedForGcPreparation = 6;

        private readonly Histogram? _pauses;
        private readonly Counter? _stepContentions;
        private long _suspended;

        public RuntimeListener(Histogram pauses, Counter? stepContentions)
        {
            _pauses = pauses;
            _stepContentions = stepContentions;
            EventKeywords keywords =
                (EventKeywords)(stepContentions is null ? GcKeyword : GcKeyword | ContentionKeyword);
            foreach (EventSource source in EventSource.GetSources())
                if (source.Name == "Microsoft-Windows-DotNETRuntime")
                    EnableEvents(source, EventLevel.Informational, keywords);
        }

        protected override void OnEventWritten(EventWrittenEventArgs e)
        {
            switch (e.EventId)
            {
                case SuspendBegin
                    when e.Payload is [uint reason, ..] && reason is SuspendedForGc or SuspendedForGcPreparation:
                    _suspended = e.TimeStamp.Ticks;
                    break;
                case RestartEnd when _suspended != 0:
                    _pauses?.Observe(new TimeSpan(e.TimeStamp.Ticks - _suspended).TotalSeconds);
                    _suspended = 0;
                    break;
                case ContentionStart when _stepContentions is not null && ComputesSteps(e.OSThreadId):
                    _stepContentions.Inc();
                    break;
            }
        }

        /// <summary>Whether a thread is called native-engine or native-worker-N. The system keeps 15 characters of a
        /// name.</summary>
        private static bool ComputesSteps(long thread)
        {
            try
            {
                string name = File.ReadAllText($"/proc/self/task/{thread}/comm");
                return name.StartsWith("native-engine", StringComparison.Ordinal)
                    || name.StartsWith("native-worker", StringComparison.Ordinal);
            }
            catch (IOException)
            {
                return false; // it has ended meanwhile; the engine's threads live as long as it
            }
        }
    }
}
