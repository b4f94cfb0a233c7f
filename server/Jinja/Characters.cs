using System.Globalization;
using System.Text;

namespace Native.Server.Jinja;

/// <summary>Python sees a string as code points; these are the places where that differs from UTF-16. A mark (<see
/// cref="Marks"/>) is no character, but a part of the one before it.</summary>
internal static class Characters
{
    /// <summary>Python's <c>str.isspace</c> for one character.</summary>
    public static bool IsSpace(char c) => char.IsWhiteSpace(c) || c is >= '\x1c' and <= '\x1f';

    public static bool IsWellFormed(string text)
    {
        for (int i = text.AsSpan().IndexOfAnyInRange('\uD800', '\uDFFF'); i >= 0 && i < text.Length; i++)
        {
            if (!char.IsSurrogate(text[i])) continue;
            if (i + 1 == text.Length || !char.IsSurrogatePair(text[i], text[i + 1])) return false;
            i++;
        }
        return true;
    }

    private static bool HasWide(string text) => text.AsSpan().ContainsAnyInRange('\uD800', '\uDFFF') || Marks.Has(text);

    public static int Length(string text)
    {
        if (!HasWide(text)) return text.Length;
        int inside = 0;
        foreach (char c in text)
        {
            if (char.IsLowSurrogate(c) || c == Marks.Character) inside++;
        }
        return text.Length - inside;
    }

    /// <summary>Where the character that begins at <paramref name="start"/> ends, marks included.</summary>
    public static int End(string text, int start)
    {
        int end = start + 1;
        if (end < text.Length && char.IsSurrogatePair(text[start], text[end])) end++;
        while (end < text.Length && text[end] == Marks.Character) end++;
        return end;
    }

    private static readonly string[] Ascii = [.. Enumerable.Range(0, 128).Select(code => ((char)code).ToString())];

    /// <summary>The text as one string per code point.</summary>
    public static object?[] Split(string text)
    {
        if (!HasWide(text))
            return Array.ConvertAll<char, object?>(text.ToCharArray(), c => c < 128 ? Ascii[c] : c.ToString());
        var parts = new List<object?>(text.Length);
        for (int i = 0; i < text.Length;)
        {
            int end = End(text, i);
            parts.Add(text[i..end]);
            i = end;
        }
        return [.. parts];
    }

    /// <summary>The UTF-16 offset of a code point index (0 to the length in code points).</summary>
    public static int Offset(string text, int index)
    {
        if (!HasWide(text)) return index;
        int offset = 0;
        for (; index > 0; index--) offset = End(text, offset);
        return offset;
    }

    /// <summary>The code point index of a UTF-16 offset; -1 stays -1.</summary>
    public static int Index(string text, int offset) => offset <= 0 ? offset : Length(text[..offset]);

    /// <summary>Orders by code points, as Python does.</summary>
    public static int Compare(string a, string b)
    {
        int common = a.AsSpan().CommonPrefixLength(b);
        if (common == a.Length || common == b.Length) return a.Length - b.Length;
        // Surrogates stand for characters above U+FFFF, but sort below U+E000 as UTF-16.
        return Rank(a[common]) - Rank(b[common]);

        static int Rank(char c) => char.IsSurrogate(c) ? c + 0x10000 : c;
    }

    public static bool IsPrintable(Rune rune) => rune.Value == ' ' || Rune.GetUnicodeCategory(rune) is not
        (UnicodeCategory.Control or UnicodeCategory.Format or UnicodeCategory.Surrogate or UnicodeCategory.PrivateUse or
         UnicodeCategory.OtherNotAssigned or UnicodeCategory.LineSeparator or UnicodeCategory.ParagraphSeparator
            or UnicodeCategory.SpaceSeparator);

    public static string Capitalize(string text)
    {
        if (text.Length == 0) return text;
        int first = char.IsHighSurrogate(text[0]) && text.Length > 1 ? 2 : 1;
        return text[..first].ToUpperInvariant() + text[first..].ToLowerInvariant();
    }
}
