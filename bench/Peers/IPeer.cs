using Native.Bench.Throughput;

namespace Native.Bench.Peers;

/// <summary>An engine that is measured beside others on one model file.</summary>
internal interface IPeer : IAsyncDisposable
{
    /// <summary>Short, for headings and legends.</summary>
    string Name { get; }

    /// <summary>Its version and how it is driven, for whoever wants to measure the same.</summary>
    string Description { get; }

    /// <summary>Runs a test once: a prompt of one sequence, or steps of a batch, behind the tokens of its
    /// depth.</summary>
    /// <returns>Seconds of the prompt or the steps alone; null where this engine can't be asked that.</returns>
    /// <exception cref="Native.Tools.CommandException">It could not.</exception>
    Task<double?> MeasureAsync(ThroughputTest test, CancellationToken ct);
}
