using System.Text;
using Native.Kernels.Files;

namespace Native.Kernels.Text;

/// <summary>Translates a pattern from Oniguruma's syntax (Hugging Face's) to .NET's.</summary>
internal static class Pattern
{
    /// <summary>Longest pattern, in characters. Compiling takes more than linear time and has no time limit. The
    /// longest real patterns have some 1,500.</summary>
    private const int MaxLength = 8192;

    /// <summary>The field's text, if it is no longer than <see cref="MaxLength"/>.</summary>
    /// <exception cref="InvalidDataException">It is longer.</exception>
    public static string Bounded(JsonField field) =>
        field.Text() is { Length: <= MaxLength } pattern ? pattern
            : throw field.Wrong($"at most {MaxLength} characters",
                field.Text().Length.ToString(System.Globalization.CultureInfo.InvariantCulture));

    /// <param name="field">The pattern, where it stands.</param>
    /// <param name="ranges">Receives the supplementary characters that the pattern names. .NET does not support them,
    /// so they are replaced by another member of their class.</param>
    /// <exception cref="InvalidDataException">The pattern uses something that .NET does not support.</exception>
    public static string Translate(JsonField field, List<SupplementaryRange> ranges)
    {
        string pattern = Bounded(field);
        var output = new StringBuilder(pattern.Length + 16);
        var groups = new Stack<int>();
        int atom = 0; // start in the output of the last atom, to which a quantifier applies
        for (int i = 0; i < pattern.Length;)
        {
            char c = pattern[i];
            switch (c)
            {
                case '\\':
                    atom = output.Length;
                    int end = EscapeEnd(field, pattern, i);
                    output.Append(pattern, i, end - i);
                    i = end;
                    break;
                case '[':
                    atom = output.Length;
                    i = Class(field, pattern, i, output, ranges);
                    break;
                case '(':
                    groups.Push(output.Length);
                    output.Append(c);
                    i++;
                    // Oniguruma's m is .NET's s: the dot matches line ends too.
                    if (i < pattern.Length && pattern[i] == '?')
                    {
                        int options = i + 1;
                        while (options < pattern.Length && pattern[options] is 'i' or 'm' or 'x' or '-') options++;
                        if (options < pattern.Length && pattern[options] is ':' or ')')
                        {
                            output.Append(pattern.AsSpan(i, options - i).ToString().Replace('m', 's'));
                            i = options;
                        }
                    }
                    break;
                case '^':
                    atom = output.Length;
                    output.Append(@"(?m:^(?!(?<=\n)\z))"); // every line's begin; none is after the last line's end
                    i++;
                    break;
                case '$':
                    atom = output.Length;
                    output.Append("(?m:$)"); // every line's end
                    i++;
                    break;
                case ')':
                    if (!groups.TryPop(out atom)) throw field.Wrong("balanced parentheses", $"'{pattern}'");
                    output.Append(c);
                    i++;
                    break;
                case '?' or '*' or '+' or '{' when output.Length > 0 && output[^1] != '(':
                    i = Quantifier(field, pattern, i, output, atom);
                    break;
                default:
                    if (char.IsSurrogate(c))
                        throw field.Wrong("characters beyond U+FFFF in classes alone", $"'{pattern}'");
                    atom = output.Length;
                    output.Append(c);
                    i++;
                    break;
            }
        }
        return output.ToString();
    }

    private static int Quantifier(JsonField field, string pattern, int i, StringBuilder output, int atom)
    {
        int end = i + 1;
        if (pattern[i] == '{')
        {
            end = pattern.IndexOf('}', i) + 1;
            if (end == 0) throw field.Wrong("balanced braces", $"'{pattern}'");
        }
        output.Append(pattern, i, end - i);
        if (end < pattern.Length && pattern[end] == '+')
        {
            // Possessive. After braces, Oniguruma repeats the repetition instead.
            output.Insert(atom, pattern[i] == '{' ? "(?:" : "(?>").Append(pattern[i] == '{' ? ")+" : ")");
            end++;
        }
        else if (end < pattern.Length && pattern[end] == '?')
        {
            output.Append('?');
            end++;
        }
        return end;
    }

    private static int EscapeEnd(JsonField field, string pattern, int i)
    {
        if (i + 1 >= pattern.Length) throw field.Wrong("a character after the backslash", $"'{pattern}'");
        if (pattern[i + 1] is not ('p' or 'P') || i + 2 >= pattern.Length || pattern[i + 2] != '{') return i + 2;
        int end = pattern.IndexOf('}', i) + 1;
        return end == 0 ? throw field.Wrong("balanced braces", $"'{pattern}'") : end;
    }

    private static int Class(JsonField field, string pattern, int i, StringBuilder output,
        List<SupplementaryRange> ranges)
    {
        var supplementary = new List<(int First, int Last)>();
        char member = '\0'; // a literal of this class
        output.Append('[');
        i++;
        bool negated = i < pattern.Length && pattern[i] == '^';
        if (negated) output.Append(pattern[i++]);
        for (bool first = true; ; first = false)
        {
            if (i >= pattern.Length) throw field.Wrong("balanced brackets", $"'{pattern}'");
            char c = pattern[i];
            if (c == ']' && !first) break;
            if (c == '[' || (c == '&' && i + 1 < pattern.Length && pattern[i + 1] == '&'))
                throw field.Wrong("classes without nested ones or &&", $"'{pattern}', which is not supported");
            if (c == '\\')
            {
                int end = EscapeEnd(field, pattern, i);
                output.Append(pattern, i, end - i);
                i = end;
            }
            else if (char.IsHighSurrogate(c))
            {
                (int low, int high) = (CodePoint(ref i), 0);
                high = low;
                if (i + 2 < pattern.Length && pattern[i] == '-' && char.IsHighSurrogate(pattern[i + 1]))
                {
                    i++;
                    high = CodePoint(ref i);
                }
                supplementary.Add((low, high));
            }
            else
            {
                if (member == '\0' && c != '-') member = c;
                output.Append(c);
                i++;
            }
        }
        if (supplementary.Count > 0 && (negated || member == '\0'))
            throw field.Wrong("characters beyond U+FFFF beside others in their class",
                $"'{pattern}', which is not supported");
        foreach ((int first, int last) in supplementary) ranges.Add(new SupplementaryRange(first, last, member));
        output.Append(']');
        return i + 1;

        int CodePoint(ref int at)
        {
            if (at + 1 >= pattern.Length || !char.IsSurrogatePair(pattern[at], pattern[at + 1]))
                throw field.Wrong("whole characters", $"'{pattern}'");
            at += 2;
            return char.ConvertToUtf32(pattern[at - 2], pattern[at - 1]);
        }
    }
}
