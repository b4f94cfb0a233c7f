namespace Native.Kernels.Models;

/// <summary>What the graph needs to know of a model. Families differ only here.</summary>
public sealed record ModelConfig
{
    /// <summary>Families that can be run, as GGUF names them.</summary>
    public static readonly string[] Supported = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"];

    /// <summary>Family, one of <see cref="Supported"/>.</summary>
    public required string Architecture { get; init; }

    /// <summary>The model's own name.</summary>
    public required string Name { get; init; }

    /// <summary>Tokens the model was made for.</summary>
    public required int ContextLength { get; init; }

    /// <summary>Width of the residual stream.</summary>
    public required int HiddenSize { get; init; }

    /// <summary>Layers.</summary>
    public required int LayerCount { get; init; }

    /// <summary>Width of the gated feed-forward.</summary>
    public required int FeedForwardSize { get; init; }

    /// <summary>Query heads.</summary>
    public required int Heads { get; init; }

    /// <summary>Key and value heads; divides <see cref="Heads"/>.</summary>
    public required int KvHeads { get; init; }

    /// <summary>Elements a head. In some families this is not HiddenSize / Heads.</summary>
    public required int HeadSize { get; init; }

    /// <summary>Epsilon of every RMS norm.</summary>
    public required float NormEpsilon { get; init; }

    /// <summary>Which elements a rotation pairs. This depends on the file more than on the family.</summary>
    public required RopePairing RopePairing { get; init; }

    /// <summary>Rotary table of the layers that see everything.</summary>
    public required RopeTable Rope { get; init; }

    /// <summary>Rotary table of the layers with a window; null if it is the same (gemma3 has another).</summary>
    public RopeTable? WindowRope { get; init; }

    /// <summary>Window of each layer, 0 for none.</summary>
    public required int[] Windows { get; init; }

    /// <summary>Multiplies q k^T.</summary>
    public required float AttentionScale { get; init; }

    /// <summary>Soft cap of attention logits, 0 for none.</summary>
    public float AttentionSoftCap { get; init; }

    /// <summary>Soft cap of output logits, 0 for none.</summary>
    public float FinalSoftCap { get; init; }

    /// <summary>Multiplies token embeddings.</summary>
    public float EmbeddingScale { get; init; } = 1;

    /// <summary>Added to stored norm weights: Hugging Face stores gemma's as the difference from 1.</summary>
    public float NormOffset { get; init; }

    /// <summary>Activation of the gate.</summary>
    public Activation Activation { get; init; } = Activation.Silu;

    /// <summary>True with norms after attention and feed-forward too, before they are added to the residual (gemma2,
    /// gemma3).</summary>
    public bool PostNorms { get; init; }

    /// <summary>Sizes and type of one layer's keys and values.</summary>
    public KvShape KvShape(int blockSize, DType type) => new(KvHeads, HeadSize, blockSize, type);

    /// <summary>Throws if the shape can't be a model's. The message names the mistake.</summary>
    /// <param name="path">Named in the error.</param>
    internal ModelConfig Checked(string path)
    {
        void Require(bool held, string what)
        {
            if (!held) throw new InvalidDataException($"{path}: {what}");
        }
        Require(LayerCount is > 0 and <= 1024, $"block count is {LayerCount}, expected 1 to 1024");
        Require(HiddenSize is > 0 and <= 1 << 20, $"embedding length is {HiddenSize}, expected 1 to {1 << 20}");
        Require(FeedForwardSize is > 0 and <= 1 << 22,
            $"feed-forward length is {FeedForwardSize}, expected 1 to {1 << 22}");
        Require(Heads is > 0 and <= 4096, $"head count is {Heads}, expected 1 to 4096");
        Require(KvHeads > 0 && KvHeads <= Heads && Heads % KvHeads == 0,
            $"{KvHeads} key/value heads do not divide {Heads} heads");
        Require(HeadSize is > 0 and <= 4096 && HeadSize % 2 == 0,
            $"head size is {HeadSize}, expected an even number up to 4096");
        Require(ContextLength is > 0 and <= 1 << 28, $"context length is {ContextLength}, expected 1 to {1 << 28}");
        Require(NormEpsilon is > 0 and < 1, $"norm epsilon is {NormEpsilon}, expected between 0 and 1");
        Require(float.IsFinite(AttentionScale) && AttentionScale > 0,
            $"attention scale is {AttentionScale}, expected a positive number");
        Require(AttentionSoftCap >= 0 && FinalSoftCap >= 0 && float.IsFinite(AttentionSoftCap)
            && float.IsFinite(FinalSoftCap), "a soft cap is negative or not finite");
        foreach (RopeTable rope in WindowRope is null ? [Rope] : (RopeTable[])[Rope, WindowRope])
        {
            Require(rope.Dimensions > 0 && rope.Dimensions <= HeadSize && rope.Dimensions % 2 == 0,
                $"rope dimension count is {rope.Dimensions}, expected an even number up to the head size {HeadSize}");
            Require(double.IsFinite(rope.Base) && rope.Base > 0,
                $"rope base is {rope.Base}, expected a positive number");
        }
        Require(Windows.Length == LayerCount && Windows.All(w => w >= 0), "a sliding window is negative");
        return this;
    }

    /// <summary>The error for an unknown family.</summary>
    internal static NotSupportedException Unknown(string path, string architecture) =>
        new($"{path}: architecture '{architecture}' is not supported; supported are {string.Join(", ", Supported)}");
}
