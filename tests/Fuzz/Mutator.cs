using System.Buffers.Binary;
using System.Text;
using Native.Server.Http;

namespace Native.Tests.Fuzz;

/// <summary>What a mutator may take inputs for, beside bytes.</summary>
internal enum InputKind
{
    /// <summary>Lengths and counts are little-endian integers between names and data.</summary>
    Binary,

    /// <summary>Words, numbers, strings and marks, as JSON and templates have them.</summary>
    Text,

    /// <summary>Protobuf's fields, nested.</summary>
    Protobuf,
}

/// <summary>Makes bad inputs of good ones by one to eight edits, some to bytes and some to what the bytes mean. The
/// same <see cref="Random"/> makes the same input.</summary>
/// <param name="kind">How inputs are built.</param>
/// <param name="seeds">The good ones; finds of the past among them.</param>
/// <param name="words">What the readers look for, or stumble over.</param>
internal sealed class Mutator(InputKind kind, IReadOnlyList<byte[]> seeds, params string[] words)
{
    /// <summary>No edit makes an input longer than this, in bytes.</summary>
    private const int MaxLength = 1 << 19;

    private static readonly long[] Integers =
    [
        0, 1, -1, 2, 3, 4, 7, 8, 9, 16, 31, 32, 64, 127, 128, 255, 256, 1000, 4095, 4096, 32767, 32768, 65535, 65536, 1 << 20, int.MaxValue, int.MinValue, uint.MaxValue, 1L << 32,
        long.MaxValue, long.MaxValue - 7, long.MinValue, 1L << 61, 1L << 62,
    ];

    private static readonly string[] Numbers =
    [
        "0", "-0", "1", "-1", "2", "0.5", "-0.0", "1e-46", "1e-320", "1e39", "-1e39", "1e308", "1e999", "-1e999", "1e99999999999", "127", "128", "255", "256", "65536", "2147483647", "2147483648",
        "-2147483648", "-2147483649", "4294967296", "9223372036854775807", "9223372036854775808", "-9223372036854775809", "18446744073709551616", "3.0", "3.7", "00", "NaN", "Infinity", "0x10",
    ];

    private static readonly string[] Marks =
    [
        "{", "}", "[", "]", "(", ")", ",", ":", ".", "\"", "'", "\\", "\0", " ", "\n", "null", "true", "false", "{}", "[]", "\"\"", "[[]]", "{\"a\":1}", "\"\\u0000\"", "\"\\ud800\"", "\"\\udc00x\"", "\"\\uD83D\\uDE00\"",
        "\uFEFF", "\uFFFD", "\u2581", "é", "\U0001F600", "/* */", "//",
    ];

    private static readonly string[] Strings =
        ["\"\"", "\"a\"", "\"0\"", "\"-1\"", "\" \"", "\"\\u0000\"", "\"\\ud800\"", "\"\\udc00x\"", "\"\\uD83D\\uDE00\"", "\"\\uFFFF\\uFEFF\"", "\"\u2581\"", "null", "true", "[]", "{}", "[null]", "[[]]", "{\"\":[]}", "1", "-1"];

    private readonly byte[][] _words = [.. words.Select(Encoding.UTF8.GetBytes)];
    private static readonly byte[][] Literals = [.. Numbers.Concat(Marks).Select(Encoding.UTF8.GetBytes)];

    /// <summary>The next input; one in a hundred is a seed as it is.</summary>
    public byte[] Next(Random random)
    {
        byte[] input = Pick(seeds, random);
        if (random.Next(100) == 0) return input;
        int edits = 1;
        while (edits < 8 && random.Next(2) == 0) edits++;
        for (; edits > 0; edits--)
        {
            byte[] edited = kind switch
            {
                InputKind.Text when random.Next(6) != 0 => EditTokens(input, random),
                InputKind.Protobuf when random.Next(3) != 0 => EditFields(input, random, depth: 0),
                _ => EditBytes(input, random),
            };
            if (edited.Length <= MaxLength) input = edited;
        }
        return input;
    }

    private byte[] EditBytes(byte[] input, Random random)
    {
        int at = random.Next(input.Length + 1), left = input.Length - at;
        int length = Math.Min(random.Next(4) == 0 ? random.Next(256) : random.Next(1, 9), left);
        switch (random.Next(10))
        {
            case 0: return Replace(input, at, length, []);
            case 1: return Replace(input, at, 0, input.AsSpan(at, length)); // repeats what stands there
            case 2: return Replace(input, at, 0, Word(random));
            case 3: return Replace(input, at, Math.Min(Word(random) is var word ? word.Length : 0, left), word);
            case 4: return Spliced(input, at, random);
            case 5: return input[..at];
        }
        if (left == 0) return Replace(input, at, 0, [(byte)random.Next(256)]);
        byte[] edited = [.. input];
        int size = Math.Min(1 << random.Next(4), left);
        switch (random.Next(4))
        {
            case 0: edited[at] ^= (byte)(1 << random.Next(8)); break;
            case 1: edited[at] = (byte)random.Next(256); break;
            case 2: Write(edited.AsSpan(at, size), random.Next(3) == 0 ? input.Length - at + random.Next(-9, 10) : Pick(Integers, random), random); break;
            default: edited[at] += (byte)random.Next(-16, 17); break; // lengths and counts, off by a few
        }
        return edited;
    }

    private static void Write(Span<byte> to, long value, Random random)
    {
        Span<byte> bytes = stackalloc byte[8];
        BinaryPrimitives.WriteInt64LittleEndian(bytes, value);
        bytes[..to.Length].CopyTo(to);
        if (random.Next(4) == 0) to.Reverse(); // HTTP/2's frames, and gRPC's, have them the other way round
    }

    /// <summary>What stands here, then the end of another seed.</summary>
    private byte[] Spliced(byte[] input, int at, Random random)
    {
        byte[] other = Pick(seeds, random);
        int from = random.Next(2) == 0 ? Math.Min(at, other.Length) : random.Next(other.Length + 1);
        return [.. input.AsSpan(0, at), .. other.AsSpan(from)];
    }

    private byte[] EditTokens(byte[] input, Random random)
    {
        List<(int Start, int Length)> tokens = Tokens(input, wholeStrings: random.Next(2) == 0);
        if (tokens.Count == 0) return Word(random);
        (int start, int length) = Pick(tokens, random);
        switch (random.Next(18))
        {
            case 0: return Replace(input, start, length, []);
            case 1: return Replace(input, start, 0, input.AsSpan(start, length));
            case 2: return Replace(input, start, length, Word(random));
            case 3: return Replace(input, start, 0, Word(random));
            case 4: return Replace(input, start, length, Encoding.UTF8.GetBytes(Pick(Numbers, random)));
            case 5: // nests, or repeats for long
                int stop = random.Next(2) == 0 ? start + length : Pick(tokens, random) is var t && t.Start > start && t.Start < start + 200 ? t.Start + t.Length : start + length;
                ReadOnlySpan<byte> repeated = random.Next(3) == 0 ? Word(random) : input.AsSpan(start..stop);
                int times = random.Next(16) == 0 ? random.Next(1, 20_000) : random.Next(1, 100);
                return Replace(input, start, 0, Repeated(repeated, Math.Min(times, MaxLength / repeated.Length)));
            case 6: // several tokens, from one to another
                (int last, int lastLength) = tokens[Math.Min(tokens.Count - 1, tokens.BinarySearch((start, length)) + random.Next(30))];
                return Replace(input, start, last + lastLength - start, random.Next(2) == 0 ? [] : Word(random));
        }
        // Whole values and members, so that what is around them still holds together, as a rule.
        tokens = Tokens(input, wholeStrings: true);
        bool whole = random.Next(4) != 0;
        (start, length) = whole ? Whole(input, tokens, random) : Pick(tokens, random);
        switch (random.Next(6))
        {
            case 0: return Replace(input, start, length, []);
            case 1: return Replace(input, start, 0, input.AsSpan(start, length));
            case 2 or 3 when IsValue(input[start]): return Replace(input, start, length, Encoding.UTF8.GetBytes(input[start] == '"' ? Pick(Strings, random) : Pick(Numbers, random)));
        }
        byte[] other = Pick(seeds, random);
        List<(int Start, int Length)> others = Tokens(other, wholeStrings: true);
        if (others.Count == 0) return input;
        (int from, int size) = whole ? Whole(other, others, random) : Pick(others, random);
        return Replace(input, start, length, other.AsSpan(from, size));
    }

    /// <summary>A value or, where it is named, a member with the comma behind it: a token, or all from a bracket to the
    /// one that closes it.</summary>
    private static (int Start, int Length) Whole(byte[] input, List<(int Start, int Length)> tokens, Random random)
    {
        int first = random.Next(tokens.Count);
        for (int tries = 0; tries < 20 && !(IsValue(input[tokens[first].Start]) || input[tokens[first].Start] is (byte)'{' or (byte)'['); tries++) first = random.Next(tokens.Count);
        bool named = Is(first + 1, ':') && random.Next(2) == 0;
        int last = named ? Math.Min(first + 2, tokens.Count - 1) : first;
        for (int depth = 0; last < tokens.Count; last++)
        {
            depth += Is(last, '{') || Is(last, '[') ? 1 : Is(last, '}') || Is(last, ']') ? -1 : 0;
            if (depth <= 0) break;
        }
        if (named && Is(last + 1, ',')) last++;
        last = Math.Min(last, tokens.Count - 1);
        return (tokens[first].Start, tokens[last].Start + tokens[last].Length - tokens[first].Start);

        bool Is(int token, char mark) => token < tokens.Count && input[tokens[token].Start] == mark;
    }

    /// <summary>Runs of word characters, runs of spaces, and every other character alone; texts in double quotes as one
    /// where <paramref name="wholeStrings"/>.</summary>
    private static List<(int Start, int Length)> Tokens(byte[] input, bool wholeStrings)
    {
        var tokens = new List<(int, int)>();
        for (int at = 0; at < input.Length;)
        {
            int start = at++;
            if (wholeStrings && input[start] == '"')
            {
                while (at < input.Length && input[at] != '"') at += input[at] == '\\' ? 2 : 1;
                at = Math.Min(at + 1, input.Length);
            }
            else if (IsWord(input[start]))
            {
                while (at < input.Length && IsWord(input[at])) at++;
            }
            else if (input[start] <= ' ')
            {
                while (at < input.Length && input[at] <= ' ') at++;
            }
            tokens.Add((start, at - start));
        }
        return tokens;
    }

    private static bool IsValue(byte b) => b == '"' || IsWord(b);

    private static bool IsWord(byte b) => b is (byte)'_' or >= 0x80 || char.IsAsciiLetterOrDigit((char)b);

    /// <summary>Edits one field of a message, or of one within it, and writes all lengths anew: what a byte changed
    /// alone would break before anybody looked inside.</summary>
    private byte[] EditFields(byte[] message, Random random, int depth)
    {
        if (!TryParse(message, out List<(ulong Tag, byte[] Value)> fields) || fields.Count == 0) return EditBytes(message, random);
        int i = random.Next(fields.Count);
        (ulong tag, byte[] value) = fields[i];
        switch (random.Next(8))
        {
            case 0: fields.RemoveAt(i); break;
            case 1: fields.Add(fields[i]); break;
            case 2: fields.Insert(0, (tag & 7 | (ulong)random.Next(1, 24) << 3, value)); break; // a field of another number
            case 3: fields[i] = Fields(Pick(seeds, random)) is { Count: > 0 } others ? Pick(others, random) : (tag, value); break;
            case 4: // a scalar of any kind
                fields[i] = random.Next(3) switch { 0 => (tag & ~7ul, Varint((ulong)Pick(Integers, random))), 1 => (tag & ~7ul | 5, Fixed(random, 4)), _ => (tag & ~7ul | 1, Fixed(random, 8)) };
                break;
            case 5 when (tag & 7) == 2 && depth < 4: fields[i] = (tag, Repeated(value, random.Next(1, value.Length < 64 ? 200 : 10))); break;
            default:
                fields[i] = (tag & 7) switch
                {
                    0 => (tag, Varint((ulong)Pick(Integers, random))),
                    1 => (tag, Fixed(random, 8)),
                    5 => (tag, Fixed(random, 4)),
                    _ => (tag, depth < 6 && random.Next(3) != 0 ? EditFields(value, random, depth + 1) : random.Next(2) == 0 ? Word(random) : EditBytes(value, random)),
                };
                break;
        }
        var output = new MemoryStream();
        foreach ((ulong number, byte[] content) in fields)
        {
            output.Write(Varint(number));
            if ((number & 7) == 2) output.Write(Varint((ulong)content.Length));
            output.Write(content);
        }
        return output.ToArray();
    }

    private static List<(ulong Tag, byte[] Value)> Fields(byte[] message) => TryParse(message, out List<(ulong, byte[])> fields) ? fields : [];

    private static bool TryParse(byte[] message, out List<(ulong Tag, byte[] Value)> fields)
    {
        fields = [];
        for (int at = 0; at < message.Length;)
        {
            if (!TryVarint(message, ref at, out ulong tag) || tag >> 3 == 0) return false;
            int start = at;
            ulong length;
            switch (tag & 7)
            {
                case 0:
                    if (!TryVarint(message, ref at, out _)) return false;
                    break;
                case 1: at += 8; break;
                case 5: at += 4; break;
                case 2 when TryVarint(message, ref at, out length) && length <= (ulong)(message.Length - at):
                    start = at;
                    at += (int)length;
                    break;
                default: return false;
            }
            if (at > message.Length) return false;
            fields.Add((tag, message[start..at]));
        }
        return true;
    }

    private static bool TryVarint(byte[] message, ref int at, out ulong value)
    {
        value = 0;
        for (int shift = 0; shift < 64 && at < message.Length; shift += 7)
        {
            byte b = message[at++];
            value |= (ulong)(b & 0x7F) << shift;
            if (b < 0x80) return true;
        }
        return false;
    }

    private static byte[] Varint(ulong value)
    {
        var bytes = new List<byte>();
        for (; value >= 0x80; value >>= 7) bytes.Add((byte)(value | 0x80));
        bytes.Add((byte)value);
        return [.. bytes];
    }

    private static byte[] Fixed(Random random, int size)
    {
        byte[] bytes = new byte[8];
        if (random.Next(2) == 0) BinaryPrimitives.WriteInt64LittleEndian(bytes, Pick(Integers, random));
        else if (size == 4) BinaryPrimitives.WriteSingleLittleEndian(bytes, Pick([0, -1, 0.5f, 1e-45f, float.NaN, float.PositiveInfinity, float.MaxValue, -1e30f], random));
        else BinaryPrimitives.WriteDoubleLittleEndian(bytes, Pick([0, -1, 0.5, 5e-324, double.NaN, double.NegativeInfinity, double.MaxValue, 1e30], random));
        return bytes[..size];
    }

    private byte[] Word(Random random) => _words.Length > 0 && random.Next(2) == 0 ? Pick(_words, random) : Pick(Literals, random);

    private static T Pick<T>(IReadOnlyList<T> of, Random random) => of[random.Next(of.Count)];

    private static byte[] Replace(byte[] input, int at, int length, ReadOnlySpan<byte> by) => [.. input.AsSpan(0, at), .. by, .. input.AsSpan(at + length)];

    private static byte[] Repeated(ReadOnlySpan<byte> bytes, int times)
    {
        byte[] repeated = new byte[bytes.Length * times];
        for (int i = 0; i < times; i++) bytes.CopyTo(repeated.AsSpan(i * bytes.Length));
        return repeated;
    }
}
