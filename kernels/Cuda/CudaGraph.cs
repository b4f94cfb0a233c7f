namespace Native.Kernels.Cuda;

/// <summary>Work that was queued once and is queued again by one call.</summary>
internal sealed unsafe class CudaGraph : IDisposable
{
    private const int ThreadLocal = 1; // CU_STREAM_CAPTURE_MODE_THREAD_LOCAL

    private readonly CudaDevice _device;
    private readonly nint _graph, _executable;

    private CudaGraph(CudaDevice device, nint graph)
    {
        _device = device;
        _graph = graph;
        nint executable;
        int result = device.Api.cuGraphInstantiateWithFlags(&executable, graph, 0);
        if (result != 0) _ = device.Api.cuGraphDestroy(graph);
        device.Check(result, "cuGraphInstantiateWithFlags");
        _executable = executable;
    }

    /// <summary>Records what <paramref name="enqueue"/> queues on the device's stream, without running it.</summary>
    /// <exception cref="CudaException">It did something that can't be recorded, such as waiting.</exception>
    public static CudaGraph Record(CudaDevice device, Action enqueue)
    {
        device.Enter();
        device.Check(device.Api.cuStreamBeginCapture(device.Stream, ThreadLocal), "cuStreamBeginCapture");
        nint graph = 0;
        try
        {
            enqueue();
        }
        catch
        {
            // The stream must not stay in its recording.
            if (device.Api.cuStreamEndCapture(device.Stream, &graph) == 0) _ = device.Api.cuGraphDestroy(graph);
            throw;
        }
        device.Check(device.Api.cuStreamEndCapture(device.Stream, &graph), "cuStreamEndCapture");
        return new CudaGraph(device, graph);
    }

    /// <summary>Queues all of it.</summary>
    public void Launch() => _device.Check(_device.Api.cuGraphLaunch(_executable, _device.Stream), "cuGraphLaunch");

    /// <summary>Forgets it; what is queued of it still runs. A device that refuses keeps it until its context ends.
    /// </summary>
    public void Dispose()
    {
        _device.Enter();
        _ = _device.Api.cuGraphExecDestroy(_executable);
        _ = _device.Api.cuGraphDestroy(_graph);
    }
}

/// <summary>A point in a device's stream that can be waited for, and timed.</summary>
internal sealed unsafe class CudaEvent : IDisposable
{
    private readonly CudaDevice _device;
    private readonly nint _event;

    /// <param name="device">The device.</param>
    /// <param name="timed">Whether <see cref="MillisecondsSince"/> will be asked for, which costs a little.</param>
    public CudaEvent(CudaDevice device, bool timed = false)
    {
        _device = device;
        device.Enter();
        nint handle;
        device.Check(device.Api.cuEventCreate(&handle, timed ? 0u : 2u), "cuEventCreate"); // 2: no timing
        _event = handle;
    }

    /// <summary>Marks what is queued so far.</summary>
    public void Record() => _device.Check(_device.Api.cuEventRecord(_event, _device.Stream), "cuEventRecord");

    /// <summary>Waits until all that was queued before it is done.</summary>
    public void Wait() => _device.Check(_device.Api.cuEventSynchronize(_event), "cuEventSynchronize");

    /// <summary>From another event to this one, both waited for.</summary>
    public float MillisecondsSince(CudaEvent other)
    {
        float milliseconds;
        _device.Check(_device.Api.cuEventElapsedTime(&milliseconds, other._event, _event), "cuEventElapsedTime");
        return milliseconds;
    }

    public void Dispose()
    {
        _device.Enter();
        _device.Check(_device.Api.cuEventDestroy(_event), "cuEventDestroy");
    }
}
