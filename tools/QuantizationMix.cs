using Native.Kernels.Formats;
using Native.Kernels.Models;

namespace Native.Tools;

/// <summary>Which type each tensor gets: a base type and llama.cpp's exceptions from it, without those that need an importance matrix or belong to experts.</summary>
/// <param name="Name">As it is typed.</param>
/// <param name="Type">What most matrices get.</param>
/// <param name="FileType">general.file_type, llama.cpp's number.</param>
internal sealed record QuantizationMix(string Name, TensorType Type, uint FileType)
{
    public static readonly QuantizationMix[] All =
    [
        new("F32", TensorType.F32, 0), new("F16", TensorType.F16, 1), new("BF16", TensorType.BF16, 32),
        new("Q8_0", TensorType.Q8_0, 7), new("Q4_0", TensorType.Q4_0, 2), new("Q4_1", TensorType.Q4_1, 3), new("Q5_0", TensorType.Q5_0, 8), new("Q5_1", TensorType.Q5_1, 9),
        new("Q2_K", TensorType.Q2_K, 10), new("Q3_K", TensorType.Q3_K, 11), new("Q4_K", TensorType.Q4_K, 14), new("Q5_K", TensorType.Q5_K, 16), new("Q6_K", TensorType.Q6_K, 18),
        new("Q4_K_S", TensorType.Q4_K, 14), new("Q4_K_M", TensorType.Q4_K, 15), new("Q5_K_S", TensorType.Q5_K, 16), new("Q5_K_M", TensorType.Q5_K, 17),
    ];

    /// <summary>The type a tensor gets; what it was meant to get, where its rows are no whole blocks of that.</summary>
    /// <param name="name">Its GGUF name.</param>
    /// <param name="columns">Values in a row.</param>
    /// <param name="isMatrix">Vectors stay F32.</param>
    /// <param name="layers">The model's.</param>
    /// <param name="tied">Whether the embedding is the head too.</param>
    public (TensorType Type, TensorType? Meant) Of(string name, long columns, bool isMatrix, int layers, bool tied)
    {
        // Norms, biases and rope factors: few, and read by value.
        if (!isMatrix || !name.EndsWith(".weight", StringComparison.Ordinal) || name.Contains("_norm", StringComparison.Ordinal)) return (TensorType.F32, null);
        TensorType meant = Meant(name, layers, tied);
        TensorType type = meant;
        if (columns % BlockFormat.Of(type).BlockSize != 0)
        {
            type = type switch
            {
                TensorType.Q2_K or TensorType.Q3_K => TensorType.Q4_0,
                TensorType.Q4_K => TensorType.Q5_0,
                TensorType.Q5_K => TensorType.Q5_1,
                TensorType.Q6_K => TensorType.Q8_0,
                _ => TensorType.F16,
            };
            if (columns % BlockFormat.Of(type).BlockSize != 0) type = TensorType.F16;
        }
        return type == meant ? (type, null) : (type, meant);
    }

    private TensorType Meant(string name, int layers, bool tied)
    {
        if (Type is TensorType.F32 or TensorType.F16 or TensorType.BF16 or TensorType.Q8_0) return Type;
        if (name == "output.weight" || (tied && name == "token_embd.weight")) return TensorType.Q6_K;
        string[] parts = name.Split('.');
        if (parts.Length != 4 || parts[0] != "blk" || !int.TryParse(parts[1], out int layer)) return Type;
        // The first and the last eighth of the layers, and every third between them.
        bool moreBits = layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
        return (Name, parts[2]) switch
        {
            ("Q4_K_M" or "Q5_K_M", "attn_v" or "ffn_down") when moreBits => TensorType.Q6_K,
            ("Q4_K_M", "attn_qkv") => TensorType.Q5_K,
            ("Q5_K_M", "attn_qkv") => TensorType.Q6_K,
            ("Q4_K_S", "attn_v") when layer < 4 => TensorType.Q5_K,
            ("Q4_K_S", "ffn_down") when layer < layers / 8 => TensorType.Q5_K,
            _ => Type,
        };
    }
}
