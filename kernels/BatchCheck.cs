using Native.Kernels.Sampling;

namespace Native.Kernels;

/// <summary>Checks a batch. Native code uses its numbers as indices into memory, so each is checked here, once, for
/// every backend.</summary>
internal static class BatchCheck
{
    /// <summary>Checks every number of the batch that a kernel uses as an index.</summary>
    /// <exception cref="ArgumentException">A number is out of range. The message says which, where, and what was
    /// expected.</exception>
    public static void Check(in Batch batch, ModelInfo info)
    {
        CheckLengths(batch, info);
        CheckTokens(batch, info);
        for (int s = 0; s < batch.ContextLengths.Length; s++) CheckSequence(batch, info, s);
        foreach (BlockCopy copy in batch.Copies)
        {
            if ((uint)copy.Source >= (uint)info.BlockCount || (uint)copy.Destination >= (uint)info.BlockCount)
                throw new ArgumentException(
                    $"block {copy.Source} is copied to {copy.Destination}; there are {info.BlockCount}");
        }
        for (int i = 0; i < batch.SampleRows.Length; i++) CheckRow(batch, info, i);
        foreach (int row in batch.HiddenRows)
            if ((uint)row >= (uint)batch.TokenIds.Length)
                throw new ArgumentException($"hidden row {row} is not in the batch of {batch.TokenIds.Length}");
        foreach (TokenBias bias in batch.Biases)
        {
            if ((uint)bias.Token >= (uint)info.VocabularySize)
                throw new ArgumentException(
                    $"bias of token {bias.Token}, which is not in the vocabulary of {info.VocabularySize}");
        }
        foreach (int id in batch.History)
        {
            if ((uint)id >= (uint)info.VocabularySize)
                throw new ArgumentException(
                    $"token {id} in a history is not in the vocabulary of {info.VocabularySize}");
        }
    }

    private static void CheckLengths(in Batch batch, ModelInfo info)
    {
        int tokens = batch.TokenIds.Length, sequences = batch.ContextLengths.Length, rows = batch.SampleRows.Length;
        if (tokens < 1 || tokens > info.MaxBatchedTokens)
            throw new ArgumentException($"the batch has {tokens} tokens, expected 1 to {info.MaxBatchedTokens}");
        if (sequences < 1 || sequences > info.MaxSequences)
            throw new ArgumentException($"the batch has {sequences} sequences, expected 1 to {info.MaxSequences}");
        if (batch.Positions.Length != tokens || batch.SlotMapping.Length != tokens)
            throw new ArgumentException(
                $"{tokens} tokens have {batch.Positions.Length} positions and {batch.SlotMapping.Length} slots");
        if (batch.QueryStarts.Length != sequences + 1 || batch.QueryStarts[0] != 0
            || batch.QueryStarts[sequences] != tokens)
            throw new ArgumentException($"the query starts don't lead from 0 to {tokens} in {sequences} steps");
        if (batch.BlockTableStarts.Length != sequences + 1 || batch.BlockTableStarts[0] != 0
            || batch.BlockTableStarts[sequences] != batch.BlockTables.Length)
            throw new ArgumentException(
                $"the starts of {sequences} block tables don't lead from 0 to {batch.BlockTables.Length}");
        if (batch.Sampling.Length != rows)
            throw new ArgumentException($"{rows} rows are sampled, {batch.Sampling.Length} have parameters");
        if (!batch.Places.IsEmpty && batch.Places.Length != sequences)
            throw new ArgumentException($"{batch.Places.Length} places for {sequences} sequences");
        foreach (int place in batch.Places)
            if ((uint)place >= (uint)info.MaxSequences)
                throw new ArgumentException($"place {place} is not in 0 to {info.MaxSequences - 1}");
        if ((uint)batch.DecodeCount > (uint)sequences)
            throw new ArgumentException($"{batch.DecodeCount} sequences decode, the batch has {sequences}");
    }

    private static void CheckTokens(in Batch batch, ModelInfo info)
    {
        int vocabulary = info.VocabularySize;
        for (int t = 0; t < batch.TokenIds.Length; t++)
        {
            int id = batch.TokenIds[t];
            if ((uint)id < (uint)vocabulary) continue;
            if (id != Batch.LastSampled)
                throw new ArgumentException($"token {id} is not in the vocabulary of {vocabulary}");
            if (t >= batch.DecodeCount || batch.Places.IsEmpty)
                throw new ArgumentException(
                    $"row {t} computes the token sampled last, but only {batch.DecodeCount} decodes with places may");
        }
        foreach (int slot in batch.SlotMapping)
        {
            if ((uint)slot >= (uint)info.BlockCount * (uint)info.BlockSize)
                throw new ArgumentException($"slot {slot} is not in the cache of {info.BlockCount} blocks");
        }
    }

    private static void CheckSequence(in Batch batch, ModelInfo info, int s)
    {
        int start = batch.QueryStarts[s], end = batch.QueryStarts[s + 1], context = batch.ContextLengths[s];
        int blocks = (context + info.BlockSize - 1) / info.BlockSize;
        if (start >= end || end > batch.TokenIds.Length || context < end - start || context > info.MaxModelLength)
            throw new ArgumentException($"sequence {s} has rows {start} to {end} and a context of {context}");
        int table = batch.BlockTableStarts[s], tableEnd = batch.BlockTableStarts[s + 1];
        if (table < 0 || tableEnd > batch.BlockTables.Length || (long)tableEnd - table < blocks)
            throw new ArgumentException($"sequence {s} has the blocks from {table} to {tableEnd} of "
                + $"{batch.BlockTables.Length}, expected {blocks}");
        if (s < batch.DecodeCount && end - start != 1)
            throw new ArgumentException($"sequence {s} decodes, but has {end - start} rows");
        for (int t = start; t < end; t++)
        {
            if (batch.Positions[t] != context - (end - t))
                throw new ArgumentException(
                    $"row {t} is at position {batch.Positions[t]}, expected {context - (end - t)}");
        }
        foreach (int block in batch.BlockTables.Slice(table, blocks))
            if ((uint)block >= (uint)info.BlockCount)
                throw new ArgumentException($"sequence {s} names block {block} of {info.BlockCount}");
    }

    private static void CheckRow(in Batch batch, ModelInfo info, int i)
    {
        if ((uint)batch.SampleRows[i] >= (uint)batch.TokenIds.Length)
            throw new ArgumentException(
                $"sample row {batch.SampleRows[i]} is not in the batch of {batch.TokenIds.Length}");
        ref readonly RowSampling s = ref batch.Sampling[i];
        if (s.TargetPlusOne < 0 || s.Target >= info.VocabularySize)
            throw new ArgumentException(
                $"row {i} scores token {s.Target}, which is not in the vocabulary of {info.VocabularySize}");
        if (s.HistoryPrompt < 0 || s.HistoryPrompt > s.HistoryLength)
            throw new ArgumentException(
                $"row {i} has a history of {s.HistoryLength} tokens, {s.HistoryPrompt} of them the prompt's");
        Within(s.AlternativesStart, s.Alternatives, int.MaxValue, "alternatives", i);
        Within(s.HistoryStart, s.HistoryLength, batch.History.Length, "history", i);
        Within(s.BiasStart, s.BiasLength, batch.Biases.Length, "biases", i);
        if (s.Masked) Within(s.MaskStart, Batch.MaskWords(info.VocabularySize), batch.Masks.Length, "masks", i);
    }

    private static void Within(int start, int length, int limit, string what, int row)
    {
        if (start < 0 || length < 0 || (length > 0 && (long)start + length > limit))
            throw new ArgumentException($"row {row}: {what} {start} to {(long)start + length} of {limit}");
    }
}
