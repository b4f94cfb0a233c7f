using Native.Kernels.Formats;

namespace Native.Kernels.Models;

/// <summary>How many bytes tensors take in a file: the weight formats', and the plain numbers', which files may list beside the weights and nothing computes with.</summary>
internal static class TensorLayout
{
    public static bool TryGet(TensorType type, out int blockSize, out int blockBytes)
    {
        if (BlockFormat.TryGet(type, out BlockFormat? format))
        {
            (blockSize, blockBytes) = (format.BlockSize, format.BlockBytes);
            return true;
        }
        blockSize = 1;
        blockBytes = type switch
        {
            TensorType.I8 => 1,
            TensorType.I16 => 2,
            TensorType.I32 => 4,
            TensorType.I64 or TensorType.F64 => 8,
            _ => 0,
        };
        return blockBytes > 0;
    }
}
