using System.Buffers.Binary;
using System.Text;
using Native.Kernels.Files;

namespace Native.Tools.DemoModel;

/// <summary>
/// Writes GGUF version 3, little endian (ggml's docs/gguf.md): metadata in order of <c>Add</c>, then tensors,
/// each aligned to 32 bytes.
/// </summary>
internal sealed class GgufWriter
{
    private const int Alignment = 32;
    private const uint TypeF32 = 0, TypeQ8_0 = 8;
    private enum Kind : uint { U32 = 4, I32 = 5, F32 = 6, Bool = 7, String = 8, Array = 9 }

    private readonly MemoryStream _metadata = new();
    private readonly List<(string Name, int[] Dimensions, uint Type, byte[] Data)> _tensors = [];
    private int _entries;

    public void Add(string key, uint value) => Write(key, Kind.U32).Write(value);
    public void Add(string key, float value) => Write(key, Kind.F32).Write(value);
    public void Add(string key, bool value) => Write(key, Kind.Bool).Write(value);
    public void Add(string key, string value) => WriteString(Write(key, Kind.String), value);

    public void Add(string key, IReadOnlyList<string> values)
    {
        BinaryWriter writer = Array(key, Kind.String, values.Count);
        foreach (string value in values) WriteString(writer, value);
    }

    public void Add(string key, IReadOnlyList<int> values)
    {
        BinaryWriter writer = Array(key, Kind.I32, values.Count);
        foreach (int value in values) writer.Write(value);
    }

    /// <summary>A vector kept as float32.</summary>
    public void AddF32(string name, ReadOnlySpan<float> values)
    {
        var data = new byte[values.Length * sizeof(float)];
        for (int i = 0; i < values.Length; i++) BinaryPrimitives.WriteSingleLittleEndian(data.AsSpan(i * 4), values[i]);
        _tensors.Add((name, [values.Length], TypeF32, data));
    }

    /// <summary>A row-major matrix as Q8_0: per 32 values an fp16 scale amax / 127 and 32 signed bytes.</summary>
    public void AddQ8_0(string name, ReadOnlySpan<float> values, int rows, int columns)
    {
        if (columns % 32 != 0) throw new ArgumentException($"{name}: rows of {columns} are no multiple of 32");
        var data = new byte[rows * columns / 32 * 34];
        for (int block = 0; block < values.Length / 32; block++)
        {
            ReadOnlySpan<float> x = values.Slice(block * 32, 32);
            Span<byte> y = data.AsSpan(block * 34, 34);
            float amax = 0;
            foreach (float value in x) amax = Math.Max(amax, Math.Abs(value));
            float scale = amax / 127;
            float inverse = scale != 0 ? 1 / scale : 0;
            BinaryPrimitives.WriteHalfLittleEndian(y, (Half)scale);
            for (int i = 0; i < 32; i++) y[2 + i] = (byte)(sbyte)MathF.Round(x[i] * inverse, MidpointRounding.AwayFromZero);
        }
        _tensors.Add((name, [columns, rows], TypeQ8_0, data));
    }

    public void Save(string path)
    {
        using var writer = new BinaryWriter(File.Create(path), Encoding.UTF8);
        writer.Write("GGUF"u8);
        writer.Write(3u);
        writer.Write((ulong)_tensors.Count);
        writer.Write((ulong)_entries);
        writer.Write(_metadata.ToArray());

        ulong offset = 0;
        foreach (var (name, dimensions, type, data) in _tensors)
        {
            WriteString(writer, name);
            writer.Write((uint)dimensions.Length);
            foreach (int dimension in dimensions) writer.Write((ulong)dimension);
            writer.Write(type);
            writer.Write(offset);
            offset += (ulong)(data.Length + Padding(data.Length));
        }
        writer.Write(new byte[Padding(writer.BaseStream.Position)]);
        foreach (var (_, _, _, data) in _tensors)
        {
            writer.Write(data);
            writer.Write(new byte[Padding(data.Length)]);
        }
    }

    private static int Padding(long position) => (int)((Alignment - position % Alignment) % Alignment);

    private BinaryWriter Array(string key, Kind element, int count)
    {
        BinaryWriter writer = Write(key, Kind.Array);
        writer.Write((uint)element);
        writer.Write((ulong)count);
        return writer;
    }

    private BinaryWriter Write(string key, Kind kind)
    {
        _entries++;
        var writer = new BinaryWriter(_metadata, Encoding.UTF8);
        WriteString(writer, key);
        writer.Write((uint)kind);
        return writer;
    }

    private static void WriteString(BinaryWriter writer, string value)
    {
        byte[] bytes = Encoding.UTF8.GetBytes(value);
        writer.Write((ulong)bytes.Length);
        writer.Write(bytes);
    }
}
