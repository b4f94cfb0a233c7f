using Native.Kernels;
using Native.Kernels.Models;
using Native.Kernels.Sampling;

namespace Native.Tools;

/// <summary>Models that read the same text side by side, a few positions at a time: all of a vocabulary's probabilities
/// are too many to keep.</summary>
internal sealed class ModelComparison
{
    private const int StepTokens = 128; // rows of logits in memory for each model: 25 MB where the vocabulary is 49,152

    private readonly IReadOnlyList<LoadedModel> _models;
    private readonly int[] _ids;
    private readonly int _vocabulary;
    private readonly float[][] _logits; // [model][StepTokens, vocabulary]

    /// <param name="models">The reference, then those that are measured; loaded as <see cref="Exact"/> and
    /// <see cref="Served"/> say.</param>
    /// <param name="text">Special tokens in it are plain text.</param>
    /// <exception cref="CommandException">Their tokens differ: probabilities of different tokens can't be
    /// compared.</exception>
    public ModelComparison(IReadOnlyList<LoadedModel> models, string text)
    {
        _models = models;
        _vocabulary = models[0].Runner.Info.VocabularySize;
        _ids = models[0].Tokenizer.Encode(text, addSpecial: true, parseSpecial: false);
        foreach (LoadedModel measured in models.Skip(1))
        {
            const string Why = "only models with the same tokens can be compared";
            int vocabulary = measured.Runner.Info.VocabularySize;
            if (vocabulary != _vocabulary)
                throw new CommandException(
                    $"the vocabularies differ: the reference has {_vocabulary} tokens and the "
                        + $"model {vocabulary}; {Why}");
            int[] ids = measured.Tokenizer.Encode(text, addSpecial: true, parseSpecial: false);
            int same = ids.AsSpan().CommonPrefixLength(_ids);
            if (ids.Length != _ids.Length || same < ids.Length)
                throw new CommandException(
                    $"the tokenizers differ: the reference cuts the text into {_ids.Length} tokens and the model "
                        + $"into {ids.Length}, of which the first {same} are the same; {Why}");
        }
        _logits = [.. models.Select(_ => new float[(long)StepTokens * _vocabulary])];
    }

    /// <summary>How a model is loaded that is measured as it serves: one sequence, few tokens at once, which changes no
    /// bit of what it computes.</summary>
    public static ModelOptions Served(ModelOptions options) => options with
    {
        MaxBatchedTokens = StepTokens,
        MaxSequences = 1,
    };

    /// <summary>How a reference is loaded: nothing is rounded but its weights.</summary>
    public static ModelOptions Exact(ModelOptions options) => Served(options) with
    {
        FloatActivations = true,
        KvCacheType = DType.F32,
    };

    /// <summary>Reads the text in windows, as <see cref="Perplexity.OfAsync"/> does.</summary>
    /// <param name="terminal">Whose Ctrl-C ends it.</param>
    /// <param name="pairs">Whom to compare with whom, by number.</param>
    /// <param name="context">Tokens in a window.</param>
    /// <param name="most">Windows at most; null for all that the text fills.</param>
    /// <param name="after">Told after each window: how many, of how many, and what came of the pairs so far.</param>
    /// <exception cref="CommandException">The text is shorter than a window, or there is no divergence.</exception>
    /// <exception cref="UsageException">A model can't read a window.</exception>
    public Task<Divergence[]> OfAsync(Terminal terminal, IReadOnlyList<(int Reference, int Measured)> pairs,
        int context, int? most, Action<int, int, Divergence[]> after)
    {
        foreach (LoadedModel model in _models) Perplexity.CheckWindow(context, model.Runner.Info);
        int windows = Perplexity.Windows(_ids, context, most);
        return terminal.InterruptibleAsync(ct => Task.Run(
            () =>
            {
                Divergence[] divergences = [.. pairs.Select(_ => new Divergence())];
                PositionDivergence[][] scored =
                    [.. pairs.Select(_ => new PositionDivergence[context - 1 - context / 2])];
                for (int window = 0; window < windows; window++)
                {
                    int[] ids = Perplexity.Window(_models[0].Tokenizer, _ids, window, context);
                    for (int from = 0; from < context; from += StepTokens)
                    {
                        ct.ThrowIfCancellationRequested();
                        // The last position has nothing after it to be scored.
                        int to = Math.Min(from + StepTokens, context), firstScored = Math.Max(from, context / 2),
                            rows = Math.Max(Math.Min(to, context - 1) - firstScored, 0);
                        for (int model = 0; model < _models.Count; model++)
                            Step(_models[model].Runner, ids, from, to, firstScored, rows, _logits[model]);
                        for (int pair = 0; pair < pairs.Count; pair++)
                        {
                            (float[] reference, float[] measured) =
                                (_logits[pairs[pair].Reference], _logits[pairs[pair].Measured]);
                            PositionDivergence[] found = scored[pair];
                            Parallel.For(0, rows, row => found[firstScored - context / 2 + row] = PositionDivergence.Of(
                                reference.AsSpan(row * _vocabulary, _vocabulary),
                                measured.AsSpan(row * _vocabulary, _vocabulary), ids[firstScored + row + 1]));
                        }
                    }
                    for (int pair = 0; pair < pairs.Count; pair++)
                    {
                        divergences[pair].Add(scored[pair]);
                        if (!double.IsFinite(
                            divergences[pair].Reference.Value + divergences[pair].Measured.Value
                                + divergences[pair].Kl))
                            throw new CommandException(
                                $"window {window + 1} has a token that one of the models holds for impossible: there "
                                    + "is no divergence");
                    }
                    after(window + 1, windows, divergences);
                }
                return divergences;
            },
            ct));
    }

    /// <summary>Computes positions from..to of a window that is a model's only sequence, with the logits of
    /// some.</summary>
    private static void Step(ModelRunner runner, int[] ids, int from, int to, int firstScored, int rows, float[] logits)
    {
        int blockSize = runner.Info.BlockSize;
        int[] blocks = [.. Enumerable.Range(0, (to + blockSize - 1) / blockSize)];
        BatchBuffers buffers = new(runner.Info);
        buffers.Begin();
        int first = buffers.AddSequence(ids.AsSpan(from, to - from), from, blocks, place: 0);
        for (int row = 0; row < rows; row++) buffers.AddSample(first + firstScored - from + row, default);
        runner.Logits(buffers.Batch, logits);
    }
}
