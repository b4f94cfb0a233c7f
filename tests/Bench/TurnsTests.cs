using static Native.Tests.Bench.BenchRun;

namespace Native.Tests.Bench;

/// <summary><c>scheduler</c>: every kind of news is measured to its end, and the table. How long turns take is not
/// asserted.</summary>
public sealed class TurnsTests
{
    [Fact]
    public async Task EveryKindOfNews_IsMeasured_AlsoWithMoreTurnsThanWait()
    {
        (int exit, string output, string error) = await Run("scheduler", "-w", "2,300", "-r", "2", "-n", "100");
        Assert.True(exit == 0, error);
        string[][] rows = Cells(output)[2..];
        Assert.Equal(["none", "none", "cancel", "cancel", "stop", "stop", "deadline", "deadline"], rows.Select(row => row[0]));
        Assert.Equal(["2", "300"], rows.Select(row => row[1]).Distinct());
        // Two decodes are looked at to plan and to commit; news adds the request it is about and a path through a heap.
        int[] visits = [.. rows.Select(row => int.Parse(row[4], System.Globalization.CultureInfo.InvariantCulture))];
        Assert.Equal([4, 4], visits[..2]);
        Assert.All(visits[2..], count => Assert.InRange(count, 5, 50));
    }
}
