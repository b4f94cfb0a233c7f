using System.Text.Json;

namespace Native.Bench.Simulate;

/// <summary>One kind of traffic as a service published it: how many requests came each minute, and how long they
/// were.</summary>
/// <param name="Name">As <c>--load</c> has it.</param>
/// <param name="Source">Where it is from.</param>
/// <param name="Licence">Under which it may be given on, and whom to cite.</param>
/// <param name="GapShape">Shape of the gamma distribution of gaps within a minute.</param>
/// <param name="PerMinute">Requests in each minute; begins again at its end.</param>
/// <param name="InputEdges">Edges of the bins of prompt lengths.</param>
/// <param name="OutputEdges">Edges of the bins of output lengths.</param>
/// <param name="Cells">The joint histogram: input bin, output bin, requests, again and again.</param>
/// <param name="PrefixBlock">Tokens by which prompts share their beginnings; 0 where that is not known.</param>
/// <param name="SharedPart">Quantiles of the part of a prompt that was seen before: pairs of probability and
/// part.</param>
/// <param name="ReuseSeconds">Quantiles of the time since it was: pairs of probability and seconds.</param>
internal sealed record TrafficShape(string Name, string Source, string Licence, double GapShape, int[] PerMinute,
    int[] InputEdges, int[] OutputEdges, int[] Cells, int PrefixBlock, double[][]? SharedPart,
    double[][]? ReuseSeconds);

/// <summary>One client of a service: its part of the traffic, how it comes, and how long its requests are.</summary>
/// <param name="Id">The name that was published.</param>
/// <param name="Share">Of all requests.</param>
/// <param name="Active">Part of the time in which it sends.</param>
/// <param name="Variation">Coefficient of variation of its gaps.</param>
/// <param name="Input">Prompt tokens: 50th, 95th and 99th percentile.</param>
/// <param name="Output">Output tokens, likewise.</param>
internal sealed record TrafficClient(
    string Id, double Share, double Active, double Variation, double[] Input, double[] Output);

/// <summary>A service's clients, one by one.</summary>
/// <param name="Name">As <c>--load</c> has it.</param>
/// <param name="Source">Where it is from.</param>
/// <param name="Licence">Under which it may be given on, and whom to cite.</param>
/// <param name="PerHour">Requests a second in each hour of a day.</param>
/// <param name="Clients">The largest first.</param>
internal sealed record TenantTraffic(
    string Name, string Source, string Licence, double[] PerHour, TrafficClient[] Clients);

/// <summary>The published shapes that ship with the bench: <c>traffic.json</c>, with each one's source and
/// licence.</summary>
/// <param name="Shapes">Traffic as a whole.</param>
/// <param name="Tenants">Traffic by client.</param>
internal sealed record TrafficShapes(TrafficShape[] Shapes, TenantTraffic Tenants)
{
    /// <summary>What ships.</summary>
    public static TrafficShapes Shipped { get; } = Read();

    private static TrafficShapes Read()
    {
        using Stream stream = typeof(TrafficShapes).Assembly.GetManifestResourceStream("traffic.json")
            ?? throw new InvalidOperationException("traffic.json is not in the assembly");
        return JsonSerializer.Deserialize<TrafficShapes>(stream, JsonSerializerOptions.Web)!;
    }
}
