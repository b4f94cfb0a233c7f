using System.CommandLine;
using Native.Bench.Common;
using Native.Bench.Serve;
using Native.Kernels.Cpu.Machine;
using Native.Kernels.Models;
using Native.Server;
using Native.Tools;

namespace Native.Bench.Throughput;

/// <summary><c>throughput</c>: tokens a second of a model alone.</summary>
internal sealed class ThroughputCommand : ToolCommand
{
    private readonly Option<string[]> _models = new("--model", "-m")
    {
        HelpName = "PATH",
        Description =
            "A GGUF file, or a Hugging Face folder; may be given several times, and then all are measured by turns. "
                + "Default: the small demo model that ships with Native.",
    };
    private readonly Option<int[]> _prompts =
        NumberOptions.Integers("--n-prompt", "-p", "N,...", "Tokens of prompt; 0 leaves prompts out.", 0, 1 << 20, 512);
    private readonly Option<int[]> _generate = NumberOptions.Integers(
        "--n-gen", "-n", "N,...", "Tokens to generate; 0 leaves generating out.", 0, 1 << 20, 128);
    private readonly Option<int[]> _batches = NumberOptions.Integers(
        "--batch", "-b", "N,...",
        "Sequences computed together. With more than 1 the table is llama-batched-bench's: "
        + "every prompt length with every output length.", 1, 1 << 14, 1);
    private readonly Option<int[]> _depths =
        NumberOptions.Integers("--n-depth", "-d", "N,...", "Tokens already in the KV cache.", 0, 1 << 20, 0);
    private readonly Option<int?> _repetitions = new("--repetitions", "-r")
    {
        HelpName = "N",
        Description = "Measurements of each test, after a warm-up.",
        DefaultValueFactory = _ => 5,
    };
    private readonly Option<int?> _threads = new("--threads", "-t")
    {
        HelpName = "N",
        Description = "Worker threads. Default: one for each physical core.",
    };
    private readonly Option<string[]> _backends = new("--backend")
    {
        HelpName = "cpu|cuda|ilgpu",
        Description = "What computes; may be given several times, and then all are measured by turns. Default: cpu.",
    };
    private readonly Option<string?> _device = new("--device")
    {
        HelpName = "NUMBER|NAME",
        Description = "Which device of cuda or ilgpu, such as pocl: processors by OpenCL. Default: the first GPU.",
    };
    private readonly KvCacheTypeArgument _kvCacheType;
    private readonly Option<bool> _bandwidth = new("--bandwidth")
    {
        Description =
            "Also read memory sequentially with the same threads before and after each decode, and tell which part of "
                + "that speed went into reading weights.",
    };
    private readonly Option<string> _format = new("--format", "-o")
    {
        HelpName = "md|csv|json|jsonl",
        Description = "How to print; json has every sample and the medians.",
        DefaultValueFactory = _ => "md",
    };

    public ThroughputCommand(Terminal terminal)
        : base(terminal, "throughput",
            "Measures tokens a second of prompts (pp) and of generating (tg), as llama-bench does: the model is "
                + "driven step by step without tokenizer, scheduler or network, and tokens are chosen greedily. "
                + "Repetitions of all tests and models are interleaved.",
            "throughput",
            "throughput --model model.gguf -p 512 -n 128 -d 0,2048 --bandwidth",
            "throughput --model q4_0.gguf --model q8_0.gguf -r 10 -o json",
            "throughput --model model.gguf -p 128 -n 64 -b 1,8,32",
            "throughput --backend cpu --backend ilgpu --device pocl")
    {
        _backends.AcceptOnlyFromAmong(BackendFactory.Cpu, BackendFactory.Cuda, BackendFactory.Ilgpu);
        _repetitions.Within(1, 1000);
        _threads.Within(1, 1024);
        _format.AcceptOnlyFromAmong("md", "csv", "json", "jsonl");
        Option[] options =
            [_models, _prompts, _generate, _batches, _depths, _repetitions, _threads, _backends, _device, _bandwidth,
                _format];
        foreach (Option option in options) Add(option);
        _kvCacheType = new KvCacheTypeArgument(this);
    }

    protected override async Task<int> RunAsync(ParseResult arguments)
    {
        string[] paths = arguments.GetValue(_models) is { Length: > 0 } named ? named : [ModelArguments.DemoModel()];
        int[] batches = arguments.GetRequiredValue(_batches);
        List<ThroughputTest> tests =
            Tests(arguments.GetRequiredValue(_prompts), arguments.GetRequiredValue(_generate), batches,
                arguments.GetRequiredValue(_depths));
        if (tests.Count == 0) throw new UsageException("-p and -n are 0: there is nothing to measure.");
        int threads = arguments.GetValue(_threads) ?? Processors.PhysicalCores(),
            repetitions = arguments.GetValue(_repetitions) ?? 5;

        string[] backends = arguments.GetValue(_backends) is { Length: > 0 } asked ? asked : [BackendFactory.Cpu];
        string? device = arguments.GetValue(_device);
        if (device is not null && backends.All(backend => backend == BackendFactory.Cpu))
            throw new UsageException($"--device is '{device}', but --backend cpu has no devices.");
        List<BenchModel> models = [];
        List<Phase> phases;
        try
        {
            foreach (string model in paths)
            {
                string path = await HubPath.ResolveAsync(model, Terminal);
                foreach (string backend in backends)
                {
                    string? on = backend == BackendFactory.Cpu ? null : device;
                    models.Add(await Terminal.LoadingAsync(path, progress => BenchModel.Load(path, threads, tests,
                        _kvCacheType.Read(arguments), progress, backend: backend, device: on)));
                }
            }
            using MemoryBandwidth? bandwidth = arguments.GetValue(_bandwidth) ? new MemoryBandwidth(threads) : null;
            phases = await Terminal.InterruptibleAsync(ct => Terminal.ProgressAsync("Measuring", report =>
                Task.Run(() => ThroughputRun.Run(models, tests, repetitions, bandwidth, report, ct))));
        }
        finally
        {
            foreach (BenchModel model in models) model.Dispose();
        }

        switch (arguments.GetRequiredValue(_format))
        {
            case "csv": Terminal.Out.Write(ThroughputReport.Csv(phases)); break;
            case "json": ThroughputReport.Json(Terminal.Out, phases); break;
            case "jsonl": ThroughputReport.JsonLines(Terminal.Out, phases); break;
            default:
                Terminal.Out.Write(
                batches.Max() > 1 ? ThroughputReport.Batched(phases) : ThroughputReport.Markdown(phases)); break;
        }
        return Cli.Success;
    }

    /// <summary>What is measured: prompts and outputs apart, as llama-bench; or with batches one after the other, as
    /// llama-batched-bench.</summary>
    internal static List<ThroughputTest> Tests(int[] prompts, int[] generate, int[] batches, int[] depths)
    {
        List<ThroughputTest> tests = [];
        foreach (int depth in depths)
        {
            if (batches.Max() > 1)
            {
                foreach (int prompt in prompts)
                    foreach (int tokens in generate)
                        foreach (int batch in batches) tests.Add(new ThroughputTest(prompt, tokens, batch, depth));
            }
            else
            {
                foreach (int prompt in prompts) tests.Add(new ThroughputTest(prompt, 0, 1, depth));
                foreach (int tokens in generate) tests.Add(new ThroughputTest(0, tokens, 1, depth));
            }
        }
        return [.. tests.Where(test => test.Prompt + test.Generate > 0).Distinct()];
    }
}
