using Native.Kernels.Sampling;

namespace Native.Kernels;

/// <summary>One step's work, flat and ragged: S sequences with T tokens in all, R of whose rows are sampled or scored.</summary>
/// <remarks>There is no prefill or decode in here, only tokens not yet computed; a decode is a sequence with one of them.</remarks>
public readonly ref struct Batch
{
    /// <summary>Tokens to compute, sequence after sequence, shape [T].</summary>
    public required ReadOnlySpan<int> TokenIds { get; init; }

    /// <summary>Position of each token in its own sequence, shape [T].</summary>
    public required ReadOnlySpan<int> Positions { get; init; }

    /// <summary>Where each token's key and value go: block * block size + offset, shape [T].</summary>
    public required ReadOnlySpan<int> SlotMapping { get; init; }

    /// <summary>First row of each sequence, and T at the end, shape [S + 1].</summary>
    public required ReadOnlySpan<int> QueryStarts { get; init; }

    /// <summary>Tokens of each sequence that exist after this step, shape [S]; its last row is at this minus one.</summary>
    public required ReadOnlySpan<int> ContextLengths { get; init; }

    /// <summary>Blocks of each sequence in order, shape [S, <see cref="BlockTableStride"/>]; entries past a sequence's length are not read.</summary>
    public required ReadOnlySpan<int> BlockTables { get; init; }

    /// <summary>Entries a row of <see cref="BlockTables"/> has.</summary>
    public required int BlockTableStride { get; init; }

    /// <summary>Rows of the flat batch whose next token is wanted, ascending, shape [R].</summary>
    public required ReadOnlySpan<int> SampleRows { get; init; }

    /// <summary>How each of them is sampled, shape [R].</summary>
    public required ReadOnlySpan<RowSampling> Sampling { get; init; }

    /// <summary>Earlier tokens of the rows that have penalties; see <see cref="RowSampling.HistoryStart"/>.</summary>
    public ReadOnlySpan<int> History { get; init; }

    /// <summary>Logit biases of the rows that have some; see <see cref="RowSampling.BiasStart"/>.</summary>
    public ReadOnlySpan<TokenBias> Biases { get; init; }
}
