using System.Collections.Concurrent;
using System.Diagnostics;

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
}

/// <summary>The served model and its state, and the request ids in use. Safe from any thread.</summary>
internal sealed class ModelHost : IDisposable
{
    /// <summary>A step that takes longer than this is taken for a stall: the largest step of a large model on a slow
    /// CPU stays well below.</summary>
    private static readonly TimeSpan StallAfter = TimeSpan.FromSeconds(30);

    private readonly ConcurrentDictionary<string, byte> _ids = new(StringComparer.Ordinal);
    private ServedModel? _model;
    private int _state = (int)HostState.Loading;
    private TaskCompletionSource _changed = NewSignal();
    private bool _wasServing;

    public long StartedAt { get; } = Stopwatch.GetTimestamp();

    public HostState State => (HostState)Volatile.Read(ref _state);

    /// <summary>The model once it is loaded, draining or not.</summary>
    public ServedModel? Model => Volatile.Read(ref _model);

    /// <summary>Whether a request sent now would be served: ready, and the engine's heart beats.</summary>
    public bool IsServing =>
        State == HostState.Ready && Stopwatch.GetElapsedTime(_model!.Engine.Heartbeat) < StallAfter;

    /// <summary>
    /// Completes when the state or <see cref="IsServing"/> changes. Take it before reading them, so that no change is
    /// missed.
    /// </summary>
    public Task Changed => Volatile.Read(ref _changed).Task;

    /// <summary>
    /// Looks whether the engine's heart stands still, which nothing else would tell. Called a few times a second.
    /// </summary>
    public void CheckHeartbeat()
    {
        bool serving = IsServing;
        if (serving == _wasServing) return;
        _wasServing = serving;
        SignalChange();
    }

    /// <summary>Begins to serve <paramref name="model"/>, which is this host's to dispose of.</summary>
    public void Serve(ServedModel model)
    {
        Volatile.Write(ref _model, model);
        Interlocked.CompareExchange(ref _state, (int)HostState.Ready, (int)HostState.Loading);
        SignalChange();
    }

    public void Fail()
    {
        Volatile.Write(ref _state, (int)HostState.Failed);
        SignalChange();
    }

    /// <summary>Refuses what is new, lets what runs end, and aborts the rest after
    /// <paramref name="timeout"/>.</summary>
    /// <returns>True where everything ended by itself.</returns>
    public Task<bool> DrainAsync(TimeSpan timeout)
    {
        Volatile.Write(ref _state, (int)HostState.Draining);
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
                throw new RequestException(Failure.Unavailable, "The model is being loaded; try again in a moment.",
                    code: "loading")
                { RetryAfter = TimeSpan.FromSeconds(1) };
            case HostState.Draining:
                throw new RequestException(Failure.Unavailable, "The server is shutting down.",
                    code: "draining")
                { RetryAfter = TimeSpan.FromSeconds(1) };
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

    public void Dispose() => Model?.Dispose();

    private static TaskCompletionSource NewSignal() => new(TaskCreationOptions.RunContinuationsAsynchronously);

    private void SignalChange() => Interlocked.Exchange(ref _changed, NewSignal()).SetResult();
}

/// <summary>A request's id, in use until disposed of.</summary>
internal readonly struct RequestId(ConcurrentDictionary<string, byte> inUse, string value) : IDisposable
{
    public void Dispose() => inUse.TryRemove(value, out _);

    public override string ToString() => value;
}
