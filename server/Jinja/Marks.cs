namespace Native.Server.Jinja;

/// <summary>
/// The mark that a caller may put into a conversation's strings: it belongs to the character before it and stays with
/// it in what a template prints, but no search, comparison, index or length of a template sees it.
/// </summary>
internal static class Marks
{
    /// <summary>A noncharacter: never part of interchanged text.</summary>
    public const char Character = '\uFDD0';

    public static bool Has(string text) => text.Contains(Character);

    /// <summary>The text as a template sees it.</summary>
    public static string Without(string text) => Has(text) ? text.Replace(Character.ToString(), "") : text;
}

/// <summary>A string to be searched and cut by positions that count no marks; what is cut out of it keeps its
/// own.</summary>
internal readonly struct Searched
{
    private readonly string _text;
    private readonly int[]? _offsets; // by position: where it begins in the text; null where there is no mark

    public Searched(string text)
    {
        _text = text;
        Plain = Marks.Without(text);
        if (Plain.Length == text.Length) return;
        _offsets = new int[Plain.Length + 1];
        int position = 0;
        for (int i = 0; i < text.Length; i++)
            if (text[i] != Marks.Character) _offsets[position++] = i;
        _offsets[position] = text.Length;
        _offsets[0] = 0; // a mark that lost its character stays in front
    }

    /// <summary>The text without marks.</summary>
    public string Plain { get; }

    public int Length => Plain.Length;

    /// <summary>The text from one position to another, with its marks.</summary>
    public string this[Range range]
    {
        get
        {
            (int start, int length) = range.GetOffsetAndLength(Plain.Length);
            return _offsets is null ? _text.Substring(start, length) : _text[_offsets[start].._offsets[start + length]];
        }
    }
}
