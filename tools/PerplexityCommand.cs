using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using Native.Kernels;
using Native.Kernels.Models;
using Native.Kernels.Text;
using Native.Scheduling;
using Native.Server.Serving;

namespace Native.Tools;

/// <summary><c>perplexity</c>: how well a model predicts a text.</summary>
internal sealed class PerplexityCommand : ToolCommand
{
    private readonly ModelArguments _model;
    private readonly Option<string> _file = new("--file", "-f")
    {
        HelpName = "PATH",
        Description = "The text, UTF-8.",
        Required = true,
    };
    private readonly Option<int?> _context = new("--ctx", "-c")
    {
        HelpName = "TOKENS",
        Description = "Tokens in a window.",
        DefaultValueFactory = _ => 512,
    };
    private readonly Option<int?> _chunks = new("--chunks")
    {
        HelpName = "N",
        Description = "Windows to score at most. Default: all the text fills.",
    };
    private readonly Option<string?> _reference = new("--reference", "-r")
    {
        HelpName = "PATH",
        Description =
            "A model with the same tokens to compare with, position by position: the same one, or the one that "
                + "--model was quantized from. It keeps activations and KV cache in float32, so that only its weights "
                + "are rounded.",
    };
    private readonly VariantArgument _variant;
    private readonly Option<bool> _json = new("--json")
    {
        Description =
            "Print {\"perplexity\":...,\"error\":...,\"windows\":...,\"scored\":...,\"running\":[...]} at the end; "
                + "with --reference also \"reference\":{\"perplexity\",\"error\"}, \"ln_ratio\", \"ln_ratio_error\", "
                + "\"kl\":{\"mean\",\"error\",\"median\",\"p99\",\"max\"}, \"same_top\", \"same_top_error\" and "
                + "\"rms_probability\".",
    };

    public PerplexityCommand(Terminal terminal)
        : base(terminal, "perplexity",
            "Measures how well a model predicts a text, by llama.cpp's protocol: windows of --ctx tokens without "
                + "overlap, each from an empty context, of which the second half is scored (255 of 512). Prints the "
                + "running value after each window, then the final one with its standard error. Special tokens in the "
                + "text count as plain text; where the model wants a begin token it takes the place of each window's "
                + "first. With --reference both models read the text side by side, and what rounding costs is told "
                + "with its own error: the ratio of the perplexities, the Kullback-Leibler divergence of each "
                + "position's probabilities (mean, median, what 99 % stay below, the greatest), how often both find "
                + "the same token most probable, and how far the probabilities of the text's tokens are apart. Of two "
                + "near models a few windows tell the divergence within some percent, where the perplexities' ratio "
                + "needs a hundred.",
            "perplexity --model model.gguf --file wiki.test.raw",
            "perplexity --model model.gguf --file text.txt --ctx 512 --chunks 32 --json",
            "perplexity --model model.gguf --reference model.gguf --file text.txt --chunks 32",
            "perplexity --model model-Q4_0.gguf --float-activations --reference model-F16.gguf --file text.txt",
            "perplexity --model model.gguf --reference model.gguf --file text.txt --chunks 4 --variant Avx2")
    {
        Add(_file);
        _context.Within(4, 1 << 20);
        _chunks.Within(1, int.MaxValue);
        Add(_context);
        Add(_chunks);
        Add(_reference);
        _model = new ModelArguments(this);
        _variant = new VariantArgument(this);
        Add(_json);
    }

    protected override async Task<int> RunAsync(ParseResult arguments)
    {
        int context = arguments.GetValue(_context) ?? 512;
        ModelOptions options = _model.Read(arguments) with { Variant = _variant.Read(arguments) };
        if (options is { Variant: { } variant, Backend: BackendFactory.Cuda or BackendFactory.Ilgpu })
            throw new UsageException(
                $"--variant is {variant}, but --backend {options.Backend} has no such instructions, only the CPU.");
        string text = await File.ReadAllTextAsync(arguments.GetRequiredValue(_file));
        if (arguments.GetValue(_reference) is { } reference)
        {
            await CompareAsync(arguments, options, reference, text, context);
            return Cli.Success;
        }
        using ModelSession session = await ModelSession.OpenAsync(options, Terminal);
        Perplexity.CheckWindow(context, session.Info);
        Perplexity measured =
            await MeasureAsync<Perplexity>(arguments, soFar => Perplexity.Text(soFar.Value),
                after => Perplexity.OfAsync(Terminal, session, text, context, arguments.GetValue(_chunks), after));
        if (arguments.GetValue(_json))
        {
            Json.WriteLine(Terminal.Out, writer =>
            {
                writer.WriteStartObject();
                writer.WriteString("backend", session.Info.Backend);
                WriteJson(writer, measured);
                writer.WriteEndObject();
            });
            return Cli.Success;
        }
        Terminal.Out.WriteLine(
            $"perplexity {Perplexity.Text(measured.Value)} +/- {Perplexity.Text(measured.Error)} over {measured.Count} tokens in {measured.Running.Count} windows of {context}");
        return Cli.Success;
    }

    private async Task CompareAsync(ParseResult arguments, ModelOptions options, string reference, string text,
        int context)
    {
        using LoadedModel exact =
            await ModelSession.LoadAsync(
                ModelComparison.Exact(options with { Path = ModelArguments.CheckPath("--reference", reference) }),
                Terminal);
        using LoadedModel model = await ModelSession.LoadAsync(ModelComparison.Served(options), Terminal);
        ModelComparison comparison = new([exact, model], text);
        Divergence d = await MeasureAsync<Divergence>(arguments,
            soFar => string.Create(CultureInfo.InvariantCulture,
                $"{soFar.Measured.Value:0.0000}, "
                    + $"reference {soFar.Reference.Value:0.0000}, {Percent(soFar.LogRatio)} %, KL {soFar.Kl:0.000000}"),
            async after =>
                (await comparison.OfAsync(Terminal, [(0, 1)], context, arguments.GetValue(_chunks),
                    (done, windows, soFar) => after(done, windows, soFar[0])))[0]);
        if (arguments.GetValue(_json))
        {
            Json.WriteLine(Terminal.Out, writer =>
            {
                writer.WriteStartObject();
                writer.WriteString("backend", model.Runner.Info.Backend);
                WriteJson(writer, d.Measured);
                writer.WriteStartObject("reference");
                writer.WriteString("backend", exact.Runner.Info.Backend);
                writer.WriteNumber("perplexity", d.Reference.Value);
                writer.WriteNumber("error", d.Reference.Error);
                writer.WriteEndObject();
                writer.WriteNumber("ln_ratio", d.LogRatio);
                writer.WriteNumber("ln_ratio_error", d.LogRatioError);
                writer.WriteStartObject("kl");
                writer.WriteNumber("mean", d.Kl);
                writer.WriteNumber("error", d.KlError);
                writer.WriteNumber("median", d.KlQuantile(0.5));
                writer.WriteNumber("p99", d.KlQuantile(0.99));
                writer.WriteNumber("max", d.KlQuantile(1));
                writer.WriteEndObject();
                writer.WriteNumber("same_top", d.SameTop);
                writer.WriteNumber("same_top_error", d.SameTopError);
                writer.WriteNumber("rms_probability", d.RmsProbability);
                writer.WriteEndObject();
            });
            return;
        }
        void Part(FormattableString part) => Terminal.Out.Write(part.ToString(CultureInfo.InvariantCulture));
        void Line(FormattableString line) => Terminal.Out.WriteLine(line.ToString(CultureInfo.InvariantCulture));
        Part($"perplexity {d.Measured.Value:0.0000} +/- {d.Measured.Error:0.0000} over {d.Count} tokens ");
        Line($"in {d.Measured.Running.Count} windows of {context}");
        Line($"reference's {d.Reference.Value:0.0000} +/- {d.Reference.Error:0.0000}");
        Part($"ln of their ratio {d.LogRatio:+0.000000;-0.000000;0.000000} +/- {d.LogRatioError:0.000000}: ");
        Line($"{Percent(d.LogRatio)} % +/- {d.LogRatioError * 100:0.000} %");
        Part($"KL divergence {d.Kl:0.000000} +/- {d.KlError:0.000000}, median {d.KlQuantile(0.5):0.000000}, ");
        Line($"99 % below {d.KlQuantile(0.99):0.000000}, greatest {d.KlQuantile(1):0.000000}");
        Line($"same most probable token {d.SameTop * 100:0.00} % +/- {d.SameTopError * 100:0.00} %");
        Line($"probabilities of the text's tokens differ by {d.RmsProbability * 100:0.000} % (root mean square)");
    }

    /// <summary>Runs a measurement that tells how far it is: each window on a line, or on a bar where the results are
    /// for a program.</summary>
    private async Task<T> MeasureAsync<T>(
        ParseResult arguments, Func<T, string> tell, Func<Action<int, int, T>, Task<T>> measure)
    {
        if (arguments.GetValue(_json))
            return await Terminal.ProgressAsync("Scoring",
                report => measure((done, windows, soFar) => report?.Invoke((double)done / windows, tell(soFar))));
        long started = Stopwatch.GetTimestamp();
        return await measure((done, windows, soFar) =>
        {
            TimeSpan left =
                done == windows || !Terminal.OutIsTerminal ? TimeSpan.Zero
                    : Stopwatch.GetElapsedTime(started) / done * (windows - done);
            Terminal.Out.WriteLine(
                $"[{done}/{windows}] {tell(soFar)}{(left.TotalSeconds < 1 ? "" : $"    {Math.Ceiling(left.TotalSeconds):0} s left")}");
        });
    }

    private static string Percent(double logRatio) =>
        ((Math.Exp(logRatio) - 1) * 100).ToString("+0.000;-0.000;0.000", CultureInfo.InvariantCulture);

    private static void WriteJson(Utf8JsonWriter writer, Perplexity measured)
    {
        writer.WriteNumber("perplexity", measured.Value);
        writer.WriteNumber("error", measured.Error);
        writer.WriteNumber("windows", measured.Running.Count);
        writer.WriteNumber("scored", measured.Count);
        writer.WriteStartArray("running");
        foreach (double value in measured.Running) writer.WriteNumberValue(value);
        writer.WriteEndArray();
    }
}

/// <summary>The exponential of the mean negative log-probability (Jelinek et al. 1977).</summary>
internal sealed class Perplexity
{
    private double _sum, _squares;

    /// <summary>Tokens scored.</summary>
    public int Count { get; private set; }

    public double Value => Math.Exp(_sum / Count);

    /// <summary>Standard error, from the spread of the tokens' log-probabilities, carried through the exponential to
    /// first order.</summary>
    public double Error =>
        Count < 2 ? 0 : Value * Math.Sqrt(Math.Max(_squares / Count - _sum / Count * (_sum / Count), 0) / (Count - 1));

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

    /// <summary>Scores a text by llama.cpp's protocol: windows without overlap, each from an empty context, of which
    /// the second half counts.</summary>
    /// <param name="terminal">Whose Ctrl-C ends it.</param>
    /// <param name="session">The model.</param>
    /// <param name="text">The text; special tokens in it are plain text.</param>
    /// <param name="context">Tokens in a window.</param>
    /// <param name="most">Windows at most; null for all that the text fills.</param>
    /// <param name="after">Told after each window: how many, of how many, and the value so far.</param>
    /// <exception cref="CommandException">The text is shorter than a window, or the model gives no
    /// perplexity.</exception>
    public static Task<Perplexity> OfAsync(Terminal terminal, ModelSession session, string text, int context, int? most,
        Action<int, int, Perplexity> after)
    {
        int[] ids = session.Tokenizer.Encode(text, addSpecial: true, parseSpecial: false);
        int windows = Windows(ids, context, most);
        return terminal.InterruptibleAsync(async ct =>
        {
            Perplexity perplexity = new();
            for (int window = 0; window < windows; window++)
            {
                using Generation generation = session.Start(
                    Window(session.Tokenizer, ids, window, context),
                    new SamplingParams { Temperature = 0, MaxTokens = 0, PromptLogprobs = 0 });
                await session.FinishAsync(generation, ct);
                perplexity.Add(generation.PromptLogprobs[(context / 2)..]); // [i] is of token i + 1
                if (!double.IsFinite(perplexity.Value))
                    throw new CommandException(
                        $"window {window + 1} has a token that the model holds for impossible: there is no perplexity");
                after(window + 1, windows, perplexity);
            }
            return perplexity;
        });
    }

    /// <exception cref="UsageException">A window is longer than what a model can read.</exception>
    public static void CheckWindow(int context, ModelInfo model)
    {
        if (context > model.MaxModelLength)
            throw new UsageException(
                $"--ctx is {context}, but a sequence of this model may have {model.MaxModelLength} tokens.");
    }

    /// <summary>How many windows a text fills, or as many as are wanted.</summary>
    /// <exception cref="CommandException">Not even one.</exception>
    public static int Windows(int[] ids, int context, int? most)
    {
        int windows = Math.Min(ids.Length / context, most ?? int.MaxValue);
        return windows > 0 ? windows
            : throw new CommandException($"the text has {ids.Length} tokens, fewer than one window of {context}");
    }

    /// <summary>A window's ids, beginning with the begin token where the model wants one.</summary>
    public static int[] Window(Tokenizer tokenizer, int[] ids, int window, int context)
    {
        int[] part = ids[(window * context)..((window + 1) * context)];
        if (tokenizer.AddsBos) part[0] = tokenizer.BosId!.Value;
        return part;
    }

    /// <summary>A value with the digits that mean something.</summary>
    public static string Text(double value) => value.ToString("0.0000", CultureInfo.InvariantCulture);
}
