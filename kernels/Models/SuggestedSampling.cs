using Native.Kernels.Files;

namespace Native.Kernels.Models;

/// <summary>How a model's makers recommend to sample from it: defaults for whoever says nothing else. Null where they say nothing.</summary>
/// <remarks>From a Hugging Face folder's <c>generation_config.json</c>, the members that vLLM honours; from a GGUF file the keys
/// <c>general.sampling.*</c> (llama.cpp, pull request 17120) that have a counterpart here.</remarks>
/// <param name="Temperature">At least 0.</param>
/// <param name="TopK">Tokens kept; 0 keeps all.</param>
/// <param name="TopP">Above 0, at most 1.</param>
/// <param name="MinP">0 to 1.</param>
/// <param name="RepetitionPenalty">0.01 to 100; 1 is none.</param>
public sealed record SuggestedSampling(float? Temperature, int? TopK, float? TopP, float? MinP, float? RepetitionPenalty)
{
    /// <summary>No recommendation.</summary>
    public static readonly SuggestedSampling None = new(null, null, null, null, null);

    /// <exception cref="InvalidDataException">A value is of the wrong kind or out of its range.</exception>
    internal static SuggestedSampling Read(GgufFile file)
    {
        const string Prefix = "general.sampling.";
        float? Number(string key) => file.Has(Prefix + key) ? file.GetSingle(Prefix + key) : null;
        return new SuggestedSampling(
            Number("temp"), file.Has(Prefix + "top_k") ? file.GetInt32(Prefix + "top_k") : null, Number("top_p"), Number("min_p"), Number("penalty_repeat"))
            .Checked(file.Path, Prefix);
    }

    /// <inheritdoc cref="Read(GgufFile)"/>
    internal static SuggestedSampling ReadFolder(string path)
    {
        string file = System.IO.Path.Combine(path, "generation_config.json");
        SuggestedSampling suggested = None;
        JsonFile.ReadIfThere(file, root => suggested = new SuggestedSampling(
            root.Optional("temperature")?.Single(), root.Optional("top_k")?.Int32(), root.Optional("top_p")?.Single(), root.Optional("min_p")?.Single(), root.Optional("repetition_penalty")?.Single()));
        return suggested.Checked(file, "");
    }

    private SuggestedSampling Checked(string file, string prefix)
    {
        void Require(bool held, string name, object? value, string expected)
        {
            if (!held) throw new InvalidDataException(string.Create(System.Globalization.CultureInfo.InvariantCulture, $"{file}: {prefix}{name} is {value}, expected {expected}"));
        }
        Require(Temperature is null or (>= 0 and <= 100), "temperature", Temperature, "0 to 100");
        Require(TopP is null or (> 0 and <= 1), "top_p", TopP, "above 0, at most 1");
        Require(MinP is null or (>= 0 and <= 1), "min_p", MinP, "0 to 1");
        Require(RepetitionPenalty is null or (>= 0.01f and <= 100), "repetition penalty", RepetitionPenalty, "0.01 to 100");
        return TopK < 0 ? this with { TopK = 0 } : this; // -1 is a customary way to say all
    }
}
