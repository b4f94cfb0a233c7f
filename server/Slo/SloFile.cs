using System.Globalization;
using System.Text.RegularExpressions;
using Native.Scheduling;
using Native.Scheduling.Slo;
using Native.Server.Serving;
using YamlDotNet.Core;
using YamlDotNet.Core.Events;

namespace Native.Server.Slo;

/// <summary>Reads service-level objectives from YAML. Keys are few and known; anchors, aliases and tags are
/// refused.</summary>
internal sealed partial class SloFile
{
    /// <summary>What a file looks like.</summary>
    public const string Example =
        """
        slos:
          - name: first-token      # in metrics and alerts
            sli: ttft              # ttft, tpot, itl, e2e or availability
            threshold: 500ms       # the longest time that is good; not for availability
            objective: 99          # percent that is to be good
            window: 30d            # 7d to 30d; this is the default
          - name: answered
            sli: availability
            objective: 99.9
            role: watch            # people are told, and nothing is refused for it; default control
        min_events: 100            # a window with fewer is judged by a binomial bound; this is the default
        """;

    private const int MaxBytes = 64 << 10;
    private const int MaxMistakes = 20;
    private const int MaxDepth = 16; // of what is left out: the library's time grows with the square of the depth

    private static readonly string[] Keys =
        ["name", "sli", "threshold", "objective", "window", "class", "tenant", "role"];

    private readonly string _path;
    private readonly Parser _parser;
    private readonly List<string> _mistakes = [];

    private SloFile(string path, string text)
    {
        _path = path;
        _parser = new Parser(new StringReader(text));
    }

    /// <summary>Reads a file.</summary>
    /// <exception cref="ConfigFileException">It is not there, can't be read, or says what can't be.</exception>
    public static SloSpec Read(string path) => Parse(path, ConfigFile.ReadText(path, MaxBytes));

    /// <summary>Reads a text.</summary>
    /// <param name="path">What it is called in messages.</param>
    /// <param name="text">The YAML.</param>
    /// <exception cref="ConfigFileException">It says what can't be.</exception>
    public static SloSpec Parse(string path, string text)
    {
        SloFile file = new(path, text);
        SloSpec? spec = null;
        try
        {
            spec = file.ReadSpec();
        }
        catch (YamlException e)
        {
            file.Mistake(e.Start, $"no YAML: {e.Message}");
        }
        catch (Exception e) when (e is InvalidOperationException or ArgumentException) // the library's own stumbles
        {
            file.Mistake(file._parser.Current?.End ?? Mark.Empty, "what follows is no YAML.");
        }
        return file._mistakes.Count == 0 ? spec! : throw new ConfigFileException(file._mistakes);
    }

    private SloSpec? ReadSpec()
    {
        _parser.MoveNext(); // the stream's start
        _parser.MoveNext();
        if (_parser.Current is not DocumentStart || !_parser.MoveNext() || _parser.Current is not MappingStart root)
        {
            Mistake(_parser.Current?.Start ?? default, "there are no objectives; a file begins with 'slos:'.");
            return null;
        }
        CheckPlain(root);
        Dictionary<string, (string Text, Mark At)> values = new(StringComparer.Ordinal);
        List<SloObjective> objectives = [];
        bool listed = false;
        while (_parser.MoveNext() && _parser.Current is not MappingEnd)
        {
            Mark at = _parser.Current!.Start;
            string? key = ReadKey(["slos", "min_events"]);
            _parser.MoveNext();
            if (key == "slos" && listed) Mistake(at, "'slos' is there twice.");
            listed |= key == "slos";
            if (key == "slos") ReadObjectives(objectives);
            else if (key is null) Skip();
            else ReadScalar(key, at, values);
        }
        if (!listed) Mistake(root.Start, "there are no objectives: 'slos' is missing.");
        while (_parser.MoveNext())
            if (_parser.Current is DocumentStart second) Mistake(second.Start, "a file has one document.");
        SloSpec spec = new(objectives);
        if (!values.TryGetValue("min_events", out (string Text, Mark At) least)) return spec;
        if (int.TryParse(least.Text, NumberStyles.None, CultureInfo.InvariantCulture, out int events)
            && events is >= 1 and <= 10_000) return spec with { MinEvents = events };
        Mistake(least.At, $"min_events is '{Quoted(least.Text)}'; it must be a whole number from 1 to 10000.");
        return null;
    }

    /// <summary>Reads the list, whose first event is the current one.</summary>
    private void ReadObjectives(List<SloObjective> objectives)
    {
        if (_parser.Current is not SequenceStart list)
        {
            Mistake(_parser.Current!.Start, "'slos' must be a list of objectives.");
            Skip();
            return;
        }
        CheckPlain(list);
        int count = 0;
        while (_parser.MoveNext() && _parser.Current is not SequenceEnd)
        {
            Mark at = _parser.Current!.Start;
            if (++count == SloSpec.MaxObjectives + 1)
                Mistake(at, $"there are more than {SloSpec.MaxObjectives} objectives.");
            if (ReadObjective() is not { } objective) continue;
            if (objectives.Any(other => other.Name == objective.Name))
                Mistake(at, $"another objective is named '{objective.Name}' too.");
            objectives.Add(objective);
        }
        if (count == 0) Mistake(list.Start, "there are no objectives.");
    }

    private SloObjective? ReadObjective()
    {
        if (_parser.Current is not MappingStart start)
        {
            Mistake(_parser.Current!.Start, $"an objective has the keys {string.Join(", ", Keys)}.");
            Skip();
            return null;
        }
        CheckPlain(start);
        Dictionary<string, (string Text, Mark At)> values = new(StringComparer.Ordinal);
        while (_parser.MoveNext() && _parser.Current is not MappingEnd)
        {
            Mark at = _parser.Current!.Start;
            string? key = ReadKey(Keys);
            _parser.MoveNext();
            if (key is null) Skip();
            else ReadScalar(key, at, values);
        }
        return Build(values, start.Start);
    }

    private SloObjective? Build(Dictionary<string, (string Text, Mark At)> values, Mark start)
    {
        int before = _mistakes.Count;
        string name = Value(values, start, "name", "", text => text, required: true);
        SliKind sli = Value(values, start, "sli", default, ReadEnum<SliKind>, required: true);
        TimeSpan? threshold = Value<TimeSpan?>(values, start, "threshold", null, text => Duration(text));
        decimal percent = Value(values, start, "objective", 99m, Percent, required: true);
        TimeSpan window = Value(values, start, "window", BudgetWindows.Longest, Duration);
        RequestClass? requestClass = Value<RequestClass?>(
            values, start, "class", null, text => ReadEnum<RequestClass>(text));
        SloRole role = Value(values, start, "role", default, ReadEnum<SloRole>);
        if (_mistakes.Count > before) return null;
        SloObjective objective = new()
        {
            Name = name,
            Sli = sli,
            Threshold = threshold,
            Percent = percent,
            Window = window,
            Class = requestClass?.ToString().ToLowerInvariant(),
            Tenant = values.TryGetValue("tenant", out (string Text, Mark At) who) ? who.Text : null,
            Role = role,
        };
        foreach ((string key, string message) in objective.Mistakes())
            Mistake(values.TryGetValue(key, out (string Text, Mark At) value) ? value.At : start, message);
        return _mistakes.Count > before ? null : objective;
    }

    private T Value<T>(
        Dictionary<string, (string Text, Mark At)> values, Mark start, string key, T otherwise, Func<string, T> read,
        bool required = false)
    {
        if (!values.TryGetValue(key, out (string Text, Mark At) value))
        {
            if (required) Mistake(start, $"an objective has no '{key}'.");
            return otherwise;
        }
        try
        {
            return read(value.Text);
        }
        catch (FormatException e)
        {
            Mistake(value.At, $"{key} is '{Quoted(value.Text)}'; it must be {e.Message}.");
            return otherwise;
        }
    }

    /// <summary>The current event as one of these keys; null, with a mistake, where it is none.</summary>
    private string? ReadKey(string[] known)
    {
        if (_parser.Current is Scalar scalar)
        {
            CheckPlain(scalar);
            if (known.Contains(scalar.Value)) return scalar.Value;
            Mistake(scalar.Start,
                $"'{Quoted(scalar.Value)}' is no key here; there are {string.Join(", ", known)}.");
            return null;
        }
        Mistake(_parser.Current!.Start, $"a key must be one of {string.Join(", ", known)}.");
        Skip();
        return null;
    }

    /// <summary>The current event as a key's value.</summary>
    private void ReadScalar(string key, Mark at, Dictionary<string, (string Text, Mark At)> values)
    {
        if (_parser.Current is not Scalar scalar)
        {
            Mistake(_parser.Current!.Start, $"{key} must be a single value.");
            Skip();
            return;
        }
        CheckPlain(scalar);
        if (scalar.Style == ScalarStyle.Plain && scalar.Value is "" or "~" or "null")
            Mistake(scalar.Start, $"{key} has no value.");
        if (!values.TryAdd(key, (scalar.Value, scalar.Start))) Mistake(at, $"'{key}' is there twice.");
    }

    /// <summary>Leaves out the node that begins with the current event.</summary>
    private void Skip()
    {
        int depth = 0;
        do
        {
            ParsingEvent current = _parser.Current!;
            depth += current.NestingIncrease;
            if (depth > MaxDepth) throw new SemanticErrorException(current.Start, current.End, "it nests too deeply.");
        }
        while (depth > 0 && _parser.MoveNext());
    }

    private void CheckPlain(NodeEvent node)
    {
        if (!node.Anchor.IsEmpty || !node.Tag.IsEmpty) Mistake(node.Start, "anchors and tags are not read here.");
    }

    private void Mistake(Mark at, string message)
    {
        if (_mistakes.Count < MaxMistakes) _mistakes.Add($"{_path}, line {at.Line}, column {at.Column}: {message}");
    }

    private static T ReadEnum<T>(string text) where T : struct, Enum
    {
        foreach (T value in Enum.GetValues<T>())
            if (text == value.ToString().ToLowerInvariant()) return value;
        throw new FormatException("one of "
            + string.Join(", ", Enum.GetNames<T>().Select(name => name.ToLowerInvariant())));
    }

    private static decimal Percent(string text) =>
        text.Length <= 20 && decimal.TryParse(text, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture,
            out decimal percent) ? percent : throw new FormatException("a percentage such as 99.9");

    private static TimeSpan Duration(string text)
    {
        Match match = DurationForm().Match(text);
        if (!match.Success) throw new FormatException("a time such as 500ms, 2s, 5m, 12h or 30d");
        decimal number = decimal.Parse(match.Groups[1].ValueSpan, CultureInfo.InvariantCulture);
        long unit = match.Groups[2].Value switch
        {
            "ms" => TimeSpan.TicksPerMillisecond,
            "s" => TimeSpan.TicksPerSecond,
            "m" => TimeSpan.TicksPerMinute,
            "h" => TimeSpan.TicksPerHour,
            _ => TimeSpan.TicksPerDay,
        };
        return TimeSpan.FromTicks((long)(number * unit));
    }

    private static string Quoted(string text) => text.Length <= 40 ? text : text[..40] + "...";

    [GeneratedRegex(@"\A([0-9]{1,6}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)\z")]
    private static partial Regex DurationForm();
}
