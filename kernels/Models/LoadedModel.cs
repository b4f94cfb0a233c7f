using Native.Kernels.Text;

namespace Native.Kernels.Models;

/// <summary>A loaded model: its runner turns ids into next tokens, its tokenizer text into ids and back.</summary>
/// <param name="Runner">Computes steps.</param>
/// <param name="Tokenizer">The model's own.</param>
/// <param name="Config">Its shape.</param>
/// <param name="Suggested">The makers' recommended sampling.</param>
public sealed record LoadedModel(ModelRunner Runner, Tokenizer Tokenizer, ModelConfig Config,
    SuggestedSampling Suggested) : IDisposable
{
    /// <summary>Loads a model onto the backend that the options name.</summary>
    /// <param name="options">How to load. All invalid values are reported at once.</param>
    /// <param name="progress">Told after each matrix.</param>
    /// <exception cref="FileNotFoundException">Nothing at the path.</exception>
    /// <exception cref="InvalidDataException">A bad file: names file, place, expected and found.</exception>
    /// <exception cref="NotSupportedException">An architecture, tensor type, tokenizer, backend or variant of
    /// instructions that isn't supported, with those that are.</exception>
    /// <exception cref="ModelOptionsException">The options can't be met.</exception>
    public static LoadedModel Load(ModelOptions options, IProgress<LoadProgress>? progress = null)
    {
        List<string> errors = [];
        options.Validate(errors);
        if (errors.Count > 0) throw new ModelOptionsException(string.Join(" ", errors));
        using ModelFile file = ModelFile.Open(options.Path);
        Tokenizer tokenizer = file.OpenTokenizer();
        SuggestedSampling suggested = file.ReadSuggestedSampling();
        IBackend backend = BackendFactory.Create(options);
        try
        {
            return new LoadedModel(new ModelRunner(file, backend, options, progress), tokenizer,
                file.Config, suggested);
        }
        catch
        {
            backend.Dispose();
            throw;
        }
    }

    /// <summary>Frees the runner.</summary>
    public void Dispose() => Runner.Dispose();
}
