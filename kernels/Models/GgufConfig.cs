using Native.Kernels.Files;
using Native.Kernels.Formats;

namespace Native.Kernels.Models;

/// <summary>Reads a <see cref="ModelConfig"/> from GGUF metadata (keys of the GGUF specification and llama.cpp's
/// converter).</summary>
internal static class GgufConfig
{
    public static ModelConfig Read(GgufFile file)
    {
        string a = file.Architecture;
        if (!ModelConfig.Supported.Contains(a)) throw ModelConfig.Unknown(file.Path, a);

        int Int(string key, int? otherwise = null) =>
            otherwise is { } d && !file.Has($"{a}.{key}") ? d : file.GetInt32($"{a}.{key}");
        float Single(string key, float otherwise) => file.GetSingleOrDefault($"{a}.{key}", otherwise);

        int hidden = Int("embedding_length");
        int heads = Int("attention.head_count");
        int layers = Int("block_count");
        int headSize = Int("attention.key_length", heads > 0 ? hidden / heads : 0);
        if (Int("attention.value_length", headSize) is var valueSize && valueSize != headSize)
            throw new NotSupportedException(
                $"{file.Path}: value heads of {valueSize} elements beside key heads of {headSize} are not supported");
        if (Int("expert_count", 0) is > 0 and var experts)
            throw new NotSupportedException($"{file.Path}: a mixture of {experts} experts is not supported");
        int window = Int("attention.sliding_window", 0);

        var config = new ModelConfig
        {
            Architecture = a,
            Name = file.GetStringOrDefault("general.name") ?? System.IO.Path.GetFileNameWithoutExtension(file.Path),
            ContextLength = Int("context_length"),
            HiddenSize = hidden,
            LayerCount = layers,
            FeedForwardSize = Int("feed_forward_length"),
            Heads = heads,
            KvHeads = Int("attention.head_count_kv", heads),
            HeadSize = headSize,
            NormEpsilon = file.GetSingle($"{a}.attention.layer_norm_rms_epsilon"),
            // For these families llama.cpp's converter permutes the rows of q and k, so that pairs are adjacent.
            RopePairing = a is "llama" or "mistral" ? RopePairing.Interleaved : RopePairing.HalfSplit,
            Rope = new RopeTable(Int("rope.dimension_count", headSize), Single("rope.freq_base", 10000),
                Scaling(file, a)),
            Windows = new int[Math.Clamp(layers, 0, 1024)],
            AttentionScale = (float)(1 / Math.Sqrt(headSize)),
        };
        switch (a)
        {
            case "gemma2":
                Every(config.Windows, window, i => i % 2 == 0);
                break;
            case "gemma3":
                int pattern = Int("attention.sliding_window_pattern", 6);
                if (pattern < 1)
                    throw new InvalidDataException(
                        $"{file.Path}: {a}.attention.sliding_window_pattern is {pattern}, expected at least 1");
                Every(config.Windows, window, i => (i + 1) % pattern != 0);
                // Local layers were trained on short contexts: they have their own base and are never scaled.
                RopeTable local = config.Rope with { Base = Single("rope.freq_base_swa", 10000), Scaling = null };
                config = config with { WindowRope = local };
                break;
            default:
                Every(config.Windows, window, _ => true);
                break;
        }
        if (a is "gemma2" or "gemma3") config = Gemma(config, file);
        return config.Checked(file.Path);
    }

    private static ModelConfig Gemma(ModelConfig config, GgufFile file)
    {
        string a = config.Architecture;
        // The two 27B models divide by hidden/heads, not by the head size. The file does not say so; llama.cpp too goes
        // by the number of layers.
        bool scaledByWidth = (a, config.LayerCount) is ("gemma2", 46) or ("gemma3", 62);
        int divisor = scaledByWidth && config.Heads > 0 ? config.HiddenSize / config.Heads : config.HeadSize;
        return config with
        {
            EmbeddingScale = MathF.Sqrt(config.HiddenSize),
            Activation = Activation.GeluTanh,
            PostNorms = true,
            AttentionScale = (float)(1 / Math.Sqrt(divisor)),
            AttentionSoftCap = a == "gemma2" ? file.GetSingleOrDefault($"{a}.attn_logit_softcapping", 50) : 0,
            FinalSoftCap = file.GetSingleOrDefault($"{a}.final_logit_softcapping", a == "gemma2" ? 30 : 0),
        };
    }

    private static void Every(int[] windows, int window, Func<int, bool> where)
    {
        for (int i = 0; i < windows.Length; i++) windows[i] = where(i) ? window : 0;
    }

    private static RopeScaling? Scaling(GgufFile file, string a)
    {
        if (file.Tensors.TryGetValue("rope_freqs.weight", out TensorView factors))
            return new RopeScaling.PerPair(ModelFile.Decode(factors));

        string type = file.GetStringOrDefault($"{a}.rope.scaling.type", "none")!;
        double factor = file.Has($"{a}.rope.scaling.factor") ? file.GetSingle($"{a}.rope.scaling.factor")
            : file.Has($"{a}.rope.scale_linear") ? file.GetSingle($"{a}.rope.scale_linear") : 1;
        if (!(factor > 0) || !double.IsFinite(factor))
            throw new InvalidDataException(
                $"{file.Path}: {a}.rope.scaling.factor is {factor}, expected a positive number");
        int original = file.Has($"{a}.rope.scaling.original_context_length")
            ? file.GetInt32($"{a}.rope.scaling.original_context_length") : file.GetInt32($"{a}.context_length");
        double? attention = file.Has($"{a}.rope.scaling.attn_factor")
            ? file.GetSingle($"{a}.rope.scaling.attn_factor") : null;

        if (file.Tensors.TryGetValue("rope_factors_short.weight", out TensorView shorter)
            && file.Tensors.TryGetValue("rope_factors_long.weight", out TensorView longer))
            return new RopeScaling.LongRope(ModelFile.Decode(shorter), ModelFile.Decode(longer), original,
                attention ?? 1);
        return type switch
        {
            "none" when factor == 1 => null,
            // Old converters wrote only a factor, which means linear scaling.
            "none" or "linear" => new RopeScaling.Linear(factor),
            "yarn" => new RopeScaling.Yarn(factor, file.GetSingleOrDefault($"{a}.rope.scaling.yarn_beta_fast", 32),
            file.GetSingleOrDefault($"{a}.rope.scaling.yarn_beta_slow", 1), original,
            file.Has($"{a}.rope.freq_base") ? file.GetSingle($"{a}.rope.freq_base") : 10000,
                (attention ?? 1) * (factor <= 1 ? 1 : 0.1 * Math.Log(factor) + 1)),
            _ => throw new NotSupportedException(
                $"{file.Path}: rope scaling '{type}' is not supported; supported are none, linear, yarn, and factors "
                + "given as tensors"),
        };
    }
}
