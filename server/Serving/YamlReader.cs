using YamlDotNet.Core;
using YamlDotNet.Core.Events;

namespace Native.Server.Serving;

/// <summary>Reads a file of settings in YAML, event by event, and tells its mistakes with line and column. Keys are few
/// and known; anchors, aliases and tags are refused.</summary>
/// <remarks>Whoever reads a node begins at its first event and ends at its last one.</remarks>
internal sealed class YamlReader
{
    private const int MaxMistakes = 20;
    private const int MaxDepth = 16; // of what is left out: the library's time grows with the square of the depth
    private const string TooDeep = "it nests too deeply.";
    private const string NotPlain = "anchors, aliases and tags are not read here.";

    /// <summary>Parts of the library's messages, and what a person is told.</summary>
    private static readonly (string Part, string Words)[] PlainWords =
    [
        ("tab", "a tab can't indent; use spaces."),
        ("invalid mapping", "': ' is in the middle of a value: put the value in quotes, or mend the indentation."),
        ("could not find expected ':'", "the ':' after a key is missing."),
        ("',' or '}'", "a ',' or the closing '}' is missing."),
        ("',' or ']'", "a ',' or the closing ']' is missing."),
        ("expected node content", "a value is missing."),
        ("expected key", "a key must be here; mend the indentation or the quotes."),
        ("expected '-'", "a '-' must be here; mend the indentation."),
        ("not allowed in this context", "this can't be here; mend the indentation."),
        ("cannot start any token", "no value begins with this character; put the value in quotes."),
        ("unexpected end of stream", "the closing quote is missing."),
        ("unknown escape", "this can't follow a '\\' in double quotes; single quotes take a '\\' as it is."),
        ("block scalar", "a text after '|' or '>' begins in the next line; put other values in quotes."),
        ("anchor", "'&' and '*' begin anchors and aliases; put the value in quotes."),
        ("tag", "'!' begins a tag; put the value in quotes."),
    ];

    private readonly Scanner _scanner;
    private readonly Parser _parser;
    private readonly List<(Mark At, string Message)> _mistakes = [];

    private YamlReader(string text)
    {
        _scanner = new Scanner(new StringReader(text));
        _parser = new Parser(_scanner);
    }

    /// <summary>Where the current event begins.</summary>
    public Mark At => _parser.Current!.Start;

    /// <summary>Reads a text.</summary>
    /// <param name="path">What it is called in messages.</param>
    /// <param name="text">The YAML.</param>
    /// <param name="read">Reads its root.</param>
    /// <exception cref="ConfigFileException">It has mistakes.</exception>
    public static T Read<T>(string path, string text, Func<YamlReader, T> read)
    {
        YamlReader reader = new(text);
        Parser parser = reader._parser;
        T? result = default;
        try
        {
            parser.MoveNext(); // the stream's start
            parser.MoveNext();
            if (parser.Current is DocumentStart) parser.MoveNext();
            result = read(reader);
            while (parser.MoveNext())
            {
                if (parser.Current is not DocumentStart second) continue;
                reader.Mistake(second.Start, "a file has one document.");
                break;
            }
        }
        catch (YamlException e)
        {
            // A tab is told where the node before it begins, which may be lines above.
            Mark at = e.Message.Contains("tab") ? reader._scanner.CurrentPosition : e.Start;
            reader.Mistake(at, e.Message == TooDeep ? TooDeep : $"not valid YAML: {InPlainWords(e.Message)}");
        }
        catch (Exception e) when (e is InvalidOperationException or ArgumentException) // the library's own stumbles
        {
            reader.Mistake(parser.Current?.End ?? Mark.Empty, "not valid YAML: what follows can't be read.");
        }
        if (reader._mistakes.Count == 0) return result!;
        throw new ConfigFileException(
            [.. reader._mistakes.OrderBy(mistake => mistake.At.Index)
                .Select(mistake => $"{path}, line {mistake.At.Line}, column {mistake.At.Column}: {mistake.Message}")]);
    }

    /// <summary>Whether the current event begins a node of this kind; where not, that is told and the node left
    /// out.</summary>
    /// <param name="otherwise">What is told.</param>
    public bool Expect<T>(string otherwise) where T : NodeEvent
    {
        if (_parser.Current is not T node)
        {
            Mistake(At, _parser.Current is AnchorAlias ? NotPlain : otherwise);
            Skip();
            return false;
        }
        if (!node.Anchor.IsEmpty || !node.Tag.IsEmpty) Mistake(node.Start, NotPlain);
        return true;
    }

    /// <summary>The keys of the mapping that begins with the current event; the caller reads the value of each. Others
    /// than the known are told and left out.</summary>
    public IEnumerable<string> Keys(string[] known)
    {
        HashSet<string> read = [];
        while (_parser.MoveNext() && _parser.Current is not MappingEnd)
        {
            Mark at = At;
            string? key = ReadKey(known);
            _parser.MoveNext();
            if (key is null)
            {
                Skip();
                continue;
            }
            if (!read.Add(key)) Mistake(at, $"'{key}' is there twice.");
            yield return key;
        }
    }

    /// <summary>Goes to the next item of the list that the current event begins, or whose item it ends.</summary>
    /// <returns>False at the list's end.</returns>
    public bool NextItem() => _parser.MoveNext() && _parser.Current is not SequenceEnd;

    /// <summary>The current event as a single value; null, with a mistake, where it is none.</summary>
    /// <param name="name">What it is called in messages.</param>
    public string? ReadScalar(string name)
    {
        if (!Expect<Scalar>($"{name} must be a single value.")) return null;
        Scalar scalar = (Scalar)_parser.Current!;
        bool isPlain = scalar.Style == ScalarStyle.Plain;
        if (isPlain && scalar.Value is "" or "~" or "null") Mistake(scalar.Start, $"{name} has no value.");
        // Lines that are indented further go on with a plain value, whatever they were meant for.
        else if (scalar.End.Line != scalar.Start.Line) Mistake(scalar.Start, $"{name} must be in one line.");
        else return scalar.Value;
        return null;
    }

    /// <summary>Tells a mistake; of very many only the first.</summary>
    public void Mistake(Mark at, string message)
    {
        if (_mistakes.Count < MaxMistakes) _mistakes.Add((at, message));
    }

    /// <summary>A value as messages quote it.</summary>
    public static string Quoted(string text) => text.Length <= 40 ? text : text[..40] + "...";

    private string? ReadKey(string[] known)
    {
        string all = string.Join(", ", known);
        if (!Expect<Scalar>($"a key must be one of {all}.")) return null;
        string key = ((Scalar)_parser.Current!).Value;
        if (known.Contains(key)) return key;
        // What is no word may be a secret in the wrong place: messages end up in logs.
        bool isWord = key.Length is > 0 and <= 40 && key.All(c => char.IsAsciiLetter(c) || c == '_');
        Mistake(At, $"{(isWord ? $"'{key}'" : "this")} is no key here; there are {all}.");
        return null;
    }

    /// <summary>Leaves out the node that begins with the current event.</summary>
    private void Skip()
    {
        int depth = 0;
        do
        {
            ParsingEvent current = _parser.Current!;
            depth += current.NestingIncrease;
            if (depth > MaxDepth) throw new SemanticErrorException(current.Start, current.End, TooDeep);
        }
        while (depth > 0 && _parser.MoveNext());
    }

    private static string InPlainWords(string message)
    {
        foreach ((string part, string words) in PlainWords)
            if (message.Contains(part, StringComparison.OrdinalIgnoreCase)) return words;
        return "look at the indentation, quotes and brackets here.";
    }
}

/// <summary>The single values of a mapping, which the reader's current event begins.</summary>
/// <param name="reader">Where they are read.</param>
/// <param name="of">What the mapping is called in messages.</param>
internal sealed class YamlValues(YamlReader reader, string of)
{
    private readonly Mark _start = reader.At;
    private readonly Dictionary<string, (string Text, Mark At)> _values = [];
    private readonly HashSet<string> _wrong = [];

    /// <summary>The value that is current becomes a key's. Of two the first stays.</summary>
    public void Read(string key)
    {
        Mark at = reader.At;
        if (reader.ReadScalar(key) is { } text) _values.TryAdd(key, (text, at));
        else _wrong.Add(key);
    }

    /// <summary>Whether a mistake of this key was told.</summary>
    public bool IsWrong(string key) => _wrong.Contains(key);

    /// <summary>A key's value.</summary>
    /// <param name="key">The key.</param>
    /// <param name="otherwise">What stands for one that is not there or wrong.</param>
    /// <param name="read">Makes it of its text; the message of its <see cref="FormatException"/> is what it must
    /// be.</param>
    /// <param name="required">Whether the key must be there.</param>
    public T Value<T>(string key, T otherwise, Func<string, T> read, bool required = false)
    {
        if (IsWrong(key)) return otherwise;
        if (!_values.TryGetValue(key, out (string Text, Mark At) value))
        {
            if (!required) return otherwise;
            _wrong.Add(key);
            reader.Mistake(_start, $"{of} has no '{key}'.");
            return otherwise;
        }
        try
        {
            return read(value.Text);
        }
        catch (FormatException e)
        {
            Mistake(key, $"it must be {e.Message}.");
            return otherwise;
        }
    }

    /// <summary>Tells what is wrong with a key's value, or with its lack.</summary>
    public void Mistake(string key, string why)
    {
        _wrong.Add(key);
        if (_values.TryGetValue(key, out (string Text, Mark At) value))
            reader.Mistake(value.At, $"{key} is '{YamlReader.Quoted(value.Text)}'; {why}");
        else reader.Mistake(_start, $"{key} is missing; {why}");
    }

    /// <summary>Tells a name that an entry before has too, whatever else is wrong with this one.</summary>
    /// <param name="names">The names before and where they are, to which this one is added.</param>
    public void CheckName(Dictionary<string, Mark> names)
    {
        if (!_values.TryGetValue("name", out (string Text, Mark At) name) || names.TryAdd(name.Text, name.At)) return;
        string quoted = YamlReader.Quoted(name.Text);
        reader.Mistake(name.At, $"there is {of} of the name '{quoted}' already, in line {names[name.Text].Line}.");
    }
}
