using System.Runtime.InteropServices;
using Native.Kernels;

namespace Native.Scheduling;

/// <summary>What one sequence does in a step: tokens <see cref="Start"/> to <see cref="End"/> are computed, rows from
/// <see cref="ScoreStart"/> score the prompt's next token, the last may sample.</summary>
internal readonly record struct ScheduledChunk(
    Sequence Sequence, int Start, int Count, int ScoreStart, int ScoreCount, bool Samples)
{
    /// <summary>Tokens the sequence has computed after this step.</summary>
    public int End => Start + Count;
}

/// <summary>One step as a value: decided, then launched, then collected and committed. Taken once and used for many
/// steps.</summary>
internal sealed class StepPlan(int maxSequences)
{
    private readonly ScheduledChunk[] _chunks = new ScheduledChunk[maxSequences];
    private readonly List<BlockCopy> _copies = new(maxSequences);
    private int _count;

    /// <summary>What each sequence does; those that decode come first.</summary>
    public ReadOnlySpan<ScheduledChunk> Chunks => _chunks.AsSpan(0, _count);

    /// <summary>Blocks to copy before anything is computed, in this order: a forked sequence is about to write into
    /// them.</summary>
    public ReadOnlySpan<BlockCopy> Copies => CollectionsMarshal.AsSpan(_copies);

    /// <summary>How many of the first chunks decode.</summary>
    public int Decodes { get; private set; }

    /// <summary>Tokens to compute.</summary>
    public int Tokens => Load.Tokens;

    /// <summary>What it computes, as far as its time depends on it.</summary>
    public StepLoad Load { get; private set; }

    /// <summary>Of that, what is of online requests.</summary>
    public StepLoad OnlineLoad { get; private set; }

    /// <summary>Seconds it took, without what is not of online requests; known once it is through.</summary>
    public double OnlineSeconds { get; set; }

    /// <summary>When the runner was given it, as a timestamp of the engine's clock.</summary>
    public long Launched { get; set; }

    /// <summary>Which of all steps launched it is, from 1.</summary>
    public long Number { get; set; }

    /// <summary>True where somebody was let in.</summary>
    public bool Admitted { get; set; }

    /// <summary>True where somebody could not be computed because a constraint's mask is not ready.</summary>
    public bool AwaitsMask { get; set; }

    /// <summary>When it was decided, as a timestamp of the engine's clock.</summary>
    public long Decided { get; private set; }

    /// <summary>Rows that are sampled or scored; known once the batch is built.</summary>
    public int Rows { get; set; }

    /// <summary>Best tokens that all rows ask for; known once the batch is built.</summary>
    public int Alternatives { get; set; }

    /// <summary>True where nothing is to be computed.</summary>
    public bool IsEmpty => _count == 0;

    /// <summary>True where every sequence decodes.</summary>
    public bool DecodesOnly => Decodes == _count;

    /// <summary>Starts an empty plan.</summary>
    public void Begin(long now)
    {
        _count = Decodes = Rows = Alternatives = 0;
        Load = OnlineLoad = default;
        _copies.Clear();
        Admitted = AwaitsMask = false;
        Decided = now;
    }

    public void Add(in ScheduledChunk chunk, bool decodes)
    {
        _chunks[_count++] = chunk;
        Load = Plus(Load, chunk, decodes);
        if (chunk.Sequence.Stream.Class == RequestClass.Online) OnlineLoad = Plus(OnlineLoad, chunk, decodes);
        if (decodes) Decodes++;
    }

    public void Add(BlockCopy copy) => _copies.Add(copy);

    private static StepLoad Plus(in StepLoad load, in ScheduledChunk chunk, bool decodes) =>
        decodes ? load.PlusDecode(chunk.End) : load.PlusPrefill(chunk.Start, chunk.Count);
}
