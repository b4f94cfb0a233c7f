using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using Native.Scheduling;

namespace Native.Server.Serving;

/// <summary>Where the server stands between its start and its end.</summary>
internal enum HostState
{
    /// <summary>The model is being loaded: alive, not ready.</summary>
    Loading,

    /// <summary>Requests are served.</summary>
    Ready,

    /// <summary>Running requests end, new ones are refused.</summary>
    Draining,

    /// <summary>The model could not be loaded.</summary>
    Failed,

    /// <summary>What computes broke, and nothing takes its place. Only a new process can use it again.</summary>
    Broken,
}

/// <summary>The served model and its state, and the request ids in use. Safe from any thread.</summary>
/// <param name="stallAfter">How long the engine's heart may stand still at least before that is a stall.</param>
internal sealed class ModelHost(TimeSpan stallAfter) : IDisposable
{
    /// <summary>Steps after which it is known how long they take.</summary>
    private const int KnownAfter = 16;

    /// <summary>How much longer the first steps may take: a large model's first prompt on a slow machine needs most of
    /// a minute.</summary>
    private const int Unknown = 12;

    /// <summary>A step is stalled at this many times what 19 of 20 like it take.</summary>
    private const int Late = 10;

    private readonly ConcurrentDictionary<string, byte> _ids = new(StringComparer.Ordinal);
    private readonly Lock _lock = new(); // model, state and fault change together
    private ServedModel? _model;
    private string? _fault;
    private bool _isDisposed;
    private int _state = (int)HostState.Loading;
    private TaskCompletionSource _changed = NewSignal();
    private bool _wasServing;
    private Stall? _stall; // as of the last look

    public long StartedAt { get; } = Stopwatch.GetTimestamp();

    public HostState State => (HostState)Volatile.Read(ref _state);

    /// <summary>The model once it is loaded, draining or not.</summary>
    public ServedModel? Model => Volatile.Read(ref _model);

    /// <summary>Whether a request sent now would be served: ready, and the engine whole, its heart beating.</summary>
    public bool IsServing => State == HostState.Ready && Stall is null && Model?.Engine.Fault is null;

    /// <summary>What broke the engine before this one, or this one; null where none is broken.</summary>
    public string? Fault => Volatile.Read(ref _fault);

    /// <summary>What the engine's thread does not come back from; null while its heart beats.</summary>
    public Stall? Stall
    {
        get
        {
            if (State is not (HostState.Ready or HostState.Draining) || Model?.Engine is not { } engine) return null;
            long beat = engine.Heartbeat;
            TimeSpan silent = Stopwatch.GetElapsedTime(beat);
            if (silent < stallAfter) return null;
            RunningStep? step = engine.RunningStep;
            TimeSpan least = engine.Metrics.Steps < KnownAfter ? Unknown * stallAfter : stallAfter;
            TimeSpan most = step is { Expected: var expected } && Late * expected > least ? Late * expected : least;
            TimeSpan age = step is { } running ? Stopwatch.GetElapsedTime(running.Began) : silent;
            return age < most || engine.Heartbeat != beat ? null : new Stall(step, age);
        }
    }

    /// <summary>
    /// Completes when the state or <see cref="IsServing"/> changes. Take it before reading them, so that no change is
    /// missed.
    /// </summary>
    public Task Changed => Volatile.Read(ref _changed).Task;

    /// <summary>
    /// Looks whether the engine's heart stands still, which nothing else would tell. Called a few times a second.
    /// </summary>
    /// <returns>What began or ended just now, for the log; null where nothing did.</returns>
    public string? CheckHeartbeat()
    {
        Stall? stall = Stall, before = Interlocked.Exchange(ref _stall, stall);
        bool serving = IsServing;
        if (serving != _wasServing)
        {
            _wasServing = serving;
            SignalChange();
        }
        if (stall is null == before is null) return null;
        return stall is null ? $"The engine goes on. Before: {before}" : $"The engine is stalled: {stall}";
    }

    /// <summary>Begins to serve <paramref name="model"/>, which is this host's to dispose of. One that it had is
    /// disposed of already.</summary>
    public void Serve(ServedModel model)
    {
        lock (_lock)
        {
            if (_isDisposed)
            {
                model.Dispose(); // the server ended while it was loaded
                return;
            }
            Volatile.Write(ref _model, model);
            Interlocked.CompareExchange(ref _state, (int)HostState.Ready, (int)HostState.Loading);
        }
        SignalChange();
    }

    public void Fail() => Enter(HostState.Failed, null);

    /// <summary>The engine is broken.</summary>
    /// <param name="fault">What the callers are told.</param>
    /// <param name="isReplaced">Whether another model is being loaded in its place.</param>
    public void Break(string fault, bool isReplaced) =>
        Enter(isReplaced ? HostState.Loading : HostState.Broken, fault);

    private void Enter(HostState state, string? fault)
    {
        lock (_lock)
        {
            if (State == HostState.Draining) return; // the end is near whatever happens
            _fault = fault;
            Volatile.Write(ref _state, (int)state);
        }
        SignalChange();
    }

    /// <summary>Refuses what is new, lets what runs end, and aborts the rest after
    /// <paramref name="timeout"/>.</summary>
    /// <returns>True where everything ended by itself.</returns>
    public Task<bool> DrainAsync(TimeSpan timeout)
    {
        lock (_lock) Volatile.Write(ref _state, (int)HostState.Draining);
        SignalChange();
        return Model?.Engine.Drain(timeout) ?? Task.FromResult(true);
    }

    /// <summary>The model that answers to <paramref name="name"/>; empty or null asks for the one there is.</summary>
    /// <exception cref="RequestException">It is not served, or not now.</exception>
    public ServedModel Require(string? name)
    {
        ServedModel? model = Model;
        switch (State)
        {
            case HostState.Loading:
                throw new RequestException(Failure.Unavailable, Fault is { } fault
                    ? $"The model is being loaded onto the CPU; try again in a moment. Before: {fault}"
                    : "The model is being loaded; try again in a moment.", code: "loading")
                { RetryAfter = TimeSpan.FromSeconds(1) };
            case HostState.Broken:
                throw new RequestException(Failure.Unavailable, $"What computes is broken: {Fault}",
                    code: RequestException.DeviceLostCode);
            case HostState.Draining:
                throw new RequestException(Failure.Unavailable, "The server is shutting down.",
                    code: "draining")
                { RetryAfter = TimeSpan.FromSeconds(1), Dropped = DroppedReason.ShuttingDown };
            case HostState.Failed:
                throw new RequestException(Failure.Unavailable, "The model could not be loaded.", code: "load_failed");
        }
        if (string.IsNullOrEmpty(name) || name == model!.Name) return model!;
        throw new RequestException(Failure.NotFound,
            $"The model '{RequestException.Quoted(name)}' is not served here; '{model.Name}' is.", "model",
            "model_not_found");
    }

    /// <summary>Takes a request id until the result is disposed of.</summary>
    /// <param name="given">The caller's own id, or null or empty to draw one.</param>
    /// <param name="shared">Whether several requests may bring the same id, as a mesh gives one to all calls of one of
    /// its own: those that come while it is in use get one that begins with it.</param>
    /// <exception cref="RequestException">The id is in use, or no fit name.</exception>
    public RequestId Enter(string? given, bool shared)
    {
        if (string.IsNullOrEmpty(given)) return new RequestId(_ids, Guid.NewGuid().ToString("N"));
        if (given.Length > 256 || given.AsSpan().ContainsAnyExceptInRange('!', '~'))
            throw RequestException.Invalid("A request id has 1 to 256 printable ASCII characters without spaces.",
                "request_id");
        if (_ids.TryAdd(given, 0)) return new RequestId(_ids, given);
        if (shared) return new RequestId(_ids, $"{given}-{Guid.NewGuid():N}");
        throw new RequestException(Failure.Duplicate, $"A request with the id '{given}' is running.", "request_id",
            "duplicate_request_id");
    }

    public void Dispose()
    {
        lock (_lock) _isDisposed = true;
        Model?.Dispose();
    }

    private static TaskCompletionSource NewSignal() => new(TaskCreationOptions.RunContinuationsAsynchronously);

    private void SignalChange() => Interlocked.Exchange(ref _changed, NewSignal()).SetResult();
}

/// <summary>A request's id, in use until disposed of.</summary>
internal readonly struct RequestId(ConcurrentDictionary<string, byte> inUse, string value) : IDisposable
{
    public void Dispose() => inUse.TryRemove(value, out _);

    public override string ToString() => value;
}

/// <summary>The engine's thread does not come back.</summary>
/// <param name="Step">The step it waits for; null where it is in none.</param>
/// <param name="Age">For how long.</param>
internal sealed record Stall(RunningStep? Step, TimeSpan Age)
{
    public override string ToString() => Step is { } step
        ? string.Create(CultureInfo.InvariantCulture,
            $"step {step.Number} has run for {Age.TotalSeconds:0.0} s, where "
                + $"{step.Expected.TotalMilliseconds:0.####} ms were expected; {step.Sequences} sequences, "
                + $"{step.PrefillTokens} prefill tokens, {step.Decodes} decodes.")
        : string.Create(CultureInfo.InvariantCulture,
            $"the engine's thread has not come back for {Age.TotalSeconds:0.0} s, between two steps.");
}
