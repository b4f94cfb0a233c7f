using System.Globalization;
using System.Text.Json;
using Native.Bench.Common;
using Native.Bench.Serve;
using Native.Bench.Throughput;
using Native.Tools;

namespace Native.Bench.Peers;

/// <summary>A llama-bench of llama.cpp or ik_llama.cpp, built for this machine: a process for each measurement, and
/// llama-batched-bench for batches where that lies beside it.</summary>
internal sealed class LlamaBench : IPeer
{
    private const int CellPadding = 256; // llama.cpp rounds each sequence's cache up to this

    private static readonly TimeSpan RunTime = TimeSpan.FromMinutes(10);

    private readonly string _named, _program, _model;
    private readonly string? _batched;
    private readonly int _threads;
    private string _version = "";

    /// <param name="program">Path of llama-bench.</param>
    /// <param name="model">A GGUF file.</param>
    /// <param name="threads">Threads that compute.</param>
    /// <param name="name">Its name in the report.</param>
    public LlamaBench(string program, string model, int threads, string name)
    {
        (_named, _program, _model, _threads, Name) =
            (program, Path.GetFullPath(program), Path.GetFullPath(model), threads, name);
        string beside =
            Path.Combine(Path.GetDirectoryName(_program)!, "llama-batched-bench" + Path.GetExtension(program));
        _batched = File.Exists(beside) ? beside : null;
    }

    public string Name { get; }

    public string Description =>
        string.Create(CultureInfo.InvariantCulture,
            $"{_named}{_version}, {_threads} threads, no sampling{(_batched is null ? "; no llama-batched-bench "
                + "beside it, so no batches" : "")}");

    /// <summary>Names for several of them: the folder of the checkout they were built in.</summary>
    /// <param name="programs">Their paths.</param>
    /// <param name="taken">Names there are already.</param>
    public static string[] Names(IReadOnlyList<string> programs, IEnumerable<string> taken)
    {
        List<string> names = [.. taken];
        int before = names.Count;
        foreach (string program in programs)
        {
            string[] folders =
                Path.GetDirectoryName(Path.GetFullPath(program))!.Split(Path.DirectorySeparatorChar,
                    StringSplitOptions.RemoveEmptyEntries);
            string name =
                folders.LastOrDefault(
                    folder => !(folder is "bin" or "Release") && !folder.StartsWith("build", StringComparison.Ordinal))
                    ?? "llama-bench";
            string unique = name;
            for (int i = 2; names.Contains(unique); i++)
                unique = string.Create(CultureInfo.InvariantCulture, $"{name} {i}");
            names.Add(unique);
        }
        return [.. names.Skip(before)];
    }

    public async Task<double?> MeasureAsync(ThroughputTest test, CancellationToken ct)
    {
        string[] common = ["-m", _model, "-t", $"{_threads}", "-ngl", "0"];
        if (test.Batch == 1)
        {
            string[] depth = test.Depth > 0 ? ["-d", $"{test.Depth}"] : []; // not every llama-bench knows it
            (string json, _) =
                await ChildProcess.RunAsync(_program,
                    [.. common, "-p", $"{test.Prompt}", "-n", $"{test.Generate}", .. depth, "-r", "1", "-o", "json"],
                    RunTime, ct);
            (double seconds, _version) = Read(json, test, _program);
            return seconds;
        }
        if (_batched is null) return null;
        int prompt = Math.Max(test.Depth, 1); // it computes no batch without one
        int cells = (prompt + test.Generate + CellPadding - 1) / CellPadding * CellPadding * test.Batch;
        (string table, string log) =
            await ChildProcess.RunAsync(_batched,
                [.. common, "-c", $"{cells}", "-npp", $"{prompt}", "-ntg", $"{test.Generate}", "-npl", $"{test.Batch}"],
                RunTime, ct);
        return ReadBatched(table + "\n" + log, test, _batched); // ik_llama.cpp writes its table to the errors
    }

    public ValueTask DisposeAsync() => ValueTask.CompletedTask;

    /// <summary>Seconds of a test in llama-bench's JSON, and the build in words.</summary>
    /// <exception cref="CommandException">It is not there; says what is.</exception>
    internal static (double Seconds, string Version) Read(string json, ThroughputTest test, string program)
    {
        try
        {
            using JsonDocument results = JsonDocument.Parse(json);
            foreach (JsonElement result in results.RootElement.EnumerateArray())
            {
                if (result.GetProperty("n_prompt").GetInt32() != test.Prompt
                    || result.GetProperty("n_gen").GetInt32() != test.Generate) continue;
                string build =
                    result.TryGetProperty("build_commit", out JsonElement commit)
                        ? $", build {(result.TryGetProperty("build_number", out JsonElement number) ? $"{number} " : "")}({commit})" : "";
                double nanoseconds = result.GetProperty("avg_ns").GetDouble();
                return nanoseconds > 0 ? (nanoseconds / 1e9, build)
                    : throw new CommandException($"{program} wrote avg_ns {nanoseconds}; more than 0 was expected");
            }
            throw new CommandException(
                $"{program} wrote no result with n_prompt {test.Prompt} and n_gen {test.Generate}: {Shortened(json)}");
        }
        catch (Exception e) when (e is JsonException or KeyNotFoundException or InvalidOperationException
            or FormatException)
        {
            throw new CommandException(
                $"{program} wrote what is not llama-bench's JSON (an array of objects with n_prompt, n_gen and "
                    + $"avg_ns): {Shortened(json)}");
        }
    }

    /// <summary>Seconds of a batch's steps in llama-batched-bench's table: T_TG, by its heading.</summary>
    /// <exception cref="CommandException">It is not there.</exception>
    internal static double ReadBatched(string table, ThroughputTest test, string program)
    {
        string[][] rows =
            [.. table.Split('\n').Where(line => line.StartsWith('|'))
                .Select(line => line.Trim().Trim('|').Split('|', StringSplitOptions.TrimEntries))];
        string[] heading = rows.FirstOrDefault(row => row.Contains("T_TG s")) ?? [];
        int steps = Array.IndexOf(heading, "TG"), batch = Array.IndexOf(heading, "B"),
            seconds = Array.IndexOf(heading, "T_TG s");
        if (steps >= 0 && batch >= 0)
        {
            foreach (string[] row in rows)
            {
                if (row.Length == heading.Length && row[steps] == test.Generate.ToString(CultureInfo.InvariantCulture)
                    && row[batch] == test.Batch.ToString(CultureInfo.InvariantCulture)
                    && double.TryParse(row[seconds], CultureInfo.InvariantCulture, out double value) && value > 0)
                    return value;
            }
        }
        throw new CommandException(
            $"{program} wrote no row of {test.Batch} sequences of {test.Generate} tokens with T_TG s above "
                + $"0: {Shortened(table)}");
    }

    private static string Shortened(string text) =>
        text.ReplaceLineEndings(" ") is var line && line.Length <= 300 ? line : line[..300] + "...";
}
