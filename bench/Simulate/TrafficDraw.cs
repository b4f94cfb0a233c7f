using Native.Bench.Serve;

namespace Native.Bench.Simulate;

/// <summary>How a load is drawn. The same plan gives the same requests.</summary>
/// <param name="Load">chat, flood, long, tenants, poisson or gamma.</param>
/// <param name="Seconds">How long requests come.</param>
/// <param name="Rate">Requests a second, the mean over that time; null for the rate that was published.</param>
/// <param name="Seed">Of all draws.</param>
internal sealed record TrafficPlan(string Load, double Seconds, double? Rate, int Seed)
{
    /// <summary>The loads there are.</summary>
    public static readonly string[] Loads = ["chat", "flood", "long", "tenants", "poisson", "gamma"];

    /// <summary>Lengths are multiplied by this, so that a small model can take what a large one was asked.</summary>
    public double LengthScale { get; init; } = 1;

    /// <summary>Mean prompt of poisson and gamma.</summary>
    public int InputLength { get; init; } = 256;

    /// <summary>Mean output of poisson and gamma.</summary>
    public int OutputLength { get; init; } = 64;

    /// <summary>Their lengths are drawn evenly from 1 - this to 1 + this times the mean.</summary>
    public double RangeRatio { get; init; } = 0.5;

    /// <summary>Shape of gamma's gaps.</summary>
    public double Burstiness { get; init; } = 0.3;

    /// <summary>Rate of poisson and gamma where none is given.</summary>
    public const double DefaultRate = 4;
}

/// <summary>Draws the requests of a load.</summary>
internal sealed class TrafficDraw
{
    private readonly TrafficPlan _plan;
    private readonly Random _random;
    private readonly List<TrafficRequest> _requests = [];
    private long _blocks;

    private TrafficDraw(TrafficPlan plan) => (_plan, _random) = (plan, new Random(plan.Seed));

    /// <summary>All requests of a load, by their arrival.</summary>
    public static List<TrafficRequest> Of(TrafficPlan plan)
    {
        TrafficDraw draw = new(plan);
        if (TrafficShapes.Shipped.Shapes.FirstOrDefault(shape => shape.Name == plan.Load) is { } shape)
            draw.Shaped(shape);
        else if (plan.Load == "tenants") draw.ByClient(TrafficShapes.Shipped.Tenants);
        else draw.Even(plan.Load == "poisson" ? 1 : plan.Burstiness);
        return draw._requests;
    }

    /// <summary>A steady rate with gamma gaps and lengths drawn evenly, as <c>serve</c> sends them.</summary>
    private void Even(double burstiness)
    {
        double rate = _plan.Rate ?? TrafficPlan.DefaultRate;
        int count = (int)Math.Max(1, Math.Round(rate * _plan.Seconds));
        foreach (double at in Arrivals.Steady(count, rate, burstiness, _random))
            Add(at, Evenly(_plan.InputLength), Evenly(_plan.OutputLength), "");
    }

    private double Evenly(int mean) => mean * (1 + (_plan.RangeRatio * ((2 * _random.NextDouble()) - 1)));

    /// <summary>Gamma gaps in every minute, as many requests as came in that minute, lengths from the joint
    /// histogram.</summary>
    private void Shaped(TrafficShape shape)
    {
        double factor = _plan.Rate is { } rate ? rate * 60 / shape.PerMinute.Average() : 1;
        double[] sums = new double[shape.Cells.Length / 3];
        double sum = 0;
        for (int i = 0; i < sums.Length; i++) sums[i] = sum += shape.Cells[(3 * i) + 2];
        for (int minute = 0; minute * 60 < _plan.Seconds; minute++)
        {
            double expected = shape.PerMinute[minute % shape.PerMinute.Length] * factor;
            foreach (double at in Window(minute * 60, 60, expected, shape.GapShape))
            {
                int cell = Array.BinarySearch(sums, _random.NextDouble() * sum);
                int first = 3 * (cell < 0 ? ~cell : cell);
                double input = Within(shape.InputEdges, shape.Cells[first]);
                double output = Within(shape.OutputEdges, shape.Cells[first + 1]);
                if (shape.PrefixBlock > 0) AddShared(shape, at, input, output);
                else Add(at, input, output, "");
            }
        }
    }

    /// <summary>Log-uniform within a bin.</summary>
    private double Within(int[] edges, int bin)
    {
        double low = Math.Max(edges[bin], 1), high = Math.Max(edges[bin + 1], low);
        return low * Math.Pow(high / low, _random.NextDouble());
    }

    /// <summary>Each client by itself: its own bursts, its own lengths, silent in a part of the windows of ten
    /// minutes.</summary>
    private void ByClient(TenantTraffic traffic)
    {
        double mean = traffic.PerHour.Average(), shares = traffic.Clients.Sum(client => client.Share);
        double rate = _plan.Rate ?? mean;
        List<(double At, TrafficClient Client)> arrivals = [];
        foreach (TrafficClient client in traffic.Clients)
        {
            for (int window = 0; window * 600 < _plan.Seconds; window++)
            {
                if (_random.NextDouble() >= client.Active) continue;
                double hour = traffic.PerHour[window / 6 % traffic.PerHour.Length] / mean;
                double expected = rate * hour * 600 * client.Share / shares / client.Active;
                double shape = 1 / (client.Variation * client.Variation);
                arrivals.AddRange(Window(window * 600, 600, expected, shape).Select(at => (at, client)));
            }
        }
        foreach ((double at, TrafficClient client) in arrivals.OrderBy(arrival => arrival.At))
            Add(at, Lognormal(client.Input), Lognormal(client.Output), client.Id);
    }

    /// <summary>Lognormal through the median and the 95th percentile, cut at 1.5 times the 99th.</summary>
    private double Lognormal(double[] percentiles)
    {
        double sigma = Math.Log(percentiles[1] / percentiles[0]) / 1.645;
        return Math.Min(percentiles[0] * Math.Exp(sigma * Arrivals.Normal(_random)), 1.5 * percentiles[2]);
    }

    /// <summary>Times of a window: gamma gaps that fill it, so that the count is the window's own.</summary>
    private List<double> Window(double start, double seconds, double expected, double shape)
    {
        // A window of 3.4 requests has 3 or 4.
        int count = (int)Math.Floor(expected + _random.NextDouble());
        double[] gaps = new double[count + 1];
        for (int i = 0; i < gaps.Length; i++) gaps[i] = Math.Max(Arrivals.Gamma(shape, _random), 1e-300);
        double sum = gaps.Sum(), at = start;
        List<double> times = [];
        for (int i = 0; i < count; i++)
        {
            at += gaps[i] / sum * seconds;
            if (at < _plan.Seconds) times.Add(Math.Min(at, start + seconds));
        }
        return times;
    }

    private int Scaled(double length) => (int)Math.Clamp(Math.Floor(length * _plan.LengthScale), 1, 1 << 24);

    private void Add(double at, double input, double output, string tenant, TrafficRequest? parent = null,
        int shared = 0)
    {
        TrafficRequest request = new(at, Scaled(input), Scaled(output), tenant, _blocks)
        {
            Parent = parent,
            SharedBlocks = shared,
        };
        _blocks += request.Blocks;
        _requests.Add(request);
    }

    /// <summary>A prompt that begins as an earlier one: how much of it is drawn from the published quantiles, and how
    /// long ago the earlier one came.</summary>
    private void AddShared(TrafficShape shape, double at, double input, double output)
    {
        int block = Math.Max(1, (int)(shape.PrefixBlock * _plan.LengthScale) / TrafficRequest.BlockTokens);
        double part = Quantile(shape.SharedPart!, _random.NextDouble());
        double age = Quantile(shape.ReuseSeconds!, _random.NextDouble());
        int blocks = (Scaled(input) + TrafficRequest.BlockTokens - 1) / TrafficRequest.BlockTokens;
        int wanted = (int)Math.Round(part * blocks / block) * block;
        TrafficRequest? parent = _requests.Count == 0 ? null : ParentOf(at - age, Math.Max(wanted, block));
        // Every prompt begins with the service's own text, a block.
        int shared = parent is null ? 0
            : Math.Min(Math.Max(wanted, block), Math.Min(blocks, parent.Input / TrafficRequest.BlockTokens));
        Add(at, input, output, "", parent, shared);
    }

    /// <summary>Of the requests of about that time the first that is long enough, else the longest.</summary>
    private TrafficRequest ParentOf(double time, int blocks)
    {
        const int Looked = 32;
        int low = 0, high = _requests.Count - 1;
        while (low < high)
        {
            int middle = (low + high + 1) / 2;
            if (_requests[middle].Arrival <= time) low = middle;
            else high = middle - 1;
        }
        TrafficRequest longest = _requests[low];
        for (int i = low; i >= Math.Max(0, low - Looked); i--)
        {
            if (_requests[i].Blocks > blocks) return _requests[i];
            if (_requests[i].Blocks > longest.Blocks) longest = _requests[i];
        }
        return longest;
    }

    /// <summary>Between the given quantiles by straight lines.</summary>
    internal static double Quantile(double[][] quantiles, double probability)
    {
        int after = Array.FindIndex(quantiles, pair => pair[0] >= probability);
        if (after < 0) return quantiles[^1][1];
        if (after == 0) return quantiles[0][1];
        double[] left = quantiles[after - 1], right = quantiles[after];
        return left[1] + ((right[1] - left[1]) * (probability - left[0]) / (right[0] - left[0]));
    }
}
