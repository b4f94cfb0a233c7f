using System.Globalization;
using Native.Tools;

namespace Native.Tests.Tools;

public sealed class QualityTests
{
    [Fact]
    public async Task Quality_TellsTheWeightsCostAndTheActivationsCostApart()
    {
        string f32 = TestData.Path("models/stories260K/stories260K-F32.gguf"), text = TestData.Path("text/tinyshakespeare.txt");
        string before = string.Join('\n', TemporaryModels());
        (int exit, string output, string error) = await Run("quality", f32, "--file", text, "--types", "Q8_0", "Q4_0", "q8_0", "--ctx", "256", "--chunks", "2");
        Assert.Equal((Cli.Success, ""), (exit, error));
        string[] lines = output.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Contains("254 tokens scored in 2 windows of 256", lines[0], StringComparison.Ordinal);
        string[][] rows = [.. lines[1..].Select(line => line.Trim().Trim('|').Split('|', StringSplitOptions.TrimEntries))];
        Assert.Equal(["weights", "---", "as they are", "Q8_0", "Q4_0"], rows.Select(row => row[0]));
        Assert.All(rows, row => Assert.Equal(9, row.Length));
        double Kl(int row, int column) => double.Parse(rows[row][column].Split(' ')[0], CultureInfo.InvariantCulture);
        Assert.InRange(Kl(2, 7), 0, 0.00005); // F32 weights meet floats: the KV cache alone is rounded
        Assert.True(Kl(3, 4) < Kl(4, 4) / 4, "eight bits cost as much as four");
        Assert.True(Kl(3, 7) > Kl(2, 7), "int8 activations cost nothing");
        Assert.Equal(before, string.Join('\n', TemporaryModels()));

        static IEnumerable<string> TemporaryModels() => Directory.EnumerateFiles(Path.GetTempPath(), "native-*-Q?_0.gguf").Order(StringComparer.Ordinal);
    }

    [Fact]
    public async Task Help_TeachesByExamples()
    {
        (int exit, string output, _) = await Run("quality", "--help");
        Assert.Equal(Cli.Success, exit);
        Assert.Contains($"Examples:{Environment.NewLine}  dotnet run -c Release --project tools -- quality", output, StringComparison.Ordinal);
    }

    private static async Task<(int Exit, string Output, string Error)> Run(params string[] command)
    {
        StringWriter output = new(CultureInfo.InvariantCulture), error = new(CultureInfo.InvariantCulture);
        using Terminal terminal = new(TextReader.Null, output, error);
        return (await Cli.RunAsync(command, terminal), output.ToString(), error.ToString());
    }
}
