using System.Diagnostics;
using System.Numerics;

namespace Native.Scheduling;

/// <summary>What happened to a block of the prefix cache.</summary>
public enum CacheEventKind : byte
{
    /// <summary>Its keys and values are there.</summary>
    Stored,

    /// <summary>They are there no more.</summary>
    Removed,

    /// <summary>Nothing is there any more.</summary>
    Cleared,
}

/// <summary>One change of the prefix cache, or one block of its content.</summary>
/// <param name="Kind">What happened.</param>
/// <param name="Hash">The hash of the tokens up to the block's end.</param>
/// <param name="Parent">The hash of those before the block; null where it is the first.</param>
/// <param name="Tokens">The tokens of a stored block.</param>
public readonly record struct CacheEvent(CacheEventKind Kind, ulong Hash, ulong? Parent, int[] Tokens);

/// <summary>The changes of the prefix cache in a bounded ring, and its content, for other threads. The engine's thread
/// writes and never waits; any number of readers each keep their own place.</summary>
/// <remarks>
/// Events have numbers that rise by one. A place of the ring holds the number of its event, -1 while it changes: a
/// reader copies an event and then looks whether the number is still the same. So it is with the content, which has a
/// version for each block. A reader that is too late reads the content after it has noted the next event's number;
/// what that reading mixes of earlier and later states is put right by the events from that number on, because each
/// says of a block whether it is there, and none depends on what was there before. Blocks of requests with a salt are
/// left out: their tokens are nobody else's to know.
/// </remarks>
public sealed class CacheEvents
{
    /// <summary>Events kept at least: seconds of them on a busy server with a small cache.</summary>
    private const int LeastKept = 4096;

    private readonly int _blockSize;
    private readonly long _mask;

    private readonly long[] _numbers; // by place in the ring
    private readonly CacheEventKind[] _kinds;
    private readonly ulong[] _hashes, _parents;
    private readonly bool[] _hasParents;
    private readonly int[] _tokens; // [place, token]

    private readonly long[] _versions; // by block; odd while it changes
    private readonly bool[] _present, _blockHasParents;
    private readonly ulong[] _blockHashes, _blockParents;
    private readonly int[] _blockTokens; // [block, token]

    private PaddedLong _next;
    private int _isOver;

    /// <param name="blockCount">Blocks there are.</param>
    /// <param name="blockSize">Tokens of a block.</param>
    /// <param name="first">The first event's number.</param>
    /// <param name="least">Events kept at least.</param>
    internal CacheEvents(int blockCount, int blockSize, long first, int least = LeastKept)
    {
        int capacity = (int)BitOperations.RoundUpToPowerOf2((uint)Math.Max(least, blockCount));
        _blockSize = blockSize;
        _mask = capacity - 1;
        _numbers = new long[capacity];
        Array.Fill(_numbers, -1);
        _kinds = new CacheEventKind[capacity];
        _hashes = new ulong[capacity];
        _parents = new ulong[capacity];
        _hasParents = new bool[capacity];
        _tokens = new int[(long)capacity * blockSize];
        _versions = new long[blockCount];
        _present = new bool[blockCount];
        _blockHasParents = new bool[blockCount];
        _blockHashes = new ulong[blockCount];
        _blockParents = new ulong[blockCount];
        _blockTokens = new int[(long)blockCount * blockSize];
        First = first;
        _next.Value = first;
    }

    /// <summary>The first event's number.</summary>
    public long First { get; }

    /// <summary>The number that the next event will have. Any thread.</summary>
    public long Next => Volatile.Read(ref _next.Value);

    /// <summary>Whether no event will come any more: the engine is broken. Any thread.</summary>
    public bool IsOver => Volatile.Read(ref _isOver) != 0;

    /// <summary>Blocks there are, for <see cref="TryReadBlock"/>.</summary>
    public int BlockCount => _versions.Length;

    /// <summary>Tokens of a block.</summary>
    public int BlockSize => _blockSize;

    /// <summary>Events that a reader may be behind.</summary>
    public int Capacity => _numbers.Length;

    /// <summary>Reads an event that was written, by its number. Any thread.</summary>
    /// <returns>False where the ring has forgotten it.</returns>
    public bool TryRead(long number, out CacheEvent read)
    {
        Debug.Assert(number >= First && number < Next, "only what was written is read");
        int place = (int)(number & _mask);
        read = default;
        if (Volatile.Read(ref _numbers[place]) != number) return false;
        CacheEventKind kind = _kinds[place];
        int[] tokens = kind != CacheEventKind.Stored ? []
            : _tokens.AsSpan(place * _blockSize, _blockSize).ToArray();
        read = new CacheEvent(kind, _hashes[place], _hasParents[place] ? _parents[place] : null, tokens);
        Volatile.ReadBarrier(); // the copy is complete before the number is looked at again
        return Volatile.Read(ref _numbers[place]) == number;
    }

    /// <summary>Reads what a block holds now. Any thread.</summary>
    /// <returns>False where it holds nothing that is told.</returns>
    public bool TryReadBlock(int block, out CacheEvent read)
    {
        SpinWait spin = default;
        while (true)
        {
            long version = Volatile.Read(ref _versions[block]);
            bool present = _present[block];
            read = !present ? default : new CacheEvent(
                CacheEventKind.Stored, _blockHashes[block], _blockHasParents[block] ? _blockParents[block] : null,
                _blockTokens.AsSpan(block * _blockSize, _blockSize).ToArray());
            Volatile.ReadBarrier();
            if ((version & 1) == 0 && Volatile.Read(ref _versions[block]) == version) return present;
            spin.SpinOnce();
        }
    }

    /// <summary>A block was filled. The engine thread's.</summary>
    internal void Stored(int block, ulong hash, ulong? parent, ReadOnlySpan<int> tokens)
    {
        int place = Open();
        _kinds[place] = CacheEventKind.Stored;
        _hashes[place] = hash;
        _hasParents[place] = parent is not null;
        _parents[place] = parent ?? 0;
        tokens.CopyTo(_tokens.AsSpan(place * _blockSize, _blockSize));
        // The content first: whoever reads it after it has seen an event's number finds what the event tells.
        BeginBlock(block);
        _present[block] = true;
        _blockHashes[block] = hash;
        _blockHasParents[block] = parent is not null;
        _blockParents[block] = parent ?? 0;
        tokens.CopyTo(_blockTokens.AsSpan(block * _blockSize, _blockSize));
        EndBlock(block);
        Close(place);
    }

    /// <summary>A block was forgotten. The engine thread's.</summary>
    internal void Removed(int block)
    {
        if (!_present[block]) return; // it was not told
        int place = Open();
        _kinds[place] = CacheEventKind.Removed;
        _hashes[place] = _blockHashes[block];
        _hasParents[place] = false;
        BeginBlock(block);
        _present[block] = false;
        EndBlock(block);
        Close(place);
    }

    /// <summary>All blocks were forgotten. The engine thread's.</summary>
    internal void Cleared()
    {
        int place = Open();
        _kinds[place] = CacheEventKind.Cleared;
        _hashes[place] = 0;
        _hasParents[place] = false;
        for (int block = 0; block < _present.Length; block++)
        {
            if (!_present[block]) continue;
            BeginBlock(block);
            _present[block] = false;
            EndBlock(block);
        }
        Close(place);
    }

    /// <summary>No event will come any more. The engine thread's.</summary>
    internal void End() => Volatile.Write(ref _isOver, 1);

    private int Open()
    {
        int place = (int)(_next.Value & _mask);
        Volatile.Write(ref _numbers[place], -1);
        Volatile.WriteBarrier(); // nobody takes the new event for the old one
        return place;
    }

    private void Close(int place)
    {
        Volatile.Write(ref _numbers[place], _next.Value);
        Volatile.Write(ref _next.Value, _next.Value + 1);
    }

    private void BeginBlock(int block)
    {
        Volatile.Write(ref _versions[block], _versions[block] + 1);
        Volatile.WriteBarrier();
    }

    private void EndBlock(int block) => Volatile.Write(ref _versions[block], _versions[block] + 1);
}
