using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using Native.Kernels.Models;
using Native.Scheduling;
using Native.Server;
using Native.Server.Http;
using Native.Server.Hub;
using Native.Server.Jinja;
using Native.Server.Serving;

// Numbers are read and written alike on every machine.
CultureInfo.CurrentCulture = CultureInfo.CurrentUICulture = CultureInfo.InvariantCulture;
CultureInfo.DefaultThreadCurrentCulture = CultureInfo.DefaultThreadCurrentUICulture = CultureInfo.InvariantCulture;
SteadyOutput.Install();
if (CommandLine.Parse(args, Console.Out, Console.Error, out ServerOptions options) is { } exit) return exit;

// First signal: drain. Second: cut off. Third: exit. Signals within 0.5 s count as one, because timeout(1) and some
// shells signal both the process and its group.
TaskCompletionSource asked = new(TaskCreationOptions.RunContinuationsAsynchronously);
TaskCompletionSource<int> hurried = new(TaskCreationOptions.RunContinuationsAsynchronously);
long firstSignal = 0;
void OnSignal(PosixSignalContext signal)
{
    signal.Cancel = true;
    if (Interlocked.CompareExchange(ref firstSignal, Stopwatch.GetTimestamp(), 0) == 0)
    {
        asked.SetResult();
        return;
    }
    if (Stopwatch.GetElapsedTime(firstSignal).TotalSeconds < 0.5) return;
    int code = 128 + (signal.Signal == PosixSignal.SIGINT ? 2 : 15);
    if (!hurried.TrySetResult(code)) Environment.Exit(code);
}
using PosixSignalRegistration terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, OnSignal);
using PosixSignalRegistration interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, OnSignal);

NativeServer server;
try
{
    server = await NativeServer.StartAsync(options);
}
catch (IOException e)
{
    Console.Error.WriteLine($"native: {e.Message} (--host, --port and --grpc-port choose others)");
    return CommandLine.Failed;
}

await using (server)
{
    // On a thread of its own: requests are answered "loading" meanwhile.
    Task<string?> loading = Task.Factory.StartNew(() => Load(server), TaskCreationOptions.LongRunning);
    await Task.WhenAny(loading, asked.Task);
    if (loading.IsCompleted && await loading is { } mistake)
    {
        Console.Error.WriteLine($"native: {mistake}");
        return CommandLine.Failed;
    }
    if (loading.IsCompleted) StartupText.Write(server, Console.Out);
    await asked.Task;
    if (server.Host.Model is not { } model) Environment.Exit(CommandLine.Success); // nothing runs; loading cannot be interrupted
    else
    {
        if (model.Engine.Metrics.Running + model.Engine.Metrics.Waiting > 0)
            Console.Error.WriteLine($"native: draining, at most {options.ShutdownTimeout.TotalSeconds:0.#} s; a second signal cuts requests off");
        Task<bool> drained = server.DrainAsync();
        if (await Task.WhenAny(drained, hurried.Task) == hurried.Task)
        {
            if (!drained.IsCompleted) Console.Error.WriteLine("native: requests were cut off by a second signal");
            if (!await server.CutOffAsync()) Environment.Exit(await hurried.Task); // the step at hand takes longer than anybody wants to wait
            await server.DisposeAsync(); // tells the streams their end
            return await hurried.Task;
        }
        if (!await drained) Console.Error.WriteLine("native: requests were cut off at the end of --shutdown-timeout");
    }
}
return CommandLine.Success;

// Loads the model and serves it; what went wrong otherwise.
static string? Load(NativeServer server)
{
    string path = server.Options.Model ?? Path.Combine(AppContext.BaseDirectory, "models", "demo.gguf");
    ProgressLine progress = new();
    try
    {
        string? name = server.Options.ServedModelName;
        if (HubReference.TryParse(path, out HubReference? reference))
        {
            using ModelHub hub = new(HubOptions.FromEnvironment());
            // This thread is for waiting. Whoever ends the server meanwhile ends the download too; the next start goes on from what arrived.
            HubModel model = hub.ResolveAsync(reference, progress, CancellationToken.None).GetAwaiter().GetResult();
            path = model.Path;
            name ??= model.Name;
        }
        LoadedModel loaded = LoadedModel.Load(server.Options.ToModelOptions(path), progress);
        string full = Path.TrimEndingDirectorySeparator(Path.GetFullPath(path));
        name ??= Directory.Exists(full) ? Path.GetFileName(full) : Path.GetFileNameWithoutExtension(full);
        SamplingParams defaults = server.Options.ToSamplingDefaults(loaded.Suggested);
        ServedModel served = new(name, loaded.Runner, loaded.Tokenizer, defaults, server.Options.ToEngineOptions());
        // A template that does not parse is told now, not to the first client.
        _ = (served.Template, served.ToolTemplate);
        server.Host.Serve(served);
        return null;
    }
    catch (ModelOptionsException e)
    {
        server.Host.Fail();
        return $"{e.Message} (--kv-cache-memory, --max-model-len and --max-num-seqs decide)";
    }
    catch (Exception e) when (e is IOException or InvalidDataException or NotSupportedException or UnauthorizedAccessException or OutOfMemoryException)
    {
        server.Host.Fail();
        return e.Message;
    }
    catch (TemplateException e)
    {
        server.Host.Fail();
        return $"{path}: the chat template does not parse, line {e.Line}, column {e.Column}: {e.Message}";
    }
    finally
    {
        progress.Clear();
    }
}
