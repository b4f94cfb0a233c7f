using System.Numerics;
using System.Runtime.CompilerServices;
using System.Text;
using System.Text.Unicode;
using Native.Kernels.Formats;

namespace Native.Kernels.Files;

/// <summary>Parses the header of one GGUF file: magic, version, metadata, tensor infos. Every length and count is
/// compared with the bytes left before anything is allocated or read.</summary>
/// <param name="file">The file.</param>
/// <param name="infos">Receives the header's entry for every tensor. If given, tensors of unsupported types are listed
/// there instead of refused.</param>
/// <remarks>The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Versions 2 and 3 differ only in that
/// 3 may be big-endian, which is refused.</remarks>
internal sealed unsafe class GgufReader(FileBytes file, List<GgufTensorInfo>? infos = null)
{
    private const uint Magic = 0x46554747; // "GGUF"
    private const int MaxNameBytes = 65535; // the specification's limit for keys; it gives tensors 64
    private const int MaxDimensions = 4;   // GGML_MAX_DIMS

    // The least a metadata pair (length, a letter, type, a byte) and a tensor info (length, a letter, no dimensions,
    // type, offset) take.
    private const int MinPairBytes = 8 + 1 + 4 + 1, MinTensorBytes = 8 + 1 + 4 + 4 + 8;

    private long _at;

    public uint Version { get; private set; }
    public Dictionary<string, object> Metadata { get; private set; } = [];
    public Dictionary<string, TensorView> Tensors { get; private set; } = [];

    /// <summary>Offset in the file from which the tensors' offsets count.</summary>
    public long DataStart { get; private set; }

    private long Left => file.Length - _at;

    public void Read()
    {
        if (!BitConverter.IsLittleEndian)
            throw new PlatformNotSupportedException("GGUF files are read as they are and need a little-endian machine");

        uint magic = Read<uint>("the magic");
        if (magic != Magic)
            throw Bad(0, $"expected the magic \"GGUF\" (0x{Magic:x8}), found 0x{magic:x8}: this is not a GGUF file");
        Version = Read<uint>("the version");
        if (Version == 1)
            throw Bad(4,
                "expected GGUF version 2 or 3, found GGUF v1, which is no longer supported; convert the model again "
                + "with a current converter");
        if (Version != 0 && (Version & 0xffff) == 0)
            throw Bad(4,
                "expected a little-endian file, found a big-endian one; convert the model again for little-endian "
                + "machines");
        if (Version is not (2 or 3)) throw Bad(4, $"expected GGUF version 2 or 3, found {Version}");

        int tensors = ReadCount(MinTensorBytes, "the tensor count");
        int pairs = ReadCount(MinPairBytes, "the metadata count");
        ReadMetadata(pairs);
        ReadTensors(tensors);
        file.ForgetHead();
    }

    private void ReadMetadata(int count)
    {
        Metadata = new Dictionary<string, object>(count, StringComparer.Ordinal);
        for (int i = 0; i < count; i++)
        {
            long start = _at;
            string key = ReadName("a metadata key");
            object value = ReadValue(key);
            if (!Metadata.TryAdd(key, value))
                throw Bad(start, $"expected every metadata key once, found {FileText.Quoted(key)} twice");
        }
    }

    private object ReadValue(string key)
    {
        long start = _at;
        uint type = Read<uint>("a metadata type");
        return type switch
        {
            0 => Read<byte>("a metadata value"),
            1 => Read<sbyte>("a metadata value"),
            2 => Read<ushort>("a metadata value"),
            3 => Read<short>("a metadata value"),
            4 => Read<uint>("a metadata value"),
            5 => Read<int>("a metadata value"),
            6 => Read<float>("a metadata value"),
            7 => ReadBoolean(),
            8 => ReadString("a metadata string"),
            9 => ReadArray(key),
            10 => Read<ulong>("a metadata value"),
            11 => Read<long>("a metadata value"),
            12 => Read<double>("a metadata value"),
            _ => throw Bad(start, $"expected {FileText.Quoted(key)} to have a value type of 0 to 12, found {type}"),
        };
    }

    private object ReadArray(string key)
    {
        long start = _at;
        uint type = Read<uint>("an array's element type");
        return type switch
        {
            0 => ReadElements<byte>(),
            1 => ReadElements<sbyte>(),
            2 => ReadElements<ushort>(),
            3 => ReadElements<short>(),
            4 => ReadElements<uint>(),
            5 => ReadElements<int>(),
            6 => ReadElements<float>(),
            7 => ReadBooleans(),
            8 => ReadStrings(),
            10 => ReadElements<ulong>(),
            11 => ReadElements<long>(),
            12 => ReadElements<double>(),
            9 => throw Bad(start,
                $"expected {FileText.Quoted(key)} to be an array of numbers, booleans or strings, found an array of "
                + "arrays"),
            _ => throw Bad(start, $"expected {FileText.Quoted(key)} to have an element type of 0 to 12, found {type}"),
        };
    }

    private T[] ReadElements<T>()
        where T : unmanaged
    {
        int count = ReadCount(sizeof(T), "an array's length");
        byte* first = Take((long)count * sizeof(T), "an array");
        T[] values = GC.AllocateUninitializedArray<T>(count);
        fixed (T* to = values) Buffer.MemoryCopy(first, to, (long)count * sizeof(T), (long)count * sizeof(T));
        return values;
    }

    private bool[] ReadBooleans()
    {
        bool[] values = new bool[ReadCount(1, "an array's length")];
        for (int i = 0; i < values.Length; i++) values[i] = ReadBoolean();
        return values;
    }

    private string[] ReadStrings()
    {
        // An empty string still has its length
        string[] values = new string[ReadCount(sizeof(ulong), "an array's length")];
        for (int i = 0; i < values.Length; i++) values[i] = ReadString("a metadata string");
        return values;
    }

    private bool ReadBoolean()
    {
        byte value = Read<byte>("a boolean");
        return value <= 1 ? value == 1 : throw Bad(_at - 1, $"expected a boolean of 0 or 1, found {value}");
    }

    private void ReadTensors(int count)
    {
        Tensors = new Dictionary<string, TensorView>(count, StringComparer.Ordinal);
        long alignment = ReadAlignment();
        var places = new (ulong Offset, ulong Length, string Name)[count];
        for (int i = 0; i < count; i++)
        {
            long start = _at;
            TensorView tensor = ReadTensor(out ulong offset);
            if (offset % (ulong)alignment != 0)
                throw Bad(start,
                    $"expected tensor {FileText.Quoted(tensor.Name)} at a multiple of the alignment {alignment}, "
                    + $"found offset {offset}");
            // Listed only: its length is unknown and can't be checked.
            if (!TensorLayout.TryGet(tensor.Type, out _, out _)) continue;
            if (!Tensors.TryAdd(tensor.Name, tensor))
                throw Bad(start, $"expected every tensor once, found {FileText.Quoted(tensor.Name)} twice");
            places[i] = (offset, (ulong)tensor.ByteLength, tensor.Name);
        }

        // Offsets count from the aligned end of the infos, which is known only now. A file without tensors may end
        // before it.
        long dataStart = DataStart = (_at + alignment - 1) / alignment * alignment;
        ulong dataLength = (ulong)Math.Max(0, file.Length - dataStart);
        Array.Sort(places, static (a, b) => a.Offset.CompareTo(b.Offset));
        ulong end = 0;
        foreach ((ulong offset, ulong length, string name) in places)
        {
            if (name is null) continue; // the slot of a tensor that is only listed
            if (offset > dataLength || length > dataLength - offset)
                throw Bad(dataStart,
                    $"expected tensor {FileText.Quoted(name)} inside the {dataLength} bytes of data, found {length} "
                    + $"bytes at data offset {offset}: the file is truncated or damaged");
            if (offset < end)
                throw Bad(dataStart,
                    $"expected tensors not to overlap, found {FileText.Quoted(name)} at data offset {offset}, before "
                    + $"{end}, where the one before it ends");
            end = offset + length;
            Tensors[name] = Tensors[name] with { Start = (nint)(dataStart + (long)offset) };
        }
    }

    /// <summary>Reads one tensor info. Its bytes' start is not known yet.</summary>
    private TensorView ReadTensor(out ulong offset)
    {
        string name = ReadName("a tensor's name");
        long start = _at;
        uint dimensions = Read<uint>("a tensor's dimension count");
        if (dimensions > MaxDimensions)
            throw Bad(start,
                $"expected tensor {FileText.Quoted(name)} to have at most {MaxDimensions} dimensions, found "
                + $"{dimensions}");
        long columns = 1, rows = 1;
        long[]? shape = infos is null ? null : new long[dimensions];
        for (int d = 0; d < dimensions; d++)
        {
            ulong size = Read<ulong>("a tensor's dimension");
            // A weight takes at least two bits, so a file has at most four values per byte.
            if (size == 0 || size > (ulong)file.Length * 4
                || (d > 0 && (UInt128)(ulong)rows * size > (ulong)file.Length * 4))
                throw Bad(_at - 8,
                    $"expected tensor {FileText.Quoted(name)} to fit into a file of {file.Length} bytes, found "
                    + $"dimension {d} of {size}");
            if (d == 0) columns = (long)size;
            else rows *= (long)size;
            if (shape is not null) shape[d] = (long)size;
        }

        start = _at;
        var type = (TensorType)Read<int>("a tensor's type");
        if (!TensorLayout.TryGet(type, out int blockSize, out int blockBytes) && infos is not null)
        {
            offset = Read<ulong>("a tensor's offset");
            long? length = TensorLayout.TryDescribe(type, out blockSize, out blockBytes) && columns % blockSize == 0
                ? columns / blockSize * blockBytes * rows : null;
            infos.Add(new GgufTensorInfo(name, type, shape!, (long)offset, length));
            return new TensorView(name, type, rows, columns, 0, 0);
        }
        if (blockBytes == 0)
            throw Bad(start,
                $"tensor {FileText.Quoted(name)} has type {BlockFormat.Name(type)}, which is not supported; supported "
                + $"are {BlockFormat.SupportedNames}");
        if (columns % blockSize != 0)
            throw Bad(start,
                $"expected the rows of tensor {FileText.Quoted(name)} to be whole {type} blocks of {blockSize}, found "
                + $"{columns} columns");
        UInt128 bytes = (UInt128)(ulong)(columns / blockSize * blockBytes) * (ulong)rows;
        if (bytes > (ulong)file.Length)
            throw Bad(start,
                $"expected tensor {FileText.Quoted(name)} to fit into a file of {file.Length} bytes, found {rows} x "
                + $"{columns} values of {type}, {bytes} bytes");
        offset = Read<ulong>("a tensor's offset");
        infos?.Add(new GgufTensorInfo(name, type, shape!, (long)offset, (long)bytes));
        return new TensorView(name, type, rows, columns, 0, (long)bytes) { File = file };
    }

    private long ReadAlignment()
    {
        if (!Metadata.TryGetValue("general.alignment", out object? value)) return 32;
        if (value is uint alignment && alignment >= 8 && BitOperations.IsPow2(alignment)) return alignment;
        throw Bad(0,
            $"expected general.alignment to be an unsigned power of two, 8 or more, found {value} "
            + $"({value.GetType().Name})");
    }

    private string ReadName(string what)
    {
        long start = _at;
        int length = ReadCount(1, what);
        return length is > 0 and <= MaxNameBytes ? Decode(Take(length, what), length)
            : throw Bad(start, $"expected {what} of 1 to {MaxNameBytes} bytes, found {length}");
    }

    private string ReadString(string what)
    {
        int length = ReadCount(1, what);
        return Decode(Take(length, what), length);
    }

    /// <summary>Invalid UTF-8 becomes U+FFFD: a damaged description must not keep a model from loading.</summary>
    private static string Decode(byte* text, int length)
    {
        var bytes = new ReadOnlySpan<byte>(text, length);
        if (Utf8.IsValid(bytes)) return Encoding.UTF8.GetString(bytes);
        // Not by Encoding: its replacement allocates for every invalid byte, in all sixteen times the text.
        char[] chars = new char[length];
        Utf8.ToUtf16(bytes, chars, out _, out int written, replaceInvalidSequences: true, isFinalBlock: true);
        return new string(chars, 0, written);
    }

    /// <summary>Reads a 64-bit count of items of at least <paramref name="minBytes"/> bytes, and compares it with the
    /// rest of the file.</summary>
    private int ReadCount(int minBytes, string what)
    {
        long start = _at;
        ulong count = Read<ulong>(what);
        long most = Math.Min(Left / minBytes, Array.MaxLength);
        return count <= (ulong)most ? (int)count
            : throw Bad(
            start, $"expected {what} of at most {most}, which is what the file has room for, found {count}");
    }

    private T Read<T>(string what)
        where T : unmanaged => Unsafe.ReadUnaligned<T>(Take(sizeof(T), what));

    private byte* Take(long bytes, string what)
    {
        if (bytes > Left)
            throw Bad(_at,
                $"expected {what} of {bytes} bytes, found the end of the file at {file.Length}: the file is truncated");
        byte* first = file.Head(_at + bytes) + _at; // valid until the next call of Head
        _at += bytes;
        return first;
    }

    private InvalidDataException Bad(long offset, string problem) => new($"{file.Path}: offset {offset}: {problem}");
}
