using Native.Kernels.Files;
using Native.Kernels.Formats;

namespace Native.Tools;

/// <summary>What of a model decides its tensors' types.</summary>
/// <param name="Architecture">The family, as GGUF names it.</param>
/// <param name="Layers">How many there are.</param>
/// <param name="HeadsPerKvHead">Query heads that share keys and values.</param>
/// <param name="Tied">Whether the embedding is the head too.</param>
internal readonly record struct MixModel(string Architecture, int Layers, int HeadsPerKvHead, bool Tied)
{
    /// <summary>What llama.cpp calls 70B: eight heads share the values' projection, so its bits are cheap.</summary>
    public bool Is70B => Layers == 80 && Architecture is ("llama" or "qwen2");

    /// <summary>By a GGUF file's metadata.</summary>
    public static MixModel Of(GgufFile file)
    {
        string a = file.Architecture;
        int heads = file.GetInt32OrDefault($"{a}.attention.head_count", 1),
            shared = file.GetInt32OrDefault($"{a}.attention.head_count_kv", heads);
        return new MixModel(a, file.GetInt32OrDefault($"{a}.block_count", 0), shared > 0 ? heads / shared : 1,
            !file.Tensors.ContainsKey("output.weight"));
    }
}

/// <summary>Which type each tensor gets: a base type and llama.cpp's exceptions from it (llama-quant.cpp), without
/// those that need an importance matrix or belong to experts. A type's own name (Q4_K) is that type everywhere but in
/// the head; the letters S, M and L are llama.cpp's mixes, as is Q2_K.</summary>
/// <param name="Name">As it is typed.</param>
/// <param name="Type">What most matrices get.</param>
/// <param name="FileType">general.file_type, llama.cpp's number.</param>
internal sealed record QuantizationMix(string Name, TensorType Type, uint FileType)
{
    public static readonly QuantizationMix[] All =
    [
        new("F32", TensorType.F32, 0), new("F16", TensorType.F16, 1), new("BF16", TensorType.BF16, 32),
        new("Q8_0", TensorType.Q8_0, 7), new("Q4_0", TensorType.Q4_0, 2), new("Q4_1", TensorType.Q4_1, 3),
        new("Q5_0", TensorType.Q5_0, 8), new("Q5_1", TensorType.Q5_1, 9),
        new("Q2_K", TensorType.Q2_K, 10), new("Q3_K", TensorType.Q3_K, 11), new("Q4_K", TensorType.Q4_K, 14),
        new("Q5_K", TensorType.Q5_K, 16), new("Q6_K", TensorType.Q6_K, 18),
        new("Q2_K_S", TensorType.Q2_K, 21), new("Q3_K_S", TensorType.Q3_K, 11), new("Q3_K_M", TensorType.Q3_K, 12),
        new("Q3_K_L", TensorType.Q3_K, 13),
        new("Q4_K_S", TensorType.Q4_K, 14), new("Q4_K_M", TensorType.Q4_K, 15), new("Q5_K_S", TensorType.Q5_K, 16),
        new("Q5_K_M", TensorType.Q5_K, 17),
    ];

    /// <summary>The type a tensor gets; what it was meant to get, where its rows are no whole blocks of that.</summary>
    /// <param name="name">Its GGUF name.</param>
    /// <param name="columns">Values in a row.</param>
    /// <param name="isMatrix">Vectors stay F32.</param>
    /// <param name="model">What it belongs to.</param>
    public (TensorType Type, TensorType? Meant) Of(string name, long columns, bool isMatrix, MixModel model)
    {
        // Norms, biases and rope factors: few, and read by value.
        if (!isMatrix || !name.EndsWith(".weight", StringComparison.Ordinal)
            || name.Contains("_norm", StringComparison.Ordinal)) return (TensorType.F32, null);
        TensorType meant = Meant(name, model);
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

    private TensorType Meant(string name, MixModel model)
    {
        if (Type is TensorType.F32 or TensorType.F16 or TensorType.BF16 or TensorType.Q8_0) return Type;
        if (name == "output.weight" || (model.Tied && name == "token_embd.weight")) return TensorType.Q6_K;
        string[] parts = name.Split('.');
        if (parts.Length != 4 || parts[0] != "blk" || !int.TryParse(parts[1], out int layer)) return Type;
        return parts[2] switch
        {
            "attn_v" or "attn_qkv" => OfValues(layer, model),
            "ffn_down" => OfDown(layer, model.Layers),
            "attn_output" => Name switch
            {
                "Q2_K" => TensorType.Q3_K,
                "Q3_K_M" => TensorType.Q4_K,
                "Q3_K_L" => TensorType.Q5_K,
                _ => Type,
            },
            _ => Type,
        };
    }

    private TensorType OfValues(int layer, MixModel model)
    {
        TensorType type = Name switch
        {
            "Q2_K" => model.HeadsPerKvHead >= 4 ? TensorType.Q4_K : TensorType.Q3_K,
            "Q2_K_S" when model.HeadsPerKvHead >= 4 => TensorType.Q4_K,
            "Q3_K_M" => layer < 2 ? TensorType.Q5_K : TensorType.Q4_K,
            "Q3_K_L" => TensorType.Q5_K,
            "Q4_K_M" or "Q5_K_M" when HasMoreBits(layer, model.Layers) => TensorType.Q6_K,
            "Q4_K_S" when layer < 4 => TensorType.Q5_K,
            _ => Type,
        };
        return model.Is70B && type is (TensorType.Q3_K or TensorType.Q4_K) ? TensorType.Q5_K : type;
    }

    private TensorType OfDown(int layer, int layers) => Name switch
    {
        "Q2_K" => TensorType.Q3_K,
        "Q2_K_S" when layer < layers / 8 => TensorType.Q4_K,
        "Q3_K_M" => layer < layers / 16 ? TensorType.Q5_K : TensorType.Q4_K,
        "Q3_K_L" => TensorType.Q5_K,
        "Q4_K_M" or "Q5_K_M" when HasMoreBits(layer, layers) => TensorType.Q6_K,
        "Q4_K_S" when layer < layers / 8 => TensorType.Q5_K,
        _ => Type,
    };

    /// <summary>The first and the last eighth of the layers, and every third between them.</summary>
    private static bool HasMoreBits(int layer, int layers) =>
        layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}
