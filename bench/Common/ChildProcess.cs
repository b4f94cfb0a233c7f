using System.ComponentModel;
using System.Diagnostics;
using Native.Tools;

namespace Native.Bench.Common;

/// <summary>Programs that are run beside this one.</summary>
internal static class ChildProcess
{
    /// <summary>Starts one whose output and errors are read; its input stays open. It works in the folder for temporary
    /// files, where those may write their logs that write them where they are: paths in its arguments are
    /// absolute.</summary>
    /// <exception cref="CommandException">There is no such program.</exception>
    public static Process Start(
        string program, IEnumerable<string> arguments, params (string Name, string Value)[] environment)
    {
        ProcessStartInfo start = new(program)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = Path.GetTempPath(),
        };
        foreach (string argument in arguments) start.ArgumentList.Add(argument);
        foreach ((string name, string value) in environment) start.Environment[name] = value;
        try
        {
            return Process.Start(start) ?? throw new CommandException($"{program} could not be started");
        }
        catch (Win32Exception e)
        {
            throw new CommandException($"{program} could not be started: {e.Message}");
        }
    }

    /// <summary>Runs one to its end.</summary>
    /// <returns>What it wrote to its output, and to its errors.</returns>
    /// <exception cref="CommandException">There is no such program, it took too long, or it ended with another exit
    /// code than 0; then with the end of what it wrote to its errors.</exception>
    public static async Task<(string Output, string Errors)> RunAsync(
        string program, IReadOnlyList<string> arguments, TimeSpan limit, CancellationToken ct)
    {
        using Process process = Start(program, arguments);
        using CancellationTokenSource limited = CancellationTokenSource.CreateLinkedTokenSource(ct);
        limited.CancelAfter(limit);
        try
        {
            process.StandardInput.Close();
            Task<string> output = process.StandardOutput.ReadToEndAsync(limited.Token),
                errors = process.StandardError.ReadToEndAsync(limited.Token);
            await process.WaitForExitAsync(limited.Token);
            return process.ExitCode == 0 ? (await output, await errors)
                : throw new CommandException(
                    $"{program} {string.Join(' ', arguments)} ended with exit "
                        + $"code {process.ExitCode}: {End(await errors)}");
        }
        catch (OperationCanceledException) when (!ct.IsCancellationRequested)
        {
            throw new CommandException(
                $"{program} {string.Join(' ', arguments)} had not ended after {limit.TotalSeconds:0} s");
        }
        finally
        {
            if (!process.HasExited) process.Kill(entireProcessTree: true);
        }
    }

    /// <summary>The last lines, which mostly tell what was wrong.</summary>
    public static string End(string text) =>
        string.Join(" / ",
            text.Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries)
                .TakeLast(4)) is { Length: > 0 } end ? end : "it does not tell why";
}
