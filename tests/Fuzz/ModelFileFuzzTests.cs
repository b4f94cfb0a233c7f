using Native.Kernels;
using Native.Kernels.Files;
using Native.Kernels.Formats;
using Native.Kernels.Models;
using Native.Kernels.Sampling;
using Native.Kernels.Text;
using Native.Tests.Kernels;

namespace Native.Tests.Fuzz;

/// <summary>Model files: their headers and tables, and what they say of the model.</summary>
public sealed class ModelFileFuzzTests
{
    private static readonly Mutator GgufBytes = new(InputKind.Binary, [.. Seeds.Ggufs.Select(m => m.ToArray()), .. FuzzTarget.Finds("gguf"), .. FuzzTarget.Finds("gguf-model")],
        "GGUF", "general.alignment", "general.architecture", "tokenizer.ggml.tokens", "rope_freqs.weight", "blk.0.attn_q.weight");

    [Fact]
    public void Gguf_IsReadOrRefused()
    {
        using var file = new FuzzFile();
        new FuzzTarget("gguf", Gguf, bytes =>
        {
            file.Write(bytes);
            InvalidDataException? refused = null;
            try
            {
                using var seen = GgufFile.OpenToInspect(file.Path);
                foreach (GgufTensorInfo info in seen.TensorInfos) _ = info.ToString();
            }
            catch (InvalidDataException e)
            {
                refused = e;
            }
            using var gguf = GgufFile.Open(file.Path); // what cannot be looked at cannot be opened
            Assert.True(refused is null, refused?.Message);
            DecodeFirstRows(gguf.Tensors.Values);
        })
        {
            Refuses = IsBadFile,
            AllocationBase = 2 * GgufFile.MaxAllocationBase, // opened twice
            AllocationPerByte = 2 * GgufFile.MaxAllocationPerByte,
        }.Run();
    }

    [Fact]
    public void GgufModel_IsReadOrRefused()
    {
        using var file = new FuzzFile();
        new FuzzTarget("gguf-model", Gguf, bytes =>
        {
            file.Write(bytes);
            using var gguf = GgufFile.Open(file.Path);
            Exception? first = null;
            Try(() => GgufConfig.Read(gguf));
            Try(() => SuggestedSampling.Read(gguf));
            Try(() => TokenizerFuzzTests.Use(Tokenizer.FromGguf(gguf)));
            if (first is not null) throw first;

            void Try(Action read)
            {
                try
                {
                    read();
                }
                catch (Exception e) when (IsBadModel(e))
                {
                    first ??= e;
                }
            }
        })
        {
            Refuses = IsBadModel,
            AllocationBase = 256 << 10,
            AllocationPerByte = 64,
        }.Run();
    }

    /// <summary>Kernels follow a file's numbers as pointers: what is loaded must compute, whatever the file
    /// says.</summary>
    [Fact]
    public void Model_ComputesOrIsRefused()
    {
        using var file = new FuzzFile();
        var options = new ModelOptions { Path = file.Path, Threads = 1, MaxModelLength = 32, MaxBatchedTokens = 8, MaxSequences = 1, KvCacheBytes = 1 << 20 };
        int[] prompt = [0, 0, 0, 0];
        new FuzzTarget("model", random => Seeds.Models[random.Next(Seeds.Models.Count)].Mutated(random).ToArray(), bytes =>
        {
            file.Write(bytes);
            using var model = LoadedModel.Load(options);
            int[] slots = [0, 1, 2, 3];
            var sampled = new SampledToken[1];
            var best = new TokenLogprob[2];
            BatchBuffers buffers = new(model.Runner.Info);
            buffers.Begin();
            buffers.AddSample(buffers.AddSequence(prompt, 0, [0], place: 0) + 3, new RowSampling { Position = 4, Alternatives = 2 });
            model.Runner.Launch(buffers.Batch);
            model.Runner.Collect(sampled, best);
            if (sampled[0].Token >= model.Runner.Info.VocabularySize) throw new InvalidOperationException($"token {sampled[0].Token} of {model.Runner.Info.VocabularySize} was sampled");
        })
        {
            Refuses = e => IsBadModel(e) || e is ModelOptionsException,
            AllocationBase = 512 << 10,
            AllocationPerByte = 64,
            Inputs = 1000,
        }.Run();
    }

    [Fact]
    public void Safetensors_IsReadOrRefused()
    {
        var headers = new Mutator(InputKind.Text,
            [
                Seeds.Utf8("""{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[16,24]},"c":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[24,32]}}    """),
                Seeds.Utf8("""{"i":{"dtype":"I64","shape":[1,1,1],"data_offsets":[0,8]},"empty":{"dtype":"F16","shape":[0,3],"data_offsets":[8,8]},"scalar":{"dtype":"F64","shape":[],"data_offsets":[8,16]},"new":{"dtype":"X","shape":[9],"data_offsets":[16,32]}}"""),
                .. FuzzTarget.Finds("safetensors").Select(find => find[Math.Min(8, find.Length)..]),
            ],
            "dtype", "shape", "data_offsets", "__metadata__", "F32", "F16", "BF16", "U8", "[0,32]", "[32,0]", "[-1,8]");
        using var file = new FuzzFile();
        new FuzzTarget("safetensors", random =>
        {
            byte[] header = headers.Next(random);
            return Seeds.Safetensors(header, 32, random.Next(8) switch { 0 => header.Length + random.Next(-9, 40), 1 => random.NextInt64(), 2 => random.Next(8), _ => null });
        }, bytes =>
        {
            file.Write(bytes);
            using var safetensors = SafetensorsFile.Open(file.Path);
            DecodeFirstRows(safetensors.Tensors.Values);
        })
        {
            Refuses = IsBadFile,
            AllocationBase = 64 << 10,
            AllocationPerByte = 32,
        }.Run();
    }

    [Fact]
    public void SafetensorsIndex_IsReadOrRefused()
    {
        using var folder = new TemporaryFolder();
        File.WriteAllBytes(folder.File("1.safetensors"), Seeds.Safetensors("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"""u8, 8));
        File.WriteAllBytes(folder.File("2.safetensors"), Seeds.Safetensors("""{"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"c":{"dtype":"U8","shape":[2],"data_offsets":[8,10]}}"""u8, 10));
        var indexes = new Mutator(InputKind.Text,
            [Seeds.Utf8("""{"metadata":{"total_size":26},"weight_map":{"a":"1.safetensors","b":"2.safetensors","c":"2.safetensors"}}"""), .. FuzzTarget.Finds("safetensors-index")],
            "weight_map", "1.safetensors", "2.safetensors", "..", "../1.safetensors", "/etc/passwd", "model.safetensors.index.json");
        string index = folder.File("model.safetensors.index.json");
        new FuzzTarget("safetensors-index", indexes.Next, bytes =>
        {
            File.WriteAllBytes(index, bytes);
            SafetensorsFile.Open(folder.Path).Dispose();
        })
        {
            Refuses = IsBadFile,
            AllocationBase = 64 << 10,
            AllocationPerByte = 32,
        }.Run();
    }

    [Fact]
    public void ConfigJson_IsReadOrRefused()
    {
        var configs = new Mutator(InputKind.Text,
            [
                Seeds.Utf8("""{"model_type":"llama","hidden_size":64,"num_attention_heads":4,"num_key_value_heads":2,"num_hidden_layers":2,"intermediate_size":128,"max_position_embeddings":128,"rms_norm_eps":1e-5,"rope_theta":1e4,"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":64},"hidden_act":"silu"}"""),
                Seeds.Utf8("""{"model_type":"gemma3_text","hidden_size":64,"num_attention_heads":4,"num_key_value_heads":1,"num_hidden_layers":2,"head_dim":16,"intermediate_size":128,"query_pre_attn_scalar":16,"sliding_window":32,"layer_types":["sliding_attention","full_attention"],"rope_parameters":{"full_attention":{"rope_type":"linear","factor":8,"rope_theta":1e6},"sliding_attention":{"rope_type":"default","rope_theta":1e4}},"final_logit_softcapping":null,"hidden_activation":"gelu_pytorch_tanh"}"""),
                Seeds.Utf8("""{"model_type":"phi3","hidden_size":64,"num_attention_heads":4,"num_hidden_layers":2,"intermediate_size":128,"max_position_embeddings":256,"original_max_position_embeddings":64,"rope_scaling":{"type":"longrope","short_factor":[1,1,1,1,1,1,1,1],"long_factor":[1.5,2,3,4,5,6,7,8]},"sliding_window":2047}"""),
                Seeds.Utf8("""{"text_config":{"model_type":"qwen2","hidden_size":64,"num_attention_heads":4,"num_hidden_layers":2,"intermediate_size":128,"max_position_embeddings":256,"use_sliding_window":true,"sliding_window":16,"max_window_layers":1,"rope_scaling":{"type":"yarn","factor":4.0,"beta_fast":32,"attention_factor":1.1}}}"""),
                .. Seeds.Real("models", "config.json"), .. FuzzTarget.Finds("config"),
            ],
            "model_type", "text_config", "\"gemma2\"", "\"mistral\"", "\"qwen3\"", "\"phi3\"", "\"yarn\"", "\"longrope\"", "\"llama3\"", "\"default\"", "rope_parameters", "partial_rotary_factor", "factor", "attention_factor", "mscale", "layer_types",
            "sliding_window_pattern", "original_max_position_embeddings", "rope_local_base_freq", "query_pre_attn_scalar", "head_dim", "hidden_activation");
        using var file = new FuzzFile();
        new FuzzTarget("config", configs.Next, bytes =>
        {
            file.Write(bytes);
            ModelConfig config = Native.Kernels.Models.HuggingFaceConfig.Read(file.Path);
            foreach (RopeTable rope in config.WindowRope is { } local ? [config.Rope, local] : (RopeTable[])[config.Rope])
                rope.Scaling?.Apply(new double[rope.Dimensions / 2], config.ContextLength);
        })
        {
            Refuses = IsBadModel,
            AllocationBase = 128 << 10,
            AllocationPerByte = 32,
        }.Run();
    }

    /// <summary>What the readers of containers document.</summary>
    private static bool IsBadFile(Exception e) => e is InvalidDataException;

    /// <summary>What the readers of models document: <see cref="NotSupportedException"/> is for what is named and not
    /// there.</summary>
    private static bool IsBadModel(Exception e) => e is InvalidDataException or NotSupportedException;

    private static byte[] Gguf(Random random) => random.Next(2) == 0 ? Seeds.Ggufs[random.Next(Seeds.Ggufs.Count)].Mutated(random).ToArray() : GgufBytes.Next(random);

    private static void DecodeFirstRows(IEnumerable<TensorView> tensors)
    {
        foreach (TensorView tensor in tensors)
        {
            if (!BlockFormat.TryGet(tensor.Type, out _) || tensor.Rows == 0 || tensor.Columns > 4096) continue;
            float[] row = new float[tensor.Columns];
            tensor.DecodeRow(0, row);
            tensor.DecodeRow(tensor.Rows - 1, row);
        }
    }
}

/// <summary>A file that is written anew for every input.</summary>
internal sealed class FuzzFile : IDisposable
{
    private readonly TemporaryFile _file = new([]);

    public string Path => _file.Path;

    public void Write(byte[] bytes) => File.WriteAllBytes(Path, bytes);

    public void Dispose() => _file.Dispose();
}
