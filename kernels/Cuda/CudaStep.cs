using System.Runtime.InteropServices;
using Native.Kernels.Gpu;
using Native.Kernels.Sampling;

namespace Native.Kernels.Cuda;

/// <summary>As <c>Step</c> lies in <c>native.cuh</c>: where on the device what a step's kernels read is.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct StepHeader
{
    /// <summary>Tables of rotations that a model may have.</summary>
    public const int MostRopes = 4;

    public ulong Ids, Places, Positions, Slots, Sequences, Tables, TableStarts, SampledRows, SampledPlaces, Counters,
        Sampling, History, Biases, Masks;

    public fixed ulong Rotations[MostRopes];
    public ulong Last, Results;
    public uint Tokens, SampleRows;
}

/// <summary>One of the steps that may be in flight: its input in pinned memory, which goes up by one copy, and its
/// results in pinned memory, which may be read once <see cref="Done"/> was waited for.</summary>
/// <remarks>The device has one place for all steps' input: the stream copies a step's there when the one before has
/// run.</remarks>
/// <param name="device">The device.</param>
/// <param name="memory">Where the input goes on the device.</param>
internal sealed unsafe class CudaStep(CudaDevice device, CudaBuffer memory) : IDisposable
{
    private readonly CudaPinned _input = new(device);
    private long _used;

    /// <summary>The step has run, and its results are here.</summary>
    public CudaEvent Done { get; } = new(device);

    /// <summary>Sampled tokens, then alternatives.</summary>
    public CudaPinned Results { get; } = new(device);

    /// <summary>Hidden states.</summary>
    public CudaPinned Hidden { get; } = new(device);

    /// <summary>Rows, T.</summary>
    public int Tokens { get; private set; }

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

    /// <summary>Where the <see cref="StepHeader"/> is on the device.</summary>
    public ulong Header => memory.Address;

    /// <summary>Where the rows whose hidden state is wanted are.</summary>
    public ulong HiddenRowsAt { get; private set; }

    /// <summary>Where the block copies are.</summary>
    public ulong Copies { get; private set; }

    /// <summary>Makes room for a step. True where the device's memory is another than before.</summary>
    public bool Reserve(in Batch batch, List<RotaryTable> ropes)
    {
        const int sections = 16, padding = 16;
        long tokens = batch.TokenIds.Length, rows = batch.SampleRows.Length;
        long ints = 4 * tokens + batch.Places.Length + batch.BlockTables.Length
            + batch.BlockTableStarts.Length + 3 * rows + batch.HiddenRows.Length
            + batch.History.Length + batch.Masks.Length + 2L * batch.Copies.Length;
        long bytes = sizeof(StepHeader) + 4 * ints + rows * sizeof(RowSampling) + 8L * batch.Biases.Length;
        foreach (RotaryTable rope in ropes) bytes += 8L * rope.Pairs * tokens;
        bytes += (sections + ropes.Count) * padding;
        _input.Reserve(bytes);
        return memory.Reserve(bytes);
    }

    /// <summary>Lays a step out, for which room was made, and queues its copy.</summary>
    /// <param name="batch">The step.</param>
    /// <param name="ropes">All tables.</param>
    /// <param name="counts">What is counted of histories; places were added.</param>
    /// <param name="last">Where the tokens are that places sampled last.</param>
    /// <param name="results">Where the results go on the device.</param>
    public void Load(in Batch batch, List<RotaryTable> ropes, TokenCounts counts, ulong last, ulong results)
    {
        (Tokens, SampleRows, HiddenRows) = (batch.TokenIds.Length, batch.SampleRows.Length, batch.HiddenRows.Length);
        (CopyCount, Alternatives, MostPositions) = (batch.Copies.Length, batch.AlternativeCount, 0);
        _used = 0;
        Room(1, out Span<StepHeader> header);
        ref StepHeader h = ref header[0];
        h = new StepHeader { Last = last, Results = results };
        (h.Tokens, h.SampleRows) = ((uint)Tokens, (uint)SampleRows);
        h.Ids = Put(batch.TokenIds, out _);
        Ids = (int.MaxValue, Batch.LastSampled);
        foreach (int id in batch.TokenIds)
            if (id != Batch.LastSampled) Ids = (Math.Min(Ids.Least, id), Math.Max(Ids.Greatest, id));
        h.Places = Put(batch.Places, out _);
        h.Positions = Put(batch.Positions, out _);
        h.Slots = Put(batch.SlotMapping, out _);
        h.Sequences = Room(Tokens, out Span<int> sequences);
        for (int s = 0; s < batch.ContextLengths.Length; s++)
        {
            sequences[batch.QueryStarts[s]..batch.QueryStarts[s + 1]].Fill(s);
            MostPositions = Math.Max(MostPositions, batch.ContextLengths[s]);
        }
        h.Tables = Put(batch.BlockTables, out _);
        h.TableStarts = Put(batch.BlockTableStarts, out _);
        LoadSampling(batch, counts, sequences, ref h);
        HiddenRowsAt = Put(batch.HiddenRows, out _);
        Copies = Put(batch.Copies, out _);
        for (int rope = 0; rope < ropes.Count; rope++)
        {
            int pairs = ropes[rope].Pairs;
            h.Rotations[rope] = Room(2 * pairs * Tokens, out Span<float> values);
            for (int t = 0; t < Tokens; t++)
                ropes[rope].Compute(batch.Positions[t], values.Slice(2 * pairs * t, 2 * pairs));
        }
        device.CopyToDevice(memory.Address, _input.Address, _used);
    }

    /// <summary>Rows that sample: of a history only what its place has not counted yet goes up.</summary>
    private void LoadSampling(in Batch batch, TokenCounts counts, ReadOnlySpan<int> sequences, ref StepHeader h)
    {
        h.SampledRows = Put(batch.SampleRows, out _);
        h.SampledPlaces = Room(SampleRows, out Span<int> places);
        h.Counters = Room(SampleRows, out Span<int> counters);
        h.Sampling = Put(batch.Sampling, out Span<RowSampling> sampling);
        h.Biases = Put(batch.Biases, out _);
        h.Masks = Put(batch.Masks, out _);
        int fresh = 0;
        long start = _used;
        h.History = Room(batch.History.Length, out Span<int> history);
        for (int i = 0; i < SampleRows; i++)
        {
            (int row, int sequence) = (batch.SampleRows[i], sequences[batch.SampleRows[i]]);
            ref RowSampling own = ref sampling[i];
            bool isLast = row == batch.QueryStarts[sequence + 1] - 1 && !own.Scores;
            places[i] = isLast && !batch.Places.IsEmpty ? batch.Places[sequence] : -1;
            counters[i] = 0;
            if (!TokenCounts.Penalizes(own)) continue;
            ReadOnlySpan<int> all = batch.History.Slice(own.HistoryStart, own.HistoryLength);
            counters[i] = counts.Extend(TokenCounts.PlaceOf(batch, i, sequence), all, own.HistoryPrompt, out int from);
            all[from..].CopyTo(history[fresh..]);
            own.HistoryStart = fresh;
            (own.HistoryPrompt, own.HistoryLength) = (Math.Max(0, own.HistoryPrompt - from), all.Length - from);
            fresh += all.Length - from;
        }
        _used = start + (4L * fresh + 15) / 16 * 16;
        new Span<byte>((byte*)_input.Address + start + 4L * fresh, (int)(_used - start - 4L * fresh)).Clear();
    }

    public void Dispose()
    {
        _input.Dispose();
        Results.Dispose();
        Hidden.Dispose();
        Done.Dispose();
    }

    private ulong Put<T>(ReadOnlySpan<T> values, out Span<T> there) where T : unmanaged
    {
        ulong address = Room(values.Length, out there);
        values.CopyTo(there);
        return address;
    }

    private ulong Room<T>(int count, out Span<T> there) where T : unmanaged
    {
        there = new Span<T>((byte*)_input.Address + _used, count);
        ulong address = memory.Address + (ulong)_used;
        long bytes = (long)count * sizeof(T), end = (_used + bytes + 15) / 16 * 16;
        new Span<byte>((byte*)_input.Address + _used + bytes, (int)(end - _used - bytes)).Clear();
        _used = end;
        return address;
    }
}
