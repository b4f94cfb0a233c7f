using System.Globalization;
using Native.Kernels;
using Native.Kernels.Files;
using Native.Kernels.Formats;
using Native.Kernels.Models;
using Native.Tools;

namespace Native.Bench.Throughput;

/// <summary>A model, and what is said about it.</summary>
/// <param name="FileName">Its path.</param>
/// <param name="Type">In words, as llama-bench: architecture, size, format of most weights.</param>
/// <param name="Bytes">Bytes of the file's tensors.</param>
/// <param name="StepWeightBytes">Bytes of weights that one decode step reads, as they lie in memory.</param>
/// <param name="Threads">Threads that compute.</param>
/// <param name="Runner">The model.</param>
internal sealed record BenchModel(string FileName, string Type, long Bytes, long StepWeightBytes, int Threads,
    IModelRunner Runner) : IDisposable
{
    /// <summary>Bytes of weights that one decode step reads, as the file has them: whatever an engine makes of them, it
    /// must know as much.</summary>
    public long FileStepBytes { get; init; }

    /// <summary>Bytes of keys and values that a token leaves in the cache, in all layers.</summary>
    public long KvBytesPerToken { get; init; }

    /// <summary>Weights that every token of a prompt is multiplied by: all but the embedding and the head.</summary>
    public long LayerParameters { get; init; }

    /// <summary>Format of most of its weights.</summary>
    public TensorType WeightType { get; init; }

    /// <summary>Loads a model with a KV cache for the largest of the tests.</summary>
    /// <param name="path">A GGUF file or a Hugging Face folder.</param>
    /// <param name="threads">Threads that compute.</param>
    /// <param name="tests">What it is to do, one after the other.</param>
    /// <param name="kvCacheType">Element type of the KV cache.</param>
    /// <param name="progress">Told how much is loaded.</param>
    /// <param name="stepTokens">Tokens that a step is to hold at least.</param>
    /// <param name="backend">What computes: a name of <see cref="BackendFactory"/>, not <c>auto</c>.</param>
    /// <param name="device">Which device of it; null for the first.</param>
    public static BenchModel Load(string path, int threads, IReadOnlyList<ThroughputTest> tests, DType kvCacheType,
        IProgress<LoadProgress>? progress, int stepTokens = 0, string backend = BackendFactory.Cpu,
        string? device = null)
    {
        if (path.Length == 0)
            throw new UsageException("--model is empty; it must be a GGUF file or a Hugging Face folder.");
        using ModelFile file = ModelFile.Open(path);
        int sequences = tests.Max(test => test.Batch);
        ModelOptions options = new()
        {
            Path = path,
            MaxModelLength = tests.Max(test => test.Length),
            MaxSequences = sequences,
            KvCacheType = kvCacheType,
            Threads = threads,
            Device = device,
        };
        long blocks = tests.Max(test => (test.Length + options.BlockSize - 1) / options.BlockSize * (long)test.Batch);
        IBackend opened = BackendFactory.Create(backend, options);
        long kvBytesPerToken =
            file.Config.LayerCount * opened.KvBlockBytes(file.Config.KvShape(1, options.KvCacheType));
        options = options with
        {
            KvCacheBytes = blocks * options.BlockSize * kvBytesPerToken,
            MaxBatchedTokens = Math.Max(options.MaxBatchedTokens, Math.Max(sequences, stepTokens)),
        };
        try
        {
            ModelRunner runner = new(file, opened, options, progress);
            long bytes = file.Tensors.Values.Sum(tensor => tensor.ByteLength);
            TensorType type =
                file.Tensors.Values.GroupBy(tensor => tensor.Type)
                    .MaxBy(group => group.Sum(tensor => tensor.ByteLength))!.Key;
            bool embeds = file.TryFind("token_embd.weight", out TensorView embedding),
                hasHead = file.TryFind("output.weight", out TensorView head);
            return new BenchModel(path, Describe(runner.Info, type), bytes, runner.StepWeightBytes, threads, runner)
            {
                FileStepBytes = bytes - (embeds && hasHead ? embedding.ByteLength : 0),
                KvBytesPerToken = kvBytesPerToken,
                LayerParameters =
                    runner.Info.ParameterCount - (embeds ? embedding.Rows * embedding.Columns : 0)
                        - (hasHead ? head.Rows * head.Columns : 0),
                WeightType = type,
            };
        }
        catch
        {
            opened.Dispose();
            throw;
        }
    }

    public void Dispose() => Runner.Dispose();

    /// <summary>llama 1.24B Q4_0: the format is that of most of the weights.</summary>
    private static string Describe(ModelInfo info, TensorType type)
    {
        string size = info.ParameterCount switch
        {
            >= 1_000_000_000 => $"{Rounded(info.ParameterCount / 1e9)}B",
            >= 1_000_000 => $"{Rounded(info.ParameterCount / 1e6)}M",
            _ => $"{Rounded(info.ParameterCount / 1e3)}K",
        };
        return $"{info.Architecture} {size} {type}";

        static string Rounded(double value) => value.ToString(value < 10 ? "0.##" : "0", CultureInfo.InvariantCulture);
    }
}
