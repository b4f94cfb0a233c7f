using System.Runtime.InteropServices;
using System.Text;
using Native.Kernels.Formats;

namespace Native.Kernels.Files;

/// <summary>A tensor that a <see cref="GgufWriter"/> will write.</summary>
/// <param name="Name">Its name, at most 63 bytes for llama.cpp to read it.</param>
/// <param name="Type">A supported type.</param>
/// <param name="Shape">Its dimensions in GGUF's order, the contiguous one first: a whole number of blocks.</param>
public sealed record GgufTensorPlan(string Name, TensorType Type, IReadOnlyList<long> Shape)
{
    /// <summary>Bytes of a row of <c>Shape[0]</c> values.</summary>
    public long RowBytes => Shape[0] / BlockFormat.Of(Type).BlockSize * BlockFormat.Of(Type).BlockBytes;

    /// <summary>Rows: the product of all dimensions but the first.</summary>
    public long Rows => Shape.Skip(1).Aggregate(1L, static (product, size) => product * size);

    /// <summary>Bytes of the whole tensor.</summary>
    public long ByteLength => RowBytes * Rows;
}

/// <summary>Writes a GGUF file (version 3, little-endian) front to back, so that only a piece of a tensor is in memory
/// at a time. It writes to a temporary file beside the target, which <see cref="Complete"/> renames: an interruption
/// never leaves a file that looks whole.</summary>
/// <example><code>
/// using GgufWriter writer = new(path, metadata, [new("output_norm.weight", TensorType.F32, [2048])]);
/// writer.Write(bytes); // of all tensors, one after the other, in pieces of any length
/// writer.Complete();
/// </code></example>
public sealed class GgufWriter : IDisposable
{
    private const int Alignment = 32;

    private readonly IReadOnlyList<GgufTensorPlan> _tensors;
    private readonly string _path, _partial;
    private readonly FileStream _stream;
    private int _tensor;
    private long _written; // bytes of the current tensor

    /// <summary>Creates the file and writes its header.</summary>
    /// <param name="path">Path of the file. An existing file is replaced when the new one is complete.</param>
    /// <param name="metadata">Pairs in the order of the file: byte, sbyte, ushort, short, uint, int, float, bool,
    /// string, ulong, long, double, or an array of one of these.</param>
    /// <param name="tensors">Tensors in the order in which their bytes will come.</param>
    /// <exception cref="ArgumentException">A key or name twice, a value of a type that GGUF lacks, rows that are no
    /// whole blocks.</exception>
    /// <exception cref="IOException">It can't be written there.</exception>
    public GgufWriter(string path, IReadOnlyList<KeyValuePair<string, object>> metadata,
        IReadOnlyList<GgufTensorPlan> tensors)
    {
        HashSet<string> names = new(StringComparer.Ordinal);
        foreach (KeyValuePair<string, object> pair in metadata)
            if (!names.Add(pair.Key)) throw new ArgumentException($"metadata key {pair.Key} twice", nameof(metadata));
        names.Clear();
        foreach (GgufTensorPlan tensor in tensors)
        {
            if (!names.Add(tensor.Name)) throw new ArgumentException($"tensor {tensor.Name} twice", nameof(tensors));
            if (tensor.Shape.Count is < 1 or > 4 || tensor.Shape.Any(static size => size < 1))
                throw new ArgumentException(
                    $"tensor {tensor.Name}: expected 1 to 4 dimensions of at least 1, found "
                    + $"[{string.Join(", ", tensor.Shape)}]", nameof(tensors));
            if (tensor.Shape[0] % BlockFormat.Of(tensor.Type).BlockSize != 0)
                throw new ArgumentException(
                    $"tensor {tensor.Name}: rows of {tensor.Shape[0]} values are no whole blocks of {tensor.Type}",
                    nameof(tensors));
        }
        _tensors = tensors;
        _path = path;
        _partial = $"{path}.{Guid.NewGuid():N}.partial";
        _stream = new FileStream(_partial, FileMode.CreateNew, FileAccess.Write, FileShare.None, 1 << 16);
        try
        {
            WriteHeader(metadata);
        }
        catch (ArgumentOutOfRangeException e)
        {
            Dispose();
            throw TooLarge(e);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Appends bytes of the current tensor, and of those after it.</summary>
    /// <exception cref="InvalidOperationException">More than the plan has room for.</exception>
    /// <exception cref="IOException">It could not be written.</exception>
    public void Write(ReadOnlySpan<byte> bytes)
    {
        while (bytes.Length > 0)
        {
            if (_tensor == _tensors.Count)
                throw new InvalidOperationException($"{bytes.Length} bytes more than the planned tensors have");
            long length = _tensors[_tensor].ByteLength;
            int now = (int)Math.Min(bytes.Length, length - _written);
            try
            {
                _stream.Write(bytes[..now]);
            }
            catch (ArgumentOutOfRangeException e)
            {
                throw TooLarge(e);
            }
            bytes = bytes[now..];
            _written += now;
            if (_written < length) continue;
            Pad();
            _tensor++;
            _written = 0;
        }
    }

    /// <summary>Flushes the file to disk and gives it its name.</summary>
    /// <exception cref="InvalidOperationException">Bytes are missing.</exception>
    /// <exception cref="IOException">It could not be written.</exception>
    public void Complete()
    {
        if (_tensor < _tensors.Count)
            throw new InvalidOperationException(
                $"tensor {_tensors[_tensor].Name} has {_written} of its {_tensors[_tensor].ByteLength} bytes");
        try
        {
            _stream.Flush(flushToDisk: true);
        }
        catch (ArgumentOutOfRangeException e)
        {
            throw TooLarge(e);
        }
        _stream.Dispose();
        File.Move(_partial, _path, overwrite: true);
    }

    /// <summary>Removes the temporary file, unless the file was completed.</summary>
    public void Dispose()
    {
        try
        {
            _stream.Dispose();
        }
        catch (Exception e) when (e is IOException or ArgumentOutOfRangeException)
        {
            // Buffered bytes do not fit on the disk either. They are dropped with the file.
        }
        File.Delete(_partial);
    }

    /// <summary>The error for EFBIG: more than 4 GiB on FAT, or more than a limit of the process.</summary>
    private IOException TooLarge(ArgumentOutOfRangeException e) =>
        new($"File too large for the file system or for this process's limit : '{_partial}'", e);

    private void WriteHeader(IReadOnlyList<KeyValuePair<string, object>> metadata)
    {
        using BinaryWriter writer = new(_stream, Encoding.UTF8, leaveOpen: true);
        writer.Write("GGUF"u8);
        writer.Write(3u);
        writer.Write((ulong)_tensors.Count);
        writer.Write((ulong)metadata.Count);
        foreach ((string key, object value) in metadata)
        {
            WriteString(writer, key);
            WriteValue(writer, key, value);
        }
        long offset = 0;
        foreach (GgufTensorPlan tensor in _tensors)
        {
            WriteString(writer, tensor.Name);
            writer.Write(tensor.Shape.Count);
            foreach (long size in tensor.Shape) writer.Write(size);
            writer.Write((int)tensor.Type);
            writer.Write(offset);
            offset += (tensor.ByteLength + Alignment - 1) / Alignment * Alignment;
        }
        writer.Flush();
        Pad();
    }

    private void Pad()
    {
        ReadOnlySpan<byte> zeros = stackalloc byte[Alignment];
        _stream.Write(zeros[..(int)((Alignment - _stream.Position % Alignment) % Alignment)]);
    }

    private static void WriteString(BinaryWriter writer, string text)
    {
        byte[] bytes = Encoding.UTF8.GetBytes(text);
        writer.Write((ulong)bytes.Length);
        writer.Write(bytes);
    }

    private static void WriteValue(BinaryWriter writer, string key, object value)
    {
        if (value is not Array array)
        {
            writer.Write(TypeNumber(key, value.GetType()));
            WriteScalar(writer, value);
            return;
        }
        writer.Write(9u);
        writer.Write(TypeNumber(key, array.GetType().GetElementType()!));
        writer.Write((ulong)array.LongLength);
        // By exact type: the runtime also casts an int[] to uint[], which does no harm here.
        if (value is float[] floats) writer.Write(MemoryMarshal.AsBytes(floats.AsSpan()));
        else if (value is int[] ints) writer.Write(MemoryMarshal.AsBytes(ints.AsSpan()));
        else foreach (object element in array) WriteScalar(writer, element);
    }

    private static uint TypeNumber(string key, Type type) =>
        type == typeof(byte) ? 0
        : type == typeof(sbyte) ? 1
        : type == typeof(ushort) ? 2
        : type == typeof(short) ? 3
        : type == typeof(uint) ? 4
        : type == typeof(int) ? 5
        : type == typeof(float) ? 6
        : type == typeof(bool) ? 7
        : type == typeof(string) ? 8
        : type == typeof(ulong) ? 10
        : type == typeof(long) ? 11
        : type == typeof(double) ? 12u
        : throw new ArgumentException($"metadata {key}: GGUF has no {type.Name}");

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
            case ulong v: writer.Write(v); break;
            case long v: writer.Write(v); break;
            case double v: writer.Write(v); break;
            default: WriteString(writer, (string)value); break;
        }
    }
}
