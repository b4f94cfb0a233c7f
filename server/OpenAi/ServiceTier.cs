using Native.Scheduling;
using Native.Server.Http;
using Native.Server.Serving;

namespace Native.Server.OpenAi;

/// <summary>OpenAI's <c>service_tier</c>, in this server's terms: <c>flex</c> is the batch class, <c>priority</c> and
/// <c>fast</c> come before online requests that say nothing; the others change nothing.</summary>
internal static class ServiceTier
{
    private const string Name = "service_tier", Class = "slo.class", Order = "priority";

    /// <summary>The priority of <c>priority</c> and <c>fast</c>: before the usual 0.</summary>
    private const int Preferred = -1;

    /// <summary>Takes the field into what a request asks of the service.</summary>
    /// <param name="body">The request.</param>
    /// <param name="level">What its other fields ask.</param>
    /// <param name="policy">By what the engine chooses.</param>
    /// <param name="used">The tier to tell in the answer; null where none was asked for.</param>
    /// <exception cref="RequestException">There is no such tier, or another field contradicts it.</exception>
    public static ServiceLevel Read(Fields body, ServiceLevel level, SchedulingPolicy policy, out string? used)
    {
        used = null;
        if (body.String(Name) is not { } tier) return level;
        bool prefers = tier is "priority" or "fast";
        if (tier is not ("auto" or "default" or "flex" or "scale") && !prefers)
        {
            throw RequestException.Invalid($"'{Name}' is '{RequestException.Quoted(tier)}'; it must be auto, default, "
                + "flex, scale, priority or fast.", Name);
        }
        if (tier == "flex" && level.Class == RequestClass.Online) throw Contradicts(tier, Class, "online");
        if (tier is not ("auto" or "flex") && level.Class == RequestClass.Batch)
            throw Contradicts(tier, Class, "batch");
        if (prefers && level.Priority >= 0) throw Contradicts(tier, Order, $"{level.Priority}");
        if (tier == "flex") level = level with { Class = RequestClass.Batch };
        if (prefers) level = level with { Priority = level.Priority ?? Preferred };
        used = policy == SchedulingPolicy.Fcfs ? "default" // nobody comes before others
            : level.Class == RequestClass.Batch ? "flex" : prefers ? "priority" : "default";
        return level;
    }

    private static RequestException Contradicts(string tier, string field, string value) =>
        RequestException.Invalid($"'{Name}' is '{tier}' and '{field}' is {value}: they contradict each other.", Name);
}
