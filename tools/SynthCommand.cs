using System.CommandLine;
using System.Globalization;
using Native.Kernels.Files;
using Native.Kernels.Formats;
using Native.Kernels.Text;

namespace Native.Tools;

/// <summary><c>synth</c>: a model of random weights in a real one's shape.</summary>
internal sealed class SynthCommand : ToolCommand
{
    private static readonly SyntheticShape[] Shapes =
    [
        new("135m", "llama", 576, 30, 9, 3, 64, 1536, 49152, true, 8192, 100000, 1e-5f, "smollm"),
        new("1b", "llama", 2048, 16, 32, 8, 64, 8192, 128256, true, 131072, 500000, 1e-5f, "llama-bpe"),
        new("8b", "llama", 4096, 32, 32, 8, 128, 14336, 128256, false, 131072, 500000, 1e-5f, "llama-bpe"),
        new("qwen3-0.6b", "qwen3", 1024, 28, 16, 8, 128, 3072, 151936, true, 40960, 1000000, 1e-6f, "qwen2"),
        new("gemma3-270m", "gemma3", 640, 18, 4, 1, 256, 2048, 262144, true, 32768, 1000000, 1e-6f, "gpt-2"),
    ];

    private readonly Option<string> _shape = new("--shape")
    {
        HelpName = "SHAPE",
        Required = true,
        Description = "Whose shape: " + string.Join(", ", Shapes.Select(shape => shape.Name)) + ".",
    };
    private readonly Option<string> _type = new("--type")
    {
        HelpName = "TYPE",
        DefaultValueFactory = _ => "Q8_0",
        Description = "What matrices are: " + string.Join(", ", QuantizationMix.All.Select(mix => mix.Name)) + ".",
    };
    private readonly Option<string> _out = new("--output", "-o")
    {
        HelpName = "PATH",
        Required = true,
        Description = "The file to write. It appears when it is whole.",
    };
    private readonly Option<int?> _seed = new("--seed")
    {
        HelpName = "N",
        Description = "The same seed, shape and type give the same file.",
        DefaultValueFactory = _ => 0,
    };
    private readonly Option<bool> _force = new("--force") { Description = "Replace the file where it is there." };

    public SynthCommand(Terminal terminal)
        : base(terminal, "synth",
            "Writes a GGUF file of random weights in the shape of a real model, with a vocabulary of the right size: "
                + "the 256 bytes, and made-up merges of them. It says nothing sensible, at the real model's speed. "
                + "Weights are normally distributed (deviation 0.02), norms are 1.",
            "synth --shape 135m --type Q4_0 -o synth-135m.gguf",
            "synth --shape 8b --type Q4_K_M -o synth-8b.gguf --seed 7")
    {
        _shape.AcceptOnlyFromAmong(StringComparer.OrdinalIgnoreCase, [.. Shapes.Select(shape => shape.Name)]);
        _type.AcceptOnlyFromAmong(StringComparer.OrdinalIgnoreCase, [.. QuantizationMix.All.Select(mix => mix.Name)]);
        _seed.Within(0, int.MaxValue);
        Add(_shape);
        Add(_type);
        Add(_out);
        Add(_seed);
        Add(_force);
    }

    protected override async Task<int> RunAsync(ParseResult arguments)
    {
        SyntheticShape shape =
            Shapes.First(s => s.Name.Equals(arguments.GetRequiredValue(_shape), StringComparison.OrdinalIgnoreCase));
        QuantizationMix mix =
            QuantizationMix.All.First(
                m => m.Name.Equals(arguments.GetRequiredValue(_type), StringComparison.OrdinalIgnoreCase));
        string output = arguments.GetRequiredValue(_out);
        int seed = arguments.GetValue(_seed) ?? 0;
        OutputFile.Check(output, arguments.GetValue(_force));
        await Terminal.ProgressAsync($"Writing {Path.GetFileName(output)}",
            report => Terminal.InterruptibleAsync(ct => Task.Run(() =>
        {
            Write(output, shape, mix, seed, report, ct);
            return true;
        }, ct)));
        if (Terminal.OutIsTerminal)
            Terminal.Out.WriteLine($"{output}: {InspectCommand.Size(new FileInfo(output).Length)}");
        return Cli.Success;
    }

    private static void Write(string output, SyntheticShape shape, QuantizationMix mix, int seed,
        Action<double, string>? report, CancellationToken ct)
    {
        List<GgufTensorPlan> plans =
            [.. shape.Tensors().Select(
                t => new GgufTensorPlan(t.Name, mix.Of(t.Name, t.Size[0], t.Size.Length > 1, shape.Mix).Type, t.Size))];
        Dictionary<TensorType, byte[]> pools = [];
        long total = plans.Sum(plan => plan.ByteLength), done = 0;
        Random random = new(seed);
        using GgufWriter writer = new(output, shape.Metadata(mix, random), plans);
        foreach (GgufTensorPlan plan in plans)
        {
            BlockFormat format = BlockFormat.Of(plan.Type);
            int rowBytes = checked((int)plan.RowBytes);
            if (plan.Shape.Count == 1)
            {
                // Norms of 1; gemma's files hold them with that 1 added already.
                byte[] ones = new byte[rowBytes];
                format.Quantize(Enumerable.Repeat(1f, (int)plan.Shape[0]).ToArray(), ones);
                writer.Write(ones);
            }
            else
            {
                if (!pools.TryGetValue(plan.Type, out byte[]? pool)) pools.Add(plan.Type, pool = Pool(format, seed));
                int starts = (pool.Length - rowBytes) / format.BlockBytes + 1;
                for (long row = 0; row < plan.Rows; row++)
                {
                    if (row % 1024 == 0) ct.ThrowIfCancellationRequested();
                    writer.Write(pool.AsSpan(random.Next(starts) * format.BlockBytes, rowBytes));
                }
            }
            done += plan.ByteLength;
            report?.Invoke((double)done / total, "");
        }
        writer.Complete();
    }

    /// <summary>A million random weights in a format's blocks; every row is a stretch of it from a random block on,
    /// which is as good for measuring and quantizes once.</summary>
    private static byte[] Pool(BlockFormat format, int seed)
    {
        Random random = new(seed);
        float[] values = new float[1 << 20];
        for (int i = 0; i < values.Length; i++)
            values[i] = (float)(0.02 * Math.Sqrt(-2 * Math.Log(1 - random.NextDouble()))
                * Math.Cos(2 * Math.PI * random.NextDouble()));
        byte[] blocks = new byte[values.Length / format.BlockSize * format.BlockBytes];
        format.Quantize(values, blocks);
        return blocks;
    }
}

/// <summary>A model's shape, as its public config.json has it.</summary>
internal sealed record SyntheticShape(string Name, string Architecture, int Hidden, int Layers, int Heads, int KvHeads,
    int HeadSize, int FeedForward, int Vocabulary, bool Tied, int Context, float RopeBase, float Epsilon,
    string PreTokenizer)
{
    public MixModel Mix => new(Architecture, Layers, Heads / KvHeads, Tied);

    /// <summary>Its tensors by GGUF's names, sizes in GGUF's order.</summary>
    public IEnumerable<(string Name, long[] Size)> Tensors()
    {
        long queries = Heads * HeadSize, keys = KvHeads * HeadSize;
        yield return ("token_embd.weight", [Hidden, Vocabulary]);
        for (int i = 0; i < Layers; i++)
        {
            string at = string.Create(CultureInfo.InvariantCulture, $"blk.{i}.");
            yield return (at + "attn_norm.weight", [Hidden]);
            yield return (at + "attn_q.weight", [Hidden, queries]);
            yield return (at + "attn_k.weight", [Hidden, keys]);
            yield return (at + "attn_v.weight", [Hidden, keys]);
            yield return (at + "attn_output.weight", [queries, Hidden]);
            if (Architecture is "qwen3" or "gemma3")
            {
                yield return (at + "attn_q_norm.weight", [HeadSize]);
                yield return (at + "attn_k_norm.weight", [HeadSize]);
            }
            if (Architecture == "gemma3") yield return (at + "post_attention_norm.weight", [Hidden]);
            yield return (at + "ffn_norm.weight", [Hidden]);
            yield return (at + "ffn_gate.weight", [Hidden, FeedForward]);
            yield return (at + "ffn_up.weight", [Hidden, FeedForward]);
            yield return (at + "ffn_down.weight", [FeedForward, Hidden]);
            if (Architecture == "gemma3") yield return (at + "post_ffw_norm.weight", [Hidden]);
        }
        yield return ("output_norm.weight", [Hidden]);
        if (!Tied) yield return ("output.weight", [Hidden, Vocabulary]);
    }

    /// <summary>Its metadata, with a vocabulary drawn from <paramref name="random"/>.</summary>
    public List<KeyValuePair<string, object>> Metadata(QuantizationMix mix, Random random)
    {
        (string[] tokens, string[] merges) = Words(random);
        int[] types = [.. Enumerable.Repeat(1, Vocabulary - 2), 3, 3]; // normal ones, and two control tokens
        List<KeyValuePair<string, object>> pairs = [];
        Add("general.architecture", Architecture);
        Add("general.name", $"Synthetic {Name}");
        Add("general.file_type", mix.FileType);
        Add("general.quantization_version", 2u);
        Model("context_length", (uint)Context);
        Model("embedding_length", (uint)Hidden);
        Model("block_count", (uint)Layers);
        Model("feed_forward_length", (uint)FeedForward);
        Model("attention.head_count", (uint)Heads);
        Model("attention.head_count_kv", (uint)KvHeads);
        Model("attention.key_length", (uint)HeadSize);
        Model("attention.value_length", (uint)HeadSize);
        Model("attention.layer_norm_rms_epsilon", Epsilon);
        Model("rope.freq_base", RopeBase);
        Model("vocab_size", (uint)Vocabulary);
        if (Architecture == "llama") Model("rope.dimension_count", (uint)HeadSize);
        if (Architecture == "gemma3") Model("attention.sliding_window", 512u);
        Add("tokenizer.ggml.model", "gpt2");
        Add("tokenizer.ggml.pre", PreTokenizer);
        Add("tokenizer.ggml.tokens", tokens);
        Add("tokenizer.ggml.token_type", types);
        Add("tokenizer.ggml.merges", merges);
        Add("tokenizer.ggml.bos_token_id", (uint)Vocabulary - 2);
        Add("tokenizer.ggml.eos_token_id", (uint)Vocabulary - 1);
        return pairs;

        void Add(string key, object value) => pairs.Add(new(key, value));
        void Model(string key, object value) => Add($"{Architecture}.{key}", value);
    }

    /// <summary>The bytes, then words of one token and one letter more each, every one made by the merge of its
    /// rank.</summary>
    private (string[] Tokens, string[] Merges) Words(Random random)
    {
        // Frequent letters first, so that many merges apply to English; a space may begin a word.
        const string letters = "etaoinshrdlcumwfgypbvkjxqz";
        List<string> tokens = [.. Enumerable.Range(0, 256).Select(b => ByteAlphabet.Character((byte)b).ToString())];
        List<string> starts =
            [.. letters.Select(letter => letter.ToString()), ByteAlphabet.Character((byte)' ').ToString()];
        HashSet<string> known = [.. tokens];
        List<string> merges = [];
        while (tokens.Count < Vocabulary - 2)
        {
            // The square of a uniform number prefers the short and frequent.
            string left = starts[(int)(Square() * starts.Count)],
                right = letters[(int)(Square() * letters.Length)].ToString();
            if (!known.Add(left + right)) continue;
            tokens.Add(left + right);
            starts.Add(left + right);
            merges.Add($"{left} {right}");
        }
        return ([.. tokens, "<|begin|>", "<|end|>"], [.. merges]);

        double Square()
        {
            double x = random.NextDouble();
            return x * x;
        }
    }
}
