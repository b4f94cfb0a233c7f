using System.Diagnostics;
using System.Globalization;
using Native.Bench.Serve;
using Native.Bench.Throughput;

namespace Native.Bench.Peers;

/// <summary>Native's own runner, driven as <c>throughput</c> does: greedy sampling is part of a step.</summary>
/// <param name="model">The model; belongs to whoever loaded it.</param>
/// <param name="tests">What will be asked.</param>
internal sealed class NativePeer(BenchModel model, IReadOnlyList<ThroughputTest> tests) : IPeer
{
    // A processor that waited for the other engines takes up to 0.15 s more for its next step, as it was measured here
    // for llama.cpp: for it too, as many steps that are not counted come first.
    private const int RunUpSteps = 2;

    private readonly Dictionary<(int Batch, int Depth), StepDriver> _drivers = [];

    public string Name => "Native";

    public string Description { get; } =
        string.Create(CultureInfo.InvariantCulture, $"{model.Runner.Info.Backend}, greedy sampling included");

    public Task<double?> MeasureAsync(ThroughputTest test, CancellationToken ct) => Task.Run<double?>(() =>
    {
        if (!_drivers.TryGetValue((test.Batch, test.Depth), out StepDriver? driver))
        {
            int length =
                tests.Where(other => (other.Batch, other.Depth) == (test.Batch, test.Depth)).Max(other => other.Length);
            _drivers[(test.Batch, test.Depth)] = driver = new StepDriver(model.Runner, test.Batch, length);
            // Computed once: what other tests leave in the same blocks is as good for the time it takes.
            driver.Prefill(test.Batch, 0, test.Depth, ct);
        }
        driver.Decode(test.Batch, test.Depth, Math.Min(RunUpSteps, test.Prompt + test.Generate), ct);
        long started = Stopwatch.GetTimestamp();
        if (test.Generate > 0) driver.Decode(test.Batch, test.Depth, test.Generate, ct);
        else driver.Prefill(test.Batch, test.Depth, test.Prompt, ct);
        return Stopwatch.GetElapsedTime(started).TotalSeconds;
    }, ct);

    public ValueTask DisposeAsync() => ValueTask.CompletedTask;
}
