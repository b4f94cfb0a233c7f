using System.Buffers.Binary;
using System.Text;
using Native.Kernels.Files;
using Native.Kernels.Formats;
using Native.Tests.Kernels;

namespace Native.Tests.Fuzz;

/// <summary>Good inputs to begin with: small ones made here, and real ones where <c>NATIVE_DATA</c> has them.</summary>
internal static class Seeds
{
    /// <summary>Longest real file that is taken: a mutation in a hundred kilobytes of weights tries nothing.</summary>
    private const int MaxBytes = 64 << 10;

    public static readonly (string Text, float Score, int Type)[] Pieces =
        [("<unk>", 0, 2), ("<s>", 0, 3), ("</s>", 0, 3), ("<0x0A>", 0, 6), ("<0xC3>", 0, 6), ("▁", -1, 1), ("a", -2, 1), ("▁a", -3, 1), ("b", -4, 1), ("ab", -5, 1), ("<mask>", 0, 4), ("x", -6, 5)];

    /// <summary>Models as GGUF tells them, of several families and both kinds of tokenizers, one with every kind of
    /// value.</summary>
    public static IReadOnlyList<GgufModel> Ggufs { get; } =
    [
        Model("llama", SentencePiece()),
        Model("llama", BytePair("llama-bpe")).Factors(4),
        Model("qwen2", BytePair("qwen2")),
        Model("phi3", [.. SentencePiece(), ("general.name", "Phi-3 mini")]).With("phi3.rope.scaling.attn_factor", 1.19f).With("phi3.rope.scaling.original_context_length", 64u),
        Model("gemma2", SentencePiece()).With("gemma2.attention.sliding_window", 16u).With("gemma2.block_count", 46u),
        Model("gemma3", BytePair("gpt-2")).With("gemma3.attention.sliding_window_pattern", 2u).With("gemma3.rope.freq_base_swa", 10000f),
        Model("qwen3", [("tokenizer.ggml.model", "gemma4"), .. BytePair("").Skip(2)]).With("qwen3.rope.scaling.type", "yarn").With("qwen3.rope.scaling.factor", 4f),
        new([.. EveryKind().Select((value, i) => ($"k{i}", value)), ("general.alignment", 64u), ("split.count", (ushort)1), ("split.no", (ushort)0)],
            [new("f", TensorType.F32, [2, 3, 4, 1], new byte[96], null), new("q", TensorType.Q4_K, [256], new byte[144], null), new("i", TensorType.I8, [5], new byte[5], null), new("iq", TensorType.IQ1_S, [256], new byte[50], null), new("s", TensorType.F16, [], new byte[2], null)]),
    ];

    /// <summary>Whole models, small enough to load and run thousands of times: every weight their family has, in
    /// several formats.</summary>
    public static IReadOnlyList<GgufModel> Models { get; } = [Whole("llama", TensorType.F32), Whole("qwen2", TensorType.Q8_0), Whole("qwen3", TensorType.F16), Whole("gemma2", TensorType.Q4_0), Whole("phi3", TensorType.BF16).Factors(8)];

    /// <summary>A value of every kind that GGUF has, ordinary ones and the outermost.</summary>
    public static object[] EveryKind() =>
    [
        (byte)200, (sbyte)-3, ushort.MaxValue, (short)-300, 0u, 1u, 3u, uint.MaxValue, -1, int.MinValue, int.MaxValue, 0f, -1f, 1.5f, float.NaN, float.PositiveInfinity, 1e-40f, true, false, "", "text", "\0", new string('x', 300),
        ulong.MaxValue, 1ul << 32, long.MinValue, 2.5, double.NaN, Array.Empty<int>(), new byte[] { 1, 2 }, new[] { 1, -2, 3 }, new[] { 4u, uint.MaxValue }, new[] { 1f, float.NaN, -1e30f }, new[] { true, false }, new[] { "", "a", "a" },
        new[] { 1.0, 2.0 }, new[] { -1L, long.MaxValue }, new[] { ulong.MaxValue }, new short[] { -1, 1 },
    ];

    /// <summary>Real files below <c>NATIVE_DATA</c>, small ones; none where it is not set.</summary>
    public static IEnumerable<byte[]> Real(string folder, string pattern)
    {
        if (Environment.GetEnvironmentVariable("NATIVE_DATA") is not { Length: > 0 } root || !Directory.Exists(Path.Combine(root, folder))) return [];
        return Directory.GetFiles(Path.Combine(root, folder), pattern, SearchOption.AllDirectories).Order(StringComparer.Ordinal).Where(path => new FileInfo(path).Length <= MaxBytes).Select(File.ReadAllBytes);
    }

    public static byte[] Utf8(string text) => Encoding.UTF8.GetBytes(text);

    /// <summary>A safetensors file: the header's length, the header, so many bytes of data.</summary>
    public static byte[] Safetensors(ReadOnlySpan<byte> header, int data, long? length = null)
    {
        byte[] file = new byte[8 + header.Length + data];
        BinaryPrimitives.WriteInt64LittleEndian(file, length ?? header.Length);
        header.CopyTo(file.AsSpan(8));
        return file;
    }

    private static GgufModel Whole(string family, TensorType type)
    {
        const int Hidden = 64, Heads = 4, KvHeads = 2, Size = 16, FeedForward = 96, Vocabulary = 12;
        var random = new Random(3);
        List<GgufTensor> tensors = [];
        Matrix("token_embd.weight", Vocabulary, Hidden);
        Vector("output_norm.weight", Hidden);
        if (family == "phi3")
        {
            Matrix("blk.0.attn_qkv.weight", (Heads + 2 * KvHeads) * Size, Hidden);
            Matrix("blk.0.ffn_up.weight", 2 * FeedForward, Hidden);
        }
        else
        {
            Matrix("blk.0.attn_q.weight", Heads * Size, Hidden);
            Matrix("blk.0.attn_k.weight", KvHeads * Size, Hidden);
            Matrix("blk.0.attn_v.weight", KvHeads * Size, Hidden);
            Matrix("blk.0.ffn_gate.weight", FeedForward, Hidden);
            Matrix("blk.0.ffn_up.weight", FeedForward, Hidden);
        }
        Matrix("blk.0.attn_output.weight", Hidden, Heads * Size);
        Matrix("blk.0.ffn_down.weight", Hidden, FeedForward);
        Vector("blk.0.attn_norm.weight", Hidden);
        Vector("blk.0.ffn_norm.weight", Hidden);
        if (family == "qwen2") Vector("blk.0.attn_q.bias", Heads * Size);
        if (family == "qwen3") Vector("blk.0.attn_k_norm.weight", Size);
        if (family == "gemma2") Vector("blk.0.post_attention_norm.weight", Hidden);
        if (family == "gemma2") Vector("blk.0.post_ffw_norm.weight", Hidden);
        return new GgufModel(
            [
                ("general.architecture", family), ($"{family}.context_length", 64u), ($"{family}.embedding_length", (uint)Hidden), ($"{family}.block_count", 1u), ($"{family}.feed_forward_length", (uint)FeedForward),
                ($"{family}.attention.head_count", (uint)Heads), ($"{family}.attention.head_count_kv", (uint)KvHeads), ($"{family}.attention.key_length", (uint)Size), ($"{family}.attention.layer_norm_rms_epsilon", 1e-5f),
                ($"{family}.attention.sliding_window", 3u), .. SentencePiece(),
            ],
            tensors);

        void Matrix(string name, int rows, int columns)
        {
            BlockFormat format = BlockFormat.Of(type);
            byte[] data = new byte[rows * columns / format.BlockSize * format.BlockBytes];
            if (type is TensorType.Q8_0 or TensorType.Q4_0) random.NextBytes(data); // some scales are no numbers: kernels compute with what they get
            tensors.Add(new GgufTensor(name, type, [(ulong)columns, (ulong)rows], data, null));
        }

        void Vector(string name, int length) => tensors.Add(new GgufTensor(name, TensorType.F32, [(ulong)length], new byte[length * sizeof(float)], null));
    }

    private static GgufModel Model(string family, IEnumerable<(string, object)> tokenizer) => new(
        [
            ("general.architecture", family), ("general.name", "fuzz"), ($"{family}.context_length", 64u), ($"{family}.embedding_length", 8u), ($"{family}.block_count", 1u), ($"{family}.feed_forward_length", 16u),
            ($"{family}.attention.head_count", 2u), ($"{family}.attention.head_count_kv", 1u), ($"{family}.attention.layer_norm_rms_epsilon", 1e-5f), ($"{family}.rope.dimension_count", 4u), ($"{family}.rope.freq_base", 10000f),
            ("general.sampling.temp", 0.6f), ("general.sampling.top_k", 20), .. tokenizer,
        ],
        [new("token_embd.weight", TensorType.F32, [8, 12], new byte[384], null), new("output_norm.weight", TensorType.F32, [8], new byte[32], null), new("blk.0.attn_q.weight", TensorType.F16, [8, 8], new byte[128], null)]);

    private static (string, object)[] SentencePiece() =>
    [
        ("tokenizer.ggml.model", "llama"), ("tokenizer.ggml.tokens", Pieces.Select(p => p.Text).ToArray()), ("tokenizer.ggml.scores", Pieces.Select(p => p.Score).ToArray()), ("tokenizer.ggml.token_type", Pieces.Select(p => p.Type).ToArray()),
        ("tokenizer.ggml.bos_token_id", 1u), ("tokenizer.ggml.eos_token_id", 2u), ("tokenizer.ggml.unknown_token_id", 0u), ("tokenizer.ggml.padding_token_id", -1), ("tokenizer.ggml.add_bos_token", true), ("tokenizer.ggml.add_space_prefix", true),
        ("tokenizer.chat_template", "{{ messages }}"),
    ];

    private static (string, object)[] BytePair(string pre) =>
    [
        ("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", pre), ("tokenizer.ggml.tokens", new[] { "a", "b", "c", "Ġ", "ab", "Ġa", "Ċ", "<|im_end|>", "<|endoftext|>", "abc" }), ("tokenizer.ggml.token_type", new[] { 1, 1, 1, 1, 1, 1, 1, 3, 4, 1 }),
        ("tokenizer.ggml.merges", new[] { "a b", "Ġ a", "ab c" }), ("tokenizer.ggml.eos_token_id", 8u), ("tokenizer.ggml.eot_token_id", 7u), ("tokenizer.ggml.add_bos_token", false),
    ];
}

/// <summary>A GGUF file before it is written: what can be changed without breaking every length behind it.</summary>
internal sealed record GgufModel(IReadOnlyList<(string Key, object Value)> Metadata, IReadOnlyList<GgufTensor> Tensors)
{
    private static readonly ulong[] Sizes = [0, 1, 2, 3, 31, 32, 64, 255, 256, 65536, 1ul << 31, 1ul << 32, 1ul << 62, 1ul << 63, ulong.MaxValue];
    private static readonly string[] Names = ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight", "output.weight", "", "x", "token_embd.weight"];

    private static readonly string[] Keys =
    [
        "general.alignment", "split.count", "split.no", "split.tensors.count", "tokenizer.ggml.add_eos_token", "tokenizer.ggml.eom_token_id", "tokenizer.ggml.fim_pad_token_id", "tokenizer.chat_template.tool_use", "general.sampling.min_p",
        "general.sampling.penalty_repeat", "general.sampling.top_p", "*.attention.key_length", "*.attention.value_length", "*.expert_count", "*.attention.sliding_window", "*.rope.scaling.type", "*.rope.scaling.factor", "*.rope.scale_linear",
        "*.rope.scaling.original_context_length", "*.rope.scaling.attn_factor", "*.attn_logit_softcapping", "*.final_logit_softcapping", "*.attention.sliding_window_pattern", "",
    ];

    public GgufModel With(string key, object value) => this with { Metadata = [.. Metadata.Where(p => p.Key != key), (key, value)] };

    public GgufModel Factors(int count) => this with { Tensors = [.. Tensors, new("rope_freqs.weight", TensorType.F32, [(ulong)count], new byte[count * 4], null)] };

    public byte[] ToArray()
    {
        GgufBytes writer = [];
        foreach ((string key, object value) in Metadata) writer.Add(key, value);
        foreach (GgufTensor t in Tensors) writer.Tensor(t.Name, t.Type, t.Dimensions, t.Data, t.Offset);
        return writer.ToArray();
    }

    /// <summary>One to four changes to pairs and tensors.</summary>
    public GgufModel Mutated(Random random)
    {
        GgufModel model = this;
        for (int edits = random.Next(1, 5); edits > 0; edits--) model = random.Next(3) == 0 ? model.WithTensor(random) : model.WithPair(random);
        return model;
    }

    private GgufModel WithPair(Random random)
    {
        List<(string Key, object Value)> pairs = [.. Metadata];
        object any = Seeds.EveryKind() is var values ? values[random.Next(values.Length)] : "";
        int i = random.Next(pairs.Count);
        switch (random.Next(6))
        {
            case 0: pairs.RemoveAt(i); break;
            case 1: pairs.Add(pairs[i]); break;
            case 2: pairs[i] = (pairs[random.Next(pairs.Count)].Key, pairs[i].Value); break;
            case 3:
                string family = Metadata.FirstOrDefault(p => p.Key == "general.architecture").Value as string ?? "llama";
                pairs.Add((Keys[random.Next(Keys.Length)].Replace("*", family), any));
                break;
            case 4 when pairs[i].Value is Array { Length: > 0 } array: // one element that is another's, or one less
                Array copy = Array.CreateInstance(array.GetType().GetElementType()!, array.Length - random.Next(2));
                Array.Copy(array, copy, copy.Length);
                if (copy.Length > 0) copy.SetValue(array.GetValue(random.Next(array.Length)), random.Next(copy.Length));
                pairs[i] = (pairs[i].Key, copy);
                break;
            default:
                // Of the same kind half of the time, or nobody looks at the value.
                object[] same = [.. Seeds.EveryKind().Where(v => v.GetType() == pairs[i].Value.GetType())];
                pairs[i] = (pairs[i].Key, same.Length > 0 && random.Next(2) == 0 ? same[random.Next(same.Length)] : any);
                break;
        }
        return pairs.Count == 0 ? this : this with { Metadata = pairs };
    }

    private GgufModel WithTensor(Random random)
    {
        List<GgufTensor> tensors = [.. Tensors];
        int i = random.Next(tensors.Count);
        ulong any = Sizes[random.Next(Sizes.Length)];
        switch (random.Next(6))
        {
            case 0 when tensors.Count > 1: tensors.RemoveAt(i); break;
            case 1: tensors[i] = tensors[i] with { Type = (TensorType)random.Next(-1, 45) }; break;
            case 2: tensors[i] = tensors[i] with { Offset = any }; break;
            case 3: tensors[i] = tensors[i] with { Dimensions = [.. tensors[i].Dimensions.Select(d => random.Next(2) == 0 ? any : d), .. random.Next(4) == 0 ? new ulong[random.Next(1, 4)] : []] }; break;
            case 4: tensors[i] = tensors[i] with { Name = Names[random.Next(Names.Length)] }; break;
            default:
                var type = (TensorType)random.Next(0, 31);
                if (!BlockFormat.TryGet(type, out BlockFormat? format)) break;
                byte[] data = new byte[format.BlockBytes * 2];
                random.NextBytes(data);
                tensors.Add(new GgufTensor(Names[random.Next(Names.Length)], type, [(ulong)format.BlockSize * 2], data, null));
                break;
        }
        return this with { Tensors = tensors };
    }
}
