using System.Text;
using Native.Kernels.Files;
using Native.Kernels.Formats;

namespace Native.Tests.Kernels;

/// <summary>Writes small GGUF files for tests, sound ones and (through <see cref="GgufTensor.Offset"/>,
/// <see cref="Version"/>, repeated names) unsound ones.</summary>
/// <example><code>byte[] file = new GgufBytes { { "general.architecture", "llama" }, { "llama.block_count", 2u } }.Tensor("output_norm.weight", [1f, 2f]).ToArray();</code></example>
internal sealed class GgufBytes : System.Collections.IEnumerable
{
    private readonly List<(string Key, object Value)> _metadata = [];
    private readonly List<GgufTensor> _tensors = [];

    public uint Version { get; init; } = 3;

    /// <summary>The alignment that is used; it is written only if general.alignment is added too.</summary>
    public int Alignment { get; init; } = 32;

    /// <summary>Where things begin in the file that <see cref="ToArray"/> last made: header, each pair, each tensor
    /// info, the data.</summary>
    public List<int> Boundaries { get; } = [];

    /// <summary>Adds a metadata pair: byte, sbyte, ushort, short, uint, int, float, bool, string, ulong, long, double,
    /// or an array of one of these.</summary>
    public void Add(string key, object value) => _metadata.Add((key, value));

    /// <summary>As <see cref="Add"/>, for a chain of calls.</summary>
    public GgufBytes With(string key, object value)
    {
        Add(key, value);
        return this;
    }

    /// <summary>Adds a tensor of any type from its bytes; dimensions in GGUF's order, contiguous first.</summary>
    public GgufBytes Tensor(string name, TensorType type, ulong[] dimensions, byte[] data, ulong? offset = null)
    {
        _tensors.Add(new GgufTensor(name, type, dimensions, data, offset));
        return this;
    }

    /// <summary>Adds an F32 vector.</summary>
    public GgufBytes Tensor(string name, float[] values) => Tensor(name, values, values.Length);

    /// <summary>Adds an F32 matrix, row-major.</summary>
    public GgufBytes Tensor(string name, float[] values, int columns)
    {
        byte[] data = new byte[values.Length * sizeof(float)];
        Buffer.BlockCopy(values, 0, data, 0, data.Length);
        ulong[] dimensions = values.Length == columns ? [(ulong)columns] : [(ulong)columns, (ulong)(values.Length / columns)];
        return Tensor(name, TensorType.F32, dimensions, data);
    }

    public byte[] ToArray()
    {
        Boundaries.Clear();
        using var stream = new MemoryStream();
        using var writer = new BinaryWriter(stream);
        writer.Write("GGUF"u8);
        writer.Write(Version);
        writer.Write((ulong)_tensors.Count);
        writer.Write((ulong)_metadata.Count);
        foreach ((string key, object value) in _metadata)
        {
            Boundaries.Add((int)stream.Position);
            WriteString(writer, key);
            WriteValue(writer, value);
        }

        ulong next = 0;
        var places = new List<(ulong Offset, byte[] Data)>();
        foreach (GgufTensor tensor in _tensors)
        {
            Boundaries.Add((int)stream.Position);
            WriteString(writer, tensor.Name);
            writer.Write(tensor.Dimensions.Length);
            foreach (ulong d in tensor.Dimensions) writer.Write(d);
            writer.Write((int)tensor.Type);
            writer.Write(tensor.Offset ?? next);
            places.Add((next, tensor.Data));
            next = (ulong)Align((long)next + tensor.Data.Length);
        }

        Boundaries.Add((int)stream.Position);
        long start = Align(stream.Position);
        foreach ((ulong offset, byte[] data) in places)
        {
            stream.SetLength(start + (long)offset);
            stream.Position = stream.Length;
            Boundaries.Add((int)stream.Position);
            stream.Write(data);
        }
        return stream.ToArray();
    }

    /// <summary>Writes the file into a new temporary file, which the caller deletes by disposing.</summary>
    public TemporaryFile ToFile() => new(ToArray());

    System.Collections.IEnumerator System.Collections.IEnumerable.GetEnumerator() => _metadata.GetEnumerator();

    private long Align(long position) => (position + Alignment - 1) / Alignment * Alignment;

    private static void WriteString(BinaryWriter writer, string text)
    {
        byte[] bytes = Encoding.UTF8.GetBytes(text);
        writer.Write((ulong)bytes.Length);
        writer.Write(bytes);
    }

    private static void WriteValue(BinaryWriter writer, object value)
    {
        writer.Write(TypeNumber(value));
        if (value is not Array array)
        {
            WriteScalar(writer, value);
            return;
        }
        writer.Write(array.Length == 0 ? 5u : TypeNumber(array.GetValue(0)!));
        writer.Write((ulong)array.Length);
        foreach (object element in array) WriteScalar(writer, element);
    }

    private static uint TypeNumber(object value) => value switch
    {
        byte => 0,
        sbyte => 1,
        ushort => 2,
        short => 3,
        uint => 4,
        int => 5,
        float => 6,
        bool => 7,
        string => 8,
        Array => 9,
        ulong => 10,
        long => 11,
        double => 12,
        _ => throw new ArgumentException($"GGUF has no {value.GetType()}"),
    };

    private static void WriteScalar(BinaryWriter writer, object value)
    {
        switch (value)
        {
            case byte v: writer.Write(v); break;
            case sbyte v: writer.Write(v); break;
            case ushort v: writer.Write(v); break;
            case short v: writer.Write(v); break;
            case uint v: writer.Write(v); break;
            case int v: writer.Write(v); break;
            case float v: writer.Write(v); break;
            case bool v: writer.Write(v); break;
            case string v: WriteString(writer, v); break;
            case ulong v: writer.Write(v); break;
            case long v: writer.Write(v); break;
            case double v: writer.Write(v); break;
            default: throw new ArgumentException($"GGUF has no {value.GetType()} in arrays");
        }
    }
}

/// <summary>A tensor to write. <paramref name="Offset"/> is what the info claims instead of where the data
/// goes.</summary>
internal sealed record GgufTensor(string Name, TensorType Type, ulong[] Dimensions, byte[] Data, ulong? Offset);
