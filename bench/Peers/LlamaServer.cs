using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using System.Text;
using Native.Bench.Common;
using Native.Tools;

namespace Native.Bench.Peers;

/// <summary>A llama-server of llama.cpp as a process of its own.</summary>
internal sealed class LlamaServer : IDisposable
{
    private static readonly TimeSpan StartTime = TimeSpan.FromMinutes(10);

    private readonly Process _process;

    private LlamaServer(Process process, Uri url) => (_process, Url) = (process, url);

    /// <summary>Where its OpenAI API is.</summary>
    public Uri Url { get; }

    /// <summary>Starts it on a port of this machine that is free, and waits until it is healthy.</summary>
    /// <param name="program">Its path.</param>
    /// <param name="model">A GGUF file.</param>
    /// <param name="threads">Threads that compute.</param>
    /// <param name="slots">Sequences computed together.</param>
    /// <param name="length">Tokens a sequence may have.</param>
    /// <param name="ct">Gives up.</param>
    /// <exception cref="CommandException">It is not there, or did not come to be healthy.</exception>
    public static async Task<LlamaServer> StartAsync(string program, string model, int threads, int slots, int length,
        CancellationToken ct)
    {
        int port = FreePort();
        Process process =
            ChildProcess.Start(Path.GetFullPath(program),
                ["-m", Path.GetFullPath(model), "-t", $"{threads}", "-ngl", "0", "--host", "127.0.0.1", "--port",
                    $"{port}", "-np", $"{slots}", "-c", $"{slots * length}"]);
        LlamaServer server = new(process, new Uri($"http://127.0.0.1:{port}"));
        StringBuilder log = new();
        void Logged(object sender, DataReceivedEventArgs line)
        {
            if (line.Data is not null) lock (log) log.AppendLine(line.Data);
        }
        process.OutputDataReceived += Logged;
        process.ErrorDataReceived += Logged;
        process.BeginOutputReadLine();
        process.BeginErrorReadLine();
        using CancellationTokenSource limited = CancellationTokenSource.CreateLinkedTokenSource(ct);
        limited.CancelAfter(StartTime);
        using HttpClient http = new(new SocketsHttpHandler { UseProxy = false });
        try
        {
            while (!await IsHealthyAsync())
            {
                if (process.HasExited)
                {
                    await process.WaitForExitAsync(ct); // its last lines, too
                    lock (log) throw new CommandException(
                        $"{program} ended with exit code {process.ExitCode} before it was "
                            + $"ready: {ChildProcess.End(log.ToString())}");
                }
                await Task.Delay(TimeSpan.FromMilliseconds(100), limited.Token);
            }
            return server;
        }
        catch (Exception e)
        {
            server.Dispose();
            if (e is OperationCanceledException && !ct.IsCancellationRequested)
                throw new CommandException($"{program} was not ready after {StartTime.TotalMinutes:0} minutes");
            throw;
        }

        async Task<bool> IsHealthyAsync()
        {
            try
            {
                using HttpResponseMessage health = await http.GetAsync(new Uri(server.Url, "health"), limited.Token);
                return health.IsSuccessStatusCode;
            }
            catch (HttpRequestException)
            {
                return false; // nobody listens yet
            }
        }
    }

    public void Dispose()
    {
        if (!_process.HasExited) _process.Kill(entireProcessTree: true);
        _process.Dispose();
    }

    private static int FreePort()
    {
        using TcpListener listener = new(IPAddress.Loopback, 0);
        listener.Start();
        return ((IPEndPoint)listener.LocalEndpoint).Port;
    }
}
