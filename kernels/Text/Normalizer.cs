using System.Text.RegularExpressions;

namespace Native.Kernels.Text;

/// <summary>tokenizer.json's normalizer: a chain of rewritings of a text before it is cut.</summary>
/// <remarks>A chain of replacements can double a text at every step, so each result's length is checked before it is
/// built.</remarks>
internal sealed class Normalizer
{
    /// <summary>A text may become this many times longer, plus <see cref="Room"/>. Unicode's longest decomposition has
    /// four characters for one.</summary>
    private const int MaxGrowth = 16;

    /// <summary>Extra characters for a text of any length, for prepended text.</summary>
    private const int Room = 256;

    private readonly List<Func<string, long, string>> _steps = [];

    /// <summary>Whether it leaves every text as it is.</summary>
    public bool IsNone => _steps.Count == 0;

    public int StepCount => _steps.Count;

    /// <summary>The rewritten text; it may be empty. The given text must be well formed.</summary>
    /// <exception cref="TextEncodingException">It would become too long.</exception>
    /// <exception cref="RegexMatchTimeoutException">A pattern out of a file takes too long.</exception>
    public string Apply(string text)
    {
        long most = (long)text.Length * MaxGrowth + Room;
        foreach (Func<string, long, string> step in _steps)
        {
            text = step(text, most);
            if (text.Length > most) throw TooLong(most);
        }
        return text;
    }

    public void Compose() => _steps.Add(static (text, _) => Composition.Compose(text).ToString());

    public void Decompose() => _steps.Add(static (text, _) => Composition.Decompose(text).ToString());

    public void Prepend(string prefix) => _steps.Add((text, _) => text.Length == 0 ? text : prefix + text);

    public void Replace(string found, string content) => _steps.Add((text, most) =>
    {
        long length = text.Length + (long)text.AsSpan().Count(found) * (content.Length - found.Length);
        return length <= most ? text.Replace(found, content, StringComparison.Ordinal) : throw TooLong(most);
    });

    public void Replace(Regex found, string content) => _steps.Add((text, most) =>
    {
        // Regex limits the time of one match only, and a text may have a million.
        long deadline = Environment.TickCount64 + (long)found.MatchTimeout.TotalMilliseconds;
        long left = most;
        string replaced = found.Replace(text, match =>
        {
            if (Environment.TickCount64 > deadline)
                throw new RegexMatchTimeoutException(text, found.ToString(), found.MatchTimeout);
            // .NET finds empty matches between the halves of a character. They do not count.
            if (match.Length == 0 && match.Index > 0 && match.Index < text.Length
                && char.IsSurrogatePair(text[match.Index - 1], text[match.Index])) return "";
            return (left -= content.Length) >= 0 ? content : throw TooLong(most);
        });
        return Tokenizer.WellFormed(replaced); // a pattern may match only one half of a character
    });

    // Only one capital has a lower case of two characters.
    public void Lowercase() =>
        _steps.Add(static (text, _) => text.Replace("\u0130", "i\u0307", StringComparison.Ordinal).ToLowerInvariant());

    public void Strip(bool left, bool right) =>
        _steps.Add((text, _) => left && right ? text.Trim() : left ? text.TrimStart() : right ? text.TrimEnd() : text);

    private static TextEncodingException TooLong(long most) =>
        new($"The model's tokenizer makes more than {most} characters of this text, {MaxGrowth} times its own "
            + $"and {Room}.");
}
