using System.Diagnostics;
using Native.Bench.Serve;
using Native.Kernels;
using Native.Kernels.Models;
using Native.Kernels.Sampling;
using Native.Scheduling;

namespace Native.Tests.Scheduling;

/// <summary>The engine over real models on a backend: the promises that only hold if kernels and scheduler keep them
/// together.</summary>
public abstract class RealModelBits
{
    /// <summary>What can surround a request. None of it may change a bit of what the request gets.</summary>
    /// <param name="Threads">Threads that compute.</param>
    /// <param name="Chunk">Tokens a step may have.</param>
    /// <param name="Company">Other requests computed at the same time.</param>
    /// <param name="Blocks">KV blocks of 16 tokens; few make it lose its blocks and be computed again.</param>
    private sealed record Surroundings(int Threads, int Chunk, int Company, int? Blocks = null);

    private static readonly Surroundings Alone = new(Threads: 1, Chunk: 512, Company: 0);

    private static readonly Surroundings[] Others =
    [
        new(Threads: 2, Chunk: 512, Company: 0),
        new(Threads: 1, Chunk: 1, Company: 0),
        new(Threads: 2, Chunk: 7, Company: 3),
        new(Threads: 2, Chunk: 512, Company: 31),
        new(Threads: 3, Chunk: 64, Company: 31, Blocks: 36),
    ];

    private static CancellationToken Timeout => TestContext.Current.CancellationToken;

    protected static string Demo => Path.Combine(AppContext.BaseDirectory, "models", "demo.gguf");

    /// <summary>Loads a model onto the backend.</summary>
    protected abstract LoadedModel Load(ModelOptions options);

    /// <summary>Bytes that a block's keys and values take in its cache over all layers.</summary>
    private protected abstract long BlockBytes(ModelConfig config);

    /// <summary>A request's bits alone, in company, in chunks, and computed again after it lost its blocks.</summary>
    protected async Task SameBits(string path, int outputs)
    {
        List<string> expected = await Outputs(path, Alone, outputs);
        long preemptions = 0;
        foreach (Surroundings surroundings in Others)
        {
            List<string> found = await Outputs(path, surroundings, outputs, n => preemptions += n);
            Assert.True(expected.SequenceEqual(found), $"{surroundings}: {expected.Zip(found).TakeWhile(p => p.First == p.Second).Count()} of {expected.Count} entries agree");
        }
        Assert.True(preemptions > 0, "nobody lost its blocks, so nothing was computed again");
    }

    /// <summary>Every bit the request under test gets: scored prompt, tokens, log-probabilities and alternatives of two
    /// sampled choices.</summary>
    private async Task<List<string>> Outputs(
        string path, Surroundings surroundings, int outputs, Action<long>? preemptions = null)
    {
        int running = Math.Min(surroundings.Chunk, surroundings.Company + 2);
        long? cache = null;
        if (surroundings.Blocks is { } blocks)
        {
            using ModelFile file = ModelFile.Open(path);
            cache = blocks * BlockBytes(file.Config);
        }
        using LoadedModel model = Load(new ModelOptions
        {
            Path = path,
            Threads = surroundings.Threads,
            MaxModelLength = 256,
            MaxBatchedTokens = surroundings.Chunk,
            MaxSequences = running,
            KvCacheBytes = cache,
        });
        using Engine engine = new(model.Runner, [], new EngineOptions { MaxRunning = running, MaxBatchedTokens = surroundings.Chunk });
        int[] Prompt(int length, int seed) => [.. Enumerable.Range(0, length).Select(i => (i * 31 + seed * 17 + 5) % Math.Min(model.Runner.Info.VocabularySize, 500))];

        // The request comes in the middle, so that older and younger ones are about.
        SamplingParams others = new() { MaxTokens = outputs, IgnoreEos = true, Temperature = 1, Seed = 1 };
        List<Task<List<string>>> company = [.. Enumerable.Range(0, surroundings.Company / 2).Select(i => Read(engine, Prompt(3 + 5 * i, i), others))];
        SamplingParams sampling = new()
        {
            N = surroundings.Chunk == 1 ? 1 : 2, // one token a step is one sequence
            MaxTokens = outputs,
            IgnoreEos = true,
            Temperature = 0.9f,
            TopP = 0.95f,
            MinP = 0.01f,
            RepetitionPenalty = 1.1f,
            Seed = 42,
            Logprobs = 3,
            PromptLogprobs = 2,
        };
        Task<List<string>> tested = Read(engine, Prompt(61, 1000), sampling);
        company.AddRange(Enumerable.Range(0, surroundings.Company - surroundings.Company / 2).Select(i => Read(engine, Prompt(40 + i, 100 + i), others)));
        List<string> lines = await tested;
        await Task.WhenAll(company);
        Assert.True(await engine.Drain(TimeSpan.FromMinutes(1)));
        Assert.Equal(engine.Metrics.TotalBlocks, engine.Metrics.FreeBlocks);
        preemptions?.Invoke(engine.Metrics.Preemptions);
        return [.. lines.Where(l => !l.StartsWith("1:", StringComparison.Ordinal))]; // the first choice is there in every run
    }

    /// <summary>A conversation of three turns, each asked twice, with and without the cache.</summary>
    protected async Task SameBitsWarm(string path)
    {
        List<string> cold = await Conversation(caching: false), warm = await Conversation(caching: true);
        Assert.Equal(cold, warm);

        async Task<List<string>> Conversation(bool caching)
        {
            using LoadedModel model =
                Load(new ModelOptions { Path = path, Threads = 2, MaxModelLength = 256, MaxSequences = 8 });
            EngineOptions options = new() { MaxRunning = 8, MaxBatchedTokens = 512, PrefixCaching = caching };
            using Engine engine = new(model.Runner, [], options);
            SamplingParams sampling =
                new() { N = 2, MaxTokens = 21, IgnoreEos = true, Temperature = 0.9f, Seed = 7, Logprobs = 2 };
            int vocabulary = Math.Min(model.Runner.Info.VocabularySize, 500);
            List<int> prompt = [.. Enumerable.Range(0, 37).Select(i => ((i * 31) + 5) % vocabulary)];
            List<string> lines = [];
            for (int turn = 0; turn < 3; turn++)
            {
                lines.AddRange(await Read(engine, [.. prompt], sampling));
                List<string> again = await Read(engine, [.. prompt], sampling);
                lines.AddRange(again);
                prompt.AddRange(Enumerable.Range(0, 13).Select(i => ((i * 7) + turn) % vocabulary));
            }
            Assert.Equal(caching, engine.Metrics.PrefixHitTokens > 100);
            return lines;
        }
    }

    private protected static async Task<List<string>> Read(Engine engine, int[] prompt, SamplingParams sampling)
    {
        Assert.Equal(SubmitOutcome.Accepted, engine.Submit(new GenerationRequest { Ids = prompt, Sampling = sampling }, out TokenStream? stream));
        List<string>[] lines = [.. Enumerable.Range(0, sampling.N).Select(_ => new List<string>())];
        while (await stream!.WaitAsync(Timeout))
            while (stream.TryRead(out TokenEvent e))
                lines[e.Index].Add($"{e.Index}: {e.Token} {Bits(e.Logprob)} {string.Join(' ', e.Alternatives.ToArray().Select(a => $"{a.Token}/{Bits(a.Logprob)}"))} {e.Finish}");
        List<string> all = [];
        if (sampling.PromptLogprobs is not null)
            for (int i = 1; i < prompt.Length; i++)
                all.Add($"prompt {i}: {Bits(stream.PromptLogprobs[i - 1])} {string.Join(' ', stream.PromptAlternatives(i).ToArray().Select(a => $"{a.Token}/{Bits(a.Logprob)}"))}");
        foreach (List<string> choice in lines) all.AddRange(choice);
        return all;
    }

    private static string Bits(float value) => BitConverter.SingleToInt32Bits(value).ToString("x8", System.Globalization.CultureInfo.InvariantCulture);
}

/// <summary>On the CPU.</summary>
[Collection(nameof(EngineThreadTests))]
public sealed class RealModelTests : RealModelBits
{
    protected override LoadedModel Load(ModelOptions options) => LoadedModel.Load(options with { Backend = "cpu" });

    private protected override long BlockBytes(ModelConfig config) =>
        16 * Kernels.TestModels.KvBytesPerToken(config, DType.F16);

    [Fact]
    public Task TheDemoModelsBits_AreTheSame_AloneAndInCompany_InAnyChunk_WithAnyThreads() =>
        SameBits(Demo, outputs: 40);

    [Theory]
    [InlineData("models/stories260K/stories260K-F32.gguf")]
    [InlineData("models/stories260K/stories260K-Q4_0.gguf")]
    [InlineData("models/SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1.gguf")]
    public Task ARealModelsBits_AreTheSame_AloneAndInCompany_InAnyChunk_WithAnyThreads(string model) =>
        SameBits(TestData.Path(model), outputs: 24);

    [Fact]
    public Task TheDemoModelsBits_AreTheSame_ColdAndFromThePrefixCache() => SameBitsWarm(Demo);

    [Theory]
    [InlineData("models/stories260K/stories260K-F32.gguf")]
    [InlineData("models/stories260K/stories260K-Q4_0.gguf")]
    [InlineData("models/SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1.gguf")]
    public Task ARealModelsBits_AreTheSame_ColdAndFromThePrefixCache(string model) =>
        SameBitsWarm(TestData.Path(model));

    [Fact]
    public async Task ADecodeStep_OfARealModel_AllocatesNothing()
    {
        using LoadedModel model = Load(new ModelOptions { Path = Demo, Threads = 2, MaxSequences = 8 });
        CountingRunner runner = new(model.Runner);
        using Engine engine = new(runner, [], new EngineOptions { MaxRunning = 8, MaxBatchedTokens = 512 });
        SamplingParams sampling = new()
        {
            MaxTokens = 300,
            IgnoreEos = true,
            Temperature = 0.7f,
            TopP = 0.9f,
            Logprobs = 2,
            FrequencyPenalty = 0.1f,
            Seed = 3,
        };
        await Task.WhenAll(Enumerable.Range(0, 8).Select(i => Read(engine, [1, 2, 3 + i], sampling)));
        Assert.True(runner.MeasuredSteps > 50, $"only {runner.MeasuredSteps} steps were measured");
        Assert.Equal(0, runner.Allocated);
    }

    /// <summary>Counts what the engine thread allocates from the beginning of one pure decode step to that of the next,
    /// the runner's work among it. A step in which memory was collected is left out: the collector counts what was left
    /// of the thread's room as allocated.</summary>
    private sealed class CountingRunner(ModelRunner inner) : IModelRunner
    {
        private long _before = -1;
        private int _steps, _collections;

        public long Allocated { get; private set; }

        public int MeasuredSteps { get; private set; }

        public ModelInfo Info => inner.Info;

        public void Collect(Span<SampledToken> sampled, Span<TokenLogprob> alternatives, Span<float> hidden = default) =>
            inner.Collect(sampled, alternatives, hidden);

        public void Launch(in Batch batch)
        {
            bool decodes = batch.TokenIds.Length == 8 && batch.ContextLengths.Length == 8 && ++_steps > 20; // all of them, and warm
            long now = GC.GetAllocatedBytesForCurrentThread();
            int collections = GC.CollectionCount(0);
            if (decodes && _before >= 0 && collections == _collections)
            {
                Allocated += now - _before;
                MeasuredSteps++;
            }
            _before = decodes ? now : -1;
            _collections = collections;
            inner.Launch(batch);
        }

        public void Dispose() => Debug.Fail("the engine does not own its runner");
    }
}
