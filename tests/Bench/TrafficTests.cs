using Native.Bench.Simulate;

namespace Native.Tests.Bench;

/// <summary>The loads that <c>simulate</c> draws have the shapes that were published.</summary>
public sealed class TrafficTests
{
    private static double[] Sorted(IEnumerable<TrafficRequest> requests, Func<TrafficRequest, int> of) =>
        [.. requests.Select(request => (double)of(request)).Order()];

    [Theory] // medians and 99th percentiles of the sources, see traffic.json
    [InlineData("chat", 19366, 1020, 4142, 129, 601)]
    [InlineData("flood", 8819, 1469, 7436, 13, 252)]
    [InlineData("long", 12031, 6909, 85400, 350, 1119)]
    public void AnHour_HasThePublishedCountsAndLengths(
        string load, int count, int input, int inputTail, int output, int outputTail)
    {
        List<TrafficRequest> requests = TrafficDraw.Of(new TrafficPlan(load, 59 * 60, null, 1));
        Assert.InRange(requests.Count, count * 0.95, count * 1.02);
        double[] inputs = Sorted(requests, request => request.Input), outputs = Sorted(requests, r => r.Output);
        Assert.InRange(Statistics.Percentile(inputs, 50), input * 0.85, input * 1.15);
        // Chat's 99th percentile lies at the lower end of a wide bin.
        Assert.InRange(Statistics.Percentile(inputs, 99), inputTail * 0.8, inputTail * 1.3);
        Assert.InRange(Statistics.Percentile(outputs, 50), output * 0.85, output * 1.15);
        Assert.InRange(Statistics.Percentile(outputs, 99), outputTail * 0.8, outputTail * 1.2);
        Assert.Equal(requests.Select(r => r.Arrival).Order(), requests.Select(r => r.Arrival));
    }

    [Theory] // index of dispersion of the counts in 1 s and in 60 s, as published: 1.4 and 16, 13 and 164
    [InlineData("chat", 1.0, 2.0, 10, 25)]
    [InlineData("flood", 4.0, 26.0, 100, 250)]
    public void Arrivals_AreAsBurstyAsPublished(
        string load, double leastSecond, double mostSecond, double leastMinute, double mostMinute)
    {
        List<TrafficRequest> requests = TrafficDraw.Of(new TrafficPlan(load, 58 * 60, null, 1));
        Assert.InRange(Dispersion(requests, 1, 58 * 60), leastSecond, mostSecond);
        Assert.InRange(Dispersion(requests, 60, 58 * 60), leastMinute, mostMinute);
    }

    /// <summary>Variance over mean of the counts in windows: 1 of a Poisson process.</summary>
    private static double Dispersion(IEnumerable<TrafficRequest> requests, int window, int seconds)
    {
        double[] counts = new double[seconds / window];
        foreach (TrafficRequest request in requests) counts[(int)(request.Arrival / window)]++;
        return Math.Pow(Statistics.Deviation(counts), 2) / Statistics.Mean(counts);
    }

    [Fact]
    public void ARate_ScalesTheWholeLoad()
    {
        foreach (string load in TrafficPlan.Loads)
        {
            int count = TrafficDraw.Of(new TrafficPlan(load, 3540, 0.5, 1)).Count;
            // Tenants are silent in whole windows, and the giant is half of all.
            Assert.InRange(count, load == "tenants" ? 600 : 1650, load == "tenants" ? 3200 : 1900);
        }
    }

    [Fact]
    public void LongPrompts_BeginAsEarlierOnes_ForAboutThePublishedPart()
    {
        List<TrafficRequest> requests = TrafficDraw.Of(new TrafficPlan("long", 3540, null, 1));
        HashSet<long> seen = [];
        long blocks = 0, hits = 0;
        foreach (TrafficRequest request in requests)
        {
            long[] ids = [.. Enumerable.Range(0, request.Blocks).Select(request.BlockId)];
            blocks += ids.Length;
            hits += ids.TakeWhile(seen.Contains).Count();
            seen.UnionWith(ids);
        }
        Assert.InRange((double)hits / blocks, 0.25, 0.47); // 0.366 in the source
        TrafficRequest child = requests.First(request => request.SharedBlocks > 2);
        Assert.Equal(child.Parent!.Ids(1000).Take(16 * child.SharedBlocks),
            child.Ids(1000).Take(16 * child.SharedBlocks));
        Assert.NotEqual(requests[0].Ids(1000)[^16..], requests[1].Ids(1000)[^16..]);
    }

    [Fact]
    public void OneTenant_SendsHalfOfAll_InBursts()
    {
        List<TrafficRequest> requests = TrafficDraw.Of(new TrafficPlan("tenants", 4 * 3600, 4, 1));
        IGrouping<string, TrafficRequest>[] tenants =
            [.. requests.GroupBy(request => request.Tenant).OrderByDescending(group => group.Count())];
        Assert.True(tenants.Length > 15);
        Assert.Equal("60", tenants[0].Key);
        Assert.InRange((double)tenants[0].Count() / requests.Count, 0.4, 0.7);
        double giant = Dispersion(tenants[0], 10, 4 * 3600);
        double even = Dispersion(tenants.Single(group => group.Key == "66"), 10, 4 * 3600);
        Assert.True(giant > 20 * even, $"{giant} and {even}");
    }

    [Fact]
    public void TheSameSeed_GivesTheSameRequests()
    {
        foreach (string load in TrafficPlan.Loads)
        {
            List<(double, int, int)> Of(int seed) =>
                [.. TrafficDraw.Of(new TrafficPlan(load, 300, 2, seed)).Select(r => (r.Arrival, r.Input, r.Output))];
            Assert.Equal(Of(1), Of(1));
            Assert.NotEqual(Of(1), Of(2));
        }
    }

    [Fact]
    public void EveryShape_NamesItsSourceAndItsLicence()
    {
        Assert.Equal(["chat", "flood", "long"], TrafficShapes.Shipped.Shapes.Select(shape => shape.Name));
        Assert.All(TrafficShapes.Shipped.Shapes, shape =>
        {
            Assert.Contains("@", shape.Source, StringComparison.Ordinal); // repository and commit
            Assert.Contains("cite", shape.Licence, StringComparison.Ordinal);
        });
        Assert.Contains("Apache-2.0", TrafficShapes.Shipped.Tenants.Licence, StringComparison.Ordinal);
    }
}
