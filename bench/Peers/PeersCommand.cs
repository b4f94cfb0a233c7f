using System.CommandLine;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using Native.Bench.Common;
using Native.Bench.Serve;
using Native.Bench.Throughput;
using Native.Kernels;
using Native.Kernels.Cpu.Machine;
using Native.Server;
using Native.Tools;

namespace Native.Bench.Peers;

/// <summary><c>peers</c>: Native beside llama.cpp on the same file.</summary>
internal sealed class PeersCommand : ToolCommand
{
    private const string Cached = "cache", None = "none";

    private static readonly int[] PlottedBatches = [1, 2, 4, 8, 16, 32],
        PlottedPrompts = [32, 64, 128, 256, 512, 1024, 2048];

    private readonly Option<string[]> _models = new("--model", "-m")
    {
        HelpName = "PATH",
        Description =
            "A GGUF file; may be given several times, and then one is measured after the other. Default: the small "
                + "demo model that ships with Native.",
    };
    private readonly Option<int[]> _prompts =
        NumberOptions.Integers("--n-prompt", "-p", "N,...", "Tokens of prompt; 0 leaves prompts out.", 0, 1 << 20, 512);
    private readonly Option<int?> _generate = new("--n-gen", "-n")
    {
        HelpName = "N",
        Description = "Tokens to generate in each sequence; 0 leaves generating out.",
        DefaultValueFactory = _ => 32,
    };
    private readonly Option<int[]> _batches =
        NumberOptions.Integers("--batch", "-b", "N,...", "Sequences that generate together.", 1, 256, 1, 8, 32);
    private readonly Option<int[]> _depths = NumberOptions.Integers(
        "--depth", "-d", "N,...",
        "Also generate, in one sequence, behind so many tokens in the KV cache, e.g. 4096.", 1, 1 << 20);
    private readonly Option<int?> _repetitions = new("--repetitions", "-r")
    {
        HelpName = "N",
        Description = "Measurements of each test by each engine, by turns, after a warm-up.",
        DefaultValueFactory = _ => 5,
    };
    private readonly Option<int?> _threads = new("--threads", "-t")
    {
        HelpName = "N",
        Description = "Threads of every engine. Default: one for each physical core.",
    };
    private readonly Option<string?> _modules = new("--node-modules")
    {
        HelpName = $"PATH|{Cached}|{None}",
        Description =
            $"Where llama.cpp is as the npm package node-llama-cpp: a folder node_modules that has it; {Cached}, the "
                + $"user's cache folder, where npm installs it once (85 MB); {None} leaves it out. Default: {Cached}, "
                + $"or {None} where there is a --llama-bench.",
    };
    private readonly Option<string[]> _llamaBench = new("--llama-bench")
    {
        HelpName = "PATH",
        Description =
            "A llama-bench of llama.cpp or ik_llama.cpp built for this machine, the stricter peer; may be given "
                + "several times. Batches need the llama-batched-bench beside it.",
    };
    private readonly Option<bool> _plots = new("--plots")
    {
        Description =
            $"Also measure batches of {string.Join(", ", PlottedBatches)} and prompts "
                + $"of {string.Join(", ", PlottedPrompts)} tokens, and draw both.",
    };
    private readonly Option<bool> _server = new("--server")
    {
        Description =
            "Then ask Native's server, a process of its own with the model, by clients in a closed loop, and tell "
                + "what of the bare engine's speed it gives. node-llama-cpp has no server: to compare there must be a "
                + "--llama-server.",
    };
    private readonly Option<string?> _llamaServer = new("--llama-server")
    {
        HelpName = "PATH",
        Description = "Ask this llama-server the same.",
    };
    private readonly Option<int?> _clients = new("--clients")
    {
        HelpName = "N",
        Description = "Clients of the servers, each with one request under way.",
        DefaultValueFactory = _ => 16,
    };
    private readonly Option<int?> _requests = new("--num-prompts")
    {
        HelpName = "N",
        Description = "Requests to each server. Default: four of each client.",
    };
    private readonly Option<int?> _inputLength = new("--random-input-len")
    {
        HelpName = "N",
        Description = "Tokens of each request's prompt, drawn at random.",
        DefaultValueFactory = _ => 250,
    };
    private readonly Option<int?> _outputLength = new("--random-output-len")
    {
        HelpName = "N",
        Description = "Tokens of each answer.",
        DefaultValueFactory = _ => 54,
    };
    private readonly Option<string> _format = new("--format", "-o")
    {
        HelpName = "md|json",
        Description = "How to print; json has every sample.",
        DefaultValueFactory = _ => "md",
    };
    private readonly Option<string?> _output = new("--output")
    {
        HelpName = "FOLDER",
        Description =
            $"Where peers-MODEL.md, .json and the pictures go. "
                + $"Default: {Path.Combine("bench", "results", Machine.Slug)}, for processor, cores and instructions.",
    };

    public PeersCommand(Terminal terminal)
        : base(terminal, "peers",
            "Measures Native beside llama.cpp: the same file, the same threads, prompts and batches by turns, so that "
                + "what slows the machine for a while slows all alike. Tells tokens a second (median, least and "
                + "most), the ratio of medians, and which part of the machine's limit each engine reaches, measured "
                + "in the same run: memory bandwidth for generating, arithmetic for prompts.",
            "peers --model model.gguf -t 2",
            "peers --model q4_0.gguf --model q8_0.gguf --depth 4096 --plots",
            "peers --model model.gguf --llama-bench llama.cpp/build/bin/llama-bench --llama-bench "
                + "ik_llama.cpp/build/bin/llama-bench",
            "peers --model model.gguf --server --llama-server llama.cpp/build/bin/llama-server")
    {
        _generate.Within(0, 1 << 16);
        _repetitions.Within(1, 1000);
        _threads.Within(1, 1024);
        _clients.Within(1, 256);
        _requests.Within(1, 100_000);
        _inputLength.Within(1, 1 << 16);
        _outputLength.Within(1, 1 << 16);
        _format.AcceptOnlyFromAmong("md", "json");
        Option[] options =
            [_models, _prompts, _generate, _batches, _depths, _repetitions, _threads, _modules, _llamaBench, _plots,
                _server, _llamaServer, _clients, _requests, _inputLength, _outputLength, _format, _output];
        foreach (Option option in options) Add(option);
    }

    protected override async Task<int> RunAsync(ParseResult arguments)
    {
        // Everything said is looked at before anything is measured.
        string[] models = arguments.GetValue(_models) is { Length: > 0 } named ? named : [ModelArguments.DemoModel()];
        RequireFiles(models);
        string[] benches = arguments.GetValue(_llamaBench) ?? [];
        foreach (string bench in benches) Existing(_llamaBench, bench);
        string modules = arguments.GetValue(_modules) ?? (benches.Length > 0 ? None : Cached);
        if (modules == None && benches.Length == 0)
            throw new UsageException($"--node-modules {None} leaves no peer; name one with --llama-bench PATH.");
        bool asksServers = arguments.GetValue(_server);
        string? llamaServer = arguments.GetValue(_llamaServer);
        if (llamaServer is not null)
        {
            if (!asksServers) throw new UsageException("--llama-server goes with --server.");
            Existing(_llamaServer, llamaServer);
        }
        int clients = arguments.GetValue(_clients) ?? 16;
        ServingLoad? load =
            asksServers ? new ServingLoad(clients, arguments.GetValue(_requests) ?? 4 * clients,
                arguments.GetValue(_inputLength) ?? 250, arguments.GetValue(_outputLength) ?? 54) : null;
        bool plots = arguments.GetValue(_plots);
        List<ThroughputTest> tests = Tests(
            [.. arguments.GetRequiredValue(_prompts), .. plots ? PlottedPrompts : []],
            arguments.GetValue(_generate) ?? 32,
            [.. arguments.GetRequiredValue(_batches), .. plots ? PlottedBatches : [],
                .. load is null ? (int[])[] : [load.Clients]],
            arguments.GetValue(_depths) ?? []);
        if (tests.Count == 0) throw new UsageException("-p and -n are 0: there is nothing to measure.");
        int threads = arguments.GetValue(_threads) ?? Processors.PhysicalCores(),
            repetitions = arguments.GetValue(_repetitions) ?? 5;
        string output = arguments.GetValue(_output) ?? Path.Combine("bench", "results", Machine.Slug);
        Directory.CreateDirectory(output); // found out now rather than at the end

        List<PeersResult> results = await Terminal.InterruptibleAsync(async ct =>
        {
            string? installed = modules switch
            {
                None => null,
                Cached => await Terminal.ProgressAsync("Installing llama.cpp by npm, once",
                    _ => NodeModules.InstalledAsync(NodeModules.CacheFolder,
                        OperatingSystem.IsWindows() ? "npm.cmd" : "npm", ct)),
                string path => NodeModules.At(path),
            };
            List<PeersResult> results = [];
            foreach (string path in models)
            {
                PeersResult result = await MeasureAsync(path, threads, tests, repetitions, installed, benches, ct);
                if (load is not null)
                    result = result with
                    {
                        Load = load,
                        Servers = await Terminal.ProgressAsync("Asking servers",
                            report => PeersServing.RunAsync(path, threads, llamaServer, load, report, ct)),
                    };
                await WriteAsync(output, result, plots); // a run that is broken off later leaves this
                results.Add(result);
                if (arguments.GetRequiredValue(_format) == "md")
                    Terminal.Out.Write(
                        $"{(results.Count > 1 ? Environment.NewLine : "")}{result.Model.Type} ({Path.GetFileName(path)}), {threads} threads{Environment.NewLine}{Environment.NewLine}{PeersReport.Tables(result)}");
            }
            return results;
        });
        if (arguments.GetRequiredValue(_format) == "json")
            Json.WriteLine(Terminal.Out, json => PeersReport.Json(json, results));
        Terminal.Remark($"{output} has the report");
        return Cli.Success;
    }

    private static void RequireFiles(string[] models)
    {
        foreach (string model in models)
            if (!File.Exists(model))
                throw new CommandException(
                    Directory.Exists(model)
                        ? $"{model} is a folder; llama.cpp reads GGUF files alone (tools convert makes one)"
                        : $"{model}: there is no such file; a GGUF file is expected");
    }

    /// <summary>What is measured: each prompt, each batch's decode, and one sequence's at each depth; each
    /// once.</summary>
    internal static List<ThroughputTest> Tests(int[] prompts, int generate, int[] batches, int[] depths)
    {
        IEnumerable<ThroughputTest> tests =
        [
            .. prompts.Order().Select(prompt => new ThroughputTest(prompt, 0, 1, 0)),
            .. batches.Order().Select(batch => new ThroughputTest(0, generate, batch, 0)),
            .. depths.Order().Select(depth => new ThroughputTest(0, generate, 1, depth)),
        ];
        return [.. tests.Where(test => test.Prompt + test.Generate > 0).Distinct()];
    }

    private async Task<PeersResult> MeasureAsync(string path, int threads, List<ThroughputTest> tests, int repetitions,
        string? modules, string[] benches, CancellationToken ct)
    {
        List<IPeer> peers = [];
        using BenchModel model =
            await Terminal.LoadingAsync(path, progress => BenchModel.Load(path, threads, tests, DType.F16, progress));
        try
        {
            peers.Add(new NativePeer(model, tests));
            if (modules is not null)
                peers.Add(await NodeLlamaCpp.StartAsync("node", modules, path, threads,
                    model.Runner.Info.VocabularySize, tests, ct));
            string[] names = LlamaBench.Names(benches, peers.Select(peer => peer.Name));
            peers.AddRange(benches.Select((bench, i) => new LlamaBench(bench, path, threads, names[i])));
            using MachineLimits limits = new(threads, model.WeightType);
            List<PeersTest> measured =
                await Terminal.ProgressAsync($"Measuring {Path.GetFileName(path)}",
                    report => PeersRun.RunAsync(model, peers, tests, repetitions, limits.Measure, report, ct));
            return new PeersResult
            {
                Model = model,
                Repetitions = repetitions,
                Peers = peers,
                Tests = measured,
                Instructions = limits.Instructions,
            };
        }
        finally
        {
            foreach (IPeer peer in peers) await peer.DisposeAsync();
        }
    }

    private static async Task WriteAsync(string folder, PeersResult result, bool plots)
    {
        string name = $"peers-{Machine.Slugged(Path.GetFileNameWithoutExtension(result.Model.FileName))}";
        List<(string Title, string File)> pictures = [];
        foreach ((string title, string file, string? picture)
            in ((string, string, string?)[])[
                ("tokens a second against the batch", $"{name}-batch.svg", PeersReport.Batches(result)),
                ("time to first token against the prompt", $"{name}-ttft.svg", PeersReport.Prompts(result))])
        {
            if (!plots || picture is null) continue;
            await File.WriteAllTextAsync(Path.Combine(folder, file), picture);
            pictures.Add((title, file));
        }
        await File.WriteAllTextAsync(Path.Combine(folder, $"{name}.md"), PeersReport.Page(result, pictures));
        using MemoryStream buffer = new();
        using (Utf8JsonWriter json =
            new(buffer, new JsonWriterOptions
            {
                Indented = true,
                Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping
            })) PeersReport.Json(json, [result]);
        buffer.Write(Encoding.UTF8.GetBytes("\n"));
        await File.WriteAllBytesAsync(Path.Combine(folder, $"{name}.json"), buffer.ToArray());
    }

    private static void Existing(Option option, string path)
    {
        if (!File.Exists(path))
            throw new CommandException($"{option.Name} {path}: there is no such file; the program is expected");
    }
}
