using Microsoft.Coyote;
using Microsoft.Coyote.Logging;
using Microsoft.Coyote.SystematicTesting;

namespace Native.Tests.Concurrency;

/// <summary>What came of many schedules of a scenario.</summary>
/// <param name="Schedules">How many ran.</param>
/// <param name="Ended">How many of them came to their end within the bound.</param>
/// <param name="Failure">The first failure; null for none.</param>
internal sealed record Exploration(int Schedules, int Ended, string? Failure);

/// <summary>Has Coyote choose schedules, and the values that weak memory may show.</summary>
internal static class Explorer
{
    /// <summary>Runs up to so many schedules, until one fails.</summary>
    /// <param name="scenario">A method of <see cref="Scenarios"/>.</param>
    /// <param name="schedules">Half of them switch threads at random, half one time in eight.</param>
    /// <param name="fault">What is wrong, and where.</param>
    public static Exploration Run(string scenario, int schedules, (int Site, FaultKind Kind)? fault = null)
    {
        Action<World> body = ModelledSources.Model.Scenario(scenario);
        Configuration plain = Configuration.Create()
            .WithMaxSchedulingSteps(100_000) // Execution ends one that goes on
            .WithRandomGeneratorSeed(1)
            .WithVerbosityEnabled(VerbosityLevel.None)
            .WithTelemetryEnabled(false)
            .WithSystematicFuzzingFallbackEnabled(false)
            .WithPotentialDeadlocksReportedAsBugs(false)
            .WithTestingIterations((uint)Math.Max(1, schedules / 2));
        Exploration random = Run(body, plain.WithRandomStrategy(), fault);
        if (random.Failure is not null) return random;
        Exploration longer = Run(body, plain.WithProbabilisticStrategy(3), fault);
        return new Exploration(random.Schedules + longer.Schedules, random.Ended + longer.Ended, longer.Failure);
    }

    private static Exploration Run(Action<World> body, Configuration configuration, (int, FaultKind)? fault)
    {
        int started = 0, ended = 0;
        Execution.Fault = fault;
        try
        {
            using TestingEngine engine = TestingEngine.Create(configuration, (Action)(() =>
            {
                started++;
                body(new ModelWorld());
                ended++;
            }));
            engine.SetLogger(new TextWriterLogger(TextWriter.Null, VerbosityLevel.None));
            engine.Run();
            return new Exploration(started, ended, engine.TestReport.BugReports.FirstOrDefault());
        }
        finally
        {
            Execution.Fault = null;
        }
    }
}
