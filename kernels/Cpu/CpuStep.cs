using System.Runtime.InteropServices;

namespace Native.Kernels.Cpu;

/// <summary>One step's indices in native memory, where any worker may read them, and what the kernels derive from them once a step.</summary>
/// <remarks>
/// The backend's <c>Begin</c> calls <see cref="Load"/>, then fills every rope table's rows with <see cref="StepRotations.Compute"/>.
/// Memory grows to the largest batch seen and is reused, so a step no larger than an earlier one allocates nothing.
/// </remarks>
internal sealed unsafe class CpuStep : IDisposable
{
    /// <summary>Rows of one <see cref="QueryTile"/> at most: enough to spread the conversion of a key tile over, few enough for the second cache level.</summary>
    public const int QueryTileRows = 8;

    private byte* _memory;
    private nuint _bytes;

    /// <summary>Rows of the step, T.</summary>
    public int Tokens { get; private set; }

    /// <summary>Sequences of the step, S.</summary>
    public int Sequences { get; private set; }

    /// <summary>Entries of a row of <see cref="BlockTables"/>.</summary>
    public int BlockTableStride { get; private set; }

    /// <summary>Shape [T].</summary>
    public int* TokenIds { get; private set; }

    /// <summary>Shape [T].</summary>
    public int* Positions { get; private set; }

    /// <summary>Shape [T].</summary>
    public int* SlotMapping { get; private set; }

    /// <summary>Shape [S + 1].</summary>
    public int* QueryStarts { get; private set; }

    /// <summary>Shape [S].</summary>
    public int* ContextLengths { get; private set; }

    /// <summary>Shape [S, stride].</summary>
    public int* BlockTables { get; private set; }

    /// <summary>Runs of rows of one sequence that attention computes together, shape [<see cref="QueryTileCount"/>].</summary>
    public QueryTile* QueryTiles { get; private set; }

    /// <summary>Number of query tiles; at most T.</summary>
    public int QueryTileCount { get; private set; }

    /// <summary>Copies the batch and cuts its rows into query tiles.</summary>
    public void Load(in Batch batch)
    {
        int tokens = batch.TokenIds.Length, sequences = batch.ContextLengths.Length;
        long ints = (3L * tokens) + (2L * sequences) + 1 + batch.BlockTables.Length;
        Reserve((nuint)((ints * sizeof(int)) + ((long)tokens * sizeof(QueryTile))));

        (Tokens, Sequences, BlockTableStride) = (tokens, sequences, batch.BlockTableStride);
        int* next = (int*)_memory;
        TokenIds = Copy(batch.TokenIds, ref next);
        Positions = Copy(batch.Positions, ref next);
        SlotMapping = Copy(batch.SlotMapping, ref next);
        QueryStarts = Copy(batch.QueryStarts, ref next);
        ContextLengths = Copy(batch.ContextLengths, ref next);
        BlockTables = Copy(batch.BlockTables, ref next);
        QueryTiles = (QueryTile*)next;

        int tiles = 0;
        for (int s = 0; s < sequences; s++)
        {
            int end = QueryStarts[s + 1];
            for (int row = QueryStarts[s]; row < end; row += QueryTileRows)
                QueryTiles[tiles++] = new QueryTile(s, row, Math.Min(QueryTileRows, end - row));
        }
        QueryTileCount = tiles;
    }

    /// <summary>Frees the native memory.</summary>
    public void Dispose()
    {
        NativeMemory.AlignedFree(_memory);
        _memory = null;
        _bytes = 0;
        (Tokens, Sequences, QueryTileCount) = (0, 0, 0);
    }

    private static int* Copy(ReadOnlySpan<int> source, ref int* next)
    {
        int* start = next;
        source.CopyTo(new Span<int>(start, source.Length));
        next += source.Length;
        return start;
    }

    private void Reserve(nuint bytes)
    {
        if (bytes <= _bytes) return;
        NativeMemory.AlignedFree(_memory);
        _memory = null; // should the next line throw
        _bytes = 0;
        _memory = (byte*)NativeMemory.AlignedAlloc(bytes + (bytes / 2), 64);
        _bytes = bytes + (bytes / 2);
    }
}

/// <summary>Consecutive rows of one sequence.</summary>
/// <param name="Sequence">Index of the sequence.</param>
/// <param name="FirstRow">First row in the flat batch.</param>
/// <param name="Rows">1 to <see cref="CpuStep.QueryTileRows"/>.</param>
internal readonly record struct QueryTile(int Sequence, int FirstRow, int Rows);
