using System.CommandLine;
using Native.Bench.Common;
using Native.Tools;

namespace Native.Bench.Rings;

/// <summary><c>rings</c>: the engine's inbox beside .NET's own queues.</summary>
internal sealed class RingsCommand : ToolCommand
{
    private static readonly (string Name, Func<int, int, int, CancellationToken, RingRound> Run)[] Queues =
    [
        ("Inbox", RingsMeasurement.Run<InboxRing>),
        ("Channel", RingsMeasurement.Run<ChannelRing>),
        ("ConcurrentQueue", RingsMeasurement.Run<ConcurrentQueueRing>),
    ];

    private readonly Option<int[]> _producers =
        NumberOptions.Integers("--producers", "-p", "N,...", "Threads that put items in.", 1, 1024, 1, 8, 64);

    private readonly Option<int?> _items = new("--items", "-n")
    {
        HelpName = "N",
        Description = "Items sent in each pass.",
        DefaultValueFactory = _ => 1_000_000,
    };

    private readonly Option<int?> _capacity = new("--capacity", "-c")
    {
        HelpName = "N",
        Description = "Items that the bounded queues have room for.",
        DefaultValueFactory = _ => 1024,
    };

    private readonly Option<int?> _rounds = new("--rounds", "-r")
    {
        HelpName = "N",
        Description = "Rounds; each visits all queues in a new order. One more comes before.",
        DefaultValueFactory = _ => 5,
    };

    private readonly Option<string?> _save = new("--save-result")
    {
        HelpName = "FILE.json",
        Description = "Write the results there.",
    };

    public RingsCommand(Terminal terminal)
        : base(terminal, "rings",
            "Measures queues from many producers to one consumer: the engine's Inbox, a bounded "
                + "System.Threading.Channels.Channel, and ConcurrentQueue, which has no bound. All threads run at full "
                + "speed; who finds a queue full or empty spins. A time is of a call that succeeded, the clock's own "
                + "included.",
            "rings",
            "rings --producers 1,8,64 --rounds 9 --save-result rings.json")
    {
        _items.Within(1, 50_000_000);
        _capacity.Within(2, 1 << 24);
        _rounds.Within(1, 1000);
        foreach (Option option in (Option[])[_producers, _items, _capacity, _rounds, _save]) Add(option);
    }

    protected override async Task<int> RunAsync(ParseResult arguments)
    {
        int[] producers = arguments.GetRequiredValue(_producers);
        int items = arguments.GetValue(_items) ?? 1_000_000, capacity = arguments.GetValue(_capacity) ?? 1024;
        int rounds = arguments.GetValue(_rounds) ?? 5;
        List<RingResult> results =
            await Terminal.InterruptibleAsync(ct => Terminal.ProgressAsync("Measuring", report => Task.Run(() =>
                Measure(producers, items, capacity, rounds, report, ct), ct)));
        RingsReport found = new(Machine.Slug, items, capacity, rounds, results);
        Terminal.Out.WriteLine($"{items} items, room for {capacity}, medians of {rounds} rounds\n");
        Terminal.Out.Write(found.Table());
        if (arguments.GetValue(_save) is { } path) found.Write(path);
        return Cli.Success;
    }

    private static List<RingResult> Measure(int[] producers, int items, int capacity, int rounds,
        Action<double, string>? report, CancellationToken ct)
    {
        (int Producers, int Queue)[] cases =
            [.. producers.SelectMany(count => Queues.Select((_, queue) => (count, queue)))];
        List<RingRound>[] found = [.. cases.Select(_ => new List<RingRound>())];
        int[] order = [.. Enumerable.Range(0, cases.Length)];
        Random random = new(42);
        for (int round = -1; round < rounds; round++)
        {
            random.Shuffle(order);
            for (int i = 0; i < order.Length; i++)
            {
                (int count, int queue) = cases[order[i]];
                RingRound one = Queues[queue].Run(count, items, capacity, ct);
                if (round >= 0) found[order[i]].Add(one);
                report?.Invoke((round + 1 + ((i + 1.0) / order.Length)) / (rounds + 1),
                    $"{Queues[queue].Name}, {count} producers");
            }
        }
        return [.. cases.Select((one, i) => RingResult.Of(Queues[one.Queue].Name, one.Producers, found[i]))];
    }
}
