using Native.Bench;
using Native.Bench.Serve;

namespace Native.Tests.Bench;

public sealed class ArrivalsTests
{
    [Theory]
    [InlineData(0.25)]
    [InlineData(1)]
    [InlineData(5)]
    public void Gaps_HaveTheMeanOfTheRate_AndTheSpreadOfTheBurstiness(double burstiness)
    {
        double[] times = Arrivals.Steady(20_000, 8, burstiness, new Random(1));
        Assert.Equal(20_000 / 8.0, times[^1], 1e-6);
        double[] gaps = [.. times.Zip(times.Prepend(0), (later, earlier) => later - earlier)];
        Assert.All(gaps, gap => Assert.True(gap >= 0));
        // Of a gamma distribution the squared coefficient of variation is 1 / shape.
        double variation = Statistics.Deviation(gaps) / Statistics.Mean(gaps);
        Assert.Equal(1 / burstiness, variation * variation, 0.1 / burstiness);
        if (burstiness == 1) Assert.Equal(Math.Exp(-1), gaps.Count(gap => gap > 1 / 8.0) / 20_000.0, 0.02); // Poisson: gaps are exponential
    }

    [Fact]
    public void InfiniteBurstiness_IsEven() => Assert.Equal([0.25, 0.5, 0.75, 1], Arrivals.Steady(4, 4, double.PositiveInfinity, new Random(1)));

    [Fact]
    public void TheSameSeed_GivesTheSameTimes()
    {
        Assert.Equal(Arrivals.Steady(50, 3, 0.5, new Random(7)), Arrivals.Steady(50, 3, 0.5, new Random(7)));
        Assert.NotEqual(Arrivals.Steady(50, 3, 0.5, new Random(7)), Arrivals.Steady(50, 3, 0.5, new Random(8)));
    }

    [Fact]
    public void ARisingRate_GoesFromTheFirstToTheLast_ByStepsOrByFactors()
    {
        static double[] Rates(double[] times) => [.. times.Zip(times.Prepend(0), (later, earlier) => Math.Round(1 / (later - earlier), 9))];
        Assert.Equal([1, 2, 3, 4, 5], Rates(Arrivals.Rising(5, RampUp.Linear, 1, 5, double.PositiveInfinity, new Random(1))));
        Assert.Equal([1, 2, 4, 8, 16], Rates(Arrivals.Rising(5, RampUp.Exponential, 1, 16, double.PositiveInfinity, new Random(1))));
        Assert.Equal([3], Rates(Arrivals.Rising(1, RampUp.Linear, 3, 5, double.PositiveInfinity, new Random(1))));
    }
}
