using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Invocation;
using System.Globalization;
using Native.Kernels.Models;
using Native.Kernels.Text;
using Native.Server;
using Native.Server.Jinja;
using Native.Server.Serving;
using Native.Server.Slo;

namespace Native.Tools;

/// <summary>The command line's fault: told in one line, exit code 2.</summary>
internal sealed class UsageException(string message) : Exception(message);

/// <summary>What was asked for can't be done: told in one line, exit code 1.</summary>
internal sealed class CommandException(string message) : Exception(message);

/// <summary>The one entry of the tools and the benches: parses, runs a command, and turns what went wrong into one line
/// and an exit code.</summary>
internal static class Cli
{
    /// <summary>Exit code where all went well.</summary>
    public const int Success = 0;

    /// <summary>Exit code where a command could not do its work: no such file, bad model, text too long.</summary>
    public const int Failed = 1;

    /// <summary>Exit code for a command line that says nothing possible.</summary>
    public const int Misused = 2;

    /// <summary>Exit code after Ctrl-C, the shells' 128 + SIGINT.</summary>
    public const int Interrupted = 130;

    /// <summary>Exit code after SIGTERM, likewise.</summary>
    public const int Terminated = 143;

    /// <summary>Exit code after SIGHUP, likewise.</summary>
    public const int HungUp = 129;

    /// <summary>Runs one of the tools.</summary>
    /// <returns>The exit code.</returns>
    public static Task<int> RunAsync(string[] args, Terminal terminal)
    {
        RootCommand root = new("Tools around a language model: talk to it, run it, look inside it, measure it.");
        root.Add(new ChatCommand(terminal));
        root.Add(new GenerateCommand(terminal));
        root.Add(new TokenizeCommand(terminal));
        root.Add(new LogitsCommand(terminal));
        root.Add(new PerplexityCommand(terminal));
        root.Add(new InspectCommand(terminal));
        root.Add(new ConvertCommand(terminal));
        root.Add(new QuantizeCommand(terminal));
        root.Add(new QualityCommand(terminal));
        root.Add(new SynthCommand(terminal));
        root.Add(new PullCommand(terminal));
        root.Add(new SloCommand(terminal));
        root.Add(new TenantsCommand(terminal));
        return RunAsync(args, terminal, root, "tools", "chat", "generate --prompt \"Once upon a time\"",
            "perplexity --model model.gguf --file text.txt", "pull hf:ORG/REPO", "generate --help");
    }

    /// <summary>Runs one of <paramref name="root"/>'s commands.</summary>
    /// <param name="args">The command line.</param>
    /// <param name="terminal">Where it reads and writes.</param>
    /// <param name="root">All commands.</param>
    /// <param name="project">The project's folder, for the examples.</param>
    /// <param name="examples">What to type after the program's name, for the help that belongs to no command.</param>
    /// <returns>The exit code.</returns>
    public static async Task<int> RunAsync(string[] args, Terminal terminal, RootCommand root, string project,
        params string[] examples)
    {
        // Numbers are read and written alike on every machine.
        CultureInfo.CurrentCulture = CultureInfo.CurrentUICulture = CultureInfo.InvariantCulture;
        foreach (HelpOption help in root.Options.OfType<HelpOption>())
            help.Action = new HelpWithExamples((HelpAction)help.Action!, project, examples);

        ParseResult parsed =
            root.Parse(args.Length == 0 ? ["--help"] : args,
                new ParserConfiguration { EnablePosixBundling = false, ResponseFileTokenReplacer = null });
        if (parsed.Errors.Count > 0 && parsed.Action is not HelpWithExamples)
        {
            foreach (string mistake in parsed.Errors.Select(error => error.Message).Distinct())
                terminal.Error.WriteLine($"native: {mistake}");
            string command = parsed.CommandResult.Command == root ? "" : parsed.CommandResult.Command.Name + " ";
            terminal.Error.WriteLine($"native: {command}--help tells what can be said.");
            return Misused;
        }
        try
        {
            // Signals and exceptions are dealt with here, not by the library.
            int exit = await parsed.InvokeAsync(
                new InvocationConfiguration
                {
                    Output = terminal.Out,
                    Error = terminal.Error,
                    EnableDefaultExceptionHandler = false,
                    ProcessTerminationTimeout = null
                });
            return args.Length == 0 ? Misused : exit;
        }
        catch (OperationCanceledException)
        {
            terminal.Error.WriteLine("native: interrupted");
            return terminal.Ended ?? Interrupted;
        }
        catch (UsageException e)
        {
            terminal.Error.WriteLine($"native: {OneLine(e.Message)}");
            return Misused;
        }
        catch (ConfigFileException e)
        {
            foreach (string mistake in e.Mistakes) terminal.Error.WriteLine($"native: {OneLine(mistake)}");
            return Failed;
        }
        catch (Exception e) when (e is CommandException or IOException or InvalidDataException or NotSupportedException
            or UnauthorizedAccessException or OutOfMemoryException or ModelOptionsException or TextEncodingException
            or TemplateException)
        {
            terminal.Error.WriteLine($"native: {OneLine(e.Message)}");
            return Failed;
        }
    }

    private static string OneLine(string message) => message.ReplaceLineEndings(" ");

    /// <summary>The library's help, then the command's examples and what exit codes mean.</summary>
    private sealed class HelpWithExamples(HelpAction inner, string project, string[] ofRoot)
        : SynchronousCommandLineAction
    {
        public override bool ClearsParseErrors => true;

        public override int Invoke(ParseResult result)
        {
            // The list of commands has a sentence of each; its own help has the rest.
            if (result.CommandResult.Command is RootCommand root)
                foreach (Command command in root.Subcommands)
                    command.Description = command.Description!.Split(". ", 2)[0].TrimEnd('.') + '.';
            inner.Invoke(result);
            TextWriter output = result.InvocationConfiguration.Output;
            string[] examples = result.CommandResult.Command switch
            {
                ToolCommand tool => tool.Examples,
                RootCommand => ofRoot,
                var group => [.. group.Subcommands.OfType<ToolCommand>().SelectMany(tool => tool.Examples)],
            };
            output.WriteLine("Examples:");
            foreach (string example in examples)
                output.WriteLine($"  dotnet run -c Release --project {project} -- {example}");
            output.WriteLine();
            output.WriteLine(
                "Exit codes: 0 done; 1 could not be done (no such file, bad model, text too long, no answer); 2 wrong "
                    + "command line; 130 Ctrl-C; 143 SIGTERM; 129 SIGHUP.");
            return Success;
        }
    }
}

/// <summary>A command with examples for its help.</summary>
internal abstract class ToolCommand : Command
{
    protected ToolCommand(Terminal terminal, string name, string description, params string[] examples)
        : base(name, description)
    {
        Terminal = terminal;
        Examples = examples;
        SetAction((result, _) => RunAsync(result));
    }

    /// <summary>What to type after the program's name.</summary>
    public string[] Examples { get; }

    protected Terminal Terminal { get; }

    /// <returns>The exit code.</returns>
    protected abstract Task<int> RunAsync(ParseResult arguments);
}
