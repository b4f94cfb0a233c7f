using System.Globalization;
using Native.Server;

// Numbers are read and written alike on every machine.
CultureInfo.CurrentCulture = CultureInfo.CurrentUICulture = CultureInfo.InvariantCulture;
CultureInfo.DefaultThreadCurrentCulture = CultureInfo.DefaultThreadCurrentUICulture = CultureInfo.InvariantCulture;
SteadyOutput.Install();
if (CommandLine.Parse(args, Console.Out, Console.Error, out ServerOptions options) is { } exit) return exit;

using Signals signals = new();
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
    Task<string?> loading = Task.Factory.StartNew(() => ModelLoading.Load(server), TaskCreationOptions.LongRunning);
    await Task.WhenAny(loading, signals.Asked);
    if (loading.IsCompleted && await loading is { } mistake)
    {
        Console.Error.WriteLine($"native: {mistake}");
        return CommandLine.Failed;
    }
    if (loading.IsCompleted) StartupText.Write(server, Console.Out);
    await signals.Asked;
    // nothing runs; loading cannot be interrupted
    if (server.Host.Model is not { } model) Environment.Exit(CommandLine.Success);
    else
    {
        if (model.Engine.Metrics.Running + model.Engine.Metrics.Waiting > 0)
            Console.Error.WriteLine(
                $"native: draining, at most {options.ShutdownTimeout.TotalSeconds:0.#} s; a second signal cuts "
                    + $"requests off");
        Task<bool> drained = server.DrainAsync();
        if (await Task.WhenAny(drained, signals.Hurried) == signals.Hurried)
        {
            if (!drained.IsCompleted) Console.Error.WriteLine("native: requests were cut off by a second signal");
            // the step at hand takes longer than anybody wants to wait
            if (!await server.CutOffAsync()) Environment.Exit(await signals.Hurried);
            await server.DisposeAsync(); // tells the streams their end
            return await signals.Hurried;
        }
        if (!await drained) Console.Error.WriteLine("native: requests were cut off at the end of --shutdown-timeout");
    }
}
return CommandLine.Success;
