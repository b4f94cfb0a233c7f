using System.Globalization;
using Native.Kernels.Files;
using Native.Kernels.Text;

namespace Native.Kernels.Models;

/// <summary>A Hugging Face folder seen as a GGUF file: metadata and tensors are arranged as by llama.cpp's converter,
/// so llama.cpp reads the file too.</summary>
/// <remarks>What GGUF can't express is an error and is never dropped. The metadata are read back before anything is
/// written, and must give the folder's model and tokenizer.</remarks>
public sealed class GgufConversion : IDisposable
{
    private readonly ModelFile _file;
    private readonly List<SourceTensor> _tensors = [];
    private readonly List<string> _remarks = [];
    private readonly HashSet<string> _used = new(StringComparer.Ordinal);

    private GgufConversion(string folder)
    {
        if (!Directory.Exists(folder))
            throw new FileNotFoundException(
                $"{folder}: there is no such folder; expected a Hugging Face folder with config.json and safetensors",
                folder);
        _file = ModelFile.Open(folder);
        try
        {
            AddTensors();
            List<KeyValuePair<string, object>> model =
                GgufModelMetadata.Of(_file.Config, NameOf(folder), _tensors.Sum(t => t.Rows * t.Columns),
                _file.ReadSuggestedSampling());
            TokenizerDefinition definition = HuggingFaceTokenizer.Read(folder);
            Metadata = [.. model, .. GgufVocabulary.Of(
                definition, checked((int)_tensors.First(t => t.Name == "token_embd.weight").Rows), ReadBack, _remarks)];
            if (_file.Config.Architecture == "mistral" && _file.Config.Windows.Any(w => w > 0))
                _remarks.Add(
                    $"the sliding window of {_file.Config.Windows.Max()} tokens is kept in the file, but llama.cpp "
                    + "does not look at it: past that many tokens it computes something else");
            string[] leftOut = [.. _file.Tensors.Keys.Except(_used).Order(StringComparer.Ordinal)];
            if (leftOut.Length > 0)
                _remarks.Add(
                    $"{leftOut.Length} tensors of the folder have no place in the file, {leftOut[0]} among them");
        }
        catch
        {
            Dispose();
            throw;
        }

        // The file's header with this vocabulary, written and read again.
        Tokenizer ReadBack(IReadOnlyList<KeyValuePair<string, object>> vocabulary)
        {
            string path = System.IO.Path.Combine(System.IO.Path.GetTempPath(), $"native-{Guid.NewGuid():N}.gguf");
            try
            {
                SourceTensor[] small = [.. _tensors.Where(t => t.Name.StartsWith("rope_", StringComparison.Ordinal))];
                List<KeyValuePair<string, object>> model =
                    GgufModelMetadata.Of(_file.Config, NameOf(folder), 0, SuggestedSampling.None);
                using (GgufWriter writer = new(path, [.. model, .. vocabulary],
                    [.. small.Select(t => new GgufTensorPlan(t.Name, t.Type, t.Shape))]))
                {
                    foreach (SourceTensor tensor in small)
                    {
                        byte[] row = new byte[tensor.RowBytes];
                        tensor.ReadRows(0, row);
                        writer.Write(row);
                    }
                    writer.Complete();
                }
                using GgufFile file = GgufFile.Open(path);
                string[] differing = [.. Differences(_file.Config, GgufConfig.Read(file))];
                if (differing.Length > 0)
                    throw new NotSupportedException(
                        $"{folder}: GGUF has no place for this model's {string.Join(", ", differing)}");
                return Tokenizer.FromGguf(file);
            }
            finally
            {
                File.Delete(path);
            }
        }
    }

    /// <summary>The file's metadata except <c>general.file_type</c>, which depends on the tensors' types.</summary>
    public IReadOnlyList<KeyValuePair<string, object>> Metadata { get; }

    /// <summary>The file's tensors, in the order in which a model uses them.</summary>
    public IReadOnlyList<SourceTensor> Tensors => _tensors;

    /// <summary>Remarks for the person who converts, a sentence each.</summary>
    public IReadOnlyList<string> Remarks => _remarks;

    /// <summary>The model's shape.</summary>
    public ModelConfig Config => _file.Config;

    /// <summary>Opens a folder and prepares everything except the tensors' bytes.</summary>
    /// <exception cref="InvalidDataException">A file is bad, or a tensor missing.</exception>
    /// <exception cref="NotSupportedException">A family or setting that isn't supported, or that GGUF can't
    /// express.</exception>
    /// <exception cref="IOException">No such folder or file, or the temporary folder is full.</exception>
    public static GgufConversion Open(string folder) => new(folder);

    /// <summary>Throws if the folder's weights were written to since they were opened.</summary>
    /// <exception cref="InvalidDataException">They were.</exception>
    public void CheckUnchanged() => _file.CheckUnchanged();

    /// <summary>Closes the folder's files.</summary>
    public void Dispose() => _file.Dispose();

    private void AddTensors()
    {
        ModelConfig c = _file.Config;
        long hidden = c.HiddenSize, queries = (long)c.Heads * c.HeadSize, keys = (long)c.KvHeads * c.HeadSize;
        if (c.Rope.Scaling is RopeScaling.Llama3 llama3)
            _tensors.Add(new SourceTensor("rope_freqs.weight", llama3.Factors(c.Rope.InverseFrequencies())));
        if (c.Rope.Scaling is RopeScaling.LongRope longRope)
        {
            _tensors.Add(new SourceTensor("rope_factors_long.weight", longRope.Long));
            _tensors.Add(new SourceTensor("rope_factors_short.weight", longRope.Short));
        }
        if (!_file.TryFind("token_embd.weight", out TensorView embedding))
            throw new InvalidDataException($"{_file.Path}: the embedding (embed_tokens.weight) is missing");
        Matrix("token_embd.weight", embedding.Rows, hidden);
        for (int layer = 0; layer < c.LayerCount; layer++)
        {
            string at = string.Create(CultureInfo.InvariantCulture, $"blk.{layer}.");
            Norm(at + "attn_norm.weight", c.HiddenSize, required: true);
            if (_file.TryFind(at + "attn_qkv.weight", out _))
            {
                Matrix(at + "attn_qkv.weight", queries + 2 * keys, hidden);
                Bias(at + "attn_qkv.bias", queries + 2 * keys);
            }
            else
            {
                Matrix(at + "attn_q.weight", queries, hidden, rotated: true);
                Bias(at + "attn_q.bias", queries, rotated: true);
                Matrix(at + "attn_k.weight", keys, hidden, rotated: true);
                Bias(at + "attn_k.bias", keys, rotated: true);
                Matrix(at + "attn_v.weight", keys, hidden);
                Bias(at + "attn_v.bias", keys);
            }
            Norm(at + "attn_q_norm.weight", c.HeadSize, required: false);
            Norm(at + "attn_k_norm.weight", c.HeadSize, required: false);
            Matrix(at + "attn_output.weight", hidden, queries);
            Bias(at + "attn_output.bias", hidden);
            if (c.PostNorms) Norm(at + "post_attention_norm.weight", c.HiddenSize, required: true);
            Norm(at + "ffn_norm.weight", c.HiddenSize, required: true);
            bool fused = !_file.TryFind(at + "ffn_gate.weight", out _);
            if (!fused) Matrix(at + "ffn_gate.weight", c.FeedForwardSize, hidden);
            if (!fused) Bias(at + "ffn_gate.bias", c.FeedForwardSize);
            Matrix(at + "ffn_up.weight", fused ? 2L * c.FeedForwardSize : c.FeedForwardSize, hidden);
            Bias(at + "ffn_up.bias", fused ? 2L * c.FeedForwardSize : c.FeedForwardSize);
            Matrix(at + "ffn_down.weight", hidden, c.FeedForwardSize);
            Bias(at + "ffn_down.bias", hidden);
            if (c.PostNorms) Norm(at + "post_ffw_norm.weight", c.HiddenSize, required: true);
        }
        Norm("output_norm.weight", c.HiddenSize, required: true);
        if (!_file.TryFind("output.weight", out TensorView head)) return;
        // A head equal to the embedding is not written twice; llama.cpp's gemma takes no head.
        if (SameBytes(head, embedding)) _used.Add(head.Name);
        else if (c.PostNorms)
            throw new NotSupportedException(
                $"{_file.Path}: {head.Name} is not the embedding, and GGUF's {c.Architecture} has no other head");
        else Matrix("output.weight", embedding.Rows, hidden);
    }

    private void Matrix(string name, long rows, long columns, bool rotated = false)
    {
        TensorView view = _file.Find(name, rows, columns);
        _used.Add(view.Name);
        _tensors.Add(new SourceTensor(name, [columns, rows], view, rotated && SideBySide ? RowBeforePairing : null));
    }

    private void Bias(string name, long length, bool rotated = false)
    {
        if (_file.TryDecode(name, checked((int)length)) is not { } values) return;
        Use(name);
        if (rotated && SideBySide)
            values = [.. Enumerable.Range(0, values.Length).Select(i => values[RowBeforePairing(i)])];
        _tensors.Add(new SourceTensor(name, values));
    }

    private void Norm(string name, int length, bool required)
    {
        if (_file.TryDecode(name, length) is not { } values)
        {
            if (required) _file.Find(name, 1, length); // the error has the folder's name for it
            return;
        }
        Use(name);
        foreach (ref float value in values.AsSpan()) value += _file.Config.NormOffset;
        _tensors.Add(new SourceTensor(name, values));
    }

    private void Use(string name)
    {
        if (_file.TryFind(name, out TensorView view)) _used.Add(view.Name);
    }

    /// <summary>Whether GGUF keeps this family's rotated pairs adjacent. Hugging Face keeps halves.</summary>
    private bool SideBySide => _file.Config.Architecture is "llama" or "mistral";

    /// <summary>Row 2j + h of a head's rotated part is element j of half h there.</summary>
    private long RowBeforePairing(long row)
    {
        long head = row / _file.Config.HeadSize, at = row % _file.Config.HeadSize,
            rotated = _file.Config.Rope.Dimensions;
        return at >= rotated ? row : head * _file.Config.HeadSize + at % 2 * (rotated / 2) + at / 2;
    }

    private static bool SameBytes(TensorView a, TensorView b)
    {
        if (a.Type != b.Type || a.Rows != b.Rows || a.Columns != b.Columns) return false;
        byte[] rowOfA = new byte[a.RowBytes], rowOfB = new byte[b.RowBytes];
        for (long row = 0; row < a.Rows; row++)
        {
            a.ReadRows(row, rowOfA);
            b.ReadRows(row, rowOfB);
            if (!rowOfA.AsSpan().SequenceEqual(rowOfB)) return false;
        }
        return true;
    }

    /// <summary>The model's own name. For a hub's cache it is the repository's, not the revision's.</summary>
    private static string NameOf(string folder)
    {
        string full = System.IO.Path.TrimEndingDirectorySeparator(System.IO.Path.GetFullPath(folder)),
            name = System.IO.Path.GetFileName(full);
        DirectoryInfo? parent = Directory.GetParent(full);
        return parent is { Name: "snapshots", Parent: { } repository }
            && repository.Name.StartsWith("models--", StringComparison.Ordinal)
            ? repository.Name.Split("--")[^1] : name;
    }

    /// <summary>The difference between two models, in words.</summary>
    private static IEnumerable<string> Differences(ModelConfig a, ModelConfig b)
    {
        static bool Near(double x, double y) => Math.Abs(x - y) <= 1e-6 * Math.Max(Math.Abs(x), Math.Abs(y));
        if ((a.ContextLength, a.HiddenSize, a.LayerCount, a.FeedForwardSize, a.Heads, a.KvHeads, a.HeadSize)
            != (b.ContextLength, b.HiddenSize, b.LayerCount, b.FeedForwardSize, b.Heads, b.KvHeads,
            b.HeadSize)) yield return "sizes";
        if (!Near(a.NormEpsilon, b.NormEpsilon)) yield return "norm epsilon";
        if (!a.Windows.SequenceEqual(b.Windows)) yield return $"sliding windows ({string.Join(",", a.Windows)})";
        if (!Near(a.AttentionScale, b.AttentionScale)) yield return $"attention scale ({a.AttentionScale})";
        if (!Near(a.AttentionSoftCap, b.AttentionSoftCap) || !Near(a.FinalSoftCap, b.FinalSoftCap))
            yield return "soft caps";
        if (!Near(a.EmbeddingScale, b.EmbeddingScale)) yield return "embedding scale";
        if (a.Activation != b.Activation) yield return $"activation ({a.Activation})";
        if (a.PostNorms != b.PostNorms) yield return "norms";
        // Some scalings depend on the requested length.
        foreach (int length in (int[])[1, a.ContextLength])
        {
            if (!Same(a.Rope, b.Rope, length)) yield return $"rotary scaling ({a.Rope.Scaling})";
            if (!Same(a.WindowRope ?? a.Rope, b.WindowRope ?? b.Rope, length) && a.Windows.Any(w => w > 0))
                yield return "rotary scaling of layers with a window";
        }

        static bool Same(RopeTable x, RopeTable y, int length) =>
            x.Dimensions == y.Dimensions && Near(x.Scaling?.Magnitude ?? 1, y.Scaling?.Magnitude ?? 1)
                && x.Frequencies(length).Zip(y.Frequencies(length), Near).All(near => near);
    }
}
