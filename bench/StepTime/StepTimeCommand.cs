using System.CommandLine;
using System.Globalization;
using Native.Bench.Common;
using Native.Bench.Throughput;
using Native.Kernels.Cpu.Machine;
using Native.Server.Hub;
using Native.Tools;

namespace Native.Bench.StepTime;

/// <summary><c>steptime</c>: what steps of all shapes take, and how well the scheduler's model of it fits.</summary>
internal sealed class StepTimeCommand : ToolCommand
{
    private readonly Option<string?> _model = new("--model", "-m")
    {
        HelpName = "PATH",
        Description = "A GGUF file, or a Hugging Face folder. Default: the small demo model that ships with Native.",
    };
    private readonly Option<int[]> _chunks = NumberOptions.Integers(
        "--prefill", "-p", "N,...", "Tokens of prompt chunks.", 1, 1 << 16, 1, 4, 16, 64, 128, 256, 512);
    private readonly Option<int[]> _decodes = NumberOptions.Integers(
        "--decodes", "-n", "N,...", "Sequences that decode.", 1, 1 << 12, 1, 2, 4, 8, 16, 32, 64);
    private readonly Option<int[]> _depths = NumberOptions.Integers(
        "--n-depth", "-d", "N,...", "Tokens already in the KV cache.", 0, 1 << 20, 0, 512, 2048);
    private readonly Option<int?> _repetitions = new("--repetitions", "-r")
    {
        HelpName = "N",
        Description = "Measurements of each shape, after a warm-up.",
        DefaultValueFactory = _ => 5,
    };
    private readonly Option<int?> _threads = new("--threads", "-t")
    {
        HelpName = "N",
        Description = "Worker threads. Default: one for each physical core.",
    };
    private readonly KvCacheTypeArgument _kvCacheType;
    private readonly Option<string?> _save = new("--save-result")
    {
        HelpName = "FILE.json",
        Description = "Write the fit and every step there, for simulate --step-times.",
    };

    public StepTimeCommand(Terminal terminal)
        : base(terminal, "steptime",
            "Measures steps of designed shapes: prompt chunks and decodes at several depths, and both together. "
                + "Fits the scheduler's model of a step's time to them, and tells its error beside the noise.",
            "steptime --model model.gguf",
            "steptime --model model.gguf --prefill 16,256 --decodes 1,8 --n-depth 0,1024 --save-result steps.json")
    {
        _repetitions.Within(1, 1000);
        _threads.Within(1, 1024);
        foreach (Option option in (Option[])[_model, _chunks, _decodes, _depths, _repetitions, _threads, _save])
            Add(option);
        _kvCacheType = new KvCacheTypeArgument(this);
    }

    protected override async Task<int> RunAsync(ParseResult arguments)
    {
        int threads = arguments.GetValue(_threads) ?? Processors.PhysicalCores();
        List<DesignedStep> shapes = DesignedStep.Design(arguments.GetRequiredValue(_chunks),
            arguments.GetRequiredValue(_decodes), arguments.GetRequiredValue(_depths));
        int sequences = shapes.Max(shape => shape.Decodes) + 1;
        int stepTokens = shapes.Max(shape => shape.Prefill + shape.Decodes);
        string path =
            await HubPath.ResolveAsync(arguments.GetValue(_model) ?? ModelArguments.DemoModel(), Terminal);
        using BenchModel model = await Terminal.LoadingAsync(path, progress => BenchModel.Load(path, threads,
            [new ThroughputTest(StepTimeRun.LengthOf(shapes), 0, sequences, 0)], _kvCacheType.Read(arguments),
            progress, stepTokens));
        List<StepSample> samples =
            await Terminal.InterruptibleAsync(ct => Terminal.ProgressAsync("Measuring", report => Task.Run(() =>
                StepTimeRun.Run(model, shapes, arguments.GetValue(_repetitions) ?? 5, report, ct))));
        StepTimeFile file = StepTimeFile.Of(model.Type, Machine.Slug, samples);
        Terminal.Out.WriteLine($"{model.Type}, {threads} threads, {shapes.Count} shapes\n");
        Terminal.Out.Write(file.Table());
        IReadOnlyList<string> names = Scheduling.StepTimeModel.FeatureNames;
        Terminal.Out.WriteLine("\nseconds of " + string.Join(", ", file.Coefficients.Select((seconds, i) =>
            string.Create(CultureInfo.InvariantCulture, $"{names[i]}: {seconds:0.###E+0}"))));
        if (arguments.GetValue(_save) is { } saved) file.Write(saved);
        return Cli.Success;
    }
}
