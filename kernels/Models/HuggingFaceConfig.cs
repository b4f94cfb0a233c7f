using System.Text.Json;
using Native.Kernels.Files;

namespace Native.Kernels.Models;

/// <summary>Reads a <see cref="ModelConfig"/> from a Hugging Face <c>config.json</c>, in the form of transformers 5
/// (<c>rope_parameters</c>) and in the older one (<c>rope_theta</c>, <c>rope_scaling</c>).</summary>
internal sealed class HuggingFaceConfig
{
    private readonly string _path;
    private readonly JsonElement _root;

    private HuggingFaceConfig(string path, JsonElement root) => (_path, _root) = (path, root);

    /// <exception cref="InvalidDataException">Not JSON, or a field is missing or of the wrong kind.</exception>
    /// <exception cref="NotSupportedException">A family or a setting that isn't supported.</exception>
    public static ModelConfig Read(string path)
    {
        try
        {
            using JsonDocument document = JsonDocument.Parse(JsonFile.Standard(File.ReadAllBytes(path)));
            JsonElement root = document.RootElement;
            if (root.ValueKind != JsonValueKind.Object)
                throw new InvalidDataException($"{path}: expected a JSON object, found {root.ValueKind}");
            // Vision models have a section of their own for the language part.
            if (root.TryGetProperty("text_config", out JsonElement text) && text.ValueKind == JsonValueKind.Object)
                root = text;
            return new HuggingFaceConfig(path, root).Read();
        }
        // The second is for text that is not valid UTF-8 or UTF-16.
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            throw new InvalidDataException($"{path}: expected JSON, found text that is none: {e.Message}", e);
        }
    }

    private ModelConfig Read()
    {
        string type = Text("model_type");
        string architecture = type == "gemma3_text" ? "gemma3" : type;
        if (!ModelConfig.Supported.Contains(architecture)) throw ModelConfig.Unknown(_path, type);
        bool gemma = architecture is "gemma2" or "gemma3";

        // Gemma3 files leave out what equals transformers' defaults.
        int? Gemma3(int value) => architecture == "gemma3" ? value : null;
        int hidden = Int("hidden_size", Gemma3(2304));
        int heads = Int("num_attention_heads", Gemma3(8));
        int layers = Int("num_hidden_layers", Gemma3(26));
        int headSize = Int("head_dim",
            architecture switch { "gemma2" or "gemma3" => 256, _ => heads > 0 ? hidden / heads : 0 });
        double queryScalar = gemma ? Number("query_pre_attn_scalar", 256) : headSize;
        int context = Int("max_position_embeddings", Gemma3(131072));
        int dimensions = (int)(headSize * Number("partial_rotary_factor", 1));

        JsonElement? parameters = Section(_root, "rope_parameters");
        JsonElement? global = Layered(parameters, "full_attention") ?? parameters;
        double theta = global is { } g && Has(g, "rope_theta")
            ? Number(g, "rope_theta") : Number("rope_theta", architecture == "gemma3" ? 1e6 : 1e4);
        JsonElement? scaling = global ?? Section(_root, "rope_scaling");
        if (global is { } partial && Has(partial, "partial_rotary_factor"))
            dimensions = (int)(headSize * Number(partial, "partial_rotary_factor"));

        var rope = new RopeTable(dimensions, theta, Scaling(scaling, theta, context));
        RopeTable? windowRope = null;
        if (architecture == "gemma3")
        {
            double local = Layered(parameters, "sliding_attention") is { } s
                ? Number(s, "rope_theta") : Number("rope_local_base_freq", 1e4);
            windowRope = new RopeTable(dimensions, local, null);
        }

        return new ModelConfig
        {
            Architecture = architecture,
            Name = System.IO.Path.GetFileName(System.IO.Path.GetDirectoryName(System.IO.Path.GetFullPath(_path)))
                ?? type,
            ContextLength = context,
            HiddenSize = hidden,
            LayerCount = layers,
            FeedForwardSize = Int("intermediate_size", Gemma3(9216)),
            Heads = heads,
            KvHeads = Int("num_key_value_heads", Gemma3(4) ?? heads),
            HeadSize = headSize,
            NormEpsilon = (float)Number("rms_norm_eps", 1e-6),
            RopePairing = RopePairing.HalfSplit,
            Rope = rope,
            WindowRope = windowRope,
            Windows = Windows(architecture, layers),
            AttentionScale = (float)(1 / Math.Sqrt(queryScalar)),
            AttentionSoftCap = gemma ? (float)Number("attn_logit_softcapping", 0) : 0,
            FinalSoftCap = gemma ? (float)Number("final_logit_softcapping", 0) : 0,
            EmbeddingScale = gemma ? MathF.Sqrt(hidden) : 1,
            NormOffset = gemma ? 1 : 0,
            Activation = ActivationOf(gemma),
            PostNorms = gemma,
        }.Checked(_path);
    }

    private Activation ActivationOf(bool gemma)
    {
        string name = _root.TryGetProperty("hidden_activation", out JsonElement h)
            && h.ValueKind == JsonValueKind.String ? h.GetString()!
            // Gemma's hidden_act is an old mistake in its files. Only hidden_activation counts.
            : gemma ? "gelu_pytorch_tanh"
            : _root.TryGetProperty("hidden_act", out h) && h.ValueKind == JsonValueKind.String
                ? h.GetString()! : "silu";
        return name switch
        {
            "silu" => Activation.Silu,
            "gelu_pytorch_tanh" => Activation.GeluTanh,
            _ => throw new NotSupportedException(
                $"{_path}: activation '{name}' is not supported; supported are silu, gelu_pytorch_tanh"),
        };
    }

    private int[] Windows(string architecture, int layers)
    {
        int[] windows = new int[Math.Clamp(layers, 0, 1024)];
        int window = _root.TryGetProperty("sliding_window", out JsonElement w) && w.ValueKind == JsonValueKind.Number
            ? Int("sliding_window")
            : architecture switch { "gemma2" or "gemma3" => 4096, _ => 0 };
        if (architecture.StartsWith("qwen", StringComparison.Ordinal)
            && !(_root.TryGetProperty("use_sliding_window", out JsonElement use)
            && use.ValueKind == JsonValueKind.True)) return windows;

        string[]? types = null;
        if (_root.TryGetProperty("layer_types", out JsonElement list) && list.ValueKind == JsonValueKind.Array)
        {
            types = [.. list.EnumerateArray().Select(t => t.ToString())];
            if (types.Length != layers)
                throw new InvalidDataException(
                    $"{_path}: layer_types has {types.Length} entries, expected num_hidden_layers ({layers})");
        }
        int pattern = Math.Max(1, Int("sliding_window_pattern", Int("_sliding_window_pattern", 6)));
        int firstWindow = Int("max_window_layers", 0);
        for (int i = 0; i < windows.Length; i++)
        {
            bool local = types is not null
                ? types[i] switch
                {
                    "sliding_attention" => true,
                    "full_attention" => false,
                    string other => throw new NotSupportedException(
                        $"{_path}: layer type '{other}' is not supported; supported are full_attention, "
                        + "sliding_attention"),
                }
                : architecture switch
                {
                    "gemma2" => i % 2 == 0,
                    "gemma3" => (i + 1) % pattern != 0,
                    "qwen2" or "qwen3" => i >= firstWindow,
                    _ => true,
                };
            windows[i] = local ? window : 0;
        }
        return windows;
    }

    private RopeScaling? Scaling(JsonElement? section, double theta, int context)
    {
        if (section is not { } s) return null;
        string type = s.TryGetProperty("rope_type", out JsonElement t)
            || s.TryGetProperty("type", out t) ? t.ToString() : "default";
        int Original() => Has(s, "original_max_position_embeddings")
            ? (int)Number(s, "original_max_position_embeddings") : Int("original_max_position_embeddings", context);
        double? Optional(string name) => Has(s, name) ? Number(s, name) : null;
        switch (type)
        {
            case "default":
                return null;
            case "linear":
                return new RopeScaling.Linear(Positive(s, "factor"));
            case "llama3":
                return new RopeScaling.Llama3(Positive(s, "factor"), Positive(s, "low_freq_factor"),
                    Positive(s, "high_freq_factor"), Original());
            case "yarn":
                double? attention = Optional("attention_factor");
                if (attention is null && Optional("mscale") is not null)
                    throw new NotSupportedException($"{_path}: yarn with mscale is not supported");
                return new RopeScaling.Yarn(Positive(s, "factor"), Optional("beta_fast") ?? 32,
                    Optional("beta_slow") ?? 1, Original(), theta, attention);
            case "longrope" or "su":
                int original = Original();
                double stretch = Has(s, "factor") ? Positive(s, "factor") : (double)context / original;
                double magnitude = Optional("attention_factor")
                    ?? (stretch <= 1 ? 1 : Math.Sqrt(1 + Math.Log(stretch) / Math.Log(original)));
                return new RopeScaling.LongRope(Factors(s, "short_factor"), Factors(s, "long_factor"),
                    original, magnitude);
            default:
                throw new NotSupportedException(
                    $"{_path}: rope scaling '{type}' is not supported; supported are default, linear, llama3, yarn, "
                    + "longrope");
        }
    }

    private double Positive(JsonElement section, string name) =>
        Number(section, name) is > 0 and < 1e12 and var value
            ? value : throw new InvalidDataException($"{_path}: {name} is not a positive number");

    private float[] Factors(JsonElement section, string name) =>
        section.TryGetProperty(name, out JsonElement list) && list.ValueKind == JsonValueKind.Array
            && list.EnumerateArray().All(e => e.ValueKind == JsonValueKind.Number)
            ? [.. list.EnumerateArray().Select(e => e.GetSingle())]
            : throw new InvalidDataException($"{_path}: {name} is missing or not a list of numbers");

    private static bool Has(JsonElement section, string name) =>
        section.TryGetProperty(name, out JsonElement e) && e.ValueKind == JsonValueKind.Number;

    private static JsonElement? Section(JsonElement of, string name) =>
        of.TryGetProperty(name, out JsonElement e) && e.ValueKind == JsonValueKind.Object ? e : null;

    private static JsonElement? Layered(JsonElement? parameters, string layerType) =>
        parameters is { } p ? Section(p, layerType) : null;

    private string Text(string name) => _root.TryGetProperty(name, out JsonElement e)
        && e.ValueKind == JsonValueKind.String ? e.GetString()!
        : throw new InvalidDataException($"{_path}: {name} is missing or not a string");

    private int Int(string name, int? otherwise = null)
    {
        if (!_root.TryGetProperty(name, out JsonElement e) || e.ValueKind == JsonValueKind.Null)
            return otherwise ?? throw new InvalidDataException($"{_path}: {name} is missing");
        return e.ValueKind == JsonValueKind.Number && e.TryGetInt32(out int value)
            ? value : throw new InvalidDataException($"{_path}: {name} is {e}, expected an integer");
    }

    private double Number(string name, double otherwise) => _root.TryGetProperty(name, out JsonElement e)
        && e.ValueKind != JsonValueKind.Null ? Number(_root, name) : otherwise;

    private double Number(JsonElement section, string name) =>
        section.TryGetProperty(name, out JsonElement e) && e.ValueKind == JsonValueKind.Number
            ? e.GetDouble() : throw new InvalidDataException($"{_path}: {name} is missing or not a number");
}
