using System.Buffers;
using System.Text.Json;

namespace Native.Kernels.Files;

/// <summary>Opens JSON files so that every mistake in them is an <see cref="InvalidDataException"/> naming file and
/// field.</summary>
public static class JsonFile
{
    internal static void ReadIfThere(string path, Action<JsonField> read)
    {
        if (File.Exists(path)) Read(path, File.ReadAllBytes(path), read);
    }

    internal static void Read(string path, ReadOnlyMemory<byte> bytes, Action<JsonField> read)
    {
        try
        {
            using JsonDocument document = JsonDocument.Parse(Standard(bytes));
            read(new JsonField(path, "", document.RootElement));
        }
        catch (JsonException e)
        {
            throw new InvalidDataException(
                $"{path}: line {e.LineNumber + 1}, byte {e.BytePositionInLine}: expected JSON, found something else: "
                + $"{e.Message}", e);
        }
        catch (InvalidOperationException e)
        {
            throw new InvalidDataException($"{path}: expected text in well-formed Unicode, found a lone surrogate", e);
        }
    }

    /// <summary>Turns what Python's library writes into JSON: without a byte order mark, and with NaN, Infinity and
    /// -Infinity as strings, which are refused only where a number is needed.</summary>
    public static ReadOnlyMemory<byte> Standard(ReadOnlyMemory<byte> bytes)
    {
        if (bytes.Span.StartsWith("\uFEFF"u8)) bytes = bytes[3..];
        ReadOnlySpan<byte> text = bytes.Span;
        if (text.IndexOf("NaN"u8) < 0 && text.IndexOf("Infinity"u8) < 0) return bytes;
        ArrayBufferWriter<byte> standard = new(text.Length + 64);
        int done = 0;
        for (int at = 0; at < text.Length;)
        {
            if (text[at] == (byte)'"')
            {
                at = EndOfString(text, at);
                continue;
            }
            int length = LengthOfWord(text[at..]);
            if (length > 0)
            {
                standard.Write(text[done..at]);
                standard.Write("\""u8);
                standard.Write(text.Slice(at, length));
                standard.Write("\""u8);
                done = at + length;
            }
            at += Math.Max(length, 1);
        }
        standard.Write(text[done..]);
        return standard.WrittenMemory;
    }

    private static int EndOfString(ReadOnlySpan<byte> text, int start)
    {
        for (int at = start + 1; at < text.Length; at++)
        {
            if (text[at] == (byte)'\\') at++;
            else if (text[at] == (byte)'"') return at + 1;
        }
        return text.Length;
    }

    private static int LengthOfWord(ReadOnlySpan<byte> text)
    {
        if (text.StartsWith("NaN"u8)) return 3;
        if (text.StartsWith("Infinity"u8)) return 8;
        return text.StartsWith("-Infinity"u8) ? 9 : 0;
    }
}

/// <summary>A value in a JSON file, with its path in the file.</summary>
internal readonly struct JsonField(string file, string path, JsonElement element, int index = -1)
{
    public JsonValueKind Kind => element.ValueKind;

    public InvalidDataException Wrong(string expected, string found) =>
        new($"{file}: {(Where.Length == 0 ? "the file" : Where)}: expected {expected}, found {found}");

    /// <summary>A member, or null where it is absent or JSON's null.</summary>
    public JsonField? Optional(string name)
    {
        Expect(JsonValueKind.Object, "an object");
        return element.TryGetProperty(name, out JsonElement value) && value.ValueKind != JsonValueKind.Null
            ? new JsonField(file, $"{Where}.{name}", value) : null;
    }

    public JsonField Required(string name) => Optional(name) ?? throw Wrong($"a member '{name}'", "none");

    public string Text()
    {
        Expect(JsonValueKind.String, "a string");
        return element.GetString()!;
    }

    public int Int32()
    {
        Expect(JsonValueKind.Number, "a number");
        return element.TryGetInt32(out int value)
            ? value : throw Wrong("a whole number of 32 bits", element.GetRawText());
    }

    public float Single()
    {
        Expect(JsonValueKind.Number, "a number");
        return (float)element.GetDouble(); // infinite if it is too large; the caller checks the range
    }

    public bool Boolean() => Kind switch
    {
        JsonValueKind.True => true,
        JsonValueKind.False => false,
        _ => throw Wrong("true or false", Found),
    };

    public IEnumerable<JsonField> Items()
    {
        Expect(JsonValueKind.Array, "an array");
        int i = 0;
        foreach (JsonElement item in element.EnumerateArray()) yield return new JsonField(file, path, item, i++);
    }

    /// <summary>Members without paths: a vocabulary has hundreds of thousands.</summary>
    public JsonElement.ObjectEnumerator RawMembers()
    {
        Expect(JsonValueKind.Object, "an object");
        return element.EnumerateObject();
    }

    /// <summary>Items without paths: a merge list has hundreds of thousands.</summary>
    public JsonElement.ArrayEnumerator RawItems()
    {
        Expect(JsonValueKind.Array, "an array");
        return element.EnumerateArray();
    }

    public IEnumerable<(string Name, JsonField Value)> Members()
    {
        Expect(JsonValueKind.Object, "an object");
        string where = Where;
        foreach (JsonProperty member in element.EnumerateObject())
            yield return (member.Name, new JsonField(file, $"{where}.{member.Name}", member.Value));
    }

    // Built only for a message.
    private string Where => index < 0 ? path : $"{path}[{index}]";

    private string Found => Kind.ToString().ToLowerInvariant();

    private void Expect(JsonValueKind kind, string what)
    {
        if (Kind != kind) throw Wrong(what, Found);
    }
}
