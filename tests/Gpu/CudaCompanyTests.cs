using Native.Kernels;
using Native.Kernels.Cpu;
using Native.Kernels.Cuda;
using Native.Kernels.Files;
using Native.Kernels.Formats;
using Native.Kernels.Models;
using Native.Kernels.Sampling;
using Native.Tests.Gpu.Machine;
using Native.Tests.Kernels;

namespace Native.Tests.Gpu;

/// <summary>Models of shapes that no file has, with random work: what a sequence gives is the same alone, without
/// graphs, and in any company, with steps in flight, blocks that move and sequences that are computed again.</summary>
[Collection(nameof(FakeCuda))] // there is one at a time
public sealed class CudaCompanyTests : IDisposable
{
    private readonly FakeCuda _fake = new();

    /// <summary>A model's shape, and what it is served with.</summary>
    internal sealed record Shape(string Architecture, int Hidden, int Heads, int KvHeads, int HeadSize, int FeedForward,
        int Vocabulary, TensorType Type)
    {
        public int Layers { get; init; } = 2;

        public int Window { get; init; }

        public TensorType Up { get; init; } = TensorType.F16;

        public DType Cache { get; init; } = DType.F16;

        public int BlockSize { get; init; } = 16;

        public int Sequences { get; init; } = 5;

        public int Tokens { get; init; } = 48;

        public int Prompt { get; init; } = 24;

        public int Outputs { get; init; } = 6;

        public byte[] File(int seed)
        {
            Random random = new(seed);
            GgufBytes file = new()
            {
                { "general.architecture", Architecture }, { Key("context_length"), 8192u },
                { Key("embedding_length"), (uint)Hidden }, { Key("block_count"), (uint)Layers },
                { Key("feed_forward_length"), (uint)FeedForward }, { Key("attention.head_count"), (uint)Heads },
                { Key("attention.head_count_kv"), (uint)KvHeads }, { Key("attention.key_length"), (uint)HeadSize },
                { Key("attention.value_length"), (uint)HeadSize },
                { Key("attention.layer_norm_rms_epsilon"), 1e-5f }, { Key("rope.freq_base"), 10000f },
                { Key("attention.sliding_window"), (uint)Window }, { Key("rope.dimension_count"), (uint)HeadSize },
            };
            Matrix("token_embd.weight", Vocabulary, Hidden, Type);
            for (int i = 0; i < Layers; i++)
            {
                string at = $"blk.{i}.";
                Vector(at + "attn_norm.weight", Hidden, 1);
                Matrix(at + "attn_q.weight", Heads * HeadSize, Hidden, Type);
                Matrix(at + "attn_k.weight", KvHeads * HeadSize, Hidden, Type);
                Matrix(at + "attn_v.weight", KvHeads * HeadSize, Hidden, Up);
                Matrix(at + "attn_output.weight", Hidden, Heads * HeadSize, Type);
                if (Architecture == "qwen3")
                    foreach (string name in (string[])["attn_q_norm", "attn_k_norm"])
                        Vector($"{at}{name}.weight", HeadSize, 1);
                if (Architecture == "qwen2")
                {
                    Vector(at + "attn_q.bias", Heads * HeadSize, 0);
                    Vector(at + "attn_k.bias", KvHeads * HeadSize, 0);
                    Vector(at + "attn_v.bias", KvHeads * HeadSize, 0);
                }
                if (Architecture == "gemma2")
                    foreach (string name in (string[])["post_attention_norm", "post_ffw_norm"])
                        Vector($"{at}{name}.weight", Hidden, 1);
                Vector(at + "ffn_norm.weight", Hidden, 1);
                Matrix(at + "ffn_gate.weight", FeedForward, Hidden, Type);
                Matrix(at + "ffn_up.weight", FeedForward, Hidden, Up);
                Matrix(at + "ffn_down.weight", Hidden, FeedForward, Type);
            }
            Vector("output_norm.weight", Hidden, 1);
            return file.ToArray();

            string Key(string name) => $"{Architecture}.{name}";
            void Vector(string name, int length, float around) =>
                file.Tensor(name, [.. Enumerable.Range(0, length).Select(_ => around + 0.2f * Normal(random))]);
            void Matrix(string name, int rows, int columns, TensorType type)
            {
                if (columns % BlockFormat.Of(type).BlockSize != 0) type = TensorType.F16;
                float[] values = [.. Enumerable.Range(0, rows * columns).Select(_ => 0.15f * Normal(random))];
                BlockFormat format = BlockFormat.Of(type);
                byte[] data = new byte[values.Length / format.BlockSize * format.BlockBytes];
                format.Quantize(values, data);
                file.Tensor(name, type, [(ulong)columns, (ulong)rows], data);
            }
        }

        private static float Normal(Random random) => (float)(Math.Sqrt(-2 * Math.Log(1 - random.NextDouble()))
            * Math.Cos(2 * Math.PI * random.NextDouble()));
    }

    /// <summary>A sequence: what is asked of it, and what it gave by position.</summary>
    internal sealed class Job
    {
        public required int[] Prompt { get; init; }

        public RowSampling Sampling { get; init; }

        public bool Scores { get; init; }

        public bool Hides { get; init; }

        public TokenBias[] Biases { get; init; } = [];

        public uint[]? Mask { get; init; }

        public int Outputs { get; init; }

        public Dictionary<int, string> Given { get; } = [];

        public Dictionary<int, float> Scored { get; } = [];

        public List<int> Ids { get; private set; } = [];

        public List<int> Blocks { get; } = [];

        public int Computed { get; set; }

        public int Place { get; set; } = -1;

        public int Pending { get; set; }

        public bool Penalizes => Sampling.RepetitionPenalty != 0 || Sampling.PresencePenalty != 0;

        public bool IsWhole => Ids.Count == Prompt.Length + Outputs;

        public void Reset()
        {
            Ids = [.. Prompt];
            Computed = 0;
            Given.Clear();
            Scored.Clear();
        }

        /// <summary>Notes what a position gave: the same each time.</summary>
        public void Give(int position, string what)
        {
            if (Given.TryGetValue(position, out string? before)) Assert.Equal(before, what);
            Given[position] = what;
        }

        public static Job Of(Shape shape, int seed)
        {
            Random random = new(seed);
            int vocabulary = shape.Vocabulary;
            bool draws = random.Next(3) > 0, penalizes = random.Next(3) == 0, biased = random.Next(4) == 0;
            uint[] mask = new uint[Batch.MaskWords(vocabulary)];
            for (int i = 0; i < mask.Length; i++) mask[i] = (uint)random.Next();
            mask[0] |= 1;
            return new Job
            {
                Prompt = [.. Enumerable.Range(0, random.Next(shape.Prompt / 2, shape.Prompt + 1))
                    .Select(_ => random.Next(vocabulary))],
                Outputs = shape.Outputs,
                Scores = random.Next(3) == 0,
                Hides = random.Next(4) == 0,
                Mask = random.Next(5) == 0 ? mask : null,
                Biases = biased ? [.. Enumerable.Range(0, 3).Select(_ =>
                    new TokenBias(random.Next(vocabulary), random.Next(-3, 4)))] : [],
                Sampling = new RowSampling
                {
                    Temperature = draws ? 0.5f + random.NextSingle() : 0,
                    TopK = random.Next(3) == 0 ? random.Next(1, vocabulary + 5) : 0,
                    TopP = random.Next(3) == 0 ? random.NextSingle() : 0,
                    MinP = random.Next(4) == 0 ? 0.05f : 0,
                    RepetitionPenalty = penalizes ? 1.3f : 0,
                    PresencePenalty = penalizes ? 0.4f : 0,
                    FrequencyPenalty = penalizes ? 0.3f : 0,
                    Seed = (ulong)random.NextInt64(),
                    Alternatives = random.Next(2) == 0 ? random.Next(21) : 0,
                },
            };
        }
    }

    /// <summary>How work is put together.</summary>
    internal sealed record Company(int Together, int Chunk, int InFlight, double Preempts, double Copies, int Seed);

    /// <summary>Runs all jobs to their ends.</summary>
    internal sealed class Driver(ModelRunner runner, Job[] jobs, Company company)
    {
        private readonly Random _random = new(company.Seed);
        private readonly List<int> _free = [.. Enumerable.Range(0, runner.Info.BlockCount)];
        private readonly List<int> _places = [.. Enumerable.Range(0, runner.Info.MaxSequences)];
        private readonly Queue<List<Action<SampledToken[], TokenLogprob[], float[]>>> _inFlight = [];
        private readonly Queue<(int Rows, int Alternatives, int Hidden)> _sizes = [];

        public void Run()
        {
            foreach (Job job in jobs) job.Reset();
            BatchBuffers buffers = new(runner.Info);
            for (int idle = 0; jobs.Any(job => !job.IsWhole || job.Pending > 0) && idle < 2;)
            {
                bool launched = TryLaunch(buffers);
                idle = launched ? 0 : idle + 1;
                if (_inFlight.Count == company.InFlight || (!launched && _inFlight.Count > 0))
                {
                    Collect();
                    idle = 0;
                }
            }
            Assert.All(jobs, job => Assert.True(job.IsWhole && job.Pending == 0));
        }

        private bool TryLaunch(BatchBuffers buffers)
        {
            buffers.Begin();
            List<Action<SampledToken[], TokenLogprob[], float[]>> takes = [];
            Job[] live = [.. jobs.Where(job => !job.IsWhole).Take(company.Together)];
            if (company.Together > 1)
                foreach (Job job in live)
                    if (job.Pending == 0 && job.Place >= 0 && _random.NextDouble() < company.Preempts) Evict(job);
            live = [.. live.Where(job => !(job.Penalizes && job.Pending > 0))
                .OrderBy(job => _random.Next())
                .OrderBy(job => Decodes(job) ? 0 : 1)];
            foreach (Job job in live) Add(buffers, job, takes);
            if (buffers.Tokens == 0) return false;
            runner.Launch(buffers.Batch);
            _inFlight.Enqueue(takes);
            _sizes.Enqueue((buffers.Rows, buffers.AlternativeCount, buffers.Batch.HiddenRows.Length));
            return true;
        }

        private static bool Decodes(Job job) => job.Computed >= job.Prompt.Length && job.Computed == job.Ids.Count - 1;

        private void Evict(Job job)
        {
            _free.AddRange(job.Blocks);
            job.Blocks.Clear();
            _places.Add(job.Place);
            (job.Place, job.Computed) = (-1, 0);
        }

        private int Take(List<int> from)
        {
            int at = _random.Next(from.Count), taken = from[at];
            from.RemoveAt(at);
            return taken;
        }

        private void Add(BatchBuffers buffers, Job job, List<Action<SampledToken[], TokenLogprob[], float[]>> takes)
        {
            int room = runner.Info.MaxBatchedTokens - buffers.Tokens, left = job.Ids.Count - job.Computed;
            bool decodes = Decodes(job);
            int take = Math.Min(Math.Min(left, room), decodes ? 1 : _random.Next(1, company.Chunk + 1));
            // A token that is not told yet is computed alone.
            if (!decodes && job.Computed + take == job.Ids.Count && job.Ids[^1] < 0) take--;
            if (take <= 0 || (job.Place < 0 && _places.Count == 0)) return; // those that end hold theirs until then
            if (job.Place < 0) job.Place = Take(_places);
            int end = job.Computed + take, size = runner.Info.BlockSize;
            while (job.Blocks.Count * size < end) job.Blocks.Add(Take(_free));
            if (_random.NextDouble() < company.Copies && _free.Count > 0)
            {
                int moved = _random.Next(job.Blocks.Count), to = Take(_free);
                buffers.AddCopy(new BlockCopy(job.Blocks[moved], to));
                // Free from now on: what is copied was copied before the step computes.
                _free.Add(job.Blocks[moved]);
                job.Blocks[moved] = to;
            }
            int start = job.Computed;
            int row = buffers.AddSequence(
                job.Ids.GetRange(start, take).ToArray(), start, job.Blocks.ToArray(), job.Place, decodes);
            job.Computed = end;
            for (int p = start; p < end; p++) AddRow(buffers, job, row + p - start, p, takes);
        }

        private void AddRow(BatchBuffers buffers, Job job, int row, int p,
            List<Action<SampledToken[], TokenLogprob[], float[]>> takes)
        {
            if (job.Hides && p % 3 == 0)
            {
                int at = buffers.Batch.HiddenRows.Length, columns = runner.Info.HiddenSize;
                buffers.AddHidden(row);
                takes.Add((_, _, hidden) => job.Give(100_000 + p, string.Join(' ',
                    hidden[(at * columns)..((at + 1) * columns)].Select(BitConverter.SingleToUInt32Bits))));
            }
            bool samples = p + 1 == job.Ids.Count, scores = job.Scores && p + 1 < job.Prompt.Length;
            if (!samples && !scores) return;
            RowSampling sampling = job.Sampling with { Position = p + 1 };
            if (scores) sampling.TargetPlusOne = job.Prompt[p + 1] + 1;
            else
            {
                if (job.Penalizes)
                    job.Ids.CopyTo(buffers.AddHistory(ref sampling, job.Prompt.Length, job.Ids.Count));
                foreach (TokenBias bias in job.Biases) buffers.AddBias(ref sampling, bias);
                job.Mask?.CopyTo(buffers.AddMask(ref sampling));
                job.Ids.Add(Batch.LastSampled);
                job.Pending++;
            }
            int index = buffers.Rows, first = buffers.AlternativeCount;
            buffers.AddSample(row, sampling);
            takes.Add((sampled, best, _) =>
            {
                SampledToken token = sampled[index];
                job.Give(p, $"{token} {BitConverter.SingleToInt32Bits(token.Logprob)} "
                    + string.Join(' ', best[first..(first + sampling.Alternatives)]));
                job.Scored[p] = token.Logprob;
                if (scores) return;
                job.Ids[p + 1] = token.Token;
                job.Pending--;
                if (job.IsWhole && job.Pending == 0) Evict(job);
            });
        }

        private void Collect()
        {
            (int rows, int alternatives, int hidden) = _sizes.Dequeue();
            SampledToken[] sampled = new SampledToken[rows];
            TokenLogprob[] best = new TokenLogprob[alternatives];
            float[] states = new float[hidden * runner.Info.HiddenSize];
            runner.Collect(sampled, best, states);
            foreach (var take in _inFlight.Dequeue()) take(sampled, best, states);
        }
    }

    internal static ModelRunner Open(string path, IBackend backend, Shape shape)
    {
        using ModelFile file = ModelFile.Open(path);
        int length = shape.Prompt + shape.Outputs + 1, blocks = (length + shape.BlockSize - 1) / shape.BlockSize;
        return new ModelRunner(file, backend, new ModelOptions
        {
            Path = path,
            KvCacheType = shape.Cache,
            BlockSize = shape.BlockSize,
            MaxModelLength = length,
            MaxSequences = shape.Sequences,
            MaxBatchedTokens = shape.Tokens,
            KvCacheBytes = file.Config.LayerCount * backend.KvBlockBytes(file.Config.KvShape(shape.BlockSize,
                shape.Cache)) * (blocks * shape.Sequences + 2),
        });
    }

    private static readonly Dictionary<string, Shape> s_shapes = new()
    {
        ["72"] = new("llama", 96, 6, 1, 72, 160, 331, TensorType.Q8_0) { Up = TensorType.Q4_0 },
        ["96"] = new("qwen2", 160, 5, 5, 96, 96, 17, TensorType.Q4_0) { BlockSize = 1, Cache = DType.Q8_0 },
        ["112"] = new("qwen3", 64, 16, 1, 112, 224, 257, TensorType.F16)
        { Window = 5, BlockSize = 128, Cache = DType.FP8, Up = TensorType.BF16 },
        ["200"] = new("gemma2", 224, 2, 1, 200, 320, 259, TensorType.Q5_1)
        { Window = 7, Cache = DType.BF16, Up = TensorType.Q8_0 },
        ["256"] = new("gemma2", 256, 4, 2, 256, 256, 300, TensorType.Q4_K)
        { Window = 3, BlockSize = 8, Up = TensorType.Q6_K, Cache = DType.F32 },
        ["f32"] = new("llama", 34, 3, 1, 22, 50, 33, TensorType.F32) { Window = 1, Up = TensorType.F32, BlockSize = 3 },
        ["33"] = new("llama", 32, 2, 1, 16, 32, 67, TensorType.Q8_0) { Sequences = 33, Tokens = 33, Prompt = 5 },
        ["66"] = new("llama", 32, 2, 1, 16, 32, 67, TensorType.Q4_1) { Sequences = 66, Tokens = 70, Prompt = 5 },
        ["130"] = new("llama", 32, 2, 1, 16, 32, 67, TensorType.Q8_0) { Sequences = 130, Tokens = 131, Prompt = 5 },
        ["parts"] = new("gemma2", 32, 2, 1, 16, 32, 67, TensorType.Q8_0)
        { Sequences = 2, Tokens = 64, Prompt = 280, Outputs = 16, Window = 200, Cache = DType.Q8_0 },
    };

    public static TheoryData<string> Shapes => [.. s_shapes.Keys];

    [Theory, MemberData(nameof(Shapes))]
    public void WhatASequenceGives_IsTheSame_AloneAndInAnyCompany(string name)
    {
        Shape shape = s_shapes[name];
        using TemporaryFile file = new(shape.File(seed: 7));
        Job[] jobs = [.. Enumerable.Range(0, shape.Sequences + 2).Select(i => Job.Of(shape, 31 * i + name.Length))];
        Company[] companies =
        [
            new(1, 1000, 1, 0, 0, 1), new(shape.Sequences, 7, 2, 0, 0.1, 2), new(shape.Sequences, 200, 2, 0.05, 0.1, 3),
        ];
        Dictionary<int, string>[]? first = null;
        for (int run = 0; run < companies.Length; run++)
        {
            _fake.Options = _fake.Options with { Launch = MachineRun.Orders[run] };
            using ModelRunner runner = Open(file.Path, new CudaBackend(graphs: run > 0)
            { PartialBytes = run == 2 ? 1 << 14 : 128 << 20 }, shape);
            new Driver(runner, jobs, companies[run]).Run();
            first ??= [.. jobs.Select(job => job.Given.ToDictionary())];
            for (int j = 0; j < jobs.Length; j++) Assert.Equal(first[j], jobs[j].Given);
            if (run == 0 && shape.Cache != DType.FP8) AssertNear(file.Path, shape, jobs);
        }
        Assert.Null(_fake.Caught);
    }

    /// <summary>The CPU scores what was generated alike.</summary>
    private static void AssertNear(string path, Shape shape, Job[] jobs)
    {
        CpuOptions options = new() { Threads = 2, FloatActivations = true };
        using ModelRunner cpu = Open(path, new CpuBackend(options), shape with { Sequences = 1 });
        double tolerance = shape.Cache switch { DType.F32 => 2e-3, DType.F16 => 0.02, _ => 0.15 };
        foreach (Job job in jobs)
        {
            BatchBuffers buffers = new(cpu.Info);
            int[] blocks = [.. Enumerable.Range(0, cpu.Info.BlockCount)];
            for (int start = 0; start + 1 < job.Ids.Count; start += shape.Tokens)
            {
                buffers.Begin();
                int count = Math.Min(shape.Tokens, job.Ids.Count - 1 - start);
                buffers.AddSequence(job.Ids.GetRange(start, count).ToArray(), start, blocks[..((start + count
                    + shape.BlockSize - 1) / shape.BlockSize)], 0);
                for (int i = 0; i < count; i++)
                    buffers.AddSample(i, new RowSampling { TargetPlusOne = job.Ids[start + i + 1] + 1 });
                cpu.Launch(buffers.Batch);
                cpu.Collect(buffers.Sampled, []);
                for (int i = 0; i < count; i++)
                    if (job.Scored.TryGetValue(start + i, out float own))
                        Assert.True(Math.Abs(own - buffers.Sampled[i].Logprob) <= tolerance,
                            $"position {start + i}: {own}, and the CPU has {buffers.Sampled[i].Logprob}");
            }
        }
    }

    public void Dispose() => _fake.Dispose();
}
