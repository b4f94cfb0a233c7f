using Native.Scheduling;
using static Native.Tests.Scheduling.EngineHarness;

namespace Native.Tests.Scheduling;

/// <summary>What a constraint allows is all that is said, whatever the batch, and its faults are its own
/// request's.</summary>
public sealed class ConstraintTests
{
    [Theory]
    [InlineData(1, false)]
    [InlineData(1, true)]
    [InlineData(2, false)]
    [InlineData(2, true)]
    public void Constrained_IsTheOraclesOutput_InAnyCompany(int stepsInFlight, bool slow)
    {
        for (int seed = 0; seed < 50; seed++)
        {
            Random random = new(seed);
            FakeModelRunner runner = new(blockCount: 30, blockSize: 2, maxModelLength: 40, stepsInFlight: stepsInFlight);
            using EngineHarness harness = new(runner,
                new EngineOptions
                {
                    Policy = SchedulingPolicy.Fcfs,
                    MaxRunning = 8,
                    MaxBatchedTokens = random.Next(8, 20),
                });
            List<(Reading Reading, ulong? Constraint)> readings = [];
            for (int i = 0; i < 8; i++)
            {
                ulong? constraint = random.Next(3) == 0 ? null : (ulong)random.NextInt64();
                SamplingParams p = new()
                {
                    N = random.Next(3) == 0 ? 3 : 1,
                    Temperature = random.Next(2),
                    RepetitionPenalty = random.Next(2) == 0 ? 1 : 1.2f,
                    Seed = (ulong)i,
                    MaxTokens = random.Next(1, 14),
                    IgnoreEos = true,
                };
                HashConstraint? said = constraint is { } state ? new HashConstraint(state, slow) : null;
                readings.Add((harness.Submit(Prompt(random.Next(1, 20), i), p, constraint: said), constraint));
                harness.Turns(random.Next(3));
            }
            harness.RunToEnd();
            foreach ((Reading reading, ulong? constraint) in readings)
            {
                for (int choice = 0; choice < reading.Sampling.N; choice++)
                {
                    HashConstraint? said = constraint is { } state ? new HashConstraint(state) : null;
                    Assert.Equal(Oracle.Generate(reading.Prompt, reading.Sampling, choice, reading.Sampling.MaxTokens!.Value, said).Tokens, reading.Tokens(choice));
                }
            }
            harness.AssertClean();
        }
    }

    [Theory]
    [InlineData(1, 0)]
    [InlineData(1, 1)]
    [InlineData(1, 6)]
    [InlineData(2, 0)]
    [InlineData(2, 5)]
    public void AConstraintThatThrows_EndsItsOwnChoiceAlone(int stepsInFlight, int call)
    {
        using EngineHarness harness = new(new FakeModelRunner(stepsInFlight: stepsInFlight));
        Reading other = harness.Submit(Prompt(5, 1), Greedy(12));
        Reading broken = harness.Submit(Prompt(7, 2), Greedy(12), constraint: new HashConstraint(3) { ThrowsAt = call });
        harness.RunToEnd();
        Assert.Equal(FinishReason.Error, broken.Finish());
        Assert.Equal((call + 1) / 2, broken.Tokens().Length); // calls alternate: mask, token
        other.AssertOracle(128);
        harness.AssertClean();
        Assert.Equal(0, harness.Engine.Metrics.FailedSteps);
    }

    [Fact]
    public void AToken_IsToldOnce_ThoughItsSequenceIsComputedAgain()
    {
        using EngineHarness harness = new(new FakeModelRunner(blockCount: 10, blockSize: 2, maxModelLength: 20));
        harness.Submit(Prompt(6, 1), Greedy(10));
        HashConstraint constraint = new(1);
        Reading younger = harness.Submit(Prompt(4, 2), Greedy(10), constraint: constraint);
        harness.RunToEnd();
        Assert.True(younger.Stream.Timings.Preemptions > 0);
        Assert.Equal(10, constraint.Accepted);
        harness.AssertClean();
    }

    [Theory, InlineData(1), InlineData(2)]
    public void AMaskThatIsNotReady_HoldsNobodyElseUp_AlsoWhereBlocksRunOut(int stepsInFlight)
    {
        FakeModelRunner runner = new(blockCount: 8, blockSize: 2, maxModelLength: 16, stepsInFlight: stepsInFlight);
        using EngineHarness harness = new(runner);
        SlowConstraint constraint = new();
        Reading older = harness.Submit(Prompt(6, 1), Greedy(5), constraint: constraint);
        Reading younger = harness.Submit(Prompt(3, 2), Greedy(13));
        harness.Turns(60);
        Assert.Equal(0, harness.Engine.Metrics.FailedSteps);
        Assert.False(older.IsComplete);
        Assert.Equal(FinishReason.None, younger.Finish()); // it waits for the blocks that the older one has
        constraint.Ready = true;
        harness.RunToEnd();
        older.AssertOracle(16);
        younger.AssertOracle(16);
        harness.AssertClean();
    }

    [Theory, InlineData(1), InlineData(2)]
    public void AConstraintThatThrowsWhenItIsAsked_EndsItsOwnChoiceAlone(int stepsInFlight)
    {
        using EngineHarness harness = new(new FakeModelRunner(stepsInFlight: stepsInFlight));
        Reading other = harness.Submit(Prompt(5, 1), Greedy(12));
        harness.Turns(3);
        Reading broken = harness.Submit(Prompt(7, 2), Greedy(12), constraint: new SlowConstraint { Throws = true });
        harness.RunToEnd();
        Assert.Equal(FinishReason.Error, broken.Finish());
        Assert.Empty(broken.Tokens());
        other.AssertOracle(128);
        Assert.Equal(0, harness.Engine.Metrics.FailedSteps);
        harness.AssertClean();
    }

    [Fact]
    public void ASubmissionThatThrows_LeavesItsPlaceInTheQueue()
    {
        using EngineHarness harness = new(options: new EngineOptions { Policy = SchedulingPolicy.Fcfs, MaxQueued = 2 });
        GenerationRequest request = new()
        {
            Ids = Prompt(3),
            Sampling = Greedy(4) with { N = 2 },
            Constraint = new SlowConstraint { Throws = true },
        };
        for (int i = 0; i < 5; i++)
            Assert.Throws<InvalidOperationException>(() => harness.Engine.Submit(request, out _));
        Assert.Equal(0, harness.Engine.Queued);
        harness.Submit(Prompt(3), Greedy(4));
        harness.RunToEnd();
        harness.AssertClean();
    }

    /// <summary>Allows everything once it is told to be ready.</summary>
    private sealed class SlowConstraint : ITokenConstraint
    {
        public bool Ready { get; set; }

        public bool Throws { get; init; }

        public bool IsReady => Throws ? throw new InvalidOperationException("the constraint broke") : Ready;

        public void Fill(Span<uint> mask) => mask.Fill(uint.MaxValue);

        public void Accept(int token)
        {
        }

        public ITokenConstraint Copy() => Throws ? throw new InvalidOperationException("the constraint broke") : this;
    }
}
