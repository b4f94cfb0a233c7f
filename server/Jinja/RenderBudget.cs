using System.Runtime.CompilerServices;

namespace Native.Server.Jinja;

/// <summary>
/// What one rendering may cost. Templates come out of model files, so a hostile one must end in an error, not in a busy
/// core, an exhausted heap or an overflowing stack.
/// </summary>
internal sealed class RenderBudget(CancellationToken cancellation)
{
    /// <summary>Evaluated nodes, and list elements touched by builtins: about a second of work. A long chat needs some
    /// 100,000.</summary>
    public const long MaxSteps = 10_000_000;

    /// <summary>Characters in all strings made on the way, the text itself included: 256 MiB of garbage at
    /// most.</summary>
    public const long MaxCharacters = 128L << 20;

    /// <summary>Characters of one string, and so of the rendered text.</summary>
    public const int MaxLength = 16 << 20;

    /// <summary>Nested evaluations: some 100 levels of a recursive macro, twice what a JSON document's 64 levels
    /// need.</summary>
    public const int MaxDepth = 2_000;

    private const int CharactersPerStep = 32;
    private const int WalkedPerStep = 2;
    private const int StepsPerCheck = 4096;

    private long _steps;
    private long _characters;
    private int _untilCheck = StepsPerCheck;
    private int _depth;

    /// <summary>Counts one evaluated node and one level of nesting.</summary>
    public void Enter()
    {
        if (--_untilCheck == 0) Check();
        // The stack is asked too, because nobody promises how large a request thread's is.
        if (++_depth > MaxDepth || ((_depth & 15) == 0 && !RuntimeHelpers.TryEnsureSufficientExecutionStack()))
            throw new TemplateException("the template nests too deeply");
    }

    public void Leave() => _depth--;

    /// <summary>Counts elements that a builtin reads or copies.</summary>
    public void Elements(long count)
    {
        _steps += count;
        if (_steps > MaxSteps) throw TooManySteps();
    }

    /// <summary>Counts a string of this length, before it is made.</summary>
    public void Characters(long count)
    {
        _characters += count;
        if (count > MaxLength || _characters > MaxCharacters)
            throw new TemplateException(
                $"the template makes more text than is allowed ({MaxLength} characters at once, {MaxCharacters} in "
                    + "all)");
        Elements(count / CharactersPerStep);
    }

    /// <summary>Counts a scan over a text of this length.</summary>
    public void Scan(long count) => Elements(count / CharactersPerStep);

    /// <summary>Counts work that takes some nanoseconds a character: letter by letter, or by a regular
    /// expression.</summary>
    public void Walk(long count) => Elements(count / WalkedPerStep);

    /// <summary>Counts the parts of a text that become strings of their own.</summary>
    public void Parts(long count) => Elements(count * 4);

    /// <summary>Counts a search for a part, which at worst compares the part at every place.</summary>
    public void Search(string text, string part) =>
        Scan(text.Length + Math.Max(0, (long)text.Length - part.Length) * part.Length / 256);

    private void Check()
    {
        _untilCheck = StepsPerCheck;
        cancellation.ThrowIfCancellationRequested();
        Elements(StepsPerCheck);
    }

    private static TemplateException TooManySteps() => new($"the template takes more than {MaxSteps} steps");
}
