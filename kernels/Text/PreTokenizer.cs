using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;

namespace Native.Kernels.Text;

/// <summary>How a step treats its matches, in Hugging Face's terms.</summary>
internal enum SplitBehavior
{
    Isolated,
    Removed,
    MergedWithPrevious,
    MergedWithNext,
    Contiguous,
}

/// <summary>Splittings that no regular expression does in linear time: groups of three digits, counted from the
/// right.</summary>
internal enum DigitGrouping
{
    None,

    /// <summary>Cuts every run of ASCII digits.</summary>
    Digits,

    /// <summary>Cuts every run of numbers (letter and other numbers too) and after it. Text in front stays with the
    /// first group.</summary>
    Numbers,
}

/// <summary>One splitting of every piece that the step before it left.</summary>
internal sealed record PreTokenizerStep(string Pattern, SplitBehavior Behavior = SplitBehavior.Isolated,
    bool Invert = false, DigitGrouping Grouping = DigitGrouping.None)
{
    public static implicit operator PreTokenizerStep(string pattern) => new(pattern);
    public static implicit operator PreTokenizerStep(DigitGrouping grouping) => new("", Grouping: grouping);
}

/// <summary>Characters beyond U+FFFF that a row's patterns distinguish within their category, and the character that
/// replaces them.</summary>
internal readonly record struct SupplementaryRange(int First, int Last, char SeenAs);

/// <summary>Cuts text into words that merges never cross: a chain of regular expressions, each working on the pieces of
/// the last.</summary>
/// <remarks>.NET's Regex sees UTF-16 code units. To it, half of a surrogate pair is no letter, number or symbol. So
/// patterns run over a shadow of the text with one char per code point, in which a supplementary character is replaced
/// by one of its general category. Positions are code points.</remarks>
internal sealed class PreTokenizer
{
    /// <summary>Leaves the text whole.</summary>
    public static readonly PreTokenizer None = new([]);

    private readonly (PreTokenizerStep Step, Regex? Regex)[] _steps;
    private readonly SupplementaryRange[] _ranges;
    private readonly TimeSpan? _timeout;

    /// <param name="steps">The chain, in order.</param>
    /// <param name="ranges">See <see cref="SupplementaryRange"/>.</param>
    /// <param name="timeout">For patterns from a file: cutting that takes longer throws. The rows' own patterns take
    /// linear time.</param>
    /// <exception cref="ArgumentException">A pattern is invalid, or uses something that .NET's Regex does not
    /// support.</exception>
    public PreTokenizer(PreTokenizerStep[] steps, SupplementaryRange[]? ranges = null, TimeSpan? timeout = null)
    {
        const RegexOptions options = RegexOptions.CultureInvariant | RegexOptions.Compiled;
        _steps = [.. steps.Select(s => (s, s.Grouping == DigitGrouping.None
            ? new Regex(s.Pattern, options, timeout ?? Regex.InfiniteMatchTimeout) : null))];
        _ranges = ranges ?? [];
        _timeout = timeout;
    }

    public bool IsNone => _steps.Length == 0;

    /// <summary>The words of <paramref name="text"/> as UTF-16 ranges, in order. Text must be well formed.</summary>
    /// <exception cref="RegexMatchTimeoutException">A pattern out of a file takes too long.</exception>
    public void Split(ReadOnlySpan<char> text, List<(int Start, int End)> words)
    {
        words.Clear();
        if (text.IsEmpty) return;
        bool supplementary = text.IndexOfAnyInRange('\uD800', '\uDFFF') >= 0;
        ReadOnlySpan<char> shadow = supplementary ? Shadow(text) : text;

        words.Add((0, shadow.Length));
        Refine(shadow, words);
        if (supplementary) ToUtf16(text, words);
    }

    /// <summary>Cuts words further. Text must have no surrogates.</summary>
    /// <exception cref="RegexMatchTimeoutException">A pattern out of a file takes too long.</exception>
    public void Refine(ReadOnlySpan<char> shadow, List<(int Start, int End)> words)
    {
        List<(int, int)>? other = null;
        // Regex limits the time of one match only, and a text may have a million.
        long deadline = _timeout is { } timeout ? Environment.TickCount64 + (long)timeout.TotalMilliseconds
            : long.MaxValue;
        foreach ((PreTokenizerStep step, Regex? regex) in _steps)
        {
            other ??= [];
            other.Clear();
            foreach ((int start, int end) in words)
            {
                if (regex is null) Group(shadow, start, end, step.Grouping, other);
                else Split(shadow, start, end, regex, step, deadline, other);
            }
            words.Clear();
            words.AddRange(other);
        }
    }

    private static void Split(ReadOnlySpan<char> shadow, int start, int end, Regex regex, PreTokenizerStep step,
        long deadline, List<(int Start, int End)> output)
    {
        int done = start, first = output.Count;
        bool lastMatched = false;
        foreach (ValueMatch match in regex.EnumerateMatches(shadow[start..end]))
        {
            if (deadline != long.MaxValue && Environment.TickCount64 > deadline)
                throw new RegexMatchTimeoutException(shadow[start..end].ToString(), step.Pattern, regex.MatchTimeout);
            int at = start + match.Index;
            if (at > done) Emit(done, at, step.Invert);
            if (match.Length > 0 || at > start) Emit(at, at + match.Length, !step.Invert);
            done = at + match.Length;
        }
        if (end > done) Emit(done, end, step.Invert);

        void Emit(int from, int to, bool matched)
        {
            bool joins = output.Count > first && step.Behavior switch
            {
                SplitBehavior.MergedWithPrevious => matched && !lastMatched,
                SplitBehavior.MergedWithNext => lastMatched && !matched,
                SplitBehavior.Contiguous => matched == lastMatched,
                _ => false,
            };
            lastMatched = matched; // an empty match cuts too
            if (from == to) return;
            if (matched && step.Behavior == SplitBehavior.Removed) return;
            if (joins) output[^1] = (output[^1].Start, to);
            else output.Add((from, to));
        }
    }

    private static void Group(ReadOnlySpan<char> shadow, int start, int end, DigitGrouping grouping,
        List<(int Start, int End)> output)
    {
        int done = start;
        for (int i = start; i < end;)
        {
            if (!IsDigit(shadow[i], grouping))
            {
                i++;
                continue;
            }
            int run = i;
            while (i < end && IsDigit(shadow[i], grouping)) i++;
            int remainder = (i - run) % 3;
            for (int cut = grouping == DigitGrouping.Numbers && remainder == 0 ? run + 3 : run + remainder;
                cut <= i; cut += 3)
            {
                if (cut == done || (cut == i && grouping == DigitGrouping.Digits)) continue;
                output.Add((done, cut));
                done = cut;
            }
        }
        if (end > done) output.Add((done, end));
    }

    private static bool IsDigit(char c, DigitGrouping grouping)
        => grouping == DigitGrouping.Numbers ? char.IsNumber(c) : char.IsAsciiDigit(c);

    private char[] Shadow(ReadOnlySpan<char> text)
    {
        int count = 0;
        foreach (char c in text)
            if (!char.IsLowSurrogate(c)) count++;
        char[] shadow = new char[count];
        int at = 0;
        foreach (Rune rune in text.EnumerateRunes()) shadow[at++] = rune.IsBmp ? (char)rune.Value : SeenAs(rune);
        return shadow;
    }

    internal char SeenAs(Rune rune)
    {
        foreach (SupplementaryRange range in _ranges)
            if (rune.Value >= range.First && rune.Value <= range.Last) return range.SeenAs;
        // None of these is in a range that a row lists.
        return Rune.GetUnicodeCategory(rune) switch
        {
            UnicodeCategory.UppercaseLetter => '\uA790',
            UnicodeCategory.LowercaseLetter => '\uA791',
            UnicodeCategory.TitlecaseLetter => '\u01C5',
            UnicodeCategory.ModifierLetter => '\u02B0',
            UnicodeCategory.OtherLetter => '\u00AA',
            UnicodeCategory.NonSpacingMark => '\u0300',
            UnicodeCategory.SpacingCombiningMark => '\uA823',
            UnicodeCategory.EnclosingMark => '\u0488',
            UnicodeCategory.DecimalDigitNumber => '\u0660',
            UnicodeCategory.LetterNumber => '\uA6E6',
            UnicodeCategory.OtherNumber => '\u00B2',
            UnicodeCategory.ConnectorPunctuation => '\u005F',
            UnicodeCategory.DashPunctuation => '\u058A',
            UnicodeCategory.OpenPunctuation => '\uFD3F',
            UnicodeCategory.ClosePunctuation => '\uFD3E',
            UnicodeCategory.InitialQuotePunctuation => '\u00AB',
            UnicodeCategory.FinalQuotePunctuation => '\u00BB',
            UnicodeCategory.OtherPunctuation => '\u0589',
            UnicodeCategory.MathSymbol => '\u00AC',
            UnicodeCategory.CurrencySymbol => '\u00A3',
            UnicodeCategory.ModifierSymbol => '\u02C2',
            UnicodeCategory.OtherSymbol => '\u00A6',
            UnicodeCategory.Format => '\u00AD',
            UnicodeCategory.PrivateUse => '\uEFFE',
            _ => '\u0378', // not assigned
        };
    }

    private static void ToUtf16(ReadOnlySpan<char> text, List<(int Start, int End)> words)
    {
        int unit = 0, point = 0;
        for (int i = 0; i < words.Count; i++)
            words[i] = (At(text, words[i].Start), At(text, words[i].End));

        int At(ReadOnlySpan<char> text, int target)
        {
            for (; point < target; point++) unit += char.IsHighSurrogate(text[unit]) ? 2 : 1;
            return unit;
        }
    }
}
