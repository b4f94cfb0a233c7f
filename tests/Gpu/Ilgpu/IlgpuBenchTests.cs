using Native.Tests.Bench;
using Native.Tools;

namespace Native.Tests.Gpu.Ilgpu;

/// <summary>Backends are measured beside each other.</summary>
[Collection(nameof(Pocl))]
public sealed class IlgpuBenchTests
{
    [Fact]
    public async Task Throughput_TellsABackendOnEachLine()
    {
        (int exit, string output, string error) = await BenchRun.Run("throughput", "-p", "8", "-n", "4", "-r", "2",
            "-t", "1", "--backend", "cpu", "--backend", "ilgpu", "--device", Pocl.Device);
        Assert.True(exit == Cli.Success, error);
        string[] rows = [.. output.Split('\n').Where(line => line.StartsWith("| llama"))];
        Assert.Equal(4, rows.Length);
        Assert.Equal(2, rows.Count(row => row.Contains("| cpu (")));
        Assert.Equal(2, rows.Count(row => row.Contains("| ilgpu (") && row.Contains("OpenCL by PoCL")));
    }
}
