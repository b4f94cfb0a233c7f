using System.Buffers.Binary;
using System.Text;
using System.Text.Json;
using Native.Kernels.Formats;
using Native.Kernels.Text;

namespace Native.Kernels.Files;

/// <summary>Parses the header of one safetensors file: eight bytes of length, JSON of that length, then the tensors'
/// bytes. No allocation depends on a number that the file claims.</summary>
/// <remarks>The format: https://huggingface.co/docs/safetensors. Unlike its reference reader, holes between tensors are
/// allowed; overlaps and places outside the file are not.</remarks>
internal sealed unsafe class SafetensorsReader(FileBytes file)
{
    /// <summary>The reference reader's limit on the header.</summary>
    private const long MaxHeaderBytes = 100_000_000;

    public Dictionary<string, TensorView> Tensors { get; } = new(StringComparer.Ordinal);

    /// <summary>The tensors whose dtype has no ggml number, with that dtype.</summary>
    public Dictionary<string, string> OtherTensors { get; } = new(StringComparer.Ordinal);

    public void Read()
    {
        if (!BitConverter.IsLittleEndian)
            throw new PlatformNotSupportedException(
                "safetensors files are read as they are and need a little-endian machine");
        if (file.Length < 8)
            throw Bad(0,
                $"expected the header's length in 8 bytes, found the end of the file at {file.Length}: the file is "
                + "truncated");
        ulong header = BinaryPrimitives.ReadUInt64LittleEndian(new ReadOnlySpan<byte>(file.Head(8), 8));
        ulong most = (ulong)Math.Min(file.Length - 8, MaxHeaderBytes);
        if (header > most)
            throw Bad(0,
                $"expected a header of at most {most} bytes, found {header}: the file is truncated or not a "
                + "safetensors file");

        var reader = new Utf8JsonReader(new ReadOnlySpan<byte>(file.Head(8 + (long)header) + 8, (int)header));
        try
        {
            ReadHeader(ref reader, 8 + (long)header);
            file.ForgetHead();
        }
        // InvalidOperationException is what the JSON reader throws for text that is not valid UTF-8 or UTF-16.
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            throw new InvalidDataException(
                $"{file.Path}: offset {8 + reader.TokenStartIndex}: expected a JSON header, found text that is none: "
                + $"{e.Message}", e);
        }
    }

    private void ReadHeader(ref Utf8JsonReader json, long dataStart)
    {
        Expect(ref json, JsonTokenType.StartObject, "the header to be an object");
        var places = new List<(long Begin, long End, string Name)>();
        while (json.Read() && json.TokenType == JsonTokenType.PropertyName)
        {
            if (json.ValueTextEquals("__metadata__"u8))
            {
                json.Read();
                json.Skip();
                continue;
            }
            long at = json.TokenStartIndex;
            string name = json.GetString()!;
            if (Tensors.ContainsKey(name) || OtherTensors.ContainsKey(name))
                throw Bad(8 + at, $"expected every tensor once, found {FileText.Quoted(name)} twice");
            places.Add(ReadTensor(ref json, name, dataStart));
        }
        // Spaces pad the header; they are not tokens
        if (json.Read()) throw Bad(8 + json.TokenStartIndex, "expected nothing after the header's object");

        // An empty tensor before the one that begins where it does
        places.Sort(static (a, b) => (a.Begin, a.End).CompareTo((b.Begin, b.End)));
        long end = 0;
        foreach ((long begin, long last, string name) in places)
        {
            if (begin < end)
                throw Bad(dataStart,
                    $"expected tensors not to overlap, found {FileText.Quoted(name)} at data offset {begin}, before "
                    + $"{end}, where the one before it ends");
            end = Math.Max(end, last);
        }
    }

    private (long Begin, long End, string Name) ReadTensor(ref Utf8JsonReader json, string name, long dataStart)
    {
        Expect(ref json, JsonTokenType.StartObject, "a tensor to be an object");
        long start = 8 + json.TokenStartIndex;
        string? dtype = null;
        long rows = 1, columns = 1, begin = -1, end = -1;
        bool shaped = false;
        while (json.Read() && json.TokenType == JsonTokenType.PropertyName)
        {
            if (json.ValueTextEquals("dtype"u8))
            {
                Expect(ref json, JsonTokenType.String, "a dtype to be a string");
                dtype = json.GetString();
            }
            else if (json.ValueTextEquals("shape"u8))
            {
                (rows, columns) = ReadShape(ref json, name);
                shaped = true;
            }
            else if (json.ValueTextEquals("data_offsets"u8))
            {
                Expect(ref json, JsonTokenType.StartArray, "data_offsets to be an array");
                begin = ReadSize(ref json);
                end = ReadSize(ref json);
                Expect(ref json, JsonTokenType.EndArray, "two data_offsets");
            }
            else
            {
                json.Read();
                json.Skip();
            }
        }
        if (dtype is null || !shaped || begin < 0)
            throw Bad(start,
                $"expected tensor {FileText.Quoted(name)} to have dtype, shape and data_offsets, found one missing");

        long dataLength = file.Length - dataStart;
        if (begin > end || end > dataLength)
            throw Bad(start,
                $"expected tensor {FileText.Quoted(name)} inside the {dataLength} bytes of data, found {begin} to "
                + $"{end}: the file is truncated or damaged");
        long length = end - begin;
        int size = ElementBytes(dtype);
        if (size != 0 && (UInt128)(ulong)rows * (ulong)columns * (uint)size != (ulong)length)
            throw Bad(start,
                $"expected tensor {FileText.Quoted(name)} of {rows} x {columns} {dtype} to take "
                + $"{(UInt128)(ulong)rows * (ulong)columns * (uint)size} bytes, found {length}");
        if (TypeOf(dtype) is { } type)
            Tensors.Add(name, new TensorView(name, type, rows, columns, (nint)(dataStart + begin),
                length)
            { File = file });
        else OtherTensors.Add(name, dtype);
        return (begin, end, name);
    }

    private (long Rows, long Columns) ReadShape(ref Utf8JsonReader json, string name)
    {
        Expect(ref json, JsonTokenType.StartArray, "a shape to be an array");
        UInt128 rows = 1;
        long columns = 1;
        bool first = true;
        while (json.Read() && json.TokenType != JsonTokenType.EndArray)
        {
            long size = SizeOf(ref json);
            if (!first) rows *= (ulong)columns; // the dimension before was not the last
            columns = size;
            first = false;
            if (rows > long.MaxValue || rows * (ulong)columns > long.MaxValue)
                throw Bad(8 + json.TokenStartIndex,
                    $"expected tensor {FileText.Quoted(name)} to fit into a file of {file.Length} bytes, found a "
                    + "shape beyond 64 bits");
        }
        return ((long)rows, columns);
    }

    private long ReadSize(ref Utf8JsonReader json)
    {
        json.Read();
        return SizeOf(ref json);
    }

    private long SizeOf(ref Utf8JsonReader json) =>
        json.TokenType == JsonTokenType.Number && json.TryGetInt64(out long size) && size >= 0
        ? size
        : throw Bad(8 + json.TokenStartIndex,
            $"expected a size from 0 to {long.MaxValue}, found {json.TokenType} {Found(ref json)}");

    private void Expect(ref Utf8JsonReader json, JsonTokenType type, string what)
    {
        if (!json.Read() || json.TokenType != type)
            throw Bad(8 + json.TokenStartIndex, $"expected {what}, found {json.TokenType} {Found(ref json)}");
    }

    private static string Found(ref Utf8JsonReader json) =>
        Encoding.UTF8.GetString(json.ValueSpan[..Math.Min(json.ValueSpan.Length, 40)]);

    private static TensorType? TypeOf(string dtype) => dtype switch
    {
        "F32" => TensorType.F32,
        "F16" => TensorType.F16,
        "BF16" => TensorType.BF16,
        "F64" => TensorType.F64,
        "I8" => TensorType.I8,
        "I16" => TensorType.I16,
        "I32" => TensorType.I32,
        "I64" => TensorType.I64,
        _ => null,
    };

    /// <summary>Bytes of one element; 0 for a dtype that is not known, whose length can't be checked.</summary>
    private static int ElementBytes(string dtype) => dtype switch
    {
        "BOOL" or "U8" or "I8" or "F8_E4M3" or "F8_E5M2" or "F8_E8M0" => 1,
        "F16" or "BF16" or "I16" or "U16" => 2,
        "F32" or "I32" or "U32" => 4,
        "F64" or "I64" or "U64" or "C64" => 8,
        _ => 0,
    };

    private InvalidDataException Bad(long offset, string problem) => new($"{file.Path}: offset {offset}: {problem}");
}
