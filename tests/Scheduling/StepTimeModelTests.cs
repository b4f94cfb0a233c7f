using Native.Bench.Serve;
using Native.Scheduling;

namespace Native.Tests.Scheduling;

/// <summary>The step-time model on machines whose coefficients are known, with the noise of machines that others
/// use.</summary>
public sealed class StepTimeModelTests
{
    /// <summary>A step, a prompt token, a prompt's key, a decode, a decode's key, a chunk.</summary>
    private static readonly double[] Machine = [3e-3, 5e-4, 1.2e-7, 7e-4, 3e-6, 1e-3];

    private static double Seconds(in StepLoad load, double[] machine) => machine[0]
        + (machine[1] * load.PrefillTokens) + (machine[2] * load.PrefillAttention) + (machine[3] * load.Decodes)
        + (machine[4] * load.DecodeContext) + (machine[5] * load.Chunks);

    private static StepLoad Prompt(int tokens, int start) => default(StepLoad).PlusPrefill(start, tokens);

    private static StepLoad Decodes(int count, int context) => new(0, 0, 0, count, (double)count * context);

    private static StepLoad Drawn(Random random)
    {
        StepLoad load = default;
        int kind = random.Next(3), decodes = 1 << random.Next(7);
        if (kind != 0)
            for (int i = 0; i < decodes; i++) load = load.PlusDecode(1 + random.Next(2000));
        return kind == 1 ? load : load.PlusPrefill(random.Next(2000), 1 + random.Next(512));
    }

    /// <summary>A fifth up or down, and one of fifty steps ten times as long.</summary>
    private static double Noise(Random random) =>
        random.NextDouble() < 0.02 ? 10 : Math.Max(0.2, 1 + (0.2 * Arrivals.Normal(random)));

    private static StepTimeModel Learned(int steps, Func<int, double> speed, int seed = 1)
    {
        StepTimeModel model = new();
        Random random = new(seed);
        for (int i = 0; i < steps; i++)
        {
            StepLoad load = Drawn(random);
            model.Observe(load, Seconds(load, Machine) * speed(i) * Noise(random));
        }
        return model;
    }

    private static readonly StepLoad[] Shapes =
    [
        Prompt(16, 0), Prompt(128, 0), Prompt(512, 0), Prompt(512, 2000), Decodes(1, 100), Decodes(8, 1000),
        Decodes(64, 1000), Decodes(32, 500).PlusPrefill(0, 256), Decodes(4, 1500).PlusPrefill(1000, 64),
    ];

    private static double MeanError(StepTimeModel model, double speed = 1) => Shapes.Average(shape =>
        Math.Abs((model.Predict(shape) / (Seconds(shape, Machine) * speed)) - 1));

    [Theory, InlineData(1), InlineData(2), InlineData(3), InlineData(5), InlineData(6)]
    public void Predict_IsWithinATenth_AfterNoiseAndOutliers(int seed) =>
        Assert.InRange(MeanError(Learned(3000, _ => 1, seed)), 0, 0.1);

    [Fact]
    public void Coefficients_AreTheMachines_WithoutNoise()
    {
        StepTimeModel model = new();
        Random random = new(1);
        for (int i = 0; i < 5000; i++)
        {
            StepLoad load = Drawn(random);
            model.Observe(load, Seconds(load, Machine));
        }
        double[] found = new double[StepTimeModel.Count];
        model.Read(found);
        for (int k = 0; k < Machine.Length; k++) Assert.InRange(found[k] / Machine[k], 0.9, 1.1);
    }

    [Theory, InlineData(3), InlineData(6), InlineData(20)]
    public void Predict_IsBackThreeStepsAfterAPause(int steps)
    {
        StepTimeModel model = Learned(1000, _ => 1);
        StepLoad load = Shapes[7];
        for (int i = 0; i < steps; i++) model.Observe(load, 5 * Seconds(load, Machine));
        for (int i = 0; i < 3; i++) model.Observe(load, Seconds(load, Machine));
        Assert.InRange(model.Predict(load) / Seconds(load, Machine), 0.8, 1.25);
    }

    [Theory, InlineData(1.5), InlineData(1 / 1.5), InlineData(4)]
    public void Predict_FollowsAMachineThatChangesSpeed_WithinThirtySteps(double factor)
    {
        StepTimeModel model = Learned(1030, i => i < 1000 ? 1 : factor);
        Assert.InRange(MeanError(model, factor), 0, 0.2);
    }

    [Fact]
    public void Predict_FollowsAlsoShapesThatWereNotSeenSince()
    {
        StepTimeModel model = Learned(1000, _ => 1);
        for (int i = 0; i < 200; i++) model.Observe(Decodes(8, 400 + i), 2 * Seconds(Decodes(8, 400 + i), Machine));
        StepLoad prompt = Prompt(512, 0);
        Assert.InRange(model.Predict(prompt) / (2 * Seconds(prompt, Machine)), 0.75, 1.25);
    }

    [Fact]
    public void AThousandDecodes_DoNotMakeItForgetPrompts()
    {
        StepTimeModel model = Learned(500, _ => 1);
        StepLoad prompt = Prompt(300, 500);
        double before = model.Predict(prompt);
        Random random = new(3);
        for (int i = 0; i < 20_000; i++)
            model.Observe(Decodes(16, 300), Seconds(Decodes(16, 300), Machine) * Noise(random));
        Assert.InRange(model.Predict(prompt) / before, 0.8, 1.25);
    }

    [Fact]
    public void OneLongPause_HardlyMovesIt()
    {
        StepTimeModel model = Learned(1000, _ => 1);
        double before = model.Predict(Decodes(8, 500));
        model.Observe(Decodes(8, 500), 100 * before);
        Assert.InRange(model.Predict(Decodes(8, 500)) / before, 1, 1.07);
    }

    [Theory, InlineData(1e-3), InlineData(1), InlineData(1e3)]
    public void TheFirstSteps_AreEnoughForTheScale(double scale)
    {
        StepTimeModel model = new();
        for (int i = 0; i < 10; i++)
        {
            model.Observe(Prompt(256, 0), scale * Seconds(Prompt(256, 0), Machine));
            model.Observe(Decodes(4, 256), scale * Seconds(Decodes(4, 256), Machine));
        }
        Assert.InRange(model.Predict(Prompt(256, 0)) / (scale * Seconds(Prompt(256, 0), Machine)), 0.85, 1.15);
        Assert.InRange(model.Predict(Decodes(4, 256)) / (scale * Seconds(Decodes(4, 256), Machine)), 0.85, 1.15);
        Assert.InRange(model.Predict(Prompt(512, 0)) / (scale * Seconds(Prompt(512, 0), Machine)), 0.5, 2);
    }

    [Theory, InlineData(20), InlineData(0.05)]
    public void AFirstStepThatWasAnAccident_IsForgotten(double factor)
    {
        StepTimeModel model = new();
        Random random = new(4);
        for (int i = 0; i < 40; i++)
        {
            StepLoad load = i % 4 == 0 ? Prompt(100 + random.Next(200), 0) : Decodes(4 + random.Next(4), 300);
            model.Observe(load, Seconds(load, Machine) * (i == 0 ? factor : 1));
        }
        foreach (StepLoad load in (StepLoad[])[Prompt(200, 0), Decodes(6, 300)])
            Assert.InRange(model.Predict(load) / Seconds(load, Machine), 0.8, 1.2);
    }

    [Fact]
    public void PredictHigh_IsAboveNineteenOfTwentySteps()
    {
        StepTimeModel model = Learned(3000, _ => 1);
        Random random = new(9);
        int below = 0;
        for (int i = 0; i < 2000; i++)
        {
            StepLoad load = Drawn(random);
            if (Seconds(load, Machine) * Noise(random) <= model.PredictHigh(load)) below++;
        }
        Assert.InRange(below / 2000.0, 0.9, 0.985);
    }

    [Fact]
    public void LargestPrefill_IsTheLastThatFits_AndShrinksAsContextsGrow()
    {
        StepTimeModel model = Learned(2000, _ => 1);
        StepLoad decodes = Decodes(16, 300);
        int before = int.MaxValue;
        foreach (int start in (int[])[0, 1000, 4000, 16_000, 64_000])
        {
            int count = model.LargestPrefill(decodes, start, 2048, 0.1);
            Assert.True(model.Predict(decodes.PlusPrefill(start, count)) <= 0.1 || count == 0);
            Assert.True(model.Predict(decodes.PlusPrefill(start, count + 1)) > 0.1);
            Assert.True(count <= before);
            before = count;
        }
        Assert.Equal(0, model.LargestPrefill(decodes, 0, 2048, 1e-6));
        Assert.Equal(7, model.LargestPrefill(decodes, 0, 7, 10));
        Assert.Equal(0, model.LargestPrefill(decodes, 0, 0, 10));
        Assert.InRange(model.LargestPrefill(decodes, 0, int.MaxValue, 1e9), 1, int.MaxValue);
    }

    [Fact]
    public void ItIsNeverNegativeNorNotANumber_WhateverIsObserved()
    {
        double[] strange = [0, -1, double.NaN, double.PositiveInfinity, 1e-12, 1e-8, 1e8, 1e300, double.Epsilon];
        Random random = new(5);
        StepTimeModel model = new();
        for (int i = 0; i < 20_000; i++)
        {
            StepLoad load = random.Next(5) == 0 ? default : Drawn(random);
            double seconds = random.Next(3) == 0 ? strange[random.Next(strange.Length)] : random.NextDouble();
            model.Observe(load, seconds);
            StepLoad shape = Shapes[i % Shapes.Length];
            double found = model.Predict(shape), high = model.PredictHigh(shape);
            Assert.True(found > 0 && high >= found && double.IsFinite(high), $"{found} {high}");
        }
    }

    [Fact]
    public void MoreWork_NeverTakesLess()
    {
        StepTimeModel model = Learned(200, _ => 1);
        StepLoad load = default;
        double before = 0;
        for (int i = 0; i < 100; i++)
        {
            load = i % 2 == 0 ? load.PlusDecode(10 * i) : load.PlusPrefill(i, 3);
            Assert.True(model.Predict(load) >= before);
            before = model.Predict(load);
        }
    }

    [Fact]
    public void APriorThatWasMeasured_IsBelievedUntilStepsSayOtherwise()
    {
        double[] prior = [3e-3, 5e-4, 1.2e-7, 7e-4, 3e-6, 1e-3];
        StepTimeModel model = new(prior);
        Assert.InRange(MeanError(model), 0, 1e-9);
        for (int i = 0; i < 100; i++) model.Observe(Decodes(8, 100), Seconds(Decodes(8, 100), Machine));
        Assert.InRange(MeanError(model), 0, 0.01);
        Assert.Throws<ArgumentException>(() => new StepTimeModel([1, 2]));
        Assert.Throws<ArgumentException>(() => new StepTimeModel([1, -2, 0, 0, 0, 0]));
    }

    [Fact]
    public void ObservingAndPredicting_AllocateNothing()
    {
        StepTimeModel model = Learned(5000, _ => 1);
        StepLoad load = Decodes(8, 100);
        model.Observe(load, 0.01);
        Assert.Equal(0, Allocations.Of(() =>
        {
            for (int i = 0; i < 10_000; i++)
            {
                model.Observe(load, 0.01);
                _ = model.PredictHigh(load) + model.LargestPrefill(load, i, 512, 0.05);
            }
        }));
    }
}
