using System.CommandLine;
using System.Globalization;
using Native.Kernels.Models;

namespace Native.Tools;

/// <summary><c>quality</c>: what each type of weights costs a model, and what it costs to meet them with
/// integers.</summary>
internal sealed class QualityCommand : ToolCommand
{
    private readonly Argument<string> _in = new("IN")
    {
        Description =
            "The model everything is compared with: a GGUF file, a Hugging Face folder with safetensors, or "
                + "hf:ORG/REPO[/FILE] of either.",
    };
    private readonly Option<string> _file = new("--file", "-f")
    {
        HelpName = "PATH",
        Description = "The text, UTF-8.",
        Required = true,
    };
    private readonly Option<string[]> _types = new("--types")
    {
        HelpName = "TYPE",
        Description = "What to quantize to, one or several: "
            + string.Join(", ", QuantizationMix.All.Select(mix => mix.Name)) + ".",
        AllowMultipleArgumentsPerToken = true,
        DefaultValueFactory = _ => ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_1", "Q4_0"],
    };
    private readonly Option<int?> _context = new("--ctx", "-c")
    {
        HelpName = "TOKENS",
        Description = "Tokens in a window, of which the second half is scored.",
        DefaultValueFactory = _ => 512,
    };
    private readonly Option<int?> _chunks = new("--chunks")
    {
        HelpName = "N",
        Description = "Windows to score at most.",
        DefaultValueFactory = _ => 96,
    };
    private readonly Option<int?> _threads = new("--threads", "-t")
    {
        HelpName = "N",
        Description = "Worker threads. Default: one for each physical core.",
    };
    private readonly VariantArgument _variant;

    public QualityCommand(Terminal terminal)
        : base(terminal, "quality",
            "Quantizes a model to each of --types in turn, in the folder of temporary files, and prints a line of a "
                + "markdown table: the perplexity as served; what the type of the weights costs, by its perplexity "
                + "and Kullback-Leibler divergence from IN, both with float activations and a float KV cache; and "
                + "what serving it costs, activations rounded and the KV cache in 16 bits, by those from the same "
                + "weights with floats. The first line is IN itself. Errors are standard errors of paired "
                + "differences. Three models are in memory and read the text at once.",
            "quality model-F16.gguf --file text.txt",
            "quality model.gguf --file text.txt --types Q8_0 Q4_0 --chunks 8 --variant Avx2")
    {
        _types.AcceptOnlyFromAmong(StringComparer.OrdinalIgnoreCase, [.. QuantizationMix.All.Select(mix => mix.Name)]);
        _context.Within(4, 1 << 20);
        _chunks.Within(1, int.MaxValue);
        _threads.Within(1, 1024);
        Add(_in);
        Add(_file);
        Add(_types);
        Add(_context);
        Add(_chunks);
        Add(_threads);
        _variant = new VariantArgument(this);
    }

    protected override async Task<int> RunAsync(ParseResult arguments)
    {
        int context = arguments.GetValue(_context) ?? 512, threads = arguments.GetValue(_threads) ?? 0;
        string text = await File.ReadAllTextAsync(arguments.GetRequiredValue(_file));
        string input =
            await HubPath.ResolveAsync(ModelArguments.CheckPath("IN", arguments.GetRequiredValue(_in)), Terminal);
        ModelOptions options = new()
        {
            Path = input,
            MaxModelLength = context,
            Threads = threads,
            Variant = _variant.Read(arguments),
        };

        using LoadedModel reference = await ModelSession.LoadAsync(ModelComparison.Exact(options), Terminal);
        using (LoadedModel served = await ModelSession.LoadAsync(ModelComparison.Served(options), Terminal))
        {
            Divergence serving = (await CompareAsync("As it is", [reference, served], [(0, 1)]))[0];
            Terminal.Out.WriteLine(
                $"{served.Runner.Info.Name}, {served.Runner.Info.Backend}: {serving.Count} tokens scored "
                    + $"in {serving.Measured.Running.Count} windows of {context}");
            Terminal.Out.WriteLine();
            Terminal.Out.WriteLine(
                "| weights | MiB | perplexity as served | the weights cost | KL | same best token | serving them "
                    + "costs | KL | same best token |");
            Terminal.Out.WriteLine("|---|---|---|---|---|---|---|---|---|");
            WriteRow("as they are", File.Exists(input) ? new FileInfo(input).Length : null, null, serving);
        }
        foreach (string name in (arguments.GetValue(_types) ?? []).Distinct(StringComparer.OrdinalIgnoreCase))
        {
            QuantizationMix mix =
                QuantizationMix.All.First(m => m.Name.Equals(name, StringComparison.OrdinalIgnoreCase));
            string path = Path.Combine(Path.GetTempPath(), $"native-{Guid.NewGuid():N}-{mix.Name}.gguf");
            try
            {
                await QuantizeCommand.WriteAsync(Terminal, input, path, mix,
                    threads == 0 ? Environment.ProcessorCount : threads);
                using LoadedModel exact =
                    await ModelSession.LoadAsync(ModelComparison.Exact(options with { Path = path }), Terminal);
                using LoadedModel served =
                    await ModelSession.LoadAsync(ModelComparison.Served(options with { Path = path }), Terminal);
                Divergence[] found = await CompareAsync(mix.Name, [reference, exact, served], [(0, 1), (1, 2)]);
                WriteRow(mix.Name, new FileInfo(path).Length, found[0], found[1]);
            }
            finally
            {
                File.Delete(path);
            }
        }
        return Cli.Success;

        Task<Divergence[]> CompareAsync(
            string what, LoadedModel[] models, (int, int)[] pairs) => Terminal.ProgressAsync(what, report =>
            new ModelComparison(models, text).OfAsync(Terminal, pairs, context, arguments.GetValue(_chunks),
                (done, windows, _) => report?.Invoke((double)done / windows, "")));
    }

    private void WriteRow(string weights, long? bytes, Divergence? rounding, Divergence serving)
    {
        string size = bytes is { } b ? (b / 1048576d).ToString("0.0", CultureInfo.InvariantCulture) : "";
        Terminal.Out.WriteLine(
            string.Create(CultureInfo.InvariantCulture,
                $"| {weights} | {size} | {serving.Measured.Value:0.000} | {(rounding is null ? " | | " : Cells(rounding))} | {Cells(serving)} |"));
    }

    private static string Cells(Divergence d) => string.Create(CultureInfo.InvariantCulture,
        $"{(Math.Exp(d.LogRatio) - 1) * 100:+0.00;-0.00;0.00} % "
            + $"± {d.LogRatioError * 100:0.00} | {d.Kl:0.00000} ± {d.KlError:0.00000} | {d.SameTop * 100:0.0} %");
}
