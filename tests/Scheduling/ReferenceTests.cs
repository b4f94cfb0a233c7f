using System.Globalization;
using CsCheck;
using Native.Kernels;
using Native.Scheduling;

namespace Native.Tests.Scheduling;

/// <summary>The scheduler decides as the <see cref="ReferenceScheduler"/> does, whatever comes.</summary>
/// <remarks>A workload that fails is made smaller, and told with the seed that makes it.</remarks>
public sealed class ReferenceTests(ITestOutputHelper output)
{
    private const int Steps = 20_000;

    [Fact]
    public void EveryStep_IsTheReferences_AndLeavesEverythingInOrder()
    {
        string? asked = Environment.GetEnvironmentVariable("NATIVE_SOAK_STEPS");
        long steps = asked is null ? Steps : long.Parse(asked, CultureInfo.InvariantCulture);
        Tally tally = new();
        while (tally.Steps < steps)
        {
            // A step of the tally is one of the engine; some hundred workloads at a time, so that a failure can shrink.
            Workload.Any.Sample(workload => Run(workload, tally), iter: 300, threads: 1, print: w => w.ToString());
        }
        output.WriteLine(tally.ToString());
        // A random test that never meets what it is for is no test.
        // The rarest comes about 37 times in all, give or take 8; it fails below 6.
        foreach ((string what, long count) in tally.Counts) Assert.True(count * 5000 > tally.Steps, $"{count} {what}");
    }

    /// <summary>What was met so far.</summary>
    private sealed class Tally
    {
        public long Steps, Preemptions, Forks, Failures, Expired, Cancelled, Stopped, Shortened, Overlapped, Yielded;

        public (string What, long Count)[] Counts =>
        [
            ("preemptions", Preemptions), ("copied blocks", Forks), ("failed steps", Failures),
            ("deadlines passed", Expired), ("cancelled", Cancelled), ("stopped", Stopped),
            ("chunks cut for time", Shortened), ("steps overlapped", Overlapped), ("gave way", Yielded),
        ];

        public override string ToString() =>
            $"{Steps} steps: {string.Join(", ", Counts.Select(of => $"{of.Count} {of.What}"))}";
    }

    private static void Run(Workload workload, Tally tally)
    {
        FakeModelRunner runner = new(
            workload.Blocks, workload.BlockSize, Workload.MaxModelLength, stepsInFlight: workload.StepsInFlight);
        using EngineHarness harness = new(runner, workload.Options);
        new Trial(workload, harness, tally).Run();
    }

    /// <summary>One workload under way, in the engine and in the reference.</summary>
    private sealed class Trial(Workload workload, EngineHarness harness, Tally tally)
    {
        private readonly ReferenceScheduler _reference = new(
            harness.Runner.Info, harness.Engine.Options, harness.Engine.Heartbeat,
            harness.Engine.Times, harness.Engine.Scheduler.Budget);

        private readonly List<(Reading Reading, ReferenceRequest Request)> _requests = [];
        private readonly Dictionary<TokenStream, ReferenceRequest> _byStream = [];
        private readonly HashSet<Reading> _disturbed = [];
        private int _faults, _turns, _most;

        private Scheduler Scheduler => harness.Engine.Scheduler;

        public void Run()
        {
            // A step takes a millisecond, 0.3 for each token, and up to a fifth more or less.
            harness.Runner.OnExecute = (in Batch batch) => harness.Clock.Now +=
                (1_000_000 + (300_000 * batch.TokenIds.Length)) * (80 + (harness.Runner.Steps * 7919 % 41)) / 100;
            foreach (WorkloadStep step in workload.Steps) Do(step);
            while (Turn()) Assert.True(_turns <= _most, $"{_turns} turns, more than all can need: {_most}");
            Check();
        }

        private void Do(WorkloadStep step)
        {
            switch (step.Deed)
            {
                case Deed.Submit:
                    Submit(step.Request!);
                    break;
                case Deed.Turn:
                    for (int i = 0; i < step.Number; i++) Turn();
                    break;
                case Deed.Wait:
                    harness.Clock.Now += step.Number * 1_000_000L;
                    break;
                case Deed.FailLaunch:
                    _reference.LaunchFails = true;
                    harness.Runner.OnLaunch = () => Throw(() => harness.Runner.OnLaunch = null);
                    break;
                case Deed.FailCollect:
                    _reference.CollectFails = true;
                    harness.Runner.OnCollect = () => Throw(() => harness.Runner.OnCollect = null);
                    break;
                default:
                    if (_requests.Count > 0) Signal(step);
                    break;
            }
        }

        private void Throw(Action once)
        {
            once();
            _faults++;
            throw new InvalidOperationException("as the workload wants");
        }

        private void Submit(WorkloadRequest request)
        {
            GenerationRequest asked = request.Build(_requests.Count, harness.Clock.Now);
            SubmitOutcome outcome = harness.TrySubmit(asked, out Reading? reading);
            if (reading is null)
            {
                Assert.Equal(SubmitOutcome.WouldBeLate, outcome); // its deadline is too near
                Assert.NotNull(asked.Deadline);
                return;
            }
            int limit = Math.Min(request.MaxTokens, Workload.MaxModelLength - request.Prompt);
            ReferenceRequest known = new()
            {
                Stream = reading.Stream,
                Asked = asked,
                Prompt = request.Prompt,
                Limit = limit,
                Share = _reference.ShareOf(asked),
                Says = [.. Enumerable.Range(0, request.N).Select(
                    i => Oracle.Generate(asked.Ids.Span, asked.Sampling, i, limit))],
            };
            _reference.Submit(known);
            _requests.Add((reading, known));
            _byStream[reading.Stream] = known;
            // Every step computes a token at least, and every token once, and once more after each preemption.
            _most = Math.Max(_most, _turns) + (workload.StepsInFlight * request.N
                * (workload.MaxPreemptions + 1) * (request.Prompt + limit)) + 2;
        }

        private void Signal(WorkloadStep step)
        {
            (Reading reading, ReferenceRequest request) = _requests[step.Number % _requests.Count];
            _disturbed.Add(reading);
            if (step.Deed == Deed.Cancel)
            {
                request.IsCancelled = true;
                reading.Stream.Cancel();
            }
            else
            {
                int index = step.Number % reading.Stream.N;
                request.Stopped.Add(index);
                reading.Stream.Stop(index);
            }
            _reference.Signal(request);
        }

        private bool Turn()
        {
            _turns++;
            List<ReferenceChunk>? expected = workload.Caches ? null : _reference.Turn(harness.Clock.Now);
            bool stepped = harness.Turn();
            if (stepped) tally.Steps++;
            AssertInvariants();
            if (expected is null) return stepped;
            if (stepped) Assert.Equal(expected.Select(Tell), Scheduler.Plan.Chunks.ToArray().Select(Tell));
            else Assert.Empty(expected);
            foreach (ReferenceRequest request in _reference.Requests)
                foreach (ReferenceSequence s in request.Choices)
                    Assert.Equal(Tell(s), Tell(request.Stream.Sequences[s.Index]));
            Assert.Equal(_reference.Free, Scheduler.Pool.FreeCount);
            Assert.Equal(_reference.Places, Scheduler.Live.MaxRunning - Scheduler.Live.FreePlaces);
            foreach (ReferenceRequest request in _reference.Requests)
                if (!workload.IsFcfs) Assert.Equal(request.Share.Served, request.Stream.Share.Served);
            return stepped;
        }

        private static string Tell(ReferenceChunk chunk) => Tell(
            chunk.Sequence.Request.Stream, chunk.Sequence.Index, $"{chunk.Start} + {chunk.Count}, {chunk.Samples}");

        private static string Tell(ScheduledChunk chunk) => Tell(
            chunk.Sequence.Stream, chunk.Sequence.Index, $"{chunk.Start} + {chunk.Count}, {chunk.Samples}");

        private static string Tell(ReferenceSequence s) => Tell(s.Request.Stream, s.Index,
            $"{s.Stage}, {s.Output} output, {s.Computed} computed, {s.Promised} promised, {s.InFlight} in flight, "
            + $"{s.Blocks.Count} blocks, {s.Preemptions} preemptions, over: {s.Finish != FinishReason.None}");

        private static string Tell(Sequence s) => Tell(s.Stream, s.Index,
            $"{s.Stage}, {s.Output.Count} output, {s.NumComputedTokens} computed, {s.Promised} promised, "
            + $"{s.InFlight} in flight, {s.BlockCount} blocks, {s.Preemptions} preemptions, "
            + $"over: {s.Output.IsFinished}");

        private static string Tell(TokenStream stream, int index, string what) =>
            $"{stream.Sampling.Seed}.{index}: {what}";

        private void AssertInvariants()
        {
            Assert.Null(Scheduler.CheckIntegrity());
            Assert.Equal(Scheduler.Pool.TotalCount, Scheduler.Pool.FreeCount + Scheduler.Pool.OwnedCount);
            Assert.Equal(_faults, harness.Engine.Metrics.FailedSteps);
            HashSet<int> places = [];
            Dictionary<int, TokenStream> readers = [];
            int[] inStage = new int[Enum.GetValues<SequenceStage>().Length];
            foreach ((Reading reading, _) in _requests)
            {
                foreach (Sequence s in reading.Stream.Sequences)
                {
                    inStage[(int)s.Stage]++;
                    Assert.InRange(s.Preemptions, 0, workload.MaxPreemptions);
                    if (s.Place >= 0) Assert.True(places.Add(s.Place), "places are unique");
                    Assert.Equal(s.Stage is not (SequenceStage.None or SequenceStage.Waiting), s.Place >= 0);
                    foreach (int block in s.BlockTable.AsSpan(0, s.BlockCount))
                    {
                        bool isFirst = readers.TryAdd(block, s.Stream);
                        Assert.True(isFirst || readers[block].CacheRoot == s.Stream.CacheRoot, "whose block it is");
                        Assert.True(isFirst || workload.Caches || readers[block] == s.Stream, "only choices share");
                    }
                }
            }
            Assert.Equal(Scheduler.Live.Decoding.Count, inStage[(int)SequenceStage.Decoding]);
            Assert.Equal(Scheduler.Live.Prefilling.Count, inStage[(int)SequenceStage.Prefilling]);
            Assert.Equal(Scheduler.Live.WaitingCount, inStage[(int)SequenceStage.Waiting]);
        }

        /// <summary>At the end: nothing left, and everybody has what the oracle says, or a beginning of it.</summary>
        private void Check()
        {
            harness.AssertClean();
            foreach ((Reading reading, ReferenceRequest request) in _requests)
            {
                bool isWhole = !_disturbed.Contains(reading);
                for (int i = 0; i < reading.Stream.N; i++)
                {
                    int[] says = request.Says[i].Tokens, tokens = reading.Tokens(i);
                    Assert.Equal(says.Take(tokens.Length), tokens);
                    isWhole &= reading.Finish(i) is not (FinishReason.Error or FinishReason.Deadline);
                    tally.Expired += reading.Finish(i) == FinishReason.Deadline ? 1 : 0;
                    tally.Cancelled += reading.Finish(i) == FinishReason.Cancelled ? 1 : 0;
                    tally.Stopped += reading.Finish(i) == FinishReason.Stop && tokens.Length < says.Length ? 1 : 0;
                }
                if (isWhole) reading.AssertOracle(Workload.MaxModelLength);
                else if (workload.Caches) continue;
                for (int i = 0; i < reading.Stream.N; i++)
                    if (!workload.Caches) Assert.Equal(request.Choices[i].Finish, reading.Finish(i));
            }
            tally.Preemptions += harness.Engine.Metrics.Preemptions;
            tally.Forks += harness.Engine.Metrics.CopiedBlocks;
            tally.Failures += _faults;
            tally.Overlapped += harness.Runner.Overlapped;
            tally.Shortened += _reference.Shortened;
            tally.Yielded += _reference.Yielded;
        }
    }
}
