using Native.Kernels;
using Native.Server;

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
    public void EveryOption_IsRead()
    {
        int? exit = Parse(["--model", "m.gguf", "--served-model-name=x", "--host", "localhost", "--port", "0", "--grpc-port", "1234", "--backend", "CPU", "--threads", "3",
            "--max-model-len", "100", "--max-num-seqs", "5", "--max-num-batched-tokens", "50", "--max-num-queued-reqs", "9", "--block-size", "32", "--kv-cache-dtype", "q8_0",
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
    public void Mistakes_AreToldAllAtOnce()
    {
        int? exit = Parse(["--port", "99999", "--threads", "many", "--host", "no host", "--kv-cache-dtype", "f8", "--block-size", "--seed", "1", "--seed", "2", "--nonsense", "--max-num-seqs", "600"], out _, out _, out string error);
        Assert.Equal(CommandLine.Misused, exit);
        Assert.All(["--port is 99999", "--threads is 'many'", "--host is 'no host'", "--kv-cache-dtype is 'f8'; it must be one of auto, f16", "--block-size has no value", "--seed is given more than once", "--nonsense", "below --max-num-seqs (600)"],
            expected => Assert.Contains(expected, error));
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
