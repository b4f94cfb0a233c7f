using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;
using Native.Tools;

namespace Native.Bench.Soak;

/// <summary>The server under the soak: a process of its own, or one that runs already.</summary>
internal sealed class SoakServer : IDisposable
{
    private const int Terminate = 15; // SIGTERM

    private static readonly TimeSpan StartTime = TimeSpan.FromMinutes(10); // large models are repacked at the start
    private static readonly TimeSpan EndTime = TimeSpan.FromSeconds(60);

    private readonly HttpClient _http;
    private readonly Process? _process;
    private readonly StringBuilder _log;

    private SoakServer(Uri http, Uri? grpc, Process? process, StringBuilder log)
    {
        _log = log;
        Http = http;
        Grpc = grpc;
        _process = process;
        _http = new HttpClient(new SocketsHttpHandler { UseProxy = false })
        {
            BaseAddress = http,
            Timeout = TimeSpan.FromSeconds(30),
        };
    }

    /// <summary>Where the OpenAI API and /metrics are.</summary>
    public Uri Http { get; }

    /// <summary>Where gRPC is; null where nobody said.</summary>
    public Uri? Grpc { get; }

    /// <summary>Whether the process is the soak's own.</summary>
    public bool IsOwn => _process is not null;

    /// <summary>What it wrote to its log.</summary>
    public string Log
    {
        get { lock (_log) return _log.ToString(); }
    }

    /// <summary>A server that runs already.</summary>
    public static SoakServer At(Uri http, Uri? grpc) => new(http, grpc, null, new StringBuilder());

    /// <summary>Starts the one beside this program, on ports that the system chooses, and waits until it is
    /// ready.</summary>
    /// <param name="model">Its --model; null for the demo model.</param>
    /// <param name="options">More of its command line.</param>
    /// <param name="ct">Gives up.</param>
    /// <exception cref="CommandException">It is not here, or it did not come to be ready.</exception>
    public static async Task<SoakServer> StartAsync(string? model, IReadOnlyList<string> options, CancellationToken ct)
    {
        string library = Path.Combine(AppContext.BaseDirectory, "Native.Server.dll"),
            program = Path.Combine(AppContext.BaseDirectory,
                OperatingSystem.IsWindows() ? "Native.Server.exe" : "Native.Server");
        if (!File.Exists(library))
            throw new CommandException($"the server is not here: {library}; start one yourself and name it with --url");
        ProcessStartInfo start = new(File.Exists(program) ? program : "dotnet")
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        if (!File.Exists(program)) start.ArgumentList.Add(library);
        foreach (string argument in (string[])["--port", "0", "--grpc-port", "0",
            .. model is null ? (string[])[] : ["--model", model], .. options]) start.ArgumentList.Add(argument);
        foreach (string name in start.Environment.Keys.Where(
            name => name.StartsWith("NATIVE_", StringComparison.Ordinal)).ToArray()) start.Environment.Remove(name);
        Process process = Process.Start(start) ?? throw new CommandException($"{start.FileName} could not be started");
        StringBuilder log = new();
        process.ErrorDataReceived += (_, line) =>
        {
            if (line.Data is not null) lock (log) log.AppendLine(line.Data);
        };
        process.BeginErrorReadLine();
        using CancellationTokenSource limited = CancellationTokenSource.CreateLinkedTokenSource(ct);
        limited.CancelAfter(StartTime);
        try
        {
            Uri? http = null, grpc = null;
            // It names its addresses once it is ready.
            while (grpc is null && await process.StandardOutput.ReadLineAsync(limited.Token) is { } line)
            {
                string[] words = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
                if (words is ["HTTP", var address, ..]) http = new Uri(address);
                if (words is ["gRPC", var authority, ..]) grpc = new Uri($"http://{authority}");
            }
            if (http is null || grpc is null)
            {
                await process.WaitForExitAsync(limited.Token);
                lock (log) throw new CommandException(
                    $"the server ended with {process.ExitCode} before it was ready: {log}");
            }
            // or it would wait for a reader once the pipe is full
            _ = process.StandardOutput.ReadToEndAsync(CancellationToken.None);
            return new SoakServer(http, grpc, process, log);
        }
        catch (Exception e)
        {
            process.Kill();
            process.Dispose();
            if (e is OperationCanceledException && !ct.IsCancellationRequested)
                throw new CommandException($"the server was not ready after {StartTime.TotalMinutes} minutes");
            throw;
        }
    }

    /// <summary>The first model it serves and how long a sequence may be.</summary>
    /// <exception cref="CommandException">It doesn't tell.</exception>
    public async Task<(string Model, int MaxModelLength)> DescribeAsync(CancellationToken ct)
    {
        try
        {
            using JsonDocument list = JsonDocument.Parse(await _http.GetByteArrayAsync("v1/models", ct));
            JsonElement model = list.RootElement.GetProperty("data")[0];
            return (model.GetProperty("id").GetString()!, model.GetProperty("max_model_len").GetInt32());
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException or KeyNotFoundException
            or IndexOutOfRangeException or HttpRequestException or TaskCanceledException && !ct.IsCancellationRequested)
        {
            throw new CommandException($"{Http}v1/models does not tell a model of a Native server: {e.Message}");
        }
    }

    /// <summary>All samples of /metrics by series, e.g. <c>native_kv_blocks{state="free"}</c>.</summary>
    /// <exception cref="HttpRequestException">It does not answer.</exception>
    public async Task<Dictionary<string, double>> MetricsAsync(CancellationToken ct)
    {
        Dictionary<string, double> samples = new(StringComparer.Ordinal);
        foreach (string line in (await _http.GetStringAsync("metrics", ct)).Split('\n'))
        {
            int space = line.LastIndexOf(' ');
            if (space > 0 && line[0] != '#'
                && double.TryParse(line.AsSpan(space + 1), NumberStyles.Float, CultureInfo.InvariantCulture,
                    out double value)) samples[line[..space]] = value;
        }
        return samples;
    }

    /// <summary>Ends it as an operator does.</summary>
    /// <returns>The exit code; null where it did not end and was killed.</returns>
    public async Task<int?> StopAsync()
    {
        if (_process is null)
            throw new InvalidOperationException("a server that is not the soak's own is not the soak's to end");
        if (!_process.HasExited)
        {
            if (OperatingSystem.IsWindows()) _process.Kill(); // there is no SIGTERM
            else _ = kill(_process.Id, Terminate);
        }
        using CancellationTokenSource patience = new(EndTime);
        try
        {
            await _process.WaitForExitAsync(patience.Token);
            return _process.ExitCode;
        }
        catch (OperationCanceledException)
        {
            _process.Kill();
            return null;
        }
    }

    public void Dispose()
    {
        _http.Dispose();
        if (_process is null) return;
        if (!_process.HasExited) _process.Kill();
        _process.Dispose();
    }

    [DllImport("libc")]
    private static extern int kill(int process, int signal);
}
