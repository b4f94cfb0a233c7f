namespace Native.Kernels.Models;

/// <summary>Keys and values of all layers in blocks of a fixed number of tokens (Kwon et al. 2023, arXiv:2309.06180).</summary>
/// <remarks>Who owns which block is the scheduler's to know; here a block is a row of memory.</remarks>
public sealed class KvCache
{
    /// <summary>Elements of a head that share a scale of <see cref="DType.Q8_0"/>.</summary>
    internal const int ScaleGroup = 32;

    /// <summary>Allocates the cache on a backend.</summary>
    internal KvCache(ModelConfig config, IBackend backend, int blockCount, int blockSize, DType type)
    {
        (BlockCount, BlockSize, Type) = (blockCount, blockSize, type);
        int columns = checked(config.KvHeads * blockSize * HeadColumns(config.HeadSize, type));
        Layers = new KvLayer[config.LayerCount];
        for (int i = 0; i < Layers.Length; i++)
            Layers[i] = new KvLayer(backend.Allocate(blockCount, columns, type), backend.Allocate(blockCount, columns, type), blockSize);
    }

    /// <summary>Each layer's keys and values.</summary>
    public KvLayer[] Layers { get; }

    /// <summary>Blocks in all.</summary>
    public int BlockCount { get; }

    /// <summary>Tokens a block.</summary>
    public int BlockSize { get; }

    /// <summary>Element type.</summary>
    public DType Type { get; }

    /// <summary>Bytes of the whole cache.</summary>
    public long ByteLength => Layers.Sum(l => l.Keys.ByteLength + l.Values.ByteLength);

    /// <summary>Scales of a head.</summary>
    internal static int ScaleCount(int headSize) => (headSize + ScaleGroup - 1) / ScaleGroup;

    /// <summary>Elements of a cache's type that a head's key or value takes: as many as it has, and a scale's two bytes for each 32 of <see cref="DType.Q8_0"/>.</summary>
    public static int HeadColumns(int headSize, DType type) => type == DType.Q8_0 ? headSize + (2 * ScaleCount(headSize)) : headSize;
}
