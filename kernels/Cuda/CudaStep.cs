using Native.Kernels.Sampling;

namespace Native.Kernels.Cuda;

/// <summary>A table of rotary frequencies: radians a position for each pair, and what sine and cosine are multiplied
/// with.</summary>
internal sealed class CudaRope(ReadOnlySpan<double> inverseFrequencies, float magnitude)
{
    private readonly double[] _inverseFrequencies = inverseFrequencies.ToArray();

    /// <summary>Pairs of elements that it rotates.</summary>
    public int Pairs => _inverseFrequencies.Length;

    /// <summary>Cosines and sines of a position, shape [2, pairs]. Angles are double, as the CPU's.</summary>
    public void Compute(int position, Span<float> values)
    {
        for (int i = 0; i < Pairs; i++)
        {
            (double sine, double cosine) = Math.SinCos(position * _inverseFrequencies[i]);
            values[i] = (float)(cosine * magnitude);
            values[Pairs + i] = (float)(sine * magnitude);
        }
    }
}

/// <summary>What a step's kernels read: everything in one pinned buffer that goes up by one copy.</summary>
internal sealed unsafe class CudaStep(CudaDevice device) : IDisposable
{
    private nint _pinned;
    private ulong _memory;
    private long _capacity, _used;

    /// <summary>Rows, T.</summary>
    public int Tokens { get; private set; }

    /// <summary>Rows that meet the head, R.</summary>
    public int SampleRows { get; private set; }

    /// <summary>Rows whose hidden state is wanted, E.</summary>
    public int HiddenRows { get; private set; }

    /// <summary>Block copies.</summary>
    public int CopyCount { get; private set; }

    /// <summary>Entries of a row of the block tables.</summary>
    public int Stride { get; private set; }

    /// <summary>Positions of the longest context.</summary>
    public int MostPositions { get; private set; }

    /// <summary>The greatest token id, and the least.</summary>
    public (int Least, int Greatest) Ids { get; private set; }

    // Where they are on the device.
    public ulong TokenIds { get; private set; }

    public ulong Positions { get; private set; }

    public ulong Slots { get; private set; }

    public ulong Sequences { get; private set; }

    public ulong Tables { get; private set; }

    public ulong SampledRows { get; private set; }

    public ulong Hidden { get; private set; }

    public ulong Sampling { get; private set; }

    public ulong History { get; private set; }

    public ulong Biases { get; private set; }

    public ulong Masks { get; private set; }

    public ulong Copies { get; private set; }

    /// <summary>Cosines and sines by table, shape [T, 2, pairs].</summary>
    public ulong[] Rotations { get; private set; } = [];

    /// <summary>Lays a step out and queues its copy. Nothing of an earlier one may be in flight.</summary>
    /// <param name="batch">The step.</param>
    /// <param name="ropes">All tables.</param>
    /// <param name="lastSampled">By place, for <see cref="Batch.LastSampled"/>.</param>
    public void Load(in Batch batch, List<CudaRope> ropes, ReadOnlySpan<int> lastSampled)
    {
        Reserve(batch, ropes);
        (Tokens, SampleRows, HiddenRows) = (batch.TokenIds.Length, batch.SampleRows.Length, batch.HiddenRows.Length);
        (CopyCount, Stride, MostPositions) = (batch.Copies.Length, batch.BlockTableStride, 0);
        TokenIds = Put(batch.TokenIds, out Span<int> ids);
        for (int s = 0; s < batch.DecodeCount; s++)
        {
            if (ids[s] != Batch.LastSampled) continue;
            int place = batch.Places[s];
            ids[s] = place < lastSampled.Length ? Math.Max(lastSampled[place], 0) : 0;
        }
        Ids = (int.MaxValue, -1);
        foreach (int id in ids) Ids = (Math.Min(Ids.Least, id), Math.Max(Ids.Greatest, id));
        Positions = Put(batch.Positions, out _);
        Slots = Put(batch.SlotMapping, out _);
        Sequences = Room(Tokens, out Span<int> sequences);
        for (int s = 0; s < batch.ContextLengths.Length; s++)
        {
            sequences[batch.QueryStarts[s]..batch.QueryStarts[s + 1]].Fill(s);
            MostPositions = Math.Max(MostPositions, batch.ContextLengths[s]);
        }
        Tables = Put(batch.BlockTables, out _);
        SampledRows = Put(batch.SampleRows, out _);
        Hidden = Put(batch.HiddenRows, out _);
        Sampling = Put(batch.Sampling, out _);
        History = Put(batch.History, out _);
        Biases = Put(batch.Biases, out _);
        Masks = Put(batch.Masks, out _);
        Copies = Put(batch.Copies, out _);
        if (Rotations.Length != ropes.Count) Rotations = new ulong[ropes.Count];
        for (int rope = 0; rope < ropes.Count; rope++)
        {
            int pairs = ropes[rope].Pairs;
            Rotations[rope] = Room(2 * pairs * Tokens, out Span<float> values);
            for (int t = 0; t < Tokens; t++)
                ropes[rope].Compute(batch.Positions[t], values.Slice(2 * pairs * t, 2 * pairs));
        }
        device.CopyToDevice(_memory, _pinned, _used);
    }

    public void Dispose()
    {
        if (_pinned == 0) return;
        device.FreePinned(_pinned);
        device.Free(_memory);
        _pinned = 0;
    }

    private void Reserve(in Batch batch, List<CudaRope> ropes)
    {
        const int sections = 12, padding = 16;
        long ints = 4L * batch.TokenIds.Length + batch.BlockTables.Length + batch.SampleRows.Length
            + batch.HiddenRows.Length + batch.History.Length + batch.Masks.Length + 2L * batch.Copies.Length;
        long bytes = 4 * ints + (long)batch.Sampling.Length * sizeof(RowSampling) + 8L * batch.Biases.Length;
        foreach (CudaRope rope in ropes) bytes += 8L * rope.Pairs * batch.TokenIds.Length;
        bytes += (sections + ropes.Count) * padding;
        _used = 0;
        if (bytes <= _capacity) return;
        Dispose();
        _capacity = bytes + bytes / 2;
        _pinned = device.AllocatePinned(_capacity);
        _memory = device.Allocate(_capacity, "a step's input");
    }

    private ulong Put<T>(ReadOnlySpan<T> values, out Span<T> there) where T : unmanaged
    {
        ulong address = Room(values.Length, out there);
        values.CopyTo(there);
        return address;
    }

    private ulong Room<T>(int count, out Span<T> there) where T : unmanaged
    {
        there = new Span<T>((byte*)_pinned + _used, count);
        ulong address = _memory + (ulong)_used;
        long bytes = (long)count * sizeof(T), end = (_used + bytes + 15) / 16 * 16;
        new Span<byte>((byte*)_pinned + _used + bytes, (int)(end - _used - bytes)).Clear();
        _used = end;
        return address;
    }
}
