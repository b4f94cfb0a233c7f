using Native.Kernels;

namespace Native.Bench.Common;

/// <summary>Describes a model that there is not: what is measured is beside it.</summary>
internal static class NoModel
{
    /// <summary>Room for so much, and no weights.</summary>
    /// <param name="name">What it is called.</param>
    /// <param name="vocabulary">Ids there are.</param>
    /// <param name="length">Tokens a sequence may have.</param>
    /// <param name="blockSize">Tokens of a block.</param>
    /// <param name="blocks">Blocks there are.</param>
    /// <param name="tokens">Tokens of a step.</param>
    /// <param name="sequences">Sequences computed together.</param>
    /// <param name="cache">Type of keys and values.</param>
    public static ModelInfo Info(
        string name, int vocabulary, int length, int blockSize, int blocks, int tokens, int sequences,
        DType cache = DType.F16) => new()
        {
            Name = name,
            Architecture = "none",
            Backend = "none",
            ParameterCount = 0,
            WeightBytes = 0,
            KvCacheBytes = 0,
            KvCacheType = cache,
            VocabularySize = vocabulary,
            MaxModelLength = length,
            BlockSize = blockSize,
            BlockCount = blocks,
            MaxBatchedTokens = tokens,
            MaxSequences = sequences,
        };
}
