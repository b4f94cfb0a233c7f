using Native.Kernels.Formats;

namespace Native.Kernels.Files;

/// <summary>Bytes that tensors take in a file. Beside the weight formats there are plain number types, which files may
/// hold and nothing computes with.</summary>
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

    /// <summary>The same including unsupported types, with ggml's block sizes, so that a file of them can be
    /// described.</summary>
    public static bool TryDescribe(TensorType type, out int blockSize, out int blockBytes)
    {
        if (TryGet(type, out blockSize, out blockBytes)) return true;
        (blockSize, blockBytes) = type switch
        {
            TensorType.Q8_1 => (32, 36),
            TensorType.MXFP4 => (32, 17),
            TensorType.IQ1_S => (256, 50),
            TensorType.TQ1_0 => (256, 54),
            TensorType.IQ1_M => (256, 56),
            TensorType.IQ2_XXS or TensorType.TQ2_0 => (256, 66),
            TensorType.IQ2_XS => (256, 74),
            TensorType.IQ2_S => (256, 82),
            TensorType.IQ3_XXS => (256, 98),
            TensorType.IQ3_S => (256, 110),
            TensorType.Q8_K => (256, 292),
            _ => (1, 0),
        };
        return blockBytes > 0;
    }
}
