using System.Buffers;
using System.Text;
using System.Text.Json;
using Native.Kernels.Text;

namespace Native.Server;

/// <summary>
/// Keeps what a user typed from being read as control tokens. A chat template writes texts such as <c>&lt;|im_end|&gt;</c> that must become
/// control tokens; the same text inside a message must not, or a message could end its own turn and open the system's.
/// </summary>
/// <remarks>
/// Control texts in messages are marked with a Unicode noncharacter before the template runs; after it, the marked ones are encoded as
/// plain text and the others as tokens. Conversations without such texts, nearly all, take neither step.
/// </remarks>
internal sealed class ControlTexts
{
    private const char Mark = '\uFDD0'; // a noncharacter: never part of interchanged text

    private readonly Tokenizer _tokenizer;
    private readonly HashSet<string> _texts;
    private readonly int[] _lengths; // longest first, so that a text that begins another does not hide it
    private readonly SearchValues<string> _any;

    public ControlTexts(Tokenizer tokenizer)
    {
        _tokenizer = tokenizer;
        _texts = new HashSet<string>(Enumerable.Range(0, tokenizer.VocabularySize).Where(tokenizer.IsSpecial).Select(tokenizer.Piece).Where(text => text.Length > 1), StringComparer.Ordinal);
        _lengths = [.. _texts.Select(text => text.Length).Distinct().OrderDescending()];
        _any = SearchValues.Create([.. _texts], StringComparison.Ordinal);
    }

    /// <summary>Marks the control texts in all strings of <paramref name="messages"/>.</summary>
    /// <returns>The same element where there are none.</returns>
    public JsonElement MarkIn(JsonElement messages, out bool marked)
    {
        marked = Contains(messages);
        if (!marked) return messages;
        ArrayBufferWriter<byte> buffer = new();
        using (Utf8JsonWriter writer = new(buffer)) Copy(messages, writer);
        Utf8JsonReader reader = new(buffer.WrittenSpan);
        return JsonElement.ParseValue(ref reader);
    }

    /// <summary>The ids of a rendered conversation; marked texts are plain, unmarked ones are tokens.</summary>
    public List<int> EncodeMarked(string text)
    {
        List<int> ids = [];
        int done = 0;
        for (int at = text.IndexOf(Mark); at > 0; at = text.IndexOf(Mark, Math.Max(done, at + 1)))
        {
            int start = at - 1; // the mark stands after a text's first character
            int length = LongestAt(string.Concat(text.AsSpan(start, 1), text.AsSpan(at + 1, Math.Min(_lengths[0] - 1, text.Length - at - 1))));
            if (start > done) ids.AddRange(_tokenizer.Encode(text[done..start], addSpecial: false, parseSpecial: true));
            ids.AddRange(_tokenizer.Encode(string.Concat(text.AsSpan(start, 1), text.AsSpan(at + 1, length - 1)), addSpecial: false, parseSpecial: false));
            done = at + length;
        }
        ids.AddRange(_tokenizer.Encode(text[done..], addSpecial: false, parseSpecial: true));
        return ids;
    }

    private bool Contains(JsonElement element) => element.ValueKind switch
    {
        JsonValueKind.String => element.GetString().AsSpan().ContainsAny(_any),
        JsonValueKind.Array => element.EnumerateArray().Any(Contains),
        JsonValueKind.Object => element.EnumerateObject().Any(member => Contains(member.Value)),
        _ => false,
    };

    private void Copy(JsonElement element, Utf8JsonWriter writer)
    {
        switch (element.ValueKind)
        {
            case JsonValueKind.String:
                writer.WriteStringValue(MarkIn(element.GetString()!));
                break;
            case JsonValueKind.Array:
                writer.WriteStartArray();
                foreach (JsonElement item in element.EnumerateArray()) Copy(item, writer);
                writer.WriteEndArray();
                break;
            case JsonValueKind.Object:
                writer.WriteStartObject();
                foreach (JsonProperty member in element.EnumerateObject())
                {
                    writer.WritePropertyName(member.Name);
                    Copy(member.Value, writer);
                }
                writer.WriteEndObject();
                break;
            default:
                element.WriteTo(writer);
                break;
        }
    }

    private string MarkIn(string text)
    {
        StringBuilder marked = new(text.Length + 8);
        ReadOnlySpan<char> rest = text.Replace(Mark, '\uFFFD');
        for (int at = rest.IndexOfAny(_any); at >= 0; at = rest.IndexOfAny(_any))
        {
            int length = LongestAt(rest[at..]);
            marked.Append(rest[..(at + 1)]).Append(Mark).Append(rest[(at + 1)..(at + length)]);
            rest = rest[(at + length)..];
        }
        return marked.Append(rest).ToString();
    }

    /// <summary>Length of the longest control text that <paramref name="text"/> begins with; 1 where it begins with none.</summary>
    private int LongestAt(ReadOnlySpan<char> text)
    {
        HashSet<string>.AlternateLookup<ReadOnlySpan<char>> known = _texts.GetAlternateLookup<ReadOnlySpan<char>>();
        foreach (int length in _lengths)
            if (length <= text.Length && known.Contains(text[..length])) return length;
        return 1;
    }
}
