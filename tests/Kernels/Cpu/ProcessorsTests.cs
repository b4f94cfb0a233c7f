using Native.Kernels.Cpu.Machine;

namespace Native.Tests.Kernels.Cpu;

/// <summary>Which processors threads take, on machines of every shape: their cores are told by a folder like
/// Linux's.</summary>
public sealed class ProcessorsTests
{
    [Theory]
    [InlineData("one thread a core", "0|1|2|3", new[] { 0, 1, 2, 3 }, new[] { 0, 1, 2, 3 }, 4)]
    [InlineData("siblings side by side, as many virtual machines number them", "0-1|0-1|2-3|2-3", new[] { 0, 1, 2, 3 }, new[] { 0, 2, 1, 3 }, 2)]
    [InlineData("siblings far apart, as most servers number them", "0,4|1,5|2,6|3,7|0,4|1,5|2,6|3,7", new[] { 0, 1, 2, 3, 4, 5, 6, 7 }, new[] { 0, 1, 2, 3, 4, 5, 6, 7 }, 4)]
    [InlineData("a process that may use some of them only", "0-1|0-1|2-3|2-3|4-5|4-5", new[] { 1, 2, 3, 5 }, new[] { 1, 2, 5, 3 }, 3)]
    [InlineData("cores with and without a second thread", "0-1|0-1|2|3", new[] { 0, 1, 2, 3 }, new[] { 0, 2, 3, 1 }, 3)]
    [InlineData("a system that does not tell", "", new[] { 2, 5 }, new[] { 2, 5 }, 0)]
    public void EveryCoreIsTaken_BeforeAnysSecondThread(string machine, string siblings, int[] allowed, int[] order, int cores)
    {
        string folder = Directory.CreateTempSubdirectory("native-topology-").FullName;
        try
        {
            string[] lists = siblings.Split('|', StringSplitOptions.RemoveEmptyEntries);
            for (int i = 0; i < lists.Length; i++)
            {
                Directory.CreateDirectory($"{folder}/cpu{i}/topology");
                File.WriteAllText($"{folder}/cpu{i}/topology/thread_siblings_list", lists[i] + "\n");
            }
            (int[] found, int count) = Processors.SpreadOverCores(allowed, folder);
            Assert.True(order.SequenceEqual(found), $"{machine}: {string.Join(' ', found)}");
            Assert.Equal(cores, count);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Fact]
    public void AThreadBoundToOneProcessor_SeesThatAlone()
    {
        int[] all = Processors.Allowed();
        Assert.SkipWhen(all.Length == 0, "the system does not tell which processors may be used");
        int[] seen = [], spread = [];
        int cores = 0;
        var thread = new Thread(() =>
        {
            Processors.Pin(all[^1]);
            (seen, spread, cores) = (Processors.Allowed(), Processors.Spread(), Processors.PhysicalCores());
        });
        thread.Start();
        thread.Join();
        Assert.Equal([all[^1]], seen);
        Assert.Equal([all[^1]], spread);
        Assert.Equal(1, cores);
    }

    [Theory]
    [InlineData("0::/a/b", "a/b/cpu.max", "110000 100000", 1.1)]
    [InlineData("0::/a/b", "a/cpu.max", "50000 100000", 0.5)] // a group around it
    [InlineData("0::/a/b", "cpu.max", "max 100000", double.PositiveInfinity)]
    [InlineData("0::/host/path", "cpu.max", "200000 100000", 2)] // a container, where the mount begins at its own group
    [InlineData("5:memory:/a\n4:cpu,cpuacct:/a\n0::/", "cpu/a/cpu.cfs_quota_us", "150000", 1.5)]
    [InlineData("4:cpu:/a", "cpu/a/cpu.cfs_quota_us", "-1", double.PositiveInfinity)]
    [InlineData("", "cpu.max", "110000 100000", double.PositiveInfinity)]
    public void Quota_IsWhatTheControlGroupsLeave(string membership, string file, string limit, double expected)
    {
        using TemporaryFolder root = new();
        string path = Path.Combine(root.Path, file);
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        File.WriteAllText(path, limit + "\n");
        if (file.EndsWith("quota_us", StringComparison.Ordinal)) File.WriteAllText(path.Replace("quota", "period"), "100000\n");
        File.WriteAllText(root.File("membership"), membership + "\n");
        Assert.Equal(expected, Processors.Quota(root.File("membership"), root.Path));
        Assert.Equal(double.PositiveInfinity, Processors.Quota(root.File("nothing"), root.Path));
    }
}
