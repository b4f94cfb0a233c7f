using System.Collections;
using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Invocation;
using System.CommandLine.Parsing;
using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;
using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.Logging;
using Native.Kernels;
using Native.Kernels.Cpu;
using Native.Kernels.Models;
using Native.Scheduling;
using Native.Server.Serving;
using Native.Server.Slo;
using Native.Server.Tenancy;

namespace Native.Server;

/// <summary>One setting: how it is named, explained and read. The three places it can come from read it
/// alike.</summary>
/// <param name="Group">The heading it stands under in the help.</param>
/// <param name="Name">On the command line, e.g. <c>--max-model-len</c>; the environment and appsettings.json derive
/// theirs from it.</param>
/// <param name="Value">What stands for the value in the help.</param>
/// <param name="Help">What it does, why one would change it, and the default.</param>
/// <param name="Read">Sets it. Throws <see cref="FormatException"/> with what was expected.</param>
internal sealed record Setting(string Group, string Name, string Value, string Help,
    Func<ServerOptions, string, ServerOptions> Read)
{
    /// <summary>E.g. <c>NATIVE_MAX_MODEL_LEN</c>.</summary>
    public string Variable => "NATIVE_" + Name[2..].Replace('-', '_').ToUpperInvariant();

    /// <summary>E.g. <c>Native:MaxModelLen</c>.</summary>
    public string Key =>
        "Native:" + string.Concat(Name[2..].Split('-').Select(word => char.ToUpperInvariant(word[0]) + word[1..]));
}

/// <summary>Reads the server's settings: command line over environment over appsettings.json over defaults. Every
/// mistake is told at once.</summary>
internal static partial class CommandLine
{
    /// <summary>Exit code after <c>--help</c> and <c>--version</c>, and of a server that was asked to end.</summary>
    public const int Success = 0;

    /// <summary>Exit code where the server could not start or failed: port in use, bad model file, no memory for the KV
    /// cache.</summary>
    public const int Failed = 1;

    /// <summary>Exit code for wrong settings.</summary>
    public const int Misused = 2;

    private static readonly ServerOptions Defaults = new();

    private static readonly CultureInfo Invariant = CultureInfo.InvariantCulture;

    public static readonly Setting[] Settings =
    [
        new("Model", "--model", "PATH",
            "A GGUF file, or a Hugging Face folder with config.json and safetensors; or hf:ORG/REPO[/FILE][@REVISION] "
                + "on the Hugging Face hub, which is downloaded where the cache lacks it. Default: the small demo "
                + "model that ships with the server.", (o, v) => o with { Model = v }),
        new("Model", "--served-model-name", "NAME",
            "The name clients ask for. Default: the file's or folder's name; ORG/REPO for a folder from the hub.",
            (o, v) => o with { ServedModelName = v }),
        new("Model", "--max-model-len", "TOKENS",
            "Tokens a sequence may have, prompt and output together. Default: what the model was made for, as far as "
                + "the KV cache holds it.", (o, v) => o with { MaxModelLength = Int(v) }),

        new("Model", "--generation-config", "auto|none",
            "Whether requests that say nothing of temperature, top_k, top_p, min_p or repetition_penalty get what the "
                + "model's makers recommend (generation_config.json, or general.sampling in a GGUF file). Default: "
                + "auto, which does.", (o, v) => o with { UseSuggestedSampling = Choice(v, "auto", "none") == "auto" }),

        new("Network", "--host", "ADDRESS",
            "Address to listen on: an IP address, localhost, or * for every address. Default: "
            + $"{Defaults.Host}, so that nobody else reaches a server without --api-key.",
            (o, v) => o with { Host = v }),
        new("Network", "--port", "PORT",
            "HTTP/1.1: the OpenAI API, /healthz, /readyz, /metrics. 0 lets the system choose. Default: "
            + $"{Defaults.Port}.",
            (o, v) => o with { Port = Int(v) }),
        new("Network", "--grpc-port", "PORT",
            $"gRPC (HTTP/2 without TLS). 0 lets the system choose. Default: {Defaults.GrpcPort}.",
            (o, v) => o with { GrpcPort = Int(v) }),
        new("Network", "--api-key", "KEY",
            "Clients must send 'Authorization: Bearer KEY', over HTTP and gRPC; health and metrics need none. "
            + "Prefer the environment: other users of the machine see command lines. Default: none.",
            (o, v) => o with { ApiKey = v }),
        new("Network", "--tenants", "FILE",
            "Tenants in YAML (server/Tenancy/README.md has an example): their API keys, their weights while others "
                + "wait too, and how many requests and tokens a minute they may have. Default: none; all share alike.",
            (o, v) => o with { Tenants = TenantFile.Read(v) }),
        new("Network", "--trust-fairness-header", "true|false",
            "Whether the header x-llm-d-inference-fairness-id names the tenant also where a key is asked for: only "
                + "behind a gateway that sets it. Without keys it always does. Default: false.",
            (o, v) => o with { TrustsFairnessHeader = Choice(v, "true", "false") == "true" }),
        new("Network", "--shutdown-timeout", "SECONDS",
            "How long running requests may take to end after SIGTERM or Ctrl-C; a second signal cuts them "
            + $"off. Readers get 5 more for their last bytes. Default: {Defaults.ShutdownTimeout.TotalSeconds:0}, "
            + "together Kubernetes' grace period.",
            (o, v) => o with { ShutdownTimeout = Seconds(v) }),

        new("Compute", "--backend", string.Join('|', BackendFactory.Names),
            "What computes: the processors (cpu), an NVIDIA GPU (cuda), which needs its driver and nothing else, or a "
            + "GPU by kernels in C# for CUDA and OpenCL (ilgpu; tried on processors as an OpenCL device alone, which "
            + $"are taken where --device names them). Default: {Defaults.Backend}, which takes a GPU by cuda or ilgpu "
            + "where one can be used, else the CPU, and tells which.",
            (o, v) => o with { Backend = v.ToLowerInvariant() }),
        new("Compute", "--device", "NUMBER|NAME",
            "Which GPU, where there are several: its number, as the driver counts them (CUDA_VISIBLE_DEVICES and "
                + "CUDA_DEVICE_ORDER decide), or a part of its name that only one has, such as h200. Default: the "
                + "first that can run the kernels.",
            (o, v) => o with { Device = v }),
        new("Compute", "--backend-fallback", "none|cpu",
            "What computes where the backend can't be started (no driver, no GPU, too little memory), or where its GPU "
                + "breaks while requests run: these end with an error then, and once the model is loaded again new "
                + "ones are served, slower. Default: none; the server ends, or refuses requests and tells why.",
            (o, v) => o with { BackendFallback = Choice(v, "none", "cpu") is "cpu" ? "cpu" : null }),
        new("Compute", "--gpu-memory-utilization", "PART",
            "The part of a GPU's memory that may be taken, above 0 and at most 1, with what other processes hold of "
                + "it. Weights and scratch take what they need, the KV cache the rest. Lower it where memory runs out "
                + $"under load, or others need some. Default: {Defaults.GpuMemoryUtilization.ToString(Invariant)}.",
            (o, v) => o with { GpuMemoryUtilization = Part(v) }),
        new("Compute", "--threads", "N",
            "Worker threads. More than there are cores only wait for each other. Default: one for each physical core.",
            (o, v) => o with { Threads = Int(v) }),
        new("Compute", "--kv-cache-dtype", "auto|f16|bf16|f32|q8_0|fp8",
            "Element type of the KV cache. q8_0 takes 53 % of f16's memory and reads, at some loss of "
            + "accuracy; fp8 half of them on GPUs from compute capability 8.9 on, at more; f32 doubles both, for exact "
            + "comparisons. Default: auto, which is "
            + $"{Name(Defaults.KvCacheType)}.",
            (o, v) => o with { KvCacheType = KvType(v) }),
        new("Compute", "--kv-cache-memory", "BYTES",
            "Memory for the KV cache, with K, M or G for powers of 1024. More holds more and longer sequences at "
                + "once. Default: what --max-num-seqs sequences can need, on the CPU at most 4G and half of the free "
                + "memory, on a GPU at most what is left of --gpu-memory-utilization.",
            (o, v) => o with { KvCacheBytes = Bytes(v) }),
        new("Compute", "--block-size", "TOKENS",
            "Tokens a KV block holds. Smaller wastes less memory, larger streams better. Default: "
            + $"{Defaults.BlockSize}.",
            (o, v) => o with { BlockSize = Int(v) }),

        new("Scheduling", "--max-num-seqs", "N",
            "Sequences computed together. More raise throughput and inter-token latency. Default: "
            + $"{Defaults.MaxRunning}.",
            (o, v) => o with { MaxRunning = Int(v) }),
        new("Scheduling", "--max-num-batched-tokens", "TOKENS",
            "Tokens computed per step; prompts are cut to fit. Less keeps streams smoother while prompts "
            + $"come in. Default: {Defaults.MaxBatchedTokens}.",
            (o, v) => o with { MaxBatchedTokens = Int(v) }),
        new("Scheduling", "--max-num-queued-reqs", "N",
            "Requests that may wait; more are refused with 429 and RESOURCE_EXHAUSTED. Default: "
            + $"{Defaults.MaxQueued}.",
            (o, v) => o with { MaxQueued = Int(v) }),
        new("Scheduling", "--max-num-queued-tokens", "TOKENS",
            "Prompt tokens that may wait, over all requests; a request that would make them more is refused likewise, "
                + "unless nobody waits. Default: as many as --max-num-queued-reqs requests have.",
            (o, v) => o with { MaxQueuedTokens = Int(v) }),
        new("Scheduling", "--scheduling-policy", "slo|fcfs",
            "Whose turn it is. slo: by class, priority and due time; steps are as long as the due times of running "
                + "streams allow, and a request that would be late is refused at once, with a time to try again, "
                + "unless nobody is before it. fcfs: first come, first served. Default: slo.",
            (o, v) => o with
            {
                Policy = Choice(v, "slo", "fcfs") == "slo" ? SchedulingPolicy.Slo : SchedulingPolicy.Fcfs,
            }),
        new("Scheduling", "--slo-ttft-ms", "MS",
            "When the first token of a request is due, from its arrival, where the request does not say "
                + "(x-llm-d-slo-ttft-ms, or slo.ttft_ms). Default: nothing is promised, and "
                + "such requests count as due in a minute.",
            (o, v) => o with { TtftObjective = Milliseconds(v) }),
        new("Scheduling", "--slo-tpot-ms", "MS",
            "How much later each further token is due (x-llm-d-slo-tpot-ms, or slo.tpot_ms). Default: never.",
            (o, v) => o with { TpotObjective = Milliseconds(v) }),
        new("Scheduling", "--enable-prefix-caching", "true|false",
            "Whether prompts that begin alike share the keys and values of their beginning, so that a system prompt or "
                + "the last turns of a chat are not computed again. Changes no output. Default: true.",
            (o, v) => o with { PrefixCaching = Choice(v, "true", "false") == "true" }),
        new("Scheduling", "--enable-kv-cache-events", "true|false",
            "Whether routers may follow, by gRPC's SubscribeKvEvents, which blocks of tokens are cached here. Whoever "
                + "may call the server then sees the tokens of others' prompts and answers, but for those with a "
                + "cache_salt or of a tenant. Default: false.",
            (o, v) => o with { CacheEvents = Choice(v, "true", "false") == "true" }),
        new("Scheduling", "--seed", "N",
            "Where the seeds of requests without one come from: with the same seed a server answers the same requests "
                + "in the same order alike. Default: drawn at the start.", (o, v) => o with { Seed = Seed(v) }),

        new("Watching", "--slo", "FILE",
            "Service-level objectives in YAML (server/Slo/README.md has an example): their error budgets are kept in "
                + "the engine and told at /metrics; tools slo writes alert rules for them. Default: none.",
            (o, v) => o with { Slo = SloFile.Read(v) }),
        new("Watching", "--slo-state", "FILE",
            "Keeps the error budgets over restarts and crashes, of which at most the last 2 seconds are lost. Default: "
                + "none; then a restart refills them.", (o, v) => o with { SloState = v }),
        new("Watching", "--metrics-compat", "none|vllm",
            "Also expose vLLM's metric names (vllm:...) at /metrics, for its dashboards and gateways. Default: none.",
            (o, v) => o with { VllmMetrics = Choice(v, "none", "vllm") == "vllm" }),
        new("Watching", "--log-level", "LEVEL",
            "trace, debug, information, warning, error, critical or none; debug has a line per request. "
            + $"Default: {Name(Defaults.LogLevel)}.",
            (o, v) => o with { LogLevel = Level(v) }),
    ];

    /// <summary>Reads all settings into <paramref name="options"/>; help and mistakes are written.</summary>
    /// <returns>Null to go on, otherwise the exit code.</returns>
    public static int? Parse(string[] args, TextWriter output, TextWriter error, out ServerOptions options)
    {
        options = new ServerOptions();
        RootCommand root = new("Native: serves a language model over the OpenAI HTTP API and gRPC.");
        Dictionary<Setting, Option<string[]>> known = [];
        foreach (Setting setting in Settings)
        {
            // Any number of values is parsed and counted below, so that a mistake is told beside the others.
            Option<string[]> option = new(setting.Name)
            {
                Description = setting.Help,
                HelpName = setting.Value,
                Arity = ArgumentArity.ZeroOrMore,
            };
            known.Add(setting, option);
            root.Options.Add(option);
        }
        foreach (HelpOption help in root.Options.OfType<HelpOption>()) help.Action = new HelpText();
        root.SetAction(_ => Success);
        ParseResult parsed =
            root.Parse(args, new ParserConfiguration { EnablePosixBundling = false, ResponseFileTokenReplacer = null });
        if (parsed.Action is HelpText or { } and not ParseErrorAction && parsed.Action != root.Action)
            return parsed.Invoke(new InvocationConfiguration { Output = output, Error = error });

        List<string> errors = [.. Mistakes(parsed)];
        IConfiguration? files = ReadFiles(errors);
        foreach (Setting setting in Settings)
        {
            (string? value, string source) = Find(setting, parsed.GetResult(known[setting]), files, errors);
            if (value is null) continue;
            try
            {
                options = setting.Read(options, value);
            }
            catch (ConfigFileException e)
            {
                errors.AddRange(e.Mistakes.Select(mistake => $"{source}: {mistake}"));
            }
            catch (Exception e) when (e is FormatException or OverflowException)
            {
                errors.Add($"{source} is '{(setting.Name == "--api-key" ? "..." : value)}'; it must "
                    + $"be {(e is OverflowException ? "a smaller number" : e.Message)}.");
            }
        }
        options.Validate(errors);
        if (errors.Count == 0)
        {
            foreach (string unknown in Unknown(files)) error.WriteLine($"native: {unknown}; see --help");
            return null;
        }
        error.WriteLine($"native: {errors.Count} {(errors.Count == 1 ? "setting is" : "settings are")} wrong:");
        foreach (string mistake in errors) error.WriteLine($"  {mistake}");
        error.WriteLine("See --help.");
        return Misused;
    }

    /// <summary>What of the command line is no option: an unknown one's values are not told beside it.</summary>
    private static IEnumerable<string> Mistakes(ParseResult parsed)
    {
        IReadOnlyList<string> unmatched = parsed.UnmatchedTokens;
        foreach (ParseError error in parsed.Errors)
            if (!unmatched.Any(token => error.Message.Contains($"'{token}'", StringComparison.Ordinal)))
                yield return error.Message;
        for (int i = 0; i < unmatched.Count; i++)
        {
            bool isValue = i > 0 && !unmatched[i].StartsWith('-') && unmatched[i - 1].StartsWith('-');
            if (isValue) continue;
            string name = unmatched[i].Split('=')[0];
            Setting? near = Settings.MinBy(setting => Distance(setting.Name, name));
            yield return $"'{name}' is no option." + (near is not null && Distance(near.Name, name) <= name.Length / 4
                ? $" Did you mean {near.Name}?" : "");
        }
    }

    /// <summary>Characters to insert, remove or replace until one text is the other (Levenshtein 1966).</summary>
    private static int Distance(string from, string to)
    {
        int[] row = [.. Enumerable.Range(0, to.Length + 1)];
        foreach (char c in from)
        {
            int before = row[0]++;
            for (int j = 1; j <= to.Length; j++)
            {
                int replaced = before + (c == to[j - 1] ? 0 : 1);
                (before, row[j]) = (row[j], Math.Min(replaced, Math.Min(row[j - 1], row[j]) + 1));
            }
        }
        return row[^1];
    }

    private static (string? Value, string Source) Find(Setting setting, OptionResult? result, IConfiguration? files,
        List<string> errors)
    {
        if (result is { Implicit: false })
        {
            if (result.Tokens.Count == 1 && result.IdentifierTokenCount == 1)
                return (result.Tokens[0].Value, setting.Name);
            errors.Add(result.Tokens.Count == 0 ? $"{setting.Name} has no value."
                : $"{setting.Name} is given more than once.");
            return (null, setting.Name);
        }
        if (Environment.GetEnvironmentVariable(setting.Variable) is { } variable
            && (variable.Length > 0 || setting.Name == "--api-key") // an empty key is a broken secret, not an open door
            && !IsServiceLink(setting.Variable, variable)) return (variable, setting.Variable);
        return (files?[setting.Key], $"appsettings.json {setting.Key}");
    }

    /// <summary>Whether a variable is Kubernetes' word for a Service that is named as one of ours begins, e.g.
    /// <c>NATIVE_PORT=tcp://10.0.0.1:80</c>.</summary>
    private static bool IsServiceLink(string name, string value) =>
        name.EndsWith("_PORT", StringComparison.Ordinal) && LinkValue().IsMatch(value) || LinkName().IsMatch(name);

    [GeneratedRegex("^(tcp|udp|sctp)://")]
    private static partial Regex LinkValue();

    [GeneratedRegex("_SERVICE_(HOST|PORT(_.+)?)$|_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")]
    private static partial Regex LinkName();

    /// <summary>A sentence for each name that looks like a setting and is none: a mistyped one would pass in
    /// silence.</summary>
    private static IEnumerable<string> Unknown(IConfiguration? files)
    {
        // What the kernels and the tests read.
        string[] others =
            [CpuOptions.VariantVariable, "NATIVE_DATA", "NATIVE_EXPECT_NO", "NATIVE_FUZZ", "NATIVE_FUZZ_SEED",
                "NATIVE_FUZZ_FIRST"];
        foreach (DictionaryEntry entry in Environment.GetEnvironmentVariables())
        {
            string name = (string)entry.Key;
            if (!name.StartsWith("NATIVE_", StringComparison.Ordinal) || others.Contains(name)
                || IsServiceLink(name, (string?)entry.Value ?? "")) continue;
            if (!Settings.Any(setting => setting.Variable == name))
                yield return $"the environment's {name} is no setting";
        }
        foreach (IConfigurationSection section in files?.GetSection("Native").GetChildren() ?? [])
        {
            if (!Settings.Any(setting => setting.Key.Equals(section.Path, StringComparison.OrdinalIgnoreCase)))
                yield return $"appsettings.json's {section.Path} is no setting";
        }
    }

    private static IConfiguration? ReadFiles(List<string> errors)
    {
        try
        {
            return new ConfigurationBuilder()
                .AddJsonFile(Path.Combine(AppContext.BaseDirectory, "appsettings.json"), optional: true)
                .AddJsonFile(Path.Combine(Environment.CurrentDirectory, "appsettings.json"), optional: true)
                .Build();
        }
        catch (Exception e) when (e is InvalidDataException or IOException or UnauthorizedAccessException)
        {
            errors.Add(e.InnerException is { } inner ? $"{e.Message} {inner.Message}" : e.Message);
            return null;
        }
    }

    private static int Int(string text) =>
        int.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out int value) ? value
            : long.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out _)
                ? throw new FormatException("a smaller number")
            : throw new FormatException("a whole number");

    private static ulong Seed(string text) =>
        ulong.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out ulong value) ? value
        : throw new FormatException("a whole number that is not negative");

    private static TimeSpan Seconds(string text) => TimeSpan.FromSeconds(Time(text, "seconds"));

    private static TimeSpan Milliseconds(string text) => TimeSpan.FromMilliseconds(Time(text, "milliseconds"));

    private static double Time(string text, string unit) =>
        !double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out double value)
            || double.IsNaN(value) ? throw new FormatException($"a number of {unit}")
        : Math.Abs(value) < 1e9 ? value
        : throw new FormatException($"a number of {unit} below 1000000000");

    private static double Part(string text) =>
        double.TryParse(text, NumberStyles.Float, Invariant, out double value) && double.IsFinite(value) ? value
        : throw new FormatException("a number above 0 and at most 1, such as 0.9");

    private static long Bytes(string text)
    {
        int shift = text.Length == 0 ? 0
            : char.ToUpperInvariant(text[^1]) switch { 'K' => 10, 'M' => 20, 'G' => 30, 'T' => 40, _ => 0 };
        string number = shift == 0 ? text : text[..^1];
        if (!double.TryParse(number, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out double value)
            || value * Math.Pow(2, shift) > long.MaxValue)
            throw new FormatException("a number of bytes, such as 4G, 512M or 1073741824");
        return (long)(value * Math.Pow(2, shift));
    }

    private static string Name(Enum value) => value.ToString().ToLowerInvariant();

    private static DType KvType(string text) => Choice(text, "auto", "f16", "bf16", "f32", "q8_0", "fp8") switch
    {
        "auto" => DType.F16,
        string name => Enum.Parse<DType>(name, ignoreCase: true),
    };

    private static LogLevel Level(string text) =>
        Enum.Parse<LogLevel>(Choice(text, "trace", "debug", "information", "warning", "error", "critical", "none"),
            ignoreCase: true);

    private static string Choice(string text, params ReadOnlySpan<string> choices)
    {
        foreach (string choice in choices)
            if (choice.Equals(text, StringComparison.OrdinalIgnoreCase)) return choice;
        throw new FormatException($"one of {string.Join(", ", choices)}");
    }

    /// <summary>The help, by groups, with what each setting is good for.</summary>
    private sealed class HelpText : SynchronousCommandLineAction
    {
        private const int Indent = 6;
        private const int Width = 100;

        public override bool ClearsParseErrors => true;

        public override int Invoke(ParseResult result)
        {
            TextWriter output = result.InvocationConfiguration.Output;
            output.WriteLine("Native: serves a language model over the OpenAI HTTP API and gRPC.");
            output.WriteLine();
            output.WriteLine(
                "Usage: native-server [options]        (dotnet run -c Release --project server -- [options])");
            foreach (IGrouping<string, Setting> group in Settings.GroupBy(setting => setting.Group))
            {
                output.WriteLine();
                output.WriteLine($"{group.Key}:");
                foreach (Setting setting in group)
                {
                    output.WriteLine($"  {setting.Name} {setting.Value}");
                    Wrap(output, setting.Help, Indent);
                }
            }
            output.WriteLine();
            output.WriteLine("  --help, --version");
            output.WriteLine();
            output.WriteLine("Every option can also be set elsewhere. The first of these that names it counts:");
            output.WriteLine("  1. the command line           --max-model-len 4096");
            output.WriteLine("  2. the environment            NATIVE_MAX_MODEL_LEN=4096");
            output.WriteLine("  3. appsettings.json           { \"Native\": { \"MaxModelLen\": 4096 } }");
            output.WriteLine("     in the current folder, or else beside the program");
            output.WriteLine();
            Wrap(output,
                "For models from the hub its own variables count: HF_HOME or HF_HUB_CACHE (where they are kept), "
                    + "HF_TOKEN (for gated and private ones), HF_ENDPOINT (another hub), HF_HUB_OFFLINE=1 (only what "
                    + "is there).", 0);
            output.WriteLine();
            output.WriteLine(
                "Exit codes: 0 ended when asked to; 1 could not start (port in use, bad model, no memory for the KV "
                    + "cache) or failed; 2 wrong options; 130 or 143 a second Ctrl-C or SIGTERM cut requests off.");
            return Success;
        }

        private static void Wrap(TextWriter output, string text, int indent)
        {
            StringBuilder line = new(new string(' ', indent));
            foreach (string word in text.Split(' '))
            {
                if (line.Length > indent && line.Length + word.Length >= Width)
                {
                    output.WriteLine(line.ToString().TrimEnd());
                    line.Clear().Append(' ', indent);
                }
                line.Append(word).Append(' ');
            }
            output.WriteLine(line.ToString().TrimEnd());
        }
    }
}
