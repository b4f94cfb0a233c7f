using System.CommandLine;
using System.Globalization;
using System.Text;
using System.Text.Json;
using Native.Bench.Common;
using Native.Kernels.Models;
using Native.Kernels.Text;
using Native.Server;
using Native.Server.OpenAi;
using Native.Tools;

namespace Native.Bench.Serve;

/// <summary><c>serve</c>: load on a server, and how long its answers took.</summary>
internal sealed class ServeCommand : ToolCommand
{
    private readonly Option<string> _url = new("--url")
    {
        HelpName = "URL",
        Description = "The server, e.g. http://127.0.0.1:8080; for gRPC http://127.0.0.1:50051.",
        Required = true,
    };
    private readonly Option<string> _api = new("--api")
    {
        HelpName = "openai|openai-chat|grpc",
        Description = "Completions or chats of OpenAI's API, of any server; or Native's gRPC.",
        DefaultValueFactory = _ => "openai",
    };
    private readonly Option<string?> _model = new("--model")
    {
        HelpName = "NAME",
        Description = "The model to ask for. Default: the server's first.",
    };
    private readonly Option<string[]> _headers = new("--header")
    {
        HelpName = "NAME=VALUE",
        Description =
            "A header of every request, or metadata of every call; may be given again. The key in OPENAI_API_KEY goes "
                + "as authorization where no other is given.",
        AllowMultipleArgumentsPerToken = true,
    };
    private readonly Option<string?> _extraBody = new("--extra-body")
    {
        HelpName = "JSON",
        Description =
            "Members of every body besides the usual, e.g. {\"slo\":{\"class\":\"batch\"}}. Not for gRPC.",
    };
    private readonly Option<int?> _numPrompts = new("--num-prompts")
    {
        HelpName = "N",
        Description = "Requests.",
        DefaultValueFactory = _ => 100,
    };
    private readonly Option<string> _requestRate = new("--request-rate")
    {
        HelpName = "R|inf",
        Description =
            "Requests a second, sent whether or not earlier ones are done (open loop); latencies then begin when a "
                + "request was to be sent. inf sends as many at once as --max-concurrency allows (closed loop); they "
                + "begin when it is sent.",
        DefaultValueFactory = _ => "inf",
    };
    private readonly Option<string> _burstiness = new("--burstiness")
    {
        HelpName = "B",
        Description =
            "Shape of the gaps between requests: 1 is Poisson, below comes in bursts, above is more even, inf wholly.",
        DefaultValueFactory = _ => "1",
    };
    private readonly Option<int?> _maxConcurrency = new("--max-concurrency")
    {
        HelpName = "N",
        Description = "Requests under way at most. In open loop the others' latencies run on while they wait.",
    };
    private readonly Option<string> _dataset = new("--dataset-name")
    {
        HelpName = "random|file|timed_trace",
        Description =
            "Random prompts, which share no beginning; those of --file; or the requests of --file at their own times "
                + "(vLLM's timed_trace).",
        DefaultValueFactory = _ => "random",
    };
    private readonly Option<int?> _inputLength = new("--random-input-len")
    {
        HelpName = "N",
        Description = "Length of random prompts: tokens with --tokenizer, else common words, about a token each.",
        DefaultValueFactory = _ => 256,
    };
    private readonly Option<int?> _outputLength = new("--random-output-len")
    {
        HelpName = "N",
        Description = "Tokens to generate at most; also for the lines of --file that don't tell.",
        DefaultValueFactory = _ => 64,
    };
    private readonly Option<double[]> _rangeRatio = NumberOptions.Reals(
        "--random-range-ratio", "X", "Lengths are drawn from 1 - X to 1 + X times these.", 0, 0.999, 0);
    private readonly Option<string?> _file = new("--file")
    {
        HelpName = "PATH",
        Description =
            "Prompts, one a line: a text, or {\"prompt\": \"...\", \"output_tokens\": 64}. Begins again at its end.",
    };
    private readonly Option<double[]> _secondMultiplier = NumberOptions.Reals(
        "--timed-trace-sec-multiplier", "X", "Timestamps times this are seconds; 0.001 for milliseconds.", 1e-9, 1e6,
        1);
    private readonly Option<int?> _blockTokens = new("--timed-trace-chunk-hash-size")
    {
        HelpName = "N",
        Description = "Tokens that a hash id of a timed trace stands for; 512 in Mooncake's.",
        DefaultValueFactory = _ => 16,
    };
    private readonly Option<string?> _tokenizer = new("--tokenizer")
    {
        HelpName = "PATH",
        Description =
            "The served model's file or folder: random prompts then have exactly their length, and go as token ids "
                + "where the interface takes them.",
    };
    private readonly Option<int?> _numWarmups = new("--num-warmups")
    {
        HelpName = "N",
        Description = "Requests before the clock runs, one after the other. One that fails ends the run.",
        DefaultValueFactory = _ => 1,
    };
    private readonly Option<string?> _rampUp = new("--ramp-up-strategy")
    {
        HelpName = "linear|exponential",
        Description = "The rate rises from --ramp-up-start-rps to --ramp-up-end-rps, instead of --request-rate.",
    };
    private readonly Option<double[]> _rampUpStart =
        NumberOptions.Reals("--ramp-up-start-rps", "R", "Requests a second at the beginning.", 1e-3, 1e6);
    private readonly Option<double[]> _rampUpEnd =
        NumberOptions.Reals("--ramp-up-end-rps", "R", "Requests a second at the end.", 1e-3, 1e6);
    private readonly Option<int?> _seed = new("--seed")
    {
        HelpName = "N",
        Description = "The same seed gives the same prompts at the same times.",
        DefaultValueFactory = _ => 0,
    };
    private readonly Option<bool> _ignoreEos = new("--ignore-eos")
    {
        Description =
            "Generate past end tokens, so that every output has its full length. Not part of OpenAI's API, but known "
                + "to vLLM, llama.cpp and Native.",
    };
    private readonly Option<string[]> _goodput = new("--goodput")
    {
        HelpName = "ttft:MS tpot:MS e2el:MS",
        Description = "Count the requests that kept these latencies.",
        AllowMultipleArgumentsPerToken = true,
    };
    private readonly Option<string> _metrics = new("--percentile-metrics")
    {
        HelpName = "ttft,tpot,itl,e2el",
        Description = "The latencies to report.",
        DefaultValueFactory = _ => "ttft,tpot,itl,e2el",
    };
    private readonly Option<double[]> _percentiles =
        NumberOptions.Reals("--metric-percentiles", "P,...", "Their percentiles.", 0, 100, 99);
    private readonly Option<string?> _saveResult = new("--save-result")
    {
        HelpName = "FILE.json",
        Description = "Write everything there, under vLLM's names, with every request's times; of a sweep an array.",
    };
    private readonly Option<double[]> _sweep = NumberOptions.Reals(
        "--sweep", "R,...", "Measure at each of these request rates, one after the other.", 1e-3, 1e6);
    private readonly Option<string?> _svg = new("--svg")
    {
        HelpName = "FILE.svg",
        Description = "Draw a sweep's latencies against its rates.",
    };
    private readonly Option<double[]> _requestTimeout =
        NumberOptions.Reals("--request-timeout", "S", "Seconds after which a request has failed.", 0.001, 86400, 600);
    private readonly Option<double[]> _maxDuration = NumberOptions.Reals(
        "--max-duration", "S", "Seconds after which a run sends nothing more; what is under way has failed.",
        0.001, 864000, 3600);

    public ServeCommand(Terminal terminal)
        : base(terminal, "serve",
            "Puts load on a server and prints vLLM's table of throughput and latencies: time to first token (TTFT), "
                + "time per output token (TPOT), inter-token latency (ITL), end-to-end latency (E2EL). Open-loop "
                + "latencies count from when a request was to be sent, so that a server that stalls can't hide it.",
            "serve --url http://127.0.0.1:8080 --request-rate 4 --num-prompts 200",
            "serve --url http://127.0.0.1:50051 --api grpc --max-concurrency 8 --ignore-eos",
            "serve --url http://127.0.0.1:8080 --api openai-chat --dataset-name file --file prompts.jsonl --goodput "
                + "ttft:200 tpot:50",
            "serve --url http://127.0.0.1:8080 --sweep 1,2,4,8 --num-prompts 50 --svg load.svg --save-result load.json")
    {
        _api.AcceptOnlyFromAmong("openai", "openai-chat", "grpc");
        _dataset.AcceptOnlyFromAmong("random", "file", "timed_trace");
        _rampUp.AcceptOnlyFromAmong("linear", "exponential");
        _numPrompts.Within(1, 100_000);
        _maxConcurrency.Within(1, 100_000);
        _inputLength.Within(1, 1 << 20);
        _outputLength.Within(1, 1 << 20);
        _numWarmups.Within(0, 1000);
        _blockTokens.Within(1, 1 << 16);
        Option[] options =
        [
            _url, _api, _model, _numPrompts, _requestRate, _burstiness, _maxConcurrency, _rampUp, _rampUpStart,
            _rampUpEnd, _sweep, _svg, _dataset, _file, _secondMultiplier, _blockTokens, _inputLength, _outputLength,
            _rangeRatio, _tokenizer, _ignoreEos, _seed, _numWarmups, _goodput, _metrics, _percentiles, _saveResult,
            _requestTimeout, _maxDuration, _headers, _extraBody,
        ];
        foreach (Option option in options) Add(option);
    }

    protected override async Task<int> RunAsync(ParseResult arguments)
    {
        // Everything said is looked at before anything is sent.
        Uri url = Url(arguments);
        string api = arguments.GetRequiredValue(_api);
        List<TimedRequest>? trace = ReadTrace(arguments);
        List<Load> loads = Loads(arguments, trace);
        Goodput? goodput = Goodput.Parse(arguments.GetValue(_goodput) ?? []);
        string[] metrics = Metrics(arguments);
        double[] percentiles = arguments.GetRequiredValue(_percentiles);
        int seed = arguments.GetValue(_seed) ?? 0, count = trace?.Count ?? arguments.GetValue(_numPrompts) ?? 100,
            warmups = arguments.GetValue(_numWarmups) ?? 1;
        List<Prompt> prompts = ReadPrompts(arguments, trace, warmups, count * loads.Count, seed);

        string? model = arguments.GetValue(_model);
        using IServingClient client = Client(arguments, url, model);
        LoadGenerator generator = Generator(arguments, client);

        List<ServingRun> runs =
            await Terminal.InterruptibleAsync(ct => Terminal.ProgressAsync("Sending", async report =>
        {
            if (client is OpenAiClient openAi)
            {
                using CancellationTokenSource limited = CancellationTokenSource.CreateLinkedTokenSource(ct);
                limited.CancelAfter(generator.RequestTimeout);
                await openAi.ChooseModelAsync(limited.Token);
                model = openAi.Model;
            }
            await WarmUpAsync(generator, prompts[..warmups], url, ct);
            List<ServingRun> runs = [];
            foreach (Load load in loads)
            {
                List<Prompt> part = prompts.GetRange(warmups + count * runs.Count, count);
                int before = runs.Count;
                void Done(int done) =>
                    report?.Invoke((before + (double)done / count) / loads.Count,
                        string.Create(CultureInfo.InvariantCulture,
                            $"{done} of {count} answered{(loads.Count > 1 ? $" at {load.Rate:0.###}/s" : "")}"));
                double[]? intended = load.Arrivals(count, new Random(seed));
                (RequestRecord[] records, double duration) =
                    intended is null ? await generator.ClosedLoopAsync(part, Done, ct)
                        : await generator.OpenLoopAsync(part, intended, Done, ct);
                runs.Add(new ServingRun
                {
                    Api = api,
                    Model = model ?? "",
                    RequestRate = load.Rate,
                    Burstiness = load.Burstiness,
                    Ramp = load.Ramp,
                    MaxConcurrency = generator.MaxConcurrency,
                    Seed = seed,
                    Result = new ServingResult(records, duration, goodput),
                });
            }
            return runs;
        }));

        Print(runs, metrics, percentiles);
        if (arguments.GetRequiredValue(_dataset) == "random" && arguments.GetValue(_tokenizer) is null)
            WarnOfLength(runs, arguments.GetValue(_inputLength) ?? 256);
        if (arguments.GetValue(_saveResult) is { } saved)
            await File.WriteAllBytesAsync(saved, ToJson(runs, metrics, percentiles));
        if (arguments.GetValue(_svg) is { } picture)
            await File.WriteAllTextAsync(picture, LatencyChart.Svg(runs, percentiles));
        return runs.All(run => run.Result.Completed > 0) ? Cli.Success : Cli.Failed;
    }

    private IServingClient Client(ParseResult arguments, Uri url, string? model)
    {
        string api = arguments.GetRequiredValue(_api);
        bool ignoreEos = arguments.GetValue(_ignoreEos);
        JsonElement? extra = ExtraBody(arguments.GetValue(_extraBody));
        if (api == "grpc" && extra is not null) throw new UsageException("--extra-body is not for --api grpc.");
        IReadOnlyDictionary<string, string> headers = Headers(
            arguments.GetValue(_headers) ?? [], Environment.GetEnvironmentVariable("OPENAI_API_KEY"));
        return api == "grpc" ? new GrpcClient(url, model, ignoreEos, headers)
            : new OpenAiClient(url, chat: api == "openai-chat", model, ignoreEos, headers, extra);
    }

    /// <summary>Names and values of headers; the last of a name counts.</summary>
    /// <param name="given">Each NAME=VALUE.</param>
    /// <param name="key">An API key for the case that they have none; null or empty for none.</param>
    /// <exception cref="UsageException">One is something else.</exception>
    internal static Dictionary<string, string> Headers(IReadOnlyList<string> given, string? key)
    {
        Dictionary<string, string> headers = new(StringComparer.OrdinalIgnoreCase);
        if (!string.IsNullOrEmpty(key)) headers["authorization"] = $"Bearer {key}";
        foreach (string header in given)
        {
            int equals = header.IndexOf('=', StringComparison.Ordinal);
            string name = header[..Math.Max(equals, 0)];
            bool isName = name.Length > 0 && name.All(c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_' or '.');
            if (!isName || header.Any(char.IsControl))
                throw new UsageException($"--header is '{header}'; it must be like x-name=value.");
            headers[name.ToLowerInvariant()] = header[(equals + 1)..];
        }
        return headers;
    }

    private static JsonElement? ExtraBody(string? json)
    {
        if (json is null) return null;
        try
        {
            using JsonDocument body = JsonDocument.Parse(json);
            if (body.RootElement.ValueKind == JsonValueKind.Object) return body.RootElement.Clone();
        }
        catch (JsonException)
        {
            // told below
        }
        throw new UsageException($"--extra-body is '{json}'; it must be a JSON object.");
    }

    private LoadGenerator Generator(ParseResult arguments, IServingClient client) => new(client, TimeProvider.System)
    {
        MaxConcurrency = arguments.GetValue(_maxConcurrency),
        RequestTimeout = TimeSpan.FromSeconds(One(arguments, _requestTimeout)!.Value),
        MaxDuration = TimeSpan.FromSeconds(One(arguments, _maxDuration)!.Value),
    };

    private static async Task WarmUpAsync(LoadGenerator generator, List<Prompt> prompts, Uri url, CancellationToken ct)
    {
        foreach (Prompt prompt in prompts)
        {
            (RequestRecord[] records, _) = await generator.ClosedLoopAsync([prompt], null, ct);
            if (records[0].Error is { } error)
                throw new CommandException($"{url} did not answer the first request: {error}");
        }
    }

    private Uri Url(ParseResult arguments)
    {
        if (!Uri.TryCreate(arguments.GetRequiredValue(_url), UriKind.Absolute, out Uri? url)
            || url.Scheme is not ("http" or "https"))
            throw new UsageException(
                $"--url is '{arguments.GetRequiredValue(_url)}'; it must be like http://127.0.0.1:8080.");
        return url;
    }

    private string[] Metrics(ParseResult arguments)
    {
        string[] metrics = arguments.GetRequiredValue(_metrics).Split(',', StringSplitOptions.TrimEntries);
        foreach (string metric in metrics)
            if (!ServingReport.Metrics.Contains(metric))
                throw new UsageException(
                    $"--percentile-metrics has '{metric}'; there are {string.Join(", ", ServingReport.Metrics)}.");
        return metrics;
    }

    /// <summary>The requests of a timed trace: all of them, or the first that <c>--num-prompts</c> asks for. Null for
    /// other data sets.</summary>
    private List<TimedRequest>? ReadTrace(ParseResult arguments)
    {
        string dataset = arguments.GetRequiredValue(_dataset);
        if (dataset != "random" != arguments.GetValue(_file) is not null)
            throw new UsageException(
                "--file goes with --dataset-name file or timed_trace, and these with --file.");
        if (dataset != "timed_trace") return null;
        int most = arguments.GetResult(_numPrompts) is { Implicit: false }
            ? arguments.GetValue(_numPrompts)!.Value : 1_000_000;
        return TimedTrace.Read(arguments.GetValue(_file)!, most, arguments.GetValue(_blockTokens) ?? 16);
    }

    private List<Prompt> ReadPrompts(
        ParseResult arguments, List<TimedRequest>? trace, int warmups, int count, int seed)
    {
        bool fromFile = arguments.GetRequiredValue(_dataset) == "file";
        if (fromFile && arguments.GetValue(_tokenizer) is not null)
            throw new UsageException("--tokenizer is not for the prompts of a file.");
        Tokenizer? tokenizer = null;
        if (arguments.GetValue(_tokenizer) is { } path)
        {
            using ModelFile file = ModelFile.Open(path);
            tokenizer = file.OpenTokenizer();
        }
        int output = arguments.GetValue(_outputLength) ?? 64;
        List<Prompt> Random(int count) => Prompts.Random(count, arguments.GetValue(_inputLength) ?? 256, output,
            One(arguments, _rangeRatio)!.Value, tokenizer, new Random(seed));
        // A prompt is never used again: a server that keeps prefixes would answer it from memory.
        if (trace is not null)
            return [.. Random(warmups),
                .. Prompts.OfTrace(trace, arguments.GetValue(_blockTokens) ?? 16, tokenizer)];
        return fromFile ? Prompts.OfFile(arguments.GetValue(_file)!, warmups + count, output)
            : Random(warmups + count);
    }

    private void Print(List<ServingRun> runs, string[] metrics, double[] percentiles)
    {
        foreach (ServingRun run in runs)
        {
            Terminal.Out.Write(ServingReport.Table(run, metrics, percentiles));
            foreach (string failure in Failures.Tell(run.Result.Records))
                Terminal.Error.WriteLine($"native: {failure}");
        }
    }

    /// <summary>Tells where the server counted more tokens than were meant; a word is one at least.</summary>
    private void WarnOfLength(List<ServingRun> runs, int meant)
    {
        double requests = runs.Sum(run => run.Result.Completed);
        double mean = runs.Sum(run => run.Result.InputTokens) / requests;
        if (!(mean > 1.2 * meant)) return;
        Terminal.Error.WriteLine(string.Create(CultureInfo.InvariantCulture,
            $"native: prompts had {mean:F0} tokens on average, not {meant}: a word is not a token of this model, "
                + $"and --tokenizer gives them exactly their length"));
    }

    /// <summary>The runs that are asked for: one, or one for each rate of a sweep.</summary>
    private List<Load> Loads(ParseResult arguments, List<TimedRequest>? trace)
    {
        double rate = Positive(arguments, _requestRate), burstiness = Positive(arguments, _burstiness);
        double[] sweep = arguments.GetValue(_sweep) ?? [];
        double? from = One(arguments, _rampUpStart), to = One(arguments, _rampUpEnd);
        string? strategy = arguments.GetValue(_rampUp);
        if ((strategy is null) != (from is null) || (strategy is null) != (to is null))
            throw new UsageException("--ramp-up-strategy, --ramp-up-start-rps and --ramp-up-end-rps go together.");
        if ((double.IsFinite(rate) ? 1 : 0) + (sweep.Length > 0 ? 1 : 0) + (strategy is not null ? 1 : 0) > 1)
            throw new UsageException("--request-rate, --sweep and --ramp-up-strategy exclude each other.");
        if (arguments.GetValue(_svg) is not null && sweep.Length == 0)
            throw new UsageException("--svg draws a --sweep.");
        if (trace is not null)
        {
            if (double.IsFinite(rate) || sweep.Length > 0 || strategy is not null)
                throw new UsageException("--dataset-name timed_trace has its own times; --request-rate, --sweep and "
                    + "--ramp-up-strategy don't go with it.");
            double multiplier = One(arguments, _secondMultiplier)!.Value;
            double[] times = [.. trace.Select(request => (request.Timestamp - trace[0].Timestamp) * multiplier)];
            return [new Load(rate, burstiness, null) { Times = times }];
        }
        if (sweep.Length > 0) return [.. sweep.Order().Select(swept => new Load(swept, burstiness, null))];
        return [new Load(rate, burstiness,
            strategy is null ? null
                : (strategy == "linear" ? RampUp.Linear : RampUp.Exponential, from!.Value, to!.Value))];
    }

    private static double Positive(ParseResult arguments, Option<string> option)
    {
        string text = arguments.GetRequiredValue(option);
        if (text == "inf") return double.PositiveInfinity;
        if (!double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out double value)
            || !(value >= 1e-3 && value <= 1e6))
            throw new UsageException($"{option.Name} is '{text}'; it must be from 0.001 to 1000000, or inf.");
        return value;
    }

    private static double? One(ParseResult arguments, Option<double[]> option) => arguments.GetValue(option) switch
    {
        null or [] => null,
        [double value] => value,
        double[] values => throw new UsageException($"{option.Name} has {values.Length} values; it takes one."),
    };

    private static byte[] ToJson(List<ServingRun> runs, string[] metrics, double[] percentiles)
    {
        using MemoryStream buffer = new();
        using (Utf8JsonWriter json = new(buffer))
        {
            if (runs.Count > 1) json.WriteStartArray();
            foreach (ServingRun run in runs) ServingReport.Write(json, run, metrics, percentiles);
            if (runs.Count > 1) json.WriteEndArray();
        }
        buffer.Write(Encoding.UTF8.GetBytes("\n"));
        return buffer.ToArray();
    }

    /// <summary>One run's load.</summary>
    private sealed record Load(double Rate, double Burstiness, (RampUp Strategy, double From, double To)? Ramp)
    {
        /// <summary>Times that a trace says; null where there is none.</summary>
        public double[]? Times { get; init; }

        /// <summary>When requests are to be sent; null for a closed loop.</summary>
        public double[]? Arrivals(int count, Random random) => Times is not null ? Times : Ramp is { } ramp
            ? Serve.Arrivals.Rising(count, ramp.Strategy, ramp.From, ramp.To, Burstiness, random)
            : double.IsFinite(Rate) ? Serve.Arrivals.Steady(count, Rate, Burstiness, random) : null;
    }
}
