using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using Native.Kernels.Models;
using Native.Scheduling;

namespace Native.Tools;

/// <summary><c>perplexity</c>: how well a model predicts a text.</summary>
internal sealed class PerplexityCommand : ToolCommand
{
    private readonly ModelArguments _model;
    private readonly Option<string> _file = new("--file", "-f") { HelpName = "PATH", Description = "The text, UTF-8.", Required = true };
    private readonly Option<int?> _context = new("--ctx", "-c") { HelpName = "TOKENS", Description = "Tokens in a window.", DefaultValueFactory = _ => 512 };
    private readonly Option<int?> _chunks = new("--chunks") { HelpName = "N", Description = "Windows to score at most. Default: all the text fills." };
    private readonly Option<bool> _json = new("--json") { Description = "Print {\"perplexity\":...,\"error\":...,\"windows\":...,\"scored\":...,\"running\":[...]} at the end." };

    public PerplexityCommand(Terminal terminal)
        : base(terminal, "perplexity", "Measures how well a model predicts a text, by llama.cpp's protocol: windows of --ctx tokens without overlap, each from an empty context, of which the second half is scored (255 of 512). Prints the running value after each window, then the final one with its standard error. Special tokens in the text count as plain text; where the model wants a begin token it takes the place of each window's first.",
            "perplexity --model model.gguf --file wiki.test.raw",
            "perplexity --model model.gguf --file text.txt --ctx 512 --chunks 32 --json")
    {
        Add(_file);
        _context.Within(4, 1 << 20);
        _chunks.Within(1, int.MaxValue);
        Add(_context);
        Add(_chunks);
        _model = new ModelArguments(this);
        Add(_json);
    }

    protected override async Task<int> RunAsync(ParseResult arguments)
    {
        int context = arguments.GetValue(_context) ?? 512;
        ModelOptions options = _model.Read(arguments);
        string text = await File.ReadAllTextAsync(arguments.GetRequiredValue(_file));
        using ModelSession session = await ModelSession.OpenAsync(options, Terminal);
        if (context > session.Engine.Info.MaxModelLength) throw new UsageException($"--ctx is {context}, but a sequence of this model may have {session.Engine.Info.MaxModelLength} tokens.");
        bool json = arguments.GetValue(_json);
        long started = Stopwatch.GetTimestamp();
        Perplexity measured = json
            ? await Terminal.ProgressAsync("Scoring", report => Perplexity.OfAsync(Terminal, session, text, context, arguments.GetValue(_chunks), (done, windows, soFar) => report?.Invoke((double)done / windows, Perplexity.Text(soFar.Value))))
            : await Perplexity.OfAsync(Terminal, session, text, context, arguments.GetValue(_chunks), Show);
        void Show(int done, int windows, Perplexity soFar)
        {
            TimeSpan left = done == windows || !Terminal.OutIsTerminal ? TimeSpan.Zero : Stopwatch.GetElapsedTime(started) / done * (windows - done);
            Terminal.Out.WriteLine($"[{done}/{windows}] {Perplexity.Text(soFar.Value)}{(left.TotalSeconds < 1 ? "" : $"    {Math.Ceiling(left.TotalSeconds):0} s left")}");
        }

        if (json)
        {
            Json.WriteLine(Terminal.Out, writer =>
            {
                writer.WriteStartObject();
                writer.WriteNumber("perplexity", measured.Value);
                writer.WriteNumber("error", measured.Error);
                writer.WriteNumber("windows", measured.Running.Count);
                writer.WriteNumber("scored", measured.Count);
                writer.WriteStartArray("running");
                foreach (double value in measured.Running) writer.WriteNumberValue(value);
                writer.WriteEndArray();
                writer.WriteEndObject();
            });
        }
        else
        {
            Terminal.Out.WriteLine($"perplexity {Perplexity.Text(measured.Value)} +/- {Perplexity.Text(measured.Error)} over {measured.Count} tokens in {measured.Running.Count} windows of {context}");
        }
        return Cli.Success;
    }

}

/// <summary>The exponential of the mean negative log-probability (Jelinek et al. 1977).</summary>
internal sealed class Perplexity
{
    private double _sum, _squares;

    /// <summary>Tokens scored.</summary>
    public int Count { get; private set; }

    public double Value => Math.Exp(_sum / Count);

    /// <summary>Standard error, from the spread of the tokens' log-probabilities, carried through the exponential to first order.</summary>
    public double Error => Count < 2 ? 0 : Value * Math.Sqrt(Math.Max(_squares / Count - _sum / Count * (_sum / Count), 0) / (Count - 1));

    /// <summary>The value after each call of <see cref="Add"/>.</summary>
    public List<double> Running { get; } = [];

    /// <summary>Takes in a window's natural log-probabilities.</summary>
    public void Add(ReadOnlySpan<float> logprobs)
    {
        foreach (float logprob in logprobs)
        {
            _sum -= logprob;
            _squares += (double)logprob * logprob;
        }
        Count += logprobs.Length;
        Running.Add(Value);
    }

    /// <summary>Scores a text by llama.cpp's protocol: windows without overlap, each from an empty context, of which the second half counts.</summary>
    /// <param name="terminal">Whose Ctrl-C ends it.</param>
    /// <param name="session">The model.</param>
    /// <param name="text">The text; special tokens in it are plain text.</param>
    /// <param name="context">Tokens in a window.</param>
    /// <param name="most">Windows at most; null for all that the text fills.</param>
    /// <param name="after">Told after each window: how many, of how many, and the value so far.</param>
    /// <exception cref="CommandException">The text is shorter than a window, or the model gives no perplexity.</exception>
    public static Task<Perplexity> OfAsync(Terminal terminal, ModelSession session, string text, int context, int? most, Action<int, int, Perplexity> after)
    {
        int[] ids = session.Tokenizer.Encode(text, addSpecial: true, parseSpecial: false);
        int windows = Math.Min(ids.Length / context, most ?? int.MaxValue);
        if (windows == 0) throw new CommandException($"the text has {ids.Length} tokens, fewer than one window of {context}");
        return terminal.InterruptibleAsync(async ct =>
        {
            Perplexity perplexity = new();
            for (int window = 0; window < windows; window++)
            {
                int[] part = ids[(window * context)..((window + 1) * context)];
                if (session.Tokenizer.AddsBos) part[0] = session.Tokenizer.BosId!.Value;
                using TokenStream stream = session.Submit(part, new SamplingParams { Temperature = 0, MaxTokens = 0, PromptLogprobs = 0 });
                await session.FinishAsync(stream, ct);
                perplexity.Add(stream.PromptLogprobs[(context / 2)..]); // [i] is of token i + 1
                if (!double.IsFinite(perplexity.Value)) throw new CommandException($"window {window + 1} has a token that the model holds for impossible: there is no perplexity");
                after(window + 1, windows, perplexity);
            }
            return perplexity;
        });
    }

    /// <summary>A value with the digits that mean something.</summary>
    public static string Text(double value) => value.ToString("0.0000", CultureInfo.InvariantCulture);
}
