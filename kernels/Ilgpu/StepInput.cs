using ILGPU;

namespace Native.Kernels.Ilgpu;

/// <summary>A step's input as kernels see it: one buffer of words, and where in it each part begins.</summary>
internal struct StepInput
{
    /// <summary>All parts. Floats lie in it by their bits.</summary>
    public ArrayView<int> Words;

    /// <summary>Rows that the step has.</summary>
    public int Tokens;

    /// <summary>Rows that sample.</summary>
    public int SampleRows;

    /// <summary>[tokens]: -1 is what the row's place sampled last.</summary>
    public int Ids;

    /// <summary>By row, where an id is -1.</summary>
    public int Places;

    /// <summary>[tokens].</summary>
    public int Positions;

    /// <summary>[tokens]: block * block size + offset.</summary>
    public int Slots;

    /// <summary>[tokens]: whose block table.</summary>
    public int Sequences;

    /// <summary>Blocks of each sequence in order, one table after the other.</summary>
    public int Tables;

    /// <summary>[sequences + 1].</summary>
    public int TableStarts;

    /// <summary>[sampleRows].</summary>
    public int SampledRows;

    /// <summary>[sampleRows]: whose last token this is, -1 for none.</summary>
    public int SampledPlaces;

    /// <summary>[sampleRows]: 0 for none; counts of tokens i as i + 1, or as -(i + 1) if they begin anew.</summary>
    public int Counters;

    /// <summary>[sampleRows, <see cref="SamplingWord.Count"/>].</summary>
    public int Sampling;

    /// <summary>What is new of the histories.</summary>
    public int History;

    /// <summary>Pairs of a token and a bias.</summary>
    public int Biases;

    /// <summary>Bits of the tokens that are allowed.</summary>
    public int Masks;

    /// <summary>Rows whose hidden state is wanted.</summary>
    public int HiddenRows;

    /// <summary>Block copies, pairs of source and destination.</summary>
    public int Copies;

    public readonly int Int(int part, int index) => Words[part + index];

    public readonly float Float(int part, int index) => DeviceMath.FromBits(Words[part + index]);
}

/// <summary>Where in a row's words each of its sampling parameters lies.</summary>
internal static class SamplingWord
{
    public const int Temperature = 0, TopK = 1, TopP = 2, MinP = 3, Repetition = 4, Presence = 5, Frequency = 6,
        SeedLow = 7, SeedHigh = 8, Position = 9, TargetPlusOne = 10, Alternatives = 11, AlternativesStart = 12,
        HistoryStart = 13, HistoryPrompt = 14, HistoryLength = 15, BiasStart = 16, BiasLength = 17, Masked = 18,
        MaskStart = 19, Count = 20;
}
