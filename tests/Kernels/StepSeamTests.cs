using Native.Kernels;
using Native.Kernels.Cpu;
using Native.Kernels.Models;
using Native.Kernels.Sampling;

namespace Native.Tests.Kernels;

/// <summary>What a step is between its launch and its collection, on every backend.</summary>
public abstract class StepSeam
{
    private protected abstract IBackend CreateBackend();

    /// <summary>With activations as exact as it has them.</summary>
    private protected virtual IBackend CreateExactBackend() => CreateBackend();

    private protected ModelRunner Open() => StepSeamTests.Open(CreateBackend());

    /// <summary>Computes a prompt, then eight tokens of it greedily; each decode's id is told, or asked of the place
    /// that sampled it.</summary>
    private static SampledToken[] Greedy(ModelRunner runner, bool promised, int place = 0)
    {
        BatchBuffers buffers = new(runner.Info);
        int[] prompt = [5, 9, 30, 7, 11], blocks = [2, 0];
        var output = new List<SampledToken>();
        for (int length = prompt.Length; output.Count < 8; length++)
        {
            buffers.Begin();
            bool decodes = output.Count > 0;
            ReadOnlySpan<int> ids = decodes ? [promised ? Batch.LastSampled : output[^1].Token] : prompt;
            int row = buffers.AddSequence(ids, length - ids.Length, blocks, place, decodes);
            buffers.AddSample(row + ids.Length - 1, new RowSampling { Position = length });
            runner.Launch(buffers.Batch);
            runner.Collect(buffers.Sampled, []);
            output.Add(buffers.Sampled[0]);
        }
        return [.. output];
    }

    [Fact]
    public void ATokenThatIsNotToldYet_IsTheOneItsPlaceSampledLast()
    {
        using ModelRunner runner = Open();
        SampledToken[] told = Greedy(runner, promised: false);
        Assert.True(told.Select(t => t.Token).Distinct().Count() > 3, "a model that says one thing proves nothing");
        Assert.Equal(told, Greedy(runner, promised: true, place: 3));
        Assert.Equal(told, Greedy(runner, promised: true, place: 1));
    }

    [Fact]
    public void AHiddenState_IsWhatTheHeadSees_WhateverTheChunks()
    {
        using ModelRunner runner = Open();
        int[] prompt = [5, 9, 30, 7, 11, 8];
        float[] Hidden(int chunk)
        {
            BatchBuffers buffers = new(runner.Info);
            List<float> all = [];
            for (int start = 0; start < prompt.Length; start += chunk)
            {
                ReadOnlySpan<int> ids = prompt.AsSpan(start, Math.Min(chunk, prompt.Length - start));
                buffers.Begin();
                int row = buffers.AddSequence(ids, start, [1], place: 0);
                for (int i = 0; i < ids.Length; i++) buffers.AddHidden(row + i);
                runner.Launch(buffers.Batch);
                float[] hidden = new float[ids.Length * runner.Info.HiddenSize];
                runner.Collect([], [], hidden);
                all.AddRange(hidden);
            }
            return [.. all];
        }
        float[] whole = Hidden(prompt.Length);
        Assert.Equal(prompt.Length * runner.Info.HiddenSize, whole.Length);
        Assert.Contains(whole, x => x != 0);
        Assert.Equal(whole, Hidden(1));
        Assert.Equal(whole, Hidden(4));
    }

    [Fact]
    public void AHiddenState_IsTheReferences()
    {
        float[] Hidden(IBackend backend)
        {
            using ModelRunner runner = StepSeamTests.Open(backend);
            BatchBuffers buffers = new(runner.Info);
            buffers.Begin();
            int row = buffers.AddSequence([5, 9, 30, 7], 0, [1], place: 0);
            buffers.AddSample(row + 1, new RowSampling { Position = 2 });
            buffers.AddHidden(row + 1);
            buffers.AddHidden(row + 3);
            runner.Launch(buffers.Batch);
            float[] hidden = new float[2 * runner.Info.HiddenSize];
            runner.Collect(buffers.Sampled, [], hidden);
            return hidden;
        }
        float[] expected = Hidden(new ReferenceBackend()), found = Hidden(CreateExactBackend());
        double error = expected.Zip(found, (a, b) => (double)(a - b) * (a - b)).Sum(), size = expected.Sum(a => (double)a * a);
        Assert.True(error < 1e-5 * size, $"{error} of {size}");
    }

    [Fact]
    public void Copies_AreMadeBeforeTheStepComputes()
    {
        using ModelRunner runner = Open();
        BatchBuffers buffers = new(runner.Info);
        SampledToken Next(int block, BlockCopy? copy)
        {
            buffers.Begin();
            if (copy is { } c) buffers.AddCopy(c);
            buffers.AddSample(buffers.AddSequence([7], 5, [block], place: 0, decodes: true), new RowSampling { Position = 6 });
            runner.Launch(buffers.Batch);
            runner.Collect(buffers.Sampled, []);
            return buffers.Sampled[0];
        }
        buffers.Begin();
        buffers.AddSequence([5, 9, 30, 7, 11], 0, [3], place: 0);
        runner.Launch(buffers.Batch);
        runner.Collect([], []);
        SampledToken empty = Next(6, null);
        SampledToken copied = Next(6, new BlockCopy(3, 6));
        Assert.Equal(Next(3, null), copied);
        Assert.NotEqual(empty, copied);
    }

    [Fact]
    public void AGraph_DependsOnTheShapeAlone_SoThatItCanBeReplayed()
    {
        using ModelRunner plain = Open();
        ReplayingBackend replaying = new(CreateBackend());
        using ModelRunner replayed = StepSeamTests.Open(replaying);
        int[][] prompts = [[5, 9, 30], [7, 11, 2, 8, 40, 3]];
        RunnerDriver.Result[] expected = RunnerDriver.Run(plain, prompts, 10, chunk: 2), found = RunnerDriver.Run(replayed, prompts, 10, chunk: 2);
        for (int i = 0; i < prompts.Length; i++)
        {
            Assert.Equal(expected[i].Logprobs, found[i].Logprobs);
            Assert.Equal(expected[i].Output, found[i].Output);
            Assert.Equal(expected[i].OutputLogprobs, found[i].OutputLogprobs);
        }
        Assert.True(replaying.Replayed > 5 && replaying.Recorded < 6, $"{replaying.Recorded} graphs, {replaying.Replayed} replays");
    }
}

public sealed class StepSeamCpuTests : StepSeam
{
    private protected override IBackend CreateBackend() => new CpuBackend(new CpuOptions { Threads = 2 });

    private protected override IBackend CreateExactBackend() =>
        new CpuBackend(new CpuOptions { Threads = 2, FloatActivations = true });
}

public sealed class StepSeamReferenceTests : StepSeam
{
    private protected override IBackend CreateBackend() => new ReferenceBackend();
}

/// <summary>What a step is refused for before a backend sees it, and how many are in flight on the CPU.</summary>
public sealed class StepSeamTests
{
    private const int BlockSize = 16;

    private static readonly string Demo = Path.Combine(AppContext.BaseDirectory, "models", "demo.gguf");

    /// <summary>The demo model on a backend.</summary>
    internal static ModelRunner Open(IBackend backend, int maxSequences = 4, int maxModelLength = 64)
    {
        using ModelFile file = ModelFile.Open(Demo);
        var options = new ModelOptions
        {
            Path = Demo,
            MaxModelLength = maxModelLength,
            MaxSequences = maxSequences,
            KvCacheBytes = file.Config.LayerCount
                * backend.KvBlockBytes(file.Config.KvShape(BlockSize, DType.F16)) * 4 * maxSequences,
        };
        return new ModelRunner(file, backend, options);
    }

    private static ModelRunner Open() => Open(new CpuBackend(new CpuOptions { Threads = 2 }));

    [Fact]
    public void EveryDecode_MeetsTheHeadInOneGo()
    {
        ReplayingBackend backend = new(new ReferenceBackend());
        using ModelRunner runner = Open(backend, maxSequences: 80);
        BatchBuffers buffers = new(runner.Info);
        buffers.Begin();
        for (int s = 0; s < 80; s++) buffers.AddSample(buffers.AddSequence([s], 0, [s], place: s), new RowSampling { Position = 1 });
        runner.Launch(buffers.Batch);
        runner.Collect(buffers.Sampled, []);
        Assert.Equal(1, backend.Samples);
    }

    [Fact]
    public void ASecondLaunch_WaitsForTheFirstsCollection()
    {
        using ModelRunner runner = Open();
        Assert.Equal(1, runner.Info.StepsInFlight);
        BatchBuffers buffers = new(runner.Info);
        buffers.Begin();
        buffers.AddSample(buffers.AddSequence([5], 0, [1], place: 0), new RowSampling { Position = 1, Alternatives = 3 });
        Assert.Throws<InvalidOperationException>(() => runner.Collect(new SampledToken[1], new TokenLogprob[3]));
        runner.Launch(buffers.Batch);
        Assert.Throws<InvalidOperationException>(() => runner.Launch(buffers.Batch));
        Assert.Contains("3 alternatives", Assert.Throws<ArgumentException>(() => runner.Collect(new SampledToken[1], [])).Message);
        // What could not be collected is dropped, and the next step goes on.
        runner.Launch(buffers.Batch);
        runner.Collect(buffers.Sampled, buffers.Alternatives);
        Assert.True(buffers.Sampled[0].Token >= 0);
    }

    /// <summary>A sound step of two sequences, the first a decode, whose numbers a test spoils.</summary>
    public sealed class BrokenBatch
    {
        public int[] Ids = [3, 4, 5], Positions = [2, 0, 1], Slots = [2, 16, 17], Starts = [0, 1, 3], Contexts = [3, 2];
        public int[] Tables = [0, 1], TableStarts = [0, 1, 2];
        public int[] Places = [0, 1], Rows = [0, 2], History = [], Hidden = [];
        public int Decodes = 1;
        public BlockCopy[] Copies = [];
        public TokenBias[] Biases = [];
        public uint[] Masks = [];
        public RowSampling[] Sampling = [new() { Position = 3 }, new() { Position = 2 }];

        public Batch Batch => new()
        {
            Copies = Copies,
            TokenIds = Ids,
            Positions = Positions,
            SlotMapping = Slots,
            QueryStarts = Starts,
            ContextLengths = Contexts,
            DecodeCount = Decodes,
            Places = Places,
            BlockTables = Tables,
            BlockTableStarts = TableStarts,
            SampleRows = Rows,
            Sampling = Sampling,
            History = History,
            Biases = Biases,
            Masks = Masks,
            HiddenRows = Hidden,
        };
    }

    public static TheoryData<string, string, Action<BrokenBatch>> Breakages() => new()
    {
        { "id", "token 100000 is not in the vocabulary", b => b.Ids[1] = 100_000 },
        { "negative id", "token -2 is not in the vocabulary", b => b.Ids[0] = -2 },
        { "promise of a prompt", "row 1 computes the token sampled last", b => b.Ids[1] = Batch.LastSampled },
        { "promise without place", "decodes with places may", b => (b.Ids[0], b.Places) = (Batch.LastSampled, []) },
        { "position", "row 2 is at position 5, expected 1", b => b.Positions[2] = 5 },
        { "positions", "3 tokens have 2 positions", b => b.Positions = [2, 0] },
        { "slot", "slot 100000 is not in the cache", b => b.Slots[1] = 100_000 },
        { "starts", "query starts", b => b.Starts[2] = 2 },
        { "decodes", "sequence 1 decodes, but has 2 rows", b => b.Decodes = 2 },
        { "decode count", "3 sequences decode, the batch has 2", b => b.Decodes = 3 },
        { "context", "sequence 0 has rows 0 to 1 and a context of 70", b => b.Contexts[0] = 70 },
        { "block", "sequence 1 names block 99999", b => b.Tables[1] = 99_999 },
        { "tables", "the starts of 2 block tables don't lead from 0 to 2", b => b.TableStarts = [0, 1, 4] },
        { "fewer tables", "the starts of 2 block tables don't lead from 0 to 2", b => b.TableStarts = [0, 2] },
        { "first table", "the starts of 2 block tables don't lead from 0 to 2", b => b.TableStarts = [1, 1, 2] },
        { "table beyond", "sequence 0 has the blocks from 0 to 6 of 2, expected 1", b => b.TableStarts = [0, 6, 2] },
        { "table before", "sequence 0 has the blocks from 0 to -4 of 2, expected 1", b => b.TableStarts = [0, -4, 2] },
        { "short table", "sequence 0 has the blocks from 0 to 0 of 2, expected 1", b => b.TableStarts = [0, 0, 2] },
        { "place", "place 4 is not in 0 to 3", b => b.Places[1] = 4 },
        { "places", "1 places for 2 sequences", b => b.Places = [0] },
        { "copy", "block 1 is copied to 99999", b => b.Copies = [new BlockCopy(1, 99_999)] },
        { "row", "sample row 3 is not in the batch of 3", b => b.Rows[1] = 3 },
        { "rows", "2 rows are sampled, 1 have parameters", b => b.Sampling = [default] },
        { "target", "row 0 scores token 99999", b => b.Sampling[0].TargetPlusOne = 100_000 },
        { "history", "row 1: history 0 to 4 of 0", b => b.Sampling[1].HistoryLength = 4 },
        { "history's prompt", "row 1 has a history of 1 tokens, 2 of them", b => (b.Sampling[1].HistoryLength, b.Sampling[1].HistoryPrompt) = (1, 2) },
        { "history's id", "token 99999 in a history", b => b.History = [99_999] },
        { "biases", "row 0: biases 1 to 2 of 0", b => (b.Sampling[0].BiasStart, b.Sampling[0].BiasLength) = (1, 1) },
        { "bias", "bias of token 99999", b => b.Biases = [new TokenBias(99_999, 1)] },
        { "alternatives", "row 0: alternatives", b => b.Sampling[0].AlternativesStart = -1 },
        { "mask", "row 1: masks 0 to", b => b.Sampling[1].Masked = true },
        { "hidden", "hidden row 3 is not in the batch of 3", b => b.Hidden = [3] },
    };

    [Theory, MemberData(nameof(Breakages))]
    public void AWrongNumber_IsRefusedBeforeAnythingIsComputed(string what, string message, Action<BrokenBatch> spoil)
    {
        using ModelRunner runner = Open();
        BrokenBatch batch = new();
        spoil(batch);
        string told = Assert.Throws<ArgumentException>(() => runner.Launch(batch.Batch)).Message;
        Assert.True(told.Contains(message, StringComparison.Ordinal), $"{what}: {told}");
        BrokenBatch sound = new();
        runner.Launch(sound.Batch); // nothing was left in flight
        runner.Collect(new SampledToken[2], []);
    }

    [Fact]
    public void AnUnknownBackend_IsRefusedWithThoseThatAreHere()
    {
        ModelOptions options = new() { Path = Demo, Backend = "npu" };
        string message = Assert.Throws<ModelOptionsException>(() => LoadedModel.Load(options)).Message;
        Assert.Contains("'npu'; it must be one of auto, cpu, cuda, ilgpu", message);
        using LoadedModel model = LoadedModel.Load(options with { Backend = "cpu", MaxModelLength = 32 });
        Assert.StartsWith("cpu (", model.Runner.Info.Backend);
    }

    [Fact]
    public void EveryOptionThatCannotBe_IsToldAtOnce()
    {
        ModelOptions options = new() { Path = Demo, BlockSize = 0, Threads = -1, MaxSequences = 9, MaxBatchedTokens = 8 };
        string message = Assert.Throws<ModelOptionsException>(() => LoadedModel.Load(options)).Message;
        foreach (string name in new[] { "BlockSize is 0", "Threads is -1", "MaxBatchedTokens is 8, below MaxSequences (9)" }) Assert.Contains(name, message);
    }
}
