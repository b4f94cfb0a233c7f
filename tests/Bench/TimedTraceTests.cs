using System.Globalization;
using Native.Bench.Serve;
using Native.Tests.Kernels;
using Native.Tools;
using static Native.Tests.Bench.BenchRun;

namespace Native.Tests.Bench;

/// <summary>vLLM's timed traces, and <c>serve</c> sending them.</summary>
public sealed class TimedTraceTests
{
    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Serve_SendsEveryLineAtItsTime_WithItsLengths()
    {
        using TemporaryFolder folder = new();
        string trace = Path.Combine(folder.Path, "trace.jsonl");
        await File.WriteAllTextAsync(trace, """
            {"timestamp": 27000, "input_length": 40, "output_length": 5, "hash_ids": [1, 2, 3]}
            {"timestamp": 27300, "input_length": 33, "output_length": 6, "hash_ids": [1, 2, 4], "more": true}

            {"timestamp": 27100, "input_length": 16, "output_length": 7, "hash_ids": [5]}
            """, Token);
        await using FakeServer server = await FakeServer.StartAsync();
        (int exit, _, string error) = await Run("serve", "--url", server.Url.ToString(), "--dataset-name",
            "timed_trace", "--file", trace, "--timed-trace-sec-multiplier", "0.001", "--num-warmups", "1");
        Assert.True(exit == 0, error);
        Assert.Equal([64, 5, 7, 6], server.Bodies.Select(body => body.GetProperty("max_tokens").GetInt32()));
        string[][] words = [.. server.Bodies.Select(body => body.GetProperty("prompt").GetString()!.Split(' '))];
        Assert.Equal([40, 16, 33], words[1..].Select(prompt => prompt.Length));
        Assert.Equal(words[1][..32], words[3][..32]); // blocks 1 and 2
        Assert.NotEqual(words[1][32..33], words[3][32..33]);
        long[] received = [.. server.Log.Select(entry => entry.Received)];
        Assert.True(System.Diagnostics.Stopwatch.GetElapsedTime(received[1], received[3]).TotalSeconds > 0.25);
    }

    [Fact]
    public async Task NumPrompts_TakesTheFirstLines()
    {
        using TemporaryFolder folder = new();
        string trace = Path.Combine(folder.Path, "trace.jsonl");
        TimedTrace.Write(trace,
            Enumerable.Range(0, 200).Select(i => new TimedRequest(i / 1000.0, 10 + i, 1 + i, Ids(10 + i))));
        Assert.Equal(200, TimedTrace.Read(trace, int.MaxValue, 16).Count);
        await using FakeServer server = await FakeServer.StartAsync();
        (int exit, string output, string error) = await Run("serve", "--url", server.Url.ToString(), "--dataset-name",
            "timed_trace", "--file", trace, "--num-prompts", "7", "--num-warmups", "0");
        Assert.True(exit == 0, error);
        Assert.Contains("Successful requests:                     7         ", Lines(output));

        static long[] Ids(int tokens) => [.. Enumerable.Range(0, (tokens + 15) / 16).Select(i => (long)i)];
    }

    [Fact]
    public void NumbersAreWrittenAlike_InEveryCulture()
    {
        using TemporaryFolder folder = new();
        string trace = Path.Combine(folder.Path, "trace.jsonl");
        CultureInfo before = CultureInfo.CurrentCulture;
        try
        {
            CultureInfo.CurrentCulture = new CultureInfo("")
            {
                NumberFormat = { NumberDecimalSeparator = ",", NumberGroupSeparator = "." },
            };
            TimedTrace.Write(trace, [new TimedRequest(1.5, 20, 3, [7, 8])]);
        }
        finally
        {
            CultureInfo.CurrentCulture = before;
        }
        Assert.Equal("""{"timestamp":1.5,"input_length":20,"output_length":3,"hash_ids":[7,8]}""" + "\n",
            File.ReadAllText(trace));
    }

    [Theory]
    [InlineData("{", "line 1")]
    [InlineData("""{"timestamp": 1, "input_length": 0, "output_length": 1, "hash_ids": []}""", "above 0")]
    [InlineData("""{"timestamp": -1, "input_length": 1, "output_length": 1, "hash_ids": [1]}""", "from 0")]
    [InlineData("""{"timestamp": 1, "input_length": 1, "output_length": 1}""", "hash_ids are expected")]
    [InlineData("""{"timestamp": 1, "input_length": 17, "output_length": 1, "hash_ids": [1]}""",
        "--timed-trace-chunk-hash-size")]
    [InlineData("", "has no request")]
    public async Task ALineThatIsNoRequest_IsTold(string line, string expected)
    {
        using TemporaryFolder folder = new();
        string trace = Path.Combine(folder.Path, "trace.jsonl");
        await File.WriteAllTextAsync(trace, line + "\n", Token);
        CommandException told =
            Assert.Throws<CommandException>(() => TimedTrace.Read(trace, int.MaxValue, 16));
        Assert.Contains(expected, told.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("has its own times", "--file", "x", "--request-rate", "2")]
    [InlineData("has its own times", "--file", "x", "--sweep", "1,2")]
    [InlineData("--file goes with")]
    public async Task WhatDoesNotGoWithATrace_IsRefused(string expected, params string[] options)
    {
        using TemporaryFolder folder = new();
        string trace = Path.Combine(folder.Path, "trace.jsonl");
        TimedTrace.Write(trace, [new TimedRequest(0, 1, 1, [1])]);
        (int exit, _, string error) = await Run(["serve", "--url", "http://127.0.0.1:1", "--dataset-name",
            "timed_trace", .. options.Select(option => option == "x" ? trace : option)]);
        Assert.Equal(Cli.Misused, exit);
        Assert.Contains(expected, error, StringComparison.Ordinal);
    }
}
