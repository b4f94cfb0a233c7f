using System.Diagnostics.CodeAnalysis;
using System.Numerics;
using System.Runtime.InteropServices;

namespace Native.Scheduling;

/// <summary>Bounded ring from many producers to one consumer, without locks (Vyukov's bounded queue, with one
/// consumer). It is not lock-free in the strict sense, see the remarks.</summary>
/// <remarks>
/// Each cell carries a turn number. A cell may be written when its turn equals the producer's ticket, and read when it
/// equals ticket + 1; the reader sets it a whole ring further. The item is written before the turn (release) and read
/// after it (acquire), so the turn number alone hands the cell over; tickets are drawn by compare-and-swap, so two
/// producers never meet in a cell.
/// <para>Progress. <see cref="TryEnqueue"/> is lock-free: a compare-and-swap fails only because another producer's
/// succeeded, so of those who try one gets on. <see cref="TryDequeue"/> and <see cref="IsEmpty"/> are wait-free: a
/// fixed number of steps, and they return. The ring as a whole is not lock-free: items come out in the order of the
/// tickets, so a producer that the system suspends between its ticket and its write hides every item behind it until
/// it goes on. Here that means: for that time the engine computes who runs and who waits, takes cancellations and
/// deadlines, and sees no new request; producers go on until the ring is full, and are then refused as by a full queue.
/// Between ticket and write lie two stores, so it takes a preemption between them, some milliseconds on a full machine.
/// Who is held up is never made to wait: it returns. An engine that falls asleep meanwhile is woken by that
/// producer.</para>
/// </remarks>
internal sealed class Inbox<T> where T : class
{
    private readonly Cell[] _cells;
    private readonly int _mask;
    private PaddedLong _tail; // producers'
    private PaddedLong _head; // the consumer's

    public Inbox(int capacity)
    {
        _cells = new Cell[BitOperations.RoundUpToPowerOf2((uint)Math.Max(capacity, 2))];
        _mask = _cells.Length - 1;
        for (int i = 0; i < _cells.Length; i++) _cells[i].Turn = i;
    }

    /// <summary>Any thread. False where the ring is full. Lock-free.</summary>
    public bool TryEnqueue(T item)
    {
        long ticket = Volatile.Read(ref _tail.Value);
        while (true)
        {
            ref Cell cell = ref _cells[ticket & _mask];
            long ahead = Volatile.Read(ref cell.Turn) - ticket;
            if (ahead < 0) return false; // still holds an item of the round before
            if (ahead == 0)
            {
                long seen = Interlocked.CompareExchange(ref _tail.Value, ticket + 1, ticket);
                if (seen == ticket)
                {
                    cell.Item = item;
                    Volatile.Write(ref cell.Turn, ticket + 1);
                    return true;
                }
                ticket = seen;
            }
            else ticket = Volatile.Read(ref _tail.Value);
        }
    }

    /// <summary>The consumer's thread. False where nothing is ready. Wait-free.</summary>
    public bool TryDequeue([NotNullWhen(true)] out T? item)
    {
        ref Cell cell = ref _cells[_head.Value & _mask];
        if (Volatile.Read(ref cell.Turn) != _head.Value + 1)
        {
            item = null;
            return false;
        }
        item = cell.Item!;
        cell.Item = null;
        Volatile.Write(ref cell.Turn, _head.Value + _cells.Length);
        _head.Value++;
        return true;
    }

    /// <summary>The consumer's thread. Wait-free.</summary>
    public bool IsEmpty => Volatile.Read(ref _cells[_head.Value & _mask].Turn) != _head.Value + 1;

    private struct Cell
    {
        public long Turn;
        public T? Item;
    }
}

/// <summary>A counter alone on its cache lines, so that two threads' counters don't slow each other.</summary>
[StructLayout(LayoutKind.Explicit, Size = 256)]
internal struct PaddedLong
{
    [FieldOffset(128)] public long Value;
}
