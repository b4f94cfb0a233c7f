using System.Buffers;
using System.Globalization;
using System.Text;

namespace Native.Kernels.Text;

/// <summary>Unicode's normalization forms C and D (UAX #15), which some tokenizer.json files need.</summary>
/// <remarks>.NET's string.Normalize does nothing where globalization is invariant, as it is here.</remarks>
internal static class Composition
{
    private const int SBase = 0xAC00, LBase = 0x1100, VBase = 0x1161, TBase = 0x11A7, LCount = 19, VCount = 21,
        TCount = 28, SCount = LCount * VCount * TCount;

    private static readonly Dictionary<int, (int First, int Second)> Decompositions = [];
    private static readonly Dictionary<(int First, int Second), int> Pairs = [];
    private static readonly Dictionary<int, byte> Classes = [];

    static Composition()
    {
        foreach (string[] fields in Entries(CompositionData.Decompositions))
        {
            bool excluded = fields[0].EndsWith('!');
            int character = Hex(excluded ? fields[0][..^1] : fields[0]), first = Hex(fields[1]),
                second = fields.Length > 2 ? Hex(fields[2]) : 0;
            Decompositions.Add(character, (first, second));
            if (!excluded && second != 0) Pairs.Add((first, second), character);
        }
        foreach (string[] fields in Entries(CompositionData.CombiningClasses))
        {
            byte combiningClass = byte.Parse(fields[^1], CultureInfo.InvariantCulture);
            for (int c = Hex(fields[0]); c <= Hex(fields[^2]); c++) Classes.Add(c, combiningClass);
        }

        static IEnumerable<string[]> Entries(string data)
            => data.Split(';', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries)
                .Where(static e => e.Length > 0).Select(static e => e.Split(' '));

        static int Hex(string text) => int.Parse(text, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture);
    }

    /// <summary>The composed form. Text must be well formed.</summary>
    public static ReadOnlySpan<char> Compose(ReadOnlySpan<char> text)
    {
        if (text.IndexOfAnyExceptInRange('\0', '\u02FF') < 0) return text; // nothing below U+0300 combines
        List<int> points = Decomposed(text);
        Join(points);
        return Text(points);
    }

    /// <summary>The decomposed form. Text must be well formed.</summary>
    public static ReadOnlySpan<char> Decompose(ReadOnlySpan<char> text)
        => text.IndexOfAnyExceptInRange('\0', '\u00BF') < 0 ? text : Text(Decomposed(text));

    private static List<int> Decomposed(ReadOnlySpan<char> text)
    {
        var points = new List<int>(text.Length);
        foreach (Rune rune in text.EnumerateRunes()) Decompose(rune.Value, points);
        Order(points);
        return points;
    }

    private static ReadOnlySpan<char> Text(List<int> points)
    {
        var composed = new ArrayBufferWriter<char>(points.Count + 1);
        foreach (int point in points) composed.Advance(new Rune(point).EncodeToUtf16(composed.GetSpan(2)));
        return composed.WrittenSpan;
    }

    private static void Decompose(int point, List<int> points)
    {
        int syllable = point - SBase;
        if (syllable is >= 0 and < SCount)
        {
            points.Add(LBase + syllable / (VCount * TCount));
            points.Add(VBase + syllable % (VCount * TCount) / TCount);
            if (syllable % TCount != 0) points.Add(TBase + syllable % TCount);
        }
        else if (point >= 0xC0 && Decompositions.TryGetValue(point, out (int First, int Second) parts))
        {
            Decompose(parts.First, points);
            if (parts.Second != 0) points.Add(parts.Second); // a second part never decomposes further
        }
        else points.Add(point);
    }

    /// <summary>Sorts each run of combining characters by class, keeping the order within a class.</summary>
    private static void Order(List<int> points)
    {
        for (int start = 0; start < points.Count; start++)
        {
            if (Class(points[start]) == 0) continue;
            int end = start + 1;
            bool ordered = true;
            for (; end < points.Count && Class(points[end]) is var next and not 0; end++)
                ordered &= Class(points[end - 1]) <= next;
            if (!ordered)
            {
                int[] sorted = [.. points[start..end].OrderBy(Class)];
                for (int i = start; i < end; i++) points[i] = sorted[i - start];
            }
            start = end;
        }
    }

    private static void Join(List<int> points)
    {
        int kept = 0, starter = -1, lastClass = 0;
        for (int i = 0; i < points.Count; i++)
        {
            int point = points[i], combiningClass = Class(point);
            // Blocked if a character of the same or a higher class, or a starter that did not compose, is between them.
            bool adjacent = starter == kept - 1;
            if (starter >= 0 && (adjacent || (lastClass < combiningClass && lastClass != 0))
                && TryCompose(points[starter], point, out int joined))
            {
                points[starter] = joined;
                continue;
            }
            if (combiningClass == 0) starter = kept;
            lastClass = combiningClass;
            points[kept++] = point;
        }
        points.RemoveRange(kept, points.Count - kept);
    }

    private static bool TryCompose(int first, int second, out int joined)
    {
        if (first - LBase is >= 0 and < LCount && second - VBase is >= 0 and < VCount)
        {
            joined = SBase + ((first - LBase) * VCount + (second - VBase)) * TCount;
            return true;
        }
        if (first - SBase is >= 0 and < SCount && (first - SBase) % TCount == 0 && second - TBase is > 0 and < TCount)
        {
            joined = first + (second - TBase);
            return true;
        }
        return Pairs.TryGetValue((first, second), out joined);
    }

    private static int Class(int point) => point >= 0x300 && Classes.TryGetValue(point, out byte combiningClass)
        ? combiningClass : 0;
}
