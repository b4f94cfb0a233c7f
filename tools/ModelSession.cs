using System.Diagnostics;
using Native.Kernels.Models;
using Native.Kernels.Text;
using Native.Scheduling;
using Native.Server.Serving;

namespace Native.Tools;

/// <summary>What came of a prompt.</summary>
/// <param name="Ids">The output's ids, the end token among them where there was one.</param>
/// <param name="Text">Their text, without end token and stop text.</param>
/// <param name="Finish">Why it ended; Cancelled where Ctrl-C did.</param>
internal sealed record Completion(int[] Ids, string Text, FinishReason Finish);

/// <summary>A loaded model with its engine: the same path a request to the server takes, without the network.</summary>
internal sealed class ModelSession : IDisposable
{
    private readonly LoadedModel _model;

    private ModelSession(LoadedModel model)
    {
        _model = model;
        Engine = new Engine(model.Runner, model.Tokenizer.EndIds, new EngineOptions());
    }

    public Engine Engine { get; }

    public Tokenizer Tokenizer => _model.Tokenizer;

    public SuggestedSampling Suggested => _model.Suggested;

    /// <summary>Loads a model, downloading it before where it is the hub's and not here, with progress bars where somebody looks.</summary>
    public static async Task<ModelSession> OpenAsync(ModelOptions options, Terminal terminal)
    {
        LoadedModel model = await LoadAsync(options, terminal);
        return new ModelSession(model);
    }

    /// <summary>The same without an engine, for what drives the runner itself.</summary>
    public static async Task<LoadedModel> LoadAsync(ModelOptions options, Terminal terminal)
    {
        options = options with { Path = await HubPath.ResolveAsync(options.Path, terminal) };
        return await terminal.LoadingAsync(options.Path, progress => LoadedModel.Load(options, progress));
    }

    /// <summary>A prompt's ids as the server has them: special tokens are read, the begin token is added where the model wants one.</summary>
    public static int[] EncodePrompt(Tokenizer tokenizer, string text)
    {
        // What goes on from a prompt must not follow an end token, so only the beginning is added.
        int[] ids = tokenizer.Encode(text, addSpecial: false, parseSpecial: true);
        return tokenizer.AddsBos ? [tokenizer.BosId!.Value, .. ids] : ids;
    }

    /// <summary>A token as the vocabulary writes it; a model may have rows past its tokenizer's last token.</summary>
    public string Piece(int id) => id < Tokenizer.VocabularySize ? Tokenizer.Piece(id) : $"<{id}>";

    /// <summary>Hands a prompt to the engine.</summary>
    /// <exception cref="UsageException">Parameters or ids are out of range.</exception>
    /// <exception cref="CommandException">It doesn't fit the model.</exception>
    public TokenStream Submit(int[] ids, SamplingParams sampling)
    {
        GenerationRequest request = new() { Ids = ids, Sampling = sampling };
        SubmitOutcome outcome = Engine.Submit(request, out TokenStream? stream);
        switch (outcome)
        {
            case SubmitOutcome.Accepted:
                return stream!;
            case SubmitOutcome.Invalid:
                List<string> errors = [];
                Engine.Validate(request, errors);
                throw new UsageException(string.Join(" ", errors));
            case SubmitOutcome.TooLong:
                throw new CommandException($"the prompt has {ids.Length} tokens, but a sequence may have {Engine.Info.MaxModelLength}, prompt and output together (--max-model-len)");
            default:
                throw new CommandException($"{ids.Length} tokens of prompt and {sampling.MaxTokens} to generate need more memory than the KV cache of {Engine.Info.BlockCount * (long)Engine.Info.BlockSize} tokens has");
        }
    }

    /// <summary>Continues a prompt. Each piece of text goes to <paramref name="write"/> once it is certain; <paramref name="ct"/> ends the output where it is.</summary>
    public async Task<Completion> CompleteAsync(int[] ids, SamplingParams sampling, IReadOnlyList<string> stops, Action<string> write, CancellationToken ct)
    {
        using TokenStream stream = Submit(ids, sampling);
        Detokenizer detokenizer = new(Tokenizer, stops);
        List<int> output = [];
        System.Text.StringBuilder text = new();
        FinishReason finish = FinishReason.None;
        void Add(string piece)
        {
            if (piece.Length == 0) return;
            text.Append(piece);
            write(piece);
        }
        try
        {
            while (finish == FinishReason.None && await stream.WaitAsync(ct))
            {
                while (finish == FinishReason.None && stream.TryRead(out TokenEvent e))
                {
                    if (e.Token >= 0) output.Add(e.Token);
                    if (e.Token >= 0 && !e.IsStopToken && e.Token < Tokenizer.VocabularySize) Add(detokenizer.Append(e.Token));
                    finish = detokenizer.Stopped ? FinishReason.Stop : e.Finish;
                }
            }
        }
        catch (OperationCanceledException)
        {
            finish = FinishReason.Cancelled;
        }
        Add(detokenizer.Flush());
        if (finish is FinishReason.Error or FinishReason.Aborted) throw new CommandException($"the computation failed: {Engine.LastFailure?.Message ?? "the model gave no numbers"}");
        return new Completion([.. output], text.ToString(), finish);
    }

    /// <summary>Runs a request to its end without keeping what it generates.</summary>
    /// <returns>Its last event that had a token; the default where none had.</returns>
    public async Task<TokenEvent> FinishAsync(TokenStream stream, CancellationToken ct)
    {
        TokenEvent last = default;
        while (await stream.WaitAsync(ct))
        {
            while (stream.TryRead(out TokenEvent e))
            {
                if (e.Token >= 0) last = e;
                if (e.Finish is FinishReason.Error or FinishReason.Aborted) throw new CommandException($"the computation failed: {Engine.LastFailure?.Message ?? "the model gave no numbers"}");
            }
        }
        return last;
    }

    /// <summary>How fast it went, for people.</summary>
    public static string Speed(int tokens, long since)
    {
        double seconds = Stopwatch.GetElapsedTime(since).TotalSeconds;
        return string.Create(System.Globalization.CultureInfo.InvariantCulture, $"{tokens} tokens in {seconds:0.0} s, {tokens / Math.Max(seconds, 1e-9):0.0} tokens/s");
    }

    public void Dispose()
    {
        Engine.Dispose();
        _model.Dispose();
    }
}
