using System.Globalization;
using System.Text.Json;
using System.Text.RegularExpressions;
using Native.Bench.Throughput;
using Native.Kernels;
using Native.Tests.Scheduling;
using Native.Tools;
using static Native.Tests.Bench.BenchRun;

namespace Native.Tests.Bench;

/// <summary><c>throughput</c>: its steps on a model that checks them, and its tables on the demo model.</summary>
public sealed class ThroughputTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData(1, 8, 8, 1)]    // one prompt, one step
    [InlineData(1, 20, 8, 3)]   // a prompt longer than a step
    [InlineData(3, 5, 16, 1)]   // prompts side by side
    [InlineData(3, 5, 8, 2)]    // one of them over two steps
    [InlineData(4, 7, 3, 10)]   // steps shorter than a prompt
    public void Prefill_ComputesEachTokenOnce_InAsFewStepsAsTheModelAllows(int sequences, int count, int maxBatchedTokens, int expectedSteps)
    {
        FakeModelRunner runner = new(maxBatchedTokens: maxBatchedTokens);
        List<(int Position, int Slot)> computed = [];
        int sampled = 0;
        runner.OnExecute = (in Batch batch) =>
        {
            for (int i = 0; i < batch.TokenIds.Length; i++) computed.Add((batch.Positions[i], batch.SlotMapping[i]));
            sampled += batch.SampleRows.Length;
        };
        StepDriver driver = new(runner, sequences, 24);
        Assert.Equal(expectedSteps, driver.Prefill(sequences, 0, count, Token));
        Assert.Equal(expectedSteps, runner.Steps);
        Assert.Equal(sequences, sampled); // each prompt's last token alone
        Assert.Equal(sequences * count, computed.Distinct().Count());
        Assert.Equal(sequences * count, computed.Count);
        Assert.Equal(Enumerable.Range(0, count), computed.Select(token => token.Position).Distinct().Order());
        Assert.Empty(runner.Violations);
    }

    [Fact]
    public void Decode_GoesOnWithWhatWasSampled_OneTokenOfEachSequenceAStep()
    {
        FakeModelRunner runner = new();
        StepDriver driver = new(runner, 3, 24);
        driver.Prefill(3, 0, 6, Token);
        int[] ids = new int[3];
        int step = 0;
        runner.OnExecute = (in Batch batch) =>
        {
            Assert.Equal([6 + step, 6 + step, 6 + step], batch.Positions);
            Assert.Equal(3, batch.SampleRows.Length);
            if (step > 0) Assert.NotEqual(ids, batch.TokenIds.ToArray()); // hashes of all that came before
            ids = batch.TokenIds.ToArray();
            step++;
        };
        driver.Decode(3, 6, 5, Token);
        Assert.Equal(5, step);
        Assert.Empty(runner.Violations);
    }

    [Fact]
    public void Decode_AtADepth_FindsTheTokensBeforeIt()
    {
        FakeModelRunner runner = new();
        StepDriver driver = new(runner, 2, 24);
        driver.Prefill(2, 0, 10, Token);
        runner.OnExecute = (in Batch batch) => Assert.Equal([11, 11], batch.ContextLengths);
        driver.Decode(2, 10, 1, Token);
        Assert.Empty(runner.Violations);
    }

    [Fact]
    public void WhatDoesNotFitTheModel_IsRefused_WithTheNumbers()
    {
        FakeModelRunner runner = new(blockCount: 8, blockSize: 4);
        CommandException refused = Assert.Throws<CommandException>(() => new StepDriver(runner, 3, 12));
        Assert.Contains("3 sequences of 12 tokens", refused.Message, StringComparison.Ordinal);
        Assert.Contains("32 tokens", refused.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Cancelling_EndsBetweenSteps()
    {
        FakeModelRunner runner = new();
        StepDriver driver = new(runner, 1, 24);
        using CancellationTokenSource source = new();
        runner.OnExecute = (in Batch batch) => source.Cancel();
        Assert.Throws<OperationCanceledException>(() => driver.Decode(1, 0, 10, source.Token));
        Assert.Equal(1, runner.Steps);
    }

    [Fact]
    public void Repetitions_VisitEveryModelByTurns()
    {
        List<string> order = [];
        BenchModel Model(string name)
        {
            FakeModelRunner runner = new() { OnExecute = (in Batch batch) => order.Add(name) };
            return new BenchModel(name, name, 0, 100, 1, runner);
        }
        using BenchModel a = Model("a"), b = Model("b");
        List<Phase> phases = ThroughputRun.Run([a, b], [new ThroughputTest(4, 0, 1, 0), new ThroughputTest(0, 1, 1, 0)], 3, bandwidth: null, report: null, Token);
        Assert.Equal("aabb" + "aabbaabbaabb", string.Concat(order)); // warm-up, then three rounds
        Assert.Equal(["a pp4", "a tg1", "b pp4", "b tg1"], phases.Select(phase => $"{phase.Model.Type} {phase.Name}"));
        Assert.All(phases, phase => Assert.Equal(3, phase.Seconds.Count));
    }

    [Fact]
    public void SpeedsAndShares_FollowFromSeconds()
    {
        using BenchModel model = new("m", "m", 0, 1000, 1, new FakeModelRunner());
        Phase decode = new(model, new ThroughputTest(0, 10, 4, 0), decodes: true) { Seconds = { 2, 4 }, ReadBandwidths = { 10_000, 10_000 } };
        Assert.Equal([20, 10], decode.Speeds); // ten steps of four
        Assert.Equal([5000, 2500], decode.WeightBandwidths); // the weights once a step, whatever the batch
        Assert.Equal(0.375, decode.ShareOfBandwidth);
        Phase prompt = new(model, new ThroughputTest(512, 0, 1, 64), decodes: false) { Seconds = { 1 } };
        Assert.Equal(("pp512 @ d64", 512.0), (prompt.Name, prompt.Speeds[0]));
        Assert.Null(prompt.ShareOfBandwidth);
    }

    [Fact]
    public void MemoryBandwidth_IsANumberOfBytesASecond()
    {
        using MemoryBandwidth bandwidth = new(threads: 2);
        Assert.InRange(bandwidth.Measure(), 1e6, 1e14);
    }

    [Fact]
    public async Task TheTable_HasLlamaBenchsColumns()
    {
        (int exit, string output, string error) = await Run("throughput", "-p", "8", "-n", "4", "-d", "0,16", "-r", "2", "-t", "1");
        Assert.Equal((Cli.Success, ""), (exit, error)); // nothing is told to a pipe but the result
        string[][] cells = Cells(output);
        Assert.Equal(["model", "size", "params", "backend", "threads", "test", "t/s"], cells[0]);
        Assert.Equal(["pp8", "tg4", "pp8 @ d16", "tg4 @ d16"], cells[2..].Select(row => row[5]));
        Assert.All(cells[2..], row =>
        {
            Assert.StartsWith("llama ", row[0], StringComparison.Ordinal);
            Assert.Matches("^[0-9.]+ [MG]iB$", row[1]);
            Assert.Matches("^[0-9.]+ [MB]$", row[2]);
            Assert.StartsWith("cpu (", row[3], StringComparison.Ordinal);
            Assert.Equal("1", row[4]);
            Assert.Matches(@"^[0-9]+\.[0-9]{2} ± [0-9]+\.[0-9]{2}$", row[6]);
        });
        Assert.Single(Lines(output).Select(line => line.Length).Distinct()); // columns stand in line
    }

    [Fact]
    public async Task Bandwidth_AddsWhatDecodesReadOfMemory()
    {
        (int exit, string output, _) = await Run("throughput", "-p", "8", "-n", "4", "-r", "2", "-t", "1", "--bandwidth");
        Assert.Equal(Cli.Success, exit);
        string[][] cells = Cells(output);
        Assert.Equal(["weights GB/s", "memory GB/s", "share"], cells[0][7..]);
        Assert.Equal(["", "", ""], cells[2][7..]); // a prompt is bound by arithmetic
        Assert.Matches("^[0-9]+ %$", cells[3][9]);
    }

    [Fact]
    public async Task Batches_HaveLlamaBatchedBenchsColumns()
    {
        (int exit, string output, _) = await Run("throughput", "-p", "8", "-n", "4", "-b", "1,3", "-r", "2", "-t", "1");
        Assert.Equal(Cli.Success, exit);
        string[][] cells = Cells(output);
        Assert.Equal(["PP", "TG", "B", "N_KV", "T_PP s", "S_PP t/s", "T_TG s", "S_TG t/s", "T s", "S t/s"], cells[0]);
        Assert.Equal([["8", "4", "1", "12"], ["8", "4", "3", "36"]], cells[2..].Select(row => row[..4]));
        Assert.All(cells[2..], row =>
        {
            double[] numbers = [.. row.Select(cell => double.Parse(cell, CultureInfo.InvariantCulture))];
            Assert.Equal(numbers[4] + numbers[6], numbers[8], 0.0021); // three roundings to a thousandth
        });
    }

    [Fact]
    public async Task Json_HasEverySample_AndTheMedian()
    {
        (int exit, string output, string error) = await Run("throughput", "-p", "8", "-n", "4", "-r", "3", "-t", "1", "-o", "json");
        Assert.Equal((Cli.Success, ""), (exit, error));
        JsonElement[] phases = [.. JsonDocument.Parse(output).RootElement.EnumerateArray()];
        Assert.Equal([(8, 0), (0, 4)], phases.Select(phase => (phase.GetProperty("n_prompt").GetInt32(), phase.GetProperty("n_gen").GetInt32())));
        Assert.All(phases, phase =>
        {
            double[] nanoseconds = Doubles(phase.GetProperty("samples_ns")), speeds = Doubles(phase.GetProperty("samples_ts"));
            Assert.Equal((3, 3), (nanoseconds.Length, speeds.Length));
            Assert.Equal(nanoseconds.Order().ElementAt(1), phase.GetProperty("median_ns").GetDouble());
            Assert.Equal(speeds.Average(), phase.GetProperty("avg_ts").GetDouble(), 1e-6 * speeds.Average());
            Assert.Equal(JsonValueKind.Null, phase.GetProperty("share_of_bandwidth").ValueKind);
        });

        (_, string lines, _) = await Run("throughput", "-p", "8", "-n", "4", "-r", "1", "-t", "1", "-o", "jsonl");
        Assert.Equal(["pp8", "tg4"], Lines(lines).Select(line => JsonDocument.Parse(line).RootElement.GetProperty("test").GetString()));
    }

    [Fact]
    public async Task TheCachesType_IsTold()
    {
        string[] cache = ["throughput", "-p", "8", "-n", "4", "-r", "1", "-t", "1", "--kv-cache-dtype", "q8_0"];
        (_, string lines, _) = await Run([.. cache, "-o", "jsonl"]);
        Assert.All(Lines(lines), line => Assert.Equal(("q8_0", "q8_0"), (JsonDocument.Parse(line).RootElement.GetProperty("type_k").GetString(), JsonDocument.Parse(line).RootElement.GetProperty("type_v").GetString())));

        (_, string table, _) = await Run(cache);
        Assert.Equal(["type_kv", "q8_0", "q8_0"], Cells(table).Where((_, row) => row != 1).Select(row => row[5]));

        (_, string batched, _) = await Run([.. cache, "-b", "2"]);
        Assert.Contains("q8_0 cache", batched, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Csv_HasAsManyValuesAsNames()
    {
        (_, string output, _) = await Run("throughput", "-p", "8", "-n", "0", "-r", "1", "-t", "1", "-o", "csv");
        string[] lines = Lines(output);
        Assert.Equal(2, lines.Length);
        Assert.Equal(lines[0].Split(',').Length, Regex.Matches(lines[1], "\"([^\"]|\"\")*\"").Count);
        Assert.Contains("avg_ts", lines[0].Split(','));
    }

    [Theory]
    [InlineData("nothing to measure", "-p", "0", "-n", "0")]
    [InlineData("--n-prompt has 'x'", "-p", "x")]
    [InlineData("--n-prompt has ''", "-p", "1,,2")]
    [InlineData("--batch is 0; it must be from 1 to 16384", "-b", "0")]
    [InlineData("--repetitions is 0; it must be from 1 to 1000", "-r", "0")]
    [InlineData("--threads is 0", "-t", "0")]
    [InlineData("--model is empty", "-m", "")]
    [InlineData("'xml'", "-o", "xml")]
    [InlineData("'npu'", "--backend", "npu")]
    [InlineData("--device is '0', but --backend cpu has no devices", "--device", "0")]
    public async Task AWrongCommandLine_IsExplained_WithExitCode2(string expected, params string[] command)
    {
        (int exit, string output, string error) = await Run(["throughput", .. command]);
        Assert.Equal((Cli.Misused, ""), (exit, output));
        Assert.Contains(expected, error, StringComparison.Ordinal);
        Assert.DoesNotContain("   at ", error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task AModelThatIsNotThere_IsOneLine_WithExitCode1()
    {
        (int exit, string output, string error) = await Run("throughput", "-m", "/no/such/model.gguf");
        Assert.Equal((Cli.Failed, ""), (exit, output));
        Assert.Contains("/no/such/model.gguf", Assert.Single(Lines(error)), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("throughput")]
    [InlineData("peers")]
    [InlineData("serve")]
    [InlineData("kernels")]
    [InlineData("rings")]
    public async Task Help_TeachesByExamples(string command)
    {
        (int exit, string output, _) = await Run(command, "--help");
        Assert.Equal(Cli.Success, exit);
        Assert.Contains($"Examples:{Environment.NewLine}  dotnet run -c Release --project bench -- {command}", output, StringComparison.Ordinal);
        Assert.Contains("Exit codes:", output, StringComparison.Ordinal);
        (exit, output, _) = await Run();
        Assert.Equal(Cli.Misused, exit);
        Assert.Contains($"  {command}", output, StringComparison.Ordinal);
    }

    private static double[] Doubles(JsonElement array) => [.. array.EnumerateArray().Select(item => item.GetDouble())];
}
