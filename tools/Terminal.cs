using System.Runtime.InteropServices;
using Native.Kernels.Models;
using Spectre.Console;

namespace Native.Tools;

/// <summary>Where a command reads and writes: results to <see cref="Out"/>, everything else to
/// <see cref="Error"/>.</summary>
/// <param name="In">What is typed, or piped in.</param>
/// <param name="Out">Results alone, so that they can be piped on.</param>
/// <param name="Error">Mistakes, and on a terminal progress.</param>
internal sealed record Terminal(TextReader In, TextWriter Out, TextWriter Error) : IDisposable
{
    private readonly Lock _lock = new();
    private CancellationTokenSource? _interruptible;
    private PosixSignalRegistration[] _signals = [];

    /// <summary>Whether somebody types at <see cref="In"/>.</summary>
    public bool InIsTerminal { get; init; }

    /// <summary>Whether somebody reads <see cref="Out"/> as it comes.</summary>
    public bool OutIsTerminal { get; init; }

    /// <summary>Whether somebody reads <see cref="Error"/>: only then is progress shown.</summary>
    public bool ErrorIsTerminal { get; init; }

    /// <summary>This process's own.</summary>
    public static Terminal OfProcess()
    {
        Terminal terminal = new(Console.In, Console.Out, Console.Error)
        {
            InIsTerminal = !Console.IsInputRedirected,
            OutIsTerminal = !Console.IsOutputRedirected,
            ErrorIsTerminal = !Console.IsErrorRedirected,
        };
        terminal._signals =
        [
            PosixSignalRegistration.Create(PosixSignal.SIGINT, signal => signal.Cancel = terminal.Interrupt()),
            PosixSignalRegistration.Create(PosixSignal.SIGTERM, signal => signal.Cancel = terminal.End(Cli.Terminated)),
            PosixSignalRegistration.Create(PosixSignal.SIGHUP, signal => signal.Cancel = terminal.End(Cli.HungUp)),
        ];
        return terminal;
    }

    /// <summary>The exit code by the signal that was told to <see cref="End"/>; null where none was.</summary>
    internal int? Ended { get; private set; }

    /// <summary>Runs work that Ctrl-C, SIGTERM and SIGHUP stop: it ends the programs that it started and removes its
    /// half-written files. Outside of it they end the program as if nobody listened.</summary>
    /// <exception cref="OperationCanceledException">It was stopped, and the work noticed; or the program is to
    /// end.</exception>
    public async Task<T> InterruptibleAsync<T>(Func<CancellationToken, Task<T>> work)
    {
        using CancellationTokenSource source = new();
        lock (_lock) _interruptible = source;
        T result;
        try
        {
            result = await work(source.Token);
        }
        finally
        {
            lock (_lock) _interruptible = null;
        }
        // After Ctrl-C a command may go on, as a chat does when its answer was stopped.
        return Ended is null ? result : throw new OperationCanceledException("the program was told to end");
    }

    /// <summary>What Ctrl-C does. False where nothing was there to stop.</summary>
    internal bool Interrupt()
    {
        lock (_lock)
        {
            if (_interruptible is null) return false;
            _interruptible.Cancel();
            return true;
        }
    }

    /// <summary>What a signal does that ends the program, whatever the command would do after Ctrl-C. False where
    /// nothing was there to stop.</summary>
    /// <param name="exit">The exit code that says so.</param>
    internal bool End(int exit)
    {
        lock (_lock)
        {
            if (_interruptible is not null) Ended = exit;
            return Interrupt();
        }
    }

    /// <summary>Runs work under a progress bar that vanishes with it; without a bar where nobody looks.</summary>
    /// <param name="what">In words.</param>
    /// <param name="work">Given a place to tell how much of 1 is done, and what besides the bar is to be read; null
    /// where nobody looks.</param>
    public async Task<T> ProgressAsync<T>(string what, Func<Action<double, string>?, Task<T>> work)
    {
        if (!ErrorIsTerminal) return await work(null);
        return await Ansi(Error).Progress().AutoClear(true)
            .Columns(new TaskDescriptionColumn(), new ProgressBarColumn(), new PercentageColumn(),
                new RemainingTimeColumn())
            .StartAsync(context =>
            {
                ProgressTask task = context.AddTask(Markup.Escape(what), maxValue: 1);
                return work((done, text) =>
                {
                    task.Value = done;
                    if (text.Length > 0) task.Description = Markup.Escape($"{what}, {text}");
                });
            });
    }

    /// <summary>Loads a model on another thread, with a progress bar where somebody looks.</summary>
    /// <param name="path">The model's, for its name.</param>
    /// <param name="load">Given a place to report to; null where nobody looks.</param>
    public Task<T> LoadingAsync<T>(string path, Func<IProgress<LoadProgress>?, T> load) =>
        ProgressAsync($"Loading {Path.GetFileName(Path.TrimEndingDirectorySeparator(path))}", report =>
        {
            IProgress<LoadProgress>? progress = report is null ? null : new LoadReporter(report);
            return Task.Run(() => load(progress));
        });

    /// <summary>Writes a line that whoever reads the results should know of, also where they are piped on.</summary>
    public void Warn(string line) => Error.WriteLine($"native: {line}");

    /// <summary>Writes a line of no consequence, such as a speed, where somebody looks.</summary>
    public void Remark(string line)
    {
        if (ErrorIsTerminal) Ansi(Error).MarkupLineInterpolated($"[grey]{line}[/]");
    }

    /// <summary>Colours and tables on <paramref name="writer"/>.</summary>
    public static IAnsiConsole Ansi(TextWriter writer) =>
        AnsiConsole.Create(new AnsiConsoleSettings { Out = new AnsiConsoleOutput(writer) });

    public void Dispose()
    {
        foreach (PosixSignalRegistration signal in _signals) signal.Dispose();
    }

    /// <summary>Reports on the loading thread: the order of reports is the order of loading.</summary>
    private sealed class LoadReporter(Action<double, string> report) : IProgress<LoadProgress>
    {
        public void Report(LoadProgress value) => report(value.Total == 0 ? 1 : (double)value.Done / value.Total, "");
    }
}
