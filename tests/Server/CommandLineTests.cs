using System.Globalization;
using Native.Kernels;
using Native.Kernels.Models;
using Native.Scheduling;
using Native.Scheduling.Slo;
using Native.Server;
using Native.Server.Tenancy;

namespace Native.Tests.Server;

public sealed class CommandLineTests
{
    [Fact]
    public void Defaults_NeedNoArguments()
    {
        Assert.Null(Parse([], out ServerOptions options, out _, out _));
        Assert.Equal(new ServerOptions(), options);
    }

    [Fact]
    public void TheBackend_ReachesTheLoader_AndAnUnknownOneIsRefusedWithThoseThatAreHere()
    {
        Parse(["--backend", "cpu"], out ServerOptions options, out _, out _);
        Assert.Equal("cpu", options.ToModelOptions("m.gguf").Backend);
        Assert.Equal(2, Parse(["--backend", "npu"], out _, out _, out string error));
        Assert.Contains("--backend is 'npu'; it must be one of auto, cpu, cuda, ilgpu.", error);
    }

    [Fact]
    public void WhatAGpuIsTold_ReachesTheLoader()
    {
        string[] args = ["--backend", "CUDA", "--device", "H200", "--backend-fallback", "CPU",
            "--gpu-memory-utilization", "0.5"];
        Assert.Null(Parse(args, out ServerOptions options, out _, out _));
        ModelOptions told = options.ToModelOptions("m.gguf");
        Assert.Equal(("cuda", "H200", "cpu", 0.5),
            (told.Backend, told.Device, told.BackendFallback, told.GpuMemoryUtilization));
        Assert.Null(Parse(["--backend-fallback", "none"], out options, out _, out _));
        Assert.Equal(new ServerOptions(), options);
    }

    [Theory]
    [InlineData("--device is '1', but --backend cpu has no devices.", "--backend", "cpu", "--device", "1")]
    [InlineData("--backend cpu has no GPU's memory", "--backend", "cpu", "--gpu-memory-utilization", "0.5")]
    [InlineData("--kv-cache-dtype is fp8, which GPUs alone keep, but --backend is cpu.", "--backend", "cpu",
        "--kv-cache-dtype", "fp8")]
    [InlineData("--kv-cache-dtype is fp8, which GPUs alone keep, but --backend-fallback is cpu.", "--backend-fallback",
        "cpu", "--kv-cache-dtype", "fp8")]
    [InlineData("--device is empty", "--device", " ")]
    [InlineData("--device has no value", "--device")]
    [InlineData("--backend-fallback is 'cuda'; it must be one of none, cpu.", "--backend-fallback", "cuda")]
    [InlineData("--gpu-memory-utilization is 0; it must be above 0", "--gpu-memory-utilization", "0")]
    [InlineData("--gpu-memory-utilization is -0.1; it must be above 0", "--gpu-memory-utilization", "-0.1")]
    [InlineData("--gpu-memory-utilization is 1.01; it must be above 0", "--gpu-memory-utilization", "1.01")]
    [InlineData("--gpu-memory-utilization is 'NaN'; it must be a number above 0", "--gpu-memory-utilization", "NaN")]
    [InlineData("--gpu-memory-utilization is '90%'; it must be a number above 0", "--gpu-memory-utilization", "90%")]
    [InlineData("--gpu-memory-utilization is '1e999'; it must be", "--gpu-memory-utilization", "1e999")]
    public void WhatNoGpuCanBeTold_IsRefused(string expected, params string[] args)
    {
        Assert.Equal(CommandLine.Misused, Parse(args, out _, out _, out string error));
        Assert.Contains(expected, error);
    }

    [Theory]
    [InlineData("'--gpu-memory-utilisation' is no option. Did you mean --gpu-memory-utilization?",
        "--gpu-memory-utilisation", "0.9")]
    [InlineData("'--treads' is no option. Did you mean --threads?", "--treads=2")]
    [InlineData("'--nothing-like-it' is no option.\n", "--nothing-like-it", "cpu")]
    [InlineData("'model.gguf' is no option.\n", "model.gguf")]
    public void WhatIsNoOption_IsTold_WithTheOneThatWasMeant(string expected, params string[] args)
    {
        Assert.Equal(CommandLine.Misused, Parse(args, out _, out _, out string error));
        Assert.StartsWith($"native: 1 setting is wrong:\n  {expected}", error);
    }

    [Fact]
    public void EveryOption_IsRead()
    {
        int? exit = Parse(["--model", "m.gguf", "--served-model-name=x", "--host", "localhost", "--port", "0", "--grpc-port", "1234", "--backend", "CPU", "--threads", "3",
            "--max-model-len", "100", "--max-num-seqs", "5", "--max-num-batched-tokens", "50",
            "--max-num-queued-reqs", "9", "--max-num-queued-tokens", "5000", "--enable-kv-cache-events", "true",
            "--enable-prefix-caching", "true", "--scheduling-policy", "fcfs",
            "--slo-ttft-ms", "1500", "--slo-tpot-ms", "60.5", "--block-size", "32", "--kv-cache-dtype", "q8_0",
            "--kv-cache-memory", "1.5G", "--seed", "18446744073709551615", "--metrics-compat", "vllm", "--shutdown-timeout", "2.5", "--api-key", "k", "--log-level", "debug"], out ServerOptions options, out _, out string error);
        Assert.True(exit is null, error);
        Assert.Equal(new ServerOptions
        {
            Model = "m.gguf",
            ServedModelName = "x",
            Host = "localhost",
            Port = 0,
            GrpcPort = 1234,
            Backend = "cpu",
            Threads = 3,
            MaxModelLength = 100,
            MaxRunning = 5,
            MaxBatchedTokens = 50,
            MaxQueued = 9,
            MaxQueuedTokens = 5000,
            PrefixCaching = true,
            CacheEvents = true,
            Policy = Native.Scheduling.SchedulingPolicy.Fcfs,
            TtftObjective = TimeSpan.FromMilliseconds(1500),
            TpotObjective = TimeSpan.FromMilliseconds(60.5),
            BlockSize = 32,
            KvCacheType = DType.Q8_0,
            KvCacheBytes = 3L << 29,
            Seed = ulong.MaxValue,
            VllmMetrics = true,
            ShutdownTimeout = TimeSpan.FromSeconds(2.5),
            ApiKey = "k",
            LogLevel = Microsoft.Extensions.Logging.LogLevel.Debug,
        }, options);
    }

    [Fact]
    public void PrefixCaching_CanBeTurnedOff_AndItsEventsWithIt()
    {
        Assert.Null(Parse(["--enable-prefix-caching", "false"], out ServerOptions options, out _, out _));
        Assert.False(options.ToEngineOptions().PrefixCaching);
        Assert.Equal(2, Parse(
            ["--enable-prefix-caching", "false", "--enable-kv-cache-events", "true"], out _, out _, out string error));
        Assert.Contains("--enable-kv-cache-events needs --enable-prefix-caching", error);
    }

    [Fact]
    public void Mistakes_AreToldAllAtOnce()
    {
        int? exit = Parse(["--port", "99999", "--threads", "many", "--host", "no host", "--kv-cache-dtype", "f8", "--block-size", "--seed", "1", "--seed", "2", "--nonsense", "--max-num-seqs", "600"], out _, out _, out string error);
        Assert.Equal(CommandLine.Misused, exit);
        Assert.All(["--port is 99999", "--threads is 'many'", "--host is 'no host'", "--kv-cache-dtype is 'f8'; it must be one of auto, f16", "--block-size has no value", "--seed is given more than once", "--nonsense", "below --max-num-seqs (600)"],
            expected => Assert.Contains(expected, error));
    }

    [Theory]
    [InlineData("soon", "it must be a number of milliseconds.")]
    [InlineData("NaN", "it must be a number of milliseconds.")]
    [InlineData("1e308", "it must be a number of milliseconds below 1000000000.")]
    public void ATimeThatCannotBe_IsToldWhatCan(string text, string expected)
    {
        Assert.Equal(CommandLine.Misused, Parse(["--slo-ttft-ms", text], out _, out _, out string error));
        Assert.Contains($"--slo-ttft-ms is '{text}'; {expected}", error);
    }

    [Fact]
    public void CommandLine_OutranksTheEnvironment()
    {
        Environment.SetEnvironmentVariable("NATIVE_MAX_MODEL_LEN", "77");
        Environment.SetEnvironmentVariable("NATIVE_GRPC_PORT", "nowhere");
        try
        {
            Assert.Null(Parse(["--grpc-port", "5"], out ServerOptions options, out _, out _));
            Assert.Equal((77, 5), (options.MaxModelLength, options.GrpcPort));
            Assert.Null(Parse(["--grpc-port", "5", "--max-model-len", "78"], out options, out _, out _));
            Assert.Equal(78, options.MaxModelLength);
            Assert.Equal(CommandLine.Misused, Parse([], out _, out _, out string error));
            Assert.Contains("NATIVE_GRPC_PORT is 'nowhere'", error);
        }
        finally
        {
            Environment.SetEnvironmentVariable("NATIVE_MAX_MODEL_LEN", null);
            Environment.SetEnvironmentVariable("NATIVE_GRPC_PORT", null);
        }
    }

    private static void WithVariables((string Name, string Value)[] variables, Action test)
    {
        foreach ((string name, string value) in variables) Environment.SetEnvironmentVariable(name, value);
        try
        {
            test();
        }
        finally
        {
            foreach ((string name, _) in variables) Environment.SetEnvironmentVariable(name, null);
        }
    }

    [Fact]
    public void WhatKubernetesSetsForServices_IsNobodysSetting() => WithVariables(
        [("NATIVE_PORT", "tcp://10.0.0.1:8080"), ("NATIVE_GRPC_PORT", "tcp://10.0.0.1:50051"), ("NATIVE_SERVICE_HOST", "10.0.0.1"), ("NATIVE_SERVICE_PORT", "8080"),
            ("NATIVE_SERVICE_PORT_HTTP", "8080"), ("NATIVE_PORT_8080_TCP", "tcp://10.0.0.1:8080"), ("NATIVE_PORT_8080_TCP_PROTO", "tcp"), ("NATIVE_GRPC_PORT_50051_TCP_ADDR", "10.0.0.1")],
        () =>
        {
            Assert.Null(Parse([], out ServerOptions options, out _, out string error));
            Assert.Equal((8080, 50051, ""), (options.Port, options.GrpcPort, error));
        });

    [Fact]
    public void AVariableThatIsNoSetting_IsTold() => WithVariables([("NATIVE_MAXMODEL_LEN", "7")], () =>
    {
        Assert.Null(Parse([], out _, out _, out string error));
        Assert.Contains("NATIVE_MAXMODEL_LEN is no setting", error);
    });

    [Fact]
    public void Help_TellsTheDefaultsThatHold()
    {
        ServerOptions defaults = new();
        Parse(["--help"], out _, out string output, out _);
        string help = string.Join(' ', output.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries));
        Assert.All([$"Default: {defaults.Port}.", $"Default: {defaults.GrpcPort}.", $"Default: {defaults.MaxRunning}.", $"Default: {defaults.MaxBatchedTokens}.",
            $"Default: {defaults.MaxQueued}.", $"Default: {defaults.BlockSize}.", $"Default: {defaults.Host}, so",
            $"Default: {defaults.ShutdownTimeout.TotalSeconds:0}, together Kubernetes",
            "Default: warning.", "which is f16."],
            expected => Assert.Contains(expected, help));
    }

    /// <summary>A culture that writes one and a half as 1,5, whether or not the machine has its own.</summary>
    internal static readonly CultureInfo Comma = MakeComma();

    private static CultureInfo MakeComma()
    {
        CultureInfo culture = (CultureInfo)CultureInfo.InvariantCulture.Clone();
        (culture.NumberFormat.NumberDecimalSeparator, culture.NumberFormat.NumberGroupSeparator, culture.NumberFormat.NegativeSign) = (",", ".", "~");
        return culture;
    }

    [Fact]
    public void Numbers_AreReadAndWrittenAlike_InEveryCulture()
    {
        CultureInfo before = CultureInfo.CurrentCulture;
        CultureInfo.CurrentCulture = Comma;
        try
        {
            Assert.Null(Parse(["--shutdown-timeout", "2.5", "--kv-cache-memory", "1.5G"], out ServerOptions options, out _, out string error));
            Assert.Equal((2.5, 3L << 29, ""), (options.ShutdownTimeout.TotalSeconds, options.KvCacheBytes, error));
            Parse(["--shutdown-timeout", "-2.5"], out _, out _, out error);
            Assert.Contains("--shutdown-timeout is -2.5 seconds", error);
            List<string> errors = [];
            new Native.Scheduling.SamplingParams { TopP = 1.5f }.Validate(10, errors);
            Assert.StartsWith("top_p is 1.5;", errors.Single());
        }
        finally
        {
            CultureInfo.CurrentCulture = before;
        }
    }

    [Fact]
    public void WhatIsSettledOtherwiseThanOneMayThink_IsWarnedOf()
    {
        ModelConfig config = new() { Architecture = "llama", Name = "m", ContextLength = 256, HiddenSize = 1, LayerCount = 1, FeedForwardSize = 1, Heads = 1, KvHeads = 1, HeadSize = 1, NormEpsilon = 1, RopePairing = default, Rope = null!, Windows = [], AttentionScale = 1 };
        IEnumerable<string> Of(ServerOptions options, int length, SuggestedSampling? suggested = null) =>
            StartupText.Warnings(options, config, new ScriptedRunner(maxModelLength: length).Info, suggested ?? SuggestedSampling.None);
        Assert.Empty(Of(new ServerOptions(), 256));
        Assert.Empty(Of(new ServerOptions { MaxModelLength = 100 }, 100));
        Assert.Contains("made for 256 tokens", Of(new ServerOptions { MaxModelLength = 512 }, 512).Single());
        Assert.Contains("128 of the model's 256 tokens", Of(new ServerOptions(), 128).Single());
        SloObjective tpot = new()
        {
            Name = "pace",
            Sli = SliKind.Tpot,
            Threshold = TimeSpan.FromSeconds(0.06),
            Percent = 99,
        };
        ServerOptions slo = new() { Slo = new SloSpec([tpot]) };
        Assert.Contains("pace's threshold of 0.06 s is no bucket", Of(slo, 256).Single());
        ServerOptions fcfs = new() { Policy = SchedulingPolicy.Fcfs };
        Assert.Empty(Of(fcfs, 256));
        Assert.Contains("promise nothing", Of(fcfs with { TpotObjective = TimeSpan.FromSeconds(1) }, 256).Single());
        TenantEntry heavy = new(new TenantSpec { Name = "a", Weight = 2 }, ["key-a"]);
        Assert.Contains("weights are nothing", Of(fcfs with { Tenants = [heavy] }, 256).Single());
        SloSpec ofTenant = new([tpot with { Tenant = "b", Threshold = TimeSpan.FromSeconds(0.05) }]);
        TenantEntry a = new(new TenantSpec { Name = "a" }, ["key-a"]);
        Assert.Empty(Of(new ServerOptions { Slo = ofTenant }, 256)); // a header may name any
        Assert.Contains("pace speaks of the tenant 'b', whom --tenants does not name",
            Of(new ServerOptions { Slo = ofTenant, Tenants = [a] }, 256).Single());
        tpot = tpot with { Threshold = TimeSpan.FromSeconds(0.05) };
        Assert.Empty(Of(slo with { Slo = new SloSpec([tpot]) }, 256));
        SuggestedSampling odd = SuggestedSampling.None with { Warnings = ["top_p is 0"] };
        Assert.Equal(["top_p is 0"], Of(new ServerOptions(), 256, odd));
        Assert.Empty(Of(new ServerOptions { UseSuggestedSampling = false }, 256, odd));
    }

    [Fact]
    public void Help_TellsEveryOption_AndWhereElseItCanBeSet()
    {
        Assert.Equal(CommandLine.Success, Parse(["--help"], out _, out string output, out _));
        Assert.All(CommandLine.Settings, setting => Assert.Contains(setting.Name, output));
        Assert.Contains("NATIVE_MAX_MODEL_LEN", output);
        Assert.Contains("appsettings.json", output);
        Assert.Contains("Exit codes", output);
    }

    private static int? Parse(string[] args, out ServerOptions options, out string output, out string error)
    {
        using StringWriter text = new();
        using StringWriter errors = new();
        int? exit = CommandLine.Parse(args, text, errors, out options);
        output = text.ToString();
        error = errors.ToString();
        return exit;
    }
}
