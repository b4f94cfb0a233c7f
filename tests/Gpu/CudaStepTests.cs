using Native.Kernels;
using Native.Kernels.Cuda;
using Native.Kernels.Models;
using Native.Kernels.Sampling;
using Native.Tests.Gpu.Machine;
using Native.Tests.Kernels;

namespace Native.Tests.Gpu;

/// <summary>A step of the cuda backend, counted: launches, copies, waits and bytes allocated. Recorded steps, steps in
/// flight and histories that are counted by place give the bits that plain ones give.</summary>
[Collection(nameof(FakeCuda))]
public sealed class CudaStepTests : StepSeam, IDisposable
{
    private readonly FakeCuda _fake = new();

    private protected override IBackend CreateBackend() => new CudaBackend();

    private static string Demo => Path.Combine(AppContext.BaseDirectory, "models", "demo.gguf");

    /// <summary>Some sequences of the demo model that decode, one token a step.</summary>
    private sealed class Decodes
    {
        private readonly ModelRunner _runner;
        private readonly BatchBuffers _buffers;
        private readonly int _count;
        private readonly bool _promised;
        private int _length = 3;
        private int[] _last;

        public Decodes(ModelRunner runner, int count, bool promised = false)
        {
            (_runner, _count, _promised, _buffers) = (runner, count, promised, new BatchBuffers(runner.Info));
            _last = new int[count];
            _buffers.Begin();
            for (int s = 0; s < count; s++)
            {
                int row = _buffers.AddSequence([5 + s, 9, 30], 0, [s], place: s);
                _buffers.AddSample(row + 2, new RowSampling { Position = 3 });
            }
            Launch();
            Collect();
        }

        public List<SampledToken> Output { get; } = [];

        public Func<int, int, RowSampling> Sampling { get; init; } = (_, position) => new() { Position = position };

        public void Begin()
        {
            _buffers.Begin();
            for (int s = 0; s < _count; s++)
            {
                int id = _promised ? Batch.LastSampled : _last[s];
                int row = _buffers.AddSequence([id], _length, [s], place: s, decodes: true);
                _buffers.AddSample(row, Sampling(s, _length + 1));
            }
            _length++;
        }

        public void Launch() => _runner.Launch(_buffers.Batch);

        public void Collect()
        {
            Span<SampledToken> sampled = _buffers.Sampled[.._count];
            _runner.Collect(sampled, []);
            for (int s = 0; s < _count; s++) _last[s] = sampled[s].Token;
            foreach (SampledToken token in sampled) Output.Add(token);
        }

        public void Step()
        {
            Begin();
            Launch();
            Collect();
        }
    }

    private (int Launches, int Graphs, int Records, int Uploads, int Downloads, int Waits, int Allocations) Calls => (
        _fake.Count("cuLaunchKernelEx"), _fake.Count("cuGraphLaunch"), _fake.Count("cuStreamBeginCapture"),
        _fake.Count("cuMemcpyHtoDAsync"), _fake.Count("cuMemcpyDtoHAsync"),
        _fake.Count("cuEventSynchronize") + _fake.Count("cuStreamSynchronize"),
        _fake.Count("cuMemAllocAsync") + _fake.Count("cuMemHostAlloc"));

    private (int, int, int, int, int, int, int) CallsOf(Action run)
    {
        var before = Calls;
        run();
        var after = Calls;
        return (after.Launches - before.Launches, after.Graphs - before.Graphs, after.Records - before.Records,
            after.Uploads - before.Uploads, after.Downloads - before.Downloads, after.Waits - before.Waits,
            after.Allocations - before.Allocations);
    }

    /// <summary>The embedding; nine a layer: scales, projections, store, attention and its combination, output, scales,
    /// gate and up, down; and the gathered rows, their scales, the head and the choice.</summary>
    [Fact]
    public void ADecodeStep_IsOneUploadOneWaitAndOneGraph()
    {
        using ModelRunner runner = StepSeamTests.Open(CreateBackend());
        int layers = Layers(), launches = 1 + 9 * layers + 4;
        Decodes decodes = new(runner, 3);
        Assert.Equal((launches, 0, 0, 1, 1, 1), Without(CallsOf(decodes.Step))); // plain: scratch grows
        Assert.Equal((launches, 1, 1, 1, 1, 1, 0), CallsOf(decodes.Step)); // recorded, then run
        for (int i = 0; i < 3; i++) Assert.Equal((0, 1, 0, 1, 1, 1, 0), CallsOf(decodes.Step));
        Assert.Equal(3 * 6, decodes.Output.Count);

        static (int, int, int, int, int, int) Without((int A, int B, int C, int D, int E, int F, int G) all) =>
            (all.A, all.B, all.C, all.D, all.E, all.F);
    }

    /// <summary>A step's input holds the blocks that its sequences have, not room for the longest ones.</summary>
    [Fact]
    public void WhatGoesUp_DoesNotGrowWithTheLongestContextAllowed()
    {
        long Uploaded(int maxModelLength)
        {
            using ModelRunner runner = StepSeamTests.Open(CreateBackend(), maxModelLength: maxModelLength);
            Decodes decodes = new(runner, 3);
            long before = _fake.BytesUploaded;
            decodes.Step();
            return _fake.BytesUploaded - before;
        }
        Assert.Equal(Uploaded(16), Uploaded(256));
    }

    [Fact]
    public void AStep_AllocatesNothing_OnceItsGraphIsRecorded()
    {
        using ModelRunner runner = StepSeamTests.Open(CreateBackend());
        Decodes decodes = new(runner, 4);
        for (int i = 0; i < 3; i++) decodes.Step();
        decodes.Output.Clear();
        decodes.Output.Capacity = 1000;
        long least = long.MaxValue;
        for (int round = 0; round < 6 && least > 0; round++)
        {
            long driver = _fake.Allocated, before = GC.GetAllocatedBytesForCurrentThread();
            for (int i = 0; i < 3; i++) decodes.Step();
            long all = GC.GetAllocatedBytesForCurrentThread() - before;
            least = Math.Min(least, all - (_fake.Allocated - driver));
        }
        Assert.Equal(0, least);
    }

    /// <summary>Steps are launched before the one before is collected, and name its tokens without knowing them.
    /// </summary>
    [Fact]
    public void TwoStepsInFlight_GiveWhatOneGives()
    {
        List<SampledToken> one, two;
        static RowSampling Drawn(int s, int position) =>
            new() { Position = position, Temperature = 1.5f, Seed = (ulong)s };
        using (ModelRunner runner = StepSeamTests.Open(CreateBackend()))
        {
            Assert.Equal(2, runner.Info.StepsInFlight);
            Decodes decodes = new(runner, 3) { Sampling = Drawn };
            for (int i = 0; i < 8; i++) decodes.Step();
            one = decodes.Output;
        }
        using (ModelRunner runner = StepSeamTests.Open(CreateBackend()))
        {
            Decodes decodes = new(runner, 3, promised: true) { Sampling = Drawn };
            decodes.Begin();
            decodes.Launch();
            for (int i = 1; i < 8; i++)
            {
                decodes.Begin();
                decodes.Launch();
                if (i == 4) Assert.Throws<InvalidOperationException>(decodes.Launch); // a third
                decodes.Collect();
            }
            decodes.Collect();
            Assert.Throws<InvalidOperationException>(decodes.Collect);
            two = decodes.Output;
        }
        Assert.True(one.Select(token => token.Token).Distinct().Count() > 3);
        Assert.Equal(one, two);
    }

    /// <summary>Five rows in a graph for eight, in every order, are what they are without graphs.</summary>
    [Fact]
    public void ARecordedStep_HasTheBitsOfAPlainOne()
    {
        List<SampledToken>? first = null;
        foreach (LaunchOptions order in MachineRun.Orders[..4])
        {
            _fake.Options = _fake.Options with { Launch = order };
            foreach (bool graphs in (bool[])[true, false])
            {
                using ModelRunner runner = StepSeamTests.Open(new CudaBackend(graphs: graphs), maxSequences: 8);
                Decodes decodes = new(runner, 5);
                for (int i = 0; i < 4; i++) decodes.Step();
                first ??= decodes.Output;
                Assert.Equal(first, decodes.Output);
            }
        }
    }

    /// <summary>Where the parts of attention have room for a row or two, rows are computed in turn.</summary>
    [Fact]
    public void RowsInTurn_HaveTheBitsOfRowsAtOnce()
    {
        List<SampledToken>[] outputs = new List<SampledToken>[2];
        for (int run = 0; run < 2; run++)
        {
            using ModelRunner runner = StepSeamTests.Open(
                run == 0 ? new CudaBackend() : new CudaBackend { PartialBytes = 1700 }, maxSequences: 8);
            Decodes decodes = new(runner, 5);
            for (int i = 0; i < 4; i++) decodes.Step();
            outputs[run] = decodes.Output;
            _fake.Kernels.Clear();
            decodes.Step();
            Assert.Equal((run == 0 ? 1 : 8 / 2) * Layers(), _fake.Kernels["Combine"].Launches);
        }
        Assert.Equal(outputs[0], outputs[1]);
    }

    /// <summary>A place's history grows by a token a step; one that is another's begins anew. Both are what a history
    /// that is counted whole gives.</summary>
    [Fact]
    public void AHistoryThatIsCountedByPlace_IsTheWholeOnes()
    {
        List<SampledToken> Penalized(Func<int, int> placeAt, out long uploaded)
        {
            using ModelRunner runner = StepSeamTests.Open(CreateBackend());
            BatchBuffers buffers = new(runner.Info);
            List<int>[] ids = [[5, 9, 30, 9], [7, 7, 2]];
            List<SampledToken> output = [];
            for (int step = 0; step < 7; step++)
            {
                buffers.Begin();
                for (int s = 0; s < 2; s++)
                {
                    int computed = step == 0 ? 0 : ids[s].Count - 1;
                    int row = buffers.AddSequence([.. ids[s][computed..]], computed, [s], place: placeAt(step) ^ s);
                    RowSampling sampling = new()
                    {
                        Position = ids[s].Count,
                        RepetitionPenalty = 1.5f,
                        PresencePenalty = s,
                        FrequencyPenalty = 0.5f,
                    };
                    ids[s].CopyTo(buffers.AddHistory(ref sampling, s == 0 ? 4 : 3, ids[s].Count));
                    buffers.AddSample(row + ids[s].Count - 1 - computed, sampling);
                }
                long before = _fake.BytesUploaded;
                runner.Launch(buffers.Batch);
                runner.Collect(buffers.Sampled, []);
                for (int s = 0; s < 2; s++) ids[s].Add(buffers.Sampled[s].Token);
                output.AddRange(buffers.Sampled[..2].ToArray());
                LastUpload = _fake.BytesUploaded - before;
            }
            uploaded = LastUpload;
            return output;
        }
        List<SampledToken> kept = Penalized(_ => 0, out long few), moved = Penalized(step => step % 2 * 2, out _);
        List<SampledToken> swapped = Penalized(step => step % 2, out long all);
        Assert.Equal(kept, moved);
        Assert.Equal(kept, swapped);
        // The histories of 10 and 9 tokens went up whole, or their last tokens alone.
        Assert.Equal(80 - 16, all - few);
    }

    private long LastUpload { get; set; }

    /// <summary>A step that can't be queued leaves the earlier one as it is, and the next goes on.</summary>
    [Theory]
    [InlineData("cuLaunchKernelEx")]
    [InlineData("cuMemcpyHtoDAsync")]
    [InlineData("cuMemcpyDtoHAsync")]
    [InlineData("cuGraphLaunch")]
    [InlineData("cuEventRecord")]
    [InlineData("cuStreamBeginCapture")]
    [InlineData("cuStreamEndCapture")]
    [InlineData("cuGraphInstantiateWithFlags")]
    public void ALaunchThatFails_LeavesTheOtherStepsAlone(string call)
    {
        List<SampledToken>[] outputs = new List<SampledToken>[2];
        for (int run = 0; run < 2; run++)
        {
            using ModelRunner runner = StepSeamTests.Open(CreateBackend());
            Decodes decodes = new(runner, 3);
            decodes.Step();
            if (call == "cuGraphLaunch") decodes.Step();
            decodes.Begin();
            int fails = run;
            _fake.Options = _fake.Options with { Fails = name => name == call && fails-- > 0 ? 1 : 0 };
            bool failed = false;
            try
            {
                decodes.Launch();
            }
            catch (CudaException e)
            {
                Assert.Contains(call, e.Message, StringComparison.Ordinal);
                failed = true;
                decodes.Launch();
            }
            Assert.Equal(run == 1, failed);
            decodes.Collect();
            for (int i = 0; i < 3; i++) decodes.Step();
            outputs[run] = decodes.Output;
        }
        Assert.Equal(outputs[0], outputs[1]);
    }

    private static int Layers()
    {
        using ModelFile file = ModelFile.Open(Demo);
        return file.Config.LayerCount;
    }

    public void Dispose() => _fake.End();
}
