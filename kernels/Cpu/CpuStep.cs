using System.Runtime.InteropServices;

namespace Native.Kernels.Cpu;

/// <summary>One step's indices in native memory, where any worker may read them, and what the kernels derive from them
/// once a step.</summary>
/// <remarks>
/// The backend's <c>Begin</c> calls <see cref="Load"/>, then fills every rope table's rows with
/// <see cref="StepRotations.Compute"/>. Memory grows to the largest batch seen and is reused, so a step no larger than
/// an earlier one allocates nothing.
/// </remarks>
internal sealed unsafe class CpuStep : IDisposable
{
    /// <summary>Rows of one <see cref="QueryTile"/> of a long chunk: enough to share the cost of converting a key tile,
    /// few enough for the L2 cache.</summary>
    public const int QueryTileRows = 32;

    /// <summary>Rows of one <see cref="QueryTile"/> of a chunk below <see cref="LongChunk"/>: fewer, so that there are
    /// enough tiles for all workers.</summary>
    public const int ShortQueryTileRows = 8;

    /// <summary>Rows from which a chunk is long.</summary>
    public const int LongChunk = 128;

    private byte* _memory;
    private nuint _bytes;

    /// <summary>Rows of the step, T.</summary>
    public int Tokens { get; private set; }

    /// <summary>Sequences of the step, S.</summary>
    public int Sequences { get; private set; }

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

    /// <summary>One table after the other.</summary>
    public int* BlockTables { get; private set; }

    /// <summary>Shape [S + 1].</summary>
    public int* BlockTableStarts { get; private set; }

    /// <summary>Runs of rows of one sequence that attention computes together, shape [<see cref="QueryTileCount"/>].
    /// The most expensive come first.</summary>
    public QueryTile* QueryTiles { get; private set; }

    /// <summary>Number of query tiles; at most T.</summary>
    public int QueryTileCount { get; private set; }

    /// <summary>Whether no sequence has more than one query tile.</summary>
    public bool TilesAreSequences { get; private set; }

    /// <summary>Positions that the rows see, added up over rows. Windows are ignored.</summary>
    public long VisiblePositions { get; private set; }

    /// <summary>Copies the batch and cuts its rows into query tiles.</summary>
    public void Load(in Batch batch)
    {
        int tokens = batch.TokenIds.Length, sequences = batch.ContextLengths.Length;
        long ints = (3L * tokens) + (3L * sequences) + 2 + batch.BlockTables.Length;
        Reserve((nuint)((ints * sizeof(int)) + ((long)(tokens + 1) * sizeof(QueryTile))));

        (Tokens, Sequences) = (tokens, sequences);
        int* next = (int*)_memory;
        TokenIds = Copy(batch.TokenIds, ref next);
        Positions = Copy(batch.Positions, ref next);
        SlotMapping = Copy(batch.SlotMapping, ref next);
        QueryStarts = Copy(batch.QueryStarts, ref next);
        ContextLengths = Copy(batch.ContextLengths, ref next);
        BlockTables = Copy(batch.BlockTables, ref next);
        BlockTableStarts = Copy(batch.BlockTableStarts, ref next);
        QueryTiles = (QueryTile*)(((nint)next + sizeof(long) - 1) & ~(nint)(sizeof(long) - 1));

        (TilesAreSequences, VisiblePositions) = (true, 0);
        int tiles = 0;
        for (int s = 0; s < sequences; s++)
        {
            int start = QueryStarts[s], end = QueryStarts[s + 1],
                most = end - start < LongChunk ? ShortQueryTileRows : QueryTileRows;
            TilesAreSequences &= end - start <= most;
            for (int row = start; row < end; row += most)
            {
                int rows = Math.Min(most, end - row);
                long visible = 0;
                for (int r = row; r < row + rows; r++) visible += Positions[r] + 1;
                QueryTiles[tiles++] = new QueryTile(s, row, rows, visible);
                VisiblePositions += visible;
            }
        }
        new Span<QueryTile>(QueryTiles, tiles).Sort();
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
        _memory = null; // in case the next line throws
        _bytes = 0;
        _memory = (byte*)NativeMemory.AlignedAlloc(bytes + (bytes / 2), 64);
        _bytes = bytes + (bytes / 2);
    }
}

/// <summary>Consecutive rows of one sequence.</summary>
/// <param name="Sequence">Index of the sequence.</param>
/// <param name="FirstRow">First row in the flat batch.</param>
/// <param name="Rows">1 to <see cref="CpuStep.QueryTileRows"/>.</param>
/// <param name="VisiblePositions">Positions that the rows see, added up: what the tile costs.</param>
internal readonly record struct QueryTile(int Sequence, int FirstRow, int Rows, long VisiblePositions)
    : IComparable<QueryTile>
{
    /// <summary>The most expensive first.</summary>
    public int CompareTo(QueryTile other) =>
        VisiblePositions != other.VisiblePositions
            ? other.VisiblePositions.CompareTo(VisiblePositions) : FirstRow.CompareTo(other.FirstRow);
}
