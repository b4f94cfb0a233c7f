using System.Diagnostics;
using System.Runtime.InteropServices;

namespace Native.Server;

/// <summary>SIGTERM and SIGINT. First signal: drain. Second: cut off. Third: exit.</summary>
/// <remarks>Signals within 0.5 s count as one, because timeout(1) and some shells signal both the process and its
/// group.</remarks>
internal sealed class Signals : IDisposable
{
    private readonly TaskCompletionSource _asked = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly TaskCompletionSource<int> _hurried = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly PosixSignalRegistration _terminate, _interrupt;
    private long _first;

    /// <summary>Watches from now on.</summary>
    public Signals()
    {
        _terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, OnSignal);
        _interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, OnSignal);
    }

    /// <summary>Ends with the first signal.</summary>
    public Task Asked => _asked.Task;

    /// <summary>Ends with the second signal, with the exit code that it means.</summary>
    public Task<int> Hurried => _hurried.Task;

    /// <summary>Watches no longer.</summary>
    public void Dispose()
    {
        _terminate.Dispose();
        _interrupt.Dispose();
    }

    private void OnSignal(PosixSignalContext signal)
    {
        signal.Cancel = true;
        if (Interlocked.CompareExchange(ref _first, Stopwatch.GetTimestamp(), 0) == 0)
        {
            _asked.SetResult();
            return;
        }
        if (Stopwatch.GetElapsedTime(_first).TotalSeconds < 0.5) return;
        int code = 128 + (signal.Signal == PosixSignal.SIGINT ? 2 : 15);
        if (!_hurried.TrySetResult(code)) Environment.Exit(code);
    }
}
