using System.Globalization;

namespace Native.Kernels.Models;

/// <summary>A model's shape as GGUF metadata, with the names and types of llama.cpp's converter.
/// <see cref="GgufConfig"/> reads it.</summary>
internal static class GgufModelMetadata
{
    /// <param name="c">The shape, as read from a Hugging Face folder.</param>
    /// <param name="name">The model's own name.</param>
    /// <param name="parameters">Weights it has, for its label; 0 for none.</param>
    /// <param name="sampling">The makers' recommended sampling.</param>
    public static List<KeyValuePair<string, object>> Of(
        ModelConfig c, string name, long parameters, SuggestedSampling sampling)
    {
        // The same graph, under the name that llama.cpp knows.
        string architecture = c.Architecture == "mistral" ? "llama" : c.Architecture;
        List<KeyValuePair<string, object>> pairs = [];
        void Add(string key, object? value)
        {
            if (value is not null) pairs.Add(new(key, value));
        }
        void Model(string key, object value) => Add($"{architecture}.{key}", value);

        Add("general.architecture", architecture);
        Add("general.type", "model");
        Add("general.name", name);
        if (parameters > 0) Add("general.size_label", SizeLabel(parameters));
        Add("general.sampling.temp", sampling.Temperature);
        Add("general.sampling.top_k", sampling.TopK);
        Add("general.sampling.top_p", sampling.TopP);
        Add("general.sampling.min_p", sampling.MinP);
        Add("general.sampling.penalty_repeat", sampling.RepetitionPenalty);
        Model("block_count", (uint)c.LayerCount);
        Model("context_length", (uint)c.ContextLength);
        Model("embedding_length", (uint)c.HiddenSize);
        Model("feed_forward_length", (uint)c.FeedForwardSize);
        Model("attention.head_count", (uint)c.Heads);
        Model("attention.head_count_kv", (uint)c.KvHeads);
        Model("attention.key_length", (uint)c.HeadSize);
        Model("attention.value_length", (uint)c.HeadSize);
        Model("attention.layer_norm_rms_epsilon", c.NormEpsilon);
        Model("rope.dimension_count", (uint)c.Rope.Dimensions);
        Model("rope.freq_base", (float)c.Rope.Base);
        if (c.WindowRope is { } local) Model("rope.freq_base_swa", (float)local.Base);
        switch (c.Rope.Scaling)
        {
            case RopeScaling.Linear linear:
                Model("rope.scaling.type", "linear");
                Model("rope.scaling.factor", (float)linear.Factor);
                break;
            case RopeScaling.Yarn yarn:
                Model("rope.scaling.type", "yarn");
                Model("rope.scaling.factor", (float)yarn.Factor);
                Model("rope.scaling.original_context_length", (uint)yarn.OriginalLength);
                // llama.cpp multiplies this by its own logarithm.
                if (yarn.AttentionFactor is { } attention)
                    Model("rope.scaling.attn_factor",
                        (float)(attention / (yarn with { AttentionFactor = null }).Magnitude));
                if (yarn.BetaFast != 32) Model("rope.scaling.yarn_beta_fast", (float)yarn.BetaFast);
                if (yarn.BetaSlow != 1) Model("rope.scaling.yarn_beta_slow", (float)yarn.BetaSlow);
                break;
            case RopeScaling.LongRope longRope:
                Model("rope.scaling.attn_factor", (float)longRope.AttentionFactor);
                Model("rope.scaling.original_context_length", (uint)longRope.OriginalLength);
                break;
        }
        int window = c.Windows.Max();
        if (window > 0 || architecture is "gemma2" or "gemma3" or "phi3")
            Model("attention.sliding_window", (uint)window);
        // Files leave the pattern out where every sixth layer sees everything, which is the default.
        if (architecture == "gemma3" && Array.IndexOf(c.Windows, 0) is >= 0 and not 5 and var first)
            Model("attention.sliding_window_pattern", (uint)first + 1);
        if (c.AttentionSoftCap > 0) Model("attn_logit_softcapping", c.AttentionSoftCap);
        if (c.FinalSoftCap > 0) Model("final_logit_softcapping", c.FinalSoftCap);
        Add("general.quantization_version", 2u);
        return pairs;
    }

    /// <summary>Parameters in two digits and a letter: 135M, 1.2B.</summary>
    private static string SizeLabel(long parameters)
    {
        (double scaled, string letter) = parameters switch
        {
            >= 1_000_000_000 => (parameters / 1e9, "B"),
            >= 1_000_000 => (parameters / 1e6, "M"),
            _ => (parameters / 1e3, "K"),
        };
        return scaled.ToString(Math.Round(scaled) < 10 ? "0.0" : "0", CultureInfo.InvariantCulture) + letter;
    }
}
