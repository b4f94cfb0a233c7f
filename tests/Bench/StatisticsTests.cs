using Native.Bench;

namespace Native.Tests.Bench;

public sealed class StatisticsTests
{
    [Fact]
    public void MeanMedianAndDeviations_AreTheTextbooks()
    {
        double[] values = [2, 4, 4, 4, 5, 5, 7, 9];
        Assert.Equal(5, Statistics.Mean(values));
        Assert.Equal(4.5, Statistics.Median(values));
        Assert.Equal(2, Statistics.Deviation(values)); // of these eight
        Assert.Equal(Math.Sqrt(32.0 / 7), Statistics.SampleDeviation(values), 1e-12); // of what they are a sample of
    }

    [Fact]
    public void Percentiles_LieBetweenNeighbours_AsNumpysDo()
    {
        double[] values = [40, 10, 30, 20];
        Assert.Equal(10, Statistics.Percentile(values, 0));
        Assert.Equal(40, Statistics.Percentile(values, 100));
        Assert.Equal(25, Statistics.Percentile(values, 50));
        Assert.Equal(17.5, Statistics.Percentile(values, 25), 1e-12);
        Assert.Equal(39.7, Statistics.Percentile(values, 99), 1e-12);
        Assert.Equal(40, values[0]); // the caller's order stays
    }

    [Fact]
    public void OfOneValueThereIsNoSpread_AndOfNoneNothing()
    {
        Assert.Equal((3, 3, 0), (Statistics.Mean([3]), Statistics.Percentile([3], 99), Statistics.SampleDeviation([3])));
        Assert.Equal((0, 0, 0, 0), (Statistics.Mean([]), Statistics.Median([]), Statistics.SampleDeviation([]), Statistics.Deviation([])));
    }
}
