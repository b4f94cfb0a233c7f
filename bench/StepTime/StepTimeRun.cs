using System.Diagnostics;
using Native.Bench.Throughput;

namespace Native.Bench.StepTime;

/// <summary>A shape's step, and the seconds it took.</summary>
internal readonly record struct StepSample(DesignedStep Shape, double Seconds);

/// <summary>Measures steps of designed shapes on a real model.</summary>
internal static class StepTimeRun
{
    /// <summary>Measures every shape, in a new random order each time, so that what slows the machine for a while slows
    /// all shapes alike.</summary>
    /// <param name="model">Loaded for one sequence more than the most decodes.</param>
    /// <param name="shapes">What to measure.</param>
    /// <param name="repetitions">How often, after one run that is not counted.</param>
    /// <param name="report">Told how much of 1 is done, and what is at hand.</param>
    /// <param name="ct">Ends it at the next step.</param>
    public static List<StepSample> Run(BenchModel model, IReadOnlyList<DesignedStep> shapes, int repetitions,
        Action<double, string>? report, CancellationToken ct)
    {
        int sequences = shapes.Max(shape => shape.Decodes) + 1;
        int deepest = shapes.Max(shape => Math.Max(shape.PrefillStart, shape.DecodeStart));
        StepDriver driver = new(model.Runner, sequences, LengthOf(shapes));
        report?.Invoke(0, "filling the cache");
        if (deepest > 0)
        {
            driver.Prefill(1, 0, deepest, ct);
            driver.CopyFirst(deepest, ct);
        }
        Random random = new(42);
        DesignedStep[] order = [.. shapes];
        List<StepSample> samples = [];
        for (int repetition = -1; repetition < repetitions; repetition++)
        {
            random.Shuffle(order);
            foreach (DesignedStep shape in order)
            {
                ct.ThrowIfCancellationRequested();
                long started = Stopwatch.GetTimestamp();
                driver.Step(shape.Decodes, shape.DecodeStart, shape.Prefill, shape.PrefillStart);
                double seconds = Stopwatch.GetElapsedTime(started).TotalSeconds;
                if (repetition >= 0) samples.Add(new StepSample(shape, seconds));
            }
            report?.Invoke((repetition + 2.0) / (repetitions + 1), $"{shapes.Count} shapes");
        }
        return samples;
    }

    /// <summary>Tokens that a sequence has at most.</summary>
    public static int LengthOf(IReadOnlyList<DesignedStep> shapes) =>
        shapes.Max(shape => Math.Max(shape.PrefillStart + shape.Prefill, shape.DecodeStart + 1));
}
