using Native.Kernels.Sampling;

namespace Native.Kernels;

/// <summary>One block's keys and values, copied in every layer before a step computes.</summary>
/// <param name="Source">Block to copy from.</param>
/// <param name="Destination">Block to copy to.</param>
public readonly record struct BlockCopy(int Source, int Destination);

/// <summary>One step's work, flat and ragged: S sequences with T tokens in all. R rows are sampled or scored.</summary>
/// <remarks>There is no prefill or decode here, only tokens not yet computed. A decode is a sequence with one of
/// them.</remarks>
public readonly ref struct Batch
{
    /// <summary>A token id that stands for the token that this sequence's <see cref="Places">place</see> sampled
    /// last.</summary>
    /// <remarks>The id may not be known to the host yet. Only the <see cref="DecodeCount"/> leading sequences may use
    /// it.</remarks>
    public const int LastSampled = -1;

    /// <summary>Blocks to copy before anything is computed, in this order, shape [C].</summary>
    public ReadOnlySpan<BlockCopy> Copies { get; init; }

    /// <summary>Tokens to compute, sequence after sequence, shape [T]; ids, or <see cref="LastSampled"/>.</summary>
    public required ReadOnlySpan<int> TokenIds { get; init; }

    /// <summary>Position of each token in its own sequence, shape [T].</summary>
    public required ReadOnlySpan<int> Positions { get; init; }

    /// <summary>Cache slot of each token's key and value: block * block size + offset, shape [T].</summary>
    public required ReadOnlySpan<int> SlotMapping { get; init; }

    /// <summary>First row of each sequence, and T at the end, shape [S + 1].</summary>
    public required ReadOnlySpan<int> QueryStarts { get; init; }

    /// <summary>Tokens that each sequence has after this step, shape [S]. Its last row is at this minus one.</summary>
    public required ReadOnlySpan<int> ContextLengths { get; init; }

    /// <summary>How many of the first sequences decode: one row each.</summary>
    public int DecodeCount { get; init; }

    /// <summary>Each sequence's own place, 0 to <see cref="ModelInfo.MaxSequences"/> - 1, the same in all its steps,
    /// shape [S].</summary>
    /// <remarks>A device keeps a sequence's last token by place, so the host need not send it. Empty if no step uses
    /// it.</remarks>
    public ReadOnlySpan<int> Places { get; init; }

    /// <summary>Blocks of each sequence in order, one table after the other.</summary>
    public required ReadOnlySpan<int> BlockTables { get; init; }

    /// <summary>Where each sequence's table begins in <see cref="BlockTables"/>, and the end, shape [S + 1].</summary>
    /// <remarks>A table may have more blocks than the context fills; those are not read.</remarks>
    public required ReadOnlySpan<int> BlockTableStarts { get; init; }

    /// <summary>Rows of the flat batch whose next token is wanted, ascending, shape [R].</summary>
    public required ReadOnlySpan<int> SampleRows { get; init; }

    /// <summary>How each of them is sampled, shape [R].</summary>
    public required ReadOnlySpan<RowSampling> Sampling { get; init; }

    /// <summary>Earlier tokens of the rows that have penalties; see <see cref="RowSampling.HistoryStart"/>.</summary>
    public ReadOnlySpan<int> History { get; init; }

    /// <summary>Logit biases of the rows that have some; see <see cref="RowSampling.BiasStart"/>.</summary>
    public ReadOnlySpan<TokenBias> Biases { get; init; }

    /// <summary>Masks of the rows that may choose only some tokens: bits over the vocabulary, 32 tokens a
    /// word.</summary>
    /// <remarks>A set bit allows its token. See <see cref="RowSampling.MaskStart"/>.</remarks>
    public ReadOnlySpan<uint> Masks { get; init; }

    /// <summary>Rows of the flat batch whose hidden state is wanted, ascending, shape [E]: the last layer's output
    /// after the final norm.</summary>
    public ReadOnlySpan<int> HiddenRows { get; init; }

    /// <summary>Entries of the step's list of best tokens, up to the end of the last row's.</summary>
    public int AlternativeCount
    {
        get
        {
            int count = 0;
            foreach (ref readonly RowSampling row in Sampling)
                if (row.Alternatives > 0) count = Math.Max(count, row.AlternativesStart + row.Alternatives);
            return count;
        }
    }

    /// <summary>Words that a mask over <paramref name="vocabulary"/> tokens has.</summary>
    public static int MaskWords(int vocabulary) => (vocabulary + 31) / 32;
}
