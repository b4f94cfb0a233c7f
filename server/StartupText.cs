using System.Diagnostics;
using System.Globalization;
using System.Net;
using Native.Kernels;
using Native.Kernels.Models;
using Native.Scheduling;
using Native.Scheduling.Slo;
using Native.Server.Hub;
using Native.Server.Metrics;
using Native.Server.Serving;

namespace Native.Server;

/// <summary>What a person sees when the server is ready.</summary>
internal static class StartupText
{
    public static void Write(NativeServer server, TextWriter output)
    {
        ServedModel model = server.Host.Model!;
        ModelInfo info = model.Info;
        Uri http = Reachable(server.HttpAddress);
        Uri grpc = Reachable(server.GrpcAddress);
        CultureInfo culture = CultureInfo.InvariantCulture;
        output.WriteLine(
            string.Create(culture,
                $"model    {model.Name} ({info.Architecture}, {Count(info.ParameterCount)} parameters, "
                    + $"{Size(info.WeightBytes)}, context {info.MaxModelLength})"));
        output.WriteLine($"backend  {info.Backend}");
        // Where a fallback was asked for, a warning has told it.
        if (model.WhyNoGpu is { } why && server.Options.BackendFallback is null)
            output.WriteLine($"         and no GPU: {why}");
        output.WriteLine(
            string.Create(culture,
                $"KV       {info.BlockCount} blocks of {info.BlockSize} tokens, "
                    + $"{info.KvCacheType.ToString().ToLowerInvariant()}, {Size(info.KvCacheBytes)}"));
        output.WriteLine($"HTTP     {http.ToString().TrimEnd('/')}   (/v1, /healthz, /readyz, /metrics)");
        output.WriteLine($"gRPC     {grpc.Authority}   (native.v1, health, reflection)");
        output.WriteLine(
            string.Create(culture,
                $"ready    {Stopwatch.GetElapsedTime(server.Host.StartedAt).TotalSeconds:0.00} s after listening"));
        if (server.Options.Address is { } address && !IPAddress.IsLoopback(address))
            output.WriteLine(!server.Options.AsksForKey
                ? "open     anyone who reaches this machine can use it; --api-key asks for a key"
                : "open     reachable from other machines, with the key");
        output.WriteLine();
        output.WriteLine("try");
        // A key of a tenant is nothing that this process was told by a variable.
        string variable = server.Options.ApiKey is null ? "OPENAI_API_KEY" : "NATIVE_API_KEY";
        string key = !server.Options.AsksForKey ? "" : $" -H 'Authorization: Bearer '\"${variable}\"";
        output.WriteLine(model.Template is null
            ? $"  curl -N {http}v1/completions -H 'Content-Type: application/json'{key} -d '{{\"prompt\":\"Once upon "
                + $"a time\",\"max_tokens\":64,\"stream\":true}}'"
            : $"  curl -N {http}v1/chat/completions -H 'Content-Type: application/json'{key} -d "
                + $"'{{\"messages\":[{{\"role\":\"user\",\"content\":\"Tell me a story.\"}}],\"stream\":true}}'");
        output.Flush();
    }

    /// <summary>A sentence for everything that was settled otherwise than a user may think.</summary>
    public static IEnumerable<string> Warnings(ServerOptions options, ModelConfig config, ModelInfo info,
        SuggestedSampling suggested, string? whyNoGpu = null)
    {
        if (options.BackendFallback is not null && whyNoGpu is not null)
            yield return $"no GPU can be used, so the CPU computes (--backend-fallback): {whyNoGpu}";
        if (options.UseSuggestedSampling)
            foreach (string warning in suggested.Warnings) yield return warning;
        if (options.Slo is { } spec)
            foreach (string wrong in spec.Objectives.Select(MetricTable.NoBucketOf).OfType<string>())
                yield return $"--slo: {wrong}: it is kept and counted, but the dashboard of tools slo compile can't "
                    + "show the histogram beside it";
        if (options.Policy == SchedulingPolicy.Fcfs && (options.TtftObjective ?? options.TpotObjective) is not null)
            yield return "--slo-ttft-ms and --slo-tpot-ms promise nothing with --scheduling-policy fcfs";
        if (options.Policy == SchedulingPolicy.Fcfs && options.Tenants.Any(entry => entry.Spec.Weight != 1))
            yield return "--tenants: weights are nothing with --scheduling-policy fcfs, which tells no tenants apart";
        foreach (SloObjective objective in options.Slo?.Objectives ?? [])
        {
            if (objective.Tenant is { } tenant && options.AsksForKey && !options.TrustsFairnessHeader
                && options.Tenants.All(entry => entry.Spec.Name != tenant))
                yield return $"--slo: {objective.Name} speaks of the tenant '{tenant}', whom --tenants does not name: "
                    + "no request counts for it";
        }
        if (info.MaxModelLength > config.ContextLength)
        {
            yield return $"--max-model-len is {info.MaxModelLength}, but the model was made for "
                + $"{config.ContextLength} tokens: past them its text may be worthless";
        }
        if (options.MaxModelLength is null && info.MaxModelLength < config.ContextLength)
        {
            yield return $"the context has {info.MaxModelLength} of the model's {config.ContextLength} tokens: a KV "
                + $"cache of {Size(info.KvCacheBytes)} holds no more (--kv-cache-memory)";
        }
    }

    private static Uri Reachable(Uri address) =>
        address.Host is "0.0.0.0" or "[::]" ? new UriBuilder(address) { Host = "localhost" }.Uri : address;

    private static string Size(long bytes) =>
        bytes >= 1L << 30 ? string.Create(CultureInfo.InvariantCulture, $"{bytes / (double)(1L << 30):0.0} GiB")
            : string.Create(CultureInfo.InvariantCulture, $"{bytes / (double)(1L << 20):0.0} MiB");

    private static string Count(long n)
    {
        (double unit, string name) = n switch
        {
            >= 1_000_000_000 => (1e9, "billion"),
            >= 1_000_000 => (1e6, "million"),
            _ => (1e3, "thousand"),
        };
        return string.Create(CultureInfo.InvariantCulture, $"{n / unit:0.##} {name}");
    }
}

/// <summary>One line that follows a download, and a load of more than a second; nothing where nobody watches.</summary>
internal sealed class ProgressLine : IProgress<LoadProgress>, IProgress<HubProgress>
{
    private const int Width = 78;

    private readonly long _start = Stopwatch.GetTimestamp();
    private readonly bool _shown = !Console.IsErrorRedirected;
    private long _last;
    private int _length;

    public void Report(LoadProgress value)
    {
        if (Stopwatch.GetElapsedTime(_start).TotalSeconds >= 1) Write($"loading  {Percent(value.Done, value.Total)}");
    }

    public void Report(HubProgress value)
    {
        if (value.Note.Length > 0) _last = 0; // told once, and seen while nothing moves
        Write($"downloading  {(value.Note.Length > 0 ? value.Note : Percent(value.Done, value.Total))}");
    }

    /// <summary>Takes the line away.</summary>
    public void Clear()
    {
        if (_length > 0) Console.Error.Write("\r" + new string(' ', _length) + "\r");
        _length = 0;
    }

    private void Write(string text)
    {
        if (!_shown || (_last != 0 && Stopwatch.GetElapsedTime(_last).TotalSeconds < 0.1)) return;
        _last = Stopwatch.GetTimestamp();
        if (text.Length > Width) text = text[..Width]; // a second line could not be taken away
        Console.Error.Write("\r" + text.PadRight(_length) + " ");
        _length = Math.Max(_length, text.Length + 1);
    }

    private static string Percent(long done, long total) =>
        string.Create(CultureInfo.InvariantCulture, $"{100.0 * done / Math.Max(total, 1):0} % of {total >> 20} MiB");
}
