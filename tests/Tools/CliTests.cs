using System.Globalization;
using System.Text.Json;
using Native.Tools;

namespace Native.Tests.Tools;

/// <summary>The commands as they are typed, on a real model of 260,000 parameters, with their output
/// captured.</summary>
public sealed class CliTests
{
    private const string Stories = "models/stories260K/stories260K-F32.gguf";

    [Fact]
    public async Task Generate_OfIds_PrintsTheGoldenIdsAndText()
    {
        JsonElement run = GoldenRun(0);
        int[] golden = Ints(run.GetProperty("input_ids"));
        // The golden ids begin with the prompt's four words and their begin token.
        (int exit, string output, string error) = await Run("generate", "--model", TestData.Path(Stories), "--ids", string.Join(',', golden[..5]), "--max-tokens", "60", "--json", "--kv-cache-dtype", "f32");
        Assert.Equal((Cli.Success, ""), (exit, error));
        JsonElement result = OneJson(output);
        Assert.Equal(golden[5..65], Ints(result.GetProperty("ids")));
        Assert.StartsWith("Once upon a time" + result.GetProperty("text").GetString(), run.GetProperty("text").GetString(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Generate_OfText_StreamsWhatJsonTells()
    {
        string model = TestData.Path(Stories);
        (_, string json, _) = await Run("generate", "-m", model, "-p", "Once upon a time", "-n", "20", "--json");
        (int exit, string plain, _) = await Run("generate", "-m", model, "-p", "Once upon a time", "-n", "20");
        (_, string piped, _) = await Run("generate", "-m", model, "-n", "20", Input("Once upon a time\n"));
        Assert.Equal(Cli.Success, exit);
        Assert.Equal(OneJson(json).GetProperty("text").GetString() + Environment.NewLine, plain);
        Assert.Equal(plain, piped);
    }

    [Fact]
    public async Task Generate_StopsBeforeTheStopText_AndRepeatsItselfWithTheSameSeed()
    {
        string model = TestData.Path(Stories);
        string[] command = ["generate", "-m", model, "-p", "Once upon a time", "-n", "60", "--temperature", "0.9", "--seed", "7"];
        (_, string first, _) = await Run(command);
        (_, string second, _) = await Run(command);
        Assert.Equal(first, second);
        (_, string stopped, _) = await Run("generate", "-m", model, "-p", "Once upon a time", "-n", "60", "--stop", "Lily", "--stop", "park");
        Assert.Equal(", there was a little girl named " + Environment.NewLine, stopped);
    }

    [Fact]
    public async Task Numbers_AreReadAndWrittenAlike_InEveryCulture()
    {
        string[][] commands =
        [
            ["generate", "-m", TestData.Path(Stories), "-p", "Once upon a time", "-n", "20", "--temperature", "0.7", "--top-p", "0.5", "--seed", "1"],
            ["generate", "--top-p", "1.5", "-p", "a"],
            ["chat", "--help"],
        ];
        foreach (string[] command in commands)
        {
            (int Exit, string Output, string Error) expected = await Run(command);
            CultureInfo before = CultureInfo.CurrentCulture;
            CultureInfo.CurrentCulture = Server.CommandLineTests.Comma;
            try
            {
                Assert.Equal(expected, await Run(command));
            }
            finally
            {
                CultureInfo.CurrentCulture = before;
            }
        }
    }

    [Fact]
    public async Task Logits_HasTheGoldensShape_AndAgreesWithThem()
    {
        JsonElement run = GoldenRun(0);
        int[] ids = Ints(run.GetProperty("input_ids"))[..16];
        (int exit, string output, _) = await Run("logits", "--model", TestData.Path(Stories), "--ids", string.Join(',', ids), "--json", "--kv-cache-dtype", "f32");
        Assert.Equal(Cli.Success, exit);
        JsonElement result = OneJson(output);
        Assert.Equal(["ids", "logprob_of_next", "last_top"], result.EnumerateObject().Select(member => member.Name));
        Assert.Equal(ids, Ints(result.GetProperty("ids")));

        // The goldens have logits: differences of log-probabilities are those of logits.
        JsonElement logits = run.GetProperty("top5_logits_per_position")[ids.Length - 1];
        JsonElement top = result.GetProperty("last_top");
        Assert.Equal(8, top.GetArrayLength());
        for (int i = 0; i < 5; i++)
        {
            Assert.Equal(logits[i][0].GetInt32(), top[i][0].GetInt32());
            Assert.Equal(logits[i][1].GetDouble() - logits[0][1].GetDouble(), top[i][1].GetDouble() - top[0][1].GetDouble(), 1e-3);
        }
        JsonElement scored = result.GetProperty("logprob_of_next");
        Assert.Equal(ids.Length - 1, scored.GetArrayLength());
        (_, output, _) = await Run("logits", "--model", TestData.Path(Stories), "--ids", string.Join(',', ids[..^1]), "--json", "--kv-cache-dtype", "f32", "--top", "20");
        JsonElement before = OneJson(output).GetProperty("last_top").EnumerateArray().First(pair => pair[0].GetInt32() == ids[^1]);
        Assert.Equal(before[1].GetDouble(), scored[ids.Length - 2].GetDouble(), 1e-4);
    }

    [Theory]
    [InlineData("ins", "inspect")]
    [InlineData("quantize --ty", "--type")]
    [InlineData("quantize --type Q4_K_", "Q4_K_M")]
    public async Task AShellThatCompletes_IsTold(string line, string expected)
    {
        (int exit, string output, _) = await Run($"[suggest:{line.Length}]", line);
        Assert.Equal(Cli.Success, exit);
        Assert.Contains(expected, output.Split(Environment.NewLine));
    }

    [Fact]
    public async Task Tokenize_PrintsIdsAndPieces()
    {
        string model = TestData.Path(Stories);
        (int exit, string output, _) = await Run("tokenize", "--model", model, "--prompt", "Once upon a time", "--json");
        Assert.Equal(Cli.Success, exit);
        JsonElement result = OneJson(output);
        Assert.Equal(Ints(GoldenRun(0).GetProperty("input_ids"))[..5], Ints(result.GetProperty("ids")));
        Assert.Equal(5, result.GetProperty("pieces").GetArrayLength());

        (_, string plain, _) = await Run("tokenize", "--model", model, "--prompt", "Once upon a time", "--plain");
        Assert.Equal(4, plain.Split('\n', StringSplitOptions.RemoveEmptyEntries).Length); // without the begin token
        (_, string shown, _) = await Run("tokenize", "--model", model, "--prompt", "a\nb", AsTerminal());
        Assert.Contains("\\u000a", shown, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Perplexity_FollowsLlamaCppsProtocol()
    {
        string model = TestData.Path(Stories);
        string text = string.Join(' ', Enumerable.Repeat("Once upon a time, there was a little girl named Lily. She loved to play outside in the park.", 8));
        string file = Path.Combine(Path.GetTempPath(), $"native-{Guid.NewGuid():N}.txt");
        await File.WriteAllTextAsync(file, text, TestContext.Current.CancellationToken);
        try
        {
            (int exit, string output, string error) = await Run("perplexity", "--model", model, "--file", file, "--ctx", "32", "--chunks", "3", "--json", "--kv-cache-dtype", "f32");
            Assert.Equal((Cli.Success, ""), (exit, error));
            JsonElement result = OneJson(output);

            // The same by logits: three windows, the begin token first in each, ids 17 to 31 scored.
            (_, output, _) = await Run("tokenize", "--model", model, "--prompt", text, "--json");
            int[] ids = Ints(OneJson(output).GetProperty("ids"));
            double sum = 0;
            List<double> running = [];
            for (int window = 0; window < 3; window++)
            {
                int[] part = ids[(window * 32)..((window + 1) * 32)];
                part[0] = 1;
                (_, output, _) = await Run("logits", "--model", model, "--ids", string.Join(',', part), "--json", "--kv-cache-dtype", "f32");
                sum -= OneJson(output).GetProperty("logprob_of_next").EnumerateArray().Skip(16).Sum(value => value.GetDouble());
                running.Add(Math.Exp(sum / (15 * (window + 1))));
            }
            Assert.Equal(45, result.GetProperty("scored").GetInt32());
            Assert.Equal(3, result.GetProperty("windows").GetInt32());
            for (int i = 0; i < 3; i++) Assert.Equal(running[i], result.GetProperty("running")[i].GetDouble(), running[i] * 1e-4);
            Assert.Equal(result.GetProperty("running")[2].GetDouble(), result.GetProperty("perplexity").GetDouble());
            Assert.True(result.GetProperty("error").GetDouble() > 0);

            (_, string lines, _) = await Run("perplexity", "--model", model, "--file", file, "--ctx", "32", "--chunks", "3", "--kv-cache-dtype", "f32");
            string[] printed = lines.Split('\n', StringSplitOptions.RemoveEmptyEntries);
            Assert.Equal(4, printed.Length);
            Assert.StartsWith(string.Create(CultureInfo.InvariantCulture, $"[1/3] {result.GetProperty("running")[0].GetDouble():0.0000}"), printed[0], StringComparison.Ordinal);
            Assert.StartsWith("perplexity ", printed[3], StringComparison.Ordinal);

            (exit, _, error) = await Run("perplexity", "--model", model, "--file", file, "--ctx", "500");
            Assert.Equal(Cli.Failed, exit);
            Assert.Contains("fewer than one window of 500", error, StringComparison.Ordinal);
        }
        finally
        {
            File.Delete(file);
        }
    }

    [Fact]
    public async Task Chat_OfAModelWithoutTemplate_SaysSo()
    {
        (int exit, string output, string error) = await Run("chat", "--model", TestData.Path(Stories), Input("Hello\n"));
        Assert.Equal((Cli.Failed, ""), (exit, output));
        Assert.Contains("no chat template", error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Chat_AnswersEachLine_RemembersUntilReset_AndEndsAtExit()
    {
        string model = TestData.Path("models/SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
        string[] options = ["chat", "--model", model, "--temperature", "0", "--max-tokens", "8", "--max-model-len", "512"];
        (int exit, string first, string error) = await Run([.. options, Input("My name is Ada. Say hello.\n")]);
        Assert.Equal((Cli.Success, ""), (exit, error));
        Assert.True(first.Trim().Length > 0);

        (exit, string both, error) = await Run([.. options, Input("My name is Ada. Say hello.\n/reset\nMy name is Ada. Say hello.\n/exit\nnever read\n")]);
        Assert.Equal((Cli.Success, ""), (exit, error));
        Assert.Equal(first + first, both); // after /reset it is the same conversation, and nothing follows /exit

        (_, string unknown, error) = await Run([.. options, Input("/what\n")]);
        Assert.Equal("", unknown);
        Assert.Contains("/what is none of /exit, /reset", error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("'nonsense'", "nonsense")]
    [InlineData("--wrong", "generate", "--prompt", "x", "--wrong")]
    [InlineData("exclude each other", "generate", "--model", "m", "--prompt", "x", "--ids", "1")]
    [InlineData("'1;2'", "generate", "--model", "m", "--ids", "1;2")]
    [InlineData("--ids is empty", "logits", "--model", "m", "--ids", ",")]
    [InlineData("logits needs --prompt or --ids", "logits", "--model", "m")]
    [InlineData("temperature is NaN", "generate", "--model", "m", "--prompt", "x", "--temperature", "NaN")]
    [InlineData("top_p is 2", "generate", "--model", "m", "--prompt", "x", "--top-p", "2", "--min-p", "-1")]
    [InlineData("min_p is -1", "generate", "--model", "m", "--prompt", "x", "--top-p", "2", "--min-p", "-1")]
    [InlineData("--threads is 0", "chat", "--threads", "0")]
    [InlineData("--max-model-len is -5", "chat", "--max-model-len", "-5")]
    [InlineData("auto", "chat", "--backend", "npu")]
    [InlineData("--device is '1', but --backend cpu has no devices", "chat", "--backend", "cpu", "--device", "1")]
    [InlineData("--device is empty", "generate", "--model", "m", "--prompt", "x", "--device", "")]
    [InlineData("--gpu-memory-utilization is 1.1; it must be above 0", "chat", "--gpu-memory-utilization", "1.1")]
    [InlineData("--gpu-memory-utilization is '0,9'; it must be a number, such as 0.9", "chat",
        "--gpu-memory-utilization", "0,9")]
    [InlineData("--temperature is '0,7'; it must be a number", "generate", "--prompt", "x", "--temperature", "0,7")]
    [InlineData("--top-p is 'x'; it must be a number", "generate", "--prompt", "x", "--top-p", "x")]
    [InlineData("--backend cpu has no GPU's memory", "chat", "--backend", "cpu", "--gpu-memory-utilization", "0.5")]
    [InlineData("--kv-cache-dtype is fp8, which GPUs alone keep, but --backend is cpu", "chat", "--backend", "cpu",
        "--kv-cache-dtype", "fp8")]
    [InlineData("--kv-cache-dtype is fp8, which GPUs alone keep, but --backend-fallback is cpu", "chat",
        "--backend-fallback", "cpu", "--kv-cache-dtype", "fp8")]
    [InlineData("--variant is Avx2, but --backend cuda has no such instructions", "perplexity", "--file", "x",
        "--backend", "cuda", "--variant", "Avx2")]
    [InlineData("cuda", "chat", "--backend-fallback", "cuda")]
    [InlineData("--file", "perplexity", "--model", "m")]
    [InlineData("q3", "chat", "--kv-cache-dtype", "q3")]
    [InlineData("--stop is empty", "generate", "--model", "m", "--prompt", "x", "--stop", "")]
    public async Task AWrongCommandLine_IsExplained_WithExitCode2(string expected, params string[] command)
    {
        (int exit, string output, string error) = await Run(command);
        Assert.Equal((Cli.Misused, ""), (exit, output));
        Assert.Contains(expected, error, StringComparison.Ordinal);
        Assert.DoesNotContain("   at ", error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task WhatCannotBeDone_IsOneLine_WithExitCode1()
    {
        (int exit, string output, string error) = await Run("generate", "--model", "/no/such/model.gguf", "--prompt", "x");
        Assert.Equal((Cli.Failed, ""), (exit, output));
        Assert.Single(error.Split('\n', StringSplitOptions.RemoveEmptyEntries));
        Assert.Contains("/no/such/model.gguf", error, StringComparison.Ordinal);

        string file = Path.Combine(Path.GetTempPath(), $"native-{Guid.NewGuid():N}.gguf");
        await File.WriteAllTextAsync(file, "this is no model", TestContext.Current.CancellationToken);
        (exit, _, error) = await Run("tokenize", "--model", file, "--prompt", "x");
        File.Delete(file);
        Assert.Equal(Cli.Failed, exit);
        Assert.Contains(file, error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task IdsOutsideTheVocabulary_AndTooLongPrompts_AreRefused()
    {
        string model = TestData.Path(Stories);
        (int exit, _, string error) = await Run("logits", "--model", model, "--ids", "1,100000", "--json");
        Assert.Equal(Cli.Misused, exit);
        Assert.Contains("100000", error, StringComparison.Ordinal);
        (exit, _, error) = await Run("generate", "--model", model, "--ids", "1,2,3,4", "--max-model-len", "4");
        Assert.Equal(Cli.Failed, exit);
        Assert.Contains("4 tokens", error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("chat")]
    [InlineData("generate")]
    [InlineData("tokenize")]
    [InlineData("logits")]
    [InlineData("perplexity")]
    public async Task Help_TeachesByExamples(string command)
    {
        (int exit, string output, _) = await Run(command, "--help");
        Assert.Equal(Cli.Success, exit);
        Assert.Contains($"Examples:{Environment.NewLine}  dotnet run -c Release --project tools -- {command}", output, StringComparison.Ordinal);
        Assert.Contains("--model", output, StringComparison.Ordinal);
        Assert.Contains("Exit codes:", output, StringComparison.Ordinal);
    }

    [Fact]
    public async Task CtrlC_StopsTheAnswer_AndIsTheProgramsEndElsewhere()
    {
        using Terminal terminal = new(TextReader.Null, TextWriter.Null, TextWriter.Null);
        Assert.False(terminal.Interrupt());
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => terminal.InterruptibleAsync<int>(async ct =>
        {
            Assert.True(terminal.Interrupt());
            await Task.Delay(Timeout.Infinite, ct);
            return 0;
        }));
        Assert.False(terminal.Interrupt());
    }

    [Fact]
    public async Task SigTerm_EndsTheProgram_AlsoWhereTheWorkWouldGoOnAfterCtrlC()
    {
        using Terminal terminal = new(TextReader.Null, TextWriter.Null, TextWriter.Null);
        Assert.False(terminal.End(Cli.Terminated));
        Assert.Null(terminal.Ended);
        Assert.Equal(7, await terminal.InterruptibleAsync(ct => Task.FromResult(terminal.Interrupt() && ct.IsCancellationRequested ? 7 : 0)));
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => terminal.InterruptibleAsync(ct => Task.FromResult(terminal.End(Cli.Terminated) && ct.IsCancellationRequested ? 7 : 0)));
        Assert.Equal(Cli.Terminated, terminal.Ended);
    }

    [Fact]
    public async Task Progress_IsForTerminals()
    {
        StringWriter error = new();
        int result = await new Terminal(TextReader.Null, TextWriter.Null, error).ProgressAsync("Loading", report => Task.FromResult(report is null ? 1 : 0));
        Assert.Equal((1, ""), (result, error.ToString()));
        result = await new Terminal(TextReader.Null, TextWriter.Null, error) { ErrorIsTerminal = true }.ProgressAsync("Loading", report =>
        {
            report!(0.5, "half");
            return Task.FromResult(2);
        });
        Assert.Equal(2, result);
    }

    private const string InputMark = "\0input:";
    private const string TerminalMark = "\0terminal";

    /// <summary>Among a command's arguments: what stands on standard input.</summary>
    private static string Input(string text) => InputMark + text;

    /// <summary>Among a command's arguments: somebody reads the output.</summary>
    private static string AsTerminal() => TerminalMark;

    private static async Task<(int Exit, string Output, string Error)> Run(params string[] command)
    {
        string input = command.FirstOrDefault(part => part.StartsWith(InputMark, StringComparison.Ordinal))?[InputMark.Length..] ?? "";
        StringWriter output = new(CultureInfo.InvariantCulture), error = new(CultureInfo.InvariantCulture);
        using Terminal terminal = new(new StringReader(input), output, error) { OutIsTerminal = command.Contains(TerminalMark) };
        int exit = await Cli.RunAsync([.. command.Where(part => !part.StartsWith('\0'))], terminal);
        return (exit, output.ToString(), error.ToString());
    }

    private static JsonElement OneJson(string output)
    {
        Assert.EndsWith(Environment.NewLine, output, StringComparison.Ordinal);
        return JsonDocument.Parse(output).RootElement;
    }

    private static int[] Ints(JsonElement array) => [.. array.EnumerateArray().Select(item => item.GetInt32())];

    private static JsonElement GoldenRun(int index) =>
        JsonDocument.Parse(File.ReadAllText(TestData.Path("models/stories260K/golden.json"))).RootElement.GetProperty("runs")[index];
}
