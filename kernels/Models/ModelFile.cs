using System.Globalization;
using System.Text.RegularExpressions;
using Native.Kernels.Files;
using Native.Kernels.Formats;
using Native.Kernels.Text;

namespace Native.Kernels.Models;

/// <summary>A model on disk: a GGUF file or a Hugging Face folder. Tensors have GGUF's names in both.</summary>
public sealed partial class ModelFile : IDisposable
{
    private readonly GgufFile? _gguf;
    private readonly SafetensorsFile? _safetensors;
    private readonly IReadOnlyDictionary<string, TensorView> _tensors;
    private readonly string _prefix = "";

    private ModelFile(string path)
    {
        CheckPath(path);
        Path = path;
        if (Directory.Exists(path))
        {
            Config = HuggingFaceConfig.Read(System.IO.Path.Combine(path, "config.json"));
            _safetensors = SafetensorsFile.Open(path);
            _tensors = _safetensors.Tensors;
            // Vision models have a prefix for the language part, in one of two forms.
            _prefix = ((string[])["model.", "language_model.model.", "model.language_model."])
                .FirstOrDefault(p => _tensors.ContainsKey(p + "embed_tokens.weight")) ?? "model.";
        }
        else if (File.Exists(path))
        {
            _gguf = GgufFile.Open(path);
            try
            {
                Config = GgufConfig.Read(_gguf);
            }
            catch
            {
                _gguf.Dispose();
                throw;
            }
            _tensors = _gguf.Tensors;
        }
        else
        {
            throw new FileNotFoundException(
                $"{path}: there is no such file or folder; expected a GGUF file or a Hugging Face folder", path);
        }
    }

    /// <summary>Throws for a path that can't be a model, before it is opened.</summary>
    /// <exception cref="InvalidDataException">A device, a pipe, or a folder without config.json. The message names the
    /// GGUF files in the folder.</exception>
    public static void CheckPath(string path)
    {
        if (!Directory.Exists(path))
        {
            // A device or a pipe can't be read at an offset, and opening a pipe waits for its writer. Both have length
            // 0.
            if (File.Exists(path) && (new FileInfo(path).ResolveLinkTarget(returnFinalTarget: true) as FileInfo
                ?? new FileInfo(path)).Length == 0)
                throw new InvalidDataException(
                    $"{path}: expected a GGUF file or a Hugging Face folder, found an empty file, a device or a pipe");
            return;
        }
        if (File.Exists(System.IO.Path.Combine(path, "config.json"))) return;
        string[] files = [.. Directory.GetFiles(path, "*.gguf").Select(file => System.IO.Path.GetFileName(file))
            .Order(StringComparer.Ordinal)];
        string instead = files.Length == 0 ? ""
            : $"; name the GGUF file itself: {string.Join(", ", files.Take(5))}{(files.Length > 5 ? ", ..." : "")}";
        throw new InvalidDataException(
            $"{path}: a Hugging Face folder was expected, but there is no config.json in it{instead}");
    }

    /// <summary>A file's or folder's name without <c>.gguf</c> and without the part number of a split file.</summary>
    public static string NameOf(string path)
    {
        string full = System.IO.Path.TrimEndingDirectorySeparator(System.IO.Path.GetFullPath(path));
        if (Directory.Exists(full)) return System.IO.Path.GetFileName(full);
        string file = System.IO.Path.GetFileName(full);
        Match part = PartName().Match(file);
        return part.Success ? file[..part.Index] : System.IO.Path.GetFileNameWithoutExtension(file);
    }

    [GeneratedRegex(@"-\d{5}-of-\d{5}\.gguf$", RegexOptions.ExplicitCapture)]
    private static partial Regex PartName();

    /// <summary>The path it was opened by.</summary>
    public string Path { get; }

    /// <summary>Its shape.</summary>
    public ModelConfig Config { get; }

    /// <summary>Every tensor of the file, by the file's own names.</summary>
    public IReadOnlyDictionary<string, TensorView> Tensors => _tensors;

    /// <summary>Opens and checks headers; weights are read when they are used.</summary>
    /// <exception cref="InvalidDataException">A bad file: says where, what was expected and what found.</exception>
    /// <exception cref="NotSupportedException">Something named that isn't supported.</exception>
    public static ModelFile Open(string path) => new(path);

    /// <summary>The tokenizer that came with the model.</summary>
    public Tokenizer OpenTokenizer() => _gguf is not null ? Tokenizer.FromGguf(_gguf) : Tokenizer.FromFolder(Path);

    /// <summary>The makers' recommended sampling.</summary>
    public SuggestedSampling ReadSuggestedSampling() =>
        _gguf is not null ? SuggestedSampling.Read(_gguf) : SuggestedSampling.ReadFolder(Path);

    /// <summary>The tensor with this GGUF name. A folder may call it otherwise.</summary>
    public bool TryFind(string name, out TensorView tensor) =>
        _tensors.TryGetValue(_gguf is not null ? name : HuggingFaceName(name), out tensor);

    /// <summary>The matrix with this GGUF name and shape.</summary>
    /// <exception cref="InvalidDataException">It isn't there, or has another shape.</exception>
    public TensorView Find(string name, long rows, long columns)
    {
        if (!TryFind(name, out TensorView tensor))
            throw new InvalidDataException(
                $"{Path}: tensor {(_gguf is not null ? name : HuggingFaceName(name))} is missing");
        return Checked(tensor, rows, columns);
    }

    /// <summary>The vector with this GGUF name, decoded; null where the file has none.</summary>
    public float[]? TryDecode(string name, int length) =>
        TryFind(name, out TensorView tensor) ? Decode(Checked(tensor, 1, length)) : null;

    /// <summary>A whole tensor as floats.</summary>
    internal static float[] Decode(TensorView tensor)
    {
        float[] values = new float[checked(tensor.Rows * tensor.Columns)];
        for (int row = 0; row < tensor.Rows; row++)
            tensor.DecodeRow(row, values.AsSpan((int)(row * tensor.Columns), (int)tensor.Columns));
        return values;
    }

    private TensorView Checked(TensorView tensor, long rows, long columns)
    {
        if (tensor.Rows != rows || tensor.Columns != columns)
            throw new InvalidDataException(
                $"{Path}: tensor {tensor.Name} has {tensor.Rows} rows of {tensor.Columns}, expected {rows} of "
                + $"{columns}");
        BlockFormat.Of(tensor.Type); // throws for a type that is not supported
        return tensor;
    }

    private string HuggingFaceName(string name)
    {
        if (name == "output.weight")
            return _tensors.ContainsKey("lm_head.weight") ? "lm_head.weight" : "language_model.lm_head.weight";
        Match layer = LayerName().Match(name);
        if (!layer.Success)
        {
            return _prefix + name switch
            {
                "token_embd.weight" => "embed_tokens.weight",
                "output_norm.weight" => "norm.weight",
                _ => name,
            };
        }
        string part = layer.Groups["part"].Value;
        string own = part switch
        {
            "attn_norm" => "input_layernorm",
            "attn_q" => "self_attn.q_proj",
            "attn_k" => "self_attn.k_proj",
            "attn_v" => "self_attn.v_proj",
            "attn_qkv" => "self_attn.qkv_proj",
            "attn_output" => "self_attn.o_proj",
            "attn_q_norm" => "self_attn.q_norm",
            "attn_k_norm" => "self_attn.k_norm",
            "post_attention_norm" => "post_attention_layernorm",
            // llama's post-attention norm is the one before the feed-forward; gemma has both.
            "ffn_norm" => Config.PostNorms ? "pre_feedforward_layernorm" : "post_attention_layernorm",
            "post_ffw_norm" => "post_feedforward_layernorm",
            "ffn_gate" => "mlp.gate_proj",
            "ffn_up" => Config.Architecture == "phi3" ? "mlp.gate_up_proj" : "mlp.up_proj",
            "ffn_down" => "mlp.down_proj",
            _ => part,
        };
        return string.Create(CultureInfo.InvariantCulture,
            $"{_prefix}layers.{layer.Groups["layer"].Value}.{own}.{layer.Groups["kind"].Value}");
    }

    [GeneratedRegex(@"^blk\.(?<layer>\d+)\.(?<part>\w+)\.(?<kind>weight|bias)$")]
    private static partial Regex LayerName();

    /// <summary>Throws if a file of weights was written to since it was opened.</summary>
    /// <exception cref="InvalidDataException">It was.</exception>
    public void CheckUnchanged()
    {
        _gguf?.CheckUnchanged();
        _safetensors?.CheckUnchanged();
    }

    /// <summary>Closes the file. What a backend has loaded stays valid.</summary>
    public void Dispose()
    {
        _gguf?.Dispose();
        _safetensors?.Dispose();
    }
}
