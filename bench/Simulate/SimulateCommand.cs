using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;
using Native.Bench.Common;
using Native.Bench.Serve;
using Native.Bench.StepTime;
using Native.Scheduling;
using Native.Tools;

namespace Native.Bench.Simulate;

/// <summary><c>simulate</c>: policies under a load, on a machine that is a model of a step's time.</summary>
internal sealed class SimulateCommand : ToolCommand
{
    private readonly Option<string> _load = new("--load")
    {
        HelpName = string.Join('|', TrafficPlan.Loads),
        Description =
            "Traffic as services published it: chat and flood (Azure 2023, conversations and code), long (Mooncake, "
                + "with shared beginnings), tenants (ServeGen, by client); or Poisson or gamma gaps with lengths of "
                + "--random-input-len and --random-output-len.",
        DefaultValueFactory = _ => "gamma",
    };
    private readonly Option<string[]> _policies = new("--policy")
    {
        HelpName = string.Join('|', Simulation.Policies) + ",...",
        Description = "Which policies; native is the real engine. Default: all.",
        AllowMultipleArgumentsPerToken = true,
        CustomParser = ParsePolicies,
    };
    private readonly Option<double[]> _duration = NumberOptions.Reals(
        "--duration", "S", "Seconds in which requests come.", 1, 7 * 86400, 600);
    private readonly Option<double[]> _rates =
        NumberOptions.Reals("--rate", "R,...", "Requests a second, the mean; each is a run of its own.", 1e-3, 1e6);
    private readonly Option<double[]> _timesCapacity = NumberOptions.Reals(
        "--times-capacity", "X,...",
        "The rate as a multiple of what the machine serves when it is never idle, instead of --rate.", 0.01, 100,
        0.5, 0.8, 1, 1.2, 1.5);
    private readonly Option<int?> _seed = new("--seed")
    {
        HelpName = "N",
        Description = "The same seed gives the same requests and the same table.",
        DefaultValueFactory = _ => 0,
    };
    private readonly Option<string[]> _goodput = new("--goodput")
    {
        HelpName = "ttft:MS tpot:MS",
        Description = "Token i is due at arrival + ttft + i x tpot. Default: ttft:1000 tpot:60.",
        AllowMultipleArgumentsPerToken = true,
    };
    private readonly Option<string?> _stepTimes = new("--step-times")
    {
        HelpName = "FILE.json",
        Description = "A fit by steptime --save-result. Default: a 135M model of 8 bits on two cores, roughly.",
    };
    private readonly Option<double[]> _noise = NumberOptions.Reals(
        "--noise", "X", "Standard deviation of the logarithm of a step's time.", 0, 1, 0);
    private readonly Option<int?> _kvTokens = new("--kv-tokens")
    {
        HelpName = "N",
        Description = "Tokens that the KV cache holds, in blocks of 16.",
        DefaultValueFactory = _ => 1 << 16,
    };
    private readonly Option<int?> _maxRunning = new("--max-num-seqs")
    {
        HelpName = "N",
        Description = "Sequences that run together.",
        DefaultValueFactory = _ => 64,
    };
    private readonly Option<int?> _maxBatchedTokens = new("--max-num-batched-tokens")
    {
        HelpName = "N",
        Description = "Tokens of a step, for policies that cut prompts.",
        DefaultValueFactory = _ => 512,
    };
    private readonly Option<bool> _noPrefixCaching = new("--no-prefix-caching")
    {
        Description = "The engine shares no beginnings of prompts, as the baselines don't.",
    };
    private readonly Option<double[]> _lengthScale = NumberOptions.Reals(
        "--length-scale", "X", "Published lengths are multiplied by this.", 1e-3, 10, 1);
    private readonly Option<int?> _inputLength = new("--random-input-len")
    {
        HelpName = "N",
        Description = "Mean prompt of poisson and gamma, each +-50 %.",
        DefaultValueFactory = _ => 256,
    };
    private readonly Option<int?> _outputLength = new("--random-output-len")
    {
        HelpName = "N",
        Description = "Their mean output, each +-50 %.",
        DefaultValueFactory = _ => 64,
    };
    private readonly Option<double[]> _burstiness =
        NumberOptions.Reals("--burstiness", "B", "Shape of gamma's gaps: below 1 comes in bursts.", 0.001, 1000, 0.3);
    private readonly Option<double[]> _findCapacity = NumberOptions.Reals(
        "--find-capacity", "P",
        "Look for each policy's highest rate at which this part of all requests is in time.", 0.01, 1);
    private readonly Option<string?> _writeTrace = new("--write-trace")
    {
        HelpName = "FILE.jsonl",
        Description = "Write the requests of the first rate in vLLM's timed_trace format, and simulate nothing.",
    };
    private readonly Option<string?> _svg = new("--svg")
    {
        HelpName = "FILE.svg",
        Description = "Draw goodput and tails against the rate.",
    };

    public SimulateCommand(Terminal terminal)
        : base(terminal, "simulate",
            "Serves a load by several batching policies and by the real engine, on a clock that only steps move. "
                + "A step takes what the fitted model says. Prints goodput, tails and violations of each.",
            "simulate --load gamma --times-capacity 0.8,1.2,1.5",
            "simulate --load chat --duration 3600 --length-scale 0.25 --svg chat.svg",
            "simulate --load gamma --find-capacity 0.99 --policy native decode-first",
            "simulate --load long --rate 0.5 --write-trace long.jsonl")
    {
        _load.AcceptOnlyFromAmong(TrafficPlan.Loads);
        _kvTokens.Within(64, 1 << 28);
        _maxRunning.Within(1, 4096);
        _maxBatchedTokens.Within(1, 1 << 20);
        _inputLength.Within(1, 1 << 20);
        _outputLength.Within(1, 1 << 20);
        Option[] options =
        [
            _load, _policies, _duration, _rates, _timesCapacity, _seed, _goodput, _stepTimes, _noise, _kvTokens,
            _maxRunning, _maxBatchedTokens, _noPrefixCaching, _lengthScale, _inputLength, _outputLength, _burstiness,
            _findCapacity, _writeTrace, _svg,
        ];
        foreach (Option option in options) Add(option);
    }

    protected override async Task<int> RunAsync(ParseResult arguments)
    {
        Objective objective = ReadObjective(arguments);
        SimulatedMachine machine = Machine(arguments);
        TrafficPlan plan = Plan(arguments);
        string[] policies = arguments.GetValue(_policies) is { Length: > 0 } named ? named : Simulation.Policies;
        double[] attainment = arguments.GetValue(_findCapacity) ?? [];
        Simulation simulation = new(machine, objective);
        double[] asked = arguments.GetValue(_rates) ?? [];
        bool isGiven = arguments.GetResult(_timesCapacity) is { Implicit: false };
        if (asked.Length > 0 && isGiven) throw new UsageException("--rate and --times-capacity exclude each other.");
        double capacity = simulation.Capacity(plan);
        if (capacity <= 0) throw new CommandException("not one request of this load fits the machine");
        double[] rates = asked.Length > 0 ? asked
            : [.. arguments.GetRequiredValue(_timesCapacity).Select(times => times * capacity)];
        if (arguments.GetValue(_writeTrace) is { } trace)
        {
            TimedTrace.Write(trace, TrafficDraw.Of(plan with { Rate = rates[0] }).Select(request =>
                new TimedRequest(request.Arrival, request.Input, request.Output,
                    [.. Enumerable.Range(0, request.Blocks).Select(request.BlockId)])));
            return Cli.Success;
        }
        Terminal.Out.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"{plan.Load}, {plan.Seconds:0} s; a machine that is never idle serves {capacity:0.00##} requests/s; "
                + $"due: {objective.Ttft * 1000:0} ms + i x {objective.Tpot * 1000:0.#} ms\n"));
        await Terminal.InterruptibleAsync(ct => Terminal.ProgressAsync("Simulating", report => Task.Run(() =>
        {
            if (attainment.Length == 0) Compare(simulation, plan, policies, rates, arguments, report, ct);
            else FindCapacities(simulation, plan, policies, attainment[0], capacity, report, ct);
            return true;
        }, ct)));
        return Cli.Success;
    }

    private void Compare(Simulation simulation, TrafficPlan plan, string[] policies, double[] rates,
        ParseResult arguments, Action<double, string>? report, CancellationToken ct)
    {
        List<RateResult> results = [];
        int done = 0;
        foreach (double rate in rates.Order())
        {
            List<TrafficRequest> requests = TrafficDraw.Of(plan with { Rate = rate });
            List<SimulationResult> ofRate = [];
            foreach (string policy in policies)
            {
                ct.ThrowIfCancellationRequested();
                report?.Invoke((double)done++ / (rates.Length * policies.Length), policy);
                ofRate.Add(simulation.Run(policy, requests, plan.Seconds));
            }
            results.Add(new RateResult(requests.Count / plan.Seconds, ofRate));
        }
        Terminal.Out.Write(SimulationReport.Table(results));
        if (arguments.GetValue(_svg) is { } picture)
            File.WriteAllText(picture, SimulationReport.Svg(results, simulation.Objective));
    }

    private void FindCapacities(Simulation simulation, TrafficPlan plan, string[] policies, double attainment,
        double capacity, Action<double, string>? report, CancellationToken ct)
    {
        List<(string, double)> found = [];
        foreach (string policy in policies)
        {
            ct.ThrowIfCancellationRequested();
            report?.Invoke((double)found.Count / policies.Length, policy);
            found.Add((policy, simulation.FindCapacity(policy, plan, attainment, capacity)));
        }
        Terminal.Out.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"highest rate at which {attainment:0.##%} of all requests are in time\n"));
        Terminal.Out.Write(SimulationReport.Capacities(found));
        if (found.Exists(policy => policy.Item2 == 0))
            Terminal.Out.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"\nnone: not even at {capacity / 100:0.####} requests/s, a hundredth of what the machine serves; some "
                    + $"prompts may take too long alone (--length-scale shortens them)"));
    }

    private static string[] ParsePolicies(ArgumentResult result)
    {
        string[] names = [.. result.Tokens.SelectMany(token => token.Value.Split(',', StringSplitOptions.TrimEntries))];
        foreach (string name in names)
            if (!Simulation.Policies.Contains(name))
                result.AddError($"--policy has '{name}'; there are {string.Join(", ", Simulation.Policies)}.");
        return names;
    }

    private TrafficPlan Plan(ParseResult arguments) => new(arguments.GetRequiredValue(_load),
        One(arguments, _duration), null, arguments.GetValue(_seed) ?? 0)
    {
        LengthScale = One(arguments, _lengthScale),
        InputLength = arguments.GetValue(_inputLength) ?? 256,
        OutputLength = arguments.GetValue(_outputLength) ?? 64,
        Burstiness = One(arguments, _burstiness),
    };

    private SimulatedMachine Machine(ParseResult arguments)
    {
        int kvTokens = arguments.GetValue(_kvTokens) ?? 1 << 16;
        return new SimulatedMachine(arguments.GetValue(_stepTimes) is { } path
            ? new StepTimeModel(StepTimeFile.Read(path).Coefficients) : new StepTimeModel())
        {
            KvTokens = kvTokens,
            MaxModelLength = kvTokens,
            MaxRunning = arguments.GetValue(_maxRunning) ?? 64,
            MaxBatchedTokens =
                Math.Max(arguments.GetValue(_maxBatchedTokens) ?? 512, arguments.GetValue(_maxRunning) ?? 64),
            PrefixCaching = !arguments.GetValue(_noPrefixCaching),
            Noise = One(arguments, _noise),
            Seed = arguments.GetValue(_seed) ?? 0,
        };
    }

    private Objective ReadObjective(ParseResult arguments)
    {
        Goodput goodput = Goodput.Parse(arguments.GetValue(_goodput) ?? []) ?? new Goodput(null, null, null);
        if (goodput.E2el is not null)
            throw new UsageException("--goodput has e2el; a token is due by ttft and tpot here.");
        return new Objective(goodput.Ttft ?? 1, goodput.Tpot ?? 0.06);
    }

    private static double One(ParseResult arguments, Option<double[]> option) =>
        arguments.GetRequiredValue(option) is [double value] ? value
            : throw new UsageException($"{option.Name} takes one value.");
}
