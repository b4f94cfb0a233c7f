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
        int[] ids = session.Tokenizer.Encode(text, addSpecial: true, parseSpecial: false);
        int windows = Math.Min(ids.Length / context, arguments.GetValue(_chunks) ?? int.MaxValue);
        if (windows == 0) throw new CommandException($"the text has {ids.Length} tokens, fewer than one window of {context} (--ctx)");

        bool json = arguments.GetValue(_json);
        long started = Stopwatch.GetTimestamp();
        Perplexity measured = json
            ? await Terminal.ProgressAsync("Scoring", report => MeasureAsync(session, ids, context, windows, (done, so) => report?.Invoke((double)done / windows, Text(so.Value))))
            : await MeasureAsync(session, ids, context, windows, Show);
        void Show(int done, Perplexity soFar)
        {
            TimeSpan left = done == windows || !Terminal.OutIsTerminal ? TimeSpan.Zero : Stopwatch.GetElapsedTime(started) / done * (windows - done);
            Terminal.Out.WriteLine($"[{done}/{windows}] {Text(soFar.Value)}{(left.TotalSeconds < 1 ? "" : $"    {Math.Ceiling(left.TotalSeconds):0} s left")}");
        }

        if (json)
        {
            Json.WriteLine(Terminal.Out, writer =>
            {
                writer.WriteStartObject();
                writer.WriteNumber("perplexity", measured.Value);
                writer.WriteNumber("error", measured.Error);
                writer.WriteNumber("windows", windows);
                writer.WriteNumber("scored", measured.Count);
                writer.WriteStartArray("running");
                foreach (double value in measured.Running) writer.WriteNumberValue(value);
                writer.WriteEndArray();
                writer.WriteEndObject();
            });
        }
        else
        {
            Terminal.Out.WriteLine($"perplexity {Text(measured.Value)} +/- {Text(measured.Error)} over {measured.Count} tokens in {windows} windows of {context}");
        }
        return Cli.Success;
    }

    private Task<Perplexity> MeasureAsync(ModelSession session, int[] ids, int context, int windows, Action<int, Perplexity> after) => Terminal.InterruptibleAsync(async ct =>
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
            after(window + 1, perplexity);
        }
        return perplexity;
    });

    private static string Text(double value) => value.ToString("0.0000", CultureInfo.InvariantCulture);
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
}
