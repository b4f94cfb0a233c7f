using System.Diagnostics;
using System.Globalization;
using System.Text;
using System.Text.Json;
using Native.Bench.Common;
using Native.Bench.Serve;
using Native.Bench.Throughput;
using Native.Tools;

namespace Native.Bench.Peers;

/// <summary>llama.cpp as the npm package node-llama-cpp brings it: one process with the model loaded, asked for one
/// measurement after the other.</summary>
/// <remarks>The script tells what is timed: llama_decode and llama_synchronize, without choosing a token.</remarks>
internal sealed class NodeLlamaCpp : IPeer
{
    private static readonly TimeSpan AnswerTime = TimeSpan.FromMinutes(10);

    private readonly Process _process;
    private readonly string _script;
    private readonly StringBuilder _errors = new();

    private NodeLlamaCpp(Process process, string script)
    {
        (_process, _script) = (process, script);
        process.ErrorDataReceived += (_, line) =>
        {
            if (line.Data is not null) lock (_errors) _errors.AppendLine(line.Data);
        };
        process.BeginErrorReadLine();
    }

    public string Name => "llama.cpp";

    public string Description { get; private set; } = "";

    /// <summary>Starts it and loads the model.</summary>
    /// <param name="node">The program.</param>
    /// <param name="modules">The folder node_modules with the package.</param>
    /// <param name="model">A GGUF file.</param>
    /// <param name="threads">Threads that compute.</param>
    /// <param name="vocabulary">Ids are below this.</param>
    /// <param name="tests">What will be asked.</param>
    /// <param name="ct">Gives up.</param>
    /// <exception cref="CommandException">There is no Node.js, or llama.cpp does not take the model.</exception>
    public static async Task<NodeLlamaCpp> StartAsync(string node, string modules, string model, int threads,
        int vocabulary, IReadOnlyList<ThroughputTest> tests, CancellationToken ct)
    {
        // A file, as the package starts itself once more to try its library, with the same arguments.
        string script = Path.Combine(Path.GetTempPath(), $"native-{Guid.NewGuid():N}.mjs");
        using (Stream source = typeof(NodeLlamaCpp).Assembly.GetManifestResourceStream("node-llama-cpp.mjs")!)
        using (FileStream file = File.Create(script)) await source.CopyToAsync(file, ct);
        string configuration = JsonSerializer.Serialize(new
        {
            modules,
            model = Path.GetFullPath(model),
            threads,
            vocabulary,
            contexts = tests.GroupBy(test => test.Batch)
                .Select(batch => new { sequences = batch.Key, length = batch.Max(test => test.Length) }),
        });
        NodeLlamaCpp peer;
        try
        {
            peer = new(ChildProcess.Start(node, [script, configuration], ("UV_THREADPOOL_SIZE", "1")), script);
        }
        catch (CommandException e)
        {
            File.Delete(script);
            throw new CommandException(
                $"{e.Message}; llama.cpp by npm needs Node.js 20 or later on the PATH, or compare with --llama-bench "
                    + "PATH");
        }
        try
        {
            JsonElement ready = await peer.ReadAsync("ready", ct);
            peer.Description = string.Create(CultureInfo.InvariantCulture,
                $"node-llama-cpp {NodeModules.VersionIn(modules)}, "
                    + $"llama.cpp {ready.GetProperty("release").GetString()}, {threads} threads, flash attention "
                    + $"auto, no sampling; {ready.GetProperty("system").GetString()}");
            return peer;
        }
        catch
        {
            await peer.DisposeAsync();
            throw;
        }
    }

    public async Task<double?> MeasureAsync(ThroughputTest test, CancellationToken ct)
    {
        string command =
            JsonSerializer.Serialize(
                new
                {
                    tokens = test.Prompt
                    + test.Generate,
                    batch = test.Batch,
                    depth = test.Depth,
                    decodes = test.Generate > 0
                });
        try
        {
            await _process.StandardInput.WriteLineAsync(command.AsMemory(), ct);
            await _process.StandardInput.FlushAsync(ct);
        }
        catch (IOException)
        {
            // It has ended, and says why below.
        }
        return (await ReadAsync("seconds", ct)).GetDouble();
    }

    public async ValueTask DisposeAsync()
    {
        if (!_process.HasExited) _process.Kill(entireProcessTree: true);
        await _process.WaitForExitAsync();
        _process.Dispose();
        File.Delete(_script);
    }

    /// <summary>The next line's value of this name.</summary>
    private async Task<JsonElement> ReadAsync(string name, CancellationToken ct)
    {
        using CancellationTokenSource limited = CancellationTokenSource.CreateLinkedTokenSource(ct);
        limited.CancelAfter(AnswerTime);
        string? line;
        try
        {
            line = await _process.StandardOutput.ReadLineAsync(limited.Token);
        }
        catch (OperationCanceledException) when (!ct.IsCancellationRequested)
        {
            throw new CommandException($"node-llama-cpp had not answered after {AnswerTime.TotalMinutes:0} minutes");
        }
        if (line is null)
        {
            await _process.WaitForExitAsync(ct);
            throw new CommandException($"node-llama-cpp ended with exit code {_process.ExitCode}: {Told()}");
        }
        try
        {
            JsonElement answer = JsonSerializer.Deserialize<JsonElement>(line);
            if (answer.TryGetProperty("error", out JsonElement error))
                throw new CommandException($"node-llama-cpp: {error.GetString()} ({Told()})");
            return answer.GetProperty(name);
        }
        catch (Exception e) when (e is JsonException or KeyNotFoundException or InvalidOperationException)
        {
            throw new CommandException(
                $"node-llama-cpp answered '{line}'; a line of JSON with \"{name}\" was expected");
        }
    }

    private string Told()
    {
        lock (_errors) return ChildProcess.End(_errors.ToString());
    }
}
