using System.Text.Json;
using Native.Bench.StepTime;
using Native.Bench.Throughput;
using Native.Kernels;
using Native.Scheduling;
using Native.Tests.Kernels;
using Native.Tests.Scheduling;
using Native.Tools;
using static Native.Tests.Bench.BenchRun;

namespace Native.Tests.Bench;

/// <summary><c>steptime</c>: its steps on a model that checks them, and its file. What steps take is not
/// asserted.</summary>
public sealed class StepTimeTests
{
    [Fact]
    public void AStep_IsWhatItsShapeSays()
    {
        FakeModelRunner runner = new(blockCount: 64, blockSize: 4);
        StepDriver driver = new(runner, 4, 40);
        driver.Prefill(1, 0, 24, TestContext.Current.CancellationToken);
        driver.CopyFirst(24, TestContext.Current.CancellationToken);
        List<string> steps = [];
        runner.OnExecute = (in Batch batch) =>
        {
            string contexts = string.Join(',', batch.ContextLengths.ToArray());
            steps.Add($"{batch.DecodeCount} of {batch.ContextLengths.Length}: {contexts}");
        };
        driver.Step(3, 24, 0, 0);
        driver.Step(0, 0, 8, 24);
        driver.Step(2, 24, 5, 10);
        Assert.Equal(["3 of 3: 25,25,25", "0 of 1: 32", "2 of 3: 25,25,15"], steps);
    }

    [Fact]
    public void TheDesign_HasEveryChunkAndEveryBatchAtEveryDepth_AndBothTogether()
    {
        List<DesignedStep> shapes = DesignedStep.Design([1, 16], [1, 8, 64], [0, 512]);
        Assert.Equal((4, 6, 6), (shapes.Count(s => s.Kind == "prefill"), shapes.Count(s => s.Kind == "decode"),
            shapes.Count(s => s.Kind == "mixed")));
        Assert.Equal(new StepLoad(16, (16 * 512) + 136, 1, 0, 0), new DesignedStep(16, 512, 0, 0).Load);
        Assert.Equal(new StepLoad(1, 1, 1, 8, 8 * 513), new DesignedStep(1, 0, 8, 512).Load);
    }

    [Fact]
    public async Task TheDemoModel_IsMeasured_AndTheFileIsReadAgain()
    {
        using TemporaryFolder folder = new();
        string path = Path.Combine(folder.Path, "steps.json");
        (int exit, string output, string error) = await Run("steptime", "-p", "1,8", "-n", "1,2", "-d", "0,16", "-r",
            "3", "--save-result", path);
        Assert.True(exit == 0, error);
        string[][] rows = Cells(output)[2..];
        Assert.Equal(["all", "decode", "mixed", "prefill"], rows.Select(row => row[0]).Order());
        StepTimeFile file = StepTimeFile.Read(path);
        Assert.Equal(StepTimeModel.Count, file.Coefficients.Length);
        Assert.Equal(3 * 12, file.Samples().Count());
        Assert.All(file.Samples(), sample => Assert.True(sample.Seconds > 0));
        (exit, _, error) = await Run("simulate", "--duration", "5", "--step-times", path, "--policy", "fcfs");
        Assert.True(exit == 0, error);
    }

    /// <summary>Steps of a 135M model on two cores that four programs shared: equal steps differ by 15 % from their own
    /// median, which nothing can predict.</summary>
    [Fact]
    public void RealSteps_ArePredictedAlmostAsWellAsTheirNoiseAllows()
    {
        using Stream stream =
            typeof(StepTimeTests).Assembly.GetManifestResourceStream("steps-135m-q8_0.json")!;
        StepSample[] samples =
            [.. JsonSerializer.Deserialize<StepTimeFile>(stream, JsonSerializerOptions.Web)!.Samples()];
        FitError fit = StepTimeFile.Of("135m", "here", samples).Errors()[^1];
        Assert.InRange(fit.Noise, 0.14, 0.16);
        Assert.InRange(fit.Median, 0, fit.Noise + 0.05);

        // As the engine sees them: each is predicted before it is learned. The first pass teaches, the second counts.
        StepTimeModel model = StepTimeFile.Fit(samples);
        List<double> errors = [];
        int below = 0;
        foreach (StepSample sample in samples)
        {
            errors.Add(Math.Abs((model.Predict(sample.Shape.Load) / sample.Seconds) - 1));
            if (sample.Seconds <= model.PredictHigh(sample.Shape.Load)) below++;
            model.Observe(sample.Shape.Load, sample.Seconds);
        }
        Assert.InRange(Statistics.Median(errors), 0, fit.Noise + 0.05);
        Assert.InRange((double)below / samples.Length, 0.88, 0.99);
    }

    [Theory, InlineData("{}"), InlineData("no json"), InlineData("""{"coefficients":[1,2],"steps":[]}""")]
    public async Task AnotherFile_IsRefused(string text)
    {
        using TemporaryFolder folder = new();
        string path = Path.Combine(folder.Path, "steps.json");
        await File.WriteAllTextAsync(path, text, TestContext.Current.CancellationToken);
        (int exit, _, string error) = await Run("simulate", "--step-times", path);
        Assert.Equal(Cli.Failed, exit);
        Assert.Contains("is no file of steptime", error, StringComparison.Ordinal);
    }
}
