using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;

namespace Native.Kernels.Cpu.Machine;

/// <summary>Threads that run parallel loops over ranges of indices. The caller's thread is worker 0.</summary>
/// <remarks>
/// A loop allocates nothing and takes no lock. Its description is in fields, ranges are handed out by an atomic add,
/// and a generation number starts it. Workers watch that number, first spinning, then asleep on a futex (elsewhere a
/// semaphore), and the caller likewise how many are not through. Workers other than the caller are pinned to the
/// process's processors if the system allows it and there is a worker for every core. Fewer workers are not pinned,
/// because several processes would all take the same cores.
/// The caller is never pinned. One thread at a time may call <see cref="For"/>, and not from inside a loop's body.
/// </remarks>
internal sealed unsafe class WorkerPool : IDisposable
{
    // Waking through the kernel costs tens of microseconds; the gaps between a step's operations last a few. Spinning
    // this long keeps workers awake during a step and lets an idle server's cores sleep.
    private static readonly long SpinTicks = Stopwatch.Frequency / 10_000; // 100 us

    private readonly Control* _control = (Control*)NativeMemory.AlignedAlloc((nuint)sizeof(Control), 128);
    private readonly Share* _shares; // one for each worker; a loop without shares uses only the first
    private readonly Thread[] _threads;
    private readonly SemaphoreSlim? _semaphore = OperatingSystem.IsLinux() ? null : new(0);
    private readonly bool _spins;
    private delegate*<void*, int, int, int, void> _body;
    private void* _context;
    private int _grain;
    private int _shareCount;
    private bool _running;
    private volatile bool _stopping;
    private Exception? _fault;

    /// <summary>Starts the threads.</summary>
    /// <param name="threads">Workers in all, the caller included; 1 to 1024.</param>
    public WorkerPool(int threads)
    {
        if (threads is < 1 or > 1024)
            throw new ArgumentOutOfRangeException(nameof(threads), threads, "a worker pool has 1 to 1024 threads");
        *_control = default;
        _shares = (Share*)NativeMemory.AlignedAlloc((nuint)(threads * sizeof(Share)), 128);
        Threads = threads;
        int[] processors = Processors.Spread();
        bool pins = threads <= processors.Length && threads >= Processors.Cores();
        // With more threads than processors, a spinning one takes time from a working one
        _spins = threads <= Environment.ProcessorCount;
        _threads = new Thread[threads - 1];
        for (int i = 0; i < _threads.Length; i++)
        {
            int worker = i + 1;
            int processor = pins ? processors[worker] : -1;
            _threads[i] = new Thread(() => Loop(worker, processor))
            {
                IsBackground = true,
                Name = $"native-worker-{worker}"
            };
            _threads[i].Start();
        }
    }

    /// <summary>Loops so far that all workers took part in. Each ends in a barrier, which a step pays beside its
    /// work.</summary>
    public long Loops { get; private set; }

    /// <summary>Workers, the caller included.</summary>
    public int Threads { get; }

    /// <summary>Runs <paramref name="body"/> over 0..<paramref name="count"/> in ranges of <paramref name="grain"/>
    /// indices, each run once, by any worker, and returns when all are done.</summary>
    /// <param name="count">Indices; 0 is no work.</param>
    /// <param name="grain">Indices of a range, at least 1; the last range may have fewer. A single range, or a single
    /// thread, runs in the caller and wakes no worker.</param>
    /// <param name="body">Context, first index, end index, worker (0 to <see cref="Threads"/> - 1).</param>
    /// <param name="context">Handed to the body; may lie on the caller's stack.</param>
    /// <exception cref="Exception">The first exception that a body threw. Ranges not begun by then were
    /// skipped.</exception>
    public void For(int count, int grain, delegate*<void*, int, int, int, void> body, void* context) =>
        Run(count, grain, 1, body, context);

    /// <summary>As <see cref="For"/>, but each worker has a share of neighbouring ranges, and helps others when its own
    /// is done. Neighbouring memory is read by one worker, and by the same one every time.</summary>
    public void ForShares(int count, int grain, delegate*<void*, int, int, int, void> body, void* context) =>
        Run(count, grain, Threads, body, context);

    private void Run(int count, int grain, int shares, delegate*<void*, int, int, int, void> body, void* context)
    {
        if (count <= 0) return;
        if (_threads.Length == 0 || count <= grain)
        {
            body(context, 0, count, 0);
            return;
        }
        ObjectDisposedException.ThrowIf(_stopping, this);
        if (_running) throw new InvalidOperationException("the worker pool is already running a loop");
        _running = true;
        Loops++;
        _body = body;
        _context = context;
        _grain = Math.Max(1, grain);
        _shareCount = shares;
        long ranges = (count + _grain - 1L) / _grain;
        for (int i = 0; i < shares; i++)
        {
            _shares[i].Next = ranges * i / shares * _grain;
            _shares[i].End = i == shares - 1 ? count : ranges * (i + 1) / shares * _grain;
        }
        _control->Pending = _threads.Length;
        Interlocked.Increment(ref _control->Generation); // publishes all of the above
        Wake();

        Work(0);
        WaitForOthers();
        _running = false;
        if (_fault is { } fault)
        {
            _fault = null;
            ExceptionDispatchInfo.Throw(fault);
        }
    }

    /// <summary>Ends the threads. Must not be called while a loop runs.</summary>
    public void Dispose()
    {
        if (_stopping) return;
        _stopping = true;
        Interlocked.Increment(ref _control->Generation);
        Wake();
        foreach (Thread thread in _threads) thread.Join();
        NativeMemory.AlignedFree(_control);
        NativeMemory.AlignedFree(_shares);
        _semaphore?.Dispose();
    }

    private void Loop(int worker, int processor)
    {
        if (processor >= 0) Processors.Pin(processor);
        for (int seen = 0; ; seen++)
        {
            WaitForGenerationAfter(seen);
            if (_stopping) return;
            Work(worker);
            // The next loop begins only after this, or the last one's wake.
            if (Interlocked.Decrement(ref _control->Pending) == 0 && Volatile.Read(ref _control->CallerSleeps) != 0)
                Futex.WakeAll(&_control->Pending);
        }
    }

    private void Work(int worker)
    {
        try
        {
            for (int i = 0; i < _shareCount; i++)
            {
                Share* share = _shares + (worker + i) % _shareCount;
                // Usually nothing is left, and a read costs less than an add
                while (Volatile.Read(ref share->Next) < share->End)
                {
                    long from = Interlocked.Add(ref share->Next, _grain) - _grain;
                    if (from >= share->End) break;
                    _body(_context, (int)from, (int)Math.Min(share->End, from + _grain), worker);
                }
            }
        }
        catch (Exception e)
        {
            Interlocked.CompareExchange(ref _fault, e, null);
            // Other workers stop at their next range
            for (int i = 0; i < _shareCount; i++) Interlocked.Exchange(ref _shares[i].Next, _shares[i].End);
        }
    }

    /// <summary>Waits until every worker is through. A caller that spun for longer would keep its processor from
    /// a worker that lost its own, to the compiler's thread for instance: steps took 3 to 6 times as long
    /// then.</summary>
    private void WaitForOthers()
    {
        int* pending = &_control->Pending;
        if (Spin(pending, 0, isAwaited: true)) return;
        if (_semaphore is null)
        {
            // A full fence between this and the look at what is pending, as the last worker has one between its
            // decrement and its look for a sleeper (Dekker).
            Interlocked.Exchange(ref _control->CallerSleeps, 1);
            for (int left; (left = Volatile.Read(ref *pending)) != 0;) Futex.Wait(pending, left);
            Volatile.Write(ref _control->CallerSleeps, 0);
        }
        else
        {
            while (Volatile.Read(ref *pending) != 0) Thread.Yield();
        }
    }

    /// <summary>Watches a number for a while until it is, or is no longer, this value. False where it is not so by
    /// then.</summary>
    private bool Spin(int* number, int value, bool isAwaited)
    {
        if (!_spins) return false;
        long end = Stopwatch.GetTimestamp() + SpinTicks;
        do
        {
            for (int i = 0; i < 64; i++)
            {
                if (Volatile.Read(ref *number) == value == isAwaited) return true;
                X86Pause();
            }
        }
        while (Stopwatch.GetTimestamp() < end);
        return false;
    }

    private void WaitForGenerationAfter(int seen)
    {
        if (Spin(&_control->Generation, seen, isAwaited: false)) return;
        // If this increment comes too late for the starter to see it, the wait below sees the new generation.
        Interlocked.Increment(ref _control->Sleepers);
        while (Volatile.Read(ref _control->Generation) == seen)
        {
            if (_semaphore is null) Futex.Wait(&_control->Generation, seen);
#pragma warning disable RS0030 // a worker without work sleeps; without a futex, on this
            else _semaphore.Wait();
#pragma warning restore RS0030
        }
        Interlocked.Decrement(ref _control->Sleepers);
    }

    private void Wake()
    {
        int sleepers = Volatile.Read(ref _control->Sleepers);
        if (sleepers == 0) return;
        if (_semaphore is null) Futex.WakeAll(&_control->Generation);
        else _semaphore.Release(sleepers); // an extra permit only makes a worker check again
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void X86Pause()
    {
        if (System.Runtime.Intrinsics.X86.X86Base.IsSupported) System.Runtime.Intrinsics.X86.X86Base.Pause();
        else Thread.SpinWait(1);
    }

    // A field that several cores write has two cache lines of its own, because prefetchers fetch lines in pairs.
    [StructLayout(LayoutKind.Explicit, Size = 384)]
    private struct Control
    {
        [FieldOffset(0)] public int Generation;
        [FieldOffset(128)] public int Pending;
        [FieldOffset(132)] public int CallerSleeps; // written by the caller alone, and rarely
        [FieldOffset(256)] public int Sleepers;
    }

    [StructLayout(LayoutKind.Explicit, Size = 128)]
    private struct Share
    {
        [FieldOffset(0)] public long Next;
        [FieldOffset(8)] public long End;
    }

    private static class Futex
    {
        private const int WaitPrivate = 128, WakePrivate = 129;
        // Arm64, riscv64 and loongarch64 share theirs
        private static readonly nint Number = RuntimeInformation.ProcessArchitecture == Architecture.X64 ? 202 : 98;

        public static void Wait(int* address, int expected) => syscall(Number, address, WaitPrivate, expected, null);

        public static void WakeAll(int* address) => syscall(Number, address, WakePrivate, int.MaxValue, null);

        [DllImport("libc")]
        private static extern nint syscall(nint number, int* address, nint operation, nint value, void* timeout);
    }
}
