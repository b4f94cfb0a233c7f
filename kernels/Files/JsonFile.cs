using System.Text.Json;

namespace Native.Kernels.Files;

/// <summary>Opens JSON files so that every mistake in them is an <see cref="InvalidDataException"/> naming file and field.</summary>
internal static class JsonFile
{
    public static void ReadIfThere(string path, Action<JsonField> read)
    {
        if (File.Exists(path)) Read(path, File.ReadAllBytes(path), read);
    }

    public static void Read(string path, ReadOnlyMemory<byte> bytes, Action<JsonField> read)
    {
        if (bytes.Span.StartsWith("\uFEFF"u8)) bytes = bytes[3..];
        try
        {
            using JsonDocument document = JsonDocument.Parse(bytes);
            read(new JsonField(path, "", document.RootElement));
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"{path}: line {e.LineNumber + 1}, byte {e.BytePositionInLine}: expected JSON, found something else: {e.Message}", e);
        }
        catch (InvalidOperationException e)
        {
            throw new InvalidDataException($"{path}: expected text in well-formed Unicode, found a lone surrogate", e);
        }
    }
}

/// <summary>A value in a JSON file that knows where it stands.</summary>
internal readonly struct JsonField(string file, string path, JsonElement element, int index = -1)
{
    public JsonValueKind Kind => element.ValueKind;

    public InvalidDataException Wrong(string expected, string found) => new($"{file}: {(Where.Length == 0 ? "the file" : Where)}: expected {expected}, found {found}");

    /// <summary>A member, or null where it is absent or JSON's null.</summary>
    public JsonField? Optional(string name)
    {
        Expect(JsonValueKind.Object, "an object");
        return element.TryGetProperty(name, out JsonElement value) && value.ValueKind != JsonValueKind.Null ? new JsonField(file, $"{Where}.{name}", value) : null;
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
        return element.TryGetInt32(out int value) ? value : throw Wrong("a whole number of 32 bits", element.GetRawText());
    }

    public float Single()
    {
        Expect(JsonValueKind.Number, "a number");
        return (float)element.GetDouble(); // infinite where it is too large: whoever asks knows the range
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

    /// <summary>Members as they are: a vocabulary has hundreds of thousands.</summary>
    public JsonElement.ObjectEnumerator RawMembers()
    {
        Expect(JsonValueKind.Object, "an object");
        return element.EnumerateObject();
    }

    /// <summary>Items as they are: a merge list has hundreds of thousands.</summary>
    public JsonElement.ArrayEnumerator RawItems()
    {
        Expect(JsonValueKind.Array, "an array");
        return element.EnumerateArray();
    }

    public IEnumerable<(string Name, JsonField Value)> Members()
    {
        Expect(JsonValueKind.Object, "an object");
        string where = Where;
        foreach (JsonProperty member in element.EnumerateObject()) yield return (member.Name, new JsonField(file, $"{where}.{member.Name}", member.Value));
    }

    // Put together only for a message.
    private string Where => index < 0 ? path : $"{path}[{index}]";

    private string Found => Kind.ToString().ToLowerInvariant();

    private void Expect(JsonValueKind kind, string what)
    {
        if (Kind != kind) throw Wrong(what, Found);
    }
}
