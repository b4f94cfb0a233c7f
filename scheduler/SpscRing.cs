using System.Numerics;

namespace Native.Scheduling;

/// <summary>Bounded ring from one producer to one consumer, without locks (Lamport 1977).</summary>
/// <remarks>Each side writes only its own counter, with release after touching the cell, and reads the other's with
/// acquire before: a cell is seen full only after its item was written, and free only after it was read. Both
/// operations are wait-free: neither loops, and neither is held up by where the other stopped.</remarks>
internal sealed class SpscRing<T>(int capacity) where T : struct
{
    private readonly T[] _items = new T[BitOperations.RoundUpToPowerOf2((uint)Math.Max(capacity, 2))];
    private PaddedLong _written;
    private PaddedLong _read;

    /// <summary>The producer's thread. False where the ring is full.</summary>
    public bool TryWrite(in T item)
    {
        long written = _written.Value;
        if (written - Volatile.Read(ref _read.Value) == _items.Length) return false;
        _items[written & (_items.Length - 1)] = item;
        Volatile.Write(ref _written.Value, written + 1);
        return true;
    }

    /// <summary>The consumer's thread. False where the ring is empty.</summary>
    public bool TryRead(out T item)
    {
        long read = _read.Value;
        if (Volatile.Read(ref _written.Value) == read)
        {
            item = default;
            return false;
        }
        item = _items[read & (_items.Length - 1)];
        Volatile.Write(ref _read.Value, read + 1);
        return true;
    }
}
