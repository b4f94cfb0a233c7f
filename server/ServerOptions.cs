using System.Globalization;
using System.Net;
using Microsoft.Extensions.Logging;
using Native.Kernels;
using Native.Kernels.Models;
using Native.Scheduling;
using Native.Scheduling.Slo;
using Native.Server.Hub;
using Native.Server.Tenancy;

namespace Native.Server;

/// <summary>Everything a server can be told. Names and defaults are vLLM's where it has them; where a default differs,
/// its reason is here.</summary>
public sealed record ServerOptions
{
    /// <summary>A GGUF file, a Hugging Face folder with config.json and safetensors, or a <see cref="HubReference"/>.
    /// Null: the demo model that ships with the server.</summary>
    public string? Model { get; init; }

    /// <summary>The name clients ask for. Null: the file's or folder's name; <c>ORG/REPO</c> for a folder from the
    /// hub.</summary>
    public string? ServedModelName { get; init; }

    /// <summary>Address to listen on, HTTP and gRPC. Default this machine alone: an open port is a decision, not a
    /// default.</summary>
    public string Host { get; init; } = "127.0.0.1";

    /// <summary>Port of HTTP/1.1: the OpenAI API, health and metrics. 0 lets the system choose.</summary>
    public int Port { get; init; } = 8080;

    /// <summary>Port of gRPC (HTTP/2 without TLS). Default 50051, gRPC's customary one. 0 lets the system
    /// choose.</summary>
    public int GrpcPort { get; init; } = 50051;

    /// <summary>Bearer token that every request must have but health and metrics. Null: none.</summary>
    public string? ApiKey { get; init; }

    /// <summary>Tenants with keys, weights or quotas (<c>--tenants</c>).</summary>
    internal IReadOnlyList<TenantEntry> Tenants { get; init; } = [];

    /// <summary>Whether the header <c>x-llm-d-inference-fairness-id</c> names the tenant also where a key is asked for
    /// (<c>--trust-fairness-header</c>); where none is, it always does.</summary>
    public bool TrustsFairnessHeader { get; init; }

    /// <summary>What computes: one of <see cref="BackendFactory.Names"/>.</summary>
    public string Backend { get; init; } = BackendFactory.Auto;

    /// <summary>Which of the backend's devices: its number, or a part of its name that only one has. Null: the first
    /// that can run the kernels.</summary>
    public string? Device { get; init; }

    /// <summary>What computes where the backend can't be started or breaks: <see cref="BackendFactory.Cpu"/>. Null:
    /// nothing does.</summary>
    public string? BackendFallback { get; init; }

    /// <summary>The part of a GPU's memory that weights, KV cache and scratch together may take, above 0 and at most 1.
    /// Default 0.9.</summary>
    public double GpuMemoryUtilization { get; init; } = ModelOptions.DefaultGpuMemoryUtilization;

    /// <summary>Worker threads. Null: one for each physical core.</summary>
    public int? Threads { get; init; }

    /// <summary>Tokens a sequence may have, prompt and output. Null: what the model was made for, as far as the KV
    /// cache holds it.</summary>
    public int? MaxModelLength { get; init; }

    /// <summary>Sequences computed together. Default 64, not vLLM's 256: a CPU's throughput is level from
    /// there.</summary>
    public int MaxRunning { get; init; } = ModelOptions.DefaultMaxSequences;

    /// <summary>Tokens computed per step. Default 512, not vLLM's 2048: on a CPU a longer step gains little and stalls
    /// every stream.</summary>
    public int MaxBatchedTokens { get; init; } = ModelOptions.DefaultMaxBatchedTokens;

    /// <summary>Requests that may wait; more are refused with 429.</summary>
    public int MaxQueued { get; init; } = 1024;

    /// <summary>Prompt tokens that may wait; a request that would make them more is refused with 429. Null: as many as
    /// the requests that may wait have.</summary>
    public int? MaxQueuedTokens { get; init; }

    /// <summary>Whose turn it is.</summary>
    public SchedulingPolicy Policy { get; init; } = SchedulingPolicy.Slo;

    /// <summary>When the first token of a request is due that does not say; null never.</summary>
    public TimeSpan? TtftObjective { get; init; }

    /// <summary>How much later each further token is due; null likewise.</summary>
    public TimeSpan? TpotObjective { get; init; }

    /// <summary>Whether prompts that begin alike share the keys and values of their beginning.</summary>
    public bool PrefixCaching { get; init; } = true;

    /// <summary>Whether routers may follow what the prefix cache holds. Default false: it tells the tokens of
    /// prompts.</summary>
    public bool CacheEvents { get; init; }

    /// <summary>Tokens a KV block holds.</summary>
    public int BlockSize { get; init; } = 16;

    /// <summary>Element type of the KV cache. Default F16.</summary>
    public DType KvCacheType { get; init; } = DType.F16;

    /// <summary>Bytes for the KV cache. Null: what the sequences can need, on the CPU at most 4 GiB and half of the
    /// free memory, on a GPU at most what is left of <see cref="GpuMemoryUtilization"/>.</summary>
    public long? KvCacheBytes { get; init; }

    /// <summary>Where the seeds of requests without one come from. Null: drawn at the start.</summary>
    public ulong? Seed { get; init; }

    /// <summary>Requests that say nothing are sampled as the model's makers recommend. False: always from the whole
    /// distribution at temperature 1.</summary>
    public bool UseSuggestedSampling { get; init; } = true;

    /// <summary>The service-level objectives whose error budgets are kept. Null: none.</summary>
    public SloSpec? Slo { get; init; }

    /// <summary>The file that keeps the error budgets over a restart. Null: they are the process's.</summary>
    public string? SloState { get; init; }

    /// <summary>Also expose vLLM's metric names.</summary>
    public bool VllmMetrics { get; init; }

    /// <summary>How long running requests may take to end after SIGTERM. Default 25 seconds: readers get their last
    /// bytes in 5 more, and Kubernetes' grace period is 30.</summary>
    public TimeSpan ShutdownTimeout { get; init; } = TimeSpan.FromSeconds(25);

    /// <summary>How long an answer waits for a client that takes none of it. A minute, as proxies have it: no honest
    /// reader pauses that long with full buffers.</summary>
    internal TimeSpan ReaderPatience { get; init; } = TimeSpan.FromSeconds(60);

    /// <summary>How long a stream may be silent before a comment shows that it lives. 5 seconds: proxies give up after
    /// 15 to 60.</summary>
    internal TimeSpan PingEvery { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>How long the engine may stay away at least before it counts as stalled. 5 seconds, or ten times what
    /// its step was expected to take: ordinary steps take less than one.</summary>
    internal TimeSpan StallAfter { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>Least severe messages that are logged. Default Warning: the server is quiet; Debug has a line per
    /// request.</summary>
    public LogLevel LogLevel { get; init; } = LogLevel.Warning;

    /// <summary>The address to bind; null where <see cref="Host"/> is none.</summary>
    internal IPAddress? Address => Host.ToLowerInvariant() switch
    {
        "localhost" => IPAddress.Loopback,
        "*" => IPAddress.IPv6Any,
        _ => IPAddress.TryParse(Host, out IPAddress? address) ? address : null,
    };

    /// <summary>Adds a sentence for each value that can't be, by the names of the command line.</summary>
    public void Validate(ICollection<string> errors)
    {
        void Within(string name, long? value, long least, long most)
        {
            if (value is { } v && (v < least || v > most))
                errors.Add(string.Create(CultureInfo.InvariantCulture,
                    $"{name} is {v}; it must be from {least} to {most}."));
        }
        if (Model is not null && string.IsNullOrWhiteSpace(Model))
            errors.Add("--model is empty; it must be a GGUF file or a Hugging Face folder.");
        if (Model is not null && HubReference.IsMeant(Model) && !HubReference.TryParse(Model, out _))
            errors.Add($"--model is '{Model}'; a model on the hub is {HubReference.Form}.");
        if (ServedModelName is not null && string.IsNullOrWhiteSpace(ServedModelName))
            errors.Add("--served-model-name is empty.");
        if (Address is null)
            errors.Add($"--host is '{Host}'; it must be an IP address, localhost, or * for every address.");
        Within("--port", Port, 0, 65535);
        Within("--grpc-port", GrpcPort, 0, 65535);
        if (Port != 0 && Port == GrpcPort)
            errors.Add($"--port and --grpc-port are both {Port}; they must differ, because HTTP/1.1 and HTTP/2 "
                + $"without TLS cannot share one.");
        if (ApiKey is not null && (ApiKey.Length == 0 || ApiKey.AsSpan().ContainsAnyExceptInRange('!', '~')))
            errors.Add("--api-key must have printable ASCII characters without spaces.");
        ValidateBackend(errors);
        Within("--threads", Threads, 1, 1024);
        Within("--max-model-len", MaxModelLength, 1, 1 << 28);
        Within("--max-num-seqs", MaxRunning, 1, 1 << 14);
        Within("--max-num-batched-tokens", MaxBatchedTokens, 1, 1 << 16);
        if (MaxBatchedTokens < MaxRunning)
            errors.Add($"--max-num-batched-tokens is {MaxBatchedTokens}, below --max-num-seqs ({MaxRunning}): a full "
                + $"batch could not decode one token each.");
        Within("--max-num-queued-reqs", MaxQueued, 1, 1 << 20);
        Within("--max-num-queued-tokens", MaxQueuedTokens, 1, int.MaxValue);
        if (TtftObjective <= TimeSpan.Zero || TpotObjective <= TimeSpan.Zero)
            errors.Add("--slo-ttft-ms and --slo-tpot-ms must be above 0.");
        if (CacheEvents && !PrefixCaching)
            errors.Add("--enable-kv-cache-events needs --enable-prefix-caching: nothing is cached without it.");
        if (ApiKey is not null && Tenants.Any(tenant => tenant.Keys.Contains(ApiKey)))
            errors.Add("--api-key is also a key of a tenant in --tenants: whose it is is not clear.");
        if (TrustsFairnessHeader && Policy == SchedulingPolicy.Fcfs)
            errors.Add("--trust-fairness-header needs --scheduling-policy slo: fcfs tells no tenants apart.");
        Within("--block-size", BlockSize, 1, 1024);
        Within("--kv-cache-memory", KvCacheBytes, 1, 1L << 46);
        if (SloState is not null && Slo is null)
            errors.Add("--slo-state is given without --slo: there are no budgets to keep.");
        if (SloState is not null && string.IsNullOrWhiteSpace(SloState)) errors.Add("--slo-state is empty.");
        if (ShutdownTimeout < TimeSpan.Zero || ShutdownTimeout > TimeSpan.FromDays(1))
            errors.Add(string.Create(CultureInfo.InvariantCulture,
                $"--shutdown-timeout is {ShutdownTimeout.TotalSeconds} seconds; it must be from 0 to 86400."));
    }

    private void ValidateBackend(ICollection<string> errors)
    {
        if (BackendFactory.Error(Backend) is { } backend) errors.Add($"--backend is {backend}");
        if (Device is not null && string.IsNullOrWhiteSpace(Device))
            errors.Add("--device is empty; it must be a device's number or a part of its name.");
        else if (Device is not null && Backend == BackendFactory.Cpu)
            errors.Add($"--device is '{Device}', but --backend cpu has no devices.");
        if (BackendFallback is not (null or BackendFactory.Cpu))
            errors.Add($"--backend-fallback is '{BackendFallback}'; it must be none or {BackendFactory.Cpu}.");
        if (KvCacheType == DType.FP8 && Backend == BackendFactory.Cpu)
            errors.Add("--kv-cache-dtype is fp8, which GPUs alone keep, but --backend is cpu.");
        if (KvCacheType == DType.FP8 && BackendFallback == BackendFactory.Cpu)
            errors.Add("--kv-cache-dtype is fp8, which GPUs alone keep, but --backend-fallback is cpu.");
        if (GpuMemoryUtilization != ModelOptions.DefaultGpuMemoryUtilization && Backend == BackendFactory.Cpu)
            errors.Add("--gpu-memory-utilization is given, but --backend cpu has no GPU's memory.");
        if (!(GpuMemoryUtilization > 0 && GpuMemoryUtilization <= 1))
            errors.Add(string.Create(CultureInfo.InvariantCulture,
                $"--gpu-memory-utilization is {GpuMemoryUtilization}; it must be above 0 and at most 1."));
    }

    /// <summary>Whether clients must show a key.</summary>
    internal bool AsksForKey => ApiKey is not null || Tenants.Any(tenant => tenant.Keys.Count > 0);

    /// <summary>What the scheduler is told.</summary>
    internal EngineOptions ToEngineOptions() => new()
    {
        MaxRunning = MaxRunning,
        MaxBatchedTokens = MaxBatchedTokens,
        MaxQueued = MaxQueued,
        MaxQueuedTokens = MaxQueuedTokens,
        PrefixCaching = PrefixCaching,
        CacheEvents = CacheEvents,
        Policy = Policy,
        Tenants = [.. Tenants.Select(tenant => tenant.Spec)],
        TtftObjective = TtftObjective,
        TpotObjective = TpotObjective,
        Seed = Seed ?? unchecked((ulong)Random.Shared.NextInt64(long.MinValue, long.MaxValue)),
    };

    /// <summary>How a request is sampled that does not say.</summary>
    internal SamplingParams ToSamplingDefaults(SuggestedSampling suggested) =>
        UseSuggestedSampling ? new SamplingParams().With(suggested) : new SamplingParams();

    /// <summary>What the loader is told.</summary>
    internal ModelOptions ToModelOptions(string path) => new()
    {
        Path = path,
        MaxModelLength = MaxModelLength,
        BlockSize = BlockSize,
        KvCacheType = KvCacheType,
        KvCacheBytes = KvCacheBytes,
        MaxBatchedTokens = MaxBatchedTokens,
        MaxSequences = MaxRunning,
        Backend = Backend,
        Device = Device,
        BackendFallback = BackendFallback,
        GpuMemoryUtilization = GpuMemoryUtilization,
        Threads = Threads ?? 0,
    };
}
