using System.Diagnostics.CodeAnalysis;
using Native.Kernels.Formats;

namespace Native.Kernels.Files;

/// <summary>A GGUF model file (versions 2 and 3). Metadata are in memory; tensors are read on demand.</summary>
/// <remarks>A model split into files named <c>-00001-of-0000N.gguf</c> opens by its first file. Opening reads only the
/// header and allocates at most <see cref="MaxAllocationPerByte"/> times the file's length (plus
/// <see cref="MaxAllocationBase"/>), whatever counts the file claims.</remarks>
public sealed class GgufFile : IDisposable
{
    /// <summary>The bound on managed bytes that opening allocates, per byte of file.</summary>
    public const int MaxAllocationPerByte = 12;

    /// <summary>The constant part of that bound, in bytes: handles, messages.</summary>
    public const int MaxAllocationBase = 64 * 1024;

    private readonly List<FileBytes> _files = [];
    private readonly Dictionary<string, object> _metadata;
    private readonly Dictionary<string, TensorView> _tensors;

    private readonly List<GgufTensorInfo>? _infos;

    private GgufFile(string path, bool toInspect)
    {
        Path = path;
        if (toInspect) _infos = [];
        try
        {
            GgufReader first = Add(path);
            (Version, _metadata, _tensors) = (first.Version, first.Metadata, first.Tensors);
            AddSplits();
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>The path it was opened by.</summary>
    public string Path { get; }

    /// <summary>2 or 3.</summary>
    public uint Version { get; }

    /// <summary>The model family: <c>general.architecture</c>.</summary>
    /// <exception cref="InvalidDataException">The file does not name one.</exception>
    public string Architecture => GetString("general.architecture");

    /// <summary>Every metadata pair. Values are byte, sbyte, ushort, short, uint, int, float, bool, string, ulong,
    /// long, double, or an array of one of these.</summary>
    public IReadOnlyDictionary<string, object> Metadata => _metadata;

    /// <summary>Every tensor by its name; valid until <see cref="Dispose"/>.</summary>
    public IReadOnlyDictionary<string, TensorView> Tensors => _tensors;

    /// <summary>Opens a file and reads its header.</summary>
    /// <exception cref="InvalidDataException">The file is not a sound GGUF file; the message names file, offset, what
    /// was expected and what was found.</exception>
    /// <exception cref="IOException">The file is not there or can't be read.</exception>
    public static GgufFile Open(string path) => new(path, toInspect: false);

    /// <summary>Opens a file for inspection. Tensors of unsupported types are described in <see cref="TensorInfos"/>
    /// and left out of <see cref="Tensors"/>; <see cref="Open"/> throws for them.</summary>
    /// <exception cref="InvalidDataException">The file is not a sound GGUF file.</exception>
    /// <exception cref="IOException">The file is not there or can't be read.</exception>
    public static GgufFile OpenToInspect(string path) => new(path, toInspect: true);

    /// <summary>What the header says of every tensor, in the file's order; empty unless opened by
    /// <see cref="OpenToInspect"/>.</summary>
    public IReadOnlyList<GgufTensorInfo> TensorInfos => _infos ?? [];

    public bool Has(string key) => _metadata.ContainsKey(key);

    /// <exception cref="InvalidDataException">The key is missing or not a string.</exception>
    public string GetString(string key) => _metadata.TryGetValue(key, out object? value)
        ? value as string ?? throw Wrong(key, "a string", value) : throw Missing(key, "a string");

    /// <exception cref="InvalidDataException">The key is there and not a string.</exception>
    [return: NotNullIfNotNull(nameof(fallback))]
    public string? GetStringOrDefault(string key, string? fallback = null) => Has(key) ? GetString(key) : fallback;

    /// <summary>An integer of any of the file's integer types.</summary>
    /// <exception cref="InvalidDataException">The key is missing, not an integer, or out of an int's range.</exception>
    public int GetInt32(string key) => _metadata.TryGetValue(key, out object? value)
        ? ToInt32(key, value) : throw Missing(key, "an integer");

    /// <exception cref="InvalidDataException">The key is there and not an integer in an int's range.</exception>
    public int GetInt32OrDefault(string key, int fallback) => Has(key) ? GetInt32(key) : fallback;

    /// <summary>A number of either of the file's floating-point types.</summary>
    /// <exception cref="InvalidDataException">The key is missing or not a floating-point number.</exception>
    public float GetSingle(string key) => _metadata.TryGetValue(key, out object? value)
        ? value switch { float f => f, double d => (float)d, _ => throw Wrong(key, "a floating-point number", value) }
        : throw Missing(key, "a floating-point number");

    /// <exception cref="InvalidDataException">The key is there and not a floating-point number.</exception>
    public float GetSingleOrDefault(string key, float fallback) => Has(key) ? GetSingle(key) : fallback;

    /// <exception cref="InvalidDataException">The key is missing or not a boolean.</exception>
    public bool GetBoolean(string key) => _metadata.TryGetValue(key, out object? value)
        ? value is bool b ? b : throw Wrong(key, "a boolean", value) : throw Missing(key, "a boolean");

    /// <exception cref="InvalidDataException">The key is there and not a boolean.</exception>
    public bool GetBooleanOrDefault(string key, bool fallback) => Has(key) ? GetBoolean(key) : fallback;

    /// <summary>An array of strings. It is the file's own instance: do not write to it.</summary>
    /// <exception cref="InvalidDataException">The key is missing or not an array of strings.</exception>
    public string[] GetStrings(string key) => _metadata.TryGetValue(key, out object? value)
        ? value as string[] ?? (value is Array { Length: 0 } ? [] : throw Wrong(key, "an array of strings", value))
        : throw Missing(key, "an array of strings");

    /// <exception cref="InvalidDataException">The key is there and not an array of strings.</exception>
    [return: NotNullIfNotNull(nameof(fallback))]
    public string[]? GetStringsOrDefault(string key, string[]? fallback = null) =>
        Has(key) ? GetStrings(key) : fallback;

    /// <summary>An array of floating-point numbers of either type.</summary>
    /// <exception cref="InvalidDataException">The key is missing or not an array of floating-point numbers.</exception>
    public float[] GetSingles(string key) => _metadata.TryGetValue(key, out object? value)
        ? value switch
        {
            float[] floats => floats,
            double[] doubles => Array.ConvertAll(doubles, d => (float)d),
            _ => throw Wrong(key, "an array of floating-point numbers", value),
        }
        : throw Missing(key, "an array of floating-point numbers");

    /// <exception cref="InvalidDataException">The key is there and not an array of floating-point numbers.</exception>
    [return: NotNullIfNotNull(nameof(fallback))]
    public float[]? GetSinglesOrDefault(string key, float[]? fallback = null) => Has(key) ? GetSingles(key) : fallback;

    /// <summary>An array of integers of any type.</summary>
    /// <exception cref="InvalidDataException">The key is missing, not an array of integers, or an element is out of an
    /// int's range.</exception>
    public int[] GetInt32s(string key)
    {
        if (!_metadata.TryGetValue(key, out object? value)) throw Missing(key, "an array of integers");
        // By exact type: the runtime also casts an int[] to uint[].
        if (value.GetType() == typeof(int[])) return (int[])value;
        if (value is not Array array || value is string[] or float[] or double[] or bool[])
            throw Wrong(key, "an array of integers", value);
        int[] result = new int[array.Length];
        for (int i = 0; i < result.Length; i++) result[i] = ToInt32(key, array.GetValue(i)!);
        return result;
    }

    /// <exception cref="InvalidDataException">The key is there and not an array of integers in an int's
    /// range.</exception>
    [return: NotNullIfNotNull(nameof(fallback))]
    public int[]? GetInt32sOrDefault(string key, int[]? fallback = null) => Has(key) ? GetInt32s(key) : fallback;

    /// <summary>A weight by its name.</summary>
    /// <exception cref="InvalidDataException">There is no such tensor, or its type can't be computed with.</exception>
    public TensorView GetTensor(string name)
    {
        if (!_tensors.TryGetValue(name, out TensorView tensor))
            throw new InvalidDataException($"{Path}: expected a tensor {FileText.Quoted(name)}, found no such name");
        return BlockFormat.TryGet(tensor.Type, out _)
            ? tensor
            : throw new InvalidDataException(
                $"{Path}: tensor {FileText.Quoted(name)} has type {BlockFormat.Name(tensor.Type)}, which is not "
                + $"supported; supported are {BlockFormat.SupportedNames}");
    }

    /// <summary>Throws if the file was written to since it was opened.</summary>
    /// <exception cref="InvalidDataException">It was.</exception>
    public void CheckUnchanged()
    {
        foreach (FileBytes file in _files) file.CheckUnchanged();
    }

    /// <summary>Closes the file; no tensor may be read afterwards.</summary>
    public void Dispose()
    {
        foreach (FileBytes file in _files) file.Dispose();
        _tensors?.Clear(); // tensors that can't be read any more should not be found
    }

    private GgufReader Add(string path)
    {
        var file = new FileBytes(path);
        _files.Add(file);
        int before = _infos?.Count ?? 0;
        var reader = new GgufReader(file, _infos);
        reader.Read();
        // Offsets from the file's beginning instead of the data's: what a hexadecimal viewer needs.
        for (int i = before; i < _infos?.Count; i++)
            _infos[i] = _infos[i] with { Offset = _infos[i].Offset + reader.DataStart };
        return reader;
    }

    /// <summary>Adds the tensors of a split model's other files, named as llama.cpp's gguf-split does.</summary>
    private void AddSplits()
    {
        int count = GetInt32OrDefault("split.count", 1);
        if (count is 0 or 1) return;
        if (count is < 0 or > ushort.MaxValue) throw Wrong("split.count", $"0 to {ushort.MaxValue}", count);
        int number = GetInt32("split.no");
        string suffix = $"-{number + 1:d5}-of-{count:d5}.gguf";
        if (!Path.EndsWith(suffix, StringComparison.Ordinal))
            throw new InvalidDataException(
                $"{Path}: expected the name of part {number + 1} of a model in {count} parts to end with {suffix}; "
                + "rename it back");
        string prefix = Path[..^suffix.Length];
        if (number != 0)
            throw new InvalidDataException(
                $"{Path}: this is part {number + 1} of {count}; open the first, {prefix}-00001-of-{count:d5}.gguf");

        for (int i = 1; i < count; i++)
        {
            string path = $"{prefix}-{i + 1:d5}-of-{count:d5}.gguf";
            if (!File.Exists(path))
                throw new InvalidDataException($"{Path}: expected a model in {count} parts, found no {path}");
            GgufReader part = Add(path);
            if (!part.Metadata.TryGetValue("split.no", out object? no) || ToInt32("split.no", no) != i
                || !part.Metadata.TryGetValue("split.count", out object? of) || ToInt32("split.count", of) != count)
                throw new InvalidDataException(
                    $"{path}: expected split.no {i} and split.count {count} in its metadata, found others: the parts "
                    + "do not belong together");
            foreach (TensorView tensor in part.Tensors.Values)
            {
                if (!_tensors.TryAdd(tensor.Name, tensor))
                    throw new InvalidDataException(
                        $"{path}: expected every tensor once over all parts, found {FileText.Quoted(tensor.Name)} "
                        + "twice");
            }
        }
        if (_infos is null && Has("split.tensors.count") && GetInt32("split.tensors.count") != _tensors.Count)
            throw new InvalidDataException(
                $"{Path}: expected {GetInt32("split.tensors.count")} tensors in {count} parts, found {_tensors.Count}");
    }

    private int ToInt32(string key, object value)
    {
        Int128 wide = value switch
        {
            byte v => v,
            sbyte v => v,
            ushort v => v,
            short v => v,
            uint v => v,
            int v => v,
            ulong v => v,
            long v => v,
            _ => throw Wrong(key, "an integer", value),
        };
        return wide >= int.MinValue && wide <= int.MaxValue
            ? (int)wide
            : throw Wrong(key, "an integer of 32 bits", value);
    }

    private InvalidDataException Missing(string key, string expected) =>
        new($"{Path}: metadata \"{key}\": expected {expected}, found no such key");

    private InvalidDataException Wrong(string key, string expected, object found)
    {
        string text = found is Array array ? $"an array of {array.Length} {found.GetType().GetElementType()!.Name}"
            : $"{found.GetType().Name} {FileText.Shown(found.ToString()!)}";
        return new($"{Path}: metadata \"{key}\": expected {expected}, found {text}");
    }
}
