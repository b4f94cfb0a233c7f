using System.Text.Json;
using Native.Bench.Rings;
using static Native.Tests.Bench.BenchRun;

namespace Native.Tests.Bench;

/// <summary><c>rings</c>: every queue is measured to its end, the table and the file. How fast they are is not
/// asserted.</summary>
public sealed class RingsTests
{
    [Fact]
    public async Task EveryQueue_IsMeasuredWithEveryNumberOfProducers_AndSaved()
    {
        string file = Path.Combine(Directory.CreateTempSubdirectory("rings").FullName, "rings.json");
        (int exit, string output, string error) = await Run(
            "rings", "-p", "1,3", "-n", "300", "-c", "4", "-r", "2", "--save-result", file);
        Assert.True(exit == 0, error);
        string[][] rows = Cells(output)[2..];
        Assert.Equal(["1", "1", "1", "3", "3", "3"], rows.Select(row => row[0]));
        string[] queues = ["Inbox", "Channel", "ConcurrentQueue"];
        Assert.Equal([.. queues, .. queues], rows.Select(row => row[1]));

        RingsReport saved = JsonSerializer.Deserialize<RingsReport>(
            File.ReadAllText(file), new JsonSerializerOptions(JsonSerializerDefaults.Web))!;
        Assert.Equal((300, 4, 2, 6), (saved.Items, saved.Capacity, saved.Rounds, saved.Results.Count));
        foreach (RingResult result in saved.Results)
        {
            Assert.True(result.Median.ItemsPerSecond > 0, $"{result}");
            foreach (double[] times in (double[][])[result.Median.PutNanoseconds, result.Median.TakeNanoseconds])
            {
                Assert.Equal(RingsMeasurement.Percents.Length, times.Length);
                Assert.True(times[0] >= 0 && times.SequenceEqual(times.Order()), "percentiles rise");
            }
        }
    }

    [Fact]
    public void AResult_IsTheMedianOfEveryFigure()
    {
        RingRound Round(double x) => new(x, 10 * x, [x, x + 1, x + 2, x + 3], [2 * x, 3 * x, 4 * x, 5 * x]);
        RingRound median = RingResult.Of("q", 1, [Round(5), Round(1), Round(3)]).Median;
        Assert.Equal((3, 30), (median.ItemsPerSecond, median.BytesPerItem));
        Assert.Equal([3, 4, 5, 6], median.PutNanoseconds);
        Assert.Equal([6, 9, 12, 15], median.TakeNanoseconds);
    }
}
