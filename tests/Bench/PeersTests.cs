using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using System.Xml.Linq;
using Native.Bench;
using Native.Bench.Peers;
using Native.Bench.Throughput;
using Native.Kernels.Cpu;
using Native.Tests.Scheduling;
using Native.Tests.Server;
using Native.Tools;
using static Native.Tests.Bench.BenchRun;

namespace Native.Tests.Bench;

/// <summary><c>peers</c>: what it asks of other engines, how it reads their answers and what it says of them. Programs
/// that stand in for them tell times of their own; how fast anything is is not asserted.</summary>
public sealed class PeersTests : IDisposable
{
    private const string Json =
        """
        [
          {
            "build_commit": "a1b2c3d", "build_number": 6789, "cpu_info": "AMD EPYC", "model_type": "llama 1B Q4_0", "n_threads": 2,
            "n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ns": 2000000000, "stddev_ns": 0, "avg_ts": 256.0, "samples_ns": [ 2000000000 ]
          },
          {
            "build_commit": "a1b2c3d", "build_number": 6789, "n_prompt": 0, "n_gen": 32, "avg_ns": 750000000, "samples_ns": [ 750000000 ]
          }
        ]
        """;

    private const string Table =
        """
        main: n_kv_max = 2048, n_batch = 2048

        |    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |
        |-------|--------|------|--------|----------|----------|----------|----------|----------|----------|
        |     1 |     32 |    8 |    264 |    0.050 |   160.00 |    2.560 |   100.00 |    2.610 |   101.15 |

        llama_perf_context_print: load time = 1 ms
        """;

    private readonly string _folder = Directory.CreateTempSubdirectory("native-peers-").FullName;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void LlamaBenchsJson_IsReadByTest()
    {
        Assert.Equal((2.0, ", build 6789 (a1b2c3d)"), LlamaBench.Read(Json, new ThroughputTest(512, 0, 1, 0), "llama-bench"));
        Assert.Equal(0.75, LlamaBench.Read(Json, new ThroughputTest(0, 32, 1, 0), "llama-bench").Seconds);
    }

    [Theory]
    [InlineData("no result with n_prompt 0 and n_gen 7", Json)]
    [InlineData("not llama-bench's JSON", "error: unknown argument: -d")]
    [InlineData("not llama-bench's JSON", "")]
    [InlineData("not llama-bench's JSON", "{\"n_prompt\": 0}")]
    [InlineData("not llama-bench's JSON", "[{\"n_prompt\": 0, \"n_gen\": 7}]")]
    [InlineData("avg_ns 0", "[{\"n_prompt\": 0, \"n_gen\": 7, \"avg_ns\": 0}]")]
    public void WhatIsNotTheJsonAskedFor_IsRefused_WithWhatCame(string expected, string json)
    {
        CommandException refused = Assert.Throws<CommandException>(() => LlamaBench.Read(json, new ThroughputTest(0, 7, 1, 0), "/opt/llama-bench"));
        Assert.Contains(expected, refused.Message, StringComparison.Ordinal);
        Assert.StartsWith("/opt/llama-bench", refused.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void LlamaBatchedBenchsTable_IsReadByItsHeading()
    {
        Assert.Equal(2.56, LlamaBench.ReadBatched(Table, new ThroughputTest(0, 32, 8, 0), "llama-batched-bench"));
        CommandException refused = Assert.Throws<CommandException>(() => LlamaBench.ReadBatched(Table, new ThroughputTest(0, 32, 16, 0), "llama-batched-bench"));
        Assert.Contains("16 sequences of 32 tokens", refused.Message, StringComparison.Ordinal);
        Assert.Throws<CommandException>(() => LlamaBench.ReadBatched("out of memory", new ThroughputTest(0, 32, 8, 0), "llama-batched-bench"));
    }

    [Fact]
    public void SeveralLlamaBenches_AreNamedByTheirCheckouts() =>
        Assert.Equal(["llama.cpp 2", "ik_llama.cpp", "ik_llama.cpp 2"],
            LlamaBench.Names(["/src/llama.cpp/build/bin/llama-bench", "/src/ik_llama.cpp/build-avx512/bin/llama-bench", "/opt/ik_llama.cpp/llama-bench"], ["Native", "llama.cpp"]));

    [Theory]
    [InlineData("AMD EPYC", 2, CpuVariant.Avx512, "amd-epyc-2c-avx512")]
    [InlineData("AMD EPYC f25m17", 2, CpuVariant.Avx512Vnni, "amd-epyc-f25m17-2c-avx512vnni")]
    [InlineData("AMD EPYC 9755 128-Core Processor", 128, CpuVariant.Avx512, "amd-epyc-9755-128c-avx512")]
    [InlineData("Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.00GHz", 56, CpuVariant.AvxVnni, "intel-xeon-platinum-8480-56c-avxvnni")]
    [InlineData("", 4, CpuVariant.AdvSimd, "unnamed-4c-advsimd")]
    public void AMachine_IsNamedByProcessorCoresAndInstructions(string processor, int cores, CpuVariant variant, string slug) => Assert.Equal(slug, Machine.SlugOf(processor, cores, variant));

    [Theory]
    [InlineData("processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nstepping\t: 1", "AMD EPYC f25m17")]
    [InlineData("cpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC 9755 128-Core Processor", "AMD EPYC 9755 128-Core Processor")]
    [InlineData("model name\t: AMD EPYC", "AMD EPYC")]
    public void AProcessorWithoutANumber_IsToldByFamilyAndModel(string cpuinfo, string name) => Assert.Equal(name, Machine.ProcessorName(cpuinfo.Split('\n')));

    [Fact]
    public void Tests_AreEachPromptBatchAndDepth_Once() =>
        Assert.Equal(
            [new(32, 0, 1, 0), new(512, 0, 1, 0), new(0, 16, 1, 0), new(0, 16, 8, 0), new(0, 16, 1, 4096)],
            PeersCommand.Tests([512, 32, 512, 0], 16, [8, 1, 8], [4096]));

    [Fact]
    public void AnArithmeticLoop_IsANumberOfOperationsASecond()
    {
        Assert.NotEmpty(ArithmeticPeak.FloatLoops);
        foreach (ArithmeticLoop loop in ArithmeticPeak.Int8Loops.Concat(ArithmeticPeak.FloatLoops)) Assert.InRange(ArithmeticPeak.OperationsPerSecond(loop, threads: 1), 1e6, 1e14);
        Assert.Null(ArithmeticPeak.Fastest([]));
        Assert.Contains(ArithmeticPeak.Fastest(ArithmeticPeak.FloatLoops), ArithmeticPeak.FloatLoops);
    }

    [Fact]
    public async Task Engines_AreMeasuredByTurns_AndNobodyIsAlwaysFirst()
    {
        List<string> order = [];
        using BenchModel model = new("m", "m", 0, 0, 1, new FakeModelRunner());
        IPeer[] peers = [new FakePeer("a", _ => 1, order), new FakePeer("b", test => test.Batch > 1 ? null : 2, order)];
        List<PeersTest> results = await PeersRun.RunAsync(model, peers, [new(8, 0, 1, 0), new(0, 4, 2, 0)], 2, memory => memory ? 100 : 1000, null, Token);
        Assert.Equal("ab ab ab ab ba ba", string.Join(' ', order.Chunk(2).Select(pair => string.Concat(pair)))); // a warm-up, then both orders
        Assert.Equal(["pp8", "tg4 B2"], results.Select(result => result.Name));
        Assert.Equal([[1, 1], [2, 2]], results[0].Samples.Select(samples => samples.Seconds.ToArray()));
        Assert.Equal([[1, 1], []], results[1].Samples.Select(samples => samples.Seconds.ToArray())); // b knows no batches
        Assert.Null(results[1].Ratio(results[1].Samples[1]));
        Assert.Equal([1000, 100], results.Select(result => result.Limit));
    }

    [Fact]
    public async Task RatiosAndShares_AreOfMedians()
    {
        Queue<double> times = new([9, 4, 2, 1]); // the first warms up
        using BenchModel model = new("m", "m", 0, 0, 1, new FakeModelRunner()) { FileStepBytes = 1000, KvBytesPerToken = 10, LayerParameters = 50 };
        IPeer[] peers = [new FakePeer("Native", _ => times.Dequeue(), []), new FakePeer("b", _ => 4, [])];
        PeersTest decode = Assert.Single(await PeersRun.RunAsync(model, peers, [new(0, 3, 2, 7)], 3, _ => 6000, null, Token));
        Assert.Equal([1.5, 3, 6], decode.Samples[0].Speeds);
        Assert.Equal(2, decode.Ratio(decode.Samples[1]));
        Assert.Equal(500 + (7 + 2) * 10, decode.WorkPerToken); // half of the weights, and its keys and values: 8, 9 and 10 tokens of them
        Assert.Equal(3 * 590 / 6000.0, decode.Share(3), 1e-9);
        PeersTest prompt = new(model, new ThroughputTest(512, 0, 1, 0), peers, []);
        Assert.Equal(100, prompt.WorkPerToken);
    }

    [Fact]
    public void ABareEngine_ComputesThePromptsToo()
    {
        ServingLoad load = new(16, 64, 250, 50);
        Assert.Equal(25, load.Bare(prefill: 250, decode: 50)); // a second for the prompt, one for the answer
    }

    [Theory]
    [InlineData("")]
    [InlineData(" >&2")] // where ik_llama.cpp's llama-batched-bench writes its table
    public async Task LlamaBench_IsRunForEachRepetition_AndReported(string redirection)
    {
        string bench = FakeLlamaBench("llama.cpp", "1000000000"), batched = Script(Path.Combine("llama.cpp", "build", "bin", "llama-batched-bench"),
            "shift 8; { echo '|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |'; echo \"| $2 | $4 | $6 | 0 | 0.1 | 1 | 2.000 | 1 | 1 | 1 |\"; }" + redirection);
        (int exit, string output, string error) = await Run("peers", "--llama-bench", bench, "-p", "16", "-n", "4", "-b", "1,3", "-d", "8", "-r", "2", "-t", "1", "--output", _folder);
        Assert.Equal((Cli.Success, ""), (exit, error));
        string[][] cells = Cells(output);
        Assert.Equal(["test", "Native t/s", "of limit", "llama.cpp t/s", "of limit", "ratio", "limit"], cells[0]);
        Assert.Equal(["pp16", "tg4", "tg4 B3", "tg4 @ d8"], cells[2..].Select(row => row[0]));
        Assert.Equal(["16.0 (16.0-16.0)", "4.0 (4.0-4.0)", "6.0 (6.0-6.0)", "4.0 (4.0-4.0)"], cells[2..].Select(row => row[3])); // a second each, two of the batch
        Assert.Equal([false, true, true, true], cells[2..].Select(row => row[6].EndsWith("GB/s", StringComparison.Ordinal)));
        string[] calls = await File.ReadAllLinesAsync(Path.Combine(_folder, "calls"), Token);
        Assert.Equal(3 * 3, calls.Length); // of three tests: one to warm up, two that count
        Assert.All(calls, call => Assert.Contains("-t 1 -ngl 0", call, StringComparison.Ordinal));
        Assert.Contains(calls, call => call.EndsWith("-p 16 -n 0 -r 1 -o json", StringComparison.Ordinal));
        Assert.Contains(calls, call => call.EndsWith("-p 0 -n 4 -d 8 -r 1 -o json", StringComparison.Ordinal));
        Assert.True(File.Exists(batched));

        string page = await File.ReadAllTextAsync(Path.Combine(_folder, "peers-demo.md"), Token);
        Assert.Contains(cells[2][3], page, StringComparison.Ordinal);
        Assert.Contains("build 12 (abc)", page, StringComparison.Ordinal);
        JsonElement model = Assert.Single(JsonDocument.Parse(await File.ReadAllBytesAsync(Path.Combine(_folder, "peers-demo.json"), Token)).RootElement.EnumerateArray().ToArray());
        JsonElement[] engines = [.. model.GetProperty("tests")[2].GetProperty("engines").EnumerateArray()];
        Assert.Equal(["Native", "llama.cpp"], engines.Select(engine => engine.GetProperty("name").GetString()));
        Assert.Equal([2e9, 2e9], engines[1].GetProperty("samples_ns").EnumerateArray().Select(item => item.GetDouble()));
        Assert.Equal(engines[0].GetProperty("median_ts").GetDouble() / 6, engines[1].GetProperty("ratio").GetDouble(), 1e-6 * engines[1].GetProperty("ratio").GetDouble());
    }

    [Fact]
    public async Task WithoutLlamaBatchedBench_BatchesHaveNoPeer_AndPicturesHaveWhatThereIs()
    {
        string bench = FakeLlamaBench("ik_llama.cpp", "500000000");
        (int exit, string output, string error) = await Run("peers", "--llama-bench", bench, "-p", "8", "-n", "1", "-r", "1", "-t", "1", "--plots", "-o", "json", "--output", _folder);
        Assert.Equal((Cli.Success, ""), (exit, error));
        JsonElement[] tests = [.. JsonDocument.Parse(output).RootElement[0].GetProperty("tests").EnumerateArray()];
        Assert.Equal(["pp8", "pp32", "pp64", "pp128", "pp256", "pp512", "pp1024", "pp2048", "tg1", "tg1 B2", "tg1 B4", "tg1 B8", "tg1 B16", "tg1 B32"], tests.Select(test => test.GetProperty("test").GetString()));
        Assert.All(tests, test => Assert.Equal(test.GetProperty("n_seqs").GetInt32() > 1 ? JsonValueKind.Null : JsonValueKind.Number, test.GetProperty("engines")[1].GetProperty("ratio").ValueKind));
        Assert.Equal(16, tests[0].GetProperty("engines")[1].GetProperty("median_ts").GetDouble()); // half a second for eight
        foreach (string picture in new[] { "peers-demo-batch.svg", "peers-demo-ttft.svg" })
        {
            XElement svg = XElement.Parse(await File.ReadAllTextAsync(Path.Combine(_folder, picture), Token));
            Assert.Equal(2, svg.Elements().Count(element => element.Name.LocalName == "polyline"));
            Assert.Contains(svg.Elements(), element => element.Value == "ik_llama.cpp");
            Assert.Contains($"]({picture})", await File.ReadAllTextAsync(Path.Combine(_folder, "peers-demo.md"), Token), StringComparison.Ordinal);
        }
    }

    [Fact]
    public async Task ALlamaBenchThatFails_IsOneLine_WithWhatItSaid()
    {
        string bench = Script("llama-bench", "echo 'failed to load model' >&2; exit 3");
        (int exit, string output, string error) = await Run("peers", "--llama-bench", bench, "-p", "8", "-n", "0", "-r", "1", "-t", "1", "--output", _folder);
        Assert.Equal((Cli.Failed, ""), (exit, output));
        string line = Assert.Single(Lines(error));
        Assert.Contains(bench, line, StringComparison.Ordinal);
        Assert.Contains("exit code 3: failed to load model", line, StringComparison.Ordinal);
    }

    [Fact]
    public async Task WithoutNodeOrNpm_TheErrorSaysWhatElseThereIs()
    {
        CommandException refused = await Assert.ThrowsAsync<CommandException>(() => NodeLlamaCpp.StartAsync(Path.Combine(_folder, "no-node"), _folder, "m.gguf", 1, 100, [new(8, 0, 1, 0)], Token));
        Assert.Contains("no-node could not be started", refused.Message, StringComparison.Ordinal);
        Assert.Contains("--llama-bench PATH", refused.Message, StringComparison.Ordinal);

        refused = await Assert.ThrowsAsync<CommandException>(() => NodeModules.InstalledAsync(Path.Combine(_folder, "cache"), Path.Combine(_folder, "no-npm"), Token));
        Assert.Contains("no-npm could not be started", refused.Message, StringComparison.Ordinal);
        Assert.Contains("--node-modules PATH", refused.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Npm_InstallsOnce_OnlyWhatThisSystemNeeds()
    {
        // Stands in for npm: makes a folder for each package that is named by its version.
        string npm = Script("npm", $"echo \"$@\" >> '{_folder}/npm-calls'; for word; do case $word in *@{NodeModules.Version}) package=\"$3/node_modules/${{word%@*}}\"; mkdir -p \"$package\"; echo '{{\"version\":\"{NodeModules.Version}\"}}' > \"$package/package.json\";; esac; done");
        string cache = Path.Combine(_folder, "cache"), modules = await NodeModules.InstalledAsync(cache, npm, Token);
        Assert.Equal(Path.Combine(cache, "node_modules"), modules);
        Assert.Equal(NodeModules.Version, NodeModules.VersionIn(modules));
        Assert.Equal(modules, await NodeModules.InstalledAsync(cache, npm, Token));
        string call = Assert.Single(await File.ReadAllLinesAsync(Path.Combine(_folder, "npm-calls"), Token));
        Assert.Contains("--omit=optional --ignore-scripts", call, StringComparison.Ordinal);
        Assert.Equal((modules, modules), (NodeModules.At(cache), NodeModules.At(modules)));
        Assert.Contains("node-llama-cpp", Assert.Throws<CommandException>(() => NodeModules.At(_folder)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task TheScript_AsksLlamaCpp_ForEachTokenOnceAndInOrder()
    {
        SkipWithoutNode();
        string modules = FakeNodeModules();
        (int exit, string output, string error) = await Run("peers", "--node-modules", modules, "-p", "600", "-n", "3", "-b", "1,2", "-d", "20", "-r", "2", "-t", "1", "--output", _folder);
        Assert.Equal((Cli.Success, ""), (exit, error));
        string[][] cells = Cells(output);
        Assert.Equal("llama.cpp t/s", cells[0][3]);
        Assert.Equal(["pp600", "tg3", "tg3 B2", "tg3 @ d20"], cells[2..].Select(row => row[0]));
        Assert.All(cells[2..], row => Assert.Matches(@"^\d.*\(.+-.+\)$", row[3]));
        // Of each sequence; a prompt longer than a chunk is computed in two. A cache that is cut goes on where it was
        // cut.
        string[] steps = [.. (await File.ReadAllLinesAsync(Path.Combine(_folder, "steps"), Token)).Select(step => string.Join(' ', step.Split(' ').Order()))];
        Assert.Equal((3, 2), (steps.Count(step => step == "0:0+512"), steps.Count(step => step == "0:512+88"))); // one chunk to warm up
        Assert.Equal("0:0+512", steps[Array.IndexOf(steps, "0:512+88") - 1]);
        Assert.Equal(3 * (2 + 3), steps.Count(step => step is "0:0+1 1:0+1" or "0:1+1 1:1+1" or "0:2+1 1:2+1")); // once to warm up, twice that count, each time with two steps before
        Assert.Equal(3 * (2 + 3), steps.Count(step => step is "0:20+1" or "0:21+1" or "0:22+1"));
        Assert.Contains("0:3+17", steps); // the three tokens of the decode before are left, and deepened
        string page = await File.ReadAllTextAsync(Path.Combine(_folder, "peers-demo.md"), Token);
        Assert.Contains("node-llama-cpp 9.9.9, llama.cpp b1, 1 threads", page, StringComparison.Ordinal);
    }

    [Fact]
    public async Task WhatLlamaCppCantLoad_IsOneLine()
    {
        SkipWithoutNode();
        string modules = FakeNodeModules(failing: true);
        (int exit, string output, string error) = await Run("peers", "--node-modules", modules, "-p", "8", "-n", "0", "-r", "1", "-t", "1", "--output", _folder);
        Assert.Equal((Cli.Failed, ""), (exit, output));
        Assert.Contains("unknown model architecture", Assert.Single(Lines(error)), StringComparison.Ordinal);
    }

    [Fact]
    public async Task TheRealLlamaCpp_IsMeasured()
    {
        SkipWithoutNode();
        string? modules = ((string[])[Path.Combine(AppContext.BaseDirectory, "..", "..", "..", "EndToEnd", "node_modules"), Path.Combine(NodeModules.CacheFolder, "node_modules")])
            .FirstOrDefault(folder => File.Exists(Path.Combine(folder, "node-llama-cpp", "package.json")));
        Assert.SkipWhen(modules is null, "node-llama-cpp is not installed");
        (int exit, string output, string error) = await Run("peers", "--node-modules", modules!, "-p", "64", "-n", "4", "-b", "1,2", "-r", "1", "-t", "1", "--output", _folder);
        Assert.Equal((Cli.Success, ""), (exit, error));
        Assert.All(Cells(output)[2..], row => Assert.True(double.Parse(row[5], CultureInfo.InvariantCulture) > 0));
    }

    [Fact]
    public async Task Servers_AreAskedTheSame_AndOursIsHeldToItsBareEngine()
    {
        SkipWithoutNode();
        string bench = FakeLlamaBench("llama.cpp", "1000000000"), server = Script("llama-server", FakeLlamaServer, "#!/usr/bin/env node");
        (int exit, string output, string error) = await Run("peers", "--llama-bench", bench, "-p", "16", "-n", "4", "-b", "1", "-r", "1", "-t", "1", "--server", "--llama-server", server,
            "--clients", "2", "--num-prompts", "5", "--random-input-len", "6", "--random-output-len", "4", "-o", "json", "--output", _folder);
        Assert.Equal((Cli.Success, ""), (exit, error));
        JsonElement serving = JsonDocument.Parse(output).RootElement[0].GetProperty("serving");
        JsonElement[] servers = [.. serving.GetProperty("servers").EnumerateArray()];
        Assert.Equal(["Native", "llama-server"], servers.Select(one => one.GetProperty("name").GetString()));
        Assert.All(servers, one => Assert.Equal((5, 0), (one.GetProperty("completed").GetInt32(), one.GetProperty("failed").GetInt32())));
        Assert.True(serving.GetProperty("bare_decode_ts").GetDouble() > serving.GetProperty("bare_output_ts").GetDouble()); // a batch of 2 was measured for it
        string page = await File.ReadAllTextAsync(Path.Combine(_folder, "peers-demo.md"), Token);
        Assert.Contains("| server ", page, StringComparison.Ordinal);
        Assert.Contains("that its bare engine decodes at batch 2", page, StringComparison.Ordinal);
    }

    [Fact]
    public async Task SigTerm_EndsTheServerThatWasStarted()
    {
        string started = Path.Combine(_folder, "started"), bench = FakeLlamaBench("llama.cpp", "1000000000");
        string server = Script("llama-server", $"echo $$ > '{started}.new'; mv '{started}.new' '{started}'; exec sleep 600"); // never healthy
        ProcessStartInfo start = new("dotnet",
        [
            Path.Combine(AppContext.BaseDirectory, "Native.Bench.dll"), "peers", "--llama-bench", bench, "-p", "8", "-n", "0", "-r", "1", "-t", "1", "--server", "--llama-server", server,
            "--clients", "1", "--num-prompts", "1", "--random-input-len", "6", "--random-output-len", "4", "--output", _folder,
        ])
        { RedirectStandardError = true };
        using Process peers = Process.Start(start)!;
        try
        {
            await RunningServer.Until(() => File.Exists(started) || peers.HasExited, "the server is started");
            Assert.False(peers.HasExited);
            using Process child = Process.GetProcessById(int.Parse(await File.ReadAllTextAsync(started, Token), CultureInfo.InvariantCulture));
            using Process kill = Process.Start("sh", ["-c", $"kill -TERM {peers.Id}"]);
            Assert.Equal("native: interrupted", (await peers.StandardError.ReadToEndAsync(Token)).Trim());
            await peers.WaitForExitAsync(Token);
            Assert.Equal(Cli.Terminated, peers.ExitCode);
            await RunningServer.Until(() => child.HasExited, "the server ends, too");
        }
        finally
        {
            if (!peers.HasExited) peers.Kill(entireProcessTree: true);
            await peers.WaitForExitAsync(CancellationToken.None);
        }
    }

    [Theory]
    [InlineData(Cli.Misused, "nothing to measure", "-p", "0", "-n", "0")]
    [InlineData(Cli.Misused, "--n-prompt has 'x'", "-p", "x")]
    [InlineData(Cli.Misused, "--batch is 0; it must be from 1 to 256", "-b", "0")]
    [InlineData(Cli.Misused, "--depth is 0", "-d", "0")]
    [InlineData(Cli.Misused, "--repetitions is 0; it must be from 1 to 1000", "-r", "0")]
    [InlineData(Cli.Misused, "--threads is 0", "-t", "0")]
    [InlineData(Cli.Misused, "--clients is 0", "--server", "--clients", "0")]
    [InlineData(Cli.Misused, "leaves no peer", "--node-modules", "none")]
    [InlineData(Cli.Misused, "--llama-server goes with --server", "--llama-server", "x")]
    [InlineData(Cli.Misused, "'csv'", "-o", "csv")]
    [InlineData(Cli.Failed, "/no/such/model.gguf: there is no such file; a GGUF file is expected", "-m", "/no/such/model.gguf")]
    [InlineData(Cli.Failed, "llama.cpp reads GGUF files alone", "-m", "/")]
    [InlineData(Cli.Failed, "--llama-bench /no/such/bench: there is no such file", "--llama-bench", "/no/such/bench")]
    [InlineData(Cli.Failed, "--llama-server /no/such/server: there is no such file", "--server", "--llama-server", "/no/such/server")]
    [InlineData(Cli.Failed, "--node-modules /no/such/folder", "--node-modules", "/no/such/folder")]
    public async Task AWrongCommandLine_IsExplained(int expectedExit, string expected, params string[] command)
    {
        (int exit, string output, string error) = await Run(["peers", .. command, "--output", _folder]);
        Assert.Equal((expectedExit, ""), (exit, output));
        Assert.Contains(expected, error, StringComparison.Ordinal);
        Assert.DoesNotContain("   at ", error, StringComparison.Ordinal);
        Assert.Empty(Directory.GetFiles(_folder));
    }

    /// <summary>A llama-bench in a checkout of this name, that always tells the same time and notes how it was
    /// called.</summary>
    private string FakeLlamaBench(string checkout, string nanoseconds) => Script(Path.Combine(checkout, "build", "bin", "llama-bench"),
        $$"""
        echo "$@" >> '{{_folder}}/calls'
        while [ $# -gt 0 ]; do case $1 in -p) p=$2;; -n) n=$2;; esac; shift; done
        echo 'loading the model' >&2
        echo "[{\"build_commit\": \"abc\", \"build_number\": 12, \"n_prompt\": $p, \"n_gen\": $n, \"avg_ns\": {{nanoseconds}}}]"
        """);

    private string Script(string name, string body, string interpreter = "#!/bin/sh")
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "the programs that stand in for others are shell scripts");
        string path = Path.Combine(_folder, name);
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        File.WriteAllText(path, $"{interpreter}\n{body}\n");
        if (!OperatingSystem.IsWindows()) File.SetUnixFileMode(path, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        return path;
    }

    private static void SkipWithoutNode()
    {
        string[] folders = (Environment.GetEnvironmentVariable("PATH") ?? "").Split(Path.PathSeparator);
        Assert.SkipUnless(folders.Any(folder => File.Exists(Path.Combine(folder, OperatingSystem.IsWindows() ? "node.exe" : "node"))), "Node.js is not on the PATH");
    }

    /// <summary>A package node-llama-cpp without llama.cpp: notes each step, and refuses one whose tokens don't follow
    /// those there are.</summary>
    private string FakeNodeModules(bool failing = false)
    {
        string package = Path.Combine(_folder, "node_modules", "node-llama-cpp");
        Directory.CreateDirectory(Path.Combine(package, "dist"));
        File.WriteAllText(Path.Combine(package, "package.json"), """{"version":"9.9.9","type":"module"}""");
        File.WriteAllText(Path.Combine(package, "dist", "index.js"),
            $$"""
            import { appendFileSync } from 'node:fs';
            export const LlamaLogLevel = { error: 'error' };
            class Context {
              constructor(options) { this.options = options; this.cells = new Array(options.sequences).fill(0); }
              disposeSequence(s) { this.cells[s] = 0; }
              removeTokenCellsFromSequence(s, from) { this.cells[s] = from; return true; }
              initBatch(size) { if (size > this.options.batchSize) throw new Error('too large a batch'); this.size = size; this.batch = []; }
              addToBatch(s, at, tokens) {
                if (at !== this.cells[s]) throw new Error(`sequence ${s} has ${this.cells[s]} tokens, not ${at}`);
                if (at + tokens.length > this.options.contextSize) throw new Error(`sequence ${s} is too long`);
                if ((this.size -= tokens.length) < 0) throw new Error('more tokens than the batch has');
                if (tokens.some(token => token >= 1e6)) throw new Error('a token that is none');
                this.cells[s] += tokens.length;
                this.batch.push(`${s}:${at}+${tokens.length}`);
              }
              async decodeBatch() {
                if (process.env.UV_THREADPOOL_SIZE !== '1') throw new Error('UV_THREADPOOL_SIZE is not 1');
                appendFileSync('{{_folder}}/steps', this.batch.join(' ') + '\n');
                await new Promise(done => setTimeout(done, 2));
              }
            }
            export async function getLlama({ gpu, build }) {
              if (gpu !== false || build !== 'never') throw new Error('neither GPU nor build is wanted');
              return {
                llamaCppRelease: { release: 'b1' }, systemInfo: 'CPU : ',
                async loadModel() {
                  if ({{(failing ? "true" : "false")}}) throw new Error('unknown model architecture');
                  return { async createContext(options) { return { _ctx: new Context(options) }; } };
                },
              };
            }
            """);
        return Path.Combine(_folder, "node_modules");
    }

    /// <summary>Answers every prompt of ids with as many tokens as are wanted.</summary>
    private const string FakeLlamaServer =
        """
        const http = require('node:http');
        const argument = name => process.argv[process.argv.indexOf(name) + 1];
        let asked = 0;
        http.createServer((request, response) => {
          if (request.url === '/health') return response.writeHead(asked++ < 2 ? 503 : 200).end();
          if (request.url === '/v1/models') return response.end(JSON.stringify({ data: [{ id: argument('-m') }] }));
          let body = '';
          request.on('data', part => body += part).on('end', () => {
            const { prompt, max_tokens } = JSON.parse(body);
            if (argument('-np') !== '2' || !Array.isArray(prompt)) return response.writeHead(400).end();
            for (let i = 0; i < max_tokens; i++) response.write(`data: ${JSON.stringify({ choices: [{ text: ' a' }] })}\n\n`);
            response.end(`data: ${JSON.stringify({ choices: [], usage: { prompt_tokens: prompt.length, completion_tokens: max_tokens } })}\n\ndata: [DONE]\n\n`);
          });
        }).listen(Number(argument('--port')), argument('--host'));
        """;

    /// <summary>An engine whose times are given.</summary>
    private sealed class FakePeer(string name, Func<ThroughputTest, double?> seconds, List<string> order) : IPeer
    {
        public string Name => name;

        public string Description => name;

        public Task<double?> MeasureAsync(ThroughputTest test, CancellationToken ct)
        {
            order.Add(name);
            return Task.FromResult(seconds(test));
        }

        public ValueTask DisposeAsync() => ValueTask.CompletedTask;
    }
}
