using System.CommandLine;
using System.Globalization;
using Native.Bench.Common;
using Native.Server;
using Native.Tools;

namespace Native.Bench.Soak;

/// <summary><c>soak</c>: whether a server stays as it was, under everything that clients do to it.</summary>
internal sealed class SoakCommand : ToolCommand
{
    private const string PageName = "soak.md", PictureName = "soak.svg", DataName = "soak.json";

    private readonly Option<double[]> _minutes =
        NumberOptions.Reals("--minutes", "M", "How long. Fractions count: 0.1 is six seconds.", 0.01, 100_000, 30);
    private readonly Option<int?> _clients = new("--clients")
    {
        HelpName = "N",
        Description = "Requests under way at once.",
        DefaultValueFactory = _ => 32,
    };
    private readonly Option<string?> _model = new("--model")
    {
        HelpName = "PATH",
        Description = "The model to serve. Default: the demo model.",
    };
    private readonly Option<string?> _serverOptions = new("--server-options")
    {
        HelpName = "\"...\"",
        Description =
            "More of the server's command line, with spaces between, e.g. \"--kv-cache-memory 8M --max-num-seqs 16\".",
    };
    private readonly Option<string?> _url = new("--url")
    {
        HelpName = "URL",
        Description =
            "A Native server that runs already, instead of one of the soak's own. Nobody else may use it meanwhile.",
    };
    private readonly Option<string?> _grpcUrl = new("--grpc-url")
    {
        HelpName = "URL",
        Description = "Its gRPC. Without, that is not asked.",
    };
    private readonly Option<int?> _seed = new("--seed")
    {
        HelpName = "N",
        Description = "The same seed gives the same requests, though not at the same times.",
        DefaultValueFactory = _ => 0,
    };
    private readonly Option<string> _output = new("--output")
    {
        HelpName = "FOLDER",
        Description = $"Where {PageName}, {PictureName} and {DataName} go.",
        DefaultValueFactory = _ => Path.Combine("bench", "results", "soak"),
    };

    public SoakCommand(Terminal terminal)
        : base(terminal, "soak",
            "Asks a server for a while, by OpenAI's HTTP and by gRPC at once, mixed lengths, chats, stop texts and "
                + "choices, with readers that are slow or leave and requests that must be refused among them. Checks "
                + "every answer, the same text for the same question too, and that at the end memory, handles, blocks "
                + "and threads are as they were. Exit code 0 where every check passes.",
            "soak --minutes 30",
            "soak --minutes 2 --clients 64 --server-options \"--kv-cache-memory 4M\" --output soak-preempting",
            "soak --minutes 30 --url http://127.0.0.1:8080 --grpc-url http://127.0.0.1:50051")
    {
        _clients.Within(1, 1000);
        foreach (Option option in (Option[])[_minutes, _clients, _model, _serverOptions, _url, _grpcUrl, _seed,
            _output]) Add(option);
    }

    protected override async Task<int> RunAsync(ParseResult arguments)
    {
        if (arguments.GetRequiredValue(_minutes) is not [double minutes])
            throw new UsageException("--minutes takes one value.");
        Uri? url = Address(arguments, _url), grpc = Address(arguments, _grpcUrl);
        string? model = arguments.GetValue(_model), serverOptions = arguments.GetValue(_serverOptions);
        if (url is not null && (model ?? serverOptions) is not null)
            throw new UsageException(
                "--url is a server that has its model and options; --model and --server-options are for one of the "
                    + "soak's own.");
        if (url is null && grpc is not null) throw new UsageException("--grpc-url goes with --url.");
        SoakOptions options = new()
        {
            Duration = TimeSpan.FromMinutes(minutes),
            Clients = arguments.GetValue(_clients) ?? 32,
            Seed = arguments.GetValue(_seed) ?? 0,
        };
        string output = arguments.GetRequiredValue(_output);
        Directory.CreateDirectory(output); // found out now rather than in half an hour

        SoakResult result = await Terminal.InterruptibleAsync(ct => Terminal.ProgressAsync("Soaking", async report =>
        {
            using SoakServer server = url is null
                ? await SoakServer.StartAsync(model,
                    serverOptions?.Split(' ', StringSplitOptions.RemoveEmptyEntries) ?? [], ct)
                : SoakServer.At(url, grpc);
            SoakResult run = await new SoakRun(server, options).RunAsync(report, ct);
            if (!server.IsOwn) return run;
            string log = server.Log; // before it is told to end, of which it may tell
            return run with { End = (await server.StopAsync(), log) };
        }));

        IReadOnlyList<SoakCheck> checks = SoakVerdict.Of(result);
        await File.WriteAllTextAsync(Path.Combine(output, PageName), SoakReport.Page(result, checks, PictureName));
        await File.WriteAllTextAsync(Path.Combine(output, PictureName), SoakReport.Picture(result));
        await File.WriteAllBytesAsync(Path.Combine(output, DataName), SoakReport.Json(result, checks));
        Terminal.Out.Write(SoakReport.Verdict(checks));
        Terminal.Out.WriteLine(
            string.Create(CultureInfo.InvariantCulture,
                $"{checks.Count(check => check.Passed)} of {checks.Count} checks "
                    + $"pass; {Path.Combine(output, PageName)} has the report"));
        return checks.All(check => check.Passed) ? Cli.Success : Cli.Failed;
    }

    private static Uri? Address(ParseResult arguments, Option<string?> option)
    {
        if (arguments.GetValue(option) is not { } text) return null;
        return Uri.TryCreate(text, UriKind.Absolute, out Uri? url) && url.Scheme is "http" or "https" ? url
            : throw new UsageException($"{option.Name} is '{text}'; it must be like http://127.0.0.1:8080.");
    }
}
