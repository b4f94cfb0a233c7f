namespace Native.Kernels.Text;

/// <summary>Pairs of symbols that join, each with its rank (lower joins first) and its result.</summary>
internal sealed class MergeTable
{
    private readonly Dictionary<Pair, Merge> _merges;

    public MergeTable(int capacity) => _merges = new Dictionary<Pair, Merge>(capacity);

    public int Count => _merges.Count;

    /// <summary>False if the pair has a merge already. The earlier one stays.</summary>
    public bool TryAdd(int left, int right, int rank, int result) =>
        _merges.TryAdd(new Pair(left, right), new Merge(rank, result));

    public bool TryGet(int left, int right, out Merge merge) => _merges.TryGetValue(new Pair(left, right), out merge);

    internal readonly record struct Merge(int Rank, int Result);

    private readonly record struct Pair(int Left, int Right)
    {
        // Seeded per process, so that a file can't choose pairs that collide.
        public override int GetHashCode() => HashCode.Combine(Left, Right);
    }
}
