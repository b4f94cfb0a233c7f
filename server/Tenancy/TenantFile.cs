using System.Globalization;
using Native.Scheduling;
using Native.Server.Serving;
using YamlDotNet.Core;
using YamlDotNet.Serialization;
using YamlDotNet.Serialization.NamingConventions;

namespace Native.Server.Tenancy;

/// <summary>A tenant and the keys it is known by.</summary>
/// <param name="Spec">What it may have.</param>
/// <param name="Keys">Its API keys.</param>
internal sealed record TenantEntry(TenantSpec Spec, IReadOnlyList<string> Keys);

/// <summary>Reads tenants from YAML.</summary>
internal static class TenantFile
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

    /// <summary>Reads a file.</summary>
    /// <exception cref="ConfigFileException">It is not there, can't be read, or says what can't be.</exception>
    public static IReadOnlyList<TenantEntry> Read(string path) => Parse(path, ConfigFile.ReadText(path, MaxBytes));

    /// <summary>Reads a text.</summary>
    /// <param name="path">What it is called in messages.</param>
    /// <param name="text">The YAML.</param>
    /// <exception cref="ConfigFileException">It says what can't be.</exception>
    public static IReadOnlyList<TenantEntry> Parse(string path, string text)
    {
        Root? root;
        try
        {
            root = new DeserializerBuilder().WithNamingConvention(UnderscoredNamingConvention.Instance)
                .WithDuplicateKeyChecking().WithMaximumRecursion(8).Build().Deserialize<Root?>(text);
        }
        catch (YamlException e)
        {
            string place =
                string.Create(CultureInfo.InvariantCulture, $"{path}, line {e.Start.Line}, column {e.Start.Column}");
            throw new ConfigFileException([$"{place}: {Mistake(e)}"]);
        }
        if (root?.Tenants is not { } items)
            throw new ConfigFileException([$"{path} has no tenants; a file begins with 'tenants:'."]);
        List<string> mistakes = [];
        List<TenantEntry> entries = [];
        HashSet<string> keys = [];
        for (int i = 0; i < items.Count; i++)
        {
            if (items[i] is not { Name: { } name } item)
            {
                mistakes.Add($"{path}: tenant {i + 1} has no name.");
                continue;
            }
            TenantSpec spec = new()
            {
                Name = name,
                Weight = item.Weight,
                RequestsPerMinute = item.RequestsPerMinute,
                TokensPerMinute = item.TokensPerMinute,
            };
            List<string> errors = [];
            spec.Validate(errors);
            foreach (string? key in item.ApiKeys ?? [])
            {
                // A key is never told: messages end up in logs.
                if (key is not { Length: > 0 and <= MaxKey } || key.AsSpan().ContainsAnyExceptInRange('!', '~'))
                    errors.Add($"A key of '{name}' is empty, too long, or not printable ASCII without spaces.");
                else if (!keys.Add(key)) errors.Add($"A key of '{name}' is there twice.");
            }
            mistakes.AddRange(errors.Select(error => $"{path}: {error}"));
            entries.Add(new TenantEntry(spec, [.. item.ApiKeys?.OfType<string>() ?? []]));
        }
        foreach (IGrouping<string, TenantEntry> same in entries.GroupBy(entry => entry.Spec.Name))
            if (same.Count() > 1) mistakes.Add($"{path}: there are {same.Count()} tenants of the name '{same.Key}'.");
        return mistakes.Count == 0 ? entries : throw new ConfigFileException(mistakes);
    }

    /// <summary>What is wrong, in the words of the file.</summary>
    private static string Mistake(YamlException e)
    {
        string message = e.InnerException?.Message ?? e.Message;
        const string property = "Property '";
        if (message.StartsWith(property, StringComparison.Ordinal) && message.Contains("not found"))
        {
            string key = message[property.Length..message.IndexOf('\'', property.Length)];
            return $"'{key}' is no key here; a file has tenants, and a tenant {Keys}.";
        }
        // A value that does not fit is told by .NET's types.
        bool isValue = e.InnerException is FormatException or OverflowException or InvalidCastException
            || message.Contains("System.");
        return isValue
            ? $"the value does not fit its key; a tenant has {Keys}." : message;
    }

    private const string Keys = "name (a text), api_keys (a list of texts), weight (a number), requests_per_minute and "
        + "tokens_per_minute (whole numbers)";

    private sealed class Root
    {
        public List<Item?>? Tenants { get; set; }
    }

    private sealed class Item
    {
        public string? Name { get; set; }

        public List<string?>? ApiKeys { get; set; }

        public double Weight { get; set; } = 1;

        public int? RequestsPerMinute { get; set; }

        public int? TokensPerMinute { get; set; }
    }
}
