using System.Text.Json;
using Native.Server.Serving;

namespace Native.Server.Http;

/// <summary>Reads the members of a JSON object one by one. A member that is absent or null is "not given"; one of a
/// wrong type is an error that names it; unknown ones are nobody's business.</summary>
internal readonly struct Fields(JsonElement element, string path = "")
{
    /// <exception cref="RequestException"><paramref name="element"/> is no object.</exception>
    public static Fields Of(JsonElement element, string path) =>
        element.ValueKind == JsonValueKind.Object ? new Fields(element, path) : throw Wrong(path, "an object", element);

    /// <summary>Every member's numbers; of members with the same name the last counts, as everywhere. One that is null
    /// is 0.</summary>
    /// <param name="most">Members it may have; more are refused before any is read.</param>
    public Dictionary<string, float> Floats(int most)
    {
        CheckCount(element.GetPropertyCount(), most, path);
        Dictionary<string, float> values = new(StringComparer.Ordinal);
        foreach (JsonProperty member in element.EnumerateObject())
        {
            values[member.Name] = member.Value.ValueKind switch
            {
                JsonValueKind.Null => 0,
                JsonValueKind.Number => (float)member.Value.GetDouble(),
                _ => throw Wrong(path, "an object whose values are numbers", member.Value),
            };
        }
        return values;
    }

    /// <summary>Refuses members of other names, where a misspelt one would promise what nobody keeps.</summary>
    public void AllowOnly(params ReadOnlySpan<string> names)
    {
        foreach (JsonProperty member in element.EnumerateObject())
        {
            if (!names.Contains(member.Name))
                throw RequestException.Invalid($"'{PathOf(RequestException.Quoted(member.Name))}' is not known; "
                    + $"'{path}' has {string.Join(", ", names)}.", PathOf(RequestException.Quoted(member.Name)));
        }
    }

    public JsonElement? Any(string name) =>
        element.TryGetProperty(name, out JsonElement value) && value.ValueKind != JsonValueKind.Null ? value : null;

    public string? String(string name) =>
        Any(name) is not { } value ? null : value.ValueKind == JsonValueKind.String ? value.GetString()
            : throw Wrong(PathOf(name), "a string", value);

    public bool? Bool(string name) => Any(name) is not { } value ? null : value.ValueKind switch
    {
        JsonValueKind.True => true,
        JsonValueKind.False => false,
        _ => throw Wrong(PathOf(name), "a boolean", value),
    };

    public int? Int(string name) => Any(name) is { } value ? Int(value, PathOf(name)) : null;

    public double? Double(string name) => Number(name)?.GetDouble();

    /// <summary>A number of 32 bits, rounded.</summary>
    public float? Float(string name)
    {
        if (Number(name) is not { } value) return null;
        float rounded = (float)value.GetDouble();
        return float.IsFinite(rounded) ? rounded : throw RequestException.Invalid(
            $"'{PathOf(name)}' is {RequestException.Quoted(value.GetRawText())}; it must be a number that a float of "
                + "32 bits holds.", PathOf(name));
    }

    /// <summary>A number of tokens. What 32 bits don't hold is as many as they hold: no context is as long.</summary>
    public int? Tokens(string name) =>
        Any(name) is { ValueKind: JsonValueKind.Number } value && value.GetDouble() is > int.MaxValue and var many
            && many == Math.Floor(many) ? int.MaxValue : Int(name);

    /// <summary>A 64-bit number, signed or not; -1 is none.</summary>
    public ulong? Seed(string name)
    {
        const double MostExact = 1L << 53;
        if (Any(name) is not { } value) return null;
        if (value.ValueKind != JsonValueKind.Number) throw Wrong(PathOf(name), "an integer", value);
        if (value.TryGetUInt64(out ulong unsigned)) return unsigned;
        bool whole = value.TryGetInt64(out long signed);
        if (!whole && value.GetDouble() is >= -MostExact and <= MostExact and var real && real == Math.Floor(real))
            (whole, signed) = (true, (long)real);
        if (whole && signed == -1) return null;
        return whole ? unchecked((ulong)signed)
            : throw RequestException.Invalid($"'{PathOf(name)}' must be an integer of 64 bits.", PathOf(name));
    }

    public Fields? Object(string name) => Any(name) is { } value ? Of(value, PathOf(name)) : null;

    /// <summary>A list of strings; a single one counts as a list.</summary>
    /// <param name="name">The member.</param>
    /// <param name="most">Strings it may have; more are refused before any is read.</param>
    public IReadOnlyList<string> Strings(string name, int most)
    {
        if (Any(name) is not { } value) return [];
        if (value.ValueKind == JsonValueKind.String) return [value.GetString()!];
        if (value.ValueKind != JsonValueKind.Array) throw Wrong(PathOf(name), "a string or a list of strings", value);
        CheckCount(value.GetArrayLength(), most, PathOf(name));
        List<string> strings = [];
        foreach (JsonElement item in value.EnumerateArray())
            strings.Add(item.ValueKind == JsonValueKind.String ? item.GetString()!
                : throw Wrong(PathOf(name), "a string or a list of strings", item));
        return strings;
    }

    /// <inheritdoc cref="Strings"/>
    public int[] Ints(string name, int most)
    {
        if (Any(name) is not { } value) return [];
        if (value.ValueKind != JsonValueKind.Array) throw Wrong(PathOf(name), "a list of integers", value);
        CheckCount(value.GetArrayLength(), most, PathOf(name));
        return Ints(value, PathOf(name));
    }

    public static int[] Ints(JsonElement list, string path)
    {
        int[] values = new int[list.GetArrayLength()];
        int i = 0;
        foreach (JsonElement item in list.EnumerateArray()) values[i++] = Int(item, path);
        return values;
    }

    /// <summary>That a member is of the wrong type.</summary>
    public static RequestException Wrong(string path, string expected, JsonElement found) =>
        RequestException.Invalid(
            $"{(path.Length == 0 ? "The body" : $"'{path}'")} must be {expected}, not {NameOf(found.ValueKind)}.",
            path.Length == 0 ? null : path, "invalid_type");

    private static void CheckCount(int count, int most, string path)
    {
        if (count > most)
            throw RequestException.Invalid($"'{path}' has {count} entries; at most {most} are allowed.", path);
    }

    private JsonElement? Number(string name) =>
        Any(name) is not { } value ? null : value.ValueKind == JsonValueKind.Number ? value
            : throw Wrong(PathOf(name), "a number", value);

    private static int Int(JsonElement value, string path)
    {
        if (value.ValueKind != JsonValueKind.Number) throw Wrong(path, "an integer", value);
        if (value.TryGetInt32(out int number)) return number;
        double real = value.GetDouble();
        if (real is >= int.MinValue and <= int.MaxValue && real == Math.Floor(real)) return (int)real;
        throw RequestException.Invalid(
            $"'{path}' is {RequestException.Quoted(value.GetRawText())}; it must be an integer of 32 bits.", path);
    }

    private static string NameOf(JsonValueKind kind) => kind switch
    {
        JsonValueKind.Object => "an object",
        JsonValueKind.Array => "a list",
        JsonValueKind.String => "a string",
        JsonValueKind.Number => "a number",
        JsonValueKind.True or JsonValueKind.False => "a boolean",
        _ => "null",
    };

    private string PathOf(string name) => path.Length == 0 ? name : $"{path}.{name}";
}
