using System.Globalization;
using Native.Kernels.Files;

namespace Native.Kernels.Models;

/// <summary>The sampling that a model's makers recommend: defaults for requests that set nothing. Null where there is
/// no recommendation.</summary>
/// <remarks>From a Hugging Face folder's <c>generation_config.json</c>, the members that vLLM honours; from a GGUF file
/// the keys <c>general.sampling.*</c> (llama.cpp, pull request 17120) that have a counterpart here.</remarks>
/// <param name="Temperature">At least 0.</param>
/// <param name="TopK">Tokens kept; 0 keeps all.</param>
/// <param name="TopP">Above 0, at most 1.</param>
/// <param name="MinP">0 to 1.</param>
/// <param name="RepetitionPenalty">0.01 to 100; 1 is none.</param>
public sealed record SuggestedSampling(float? Temperature, int? TopK, float? TopP, float? MinP,
    float? RepetitionPenalty)
{
    /// <summary>No recommendation.</summary>
    public static readonly SuggestedSampling None = new(null, null, null, null, null);

    /// <summary>A sentence for every invalid value, which is left out: the model loads without it.</summary>
    public IReadOnlyList<string> Warnings { get; init; } = [];

    internal static SuggestedSampling Read(GgufFile file)
    {
        const string Prefix = "general.sampling.";
        float? Number(string key) => file.Has(Prefix + key) ? file.GetSingle(Prefix + key) : null;
        int? Whole(string key) => file.Has(Prefix + key) ? file.GetInt32(Prefix + key) : null;
        return new Reader(file.Path, Prefix)
            .Read(() => Number("temp"), () => Whole("top_k"), () => Number("top_p"), () => Number("min_p"),
                () => Number("penalty_repeat"));
    }

    /// <exception cref="InvalidDataException"><c>generation_config.json</c> is no JSON object.</exception>
    internal static SuggestedSampling ReadFolder(string path)
    {
        string file = System.IO.Path.Combine(path, "generation_config.json");
        SuggestedSampling suggested = None;
        JsonFile.ReadIfThere(file, root =>
        {
            float? Number(string name) => root.Optional(name)?.Single();
            suggested = new Reader(file, "").Read(() => Number("temperature"), () => root.Optional("top_k")?.Int32(),
                () => Number("top_p"), () => Number("min_p"), () => Number("repetition_penalty"));
        });
        return suggested;
    }

    /// <summary>Takes the valid values, and leaves the others out with a sentence each.</summary>
    private sealed class Reader(string file, string prefix)
    {
        private readonly List<string> _warnings = [];

        public SuggestedSampling Read(Func<float?> temperature, Func<int?> topK, Func<float?> topP, Func<float?> minP,
            Func<float?> penalty)
        {
            SuggestedSampling read = new(
                Take("temperature", temperature, "0 to 100", static v => v is >= 0 and <= 100),
                // -1 commonly means all
                Take("top_k", topK, "a whole number", static _ => true) is { } k ? Math.Max(k, 0) : null,
                Take("top_p", topP, "above 0, at most 1", static v => v is > 0 and <= 1),
                Take("min_p", minP, "0 to 1", static v => v is >= 0 and <= 1),
                Take("repetition penalty", penalty, "0.01 to 100", static v => v is >= 0.01f and <= 100));
            return _warnings.Count == 0 ? read : read with { Warnings = _warnings };
        }

        private T? Take<T>(string name, Func<T?> read, string expected, Func<T, bool> canBe)
            where T : struct
        {
            try
            {
                if (read() is not { } value) return null;
                if (canBe(value)) return value;
                _warnings.Add(string.Create(CultureInfo.InvariantCulture,
                    $"{file}: {prefix}{name} is {value}, expected {expected}; it is left out."));
            }
            catch (InvalidDataException e) // of another type
            {
                _warnings.Add($"{e.Message}; it is left out.");
            }
            return null;
        }
    }
}
