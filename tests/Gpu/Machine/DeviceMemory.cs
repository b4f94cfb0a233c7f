using System.Runtime.InteropServices;

namespace Native.Tests.Gpu.Machine;

/// <summary>The global memory of the machine. Addresses are the host's own; each allocation has a gap behind it, so
/// that the byte after its end belongs to none.</summary>
internal sealed unsafe class DeviceMemory : IDisposable
{
    /// <summary>So much is nobody's behind each allocation: what goes past its end by less does not meet the next.
    /// </summary>
    private const int GapBytes = 64 * 1024;

    private readonly SortedList<long, MemoryRange> _ranges = [];
    private MemoryRange? _last;

    /// <summary>Bytes that may be allocated in all.</summary>
    public long Capacity { get; init; } = 8L << 30;

    public long Used { get; private set; }

    /// <summary>When the last launch on it ended, as stamps count; launches on other memory go on beside it.</summary>
    public uint Time { get; set; }

    /// <summary>What is allocated now, by name.</summary>
    public IEnumerable<MemoryRange> Ranges => _ranges.Values;

    /// <summary>A new range, poisoned and uninitialised.</summary>
    /// <exception cref="OutOfMemoryException">Beyond <see cref="Capacity"/>.</exception>
    public MemoryRange Allocate(string name, long bytes)
    {
        if (bytes > Capacity - Used) throw new OutOfMemoryException($"{bytes} bytes of {Capacity - Used} free ones");
        MemoryRange range = new(name, bytes, stamped: true, gap: GapBytes);
        _ranges.Add((long)range.Data, range);
        Used += bytes;
        return range;
    }

    /// <summary>A new range that holds some values.</summary>
    public MemoryRange Allocate<T>(string name, ReadOnlySpan<T> values) where T : unmanaged
    {
        MemoryRange range = Allocate(name, (long)values.Length * sizeof(T));
        MemoryMarshal.AsBytes(values).CopyTo(new Span<byte>(range.Data, (int)range.Bytes));
        range.Fill(0, range.Bytes);
        return range;
    }

    public void Free(MemoryRange range)
    {
        if (!_ranges.Remove((long)range.Data)) throw new ArgumentException($"{range.Name} is not allocated");
        if (_last == range) _last = null;
        Used -= range.Bytes;
        range.Dispose();
    }

    /// <summary>The range that contains an address, or the last one that begins before it; null if none does.</summary>
    public MemoryRange? Find(long address)
    {
        if (_last is { } last && address >= (long)last.Data && address < (long)last.Data + last.Bytes) return last;
        IList<long> starts = _ranges.Keys;
        int low = 0, high = starts.Count;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (starts[middle] <= address) low = middle + 1;
            else high = middle;
        }
        return low == 0 ? null : _last = _ranges.Values[low - 1];
    }

    public void Dispose()
    {
        foreach (MemoryRange range in _ranges.Values) range.Dispose();
        _ranges.Clear();
    }
}
