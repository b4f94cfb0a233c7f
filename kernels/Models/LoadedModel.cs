using Native.Kernels.Gpu;
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
    /// <summary>Why no GPU computes though one was asked for, or is here; null where one does, or none is.</summary>
    public string? WhyNoGpu { get; private init; }

    /// <summary>Whether a GPU computes.</summary>
    public bool IsOnGpu => Runner.IsOnGpu;

    /// <summary>Loads a model onto the backend that the options name.</summary>
    /// <param name="options">How to load. All invalid values are reported at once.</param>
    /// <param name="progress">Told after each matrix.</param>
    /// <exception cref="FileNotFoundException">Nothing at the path.</exception>
    /// <exception cref="InvalidDataException">A bad file: names file, place, expected and found.</exception>
    /// <exception cref="NotSupportedException">An architecture, tensor type, tokenizer, backend or variant of
    /// instructions that isn't supported, with those that are; or a device that can't be used
    /// (<see cref="GpuException"/>).</exception>
    /// <exception cref="ModelOptionsException">The options can't be met.</exception>
    public static LoadedModel Load(ModelOptions options, IProgress<LoadProgress>? progress = null)
    {
        List<string> errors = [];
        options.Validate(errors);
        if (errors.Count > 0) throw new ModelOptionsException(string.Join(" ", errors));
        using ModelFile file = ModelFile.Open(options.Path);
        Tokenizer tokenizer = file.OpenTokenizer();
        SuggestedSampling suggested = file.ReadSuggestedSampling();
        (ModelRunner runner, string? why) = Load(file, options, progress);
        return new LoadedModel(runner, tokenizer, file.Config, suggested) { WhyNoGpu = why };
    }

    /// <summary>Loads onto the first backend that can be started, and has the memory.</summary>
    private static (ModelRunner Runner, string? WhyNoGpu) Load(
        ModelFile file, ModelOptions options, IProgress<LoadProgress>? progress)
    {
        IReadOnlyList<string> names = BackendFactory.Order(options);
        List<string> whyNot = [];
        for (int i = 0; ; i++)
        {
            bool isLast = i + 1 == names.Count;
            try
            {
                return (Load(file, names[i], options, progress), whyNot.Count > 0 ? string.Join(' ', whyNot) : null);
            }
            catch (Exception e) when (!isLast && e is GpuException or ModelOptionsException)
            {
                // Who asked for no GPU need not hear that there is none.
                bool isExpected = options is { Backend: BackendFactory.Auto, Device: null }
                    && e is GpuException { MeansNoGpu: true };
                if (!isExpected || options.KvCacheType == DType.FP8) whyNot.Add(e.Message);
            }
            catch (GpuException e)
            {
                throw new NotSupportedException(string.Join(' ', [.. whyNot, e.Message, WithoutGpu(options)]), e);
            }
            catch (Exception e) when (whyNot.Count > 0 && e is NotSupportedException or ModelOptionsException)
            {
                throw new ModelOptionsException(
                    $"{e.Message}. The CPU was tried because no GPU can be used: {string.Join(' ', whyNot)}");
            }
        }
    }

    private static string WithoutGpu(ModelOptions options) => options.Device is null
        ? "Or use --backend cpu; --backend-fallback cpu goes on with the CPU wherever no GPU can be used."
        : "--device asks for a GPU: leave it out for the CPU, or add --backend-fallback cpu to go on wherever no GPU "
            + "can be used.";

    private static ModelRunner Load(
        ModelFile file, string name, ModelOptions options, IProgress<LoadProgress>? progress)
    {
        IBackend backend = BackendFactory.Create(name, options);
        try
        {
            return new ModelRunner(file, backend, options, progress);
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
