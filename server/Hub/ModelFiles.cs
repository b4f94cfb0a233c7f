using System.Globalization;
using System.Text.RegularExpressions;

namespace Native.Server.Hub;

/// <summary>The files that a model is made of.</summary>
/// <param name="Folder">True for a folder with config.json and safetensors; false for a GGUF file, with its other parts
/// where it is split.</param>
/// <param name="Names">Their names in the repository. A GGUF model opens by the first; a folder's last is config.json,
/// so that where it is, the others are.</param>
internal sealed partial record ModelFiles(bool Folder, IReadOnlyList<string> Names)
{
    private const string Config = "config.json", Weights = "model.safetensors", Index = "model.safetensors.index.json";

    /// <summary>What a folder's loader reads beside weights and config.json.</summary>
    private static readonly string[] Texts =
    [
        "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
        "vocab.json", "merges.txt",
        "generation_config.json", "chat_template.json", "chat_template.jinja",
    ];

    /// <summary>The models that a list of files has: its folder where it is one, else each GGUF file, sorted.</summary>
    public static IReadOnlyList<ModelFiles> Of(IEnumerable<string> files)
    {
        HashSet<string> all = [.. files];
        string[] weights = [.. all.Where(IsWeights)];
        if (all.Contains(Config) && weights.Length > 0)
        {
            IEnumerable<string> others =
                all.Where(name => Texts.Contains(name) || name == Index || ExtraTemplate().IsMatch(name));
            return [new ModelFiles(true,
                [.. others.Order(StringComparer.Ordinal), .. weights.Order(StringComparer.Ordinal), Config])];
        }
        // What sees for a model (mmproj) and what was measured to quantize it (imatrix) are no models.
        return [.. all.Where(
            name => name.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase) && !NoModel().IsMatch(name))
            .Select(OfGguf).DistinctBy(model => model.Names[0]).OrderBy(model => model.Names[0],
                StringComparer.Ordinal)];
    }

    /// <summary>A GGUF file with the other parts that its name tells of (<c>-00001-of-00003.gguf</c>), or any other
    /// file alone.</summary>
    public static ModelFiles OfGguf(string name)
    {
        Match split = Split().Match(name);
        if (!split.Success) return new ModelFiles(false, [name]);
        int parts = int.Parse(split.Groups["count"].Value, CultureInfo.InvariantCulture);
        return new ModelFiles(false,
            [.. Enumerable.Range(1, parts)
                .Select(i => string.Create(CultureInfo.InvariantCulture,
                    $"{split.Groups["name"].Value}-{i:d5}-of-{parts:d5}.gguf"))]);
    }

    /// <summary>Whether a folder on disk has all files: a folder's weights and tokenizer too, whoever downloaded
    /// them.</summary>
    public bool IsWhole(string folder)
    {
        bool Has(string name) => File.Exists(Path.Combine(folder, name));
        if (!Names.All(Has)) return false;
        if (!Folder) return true;
        if (!Has("tokenizer.json") && !Has("tokenizer.model")) return false;
        return Has(Weights)
            || (Has(Index)
                && Shard().Matches(File.ReadAllText(Path.Combine(folder, Index)))
                    .All(shard => Has(shard.Groups["file"].Value)));
    }

    // consolidated.safetensors is Mistral's other copy of the same weights.
    private static bool IsWeights(string name) =>
        name.EndsWith(".safetensors", StringComparison.Ordinal) && !name.Contains('/', StringComparison.Ordinal)
            && !name.StartsWith("consolidated", StringComparison.Ordinal);

    [GeneratedRegex(@"\A(?<name>.+)-(?!00000)\d{5}-of-(?<count>(?!00000)\d{5})\.gguf\z", RegexOptions.CultureInvariant)]
    private static partial Regex Split();

    [GeneratedRegex(@"(\A|/)[^/]*(mmproj|imatrix)[^/]*\z", RegexOptions.IgnoreCase | RegexOptions.CultureInvariant)]
    private static partial Regex NoModel();

    [GeneratedRegex(@"\Aadditional_chat_templates/[^/]+\.jinja\z")]
    private static partial Regex ExtraTemplate();

    [GeneratedRegex("\"(?<file>[^\"/\\\\]+\\.safetensors)\"")]
    private static partial Regex Shard();
}
