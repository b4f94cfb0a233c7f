using System.Text.Json;
using Native.Kernels.Formats;

namespace Native.Kernels.Files;

/// <summary>The weights of a Hugging Face model in safetensors form, one file or sharded.</summary>
/// <remarks>Weights may be F32, F16 or BF16. Tensors of other types are listed, and refused only when requested: models
/// carry position ids and masks that are not needed. Opening allocates at most <see cref="MaxAllocationPerByte"/> times
/// the length of the files and the index (plus <see cref="MaxAllocationBase"/>).</remarks>
public sealed class SafetensorsFile : IDisposable
{
    /// <summary>The bound on managed bytes that opening allocates, per byte of file.</summary>
    public const int MaxAllocationPerByte = 24;

    /// <summary>The constant part of that bound, in bytes: handles, messages.</summary>
    public const int MaxAllocationBase = 64 * 1024;

    private const string SingleName = "model.safetensors", IndexName = "model.safetensors.index.json";
    private const long MaxIndexBytes = 100_000_000;

    private readonly List<FileBytes> _files = [];
    private readonly Dictionary<string, TensorView> _tensors = new(StringComparer.Ordinal);
    private readonly Dictionary<string, string> _otherTensors = new(StringComparer.Ordinal);

    private SafetensorsFile(string path)
    {
        Path = path;
        try
        {
            if (Directory.Exists(path))
            {
                string single = System.IO.Path.Combine(path, SingleName),
                    index = System.IO.Path.Combine(path, IndexName);
                if (File.Exists(single)) AddFile(single, _ => true);
                else if (File.Exists(index)) AddShards(index);
                else
                    throw new InvalidDataException(
                        $"{path}: expected {SingleName} or {IndexName} in this folder, found neither");
            }
            else
            {
                AddFile(path, _ => true);
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>The file or folder it was opened by.</summary>
    public string Path { get; }

    /// <summary>The tensors by name, of every type that has a <see cref="TensorType"/>; valid until
    /// <see cref="Dispose"/>.</summary>
    public IReadOnlyDictionary<string, TensorView> Tensors => _tensors;

    /// <summary>The names of the other tensors (BOOL, U8, F8_E4M3 ...) with their dtype.</summary>
    public IReadOnlyDictionary<string, string> OtherTensors => _otherTensors;

    /// <summary>Opens a .safetensors file, or a folder with model.safetensors or with model.safetensors.index.json and
    /// the shards it names.</summary>
    /// <exception cref="InvalidDataException">A file is not sound or a shard is missing; the message names file,
    /// offset, what was expected and what was found.</exception>
    /// <exception cref="IOException">The file is not there or can't be read.</exception>
    public static SafetensorsFile Open(string pathOrFolder) => new(pathOrFolder);

    /// <summary>A weight by its name.</summary>
    /// <exception cref="InvalidDataException">There is no such tensor, or its type can't be computed with.</exception>
    public TensorView GetTensor(string name)
    {
        if (!_tensors.TryGetValue(name, out TensorView tensor))
        {
            throw new InvalidDataException(_otherTensors.TryGetValue(name, out string? dtype)
                ? $"{Path}: tensor {FileText.Quoted(name)} has dtype {FileText.Shown(dtype)}, which is not supported; "
                    + "supported are F32, F16, BF16"
                : $"{Path}: expected a tensor {FileText.Quoted(name)}, found no such name");
        }
        return BlockFormat.TryGet(tensor.Type, out _)
            ? tensor
            : throw new InvalidDataException(
                $"{Path}: tensor {FileText.Quoted(name)} has dtype {tensor.Type}, which is not supported; supported "
                + "are F32, F16, BF16");
    }

    /// <summary>Throws if a file was written to since it was opened.</summary>
    /// <exception cref="InvalidDataException">It was.</exception>
    public void CheckUnchanged()
    {
        foreach (FileBytes file in _files) file.CheckUnchanged();
    }

    /// <summary>Closes the files; no tensor may be read afterwards.</summary>
    public void Dispose()
    {
        foreach (FileBytes file in _files) file.Dispose();
        _tensors.Clear(); // tensors that can't be read any more should not be found
    }

    private void AddFile(string path, Func<string, bool> wanted)
    {
        var file = new FileBytes(path);
        _files.Add(file);
        var reader = new SafetensorsReader(file);
        reader.Read();
        foreach (TensorView tensor in reader.Tensors.Values)
        {
            if (wanted(tensor.Name)) _tensors.Add(tensor.Name, tensor);
        }
        foreach ((string name, string dtype) in reader.OtherTensors)
        {
            if (wanted(name)) _otherTensors.Add(name, dtype);
        }
    }

    private void AddShards(string index)
    {
        Dictionary<string, string> shardOf = ReadIndex(index);
        string folder = System.IO.Path.GetDirectoryName(index)!;
        foreach (string shard in shardOf.Values.Distinct(StringComparer.Ordinal))
        {
            string path = System.IO.Path.Combine(folder, shard);
            if (!File.Exists(path))
                throw new InvalidDataException(
                    $"{index}: expected the shard {FileText.Quoted(shard)} beside it, found no such file");
            AddFile(path, name => shardOf.TryGetValue(name, out string? of) && of == shard);
        }
        foreach ((string name, string shard) in shardOf)
        {
            if (!_tensors.ContainsKey(name) && !_otherTensors.ContainsKey(name))
                throw new InvalidDataException(
                    $"{index}: expected tensor {FileText.Quoted(name)} in {FileText.Quoted(shard)}, found no such "
                    + "tensor there");
        }
    }

    /// <summary>Reads the shard of each tensor.</summary>
    private static Dictionary<string, string> ReadIndex(string index)
    {
        long length = new FileInfo(index).Length;
        if (length > MaxIndexBytes)
            throw new InvalidDataException(
                $"{index}: expected an index of at most {MaxIndexBytes} bytes, found {length}");
        try
        {
            using JsonDocument json = JsonDocument.Parse(JsonFile.Standard(File.ReadAllBytes(index)));
            if (json.RootElement.ValueKind != JsonValueKind.Object
                || !json.RootElement.TryGetProperty("weight_map", out JsonElement map)
                || map.ValueKind != JsonValueKind.Object)
                throw new InvalidDataException(
                    $"{index}: expected an object with an object \"weight_map\", found none");
            var shardOf = new Dictionary<string, string>(StringComparer.Ordinal);
            foreach (JsonProperty entry in map.EnumerateObject())
            {
                // A shard is beside its index. A name with a folder in it could reach other files.
                string? shard = entry.Value.ValueKind == JsonValueKind.String ? entry.Value.GetString() : null;
                if (string.IsNullOrEmpty(shard) || shard is "." or ".." || shard.AsSpan().ContainsAny('/', '\\', '\0'))
                    throw new InvalidDataException(
                        $"{index}: expected {FileText.Quoted(entry.Name)} to name a file beside the index, found "
                        + $"{FileText.Shown(entry.Value.GetRawText())}");
                if (!shardOf.TryAdd(entry.Name, shard))
                    throw new InvalidDataException(
                        $"{index}: expected every tensor once, found {FileText.Quoted(entry.Name)} twice");
            }
            return shardOf;
        }
        // The second is for text that is not valid UTF-8 or UTF-16.
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            throw new InvalidDataException($"{index}: expected JSON, found text that is none: {e.Message}", e);
        }
    }
}
