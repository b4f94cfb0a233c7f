using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Native.Kernels.Gpu;
using Native.Kernels.Sampling;

namespace Native.Kernels.Ilgpu;

/// <summary>A step's input, which goes up by one copy, and its results, which come down by one or two.</summary>
internal sealed unsafe class IlgpuStep(IlgpuDevice device) : IDisposable
{
    private readonly IlgpuTransfer _input = new(device, "a step's input");
    private int _used;

    /// <summary>Sampled tokens, then alternatives: pairs of a token and a log-probability.</summary>
    public IlgpuTransfer Results { get; } = new(device, "sampled tokens");

    /// <summary>Hidden states.</summary>
    public IlgpuTransfer Hidden { get; } = new(device, "hidden states");

    /// <summary>As kernels see it.</summary>
    public StepInput Input { get; private set; }

    /// <summary>Where each table's rotations begin in the input.</summary>
    public int[] Rotations { get; private set; } = [];

    /// <summary>Rows that meet the head, R.</summary>
    public int SampleRows { get; private set; }

    /// <summary>Rows whose hidden state is wanted, E.</summary>
    public int HiddenRows { get; private set; }

    /// <summary>Entries of the list of alternatives.</summary>
    public int Alternatives { get; private set; }

    /// <summary>Block copies.</summary>
    public int CopyCount { get; private set; }

    /// <summary>Positions of the longest context.</summary>
    public int MostPositions { get; private set; }

    /// <summary>The least and the greatest token id of those that are told.</summary>
    public (int Least, int Greatest) Ids { get; private set; }

    /// <summary>Whether a row has a temperature.</summary>
    public bool Draws { get; private set; }

    /// <summary>Lays a step out and queues its copy.</summary>
    /// <param name="batch">The step.</param>
    /// <param name="ropes">All tables.</param>
    /// <param name="counts">What is counted of histories; places were added.</param>
    public void Load(in Batch batch, List<RotaryTable> ropes, TokenCounts counts)
    {
        int tokens = batch.TokenIds.Length;
        (SampleRows, HiddenRows) = (batch.SampleRows.Length, batch.HiddenRows.Length);
        (CopyCount, Alternatives, MostPositions) = (batch.Copies.Length, batch.AlternativeCount, 0);
        if (Rotations.Length != ropes.Count) Rotations = new int[ropes.Count];
        Reserve(batch, ropes);
        _used = 0;
        StepInput input = new() { Words = _input.Device, Tokens = tokens, SampleRows = SampleRows };
        input.Ids = Put(batch.TokenIds);
        Ids = (int.MaxValue, Batch.LastSampled);
        foreach (int id in batch.TokenIds)
            if (id != Batch.LastSampled) Ids = (Math.Min(Ids.Least, id), Math.Max(Ids.Greatest, id));
        input.Places = Put(batch.Places); // rows of decodes come first, one each
        input.Positions = Put(batch.Positions);
        input.Slots = Put(batch.SlotMapping);
        input.Sequences = Room(tokens, out Span<int> sequences);
        for (int s = 0; s < batch.ContextLengths.Length; s++)
        {
            sequences[batch.QueryStarts[s]..batch.QueryStarts[s + 1]].Fill(s);
            MostPositions = Math.Max(MostPositions, batch.ContextLengths[s]);
        }
        input.Tables = Put(batch.BlockTables);
        input.TableStarts = Put(batch.BlockTableStarts);
        LoadSampling(batch, counts, sequences, ref input);
        input.HiddenRows = Put(batch.HiddenRows);
        input.Copies = Put(MemoryMarshal.Cast<BlockCopy, int>(batch.Copies));
        for (int rope = 0; rope < ropes.Count; rope++)
        {
            int pairs = ropes[rope].Pairs;
            Rotations[rope] = Room(2 * pairs * tokens, out Span<float> values);
            for (int t = 0; t < tokens; t++)
                ropes[rope].Compute(batch.Positions[t], values.Slice(2 * pairs * t, 2 * pairs));
        }
        Input = input;
        _input.Up(_used);
    }

    private void Reserve(in Batch batch, List<RotaryTable> ropes)
    {
        long tokens = batch.TokenIds.Length, rows = batch.SampleRows.Length;
        long words = 4 * tokens + batch.Places.Length + batch.BlockTables.Length + batch.BlockTableStarts.Length
            + rows * (3 + SamplingWord.Count) + batch.History.Length + 2L * batch.Biases.Length + batch.Masks.Length
            + batch.HiddenRows.Length + 2L * batch.Copies.Length;
        foreach (RotaryTable rope in ropes) words += 2L * rope.Pairs * tokens;
        if (words > int.MaxValue) throw new ArgumentException($"a step's input has {words} words", nameof(batch));
        _input.Reserve(words);
        Results.Reserve(2L * (SampleRows + Alternatives));
    }

    /// <summary>Rows that sample: of a history only what its place has not counted yet goes up.</summary>
    private void LoadSampling(in Batch batch, TokenCounts counts, ReadOnlySpan<int> sequences, ref StepInput input)
    {
        input.SampledRows = Put(batch.SampleRows);
        input.SampledPlaces = Room(SampleRows, out Span<int> places);
        input.Counters = Room(SampleRows, out Span<int> counters);
        input.Sampling = Room(SampleRows * SamplingWord.Count, out Span<int> sampling);
        input.Biases = Put(MemoryMarshal.Cast<TokenBias, int>(batch.Biases));
        input.Masks = Put(MemoryMarshal.Cast<uint, int>(batch.Masks));
        input.History = Room(batch.History.Length, out Span<int> history);
        int fresh = 0;
        Draws = false;
        for (int i = 0; i < SampleRows; i++)
        {
            (int row, int sequence) = (batch.SampleRows[i], sequences[batch.SampleRows[i]]);
            RowSampling own = batch.Sampling[i];
            bool isLast = row == batch.QueryStarts[sequence + 1] - 1 && !own.Scores;
            places[i] = isLast && !batch.Places.IsEmpty ? batch.Places[sequence] : -1;
            counters[i] = 0;
            Draws |= own.Temperature > 0 && !own.Scores;
            if (TokenCounts.Penalizes(own))
            {
                ReadOnlySpan<int> all = batch.History.Slice(own.HistoryStart, own.HistoryLength);
                int place = TokenCounts.PlaceOf(batch, i, sequence);
                counters[i] = counts.Extend(place, all, own.HistoryPrompt, out int from);
                all[from..].CopyTo(history[fresh..]);
                own.HistoryStart = fresh;
                (own.HistoryPrompt, own.HistoryLength) = (Math.Max(0, own.HistoryPrompt - from), all.Length - from);
                fresh += own.HistoryLength;
            }
            Write(own, sampling.Slice(i * SamplingWord.Count, SamplingWord.Count));
        }
        _used -= batch.History.Length - fresh;
    }

    /// <summary>Parameters as <see cref="SamplingWord"/> has them.</summary>
    internal static void Write(in RowSampling row, Span<int> words)
    {
        static int Bits(float value) => BitConverter.SingleToInt32Bits(value);
        words[SamplingWord.Temperature] = Bits(row.Temperature);
        words[SamplingWord.TopK] = row.TopK;
        words[SamplingWord.TopP] = Bits(row.TopP);
        words[SamplingWord.MinP] = Bits(row.MinP);
        words[SamplingWord.Repetition] = Bits(row.RepetitionPenalty);
        words[SamplingWord.Presence] = Bits(row.PresencePenalty);
        words[SamplingWord.Frequency] = Bits(row.FrequencyPenalty);
        (words[SamplingWord.SeedLow], words[SamplingWord.SeedHigh]) = ((int)row.Seed, (int)(row.Seed >> 32));
        words[SamplingWord.Position] = row.Position;
        words[SamplingWord.TargetPlusOne] = row.TargetPlusOne;
        words[SamplingWord.Alternatives] = row.Alternatives;
        words[SamplingWord.AlternativesStart] = row.AlternativesStart;
        words[SamplingWord.HistoryStart] = row.HistoryStart;
        words[SamplingWord.HistoryPrompt] = row.HistoryPrompt;
        words[SamplingWord.HistoryLength] = row.HistoryLength;
        words[SamplingWord.BiasStart] = row.BiasStart;
        words[SamplingWord.BiasLength] = row.BiasLength;
        words[SamplingWord.Masked] = row.Masked ? 1 : 0;
        words[SamplingWord.MaskStart] = row.MaskStart;
    }

    private int Put(ReadOnlySpan<int> values)
    {
        int at = Room(values.Length, out Span<int> there);
        values.CopyTo(there);
        return at;
    }

    private int Room<T>(int count, out Span<T> there) where T : unmanaged
    {
        int at = _used;
        there = new Span<T>(_input.Host + at, count);
        _used += count * (Unsafe.SizeOf<T>() / sizeof(int));
        return at;
    }

    public void Dispose()
    {
        _input.Dispose();
        Results.Dispose();
        Hidden.Dispose();
    }
}
