using System.Text.RegularExpressions;

namespace Native.Kernels.Text;

/// <summary>What tokenizer.json does to a text before it is cut: a chain of rewritings, in order.</summary>
internal sealed class Normalizer
{
    private readonly List<Func<string, string>> _steps = [];

    /// <summary>Whether it leaves every text as it is.</summary>
    public bool IsNone => _steps.Count == 0;

    /// <summary>The rewritten text, empty perhaps. The given one must be well formed.</summary>
    public string Apply(string text)
    {
        foreach (Func<string, string> step in _steps) text = step(text);
        return text;
    }

    public void Compose() => _steps.Add(static text => Composition.Compose(text).ToString());

    public void Decompose() => _steps.Add(static text => Composition.Decompose(text).ToString());

    public void Prepend(string prefix) => _steps.Add(text => text.Length == 0 ? text : prefix + text);

    public void Replace(string found, string content) => _steps.Add(text => text.Replace(found, content, StringComparison.Ordinal));

    public void Replace(Regex found, string content) => _steps.Add(text => found.Replace(text, _ => content));

    // One capital alone has a lower case of two characters.
    public void Lowercase() => _steps.Add(static text => text.Replace("\u0130", "i\u0307", StringComparison.Ordinal).ToLowerInvariant());

    public void Strip(bool left, bool right) => _steps.Add(text => left && right ? text.Trim() : left ? text.TrimStart() : right ? text.TrimEnd() : text);
}
