using Native.Kernels.Models;

namespace Native.Kernels;

/// <summary>Keys and values of all layers in blocks of a fixed number of tokens (Kwon et al. 2023, arXiv:2309.06180).</summary>
/// <remarks>Who owns which block is the scheduler's to know; here a block is a row of memory.</remarks>
public sealed class KvCache
{
    /// <summary>Allocates the cache on a backend.</summary>
    internal KvCache(ModelConfig config, IBackend backend, int blockCount, int blockSize, DType type)
    {
        (BlockCount, BlockSize, Type) = (blockCount, blockSize, type);
        int columns = checked(config.KvHeads * blockSize * config.HeadSize);
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
}
