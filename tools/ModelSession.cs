using System.Diagnostics;
using System.Text;
using System.Text.Json;
using Native.Kernels;
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
    private readonly LoadedModel _loaded;

    private ModelSession(LoadedModel loaded)
    {
        _loaded = loaded;
        Model = new ServedModel(
            loaded.Runner.Info.Name, loaded.Runner, loaded.Tokenizer, new SamplingParams(), new EngineOptions());
    }

    /// <summary>The model as the server serves it.</summary>
    public ServedModel Model { get; }

    public ModelInfo Info => Model.Info;

    public Tokenizer Tokenizer => Model.Tokenizer;

    public SuggestedSampling Suggested => _loaded.Suggested;

    /// <summary>Loads a model, downloading it before where it is the hub's and not here, with progress bars where
    /// somebody looks.</summary>
    public static async Task<ModelSession> OpenAsync(ModelOptions options, Terminal terminal) =>
        new(await LoadAsync(options, terminal));

    /// <summary>The same without an engine, for what drives the runner itself.</summary>
    public static async Task<LoadedModel> LoadAsync(ModelOptions options, Terminal terminal)
    {
        options = options with { Path = await HubPath.ResolveAsync(options.Path, terminal) };
        LoadedModel loaded =
            await terminal.LoadingAsync(options.Path, progress => LoadedModel.Load(options, progress));
        if (loaded.WhyNoGpu is { } why) terminal.Warn($"the CPU computes, and no GPU: {why}");
        return loaded;
    }

    /// <summary>A token as the vocabulary writes it; a model may have rows past its tokenizer's last token.</summary>
    public string Piece(int id) => id < Tokenizer.VocabularySize ? Tokenizer.Piece(id) : $"<{id}>";

    /// <summary>A prompt's ids, as the server makes them.</summary>
    /// <exception cref="CommandException">It is too long for the model.</exception>
    public int[] EncodePrompt(string text) => Told(() => Model.EncodePrompt(text));

    /// <summary>A conversation's ids, as the server makes them.</summary>
    /// <exception cref="CommandException">The template refuses it, or it is too long for the model.</exception>
    public int[] EncodeChat(JsonElement messages) =>
        Told(() => ChatPrompt.Encode(
            Model, messages, tools: null, addGenerationPrompt: true, extra: null, CancellationToken.None));

    /// <summary>Hands a prompt to the engine.</summary>
    /// <exception cref="UsageException">Parameters or ids are out of range.</exception>
    /// <exception cref="CommandException">It doesn't fit the model.</exception>
    public Generation Start(int[] ids, SamplingParams sampling, IReadOnlyList<string>? stops = null)
    {
        GenerationRequest tokens = new() { Ids = ids, Sampling = sampling };
        return Told(() => Generation.Start(Model, [new TextRequest { Tokens = tokens, Stop = stops ?? [] }])[0]);
    }

    /// <summary>Continues a prompt. Each piece of text goes to <paramref name="write"/> once it is certain;
    /// <paramref name="ct"/> ends the output where it is.</summary>
    public async Task<Completion> CompleteAsync(int[] ids, SamplingParams sampling, IReadOnlyList<string> stops,
        Action<string> write, CancellationToken ct)
    {
        using Generation generation = Start(ids, sampling, stops);
        List<int> output = [];
        StringBuilder text = new();
        FinishReason finish = FinishReason.None;
        try
        {
            await ReadAsync(generation, piece =>
            {
                if (piece.Token >= 0) output.Add(piece.Token);
                finish = piece.Finish;
                if (piece.Content.Length == 0) return;
                text.Append(piece.Content);
                write(piece.Content);
            }, ct);
        }
        catch (OperationCanceledException)
        {
            finish = FinishReason.Cancelled;
        }
        return new Completion([.. output], text.ToString(), finish);
    }

    /// <summary>Runs a request to its end without keeping what it generates.</summary>
    /// <returns>Its last piece that had a token; the default where none had.</returns>
    public async Task<Piece> FinishAsync(Generation generation, CancellationToken ct)
    {
        Piece last = default;
        await ReadAsync(generation, piece =>
        {
            if (piece.Token >= 0) last = piece;
        }, ct);
        return last;
    }

    /// <exception cref="CommandException">The computation failed.</exception>
    private async Task ReadAsync(Generation generation, Action<Piece> read, CancellationToken ct)
    {
        try
        {
            while (await generation.WaitAsync(ct))
                while (generation.TryRead(out Piece piece)) read(piece);
        }
        catch (RequestException)
        {
            throw new CommandException(
                $"the computation failed: {Model.Engine.LastFailure?.Message ?? "the model gave no numbers"}");
        }
    }

    /// <summary>
    /// Tells a refusal in the tools' way: what does not fit the model is no fault of the command line.
    /// </summary>
    private static T Told<T>(Func<T> work)
    {
        try
        {
            return work();
        }
        catch (RequestException e) when (e.Code == Generation.ContextLengthExceeded)
        {
            throw new CommandException($"{e.Message} (--max-model-len)");
        }
        catch (RequestException e) when (e.Code is Generation.KvCacheExceeded or ChatPrompt.TemplateError
            or RequestException.DeviceLostCode)
        {
            throw new CommandException(e.Message);
        }
        catch (RequestException e)
        {
            throw new UsageException(e.Message);
        }
    }

    /// <summary>How fast it went, for people.</summary>
    public static string Speed(int tokens, long since)
    {
        double seconds = Stopwatch.GetElapsedTime(since).TotalSeconds;
        return string.Create(System.Globalization.CultureInfo.InvariantCulture,
            $"{tokens} tokens in {seconds:0.0} s, {tokens / Math.Max(seconds, 1e-9):0.0} tokens/s");
    }

    public void Dispose()
    {
        Model.Dispose();
    }
}
