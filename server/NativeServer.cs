using System.Net;
using System.Net.Sockets;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Connections;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Hosting.Server;
using Microsoft.AspNetCore.Hosting.Server.Features;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Routing;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Console;
using Native.Scheduling;
using Native.Scheduling.Slo;
using Native.Server.Http;
using Native.Server.Metrics;
using Native.Server.Serving;
using Native.Server.Slo;

namespace Native.Server;

/// <summary>The server as a whole: listens at once, serves when a model is given to it, drains when it is told to
/// end.</summary>
internal sealed class NativeServer : IAsyncDisposable
{
    /// <summary>How long connections may take to end once nothing is computed any more.</summary>
    private static readonly TimeSpan LastBytes = TimeSpan.FromSeconds(5);

    /// <summary>How often the engine's records and heartbeat are looked at.</summary>
    private static readonly TimeSpan LookEvery = TimeSpan.FromMilliseconds(250);

    private readonly WebApplication _app;
    private readonly RequestMetrics _metrics;
    private readonly Timer _looking;
    private BudgetKeeper? _keeper;
    private ServedModel? _broken; // the last that was noticed to be
    private int _disposed;

    private NativeServer(ServerOptions options)
    {
        Options = options;
        EngineOptions = options.ToEngineOptions() with
        {
            Budgets = options.Slo is { } spec ? new BudgetLedger(spec) : null,
        };
        Host = new ModelHost(options.StallAfter);
        _metrics = new RequestMetrics(Host, options.VllmMetrics);
        _app = Build();
        // The engine keeps a few thousand records of ended requests; at this rate nothing is lost, whoever scrapes or
        // not.
        _looking = new Timer(_ => Look(), null, LookEvery, LookEvery);
    }

    public ServerOptions Options { get; }

    /// <summary>What the one engine is told.</summary>
    public EngineOptions EngineOptions { get; }

    public ModelHost Host { get; }

    /// <summary>Loads the model that takes the place of one whose device broke; null where none is to. It takes as
    /// long as that.</summary>
    public Func<ServedModel>? Replacement { get; set; }

    /// <summary>Where HTTP is served, e.g. <c>http://127.0.0.1:8080</c>.</summary>
    public Uri HttpAddress => Addresses()[0];

    /// <summary>Where gRPC is served.</summary>
    public Uri GrpcAddress => Addresses()[1];

    /// <summary>Every route there is.</summary>
    public IEnumerable<Endpoint> Endpoints =>
        ((IEndpointRouteBuilder)_app).DataSources.SelectMany(source => source.Endpoints);

    /// <summary>Begins to listen. Until <see cref="ModelHost.Serve"/>, everything but health and metrics is refused as
    /// unavailable.</summary>
    /// <exception cref="IOException">A port is in use or may not be bound, or the address is not this
    /// machine's.</exception>
    public static async Task<NativeServer> StartAsync(ServerOptions options)
    {
        NativeServer server = new(options);
        try
        {
            await server._app.StartAsync();
            return server;
        }
        catch (SocketException e) // Kestrel's own word is for ports in use alone
        {
            await server.DisposeAsync();
            throw new IOException(
                $"Failed to bind to {options.Address}, ports {options.Port} and {options.GrpcPort}: {e.Message}.", e);
        }
        catch
        {
            await server.DisposeAsync();
            throw;
        }
    }

    /// <summary>Puts back the error budgets that <see cref="ServerOptions.SloState"/> keeps, and keeps them from now
    /// on. Called once, before the engine counts.</summary>
    /// <inheritdoc cref="BudgetKeeper(string, BudgetLedger, Microsoft.Extensions.Logging.ILogger)" path="/exception"/>
    public void KeepBudgets()
    {
        if (Options.SloState is not { } path || EngineOptions.Budgets is not { } budgets) return;
        _keeper = new BudgetKeeper(
            path, budgets, _app.Services.GetRequiredService<ILoggerFactory>().CreateLogger<BudgetKeeper>());
    }

    /// <summary>Refuses what is new and lets what runs end, at most <see cref="ServerOptions.ShutdownTimeout"/>
    /// long.</summary>
    /// <returns>True where everything ended by itself.</returns>
    public Task<bool> DrainAsync() => Host.DrainAsync(Options.ShutdownTimeout);

    /// <summary>Aborts what runs. False where the step at hand did not end in time, so that the engine could not be
    /// told.</summary>
    public async Task<bool> CutOffAsync()
    {
        Task<bool> ended = Host.DrainAsync(TimeSpan.Zero);
        return await Task.WhenAny(ended, Task.Delay(LastBytes)) == ended;
    }

    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0) return;
        await _looking.DisposeAsync();
        using CancellationTokenSource patience = new(LastBytes);
        try
        {
            await _app.StopAsync(patience.Token);
        }
        catch (OperationCanceledException)
        {
            // A client that does not take its last bytes is left.
        }
        await _app.DisposeAsync();
        Host.Dispose();
        _keeper?.Dispose(); // what ended last is in it
    }

    private void Look()
    {
        if (Host.CheckHeartbeat() is { } news) _app.Logger.LogWarning("{News}", news);
        _metrics.Collect();
        if (Host.Model is { Engine.Fault: { } fault } model && Interlocked.Exchange(ref _broken, model) != model)
            Replace(model, fault);
    }

    /// <summary>Has another engine take the place of a broken one, with a runner of its own: blocks, prefix cache and
    /// plans that were made for what is lost are lost with it. Its requests have ended; they can be sent again.
    /// </summary>
    private void Replace(ServedModel broken, Exception fault)
    {
        _app.Logger.LogError("What computes is broken: {Fault}", fault.Message);
        Func<ServedModel>? load = Replacement;
        Replacement = null; // what takes its place is the last
        Host.Break(fault.Message, isReplaced: load is not null);
        if (load is null) return;
        Task.Factory.StartNew(() =>
        {
            try
            {
                broken.Dispose(); // its engine writes the error budgets no more
                _metrics.Collect(); // how its last requests ended
                ServedModel model = load();
                Host.Serve(model);
                _metrics.Collect();
                _app.Logger.LogWarning("The model is served again, by {Backend}.", model.Info.Backend);
            }
            catch (Exception e)
            {
                _app.Logger.LogError("Nothing takes its place: {Mistake}", e.Message);
                Host.Break($"{fault.Message} Nothing takes its place: {e.Message}", isReplaced: false);
            }
        }, CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
    }

    private WebApplication Build()
    {
        // Empty: nothing reads the environment, the command line or appsettings.json but CommandLine.
        WebApplicationBuilder builder =
            WebApplication.CreateEmptyBuilder(
                new WebApplicationOptions { ApplicationName = typeof(NativeServer).Assembly.GetName().Name });
        builder.WebHost.UseKestrelCore().ConfigureKestrel(Configure);
        builder.Logging.AddSimpleConsole(console =>
        {
            console.SingleLine = true;
            console.TimestampFormat = "HH:mm:ss.fff ";
        });
        builder.Logging.AddFilter(
            (category, level) => level >= Options.LogLevel
                && (level >= LogLevel.Warning || category?.StartsWith("Native", StringComparison.Ordinal) == true));
        // What a caller did wrong is told to the caller; this would tell it again, with a stack trace.
        builder.Logging.AddFilter("Grpc.AspNetCore.Server", LogLevel.Critical);
        // The same of what StartAsync throws: a port in use.
        builder.Logging.AddFilter("Microsoft.Extensions.Hosting", LogLevel.None);
        builder.Services.Configure<ConsoleLoggerOptions>(console =>
        {
            console.LogToStandardErrorThreshold = LogLevel.Trace;
            // whoever does not read the log loses lines of it, and holds up no request
            console.QueueFullMode = ConsoleLoggerQueueFullMode.DropWrite;
        });
        builder.Services.Configure<HostOptions>(host => host.ShutdownTimeout = LastBytes);
        builder.Services.AddRoutingCore();
        builder.Services.AddSingleton<IHostLifetime, NoLifetime>();
        builder.Services.AddSingleton(Host);
        builder.Services.AddSingleton(_metrics);
        builder.Services.AddSingleton(new RequestEvents(_metrics.FirstToken, _metrics.Refused));
        builder.Services.AddSingleton(RuntimeMetrics.OfThisProcess);
        builder.Services.AddSingleton<Exposition>();
        builder.Services.AddSingleton(new ApiKey(Options.ApiKey, Options.Tenants, Options.TrustsFairnessHeader));
        builder.Services.AddSingleton(new SlowReader(Options.ReaderPatience));
        builder.Services.AddSingleton(new StreamPings(Options.PingEvery));
        builder.Services.AddSingleton(EngineOptions);
        foreach (IProtocol protocol in Protocols.All) protocol.AddServices(builder.Services);

        WebApplication app = builder.Build();
        HttpServer.Map(app);
        return app;
    }

    private void Configure(KestrelServerOptions kestrel)
    {
        kestrel.AddServerHeader = false;
        kestrel.Limits.MaxConcurrentConnections = MaxConnections();
        kestrel.Limits.MaxRequestBodySize = RequestBody.MaxBytes;
        // half a request is given up; Kestrel's 30 let twice as many wait
        kestrel.Limits.RequestHeadersTimeout = TimeSpan.FromSeconds(15);
        // gRPC clients put every call on one connection; Kestrel's 100 would queue the rest
        kestrel.Limits.Http2.MaxStreamsPerConnection = 1024;
        // a client that vanished without a word frees its blocks within a minute
        kestrel.Limits.Http2.KeepAlivePingDelay = TimeSpan.FromSeconds(30);
        kestrel.Limits.Http2.KeepAlivePingTimeout = TimeSpan.FromSeconds(20);
        Listen(Options.Port, HttpProtocols.Http1);
        Listen(Options.GrpcPort, HttpProtocols.Http2);

        void Listen(int port, HttpProtocols protocols)
        {
            IPAddress address = Options.Address ?? throw new ArgumentException($"'{Options.Host}' is no address.");
            // Any address is IPv4's alone where the system has no IPv6.
            if (address.Equals(IPAddress.IPv6Any)) kestrel.ListenAnyIP(port, listen => listen.Protocols = protocols);
            else kestrel.Listen(address, port, listen => listen.Protocols = protocols);
        }
    }

    /// <summary>
    /// Connection limit, HTTP and gRPC together: 16,384, or the file limit less 256. Above the file limit accept()
    /// fails silently.
    /// </summary>
    private static long MaxConnections()
    {
        const int Most = 16384, OwnFiles = 256;
        const string Line = "Max open files";
        // The soft limit, the first number; the runtime has raised it to the hard one.
        string? limits =
            OperatingSystem.IsLinux()
                ? File.ReadLines("/proc/self/limits")
                    .FirstOrDefault(line => line.StartsWith(Line, StringComparison.Ordinal)) : null;
        return limits is not null
            && long.TryParse(limits[Line.Length..].Split(' ', StringSplitOptions.RemoveEmptyEntries)[0], out long files)
            ? Math.Clamp(files - OwnFiles, 16, Most)
            : Most;
    }

    /// <summary>Signals are for whoever started the server: the host's own lifetime would tell all streams to end at
    /// SIGTERM, while the rest still drains.</summary>
    private sealed class NoLifetime : IHostLifetime
    {
        public Task WaitForStartAsync(CancellationToken cancellationToken) => Task.CompletedTask;

        public Task StopAsync(CancellationToken cancellationToken) => Task.CompletedTask;
    }

    private Uri[] Addresses() =>
        [.. _app.Services.GetRequiredService<IServer>().Features.Get<IServerAddressesFeature>()!.Addresses.Select(
            address => new Uri(address))];
}
