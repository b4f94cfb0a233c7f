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

    private static readonly string[] Keys =
        ["name", "sli", "threshold", "objective", "window", "class", "tenant", "role"];

    private readonly YamlReader _reader;

    private SloFile(YamlReader reader) => _reader = reader;

    /// <summary>Reads a file.</summary>
    /// <exception cref="ConfigFileException">It is not there, can't be read, or says what can't be.</exception>
    public static SloSpec Read(string path) => Parse(path, ConfigFile.ReadText(path, MaxBytes));

    /// <summary>Reads a text.</summary>
    /// <param name="path">What it is called in messages.</param>
    /// <param name="text">The YAML.</param>
    /// <exception cref="ConfigFileException">It says what can't be.</exception>
    public static SloSpec Parse(string path, string text) =>
        YamlReader.Read(path, text, reader => new SloFile(reader).ReadSpec());

    private SloSpec ReadSpec()
    {
        List<SloObjective> objectives = [];
        YamlValues values = new(_reader, "a file");
        Mark start = _reader.At;
        if (!_reader.Expect<MappingStart>("there are no objectives; a file begins with 'slos:'.")) return new([]);
        bool listed = false;
        foreach (string key in _reader.Keys(["slos", "min_events"]))
        {
            listed |= key == "slos";
            if (key == "slos") ReadObjectives(objectives);
            else values.Read(key);
        }
        if (!listed) _reader.Mistake(start, "there are no objectives: 'slos' is missing.");
        SloSpec spec = new(objectives);
        return spec with { MinEvents = values.Value("min_events", spec.MinEvents, Events) };
    }

    /// <summary>Reads the list, whose first event is the current one.</summary>
    private void ReadObjectives(List<SloObjective> objectives)
    {
        Mark start = _reader.At;
        if (!_reader.Expect<SequenceStart>("'slos' must be a list of objectives.")) return;
        Dictionary<string, Mark> names = [];
        int count = 0;
        while (_reader.NextItem())
        {
            if (++count == SloSpec.MaxObjectives + 1)
                _reader.Mistake(_reader.At, $"there are more than {SloSpec.MaxObjectives} objectives.");
            YamlValues values = new(_reader, "an objective");
            if (!_reader.Expect<MappingStart>($"an objective has the keys {string.Join(", ", Keys)}.")) continue;
            foreach (string key in _reader.Keys(Keys)) values.Read(key);
            values.CheckName(names);
            objectives.Add(Build(values));
        }
        if (count == 0) _reader.Mistake(start, "there are no objectives.");
    }

    private static SloObjective Build(YamlValues values)
    {
        SloObjective objective = new()
        {
            Name = values.Value("name", "", text => text, required: true),
            Sli = values.Value("sli", SliKind.Availability, ReadEnum<SliKind>, required: true),
            Threshold = values.Value<TimeSpan?>("threshold", null, text => Duration(text)),
            Percent = values.Value("objective", 99m, Percent, required: true),
            Window = values.Value("window", BudgetWindows.Longest, Duration),
            Class = values.Value<RequestClass?>("class", null, text => ReadEnum<RequestClass>(text))?.ToString()
                .ToLowerInvariant(),
            Tenant = values.Value<string?>("tenant", null, text => text),
            Role = values.Value("role", SloRole.Control, ReadEnum<SloRole>),
        };
        bool hasKind = !values.IsWrong("sli"); // or nobody knows whether it has a threshold
        foreach ((string key, string why) in objective.Mistakes())
            if (!values.IsWrong(key) && (hasKind || key != "threshold")) values.Mistake(key, why);
        return objective;
    }

    private static int Events(string text) =>
        int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int events)
            && events is >= 1 and <= 10_000 ? events : throw new FormatException("a whole number from 1 to 10000");

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

    [GeneratedRegex(@"\A([0-9]{1,6}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)\z")]
    private static partial Regex DurationForm();
}
