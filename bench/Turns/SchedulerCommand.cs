using System.CommandLine;
using System.Globalization;
using Native.Bench.Common;
using Native.Tools;

namespace Native.Bench.Turns;

/// <summary><c>scheduler</c>: what a turn of the engine's loop costs beside the model.</summary>
internal sealed class SchedulerCommand : ToolCommand
{
    private readonly Option<int[]> _waiting =
        NumberOptions.Integers("--waiting", "-w", "N,...", "Requests that wait in the queue.", 1, 500_000, 10, 1000,
            100_000);

    private readonly Option<int?> _running = new("--running", "-r")
    {
        HelpName = "N",
        Description = "Sequences that decode in every turn.",
        DefaultValueFactory = _ => 64,
    };

    private readonly Option<int?> _turns = new("--turns", "-n")
    {
        HelpName = "N",
        Description = "Turns measured of each kind.",
        DefaultValueFactory = _ => 1000,
    };

    public SchedulerCommand(Terminal terminal)
        : base(terminal, "scheduler",
            "Measures one turn of the engine's loop with a model that computes nothing: planning, building "
            + "the batch and publishing, with no news, a cancellation, a stop text or a deadline before each turn. "
                + "The number of "
            + "sequences looked at is exact and the same on every machine.",
            "scheduler",
            "scheduler --waiting 10,100000 --running 256")
    {
        _running.Within(2, 4096);
        _turns.Within(10, 10_000);
        Add(_waiting);
        Add(_running);
        Add(_turns);
    }

    protected override async Task<int> RunAsync(ParseResult arguments)
    {
        int[] waiting = arguments.GetRequiredValue(_waiting);
        int running = arguments.GetValue(_running) ?? 64, turns = arguments.GetValue(_turns) ?? 1000;
        (int Waiting, News News)[] cases =
            [.. Enum.GetValues<News>().SelectMany(news => waiting.Select(count => (count, news)))];
        List<TurnCost> costs =
            await Terminal.InterruptibleAsync(ct => Terminal.ProgressAsync("Measuring", report => Task.Run(() =>
        {
            List<TurnCost> found = [];
            foreach ((int count, News news) in cases)
            {
                found.Add(TurnMeasurement.Run(running, count, news, turns, ct));
                report?.Invoke((double)found.Count / cases.Length, $"{news}, {count} waiting");
            }
            return found;
        }, ct)));
        Terminal.Out.WriteLine($"{running} sequences decode in every turn; {turns} turns of each kind.\n");
        Terminal.Out.Write(MarkdownTable.Of(Columns, costs));
        return Cli.Success;
    }

    private static readonly Column<TurnCost>[] Columns =
    [
        new("before each turn", 16, Right: false, cost => cost.News.ToString().ToLowerInvariant()),
        new("waiting", 7, Right: true, cost => Number(cost.Waiting, 0)),
        new("median us", 9, Right: true, cost => Number(cost.Microseconds, 1)),
        new("p99 us", 9, Right: true, cost => Number(cost.Slowest, 1)),
        new("looked at", 9, Right: true, cost => Number(cost.Visits, 0)),
    ];

    private static string Number(double value, int digits) =>
        value.ToString($"N{digits}", CultureInfo.InvariantCulture);
}
