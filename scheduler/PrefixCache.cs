using System.Diagnostics;
using System.IO.Hashing;
using System.Numerics;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;

namespace Native.Scheduling;

/// <summary>Which blocks hold the keys and values of which tokens, so that a prompt that begins alike takes them
/// instead of computing them again. The engine thread's alone, but for the static functions.</summary>
/// <remarks>
/// A tree: a block's parent is the block before it, and one without a parent belongs to a root, which is who may share
/// (<see cref="RootOf"/>). A full block is found by the hash of its chain (parent's hash and its own tokens) and then
/// compared token by token with a parent that was found the same way, so no collision gives wrong tokens. A block that
/// is not full is found among its parent's children; it is only ever copied. A parent is in the tree as long as a child
/// is: whoever reads a child reads its parent, and of blocks nobody reads, <see cref="BlockPool"/> takes the child
/// first. Hash chains of blocks as vLLM's automatic prefix caching; comparing instead of trusting the hash is ours.
/// </remarks>
internal sealed class PrefixCache
{
    /// <summary>Children looked at for a common beginning; the newest come first.</summary>
    private const int MostChildren = 16;

    private const int None = -1;

    private readonly int _blockSize;
    private readonly int[] _tokens; // [block, place]
    private readonly int[] _counts; // tokens of a block; 0: not in the tree
    private readonly int[] _parents; // a block, or None
    private readonly UInt128[] _roots;
    private readonly ulong[] _chains;
    private readonly int[] _firstChildren; // by block, then by root's bucket
    private readonly int[] _nextSiblings, _previousSiblings;
    private readonly int[] _buckets, _nextInBucket; // full blocks by chain
    private readonly ulong[] _known; // a chain of each bucket, for other threads: hints, not truths
    private readonly CacheEvents? _events;

    /// <param name="blockCount">Blocks there are.</param>
    /// <param name="blockSize">Tokens of a block.</param>
    /// <param name="events">Who is told of full blocks under the root of no salt; null for nobody.</param>
    public PrefixCache(int blockCount, int blockSize, CacheEvents? events = null)
    {
        _blockSize = blockSize;
        _events = events;
        _tokens = new int[(long)blockCount * blockSize];
        _counts = new int[blockCount];
        _parents = new int[blockCount];
        _roots = new UInt128[blockCount];
        _chains = new ulong[blockCount];
        int buckets = (int)BitOperations.RoundUpToPowerOf2((uint)Math.Max(16, blockCount));
        _firstChildren = new int[blockCount + buckets];
        _nextSiblings = new int[blockCount];
        _previousSiblings = new int[blockCount];
        _buckets = new int[buckets];
        _nextInBucket = new int[blockCount];
        _known = new ulong[2 * buckets];
        Clear();
    }

    /// <summary>Blocks in the tree.</summary>
    public int Count { get; private set; }

    /// <summary>Who may share: requests with the same root. Any thread.</summary>
    /// <param name="salt">What the caller gave; null or empty for the root of all of its tenant that gave none.</param>
    /// <param name="tenant">Who the caller is; empty where nobody is told apart.</param>
    public static UInt128 RootOf(string? salt, string tenant)
    {
        bool salted = !string.IsNullOrEmpty(salt);
        if (!salted && tenant.Length == 0) return UInt128.Zero;
        Span<byte> digest = stackalloc byte[SHA256.HashSizeInBytes]; // nobody finds another salt with this root
        SHA256.HashData(Encoding.UTF8.GetBytes(salted ? $"salt {salt}" : $"tenant {tenant}"), digest);
        return MemoryMarshal.Read<UInt128>(digest) | UInt128.One; // never that of no salt
    }

    /// <summary>The hash of a root's chain, before its first block. Any thread.</summary>
    public static ulong ChainOf(UInt128 root) => (ulong)(root >> 64) ^ (ulong)root;

    /// <summary>The hash of a chain that goes on with these tokens. Any thread.</summary>
    public static ulong ChainOf(ulong parent, ReadOnlySpan<int> tokens) =>
        XxHash3.HashToUInt64(MemoryMarshal.AsBytes(tokens), unchecked((long)parent));

    /// <summary>The hashes of a prompt's full blocks, each of the chain up to its end. Any thread.</summary>
    public static ulong[] ChainsOf(UInt128 root, ReadOnlySpan<int> prompt, int blockSize)
    {
        ulong[] chains = new ulong[prompt.Length / blockSize];
        ulong chain = ChainOf(root);
        for (int i = 0; i < chains.Length; i++)
            chains[i] = chain = ChainOf(chain, prompt.Slice(i * blockSize, blockSize));
        return chains;
    }

    /// <summary>How many of a prompt's first full blocks are probably here. Any thread.</summary>
    public int Guess(ReadOnlySpan<ulong> chains)
    {
        int count = 0;
        while (count < chains.Length && Volatile.Read(ref Known(chains[count])) == chains[count]) count++;
        return count;
    }

    public bool Contains(int block) => _counts[block] > 0;

    /// <summary>The hash of a block's chain.</summary>
    public ulong Chain(int block) => _chains[block];

    /// <summary>The full block that follows <paramref name="parent"/> with these tokens, or -1.</summary>
    /// <param name="root">Whose it is.</param>
    /// <param name="parent">The block before, -1 for none.</param>
    /// <param name="chain">The hash of the chain up to its end.</param>
    /// <param name="tokens">Its tokens, as many as a block has.</param>
    public int Find(UInt128 root, int parent, ulong chain, ReadOnlySpan<int> tokens)
    {
        for (int block = _buckets[Bucket(chain)]; block != None; block = _nextInBucket[block])
        {
            if (_chains[block] == chain && _parents[block] == parent && (parent != None || _roots[block] == root)
                && TokensOf(block).SequenceEqual(tokens)) return block;
        }
        return None;
    }

    /// <summary>Of the newest blocks that follow <paramref name="parent"/>, the one that begins most like
    /// <paramref name="tokens"/>; -1 where none has the first token.</summary>
    /// <param name="root">Whose it is.</param>
    /// <param name="parent">The block before, -1 for none.</param>
    /// <param name="tokens">What is wanted; fewer than a block has, or as many.</param>
    /// <param name="common">Tokens both begin with.</param>
    public int FindPart(UInt128 root, int parent, ReadOnlySpan<int> tokens, out int common)
    {
        int best = None, left = MostChildren;
        common = 0;
        for (int block = _firstChildren[Children(root, parent)]; block != None && left-- > 0;
            block = _nextSiblings[block])
        {
            if (parent == None && _roots[block] != root) continue;
            int alike = TokensOf(block).CommonPrefixLength(tokens);
            if (alike <= common) continue;
            (best, common) = (block, alike);
            if (common == tokens.Length) break;
        }
        return best;
    }

    /// <summary>Puts a block into the tree. It must not be there, nor another with its tokens.</summary>
    /// <param name="block">The block.</param>
    /// <param name="root">Whose it is.</param>
    /// <param name="parent">The block before, full and in the tree; -1 for none.</param>
    /// <param name="chain">The hash of the chain up to its end; not looked at where it is not full.</param>
    /// <param name="tokens">Its tokens, at least one.</param>
    public void Add(int block, UInt128 root, int parent, ulong chain, ReadOnlySpan<int> tokens)
    {
        Debug.Assert(!Contains(block) && tokens.Length > 0, "a block is in the tree once");
        Debug.Assert(parent == None || _counts[parent] == _blockSize, "a parent is full and in the tree");
        tokens.CopyTo(_tokens.AsSpan(block * _blockSize));
        _counts[block] = tokens.Length;
        _parents[block] = parent;
        _roots[block] = root;
        _chains[block] = chain;
        ref int first = ref _firstChildren[Children(root, parent)];
        _nextSiblings[block] = first;
        _previousSiblings[block] = None;
        if (first != None) _previousSiblings[first] = block;
        first = block;
        Count++;
        if (tokens.Length < _blockSize) return;
        ref int bucket = ref _buckets[Bucket(chain)];
        _nextInBucket[block] = bucket;
        bucket = block;
        Volatile.Write(ref Known(chain), chain);
        if (root == UInt128.Zero) _events?.Stored(block, chain, parent == None ? null : _chains[parent], tokens);
    }

    /// <summary>Takes a block without children out of the tree.</summary>
    public void Remove(int block)
    {
        Debug.Assert(IsLeaf(block), "children go before their parent");
        int next = _nextSiblings[block], previous = _previousSiblings[block];
        if (next != None) _previousSiblings[next] = previous;
        if (previous != None) _nextSiblings[previous] = next;
        else _firstChildren[Children(_roots[block], _parents[block])] = next;
        if (_counts[block] == _blockSize)
        {
            ref int link = ref _buckets[Bucket(_chains[block])];
            while (link != block) link = ref _nextInBucket[link];
            link = _nextInBucket[block];
            if (Known(_chains[block]) == _chains[block]) Volatile.Write(ref Known(_chains[block]), 0);
            _events?.Removed(block);
        }
        _counts[block] = 0;
        Count--;
    }

    /// <summary>Whether no block in the tree follows this one.</summary>
    public bool IsLeaf(int block) => _firstChildren[block] == None;

    /// <summary>Forgets everything.</summary>
    public void Clear()
    {
        Array.Clear(_counts);
        Array.Fill(_firstChildren, None);
        Array.Fill(_buckets, None);
        Array.Clear(_known);
        if (Count > 0) _events?.Cleared();
        Count = 0;
    }

    /// <summary>The hashes of the full blocks under the root of no salt.</summary>
    public IEnumerable<ulong> Told() => Enumerable.Range(0, _counts.Length)
        .Where(block => _counts[block] == _blockSize && _roots[block] == UInt128.Zero).Select(block => _chains[block]);

    /// <summary>The first contradiction in the tree, or null.</summary>
    public string? CheckIntegrity()
    {
        int counted = 0;
        for (int block = 0; block < _counts.Length; block++)
        {
            if (_counts[block] == 0)
            {
                if (_firstChildren[block] != None) return $"block {block} has children and is not cached";
                continue;
            }
            counted++;
            int parent = _parents[block];
            if (parent != None && _counts[parent] != _blockSize) return $"cached block {block} has no parent {parent}";
            if (_counts[block] == _blockSize
                && Find(_roots[block], parent, _chains[block], TokensOf(block)) != block)
                return $"cached block {block} is not found by its tokens";
        }
        return counted == Count ? null : $"{counted} blocks are cached, {Count} were counted";
    }

    private Span<int> TokensOf(int block) => _tokens.AsSpan(block * _blockSize, _counts[block]);

    private int Bucket(ulong chain) => (int)(chain & (uint)(_buckets.Length - 1));

    private ref ulong Known(ulong chain) => ref _known[chain & (uint)(_known.Length - 1)];

    private int Children(UInt128 root, int parent) => parent != None ? parent : _counts.Length + Bucket(ChainOf(root));
}
