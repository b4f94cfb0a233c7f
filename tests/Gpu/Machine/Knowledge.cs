namespace Native.Tests.Gpu.Machine;

/// <summary>Who did something in a kernel: 20 bits of the block and 11 of the thread, or of several threads at once:
/// 1024 + w are those of warp w, <see cref="Block"/> all of a block; behind it are copies of the copy engine.</summary>
internal static class Who
{
    public const int CodeBits = 11;

    public const uint Warp = 1024, Block = 1056, FirstCopy = 1057, Copies = 256, Everybody = 0x7fff_ffff;

    private const uint CodeMask = (1 << CodeBits) - 1;

    public static uint Of(int block, uint code) => (uint)block << CodeBits | code;

    public static uint BlockOf(uint who) => who >> CodeBits;

    public static uint CodeOf(uint who) => who & CodeMask;

    /// <summary>The code of the warp of a thread, or of itself.</summary>
    public static uint WarpOf(uint who) => CodeOf(who) is < Warp and uint thread ? Warp + thread / 32 : CodeOf(who);

    /// <summary>The least that contains both.</summary>
    public static uint Join(uint a, uint b)
    {
        if (a == b) return a;
        if (a == Everybody || b == Everybody || BlockOf(a) != BlockOf(b)) return Everybody;
        return WarpOf(a) == WarpOf(b) ? a & ~CodeMask | WarpOf(a) : a & ~CodeMask | Block;
    }
}

/// <summary>What is known to have happened before: for threads, warps and blocks the time up to which all that they did
/// is ordered before whoever knows this. A sparse vector clock (Flanagan and Freund 2009, FastTrack); barriers of whole
/// blocks and warps need none.</summary>
internal sealed class Knowledge
{
    private readonly Dictionary<uint, uint> _times = [];

    public Knowledge Copy()
    {
        Knowledge copy = new();
        copy.Add(this);
        return copy;
    }

    public void Add(uint who, uint time)
    {
        if (!_times.TryGetValue(who, out uint known) || known < time) _times[who] = time;
    }

    public void Add(Knowledge? other)
    {
        if (other is null || ReferenceEquals(other, this)) return;
        foreach ((uint who, uint time) in other._times) Add(who, time);
    }

    /// <summary>Whether what <paramref name="who"/> did at a time is ordered before. Those who stand for several are,
    /// if all are: of a block the <paramref name="threads"/>, of everybody the <paramref name="blocks"/>.</summary>
    public bool Covers(uint who, uint time, int threads, int blocks)
    {
        if (_times.TryGetValue(who, out uint known) && known >= time) return true;
        if (who == Who.Everybody)
        {
            for (int block = 0; block < blocks; block++)
                if (!Covers(Who.Of(block, Who.Block), time, threads, blocks)) return false;
            return true;
        }
        uint code = Who.CodeOf(who);
        int number = (int)Who.BlockOf(who);
        if (code < Who.Warp)
            return Covers(Who.Of(number, Who.Warp + code / 32), time, threads: 0, blocks);
        if (code < Who.Block)
        {
            if (_times.TryGetValue(Who.Of(number, Who.Block), out known) && known >= time) return true;
            if (threads == 0) return false; // asked for a thread that is not known itself
            uint first = (code - Who.Warp) * 32;
            for (uint thread = first; thread < Math.Min(first + 32, threads); thread++)
                if (!_times.TryGetValue(Who.Of(number, thread), out known) || known < time) return false;
            return true;
        }
        if (code >= Who.FirstCopy) return false;
        for (uint warp = 0; warp * 32 < threads; warp++)
            if (!Covers(Who.Of(number, Who.Warp + warp), time, threads, blocks)) return false;
        return threads > 0;
    }
}
