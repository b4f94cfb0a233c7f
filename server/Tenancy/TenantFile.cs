using System.Globalization;
using Native.Scheduling;
using Native.Server.Serving;
using YamlDotNet.Core;
using YamlDotNet.Core.Events;

namespace Native.Server.Tenancy;

/// <summary>A tenant and the keys it is known by.</summary>
/// <param name="Spec">What it may have.</param>
/// <param name="Keys">Its API keys.</param>
internal sealed record TenantEntry(TenantSpec Spec, IReadOnlyList<string> Keys);

/// <summary>Reads tenants from YAML.</summary>
internal sealed class TenantFile
{
    /// <summary>What a file looks like.</summary>
    public const string Example =
        """
        tenants:
          - name: acme                   # in objectives and metrics
            api_keys: [sk-acme-1]        # whoever sends one of these is this tenant
            weight: 2                    # twice the share of one with 1, which is the default
            requests_per_minute: 600     # more are refused with 429; a minute's worth may come at once
            tokens_per_minute: 200000    # of prompts and answers
          - name: nightly
            weight: 0.5
        """;

    private const int MaxBytes = 1 << 20;
    private const int MaxKey = 500;

    private static readonly string[] Keys =
        ["name", "api_keys", "weight", "requests_per_minute", "tokens_per_minute"];

    private readonly YamlReader _reader;
    private readonly Dictionary<string, Mark> _apiKeys = []; // and where they are

    private TenantFile(YamlReader reader) => _reader = reader;

    /// <summary>Reads a file.</summary>
    /// <exception cref="ConfigFileException">It is not there, can't be read, or says what can't be.</exception>
    public static IReadOnlyList<TenantEntry> Read(string path) => Parse(path, ConfigFile.ReadText(path, MaxBytes));

    /// <summary>Reads a text.</summary>
    /// <param name="path">What it is called in messages.</param>
    /// <param name="text">The YAML.</param>
    /// <exception cref="ConfigFileException">It says what can't be.</exception>
    public static IReadOnlyList<TenantEntry> Parse(string path, string text) =>
        YamlReader.Read(path, text, reader => new TenantFile(reader).ReadTenants());

    private List<TenantEntry> ReadTenants()
    {
        List<TenantEntry> entries = [];
        Mark start = _reader.At;
        if (!_reader.Expect<MappingStart>("there are no tenants; a file begins with 'tenants:'.")) return entries;
        Dictionary<string, Mark> names = [];
        bool listed = false;
        foreach (string _ in _reader.Keys(["tenants"]))
        {
            listed = true;
            if (!_reader.Expect<SequenceStart>("'tenants' must be a list of tenants.")) continue;
            while (_reader.NextItem())
                if (ReadTenant(names) is { } entry) entries.Add(entry);
        }
        if (!listed) _reader.Mistake(start, "there are no tenants: 'tenants' is missing.");
        return entries;
    }

    private TenantEntry? ReadTenant(Dictionary<string, Mark> names)
    {
        YamlValues values = new(_reader, "a tenant");
        if (!_reader.Expect<MappingStart>($"a tenant has the keys {string.Join(", ", Keys)}.")) return null;
        List<string> apiKeys = [];
        foreach (string key in _reader.Keys(Keys))
        {
            if (key == "api_keys") ReadApiKeys(apiKeys);
            else values.Read(key);
        }
        values.CheckName(names);
        TenantSpec spec = new()
        {
            Name = values.Value("name", "", Name, required: true),
            Weight = values.Value("weight", 1, Weight),
            RequestsPerMinute = values.Value<int?>("requests_per_minute", null, Quota),
            TokensPerMinute = values.Value<int?>("tokens_per_minute", null, Quota),
        };
        return new TenantEntry(spec, apiKeys);
    }

    /// <summary>Reads the list, whose first event is the current one. A key is never told: messages end up in
    /// logs.</summary>
    private void ReadApiKeys(List<string> apiKeys)
    {
        if (!_reader.Expect<SequenceStart>("api_keys must be a list, such as [key-1, key-2].")) return;
        while (_reader.NextItem())
        {
            Mark at = _reader.At;
            if (_reader.ReadScalar("an API key") is not { } key) continue;
            if (key.Length is 0 or > MaxKey || key.AsSpan().ContainsAnyExceptInRange('!', '~'))
                _reader.Mistake(at, $"an API key must have 1 to {MaxKey} characters of ASCII and no spaces.");
            else if (!_apiKeys.TryAdd(key, at))
                _reader.Mistake(at, $"this API key is there already, in line {_apiKeys[key].Line}.");
            apiKeys.Add(key);
        }
    }

    private static string Name(string text) => text.Length is > 0 and <= TenantSpec.MaxName ? text
        : throw new FormatException($"a text of 1 to {TenantSpec.MaxName} characters");

    private static double Weight(string text) =>
        double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out double weight)
            && weight is >= TenantSpec.LeastWeight and <= TenantSpec.MostWeight ? weight
        : throw new FormatException(string.Create(CultureInfo.InvariantCulture,
            $"a number from {TenantSpec.LeastWeight} to {TenantSpec.MostWeight}"));

    private static int? Quota(string text) =>
        int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int quota) && quota > 0 ? quota
        : throw new FormatException($"a whole number from 1 to {int.MaxValue}");
}
