using Native.Kernels.Sampling;

namespace Native.Kernels;

/// <summary>The interface between scheduler and kernels: a loaded model that turns one <see cref="Batch"/> into next
/// tokens.</summary>
/// <remarks>
/// A step is launched and later collected. Up to <see cref="ModelInfo.StepsInFlight"/> steps may be launched before the
/// oldest is collected. Steps are computed in the order of their launches. One thread at a time calls, the engine's.
/// Neither call allocates once the largest step has been seen.
/// </remarks>
public interface IModelRunner : IDisposable
{
    /// <summary>What was loaded, and the limits the scheduler must keep.</summary>
    ModelInfo Info { get; }

    /// <summary>What broke the runner for good, such as a device that was lost: every later step would fail alike. Null
    /// while it computes; a step that failed alone changes nothing. Asked after an exception.</summary>
    Exception? Fault => null;

    /// <summary>Checks a step, copies the batch, and enqueues the step. The batch's spans are not kept.</summary>
    /// <remarks>Keys and values of all T tokens enter the cache, and R rows are sampled or scored.</remarks>
    /// <param name="batch">At most <see cref="ModelInfo.MaxBatchedTokens"/> tokens of
    /// <see cref="ModelInfo.MaxSequences"/> sequences.</param>
    /// <exception cref="ArgumentException">The batch is inconsistent or past a limit; nothing was launched.</exception>
    /// <exception cref="InvalidOperationException">The allowed number of steps is in flight already; nothing was
    /// launched.</exception>
    void Launch(in Batch batch);

    /// <summary>Waits for the oldest launched step and gives its results. After an exception no step is in
    /// flight.</summary>
    /// <param name="sampled">One entry for each of the step's <see cref="Batch.SampleRows"/>.</param>
    /// <param name="alternatives">The best tokens of the rows that asked for some, each row's from its
    /// <see cref="RowSampling.AlternativesStart"/>, best first.</param>
    /// <param name="hidden">Receives shape [E, <see cref="ModelInfo.HiddenSize"/>] for the step's
    /// <see cref="Batch.HiddenRows"/>.</param>
    /// <exception cref="InvalidOperationException">No step is in flight.</exception>
    /// <exception cref="ArgumentException">A span is too short for the step's results.</exception>
    void Collect(Span<SampledToken> sampled, Span<TokenLogprob> alternatives, Span<float> hidden = default);
}
