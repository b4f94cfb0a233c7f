using Native.Scheduling;

namespace Native.Bench.StepTime;

/// <summary>One step to measure: a chunk of a prompt beside sequences that decode, either of which may be
/// absent.</summary>
/// <param name="Prefill">Prompt tokens; 0 for none.</param>
/// <param name="PrefillStart">Tokens that the prompt's sequence has computed before.</param>
/// <param name="Decodes">Sequences that decode; 0 for none.</param>
/// <param name="DecodeStart">Tokens that each of them has computed before.</param>
internal readonly record struct DesignedStep(int Prefill, int PrefillStart, int Decodes, int DecodeStart)
{
    /// <summary>What the step-time model is told of it.</summary>
    public StepLoad Load
    {
        get
        {
            StepLoad load = new(0, 0, 0, Decodes, (double)Decodes * (DecodeStart + 1));
            return Prefill > 0 ? load.PlusPrefill(PrefillStart, Prefill) : load;
        }
    }

    /// <summary>Which row of the report it belongs to.</summary>
    public string Kind => (Prefill, Decodes) switch { (_, 0) => "prefill", (0, _) => "decode", _ => "mixed" };

    /// <summary>A designed set: every prompt chunk at every depth, every number of decodes at every depth, and chunks
    /// beside decodes.</summary>
    /// <param name="chunks">Tokens of the chunks.</param>
    /// <param name="decodes">Numbers of sequences that decode.</param>
    /// <param name="depths">Tokens in the cache before.</param>
    public static List<DesignedStep> Design(int[] chunks, int[] decodes, int[] depths)
    {
        List<DesignedStep> shapes = [];
        foreach (int depth in depths)
        {
            shapes.AddRange(chunks.Select(chunk => new DesignedStep(chunk, depth, 0, 0)));
            shapes.AddRange(decodes.Select(count => new DesignedStep(0, 0, count, depth)));
        }
        foreach (int chunk in chunks)
            foreach (int count in decodes) shapes.Add(new DesignedStep(chunk, depths[0], count, depths[^1]));
        return [.. shapes.Distinct()];
    }
}
