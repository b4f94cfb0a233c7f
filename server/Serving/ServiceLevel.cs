using System.Globalization;
using Native.Scheduling;

namespace Native.Server.Serving;

/// <summary>What a caller asks of the service itself: when tokens are due, and how it stands to other requests. Null
/// where nothing was said.</summary>
internal sealed record ServiceLevel
{
    /// <summary>Longest objective, in milliseconds: a day.</summary>
    private const double MostMilliseconds = 86_400_000;

    public static readonly ServiceLevel Default = new();

    public TimeSpan? Ttft { get; init; }

    public TimeSpan? Tpot { get; init; }

    public bool? BestEffort { get; init; }

    public int? Priority { get; init; }

    public RequestClass? Class { get; init; }

    /// <summary>What a request's headers or metadata ask for, under the names that gateways send; the newer name comes
    /// first. A value that is no number of milliseconds is ignored: a gateway's mistake is not the caller's.</summary>
    /// <param name="header">A header's value by its name; null where it is not there.</param>
    public static ServiceLevel OfHeaders(Func<string, string?> header)
    {
        TimeSpan? ttft = Time(header, "x-llm-d-slo-ttft-ms", "x-slo-ttft-ms");
        TimeSpan? tpot = Time(header, "x-llm-d-slo-tpot-ms", "x-slo-tpot-ms");
        return ttft is null && tpot is null ? Default : new ServiceLevel { Ttft = ttft, Tpot = tpot };
    }

    /// <summary>A number of milliseconds above 0.</summary>
    /// <exception cref="RequestException">It is not.</exception>
    public static TimeSpan Milliseconds(double value, string name) =>
        value is > 0 and <= MostMilliseconds ? OfMilliseconds(value)
            : throw RequestException.Invalid(
                string.Create(CultureInfo.InvariantCulture,
                    $"'{name}' is {value}; it must be above 0 and at most {MostMilliseconds} milliseconds."), name);

    /// <summary>The same, where <paramref name="stronger"/> says nothing.</summary>
    public ServiceLevel Under(ServiceLevel stronger) => new()
    {
        Ttft = stronger.Ttft ?? Ttft,
        Tpot = stronger.Tpot ?? Tpot,
        BestEffort = stronger.BestEffort ?? BestEffort,
        Priority = stronger.Priority ?? Priority,
        Class = stronger.Class ?? Class,
    };

    /// <summary>A request that asks for this.</summary>
    public GenerationRequest ApplyTo(GenerationRequest request) => request with
    {
        TtftObjective = Ttft,
        TpotObjective = Tpot,
        BestEffort = BestEffort ?? false,
        Priority = Priority ?? 0,
        Class = Class ?? RequestClass.Online,
    };

    /// <summary>What the first of these headers says that can be read.</summary>
    private static TimeSpan? Time(Func<string, string?> header, params ReadOnlySpan<string> names)
    {
        foreach (string name in names)
        {
            if (double.TryParse(header(name), NumberStyles.Float, CultureInfo.InvariantCulture, out double value)
                && value is > 0 and <= MostMilliseconds)
                return OfMilliseconds(value);
        }
        return null;
    }

    /// <summary>A tick at least: no time at all would be no objective.</summary>
    private static TimeSpan OfMilliseconds(double value) =>
        TimeSpan.FromTicks(Math.Max(1, (long)(value * TimeSpan.TicksPerMillisecond)));
}
